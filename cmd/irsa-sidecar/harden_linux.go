package main

import "syscall"

// coreLimit is the limit of core dumps with which this process was started; nil if it could not be read.
var coreLimit *syscall.Rlimit

// harden protects the memory, environment and files of this process from other processes of its user, and keeps secrets out of
// core dumps: proc(5), PR_SET_DUMPABLE in prctl(2). If the kernel refuses, as old ones and sandboxes may, the sidecar works
// without this protection.
//
// The Go runtime needs a millisecond before it calls this, and what another process has opened by then stays open. In the
// image, the user may not read the program; then the kernel makes the process not dumpable from the first instant.
//
// A process that startsProgram keeps its hard limit, which could not be raised again for that program.
func harden(startsProgram bool) {
	const setDumpable = 4 // PR_SET_DUMPABLE
	syscall.RawSyscall(syscall.SYS_PRCTL, setDumpable, 0, 0)
	found := new(syscall.Rlimit)
	if syscall.Getrlimit(syscall.RLIMIT_CORE, found) == nil {
		coreLimit = found
		none := new(syscall.Rlimit)
		if startsProgram {
			none.Max = found.Max
		}
		syscall.Setrlimit(syscall.RLIMIT_CORE, none)
	}
}

// withFoundLimits calls do with the limits that this process was started with, for a child. This process still dumps no core:
// it is not dumpable. A child becomes so when it runs its program. The limit of open files, which the Go runtime has raised, it
// lowers itself in children.
func withFoundLimits(do func()) {
	if coreLimit != nil {
		syscall.Setrlimit(syscall.RLIMIT_CORE, coreLimit)
		defer syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Max: coreLimit.Max})
	}
	do()
}
