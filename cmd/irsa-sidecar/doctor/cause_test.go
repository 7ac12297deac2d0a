package doctor

import (
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// The cause is the first finding that explains how the exchange failed; what only happens to be wrong too is not.
func TestTheCauseExplainsTheExchange(t *testing.T) {
	ok := func(check string) Finding { return Finding{Check: check, Status: OK, Finding: "fine"} }
	fail := func(check string, key any) Finding {
		return Finding{Check: check, Status: Fail, Key: keys(key)[0], Finding: check + " is wrong"}
	}
	warn := func(check string, key any) Finding {
		f := fail(check, key)
		f.Status = Warn
		return f
	}
	notChecked := warn("not checked", NotChecked)
	for _, row := range []struct {
		name         string
		findings     []Finding
		cause        string // the check
		consequences string
	}{
		{"all is well", []Finding{ok("environment"), ok("sts")}, "", ""},
		{"only warnings", []Finding{warn("audience", AudienceUnusual), ok("sts")}, "", ""},

		{"no environment", []Finding{fail("environment", NotAnnotated), notChecked}, "environment", "not checked"},
		{"keys are no reason", []Finding{fail("environment", KeyPairBroken), fail("dns", cache.EndpointNotFound), notChecked}, "dns", "not checked"},
		{"keys alone", []Finding{fail("environment", KeyPairBroken), ok("sts")}, "environment", ""},
		{"keys, and STS refuses", []Finding{fail("environment", KeyPairBroken), fail("sts", cache.AccessDenied)}, "sts", ""},
		{"the port is taken, and STS refuses", []Finding{fail("sidecar", PortTaken), fail("sts", cache.AccessDenied)}, "sts", ""},
		{"no file before no DNS", []Finding{fail("token-file", cache.TokenFileMissing), fail("dns", cache.EndpointNotFound), notChecked}, "token-file", "not checked"},
		{"an expired token does not keep the doctor from asking", []Finding{fail("token", cache.ExpiredTokenException), fail("connect", cache.EndpointTimeout), notChecked}, "connect", "not checked"},

		{"an expired token", []Finding{fail("token", cache.ExpiredTokenException), fail("sts", cache.ExpiredTokenException)}, "token", "sts"},
		{"a copy that expired", []Finding{warn("token-file", TokenFileStatic), fail("token", cache.ExpiredTokenException), fail("sts", cache.ExpiredTokenException)}, "token-file", "token sts"},
		{"a copy that is refused", []Finding{warn("token-file", TokenFileStatic), fail("sts", cache.AccessDenied)}, "sts", ""},
		{"an old token that is refused as too old", []Finding{warn("token", TokenNotRotated), fail("sts", cache.ExpiredTokenException)}, "token", "sts"},
		{"the node's clock", []Finding{fail("token", TokenFromTheFuture), fail("clock", ClockSkew), fail("sts", cache.IDPRejectedClaim)}, "clock", "token sts"},

		{"an audience with a typo", []Finding{warn("audience", AudienceUnusual), fail("sts", AudienceNotRegistered)}, "audience", "sts"},
		{"an audience of its own", []Finding{warn("audience", AudienceUnusual), fail("sts", cache.AccessDenied)}, "sts", ""},
		{"no https", []Finding{fail("issuer", IssuerNotHTTPS), fail("sts", ProviderMissing)}, "issuer", "sts"},
		{"the issuer cannot be read by anybody", []Finding{warn("signature", IssuerUnreachable), fail("sts", IssuerUnreachable)}, "signature", "sts"},
		{"STS cannot read the issuer", []Finding{warn("signature", IssuerUnreachable), fail("sts", cache.IDPCommunicationError)}, "signature", "sts"},
		{"the issuer cannot be read from here", []Finding{warn("signature", IssuerUnreachable), fail("sts", ProviderMissing)}, "sts", ""},
		{"a rebuilt cluster", []Finding{fail("signature", KeyUnknown), fail("sts", KeyUnknown)}, "signature", "sts"},

		{"a policy", []Finding{fail("sts", cache.AccessDenied), fail("trust-policy", "PolicySubject")}, "trust-policy", "sts"},
		{"a policy with two mistakes", []Finding{fail("sts", cache.AccessDenied), fail("trust-policy", "PolicyAction"), fail("trust-policy", "PolicySubject")}, "trust-policy", "sts"},
		{"a condition that only AWS can evaluate", []Finding{fail("sts", cache.AccessDenied), warn("trust-policy", "PolicyCondition")}, "trust-policy", "sts"},
		{"a mistake before a condition", []Finding{fail("sts", cache.AccessDenied), warn("trust-policy", "PolicyCondition"), fail("trust-policy", "PolicySubject")}, "trust-policy", "sts"},
		{"an open policy denies nothing", []Finding{fail("sts", cache.AccessDenied), warn("trust-policy", "PolicyNoAudience")}, "sts", ""},
		{"a policy and an expired token", []Finding{fail("token", cache.ExpiredTokenException), fail("sts", cache.ExpiredTokenException), fail("trust-policy", "PolicySubject")}, "token", "sts"},
		{"a copied token", []Finding{warn("subject", NamespaceMismatch), fail("sts", cache.AccessDenied)}, "subject", "sts"},

		{"no exchange and no reason", []Finding{fail("pod", "PodGone")}, "pod", ""},
	} {
		r := &Report{Findings: row.findings}
		r.Conclude()
		r.Conclude() // as after a change
		var consequences []string
		for _, f := range r.Findings {
			if f.Consequence {
				consequences = append(consequences, f.Check)
			}
		}
		cause := ""
		if r.Cause != nil {
			cause = r.Cause.Check
		}
		if cause != row.cause || strings.Join(consequences, " ") != row.consequences {
			t.Errorf("%s: the cause is %q with the consequences %q, want %q with %q", row.name, cause, consequences, row.cause, row.consequences)
		}
	}
}

func TestTheCauseIsAFailureBeforeAWarning(t *testing.T) {
	r := &Report{Findings: []Finding{
		{Check: "sts", Status: Fail, Key: "AccessDenied", Finding: "no"},
		{Check: "trust-policy", Status: Warn, Key: "PolicyCondition", Finding: "perhaps"},
		{Check: "trust-policy", Status: Fail, Key: "PolicySubject", Finding: "line 13: all of it", Summary: "line 13"},
	}}
	r.Conclude()
	if want := (Cause{Check: "trust-policy", Key: "PolicySubject", Text: "line 13"}); r.Cause == nil || *r.Cause != want {
		t.Errorf("the cause is %+v, want %+v", r.Cause, want)
	}
}

// A check that can explain others is one that the doctor makes.
func TestEveryExplanationIsOfACheck(t *testing.T) {
	checks := []string{"dns", "connect", "tls", "clock"} // which are skipped in some reports
	for _, f := range newWorld(t).examine().Findings {
		checks = append(checks, f.Check)
	}
	checks = append(checks, "trust-policy", "config-file", "role-file")
	checks = append(checks, "node", "pod", "service-account", "webhook", "volume", "container", "eks-cluster", "iam-provider", "iam-role") // kubectl-irsa's
	for _, x := range explanations() {
		if !slices.Contains(checks, x.check) {
			t.Errorf("there is no check %s", x.check)
		}
	}
}
