package main

import "syscall"

// harden protects the memory, environment and files of this process from other processes of its user, and keeps secrets out of
// core dumps: proc(5), PR_SET_DUMPABLE in prctl(2). If the kernel refuses, as old ones and sandboxes may, the sidecar works
// without this protection.
//
// The Go runtime needs a millisecond before it calls this, and what another process has opened by then stays open. In the
// image, the user may not read the program; then the kernel makes the process not dumpable from the first instant.
func harden() {
	const setDumpable = 4 // PR_SET_DUMPABLE
	syscall.RawSyscall(syscall.SYS_PRCTL, setDumpable, 0, 0)
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
