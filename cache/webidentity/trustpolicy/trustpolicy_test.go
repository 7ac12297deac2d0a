package trustpolicy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

var app = Identity{
	Partition: "aws", Account: "111122223333",
	Issuer:   "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE",
	Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:default:app",
}

const (
	provider    = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	providerOf  = "arn:aws:iam::111122223333:oidc-provider/" + provider
	rightPolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": {
        "Federated": "` + providerOf + `"
      },
      "Action": "sts:AssumeRoleWithWebIdentity",
      "Condition": {
        "StringEquals": {
          "` + provider + `:aud": "sts.amazonaws.com",
          "` + provider + `:sub": "system:serviceaccount:default:app"
        }
      }
    }
  ]
}`
)

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

func TestTheProposedPolicyAllowsOnlyThisIdentity(t *testing.T) {
	if got := string(app.Policy()); got != rightPolicy {
		t.Errorf("proposed:\n%s", got)
	}
	p := parse(t, rightPolicy)
	if d, found := p.Decide(app), p.Review(app); d != Allowed || len(found) > 0 {
		t.Errorf("decision %d, problems %v", d, found)
	}
	for name, change := range map[string]func(*Identity){
		"partition": func(id *Identity) { id.Partition = "aws-cn" },
		"account":   func(id *Identity) { id.Account = "444455556666" },
		"issuer":    func(id *Identity) { id.Issuer += "/" },
		"audience":  func(id *Identity) { id.Audience = "STS.amazonaws.com" },
		"subject":   func(id *Identity) { id.Subject += "2" },
	} {
		other := app
		change(&other)
		if p.Decide(other) != Refused || len(p.Review(other)) == 0 {
			t.Errorf("another %s is allowed, or no problem is found", name)
		}
	}
}

// The claims of a token and the text of a policy are untrusted, and what is proposed is shown and pasted.
func TestAProposedPolicyDoesNotSteerATerminal(t *testing.T) {
	strange := app
	strange.Subject = "\x1b[2J\u009b1A\u202e\x7f\U000e0001\"\u00e9"
	given := with(t, "default:app", "default:web") // whose statement stays
	given = strings.Replace(given, "default:web", "\u009b\x7f\u202e", 1)
	for name, policy := range map[string][]byte{"of a token": strange.Policy(), "of a policy": proposed(t, parse(t, given), strange)} {
		for line := range strings.Lines(string(policy)) {
			if line = strings.TrimSuffix(line, "\n"); strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s: not to be shown: %q", name, line)
			}
		}
		if !strings.Contains(string(policy), "é") {
			t.Errorf("%s: what prints is not shown as it is: %s", name, policy)
		}
		if d := parse(t, string(policy)).Decide(strange); d != Allowed {
			t.Errorf("%s: decision %d of\n%s", name, d, policy)
		}
	}
}

func proposed(t testing.TB, p *Policy, id Identity) []byte {
	t.Helper()
	e, err := p.Propose(id)
	if err != nil {
		t.Fatal(err)
	}
	return e.Document
}

// with returns the right policy with pairs of texts replaced.
func with(t testing.TB, pairs ...string) string {
	t.Helper()
	text := rightPolicy
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("the policy has no %s", pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	return text
}

// Each row is a policy that people have written.
func TestEachMistakeIsNamedWithItsLine(t *testing.T) {
	audLine := `          "` + provider + `:aud": "sts.amazonaws.com",` + "\n"
	subLine := `,` + "\n" + `          "` + provider + `:sub": "system:serviceaccount:default:app"`
	for _, row := range []struct {
		name   string
		policy string
		want   Decision
		found  string // kind@line, separated by blanks
		says   string
	}{
		{"right", rightPolicy, Allowed, "", ""},
		{"the action of another principal", with(t, "sts:AssumeRoleWithWebIdentity", "sts:AssumeRole"), Refused, "PolicyAction@9", `Action is "sts:AssumeRole": it must be sts:AssumeRoleWithWebIdentity`},
		{"any action of STS", with(t, "sts:AssumeRoleWithWebIdentity", "sts:*"), Allowed, "", ""},
		{"an action in another case", with(t, "sts:AssumeRoleWithWebIdentity", "sts:assumerolewithwebidentity"), Allowed, "", ""},
		{"eks and region swapped", with(t, ":oidc-provider/oidc.eks.eu-west-1", ":oidc-provider/oidc.eu-west-1.eks"), Refused, "PolicyFederated@7", "has oidc.<region>.eks where oidc.eks.<region> is right"},
		{"swapped in the key", with(t, `"oidc.eks.eu-west-1`, `"oidc.eu-west-1.eks`), Refused, "PolicyConditionKey@12", "has oidc.<region>.eks where oidc.eks.<region> is right: it must be " + provider + ":aud; the same on line 13"},
		{"the URL for the ARN", with(t, `"`+providerOf+`"`, `"https://`+provider+`"`), Refused, "PolicyFederated@7", "is a URL rather than an ARN"},
		{"the URL in the ARN", with(t, "oidc-provider/", "oidc-provider/https://"), Refused, "PolicyFederated@7", "has https:// in front of the issuer"},
		{"a slash at the end", with(t, `EXAMPLE"`, `EXAMPLE/"`), Refused, "PolicyFederated@7", "Federated has a slash at the end: it must be " + providerOf},
		{"another account's provider", with(t, "111122223333", "444455556666"), Refused, "PolicyAccount@7", "in the role's account"},
		{"another partition's provider", with(t, "arn:aws:", "arn:aws-cn:"), Refused, "PolicyAccount@7", "the role is in the partition aws"},
		{"another cluster's provider", with(t, `EXAMPLE"`, `0000"`), Refused, "PolicyFederated@7", "another cluster's"},
		{"a provider in another case", with(t, "oidc-provider/oidc.eks", "oidc-provider/OIDC.eks"), Refused, "PolicyCase@7", "differs in upper and lower case only"},
		{"an AWS principal", with(t, `"Federated": "`+providerOf+`"`, `"AWS": "arn:aws:iam::111122223333:root"`), Refused, "PolicyFederated@6", "Principal has no Federated"},
		{"the host alone in the key", with(t, "/id/EXAMPLED539D4633E53DE1B71EXAMPLE:sub", ":sub"), Refused, "PolicyConditionKey@13", "is only the host, without /id/EXAMPLED539D4633E53DE1B71EXAMPLE: it must be"},
		{"https in the key", with(t, `"`+provider+":", `"https://`+provider+":"), Refused, "PolicyConditionKey@12", "has https:// in front of the issuer"},
		{"another cluster's key", with(t, "EXAMPLE:aud", "0000:aud"), Refused, "PolicyConditionKey@12", "another cluster's"},
		{"a key that is no claim", with(t, "EXAMPLE:sub", "EXAMPLE:namespace"), Refused, "PolicyConditionKey@13", "which no web identity token provides"},
		{"a key in another case", with(t, `"oidc.eks`, `"OIDC.eks`), Allowed, "", ""},
		{"StringEquals with a star", with(t, "default:app", "default:*"), Refused, "PolicyWildcard@13", "takes * and ? literally"},
		{"StringLike with a star", with(t, "default:app", "default:*", "StringEquals", "StringLike"), Allowed, "", ""},
		{"StringLike with a question mark", with(t, "default:app", "default:a?p", "StringEquals", "StringLike"), Allowed, "", ""},
		{"StringLike for others", with(t, "default:app", "other:*", "StringEquals", "StringLike"), Refused, "PolicySubject@13", "as in the token"},
		{"the subject in another case", with(t, "default:app", "default:App"), Refused, "PolicyCase@13", "in exactly this case"},
		{"another service account", with(t, "default:app", "default:web"), Refused, "PolicySubject@13", `sub is "system:serviceaccount:default:web": add "system:serviceaccount:default:app", as in the token`},
		{"a subject without its prefix", with(t, "system:serviceaccount:default:app", "default:app"), Refused, "PolicySubject@13", ""},
		{"another audience", with(t, `"sts.amazonaws.com"`, `"sts.amazon.com"`), Refused, "PolicyAudience@12", ""},
		{"aud and sub swapped", with(t, ":aud", ":x", ":sub", ":aud", ":x", ":sub"), Refused, "PolicySubject@12 PolicyAudience@13", "aud and sub are swapped"},
		{"aud replaced by sub", with(t, audLine, ""), Allowed, "PolicyNoAudience@4", "every client ID of the provider"},
		{"aud alone", with(t, subLine, ""), Allowed, "PolicyNoSubject@4", "every service account of the cluster is allowed"},
		{"no condition at all", with(t, audLine, "", `          "`+provider+`:sub": "system:serviceaccount:default:app"`+"\n", ""), Allowed, "PolicyNoAudience@4 PolicyNoSubject@4", ""},
		{"StringLike with nothing but a star", with(t, "system:serviceaccount:default:app", "*", "StringEquals", "StringLike"), Allowed, "PolicyNoSubject@4", ""},
		{"everybody", with(t, `{
        "Federated": "`+providerOf+`"
      }`, `"*"`), Allowed, "PolicyAnyone@6", "use Federated " + providerOf},
		{"a list of subjects", with(t, `"system:serviceaccount:default:app"`, `["system:serviceaccount:default:web", "system:serviceaccount:default:app"]`), Allowed, "", ""},
		{"a list of others", with(t, `"system:serviceaccount:default:app"`, `["system:serviceaccount:default:web", "system:serviceaccount:default:api"]`), Refused, "PolicySubject@13", ""},
		{"a condition that only AWS knows", with(t, `"`+provider+`:aud"`, `"aws:SourceVpc": "vpc-1", "`+provider+`:aud"`), Undecided, "PolicyCondition@12", "only AWS can tell"},
		{"everybody but this one", with(t, "StringEquals", "StringNotEquals"), Refused, "PolicyCondition@12 PolicyCondition@13", "excludes this request"},
		{"denied", with(t, `  "Statement": [`, `  "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "sts:*"},`), Refused, "PolicyDeny@3", "whatever else allows it"},
		{"others denied", with(t, `  "Statement": [`, `  "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "sts:*", "Condition": {"StringNotEquals": {"`+provider+`:sub": "system:serviceaccount:default:app"}}},`), Allowed, "", ""},
		{"for EC2", `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}`, Refused, "PolicyNoStatement@1", "no statement is about web identity"},
		{"for Pod Identity", `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}}`, Refused, "PolicyNoStatement@1", ""},
		{"several mistakes", with(t, "sts:AssumeRoleWithWebIdentity", "sts:AssumeRole", "default:app", "default:APP", "111122223333", "444455556666"), Refused, "PolicyAccount@7 PolicyAction@9 PolicyCase@13", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := parse(t, row.policy)
			if d := p.Decide(app); d != row.want {
				t.Errorf("decision %d, want %d", d, row.want)
			}
			var found []string
			var texts strings.Builder
			for _, problem := range p.Review(app) {
				found = append(found, fmt.Sprintf("%s@%d", problem.Kind, problem.Line))
				fmt.Fprintln(&texts, problem.Text)
			}
			if got := strings.Join(found, " "); got != row.found {
				t.Errorf("found %q, want %q\n%s%s", got, row.found, texts.String(), row.policy)
			}
			if !strings.Contains(texts.String(), row.says) {
				t.Errorf("%q does not say %q", texts.String(), row.says)
			}
		})
	}
}

