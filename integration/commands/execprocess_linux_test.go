package commands

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// The program has the limits, the signals and the identity that it would have without exec.
func TestTheProgramsProcessIsAsItWouldBeWithoutExec(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	const prepare = `umask 027; ulimit -S -c 4096; ulimit -S -n 123; cd /usr; exec 3</dev/null; exec nice -n 3 `
	const show = `grep -E '^(Sig|Shd)[PBIC]' /proc/self/status; cat /proc/self/limits; umask; nice; pwd; ls -l /proc/self/fd | grep -c ' 3 ->'; ps -o pgid=,sid= -p $$`
	run := func(program string) string {
		cmd := exec.Command("sh", "-c", prepare+program+` sh -c "$SHOW"`)
		cmd.Env = execEnv(w, "SHOW="+show)
		output, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		return string(output)
	}
	if got, want := run(world.Program(t)+" exec --"), run("env"); got != want {
		t.Errorf("with exec:\n%s\nwithout:\n%s", got, want)
	}
}

// A process that is not dumpable belongs to root in /proc; the program's own user must be able to debug it.
func TestTheProgramCanBeDebugged(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		world.NotRun(t, "root", "it needs another user")
	}
	w := world.New(t, ststest.Options{})
	token := filepath.Join(filepath.Dir(world.Program(t)), "token-for-another-user") // its directory is for all users
	if err := os.WriteFile(token, world.ReadFile(t, w.Token.Path()), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(world.Program(t), "exec", "--", "stat", "-L", "-c", "%u", "/proc/self/environ")
	cmd.Env = execEnv(w, "AWS_WEB_IDENTITY_TOKEN_FILE="+token)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if output, err := cmd.CombinedOutput(); err != nil || string(output) != "65534\n" {
		t.Errorf("%v: %s", err, output)
	}
}

// listing is a program that prints the signals it gets, and ends at the third.
const listing = `for s in HUP INT QUIT TERM USR1 USR2 ALRM WINCH; do trap "echo $s; n=\$((n+1)); [ \$n -lt 3 ] || exit 7" $s; done; n=0; echo ready; while :; do sleep 0.05; done`

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	p := world.StartProgram(t, world.Program(t), execEnv(w), "exec", "--", "bash", "-c", strings.Replace(listing, "-lt 3", "-lt 9", 1))
	world.Eventually(t, world.Soon, "the program", func() bool { return strings.Contains(p.Output(t), "ready\n") })
	for _, s := range []struct {
		syscall.Signal
		name string
	}{
		{syscall.SIGHUP, "HUP"}, {syscall.SIGINT, "INT"}, {syscall.SIGQUIT, "QUIT"}, {syscall.SIGTERM, "TERM"}, {syscall.SIGUSR1, "USR1"},
		{syscall.SIGUSR2, "USR2"}, {syscall.SIGALRM, "ALRM"}, {syscall.SIGWINCH, "WINCH"}, {syscall.SIGTERM, "TERM"},
	} {
		before := len(p.Output(t))
		if err := p.Cmd.Process.Signal(s.Signal); err != nil {
			t.Fatal(err)
		}
		world.Eventually(t, world.Soon, s.name, func() bool {
			return strings.Contains(p.Output(t)[before:], "\n"+s.name+"\n") || p.Output(t)[before:] == s.name+"\n"
		})
	}
	<-p.Ended
	if code := p.Cmd.ProcessState.ExitCode(); code != 7 || strings.Count(p.Output(t), "\n") != 10 {
		t.Errorf("exit code %d:\n%s", code, p.Output(t))
	}
}

// Before there is a program, a signal ends the wait for credentials, unless it was ignored at the start, as under nohup.
func TestASignalEndsTheWaitForCredentials(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.AccessDenied)
	for _, row := range []struct {
		syscall.Signal
		ignored bool
	}{{syscall.SIGHUP, false}, {syscall.SIGINT, false}, {syscall.SIGQUIT, false}, {syscall.SIGTERM, false}, {syscall.SIGHUP, true}, {syscall.SIGINT, true}} {
		before, timeout := "", "1m"
		if row.ignored {
			before, timeout = fmt.Sprintf("trap '' %d; ", row.Signal), "3s"
		}
		p := world.StartProgram(t, "/bin/sh", execEnv(w), "-c", before+`exec "$0" "$@"`, world.Program(t), "exec", "--timeout", timeout, "--", "echo", "started")
		world.Eventually(t, world.Soon, "the first exchange", func() bool { return strings.Contains(p.Output(t), "AccessDenied") })
		if err := p.Cmd.Process.Signal(row.Signal); err != nil {
			t.Fatal(err)
		}
		<-p.Ended
		wanted := "irsa-sidecar: interrupted before there were credentials: "
		if row.ignored {
			wanted = "irsa-sidecar: no credentials after 3s: AccessDenied: "
		}
		status := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
		ended := status.Signaled() && status.Signal() == row.Signal || row.ignored && status.ExitStatus() == 1
		if last := world.LastLine(p.Output(t)); !ended || !strings.HasPrefix(last, wanted) {
			t.Errorf("%s, ignored: %t: %s, and the last line is %s, want %s", row.Signal, row.ignored, p.Cmd.ProcessState, last, wanted)
		}
	}
}

