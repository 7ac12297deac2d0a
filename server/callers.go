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

	// maxContenders is how many callers are counted, but not listed, for each list.
	maxContenders = 16

	// replacePause is the least time between two evictions from a list by callers that have not sent more requests than
	// the one that they replace, so that a caller with a new User-Agent for each request costs next to nothing and replaces
	// only one entry a second.
	replacePause = time.Second

	// warnPause is the least time between two warnings about the same refusal on the same listener.
	warnPause = time.Minute

	// noUser is the user of a connection if the kernel was not asked.
	noUser = int64(-1)
)

// Callers counts which programs are refused, for the pages on loopback and the log. Its size is limited, whatever callers send.
// The handlers of one sidecar share one. The zero value is ready to use.
type Callers struct {
	mu      sync.Mutex
	refused []*refusalTally
}

// refusalTally counts one kind of refusal by one listener.
type refusalTally struct {
	listener string
	refusal  Refusal
	tally
	warned atomic.Int64 // when a warning was last logged, as in counted.last; zero before the first
	told   atomic.Uint64
}

// refusing returns a new tally of a refusal by a listener.
func (c *Callers) refusing(listener string, refusal Refusal) *refusalTally {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &refusalTally{listener: listener, refusal: refusal}
	r.init(maxRefusedAgents)
	c.refused = append(c.refused, r)
	return r
}

// refusedCaller is an entry in the list of the last refusals.
type refusedCaller struct {
	listener string
	refusal  Refusal
	caller
}

// lastRefusals returns the last refusals, the latest first, and how many requests have been refused in all.
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

// String names the caller for people. Of a request that net/http cannot read, no header is known.
func (r refusedCaller) String() string {
	if r.refusal == MalformedRequest {
		return "User-Agent not known"
	}
	return r.caller.String()
}

// unlistedRefusals returns how many of the total refusals are not those of the listed callers.
func unlistedRefusals(listed []refusedCaller, total uint64) uint64 {
	for _, one := range listed {
		total -= one.count
	}
	return total
}

// warn logs a refusal, at most once a minute. The next line counts those that were not logged.
func (r *refusalTally) warn(logger *slog.Logger, request *http.Request, tokens *Profiles, hint string, why error) {
	now := r.now()
	before := r.warned.Load()
	if before != 0 && now-before < int64(warnPause) || !r.warned.CompareAndSwap(before, now) {
		return
	}
	total := r.total()
	attrs := []any{"listener", r.listener, "refusal", string(r.refusal), "message", r.refusal.Message()}
	if r.refusal != MalformedRequest { // its headers are not known
		attrs = append(attrs, "user_agent", userAgent(request, tokens))
	}
	if name := tokens.named(request); name != "" {
		attrs = append(attrs, "profile", name)
	}
	attrs = append(attrs, "count", max(1, int64(total-r.told.Swap(total))))
	if why != nil {
		attrs = append(attrs, "why", why.Error())
	}
	if hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	logger.Warn("request refused", attrs...)
}

// named is the profile that the path of a request names; empty if there is no such profile, or the path names none.
func (p *Profiles) named(r *http.Request) string {
	if p == nil || r.URL == nil || r.URL.RawPath != "" {
		return ""
	}
	path := cmp.Or(identityOf(r), trimSlash(r.URL.Path))
	if s := p.now().paths[path]; s != nil {
		return s.name()
	}
	return ""
}

// tally counts requests by User-Agent and user. For a known caller it takes no lock and allocates nothing.
type tally struct {
	most  int
	seed  maphash.Seed
	start time.Time
	known atomic.Pointer[[]*counted] // copied on write, under mu
	rest  atomic.Uint64              // requests of callers that are not listed, or no longer

	mu         sync.Mutex
	replaced   int64 // when an entry was last replaced, as in counted.last
	contenders [maxContenders]contender
}

// contender is a caller that is not listed. It has sent at least count requests; zero if there is none.
type contender struct {
	sum   uint64
	user  int64
	count uint64
}

// counted is one User-Agent, of one user if that is known.
type counted struct {
	sum   uint64 // hash of the User-Agent as it was sent
	user  int64
	agent string // in a form that may be shown
	count atomic.Uint64
	last  atomic.Int64 // nanoseconds after tally.start, by the monotonic clock
}

// caller is a copy of a counted.
type caller struct {
	agent string
	user  int64
	count uint64
	last  time.Time
}

// unlisted returns how many of the total requests are not those of the listed callers.
func unlisted(listed []caller, total uint64) uint64 {
	for _, one := range listed {
		total -= one.count
	}
	return total
}

