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

// opens reports whether the caller may have the credentials of s. It allocates nothing. If it has compared the caller's token in
// vain, it returns with what.
func (s *slot) opens(r *http.Request) (ok bool, tried *Authorization) {
	if refusal, _ := s.Users.check(r.Context()); refusal != "" {
		return false, nil
	}
	values := r.Header["Authorization"]
	switch {
	case s.Authorization == nil:
		return len(values) <= 1, nil
	case lacksToken(values) != "":
		return false, nil
	}
	token := sent(values[0])
	if s.Authorization.accepts(&token) {
		return true, nil
	}
	return false, s.Authorization
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

// access finds out what a caller may have. The token is not compared with tried again. If nothing is open to the caller, the
// work and the result are the same whichever profile the path names, so that neither tells which exist.
func (t *table) access(r *http.Request, tried *Authorization) (a access) {
	a.profiles = t
	values := r.Header["Authorization"]
	accepted := t.accepting(values, tried)
	var users access // how the users of the profiles refuse the caller
	asked := false   // for a token
	for _, s := range t.slots {
		if s.Hidden {
			continue
		}
		refusal, why := s.Users.check(r.Context())
		switch {
		case refusal != "":
			if users.refusal != UserUnknown {
				users.refusal, users.why = refusal, why
			}
		case s.Authorization == nil && len(values) <= 1, slices.Contains(accepted, s.Authorization):
			a.opened = append(a.opened, s)
		default:
			asked = true
		}
	}
	switch {
	case a.opened != nil:
	case asked:
		a.refusal = cmp.Or(lacksToken(values), AuthorizationRejected)
	default: // nothing, if there are no profiles
		a.refusal, a.why = users.refusal, users.why
	}
	return a
}

// accepting returns the Authorizations that accept the token in values, without tried.
func (t *table) accepting(values []string, tried *Authorization) (all []*Authorization) {
	if lacksToken(values) != "" {
		return nil
	}
	token := sent(values[0])
	for _, a := range t.authorizations {
		if a != tried && a.accepts(&token) {
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

// shows reports whether a profile that another one is chained to may be described: a hidden one is only its source.
func (a *access) shows(source *slot) bool { return source.Hidden || slices.Contains(a.opened, source) }
