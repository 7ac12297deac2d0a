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
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// FuzzCredentials sends whatever net/http takes for a request from this machine. Nothing is served
// without the token, nothing is redirected, nothing breaks.
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
	failing := Credentials(withToken(f, Options{Profiles: []Profile{profileOf(fails(cache.AccessDenied))}, Port: testPort}))
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
		case code == 200 && (r.Method != "GET" || r.ContentLength != 0 || len(r.TransferEncoding) > 0):
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

// said is a connection on which all has been said: it reads what it was made with, and then the end.
type said struct {
	local
	in     io.Reader
	out    bytes.Buffer
	once   sync.Once
	closed chan struct{}
}

func (c *said) Read(p []byte) (int, error)     { return c.in.Read(p) }
func (c *said) Write(p []byte) (int, error)    { return c.out.Write(p) }
func (c *said) LocalAddr() net.Addr            { return c.RemoteAddr() }
func (*said) SetDeadline(time.Time) error      { return nil }
func (*said) SetReadDeadline(time.Time) error  { return nil }
func (*said) SetWriteDeadline(time.Time) error { return nil }
func (c *said) Close() error                   { c.once.Do(func() { close(c.closed) }); return nil }

// FuzzListener sends any bytes at all. Nothing is served without the token, every answer is HTTP with
// a status and a body that README knows, and nothing breaks.
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
			ended <- Serve(ctx, l, Credentials(o), time.Second, slog.New(slog.NewTextHandler(&bugs, &slog.HandlerOptions{Level: slog.LevelError})))
		}()
		f.Cleanup(func() {
			l.Close()
			<-ended
		})
		return l
	}
	warmed := serve(withToken(f, warm(f)))
	failing := serve(withToken(f, Options{Profiles: []Profile{profileOf(fails(cache.EndpointUnreachable))}, Port: testPort}))
	f.Fuzz(func(t *testing.T, raw []byte, cold bool) {
		l := warmed
		if cold {
			l = failing
		}
		conn := &said{in: bytes.NewReader(raw), closed: make(chan struct{})}
		l.conns <- conn
		<-conn.closed
		if out := bugs.String(); out != "" {
			t.Fatalf("%q: %s", raw, out)
		}
		if strings.Contains(conn.out.String(), testSecretKey) && !bytes.Contains(raw, []byte(testToken)) {
			t.Errorf("credentials without the token: %q", raw)
		}
		answers := bufio.NewReader(&conn.out)
		for n := 0; ; n++ {
			if _, err := answers.Peek(1); err == io.EOF {
				return
			}
			response, err := http.ReadResponse(answers, nil)
			if err != nil { // HEAD's answer has a length and no body, and what follows it is the next
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
