package cache

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// coldWait is the longest that Get keeps a caller who finds nothing valid: Java, JavaScript, Ruby
	// and PHP give up on the endpoint after one second.
	coldWait = 700 * time.Millisecond

	// exchangeTimeout bounds one exchange. STS itself may take five seconds to fetch an issuer's keys.
	exchangeTimeout = 5 * time.Second

	// changePoll is how often a refused token file is looked at.
	changePoll = 2 * time.Second

	// longestSleep bounds the time after which a resumed node is noticed: timers run on the monotonic
	// clock, which stands still while a node is suspended. Get looks at the wall clock itself, so this
	// is for the refresh alone, and an idle process should sleep.
	longestSleep = 5 * time.Minute

	// askedPause is the least time between the starts of two exchanges of which somebody has asked for the
	// second one.
	askedPause = time.Second

	// stuckAfter is how much longer than it may take an exchange, or the pause before it, has to last for the
	// refresh to count as stuck.
	stuckAfter = 30 * time.Second

	// clockNoise is as much as two good clocks may differ here: the Date header counts whole seconds,
	// and the answer takes a moment to arrive.
	clockNoise = 2 * time.Second

	// clockSkewWarning and clockSkewRefused grade a wrong local clock. From five minutes on, AWS refuses
	// what the application signs.
	clockSkewWarning = time.Minute
	clockSkewRefused = 5 * time.Minute

	// keptSkew is the most that is believed of a recorded clock skew, because anyone who can write the file can claim any. A
	// clock that shows local time as UTC is at most 14 hours off, and a date that is set wrong by one, a day; with one
	// that is further ahead, a restart loses what was kept.
	keptSkew = 24 * time.Hour
)

// Fetch makes one exchange. It returns when ctx ends, it does not retry, and it fails with a
// [FetchError]. It is never called twice at once for the same Cache.
type Fetch func(ctx context.Context) (Credentials, error)

// Options configure a Cache. The zero Options are usable.
type Options struct {
	// Profile is the name of the credentials in logs, metrics and [Status]. Empty is a name like any other.
	Profile string

	// Logger gets one line for each exchange. Nil discards them.
	Logger *slog.Logger

	// Metrics count the exchanges. Nil counts nothing.
	Metrics *Metrics

	// Restore returns what an earlier run of the program has kept; nil where there is nothing. It is called
	// once, by New. Nil restores nothing.
	Restore func() *Kept

	// Keep is called with all credentials that are taken in: one call at a time, and before they have been
	// answered with, so every moment that it takes is one that callers wait. Nil keeps nothing.
	Keep func(Kept)

	// Luck draws a number in [0,1) for each refresh and each retry. Nil means math/rand/v2's.
	Luck func() float64
}

// Cache holds one role's credentials and keeps them fresh while Run runs. What it has obtained it
// keeps until it expires, whatever goes wrong meanwhile; nothing replaces valid credentials but newer
// valid ones.
type Cache struct {
	fetch   Fetch
	profile string
	logger  *slog.Logger
	metrics *profileMetrics
	luck    func() float64
	keep    func(Kept)
	jump    func(then, now time.Time) time.Duration // wallJump, but for a test

	flight singleflight.Group
	ctx    context.Context // ends with Run, and every exchange with it
	cancel context.CancelFunc
	wake   chan struct{} // an exchange has ended; Run looks at its schedule again

	lease atomic.Pointer[lease] // the last good credentials, expired or not; nil before the first

	mu           sync.Mutex
	next         time.Time   // when to try again; zero while an exchange is under way, and before the first
	began        time.Time   // when the last exchange did; when the Cache was made, before the first
	asked        bool        // for another exchange, while one was under way
	changed      bool        // what is asked for, since what is held was
	failure      *FetchError // of the last exchange; nil when it succeeded
	failedAt     time.Time
	firstFailure time.Time // of the failures in a row
	failures     int
	attempts     []Attempt // newest first
}

// Attempt is an exchange that has ended.
type Attempt struct {
	Ended    time.Time
	Took     time.Duration
	Reason   Reason        // of the failure; empty when it succeeded
	Lifetime time.Duration // of what it brought; zero when it failed
}

