package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// stateFile keeps the last good credentials of all profiles, so that a sidecar that restarts during an STS outage still has
// them. It contains secrets, so it belongs on a volume in memory.
type stateFile struct {
	place
	logger *slog.Logger
	clock  func() (boot string, elapsed time.Duration, err error) // bootClock, except in tests
	write  func(text []byte) error                                // writeFile, except in tests

	mu     sync.Mutex        // also of all entries
	lines  map[string][]byte // what the file holds, or is about to hold, by profile
	writer fileWriter
}

// stateEntry is one profile's part of the file. A nil stateEntry keeps nothing.
type stateEntry struct {
	*stateFile
	binding   stateBinding // of the next credentials to be kept; its profile never changes
	tokenFile string
	forgotten bool
}

const (
	// maxState limits a file, in bytes. An entry has two to eight kilobytes, depending on the session's policies and tags.
	maxState = 4 << 20

	// startWait is how long the start waits for what is in it. That is longer: a container that may use a hundredth
	// of a core needs a good part of a second for anything, and without the file it may have nothing to serve.
	startWait = 5 * time.Second
)

const stateVariable = "IRSA_SIDECAR_STATE_FILE"

// newStateFile returns the state file at a place, or nil where there is none.
func newStateFile(at place, logger *slog.Logger) *stateFile {
	if at.path == "" {
		return nil
	}
	f := &stateFile{place: at, logger: logger, clock: bootClock, lines: make(map[string][]byte)}
	f.write = f.writeFile
	return f
}

// entry returns the part of the file for a profile; nil where there is no file.
func (f *stateFile) entry(b stateBinding, tokenFile string) *stateEntry {
	if f == nil {
		return nil
	}
	return &stateEntry{stateFile: f, binding: b, tokenFile: tokenFile}
}

// bind notes what the next credentials to be kept were asked for with.
func (s *stateEntry) bind(b stateBinding, tokenFile string) {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.binding, s.tokenFile = b, tokenFile
	}
}

// bound is the binding with the token that is there now.
func (s *stateEntry) bound() stateBinding {
	s.mu.Lock()
	b, tokenFile := s.binding, s.tokenFile
	s.mu.Unlock()
	if _, claims, err := webidentity.ReadToken(tokenFile); err == nil {
		b.Issuer, b.Subject = claims.Issuer, claims.Subject
	}
	return b
}

// keep writes credentials to the file, and returns when they are written, or after writeWait. A failure is only logged: the
// credentials work without the file.
func (s *stateEntry) keep(k cache.Kept) {
	if s == nil {
		return
	}
	line, err := s.line(k)
	if err != nil {
		s.failed(err)
		return
	}
	s.change(func() bool {
		if s.forgotten {
			return false
		}
		s.lines[s.binding.Profile] = line
		return true
	})
}

// forget removes the profile's credentials from the file, for ever: what is kept later is not written. It waits as keep does.
func (s *stateEntry) forget() {
	if s == nil {
		return
	}
	s.change(func() bool {
		_, held := s.lines[s.binding.Profile]
		delete(s.lines, s.binding.Profile)
		s.forgotten = true
		return held
	})
}

// change changes the lines with do, which has the lock and reports whether they have to be written.
func (f *stateFile) change(do func() bool) {
	f.mu.Lock()
	if !do() {
		f.mu.Unlock()
		return
	}
	text := formatState(f.lines)
	one := f.writer.begin(func() { f.save(text) })
	f.mu.Unlock()
	if !f.writer.wait(one) {
		f.logger.Warn("writing the state file is slow; until it is written, a restart during an STS outage would not have the new credentials", "file", f.path)
	}
}

// save writes the file, and logs what is worth it.
func (f *stateFile) save(text []byte) {
	began := time.Now()
	err := f.write(text)
	if took := time.Since(began); err != nil {
		f.failed(err)
	} else if took >= writeWait {
		f.logger.Info("the state file has been written", "file", f.path, "took", took.Round(time.Millisecond).String())
	}
}

func (f *stateFile) failed(err error) {
	f.logger.Warn("cannot write the state file; a restart during an STS outage would not have the new credentials", "file", f.path, "error", err)
}

// line is what the file holds of a profile.
func (s *stateEntry) line(k cache.Kept) ([]byte, error) {
	boot, now, err := s.clock()
	if err != nil {
		return nil, err
	}
	return formatEntry(stateDocument{s.bound(), boot, now, k.Remaining, k.Skew, storedCredentialsOf(k.Credentials)})
}

// writeFile replaces the file, in the directory that it has checked.
func (f *stateFile) writeFile(text []byte) error {
	dir, err := f.openDir()
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := f.examineState(dir); err != nil {
		return err
	}
	return replaceIn(dir, filepath.Base(f.path), text, 0o600)
}

