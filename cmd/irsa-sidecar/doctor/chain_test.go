package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// The two roles that are chained to the Pod's own, in accounts of their own.
const (
	hubARN   = "arn:aws:iam::444455556666:role/hub"
	auditARN = "arn:aws:iam::777788889999:role/org/audit"
)

// newChain is a world whose configuration file has a chain of three: default, hub and audit, which is examined.
func newChain(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	w.sts.Change(func(o *ststest.Options) {
		o.Roles = map[string]ststest.Role{
			roleARN:  {Trusted: []string{ststest.Tokens}},
			hubARN:   {Trusted: []string{roleARN}},
			auditARN: {Trusted: []string{hubARN}},
		}
	})
	w.options.Profile, w.options.First = "audit", "default"
	w.options.Profiles = []string{"default", "audit", "hub"}
	w.options.Files = []ConfigFile{{Variable: configVariable, Path: "/etc/irsa-sidecar/config"}}
	w.options.Hops = []Hop{
		{Profile: "hub", Section: "[profile hub]", Exchange: webidentity.Options{RoleARN: hubARN, Assume: &webidentity.Assume{}}},
		{Profile: "audit", Section: "[profile audit]", Exchange: webidentity.Options{RoleARN: auditARN, Assume: &webidentity.Assume{}}},
	}
	return w
}

// complete gives a hop what all exchanges of a world have in common.
func (h *Hop) complete(w *world) {
	o, own := w.options.Exchange, h.Exchange
	o.RoleARN, o.Assume, o.Duration, o.Policy, o.PolicyARNs = own.RoleARN, own.Assume, own.Duration, own.Policy, own.PolicyARNs
	if own.Region != "" {
		o.Region = own.Region
	}
	h.Exchange = o
}

// role changes a role in IAM.
func (w *world) role(arn string, change func(*ststest.Role)) {
	w.sts.Change(func(o *ststest.Options) {
		role := o.Roles[arn]
		change(&role)
		o.Roles[arn] = role
	})
}

// answer has STS answer all requests for a role with a fault.
func (w *world) answer(arn string, f ststest.Fault) {
	w.role(arn, func(r *ststest.Role) { r.Fault = f })
}

func (w *world) hub() *webidentity.Options   { return &w.options.Hops[0].Exchange }
func (w *world) audit() *webidentity.Options { return &w.options.Hops[1].Exchange }

// deniedAs is AssumeRole's refusal that says whose policy refuses.
func deniedAs(words string) ststest.Fault {
	f := ststest.NotAuthorized("arn:aws:sts::"+account+":assumed-role/app/shop.cart-7c9f", "sts:AssumeRole", hubARN)
	f.Message += " " + words
	return f
}

