//go:build faults

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

const (
	// podMemory is the memory limit of the manifests, in bytes; a crowd may bring the sidecar to two thirds of it.
	podMemory = 48 << 20

	// floodLasts is longer than anything that the server has patience with.
	floodLasts = 6 * time.Second

	// A kubelet's probe in the manifests has five seconds, and Prometheus ten.
	sdkLimit, probeLimit, scrapeLimit = sdkPatience, 5 * time.Second, 10 * time.Second

	// floodAttempts is how often a client asks that gets no answer: SDKs do so at once, a kubelet counts six before it acts,
	// and here all share two cores with the crowd. It is to have its answer at the second attempt.
	floodAttempts = 3
)

// flood is a crowd at one listener.
type flood struct {
	many int
	at   func(*sidecar) string // the listener
	send string                // by each of them, at once
	read bool                  // they read the answer, and ask again
	keep bool                  // they keep a connection that they have sent all to, and open the next
	seen *atomic.Int64         // counts their connections; nil does not
}

// again is a request that is repeated: TOKEN is the right authorization token.
func again(n int, path, header string) string {
	return strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+header+"\r\n", n)
}

const floodToken = "the-authorization-token-of-the-flood"

var (
	credentialsOf = func(s *sidecar) string { return strings.TrimPrefix(s.base, "http://") }
	opsOf         = func(s *sidecar) string { return s.ops }
	adminOf       = func(s *sidecar) string { return s.admin }

	rightToken = "Authorization: " + floodToken + "\r\n"
	wrongToken = "Authorization: not-the-authorization-token\r\n"
	halfAHead  = "GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + strings.Repeat("x", 7<<10)
)

// floods are the crowds; the last one is all of the worst at once.
var floods = []struct {
	name   string
	crowds []flood
}{
	{"nobody", nil},
	{"250 read /metrics, compressed", []flood{{many: 250, at: opsOf, send: again(1, "/metrics", "Accept-Encoding: gzip\r\n"), read: true}}},
	{"256 never read /metrics", []flood{{many: 256, at: opsOf, send: again(400, "/metrics", "")}}},
	{"256 never read /livez", []flood{{many: 256, at: opsOf, send: again(400, "/livez", "")}}},
	{"256 never read the page", []flood{{many: 256, at: adminOf, send: again(400, "/", "")}}},
	{"9,000 ask for /metrics twice, never read, and stay", []flood{{many: 150, at: opsOf, send: again(2, "/metrics", ""), keep: true}}},
	{"9,000 ask once, never read, and stay", []flood{{many: 150, at: credentialsOf, send: again(1, "/v1/credentials", rightToken+"Connection: close\r\n"), keep: true}}},
	{"300 with a body that does not come", []flood{{many: 300, at: credentialsOf, send: again(1, "/v1/credentials", "Content-Length: 100000\r\n")}, {many: 300, at: opsOf, send: again(1, "/livez", "Content-Length: 100000\r\n")}}},
	{"300 send an empty line after an answer", []flood{{many: 300, at: credentialsOf, send: again(1, "/v1/credentials", rightToken) + "\r\n"}, {many: 300, at: opsOf, send: again(1, "/livez", "") + "\r\n"}}},
	{"250 read the page", []flood{{many: 250, at: adminOf, send: again(1, "/", ""), read: true}}},
	{"1,500 with a wrong token never read", []flood{{many: 1500, at: credentialsOf, send: again(400, "/v1/credentials", wrongToken)}}},
	{"300 with a wrong token never read", []flood{{many: 300, at: credentialsOf, send: again(400, "/v1/credentials", wrongToken)}}},
	{"1,500 with the right token never read", []flood{{many: 1500, at: credentialsOf, send: again(400, "/v1/credentials", rightToken)}}},
	{"300 with the right token never read", []flood{{many: 300, at: credentialsOf, send: again(400, "/v1/credentials", rightToken)}}},
	{"1,500 without a token never read", []flood{{many: 1500, at: credentialsOf, send: again(400, "/v1/credentials", "")}}},
	{"1,000 at each listener say nothing", []flood{{many: 1000, at: credentialsOf, send: ""}, {many: 1000, at: opsOf, send: ""}, {many: 1000, at: adminOf, send: ""}}},
	{"1,000 at each listener with half a head of 7 KiB", []flood{{many: 1000, at: credentialsOf, send: halfAHead}, {many: 1000, at: opsOf, send: halfAHead}, {many: 1000, at: adminOf, send: halfAHead}}},
	{"all of the worst at once", []flood{
		{many: 600, at: credentialsOf, send: again(400, "/v1/credentials", rightToken)}, {many: 300, at: credentialsOf, send: halfAHead},
		{many: 250, at: opsOf, send: again(400, "/metrics", "")}, {many: 150, at: opsOf, send: again(1, "/metrics", "Accept-Encoding: gzip\r\n"), read: true},
		{many: 250, at: adminOf, send: again(400, "/", "")},
	}},
}

