// Package integration tests the program as it is shipped: the real binary, with an environment of its
// own, through its sockets, its output and its exit code. Only Go is needed, and nothing but the
// loopback is used; the test against MinIO has a build tag.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

const (
	roleARN = "arn:aws:iam::123456789012:role/app"
	region  = "us-east-1"

	// soon bounds every wait for something that is not the end of a token or a session.
	soon = 20 * time.Second
)

func TestMain(m *testing.M) {
	code := m.Run()
	if leaks := printed.leaks(); len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: what must never be printed has been:\n  %s\n", strings.Join(leaks, "\n  "))
		code = max(code, 1)
	}
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built is the program. It is built once, and only for tests that run it.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() { built.path, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// build builds the program as it is shipped; with GOCOVERDIR set, it also counts what is covered.
func build() (path string, err error) {
	// go test takes an old result for good unless a file has changed that the test has looked at, and it
	// does not see what go build looks at.
	err = filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == ".git" {
			return fs.SkipDir
		}
		if err == nil && (filepath.Ext(path) == ".go" || entry.Name() == "go.mod") {
			_, err = os.Stat(path)
		}
		if errors.Is(err, fs.ErrNotExist) { // a file that comes and goes is not of the program
			return nil
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if built.dir, err = os.MkdirTemp("", "irsa-sidecar-test-"); err != nil {
		return "", err
	}
	// One test runs the program as a user who owns nothing.
	if err := os.Chmod(built.dir, 0o755); err != nil {
		return "", err
	}
	path = filepath.Join(built.dir, "irsa-sidecar")
	args := []string{"build", "-trimpath", "-o", path}
	if os.Getenv("GOCOVERDIR") != "" {
		args = append(args, "-cover")
	}
	cmd := exec.Command("go", append(args, "../cmd/irsa-sidecar")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, output)
	}
	return path, nil
}

// counted adds to an environment where the program leaves what it has covered.
func counted(env []string) []string {
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		env = append(slices.Clone(env), "GOCOVERDIR="+dir)
	}
	if env == nil {
		return []string{} // nil would be the test's own
	}
	return env
}

// printed is everything that the program has said during the run, and everything that it must not say.
var printed record

// record is what has been said, by whom, and what is secret.
type record struct {
	mu      sync.Mutex
	texts   []text
	secrets map[string]string // what it is, by its value
	servers []*ststest.Server // which know the secrets that they have handed out
}

type text struct{ by, text string }

func (r *record) said(by, words string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts = append(r.texts, text{by, words})
}

func (r *record) secret(name, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.secrets == nil {
		r.secrets = make(map[string]string)
	}
	r.secrets[value] = name
}

func (r *record) issuedBy(s *ststest.Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servers = append(r.servers, s)
}

// token notes a web identity token. Its signature is what makes it one; the rest can be said.
func (r *record) token(token string) {
	r.secret("a web identity token", token)
	r.secret("the signature of a web identity token", token[strings.LastIndex(token, ".")+1:])
}

// leaks says which secrets have been printed, as they are or as a page or a form has them, and by whom, without
// printing them again.
func (r *record) leaks() (leaks []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	secrets := maps.Clone(r.secrets)
	if secrets == nil {
		secrets = make(map[string]string)
	}
	for _, s := range r.servers {
		for _, session := range s.Issued() {
			secrets[session.SecretAccessKey] = "a secret access key"
			secrets[session.SessionToken] = "a session token"
		}
	}
	for value, name := range secrets {
		for _, form := range slices.Compact([]string{value, strings.ReplaceAll(value, "+", "&#43;"), url.QueryEscape(value)}) {
			for _, text := range r.texts {
				if strings.Contains(text.text, form) {
					leaks = append(leaks, name+", by "+text.by)
				}
			}
		}
	}
	slices.Sort(leaks)
	return slices.Compact(leaks)
}

