package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// DefaultProfile is the profile of the environment's role.
const DefaultProfile = "default"

// Hop is a role that is assumed with the session of the role before it.
type Hop struct {
	Profile  string
	Exchange webidentity.Options // Assume is set

	// Section is where its settings are, such as "[profile audit]". Empty: in variables.
	Section string

	tagged, identified bool // its session has tags, a source identity: its own, or those that stay in a chain
}

// checkHop is the check of a request for the role of a hop.
const checkHop = "assume-role"

// hopTimeout is how long the request of a hop may take, as in the sidecar.
const hopTimeout = exchangeTimeout

// setting is the name of a hop's setting where it is set.
func (h *Hop) setting(key, variable string) string {
	if h.Section == "" {
		return variable
	}
	return key + " in " + h.Section
}

// chain returns all hops, the exchange of the token first.
func (e *examination) chain() []Hop {
	all := append([]Hop{{Profile: cmp.Or(e.First, e.Profile), Exchange: e.Exchange, Section: e.Section}}, e.Hops...)
	inherited := false // tags
	for i := 1; i < len(all); i++ {
		assume := all[i].Exchange.Assume
		all[i].tagged = inherited || len(assume.Tags) > 0
		all[i].identified = all[i-1].identified || assume.SourceIdentity != ""
		inherited = inherited || len(assume.TransitiveTags) > 0
	}
	return all
}

// roles returns the roles of the chain for the report; nil if there is only one.
func (e *examination) roles(secrets ...string) (roles []Role) {
	if len(e.Hops) == 0 {
		return nil
	}
	for _, hop := range e.chain() {
		roles = append(roles, Role{hop.Profile, clean(hop.Exchange.RoleARN, secrets...)})
	}
	return roles
}

// ofNoHop are the checks that are about no single hop.
var ofNoHop = []string{"environment", "config-file", "role-file", "app", "sidecar", "not checked"}

// ofEachHop are the checks that a chain has for each of its hops.
var ofEachHop = []string{"role", "sts", checkHop, "identity"}

// nameHops says in each finding which hop of the chain it is about.
func (e *examination) nameHops() {
	if len(e.Hops) == 0 {
		return
	}
	first := e.chain()[0].Profile
	for i := range e.findings {
		if f := &e.findings[i]; f.Hop == "" && !slices.Contains(ofNoHop, f.Check) {
			f.Hop = first
		}
	}
}

// checkHops assumes one role after the other, each with the session of the one before it.
func (e *examination) checkHops(ctx context.Context) {
	all, session := e.chain(), e.session
	for i := 1; i < len(all); i++ {
		source, hop := &all[i-1], &all[i]
		ok := e.checkHopRole(source, hop)
		if session == nil || !ok || e.misconfigured(hop) {
			session = nil
			e.skip(checkHop + " of profile " + hop.Profile)
			continue
		}
		session = e.assume(ctx, source, hop, session)
	}
}

// checkHopRole checks what can be known about a hop without a request.
func (e *examination) checkHopRole(source, hop *Hop) bool {
	arn, from := hop.Exchange.RoleARN, source.Exchange.RoleARN
	if names.CheckRoleARN(arn) != nil { // which is a mistake in the configuration
		return false
	}
	account := names.RoleAccount(arn)
	if account == "" {
		e.addTo(hop, Finding{Check: "role", Finding: arn + ": for an STS other than AWS's"})
		return true
	}
	if ours, theirs := names.RolePartition(from), names.RolePartition(arn); names.RoleAccount(from) != "" && ours != theirs {
		e.addTo(hop, failure("role", OtherPartition, fmt.Sprintf("%s is in the partition %s, and its source, %s, in %s: no role can be assumed from another partition", arn, theirs, from, ours),
			Fix{What: "correct the ARN in " + hop.setting("role_arn", "IRSA_SIDECAR_TARGET_ROLE_ARN") + ", or give this profile a web identity in its own partition"}))
		return false
	}
	e.addTo(hop, Finding{Check: "role", Finding: fmt.Sprintf("%s: account %s, partition %s", arn, account, names.RolePartition(arn))})
	return true
}

// addTo records a finding about a hop.
func (e *examination) addTo(hop *Hop, f Finding) {
	f.Hop = hop.Profile
	e.add(f)
}

