package cache

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// authority issues credentials or fails, as a test decides.
type authority struct {
	mu       sync.Mutex
	calls    []time.Time
	lifetime time.Duration
	err      error
	takes    time.Duration
	skew     time.Duration // of our clock, ahead of the authority's
	edit     func(*Credentials)
}

func (a *authority) fetch(ctx context.Context) (Credentials, error) {
	a.mu.Lock()
	a.calls = append(a.calls, time.Now())
	n, lifetime, err, takes, skew, edit := len(a.calls), a.lifetime, a.err, a.takes, a.skew, a.edit
	a.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return Credentials{}, &FetchError{Reason: EndpointTimeout, Message: "timed out"}
	}
	if err != nil {
		return Credentials{}, err
	}
	c := Credentials{
		AccessKeyID: "ASIAEXAMPLE" + string(rune('A'+n%26)) + "00000001", SecretAccessKey: NewSecret(testSecret), SessionToken: NewSecret("token"),
		ServerTime: time.Now().Add(-skew).Truncate(time.Second),
		Expiration: time.Now().Add(lifetime - skew).UTC().Truncate(time.Second),
	}
	if edit != nil {
		edit(&c)
	}
	return c, nil
}

func (a *authority) set(change func(*authority)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.calls)
}

func fails(r Reason) func(*authority) {
	return func(a *authority) { a.err = &FetchError{Reason: r, Message: "a message"} }
}

func succeeds(a *authority) { a.err = nil }

// bubble runs f in fake time with a running Cache whose Random always returns a half.
func bubble(t *testing.T, a *authority, f func(t *testing.T, c *Cache)) {
	t.Helper()
	bubbleWith(t, a, Options{}, f)
}

func bubbleWith(t *testing.T, a *authority, o Options, f func(t *testing.T, c *Cache)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if a.lifetime == 0 {
			a.lifetime = time.Hour
		}
		o.Random = func() float64 { return 0.5 }
		c := New(a.fetch, o)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		synctest.Wait()
		f(t, c)
		cancel()
		<-ended
	})
}

func mustGet(t *testing.T, c *Cache) *Credentials {
	t.Helper()
	before := time.Now()
	creds, err := c.Get(t.Context())
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	if took := time.Since(before); took != 0 {
		t.Fatalf("Get took %v with valid credentials", took)
	}
	return creds
}

func mustFail(t *testing.T, c *Cache, want Reason, within time.Duration) {
	t.Helper()
	before := time.Now()
	creds, err := c.Get(t.Context())
	if creds != nil || err == nil {
		t.Fatalf("Get = %v, want the failure %s", creds, want)
	}
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != want {
		t.Fatalf("Get failed with %v, want %s", err, want)
	}
	if took := time.Since(before); took != within {
		t.Fatalf("Get failed after %v, want %v", took, within)
	}
}

func TestADayOfRefreshesServesNothingWithLessThanTwentySixMinutesLeft(t *testing.T) {
	a := &authority{}
	bubble(t, a, func(t *testing.T, c *Cache) {
		for range 24*60 - 1 {
			creds := mustGet(t, c)
			if left := time.Until(creds.Expiration); left < 26*time.Minute {
				t.Fatalf("served with %v left", left)
			}
			time.Sleep(time.Minute)
		}
		if n := a.count(); n != 50 { // one every 28m48s
			t.Errorf("%d exchanges in a day, want 50", n)
		}
	})
}

func TestAnOutageShorterThanTheCredentialsIsInvisible(t *testing.T) {
	a := &authority{}
	bubble(t, a, func(t *testing.T, c *Cache) {
		first := mustGet(t, c)
		a.set(fails(EndpointUnreachable))
		time.Sleep(59 * time.Minute)
		if a.count() < 20 {
			t.Fatalf("the outage was not met: %d exchanges", a.count())
		}
		if mustGet(t, c) != first {
			t.Fatal("the credentials were replaced during the outage")
		}
		if s := c.Status(); s.Failure == nil || s.Failures < 20 || s.Ready() {
			t.Errorf("status in the last minute of an outage: %+v", s)
		}
		a.set(succeeds)
		time.Sleep(30 * time.Second)
		if mustGet(t, c) == first {
			t.Error("not refreshed within one retry delay of the outage's end")
		}
		if s := c.Status(); s.Failure != nil || s.Failures != 0 || !s.Ready() {
			t.Errorf("status after the outage: %+v", s)
		}
	})
}

