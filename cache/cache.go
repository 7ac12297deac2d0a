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
	// coldWait bounds how long Get waits when there are no valid credentials: the SDKs of Java, JavaScript, Ruby and
	// PHP give up on the endpoint after one second.
	coldWait = 700 * time.Millisecond

	// exchangeTimeout bounds one exchange unless Options say otherwise. STS itself may take five seconds to fetch an
	// issuer's keys.
	exchangeTimeout = 5 * time.Second

	// changePoll is how often a token file that was refused is checked for a change.
	changePoll = 2 * time.Second

	// longestSleep bounds how long it takes to notice that the node was suspended: timers run on the monotonic
	// clock, which stops meanwhile. Get checks the wall clock itself, so only the refresh depends on this, and it is
	// long because an idle process should sleep.
	longestSleep = 5 * time.Minute

	// askedPause is the shortest time between the start of an exchange and that of the next if Refresh asks for it.
	askedPause = time.Second

	// stuckAfter is how far an exchange, or the pause before it, may exceed its limit before the refresh counts as
	// stuck.
	stuckAfter = 30 * time.Second

	// clockNoise is how much two correct clocks may seem to differ: the Date header has whole seconds, and the
	// response takes a moment to arrive.
	clockNoise = 2 * time.Second

	// clockSkewWarning and clockSkewRefused grade a wrong local clock. At five minutes and more, AWS refuses what
	// the application signs.
	clockSkewWarning = time.Minute
	clockSkewRefused = 5 * time.Minute

	// keptSkew limits the clock skew that is accepted from a record, because anyone who can write the record can claim
	// any. A clock that shows local time as UTC is at most 14 hours off, and a date that is wrong by one, a day. If the
	// clock is further ahead, a restart loses the recorded credentials.
	keptSkew = 24 * time.Hour
)

// Fetch makes one exchange. It must return when ctx ends, must not retry, and must fail with a [*FetchError]. A Cache
// never makes two calls at the same time.
type Fetch func(ctx context.Context) (Credentials, error)

// Options configure a [Cache]. The zero Options are usable.
type Options struct {
	// Profile is the name of the credentials in logs, metrics and [Status]. Empty is a name like any other.
	Profile string

	// Timeout bounds one exchange; zero means five seconds. A Fetch that first waits for the credentials of a source
	// profile needs the time of each exchange in the chain.
	Timeout time.Duration

	// Logger receives one line for each exchange. Nil discards them.
	Logger *slog.Logger

	// Metrics count the exchanges. Nil disables counting.
	Metrics *Metrics

	// Restore returns what an earlier run of the program kept, or nil if there is nothing. New calls it once. Nil
	// restores nothing.
	Restore func() *Kept

	// Keep is called with all new credentials, one call at a time and before Get returns them, so callers without
	// valid credentials wait while it runs. Nil keeps nothing.
	Keep func(Kept)

	// Renewed is called when Get returns new credentials from now on. Nil calls nothing.
	Renewed func()

	// Random returns a number in [0,1) for each refresh and each retry. Nil means [rand.Float64].
	Random func() float64
}

// Cache holds one role's credentials and keeps them fresh while Run runs. It keeps credentials until they expire,
// whatever fails meanwhile; only newer valid ones replace them. A Cache may be used by many goroutines at once.
type Cache struct {
	fetch   Fetch
	profile string
	logger  *slog.Logger
	metrics *profileMetrics
	random  func() float64
	keep    func(Kept)
	renewed func()
	jump    func(then, now time.Time) time.Duration // wallJump, except in tests

	flight singleflight.Group
	ctx    context.Context // of all exchanges; cancelled when Run ends
	cancel context.CancelFunc
	wake   chan struct{} // has Run read the schedule again

	lease atomic.Pointer[lease] // the last good credentials, even if expired; nil before the first

	mu             sync.Mutex
	timeout        time.Duration
	next           time.Time   // when the next exchange is due; zero during an exchange, and before the first
	began          time.Time   // when the last exchange began; before the first, when the Cache was made
	refreshAsked   bool        // Refresh was called during the exchange
	requestChanged bool        // Refresh(true) was called since the held credentials were requested
	failure        *FetchError // of the last exchange; nil if it succeeded
	failedAt       time.Time
	firstFailure   time.Time // in the current run of failures of one class
	failures       int       // in that run
	attempts       []Attempt // newest first
}

