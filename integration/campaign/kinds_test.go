//go:build faults

package campaign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/campaign/proxy"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// impossible says why this machine does not allow a fault; "" if it does.
func (c *campaign) impossible(kind faultKind) (why string) {
	switch {
	case kind.name == squeezed && c.memory == nil:
		return "no cgroup for us"
	case kind.name == unreadable && !c.strange:
		return "the sidecar has our own user, for we are not root"
	case kind.name == stuck && !c.strange:
		return "only root is asked before a file is opened"
	}
	return ""
}

const (
	squeezed   = "hardly any memory"
	unreadable = "the token under lock and key"
	stuck      = "the disk stuck"
)

// clockSkew is in the log if the clocks differ.
const clockSkew = `"clock_skew"`

type play = func(c *campaign, t *testing.T, hold func())

// Go reads /etc/hosts again after five seconds.
const hostsAge = 5 * time.Second

var faultKinds = []faultKind{
	// STS, and what answers instead of it.
	{name: "STS hangs up", reason: cache.EndpointUnreachable, play: answers(ststest.Drop)},
	{name: "STS says nothing", reason: cache.EndpointTimeout, play: answers(ststest.Hang), least: refreshBy + 6*time.Second},
	{name: "STS slow", met: hadCalls, play: answers(ststest.Fault{Latency: 700 * time.Millisecond})},
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
	{name: "STS's clock ahead", says: clockSkew, play: clock(clockStep)},
	{name: "STS's clock behind", says: clockSkew, play: clock(-clockStep)},

	// The network between the sidecar and STS.
	{name: "connections are reset", reason: cache.EndpointUnreachable, play: through(proxy.Reset)},
	{name: "connections are silent", reason: cache.EndpointTimeout, play: through(proxy.Silent), least: refreshBy + 6*time.Second},
	{name: "no TLS but noise", reason: cache.NotAnSTSEndpoint, play: through(proxy.Garbled)},
	{name: "an answer that is cut on the way", reason: cache.EndpointUnreachable, play: through(proxy.Cut)},
	{name: "an answer that crawls", met: hasConnected, state: proxy.Crawl, play: through(proxy.Crawl)},
	{name: "an impostor", reason: cache.EndpointNotTrusted, play: through(proxy.Impostor)},
	{name: "a certificate that has expired", reason: cache.EndpointNotTrusted, play: through(proxy.Expired)},
	{name: "a certificate for another name", reason: cache.EndpointNotTrusted, play: through(proxy.Misnamed)},
	{name: "TLS of yesterday", reason: cache.EndpointUnreachable, play: through(proxy.OldTLS)},
	{name: "no name server", reason: cache.EndpointUnreachable, play: named(""), least: refreshBy + hostsAge + 2*time.Second, lag: hostsAge},
	{name: "the name leads astray", reason: cache.EndpointUnreachable, play: named("127.0.0.2"), least: refreshBy + hostsAge + 2*time.Second, lag: hostsAge},
	{name: "killed without a name server", reason: cache.EndpointUnreachable, least: refreshBy, lag: hostsAge, ends: true, play: func(c *campaign, t *testing.T, hold func()) {
		c.setHosts(t, "")
		c.restart(t, syscall.SIGKILL)
		hold()
		c.setHosts(t, "127.0.0.1")
	}},

	// The token.
	{name: "the token expired", reason: cache.ExpiredTokenException, play: holds(func(t *testing.T) string { return world.NewToken(t, ststest.Claims{Lifetime: -time.Minute}) })},
	{name: "the token for somebody else", reason: cache.InvalidIdentityToken, play: holds(func(t *testing.T) string { return world.NewToken(t, ststest.Claims{Audience: []string{"other"}}) })},
	{name: "no token in the file", reason: cache.TokenFileMalformed, play: holds(func(*testing.T) string { return "" })},
	{name: "garbage in the token file", reason: cache.TokenFileMalformed, play: holds(func(*testing.T) string { return "not.a.token\n\n" })},
	{name: "two tokens in the file", reason: cache.TokenFileMalformed, play: holds(func(t *testing.T) string {
		return world.NewToken(t, ststest.Claims{}) + "\n" + world.NewToken(t, ststest.Claims{})
	})},
	{name: "a mebibyte in the token file", reason: cache.TokenFileMalformed, play: holds(func(*testing.T) string { return strings.Repeat("0123456789abcdef", 1<<16) })},
	{name: "the token file gone", reason: cache.TokenFileMissing, play: replaced(func(string) error { return nil })},
	{name: "a directory for a token file", reason: cache.TokenFileUnreadable, play: replaced(func(path string) error { return os.Mkdir(path, 0o755) })},
	{name: "a pipe for a token file", reason: cache.TokenFileUnreadable, play: replaced(func(path string) error { return syscall.Mkfifo(path, 0o644) })},
	{name: "the token file a link to itself", reason: cache.TokenFileUnreadable, play: replaced(func(path string) error { return os.Symlink(path, path) })},
	{name: unreadable, reason: cache.TokenFileUnreadable, play: func(c *campaign, t *testing.T, hold func()) {
		if err := os.Chmod(c.Token.Path(), 0); err != nil {
			t.Fatal(err)
		}
		hold()
	}},
	{name: "a token written over in halves", reason: cache.TokenFileMalformed, least: 2 * faultLife, play: meanwhile(func(c *campaign, token string) error {
		err := os.WriteFile(c.Token.Path(), []byte(token[:len(token)/2]), 0o644)
		time.Sleep(20 * time.Millisecond) // so that most reads find it like this
		return errors.Join(err, os.WriteFile(c.Token.Path(), []byte(token), 0o644))
	})},
	{name: "a storm of rotations", met: hadCalls, play: meanwhile(func(c *campaign, token string) error { return c.Token.Write(token) })},

	// The process.
	{name: "stopped for a moment", play: suspended(300 * time.Millisecond)},
	{name: "stopped for longer than a session", play: suspended(faultLife + time.Second)},
	{name: "killed", ends: true, play: func(c *campaign, t *testing.T, _ func()) { c.restart(t, syscall.SIGKILL) }},
	{name: "killed while STS is away", reason: cache.EndpointUnreachable, ends: true, play: func(c *campaign, t *testing.T, hold func()) {
		c.STS.Break(ststest.Drop)
		c.restart(t, syscall.SIGKILL)
		hold()
		c.STS.Repair()
	}},
	{name: "killed at any moment, again and again", ends: true, play: func(c *campaign, t *testing.T, _ func()) {
		c.whileAway(func() {
			c.kill(t, syscall.SIGKILL)
			for range 6 {
				p := world.StartProgramBy(t, c.Start, world.Program(t), c.EnvWith(c.changes...))
				time.Sleep(time.Duration(c.luck.Int64N(int64(60 * time.Millisecond))))
				p.Cmd.Process.Kill()
				<-p.Ended
				c.lived(p)
			}
			c.launch(t)
		})
	}},
	{name: "told to end", ends: true, play: func(c *campaign, t *testing.T, _ func()) {
		c.whileAway(func() {
			c.sidecar.Terminate(t)
			c.sidecar.WantStopped(t)
			c.launch(t)
		})
	}},
	{name: "told to end twice", ends: true, play: func(c *campaign, t *testing.T, _ func()) {
		c.whileAway(func() {
			c.sidecar.Terminate(t)
			c.sidecar.Cmd.Process.Signal(syscall.SIGTERM) // it may have stopped by now
			c.wantGone(t)
			c.launch(t)
		})
	}},
	{name: "asked for its goroutines", ends: true, play: func(c *campaign, t *testing.T, _ func()) { c.wantNothingLeft(t) }},
	{name: "no file descriptors left", reason: cache.TokenFileUnreadable, play: func(c *campaign, t *testing.T, hold func()) {
		c.whileClosed(func() {
			c.proxy.Set(proxy.Clear) // so that new connections to STS are needed
			c.limit(t, 1)
			hold()
			c.limit(t, 1<<10)
		})
	}},
	{name: "SIGHUP again and again", met: hadReloads, play: meanwhile(func(c *campaign, _ string) error {
		time.Sleep(10 * time.Millisecond) // a hundred a second
		return c.sidecar.Cmd.Process.Signal(syscall.SIGHUP)
	})},
	{name: "nobody reads the log", ends: true, met: logStuck, play: withLog(func(driver *world.LogPipe, hold func()) {
		driver.Stopped.Lock()
		defer driver.Stopped.Unlock()
		hold()
	})},
	{name: "nobody can read the log any more", ends: true, met: logStuck, play: withLog(func(driver *world.LogPipe, hold func()) {
		driver.Reader.Close()
		hold()
	})},
	{name: squeezed, ends: true, met: func(_ *campaign, s *step) bool { return s.squeezed > 0 }, play: func(c *campaign, t *testing.T, hold func()) {
		c.whileAway(func() {
			c.memory.Squeeze()
			hold()
			if err := c.memory.Ease(); err != nil {
				t.Fatal(err)
			}
			// The kernel may have killed it, and the kubelet would start another.
			world.Eventually(t, world.Soon, "the sidecar, or its end", func() bool {
				select {
				case <-c.sidecar.Ended:
					c.launch(t)
				default:
				}
				response, err := world.HTTPClient.Get("http://" + c.sidecarOps() + "/livez")
				if err != nil {
					return false
				}
				response.Body.Close()
				return response.StatusCode == http.StatusOK
			})
		})
	}},

	// Files that it writes.
	{name: "the state file damaged", ends: true, says: damagedEntries, play: spoilt(func(file string) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text[len(text)/2] ^= 1 // in the entry of one profile
		return os.WriteFile(file, text, 0o600)
	})},
	{name: "the state file cut", ends: true, says: damagedEntries, play: spoilt(func(file string) error {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		return os.Truncate(file, info.Size()/2)
	})},
	{name: "the state file of another version", ends: true, says: "is not a state file of this version", play: spoilt(func(file string) error {
		return os.WriteFile(file, []byte("irsa-sidecar state 2 ?\n"), 0o600)
	})},
	{name: "the state file readable by all", ends: true, says: "may be accessed by users other than its owner", play: spoilt(func(file string) error {
		return os.Chmod(file, 0o644)
	})},
	{name: "the state file gone", ends: true, says: "no state file yet", play: spoilt(os.Remove)},
	{name: "something in the way of the state file", says: notKept, play: func(c *campaign, t *testing.T, hold func()) {
		part := filepath.Join(c.volume, ".state.new") // as a directory that is not empty
		if err := os.MkdirAll(filepath.Join(part, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		hold()
		if err := os.RemoveAll(part); err != nil {
			t.Fatal(err)
		}
	}},
	{name: stuck, says: "writing the state file is slow", play: func(c *campaign, t *testing.T, hold func()) {
		defer world.Disk{Dir: c.volume}.Stick(t, ".state.new")()
		hold()
	}},
	{name: "the disk full", says: notKept, play: func(c *campaign, t *testing.T, hold func()) {
		defer c.fill(t)()
		hold()
	}},
	{name: "the disk full, and killed", ends: true, says: notKept, play: unkept((*campaign).fill)},
	{name: "the disk read-only", says: notKept, play: func(c *campaign, t *testing.T, hold func()) {
		defer c.readOnly(t)()
		hold()
	}},
	{name: "the disk read-only, and killed", ends: true, says: notKept, play: unkept((*campaign).readOnly)},

	// Callers.
	{name: "an authorization token replaced", play: func(c *campaign, t *testing.T, _ func()) {
		token := fmt.Sprintf("another-authorization-token-%d", c.luck.Uint64())
		files := c.tokenFiles()
		file := files[c.luck.IntN(len(files))]
		next := file + ".next"
		c.gate.Lock() // a token that is replaced soon is refused at once
		defer c.gate.Unlock()
		err := os.WriteFile(next, []byte(token), 0o444)
		if err = errors.Join(err, os.Rename(next, file)); err != nil {
			t.Fatal(err)
		}
		c.readAuthorizations(t)
	}},
	{name: "the authorization tokens gone", play: func(c *campaign, t *testing.T, hold func()) {
		// The SDKs read it every time and would fail, so they are not asked.
		for _, s := range c.sdks {
			s.mu.Lock()
			defer s.mu.Unlock()
		}
		rename := func(end, to string) {
			for _, file := range c.tokenFiles() {
				if err := os.Rename(file+end, file+to); err != nil {
					t.Fatal(err)
				}
			}
		}
		rename("", ".away")
		hold()
		rename(".away", "")
	}},
	{name: "500 connections that say nothing", met: crowded, play: crowd("")},
	{name: "500 connections with half a request", met: crowded, play: crowd("GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")},
	{name: "250 who read the metrics, compressed", met: madeRoom, play: flooded(world.Crowd{Many: 250, At: world.OpsOf, Send: world.RepeatRequest(1, "/metrics", "Accept-Encoding: gzip\r\n"), Read: true})},
	{name: "256 who never read the metrics", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: world.OpsOf, Send: world.RepeatRequest(400, "/metrics", "")})},
	{name: "256 who never read the page", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: world.AdminOf, Send: world.RepeatRequest(400, "/", "")})},
	{name: "256 who never read, with the right token", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)})},
	{name: "256 who never read, with a wrong token", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.WrongToken)})},
	{name: "256 who never read, without a token", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", "")})},
	{name: "500 connections with 4 KiB of noise", play: func(c *campaign, t *testing.T, hold func()) {
		noise, raw := rand.NewChaCha8([32]byte{1}), make([]byte, 4<<10)
		noise.Read(raw)
		crowd(string(raw))(c, t, hold)
	}},
}

