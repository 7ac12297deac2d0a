package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// What is stuck for ever must not keep the program from ending.
func TestTheEndWaitsNoLongerThanItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		began := time.Now()
		if within(endWait, func() { <-stuck }) || time.Since(began) != endWait {
			t.Errorf("waited %v for what never ends", time.Since(began))
		}
		close(stuck)
		if !within(endWait, func() { time.Sleep(endWait - 1) }) { // of the bubble's clock
			t.Error("did not wait for what ends in time")
		}
	})
}

// lines is a log in JSON that can be waited for.
type lines struct {
	mu      sync.Mutex
	changed sync.Cond
	text    strings.Builder
	closed  bool
}

func newLines() *lines {
	l := new(lines)
	l.changed.L = &l.mu
	return l
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.changed.Broadcast()
	return l.text.Write(p)
}

// Close says that nothing more is to come.
func (l *lines) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
}

// wait returns the first line with a message.
func (l *lines) wait(t *testing.T, message string) (line map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for text := range strings.Lines(l.text.String()) {
			line = nil
			if json.Unmarshal([]byte(text), &line); line["msg"] == message {
				return line
			}
		}
		if l.closed {
			t.Fatalf("no line %q in the log:\n%s", message, &l.text)
		}
		l.changed.Wait()
	}
}

// Each profile has its own role, its own cache and its own state file; a profile that fails leaves the others alone.
func TestEveryProfileIsServed(t *testing.T) {
	const role, gone = "arn:aws:iam::123456789012:role/app", "arn:aws:iam::123456789012:role/gone"
	_, url, token := startSTS(t, map[string]ststest.Role{role: {}})
	s, invalid := parse(environmentOf("AWS_ROLE_ARN="+role, "AWS_WEB_IDENTITY_TOKEN_FILE="+token, "AWS_ENDPOINT_URL_STS="+url,
		"IRSA_SIDECAR_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_OPS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0",
		"IRSA_SIDECAR_QUITQUITQUIT=true", "IRSA_SIDECAR_SHUTDOWN_DELAY=1h"), files{})
	if len(invalid) > 0 {
		t.Fatal(invalid)
	}
	dir := t.TempDir()
	s.state = place{path: filepath.Join(dir, "state"), onDisk: true}
	for name, arn := range map[string]string{"same": role, "gone": gone} {
		another := *s.profiles[0]
		another.name, another.exchange.RoleARN = name, arn
		s.profiles = append(s.profiles, &another)
	}
	limit := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(limit) }) // serve lowers it
	log := newLines()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, s, slog.New(slog.NewJSONHandler(log, nil)), &output{to: io.Discard}, nil)
		log.Close()
	}()
	line := log.wait(t, "serving")
	for path, want := range map[string]string{"": "200 " + role, "/default": "200 " + role, "/same": "200 " + role, "/gone": "403 "} {
		var a struct{ RoleArn string }
		status := ""
		for status == "" || strings.HasPrefix(status, "503") { // until the first exchange has ended; the sidecar waits for it itself
			r, err := http.Get(line["credentials"].(string) + path)
			if err != nil {
				t.Fatal(err)
			}
			json.NewDecoder(r.Body).Decode(&a)
			r.Body.Close()
			status = r.Status
		}
		if got := status[:4] + a.RoleArn; got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1 || filepath.Base(files[0]) != "state" {
		t.Errorf("state files: %q", files)
	}

	// A signal begins an hour of serving on, which the shutdown command ends.
	stop()
	log.wait(t, "shutting down")
	r, err := http.Post("http://"+line["admin"].(string)+"/quitquitquit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	log.wait(t, "stopped")
	if err := <-served; err != nil {
		t.Error(err)
	}
}
