// Package cache keeps one role's temporary credentials fresh.
//
// It knows time: when to refresh, when to retry, what is still valid. It also holds what all layers must agree on when
// something fails: the list of reasons with their advice ([Reason], [FetchError]) and what must not be shown ([Secret]). It
// does not know how an exchange is made, which is a [Fetch], nor who reads the credentials, and it imports neither HTTP nor
// AWS. A [Cache] holds the credentials of one role; several roles are several Caches.
package cache

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// Credentials are one set of temporary credentials as STS issued them. A Cache never changes Credentials that it has
// returned; a refresh replaces them with others.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey Secret
	SessionToken    Secret

	// Expiration is when the credentials stop working, by STS's clock and in UTC. It is never extended.
	Expiration time.Time

	// ServerTime is STS's own clock when it responded. Zero means that STS did not say; the local clock is used then.
	ServerTime time.Time

	// RoleARN is the role that was requested.
	RoleARN string

	// Identity is the ARN of the assumed-role session, AccountID its account. Both are empty if STS does not say, as
	// MinIO's does not.
	Identity  string
	AccountID string

	// TokenIssued and TokenExpiration are when the web identity token that was exchanged was issued and when it
	// expires. Each is zero if the token does not say.
	TokenIssued     time.Time
	TokenExpiration time.Time

	// SourceExpiration is when the credentials expire that signed the request, by STS's clock. Zero means that a web
	// identity token was exchanged.
	SourceExpiration time.Time
}

// ExpirationLayout is the only format of an expiration that every SDK can read: UTC, whole seconds, Z.
const ExpirationLayout = "2006-01-02T15:04:05Z"

// KeyHint returns as much of the access key ID as a log may show: "****" and its last four characters, or "****" alone if
// there is no key.
func (c *Credentials) KeyHint() string {
	if c == nil || len(c.AccessKeyID) < 8 {
		return "****"
	}
	return "****" + c.AccessKeyID[len(c.AccessKeyID)-4:]
}

// Check returns why the credentials cannot be used, or nil: a field is missing, or they have expired by STS's own
// clock. The error is always a [*FetchError] with the reason UnusableCredentials.
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

// Secret holds a string that cannot be printed by accident: not with fmt and any verb, not with slog, JSON or XML, and not
// from an unexported field of a struct that is printed with %+v, where fmt cannot call methods. The zero Secret is the
// empty string.
//
// The value is in a closure rather than behind a pointer, so that a dumper that follows pointers by reflection does not
// reach it either.
type Secret struct{ reveal func() string }

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
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redact.Mask) }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redact.Mask) }

// MarshalText implements [encoding.TextMarshaler], and with it JSON and XML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redact.Mask), nil }