func answers(f ststest.Fault) play {
	return func(c *campaign, _ *testing.T, hold func()) {
		c.STS.Break(f)
		hold()
		c.STS.Repair()
	}
}

// meanwhile repeats a function, with a good token.
func meanwhile(do func(c *campaign, token string) error) play {
	return func(c *campaign, t *testing.T, hold func()) {
		token := world.NewToken(t, ststest.Claims{})
		over, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			for {
				select {
				case <-over:
					ended <- nil
					return
				default:
				}
				if err := do(c, token); err != nil {
					ended <- err
					return
				}
			}
		}()
		hold()
		close(over)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

// How the test notices the effect of a fault that is not in the log.
func hadCalls(_ *campaign, s *step) bool { return s.calls > 0 }

func hasConnected(_ *campaign, s *step) bool { return s.connections > 0 }

func crowded(c *campaign, _ *step) bool { return c.mostDescriptors > c.descriptors+mostConnections/2 }

func hadReloads(c *campaign, s *step) bool {
	return slices.ContainsFunc(s.lines, func(l line) bool { return l.Msg == "reloading" })
}

func logStuck(c *campaign, _ *step) bool { return c.dropped > 0 }

// cameAgain is true if a crowd has made more connections than it has callers, and than may be open.
func cameAgain(c *campaign, _ *step) bool { return c.seen.Load() > 256+mostConnections }

// madeRoom is true if some of a crowd whose callers stay, because they read, were disconnected for others, and connected again.
func madeRoom(c *campaign, _ *step) bool { return c.seen.Load() > 256 }

// damagedEntries is the log message if not all entries of the state file can be read.
const damagedEntries = "ignoring the state file's damaged entries"

// notKept is the log message if the state file cannot be written.
const notKept = "cannot write the state file"

func through(s proxy.State) play {
	return func(c *campaign, _ *testing.T, hold func()) {
		c.proxy.Set(s)
		hold()
		c.proxy.Set(proxy.Clear)
	}
}

func named(ip string) play {
	return func(c *campaign, t *testing.T, hold func()) {
		c.setHosts(t, ip)
		c.proxy.Set(proxy.Clear) // open connections need no name
		hold()
		c.setHosts(t, "127.0.0.1")
	}
}

// holds replaces the token with something else.
func holds(content func(*testing.T) string) play {
	return func(c *campaign, t *testing.T, hold func()) {
		if err := c.Token.Write(content(t)); err != nil {
			t.Fatal(err)
		}
		hold()
	}
}

// replaced replaces the token's file with something else.
func replaced(by func(path string) error) play {
	return func(c *campaign, t *testing.T, hold func()) {
		path := c.Token.Path()
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
		c.Rotate(t, ststest.Claims{IssuedAt: time.Now().Add(to)})
	}
	return func(c *campaign, t *testing.T, hold func()) {
		c.rest(t) // the sessions of the old clock are known by now
		set(c, t, ahead, true)
		hold()
		c.rest(t)
		set(c, t, 0, true)
		c.rest(t)
		c.rest(t) // the first may have been in progress
		set(c, t, 0, false)
	}
}

func suspended(length time.Duration) play {
	return func(c *campaign, t *testing.T, _ func()) {
		c.whileAway(func() {
			for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
				if err := c.sidecar.Cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				if signal == syscall.SIGSTOP {
					c.wantStopped(t)
					time.Sleep(length)
				}
			}
		})
	}
}