// Attempt is an exchange that has ended.
type Attempt struct {
	Ended    time.Time
	Took     time.Duration
	Reason   Reason        // of the failure; empty if it succeeded
	Lifetime time.Duration // of the new credentials; zero if it failed
}

// attemptsKept is as many attempts as fit on a page.
const attemptsKept = 10

// recordAttempt adds an attempt to a new slice, because a Status may hold the old one.
func (c *Cache) recordAttempt(a Attempt) {
	c.attempts = append([]Attempt{a}, c.attempts[:min(len(c.attempts), attemptsKept-1)]...)
}

// lease is one set of credentials, measured by this machine's clocks.
type lease struct {
	Credentials
	issued   time.Time     // when the exchange began, on the wall clock and the monotonic clock
	lifetime time.Duration // from then on
	source   time.Duration // how long from then on the credentials last that signed the request; meaningless if none did
	skew     time.Duration // how far the local wall clock was ahead of STS's; zero within clockNoise
}

// New returns a Cache that is empty, unless Options.Restore returns credentials, until Run or the first Get has made
// an exchange.
func New(fetch Fetch, o Options) *Cache {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Keep == nil {
		o.Keep = func(Kept) {}
	}
	if o.Renewed == nil {
		o.Renewed = func() {}
	}
	if o.Timeout == 0 {
		o.Timeout = exchangeTimeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cache{
		fetch:   fetch,
		profile: o.Profile,
		timeout: o.Timeout,
		logger:  o.Logger.With("profile", o.Profile),
		metrics: o.Metrics.forProfile(o.Profile),
		random:  o.Random,
		keep:    o.Keep,
		renewed: o.Renewed,
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

// Kept is what one run of the program can hand to the next.
type Kept struct {
	Credentials *Credentials // never nil

	// Remaining is how long they still work, by a clock that cannot be set, counted from the call of Keep or of
	// Restore.
	Remaining time.Duration

	// Skew is how far the wall clock was ahead of STS's when they were issued; zero if the two agreed.
	Skew time.Duration
}

// Left returns how long the credentials still work if the wall clock shows wall; zero or less means that they have
// expired. A Cache that restores them arrives at the same result, unless the wall clock is set.
func (k *Kept) Left(wall time.Time) time.Duration {
	return k.lease(wall).remainingAt(0, wall.Round(0))
}

// Countdown returns a function that tells how long the credentials still work whenever it is called, zero or less when they
// have expired, as a Cache itself tells it: by the monotonic clock and the wall clock. k must be as fresh as the call of Keep.
func (k *Kept) Countdown() func() time.Duration {
	l := k.lease(time.Now())
	return func() time.Duration { return l.remaining(time.Now()) }
}

// lease returns the credentials as a lease that begins now. The same rule applies to it, with Expiration and the wall
// clock: others may have changed the record, and must not be able to make expired credentials look valid.
func (k *Kept) lease(now time.Time) *lease {
	return &lease{Credentials: *k.Credentials, issued: now, lifetime: k.Remaining, skew: max(-keptSkew, min(k.Skew, keptSkew))}
}

// restore stores what was kept if it still works. The next exchange is due at once anyway.
func (c *Cache) restore(k *Kept) {
	if k == nil {
		return
	}
	now := time.Now()
	if l := k.lease(now); l.valid(now) {
		c.lease.Store(l)
		c.metrics.restored(&l.Credentials)
		c.requestChanged = true // the first session from STS replaces what a file contained, even if it expires earlier
	}
}

// Get returns valid credentials. If the Cache has some, it returns at once and starts no exchange. If not, it joins the
// current exchange or starts one, and waits for at most 700 ms. After a failure it returns that failure until the retry
// is due. The error is always a [*FetchError]; its reason is CredentialsUninitialized if no exchange has ended yet.
func (c *Cache) Get(ctx context.Context) (*Credentials, error) {
	if l := c.lease.Load(); l.valid(time.Now()) {
		return &l.Credentials, nil
	}
	if failure := c.remembered(); failure != nil {
		return nil, failure
	}
	ctx, cancel := context.WithTimeout(ctx, coldWait)
	defer cancel()
	return c.await(ctx)
}

// Live returns valid credentials as Get does, but waits for the current exchange as long as ctx allows: it is for a Fetch
// that signs its request with them. After a failure it returns that failure until the retry is due. The error is always a
// [*FetchError] of the caller's own, whose Changed reports whether there are valid credentials now.
func (c *Cache) Live(ctx context.Context) (*Credentials, error) {
	if l := c.lease.Load(); l.valid(time.Now()) {
		return &l.Credentials, nil
	}
	var failure *FetchError
	if failure = c.remembered(); failure == nil {
		creds, err := c.await(ctx)
		if err == nil {
			return creds, nil
		}
		failure = AsFetchError(err)
	}
	own := *failure
	own.Changed = func() bool { return c.lease.Load().valid(time.Now()) }
	return nil, &own
}

// await joins the current exchange or starts one, and returns its outcome, or that of the last if ctx ends first. If one has ended
// since the caller looked, it returns the outcome of that.
func (c *Cache) await(ctx context.Context) (*Credentials, error) {
	select {
	case <-c.share(func() bool { return !c.lease.Load().valid(time.Now()) && c.remembered() == nil }):
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
	return nil, &FetchError{Reason: CredentialsUninitialized, Message: "the exchange with STS has not finished yet"}
}

// remembered returns the last failure until its retry is due.
func (c *Cache) remembered() *FetchError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil && time.Now().Before(c.next) {
		return c.failure
	}
	return nil
}

// Run keeps the credentials fresh until ctx ends; the first exchange is at once. It returns when the current exchange
// has ended too. Run may be called only once.
func (c *Cache) Run(ctx context.Context) {
	defer func() {
		c.cancel()
		<-c.exchange()
	}()
	clocks := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		if jump := c.jump(clocks, now); jump.Abs() > clockNoise {
			c.logger.Warn("the clock jumped: the node was suspended or its clock was set", "by", jump.Round(time.Second).String())
			c.expedite()
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

// schedule returns how long Run may sleep, and the check to make when it wakes; nil if there is none.
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

// expedite makes the next exchange due now.
func (c *Cache) expedite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = time.Time{}
}

// Refresh makes Run start an exchange now, or one second after the start of the last, whichever is later. If an
// exchange is under way, another follows it: the first may have read what the caller knows to be out of date.
//
// changed says that Fetch now requests something else, such as a session with another policy. The result then replaces
// the current credentials even if it expires earlier.
func (c *Cache) Refresh(changed bool) {
	c.mu.Lock()
	c.requestChanged = c.requestChanged || changed
	if c.next.IsZero() {
		c.refreshAsked = true
	} else {
		c.next = c.soonest()
	}
	c.mu.Unlock()
	c.wakeRun()
}

// SetTimeout replaces Options.Timeout for the exchanges that begin from now on. d must be positive.
func (c *Cache) SetTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timeout = d
}

// soonest returns when an exchange that Refresh asks for may begin.
func (c *Cache) soonest() time.Time { return c.began.Add(askedPause) }

// wakeRun makes Run read the schedule again.
func (c *Cache) wakeRun() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// wallJump returns how much further the wall clock moved than the monotonic clock did.
func wallJump(then, now time.Time) time.Duration {
	return now.Round(0).Sub(then.Round(0)) - now.Sub(then)
}

// exchange joins the current exchange or starts one. No caller's context applies to it, so a caller that gives up
// does not cancel it for the others.
func (c *Cache) exchange() <-chan singleflight.Result {
	return c.share(func() bool { return true })
}

// share is like exchange, but starts none if needed says no, which is asked when no other is in progress.
func (c *Cache) share(needed func() bool) <-chan singleflight.Result {
	return c.flight.DoChan("", func() (any, error) {
		if c.ctx.Err() != nil || !needed() {
			return nil, nil
		}
		started, timeout := c.begin()
		ctx, cancel := context.WithTimeout(c.ctx, timeout)
		defer cancel()
		creds, err := c.fetch(ctx)
		if c.ctx.Err() == nil {
			c.settle(creds, err, started)
		}
		c.wakeRun()
		return nil, nil
	})
}

// begin records that an exchange is under way. From then on Get waits for it instead of returning the last failure.
func (c *Cache) begin() (now time.Time, timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = time.Now()
	c.next, c.began, c.refreshAsked = time.Time{}, now, false
	return now, c.timeout
}

// due schedules the next exchange, earlier if Refresh was called during the last.
func (c *Cache) due(at time.Time) {
	if c.next = at; c.refreshAsked && c.soonest().Before(at) {
		c.next = c.soonest()
	}
	c.refreshAsked = false
}

// settle records the outcome of an exchange that began at started.
func (c *Cache) settle(creds Credentials, err error, started time.Time) {
	now := time.Now()
	var l *lease
	if err == nil {
		l, err = newLease(creds, started, now)
	}
	if err != nil {
		c.failed(AsFetchError(err), started, now)
		return
	}
	c.succeeded(l, started, now)
}

// succeeded stores new credentials, unless they expire no later than the current ones. That happens if the session
// ends with the token and the token is the same, or if the role's sessions were made shorter.
func (c *Cache) succeeded(l *lease, started, now time.Time) {
	message, lifetime := "credentials refreshed", l.lifetime
	held := c.lease.Load()
	c.mu.Lock()
	// An exchange that began before the change may have requested the old; another follows it.
	changed := c.requestChanged && !c.refreshAsked
	c.mu.Unlock()
	keepHeld := held.valid(now) && !l.Expiration.After(held.Expiration) && !changed
	if !keepHeld {
		// Before anyone gets them, so that credentials that were handed out survive a kill.
		c.keep(Kept{Credentials: &l.Credentials, Remaining: l.remaining(now), Skew: l.skew})
	}
	c.mu.Lock()
	if keepHeld {
		message = "new credentials expire no later; keeping the current ones"
		c.due(now.Add(max(time.Second, refreshAfter(l.forSource(held.remaining(now), now), c.random()))))
		l = held
	} else {
		c.lease.Store(l)
		c.due(l.issued.Add(refreshAfter(l.forSource(l.lifetime, l.issued), c.random())))
	}
	c.failure, c.failures = nil, 0
	c.requestChanged = c.requestChanged && !changed
	c.recordAttempt(Attempt{Ended: now, Took: now.Sub(started), Lifetime: lifetime})
	c.metrics.succeeded(&l.Credentials, now, now.Sub(started))
	next := c.next
	c.mu.Unlock()
	c.logSuccess(message, l, next.Sub(now), now.Sub(started))
	if !keepHeld {
		c.renewed()
	}
}

// logSuccess logs a successful exchange, as a warning or an error if the node's clock is wrong.
func (c *Cache) logSuccess(message string, l *lease, refreshIn, took time.Duration) {
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("access_key", l.KeyHint()),
		slog.Time("expiration", l.Expiration),
		slog.String("lifetime", l.lifetime.Round(time.Second).String()),
		slog.String("refresh_in", refreshIn.Round(time.Second).String()),
		slog.String("took", took.Round(time.Millisecond).String()),
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

// failed records a failure. Credentials that are still valid stay.
func (c *Cache) failed(failure *FetchError, started, now time.Time) {
	class := failure.Reason.Class()
	held := c.lease.Load()
	c.mu.Lock()
	advice := failure.ShortAdvice()
	if c.failure == nil || c.failure.Reason != failure.Reason {
		advice = failure.Advice() // only the first time in a row, to keep the log readable
	}
	if c.failure == nil || c.failure.Reason.Class() != class {
		c.failures, c.firstFailure = 0, now // another class has its own schedule
	}
	c.failure, c.failedAt = failure, now
	c.failures++
	failures := c.failures
	delay := retryAfter(class, failures, now.Sub(c.firstFailure), c.random())
	if held.valid(now) {
		delay = whileValid(delay, held.remaining(now))
	}
	c.due(now.Add(delay))
	next := c.next
	c.recordAttempt(Attempt{Ended: now, Took: now.Sub(started), Reason: failure.Reason})
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
		early := "when the token file changes"
		if failure.Profile != "" {
			early = "when its source profile has credentials"
		}
		attrs = append(attrs, slog.String("retry_early", early))
	}
	c.logger.LogAttrs(context.Background(), level, "exchange failed", attrs...)
}

// newLease checks the result of an exchange and measures it. The error is always a [*FetchError].
//
// The lifetime is counted by STS's clock, because this node's may be wrong, and from before the request, so that the
// time in transit is not added to it.
func newLease(creds Credentials, started, now time.Time) (*lease, error) {
	if err := creds.Check(); err != nil {
		return nil, err
	}
	l := &lease{Credentials: creds, issued: started, lifetime: creds.Expiration.Sub(started)}
	if !creds.ServerTime.IsZero() {
		byServer := creds.Expiration.Sub(creds.ServerTime)
		if skew := now.Sub(creds.ServerTime); skew.Abs() > clockNoise+now.Sub(started) {
			l.skew = skew
			l.lifetime = byServer - time.Second // the Date header is rounded down
		} else {
			l.lifetime = min(l.lifetime, byServer)
		}
	}
	if !l.valid(now) {
		return nil, expired(creds.Expiration)
	}
	l.source = l.lifetime - creds.Expiration.Sub(creds.SourceExpiration) // both by STS's clock
	return l, nil
}

// forSource returns remaining, or how long the source's credentials still last if they expire before that: the next request
// must be signed while there are valid ones, and the later their last one is signed, the longer its session outlasts them.
func (l *lease) forSource(remaining time.Duration, now time.Time) time.Duration {
	if l.SourceExpiration.IsZero() {
		return remaining
	}
	return min(remaining, l.source-now.Sub(l.issued))
}

// valid reports whether the credentials still work. It is false for a nil lease.
func (l *lease) valid(now time.Time) bool { return l != nil && l.remaining(now) > 0 }

// remaining returns how long the credentials still work; zero or less means that they have expired.
func (l *lease) remaining(now time.Time) time.Duration {
	return l.remainingAt(now.Sub(l.issued), now.Round(0))
}

// remainingAt is remaining for the given readings of both clocks: the time since issued by the monotonic clock, and the
// wall clock.
//
// Setting the time does not affect the monotonic clock, but it stops while a node is suspended, so the wall clock counts
// too. The wall clock may end a lease only if it would also do so after removing the skew measured at issue: a node whose
// clock has been corrected since must not lose its credentials.
func (l *lease) remainingAt(elapsed time.Duration, wall time.Time) time.Duration {
	return min(l.lifetime-elapsed, l.Expiration.Sub(wall.Add(-max(0, l.skew))))
}

// Status is the state of a Cache at one moment.
type Status struct {
	// Profile is the name that Options gave the credentials.
	Profile string

	// Credentials are the valid ones, or nil. They must not be changed.
	Credentials *Credentials

	// Remaining is how long they still work, Lifetime how long they work in all. Both are zero without Credentials.
	Remaining, Lifetime time.Duration

	// LastSuccess is when the last successful exchange began; zero before the first. Restored credentials count as
	// one at the start.
	LastSuccess time.Time

	// ClockSkew is how far this node's clock was ahead of STS's at the last successful exchange, negative if it was
	// behind; zero if the two agreed.
	ClockSkew time.Duration

	// NextTry is when the next exchange is due; zero while one is under way.
	NextTry time.Time

	// Watching reports that the next exchange comes sooner, within two seconds, if what was refused is replaced: the
	// token file, or for a failure of a source profile, that profile's credentials.
	Watching bool

	// Failure is how the last exchange failed, and FailedAt when; nil and zero if it succeeded or none has ended.
	// Failures is how many failed in a row with its class.
	Failure  *FetchError
	FailedAt time.Time
	Failures int

	// Stuck reports that there are no valid credentials and that the refresh has stopped, though not because of AWS:
	// an exchange should have ended, or begun, half a minute ago.
	Stuck bool

	// Attempts are the last ten exchanges, newest first. They must not be changed.
	Attempts []Attempt
}

// Status returns the state of the Cache.
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
		overdue = now.Sub(c.began) - c.timeout
	}
	s.Stuck = s.Credentials == nil && overdue > stuckAfter
	return s
}

// Ready reports whether the credentials last long enough for a program to start with them: more than a minute, or more
// than a tenth of a lifetime below ten minutes.
func (s Status) Ready() bool {
	return s.Credentials != nil && s.Remaining > min(time.Minute, s.Lifetime/10)
}

// Started reports whether an exchange has succeeded, or credentials were restored.
func (s Status) Started() bool { return !s.LastSuccess.IsZero() }
