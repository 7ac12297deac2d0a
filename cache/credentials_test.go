package cache

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const (
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	testToken  = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2V4YW1wbGUifQ.c2lnbmF0dXJl"
)

func TestASecretDoesNotPrintItself(t *testing.T) {
	s := NewSecret(testSecret)
	type exported struct{ S Secret }
	type unexported struct{ s Secret }
	type nested struct{ in unexported }
	holders := map[string]any{
		"secret": s, "pointer": &s, "exported": exported{s}, "unexported": unexported{s}, "pointer to unexported": &unexported{s},
		"nested": nested{unexported{s}}, "slice": []Secret{s}, "map": map[string]Secret{"k": s}, "any": []any{s},
		"credentials": Credentials{SecretAccessKey: s, SessionToken: s}, "pointer to credentials": &Credentials{SecretAccessKey: s},
		"lease": lease{Credentials: Credentials{SecretAccessKey: s}}, "error": fmt.Errorf("holds %v", s),
	}
	for name, holder := range holders {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
			fmt.Fprintf(&out, verb, holder)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "k", holder)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "k", holder)
		if j, err := json.Marshal(holder); err == nil {
			out.Write(j)
		}
		if x, err := xml.Marshal(holder); err == nil {
			out.Write(x)
		}
		for _, form := range []string{testSecret, fmt.Sprintf("%x", testSecret), fmt.Sprintf("%X", testSecret), fmt.Sprintf("%d", []byte(testSecret))} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%s shows its secret: %s", name, out.String())
			}
		}
	}
	if s.Reveal() != testSecret {
		t.Error("Reveal does not return what NewSecret was given")
	}
	if !(Secret{}).IsZero() || s.IsZero() || (Secret{}).Reveal() != "" {
		t.Error("the zero Secret is not the empty string")
	}
}

func TestScrub(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{"", ""},
		{"token " + testToken + " refused", "token [token] refused"},
		{"token " + testToken[:40], "token [token]"},
		{"key ASIAIOSFODNN7EXAMPLE refused", "key ASIA****MPLE refused"},
		{"secret " + testSecret + ".", "secret " + testSecret + "."}, // followed by a dot it may be a file's name
		{"secret " + testSecret, "secret [redacted]"},
		{`"` + testSecret + `"`, `"[redacted]"`},
		{"<SecretAccessKey>abc/def</SecretAccessKey>", "<SecretAccessKey>[redacted]</SecretAccessKey>"},
		{`"SessionToken": "FwoGZXIvYXdzE"`, `"SessionToken": "[redacted]"`},
		{"WebIdentityToken=abc&Version=2011-06-15", "WebIdentityToken=[redacted]&Version=2011-06-15"},
		// What people need in order to mend something stays.
		{"/var/run/secrets/eks.amazonaws.com/serviceaccount/token", "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"},
		{"No OpenIDConnect provider found in your account for https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE",
			"No OpenIDConnect provider found in your account for https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"},
		{"arn:aws:iam::111122223333:role/AnApplicationRoleOfThirtyFiveChars1", "arn:aws:iam::111122223333:role/AnApplicationRoleOfThirtyFiveChars1"},
		{"sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709", "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709"},
		{"arn:aws:iam::111122223333:role/a-role-with-a-rather-long-name-of-its-own", "arn:aws:iam::111122223333:role/a-role-with-a-rather-long-name-of-its-own"},
	} {
		if got := Scrub(row.in); got != row.want {
			t.Errorf("Scrub(%q) = %q, want %q", row.in, got, row.want)
		}
	}
}

func TestEveryReasonSaysWhatToDo(t *testing.T) {
	for _, r := range Reasons() {
		advice := r.Advice()
		if advice == "" || strings.HasSuffix(advice, ".") || strings.Contains(advice, "\n") {
			t.Errorf("%s: the advice is to be one line without a full stop: %q", r, advice)
		}
	}
}