// wantStopped waits until all threads of the sidecar are stopped.
func (c *campaign) wantStopped(t *testing.T) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", c.sidecar.Cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatal("no threads: ", err)
	}
	for _, thread := range threads {
		world.Eventually(t, world.Soon, "a thread that is stopped", func() bool {
			stat, err := os.ReadFile(thread)
			return err != nil || bytes.Contains(stat, []byte(") T")) // it may have ended
		})
	}
}

// spoilt kills the sidecar, and changes its state file.
func spoilt(spoil func(file string) error) play {
	return func(c *campaign, t *testing.T, _ func()) {
		c.whileAway(func() {
			c.kill(t, syscall.SIGKILL)
			if err := spoil(c.stateFile()); err != nil {
				t.Fatal(err)
			}
			for _, r := range c.roles {
				c.forget(r, issued{})
			}
			c.launch(t)
		})
	}
}

// unkept kills the sidecar while it cannot write: only what was written before is kept.
func unkept(spoil func(c *campaign, t *testing.T) (repair func())) play {
	return func(c *campaign, t *testing.T, hold func()) {
		kept := make(map[*role]issued)
		for _, r := range c.roles {
			kept[r] = c.held(r)
		}
		defer spoil(c, t)()
		hold()
		c.whileAway(func() {
			c.kill(t, syscall.SIGKILL)
			for r, session := range kept {
				c.forget(r, session)
			}
			c.launch(t)
		})
	}
}

