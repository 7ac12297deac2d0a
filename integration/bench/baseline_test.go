//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAgainstTheBaseline(t *testing.T) {
	allocations := measure{}
	binary := measure{margin: 0.01}
	answered := measure{kind: counted, more: true}
	start := measure{kind: relative, margin: 0.10}
	speed := measure{kind: relative, more: true, margin: 0.10}
	nan, inf := math.NaN(), math.Inf(1)
	for _, test := range []struct {
		name      string
		measure   measure
		base, now float64
		want      verdict
	}{
		{"a count as it was", allocations, 0, 0, same},
		{"one more than none", allocations, 0, 1, worse},
		{"one fewer", allocations, 2, 1, better},
		{"all answered", answered, 1000, 1000, same},
		{"one not answered", answered, 1000, 999, worse},
		{"at the limit", binary, 12, 12.12, same},
		{"rounds to the limit", binary, 12, 12.1249, same},
		{"just over the limit", binary, 12, 12.13, worse},
		{"at the other end of the margin", binary, 12, 11.88, same},
		{"better than the margin", binary, 12, 11.87, better},
		{"a ratio at the limit", start, 2, 2.2, same},
		{"a ratio just over the limit", start, 2, 2.21, worse},
		{"speed at the limit", speed, 0.9, 0.81, same},
		{"speed just below the limit", speed, 0.9, 0.80, worse},
		{"speed at the other end", speed, 0.9, 0.99, same},
		{"more speed", speed, 0.9, 1.0, better},
		{"NaN, the less the better", binary, 12, nan, invalid},
		{"NaN, the more the better", speed, 0.9, nan, invalid},
		{"the bare server's is 0", speed, 0.9, inf, invalid},
		{"minus infinity", start, 2, -inf, invalid},
		{"negative", binary, 12, -1, invalid},
		{"a ratio of 0", start, 2, 0, invalid},
	} {
		if got := test.measure.against(test.base, test.now); got != test.want {
			t.Errorf("%s: %v against %v is %q, want %q", test.name, test.now, test.base, got, test.want)
		}
	}
}

