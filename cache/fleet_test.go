package cache

import (
	"container/heap"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var fleet = flag.Bool("fleet", false, "simulate all fleets, and write docs/fleet.md and docs/fleet.svg anew")

// policy is a schedule. The real one is this package's; the others are what it was chosen from.
type policy struct {
	name    string
	refresh func(lifetime time.Duration, luck float64) time.Duration
	retry   func(class Class, failures int, failing time.Duration, luck float64) time.Duration
}

var policies = []policy{
	{"as it is", refreshAfter, retryAfter},
	{"refresh at half of the life, without luck", func(l time.Duration, _ float64) time.Duration { return l / 2 }, retryAfter},
	{"retry after a fixed second", refreshAfter, func(Class, int, time.Duration, float64) time.Duration { return time.Second }},
	{"retry twice as long each time, without luck", refreshAfter, func(c Class, failures int, failing time.Duration, _ float64) time.Duration {
		return retryAfter(c, failures, failing, 1)
	}},
	{"retry within five minutes at most", refreshAfter, func(_ Class, failures int, _ time.Duration, luck float64) time.Duration {
		return max(minDelay, time.Duration(float64(min(5*time.Minute, time.Second<<min(failures-1, 9)))*luck))
	}},
}

// A day in the life of a fleet: it starts within ten seconds, an hour later STS is away for an hour, and
// three hours after the start, for half an hour, the region takes only so many calls a second as are
// throttleShare of what the fleet makes in peace.
const (
	startWithin   = 10 * time.Second
	sessionLength = time.Hour
	outageBegin   = time.Hour
	outageEnd     = 2 * time.Hour
	throttleBegin = 3*time.Hour + 30*time.Minute
	throttleEnd   = 4 * time.Hour
	dayEnd        = 6 * time.Hour

	throttleShare = 0.5
)

// report is what STS and the fleet went through.
type report struct {
	fleet                  int
	policy                 string
	steady                 float64 // calls per second in the last hour
	atStart, inOutage      int     // the most calls in one second
	afterOutage, throttled int
	recovered              time.Duration // from the outage's end until all have valid credentials
	lost                   time.Duration // the longest that one was without
	inStep                 int           // the most calls in one second, once all have failed to start for two minutes
	perMinute              []float64     // the mean of calls per second
}

// sidecar is one of the fleet.
type simulated struct {
	due      time.Duration // of its next exchange
	expires  time.Duration
	failures int
	failing  time.Duration // when the first of the failures in a row was
	class    Class
	without  time.Duration // since when it has had no valid credentials; negative while it has
}

type queue []*simulated

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*simulated)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

// simulate runs a fleet through its day, and another into an STS that is away from the start.
func simulate(n int, p policy) report {
	r := live(n, p, outageBegin)
	r.inStep = live(n, p, 0).inStep
	return r
}

