//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	fewProfiles, manyProfiles = 10, 50

	// mostExchanges is how many exchanges a sidecar may make at once.
	mostExchanges = 10

	// startLatency is STS's while exchanges at once are counted: long, so that all that are allowed are under way together.
	startLatency = 100 * time.Millisecond
)

// profileName returns the name of a profile; the first one is the environment's.
func profileName(n int) string {
	if n == 0 {
		return "default"
	}
	return fmt.Sprintf("tenant-%d", n)
}

func profiles(n int) string {
	if n == 1 {
		return "1 profile"
	}
	return fmt.Sprintf("%d profiles", n)
}

// configure returns the environment of a sidecar with so many profiles, each of which has its own role.
func (b *bench) configure(count int) (env []string, err error) {
	if count == 1 {
		return nil, nil
	}
	var text strings.Builder
	for n := 1; n < count; n++ {
		fmt.Fprintf(&text, "[profile %s]\nrole_arn = %s-%d\n\n", profileName(n), roleARN, n)
	}
	path := filepath.Join(filepath.Dir(b.roots), fmt.Sprintf("config-%d", count))
	return []string{"AWS_CONFIG_FILE=" + path}, os.WriteFile(path, []byte(text.String()), 0o644)
}

// warmHandlers measures the handler alone, without sockets, with existing credentials, for one profile and among many.
func (b *bench) warmHandlers(ctx context.Context, rounds options) (steps []*step, err error) {
	for _, count := range []int{1, fewProfiles, manyProfiles} {
		o, err := b.warm(ctx, count)
		if err != nil {
			return nil, err
		}
		path := "/v1/credentials"
		if count > 1 {
			path += "/" + profileName(count-1)
		}
		name := "handler"
		if count > 1 {
			name = fmt.Sprintf("handler with %d profiles", count)
		}
		steps = append(steps, b.handler(name, server.Credentials(o), handlerRequest(http.MethodGet, path), rounds))
	}
	return steps, nil
}

// handler measures a handler alone, beside the bare one.
func (b *bench) handler(name string, ours http.Handler, r *http.Request, o options) *step {
	return &step{
		name: name, least: o.rounds, most: o.most,
		measures: []measure{
			{name: name + ", allocations per request", limit: 2},
			{name: name + ", ns per request", kind: relative, margin: 0.15}, // 0.91 to 1.04 × in five runs of one binary
		},
		round: func(context.Context, int) ([]pair[float64], error) {
			var allocations, took pair[float64]
			var failed [2]error
			allocations.ours, took.ours, failed[0] = cost(ours, r)
			allocations.bare, took.bare, failed[1] = cost(b.bareHandler(), r)
			return []pair[float64]{allocations, took}, errors.Join(failed[:]...)
		},
	}
}

// warm returns the options of a handler of so many profiles with credentials. It leaves out the request counters, which would
// need a package that bench does not import otherwise.
func (b *bench) warm(ctx context.Context, count int) (o server.Options, err error) {
	fetch := func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{
			AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: cache.NewSecret("EXAMPLE"), SessionToken: cache.NewSecret(b.body),
			Expiration: time.Now().Add(time.Hour).UTC(), RoleARN: roleARN,
		}, nil
	}
	var all []server.Profile
	for n := range count {
		creds := cache.New(fetch, cache.Options{Profile: profileName(n)})
		if _, err := creds.Get(ctx); err != nil {
			return o, err
		}
		all = append(all, server.Profile{RoleARN: roleARN, Cache: creds})
	}
	served := server.NewProfiles()
	served.Set(all)
	return server.Options{
		Default:  profileName(0),
		Address:  netip.MustParseAddrPort("127.0.0.1:9911"),
		Profiles: served,
	}, nil
}

// startProfiles starts a sidecar with so many profiles.
func (b *bench) startProfiles(count int) func(context.Context) (*child, error) {
	return func(ctx context.Context) (*child, error) {
		env, err := b.configure(count)
		if err != nil {
			return nil, err
		}
		return b.startSidecarWith(ctx, env...)
	}
}

