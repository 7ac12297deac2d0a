package doctor

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// Where the policy is why STS refuses, one finding about it fails, and it is the cause; where STS accepts, none does.
func TestThePolicyIsTheCause(t *testing.T) {
	t.Parallel()
	role := func(arn, policy string) string {
		return fmt.Sprintf("{\"Role\": {\n\"Arn\": %q,\n\"AssumeRolePolicyDocument\": %s}}", arn, policy)
	}
	six := make([]string, 6)
	for i := range six {
		six[i] = strings.Replace(web, "shop:web", fmt.Sprintf("shop:s%d", i), 1)
	}
	ours := allow(our, bothAre)
	typo := strings.Replace(ours, "shop:cart", "shop:crat", 1)
	right := string(identity().Policy())
	const elsewhere = "arn:aws:iam::111122223333:role/app"
	for _, row := range []struct {
		name, stored, given string
		key                 trustpolicy.Kind // empty: nothing fails
		cause               string
	}{
		{"GitHub's is right, and ours has a typo", policyOf(actions, typo), "", trustpolicy.WrongSubject, `trust.json line 5, statement 2: sub is "system:serviceaccount:shop:crat": it must be "system:serviceaccount:shop:cart"`},
		{"six others", policyOf(six...), "", trustpolicy.WrongSubject, `trust.json line 4: no statement is for this service account; the nearest is statement 1, line 4: it is for "system:serviceaccount:shop:s0"; add one for "system:serviceaccount:shop:cart"`},
		{"another cluster's", policyOf(other, actions), "", trustpolicy.WrongProvider, `trust.json line 4: no statement is for this cluster's provider; the nearest is statement 1`},
		{"an operator that IAM lacks", strings.Replace(policyOf(ours), "StringEquals", "StringEqual", 1), "", trustpolicy.WrongOperator, `trust.json line 4: the operator is the mistake: IAM has no "StringEqual"; write "StringEquals"`},
		{"an operator for ARNs", policyOf(allow(our, `"StringEquals": {`+audIs+"},\n"+`"ArnLike": {`+subIs+`}`)), "", trustpolicy.WrongOperator, `trust.json line 5: the operator is the mistake: ArnLike cannot compare sub`},
		{"a session name", limited("StringLike", "sts:RoleSessionName", `"cart-*"`), "", trustpolicy.OtherCondition, `trust.json line 4: StringLike sts:RoleSessionName "cart-*" is not met: this request has "shop.cart-7c9f"`},
		{"a region", limited("StringNotEquals", "aws:RequestedRegion", `"eu-west-1"`), "", trustpolicy.OtherCondition, `StringNotEquals aws:RequestedRegion "eu-west-1" excludes this request, which has "eu-west-1"`},
		{"a time that is over", limited("DateLessThan", "aws:CurrentTime", `"2024-01-01"`), "", trustpolicy.OtherCondition, `DateLessThan aws:CurrentTime "2024-01-01" ended `},
		{"an organization", limited("StringLike", "aws:PrincipalOrgID", `"o-1"`), "", trustpolicy.OtherCondition, `no request with a web identity token has aws:PrincipalOrgID`},
		{"a VPC, that only AWS knows", limited("StringLike", "aws:SourceVpc", `"vpc-1"`), "", trustpolicy.OtherCondition, `StringLike aws:SourceVpc "vpc-1": only AWS can tell`},
		{"a Deny of a region", policyOf(deny("\n"+`"StringEquals": {"aws:RequestedRegion": "eu-west-1"}`), ours), "", trustpolicy.Denied, `trust.json line 5, statement 1: denies the request, because StringEquals aws:RequestedRegion "eu-west-1"`},
		{"a Deny that only AWS knows", policyOf(deny("\n"+`"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}`), ours), "", trustpolicy.Denied, `trust.json line 5, statement 1: denies the request if NotIpAddress aws:SourceIp "10.0.0.0/8"`},
		{"an invisible character", strings.Replace(policyOf(ours), ourARN, ourARN+"\u00a0", 1), "", trustpolicy.Invisible, `Federated has an invisible character, \u00a0, at the end`},
		{"a placeholder", strings.Replace(policyOf(ours), "::111122223333:", "::${ACCOUNT_ID}:", 1), "", trustpolicy.Placeholder, `Federated has the placeholder "${ACCOUNT_ID}", which was never filled in`},
		{"another path", policyOf(web), role(elsewhere, right), trustpolicy.OtherRole, "the role compared is not the role assumed: trust.json has the trust policy of " + elsewhere + ", and AWS_ROLE_ARN is " + roleARN + "; an ARN includes the role's path"},
		{"in get-role's output", policyOf(typo), role(roleARN, policyOf(typo)), trustpolicy.WrongSubject, `trust.json line 6: sub is "system:serviceaccount:shop:crat"`},

		{"accepted, with an outdated file", right, policyOf(web), "", ""},
		{"accepted, with a condition on a network", right, limited("StringEqualsIfExists", "aws:SourceVpc", `"vpc-1"`), "", ""},
		{"accepted, with a wrong case", right, strings.Replace(policyOf(ours), "shop:cart", "Shop:Cart", 1), "", ""},
		{"accepted, with another role's file", right, role(elsewhere, policyOf(web)), "", ""},
		{"accepted, by a policy that is open", policyOf(allow(our, `"StringEquals": {`+audIs+`}`)), "", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.sts.Change(func(o *ststest.Options) { o.TrustPolicy = row.stored })
			if row.given == "" {
				row.given = row.stored
			}
			w.give(row.given)
			r := w.examine()
			failed := slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Status != Fail || f.Check != "trust-policy" })
			if row.key == "" {
				if !w.works(r) || len(failed) > 0 || r.Cause != nil {
					t.Errorf("works: %v, %v fails, cause %v", w.works(r), failed, r.Cause)
				}
				return
			}
			if len(failed) != 1 || r.Cause == nil || r.Cause.Key != string(row.key) || !strings.Contains(r.Cause.Text, row.cause) {
				t.Errorf("cause %+v, want %s %s; %d findings: %v", r.Cause, row.key, row.cause, len(failed), failed)
			}
		})
	}
}

