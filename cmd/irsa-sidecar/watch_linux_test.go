package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// watched is a watch under test, with what it has warned of.
type watched struct {
	*watch
	mu       sync.Mutex
	warnings []string
}

// startWatch watches until the end of the test, and returns when it does.
func startWatch(t *testing.T, every time.Duration, paths ...string) *watched {
	t.Helper()
	w := &watched{}
	w.watch = newWatch(paths, func(message string, args ...any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.warnings = append(w.warnings, fmt.Sprint(message, args))
	})
	w.every = every
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { w.run(ctx); close(ended) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("the watch does not end")
		}
	})
	w.want(t, "the first look")
	return w
}

// want waits for a look.
func (w *watched) want(t *testing.T, after string) {
	t.Helper()
	select {
	case <-w.looks:
	case <-time.After(20 * time.Second):
		t.Errorf("nothing is told after %s", after)
	}
}

// settle takes what is told of one change in several parts, until this file has been replaced and told of.
func (w *watched) settle(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte("settled"), 0o600))
	for {
		select {
		case <-w.looks:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish does to a directory what the kubelet does to a volume: a new directory with the file, and a link that is replaced.
func publish(t *testing.T, dir, generation, text string) {
	t.Helper()
	data := filepath.Join(dir, "..data_"+generation)
	must(t, errors.Join(
		os.Mkdir(data, 0o755),
		os.WriteFile(filepath.Join(data, "config"), []byte(text), 0o644),
		os.Symlink(filepath.Base(data), filepath.Join(dir, "..data_tmp")),
		os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
	))
}

// Each change is told, with an interval that would not come in the time of a test.
func TestChangesOfAFileAreTold(t *testing.T) {
	for name, row := range map[string]struct {
		before, change func(t *testing.T, dir, path string)
	}{
		"the kubelet replaces the volume's link": {func(t *testing.T, dir, path string) {
			publish(t, dir, "1", "before")
			must(t, os.Symlink("..data/config", path))
		}, func(t *testing.T, dir, _ string) { publish(t, dir, "2", "after") }},
		"another file is renamed over it": {func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("before"), 0o600))
		}, func(t *testing.T, dir, path string) {
			next := filepath.Join(dir, "next")
			must(t, errors.Join(os.WriteFile(next, []byte("after"), 0o600), os.Rename(next, path)))
		}},
		"it is written in place": {func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("before"), 0o600))
		}, func(t *testing.T, _, path string) { must(t, os.WriteFile(path, []byte("after"), 0o600)) }},
		"it is deleted": {func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("before"), 0o600))
		}, func(t *testing.T, _, path string) { must(t, os.Remove(path)) }},
		"it becomes readable": {func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("before"), 0))
		}, func(t *testing.T, _, path string) { must(t, os.Chmod(path, 0o600)) }},
		"it comes": {func(*testing.T, string, string) {}, func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("after"), 0o600))
		}},
		"its directory comes": {func(t *testing.T, dir, _ string) { must(t, os.Remove(dir)) }, func(t *testing.T, dir, path string) {
			must(t, errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(path, []byte("after"), 0o600)))
		}},
		"its directory comes with those above": {func(t *testing.T, dir, _ string) {
			must(t, os.RemoveAll(filepath.Dir(dir)))
		}, func(t *testing.T, dir, path string) {
			must(t, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path, []byte("after"), 0o600)))
		}},
		"its directory is replaced": {func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("before"), 0o600))
		}, func(t *testing.T, dir, path string) {
			must(t, errors.Join(os.Rename(dir, dir+".before"), os.Mkdir(dir, 0o700), os.WriteFile(path, []byte("after"), 0o600)))
		}},
		"its directory goes": {func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("before"), 0o600))
		}, func(t *testing.T, dir, _ string) { must(t, os.RemoveAll(dir)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "above", "dir")
			must(t, os.MkdirAll(dir, 0o700))
			path := filepath.Join(dir, "config")
			row.before(t, dir, path)
			w := startWatch(t, time.Hour, path)
			row.change(t, dir, path)
			w.want(t, "the change")
			// And so is the next.
			must(t, os.MkdirAll(dir, 0o700))
			must(t, errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o600))) // it may be a link into another directory
			w.settle(t, path)
			must(t, os.WriteFile(path, []byte("again"), 0o600))
			w.want(t, "the change after it")
		})
	}
}

