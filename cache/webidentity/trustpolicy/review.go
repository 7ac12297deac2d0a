package trustpolicy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Problem is a line of a policy that does not say what it should.
type Problem struct {
	Kind      Kind
	Statement int    // from 1; 0 for the policy as a whole
	Line      int    // from 1
	Text      string // what is there, and what would be right
}

// Kind is what sort of mistake a [Problem] is.
type Kind string

// The mistakes that let nobody in.
const (
	WrongAction      Kind = "PolicyAction"       // Action is another, most often sts:AssumeRole
	WrongProvider    Kind = "PolicyFederated"    // Principal.Federated is no provider's ARN, or not this issuer's
	WrongAccount     Kind = "PolicyAccount"      // the provider is sought in another account than the role's, or in another partition
	WrongKey         Kind = "PolicyConditionKey" // the condition is on a key that the request does not have
	LiteralWildcard  Kind = "PolicyWildcard"     // StringEquals with * or ?, which it takes literally
	WrongCase        Kind = "PolicyCase"         // right but for upper and lower case
	WrongSubject     Kind = "PolicySubject"      // the condition on sub is for somebody else
	WrongAudience    Kind = "PolicyAudience"     // the condition on aud is for another audience
	OtherCondition   Kind = "PolicyCondition"    // a condition that is about something else does not hold, or only AWS knows
	Denied           Kind = "PolicyDeny"         // a Deny applies
	NothingFederated Kind = "PolicyNoStatement"  // no statement is about web identity
	NotAPolicy       Kind = "PolicyMalformed"    // it cannot be read as a policy
	MissingAudience  Kind = "PolicyNoAudience"   // lets in tokens for every audience that the provider has
	MissingSubject   Kind = "PolicyNoSubject"    // lets in every service account of the cluster
	AnyPrincipal     Kind = "PolicyAnyone"       // Principal is *
)

// Lax reports whether the mistake lets in too many, rather than too few.
func (k Kind) Lax() bool {
	return k == MissingAudience || k == MissingSubject || k == AnyPrincipal
}

// Review holds the policy against what would let the identity in, statement by statement. Statements
// about others, and about other subjects of the same cluster beside one that fits, are passed over.
func (p *Policy) Review(id Identity) (problems []Problem) {
	var near bool
	for i, s := range p.Statements {
		if s.applies(id) == yes {
			found := s.lax(id)
			if s.Deny {
				found = []Problem{{Kind: Denied, Line: s.Line, Text: "denies what is asked, whatever else allows it"}}
			}
			near = true
			problems = append(problems, numbered(found, i)...)
		}
	}
	if p.Decide(id) == Allowed || slices.ContainsFunc(problems, func(p Problem) bool { return p.Kind == Denied }) {
		return problems
	}
	for i, s := range p.Statements {
		if s.Deny && s.applies(id) == no || !s.aboutWebIdentity() {
			continue
		}
		near = true
		problems = append(problems, numbered(s.review(id), i)...)
	}
	if !near {
		problems = append(problems, Problem{Kind: NothingFederated, Line: p.Statements[0].Line,
			Text: "no statement is about web identity: one with Principal.Federated and " + Action + " is missing"})
	}
	return problems
}

func numbered(problems []Problem, index int) []Problem {
	for i := range problems {
		problems[i].Statement = index + 1
	}
	return problems
}

func (s *Statement) aboutWebIdentity() bool {
	return s.federated != nil || s.anyone || slices.ContainsFunc(s.actions, func(v value) bool { return strings.EqualFold(v.text, Action) })
}

// lax is what a statement that lets the identity in leaves open to others.
func (s *Statement) lax(id Identity) (problems []Problem) {
	if s.anyone {
		problems = append(problems, Problem{Kind: AnyPrincipal, Line: s.principalAt, Text: `Principal "*" trusts every identity provider: name ` + id.ProviderARN()})
	}
	bound := func(claim string) bool {
		return slices.ContainsFunc(s.conditions, func(c condition) bool {
			return strings.EqualFold(c.key.text, id.Provider()+":"+claim) && !strings.Contains(c.operator.text, "Not") && c.operator.text != "Null" &&
				!slices.ContainsFunc(c.values, func(v value) bool {
					return strings.Trim(v.text, "*") == "" && strings.HasPrefix(c.operator.text, "StringLike")
				})
		})
	}
	if !bound("aud") {
		problems = append(problems, Problem{Kind: MissingAudience, Line: s.Line,
			Text: fmt.Sprintf("no condition binds the audience: tokens for every client ID of the provider are let in; add %q: %q", id.Provider()+":aud", id.Audience)})
	}
	if !bound("sub") {
		problems = append(problems, Problem{Kind: MissingSubject, Line: s.Line,
			Text: fmt.Sprintf("no condition binds the subject: every service account of the cluster is let in; add %q: %q", id.Provider()+":sub", id.Subject)})
	}
	return problems
}

