package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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

// defaultProfile is what the role from the environment is called; it is served where a request names no profile.
const defaultProfile = "default"

// serve runs the sidecar until ctx ends: token file → webidentity → cache → server → client. A signal among hangups has
// it read its files again.
func serve(ctx context.Context, c *Config, logger *slog.Logger, stderr *output, hangups <-chan os.Signal) error {
	stderr.tellOfDrops(c)
	for _, w := range c.warnings {
		logger.Warn(w)
	}
	var listeners []net.Listener // credentials, ops, admin
	for _, l := range []struct {
		variable, address string
		buffer            int
	}{{listenVariable, c.listen, server.CredentialsBuffer}, {opsVariable, c.ops, server.PagesBuffer}, {adminVariable, c.admin, server.PagesBuffer}} {
		listener, err := listen(l.variable, l.address, l.buffer)
		if err != nil {
			return err
		}
		defer listener.Close()
		listeners = append(listeners, listener)
	}
	memory, descriptors := limits()
	boundHeap(memory)
	places := budget(memory, descriptors)

	registry := newRegistry(stderr)
	caching := cache.Options{Profile: defaultProfile, Logger: logger, Metrics: cache.NewMetrics(registry)}
	state := c.newStateFile(logger)
	if state != nil {
		caching.Restore, caching.Keep = state.restore, state.keep
	}
	var asking atomic.Pointer[asker]
	asking.Store(&asker{c.provider(logger), c.stateBinding()})
	creds := cache.New(func(ctx context.Context) (cache.Credentials, error) {
		a := asking.Load()
		state.bind(a.binding)
		return a.provider.Fetch(ctx)
	}, caching)
	options := server.Options{
		Profiles:      []server.Profile{{RoleARN: c.RoleARN, Cache: creds}},
		Default:       defaultProfile,
		Address:       listeners[0].Addr().(*net.TCPAddr).AddrPort(),
		Authorization: c.authorization,
		Users:         c.users,
		AccountID:     c.accountID,
		Logger:        logger,
		Callers:       new(server.Callers),
		Metrics:       server.NewMetrics(registry),
		Version:       version,
	}
	ctx, quit := context.WithCancelCause(ctx)
	defer quit(nil)
	reloads := make(chan struct{}, 1)
	ops := server.NewOps(options, registry)
	quitting := make(chan struct{})
	admin := server.NewAdmin(options, reloader(reloads), quitter(c.quit, sync.OnceFunc(func() {
		quit(errQuit)
		close(quitting)
	})))

	// Five actors. Each ends by serving's end, which follows ctx after the delay; the refresher goes
	// last, so that whoever still asks is still answered.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	refreshing, stopRefreshing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRefreshing()
	var refresher, servers sync.WaitGroup
	refresher.Go(func() { creds.Run(refreshing) })
	failures := make(chan error, len(listeners))
	for i, one := range []struct {
		handler server.Handler
		places  int
	}{{trimmed(serving, server.Credentials(options)), places.credentials}, {ops, places.ops}, {admin, places.admin}} {
		servers.Go(func() {
			failures <- server.Serve(serving, listeners[i], one.handler, one.places, c.grace, logger)
		})
	}
	logger.Info("serving", "version", version, "credentials", "http://"+listeners[0].Addr().String()+"/v1/credentials",
		"ops", listeners[1].Addr().String(), "admin", listeners[2].Addr().String(), "role", c.RoleARN,
		"authorization", c.authorization != nil, "memory_limit", spellLimit(memory), "connections", places.credentials)

	go func() { // whom nobody waits for: a file may be on a disk that is stuck
		for serving.Err() == nil {
			cause := "SIGHUP"
			select {
			case <-serving.Done():
				return
			case <-hangups:
			case <-reloads:
				cause = "requested by /reload"
			}
			logger.Info("reloading", "cause", cause)
			creds.Refresh(c.reload(&asking, logger))
			select { // those who ask more often than every second are answered together
			case <-time.After(time.Second):
			case <-serving.Done():
			}
		}
	}()

	var err error
	select {
	case err = <-failures:
	case <-ctx.Done():
		drain(ctx, c, ops, quitting, logger)
	}
	stopServing()
	servers.Wait()
	stopRefreshing()
	if !within(endWait, refresher.Wait) {
		logger.Error("the refresh is stuck; stopping without it")
	}
	if err != nil {
		return fmt.Errorf("a listener failed: %w", err)
	}
	logger.Info("stopped")
	return nil
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

// asker makes exchanges by one state of the configuration's files.
type asker struct {
	provider *webidentity.Provider
	binding  stateBinding
}

// endWait is how long the end waits for an exchange under way, which has five seconds.
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

// reload reads again what files hold of the configuration; the environment is what it was. It reports whether
// something else is asked for from now on. A mistake in one file keeps what it held, and all others but the
// authorization token's; replaced tokens open no more in any case.
func (c *Config) reload(asking *atomic.Pointer[asker], logger *slog.Logger) (changed bool) {
	if err := c.authorization.Reload(); err != nil {
		logger.Error("cannot reload the authorization token file; keeping the current token", "error", err)
	}
	next, problems := loadConfig()
	if len(problems) > 0 {
		logger.Error("cannot reload the configuration files; keeping the previous values", "error", problems)
		return false
	}
	a := &asker{next.provider(logger), next.stateBinding()}
	return fmt.Sprintf("%q", asking.Swap(a).binding) != fmt.Sprintf("%q", a.binding)
}

// drain says that the end has come, and keeps serving for the delay.
func drain(ctx context.Context, c *Config, ops *server.Ops, quitting <-chan struct{}, logger *slog.Logger) {
	// Before the log says that a first signal has been taken in.
	again, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	delay := c.delay
	if errors.Is(context.Cause(ctx), errQuit) {
		delay = 0 // whoever asks for the end needs us no longer, and a Job waits for it
	}
	logger.Info("shutting down", "cause", context.Cause(ctx).Error(), "delay", delay.String(), "grace", c.grace.String())
	ops.Drain()
	hold(delay, again.Done(), quitting)
}

// reloader has serve reload; asked for more often than it can, it does so once.
func reloader(reloads chan<- struct{}) func() {
	return func() {
		select {
		case reloads <- struct{}{}:
		default:
		}
	}
}

// spellLimit says a memory limit to people.
func spellLimit(limit int64) string {
	if limit == 0 {
		return "none"
	}
	return fmt.Sprintf("%.0f MiB", float64(limit)/(1<<20))
}

// hold keeps serving for delay, or until a second signal or the shutdown command ends it.
func hold(delay time.Duration, again, quitting <-chan struct{}) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-again:
	case <-quitting:
	}
}

