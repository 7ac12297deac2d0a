package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// elsewhere is where the kubelet, Prometheus and all others in the cluster are.
var elsewhere = from("10.0.0.7:40000")

func TestLivenessAsksNobody(t *testing.T) {
	asked := func(context.Context) (cache.Credentials, error) {
		t.Error("a probe made an exchange")
		return cache.Credentials{}, io.EOF
	}
	h := NewOps(Options{Profiles: serving(profileOf(asked))}, prometheus.NewRegistry())
	for path, want := range map[string]int{"/livez": 200, "/healthz": 200, "/readyz": 503, "/startupz": 503, "/": 404, "/metrics": 200} {
		if w := ask(h, request("GET", path, elsewhere)); w.Code != want {
			t.Errorf("GET %s: %d %s, want %d", path, w.Code, w.Body, want)
		} else if w.Header().Get(Mark) != "ops" {
			t.Errorf("GET %s: no %s in %v", path, Mark, w.Header())
		}
	}
	if w := ask(h, request("GET", "/livez", elsewhere)); w.Body.String() != "ok\n" || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

func TestDrainingIsNotReadyButAliveAndStarted(t *testing.T) {
	h := NewOps(warm(t), prometheus.NewRegistry())
	mustSay := func(path string, code int, text string) {
		t.Helper()
		if w := ask(h, request("GET", path, elsewhere)); w.Code != code || !strings.Contains(w.Body.String(), text) {
			t.Errorf("GET %s: %d %q, want %d %q", path, w.Code, w.Body, code, text)
		}
	}
	mustSay("/readyz", 200, "default: ready, for another ")
	mustSay("/startupz", 200, "default: started\n")
	h.Drain()
	mustSay("/readyz", 503, "not ready: the sidecar is shutting down\n")
	mustSay("/startupz", 200, "default: started\n")
	mustSay("/livez", 200, "ok\n")
	mustSay("/healthz", 200, "ok\n")
}

func TestReadinessEndsWithTheLastMinuteAndStartedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var outage atomic.Bool
		p := profileOf(func(context.Context) (cache.Credentials, error) {
			if outage.Load() {
				return cache.Credentials{}, &cache.FetchError{Reason: cache.EndpointUnreachable, Message: testMessage}
			}
			c := testCredentials()
			c.Expiration = time.Now().Add(time.Hour)
			return c, nil
		})
		h := NewOps(Options{Profiles: serving(p)}, prometheus.NewRegistry())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { p.Cache.Run(ctx); close(ended) }()
		synctest.Wait()
		outage.Store(true)
		for _, row := range []struct {
			at   time.Duration
			code int
			text string
		}{
			{0, 200, "default: ready, for another 1h0m0s\n"},
			{59*time.Minute - 1, 200, "default: ready, for another 1m0s\n"},
			{59 * time.Minute, 503, "default: not ready: the credentials expire in 1m0s\nEndpointUnreachable\nhint: " + cache.EndpointUnreachable.Advice() + "\n"},
			{time.Hour - time.Second, 503, "default: not ready: the credentials expire in 1s\n"},
			{time.Hour, 503, "default: not ready: there are no valid credentials\n"},
		} {
			time.Sleep(time.Until(epoch.Add(row.at)))
			if w := ask(h, request("GET", "/readyz", elsewhere)); w.Code != row.code || !strings.HasPrefix(w.Body.String(), row.text) {
				t.Errorf("after %v: %d %q, want %d %q", row.at, w.Code, w.Body, row.code, row.text)
			}
			if w := ask(h, request("GET", "/startupz", elsewhere)); w.Code != 200 {
				t.Errorf("after %v it has not started: %s", row.at, w.Body)
			}
		}
		cancel()
		<-ended
	})
}

