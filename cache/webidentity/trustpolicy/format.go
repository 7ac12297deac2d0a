package trustpolicy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxLayers bounds how often a policy is encoded: the API's URL encoding, in a string, of which there are two in logs.
const maxLayers = 6

// plain returns a document without what it was encoded with: UTF-16, a byte order mark, URL encoding, and JSON strings.
func plain(data []byte) []byte {
	data = utf8Text(data)
	for range maxLayers {
		text := strings.TrimSpace(string(data))
		var inner string
		switch {
		case strings.HasPrefix(text, `"`) && json.Unmarshal([]byte(text), &inner) == nil:
		case strings.HasPrefix(text, `{\`) && json.Unmarshal([]byte(`"`+text+`"`), &inner) == nil: // without its quotes
		case isEscaped(text):
			decoded, err := url.PathUnescape(text) // in which + is no blank
			if err != nil {
				return data
			}
			inner = decoded
		default:
			return data
		}
		data = []byte(inner)
	}
	return data
}

// utf8Text returns a text without its byte order mark, and in UTF-8 if it is in UTF-16, as Windows writes it.
func utf8Text(data []byte) []byte {
	order := 0
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return data[3:]
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		data, order = data[2:], 1
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		data = data[2:]
	case bytes.HasPrefix(data, []byte("{\x00")):
		order = 1
	case !bytes.HasPrefix(data, []byte("\x00{")):
		return data
	}
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = uint16(data[2*i+1-order]) | uint16(data[2*i+order])<<8
	}
	return []byte(string(utf16.Decode(units)))
}

// isEscaped reports whether a text begins with an escape of URLs.
func isEscaped(text string) bool {
	isHex := func(b byte) bool { return strings.IndexByte("0123456789abcdefABCDEF", b) >= 0 }
	return len(text) > 2 && text[0] == '%' && isHex(text[1]) && isHex(text[2])
}

// otherFormats are the formats that people pass by mistake, by what is in the text. What is advised is what to pass instead.
// The texts themselves are never shown: some of them are secrets.
func otherFormats() []struct{ shape, name, advice string } {
	const (
		json = "pass JSON, which aws iam get-role --output json prints"
		tool = "kubectl irsa doctor reads it"
		role = "pass the trust policy of the role"
	)
	return []struct{ shape, name, advice string }{
		{`^(?:Bearer\s+)?eyJ[\w\s-]+\.[\w\s-]+(?:\.[\w\s-]*)?$`, "a token", role + ", and keep the token secret"},
		{`^e[yw][JAo][\w+/=\s-]+$`, "base64", "decode it first: base64 -d"},
		{`-----BEGIN `, "a PEM file, which has a key or a certificate", role},
		{`(?i)aws_secret_access_key|^\W*(?:AKIA|ASIA)[A-Z0-9]{12,}|Access key ID,`, "a file with credentials", role + ", and keep the credentials secret"},
		{`^(?:aws: error|usage: aws|An error occurred \(|Unable to locate credentials|The config profile|Error when|Error: )|An error occurred \(\w+\) when calling`, "an error of the AWS CLI", "fix that first"},
		{`(?i)^<(?:!doctype )?html|^<head|^<body`, "an HTML page", role},
		{`^<`, "XML", json},
		{`^arn:[\w-]*:`, "an ARN", role},
		{"^```", "Markdown", "remove the ``` around the policy"},
		{`(?m)AWSTemplateFormatVersion|^\s*Type:\s*['"]?AWS::|!(?:Sub|Ref|GetAtt)\b`, "a CloudFormation template", tool},
		{`(?m)^\s*(?:resource|data|module|variable|locals|provider|terraform|output)\b[^:\n]*\{\s*$|jsonencode\(|assume_role_policy\s*=|<<-?\s*"?(?:EOF|EOT|POLICY|JSON)\b`, "Terraform", tool},
		{`(?m)^apiVersion:|^kind:\s*\w`, "a Kubernetes manifest", role},
		{`^(?:ROLE|ASSUMEROLEPOLICYDOCUMENT|STATEMENT)\t`, "the text output of the AWS CLI", json},
		{`^[-+|]{4,}`, "the table output of the AWS CLI", json},
		{`^'[{"]`, "a policy in single quotes", "remove the single quotes around it"},
		{`:\s*(?:True|False|None)\b`, "a dictionary of Python", "print it with json.dumps"},
		{`^[{\[]\s*&(?:quot|#34);`, "JSON with HTML's escapes", `write " in place of &quot;`},
		{`^(?:\{\s*|\s*)[A-Za-z_"]+\s*=\s*["\[{]`, "HCL, Terraform's language", tool},
		{`^(?:#.*\n\s*)*(?:---|%YAML|- \S|[A-Za-z_][\w.-]*:(?:\s|$))`, "YAML", json},
	}
}

// nameFormat says what a text is that is no JSON, or "" if it seems to be meant as JSON.
func nameFormat(data []byte) string {
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		if looksLikeText(data) {
			return "this is neither UTF-8 nor UTF-16: save it as UTF-8"
		}
		return "this is not text: pass the trust policy of the role as JSON"
	}
	text := strings.TrimSpace(string(data))
	for _, f := range otherFormats() {
		if regexp.MustCompile(f.shape).MatchString(text) {
			return fmt.Sprintf("this is %s: %s", f.name, f.advice)
		}
	}
	return ""
}

// looksLikeText reports whether most bytes are printable ASCII, as in a text in an old encoding.
func looksLikeText(data []byte) bool {
	printable := 0
	for _, b := range data {
		if b >= ' ' && b < 0x7f || b == '\n' || b == '\r' || b == '\t' {
			printable++
		}
	}
	return printable > len(data)*9/10
}

// nameDocument says what a JSON document is that is no trust policy, or "".
func nameDocument(root *node) string {
	has := func(names ...string) bool {
		for _, name := range names {
			if root.member(name) == nil {
				return false
			}
		}
		return true
	}
	const tool = ": kubectl irsa doctor reads it"
	switch {
	case has("Statement"):
		return ""
	case root.kind == 0 && root.text == "":
		return "this is null: what --query asks for is not there"
	case has("AWSTemplateFormatVersion"), has("Resources"), has("Type", "Properties"):
		return "this is a CloudFormation template" + tool
	case has("planned_values"), has("resource_changes"), has("terraform_version"), has("values", "format_version"):
		return "this is Terraform's JSON" + tool
	case has("apiVersion", "kind"):
		return "this is a Kubernetes manifest: pass the trust policy of the role"
	case has("PolicyName"), has("PolicyVersion"), has("Policy"), has("AttachedPolicies"):
		return "this is a permissions policy: the trust policy is in aws iam get-role"
	case has("Credentials"), has("AccessKeyId"), has("SecretAccessKey"), has("AccessKey"):
		return "these are credentials, to be kept secret: pass the trust policy of the role"
	case has("iss"), has("sub", "aud"):
		return "these are the claims of a token: pass the trust policy of the role"
	case has("keys"), has("jwks_uri"):
		return "this is a document of the issuer: pass the trust policy of the role"
	case has("ClientIDList"), has("OpenIDConnectProviderList"):
		return "this is about an OIDC provider: pass the trust policy of the role, from aws iam get-role"
	case has("cluster"):
		return "this is about a cluster: pass the trust policy of the role, from aws iam get-role"
	case has("Effect"):
		return `this is a statement and not a policy: put it in {"Version": "2012-10-17", "Statement": [ ]}`
	case has("RoleName"), has("Role"):
		return "this is about a role and has no AssumeRolePolicyDocument, which is the trust policy"
	}
	return ""
}

// check returns an error with the position if a text is not JSON.
func check(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("line 1: the file is empty: the command that writes it may have failed")
	}
	var ignored json.RawMessage
	syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(data, &ignored))
	if !ok {
		return nil
	}
	if format := nameFormat(data); format != "" {
		return errors.New("line 1: " + format)
	}
	at := min(max(0, int(syntax.Offset)-1), len(data))
	at, text := diagnose(data, at, syntax.Error())
	return fmt.Errorf("%s: not JSON: %s", position(data, at), text)
}

// position names a place in a text, with the column in characters.
func position(data []byte, at int) string {
	before := data[:at]
	return fmt.Sprintf("line %d, column %d", 1+bytes.Count(before, []byte("\n")), 1+utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]))
}

