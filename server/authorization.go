package server

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

const (
	// overlap is how long a replaced token is still accepted: an SDK that took it from a variable never sees the new
	// one, and one that reads the file does so rarely.
	overlap = time.Hour

	// fileCheck is how long the token file goes unread, except when a caller sends an unknown token.
	fileCheck = time.Second

	// settling is how long a second write to a file may leave its times unchanged: the kernel's clock for files ticks at
	// least every ten milliseconds, that of some file systems only every two seconds.
	settling = 2 * time.Second

	// standing is how long a token must have been current to be accepted for another hour after it is replaced. A file
	// that is read while it is written in place holds only the beginning of a token, which is easier to guess. Such a
	// write takes milliseconds, or seconds on a busy machine. A token that is replaced sooner stops working only for
	// programs that started in those seconds and took it from a variable.
	standing = 10 * time.Second
)

// MinAuthorization and MaxAuthorization limit a token, in bytes. Sixteen random hexadecimal digits are 64 bits: at a hundred
// thousand guesses a second, which loopback allows, guessing takes three million years. A Pod's UID has 36 characters. All
// headers together must fit into 8 KiB.
const (
	MinAuthorization = 16
	MaxAuthorization = 4096
)

// Authorization is what callers must send. Only hashes and lengths of the tokens are kept.
type Authorization struct {
	path string // of the token file; empty for a fixed token

	mu       sync.Mutex
	current  fingerprint
	since    time.Time // when it became current, or standing ago, whichever is later
	previous []retired
	checked  time.Time    // when the file was last read
	seen     fs.FileInfo  // the file at that time; nil if it could not be read
	fault    fault        // what was wrong with it at that time; zero if nothing
	logger   *slog.Logger // nil until logTo sets it
}

// fault says what is wrong with a token file, for the log.
type fault struct{ message, detail string }

// fingerprint is what is kept of a token.
type fingerprint struct {
	sum    [sha256.Size]byte
	length int
}

type retired struct {
	fingerprint
	until time.Time
}

// FixedAuthorization requires one token that never changes.
func FixedAuthorization(token string) (*Authorization, error) {
	if err := checkAuthorization(token); err != nil {
		return nil, err
	}
	return &Authorization{current: fingerprintOf(token)}, nil
}

// AuthorizationFile requires the token in a file, and reads the file again when it is replaced; a replaced token that was
// current for ten seconds is accepted for another hour. A file that does not exist is created, with mode 0440 and a random
// token, without a newline, because the SDKs refuse one.
func AuthorizationFile(path string) (*Authorization, error) {
	a := &Authorization{path: path}
	if _, err := a.open(); err != nil {
		return nil, err
	}
	return a, nil
}

// Reload reads the token file now, and revokes all other tokens at once, also the one that this call replaces. A file that
// does not exist is created, as at the start: to revoke everything, delete it and reload. If the file cannot be used, the
// error names it, and only the current token is accepted. A fixed token, and a nil Authorization, have no file to read, and
// the error is nil.
func (a *Authorization) Reload() error {
	if a == nil || a.path == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.previous = nil
	made, err := a.open()
	if made && a.logger != nil {
		a.logger.Warn("the authorization token file was missing; it now has a new token, and the old one is refused", "file", a.path)
	}
	return err
}

// open makes the token in the file the current one. It creates the file if it does not exist, and reports whether it did.
func (a *Authorization) open() (made bool, err error) {
	now := time.Now()
	token, seen, err := readAuthorization(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		if failure := makeAuthorization(a.path); failure != nil {
			a.checked, a.seen, a.fault = now, seen, faultOf(seen, err)
			return false, fmt.Errorf("%s does not exist and cannot be created: %w", a.path, cache.Innermost(failure))
		}
		made, now = true, time.Now()
		token, seen, err = readAuthorization(a.path)
	}
	if err != nil {
		a.checked, a.seen, a.fault = now, seen, faultOf(seen, err) // the caller reports it
		return false, err
	}
	a.record(now, seen, nil)
	a.current, a.since = fingerprintOf(token), now.Add(-min(max(0, now.Sub(seen.ModTime())), standing))
	return made, nil
}

