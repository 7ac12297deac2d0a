package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"
)

// access is what the caller of a request may have; if that is nothing, refusal says why.
type access struct {
	profiles *table
	opened   []*slot // by name
	refusal  Refusal
	why      error
}

// offer is the Authorization header of a request. The token is hashed only once, and compared only once with each Authorization,
// so that a profile whose name is right takes no longer to refuse than one that does not exist.
type offer struct {
	values    []string
	tokenless bool // the listener's clients cannot send a token
	hashed    bool
	token     sentToken
	tried     *Authorization // has been compared, and is not accepted
}

// asks returns what a caller must send, or nil.
func (s *slot) asks(o *offer) *Authorization {
	if o.tokenless && s.TokenOptional {
		return nil
	}
	return s.Authorization
}

// opens reports whether the caller may have the credentials of s. It allocates nothing.
func (s *slot) opens(r *http.Request, o *offer) bool {
	if refusal, _ := s.Users.check(r.Context()); refusal != "" {
		return false
	}
	asked := s.asks(o)
	switch {
	case asked == nil:
		return len(o.values) <= 1
	case lacksToken(o.values) != "":
		return false
	case o.matches(asked):
		return true
	}
	o.tried = asked
	return false
}

// matches compares the token, of which there must be one.
func (o *offer) matches(a *Authorization) bool {
	if !o.hashed {
		o.hashed, o.token = true, sent(o.values[0])
	}
	return a.accepts(&o.token)
}

// lacksToken returns why there is no token to compare, or "".
func lacksToken(values []string) Refusal {
	switch {
	case len(values) > 1:
		return AuthorizationRepeated
	case len(values) == 0 || values[0] == "": // Envoy sends an empty one if it has no token
		return AuthorizationRequired
	}
	return ""
}

// refusal returns why the caller may not have the credentials of s, if it sends no token that opens them.
func (s *slot) refusal(r *http.Request) (Refusal, error) {
	if refusal, why := s.Users.check(r.Context()); refusal != "" {
		return refusal, why
	}
	return cmp.Or(lacksToken(r.Header["Authorization"]), AuthorizationRejected), nil
}

// access finds out what a caller may have. If that is nothing, the work and the result are the same whichever profile the path
// names, so that neither tells which exist.
func (t *table) access(r *http.Request, o *offer) (a access) {
	a.profiles = t
	accepted := t.accepting(o)
	var users access             // how the users of the profiles refuse the caller
	asked, known := false, false // for a token; the token would do, but for the users
	for _, s := range t.slots {
		if s.Hidden {
			continue
		}
		refusal, why := s.Users.check(r.Context())
		token := slices.Contains(accepted, s.Authorization)
		if s.asks(o) == nil {
			token = len(o.values) <= 1
		}
		switch {
		case refusal != "":
			known = known || token
			if users.refusal != UserUnknown {
				users.refusal, users.why = refusal, why
			}
		case token:
			a.opened = append(a.opened, s)
		default:
			asked = true
		}
	}
	switch {
	case a.opened != nil:
	case asked && !known:
		a.refusal = cmp.Or(lacksToken(o.values), AuthorizationRejected)
	default: // nothing, if there are no profiles
		a.refusal, a.why = users.refusal, users.why
	}
	return a
}

// accepting returns the Authorizations that accept what the caller offers.
func (t *table) accepting(o *offer) (all []*Authorization) {
	if lacksToken(o.values) != "" {
		return nil
	}
	for _, a := range t.authorizations {
		if a != o.tried && o.matches(a) {
			all = append(all, a)
		}
	}
	return all
}

// accessKey is the context key of a request's access.
type accessKey struct{}

func withAccess(r *http.Request, a access) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), accessKey{}, a))
}

// accessOf returns what the caller of a request may have.
func accessOf(r *http.Request) access { return r.Context().Value(accessKey{}).(access) }

// withheldFault stands for a fault that may name a profile that the caller may not have.
const withheldFault = "the sidecar's log says what it is"

// fault is what is wrong with a configuration that was not taken. Its text names profiles, roles and token files, so it is only
// for a caller that may have all profiles.
func (a *access) fault() string {
	if a.profiles.fault == "" {
		return ""
	}
	for _, s := range a.profiles.slots {
		if !s.Hidden && !slices.Contains(a.opened, s) {
			return withheldFault
		}
	}
	return a.profiles.fault
}

// shows reports whether a profile that another one is chained to may be described: one that is open to the caller, or the hidden
// source of one that is.
func (a *access) shows(source *slot) bool {
	return slices.ContainsFunc(a.opened, func(s *slot) bool {
		return s.name() == source.name() || source.Hidden && s.Source == source.name()
	})
}
