package doctor

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTextIsWrappedAtWords(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"", "fix: \n"},
		{"one two", "fix: one two\n"},
		{strings.Repeat("a", 95) + " b", "fix: " + strings.Repeat("a", 95) + "\n     b\n"},
		{strings.Repeat("a", 93) + " b", "fix: " + strings.Repeat("a", 93) + " b\n"},
		{strings.Repeat("a", 94) + " b", "fix: " + strings.Repeat("a", 94) + "\n     b\n"},
		{strings.Repeat("a", 100), "fix: " + strings.Repeat("a", 95) + "\n     aaaaa\n"},
		{"x " + strings.Repeat("é", 96), "fix: x\n     " + strings.Repeat("é", 95) + "\n     é\n"},
		{strings.Repeat("abcdefghi/", 10), "fix: " + strings.Repeat("abcdefghi/", 9) + "\n     abcdefghi/\n"},
	} {
		var b bytes.Buffer
		wrap(&b, "fix: ", "     ", row.text)
		if b.String() != row.want {
			t.Errorf("%q, want %q", b.String(), row.want)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
}

// A name that differs from the issuer must not look like it.
func TestOnlyTheIssuerItselfIsShortened(t *testing.T) {
	const provider, short = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE", "…/id/EXAMPLED539…"
	r := &Report{
		Identity: &Identity{Issuer: "https://" + provider},
		Findings: []Finding{{Check: "issuer", Finding: "https://" + provider}},
	}
	for _, row := range []struct{ key, text, want string }{
		{"", provider, short},
		{"", "https://" + provider, short},
		{"", "arn:aws:iam::111122223333:oidc-provider/" + provider + ", and " + provider + ":sub", "arn:aws:iam::111122223333:oidc-provider/" + short + ", and " + short + ":sub"},
		{"", `"` + provider + `".`, `"` + short + `".`},
		{"", "of " + provider + ". And", "of " + short + ". And"},
		{"", "https://" + provider + "/.well-known/openid-configuration", short + "/.well-known/openid-configuration"},
		{"", provider + "/", provider + "/"},
		{"", provider + "X", provider + "X"},
		{"", provider + ".example", provider + ".example"},
		{"", "x" + provider, "x" + provider},
		{"", provider[:len(provider)-1], provider[:len(provider)-1]},
		{"PolicyFederated", provider, "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539…"},
		{"PolicyFederated", "oidc.eu-west-1.eks.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE", "oidc.eu-west-1.eks.amazonaws.com/id/EXAMPLED539…"},
		{"PolicyFederated", provider[:len(provider)-1], provider[:len(provider)-1]},
	} {
		if got := r.issuerNames().shorten(row.key, row.text); got != row.want {
			t.Errorf("%s: %s, want %s", row.text, got, row.want)
		}
	}
	for _, issuer := range []string{"", "https://oidc.example", "https://oidc.example/" + strings.Repeat("é", 40), "https://" + strings.Repeat("a", 50) + "/id/short"} {
		if got := (&Report{Identity: &Identity{Issuer: issuer}}).issuerNames().shorten("", "x "+issuer); got != "x "+issuer {
			t.Errorf("%s is shortened to %s", issuer, got)
		}
	}
}

// Without a line about the issuer, the first mention is in full.
func TestTheFirstMentionOfTheIssuerIsInFull(t *testing.T) {
	r := &Report{Identity: &Identity{Issuer: issuerURL}, Findings: []Finding{
		{Check: "a", Status: Fail, Key: "A", Finding: "first " + issuerURL, Fixes: []Fix{{"do it", shell, "command " + issuerURL}}},
		{Check: "b", Status: Fail, Key: "B", Finding: "second " + issuerURL, Fixes: []Fix{{"do it", shell, "command " + issuerURL}}},
	}}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first " + issuerURL, "second …/id/EXAMPLED539…"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if strings.Count(b.String(), "        command "+issuerURL+"\n") != 2 {
		t.Errorf("the issuer is shortened in a command:\n%s", b.String())
	}
}
