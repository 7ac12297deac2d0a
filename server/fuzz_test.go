package server

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// FuzzCredentials sends any request that net/http accepts, from this machine. Nothing is served without the token, nothing
// is redirected, nothing breaks.
func FuzzCredentials(f *testing.F) {
	for _, client := range clients {
		head := strings.NewReplacer("GET P ", "GET /v1/credentials ", "TOKEN", testToken, "PORT", "9911", "|", "\r\n").Replace(client.head)
		f.Add([]byte(head+"\r\n\r\n"), false)
	}
	for _, head := range []string{
		"GET / HTTP/1.1\nHost: localhost\nAuthorization: " + testToken,
		"GET /v1/identity/default HTTP/1.1\nHost: localhost\nAuthorization: Bearer " + testToken,
		"GET /v1/credentials HTTP/1.1\nHost: localhost\nAuthorization: x\nAuthorization: " + testToken,
		"GET /v1/credentials HTTP/1.0",
		"GET http://evil.example/v1/credentials HTTP/1.1\nHost: 127.0.0.1",
		"OPTIONS * HTTP/1.1\nHost: 127.0.0.1\nAuthorization: " + testToken,
		"CONNECT [::1]:9911 HTTP/1.1\nHost: [::1]:9911\nAuthorization: " + testToken,
		"GET foo:bar HTTP/1.1\nHost: 127.0.0.1\nAuthorization: " + testToken,
		"GET //v1//credentials/../%2e%2e/%00 HTTP/1.1\nHost: 127.0.0.1\nAuthorization: " + testToken,
		"POST /v1/credentials/default HTTP/1.1\nHost: 127.0.0.1\nTransfer-Encoding: chunked\nAuthorization: " + testToken + "\n\n0\n",
	} {
		f.Add([]byte(head+"\n\n"), false)
		f.Add([]byte(head+"\n\n"), true)
	}
	warmed := Credentials(withToken(f, warm(f)))
	failing := Credentials(withToken(f, Options{Profiles: serving(profileOf(fails(cache.AccessDenied))), Default: testProfile, Address: testAddress}))
	f.Fuzz(func(t *testing.T, raw []byte, cold bool) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		r.RemoteAddr = "127.0.0.1:40000"
		h := warmed
		if cold {
			h = failing
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)

		given := r.Header["Authorization"]
		authorized := len(given) == 1 && (given[0] == testToken || given[0] == "Bearer "+testToken)
		switch code := w.Code; {
		case code == 200 && !authorized:
			t.Errorf("200 without the token: %q", raw)
		case code == 200 && (r.Method != "GET" || r.ContentLength != 0 || len(r.TransferEncoding) > 0 || r.URL.Scheme != "" || r.URL.Host != ""):
			t.Errorf("200 for more than a plain GET: %q", raw)
		case code != 200 && code != 400 && code != 403 && code != 404 && code != 405 && code != 503:
			t.Errorf("status %d: %q", code, raw)
		}
		body := w.Body.String()
		if strings.Contains(body, testSecretKey) && (w.Code != 200 || body != wantBody) {
			t.Errorf("the secret key is in %d %s", w.Code, body)
		}
		if strings.Contains(body, testToken) {
			t.Errorf("the authorization token is in %d %s", w.Code, body)
		}
	})
}

// fedConn is a connection whose client has already sent everything.
type fedConn struct {
	local
	in     io.Reader
	out    bytes.Buffer
	once   sync.Once
	closed chan struct{}
}

func (c *fedConn) Read(p []byte) (int, error)     { return c.in.Read(p) }
func (c *fedConn) Write(p []byte) (int, error)    { return c.out.Write(p) }
func (c *fedConn) LocalAddr() net.Addr            { return c.RemoteAddr() }
func (*fedConn) SetDeadline(time.Time) error      { return nil }
func (*fedConn) SetReadDeadline(time.Time) error  { return nil }
func (*fedConn) SetWriteDeadline(time.Time) error { return nil }
func (c *fedConn) Close() error                   { c.once.Do(func() { close(c.closed) }); return nil }