// live runs a fleet on a clock of its own.
func live(n int, p policy, outageBegin time.Duration) report {
	dayEnd := dayEnd
	if outageBegin == 0 {
		dayEnd = 10 * time.Minute
	}
	luck := rand.New(rand.NewPCG(uint64(n), 1)).Float64
	q := make(queue, n)
	for i := range q {
		q[i] = &simulated{due: time.Duration(luck() * float64(startWithin)), without: 0}
	}
	heap.Init(&q)
	r := report{fleet: n, policy: p.name, perMinute: make([]float64, dayEnd/time.Minute)}
	calls := make([]int, dayEnd/time.Second)
	took := make([]int, dayEnd/time.Second) // that were let through while the region throttles
	quota := max(1, int(throttleShare*float64(n)/refreshAfter(sessionLength, 0.5).Seconds()))
	for q[0].due < dayEnd {
		s := q[0]
		now := s.due
		second := int(now / time.Second)
		calls[second]++
		failed := true
		class := Transient
		switch {
		case now >= outageBegin && now < outageEnd:
		case now >= throttleBegin && now < throttleEnd && took[second] >= quota:
			class = Throttled
		default:
			failed = false
			took[second]++
		}
		if s.without < 0 && now >= s.expires {
			s.without = s.expires
		}
		if failed {
			if s.failures == 0 || s.class != class {
				s.failures, s.failing, s.class = 0, now, class
			}
			s.failures++
			delay := p.retry(class, s.failures, now-s.failing, luck())
			if s.without < 0 {
				delay = whileValid(delay, s.expires-now)
			}
			s.due = now + delay
		} else {
			if s.without >= 0 && now >= outageEnd {
				r.lost = max(r.lost, now-s.without)
				if now < throttleBegin {
					r.recovered = max(r.recovered, now-outageEnd)
				}
			}
			s.failures, s.without, s.expires = 0, -1, now+sessionLength
			s.due = now + p.refresh(sessionLength, luck())
		}
		heap.Fix(&q, 0)
	}
	if outageBegin == 0 {
		r.inStep = slices.Max(calls[120:])
		return r
	}
	most := func(from, to time.Duration) int { return slices.Max(calls[from/time.Second : to/time.Second]) }
	r.atStart = most(0, startWithin)
	r.inOutage = most(outageBegin, outageEnd)
	r.afterOutage = most(outageEnd, throttleBegin)
	r.throttled = most(throttleBegin, throttleEnd)
	for second, n := range calls {
		r.perMinute[second/60] += float64(n) / 60
		if time.Duration(second)*time.Second >= dayEnd-time.Hour {
			r.steady += float64(n) / 3600
		}
	}
	return r
}

func (r report) row() string {
	return fmt.Sprintf("| %d | %s | %.1f | %d | %d | %d | %d | %d | %s | %s |\n", r.fleet, r.policy, r.steady, r.atStart, r.inOutage, r.afterOutage, r.throttled, r.inStep,
		r.recovered.Round(time.Second), r.lost.Round(time.Second))
}

// The fleet of a thousand, which is simulated in a moment, keeps the promises that docs/fleet.md makes.
func TestAFleetIsGentle(t *testing.T) {
	text, err := os.ReadFile("../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range policies {
		r := simulate(1000, p)
		if !strings.Contains(string(text), r.row()) && !*fleet {
			t.Errorf("docs/fleet.md does not have this row; `make fleet` writes it anew:\n%s", r.row())
		}
		if p.name != policies[0].name {
			continue
		}
		// In an outage, a tenth of a call per second and sidecar.
		if perSidecar := float64(r.inOutage) / 1000; perSidecar > 0.15 {
			t.Errorf("in the outage every sidecar calls %.2f times in a second", perSidecar)
		}
		if r.recovered > time.Minute {
			t.Errorf("after the outage the last has credentials after %v", r.recovered)
		}
		if r.afterOutage > 2*r.inOutage {
			t.Errorf("the outage's end is a wave: %d calls in a second, and %d in the outage", r.afterOutage, r.inOutage)
		}
		if r.steady > 1000.0/(24*60) {
			t.Errorf("in peace %.2f calls a second, more than every 24 minutes each", r.steady)
		}
	}
}

