package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

func TestWaitSaysWhatItWaitsFor(t *testing.T) {
	missing := errors.New("no credentials yet\x1b[2J")
	line := func(after string) string {
		return "irsa-sidecar: waiting for credentials (" + after + " of 12s): no credentials yet [2J\n"
	}
	for _, row := range []struct {
		name    string
		first   time.Duration
		ready   time.Duration // when credentials are there; zero is never
		stopped time.Duration // when a signal comes; zero is never
		took    time.Duration
		report  string
		err     string
	}{
		{"at once", waitReport, time.Nanosecond, 0, 100 * time.Millisecond, "", ""},
		{"within the first seconds", waitReport, 4900 * time.Millisecond, 0, 4900 * time.Millisecond, "", ""},
		{"after some", waitReport, 7 * time.Second, 0, 7 * time.Second, line("5s"), ""},
		{"at once, in a terminal", 0, time.Nanosecond, 0, 100 * time.Millisecond, line("0s"), ""},
		{"after some, in a terminal", 0, 7 * time.Second, 0, 7 * time.Second, line("0s") + line("5s"), ""},
		{"never", waitReport, 0, 0, 12 * time.Second, line("5s") + line("10s"), "no credentials after 12s: no credentials yet\x1b[2J"},
		{"interrupted", waitReport, 0, 6 * time.Second, 6 * time.Second, line("5s"), "interrupted before there were credentials: no credentials yet\x1b[2J"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			if row.stopped > 0 {
				defer time.AfterFunc(row.stopped, stop).Stop()
			}
			began := time.Now()
			var report bytes.Buffer
			w := waiter{timeout: 12 * time.Second, first: row.first, report: &report, ready: func(context.Context) error {
				if row.ready > 0 && time.Since(began) >= row.ready {
					return nil
				}
				return missing
			}}
			err := w.wait(ctx)
			if report.String() != row.report {
				t.Errorf("%s: wrote %q, want %q", row.name, report.String(), row.report)
			}
			if took := time.Since(began); took != row.took {
				t.Errorf("%s: took %s, want %s", row.name, took, row.took)
			}
			if row.err == "" && err != nil || row.err != "" && (err == nil || err.Error() != row.err) {
				t.Errorf("%s: %v, want %s", row.name, err, row.err)
			}
		})
	}
}

// An answer that the end cuts off says nothing, and the last whole one does.
func TestWaitGivesTheLastWholeAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		w := waiter{timeout: time.Second, first: waitReport, report: &bytes.Buffer{}, ready: func(ctx context.Context) error {
			if asked++; asked == 1 {
				return errors.New("AccessDenied")
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		if err := w.wait(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "no credentials after 1s: AccessDenied") {
			t.Errorf("%v", err)
		}
	})
}

func TestWaitWithoutAnyAnswer(t *testing.T) {
	for _, row := range []struct {
		stopped time.Duration // when a signal comes; zero is never
		err     string
	}{{0, "no credentials after 1s: context deadline exceeded"}, {500 * time.Millisecond, "interrupted before the sidecar answered"}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			if row.stopped > 0 {
				defer time.AfterFunc(row.stopped, stop).Stop()
			}
			w := waiter{timeout: time.Second, first: waitReport, report: &bytes.Buffer{}, ready: func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}}
			if err := w.wait(ctx); err == nil || err.Error() != row.err {
				t.Errorf("%v, want %s", err, row.err)
			}
		})
	}
}

// A sidecar that takes longer has a fault, and each request is a line in its debug log.
func TestWaitAsksLessOftenAfterSomeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, asked := time.Now(), make(map[time.Duration]int)
		w := waiter{timeout: time.Minute, first: waitReport, report: &bytes.Buffer{}, ready: func(context.Context) error {
			asked[time.Since(began).Truncate(10*time.Second)]++
			return errors.New("none")
		}}
		w.wait(t.Context())
		if asked[0] != 60 || asked[10*time.Second] != 20 || asked[50*time.Second] != 10 {
			t.Errorf("requests in each ten seconds: %v", asked)
		}
	})
}

// There are no credentials: wait says it once, and names profiles if there are several.
func TestWaitGivesTheReasonOnly(t *testing.T) {
	const none = "not ready: there are no valid credentials"
	for _, row := range []struct {
		body, profile, want string
		code                int
	}{
		{"default: ready, for another 59m0s\n", "", "", 200},
		{"default: " + none + "\nAccessDenied\nhint: do\n", "", "AccessDenied; hint: do", 503},
		{"default: " + none + "\n", "", "the exchange has not finished yet", 503},
		{"default: not ready: the credentials expire in 5s\n", "", "not ready: the credentials expire in 5s", 503},
		{"not ready: the sidecar is shutting down\ndefault: ready, for another 59m0s\n", "", "not ready: the sidecar is shutting down", 503},
		{"what is this\n", "", "what is this", 503},

		{"default: ready, for another 59m0s\naudit: " + none + "\nAccessDenied\nhint: do\nother: " + none + " (not counted)\n", "", "audit: AccessDenied; hint: do", 503},
		{"default: " + none + "\naudit: " + none + "\nAccessDenied\nhint: do\n", "", "default: the exchange has not finished yet; audit: AccessDenied; hint: do", 503},
		{"default: ready, for another 59m0s\nother: " + none + " (not counted)\n", "", "", 200},

		{"default: " + none + "\nAccessDenied\nhint: do\naudit: ready, for another 59m0s\n", "audit", "", 503},
		{"default: ready, for another 59m0s\naudit: " + none + " (not counted)\nThrottling\nhint: wait\n", "audit", "Throttling; hint: wait", 200},
		{"default: ready, for another 59m0s\naudit: " + none + "\n", "audit", "the exchange has not finished yet", 503},
		{"default: ready, for another 59m0s\naudit: ready, for another 1h\ndefault/source: ready, for another 1h (not counted)\n", "audti", `there is no profile "audti"; did you mean "audit"? the profiles are default, audit`, 200},
		{"not ready: the sidecar is shutting down\naudit: ready, for another 59m0s\n", "audit", "not ready: the sidecar is shutting down", 503},
		{"default: " + none + "\nAccessDenied\nhint: ready, or so it seems\nhint: ready, for another 3m0s\n", "hint", "", 503},
	} {
		ops := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				t.Errorf("asked for %s", r.URL.Path)
			}
			w.Header().Set(server.Mark, server.OpsMark)
			w.WriteHeader(row.code)
			io.WriteString(w, row.body)
		}))
		err := checkReady(t.Context(), peer{opsVariable, []string{ops.Listener.Addr().String()}}, row.profile)
		ops.Close()
		if got := errorText(cmp.Or(err, errors.New("ready"))); got != cmp.Or(row.want, "ready") {
			t.Errorf("%q of %q: %s, want %s", row.profile, row.body, got, row.want)
		}
	}
}
