package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

// writeWait is how long an answer waits for a file. In memory a write takes less than a millisecond.
const writeWait = 500 * time.Millisecond

// errOnDisk is the error for a directory that is not in memory.
var errOnDisk = errors.New("its directory is on a disk: mount an emptyDir with medium: Memory there")

// A place is where a file is written.
type place struct {
	path         string // empty for none
	onDisk       bool   // its directory need not be in memory
	at           where  // what names the path
	diskVariable string // sets onDisk
}

// check wants a place that no disk, and no backup of one, ever sees. It is not part of parse because it asks a file
// system, which may not answer: that is only for the commands that use the file. What else is wrong there, examine says.
func (p place) check(examine func(dir *os.File) error) problems {
	if p.path == "" {
		return nil
	}
	path := filepath.Dir(p.path)
	reject := func(format string, args ...any) problems {
		return problems{{p.at.variable, p.at.text + fmt.Sprintf(format, args...)}}
	}
	var err, found error
	inTime := within(startWait, func() {
		var dir *os.File
		if dir, err = p.openDir(); err != nil {
			return
		}
		defer dir.Close()
		found = examine(dir)
	})
	switch {
	case !inTime:
		return reject("%s: its directory did not respond within %s", p.path, startWait)
	case errors.Is(err, errOnDisk):
		return reject("%s would put credentials on a disk; mount an emptyDir with medium: Memory at %s, or set %s=true", p.path, path, p.diskVariable)
	case err != nil:
		return reject("%s: its directory cannot be used: %v; mount a volume at %s that the sidecar may write to, such as an emptyDir with medium: Memory", p.path, cache.Innermost(err), path)
	case found != nil:
		return reject("%s %v", p.path, found)
	}
	return nil
}

// openDir opens the directory, wherever links lead, and fails with errOnDisk where that is not in memory, unless it may
// be on a disk.
func (p place) openDir() (*os.File, error) {
	dir, err := os.Open(filepath.Dir(p.path) + "/.") // with that, a pipe is an error and not something to wait for
	if err != nil || p.onDisk {
		return dir, err
	}
	memory, err := inMemory(dir)
	if err == nil && !memory {
		err = fmt.Errorf("%w, or set %s=true", errOnDisk, p.diskVariable)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// errForeign is the error for a file that something else has written.
var errForeign = errors.New("exists, and the sidecar has not written it; move it away, or name another path")

// openReplaceable opens a file for reading that the sidecar may have written, and may replace, in an open directory. The error
// matches [fs.ErrNotExist] if there is none; all others continue a sentence that begins with the path.
func openReplaceable(dir *os.File, name string) (*os.File, error) {
	path := filepath.Join(pathOf(dir), name)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cache.Innermost(err))
	}
	owner, known := regular.OwnerOf(info)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("is a symbolic link, which the sidecar would replace; remove it, or name the path that it leads to")
	case info.IsDir():
		return nil, fmt.Errorf("%w; name a file in it or, if it is there because of a subPath, mount the volume without one", regular.ErrDirectory)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w; remove it, or name another path", regular.ErrNotRegular)
	case known && int(owner.UID) != os.Geteuid():
		return nil, fmt.Errorf("belongs to user %d, and the sidecar runs as %d; remove it", owner.UID, os.Geteuid())
	case known && owner.Linked:
		return nil, errors.New("has a second hard link, under which old credentials would stay; remove one of the two")
	}
	file, err := os.OpenFile(path, os.O_RDONLY|noFollow|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cache.Innermost(err))
	}
	if mountOf(file) != mountOf(dir) {
		file.Close()
		return nil, errors.New("is mounted by itself, as with a subPath, so that it cannot be replaced; mount its directory")
	}
	return file, nil
}

const (
	partSuffix = ".new"

	// maxFileName is how long the name of a file may be, in bytes: that of its part is longer, and NAME_MAX is 255.
	maxFileName = 255 - len(".") - len(partSuffix)
)

// replaceIn replaces a file in an open directory: another directory that takes its place meanwhile gets nothing. The part
// always has the same name, so that the next write overwrites what a kill leaves.
func replaceIn(dir *os.File, name string, text []byte, mode fs.FileMode) error {
	if err := regular.Replace(filepath.Join(pathOf(dir), name), "."+name+partSuffix, bytes.NewReader(text), mode); err != nil {
		return cache.Innermost(err)
	}
	return nil
}

// A fileWriter writes one file in the background: a slow or stuck disk must not keep credentials from callers. It makes
// one write at a time, in one goroutine at most, which continues with the newest that has been asked for meanwhile.
type fileWriter struct {
	mu      sync.Mutex
	writing bool
	next    *fileWrite // what the goroutine has not started with; nil if there is nothing
	slow    bool       // a write has taken longer than writeWait, and none has ended since
}

// A fileWrite is a write that has been asked for.
type fileWrite struct {
	do   func()
	done chan struct{} // closed when it, or a newer one in its place, has ended
}

// begin has a goroutine call do, in the place of what it has not started with.
func (w *fileWriter) begin(do func()) *fileWrite {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == nil {
		w.next = &fileWrite{done: make(chan struct{})}
	}
	one := w.next
	one.do = do
	if !w.writing {
		w.writing, w.next = true, nil
		go w.all(one)
	}
	return one
}

// all makes a write, and then what has come meanwhile, until nothing is left.
func (w *fileWriter) all(one *fileWrite) {
	for one != nil {
		one.do()
		w.mu.Lock()
		next := w.next
		w.next, w.writing, w.slow = nil, next != nil, false
		w.mu.Unlock()
		close(one.done)
		one = next
	}
}

// wait reports whether a write ends within writeWait. A disk that is known to be slow is not waited for.
func (w *fileWriter) wait(one *fileWrite) bool {
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	if slow {
		return false
	}
	timer := time.NewTimer(writeWait)
	defer timer.Stop()
	select {
	case <-one.done:
		return true
	case <-timer.C:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow = w.writing
	return false
}
