//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// baseline is the committed table.
type baseline struct {
	machine string // as machine returns it
	rows    []row
}

// row is the name and the figure of a measure.
type row struct {
	name  string
	ratio bool // to the bare server's figure
	value float64
}

func (b baseline) find(name string, ratio bool) (value float64, ok bool) {
	i := slices.IndexFunc(b.rows, func(r row) bool { return r.name == name && r.ratio == ratio })
	if i < 0 {
		return 0, false
	}
	return b.rows[i].value, true
}

const machineKey = "measured on: "

// parse reads a baseline in the format of String. Rows may have been removed or moved.
func parse(text string) (b baseline, err error) {
	names := make(map[string]bool)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if machine, ok := strings.CutPrefix(line, machineKey); ok && b.machine == "" {
			b.machine = machine
			continue
		}
		var r row
		number, name, _ := strings.Cut(line, " ")
		name, r.ratio = strings.CutPrefix(strings.TrimSpace(name), "×")
		r.name = strings.TrimSpace(name)
		if r.value, err = strconv.ParseFloat(number, 64); err != nil || !possible(r.value) || r.name == "" {
			return baseline{}, fmt.Errorf("not a figure followed by the name of a measure: %q", line)
		}
		if names[r.name] {
			return baseline{}, fmt.Errorf("a measure that has a figure already: %q", line)
		}
		names[r.name] = true
		b.rows = append(b.rows, r)
	}
	if b.machine == "" || len(b.rows) == 0 {
		return baseline{}, fmt.Errorf("no line that begins with %q, or no figures", machineKey)
	}
	return b, nil
}

func (b baseline) String() string {
	var s strings.Builder
	s.WriteString("# What make bench-check compares a build with; × is against the bare net/http server.\n" +
		"# Written by make bench-check UPDATE=1: CONTRIBUTING.md says when.\n" +
		machineKey + b.machine + "\n\n")
	for _, r := range b.rows {
		unit := " "
		if r.ratio {
			unit = "×"
		}
		fmt.Fprintf(&s, "%7s %s  %s\n", exact(r.value), unit, r.name)
	}
	return s.String()
}

