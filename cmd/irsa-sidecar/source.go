package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// A source is a profile in use: its exchanges, and what comes of them.
type source struct {
	*profile
	cache  *cache.Cache
	state  *stateEntry // nil keeps nothing
	logger *slog.Logger

	current atomic.Pointer[exchanger]
}

// An exchanger makes exchanges, by what the profile's files held when they were last read.
type exchanger struct {
	provider *webidentity.Provider
	binding  stateBinding
}

// restoredSources returns a source for each profile, with what an earlier run has kept of it.
func restoredSources(s *settings, logger *slog.Logger, metrics *cache.Metrics) (all []*source) {
	state := newStateFile(s.state, logger)
	var entries []*stateEntry
	for _, p := range s.profiles {
		one := &source{profile: p, state: state.entry(p.binding(), p.exchange.TokenFile), logger: logger}
		all, entries = append(all, one), append(entries, one.state)
	}
	kept := state.restore(entries)
	for _, one := range all {
		one.current.Store(one.exchanger(logger))
		options := cache.Options{Profile: one.name, Logger: logger, Metrics: metrics, Restore: func() *cache.Kept { return kept[one.name] }}
		if state != nil {
			options.Keep = one.state.keep
		}
		one.cache = cache.New(one.fetch, options)
	}
	return all
}

func (s *source) fetch(ctx context.Context) (cache.Credentials, error) {
	e := s.current.Load()
	s.state.bind(e.binding, s.exchange.TokenFile)
	return e.provider.Fetch(ctx)
}

// reload reads the profile's files again; the environment is what it was. Then it has the credentials refreshed. A mistake
// in one file keeps what all of them held, except for the authorization token's, which is on its own. Replaced tokens
// stop working in any case.
func (s *source) reload() {
	if err := s.access.authorization.Reload(); err != nil {
		s.logger.Error("cannot reload the authorization token file; keeping the current token", "error", err)
	}
	next, invalid := s.profile.loaded()
	if len(invalid) > 0 {
		s.logger.Error("cannot reload the configuration files; keeping the previous values", "error", invalid)
		s.cache.Refresh(false)
		return
	}
	e := next.exchanger(s.logger)
	before := s.current.Swap(e)
	s.cache.Refresh(fmt.Sprintf("%q", before.binding) != fmt.Sprintf("%q", e.binding))
}

func (p *profile) exchanger(logger *slog.Logger) *exchanger {
	return &exchanger{p.provider(logger), p.binding()}
}

// provider makes the profile's exchanges.
func (p *profile) provider(logger *slog.Logger) *webidentity.Provider {
	o := p.exchange
	o.Logger = logger
	return webidentity.New(o)
}
