package commands

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// A terminal is a pseudo-terminal with a shell that has job control, as a person has it.
type terminal struct {
	t    *testing.T
	keys *os.File

	mu   sync.Mutex
	text string // on the screen
	read int    // how much of it the test has seen
}

// openTerminal opens one until the end of the test: pts(4).
func openTerminal(t *testing.T, env []string) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		world.NotRun(t, "terminals", err.Error())
	}
	var unlocked, number int32
	for request, argument := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlocked, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, keys.Fd(), request, uintptr(unsafe.Pointer(argument))); errno != 0 {
			t.Fatal(errno)
		}
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	shell := exec.Command("bash", "--norc", "--noprofile", "-i")
	shell.Env = append(env, "PS1=$ ", "TERM=dumb")
	shell.Stdin, shell.Stdout, shell.Stderr = tty, tty, tty
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	s := &terminal{t: t, keys: keys}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for buffer := make([]byte, 4096); ; {
			n, err := keys.Read(buffer)
			s.mu.Lock()
			s.text += strings.ReplaceAll(string(buffer[:n]), "\r", "")
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		shell.Process.Kill()
		shell.Wait()
		keys.Close()
		<-read
		world.Leaks.Printed("the terminal of "+t.Name(), s.text)
		if t.Failed() || testing.Verbose() {
			t.Logf("on the screen:\n%s", s.text)
		}
	})
	s.want(`\$ $`)
	return s
}

// press types keys.
func (s *terminal) press(keys string) {
	s.t.Helper()
	if _, err := s.keys.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// want waits for text that the test has not seen yet, and returns its groups.
func (s *terminal) want(pattern string) (groups []string) {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	world.Eventually(s.t, world.Soon, pattern+" on the screen", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		m := re.FindStringSubmatchIndex(s.text[s.read:])
		if m == nil {
			return false
		}
		groups = re.FindStringSubmatch(s.text[s.read:])
		s.read += m[1]
		return true
	})
	return groups
}

// The keys that a terminal makes signals of.
const (
	interruptKey = "\x03" // Ctrl-C
	suspendKey   = "\x1a" // Ctrl-Z
	quitKey      = "\x1c" // Ctrl-\
)

func execTerminal(t *testing.T) *terminal {
	t.Helper()
	w := world.New(t, ststest.Options{})
	return openTerminal(t, execEnv(w, "PATH="+filepath.Dir(world.Program(t))+":/usr/local/bin:/usr/bin:/bin"))
}

// counting is a program that counts its interrupts, and exits with their number when it is told to.
const counting = `n=0; trap 'n=$((n+1)); echo interrupt $n' INT; echo ready; read line; while [ "$line" != end ]; do read line; done; exit $((n+10))`

