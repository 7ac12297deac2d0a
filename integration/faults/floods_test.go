//go:build faults

package faults

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	// floodLasts is longer than all of the server's time limits.
	floodLasts = 6 * time.Second

	// A kubelet's probe in the manifests has five seconds, and Prometheus ten.
	sdkLimit, probeLimit, scrapeLimit = world.SDKPatience, 5 * time.Second, 10 * time.Second

	// floodAttempts is how often a client without an answer asks: SDKs retry at once, and a kubelet acts after six failures.
	// Here all share two cores with the crowd. The second attempt must succeed.
	floodAttempts = 3
)

const (
	metadataPath       = "/latest/meta-data/iam/security-credentials/app"
	rightMetadataToken = "X-aws-ec2-metadata-token: TOKEN\r\n" // which the test replaces
	wrongMetadataToken = "X-aws-ec2-metadata-token: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\r\n"
)

// floods are the crowds; the last one combines the worst.
var floods = []struct {
	name   string
	crowds []world.Crowd
}{
	{"nobody", nil},
	{"250 read /metrics, compressed", []world.Crowd{{Many: 250, At: world.OpsOf, Send: world.RepeatRequest(1, "/metrics", "Accept-Encoding: gzip\r\n"), Read: true}}},
	{"256 never read /metrics", []world.Crowd{{Many: 256, At: world.OpsOf, Send: world.RepeatRequest(400, "/metrics", "")}}},
	{"256 never read /livez", []world.Crowd{{Many: 256, At: world.OpsOf, Send: world.RepeatRequest(400, "/livez", "")}}},
	{"256 never read the page", []world.Crowd{{Many: 256, At: world.AdminOf, Send: world.RepeatRequest(400, "/", "")}}},
	{"9,000 ask for /metrics twice, never read, and stay", []world.Crowd{{Many: 150, At: world.OpsOf, Send: world.RepeatRequest(2, "/metrics", ""), Keep: true}}},
	{"9,000 ask once, never read, and stay", []world.Crowd{{Many: 150, At: world.CredentialsOf, Send: world.RepeatRequest(1, "/v1/credentials", world.RightToken+"Connection: close\r\n"), Keep: true}}},
	{"300 with a body that does not come", []world.Crowd{{Many: 300, At: world.CredentialsOf, Send: world.RepeatRequest(1, "/v1/credentials", "Content-Length: 100000\r\n")}, {Many: 300, At: world.OpsOf, Send: world.RepeatRequest(1, "/livez", "Content-Length: 100000\r\n")}}},
	{"300 send an empty line after an answer", []world.Crowd{{Many: 300, At: world.CredentialsOf, Send: world.RepeatRequest(1, "/v1/credentials", world.RightToken) + "\r\n"}, {Many: 300, At: world.OpsOf, Send: world.RepeatRequest(1, "/livez", "") + "\r\n"}}},
	{"250 read the page", []world.Crowd{{Many: 250, At: world.AdminOf, Send: world.RepeatRequest(1, "/", ""), Read: true}}},
	{"1,500 with a wrong token never read", []world.Crowd{{Many: 1500, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.WrongToken)}}},
	{"300 with a wrong token never read", []world.Crowd{{Many: 300, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.WrongToken)}}},
	{"1,500 with the right token never read", []world.Crowd{{Many: 1500, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)}}},
	{"300 with the right token never read", []world.Crowd{{Many: 300, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)}}},
	{"1,500 without a token never read", []world.Crowd{{Many: 1500, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", "")}}},
	{"1,000 at each listener say nothing", []world.Crowd{{Many: 1000, At: world.CredentialsOf, Send: ""}, {Many: 1000, At: world.OpsOf, Send: ""}, {Many: 1000, At: world.AdminOf, Send: ""}}},
	{"1,000 at each listener with half a head of 7 KiB", []world.Crowd{{Many: 1000, At: world.CredentialsOf, Send: world.HalfAHead}, {Many: 1000, At: world.OpsOf, Send: world.HalfAHead}, {Many: 1000, At: world.AdminOf, Send: world.HalfAHead}}},
	{"1,500 at the ECS listener never read", []world.Crowd{{Many: 1500, At: world.ECSOf, Send: world.RepeatRequest(400, "/v1/credentials", "")}}},
	{"1,500 at the socket never read", []world.Crowd{{Many: 1500, At: world.SocketOf, Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)}}},
	{"9,000 at the socket ask once, never read, and stay", []world.Crowd{{Many: 150, At: world.SocketOf, Send: world.RepeatRequest(1, "/v1/credentials", world.RightToken+"Connection: close\r\n"), Keep: true}}},
	{"1,000 at the ECS listener and 1,000 at the socket with half a head of 7 KiB", []world.Crowd{{Many: 1000, At: world.ECSOf, Send: world.HalfAHead}, {Many: 1000, At: world.SocketOf, Send: world.HalfAHead}}},
	{"1,500 at the IMDS listener with the right token never read", []world.Crowd{{Many: 1500, At: world.IMDSOf, Send: world.RepeatRequest(400, metadataPath, rightMetadataToken)}}},
	{"1,500 at the IMDS listener with a wrong token never read", []world.Crowd{{Many: 1500, At: world.IMDSOf, Send: world.RepeatRequest(400, metadataPath, wrongMetadataToken)}}},
	{"300 at the IMDS listener with a wrong token never read", []world.Crowd{{Many: 300, At: world.IMDSOf, Send: world.RepeatRequest(400, metadataPath, wrongMetadataToken)}}},
	{"1,500 at the IMDS listener without a token never read", []world.Crowd{{Many: 1500, At: world.IMDSOf, Send: world.RepeatRequest(400, metadataPath, "")}}},
	{"1,500 at the IMDS listener ask for tokens and never read", []world.Crowd{{Many: 1500, At: world.IMDSOf, Send: world.RepeatTokenRequest(400, "")}}},
	{"250 at the IMDS listener ask for tokens and read", []world.Crowd{{Many: 250, At: world.IMDSOf, Send: world.RepeatTokenRequest(1, ""), Read: true}}},
	{"9,000 at the IMDS listener ask for a token once, never read, and stay", []world.Crowd{{Many: 150, At: world.IMDSOf, Send: world.RepeatTokenRequest(1, "Connection: close\r\n"), Keep: true}}},
	{"1,000 at the IMDS listener ask for a token with a body that does not end", []world.Crowd{{Many: 1000, At: world.IMDSOf, Send: world.RepeatTokenRequest(1, "Transfer-Encoding: chunked\r\n")}}},
	{"300 at the IMDS listener with a body that does not come", []world.Crowd{{Many: 300, At: world.IMDSOf, Send: world.RepeatTokenRequest(1, "Content-Length: 100000\r\n")}}},
	{"1,000 at the IMDS listener with half a head of 7 KiB", []world.Crowd{{Many: 1000, At: world.IMDSOf, Send: world.HalfAHead}}},
	{"1,000 at the IMDS listener say nothing", []world.Crowd{{Many: 1000, At: world.IMDSOf, Send: ""}}},
	{"all of the worst at once", []world.Crowd{
		{Many: 600, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)}, {Many: 300, At: world.CredentialsOf, Send: world.HalfAHead},
		{Many: 250, At: world.OpsOf, Send: world.RepeatRequest(400, "/metrics", "")}, {Many: 150, At: world.OpsOf, Send: world.RepeatRequest(1, "/metrics", "Accept-Encoding: gzip\r\n"), Read: true},
		{Many: 250, At: world.AdminOf, Send: world.RepeatRequest(400, "/", "")},
	}},
	{"all of the worst at once, at all listeners", []world.Crowd{
		{Many: 230, At: world.CredentialsOf, Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)}, {Many: 110, At: world.CredentialsOf, Send: world.HalfAHead},
		{Many: 230, At: world.ECSOf, Send: world.RepeatRequest(400, "/v1/credentials", "")}, {Many: 110, At: world.ECSOf, Send: world.HalfAHead},
		{Many: 230, At: world.IMDSOf, Send: world.RepeatRequest(400, metadataPath, rightMetadataToken)}, {Many: 110, At: world.IMDSOf, Send: world.RepeatTokenRequest(1, "Transfer-Encoding: chunked\r\n")},
		{Many: 230, At: world.SocketOf, Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)}, {Many: 110, At: world.SocketOf, Send: world.HalfAHead},
		{Many: 250, At: world.OpsOf, Send: world.RepeatRequest(400, "/metrics", "")}, {Many: 150, At: world.OpsOf, Send: world.RepeatRequest(1, "/metrics", "Accept-Encoding: gzip\r\n"), Read: true},
		{Many: 250, At: world.AdminOf, Send: world.RepeatRequest(400, "/", "")},
	}},
}

