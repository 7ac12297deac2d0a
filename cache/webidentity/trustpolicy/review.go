package trustpolicy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Problem is a mistake in a policy.
type Problem struct {
	Kind      Kind
	Statement int    // from 1; 0 for the policy as a whole
	Line      int    // from 1
	Text      string // what is wrong, and what would be right
}

// Kind is the kind of a [Problem].
type Kind string

// The kinds. The last three allow too much, the others too little.
const (
	WrongAction      Kind = "PolicyAction"       // Action is another one, most often sts:AssumeRole
	WrongProvider    Kind = "PolicyFederated"    // Principal.Federated is not a provider's ARN, or not this issuer's
	WrongAccount     Kind = "PolicyAccount"      // the provider is in another account or partition than the role
	WrongKey         Kind = "PolicyConditionKey" // the condition is on a key that the request does not have
	LiteralWildcard  Kind = "PolicyWildcard"     // StringEquals with * or ?, which it takes literally
	WrongCase        Kind = "PolicyCase"         // only upper and lower case differ
	WrongSubject     Kind = "PolicySubject"      // the condition on sub is for another subject
	WrongAudience    Kind = "PolicyAudience"     // the condition on aud is for another audience
	OtherCondition   Kind = "PolicyCondition"    // a condition on something else is not met, or only AWS knows
	Denied           Kind = "PolicyDeny"         // a Deny applies
	NothingFederated Kind = "PolicyNoStatement"  // no statement is about web identity
	NotAPolicy       Kind = "PolicyMalformed"    // it cannot be read as a policy; Parse fails
	MissingAudience  Kind = "PolicyNoAudience"   // allows tokens for every audience of the provider
	MissingSubject   Kind = "PolicyNoSubject"    // allows every service account of the cluster
	AnyPrincipal     Kind = "PolicyAnyone"       // Principal is *
)

// TooBroad reports whether the mistake allows too much rather than too little.
func (k Kind) TooBroad() bool {
	return k == MissingAudience || k == MissingSubject || k == AnyPrincipal
}

