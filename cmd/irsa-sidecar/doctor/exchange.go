package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

const exchangeTimeout = 5 * time.Second

// checkExchange asks STS, once.
func (e *examination) checkExchange(ctx context.Context) {
	if e.token == "" || e.Exchange.RoleARN == "" || slices.ContainsFunc(e.Mistakes, aboutExchange) || e.failed("dns", "connect", "tls") {
		e.skip("sts")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	creds, err := webidentity.New(e.Exchange).Fetch(ctx)
	if err != nil {
		failure := fetchError(err)
		key, fixes := e.decide(failure)
		e.add(Finding{Check: "sts", Status: Fail, Key: key, Finding: failure.Message, Advice: failure.Reason.Advice(), Fixes: fixes})
		return
	}
	e.ok("sts", "the exchange works")
	lifetime := creds.Expiration.Sub(e.now)
	e.ok("identity", "%s, in account %s, for %s", creds.Identity, creds.AccountID, spell(lifetime.Round(time.Minute)))
	if asked := e.Exchange.Duration; asked > 0 && lifetime < asked-time.Minute {
		e.add(Finding{Check: "sts", Status: Warn, Key: string(DurationTooLong),
			Finding: fmt.Sprintf("IRSA_SIDECAR_DURATION asks for %s, and the role does not allow that", spell(asked)), Fixes: []Fix{e.fixDuration()}})
	}
}

// decide names the cause of a failure. AWS has reworded its messages, so the code comes first, and what
// the other checks have found second; words count only where they say more than these.
func (e *examination) decide(f *cache.FetchError) (key string, fixes []Fix) {
	says := func(words string) bool { return strings.Contains(strings.ToLower(f.Message), words) }
	switch f.Reason {
	case cache.InvalidIdentityToken:
		cause := e.causeOfInvalidToken(says)
		switch cause {
		case TokenLegacy:
			return string(cause), e.fixVolume()
		case AudienceNotRegistered:
			return string(cause), slices.Concat(e.fixClientID(), e.fixAudience())
		case ThumbprintMismatch:
			return string(cause), e.fixThumbprint()
		case IssuerUnreachable:
			return string(cause), []Fix{fixIssuer(strings.TrimSuffix(e.claims.Issuer, "/") + "/.well-known/openid-configuration")}
		case IssuerMismatch, KeyUnknown, SignatureInvalid: // the check of the signature has said what to do
			return string(cause), nil
		case ProviderMissing:
			return string(cause), e.fixProvider()
		}
		return string(cache.TokenFileMalformed), e.fixMalformed()
	case cache.IDPCommunicationError:
		return string(f.Reason), []Fix{fixIssuer(strings.TrimSuffix(e.claims.Issuer, "/") + "/.well-known/openid-configuration")}
	}
	return string(f.Reason), e.fixReason(f)
}

// causeOfInvalidToken chooses among the causes that STS has one code for. An empty key is for a file
// that holds something else than a token.
func (e *examination) causeOfInvalidToken(says func(string) bool) Key {
	switch {
	case says("not a valid jwt"):
		return ""
	case len(e.claims.Audience) == 0, says("missing a required claim: aud"):
		return TokenLegacy
	case says("no openidconnect provider"):
		return ProviderMissing
	case says("audience"):
		return AudienceNotRegistered
	case says("thumbprint"):
		return ThumbprintMismatch
	case e.issuer == disowns:
		return e.disowning
	case e.issuer == unreachable:
		return IssuerUnreachable
	case !slices.Contains(e.claims.Audience, stsAudience):
		return AudienceNotRegistered
	}
	return ProviderMissing
}

// checkPolicy holds the trust policy that was given against the token.
func (e *examination) checkPolicy() {
	if e.Policy == nil {
		return
	}
	policy, err := trustpolicy.Parse(e.Policy)
	if err != nil {
		e.add(Finding{Check: "trust-policy", Status: Fail, Key: string(trustpolicy.NotAPolicy), Finding: e.PolicyName + ", " + err.Error(),
			Fixes: []Fix{{"give it what IAM has", shell, fmt.Sprintf("aws iam get-role --role-name %s | irsa-sidecar doctor --trust-policy -", e.roleName())}}})
		return
	}
	if e.identity.Subject == "" {
		e.skip("trust-policy")
		return
	}
	problems := policy.Review(e.identity)
	if len(problems) == 0 {
		e.ok("trust-policy", "%s lets in %s, for %s", e.PolicyName, e.identity.Subject, e.identity.Audience)
		if e.failed("sts") && slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Key == string(cache.AccessDenied) }) {
			e.add(Finding{Check: "trust-policy", Status: Warn, Key: string(trustpolicy.OtherCondition),
				Finding: "and yet STS refuses: the role in AWS_ROLE_ARN has another trust policy or does not exist, or an SCP, an RCP or the VPC endpoint's policy denies it",
				Fixes:   []Fix{{"compare with what IAM has now", shell, fmt.Sprintf("aws iam get-role --role-name %s | irsa-sidecar doctor --trust-policy -", e.roleName())}}})
		}
		return
	}
	decision := policy.Decide(e.identity)
	for i, p := range problems {
		f := Finding{Check: "trust-policy", Status: Fail, Key: string(p.Kind), Finding: fmt.Sprintf("%s, line %d, statement %d: %s", e.PolicyName, p.Line, p.Statement, p.Text)}
		if p.Statement == 0 {
			f.Finding = e.PolicyName + ": " + p.Text
		}
		if p.Kind.Lax() || decision == trustpolicy.Undecided {
			f.Status = Warn
		}
		if i == len(problems)-1 {
			f.Fixes = e.fixGivenPolicy(policy)
		}
		e.add(f)
	}
}

// fixGivenPolicy proposes the given policy with the right statement in it, where that mends it.
func (e *examination) fixGivenPolicy(policy *trustpolicy.Policy) []Fix {
	mended := policy.Mend(e.identity)
	after, err := trustpolicy.Parse(mended)
	if err != nil || after.Decide(e.identity) != trustpolicy.Allowed {
		return []Fix{{What: "take the statement that denies away, or make an exception for this service account in it"}}
	}
	if len(after.Review(e.identity)) > 0 {
		return []Fix{{What: "put the missing condition into the statement; it also names others, whom a new one would shut out"}}
	}
	what := "put the corrected policy in its place; all else that the old one says is still in it"
	if slices.ContainsFunc(policy.Review(e.identity), func(p trustpolicy.Problem) bool {
		return p.Kind == trustpolicy.MissingSubject || p.Kind == trustpolicy.AnyPrincipal
	}) {
		what = "put the narrower policy in its place, after giving a statement to each other service account that relies on the old one"
	}
	return []Fix{e.fixTrust(what, mended)}
}
