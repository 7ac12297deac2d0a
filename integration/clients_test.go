//go:build clients

package integration

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

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
)

// installPatience bounds the installation of one client: the first of a release of Debian brings all.
const installPatience = 5 * time.Minute

// TestClients has real SDKs and tools, old and new, get their credentials from the real binary and from
// nowhere else. `make integration` installs and runs them all, CLIENT=name those with name in theirs.
// What they sent and what they made of the answers is printed at the end.
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
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installer := &clients.Installer{
		Table:   table,
		Cache:   filepath.Join(caches, "irsa-sidecar", "clients"),
		Drivers: "clients/drivers",
		Log:     func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	program(t) // built before the clock of anything ticks
	reports := make([]*report, len(chosen))
	t.Run("each", func(t *testing.T) {
		for i, c := range chosen {
			reports[i] = &report{Client: c}
			t.Run(c.ID(), func(t *testing.T) {
				t.Parallel()
				reports[i].fill(t, installer)
			})
		}
	})
	fmt.Print(summary(reports))
	if !slices.ContainsFunc(reports, func(r *report) bool { return r.notRun == "" }) {
		t.Error("no client at all could be run")
	}
}

// scenarios are what every client goes through. Each has a Pod of its own: STS, token, sidecar, tape.
var scenarios = []struct {
	name string
	play func(*pod) string
}{
	{"no token", (*pod).asksWithoutToken},
	{"token, variable", (*pod).asksWithVariable},
	{"token, file", (*pod).asksWithFile},
	{"file replaced", (*pod).fileIsReplaced},
	{"cold, STS 300 ms", (*pod).coldStart},
	{"4 min left, no STS", (*pod).fourMinutesLeft},
	{"30 at 26 min left", (*pod).thirtyUses},
	{"STS refuses", (*pod).stsRefuses},
	{"web identity too", (*pod).webIdentityToo},
}

// report is what one client did.
type report struct {
	clients.Client
	version  string
	notRun   string // why, where it could not be installed
	cells    []string
	requests []string
	said     string // its own words about a refusal
}

func (r *report) fill(t *testing.T, installer *clients.Installer) {
	ctx, cancel := context.WithTimeout(t.Context(), installPatience)
	command, err := installer.Install(ctx, r.Client)
	cancel()
	if err != nil {
		r.notRun = err.Error()
		if slices.Contains(strings.Split(os.Getenv("IRSA_TEST_REQUIRE"), ","), r.From) {
			t.Errorf("not installed, although IRSA_TEST_REQUIRE has %s: %v", r.From, err)
		}
		return
	}
	r.version = command.Version
	for i, s := range scenarios {
		r.cells = append(r.cells, "FAILED")
		t.Run(s.name, func(t *testing.T) {
			p := &pod{T: t, report: r, command: command}
			result := s.play(p)
			if !t.Failed() {
				r.cells[i] = result
			}
			if p.judge(); t.Failed() && r.cells[i] == result {
				r.cells[i] += " WRONG ANSWER" // though this client took it
			}
		})
		if !r.Endpoint { // it asks nobody, whatever the question
			return
		}
	}
}

// pod is one scenario of one client.
type pod struct {
	*testing.T
	*report
	command clients.Command

	world   *world
	sidecar *sidecar
	tape    *tape
	all     []exchange // all there have been
}

// open starts what a Pod has around the client. The sidecar has credentials when it returns.
func (p *pod) open(o ststest.Options, changes ...string) {
	p.Helper()
	p.world, p.tape = newWorld(p.T, o), newTape(p.T)
	p.serve(changes...)
	eventually(p.T, soon, "the first exchange", func() bool { return len(p.world.sts.Issued()) > 0 })
	eventually(p.T, soon, "readiness", func() bool { status, _ := p.sidecar.health(p.T, "/readyz"); return status == http.StatusOK })
}

