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
			timeoutOption(),
			profileOption("wait for this profile alone, whether readiness counts it or not"),
		},
		line:      "wait until the running sidecar has credentials",
		text:      "Waits until the sidecar in the same Pod has credentials of all profiles that readiness counts (IRSA_SIDECAR_READY_PROFILES). If it takes longer than the timeout, wait fails and prints the reason that the sidecar gives.",
		example:   "irsa-sidecar wait --timeout 2m && exec app\nirsa-sidecar wait --profile audit",
		variables: []string{opsVariable},
		run:       runWait,
	}
}

// timeoutOption is the flag of the commands that wait for credentials.
func timeoutOption() option {
	return option{
		name:  "timeout",
		value: value{name: "DURATION", initial: "30s", check: checkTimeout},
		text:  "how long to wait for credentials; a number without a unit means seconds",
	}
}

func runWait(ctx context.Context, c *call) error {
	config, err := c.usable()
	if err != nil {
		return err
	}
	ops := config.opsPeer()
	return c.wait(ctx, func(ctx context.Context) error { return checkReady(ctx, ops, c.given[profileFlag]) })
}

// wait waits until ready returns nil, for --timeout at most.
func (c *call) wait(ctx context.Context, ready func(context.Context) error) error {
	w := waiter{timeout: c.duration("timeout"), ready: ready, report: c.stderr, first: waitReport}
	if doctor.IsTerminal(c.stderr.to) {
		w.first = 0
	}
	return w.wait(ctx)
}

// shuttingDown is the first line of /readyz while the sidecar drains.
const shuttingDown = "not ready: the sidecar is shutting down"

// readiness is what /readyz says of a profile.
type readiness struct {
	profile        string
	ready, counted bool
	says           []string // the line of the profile, and the reason that follows it
}

// readReadiness reads the answer of /readyz: a line for each profile, after which comes the reason if it is not ready.
func readReadiness(body string) (all []readiness) {
	for line := range strings.Lines(body) {
		line, uncounted := strings.CutSuffix(strings.TrimSpace(redact.OneLine(line)), server.NotCounted)
		profile, says, _ := strings.Cut(line, ": ")
		ready := strings.HasPrefix(says, "ready,")
		switch {
		case ready || strings.HasPrefix(says, "not ready:"):
			all = append(all, readiness{profile, ready, !uncounted, []string{line}})
		case len(all) > 0 && line != "":
			last := &all[len(all)-1]
			last.says = append(last.says, line)
		}
	}
	return all
}

// checkReady returns nil if a profile is ready or, without a name, if all are that readiness counts.
func checkReady(ctx context.Context, ops peer, name string) error {
	const path = "/readyz"
	r, err := ops.ask(ctx, http.MethodGet, path, "")
	if err != nil {
		return err
	}
	all := readReadiness(r.body)
	first, _, _ := strings.Cut(r.body, "\n")
	switch {
	case r.mark != server.OpsMark || r.code != http.StatusOK && r.code != http.StatusServiceUnavailable:
		return ops.notSidecar(r, path)
	case first == shuttingDown:
		return errors.New(first)
	case name == "" && r.code == http.StatusOK:
		return nil
	case name == "":
		return notReady(all, r)
	}
	var known []string
	for _, one := range all {
		if one.profile == name && one.ready {
			return nil
		}
		if one.profile == name {
			return errors.New(one.reason())
		}
		if !strings.Contains(one.profile, "/") { // a hidden one
			known = append(known, one.profile)
		}
	}
	return unknownProfile(name, known)
}

// notReady says what is missing of the profiles that count.
func notReady(all []readiness, r *reply) error {
	var reasons []string
	for _, one := range all {
		switch {
		case one.ready || !one.counted:
		case one.profile == defaultProfile && len(all) == 1:
			return errors.New(one.reason())
		default:
			reasons = append(reasons, one.profile+": "+one.reason())
		}
	}
	if reasons == nil {
		return errors.New(r.text())
	}
	return errors.New(shown(strings.Join(reasons, "; "), maxReason))
}

// reason is what a profile waits for. It leaves out that there are no credentials, which wait says itself.
func (one *readiness) reason() string {
	text := strings.TrimPrefix(strings.Join(one.says, "; "), one.profile+": ")
	reason, without := strings.CutPrefix(text, server.NoCredentials)
	if reason = strings.TrimPrefix(reason, "; "); without && reason == "" {
		reason = "the exchange has not finished yet"
	}
	return shown(reason, maxReason)
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
