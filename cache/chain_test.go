package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A chain is three Caches, each but the first with the credentials of the one before it, and an STS that refuses credentials
// that have expired.
type chain struct {
	t      *testing.T
	caches [3]*Cache

	mu       sync.Mutex
	lifetime [3]time.Duration
	down     [3]error // why STS refuses a hop; nil: it does not
	takes    time.Duration
	calls    [3]int
	misused  int // requests that were signed after their source's end
}

var hops = [3]string{"first", "second", "third"}

// newChain must be called in a bubble. Its random numbers are always the same.
func newChain(t *testing.T, metrics *Metrics) *chain {
	ch := &chain{t: t, lifetime: [3]time.Duration{time.Hour, time.Hour, time.Hour}, takes: 300 * time.Millisecond}
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	for i := range ch.caches {
		ch.caches[i] = New(func(ctx context.Context) (Credentials, error) { return ch.fetch(ctx, i) }, Options{
			Profile: hops[i], Timeout: time.Duration(i+1) * exchangeTimeout, Metrics: metrics,
			Random: func() float64 { mu.Lock(); defer mu.Unlock(); return random.Float64() },
		})
	}
	return ch
}

// run runs the Caches until the test ends.
func (ch *chain) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, c := range ch.caches {
		running.Go(func() { c.Run(ctx) })
	}
	ch.t.Cleanup(func() { cancel(); running.Wait() })
}

func (ch *chain) fetch(ctx context.Context, hop int) (Credentials, error) {
	var source *Credentials
	if hop > 0 {
		var err error
		if source, err = ch.caches[hop-1].Live(ctx); err != nil {
			return Credentials{}, AsFetchError(err).Via(hops[hop-1])
		}
	}
	ch.mu.Lock()
	ch.calls[hop]++
	takes, lifetime, down := ch.takes, ch.lifetime[hop], ch.down[hop]
	if source != nil && !time.Now().Before(source.Expiration) {
		ch.misused++
	}
	ch.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return Credentials{}, &FetchError{Reason: EndpointTimeout, Message: "timed out"}
	}
	if down != nil {
		return Credentials{}, down
	}
	creds := Credentials{
		AccessKeyID: "ASIAEXAMPLE000000001", SecretAccessKey: NewSecret(testSecret), SessionToken: NewSecret("token"),
		ServerTime: time.Now().Truncate(time.Second), Expiration: time.Now().Add(lifetime).UTC().Truncate(time.Second),
	}
	if source != nil {
		creds.SourceExpiration = source.Expiration
	}
	return creds, nil
}

func (ch *chain) set(change func()) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	change()
}

// watch looks at every hop once a second for a while. It reports how long each had no valid credentials, and the least that
// was left of those that it had.
func (ch *chain) watch(period time.Duration) (without, least [3]time.Duration) {
	least = [3]time.Duration{period, period, period}
	for end := time.Now().Add(period); time.Now().Before(end); time.Sleep(time.Second) {
		for i, c := range ch.caches {
			s := c.Status()
			if s.Credentials == nil {
				without[i] += time.Second
				continue
			}
			if !time.Now().Before(s.Credentials.Expiration) {
				ch.t.Fatalf("%s: has expired credentials", hops[i])
			}
			least[i] = min(least[i], s.Remaining)
		}
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.misused > 0 {
		ch.t.Errorf("%d requests were signed with credentials that had expired", ch.misused)
	}
	return without, least
}

func TestAChainOverADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := newChain(t, nil)
		ch.run()
		time.Sleep(2 * time.Second)
		without, least := ch.watch(24 * time.Hour)
		for i := range hops {
			if without[i] > 0 || least[i] < 26*time.Minute {
				t.Errorf("%s: without credentials for %s, at least %s left", hops[i], without[i], least[i])
			}
		}
		// A chained session is replaced after 40 to 56 % of what is left of its source's, which is 26 minutes at least.
		if ch.calls[0] < 43 || ch.calls[0] > 60 || ch.calls[1] > 140 || ch.calls[2] > 140 {
			t.Errorf("%v exchanges in a day", ch.calls)
		}
	})
}

