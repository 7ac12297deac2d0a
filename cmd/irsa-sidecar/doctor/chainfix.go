package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// actions are what a hop's request needs to be allowed.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html#id_session-tags_permissions-required
func (h *Hop) actions() []string {
	return append([]string{"sts:AssumeRole"}, h.more()...)
}

// more are the actions beyond sts:AssumeRole.
func (h *Hop) more() (actions []string) {
	if h.tagged {
		actions = append(actions, "sts:TagSession")
	}
	if h.identified {
		actions = append(actions, "sts:SetSourceIdentity")
	}
	return actions
}

// policyStatement is a statement of a policy. Its fields are in the order in which people write them.
type policyStatement struct {
	Effect    string
	Principal map[string]string `json:",omitempty"`
	Action    any
	Resource  string                       `json:",omitempty"`
	Condition map[string]map[string]string `json:",omitempty"`
}

// policyDocument returns a policy as indented JSON.
func policyDocument(statements ...policyStatement) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	e.Encode(struct { // which cannot fail
		Version   string
		Statement []policyStatement
	}{"2012-10-17", statements})
	return strings.TrimSpace(b.String())
}

// isDocument tells a policy from a statement of one.
func isDocument(text string) bool { return strings.HasPrefix(text, "{\n  \"Version\"") }

// oneOrMore is a single text where a list has one.
func oneOrMore(all []string) any {
	if len(all) == 1 {
		return all[0]
	}
	return all
}

// arnToShow is a role's ARN for a policy, or a placeholder.
func arnToShow(arn, placeholder string) string {
	if !presentable(arn) {
		return placeholder
	}
	return arn
}

// externalID stands for the value, which only two parties know: a report may be read by others.
const externalID = "EXTERNAL_ID"

// trustPolicy lets the source assume the target. The external ID is a condition of sts:AssumeRole alone: the other actions
// are useless without it.
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html
func trustPolicy(source, hop *Hop) string {
	principal := map[string]string{"AWS": arnToShow(source.Exchange.RoleARN, "SOURCE_ROLE_ARN")}
	if hop.Exchange.Assume.ExternalID == "" {
		return policyDocument(policyStatement{Effect: "Allow", Principal: principal, Action: oneOrMore(hop.actions())})
	}
	statements := []policyStatement{{Effect: "Allow", Principal: principal, Action: "sts:AssumeRole",
		Condition: map[string]map[string]string{"StringEquals": {"sts:ExternalId": externalID}}}}
	if more := hop.more(); more != nil {
		statements = append(statements, policyStatement{Effect: "Allow", Principal: principal, Action: oneOrMore(more)})
	}
	return policyDocument(statements...)
}

// permission lets the source assume the target, as a policy of the source.
func permission(hop *Hop) string {
	return policyDocument(policyStatement{Effect: "Allow", Action: oneOrMore(hop.actions()), Resource: arnToShow(hop.Exchange.RoleARN, "TARGET_ROLE_ARN")})
}

// roleNameOf is a role's name for aws iam, quoted for a shell: without the path.
func roleNameOf(arn, placeholder string) string {
	if !presentable(arn) {
		return placeholder
	}
	return shellWord(arn[strings.LastIndexAny(arn, "/:")+1:], placeholder)
}

// inAccount says where a command belongs.
func inAccount(arn string) string {
	if account := names.RoleAccount(arn); account != "" {
		return "in account " + account
	}
	return "in the role's account"
}

// fixHopPolicies shows the two policies that a hop needs, and how to look at those that are there.
func (e *examination) fixHopPolicies(source, hop *Hop) []Fix {
	either := ""
	if account := names.RoleAccount(hop.Exchange.RoleARN); account != "" && account == names.RoleAccount(source.Exchange.RoleARN) {
		either = " (within one account, the trust policy alone is enough)"
	}
	fixes := slices.Concat(e.fixTarget(source, hop), e.fixSource(source, hop, either), fixExternalID(hop))
	if source.Exchange.Policy != "" || len(source.Exchange.PolicyARNs) > 0 {
		fixes = append(fixes, Fix{What: fmt.Sprintf("profile %s has a session policy, which must allow %s on the target too", source.Profile, list(hop.actions()))})
	}
	return fixes
}

// fixTarget lets the target trust the source.
func (e *examination) fixTarget(source, hop *Hop) []Fix {
	target := hop.Exchange.RoleARN
	what := "the trust policy of the target must have this; keep its other statements"
	if hop.Exchange.Assume.ExternalID != "" {
		what += "; " + externalID + " is the value of " + hop.setting("external_id", "IRSA_SIDECAR_EXTERNAL_ID")
	}
	return []Fix{
		{inAccount(target) + ", look at the target's trust policy", shell, fmt.Sprintf("aws iam get-role --role-name %s --query Role.AssumeRolePolicyDocument", roleNameOf(target, "TARGET_ROLE"))},
		{what, statement, trustPolicy(source, hop)},
	}
}

// fixExternalID is for a trust policy that may want one.
func fixExternalID(hop *Hop) []Fix {
	if hop.Exchange.Assume.ExternalID != "" {
		return nil
	}
	return []Fix{{What: "if the trust policy has a condition on sts:ExternalId, set " + hop.setting("external_id", "IRSA_SIDECAR_EXTERNAL_ID") + " to that value: none is sent now"}}
}