func TestWhatGetRolePrintsIsRead(t *testing.T) {
	for name, text := range map[string]string{
		"get-role":                `{"Role": {"Path": "/", "RoleName": "app", "AssumeRolePolicyDocument": ` + rightPolicy + `, "MaxSessionDuration": 3600}}`,
		"get-role --query Role":   `{"RoleName": "app", "AssumeRolePolicyDocument": ` + rightPolicy + `}`,
		"the API, with escapes":   strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22", "\n", "%0A", " ", "%20").Replace(rightPolicy),
		"a policy and a new line": rightPolicy + "\n",
	} {
		if d := parse(t, text).Decide(app); d != Allowed {
			t.Errorf("%s: decision %d", name, d)
		}
	}
	line := parse(t, "{\"Role\":\n{\"AssumeRolePolicyDocument\":\n"+strings.Replace(rightPolicy, "sts:AssumeRoleWithWebIdentity", "sts:AssumeRole", 1)+"}}").Review(app)[0].Line
	if line != 11 {
		t.Errorf("the line is %d of the file, want 11", line)
	}
}

func TestWhatIsNoPolicyIsRefusedWithTheLine(t *testing.T) {
	statement := func(s string) string { return "{\n\"Statement\": [\n" + s + "\n]}" }
	for _, row := range []struct{ text, want string }{
		{"", "line 1: the file is empty"},
		{"\n\n", "line 1: the file is empty"},
		{"arn:aws:iam::111122223333:role/app", "line 1: this is an ARN: pass the trust policy of the role"},
		{"{\n  \"Version\": \"2012-10-17\",\n}", "line 2, column 26: not JSON: this comma is before a closing bracket: remove it"},
		{"{\n\"Statement\": [", "line 2, column 14: not JSON: unexpected end"},
		{rightPolicy + "\n}", "line 19, column 1: not JSON"},
		{rightPolicy + rightPolicy, "line 18, column 2: not JSON: invalid character '{' after"},
		{"[]", "line 1: the list is empty"},
		{"true", "line 1: a policy is an object"},
		{"null", "line 1: this is null"},
		{"{}", "line 1: not a policy: Statement is missing"},
		{"{\"Statement\": []}", "not a policy"},
		{"{\"Statement\": 1}", "Statement must be a list"},
		{"{\n\"Version\": \"2024-01-01\"}", `line 2: Version must be "2012-10-17"`},
		{"{\n\n\"statement\": []}", `line 3: "statement" must be written "Statement"`},
		{"{\"Statements\": []}", `"Statements" is not an element of a policy; the elements are Version, Id, Statement`},
		{statement("7"), "line 3: a statement is an object"},
		{statement(`{"Effect": "allow"}`), `line 3: Effect "allow" must be written "Allow"`},
		{statement(`{"Effect": "Permit"}`), `line 3: Effect must be "Allow" or "Deny"`},
		{statement(`{"Effect": "Allow", "Principal": "` + providerOf + `", "Action": "*"}`), `line 3: Principal is a provider's ARN: it must be in an object`},
		{statement(`{"Effect": "Allow"}`), "line 3: the statement has no Principal"},
		{statement(`{"Effect": "Allow", "Principal": {"Federated": "x"}}`), "line 3: the statement has no Action"},
		{statement(`{"Principal": "*", "Action": "*"}`), "line 3: the statement has no Effect"},
		{statement(`{"Effect": "Allow", "Principal": "arn:aws:iam::1:root", "Action": "*"}`), "line 3: Principal must be an object"},
		{statement(`{"Effect": "Allow", "Principal": {"federated": "x"}, "Action": "*"}`), `"federated" must be written "Federated"`},
		{statement(`{"Effect": "Allow", "Principal": {"Federated": [null]}, "Action": "*"}`), "Federated must be a string or a list of strings"},
		{statement(`{"Effect": "Allow", "Principal": {"Federated": []}, "Action": "*"}`), "Federated is an empty list"},
		{statement("{\"Effect\": \"Allow\",\n\"Resource\": \"*\"}"), "line 4: a trust policy has no Resource"},
		{statement(`{"Effect": "Allow", "Prinicpal": "*"}`), `"Prinicpal" is not an element of a statement`},
		{statement(`{"Effect": "Allow", "Effect": "Deny"}`), `line 3: duplicate "Effect"`},
		{statement(`{"Effect": "Allow", "Condition": "x"}`), "Condition must be an object"},
		{statement(`{"Effect": "Allow", "Condition": {"StringEquals": "x"}}`), "StringEquals must be an object"},
		{strings.Repeat(`{"a":`, 50) + "1" + strings.Repeat("}", 50), "nested too deeply"},
		{strings.Repeat(" ", MaxInput+1), "longer than"},
		{"\n{\"Id\": \"" + strings.Repeat("x", MaxSize) + "\"}", "line 2: longer than 65536 bytes"},
	} {
		p, err := Parse([]byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%.60q: %v, %v, want %q", row.text, p, err, row.want)
		}
	}
}