// A source's session is shorter than half of what is signed with it, so it ends before a refresh that looks at the chained
// session alone.
func TestAChainWithAShortSource(t *testing.T) {
	for name, lifetime := range map[string][3]time.Duration{
		"the first":  {15 * time.Minute, time.Hour, time.Hour},
		"the second": {time.Hour, 15 * time.Minute, time.Hour},
		"the third":  {time.Hour, time.Hour, 15 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ch := newChain(t, nil)
				ch.lifetime = lifetime
				ch.run()
				time.Sleep(2 * time.Second)
				without, least := ch.watch(6 * time.Hour)
				for i := range hops {
					if without[i] > 0 || least[i] < lifetime[i]*44/100-2*time.Second {
						t.Errorf("%s: without credentials for %s, at least %s left", hops[i], without[i], least[i])
					}
					s := ch.caches[i].Status()
					if source := s.Credentials.SourceExpiration; i > 0 && s.NextTry.After(source) {
						t.Errorf("%s: the refresh is at %s, and the source's credentials end at %s", hops[i], s.NextTry, source)
					}
				}
			})
		})
	}
}

// When a source fails for long, what is chained to it is signed once more shortly before the source's end, and lasts for an
// hour from then on.
func TestAChainWhoseSourceFails(t *testing.T) {
	for failing := range 2 {
		for _, outage := range []time.Duration{20 * time.Minute, 50 * time.Minute, 3 * time.Hour} {
			t.Run(fmt.Sprintf("%s for %s", hops[failing], outage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ch := newChain(t, nil)
					ch.run()
					ch.watch(90 * time.Minute)
					ch.set(func() { ch.down[failing] = &FetchError{Reason: AccessDenied, Message: "refused"} })
					end := ch.caches[failing].Status().Remaining
					without, _ := ch.watch(outage)
					// The one after it outlasts it by 50 minutes, and the one after that by another 50.
					for i := failing; i < len(hops); i++ {
						lasts := end + time.Duration(i-failing)*50*time.Minute
						if longest := max(0, outage-lasts); without[i] > longest+2*time.Second {
							t.Errorf("%s: without credentials for %s, want %s at most", hops[i], without[i], longest)
						}
						s := ch.caches[i].Status()
						if i == failing || s.Failure == nil {
							continue
						}
						want := fmt.Sprintf("source profile %q: refused", hops[failing])
						if s.Failure.Reason != AccessDenied || s.Failure.Message != want || s.Failure.Profile != hops[failing] || !s.Watching {
							t.Errorf("%s: failed with %+v, want %s", hops[i], s.Failure, want)
						}
					}
					if outage == 3*time.Hour && (without[failing] == 0 || without[len(hops)-1] == 0) {
						t.Error("nothing has ended in three hours")
					}
					ch.set(func() { ch.down[failing] = nil; ch.calls = [3]int{} })
					ch.caches[failing].Refresh(false)
					time.Sleep(time.Duration(len(hops)-failing) * (changePoll + time.Second))
					for i, c := range ch.caches {
						if s := c.Status(); s.Credentials == nil || s.Failure != nil {
							t.Errorf("%s: not recovered: %+v", hops[i], s)
						}
					}
					if ch.watch(time.Hour); ch.calls[2] > 15 {
						t.Errorf("%v exchanges in the hour after", ch.calls)
					}
				})
			})
		}
	}
}

// STS fails for everybody, from every point of the schedule on.
func TestAChainWithoutSTS(t *testing.T) {
	const outage = 40 * time.Minute
	for start := time.Duration(0); start < time.Hour; start += 7 * time.Minute {
		synctest.Test(t, func(t *testing.T) {
			ch := newChain(t, nil)
			ch.run()
			ch.watch(time.Hour + start)
			ch.set(func() {
				for i := range ch.down {
					ch.down[i] = &FetchError{Reason: ServiceUnavailable, Message: "down"}
				}
				ch.calls = [3]int{}
			})
			without, _ := ch.watch(outage)
			for i := range hops {
				if without[i] > outage-26*time.Minute {
					t.Errorf("from %s on, %s: without credentials for %s", start, hops[i], without[i])
				}
				if ch.calls[i] > 300 {
					t.Errorf("%s: %d exchanges in %s", hops[i], ch.calls[i], outage)
				}
			}
			ch.set(func() { ch.down = [3]error{} })
			time.Sleep(30*time.Second + 3*changePoll)
			if without, _ := ch.watch(time.Minute); without != [3]time.Duration{} {
				t.Errorf("from %s on: without credentials for %v after the outage", start, without)
			}
		})
	}
}