// A check that finds nothing should be able to find something.
func TestALeakIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	wantCode(t, run(t, w.env, "credentials"), 0)
	var r record
	r.issuedBy(w.sts)
	r.secret("a password", "correct")
	r.said("nobody", "nothing")
	if leaks := r.leaks(); len(leaks) > 0 {
		t.Errorf("found %q where nothing is", leaks)
	}
	r.said("somebody", "the key is "+w.sts.Issued()[0].SecretAccessKey+" and the word is correct")
	if leaks := r.leaks(); !slices.Equal(leaks, []string{"a password, by somebody", "a secret access key, by somebody"}) {
		t.Errorf("found %q", leaks)
	}
	token := w.sts.Issued()[0].SessionToken
	r = record{servers: r.servers}
	r.said("a form", "SessionToken="+url.QueryEscape(token))
	r.said("a page", onAPage(t, token))
	if leaks := r.leaks(); !slices.Equal(leaks, []string{"a session token, by a form", "a session token, by a page"}) {
		t.Errorf("found %q", leaks)
	}
}

// answer is what the credentials endpoint said: credentials, or why there are none.
type answer struct {
	status int

	RoleARN         string    `json:"RoleArn"`
	AccessKeyID     string    `json:"AccessKeyId"`
	SecretAccessKey string    `json:"SecretAccessKey"`
	SessionToken    string    `json:"Token"`
	Expiration      time.Time `json:"Expiration"`

	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

func (a answer) valid() bool { return a.status == http.StatusOK }

// client goes straight to the loopback, whatever proxy the machine's environment names.
var client = &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}

func get(t *testing.T, url string) (status int, body []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, request)
}

func do(t *testing.T, request *http.Request) (status int, body []byte) {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

// process is a program that runs beside the test, and never longer.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when err is there
	err   error
}

// start starts a program with env and nothing else in its environment. What it prints is shown if the
// test fails.
func start(t *testing.T, program string, env []string, args ...string) *process {
	t.Helper()
	return startBy(t, (*exec.Cmd).Start, program, env, args...)
}

// startBy starts it by a function, which may have it be another user's.
func startBy(t *testing.T, start func(*exec.Cmd) error, program string, env []string, args ...string) *process {
	t.Helper()
	p := &process{
		name:  filepath.Base(program),
		cmd:   exec.Command(program, args...),
		log:   filepath.Join(t.TempDir(), "log"),
		ended: make(chan struct{}),
	}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = counted(env), log, log
	if err := start(p.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.stop(t)
		output := p.output(t)
		printed.said(p.name+" in "+t.Name(), output)
		if t.Failed() {
			t.Logf("%s printed:\n%s", p.name, output)
		}
	})
	return p
}

// stop ends the program politely, or else by force, and returns how it ended.
func (p *process) stop(t *testing.T) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(soon):
		t.Errorf("%s is still there %s after SIGTERM", p.name, soon)
		p.cmd.Process.Kill()
		<-p.ended
	}
	return p.err
}

func (p *process) wantRunning(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("%s has ended: %v", p.name, p.err)
	default:
	}
}

func (p *process) output(t *testing.T) string {
	output, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(output)
}

// result is what a program that has ended leaves behind.
type result struct {
	code           int
	stdout, stderr string
}

// run runs the program to its end, with env and nothing else in its environment.
func run(t *testing.T, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), args...)
	return finish(t, cmd, env)
}

func finish(t *testing.T, cmd *exec.Cmd, env []string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = counted(env), &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatalf("%s: %v", cmd, err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if r.code < 0 {
		t.Errorf("%s had to be killed after %s\n%s", cmd, soon, r.stderr)
	}
	by := strings.Join(cmd.Args[1:], " ") + " in " + t.Name()
	printed.said(by, r.stderr)
	if !slices.Contains(cmd.Args, "credentials") { // which prints secrets: it is what it is for
		printed.said(by, r.stdout)
	}
	wantNoTrace(t, r.stderr)
	return r
}

// wantNoTrace holds what was printed against what no user should ever see.
func wantNoTrace(t *testing.T, output string) {
	t.Helper()
	for _, trace := range []string{"goroutine ", "panic:", "%!", "<nil>", ".go:"} {
		if strings.Contains(output, trace) {
			t.Errorf("the output has %q in it:\n%s", trace, output)
		}
	}
}

// eventually tries until done, fifty times a second.
func eventually(t *testing.T, patience time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// freeAddress returns an address that nobody listens on just now.
func freeAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// required reports whether a test must be run that needs this of the machine: IRSA_TEST_REQUIRE has it.
func required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("IRSA_TEST_REQUIRE"), ","), what)
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// must runs a command that has to succeed.
func must(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	output(t, cmd)
}

// output is what a command that has to succeed prints.
func output(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return text
}