// A report is as long for a policy that names many service accounts as for one that names a few, and none of them is lost.
func TestManySubjectsOfAPolicyAreCounted(t *testing.T) {
	for subjects, want := range map[int]int{1: 1, 6: 6, 7: 6, 25: 6} {
		statements := make([]string, subjects)
		for i := range statements {
			statements[i] = strings.Replace(allow(our, bothAre), "shop:cart", fmt.Sprintf("shop:s%d", i), 1)
		}
		e := &examination{Options: Options{PolicyName: "trust.json", Policy: []byte(policyOf(statements...))}}
		e.checkPolicy()
		if len(e.findings) != want {
			t.Errorf("of %d subjects: %d findings, want %d: %+v", subjects, len(e.findings), want, e.findings)
		}
		last := e.findings[len(e.findings)-1].Finding
		if more := fmt.Sprintf("trust.json allows %d more by name", subjects-5); (last == more) != (subjects > 6) {
			t.Errorf("of %d subjects: the last finding is %s", subjects, last)
		}
	}
}

// A policy without a provider is not one that allows nobody.
func TestAPolicyThatNamesNoProviderIsReadWithoutAToken(t *testing.T) {
	right := policyOf(allow(our, bothAre))
	for name, row := range map[string]struct {
		policy, want string
	}{
		"everybody":     {`{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*"}}`, "warn PolicyAnyone, warn PolicyNoAudience, warn PolicyNoSubject"},
		"EC2":           {`{"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}`, "fail PolicyNoStatement"},
		"a placeholder": {strings.Replace(right, "::111122223333:", "::${ACCOUNT_ID}:", 1), "fail PolicyPlaceholder"},
		"a URL":         {strings.Replace(right, "arn:aws:iam::111122223333:oidc-provider/", "https://", 1), "fail PolicyFederated"},
	} {
		e := &examination{Options: Options{PolicyName: "trust.json", Policy: []byte(row.policy)}}
		e.checkPolicy()
		var found []string
		for _, f := range e.findings {
			found = append(found, statusNames[f.Status]+" "+f.Key)
		}
		if got := strings.Join(found, ", "); got != row.want {
			t.Errorf("%s: found %s, want %s", name, got, row.want)
		}
	}
}
