package world

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

const (
	// insideVariable holds the name of the test that runs in its own namespaces, and the file for its result.
	insideVariable = "IRSA_TEST_INSIDE"

	// passed is the content of that file, unless the test was skipped: then that is the reason.
	passed = "passed"
)

// InNamespaces is [Reexec] for a test that needs namespaces: if this machine does not allow them, the test is not run, and
// says so. The test outside must end if the result is false; it is skipped if the one inside was.
func InNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	inside, err := Reexec(t, flags)
	if err != nil {
		NotRun(t, "namespaces", err.Error())
	}
	return inside
}

// Reexec runs the test a second time, as a process in its own namespaces, so that it may change its mounts and, depending on
// flags, its network. It reports whether this is the second time. An error means that this machine does not allow
// namespaces.
//
// Root needs no user namespace; other users get one.
func Reexec(t *testing.T, flags uintptr) (inside bool, err error) {
	t.Helper()
	if name, outcome, inside := strings.Cut(os.Getenv(insideVariable), "="); inside && name == t.Name() {
		// Mounts made from here on are visible only here.
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			how := passed
			if t.Skipped() {
				how = whySkipped
			}
			if err := os.WriteFile(outcome, []byte(how), 0o600); err != nil {
				t.Error(err)
			}
		})
		return true, nil
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.count=1", "-test.parallel=" + flag.Lookup("test.parallel").Value.String()}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	if deadline, ok := t.Deadline(); ok { // only the test inside can say where it hangs
		args = append(args, "-test.timeout="+(time.Until(deadline)-10*time.Second).String())
	}
	outcome := filepath.Join(t.TempDir(), "outcome")
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name()+"="+outcome)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | flags, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // the parent-death signal is sent when this thread ends
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		return false, fmt.Errorf("this machine does not allow namespaces: %w", err)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Errorf("in namespaces of its own: %v", err)
		return false, nil
	}
	switch how, err := os.ReadFile(outcome); {
	case err != nil:
		t.Errorf("in namespaces of its own it did not finish: %v", err)
	case string(how) != passed:
		t.Skipf("skipped in namespaces of its own: %s", how)
	}
	return false, nil
}

// OnThread calls a function on its own thread, which ends with it.
func OnThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if syscall.Gettid() == os.Getpid() { // the main thread does not end; while it is taken, the next one is another
			OnThread(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}

// DialAs connects as another user, which only root can.
func DialAs(uid int, network, address string) (conn net.Conn, err error) {
	OnThread(func() {
		if uid != os.Geteuid() {
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 { // of this thread
				err = errno
				return
			}
		}
		conn, err = net.DialTimeout(network, address, Soon)
	})
	return conn, err
}

// Loopback is the name of the loopback interface, in the form of netdevice(7).
var Loopback = [syscall.IFNAMSIZ]byte{'l', 'o'}

// LoopbackUp brings up the loopback of a new network, with its addresses.
func LoopbackUp() error { return setUp(Loopback) }

func setUp(name [syscall.IFNAMSIZ]byte) error {
	request := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{name: name, flags: syscall.IFF_UP}
	return Ioctl(syscall.AF_INET, syscall.SIOCSIFFLAGS, unsafe.Pointer(&request))
}

// SetIPv4 sets the IPv4 address of an interface. A colon in the name adds another address.
func SetIPv4(name [syscall.IFNAMSIZ]byte, address [4]byte) error {
	request := struct {
		name    [syscall.IFNAMSIZ]byte
		address syscall.RawSockaddrInet4
		_       [8]byte
	}{name: name, address: syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: address}}
	return Ioctl(syscall.AF_INET, syscall.SIOCSIFADDR, unsafe.Pointer(&request))
}

// Ioctl replaces ip(8), which some machines lack: netdevice(7), ipv6(7).
func Ioctl(family int, what uintptr, request unsafe.Pointer) error {
	socket, err := syscall.Socket(family, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), what, uintptr(request)); errno != 0 {
		return fmt.Errorf("ioctl %#x: %w", what, errno)
	}
	return nil
}
