//go:build faults

package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

const (
	// faultLife is how long sessions last: an hour in three seconds.
	faultLife = 3 * time.Second

	// rounding is by how much the sidecar may end credentials early: STS's Date has whole seconds.
	rounding = 1200 * time.Millisecond

	// recovery bounds the time from a fault's end to a new session: the longest retry delay of all, that of
	// throttling, an exchange, and a busy machine. How long it really took is reported.
	recovery = 70 * time.Second
)

// TestFaults is a day of faults at random, one after the other, before clients that ask all the time.
// IRSA_TEST_FAULTS is how many, IRSA_TEST_SEED repeats a schedule: what fails prints its own.
func TestFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("IRSA_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	count := 60
	if text := os.Getenv("IRSA_TEST_FAULTS"); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("IRSA_TEST_SEED=%d IRSA_TEST_FAULTS=%d\n", seed, count)
	c := newCampaign(t, rand.New(rand.NewPCG(seed, 0)))
	started := time.Now()
	baseline := c.descriptors(t)
	for n := range count {
		kind := faultKinds[c.luck.IntN(len(faultKinds))]
		if n < len(faultKinds) { // each at least once, where there are enough
			kind = faultKinds[n]
		}
		if !c.step(t, kind) {
			t.Fatalf("fault %d, %s: IRSA_TEST_SEED=%d repeats it", n+1, kind.name, seed)
		}
	}
	c.end(t)
	if now := c.descriptors(t); now > baseline+3 {
		t.Errorf("%d file descriptors are open, and %d were at the start", now, baseline)
	}
	took := time.Since(started)
	if rate := float64(c.sts.Calls()) / took.Seconds(); rate > 3 {
		t.Errorf("%.1f calls to STS a second", rate)
	}
	c.report(took)
}

// campaign is a sidecar with its clients, and what is known of all that STS has issued.
type campaign struct {
	*world
	luck    *rand.Rand
	changes []string
	dir     string // in memory, with the state file

	sidecar    *sidecar
	base       string
	generation atomic.Int64 // odd while the sidecar is not there to be asked

	stop    chan struct{}
	clients sync.WaitGroup

	mu       sync.Mutex
	ahead    time.Duration // of STS's clock
	sessions map[string]issued
	best     time.Time // the latest real end of a session that a client has been given
	newest   time.Time // when the newest session that a client has been given was first seen
	wrong    []string

	requests, refused, excused atomic.Int64
	injected                   map[string]int
	slowest                    time.Duration // recovery
}

// issued is a session, with its end by a right clock.
type issued struct {
	ststest.Session
	ends time.Time
	seen bool
}