// flooded is a crowd of callers, most of which do not read.
func flooded(f world.Crowd) play {
	return func(c *campaign, t *testing.T, hold func()) {
		f := f
		f.Send = strings.ReplaceAll(f.Send, world.CrowdToken, c.roles[0].token())
		f.Seen = &c.seen
		c.seen.Store(0)
		ctx, stop := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		defer crowd.Wait()
		defer stop()
		for range f.Many {
			crowd.Go(func() { f.Visit(ctx, f.At(c.sidecar)) })
		}
		hold()
	}
}

// withLog starts the sidecar with the test's log driver, and another sidecar afterwards.
func withLog(spoil func(driver *world.LogPipe, hold func())) play {
	return func(c *campaign, t *testing.T, hold func()) {
		start, changes := c.Start, c.changes
		defer func() { c.Start, c.changes = start, changes }()
		var driver world.LogPipe
		c.Start = driver.Between(start)
		c.changes = append(slices.Clone(changes), "IRSA_SIDECAR_LOG_LEVEL=debug") // a line for every request
		c.restart(t, syscall.SIGTERM)
		spoil(&driver, func() {
			c.rest(t)
			hold()
			_, metrics := world.HTTPGet(t, "http://"+c.sidecar.OpsAddress+"/metrics")
			if _, after, found := strings.Cut(string(metrics), "\nirsa_sidecar_log_lines_dropped_total "); found {
				fmt.Sscan(after, &c.dropped)
			}
		})
		c.Start, c.changes = start, changes
		c.restart(t, syscall.SIGTERM)
	}
}