func TestTheLastGoodCredentialsAreServedToTheirVeryExpirationAndNoLonger(t *testing.T) {
	for _, reason := range []Reason{EndpointUnreachable, AccessDenied, ExpiredTokenException, Throttling} {
		a := &authority{}
		bubble(t, a, func(t *testing.T, c *Cache) {
			creds := mustGet(t, c)
			a.set(fails(reason))
			time.Sleep(time.Until(creds.Expiration) - time.Nanosecond)
			mustGet(t, c)
			time.Sleep(time.Nanosecond)
			if got, err := c.Get(t.Context()); err == nil {
				t.Errorf("%s: served %v at its expiration", reason, got.Expiration)
			}
		})
	}
}

func TestRefusedForAHumanTheLastGoodCredentialsStay(t *testing.T) {
	a := &authority{}
	bubble(t, a, func(t *testing.T, c *Cache) {
		a.set(fails(AccessDenied))
		time.Sleep(55 * time.Minute)
		mustGet(t, c)
		// 26 minutes of failures: quick retries for two, then about one every 2m30s.
		if n := a.count() - 1; n < 10 || n > 30 {
			t.Errorf("%d exchanges while STS refused", n)
		}
	})
}

func TestAThousandColdRequestsMakeOneExchange(t *testing.T) {
	a := &authority{takes: 300 * time.Millisecond}
	bubble(t, a, func(t *testing.T, c *Cache) {
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				before := time.Now()
				if _, err := c.Get(t.Context()); err != nil {
					t.Errorf("Get: %v", err)
				} else if took := time.Since(before); took != 300*time.Millisecond {
					t.Errorf("Get took %v", took)
				}
			})
		}
		wg.Wait()
		if n := a.count(); n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
	})
}

func TestAColdRequestWaitsSevenHundredMilliseconds(t *testing.T) {
	a := &authority{takes: time.Hour}
	bubble(t, a, func(t *testing.T, c *Cache) {
		mustFail(t, c, CredentialsUninitialized, 700*time.Millisecond)
		time.Sleep(exchangeTimeout) // the exchange is given up, and its failure known
		mustFail(t, c, EndpointTimeout, 700*time.Millisecond)
	})
}

func TestAnImpatientCallerSpoilsNothingForTheOthers(t *testing.T) {
	a := &authority{takes: 300 * time.Millisecond}
	bubble(t, a, func(t *testing.T, c *Cache) {
		hasty, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Get(hasty); err == nil {
			t.Error("Get with a cancelled context brought credentials out of nothing")
		}
		if _, err := c.Get(t.Context()); err != nil {
			t.Errorf("Get of another: %v", err)
		}
		if n := a.count(); n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
	})
}

func TestARecentFailureIsRememberedForItsRetryDelay(t *testing.T) {
	a := &authority{}
	fails(EndpointUnreachable)(a)
	bubble(t, a, func(t *testing.T, c *Cache) {
		for range 1000 {
			mustFail(t, c, EndpointUnreachable, 0)
		}
		if n := a.count(); n != 1 {
			t.Errorf("%d exchanges for a thousand requests, want 1", n)
		}
	})
}

// An exchange may end between a request's look at the last outcome and its wait for the next.
func TestALateRequestStartsNoSecondExchange(t *testing.T) {
	for _, outcome := range []func(*authority){succeeds, fails(EndpointUnreachable)} {
		a := &authority{}
		outcome(a)
		bubble(t, a, func(t *testing.T, c *Cache) {
			_, err := c.await(t.Context())
			if n := a.count(); n != 1 || (err == nil) != (a.err == nil) {
				t.Errorf("%d exchanges, want 1; the outcome is %v, want %v", n, err, a.err)
			}
		})
	}
}

func TestAGetAloneStartsAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authority{lifetime: time.Hour}
		c := New(a.fetch, Options{})
		if _, err := c.Get(t.Context()); err != nil {
			t.Fatalf("Get: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := c.Get(t.Context()); err != nil || a.count() != 2 {
			t.Errorf("Get after expiry: %v, %d exchanges, want 2", err, a.count())
		}
	})
}

