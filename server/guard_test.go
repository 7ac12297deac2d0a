package server

import (
	"bufio"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func host(name string) func(*http.Request) {
	return func(r *http.Request) { r.Host = name }
}

func TestHostMustNameThisMachine(t *testing.T) {
	h := Credentials(warm(t))
	for name, allowed := range map[string]bool{
		"127.0.0.1":                      true,
		"127.0.0.1:9911":                 true,
		"127.1.2.3":                      true,
		"127.1.2.3:9911":                 true,
		"localhost":                      true,
		"localhost:9911":                 true,
		"LOCALHOST":                      true,
		"LocalHost:9911":                 true,
		"[::1]":                          true,
		"[::1]:9911":                     true,
		"[0:0:0:0:0:0:0:1]:9911":         true,
		"[::ffff:127.0.0.1]":             true,
		"":                               false,
		":9911":                          false,
		"127.0.0.1:":                     false,
		"127.0.0.1:9912":                 false,
		"127.0.0.1:80":                   false,
		"127.0.0.1:x":                    false,
		"127.0.0.1:-9911":                false,
		"127.0.0.1:75447":                false, // 9911 + 1<<16
		"127.0.0.1:4294977207":           false, // 9911 + 1<<32
		"127.0.0.1:18446744073709561527": false, // 9911 + 1<<64
		"127.0.0.1:9911:9911":            false,
		"127.0.0.1.":                     false,
		"127.0.0.1.:9911":                false,
		"127.1":                          false,
		"127.0.0.01":                     false,
		"0x7f.0.0.1":                     false,
		"2130706433":                     false,
		"0.0.0.0":                        false,
		"10.0.0.7:9911":                  false,
		"localhost.":                     false,
		"localhost:9912":                 false,
		"localhost.evil.example":         false,
		"evil.example":                   false,
		"evil.example:9911":              false,
		"127.0.0.1.evil.example":         false,
		"127.0.0.1@evil.example":         false,
		"evil.example@127.0.0.1":         false,
		"user:pass@localhost:9911":       false,
		"::1":                            false,
		"::1:9911":                       false,
		"[::1":                           false,
		"[::1]]":                         false,
		"[::1]x":                         false,
		"[::1]:9912":                     false,
		"[::1%25lo]":                     false,
		"[::]":                           false,
		"[127.0.0.1]":                    false,
		"[fd00::1]:9911":                 false,
		"169.254.170.2":                  false,
		"169.254.170.23":                 false,
		"169.254.169.254":                false,
		"[fd00:ec2::23]":                 false,
		"irsa-sidecar.default.svc":       false,
		"127.0.0.1, evil.example":        false,
		" 127.0.0.1":                     false,
		"127.0.0.1:9911 ":                false,
		"localhost\x00.evil":             false,
		strings.Repeat("1", 100000):      false,
	} {
		w := ask(h, request("GET", "/v1/credentials", host(name)))
		if allowed && w.Code != 200 {
			t.Errorf("Host %.60q: %d %s, want 200", name, w.Code, w.Body)
		} else if !allowed {
			mustRefuse(t, w, HostNotAllowed)
		}
		if t.Failed() {
			t.Fatalf("with Host %.60q", name)
		}
	}
}

func TestPeerMustBeThisMachine(t *testing.T) {
	h := Credentials(warm(t))
	for peer, allowed := range map[string]bool{
		"127.0.0.1:1":                  true,
		"127.8.8.8:40000":              true,
		"[::1]:40000":                  true,
		"[::ffff:127.0.0.1]:40000":     true,
		"10.0.0.7:40000":               false,
		"192.168.1.1:40000":            false,
		"169.254.170.2:40000":          false,
		"0.0.0.0:40000":                false,
		"[fe80::1%eth0]:40000":         false,
		"[::ffff:10.0.0.7]:40000":      false,
		"[fd00::1]:40000":              false,
		"localhost:40000":              false,
		"127.0.0.1":                    false,
		"":                             false,
		"@":                            false,
		"127.0.0.1:40000, 10.0.0.7:80": false,
	} {
		w := ask(h, request("GET", "/v1/credentials", from(peer)))
		if allowed && w.Code != 200 {
			t.Errorf("from %q: %d %s, want 200", peer, w.Code, w.Body)
		} else if !allowed {
			mustRefuse(t, w, PeerNotAllowed)
		}
		if t.Failed() {
			t.Fatalf("from %q", peer)
		}
	}
}

func TestHeadersOfProxiesAndBrowsersAreRefused(t *testing.T) {
	h := Credentials(warm(t))
	for name, want := range map[string]Refusal{
		"X-Forwarded-For":   ForwardedRequest,
		"X-Forwarded-Host":  ForwardedRequest,
		"X-Forwarded-Proto": ForwardedRequest,
		"X-Forwarded-":      ForwardedRequest,
		"Forwarded":         ForwardedRequest,
		"Via":               ForwardedRequest,
		"X-Real-Ip":         ForwardedRequest,
		"Origin":            BrowserRequest,
		"Referer":           BrowserRequest,
		"Sec-Fetch-Site":    BrowserRequest,
		"Sec-Fetch-Mode":    BrowserRequest,
		"Sec-Fetch-Dest":    BrowserRequest,

		// What the SDKs, curl and tracers send.
		"Amz-Sdk-Request": "", "Accept": "", "Accept-Encoding": "", "Http2-Settings": "", "Upgrade": "", "Cookie": "",
		"Traceparent": "", "X-Amzn-Trace-Id": "", "X-Forwarded": "", "Sec-Fetch": "", "Authorization": "",
	} {
		for _, value := range []string{"", "127.0.0.1"} {
			w := ask(h, request("GET", "/v1/credentials", header(name, value)))
			if want == "" && w.Code != 200 {
				t.Errorf("%s: %d %s, want 200", name, w.Code, w.Body)
			} else if want != "" {
				mustRefuse(t, w, want)
			}
			if t.Failed() {
				t.Fatalf("with %s: %q", name, value)
			}
		}
	}
}

// A proxy's header counts on every listener, even together with a browser's.
func TestAProxyIsRefusedAlsoForABrowser(t *testing.T) {
	credentials, admin := Credentials(warm(t)), NewAdmin(warm(t), nil, nil)
	for range 50 { // the order of the headers is random
		r := request("GET", "/", header("Sec-Fetch-Site", "same-origin"), header("Sec-Fetch-Mode", "cors"), header("X-Forwarded-For", "10.9.9.9"))
		mustRefuse(t, ask(credentials, r), ForwardedRequest)
		if w := ask(admin, r); w.Code != 403 || !strings.HasPrefix(w.Body.String(), "ForwardedRequest: ") {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}

// A refusal that its guard does not list would have no zero to count from.
func TestGuardsAnswerWithNothingButTheirOwnRefusals(t *testing.T) {
	for _, h := range []Handler{Credentials(withToken(t, warm(t))), NewAdmin(warm(t), nil, nil)} {
		var l *listener
		switch h := h.(type) {
		case *credentials:
			l = &h.listener
		case *Admin:
			l = &h.listener
		}
		for i, g := range l.guards {
			answered := map[Refusal]bool{}
			for _, edit := range []func(*http.Request){
				from("10.0.0.7:40000"), host("evil.example"), header("Via", "1.1 proxy"), header("Origin", "http://127.0.0.1:9911"),
				func(r *http.Request) { r.ContentLength = 1 }, header("Authorization", "a", "b"), header("Authorization"), header("Authorization", "wrong"),
			} {
				if refusal, _ := g.check(request("GET", "/", edit)); refusal != "" {
					answered[refusal] = true
				}
			}
			if got, want := slices.Sorted(maps.Keys(answered)), slices.Sorted(slices.Values(g.refusals)); !slices.Equal(got, want) {
				t.Errorf("guard %d of %s answers with %v, and lists %v", i, l.name, got, want)
			}
		}
	}
}

func TestGuardsStandBeforeEveryPathAndMethod(t *testing.T) {
	h := Credentials(withToken(t, warm(t)))
	for _, target := range []string{"/", "/v1/credentials", "/v1/credentials/nobody", "/v1/identity", "/v1/identity/default", "/nothing", "//v1//credentials"} {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "TRACE"} {
			for want, edit := range map[Refusal]func(*http.Request){
				PeerNotAllowed:        from("10.0.0.7:40000"),
				HostNotAllowed:        host("evil.example"),
				ForwardedRequest:      header("Via", "1.1 proxy"),
				BrowserRequest:        header("Origin", "http://127.0.0.1:9911"),
				AuthorizationRepeated: header("Authorization", testToken, testToken),
				AuthorizationRequired: header("Authorization"),
				AuthorizationRejected: header("Authorization", "wrong"),
			} {
				r := request(method, target, header("Authorization", testToken), edit)
				if w := ask(h, r); w.Code != 403 || !strings.Contains(w.Body.String(), string(want)) {
					t.Errorf("%s %s: %d %s, want 403 %s", method, target, w.Code, w.Body, want)
				}
			}
		}
	}
}

func TestABodyIsRefusedAndTheConnectionClosed(t *testing.T) {
	h := Credentials(warm(t))
	for name, edit := range map[string]func(*http.Request){
		"a length":              func(r *http.Request) { r.ContentLength = 1 },
		"no length":             func(r *http.Request) { r.ContentLength = -1 },
		"chunks":                func(r *http.Request) { r.ContentLength, r.TransferEncoding = -1, []string{"chunked"} },
		"chunks, and no length": func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(h, request("GET", "/v1/credentials", edit))
			mustRefuse(t, w, BodyNotAllowed)
			if got := w.Header().Get("Connection"); got != "close" {
				t.Errorf("Connection: %q", got)
			}
		})
	}
}