// attemptsKept is how many a person looks back at.
const attemptsKept = 10

// attempted notes an exchange. The slice is a new one each time: a Status may hold the old.
func (c *Cache) attempted(a Attempt) {
	c.attempts = append([]Attempt{a}, c.attempts[:min(len(c.attempts), attemptsKept-1)]...)
}

// lease is one set of credentials with what this machine's clocks say about it.
type lease struct {
	Credentials
	issued   time.Time     // when the exchange began, on both clocks
	lifetime time.Duration // from then on
	skew     time.Duration // of the local wall clock, ahead of STS's; zero when it is but noise
}

// New returns a Cache that is empty until Run, or the first Get, has made an exchange.
func New(fetch Fetch, o Options) *Cache {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Luck == nil {
		o.Luck = rand.Float64
	}
	if o.Keep == nil {
		o.Keep = func(Kept) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cache{
		fetch:   fetch,
		profile: o.Profile,
		logger:  o.Logger.With("profile", o.Profile),
		metrics: o.Metrics.forProfile(o.Profile),
		luck:    o.Luck,
		keep:    o.Keep,
		jump:    wallJump,
		ctx:     ctx,
		cancel:  cancel,
		wake:    make(chan struct{}, 1),
		began:   time.Now(),
	}
	if o.Restore != nil {
		c.restore(o.Restore())
	}
	return c
}

// Profile returns the name that Options gave the credentials.
func (c *Cache) Profile() string { return c.profile }

// Kept is what outlives the program: credentials, and what its clocks said about them.
type Kept struct {
	Credentials *Credentials

	// Remaining is how long they still work, by a clock that nobody sets: from the call of Keep on, or from
	// that of Restore.
	Remaining time.Duration

	// Skew is by how much the wall clock was ahead of STS's when they were issued; zero when they agreed.
	Skew time.Duration
}

// Left is how long the credentials work from now on, when the wall clock says wall; zero or less when they do
// not. A Cache that is given them to restore comes to the same, as long as the wall clock does not change.
func (k *Kept) Left(wall time.Time) time.Duration {
	return k.lease(wall).remainingAt(0, wall.Round(0))
}

// lease is what is left of an earlier one. It is judged by the same rule, so with Expiration and the wall clock
// too: what has been kept may have been changed by others, who must not make expired credentials look valid.
func (k *Kept) lease(now time.Time) *lease {
	return &lease{Credentials: *k.Credentials, issued: now, lifetime: k.Remaining, skew: max(-keptSkew, min(k.Skew, keptSkew))}
}

// restore takes in what has been kept, if it still works. The next exchange is due at once all the same.
func (c *Cache) restore(k *Kept) {
	if k == nil {
		return
	}
	now := time.Now()
	if l := k.lease(now); l.valid(now) {
		c.lease.Store(l)
		c.metrics.restored(&l.Credentials)
		c.changed = true // what STS itself says goes before what a file does, whichever lasts longer
	}
}

// Get returns valid credentials. With some at hand it returns at once and never starts an exchange.
// With none it joins the exchange under way or starts one, and waits for it at most 700 ms, unless
// the last one failed just now: then that failure is returned until its retry is due. The error is
// always a [*FetchError].
func (c *Cache) Get(ctx context.Context) (*Credentials, error) {
	if l := c.lease.Load(); l.valid(time.Now()) {
		return &l.Credentials, nil
	}
	if failure := c.remembered(); failure != nil {
		return nil, failure
	}
	timer := time.NewTimer(coldWait)
	defer timer.Stop()
	select {
	case <-c.exchange():
	case <-timer.C:
	case <-ctx.Done():
	}
	if l := c.lease.Load(); l.valid(time.Now()) {
		return &l.Credentials, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		return nil, c.failure
	}
	return nil, &FetchError{Reason: CredentialsUninitialized, Message: "the exchange with STS has not ended yet"}
}

// remembered returns the last failure for as long as its retry is not due.
func (c *Cache) remembered() *FetchError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil && time.Now().Before(c.next) {
		return c.failure
	}
	return nil
}