func TestAReplacedTokenFileIsTriedWithinTwoSeconds(t *testing.T) {
	var replaced atomic.Bool
	var log bytes.Buffer
	a := &authority{err: &FetchError{Reason: ExpiredTokenException, Message: "expired", Changed: replaced.Load}}
	bubbleWith(t, a, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, c *Cache) {
		time.Sleep(10 * time.Minute)
		if n := a.count(); n != 3 { // at 3m45s and 7m30s
			t.Errorf("%d exchanges with the same expired token, want 3", n)
		}
		if !c.Status().Watching {
			t.Error("the status does not say that a change of the file helps")
		}
		a.set(succeeds)
		replaced.Store(true)
		time.Sleep(changePoll)
		synctest.Wait()
		mustGet(t, c)
		if c.Status().Watching {
			t.Error("nothing has failed, and the status says that a change of the file helps")
		}
	})
	for line := range strings.Lines(log.String()) {
		if failed := strings.Contains(line, "exchange failed"); failed != strings.Contains(line, ` retry_early="when the token file changes"`) {
			t.Error(line)
		}
		if _, after, found := strings.Cut(line, "retry_in="); found {
			if _, err := time.ParseDuration(strings.Fields(after)[0]); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestCredentialsThatCannotBeUsedReplaceNothing(t *testing.T) {
	for name, edit := range map[string]func(*Credentials){
		"empty":              func(c *Credentials) { *c = Credentials{} },
		"without a key":      func(c *Credentials) { c.AccessKeyID = "" },
		"without a secret":   func(c *Credentials) { c.SecretAccessKey = Secret{} },
		"without a token":    func(c *Credentials) { c.SessionToken = NewSecret("") },
		"without expiration": func(c *Credentials) { c.Expiration = time.Time{} },
		"expired":            func(c *Credentials) { c.Expiration = time.Now().Add(-time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			a := &authority{}
			bubble(t, a, func(t *testing.T, c *Cache) {
				first := mustGet(t, c)
				a.set(func(a *authority) { a.edit = edit })
				time.Sleep(30 * time.Minute)
				if a.count() < 2 {
					t.Fatal("there was no refresh")
				}
				if mustGet(t, c) != first {
					t.Error("replaced")
				}
				if s := c.Status(); s.Failure == nil || s.Failure.Reason != UnusableCredentials {
					t.Errorf("failure = %v", s.Failure)
				}
			})
		})
	}
}

func TestCredentialsThatDoNotLastLongerReplaceNothing(t *testing.T) {
	for name, expiration := range map[string]func(first time.Time) time.Time{
		"shorter":  func(time.Time) time.Time { return time.Now().Add(2 * time.Second) },
		"the same": func(first time.Time) time.Time { return first },
	} {
		t.Run(name, func(t *testing.T) {
			a := &authority{}
			bubble(t, a, func(t *testing.T, c *Cache) {
				first := mustGet(t, c)
				a.set(func(a *authority) { a.edit = func(c *Credentials) { c.Expiration = expiration(first.Expiration) } })
				time.Sleep(time.Until(first.Expiration) - 10*time.Second)
				if mustGet(t, c) != first {
					t.Error("replaced")
				}
				if n := a.count(); n < 3 || n > 20 {
					t.Errorf("%d exchanges in the hour, want a few", n)
				}
			})
		})
	}
}

func TestASlowExchangeAndASlowClockTogetherStretchNothing(t *testing.T) {
	a := &authority{takes: 4 * time.Second, skew: -5 * time.Second}
	bubble(t, a, func(t *testing.T, c *Cache) {
		time.Sleep(4 * time.Second)
		synctest.Wait()
		a.set(fails(EndpointUnreachable))
		time.Sleep(time.Hour - time.Nanosecond) // from when STS answered
		if _, err := c.Get(t.Context()); err == nil {
			if left := c.Status().Remaining; left > 0 && time.Now().Add(5*time.Second).After(c.Status().Credentials.Expiration) {
				t.Error("served beyond the expiration by STS's clock")
			}
		}
		time.Sleep(time.Nanosecond)
		if got, err := c.Get(t.Context()); err == nil {
			t.Errorf("served %v at its expiration by STS's clock", got.Expiration)
		}
	})
}

func TestAnotherClassOfFailureStartsItsOwnPatience(t *testing.T) {
	a := &authority{}
	fails(EndpointUnreachable)(a)
	bubble(t, a, func(t *testing.T, c *Cache) {
		time.Sleep(time.Hour)
		a.set(fails(EndpointNotFound))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if s := c.Status(); s.Failure.Reason != EndpointNotFound || time.Until(s.NextTry) > 30*time.Second {
			t.Errorf("next try in %v after a fresh %s", time.Until(s.NextTry), s.Failure.Reason)
		}
	})
}

func TestTheLastMinutesAreNotSleptThrough(t *testing.T) {
	a := &authority{}
	bubble(t, a, func(t *testing.T, c *Cache) {
		a.set(fails(AccessDenied))
		time.Sleep(59*time.Minute + 30*time.Second)
		a.set(succeeds)
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if s := c.Status(); s.Remaining < time.Minute {
			t.Errorf("%v left, and the next try in %v", s.Remaining, time.Until(s.NextTry))
		}
	})
}

func TestTheLifetimeIsMeasuredByTheServersClock(t *testing.T) {
	for _, skew := range []time.Duration{-2 * time.Hour, -7 * time.Minute, 7 * time.Minute, 2 * time.Hour} {
		var log bytes.Buffer
		a := &authority{skew: skew}
		bubbleWith(t, a, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, c *Cache) {
			a.set(fails(EndpointUnreachable))
			time.Sleep(time.Hour - 2*time.Second)
			mustGet(t, c)
			time.Sleep(2 * time.Second)
			if _, err := c.Get(t.Context()); err == nil {
				t.Errorf("skew %v: served after an hour", skew)
			}
		})
		if !strings.Contains(log.String(), "level=ERROR msg=\"credentials refreshed, but this node's clock is wrong") {
			t.Errorf("skew %v: not logged: %s", skew, log.String())
		}
	}
}

// Both clocks, because a bubble has only one.
func TestValidityByBothClocks(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		name    string
		skew    time.Duration // of the wall clock when issued
		elapsed time.Duration // by the monotonic clock
		wall    time.Duration // by the wall clock, since noon by STS's
		valid   bool
	}{
		{"fresh", 0, 0, 0, true},
		{"in its last instant", 0, time.Hour - 1, time.Hour - 1, true},
		{"expired", 0, time.Hour, time.Hour, false},
		{"the node was suspended beyond the expiration", 0, time.Minute, 2 * time.Hour, false},
		{"the clock was set back", 0, time.Hour, -time.Hour, false},
		{"the clock was wrong all along: ahead", 2 * time.Hour, time.Minute, 2*time.Hour + time.Minute, true},
		{"the clock was ahead and has been put right", 2 * time.Hour, time.Minute, time.Minute, true},
		{"the clock was behind and has been put right", -2 * time.Hour, time.Minute, time.Minute, true},
		{"the clock was ahead, and the node suspended", 2 * time.Hour, time.Minute, 4 * time.Hour, false},
	} {
		l := &lease{Credentials: Credentials{Expiration: noon.Add(time.Hour)}, issued: noon, lifetime: time.Hour, skew: row.skew}
		if got := l.remainingAt(row.elapsed, noon.Add(row.wall)) > 0; got != row.valid {
			t.Errorf("%s: valid = %v, want %v", row.name, got, row.valid)
		}
	}
}

func TestAResumedNodeRefreshesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authority{lifetime: time.Hour}
		c := New(a.fetch, Options{})
		var suspended atomic.Bool
		c.jump = func(time.Time, time.Time) time.Duration {
			if suspended.CompareAndSwap(true, false) {
				return 3 * time.Hour
			}
			return 0
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		time.Sleep(10*time.Minute + time.Second)
		suspended.Store(true)
		time.Sleep(longestSleep)
		synctest.Wait()
		if n := a.count(); n != 2 {
			t.Errorf("%d exchanges, want a second one within %v of the jump", n, longestSleep)
		}
		cancel()
		<-ended
	})
}

func TestRunEndsTheExchangeUnderWayWithItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authority{lifetime: time.Hour, takes: 4 * time.Second}
		c := New(a.fetch, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		synctest.Wait()
		before := time.Now()
		cancel()
		<-ended
		if took := time.Since(before); took != 0 {
			t.Errorf("Run ended after %v", took)
		}
	})
}

func TestReadyNeedsAMinuteOrATenthOfAShortLife(t *testing.T) {
	for _, row := range []struct {
		remaining, lifetime time.Duration
		want                bool
	}{
		{time.Hour, time.Hour, true},
		{time.Minute + 1, time.Hour, true},
		{time.Minute, time.Hour, false},
		{2*time.Second + 1, 20 * time.Second, true},
		{2 * time.Second, 20 * time.Second, false},
	} {
		s := Status{Credentials: &Credentials{}, Remaining: row.remaining, Lifetime: row.lifetime}
		if s.Ready() != row.want {
			t.Errorf("Ready with %v of %v left = %v", row.remaining, row.lifetime, s.Ready())
		}
	}
	if (Status{Remaining: time.Hour, Lifetime: time.Hour}).Ready() {
		t.Error("ready without credentials")
	}
}

