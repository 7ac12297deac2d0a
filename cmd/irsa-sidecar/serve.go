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
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// serve runs the sidecar until ctx ends: token file → webidentity → cache → server → client.
func serve(ctx context.Context, c *Config, logger *slog.Logger) error {
	for _, w := range c.warnings {
		logger.Warn(w)
	}
	listener, err := listen("IRSA_SIDECAR_LISTEN", c.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	opsListener, err := listen("IRSA_SIDECAR_OPS_LISTEN", c.ops)
	if err != nil {
		return err
	}
	defer opsListener.Close()

	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "irsa_sidecar_build_info",
		Help:        "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	registry.MustRegister(build, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	caching := cache.Options{Profile: server.DefaultProfile, Logger: logger, Metrics: cache.NewMetrics(registry)}
	if state := c.newStateFile(logger); state != nil {
		caching.Restore, caching.Keep = state.restore, state.keep
	}
	creds := cache.New(c.provider(logger).Fetch, caching)
	options := server.Options{
		Profiles:      []server.Profile{{Name: server.DefaultProfile, RoleARN: c.RoleARN, Cache: creds}},
		Port:          uint16(listener.Addr().(*net.TCPAddr).Port),
		Authorization: c.authorization,
		Users:         c.users,
		AccountID:     c.accountID,
		Logger:        logger,
		Metrics:       server.NewMetrics(registry),
		Version:       version,
	}
	ctx, quit := context.WithCancelCause(ctx)
	defer quit(nil)
	ops := server.NewOps(options, registry, quitter(c.quit, quit))

	// Three actors. Each ends by serving's end, which follows ctx after the delay; the refresher goes
	// last, so that whoever still asks is still answered.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	refreshing, stopRefreshing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRefreshing()
	var refresher, servers sync.WaitGroup
	refresher.Go(func() { creds.Run(refreshing) })
	failures := make(chan error, 2)
	servers.Go(func() {
		failures <- server.Serve(serving, listener, trimmed(serving, server.Credentials(options)), c.grace, logger)
	})
	servers.Go(func() { failures <- server.Serve(serving, opsListener, ops, c.grace, logger) })
	logger.Info("serving", "version", version, "credentials", "http://"+listener.Addr().String()+"/v1/credentials",
		"ops", opsListener.Addr().String(), "role", c.RoleARN, "authorization", c.authorization != nil)

	select {
	case err = <-failures:
	case <-ctx.Done():
		// Before the log says that a first signal has been taken in.
		again, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		delay := c.delay
		if errors.Is(context.Cause(ctx), errQuit) {
			delay = 0 // whoever asks for the end needs us no longer, and a Job waits for it
		}
		logger.Info("ending", "cause", context.Cause(ctx).Error(), "delay", delay.String(), "grace", c.grace.String())
		ops.Drain()
		hold(delay, again)
	}
	stopServing()
	servers.Wait()
	stopRefreshing()
	refresher.Wait()
	if err != nil {
		return fmt.Errorf("a listener failed: %w", err)
	}
	logger.Info("ended")
	return nil
}

// hold keeps serving for delay, or until a second signal ends it.
func hold(delay time.Duration, again context.Context) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-again.Done():
	}
}

// errQuit is why serve ends when the shutdown command has asked for it.
var errQuit = errors.New("asked to by /quitquitquit")

func quitter(allowed bool, quit context.CancelCauseFunc) func() {
	if !allowed {
		return nil
	}
	return func() { quit(errQuit) }
}

// listen binds, so that a taken port is a mistake at the start and not a line in a log.
func listen(variable, address string) (net.Listener, error) {
	l, err := bind(address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is taken: another program in this Pod, or another irsa-sidecar, listens there; end it, or choose another port", variable, address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: cannot listen on %s: %w%s", variable, address, innermost(err), otherLoopback(address, err))
	}
	return l, nil
}

// bind listens with IPv6 where a Pod has no 127.0.0.1. net.Listen tells by that address whether one socket can
// serve both kinds, and would take IPv4, of which there is none, for all addresses.
func bind(address string) (net.Listener, error) {
	network := "tcp"
	if host, _, _ := net.SplitHostPort(address); (host == "" || host == "::") && loopback() == "::1" {
		network = "tcp6"
	}
	return net.Listen(network, address)
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
	return fmt.Sprintf("; in a Pod with %s alone, choose %s here and in the app's AWS_CONTAINER_CREDENTIALS_FULL_URI", kind, net.JoinHostPort(other, port))
}

// innermost drops what our own message already names: the operation, the address, the path.
func innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
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
