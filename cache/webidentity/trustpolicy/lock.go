package trustpolicy

import (
	"slices"
	"strings"
)

// lock returns the condition that a new statement would go round, or nil: one that is not about the claims of a token, if
// every statement for the identity's provider has such a condition, or if one has that is about the identity.
func (p *Policy) lock(id Identity) *condition {
	var first *condition
	open := false
	for _, s := range p.Statements {
		if !s.mayBeFor(id) {
			continue
		}
		i := slices.IndexFunc(s.conditions, func(c condition) bool { return c.isLock(id) })
		if i < 0 {
			open = open || min(s.principal(id), s.action()) == yes
			continue
		}
		if s.isAbout(id) {
			return &s.conditions[i]
		}
		if first == nil {
			first = &s.conditions[i]
		}
	}
	if open {
		return nil
	}
	return first
}

// mayBeFor reports whether a statement lets in tokens of the identity's provider, or was meant to.
func (s *Statement) mayBeFor(id Identity) bool {
	meant := !s.notPrincipal && ((&repair{statement: s, id: id}).provider() || s.keysAreOf(id) && !s.others)
	if s.Deny || !meant && s.principal(id) == no {
		return false
	}
	if s.covers(Action) == no && (s.notAction || s.others || !slices.ContainsFunc(s.actions, func(v value) bool { return !isOther(v.text) })) {
		return false
	}
	return !slices.ContainsFunc(s.conditions, func(c condition) bool {
		provider, _ := c.split()
		return c.isClaim() && !c.isNegative() && provider != "" && !id.misspelt(provider)
	})
}

// isAbout reports whether a statement names the identity or something very like it, or no subject at all.
func (s *Statement) isAbout(id Identity) bool {
	subjects := 0
	for _, c := range s.conditions {
		if _, claim := c.split(); !c.isClaim() || !strings.EqualFold(claim, "sub") {
			continue
		}
		for _, v := range c.values {
			if subjects++; subjectDistance(v.text, id.Subject) == misspelt {
				return true
			}
		}
	}
	return subjects == 0
}

// isLock reports whether a condition is not about the audience or the subject of a token, but about the request, something of
// another service (whose keys begin with a word, and a provider's with a name of the DNS), or another claim that IAM knows.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_iam-condition-keys.html#condition-keys-wif
func (c *condition) isLock(id Identity) bool {
	provider, claim := c.split()
	ofService := provider != "" && !strings.ContainsAny(provider, ".:/") && !c.isClaim()
	return foreign(c.key.text) || ofService || id.misspelt(provider) && slices.Contains([]string{"amr", "email", "oaud"}, strings.ToLower(claim))
}