func TestFigureIsTheMedian(t *testing.T) {
	values := []pair[float64]{{8, 4}, {4, 1}, {6, 2}, {40, 16}, {5, 50}}
	for _, test := range []struct {
		name    string
		measure measure
		want    float64
	}{
		{"of ours", measure{}, 6},
		{"of ours, the more the better", measure{more: true}, 6},
		{"of the ratios of neighbours", measure{kind: relative}, 2.5},
	} {
		if got := test.measure.figure(values); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	for _, m := range []measure{{}, {more: true}, {kind: relative}, {kind: counted}} {
		if got := m.figure(append(values, pair[float64]{math.NaN(), 1})); !math.IsNaN(got) {
			t.Errorf("%+v: one round without a figure is hidden by the others: %v", m, got)
		}
	}
}

func TestACountMustBeRightInARow(t *testing.T) {
	for _, test := range []struct {
		counts []float64
		want   float64
	}{
		{[]float64{1}, 1},
		{[]float64{1, 2}, 2},
		{[]float64{1, 1, 1}, 1},
		{[]float64{1, 1, 3}, 3},
		{[]float64{1, 1, 3, 1, 1}, 3},
		{[]float64{1, 1, 3, 1, 1, 1}, 1},
		{[]float64{1, 3, 1, 2, 1, 2}, 2},
		{[]float64{1, 1, math.NaN(), 1, 1}, math.NaN()},
	} {
		var calls, answered []pair[float64]
		for _, n := range test.counts {
			calls, answered = append(calls, pair[float64]{ours: n}), append(answered, pair[float64]{ours: 1000 - n})
		}
		for _, got := range []float64{
			measure{kind: counted}.figure(calls),
			1000 - measure{kind: counted, more: true}.figure(answered),
		} {
			if got != test.want && !(math.IsNaN(got) && math.IsNaN(test.want)) {
				t.Errorf("%v: %v, want %v", test.counts, got, test.want)
			}
		}
	}
}

// results is one step for each measure, with one round.
func results(measures map[string]float64, order ...measure) (all []*step) {
	for _, m := range order {
		all = append(all, &step{measures: []measure{m}, values: [][]pair[float64]{{{measures[m.name], 1}}}})
	}
	return all
}

func verdicts(all []comparison) string {
	var s []string
	for _, c := range all {
		s = append(s, c.measure.name+": "+string(c.verdict))
	}
	return strings.Join(s, "; ")
}

func TestEveryRowOfEitherSideIsCompared(t *testing.T) {
	size, speed := measure{name: "size", margin: 0.1}, measure{name: "speed", kind: relative, more: true, margin: 0.1}
	now := map[string]float64{"size": 10, "speed": 1}
	both := []row{{"size", false, 10}, {"speed", true, 1}}
	for _, test := range []struct {
		name   string
		rows   []row
		now    map[string]float64
		want   string
		failed int
	}{
		{"both", both, now, "size: ok; speed: ok", 0},
		{"a row that is not measured", append(slices.Clone(both), row{"gone", false, 1}), now, "size: ok; speed: ok; gone: NOT MEASURED", 1},
		{"a measure without a row", both[1:], now, "size: NOT IN THE BASELINE; speed: ok", 1},
		{"a figure in place of a ratio", []row{both[0], {"speed", false, 1}}, now, "size: ok; speed: NOT IN THE BASELINE; speed: NOT MEASURED", 2},
		{"worse and better", both, map[string]float64{"size": 8, "speed": 0.5}, "size: ok, better; speed: WORSE", 1},
		{"a measure without a row and without a figure", both[1:], map[string]float64{"size": math.NaN(), "speed": 1}, "size: NO FIGURE; speed: ok", 1},
		{"no rows", nil, now, "size: NOT IN THE BASELINE; speed: NOT IN THE BASELINE", 2},
	} {
		all := baseline{rows: test.rows}.compare(results(test.now, size, speed))
		if got := verdicts(all); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		text := failures(all)
		if test.failed == 0 {
			if text != "" {
				t.Errorf("%s: it fails: %s", test.name, text)
			}
			continue
		}
		if !strings.HasPrefix(text, fmt.Sprintf("%d of %d rows failed:\n", test.failed, len(all))) {
			t.Errorf("%s: %d rows should fail: %s", test.name, test.failed, text)
		}
		for _, c := range all {
			if named, advised := strings.Contains(text, c.measure.name+": "+string(c.verdict)+"\n"), strings.Contains(text, string(c.verdict)+": "); c.verdict.fails() && !(named && advised) {
				t.Errorf("%s: %s is not named with what to do: %s", test.name, c.measure.name, text)
			}
		}
		if printed := comparisons(all); len(printed) != len(all)+1 {
			t.Errorf("%s: %d rows are printed, want %d", test.name, len(printed)-1, len(all))
		}
	}
}

func TestUpdateKeepsWhatDiffersLittle(t *testing.T) {
	measures := []measure{{name: "little"}, {name: "better"}, {name: "worse"}, {name: "new"}}
	for i := range measures {
		measures[i].margin = 0.1
	}
	old := baseline{"linux/amd64, some Go", []row{{"gone", false, 1}, {"little", false, 10}, {"better", false, 10}, {"worse", false, 10}}}
	now := map[string]float64{"little": 10.9, "better": 8, "worse": 12.345, "new": 3}
	next, changes, err := update(old.compare(results(now, measures...)))
	if err != nil {
		t.Fatal(err)
	}
	want := []row{{"little", false, 10}, {"better", false, 8}, {"worse", false, 12.35}, {"new", false, 3}}
	if !slices.Equal(next.rows, want) || next.machine != machine() {
		t.Errorf("%+v, want %+v", next, want)
	}
	printed := strings.Join(changes, "\n")
	if strings.Contains(printed, "little") || !strings.Contains(printed, "worse: 12.35 instead of 10: WORSE") || !strings.Contains(printed, "gone") || len(changes) != 4 {
		t.Errorf("the changes: %s", printed)
	}
	now["little"] = math.NaN()
	if _, _, err := update(old.compare(results(now, measures...))); err == nil {
		t.Error("NaN is written into the baseline")
	}
}

func TestBaselineIsReadAsWritten(t *testing.T) {
	want := baseline{"linux/amd64, go1.26.8, 2 CPUs", []row{{"1,000 clients, ms", true, 1.5}, {"none", false, 0}, {"answered", false, 1000}}}
	got, err := parse(want.String())
	if err != nil || got.machine != want.machine || !slices.Equal(got.rows, want.rows) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	head := machineKey + "linux/amd64\n"
	for _, text := range []string{
		"", head, "1  size\n", head + "size\n", head + "1\n", head + "1 ×\n", head + "NaN  size\n", head + "Inf  size\n", head + "-1  size\n",
		head + "1,5  size\n", head + "1  size\n1  size\n", head + "1  size\n1 ×  size\n", head + head + "1  size\n", head + "<<<<<<< HEAD\n1  size\n",
	} {
		if got, err := parse(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

// TestCommittedBaseline checks that the file can be read after a merge or an edit.
func TestCommittedBaseline(t *testing.T) {
	text, err := os.ReadFile("baseline.txt")
	if err != nil {
		t.Fatal(err)
	}
	committed, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if written := committed.String(); written != string(text) {
		t.Errorf("make bench-check UPDATE=1 would also change how it is written, to\n%s", written)
	}
}

func TestRoundsEndWhenThereAreEnough(t *testing.T) {
	m := measure{name: "ms", kind: relative, margin: 0.1}
	base := baseline{rows: []row{{"ms", true, 2}}}
	disturbed := func(round int) float64 {
		if round < 2 {
			return 9
		}
		return 2
	}
	for _, test := range []struct {
		name        string
		least, most int
		ours        func(round int) float64
		want        int
	}{
		{"good at once", 3, 10, func(int) float64 { return 2 }, 3},
		{"good in the end", 3, 10, disturbed, 5},
		{"never good", 3, 10, func(int) float64 { return 9 }, 10},
		{"no figure", 3, 10, func(int) float64 { return math.NaN() }, 10},
		{"one round", 1, 1, func(int) float64 { return 9 }, 1},
	} {
		synctest.Test(t, func(t *testing.T) { // time passes while the machine is busy
			s := &step{name: test.name, least: test.least, most: test.most, measures: []measure{m}}
			s.round = func(_ context.Context, round int) ([]pair[float64], error) {
				return []pair[float64]{{test.ours(round), 1}}, nil
			}
			other := &step{name: "other", least: 1, most: 1, measures: []measure{m}, round: s.round}
			if err := run(t.Context(), []*step{other, s}, time.Minute, base.enough); err != nil {
				t.Fatal(err)
			}
			if got := len(s.values[0]); got != test.want || len(other.values[0]) != 1 {
				t.Errorf("%s: %d rounds, want %d; the other step has %d, want 1", test.name, got, test.want, len(other.values[0]))
			}
		})
	}
}

func TestRoundsEndWhenTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &step{name: "slow", least: 5, most: 10, measures: []measure{{}}}
		late := &step{name: "late", least: 5, most: 10, measures: []measure{{}}}
		slow.round = func(context.Context, int) ([]pair[float64], error) {
			time.Sleep(40 * time.Second)
			return []pair[float64]{{1, 1}}, nil
		}
		late.round = slow.round
		if err := run(t.Context(), []*step{slow, late}, time.Minute, func(*step) bool { return false }); err != nil {
			t.Fatal(err)
		}
		if got := []int{len(slow.values[0]), len(late.values[0])}; !slices.Equal(got, []int{1, 1}) {
			t.Errorf("%d rounds in 40 seconds each, want 1 of both steps", got)
		}
	})
}

func TestARoundThatFailsEndsTheRun(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name   string
		values []pair[float64]
		err    error
	}{
		{"an error", []pair[float64]{{1, 1}}, broken},
		{"a value that is missing", nil, nil},
		{"a value too many", []pair[float64]{{1, 1}, {1, 1}}, nil},
	} {
		s := &step{name: "a step", least: 1, most: 1, measures: []measure{{}}}
		s.round = func(context.Context, int) ([]pair[float64], error) { return test.values, test.err }
		err := run(t.Context(), []*step{s}, time.Minute, func(*step) bool { return true })
		if err == nil || !strings.Contains(err.Error(), "a step") || !errors.Is(err, test.err) && test.err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
