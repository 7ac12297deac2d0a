//go:build clients

package clients_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// installPatience bounds the installation of one client: the first of a release of Debian brings all.
const installPatience = 5 * time.Minute

// installedVariable names the file in which the process outside says what it has installed.
const installedVariable = "IRSA_TEST_INSTALLED"

// TestClients has real SDKs and tools, old and new, get their credentials from the real binary and from
// nowhere else. `make integration` installs and runs them all, CLIENT=name those with name in theirs.
// What they sent and what they made of the answers is printed at the end.
//
// Each runs on a node of its own that would give it the node's role, in a network that nobody else is in.
// Where the machine does not allow namespaces there is no node, and what needs one is not run.
func TestClients(t *testing.T) {
	table, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	chosen := table.Clients
	if only := strings.ToLower(os.Getenv("IRSA_TEST_CLIENT")); only != "" {
		chosen = slices.DeleteFunc(slices.Clone(chosen), func(c clients.Client) bool {
			return !strings.Contains(strings.ToLower(c.ID()), only)
		})
	}
	if len(chosen) == 0 {
		var names []string
		for _, c := range table.Clients {
			names = append(names, c.ID())
		}
		t.Fatalf("no client is called %q; there are\n  %s", os.Getenv("IRSA_TEST_CLIENT"), strings.Join(names, "\n  "))
	}
	installed := install(t, table, chosen)
	inside, noNode := world.Reexec(t, 0)
	if noNode == nil && !inside {
		return
	}
	if noNode != nil && world.Required("namespaces") {
		t.Errorf("no nodes, although IRSA_TEST_REQUIRE has namespaces: %v", noNode)
	}
	world.Program(t) // built before the clock of anything ticks
	reports := make([]*report, len(chosen))
	t.Run("each", func(t *testing.T) {
		for i, c := range chosen {
			reports[i] = &report{Client: c, installation: installed[i], noNode: noNode}
			t.Run(c.ID(), func(t *testing.T) {
				t.Parallel()
				reports[i].fill(t)
			})
		}
	})
	fmt.Print(summary(reports, noNode))
	if !slices.ContainsFunc(reports, func(r *report) bool { return r.NotRun == "" }) {
		t.Error("no client at all could be run")
	}
}

// installation is a client as it is started, or why it cannot be.
type installation struct {
	Command clients.Command
	NotRun  string
}

