package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// chained are the profiles of a Pod: the default, whose role has changed, is chained to a hidden source, and audit to the
// default. writer has a token of its own, and is chained to a profile that it may not see. Beside them is one that fails.
func chained(t *testing.T) Options {
	t.Helper()
	issue := func(role string, lifetime time.Duration) cache.Fetch {
		return func(context.Context) (cache.Credentials, error) {
			c := testCredentials()
			c.RoleARN, c.Identity = role, strings.NewReplacer(":iam:", ":sts:", ":role/", ":assumed-role/").Replace(role)+"/shop.api-0"
			c.ServerTime, c.Expiration = time.Now(), time.Now().Add(lifetime)
			return c, nil
		}
	}
	denied := func(context.Context) (cache.Credentials, error) {
		failure := &cache.FetchError{Reason: cache.AccessDenied, Message: testMessage}
		return cache.Credentials{}, failure.Via("default/source")
	}
	shared := fixed(t, testToken)
	profile := func(name, source string, fetch cache.Fetch) Profile {
		p := named(name, fetch)
		p.RoleARN, p.Source, p.Authorization = roleOf(name), source, shared
		p.Cache.Get(t.Context())
		return p
	}
	source := profile("default/source", "", issue(roleOf("default/source"), time.Hour))
	source.Hidden, source.Required = true, false
	writer := profile("writer", "default", issue(roleOf("writer"), 40*time.Minute))
	writer.Authorization = fixed(t, writerToken)
	optional := profile("legacy", "", denied)
	optional.Required = false
	return Options{
		Profiles: serving(
			profile("audit", "default", issue(roleOf("audit"), 30*time.Minute)),
			profile("default", "default/source", issue(roleOf("before"), time.Hour)), source, writer, optional),
		Default: testProfile, Address: testAddress, Version: "v1.2.3", Callers: new(Callers),
	}
}

func TestTheNextTrySaysWhatItWaitsFor(t *testing.T) {
	now := time.Now()
	own, source := &cache.FetchError{}, (&cache.FetchError{}).Via("base")
	for _, row := range []struct {
		status cache.Status
		want   string
	}{
		{cache.Status{}, "under way"},
		{cache.Status{NextTry: now.Add(-time.Second)}, "in 0s"},
		{cache.Status{NextTry: now.Add(time.Minute), Failure: own}, "in 1m0s"},
		{cache.Status{NextTry: now.Add(time.Minute), Failure: own, Watching: true}, "in 1m0s, or when the token file changes"},
		{cache.Status{NextTry: now.Add(time.Minute), Failure: source}, "in 1m0s"},
		{cache.Status{NextTry: now.Add(time.Minute), Failure: source, Watching: true}, "in 1m0s, or when its source profile has credentials"},
	} {
		if got := nextTry(row.status, now); got != "next try: "+row.want {
			t.Errorf("%+v: %q, want %q", row.status, got, row.want)
		}
	}
}

// The pages with several profiles, to each caller what it may see.
func TestPagesOfSeveralProfiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := chained(t)
		o.Outputs = []Output{{"ecs", "169.254.170.2:80"}, {"socket", "/run/irsa-sidecar/<socket>"}}
		h, ops := Credentials(o), NewOps(o, prometheus.NewRegistry())
		time.Sleep(5 * time.Minute)
		for range 3 {
			ask(h, request("GET", "/v1/credentials/audit", agent("aws-sdk-go-v2/1.41.0"), header("Authorization", testToken)))
		}
		ask(h, request("GET", "/v1/credentials/writer", agent("a neighbour"), header("Authorization", testToken)))
		o.Profiles.SetFault("AWS_CONFIG_FILE: /etc/aws/config, line 12, [profile x]: role_arn is not an ARN\nAWS_SECRET_ACCESS_KEY=" + testSecretKey)
		var b strings.Builder
		show := func(title string, h http.Handler, path string, edits ...func(*http.Request)) {
			w := ask(h, request("GET", path, edits...))
			fmt.Fprintf(&b, "# %s: GET %s\n%d %s\n%s\n", title, path, w.Code, w.Header().Get("Content-Type"), w.Body)
			if strings.Contains(w.Header().Get("Content-Type"), "json") && !json.Valid(w.Body.Bytes()) {
				t.Errorf("GET %s is not JSON: %s", path, w.Body)
			}
		}
		show("the default's token", h, "/", header("Authorization", testToken))
		show("the default's token", h, "/v1/identity", header("Authorization", testToken))
		show("the writer's token", h, "/", header("Authorization", writerToken))
		show("the writer's token", h, "/v1/identity", header("Authorization", writerToken))
		show("the writer's token", h, "/v1/identity/writer", header("Authorization", writerToken))
		show("admin", NewAdmin(o, nil, nil), "/")
		for _, path := range []string{"/readyz", "/startupz"} {
			show("ops", ops, path, elsewhere)
		}
		mustBeSecretFree(t, "a page", b.String())
		mustBeSecretFree(t, "a page", strings.ReplaceAll(b.String(), writerToken, testToken))
		golden(t, "several.txt", strings.NewReplacer(style, "…", refetch, "…").Replace(b.String()))
	})
}

