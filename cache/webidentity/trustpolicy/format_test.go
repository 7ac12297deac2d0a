package trustpolicy

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

func inUTF16(text string, order func(uint16) [2]byte) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		pair := order(unit)
		b = append(b, pair[:]...)
	}
	return string(b)
}

func little(u uint16) [2]byte { return [2]byte{byte(u), byte(u >> 8)} }
func big(u uint16) [2]byte    { return [2]byte{byte(u >> 8), byte(u)} }

func asString(text string) string {
	raw, _ := json.Marshal(text)
	return string(raw)
}

// A policy is read however it was copied, saved or printed.
func TestEveryFormOfAPolicyIsRead(t *testing.T) {
	const arn = "arn:aws:iam::111122223333:role/team/app"
	var lower strings.Builder
	for _, b := range []byte(rightPolicy) {
		fmt.Fprintf(&lower, "%%%02x", b)
	}
	escaped := url.PathEscape(rightPolicy)
	role := func(arn, policy string) string {
		return fmt.Sprintf(`{"Path": "/", "RoleName": %q, "Arn": %q, "AssumeRolePolicyDocument": %s}`, arn[strings.LastIndexByte(arn, '/')+1:], arn, policy)
	}
	web := strings.Replace(rightPolicy, "default:app", "default:web", 1)
	for name, row := range map[string]struct{ text, arn string }{
		"as it is":                       {rightPolicy, ""},
		"with Windows' line ends":        {strings.ReplaceAll(rightPolicy, "\n", "\r\n"), ""},
		"on one line":                    {strings.ReplaceAll(rightPolicy, "\n", " "), ""},
		"with a BOM":                     {"\ufeff" + rightPolicy, ""},
		"in UTF-16 of PowerShell":        {inUTF16("\ufeff"+rightPolicy, little), ""},
		"in UTF-16, the other way round": {inUTF16("\ufeff"+rightPolicy, big), ""},
		"in UTF-16 without a BOM":        {inUTF16(rightPolicy, little), ""},
		"in UTF-16 without a BOM, big":   {inUTF16(rightPolicy, big), ""},
		"UTF-16 with an odd end":         {inUTF16("\ufeff"+rightPolicy+"\n", little) + "\x00", ""},
		"a string":                       {asString(rightPolicy), ""},
		"a string in a string":           {asString(asString(rightPolicy)), ""},
		"a string with a BOM":            {"\ufeff" + asString(rightPolicy), ""},
		"a string without its quotes":    {strings.Trim(asString("{"+rightPolicy[1:]), `"`), ""},
		"with escaped quotes":            {strings.ReplaceAll(strings.ReplaceAll(strings.Replace(rightPolicy, "{\n  ", "{", 1), "\n", ""), `"`, `\"`), ""},
		"URL-encoded":                    {escaped, ""},
		"URL-encoded in lower case":      {lower.String(), ""},
		"URL-encoded twice":              {url.PathEscape(escaped), ""},
		"URL-encoded in quotes":          {`"` + escaped + `"`, ""},
		"URL-encoded after blanks":       {"%20%0A" + escaped, ""},
		"get-role":                       {`{"Role": ` + role(arn, rightPolicy) + `}`, arn},
		"get-role --query Role":          {role(arn, rightPolicy), arn},
		"get-role of the API":            {`{"Role": ` + role(arn, asString(escaped)) + `}`, arn},
		"get-role with a string":         {`{"Role": ` + role(arn, asString(rightPolicy)) + `}`, arn},
		"get-role with a string twice":   {`{"Role": ` + role(arn, asString(asString(rightPolicy))) + `}`, arn},
		"list-roles":                     {`{"Roles": [` + role("arn:aws:iam::111122223333:role/web", web) + "," + role(arn, rightPolicy) + `]}`, arn},
		"list-roles --query Roles":       {`[` + role("arn:aws:iam::111122223333:role/web", web) + "," + role(arn, asString(escaped)) + `]`, arn},
		"list-roles, one of the name":    {`{"Roles": [` + role("arn:aws:iam::111122223333:role/web", web) + "," + role("arn:aws:iam::111122223333:role/app", rightPolicy) + `]}`, "arn:aws:iam::111122223333:role/app"},
		"list-roles with two of a name":  {`{"Roles": [` + role("arn:aws:iam::111122223333:role/app", web) + "," + role(arn, rightPolicy) + `]}`, arn},
		"list-roles with one":            {`{"Roles": [` + role("arn:aws:iam::111122223333:role/other", rightPolicy) + `]}`, "arn:aws:iam::111122223333:role/other"},
		"account authorization details":  {`{"RoleDetailList": [` + role(arn, rightPolicy) + `], "Policies": []}`, arn},
		"what --query put together":      {`["` + arn + `", ` + rightPolicy + `]`, ""},
		"a list of one document":         {`[` + rightPolicy + `]`, ""},
		"input of update":                {`{"RoleName": "app", "PolicyDocument": ` + asString(rightPolicy) + `}`, ""},
		"input of create":                {`{"RoleName": "app", "AssumeRolePolicyDocument": ` + asString(rightPolicy) + `}`, ""},
	} {
		p, err := ParseFor([]byte(row.text), arn)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := p.Decide(app); d != Allowed || p.RoleARN != row.arn {
			t.Errorf("%s: decision %d, role %q", name, d, p.RoleARN)
		}
		if _, err := Parse(p.text[p.root.start:p.root.end]); err != nil {
			t.Errorf("%s: its offsets are of another text: %v", name, err)
		}
	}
	// + is no blank in what the API returns.
	plus := strings.ReplaceAll(url.PathEscape(strings.Replace(rightPolicy, "default:app", "default:a+b", 1)), "%2B", "+")
	other := app
	other.Subject = "system:serviceaccount:default:a+b"
	if p, err := Parse([]byte(plus)); err != nil || p.Decide(other) != Allowed {
		t.Errorf("with a plus: %v", err)
	}
}

