package doctor

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// denial is what the words of an AccessDenied say. AWS names one kind of policy, even where several refuse; for a role
// that does not exist, and for most trust policies, it names none.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
type denial struct {
	policy   string // the kind of the policy that refused, such as "service control policy"; empty if STS does not say
	arn      string // the policy; empty if it is another organization's
	explicit bool   // a Deny applies, rather than no Allow
	action   string // what is refused; empty if STS does not say
}

func readDenial(message string) denial {
	d := denial{explicit: regexp.MustCompile(`(?i)\bexplicit deny\b`).MatchString(message)}
	kind := regexp.MustCompile(`(?i)(?:\bexplicit deny in (?:an? |the )?|\bbecause no )([a-z][a-z -]{0,60}?(?:policy|policies|boundary|boundaries))\b(?:: ?(arn:[\w:/+=,.@-]+))?`)
	if m := kind.FindStringSubmatch(message); m != nil {
		d.policy, d.arn = strings.ToLower(m[1]), m[2]
	}
	if m := regexp.MustCompile(`(?i)\bto perform:? (sts:\w{1,64})`).FindStringSubmatch(message); m != nil {
		d.action = m[1]
	}
	return d
}

// key returns whose policy refused. It is AccessDenied if that is the role's trust policy, or may be.
func (d denial) key() string {
	named := func(words ...string) bool {
		for _, word := range words {
			if strings.Contains(d.policy, word) {
				return true
			}
		}
		return false
	}
	switch {
	case named("service control", "resource control"):
		return string(DeniedByOrganization)
	case named("endpoint"):
		return string(DeniedByEndpointPolicy)
	case d.policy != "" && !named("resource-based", "trust"):
		return string(DeniedByPolicy)
	case strings.EqualFold(d.action, "sts:TagSession"), strings.EqualFold(d.action, "sts:SetSourceIdentity"):
		return string(TagSessionDenied)
	}
	return string(cache.AccessDenied)
}

// causeOfDenial returns the finding for an AccessDenied. Only if the trust policy may have refused, a fix changes it.
func (e *examination) causeOfDenial(err *cache.FetchError) Finding {
	d := readDenial(err.Message)
	f := failure("sts", d.key(), err.Message)
	role, subject := e.Exchange.RoleARN, e.claims.Subject
	if subject == "" {
		subject = "this token"
	}
	switch Key(f.Key) {
	case DeniedByOrganization:
		f.Summary = fmt.Sprintf("the organization's %s refuses, not the trust policy of %s (AccessDenied)", d.policy, role)
		f.Fixes = e.fixOrganization(d)
	case DeniedByEndpointPolicy:
		f.Summary = "the policy of the VPC endpoint for STS refuses, not the role's trust policy (AccessDenied)"
		f.Fixes = e.fixEndpointPolicy(d)
	case DeniedByPolicy:
		f.Summary = fmt.Sprintf("STS names a %s as what refuses, not the role's trust policy (AccessDenied)", d.policy)
		f.Fixes = []Fix{{What: fmt.Sprintf("allow sts:AssumeRoleWithWebIdentity in the %s; the trust policy need not change", d.policy)}}
	case TagSessionDenied:
		f.Summary = fmt.Sprintf("the trust policy of %s does not allow %s, which this token needs (AccessDenied)", role, d.action)
		f.Fixes = []Fix{{What: inWords(fmt.Sprintf("add %s to the Action of the trust policy's statement that allows %s: the token carries session tags or a source identity", d.action, subject))},
			e.fixReadPolicy("to see the policy's statements")}
	default:
		f.Advice = err.Advice()
		f.Fixes = e.fixAccessDenied()
		switch {
		case d.policy != "" && d.explicit:
			f.Summary = fmt.Sprintf("a Deny in the trust policy of %s applies to %s (AccessDenied)", role, subject)
		case d.policy != "":
			f.Summary = fmt.Sprintf("the trust policy of %s does not allow %s (AccessDenied)", role, subject)
		case d.explicit:
			f.Summary = fmt.Sprintf("a Deny applies to %s, in the trust policy of %s or in a policy of its organization (AccessDenied)", subject, role)
		default:
			f.Summary = fmt.Sprintf("the role %s does not exist, or its trust policy does not allow %s (AccessDenied)", role, subject)
		}
	}
	return f
}

