//go:build faults || (clients && linux)

package integration

import (
	"errors"
	"flag"
	"fmt"
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
	// insideVariable names the test that runs in namespaces of its own, and the file that says how it went.
	insideVariable = "IRSA_TEST_INSIDE"

	// passed is what stands in that file unless the test was skipped: then it is why.
	passed = "passed"
)

// whySkipped is why the test inside has been skipped by notRun.
var whySkipped = "it does not say why"

// inNamespaces is reborn for a test that cannot do without: where nobody may make namespaces it is not run,
// and says so. The test outside ends where it is told that it is not inside, and is skipped if the one inside
// was.
func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	inside, err := reborn(t, flags)
	if err != nil {
		notRun(t, "namespaces", err.Error())
	}
	return inside
}

// reborn runs the test a second time, as a process in namespaces of its own: its mounts and its network, if
// flags have them, are then its own to break. It reports whether this is that second time. An error says that
// this machine lets nobody make namespaces.
//
// Root makes the namespaces as it is, anybody else in a user namespace.
func reborn(t *testing.T, flags uintptr) (inside bool, err error) {
	t.Helper()
	if name, outcome, inside := strings.Cut(os.Getenv(insideVariable), "="); inside && name == t.Name() {
		// What is mounted from here on is seen by nobody else.
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
	if deadline, ok := t.Deadline(); ok { // it is the one inside who can say where he hangs
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
	runtime.LockOSThread() // the signal of the parent's death is that of its thread
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		return false, fmt.Errorf("this machine lets nobody make namespaces: %w", err)
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
		t.Errorf("in namespaces of its own it has not come to its end: %v", err)
	case string(how) != passed:
		t.Skipf("skipped in namespaces of its own: %s", how)
	}
	return false, nil
}

// onThread does it on a thread of its own, which ends with it.
func onThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if syscall.Gettid() == os.Getpid() { // the one thread that does not end; taken, it cannot be the next
			onThread(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}

// inNetwork does the work on a thread in a network of its own, with a loopback that also has the address of
// EC2's metadata service. First it says whether there is one.
func inNetwork(ready chan<- error, work <-chan func()) {
	onThread(func() {
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		if err == nil {
			err = loopbackUp()
		}
		if err == nil {
			second := loopback
			copy(second[:], "lo:1")
			err = setIPv4(second, [4]byte{169, 254, 169, 254})
		}
		ready <- err
		for do := range work {
			do()
		}
	})
}

// loopback is the name of a network's own interface, as netdevice(7) has it.
var loopback = [syscall.IFNAMSIZ]byte{'l', 'o'}

// loopbackUp gives a new network its loopback, with its addresses.
func loopbackUp() error {
	request := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{name: loopback, flags: syscall.IFF_UP}
	return ioctl(syscall.AF_INET, syscall.SIOCSIFFLAGS, unsafe.Pointer(&request))
}

// setIPv4 sets the IPv4 address of an interface; of one with a colon in its name, another one.
func setIPv4(name [syscall.IFNAMSIZ]byte, address [4]byte) error {
	request := struct {
		name    [syscall.IFNAMSIZ]byte
		address syscall.RawSockaddrInet4
		_       [8]byte
	}{name: name, address: syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: address}}
	return ioctl(syscall.AF_INET, syscall.SIOCSIFADDR, unsafe.Pointer(&request))
}

// ioctl does what ip(8) would, which not every machine has: netdevice(7), ipv6(7).
func ioctl(family int, what uintptr, request unsafe.Pointer) error {
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

// notRun ends a test for which the machine lacks something, and says so; where IRSA_TEST_REQUIRE has what is
// lacking, the test fails.
func notRun(t *testing.T, lacking, why string) {
	t.Helper()
	if required(lacking) {
		t.Fatalf("not run, although IRSA_TEST_REQUIRE has %s: %s", lacking, why)
	}
	fmt.Fprintf(os.Stderr, "%s is NOT RUN: %s\n", t.Name(), why)
	whySkipped = why
	t.Skip(why)
}

// TestNamespacesTellHowItWent is what the tests in namespaces stand on: the process outside says what became
// of the one inside.
func TestNamespacesTellHowItWent(t *testing.T) {
	const asVariable = "IRSA_TEST_ENDS_AS"
	if as, ok := os.LookupEnv(asVariable); ok {
		if inNamespaces(t, 0) {
			switch as {
			case "skipped":
				notRun(t, "a moon", "there is no moon")
			case "skipped by itself":
				t.Skip("it is late")
			case "failed":
				t.Error("it is dark")
			case "gone":
				os.Exit(0)
			}
		}
		return
	}
	for _, row := range []struct{ as, require, outside, because string }{
		{"passed", "", "PASS", ""},
		{"skipped", "", "SKIP", "skipped in namespaces of its own: there is no moon"},
		{"skipped", "stars,a moon", "FAIL", "not run, although IRSA_TEST_REQUIRE has a moon: there is no moon"},
		{"skipped by itself", "", "SKIP", "skipped in namespaces of its own: it does not say why"},
		{"failed", "", "FAIL", "in namespaces of its own: exit status 1"},
		{"gone", "", "FAIL", "in namespaces of its own it has not come to its end"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), asVariable+"="+row.as, "IRSA_TEST_REQUIRE="+row.require)
		raw, err := cmd.CombinedOutput()
		output := string(raw)
		if lacking := "this machine lets nobody make namespaces"; strings.Contains(output, lacking) {
			notRun(t, "namespaces", lacking)
		}
		want(t, row.as+" inside", output, row.because)
		// The one outside has the last word.
		if last := output[max(0, strings.LastIndex(output, "--- ")):]; !strings.HasPrefix(last, "--- "+row.outside+": "+t.Name()) || (err != nil) != (row.outside == "FAIL") {
			t.Errorf("%s inside, IRSA_TEST_REQUIRE=%s: %v, and outside %s", row.as, row.require, err, last)
		}
	}
}
