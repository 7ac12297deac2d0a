// Command irsa-sidecar serves AWS credentials to the programs of a Kubernetes Pod.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// version is set by the linker.
var version = "dev"

func main() {
	signal.Ignore(syscall.SIGPIPE) // a pipe that nobody reads is an error of the write, and does not end the program
	harden()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	stderr := &output{to: os.Stderr}
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "irsa-sidecar: %s\n", lastWords(err))
	}
	stderr.flush()
	stop() // not before: a second signal must not change the exit code
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

// maxLastWords is how much of an error is shown, in characters: it may quote arguments, or what other programs answer.
const maxLastWords = 2000

// lastWords is the text of an error for people: on one line, for it may quote anything, and without secrets, for a
// mistaken value may be one. Only the problems of a configuration take several lines.
func lastWords(err error) string {
	if usage, ok := errors.AsType[usageError](err); ok {
		if p, ok := errors.AsType[problems](usage.error); ok {
			return p.Error()
		}
	}
	return shown(err.Error(), maxLastWords)
}

func shown(text string, most int) string {
	return cache.Shorten(cache.Scrub(cache.OneLine(text)), most)
}

// usageError is a wrong command line or configuration: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
