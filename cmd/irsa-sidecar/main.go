// Command irsa-sidecar serves AWS credentials to the programs of a Kubernetes Pod.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// version is set by the linker.
var version = "dev"

func main() {
	signal.Ignore(syscall.SIGPIPE) // a pipe that nobody reads is an error of the write, and does not end the program
	name, _ := split(os.Args[1:])
	harden(name == execCommand().name)
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt) // for good: later signals must not change the exit code
	stderr := &output{to: os.Stderr}
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, stderr)
	ended, isExit := errors.AsType[exit](err)
	if err != nil && (!isExit || ended.error != nil) {
		text := "irsa-sidecar: " + errorText(err) + "\n"
		stderr.Write([]byte(text))
		if endsContainer(os.Args[1:]) {
			leaveMessage(terminationLog, text)
		}
	}
	stderr.flush()
	if isExit {
		endBy(ended.by)
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	if e, ok := errors.AsType[exit](err); ok {
		return e.code
	}
	if err != nil {
		return 1
	}
	return 0
}

// terminationLog is the file where Kubernetes reads why a container has ended, for kubectl describe pod. If it is longer than
// maxTerminationMessage bytes, only the end is shown.
// https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
const (
	terminationLog        = "/dev/termination-log"
	maxTerminationMessage = 4096
)

// endsContainer reports whether a failure of this command line ends the container: it does for process 1, and for commands
// that are the container's main program, perhaps in a shell. Other commands run in a container that continues.
func endsContainer(args []string) bool {
	name, _ := split(args)
	return os.Getpid() == 1 || slices.Contains([]string{"serve", "exec", "wait", "install", "claim-addresses"}, name)
}

// leaveMessage replaces the content of the file at path, if it exists and may be written. It does not wait for a slow disk.
func leaveMessage(path, text string) {
	if len(text) > maxTerminationMessage {
		text = strings.ToValidUTF8(text[:maxTerminationMessage], "")
	}
	within(flushWait, func() {
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0) // a named pipe would wait for a reader
		if err != nil {
			return
		}
		defer f.Close()
		if f.Truncate(0) == nil { // works only for a regular file
			f.WriteString(text)
		}
	})
}

// maxErrorText is how much of an error is shown, in characters: it may quote arguments, or what other programs answer.
const maxErrorText = 2000

// errorText is the text of an error for people: on one line, for it may quote anything, and without secrets, for a
// mistaken value may be one. Only the problems of a configuration take several lines.
func errorText(err error) string {
	if usage, ok := errors.AsType[usageError](err); ok {
		if p, ok := errors.AsType[problems](usage.error); ok {
			return p.Error()
		}
	}
	return shown(withoutSecrets(err.Error()), maxErrorText)
}

// withoutSecrets masks the values of the secretVariables: one may have been given as an argument, or to another variable.
func withoutSecrets(text string) string {
	for _, name := range secretVariables {
		text = mask(text, os.Getenv(name), "[the value of "+name+"]")
	}
	return text
}

// mask replaces a secret in text, also where quoting has escaped it. What is too short for a secret stays.
func mask(text, secret, by string) string {
	if len(secret) < server.MinAuthorization {
		return text
	}
	quoted := strconv.Quote(secret)
	text = strings.ReplaceAll(text, secret, by)
	return strings.ReplaceAll(text, quoted[1:len(quoted)-1], by)
}

// secretVariables hold what no error quotes. Their values need not look like secrets.
var secretVariables = []string{appToken, "IRSA_SIDECAR_AUTHORIZATION_TOKEN", secretVariable, sessionVariable}

func shown(text string, most int) string {
	return redact.Shorten(redact.Scrub(redact.OneLine(text)), most)
}

// usageError is a wrong command line or configuration: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
