package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

func agent(name string) func(*http.Request) { return header("User-Agent", name) }

// logLines are the lines in a log of JSON lines.
func logLines(t *testing.T, log *lockedBuffer) (warnings []map[string]any) {
	t.Helper()
	for line := range strings.Lines(log.String()) {
		var w map[string]any
		if err := json.Unmarshal([]byte(line), &w); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		warnings = append(warnings, w)
	}
	return warnings
}

func TestARefusalIsLoggedOnceAMinuteAndTheRestCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		o := withToken(t, warm(t))
		o.Logger = slog.New(slog.NewJSONHandler(&log, nil))
		h, admin := Credentials(o), NewAdmin(o, nil, nil)
		refused := func() { ask(h, request("GET", "/v1/credentials", agent("app/1"))) }
		step := func(d time.Duration, lines int, refusal Refusal, listener string, count int) {
			t.Helper()
			time.Sleep(time.Until(epoch.Add(d)))
			got := logLines(t, &log)
			if len(got) != lines {
				t.Fatalf("after %v: %d lines, want %d:\n%s", d, len(got), lines, log.String())
			}
			if last := got[lines-1]; last["level"] != "WARN" || last["refusal"] != string(refusal) || last["listener"] != listener || last["count"] != float64(count) {
				t.Errorf("after %v: %v, want %s on %s, %d times", d, last, refusal, listener, count)
			}
		}
		refused()
		step(0, 1, AuthorizationRequired, "credentials", 1)
		for range 1000 {
			refused()
		}
		step(time.Second, 1, AuthorizationRequired, "credentials", 1)
		ask(h, request("GET", "/v1/credentials", host("evil.example")))
		step(2*time.Second, 2, HostNotAllowed, "credentials", 1)
		ask(admin, request("GET", "/", host("evil.example")))
		step(3*time.Second, 3, HostNotAllowed, "admin", 1)
		time.Sleep(time.Until(epoch.Add(time.Minute - 1)))
		refused()
		step(time.Minute-1, 3, HostNotAllowed, "admin", 1)
		time.Sleep(1)
		refused()
		step(time.Minute, 4, AuthorizationRequired, "credentials", 1002)
		step(time.Hour, 4, AuthorizationRequired, "credentials", 1002)
		refused()
		step(time.Hour, 5, AuthorizationRequired, "credentials", 1)
	})
}

func TestARefusedProgramIsShownWithoutItsSecrets(t *testing.T) {
	var log lockedBuffer
	o := withToken(t, warm(t))
	o.Logger, o.Callers = slog.New(slog.NewJSONHandler(&log, nil)), new(Callers)
	h, admin := Credentials(o), NewAdmin(o, nil, nil)
	for _, edit := range []func(*http.Request){
		agent("curl\u202e\n\x1b[2J Bearer " + testToken), agent(strings.Repeat("long ", 1500)), header("Authorization", testToken+"x"), header("Authorization", "x", testToken),
	} {
		ask(h, request("GET", "/v1/credentials?token="+testToken, edit))
	}
	for _, text := range []string{
		log.String(), ask(h, request("GET", "/", header("Authorization", testToken))).Body.String(), ask(admin, request("GET", "/")).Body.String(),
	} {
		mustBeSecretFree(t, "the trace", text)
		for line := range strings.Lines(text) {
			if line = strings.TrimSuffix(line, "\n"); redact.OneLine(line) != line && !strings.Contains(line, "\t") {
				t.Errorf("%q does not print", line)
			}
		}
		for _, want := range []string{"curl", "long", "AuthorizationRequired", "AuthorizationRejected", "AuthorizationRepeated"} {
			if !strings.Contains(text, want) && (text != log.String() || want != "long") {
				t.Errorf("%s is missing from %s", want, text)
			}
		}
		if n := strings.Count(text, "long "); n > maxUserAgent/5 {
			t.Errorf("a User-Agent of %d characters", 5*n)
		}
	}
}

