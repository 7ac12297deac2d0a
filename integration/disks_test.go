//go:build faults

package integration

import (
	"bytes"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// disk is a file system of the test's own, in memory, so small that it can be filled.
type disk struct{ dir string }

const (
	diskInodes = 24
	diskFlags  = syscall.MS_NOSUID | syscall.MS_NODEV
)

// newDisk mounts one for as long as the test lasts; the test is in a mount namespace of its own.
func newDisk(t *testing.T, size int64) disk {
	t.Helper()
	d := disk{t.TempDir()}
	if err := syscall.Mount("disk", d.dir, "tmpfs", diskFlags, fmt.Sprintf("size=%d,nr_inodes=%d", size, diskInodes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, 0); err != nil { // fails while somebody still has a file open
			t.Error(err)
		}
	})
	return d
}

func (d disk) path(name string) string { return filepath.Join(d.dir, name) }

// ballast is what the test itself fills a disk with.
const ballast = "ballast"

// fill leaves as much room as free says, and no more.
func (d disk) fill(t *testing.T, free int64) {
	t.Helper()
	f, err := os.Create(d.path(ballast))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, pageSize); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	length, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		err = f.Truncate(length - free)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// useInodes leaves as many inodes as free says: there is room for data, and none for a file.
func (d disk) useInodes(t *testing.T, free int) {
	t.Helper()
	for n := range diskInodes + 1 {
		f, err := os.Create(d.path(fmt.Sprint(ballast, n)))
		if errors.Is(err, syscall.ENOSPC) {
			for i := range free {
				if err := os.Remove(d.path(fmt.Sprint(ballast, n-1-i))); err != nil {
					t.Fatal(err)
				}
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Fatalf("%d files on a file system of %d inodes", diskInodes+1, diskInodes)
}

func (d disk) remount(t *testing.T, flags uintptr) {
	t.Helper()
	if err := syscall.Mount("", d.dir, "", syscall.MS_REMOUNT|diskFlags|flags, ""); err != nil {
		t.Fatal(err)
	}
}

// stick has nobody get to open the file with this name until release is called, as on a disk that does not
// answer: fanotify(7) asks this program for leave, and gets no answer.
func (d disk) stick(t *testing.T, name string) (release func()) {
	t.Helper()
	const (
		content, cloexec, nonblock = 0x04, 0x01, 0x02 // fanotify_init(2): FAN_CLASS_CONTENT and so on
		add, mount                 = 0x01, 0x10       // fanotify_mark(2)
		openPerm                   = 0x10000
	)
	fd, _, errno := syscall.Syscall(syscall.SYS_FANOTIFY_INIT, content|cloexec|nonblock, syscall.O_RDONLY, 0)
	if errno != 0 {
		t.Skipf("fanotify: %v", errno)
	}
	dir, err := syscall.BytePtrFromString(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	here := -100 // AT_FDCWD
	if _, _, errno = syscall.Syscall6(syscall.SYS_FANOTIFY_MARK, fd, add|mount, openPerm, uintptr(here), uintptr(unsafe.Pointer(dir)), 0); errno != 0 {
		syscall.Close(int(fd))
		t.Skipf("fanotify on %s: %v", d.dir, errno)
	}
	questions := os.NewFile(fd, "fanotify")
	go func() {
		for buffer := make([]byte, 4096); ; {
			n, err := questions.Read(buffer)
			if err != nil {
				return // closed, by which all are let through
			}
			for rest := buffer[:n]; len(rest) > 0; rest = rest[endian.NativeEndian.Uint32(rest):] { // struct fanotify_event_metadata
				file := endian.NativeEndian.Uint32(rest[16:])
				if path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file)); filepath.Base(path) == name {
					// An answer names the question by this descriptor: no other may get its number.
					defer syscall.Close(int(file))
					continue
				}
				const allow = 1
				questions.Write(endian.NativeEndian.AppendUint32(endian.NativeEndian.AppendUint32(nil, file), allow))
				syscall.Close(int(file))
			}
		}
	}()
	return sync.OnceFunc(func() { questions.Close() })
}

// mend makes room, and lets write again.
func (d disk) mend(t *testing.T) {
	t.Helper()
	d.remount(t, 0)
	files, err := filepath.Glob(d.path(ballast + "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// wantFiles wants these files on the disk and no others, but for the ballast.
func (d disk) wantFiles(t *testing.T, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ballast) {
			have = append(have, entry.Name())
		}
	}
	if !slices.Equal(have, names) {
		t.Errorf("the disk has the files %q, want %q", have, names)
	}
}

// TestFullAndReadOnlyDisks has the program write each of its files where it cannot. What it says names the
// file and the cause, what was there before stays whole, nothing half-written is left, and what can go on
// without the file goes on.
func TestFullAndReadOnlyDisks(t *testing.T) {
	if !inNamespaces(t, 0) {
		return
	}
	program(t) // or the first command's patience would be spent on building it
	const full, readOnly = "no space left on device", "read-only file system"
	const roomForHalf, oneInode = "room for half", "one inode"
	for _, c := range []struct {
		name  string
		cause string
		spoil spoiler
	}{
		// A file can still be made, and stays empty.
		{"full", full, func(t *testing.T, d disk, _ int64) { d.fill(t, 0) }},
		{roomForHalf, full, func(t *testing.T, d disk, half int64) { d.fill(t, half) }},
		{"no inodes", full, func(t *testing.T, d disk, _ int64) { d.useInodes(t, 0) }},
		// Enough for a file, and not for its second name, which the authorization token's has for a moment.
		{oneInode, full, func(t *testing.T, d disk, _ int64) { d.useInodes(t, 1) }},
		{"read-only", readOnly, func(t *testing.T, d disk, _ int64) { d.remount(t, syscall.MS_RDONLY) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != roomForHalf { // the token takes a page, and there is none of half the size
				t.Run("authorization token", func(t *testing.T) { anAuthorizationToken(t, c.cause, c.spoil) })
			}
			if c.name != oneInode { // which is enough for a file that has but one name
				t.Run("no state file yet", func(t *testing.T) { noStateFileYet(t, c.cause, c.spoil) })
				t.Run("a state file", func(t *testing.T) { aStateFileToReplace(t, c.cause, c.spoil) })
				t.Run("install", func(t *testing.T) { anInstallation(t, c.cause, c.spoil) })
			}
		})
	}
	t.Run("stuck", aStuckDisk)
}

// spoiler takes room away; half is about half of what is to be written.
type spoiler func(t *testing.T, d disk, half int64)

// smallDisk is enough for all files but the program.
const smallDisk = 64 << 10

// pageSize is the least that a file takes, and half of a state file as these tests make it.
const pageSize = 4096

// rotateToLong gives the Pod a service account with a name that makes the state file longer than a page.
func (w *world) rotateToLong(t *testing.T) {
	w.rotate(t, ststest.Claims{ServiceAccount: strings.Repeat("x", pageSize)})
}

const unwritten = "cannot write the state file; a restart during an STS outage would not have the new credentials"

// wantUnwritten waits for the line that says so, and then holds the file and the cause in it.
func (s *sidecar) wantUnwritten(t *testing.T, file, cause string) {
	t.Helper()
	line := s.waitForLine(t, unwritten)
	if line["level"] != "WARN" || line["file"] != file {
		t.Errorf("the line is at %v and names %v, want WARN and %s", line["level"], line["file"], file)
	}
	want(t, "the line", fmt.Sprint(line["error"]), cause)
}

// sessionsOf sets how long sessions are from now on. Longer ones than those at hand are always taken in.
func (w *world) sessionsOf(lifetime time.Duration) {
	w.sts.Change(func(o *ststest.Options) { o.Lifetime = lifetime })
}

// wantRestored starts a sidecar without STS, and wants it to have the credentials with this key.
func (w *world) wantRestored(t *testing.T, key string, changes ...string) {
	t.Helper()
	w.sts.Break(ststest.Drop)
	defer w.sts.Repair()
	s := w.serve(t, changes...)
	if a := s.ask(t); a.AccessKeyID != key {
		t.Errorf("after a restart without STS: %d %s, and not the credentials from before", a.status, a.Code)
	}
	s.killed(t)
}

func noStateFileYet(t *testing.T, cause string, spoil spoiler) {
	d := newDisk(t, smallDisk)
	state := "IRSA_SIDECAR_STATE_FILE=" + d.path("state")
	w := newWorld(t, ststest.Options{Lifetime: 2 * time.Second})
	w.rotateToLong(t)
	spoil(t, d, pageSize)
	s := w.serve(t, state)
	s.untilValid(t)
	s.wantUnwritten(t, d.path("state"), cause)
	d.wantFiles(t)
	if status, body := s.health(t, "/livez"); status != 200 {
		t.Errorf("/livez: %d %s", status, body)
	}

	// The next exchange writes it, without a restart.
	w.sessionsOf(time.Hour)
	d.mend(t)
	var a answer
	eventually(t, soon, "the state file", func() bool {
		a = s.ask(t)
		_, err := os.Stat(d.path("state"))
		return err == nil && time.Until(a.Expiration) > time.Minute
	})
	s.killed(t)
	d.wantFiles(t, "state")
	w.wantRestored(t, a.AccessKeyID, state)
}

func aStateFileToReplace(t *testing.T, cause string, spoil spoiler) {
	d := newDisk(t, smallDisk)
	state := "IRSA_SIDECAR_STATE_FILE=" + d.path("state")
	w := newWorld(t, ststest.Options{Lifetime: time.Hour})
	w.rotateToLong(t)
	first := w.serve(t, state)
	before := first.untilValid(t)
	first.killed(t)
	good := read(t, d.path("state"))
	if len(good) <= pageSize {
		t.Fatalf("the state file has %d bytes: half of it is no page", len(good))
	}

	spoil(t, d, pageSize)
	w.sessionsOf(2 * time.Hour)
	second := w.serve(t, state)
	second.wantUnwritten(t, d.path("state"), cause)
	eventually(t, soon, "the new credentials", func() bool {
		a := second.ask(t)
		if !a.valid() {
			t.Fatalf("%d %s: the state file takes the service with it", a.status, a.Code)
		}
		return a.AccessKeyID != before.AccessKeyID
	})
	second.killed(t)
	d.wantFiles(t, "state")
	if !bytes.Equal(read(t, d.path("state")), good) {
		t.Error("the state file is not the one from before")
	}
	w.wantRestored(t, before.AccessKeyID, state)

	d.mend(t)
	w.sessionsOf(3 * time.Hour)
	third := w.serve(t, state)
	var after answer
	eventually(t, soon, "credentials of three hours", func() bool {
		after = third.ask(t)
		return time.Until(after.Expiration) > 150*time.Minute
	})
	third.killed(t)
	d.wantFiles(t, "state")
	w.wantRestored(t, after.AccessKeyID, state)
}

// aStuckDisk has the state file be written late, and then never.
func aStuckDisk(t *testing.T) {
	d := newDisk(t, smallDisk)
	state := "IRSA_SIDECAR_STATE_FILE=" + d.path("state")
	w := newWorld(t, ststest.Options{Lifetime: time.Hour})
	release := d.stick(t, ".state.new")
	first := w.serve(t, state)
	a := first.untilValid(t)
	first.waitForLine(t, "writing the state file is slow; until it is written, a restart during an STS outage would not have the new credentials")
	if status, body := first.health(t, "/livez"); status != 200 {
		t.Errorf("/livez: %d %s", status, body)
	}
	if _, err := os.Stat(d.path("state")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the disk is not stuck: %v", err)
	}
	release()
	first.waitForLine(t, "the state file has been written")
	first.killed(t)
	d.wantFiles(t, "state")
	w.wantRestored(t, a.AccessKeyID, state)

	w.sessionsOf(2 * time.Hour)
	defer d.stick(t, ".state.new")()
	second := w.serve(t, state)
	eventually(t, soon, "the new credentials", func() bool { return second.ask(t).AccessKeyID != a.AccessKeyID })
	second.terminate(t)
	second.wantEnd(t)
	w.wantRestored(t, a.AccessKeyID, state)
}

func anAuthorizationToken(t *testing.T, cause string, spoil spoiler) {
	d := newDisk(t, smallDisk)
	file := d.path("token")
	variable := "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + file
	w := newWorld(t, ststest.Options{})
	spoil(t, d, 0)
	r := run(t, w.with(variable))
	wantCode(t, r, 2)
	wanted := "irsa-sidecar: invalid configuration: IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE " + file +
		" does not exist and cannot be created: " + cause + "\n"
	if r.stderr != wanted {
		t.Errorf("said\n%s\nwant\n%s", r.stderr, wanted)
	}
	d.wantFiles(t)

	d.mend(t)
	made := w.serve(t, variable)
	token := read(t, file)
	printed.secret("an authorization token", string(token))
	made.wantAuthorization(t, string(token))
	made.killed(t)
	d.wantFiles(t, "token")

	// The file is there to be read: a disk that takes nothing more is no reason not to start.
	spoil(t, d, 0)
	found := w.serve(t, variable)
	found.wantAuthorization(t, string(token))
	found.killed(t)
	if !bytes.Equal(read(t, file), token) {
		t.Error("the token in the file is another one")
	}
}

func anInstallation(t *testing.T, cause string, spoil spoiler) {
	info, err := os.Stat(program(t))
	if err != nil {
		t.Fatal(err)
	}
	size := info.Size()
	d := newDisk(t, 2*size)
	target := d.path("irsa-sidecar")
	refused := func() {
		t.Helper()
		r := run(t, nil, "install", d.dir)
		wantCode(t, r, 1)
		// The name of the part is ours: it tells nobody anything, and the part is gone.
		if wanted := "irsa-sidecar: install: write into " + d.dir + ": " + cause; lastLine(r.stderr) != wanted &&
			lastLine(r.stderr) != wanted+"; it must be a directory, on a volume that this container's user may write to" {
			t.Errorf("said\n%s\nwant\n%s", r.stderr, wanted)
		}
	}
	spoil(t, d, size/2&^(pageSize-1))
	refused()
	d.wantFiles(t)

	d.mend(t)
	old := []byte("an older program\n")
	if err := os.WriteFile(target, old, 0o755); err != nil {
		t.Fatal(err)
	}
	spoil(t, d, size/2&^(pageSize-1))
	refused()
	d.wantFiles(t, "irsa-sidecar")
	if !bytes.Equal(read(t, target), old) {
		t.Error("the older program is not what it was")
	}

	d.mend(t)
	wantCode(t, run(t, nil, "install", d.dir), 0)
	d.wantFiles(t, "irsa-sidecar")
	if !bytes.Equal(read(t, target), read(t, program(t))) {
		t.Error("what has been installed is not the program")
	}
}