func (p *pod) serve(changes ...string) {
	p.Helper()
	p.sidecar = p.world.serve(p.T, append(changes, "IRSA_SIDECAR_LISTEN="+p.tape.upstream)...)
}

// env is all that the client has in its environment.
func (p *pod) env(more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + p.TempDir(),
		"LANG=C.UTF-8",
		"AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region,
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + p.tape.url(),
	}, more...)
}

// requests returns the exchanges since it was last called.
func (p *pod) requests() []exchange {
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
	issued := p.world.sts.Issued()
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
	if got.key != "" {
		p.Error("it has credentials, from nobody knows where")
	}
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
	s := p.start(p.env())
	got := s.ask()
	requests := p.requests()
	if !p.Endpoint {
		p.wantNone(got)
		p.wantRequests(requests, 0)
		return "never asks"
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	for _, e := range requests {
		if e.header("Authorization") != "" {
			p.Errorf("it sent an Authorization header out of nothing: %q", e.request)
		}
		var served answer
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
	printed.secret("an authorization token", clientToken)
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+clientToken)
	s := p.start(p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN=" + clientToken))
	p.wantServed(s.ask())
	requests := p.requests()
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
	printed.secret("an authorization token", string(made))
	return path, string(made)
}

func (p *pod) asksWithFile() string {
	path, token := p.withTokenFile()
	s := p.start(p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path))
	got := s.ask()
	requests := p.requests()
	if !p.TokenFile {
		p.wantNone(got)
		p.wantRequests(requests, p.Tries)
		p.wantAuthorization(requests, "")
		return cell("no token sent", requests)
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	p.wantAuthorization(requests, token)
	return cell("ok", requests)
}

// fileIsReplaced: who reads the file sends the new token, who knows only the variable the old one, and
// both get what they ask for.
func (p *pod) fileIsReplaced() string {
	path, token := p.withTokenFile()
	env := p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token)
	if p.TokenFile {
		env = p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path)
	}
	s := p.start(env)
	p.wantServed(s.ask())
	p.wantAuthorization(p.requests(), token)

	const replaced = "another-token-for-the-same-file-0123456789"
	printed.secret("an authorization token", replaced)
	next := path + ".next"
	if err := errors.Join(os.WriteFile(next, []byte(replaced), 0o440), os.Rename(next, path)); err != nil {
		p.Fatal(err)
	}
	eventually(p.T, soon, "the new token is accepted", func() bool {
		return p.sidecar.ask(p.T, "Authorization", replaced).valid()
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
	p.world, p.tape = newWorld(p.T, ststest.Options{}), newTape(p.T)
	p.world.sts.Break(ststest.Fault{Latency: 300 * time.Millisecond})
	p.tape.before = func() { p.serve() }
	s := p.start(p.env())
	p.wantServed(s.ask())
	requests := p.requests()
	p.wantRequests(requests, 1)
	if calls := p.world.sts.Calls(); calls != 1 {
		p.Errorf("STS was asked %d times, want once", calls)
	}
	return fmt.Sprintf("%s %s", cell("ok", requests), brief(requests))
}

// fourMinutesLeft is inside every client's own window: each use may be another request, and each is
// answered with the same credentials and without STS.
func (p *pod) fourMinutesLeft() string {
	const uses = 10
	p.open(ststest.Options{Lifetime: 4 * time.Minute})
	p.world.sts.Close()
	calls := p.world.sts.Calls()
	s := p.start(p.env())
	for range uses {
		p.wantServed(s.ask())
	}
	if p.Window { // some ask behind the back of who uses the credentials
		eventually(p.T, soon, "another request", func() bool { return p.tape.count() > 1 })
	}
	requests := p.requests()
	for _, e := range requests {
		if e.status != http.StatusOK {
			p.Errorf("it was answered %d while there were valid credentials", e.status)
		}
	}
	if more := p.world.sts.Calls() - calls; more != 0 {
		p.Errorf("its requests caused %d calls of STS", more)
	}
	if again := len(requests) > 1; s.lives() && again != p.Window {
		p.Errorf("%d uses made %d requests: asking again is %v, want %v", uses, len(requests), again, p.Window)
	}
	return cell(fmt.Sprintf("%d ok,", uses), requests)
}

// thirtyUses of the oldest credentials of an hour that are ever served: no client asks again.
func (p *pod) thirtyUses() string {
	const uses = 30
	p.open(ststest.Options{Lifetime: 26*time.Minute + 10*time.Second})
	s := p.start(p.env())
	if !s.lives() { // each process asks once; thirty of them say no more than one
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
	p.world, p.tape = newWorld(p.T, ststest.Options{}), newTape(p.T)
	p.world.sts.Break(ststest.AccessDenied)
	p.serve()
	p.sidecar.waitForLine(p.T, "exchange failed")
	s := p.start(p.env())
	got := s.ask()
	p.wantNone(got)
	requests := p.requests()
	p.wantRequests(requests, p.Tries)
	for _, e := range requests {
		if e.status != http.StatusForbidden {
			p.Errorf("it was answered %d, want STS's own 403", e.status)
		}
	}
	printed.said(p.ID()+" about a refusal", got.said)
	p.said = got.said
	ours := strings.Contains(got.said, ststest.AccessDenied.Message) && strings.Contains(got.said, cache.AccessDenied.Advice())
	if ours != p.Message {
		p.Errorf("its error shows the sidecar's message: %v, want %v. It says: %s", ours, p.Message, got.said)
	}
	if ours {
		return cell("shows why", requests)
	}
	return cell("fails", requests)
}

// webIdentityToo is the trap: a client that has the variables of the EKS webhook as well never asks the
// sidecar, and the one line that mends it does.
func (p *pod) webIdentityToo() string {
	p.open(ststest.Options{})
	trapped := p.env("AWS_ROLE_ARN="+roleARN,
		"AWS_WEB_IDENTITY_TOKEN_FILE="+filepath.Join(p.TempDir(), "token"), // not there, so that nobody is sent a token
		"HTTPS_PROXY=http://"+refusingAddress(p.T), "AWS_MAX_ATTEMPTS=1")
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
	for _, mended := range [][]string{{"AWS_WEB_IDENTITY_TOKEN_FILE="}, {"AWS_ROLE_ARN=" + roleARN}} {
		p.wantServed(p.start(p.env(mended...)).ask())
		p.wantRequests(p.requests(), 1)
	}
	if p.WebIdentityFirst {
		return cell("never asks,", requests) + "; mended 1×"
	}
	return cell("ok", requests)
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

	// Of a driver, which lives on from use to use:
	to   io.Writer
	from *bufio.Scanner
	log  bytes.Buffer // complete when it has ended
}

// start starts a client, if it is one that lives. A tool is started for each use.
func (p *pod) start(env []string) *user {
	p.Helper()
	u := &user{pod: p, env: env}
	if !u.lives() {
		return u
	}
	cmd := exec.Command(p.command.Args[0], p.command.Args[1:]...)
	cmd.Dir, cmd.Env = p.command.Dir, env
	cmd.Stderr = &u.log
	to, err := cmd.StdinPipe()
	if err != nil {
		p.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
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

// lives tells a driver from a tool, which is a process for each use.
func (u *user) lives() bool { return u.Driver != "aws" && u.Driver != "rclone" && u.Driver != "restic" }

// ask uses the credentials once.
func (u *user) ask() outcome { return u.use("get") }

// askAnew uses them from a session, configuration or process that has not been there before.
func (u *user) askAnew() outcome { return u.use("new") }

func (u *user) use(command string) outcome {
	u.Helper()
	switch u.Driver {
	case "aws":
		return u.signsFor(func(s3 string) []string {
			return []string{"--endpoint-url", s3, "s3api", "list-buckets", "--output", "json"}
		})
	case "rclone":
		return u.signsFor(func(s3 string) []string {
			return []string{"lsd", `:s3,provider=Other,env_auth=true,endpoint="` + s3 + `":bucket`, "--retries", "1", "--low-level-retries", "1"}
		})
	case "restic":
		return u.signsFor(func(s3 string) []string {
			return []string{"--repo", "s3:" + s3 + "/bucket", "--no-cache", "--no-lock", "cat", "config"}
		}, "RESTIC_PASSWORD=none")
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
	return outcome{d.AccessKeyId, d.SecretAccessKey, d.SessionToken, d.Error}
}

// run runs a tool once.
func (u *user) run(env []string, args ...string) (stdout []byte, stderr string, err error) {
	ctx, cancel := context.WithTimeout(u.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.command.Args[0], append(slices.Clone(u.command.Args[1:]), args...)...)
	var out, log bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(slices.Clone(u.env), env...), &out, &log
	err = cmd.Run()
	return out.Bytes(), log.String(), err
}

// signsFor runs a tool that uses credentials and does not show them, against an S3 that notes whose
// signature it has seen.
func (u *user) signsFor(args func(s3 string) []string, env ...string) outcome {
	u.Helper()
	var seen struct {
		sync.Mutex
		outcome
	}
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed := u.signer(r)
		seen.Lock()
		if signed.key != "" {
			seen.outcome = signed
		}
		seen.Unlock()
		w.Header().Set("Content-Type", "application/xml")
		switch {
		case r.URL.Path == "/":
			io.WriteString(w, `<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>`)
			return
		case r.URL.Query().Has("delimiter"):
			io.WriteString(w, `<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>`)
	}))
	defer s3.Close()
	_, stderr, _ := u.run(env, args(s3.URL)...)
	seen.Lock()
	defer seen.Unlock()
	if seen.key == "" {
		return outcome{said: strings.TrimSpace(stderr)}
	}
	return seen.outcome
}

var credential = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=`)

// signer returns the credentials that signed a request, if the signature is theirs.
func (u *user) signer(r *http.Request) outcome {
	found := credential.FindStringSubmatch(r.Header.Get("Authorization"))
	if found == nil {
		return outcome{}
	}
	session, at := ststest.Session{}, r.Header.Get("X-Amz-Date")
	for _, s := range u.world.sts.Issued() {
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
	err = signer.SignHTTP(u.Context(), aws.Credentials{AccessKeyID: session.AccessKeyID, SecretAccessKey: session.SecretAccessKey, SessionToken: session.SessionToken},
		again, r.Header.Get("X-Amz-Content-Sha256"), "s3", found[2], when)
	signature := func(h string) string { return h[strings.LastIndex(h, "Signature="):] }
	if err != nil || signature(again.Header.Get("Authorization")) != signature(r.Header.Get("Authorization")) {
		return outcome{said: "a signature that is not of " + found[1]}
	}
	return outcome{session.AccessKeyID, session.SecretAccessKey, r.Header.Get("X-Amz-Security-Token"), ""}
}

// summary is the report on all clients.
func summary(reports []*report) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nclient")
	for _, s := range scenarios {
		fmt.Fprintf(w, "\t%s", s.name)
	}
	fmt.Fprintln(w)
	for _, r := range reports {
		name := r.ID()
		if r.From == "machine" && r.version != "" {
			name = r.Name + " " + r.version + " (installed)"
		}
		if r.notRun != "" {
			fmt.Fprintf(w, "%s\tNOT RUN\n", name)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", name, strings.Join(r.cells, "\t"))
	}
	w.Flush()
	fmt.Fprint(&b, "\nN× is how often the client asked; ms is how long the longest of these took.\n\nWhat they sent:\n")
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
		if r.notRun != "" {
			fmt.Fprintf(&b, "\nNOT RUN: %s: %s\n", r.ID(), r.notRun)
		}
	}
	return b.String()
}