// A caller with many User-Agents, even with the token, costs only a list of limited length, and replaces neither other
// refusals nor the programs that ask most.
func TestAFloodOfUserAgentsPushesOutNoOtherRefusalAndStaysBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := withToken(t, warm(t))
		o.Callers = new(Callers)
		h := Credentials(o)
		right := header("Authorization", testToken)
		ask(h, request("GET", "/v1/credentials", host("evil.example"), agent("the victim of a proxy")))
		for range 3 {
			ask(h, request("GET", "/v1/credentials", agent("the app without the token")))
			ask(h, request("GET", "/v1/credentials", agent("the app"), right))
		}
		const flood = 10000
		for i := range flood {
			ask(h, request("GET", "/v1/credentials", agent(fmt.Sprint("made up ", i))))
			ask(h, request("GET", "/v1/credentials", agent(fmt.Sprint("made up ", i)), right))
			if i%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		last, total := o.Callers.lastRefusals()
		if len(last) > maxRefusals || total != flood+4 {
			t.Errorf("%d refusals are listed, and %d counted", len(last), total)
		}
		askers, requests := o.Profiles.now().slots[0].askers.list()
		if len(askers) > maxAskers || requests != flood+3 {
			t.Errorf("%d askers are listed, and %d requests counted", len(askers), requests)
		}
		page := ask(h, request("GET", "/", right)).Body.String()
		for _, want := range []string{"the victim of a proxy: once", "the app without the token: 3 times", "the app: 3 times"} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q:\n%s", want, page)
			}
		}
	})
}

func TestWhoAsksIsShownOnlyWhoIsRefusedIsNotAmongThem(t *testing.T) {
	failing := Options{Profiles: serving(profileOf(fails(cache.AccessDenied))), Default: testProfile, Address: testAddress}
	for name, o := range map[string]Options{"valid": warm(t), "failing": failing} {
		o := withToken(t, o)
		o.Callers = new(Callers)
		h, right := Credentials(o), header("Authorization", testToken)
		ask(h, request("GET", "/v1/credentials", agent("refused")))
		ask(h, request("GET", "/v1/identity", agent("curious"), right))
		page := func() string { return ask(h, request("GET", "/", right, agent("curious"))).Body.String() }
		if text := page(); !strings.Contains(text, "No program has asked for credentials yet.") || !strings.Contains(text, "AWS_CONTAINER_CREDENTIALS_FULL_URI is http://127.0.0.1:9911/v1/credentials\n") {
			t.Errorf("%s: before the first request:\n%s", name, text)
		}
		ask(h, request("GET", "/v1/credentials/default", agent("app"), right))
		ask(h, request("GET", "/v1/credentials", right, header("User-Agent")))
		if text := page(); strings.Contains(text, "No program has asked") || !strings.Contains(text, "asked for   twice") || !strings.Contains(text, " app: once") || !strings.Contains(text, " no User-Agent: once") {
			t.Errorf("%s: after two have asked:\n%s", name, text)
		}
		var d identityDocument
		if err := json.Unmarshal(ask(h, request("GET", "/v1/identity", right)).Body.Bytes(), &d); err != nil || d.Requests != 2 || len(d.Askers) != 2 || d.Askers[0].UserAgent != "" || d.Askers[1].UserAgent != "app" || d.Askers[0].UID != nil {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		if strings.Contains(page(), "curious") {
			t.Errorf("%s: a reader of the page counts as asking for credentials", name)
		}
	}
}

func TestCallersAreCountedFromManyConnectionsAtOnce(t *testing.T) {
	var tally tally
	tally.init(4)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			r := request("GET", "/", agent(fmt.Sprint("agent ", i%4)))
			for range 1000 {
				tally.note(r, NewProfiles(), noUser, time.Now())
			}
		})
	}
	all.Wait()
	if callers, total := tally.list(); total != 8000 || len(callers) != 4 || callers[0].count != 2000 {
		t.Errorf("%d in all, of %v", total, callers)
	}
}

// A page may be made while the first request arrives.
func TestThereIsNoRequestWithoutACaller(t *testing.T) {
	r := request("GET", "/", agent("first"))
	for range 3000 {
		var tally tally
		tally.init(4)
		var first sync.WaitGroup
		first.Go(func() { tally.note(r, NewProfiles(), noUser, time.Now()) })
		for total := uint64(0); total == 0; {
			var callers []caller
			if callers, total = tally.list(); total != uint64(len(callers)) {
				t.Fatalf("%d requests by %v", total, callers)
			}
		}
		first.Wait()
	}
}