func TestOneProfileThatIsNotReadyIsEnoughAndIsNamed(t *testing.T) {
	o := and(warm(t), named("writer", fails(cache.AccessDenied)))
	h := NewOps(o, prometheus.NewRegistry())
	w := ask(h, request("GET", "/readyz", elsewhere))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "default: ready, ") || !strings.Contains(w.Body.String(), "writer: not ready: there are no valid credentials\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWhoWeAreIsToldToThisMachineOnly(t *testing.T) {
	denied := named("denied", fails(cache.AccessDenied))
	denied.Cache.Get(t.Context())
	o := and(warm(t), denied)
	ops, admin := NewOps(o, prometheus.NewRegistry()), NewAdmin(o, func() {}, func() {})
	tells := func(h http.Handler, path string, edits ...func(*http.Request)) (told []string) {
		w := ask(h, request("GET", path, edits...))
		mustBeSecretFree(t, path, w.Body.String())
		for _, word := range []string{testRole, testIdentity, testAccount, testMessage} {
			if strings.Contains(w.Body.String(), word) {
				told = append(told, word)
			}
		}
		return told
	}
	if told := tells(admin, "/"); len(told) != 4 {
		t.Errorf("the page tells loopback only %q", told)
	}
	for _, name := range []string{"127.0.0.1:9913", "localhost:30001", "LOCALHOST", "[::1]:8080", "127.0.0.1"} { // kubectl port-forward has a port of its own
		if told := tells(admin, "/", host(name)); len(told) != 4 {
			t.Errorf("the page tells Host %s only %q", name, told)
		}
	}
	// An old service mesh connects to loopback for every caller.
	for name, edit := range map[string]func(*http.Request){
		"the mesh's header":   header("X-Forwarded-For", "10.9.9.9"),
		"another proxy's":     header("Via", "1.1 envoy"),
		"the Pod's address":   host("10.0.0.7:9913"),
		"the name of the Pod": host("app-0.app.default.svc:9913"),
		"a rebound name":      host("evil.example"),
		"no host":             host(""),
		"a foreign page":      header("Sec-Fetch-Site", "cross-site"),
		"another machine":     elsewhere,
		"a proxy's target":    func(r *http.Request) { r.URL.Scheme, r.URL.Host = "http", r.Host },
	} {
		if w := ask(admin, request("GET", "/", edit)); w.Code != http.StatusForbidden || w.Header().Get("Connection") != "close" || tells(admin, "/", edit) != nil {
			t.Errorf("the page to %s: %d %v %s", name, w.Code, w.Header(), w.Body)
		}
	}
	for _, path := range []string{"/", "/readyz", "/startupz", "/livez", "/healthz", "/metrics", "/quitquitquit", "/reload", "/nothing", "/v1/identity", "/v1/credentials"} {
		for _, peer := range []string{"10.0.0.7:40000", "[fd00::7]:40000", "", "127.0.0.1", "127.0.0.1:40000"} {
			if told := tells(ops, path, from(peer)); told != nil {
				t.Errorf("GET %s on the ops listener tells %q: %q", path, peer, told)
			}
			forwarded := header("X-Forwarded-For", "127.0.0.1")
			if told := tells(admin, path, from(peer), forwarded, host("127.0.0.1:9913")); told != nil {
				t.Errorf("GET %s reveals this to %q, which claims to be loopback: %q", path, peer, told)
			}
		}
	}
}