// Run keeps the credentials fresh until ctx ends, the first exchange at once. It returns when the
// exchange then under way has ended too. A Cache runs once.
func (c *Cache) Run(ctx context.Context) {
	defer func() {
		c.cancel()
		<-c.exchange()
	}()
	clocks := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		if jump := c.jump(clocks, now); jump.Abs() > clockNoise {
			c.logger.Warn("the clock jumped: the node was suspended, or its clock was set", "by", jump.Round(time.Second).String())
			c.hurry()
		}
		clocks = now

		sleep, changed := c.schedule(now)
		if sleep <= 0 || (changed != nil && changed()) {
			select {
			case <-c.exchange():
			case <-ctx.Done():
				return
			}
			continue
		}
		timer := time.NewTimer(sleep)
		select {
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// schedule returns how long Run may sleep, and what to ask when it wakes.
func (c *Cache) schedule(now time.Time) (sleep time.Duration, changed func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sleep = min(c.next.Sub(now), longestSleep)
	if c.failure != nil && c.failure.Changed != nil {
		changed = c.failure.Changed
		sleep = min(sleep, changePoll)
	}
	return sleep, changed
}

// hurry makes the next exchange due.
func (c *Cache) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = time.Time{}
}

// Refresh has Run make an exchange at once; or a second after the last one began, whichever is later. What an
// exchange under way has read may be what the caller knows to be old, so another follows it.
//
// changed says that Fetch asks for something else from now on, such as a session with another policy. What it then
// brings replaces what is held even if it does not last longer.
func (c *Cache) Refresh(changed bool) {
	c.mu.Lock()
	c.changed = c.changed || changed
	if c.next.IsZero() {
		c.asked = true
	} else {
		c.next = c.soonest()
	}
	c.mu.Unlock()
	c.look()
}

// soonest is when an exchange that somebody has asked for may begin.
func (c *Cache) soonest() time.Time { return c.began.Add(askedPause) }

// look has Run look at its schedule again.
func (c *Cache) look() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// wallJump returns how much further the wall clock moved than the monotonic clock did.
func wallJump(then, now time.Time) time.Duration {
	return now.Round(0).Sub(then.Round(0)) - now.Sub(then)
}

// exchange joins the exchange under way, or starts one. It belongs to no caller: one who gives up
// does not end it for the others.
func (c *Cache) exchange() <-chan singleflight.Result {
	return c.flight.DoChan("", func() (any, error) {
		if c.ctx.Err() != nil {
			return nil, nil
		}
		started := c.begin()
		ctx, cancel := context.WithTimeout(c.ctx, exchangeTimeout)
		defer cancel()
		creds, err := c.fetch(ctx)
		if c.ctx.Err() == nil {
			c.settle(creds, err, started)
		}
		c.look()
		return nil, nil
	})
}

// begin notes that an exchange is under way: a failure that is remembered must not hide the one that may end it.
func (c *Cache) begin() (now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = time.Now()
	c.next, c.began, c.asked = time.Time{}, now, false
	return now
}

// due sets when the next exchange is: at the latest when somebody has asked for one.
func (c *Cache) due(at time.Time) {
	if c.next = at; c.asked && c.soonest().Before(at) {
		c.next = c.soonest()
	}
	c.asked = false
}

// settle takes in the outcome of an exchange that began at started.
func (c *Cache) settle(creds Credentials, err error, started time.Time) {
	now := time.Now()
	var l *lease
	if err == nil {
		l, err = newLease(creds, started, now)
	}
	if err != nil {
		c.failed(asFetchError(err), started, now)
		return
	}
	c.succeeded(l, started, now)
}

// succeeded takes in new credentials, if they last longer than what there is. They do not where the
// session ends with the token, and the token is the same; or where the role's sessions have been made
// shorter.
func (c *Cache) succeeded(l *lease, started, now time.Time) {
	message, lifetime := "credentials refreshed", l.lifetime
	held := c.lease.Load()
	c.mu.Lock()
	// An exchange that began before the change may have asked for the old; another follows it.
	changed := c.changed && !c.asked
	c.mu.Unlock()
	stays := held.valid(now) && !l.Expiration.After(held.Expiration) && !changed
	if !stays {
		// First, so that what anybody has been answered with survives a kill.
		c.keep(Kept{Credentials: &l.Credentials, Remaining: l.remaining(now), Skew: l.skew})
	}
	c.mu.Lock()
	if stays {
		message = "the new credentials do not last longer: those at hand stay"
		l = held
		c.due(now.Add(max(time.Second, refreshAfter(l.remaining(now), c.luck()))))
	} else {
		c.lease.Store(l)
		c.due(l.issued.Add(refreshAfter(l.lifetime, c.luck())))
	}
	c.failure, c.failures = nil, 0
	c.changed = c.changed && !changed
	c.attempted(Attempt{Ended: now, Took: now.Sub(started), Lifetime: lifetime})
	c.metrics.succeeded(&l.Credentials, now, now.Sub(started))
	next := c.next
	c.mu.Unlock()

	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("access_key", l.KeyHint()),
		slog.Time("expiration", l.Expiration),
		slog.String("lifetime", l.lifetime.Round(time.Second).String()),
		slog.String("refresh_in", next.Sub(now).Round(time.Second).String()),
		slog.String("took", now.Sub(started).Round(time.Millisecond).String()),
	}
	if l.Identity != "" {
		attrs = append(attrs, slog.String("identity", l.Identity))
	}
	if l.skew.Abs() > clockSkewWarning {
		level = slog.LevelWarn
		message += ", but this node's clock is wrong: AWS refuses requests signed more than 5 minutes off"
		if l.skew.Abs() >= clockSkewRefused {
			level = slog.LevelError
		}
		attrs = append(attrs, slog.String("clock_skew", l.skew.Round(time.Second).String()))
	}
	c.logger.LogAttrs(context.Background(), level, message, attrs...)
}