// install installs clients outside of all namespaces, for it needs the network, and reads inside what became
// of it.
func install(t *testing.T, table clients.Table, chosen []clients.Client) []installation {
	t.Helper()
	all := make([]installation, len(chosen))
	if path := os.Getenv(installedVariable); path != "" {
		if err := json.Unmarshal(world.ReadFile(t, path), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installer := &clients.Installer{
		Table:   table,
		Cache:   filepath.Join(caches, "irsa-sidecar", "clients"),
		Drivers: world.Path(t, "integration/clients/drivers"),
		Log:     func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	t.Run("install", func(t *testing.T) {
		for i, c := range chosen {
			t.Run(c.ID(), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), installPatience)
				defer cancel()
				command, err := installer.Install(ctx, c)
				all[i].Command = command
				if err == nil {
					return
				}
				all[i].NotRun = err.Error()
				if world.Required(c.From) {
					t.Errorf("not installed, although IRSA_TEST_REQUIRE has %s: %v", c.From, err)
				}
			})
		}
	})
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

// scenarios are what every client goes through. Each has a Pod of its own: STS, token, sidecar, tape.
var scenarios = []struct {
	name  string
	play  func(*pod) string
	never bool // also with a client that never asks the sidecar
	node  bool // only on a node
}{
	{name: "no token", play: (*pod).asksWithoutToken, never: true},
	{name: "token, variable", play: (*pod).asksWithVariable},
	{name: "token, file", play: (*pod).asksWithFile},
	{name: "file replaced", play: (*pod).fileIsReplaced},
	{name: "cold, STS 300 ms", play: (*pod).coldStart},
	{name: "4 min left, no STS", play: (*pod).fourMinutesLeft},
	{name: "30 at 26 min left", play: (*pod).thirtyUses},
	{name: "STS refuses", play: (*pod).stsRefuses},
	{name: "web identity too", play: (*pod).webIdentityToo},
	{name: "no token sent", play: (*pod).sendsNoToken, node: true},
	{name: "wrong token", play: (*pod).sendsWrongToken, node: true},
	{name: "no sidecar", play: (*pod).findsNoSidecar, node: true},
	{name: "no sidecar, no variable", play: (*pod).isNotKept, never: true, node: true},
	{name: "hop limit 1", play: (*pod).reachesNoNode, never: true, node: true},
}

// report is what one client did.
type report struct {
	clients.Client
	installation
	node     *ec2
	noNode   error // why there is none
	cells    []string
	requests []string
	said     string // its own words about a refusal
}

func (r *report) fill(t *testing.T) {
	switch {
	case r.NotRun != "":
		return
	case r.noNode == nil:
		r.node = newEC2(t)
	case r.KeptBy == clients.Nothing || r.FileNeeded:
		r.NotRun = fmt.Sprintf("it would take the role of the machine that it runs on: %v", r.noNode)
		return
	}
	for _, s := range scenarios {
		switch {
		case !r.Endpoint && !s.never:
			r.cells = append(r.cells, "–")
			continue
		case s.node && r.node == nil:
			r.cells = append(r.cells, "NOT RUN")
			continue
		}
		var result string
		played := false
		passed := t.Run(s.name, func(t *testing.T) {
			p := &pod{T: t, report: r}
			t.Cleanup(p.judge) // after the client has ended
			result = s.play(p)
			played = !t.Failed()
		})
		switch {
		case !played:
			result = "FAILED"
		case !passed:
			result += " WRONG ANSWER" // though this client took it
		}
		r.cells = append(r.cells, result)
	}
}

// pod is one scenario of one client.
type pod struct {
	*testing.T
	*report

	world   *world.World
	sidecar *world.Sidecar
	tape    *tape
	all     []exchange // all there have been
	toNode  bool       // it asks the node, as it should
}

// open starts what a Pod has around the client. The sidecar has credentials when it returns.
func (p *pod) open(o ststest.Options, changes ...string) {
	p.Helper()
	p.world, p.tape = world.New(p.T, o), newTape(p.T, p.node)
	p.serve(changes...)
	world.Eventually(p.T, world.Soon, "the first exchange", func() bool { return len(p.world.STS.Issued()) > 0 })
	world.Eventually(p.T, world.Soon, "readiness", func() bool { status, _ := p.sidecar.OpsPage(p.T, "/readyz"); return status == http.StatusOK })
}

func (p *pod) serve(changes ...string) {
	p.Helper()
	p.sidecar = p.world.Serve(p.T, append(changes, "IRSA_SIDECAR_LISTEN="+p.tape.upstream)...)
}

// env is all that the client has in its environment: what deploy/templates/parts.yaml gives to an app, but
// for the authorization token.
func (p *pod) env(more ...string) []string {
	uri := "http://127.0.0.1:9911/v1/credentials"
	if p.tape != nil {
		uri = p.tape.url()
	}
	return append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + p.TempDir(),
		"LANG=C.UTF-8",
		"AWS_REGION=" + world.Region,
		"AWS_DEFAULT_REGION=" + world.Region,
		"AWS_WEB_IDENTITY_TOKEN_FILE=",
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + uri,
	}, more...)
}

// without takes a variable out of an environment.
func without(variable string, env []string) []string {
	return slices.DeleteFunc(env, func(entry string) bool { return strings.HasPrefix(entry, variable+"=") })
}

// asking is env for a client that is to ask, whatever it is answered: some do not without a token file.
func (p *pod) asking(more ...string) []string {
	if p.FileNeeded {
		more = append(more, p.token(clientToken))
	}
	return p.env(more...)
}

// token gives the client an authorization token: by variable, if it knows that.
func (p *pod) token(value string) string {
	if !p.FileOnly {
		return "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + value
	}
	path := filepath.Join(p.TempDir(), "token")
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		p.Fatal(err)
	}
	return "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path
}

