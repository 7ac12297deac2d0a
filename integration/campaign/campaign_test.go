//go:build faults

package campaign

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/campaign/proxy"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	// faultLife is the lifetime of sessions: three seconds instead of an hour.
	faultLife = 3 * time.Second

	// refreshBy is when a session is replaced at the latest, without faults.
	refreshBy = faultLife * 56 / 100

	// early is how much earlier than their expiry the sidecar may stop serving credentials.
	early = 100 * time.Millisecond

	// clockStep is how far STS's clock is changed.
	clockStep = 7 * time.Minute

	// slack is what a busy machine may add to a delay: an exchange, and the next request of a client.
	slack = 2 * time.Second

	// noticeAfter is how long the sidecar needs to notice that a refused token has been replaced.
	noticeAfter = 2 * time.Second

	// patience is how long an answer may take. If it waits for an exchange, it should take 0.7 s.
	patience = 2 * time.Second

	// stuckAfter is when a stuck SDK ends the campaign.
	stuckAfter = time.Minute

	// memoryLimit is the kernel's limit for the sidecar in bytes, with its connections and the pages of its program;
	// anonymousLimit limits its own memory, in MiB.
	memoryLimit    = world.PodMemory
	anonymousLimit = 20

	// restingLimit limits its own memory, in MiB, some seconds after the last request: less than five without faults, and what
	// the stacks of a thousand goroutines leave behind.
	restingLimit = 8

	// mostConnections is how many connections all listeners together accept with that memory.
	mostConnections = 146

	// programs is how many programs ask for all profiles, all the time.
	programs = 2

	// quietEvery is after how many faults there is a moment without requests.
	quietEvery = 10
)

// TestFaults causes random faults, one after the other, while clients ask for all profiles all the time and attackers must never
// get anything. Each profile is judged by itself, and faults of one must not cost another anything.
// IRSA_TEST_FAULTS is their number, by default one of each kind; IRSA_TEST_KIND selects kinds by a part of their name;
// IRSA_TEST_SEED repeats a schedule, and a failed test prints its seed.
//
// The first round has all kinds that the sidecar survives, without a restart. Then come those that end it, and then random
// kinds.
func TestFaults(t *testing.T) {
	installed := installSDKs(t)
	if !world.InNamespaces(t, syscall.CLONE_NEWNET) {
		return
	}
	number := func(variable string, otherwise uint64) uint64 {
		text := os.Getenv(variable)
		if text == "" {
			return otherwise
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", variable, err)
		}
		return n
	}
	seed := number("IRSA_TEST_SEED", uint64(time.Now().UnixNano()))
	only := os.Getenv("IRSA_TEST_KIND")
	schedule := slices.DeleteFunc(slices.Concat(faultKinds, roleKinds, outputKinds), func(k faultKind) bool { return !strings.Contains(k.name, only) })
	if len(schedule) == 0 {
		t.Fatalf("IRSA_TEST_KIND=%q is in the name of no kind", only)
	}
	count := int(number("IRSA_TEST_FAULTS", uint64(len(schedule))))
	repeats := fmt.Sprintf("IRSA_TEST_SEED=%d IRSA_TEST_FAULTS=%d IRSA_TEST_KIND=%q", seed, count, only)
	fmt.Println(repeats)
	at := "before the first fault"
	c := new(campaign)
	t.Cleanup(func() { // after the logs of the sidecars
		if t.Failed() {
			t.Logf("%s: %s repeats it; what failed:\n%s", at, repeats, strings.Join(c.failed, "\n"))
		}
	})

	c.begin(t, installed)
	defer c.end() // in any case, before the sidecar
	// Each fault has its own random numbers, so that it is the same on every machine, whatever was left out before.
	luck := func(n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }
	luck(0).Shuffle(len(schedule), func(i, j int) { schedule[i], schedule[j] = schedule[j], schedule[i] })
	lives := slices.DeleteFunc(slices.Clone(schedule), func(k faultKind) bool { return k.ends })
	ends := slices.DeleteFunc(schedule, func(k faultKind) bool { return !k.ends })
	schedule = slices.Concat(lives, ends)
	started := time.Now()
	for n := range count {
		if n == len(lives) {
			at = "after all that it lives through"
			c.wantNothingLeft(t)
		}
		c.luck = luck(n + 1)
		kind := schedule[n%len(schedule)] // each at least once, if there are enough
		if n >= len(schedule) {
			kind = schedule[c.luck.IntN(len(schedule))]
		}
		at = fmt.Sprintf("fault %d, %s", n+1, kind.name)
		if why := c.impossible(kind); why != "" {
			c.leaveOut(fmt.Sprintf("%q: %s", kind.name, why))
			continue
		}
		c.step(t, kind)
		if n%quietEvery == quietEvery-1 && !t.Failed() {
			at = fmt.Sprintf("when nobody asked after fault %d", n+1)
			c.quietly(t, func() {})
			fmt.Printf("%d of %d faults in %s, %d requests\n", n+1, count, time.Since(started).Round(time.Second), c.requests.Load())
		}
		if t.Failed() {
			return
		}
	}
	took := time.Since(started)
	at = "after the last fault"
	c.wantNothingLeft(t)
	if n := c.again.Load(); n > 20+c.requests.Load()/1000 {
		c.fail(t, "%d of %d requests needed another connection", n, c.requests.Load())
	}
	if peak := c.memory.Peak(); peak > memoryLimit/3*2/(1<<20) {
		c.fail(t, "memory went up to %.1f MiB, of %d", peak, memoryLimit>>20)
	}
	c.end()
	c.report(took)
}

