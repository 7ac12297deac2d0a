package trustpolicy

import (
	"maps"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
)

// repair is what would have to change for a statement to apply to an identity.
type repair struct {
	statement *Statement
	id        Identity
	source    []byte
	splices   []splice
	note      string
	near      bool       // ours joins a value that may be a misspelling of it
	joined    bool       // others keep their values, and ours joins them
	removed   bool       // ours is taken out of an exclusion
	excludes  *condition // the exclusion that keeps it out
	blocked   *condition // a condition that is not about the token, and not met
	hopeless  bool       // something else keeps it from applying
}

// repair returns nil for a statement that is not about the identity's own provider, or a misspelling of it: such a statement
// is another's.
func (s *Statement) repair(source []byte, id Identity) *repair {
	r := &repair{statement: s, id: id, source: source}
	if s.notPrincipal || !r.provider() {
		return nil
	}
	r.action()
	for i := range s.conditions {
		r.condition(&s.conditions[i])
	}
	return r
}

func (r *repair) provider() bool {
	want := r.id.ProviderARN()
	if slices.ContainsFunc(r.statement.federated, func(v value) bool { return v.text == want }) {
		return true
	}
	for _, v := range r.statement.federated {
		if r.id.misspelt(v.text) {
			r.splices = append(r.splices, v.with(want))
			return true
		}
	}
	if name := r.statement.misnamed(r.id); name != nil {
		r.splices = append(r.splices, name.with("Federated"))
		return true
	}
	return false
}

// mixed reports whether a statement is for AWS principals too.
func (s *Statement) mixed(id Identity) bool { return s.others && s.misnamed(id) == nil }

// misnamed returns the name of the only principal if it is the identity's provider, but as an AWS principal, which IAM
// refuses; nil otherwise.
func (s *Statement) misnamed(id Identity) *value {
	principal := s.node.member("Principal")
	if principal == nil || len(principal.members) != 1 {
		return nil
	}
	if m := &principal.members[0]; m.name.text == "AWS" && m.value.kind == '"' && m.value.text == id.ProviderARN() {
		return &m.name
	}
	return nil
}

// otherActions are those that a web identity may need beside the right one.
var otherActions = []string{"sts:TagSession", "sts:SetSourceIdentity", "sts:SetContext"}

func isOther(action string) bool {
	return slices.ContainsFunc(otherActions, func(a string) bool { return strings.EqualFold(a, action) })
}

func (r *repair) action() {
	s := r.statement
	if s.action() == yes {
		return
	}
	alone := !s.mixed(r.id) && !s.anyone && !slices.ContainsFunc(s.federated, func(v value) bool { return v.text != r.id.ProviderARN() && !r.id.misspelt(v.text) })
	if s.notAction || !alone {
		r.hopeless = true
		return
	}
	for _, v := range s.actions {
		text := visible(v.text)
		if !isOther(text) && !strings.ContainsAny(text, "*?") && nearest.Word(text, []string{Action}) != "" || strings.EqualFold(text, "sts:AssumeRoleWithSAML") {
			r.splices = append(r.splices, v.with(Action))
			return
		}
	}
	r.joined = true
	r.splices = append(r.splices, s.node.member("Action").join(r.source, Action))
}

func (r *repair) condition(c *condition) {
	met := c.holds(r.id)
	if met == yes {
		return
	}
	claim := r.claim(c)
	o, known := parseOperator(c.operator.text)
	switch {
	case claim == "" && met == unknown, claim != "" && known && met == unknown:
		return // it stays as it is
	case claim == "" && foreign(c.key.text):
		r.blocked = c
		return
	case claim == "" || o.null:
		r.hopeless = true
		return
	case o.negative:
		r.exclusion(c, o)
		return
	}
	fixed := *c
	if key := r.id.Provider() + ":" + claim; !strings.EqualFold(c.key.text, key) {
		fixed.key.text = key
		r.splices = append(r.splices, c.key.with(key))
	}
	if !strings.HasPrefix(o.name, "String") && !r.operator(&fixed) {
		r.hopeless = true
		return
	}
	if fixed.holds(r.id) != yes {
		r.values(&fixed, claim)
	}
}

// foreign reports whether a key is not about the token.
func foreign(key string) bool {
	prefix, _, _ := strings.Cut(strings.ToLower(key), ":")
	return prefix == "aws" || prefix == "sts" || prefix == "iam"
}