// Review compares the policy with one that allows the identity, statement by statement. If a statement allows it, those
// about other subjects are ignored.
func (p *Policy) Review(id Identity) (problems []Problem) {
	var near bool
	for i, s := range p.Statements {
		if s.applies(id) == yes {
			found := s.tooBroad(id)
			if s.Deny {
				found = []Problem{{Kind: Denied, Line: s.Line, Text: "denies the request, whatever else allows it"}}
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
			Text: "no statement is about web identity: add one with Principal.Federated and " + Action})
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

// tooBroad returns what a statement that allows the identity allows beyond it.
func (s *Statement) tooBroad(id Identity) (problems []Problem) {
	if s.anyone {
		problems = append(problems, Problem{Kind: AnyPrincipal, Line: s.principalAt, Text: `Principal "*" trusts every identity provider: use Federated ` + id.ProviderARN()})
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
			Text: fmt.Sprintf("no condition on the audience: tokens for every client ID of the provider are allowed; add %q: %q", id.Provider()+":aud", id.Audience)})
	}
	if !bound("sub") {
		problems = append(problems, Problem{Kind: MissingSubject, Line: s.Line,
			Text: fmt.Sprintf("no condition on the subject: every service account of the cluster is allowed; add %q: %q", id.Provider()+":sub", id.Subject)})
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
			add(WrongProvider, s.principalAt, "NotPrincipal excludes the provider: use Principal with Federated %s", id.ProviderARN())
		case s.federated == nil:
			add(WrongProvider, s.principalAt, "Principal has no Federated: it must be %s", id.ProviderARN())
		default:
			nearest := slices.MinFunc(s.federated, func(a, b value) int {
				return difference(a.text, id.ProviderARN()) - difference(b.text, id.ProviderARN())
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

func providerARN() *regexp.Regexp {
	return regexp.MustCompile(`^arn:([a-z0-9-]+):iam::(\d{12}):oidc-provider/(.+)$`)
}

// swapped matches a common misspelling of oidc.eks.<region>.
func swapped() *regexp.Regexp { return regexp.MustCompile(`^oidc\.([a-z0-9-]+)\.eks\.`) }

// compareProvider says how Principal.Federated differs from what it must be.
func compareProvider(got string, id Identity) (Kind, string) {
	want := id.ProviderARN()
	must := fmt.Sprintf("Federated is %s: it must be %s", got, want)
	parts := providerARN().FindStringSubmatch(got)
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
		return WrongCase, must + ", in exactly this case"
	case strings.TrimSuffix(provider, "/") == id.Provider():
		if provider != id.Provider() {
			return WrongProvider, must + ", without the slash at the end"
		}
		if partition != id.Partition {
			return WrongAccount, must + ": the role is in the partition " + id.Partition
		}
		return WrongAccount, must + ": the provider must be in the role's account, even for a cluster in another account"
	case swapped().MatchString(provider):
		return WrongProvider, must + ": oidc.eks.<region>, not oidc.<region>.eks"
	case strings.Contains(provider, "://"):
		return WrongProvider, must + ", without https://"
	case host(provider) == host(id.Provider()):
		return WrongProvider, must + ": this is another cluster's"
	}
	return WrongProvider, must
}

func host(provider string) string {
	h, _, _ := strings.Cut(provider, "/")
	return h
}

// split cuts a key such as <provider>:sub at its last colon.
func (c *condition) split() (provider, claim string) {
	colon := strings.LastIndexByte(c.key.text, ':')
	return c.key.text[:max(0, colon)], c.key.text[colon+1:]
}

// explain says why a condition is not met.
func (c *condition) explain(id Identity) (Kind, string) {
	provider, claim := c.split()
	want := map[string]string{"aud": id.Audience, "sub": id.Subject}[strings.ToLower(claim)]
	here := c.operator.text + " " + c.key.text
	_, present, known := id.context(c.key.text)
	switch {
	case !known:
		return OtherCondition, here + ": only AWS can tell whether it is met"
	case !present && want != "":
		right := id.Provider() + ":" + strings.ToLower(claim)
		switch {
		case swapped().MatchString(c.key.text):
			return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s, oidc.eks.<region>, not oidc.<region>.eks", c.key.text, right)
		case strings.Contains(c.key.text, "://"):
			return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s, without https://", c.key.text, right)
		case strings.HasPrefix(right, host(provider)):
			return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s, with the whole issuer rather than only its host or another cluster's", c.key.text, right)
		}
		return WrongKey, fmt.Sprintf("the condition's key is %s: it must be %s", c.key.text, right)
	case !present:
		return WrongKey, fmt.Sprintf("the condition's key is %s, which no web identity token provides: use %s:aud or %s:sub", c.key.text, id.Provider(), id.Provider())
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
			return WrongCase, fmt.Sprintf("%s is %q: it must be %q, in exactly this case", c.key.text, v.text, want)
		}
	}
	if (strings.HasPrefix(got[0], "system:serviceaccount:") && claim == "aud") || (slices.Contains(got, id.Audience) && claim == "sub") {
		return kind, fmt.Sprintf("%s is %s: it must be %q (aud and sub are swapped)", c.key.text, quoted(got), want)
	}
	return kind, fmt.Sprintf("%s is %s: it must be %q, as in the token", c.key.text, quoted(got), want)
}

func quoted(texts []string) string {
	all := make([]string, len(texts))
	for i, t := range texts {
		all[i] = fmt.Sprintf("%q", t)
	}
	return strings.Join(all, ", ")
}

// difference returns the length of what is left of the longer text without the beginning and the end that both share.
func difference(a, b string) int {
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

// Amend returns the policy, as indented JSON, with a statement that allows the identity and with everything it says about
// others. It replaces only statements that are about this identity alone or allow too much. What is denied stays denied.
func (p *Policy) Amend(id Identity) []byte {
	statements := make([]json.RawMessage, 0, len(p.Statements)+1)
	right := slices.IndexFunc(p.Statements, func(s *Statement) bool { return s.allows(id) && len(s.tooBroad(id)) == 0 })
	placed := right >= 0
	for _, s := range p.Statements {
		if !s.replaceable(id) {
			statements = append(statements, json.RawMessage(p.text[s.node.start:s.node.end]))
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

// replaceable reports whether a statement is meant for this identity, or allows too much, and can be replaced without
// locking anybody else out.
func (s *Statement) replaceable(id Identity) bool {
	if s.Deny || s.others || s.notPrincipal || s.notAction || len(s.actions) > 1 || len(s.federated) > 1 || !s.aboutWebIdentity() {
		return false
	}
	applies := s.applies(id) == yes
	if applies && len(s.tooBroad(id)) == 0 {
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
