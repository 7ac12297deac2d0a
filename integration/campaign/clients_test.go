//go:build faults

package campaign

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// asking is what the clients share: the answers that they got, and what was wrong with them.
type asking struct {
	stopped atomic.Bool
	gate    sync.RWMutex // read-locked by clients; locked to keep them from asking
	all     sync.WaitGroup
	idle    []*http.Transport
	sdks    []*sdk

	// Odd while the sidecar cannot be asked, and while it accepts no new connections.
	away, closed atomic.Int64

	roles     []*role
	container *output   // which is the first of the outputs
	outputs   []*output // that show new sessions of their profiles

	mu        sync.Mutex
	ahead     time.Duration // of STS's clock
	skewed    bool          // from the change until credentials from before it are gone
	sessions  map[string]issued
	logs      []string // of all sidecars so far
	pid       int      // of the last one
	wrong     []string
	attacked  map[string]int // how many attacks were refused, by address
	successes int            // of attacks
	blind     []*blindness

	requests, again, refused, cut, attacks, readiness atomic.Int64

	overslept, kept atomic.Int64 // nanoseconds
}

// issued is a session with its number, and its end by a correct clock.
type issued struct {
	ststest.Session
	number int
	ends   time.Time
}

// moment is what a client could know when it asked.
type moment struct {
	at           time.Time
	skewed       bool // clocks differ
	away, closed int64
	lost         time.Duration
	presence     int64   // of the profile that is asked for
	of           *output // that is asked, or nil
	shut         int64
}

func (c *campaign) now() moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return moment{at: time.Now(), skewed: c.skewed, away: c.away.Load(), closed: c.closed.Load(), lost: c.lost()}
}

// excuses reports whether the sidecar was paused or ended since.
func (c *campaign) excuses(since moment) bool {
	return since.away%2 == 1 || c.away.Load() != since.away
}

// excusesNewcomers reports whether a new connection may have been refused since.
func (c *campaign) excusesNewcomers(since moment) bool {
	return c.excuses(since) || since.closed%2 == 1 || c.closed.Load() != since.closed ||
		since.of != nil && (since.shut%2 == 1 || since.of.shut.Load() != since.shut)
}

// watchMachine measures for how long this machine keeps this test, and the sidecar, from running when they could.
func (c *campaign) watchMachine() {
	const nap, usual = 10 * time.Millisecond, 10 * time.Millisecond
	waited := make(map[string]int64)
	for n := 0; !c.stopped.Load(); n++ {
		before := time.Now()
		time.Sleep(nap)
		if late := time.Since(before) - nap; late > usual {
			c.overslept.Add(int64(late))
		}
		if n%5 == 0 {
			c.kept.Add(int64(c.kernelKept(waited)))
		}
	}
}

// kernelKept returns for how long the sidecar's threads have waited for a CPU since the last call, of which waited is the record:
// the longest of them.
func (c *campaign) kernelKept(waited map[string]int64) (most time.Duration) {
	c.mu.Lock()
	pid := c.pid
	c.mu.Unlock()
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) // without it, nothing is known
	for _, path := range threads {
		text, err := os.ReadFile(path)
		var ran, delay int64
		if _, bad := fmt.Sscan(string(text), &ran, &delay); err != nil || bad != nil {
			continue // the thread has ended
		}
		most = max(most, time.Duration(delay-waited[path]))
		waited[path] = delay
	}
	return most
}

// lost is that time since the campaign began.
func (c *campaign) lost() time.Duration { return time.Duration(c.overslept.Load() + c.kept.Load()) }

func (c *campaign) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// attempts is how often a request without an answer is repeated, as most SDKs do: in a crowd, a connection is closed if its
// client sends nothing for a twentieth of a second, and on a busy machine this test's clients may be that slow.
const attempts = 3

// ask asks an output for a profile's credentials, like a program with its own client.
func (c *campaign) ask(o *output, r *role, transport *http.Transport, n int) {
	asked := o.now(c, r)
	refresh(asked, transport, n)
	status, body, excused, ok := c.send(o, r, transport, o.request(r), asked)
	if !ok {
		return
	}
	if !excused {
		c.timed(o, r, asked)
	}
	c.judge(o, r, asked, status, body)
}