func checkAuthorization(token string) error {
	switch {
	case token == "":
		return errors.New("is empty")
	case len(token) > MaxAuthorization:
		return fmt.Errorf("is longer than %d bytes", MaxAuthorization)
	case strings.ContainsAny(token, "\r\n"):
		return errors.New("contains a line break, which the AWS SDKs refuse: write it with printf %s")
	case strings.TrimSpace(token) != token:
		return errors.New("begins or ends with a space, which HTTP headers drop")
	}
	for _, r := range token {
		if r < ' ' || r > '~' {
			return errors.New("contains a character that an HTTP header cannot carry")
		}
	}
	if len(token) < MinAuthorization {
		return fmt.Errorf("is shorter than %d characters, so it could be guessed: use a longer random one, or the Pod's metadata.uid", MinAuthorization)
	}
	return nil
}

// readAuthorization also returns the file's metadata if the file could be read, even if its content is unusable. An error
// begins with the path, and wraps the rest.
func readAuthorization(path string) (token string, seen fs.FileInfo, err error) {
	raw, seen, err := regular.Read(path, MaxAuthorization)
	if err == nil {
		err = checkAuthorization(string(raw))
	}
	if err != nil {
		return "", seen, fmt.Errorf("%s %w", path, err)
	}
	return string(raw), seen, nil
}

// makeAuthorization creates the complete file or none, and does not replace one that appeared meanwhile.
func makeAuthorization(path string) error {
	raw := make([]byte, 32)
	rand.Read(raw)
	err := regular.Create(path, strings.NewReader(base64.RawURLEncoding.EncodeToString(raw)), 0o440)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// sentToken is the Authorization header of a request, as it is compared: some clients put "Bearer " before the token.
type sentToken struct{ raw, bare [sha256.Size]byte }

func sent(header string) (t sentToken) {
	t.raw = sumOf(header)
	t.bare = t.raw
	if token, ok := strings.CutPrefix(header, "Bearer "); ok {
		t.bare = sumOf(token)
	}
	return t
}

// accepts compares hashes in constant time, so that timing reveals neither where a wrong token differs nor how long the
// right one is.
func (a *Authorization) accepts(t *sentToken) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if now.Sub(a.checked) >= fileCheck {
		a.follow(now)
	}
	if a.matches(t, now) {
		return true
	}
	// The file may have been replaced since it was last read.
	return a.touched() && a.follow(now) && a.matches(t, now)
}

// touched reports whether the file may have changed since it was last read. It costs a tenth of reading the file, which
// matters because any caller may send wrong tokens while others wait.
func (a *Authorization) touched() bool {
	if a.path == "" {
		return false
	}
	info, err := os.Stat(a.path)
	return err != nil || a.seen == nil || changed(a.seen, info) || a.checked.Sub(a.seen.ModTime()) < settling
}

// changed reports whether a file has been replaced or written. Nil means that it could not be read.
func changed(before, now fs.FileInfo) bool {
	if before == nil || now == nil {
		return before != now
	}
	return !os.SameFile(now, before) || now.Size() != before.Size() || !now.ModTime().Equal(before.ModTime()) ||
		!changeTime(now).Equal(changeTime(before))
}

// logTo logs faults of the token file from now on, and at once if there is one.
func (a *Authorization) logTo(logger *slog.Logger) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.logger == nil {
		a.logger = logger
		a.log()
	}
}

func (a *Authorization) log() {
	if a.logger != nil && a.fault != (fault{}) {
		a.logger.Warn(a.fault.message, "file", a.path, "detail", a.fault.detail)
	}
}

