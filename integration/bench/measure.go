//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

const (
	coldClients = 1000
	coldLatency = 100 * time.Millisecond // of STS, while the clients connect

	restAfter = 10_000 // requests
)

// measure is something to measure, and a row of each table.
type measure struct {
	name  string
	kind  kind
	more  bool    // more is better
	limit float64 // the limit that make bench shows for the median; 0 is none
	// margin is the part of the baseline by which a measure may be worse in make bench-check, 0 for a
	// measure that is the same in every run.
	margin float64
}

// kind says which of the values of a measure are compared.
type kind int

const (
	absolute kind = iota // the sidecar's own
	relative             // their ratio to the bare server's
	counted              // the sidecar's own, which must be right again and again; the bare server has none
)

// inARow is in how many rounds in a row a count must be right.
const inARow = 3

// figure returns the one number that is compared.
//
// Other load disturbs the bare server as much as the sidecar. The best ratio would be that of the round in which the bare
// server was disturbed most, and the best time of each would depend on the number of rounds. The median has neither problem,
// and more rounds make it more exact. A count must be right in a few rounds in a row, and the worst of them counts: what goes
// wrong in every third round is a bug, not noise.
func (m measure) figure(values []pair[float64]) float64 {
	switch m.kind {
	case relative:
		return median(values, ratio)
	case counted:
		best, worst := slices.Min[[]float64], slices.Max[[]float64]
		if m.more {
			best, worst = worst, best
		}
		var runs []float64
		for i := range max(1, len(values)-inARow+1) {
			var run []float64
			for _, p := range values[i:min(i+inARow, len(values))] {
				run = append(run, p.ours)
			}
			runs = append(runs, worst(run))
		}
		return best(runs)
	}
	return median(values, ours)
}

// What median is taken of.
func ours(p pair[float64]) float64  { return p.ours }
func bare(p pair[float64]) float64  { return p.bare }
func ratio(p pair[float64]) float64 { return p.ours / p.bare }

func median(pairs []pair[float64], of func(pair[float64]) float64) float64 {
	values := make([]float64, len(pairs))
	for i, p := range pairs {
		values[i] = of(p)
	}
	slices.Sort(values) // NaN comes first
	if math.IsNaN(values[0]) {
		return math.NaN()
	}
	return values[len(values)/2]
}

// step measures all values of a few measures.
type step struct {
	name        string
	least, most int // rounds
	measures    []measure
	// round returns one pair for each measure. It counts from 0.
	round func(ctx context.Context, round int) ([]pair[float64], error)

	values [][]pair[float64] // for each measure, one for each round
}

// run alternates the steps, so that a busy moment of the machine affects all of them a little instead of only one. Each has its
// least number of rounds, and then more, in idle moments, until there are enough or the most. After timeout, only the first
// round of a step begins.
func run(ctx context.Context, steps []*step, timeout time.Duration, enough func(*step) bool) error {
	began := time.Now()
	open := slices.Clone(steps)
	for round := 0; len(open) > 0; round++ {
		for _, s := range open {
			progress(fmt.Sprintf("measuring: %s, round %d", s.name, round+1))
			if round >= s.least {
				untilIdle(ctx)
			}
			values, err := s.round(ctx, round)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				return fmt.Errorf("%s: %w", s.name, err)
			case len(values) != len(s.measures):
				return fmt.Errorf("%s: %d values for %d measures", s.name, len(values), len(s.measures))
			}
			if s.values == nil {
				s.values = make([][]pair[float64], len(values))
			}
			for i, v := range values {
				s.values[i] = append(s.values[i], v)
			}
		}
		open = slices.DeleteFunc(open, func(s *step) bool {
			return time.Since(began) >= timeout || round+1 >= s.least && (round+1 >= s.most || enough(s))
		})
	}
	return nil
}

// untilIdle waits until nothing else on the machine is ready to run, at most a second. It polls: the kernel reports no such
// event.
func untilIdle(ctx context.Context) {
	for began := time.Now(); time.Since(began) < time.Second && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		raw, err := os.ReadFile("/proc/loadavg")
		if fields := strings.Fields(string(raw)); err != nil || len(fields) < 4 || strings.HasPrefix(fields[3], "1/") { // which is us
			return
		}
	}
}

