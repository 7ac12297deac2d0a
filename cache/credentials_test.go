package cache

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
)

const testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

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

func TestEveryReasonSaysWhatToDo(t *testing.T) {
	for _, r := range Reasons() {
		advice := r.Advice()
		if advice == "" || strings.HasSuffix(advice, ".") || strings.Contains(advice, "\n") {
			t.Errorf("%s: the advice is to be one line without a full stop: %q", r, advice)
		}
		if e := (&FetchError{Reason: r}); e.Advice() != advice {
			t.Errorf("%s: nothing is known, and the advice is %q", r, e.Advice())
		}
	}
	if e := (&FetchError{Reason: "Unheard"}); e.Advice() != "" || e.ShortAdvice() != "" {
		t.Errorf("advice for a reason that is not on the list: %q, %q", e.Advice(), e.ShortAdvice())
	}
}

func TestTheAdviceIsFilledIn(t *testing.T) {
	known := map[string]string{
		"partition": "aws", "account": "111122223333", "issuer": "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE",
		"subject": "system:serviceaccount:shop:api", "audience": "sts.amazonaws.com",
	}
	for _, r := range Reasons() {
		e := &FetchError{Reason: r, Names: known}
		if advice := e.Advice(); strings.ContainsAny(advice, "<>") {
			t.Errorf("%s: a placeholder is left in %q", r, advice)
		}
	}
	e := &FetchError{Reason: AccessDenied, Names: known}
	for _, want := range []string{
		"Principal.Federated arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE,",
		" oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:sub = system:serviceaccount:shop:api ",
		" oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:aud = sts.amazonaws.com,",
	} {
		if !strings.Contains(e.Advice(), want) {
			t.Errorf("%q is missing in %q", want, e.Advice())
		}
	}
	// What is not known stays a placeholder, and placeholders in a name are not replaced.
	e.Names = map[string]string{"subject": "<audience>", "audience": "a"}
	if advice := e.Advice(); !strings.Contains(advice, "<issuer>:sub = <audience> and <issuer>:aud = a,") {
		t.Errorf("the advice is %q", advice)
	}
}

func TestTheShortAdviceIsOneShortClause(t *testing.T) {
	const long = "system:serviceaccount:" + "a-namespace-with-quite-a-long-name:and-a-service-account-with-a-long-one"
	for _, subject := range []string{"", "system:serviceaccount:shop:api", long, "<issuer>"} {
		var known map[string]string
		if subject != "" {
			known = map[string]string{"subject": subject}
		}
		for _, r := range Reasons() {
			for _, signed := range []bool{false, true} {
				short := (&FetchError{Reason: r, Names: known, Signed: signed}).ShortAdvice()
				if short == "" || len(short) > maxShort || strings.ContainsAny(short, "\n<>") || strings.HasSuffix(short, ".") {
					t.Errorf("%s: %q", r, short)
				}
			}
		}
		short, want := (&FetchError{Reason: AccessDenied, Names: known}).ShortAdvice(), "allow the Pod's service account in the role's trust policy"
		if subject == "system:serviceaccount:shop:api" {
			want = "allow system:serviceaccount:shop:api in the role's trust policy"
		}
		if short != want {
			t.Errorf("with the subject %q: %q", subject, short)
		}
	}
}

func TestInnermostDropsWhatWraps(t *testing.T) {
	end := errors.New("connection refused")
	wrapped := fmt.Errorf("GET http://x: %w", &fs.PathError{Op: "dial", Path: "x", Err: end})
	joined := errors.Join(end, end)
	for _, row := range []struct{ err, want error }{{end, end}, {wrapped, end}, {fmt.Errorf("x: %w", joined), joined}} {
		if got := Innermost(row.err); got != row.want {
			t.Errorf("%v: %v, want %v", row.err, got, row.want)
		}
	}
}
