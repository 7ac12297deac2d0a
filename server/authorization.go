package server

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

const (
	// overlap is how long a replaced token still opens: an SDK that took it from a variable never sees
	// the new one, and one that reads the file reads it seldom.
	overlap = time.Hour

	// fileCheck is how old our view of the token file may be, but for a token that it does not know.
	fileCheck = time.Second

	// settling is how long after it was written a file can be written again and look as before: the kernel's
	// clock for files moves on every ten milliseconds at most, that of some file systems every two seconds.
	settling = 2 * time.Second
)

// MaxAuthorization bounds a token, in bytes: the header has to fit into 8 KiB with all others.
const MaxAuthorization = 4096

// Authorization is what callers must send. Only sums of the tokens are kept.
type Authorization struct {
	path string // of the token file; empty for a fixed token

	mu       sync.Mutex
	current  [sha256.Size]byte
	previous []retired
	checked  time.Time   // when the file was last read
	seen     fs.FileInfo // what it was then; nil where it could not be read
}

type retired struct {
	sum   [sha256.Size]byte
	until time.Time
}

// FixedAuthorization asks for one token, for ever.
func FixedAuthorization(token string) (*Authorization, error) {
	if err := checkAuthorization(token); err != nil {
		return nil, err
	}
	return &Authorization{current: sumOf(token)}, nil
}

// AuthorizationFile asks for the token in a file, and follows the file when it is replaced; the
// replaced token opens for another hour. A file that does not exist is made, with mode 0440, a random
// token and no newline, which the SDKs refuse.
func AuthorizationFile(path string) (*Authorization, error) {
	now := time.Now()
	token, seen, err := readAuthorization(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeAuthorization(path); err != nil {
			return nil, fmt.Errorf("%s does not exist and cannot be made: %w", path, pathCause(err))
		}
		now = time.Now()
		token, seen, err = readAuthorization(path)
	}
	if err != nil {
		return nil, err
	}
	return &Authorization{path: path, current: sumOf(token), checked: now, seen: seen}, nil
}

func checkAuthorization(token string) error {
	switch {
	case token == "":
		return errors.New("is empty")
	case len(token) > MaxAuthorization:
		return fmt.Errorf("is longer than %d bytes", MaxAuthorization)
	case strings.ContainsAny(token, "\r\n"):
		return errors.New("holds a line break, which the AWS SDKs refuse: write it with printf %s")
	case strings.TrimSpace(token) != token:
		return errors.New("begins or ends with a blank, which HTTP does not carry")
	}
	for _, r := range token {
		if r < ' ' || r > '~' {
			return errors.New("holds a character that an HTTP header does not carry")
		}
	}
	return nil
}

// readAuthorization returns what the file was as well wherever it could be read, be it unusable.
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

// makeAuthorization makes the file whole or not at all, and never over one that somebody else has
// made meanwhile.
func makeAuthorization(path string) error {
	raw := make([]byte, 32)
	rand.Read(raw)
	f, err := os.CreateTemp(filepath.Dir(path), ".irsa-sidecar-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(raw))
	err = errors.Join(err, f.Chmod(0o440), f.Close())
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func pathCause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}

// accepts compares sums, in constant time: neither where a wrong token differs nor how long the right
// one is can be measured. Some clients put "Bearer " before the token.
func (a *Authorization) accepts(header string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if now.Sub(a.checked) >= fileCheck {
		a.follow(now)
	}
	if a.matches(header, now) {
		return true
	}
	// It may be what the file has held for less time than that.
	return a.touched() && a.follow(now) && a.matches(header, now)
}

// touched reports whether the file may hold something else than what was last read. To look costs a tenth of
// what reading costs, and anybody may send wrong tokens, while others wait.
func (a *Authorization) touched() bool {
	if a.path == "" {
		return false
	}
	info, err := os.Stat(a.path)
	return err != nil || a.seen == nil || !os.SameFile(info, a.seen) || info.Size() != a.seen.Size() ||
		!info.ModTime().Equal(a.seen.ModTime()) || !changeTime(info).Equal(changeTime(a.seen)) ||
		a.checked.Sub(a.seen.ModTime()) < settling
}

func (a *Authorization) matches(header string, now time.Time) bool {
	raw := sumOf(header)
	bare := raw
	if token, ok := strings.CutPrefix(header, "Bearer "); ok {
		bare = sumOf(token)
	}
	match := func(sum *[sha256.Size]byte) int {
		return subtle.ConstantTimeCompare(raw[:], sum[:]) | subtle.ConstantTimeCompare(bare[:], sum[:])
	}
	ok := match(&a.current)
	for i := range a.previous {
		if now.Before(a.previous[i].until) {
			ok |= match(&a.previous[i].sum)
		}
	}
	return ok == 1
}

// sumOf makes the copy that the sum needs on the stack.
func sumOf(token string) [sha256.Size]byte {
	var stack [128]byte
	return sha256.Sum256(append(stack[:0], token...))
}

// follow takes in a replaced file, and reports whether it has been. One that is missing or unusable for the
// moment changes nothing.
func (a *Authorization) follow(now time.Time) bool {
	if a.path == "" {
		return false
	}
	last := a.checked
	token, seen, err := readAuthorization(a.path)
	a.checked, a.seen = now, seen
	if err != nil {
		return false
	}
	sum := sumOf(token)
	if sum == a.current {
		return false
	}
	keep := a.previous[:0]
	for _, p := range a.previous {
		if now.Before(p.until) && p.sum != sum {
			keep = append(keep, p)
		}
	}
	// Nobody may have asked for long; then the file says when it was replaced. One that was written
	// earlier than we last looked has been moved here since, and does not.
	replaced, written := now, seen.ModTime()
	if written.After(last) && written.Before(now) {
		replaced = written
	}
	a.previous = append(keep, retired{a.current, replaced.Add(overlap)})
	a.current = sum
	return true
}