// Each exchange of a cold chain waits for those before it, and none of them for longer than its own time.
func TestAColdChainHasTheTimeOfAllItsExchanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := newChain(t, nil)
		ch.takes = 4 * time.Second
		begin := time.Now()
		ch.run()
		if _, err := ch.caches[2].Get(t.Context()); AsFetchError(err).Reason != CredentialsUninitialized || time.Since(begin) != coldWait {
			t.Errorf("a request waits for %s, and gets %v", time.Since(begin), err)
		}
		time.Sleep(3*ch.takes - time.Since(begin) + time.Millisecond)
		if ch.caches[2].Status().Credentials == nil || ch.calls != [3]int{1, 1, 1} {
			t.Errorf("no credentials after %s and %v exchanges", time.Since(begin), ch.calls)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ch := newChain(t, nil)
		ch.takes = time.Hour
		ch.run()
		time.Sleep(exchangeTimeout + time.Millisecond)
		for i, c := range ch.caches {
			if s := c.Status(); s.Failure == nil || s.Failure.Reason != EndpointTimeout || i > 0 != (s.Failure.Profile == "first") {
				t.Errorf("%s: %+v", hops[i], s.Failure)
			}
		}
	})
}

func TestStuckCountsFromTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := New(func(context.Context) (Credentials, error) { <-release; return Credentials{}, errors.New("late") }, Options{Timeout: 15 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		time.Sleep(15*time.Second + stuckAfter)
		if c.Status().Stuck {
			t.Error("stuck half a minute after its timeout")
		}
		if time.Sleep(time.Second); !c.Status().Stuck {
			t.Error("not stuck later")
		}
		cancel()
		close(release)
		running.Wait()
	})
}

func TestLive(t *testing.T) {
	t.Run("waits for longer than Get", func(t *testing.T) {
		a := &authority{lifetime: time.Hour, takes: 3 * time.Second}
		synctest.Test(t, func(t *testing.T) {
			c := New(a.fetch, Options{})
			begin := time.Now()
			if creds, err := c.Live(t.Context()); err != nil || creds == nil || time.Since(begin) != a.takes {
				t.Errorf("%v after %s", err, time.Since(begin))
			}
			if _, err := c.Live(t.Context()); err != nil || a.count() != 1 {
				t.Errorf("%v after %d exchanges", err, a.count())
			}
		})
	})
	t.Run("as long as its context", func(t *testing.T) {
		a := &authority{lifetime: time.Hour, takes: 3 * time.Second}
		synctest.Test(t, func(t *testing.T) {
			c := New(a.fetch, Options{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := time.Now()
			if _, err := c.Live(ctx); AsFetchError(err).Reason != CredentialsUninitialized || time.Since(begin) != time.Second {
				t.Errorf("%v after %s", err, time.Since(begin))
			}
			time.Sleep(a.takes) // the exchange goes on
		})
	})
	t.Run("returns a failure until the retry", func(t *testing.T) {
		a := &authority{lifetime: time.Hour}
		a.set(fails(AccessDenied))
		bubble(t, a, func(t *testing.T, c *Cache) {
			synctest.Wait()
			_, err := c.Live(t.Context())
			failure, ok := err.(*FetchError)
			if !ok || failure.Reason != AccessDenied || failure.Changed == nil || failure.Changed() || a.count() != 1 {
				t.Fatalf("%+v after %d exchanges", err, a.count())
			}
			if own := c.Status().Failure; own == failure || own.Changed != nil {
				t.Error("the Cache's own failure has been changed")
			}
			a.set(succeeds)
			c.Refresh(false)
			if time.Sleep(2 * time.Second); !failure.Changed() {
				t.Error("does not see that there are credentials now")
			}
		})
	})
	t.Run("does not return what has expired", func(t *testing.T) {
		a := &authority{lifetime: time.Hour}
		bubble(t, a, func(t *testing.T, c *Cache) {
			synctest.Wait()
			a.set(fails(AccessDenied))
			time.Sleep(time.Hour - time.Second)
			if _, err := c.Live(t.Context()); err != nil {
				t.Errorf("before the end: %v", err)
			}
			time.Sleep(time.Second)
			if creds, err := c.Live(t.Context()); err == nil {
				t.Errorf("at the end: credentials that expire %s", creds.Expiration)
			}
		})
	})
}

func TestForgottenProfilesHaveNoSeries(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	metrics := NewMetrics(registry)
	synctest.Test(t, func(t *testing.T) {
		ch := newChain(t, metrics)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, c := range ch.caches {
			running.Go(func() { c.Run(ctx) })
		}
		time.Sleep(time.Minute)
		cancel()
		running.Wait()
	})
	count := func() int {
		n, err := testutil.GatherAndCount(registry)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	metrics.Forget("second")
	if after := count(); after != before*2/3 {
		t.Errorf("%d series of %d are left", after, before)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if text := family.String(); strings.Contains(text, "second\"") {
			t.Errorf("left: %s", text)
		}
	}
	(*Metrics)(nil).Forget("second")
}