// diagnose says what to change where a JSON parser stops, with its message, and where that is: often before it.
func diagnose(data []byte, at int, message string) (where int, text string) {
	r, size := utf8.DecodeRune(data[at:])
	before := bytes.TrimRight(data[:at], " \t\r\n")
	last := max(0, len(before)-1) // where the text before ends
	switch {
	case strings.Contains(message, "unexpected end"):
		end := len(bytes.TrimRight(data, " \t\r\n"))
		return max(0, end-1), "unexpected end: the rest is missing, at least a closing bracket or quote"
	case strings.ContainsRune("“”„‟«»", r):
		return at, fmt.Sprintf("%q is not a straight quote: write \"", r)
	case strings.ContainsRune("‘’‚‛'`", r):
		return at, fmt.Sprintf("%q is not a double quote: write \"", r)
	case r == '\n' && strings.Contains(message, "string literal"):
		return at, `the text in quotes does not end on this line: a " is missing`
	case strings.Contains(message, "string literal"):
		return at, fmt.Sprintf("the character %+q must not be in a text: write it as \\u%04x, or remove it", r, r)
	case r == '/' || r == '#':
		return at, "JSON has no comments: remove this one"
	case (r == '}' || r == ']') && len(before) > 0 && before[last] == ',':
		return last, "this comma is before a closing bracket: remove it"
	case strings.Contains(message, "after top-level value"):
		if r == '{' {
			return at, "invalid character '{' after the policy: a second document begins here; pass one"
		}
		return at, "this is after the end of the policy: remove it"
	case r == ',' && len(before) > 0 && strings.IndexByte(",[{", before[last]) >= 0:
		return at, "this comma has nothing before it: remove it"
	case strings.Contains(message, "after object key:value pair") && (r == ']' || r == '}'), strings.Contains(message, "after array element") && r == '}':
		return at, fmt.Sprintf("%q closes what another bracket has opened: one is missing before it", r)
	case strings.Contains(message, "after object key:value pair"), strings.Contains(message, "after array element"):
		return last, "a comma is missing after this"
	case isInvisible(r) && r != '\n' && r != '\t' && r != '\r':
		return at, fmt.Sprintf("an invisible character, \\u%04x: remove it", r)
	case strings.Contains(message, "object key string") && (unicode.IsLetter(r) || r == '_'):
		return at, "a name must be in double quotes"
	case strings.Contains(message, "after object key"):
		return at, "a colon is missing before this"
	case size == 0:
		return at, message
	}
	return at, message
}