// What is no policy is named, without anything of it.
func TestOtherFormatsAreNamed(t *testing.T) {
	encode := base64.RawURLEncoding.EncodeToString
	token := encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(`{"iss":"https://oidc.example"}`)) + ".c2lnbmF0dXJlc2lnbmF0dXJl"
	const (
		secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
		yaml   = "this is YAML: pass JSON"
		cfn    = "this is a CloudFormation template: kubectl irsa doctor reads it"
		tf     = "this is Terraform: kubectl irsa doctor reads it"
	)
	for _, row := range []struct{ text, want string }{
		{token, "this is a token"},
		{token + "\n", "this is a token"},
		{"Bearer " + token, "this is a token"},
		{token[:20] + "\n" + token[20:40] + "\n" + token[40:] + "\n", "this is a token"},
		{`"` + token + `"`, "this is a token"},
		{base64.StdEncoding.EncodeToString([]byte(rightPolicy)), "this is base64: decode it first"},
		{"-----BEGIN RSA PRIVATE KEY-----\n" + secret + "\n-----END", "this is a PEM file"},
		{"[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = " + secret, "this is a file with credentials"},
		{"AKIAIOSFODNN7EXAMPLE," + secret, "this is a file with credentials"},
		{"export AWS_SECRET_ACCESS_KEY=" + secret, "this is a file with credentials"},
		{`{"Credentials": {"AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": "` + secret + `"}}`, "these are credentials"},
		{`{"AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": "` + secret + `"}`, "these are credentials"},
		{`{"iss": "https://oidc.example", "sub": "x", "aud": ["y"]}`, "these are the claims of a token"},
		{`{"keys": [{"kty": "RSA"}]}`, "this is a document of the issuer"},
		{`{"Url": "oidc.example", "ClientIDList": ["sts.amazonaws.com"]}`, "this is about an OIDC provider"},
		{`{"cluster": {"name": "shop"}}`, "this is about a cluster"},
		{`{"Role": {"RoleName": "app", "Arn": "arn:aws:iam::111122223333:role/app"}}`, "has no AssumeRolePolicyDocument"},
		{`{"RoleName": "app", "PolicyName": "s3", "PolicyDocument": {"Statement": []}}`, "this is a permissions policy"},
		{`{"PolicyVersion": {"Document": {}}}`, "this is a permissions policy"},
		{`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}`, "this is a permissions policy"},
		{`{"Effect": "Allow", "Principal": "*", "Action": "*"}`, "this is a statement and not a policy"},
		{`[{"Effect": "Allow", "Principal": "*", "Action": "*"}]`, "this is a list of statements and not a policy"},
		{`{"AWSTemplateFormatVersion": "2010-09-09", "Resources": {}}`, cfn},
		{`{"Type": "AWS::IAM::Role", "Properties": {}}`, cfn},
		{`{"format_version": "1.2", "planned_values": {}}`, "this is Terraform's JSON"},
		{`{"apiVersion": "v1", "kind": "ServiceAccount"}`, "this is a Kubernetes manifest"},
		{"null", "this is null"},
		{"Version: \"2012-10-17\"\nStatement:\n- Effect: Allow\n", yaml},
		{"---\nVersion: '2012-10-17'\n", yaml},
		{"# the policy\nVersion: '2012-10-17'\n", yaml},
		{"Role:\n  Arn: arn:aws:iam::111122223333:role/app\n", yaml},
		{"Resources:\n  Role:\n    Type: AWS::IAM::Role\n", cfn},
		{"AssumeRolePolicyDocument:\n  Federated: !Sub arn\n", cfn},
		{"apiVersion: v1\nkind: ServiceAccount\n", "this is a Kubernetes manifest"},
		{"resource \"aws_iam_role\" \"app\" {\n  name = \"app\"\n}\n", tf},
		{"data \"aws_iam_policy_document\" \"app\" {\n}\n", tf},
		{"assume_role_policy = jsonencode({\n  Version = \"2012-10-17\"\n})", tf},
		{"{\n  Version = \"2012-10-17\"\n}", "Terraform's language: kubectl irsa doctor reads it"},
		{"<!DOCTYPE html>\n<html></html>", "this is an HTML page"},
		{"<html><body>login</body></html>", "this is an HTML page"},
		{"<GetRoleResponse></GetRoleResponse>", "this is XML"},
		{"arn:aws-cn:iam::111122223333:role/app\n", "this is an ARN"},
		{`"arn:aws:iam::111122223333:role/app"`, "this is an ARN"},
		{"```json\n" + rightPolicy + "\n```", "this is Markdown: remove the ``` around the policy"},
		{"'" + rightPolicy + "'", "remove the single quotes around it"},
		{"{'Version': '2012-10-17', 'x': True}", "this is a dictionary of Python"},
		{"{'Version': '2012-10-17'}", "line 1, column 2: not JSON: '\\'' is not a double quote: write \""},
		{"{&quot;Version&quot;: &quot;2012-10-17&quot;}", "this is JSON with HTML's escapes: write \" in place of &quot;"},
		{"{\"Version\": \"2012-10-17\", \"Id\": \"Zur\xfcck\", \"Statement\": [],}", "this is neither UTF-8 nor UTF-16: save it as UTF-8"},
		{"[\"arn:aws:iam::111122223333:role/app\"]", "this is an ARN"},
		{"An error occurred (NoSuchEntity) when calling the GetRole operation: The role with name app cannot be found.", "this is an error of the AWS CLI"},
		{"\nUnable to locate credentials. You can configure credentials by running \"aws configure\".", "this is an error of the AWS CLI"},
		{"ROLE\tarn:aws:iam::111122223333:role/app\t2024", "this is the text output of the AWS CLI"},
		{"-----------------\n|    GetRole    |\n+---------------+", "this is the table output of the AWS CLI"},
		{"\x1f\x8b\x08\x00\x00", "this is not text"},
		{"\x89PNG\r\n\x1a\n", "this is not text"},
		{"\x00\x01\x02", "this is not text"},
		{strings.Repeat("\xff", 99), "this is not text"},
		{"", "the file is empty"},
		{"\ufeff\n", "the file is empty"},
		{`{"Role": {"Arn": "x", "AssumeRolePolicyDocument": "{\n\"Statement\": [\n}"}}`, "line 1: in the text of the policy, line 3, column 1: not JSON"},
		{`{"Role": {"Arn": "x", "AssumeRolePolicyDocument": "` + token + `"}}`, "this is a token"},
		{"%7B%", "line 1, column 1: not JSON"},
	} {
		_, err := Parse([]byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "line ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: %v, want %q", row.text, err, row.want)
		}
		if err != nil && (strings.Contains(err.Error(), token[20:30]) || strings.Contains(err.Error(), secret[:12])) {
			t.Errorf("a secret is quoted: %v", err)
		}
	}
}

