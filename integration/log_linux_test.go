package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// logPipe is a log driver: the far end of a sidecar's stderr, which may stop reading, or go.
type logPipe struct {
	stopped sync.Mutex // held, nothing is read
	r       *os.File
}

// between returns a function that starts a program with the pipe in the place of its log, where what is read goes.
func (p *logPipe) between(start func(*exec.Cmd) error) func(*exec.Cmd) error {
	return func(cmd *exec.Cmd) error {
		log, err := os.OpenFile(cmd.Stderr.(*os.File).Name(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer w.Close()
		p.r, cmd.Stderr = r, w
		if err := start(cmd); err != nil {
			return err
		}
		go func() {
			defer log.Close()
			buffer := make([]byte, 4<<10)
			for {
				n, err := r.Read(buffer)
				p.stopped.Lock()
				log.Write(buffer[:n])
				p.stopped.Unlock()
				if err != nil { // its end, or ours
					return
				}
			}
		}()
		return nil
	}
}

// asInit starts a program as the first process of a PID namespace, as most containers do.
func asInit(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	return cmd.Start()
}

// everyWay runs a test with a sidecar that is a process like others, and with one that is PID 1.
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

// A log driver that is stuck takes no credentials away: not by the refresh, not by a request that is logged, not by
// the end.
func TestALogThatNobodyReadsStopsNothing(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := newWorld(t, ststest.Options{Lifetime: 4 * time.Second})
		var driver logPipe
		w.start = driver.between(start)
		s := w.serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
		s.untilValid(t)
		driver.stopped.Lock()
		defer driver.stopped.Unlock()
		before := len(w.sts.Issued())
		for begun := time.Now(); time.Since(begun) < 6*time.Second; { // longer than a session
			if a := s.ask(t, "User-Agent", strings.Repeat("talkative ", 100)); !a.valid() {
				t.Fatalf("%s after the log was stuck: %d %s", time.Since(begun), a.status, a.Code)
			}
		}
		if n := len(w.sts.Issued()); n == before {
			t.Error("no session was issued meanwhile")
		}
		if status, body := s.health(t, "/livez"); status != http.StatusOK {
			t.Errorf("/livez: %d %s", status, body)
		}
		_, metrics := s.health(t, "/metrics")
		dropped := 0
		if _, after, found := strings.Cut(metrics, "\nirsa_sidecar_log_lines_dropped_total "); found {
			fmt.Sscan(after, &dropped)
		}
		if dropped == 0 {
			t.Error("no line was dropped: the log was not stuck")
		}
		s.terminate(t)
		select {
		case <-s.ended:
		case <-time.After(3 * time.Second):
			t.Fatal("it does not end 3s after SIGTERM")
		}
		if s.err != nil {
			t.Errorf("it ended with %v", s.err)
		}
	})
}

func TestALogThatIsReadAgainSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	var driver logPipe
	w.start = driver.between((*exec.Cmd).Start)
	s := w.serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
	s.untilValid(t)
	const asked = 500
	func() {
		driver.stopped.Lock()
		defer driver.stopped.Unlock()
		for range asked {
			s.ask(t, "User-Agent", strings.Repeat("talkative ", 100))
		}
	}()
	line := s.waitForLine(t, "log lines were dropped, because stderr could not be written")
	requests := 0
	for text := range strings.Lines(s.output(t)) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) != nil {
			t.Fatalf("a line that is not whole: %q", text)
		}
		if agent, _ := line["user_agent"].(string); strings.HasPrefix(agent, "talkative") {
			requests++
		}
	}
	if lines := int(line["lines"].(float64)); lines == 0 || requests+lines != asked {
		t.Errorf("%d lines of %d are there, and %d are said to be dropped", requests, asked, lines)
	}
}

func TestAClosedStderrEndsNothing(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := newWorld(t, ststest.Options{Lifetime: 4 * time.Second})
		var driver logPipe
		w.start = driver.between(start)
		s := w.serve(t)
		first := s.untilValid(t)
		driver.r.Close()
		eventually(t, soon, "a line that nobody takes, and a session after it", func() bool {
			_, metrics := s.health(t, "/metrics")
			return !strings.Contains(metrics, "\nirsa_sidecar_log_lines_dropped_total 0\n") && s.ask(t).AccessKeyID != first.AccessKeyID
		})
		s.terminate(t)
		<-s.ended
		if s.err != nil {
			t.Errorf("it ended with %v", s.err)
		}
	})
}

