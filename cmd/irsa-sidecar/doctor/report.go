package doctor

import (
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
	Schema  int    `json:"schema"`
	Program string `json:"-"` // which has made it, as people call it; empty: irsa-sidecar
	Version string `json:"version"`

	// Profile is the profile that is examined; empty if it is an app. Hops are the roles on the way to it, each the source of
	// the next, the profile's own last. Empty if there is only one.
	Profile string `json:"profile,omitempty"`
	Hops    []Role `json:"hops,omitempty"`

	// Output is the name of the one of sources' outputs that gives the app its credentials; empty if none does, or no app is
	// examined.
	Output string `json:"output,omitempty"`

	Result   Status    `json:"result"` // the worst of the findings
	Cause    *Cause    `json:"cause,omitempty"`
	Findings []Finding `json:"findings"`

	// Identity is whom the exchange is for. Nil if neither the role nor the token is known.
	Identity *Identity `json:"identity,omitempty"`

	// TrustPolicy lets only this token's service account assume the role. Nil if the role or the token does not say
	// enough.
	TrustPolicy json.RawMessage `json:"trustPolicy,omitempty"`
}

// Role is a profile and its role.
type Role struct {
	Profile string `json:"profile"`
	Role    string `json:"role"`
}

// Identity is whom an exchange is for, as far as it is known. The token's claims have not been verified.
type Identity struct {
	Role     string   `json:"role,omitempty"` // AWS_ROLE_ARN
	Issuer   string   `json:"issuer,omitempty"`
	Audience []string `json:"audience,omitempty"`
	Subject  string   `json:"subject,omitempty"`
}

// Finding is what one check has found.
type Finding struct {
	Check   string `json:"check"`
	Hop     string `json:"hop,omitempty"` // the profile whose role it is about, if there are several
	Status  Status `json:"status"`
	Key     string `json:"key,omitempty"` // a [cache.Reason], a [Key] or a [trustpolicy.Kind]; empty where Status is OK
	Finding string `json:"finding"`
	Summary string `json:"summary,omitempty"` // the finding in a few words, for [Cause]; empty if it is short itself
	Advice  string `json:"advice,omitempty"`  // a Reason's, the same as everywhere else
	Fixes   []Fix  `json:"fixes,omitempty"`   // what to do, the most likely first

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
	Kind string `json:"kind"` // shell, diff, json, terraform or yaml; empty if What says it all
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

// scrub turns the texts into short lines without secrets: those with the form of one, and these, as a server may quote
// what it was sent.
func (f *Finding) scrub(secrets ...string) {
	f.Finding, f.Summary, f.Advice = clean(f.Finding, secrets...), clean(f.Summary, secrets...), clean(f.Advice, secrets...)
}

func clean(text string, secrets ...string) string {
	text = redact.Scrub(redact.OneLine(text))
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[token]")
		}
	}
	return redact.Shorten(strings.Join(strings.Fields(text), " "), maxFinding)
}

// WriteJSON writes the report as JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
