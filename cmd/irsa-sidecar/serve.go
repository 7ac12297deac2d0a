package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// serve runs the sidecar until ctx ends. A signal among hangups makes it reload.
func serve(ctx context.Context, s *settings, logger *slog.Logger, stderr *output, hangups <-chan os.Signal) error {
	running, err := launch(s, logger, stderr, hangups)
	if err != nil {
		return err
	}
	err = running.wait(ctx)
	running.stop()
	if err != nil {
		return fmt.Errorf("a listener failed: %w", err)
	}
	logger.Info("stopped")
	return nil
}

// launch returns a sidecar that also reloads.
func launch(s *settings, logger *slog.Logger, stderr *output, hangups <-chan os.Signal) (*sidecar, error) {
	stderr.reportDrops(s.logging)
	for _, w := range s.warnings {
		logger.Warn(w)
	}
	running, err := start(s, logger, stderr)
	if err == nil {
		go running.reload(hangups) // nothing waits for it: a file may be on a disk that is stuck
	}
	return running, err
}

// A sidecar is what runs: token file → webidentity → cache for each profile, and the listeners that serve them all.
type sidecar struct {
	*settings           // of the start; profiles and files may have changed since
	current   *settings // only start and reload use it
	logger    *slog.Logger
	sources   *sourceSet
	served    *server.Profiles
	ops       *server.Ops
	url       string        // of the default profile's credentials
	reloads   chan struct{} // requested by /reload
	quit      chan struct{} // closed by /quitquitquit
	failures  chan error    // of listeners

	fault         string // in the configuration files, if those that the sidecar uses are older; only reload uses it
	configuration *reloadMetrics

	region atomic.Pointer[webidentity.Options] // that know the region of the instance metadata

	writing bool // something looks after files; only start and reload use it

	serving, refreshing *stage
}

// A stage is a group of goroutines that stop together.
type stage struct {
	sync.WaitGroup
	ctx context.Context
	end context.CancelFunc
	mu  sync.Mutex // of what begins and ends it
}