// record keeps the file's metadata from the last read. A fault is logged once for each change of the file.
func (a *Authorization) record(now time.Time, seen fs.FileInfo, err error) {
	f, news := faultOf(seen, err), changed(a.seen, seen)
	news = news || f != a.fault
	a.checked, a.seen, a.fault = now, seen, f
	if news {
		a.log()
	}
}

// faultOf says what is wrong with a token file that has been read, or could not be.
//
// Other users than its owner may read it: the app usually runs as another user, and the files of a Secret volume are
// readable by all by default. No other user needs to write it, and one that can, can choose the token.
func faultOf(seen fs.FileInfo, err error) fault {
	if err != nil {
		return fault{"cannot use the authorization token file; keeping the last good token", errors.Unwrap(err).Error()}
	}
	if mode := seen.Mode().Perm(); mode&0o022 != 0 {
		return fault{"the authorization token file is writable by other users, who can choose the token", fmt.Sprintf("its mode is %#o; run chmod go-w", mode)}
	}
	return fault{}
}

func (a *Authorization) matches(t *sentToken, now time.Time) bool {
	match := func(sum *[sha256.Size]byte) int {
		return subtle.ConstantTimeCompare(t.raw[:], sum[:]) | subtle.ConstantTimeCompare(t.bare[:], sum[:])
	}
	ok := match(&a.current.sum)
	for i := range a.previous {
		if now.Before(a.previous[i].until) {
			ok |= match(&a.previous[i].sum)
		}
	}
	return ok == 1
}

// sumOf makes the copy that hashing needs on the stack.
func sumOf(token string) [sha256.Size]byte {
	var stack [128]byte
	return sha256.Sum256(append(stack[:0], token...))
}

func fingerprintOf(token string) fingerprint { return fingerprint{sumOf(token), len(token)} }

// tokens appends what is kept of the tokens that are accepted.
func (a *Authorization) tokens(all []fingerprint) []fingerprint {
	a.mu.Lock()
	defer a.mu.Unlock()
	all = append(all, a.current)
	for _, p := range a.previous {
		all = append(all, p.fingerprint)
	}
	return all
}

// hide masks the tokens of all profiles in text of a caller that is logged or shown: a program may send a token in another
// header, too. It hashes every part of text as long as a token, so it is only for what is recorded for the first time.
func (p *Profiles) hide(text string) string {
	byLength := make(map[int][]fingerprint) // most have the same: a part is hashed once for all of them
	var tokens []fingerprint
	for _, a := range p.now().authorizations {
		tokens = a.tokens(tokens)
	}
	for _, token := range tokens {
		byLength[token.length] = append(byLength[token.length], token)
	}
	for length, same := range byLength {
		for i := 0; i+length <= len(text); i++ {
			if slices.Contains(same, fingerprintOf(text[i:i+length])) {
				text = text[:i] + hidden + text[i+length:]
				i += len(hidden) - 1
			}
		}
	}
	return text
}

// hidden replaces a token.
const hidden = "[redacted]"

// follow reads the file, and reports whether it has another token. If the file is missing or unusable, nothing changes.
func (a *Authorization) follow(now time.Time) bool {
	if a.path == "" {
		return false
	}
	last := a.checked
	token, seen, err := readAuthorization(a.path)
	a.record(now, seen, err)
	if err != nil {
		return false
	}
	next := fingerprintOf(token)
	if next == a.current {
		return false
	}
	keep := a.previous[:0]
	for _, p := range a.previous {
		if now.Before(p.until) && p.fingerprint != next {
			keep = append(keep, p)
		}
	}
	// If the last read was long ago, the file's time says when the token was replaced. A file that was written before the
	// last read has been moved here since, so its time does not say that.
	replaced, written := now, seen.ModTime()
	if written.After(last) && written.Before(now) {
		replaced = now.Add(-now.Sub(written)) // by the monotonic clock, which cannot be set
	}
	if replaced.Sub(a.since) >= standing {
		keep = append(keep, retired{a.current, replaced.Add(overlap)})
	}
	a.previous, a.current, a.since = keep, next, replaced
	return true
}
