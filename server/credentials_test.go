package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

const (
	wantBody = `{"RoleArn":"` + testRole + `","AccessKeyId":"` + testKey + `","SecretAccessKey":"` + testSecretKey +
		`","Token":"` + testSessionToken + `","Expiration":"2099-12-31T23:59:59Z"}`
	wantBodyWithAccount = `{"RoleArn":"` + testRole + `","AccessKeyId":"` + testKey + `","SecretAccessKey":"` + testSecretKey +
		`","Token":"` + testSessionToken + `","Expiration":"2099-12-31T23:59:59Z","AccountId":"` + testAccount + `"}`
)

// bodyShape is what every client reads, also those that search for strings instead of parsing JSON.
var bodyShape = regexp.MustCompile(`^\{"RoleArn":"arn:[^"]+","AccessKeyId":"[A-Z0-9]+","SecretAccessKey":"[A-Za-z0-9/+=]+",` +
	`"Token":"[A-Za-z0-9/+=]+","Expiration":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"\}$`)

func TestCredentialsAreServedByteForByte(t *testing.T) {
	h := Credentials(warm(t))
	for _, target := range []string{
		"/v1/credentials",
		"/v1/credentials/",
		"/v1/credentials?x=y",
		"/v1/credentials/?x=y&z",
		"/v1/credentials/default",
		"/v1/credentials/default/",
		"/v1/credentials/default?x=/../y",
	} {
		t.Run(target, func(t *testing.T) {
			w := ask(h, request("GET", target))
			if w.Code != 200 || w.Body.String() != wantBody {
				t.Errorf("%d %s\nwant 200 %s", w.Code, w.Body, wantBody)
			}
			if !bodyShape.MatchString(w.Body.String()) {
				t.Errorf("the body does not have the shape that all clients read: %s", w.Body)
			}
			want := http.Header{
				"Content-Type":           {"application/json"},
				"Content-Length":         {fmt.Sprint(len(wantBody))},
				"Cache-Control":          {"no-store"},
				"X-Content-Type-Options": {"nosniff"},
			}
			if got := w.Header(); !maps.EqualFunc(got, want, slices.Equal) {
				t.Errorf("headers %v, want exactly %v", got, want)
			}
		})
	}
}

func TestAccountIsServedWhenAskedForAndKnown(t *testing.T) {
	o := warm(t)
	o.AccountID = true
	if w := ask(Credentials(o), request("GET", "/v1/credentials")); w.Body.String() != wantBodyWithAccount {
		t.Errorf("%s\nwant %s", w.Body, wantBodyWithAccount)
	}

	c := testCredentials()
	c.AccountID = "" // MinIO does not say
	if body := string(ContainerCredentials(&c, true)); body != wantBody {
		t.Errorf("%s\nwant %s", body, wantBody)
	}
}

func TestFieldsThatAreNotKnownAreLeftOutRatherThanEmpty(t *testing.T) {
	c := testCredentials()
	c.RoleARN = ""
	if body := string(ContainerCredentials(&c, false)); !strings.HasPrefix(body, `{"AccessKeyId":"`+testKey) {
		t.Errorf("%s begins otherwise", body)
	}
}

func TestExpirationIsCutToWholeSecondsInUTC(t *testing.T) {
	c := testCredentials()
	c.Expiration = time.Date(2030, 1, 2, 3, 4, 5, 999_999_999, time.FixedZone("", 5*3600))
	if body := string(ContainerCredentials(&c, false)); !strings.Contains(body, `"Expiration":"2030-01-01T22:04:05Z"`) {
		t.Errorf("%s, want the Expiration 2030-01-01T22:04:05Z", body)
	}
}

func TestEachProfileIsServedUnderItsName(t *testing.T) {
	other := testCredentials()
	other.RoleARN = "arn:aws:iam::123456789012:role/writer"
	o := and(warm(t), Profile{RoleARN: other.RoleARN, Cache: named("my writer", issues(other)).Cache})
	h := Credentials(o)
	for target, role := range map[string]string{
		"/v1/credentials":               testRole,
		"/v1/credentials/my%20writer":   other.RoleARN,
		"/v1/credentials/my%20writer/":  other.RoleARN,
		"/v1/identity":                  testRole,
		"/v1/identity/default":          testRole,
		"/v1/identity/my%20writer":      other.RoleARN,
		"/v1/identity/my%20writer/?x=y": other.RoleARN,
	} {
		w := ask(h, request("GET", target))
		if w.Code != 200 || !strings.Contains(w.Body.String(), `"`+role+`"`) {
			t.Errorf("GET %s: %d %s, want 200 and %s", target, w.Code, w.Body, role)
		}
	}
}