// chainFaults has a row for each way in which a chain fails. The key and the hop are the cause's.
var chainFaults = []struct {
	name     string
	fault    func(*world)
	key, hop string
}{
	{"chain-not-trusted", func(w *world) { w.role(hubARN, func(r *ststest.Role) { r.Trusted = []string{} }) }, "AccessDenied", "hub"},
	{"chain-trusts-another", func(w *world) { w.role(hubARN, func(r *ststest.Role) { r.Trusted = []string{roleARN + "2"} }) }, "AccessDenied", "hub"},
	{"chain-last-not-trusted", func(w *world) { w.role(auditARN, func(r *ststest.Role) { r.Trusted = []string{roleARN} }) }, "AccessDenied", "audit"},
	{"chain-no-role", func(w *world) { w.hub().RoleARN = hubARN + "s" }, "AccessDenied", "hub"},
	{"chain-same-account", func(w *world) { w.hub().RoleARN = "arn:aws:iam::" + account + ":role/hub" }, "AccessDenied", "hub"},
	{"chain-no-external-id", func(w *world) { w.role(hubARN, func(r *ststest.Role) { r.ExternalID = "shop-4711" }) }, "AccessDenied", "hub"},
	{"chain-another-external-id", func(w *world) {
		w.role(hubARN, func(r *ststest.Role) { r.ExternalID = "shop-4711" })
		w.hub().Assume.ExternalID = "shop-4712-secret-of-two"
	}, "AccessDenied", "hub"},
	{"chain-tags", func(w *world) {
		w.role(hubARN, func(r *ststest.Role) { r.Denied = []string{"sts:TagSession"} })
		w.hub().Assume.Tags = map[string]string{"team": "shop"}
	}, "TagSessionDenied", "hub"},
	{"chain-tags-that-stay", func(w *world) {
		w.role(auditARN, func(r *ststest.Role) { r.Denied = []string{"sts:TagSession"} })
		w.hub().Assume.Tags, w.hub().Assume.TransitiveTags = map[string]string{"team": "shop"}, []string{"team"}
	}, "TagSessionDenied", "audit"},
	{"chain-source-identity", func(w *world) {
		w.role(hubARN, func(r *ststest.Role) { r.Denied = []string{"sts:SetSourceIdentity"} })
		w.hub().Assume.SourceIdentity, w.hub().Assume.ExternalID = "cart", "shop-4711"
		w.hub().Assume.Tags = map[string]string{"team": "shop"}
	}, "TagSessionDenied", "hub"},
	{"chain-tag-set-twice", func(w *world) {
		for _, o := range []*webidentity.Options{w.hub(), w.audit()} {
			o.Assume.Tags, o.Assume.TransitiveTags = map[string]string{"team": "shop"}, []string{"team"}
		}
	}, "InvalidParameterValue", "audit"},
	{"chain-session-policy-of-the-source", func(w *world) {
		w.options.Exchange.Policy = `{"Version": "2012-10-17", "Statement": []}`
		w.role(hubARN, func(r *ststest.Role) { r.Trusted = []string{} })
	}, "AccessDenied", "hub"},
	{"chain-denied-by-the-source", func(w *world) {
		w.answer(hubARN, deniedAs("because no identity-based policy allows the sts:AssumeRole action"))
	}, "SourceNotAllowed", "hub"},
	{"chain-denied-by-the-trust-policy", func(w *world) {
		w.answer(hubARN, deniedAs("because no resource-based policy allows the sts:AssumeRole action"))
	}, "AccessDenied", "hub"},
	{"chain-denied-by-a-deny", func(w *world) {
		w.answer(hubARN, deniedAs("with an explicit deny in a resource-based policy"))
	}, "AccessDenied", "hub"},
	{"chain-denied-by-the-session-policy", func(w *world) {
		w.answer(hubARN, deniedAs("because no session policy allows the sts:AssumeRole action"))
	}, "DeniedByPolicy", "hub"},
	{"chain-denied-by-a-boundary", func(w *world) {
		w.answer(hubARN, deniedAs("because no permissions boundary allows the sts:AssumeRole action"))
	}, "DeniedByPolicy", "hub"},
	{"chain-denied-by-an-scp", func(w *world) {
		w.answer(hubARN, deniedAs("with an explicit deny in a service control policy"))
	}, "DeniedByOrganization", "hub"},
	{"chain-denied-by-an-rcp", func(w *world) {
		w.answer(hubARN, deniedAs("with an explicit deny in a resource control policy"))
	}, "DeniedByOrganization", "hub"},
	{"chain-denied-by-the-endpoint", func(w *world) {
		w.answer(hubARN, deniedAs("because no VPC endpoint policy allows the sts:AssumeRole action"))
	}, "DeniedByEndpointPolicy", "hub"},
	{"chain-duration", func(w *world) { w.hub().Duration = 12 * time.Hour }, "", ""},
	{"chain-duration-refused", func(w *world) { w.answer(hubARN, ststest.ChainedTooLong) }, "ValidationError", "hub"},
	{"chain-validation", func(w *world) {
		w.answer(hubARN, ststest.Fault{Status: 400, Code: "ValidationError", Message: "1 validation error detected: Value 'a b' at 'sourceIdentity' failed to satisfy constraint"})
	}, "ValidationError", "hub"},
	{"chain-policy-too-large", func(w *world) {
		w.audit().Assume.Tags = map[string]string{"team": "shop"}
		w.answer(auditARN, ststest.Fault{Status: 400, Code: "PackedPolicyTooLarge", Message: "Packed size of session tags consumes 112% of allotted space."})
	}, "PackedPolicyTooLarge", "audit"},
	{"chain-policy-malformed", func(w *world) { w.audit().Policy = "{" }, "MalformedPolicyDocument", "audit"},
	{"chain-source-expired", func(w *world) { w.answer(hubARN, ststest.ExpiredSession) }, "ExpiredToken", "hub"},
	{"chain-signed-too-early", func(w *world) {
		w.answer(hubARN, ststest.SignatureExpired(time.Unix(1800000000, 0), time.Unix(1800000000, 0).Add(-time.Hour)))
	}, "RequestExpired", "hub"},
	{"chain-signature", func(w *world) { w.answer(hubARN, ststest.SignatureDoesNotMatch) }, "SignatureDoesNotMatch", "hub"},
	{"chain-region-off", func(w *world) { w.answer(hubARN, ststest.RegionDisabled(account)) }, "RegionDisabledException", "hub"},
	{"chain-region-of-its-own", func(w *world) { w.audit().Region = "us-wst-2" }, "EndpointNotFound", "audit"},
	{"chain-client-token-id", func(w *world) { w.answer(hubARN, ststest.InvalidClientTokenID) }, "InvalidClientTokenId", "hub"},
	{"chain-another-partition", func(w *world) { w.audit().RoleARN = "arn:aws-cn:iam::777788889999:role/audit" }, "OtherPartition", "audit"},
	{"chain-throttled", func(w *world) { w.answer(auditARN, ststest.Throttling) }, "Throttling", "audit"},
	{"chain-503", func(w *world) { w.answer(auditARN, ststest.HTMLPage(503)) }, "ServiceUnavailable", "audit"},
	{"chain-without-a-beginning", func(w *world) { w.trust("shop:cart", "shop:web") }, "AccessDenied", "default"},
	{"chain-without-a-token", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = "/nowhere/token" }, "TokenFileMissing", "default"},
	{"chain-with-mistakes", func(w *world) {
		w.options.Mistakes = []Mistake{
			{Variable: configVariable, Text: `/etc/irsa-sidecar/config, line 7, [profile audit]: external_id must have 2 to 1224 characters, and has 1`, Profile: "audit"},
			{Variable: configVariable, Text: `/etc/irsa-sidecar/config, line 12, [profile other]: source_profile is "hubb", and there is no such profile; did you mean "hub"?`, Profile: "other"},
		}
	}, "ConfigurationMistake", ""},
	{"chain-file-unreadable", func(w *world) {
		w.options.Hops, w.options.Section = nil, "[profile audit]"
		delete(w.env, "AWS_ROLE_ARN")
		w.options.Mistakes = []Mistake{{Variable: configVariable, Text: "/etc/irsa-sidecar/config does not exist"}}
	}, "ConfigurationMistake", ""},
	{"role-file-empty", func(w *world) {
		w.options.Hops, w.options.Profile, w.options.First, w.options.Profiles = nil, "", "", nil
		w.options.Files = []ConfigFile{{Variable: roleFileVariable, Path: "/etc/podinfo/role"}}
		w.options.RoleVariable = roleFileVariable
		delete(w.env, "AWS_ROLE_ARN")
		w.options.Mistakes = []Mistake{{Variable: roleFileVariable, Text: "/etc/podinfo/role is empty; if it comes from an annotation, the Pod does not have that annotation"}}
	}, "ConfigurationMistake", ""},
	{"chain-not-taken", func(w *world) {
		w.identity(`{"profile": "audit", "roleArn": "` + auditARN + `", "valid": true, "remainingSeconds": 1800, "configurationFault": "AWS_CONFIG_FILE /etc/irsa-sidecar/config, line 7: has no ="}`)
	}, "", ""},
	{"chain-another-role-runs", func(w *world) {
		w.identity(`{"profile": "audit", "roleArn": "` + auditARN + `2", "valid": true, "remainingSeconds": 1800}`)
	}, "", ""},
	{"chain-not-there-yet", func(w *world) { w.identity(`{"code": "UnknownProfile", "message": "unknown profile"}`) }, "", ""},
}