func (e *examination) fixOrganization(d denial) []Fix {
	return organizationFixes(d, "sts:AssumeRoleWithWebIdentity", e.identity.Account)
}

// organizationFixes are for a service or resource control policy that refuses an action to, or in, an account. Both are
// read in the organization's management account.
func organizationFixes(d denial, action, account string) []Fix {
	kind, short := "SERVICE_CONTROL_POLICY", "SCP"
	if strings.Contains(d.policy, "resource") {
		kind, short = "RESOURCE_CONTROL_POLICY", "RCP"
	}
	what := "ask the organization's administrators to exempt this role from the Deny in the " + short
	if !d.explicit {
		what = "ask the organization's administrators to allow " + action + " in an " + short
	}
	fixes := []Fix{{What: what + "; the trust policy need not change"}}
	if id := d.arn[strings.LastIndexByte(d.arn, '/')+1:]; strings.HasPrefix(id, "p-") {
		return append(fixes, Fix{"in the management account, read that policy", shell, "aws organizations describe-policy --policy-id " + shellWord(id, "POLICY_ID")})
	}
	return append(fixes, Fix{"in the management account, list its policies for the account; those of its parents count too", shell,
		fmt.Sprintf("aws organizations list-policies-for-target --target-id %s --filter %s", shellWord(account, "ACCOUNT"), kind)})
}

func (e *examination) fixEndpointPolicy(d denial) []Fix {
	what := "allow sts:AssumeRoleWithWebIdentity, with Principal *, in the endpoint's policy"
	if d.explicit {
		what = "except this role from the Deny in the endpoint's policy"
	}
	region := e.Exchange.Region
	if region == "" {
		region = names.RegionOfIssuer(e.claims.Issuer)
	}
	return []Fix{
		{What: what + "; the trust policy need not change"},
		{"find the endpoint and its policy, in the account of the cluster's VPC", shell, fmt.Sprintf(
			"aws ec2 describe-vpc-endpoints --region %s --filters %s --query 'VpcEndpoints[].[VpcEndpointId,PolicyDocument]' --output text",
			shellWord(region, "REGION"), shellQuote("Name=service-name,Values=*.sts"))},
	}
}

// deniedElsewhere reports whether STS has named another policy than the trust policy as what refuses.
func (e *examination) deniedElsewhere() bool {
	return e.found(DeniedByOrganization) || e.found(DeniedByEndpointPolicy) || e.found(DeniedByPolicy)
}

// ofExchange reports whether a finding is about an exchange, so that STS's yes outweighs it. The sidecar may refuse a variable
// that the exchange does not need, and a file that is not a policy stays one. A finding that names a hop is about a later one.
func ofExchange(f Finding) bool {
	return f.Check != "environment" && f.Check != checkConfigFile && f.Check != checkRoleFile && f.Hop == "" && f.Key != string(trustpolicy.NotAPolicy) &&
		slices.ContainsFunc(explanations(), func(x explanation) bool { return x.check == f.Check })
}

// reconcile adapts the findings to what STS has said: where it accepts the token, no check of the exchange has failed, and
// where another policy refuses, nothing needs to change in the trust policy first.
func (e *examination) reconcile() {
	accepted, elsewhere := e.accepted(), e.deniedElsewhere()
	for i := range e.findings {
		f := &e.findings[i]
		switch {
		case f.Status != Fail:
		case accepted && ofExchange(*f):
			f.Status, f.Advice = Warn, ""
			if f.Check == "clock" {
				f.Finding += "; an exchange needs no clock, but AWS refuses what is signed more than 5 minutes off"
			} else {
				f.Finding += "; STS accepts the token now, but that may change"
			}
		case elsewhere && f.Check == "trust-policy" && f.Key != string(trustpolicy.NotAPolicy):
			f.Status, f.Fixes = Warn, nil
			f.Finding += "; STS names another policy: see to that one first"
		}
	}
}
