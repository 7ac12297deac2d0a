package trustpolicy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is a mistake in a policy.
type Problem struct {
	Kind      Kind
	Statement int    // from 1; 0 for the policy as a whole
	Line      int    // from 1
	Text      string // what is wrong, and what would be right

	cause string // where several problems have one, it is the same; may be empty
	whom  string // whom the statement is for, if it is for somebody else
	wrong string // of a provider: what is wrong, without what would be right
}

// Kind is the kind of a [Problem].
type Kind string

// The kinds. The last three allow too much, the others too little.
const (
	WrongAction      Kind = "PolicyAction"       // Action is another one, most often sts:AssumeRole
	WrongProvider    Kind = "PolicyFederated"    // Principal.Federated is not a provider's ARN, or not this issuer's
	WrongAccount     Kind = "PolicyAccount"      // the provider is in another account or partition than the role
	WrongOperator    Kind = "PolicyOperator"     // IAM has no such operator, or it cannot compare this key
	WrongKey         Kind = "PolicyConditionKey" // the condition is on a key that the request does not have
	LiteralWildcard  Kind = "PolicyWildcard"     // StringEquals with * or ?, which it takes literally
	WrongCase        Kind = "PolicyCase"         // only upper and lower case differ
	Invisible        Kind = "PolicyInvisible"    // only characters that are not shown differ
	Placeholder      Kind = "PolicyPlaceholder"  // a placeholder was never filled in
	WrongSubject     Kind = "PolicySubject"      // the condition on sub is for another subject
	WrongAudience    Kind = "PolicyAudience"     // the condition on aud is for another audience
	OtherCondition   Kind = "PolicyCondition"    // a condition on something else is not met, or only AWS knows
	Denied           Kind = "PolicyDeny"         // a Deny applies, or only AWS knows
	NothingFederated Kind = "PolicyNoStatement"  // no statement is about web identity
	OtherRole        Kind = "PolicyRole"         // the policy is another role's
	NotAPolicy       Kind = "PolicyMalformed"    // it cannot be read as a policy; Parse fails
	MissingAudience  Kind = "PolicyNoAudience"   // allows tokens for every audience of the provider
	MissingSubject   Kind = "PolicyNoSubject"    // allows every service account of the cluster
	AnyPrincipal     Kind = "PolicyAnyone"       // Principal is *
)

// TooBroad reports whether the mistake allows too much rather than too little.
func (k Kind) TooBroad() bool {
	return k == MissingAudience || k == MissingSubject || k == AnyPrincipal
}

