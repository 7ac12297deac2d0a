//go:build faults

package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/faults"
)

const (
	// faultLife is how long sessions last: an hour in three seconds.
	faultLife = 3 * time.Second

	// refreshBy is the latest at which a session is replaced when all is well.
	refreshBy = faultLife * 56 / 100

	// early is by how much the sidecar may end credentials early, for a client to see it, and earlySkewed the same
	// where clocks differ: STS's Date has whole seconds.
	early, earlySkewed = 100 * time.Millisecond, 1200 * time.Millisecond

	// slack is what a busy machine may add to a delay: an exchange, and a client that comes to see what it brought.
	slack = 2 * time.Second

	// noticeAfter is how long the sidecar needs to see that a refused token has been replaced.
	noticeAfter = 2 * time.Second

	// memoryLimit is what the kernel lets the sidecar have, in bytes, with its connections and the pages of its
	// program; anonymousLimit what it may have of its own, in MiB.
	memoryLimit    = 24 << 20
	anonymousLimit = 20
)

// TestFaults is a day of faults at random, one after the other, before clients that ask all the time and
// attackers that must never get anything. IRSA_TEST_FAULTS is how many, otherwise one of each kind;
// IRSA_TEST_SEED repeats a schedule: what fails prints its own.
func TestFaults(t *testing.T) {
	if !inNamespaces(t, 0) {
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
	c := newCampaign(t, rand.New(rand.NewPCG(seed, 0)))
	kinds := c.possible()
	count := int(number("IRSA_TEST_FAULTS", uint64(len(kinds))))
	fmt.Printf("IRSA_TEST_SEED=%d IRSA_TEST_FAULTS=%d\n", seed, count)
	c.luck.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	started := time.Now()
	calls := c.sts.Calls()
	for n := range count {
		kind := kinds[n%len(kinds)] // each at least once, where there are enough
		if n >= len(kinds) {
			kind = kinds[c.luck.IntN(len(kinds))]
		}
		if !c.step(t, kind) {
			t.Fatalf("fault %d, %s: IRSA_TEST_SEED=%d IRSA_TEST_FAULTS=%d repeats it", n+1, kind.name, seed, count)
		}
	}
	took := time.Since(started)
	c.end(t)
	if rate := float64(c.sts.Calls()-calls) / took.Seconds(); rate > 2 {
		t.Errorf("%.1f calls to STS a second", rate)
	}
	c.report(took)
}

// campaign is a sidecar with its clients, and what is known of all that STS has issued.
type campaign struct {
	*world
	luck    *rand.Rand
	changes []string
	way     *faults.Way
	memory  *memoryGroup // nil where this machine has none for us

	volume string // in memory, with the state file and the authorization token
	hosts  string // /etc/hosts of the sidecar

	sidecar       *sidecar
	base          string
	goroutines    int          // of a sidecar that nobody asks
	descriptors   int          // of the same
	generation    atomic.Int64 // odd while the sidecar is not there to be asked
	authorization atomic.Pointer[string]

	stop    chan struct{}
	gate    sync.RWMutex // held by who asks; locked, nobody does
	asking  sync.WaitGroup
	idle    []*http.Transport
	sdks    []*sdk
	strange bool // we can be another user

	mu       sync.Mutex
	ahead    time.Duration // of STS's clock
	skewed   bool          // from when it is, until credentials from then are gone
	sessions map[string]issued
	best     time.Time // the latest real end of a session that a client has been given
	newest   time.Time // when the newest session that a client has been given was first seen
	wrong    []string

	requests, refused, excused, attacks, readiness atomic.Int64

	injected map[string]int
	noticed  map[string]map[string]int // exchanges that failed, by kind and reason
	slowest  time.Duration             // recovery
	largest  float64                   // MiB of memory
}

// issued is a session, with its end by a right clock.
type issued struct {
	ststest.Session
	ends time.Time
	seen bool
}

func newCampaign(t *testing.T, luck *rand.Rand) *campaign {
	c := &campaign{
		world: newWorld(t, ststest.Options{Lifetime: faultLife}), luck: luck, stop: make(chan struct{}),
		sessions: make(map[string]issued), injected: make(map[string]int), noticed: make(map[string]map[string]int),
	}
	c.sts.Change(func(o *ststest.Options) {
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

	// As in a Pod the sidecar is nobody in particular, and others may be told from its clients; only root can
	// have it so.
	owner := os.Geteuid()
	if owner == 0 && realRoot(t) {
		owner, c.strange = 65532, true
		c.as = &syscall.Credential{Uid: uint32(owner), Gid: uint32(owner)}
	}
	c.mount(t, dir, owner)

	if c.token, err = ststest.NewTokenFile(filepath.Join(dir, "serviceaccount")); err != nil {
		t.Fatal(err)
	}
	c.rotate(t, ststest.Claims{})
	if c.way, err = faults.NewWay(strings.TrimPrefix(c.stsURL, "http://")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.way.Close)
	bundle := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(bundle, c.way.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	c.changes = []string{
		"AWS_WEB_IDENTITY_TOKEN_FILE=" + c.token.Path(), "AWS_ENDPOINT_URL_STS=" + c.way.URL(), "AWS_CA_BUNDLE=" + bundle,
		"IRSA_SIDECAR_LISTEN=" + freeAddress(t), "IRSA_SIDECAR_OPS_LISTEN=" + freeAddress(t),
		"IRSA_SIDECAR_STATE_FILE=" + c.stateFile(), "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + c.authorizationFile(),
		"IRSA_SIDECAR_ALLOWED_UIDS=" + strconv.Itoa(os.Geteuid()),
	}
	if c.memory, err = newMemoryGroup(); err != nil {
		fmt.Printf("no memory limit, for this machine has no cgroup for us: %v\n", err)
	} else {
		t.Cleanup(c.memory.remove)
	}

	c.launch(t)
	c.base = c.sidecar.base
	c.readAuthorization(t)
	eventually(t, soon, "credentials", func() bool { return c.sidecar.ask(t, "Authorization", *c.authorization.Load()).valid() })
	c.descriptors = descriptors(t, c.sidecar)
	c.goroutines = c.trace(t)
	c.launch(t)

	c.startSDKs(t, dir)
	for range 6 {
		transport := &http.Transport{}
		c.idle = append(c.idle, transport)
		c.repeatedly(2*time.Millisecond, func(n int) { c.ask(transport, n) })
	}
	c.repeatedly(50*time.Millisecond, func(int) { c.compareReadiness() })
	c.repeatedly(10*time.Millisecond, c.attack)
	for _, s := range c.sdks {
		c.repeatedly(20*time.Millisecond, func(int) { c.askSDK(s) })
	}
	c.rest(t)
	return c
}

// realRoot reports whether we may become any user there is, and not just the one of a user namespace.
func realRoot(t *testing.T) bool {
	return strings.Join(strings.Fields(string(read(t, "/proc/self/uid_map"))), " ") == "0 0 4294967295"
}

// mount makes the volume, and the files by which names are found.
func (c *campaign) mount(t *testing.T, dir string, owner int) {
	c.volume, c.hosts = filepath.Join(dir, "volume"), filepath.Join(dir, "hosts")
	resolv := filepath.Join(dir, "resolv.conf")
	err := errors.Join(
		os.Mkdir(c.volume, 0o755),
		syscall.Mount("tmpfs", c.volume, "tmpfs", 0, fmt.Sprintf("size=256k,mode=0755,uid=%d,gid=%d", owner, owner)),
		os.WriteFile(resolv, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), 0o644))
	c.setHosts(t, "127.0.0.1")
	for _, bind := range [][2]string{{c.hosts, "/etc/hosts"}, {resolv, "/etc/resolv.conf"}} {
		err = errors.Join(err, syscall.Mount(bind[0], bind[1], "", syscall.MS_BIND, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(c.volume, syscall.MNT_DETACH) })
}

// setHosts has the name of STS lead to ip, or nowhere.
func (c *campaign) setHosts(t *testing.T, ip string) {
	text := "127.0.0.1 localhost\n"
	if ip != "" {
		text += ip + " " + faults.Host + "\n"
	}
	if err := os.WriteFile(c.hosts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (c *campaign) stateFile() string         { return filepath.Join(c.volume, "state") }
func (c *campaign) authorizationFile() string { return filepath.Join(c.volume, "authorization") }

func (c *campaign) readAuthorization(t *testing.T) {
	token := string(read(t, c.authorizationFile()))
	printed.secret("an authorization token", token)
	c.authorization.Store(&token)
}

// launch starts the sidecar, with the limit that a Pod has.
func (c *campaign) launch(t *testing.T) {
	c.sidecar = c.serve(t, c.changes...)
	if c.memory != nil {
		if err := c.memory.take(c.sidecar.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
}

// repeatedly does it until the end, with a pause in between.
func (c *campaign) repeatedly(pause time.Duration, do func(n int)) {
	c.asking.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-c.stop:
				return
			case <-tick.C:
			}
			c.gate.RLock()
			do(n)
			c.gate.RUnlock()
		}
	})
}

// moment is what a client could know when it asked.
type moment struct {
	at         time.Time
	best       time.Time
	skewed     bool // clocks differ
	generation int64
}

func (c *campaign) now() moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return moment{time.Now(), c.best, c.skewed, c.generation.Load()}
}

// excuses reports whether the sidecar was stopped or ended since.
func (c *campaign) excuses(since moment) bool {
	return since.generation%2 == 1 || c.generation.Load() != since.generation
}

func (c *campaign) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// ask is a program with a client of its own.
func (c *campaign) ask(transport *http.Transport, n int) {
	if n%50 == 0 {
		transport.CloseIdleConnections()
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: transport}
	request, err := http.NewRequest(http.MethodGet, c.base+"/v1/credentials", nil)
	if err != nil {
		c.complain("%v", err)
		return
	}
	request.Header.Set("Authorization", *c.authorization.Load())
	asked := c.now()
	response, err := client.Do(request)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	c.requests.Add(1)
	if err != nil {
		if c.excuses(asked) {
			c.excused.Add(1)
		} else {
			c.complain("no answer: %v", err)
		}
		return
	}
	c.judge(asked, response.StatusCode, body)
}

// judge holds an answer against what STS has issued.
func (c *campaign) judge(asked moment, status int, body []byte) {
	var a struct {
		AccessKeyID, SecretAccessKey, Token, Code string
		Expiration                                time.Time
	}
	if err := json.Unmarshal(body, &a); err != nil {
		c.complain("answered %d, and not JSON: %v", status, err)
		return
	}
	if status != http.StatusOK {
		c.refused.Add(1)
		if a.Code == "" || a.AccessKeyID != "" {
			c.complain("answered %d with half a document", status)
		}
		c.mayRefuse(asked, a.Code)
		return
	}
	if s, ok := c.given(asked, a.AccessKeyID, a.SecretAccessKey, a.Token); ok && !a.Expiration.Equal(s.Expiration.Truncate(time.Second)) {
		c.complain("answered with %s as the end of credentials that end at %s", a.Expiration, s.Expiration)
	}
}

// mayRefuse complains where there were valid credentials from when somebody asked until now.
func (c *campaign) mayRefuse(asked moment, why string) {
	margin := early
	if asked.skewed {
		margin = earlySkewed
	}
	if now := time.Now(); now.Add(margin).Before(asked.best) && !c.excuses(asked) {
		c.complain("refused with %s at %s, while credentials were valid until %s", why, now.Format(time.TimeOnly+".000"), asked.best.Format(time.TimeOnly+".000"))
	}
}

// given takes in credentials that somebody has got, and complains if nobody should.
func (c *campaign) given(asked moment, key, secret, token string) (s issued, ok bool) {
	c.mu.Lock()
	s, ok = c.sessions[key]
	ahead := c.ahead
	c.mu.Unlock()
	if !ok {
		for _, session := range c.sts.Issued() {
			if session.AccessKeyID == key {
				s, ok = issued{Session: session, ends: session.Expiration.Truncate(time.Second).Add(-ahead)}, true
			}
		}
	}
	switch {
	case !ok:
		c.complain("answered with credentials that nobody has issued")
		return s, false
	case secret != s.SecretAccessKey || token != s.SessionToken:
		c.complain("answered with a mixture of credentials")
	case !s.ends.After(asked.at):
		c.complain("answered at %s with credentials that had ended at %s", asked.at.Format(time.TimeOnly+".000"), s.ends.Format(time.TimeOnly+".000"))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.seen {
		s.seen = true
		c.sessions[key] = s
		c.newest = time.Now()
	}
	if s.ends.After(c.best) {
		c.best = s.ends
	}
	return s, true
}

// compareReadiness holds what the kubelet is told against what a client is.
func (c *campaign) compareReadiness() {
	asked := c.now()
	ready := func() (status int) {
		response, err := client.Get("http://" + c.sidecarOps() + "/readyz")
		if err != nil {
			return 0
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	before := ready()
	request, err := http.NewRequest(http.MethodGet, c.base+"/v1/credentials", nil)
	if err != nil {
		c.complain("%v", err)
		return
	}
	request.Header.Set("Authorization", *c.authorization.Load())
	response, err := client.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	var a struct{ AccessKeyID string }
	json.NewDecoder(response.Body).Decode(&a)
	after := ready()
	if c.excuses(asked) || before == 0 || after == 0 {
		return
	}
	c.readiness.Add(1)
	if before == http.StatusOK && after == http.StatusOK && response.StatusCode != http.StatusOK {
		c.complain("ready before and after, and refused with %d in between", response.StatusCode)
	}
	c.mu.Lock()
	left := time.Until(c.sessions[a.AccessKeyID].ends)
	c.mu.Unlock()
	if before != http.StatusOK && after != http.StatusOK && left > earlySkewed+faultLife/10 {
		c.complain("not ready before and after, with credentials for another %s in between", left)
	}
}

// sidecarOps is the same address for every sidecar there is.
func (c *campaign) sidecarOps() string {
	for _, change := range c.changes {
		if address, ok := strings.CutPrefix(change, "IRSA_SIDECAR_OPS_LISTEN="); ok {
			return address
		}
	}
	panic("no address")
}

// attacks are requests that must never be answered with anything. TOKEN is the right one, so that what
// refuses them is the guard that is meant.
var attacks = []struct{ head, status string }{
	{"GET /v1/credentials HTTP/1.1|Host: evil.example|Authorization: TOKEN", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1.evil.example:PORT|Authorization: TOKEN", "403"},
	{"GET http://evil.example/v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", "403"},
	{"GET /v1/credentials HTTP/1.0|Authorization: TOKEN", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|X-Forwarded-For: 10.0.0.7", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Via: 1.1 proxy", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Origin: http://evil.example", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Sec-Fetch-Site: cross-site", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKE", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: wrong|Authorization: TOKEN", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|authorization: wrong", "403"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Content-Length: 5|Transfer-Encoding: chunked||0|", "403"},
	{"POST /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Content-Length: 0", "405"},
	{"GET //v1//credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", "404"},
	{"GET /v1%2fcredentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", "404"},
	{"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Host: evil.example|Authorization: TOKEN", "400"},
}

// attack makes one attack, and now and then one by another user who knows all that there is to know.
func (c *campaign) attack(n int) {
	asked := c.now()
	n %= len(attacks) + 1
	if n < len(attacks) {
		c.mustResist(asked, "", attacks[n].head, attacks[n].status)
	} else if c.strange {
		asUser(&syscall.Credential{Uid: 65533, Gid: 65533}, func() {
			c.mustResist(asked, "another user's ", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", "403")
		})
	}
}

func (c *campaign) mustResist(asked moment, whose, head, status string) {
	address := strings.TrimPrefix(c.base, "http://")
	_, port, _ := net.SplitHostPort(address)
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return // there is nobody to attack
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, strings.NewReplacer("PORT", port, "TOKEN", *c.authorization.Load(), "|", "\r\n").Replace(head)+"\r\nConnection: close\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	switch {
	case bytes.Contains(answer, []byte("AccessKeyId")):
		c.complain("credentials were had with %s%s", whose, head)
	case len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 "+status+" ")) && !bytes.HasPrefix(answer, []byte("HTTP/1.0 "+status+" ")):
		line, _, _ := strings.Cut(string(answer), "\r\n")
		c.complain("%s%s was answered with %s, want %s", whose, head, line, status)
	case len(answer) > 0:
		c.attacks.Add(1)
	case !c.excuses(asked):
		c.complain("%s%s was not answered", whose, head)
	}
}

// asUser does it on a thread of another user, which ends with it; nil is our own.
func asUser(user *syscall.Credential, do func()) {
	if user == nil {
		do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		for _, set := range [][2]uintptr{{syscall.SYS_SETRESGID, uintptr(user.Gid)}, {syscall.SYS_SETRESUID, uintptr(user.Uid)}} {
			if _, _, errno := syscall.RawSyscall(set[0], set[1], set[1], set[1]); errno != 0 {
				panic(errno)
			}
		}
		do()
	}()
	<-done
}

// sdk is a real one, in a program of its own.
type sdk struct {
	name          string
	command       clients.Command
	env           []string
	cmd           *exec.Cmd
	in            io.WriteCloser
	out           *bufio.Reader
	asked, failed int
	mu            sync.Mutex // held while it is asked
}

// startSDKs starts one SDK of each language, the newest that this machine can have.
func (c *campaign) startSDKs(t *testing.T, dir string) {
	table, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installer := &clients.Installer{
		Table: table, Cache: filepath.Join(caches, "irsa-sidecar", "clients"), Drivers: "clients/drivers",
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	for _, driver := range []string{"go-v2", "javascript-v3", "botocore"} {
		var why error
		for _, candidate := range slices.Backward(table.Clients) {
			if candidate.Driver != driver || !candidate.TokenFile || candidate.From == "debian" {
				continue
			}
			command, err := installer.Install(t.Context(), candidate)
			if err != nil {
				why = err
				if slices.Contains(strings.Split(os.Getenv("IRSA_TEST_REQUIRE"), ","), candidate.From) {
					t.Errorf("not installed, although IRSA_TEST_REQUIRE has %s: %v", candidate.From, err)
				}
				continue
			}
			s := &sdk{name: candidate.Name + " " + command.Version, command: command, env: []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8", "AWS_REGION=" + region, "AWS_EC2_METADATA_DISABLED=true",
				"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + c.base + "/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + c.authorizationFile(),
			}}
			s.start(t)
			t.Cleanup(s.stop)
			c.sdks, why = append(c.sdks, s), nil
			break
		}
		if why != nil {
			fmt.Printf("%s takes no part: %v\n", driver, why)
		}
	}
	if len(c.sdks) == 0 {
		t.Error("no SDK takes part")
	}
}

func (s *sdk) start(t *testing.T) {
	s.cmd = exec.Command(s.command.Args[0], s.command.Args[1:]...)
	s.cmd.Dir, s.cmd.Env = s.command.Dir, s.env
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.in, s.out = in, bufio.NewReader(out)
}

// stop ends the program, and with it the connections that it keeps for each time that it has started over.
func (s *sdk) stop() {
	s.in.Close()
	s.cmd.Wait()
}

// askSDK has an SDK start over, so that it asks the sidecar.
func (c *campaign) askSDK(s *sdk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := c.now()
	io.WriteString(s.in, "new\n")
	line, err := s.out.ReadBytes('\n')
	var a struct{ AccessKeyID, SecretAccessKey, SessionToken, Error string }
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		c.complain("%s has ended: %v", s.name, err)
		return
	}
	s.asked++
	if a.Error == "" {
		c.given(asked, a.AccessKeyID, a.SecretAccessKey, a.SessionToken)
		return
	}
	s.failed++
	// On a node whose clock is wrong an SDK throws good credentials away, and AWS would what it signs.
	if !asked.skewed && !c.now().skewed {
		c.mayRefuse(asked, s.name+": "+a.Error)
	}
}

// faultKind is one way in which things go wrong, for a while.
type faultKind struct {
	name string

	// reason is what the sidecar finds, if it makes an exchange meanwhile; empty where it notices nothing.
	reason cache.Reason

	play func(c *campaign, t *testing.T, hold func())

	// least is how long it must last to be noticed at all, lag how long the end of it is not.
	least, lag time.Duration
}

// step injects one fault, and waits until it is over and forgotten.
func (c *campaign) step(t *testing.T, kind faultKind) bool {
	length := time.Duration(c.luck.Int64N(int64(faultLife / 2)))
	if c.luck.IntN(5) == 0 { // one in five outlasts the session
		length += faultLife
	}
	first := c.injected[kind.name] == 0
	if first && kind.reason != "" { // for once, an exchange falls into it for certain
		length = max(length, refreshBy+slack/4)
	}
	length = max(length, kind.least)
	c.injected[kind.name]++
	began, calls := time.Now(), c.sts.Calls()
	// How long it lasts is the fault itself: nothing is waited for, and nothing is assumed to have happened since.
	kind.play(c, t, func() { time.Sleep(length) })
	c.rotate(t, ststest.Claims{}) // as the kubelet would: a stale token is tried again when the file changes
	mended := time.Now()
	eventually(t, recovery, "a new session after: "+kind.name, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.newest.After(mended)
	})
	recovered := time.Now()
	c.slowest = max(c.slowest, recovered.Sub(mended))

	failures := c.failures(t, began)
	c.wantRecovery(t, failures, mended.Add(kind.lag), recovered)
	c.notice(t, kind, failures, first)
	if bound := 10 + int(recovered.Sub(began)/(200*time.Millisecond)); c.sts.Calls()-calls > bound {
		t.Errorf("%d calls to STS in %s", c.sts.Calls()-calls, recovered.Sub(began))
	}
	if n := c.way.Deceived(); n > 0 {
		t.Errorf("the token went to somebody who is not STS, %d times", n)
	}
	if status, body := get(t, "http://"+c.sidecar.ops+"/readyz"); status != http.StatusOK {
		t.Errorf("credentials are served, and /readyz says %d %s", status, body)
	}
	if c.largest = max(c.largest, c.sidecar.memory(t, "RssAnon")); c.largest > anonymousLimit {
		t.Errorf("it has %.1f MiB of memory of its own", c.largest)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wrong := range c.wrong[:min(len(c.wrong), 5)] {
		t.Error(wrong)
	}
	return !t.Failed()
}

// recovery bounds the wait for a new session, lest a campaign last for ever. What is asked of the sidecar is
// in wantRecovery.
const recovery = 70 * time.Second

// failure is an exchange that failed, as the log has it.
type failure struct {
	at     time.Time
	reason string
	retry  time.Duration
}

// failures reads those that the sidecar that is there now has had since.
func (c *campaign) failures(t *testing.T, since time.Time) (all []failure) {
	for text := range strings.Lines(c.sidecar.output(t)) {
		var line struct {
			Time        time.Time
			Msg, Reason string
			RetryIn     string `json:"retry_in"`
		}
		if json.Unmarshal([]byte(text), &line) != nil || line.Msg != "exchange failed" || line.Time.Before(since) {
			continue
		}
		retry, err := time.ParseDuration(line.RetryIn)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, failure{line.Time, line.Reason, retry})
	}
	return all
}

// wantRecovery holds the time that it took against the delay that the sidecar had given itself: it may have
// been in the middle of an exchange, and that may fail, but no other.
func (c *campaign) wantRecovery(t *testing.T, failures []failure, mended, recovered time.Time) {
	due, late := mended.Add(refreshBy), 0
	for _, f := range failures {
		next := f.at.Add(f.retry)
		if f.retry > time.Minute { // it is the file that is waited for
			next = mended.Add(noticeAfter)
			if f.at.After(mended) {
				next = f.at.Add(noticeAfter)
			}
		}
		if next.After(due) {
			due = next
		}
		if f.at.After(mended) {
			late++
		}
	}
	if late > 1 {
		t.Errorf("%d exchanges failed after the fault was over", late)
	}
	if by := recovered.Sub(due); by > slack {
		t.Errorf("credentials came %s after the retry that was due", by)
	}
}

// notice notes what the sidecar said of a fault, and the first time that it did.
func (c *campaign) notice(t *testing.T, kind faultKind, failures []failure, first bool) {
	reasons := c.noticed[kind.name]
	if reasons == nil {
		reasons = make(map[string]int)
		c.noticed[kind.name] = reasons
	}
	for _, f := range failures {
		reasons[f.reason]++
	}
	if first && kind.reason != "" && reasons[string(kind.reason)] == 0 {
		t.Errorf("the sidecar did not notice it with %s, but with %v", kind.reason, reasons)
	}
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

// away has nobody expect an answer while it lasts.
func (c *campaign) away(while func()) {
	c.generation.Add(1)
	defer c.generation.Add(1)
	while()
}

// kill ends the sidecar.
func (c *campaign) kill(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := c.sidecar.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-c.sidecar.ended
}

// restart ends the sidecar and starts another.
func (c *campaign) restart(t *testing.T, signal syscall.Signal) {
	c.away(func() {
		c.kill(t, signal)
		c.launch(t)
	})
}

// forget is for when what was valid is lost with the sidecar, as it always was before there was a state file.
func (c *campaign) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.best = time.Time{}
}

// trace ends the sidecar by having it print its goroutines, and returns how many there were.
func (c *campaign) trace(t *testing.T) int {
	c.sidecar.traced = true
	c.kill(t, syscall.SIGQUIT)
	return strings.Count(c.sidecar.output(t), "\ngoroutine ")
}

// descriptors counts what the sidecar has open.
func descriptors(t *testing.T, s *sidecar) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func (c *campaign) end(t *testing.T) {
	close(c.stop)
	c.asking.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wrong := range c.wrong {
		t.Error(wrong)
	}
}

func (c *campaign) report(took time.Duration) {
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(c.injected)) {
		var noticed []string
		for _, reason := range slices.Sorted(maps.Keys(c.noticed[kind])) {
			noticed = append(noticed, fmt.Sprintf("%s %d×", reason, c.noticed[kind][reason]))
		}
		fmt.Printf("%5d  %-45s %s\n", c.injected[kind], kind, strings.Join(noticed, ", "))
		total += c.injected[kind]
	}
	fmt.Printf("%5d  faults of %d kinds in %s\n", total, len(c.injected), took.Round(time.Second))
	fmt.Printf("%d requests; %d refused, none while credentials were valid and somebody was to be there; %d not answered, each while nobody was\n",
		c.requests.Load(), c.refused.Load(), c.excused.Load())
	for _, s := range c.sdks {
		fmt.Printf("%s: started over %d times, %d without credentials\n", s.name, s.asked, s.failed)
	}
	fmt.Printf("%d attacks, none successful; readiness compared %d times\n", c.attacks.Load(), c.readiness.Load())
	fmt.Printf("%d calls to STS; the slowest recovery took %s; at most %.1f MiB of its own; wrong, expired, mixed or lost answers: %d\n",
		c.sts.Calls(), c.slowest.Round(time.Millisecond), c.largest, len(c.wrong))
}