// FuzzListener sends any bytes. Nothing is served without the token, every answer is HTTP with a documented status and body,
// and nothing breaks.
func FuzzListener(f *testing.F) {
	for _, c := range clients {
		head := strings.NewReplacer(" P ", " /v1/credentials ", "TOKEN", testToken, "PORT", strconv.Itoa(testPort), "|", "\r\n").Replace(c.head)
		f.Add([]byte(head+"\r\n\r\n"), false)
		f.Add([]byte(head+"\r\n\r\n"+head+"\r\n\r\n"), true)
	}
	for _, bytes := range []string{
		"", "\x00\x01\x02", "hello\r\n\r\n", "GET / HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", "GET /v1/credentials HTTP/1.0\r\n\r\n",
		"GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /v1/credentials HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: y\r\n Content-Length: 9\r\n\r\nGET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		"GET http://127.0.0.1/v1/credentials HTTP/1.1\r\nHost: evil.example\r\nAuthorization: " + testToken + "\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
	} {
		f.Add([]byte(bytes), false)
	}
	var bugs lockedBuffer
	ctx, cancel := context.WithCancel(context.Background())
	f.Cleanup(cancel)
	serve := func(o Options) *pipes {
		l := newPipes()
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(ctx, l, Credentials(o), MaxConnections, time.Second, slog.New(slog.NewTextHandler(&bugs, &slog.HandlerOptions{Level: slog.LevelError})))
		}()
		f.Cleanup(func() {
			l.Close()
			<-ended
		})
		return l
	}
	warmed := serve(withToken(f, warm(f)))
	failing := serve(withToken(f, Options{Profiles: serving(profileOf(fails(cache.EndpointUnreachable))), Default: testProfile, Address: testAddress}))
	f.Fuzz(func(t *testing.T, raw []byte, cold bool) {
		l := warmed
		if cold {
			l = failing
		}
		conn := &fedConn{in: bytes.NewReader(raw), closed: make(chan struct{})}
		l.conns <- conn
		<-conn.closed
		if out := bugs.String(); out != "" {
			t.Fatalf("%q: %s", raw, out)
		}
		if strings.Contains(conn.out.String(), testSecretKey) && !bytes.Contains(raw, []byte(testToken)) {
			t.Errorf("credentials without the token: %q", raw)
		}
		if strings.Contains(conn.out.String(), testSecretKey) && !originForm.Match(raw) {
			t.Errorf("credentials for a request to a proxy: %q", raw)
		}
		most := certain(string(raw))
		answers := bufio.NewReader(&conn.out)
		for n := 0; ; n++ {
			if _, err := answers.Peek(1); err == io.EOF {
				return
			}
			if n == most {
				t.Fatalf("after answer %d to %q it is uncertain where the next request begins, but there is another answer", n, raw)
			}
			response, err := http.ReadResponse(answers, nil)
			if err != nil { // the answer to HEAD has a length and no body
				if bytes.Contains(raw, []byte("HEAD")) {
					return
				}
				t.Fatalf("answer %d to %q is not HTTP: %v", n, raw, err)
			}
			body, err := io.ReadAll(response.Body)
			if err != nil && !bytes.Contains(raw, []byte("HEAD")) {
				t.Fatalf("answer %d to %q breaks off: %v", n, raw, err)
			}
			if !slices.Contains([]int{200, 400, 403, 404, 405, 408, 431, 503}, response.StatusCode) {
				t.Errorf("answer %d to %q is %s", n, raw, response.Status)
			}
			if response.StatusCode != http.StatusOK && response.Header.Get("Content-Type") != "application/json" {
				t.Errorf("answer %d to %q is an error of type %q: %s", n, raw, response.Header.Get("Content-Type"), body)
			}
			if bytes.Contains(body, []byte(testToken)) {
				t.Errorf("answer %d to %q shows the token", n, raw)
			}
		}
	})
}

// originForm is the only request line that is answered with credentials.
var originForm = regexp.MustCompile(`(^|\n)GET /v1/credentials[^ \n]* HTTP/1\.[0-9]\r?\n`)

// certain returns how many requests there can be in what is sent, up to and including the first that may have a body, or
// whose lines are ambiguous.
func certain(sent string) (requests int) {
	for head := range strings.SplitSeq(strings.ReplaceAll(sent, "\r\n", "\n"), "\n\n") {
		requests++
		if unclear.MatchString(head) {
			break
		}
	}
	return requests
}

var unclear = regexp.MustCompile(`(?i)\n([ \t]|transfer-encoding:|content-length:[ \t]*0*[1-9])`)

// tokenShape is a token that every client can send, that arrives unchanged, and that cannot be guessed.
var tokenShape = regexp.MustCompile(`^[!-~][ -~]{14,}[!-~]$`)

// authorizationErrors are the only errors about a token. None contains a part of it.
var authorizationErrors = []string{
	"is empty", "is longer than 4096 bytes", "contains a line break, which the AWS SDKs refuse: write it with printf %s",
	"begins or ends with a space, which HTTP headers drop", "contains a character that an HTTP header cannot carry",
	"is shorter than 16 characters, so it could be guessed: use a longer random one, or the Pod's metadata.uid",
}