// crowd is many clients of all outputs that send no complete request. They are disconnected after two seconds, and connect again.
func crowd(say string) play {
	return func(c *campaign, t *testing.T, hold func()) {
		var conns []net.Conn
		defer func() {
			for _, conn := range conns {
				conn.Close()
			}
		}()
		n := 0
		comes := func() error {
			n++
			network, address := c.listener(n)
			conn, err := net.DialTimeout(network, address, 5*time.Second)
			if err == nil {
				conns = append(conns, conn)
				conn.Write([]byte(say)) // a connection that is closed by now was closed for a good reason
			}
			return err
		}
		for range 500 {
			if err := comes(); err != nil {
				t.Fatal(err)
			}
		}
		meanwhile(func(c *campaign, _ string) error {
			conns[0].Close()
			conns = conns[1:]
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.sidecar.Cmd.Process.Pid))
			if err != nil {
				return err
			}
			c.mostDescriptors = max(c.mostDescriptors, len(open))
			time.Sleep(2 * time.Millisecond) // each of them once a second
			return comes()
		})(c, t, hold)
	}
}

func (c *campaign) fill(t *testing.T) (empty func())        { return fill(t, c.volume) }
func (c *campaign) readOnly(t *testing.T) (writable func()) { return readOnly(t, c.volume) }

