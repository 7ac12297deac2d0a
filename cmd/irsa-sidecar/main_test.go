package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// hostile steers a terminal, hides what it says, and quotes a secret.
const hostile = "\x1b[2J\x1b]0;title\x07\rok\t\u202egnihtyna\u2066\u200b\u009b31m\xff eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl"

// mustBeShown checks that a text of others is one line that a terminal shows as it is.
func mustBeShown(t *testing.T, what, text string, most int) {
	t.Helper()
	if redact.OneLine(text) != text || redact.Scrub(text) != text {
		t.Errorf("%s: not to be shown: %q", what, text)
	}
	if n := len([]rune(text)); n > most || n < 10 {
		t.Errorf("%s: %d characters: %.200q", what, n, text)
	}
}

// answering answers every connection with these bytes; it returns its address.
func answering(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			conn.Read(make([]byte, 4096)) // with the request unread, closing would reset the connection
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// Something else may listen on the ops port: another program of the Pod, or of the node.
func TestWhatIsSaidOnTheOpsPortIsShownOnOneLine(t *testing.T) {
	const long = 1 << 20
	for name, answer := range map[string]string{
		"a body":              "HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready " + hostile + "\r\nnext\u2028last",
		"a body of another":   "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n<html>" + hostile,
		"a long body":         "HTTP/1.1 503 Service Unavailable\r\n\r\n" + strings.Repeat("a", long),
		"a long body of runs": "HTTP/1.1 503 Service Unavailable\r\n\r\n" + strings.Repeat("\n", 10000) + strings.Repeat("ä \x1b", 5000),
		"no body":             "HTTP/1.1 503 Service Unavailable\r\n\r\n",
		"a body of blanks":    "HTTP/1.1 403 Forbidden\r\n\r\n \x1b\x07\r\n\u200b",
		"a status":            "HTTP/1.1 500 " + hostile + "\r\n\r\n",
		"a long status":       "HTTP/1.1 500 " + strings.Repeat("a", 10000) + "\r\n\r\n",
		"a status too long":   "HTTP/1.1 500 " + strings.Repeat("a", long) + "\r\n\r\n",
		"a status of no code": "HTTP/1.1 " + hostile + "\r\n\r\n",
		"a header":            "HTTP/1.1 200 OK\r\n" + hostile + "\r\n\r\n",
		"a long header":       "HTTP/1.1 200 OK\r\n" + strings.Repeat(hostile, 100) + "\r\n\r\n",
		"a redirect":          "HTTP/1.1 302 " + hostile + "\r\nLocation: http://" + hostile + "/\r\n\r\n",
		"no HTTP":             hostile,
		"a lot of no HTTP":    strings.Repeat(hostile, long/len(hostile)),
		"nothing":             "",
	} {
		for _, variable := range []string{opsVariable, adminVariable} {
			t.Setenv(variable, answering(t, answer))
		}
		for _, args := range [][]string{{"healthcheck"}, {"healthcheck", "livez"}, {"shutdown"}, {"reload"}, {"wait", "--timeout", "400ms"}} {
			err := run(t.Context(), args, strings.NewReader(""), io.Discard, &output{to: io.Discard})
			if err == nil {
				t.Errorf("%s, %s: no error", name, args)
				continue
			}
			mustBeShown(t, name, errorText(err), maxErrorText)
		}
	}
}

// Another program may answer 200 to anything, and even in the same words.
func TestAnotherProgramIsNotHealthy(t *testing.T) {
	for _, body := range []string{"hello", "ok\n", "", "default: ready, for another 59m0s\n", "default: started\n"} {
		t.Setenv(opsVariable, answering(t, "HTTP/1.1 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.13\r\n\r\n"+body))
		for _, args := range [][]string{{"healthcheck", "livez"}, {"healthcheck", "readyz"}, {"healthcheck", "startupz"}, {"wait", "--timeout", "400ms"}} {
			err := run(t.Context(), args, strings.NewReader(""), io.Discard, &output{to: io.Discard})
			if exitCode(err) != 1 || !strings.Contains(err.Error(), "(IRSA_SIDECAR_OPS_LISTEN) is not this sidecar: it answered 200 OK to /") {
				t.Errorf("%q, answered with %q: %v", args, body, err)
			}
		}
	}
}

func TestWhatASidecarSaysIsShownWhole(t *testing.T) {
	var body string
	for _, reason := range cache.Reasons() {
		one := fmt.Sprintf("default: not ready: there are no valid credentials\n%s: %s\nhint: %s\n", reason, strings.Repeat("m", 400), reason.Advice())
		if len(one) > len(body) {
			body = one
		}
	}
	for _, variable := range []string{opsVariable, adminVariable} {
		t.Setenv(variable, answering(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"+body))
	}
	err := run(t.Context(), []string{"healthcheck"}, strings.NewReader(""), io.Discard, &output{to: io.Discard})
	if want := strings.ReplaceAll(strings.TrimSuffix(body, "\n"), "\n", "; "); err == nil || errorText(err) != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// The sidecar never redirects: a redirect comes from another program, and must not decide where a Pod asks.
func TestARedirectOnTheOpsPortIsNotFollowed(t *testing.T) {
	var followed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, variable := range []string{opsVariable, adminVariable} {
			t.Setenv(variable, answering(t, fmt.Sprintf("HTTP/1.1 %d Moved\r\nLocation: %s\r\n\r\n", status, elsewhere.URL)))
		}
		for _, command := range []string{"healthcheck", "shutdown"} {
			err := run(t.Context(), []string{command}, strings.NewReader(""), io.Discard, &output{to: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "is not this sidecar") {
				t.Errorf("%s after %d: %v", command, status, err)
			}
		}
	}
	if n := followed.Load(); n > 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

func TestArgumentsAreShownOnOneLine(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/"+hostile)
	t.Setenv(listenVariable, "127.0.0.1:1")
	for _, given := range []string{hostile, "a\nb", strings.Repeat("long ", 128<<10/5)} { // Linux allows no longer argument
		for _, args := range [][]string{
			{given}, {"serve", given}, {"wait", "-" + given}, {"wait", "--timeout", given}, {"healthcheck", given}, {"install", "/nowhere/" + given},
			{"credentials", "--format", given}, {"credentials"}, {"doctor", "--trust-policy", "/nowhere/" + given},
		} {
			err := run(ctx, args, strings.NewReader(""), io.Discard, &output{to: io.Discard})
			if err == nil {
				t.Fatalf("%.100q: no error", args)
			}
			mustBeShown(t, args[0], errorText(err), maxErrorText)
		}
	}
}

// What answers on the admin port is believed only in the sidecar's own words.
func TestSomebodyElseDoesNotReloadAndDoesNotEnd(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\n\r\nWelcome to nginx!\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n404 page not found\n",
		"HTTP/1.1 404 Not Found\r\n\r\nthere is nothing at this path; there is /livez\n", "HTTP/1.1 204 No Content\r\n\r\n",
	} {
		for _, command := range []string{"reload", "shutdown"} {
			t.Setenv(adminVariable, answering(t, answer))
			err := run(t.Context(), []string{command}, strings.NewReader(""), io.Discard, &output{to: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "(IRSA_SIDECAR_ADMIN_LISTEN) is not this sidecar") {
				t.Errorf("%s, answered with %q: %v", command, answer, err)
			}
		}
	}
}
