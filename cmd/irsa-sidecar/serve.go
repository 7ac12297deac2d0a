package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// serve runs the sidecar until ctx ends. A signal among hangups makes it reload.
func serve(ctx context.Context, s *settings, logger *slog.Logger, stderr *output, hangups <-chan os.Signal) error {
	stderr.reportDrops(s.logging)
	for _, w := range s.warnings {
		logger.Warn(w)
	}
	running, err := start(s, logger, stderr)
	if err != nil {
		return err
	}
	go running.reload(hangups) // nothing waits for it: a file may be on a disk that is stuck
	err = running.wait(ctx)
	running.stop()
	if err != nil {
		return fmt.Errorf("a listener failed: %w", err)
	}
	logger.Info("stopped")
	return nil
}

// A sidecar is what runs: token file → webidentity → cache for each profile, and the listeners that serve them all.
type sidecar struct {
	*settings
	logger   *slog.Logger
	sources  []*source
	ops      *server.Ops
	reloads  chan struct{} // requested by /reload
	quit     chan struct{} // closed by /quitquitquit
	failures chan error    // of listeners

	serving, refreshing *stage
}

// A stage is a group of goroutines that stop together.
type stage struct {
	sync.WaitGroup
	ctx  context.Context
	stop context.CancelFunc
}

func newStage() *stage {
	s := new(stage)
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// start returns a sidecar that refreshes and serves.
func start(s *settings, logger *slog.Logger, stderr *output) (*sidecar, error) {
	bound, err := listenAll(s.listeners)
	if err != nil {
		return nil, err
	}
	memory, descriptors := limits()
	boundHeap(memory)
	places := budget(memory, descriptors)
	registry := newRegistry(stderr)
	c := &sidecar{
		settings: s,
		logger:   logger,
		reloads:  make(chan struct{}, 1),
		quit:     make(chan struct{}),
		failures: make(chan error, len(bound)),
		serving:  newStage(), refreshing: newStage(),
	}
	metrics := cache.NewMetrics(registry)
	for _, one := range restoredSources(s, logger, metrics) {
		c.sources = append(c.sources, one)
		c.refreshing.Go(func() { one.cache.Run(c.refreshing.ctx) })
	}
	outlets := c.outlets(bound[credentialsListener].Addr(), places, registry)
	for name, one := range outlets {
		c.serving.Go(func() {
			c.failures <- server.Serve(c.serving.ctx, bound[name], one.handler, one.places, s.grace, logger)
		})
	}
	logger.Info("serving", "version", version, "credentials", "http://"+bound[credentialsListener].Addr().String()+"/v1/credentials",
		"ops", bound[opsListener].Addr().String(), "admin", bound[adminListener].Addr().String(), "role", s.profiles[0].exchange.RoleARN,
		"authorization", s.profiles[0].access.authorization != nil, "memory_limit", formatLimit(memory), "connections", places.credentials)
	return c, nil
}

// An outlet is what a listener serves, and to how many connections at once.
type outlet struct {
	handler server.Handler
	places  int
}

// outlets returns what is served, by the listener's name.
func (c *sidecar) outlets(address net.Addr, p places, registry *prometheus.Registry) map[string]outlet {
	o := server.Options{
		Default:   defaultProfile,
		Address:   address.(*net.TCPAddr).AddrPort(),
		AccountID: c.accountID,
		Logger:    c.logger,
		Callers:   new(server.Callers),
		Metrics:   server.NewMetrics(registry),
		Version:   version,
		Profiles:  server.NewProfiles(),
	}
	var all []server.Profile
	for _, s := range c.sources {
		all = append(all, server.Profile{
			RoleARN: s.exchange.RoleARN, Cache: s.cache, Required: true,
			Authorization: s.access.authorization, Users: s.access.users,
		})
	}
	o.Profiles.Set(all)
	var quit func()
	if c.shutdown {
		quit = sync.OnceFunc(func() { close(c.quit) })
	}
	c.ops = server.NewOps(o, registry)
	return map[string]outlet{
		credentialsListener: {trimmed(c.serving.ctx, server.Credentials(o)), p.credentials},
		opsListener:         {c.ops, p.ops},
		adminListener:       {server.NewAdmin(o, c.requestReload, quit), p.admin},
	}
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
}

// requestReload makes the sidecar reload; several requests before it does so count as one.
func (c *sidecar) requestReload() {
	select {
	case c.reloads <- struct{}{}:
	default:
	}
}

// reload reloads at each hangup and request, at most once a second, until the listeners stop.
func (c *sidecar) reload(hangups <-chan os.Signal) {
	for c.serving.ctx.Err() == nil {
		cause := "SIGHUP"
		select {
		case <-c.serving.ctx.Done():
			return
		case <-hangups:
		case <-c.reloads:
			cause = "requested by /reload"
		}
		c.logger.Info("reloading", "cause", cause)
		for _, s := range c.sources {
			s.reload()
		}
		select { // requests in the same second are answered together
		case <-time.After(time.Second):
		case <-c.serving.ctx.Done():
		}
	}
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

// endWait is how long the shutdown waits for an exchange under way, which has five seconds.
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