// Process 1 gets the children of others, and must wait for them. It cannot be ended by a signal of its own.
func TestProcessOneReapsZombies(t *testing.T) {
	if !world.InNamespaces(t, syscall.CLONE_NEWPID) {
		return
	}
	w := world.New(t, ststest.Options{})
	run := func(program string) (int, string) {
		cmd := exec.Command("sh", "-c", `mount -t proc proc /proc && exec "$0" exec -- bash -c "$1"`, world.Program(t), program)
		cmd.Env = execEnv(w)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
		output, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(output)
	}
	code, output := run(`for i in 1 2 3 4 5; do (sleep 0.1 & exec true); done; (sh -c 'exit 5' & ); sleep 0.5; ps -e -o stat=,comm= | grep -c ^Z; cat /proc/1/comm; exit 9`)
	if code != 9 || output != "0\nirsa-sidecar\n" {
		t.Errorf("exit code %d: %s", code, output)
	}
	if code, output := run(`kill -TERM $$`); code != 128+15 || output != "" {
		t.Errorf("exit code %d: %s", code, output)
	}
}

// Neither outlives the other.
func TestExecAndItsProgramEndTogether(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	pidFile := filepath.Join(t.TempDir(), "pid")
	p := world.StartProgram(t, world.Program(t), execEnv(w), "exec", "--", "sh", "-c", `echo $$ >"$0"; exec sleep 1000`, pidFile)
	pid := 0
	world.Eventually(t, world.Soon, "the program", func() bool {
		text, _ := os.ReadFile(pidFile)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	})
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Cmd.Process.Pid))
	environ, environErr := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	m := regexp.MustCompile(`AWS_CONTAINER_AUTHORIZATION_TOKEN=(\w+)`).FindStringSubmatch(string(environ))
	if err != nil || environErr != nil || m == nil || strings.Contains(string(command), m[1]) {
		t.Errorf("the command line is %q, and the environment %q: %v, %v", command, environ, err, environErr)
	}
	if err := p.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	world.Eventually(t, world.Soon, "the end of the program", func() bool { return syscall.Kill(pid, 0) != nil })

	socket := filepath.Join(t.TempDir(), "address")
	q := world.StartProgram(t, world.Program(t), execEnv(w), "exec", "--", "sh", "-c", `echo "$AWS_CONTAINER_CREDENTIALS_FULL_URI" >"$0"`, socket)
	<-q.Ended
	uri, err := os.ReadFile(socket)
	if err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("curl", "-s", strings.TrimSpace(string(uri))).CombinedOutput(); err == nil {
		t.Errorf("it still answers: %s", output)
	}
}

// A program that runs longer than a session gets one after the other.
func TestCredentialsStayFreshWhileTheProgramRuns(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Lifetime: 4 * time.Second})
	reader, writer := io.Pipe()
	cmd := exec.Command(world.Program(t), "exec", "--", "sh", "-c", `while :; do `+askLine+` | grep -o '"AccessKeyId":"[A-Z0-9]*"'; sleep 0.2; done`)
	cmd.Env, cmd.Stdout = execEnv(w), writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	deadline := time.AfterFunc(world.Soon, func() { reader.Close() })
	for buffer := make([]byte, 4096); len(seen) < 3; {
		n, err := reader.Read(buffer)
		if err != nil {
			break
		}
		seen[strings.TrimSpace(string(buffer[:n]))] = true
	}
	deadline.Stop()
	go io.Copy(io.Discard, reader)
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); len(seen) < 3 || status.Signal() != syscall.SIGTERM {
		t.Errorf("%d sessions; %s", len(seen), cmd.ProcessState)
	}
}
