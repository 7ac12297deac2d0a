package world

import (
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

// Disk is a file system in memory for one test, small enough to fill.
type Disk struct{ Dir string }

const (
	diskInodes = 24
	diskFlags  = syscall.MS_NOSUID | syscall.MS_NODEV
)

// NewDisk mounts one until the end of the test, which must be in its own mount namespace.
func NewDisk(t *testing.T, size int64) Disk {
	t.Helper()
	d := Disk{t.TempDir()}
	if err := syscall.Mount("disk", d.Dir, "tmpfs", diskFlags, fmt.Sprintf("size=%d,nr_inodes=%d", size, diskInodes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.Dir, 0); err != nil { // fails while a file is still open
			t.Error(err)
		}
	})
	return d
}

// Path returns the path of a file on the disk.
func (d Disk) Path(name string) string { return filepath.Join(d.Dir, name) }

// ballast is the file with which the test fills a disk.
const ballast = "ballast"

// Fill leaves exactly as much room as free says.
func (d Disk) Fill(t *testing.T, free int64) {
	t.Helper()
	f, err := os.Create(d.Path(ballast))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, PageSize); err == nil; {
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

// UseInodes leaves as many inodes as free says: there is room for data, but not for another file.
func (d Disk) UseInodes(t *testing.T, free int) {
	t.Helper()
	for n := range diskInodes + 1 {
		f, err := os.Create(d.Path(fmt.Sprint(ballast, n)))
		if errors.Is(err, syscall.ENOSPC) {
			for i := range free {
				if err := os.Remove(d.Path(fmt.Sprint(ballast, n-1-i))); err != nil {
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

// Remount changes the mount options: syscall.MS_RDONLY makes it read-only.
func (d Disk) Remount(t *testing.T, flags uintptr) {
	t.Helper()
	if err := syscall.Mount("", d.Dir, "", syscall.MS_REMOUNT|diskFlags|flags, ""); err != nil {
		t.Fatal(err)
	}
}

// Stick makes opening the file with this name hang until release is called, as on a disk that does not respond: fanotify(7)
// asks this program for permission, and gets no answer.
func (d Disk) Stick(t *testing.T, name string) (release func()) {
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
	dir, err := syscall.BytePtrFromString(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	here := -100 // AT_FDCWD
	if _, _, errno = syscall.Syscall6(syscall.SYS_FANOTIFY_MARK, fd, add|mount, openPerm, uintptr(here), uintptr(unsafe.Pointer(dir)), 0); errno != 0 {
		syscall.Close(int(fd))
		t.Skipf("fanotify on %s: %v", d.Dir, errno)
	}
	questions := os.NewFile(fd, "fanotify")
	var answering sync.WaitGroup
	answering.Go(func() {
		for buffer := make([]byte, 4096); ; {
			n, err := questions.Read(buffer)
			if err != nil {
				return // closed, which permits everything
			}
			for rest := buffer[:n]; len(rest) > 0; rest = rest[endian.NativeEndian.Uint32(rest):] { // struct fanotify_event_metadata
				file := endian.NativeEndian.Uint32(rest[16:])
				if path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file)); filepath.Base(path) == name {
					// The answer identifies the question by this descriptor, so its number must not be reused.
					defer syscall.Close(int(file))
					continue
				}
				const allow = 1
				questions.Write(endian.NativeEndian.AppendUint32(endian.NativeEndian.AppendUint32(nil, file), allow))
				syscall.Close(int(file))
			}
		}
	})
	return sync.OnceFunc(func() {
		questions.Close()
		answering.Wait() // its descriptors are open files on the disk
	})
}

// Free removes the ballast and makes the disk writable again.
func (d Disk) Free(t *testing.T) {
	t.Helper()
	d.Remount(t, 0)
	files, err := filepath.Glob(d.Path(ballast + "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// WantFiles checks that the disk has these files and, except for the ballast, no others.
func (d Disk) WantFiles(t *testing.T, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(d.Dir)
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

// PageSize is the least room that a file needs. The state files of these tests need twice as much.
const PageSize = 4096
