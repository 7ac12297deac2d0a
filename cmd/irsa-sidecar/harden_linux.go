package main

import "syscall"

// harden keeps other processes of our own user out of our memory, environment and files, and our secrets
// out of core dumps: proc(5), PR_SET_DUMPABLE in prctl(2). What the kernel refuses here, an old one or a
// sandbox, costs a defence and not the service.
//
// Until it is called, the Go runtime has been starting for a millisecond, and what has been opened by then stays
// open. In the image our user may not read the program, and of such a process the kernel says that it is not
// dumpable from its exec on.
func harden() {
	const setDumpable = 4 // PR_SET_DUMPABLE
	syscall.RawSyscall(syscall.SYS_PRCTL, setDumpable, 0, 0)
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
