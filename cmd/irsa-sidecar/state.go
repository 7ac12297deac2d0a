package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// stateFile keeps the last good credentials, so that a sidecar that is restarted while STS is away has
// them still. What it holds is a secret: it belongs on a volume in memory.
type stateFile struct {
	statePlace
	tokenFile string
	binding   stateBinding
	logger    *slog.Logger
	clock     func() (boot string, elapsed time.Duration, err error) // bootClock, but for a test
	write     func(text []byte) error                                // writeFile, but for a test

	mu      sync.Mutex  // also of binding
	writing bool        // a goroutine is at it; never more than one
	next    *stateWrite // the newest that it has not begun with; nil where there is none
}

// stateWrite is one text on its way into the file.
type stateWrite struct {
	text []byte
	done chan struct{}
}

// stateBinding is what credentials were asked for with. Others than one would ask for now are not used.
type stateBinding struct {
	Profile, RoleARN, Duration, Policy string
	PolicyARNs                         []string
	Endpoint                           string
	Issuer, Subject                    string // of the token; empty where it could not be read
}

// stateDocument is the file, after a first line with its format and its sum.
type stateDocument struct {
	Binding     stateBinding
	Boot        string        // which start of the machine this is
	Saved       time.Duration // since that start
	Remaining   time.Duration // of the credentials, by STS's clock, when they were saved
	Skew        time.Duration // of this machine's wall clock, ahead of STS's when they were issued
	Credentials json.RawMessage
}

const (
	// stateHeader is followed by the SHA-256 of the rest, in hex. The number is the format's.
	stateHeader = "irsa-sidecar state 2 "

	maxState = 64 << 10

	// maxRemaining is the longest session that STS issues.
	maxRemaining = 12 * time.Hour

	// stateWait is how long an answer waits for the file. In memory a write takes less than a millisecond.
	stateWait = 500 * time.Millisecond

	// startWait is how long the start waits for what is in it. That is longer: a container that may use a hundredth
	// of a core needs a good part of a second for anything, and without the file it may have nothing to serve.
	startWait = 5 * time.Second
)

// errOnDisk is what is wrong with a directory that is not in memory.
var errOnDisk = errors.New("its directory is on a disk: mount an emptyDir with medium: Memory there, or set IRSA_SIDECAR_STATE_FILE_ON_DISK=true")

const stateVariable = "IRSA_SIDECAR_STATE_FILE"

// statePlace is where a profile's state file is.
type statePlace struct {
	path   string // empty for none
	onDisk bool   // its directory need not be in memory
}

// checkState checks the places of all state files.
func (s *settings) checkState() (all problems) {
	for _, p := range s.profiles {
		all = append(all, p.state.check()...)
	}
	return all
}

// check wants a place that no disk, and no backup of one, ever sees. It is not part of parse because it asks a file
// system, which may not answer: that is only for the commands that use the file.
func (p statePlace) check() problems {
	if p.path == "" {
		return nil
	}
	path := filepath.Dir(p.path)
	wrong := func(format string, args ...any) problems {
		return problems{{stateVariable, fmt.Sprintf(format, args...)}}
	}
	var err error
	inTime := within(startWait, func() {
		var dir *os.File
		if dir, err = openStateDir(path, p.onDisk); err == nil {
			dir.Close()
		}
	})
	switch {
	case !inTime:
		return wrong("%s: its directory did not respond within %s", p.path, startWait)
	case errors.Is(err, errOnDisk):
		return wrong("%s would put credentials on a disk; mount an emptyDir with medium: Memory at %s, or set IRSA_SIDECAR_STATE_FILE_ON_DISK=true", p.path, path)
	case err != nil:
		return wrong("%s: its directory cannot be used: %v", p.path, cache.Innermost(err))
	}
	return nil
}

// newStateFile returns the state file of a profile, or nil where it has none.
func (p *profile) newStateFile(logger *slog.Logger) *stateFile {
	if p.state.path == "" {
		return nil
	}
	s := &stateFile{
		statePlace: p.state, tokenFile: p.exchange.TokenFile, logger: logger, clock: bootClock, binding: p.binding(),
	}
	s.write = s.writeFile
	return s
}

// binding is what the profile's credentials are asked for with, without the token.
func (p *profile) binding() stateBinding {
	o := &p.exchange
	policy := ""
	if o.Policy != "" {
		sum := sha256.Sum256([]byte(o.Policy))
		policy = hex.EncodeToString(sum[:])
	}
	return stateBinding{
		Profile: p.name, RoleARN: o.RoleARN, Duration: o.Duration.String(), Policy: policy, PolicyARNs: o.PolicyARNs, Endpoint: o.Endpoint,
	}
}