func newCampaign(t *testing.T, luck *rand.Rand) *campaign {
	c := &campaign{world: newWorld(t, ststest.Options{Lifetime: faultLife}), luck: luck, stop: make(chan struct{}), sessions: map[string]issued{}, injected: map[string]int{}}
	var err error
	if c.dir, err = os.MkdirTemp("/dev/shm", "irsa-sidecar-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(c.dir) })
	c.changes = []string{
		"IRSA_SIDECAR_LISTEN=" + freeAddress(t), "IRSA_SIDECAR_OPS_LISTEN=" + freeAddress(t), "IRSA_SIDECAR_STATE_FILE=" + filepath.Join(c.dir, "state"),
	}
	c.sts.Change(func(o *ststest.Options) {
		o.Now = func() time.Time {
			c.mu.Lock()
			defer c.mu.Unlock()
			return time.Now().Add(c.ahead)
		}
	})
	c.sidecar = c.serve(t, c.changes...)
	c.base = c.sidecar.base
	c.sidecar.untilValid(t)
	for range 8 {
		c.clients.Go(c.ask)
	}
	return c
}

// ask is a client.
func (c *campaign) ask() {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	for n := 0; ; n++ {
		select {
		case <-c.stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
		if n%50 == 0 {
			client.CloseIdleConnections()
		}
		before, asked := c.generation.Load(), time.Now()
		response, err := client.Get(c.base + "/v1/credentials")
		var body []byte
		if err == nil {
			body, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		c.requests.Add(1)
		if err != nil {
			if before%2 == 1 || c.generation.Load() != before { // it was being killed, or stopped
				c.excused.Add(1)
				continue
			}
			c.complain("no answer: %v", err)
			continue
		}
		c.judge(asked, response.StatusCode, body)
	}
}

func (c *campaign) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// judge holds an answer against what STS has issued.
func (c *campaign) judge(asked time.Time, status int, body []byte) {
	var a struct {
		AccessKeyID, SecretAccessKey, Token, Code string
		Expiration                                time.Time
	}
	if err := json.Unmarshal(body, &a); err != nil {
		c.complain("answered %d, and not JSON: %v", status, err)
		return
	}
	now := time.Now()
	c.mu.Lock()
	s, known := c.sessions[a.AccessKeyID]
	best := c.best
	ahead := c.ahead
	c.mu.Unlock()
	if status != http.StatusOK {
		c.refused.Add(1)
		if a.Code == "" || a.AccessKeyID != "" {
			c.complain("answered %d with half a document", status)
		}
		if now.Add(rounding).Before(best) {
			c.complain("refused with %s at %s, while credentials were valid until %s", a.Code, now.Format(time.TimeOnly+".000"), best.Format(time.TimeOnly+".000"))
		}
		return
	}
	if !known {
		for _, session := range c.sts.Issued() {
			if session.AccessKeyID == a.AccessKeyID {
				s, known = issued{Session: session, ends: session.Expiration.Add(-ahead)}, true
			}
		}
	}
	switch {
	case !known:
		c.complain("answered with credentials that nobody has issued")
		return
	case a.SecretAccessKey != s.SecretAccessKey || a.Token != s.SessionToken || !a.Expiration.Equal(s.Session.Expiration.Truncate(time.Second)):
		c.complain("answered with a mixture of credentials")
		return
	case !s.ends.After(asked):
		c.complain("answered at %s with credentials that had ended at %s", asked.Format(time.TimeOnly+".000"), s.ends.Format(time.TimeOnly+".000"))
	}
	c.mu.Lock()
	if !s.seen {
		s.seen = true
		c.sessions[a.AccessKeyID] = s
		c.newest = now
	}
	if s.ends.After(c.best) {
		c.best = s.ends
	}
	c.mu.Unlock()
}

// faultKind is one way in which things go wrong, for a while.
type faultKind struct {
	name string
	play func(c *campaign, t *testing.T, hold func())
}

func answers(f ststest.Fault) func(*campaign, *testing.T, func()) {
	return func(c *campaign, _ *testing.T, hold func()) {
		c.sts.Break(f)
		hold()
		c.sts.Mend()
	}
}

// holds replaces the token by something else.
func holds(content func(*testing.T) string) func(*campaign, *testing.T, func()) {
	return func(c *campaign, t *testing.T, hold func()) {
		if err := c.token.Write(content(t)); err != nil {
			t.Fatal(err)
		}
		hold()
	}
}

func clock(ahead time.Duration) func(*campaign, *testing.T, func()) {
	set := func(c *campaign, to time.Duration) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ahead = to
	}
	return func(c *campaign, t *testing.T, hold func()) {
		c.rest(t) // what was issued by the old clock is known by now
		set(c, ahead)
		c.rotateBy(t, ahead)
		hold()
		c.rest(t)
		set(c, 0)
	}
}

var faultKinds = []faultKind{
	{"STS down", func(c *campaign, t *testing.T, hold func()) { answers(ststest.Drop)(c, t, hold) }},
	{"STS hangs", answers(ststest.Hang)},
	{"STS slow", answers(ststest.Fault{Latency: 700 * time.Millisecond})},
	{"STS throttles", answers(ststest.Throttling)},
	{"STS 500", answers(ststest.InternalFailure)},
	{"STS 503", answers(ststest.ServiceUnavailable)},
	{"STS refuses", answers(ststest.AccessDenied)},
	{"STS knows no such token", answers(ststest.NotValidated)},
	{"STS cannot reach the issuer", answers(ststest.IDPCommunicationError)},
	{"a portal's page", answers(ststest.HTMLPage(200))},
	{"a block page", answers(ststest.HTMLPage(403))},
	{"a proxy wants a password", answers(ststest.HTMLPage(407))},
	{"a balancer without STS", answers(ststest.HTMLPage(503))},
	{"an empty answer", answers(ststest.EmptyOK)},
	{"an answer without credentials", answers(ststest.NoCredentials)},
	{"an answer that is cut", answers(ststest.Fault{Status: 200, Body: `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIACUT`})},
	{"an answer of noise", answers(ststest.Fault{Status: 200, Body: "\x00\xff<<<&&&"})},
	{"a role that is none", answers(ststest.InvalidARN)},
	{"a region switched off", answers(ststest.RegionDisabled("123456789012"))},
	{"STS's clock ahead", clock(7 * time.Minute)},
	{"STS's clock behind", clock(-7 * time.Minute)},
	{"the token expired", holds(func(t *testing.T) string { return newToken(t, ststest.Claims{Lifetime: -time.Minute}) })},
	{"the token for somebody else", holds(func(t *testing.T) string { return newToken(t, ststest.Claims{Audience: []string{"other"}}) })},
	{"no token in the file", holds(func(*testing.T) string { return "" })},
	{"garbage in the token file", holds(func(*testing.T) string { return "not.a.token\n\n" })},
	{"two tokens in the file", holds(func(t *testing.T) string { return newToken(t, ststest.Claims{}) + newToken(t, ststest.Claims{}) })},
	{"the token file gone", func(c *campaign, t *testing.T, hold func()) {
		away := c.token.Path() + ".away"
		if err := os.Rename(c.token.Path(), away); err != nil {
			t.Fatal(err)
		}
		hold()
		if err := os.Rename(away, c.token.Path()); err != nil {
			t.Fatal(err)
		}
	}},
	{"a storm of rotations", func(c *campaign, t *testing.T, hold func()) {
		token := newToken(t, ststest.Claims{})
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			if err := c.token.Write(token); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{"no file descriptors left", func(c *campaign, t *testing.T, hold func()) {
		old := c.limit(t, syscall.Rlimit{Cur: 1, Max: 1 << 10})
		hold()
		c.limit(t, syscall.Rlimit{Cur: 1 << 10, Max: 1 << 10})
		if old.Cur < 2 {
			t.Fatalf("the limit was %d before", old.Cur)
		}
	}},
	{"stopped for a moment", func(c *campaign, t *testing.T, _ func()) { c.suspend(t, 300*time.Millisecond) }},
	{"stopped for longer than a session", func(c *campaign, t *testing.T, _ func()) { c.suspend(t, faultLife+time.Second) }},
	{"killed", func(c *campaign, t *testing.T, _ func()) { c.restart(t, syscall.SIGKILL, nil) }},
	{"killed while STS is away", func(c *campaign, t *testing.T, hold func()) {
		c.sts.Break(ststest.Drop)
		c.restart(t, syscall.SIGKILL, nil)
		hold()
		c.sts.Mend()
	}},
	{"told to end", func(c *campaign, t *testing.T, _ func()) { c.restart(t, syscall.SIGTERM, nil) }},
	{"the state file damaged", func(c *campaign, t *testing.T, _ func()) {
		c.restart(t, syscall.SIGKILL, func(file string) error { return os.WriteFile(file, []byte("irsa-sidecar state 1 ?\n"), 0o600) })
	}},
	{"the state file a link", func(c *campaign, t *testing.T, _ func()) {
		c.restart(t, syscall.SIGKILL, func(file string) error { os.Remove(file); return os.Symlink("/etc/passwd", file) })
	}},
	{"no room for the state file", func(c *campaign, t *testing.T, hold func()) {
		// A directory that is not empty stands in the way of the new file.
		part := filepath.Join(c.dir, ".state.new")
		if err := os.MkdirAll(filepath.Join(part, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		hold()
		if err := os.RemoveAll(part); err != nil {
			t.Fatal(err)
		}
	}},
}

// step injects one fault, and waits until it is over and forgotten.
func (c *campaign) step(t *testing.T, kind faultKind) bool {
	c.injected[kind.name]++
	length := time.Duration(c.luck.Int64N(int64(faultLife / 2)))
	if c.luck.IntN(5) == 0 { // one in five outlasts the session
		length += faultLife
	}
	// How long it lasts is the fault itself: nothing is waited for, and nothing is assumed to have happened since.
	kind.play(c, t, func() { time.Sleep(length) })
	c.rotate(t, ststest.Claims{}) // as the kubelet would: a stale token is tried again when the file changes
	mended := time.Now()
	eventually(t, recovery, "a new session after: "+kind.name, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.newest.After(mended)
	})
	c.slowest = max(c.slowest, time.Since(mended))
	if status, body := get(t, "http://"+c.sidecar.ops+"/readyz"); status != http.StatusOK {
		t.Errorf("credentials are served, and /readyz says %d %s", status, body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wrong := range c.wrong[:min(len(c.wrong), 5)] {
		t.Error(wrong)
	}
	return !t.Failed()
}

// rest waits until a new session has been seen, and with it all before.
func (c *campaign) rest(t *testing.T) {
	since := time.Now()
	eventually(t, recovery, "a new session", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.newest.After(since)
	})
}

// rotateBy writes a token that is good by a clock that is ahead.
func (c *campaign) rotateBy(t *testing.T, ahead time.Duration) {
	c.rotate(t, ststest.Claims{IssuedAt: time.Now().Add(ahead)})
}

func (c *campaign) suspend(t *testing.T, length time.Duration) {
	c.generation.Add(1)
	defer c.generation.Add(1)
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := c.sidecar.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if signal == syscall.SIGSTOP {
			time.Sleep(length)
		}
	}
}

// limit sets how many file descriptors the sidecar may have, prlimit(2): those that are open stay.
func (c *campaign) limit(t *testing.T, limit syscall.Rlimit) (old syscall.Rlimit) {
	t.Helper()
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(c.sidecar.cmd.Process.Pid), syscall.RLIMIT_NOFILE,
		uintptr(unsafe.Pointer(&limit)), uintptr(unsafe.Pointer(&old)), 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	return old
}

// restart ends the sidecar and starts another; where its state has been spoilt meanwhile, it has nothing.
func (c *campaign) restart(t *testing.T, signal syscall.Signal, spoil func(file string) error) {
	c.generation.Add(1)
	defer c.generation.Add(1)
	if err := c.sidecar.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-c.sidecar.ended
	if spoil != nil {
		if err := spoil(filepath.Join(c.dir, "state")); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.best = time.Time{} // those that were valid are lost, as they were before there was a state file
		c.mu.Unlock()
	}
	c.sidecar = c.serve(t, c.changes...)
}

func (c *campaign) descriptors(t *testing.T) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.sidecar.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, entry := range entries {
		// Connections of the clients come and go.
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", c.sidecar.cmd.Process.Pid, entry.Name())); !strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func (c *campaign) end(t *testing.T) {
	close(c.stop)
	c.clients.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wrong := range c.wrong {
		t.Error(wrong)
	}
}

func (c *campaign) report(took time.Duration) {
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(c.injected)) {
		fmt.Printf("%5d  %s\n", c.injected[kind], kind)
		total += c.injected[kind]
	}
	fmt.Printf("%5d  faults of %d kinds in %s\n", total, len(c.injected), took.Round(time.Second))
	fmt.Printf("%d requests; %d refused, each while there was nothing valid; %d cut off while the process was stopped or ended\n",
		c.requests.Load(), c.refused.Load(), c.excused.Load())
	fmt.Printf("%d calls to STS; the slowest recovery took %s; wrong, expired, mixed or lost answers: %d\n", c.sts.Calls(), c.slowest.Round(time.Millisecond), len(c.wrong))
}