// Review says why the policy does not allow the identity, or what it allows beyond it. Of the statements that do not allow
// it only the nearest is explained: the others are for somebody else. What only AWS can tell is a problem if everything
// else holds.
func (p *Policy) Review(id Identity) (problems []Problem) {
	allowed := no
	for i, s := range p.Statements {
		problems = append(problems, numbered(s.invalidOperators(), i)...)
		if s.Deny && s.applies(id) == yes {
			problems = append(problems, numbered([]Problem{s.denial(id, yes)}, i)...)
		}
		if !s.Deny {
			allowed = max(allowed, s.applies(id))
		}
	}
	denied := slices.ContainsFunc(problems, func(p Problem) bool { return p.Kind == Denied })
	if allowed != yes {
		problems = append(problems, p.explainNearest(id)...)
	}
	for i, s := range p.Statements {
		switch applies := s.applies(id); {
		case s.invalidOperators() != nil:
		case s.Deny && applies == unknown && allowed != no && !denied:
			problems = append(problems, numbered([]Problem{s.denial(id, unknown)}, i)...)
		case !s.Deny && applies == yes, !s.Deny && applies == allowed && allowed == unknown:
			problems = append(problems, numbered(p.beyond(s, id), i)...)
		}
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

// stranger is in no list of anybody, as it is no name.
const stranger = "~stranger~"

// tooBroad returns what a statement that allows the identity allows beyond it.
func (s *Statement) tooBroad(id Identity) (problems []Problem) {
	return (&Policy{Statements: []*Statement{s}}).beyond(s, id)
}

// beyond returns what a statement allows beyond the identity, unless the policy denies it.
func (p *Policy) beyond(s *Statement, id Identity) (problems []Problem) {
	lets := func(other Identity) bool { return s.applies(other) == s.applies(id) && !p.denies(other) }
	if s.anyone {
		problems = append(problems, Problem{Kind: AnyPrincipal, Line: s.principalAt, Text: `Principal "*" trusts every identity provider: use Federated ` + id.ProviderARN()})
	}
	other := id
	other.Audience = stranger
	if lets(other) {
		problems = append(problems, Problem{Kind: MissingAudience, Line: s.Line,
			Text: fmt.Sprintf("no condition on the audience: tokens for every client ID of the provider are allowed; add %q: %q", id.Provider()+":aud", id.Audience)})
	}
	other = id
	other.Subject = "system:serviceaccount:" + stranger + ":" + stranger
	if lets(other) {
		problems = append(problems, Problem{Kind: MissingSubject, Line: s.Line,
			Text: fmt.Sprintf("no condition on the subject: every service account of the cluster is allowed; add %q: %q", id.Provider()+":sub", id.Subject)})
	}
	return problems
}

// denies reports whether a Deny applies for certain.
func (p *Policy) denies(id Identity) bool {
	return slices.ContainsFunc(p.Statements, func(s *Statement) bool { return s.Deny && s.applies(id) == yes })
}

// denial says which condition makes a Deny apply, or may make it.
func (s *Statement) denial(id Identity, applies truth) Problem {
	problem := Problem{Kind: Denied, Line: s.Line, Text: "denies the request, whatever else allows it"}
	if s.notPrincipal {
		problem.Line = s.principalAt
		problem.Text = "denies the request, whatever else allows it: NotPrincipal does not name " + id.ProviderARN()
	}
	var reasons []string
	for _, c := range s.conditions {
		if c.holds(id) != applies {
			continue
		}
		if len(reasons) == 0 {
			problem.Line = c.key.line
		}
		reasons = append(reasons, c.text()+c.actual(id))
	}
	switch {
	case len(reasons) == 0:
	case applies == unknown:
		problem.Text = fmt.Sprintf("denies the request if %s, which only AWS can tell; this may be intentional", strings.Join(reasons, " and "))
	default:
		problem.Text = fmt.Sprintf("denies the request, because %s; this may be intentional", strings.Join(reasons, " and "))
	}
	return problem
}

// explainNearest explains why the nearest statement does not allow the identity.
func (p *Policy) explainNearest(id Identity) []Problem {
	nearest, least, candidates := -1, 0, 0
	for i, s := range p.Statements {
		if s.Deny || !s.aboutWebIdentity() {
			continue
		}
		candidates++
		if d := s.distance(id); nearest < 0 || d < least {
			nearest, least = i, d
		}
	}
	if nearest < 0 {
		return []Problem{{Kind: NothingFederated, Line: p.Statements[0].Line,
			Text: "no statement is about web identity: add one with Principal.Federated and " + Action}}
	}
	problems := numbered(p.Statements[nearest].review(id), nearest)
	if candidates == 1 || len(problems) == 0 {
		return problems
	}
	// A statement for somebody else is not to be changed, whatever else would have to be.
	for _, problem := range problems {
		place := fmt.Sprintf("the nearest is statement %d, line %d: it is for %s", nearest+1, p.Statements[nearest].Line, quote(problem.whom))
		switch problem.cause {
		case otherProvider:
			problem.Text = fmt.Sprintf("no statement is for this cluster's provider; %s; add one with Federated %s", place, id.ProviderARN())
		case otherSubject:
			problem.Text = fmt.Sprintf("no statement is for this service account; %s; add one for %q, or add it to a list", place, id.Subject)
		default:
			continue
		}
		problem.Statement = 0
		return []Problem{problem}
	}
	return problems
}

// distance is how far a statement is from one that allows the identity. The scale has no unit: it only ranks statements.
func (s *Statement) distance(id Identity) (far int) {
	other := s.principal(id) == no
	if other {
		var d difference
		_, d, far = s.nearestProvider(id)
		if d.cause == otherProvider {
			far += foreignProvider
		}
		if slices.ContainsFunc(s.conditions, func(c condition) bool { _, present, _ := id.context(c.key.text); return present && c.isClaim() }) {
			far = min(far, 1) // its keys are of this provider
		}
		if s.misnamed(id) != nil {
			far = 1
		}
	}
	if s.action() == no {
		far++
		if other && slices.ContainsFunc(s.actions, func(v value) bool { return strings.Contains(strings.ToLower(v.text), "saml") }) {
			far += unrelated
		}
	}
	for _, c := range s.conditions {
		if c.holds(id) != no {
			continue
		}
		far++
		if _, claim := c.split(); strings.EqualFold(claim, "sub") && !c.isNegative() {
			nearest := unrelated
			for _, v := range c.values {
				nearest = min(nearest, subjectDistance(v.text, id.Subject))
			}
			far += nearest
		}
	}
	return far
}

// review says why a statement does not apply.
func (s *Statement) review(id Identity) (problems []Problem) {
	also := make(map[int][]string) // the lines that have the mistake of a problem too
	add := func(p Problem) {
		if i := slices.IndexFunc(problems, func(earlier Problem) bool { return p.cause != "" && p.cause == earlier.cause }); i >= 0 {
			also[i] = append(also[i], fmt.Sprint(p.Line))
			return
		}
		problems = append(problems, p)
	}
	if s.principal(id) == no {
		problem := s.explainPrincipal(id)
		if problem.cause == otherProvider && s.keysAreOf(id) {
			problem.cause = "" // it is meant for this one
		}
		if problem.cause == otherProvider {
			problem.Text = fmt.Sprintf("%s; no statement is for this cluster's provider: add one with Federated %s", problem.wrong, id.ProviderARN())
			return []Problem{problem}
		}
		add(problem)
	}
	if s.action() == no {
		add(s.explainAction())
	}
	sure := len(problems) > 0 || slices.ContainsFunc(s.conditions, func(c condition) bool { return c.holds(id) == no })
	for _, c := range s.conditions {
		if holds := c.holds(id); holds == no || holds == unknown && !sure && c.isValid() {
			add(c.explain(id))
		}
	}
	for i, lines := range also {
		lines = slices.DeleteFunc(lines, func(line string) bool { return line == fmt.Sprint(problems[i].Line) })
		if len(lines) == 0 {
			continue
		}
		problems[i].Text += "; the same on line " + strings.Join(lines, " and line ")
	}
	return problems
}

// explainAction says why Action is not the one that is needed.
func (s *Statement) explainAction() Problem {
	names := make([]string, len(s.actions))
	for i, a := range s.actions {
		names[i] = a.text
		switch d, found := unseen(a.text, Action); {
		case s.notAction:
		case found && d.far == misspelt:
			return Problem{Kind: d.kind, Line: a.line, Text: fmt.Sprintf("Action %s: it must be %s", d.text, Action)}
		case isOneEdit(a.text, Action):
			return Problem{Kind: WrongAction, Line: a.line, Text: fmt.Sprintf("Action %s: it must be %s", oneEdit(a.text, Action), Action)}
		}
	}
	element, must := "Action", Action
	if s.notAction {
		element, must = "NotAction", "Action with "+Action
	}
	return Problem{Kind: WrongAction, Line: s.actions[0].line, Text: fmt.Sprintf("%s is %s: it must be %s", element, quoted(names), must)}
}

// keysAreOf reports whether a condition is on a claim of the identity's provider.
func (s *Statement) keysAreOf(id Identity) bool {
	return slices.ContainsFunc(s.conditions, func(c condition) bool {
		provider, _ := c.split()
		return strings.EqualFold(provider, id.Provider())
	})
}

// invalidOperators returns the operators that IAM does not have. IAM refuses the whole policy because of one.
func (s *Statement) invalidOperators() (problems []Problem) {
	last := 0
	for _, c := range s.conditions {
		if c.isValid() || c.operator.start == last && last > 0 {
			continue
		}
		last = c.operator.start
		problems = append(problems, Problem{Kind: WrongOperator, Line: c.operator.line, Text: explainOperator(c.operator.text)})
	}
	return problems
}

// explainPrincipal says why Principal is not the provider.
func (s *Statement) explainPrincipal(id Identity) Problem {
	switch {
	case s.notPrincipal:
		return Problem{Kind: WrongProvider, Line: s.principalAt, Text: "NotPrincipal excludes the provider: use Principal with Federated " + id.ProviderARN()}
	case s.misnamed(id) != nil:
		name := s.misnamed(id)
		return Problem{Kind: WrongProvider, Line: name.line, Text: "the provider is in AWS, which is for accounts, users and roles: it must be in Federated"}
	case s.federated == nil:
		return Problem{Kind: WrongProvider, Line: s.principalAt, Text: "Principal has no Federated: it must be " + id.ProviderARN()}
	}
	nearest, d, _ := s.nearestProvider(id)
	wrong := "Federated " + cmp.Or(d.text, "is "+quote(nearest.text))
	return Problem{Kind: d.kind, Line: nearest.line, cause: d.cause, whom: nearest.text, wrong: wrong, Text: wrong + ": it must be " + id.ProviderARN()}
}

// nearestProvider returns the provider of the statement that is most like the identity's, and how it differs.
func (s *Statement) nearestProvider(id Identity) (nearest value, d difference, far int) {
	far = unrelated
	for i, v := range s.federated {
		this := compareARN(v.text, id)
		if i == 0 || this.far < far {
			nearest, d, far = v, this, this.far
		}
	}
	return nearest, d, far
}
