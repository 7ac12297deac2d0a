//go:build linux

package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// table is what is printed.
type table struct{ rows []row }

type row struct{ measure, ours, bare, ratio, limit, verdict string }

// limit is what a measure must not exceed, or not fall below. The zero limit is none.
type limit struct {
	value   float64
	atLeast bool
}

func atMost(v float64) limit  { return limit{value: v} }
func atLeast(v float64) limit { return limit{value: v, atLeast: true} }

// judge compares what is printed: a value that rounds to its limit keeps it.
func (l limit) judge(value float64, unit string) (text, verdict string) {
	if l == (limit{}) {
		return "–", ""
	}
	value = math.Round(value*100) / 100
	bound := strconv.FormatFloat(l.value, 'f', -1, 64) + unit
	text, verdict = "≤ "+bound, "MISS"
	if l.atLeast {
		text = "≥ " + bound
	}
	if (l.atLeast && value >= l.value) || (!l.atLeast && value <= l.value) {
		verdict = "ok"
	}
	return text, verdict
}

// relative judges the median of the ratios of neighbours.
func (t *table) relative(measure string, pairs []pair[float64], l limit) {
	p, ratio := medians(pairs)
	text, verdict := l.judge(ratio, " ×")
	t.rows = append(t.rows, row{measure, number(p.ours), number(p.bare), times(ratio), text, verdict})
}

// absolute judges the median of our own values; the bare server's stands beside it.
func (t *table) absolute(measure string, pairs []pair[float64], l limit) {
	p, ratio := medians(pairs)
	text, verdict := l.judge(p.ours, "")
	t.rows = append(t.rows, row{measure, number(p.ours), number(p.bare), times(ratio), text, verdict})
}

// alone is for what the bare server does not have.
func (t *table) alone(measure string, value float64, l limit) {
	text, verdict := l.judge(value, "")
	t.rows = append(t.rows, row{measure, number(value), "–", "–", text, verdict})
}

func medians(pairs []pair[float64]) (p pair[float64], ratio float64) {
	p.ours = median(pairs, func(p pair[float64]) float64 { return p.ours })
	p.bare = median(pairs, func(p pair[float64]) float64 { return p.bare })
	return p, median(pairs, func(p pair[float64]) float64 { return p.ours / p.bare })
}

func median[T any, V cmp.Ordered](all []T, of func(T) V) V {
	values := make([]V, len(all))
	for i, one := range all {
		values[i] = of(one)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func number(v float64) string {
	switch {
	case v >= 100 || v < 10 && v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func times(ratio float64) string {
	if math.IsNaN(ratio) || math.IsInf(ratio, 0) {
		return "–"
	}
	return fmt.Sprintf("%.2f ×", ratio)
}

// print aligns by characters: text/tabwriter does so too, but cannot put text left and numbers right.
func (t *table) print(w io.Writer) error {
	rows := append([]row{{"measure", "ours", "bare", "ratio", "limit", ""}}, t.rows...)
	var widths [5]int
	for _, r := range rows {
		for i, cell := range []string{r.measure, r.ours, r.bare, r.ratio, r.limit} {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		line := fmt.Sprintf("%-*s  %*s  %*s  %*s  %*s  %s", widths[0], r.measure, widths[1], r.ours, widths[2], r.bare,
			widths[3], r.ratio, widths[4], r.limit, r.verdict)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
