package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

const (
	// stateHeader is the first line. The number is the format's.
	stateHeader = statePrefix + "3"
	statePrefix = "irsa-sidecar state "

	// maxRemaining is the longest session that STS issues.
	maxRemaining = 12 * time.Hour
)

// stateBinding is what credentials were asked for with. Only those are restored that would be asked for in the same way now.
type stateBinding struct {
	Profile, RoleARN, SessionName, Duration, Policy string
	PolicyARNs                                      []string
	Endpoint                                        string
	Assume                                          string // external ID, tags and source identity
	Source                                          string // the bindings of the profiles that it is chained to, as one sum
	Issuer, Subject                                 string // of the token; empty where it could not be read
}

// stateDocument is one line of the file, after its checksum.
type stateDocument struct {
	Binding     stateBinding
	Boot        string        // which start of the machine this is
	Saved       time.Duration // since that start
	Remaining   time.Duration // of the credentials, by STS's clock, when they were saved
	Skew        time.Duration // of this machine's wall clock, ahead of STS's when they were issued
	Credentials storedCredentials
}

// stateLine is a line that has been read.
type stateLine struct {
	stateDocument
	text []byte
}

// binding is what the profile's credentials are asked for with, without the token and the source.
func (p *profile) binding() stateBinding {
	o := &p.exchange
	b := stateBinding{
		Profile: p.name, RoleARN: o.RoleARN, SessionName: o.SessionName, Duration: o.Duration.String(), PolicyARNs: o.PolicyARNs, Endpoint: o.Endpoint,
	}
	if o.Policy != "" {
		b.Policy = sumOf([]byte(o.Policy))
	}
	if o.Assume != nil {
		text, _ := json.Marshal(o.Assume) // of strings only
		b.Assume = sumOf(text)
	}
	return b
}

// sum is the same for two bindings that are the same.
func (b stateBinding) sum() string {
	text, _ := json.Marshal(b) // of strings only
	return sumOf(text)
}

// storedCredentials is what a state file holds of credentials: all that a Cache serves.
type storedCredentials struct {
	AccessKeyID, SecretAccessKey, SessionToken string
	Expiration                                 time.Time
	RoleARN, Identity, AccountID               string
	TokenExpiration                            time.Time
}

func storedCredentialsOf(c *cache.Credentials) storedCredentials {
	return storedCredentials{
		c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal(), c.Expiration, c.RoleARN, c.Identity, c.AccountID, c.TokenExpiration,
	}
}

// restored returns the credentials, or nil if they lack something. It does not check whether they have expired.
func (s *storedCredentials) restored() *cache.Credentials {
	if s.AccessKeyID == "" || s.SecretAccessKey == "" || s.SessionToken == "" || s.Expiration.IsZero() {
		return nil
	}
	return &cache.Credentials{
		AccessKeyID: s.AccessKeyID, SecretAccessKey: cache.NewSecret(s.SecretAccessKey), SessionToken: cache.NewSecret(s.SessionToken),
		Expiration: s.Expiration, RoleARN: s.RoleARN, Identity: s.Identity, AccountID: s.AccountID, TokenExpiration: s.TokenExpiration,
	}
}

// sumOf returns the SHA-256 of text, in hex.
func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// formatEntry returns a line of a state file. It has its own checksum, so that damage costs one entry and not all.
func formatEntry(d stateDocument) ([]byte, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %s", sumOf(text), text), nil
}

// formatState returns the content of a state file with these lines.
func formatState(lines map[string][]byte) []byte {
	text := []byte(stateHeader + "\n")
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		text = append(append(text, lines[name]...), '\n')
	}
	return text
}

// splitState returns the lines of a state file that are whole, and how many are not.
func splitState(text []byte) (lines []stateLine, damaged int, err error) {
	header, body, _ := bytes.Cut(text, []byte("\n"))
	if string(header) != stateHeader {
		return nil, 0, errors.New("is not a state file of this version")
	}
	for line := range bytes.Lines(body) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		sum, document, _ := bytes.Cut(line, []byte(" "))
		one := stateLine{text: line}
		if string(sum) != sumOf(document) || json.Unmarshal(document, &one.stateDocument) != nil {
			damaged++
			continue
		}
		lines = append(lines, one)
	}
	return lines, damaged, nil
}

// restore returns the credentials of a line, if they were asked for with want, and how long they still work: at the time
// now since the machine's start boot, when the wall clock says wall.
//
// How much time has passed is counted from the machine's start, and no session is longer than maxRemaining. The wall
// clock plays no part in that: it may be wrong, and may have been set meanwhile. But another process of the same user
// may have changed the file, with a checksum that is right. So Expiration counts too, by the rule of a lease in memory:
// the wall clock ends the credentials if it would also do so after removing the skew that was measured when they were
// issued. At most a day of the skew in the file is believed: whatever it says, nothing is served later than a day after
// its Expiration, by the wall clock.
func (d stateDocument) restore(want stateBinding, boot string, now time.Duration, wall time.Time) (*cache.Kept, time.Duration, error) {
	for _, field := range []struct{ name, have, want string }{
		{"profile", d.Binding.Profile, want.Profile},
		{"role", d.Binding.RoleARN, want.RoleARN},
		{"duration", d.Binding.Duration, want.Duration},
		{"session policy", d.Binding.Policy, want.Policy},
		{"list of policies", strings.Join(d.Binding.PolicyARNs, ","), strings.Join(want.PolicyARNs, ",")},
		{"session name", d.Binding.SessionName, want.SessionName},
		{"STS endpoint", d.Binding.Endpoint, want.Endpoint},
		{"external ID, or with other tags or another source identity", d.Binding.Assume, want.Assume},
		{"source profile, or for one that has changed", d.Binding.Source, want.Source},
	} {
		if field.have != field.want {
			return nil, 0, fmt.Errorf("they are for another %s", field.name)
		}
	}
	// If the token cannot be read now, the credentials are still good.
	if slices.Contains([]string{d.Binding.Subject, want.Subject}, "") {
		d.Binding.Issuer, d.Binding.Subject = want.Issuer, want.Subject
	}
	if d.Binding.Issuer != want.Issuer || d.Binding.Subject != want.Subject {
		return nil, 0, errors.New("they are for another service account or cluster than the token")
	}
	if d.Boot != boot || d.Saved < 0 || now < d.Saved {
		return nil, 0, errors.New("they were written before the machine started")
	}
	c := d.Credentials.restored()
	if c == nil {
		return nil, 0, errors.New("they lack something")
	}
	// Both terms are between zero and far below the largest number: nothing wraps around.
	k := &cache.Kept{Credentials: c, Remaining: max(0, min(d.Remaining, maxRemaining)) - (now - d.Saved), Skew: d.Skew}
	left := k.Left(wall)
	switch {
	case k.Remaining <= 0:
		return nil, 0, fmt.Errorf("they expired %s ago", (-k.Remaining).Round(time.Second))
	case left <= 0:
		return nil, 0, fmt.Errorf("by this node's clock, they expired at %s", c.Expiration.UTC().Format(time.RFC3339))
	}
	return k, left, nil
}