func TestOneLogLineForAnExchange(t *testing.T) {
	var log bytes.Buffer
	a := &authority{}
	bubbleWith(t, a, Options{Profile: "reports", Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, c *Cache) {
		for range 100 {
			mustGet(t, c)
		}
		a.set(fails(AccessDenied))
		time.Sleep(29 * time.Minute)
	})
	want := `time=2000-01-01T00:00:00.000Z level=INFO msg="credentials refreshed" profile=reports access_key=****0001 expiration=2000-01-01T01:00:00.000Z lifetime=1h0m0s refresh_in=28m48s took=0s
time=2000-01-01T00:28:48.000Z level=WARN msg="exchange failed" profile=reports reason=AccessDenied message="a message" hint="` + AccessDenied.Advice() + `" serving="the last good credentials, valid for another 31m12s" failures=1 retry_in=500ms
time=2000-01-01T00:28:48.500Z level=WARN msg="exchange failed" profile=reports reason=AccessDenied message="a message" hint="allow the Pod's service account in the role's trust policy" serving="the last good credentials, valid for another 31m12s" failures=2 retry_in=1s
`
	if got := log.String(); !strings.HasPrefix(got, want) {
		t.Errorf("log:\n%s\nwant first:\n%s", got, want)
	}
	if strings.Contains(log.String(), testSecret) {
		t.Error("the log holds the secret")
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	a := &authority{edit: func(c *Credentials) { c.TokenExpiration = time.Unix(946771200, 0) }}
	bubbleWith(t, a, Options{Profile: "reports", Metrics: NewMetrics(registry)}, func(t *testing.T, c *Cache) {
		a.set(func(a *authority) { fails(AccessDenied)(a) })
		time.Sleep(29 * time.Minute)
	})
	n := strings.NewReader(`
# HELP irsa_sidecar_credentials_expiry_timestamp_seconds When the credentials being served expire, in Unix time.
# TYPE irsa_sidecar_credentials_expiry_timestamp_seconds gauge
irsa_sidecar_credentials_expiry_timestamp_seconds{profile="reports"} 9.466884e+08
# HELP irsa_sidecar_last_refresh_success_timestamp_seconds When an exchange with STS last succeeded, in Unix time.
# TYPE irsa_sidecar_last_refresh_success_timestamp_seconds gauge
irsa_sidecar_last_refresh_success_timestamp_seconds{profile="reports"} 9.466848e+08
# HELP irsa_sidecar_token_expiry_timestamp_seconds When the web identity token that was last read expires, in Unix time.
# TYPE irsa_sidecar_token_expiry_timestamp_seconds gauge
irsa_sidecar_token_expiry_timestamp_seconds{profile="reports"} 9.467712e+08
`)
	if err := testutil.GatherAndCompare(registry, n, "irsa_sidecar_credentials_expiry_timestamp_seconds",
		"irsa_sidecar_last_refresh_success_timestamp_seconds", "irsa_sidecar_token_expiry_timestamp_seconds"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	if n := testutil.CollectAndCount(registry, "irsa_sidecar_refreshes_total"); n != 2 {
		t.Errorf("%d outcomes counted, want ok and AccessDenied", n)
	}
}

func TestTheLastTenExchangesAreRemembered(t *testing.T) {
	a := &authority{takes: 2 * time.Second}
	bubble(t, a, func(t *testing.T, c *Cache) {
		time.Sleep(time.Minute)
		before := c.Status().Attempts
		if len(before) != 1 || before[0].Took != 2*time.Second || before[0].Reason != "" || before[0].Lifetime < time.Hour-2*time.Second {
			t.Fatalf("after one exchange: %+v", before)
		}
		a.set(func(a *authority) { a.err = &FetchError{Reason: Throttling} })
		time.Sleep(2 * time.Hour)
		after := c.Status().Attempts
		if len(after) != attemptsKept {
			t.Fatalf("%d are remembered, want %d", len(after), attemptsKept)
		}
		for i, attempt := range after {
			if attempt.Reason != Throttling || attempt.Lifetime != 0 || attempt.Took != 2*time.Second {
				t.Errorf("attempt %d is %+v", i, attempt)
			}
			if i > 0 && !attempt.Ended.Before(after[i-1].Ended) {
				t.Errorf("attempt %d, at %v, is not older than the one before it, at %v", i, attempt.Ended, after[i-1].Ended)
			}
		}
		if len(before) != 1 || before[0].Reason != "" {
			t.Errorf("what an earlier Status had has changed: %+v", before)
		}
	})
}

// restored returns a Cache with credentials from an earlier run, which work for as long as remaining.
func restored(a *authority, remaining time.Duration, kept *[]time.Duration) *Cache {
	return New(a.fetch, Options{
		Random: func() float64 { return 0.5 },
		Restore: func() *Kept {
			return &Kept{Remaining: remaining, Credentials: &Credentials{
				AccessKeyID: "ASIARESTORED00000001", SecretAccessKey: NewSecret(testSecret), SessionToken: NewSecret("token"),
				Expiration: time.Now().Add(remaining),
			}}
		},
		Keep: func(k Kept) { *kept = append(*kept, k.Remaining) },
	})
}

func TestRestoredCredentialsAreServedToTheirEndWithoutSTS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authority{err: &FetchError{Reason: EndpointUnreachable}}
		var kept []time.Duration
		c := restored(a, 20*time.Minute, &kept)
		if s := c.Status(); !s.Started() || !s.Ready() || s.Remaining != 20*time.Minute {
			t.Errorf("before the first exchange: %+v", s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		time.Sleep(20*time.Minute - 1)
		if creds := mustGet(t, c); creds.AccessKeyID != "ASIARESTORED00000001" {
			t.Errorf("served %s", creds.AccessKeyID)
		}
		time.Sleep(1)
		if creds, err := c.Get(t.Context()); creds != nil || err == nil {
			t.Error("served after their end")
		}
		if a.count() < 40 { // STS is tried all the while
			t.Errorf("%d exchanges in 20 minutes", a.count())
		}
		if kept != nil {
			t.Errorf("what was restored was kept again: %v", kept)
		}
		cancel()
		<-ended
	})
}

func TestAnExchangeFollowsRestoredCredentialsAtOnceAndIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authority{lifetime: time.Hour}
		var kept []time.Duration
		c := restored(a, 20*time.Minute, &kept)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		synctest.Wait()
		if creds := mustGet(t, c); creds.AccessKeyID == "ASIARESTORED00000001" || a.count() != 1 {
			t.Errorf("after %d exchanges served %s", a.count(), creds.AccessKeyID)
		}
		if len(kept) != 1 || kept[0] < time.Hour-2*time.Second {
			t.Errorf("kept: %v", kept)
		}
		cancel()
		<-ended
	})
}