// campaign is a sidecar with its clients, and what is known about everything that STS has issued.
type campaign struct {
	*world.World
	asking
	luck    *rand.Rand // for the current fault
	changes []string
	proxy   *proxy.Proxy
	memory  *world.MemoryGroup  // nil if this machine allows none
	user    *syscall.Credential // the sidecar's user; nil means the test's
	strange bool                // the test can become another user

	volume string             // in memory, with the state file and the authorization tokens
	config *ststest.TokenFile // the configuration file, which the kubelet replaces like a token
	hosts  string             // /etc/hosts of the sidecar
	disk   string             // in memory, with the files with credentials
	places string             // the directory of the process file and of the socket
	owner  int                // the sidecar's user

	sidecar      *world.Sidecar
	lives        []*world.Process // since the fault began, including the one at that time
	files        []*credentialsFile
	process      *output // the process file
	socketOutput *output
	base         string
	goroutines   int // of a sidecar without requests
	descriptors  int // of the same

	injected        map[string]int
	met             map[string]int            // how many of them were seen to take effect
	noticed         map[string]map[string]int // exchanges that failed, by kind and reason
	leftOut         map[string]int            // why, and how often
	failed          []string                  // what made the test fail
	slowestRecovery time.Duration
	dropped         int          // log lines, by a sidecar whose log is not read
	seen            atomic.Int64 // connections of a crowd
	mostDescriptors int          // during a crowd
	largest         float64      // MiB of its own memory, with requests
	resting         float64      // MiB of the same, the most after a while without requests
}

// leaveOut records what this machine does not allow.
func (c *campaign) leaveOut(what string) {
	if c.leftOut[what]++; c.leftOut[what] == 1 {
		fmt.Println("NOT RUN:", what)
	}
}

// fail fails the test, and notes why for its last lines: the logs of the sidecars are long.
func (c *campaign) fail(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Errorf(format, args...)
	c.failed = append(c.failed, fmt.Sprintf(format, args...))
}