func TestOperators(t *testing.T) {
	const sub = provider + ":sub"
	known := app
	known.SessionName, known.Region, known.Now = "shop.cart-7c9f", "eu-west-1", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	github := app
	github.Subject = "repo:acme/shop:ref:refs/heads/main"
	for _, row := range []struct {
		operator, key, values string
		want                  truth
	}{
		{"StringEquals", sub, `"system:serviceaccount:default:app"`, yes},
		{"stringequals", sub, `"system:serviceaccount:default:app"`, yes}, // names of operators ignore case
		{"STRINGLIKE", sub, `"*"`, yes},
		{"forAnyValue:stringLIKEifexists", sub, `"*"`, yes},
		{"stringnotequals", sub, `"system:serviceaccount:default:app"`, no},
		{"StringEqualsIgnoreCase", sub, `"SYSTEM:serviceaccount:default:app"`, yes},
		{"StringNotEquals", sub, `"system:serviceaccount:default:app"`, no},
		{"StringNotEquals", sub, `["a", "system:serviceaccount:default:app"]`, no},
		{"StringNotEquals", sub, `"system:serviceaccount:default:web"`, yes},
		{"StringNotEqualsIgnoreCase", sub, `"SYSTEM:serviceaccount:default:app"`, no},
		{"StringNotLike", sub, `"system:*"`, no},
		{"StringNotLike", "other/id:sub", `"x"`, yes},
		{"StringLike", sub, `"*:a*p"`, yes},
		{"StringEquals", "other/id:sub", `"x"`, no},
		{"StringEqualsIfExists", "other/id:sub", `"x"`, yes},
		{"StringEqualsIfExists", sub, `"x"`, no},
		{"ForAllValues:StringEquals", "other/id:sub", `"x"`, yes},
		{"ForAnyValue:StringEquals", "other/id:sub", `"x"`, no},
		{"ForAnyValue:StringNotEquals", "other/id:sub", `"x"`, no},
		{"ForAnyValue:StringLike", provider + ":aud", `["x", "sts*"]`, yes},
		{"Null", sub, `"false"`, yes},
		{"null", sub, `true`, no},
		{"Null", provider + ":amr", `"true"`, yes},

		// A subject is neither an ARN, a number, a date nor an address.
		{"ArnLike", sub, `"*"`, no},
		{"ArnEquals", sub, `"system:serviceaccount:default:app"`, no},
		{"ArnNotLike", sub, `"*"`, yes},
		{"NumericEquals", sub, `"1"`, no},
		{"DateLessThan", sub, `"2030-01-01"`, no},
		{"IpAddress", sub, `"0.0.0.0/0"`, no},
		{"NotIpAddress", sub, `"0.0.0.0/0"`, yes},
		{"Bool", sub, `"system:serviceaccount:default:app"`, no},
		{"BinaryEquals", sub, `"c3lzdGVtOnNlcnZpY2VhY2NvdW50OmRlZmF1bHQ6YXBw"`, yes},

		// There are no such operators.
		{"StringEqual", sub, `"system:serviceaccount:default:app"`, unknown},
		{"StringEquals:", sub, `"system:serviceaccount:default:app"`, unknown},
		{"StringNot", sub, `"x"`, unknown},
		{"NullIfExists", sub, `"false"`, unknown},
		{"IfExists", sub, `"x"`, unknown},
		{"StringLessThan", sub, `"x"`, unknown},

		// What the request says is known.
		{"StringLike", "sts:RoleSessionName", `"shop.cart-*"`, yes},
		{"StringLike", "sts:rolesessionname", `"cart-*"`, no},
		{"StringEquals", "aws:RequestedRegion", `["us-east-1", "eu-west-1"]`, yes},
		{"StringEquals", "aws:RequestedRegion", `"eu-west-2"`, no},
		{"StringNotLike", "aws:RequestedRegion", `"eu-*"`, no},
		{"Bool", "aws:SecureTransport", `"true"`, yes},
		{"Bool", "aws:SecureTransport", `true`, yes},
		{"Bool", "aws:SecureTransport", `"TRUE"`, yes},
		{"bool", "aws:SecureTransport", `"false"`, no},
		{"BoolIfExists", "AWS:securetransport", `false`, no},
		{"Bool", "aws:ViaAWSService", `"false"`, yes},
		{"Null", "aws:CurrentTime", `"false"`, yes},
		{"DateGreaterThan", "aws:CurrentTime", `"2020-01-01"`, yes},
		{"DateGreaterThan", "aws:CurrentTime", `"2026-03-01T12:00:00Z"`, no},
		{"DateGreaterThanEquals", "aws:CurrentTime", `"2026-03-01T12:00:00Z"`, yes},
		{"DateEquals", "aws:CurrentTime", `"2026-03-01T13:00:00+01:00"`, yes},
		{"DateNotEquals", "aws:CurrentTime", `"2026-03-01T13:00:00+01:00"`, no},
		{"DateLessThan", "aws:CurrentTime", `"2026-03-01T12:00Z"`, no},
		{"DateLessThanEquals", "aws:CurrentTime", `"2026-03-01T12:00Z"`, yes},
		{"DateLessThan", "aws:CurrentTime", `"2026-03-01T12:00:00.5Z"`, yes},
		{"DateLessThan", "aws:CurrentTime", `"1772366401"`, yes}, // seconds: a second later
		{"DateLessThan", "aws:CurrentTime", `1772366400`, no},
		{"DateLessThan", "aws:CurrentTime", `"soon"`, no},
		{"DateLessThan", "aws:EpochTime", `"2026-03-01T12:00:01Z"`, yes},
		{"NumericLessThan", "aws:EpochTime", `"1772366401"`, yes},
		{"NumericLessThan", "aws:EpochTime", `1772366400`, no},
		{"NumericLessThanEquals", "aws:EpochTime", `1772366400`, yes},
		{"NumericGreaterThan", "aws:EpochTime", `1772366399.5`, yes},
		{"NumericGreaterThanEquals", "aws:EpochTime", `"1772366401"`, no},
		{"NumericEquals", "aws:EpochTime", `"1772366400"`, yes},
		{"NumericNotEquals", "aws:EpochTime", `"1772366400"`, no},
		{"NumericNotEquals", "aws:EpochTime", `"NaN"`, yes},

		// What web identity never has is not there, for certain.
		{"StringEquals", "aws:PrincipalOrgID", `"o-1"`, no},
		{"StringNotEquals", "aws:PrincipalOrgID", `"o-1"`, yes},
		{"StringEqualsIfExists", "aws:PrincipalOrgID", `"o-1"`, yes},
		{"StringEquals", "sts:ExternalId", `"x"`, no},
		{"StringEquals", "aws:PrincipalTag/team", `"shop"`, no},
		{"ArnLike", "aws:PrincipalArn", `"*"`, no},
		{"Bool", "aws:MultiFactorAuthPresent", `"true"`, no},
		{"BoolIfExists", "aws:MultiFactorAuthPresent", `"true"`, yes},
		{"Bool", "aws:PrincipalIsAWSService", `"false"`, no},
		{"Null", "aws:SourceAccount", `"true"`, yes},
		{"StringEquals", "aws:RequestTag/team", `"shop"`, no},
		{"ForAllValues:StringEquals", "aws:TagKeys", `"team"`, yes},
		{"StringEquals", "saml:aud", `"https://signin.aws.amazon.com/saml"`, no},

		// Only AWS knows these.
		{"IpAddress", "aws:SourceIp", `"0.0.0.0/0"`, unknown},
		{"StringEquals", "aws:SourceVpc", `"vpc-1"`, unknown},
		{"StringEqualsIfExists", "aws:SourceVpce", `"vpce-1"`, unknown},
		{"StringLike", "aws:UserAgent", `"*"`, unknown},
		{"StringEquals", "iam:ResourceTag/team", `"shop"`, unknown},
		{"StringEquals", "aws:PrincipalAccount", `"111122223333"`, unknown},
	} {
		p := parse(t, fmt.Sprintf(`{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": {%q: {%q: %s}}}}`, row.operator, row.key, row.values))
		c := p.Statements[0].conditions[0]
		if got := c.holds(known); got != row.want {
			t.Errorf("%s %s %s: %d, want %d", row.operator, row.key, row.values, got, row.want)
		}
	}
	// Without what the request says, and for a token that may have tags, only AWS can tell.
	for key, id := range map[string]Identity{
		"sts:RoleSessionName": app, "aws:RequestedRegion": app, "aws:CurrentTime": app, "aws:EpochTime": app,
		"aws:RequestTag/team": github, "sts:SourceIdentity": github,
	} {
		c := condition{operator: value{text: "StringLike"}, key: value{text: key}, values: []value{{text: "*"}}}
		if got := c.holds(id); got != unknown {
			t.Errorf("%s: %d", key, got)
		}
	}
	known.Region = "aws-global"
	if region, _, _ := known.context("aws:RequestedRegion"); region != "us-east-1" {
		t.Errorf("the global endpoint is in %q", region)
	}
}

