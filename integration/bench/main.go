//go:build linux

// Command bench holds the sidecar, built as it is shipped, against a bare net/http server that writes
// the same bytes on the same machine in the same run. Machines differ and are never quiet, so what it
// judges are ratios of neighbouring measurements wherever there can be one. It is no gate: it ends in 0
// whatever it finds, and in 1 only when it could not measure.
//
//	make bench
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

const (
	// starts and colds are how often those measurements are repeated.
	starts = 15
	colds  = 3

	coldClients = 1000
	coldLatency = 100 * time.Millisecond // of STS, while the clients come

	restAfter = 10_000 // requests
)

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 7, "rounds of requests; the medians count")
	flag.IntVar(&o.n, "n", 8000, "requests to each server in a round, for each shape")
	flag.DurationVar(&o.rest, "rest", 30*time.Second, "least time of rest before memory is looked at")
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 || o.n < 100 {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: flags only; at least 1 round, of at least 100 requests")
		flag.PrintDefaults()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds, n int
	rest      time.Duration
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "irsa-sidecar-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	b, err := newBench(ctx, dir)
	if err != nil {
		return err
	}
	defer b.sts.Close()

	load := loadAverage()
	var t table
	for _, step := range []struct {
		name    string
		measure func(context.Context, options, *table) error
	}{
		{"handler", b.handler},
		{"binaries", b.binaries},
		{"start", b.start},
		{"cold clients", b.cold},
		{"requests, and rest", b.requests},
	} {
		progress("measuring: " + step.name)
		if err := step.measure(ctx, o, &t); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	progress("")
	fmt.Printf("irsa-sidecar beside a bare net/http server: %d CPUs (load %s before), %s, %d rounds of %d requests\n\n",
		runtime.NumCPU(), load, runtime.Version(), o.rounds, o.n)
	return t.print(os.Stdout)
}

// loadAverage is the last minute's: on a machine that is busy already, speed says little.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(raw), " ")
	return load
}

// progress tells a person what is going on, on one line that the next call overwrites.
func progress(what string) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", what)
	}
}

// bench is what all measurements share.
type bench struct {
	programs pair[string] // paths
	sts      *ststest.Server
	stsURL   string
	roots    string // path of the certificate that vouches for the STS
	token    string // path
	body     string // what both servers write
	size     int    // of the whole answer, the same for both
}

// pair is one thing of ours and one of the bare server's.
type pair[T any] struct{ ours, bare T }

func newBench(ctx context.Context, dir string) (*bench, error) {
	b := &bench{sts: ststest.New(ststest.Options{})}
	var err error
	progress("building (the first time takes a while)")
	if b.programs.ours, err = build(ctx, dir, "cmd/irsa-sidecar"); err != nil {
		return nil, err
	}
	if b.programs.bare, err = build(ctx, dir, "integration/bench/bare"); err != nil {
		return nil, err
	}
	issuer, err := ststest.NewIssuer("https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE")
	if err != nil {
		return nil, err
	}
	token, err := issuer.Token(ststest.Claims{})
	if err != nil {
		return nil, err
	}
	file, err := ststest.NewTokenFile(filepath.Join(dir, "projected"))
	if err != nil {
		return nil, err
	}
	if err := file.Write(token); err != nil {
		return nil, err
	}
	b.token = file.Path()
	var root []byte
	if b.stsURL, root, err = b.sts.StartTLS(); err != nil {
		return nil, err
	}
	b.roots = filepath.Join(dir, "root.pem")
	if err := os.WriteFile(b.roots, root, 0o644); err != nil {
		return nil, err
	}
	return b, b.learn(ctx)
}

// learn takes the body from a sidecar and makes sure that the bare server writes the same answer.
func (b *bench) learn(ctx context.Context) error {
	sidecar, err := b.startSidecar(ctx)
	if err != nil {
		return err
	}
	defer sidecar.stop()
	ours, err := sidecar.ask()
	if err != nil {
		return err
	}
	b.body, b.size = ours.body, len(ours.raw)
	server, err := b.startBare(ctx)
	if err != nil {
		return err
	}
	defer server.stop()
	bare, err := server.ask()
	if err != nil {
		return err
	}
	if ours.withoutDate() != bare.withoutDate() {
		return fmt.Errorf("the two do not answer the same: the sidecar\n%s\nthe bare server\n%s", ours.withoutDate(), bare.withoutDate())
	}
	return nil
}