func TestThePageForBrowsersEscapesAndLoadsNothing(t *testing.T) {
	p := profileOf(func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{}, &cache.FetchError{Reason: cache.NotAnSTSEndpoint, Message: "the answer is <script>alert(1)</script>"}
	})
	p.Cache.Get(t.Context())
	h := NewAdmin(Options{Profiles: serving(p), Default: testProfile, Address: testAddress, Version: "<b>"}, nil, nil)
	w := ask(h, request("GET", "/"))
	if body := strings.Replace(w.Body.String(), "<script>"+refetch+"</script>", "", 1); strings.Contains(body, "<script>") || strings.Contains(body, "<b>") || !strings.Contains(body, "&lt;script&gt;") {
		t.Errorf("%s", body)
	}
	if body := strings.ReplaceAll(w.Body.String(), "FULL_URI is http://127.0.0.1:9911/v1/credentials<", ""); strings.Contains(body, "//") || strings.Contains(body, "src=") || strings.Contains(body, "url(") || strings.Contains(body, "@import") {
		t.Errorf("the page names something to load:\n%s", body)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": browserPolicy,
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestTheOpsListenerServesNoCredentialsAndNoProfiles(t *testing.T) {
	h := NewOps(warm(t), prometheus.NewRegistry())
	for _, path := range []string{"/v1/credentials", "/v1/identity", "/debug/pprof/", "/debug/vars", "/quitquitquit", "/reload", "/", "//livez", "/livez/../v1/credentials"} {
		for _, method := range []string{"GET", "POST"} {
			w := ask(h, request(method, path))
			if w.Code != 404 {
				t.Errorf("%s %s: %d %s, want 404", method, path, w.Code, w.Body)
			}
			mustBeSecretFree(t, path, w.Body.String())
		}
	}
	for _, path := range []string{"/livez", "/healthz", "/readyz", "/startupz", "/metrics"} {
		if w := ask(h, request("POST", path)); w.Code != 405 || w.Header().Get("Allow") != "GET" {
			t.Errorf("POST %s: %d, Allow %q; want 405, GET", path, w.Code, w.Header().Get("Allow"))
		}
	}
}

func TestTheSidecarIsCommandedFromInsideThePodOnlyAndOnlyWhereAllowed(t *testing.T) {
	for _, row := range []struct {
		name   string
		method string
		edit   func(*http.Request)
		code   int
		obeys  bool
	}{
		{"from here", "POST", from("127.0.0.1:40000"), 200, true},
		{"from here by IPv6", "POST", from("[::1]:40000"), 200, true},
		{"from elsewhere", "POST", elsewhere, 403, false},
		{"by a page", "POST", header("Origin", "http://127.0.0.1:9913"), 403, false},
		{"by a page without an origin", "POST", header("Origin", "null"), 403, false},
		{"by a browser", "POST", header("Sec-Fetch-Site", "same-origin"), 403, false},
		{"through a mesh", "POST", header("X-Forwarded-For", "10.9.9.9"), 403, false},
		{"through a proxy, by its target", "POST", func(r *http.Request) { r.URL.Scheme, r.URL.Host = "http", r.Host }, 403, false},
		{"by another name", "POST", host("evil.example"), 403, false},
		{"with GET", "GET", from("127.0.0.1:40000"), 405, false},
		{"with HEAD", "HEAD", from("127.0.0.1:40000"), 405, false},
	} {
		for _, path := range []string{"/quitquitquit", "/reload"} {
			t.Run(row.name+path, func(t *testing.T) {
				var obeyed string
				h := NewAdmin(warm(t), func() { obeyed = "/reload" }, func() { obeyed = "/quitquitquit" })
				w := ask(h, request(row.method, path, row.edit))
				if w.Code != row.code || (obeyed == path) != row.obeys || (obeyed != "") != row.obeys {
					t.Errorf("%d %s, obeyed: %q; want %d, %v", w.Code, w.Body, obeyed, row.code, row.obeys)
				}
				if row.code == 405 && (w.Header().Get("Allow") != "POST" || w.Body.String() != "this path answers only POST\n") {
					t.Errorf("Allow: %q, %q", w.Header().Get("Allow"), w.Body)
				}
			})
		}
	}
	for _, path := range []string{"/quitquitquit", "/reload", "/metrics", "/livez"} {
		if w := ask(NewAdmin(warm(t), nil, nil), request("POST", path)); w.Code != 404 {
			t.Errorf("POST %s where it is not allowed: %d %s", path, w.Code, w.Body)
		}
	}
}

// All simultaneous requests for /metrics get one text: it is made once, and never compressed.
func TestMetricsAreMadeOnceForAllWhoAskAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 200
		made, proceed := 0, make(chan struct{})
		registry := prometheus.NewRegistry()
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slow", Help: "Slow."}, func() float64 {
			made++ // by one goroutine at a time, or the race detector says so
			<-proceed
			return 1
		}))
		h := NewOps(warm(t), registry)
		answers := make(chan *httptest.ResponseRecorder, many)
		for range many {
			go func() {
				answers <- ask(h, request("GET", "/metrics", elsewhere, header("Accept-Encoding", "gzip"), header("Accept", "application/openmetrics-text")))
			}()
		}
		synctest.Wait()
		close(proceed)
		for range many {
			w := <-answers
			if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") || w.Header().Get("Content-Encoding") != "" ||
				w.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) || !strings.Contains(w.Body.String(), "\nslow 1\n") {
				t.Fatalf("%d %v\n%s", w.Code, w.Header(), w.Body)
			}
		}
		if made != 1 {
			t.Errorf("they were made %d times", made)
		}
		ask(h, request("GET", "/metrics"))
		if made != 2 {
			t.Errorf("the next one got an old text: made %d times", made)
		}
	})
}