// A record counts as far as it is plausible, and the wall clock ends the rest: a record that others have changed does not
// make expired credentials valid.
func TestTheWallClockHasASayAboutRestoredCredentials(t *testing.T) {
	const years = 6 * 365 * 24 * time.Hour
	for _, row := range []struct {
		name            string
		remaining, skew time.Duration // as recorded
		expires         time.Duration // from now on, by the wall clock
		left            time.Duration
	}{
		{"a clock that is right", 10 * time.Minute, 0, 10 * time.Minute, 10 * time.Minute},
		{"ahead when issued, and still", 10 * time.Minute, 6 * time.Hour, 10*time.Minute - 6*time.Hour, 10 * time.Minute},
		{"ahead by as much as is believed", 10 * time.Minute, keptSkew, 10*time.Minute - keptSkew, 10 * time.Minute},
		{"ahead by a second more", 10 * time.Minute, keptSkew + time.Second, 10*time.Minute - keptSkew - time.Second, 10*time.Minute - time.Second},
		{"ahead by all their time more", 10 * time.Minute, keptSkew + 10*time.Minute, -keptSkew, 0},
		{"ahead when issued, and put right", 10 * time.Minute, 6 * time.Hour, 10 * time.Minute, 10 * time.Minute},
		{"behind when issued, and still", 10 * time.Minute, -6 * time.Hour, 10*time.Minute + 6*time.Hour, 10 * time.Minute},
		{"behind when issued, and put right", 10 * time.Minute, -6 * time.Hour, 10 * time.Minute, 10 * time.Minute},
		{"right when issued, and set back", 10 * time.Minute, 0, 6 * time.Hour, 10 * time.Minute},
		{"right when issued, and set ahead past their end", 10 * time.Minute, 0, 0, 0},
		{"longer than until Expiration", 12 * time.Hour, 0, 10 * time.Minute, 10 * time.Minute},
		{"longer than until Expiration, with a skew", 12 * time.Hour, 6 * time.Hour, 10 * time.Minute, 6*time.Hour + 10*time.Minute},
		{"longer than until Expiration, with one that takes away", 12 * time.Hour, -6 * time.Hour, 10 * time.Minute, 10 * time.Minute},
		{"expired for years", 12 * time.Hour, 0, -years, 0},
		{"expired for years, with a skew of years", 12 * time.Hour, years, -years, 0},
		{"expired for years, with a skew without bounds", 12 * time.Hour, math.MaxInt64, -years, 0},
		{"expired for centuries, with a skew without bounds", 12 * time.Hour, math.MinInt64, math.MinInt64, 0},
		{"valid for centuries, with a skew without bounds", 10 * time.Minute, math.MaxInt64, math.MaxInt64, 10 * time.Minute},
		{"nothing left", 0, 0, time.Hour, 0},
		{"less than nothing left", math.MinInt64, math.MaxInt64, time.Hour, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &Kept{
					Credentials: &Credentials{AccessKeyID: "ASIARESTORED00000001", Expiration: time.Now().Add(row.expires)},
					Remaining:   row.remaining, Skew: row.skew,
				}
				if left := max(0, k.Left(time.Now())); left != row.left {
					t.Errorf("%v left, want %v", left, row.left)
				}
				c := New((&authority{err: &FetchError{Reason: EndpointUnreachable}}).fetch, Options{Restore: func() *Kept { return k }})
				if row.left > 0 {
					time.Sleep(row.left - 1)
					mustGet(t, c)
					time.Sleep(1)
				}
				if c.Status().Credentials != nil {
					t.Errorf("valid after %v", row.left)
				}
			})
		})
	}
}