// fill leaves no room on a volume until the returned function is called.
func fill(t *testing.T, volume string) (empty func()) {
	path := filepath.Join(volume, "filler")
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

// readOnly makes a volume read-only until the returned function is called.
func readOnly(t *testing.T, volume string) (writable func()) {
	remount := func(flags uintptr) {
		world.Eventually(t, world.Soon, "a remount of the volume", func() bool { // it fails during a write
			err := syscall.Mount("", volume, "", syscall.MS_REMOUNT|flags, "")
			if err != nil && !errors.Is(err, syscall.EBUSY) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	remount(syscall.MS_RDONLY)
	return func() { remount(0) }
}

// limit sets the limit of file descriptors of the sidecar, prlimit(2). Open ones are kept.
func (c *campaign) limit(t *testing.T, most uint64) {
	t.Helper()
	limit, pid := syscall.Rlimit{Cur: most, Max: 1 << 10}, uintptr(c.sidecar.Cmd.Process.Pid)
	var errno syscall.Errno
	asUser(c.user, func() { // other users would need CAP_SYS_RESOURCE
		_, _, errno = syscall.RawSyscall6(syscall.SYS_PRLIMIT64, pid, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	})
	if errno != 0 {
		t.Fatal(errno)
	}
}

// few is what else may be open: another connection to STS.
const few = 1

// quietly stops the clients, and waits until the sidecar has no more open files than at the start.
func (c *campaign) quietly(t *testing.T, then func()) {
	c.gate.Lock()
	defer c.gate.Unlock()
	defer func() {
		if t.Failed() { // the SDKs have ended then
			c.stopped.Store(true)
		}
	}()
	for _, transport := range c.idle {
		transport.CloseIdleConnections()
	}
	world.HTTPClient.CloseIdleConnections()
	for _, s := range c.sdks {
		s.stop()
	}
	world.Eventually(t, world.Soon, "the end of all connections", func() bool { return descriptors(t, c.sidecar) <= c.descriptors+few })
	then()
	for _, s := range c.sdks {
		s.start(t)
	}
}

// wantNothingLeft stops the clients, waits until the sidecar has returned its memory, and dumps the remaining goroutines.
func (c *campaign) wantNothingLeft(t *testing.T) {
	c.quietly(t, func() {
		own := c.sidecar.Memory(t, "RssAnon")
		world.Eventually(t, world.Soon, fmt.Sprintf("memory given back, of %.1f MiB", own), func() bool {
			own = c.sidecar.Memory(t, "RssAnon")
			return own < restingLimit
		})
		c.resting = max(c.resting, own)
		c.whileAway(func() {
			if n := c.trace(t); n > c.goroutines+3*few {
				c.fail(t, "%d goroutines are left where %d were at the start", n, c.goroutines)
			}
			c.launch(t)
		})
	})
}