// A restart helps only if the refresh is stuck, and it loses valid credentials: so /livez fails only if it is stuck and
// there are none.
func TestLivenessFailsWhereTheRefreshIsStuckAndNothingIsValid(t *testing.T) {
	for _, row := range []struct {
		name  string
		first time.Duration // lifetime of the first exchange's credentials; zero means none
		at    time.Duration
		code  int
	}{
		{"an exchange that takes its time", 0, 35 * time.Second, 200},
		{"an exchange that never ends", 0, 35*time.Second + 1, 503},
		{"an exchange that never ends, and valid credentials", time.Hour, time.Hour - 1, 200},
		{"an exchange that never ends, and they have expired", time.Hour, time.Hour, 503},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				never, calls := make(chan struct{}), 0
				p := profileOf(func(context.Context) (cache.Credentials, error) {
					if calls++; calls == 1 && row.first != 0 {
						c := testCredentials()
						c.Expiration = time.Now().Add(row.first)
						return c, nil
					}
					<-never // it ignores its context
					return cache.Credentials{}, io.EOF
				})
				h := NewOps(Options{Profiles: serving(p)}, prometheus.NewRegistry())
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { p.Cache.Run(ctx); close(ended) }()
				time.Sleep(row.at)
				for _, path := range []string{"/livez", "/healthz"} {
					if w := ask(h, request("GET", path, elsewhere)); w.Code != row.code {
						t.Errorf("GET %s: %d %s, want %d", path, w.Code, w.Body, row.code)
					}
				}
				close(never)
				cancel()
				<-ended
			})
		})
	}
}

func TestLivenessOutlivesAnOutageHoweverLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := profileOf(fails(cache.EndpointUnreachable))
		h := NewOps(Options{Profiles: serving(p)}, prometheus.NewRegistry())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { p.Cache.Run(ctx); close(ended) }()
		for range 24 * 60 {
			time.Sleep(time.Minute)
			if w := ask(h, request("GET", "/livez", elsewhere)); w.Code != 200 {
				t.Fatalf("after %v: %d %s", time.Since(epoch), w.Code, w.Body)
			}
		}
		cancel()
		<-ended
	})
}

