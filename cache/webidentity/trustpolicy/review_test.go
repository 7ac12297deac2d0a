package trustpolicy

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// known is app in a request of which everything is known that can be.
func known() Identity {
	id := app
	id.SessionName, id.Region, id.Now = "shop.cart-7c9f", "eu-west-1", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return id
}

// conditioned returns the right policy with another condition, on line 12.
func conditioned(t testing.TB, operator, key, value string) string {
	return with(t, `        "StringEquals": {`, fmt.Sprintf("        %q: {%q: %s},\n        \"StringEquals\": {", operator, key, value))
}

// beside returns the right policy with another statement before its own, which begins on the next line.
func beside(t testing.TB, statement string, pairs ...string) string {
	return strings.Replace(with(t, pairs...), "  \"Statement\": [\n", "  \"Statement\": [\n    "+statement+",\n", 1)
}

const (
	ofGitHub = `{"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"token.actions.githubusercontent.com:aud": "sts.amazonaws.com"}, "StringLike": {"token.actions.githubusercontent.com:sub": "repo:acme/shop:*"}}}`
	ofTypo   = `{"Effect": "Allow", "Principal": {"Federated": "` + providerOf + `"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"` + provider + `:sub": "system:serviceaccount:default:apq"}}}`
	ofOthers = `{"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/0000"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"oidc.eks.eu-west-1.amazonaws.com/id/0000:sub": "system:serviceaccount:default:app"}}}`
)

