package story

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// asInit starts a program as the first process of a PID namespace, as in most containers.
func asInit(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	return cmd.Start()
}

// everyWay runs a test with a sidecar that is an ordinary process, and with one that is PID 1.
func everyWay(t *testing.T, f func(t *testing.T, start func(*exec.Cmd) error)) {
	t.Helper()
	t.Run("a process", func(t *testing.T) { f(t, (*exec.Cmd).Start) })
	t.Run("PID 1", func(t *testing.T) {
		probe := exec.Command("true")
		if err := asInit(probe); err != nil {
			t.Skipf("this machine lets us make no PID namespaces: %v", err)
		}
		probe.Wait()
		f(t, asInit)
	})
}

// A stuck log driver does not affect credentials: neither in a refresh, nor in a request that is logged, nor in the shutdown.
func TestALogThatNobodyReadsStopsNothing(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := world.New(t, ststest.Options{Lifetime: 4 * time.Second})
		var driver world.LogPipe
		w.Start = driver.Between(start)
		s := w.Serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
		s.AskUntilValid(t)
		driver.Stopped.Lock()
		defer driver.Stopped.Unlock()
		before := len(w.STS.Issued())
		for begun := time.Now(); time.Since(begun) < 6*time.Second; { // longer than a session
			if a := s.Ask(t, "User-Agent", strings.Repeat("talkative ", 100)); !a.Valid() {
				t.Fatalf("%s after the log was stuck: %d %s", time.Since(begun), a.Status, a.Code)
			}
		}
		if n := len(w.STS.Issued()); n == before {
			t.Error("no session was issued meanwhile")
		}
		if status, body := s.OpsPage(t, "/livez"); status != http.StatusOK {
			t.Errorf("/livez: %d %s", status, body)
		}
		_, metrics := s.OpsPage(t, "/metrics")
		dropped := 0
		if _, after, found := strings.Cut(metrics, "\nirsa_sidecar_log_lines_dropped_total "); found {
			fmt.Sscan(after, &dropped)
		}
		if dropped == 0 {
			t.Error("no line was dropped: the log was not stuck")
		}
		s.Terminate(t)
		select {
		case <-s.Ended:
		case <-time.After(3 * time.Second):
			t.Fatal("it does not end 3s after SIGTERM")
		}
		if s.Err != nil {
			t.Errorf("it ended with %v", s.Err)
		}
	})
}

func TestALogThatIsReadAgainSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	var driver world.LogPipe
	w.Start = driver.Between((*exec.Cmd).Start)
	s := w.Serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
	s.AskUntilValid(t)
	const asked = 500
	func() {
		driver.Stopped.Lock()
		defer driver.Stopped.Unlock()
		for range asked {
			s.Ask(t, "User-Agent", strings.Repeat("talkative ", 100))
		}
	}()
	line := s.WaitForLog(t, "log lines were dropped, because stderr could not be written")
	requests := 0
	for text := range strings.Lines(s.Output(t)) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) != nil {
			t.Fatalf("a line that is not whole: %q", text)
		}
		if agent, _ := line["user_agent"].(string); strings.HasPrefix(agent, "talkative") {
			requests++
		}
	}
	if lines := int(line["lines"].(float64)); lines == 0 || requests+lines != asked {
		t.Errorf("%d lines of %d are there, and %d are reported as dropped", requests, asked, lines)
	}
}

func TestAClosedStderrEndsNothing(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := world.New(t, ststest.Options{Lifetime: 4 * time.Second})
		var driver world.LogPipe
		w.Start = driver.Between(start)
		s := w.Serve(t)
		first := s.AskUntilValid(t)
		driver.Reader.Close()
		world.Eventually(t, world.Soon, "a line that nobody takes, and a session after it", func() bool {
			_, metrics := s.OpsPage(t, "/metrics")
			return !strings.Contains(metrics, "\nirsa_sidecar_log_lines_dropped_total 0\n") && s.Ask(t).AccessKeyID != first.AccessKeyID
		})
		s.Terminate(t)
		<-s.Ended
		if s.Err != nil {
			t.Errorf("it ended with %v", s.Err)
		}
	})
}

