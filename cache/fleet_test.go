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

var fleet = flag.Bool("fleet", false, "simulate all fleets, and write docs/fleet.md and docs/fleet.svg")

// policy is a schedule: the one of this package, or an alternative to it.
type policy struct {
	name    string
	refresh func(lifetime time.Duration, random float64) time.Duration
	retry   func(class Class, failures int, failing time.Duration, random float64) time.Duration
}

var policies = []policy{
	{"the sidecar's", refreshAfter, retryAfter},
	{"refresh at exactly half of the lifetime", func(l time.Duration, _ float64) time.Duration { return l / 2 }, retryAfter},
	{"retry every second", refreshAfter, func(Class, int, time.Duration, float64) time.Duration { return time.Second }},
	{"double the retry delay, without jitter", refreshAfter, func(c Class, failures int, failing time.Duration, _ float64) time.Duration {
		return retryAfter(c, failures, failing, 1)
	}},
	{"retry within five minutes", refreshAfter, func(_ Class, failures int, _ time.Duration, random float64) time.Duration {
		return max(minDelay, time.Duration(float64(min(5*time.Minute, time.Second<<min(failures-1, 9)))*random))
	}},
}

// The simulated hours of a fleet: it starts within ten seconds, an hour later STS is unreachable for an hour, and three
// and a half hours after the start the region throttles for half an hour, to throttleShare of the fleet's usual calls.
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

// report is what happened to STS and the fleet.
type report struct {
	fleet                  int
	policy                 string
	steady                 float64 // calls per second in the last hour
	atStart, inOutage      int     // the most calls in one second
	afterOutage, throttled int
	recovered              time.Duration // from the end of the outage until all have valid credentials
	lost                   time.Duration // the longest time that one had no valid credentials
	inStep                 int           // the most calls in one second of a fleet that starts in an outage, after two minutes
	perMinute              []float64     // the mean of calls per second
}

// simulated is one sidecar of the fleet.
type simulated struct {
	due      time.Duration // of its next exchange
	expires  time.Duration
	failures int
	failing  time.Duration // time of the first failure in a row
	class    Class
	without  time.Duration // since when it has no valid credentials; negative if it has some
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

// simulate runs a fleet for six hours, and another that starts while STS is unreachable.
func simulate(n int, p policy) report {
	r := run(n, p, outageBegin)
	r.inStep = run(n, p, 0).inStep
	return r
}

// run simulates one fleet with a simulated clock.
func run(n int, p policy, outageBegin time.Duration) report {
	dayEnd := dayEnd
	if outageBegin == 0 {
		dayEnd = 10 * time.Minute
	}
	random := rand.New(rand.NewPCG(uint64(n), 1)).Float64
	q := make(queue, n)
	for i := range q {
		q[i] = &simulated{due: time.Duration(random() * float64(startWithin)), without: 0}
	}
	heap.Init(&q)
	r := report{fleet: n, policy: p.name, perMinute: make([]float64, dayEnd/time.Minute)}
	calls := make([]int, dayEnd/time.Second)
	took := make([]int, dayEnd/time.Second) // calls that were not throttled
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
			delay := p.retry(class, s.failures, now-s.failing, random())
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
			s.due = now + p.refresh(sessionLength, random())
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

// A fleet of a thousand, which takes a moment to simulate, keeps the promises of docs/fleet.md.
func TestAFleetIsGentle(t *testing.T) {
	text, err := os.ReadFile("../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range policies {
		r := simulate(1000, p)
		if !strings.Contains(string(text), r.row()) && !*fleet {
			t.Errorf("docs/fleet.md lacks this row; run `make fleet`:\n%s", r.row())
		}
		if p.name != policies[0].name {
			continue
		}
		// In an outage, about a tenth of a call per second and sidecar.
		if perSidecar := float64(r.inOutage) / 1000; perSidecar > 0.15 {
			t.Errorf("in the outage every sidecar calls %.2f times a second", perSidecar)
		}
		if r.recovered > time.Minute {
			t.Errorf("the last sidecar has credentials %v after the outage", r.recovered)
		}
		if r.afterOutage > 2*r.inOutage {
			t.Errorf("%d calls in one second after the outage, and %d during it", r.afterOutage, r.inOutage)
		}
		if r.steady > 1000.0/(24*60) {
			t.Errorf("%.2f calls a second in normal operation, more than one every 24 minutes each", r.steady)
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

How many sidecars load one STS, simulated with the schedule in ` + "`cache/schedule.go`" + ` and a simulated clock. ` + "`make fleet`" + ` writes this page, and
` + "`make test`" + ` checks the rows for 1,000 sidecars. Nothing here was measured on AWS.

All sidecars start within 10 seconds, with sessions of one hour. After one hour STS is unreachable for one hour. After three and a half hours
the region throttles for half an hour: it accepts half of the calls that the fleet usually makes.

![Calls per second of 10,000 sidecars over six hours](fleet.svg)

The columns: mean calls per second in normal operation (the last hour); the most calls in any one second at the start, in the outage, after
it and while throttled, and, as "cold", of another fleet that starts while STS is unreachable, from its third minute on; how long after the
outage the last sidecar has credentials again; and the longest time that any sidecar had none. A session of one hour cannot always bridge an
outage of one hour, because a sidecar has between 26 and 60 minutes left when the outage begins.

| sidecars | schedule | normal | start | outage | after it | throttled | cold | recovered | longest without |
|---|---|---|---|---|---|---|---|---|---|
`

const fleetConclusion = `
How the constants were chosen:

- **Refresh at a random 40 to 56 % of the lifetime.** With a fixed point, a fleet that started together stays together: in an outage, and
  while throttled, about ten times as many of its calls fall into one second. The lower end keeps the normal rate near one call in half an
  hour; the upper end leaves more than 26 minutes, which is outside every SDK's own refresh window.
- **Retry within half a minute, with full jitter.** A fixed second makes every outage an attack on STS: each sidecar calls once a second. With
  up to five minutes STS gets fewer calls, but the last sidecar has no credentials until five minutes after the outage; half a minute is what
  an app can be expected to wait. Doubling without jitter makes fewer calls, because jitter halves the delays on average, but only if something
  else has spread the fleet: a fleet that starts in an outage stays in step and calls all at once every half minute. Full jitter costs half as
  many calls again in an outage, about a tenth of a call per second and sidecar, and does not depend on how the fleet started.
- **Retry within a minute when STS throttles**, to reduce the load. All sidecars have about half an hour left then.
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
	}{{outageBegin, outageEnd, "STS is unreachable"}, {throttleBegin, throttleEnd, "throttled"}} {
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