// SIGHUP asks for an exchange, at most once a second, and ends nothing; the command does the same.
func TestReload(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := newWorld(t, ststest.Options{})
		w.start = start
		s := w.serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=2s")
		s.untilValid(t)
		for n, ask := range []func(){
			func() { s.cmd.Process.Signal(syscall.SIGHUP) },
			func() {
				if r := run(t, s.beside(), "reload"); r != (result{}) {
					t.Errorf("reload: exit code %d and not in silence: %s%s", r.code, r.stdout, r.stderr)
				}
			},
		} {
			ask()
			eventually(t, soon, "another session", func() bool { return len(w.sts.Issued()) == n+2 })
			newest := w.sts.Issued()[n+1].AccessKeyID
			eventually(t, soon, "the new session served", func() bool { return s.ask(t).AccessKeyID == newest })
		}
		calls, begun := w.sts.Calls(), time.Now()
		for time.Since(begun) < 3*time.Second {
			s.cmd.Process.Signal(syscall.SIGHUP)
			if a := s.ask(t); !a.valid() {
				t.Fatalf("during a storm of signals: %d %s", a.status, a.Code)
			}
		}
		if n := w.sts.Calls() - calls; n < 2 || n > int(time.Since(begun).Seconds())+1 {
			t.Errorf("a storm of signals for %s made %d calls to STS", time.Since(begun), n)
		}
		if n := strings.Count(s.output(t), `"msg":"reloading"`); n > int(time.Since(begun).Seconds())+4 {
			t.Errorf("it has read its files %d times", n)
		}
		// While it ends, neither is it cut short.
		s.terminate(t)
		begun = time.Now()
		s.waitForLine(t, "shutting down")
		s.cmd.Process.Signal(syscall.SIGHUP)
		s.wantEnd(t)
		if took := time.Since(begun); took < 2*time.Second {
			t.Errorf("with a delay of 2s it ended after %s", took)
		}
	})
}

// What files hold of the configuration is read again; what cannot be used changes nothing, and the log says why.
func TestReloadReadsFilesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	policy := t.TempDir() + "/policy.json"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"Version": "2012-10-17", "Statement": ["first"]}`)
	s := w.serve(t, "IRSA_SIDECAR_POLICY_FILE="+policy)
	s.untilValid(t)
	policies := func() (all []string) {
		for _, session := range w.sts.Issued() {
			all = append(all, session.Policy)
		}
		return all
	}
	reload := func(sessions int) {
		t.Helper()
		if r := run(t, s.beside(), "reload"); r != (result{}) {
			t.Fatalf("reload: exit code %d: %s", r.code, r.stderr)
		}
		eventually(t, soon, "another session", func() bool { return len(policies()) == sessions })
	}
	write(`{"Version": "2012-10-17", "Statement": ["second"]}`)
	reload(2)
	write(`not JSON`)
	reload(3)
	line := s.waitForLine(t, "cannot reload the configuration files; keeping the previous values")
	want(t, "the log", line["error"].(string), "IRSA_SIDECAR_POLICY_FILE", "is not a policy in JSON")
	for n, word := range []string{"first", "second", "second"} {
		if all := policies(); !strings.Contains(all[n], word) {
			t.Errorf("session %d has the policy %q, want %q", n+1, all[n], word)
		}
	}
}

// A token that has been replaced opens for another hour, until a reload revokes it; without the file, a new one is made.
func TestReloadRevokesReplacedAuthorizationTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	file := t.TempDir() + "/token"
	write := func(token string) {
		t.Helper()
		printed.secret("an authorization token", token)
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
	s := w.serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+file)
	eventually(t, soon, "credentials", func() bool { return s.ask(t, "Authorization", first).valid() })
	opens := func(token string) bool { return s.ask(t, "Authorization", token).valid() }
	reload := func() {
		t.Helper()
		if r := run(t, s.beside(), "reload"); r != (result{}) {
			t.Fatalf("reload: exit code %d: %s", r.code, r.stderr)
		}
	}
	write(second)
	if !opens(second) || !opens(first) {
		t.Fatal("the new token does not open, or the old one not any more")
	}
	reload()
	eventually(t, soon, "the end of the old token", func() bool { return !opens(first) })
	if !opens(second) {
		t.Error("the new token does not open any more")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reload()
	eventually(t, soon, "the end of a token whose file is gone", func() bool { return !opens(second) })
	if made := string(read(t, file)); !opens(made) {
		t.Error("the token that was made does not open")
	}
}

// A command whose stderr has no reader does what it is for; a credential_process is one.
func TestAClosedStderrCostsACommandNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	for command, code := range map[string]int{"credentials": 0, "healthcheck": 1, "healthcheck nothing": 2} {
		r, broken, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd := exec.Command(program(t), strings.Fields(command)...)
		cmd.Env = counted(w.with("AWS_STS_REGIONAL_ENDPOINTS=legacy", "IRSA_SIDECAR_OPS_LISTEN="+refusingAddress(t))) // which is warned of
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

// However often it is told, and whether its last words are read or not, it ends with 0.
func TestManySignalsEndItAsOneDoes(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, start func(*exec.Cmd) error) {
		w := newWorld(t, ststest.Options{})
		var driver logPipe
		w.start = driver.between(start)
		s := w.serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
		s.untilValid(t)
		driver.stopped.Lock()
		defer driver.stopped.Unlock()
		for range 300 { // more than the pipe holds
			s.ask(t, "User-Agent", strings.Repeat("talkative ", 100))
		}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ended, late := false, time.After(soon); !ended; {
			s.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-s.ended:
				ended = true
			case <-late:
				t.Fatal("it does not end")
			case <-tick.C:
			}
		}
		if s.err != nil {
			t.Errorf("it ended with %v", s.err)
		}
	})
}