// identity has a sidecar whose identity document this is.
func (w *world) identity(document string) {
	w.options.Listen = w.plain(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Irsa-Sidecar", "credentials")
		if r.URL.Path != "/v1/identity/audit" {
			w.t.Errorf("the doctor asks for %s", r.URL.Path)
		}
		if strings.Contains(document, "UnknownProfile") {
			rw.WriteHeader(http.StatusBadRequest)
		}
		io.WriteString(rw, document)
	}))
}

func TestEachFaultOfAChainHasItsReport(t *testing.T) {
	t.Parallel()
	for _, row := range chainFaults {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newChain(t)
			row.fault(w)
			r := w.examine()
			golden(t, w, row.name, r)
			switch {
			case row.key == "":
				if r.Cause != nil || r.Result != Warn {
					t.Errorf("the result is %v, and the cause %+v", r.Result, r.Cause)
				}
			case r.Cause == nil || r.Cause.Key != row.key || r.Cause.Hop != row.hop:
				t.Errorf("the cause is %+v, want %s of %q", r.Cause, row.key, row.hop)
			case row.hop != "" && !strings.HasPrefix(r.Cause.Text, "profile "+row.hop+": "):
				t.Errorf("the cause does not name the hop: %s", r.Cause.Text)
			}
			for _, f := range r.Findings {
				if f.Hop == "" && !slices.Contains(ofNoHop, f.Check) && w.options.Hops != nil {
					t.Errorf("%s names no hop: %s", f.Check, f.Finding)
				}
				for _, fix := range f.Fixes {
					if id := w.externalIDs(); id != "" && strings.Contains(fix.Text+fix.What+f.Finding+f.Advice, id) {
						t.Errorf("%s shows the external ID", f.Check)
					}
				}
			}
		})
	}
}