func TestARoleThatIsNotInTheListIsMissed(t *testing.T) {
	var roles []string
	for i := range 13 {
		roles = append(roles, fmt.Sprintf(`{"Arn": "arn:aws:iam::111122223333:role/r%d", "AssumeRolePolicyDocument": {}}`, i))
	}
	list := `{"Roles": [` + strings.Join(roles, ",") + `]}`
	for arn, want := range map[string]string{
		"arn:aws:iam::111122223333:role/app": `line 1: the list of roles lacks "arn:aws:iam::111122223333:role/app"; it has "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9" and 3 more`,
		"":                                   `line 1: a list of roles: pass only the one that is meant; it has "r0",`,
	} {
		if _, err := ParseFor([]byte(list), arn); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := ParseFor([]byte(`{"Roles": []}`), "x"); err == nil || err.Error() != "line 1: the list is empty" {
		t.Errorf("an empty list: %v", err)
	}
	if _, err := ParseFor([]byte(`[`+rightPolicy+`,`+rightPolicy+`]`), "x"); err == nil || !strings.Contains(err.Error(), "a list of 2 documents") {
		t.Errorf("two documents: %v", err)
	}
}

// The place is where something is to be changed, counted in characters, and often before the place where a parser stops.
func TestMistakesInJSONAreNamedWhereTheyAre(t *testing.T) {
	at := func(old, new string) string {
		if !strings.Contains(rightPolicy, old) {
			t.Fatalf("the policy has no %s", old)
		}
		return strings.Replace(rightPolicy, old, new, 1)
	}
	for _, row := range []struct{ text, want string }{
		{at(`default:app"`+"\n", `default:app",`+"\n"), `line 13, column 122: not JSON: this comma is before a closing bracket: remove it`},
		{at("    }\n  ]", "    },\n  ]"), "line 16, column 6: not JSON: this comma is before a closing bracket: remove it"},
		{at("    }\n  ]", "    },\n\n\n  ]"), "line 16, column 6: not JSON: this comma"},
		{at(`"2012-10-17",`, `"2012-10-17"`), "line 2, column 25: not JSON: a comma is missing after this"},
		{at(`"sts.amazonaws.com",`, `"sts.amazonaws.com"`), "line 12, column 105: not JSON: a comma is missing after this"},
		{at(`"Version": "2012-10-17"`, `“Version”: “2012-10-17”`), "line 2, column 3: not JSON: '“' is not a straight quote"},
		{at(`"2012-10-17"`, `“2012-10-17”`), "line 2, column 14: not JSON: '“' is not a straight quote"},
		{at(`"Effect": "Allow"`, `"Effect": 'Allow'`), "line 5, column 17: not JSON: '\\'' is not a double quote"},
		{at(`  "Version"`, "  // the version\n  \"Version\""), "line 2, column 3: not JSON: JSON has no comments"},
		{at(`"2012-10-17",`, `"2012-10-17", # new`), "line 2, column 28: not JSON: JSON has no comments"},
		{at(`"Version": "2012-10-17",`, `"Version": "2012-10-17", /* new */`), "line 2, column 28: not JSON: JSON has no comments"},
		{at(`"Version"`, `Version`), "line 2, column 3: not JSON: a name must be in double quotes"},
		{at(`"Version":`, `"Version"`), "line 2, column 13: not JSON: a colon is missing before this"},
		{at(`"Allow"`, `"Allow`), "line 5, column 24: not JSON: the text in quotes does not end on this line"},
		{at(`"Allow"`, "\u00a0\"Allow\""), `line 5, column 17: not JSON: an invisible character, \u00a0: remove it`},
		{at(`"Allow"`, "\"Al\tlow\""), `line 5, column 20: not JSON: the character '\t' must not be in a text`},
		{at("  ]\n}", ""), "not JSON: unexpected end: the rest is missing"},
		{at("{\n  \"Version\"", "{\n  ,\"Version\""), "line 2, column 3: not JSON: this comma has nothing before it"},
		{at("        }\n      }\n    }\n  ]", "        }\n      }\n  ]"), "line 16, column 3: not JSON: ']' closes what another bracket has opened"},
		{rightPolicy + ",", "line 18, column 2: not JSON: this is after the end of the policy"},
		{strings.Replace(at(`"2012-10-17",`, `"2012-10-17"`), `"Version": `, `"Ä": "é", "Version": `, 1), "line 2, column 35: not JSON: a comma is missing after this"},
	} {
		_, err := Parse([]byte(row.text))
		if err == nil || !strings.HasPrefix(err.Error(), row.want) && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v, want %s", err, row.want)
		}
	}
}

// A list of thousands of roles is read in a moment, and so is what only looks like one.
func TestLongInputTakesNoLongTime(t *testing.T) {
	role := `{"Arn": "arn:aws:iam::111122223333:role/other", "AssumeRolePolicyDocument": ` + rightPolicy + `},` + "\n"
	list := `{"Roles": [` + strings.Repeat(role, (MaxInput-2000)/len(role)) + strings.Replace(role, "other", "app", 1)
	list = list[:len(list)-2] + "]}"
	names := "{"
	for i := 0; len(names) < MaxInput-20; i++ {
		names += fmt.Sprintf(`"%d":0,`, i)
		if i == 5000 {
			names += strings.Repeat(" ", MaxInput-20-len(names))
		}
	}
	begun := time.Now()
	p, err := ParseFor([]byte(list), "arn:aws:iam::111122223333:role/app")
	if err != nil || p.RoleARN != "arn:aws:iam::111122223333:role/app" || len(list) < MaxInput/2 {
		t.Errorf("%v, of %d bytes", err, len(list))
	}
	if _, err := Parse([]byte(strings.TrimRight(names, " ,") + "}")); err == nil || !strings.Contains(err.Error(), "more than 1000 names") {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it takes %s", took)
	}
}