// exact writes a figure with the precision of the comparison.
func exact(v float64) string {
	if v = hundredths(v); v == math.Trunc(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// possible is false for values that no measurement yields: a row must not pass because its measurement failed.
func possible(v float64) bool { return v >= 0 && !math.IsInf(v, 1) }

// verdict is how a figure compares with the baseline.
type verdict string

const (
	same    verdict = "ok"
	better  verdict = "ok, better"
	worse   verdict = "WORSE"
	added   verdict = "NOT IN THE BASELINE"
	removed verdict = "NOT MEASURED"
	invalid verdict = "NO FIGURE"
)

func (v verdict) fails() bool { return v != same && v != better }

// against compares a figure with the baseline's. Figures at the margins count as the same.
func (m measure) against(base, now float64) verdict {
	opposite := m
	opposite.more = !m.more
	switch {
	case !possible(now), m.kind == relative && now == 0:
		return invalid
	case !m.allows(now, m.allowed(base)):
		return worse
	case !opposite.allows(now, opposite.allowed(base)):
		return better
	}
	return same
}

// allowed is the last figure that is not worse than base.
func (m measure) allowed(base float64) float64 {
	if m.more {
		return hundredths(base * (1 - m.margin))
	}
	return hundredths(base * (1 + m.margin))
}

// comparison is a row of the table of make bench-check.
type comparison struct {
	measure   measure
	base, now float64
	rounds    int // 0 if nothing was measured
	verdict   verdict
}

// compare has a row for every measure, and for every row of the baseline without a measure.
func (b baseline) compare(results []*step) (all []comparison) {
	left := slices.Clone(b.rows)
	for _, s := range results {
		for i, m := range s.measures {
			c := comparison{measure: m, rounds: len(s.values[i]), now: m.figure(s.values[i])}
			ratio := m.kind == relative
			var ok bool
			if c.base, ok = b.find(m.name, ratio); ok {
				c.verdict = m.against(c.base, c.now)
				left = slices.DeleteFunc(left, func(r row) bool { return r.name == m.name && r.ratio == ratio })
			} else if c.verdict = m.against(c.now, c.now); !c.verdict.fails() {
				c.verdict = added
			}
			all = append(all, c)
		}
	}
	for _, r := range left {
		m := measure{name: r.name}
		if r.ratio {
			m.kind = relative
		}
		all = append(all, comparison{measure: m, base: r.value, verdict: removed})
	}
	return all
}

// enough reports that a step needs no further round, because it could not improve the result.
func (b baseline) enough(s *step) bool {
	return !slices.ContainsFunc(b.compare([]*step{s}), func(c comparison) bool { return c.verdict == worse || c.verdict == invalid })
}

// update returns the baseline to write. Rows within their margin keep their figure; otherwise luck would tighten the noisy rows,
// and a row could get worse step by step.
func update(all []comparison) (b baseline, changes []string, err error) {
	b.machine = machine()
	for _, c := range all {
		value := hundredths(c.now)
		change := fmt.Sprintf("%s: %s instead of %s", c.measure.name, c.measure.show(c.now), c.measure.show(c.base))
		switch c.verdict {
		case invalid:
			return b, nil, fmt.Errorf("%s: the measurement yielded %v", c.measure.name, c.now)
		case same:
			value, change = c.base, ""
		case worse:
			change += ": WORSE, so the commit has to say why"
		case added:
			change = fmt.Sprintf("%s: %s, a new row", c.measure.name, c.measure.show(c.now))
		case removed:
			changes = append(changes, fmt.Sprintf("%s: removed, nothing measures it", c.measure.name))
			continue
		}
		if change != "" {
			changes = append(changes, change)
		}
		b.rows = append(b.rows, row{c.measure.name, c.measure.kind == relative, value})
	}
	return b, changes, nil
}

// show writes a figure with its unit.
func (m measure) show(v float64) string {
	if m.kind == relative {
		return exact(v) + " ×"
	}
	return exact(v)
}

// comparisons are the table of make bench-check.
func comparisons(all []comparison) table {
	t := table{{"measure", "now", "baseline", "margin", "limit", "rounds", ""}}
	for _, c := range all {
		m := c.measure
		now, base, margin, limit, rounds := m.show(c.now), m.show(c.base), "–", "–", strconv.Itoa(c.rounds)
		switch c.verdict {
		case removed:
			now, rounds = "–", "–"
		case added:
			base = "–"
		default:
			margin, limit = fmt.Sprintf("%.0f %%", m.margin*100), m.bound()+m.show(m.allowed(c.base))
		}
		t = append(t, []string{m.name, now, base, margin, limit, rounds, string(c.verdict)})
	}
	return t
}

// failures says which rows fail, and what to do; "" if none does.
func failures(all []comparison) string {
	var rows []string
	advice := make(map[verdict]bool)
	for _, c := range all {
		if c.verdict.fails() {
			rows = append(rows, fmt.Sprintf("  %s: %s", c.measure.name, c.verdict))
			advice[c.verdict] = true
		}
	}
	if len(rows) == 0 {
		return ""
	}
	text := fmt.Sprintf("%d of %d rows failed:\n%s\n", len(rows), len(all), strings.Join(rows, "\n"))
	for _, a := range []struct {
		verdict verdict
		text    string
	}{
		{worse, "WORSE: find what the change costs and avoid it. A ratio (×) can also fail on a busy machine: repeat it on a quiet one.\n" +
			"If the change is worth the cost: make bench-check UPDATE=1, and give the reason for each worse row in the commit."},
		{added, "NOT IN THE BASELINE: make bench-check UPDATE=1 adds the row."},
		{removed, "NOT MEASURED: restore the measurement. If it is meant to go: make bench-check UPDATE=1 removes the row."},
		{invalid, "NO FIGURE: the measurement is broken; fix integration/bench."},
	} {
		if advice[a.verdict] {
			text += a.text + "\n"
		}
	}
	return text
}

// check is make bench-check. It reports whether a row fails; with write, it writes the baseline instead.
func check(ctx context.Context, path string, write bool) (failed bool, err error) {
	var base baseline
	if text, err := os.ReadFile(path); err == nil {
		if base, err = parse(string(text)); err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
	} else if !write || !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if platform := runtime.GOOS + "/" + runtime.GOARCH; !strings.HasPrefix(base.machine, platform+",") {
		if !write {
			return false, fmt.Errorf("%s is for %s: sizes on %s differ, so there is nothing to compare with", path, base.machine, platform)
		}
		base = baseline{}
	}
	enough := base.enough
	if write {
		enough = func(*step) bool { return false } // a new baseline is worth the time
	}
	load, began := loadAverage(), time.Now()
	// Short rounds, because one of them must find an idle machine, but longer than the sidecar takes to return memory.
	results, err := measureAll(ctx, options{rounds: 7, most: 40, n: 2000, rest: 15 * time.Second, timeout: 3 * time.Minute}, enough)
	if err != nil {
		return false, err
	}
	all := base.compare(results)
	fmt.Printf("irsa-sidecar beside its baseline: %s (load %s before), %.0f s\nthe baseline: %s\n\n",
		machine(), load, time.Since(began).Seconds(), cmp.Or(base.machine, "none"))
	if err := comparisons(all).print(os.Stdout); err != nil {
		return false, err
	}
	fmt.Println()
	if !write {
		text := failures(all)
		_, err := io.WriteString(os.Stdout, cmp.Or(text, "No row is worse than its baseline and margin allow.\n"))
		return text != "", err
	}
	next, changes, err := update(all)
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(path, []byte(next.String()), 0o644); err != nil {
		return false, err
	}
	fmt.Printf("%s: %d rows changed\n", path, len(changes))
	for _, change := range changes {
		fmt.Println("  " + change)
	}
	return false, nil
}
