package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

const (
	// lookPause is how often the files are looked at, whatever the timers say: one that could not be written is tried
	// again, one that somebody has removed is written again, and after a suspended node has come back, credentials go that
	// expired meanwhile.
	lookPause = 5 * time.Second

	// lastMoment is how long before they expire credentials go from a file, so that no reader finds expired ones there.
	lastMoment = time.Second
)

// A fileOutput is a file for programs that know only files.
type fileOutput struct {
	place
	mode     fs.FileMode
	remove   bool          // on a clean stop
	sections []fileSection // of a credentials file
	text     string        // of a file without credentials
	program  string        // that it names; empty for none
}

// A fileSection is a section of a credentials file, and the profile whose credentials it has.
type fileSection struct{ header, profile string }

// outputFiles writes the files, as those of the configuration come and go. A nil outputFiles writes none.
type outputFiles struct {
	logger   *slog.Logger
	failures prometheus.Counter
	wake     chan struct{} // has run look at the files

	mu    sync.Mutex
	files map[string]*outputFile // by path
	held  map[string]*heldEntry  // by profile
}

// A heldEntry has the newest credentials of one profile in use.
type heldEntry struct {
	all   *outputFiles
	name  string
	sum   string             // of the binding of the credentials or, before the first, of those that are wanted
	creds *cache.Credentials // nil before the first
	left  func() time.Duration
}

// An outputFile is a file in use.
type outputFile struct {
	fileOutput
	writer  fileWriter
	earlier map[string]textSection // what an earlier run has left in it, by header

	wanted  []byte      // what was written last, or is being written; nil before the first
	found   fs.FileInfo // of what was written last
	failing bool        // the last write failed
	said    string      // the failure that is in the log
}

func newOutputFiles(logger *slog.Logger, registry prometheus.Registerer) *outputFiles {
	all := &outputFiles{
		logger: logger, wake: make(chan struct{}, 1), held: make(map[string]*heldEntry),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "irsa_sidecar_credentials_file_write_failures_total",
			Help: "Times that a file for programs that know only files could not be written; it is tried again every five seconds.",
		}),
	}
	registry.MustRegister(all.failures)
	return all
}