func newStage() *stage {
	s := new(stage)
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// stop ends the goroutines' context. Nothing is added to the stage afterwards.
func (s *stage) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

// start returns a sidecar that refreshes and serves.
func start(s *settings, logger *slog.Logger, stderr *output) (*sidecar, error) {
	bound, err := listenAll(s.listeners)
	if err != nil {
		return nil, err
	}
	memory, descriptors := limits()
	boundHeap(memory)
	places := budget(memory, descriptors, s.outputs())
	registry := newRegistry(stderr)
	c := &sidecar{
		settings:      s,
		logger:        logger,
		sources:       newSourceSet(s.state, logger, cache.NewMetrics(registry)),
		served:        server.NewProfiles(),
		reloads:       make(chan struct{}, 1),
		quit:          make(chan struct{}),
		failures:      make(chan error, len(bound)),
		configuration: newReloadMetrics(registry),
		serving:       newStage(), refreshing: newStage(),
	}
	c.sources.files = newOutputFiles(logger, registry)
	all := c.sources.restored(s.exchangers(logger))
	c.use(s, all, slices.Collect(maps.Values(all)))
	c.url = "http://" + bound[credentialsListener][0].Addr().String() + "/v1/credentials"
	for name, handler := range c.handlers(bound, registry) {
		if bound[name] == nil {
			continue
		}
		c.serving.Go(func() {
			c.failures <- server.Serve(c.serving.ctx, server.Join(bound[name]...), handler, places[name], s.grace, logger)
		})
	}
	c.logStart(bound, memory, places)
	return c, nil
}

// logStart logs what is served, and where.
func (c *sidecar) logStart(bound map[string][]net.Listener, memory int64, p places) {
	attrs := []any{"version", version, "credentials", c.url}
	for _, name := range []string{ecsListener, imdsListener, socketListener, opsListener, adminListener} {
		if all := addressesOf(bound[name]); all != nil {
			attrs = append(attrs, name, strings.Join(all, " "))
		}
	}
	var names []string
	for _, one := range c.profiles {
		names = append(names, one.name)
		c.logger.Debug("profile", "profile", one.name, "role", one.exchange.RoleARN, "source", one.source, "authorization", one.access.authorization != nil)
	}
	if one := c.profile(defaultProfile); one != nil {
		attrs = append(attrs, "role", one.exchange.RoleARN, "authorization", one.access.authorization != nil)
	}
	attrs = append(attrs, "profiles", listed(names), "memory_limit", formatLimit(memory), "connections", p[credentialsListener])
	c.logger.Info("serving", attrs...)
}

// use makes the sidecar serve these sources with these settings, and begins to refresh those that are new. It does nothing,
// and reports so, once the refreshers are to stop.
func (c *sidecar) use(s *settings, all map[string]*source, added []*source) bool {
	c.refreshing.mu.Lock()
	defer c.refreshing.mu.Unlock()
	if c.refreshing.ctx.Err() != nil {
		return false
	}
	c.current = s
	c.region.Store(&s.imds.place)
	c.sources.set(all)
	c.writeFiles(s.written)
	for _, one := range added {
		ctx, stop := context.WithCancel(c.refreshing.ctx)
		one.stop = stop
		c.refreshing.Go(func() { one.run(ctx) })
	}
	var served []server.Profile
	for _, p := range s.profiles {
		served = append(served, server.Profile{
			RoleARN: p.exchange.RoleARN, Source: p.source, Cache: all[p.name].cache,
			Authorization: p.access.authorization, TokenOptional: p.tokenOptional(), Users: p.access.users, Hidden: p.hidden, Required: p.required,
		})
	}
	c.served.Set(served)
	return true
}

// writeFiles writes these files from now on. The first of them begins what looks after all.
func (c *sidecar) writeFiles(outputs []fileOutput) {
	c.sources.files.set(outputs)
	if len(outputs) > 0 && !c.writing {
		c.writing = true
		c.refreshing.Go(func() { c.sources.files.run(c.refreshing.ctx) })
	}
}

// addressesOf lists the addresses of listeners; nil if there are none.
func addressesOf(all []net.Listener) (addresses []string) {
	for _, l := range all {
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}

// ports are the addresses of TCP listeners.
func ports(all []net.Listener) (addresses []netip.AddrPort) {
	for _, l := range all {
		addresses = append(addresses, l.Addr().(*net.TCPAddr).AddrPort())
	}
	return addresses
}

// handlers returns what is served, by the listener's name.
func (c *sidecar) handlers(bound map[string][]net.Listener, registry *prometheus.Registry) map[string]server.Handler {
	o := server.Options{
		Profiles:  c.served,
		Default:   defaultProfile,
		Address:   ports(bound[credentialsListener])[0],
		AccountID: c.accountID,
		Logger:    c.logger,
		Callers:   new(server.Callers),
		Metrics:   server.NewMetrics(registry),
		Version:   version,
	}
	for _, name := range c.outputs() {
		for _, address := range addressesOf(bound[name]) {
			if name != credentialsListener {
				o.Outputs = append(o.Outputs, server.Output{Listener: name, Address: address})
			}
		}
	}
	var quit func()
	if c.shutdown {
		quit = sync.OnceFunc(func() { close(c.quit) })
	}
	c.ops = server.NewOps(o, registry)
	outputs := map[string]server.Handler{credentialsListener: server.Credentials(o)}
	if all := ports(bound[imdsListener]); all != nil {
		outputs[imdsListener] = c.metadata(o, all)
	}
	if all := ports(bound[ecsListener]); all != nil {
		outputs[ecsListener] = server.Relative(o, all...)
	}
	if bound[socketListener] != nil {
		outputs[socketListener] = server.Socket(o)
	}
	all := trimmed(c.serving.ctx, outputs)
	all[opsListener] = c.ops
	all[adminListener] = server.NewAdmin(o, c.requestReload, quit)
	return all
}

// wait returns when the sidecar has to stop, after it has served for the delay; the error is a listener's.
func (c *sidecar) wait(ctx context.Context) error {
	select {
	case err := <-c.failures:
		return err
	case <-c.quit:
		c.drain("requested by /quitquitquit", 0) // the Job that asks for it waits for the end
	case <-ctx.Done():
		c.drain(context.Cause(ctx).Error(), c.delay)
	}
	return nil
}

// drain keeps serving for delay, or until a second signal or the shutdown command, while /readyz says that this is the end.
func (c *sidecar) drain(cause string, delay time.Duration) {
	// Before the log says that a first signal has arrived.
	again, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	c.logger.Info("shutting down", "cause", cause, "delay", delay.String(), "grace", c.grace.String())
	c.ops.Drain()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-again.Done():
	case <-c.quit:
	}
}

// stop ends what start has begun: the refreshers last, so that requests under way still get an answer.
func (c *sidecar) stop() {
	c.serving.stop()
	c.serving.Wait()
	c.refreshing.stop()
	if !within(endWait, c.refreshing.Wait) {
		c.logger.Error("the refresh is stuck; stopping without it")
	}
	c.sources.files.stop()
}

// newRegistry returns the registry with what is about the process.
func newRegistry(stderr *output) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "irsa_sidecar_build_info",
		Help:        "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	registry.MustRegister(build, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "irsa_sidecar_log_lines_dropped_total",
			Help: "Lines of the log that were dropped, because stderr could not be written.",
		}, func() float64 { return float64(stderr.dropped.Load()) }))
	return registry
}

// formatLimit returns a memory limit as people write it.
func formatLimit(limit int64) string {
	if limit == 0 {
		return "none"
	}
	return fmt.Sprintf("%.0f MiB", float64(limit)/(1<<20))
}

// endWait is how long a shutdown, or the removal of a profile, waits for exchanges under way. They are cancelled, so that only
// a file that cannot be read, on a disk that is stuck, takes longer.
const endWait = 6 * time.Second

// within reports whether do ended in time. Where it did not, it goes on.
func within(limit time.Duration, do func()) bool {
	done := make(chan struct{})
	go func() { do(); close(done) }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
