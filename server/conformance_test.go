package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// conformance has the requests in testdata/conformance.txt for each server, in addition to those of the SDKs.
var conformance = []struct{ name, head string }{
	{"a query and a slash", "GET /v1/credentials/?x=y HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN"},
	{"the default profile by name", "GET /v1/credentials/default HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN"},
	{"another profile", "GET /v1/credentials/other HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN"},
	{"a wrong token", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1|Authorization: wrong"},
	{"another path", "GET /latest/meta-data HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN"},
	{"POST", "POST /v1/credentials HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN"},
	{"HEAD", "HEAD /v1/credentials HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN"},
	{"a body", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN|Content-Length: 4"},
	{"another host", "GET /v1/credentials HTTP/1.1|Host: evil.example|Authorization: TOKEN"},
	{"another port", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:1|Authorization: TOKEN"},
	{"a proxy", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1|Via: 1.1 proxy|Authorization: TOKEN"},
	{"an expectation", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN|Expect: everything"},
	{"no HTTP", "hello"},
}

// TestConformance compares every answer to what the SDKs send with testdata/conformance.txt, byte for byte except for the
// Date.
func TestConformance(t *testing.T) {
	failing := func(r cache.Reason) Options {
		return Options{Profiles: serving(profileOf(fails(r))), Default: testProfile}
	}
	var b strings.Builder
	for _, server := range []struct {
		name    string
		options Options
	}{
		{"with an authorization token", withToken(t, warm(t))},
		{"without one", warm(t)},
		{"refused by STS", failing(cache.AccessDenied)},
		{"refused by STS over the token", failing(cache.InvalidIdentityToken)},
		{"without STS", failing(cache.EndpointUnreachable)},
	} {
		address := serveTCP(t, func(at netip.AddrPort) Handler {
			server.options.Address = at
			return Credentials(server.options)
		})
		_, port, _ := net.SplitHostPort(address)
		asked := conformance
		for _, c := range slices.Backward(clients) {
			asked = slices.Insert(slices.Clone(asked), 0, struct{ name, head string }{c.name, strings.Replace(c.head, " P ", " /v1/credentials ", 1)})
		}
		for _, c := range asked {
			head := c.head
			if !strings.Contains(head, "Connection: ") && head != "hello" {
				head += "|Connection: close"
			}
			conn := dial(t, address)
			send(t, conn, address, strings.ReplaceAll(head, "TOKEN", testToken))
			var answer bytes.Buffer
			r := bufio.NewReader(io.TeeReader(conn, &answer))
			method, _, _ := strings.Cut(head, " ")
			response, err := http.ReadResponse(r, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%s, %s: %v", server.name, c.name, err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			got := dateLine.ReplaceAllString(answer.String(), "Date: DATE\r")
			got = strings.NewReplacer(":"+port, ":PORT", "\r\n", "\n").Replace(got)
			fmt.Fprintf(&b, "=== a sidecar %s: %s\n%s\n\n%s\n\n", server.name, c.name, strings.ReplaceAll(head, "|", "\n"), strings.TrimSuffix(got, "\n"))
		}
	}
	golden(t, "conformance.txt", b.String())
}

func TestNobodyIsBannedForWrongTokens(t *testing.T) {
	address := serveWarm(t, true)
	ask := func(token string) (*http.Response, string) {
		conn := dial(t, address)
		send(t, conn, address, "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: "+token)
		return receive(t, bufio.NewReader(conn))
	}
	for range 50 {
		if response, body := ask("wrong"); response.StatusCode != http.StatusForbidden {
			t.Fatalf("%s %s", response.Status, body)
		}
	}
	if response, body := ask(testToken); response.StatusCode != http.StatusOK || body != wantBody {
		t.Errorf("%s %s", response.Status, body)
	}
}
