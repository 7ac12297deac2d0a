// Command kubectl-irsa is `kubectl irsa`: from a laptop, it finds out why a Pod has no AWS credentials, and what to change.
//
// It is a separate program, so that what only operators need is not in every Pod. It runs the kubectl of the user, and through
// it the doctor in the sidecar; the token never leaves the Pod.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// version is set by the linker, but not by go install.
var version = "dev"

// versionOf is what the linker has set, or the version of the module that was built.
func versionOf(linked string, info *debug.BuildInfo) string {
	if linked == "dev" && info != nil && strings.HasPrefix(info.Main.Version, "v") {
		return info.Main.Version
	}
	return linked
}

// limit bounds all of it. Each step has a shorter limit of its own.
const limit = time.Minute

// surroundings are what the program reads from, writes to, and runs.
type surroundings struct {
	stdin    io.Reader
	stdout   io.Writer
	progress io.Writer // a line for each step; nil if nobody watches
	run      runner
}

func main() {
	info, _ := debug.ReadBuildInfo()
	version = versionOf(version, info)
	signal.Ignore(syscall.SIGPIPE)                                                      // a pipe that nobody reads is an error of the write
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt) // for good: later signals must not change the exit code
	around := surroundings{stdin: os.Stdin, stdout: os.Stdout, run: execute}
	if doctor.IsTerminal(os.Stderr) {
		around.progress = os.Stderr
	}
	err := run(ctx, os.Args[1:], around)
	if err != nil {
		fmt.Fprintf(os.Stderr, "kubectl irsa: %s\n", shown(err.Error()))
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	if err != nil {
		return 1
	}
	return 0
}

// usageError is a wrong command line: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// maxLine is how much of a text of others is shown, in characters.
const maxLine = 1000

// shown is a text on one line without secrets: it may quote an argument, a name in a manifest, or another program.
func shown(text string) string {
	return redact.Shorten(redact.Scrub(redact.OneLine(text)), maxLine)
}

func run(ctx context.Context, args []string, around surroundings) error {
	q, err := parse(args)
	if err != nil {
		return err
	}
	switch q.command {
	case "help":
		_, err = io.WriteString(around.stdout, help)
		return err
	case "version":
		_, err = fmt.Fprintf(around.stdout, "kubectl-irsa %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s", limit))
	defer cancel()
	return runDoctor(ctx, q, around)
}
