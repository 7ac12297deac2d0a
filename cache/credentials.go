// Package cache keeps one role's temporary credentials fresh.
//
// It knows time and nothing else: where credentials come from is a [Fetch], and who reads them is
// somebody else's business. A [Cache] holds the credentials of one role; several roles are several
// Caches.
package cache

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Credentials are one set of temporary credentials, as STS issued them. A Credentials that a Cache
// has handed out is never changed; a refresh replaces it by another.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey Secret
	SessionToken    Secret

	// Expiration is the instant, by STS's clock and in UTC, at which the credentials stop working.
	// It is never stretched.
	Expiration time.Time

	// ServerTime is STS's own clock when it answered. Zero means that STS did not say, and the local
	// clock stands in for it.
	ServerTime time.Time

	// RoleARN is the role that was asked for.
	RoleARN string

	// Identity is the ARN of the assumed-role session, AccountID its account. Both are empty where the
	// STS does not say (MinIO's does not).
	Identity  string
	AccountID string

	// TokenIssued is when the web identity token that bought these credentials was issued; zero when the
	// token does not say.
	TokenIssued time.Time

	// TokenExpiration is when the web identity token that bought these credentials expires; zero when
	// the token does not say.
	TokenExpiration time.Time
}

// ExpirationLayout is the one spelling of an expiration that every SDK reads: UTC, whole seconds, Z.
const ExpirationLayout = "2006-01-02T15:04:05Z"

// KeyHint is as much of the access key ID as a log may show: its last four characters.
func (c *Credentials) KeyHint() string {
	if c == nil || len(c.AccessKeyID) < 8 {
		return "****"
	}
	return "****" + c.AccessKeyID[len(c.AccessKeyID)-4:]
}

// Check returns what makes credentials unusable, whoever issued them, or nil: a field that is not
// there, or an expiration that has passed by STS's own clock. The error is always a [*FetchError].
func (c *Credentials) Check() error {
	var missing []string
	for _, field := range []struct {
		name    string
		present bool
	}{
		{"AccessKeyId", c.AccessKeyID != ""},
		{"SecretAccessKey", !c.SecretAccessKey.IsZero()},
		{"SessionToken", !c.SessionToken.IsZero()},
		{"Expiration", !c.Expiration.IsZero()},
	} {
		if !field.present {
			missing = append(missing, field.name)
		}
	}
	if missing != nil {
		return &FetchError{Reason: UnusableCredentials, Message: "STS answered without " + strings.Join(missing, ", ")}
	}
	now := c.ServerTime
	if now.IsZero() {
		now = time.Now()
	}
	if !now.Before(c.Expiration) {
		return expired(c.Expiration)
	}
	return nil
}

func expired(at time.Time) error {
	return &FetchError{Reason: UnusableCredentials, Message: fmt.Sprintf("STS answered with credentials that expired at %s", at.UTC().Format(time.RFC3339))}
}

// Secret holds a string that does not print itself: not through fmt in any verb, not through slog,
// JSON or XML, and not from an unexported field of a struct that is printed with %+v, where fmt may
// not call methods. The zero Secret is the empty string.
//
// The value is behind a closure rather than a pointer, so that not even a dumper that follows
// pointers by reflection reaches it.
type Secret struct{ reveal func() string }

const redacted = "[redacted]"

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{func() string { return s }} }

// Reveal returns the secret. A test keeps its callers to a short list of places that write credentials out.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Format implements [fmt.Formatter] for every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler], and with it JSON and XML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