func TestPolicyVariables(t *testing.T) {
	const sub = provider + ":sub"
	id := app
	id.SessionName, id.Subject = "a*b", "system:serviceaccount:default:a*b"
	for _, row := range []struct {
		version, operator, text string
		want                    truth
	}{
		{"2012-10-17", "StringEquals", "system:serviceaccount:${aws:PrincipalTag/ns, 'default'}:a*b", yes},
		{"2012-10-17", "StringEquals", "system:serviceaccount:${ aws:PrincipalTag/ns , 'default' }:a*b", yes},
		{"2012-10-17", "StringEquals", "system:serviceaccount:${aws:PrincipalTag/ns,'default'}:a*b", yes},
		{"2012-10-17", "StringEquals", "system:serviceaccount:${aws:PrincipalTag/ns, 'other'}:a*b", no},
		{"2012-10-17", "StringEquals", "system:serviceaccount:${aws:username}:a*b", no},
		{"2012-10-17", "StringLike", "system:serviceaccount:*${aws:username}", no},
		{"2012-10-17", "StringNotEquals", "${aws:username}", yes},
		{"2012-10-17", "StringEquals", "system:serviceaccount:default:${sts:RoleSessionName}", yes},
		{"2012-10-17", "StringLike", "system:serviceaccount:default:${sts:RoleSessionName}", yes},
		{"2012-10-17", "StringLike", "system:*:${sts:RoleSessionName, 'x'}", yes}, // the default is for a key that is not there
		{"2012-10-17", "StringLike", "system:serviceaccount:default:a${*}b", yes},
		{"2012-10-17", "StringEquals", "system:serviceaccount:default:a${*}b", yes},
		{"2012-10-17", "StringLike", "system:serviceaccount:default:a${?}b", no},
		{"2012-10-17", "StringLike", "system:serviceaccount:default:a${$}b", no},
		{"2012-10-17", "StringLike", "system:serviceaccount:${aws:PrincipalTag/ns, '*'}:a*b", no}, // not a wildcard
		{"2012-10-17", "StringEquals", "${aws:SourceIp}", unknown},
		{"2012-10-17", "StringEquals", "${aws:SourceIp}${aws:username}", no},
		{"2012-10-17", "StringEquals", "${ACCOUNT_ID}", no},
		{"2012-10-17", "StringEquals", "${", no},
		{"2012-10-17", "StringEquals", "${aws:username, 'default", no},
		{"2012-10-17", "StringEquals", "${aws:username, default}", no},
		{"2008-10-17", "StringEquals", "system:serviceaccount:${aws:PrincipalTag/ns, 'default'}:a*b", no},
		{"2008-10-17", "StringLike", "system:serviceaccount:default:a${*}b", no},
		{"", "StringEquals", "system:serviceaccount:default:a${*}b", no},
	} {
		text := fmt.Sprintf(`{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": {%q: {%q: %q}}}, "Version": %q}`, row.operator, sub, row.text, row.version)
		if row.version == "" {
			text = strings.Replace(text, `, "Version": ""`, "", 1)
		}
		if got := parse(t, text).Statements[0].conditions[0].holds(id); got != row.want {
			t.Errorf("%s %s %s: %d, want %d", row.version, row.operator, row.text, got, row.want)
		}
	}
	quoted := app
	quoted.Subject = "it's ${x}"
	c := condition{operator: value{text: "StringEquals"}, key: value{text: sub}, values: []value{{text: "${aws:username, 'it''s ${x}'}"}}, variables: true}
	if c.holds(quoted) != yes { // a default is not expanded
		t.Error("a quote in a default is not read")
	}
	literal := app
	literal.Subject = "${aws:username, 'x'}"
	c.variables, c.values[0].text = false, literal.Subject
	if c.holds(literal) != yes {
		t.Error("a variable is replaced in an old policy")
	}
}

