package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

const exchangeTimeout = 5 * time.Second

// checkExchange makes one exchange.
func (e *examination) checkExchange(ctx context.Context) {
	if e.token == "" || e.Exchange.RoleARN == "" || slices.ContainsFunc(e.Mistakes, e.aboutExchange) || e.failed("dns", "connect", "tls") {
		e.skip("sts")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	creds, err := webidentity.New(e.Exchange).Fetch(ctx)
	if err != nil {
		failed := cache.AsFetchError(err)
		if failed.Reason == cache.AccessDenied {
			e.add(e.causeOfDenial(failed))
			return
		}
		key, fixes := e.cause(failed)
		e.blameTheIssuer(failed.Reason)
		f := failure("sts", key, failed.Message, fixes...)
		if key == string(failed.Reason) || failsInIAM(Key(key)) {
			f.Advice = failed.Advice()
		}
		f.Summary = e.summary(key)
		e.add(f)
		return
	}
	e.session = &creds
	e.ok("sts", "the exchange works")
	lifetime := creds.Expiration.Sub(e.now)
	shown := lifetime.Round(time.Second)
	if shown > 2*time.Minute {
		shown = lifetime.Round(time.Minute)
	}
	e.ok("identity", "%s in account %s, valid for %s", creds.Identity, creds.AccountID, roughly(shown))
	if asked := e.Exchange.Duration; asked > 0 && lifetime < asked-time.Minute {
		e.add(warning("sts", DurationTooLong, fmt.Sprintf("%s asks for %s, which is more than the role allows", e.setting("duration_seconds", "IRSA_SIDECAR_DURATION"), roughly(asked)), e.fixDuration()))
	}
}

// summary says in a few words what a failed exchange means; "" if STS's own words do.
func (e *examination) summary(key string) string {
	switch key {
	case string(ProviderMissing):
		return fmt.Sprintf("IAM in account %s has no OIDC provider for %s, or one with other client IDs (InvalidIdentityToken)",
			cmp.Or(e.identity.Account, "of the role"), cmp.Or(e.claims.Issuer, "the token's issuer"))
	case string(AudienceNotRegistered):
		return fmt.Sprintf("IAM's OIDC provider does not have the token's audience, %s, among its client IDs (InvalidIdentityToken)", e.audience())
	}
	return ""
}

// cause returns the key and the fixes for a failed exchange. AWS has reworded its messages before, so the error code
// counts first and the findings of the other checks second; words count only if they say more.
func (e *examination) cause(err *cache.FetchError) (key string, fixes []Fix) {
	switch err.Reason {
	case cache.InvalidIdentityToken:
		return e.causeOfInvalidToken(strings.ToLower(err.Message))
	case cache.IDPCommunicationError:
		return string(err.Reason), []Fix{fixIssuer(discoveryURL(e.claims.Issuer))}
	}
	return string(err.Reason), e.fixReason(err)
}

// causeOfInvalidToken distinguishes the causes for which STS has a single code. The message is in lower case.
func (e *examination) causeOfInvalidToken(message string) (key string, fixes []Fix) {
	says := func(words string) bool { return strings.Contains(message, words) }
	var cause Key
	switch {
	case e.found(TokenClaimMissing): // the check of the token has given the fixes
		cause = TokenClaimMissing
	case e.found(TokenClaimMalformed):
		cause = TokenClaimMalformed
	case says("not a valid jwt"):
		return string(cache.TokenFileMalformed), e.fixMalformed()
	case says("missing a required claim") && !says("claim: aud"):
		cause, fixes = TokenClaimMissing, e.fixClaims()
	case len(e.claims.Audience) == 0, says("missing a required claim: aud"):
		cause, fixes = TokenLegacy, e.fixVolume()
	case e.issuerFault != "": // the check of the issuer has given the fixes: no provider can be created for it
		cause = e.issuerFault
	case says("no openidconnect provider"):
		cause, fixes = ProviderMissing, e.fixProvider()
	case says("audience"):
		cause, fixes = AudienceNotRegistered, slices.Concat(e.fixClientID(), e.fixAudience())
	case says("thumbprint"):
		cause, fixes = ThumbprintMismatch, e.fixThumbprint()
	case e.issuer == issuerRejected: // the check of the signature has given the fixes
		cause = e.rejection
	case e.issuer == issuerUnavailable:
		if cause = e.rejection; cause == "" {
			cause, fixes = IssuerUnreachable, []Fix{fixIssuer(discoveryURL(e.claims.Issuer))}
		}
	case !slices.Contains(e.claims.Audience, stsAudience):
		cause, fixes = AudienceNotRegistered, slices.Concat(e.fixClientID(), e.fixAudience())
	default:
		cause, fixes = ProviderMissing, e.fixProvider()
	}
	return string(cause), fixes
}

// failsInIAM reports whether the OIDC provider in IAM is at fault, which is what the advice about a refused token is about.
func failsInIAM(key Key) bool {
	return key == ProviderMissing || key == AudienceNotRegistered || key == ThumbprintMismatch
}

// blameTheIssuer makes a failure of what could not be read of the issuer's documents, if STS says that it could not verify
// the token either.
func (e *examination) blameTheIssuer(reason cache.Reason) {
	if e.issuer != issuerUnavailable || reason != cache.InvalidIdentityToken && reason != cache.IDPCommunicationError {
		return
	}
	for i := range e.findings {
		if f := &e.findings[i]; f.Check == "signature" && f.Status == Warn {
			f.Status = Fail
		}
	}
}

// checkPolicy compares the given trust policy with the token.
func (e *examination) checkPolicy() {
	if e.Policy == nil {
		return
	}
	policy, err := trustpolicy.ParseFor(e.Policy, e.Exchange.RoleARN)
	if err != nil {
		e.add(failure("trust-policy", trustpolicy.NotAPolicy, e.PolicyName+", "+err.Error(), e.fixReadPolicy("pass the role's trust policy from IAM")))
		return
	}
	switch {
	case e.identity.Subject == "":
		e.reportPolicyAlone(policy)
	case policy.RoleARN != "" && policy.RoleARN != e.Exchange.RoleARN:
		e.reportOtherRole(policy.RoleARN)
	case e.accepted():
		e.reportOpenPolicy(policy)
	default:
		e.reportPolicy(policy)
	}
}

// maxShown is how many identities of a policy a report lists.
const maxShown = 5

// reportPolicyAlone says of a policy what needs no token: whom it names, and what it allows beyond them.
func (e *examination) reportPolicyAlone(policy *trustpolicy.Policy) {
	named := policy.Named()
	if len(named) == 0 {
		e.reportNobody(policy)
		return
	}
	allowed := slices.DeleteFunc(slices.Clone(named), func(id trustpolicy.Identity) bool { return policy.Decide(id) != trustpolicy.Allowed })
	shown := allowed
	if len(allowed) > maxShown+1 {
		shown = allowed[:maxShown]
	}
	for _, id := range shown {
		e.ok("trust-policy", "%s allows %s of %s with the audience %s; whether that is the Pod's needs its token", e.PolicyName, id.Subject, id.Provider(), id.Audience)
	}
	if more := len(allowed) - len(shown); more > 0 {
		e.ok("trust-policy", "%s allows %d more by name", e.PolicyName, more)
	}
	var problems []trustpolicy.Problem
	for _, id := range named[:min(len(named), 20)] {
		for _, p := range policy.Review(id) {
			if !slices.Contains(problems, p) {
				problems = append(problems, p)
				e.add(warning("trust-policy", p.Kind, fmt.Sprintf("%s line %d: %s", e.PolicyName, p.Line, p.Text)))
			}
		}
	}
}

// reportNobody reports a policy that names no provider: it is for others, for everybody, or has something else in its place.
func (e *examination) reportNobody(policy *trustpolicy.Policy) {
	somebody := trustpolicy.Identity{Partition: "aws", Account: "ACCOUNT", Issuer: "https://ISSUER", Audience: stsAudience, Subject: "system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT"}
	problems := policy.Review(somebody)
	open := slices.ContainsFunc(problems, func(p trustpolicy.Problem) bool { return p.Kind.TooBroad() })
	switch {
	case e.accepted() && !open:
		e.ok("trust-policy", "%s allows no OIDC provider, and STS accepts the token: the role has another trust policy now", e.PolicyName)
		return
	case len(problems) == 0, problems[0].Kind == trustpolicy.NothingFederated:
		e.add(failure("trust-policy", trustpolicy.NothingFederated, e.PolicyName+" allows no OIDC provider: no token of a service account can assume the role"))
		return
	}
	for i, p := range problems {
		f := failure("trust-policy", p.Kind, fmt.Sprintf("%s line %d: %s", e.PolicyName, p.Line, p.Text))
		if p.Kind.TooBroad() {
			f.Status = Warn
		} else if i > 0 || e.accepted() { // the others follow from the first: nobody's issuer is known
			continue
		}
		e.add(f)
	}
}

// accepted reports whether STS has accepted the token, which no policy in a file outweighs.
func (e *examination) accepted() bool {
	return slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Check == "sts" && f.Status == OK })
}