func TestCtrlC(t *testing.T) {
	t.Parallel()
	s := execTerminal(t)
	s.press("irsa-sidecar exec -- sleep 1000\n")
	s.want(`sleep 1000\n`)
	world.Eventually(t, world.Soon, "the program", func() bool { return children(t, s) })
	s.press(interruptKey)
	s.want(`\n\$ $`)
	s.press("echo code=$?\n")
	s.want(`code=130\n\$ $`)

	// A program that handles it gets it once, and irsa-sidecar does not end before it does.
	s.press("irsa-sidecar exec -- bash -c '" + strings.ReplaceAll(counting, "'", `'\''`) + "'\n")
	s.want(`ready\n`)
	s.press(interruptKey)
	s.want(`interrupt 1\n`)
	s.press(interruptKey)
	s.want(`interrupt 2\n`)
	s.press("end\n")
	s.want(`\n\$ $`)
	s.press("echo code=$?\n")
	s.want(`code=12\n\$ $`)

	// A script ends, too, and its next line does not run.
	s.press("bash -c 'irsa-sidecar exec -- sh -c \"echo read''y; sleep 1000\"; echo ne''xt'\n")
	s.want(`ready\n`)
	s.press(interruptKey)
	s.want(`\$ $`)
	s.press("echo code=$?\n")
	if m := s.want(`(?s)(.*)code=(\d+)\n\$ $`); strings.Contains(m[1], "next") || m[2] != "130" {
		t.Errorf("the script went on: %q", m)
	}

	// In the foreground, an interrupt by kill looks like one of the terminal, which the program has got; SIGTERM is passed on.
	s.press(`irsa-sidecar exec -- bash -c 'trap "echo inte""rrupted" INT; trap "echo termi""nated; exit 5" TERM; kill -INT $PPID; sleep 0.5; kill -TERM $PPID; while :; do sleep 0.05; done'` + "\n")
	if m := s.want(`(?s)(.*)terminated\n\$ $`); strings.Contains(m[1], "interrupted") {
		t.Errorf("the interrupt of kill was passed on, and the documentation says that it is not: %q", m)
	}
	s.press("echo code=$?\n")
	s.want(`code=5\n\$ $`)

	s.press("irsa-sidecar exec -- sh -c 'echo ready; sleep 1000' | cat\n")
	s.want(`\nready\n`)
	s.press(quitKey)
	s.want(`\n\$ $`)
}

// children reports whether a program runs in the foreground that is not irsa-sidecar.
func children(t *testing.T, s *terminal) bool {
	t.Helper()
	var group int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, s.keys.Fd(), syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group))); errno != 0 {
		t.Fatal(errno)
	}
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		stat, _ := os.ReadFile(name)
		var pid, parent, of int
		var program, state string
		if n, _ := fmt.Sscan(string(stat), &pid, &program, &state, &parent, &of); n == 5 && of == int(group) && program == "(sleep)" {
			return true
		}
	}
	return false
}

func TestCtrlZ(t *testing.T) {
	t.Parallel()
	s := execTerminal(t)
	s.press(`irsa-sidecar exec -- bash -c 'echo ready; read line; echo line=$line; ` + askLine + ` | cut -c -12'` + "\n")
	s.want(`\nready\n`)
	s.press(suspendKey)
	s.want(`Stopped .*\n\$ $`)
	s.press("jobs\n")
	s.want(`Stopped .*\n\$ $`)
	s.press("fg\n")
	s.want(`fg\n.*\n`)
	s.press("hello\n")
	s.want(`line=hello\n\{"RoleArn":"\n\$ $`)

	// A program may do something before it stops, and ignore the key.
	s.press(`irsa-sidecar exec -- bash -c 'trap "echo resto""red; kill -STOP \$\$; echo ba""ck" TSTP; echo read""y; while read line; do echo line=$line; done'` + "\n")
	s.want(`\nready\n`)
	s.press(suspendKey)
	s.want(`restored\n`)
	s.want(`Stopped .*\n\$ $`)
	s.press("fg\n")
	s.want(`back\n`)
	s.press("hello\n")
	s.want(`line=hello\n`)
	s.press("\x04") // Ctrl-D
	s.want(`\$ $`)

	s.press(`irsa-sidecar exec -- bash -c 'trap "" TSTP; echo read""y; read line; echo line=$line'` + "\n")
	s.want(`\nready\n`)
	s.press(suspendKey)
	s.press("hello\n")
	s.want(`line=hello\n\$ $`)

	// In the background, it stops when it reads, and reads in the foreground.
	s.press(`irsa-sidecar exec -- bash -c 'read line; echo line=$line' &` + "\n")
	s.want(`\$ $`)
	world.Eventually(t, world.Soon, "a job that has stopped", func() bool {
		s.press("jobs\n")
		return strings.Contains(s.want(`(?s)jobs\n(.*)\$ $`)[1], "Stopped")
	})
	s.press("fg\n")
	s.want(`fg\n.*\n`)
	s.press("hello\n")
	s.want(`line=hello\n\$ $`)
}