// ready waits until /readyz says that all profiles have credentials.
func (c *child) ready() error {
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	for began := time.Now(); time.Since(began) < patience; time.Sleep(time.Millisecond) {
		response, err := client.Get("http://" + c.ops + "/readyz")
		if err != nil { // it listens there a moment later
			continue
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("not ready after %s; its output: %s", patience, c.output.Bytes())
}

// allReady measures the time from exec to credentials for all of so many profiles, beside that from exec to the bare server's
// first answer.
func (b *bench) allReady(count int) *step {
	return &step{
		name: "start with " + profiles(count), least: 7, most: 50,
		measures: []measure{{name: "exec to ready with " + profiles(count) + ", ms", kind: relative, margin: 0.25}},
		round: func(ctx context.Context, _ int) ([]pair[float64], error) {
			var took pair[float64]
			for _, one := range []struct {
				start func(context.Context) (*child, error)
				until func(*child) error
				took  *float64
			}{
				{b.startProfiles(count), (*child).ready, &took.ours},
				{b.startBare, func(c *child) error { _, err := c.ask(); return err }, &took.bare},
			} {
				began := time.Now()
				c, err := one.start(ctx)
				if err != nil {
					return nil, err
				}
				err = one.until(c)
				*one.took = milliseconds(time.Since(began))
				c.stop()
				if err != nil {
					return nil, err
				}
			}
			return []pair[float64]{took}, nil
		},
	}
}

// exchangesAtOnce counts the exchanges that a sidecar with many profiles has under way at the start, as STS sees them.
func (b *bench) exchangesAtOnce() *step {
	return &step{
		name: "exchanges at the start", least: inARow, most: 30,
		measures: []measure{
			{name: fmt.Sprintf("start with %d profiles, exchanges at once", manyProfiles), kind: counted, limit: mostExchanges},
			{name: fmt.Sprintf("start with %d profiles, calls of STS", manyProfiles), kind: counted, limit: manyProfiles},
		},
		round: func(ctx context.Context, _ int) ([]pair[float64], error) {
			b.sts.Break(ststest.Fault{Latency: startLatency})
			defer b.sts.Repair()
			before, answered := b.sts.Calls(), len(b.sts.Issued())
			c, err := b.startProfiles(manyProfiles)(ctx)
			if err != nil {
				return nil, err
			}
			defer c.stop()
			atOnce, over := 0, make(chan error, 1)
			go func() { over <- c.ready() }()
			for {
				calls := b.sts.Calls() - before // before those that are answered: too few rather than too many
				atOnce = max(atOnce, calls-(len(b.sts.Issued())-answered))
				select {
				case err := <-over:
					return []pair[float64]{{ours: float64(atOnce)}, {ours: float64(calls)}}, err
				case <-time.After(time.Millisecond):
				}
			}
		},
	}
}

// workedWith starts a sidecar and lets it work.
func (b *bench) workedWith(ctx context.Context, s shape, start func(context.Context) (*child, error)) (*child, error) {
	c, err := start(ctx)
	if err != nil {
		return nil, err
	}
	b.children = append(b.children, c)
	if err := c.ready(); err != nil {
		return nil, err
	}
	_, err = s.put(c.target, b.size, restAfter)
	return c, err
}

// restProfiles starts a few sidecars of each number of profiles and lets them work as [bench.rest] does. Its step measures what
// they cost without requests, and what many profiles cost more than one.
func (b *bench) restProfiles(ctx context.Context, o options) (*step, error) {
	const each = 3
	counts := []int{1, fewProfiles, manyProfiles}
	var all [][]*child
	for range each {
		var group []*child
		for _, count := range counts {
			c, err := b.workedWith(ctx, shapes[1], b.startProfiles(count))
			if err != nil {
				return nil, err
			}
			group = append(group, c)
		}
		all = append(all, group)
	}
	since := time.Now()
	s := &step{name: "rest with profiles", least: each, most: each}
	for _, count := range counts[1:] {
		s.measures = append(s.measures,
			measure{name: fmt.Sprintf("at rest with %d profiles, RSS, MiB", count), margin: 0.03},
			measure{name: fmt.Sprintf("at rest with %d profiles, RssAnon, MiB", count), margin: 0.06})
	}
	s.measures = append(s.measures, measure{name: fmt.Sprintf("at rest, %d profiles above one, RssAnon, MiB", manyProfiles), limit: 2, margin: 0.25})
	s.round = func(ctx context.Context, round int) (values []pair[float64], err error) {
		if err := sleepUntil(ctx, since.Add(o.rest)); err != nil {
			return nil, err
		}
		var anon []float64
		for i, c := range all[round] {
			rss, own, err := c.resident()
			if err != nil {
				return nil, err
			}
			if anon = append(anon, own); i > 0 {
				values = append(values, pair[float64]{ours: rss}, pair[float64]{ours: own})
			}
		}
		return append(values, pair[float64]{ours: max(0, anon[len(anon)-1]-anon[0])}), nil
	}
	return s, nil
}