// reportOtherRole reports that the policy is not that of the role in AWS_ROLE_ARN. The two may differ only in the path.
func (e *examination) reportOtherRole(arn string) {
	f := failure("trust-policy", trustpolicy.OtherRole,
		fmt.Sprintf("the role compared is not the role assumed: %s has the trust policy of %s, and AWS_ROLE_ARN is %s", e.PolicyName, arn, e.Exchange.RoleARN))
	name := func(arn string) string { return arn[strings.LastIndexAny(arn, "/:")+1:] }
	if name(arn) == name(e.Exchange.RoleARN) {
		f.Finding += "; an ARN includes the role's path"
	}
	if e.accepted() {
		f.Status = Warn
	}
	e.add(f)
}

// reportOpenPolicy says what the policy allows beyond the token that STS has accepted.
func (e *examination) reportOpenPolicy(policy *trustpolicy.Policy) {
	problems := policy.Review(e.identity)
	open := slices.DeleteFunc(slices.Clone(problems), func(p trustpolicy.Problem) bool { return !p.Kind.TooBroad() })
	switch {
	case len(open) > 0:
		e.reportProblems(policy, open)
	case policy.Decide(e.identity) == trustpolicy.Refused:
		e.ok("trust-policy", "%s would not allow this token, and STS accepts it: the role has another trust policy now", e.PolicyName)
	default:
		e.ok("trust-policy", "%s allows %s with the audience %s", e.PolicyName, e.identity.Subject, e.identity.Audience)
	}
}

