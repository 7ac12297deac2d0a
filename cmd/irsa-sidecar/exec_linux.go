package main

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// programAttributes make the kernel end the program when this process is killed: its credentials would end with them.
func programAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}

// realTimeSignals are those that the C library leaves to programs: signal(7).
func realTimeSignals() (all []os.Signal) {
	for s := syscall.Signal(34); s <= 64; s++ {
		all = append(all, s)
	}
	return all
}

// endBy ends this process by a signal, so that a shell sees what it would have seen of the program. It returns if there was
// none, and in process 1, which signals of its own do not end. No core is dumped: see harden.
func endBy(s syscall.Signal) {
	if s == 0 {
		return
	}
	runtime.LockOSThread()
	// The Go runtime would print its stacks for some, and ignore others.
	var byDefault [4]uint64 // struct sigaction of the kernel, rt_sigaction(2): no handler, no flags
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	syscall.Tgkill(os.Getpid(), syscall.Gettid(), s)
}