// FuzzAuthorization requires any token, and sends any header. A token is usable if a header can carry it, from a variable
// as from a file. Then only the token itself is accepted, also after "Bearer ".
func FuzzAuthorization(f *testing.F) {
	for _, seed := range []struct{ token, header string }{
		{testToken, testToken}, {testToken, "Bearer " + testToken}, {testToken, "bearer " + testToken},
		{testToken, testToken + " "}, {"Bearer q7Jx3l0vV", "q7Jx3l0vV"}, {testToken[:16], "x"}, {testToken[:15], "x"}, {"Bearer x", "x"}, {"Bearer ", "Bearer Bearer "}, {"", ""}, {"", "Bearer "},
		{"x\n", "x"}, {"x\r", "x"}, {" x", "x"}, {"x\t", "x"}, {"x\ty", "x y"}, {"to\x00ken", "to"},
		{"tökén", "tökén"}, {"\u2028", ""}, {"\xff", "\ufffd"}, {"a token with spaces", "a token"},
		{`"quoted", and more`, "quoted"}, {strings.Repeat("x", 4096), strings.Repeat("x", 130)},
		{strings.Repeat("x", 4097), ""},
	} {
		f.Add(seed.token, seed.header)
	}
	path := filepath.Join(f.TempDir(), "token")
	f.Fuzz(func(t *testing.T, token, header string) {
		fixed, err := FixedAuthorization(token)
		if (err == nil) != (tokenShape.MatchString(token) && len(token) <= 4096) {
			t.Fatalf("%q: %v", token, err)
		}
		if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		file, fileErr := AuthorizationFile(path)
		if err != nil {
			if !slices.Contains(authorizationErrors, err.Error()) {
				t.Errorf("%q: an error of its own making: %v", token, err)
			}
			if fileErr == nil || fileErr.Error() != path+" "+err.Error() {
				t.Errorf("%q: %v, and of the file: %v", token, err, fileErr)
			}
			return
		}
		if fileErr != nil {
			t.Fatalf("%q is refused in a file: %v", token, fileErr)
		}
		for _, sent := range []string{token, "Bearer " + token} {
			if got := onTheWire(t, sent); got != sent {
				t.Errorf("%q arrives as %q", sent, got)
			}
		}
		for _, given := range []string{
			token, "Bearer " + token, header, header + token, token + header, token[1:], token[:len(token)-1],
			strings.ToUpper(token), "bearer " + token, "Bearer" + token, "",
		} {
			want := given == token || given == "Bearer "+token
			if accepts(fixed, given) != want || accepts(file, given) != want {
				t.Errorf("for %q, %q is accepted: %v, and from a file: %v", token, given,
					accepts(fixed, given), accepts(file, given))
			}
		}
	})
}

// onTheWire returns an Authorization header as a server receives it.
func onTheWire(t *testing.T, value string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/v1/credentials", nil)
	r.Header.Set("Authorization", value)
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatalf("%q cannot be sent: %v", value, err)
	}
	return got.Header.Get("Authorization")
}

// FuzzProfiles asks for any path of several profiles, with the token of one of them or none. Nobody gets what its own token does
// not open, and without one that opens something, every path is answered alike.
func FuzzProfiles(f *testing.F) {
	for _, path := range []string{
		"/v1/credentials", "/v1/credentials/writer", "/v1/credentials/default/source", "/v1/credentials/default%2Fsource", "/v1/identity/writer",
		"/v1/credentials/%77riter", "/v1/credentials//writer", "/v1/credentials/../credentials/writer", "/", "/v1/identity", "/v1/credentials/a.b+c=d,e@f",
	} {
		for token := range uint8(4) {
			f.Add(path, token)
		}
	}
	h := Credentials(several(f))
	tokens := []string{"", testToken, writerToken, sharedToken}
	opens := [][]string{nil, {"default"}, {"writer"}, {"a.b+c=d,e@f", "team-a"}}
	refused := ask(h, request("GET", "/", header("Authorization", ""))).Body.String()
	f.Fuzz(func(t *testing.T, path string, which uint8) {
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Scheme != "" || u.Host != "" {
			return
		}
		mine := opens[which%4]
		w := ask(h, request("GET", "/", header("Authorization", tokens[which%4]), func(r *http.Request) { r.URL = u }))
		for _, name := range []string{"default", "writer", "a.b+c=d,e@f", "team-a", "default/source"} {
			if strings.Contains(w.Body.String(), keyOf(name)) && (!slices.Contains(mine, name) || w.Code != 200) {
				t.Errorf("GET %q with the token of %q is answered with %d and the credentials of %q", path, mine, w.Code, name)
			}
		}
		if mine == nil && (w.Code != 403 || w.Body.String() != refused) {
			t.Errorf("GET %q without a token: %d %s", path, w.Code, w.Body)
		}
	})
}