func TestMetricsHaveTheNamesAndNothingThatACallerChooses(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := Profile{RoleARN: testRole, Cache: cache.New(issues(testCredentials()), cache.Options{Profile: testProfile, Metrics: cache.NewMetrics(registry)})}
	o := withToken(t, Options{Profiles: serving(p), Default: testProfile, Address: testAddress, Metrics: NewMetrics(registry)})
	h, ops, admin := Credentials(o), NewOps(o, registry), NewAdmin(o, nil, nil)
	right := header("Authorization", testToken)
	for range 2 {
		ask(h, request("GET", "/v1/credentials", right))
	}
	for _, path := range []string{"/v1/credentials/default", "/v1/credentials/evil1", "/v1/credentials/evil2", "/v1/identity", "/v1/identity/evil", "/", "/evil", "//v1//credentials"} {
		ask(h, request("GET", path, right))
	}
	ask(h, request("EVIL", "/v1/credentials", right))
	ask(h, request("POST", "/v1/credentials", right))
	ask(h, request("GET", "/v1/credentials", header("User-Agent", "evil")))
	ask(h, request("GET", "/v1/credentials", host("evil.example")))
	for _, path := range []string{"/livez", "/readyz", "/evil", "/evil?x=y"} {
		ask(ops, request("GET", path))
	}
	ask(admin, request("GET", "/", header("Sec-Fetch-Site", "none")))
	ask(admin, request("GET", "/evil"))
	ask(admin, request("GET", "/", host("evil.example")))
	ask(admin, request("GET", "/", header("Origin", "http://evil.example")))

	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP irsa_sidecar_http_refusals_total Requests refused, by listener and refusal.
# TYPE irsa_sidecar_http_refusals_total counter
irsa_sidecar_http_refusals_total{listener="admin",refusal="BrowserRequest"} 1
irsa_sidecar_http_refusals_total{listener="admin",refusal="ForwardedRequest"} 0
irsa_sidecar_http_refusals_total{listener="admin",refusal="HostNotAllowed"} 1
irsa_sidecar_http_refusals_total{listener="admin",refusal="MalformedRequest"} 0
irsa_sidecar_http_refusals_total{listener="admin",refusal="PeerNotAllowed"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="AuthorizationRejected"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="AuthorizationRepeated"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="AuthorizationRequired"} 1
irsa_sidecar_http_refusals_total{listener="credentials",refusal="BodyNotAllowed"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="BrowserRequest"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="ForwardedRequest"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="HostNotAllowed"} 1
irsa_sidecar_http_refusals_total{listener="credentials",refusal="MalformedRequest"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="MethodNotAllowed"} 2
irsa_sidecar_http_refusals_total{listener="credentials",refusal="PeerNotAllowed"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="UnknownPath"} 2
irsa_sidecar_http_refusals_total{listener="credentials",refusal="UnknownProfile"} 3
irsa_sidecar_http_refusals_total{listener="credentials",refusal="UserNotAllowed"} 0
irsa_sidecar_http_refusals_total{listener="credentials",refusal="UserUnknown"} 0
# HELP irsa_sidecar_http_requests_total Requests answered, by listener, profile (empty if a request is not about one), route and status code.
# TYPE irsa_sidecar_http_requests_total counter
irsa_sidecar_http_requests_total{code="200",listener="admin",profile="",route="/"} 1
irsa_sidecar_http_requests_total{code="200",listener="credentials",profile="",route="/"} 1
irsa_sidecar_http_requests_total{code="200",listener="credentials",profile="default",route="/v1/credentials"} 3
irsa_sidecar_http_requests_total{code="200",listener="credentials",profile="default",route="/v1/identity"} 1
irsa_sidecar_http_requests_total{code="200",listener="ops",profile="",route="/livez"} 1
irsa_sidecar_http_requests_total{code="200",listener="ops",profile="",route="/readyz"} 1
irsa_sidecar_http_requests_total{code="400",listener="credentials",profile="",route="/v1/credentials/{profile}"} 2
irsa_sidecar_http_requests_total{code="400",listener="credentials",profile="",route="/v1/identity/{profile}"} 1
irsa_sidecar_http_requests_total{code="403",listener="admin",profile="",route="refused"} 2
irsa_sidecar_http_requests_total{code="403",listener="credentials",profile="",route="refused"} 2
irsa_sidecar_http_requests_total{code="404",listener="admin",profile="",route="other"} 1
irsa_sidecar_http_requests_total{code="404",listener="credentials",profile="",route="other"} 2
irsa_sidecar_http_requests_total{code="404",listener="ops",profile="",route="other"} 2
irsa_sidecar_http_requests_total{code="405",listener="credentials",profile="",route="other"} 2
`), "irsa_sidecar_http_refusals_total", "irsa_sidecar_http_requests_total"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) != 0 {
		t.Errorf("promtool would complain: %v, %v", problems, err)
	}

	w := ask(ops, request("GET", "/metrics", elsewhere))
	for _, name := range []string{
		"irsa_sidecar_credentials_expiry_timestamp_seconds", "irsa_sidecar_last_refresh_success_timestamp_seconds", "irsa_sidecar_refreshes_total",
		"irsa_sidecar_refresh_duration_seconds_bucket", "irsa_sidecar_http_requests_total", "irsa_sidecar_http_request_duration_seconds_bucket",
	} {
		if !strings.Contains(w.Body.String(), "\n"+name+"{") {
			t.Errorf("/metrics lacks %s", name)
		}
	}
	for _, word := range []string{"evil", "arn:", testAccount} {
		if strings.Contains(w.Body.String(), word) {
			t.Errorf("/metrics shows %q", word)
		}
	}
	mustBeSecretFree(t, "/metrics", w.Body.String())
}

// The page in each state of the sidecar.
func TestPages(t *testing.T) {
	good := func(context.Context) (cache.Credentials, error) {
		c := testCredentials()
		c.ServerTime = time.Now()
		c.Expiration = time.Now().Add(time.Hour)
		c.TokenExpiration = time.Now().Add(24 * time.Hour)
		return c, nil
	}
	hangs := func(ctx context.Context) (cache.Credentials, error) {
		<-ctx.Done()
		return cache.Credentials{}, &cache.FetchError{Reason: cache.EndpointTimeout, Message: "no answer within 5s"}
	}
	skewed := func(by time.Duration) cache.Fetch {
		return func(ctx context.Context) (cache.Credentials, error) {
			c, err := good(ctx)
			c.ServerTime, c.Expiration = c.ServerTime.Add(-by), c.Expiration.Add(-by)
			return c, err
		}
	}
	unavailable := func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{}, &cache.FetchError{Reason: cache.ServiceUnavailable, Message: "STS answered 503 Service Unavailable"}
	}
	for _, row := range []struct {
		name  string
		first cache.Fetch
		then  cache.Fetch
		at    time.Duration
		token bool
	}{
		{"fresh", good, good, 5 * time.Minute, false},
		{"fresh-with-authorization", good, good, 5 * time.Minute, true},
		{"last-good", good, unavailable, 40 * time.Minute, false},
		{"expired", good, fails(cache.AccessDenied), 90 * time.Minute, false},
		{"nothing-yet", hangs, hangs, 2 * time.Second, false},
		{"access-denied", fails(cache.AccessDenied), fails(cache.AccessDenied), 90 * time.Second, false},
		{"clock-ahead", skewed(7 * time.Minute), good, time.Minute, false},
		{"clock-behind", skewed(-7 * time.Minute), good, time.Minute, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exchanges := 0
				p := profileOf(func(ctx context.Context) (cache.Credentials, error) {
					if exchanges++; exchanges == 1 {
						return row.first(ctx)
					}
					return row.then(ctx)
				})
				o := Options{Profiles: serving(p), Default: testProfile, Address: testAddress, Callers: new(Callers), Version: "v1.2.3"}
				if row.token {
					o = withToken(t, o)
				}
				h, ops := Credentials(o), NewOps(o, prometheus.NewRegistry())
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { p.Cache.Run(ctx); close(ended) }()
				time.Sleep(row.at)
				synctest.Wait()

				if row.token { // a program with the token, and one without
					for range 3 {
						ask(h, request("GET", "/v1/credentials", header("User-Agent", "aws-sdk-go-v2/1.41.0"), header("Authorization", testToken)))
						ask(h, request("GET", "/v1/credentials", header("User-Agent", "Boto3/1.42 <b>")))
					}
					time.Sleep(time.Second)
				}
				var b strings.Builder
				show := func(title string, h http.Handler, path string, edits ...func(*http.Request)) {
					w := ask(h, request("GET", path, edits...))
					fmt.Fprintf(&b, "# %s: GET %s\n%d %s\n%s\n", title, path, w.Code, w.Header().Get("Content-Type"), w.Body)
				}
				token := header("Authorization", testToken)
				show("credentials", h, "/", token)
				show("credentials", h, "/v1/identity", token)
				show("admin", NewAdmin(o, nil, nil), "/")
				for _, path := range []string{"/readyz", "/startupz"} {
					show("ops", ops, path, elsewhere)
				}
				mustBeSecretFree(t, "a page", b.String())
				golden(t, row.name+".txt", strings.NewReplacer(style, "…", refetch, "…").Replace(b.String()))
				cancel()
				<-ended
			})
		})
	}
}

// Only the profiles that readiness depends on count; the others are listed.
func TestReadinessCountsOnlyWhatIsRequired(t *testing.T) {
	ready, denied := member(t, "ready", ""), named("denied", fails(cache.AccessDenied))
	also := named("also-denied", fails(cache.AccessDenied))
	for _, p := range []Profile{denied, also} {
		p.Cache.Get(t.Context())
	}
	optional := func(p Profile) Profile { p.Required = false; return p }
	hidden := func(p Profile) Profile { p.Hidden, p.Required = true, false; return p }
	hint := "hint: " + cache.AccessDenied.Advice() + "\n"
	for name, row := range map[string]struct {
		profiles []Profile
		code     int
		body     string
	}{
		"none":              {nil, 200, ""},
		"all ready":         {[]Profile{ready}, 200, "ready: READY\n"},
		"one of them":       {[]Profile{ready, denied}, 503, "denied: not ready: there are no valid credentials\nAccessDenied\n" + hint + "ready: READY\n"},
		"two of them":       {[]Profile{also, denied, ready}, 503, "also-denied: not ready: there are no valid credentials\nAccessDenied\n" + hint + "denied: not ready: there are no valid credentials\nAccessDenied\nready: READY\n"},
		"one that does not": {[]Profile{ready, optional(denied)}, 200, "denied: not ready: there are no valid credentials (not counted)\nAccessDenied\n" + hint + "ready: READY\n"},
		"one of each":       {[]Profile{ready, optional(also), denied}, 503, "denied: not ready: there are no valid credentials\nAccessDenied\n" + hint + "also-denied: not ready: there are no valid credentials (not counted)\nAccessDenied\nready: READY\n"},
		"a hidden one":      {[]Profile{ready, hidden(denied)}, 200, "denied: not ready: there are no valid credentials (not counted)\nAccessDenied\n" + hint + "ready: READY\n"},
		"none that does":    {[]Profile{optional(denied)}, 200, "denied: not ready: there are no valid credentials (not counted)\nAccessDenied\n" + hint},
	} {
		t.Run(name, func(t *testing.T) {
			h := NewOps(Options{Profiles: serving(row.profiles...), Default: testProfile}, prometheus.NewRegistry())
			w := ask(h, request("GET", "/readyz", elsewhere))
			body := regexp.MustCompile(`ready, for another \w+`).ReplaceAllString(w.Body.String(), "READY")
			if w.Code != row.code || body != row.body {
				t.Errorf("%d %s\nwant %d %s", w.Code, body, row.code, row.body)
			}
			if w := ask(h, request("GET", "/startupz", elsewhere)); w.Code != row.code {
				t.Errorf("/startupz: %d %s", w.Code, w.Body)
			}
		})
	}
}

// Any profile whose refresh is stuck counts, whether it is required or not: only a restart helps it.
func TestLivenessLooksAtEveryProfile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		stuck := named("stuck", func(context.Context) (cache.Credentials, error) {
			<-never // it ignores its context
			return cache.Credentials{}, io.EOF
		})
		stuck.Required = false
		h := NewOps(and(warm(t), stuck), prometheus.NewRegistry())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { stuck.Cache.Run(ctx); close(ended) }()
		time.Sleep(36 * time.Second)
		if w := ask(h, request("GET", "/livez", elsewhere)); w.Code != 503 || !strings.HasPrefix(w.Body.String(), "stuck: the refresh is stuck") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		close(never)
		cancel()
		<-ended
	})
}