// externalIDs is the external ID that is sent, if it is long enough to be found.
func (w *world) externalIDs() string {
	for _, hop := range w.options.Hops {
		if id := hop.Exchange.Assume.ExternalID; len(id) > 8 {
			return id
		}
	}
	return ""
}

// What STS refuses, it accepts once the roles have the policies that the report shows.
func TestThePoliciesOfAReportLetTheChainThrough(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		assume webidentity.Assume
		denied []string
	}{
		{"nothing else", webidentity.Assume{}, nil},
		{"an external ID", webidentity.Assume{ExternalID: "shop-4711"}, nil},
		{"tags", webidentity.Assume{Tags: map[string]string{"team": "shop"}}, []string{"sts:TagSession"}},
		{"a source identity", webidentity.Assume{SourceIdentity: "cart"}, []string{"sts:SetSourceIdentity"}},
		{"all of it", webidentity.Assume{ExternalID: "shop-4711", Tags: map[string]string{"team": "shop"}, SourceIdentity: "cart"}, []string{"sts:TagSession", "sts:SetSourceIdentity"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newChain(t)
			w.options.Hops = w.options.Hops[:1]
			w.options.Profile = "hub"
			w.hub().Assume = &row.assume
			w.role(hubARN, func(r *ststest.Role) { r.Trusted, r.Denied = []string{}, row.denied })
			r := w.examine()
			var trust, permission string
			for _, f := range r.Findings {
				for _, fix := range f.Fixes {
					if fix.Kind == statement {
						trust = fix.Text
					}
					if at := strings.Index(fix.Text, "--policy-document '"); at >= 0 {
						permission = strings.TrimSuffix(fix.Text[at+len("--policy-document '"):], "'")
					}
				}
			}
			w.role(hubARN, func(role *ststest.Role) { *role = granted(t, trust, row.assume.ExternalID, row.denied) })
			if role := granted(t, permission, "", row.denied); !slices.Equal(role.Denied, []string{}) || !strings.Contains(permission, fmt.Sprintf("%q: %q", "Resource", hubARN)) {
				t.Errorf("the source may not do all of it: %s", permission)
			}
			if r = w.examine(); r.Result != OK {
				t.Errorf("the chain fails with the policy\n%s\n%+v", trust, r.Cause)
			}
		})
	}
}

