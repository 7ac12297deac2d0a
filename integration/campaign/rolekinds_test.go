//go:build faults

package campaign

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// roleKinds are faults of some profiles. The others must not notice anything.
var roleKinds = []faultKind{
	// IAM and STS, for one role.
	{name: "a role refused", reason: cache.AccessDenied, hits: ofOther, play: trusts(otherProfile, ststest.Role{Trusted: []string{}})},
	{name: "a source refused until its last session has ended", reason: cache.AccessDenied, hits: ofOther, least: 2 * faultLife,
		play: trusts(otherProfile, ststest.Role{Trusted: []string{}})},
	{name: "the role of the environment refused", reason: cache.AccessDenied, hits: ofDefault, play: trusts(defaultProfile, ststest.Role{Trusted: []string{}})},
	{name: "the target refused", reason: cache.AccessDenied, hits: ofChained, play: trusts(chainedProfile, ststest.Role{Trusted: []string{world.RoleARN}})},
	{name: "an external ID that fits no more", reason: cache.AccessDenied, hits: ofChained, play: trusts(chainedProfile, ststest.Role{ExternalID: "campaign/2"})},
	{name: "STS says nothing about one role", reason: cache.EndpointTimeout, hits: ofOther, least: refreshBy + 6*time.Second,
		play: trusts(otherProfile, ststest.Role{Fault: ststest.Hang})},
	{name: "STS throttles the target", reason: cache.Throttling, hits: ofChained, play: trusts(chainedProfile, ststest.Role{Fault: ststest.Throttling})},

	// The configuration file.
	{name: "the configuration broken", says: keepsConfiguration, hits: ofNone, play: configured(func(c *campaign) string {
		return c.configuration() + "[profile chained\n"
	})},
	{name: "half of the configuration", says: keepsConfiguration, hits: ofNone, play: configured(func(c *campaign) string {
		text := c.configuration()
		return text[:strings.LastIndex(text, ":role/")]
	})},
	{name: "no configuration file", says: keepsConfiguration, hits: ofNone, play: func(c *campaign, t *testing.T, hold func()) {
		data := filepath.Join(filepath.Dir(c.config.Path()), "..data") // the kubelet replaces this link
		if err := os.Rename(data, data+".away"); err != nil {
			t.Fatal(err)
		}
		c.wantTaken(t, false)
		hold()
		if err := os.Rename(data+".away", data); err != nil {
			t.Fatal(err)
		}
		c.wantTaken(t, true)
	}},
	{name: "a profile removed", says: `"removed":"chained"`, hits: ofChained, play: func(c *campaign, t *testing.T, hold func()) {
		c.whileRemoved(t, c.role(chainedProfile), hold)
	}},
	{name: "another role", says: `"changed":"other"`, hits: ofNone, play: func(c *campaign, t *testing.T, hold func()) {
		r := c.role(otherProfile)
		former := c.arn(r)
		c.change(t, r, former+"-next")
		hold()
		c.change(t, r, former)
	}},
	{name: "another role that is refused", reason: cache.AccessDenied, hits: ofOther, play: func(c *campaign, t *testing.T, hold func()) {
		r := c.role(otherProfile)
		former := c.arn(r)
		c.wear(t, r, former+"-refused")
		hold()
		c.wear(t, r, former)
	}},
	{name: "another role while STS is away", reason: cache.EndpointUnreachable, play: func(c *campaign, t *testing.T, hold func()) {
		r := c.role(otherProfile)
		former := c.arn(r)
		c.STS.Break(ststest.Drop)
		c.wear(t, r, former+"-next")
		hold()
		c.STS.Repair()
		c.changed(t, r)
		c.change(t, r, former)
	}},
	{name: "killed, and another role while STS is away", reason: cache.EndpointUnreachable, ends: true, play: func(c *campaign, t *testing.T, hold func()) {
		r := c.role(otherProfile)
		former := c.arn(r)
		c.STS.Break(ststest.Drop)
		c.whileAway(func() {
			c.kill(t, syscall.SIGKILL)
			c.name(r, former+"-next")
			c.unwear(r)
			c.configure(t, c.configuration())
			for _, r := range []*role{r, c.role(chainedProfile)} { // the state file's are of another configuration
				c.forget(r, issued{})
			}
			c.launch(t)
		})
		hold()
		c.STS.Repair()
		c.changed(t, r)
		c.change(t, r, former)
	}},
}

// The profiles that a fault may cost something.
var (
	ofNone    = []string{}
	ofDefault = []string{defaultProfile, besideProfile}
	ofOther   = []string{otherProfile, chainedProfile}
	ofChained = []string{chainedProfile}
)

// keepsConfiguration is the log message if the files have a mistake.
const keepsConfiguration = "cannot reload the configuration files"

// accounts returns the roles in IAM: those of the profiles, and what other roles a configuration may name.
func accounts(roles []*role) map[string]ststest.Role {
	all := map[string]ststest.Role{roles[1].arns[0].arn + "-refused": {Trusted: []string{}}}
	for _, r := range roles {
		for _, end := range []string{"", "-next"} {
			one := ststest.Role{Trusted: []string{ststest.Tokens}}
			if r.source != nil {
				one.Trusted = []string{r.source.arns[0].arn, r.source.arns[0].arn + "-next"}
			}
			if r.name == chainedProfile {
				one.ExternalID = externalID
			}
			all[r.arns[0].arn+end] = one
		}
	}
	return all
}