// refresh makes a client connect again now and then, if that is possible.
func refresh(asked moment, transport *http.Transport, n int) {
	if n%50 == 0 && asked.closed%2 == 0 && asked.shut%2 == 0 {
		transport.CloseIdleConnections()
	}
}

// send sends a request, and reports whether there was an answer. If it is excused, there might have been none.
func (c *campaign) send(o *output, r *role, transport *http.Transport, request *http.Request, asked moment) (status int, body []byte, excused, ok bool) {
	inside := false // over an existing connection
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { inside = info.Reused },
	})
	client := &http.Client{Timeout: 10 * time.Second, Transport: transport}
	status, body, err := c.try(client, request.WithContext(ctx), asked)
	c.requests.Add(1)
	o.requests.Add(1)
	excused = c.excuses(asked) || !inside && c.excusesNewcomers(asked)
	switch {
	case err == nil:
		return status, body, excused, true
	case excused:
		c.cut.Add(1)
	default:
		c.complain("%s, %s: no answer: %v", o.name, r.name, err)
	}
	return 0, nil, excused, false
}

// try sends a request as often as a client would, and returns the answer.
func (c *campaign) try(client *http.Client, request *http.Request, asked moment) (status int, body []byte, err error) {
	for n := range attempts {
		if n > 0 {
			c.again.Add(1)
		}
		var response *http.Response
		if response, err = client.Do(request); err == nil {
			status = response.StatusCode
			body, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		if err == nil || c.excusesNewcomers(asked) {
			break
		}
	}
	return status, body, err
}

// timed records how long an answer took.
func (c *campaign) timed(o *output, r *role, asked moment) {
	took, lost := time.Since(asked.at), c.lost()-asked.lost
	if took-lost > patience {
		c.complain("%s, %s: an answer took %s, of which the machine was busy for %s", o.name, r.name, took, lost)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o.slowest = max(o.slowest, took)
	if asked.at.After(r.since) {
		r.slowest = max(r.slowest, took-lost)
	}
}

// judge compares an answer with what STS has issued.
func (c *campaign) judge(o *output, r *role, asked moment, status int, body []byte) {
	var a struct {
		RoleARN, AccessKeyID, SecretAccessKey, Token, Code string
		Expiration                                         time.Time
	}
	if err := json.Unmarshal(body, &a); err != nil {
		c.complain("%s, %s: answered %d, and not JSON: %v", o.name, r.name, status, err)
		return
	}
	if status != http.StatusOK {
		if a.AccessKeyID != "" {
			c.complain("%s, %s: answered %d with half a document", o.name, r.name, status)
		}
		c.refuses(o, r, asked, fmt.Sprint(status), a.Code)
		return
	}
	s, ok := c.given(o, r, asked, a.AccessKeyID, a.SecretAccessKey, a.Token)
	c.wantEnd(o, r, s, ok, a.Expiration)
	if ok && s.RoleARN != a.RoleARN {
		c.complain("%s, %s: answered with %s as the role of %s", o.name, r.name, a.RoleARN, s.ARN)
	}
}

// wantEnd compares the end of credentials in an answer with that of their session.
func (c *campaign) wantEnd(o *output, r *role, s issued, ok bool, said time.Time) {
	if ok && !said.Equal(s.Expiration.Truncate(time.Second)) {
		c.complain("%s, %s: answered with %s as the end of credentials that end at %s", o.name, r.name, said, s.Expiration)
	}
}

// refuses judges an answer without credentials.
func (c *campaign) refuses(o *output, r *role, asked moment, status, code string) {
	c.refused.Add(1)
	o.refused.Add(1)
	// A correct request is never refused as another one, whatever happens.
	was := r.was(asked)
	if was == present && !slices.Contains(cache.Reasons(), cache.Reason(code)) {
		c.complain("%s, %s: answered %s %q, which is not about STS", o.name, r.name, status, code)
	}
	if was == absent && !slices.Contains(notThere, code) {
		c.complain("%s, %s: answered %s %q, without the profile", o.name, r.name, status, code)
	}
	c.mayRefuse(o, r, asked, code)
}

// notThere are the codes of the answers to requests for a profile that does not exist: its token may open another one, or none.
var notThere = []string{"UnknownProfile", "AuthorizationRejected"}

// mayRefuse reports an error if there were valid credentials all the time from the request until now, whichever of its attempts
// was answered. A sidecar that was paused or ended need not answer, but if it does, this holds.
func (c *campaign) mayRefuse(o *output, r *role, asked moment, why string) {
	now := time.Now().Add(o.ahead)
	if r.was(asked) != present {
		return
	}
	c.mu.Lock()
	best, heldSince, skewed := r.best, r.heldSince, c.skewed || asked.skewed
	if o.ahead > 0 {
		heldSince = r.filedSince
	} else if asked.at.After(r.since) {
		r.refusals++
	}
	c.mu.Unlock()
	if heldSince.Before(asked.at) && now.Before(best.ends.Add(-early)) && now.Before(c.servedUntil(best, skewed)) {
		c.complain("%s, %s: asked at %s and refused with %s at %s, while credentials were valid until %s",
			o.name, r.name, asked.at.Format(clockTime), why, now.Format(clockTime), best.ends.Format(clockTime))
	}
}

// servedUntil is when the sidecar may stop serving a session. It counts the lifetime from before the exchange; if clocks differ,
// minus the second by which STS's Date may be rounded.
func (c *campaign) servedUntil(s issued, skewed bool) time.Time {
	life := faultLife
	if skewed {
		life -= time.Second
	}
	if time.Now().Add(early).After(s.ends) {
		return s.ends.Add(-early) // enough for nearly all refusals, without reading the logs
	}
	until := s.ends
	if counted := c.exchangeBegan(s).Add(life); counted.Before(until) {
		until = counted
	}
	return until.Add(-early)
}

// exchangeBegan is when the exchange for a session began at the earliest, by its duration in the log. The line itself comes later,
// after files have been written. If it is not in the log, because it is still to come or was lost with a killed sidecar, it is the
// second before the session was issued.
func (c *campaign) exchangeBegan(s issued) time.Time {
	came := s.ends.Add(s.Expiration.Sub(s.Expiration.Truncate(time.Second)) - faultLife)
	c.mu.Lock()
	logs := slices.Clone(c.logs)
	c.mu.Unlock()
	for _, name := range slices.Backward(logs) {
		log, err := os.ReadFile(name)
		if err != nil {
			panic(err) // it exists until the test ends
		}
		for text := range bytes.Lines(log) {
			var l struct {
				Time, Expiration time.Time
				Msg, Took        string
				AccessKey        string `json:"access_key"`
			}
			if json.Unmarshal(text, &l) == nil && strings.HasPrefix(l.Msg, refreshed) &&
				l.Expiration.Equal(s.Expiration.Truncate(time.Second)) && strings.HasSuffix(s.AccessKeyID, strings.TrimLeft(l.AccessKey, "*")) {
				if took, err := time.ParseDuration(l.Took); err == nil {
					return came.Add(-took)
				}
			}
		}
	}
	return s.ends.Add(-faultLife)
}

// refreshed is the beginning of the log line for a session.
const refreshed = "credentials refreshed"

const clockTime = time.TimeOnly + ".000"

// given records credentials that a client got for a profile, and reports an error if they are wrong.
func (c *campaign) given(o *output, r *role, asked moment, key, secret, token string) (s issued, ok bool) {
	if s, ok = c.check(o, r, asked, key, secret, token, false); !ok {
		return s, false
	}
	best := c.held(r)
	better := s.ends.After(best.ends)
	var until time.Time // then there may have been no valid ones for a moment
	if better {
		until = c.servedUntil(best, asked.skewed)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o.newest[r] = max(o.newest[r], s.number)
	if better && s.ends.After(r.best.ends) && asked.at.After(r.forgotten) {
		now := time.Now()
		if now.After(until) {
			r.heldSince = now
		}
		if now.Add(fileAhead).After(until) {
			r.filedSince = now
		}
		r.best = s
	}
	return s, true
}

// check reports an error if credentials of a profile are wrong. They may be stale, which is of a former role or ended, if what
// shows them could not be changed.
func (c *campaign) check(o *output, r *role, asked moment, key, secret, token string, stale bool) (s issued, ok bool) {
	s, ok = c.find(key)
	at := asked.at
	if stale {
		at = time.Time{}
	}
	switch {
	case !ok:
		c.complain("%s, %s: answered with credentials that STS has not issued", o.name, r.name)
		return s, false
	case !c.mayBe(r, s.Session, at):
		c.complain("%s, %s: answered with credentials of another role, %s", o.name, r.name, s.ARN)
		return s, false
	case r.was(asked) == absent:
		c.complain("%s, %s: answered with credentials, without the profile", o.name, r.name)
		return s, false
	case !c.signedRight(r, s.Session):
		c.complain("%s, %s: answered with credentials that a session of another role has signed for, %s", o.name, r.name, s.SourceRoleARN)
	case secret != s.SecretAccessKey || token != s.SessionToken:
		c.complain("%s, %s: answered with a mixture of credentials", o.name, r.name)
	case !stale && !s.ends.After(asked.at):
		c.complain("%s, %s: answered at %s with credentials that had ended at %s", o.name, r.name, asked.at.Format(clockTime), s.ends.Format(clockTime))
	}
	return s, true
}

// find returns the session with this key.
func (c *campaign) find(key string) (s issued, ok bool) {
	c.mu.Lock()
	s, ok = c.sessions[key]
	c.mu.Unlock()
	if ok {
		return s, true
	}
	for n, session := range c.STS.Issued() {
		if session.AccessKeyID == key {
			// STS's clock was ahead, behind or right when it was issued.
			ahead := time.Until(session.Expiration).Round(clockStep)
			s, ok = issued{Session: session, number: n, ends: session.Expiration.Truncate(time.Second).Add(-ahead)}, true
		}
	}
	if ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sessions[key] = s
	}
	return s, ok
}

// forget is called when a profile's sessions after best are lost with the sidecar, as without a state file.
func (c *campaign) forget(r *role, best issued) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.best, r.forgotten = best, time.Now()
}

// held is the profile's session with the latest end that clients have received.
func (c *campaign) held(r *role) issued {
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.best
}

// compareReadiness compares what the kubelet is told with what clients get: it is ready if all profiles are.
func (c *campaign) compareReadiness() {
	asked := c.now()
	const silent = 0
	get := func(request *http.Request) (status int, body []byte) {
		status, body, err := c.try(world.HTTPClient, request, asked)
		if err != nil && !c.excusesNewcomers(asked) {
			c.complain("no answer: %v", err)
		}
		return status, body
	}
	before, _ := get(c.readyz())
	statuses := []int{before}
	refused := 0
	var sessions []issued
	roles := c.presentRoles()
	for _, r := range roles {
		status, body := get(c.request(r))
		statuses = append(statuses, status)
		var a struct{ AccessKeyID, SecretAccessKey, Token string }
		json.Unmarshal(body, &a)
		if status != http.StatusOK {
			refused = status
		} else if s, ok := c.given(c.container, r, asked, a.AccessKeyID, a.SecretAccessKey, a.Token); ok {
			sessions = append(sessions, s)
		}
	}
	took := time.Since(asked.at)
	after, _ := get(c.readyz())
	if c.excusesNewcomers(asked) || slices.Contains(append(statuses, after), silent) || len(roles) == 0 || !slices.Equal(roles, c.presentRoles()) {
		return
	}
	c.readiness.Add(1)
	const least = faultLife / 10 // of a session must be left to be ready
	if before == http.StatusOK && after == http.StatusOK && refused != 0 && took < least {
		c.complain("ready before and after, and refused with %d in between", refused)
	}
	if before == http.StatusOK || after == http.StatusOK || len(sessions) < len(roles) {
		return
	}
	left := faultLife
	for _, s := range sessions {
		left = min(left, time.Until(c.servedUntil(s, asked.skewed)))
	}
	if left > least {
		c.complain("not ready before and after, with credentials for another %s in between", left)
	}
}

// presentRoles returns the profiles on which readiness depends; none while one comes or leaves.
func (c *campaign) presentRoles() (all []*role) {
	for _, r := range c.roles {
		switch r.presence.Load() % presences {
		case present:
			all = append(all, r)
		case leaving, coming:
			return nil
		}
	}
	return all
}

// readyz is the kubelet's request.
func (c *campaign) readyz() *http.Request {
	request, err := http.NewRequest(http.MethodGet, "http://"+c.sidecarOps()+"/readyz", nil)
	if err != nil {
		panic(err) // the address is a sidecar's
	}
	return request
}

// sidecarOps is the same address for all sidecars.
func (c *campaign) sidecarOps() string {
	for _, change := range c.changes {
		if address, ok := strings.CutPrefix(change, "IRSA_SIDECAR_OPS_LISTEN="); ok {
			return address
		}
	}
	panic("no address")
}

// attacks are requests that must never get credentials. TOKEN stands for the profile's token, so that the intended guard
// refuses them, and PATH for where it is served.
var attacks = []struct{ head, status string }{
	{"GET PATH HTTP/1.1|Host: evil.example|Authorization: TOKEN", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1.evil.example:PORT|Authorization: TOKEN", "403"},
	{"GET http://evil.examplePATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", "403"},
	{"GET http://127.0.0.1:PORTPATH HTTP/1.1|Host: evil.example|Authorization: TOKEN", "403"},
	{"GET PATH HTTP/1.0|Authorization: TOKEN", "403"},
	{"GET PATH HTTP/1.0|Host: 127.0.0.1:PORT|Authorization: TOKEN|Connection: keep-alive|Transfer-Encoding: chunked", "400"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|X: y| Content-Length: 5", "400"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|X-Forwarded-For: 10.0.0.7", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Via: 1.1 proxy", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Origin: http://evil.example", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Sec-Fetch-Site: cross-site", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKE", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: wrong|Authorization: TOKEN", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|authorization: wrong", "403"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Content-Length: 5|Transfer-Encoding: chunked||0|", "403"},
	{"POST PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN|Content-Length: 0", "405"},
	{"GET //v1//credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", "404"},
	{"GET /v1%2fcredentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", "404"},
	{"GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Host: evil.example|Authorization: TOKEN", "400"},
}

// attempt is an attack on a profile, by somebody who knows a token.
type attempt struct {
	on                       *role
	how, token, head, status string
	at                       string       // the address; a path is a socket's
	from                     *net.TCPAddr // nil: as the kernel chooses
}

func (a attempt) String() string { return a.on.name + " at " + a.at + ": " + a.head + a.how }

// attack makes one attack on each profile in turn: with what an attacker may know, as another user who knows everything, and
// with the tokens of other profiles.
func (c *campaign) attack(n int) {
	a := attempt{on: c.roles[n%len(c.roles)], at: c.containerAddress(), status: "403", head: "GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN"}
	asked := a.on.now(c)
	n /= len(c.roles)
	n %= len(attacks) + len(c.roles)
	if n < len(attacks) {
		a.token, a.head, a.status = a.on.token(), attacks[n].head, attacks[n].status
		c.mustResist(asked, a)
		return
	}
	knows := c.roles[n-len(attacks)]
	a.token = knows.token()
	switch {
	case knows.file != a.on.file:
		a.how = " with the token of " + knows.name
		c.mustResist(asked, a)
	case c.strange:
		a.how = " as another user"
		asUser(&syscall.Credential{Uid: 65533, Gid: 65533}, func() { c.mustResist(asked, a) })
	}
}

func (c *campaign) mustResist(asked moment, a attempt) {
	for range attempts {
		if c.resists(a, asked) || c.excusesNewcomers(asked) {
			return
		}
		c.again.Add(1)
	}
	c.complain("%s was not answered", a)
}

// resists reports whether there was an answer, and checks it.
func (c *campaign) resists(a attempt, asked moment) (answered bool) {
	network := "tcp"
	if strings.HasPrefix(a.at, "/") {
		network = "unix"
	}
	_, port, _ := net.SplitHostPort(a.at)
	dialer := net.Dialer{Timeout: 5 * time.Second}
	if a.from != nil {
		dialer.LocalAddr = a.from
	}
	conn, err := dialer.Dial(network, a.at)
	if err != nil {
		return true // there is no sidecar to attack
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, strings.NewReplacer("ADDRESS", a.at, "PORT", port, "PATH", a.on.path, "TOKEN", a.token, "|", "\r\n").Replace(a.head)+"\r\nConnection: close\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	switch {
	case bytes.Contains(answer, []byte("AccessKeyId")):
		c.complain("credentials were had from %s", a)
		c.mu.Lock()
		c.successes++
		c.mu.Unlock()
	case a.on.was(asked) != present: // what is wrong with a request for it does not matter
	case len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 "+a.status+" ")) && !bytes.HasPrefix(answer, []byte("HTTP/1.0 "+a.status+" ")):
		line, _, _ := strings.Cut(string(answer), "\r\n")
		c.complain("%s was answered with %s, want %s", a, line, a.status)
	case len(answer) > 0:
		c.attacks.Add(1)
		c.mu.Lock()
		c.attacked[a.at]++
		c.mu.Unlock()
	}
	return len(answer) > 0
}

// asUser calls a function as another user; nil is the test's own.
func asUser(user *syscall.Credential, do func()) {
	if user == nil {
		do()
		return
	}
	world.OnThread(func() {
		for _, set := range [][2]uintptr{{syscall.SYS_SETRESGID, uintptr(user.Gid)}, {syscall.SYS_SETRESUID, uintptr(user.Uid)}} {
			if _, _, errno := syscall.RawSyscall(set[0], set[1], set[1], set[1]); errno != 0 {
				panic(errno)
			}
		}
		do()
	})
}

// sdk is a real SDK, in its own program.
type sdk struct {
	name    string
	command clients.Command
	role    *role // that it asks for
	env     []string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	mu      sync.Mutex // held during a request

	asked, failed, excused int
}

// installation says how to start an SDK, or why there is none for its language.
type installation struct {
	Name    string
	Command clients.Command
	NotRun  string
}

// installedVariable names the file with the result of the installation in the process outside.
const installedVariable = "IRSA_TEST_INSTALLED"

// installSDKs installs one SDK for each language, the newest that works on this machine. It does so outside the namespaces,
// because it needs the network, and reads the result inside.
func installSDKs(t *testing.T) (all []installation) {
	t.Helper()
	if path := os.Getenv(installedVariable); path != "" {
		if err := json.Unmarshal(world.ReadFile(t, path), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	table, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installer := &clients.Installer{
		Table: table, Cache: filepath.Join(caches, "irsa-sidecar", "clients"), Drivers: world.Path(t, "integration/clients/drivers"),
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	for _, driver := range []string{"go-v2", "javascript-v3", "botocore"} {
		found := installation{Name: driver, NotRun: "there is no such client"}
		for _, candidate := range slices.Backward(table.Clients) {
			if candidate.Driver != driver || !candidate.TokenFile || candidate.From == "debian" {
				continue
			}
			command, err := installer.Install(t.Context(), candidate)
			if err != nil {
				found.NotRun = err.Error()
				if world.Required(candidate.From) {
					t.Errorf("not installed, although IRSA_TEST_REQUIRE has %s: %v", candidate.From, err)
				}
				continue
			}
			found = installation{Name: candidate.Name + " " + command.Version, Command: command}
			break
		}
		all = append(all, found)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "installed.json")
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(installedVariable, path)
	return all
}

// startSDKs starts the installed ones.
func (c *campaign) startSDKs(t *testing.T, installed []installation, dir string) {
	for i, one := range installed {
		if one.NotRun != "" {
			c.leaveOut(one.Name + " takes no part: " + one.NotRun)
			continue
		}
		r := c.roles[i%len(c.roles)]
		s := &sdk{name: one.Name, command: one.Command, role: r, env: []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8", "AWS_REGION=" + world.Region, "AWS_EC2_METADATA_DISABLED=true",
			"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + c.base + r.path, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + r.file,
		}}
		s.start(t)
		t.Cleanup(s.stop)
		c.sdks = append(c.sdks, s)
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

// stop ends the program, and the connections that it keeps for each restart of its SDK.
func (s *sdk) stop() {
	s.in.Close()
	stuck := time.AfterFunc(stuckAfter, func() { s.cmd.Process.Kill() })
	defer stuck.Stop()
	s.cmd.Wait()
}

// askSDK restarts an SDK, so that it asks the sidecar.
func (c *campaign) askSDK(s *sdk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.role.now(c)
	stuck := time.AfterFunc(stuckAfter, func() { s.cmd.Process.Kill() })
	defer stuck.Stop()
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
		c.given(c.container, s.role, asked, a.AccessKeyID, a.SecretAccessKey, a.SessionToken)
		return
	}
	s.failed++
	// On a node whose clock is wrong, an SDK discards good credentials, and AWS would refuse what it signs.
	if now := c.now(); asked.skewed || now.skewed || c.excusesNewcomers(asked) {
		s.excused++
	} else {
		c.mayRefuse(c.container, s.role, asked, s.name+": "+a.Error)
	}
}
