//go:build faults

package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/faults"
)

// possible are the kinds of faults that this machine lets us make. What it does not is said.
func (c *campaign) possible() []faultKind {
	return slices.DeleteFunc(slices.Clone(faultKinds), func(k faultKind) bool {
		why := ""
		switch {
		case k.name == squeezed && c.memory == nil:
			why = "no cgroup for us"
		case k.name == unreadable && !c.strange:
			why = "the sidecar has our own user, for we are not root"
		}
		if why != "" {
			fmt.Printf("NOT RUN: %s: %s\n", k.name, why)
		}
		return why != ""
	})
}

const (
	squeezed   = "hardly any memory"
	unreadable = "the token under lock and key"
)

type play = func(c *campaign, t *testing.T, hold func())

// The name of STS is looked for again when /etc/hosts is five seconds old: that is Go's.
const hostsAge = 5 * time.Second

var faultKinds = []faultKind{
	// What STS does, and what answers in its place.
	{name: "STS hangs up", reason: cache.EndpointUnreachable, play: answers(ststest.Drop)},
	{name: "STS says nothing", reason: cache.EndpointTimeout, play: answers(ststest.Hang), least: refreshBy + 6*time.Second},
	{name: "STS slow", play: answers(ststest.Fault{Latency: 700 * time.Millisecond})},
	{name: "STS throttles", reason: cache.Throttling, play: answers(ststest.Throttling)},
	{name: "STS 500", reason: cache.ServiceUnavailable, play: answers(ststest.InternalFailure)},
	{name: "STS 503", reason: cache.ServiceUnavailable, play: answers(ststest.ServiceUnavailable)},
	{name: "STS refuses", reason: cache.AccessDenied, play: answers(ststest.AccessDenied)},
	{name: "STS knows no such token", reason: cache.InvalidIdentityToken, play: answers(ststest.NotValidated)},
	{name: "STS cannot reach the issuer", reason: cache.IDPCommunicationError, play: answers(ststest.IDPCommunicationError)},
	{name: "a role that is none", reason: cache.ValidationError, play: answers(ststest.InvalidARN)},
	{name: "a region switched off", reason: cache.RegionDisabledException, play: answers(ststest.RegionDisabled("123456789012"))},
	{name: "a portal's page", reason: cache.NotAnSTSEndpoint, play: answers(ststest.HTMLPage(200))},
	{name: "a block page", reason: cache.NotAnSTSEndpoint, play: answers(ststest.HTMLPage(403))},
	{name: "a proxy wants a password", reason: cache.ProxyRefused, play: answers(ststest.HTMLPage(407))},
	{name: "a balancer without STS", reason: cache.ServiceUnavailable, play: answers(ststest.HTMLPage(503))},
	{name: "an empty answer", reason: cache.NotAnSTSEndpoint, play: answers(ststest.EmptyOK)},
	{name: "an answer without credentials", reason: cache.NotAnSTSEndpoint, play: answers(ststest.NoCredentials)},
	{name: "XML that is cut", reason: cache.NotAnSTSEndpoint, play: answers(ststest.Fault{Status: 200, Body: `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIACUT`})},
	{name: "an answer of noise", reason: cache.NotAnSTSEndpoint, play: answers(ststest.Fault{Status: 200, Body: "\x00\xff<<<&&&"})},
	{name: "STS's clock ahead", play: clock(7 * time.Minute)},
	{name: "STS's clock behind", play: clock(-7 * time.Minute)},

	// The way to it.
	{name: "connections are reset", reason: cache.EndpointUnreachable, play: leads(faults.Reset)},
	{name: "connections are silent", reason: cache.EndpointTimeout, play: leads(faults.Silent), least: refreshBy + 6*time.Second},
	{name: "no TLS but noise", reason: cache.NotAnSTSEndpoint, play: leads(faults.Garbled)},
	{name: "an answer that is cut on the way", reason: cache.EndpointUnreachable, play: leads(faults.Cut)},
	{name: "an answer that crawls", play: leads(faults.Crawl)},
	{name: "an impostor", reason: cache.EndpointNotTrusted, play: leads(faults.Impostor)},
	{name: "a certificate that has expired", reason: cache.EndpointNotTrusted, play: leads(faults.Expired)},
	{name: "a certificate for another name", reason: cache.EndpointNotTrusted, play: leads(faults.Misnamed)},
	{name: "TLS of yesterday", reason: cache.EndpointUnreachable, play: leads(faults.OldTLS)},
	{name: "no name server", reason: cache.EndpointUnreachable, play: named(""), least: refreshBy + hostsAge + 2*time.Second, lag: hostsAge},
	{name: "the name leads astray", reason: cache.EndpointUnreachable, play: named("127.0.0.2"), least: refreshBy + hostsAge + 2*time.Second, lag: hostsAge},
	{name: "killed without a name server", reason: cache.EndpointUnreachable, least: refreshBy, lag: hostsAge, play: func(c *campaign, t *testing.T, hold func()) {
		c.setHosts(t, "")
		c.restart(t, syscall.SIGKILL)
		hold()
		c.setHosts(t, "127.0.0.1")
	}},

	// The token.
	{name: "the token expired", reason: cache.ExpiredTokenException, play: holds(func(t *testing.T) string { return newToken(t, ststest.Claims{Lifetime: -time.Minute}) })},
	{name: "the token for somebody else", reason: cache.InvalidIdentityToken, play: holds(func(t *testing.T) string { return newToken(t, ststest.Claims{Audience: []string{"other"}}) })},
	{name: "no token in the file", reason: cache.TokenFileMalformed, play: holds(func(*testing.T) string { return "" })},
	{name: "garbage in the token file", reason: cache.TokenFileMalformed, play: holds(func(*testing.T) string { return "not.a.token\n\n" })},
	{name: "two tokens in the file", reason: cache.TokenFileMalformed, play: holds(func(t *testing.T) string {
		return newToken(t, ststest.Claims{}) + "\n" + newToken(t, ststest.Claims{})
	})},
	{name: "a mebibyte in the token file", reason: cache.TokenFileMalformed, play: holds(func(*testing.T) string { return strings.Repeat("0123456789abcdef", 1<<16) })},
	{name: "the token file gone", reason: cache.TokenFileMissing, play: replaced(func(string) error { return nil })},
	{name: "a directory for a token file", reason: cache.TokenFileUnreadable, play: replaced(func(path string) error { return os.Mkdir(path, 0o755) })},
	{name: "a pipe for a token file", reason: cache.TokenFileUnreadable, play: replaced(func(path string) error { return syscall.Mkfifo(path, 0o644) })},
	{name: "the token file a link to itself", reason: cache.TokenFileUnreadable, play: replaced(func(path string) error { return os.Symlink(path, path) })},
	{name: unreadable, reason: cache.TokenFileUnreadable, play: func(c *campaign, t *testing.T, hold func()) {
		if err := os.Chmod(c.token.Path(), 0); err != nil {
			t.Fatal(err)
		}
		hold()
	}},
	{name: "a token written over in halves", play: func(c *campaign, t *testing.T, _ func()) {
		token := newToken(t, ststest.Claims{})
		for end := time.Now().Add(faultLife); time.Now().Before(end); {
			err := os.WriteFile(c.token.Path(), []byte(token[:len(token)/2]), 0o644)
			if err = errors.Join(err, os.WriteFile(c.token.Path(), []byte(token), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{name: "a storm of rotations", play: func(c *campaign, t *testing.T, _ func()) {
		token := newToken(t, ststest.Claims{})
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			if err := c.token.Write(token); err != nil {
				t.Fatal(err)
			}
		}
	}},

	// The process.
	{name: "stopped for a moment", play: suspended(300 * time.Millisecond)},
	{name: "stopped for longer than a session", play: suspended(faultLife + time.Second)},
	{name: "killed", play: func(c *campaign, t *testing.T, _ func()) { c.restart(t, syscall.SIGKILL) }},
	{name: "killed while STS is away", reason: cache.EndpointUnreachable, play: func(c *campaign, t *testing.T, hold func()) {
		c.sts.Break(ststest.Drop)
		c.restart(t, syscall.SIGKILL)
		hold()
		c.sts.Mend()
	}},
	{name: "killed at any moment, again and again", play: func(c *campaign, t *testing.T, _ func()) {
		c.away(func() {
			c.kill(t, syscall.SIGKILL)
			for range 6 {
				p := startAs(t, c.as, program(t), c.with(c.changes...))
				time.Sleep(time.Duration(c.luck.Int64N(int64(60 * time.Millisecond))))
				p.cmd.Process.Kill()
				<-p.ended
			}
			c.launch(t)
		})
	}},
	{name: "told to end", play: func(c *campaign, t *testing.T, _ func()) { c.restart(t, syscall.SIGTERM) }},
	{name: "told to end twice", play: func(c *campaign, t *testing.T, _ func()) {
		c.away(func() {
			c.sidecar.terminate(t)
			c.kill(t, syscall.SIGTERM)
			c.launch(t)
		})
	}},
	{name: "asked for its goroutines", play: func(c *campaign, t *testing.T, _ func()) { c.wantNothingLeft(t) }},
	{name: "no file descriptors left", reason: cache.TokenFileUnreadable, play: func(c *campaign, t *testing.T, hold func()) {
		// Nobody new can be let in, and so nobody is expected to be.
		c.away(func() {
			c.way.Set(faults.Clear) // what is open to STS is needed anew
			c.limit(t, 1)
			hold()
			c.limit(t, 1<<10)
		})
	}},
	{name: squeezed, play: func(c *campaign, t *testing.T, hold func()) {
		c.away(func() {
			c.memory.squeeze()
			hold()
			if err := c.memory.ease(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-c.sidecar.ended: // the kernel has ended it, and the kubelet starts another
				c.launch(t)
			default:
			}
		})
	}},

	// What it writes.
	{name: "the state file damaged", play: spoilt(func(file string) error {
		return os.WriteFile(file, []byte("irsa-sidecar state 1 ?\n"), 0o600)
	})},
	{name: "the state file cut", play: spoilt(func(file string) error {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		return os.Truncate(file, info.Size()/2)
	})},
	{name: "the state file a link", play: spoilt(func(file string) error {
		return errors.Join(os.Remove(file), os.Symlink("/etc/passwd", file))
	})},
	{name: "the state file gone", play: spoilt(os.Remove)},
	{name: "something in the way of the state file", play: func(c *campaign, t *testing.T, hold func()) {
		part := filepath.Join(c.volume, ".state.new") // as a directory that is not empty
		if err := os.MkdirAll(filepath.Join(part, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		hold()
		if err := os.RemoveAll(part); err != nil {
			t.Fatal(err)
		}
	}},
	{name: "the disk full", play: func(c *campaign, t *testing.T, hold func()) {
		defer c.fill(t)()
		hold()
	}},
	{name: "the disk full, and killed", play: func(c *campaign, t *testing.T, hold func()) {
		defer c.fill(t)()
		hold()
		c.restart(t, syscall.SIGKILL)
		c.forget() // what could not be written is lost
	}},
	{name: "the disk read-only", play: func(c *campaign, t *testing.T, hold func()) {
		defer c.readOnly(t)()
		hold()
	}},
	{name: "the disk read-only, and killed", play: func(c *campaign, t *testing.T, hold func()) {
		defer c.readOnly(t)()
		hold()
		c.restart(t, syscall.SIGKILL)
		c.forget()
	}},

	// Who asks.
	{name: "the authorization token replaced", play: func(c *campaign, t *testing.T, _ func()) {
		token := fmt.Sprintf("another-authorization-token-%d", c.luck.Uint64())
		next := c.authorizationFile() + ".next"
		err := os.WriteFile(next, []byte(token), 0o444)
		if err = errors.Join(err, os.Rename(next, c.authorizationFile())); err != nil {
			t.Fatal(err)
		}
		c.readAuthorization(t)
	}},
	{name: "the authorization token gone", play: func(c *campaign, t *testing.T, hold func()) {
		// The SDKs read it every time, and have nothing to show meanwhile: none is asked.
		for _, s := range c.sdks {
			s.mu.Lock()
			defer s.mu.Unlock()
		}
		if err := os.Rename(c.authorizationFile(), c.authorizationFile()+".away"); err != nil {
			t.Fatal(err)
		}
		hold()
		if err := os.Rename(c.authorizationFile()+".away", c.authorizationFile()); err != nil {
			t.Fatal(err)
		}
	}},
	{name: "500 connections that say nothing", play: crowd("")},
	{name: "500 connections with half a request", play: crowd("GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")},
	{name: "500 connections with 4 KiB of noise", play: func(c *campaign, t *testing.T, hold func()) {
		noise, raw := rand.NewChaCha8([32]byte{1}), make([]byte, 4<<10)
		noise.Read(raw)
		crowd(string(raw))(c, t, hold)
	}},
}

func answers(f ststest.Fault) play {
	return func(c *campaign, _ *testing.T, hold func()) {
		c.sts.Break(f)
		hold()
		c.sts.Mend()
	}
}

func leads(s faults.State) play {
	return func(c *campaign, _ *testing.T, hold func()) {
		c.way.Set(s)
		hold()
		c.way.Set(faults.Clear)
	}
}

func named(ip string) play {
	return func(c *campaign, t *testing.T, hold func()) {
		c.setHosts(t, ip)
		c.way.Set(faults.Clear) // what is open needs no name
		hold()
		c.setHosts(t, "127.0.0.1")
	}
}

// holds replaces the token by something else.
func holds(content func(*testing.T) string) play {
	return func(c *campaign, t *testing.T, hold func()) {
		if err := c.token.Write(content(t)); err != nil {
			t.Fatal(err)
		}
		hold()
	}
}

// replaced puts something else in the place of the token's file.
func replaced(by func(path string) error) play {
	return func(c *campaign, t *testing.T, hold func()) {
		path := c.token.Path()
		if err := errors.Join(os.Rename(path, path+".away"), by(path)); err != nil {
			t.Fatal(err)
		}
		hold()
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
}

func clock(ahead time.Duration) play {
	set := func(c *campaign, t *testing.T, to time.Duration, skewed bool) {
		c.mu.Lock()
		c.ahead, c.skewed = to, skewed
		c.mu.Unlock()
		c.rotate(t, ststest.Claims{IssuedAt: time.Now().Add(to)})
	}
	return func(c *campaign, t *testing.T, hold func()) {
		c.rest(t) // what was issued by the old clock is known by now
		set(c, t, ahead, true)
		hold()
		c.rest(t)
		set(c, t, 0, true)
		c.rest(t)
		c.rest(t) // the first may have been on its way
		set(c, t, 0, false)
	}
}

func suspended(length time.Duration) play {
	return func(c *campaign, t *testing.T, _ func()) {
		c.away(func() {
			for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
				if err := c.sidecar.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				if signal == syscall.SIGSTOP {
					time.Sleep(length)
				}
			}
		})
	}
}

// spoilt kills the sidecar, and does something to the file that it leaves.
func spoilt(spoil func(file string) error) play {
	return func(c *campaign, t *testing.T, _ func()) {
		c.away(func() {
			c.kill(t, syscall.SIGKILL)
			if err := spoil(c.stateFile()); err != nil {
				t.Fatal(err)
			}
			c.forget()
			c.launch(t)
		})
		c.forget()
	}
}

// crowd is many who ask for nothing, beside those who do.
func crowd(say string) play {
	return func(c *campaign, t *testing.T, hold func()) {
		for range 500 {
			conn, err := net.DialTimeout("tcp", strings.TrimPrefix(c.base, "http://"), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write([]byte(say)) // what has been closed by now has been closed for good reason
		}
		hold()
	}
}

// fill leaves no room on the volume, until it is told to.
func (c *campaign) fill(t *testing.T) (empty func()) {
	path := filepath.Join(c.volume, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 1<<10))
	}
	f.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// readOnly lets nobody write to the volume, until it is told to.
func (c *campaign) readOnly(t *testing.T) (writable func()) {
	remount := func(flags uintptr) {
		eventually(t, soon, "a remount of the volume", func() bool { // busy, while something is being written
			err := syscall.Mount("", c.volume, "", syscall.MS_REMOUNT|flags, "")
			if err != nil && !errors.Is(err, syscall.EBUSY) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	remount(syscall.MS_RDONLY)
	return func() { remount(0) }
}

// limit sets how many file descriptors the sidecar may have, prlimit(2): those that are open stay.
func (c *campaign) limit(t *testing.T, most uint64) {
	t.Helper()
	limit, pid := syscall.Rlimit{Cur: most, Max: 1 << 10}, uintptr(c.sidecar.cmd.Process.Pid)
	var errno syscall.Errno
	asUser(c.as, func() { // who else would need CAP_SYS_RESOURCE
		_, _, errno = syscall.RawSyscall6(syscall.SYS_PRLIMIT64, pid, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	})
	if errno != 0 {
		t.Fatal(errno)
	}
}

// wantNothingLeft has nobody ask, and the sidecar print what it has left of all that there was.
func (c *campaign) wantNothingLeft(t *testing.T) {
	c.gate.Lock()
	defer c.gate.Unlock()
	for _, transport := range c.idle {
		transport.CloseIdleConnections()
	}
	client.CloseIdleConnections()
	for _, s := range c.sdks {
		s.stop()
	}
	const few = 1 // another connection to STS
	eventually(t, soon, "the end of all connections", func() bool { return descriptors(t, c.sidecar) <= c.descriptors+few })
	if n := c.trace(t); n > c.goroutines+3*few {
		t.Errorf("%d goroutines are left where %d were at the start", n, c.goroutines)
	}
	c.launch(t)
	for _, s := range c.sdks {
		s.start(t)
	}
}

// memoryGroup is a cgroup that limits memory.
type memoryGroup struct{ dir, limit string }

// newMemoryGroup makes one, of version 1 or 2.
func newMemoryGroup() (*memoryGroup, error) {
	name := "irsa-sidecar-test-" + strconv.Itoa(os.Getpid())
	g := &memoryGroup{filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		g = &memoryGroup{filepath.Join("/sys/fs/cgroup", name), "memory.max"}
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	if err := g.ease(); err != nil {
		g.remove()
		return nil, err
	}
	return g, nil
}

func (g *memoryGroup) set(limit int) error {
	return os.WriteFile(filepath.Join(g.dir, g.limit), []byte(strconv.Itoa(limit)), 0)
}

// ease gives what a Pod has.
func (g *memoryGroup) ease() error { return g.set(memoryLimit) }

func (g *memoryGroup) take(pid int) error {
	return os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// squeeze takes the limit down as far as the kernel lets us. Version 2 has it that whoever needs more ends.
func (g *memoryGroup) squeeze() {
	for limit := memoryLimit; limit > 4<<20; limit -= 256 << 10 {
		if g.set(limit) != nil {
			return
		}
	}
}

func (g *memoryGroup) remove() { os.Remove(g.dir) }
