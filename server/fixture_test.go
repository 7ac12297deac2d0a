package server

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

var update = flag.Bool("update", false, "write testdata")

// These may appear only in an answer with credentials. Both secrets contain the characters of base64 that JSON and HTML
// might escape.
const (
	testPort         = 9911
	testProfile      = "default"
	testKey          = "ASIAQNZGKIQY56JQ7WML"
	testSecretKey    = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	testSessionToken = "IQoJb3JpZ2luX2VjEPT//////////wEaCXVzLWVhc3QtMSJH+/=="
	testRole         = "arn:aws:iam::123456789012:role/reader"
	testIdentity     = "arn:aws:sts::123456789012:assumed-role/reader/shop.api-0"
	testAccount      = "123456789012"
	testToken        = "q7Jx3l0vV9m1Zr8cT5bN2sKfYhWuEdPgAiLoMtRyQwX" // as long as one that the sidecar makes
	testMessage      = "Not authorized to perform sts:AssumeRoleWithWebIdentity"
)

// testAddress is the address of the credentials listener that the handler is told.
var testAddress = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), testPort)

// testExpiration is far from every fake or real clock of a test.
var testExpiration = time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC)

func testCredentials() cache.Credentials {
	return cache.Credentials{
		AccessKeyID:     testKey,
		SecretAccessKey: cache.NewSecret(testSecretKey),
		SessionToken:    cache.NewSecret(testSessionToken),
		Expiration:      testExpiration,
		RoleARN:         testRole,
		Identity:        testIdentity,
		AccountID:       testAccount,
	}
}

// profileOf returns the default profile with a cache that calls fetch.
func profileOf(fetch cache.Fetch) Profile {
	return named(testProfile, fetch)
}

// named is profileOf with a name.
func named(name string, fetch cache.Fetch) Profile {
	half := func() float64 { return 0.5 }
	return Profile{RoleARN: testRole, Cache: cache.New(fetch, cache.Options{Profile: name, Random: half}), Required: true}
}

// serving returns Profiles that have these.
func serving(all ...Profile) *Profiles {
	p := NewProfiles()
	p.Set(all)
	return p
}

func issues(c cache.Credentials) cache.Fetch {
	return func(context.Context) (cache.Credentials, error) { return c, nil }
}

func fails(r cache.Reason) cache.Fetch {
	return func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{}, &cache.FetchError{Reason: r, Message: testMessage}
	}
}

// warm are Options that serve testCredentials on testPort.
func warm(t testing.TB) Options {
	t.Helper()
	p := profileOf(issues(testCredentials()))
	if _, err := p.Cache.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	return Options{Profiles: serving(p), Default: testProfile, Address: testAddress, Version: "v1.2.3"}
}

// withToken requires testToken.
func withToken(t testing.TB, o Options) Options {
	t.Helper()
	a, err := FixedAuthorization(testToken)
	if err != nil {
		t.Fatal(err)
	}
	return edited(o, func(p *Profile) { p.Authorization = a })
}

// and returns o with Profiles of its own, which have more.
func and(o Options, more ...Profile) Options {
	o = edited(o, func(*Profile) {})
	var all []Profile
	for _, s := range o.Profiles.now().slots {
		all = append(all, s.Profile)
	}
	o.Profiles.Set(append(all, more...))
	return o
}

// edited returns o with Profiles of its own, in which each profile is changed by edit.
func edited(o Options, edit func(*Profile)) Options {
	var all []Profile
	for _, s := range o.Profiles.now().slots {
		edit(&s.Profile)
		all = append(all, s.Profile)
	}
	o.Profiles = serving(all...)
	return o
}

// request is what a client in the Pod sends, with edits.
func request(method, target string, edits ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.Host, r.RemoteAddr = "127.0.0.1:9911", "127.0.0.1:40000"
	for _, edit := range edits {
		edit(r)
	}
	return r
}

func header(name string, values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header[name] = values }
}

func from(peer string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = peer }
}

func ask(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// mustBeSecretFree searches an answer for what only an answer with credentials may contain.
func mustBeSecretFree(t testing.TB, what, text string) {
	t.Helper()
	for _, secret := range []string{testKey, testSecretKey, testSessionToken, testToken} {
		if strings.Contains(text, secret) {
			t.Errorf("%s shows %q:\n%s", what, secret, text)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./server -update writes it):\n%s\nwant:\n%s", path, got, want)
	}
}

// serveTCP serves what build makes for the address, on a real socket, until the test ends.
func serveTCP(t testing.TB, build func(at netip.AddrPort) Handler) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	h := build(l.Addr().(*net.TCPAddr).AddrPort())
	go func() { ended <- Serve(ctx, l, h, MaxConnections, 5*time.Second, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// raw sends lines as the head of a request, with PORT replaced by the server's port, and reads everything until the server
// closes the connection.
func raw(t testing.TB, address string, head string) string {
	t.Helper()
	conn := dial(t, address)
	send(t, conn, address, head)
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("after %q: %v", got, err)
	}
	return string(got)
}

func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second)) // a test that hangs fails where it hangs
	return conn
}

// send writes a head whose lines are separated by "|", as in a capture.
func send(t testing.TB, conn net.Conn, address, head string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	head = strings.ReplaceAll(head, "PORT", port)
	if _, err := io.WriteString(conn, strings.ReplaceAll(head, "|", "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// receive reads one answer.
func receive(t testing.TB, r *bufio.Reader) (*http.Response, string) {
	t.Helper()
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// bare is a handler that has nothing of this package.
type bare struct{ http.Handler }

func (bare) malformed() (contentType string, body []byte) { return malformedText() }

// pipes is a listener in memory, for fake time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: testPort} }

// local is an end of a pipe with an address of this machine.
type local struct{ net.Conn }

func (local) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000} }

// dial waits until the server accepts the connection, as in the kernel's queue.
func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- local{server}
	return client
}

// get makes one request on a connection and keeps it open.
func get(conn net.Conn, path string) (status string, err error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", path, testPort); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.Status, err
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
