package server

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// Profile is one role's credentials, and who may have them. Requests name it by the Cache's profile.
type Profile struct {
	// RoleARN is the role that is to be assumed. While another role's session is still served, the pages say so.
	RoleARN string

	// Source is the name of the profile that this one is chained to. Empty: web identity.
	Source string

	// Cache holds the credentials. It is required.
	Cache *cache.Cache

	// Authorization that callers must send. Nil requires none. Profiles that share one share the object.
	Authorization *Authorization

	// TokenOptional makes Authorization count only where callers can send one. Listeners whose clients cannot, such as that of
	// [Relative], serve the profile without it.
	TokenOptional bool

	// Users whose programs are answered. Nil answers all. This works only for connections that [Serve] has accepted.
	Users *Users

	// Hidden profiles are listed on the pages, but not served.
	Hidden bool

	// Required makes readiness depend on the profile.
	Required bool
}

// Profiles are what the handlers of a sidecar serve. They may be replaced at any time: requests read them without a lock.
type Profiles struct {
	current atomic.Pointer[table]

	mu        sync.Mutex // of replacing the table, and of what follows
	metrics   *Metrics
	logger    *slog.Logger
	listeners []namedRoute // that serve credentials; each has its place in record.warm
}

// table is all profiles at one moment. It is never changed.
type table struct {
	slots          []*slot          // by name
	paths          map[string]*slot // that are served, by the exact path
	authorizations []*Authorization // of slots, each once
	fault          string
}

// slot holds a profile and what has been recorded of it.
type slot struct {
	Profile
	*record
}

// record stays as long as the profile's Cache does.
type record struct {
	askers   tally
	warm     [maxListeners]atomic.Pointer[routeMetrics]
	rendered [3]atomic.Pointer[rendered] // the document of each kind
	gone     atomic.Bool                 // the Cache is not served any more; the next table is current already
}

// The places of documents in record.rendered.
const (
	containerDocumentPlace = iota
	accountDocumentPlace   // the same with the account
	imdsDocumentPlace
)

// maxListeners is how many listeners of a sidecar may serve credentials.
const maxListeners = 4

// NewProfiles returns Profiles that have none.
func NewProfiles() *Profiles {
	p := new(Profiles)
	p.current.Store(new(table))
	return p
}

// Set replaces all profiles. Their names must differ. A profile whose Cache stays keeps what has been recorded of it, even if
// all else changes; what is not among them any more is forgotten, with its metrics, and no answer that begins after Set has
// returned has its credentials.
func (p *Profiles) Set(all []Profile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.now()
	next := &table{paths: make(map[string]*slot, len(all)), fault: before.fault}
	for _, one := range all {
		s := &slot{Profile: one, record: before.recordOf(one.Cache)}
		if s.record == nil {
			s.record = new(record)
			s.askers.init(maxAskers)
		}
		next.slots = append(next.slots, s)
		if !one.Hidden {
			next.paths[credentialsPath+one.Cache.Profile()] = s
		}
		if a := one.Authorization; a != nil && !slices.Contains(next.authorizations, a) {
			next.authorizations = append(next.authorizations, a)
		}
	}
	slices.SortFunc(next.slots, func(a, b *slot) int { return strings.Compare(a.name(), b.name()) })
	p.publish(next)
	for _, s := range before.slots {
		if next.recordOf(s.Cache) == nil {
			s.gone.Store(true)
		}
	}
}

// maxFault is how much of a fault the pages show, in characters.
const maxFault = 1000

// SetFault sets what is wrong with a configuration that was not taken, for the pages. Empty: nothing.
func (p *Profiles) SetFault(text string) {
	text = redact.Shorten(redact.Scrub(redact.OneLine(text)), maxFault)
	p.mu.Lock()
	defer p.mu.Unlock()
	next := *p.now()
	next.fault = text
	p.publish(&next)
}

// namedRoute is the route of credentials on a listener, by its name.
type namedRoute struct{ listener, route string }

// report makes metrics count the requests to a listener for the profiles, by this route, and logger get what is wrong with their
// token files. Either may be nil. It returns the listener's place in record.warm.
func (p *Profiles) report(listener, route string, metrics *Metrics, logger *slog.Logger) (place int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if metrics != nil {
		p.metrics = metrics
	}
	if logger != nil {
		p.logger = logger
	}
	if place = slices.Index(p.listeners, namedRoute{listener, route}); place < 0 {
		place = len(p.listeners)
		p.listeners = append(p.listeners, namedRoute{listener, route})
	}
	p.publish(p.now())
	return place
}

// publish makes t the current table. What counts requests and logs faults knows of a profile before it is served.
func (p *Profiles) publish(t *table) {
	names := make(map[string]bool, len(t.slots))
	for _, s := range t.slots {
		names[s.name()] = true
	}
	p.metrics.keep(names)
	for _, s := range t.slots {
		for i, l := range p.listeners {
			if !s.Hidden && s.warm[i].Load() == nil {
				s.warm[i].Store(p.metrics.route(l.listener, s.name(), l.route))
			}
		}
	}
	if p.logger != nil {
		for _, a := range t.authorizations {
			a.logTo(p.logger)
		}
	}
	p.current.Store(t)
}

func (p *Profiles) now() *table { return p.current.Load() }

func (s *slot) name() string { return s.Cache.Profile() }

// recordOf returns what has been recorded of a Cache; nil if it is not in the table.
func (t *table) recordOf(c *cache.Cache) *record {
	for _, s := range t.slots {
		if s.Cache == c {
			return s.record
		}
	}
	return nil
}

// sources returns the profiles that s is chained to, the next one first.
func (t *table) sources(s *slot) (all []*slot) {
	for len(all) < len(t.slots) { // the end of what could only be a loop
		i := slices.IndexFunc(t.slots, func(one *slot) bool { return one.name() == s.Source })
		if s.Source == "" || i < 0 {
			break
		}
		s = t.slots[i]
		all = append(all, s)
	}
	return all
}

// listed returns profiles in the order of the pages: by name, but first the one that is served to requests that name none.
func listed(slots []*slot, first string) []*slot {
	all := slices.Clone(slots)
	if i := slices.IndexFunc(all, func(s *slot) bool { return s.name() == first }); i > 0 {
		s := all[i]
		copy(all[1:], all[:i])
		all[0] = s
	}
	return all
}
