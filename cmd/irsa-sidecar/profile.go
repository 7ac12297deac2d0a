package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// defaultProfile is the name of the role from the environment; it is served where a request names no profile.
const defaultProfile = "default"

// A profile is a role whose credentials are served under a name.
type profile struct {
	name     string
	exchange webidentity.Options
	source   string  // the profile whose credentials sign the request; empty: the web identity token is exchanged
	access   *access // the same for all profiles that have the environment's
	hidden   bool    // refreshed, but not served
	ownToken bool    // access asks for a token of its own, not for the environment's
	required bool    // readiness counts it

	file   string // that its credentials are written to; empty for none of its own
	fileAt where

	policyFile, caBundle string // whose content load adds to exchange
	policyAt             where
}

// profile returns the profile of this name, or nil.
func (s *settings) profile(name string) *profile {
	if i := slices.IndexFunc(s.profiles, func(p *profile) bool { return p.name == name }); i >= 0 {
		return s.profiles[i]
	}
	return nil
}

// hops returns the profiles on the way to this one, each the source of the next: from the one that exchanges the web
// identity token to the profile itself. It returns nil if there is no such profile.
func (s *settings) hops(name string) (all []*profile) {
	for p := s.profile(name); p != nil; p = s.profile(p.source) {
		all = append(all, p)
	}
	slices.Reverse(all)
	return all
}

// tokenOptional reports whether listeners whose clients cannot send an authorization token serve the profile without it.
func (p *profile) tokenOptional() bool {
	return !p.ownToken && (p.access.token != "" || p.access.file != "")
}

// load reads the files of all profiles. It is not part of parse because most commands need none of them.
func (s *settings) load() (all problems) {
	bundles := make(map[string]*x509.CertPool) // of 50 profiles, it is the same
	for _, p := range s.profiles {
		var err error
		if p.exchange.Policy, err = readSessionPolicy(p.policyFile); err != nil {
			all = append(all, problem{p.policyAt.variable, p.policyAt.text + err.Error()})
		}
		roots, read := bundles[p.caBundle]
		if !read {
			if roots, err = webidentity.LoadCABundle(p.caBundle); err != nil {
				all = append(all, problem{"AWS_CA_BUNDLE", err.Error()})
			}
			bundles[p.caBundle] = roots
		}
		p.exchange.Roots = roots
	}
	return all.limited()
}

// maxPolicyFile leaves room for white space around what STS takes.
const maxPolicyFile = 64 << 10

// readSessionPolicy returns what is in a file, or nothing where there is no path.
func readSessionPolicy(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	raw, _, err := regular.Read(path, maxPolicyFile)
	switch policy := strings.TrimSpace(string(raw)); {
	case errors.Is(err, regular.TooLong(maxPolicyFile)):
		return "", fmt.Errorf("%s %w; a session policy has 1 to 2048 characters", path, err)
	case err != nil:
		return "", fmt.Errorf("%s %w", path, err)
	case policy == "" || len(policy) > 2048:
		return "", fmt.Errorf("%s has %d characters; a session policy has 1 to 2048", path, len(policy))
	case policy[0] != '{' || !json.Valid([]byte(policy)):
		return "", fmt.Errorf("%s is not a policy in JSON", path)
	default:
		return policy, nil
	}
}

// access is who gets a profile's credentials.
type access struct {
	token, file string   // what callers must send, or the file that holds it; none: nothing
	uids        []uint32 // whose programs are let through; nil: all

	fileAt, uidsAt where

	// What open makes of them. The same token or file makes the same authorization.
	authorization *server.Authorization
	users         *server.Users
}

// open prepares to tell callers apart: it may make token files, and connects to itself. That is for serve alone. What before
// has opened stays the same objects, with the tokens that they still accept; nil has opened nothing.
func (s *settings) open(before *settings) (all problems) {
	o := opener{listen: s.credentialsAddress().Addr(), network: s.network, authorizations: make(map[[2]string]*server.Authorization), users: make(map[string]*server.Users)}
	var current []*access
	if before != nil {
		current = before.accesses()
	}
	for _, a := range current {
		if a.authorization != nil {
			o.authorizations[a.key()] = a.authorization
		}
	}
	if before == nil {
		all = s.isolated()
	}
	opened := make(map[*access]*access)
	for _, p := range s.profiles {
		if opened[p.access] == nil {
			one := p.access
			if i := slices.IndexFunc(current, one.same); i >= 0 {
				one = current[i]
			} else {
				all = append(all, o.open(one)...)
			}
			opened[p.access] = one
		}
		p.access = opened[p.access]
	}
	return all.limited()
}

// isolated reports the listeners without an authorization token if all programs of the node could reach them.
func (s *settings) isolated() (all problems) {
	for _, l := range s.listeners {
		if l.tokenless && s.network.isHosts() {
			one := problem{l.variable, errOutputOnHost}
			if !slices.Contains(all, one) {
				all = append(all, one)
			}
		}
	}
	return all
}

// same reports whether the same callers are let through, in the same way.
func (a *access) same(other *access) bool {
	return a.key() == other.key() && (a.uids == nil) == (other.uids == nil) && slices.Equal(a.uids, other.uids)
}

// An opener opens each token file once, however many profiles name it.
type opener struct {
	listen         netip.Addr
	network        network
	authorizations map[[2]string]*server.Authorization // by token and file
	users          map[string]*server.Users            // by their numbers
}

func (a *access) key() [2]string { return [2]string{a.token, a.file} }

func (o *opener) open(a *access) (invalid problems) {
	known := false
	if a.authorization, known = o.authorizations[a.key()]; !known {
		at, err := o.authorize(a)
		if err != nil {
			invalid = append(invalid, problem{at.variable, at.text + err.Error()})
		}
		o.authorizations[a.key()] = a.authorization
	}
	if a.uids == nil || !o.listen.IsValid() {
		return invalid
	}
	list := fmt.Sprint(a.uids)
	if a.users, known = o.users[list]; !known {
		var err error
		if a.users, err = server.NewUsers(a.uids, o.listen); err != nil {
			invalid = append(invalid, problem{a.uidsAt.variable, a.uidsAt.text + "cannot be enforced, because the kernel does not tell which user a connection belongs to: " + err.Error()})
		}
		o.users[list] = a.users
	}
	return invalid
}

func (o *opener) authorize(a *access) (at where, err error) {
	at = a.fileAt
	switch {
	case a.token != "" && a.file != "": // parse has rejected it
	case a.file != "":
		a.authorization, err = server.AuthorizationFile(a.file)
	case a.token != "":
		at = where{variable: "IRSA_SIDECAR_AUTHORIZATION_TOKEN"}
		a.authorization, err = fixedAuthorization(at.variable, a.token)
	default:
		err = o.network.mustAuthorize()
	}
	return at, err
}

// fixedAuthorization requires the token that a variable is set to. A path there would be the token, and no secret.
func fixedAuthorization(variable, token string) (*server.Authorization, error) {
	if isPath(token) {
		return nil, errors.New("is a path, and the path itself would be the token; a path belongs in " + variable + "_FILE")
	}
	return server.FixedAuthorization(token)
}

// isPath reports whether a token must be the path of a file. A random one may begin with a slash, too, but one in base64
// with slashes has none of the characters "-", "_" and ".", and is not a file.
func isPath(token string) bool {
	if !regexp.MustCompile(`^/[\w.-]+(/[\w.-]+)+$`).MatchString(token) {
		return false
	}
	_, err := os.Stat(token)
	return err == nil || strings.ContainsAny(token, "-_.")
}
