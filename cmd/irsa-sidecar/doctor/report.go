package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// Report is what an examination has found. Its JSON form is documented: fields may be added, and any other change needs
// a new Schema.
type Report struct {
	Schema   int       `json:"schema"`
	Version  string    `json:"version"`
	Result   Status    `json:"result"` // the worst of the findings
	Cause    *Cause    `json:"cause,omitempty"`
	Findings []Finding `json:"findings"`

	// TrustPolicy lets only this token's service account assume the role. Nil if the role or the token does not say
	// enough.
	TrustPolicy json.RawMessage `json:"trustPolicy,omitempty"`
}

// Cause is the finding from which the failures follow. Nil if nothing has failed.
type Cause struct {
	Check string `json:"check"`
	Key   string `json:"key"`
	Text  string `json:"text"` // one line
}

// Finding is what one check has found.
type Finding struct {
	Check   string `json:"check"`
	Status  Status `json:"status"`
	Key     string `json:"key,omitempty"` // a [cache.Reason] or a [Key]; empty where Status is OK
	Finding string `json:"finding"`
	Advice  string `json:"advice,omitempty"` // a Reason's, the same as everywhere else
	Fixes   []Fix  `json:"fixes,omitempty"`  // what to do, the most likely first

	// Consequence reports that the finding follows from the cause: there is nothing to change for it.
	Consequence bool `json:"consequence,omitempty"`
}

// failure and warning make findings. A key is a [Key], a [cache.Reason] or a [trustpolicy.Kind].
func failure[K ~string](check string, key K, text string, fixes ...Fix) Finding {
	return Finding{Check: check, Status: Fail, Key: string(key), Finding: text, Fixes: fixes}
}

func warning[K ~string](check string, key K, text string, fixes ...Fix) Finding {
	return Finding{Check: check, Status: Warn, Key: string(key), Finding: text, Fixes: fixes}
}

// Fix is one thing to do.
type Fix struct {
	What string `json:"what"`
	Kind string `json:"kind"` // shell, terraform or yaml; empty if What says it all
	Text string `json:"text"` // to paste as is, but for words in capitals; empty if Kind is empty
}

// Status is how bad a finding is.
type Status int

const (
	OK   Status = iota
	Warn        // the exchange may work regardless, or it cannot be known from here
	Fail        // the exchange fails because of it, or would
)

var statusNames = [...]string{"ok", "warn", "fail"}

// MarshalText implements [encoding.TextMarshaler].
func (s Status) MarshalText() ([]byte, error) { return []byte(statusNames[s]), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Status) UnmarshalText(text []byte) error {
	i := slices.Index(statusNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("expected ok, warn or fail, found %q", text)
	}
	*s = Status(i)
	return nil
}

// maxFinding bounds a finding, in characters: others may decide what is in it.
const maxFinding = 1000

// scrub turns the text into one short line without secrets: those with the form of one, and these, as a server may quote
// what it was sent.
func (f *Finding) scrub(secrets ...string) {
	clean := func(text string) string {
		text = redact.Scrub(redact.OneLine(text))
		for _, secret := range secrets {
			if secret != "" {
				text = strings.ReplaceAll(text, secret, "[token]")
			}
		}
		return redact.Shorten(strings.Join(strings.Fields(text), " "), maxFinding)
	}
	f.Finding = clean(f.Finding)
}

// Failure returns the first failure as "check: key", or "" if there is none.
func (r *Report) Failure() string {
	for _, f := range r.Findings {
		if f.Status == Fail {
			return f.Check + ": " + f.Key
		}
	}
	return ""
}

// WriteJSON writes the report as JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes the report for people, with colors for a terminal if asked for.
func (r *Report) WriteText(w io.Writer, color bool) error {
	paint := [...]string{OK: "\x1b[32m", Warn: "\x1b[33m", Fail: "\x1b[1;31m"}
	words := [...]string{OK: "ok  ", Warn: "warn", Fail: "FAIL"}
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Check))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "irsa-sidecar doctor %s\n\n", r.Version)
	for _, f := range r.Findings {
		word := words[f.Status]
		if color {
			word = paint[f.Status] + word + "\x1b[0m"
		}
		text := f.Finding
		if f.Key != "" {
			text = f.Key + ": " + text
		}
		fmt.Fprintf(&b, "%s  %-*s  %s\n", word, width, f.Check, text)
		if f.Advice != "" {
			fmt.Fprintf(&b, "      %s\n", f.Advice)
		}
		for _, fix := range f.Fixes {
			if fix.Text == "" {
				fmt.Fprintf(&b, "      fix: %s\n", fix.What)
				continue
			}
			fmt.Fprintf(&b, "      fix: %s:\n", fix.What)
			for line := range strings.Lines(fix.Text) {
				fmt.Fprintf(&b, "        %s\n", strings.TrimSuffix(line, "\n"))
			}
		}
	}
	var counts [len(words)]int
	for _, f := range r.Findings {
		counts[f.Status]++
	}
	fmt.Fprintf(&b, "\n%d ok, %d warn, %d FAIL\n", counts[OK], counts[Warn], counts[Fail])
	_, err := w.Write(b.Bytes())
	return err
}