func TestCredentialsOfAWrongClockAreKeptAndRestored(t *testing.T) {
	for _, skew := range []time.Duration{0, 2 * time.Hour, -2 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var kept []Kept
			c := New((&authority{lifetime: time.Hour, skew: skew}).fetch, Options{Keep: func(k Kept) { kept = append(kept, k) }})
			mustGet(t, c)
			if len(kept) != 1 || (kept[0].Skew-skew).Abs() > clockNoise {
				t.Fatalf("with a clock that is %v off, this was kept: %+v", skew, kept)
			}
			if left := kept[0].Left(time.Now()); left != kept[0].Remaining || left < time.Hour-2*time.Second {
				t.Errorf("with a clock that is %v off, %v are left of %v", skew, left, kept[0].Remaining)
			}
		})
	}
}

func TestAnExchangeThatIsAskedForComesAtOnceAndNoOftenerThanEverySecond(t *testing.T) {
	a := &authority{}
	bubble(t, a, func(t *testing.T, c *Cache) {
		time.Sleep(10 * time.Minute)
		first := mustGet(t, c)
		c.Refresh(false)
		synctest.Wait()
		if n := a.count(); n != 2 || mustGet(t, c) == first {
			t.Fatalf("%d exchanges after the first was asked for", n)
		}
		began := time.Now()
		for range 1000 { // a hundred times a second
			c.Refresh(false)
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if n := a.count() - 2; n != 10 {
			t.Errorf("asked for during %v, %d exchanges", time.Since(began), n)
		}
		time.Sleep(20 * time.Minute)
		if n := a.count() - 2; n > 11 {
			t.Errorf("%d exchanges later, when nobody asked", n)
		}
	})
}

func TestAnExchangeThatIsAskedForWhileOneIsUnderWayFollowsIt(t *testing.T) {
	for name, takes := range map[string]time.Duration{"a quick one": 100 * time.Millisecond, "a slow one": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			a := &authority{takes: takes}
			bubble(t, a, func(t *testing.T, c *Cache) {
				time.Sleep(takes / 2)
				c.Refresh(false)
				c.Refresh(false)
				time.Sleep(max(askedPause, takes))
				if n := a.count(); n != 2 {
					t.Errorf("%d exchanges after %v, want the first and another", n, time.Since(a.calls[0]))
				}
				time.Sleep(10 * time.Minute)
				if n := a.count(); n != 2 {
					t.Errorf("%d exchanges in the end", n)
				}
			})
		})
	}
}