func TestARNsAreComparedByTheirParts(t *testing.T) {
	const got = "arn:aws:iam::111122223333:role/team:app"
	for text, want := range map[string]bool{
		got: true, "arn:aws:iam::*:role/*": true, "arn:*:iam::111122223333:role/team:app": true, "arn:aws:iam::1111*3333:role/t?am:app": true,
		"*": false, "arn:aws:*": false, "arn:aws:iam::*": false, "arn:aws:iam:111122223333:role/team:app": false, "": false,
	} {
		if likeARN(wildcards(text), got) != want {
			t.Errorf("%s: want %v", text, want)
		}
	}
}

func TestLike(t *testing.T) {
	for _, row := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"?", "", false}, {"a*", "a", true}, {"*a", "ba", true}, {"a?c", "abc", true},
		{"a*c*e", "abcde", true}, {"a*c*e", "abcd", false}, {"**", "x", true}, {"*ab", "aab", true}, {"?", "é", true}, {"*b", "a*", false},
	} {
		if got := like(row.pattern, row.s); got != row.want {
			t.Errorf("like(%q, %q) = %v", row.pattern, row.s, got)
		}
	}
}

// FuzzParse reads anything. A policy that is changed is still a policy, and lets the identity in.
func FuzzParse(f *testing.F) {
	f.Add([]byte(rightPolicy))
	f.Add([]byte(`{"Role": {"AssumeRolePolicyDocument": ` + rightPolicy + `}}`))
	f.Add([]byte(`{"Statement": {"Effect": "Deny", "NotPrincipal": {"AWS": "*"}, "NotAction": ["sts:*"], "Condition": {"Null": {"aws:x": true}}}}`))
	f.Add([]byte(`{"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": {"StringLike": {":": "*"}}}]}`))
	f.Add([]byte("%7B%22Statement%22%3A1%7D"))
	f.Add([]byte("\ufeff" + asString(asString(rightPolicy))))
	f.Add([]byte(inUTF16("\ufeff"+rightPolicy, little)))
	f.Add([]byte(`{"Roles": [{"Arn": "a/b", "AssumeRolePolicyDocument": "%7b%7D"}, {"Arn": "c"}]}`))
	f.Add([]byte(`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"Federated": "a\u00a0${X}"}, "Action": "*", "Condition": {
		"forallvalues:ArnNotLikeIfExists": {"aws:PrincipalTag/x": "${a:b, 'c''d'}${"}, "DateLessThan": {"aws:CurrentTime": ["2024", "x"]}, "NumericEqual": {"aws:EpochTime": 1e3}}}}`))
	for i := range 40 {
		f.Add(maker{rand.New(rand.NewPCG(1, uint64(i)))}.policy())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", data, err)
			}
			return
		}
		for _, problem := range p.Review(app) {
			if problem.Kind == "" || problem.Text == "" || problem.Line < 1 || problem.Statement > len(p.Statements) {
				t.Errorf("%q: %+v", data, problem)
			}
		}
		if p.Decide(app) != Allowed && len(p.Review(app)) == 0 {
			t.Errorf("%q: refused without a problem", data)
		}
		e, err := p.Propose(app)
		if err != nil {
			return
		}
		after, err := Parse(e.Document)
		if err != nil {
			t.Fatalf("%q is changed to something that is not a policy: %v\n%s", data, err, e.Document)
		}
		if p.Decide(app) == Allowed || after.Decide(app) == Refused {
			t.Errorf("%q is changed to decision %d:\n%s", data, after.Decide(app), e.Document)
		}
	})
}

