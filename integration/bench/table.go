//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// table has rows with as many cells as the first one, the head.
type table [][]string

// limits is the table of make bench.
func limits(results []*step) table {
	t := table{{"measure", "ours", "bare", "ratio", "limit", ""}}
	for _, s := range results {
		for i, m := range s.measures {
			values := s.values[i]
			value, unit := m.figure(values), ""
			cells := []string{m.name, number(median(values, ours)), number(median(values, bare)), times(median(values, ratio))}
			switch {
			case m.kind == relative:
				unit = " ×"
			case m.kind == counted, median(values, bare) == 0: // the bare server has none
				cells = []string{m.name, number(value), "–", "–"}
			}
			bound, verdict := m.judge(value, unit)
			t = append(t, append(cells, bound, verdict))
		}
	}
	return t
}

// judge compares a value with the limit.
func (m measure) judge(value float64, unit string) (bound, verdict string) {
	if m.limit == 0 {
		return "–", ""
	}
	bound = m.bound() + strconv.FormatFloat(m.limit, 'f', -1, 64) + unit
	if m.allows(value, m.limit) {
		return bound, "ok"
	}
	return bound, "MISS"
}

// allows compares rounded values: a value that rounds to its limit is within it.
func (m measure) allows(value, limit float64) bool {
	if m.more {
		return hundredths(value) >= hundredths(limit)
	}
	return hundredths(value) <= hundredths(limit)
}

// bound is the sign before a limit.
func (m measure) bound() string {
	if m.more {
		return "≥ "
	}
	return "≤ "
}

func hundredths(v float64) float64 { return math.Round(v*100) / 100 }

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

// print aligns by characters. text/tabwriter cannot align text left and numbers right.
func (t table) print(w io.Writer) error {
	last := len(t[0]) - 1
	widths := make([]int, last)
	for _, r := range t {
		for i, cell := range r[:last] {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, r := range t {
		line := fmt.Sprintf("%-*s", widths[0], r[0])
		for i, cell := range r[1:last] {
			line += fmt.Sprintf("  %*s", widths[i+1], cell)
		}
		b.WriteString(strings.TrimRight(line+"  "+r[last], " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