// begin starts the sidecar and its clients.
func (c *campaign) begin(t *testing.T, installed []installation) {
	c.connect(t)
	c.World = world.New(t, ststest.Options{Lifetime: faultLife})
	c.sessions, c.attacked = make(map[string]issued), make(map[string]int)
	c.injected, c.met, c.noticed, c.leftOut = make(map[string]int), make(map[string]int), make(map[string]map[string]int), make(map[string]int)
	t.Cleanup(func() {
		for _, wrong := range c.wrong[:min(len(c.wrong), 5)] {
			c.fail(t, "%s", wrong)
		}
	})
	c.STS.Change(func(o *ststest.Options) {
		o.Now = func() time.Time {
			c.mu.Lock()
			defer c.mu.Unlock()
			return time.Now().Add(c.ahead)
		}
	})
	dir, err := os.MkdirTemp("", "irsa-sidecar-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}

	// As in a Pod, the sidecar has its own user, and other users can be distinguished from its clients. Only root can arrange
	// that.
	owner := os.Geteuid()
	if owner == 0 && realRoot(t) {
		owner, c.strange = 49911, true
		c.user = &syscall.Credential{Uid: uint32(owner), Gid: uint32(owner)}
	} else {
		c.leaveOut("attacks by another user: the test is not root")
	}
	c.mount(t, dir, owner)
	c.makePlaces(t, dir, owner)
	c.roles = newRoles(c.authorizationFile)
	c.STS.Change(func(o *ststest.Options) { o.Roles = accounts(c.roles) })
	if c.config, err = ststest.NewTokenFile(filepath.Join(dir, "config")); err != nil {
		t.Fatal(err)
	}
	c.configure(t, c.configuration())

	if c.Token, err = ststest.NewTokenFile(filepath.Join(dir, "serviceaccount")); err != nil {
		t.Fatal(err)
	}
	c.Rotate(t, ststest.Claims{})
	if c.proxy, err = proxy.New(strings.TrimPrefix(c.STSURL, "http://")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.proxy.Close)
	bundle := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(bundle, c.proxy.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	c.changes = []string{
		"AWS_WEB_IDENTITY_TOKEN_FILE=" + c.Token.Path(), "AWS_ENDPOINT_URL_STS=" + c.proxy.URL(), "AWS_CA_BUNDLE=" + bundle,
		"AWS_CONFIG_FILE=" + c.config.Path(),
		"IRSA_SIDECAR_LISTEN=" + world.FreeAddress(t), "IRSA_SIDECAR_OPS_LISTEN=" + world.FreeAddress(t), "IRSA_SIDECAR_ADMIN_LISTEN=" + world.FreeAddress(t),
		"IRSA_SIDECAR_STATE_FILE=" + c.stateFile(), "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + c.roles[0].file,
		"IRSA_SIDECAR_ALLOWED_UIDS=" + c.allowed(),
	}
	c.changes = append(c.changes, c.outputChanges()...)
	if c.memory, err = world.NewMemoryGroup(memoryLimit); err != nil {
		c.leaveOut("the memory limit: " + err.Error())
	} else {
		t.Cleanup(c.memory.Remove)
	}

	c.Start = func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
		return c.memory.Start(cmd)
	}
	c.launch(t)
	c.base = c.sidecar.BaseURL
	c.container = &output{name: "container", roles: c.roles, request: c.request}
	c.add(c.container)
	c.readAuthorizations(t)
	for _, r := range c.roles {
		world.Eventually(t, world.Soon, "credentials of "+r.name, func() bool { return c.answers(r) })
	}
	c.descriptors = descriptors(t, c.sidecar)
	c.goroutines = c.trace(t)
	c.launch(t)

	c.startSDKs(t, installed, dir)
	t.Cleanup(c.end) // before the SDKs end
	for range programs {
		transport := &http.Transport{MaxIdleConnsPerHost: len(c.roles)} // whose connections are for all profiles
		c.idle = append(c.idle, transport)
		for _, r := range c.roles {
			c.repeatedly(2*time.Millisecond, func(n int) { c.ask(c.container, r, transport, n) })
		}
	}
	c.repeatedly(50*time.Millisecond, func(int) { c.compareReadiness() })
	c.repeatedly(10*time.Millisecond, c.attack)
	c.useOutputs(t)
	for _, s := range c.sdks {
		c.repeatedly(20*time.Millisecond, func(int) { c.askSDK(s) })
	}
	c.all.Go(c.watchMachine)
	c.rest(t)
}

// realRoot reports whether the test may become any user, not only one of a user namespace.
func realRoot(t *testing.T) bool {
	return strings.Join(strings.Fields(string(world.ReadFile(t, "/proc/self/uid_map"))), " ") == "0 0 4294967295"
}

// mount makes the volume, and the files for name resolution.
func (c *campaign) mount(t *testing.T, dir string, owner int) {
	c.volume, c.hosts = filepath.Join(dir, "volume"), filepath.Join(dir, "hosts")
	resolv := filepath.Join(dir, "resolv.conf")
	err := errors.Join(
		os.Mkdir(c.volume, 0o755),
		syscall.Mount("tmpfs", c.volume, "tmpfs", 0, fmt.Sprintf("size=256k,mode=0755,uid=%d,gid=%d", owner, owner)),
		os.WriteFile(resolv, []byte("nameserver 127.66.66.66\noptions timeout:1 attempts:1\n"), 0o644))
	c.setHosts(t, "127.0.0.1")
	for _, bind := range [][2]string{{c.hosts, "/etc/hosts"}, {resolv, "/etc/resolv.conf"}} {
		err = errors.Join(err, syscall.Mount(bind[0], bind[1], "", syscall.MS_BIND, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(c.volume, syscall.MNT_DETACH) })
}

// setHosts resolves the name of STS to ip, or to nothing.
func (c *campaign) setHosts(t *testing.T, ip string) {
	text := "127.0.0.1 localhost\n"
	if ip != "" {
		text += ip + " " + proxy.Host + "\n"
	}
	if err := os.WriteFile(c.hosts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (c *campaign) stateFile() string { return filepath.Join(c.volume, "state") }

func (c *campaign) authorizationFile(profile string) string {
	return filepath.Join(c.volume, "authorization-"+profile)
}

// launch starts the sidecar.
func (c *campaign) launch(t *testing.T) {
	c.sidecar = c.Serve(t, c.changes...)
	c.sees(0) // it has corrected the files by now
	c.lived(c.sidecar.Process)
}

func (c *campaign) lived(p *world.Process) {
	c.lives = append(c.lives, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs, c.pid = append(c.logs, p.Log), p.Cmd.Process.Pid
}

// repeatedly calls a function until the end, with pauses.
func (c *campaign) repeatedly(pause time.Duration, do func(n int)) {
	c.all.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for n := 0; ; n++ {
			<-tick.C
			c.gate.RLock()
			if c.stopped.Load() {
				c.gate.RUnlock()
				return
			}
			do(n)
			c.gate.RUnlock()
		}
	})
}

// faultKind is one kind of temporary fault.
type faultKind struct {
	name string

	// It has taken effect if an exchange failed for the reason, if the log has the text, or if met is true. For a kind with none
	// of these, play itself is the effect.
	reason cache.Reason
	says   string
	met    func(c *campaign, s *step) bool
	state  proxy.State // what met is about

	play func(c *campaign, t *testing.T, hold func())

	// hits are the profiles that it may cost something; nil means all of them.
	hits []string

	// least is how long it must last to be noticed; lag is how long its end remains unnoticed.
	least, lag time.Duration

	ends bool // it may end the sidecar
}

// step is one fault, and what happened until the recovery from it.
type step struct {
	kind            faultKind
	began, ended    time.Time
	lost            time.Duration    // when it began
	before          map[string]tally // of each profile, when it began
	calls           int              // of STS while it lasted
	connections     int              // to the proxy, in the state of the fault
	squeezed        int              // how often the kernel has refused or reclaimed memory
	failures, lines []line
}

// line is a line of a sidecar's log.
type line struct {
	Time                 time.Time
	Msg, Reason, Serving string
	Profile              string
	RetryIn              string `json:"retry_in"`
	RetryEarly           string `json:"retry_early"`
	Failures             int

	retry time.Duration
	life  *world.Process
	text  string
}

// step causes one fault, and waits for its end and the recovery.
func (c *campaign) step(t *testing.T, kind faultKind) {
	length := time.Duration(c.luck.Int64N(int64(faultLife / 2)))
	if c.luck.IntN(5) == 0 { // one in five outlasts the session
		length += faultLife
	}
	first := c.injected[kind.name] == 0
	shows := first || c.luck.IntN(2) == 0 // the first time always, there is an exchange during it
	if shows && kind.met != nil {
		length = max(length, refreshBy+slack/4)
	}
	length = max(length, kind.least)
	c.injected[kind.name]++
	c.lives = []*world.Process{c.sidecar.Process}
	c.mostDescriptors = 0
	c.mu.Lock()
	for _, r := range c.roles {
		r.since, r.refusals, r.slowest = time.Now(), 0, 0
	}
	c.mu.Unlock()
	calls, connections, refused := c.STS.Calls(), c.proxy.Count(kind.state), c.memory.Refused()
	s := &step{kind: kind, before: c.tallies(), began: time.Now(), lost: c.lost()}
	kind.play(c, t, func() {
		time.Sleep(length) // the duration of the fault; nothing is assumed to have happened meanwhile
		for shows && kind.logged() && !c.shown(t, kind, s.began) && time.Since(s.began)-(c.lost()-s.lost) < refreshBy+slack {
			time.Sleep(20 * time.Millisecond)
		}
	})
	s.calls = c.STS.Calls() - calls
	c.Rotate(t, ststest.Claims{}) // as the kubelet does: after a stale token, a change of the file causes a retry
	s.ended = time.Now()
	c.rest(t)
	c.slowestRecovery = max(c.slowestRecovery, time.Since(s.ended))
	after, took := c.tallies(), time.Since(s.began)
	s.connections = c.proxy.Count(kind.state) - connections
	s.squeezed = c.memory.Refused() - refused

	c.readLog(t, s)
	for _, r := range c.roles {
		c.wantRecovery(t, s, r)
		c.wantFewCalls(t, s, r, after[r.name], took)
	}
	for _, r := range c.spared(kind) {
		c.wantSpared(t, s, r)
	}
	c.wantLiveSources(t, s)
	c.notice(t, s, first)
	if n := c.proxy.Deceived(); n > 0 {
		c.fail(t, "the token was sent to another server than STS, or not over current TLS, %d times", n)
	}
	for { // on a busy machine, the sessions that were seen may be about to end
		status, body := world.HTTPGet(t, "http://"+c.sidecar.OpsAddress+"/readyz")
		if status == http.StatusOK {
			break
		}
		if time.Since(s.ended)-c.slowestRecovery-(c.lost()-s.lost) > slack {
			c.fail(t, "credentials are served, and /readyz says %d %s", status, body)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if c.largest = max(c.largest, c.sidecar.Memory(t, "RssAnon")); c.largest > anonymousLimit {
		c.fail(t, "it has %.1f MiB of memory of its own", c.largest)
	}
	if n := descriptors(t, c.sidecar); n > c.descriptors+mostConnections+few {
		c.fail(t, "it has %d file descriptors", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) > 0 {
		c.fail(t, "wrong answers: %d", len(c.wrong))
	}
}

// recovery limits the wait for a new session, so that a campaign ends. wantRecovery has the actual requirement.
const recovery = 70 * time.Second

// logged reports whether the log shows that the fault has taken effect.
func (k faultKind) logged() bool { return k.met == nil && (k.reason != "" || k.says != "") }

// shownBy reports whether the line does.
func (k faultKind) shownBy(l line) bool {
	if k.says != "" {
		return strings.Contains(l.text, k.says)
	}
	return l.failed() && l.Reason == string(k.reason)
}

// shown reports whether the log has shown it by now.
func (c *campaign) shown(t *testing.T, kind faultKind, since time.Time) bool {
	text := c.sidecar.Output(t)
	recent := text[max(0, len(text)-16<<10):]
	return slices.ContainsFunc(logLines(c.sidecar.Process, recent), func(l line) bool { return l.Time.After(since) && kind.shownBy(l) })
}

// readLog reads the sidecars' logs since the fault began, and compares each delay with the schedule.
func (c *campaign) readLog(t *testing.T, s *step) {
	for _, life := range c.lives {
		schedules := make(map[string]*schedule)
		for _, r := range c.roles {
			schedules[r.name] = &schedule{profile: r.name, class: -1}
		}
		var changes []time.Time // of the configuration
		log := logLines(life, life.Output(t))
		for _, l := range log {
			if l.Msg == changedConfiguration {
				changes = append(changes, l.Time)
			}
		}
		for _, l := range log {
			for _, one := range schedules {
				if l.Msg == "reloading" { // another exchange was requested
					one.due = time.Time{}
				}
				// So it was by this, but the line comes after what follows from the change.
				if slices.ContainsFunc(changes, func(at time.Time) bool { return one.failed.Before(at) && at.Before(l.Time.Add(slack/2)) }) {
					one.due = time.Time{}
				}
			}
			if one := schedules[l.Profile]; one != nil {
				one.read(t, c, &l)
			}
			for _, r := range c.roles {
				if r.source != nil && r.source.name == l.Profile && l.succeeded() { // it may have another role
					schedules[r.name].due = time.Time{}
				}
			}
			if l.Time.After(s.began) {
				s.lines = append(s.lines, l)
				if l.failed() {
					s.failures = append(s.failures, l)
				}
			}
		}
	}
}

// changedConfiguration is the log message after profiles have come, gone or changed.
const changedConfiguration = "the configuration has changed"

// logLines reads a log.
func logLines(life *world.Process, text string) (all []line) {
	for text := range strings.Lines(text) {
		l := line{life: life, text: text}
		if json.Unmarshal([]byte(text), &l) == nil {
			all = append(all, l)
		}
	}
	return all
}

// succeeded reports whether the line is about an exchange that brought a session.
func (l *line) succeeded() bool {
	return strings.HasPrefix(l.Msg, refreshed) || strings.HasPrefix(l.Msg, "new credentials expire no later")
}

// failed reports whether the line is about an exchange that failed.
func (l *line) failed() bool { return l.Msg == "exchange failed" }

// bySource reports whether it failed because the source profile had no credentials: its end is noticed.
func (l *line) bySource() bool { return strings.Contains(l.RetryEarly, "source profile") }

// schedule is what a log has told so far about a profile.
type schedule struct {
	profile string
	class   cache.Class // of the last failures in a row
	inARow  int
	failed  time.Time // the last time
	due     time.Time // when the next exchange is due then
}

// read compares the delay after a failure with the schedule for a failure of its class after so many in a row.
func (s *schedule) read(t *testing.T, c *campaign, l *line) {
	if (l.succeeded() || l.failed()) && l.Time.Add(early).Before(s.due) {
		c.fail(t, "%s: an exchange ended %s before it was due", s.profile, s.due.Sub(l.Time))
	}
	switch {
	case l.succeeded():
		s.inARow, s.due = 0, time.Time{}
	case strings.HasPrefix(l.Msg, "the clock jumped"):
		s.due = time.Time{}
	case l.failed():
		if now := cache.Reason(l.Reason).Class(); now != s.class {
			s.class, s.inARow = now, 0
		}
		s.inARow++
		s.failed = l.Time
		var err error
		if l.retry, err = time.ParseDuration(l.RetryIn); err != nil {
			t.Fatal(err)
		}
		most := longestRetry(s.class, s.inARow)
		if !strings.HasPrefix(l.Serving, "nothing") {
			most = min(most, time.Second) // for sessions of some seconds
		}
		if l.Failures != s.inARow || l.retry > most || l.retry < 200*time.Millisecond {
			c.fail(t, "%s: failure %d in a row of class %s calls itself %d, and is tried again in %s, want at most %s", s.profile, s.inARow, s.class, l.Failures, l.retry, most)
		}
		if s.due = l.Time.Add(l.retry); waitsForFile(l.Reason) || l.bySource() {
			s.due = time.Time{}
		}
	}
}

// waitsForFile reports whether the sidecar waits for another token file, not only for time.
func waitsForFile(reason string) bool {
	switch r := cache.Reason(reason); r {
	case cache.InvalidIdentityToken, cache.IDPRejectedClaim, cache.InvalidParameterValue, cache.RegionUnknown:
		return true
	default:
		return r.Class() == cache.StaleToken
	}
}

// longestRetry is the longest delay after so many failures in a row. A campaign's faults never last the two minutes after which
// failures of the class human have longer ones.
func longestRetry(class cache.Class, inARow int) time.Duration {
	base, limit := time.Second, 30*time.Second
	switch class {
	case cache.StaleToken:
		return 5 * time.Minute
	case cache.Throttled:
		base, limit = 2*time.Second, time.Minute
	}
	return min(limit, base<<min(inARow-1, 10))
}

// wantRecovery compares the time of a profile's recovery, in each output, with the delay that the sidecar had announced. An exchange
// that was in progress at the end of the fault may fail, but no other.
func (c *campaign) wantRecovery(t *testing.T, s *step, r *role) {
	ended := s.ended.Add(s.kind.lag)
	due, late := ended.Add(refreshBy), 0
	var next time.Time // when the retry after the last failure is due
	for _, f := range s.failures {
		if f.life != c.sidecar.Process || f.Profile != r.name {
			continue // its schedule has ended with it, or is another
		}
		next = f.Time.Add(f.retry)
		if waitsForFile(f.Reason) {
			noticed := ended.Add(noticeAfter)
			if f.Time.After(ended) {
				noticed = f.Time.Add(noticeAfter)
			}
			if noticed.Before(next) {
				next = noticed
			}
		}
		if f.Time.After(ended) && !f.bySource() {
			late++
		}
	}
	if next.After(due) {
		due = next
	}
	if late > 1 {
		c.fail(t, "%s: %d exchanges failed after the fault was over", r.name, late)
	}
	for _, o := range c.outputs {
		rested, shows := o.rested[r]
		due := due
		if again := c.seesAgain(o); again.After(due) {
			due = again
		}
		if by := rested.Sub(due) - (c.lost() - s.lost); shows && by > slack {
			c.fail(t, "%s, %s: credentials came %s after the retry that was due", o.name, r.name, by)
		}
	}
}

// soonestChained is how soon a session is replaced if the one that signed the request ends soon.
const soonestChained = 200 * time.Millisecond

// wantFewCalls compares a profile's calls to STS with their results: each has a session, or a failure in the log, except for one
// in progress and one for each sidecar that has ended. Sessions are replaced only when due, after 40% of their lifetime, minus
// a second of rounding. A call that was cut off counts as a failure, too.
func (c *campaign) wantFewCalls(t *testing.T, s *step, r *role, now tally, took time.Duration) {
	calls, issued, failed := now.calls-s.before[r.name].calls, now.issued-s.before[r.name].issued, 0
	for _, f := range s.failures {
		if f.Profile == r.name {
			failed++
		}
	}
	most := issued + failed + len(c.lives) + 1
	if r.source != nil && s.kind.says == clockSkew {
		most += issued + failed // a signature at the wrong time is corrected, in the same exchange
	}
	if calls > most {
		c.fail(t, "%s: %d calls to STS, want at most %d: they brought %d sessions and %d failures", r.name, calls, most, issued, failed)
	}
	soonest := (faultLife - time.Second) * 40 / 100
	if r.source != nil {
		soonest = soonestChained
	}
	if most := int(took/soonest) + failed + len(c.lives) + 1; issued > most {
		c.fail(t, "%s: %d sessions in %s, want at most %d", r.name, issued, took, most)
	}
}

// notice records what the sidecar logged about a fault, and whether that shows an effect, which it must the first time.
func (c *campaign) notice(t *testing.T, s *step, first bool) {
	name := s.kind.name
	reasons := c.noticed[name]
	if reasons == nil {
		reasons = make(map[string]int)
		c.noticed[name] = reasons
	}
	for _, f := range s.failures {
		reasons[f.Reason]++
	}
	met := !s.kind.logged() || slices.ContainsFunc(s.lines, s.kind.shownBy)
	if s.kind.met != nil {
		met = s.kind.met(c, s)
	}
	if met {
		c.met[name]++
	} else if first {
		c.fail(t, "the fault has not shown: the sidecar made %d calls meanwhile, and failed with %v", s.calls, reasons)
	}
}

// rest waits until a new session of each profile has been seen in each output, after all others.
func (c *campaign) rest(t *testing.T) {
	since := len(c.STS.Issued())
	for _, o := range c.outputs {
		clear(o.rested)
	}
	world.Eventually(t, recovery, "a new session of each profile in each output", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		left := 0
		for _, o := range c.outputs {
			for _, r := range o.roles {
				if _, rested := o.rested[r]; rested {
					continue
				}
				if left++; o.newest[r] >= since {
					o.rested[r] = time.Now()
				}
			}
		}
		return left == 0
	})
}

// whileAway runs a function during which no client expects an answer.
func (c *campaign) whileAway(while func()) {
	c.away.Add(1)
	defer c.away.Add(1)
	c.whileBlind(resumes, while)
}

// whileClosed runs a function during which only connected clients expect an answer.
func (c *campaign) whileClosed(while func()) {
	c.closed.Add(1)
	defer c.closed.Add(1)
	c.whileBlind(rewritten, while) // a file would need another descriptor
}

// kill ends the sidecar.
func (c *campaign) kill(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := c.sidecar.Cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	c.wantGone(t)
}

func (c *campaign) wantGone(t *testing.T) {
	t.Helper()
	select {
	case <-c.sidecar.Ended:
	case <-time.After(world.Soon):
		t.Fatalf("the sidecar is still there %s after a signal", world.Soon)
	}
}

// restart ends the sidecar and starts another.
func (c *campaign) restart(t *testing.T, signal syscall.Signal) {
	c.whileAway(func() {
		c.kill(t, signal)
		c.launch(t)
	})
}

// trace ends the sidecar with a dump of its goroutines, and returns their number.
func (c *campaign) trace(t *testing.T) int {
	c.sidecar.Traced = true
	c.kill(t, syscall.SIGQUIT)
	return strings.Count(c.sidecar.Output(t), "\ngoroutine ")
}

// descriptors counts the open files of the sidecar.
func descriptors(t *testing.T, s *world.Sidecar) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// end stops all clients.
func (c *campaign) end() {
	c.stopped.Store(true)
	c.all.Wait()
}

func (c *campaign) report(took time.Duration) {
	total, met := 0, 0
	fmt.Println("faults  shown  kind                                           how exchanges failed meanwhile")
	for _, kind := range slices.Sorted(maps.Keys(c.injected)) {
		var noticed []string
		for _, reason := range slices.Sorted(maps.Keys(c.noticed[kind])) {
			noticed = append(noticed, fmt.Sprintf("%s %d×", reason, c.noticed[kind][reason]))
		}
		fmt.Printf("%6d %6d  %-45s  %s\n", c.injected[kind], c.met[kind], kind, strings.Join(noticed, ", "))
		total += c.injected[kind]
		met += c.met[kind]
	}
	fmt.Printf("%6d %6d  of %d kinds, in %s\n", total, met, len(c.injected), took.Round(time.Second))
	for _, what := range slices.Sorted(maps.Keys(c.leftOut)) {
		fmt.Printf("not run: %s\n", what)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	slowest := slices.MaxFunc(c.outputs, func(a, b *output) int { return cmp.Compare(a.slowest, b.slowest) }).slowest
	fmt.Printf("%d requests, the slowest answer in %s\n", c.requests.Load(), slowest.Round(time.Millisecond))
	fmt.Printf("%d of them refused, when nothing was valid; %d not answered, when the sidecar was stopped, ended or out of descriptors\n",
		c.refused.Load(), c.cut.Load())
	fmt.Printf("%d times a connection was closed without an answer, and another one got it\n", c.again.Load())
	for _, s := range c.sdks {
		fmt.Printf("%s: started over %d times; %d without credentials, of which %d are not judged: clocks were wrong, or the sidecar as above\n",
			s.name, s.asked, s.failed, s.excused)
	}
	for _, o := range append(c.outputs, c.process) {
		fmt.Printf("%-20s %8d requests, %7d without credentials, the slowest in %s\n", o.name+":", o.requests.Load(), o.refused.Load(), o.slowest.Round(time.Millisecond))
	}
	for _, address := range slices.Sorted(maps.Keys(c.attacked)) {
		fmt.Printf("attacks at %s: %d\n", address, c.attacked[address])
	}
	fmt.Printf("attacks: %d refused, %d successful; readiness compared %d times\n", c.attacks.Load(), c.successes, c.readiness.Load())
	fmt.Printf("this machine kept programs that could run waiting for %s in all\n", c.lost().Round(time.Millisecond))
	fmt.Printf("%d calls to STS; the slowest recovery took %s\n", c.STS.Calls(), c.slowestRecovery.Round(time.Millisecond))
	peak := "not known"
	if c.memory != nil {
		peak = fmt.Sprintf("%.1f MiB of %d", c.memory.Peak(), memoryLimit>>20)
	}
	fmt.Printf("memory: peak %s, with pages of files; its own at most %.1f MiB, and %.1f when nobody had asked for a while\n", peak, c.largest, c.resting)
	fmt.Printf("wrong, expired, mixed or lost answers: %d\n", len(c.wrong))
}
