package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// waitReport is how often wait prints what is missing.
const waitReport = 5 * time.Second

// pause is how long wait pauses before it asks again. Most sidecars have credentials within a second; what takes longer is
// a fault, and each request is a line in the sidecar's debug log.
func pause(waited time.Duration) time.Duration {
	switch {
	case waited < 5*time.Second:
		return 100 * time.Millisecond
	case waited < 30*time.Second:
		return 500 * time.Millisecond
	}
	return time.Second
}

func waitCommand() command {
	return command{
		name: "wait",
		flags: []option{
			{
				name:  "timeout",
				value: value{name: "DURATION", initial: "30s", check: checkTimeout},
				text:  "how long to wait; a number without a unit means seconds",
			},
			profileOption("wait for this profile alone, whether readiness counts it or not"),
		},
		line:      "wait until the running sidecar has credentials",
		text:      "Waits until the sidecar in the same Pod has credentials. If it takes longer than the timeout, wait fails and prints the reason that the sidecar gives.",
		example:   "irsa-sidecar wait --timeout 2m && exec app\nirsa-sidecar wait --profile audit",
		variables: []string{opsVariable},
		run:       runWait,
	}
}

func runWait(ctx context.Context, c *call) error {
	config, err := c.usable()
	if err != nil {
		return err
	}
	ops := config.opsPeer()
	w := waiter{
		timeout: c.duration("timeout"),
		ready:   func(ctx context.Context) error { return reasonOf(defaultProfile, checkHealth(ctx, ops, "/readyz")) },
		report:  c.stderr,
		first:   waitReport,
	}
	if name, named := c.profile(); named {
		w.ready = func(ctx context.Context) error { return checkProfile(ctx, ops, name) }
	}
	if doctor.IsTerminal(c.stderr.to) {
		w.first = 0
	}
	return w.wait(ctx)
}

// shuttingDown is the first line of /readyz while the sidecar drains.
const shuttingDown = "not ready: the sidecar is shutting down"

// checkProfile returns nil if the ops listener says that a profile is ready. Its answer has a line for each profile, after
// which comes the reason if it is not ready.
func checkProfile(ctx context.Context, ops peer, name string) error {
	const path = "/readyz"
	r, err := ops.ask(ctx, http.MethodGet, path, "")
	if err != nil {
		return err
	}
	if !r.marked || r.code != http.StatusOK && r.code != http.StatusServiceUnavailable {
		return ops.notSidecar(r, path)
	}
	if first, _, _ := strings.Cut(r.body, "\n"); first == shuttingDown {
		return errors.New(first)
	}
	var known, reason []string
	current := ""
	for line := range strings.Lines(r.body) {
		line = strings.TrimSuffix(strings.TrimSpace(redact.OneLine(line)), " (not counted)")
		profile, says, _ := strings.Cut(line, ": ")
		isProfile := strings.HasPrefix(says, "ready,") || strings.HasPrefix(says, "not ready:")
		switch {
		case isProfile && profile == name && strings.HasPrefix(says, "ready,"):
			return nil
		case isProfile:
			current = profile
			known = append(known, profile)
		}
		if current == name && line != "" {
			reason = append(reason, line)
		}
	}
	if reason == nil {
		return unknownProfile(name, known)
	}
	return reasonOf(name, errors.New(shown(strings.Join(reason, "; "), maxReason)))
}

// reasonOf leaves out of the answer of /readyz that there are no credentials, which wait says itself.
func reasonOf(profile string, err error) error {
	if err == nil {
		return nil
	}
	text, without := strings.CutPrefix(err.Error(), profile+": "+server.NoCredentials)
	switch reason, more := strings.CutPrefix(text, "; "); {
	case without && text == "":
		return errors.New("the exchange has not finished yet")
	case without && more:
		return errors.New(reason)
	}
	return err
}

// A waiter waits until ready returns nil.
type waiter struct {
	timeout time.Duration
	ready   func(context.Context) error // what is missing
	report  io.Writer                   // gets a line every waitReport
	first   time.Duration               // when it gets the first one
}

func (w *waiter) wait(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	began := time.Now()
	next := began.Add(w.first)
	var last error
	for {
		err := w.ready(waiting)
		if err == nil {
			return nil
		}
		if waiting.Err() == nil || (last == nil && ctx.Err() == nil) { // a request that a signal interrupted tells nothing
			last = err
		}
		if now := time.Now(); waiting.Err() == nil && !now.Before(next) {
			fmt.Fprintf(w.report, "irsa-sidecar: waiting for credentials (%s of %s): %s\n", now.Sub(began).Round(time.Second), w.timeout, shown(last.Error(), maxReason))
			next = now.Add(waitReport)
		}
		select {
		case <-time.After(pause(time.Since(began))):
		case <-waiting.Done():
			if ctx.Err() != nil && last == nil {
				return errors.New("interrupted before the sidecar answered")
			}
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted before there were credentials: %w", last)
			}
			return fmt.Errorf("no credentials after %s: %w", w.timeout, last)
		}
	}
}
