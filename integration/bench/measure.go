//go:build linux

package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// handler measures the handler alone, without sockets, on credentials that are there. Its request
// counters are left out: they would need a package that bench does not otherwise know.
func (b *bench) handler(ctx context.Context, _ options, t *table) error {
	fetch := func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{
			AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: cache.NewSecret("EXAMPLE"), SessionToken: cache.NewSecret(b.body),
			Expiration: time.Now().Add(time.Hour).UTC(), RoleARN: roleARN,
		}, nil
	}
	creds := cache.New(fetch, cache.Options{})
	if _, err := creds.Get(ctx); err != nil {
		return err
	}
	ours := benchmark(server.Credentials(server.Options{
		Port:     9911,
		Profiles: []server.Profile{{Name: server.DefaultProfile, RoleARN: roleARN, Cache: creds}},
	}))
	body := []byte(b.body)
	bare := benchmark(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { // as ./bare does
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(body)))
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		w.Write(body)
	}))
	t.absolute("handler, allocations per request", []pair[float64]{{float64(ours.AllocsPerOp()), float64(bare.AllocsPerOp())}}, atMost(2))
	t.relative("handler, ns per request", []pair[float64]{{float64(ours.NsPerOp()), float64(bare.NsPerOp())}}, limit{})
	return nil
}

func benchmark(h http.Handler) testing.BenchmarkResult {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:9911/v1/credentials", nil)
	r.RemoteAddr = "127.0.0.1:40000"
	return testing.Benchmark(func(b *testing.B) {
		w := &sink{header: make(http.Header)}
		for b.Loop() {
			clear(w.header)
			h.ServeHTTP(w, r)
		}
		if w.status != 0 || w.bytes == 0 {
			b.Fatal("the handler does not answer with a body and 200")
		}
	})
}