// bind notes what an exchange asks with, whose credentials are the next to be kept. A nil stateFile keeps nothing.
func (s *stateFile) bind(b stateBinding) {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.binding = b
	}
}

// bound is the binding with the token that is there now.
func (s *stateFile) bound() stateBinding {
	s.mu.Lock()
	b := s.binding
	s.mu.Unlock()
	if _, claims, err := webidentity.ReadToken(s.tokenFile); err == nil {
		b.Issuer, b.Subject = claims.Issuer, claims.Subject
	}
	return b
}

// keep writes credentials down, and returns when they are written, or after stateWait: a disk that is slow or
// stuck must not keep callers from credentials. It is written behind their backs then, by one goroutine at most,
// which takes the newest of what has come meanwhile; a shutdown does not wait for it. A failure is a line in the
// log: the credentials at hand are no worse for it.
func (s *stateFile) keep(k cache.Kept) {
	text, err := s.document(k)
	if err != nil {
		s.failed(err)
		return
	}
	w := &stateWrite{text, make(chan struct{})}
	s.mu.Lock()
	busy := s.writing
	if busy {
		s.next = w
	} else {
		s.writing = true
		go s.writeAll(w)
	}
	s.mu.Unlock()

	if !busy { // who is at it still has had half a second already
		timer := time.NewTimer(stateWait)
		defer timer.Stop()
		select {
		case <-w.done:
			return
		case <-timer.C:
		}
	}
	s.logger.Warn("writing the state file is slow; until it is written, a restart during an STS outage would not have the new credentials", "file", s.path)
}

// writeAll writes w, and then what has come meanwhile, until there is nothing more.
func (s *stateFile) writeAll(w *stateWrite) {
	for w != nil {
		began := time.Now()
		err := s.write(w.text)
		if took := time.Since(began); err != nil {
			s.failed(err)
		} else if took >= stateWait {
			s.logger.Info("the state file has been written", "file", s.path, "took", took.Round(time.Millisecond).String())
		}
		s.mu.Lock()
		next := s.next
		s.next, s.writing = nil, next != nil
		s.mu.Unlock()
		close(w.done)
		w = next
	}
}

func (s *stateFile) failed(err error) {
	s.logger.Warn("cannot write the state file; a restart during an STS outage would not have the new credentials", "file", s.path, "error", err)
}

// document is the file's content.
func (s *stateFile) document(k cache.Kept) ([]byte, error) {
	boot, now, err := s.clock()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(stateDocument{s.bound(), boot, now, k.Remaining, k.Skew, server.StateCredentials(k.Credentials)})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s%x\n%s", stateHeader, sha256.Sum256(text), text), nil
}

// writeFile replaces the file. All that it does, it does in the directory that it has looked at: another one
// that takes its place meanwhile gets nothing.
func (s *stateFile) writeFile(text []byte) error {
	dir, err := openStateDir(filepath.Dir(s.path), s.onDisk)
	if err != nil {
		return err
	}
	defer dir.Close()

	// The part always has the same name, so that the next write overwrites what a kill leaves.
	name := filepath.Base(s.path)
	if err := regular.Replace(filepath.Join(pathOf(dir), name), "."+name+".new", bytes.NewReader(text), 0o600); err != nil {
		return cache.Innermost(err)
	}
	return nil
}