func TestARequestThatNamesNoProfileIsRefusedWhereNoneIsTheDefault(t *testing.T) {
	o := warm(t)
	o.Default = ""
	h := Credentials(o)
	for _, target := range []string{"/v1/credentials", "/v1/credentials/"} {
		mustDocument(t, ask(h, request("GET", target)), 400, string(UnknownProfile), UnknownProfile.Message()+": this caller may have "+testProfile, UnknownProfile.Hint())
	}
	for _, target := range []string{"/v1/credentials/" + testProfile, "/v1/identity/" + testProfile, "/v1/identity", "/v1/identity/"} {
		if w := ask(h, request("GET", target)); w.Code != 200 {
			t.Errorf("GET %s: %d %s, want 200", target, w.Code, w.Body)
		}
	}
}

func TestAHintNamesTheAddressThatIsListenedOn(t *testing.T) {
	o := warm(t)
	o.Address = netip.MustParseAddrPort("[::1]:8080")
	h := Credentials(o)
	for want, edit := range map[string]func(*http.Request){
		"connect to ::1 from":               from("10.0.0.7:40000"),
		"http://[::1]:8080\"":               host("evil.example"),
		"add ::1 to the program's NO_PROXY": func(r *http.Request) { r.Host = "[::1]:8080"; r.Header.Set("Via", "1.1 proxy") },
	} {
		w := ask(h, request("GET", "/v1/credentials", edit))
		if body := w.Body.String(); w.Code != 403 || !strings.Contains(body, want) || strings.Contains(body, "127.0.0.1") {
			t.Errorf("%d %s, want a hint with %s", w.Code, body, want)
		}
	}
}

func TestThePageNamesTheAddressThatIsListenedOn(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:9911":          "http://127.0.0.1:9911/v1/credentials",
		"127.0.0.2:80":            "http://127.0.0.2:80/v1/credentials",
		"[::1]:9911":              "http://[::1]:9911/v1/credentials",
		"[::ffff:127.0.0.1]:9911": "http://127.0.0.1:9911/v1/credentials",
	} {
		o := warm(t)
		o.Address = netip.MustParseAddrPort(address)
		w := ask(Credentials(o), request("GET", "/", host("127.0.0.1")))
		if !strings.Contains(w.Body.String(), "AWS_CONTAINER_CREDENTIALS_FULL_URI="+want+"\n") {
			t.Errorf("on %s the page says\n%s", address, w.Body)
		}
	}
}