func TestAnExchangeThatIsAskedForDoesNotWaitForTheRetry(t *testing.T) {
	a := &authority{}
	fails(AccessDenied)(a)
	bubble(t, a, func(t *testing.T, c *Cache) {
		time.Sleep(10 * time.Minute)
		a.set(succeeds)
		c.Refresh(false)
		time.Sleep(askedPause)
		mustGet(t, c)
	})
}

// Credentials of the old policy do not stay because those of the new one expire earlier.
func TestAnotherPolicyReplacesWhatLastsLonger(t *testing.T) {
	a := &authority{}
	bubble(t, a, func(t *testing.T, c *Cache) {
		first := mustGet(t, c)
		time.Sleep(time.Minute)
		a.set(func(a *authority) { a.lifetime = 30 * time.Minute })
		c.Refresh(false)
		synctest.Wait()
		if n := a.count(); n != 2 || mustGet(t, c) != first {
			t.Errorf("%d exchanges, and credentials that end earlier have replaced the others", n)
		}
		time.Sleep(time.Minute)
		a.set(fails(EndpointUnreachable))
		c.Refresh(true)
		synctest.Wait()
		if mustGet(t, c) != first {
			t.Error("a failure has taken credentials away")
		}
		a.set(succeeds)
		time.Sleep(time.Minute)
		second := mustGet(t, c)
		if second == first {
			t.Error("those that were asked for before the change are still served")
		}
		time.Sleep(time.Minute)
		a.set(func(a *authority) { a.lifetime = 10 * time.Minute })
		c.Refresh(false)
		synctest.Wait()
		if mustGet(t, c) != second {
			t.Error("the change is not forgotten")
		}
	})
}

func TestAnExchangeThatBeganBeforeAChangeIsNotTakenForItsResult(t *testing.T) {
	a := &authority{}
	bubble(t, a, func(t *testing.T, c *Cache) {
		first := mustGet(t, c)
		time.Sleep(time.Minute)
		a.set(func(a *authority) { a.lifetime, a.takes = 30*time.Minute, 2*time.Second })
		c.Refresh(false)
		time.Sleep(time.Second)
		c.Refresh(true) // in the middle of it
		time.Sleep(1500 * time.Millisecond)
		if mustGet(t, c) != first {
			t.Error("an exchange that began before the change has replaced what lasts longer")
		}
		time.Sleep(2 * time.Second)
		if mustGet(t, c) == first {
			t.Error("the exchange after the change has not")
		}
	})
}

// A file may have been forged; the first session from STS replaces it.
func TestRestoredCredentialsThatLastLongerAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authority{lifetime: time.Hour}
		fails(EndpointUnreachable)(a)
		kept := Credentials{
			AccessKeyID: "ASIARESTORED", SecretAccessKey: NewSecret(testSecret), SessionToken: NewSecret("token"),
			Expiration: time.Now().Add(11 * time.Hour).UTC(),
		}
		c := New(a.fetch, Options{Random: func() float64 { return 0.5 }, Restore: func() *Kept { return &Kept{Credentials: &kept, Remaining: 11 * time.Hour} }})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		time.Sleep(time.Minute)
		if mustGet(t, c).AccessKeyID != kept.AccessKeyID {
			t.Error("a failure has taken what was restored away")
		}
		a.set(succeeds)
		time.Sleep(time.Minute)
		if mustGet(t, c).AccessKeyID == kept.AccessKeyID {
			t.Error("what was restored is served on, although STS has issued a session")
		}
		cancel()
		<-ended
	})
}

func TestAProfileKeepsTheNameItWasGiven(t *testing.T) {
	for _, name := range []string{"", "reports"} {
		c := New((&authority{}).fetch, Options{Profile: name})
		if c.Profile() != name || c.Status().Profile != name {
			t.Errorf("%q is called %q, and %q in its status", name, c.Profile(), c.Status().Profile)
		}
	}
}

func TestAFailureOfTheSourceNamesTheHopOnce(t *testing.T) {
	changed := func() bool { return true }
	own := &FetchError{Reason: AccessDenied, Message: "refused", Changed: changed}
	once := own.Via("a")
	twice := once.Via("b")
	for _, e := range []*FetchError{once, twice} {
		if e.Profile != "a" || e.Error() != `AccessDenied: source profile "a": refused` || e.Changed == nil {
			t.Errorf("%+v", e)
		}
	}
	if own.Profile != "" || own.Message != "refused" {
		t.Errorf("the original is changed: %+v", own)
	}
}