// requests returns the exchanges since it was last called.
func (p *pod) requests() []exchange {
	if p.tape == nil {
		return nil
	}
	taken := p.tape.taken()
	p.all = append(p.all, taken...)
	return taken
}

// servedShape is the answer that all clients read, down to the order and the spelling.
var servedShape = regexp.MustCompile(`^\{"RoleArn":"arn:[^"\\]+","AccessKeyId":"[A-Z0-9]+","SecretAccessKey":"[A-Za-z0-9/+=]+","Token":"[A-Za-z0-9/+=]+","Expiration":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"\}$`)

// judge holds all that went over the wire against what always holds.
func (p *pod) judge() {
	p.Helper()
	p.requests()
	if p.node != nil {
		if questions := p.node.taken(); (len(questions) > 0) != p.toNode {
			p.Errorf("it asked the node %q, want questions: %v", questions, p.toNode)
		}
	}
	for _, e := range p.all {
		if !strings.HasPrefix(e.request, "GET /v1/credentials HTTP/1.1\r\n") {
			p.Errorf("it asked in another way than all clients do: %q", e.request)
		}
		if e.kind != "application/json" {
			p.Errorf("%d came as %q", e.status, e.kind)
		}
		if e.status == http.StatusOK && !servedShape.MatchString(e.body) {
			p.Errorf("what was served has another shape than all clients read")
		}
		line := strings.ReplaceAll(strings.TrimSuffix(e.request, "\r\n\r\n"), "\r\n", "|")
		if token := e.header("Authorization"); token != "" {
			line = strings.ReplaceAll(line, token, "TOKEN")
		}
		_, port, _ := net.SplitHostPort(p.tape.upstream)
		line = strings.ReplaceAll(line, ":"+port, ":PORT")
		if !slices.Contains(p.report.requests, line) {
			p.report.requests = append(p.report.requests, line)
		}
	}
}

// wantServed checks that the client holds the credentials that STS issued last, all three parts.
func (p *pod) wantServed(got outcome) {
	p.Helper()
	issued := p.world.STS.Issued()
	if len(issued) == 0 {
		p.Fatal("STS has issued nothing")
	}
	s := issued[len(issued)-1]
	if got.key != s.AccessKeyID || got.secret != s.SecretAccessKey || got.token != s.SessionToken {
		p.Errorf("it does not have the credentials that were issued; it says: %s", cmp.Or(got.said, "nothing"))
	}
}

func (p *pod) wantNone(got outcome) {
	p.Helper()
	switch {
	case p.node != nil && got.key == p.node.role.AccessKeyID:
		p.Error("it runs as the node")
	case got.key != "":
		p.Error("it has credentials, from nobody knows where")
	}
}

// wantNode checks that the client has taken the node's role, all three parts, and says so.
func (p *pod) wantNode(got outcome) string {
	p.Helper()
	p.toNode = true
	if p.node == nil || got.key != p.node.role.AccessKeyID || got.secret != p.node.role.SecretAccessKey || got.token != p.node.role.SessionToken {
		p.Errorf("it does not have the node's role; it says: %s", cmp.Or(got.said, "nothing"))
	}
	return "AS THE NODE"
}

// wantFailed checks that a client that was given nothing has nothing, if anything can keep it from the node's
// role, and says what came of it.
func (p *pod) wantFailed(got outcome) string {
	p.Helper()
	if p.KeptBy == clients.Nothing {
		return p.wantNode(got)
	}
	p.wantNone(got)
	return "fails"
}

func (p *pod) wantRequests(got []exchange, count int) {
	p.Helper()
	if len(got) != count {
		p.Errorf("it asked %d times, want %d", len(got), count)
	}
}

// cell is what the table says: how often it asked, and what came of it.
func cell(result string, requests []exchange) string {
	return fmt.Sprintf("%s %d×", result, len(requests))
}

