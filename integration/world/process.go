package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a program that runs until the end of the test at the latest.
type Process struct {
	Cmd   *exec.Cmd
	Log   string        // the file for its output
	Ended chan struct{} // closed when Err is set
	Err   error

	name string
}

// StartProgram starts a program with only env in its environment. Its output is shown if the test fails.
func StartProgram(t *testing.T, program string, env []string, args ...string) *Process {
	t.Helper()
	return StartProgramBy(t, (*exec.Cmd).Start, program, env, args...)
}

// StartProgramBy starts a program with a function, which may change the user.
func StartProgramBy(t *testing.T, start func(*exec.Cmd) error, program string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{
		name:  filepath.Base(program),
		Cmd:   exec.Command(program, args...),
		Log:   filepath.Join(t.TempDir(), "log"),
		Ended: make(chan struct{}),
	}
	log, err := os.Create(p.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.Cmd.Env, p.Cmd.Stdout, p.Cmd.Stderr = WithCoverage(env), log, log
	if err := start(p.Cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Err = p.Cmd.Wait()
		close(p.Ended)
	}()
	t.Cleanup(func() {
		p.Stop(t)
		output := p.Output(t)
		Leaks.Printed(p.name+" in "+t.Name(), output)
		if t.Failed() {
			t.Logf("%s printed:\n%s", p.name, output)
		}
	})
	return p
}

// Stop ends the program, by force if it does not react to SIGTERM, and returns how it ended.
func (p *Process) Stop(t *testing.T) error {
	p.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.Ended:
	case <-time.After(Soon):
		t.Errorf("%s still runs %s after SIGTERM", p.name, Soon)
		p.Cmd.Process.Kill()
		<-p.Ended
	}
	return p.Err
}

// WantRunning fails the test if the program has ended.
func (p *Process) WantRunning(t *testing.T) {
	t.Helper()
	select {
	case <-p.Ended:
		t.Fatalf("%s has ended: %v", p.name, p.Err)
	default:
	}
}

// Output returns what the program has printed so far.
func (p *Process) Output(t *testing.T) string {
	output, err := os.ReadFile(p.Log)
	if err != nil {
		t.Fatal(err)
	}
	return string(output)
}

// Result is the output and the exit code of a program.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// RunCommand runs a command of the sidecar to its end, with only env in its environment.
func RunCommand(t *testing.T, env []string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, Program(t), args...)
	return RunToEnd(t, cmd, env)
}

// RunToEnd runs any program to its end, with only env in its environment.
func RunToEnd(t *testing.T, cmd *exec.Cmd, env []string) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = WithCoverage(env), &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatalf("%s: %v", cmd, err)
	}
	r := Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if r.Code < 0 {
		t.Errorf("%s had to be killed after %s\n%s", cmd, Soon, r.Stderr)
	}
	by := strings.Join(cmd.Args[1:], " ") + " in " + t.Name()
	Leaks.Printed(by, r.Stderr)
	if !slices.Contains(cmd.Args, "credentials") { // which is there to print secrets
		Leaks.Printed(by, r.Stdout)
	}
	WantNoTrace(t, r.Stderr)
	return r
}

// WaitForLog waits for a line of the log, and returns it.
func (p *Process) WaitForLog(t *testing.T, message string) (line map[string]any) {
	t.Helper()
	Eventually(t, Soon, "the line "+message+" in the log", func() bool {
		select {
		case <-p.Ended:
			if line = FindLog(p.Output(t), message); line == nil {
				t.Fatalf("%s has ended (%v) without the line %q in its log", p.name, p.Err, message)
			}
		default:
			line = FindLog(p.Output(t), message)
		}
		return line != nil
	})
	return line
}

// FindLog returns the last line of a log with the message.
func FindLog(log, message string) (found map[string]any) {
	for text := range strings.Lines(log) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == message {
			found = line
		}
	}
	return found
}

// Terminate sends SIGTERM and does not wait.
func (p *Process) Terminate(t *testing.T) {
	t.Helper()
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// WantStopped waits until the sidecar has stopped, with exit code 0 and "stopped" as the last line of its log.
func (p *Process) WantStopped(t *testing.T) {
	t.Helper()
	select {
	case <-p.Ended:
	case <-time.After(Soon):
		t.Fatalf("%s still runs after %s", p.name, Soon)
	}
	if p.Err != nil {
		t.Errorf("%s ended with %v, want exit code 0", p.name, p.Err)
	}
	lines := strings.Split(strings.TrimSpace(p.Output(t)), "\n")
	if last := FindLog(lines[len(lines)-1], "stopped"); last == nil {
		t.Errorf(`the last line of the log is not "stopped" but %s`, lines[len(lines)-1])
	}
}

// Memory returns one of the kernel's figures for a process, in MiB; 0 without /proc.
func (p *Process) Memory(t *testing.T, figure string) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(figure + `:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatalf("no %s in:\n%s", figure, status)
	}
	kib, _ := strconv.Atoi(string(found[1]))
	return float64(kib) / 1024
}