// TestFloods sends crowds against a sidecar in a cgroup with the memory limit of the manifests. It lives, stays below two
// thirds of it, and answers those who behave.
func TestFloods(t *testing.T) {
	probe, err := newMemoryGroup(podMemory)
	if err != nil {
		notRun(t, "cgroups", "this machine has no cgroup for us: "+err.Error())
	}
	probe.remove()
	var report bytes.Buffer
	table := tabwriter.NewWriter(&report, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "credentials\tprobe\tscrape\tasked again\tpeak, of 48 MiB\tlived\t")
	var names []string
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t, ststest.Options{})
			memory, err := newMemoryGroup(podMemory)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(memory.remove) // after the sidecar has ended
			w.start = func(cmd *exec.Cmd) error {
				cmd.SysProcAttr = &syscall.SysProcAttr{}
				return memory.start(cmd)
			}
			s := w.serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+floodToken)
			eventually(t, soon, "credentials", func() bool { return s.ask(t, "Authorization", floodToken).valid() })

			ctx, stop := context.WithTimeout(t.Context(), floodLasts)
			defer stop()
			var crowd sync.WaitGroup
			for _, f := range f.crowds {
				for range f.many {
					crowd.Go(func() { f.visit(ctx, f.at(s)) })
				}
			}
			var good sync.WaitGroup
			clients := []*goodClient{
				{url: s.base + "/v1/credentials", token: floodToken, limit: sdkLimit},
				{url: "http://" + s.ops + "/livez", limit: probeLimit},
				{url: "http://" + s.ops + "/metrics", limit: scrapeLimit},
			}
			for _, c := range clients {
				good.Go(func() { c.ask(ctx) })
			}
			good.Wait()
			stop()
			crowd.Wait()

			lived := "yes"
			select {
			case <-s.ended:
				lived = "no"
				t.Errorf("it ended: %v", s.err)
			default:
			}
			again := 0
			for _, c := range clients {
				again += c.again
				if c.slowest > 2*c.limit || c.unanswered > 0 || c.answered == 0 {
					t.Errorf("GET %s: %d answers, %d without (%v), the slowest after %s of %s", c.url, c.answered, c.unanswered, c.err, c.slowest, c.limit)
				}
			}
			peak := memory.peak()
			if peak > podMemory/3*2/(1<<20) {
				t.Errorf("memory went up to %.1f MiB, of %d", peak, podMemory>>20)
			}
			ms := func(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%.1f MiB\t%s\t\n", ms(clients[0].slowest), ms(clients[1].slowest), ms(clients[2].slowest), again, peak, lived)
			names = append(names, f.name)
			if lived == "yes" {
				eventually(t, soon, "credentials after the flood", func() bool { return s.ask(t, "Authorization", floodToken).valid() })
			}
		})
	}
	table.Flush()
	lines := strings.SplitAfter(report.String(), "\n")
	fmt.Print("the slowest answer to who behaves:\n" + lines[0])
	for i, name := range names {
		fmt.Print(strings.TrimSuffix(lines[i+1], "\n") + "  " + name + "\n")
	}
}

// visit comes again and again until ctx ends.
func (f flood) visit(ctx context.Context, address string) {
	var dialer net.Dialer
	kept := 0
	for ctx.Err() == nil {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			pause(ctx, 100*time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		if !f.read {
			conn.(*net.TCPConn).SetReadBuffer(2 << 10)
		}
		if f.seen != nil {
			f.seen.Add(1)
		}
		_, err = io.WriteString(conn, f.send) // as much as is taken: it may block for as long as the connection is there
		for f.read && err == nil {
			if _, err = conn.Read(make([]byte, 32<<10)); err == nil {
				_, err = io.WriteString(conn, f.send)
			}
		}
		if err == nil && f.keep && kept < 60 {
			kept++ // until ctx closes it
			continue
		}
		if err == nil { // it has sent all, and looks at nothing
			pause(ctx, time.Second)
		}
		stop()
		conn.Close()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// goodClient asks as an SDK, a kubelet or Prometheus does: on a connection of its own, and reading.
type goodClient struct {
	url, token string
	limit      time.Duration

	answered, again, unanswered int
	slowest                     time.Duration // of those that were answered, from the first attempt on
	err                         error         // of the last attempt without an answer
}

func (c *goodClient) ask(ctx context.Context) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: c.limit}
	for ctx.Err() == nil {
		begun, err := time.Now(), errors.New("not asked yet")
		for try := 0; err != nil && try < floodAttempts; try++ {
			if try > 0 {
				c.again, c.err = c.again+1, err
			}
			err = c.once(client)
		}
		if err != nil {
			c.err, c.unanswered = err, c.unanswered+1
		} else {
			c.answered++
			c.slowest = max(c.slowest, time.Since(begun))
		}
		pause(ctx, 10*time.Millisecond)
	}
}

func (c *goodClient) once(client *http.Client) error {
	request, err := http.NewRequest(http.MethodGet, c.url, nil)
	if err != nil {
		return err
	}
	if c.token != "" {
		request.Header.Set("Authorization", c.token)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}