func (p *pod) asksWithoutToken() string {
	p.open(ststest.Options{})
	got := p.start(p.env()).ask()
	requests := p.requests()
	if !p.Endpoint || p.FileNeeded {
		p.wantRequests(requests, 0)
		if p.FileNeeded {
			return "never asks, " + p.wantNode(got)
		}
		return "never asks, " + p.wantFailed(got)
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	for _, e := range requests {
		if e.header("Authorization") != "" {
			p.Errorf("it sent an Authorization header out of nothing: %q", e.request)
		}
		var served world.Answer
		if err := json.Unmarshal([]byte(e.body), &served); err != nil {
			p.Fatal(err)
		}
		if left := time.Until(served.Expiration); left < 26*time.Minute {
			p.Errorf("it was given credentials with %s left", left)
		}
	}
	return fmt.Sprintf("%s %s", cell("ok", requests), brief(requests))
}

// brief is the longest that a request took.
func brief(requests []exchange) string {
	var longest time.Duration
	for _, e := range requests {
		longest = max(longest, e.took)
	}
	return fmt.Sprintf("%.1f ms", float64(longest)/float64(time.Millisecond))
}

// Not of the alphabet of a header's token alone: it must arrive as it is.
const clientToken = "Pod 7c9e6679+7425/40de=944b"

func (p *pod) asksWithVariable() string {
	world.Leaks.Secret("an authorization token", clientToken)
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+clientToken)
	got := p.start(p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN=" + clientToken)).ask()
	requests := p.requests()
	switch {
	case p.FileNeeded:
		p.wantRequests(requests, 0)
		return cell("never asks, "+p.wantNode(got), requests)
	case p.FileOnly:
		p.wantRequests(requests, p.Tries)
		p.wantAuthorization(requests, "")
		return cell("no token sent, "+p.wantFailed(got), requests)
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	p.wantAuthorization(requests, clientToken)
	return cell("ok", requests)
}

func (p *pod) wantAuthorization(requests []exchange, token string) {
	p.Helper()
	for _, e := range requests {
		if e.header("Authorization") != token {
			p.Errorf("the Authorization header is not the token that it was given, but %d bytes", len(e.header("Authorization")))
		}
	}
}

// withTokenFile opens a Pod whose sidecar makes the token file.
func (p *pod) withTokenFile() (path, token string) {
	path = filepath.Join(p.TempDir(), "authorization")
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path)
	made, err := os.ReadFile(path)
	if err != nil {
		p.Fatal(err)
	}
	world.Leaks.Secret("an authorization token", string(made))
	return path, string(made)
}

func (p *pod) asksWithFile() string {
	path, token := p.withTokenFile()
	got := p.start(p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path)).ask()
	requests := p.requests()
	if !p.TokenFile {
		p.wantRequests(requests, p.Tries)
		p.wantAuthorization(requests, "")
		return cell("no token sent, "+p.wantFailed(got), requests)
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	p.wantAuthorization(requests, token)
	return cell("ok", requests)
}

// fileIsReplaced: who reads the file sends the new token, who knows only the variable the old one, and
// both get what they ask for.
func (p *pod) fileIsReplaced() string {
	const token = "a-token-that-has-stood-for-long-0123456789"
	path, stood := filepath.Join(p.TempDir(), "authorization"), time.Now().Add(-time.Minute)
	world.Leaks.Secret("an authorization token", token)
	if err := errors.Join(os.WriteFile(path, []byte(token), 0o440), os.Chtimes(path, stood, stood)); err != nil {
		p.Fatal(err)
	}
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path)
	env := p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token)
	if p.TokenFile {
		env = p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path)
	}
	s := p.start(env)
	p.wantServed(s.ask())
	p.wantAuthorization(p.requests(), token)

	const replaced = "another-token-for-the-same-file-0123456789"
	world.Leaks.Secret("an authorization token", replaced)
	next := path + ".next"
	if err := errors.Join(os.WriteFile(next, []byte(replaced), 0o440), os.Rename(next, path)); err != nil {
		p.Fatal(err)
	}
	world.Eventually(p.T, world.Soon, "the new token is accepted", func() bool {
		return p.sidecar.Ask(p.T, "Authorization", replaced).Valid()
	})
	p.wantServed(s.askAnew())
	requests := p.requests()
	p.wantRequests(requests, 1)
	if p.TokenFile {
		p.wantAuthorization(requests, replaced)
		return cell("new token ok", requests)
	}
	p.wantAuthorization(requests, token)
	return cell("old token ok", requests)
}