// sink is a ResponseWriter that costs nothing.
type sink struct {
	header        http.Header
	status, bytes int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(p []byte) (int, error) { s.bytes += len(p); return len(p), nil }

func (b *bench) binaries(_ context.Context, _ options, t *table) error {
	ours, err := os.Stat(b.programs.ours)
	if err != nil {
		return err
	}
	bare, err := os.Stat(b.programs.bare)
	if err != nil {
		return err
	}
	t.absolute("stripped binary, MB", []pair[float64]{{float64(ours.Size()) / 1e6, float64(bare.Size()) / 1e6}}, atMost(13))
	return nil
}

// start measures from exec to the first open connection, and to the first answer: of the sidecar, one
// with credentials from an STS that takes no time.
func (b *bench) start(ctx context.Context, _ options, t *table) error {
	var listening, answered []pair[float64]
	for range starts {
		var heard, had pair[float64]
		for _, one := range []struct {
			start           func(context.Context) (*child, error)
			listens, answer *float64
		}{{b.startSidecar, &heard.ours, &had.ours}, {b.startBare, &heard.bare, &had.bare}} {
			began := time.Now()
			c, err := one.start(ctx)
			if err != nil {
				return err
			}
			_, err = c.ask()
			*one.listens, *one.answer = milliseconds(c.listening), milliseconds(time.Since(began))
			c.stop()
			if err != nil {
				return err
			}
		}
		listening, answered = append(listening, heard), append(answered, had)
	}
	t.relative("exec to listening, ms", listening, atMost(2.0))
	t.relative("exec to first credentials, ms", answered, atMost(4.5))
	return nil
}

// cold lets many clients come at once to a sidecar that has no credentials yet.
func (b *bench) cold(ctx context.Context, _ options, t *table) error {
	b.sts.Break(ststest.Fault{Latency: coldLatency})
	defer b.sts.Mend()
	answered, calls := float64(coldClients), 0.0
	var wall, peak []pair[float64]
	for range colds {
		before := b.sts.Calls()
		both, err := b.both(ctx)
		if err != nil {
			return err
		}
		var took pair[float64]
		n, d := rush(both.ours)
		answered, took.ours = min(answered, float64(n)), milliseconds(d)
		calls = max(calls, float64(b.sts.Calls()-before))
		_, d = rush(both.bare)
		took.bare = milliseconds(d)
		high, err := memory(both, "VmHWM")
		both.ours.stop()
		both.bare.stop()
		if err != nil {
			return err
		}
		wall, peak = append(wall, took), append(peak, high)
	}
	t.alone("1,000 cold clients, answered", answered, atLeast(coldClients))
	t.alone("1,000 cold clients, calls of STS", calls, atMost(1))
	t.relative("1,000 cold clients, ms (STS takes 100)", wall, limit{})
	t.absolute("1,000 cold clients, peak memory, MiB", peak, atMost(24))
	return nil
}

// rush sends one request each from many clients at once and returns how many got their answer.
func rush(c *child) (answered int, wall time.Duration) {
	var clients sync.WaitGroup
	var mu sync.Mutex
	began := time.Now()
	for range coldClients {
		clients.Go(func() {
			if _, err := c.askOnce(); err == nil {
				mu.Lock()
				answered++
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	return answered, time.Since(began)
}

// requests measures speed with one pair of servers while another pair, which has done its work before,
// rests: what a process costs that nobody asks anything.
func (b *bench) requests(ctx context.Context, o options, t *table) error {
	resting, err := b.both(ctx)
	if err != nil {
		return err
	}
	defer resting.ours.stop()
	defer resting.bare.stop()
	for _, c := range []*child{resting.ours, resting.bare} {
		if _, err := c.ask(); err != nil {
			return err
		}
		if _, err := shapes[1].put(c, b.size, restAfter); err != nil {
			return err
		}
	}
	restSince := time.Now()

	busy, err := b.both(ctx)
	if err != nil {
		return err
	}
	defer busy.ours.stop()
	defer busy.bare.stop()
	if _, err := busy.ours.ask(); err != nil { // which waits for the credentials
		return err
	}
	for _, s := range shapes { // nobody is measured on his first requests
		for _, c := range []*child{busy.ours, busy.bare} {
			if _, err := s.put(c, b.size, max(s.conns, o.n/10)); err != nil {
				return err
			}
		}
	}
	speed, tail := make([][]pair[float64], len(shapes)), make([][]pair[float64], len(shapes))
	for round := range o.rounds {
		for i, s := range shapes {
			// Who goes first changes: the second one profits from a warm machine, or suffers from a hot one.
			var ours, bare load
			var failed [2]error
			turns := []func(){
				func() { ours, failed[0] = s.put(busy.ours, b.size, o.n) },
				func() { bare, failed[1] = s.put(busy.bare, b.size, o.n) },
			}
			turns[round%2]()
			turns[1-round%2]()
			if err := errors.Join(failed[0], failed[1], ctx.Err()); err != nil {
				return err
			}
			speed[i] = append(speed[i], pair[float64]{ours.perSecond, bare.perSecond})
			tail[i] = append(tail[i], pair[float64]{ours.p99, bare.p99})
		}
	}
	for i, s := range shapes {
		t.relative("requests/s, "+s.String(), speed[i], atLeast(0.9))
	}
	for i, s := range shapes {
		t.relative("p99 in µs, "+s.String(), tail[i], atMost(1.3))
	}

	if err := sleepUntil(ctx, restSince.Add(o.rest)); err != nil {
		return err
	}
	for _, m := range []struct {
		name, field string
		limit       limit
	}{
		{"at rest after 10,000 requests, RSS, MiB", "VmRSS", atMost(15)},
		{"at rest after 10,000 requests, RssAnon, MiB", "RssAnon", atMost(5)},
	} {
		p, err := memory(resting, m.field)
		if err != nil {
			return err
		}
		t.absolute(m.name, []pair[float64]{p}, m.limit)
	}
	return nil
}

func sleepUntil(ctx context.Context, when time.Time) error {
	select {
	case <-time.After(time.Until(when)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