// review says why a statement does not apply.
func (s *Statement) review(id Identity) (problems []Problem) {
	add := func(kind Kind, line int, format string, args ...any) {
		problems = append(problems, Problem{Kind: kind, Line: line, Text: fmt.Sprintf(format, args...)})
	}
	if s.principal(id) == no {
		switch {
		case s.notPrincipal:
			add(WrongProvider, s.principalAt, "NotPrincipal leaves out the provider: use Principal, with Federated %s", id.ProviderARN())
		case s.federated == nil:
			add(WrongProvider, s.principalAt, "Principal has no Federated: it must be %s", id.ProviderARN())
		default:
			nearest := slices.MinFunc(s.federated, func(a, b value) int {
				return distance(a.text, id.ProviderARN()) - distance(b.text, id.ProviderARN())
			})
			kind, text := compareProvider(nearest.text, id)
			add(kind, nearest.line, "%s", text)
		}
	}
	if s.action() == no {
		line := s.Line
		names := make([]string, len(s.actions))
		for i, a := range s.actions {
			names[i], line = a.text, s.actions[0].line
		}
		add(WrongAction, line, "Action is %s: it must be %s", strings.Join(names, ", "), Action)
	}
	for _, c := range s.conditions {
		if c.holds(id) != yes {
			kind, text := c.explain(id)
			add(kind, c.key.line, "%s", text)
		}
	}
	return problems
}

var providerARN = regexp.MustCompile(`^arn:([a-z0-9-]+):iam::(\d{12}):oidc-provider/(.+)$`)

// swapped is what people write for oidc.eks.<region>: the AWS console names services the other way round.
var swapped = regexp.MustCompile(`^oidc\.([a-z0-9-]+)\.eks\.`)

// compareProvider says how Principal.Federated differs from what it must be.
func compareProvider(got string, id Identity) (Kind, string) {
	want := id.ProviderARN()
	must := fmt.Sprintf("Federated is %s: it must be %s", got, want)
	parts := providerARN.FindStringSubmatch(got)
	switch {
	case parts == nil && strings.Contains(got, "://"):
		return WrongProvider, must + ", without https://"
	case parts == nil && strings.Contains(got, id.Provider()):
		return WrongProvider, must + ", an ARN"
	case parts == nil:
		return WrongProvider, must
	}
	partition, provider := parts[1], parts[3]
	switch {
	case strings.EqualFold(got, want):
		return WrongCase, must + ", in that spelling"
	case strings.TrimSuffix(provider, "/") == id.Provider():
		if provider != id.Provider() {
			return WrongProvider, must + ", without the slash at its end"
		}
		if partition != id.Partition {
			return WrongAccount, must + ": the role is in the partition " + id.Partition
		}
		return WrongAccount, must + ": the provider must be in the role's account, also for a cluster of another account"
	case swapped.MatchString(provider):
		return WrongProvider, must + ": oidc.eks.<region>, not oidc.<region>.eks"
	case strings.Contains(provider, "://"):
		return WrongProvider, must + ", without https://"
	case host(provider) == host(id.Provider()):
		return WrongProvider, must + ": this one is of another cluster"
	}
	return WrongProvider, must
}

func host(provider string) string {
	h, _, _ := strings.Cut(provider, "/")
	return h
}

// split takes a key such as <provider>:sub apart.
func (c *condition) split() (provider, claim string) {
	colon := strings.LastIndexByte(c.key.text, ':')
	return c.key.text[:max(0, colon)], c.key.text[colon+1:]
}