// coldStart: the sidecar starts when the client's request is there, and STS takes 300 ms.
func (p *pod) coldStart() string {
	p.world, p.tape = world.New(p.T, ststest.Options{}), newTape(p.T, p.node)
	p.world.STS.Break(ststest.Fault{Latency: 300 * time.Millisecond})
	p.tape.before = func() { p.serve() }
	p.wantServed(p.start(p.asking()).ask())
	requests := p.requests()
	p.wantRequests(requests, 1)
	if calls := p.world.STS.Calls(); calls != 1 {
		p.Errorf("STS was asked %d times, want once", calls)
	}
	return fmt.Sprintf("%s %s", cell("ok", requests), brief(requests))
}

// fourMinutesLeft is inside every client's own window: each use may be another request, and each is
// answered with the same credentials and without STS.
func (p *pod) fourMinutesLeft() string {
	uses := 10
	if p.Tool() { // each process asks for itself
		uses = 3
	}
	p.open(ststest.Options{Lifetime: 4 * time.Minute})
	p.world.STS.Close()
	calls := p.world.STS.Calls()
	s := p.start(p.asking())
	for range uses {
		p.wantServed(s.ask())
	}
	if p.Window { // some ask behind the back of who uses the credentials, some not at every use
		world.Eventually(p.T, world.Soon, "another request", func() bool {
			if p.tape.count() == 1 {
				p.wantServed(s.ask())
			}
			return p.tape.count() > 1
		})
	}
	requests := p.requests()
	for _, e := range requests {
		if e.status != http.StatusOK {
			p.Errorf("it was answered %d while there were valid credentials", e.status)
		}
	}
	if more := p.world.STS.Calls() - calls; more != 0 {
		p.Errorf("its requests caused %d calls of STS", more)
	}
	if again := len(requests) > 1; !p.Tool() && again != p.Window {
		p.Errorf("%d uses made %d requests: asking again is %v, want %v", uses, len(requests), again, p.Window)
	}
	return cell(fmt.Sprintf("%d ok,", uses), requests)
}

// thirtyUses of the oldest credentials of an hour that are ever served: no client asks again.
func (p *pod) thirtyUses() string {
	const uses = 30
	p.open(ststest.Options{Lifetime: 26*time.Minute + 10*time.Second})
	s := p.start(p.asking())
	if p.Tool() { // each process asks once; thirty of them say no more than one
		p.wantServed(s.ask())
		requests := p.requests()
		p.wantRequests(requests, 1)
		return cell("1 ok,", requests)
	}
	for range uses {
		p.wantServed(s.ask())
	}
	requests := p.requests()
	p.wantRequests(requests, 1)
	return cell(fmt.Sprintf("%d ok,", uses), requests)
}

// stsRefuses, with nothing cached: the client's own error shows ours, where it shows any.
func (p *pod) stsRefuses() string {
	p.world, p.tape = world.New(p.T, ststest.Options{}), newTape(p.T, p.node)
	p.world.STS.Break(ststest.AccessDenied)
	p.serve()
	p.sidecar.WaitForLog(p.T, "exchange failed")
	got := p.start(p.asking()).ask()
	failed := p.wantFailed(got)
	requests := p.requests()
	p.wantRequests(requests, p.Tries)
	for _, e := range requests {
		if e.status != http.StatusForbidden {
			p.Errorf("it was answered %d, want STS's own 403", e.status)
		}
	}
	world.Leaks.Printed(p.ID()+" about a refusal", got.said)
	p.said = got.said
	ours := strings.Contains(got.said, ststest.AccessDenied.Message) && strings.Contains(got.said, "in the role's trust policy")
	if ours != p.Message {
		p.Errorf("its error shows the sidecar's message: %v, want %v. It says: %s", ours, p.Message, got.said)
	}
	if ours {
		return cell("shows why", requests)
	}
	return cell(failed, requests)
}

