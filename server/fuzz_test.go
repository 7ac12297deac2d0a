package server

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
