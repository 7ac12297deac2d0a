package trustpolicy

import (
	"slices"
	"strings"
	"time"
)

// who is somebody who may ask, the principal that the provider is, and what is asked for.
type who struct {
	Identity
	federated, action string
}

// proved reports whether a policy lets in the identity and, under the same conditions, all whom the old one lets in and
// nobody else. Its statement at the index edited is a changed one; if that is -1, the last is a new one.
//
// A condition that is not about a token may be met or not, and is the same in both policies. Only the statements that differ
// are compared: the others, and every Deny, are the same in both.
func proved(old, changed *Policy, id Identity, edited int) bool {
	if !kept(old, changed, id, edited) || changed.Decide(id) == Refused || !letIn(changed, who{id, id.ProviderARN(), Action}) {
		return false
	}
	// What is known of this request says nothing about the others'.
	id.SessionName, id.Region, id.Now = "", "", time.Time{}
	after := changed.Statements[len(changed.Statements)-1]
	var before []*Statement
	if edited >= 0 {
		after, before = changed.Statements[edited], old.Statements[edited:edited+1]
	}
	differ := append([]*Statement{after}, before...)
	if slices.ContainsFunc(differ, (*Statement).intersects) {
		return false
	}
	everybody := universe(id, differ)
	for _, w := range slices.Concat(everybody, otherwise(everybody, differ)) {
		then, now := terms(before, w), terms([]*Statement{after}, w)
		self := w.federated == id.ProviderARN() && w.Audience == id.Audience && w.Subject == id.Subject
		if !implies(then, now) || !self && !implies(now, then) {
			return false
		}
	}
	return len(everybody) > 0
}

// intersects reports whether two conditions have patterns for one key: who matches both is not in the universe.
func (s *Statement) intersects() bool {
	has := make(map[string]bool)
	for i := range s.conditions {
		c := &s.conditions[i]
		o, _ := parseOperator(c.operator.text)
		if foreign(c.key.text) || o.negative || !o.wildcards || !slices.ContainsFunc(c.values, func(v value) bool { return strings.ContainsAny(v.text, "*?") }) {
			continue
		}
		key := strings.ToLower(c.key.text)
		if has[key] {
			return true
		}
		has[key] = true
	}
	return false
}

// otherwise returns the same people who ask for what a web identity may need besides, as far as the statements are about it.
func otherwise(everybody []who, statements []*Statement) (all []who) {
	for _, action := range otherActions {
		if !slices.ContainsFunc(statements, func(s *Statement) bool { return s.covers(action) == yes }) {
			continue
		}
		for _, w := range everybody {
			w.action = action
			all = append(all, w)
		}
	}
	return all
}

// letIn reports whether some outcome of the conditions that only AWS can evaluate lets somebody in.
func letIn(p *Policy, w who) bool {
	var denied [][]string
	for _, s := range p.Statements {
		if term, ok := s.term(w); s.Deny && ok {
			denied = append(denied, term)
		}
	}
	return slices.ContainsFunc(terms(p.Statements, w), func(term []string) bool { return !implies([][]string{term}, denied) })
}

// terms returns what the statements that allow somebody depend on.
func terms(statements []*Statement, w who) (all [][]string) {
	for _, s := range statements {
		if term, ok := s.term(w); !s.Deny && ok {
			all = append(all, term)
		}
	}
	return all
}

// implies reports whether, wherever all of one of the terms a hold, all of one of the terms b do. None of them negates
// another, so that this is so only if the one has all that the other has.
func implies(a, b [][]string) bool {
	return !slices.ContainsFunc(a, func(term []string) bool {
		return !slices.ContainsFunc(b, func(weaker []string) bool {
			return !slices.ContainsFunc(weaker, func(name string) bool { return !slices.Contains(term, name) })
		})
	})
}

// term returns the conditions that are not about a token, by their text, if everything else in the statement applies.
func (s *Statement) term(w who) (open []string, ok bool) {
	named := s.anyone || slices.ContainsFunc(s.federated, func(v value) bool { return v.text == w.federated })
	if named == s.notPrincipal || s.covers(w.action) != yes {
		return nil, false
	}
	for i := range s.conditions {
		name, met := s.conditions[i].term(w.Identity)
		if met == no {
			return nil, false
		}
		if met == unknown {
			open = append(open, name)
		}
	}
	return open, true
}

