package server

import (
	"cmp"
	"hash/maphash"
	"log/slog"
	"net/http"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxAskers is how many programs are listed for each profile, maxRefusedAgents for each refusal of a listener,
	// and maxRefusals on a page.
	maxAskers        = 16
	maxRefusedAgents = 4
	maxRefusals      = 16

	// replacePause is the least time between two evictions from a list: a caller that makes up a User-Agent for each
	// request costs next to nothing, and pushes out one entry a second.
	replacePause = time.Second

	// warnPause is the least time between two warnings about the same refusal on the same listener.
	warnPause = time.Minute

	// noUser is the user of a connection for which the kernel was not asked.
	noUser = int64(-1)
)

// Callers is the account of which programs ask and which are refused, for the pages on loopback and the log. It is
// bounded, whatever callers send. The handlers of one sidecar share one; the zero value is ready.
type Callers struct {
	mu      sync.Mutex
	asking  map[string]*tally // by profile
	refused []*refusalTally
}

// refusalTally is how often a listener has answered with a refusal.
type refusalTally struct {
	listener string
	refusal  Refusal
	tally
	warned atomic.Int64 // when a warning was last logged, as in tally.last; zero before the first
	told   atomic.Uint64
}

// askersOf returns the account of who asks for a profile.
func (c *Callers) askersOf(profile string) *tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking == nil {
		c.asking = make(map[string]*tally)
	}
	t := c.asking[profile]
	if t == nil {
		t = &tally{}
		t.init(maxAskers)
		c.asking[profile] = t
	}
	return t
}

// refusing returns the account of a refusal by a listener.
func (c *Callers) refusing(listener string, refusal Refusal) *refusalTally {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &refusalTally{listener: listener, refusal: refusal}
	r.init(maxRefusedAgents)
	c.refused = append(c.refused, r)
	return r
}

// refusedCaller is a line of the list of the last refusals.
type refusedCaller struct {
	listener string
	refusal  Refusal
	caller
}

// lastRefusals returns the latest ones, the last first, and how many requests have been refused in all.
func (c *Callers) lastRefusals() (last []refusedCaller, total uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.refused {
		callers, n := r.list()
		for _, one := range callers {
			last = append(last, refusedCaller{r.listener, r.refusal, one})
		}
		total += n
	}
	sort.SliceStable(last, func(i, j int) bool { return last[i].last.After(last[j].last) })
	return last[:min(len(last), maxRefusals)], total
}

// warn logs a refusal, unless that has been done within the last minute; then the next line counts it.
func (r *refusalTally) warn(logger *slog.Logger, request *http.Request, hint string, why error) {
	now := r.now()
	before := r.warned.Load()
	if before != 0 && now-before < int64(warnPause) || !r.warned.CompareAndSwap(before, now) {
		return
	}
	total := r.total()
	attrs := []any{"listener", r.listener, "refusal", string(r.refusal), "message", r.refusal.Message(),
		"user_agent", userAgent(request), "count", max(1, int64(total-r.told.Swap(total)))}
	if why != nil {
		attrs = append(attrs, "why", why.Error())
	}
	if hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	logger.Warn("request refused", attrs...)
}

// tally counts requests by User-Agent and user. To count a known one takes no lock and allocates nothing.
type tally struct {
	most  int
	seed  maphash.Seed
	start time.Time
	known atomic.Pointer[[]*counted] // replaced whole, under mu
	rest  atomic.Uint64              // requests of those that are not listed, or no longer

	mu       sync.Mutex
	replaced atomic.Int64 // when one was last listed in another's place, as in counted.last
}

// counted is one User-Agent, of one user where that is known.
type counted struct {
	sum   uint64 // of the User-Agent as it was sent, which is not kept
	user  int64
	agent string // as it may be shown
	count atomic.Uint64
	last  atomic.Int64 // nanoseconds after tally.start, by the monotonic clock
}

// caller is a counted at one moment.
type caller struct {
	agent string
	user  int64
	count uint64
	last  time.Time
}

func (t *tally) init(most int) {
	t.most, t.seed, t.start = most, maphash.MakeSeed(), time.Now().Add(-1) // so that no moment is zero
	t.replaced.Store(-int64(replacePause))
	t.known.Store(new([]*counted))
}

func (t *tally) now() int64 { return int64(time.Since(t.start)) }

// note counts a request.
func (t *tally) note(r *http.Request, user int64, at time.Time) {
	var agent string
	if values := r.Header["User-Agent"]; len(values) > 0 {
		agent = values[0]
	}
	sum, now := maphash.String(t.seed, agent), int64(at.Sub(t.start))
	known := *t.known.Load()
	for _, one := range known {
		if one.sum == sum && one.user == user {
			one.count.Add(1)
			one.last.Store(now)
			return
		}
	}
	if len(known) == t.most && now-t.replaced.Load() < int64(replacePause) {
		t.rest.Add(1)
		return
	}
	t.add(r, sum, user, now)
}

// add lists a caller that is not known, in the place of the one that has asked least if there is no other.
func (t *tally) add(r *http.Request, sum uint64, user, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := slices.Clone(*t.known.Load())
	if i := slices.IndexFunc(known, func(one *counted) bool { return one.sum == sum && one.user == user }); i >= 0 {
		known[i].count.Add(1)
		return
	}
	if len(known) == t.most && now-t.replaced.Load() < int64(replacePause) {
		t.rest.Add(1)
		return
	}
	one := &counted{sum: sum, user: user, agent: userAgent(r)}
	one.count.Store(1)
	one.last.Store(now)
	if len(known) < t.most {
		known = append(known, one)
	} else {
		least := 0
		for i, other := range known {
			if order := cmp.Or(cmp.Compare(other.count.Load(), known[least].count.Load()), cmp.Compare(other.last.Load(), known[least].last.Load())); order < 0 {
				least = i
			}
		}
		t.rest.Add(known[least].count.Load())
		known[least] = one
		t.replaced.Store(now)
	}
	t.known.Store(&known)
}

// total is how many requests have been counted.
func (t *tally) total() (n uint64) {
	n = t.rest.Load()
	for _, one := range *t.known.Load() {
		n += one.count.Load()
	}
	return n
}

// list returns who is listed, the last first, and how many requests have been counted in all.
func (t *tally) list() (callers []caller, total uint64) {
	now, elapsed := time.Now(), t.now()
	for _, one := range *t.known.Load() {
		callers = append(callers, caller{one.agent, one.user, one.count.Load(), now.Add(-time.Duration(max(0, elapsed-one.last.Load())))})
	}
	sort.SliceStable(callers, func(i, j int) bool { return callers[i].last.After(callers[j].last) }) // slices.SortStableFunc is 13 KB larger
	return callers, t.total()
}