// A file is not told of before its writer has closed it, and others in its directory never are.
func TestOnlyWholeFilesAreTold(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	must(t, os.WriteFile(path, []byte("before"), 0o600))
	w := startWatch(t, time.Hour, path)

	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	for i := range 100 {
		_, err := file.WriteString("half")
		must(t, errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprint("other", i)), nil, 0o600)))
	}
	other := filepath.Join(t.TempDir(), "config")
	must(t, os.WriteFile(other, nil, 0o600))
	control := startWatch(t, time.Hour, other, filepath.Join(dir, "other100")) // for when all of this has been told
	must(t, os.WriteFile(filepath.Join(dir, "other100"), nil, 0o600))
	control.want(t, "another file's change")
	select {
	case <-w.looks:
		t.Error("what is being written, or another file, is told")
	default:
	}
	must(t, file.Close())
	w.want(t, "its writer has closed it")
}

func TestManyChangesAreOneLook(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	w := startWatch(t, time.Hour, path)
	for range 1000 {
		must(t, os.WriteFile(path, []byte("again"), 0o600))
	}
	w.want(t, "many changes")
	if n := len(w.looks); n > 1 {
		t.Errorf("%d looks wait", n)
	}
}

// Where the kernel does not tell, there is still a look at each interval.
func TestWithoutTheKernelThereAreStillLooks(t *testing.T) {
	t.Run("a directory that cannot be watched", func(t *testing.T) {
		w := startWatch(t, 10*time.Millisecond, filepath.Join(t.TempDir(), strings.Repeat("x", 300), "config"))
		w.want(t, "an interval")
		w.wantWarning(t, "looking at it every minute")
	})
	t.Run("a link to a file elsewhere", func(t *testing.T) {
		dir := t.TempDir()
		elsewhere := filepath.Join(t.TempDir(), "elsewhere")
		must(t, errors.Join(os.WriteFile(elsewhere, nil, 0o600), os.Symlink(elsewhere, filepath.Join(dir, "config"))))
		w := startWatch(t, 10*time.Millisecond, filepath.Join(dir, "config"))
		w.want(t, "an interval")
	})
}

// wantWarning checks the only warning.
func (w *watched) wantWarning(t *testing.T, text string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0], text) {
		t.Errorf("warnings: %q, want one with … %s …", w.warnings, text)
	}
}

// The kernel has no watch left: it allows 128 to a user by default. Its error is that for the limit of descriptors, which, unlike
// the other one, takes nothing from the programs of other tests.
func TestNoWatchIsLeft(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config")
	next, err := syscall.Dup(0) // the lowest descriptor that is free
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(next)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(next), Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	w := startWatch(t, 10*time.Millisecond, config)
	w.want(t, "an interval")
	w.wantWarning(t, "looking at them every minute")
}

func TestWhatTheKernelTellsIsUnderstood(t *testing.T) {
	w := &inotify{names: map[int32]map[string]bool{1: {"config": true, dataLink: true}}}
	event := func(descriptor int32, mask uint32, name string) []byte {
		padded := (len(name) + 16) / 16 * 16
		b := make([]byte, syscall.SizeofInotifyEvent+padded)
		for i, v := range []uint32{uint32(descriptor), mask, 0, uint32(padded)} {
			binary.NativeEndian.PutUint32(b[4*i:], v)
		}
		copy(b[syscall.SizeofInotifyEvent:], name)
		return b
	}
	for name, row := range map[string]struct {
		events         []byte
		changed, moved bool
	}{
		"nothing":                 {nil, false, false},
		"written":                 {event(1, syscall.IN_CLOSE_WRITE, "config"), true, false},
		"another file":            {event(1, syscall.IN_CLOSE_WRITE, "config.new"), false, false},
		"another directory":       {event(2, syscall.IN_CLOSE_WRITE, "config"), false, false},
		"another, then this":      {append(event(1, syscall.IN_CLOSE_WRITE, "x"), event(1, syscall.IN_CLOSE_WRITE, "config")...), true, false},
		"the link":                {event(1, syscall.IN_MOVED_TO, dataLink), true, true},
		"the directory goes":      {event(1, syscall.IN_DELETE_SELF, ""), false, true},
		"a watch that is removed": {event(2, syscall.IN_IGNORED, ""), false, false},
		"too many to tell":        {event(-1, syscall.IN_Q_OVERFLOW, ""), false, true},
		"cut short":               {event(1, syscall.IN_CLOSE_WRITE, "config")[:10], false, false},
		"cut in the name":         {event(1, syscall.IN_CLOSE_WRITE, "config")[:20], false, false},
	} {
		if changed, moved := w.understand(row.events); changed != row.changed || moved != row.moved {
			t.Errorf("%s: changed %v, moved %v", name, changed, moved)
		}
	}
}