// term is like holds, and names what is unknown: by the values that are, as others may join them.
func (c *condition) term(id Identity) (name string, met truth) {
	if !c.isValid() {
		return "", no // IAM refuses the policy
	}
	met = c.holds(id)
	if foreign(c.key.text) {
		met = unknown // even where a request with a token certainly lacks the key, no proof shall depend on it
	}
	if met != unknown {
		return "", met
	}
	name = c.operator.text + "\x00" + strings.ToLower(c.key.text)
	for _, v := range c.values {
		single := *c
		single.values = []value{v}
		if foreign(c.key.text) || single.holds(id) == unknown {
			name += "\x00" + v.text
		}
	}
	return name, unknown
}

// kept reports whether a policy still has everything that the old one has, but for what an edit may change.
func kept(old, changed *Policy, id Identity, edited int) bool {
	added := 0
	if edited < 0 {
		added = 1
	}
	if changed.invalid() != nil || len(changed.Statements) != len(old.Statements)+added || !sameMembers(old.root, changed.root, "Statement") {
		return false
	}
	for i, s := range old.Statements {
		if i != edited && !same(s.node, changed.Statements[i].node) || i == edited && !s.keptIn(changed.Statements[i], id) {
			return false
		}
	}
	return true
}

// keptIn reports whether an edited statement still has its name, its principals and all its conditions, with all their values
// but one that is nobody else's.
func (s *Statement) keptIn(changed *Statement, id Identity) bool {
	if s.Deny || len(changed.conditions) < len(s.conditions) || !sameMembers(s.node, changed.node, "Principal", "Action", "Condition") {
		return false
	}
	switch renamed := s.misnamed(id) != nil; {
	case renamed && (changed.others || len(changed.federated) != 1 || changed.federated[0].text != id.ProviderARN()):
		return false
	case renamed:
	case len(changed.federated) != len(s.federated), !sameMembers(s.node.member("Principal"), changed.node.member("Principal"), "Federated"):
		return false
	}
	for i, v := range s.federated {
		if changed.federated[i].text != v.text && !id.misspelt(v.text) {
			return false
		}
	}
	for i, v := range s.actions {
		if i >= len(changed.actions) || changed.actions[i].text != v.text && isOther(visible(v.text)) {
			return false
		}
	}
	if s.mixed(id) && len(changed.conditions) != len(s.conditions) {
		return false // nobody else has the keys of a token
	}
	for i := range s.conditions {
		c := &s.conditions[i]
		if s.mixed(id) && changed.conditions[i].operator.text != c.operator.text {
			return false
		}
		j := slices.IndexFunc(changed.conditions, func(d condition) bool { return d.operator.text == c.operator.text && d.key.text == c.key.text })
		if j < 0 {
			if foreign(c.key.text) {
				return false
			}
			continue
		}
		lost := 0
		for _, v := range c.values {
			if slices.ContainsFunc(changed.conditions[j].values, func(w value) bool { return w.text == v.text }) {
				continue
			}
			if lost++; c.isSomebody(v.text, id) {
				return false
			}
		}
		if lost > 1 || lost > 0 && foreign(c.key.text) {
			return false
		}
	}
	return true
}

// isSomebody reports whether a value may be the claim of a token that is not the identity's.
func (c *condition) isSomebody(text string, id Identity) bool {
	u := &crowd{id: id}
	if _, claim := c.split(); strings.EqualFold(visible(claim), "aud") {
		return text != id.Subject && u.mayBe(text, id.Subject)
	}
	return text != id.Subject && u.mayBe(id.Audience, text)
}

// sameMembers compares two objects without some of their members.
func sameMembers(a, b *node, but ...string) bool {
	rest := func(n *node) (kept []member) {
		if n == nil {
			return nil
		}
		return slices.DeleteFunc(slices.Clone(n.members), func(m member) bool { return slices.Contains(but, m.name.text) })
	}
	return slices.EqualFunc(rest(a), rest(b), func(m, n member) bool { return m.name.text == n.name.text && same(m.value, n.value) })
}

func same(a, b *node) bool {
	return a.kind == b.kind && a.text == b.text && sameMembers(a, b) && slices.EqualFunc(a.items, b.items, same)
}

// mostWork bounds a proof, in comparisons of a value.
const mostWork = 2_500_000

// universe returns everybody who may be told apart by the statements: every provider, audience and subject that one of them
// names, texts that its patterns match, and strangers. It is nil if these are too many, or no name is a stranger's.
func universe(id Identity, statements []*Statement) []who {
	u := &crowd{id: id}
	if u.name = unnamed(statements, id); u.name == "" {
		return nil
	}
	values := 1
	for _, s := range statements {
		u.add(s)
		for i := range s.conditions {
			values += len(s.conditions[i].values)
		}
	}
	if u.providers.size()*u.audiences.size()*u.subjects.size() > mostWork/values {
		return nil
	}
	return u.everybody()
}