// TestFloods sends crowds to a sidecar in a cgroup with the memory limit of the manifests. It must keep running, use less than
// two thirds of the limit, and answer well-behaved clients.
func TestFloods(t *testing.T) {
	probe, err := world.NewMemoryGroup(world.PodMemory)
	if err != nil {
		world.NotRun(t, "cgroups", "this machine has no cgroup for us: "+err.Error())
	}
	probe.Remove()
	var report bytes.Buffer
	table := tabwriter.NewWriter(&report, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "credentials\tother outputs\tprobe\tscrape\tasked again\tpeak, of 48 MiB\tlived\t")
	var names []string
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			w := world.New(t, ststest.Options{})
			memory, err := world.NewMemoryGroup(world.PodMemory)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(memory.Remove) // after the sidecar has ended
			w.Start = func(cmd *exec.Cmd) error {
				cmd.SysProcAttr = &syscall.SysProcAttr{}
				return memory.Start(cmd)
			}
			changes := []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + world.CrowdToken}
			outputs := strings.Contains(f.name, "all listeners") // on besides the container endpoint
			metadata := outputs || strings.Contains(f.name, "IMDS")
			if metadata {
				changes = append(changes, "IRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0")
			}
			if outputs || strings.Contains(f.name, "socket") || strings.Contains(f.name, "ECS") {
				changes = append(changes, "IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_SOCKET="+filepath.Join(world.SharedDir(t), "s"))
			}
			s := w.Serve(t, changes...)
			world.Eventually(t, world.Soon, "credentials", func() bool { return s.Ask(t, "Authorization", world.CrowdToken).Valid() })

			ctx, stop := context.WithTimeout(t.Context(), floodLasts)
			defer stop()
			token := ""
			if metadata {
				token = s.MetadataToken(t)
			}
			var crowd sync.WaitGroup
			for _, f := range f.crowds {
				f.Send = strings.ReplaceAll(f.Send, "TOKEN", token)
				for range f.Many {
					crowd.Go(func() { f.Visit(ctx, f.At(s)) })
				}
			}
			var good sync.WaitGroup
			clients := []*goodClient{
				{url: s.BaseURL + "/v1/credentials", token: world.CrowdToken, limit: sdkLimit},
				{url: "http://" + s.OpsAddress + "/livez", limit: probeLimit},
				{url: "http://" + s.OpsAddress + "/metrics", limit: scrapeLimit},
			}
			if s.ECSAddress != "" {
				clients = append(clients, &goodClient{url: "http://" + s.ECSAddress + "/v1/credentials", limit: sdkLimit},
					&goodClient{url: "http://localhost/v1/credentials", socket: s.Socket, token: world.CrowdToken, limit: sdkLimit})
			}
			if metadata {
				at := "http://" + s.IMDSAddress
				clients = append(clients, &goodClient{url: at + metadataPath, header: "X-aws-ec2-metadata-token", token: token, limit: sdkLimit},
					&goodClient{method: http.MethodPut, url: at + "/latest/api/token", header: "X-aws-ec2-metadata-token-ttl-seconds", token: "600", limit: sdkLimit})
			}
			for _, c := range clients {
				good.Go(func() { c.ask(ctx) })
			}
			good.Wait()
			stop()
			crowd.Wait()

			lived := "yes"
			select {
			case <-s.Ended:
				lived = "no"
				t.Errorf("it ended: %v", s.Err)
			default:
			}
			again, others := 0, time.Duration(0)
			for i, c := range clients {
				again += c.again
				if i > 2 {
					others = max(others, c.slowest)
				}
				if c.slowest > 2*c.limit || c.unanswered > 0 || c.answered == 0 {
					t.Errorf("%s %s: %d answers, %d without (%v), the slowest after %s of %s", cmp.Or(c.method, http.MethodGet), c.url, c.answered, c.unanswered, c.err, c.slowest, c.limit)
				}
			}
			peak := memory.Peak()
			if peak > world.PodMemory/3*2/(1<<20) {
				t.Errorf("memory went up to %.1f MiB, of %d", peak, world.PodMemory>>20)
			}
			ms := func(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%.1f MiB\t%s\t\n", ms(clients[0].slowest), ms(others), ms(clients[1].slowest), ms(clients[2].slowest), again, peak, lived)
			names = append(names, f.name)
			if lived == "yes" {
				world.Eventually(t, world.Soon, "credentials after the flood", func() bool { return s.Ask(t, "Authorization", world.CrowdToken).Valid() })
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

// goodClient asks like an SDK, a kubelet or Prometheus: on its own connection, and reading the answer.
type goodClient struct {
	method, url   string // GET if it is empty
	header, token string // the header is Authorization if it is empty
	socket        string // to connect to instead, as another user than the crowd
	limit         time.Duration

	answered, again, unanswered int
	slowest                     time.Duration // answer, counted from the first attempt
	err                         error         // of the last attempt without an answer
}

func (c *goodClient) ask(ctx context.Context) {
	transport := &http.Transport{DisableKeepAlives: true}
	if c.socket != "" {
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			if os.Geteuid() == 0 {
				return world.DialAs(1234, "unix", c.socket)
			}
			return net.Dial("unix", c.socket)
		}
	}
	client := &http.Client{Transport: transport, Timeout: c.limit}
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
		world.Pause(ctx, 10*time.Millisecond)
	}
}

func (c *goodClient) once(client *http.Client) error {
	request, err := http.NewRequest(c.method, c.url, nil)
	if err != nil {
		return err
	}
	if c.token != "" {
		request.Header.Set(cmp.Or(c.header, "Authorization"), c.token)
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