// TestFleetDocument writes docs/fleet.md: `make fleet`.
func TestFleetDocument(t *testing.T) {
	if !*fleet {
		return
	}
	var b strings.Builder
	b.WriteString(fleetIntroduction)
	var drawn report
	for _, n := range []int{1000, 10_000, 100_000} {
		for _, p := range policies {
			started := time.Now()
			r := simulate(n, p)
			fmt.Printf("%d, %s: %s\n", n, p.name, time.Since(started).Round(time.Millisecond))
			b.WriteString(r.row())
			if n == 10_000 && p.name == policies[0].name {
				drawn = r
			}
		}
	}
	b.WriteString(fleetConclusion)
	for name, text := range map[string]string{"../docs/fleet.md": b.String(), "../docs/fleet.svg": plot(drawn)} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const fleetIntroduction = `# A fleet and its STS

What many sidecars do to one STS, simulated with the schedule of ` + "`cache/schedule.go`" + ` on a clock of its own: ` + "`make fleet`" + ` makes this page, and
` + "`make test`" + ` the rows of a thousand. Nothing here was measured on AWS.

All start within 10 seconds, with sessions of an hour. After an hour STS is away for an hour. After three and a half, for half an hour, the
region takes half as many calls a second as the fleet makes in peace, and throttles the rest.

![Calls per second of 10,000 sidecars over six hours](fleet.svg)

The columns: calls per second in peace, the mean of the last hour; the most calls in any one second at the start, in the outage, after it,
while throttled, and in another fleet that starts while STS is away, from its third minute on; how long after the outage the last sidecar has
credentials again; and the longest that any was without. A session of an hour cannot bridge an outage of an hour, so that some are without
for a while: a sidecar never has less than 26 minutes when it begins.

| sidecars | schedule | in peace | start | outage | after it | throttled | cold | recovered | longest without |
|---|---|---|---|---|---|---|---|---|---|
`

const fleetConclusion = `
How the constants were chosen:

- **Refresh at 40 to 56 % of the life, drawn anew each time.** Without luck the fleet that started together stays together: in an outage, and
  when the region throttles, its calls come about ten times as many in one second. The lower end keeps the calls in peace near one in half an
  hour; the upper end leaves more than 26 minutes, which no SDK's own refresh window reaches.
- **Retry after half a minute at most, with full jitter.** A fixed second makes of an outage an attack: every sidecar calls once a second. With
  five minutes at most STS is asked less, and the last sidecar is without credentials for five minutes after STS is back; half a minute is what
  we let an app wait. Doubling without luck makes fewer calls, since its delays are not halved on average, as long as something else has spread
  the fleet; one that starts while STS is away stays in step, and meets STS as one every half a minute. Luck costs a half more calls in an outage,
  which is about a tenth of a call per second and sidecar, and does not depend on how the fleet came to be.
- **A minute at most where STS throttles**, because it asks for less: then everybody's credentials have half an hour left.
`

// plot draws the calls per second of one fleet, minute by minute, on a logarithmic scale.
func plot(r report) string {
	const width, height, left, bottom = 900, 300, 60, 30
	top := math.Log10(slices.Max(r.perMinute))
	y := func(v float64) float64 {
		return height - bottom - (height-2*bottom)*max(0, math.Log10(max(v, 0.1))+1)/(top+1)
	}
	x := func(minute float64) float64 { return left + (width-left-20)*minute/float64(len(r.perMinute)) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	for _, span := range []struct {
		from, to time.Duration
		name     string
	}{{outageBegin, outageEnd, "STS is away"}, {throttleBegin, throttleEnd, "throttled"}} {
		fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#fbe9e7"/><text x="%.1f" y="%d" fill="#b33">%s</text>`+"\n",
			x(span.from.Minutes()), bottom, x(span.to.Minutes())-x(span.from.Minutes()), height-2*bottom, x(span.from.Minutes())+4, bottom+14, span.name)
	}
	for v := 0.1; v <= slices.Max(r.perMinute); v *= 10 {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n", left, width-20, y(v), y(v), left-6, y(v)+4, v)
	}
	for hour := range int(dayEnd/time.Hour) + 1 {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%d h</text>`+"\n", x(float64(60*hour)), height-bottom+18, hour)
	}
	b.WriteString(`<polyline fill="none" stroke="#1a7f4b" stroke-width="1.5" points="`)
	for minute, v := range r.perMinute {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(float64(minute)+0.5), y(v))
	}
	fmt.Fprintf(&b, `"/>`+"\n"+`<text x="%d" y="16">calls per second, %d sidecars, mean of each minute</text>`+"\n</svg>\n", left, r.fleet)
	return b.String()
}