func TestTheSameProgramOfAnotherUserIsAnotherCaller(t *testing.T) {
	o := warm(t)
	o.Callers = new(Callers)
	h := Credentials(o)
	r := request("GET", "/", agent("app"))
	for _, user := range []int64{1000, 1001, 1000, noUser} {
		o.Profiles.now().slots[0].askers.note(r, o.Profiles, user, time.Now())
	}
	page := ask(h, request("GET", "/")).Body.String()
	for _, want := range []string{" app (user 1000): twice", " app (user 1001): once", " app: once"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if body := ask(h, request("GET", "/v1/identity")).Body.String(); strings.Count(body, `"uid":100`) != 2 {
		t.Errorf("%s", body)
	}
}

func TestAWarningSaysWhy(t *testing.T) {
	var log lockedBuffer
	o := warm(t)
	o.Logger = slog.New(slog.NewJSONHandler(&log, nil))
	h := Credentials(o).(*credentials)
	h.trace(request("GET", "/"), UserNotAllowed, errors.New("user 7 is not in the list"))
	if w := logLines(t, &log); len(w) != 1 || w[0]["why"] != "user 7 is not in the list" || w[0]["hint"] == nil {
		t.Errorf("%v", w)
	}
}

// manyAgents returns requests by more programs than are listed.
func manyAgents() (requests []*http.Request) {
	for i := range 2 * maxAskers {
		requests = append(requests, request("GET", "/v1/credentials", header("Authorization", testToken), agent(fmt.Sprint("aws-sdk-go-v2/1.41.0 app/", i))))
	}
	return requests
}

func TestServingManyProgramsAllocatesNothing(t *testing.T) {
	h, _ := everythingOn(t)
	w := &sink{header: http.Header{}}
	requests, i := manyAgents(), 0
	for _, r := range requests {
		h.ServeHTTP(w, r)
	}
	n := testing.AllocsPerRun(1000, func() {
		h.ServeHTTP(w, requests[i%len(requests)])
		i++
	})
	if n > 0.5 { // replacing an entry, once a second, allocates
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkWarmManyAgents(b *testing.B) {
	h, _ := everythingOn(b)
	w := &sink{header: http.Header{}}
	requests, i := manyAgents(), 0
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, requests[i%len(requests)])
		i++
	}
}

// A program may send the authorization token in its User-Agent, too.
func TestTheAuthorizationTokenIsMaskedWhereverItIsSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		const first, second = "0b7c1f6e-2d5a-4c1b-9e57-8f1d2a3b4c5d", "5f0e3a17-90c4-4b7e-8a21-c3d4e5f60718"
		write(t, path, first)
		time.Sleep(time.Minute)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var log lockedBuffer
		o := edited(warm(t), func(p *Profile) { p.Authorization = a })
		o.Callers = new(Callers)
		o.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		h, admin, ops := Credentials(o), NewAdmin(o, nil, nil), NewOps(o, prometheus.NewRegistry())
		write(t, path, second)
		time.Sleep(time.Minute)
		mustAccept(t, a, true, second) // the first one works for another hour
		for i, name := range []string{"leak/%s", "%s", "Bearer %s", "a%[1]s%[1]sz", strings.Repeat("long ", 47) + "%s" + strings.Repeat(" long", 100)} {
			for _, token := range []string{first, second} {
				edit := agent(fmt.Sprintf("%d ", i) + fmt.Sprintf(name, token))
				ask(h, request("GET", "/v1/credentials", edit, header("Authorization", token)))
				ask(h, request("GET", "/v1/credentials", edit))
				ask(admin, request("GET", "/", edit, host("evil.example")))
				ask(ops, request("GET", "/livez", edit))
			}
		}
		right := header("Authorization", second)
		for what, text := range map[string]string{
			"the log":          log.String(),
			"GET /":            ask(h, request("GET", "/", right)).Body.String(),
			"GET /v1/identity": ask(h, request("GET", "/v1/identity", right)).Body.String(),
			"the status page":  ask(admin, request("GET", "/")).Body.String(),
		} {
			if !strings.Contains(text, "leak/[redacted]") || !strings.Contains(text, "a[redacted][redacted]z") {
				t.Errorf("%s does not name the program:\n%s", what, text)
			}
			for _, token := range []string{first, second} {
				if strings.Contains(text, token) || strings.Contains(text, token[:8]) {
					t.Errorf("%s shows a token:\n%s", what, text)
				}
			}
		}
	})
}

func TestAListThatIsCutSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := withToken(t, warm(t))
		o.Callers = new(Callers)
		h, admin, right := Credentials(o), NewAdmin(o, nil, nil), header("Authorization", testToken)
		pages := func() []string {
			return []string{ask(h, request("GET", "/", right)).Body.String(), ask(admin, request("GET", "/")).Body.String()}
		}
		burst := func(n int, edits ...func(*http.Request)) {
			for i := range n {
				ask(h, request("GET", "/v1/credentials", append(edits, agent(fmt.Sprint("program ", i)))...))
			}
		}
		burst(maxAskers, right)
		burst(maxRefusedAgents)
		for _, page := range pages() {
			if strings.Contains(page, "not listed") {
				t.Errorf("nothing is cut:\n%s", page)
			}
		}
		// The first new program replaces one that has asked twice by then.
		burst(maxAskers+39, right)
		burst(maxRefusedAgents + 61)
		for _, page := range pages() {
			if !strings.Contains(page, "… and 40 more that are not listed") || !strings.Contains(page, "… and 62 more that are not listed") {
				t.Errorf("the lists are cut and do not say so:\n%s", page)
			}
		}
		var d identityDocument
		if err := json.Unmarshal(ask(h, request("GET", "/v1/identity", right)).Body.Bytes(), &d); err != nil || d.Requests != 2*maxAskers+39 || d.Unlisted != 40 {
			t.Errorf("%+v, %v; want %d requests, 40 of them not listed", d, err, 2*maxAskers+39)
		}
	})
}

// The list of a burst is not that of the programs that happened to come first.
func TestAProgramWithManyRequestsIsListedAlsoAmongManyWithOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := warm(t)
		o.Callers = new(Callers)
		h := Credentials(o)
		one := func(name string) { ask(h, request("GET", "/v1/credentials", agent(name))) }
		for i := range 45 {
			one(fmt.Sprint("once ", i))
			if i >= 35 {
				one("the app")
			}
		}
		for range 2 { // more than once in its turn
			for i := range 20 {
				one(fmt.Sprint("later ", i))
			}
			time.Sleep(time.Second)
		}
		askers, requests := o.Profiles.now().slots[0].askers.list()
		listed := uint64(0)
		for _, one := range askers {
			listed += one.count
		}
		if page := ask(h, request("GET", "/")).Body.String(); requests != 95 || !strings.Contains(page, " the app: 10 times,") || !strings.Contains(page, fmt.Sprintf("… and %d more", 95-listed)) {
			t.Errorf("%d requests, %d of them listed:\n%s", requests, listed, page)
		}
	})
}

func TestAMalformedRequestHasNoKnownUserAgent(t *testing.T) {
	var log lockedBuffer
	o := warm(t)
	o.Callers, o.Logger = new(Callers), slog.New(slog.NewJSONHandler(&log, nil))
	h, admin := Credentials(o), NewAdmin(o, nil, nil)
	h.malformed()
	for _, page := range []string{ask(h, request("GET", "/")).Body.String(), ask(admin, request("GET", "/")).Body.String()} {
		if !strings.Contains(page, "User-Agent not known") || strings.Contains(page, "no User-Agent") || !strings.Contains(page, "at most 8 KiB") {
			t.Errorf("%s", page)
		}
	}
	if w := logLines(t, &log); len(w) != 1 || w[0]["user_agent"] != nil || !strings.Contains(fmt.Sprint(w[0]["hint"]), "at most 8 KiB") {
		t.Errorf("%v", w)
	}
}

func TestEveryWarningOfARefusalHasAHint(t *testing.T) {
	var log lockedBuffer
	o := withToken(t, warm(t))
	o.Logger = slog.New(slog.NewJSONHandler(&log, nil))
	refusing := 0
	for _, l := range []*listener{&Credentials(o).(*credentials).listener, &NewAdmin(o, nil, nil).listener, &NewOps(o, prometheus.NewRegistry()).listener} {
		for r := range l.refused {
			l.trace(request("GET", "/"), r, nil)
			refusing++
		}
	}
	got := logLines(t, &log)
	for _, w := range got {
		hint := fmt.Sprint(w["hint"])
		if w["hint"] == nil || w["listener"] == "admin" && strings.Contains(hint, "9911") {
			t.Errorf("%v", w)
		}
	}
	if len(got) != refusing || refusing < 10 {
		t.Errorf("%d warnings of %d refusals", len(got), refusing)
	}
}

func TestOnlyRepeatedFailuresAreCounted(t *testing.T) {
	now := time.Now()
	for failures, want := range map[int]string{1: "3s ago", 2: "3s ago, 2 in a row"} {
		if got := failed(cache.Status{FailedAt: now.Add(-3 * time.Second), Failures: failures}, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