// granted is a role with what a policy grants of these actions. The placeholder for the external ID is replaced.
func granted(t *testing.T, policy, externalID string, denied []string) ststest.Role {
	t.Helper()
	var document struct {
		Version   string
		Statement []struct {
			Effect    string
			Principal map[string]string
			Action    any
			Condition map[string]map[string]string
		}
	}
	if err := json.Unmarshal([]byte(policy), &document); err != nil || document.Version != "2012-10-17" {
		t.Fatalf("%v: %s", err, policy)
	}
	role := ststest.Role{Trusted: []string{}, Denied: slices.Clone(denied)}
	role.Denied = append([]string{}, role.Denied...)
	for _, s := range document.Statement {
		actions := fmt.Sprint(s.Action)
		if s.Effect != "Allow" {
			t.Fatalf("a statement does not allow: %s", policy)
		}
		if strings.Contains(actions, "sts:AssumeRole") {
			role.Trusted = append(role.Trusted, s.Principal["AWS"])
			role.ExternalID = strings.Replace(s.Condition["StringEquals"]["sts:ExternalId"], "EXTERNAL_ID", externalID, 1)
		} else if s.Condition != nil {
			t.Errorf("%s have a condition: %s", actions, policy)
		}
		role.Denied = slices.DeleteFunc(role.Denied, func(action string) bool { return strings.Contains(actions, action) })
	}
	return role
}

// A chain that works has no failure and nothing to fix, whatever is sent.
func TestAHealthyChainIsHealthy(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*world){
		"healthy-chain": func(*world) {},
		"the one-hop case in variables": func(w *world) {
			w.options.Profile, w.options.First, w.options.Files = "", "default/source", nil
			w.options.Hops = []Hop{{Profile: "default", Exchange: *w.hub()}}
			w.role(hubARN, func(r *ststest.Role) { r.ExternalID = "shop-4711" })
			w.hub().Assume.ExternalID = "shop-4711"
		},
		"all that can be sent": func(w *world) {
			w.hub().Assume = &webidentity.Assume{ExternalID: "shop-4711", Tags: map[string]string{"team": "shop"}, TransitiveTags: []string{"team"}, SourceIdentity: "cart"}
			w.hub().Policy = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}`
			w.audit().Duration = 15 * time.Minute
		},
		"a clock that is wrong": func(w *world) { w.skew(-40 * time.Minute); w.age = 4 * time.Hour; w.write(w.newToken()) },
		"the same account": func(w *world) {
			w.role("arn:aws:iam::"+account+":role/hub", func(r *ststest.Role) {})
			w.role(auditARN, func(r *ststest.Role) { r.Trusted = nil })
			w.hub().RoleARN = "arn:aws:iam::" + account + ":role/hub"
		},
		"a sidecar that has it": func(w *world) {
			w.identity(`{"profile": "audit", "roleArn": "` + auditARN + `", "valid": true, "remainingSeconds": 1800}`)
		},
		"a mistake elsewhere than in the chain": func(w *world) {
			w.options.Profile, w.options.First, w.options.Hops = "", "", nil
			w.options.Profiles = []string{"default", "hub"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newChain(t)
			change(w)
			r := w.examine()
			if name == "healthy-chain" {
				golden(t, w, name, r)
			}
			for _, f := range r.Findings {
				clock := f.Check == "clock" && name == "a clock that is wrong"
				if f.Status == Fail || (f.Status != OK || f.Fixes != nil) && !clock {
					t.Errorf("%s: %v %s: %s, fixes %+v", f.Check, f.Status, f.Key, f.Finding, f.Fixes)
				}
			}
			if calls := w.sts.Calls(); len(w.options.Hops) == 2 && calls != 4 { // one for the clock, without a token, and one for each role
				t.Errorf("STS was asked %d times", calls)
			}
			if len(w.options.Hops) > 0 && len(r.Hops) != len(w.options.Hops)+1 {
				t.Errorf("the chain is %+v", r.Hops)
			}
		})
	}
}