// webIdentityToo is the trap: a client that has the variables of the EKS webhook as well never asks the
// sidecar, and the one line that mends it does.
func (p *pod) webIdentityToo() string {
	p.open(ststest.Options{})
	trapped := p.asking("AWS_ROLE_ARN="+world.RoleARN,
		"AWS_WEB_IDENTITY_TOKEN_FILE="+filepath.Join(p.TempDir(), "token"), // not there, so that nobody is sent a token
		"HTTPS_PROXY=http://"+p.refusingAddress(), "AWS_MAX_ATTEMPTS=1")
	got := p.start(trapped).ask()
	requests := p.requests()
	if p.WebIdentityFirst {
		p.wantNone(got)
		p.wantRequests(requests, 0)
	} else {
		p.wantServed(got)
		p.wantRequests(requests, 1)
	}
	// In a Pod's spec: the webhook sets neither variable where it finds the one. In a shell: unset.
	const file = "AWS_WEB_IDENTITY_TOKEN_FILE"
	for _, mended := range [][]string{p.asking(), without(file, p.asking("AWS_ROLE_ARN="+world.RoleARN))} {
		p.wantServed(p.start(mended).ask())
		p.wantRequests(p.requests(), 1)
	}
	if p.WebIdentityFirst {
		return cell("never asks,", requests) + "; mended 1×"
	}
	return cell("ok", requests)
}

// refusingAddress is an address at which nobody listens in the client's network.
func (p *pod) refusingAddress() string {
	if p.node != nil {
		return "127.0.0.1:9" // of a network in which nothing is but what the test has put there
	}
	return world.RefusingAddress(p.T)
}

// sendsNoToken: the sidecar asks for a token, and the client is not told of it.
func (p *pod) sendsNoToken() string {
	world.Leaks.Secret("an authorization token", clientToken)
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+clientToken)
	return p.refused(p.env(), !p.FileNeeded)
}

// sendsWrongToken: the client is given another token.
func (p *pod) sendsWrongToken() string {
	world.Leaks.Secret("an authorization token", clientToken)
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+clientToken)
	return p.refused(p.env(p.token("of-another-pod")), true)
}

// refused starts a client that the sidecar refuses; one that does not even ask gets nothing either.
func (p *pod) refused(env []string, asks bool) string {
	p.Helper()
	got := p.start(env).ask()
	requests := p.requests()
	for _, e := range requests {
		if e.status != http.StatusForbidden {
			p.Errorf("it was answered %d, want 403", e.status)
		}
	}
	if !asks {
		p.wantRequests(requests, 0)
		return cell("never asks, "+p.wantNode(got), requests)
	}
	p.wantRequests(requests, p.Tries)
	return cell(p.wantFailed(got), requests)
}

// findsNoSidecar: nobody listens where the client is sent.
func (p *pod) findsNoSidecar() string {
	return p.wantFailed(p.start(p.env(p.token(clientToken))).ask())
}

// isNotKept: without the one variable that keeps it from the node's role, a client takes it.
func (p *pod) isNotKept() string {
	variable := cmp.Or(p.KeptBy, clients.Disabled)
	if p.KeptBy == clients.Nothing {
		variable = clients.Disabled
	}
	got := p.start(without(string(variable), p.env(p.token(clientToken)))).ask()
	if p.KeptBy != clients.Itself {
		return p.wantNode(got)
	}
	p.wantNone(got)
	return "fails"
}

// reachesNoNode: a client that nothing else keeps from the node's role does not get it where the node's hop
// limit is 1.
func (p *pod) reachesNoNode() string {
	if p.KeptBy != clients.Nothing && !p.FileNeeded {
		return "–"
	}
	p.node.hidden.Store(true)
	defer p.node.hidden.Store(false)
	p.wantNone(p.start(p.env()).ask())
	p.toNode = true
	if p.node.outwait.Swap(false) {
		return "waits"
	}
	return "fails"
}

// outcome is what a client made of one use of its credentials.
type outcome struct {
	key, secret, token string // empty where it has none
	said               string // its own words, where it has none
}

// user is a client in use.
type user struct {
	*pod
	env []string
	s3  *s3 // for those that show no credentials

	// Of a driver, which lives on from use to use:
	to   io.Writer
	from *bufio.Scanner
	log  bytes.Buffer // complete when it has ended
}

