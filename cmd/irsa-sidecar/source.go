package main

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// maxExchanges is how many exchanges with STS may be under way at once: a sidecar of many profiles must not be a burst.
const maxExchanges = 10

// sourceSet are the profiles in use, by name. Exchanges find their sources in it while it changes.
type sourceSet struct {
	logger  *slog.Logger
	metrics *cache.Metrics
	state   *stateFile
	files   *outputFiles
	slots   chan struct{}

	mu     sync.RWMutex
	byName map[string]*source
}

func newSourceSet(state place, logger *slog.Logger, metrics *cache.Metrics) *sourceSet {
	return &sourceSet{
		logger: logger, metrics: metrics, state: newStateFile(state, logger),
		slots: make(chan struct{}, maxExchanges), byName: make(map[string]*source),
	}
}

func (all *sourceSet) get(name string) *source {
	all.mu.RLock()
	defer all.mu.RUnlock()
	return all.byName[name]
}

func (all *sourceSet) set(byName map[string]*source) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.byName = byName
}

// restored returns sources that do not refresh yet, with what an earlier run has kept of them.
func (all *sourceSet) restored(exchangers map[string]*exchanger) map[string]*source {
	var entries []*stateEntry
	byName := make(map[string]*stateEntry)
	for name, e := range exchangers {
		byName[name] = all.entry(e)
		entries = append(entries, byName[name])
	}
	kept := all.state.restore(entries)
	made := make(map[string]*source)
	for name, e := range exchangers {
		made[name] = all.newSource(e, byName[name], kept[name])
	}
	return made
}

// entry returns a profile's part of the state file.
func (all *sourceSet) entry(e *exchanger) *stateEntry {
	return all.state.entry(e.bound(e.chain), e.tokenFile)
}

// chainedTo returns the profiles whose requests a profile's credentials sign.
func (all *sourceSet) chainedTo(name string) (chained []*source) {
	all.mu.RLock()
	defer all.mu.RUnlock()
	for _, s := range all.byName {
		if s.current.Load().source == name {
			chained = append(chained, s)
		}
	}
	return chained
}

// A source is a profile in use: its exchanges, and what comes of them.
type source struct {
	name  string
	all   *sourceSet
	cache *cache.Cache
	state *stateEntry // nil keeps nothing
	file  *heldEntry

	current atomic.Pointer[exchanger]
	asked   string                 // the sum of the binding of the last exchange; only that uses it
	held    atomic.Pointer[string] // the sum of the binding of the credentials that the Cache has; nil before the first

	stop  context.CancelFunc // ends the refresh
	ended chan struct{}      // closed when it has ended
}

// An exchanger makes exchanges, by what the profile was when its files were last read.
type exchanger struct {
	*profile
	provider  *webidentity.Provider
	binding   stateBinding // without its source
	chain     string       // the sum of the bindings of its sources, if all had credentials of what they are now
	tokenFile string       // that the first hop exchanges
	hops      int
}

// exchangers returns how to make the exchanges of all profiles, by name.
func (s *settings) exchangers(logger *slog.Logger) map[string]*exchanger {
	all := make(map[string]*exchanger)
	for _, p := range s.profiles { // each source is before those that use it
		e := &exchanger{profile: p, provider: p.provider(logger), binding: p.binding(), tokenFile: p.exchange.TokenFile, hops: 1}
		if from := all[p.source]; from != nil {
			e.chain, e.tokenFile, e.hops = from.bound(from.chain).sum(), from.tokenFile, from.hops+1
		}
		all[p.name] = e
	}
	return all
}

// provider makes the profile's exchanges.
func (p *profile) provider(logger *slog.Logger) *webidentity.Provider {
	o := p.exchange
	o.Logger = logger
	return webidentity.New(o)
}

// bound returns the binding of credentials that were signed by those with this sum.
func (e *exchanger) bound(chain string) stateBinding {
	b := e.binding
	b.Source = chain
	return b
}

// requests reports whether two exchangers send the same.
func (e *exchanger) requests(other *exchanger) bool {
	without := func(o webidentity.Options) webidentity.Options {
		o.Logger, o.Dial, o.Roots, o.RegionHint = nil, nil, nil, ""
		return o
	}
	return e.source == other.source && reflect.DeepEqual(without(e.exchange), without(other.exchange))
}