// errQuit is why serve ends when the shutdown command has asked for it.
var errQuit = errors.New("requested by /quitquitquit")

func quitter(allowed bool, quit func()) func() {
	if !allowed {
		return nil
	}
	return quit
}

// listen binds, so that a taken port is a mistake at the start and not a line in a log.
func listen(variable, address string, sendBuffer int) (net.Listener, error) {
	l, err := bind(address, sendBuffer)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is in use by another program in this Pod, or by another irsa-sidecar; stop it, or choose another port", variable, address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: cannot listen on %s: %w%s", variable, address, cache.Innermost(err), otherLoopback(address, err))
	}
	return l, nil
}

// bind listens with IPv6 where a Pod has no 127.0.0.1. net.Listen tells by that address whether one socket can
// serve both kinds, and would take IPv4, of which there is none, for all addresses.
func bind(address string, sendBuffer int) (net.Listener, error) {
	network := "tcp"
	if host, _, _ := net.SplitHostPort(address); (host == "" || host == "::") && loopback() == "::1" {
		network = "tcp6"
	}
	return server.Listen(network, address, sendBuffer)
}

// otherLoopback is a hint for a Pod that has no loopback address of the kind that was asked for.
func otherLoopback(address string, err error) string {
	host, port, _ := net.SplitHostPort(address)
	kind, other := "IPv6", "::1"
	if host == other {
		kind, other = "IPv4", "127.0.0.1"
	}
	if (host != "127.0.0.1" && host != "::1") || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return ""
	}
	return fmt.Sprintf("; in an %s-only Pod, use %s here and in the app's AWS_CONTAINER_CREDENTIALS_FULL_URI", kind, net.JoinHostPort(other, port))
}

// onHostNetwork tells whether this Pod shares the node's network, or guesses it where nobody has said
// which addresses the two have.
func (c *Config) onHostNetwork() bool {
	if c.HostIP != "" && c.PodIP != "" {
		return c.HostIP == c.PodIP
	}
	if os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return false
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(interfaces, func(i net.Interface) bool { return nodeInterface(i.Name) })
}

// nodeInterface reports whether a network interface is one that a network plugin or a container engine
// makes on the node, and that no Pod with a network of its own has.
func nodeInterface(name string) bool {
	return slices.ContainsFunc([]string{
		"veth", "cali", "cilium_", "lxc", "cni", "flannel", "docker", "kube-ipvs", "eni", "weave", "nodelocaldns", "antrea-gw", "ovn-k8s",
	}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
