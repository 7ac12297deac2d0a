//go:build faults

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// insideVariable names the test that runs in namespaces of its own.
const insideVariable = "IRSA_TEST_INSIDE"

// inNamespaces runs the test a second time, as a process in namespaces of its own: its mounts and its
// network, if flags have them, are then its own to break. It reports whether this is that second time; the
// first one ends where it is told that it is not.
//
// Root makes the namespaces as it is, anybody else in a user namespace. Where neither is allowed the test is
// not run, and says so.
func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() {
		// What is mounted from here on is seen by nobody else.
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.count=1"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name())
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | flags, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // the signal of the parent's death is that of its thread
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		if slices.Contains(strings.Split(os.Getenv("IRSA_TEST_REQUIRE"), ","), "namespaces") {
			t.Fatalf("IRSA_TEST_REQUIRE has namespaces, and they are not to be had: %v", err)
		}
		fmt.Fprintf(os.Stderr, "%s is NOT RUN: this machine lets nobody make namespaces: %v\n", t.Name(), err)
		t.Skip(err)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Errorf("in namespaces of its own: %v", err)
	}
	return false
}