// unnamed returns a name that no statement has, or begins or ends a part of a pattern with: where a text with it matches a
// pattern, it is the wildcards that match the name, so that they match every other name as well. It is longer than what a
// row of ? matches; empty if there is none.
func unnamed(statements []*Statement, id Identity) string {
	var all strings.Builder
	single := 0
	for _, s := range statements {
		for i := range s.conditions {
			c := &s.conditions[i]
			for _, v := range c.values {
				want, _ := c.expand(v.text, comparison{variables: true}, id)
				all.WriteString(strings.ToLower(v.text + "\x00" + want.String() + "\x00"))
				single = max(single, strings.Count(v.text, "?"))
			}
		}
	}
	text := all.String()
	const letters, longest = "xqzjkwvbfghpydlumcnrtsoiea0123456789", 30
	var inner []rune // which touch no wildcard
	for _, r := range letters {
		if l := string(r); !slices.ContainsFunc([]string{"*" + l, l + "*", "?" + l, l + "?"}, func(touching string) bool { return strings.Contains(text, touching) }) {
			inner = append(inner, r)
		}
	}
	for _, a := range inner {
		for _, b := range inner {
			if pair := string(a) + string(b); !strings.Contains(text, pair) {
				return strings.Repeat(pair, min(1+single/2, longest/2))
			}
		}
	}
	return ""
}

// crowd has the names that statements distinguish.
type crowd struct {
	id                             Identity
	name                           string // a stranger's
	providers, audiences, subjects set    // the providers as principals
}

// set has texts in the order in which they came.
type set struct {
	list []string
	has  map[string]bool
}

func (s *set) size() int { return len(s.list) }

func (s *set) add(texts ...string) {
	if s.has == nil {
		s.has = make(map[string]bool)
	}
	for _, text := range texts {
		if !s.has[text] {
			s.has[text] = true
			s.list = append(s.list, text)
		}
	}
}

func (u *crowd) add(s *Statement) {
	arn := "arn:" + u.id.Partition + ":iam::" + u.id.Account + ":oidc-provider/"
	u.providers.add(u.id.ProviderARN(), arn+u.name+".example")
	u.audiences.add(u.id.Audience, u.name)
	u.subjects.add(u.id.Subject, "system:serviceaccount:"+u.name+":"+u.name, u.name)
	for _, v := range s.federated {
		u.providers.add(v.text)
	}
	for i := range s.conditions {
		c := &s.conditions[i]
		if foreign(c.key.text) {
			continue
		}
		provider, claim := c.split()
		u.providers.add(arn + provider)
		for _, v := range c.values {
			texts := u.instances(v.text)
			if want, resolved := c.expand(v.text, comparison{variables: true}, u.id); resolved == yes && strings.Contains(v.text, "${") {
				texts = append(texts, u.instances(want.String())...)
			}
			if strings.EqualFold(visible(claim), "aud") {
				u.audiences.add(texts...)
			} else {
				u.subjects.add(texts...)
			}
		}
	}
}

// instances returns a value in other cases, and texts that it matches if it is a pattern.
func (u *crowd) instances(text string) []string {
	all := []string{text, strings.ToLower(text), strings.ToUpper(text)}
	if strings.ContainsAny(text, "*?") {
		x := u.name
		one := x[:1]
		for _, star := range []string{"", x, ":" + x, x + ":" + x, "system:serviceaccount:" + x + ":" + x} {
			all = append(all, strings.NewReplacer("*", star, "?", one).Replace(text))
		}
		all = append(all, strings.NewReplacer("*", x, "?", one).Replace(strings.Replace(text, "*", "system:serviceaccount:"+x, 1)))
	}
	return all
}

func (u *crowd) everybody() (all []who) {
	for _, principal := range u.providers.list {
		w := who{u.id, principal, Action}
		w.Issuer = principal
		if _, provider, ok := strings.Cut(principal, ":oidc-provider/"); ok {
			w.Issuer = "https://" + provider
		}
		if principal != u.id.ProviderARN() && u.id.misspelt(principal) {
			continue
		}
		for _, w.Audience = range u.audiences.list {
			for _, w.Subject = range u.subjects.list {
				if principal != u.id.ProviderARN() || u.mayBe(w.Audience, w.Subject) {
					all = append(all, w)
				}
			}
		}
	}
	return all
}

// mayBe reports whether a token of the identity's provider may have these claims: an API server's subjects are service
// accounts, whose names have their form, and nobody chooses an audience that only looks like another.
func (u *crowd) mayBe(audience, subject string) bool {
	if isServiceAccount(u.id.Subject) && !isServiceAccount(subject) {
		return false
	}
	return audience == u.id.Audience || audience == visible(audience) && !strings.ContainsAny(audience, "*?") && !strings.EqualFold(audience, u.id.Audience)
}
