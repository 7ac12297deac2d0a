package main

import "syscall"

// harden keeps other processes of our own user out of our memory, environment and files, and our secrets
// out of core dumps: proc(5), PR_SET_DUMPABLE in prctl(2). What the kernel refuses here, an old one or a
// sandbox, costs a defence and not the service.
func harden() {
	const setDumpable = 4 // PR_SET_DUMPABLE
	syscall.RawSyscall(syscall.SYS_PRCTL, setDumpable, 0, 0)
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
