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

func TestEveryReasonSaysWhatToDo(t *testing.T) {
	for _, r := range Reasons() {
		advice := r.Advice()
		if advice == "" || strings.HasSuffix(advice, ".") || strings.Contains(advice, "\n") {
			t.Errorf("%s: the advice is to be one line without a full stop: %q", r, advice)
		}
	}
}