// explain says why a condition does not hold.
func (c *condition) explain(id Identity) (Kind, string) {
	provider, claim := c.split()
	want := map[string]string{"aud": id.Audience, "sub": id.Subject}[strings.ToLower(claim)]
	here := c.operator.text + " " + c.key.text
	_, present, known := id.context(c.key.text)
	switch {
	case !known:
		return OtherCondition, here + ": whether it holds, only AWS can say"
	case !present && want != "":
		right := id.Provider() + ":" + strings.ToLower(claim)
		switch {
		case swapped.MatchString(c.key.text):
			return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s, oidc.eks.<region>, not oidc.<region>.eks", c.key.text, right)
		case strings.Contains(c.key.text, "://"):
			return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s, without https://", c.key.text, right)
		case strings.HasPrefix(right, host(provider)):
			return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s, the whole issuer and not the host alone or another cluster's", c.key.text, right)
		}
		return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s", c.key.text, right)
	case !present:
		return WrongKey, fmt.Sprintf("the condition's key is %s, which no web identity has: %s:aud and %s:sub are what it has", c.key.text, id.Provider(), id.Provider())
	case strings.Contains(c.operator.text, "Not") || want == "":
		return OtherCondition, here + " excludes the token"
	}
	kind := map[string]Kind{"aud": WrongAudience, "sub": WrongSubject}[strings.ToLower(claim)]
	got := make([]string, len(c.values))
	for i, v := range c.values {
		got[i] = v.text
		switch {
		case strings.HasPrefix(c.operator.text, "StringEquals") && strings.ContainsAny(v.text, "*?") && like(v.text, want):
			return LiteralWildcard, fmt.Sprintf("%s has %q, and %s takes * and ? literally: write %q, or use StringLike", c.key.text, v.text, c.operator.text, want)
		case strings.EqualFold(v.text, want):
			return WrongCase, fmt.Sprintf("%s must be %q, in that spelling, and is %q", c.key.text, want, v.text)
		}
	}
	if (strings.HasPrefix(got[0], "system:serviceaccount:") && claim == "aud") || (slices.Contains(got, id.Audience) && claim == "sub") {
		return kind, fmt.Sprintf("%s must be %q, and is %s: aud and sub have changed places", c.key.text, want, quoted(got))
	}
	return kind, fmt.Sprintf("%s must be %q as the token has it, and is %s", c.key.text, want, quoted(got))
}

func quoted(texts []string) string {
	all := make([]string, len(texts))
	for i, t := range texts {
		all[i] = fmt.Sprintf("%q", t)
	}
	return strings.Join(all, ", ")
}

// distance tells near from far: what two texts have in common at their ends counts, whatever is between.
func distance(a, b string) int {
	common := 0
	for common < min(len(a), len(b)) && a[common] == b[common] {
		common++
	}
	tail := 0
	for tail < min(len(a), len(b))-common && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	return max(len(a), len(b)) - common - tail
}

// Mend returns the policy, in JSON of several lines, with a statement that lets the identity in and
// with all that it says of others. Only a statement that is about this identity alone, or lets in too
// many, is replaced. What is denied stays denied.
func (p *Policy) Mend(id Identity) []byte {
	statements := make([]json.RawMessage, 0, len(p.Statements)+1)
	right := slices.IndexFunc(p.Statements, func(s *Statement) bool { return s.allows(id) && len(s.lax(id)) == 0 })
	placed := right >= 0
	for _, s := range p.Statements {
		if !s.replaceable(id) {
			statements = append(statements, s.raw)
		} else if !placed {
			statements = append(statements, id.Statement())
			placed = true
		}
	}
	if !placed && p.Decide(id) != Allowed {
		statements = append(statements, id.Statement())
	}
	return document(statements)
}

func (s *Statement) allows(id Identity) bool { return !s.Deny && s.applies(id) == yes }

// replaceable reports whether a statement is meant for this identity, or too well, and for nobody else
// who would be shut out if it went.
func (s *Statement) replaceable(id Identity) bool {
	if s.Deny || s.others || s.notPrincipal || s.notAction || len(s.actions) > 1 || len(s.federated) > 1 || !s.aboutWebIdentity() {
		return false
	}
	applies := s.applies(id) == yes
	if applies && len(s.lax(id)) == 0 {
		return false
	}
	meant := applies
	for _, c := range s.conditions {
		if len(c.values) > 1 {
			return false
		}
		v := c.values[0].text
		switch {
		case strings.HasPrefix(c.operator.text, "StringLike") && strings.ContainsAny(v, "*?"):
			return false
		case strings.EqualFold(v, id.Subject), strings.HasPrefix(c.operator.text, "StringEquals") && strings.ContainsAny(v, "*?") && like(v, id.Subject):
			meant = true
		case !strings.EqualFold(v, id.Audience) && strings.Contains(v, "system:serviceaccount:"):
			return false
		}
	}
	return meant
}
