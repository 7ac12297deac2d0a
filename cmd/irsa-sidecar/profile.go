package main

import (
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
	required bool    // readiness counts it

	policyFile, caBundle string // whose content load adds to exchange
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

// load reads the files of all profiles. It is not part of parse because most commands need none of them.
func (s *settings) load() (all problems) {
	for i := range s.profiles {
		var invalid problems
		s.profiles[i], invalid = s.profiles[i].loaded()
		all = append(all, invalid...)
	}
	return all
}

// loaded returns the profile with what its files hold now.
func (p *profile) loaded() (*profile, problems) {
	next := *p
	var invalid problems
	var err error
	if next.exchange.Policy, err = readSessionPolicy(p.policyFile); err != nil {
		invalid = append(invalid, problem{"IRSA_SIDECAR_POLICY_FILE", err.Error()})
	}
	if next.exchange.Roots, err = webidentity.LoadCABundle(p.caBundle); err != nil {
		invalid = append(invalid, problem{"AWS_CA_BUNDLE", err.Error()})
	}
	return &next, invalid
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

	// What open makes of them.
	authorization *server.Authorization
	users         *server.Users
}

// open prepares to tell callers apart: it may make the token file, and connects to itself. That is for serve alone.
func (s *settings) open() (all problems) {
	opened := make(map[*access]bool)
	for _, p := range s.profiles {
		if !opened[p.access] {
			opened[p.access] = true
			all = append(all, p.access.open(s.credentialsAddress().Addr(), s.network)...)
		}
	}
	return all
}

func (a *access) open(listen netip.Addr, n network) (invalid problems) {
	var err error
	variable := "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE"
	switch {
	case a.token != "" && a.file != "": // parse has rejected it
	case a.file != "":
		a.authorization, err = server.AuthorizationFile(a.file)
	case a.token != "":
		variable = "IRSA_SIDECAR_AUTHORIZATION_TOKEN"
		a.authorization, err = fixedAuthorization(variable, a.token)
	default:
		err = n.mustAuthorize()
	}
	if err != nil {
		invalid = append(invalid, problem{variable, err.Error()})
	}
	if a.uids != nil && listen.IsValid() {
		if a.users, err = server.NewUsers(a.uids, listen); err != nil {
			invalid = append(invalid, problem{"IRSA_SIDECAR_ALLOWED_UIDS", "cannot be enforced, because the kernel does not tell which user a connection belongs to: " + err.Error()})
		}
	}
	return invalid
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