// A mistake in a configuration may name profiles, roles and token files that are not for everybody: its text is for a caller
// that may have all profiles, and on the admin listener.
func TestAFaultIsToldInFullOnlyToACallerThatMayHaveAllProfiles(t *testing.T) {
	const text = "AWS_CONFIG_FILE: /etc/aws/config, line 12, [profile payroll]: role_arn is wrong"
	check := func(who string, h http.Handler, token string, full bool) {
		for _, path := range []string{"/", "/v1/identity", "/v1/identity/" + testProfile, "/v1/identity/writer"} {
			w := ask(h, request("GET", path, header("Authorization", token)))
			if w.Code != http.StatusOK {
				continue
			}
			body := w.Body.String()
			if strings.Contains(body, "payroll") != full || !full && !strings.Contains(body, withheldFault) {
				t.Errorf("%s: GET %s: the text is told: %t, want %t\n%s", who, path, !full, full, body)
			}
		}
	}
	one, two := several(t), edited(several(t), func(p *Profile) { p.Authorization = fixed(t, testToken) })
	for _, o := range []Options{one, two} {
		o.Profiles.SetFault(text)
	}
	check("the default's", Credentials(one), testToken, false)
	check("the writer's", Credentials(one), writerToken, false)
	check("all", Credentials(two), testToken, true)
	if body := ask(NewAdmin(one, nil, nil), request("GET", "/")).Body.String(); !strings.Contains(body, "payroll") {
		t.Errorf("the admin's page lacks the mistake:\n%s", body)
	}
}

// What a token does not open is not on its page, except as the name of a source.
func TestAPageShowsOnlyWhatTheTokenOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Credentials(chained(t))
		for _, path := range []string{"/", "/v1/identity", "/v1/identity/writer"} {
			body := ask(h, request("GET", path, header("Authorization", writerToken))).Body.String()
			for _, word := range []string{"audit", "legacy", roleOf("default") + ":", roleOf("default") + `"`, roleOf("default/source"), roleOf("before"), roleOf("audit"), "AccessDenied"} {
				if strings.Contains(body, word) {
					t.Errorf("GET %s tells the writer of %q:\n%s", path, word, body)
				}
			}
			if !strings.Contains(body, roleOf("writer")) || !strings.Contains(body, "default/source") {
				t.Errorf("GET %s lacks the role, or the name of a source:\n%s", path, body)
			}
		}
		for _, path := range []string{"/", "/v1/identity"} {
			body := ask(h, request("GET", path, header("Authorization", testToken))).Body.String()
			if strings.Contains(body, "writer") {
				t.Errorf("GET %s tells of the writer:\n%s", path, body)
			}
		}
	})
}

// Fifty profiles, all failing and with as many programs as are listed: no page and no probe gets longer than that, and none
// is kept in memory as a whole.
func TestPagesOfFiftyProfilesAreBounded(t *testing.T) {
	var all []Profile
	for i := range 50 {
		p := named(fmt.Sprintf("%02d-%s", i, strings.Repeat("x", 61)), fails(cache.AccessDenied))
		p.RoleARN, p.Source = roleOf(strings.Repeat("y", 64)), "default/source"
		all = append(all, p)
	}
	all = append(all, Profile{RoleARN: testRole, Cache: named("default/source", fails(cache.AccessDenied)).Cache, Hidden: true})
	for _, p := range all {
		p.Cache.Get(t.Context())
	}
	o := Options{Profiles: serving(all...), Default: testProfile, Address: testAddress}
	h, admin, ops := Credentials(o), NewAdmin(o, nil, nil), NewOps(o, prometheus.NewRegistry())
	for _, p := range all[:50] {
		for i := range maxAskers {
			ask(h, request("GET", "/v1/credentials/"+p.Cache.Profile(), agent(fmt.Sprint(i, strings.Repeat("<", 1000)))))
		}
	}
	for _, row := range []struct {
		h           http.Handler
		path        string
		most, chunk int
	}{
		{h, "/", 90 << 10, 16 << 10},
		{h, "/v1/identity", 110 << 10, 16 << 10},
		{admin, "/", 260 << 10, 24 << 10},
		{ops, "/readyz", 10 << 10, 10 << 10},
		{ops, "/startupz", 10 << 10, 10 << 10},
		{ops, "/livez", 1 << 10, 1 << 10},
	} {
		w := &chunks{header: http.Header{}}
		row.h.ServeHTTP(w, request("GET", row.path))
		t.Logf("GET %s: %d bytes, at most %d at once", row.path, w.bytes, w.largest)
		if w.bytes > row.most || w.largest > row.chunk {
			t.Errorf("GET %s: %d bytes, %d at once; want at most %d and %d", row.path, w.bytes, w.largest, row.most, row.chunk)
		}
	}
}

// chunks is a ResponseWriter that knows how much is written at once.
type chunks struct {
	header         http.Header
	bytes, largest int
}

func (c *chunks) Header() http.Header { return c.header }
func (c *chunks) WriteHeader(int)     {}
func (c *chunks) Write(p []byte) (int, error) {
	c.bytes, c.largest = c.bytes+len(p), max(c.largest, len(p))
	return len(p), nil
}