// entry returns what keeps a profile's credentials; sum is that of their binding, and before is what an earlier run of the program
// has kept of them.
func (all *outputFiles) entry(name, sum string, before *cache.Kept) *heldEntry {
	if all == nil {
		return nil
	}
	h := &heldEntry{all: all, name: name, sum: sum}
	if before != nil {
		h.creds, h.left = before.Credentials, before.Countdown()
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.held[name] = h
	return h
}

// keep writes new credentials, whose binding has this sum, to the files that have a section for them, and returns when they are
// written, or after writeWait.
func (h *heldEntry) keep(k cache.Kept, sum string) {
	if h == nil {
		return
	}
	if !fitsFile(k.Credentials) {
		h.all.logger.Error("STS answered with credentials that a credentials file cannot hold, because they have spaces or line feeds", "profile", h.name)
		return
	}
	h.all.change(func() {
		h.sum, h.creds, h.left = sum, k.Credentials, k.Countdown()
		for _, f := range h.all.files {
			if f.has(h.name) {
				f.said = "" // once for each refresh
			}
		}
	})
}

// forget removes the credentials of a profile that is not in use any more.
func (h *heldEntry) forget() {
	if h == nil {
		return
	}
	h.all.change(func() {
		if h.all.held[h.name] == h {
			delete(h.all.held, h.name)
		}
	})
}

func (o *fileOutput) has(profile string) bool {
	return slices.ContainsFunc(o.sections, func(s fileSection) bool { return s.profile == profile })
}

// set makes the files those of a configuration. What has been written to others is removed.
func (all *outputFiles) set(outputs []fileOutput) {
	all.mu.Lock()
	before := all.files
	all.mu.Unlock()
	next := make(map[string]*outputFile)
	for _, o := range outputs {
		f := before[o.path]
		if f == nil {
			f = &outputFile{fileOutput: o, earlier: o.readEarlier()}
		}
		next[o.path] = f
	}
	all.change(func() {
		all.files = next
		for _, o := range outputs {
			if f := next[o.path]; !reflect.DeepEqual(f.fileOutput, o) {
				f.fileOutput, f.wanted = o, nil
			}
		}
	})
	for path, f := range before {
		if next[path] == nil {
			f.writer.wait(all.beginRemoval(f))
		}
	}
}

// change changes what the files are to hold with do, which has the lock, and waits for them.
func (all *outputFiles) change(do func()) {
	begun := make(map[*outputFile]*fileWrite)
	all.mu.Lock()
	do()
	for _, f := range all.files {
		if one := all.update(f); one != nil {
			begun[f] = one
		}
	}
	all.mu.Unlock()
	for f, one := range begun {
		if !f.writer.wait(one) {
			all.logger.Warn("writing a file for programs is slow; until it is written, programs find the previous credentials in it", "file", f.path)
		}
	}
	select {
	case all.wake <- struct{}{}:
	default:
	}
}

// update begins to write a file if it is not what it is to be, or returns nil.
func (all *outputFiles) update(f *outputFile) *fileWrite {
	text := all.text(f)
	if f.wanted != nil && bytes.Equal(text, f.wanted) && !f.failing {
		return nil
	}
	f.wanted = text
	o := f.fileOutput
	return f.writer.begin(func() {
		found, err := o.write(text)
		all.written(f, found, err)
		if o.program == "" {
			return
		}
		if _, err := os.Stat(o.program); err != nil {
			all.logger.Warn("the program that the file names is not there; put it there with irsa-sidecar install", "file", o.path, "program", o.program, "error", cache.Innermost(err))
		}
	})
}

// written notes how a write has ended.
func (all *outputFiles) written(f *outputFile, found fs.FileInfo, err error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	was := f.failing
	f.found, f.failing = found, err != nil
	switch {
	case err != nil:
		all.failures.Inc()
		if f.said != err.Error() {
			f.said = err.Error()
			all.logger.Warn("cannot write a file for programs; they find the previous content", "file", f.path, "error", err, "retry_in", lookPause.String())
		}
	case was:
		f.said = ""
		all.logger.Info("the file for programs is written again", "file", f.path)
	}
}

// text is what a file is to hold.
func (all *outputFiles) text(f *outputFile) []byte {
	text := []byte(f.fileOutput.text)
	for _, s := range f.sections {
		h := all.held[s.profile]
		if h == nil {
			continue
		}
		switch earlier := f.earlier[s.header]; {
		case h.creds != nil:
			if h.left() > lastMoment {
				text = appendSection(text, s.header, h.sum, h.creds)
			}
		case earlier.sum != h.sum: // of another role, or of another profile that had the section
		case time.Until(earlier.expiration) > lastMoment:
			text = append(text, earlier.text...)
		}
	}
	return text
}

// run keeps expired credentials out of the files, and writes again what could not be written, until ctx ends.
func (all *outputFiles) run(ctx context.Context) {
	for {
		timer := time.NewTimer(all.look())
		select {
		case <-timer.C:
		case <-all.wake:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// look updates all files, and returns when to look again.
func (all *outputFiles) look() time.Duration {
	all.mu.Lock()
	paths := make(map[string]fs.FileInfo)
	for _, f := range all.files {
		if f.found != nil {
			paths[f.path] = f.found
		}
	}
	all.mu.Unlock()
	for path, found := range paths {
		if info, err := os.Lstat(path); err == nil && os.SameFile(info, found) && info.ModTime().Equal(found.ModTime()) {
			delete(paths, path)
		}
	}

	all.mu.Lock()
	defer all.mu.Unlock()
	next := lookPause
	for _, f := range all.files {
		if found := paths[f.path]; found != nil && found == f.found {
			f.wanted = nil // something has happened to it
		}
		all.update(f)
		for _, s := range f.sections {
			left := time.Until(f.earlier[s.header].expiration)
			if h := all.held[s.profile]; h != nil && h.creds != nil {
				left = h.left()
			}
			if left -= lastMoment; left > 0 {
				next = min(next, left)
			}
		}
	}
	return next
}

// stop removes the files that are to be removed at the end. Nothing is kept afterwards.
func (all *outputFiles) stop() {
	var begun []*fileWrite
	all.mu.Lock()
	for _, f := range all.files {
		if f.remove {
			begun = append(begun, all.beginRemoval(f))
		}
	}
	all.mu.Unlock()
	if !within(writeWait, func() {
		for _, one := range begun {
			<-one.done
		}
	}) {
		all.logger.Warn("removing files for programs is slow; they may stay, with credentials that work until they expire")
	}
}

// beginRemoval removes what the sidecar has written to a file.
func (all *outputFiles) beginRemoval(f *outputFile) *fileWrite {
	return f.writer.begin(func() {
		if err := f.removeFile(); err != nil {
			all.failures.Inc()
			all.logger.Warn("cannot remove a file for programs", "file", f.path, "error", err)
		}
	})
}

// write replaces what the sidecar wrote before; what others have added after it stays.
func (o fileOutput) write(text []byte) (fs.FileInfo, error) {
	dir, err := o.openDir()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := filepath.Base(o.path)
	there, err := readOutput(dir, name)
	if err != nil {
		return nil, err
	}
	if err := replaceIn(dir, name, formatOutput(text, there.rest), o.mode); err != nil {
		return nil, err
	}
	return os.Lstat(filepath.Join(pathOf(dir), name))
}

// removeFile removes the file, or only the sidecar's part of it if others have added to it.
func (o fileOutput) removeFile() error {
	dir, err := o.openDir()
	if err != nil {
		return err
	}
	defer dir.Close()
	name := filepath.Base(o.path)
	there, err := readOutput(dir, name)
	if err != nil || !there.exists {
		return err
	}
	if len(there.rest) > 0 {
		return replaceIn(dir, name, formatOutput(nil, there.rest), o.mode)
	}
	return cache.Innermost(os.Remove(filepath.Join(pathOf(dir), name)))
}

// readEarlier returns what an earlier run has left in the file, by header. Whatever is wrong, the first write says.
func (o fileOutput) readEarlier() (earlier map[string]textSection) {
	var there outputText
	if !within(startWait, func() {
		dir, err := o.openDir()
		if err != nil {
			return
		}
		defer dir.Close()
		there, _ = readOutput(dir, filepath.Base(o.path))
	}) {
		return nil
	}
	return splitSections(there.own)
}

// examine reports what is at the path and must stay, or that the directory cannot be written.
func (o fileOutput) examine(dir *os.File) error {
	if err := writable(dir); err != nil {
		return fmt.Errorf("cannot be written: %w; its directory must be one that this container's user may write to", err)
	}
	_, err := readOutput(dir, filepath.Base(o.path))
	return err
}

// checkFiles checks the places of the files. What happens to one that before has too is found when it is written.
func (s *settings) checkFiles(before *settings) (all problems) {
	for _, o := range s.written {
		if before == nil || !slices.ContainsFunc(before.written, func(other fileOutput) bool { return other.path == o.path }) {
			all = append(all, o.check(o.examine)...)
		}
	}
	return all.limited()
}

// checkPlaces checks the places of all files that hold credentials.
func (s *settings) checkPlaces() problems {
	return slices.Concat(s.state.check(s.state.examineState), s.checkFiles(nil))
}