// An edit is a splice: what a value says must be at its offsets.
func TestEveryValueIsAtItsOffsets(t *testing.T) {
	for name, text := range map[string]string{
		"plain":    rightPolicy,
		"compact":  strings.Join(strings.Fields(rightPolicy), ""),
		"loose":    strings.NewReplacer(":", " : ", ",", "\n , ", "{", "\r\n\t{ ").Replace(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":["a","b"]},"Action":["c","d"],"Condition":{"e":{"f":["g",true,1.5]},"h":{"i":"j"}}}]}`),
		"escaped":  `{"Statement": {"Effect": "Allow", "Principal": {"Federated": "\u0061\"\\"}, "Action": "é\n", "Condition": {"\u2028": {"a\/b": "\ud83d\ude00"}}}}`,
		"get-role": `{"Role": {"RoleName": "a", "AssumeRolePolicyDocument": ` + rightPolicy + `, "Path": "/"}}`,
	} {
		p := parse(t, text)
		check := func(v value) {
			got := string(p.text[v.start:v.end])
			if unquoted := ""; got != v.text && (json.Unmarshal([]byte(got), &unquoted) != nil || unquoted != v.text) {
				t.Errorf("%s: at the offsets of %q is %q", name, v.text, got)
			}
		}
		for _, s := range p.Statements {
			for _, v := range slices.Concat(s.federated, s.actions) {
				check(v)
			}
			for _, c := range s.conditions {
				for _, v := range append(c.values, c.operator, c.key) {
					check(v)
				}
				if got := p.text[c.list.start:c.list.end]; !json.Valid(got) {
					t.Errorf("%s: a list is %q", name, got)
				}
			}
			if got := p.text[s.node.start:s.node.end]; got[0] != '{' || !json.Valid(got) {
				t.Errorf("%s: a statement is %q", name, got)
			}
		}
		if got := p.text[p.root.start:p.root.end]; got[0] != '{' || !json.Valid(got) || !json.Valid(p.text[p.list.start:p.list.end]) {
			t.Errorf("%s: the policy is %q", name, got)
		}
	}
}
