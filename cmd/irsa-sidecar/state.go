package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// stateFile keeps the last good credentials, so that a sidecar that restarts during an STS outage still has them. It
// contains secrets, so it belongs on a volume in memory.
type stateFile struct {
	statePlace
	tokenFile string
	binding   stateBinding
	logger    *slog.Logger
	clock     func() (boot string, elapsed time.Duration, err error) // bootClock, except in tests
	write     func(text []byte) error                                // writeFile, except in tests

	mu      sync.Mutex  // also of binding
	writing bool        // a goroutine writes; never more than one
	next    *stateWrite // the newest that it has not started with; nil if there is none
}

// stateWrite is one text to be written to the file.
type stateWrite struct {
	text []byte
	done chan struct{}
}

const (
	maxState = 64 << 10 // bytes of a file

	// stateWait is how long an answer waits for the file. In memory a write takes less than a millisecond.
	stateWait = 500 * time.Millisecond

	// startWait is how long the start waits for what is in it. That is longer: a container that may use a hundredth
	// of a core needs a good part of a second for anything, and without the file it may have nothing to serve.
	startWait = 5 * time.Second
)

// errOnDisk is the error for a directory that is not in memory.
var errOnDisk = errors.New("its directory is on a disk: mount an emptyDir with medium: Memory there, or set IRSA_SIDECAR_STATE_FILE_ON_DISK=true")

const stateVariable = "IRSA_SIDECAR_STATE_FILE"

// statePlace is where the state file is.
type statePlace struct {
	path   string // empty for none
	onDisk bool   // its directory need not be in memory
}

// checkState checks the place of the state file.
func (s *settings) checkState() problems { return s.state.check() }

// check wants a place that no disk, and no backup of one, ever sees. It is not part of parse because it asks a file
// system, which may not answer: that is only for the commands that use the file.
func (p statePlace) check() problems {
	if p.path == "" {
		return nil
	}
	path := filepath.Dir(p.path)
	reject := func(format string, args ...any) problems {
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
		return reject("%s: its directory did not respond within %s", p.path, startWait)
	case errors.Is(err, errOnDisk):
		return reject("%s would put credentials on a disk; mount an emptyDir with medium: Memory at %s, or set IRSA_SIDECAR_STATE_FILE_ON_DISK=true", p.path, path)
	case err != nil:
		return reject("%s: its directory cannot be used: %v", p.path, cache.Innermost(err))
	}
	return nil
}

// newStateFile returns the state file of a profile, or nil where there is no place for it.
func (p *profile) newStateFile(place statePlace, logger *slog.Logger) *stateFile {
	if place.path == "" {
		return nil
	}
	s := &stateFile{
		statePlace: place, tokenFile: p.exchange.TokenFile, logger: logger, clock: bootClock, binding: p.binding(),
	}
	s.write = s.writeFile
	return s
}

// bind notes what the next credentials to be kept were asked for with. A nil stateFile keeps nothing.
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

// keep writes credentials to the file, and returns when they are written, or after stateWait: a slow or stuck disk must
// not keep credentials from callers. Then the write goes on in the background, in one goroutine at most, which continues
// with the newest credentials that have come meanwhile; a shutdown does not wait for it. A failure is only logged: the
// credentials work without the file.
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

	if !busy { // or the write under way has had its time already
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

// writeAll writes w, and then what has come meanwhile, until nothing is left.
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
	return formatState(stateDocument{s.bound(), boot, now, k.Remaining, k.Skew, storedCredentialsOf(k.Credentials)})
}

// writeFile replaces the file, in the directory that it has checked: another directory that takes its place meanwhile
// gets nothing.
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

// restore returns what an earlier run of this program has kept, or nil if it cannot be used; the log says why. It takes
// startWait at most.
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
