package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// runner runs a program, and returns what it prints on stdout, also if it fails. A nil stdin is empty. What the program
// says on stderr is in the error, which is a *runError; it has not been shortened, and may contain a secret.
type runner func(ctx context.Context, stdin io.Reader, program string, args ...string) (stdout []byte, err error)

// runError is why a program failed.
type runError struct {
	program string
	stderr  string
	err     error // of exec, or of the context
}

func (e *runError) Unwrap() error { return e.err }

// Error is the program's own last words: what it logs before them says the same many times.
func (e *runError) Error() string {
	switch {
	case errors.Is(e.err, exec.ErrNotFound):
		return fmt.Sprintf("%s is not on the PATH", e.program)
	case errors.Is(e.err, context.Canceled):
		return "interrupted while " + e.program + " ran"
	case errors.Is(e.err, context.DeadlineExceeded):
		return strings.TrimSuffix(fmt.Sprintf("%s did not end in time: %s", e.program, e.words()), ": ")
	}
	return cmp.Or(e.words(), fmt.Sprintf("%s: %v", e.program, e.err))
}

// logLine is a line of a log of Kubernetes' libraries: a letter, the month and the day.
func logLine() *regexp.Regexp { return regexp.MustCompile(`^[EWIF]\d{4} \d\d:`) }

// words are the lines of stderr that are not of a log, on one line.
func (e *runError) words() string {
	logged := logLine()
	var words []string
	for line := range strings.Lines(e.stderr) {
		if line = strings.TrimSpace(line); line != "" && !logged.MatchString(line) {
			words = append(words, line)
		}
	}
	return strings.Join(words, " ")
}

// maxOutput bounds what a program may print, in bytes: the webhooks of a cluster, with a certificate each, are some 100 KB.
const maxOutput = 32 << 20

// execute is the runner of real programs. When ctx ends, the program is asked to end, and killed two seconds later.
func execute(ctx context.Context, stdin io.Reader, program string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, &runError{program: program, err: exec.ErrNotFound}
	}
	var stdout, stderr limited
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(os.Interrupt); err != nil { // not on Windows
			return cmd.Process.Kill()
		}
		return nil
	}
	cmd.WaitDelay = 2 * time.Second
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case stdout.full:
		err = fmt.Errorf("it printed more than %d MB", maxOutput>>20)
	}
	if err != nil {
		return stdout.Bytes(), &runError{program: program, stderr: stderr.String(), err: err}
	}
	return stdout.Bytes(), nil
}

// limited is a buffer for the first maxOutput bytes.
type limited struct {
	bytes.Buffer
	full bool
}

func (l *limited) Write(b []byte) (int, error) {
	if rest := maxOutput - l.Len(); len(b) > rest {
		l.full = true
		l.Buffer.Write(b[:rest])
		return len(b), nil
	}
	return l.Buffer.Write(b)
}