// SIGHUP, like the command reload, causes an exchange, at most once a second, and stops nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := world.New(t, ststest.Options{})
		w.Start = start
		s := w.Serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=2s")
		s.AskUntilValid(t)
		for n, ask := range []func(){
			func() { s.Cmd.Process.Signal(syscall.SIGHUP) },
			func() {
				if r := world.RunCommand(t, s.CommandEnv(), "reload"); r != (world.Result{}) {
					t.Errorf("reload: exit code %d and not in silence: %s%s", r.Code, r.Stdout, r.Stderr)
				}
			},
		} {
			ask()
			world.Eventually(t, world.Soon, "another session", func() bool { return len(w.STS.Issued()) == n+2 })
			newest := w.STS.Issued()[n+1].AccessKeyID
			world.Eventually(t, world.Soon, "the new session served", func() bool { return s.Ask(t).AccessKeyID == newest })
		}
		calls, begun := w.STS.Calls(), time.Now()
		for time.Since(begun) < 3*time.Second {
			s.Cmd.Process.Signal(syscall.SIGHUP)
			if a := s.Ask(t); !a.Valid() {
				t.Fatalf("during a storm of signals: %d %s", a.Status, a.Code)
			}
		}
		if n := w.STS.Calls() - calls; n < 2 || n > int(time.Since(begun).Seconds())+1 {
			t.Errorf("a storm of signals for %s made %d calls to STS", time.Since(begun), n)
		}
		if n := strings.Count(s.Output(t), `"msg":"reloading"`); n > int(time.Since(begun).Seconds())+4 {
			t.Errorf("it has read its files %d times", n)
		}
		// It does not cut the shutdown short either.
		s.Terminate(t)
		begun = time.Now()
		s.WaitForLog(t, "shutting down")
		s.Cmd.Process.Signal(syscall.SIGHUP)
		s.WantStopped(t)
		if took := time.Since(begun); took < 2*time.Second {
			t.Errorf("with a delay of 2s it ended after %s", took)
		}
	})
}

// A token that has been replaced opens for another hour, until a reload revokes it; without the file, a new one is made.
func TestReloadRevokesReplacedAuthorizationTokens(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	file := t.TempDir() + "/token"
	write := func(token string) {
		t.Helper()
		world.Leaks.Secret("an authorization token", token)
		if err := os.WriteFile(file+".new", []byte(token), 0o440); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	const first, second = "the-first-authorization-token", "the-second-authorization-token"
	write(first)
	stood := time.Now().Add(-time.Minute)
	if err := os.Chtimes(file, stood, stood); err != nil {
		t.Fatal(err)
	}
	s := w.Serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+file)
	world.Eventually(t, world.Soon, "credentials", func() bool { return s.Ask(t, "Authorization", first).Valid() })
	opens := func(token string) bool { return s.Ask(t, "Authorization", token).Valid() }
	reload := func() {
		t.Helper()
		if r := world.RunCommand(t, s.CommandEnv(), "reload"); r != (world.Result{}) {
			t.Fatalf("reload: exit code %d: %s", r.Code, r.Stderr)
		}
	}
	write(second)
	if !opens(second) || !opens(first) {
		t.Fatal("the new token does not open, or the old one not any more")
	}
	reload()
	world.Eventually(t, world.Soon, "the end of the old token", func() bool { return !opens(first) })
	if !opens(second) {
		t.Error("the new token does not open any more")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reload()
	world.Eventually(t, world.Soon, "the end of a token whose file is gone", func() bool { return !opens(second) })
	if made := string(world.ReadFile(t, file)); !opens(made) {
		t.Error("the token that was made does not open")
	}
}

// A command whose stderr has no reader does what it is for; a credential_process is one.
func TestAClosedStderrCostsACommandNothingElse(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	for command, code := range map[string]int{"credentials": 0, "healthcheck": 1, "healthcheck nothing": 2} {
		r, broken, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd := exec.Command(world.Program(t), strings.Fields(command)...)
		cmd.Env = world.WithCoverage(w.EnvWith("AWS_STS_REGIONAL_ENDPOINTS=legacy", "IRSA_SIDECAR_OPS_LISTEN="+world.RefusingAddress(t))) // the sidecar warns about it
		cmd.Stderr = broken
		stdout, err := cmd.Output()
		broken.Close()
		if cmd.ProcessState.ExitCode() != code {
			t.Errorf("%s: %v, want exit code %d", command, err, code)
		}
		if code == 0 && !strings.Contains(string(stdout), "AccessKeyId") {
			t.Errorf("%s printed %d bytes, and no credentials", command, len(stdout))
		}
	}
}

// However many signals it gets, and whether or not its last lines are read, the exit code is 0.
func TestManySignalsEndItAsOneDoes(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := world.New(t, ststest.Options{})
		var driver world.LogPipe
		w.Start = driver.Between(start)
		s := w.Serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
		s.AskUntilValid(t)
		driver.Stopped.Lock()
		defer driver.Stopped.Unlock()
		for range 300 { // more than the pipe holds
			s.Ask(t, "User-Agent", strings.Repeat("talkative ", 100))
		}
		// Without a pause, so that one arrives at the very end.
		for ended, late := false, time.After(world.Soon); !ended; {
			s.Cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-s.Ended:
				ended = true
			case <-late:
				t.Fatal("it does not end")
			default:
			}
		}
		if s.Err != nil {
			t.Errorf("it ended with %v", s.Err)
		}
	})
}