// claim returns the claim, aud or sub, that a condition is about or was meant to be about; empty if it is about something
// else.
func (r *repair) claim(c *condition) string {
	key := strings.ToLower(visible(c.key.text))
	if foreign(key) {
		return ""
	}
	cut := strings.LastIndexAny(key, ":/.")
	provider, claim := key[:max(0, cut)], key[cut+1:]
	switch {
	case claim == "aud", claim == "sub":
		if provider == "" || r.id.misspelt(provider) || r.meant(c, claim) {
			return claim
		}
		return ""
	case !r.id.misspelt(provider):
		return ""
	case slices.ContainsFunc(c.values, func(v value) bool { return v.text == r.id.Subject }):
		return "sub"
	case slices.ContainsFunc(c.values, func(v value) bool { return v.text == r.id.Audience }):
		return "aud"
	}
	return ""
}

// meant reports whether a condition on a claim of another provider has a value that is the identity's, or was meant to be.
func (r *repair) meant(c *condition, claim string) bool {
	want := r.want(claim)
	o, _ := parseOperator(c.operator.text)
	return slices.ContainsFunc(c.values, func(v value) bool { return v.text == want || r.nobody(v.text, claim, want, o.wildcards) })
}

func (r *repair) want(claim string) string {
	if claim == "aud" {
		return r.id.Audience
	}
	return r.id.Subject
}

// operator replaces the operator of a condition by one that compares texts. The operator stands for all its keys, so that
// all of them must be about the token.
func (r *repair) operator(c *condition) bool {
	base, ifExists := strings.CutSuffix(c.operator.text, "IfExists")
	base, any := strings.CutPrefix(base, "ForAnyValue:")
	base, all := strings.CutPrefix(base, "ForAllValues:")
	name := "StringEquals"
	if o, ok := parseOperator(base); ok {
		if o.name == "ArnLike" {
			name = "StringLike"
		}
	} else if name = meantOperator(visible(base)); name == "" {
		return false
	}
	switch {
	case any:
		name = "ForAnyValue:" + name
	case all:
		name = "ForAllValues:" + name
	}
	if ifExists {
		name += "IfExists"
	}
	for i := range r.statement.conditions {
		if other := &r.statement.conditions[i]; other.operator.start == c.operator.start && r.claim(other) == "" {
			return false
		}
	}
	change := c.operator.with(name)
	if !slices.Contains(r.splices, change) {
		r.splices = append(r.splices, change)
	}
	c.operator.text = name
	return true
}

// meantOperator returns the operator for texts that a misspelt one was meant to be, or "" if it may have meant the opposite.
func meantOperator(misspelt string) string {
	name := nearest.Word(misspelt, []string{"StringEquals", "StringEqualsIgnoreCase", "StringLike"})
	part := name != "" && strings.Contains(strings.ToLower(name), strings.ToLower(misspelt))
	if !part && nearest.Word(misspelt, slices.Collect(maps.Keys(negations))) != "" {
		return ""
	}
	return name
}

// exclusion takes the identity out of a list of those that are excluded.
func (r *repair) exclusion(c *condition, o operator) {
	r.excludes = c
	i := slices.IndexFunc(c.values, func(v value) bool { return v.text == r.id.Subject })
	if o.name != "StringEquals" || i < 0 || len(c.values) == 1 {
		r.hopeless = true
		return
	}
	r.removed = true
	r.splices = append(r.splices, c.list.remove(i))
}

// values makes a condition hold: the value that was meant to be right is replaced if it can be nobody's, and otherwise the
// right one joins the others.
func (r *repair) values(c *condition, claim string) {
	want := r.want(claim)
	o, _ := parseOperator(c.operator.text)
	for _, v := range c.values {
		if r.nobody(v.text, claim, want, o.wildcards) {
			r.splices = append(r.splices, v.with(want))
			return
		}
	}
	for _, v := range c.values {
		near := isOneEdit(v.text, want) || isSwapped(v.text, want)
		r.near = r.near || near
		if len(c.values) == 1 || near {
			r.note = asJSON(v.text) + " stays, as it may be in use: if it is a mistake, remove it by hand"
		}
	}
	r.joined = true
	r.splices = append(r.splices, c.list.join(r.source, want))
}

// nobody reports whether a value was meant to be the right one, and is that of nobody.
func (r *repair) nobody(text, claim, want string, patterns bool) bool {
	lower, right := strings.ToLower(visible(text)), strings.ToLower(want)
	wild := strings.ContainsAny(text, "*?")
	switch {
	case lower == right:
		return true
	case wild && !patterns, wild && isServiceAccount(want) && lower != text:
		return like(lower, right)
	case claim == "aud":
		return text == r.id.Subject
	case text == r.id.Audience:
		return true
	case wild || !isServiceAccount(want) || isServiceAccount(text):
		return false
	}
	return nearest.Word(strings.ReplaceAll(lower, "/", ":"), []string{right}) != ""
}