func TestWhatIsNotThereIsRefusedWithADocument(t *testing.T) {
	h := Credentials(warm(t))
	for _, row := range []struct {
		method, target string
		refusal        Refusal
	}{
		{"GET", "/v1/credentials/nobody", UnknownProfile},
		{"GET", "/v1/credentials/Default", UnknownProfile},
		{"GET", "/v1/credentials/defa%75lt", UnknownProfile},
		{"GET", "/v1/identity/nobody", UnknownProfile},
		{"GET", "/v1/identity/%2e%2e", UnknownProfile},

		{"GET", "/v1", UnknownPath},
		{"GET", "/v2/credentials", UnknownPath},
		{"GET", "/V1/Credentials", UnknownPath},
		{"GET", "/v1/credentials/default/default", UnknownPath},
		{"GET", "/latest/meta-data/iam/security-credentials/", UnknownPath},
		{"GET", "/metrics", UnknownPath},
		{"GET", "//v1//credentials", UnknownPath},
		{"GET", "/v1/credentials//", UnknownPath},
		{"GET", "/./v1/credentials", UnknownPath},
		{"GET", "/x/../v1/credentials", UnknownPath},
		{"GET", "/v1/%63redentials", UnknownPath},
		{"GET", "/v1%2Fcredentials", UnknownPath},
		{"GET", "/%2e%2e/v1/credentials", UnknownPath},
		{"GET", "/v1/credentials%00", UnknownPath},
		{"GET", "/v1/credentials;x", UnknownPath},

		{"HEAD", "/v1/credentials", MethodNotAllowed},
		{"HEAD", "/v1/credentials/default", MethodNotAllowed},
		{"POST", "/v1/credentials", MethodNotAllowed},
		{"PUT", "/v1/credentials/", MethodNotAllowed},
		{"DELETE", "/v1/credentials/default", MethodNotAllowed},
		{"OPTIONS", "/v1/credentials", MethodNotAllowed},
		{"PATCH", "/v1/credentials?x=y", MethodNotAllowed},
		{"get", "/v1/credentials", MethodNotAllowed},
		{"BREW", "/v1/credentials", MethodNotAllowed},
		{"POST", "/", MethodNotAllowed},
		{"POST", "/v1/identity", MethodNotAllowed},
	} {
		t.Run(row.method+" "+row.target, func(t *testing.T) {
			w := ask(h, request(row.method, row.target))
			mustRefuse(t, w, row.refusal)
			allow := w.Header().Get("Allow")
			if row.refusal == MethodNotAllowed && allow != "GET" || row.refusal != MethodNotAllowed && allow != "" {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
}

// mustRefuse checks status, headers and document of a refusal.
func mustRefuse(t *testing.T, w *httptest.ResponseRecorder, want Refusal) {
	t.Helper()
	status := map[Refusal]int{UnknownProfile: 400, UnknownPath: 404, MethodNotAllowed: 405}[want]
	if status == 0 {
		status = 403
	}
	mustDocument(t, w, status, string(want), want.Message(), want.Hint())
}

func mustDocument(t *testing.T, w *httptest.ResponseRecorder, status int, code, message, hint string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d", w.Code, status)
	}
	var got, want map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%q: %v", w.Body, err)
	}
	want = map[string]string{"code": code, "message": message, "Code": code, "Message": message, "hint": hint}
	if !maps.Equal(got, want) {
		t.Errorf("document %v\nwant %v", got, want)
	}
	if message == "" || hint == "" {
		t.Errorf("%s comes without a word for people", code)
	}
	h := w.Header()
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", Mark: "credentials",
		"Content-Length": fmt.Sprint(w.Body.Len()), "Retry-After": "", "Location": "", "Www-Authenticate": "", "Access-Control-Allow-Origin": "",
	} {
		if got := h.Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	mustBeSecretFree(t, "the document", w.Body.String())
}

func TestEveryRefusalHasAStatusAMessageAndAHint(t *testing.T) {
	for _, r := range Refusals() {
		row := refusals[r]
		if known := []int{400, 401, 403, 404, 405, 503}; !slices.Contains(known, row.status) || r.Message() == "" || r.Hint() == "" {
			t.Errorf("%s: %+v", r, row)
		}
	}
}

func TestEveryReasonHasItsErrorDocument(t *testing.T) {
	for _, reason := range cache.Reasons() {
		t.Run(string(reason), func(t *testing.T) {
			status, ok := statuses[reason]
			if !ok {
				t.Fatal("has no status")
			}
			switch status {
			case 503:
			case 400, 403:
				if reason.Class() != cache.Human {
					t.Errorf("%d, but it will pass: %s", status, reason.Class())
				}
			default:
				t.Errorf("%d: clients are told 400, 403 or 503", status)
			}
			h := Credentials(Options{Profiles: serving(profileOf(fails(reason))), Default: testProfile, Address: testAddress})
			w := ask(h, request("GET", "/v1/credentials"))
			mustDocument(t, w, status, string(reason), testMessage+"; "+(&cache.FetchError{Reason: reason}).ShortAdvice(), reason.Advice())
			if n := w.Body.Len(); n > 1<<10 {
				t.Errorf("the document is %d bytes long: it must give the advice once", n)
			}
			if strings.Contains(w.Body.String(), `\u`) {
				t.Errorf("the document escapes what need not be: %s", w.Body)
			}
		})
	}
	for reason := range statuses {
		if !slices.Contains(cache.Reasons(), reason) {
			t.Errorf("%s has a status but is not a Reason", reason)
		}
	}
}

// What the failure knows is filled in only for callers on this machine.
func TestTheAdviceNamesTheSubjectOnThisMachineOnly(t *testing.T) {
	const subject = "system:serviceaccount:shop:api"
	p := profileOf(func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{}, &cache.FetchError{Reason: cache.AccessDenied, Message: testMessage, Names: map[string]string{"subject": subject}}
	})
	o := Options{Profiles: serving(p), Default: testProfile, Address: testAddress}
	h, admin, ops := Credentials(o), NewAdmin(o, nil, nil), NewOps(o, prometheus.NewRegistry())
	for _, path := range []string{"/v1/credentials", "/v1/identity", "/"} {
		if w := ask(h, request("GET", path)); !strings.Contains(w.Body.String(), subject) {
			t.Errorf("GET %s does not name the subject: %s", path, w.Body)
		}
	}
	if w := ask(admin, request("GET", "/")); !strings.Contains(w.Body.String(), subject) {
		t.Errorf("the page does not name the subject: %s", w.Body)
	}
	for _, path := range []string{"/readyz", "/startupz", "/livez", "/metrics"} {
		if w := ask(ops, request("GET", path)); strings.Contains(w.Body.String(), subject) {
			t.Errorf("the ops listener names the subject at %s: %s", path, w.Body)
		}
	}
}

// A request that was signed with a source profile's credentials needs other advice, which names nobody on the ops listener.
func TestReadinessHasTheAdviceForAChainedProfile(t *testing.T) {
	p := profileOf(func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{}, &cache.FetchError{Reason: cache.AccessDenied, Message: testMessage, Signed: true, Names: map[string]string{"role": "arn:aws:iam::1:role/secret"}}
	})
	p.Required = true
	o := Options{Profiles: serving(p), Default: testProfile, Address: testAddress}
	ask(Credentials(o), request("GET", "/v1/credentials"))
	body := ask(NewOps(o, prometheus.NewRegistry()), request("GET", "/readyz")).Body.String()
	if !strings.Contains(body, "hint: "+cache.AccessDenied.ChainedAdvice()) || strings.Contains(body, "secret") {
		t.Errorf("answered %s", body)
	}
}