// One thing keeps the identity out, and it is what is said, on its line; everything else is not mentioned.
func TestTheCulpritIsNamed(t *testing.T) {
	const issuer = "/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	must := ": it must be " + providerOf
	add := "; no statement is for this cluster's provider: add one with Federated " + providerOf
	deny := func(condition string) string {
		return beside(t, `{"Effect": "Deny", "Principal": "*", "Action": "sts:*",`+"\n"+`"Condition": {`+"\n"+condition+"}}")
	}
	six := `[`
	for i := range 6 {
		six += fmt.Sprintf("\n\"system:serviceaccount:other:s%d\",", i)
	}
	six = strings.TrimSuffix(six, ",") + "]"
	for _, row := range []struct{ name, policy, want string }{
		// Who is meant.
		{"GitHub's is right, and ours has a typo", beside(t, ofGitHub, "default:app", "default:pap"), `2@14 PolicySubject: sub is "system:serviceaccount:default:pap": it must be "system:serviceaccount:default:app"; it has "p" and "a" swapped after "default:"`},
		{"GitHub's alone", `{"Statement": ` + ofGitHub + `}`, `1@1 PolicyFederated: Federated is another issuer's, "token.actions.githubusercontent.com"` + add},
		{"GitHub's, and another service account's", beside(t, ofGitHub, "default:app", "other:web"), `0@14 PolicySubject: no statement is for this service account; the nearest is statement 2, line 5: it is for "system:serviceaccount:other:web"; add one for "system:serviceaccount:default:app", or add it to a list`},
		{"GitHub's, and another cluster's", beside(t, ofGitHub, "EXAMPLED539D4633E53DE1B71EXAMPLE", "0123"), `0@8 PolicyFederated: no statement is for this cluster's provider; the nearest is statement 2, line 5: it is for "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/0123"; add one with Federated ` + providerOf},
		{"another cluster's with the same subject", `{"Statement": [` + ofOthers + `]}`, `1@1 PolicyFederated: Federated is another cluster's, "oidc.eks.eu-west-1.amazonaws.com/id/0000"` + add},
		{"six service accounts", with(t, `"system:serviceaccount:default:app"`, six), `1@14 PolicySubject: sub is none of 6 values, the nearest is "system:serviceaccount:other:s0": add "system:serviceaccount:default:app", as in the token`},
		{"ours is the second statement", beside(t, strings.ReplaceAll(ofOthers, "id/0000", "id/EXAMPLED539D4633E53DE1B71EXAMPLE"), "default:app", "other:web"), "1@4 PolicyNoAudience: no condition on the audience"},
		{"a Deny that is nearer", beside(t, `{"Effect": "Deny", "Principal": {"Federated": "`+providerOf+`"}, "Action": "sts:*", "Condition": {"StringEquals": {"`+provider+`:sub": "system:serviceaccount:default:apt"}}}`, "default:app", "other:web"), `2@14 PolicySubject: sub is "system:serviceaccount:other:web": add "system:serviceaccount:default:app", as in the token`},
		{"a subject of another form, and another cluster's", beside(t, strings.ReplaceAll(ofOthers, "other:app", "default:app"), "system:serviceaccount:default", "system:sa:default"), `0@14 PolicySubject: no statement is for this service account; the nearest is statement 2, line 5: it is for "system:sa:default:app"`},
		{"the action of SAML, and another service account's", beside(t, ofTypo, "WithWebIdentity", "WithSAML"), `2@10 PolicyAction: Action is "sts:AssumeRoleWithSAML": it must be sts:AssumeRoleWithWebIdentity`},
		{"the provider as an AWS principal", with(t, `"Federated"`, `"AWS"`), `1@7 PolicyFederated: the provider is in AWS, which is for accounts, users and roles: it must be in Federated`},
		{"the provider as an AWS principal, and another cluster's", beside(t, ofOthers, `"Federated"`, `"AWS"`), `2@8 PolicyFederated: the provider is in AWS, which is for accounts, users and roles: it must be in Federated`},
		{"the action of SAML beside", beside(t, `{"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:saml-provider/okta"}, "Action": "sts:AssumeRoleWithSAML"}`, "default:app", "default:web"), `0@14 PolicySubject: no statement is for this service account; the nearest is statement 2, line 5: it is for "system:serviceaccount:default:web"; add one for "system:serviceaccount:default:app", or add it to a list`},

		// Operators.
		{"StringEqual", with(t, `"StringEquals"`, `"StringEqual"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "StringEqual"; write "StringEquals"`},
		{"StringEquals:", with(t, `"StringEquals"`, `"StringEquals:"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "StringEquals:": write "StringEquals", without the colon`},
		{"StringEquels", with(t, `"StringEquals"`, `"StringEquels"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "StringEquels"; write "StringEquals"`},
		{"StringMatch", with(t, `"StringEquals"`, `"Matches"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "Matches"; write "StringEquals", or "StringLike" for a pattern`},
		{"Stringlike's typo", with(t, `"StringEquals"`, `"StringLik"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "StringLik"; write "StringLike"`},
		{"IfExist", with(t, `"StringEquals"`, `"StringEqualsIfExist"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "StringEqualsIfExist"; write "StringEqualsIfExists"`},
		{"ForAnyValues", with(t, `"StringEquals"`, `"ForAnyValues:StringEquals"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "ForAnyValues:StringEquals"; write "ForAnyValue:StringEquals"`},
		{"ForAnyValue:StringEqual", with(t, `"StringEquals"`, `"ForAnyValue:StringEqual"`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "ForAnyValue:StringEqual"; write "ForAnyValue:StringEquals"`},
		{"a sign", with(t, `"StringEquals"`, `"=="`), `1@11 PolicyOperator: the operator is the mistake: IAM has no "=="; write "StringEquals", or "StringLike" for a pattern`},
		{"Bool", with(t, `"StringEquals"`, `"Bool"`), `1@11 PolicyOperator: the operator is the mistake: Bool cannot compare aud, which is a text; write "StringEquals"`},
		{"an invisible character in the operator", with(t, `"StringEquals"`, "\"StringEquals\u200b\""), `1@11 PolicyOperator: the operator has an invisible character, \u200b, at the end: write "StringEquals"`},
		{"a blank after the operator", with(t, `"StringEquals"`, `"StringEquals "`), `1@11 PolicyOperator: the operator has a blank at the end: write "StringEquals"`},
		{"ArnLike", with(t, `"StringEquals": {`, `"ArnLike": {`, `          "`+provider+`:aud": "sts.amazonaws.com",`+"\n", ""), `1@11 PolicyOperator: the operator is the mistake: ArnLike cannot compare sub, which is a text; write "StringEquals"`},
		{"ArnEquals with a pattern", with(t, `"StringEquals": {`, `"ArnEquals": {`, `          "`+provider+`:aud": "sts.amazonaws.com",`+"\n", "", "default:app", "default:*"), `1@11 PolicyOperator: the operator is the mistake: ArnEquals cannot compare sub, which is a text; write "StringLike"`},
		{"a Deny with an operator that is none", deny(`"StringNotEqual": {"aws:RequestedRegion": "eu-west-1"}`), `1@6 PolicyOperator: the operator is the mistake: IAM has no "StringNotEqual"; write "StringNotEquals"`},

		// What the request says.
		{"session name", conditioned(t, "StringLike", "sts:RoleSessionName", `"cart-*"`), `1@11 PolicyCondition: StringLike sts:RoleSessionName "cart-*" is not met: this request has "shop.cart-7c9f"`},
		{"region", conditioned(t, "StringEquals ", "aws:RequestedRegion", `"eu-west-2"`), `1@11 PolicyOperator: the operator has a blank at the end: write "StringEquals"`},
		{"another region", conditioned(t, "StringLike", "aws:RequestedRegion", `["us-*", "ap-*"]`), `1@11 PolicyCondition: StringLike aws:RequestedRegion "us-*", "ap-*" is not met: this request has "eu-west-1"`},
		{"the regions that are not allowed", conditioned(t, "StringNotEquals", "aws:RequestedRegion", `"eu-west-1"`), `1@11 PolicyCondition: StringNotEquals aws:RequestedRegion "eu-west-1" excludes this request, which has "eu-west-1"`},
		{"a window that is over", conditioned(t, "DateLessThan", "aws:CurrentTime", `"2026-02-01T00:00:00Z"`), `1@11 PolicyCondition: DateLessThan aws:CurrentTime "2026-02-01T00:00:00Z" ended 28 days ago: it is 2026-03-01T12:00:00Z`},
		{"a window that has not begun", conditioned(t, "DateGreaterThan", "aws:CurrentTime", `"2026-03-01T13:00:00Z"`), `1@11 PolicyCondition: DateGreaterThan aws:CurrentTime "2026-03-01T13:00:00Z" begins in 1h0m0s: it is 2026-03-01T12:00:00Z`},
		{"seconds", conditioned(t, "NumericLessThan", "aws:EpochTime", `1`), `1@11 PolicyCondition: NumericLessThan aws:EpochTime "1" is not met: this request has "1772366400"`},
		{"without TLS", conditioned(t, "Bool", "aws:SecureTransport", `"false"`), `1@11 PolicyCondition: Bool aws:SecureTransport "false" is not met: this request has "true"`},

		// What web identity never has.
		{"an organization", conditioned(t, "StringLike", "aws:PrincipalOrgID", `"o-1"`), `1@11 PolicyCondition: StringLike aws:PrincipalOrgID "o-1" is never met: no request with a web identity token has aws:PrincipalOrgID`},
		{"an external ID", conditioned(t, "StringLike", "sts:ExternalId", `"x"`), `1@11 PolicyCondition: StringLike sts:ExternalId "x" is never met: no request with a web identity token has sts:ExternalId`},
		{"MFA", conditioned(t, "Bool", "aws:MultiFactorAuthPresent", `"true"`), `1@11 PolicyCondition: Bool aws:MultiFactorAuthPresent "true" is never met: no request with a web identity token has aws:MultiFactorAuthPresent`},
		{"a key that must be there", conditioned(t, "Null", "aws:PrincipalArn", `"false"`), `1@11 PolicyCondition: Null aws:PrincipalArn "false" is never met: no request with a web identity token has aws:PrincipalArn`},
		{"a tag", with(t, "default:app", "${aws:PrincipalTag/ns}:app"), `1@13 PolicySubject: sub is "system:serviceaccount:${aws:PrincipalTag/ns}:app", whose variable has no value in a request with a token: it must be "system:serviceaccount:default:app"`},
		{"a variable in an old policy", with(t, "default:app", "${aws:PrincipalTag/ns, 'default'}:app", "2012-10-17", "2008-10-17"), `1@13 PolicySubject: sub is "system:serviceaccount:${aws:PrincipalTag/ns, 'default'}:app", and variables are read only in policies of Version 2012-10-17: it must be "system:serviceaccount:default:app"`},
		{"only AWS knows", conditioned(t, "IpAddress", "aws:SourceIp", `"10.0.0.0/8"`), `1@11 PolicyCondition: IpAddress aws:SourceIp "10.0.0.0/8": only AWS can tell whether this condition is met`},
		{"only AWS knows, and the subject is wrong", strings.Replace(conditioned(t, "IpAddress", "aws:SourceIp", `"10.0.0.0/8"`), "default:app", "default:App", 1), `1@14 PolicyCase: sub is "system:serviceaccount:default:App": it must be "system:serviceaccount:default:app", in exactly this case`},

		// A Deny.
		{"of a region", deny(`"StringEquals": {` + "\n" + `"aws:RequestedRegion": "eu-west-1"}`), `1@7 PolicyDeny: denies the request, because StringEquals aws:RequestedRegion "eu-west-1" is met by "eu-west-1"; this may be intentional`},
		{"of other organizations", deny(`"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}`), `1@6 PolicyDeny: denies the request, because StringNotEquals aws:PrincipalOrgID "o-1" is met by a request without this key; this may be intentional`},
		{"of other addresses", deny(`"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}`), `1@6 PolicyDeny: denies the request if NotIpAddress aws:SourceIp "10.0.0.0/8", which only AWS can tell; this may be intentional`},
		{"that does not apply", deny(`"StringNotEquals": {"aws:RequestedRegion": "eu-west-1"}`), ""},

		// Invisible characters.
		{"a no-break space after the ARN", with(t, `EXAMPLE"`, "EXAMPLE\u00a0\""), `1@7 PolicyInvisible: Federated has an invisible character, \u00a0, at the end` + must},
		{"a blank after the ARN", with(t, `EXAMPLE"`, `EXAMPLE "`), `1@7 PolicyInvisible: Federated has a blank at the end` + must},
		{"a blank before the ARN", with(t, `"arn:`, `" arn:`), `1@7 PolicyInvisible: Federated has a blank at the beginning` + must},
		{"a line end after the ARN", with(t, `EXAMPLE"`, `EXAMPLE\n"`), `1@7 PolicyInvisible: Federated has an invisible character, \u000a, at the end` + must},
		{"a zero-width space in a key", with(t, `EXAMPLE:sub"`, "EXAMPLE\u200b:sub\""), `1@13 PolicyInvisible: the condition's key has an invisible character, \u200b, after "E1B71EXAMPLE": it must be "` + provider + `:sub"`},
		{"a BOM in a key", with(t, `"`+provider+`:aud"`, "\"\ufeff"+provider+`:aud"`), `1@12 PolicyInvisible: the condition's key has an invisible character, \ufeff, at the beginning: it must be "` + provider + `:aud"`},
		{"a variation selector in the subject", with(t, "default:app", "default:a\ufe0fpp"), `1@13 PolicyInvisible: sub has an invisible character, \ufe0f, after "nt:default:a"`},
		{"a soft hyphen in the subject", with(t, "default:app", "default:a\u00adpp"), `1@13 PolicyInvisible: sub has an invisible character, \u00ad, after "nt:default:a"`},
		{"a blank after the subject", with(t, `default:app"`, `default:app "`), `1@13 PolicyInvisible: sub has a blank at the end: it must be "system:serviceaccount:default:app"`},
		{"a tab after the audience", with(t, `"sts.amazonaws.com"`, `"sts.amazonaws.com\t"`), `1@12 PolicyInvisible: aud has an invisible character, \u0009, at the end: it must be "sts.amazonaws.com"`},
		{"a Cyrillic letter", with(t, "default:app", "default:\u0430pp"), `1@13 PolicySubject: sub is "system:serviceaccount:default:` + "\u0430" + `pp": it must be "system:serviceaccount:default:app"; it has "` + "\u0430" + `" (U+0430) instead of "a" after "default:"`},

		// Placeholders.
		{"of a shell", with(t, "111122223333", "${ACCOUNT_ID}"), `1@7 PolicyPlaceholder: Federated has the placeholder "${ACCOUNT_ID}", which was never filled in` + must},
		{"of people", with(t, "111122223333", "<ACCOUNT_ID>"), `1@7 PolicyPlaceholder: Federated has the placeholder "<ACCOUNT_ID>", which was never filled in` + must},
		{"of Helm", with(t, "default:app", "{{ .Release.Namespace }}:app"), `1@13 PolicyPlaceholder: sub has the placeholder "{{ .Release.Namespace }}", which was never filled in: it must be "system:serviceaccount:default:app"`},
		{"of documentation", with(t, "111122223333", "ACCOUNT"), `1@7 PolicyPlaceholder: Federated has the placeholder "ACCOUNT", which was never filled in` + must},
		{"of CloudFormation", with(t, "111122223333", "${AWS::AccountId}"), `1@7 PolicyPlaceholder: Federated has the placeholder "${AWS::AccountId}", which was never filled in` + must},
		{"of Terraform", with(t, `"`+provider+":", `"${module.eks.oidc_provider}:`), `1@12 PolicyPlaceholder: the condition's key has the placeholder "${module.eks.oidc_provider}", which was never filled in: it must be ` + provider + `:aud; the same on line 13`},
		{"of a shell, without braces", with(t, "default:app", "$NAMESPACE:app"), `1@13 PolicyPlaceholder: sub has the placeholder "$NAMESPACE", which was never filled in`},
		{"of Windows' shell", with(t, "111122223333", "%ACCOUNT%"), `1@7 PolicyPlaceholder: Federated has the placeholder "%ACCOUNT%", which was never filled in` + must},
		{"of documentation, in the subject", with(t, "default:app", "NAMESPACE:SERVICE_ACCOUNT"), `1@13 PolicyPlaceholder: sub has the placeholder "NAMESPACE", which was never filled in`},
		{"XXXX", with(t, "EXAMPLED539D4633E53DE1B71EXAMPLE", "XXXXXXXXXXXX"), `1@7 PolicyPlaceholder: Federated has the placeholder "XXXXXXXXXXXX", which was never filled in` + must + `; the same on line 12 and line 13`},

		// How two providers differ.
		{"a slash", with(t, `EXAMPLE"`, `EXAMPLE/"`, "EXAMPLE:", "EXAMPLE/:"), `1@7 PolicyFederated: Federated has a slash at the end` + must + `; the same on line 12 and line 13`},
		{"no id", with(t, issuer+`"`, `"`), `1@7 PolicyFederated: Federated is only the host, without ` + issuer + must},
		{"cut short", with(t, `71EXAMPLE"`, `71"`), `1@7 PolicyFederated: Federated is cut short after 61 of 68 characters` + must},
		{"too long", with(t, `71EXAMPLE"`, `71EXAMPLE71"`), `1@7 PolicyFederated: Federated has "71" too much at the end` + must},
		{"O for 0", with(t, `D539`, `D5E9`), `1@7 PolicyFederated: Federated has "E" instead of "3" after "XAMPLED5"` + must + `; the same on line 12 and line 13`},
		{"one missing", with(t, `4633E`, `463E`), `1@7 PolicyFederated: Federated lacks "3" after "D539D463"` + must + `; the same on line 12 and line 13`},
		{"another region", with(t, `oidc-provider/oidc.eks.eu-west-1`, `oidc-provider/oidc.eks.us-east-1`), `1@7 PolicyFederated: Federated is in the region us-east-1, and the cluster is in eu-west-1` + must},
		{"another account", with(t, `111122223333`, `111122224333`), `1@7 PolicyAccount: Federated is in account 111122224333, and the provider must be in the role's account 111122223333, even for a cluster in another account` + must},
		{"another partition", with(t, `arn:aws:iam`, `arn:aws-cn:iam`), `1@7 PolicyAccount: Federated is in the partition aws-cn, and the role is in the partition aws` + must},
		{"no issuer in the key", with(t, `"`+provider+`:sub`, `"sub`), `1@13 PolicyConditionKey: the condition's key lacks the issuer: it must be ` + provider + `:sub`},
		{"no colon in the key", with(t, provider+`:sub`, provider+`/sub`), `1@13 PolicyConditionKey: the condition's key is "` + provider + `/sub", which no web identity token provides: use ` + provider + `:aud or ` + provider + `:sub`},
		{"the ARN in the key", with(t, `"`+provider+`:sub`, `"`+providerOf+`:sub`), `1@13 PolicyConditionKey: the condition's key has "arn:aws:iam::111122223333:oidc-provider/" in front of the issuer: it must be ` + provider + `:sub`},
		{"no region in the host", with(t, `oidc-provider/oidc.eks.eu-west-1.`, `oidc-provider/oidc.eks.`), `1@7 PolicyFederated: Federated lacks "eu-west-1." after "idc.eks."` + must},
		{"the id alone", with(t, "oidc-provider/"+provider, "oidc-provider/EXAMPLED539D4633E53DE1B71EXAMPLE"), `1@7 PolicyFederated: Federated lacks "oidc.eks.eu-west-1.amazonaws.com/id/" in front` + must},
		{"the host of China", with(t, "amazonaws.com/id", "amazonaws.com.cn/id"), `1@7 PolicyFederated: Federated has ".cn" too much after "naws.com"` + must + `; the same on line 12 and line 13`},
		{"a key of nobody", with(t, provider+":sub", "aws:sub"), `1@13 PolicyConditionKey: the condition's key is "aws:sub": it must be ` + provider + `:sub`},
		{"a key that IAM lacks", conditioned(t, "StringLike", "aws:RequestedRegions", `"eu-*"`), `1@11 PolicyCondition: StringLike aws:RequestedRegions "eu-*": only AWS can tell whether this condition is met; did you mean "aws:RequestedRegion"?`},

		// Actions and subjects.
		{"a blank after the action", with(t, `Identity"`, `Identity "`), `1@9 PolicyInvisible: Action has a blank at the end: it must be sts:AssumeRoleWithWebIdentity`},
		{"an l for an I", with(t, "WebIdentity", "Webldentity"), `1@9 PolicyAction: Action has "l" instead of "I" after "eWithWeb": it must be sts:AssumeRoleWithWebIdentity`},
		{"NotAction", with(t, `"Action"`, `"NotAction"`), `1@9 PolicyAction: NotAction is "sts:AssumeRoleWithWebIdentity": it must be Action with sts:AssumeRoleWithWebIdentity`},
		{"name and namespace swapped", with(t, "default:app", "app:default"), `1@13 PolicySubject: sub is "system:serviceaccount:app:default": it must be "system:serviceaccount:default:app", with the namespace first`},
		{"a regular expression", with(t, "default:app", "default:.*"), `1@13 PolicySubject: sub is "system:serviceaccount:default:.*", and IAM has no regular expressions: it must be "system:serviceaccount:default:app"`},
		{"without a prefix", with(t, "system:serviceaccount:default:app", "default:app"), `1@13 PolicySubject: sub is "default:app": it must be "system:serviceaccount:default:app", with system:serviceaccount: in front`},
		{"in brackets", with(t, "default:app", "[namespace]:app"), `1@13 PolicyPlaceholder: sub has the placeholder "[namespace]", which was never filled in`},
		{"a name in capitals", with(t, "default:app", "default:APP_NAME"), `1@13 PolicyPlaceholder: sub has the placeholder "APP_NAME", which was never filled in`},
		{"an account of 11 digits", with(t, `111122223333`, `11112222333`), `1@7 PolicyFederated: Federated lacks "3" after "12222333"` + must},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			for _, p := range parse(t, row.policy).Review(known()) {
				got = append(got, fmt.Sprintf("%d@%d %s: %s", p.Statement, p.Line, p.Kind, p.Text))
			}
			if all := strings.Join(got, "\n"); all != row.want && (row.want == "" || !strings.HasPrefix(all, row.want) || len(got) > 1) {
				t.Errorf("got\n%s\nwant\n%s", all, row.want)
			}
		})
	}
}
