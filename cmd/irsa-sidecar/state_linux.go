package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// bootClock returns which start of the machine this is, and how long ago that was, suspended time
// included: a clock that nobody sets, and that goes on while this program does not run.
func bootClock() (boot string, elapsed time.Duration, err error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0, fmt.Errorf("tell this start of the machine from others: %w", err)
	}
	const clockBootTime = 7 // CLOCK_BOOTTIME, clock_gettime(2)
	var t syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockBootTime, uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		return "", 0, fmt.Errorf("read the clock: %w", errno)
	}
	return strings.TrimSpace(string(id)), time.Duration(t.Nano()), nil
}

// inMemory reports whether an open file is on a file system that is never written to a disk, except to swap.
func inMemory(f *os.File) (bool, error) {
	var s syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &s); err != nil {
		return false, os.NewSyscallError("fstatfs", err)
	}
	const tmpfs, ramfs = 0x01021994, 0x858458f6 // statfs(2)
	kind := uint32(s.Type)                      // of another size on each architecture
	return kind == tmpfs || kind == ramfs, nil
}

// writable returns why files cannot be made in an open directory, or nil.
func writable(dir *os.File) error {
	const write, search = 2, 1 // access(2)
	return syscall.Access(pathOf(dir), write|search)
}

// mountOf tells the mount that an open file is in from others; where it is not known, as in some sandboxes, it is "".
func mountOf(f *os.File) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	_, after, _ := strings.Cut(string(text), "\nmnt_id:")
	id, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(id)
}

// noFollow makes opening a symbolic link an error.
const noFollow = syscall.O_NOFOLLOW

// pathOf is a path to a directory that has been opened, wherever another one may have taken its name since: proc(5).
func pathOf(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) }
