//go:build linux

// Command bench compares the sidecar, built as it is shipped, with a bare net/http server that writes the same bytes on the
// same machine in the same run. Machines differ and are never idle, so it judges ratios of neighbouring measurements if
// possible.
//
//	make bench
//
// prints medians and the intended limits. It is not a check: it exits with 0 in any case, and with 2 if it could not measure.
//
//	make bench-check
//
// compares with the figures in baseline.txt. It exits with 1 if a row is worse than its figure and margin allow, with 2 if it
// could not measure, and otherwise with 0.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// options say how much is measured, and how often.
type options struct {
	rounds, most int // of requests: at least, and at most
	n            int // requests to each server in a round, for each shape
	rest         time.Duration
	timeout      time.Duration // after which no further round begins
}

// command returns the exit code.
func command(ctx context.Context, args []string) int {
	var err error
	if len(args) > 0 && args[0] == "check" {
		flags := flag.NewFlagSet("bench check", flag.ExitOnError) // exits with 2
		update := flags.Bool("update", false, "write FILE instead of failing; rows that differ by less than their margin stay as they are")
		flags.Parse(args[1:])
		if flags.NArg() != 1 {
			fmt.Fprintln(flags.Output(), "usage: bench check [-update] FILE")
			flags.PrintDefaults()
			return 2
		}
		var worse bool
		if worse, err = check(ctx, flags.Arg(0), *update); err == nil && worse {
			return 1
		}
	} else {
		var o options
		flags := flag.NewFlagSet("bench", flag.ExitOnError)
		flags.IntVar(&o.rounds, "rounds", 7, "rounds of requests; the medians count")
		flags.IntVar(&o.n, "n", 8000, "requests to each server in a round, for each shape")
		flags.DurationVar(&o.rest, "rest", 30*time.Second, "least time of rest before memory is looked at")
		flags.Parse(args)
		if flags.NArg() > 0 || o.rounds < 1 || o.n < 100 {
			fmt.Fprintln(flags.Output(), "usage: bench [flags], with at least 1 round, of at least 100 requests; or bench check [-update] FILE")
			flags.PrintDefaults()
			return 2
		}
		o.timeout = time.Hour
		err = compare(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	return 0
}

// compare is make bench.
func compare(ctx context.Context, o options) error {
	load := loadAverage()
	results, err := measureAll(ctx, o, func(*step) bool { return true })
	if err != nil {
		return err
	}
	fmt.Printf("irsa-sidecar beside a bare net/http server: %s (load %s before), %d rounds of %d requests\n\n", machine(), load, o.rounds, o.n)
	return limits(results).print(os.Stdout)
}

// machine is what the figures of a run depend on, besides the code.
func machine() string {
	return fmt.Sprintf("%s/%s, %s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.Version(), runtime.NumCPU())
}

// measureAll builds both programs and measures everything. After the least number of rounds of a step, it calls enough after
// each round to decide whether to continue.
func measureAll(ctx context.Context, o options, enough func(*step) bool) (results []*step, err error) {
	dir, err := os.MkdirTemp("", "irsa-sidecar-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	b, err := newBench(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer b.sts.Close()
	defer b.stop()

	rest, err := b.rest(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	restProfiles, err := b.restProfiles(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("rest with profiles: %w", err)
	}
	restOutputs, err := b.restOutputs(ctx, dir, o)
	if err != nil {
		return nil, fmt.Errorf("rest with outputs: %w", err)
	}
	handlers, err := b.warmHandlers(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("handler: %w", err)
	}
	outputHandlers, err := b.outputHandlers(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("handlers of outputs: %w", err)
	}
	requests, err := b.requests(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("requests: %w", err)
	}
	outputs, err := b.outputs(ctx, dir, o)
	if err != nil {
		return nil, fmt.Errorf("outputs: %w", err)
	}
	steps := slices.Concat(handlers, outputHandlers, []*step{b.binaries(), b.starts(), b.cold()}, requests, outputs,
		[]*step{b.allReady(1), b.allReady(fewProfiles), b.allReady(manyProfiles), b.exchangesAtOnce()})
	// The resting servers rest meanwhile.
	for _, together := range [][]*step{steps, {rest, restProfiles, restOutputs}} {
		if err := run(ctx, together, o.timeout, enough); err != nil {
			return nil, err
		}
		results = append(results, together...)
	}
	progress("")
	return results, nil
}

// loadAverage returns the last minute's: on a busy machine, speed means little.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(raw), " ")
	return load
}

// progress shows what is being done, on one line that the next call overwrites.
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
	roots    string // path of the certificate of the STS's authority
	token    string // path
	body     string // what both servers write
	size     int    // of the whole answer, the same for both

	children []*child // those that run until the end
}

// stop ends the children that still run.
func (b *bench) stop() {
	for _, c := range b.children {
		c.stop()
	}
}

// pair is something of the sidecar's and of the bare server's.
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

// learn gets the body from a sidecar and checks that the bare server writes the same answer.
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
	return alike(ours, bare)
}

// alike is an error if two answers differ, except in their dates.
func alike(ours, bare answer) error {
	if ours.withoutDate() != bare.withoutDate() {
		return fmt.Errorf("the two do not answer the same: the sidecar\n%s\nthe bare server\n%s", ours.withoutDate(), bare.withoutDate())
	}
	return nil
}
