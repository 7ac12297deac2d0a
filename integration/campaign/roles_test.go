//go:build faults

package campaign

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// role is a profile of the sidecar, and what clients have received of it.
type role struct {
	name string // of the profile
	arn  string // of the role
	path string // where it is served
	file string // with its authorization token

	authorization atomic.Pointer[string]

	// Guarded by the campaign's lock.
	best      issued    // the session with the latest end that a client has received
	heldSince time.Time // from then until the end of best, some client has always had valid ones
	forgotten time.Time // answers to requests from before then prove nothing against the sidecar
	newest    int       // session that a client has received, in the order in which STS issued them
	refusals  int       // since the fault began, when nothing was valid
	slowest   time.Duration

	rested time.Time // when the last rest had seen a new session
}

// defaultProfile is the name of the profile that the environment describes.
const defaultProfile = "default"

// newRoles returns the profiles, each source before those that it signs for.
func newRoles(authorizationFile func(profile string) string) []*role {
	return []*role{
		{name: defaultProfile, arn: world.RoleARN, path: "/v1/credentials", file: authorizationFile(defaultProfile)},
	}
}

// token is what opens the profile.
func (r *role) token() string { return *r.authorization.Load() }

// readAuthorization reads the token that opens the profile.
func (r *role) readAuthorization(t *testing.T) {
	token := string(world.ReadFile(t, r.file))
	world.Leaks.Secret("an authorization token", token)
	r.authorization.Store(&token)
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

// isOf reports whether STS issued a session for the role with this ARN.
func isOf(s ststest.Session, arn string) bool {
	before, name, _ := strings.Cut(strings.Replace(arn, ":iam:", ":sts:", 1), ":role/")
	name = name[strings.LastIndex(name, "/")+1:]
	return strings.HasPrefix(s.ARN, before+":assumed-role/"+name+"/")
}

// tally is what STS has done for a role.
type tally struct{ calls, issued int }

// tallies counts what STS has done so far, by the profile's name.
func (c *campaign) tallies() map[string]tally {
	// The sessions first, because each has a call.
	sessions, requests := c.STS.Issued(), c.STS.Requests()
	all := make(map[string]tally)
	for _, r := range c.roles {
		var n tally
		for _, session := range sessions {
			if isOf(session, r.arn) {
				n.issued++
			}
		}
		for _, form := range requests {
			if form.Get("RoleArn") == r.arn {
				n.calls++
			}
		}
		all[r.name] = n
	}
	return all
}