// bareHandler does what ./bare does.
func (b *bench) bareHandler() http.Handler {
	body := []byte(b.body)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(body)))
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		w.Write(body)
	})
}

// handlerRequest is a request as a handler at 127.0.0.1:9911 gets it, with headers given as name, value, name, value.
func handlerRequest(method, path string, header ...string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:9911"
	r.RemoteAddr = "127.0.0.1:40000"
	for pair := range slices.Chunk(header, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	return r
}

// cost returns what a request costs a handler.
func cost(h http.Handler, r *http.Request) (allocations, nanoseconds float64, err error) {
	w := &sink{header: make(http.Header)}
	serve := func() {
		clear(w.header)
		h.ServeHTTP(w, r)
	}
	allocations = testing.AllocsPerRun(1000, serve)
	const times = 100_000
	began := time.Now()
	for range times {
		serve()
	}
	nanoseconds = float64(time.Since(began)) / times
	if w.status != 0 && w.status != http.StatusOK || w.bytes == 0 {
		err = errors.New("the handler does not answer with a body and 200")
	}
	return allocations, nanoseconds, err
}

// sink is a ResponseWriter without a cost.
type sink struct {
	header        http.Header
	status, bytes int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(p []byte) (int, error) { s.bytes += len(p); return len(p), nil }

func (b *bench) binaries() *step {
	return &step{
		name: "binaries", least: 1, most: 1,
		measures: []measure{{name: "stripped binary, MB", limit: 13, margin: 0.01}},
		round: func(context.Context, int) ([]pair[float64], error) {
			ours, err := os.Stat(b.programs.ours)
			if err != nil {
				return nil, err
			}
			bare, err := os.Stat(b.programs.bare)
			if err != nil {
				return nil, err
			}
			return []pair[float64]{{float64(ours.Size()) / 1e6, float64(bare.Size()) / 1e6}}, nil
		},
	}
}

// starts measures the time from exec to the first open connection, and to the first answer; the sidecar's has credentials, from
// an STS that takes no time.
func (b *bench) starts() *step {
	return &step{
		name: "start", least: 15, most: 150,
		measures: []measure{
			{name: "exec to listening, ms", kind: relative, limit: 2.0, margin: 0.15},
			{name: "exec to first credentials, ms", kind: relative, limit: 4.5, margin: 0.10},
		},
		round: func(ctx context.Context, _ int) ([]pair[float64], error) {
			var heard, had pair[float64]
			for _, one := range []struct {
				start           func(context.Context) (*child, error)
				listens, answer *float64
			}{{b.startSidecar, &heard.ours, &had.ours}, {b.startBare, &heard.bare, &had.bare}} {
				began := time.Now()
				c, err := one.start(ctx)
				if err != nil {
					return nil, err
				}
				_, err = c.ask()
				*one.listens, *one.answer = milliseconds(c.listening), milliseconds(time.Since(began))
				c.stop()
				if err != nil {
					return nil, err
				}
			}
			return []pair[float64]{heard, had}, nil
		},
	}
}

// cold lets many clients ask a sidecar that has no credentials yet, all at once.
func (b *bench) cold() *step {
	return &step{
		name: "cold clients", least: inARow, most: 30,
		measures: []measure{
			{name: "1,000 cold clients, answered", kind: counted, more: true, limit: coldClients},
			{name: "1,000 cold clients, calls of STS", kind: counted, limit: 1},
			{name: "1,000 cold clients, ms (STS takes 100)", kind: relative, margin: 0.30},
			{name: "1,000 cold clients, peak memory, MiB", limit: 24, margin: 0.05},
		},
		round: func(ctx context.Context, _ int) ([]pair[float64], error) {
			b.sts.Break(ststest.Fault{Latency: coldLatency})
			defer b.sts.Repair()
			before := b.sts.Calls()
			both, err := b.both(ctx)
			if err != nil {
				return nil, err
			}
			defer both.ours.stop()
			defer both.bare.stop()
			var answered, took pair[float64]
			answered.ours, took.ours = rush(both.ours)
			calls := pair[float64]{ours: float64(b.sts.Calls() - before)}
			answered.bare, took.bare = rush(both.bare)
			peak, err := memory(both, "VmHWM")
			return []pair[float64]{answered, calls, took, peak}, err
		},
	}
}

// rush sends one request from each of many clients at once. It returns how many got an answer, and the time in milliseconds.
func rush(c *child) (answered, took float64) {
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
	return answered, milliseconds(time.Since(began))
}

// requests measures speed with one pair of servers.
func (b *bench) requests(ctx context.Context, o options) ([]*step, error) {
	busy, err := b.both(ctx)
	if err != nil {
		return nil, err
	}
	b.children = append(b.children, busy.ours, busy.bare)
	if _, err := busy.ours.ask(); err != nil { // this waits for the credentials
		return nil, err
	}
	return shaped(shapes, "", pair[target]{busy.ours.target, busy.bare.target}, b.size, o)
}

// shaped measures the speed of two targets that answer with so many bytes, for each shape. The prefix begins the rows' names.
func shaped(shapes []shape, prefix string, busy pair[target], size int, o options) (steps []*step, err error) {
	for _, s := range shapes {
		n := o.n
		if !s.fresh {
			n = max(n, 125*s.conns) // so that the first request of each connection is beyond the p99
		}
		for _, at := range []target{busy.ours, busy.bare} { // the first request of a kind does not count
			if _, err := s.put(at, size, max(s.conns, n/10)); err != nil {
				return nil, err
			}
		}
		steps = append(steps, &step{
			name: prefix + "requests, " + s.name, least: o.rounds, most: o.most,
			measures: []measure{
				{name: prefix + "requests/s, " + s.String(), kind: relative, more: true, limit: 0.9, margin: 0.25},
				{name: prefix + "p99 in µs, " + s.String(), kind: relative, limit: 1.3, margin: 0.40},
			},
			round: func(_ context.Context, round int) ([]pair[float64], error) {
				// The order alternates: the second one profits from a warm machine, or suffers from a hot one.
				var ours, bare load
				var failed [2]error
				turns := []func(){
					func() { ours, failed[0] = s.put(busy.ours, size, n) },
					func() { bare, failed[1] = s.put(busy.bare, size, n) },
				}
				turns[round%2]()
				turns[1-round%2]()
				return []pair[float64]{{ours.perSecond, bare.perSecond}, {ours.p99, bare.p99}}, errors.Join(failed[:]...)
			},
		})
	}
	return steps, nil
}

// resting is a pair of servers after their work.
type resting struct {
	pair[*child]
	since time.Time
}

// rest starts a few pairs of servers and lets them work. Its step waits until they have rested, and measures what a process
// without requests costs.
func (b *bench) rest(ctx context.Context, o options) (*step, error) {
	const pairs = 3
	var all []resting
	for range pairs {
		r, err := b.worked(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return &step{
		name: "rest", least: pairs, most: 6,
		measures: []measure{
			{name: "at rest after 10,000 requests, RSS, MiB", limit: 15, margin: 0.02},
			{name: "at rest after 10,000 requests, RssAnon, MiB", limit: 5, margin: 0.06},
		},
		round: func(ctx context.Context, round int) ([]pair[float64], error) {
			if round == len(all) {
				r, err := b.worked(ctx)
				if err != nil {
					return nil, err
				}
				all = append(all, r)
			}
			if err := sleepUntil(ctx, all[round].since.Add(o.rest)); err != nil {
				return nil, err
			}
			rss, err := memory(all[round].pair, "VmRSS")
			if err != nil {
				return nil, err
			}
			anon, err := memory(all[round].pair, "RssAnon")
			return []pair[float64]{rss, anon}, err
		},
	}, nil
}

func (b *bench) worked(ctx context.Context) (resting, error) {
	both, err := b.both(ctx)
	if err != nil {
		return resting{}, err
	}
	b.children = append(b.children, both.ours, both.bare)
	for _, c := range []*child{both.ours, both.bare} {
		if _, err := c.ask(); err != nil {
			return resting{}, err
		}
		if _, err := shapes[1].put(c.target, b.size, restAfter); err != nil {
			return resting{}, err
		}
	}
	return resting{both, time.Now()}, nil
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