// start starts a client, if it is one that lives. A tool is started for each use.
func (p *pod) start(env []string) *user {
	p.Helper()
	u := &user{pod: p, s3: newS3(p)}
	u.env = append(env, "S3_URL="+u.s3.url)
	if p.Tool() {
		return u
	}
	cmd := exec.Command(p.Command.Args[0], p.Command.Args[1:]...)
	cmd.Dir, cmd.Env = p.Command.Dir, u.env
	cmd.Stderr = &u.log
	to, err := cmd.StdinPipe()
	if err != nil {
		p.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := p.inside(cmd.Start); err != nil {
		p.Fatal(err)
	}
	u.to, u.from = to, bufio.NewScanner(from)
	kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	p.Cleanup(func() {
		to.Close() // which ends it
		ended := cmd.Wait()
		if !kill.Stop() {
			p.Error("the client had to be killed")
		}
		if p.Failed() {
			p.Logf("the client ended with %v and printed:\n%s", ended, &u.log)
		}
	})
	return u
}

// inside does it in the client's network.
func (p *pod) inside(do func() error) error {
	if p.node == nil {
		return do()
	}
	return p.node.inside(do)
}

// ask uses the credentials once.
func (u *user) ask() outcome { return u.use("get") }

// askAnew uses them from a session, configuration or process that has not been there before.
func (u *user) askAnew() outcome { return u.use("new") }

func (u *user) use(command string) outcome {
	u.Helper()
	u.s3.taken()
	switch u.Driver {
	case "aws":
		return u.signs([]string{"--endpoint-url", u.s3.url, "s3api", "list-buckets", "--output", "json"})
	case "rclone":
		return u.signs([]string{"lsd", `:s3,provider=Other,env_auth=true,endpoint="` + u.s3.url + `":bucket`, "--retries", "1", "--low-level-retries", "1"})
	case "restic":
		return u.signs([]string{"--repo", "s3:" + u.s3.url + "/bucket", "--no-cache", "--no-lock", "cat", "config"}, "RESTIC_PASSWORD=none")
	case "s3cmd":
		host := strings.TrimPrefix(u.s3.url, "http://")
		return u.signs([]string{"--host", host, "--host-bucket", host, "--no-ssl", "ls"})
	}
	if _, err := io.WriteString(u.to, command+"\n"); err != nil {
		u.Fatalf("the client has gone: %v", err)
	}
	if !u.from.Scan() {
		u.Fatalf("the client has gone without an answer: %v", u.from.Err())
	}
	return u.decode(u.from.Bytes())
}

func (u *user) decode(document []byte) outcome {
	u.Helper()
	var d struct{ AccessKeyId, SecretAccessKey, SessionToken, Error string }
	if err := json.Unmarshal(document, &d); err != nil {
		u.Fatalf("the client printed no JSON: %v", err)
	}
	if signed := u.s3.taken(); signed.key != "" {
		return signed
	}
	return outcome{d.AccessKeyId, d.SecretAccessKey, d.SessionToken, d.Error}
}

// signs runs a tool once, which uses credentials and does not show them.
func (u *user) signs(args []string, env ...string) outcome {
	u.Helper()
	ctx, cancel := context.WithTimeout(u.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.Command.Args[0], append(slices.Clone(u.Command.Args[1:]), args...)...)
	var log bytes.Buffer
	cmd.Env, cmd.Stderr = append(slices.Clone(u.env), env...), &log
	if err := u.inside(cmd.Start); err != nil {
		u.Fatal(err)
	}
	cmd.Wait() // the signature says all
	if signed := u.s3.taken(); signed.key != "" {
		return signed
	}
	return outcome{said: strings.TrimSpace(log.String())}
}

// s3 is a service that notes whose signature it has seen.
type s3 struct {
	url string

	mu   sync.Mutex
	seen outcome
}

func newS3(p *pod) *s3 {
	s := new(s3)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if signed := p.signer(r); signed.key != "" {
			s.mu.Lock()
			s.seen = signed
			s.mu.Unlock()
		}
		w.Header().Set("Content-Type", "application/xml")
		switch {
		case r.URL.Path == "/":
			io.WriteString(w, `<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>`)
		case r.URL.Query().Has("delimiter"):
			io.WriteString(w, `<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>`)
		case path.Ext(r.URL.Path) == ".csv":
			http.ServeContent(w, r, "", time.Now(), strings.NewReader("a,b\n1,2\n"))
		default:
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>`)
		}
	}))
	if p.node != nil {
		server.Listener.Close()
		server.Listener = p.node.listen(p.T, "127.0.0.1:0")
	}
	server.Start()
	p.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// taken returns the signer that was seen last since it was last called, if any.
func (s *s3) taken() outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.seen
	s.seen = outcome{}
	return taken
}

var credential = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=`)

// signer returns the credentials that signed a request, if the signature is theirs.
func (p *pod) signer(r *http.Request) outcome {
	found := credential.FindStringSubmatch(r.Header.Get("Authorization"))
	if found == nil {
		return outcome{}
	}
	session, at := ststest.Session{}, r.Header.Get("X-Amz-Date")
	var known []ststest.Session
	if p.node != nil {
		known = append(known, p.node.role)
	}
	if p.world != nil {
		known = append(known, p.world.STS.Issued()...)
	}
	for _, s := range known {
		if s.AccessKeyID == found[1] {
			session = s
		}
	}
	when, err := time.Parse("20060102T150405Z", at)
	if err != nil {
		return outcome{}
	}
	// Signed again, with the same headers, by who should have signed it.
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		return outcome{}
	}
	for name := range strings.SplitSeq(found[3], ";") {
		if name != "host" && name != "x-amz-date" {
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	err = signer.SignHTTP(p.Context(), aws.Credentials{AccessKeyID: session.AccessKeyID, SecretAccessKey: session.SecretAccessKey, SessionToken: session.SessionToken},
		again, r.Header.Get("X-Amz-Content-Sha256"), "s3", found[2], when)
	signature := func(h string) string { return h[strings.LastIndex(h, "Signature="):] }
	if err != nil || signature(again.Header.Get("Authorization")) != signature(r.Header.Get("Authorization")) {
		return outcome{said: "a signature that is not of " + found[1]}
	}
	return outcome{session.AccessKeyID, session.SecretAccessKey, r.Header.Get("X-Amz-Security-Token"), ""}
}

// summary is the report on all clients.
func summary(reports []*report, noNode error) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nclient")
	for _, s := range scenarios {
		fmt.Fprintf(w, "\t%s", s.name)
	}
	fmt.Fprintln(w)
	for _, r := range reports {
		name := r.ID()
		if r.From == "machine" && r.Command.Version != "" {
			name = r.Name + " " + r.Command.Version + " (installed)"
		}
		if r.NotRun != "" {
			fmt.Fprintf(w, "%s\tNOT RUN\n", name)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", name, strings.Join(r.cells, "\t"))
	}
	w.Flush()
	fmt.Fprint(&b, "\nN× is how often the client asked; ms is how long the longest of these took.\n")
	if noNode != nil {
		fmt.Fprintf(&b, "NOT RUN: what is about the role of a node: %v\n", noNode)
	} else {
		fmt.Fprint(&b, "Beside each was a node that gives its own role to everybody who asks: AS THE NODE is whom the client runs as.\n")
	}
	fmt.Fprint(&b, "\nWhat they sent:\n")
	for _, r := range reports {
		for _, request := range r.requests {
			fmt.Fprintf(&b, "  %-40s %s\n", r.ID(), request)
		}
	}
	fmt.Fprint(&b, "\nWhat they say when STS refuses:\n")
	for _, r := range reports {
		if r.said != "" {
			fmt.Fprintf(&b, "  %-40s %s\n", r.ID(), strings.Join(strings.Fields(r.said), " "))
		}
	}
	for _, r := range reports {
		if r.NotRun != "" {
			fmt.Fprintf(&b, "\nNOT RUN: %s: %s\n", r.ID(), r.NotRun)
		}
	}
	return b.String()
}
