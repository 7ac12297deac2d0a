package doctor

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// Cause is the finding from which the failure of the exchange follows.
type Cause struct {
	Check string `json:"check"`
	Hop   string `json:"hop,omitempty"` // the finding's
	Key   string `json:"key"`
	Text  string `json:"text"` // one line, which names the hop
}

// explanation says what the findings of a check can be the reason for: a failure for an exchange that failed with one of
// the keys in fail, and a warning for one of those in warn.
type explanation struct {
	check      string
	only       []string // the keys of the findings that count; nil: all
	fail, warn []string
}

// noExchange is the key of an exchange that was not made.
const noExchange = ""

// explanations returns the checks of an exchange, each before those whose findings it can explain: the environment names
// the token, the token its issuer, and STS has the last word. A check that is not listed has no part in an exchange.
func explanations() []explanation {
	// The keys for STS's InvalidIdentityToken, whose words leave open what is wrong with the token, its issuer or its
	// provider.
	badToken := keys(cache.InvalidIdentityToken, cache.IDPCommunicationError, cache.IDPRejectedClaim, cache.TokenFileMalformed,
		ProviderMissing, AudienceNotRegistered, ThumbprintMismatch, TokenLegacy, TokenClaimMissing, TokenClaimMalformed,
		IssuerNotHTTPS, IssuerNotPublic, IssuerMalformed, IssuerUnreachable, IssuerMismatch, IssuerIncomplete, KeyUnknown, SignatureInvalid)
	unset := keys(noExchange, NotAnnotated, HalfAnnotated, RoleARNMalformed, cache.TokenFileMissing)
	expired := keys(cache.ExpiredTokenException)
	denied := keys(cache.AccessDenied)
	unread := keys(IssuerUnreachable, cache.IDPCommunicationError)
	return []explanation{
		// What kubectl-irsa sees from outside of the Pod.
		{check: "node", fail: unset},
		{check: "service-account", fail: append(unset, denied...)},
		{check: "webhook", fail: unset},
		{check: "volume", fail: unset},
		{check: "container", fail: unset},
		{check: "pod", fail: unset},

		{check: "environment", only: keys(NotAPod, NotAnnotated, HalfAnnotated, ConfigurationMistake), fail: keys(noExchange)},
		{check: "config-file", fail: keys(noExchange)},
		{check: "role-file", fail: keys(noExchange)},
		{check: "role", fail: keys(noExchange, cache.ValidationError)},
		{check: "clock", fail: keys(TokenFromTheFuture, cache.ExpiredTokenException, cache.IDPRejectedClaim)},
		{check: "token-file", fail: append(keys(noExchange), badToken...), warn: expired},
		{check: "token", fail: append(badToken, expired...), warn: expired},
		{check: "audience", fail: badToken, warn: keys(AudienceNotRegistered, ProviderMissing)},
		{check: "subject", fail: append(badToken, denied...), warn: denied},
		{check: "issuer", fail: badToken},
		{check: "dns", fail: keys(noExchange)},
		{check: "connect", fail: keys(noExchange)},
		{check: "tls", fail: keys(noExchange)},
		{check: "signature", fail: append(keys(IssuerNotPublic, IssuerMismatch, IssuerIncomplete, KeyUnknown, SignatureInvalid), unread...), warn: unread},
		// What kubectl-irsa reads in AWS.
		{check: "eks-cluster", fail: badToken},
		{check: "iam-provider", fail: badToken},
		{check: "iam-role", fail: append(denied, keys(cache.ValidationError)...)},

		{check: "trust-policy", fail: denied, warn: denied},
	}
}

// keys takes the keys of all types.
func keys(all ...any) []string {
	texts := make([]string, len(all))
	for i, key := range all {
		texts[i] = fmt.Sprint(key)
	}
	return texts
}

// explains returns the keys that a finding can be the reason for.
func (x explanation) explains(f Finding) []string {
	switch {
	case f.Check != x.check, x.only != nil && !slices.Contains(x.only, f.Key), trustpolicy.Kind(f.Key).TooBroad():
		return nil
	case f.Status == Fail:
		return x.fail
	case f.Status == Warn:
		return x.warn
	}
	return nil
}

// Conclude computes the result, the cause and its consequences from the findings. Call it again after a change of the
// findings.
func (r *Report) Conclude() {
	r.Result, r.Cause = OK, nil
	first, exchange := -1, -1
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Consequence = false
		r.Result = max(r.Result, f.Status)
		if f.Status == Fail && first < 0 {
			first = i
		}
		if isExchange(f.Check) && (exchange < 0 || f.Status == Fail) {
			exchange = i
		}
	}
	if first < 0 {
		return
	}
	cause, because := first, []string(nil)
	if exchange < 0 {
		if i, keys := r.explain(Finding{Key: noExchange}); i >= 0 {
			cause, because = i, append(keys, string(NotChecked))
		}
	} else if f := r.Findings[exchange]; f.Status == Fail {
		cause = exchange
		if i, keys := r.explain(f); i >= 0 {
			cause, because = i, keys
		}
	}
	f := r.Findings[cause]
	r.Cause = &Cause{f.Check, f.Hop, f.Key, f.prefix() + cmp.Or(f.Summary, f.Finding)}
	for i := range r.Findings {
		other := &r.Findings[i]
		follows := slices.Contains(because, other.Key) && (f.Hop == other.Hop || other.Hop == "") || other.Check == "app" && other.Key == f.Key // the app's verdict
		other.Consequence = follows && other.Status != OK && other.Check != f.Check
	}
}

// isExchange reports whether a check is a request to STS.
func isExchange(check string) bool { return check == "sts" || check == checkHop }

// explain returns the first finding that is a reason for how an exchange ended, and all keys that it is a reason for; -1 if
// there is none.
func (r *Report) explain(exchange Finding) (index int, because []string) {
	for _, x := range explanations() {
		for _, status := range []Status{Fail, Warn} {
			for i, f := range r.Findings {
				sameHop := exchange.Hop == "" || f.Hop == "" || f.Hop == exchange.Hop
				if because := x.explains(f); f.Status == status && sameHop && slices.Contains(because, exchange.Key) {
					return i, because
				}
			}
		}
	}
	return -1, nil
}
