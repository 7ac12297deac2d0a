//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// Whether SIGINT and SIGHUP were ignored when this process started, as in the background of a script and under nohup. What is
// ignored stays ignored in the program.
var interruptIgnored, hangupIgnored = signal.Ignored(syscall.SIGINT), signal.Ignored(syscall.SIGHUP)

// catchSignals returns the signals that the program is to get. From now on they do not end this process.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 100)
	// An image may name any as its STOPSIGNAL. SIGURG is the Go runtime's own.
	signal.Notify(signals, append(realTimeSignals(),
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH)...)
	if interruptIgnored {
		signal.Ignore(syscall.SIGINT)
	}
	if hangupIgnored {
		signal.Ignore(syscall.SIGHUP)
	}
	// Unlike an ignored one, a signal that is caught has its default action in the program.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return signals
}

// endingSignals are those that end the wait for credentials, besides those that end every command.
func endingSignals() []os.Signal {
	if hangupIgnored {
		return []os.Signal{syscall.SIGQUIT}
	}
	return []os.Signal{syscall.SIGQUIT, syscall.SIGHUP}
}

// findProgram returns the path of a program, which it looks for as execvp(3) does.
func findProgram(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, notExecutable(name)
	}
	if path == "" {
		path = "/bin:/usr/bin"
	}
	var found error
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		candidate := dir + "/" + name
		err := notExecutable(candidate)
		if err == nil {
			return candidate, nil
		}
		if e, ok := errors.AsType[exit](err); ok && e.code == codeNotRun && found == nil {
			found = err
		}
	}
	if found != nil {
		return "", found
	}
	return "", exit{fmt.Errorf("exec: %q is in none of the directories in PATH; check the spelling, or give its path", name), codeNotFound, 0}
}

// notExecutable returns why the file at path cannot be run, or nil.
func notExecutable(path string) error {
	const executable = 1 // X_OK
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return exit{fmt.Errorf("exec: %q does not exist", path), codeNotFound, 0}
	case err != nil:
		return exit{fmt.Errorf("exec: %q: %w", path, errors.Unwrap(err)), codeNotRun, 0}
	case info.IsDir():
		return exit{fmt.Errorf("exec: %q is a directory; give the path of a program", path), codeNotRun, 0}
	case syscall.Access(path, executable) != nil:
		return exit{fmt.Errorf("exec: %q is not executable for this user; run chmod +x", path), codeNotRun, 0}
	}
	return nil
}

// A program is the child process that exec is for.
type program struct {
	pid     int
	changes chan syscall.WaitStatus // of its state: it has stopped or ended
	stopped bool
}

// startProgram starts a program, and waits for all children of this process from then on: as process 1 it gets those of others.
func startProgram(path string, line, env []string) (*program, error) {
	p := &program{changes: make(chan syscall.WaitStatus)}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the parent-death signal is sent when this thread ends
		var err error
		withFoundLimits(func() {
			p.pid, err = syscall.ForkExec(path, line, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: programAttributes()})
		})
		started <- err
		if err == nil {
			p.watch()
		}
	}()
	return p, <-started
}

// watch reports what becomes of the program, until it has ended.
func (p *program) watch() {
	for {
		var status syscall.WaitStatus
		switch pid, err := syscall.Wait4(-1, &status, syscall.WUNTRACED, nil); {
		case err == nil && pid == p.pid:
			p.changes <- status
			if !status.Stopped() {
				return
			}
		case err != nil && err != syscall.EINTR:
			panic(err) // it is a child until this loop has its end
		}
	}
}

// runProgram runs a program to its end.
func (c *sidecar) runProgram(path string, line, env []string, signals <-chan os.Signal) error {
	continued := make(chan os.Signal, 10)
	signal.Notify(continued, syscall.SIGCONT)
	// This process stops if its program does, and only then. What is caught is not inherited as ignored; to be caught for longer
	// would make it write to the terminal again and again if that asks programs in the background to stop.
	stops := []os.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU}
	signal.Notify(make(chan os.Signal, 1), stops...)
	p, err := startProgram(path, line, env)
	if err != nil {
		return notStarted(path, err)
	}
	signal.Ignore(stops...)
	quit := c.quit
	for {
		select {
		case status := <-p.changes:
			switch {
			case status.Stopped():
				p.stopped = true
				stopToo()
				continue
			case status.Signaled():
				return killed(status.Signal(), nil)
			case status.ExitStatus() != 0:
				return exit{code: status.ExitStatus()}
			}
			return nil
		case s := <-signals:
			c.pass(p, s.(syscall.Signal))
		case <-continued:
			if p.stopped {
				p.stopped = false
				c.send(p, syscall.SIGCONT)
			}
		case err := <-c.failures:
			c.logger.Error("a listener failed; ending the program", "error", err)
			c.send(p, syscall.SIGTERM)
		case <-quit:
			quit = nil
			c.send(p, syscall.SIGTERM)
		}
	}
}

// pass passes a signal on. The program is in the same process group: what the terminal sends, it has got already.
func (c *sidecar) pass(p *program, s syscall.Signal) {
	switch s {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
		if inForeground() {
			return
		}
	}
	c.send(p, s)
}

func (c *sidecar) send(p *program, s syscall.Signal) {
	if err := syscall.Kill(p.pid, s); err != nil && err != syscall.ESRCH {
		c.logger.Warn("cannot pass a signal on to the program", "signal", s.String(), "error", err)
	}
}

// stopToo stops this process because its program has stopped, so that a shell takes the terminal back. It goes on when the
// shell continues its job. Without a terminal there is no such shell.
func stopToo() {
	if _, ok := foregroundGroup(); ok {
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
}

// inForeground reports whether a terminal sends signals from its keyboard to the process group of this process.
func inForeground() bool {
	group, ok := foregroundGroup()
	return ok && group == syscall.Getpgrp()
}

// foregroundGroup returns the process group in the foreground of this process's controlling terminal, if there is one.
func foregroundGroup() (group int, ok bool) {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return 0, false
	}
	defer tty.Close()
	var found int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, tty.Fd(), syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&found)))
	return int(found), errno == 0
}

// notStarted says why the kernel does not run a program that exists.
func notStarted(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		err = fmt.Errorf("exec: %q is neither a program for this machine (%s/%s) nor a script whose first line names its interpreter, such as #!/bin/sh", path, runtime.GOOS, runtime.GOARCH)
	case errors.Is(err, syscall.ENOENT):
		err = fmt.Errorf("exec: %q cannot be run, because its interpreter or dynamic linker does not exist; check its first line, or build it for this image", path)
	default:
		err = fmt.Errorf("exec: cannot run %q: %w", path, err)
	}
	return exit{err, codeNotRun, 0}
}