func (e *examination) reportPolicy(policy *trustpolicy.Policy) {
	problems := policy.Review(e.identity)
	if len(problems) > 0 {
		e.reportProblems(policy, problems)
		return
	}
	e.ok("trust-policy", "%s allows %s with the audience %s", e.PolicyName, e.identity.Subject, e.identity.Audience)
	if e.denied() {
		e.add(warning("trust-policy", trustpolicy.OtherCondition,
			"STS refuses anyway: the role in AWS_ROLE_ARN does not exist or has another trust policy, or an SCP, an RCP or the VPC endpoint's policy denies it",
			e.fixReadPolicy("compare it with the role's trust policy in IAM now")))
	}
}

// denied reports whether STS has refused without saying more.
func (e *examination) denied() bool {
	return slices.ContainsFunc(e.findings, func(f Finding) bool {
		return f.Check == "sts" && f.Status == Fail && f.Key == string(cache.AccessDenied)
	})
}

// reportProblems reports what is wrong with the policy. What only AWS can tell is a failure if STS has refused: everything
// else holds.
func (e *examination) reportProblems(policy *trustpolicy.Policy, problems []trustpolicy.Problem) {
	doubtful := policy.Decide(e.identity) == trustpolicy.Undecided && !e.denied()
	for i, p := range problems {
		where := fmt.Sprintf("%s line %d", e.PolicyName, p.Line)
		if len(policy.Statements) > 1 && p.Statement > 0 {
			where += fmt.Sprintf(", statement %d", p.Statement)
		}
		f := failure("trust-policy", p.Kind, where+": "+p.Text)
		if p.Kind.TooBroad() || doubtful && p.Kind != trustpolicy.WrongOperator {
			f.Status = Warn
		}
		if i == len(problems)-1 {
			f.Fixes = e.fixGivenPolicy(policy)
		}
		e.add(f)
	}
}

// fixReadPolicy passes the role's trust policy from where there is an aws to where there is a token.
func (e *examination) fixReadPolicy(what string) Fix {
	doctor := "irsa-sidecar doctor"
	if e.inPod() {
		doctor = fmt.Sprintf("kubectl exec -i -n %s %s -c irsa-sidecar -- /irsa-sidecar doctor", e.namespace(), e.pod())
	}
	return Fix{what, shell, fmt.Sprintf("aws iam get-role --role-name %s | %s --trust-policy -", e.roleName(), doctor)}
}

// fixGivenPolicy proposes the smallest edit of the given policy that lets the identity in, or says why there is none. If STS
// has accepted the token there is nothing to let in.
func (e *examination) fixGivenPolicy(policy *trustpolicy.Policy) []Fix {
	if e.accepted() && policy.Decide(e.identity) != trustpolicy.Allowed {
		return nil
	}
	edit, err := policy.Propose(e.identity)
	if err != nil {
		return []Fix{{What: inWords(err.Error())}}
	}
	fixes := []Fix{
		{"change only these lines of the trust policy (line number, - old, + new)", changes, edit.Diff},
		e.fixTrust("or, if IAM still has the policy as it was given, overwrite it with the one that has this change", edit.Document),
	}
	for _, more := range []string{edit.Warning, edit.Note} {
		if more != "" {
			fixes = append(fixes, Fix{What: inWords(more)})
		}
	}
	return fixes
}

// inWords makes a text in which others' names may be fit for a line of a report.
func inWords(text string) string {
	return redact.Shorten(redact.Scrub(redact.OneLine(text)), maxFinding)
}