// fixSource lets the source assume the target.
func (e *examination) fixSource(source, hop *Hop, note string) []Fix {
	from, target := source.Exchange.RoleARN, hop.Exchange.RoleARN
	return []Fix{
		{inAccount(from) + ", ask IAM whether the source may assume the target", shell, fmt.Sprintf("aws iam simulate-principal-policy --policy-source-arn %s --action-names %s --resource-arns %s --query 'EvaluationResults[].[EvalActionName,EvalDecision]' --output text",
			shellWord(from, "SOURCE_ROLE_ARN"), strings.Join(hop.actions(), " "), shellWord(target, "TARGET_ROLE_ARN"))},
		{"if it may not, add this policy to the source role" + note, shell, fmt.Sprintf("aws iam put-role-policy --role-name %s --policy-name %s --policy-document %s",
			roleNameOf(from, "SOURCE_ROLE"), roleNameOf("assume-"+roleNameOf(target, "TARGET_ROLE"), "assume-target"), shellQuote(permission(hop)))},
	}
}

// fixHopOrganization is for a service or resource control policy.
func (e *examination) fixHopOrganization(source, hop *Hop, d denial) []Fix {
	account := names.RoleAccount(source.Exchange.RoleARN) // whose principal asks
	if strings.Contains(d.policy, "resource") {
		account = names.RoleAccount(hop.Exchange.RoleARN)
	}
	return organizationFixes(d, list(hop.actions()), account)
}

// fixHopDuration lowers the duration to what STS allows in a chain.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining
func fixHopDuration(hop *Hop) Fix {
	return Fix{What: "set " + hop.setting("duration_seconds", "IRSA_SIDECAR_DURATION") + " to one hour at most, or remove it: STS allows no more where a role is assumed by another role"}
}

// fixHop is for a failure of a hop other than a denial.
func (e *examination) fixHop(source, hop *Hop, err *cache.FetchError) []Fix {
	switch err.Reason {
	case cache.ValidationError:
		if strings.Contains(err.Message, "DurationSeconds") || strings.Contains(err.Message, "session limit") {
			return []Fix{fixHopDuration(hop)}
		}
		return []Fix{{What: "correct what STS names, in " + hop.place()}}
	case cache.PackedPolicyTooLarge:
		what := "shorten the session policy in " + hop.place()
		if len(hop.Exchange.Assume.Tags) > 0 {
			what = "shorten irsa_sidecar_tags or the session policy in " + hop.place() + "; tags that the source passes on (irsa_sidecar_transitive_tags) count too"
		}
		return []Fix{{What: what}}
	case cache.MalformedPolicyDocument:
		return []Fix{{"check the session policy in " + hop.setting("irsa_sidecar_policy_file", "IRSA_SIDECAR_POLICY_FILE") + ", on a laptop", shell,
			"aws accessanalyzer validate-policy --policy-type IDENTITY_POLICY --policy-document file://POLICY.json"}}
	case cache.ExpiredToken, cache.ExpiredTokenException, cache.RequestExpired:
		return append([]Fix{{What: "run the doctor again: the session of profile " + source.Profile + " was new, so a clock is wrong"}}, e.fixClock()...)
	case cache.SignatureDoesNotMatch:
		return []Fix{{What: "look for a proxy or a service mesh on the way to STS that changes requests or removes headers, and exclude STS from it"}}
	case cache.RegionDisabledException:
		return []Fix{{What: "enable STS in the region, in the account of the source: IAM console, Account settings, Security Token Service"}, e.fixHopRegion(hop, true)}
	case cache.InvalidClientTokenId:
		return []Fix{{What: "check that the region of the request is in the partition of both roles, and enabled in the source's account: a session of the global endpoint is not valid in regions that must be enabled"}, e.fixHopRegion(hop, false)}
	case cache.RegionUnknown, cache.EndpointNotFound:
		return append([]Fix{e.fixHopRegion(hop, false)}, fixDNS()...)
	case cache.InvalidParameterValue:
		return []Fix{{What: "remove from irsa_sidecar_tags in " + hop.place() + " the keys that a source profile has in irsa_sidecar_transitive_tags"}}
	case cache.Throttling:
		return []Fix{{What: "have fewer Pods or profiles assume this role: each does so at least once an hour, which is the longest session of a role that is assumed by another"}}
	}
	own := *e
	own.Exchange = hop.Exchange
	return own.fixReason(err)
}

// place is where a hop's settings are.
func (h *Hop) place() string {
	if h.Section == "" {
		return "the variables of the target role"
	}
	return h.Section
}

// fixHopRegion corrects the region of a hop, or leaves one in which STS is disabled.
func (e *examination) fixHopRegion(hop *Hop, disabled bool) Fix {
	own := *e
	own.Exchange = hop.Exchange
	switch {
	case hop.Section != "" && hop.Exchange.Region != e.Exchange.Region:
		return Fix{What: "correct region in " + hop.Section + ", or remove it there: AWS_REGION then applies"}
	case disabled:
		return own.fixOtherRegion()
	}
	return own.fixRegion("AWS_REGION")
}