// newSource returns a source that does not refresh yet. Nil entries keep nothing.
func (all *sourceSet) newSource(e *exchanger, entry *stateEntry, kept *cache.Kept) *source {
	s := &source{name: e.name, all: all, state: entry, ended: make(chan struct{})}
	s.current.Store(e)
	options := cache.Options{
		Profile: e.name, Timeout: e.timeout(), Logger: all.logger, Metrics: all.metrics,
		Restore: func() *cache.Kept { return kept }, Renewed: s.renewed,
	}
	options.Keep = func(k cache.Kept) {
		s.file.keep(k, s.asked)
		s.state.keep(k)
	}
	s.cache = cache.New(s.fetch, options)
	if s.cache.Status().Credentials == nil {
		kept = nil
	}
	sum := e.bound(e.chain).sum()
	s.file = all.files.entry(e.name, sum, kept)
	if kept != nil { // restored, because they were bound to just this
		s.held.Store(&sum)
	}
	return s
}

// run refreshes until ctx ends or the source is stopped.
func (s *source) run(ctx context.Context) {
	defer close(s.ended)
	s.cache.Run(ctx)
}

// timeout bounds an exchange: where nobody has credentials yet, it waits for one exchange of each hop.
func (e *exchanger) timeout() time.Duration { return time.Duration(e.hops) * hopTimeout }

// fetch makes one exchange. The error is always a [*cache.FetchError].
func (s *source) fetch(ctx context.Context) (cache.Credentials, error) {
	e := s.current.Load()
	if e.source == "" {
		s.ask(e, "")
		return s.all.exchange(ctx, e.provider.Fetch)
	}
	from := s.all.get(e.source)
	if from == nil {
		return cache.Credentials{}, &cache.FetchError{Reason: cache.UnknownError, Message: fmt.Sprintf("the source profile %q has just been removed", e.source)}
	}
	// Without a slot: those for whose credentials it waits need one.
	creds, err := from.cache.Live(ctx)
	if err != nil {
		return cache.Credentials{}, cache.AsFetchError(err).Via(e.source)
	}
	chain := e.chain
	if held := from.held.Load(); held != nil { // a source whose role has just changed may still have a session of the old
		chain = *held
	}
	s.ask(e, chain)
	return s.all.exchange(ctx, func(ctx context.Context) (cache.Credentials, error) {
		return e.provider.Assume(ctx, webidentity.Source{Profile: e.source, Credentials: creds, Skew: from.cache.Status().ClockSkew})
	})
}

// ask notes what the exchange under way asks for.
func (s *source) ask(e *exchanger, chain string) {
	b := e.bound(chain)
	s.asked = b.sum()
	s.state.bind(b, e.tokenFile)
}

// renewed is called when the Cache has new credentials. Where they are of another role than before, or were asked for with
// something else, the sessions that they sign are no longer what is wanted.
func (s *source) renewed() {
	before := s.held.Swap(new(s.asked))
	if before == nil || *before == s.asked {
		return
	}
	for _, chained := range s.all.chainedTo(s.name) {
		chained.cache.Refresh(true)
	}
}

// exchange makes an exchange when there is a slot for it.
func (all *sourceSet) exchange(ctx context.Context, do cache.Fetch) (cache.Credentials, error) {
	select {
	case all.slots <- struct{}{}:
		defer func() { <-all.slots }()
		return do(ctx)
	case <-ctx.Done():
		return cache.Credentials{}, &cache.FetchError{Reason: cache.EndpointTimeout,
			Message: fmt.Sprintf("the exchanges of %d other profiles took so long that there was no time for this one", maxExchanges)}
	}
}

// drop ends sources that are not used any more. What they hold is on no listener any more; here it goes from the state file and
// the metrics.
func (all *sourceSet) drop(removed []*source) {
	for _, s := range removed {
		s.stop()
	}
	for _, s := range removed {
		s.state.forget()
		s.file.forget()
	}
	within(endWait, func() {
		for _, s := range removed {
			<-s.ended
		}
	})
	for _, s := range removed {
		all.metrics.Forget(s.name)
	}
}