func TestABodyThatNeverComesKeepsNobodyWaiting(t *testing.T) {
	for _, head := range []string{
		"Host: 127.0.0.1:9911\r\nContent-Length: 1000",
		"Host: evil.example\r\nContent-Length: 1000",
		"Host: 127.0.0.1:9911\r\nVia: 1.1 proxy\r\nTransfer-Encoding: chunked",
		"Host: 127.0.0.1:9911\r\nContent-Length: 1000\r\nExpect: 100-continue",
	} {
		synctest.Test(t, func(t *testing.T) {
			l, stop, ended := start(t, Credentials(warm(t)), time.Second)
			conn := l.dial()
			defer conn.Close()
			io.WriteString(conn, "POST /v1/credentials HTTP/1.1\r\n"+head+"\r\n\r\n")
			response, _ := receive(t, bufio.NewReader(conn))
			if response.StatusCode != 403 || !response.Close || time.Since(epoch) != 0 {
				t.Errorf("%q: %s after %v, closing %v; want 403 at once, closing", head, response.Status, time.Since(epoch), response.Close)
			}
			stop()
			<-ended
		})
	}
}

func TestAuthorizationIsAskedFor(t *testing.T) {
	h := Credentials(withToken(t, warm(t)))
	for _, row := range []struct {
		name   string
		values []string
		want   Refusal
	}{
		{"none", nil, AuthorizationRequired},
		{"an empty one, as Envoy sends it", []string{""}, AuthorizationRequired},
		{"two empty ones", []string{"", ""}, AuthorizationRepeated},
		{"two that are right", []string{testToken, testToken}, AuthorizationRepeated},
		{"the right one first", []string{testToken, "wrong"}, AuthorizationRepeated},
		{"raw", []string{testToken}, ""},
		{"Bearer", []string{"Bearer " + testToken}, ""},
		{"bearer twice", []string{"Bearer Bearer " + testToken}, AuthorizationRejected},
		{"Bearer alone", []string{"Bearer "}, AuthorizationRejected},
		{"Basic", []string{"Basic " + testToken}, AuthorizationRejected},
		{"its beginning", []string{testToken[:len(testToken)-1]}, AuthorizationRejected},
		{"more than it", []string{testToken + "x"}, AuthorizationRejected},
		{"in lower case", []string{strings.ToLower(testToken)}, AuthorizationRejected},
		{"quoted", []string{`"` + testToken + `"`}, AuthorizationRejected},
		{"of 8000 bytes", []string{strings.Repeat("x", 8000)}, AuthorizationRejected},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := ask(h, request("GET", "/v1/credentials", header("Authorization", row.values...)))
			if row.want != "" {
				mustRefuse(t, w, row.want)
			} else if w.Code != 200 || w.Body.String() != wantBody {
				t.Errorf("%d %s, want the credentials", w.Code, w.Body)
			}
		})
	}
}

func TestWrongTokensBanNobody(t *testing.T) {
	h := Credentials(withToken(t, warm(t)))
	for range 50 {
		mustRefuse(t, ask(h, request("GET", "/v1/credentials", header("Authorization", "wrong"))), AuthorizationRejected)
	}
	if w := ask(h, request("GET", "/v1/credentials", header("Authorization", testToken))); w.Code != 200 {
		t.Errorf("the right one after 50 wrong ones: %d %s", w.Code, w.Body)
	}
}

func TestAuthorizationIsIgnoredWhereNoneIsAskedFor(t *testing.T) {
	h := Credentials(warm(t))
	if w := ask(h, request("GET", "/v1/credentials", header("Authorization", "whatever"))); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	mustRefuse(t, ask(h, request("GET", "/v1/credentials", header("Authorization", "a", "b"))), AuthorizationRepeated)
}
