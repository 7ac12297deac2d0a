package doctor

import (
	"slices"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// STS's yes outweighs whatever a check has found, under each key that there is.
func TestNothingOfAnAcceptedExchangeFails(t *testing.T) {
	var all []string
	for _, entry := range Entries() {
		all = append(all, entry.Key)
	}
	for _, reason := range cache.Reasons() {
		all = append(all, string(reason))
	}
	for _, check := range []string{"role", "token-file", "token", "audience", "subject", "issuer", "dns", "connect", "tls", "clock", "signature", "trust-policy", "environment", "sidecar"} {
		for _, key := range all {
			e := &examination{findings: []Finding{{Check: check, Status: Fail, Key: key, Finding: "wrong", Advice: "do this"}, {Check: "sts", Status: OK}}}
			e.reconcile()
			r := &Report{Findings: e.findings}
			r.Conclude()
			stays := check == "environment" || check == "sidecar" || key == string(trustpolicy.NotAPolicy)
			if got := r.Result == Fail; got != stays || (r.Cause != nil) != stays {
				t.Errorf("%s %s: fails: %v, and the cause is %v", check, key, got, r.Cause)
			}
			e.findings = []Finding{{Check: check, Status: Fail, Key: key}, {Check: "sts", Status: Fail, Key: string(cache.AccessDenied)}}
			e.reconcile()
			if e.findings[0].Status != Fail && !e.deniedElsewhere() {
				t.Errorf("%s %s: STS has refused, and the finding is %v", check, key, e.findings[0].Status)
			}
		}
	}
}

// A file without a provider is outweighed by STS too.
func TestAnAcceptedTokenAndAPolicyThatNamesNoProvider(t *testing.T) {
	for accepted, want := range map[bool]Status{true: OK, false: Fail} {
		e := &examination{Options: Options{PolicyName: "trust.json", Policy: []byte(`{"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}`)}}
		if accepted {
			e.ok("sts", "the exchange works")
		}
		e.checkPolicy()
		if last := e.findings[len(e.findings)-1]; last.Check != "trust-policy" || last.Status != want {
			t.Errorf("accepted %v: found %+v", accepted, last)
		}
	}
}

// Where nothing has failed, nothing was skipped because of a failure.
func TestWhyACheckWasNotMade(t *testing.T) {
	for _, row := range []struct {
		findings []Finding
		want     string
	}{
		{[]Finding{{Check: "dns", Status: Fail}}, "skipped because of the failures above: clock, signature"},
		{[]Finding{{Check: "sts", Status: OK}, {Check: "issuer", Status: Warn}}, "could not be checked from here: clock, signature"},
	} {
		e := &examination{findings: slices.Clone(row.findings), skipped: []string{"clock", "signature"}}
		e.reportSkipped()
		if got := e.findings[len(e.findings)-1].Finding; got != row.want {
			t.Errorf("%v: %s, want %s", row.findings, got, row.want)
		}
	}
}