// failed notes a failure. What is still valid stays.
func (c *Cache) failed(failure *FetchError, started, now time.Time) {
	class := failure.Reason.Class()
	held := c.lease.Load()
	c.mu.Lock()
	advice := failure.ShortAdvice()
	if c.failure == nil || c.failure.Reason != failure.Reason {
		advice = failure.Advice() // once in a row: the log should stay readable
	}
	if c.failure == nil || c.failure.Reason.Class() != class {
		c.failures, c.firstFailure = 0, now // another fault, another patience
	}
	c.failure, c.failedAt = failure, now
	c.failures++
	failures := c.failures
	delay := retryAfter(class, failures, now.Sub(c.firstFailure), c.luck())
	if held.valid(now) {
		delay = whileValid(delay, held.remaining(now))
	}
	c.due(now.Add(delay))
	next := c.next
	c.attempted(Attempt{Ended: now, Took: now.Sub(started), Reason: failure.Reason})
	c.metrics.failed(failure, now.Sub(started))
	c.mu.Unlock()

	level, serving := slog.LevelError, "nothing: there are no valid credentials"
	if held.valid(now) {
		level, serving = slog.LevelWarn, fmt.Sprintf("the last good credentials, valid for another %s", held.remaining(now).Round(time.Second))
	}
	attrs := []slog.Attr{
		slog.String("reason", string(failure.Reason)),
		slog.String("message", failure.Message),
		slog.String("hint", advice),
		slog.String("serving", serving),
		slog.Int("failures", failures),
		slog.String("retry_in", next.Sub(now).Round(time.Millisecond).String()),
	}
	if failure.Changed != nil {
		attrs = append(attrs, slog.String("retry_early", "when the token file changes"))
	}
	c.logger.LogAttrs(context.Background(), level, "exchange failed", attrs...)
}

