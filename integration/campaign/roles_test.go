//go:build faults

package campaign

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// role is a profile of the sidecar, and what clients have received of it.
type role struct {
	name   string // of the profile
	source *role  // whose sessions sign its requests; nil: web identity
	path   string // where it is served
	file   string // with its authorization token

	authorization atomic.Pointer[string]
	presence      atomic.Int64 // of the profile in the configuration, see present

	// Guarded by the campaign's lock.
	arns       []period  // the role's, in order
	best       issued    // the session with the latest end that a client has received
	heldSince  time.Time // from then until the end of best, some client has always had valid ones
	filedSince time.Time // the same, if they are gone fileAhead before their end
	forgotten  time.Time // answers to requests from before then prove nothing against the sidecar
	since      time.Time // when the fault began
	refusals   int       // of requests from after then
	slowest    time.Duration
}

// period is when sessions of a role may be answers.
type period struct {
	arn   string
	until time.Time // requests from after then must get another's; zero: none does yet
}

// A profile is in turn present, removed or about to be, absent, and added or about to be.
const (
	present = iota
	leaving
	absent
	coming
	presences
)

// now is the campaign's, with what is known of the profile.
func (r *role) now(c *campaign) moment {
	m := c.now()
	m.presence = r.presence.Load()
	return m
}

// was returns the presence of the profile since a moment; leaving or coming if that has changed.
func (r *role) was(since moment) int64 {
	if since.presence != r.presence.Load() {
		return leaving
	}
	return since.presence % presences
}

// arn is the role that the configuration names.
func (c *campaign) arn(r *role) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.arns[len(r.arns)-1].arn
}

// mayBe reports whether a session may be the answer to a request from then.
func (c *campaign) mayBe(r *role, s ststest.Session, asked time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(r.arns, func(p period) bool {
		return s.RoleARN == p.arn && (p.until.IsZero() || asked.Before(p.until))
	})
}

// The profiles. The environment describes the first one.
const (
	defaultProfile = "default"
	otherProfile   = "other"   // another role by web identity
	chainedProfile = "chained" // a role in another account, assumed by the second one
	besideProfile  = "beside"  // a role that is assumed by the first one, for the same clients
)

// externalID is what the role of chained requires.
const externalID = "campaign/1"

func roleARN(account, name string) string { return "arn:aws:iam::" + account + ":role/" + name }

// newRoles returns the profiles, each source before those that it signs for.
func newRoles(authorizationFile func(profile string) string) []*role {
	all := []*role{
		{name: defaultProfile, arns: []period{{arn: world.RoleARN}}, path: "/v1/credentials"},
		{name: otherProfile, arns: []period{{arn: roleARN("123456789012", "other")}}},
		{name: chainedProfile, arns: []period{{arn: roleARN("444455556666", "chained")}}},
		{name: besideProfile, arns: []period{{arn: roleARN("444455556666", "beside")}}},
	}
	for _, r := range all {
		r.file = authorizationFile(r.name)
		if r.path == "" {
			r.path = "/v1/credentials/" + r.name
		}
	}
	all[2].source, all[3].source = all[1], all[0]
	all[3].file = all[0].file
	return all
}

// role returns the profile with this name.
func (c *campaign) role(name string) *role {
	return c.roles[slices.IndexFunc(c.roles, func(r *role) bool { return r.name == name })]
}

// configuration is the file with all profiles but the environment's and those that are left out.
func (c *campaign) configuration(without ...*role) string {
	var text strings.Builder
	for _, r := range c.roles[1:] {
		if slices.Contains(without, r) {
			continue
		}
		fmt.Fprintf(&text, "[profile %s]\n", r.name)
		if r.file != c.roles[0].file {
			fmt.Fprintf(&text, "irsa_sidecar_authorization_token_file = %s\n", r.file)
		}
		if r.name != besideProfile {
			fmt.Fprintf(&text, "irsa_sidecar_credentials_file = %s\n", c.filePath(r.name))
		}
		if r.source != nil {
			fmt.Fprintf(&text, "source_profile = %s\n", r.source.name)
		}
		if r.name == chainedProfile {
			fmt.Fprintf(&text, "external_id = %s\n", externalID)
		}
		fmt.Fprintf(&text, "role_arn = %s\n\n", c.arn(r))
	}
	return text.String()
}

// configure replaces the file.
func (c *campaign) configure(t *testing.T, text string) {
	t.Helper()
	if err := c.config.Write(text); err != nil {
		t.Fatal(err)
	}
}

// token is what opens the profile.
func (r *role) token() string { return *r.authorization.Load() }

// tokenFiles are the files with authorization tokens. Profiles may share one.
func (c *campaign) tokenFiles() (all []string) {
	for _, r := range c.roles {
		if !slices.Contains(all, r.file) {
			all = append(all, r.file)
		}
	}
	return all
}

// readAuthorizations reads the tokens that open the profiles.
func (c *campaign) readAuthorizations(t *testing.T) {
	for _, r := range c.roles {
		token := string(world.ReadFile(t, r.file))
		world.Leaks.Secret("an authorization token", token)
		r.authorization.Store(&token)
	}
}

// request is a correct request for the profile's credentials.
func (c *campaign) request(r *role) *http.Request {
	request, err := http.NewRequest(http.MethodGet, c.base+r.path, nil)
	if err != nil {
		panic(err) // the address is a sidecar's
	}
	request.Header.Set("Authorization", r.token())
	return request
}

// answers reports whether a profile's credentials are served.
func (c *campaign) answers(r *role) bool {
	response, err := world.HTTPClient.Do(c.request(r))
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// signedRight reports whether the request for a session was signed with one of the profile's source, or not at all without
// one.
func (c *campaign) signedRight(r *role, s ststest.Session) bool {
	if r.source == nil {
		return s.SourceRoleARN == ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(r.source.arns, func(p period) bool { return p.arn == s.SourceRoleARN })
}

// tally is what STS has done for a profile.
type tally struct{ calls, issued int }

// tallies counts what STS has done so far, by the profile's name.
func (c *campaign) tallies() map[string]tally {
	// The sessions first, because each has a call.
	sessions, requests := c.STS.Issued(), c.STS.Requests()
	all := make(map[string]tally)
	for _, r := range c.roles {
		c.mu.Lock()
		arns := slices.Clone(r.arns)
		c.mu.Unlock()
		var n tally
		for _, session := range sessions {
			if slices.ContainsFunc(arns, func(p period) bool { return session.RoleARN == p.arn }) {
				n.issued++
			}
		}
		for _, form := range requests {
			if slices.ContainsFunc(arns, func(p period) bool { return form.Get("RoleArn") == p.arn }) {
				n.calls++
			}
		}
		all[r.name] = n
	}
	return all
}
