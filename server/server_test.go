package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// serveWarm serves testCredentials on a real socket.
func serveWarm(t *testing.T, token bool) (address string) {
	return serveTCP(t, func(at netip.AddrPort) Handler {
		o := warm(t)
		if token {
			o = withToken(t, o)
		}
		o.Address = at
		return Credentials(o)
	})
}

var dateLine = regexp.MustCompile(`(?m)^Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r$`)

const wantHead = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: %d\r\nContent-Type: application/json\r\n" +
	"X-Content-Type-Options: nosniff\r\nDate: \r\nConnection: close\r\n\r\n"

func TestTheAnswerOnTheWire(t *testing.T) {
	address := serveWarm(t, false)
	got := raw(t, address, "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Accept-Encoding: gzip, deflate, br|Connection: close")
	date := dateLine.FindString(got)
	when, err := time.Parse(http.TimeFormat, strings.TrimSuffix(strings.TrimPrefix(date, "Date: "), "\r"))
	if age := time.Since(when); err != nil || age.Abs() > time.Minute {
		t.Errorf("the Date is %v old (%v)", age, err)
	}
	got = strings.Replace(got, date, "Date: \r", 1)
	if want := fmt.Sprintf(wantHead, len(wantBody)) + wantBody; got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// Captured requests of the SDKs and tools. P is the path, TOKEN the authorization token.
var clients = []struct{ name, head, want string }{
	{"Go v2", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|User-Agent: Go-http-client/1.1|Accept: application/json|Amz-Sdk-Request: attempt=1; max=3|Authorization: TOKEN|Accept-Encoding: gzip", ""},
	{"Go v1 before 1.15.41", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|User-Agent: aws-sdk-go/1.15.11 (go1.26.8; linux; amd64)|Accept: application/json|Accept-Encoding: gzip", "AuthorizationRequired"},
	{"CRT", "GET P HTTP/1.1|Host: 127.0.0.1|Authorization: TOKEN|Accept: application/json|Accept-Encoding: identity|User-Agent: aws-sdk-crt/ecs-credentials-provider", ""},
	{"object_store", "GET P HTTP/1.1|authorization: TOKEN|accept: */*|user-agent: object_store/0.14.2|host: 127.0.0.1:PORT", ""},
	{"Rust", "GET P HTTP/1.1|accept: application/json|authorization: TOKEN|host: 127.0.0.1:PORT", ""},
	{"OpenDAL", "GET P HTTP/1.1|authorization: TOKEN|accept: */*|host: 127.0.0.1:PORT", ""},
	{"C++", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Accept: */*|authorization: TOKEN|user-agent: aws-sdk-cpp/1.11.900 ua/2.0 md/aws-crt#0.44.1 os/Linux#6.18.44 md/arch#x86_64 lang/c++#C++11 md/GCC#14.2.1 cfg/retry-mode#default", ""},
	{"GDAL before 3.9", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|User-Agent: GDAL/3.8.4|Accept: */*|Accept-Encoding: gzip", "AuthorizationRequired"},
	{"aiobotocore", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Accept: application/json|Authorization: TOKEN|Accept-Encoding: identity|User-Agent: Python/3.11 aiohttp/3.14.5", ""},
	{"minio-py", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Accept-Encoding: identity|User-Agent: python-urllib3/2.8.0|Authorization: TOKEN", ""},
	{"JavaScript v3", "GET P HTTP/1.1|Authorization: TOKEN|Host: 127.0.0.1:PORT|Connection: keep-alive", ""},
	{"JavaScript v2", "GET P HTTP/1.1|User-Agent: aws-sdk-nodejs/2.1693.0 linux/v20.20.2|Accept: application/json|Authorization: TOKEN|Host: 127.0.0.1:PORT|Connection: close", ""},
	{"botocore", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Accept-Encoding: identity|User-Agent: python-urllib3/2.7.0|Accept: application/json|Authorization: TOKEN", ""},
	{"Ruby", "GET P HTTP/1.1|Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3|Accept: */*|User-Agent: Ruby|Authorization: TOKEN|Host: 127.0.0.1:PORT", ""},
	{"Java v2", "GET P HTTP/1.1|Authorization: TOKEN|User-Agent: aws-sdk-java/2.59.1 os/Linux#6.18.44 lang/java#17.0.15 md/OpenJDK_64-Bit_Server_VM#17.0.15+6-Debian-1deb12u1 md/vendor#Debian|Host: 127.0.0.1:PORT|Accept: text/html, image/gif, image/jpeg, */*; q=0.2|Connection: keep-alive", ""},
	{"Java v1", "GET P HTTP/1.1|Authorization: TOKEN|User-Agent: aws-sdk-java/1.12.797 Linux/6.18.44 OpenJDK_64-Bit_Server_VM/17.0.15+6-Debian-1deb12u1 java/17.0.15 vendor/Debian|Accept: */*|Host: 127.0.0.1:PORT|Connection: keep-alive", ""},
	{"old Java v1 and v2", "GET P HTTP/1.1|Authorization: TOKEN|User-Agent: Java/17.0.15|Host: 127.0.0.1:PORT|Accept: text/html, image/gif, image/jpeg, */*; q=0.2|Connection: keep-alive", ""},
	{"Kotlin", "GET P HTTP/1.1|accept: application/json|accept-encoding: identity|authorization: TOKEN|host: 127.0.0.1:PORT|Connection: Keep-Alive|User-Agent: okhttp/5.4.0", ""},
	{"minio-java", "GET P HTTP/1.1|Authorization: TOKEN|Host: 127.0.0.1:PORT|Connection: Keep-Alive|Accept-Encoding: gzip|User-Agent: okhttp/5.5.1", ""},
	{"the JDK's client", "GET P HTTP/1.1|Connection: Upgrade, HTTP2-Settings|Content-Length: 0|Host: 127.0.0.1:PORT|HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA|Upgrade: h2c|User-Agent: Java-http-client/17|Authorization: TOKEN", ""},
	{"Envoy without a token", "GET P HTTP/1.1|host: 127.0.0.1|authorization: ", "AuthorizationRequired"},
	{"Ruby by the relative URI", "GET P HTTP/1.1|Accept: */*|User-Agent: Ruby|Host: 169.254.170.2", "HostNotAllowed"},
	{"IPv6", "GET P HTTP/1.1|Host: [::1]:PORT|Authorization: TOKEN", ""},
	{"n8n", "GET P HTTP/1.1|Host: localhost:PORT|Authorization: Bearer TOKEN", ""},
}

func TestWhatTheSDKsSendIsAnswered(t *testing.T) {
	address := serveWarm(t, true)
	for _, client := range clients {
		t.Run(client.name, func(t *testing.T) {
			conn := dial(t, address)
			r := bufio.NewReader(conn)
			closes := strings.Contains(client.head, "|Connection: close") || client.want != "" // a refusal closes
			for i, path := range []string{"/v1/credentials", "/v1/credentials/", "/v1/credentials/default?x=y"} {
				send(t, conn, address, strings.NewReplacer("GET P ", "GET "+path+" ", "TOKEN", testToken).Replace(client.head))
				response, body := receive(t, r)
				if response.Proto != "HTTP/1.1" || response.Header.Get("Content-Type") != "application/json" ||
					response.ContentLength != int64(len(body)) || response.Header.Get("Date") == "" || len(response.TransferEncoding) != 0 {
					t.Errorf("answer %d has another framing or type: %+v", i, response)
				}
				for _, name := range []string{"Content-Encoding", "Location", "Retry-After", "Upgrade", "Set-Cookie"} {
					if value := response.Header.Get(name); value != "" {
						t.Errorf("%s: %s", name, value)
					}
				}
				switch {
				case client.want == "" && (response.StatusCode != 200 || body != wantBody):
					t.Errorf("%s %s, want the credentials", response.Status, body)
				case client.want != "" && (response.StatusCode != 403 || !strings.Contains(body, `"code":"`+client.want+`"`)):
					t.Errorf("%s %s, want 403 %s", response.Status, body, client.want)
				}
				if response.Close != closes {
					t.Errorf("the server closes the connection: %v, want %v", response.Close, closes)
				}
				if closes {
					return
				}
			}
		})
	}
}

func TestAJDKThatOffersHTTP2IsAnsweredInHTTP1(t *testing.T) {
	address := serveWarm(t, false)
	got := raw(t, address, "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: Upgrade, HTTP2-Settings, close|Content-Length: 0|Upgrade: h2c|HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA")
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || strings.Contains(got, "101") || !strings.HasSuffix(got, wantBody) {
		t.Errorf("%q", got)
	}
}

// A plain net/http server would have answered most of these with the credentials.
func TestMalformedAndMisledRequestsAreRefusedOnTheWire(t *testing.T) {
	address := serveWarm(t, false)
	for _, row := range []struct{ name, head, status, code string }{
		{"another host", "GET /v1/credentials HTTP/1.1|Host: evil.example|Connection: close", "403 Forbidden", "HostNotAllowed"},
		{"an empty host", "GET /v1/credentials HTTP/1.1|Host: |Connection: close", "403 Forbidden", "HostNotAllowed"},
		{"HTTP/1.0 without a host", "GET /v1/credentials HTTP/1.0", "403 Forbidden", "HostNotAllowed"},
		{"an absolute URI of another host", "GET http://evil.example/v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "403 Forbidden", "HostNotAllowed"},
		{"an absolute URI with a user", "GET http://x@127.0.0.1:PORT@evil.example/v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "403 Forbidden", "HostNotAllowed"},
		{"an absolute URI of this machine", "GET http://127.0.0.1:PORT/v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"an absolute URI of this machine, and another host", "GET http://127.0.0.1:PORT/v1/credentials HTTP/1.1|Host: evil.example|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"an absolute URI in upper case", "GET HTTP://LOCALHOST/v1/credentials HTTP/1.1|Host: evil.example|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"an absolute URI in HTTP/1.0", "GET http://localhost/v1/credentials HTTP/1.0|Host: evil.example", "403 Forbidden", "ForwardedRequest"},
		{"an absolute URI of another scheme", "GET https://127.0.0.1:PORT/v1/credentials HTTP/1.1|Host: evil.example|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"an absolute URI without a host", "GET http:/v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"two hosts", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Host: evil.example|Connection: close", "400 Bad Request", "MalformedRequest"},
		{"no host", "GET /v1/credentials HTTP/1.1|Connection: close", "400 Bad Request", "MalformedRequest"},
		{"a length and chunks", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 5|Transfer-Encoding: chunked||0|", "403 Forbidden", "BodyNotAllowed"},
		{"chunks", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: chunked||0|", "403 Forbidden", "BodyNotAllowed"},
		{"a body", "POST /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 4|", "403 Forbidden", "BodyNotAllowed"},
		{"a blank before the colon", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Via : 1.1 proxy|Connection: close", "400 Bad Request", "MalformedRequest"},
		{"two authorizations", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: a|authorization: b|Connection: close", "403 Forbidden", "AuthorizationRepeated"},
		{"a proxy's header in lower case", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|x-forwarded-for: 10.0.0.7|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"a browser's header in upper case", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|SEC-FETCH-SITE: none|Connection: close", "403 Forbidden", "BrowserRequest"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "404 Not Found", "UnknownPath"},
		{"OPTIONS * of another host", "OPTIONS * HTTP/1.1|Host: evil.example|Connection: close", "403 Forbidden", "HostNotAllowed"},
		{"CONNECT", "CONNECT 127.0.0.1:PORT HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"CONNECT, and another host", "CONNECT 127.0.0.1:PORT HTTP/1.1|Host: evil.example|Connection: close", "403 Forbidden", "ForwardedRequest"},
		{"doubled slashes", "GET //v1//credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "404 Not Found", "UnknownPath"},
		{"a way up", "GET /x/../v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "404 Not Found", "UnknownPath"},
		{"an encoded path", "GET /v1%2fcredentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close", "404 Not Found", "UnknownPath"},
		{"headers of more than 8 KiB", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close|X: " + strings.Repeat("x", 8<<10), "431 Request Header Fields Too Large", "MalformedRequest"},
		{"many headers", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close" + strings.Repeat("|X: x", 3000), "431 Request Header Fields Too Large", "MalformedRequest"},
		{"HTTP/3", "GET /v1/credentials HTTP/3.0|Host: 127.0.0.1:PORT", "400 Bad Request", "MalformedRequest"},
		{"an encoding nobody knows", "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: gzip", "400 Bad Request", "MalformedRequest"},
		{"no HTTP at all", "hello", "400 Bad Request", "MalformedRequest"},
		{"HTTP/2", "PRI * HTTP/2.0||SM|", "403 Forbidden", "HostNotAllowed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			conn := dial(t, address)
			send(t, conn, address, row.head)
			response, body := receive(t, bufio.NewReader(conn))
			if response.Header.Get("Content-Type") != "application/json" {
				t.Errorf("an error of type %q", response.Header.Get("Content-Type"))
			}
			if response.Status != row.status || row.code != "" && !strings.Contains(body, `"code":"`+row.code+`"`) {
				t.Errorf("%s %s, want %s %s", response.Status, body, row.status, row.code)
			}
			if !response.Close && row.name != "HTTP/2" {
				t.Error("the connection stays open")
			}
			mustBeSecretFree(t, "the answer", body)
		})
	}
}

// What net/http cannot read is answered in the format of the listener, and counted on the listeners where a program may
// lack credentials because of it.
func TestMalformedRequestsAreAnsweredAsTheListenerSpeaks(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := warm(t)
	o.Metrics = NewMetrics(registry)
	for _, row := range []struct {
		h                 Handler
		contentType, body string
	}{
		{Credentials(o), "application/json", `{"code":"MalformedRequest",`},
		{NewOps(o, registry), "text/plain; charset=utf-8", "the request is not valid HTTP/1.1"},
		{NewAdmin(o, nil, nil), "text/plain; charset=utf-8", "the request is not valid HTTP/1.1"},
	} {
		address := serveTCP(t, func(netip.AddrPort) Handler { return row.h })
		for _, head := range []string{"hello", "GET / HTTP/1.1|Host: 127.0.0.1|Expect: everything"} {
			conn := dial(t, address)
			send(t, conn, address, head)
			response, body := receive(t, bufio.NewReader(conn))
			if response.StatusCode != 400 || response.Header.Get("Content-Type") != row.contentType || !strings.HasPrefix(body, row.body) {
				t.Errorf("%T: %q is answered with %s, %v, %s", row.h, head, response.Status, response.Header, body)
			}
		}
	}
	for listener, want := range map[string]float64{"credentials": 2, "admin": 2, "ops": 0} {
		if got := testutil.ToFloat64(o.Metrics.refusals.WithLabelValues(listener, string(MalformedRequest))); got != want {
			t.Errorf("%s counts %v malformed requests, want %v", listener, got, want)
		}
	}
}

// framings are heads after which it is uncertain, or invisible to a handler, where the next request begins.
var framings = []struct{ name, head string }{
	{"HTTP/1.0 and chunks", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Transfer-Encoding: chunked"},
	{"HTTP/1.0 and chunks, of POST", "POST P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Transfer-Encoding: chunked"},
	{"HTTP/1.0 and chunks, as the first header", "GET P HTTP/1.0|TRANSFER-ENCODING:chunked|Host: 127.0.0.1:PORT|Connection: keep-alive"},
	{"HTTP/1.0 and chunks, without CR", "GET P HTTP/1.0\nHost: 127.0.0.1:PORT\nConnection: keep-alive\nTransfer-Encoding: chunked"},
	{"HTTP/1.0 and chunks, and no length", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Content-Length: 0|Transfer-Encoding: chunked"},
	{"HTTP/1.0 and chunks in a continued line", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Transfer-Encoding:| chunked"},
	{"HTTP/1.0 and an encoding nobody knows", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|transfer-encoding: gzip"},
	{"HTTP/1.0 and an encoding of nothing", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Transfer-Encoding:"},
	{"HTTP/1.0 and chunks with a NUL", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Transfer-Encoding: \x00chunked"},
	{"HTTP/1.0 and a blank before the colon", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Transfer-Encoding : chunked"},
	{"HTTP/1.0 and a length", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Content-Length: 9"},
	{"HTTP/1.0 and another host in a continued line", "GET P HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|X: y| Host: evil.example"},
	{"chunks", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: chunked"},
	{"chunks and a length", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: chunked|Content-Length: 9"},
	{"no length and chunks", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 0|Transfer-Encoding: chunked"},
	{"chunks twice", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: chunked|Transfer-Encoding: chunked"},
	{"chunks and another encoding", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: chunked, identity"},
	{"an encoding that changes nothing", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: identity"},
	{"chunks with a control character", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: \x0bchunked"},
	{"a name with a control character", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding\x0b: chunked"},
	{"a blank before the colon", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding : chunked"},
	{"chunks after a bare CR", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|X: y\rTransfer-Encoding: chunked"},
	{"chunks in a continued line", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding:|\tchunked"},
	{"a continued line that looks like chunks", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|X: y| Transfer-Encoding: chunked"},
	{"a continued line that looks like a length", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|X: y|\tContent-Length: 9"},
	{"a continued line, without CR", "GET P HTTP/1.1\nHost: 127.0.0.1:PORT\nX: y\n Content-Length: 9"},
	{"a continued line of a blank alone", "GET P HTTP/1.1|Host: 127.0.0.1:PORT| |Content-Length: 9"},
	{"a length", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 9"},
	{"a length twice", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 9|Content-Length: 9"},
	{"two lengths", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 0|Content-Length: 9"},
	{"two lengths in a line", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 0, 9"},
	{"the same length twice in a line", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 9, 9"},
	{"a length with a sign", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: +9"},
	{"a length below nothing", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: -9"},
	{"a length of no digits", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length:"},
	{"a length that no integer holds", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Content-Length: 18446744073709551625"},
	{"chunks of a body that the Expect waits with", "GET P HTTP/1.1|Host: 127.0.0.1:PORT|Expect: 100-continue|Transfer-Encoding: chunked"},
}

// No listener answers what may be a body as the next request.
func TestOnlyWhatIsCertainlyARequestIsAnsweredAsOne(t *testing.T) {
	credentials := serveWarm(t, false)
	ops := serveTCP(t, func(netip.AddrPort) Handler { return NewOps(warm(t), prometheus.NewRegistry()) })
	for _, listener := range []struct{ name, address, path string }{{"credentials", credentials, "/v1/credentials"}, {"ops", ops, "/readyz"}} {
		for _, row := range framings {
			t.Run(listener.name+", "+row.name, func(t *testing.T) {
				head := strings.Replace(row.head, " P ", " "+listener.path+" ", 1)
				next := "GET " + listener.path + " HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close"
				got := raw(t, listener.address, head+"||"+next) // until the server closes the connection
				if n := strings.Count(got, "\r\nDate: "); n != 1 {
					t.Errorf("%d answers, want 1: %q", n, got)
				}
				_, status, _ := strings.Cut(got, " ")
				if listener.name == "credentials" && !strings.HasPrefix(status, "400 ") && !strings.HasPrefix(status, "403 ") {
					t.Errorf("answered with %q", got)
				}
			})
		}
	}
}

// These are unambiguous, and what follows is a request.
func TestRequestsAreAnsweredOneAfterTheOther(t *testing.T) {
	address := serveWarm(t, false)
	for _, head := range []string{
		"GET /v1/credentials HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive",
		"GET /v1/credentials HTTP/1.0|Host: 127.0.0.1:PORT|Connection: keep-alive|Content-Length: 0|User-Agent: Transfer-Encoding: chunked",
		"GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|User-Agent: curl HTTP/1.0|Content-Length: 0|TE: trailers",
		"GET /v1/credentials HTTP/1.1\nHost: 127.0.0.1:PORT\nContent-Length: 0\nContent-Length: 0",
	} {
		conn := dial(t, address)
		r := bufio.NewReader(conn)
		for range 2 {
			send(t, conn, address, head+"||"+head)
			for range 2 {
				if response, body := receive(t, r); response.StatusCode != 200 || body != wantBody {
					t.Errorf("%q: %s %s", head, response.Status, body)
				}
			}
		}
	}
}

// However the network splits the bytes, the same ones are accepted.
func TestFramingIsSeenAcrossReads(t *testing.T) {
	for _, row := range []struct{ text, taken string }{
		{"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "GET / HTTP/1.0\r\nTransfer-Encodin"},
		{"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\nA: b\r\ntransfer-encoding: chunked\r\n\r\n", "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\nA: b\r\ntransfer-encodin"},
		{"GET / HTTP/1.0\n\nGET / HTTP/1.1\nTransfer-Encoding: chunked\n\n", ""},
		{"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET / HTTP/1.0\r\nTransfer-Encodin"},
		{"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nxyz\r\nGET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nxyz\r\nGET / HTTP/1.0\r\nTransfer-Encodin"},
		{"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n", "GET / HTTP/1.1\r\nA: b\r\n"},
		{"GET / HTTP/1.0\r\nTransfer: x\r\nX-Transfer-Encoding: y\r\n\r\n", ""},
		{"GET /a/long/path/or/so HTTP/1.0\r\nA: b\r\nC-D: efghijklmnopqrstuvwxyz\r\nTransfer-Encoding: y\r\n\r\n", "GET /a/long/path/or/so HTTP/1.0\r\nA: b\r\nC-D: efghijklmnopqrstuvwxyz\r\nTransfer-Encodin"},
		{"GET /  HTTP/1.0\r\nTransfer-Encoding: y\r\n\r\n", "GET /  HTTP/1.0\r\nTransfer-Encodin"},
	} {
		if row.taken == "" {
			row.taken = row.text
		}
		for first := range len(row.text) {
			for second := first; second <= len(row.text); second++ {
				var f framing
				taken := ""
				conn := io.MultiReader(strings.NewReader(row.text[:first]), strings.NewReader(row.text[first:second]), strings.NewReader(row.text[second:]))
				for {
					p := make([]byte, 512)
					n, err := f.read(conn, p)
					taken += string(p[:n])
					if err != nil {
						if wanted := row.taken != row.text; errors.Is(err, errFraming) != wanted {
							t.Fatalf("%q ends with %v", row.text, err)
						}
						break
					}
				}
				if taken != row.taken {
					t.Fatalf("of %q, cut at %d and %d, %q was taken, want %q", row.text, first, second, taken, row.taken)
				}
			}
		}
	}
}

func TestHeadersOfNearlyEightKiBAreRead(t *testing.T) {
	address := serveWarm(t, false)
	got := raw(t, address, "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close|X: "+strings.Repeat("x", 8<<10-200))
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("%q", got)
	}
}

// start serves h in memory; in a synctest bubble, with fake time.
func start(t *testing.T, h http.Handler, grace time.Duration) (l *pipes, stop context.CancelFunc, ended <-chan error) {
	t.Helper()
	l = newPipes()
	served, ok := h.(Handler)
	if !ok {
		served = bare{h}
	}
	ctx, stop := context.WithCancel(t.Context())
	result, gone := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		result <- Serve(ctx, l, served, MaxConnections, grace, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		stop()
		<-gone
	})
	return l, stop, result
}

func closed(conn net.Conn) bool {
	_, err := conn.Read(make([]byte, 1))
	return err == io.EOF
}

func TestAConnectionMayRestForAMinuteBetweenRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, Credentials(warm(t)), time.Second)
		conn := l.dial()
		for range 3 {
			for range 2 {
				if status, err := get(conn, "/v1/credentials"); status != "200 OK" {
					t.Fatalf("%q, %v", status, err)
				}
			}
			time.Sleep(65 * time.Second)
		}
		if status, err := get(conn, "/v1/credentials"); status != "200 OK" {
			t.Fatalf("%q, %v", status, err)
		}
		rested := time.Now()
		if !closed(conn) || time.Since(rested) != idleTimeout {
			t.Errorf("an idle connection was cut after %v, want %v", time.Since(rested), idleTimeout)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestASlowHeadIsCutAfterTwoSeconds(t *testing.T) {
	for name, head := range map[string]string{
		"silence":      "",
		"half a line":  "GET /v1/cre",
		"half a head":  "GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1:9911\r\n",
		"one byte ago": "G",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, stop, ended := start(t, Credentials(warm(t)), time.Second)
				started := time.Now()
				conn := l.dial()
				io.WriteString(conn, head)
				rest, err := io.ReadAll(conn)
				if took := time.Since(started); took != 2*time.Second || err != nil {
					t.Errorf("cut after %v with %q, %v; want 2s", took, rest, err)
				}
				if strings.Contains(string(rest), " 200 OK") {
					t.Errorf("answered: %q", rest)
				}
				stop()
				<-ended
			})
		})
	}
}

func TestAClientThatDoesNotReadIsCutAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			started := time.Now()
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					took <- time.Since(started)
					return
				}
			}
		})
		l, stop, ended := start(t, h, time.Second)
		conn := l.dial()
		defer conn.Close()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		if got := <-took; got != 5*time.Second {
			t.Errorf("cut after %v, want 5s", got)
		}
		stop()
		<-ended
	})
}

func TestABodyThatIsReadMayTakeFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		l, stop, ended := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			started := time.Now()
			io.Copy(io.Discard, r.Body)
			took <- time.Since(started)
		}), time.Second)
		conn := l.dial()
		defer conn.Close()
		io.WriteString(conn, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
		if got := <-took; got != 5*time.Second {
			t.Errorf("cut after %v, want 5s", got)
		}
		stop()
		<-ended
	})
}

func TestRequestsUnderWayAreAnsweredAtTheEnd(t *testing.T) {
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(3 * time.Second)
		}
		io.WriteString(w, "done")
	})
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, slow, 5*time.Second)
		idle := l.dial()
		if status, err := get(idle, "/"); status != "200 OK" {
			t.Fatalf("%q, %v", status, err)
		}
		busy := l.dial()
		answer := make(chan string)
		go func() {
			status, err := get(busy, "/slow")
			answer <- fmt.Sprint(status, " ", err)
		}()
		synctest.Wait()
		started := time.Now()
		stop()
		if !closed(idle) || time.Since(started) != 0 {
			t.Errorf("an idle connection was closed after %v, want at once", time.Since(started))
		}
		select {
		case <-l.closed:
		default:
			t.Error("the listener still takes connections")
		}
		if got := <-answer; got != "200 OK <nil>" || time.Since(started) != 3*time.Second {
			t.Errorf("the request under way ended in %s after %v, want 200 after 3s", got, time.Since(started))
		}
		// Shutdown polls at least every half second.
		if err := <-ended; err != nil || time.Since(started) > 3500*time.Millisecond {
			t.Errorf("Serve returned %v after %v", err, time.Since(started))
		}
	})
}

func TestARequestThatHangsIsCutAfterTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		hangs := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			close(released)
		})
		l, stop, ended := start(t, hangs, 5*time.Second)
		conn := l.dial()
		answer := make(chan error)
		go func() {
			_, err := get(conn, "/")
			answer <- err
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		started := time.Now()
		stop()
		if err := <-answer; err == nil {
			t.Error("the hung request was answered")
		}
		if err := <-ended; err != nil || time.Since(started) != 5*time.Second {
			t.Errorf("Serve returned %v after %v, want nil after 5s", err, time.Since(started))
		}
		<-released // the request's context has ended too
	})
}

func TestAListenerThatFailsEndsServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, bare{http.NotFoundHandler()}, MaxConnections, time.Second, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("Serve on a closed listener returned nil")
	}
}