// newLease checks what an exchange brought and measures it.
//
// The lifetime is what is left by STS's clock, since this node's may be wrong; it is counted from
// before the request, so that the time on the way is never served.
func newLease(creds Credentials, started, now time.Time) (*lease, error) {
	if err := creds.Check(); err != nil {
		return nil, err
	}
	l := &lease{Credentials: creds, issued: started, lifetime: creds.Expiration.Sub(started)}
	if !creds.ServerTime.IsZero() {
		byServer := creds.Expiration.Sub(creds.ServerTime)
		if skew := now.Sub(creds.ServerTime); skew.Abs() > clockNoise+now.Sub(started) {
			l.skew = skew
			l.lifetime = byServer - time.Second // Date is rounded down
		} else {
			l.lifetime = min(l.lifetime, byServer)
		}
	}
	if !l.valid(now) {
		return nil, expired(creds.Expiration)
	}
	return l, nil
}

// valid reports whether the credentials still work. A nil lease does not.
func (l *lease) valid(now time.Time) bool { return l != nil && l.remaining(now) > 0 }

// remaining is how long the credentials will still work; zero or less when they do not.
func (l *lease) remaining(now time.Time) time.Duration {
	return l.remainingAt(now.Sub(l.issued), now.Round(0))
}

// remainingAt takes the reading of both clocks: the time elapsed since issued by the monotonic one,
// and the wall clock's.
//
// The monotonic clock is immune to somebody setting the time, but stands still while a node is
// suspended; so the wall clock has a say too. It may end a lease only if it would also do so after
// removing the skew measured at issue: a node whose clock has been put right since must not lose the
// credentials.
func (l *lease) remainingAt(elapsed time.Duration, wall time.Time) time.Duration {
	return min(l.lifetime-elapsed, l.Expiration.Sub(wall.Add(-max(0, l.skew))))
}

// Status is what a Cache knows about itself at one moment.
type Status struct {
	// Profile is the name that Options gave the credentials.
	Profile string

	// Credentials are the valid ones, or nil.
	Credentials *Credentials

	// Remaining is how long they will still work, Lifetime how long they do in all.
	Remaining, Lifetime time.Duration

	// LastSuccess is when the last good exchange began; zero before the first.
	LastSuccess time.Time

	// ClockSkew is by how much this node's clock was ahead of STS's; zero when they agree.
	ClockSkew time.Duration

	// NextTry is when the next exchange is due; zero while one is under way.
	NextTry time.Time

	// Watching reports that a change of the token file brings the next exchange forward: it follows within two
	// seconds.
	Watching bool

	// Failure is how the last exchange failed, FailedAt when; nil and zero when it succeeded or has
	// not ended. Failures counts those in a row.
	Failure  *FetchError
	FailedAt time.Time
	Failures int

	// Stuck reports that the refresh has come to a stand, though not for want of AWS, and that there are no valid
	// credentials: an exchange should have ended, or begun, half a minute ago.
	Stuck bool

	// Attempts are the last ten exchanges, newest first. They are not to be changed.
	Attempts []Attempt
}

// Status describes the Cache.
func (c *Cache) Status() Status {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Profile: c.profile, NextTry: c.next, Failure: c.failure, Failures: c.failures, Attempts: c.attempts}
	if c.failure != nil {
		s.FailedAt, s.Watching = c.failedAt, c.failure.Changed != nil
	}
	if l := c.lease.Load(); l != nil {
		s.LastSuccess, s.ClockSkew = l.issued, l.skew
		if l.valid(now) {
			s.Credentials = &l.Credentials
			s.Remaining, s.Lifetime = l.remaining(now), l.lifetime
		}
	}
	overdue := now.Sub(c.next)
	if c.next.IsZero() {
		overdue = now.Sub(c.began) - exchangeTimeout
	}
	s.Stuck = s.Credentials == nil && overdue > stuckAfter
	return s
}

// Ready reports whether the credentials last long enough to be worth starting with: more than a
// minute, or a tenth of a lifetime that is shorter than ten minutes.
func (s Status) Ready() bool {
	return s.Credentials != nil && s.Remaining > min(time.Minute, s.Lifetime/10)
}

// Started reports whether an exchange has ever succeeded.
func (s Status) Started() bool { return !s.LastSuccess.IsZero() }