// trusts replaces a profile's role in IAM. What other does not say stays.
func trusts(profile string, other ststest.Role) play {
	return func(c *campaign, t *testing.T, hold func()) {
		arn := c.arn(c.role(profile))
		set := func(r ststest.Role) (former ststest.Role) {
			c.STS.Change(func(o *ststest.Options) {
				former = o.Roles[arn]
				o.Roles = maps.Clone(o.Roles) // requests read the old one
				o.Roles[arn] = r
			})
			return former
		}
		former := set(other)
		hold()
		set(former)
	}
}

// configured replaces the configuration with one that has a mistake.
func configured(text func(c *campaign) string) play {
	return func(c *campaign, t *testing.T, hold func()) {
		c.configure(t, text(c))
		c.wantTaken(t, false)
		hold()
		c.configure(t, c.configuration())
		c.wantTaken(t, true)
	}
}

// wantTaken waits until the metrics say whether the last configuration is in use.
func (c *campaign) wantTaken(t *testing.T, taken bool) {
	t.Helper()
	want := map[bool]string{true: "0", false: "1"}[taken]
	world.Eventually(t, world.Soon, "whether the configuration is in use: "+want, func() bool {
		_, metrics := world.HTTPGet(t, "http://"+c.sidecarOps()+"/metrics")
		return strings.Contains(string(metrics), "\nirsa_sidecar_configuration_last_reload_failed "+want+"\n")
	})
}

// whileRemoved runs a function without the profile: its credentials are gone at once.
func (c *campaign) whileRemoved(t *testing.T, r *role, while func()) {
	r.presence.Add(1)
	c.reconfigure(t, c.configuration(r))
	r.presence.Add(1)
	while()
	r.presence.Add(1)
	c.reconfigure(t, c.configuration())
	world.Eventually(t, world.Soon, "credentials of a profile that is back", func() bool { return c.answers(r) })
	c.forget(r, issued{})
	r.presence.Add(1)
}

// reconfigure replaces the configuration, and waits until the sidecar has it.
func (c *campaign) reconfigure(t *testing.T, text string) {
	t.Helper()
	changes := func() int { return strings.Count(c.sidecar.Output(t), changedConfiguration) }
	before := changes()
	c.configure(t, text)
	world.Eventually(t, world.Soon, "another configuration", func() bool { return changes() > before })
}

// name has the next configuration name another role for a profile. Sessions of both may be answers.
func (c *campaign) name(r *role, arn string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.arns = append(r.arns, period{arn: arn})
}

// wear gives a profile another role.
func (c *campaign) wear(t *testing.T, r *role, arn string) {
	t.Helper()
	c.name(r, arn)
	c.reconfigure(t, c.configuration())
}

// unwear ends the time of all of the profile's roles but the last.
func (c *campaign) unwear(r *role) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range r.arns[:len(r.arns)-1] {
		if p.until.IsZero() {
			r.arns[i].until = time.Now()
		}
	}
}

// change gives a profile another role, and waits until clients have its sessions. From then on they have no others.
func (c *campaign) change(t *testing.T, r *role, arn string) {
	c.wear(t, r, arn)
	c.changed(t, r)
}

// changed waits until clients have sessions of the profile's last role.
func (c *campaign) changed(t *testing.T, r *role) {
	arn := c.arn(r)
	world.Eventually(t, recovery, "a session of "+arn, func() bool { return c.held(r).RoleARN == arn })
	c.unwear(r)
}

// spared returns the profiles that a fault must not cost anything.
func (c *campaign) spared(kind faultKind) []*role {
	if kind.hits == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(c.roles), func(r *role) bool { return slices.Contains(kind.hits, r.name) })
}

// promptly is how long an answer may take for a profile that a fault spares: less than a request waits for an exchange.
const promptly = 600 * time.Millisecond

// wantSpared checks that a fault of other profiles has cost this one no exchange, no answer and no time.
func (c *campaign) wantSpared(t *testing.T, s *step, r *role) {
	for _, f := range s.failures {
		if f.Profile == r.name {
			c.fail(t, "%s: an exchange failed with %s: %s", r.name, f.Reason, f.text)
		}
	}
	c.mu.Lock()
	refusals, slowest := r.refusals, r.slowest
	c.mu.Unlock()
	if refusals > 0 {
		c.fail(t, "%s: %d requests were refused", r.name, refusals)
	}
	if slowest > promptly {
		c.fail(t, "%s: an answer took %s", r.name, slowest)
	}
}

// wantLiveSources checks that no request was signed with credentials that had ended, except for one that was under way at their
// end, and for those before the sidecar knows another clock of STS.
func (c *campaign) wantLiveSources(t *testing.T, s *step) {
	if s.kind.says == clockSkew {
		return
	}
	for _, r := range c.roles {
		late := 0
		for _, f := range s.failures {
			if f.Profile == r.name && f.Reason == string(cache.ExpiredToken) {
				late++
			}
		}
		if late > 1 {
			c.fail(t, "%s: %d requests were signed with credentials that had ended", r.name, late)
		}
	}
}