// restored is what came of one profile's part of the file.
type restored struct {
	kept *cache.Kept
	left time.Duration
	err  error // nil with nothing kept: the file has no entry for the profile
}

// readState is a state file that has been read.
type readState struct {
	lines   map[string][]byte // of the profiles that there are
	entries map[string]restored
	damaged int // entries
	gone    int // entries of profiles that do not exist
	err     error
}

// restore returns what an earlier run of this program has kept, by profile; the log says why something cannot be used. It
// takes startWait at most for all profiles together. What the file holds of profiles that are not among them is removed.
func (f *stateFile) restore(entries []*stateEntry) map[string]*cache.Kept {
	if f == nil {
		return nil
	}
	var state readState
	read := make(chan readState, 1)
	go func() { read <- f.read(entries) }()
	timer := time.NewTimer(startWait)
	defer timer.Stop()
	select {
	case state = <-read:
	case <-timer.C:
		state.err = fmt.Errorf("could not be read within %s", startWait)
	}
	f.report(&state)
	f.change(func() bool {
		maps.Copy(f.lines, state.lines)
		return state.damaged+state.gone > 0
	})
	kept := make(map[string]*cache.Kept)
	for name, one := range state.entries {
		kept[name] = one.kept
	}
	return kept
}

// report logs what came of the file.
func (f *stateFile) report(state *readState) {
	switch {
	case errors.Is(state.err, fs.ErrNotExist):
		f.logger.Info("no state file yet", "file", f.path)
	case state.err != nil:
		f.logger.Warn("ignoring the state file", "file", f.path, "error", state.err)
	case state.damaged > 0:
		f.logger.Warn("ignoring the state file's damaged entries, and removing them", "file", f.path, "entries", state.damaged)
	}
	if state.gone > 0 {
		f.logger.Info("ignoring the state file's entries of profiles that do not exist, and removing them", "file", f.path, "entries", state.gone)
	}
	for _, name := range slices.Sorted(maps.Keys(state.entries)) {
		one := state.entries[name]
		switch {
		case one.err != nil:
			f.logger.Warn("ignoring the state file's credentials", "profile", name, "file", f.path, "error", one.err)
		case one.kept != nil:
			f.logger.Info("credentials restored from the state file", "profile", name, "file", f.path, "access_key", one.kept.Credentials.KeyHint(),
				"expiration", one.kept.Credentials.Expiration, "remaining", one.left.Round(time.Second).String())
		}
	}
}

func (f *stateFile) read(entries []*stateEntry) readState {
	text, err := f.readFile()
	if err != nil {
		return readState{err: err}
	}
	lines, damaged, err := splitState(text)
	if err != nil {
		return readState{err: err}
	}
	wanted := make(map[string]stateBinding)
	for _, one := range entries { // the tokens before the clock: reading them may take time
		b := one.bound()
		wanted[b.Profile] = b
	}
	boot, now, err := f.clock()
	if err != nil {
		return readState{err: err}
	}
	state := readState{lines: make(map[string][]byte), entries: make(map[string]restored), damaged: damaged}
	for _, line := range lines {
		want, ours := wanted[line.Binding.Profile]
		if !ours {
			state.gone++
			continue
		}
		var one restored
		one.kept, one.left, one.err = line.restore(want, boot, now, time.Now())
		state.lines[want.Profile], state.entries[want.Profile] = line.text, one
	}
	return state
}

// readFile reads a file that nobody else can have written.
func (f *stateFile) readFile() ([]byte, error) {
	dir, err := f.openDir()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	file, err := openReplaceable(dir, filepath.Base(f.path))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat() // of what has been opened
	if err != nil {
		return nil, err
	}
	switch owner, ok := regular.OwnerOf(info); {
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("may be accessed by users other than its owner: its mode is %#o, not 0600", info.Mode().Perm())
	case !ok || int(owner.UID) != os.Geteuid() || !info.Mode().IsRegular():
		return nil, errForeign
	}
	text, err := io.ReadAll(io.LimitReader(file, maxState+1))
	if err == nil && len(text) > maxState {
		err = regular.TooLong(maxState)
	}
	return text, err
}

// examineState reports what is at the path of a state file in an open directory and must stay.
func (p place) examineState(dir *os.File) error {
	file, err := openReplaceable(dir, filepath.Base(p.path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	start := make([]byte, len(statePrefix))
	n, err := io.ReadFull(file, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return fmt.Errorf("cannot be read: %w", cache.Innermost(err))
	}
	if !strings.HasPrefix(statePrefix, string(start[:n])) { // a part of it, or nothing, is not worth keeping
		return errForeign
	}
	return nil
}