// assume makes the request of a hop. It returns the session, or nil if it has failed.
func (e *examination) assume(ctx context.Context, source, hop *Hop, with *cache.Credentials) *cache.Credentials {
	ctx, cancel := context.WithTimeout(ctx, hopTimeout)
	defer cancel()
	asked := time.Now()
	creds, err := webidentity.New(hop.Exchange).Assume(ctx, webidentity.Source{Profile: source.Profile, Credentials: with, Skew: e.signingSkew()})
	if err != nil {
		e.addTo(hop, e.causeOfHop(source, hop, cache.AsFetchError(err)))
		return nil
	}
	e.addTo(hop, Finding{Check: checkHop, Finding: "the role is assumed with the session of profile " + source.Profile})
	lifetime := creds.Expiration.Sub(asked)
	e.addTo(hop, Finding{Check: "identity", Finding: fmt.Sprintf("%s in account %s, valid for %s", creds.Identity, creds.AccountID, roughly(lifetime.Round(time.Minute)))})
	if want := hop.Exchange.Duration; want > 0 && lifetime < want-time.Minute {
		e.addTo(hop, warning(checkHop, DurationTooLong, fmt.Sprintf("%s asks for %s, which is more than STS allows", hop.setting("duration_seconds", "IRSA_SIDECAR_DURATION"), roughly(want)),
			fixHopDuration(hop)))
	}
	return &creds
}

// signingSkew is by how much this clock is ahead of STS's, by which the sidecar corrects the time of a signature.
func (e *examination) signingSkew() time.Duration {
	if e.skew == nil {
		return 0
	}
	return *e.skew
}

// causeOfHop explains why a role is not assumed.
func (e *examination) causeOfHop(source, hop *Hop, err *cache.FetchError) Finding {
	if err.Reason == cache.AccessDenied {
		return e.causeOfHopDenial(source, hop, err)
	}
	f := failure(checkHop, string(err.Reason), err.Message, e.fixHop(source, hop, err)...)
	f.Advice = err.Advice()
	return f
}

// causeOfHopDenial explains an AccessDenied: STS rarely says which of the policies has refused.
func (e *examination) causeOfHopDenial(source, hop *Hop, err *cache.FetchError) Finding {
	d := readDenial(err.Message)
	f := failure(checkHop, d.key(), err.Message)
	target, from := hop.Exchange.RoleARN, source.Exchange.RoleARN
	switch Key(f.Key) {
	case DeniedByOrganization:
		f.Summary = fmt.Sprintf("the organization's %s refuses, not the policies of the two roles (AccessDenied)", d.policy)
		f.Fixes = e.fixHopOrganization(source, hop, d)
	case DeniedByEndpointPolicy:
		f.Summary = "the policy of the VPC endpoint for STS refuses, not the policies of the two roles (AccessDenied)"
		f.Fixes = []Fix{{What: "allow " + list(hop.actions()) + " on the target in the endpoint's policy; the policies of the two roles need not change"}}
	case TagSessionDenied:
		f.Summary = fmt.Sprintf("%s is not allowed: the trust policy of %s and the permissions of %s must both allow it (AccessDenied)", d.action, target, from)
		f.Fixes = e.fixHopPolicies(source, hop)
	case DeniedByPolicy:
		f.Key, f.Summary, f.Fixes = e.deniedBySource(source, hop, d)
	default:
		f.Advice = err.Advice()
		f.Fixes = e.fixHopPolicies(source, hop)
		f.Summary = fmt.Sprintf("%s may not assume %s: check the trust policy, the permission to assume, and the external ID (AccessDenied)", from, target)
		if d.policy != "" { // the trust policy
			f.Fixes = append(e.fixTarget(source, hop), fixExternalID(hop)...)
			f.Summary = fmt.Sprintf("the trust policy of %s does not allow %s (AccessDenied)", target, from)
			if d.explicit {
				f.Fixes = []Fix{f.Fixes[0], {What: "exempt the source role from the Deny in it, or have what the Deny asks for"}}
				f.Summary = fmt.Sprintf("a Deny in the trust policy of %s applies to %s (AccessDenied)", target, from)
			}
		}
	}
	return f
}

// deniedBySource is for an AccessDenied that names a policy of the source: its permissions, its session policy, its boundary.
func (e *examination) deniedBySource(source, hop *Hop, d denial) (key, summary string, fixes []Fix) {
	from, target := source.Exchange.RoleARN, hop.Exchange.RoleARN
	switch {
	case strings.Contains(d.policy, "session"):
		setting := source.setting("irsa_sidecar_policy_file", "IRSA_SIDECAR_POLICY_FILE")
		return string(DeniedByPolicy), fmt.Sprintf("the session policy of profile %s does not allow %s on %s (AccessDenied)", source.Profile, cmp.Or(d.action, "sts:AssumeRole"), target),
			[]Fix{{What: fmt.Sprintf("allow %s on the target in the session policy of profile %s (%s), or do without one there", list(hop.actions()), source.Profile, setting)}}
	case strings.Contains(d.policy, "identity-based"):
		return string(SourceNotAllowed), fmt.Sprintf("no policy of %s allows it to assume %s (AccessDenied)", from, target), e.fixSource(source, hop, "")
	}
	return string(DeniedByPolicy), fmt.Sprintf("STS names a %s as what refuses, not the trust policy (AccessDenied)", d.policy),
		[]Fix{{What: fmt.Sprintf("allow %s on the target in the %s of the source role", list(hop.actions()), d.policy)}}
}