func (t *tally) init(most int) {
	t.most, t.seed, t.start = most, maphash.MakeSeed(), time.Now().Add(-1) // so that no moment is zero
	t.replaced = -int64(replacePause)
	t.known.Store(new([]*counted))
}

func (t *tally) now() int64 { return int64(time.Since(t.start)) }

// note counts a request. The tokens of the profiles are masked in what is kept of it.
func (t *tally) note(r *http.Request, tokens *Profiles, user int64, at time.Time) {
	var agent string
	if values := r.Header["User-Agent"]; len(values) > 0 {
		agent = values[0]
	}
	sum, now := maphash.String(t.seed, agent), int64(at.Sub(t.start))
	for _, one := range *t.known.Load() {
		if one.sum == sum && one.user == user {
			one.count.Add(1)
			one.last.Store(now)
			return
		}
	}
	t.add(r, tokens, sum, user, now)
}

// add counts a request of a caller that was not listed, and lists it if there is room. In a full list it replaces the
// caller with the fewest requests, at once if it has sent more; each such replacement takes more requests than the one
// before, so they stay rare.
func (t *tally) add(r *http.Request, tokens *Profiles, sum uint64, user, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.known.Load()
	if i := slices.IndexFunc(known, func(one *counted) bool { return one.sum == sum && one.user == user }); i >= 0 {
		known[i].count.Add(1)
		known[i].last.Store(now)
		return
	}
	place, requests := len(known), uint64(1)
	if place == t.most {
		requests = t.contend(sum, user)
		early := now-t.replaced < int64(replacePause)
		if early && requests == 1 { // usual, and no caller has sent fewer
			t.rest.Add(1)
			return
		}
		place = fewest(known)
		if early && requests <= known[place].count.Load() {
			t.rest.Add(1)
			return
		}
		if i := slices.IndexFunc(t.contenders[:], func(c contender) bool { return c.count > 0 && c.sum == sum && c.user == user }); i >= 0 {
			t.contenders[i] = contender{}
		}
		t.replaced = now
	}
	one := &counted{sum: sum, user: user, agent: userAgent(r, tokens)}
	one.count.Store(requests)
	one.last.Store(now)
	next := append(slices.Clone(known[:place]), one)
	if place < len(known) {
		next = append(next, known[place+1:]...)
	}
	t.known.Store(&next)
	if place < len(known) {
		t.rest.Add(known[place].count.Load() - (requests - 1)) // those before this one are in rest already
	}
}

// fewest returns the index of the caller with the fewest requests; of several, the one whose last is oldest.
func fewest(known []*counted) (least int) {
	for i, one := range known {
		if cmp.Or(cmp.Compare(one.count.Load(), known[least].count.Load()), cmp.Compare(one.last.Load(), known[least].last.Load())) < 0 {
			least = i
		}
	}
	return least
}

// contend counts a request of a caller that is not listed, and returns how many it has sent at least. It is the algorithm
// of Misra and Gries: if there is no room for one more, each loses one, so that those with many requests remain.
func (t *tally) contend(sum uint64, user int64) uint64 {
	free := -1
	for i := range t.contenders {
		switch c := &t.contenders[i]; {
		case c.count == 0:
			free = i
		case c.sum == sum && c.user == user:
			c.count++
			return c.count
		}
	}
	if free < 0 {
		for i := range t.contenders {
			t.contenders[i].count--
		}
		return 1
	}
	t.contenders[free] = contender{sum, user, 1}
	return 1
}

// total returns how many requests have been counted.
func (t *tally) total() (n uint64) {
	n = t.rest.Load()
	for _, one := range *t.known.Load() {
		n += one.count.Load()
	}
	return n
}

// list returns the listed callers, the latest first, and how many requests have been counted in all. If there was a
// request, at least one caller is listed, even if the first request arrives meanwhile.
func (t *tally) list() (callers []caller, total uint64) {
	now, elapsed := time.Now(), t.now()
	total = t.rest.Load() // before the callers: it is not zero only if they are listed
	for _, one := range *t.known.Load() {
		c := caller{one.agent, one.user, one.count.Load(), now.Add(-time.Duration(max(0, elapsed-one.last.Load())))}
		callers, total = append(callers, c), total+c.count
	}
	sort.SliceStable(callers, func(i, j int) bool { return callers[i].last.After(callers[j].last) }) // slices.SortStableFunc is 13 KB larger
	return callers, total
}