// openStateDir opens the directory of a state file, wherever links lead, and fails with errOnDisk where that is
// not in memory, unless it may be on a disk.
func openStateDir(path string, onDisk bool) (*os.File, error) {
	dir, err := os.Open(path + "/.") // with that, a pipe is an error and not something to wait for
	if err != nil || onDisk {
		return dir, err
	}
	memory, err := inMemory(dir)
	if err == nil && !memory {
		err = errOnDisk
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// restore returns what an earlier run of this program has left; nil where there is nothing to be used, and the
// log says why. It takes startWait at most.
func (s *stateFile) restore() *cache.Kept {
	type outcome struct {
		kept *cache.Kept
		left time.Duration
		err  error
	}
	read := make(chan outcome, 1)
	go func() {
		k, left, err := s.read()
		read <- outcome{k, left, err}
	}()
	timer := time.NewTimer(startWait)
	defer timer.Stop()
	var o outcome
	select {
	case o = <-read:
	case <-timer.C:
		o.err = fmt.Errorf("it could not be read within %s", startWait)
	}
	switch {
	case errors.Is(o.err, fs.ErrNotExist):
		s.logger.Info("no state file yet", "file", s.path)
	case o.err != nil:
		s.logger.Warn("ignoring the state file", "file", s.path, "error", o.err)
	default:
		s.logger.Info("credentials restored from the state file", "file", s.path, "access_key", o.kept.Credentials.KeyHint(),
			"expiration", o.kept.Credentials.Expiration, "remaining", o.left.Round(time.Second).String())
	}
	return o.kept
}

func (s *stateFile) read() (*cache.Kept, time.Duration, error) {
	text, err := s.readFile()
	if err != nil {
		return nil, 0, err
	}
	boot, now, err := s.clock()
	if err != nil {
		return nil, 0, err
	}
	return parseState(text, s.bound(), boot, now, time.Now())
}

// readFile reads a file that nobody else can have written.
func (s *stateFile) readFile() ([]byte, error) {
	f, err := os.OpenFile(s.path, os.O_RDONLY|noFollow|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, errors.New("it is a symbolic link, which this program never creates")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner, ok := regular.OwnerOf(info)
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("users other than its owner may access it: its mode is %#o, not 0600", info.Mode().Perm())
	case !ok || int(owner.UID) != os.Geteuid():
		return nil, errors.New("it belongs to another user")
	case owner.Linked:
		return nil, errors.New("it has a second hard link, which this program never creates")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err == nil && len(text) > maxState {
		err = errors.New("it is too large to be a state file")
	}
	return text, err
}

// parseState returns the credentials in a state file, if they are those that want would ask for, and how long
// they still work: at the moment now after the machine's start boot, when the wall clock says wall.
//
// The time that has passed is the machine's, counted from its start, and no session is longer than maxRemaining.
// So far the node's clock plays no part: it may be wrong, and may have been set meanwhile. But the file may
// have been changed by another process of its user, whom the sum does not keep out. So Expiration counts too, by
// the rule of a lease in memory: the wall clock ends the credentials if it would also do so after removing
// the skew that was measured when they were issued. Of the skew in the file no more than a day is believed:
// whatever it says, nothing is served later than a day after its Expiration, by the wall clock.
func parseState(text []byte, want stateBinding, boot string, now time.Duration, wall time.Time) (*cache.Kept, time.Duration, error) {
	line, body, _ := bytes.Cut(text, []byte("\n"))
	sum, ok := strings.CutPrefix(string(line), stateHeader)
	if !ok {
		return nil, 0, errors.New("it is not a state file of this version")
	}
	if have := sha256.Sum256(body); hex.EncodeToString(have[:]) != sum {
		return nil, 0, errors.New("it is damaged: the checksum does not match")
	}
	var d stateDocument
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, 0, errors.New("it is damaged: it is not JSON")
	}
	for _, field := range []struct{ name, have, want string }{
		{"profile", d.Binding.Profile, want.Profile},
		{"role", d.Binding.RoleARN, want.RoleARN},
		{"duration", d.Binding.Duration, want.Duration},
		{"session policy", d.Binding.Policy, want.Policy},
		{"list of policies", strings.Join(d.Binding.PolicyARNs, ","), strings.Join(want.PolicyARNs, ",")},
		{"STS endpoint", d.Binding.Endpoint, want.Endpoint},
	} {
		if field.have != field.want {
			return nil, 0, fmt.Errorf("it is for another %s", field.name)
		}
	}
	// A token that cannot be read now is a fault that the credentials are to outlive.
	if slices.Contains([]string{d.Binding.Subject, want.Subject}, "") {
		d.Binding.Issuer, d.Binding.Subject = want.Issuer, want.Subject
	}
	if d.Binding.Issuer != want.Issuer || d.Binding.Subject != want.Subject {
		return nil, 0, errors.New("it is for another service account or cluster than the token")
	}
	if d.Boot != boot || d.Saved < 0 || now < d.Saved {
		return nil, 0, errors.New("it was written before the machine started")
	}
	c, err := server.ParseStateCredentials(d.Credentials)
	if err != nil {
		return nil, 0, errors.New("it is damaged: it holds no credentials")
	}
	// Both terms are between zero and far below the largest number: nothing wraps around.
	k := &cache.Kept{Credentials: c, Remaining: max(0, min(d.Remaining, maxRemaining)) - (now - d.Saved), Skew: d.Skew}
	left := k.Left(wall)
	switch {
	case k.Remaining <= 0:
		return nil, 0, fmt.Errorf("its credentials expired %s ago", (-k.Remaining).Round(time.Second))
	case left <= 0:
		return nil, 0, fmt.Errorf("by this node's clock, its credentials expired at %s", c.Expiration.UTC().Format(time.RFC3339))
	}
	return k, left, nil
}