func TestThePagesSayThatAChangeOfTheTokenFileHelps(t *testing.T) {
	for _, watching := range []bool{false, true} {
		p := profileOf(func(context.Context) (cache.Credentials, error) {
			e := &cache.FetchError{Reason: cache.TokenFileMissing, Message: testMessage}
			if watching {
				e.Changed = func() bool { return false }
			}
			return cache.Credentials{}, e
		})
		o := Options{Profiles: serving(p), Default: testProfile, Address: testAddress}
		h, admin := Credentials(o), NewAdmin(o, nil, nil)
		ask(h, request("GET", "/v1/credentials"))
		for name, handler := range map[string]http.Handler{"GET /": h, "the page": admin} {
			if w := ask(handler, request("GET", "/")); strings.Contains(w.Body.String(), ", or when the token file changes") != watching {
				t.Errorf("%s, watching: %v: %s", name, watching, w.Body)
			}
		}
	}
}

func TestAnErrorThatIsNoFetchErrorIsShownWithoutItsSecrets(t *testing.T) {
	h := Credentials(Options{Default: testProfile, Address: testAddress, Profiles: serving(profileOf(func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{}, errors.New("cannot parse <SecretAccessKey>" + testSecretKey + "</SecretAccessKey> of " + testKey)
	}))})
	w := ask(h, request("GET", "/v1/credentials"))
	if w.Code != 400 || !strings.Contains(w.Body.String(), `"code":"UnknownError"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	mustBeSecretFree(t, "the document", w.Body.String())
}

func TestAColdRequestWaitsForTheExchangeAndNotForLong(t *testing.T) {
	for takes, want := range map[time.Duration]struct {
		code int
		took time.Duration
	}{
		300 * time.Millisecond: {200, 300 * time.Millisecond},
		3 * time.Second:        {503, 700 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := Credentials(Options{Default: testProfile, Address: testAddress, Profiles: serving(profileOf(func(context.Context) (cache.Credentials, error) {
				time.Sleep(takes)
				return testCredentials(), nil
			}))})
			started := time.Now()
			w := ask(h, request("GET", "/v1/credentials"))
			if took := time.Since(started); w.Code != want.code || took != want.took {
				t.Errorf("an exchange of %v: %d after %v, want %d after %v", takes, w.Code, took, want.code, want.took)
			}
			if w.Code == 503 {
				mustDocument(t, w, 503, "CredentialsUninitialized", "the exchange with STS has not finished yet; "+(&cache.FetchError{Reason: cache.CredentialsUninitialized}).ShortAdvice(),
					cache.CredentialsUninitialized.Advice())
			}
			time.Sleep(takes)
		})
	}
}

func TestNewCredentialsAreServedAsSoonAsTheyAreThereAndOldOnesUntilThenInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var exchanges, outage atomic.Int32
		p := profileOf(func(context.Context) (cache.Credentials, error) {
			n := exchanges.Add(1)
			if outage.Load() != 0 {
				return cache.Credentials{}, &cache.FetchError{Reason: cache.ServiceUnavailable, Message: testMessage}
			}
			c := testCredentials()
			c.AccessKeyID = fmt.Sprintf("ASIAEXAMPLE%09d", n)
			c.Expiration = time.Now().Add(time.Hour)
			return c, nil
		})
		h := Credentials(Options{Profiles: serving(p), Default: testProfile, Address: testAddress})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { p.Cache.Run(ctx); close(ended) }()
		synctest.Wait()
		mustServe := func(code int, text string) {
			t.Helper()
			if w := ask(h, request("GET", "/v1/credentials")); w.Code != code || !strings.Contains(w.Body.String(), text) {
				t.Errorf("after %v: %d %s, want %d with %s", time.Since(epoch), w.Code, w.Body, code, text)
			}
		}
		mustServe(200, "ASIAEXAMPLE000000001")
		time.Sleep(28 * time.Minute)
		mustServe(200, "ASIAEXAMPLE000000001")
		outage.Store(1)
		time.Sleep(31 * time.Minute) // one minute left
		if exchanges.Load() < 10 {
			t.Fatalf("no exchange during the outage: %d in all", exchanges.Load())
		}
		before := exchanges.Load()
		for range 1000 {
			mustServe(200, "ASIAEXAMPLE000000001")
		}
		if n := exchanges.Load(); n != before {
			t.Errorf("1000 requests made %d exchanges", n-before)
		}
		time.Sleep(time.Minute) // expired
		mustServe(503, "ServiceUnavailable")
		outage.Store(0)
		time.Sleep(31 * time.Second)
		mustServe(200, fmt.Sprintf("ASIAEXAMPLE%09d", exchanges.Load()))
		cancel()
		<-ended
	})
}

// epoch is when fake time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestRequestsAreLoggedAtDebugOnlyAndWithoutSecrets(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelWarn: 0, slog.LevelDebug: 3} {
		var log lockedBuffer
		o := withToken(t, warm(t))
		o.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: level}))
		h := Credentials(o)
		ask(h, request("GET", "/v1/credentials", header("Authorization", testToken), header("User-Agent", "curl\n\"8\"")))
		ask(h, request("GET", "/v1/credentials", header("Authorization", testToken+"x")))
		ask(h, request("GET", "/v1/identity", header("Authorization", testToken)))
		if got := strings.Count(log.String(), `"level":"DEBUG","msg":"request"`); got != want || strings.Count(log.String(), "\n") != want+1 || strings.Count(log.String(), `"level":"WARN","msg":"request refused"`) != 1 {
			t.Errorf("at %s: %d lines, want %d:\n%s", level, got, want, log.String())
		}
		mustBeSecretFree(t, "the log", log.String())
	}
}

func TestAUserAgentIsLoggedOnOneShortLine(t *testing.T) {
	var log lockedBuffer
	o := warm(t)
	o.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := Credentials(o)
	for _, agent := range []string{"curl\u202e\u009b2J\u200b", strings.Repeat("curl ", 1600), "curl Bearer " + testToken} {
		ask(h, request("GET", "/v1/credentials", header("User-Agent", agent)))
	}
	for line := range strings.Lines(log.String()) {
		if line = strings.TrimSuffix(line, "\n"); redact.OneLine(line) != line || len(line) > maxUserAgent+200 || !strings.Contains(line, `"user_agent":"curl`) {
			t.Errorf("logged %d bytes: %q", len(line), line)
		}
	}
	mustBeSecretFree(t, "the log", log.String())
}

// sink is a reusable ResponseWriter.
type sink struct {
	header http.Header
	bytes  int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { s.bytes += len(p); return len(p), nil }
func (s *sink) WriteHeader(int)             {}

// everythingOn are the most expensive options: an authorization token, and metrics.
func everythingOn(t testing.TB) (http.Handler, *http.Request) {
	o := withToken(t, warm(t))
	o.Metrics = NewMetrics(prometheus.NewRegistry())
	return Credentials(o), request("GET", "/v1/credentials", header("Authorization", testToken))
}

// That there are no allocations also shows that credentials are rendered once, not for each request.
func TestServingWarmCredentialsAllocatesNothing(t *testing.T) {
	h, r := everythingOn(t)
	w := &sink{header: http.Header{}}
	n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) })
	t.Logf("%v allocations", n)
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if w.bytes != 1001*len(wantBody) {
		t.Errorf("%d bytes were served, want %d", w.bytes, 1001*len(wantBody))
	}
}

func BenchmarkWarm(b *testing.B) {
	h, r := everythingOn(b)
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
