package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// Report is what an examination has found. As JSON it has the form that README describes; a change of
// what is there already is a new Schema.
type Report struct {
	Schema   int       `json:"schema"`
	Version  string    `json:"version"`
	Result   Status    `json:"result"`
	Findings []Finding `json:"findings"`

	// TrustPolicy is the one that lets this token's service account assume the role, and nobody else. Nil
	// where the role or the token does not say enough.
	TrustPolicy json.RawMessage `json:"trustPolicy,omitempty"`
}

// Finding is what one check has found.
type Finding struct {
	Check   string `json:"check"`
	Status  Status `json:"status"`
	Key     string `json:"key,omitempty"` // a [cache.Reason] or a [Key]; empty where Status is OK
	Finding string `json:"finding"`
	Advice  string `json:"advice,omitempty"` // of a Reason: what every other part of the program says of it
	Fixes   []Fix  `json:"fixes,omitempty"`  // what to do, the likeliest first
}

// Fix is one thing to do.
type Fix struct {
	What string `json:"what"`
	Kind string `json:"kind"` // shell, terraform, yaml or text
	Text string `json:"text"` // to be pasted as it stands; empty where Kind is text
}

// Status is how bad a finding is.
type Status int

const (
	OK   Status = iota
	Warn        // works, or cannot be known from here
	Fail        // what the exchange fails for, or would
)

var statusNames = [...]string{"ok", "warn", "fail"}

// MarshalText implements [encoding.TextMarshaler].
func (s Status) MarshalText() ([]byte, error) { return []byte(statusNames[s]), nil }

// maxFinding bounds what others can make a finding say, in characters.
const maxFinding = 1000

// scrub makes one short line without secrets of what others have made the finding say.
func (f *Finding) scrub(token string) {
	clean := func(text string) string {
		text = cache.Scrub(cache.OneLine(text))
		if token != "" {
			text = strings.ReplaceAll(text, token, "[token]")
		}
		return cache.Shorten(strings.Join(strings.Fields(text), " "), maxFinding)
	}
	f.Finding = clean(f.Finding)
}

// Failure says in a line what has failed, or "" if nothing has.
func (r *Report) Failure() string {
	for _, f := range r.Findings {
		if f.Status == Fail {
			return f.Check + ": " + f.Key
		}
	}
	return ""
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes the report for people; with color, for people at a terminal.
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
