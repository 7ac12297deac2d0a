package server

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

func TestWhatStaysKeepsItsRecordAndWhatGoesIsForgotten(t *testing.T) {
	registry := prometheus.NewRegistry()
	stays, goes := member(t, "default", ""), member(t, "writer", "")
	o := Options{Profiles: serving(stays, goes), Default: testProfile, Address: testAddress, Metrics: NewMetrics(registry)}
	h, admin := Credentials(o), NewAdmin(o, nil, nil)
	for _, path := range []string{"/v1/credentials", "/v1/credentials/writer", "/v1/identity/writer"} {
		if w := ask(h, request("GET", path, agent("the app"))); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	rendered := o.Profiles.now().paths["/v1/credentials/default"].rendered[0].Load()

	stays.RoleARN, stays.Authorization = "arn:aws:iam::123456789012:role/next", fixed(t, testToken) // all else changes
	o.Profiles.Set([]Profile{stays})
	right := header("Authorization", testToken)
	mustRefuse(t, ask(h, request("GET", "/v1/credentials")), AuthorizationRequired)
	mustRefuse(t, ask(h, request("GET", "/v1/credentials/writer", right)), UnknownProfile)
	mustRefuse(t, ask(h, request("GET", "/v1/identity/writer", right)), UnknownProfile)
	if w := ask(h, request("GET", "/v1/credentials", right, agent("the app"))); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if o.Profiles.now().paths["/v1/credentials/default"].rendered[0].Load() != rendered {
		t.Error("what was rendered of the default is lost")
	}
	for name, page := range map[string]string{"/": ask(h, request("GET", "/", right)).Body.String(), "the page": ask(admin, request("GET", "/")).Body.String()} {
		if strings.Contains(page, "writer") || !strings.Contains(page, "the app") || !strings.Contains(strings.ToLower(page), "asked for twice") && !strings.Contains(page, "asked for   twice") {
			t.Errorf("%s: %s", name, page)
		}
	}
	const series = `
# HELP irsa_sidecar_http_requests_total Requests answered, by listener, profile (empty if a request is not about one), route and status code.
# TYPE irsa_sidecar_http_requests_total counter
irsa_sidecar_http_requests_total{code="200",listener="admin",profile="",route="/"} 1
irsa_sidecar_http_requests_total{code="200",listener="credentials",profile="",route="/"} 1
irsa_sidecar_http_requests_total{code="200",listener="credentials",profile="default",route="/v1/credentials"} 2
irsa_sidecar_http_requests_total{code="400",listener="credentials",profile="",route="/v1/credentials/{profile}"} 1
irsa_sidecar_http_requests_total{code="400",listener="credentials",profile="",route="/v1/identity/{profile}"} 1
irsa_sidecar_http_requests_total{code="403",listener="credentials",profile="",route="refused"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(series), "irsa_sidecar_http_requests_total"); err != nil {
		t.Error(err)
	}

	// A profile of the same name that comes back is another one, which counts from zero.
	o.Profiles.Set([]Profile{stays, member(t, "writer", "")})
	if _, requests := o.Profiles.now().paths["/v1/credentials/writer"].askers.list(); requests != 0 {
		t.Errorf("%d requests for the new profile", requests)
	}
	if n := testutil.ToFloat64(o.Metrics.requests.WithLabelValues("credentials", "writer", "/v1/credentials", "200")); n != 0 {
		t.Errorf("%v are counted for the new profile", n)
	}
}

// A request that waits for the first exchange is answered as if it came now.
func TestARequestUnderWayWhenItsProfileGoesGetsACleanAnswer(t *testing.T) {
	for name, row := range map[string]struct {
		then func(t *testing.T, slow Profile) []Profile
		code int
		says string
	}{
		"it is gone":                 {func(t *testing.T, _ Profile) []Profile { return nil }, 400, "UnknownProfile"},
		"it has another cache":       {func(t *testing.T, _ Profile) []Profile { return []Profile{member(t, "slow", "")} }, 200, keyOf("slow")},
		"it has another token":       {func(t *testing.T, _ Profile) []Profile { return []Profile{member(t, "slow", writerToken)} }, 403, "AuthorizationRequired"},
		"it stays":                   {func(_ *testing.T, p Profile) []Profile { return []Profile{p} }, 200, testKey},
		"it stays with another role": {func(_ *testing.T, p Profile) []Profile { p.RoleARN = "another"; return []Profile{p} }, 200, testKey},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				registry := prometheus.NewRegistry()
				slow := named("slow", func(context.Context) (cache.Credentials, error) {
					time.Sleep(500 * time.Millisecond)
					return testCredentials(), nil
				})
				o := Options{Profiles: serving(slow), Default: testProfile, Address: testAddress, Metrics: NewMetrics(registry)}
				h := Credentials(o)
				var answers sync.WaitGroup
				answers.Go(func() {
					w := ask(h, request("GET", "/v1/credentials/slow"))
					if w.Code != row.code || !strings.Contains(w.Body.String(), row.says) {
						t.Errorf("%d %s, want %d %s", w.Code, w.Body, row.code, row.says)
					}
				})
				time.Sleep(100 * time.Millisecond)
				next := row.then(t, slow)
				o.Profiles.Set(next)
				answers.Wait()
				if n := testutil.CollectAndCount(o.Metrics.requests); next == nil && n != 1 { // the refusal
					t.Errorf("%d series", n)
				}
			})
		})
	}
}

// Clients ask while the profiles are replaced a thousand times: one that stays is always served, no answer mixes two, and one
// that has gone is not served any more.
func TestProfilesAreReplacedWhileTheyAreServed(t *testing.T) {
	o := Options{Profiles: NewProfiles(), Default: "stays", Address: testAddress, Metrics: NewMetrics(prometheus.NewRegistry())}
	stays := member(t, "stays", testToken)
	o.Profiles.Set([]Profile{stays})
	h, admin, ops := Credentials(o), NewAdmin(o, nil, nil), NewOps(o, prometheus.NewRegistry())
	var served, refused atomic.Int64
	var clients sync.WaitGroup
	done := make(chan struct{})
	until := func(do func()) {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					do()
				}
			}
		})
	}
	right := header("Authorization", testToken)
	until(func() {
		if w := ask(h, request("GET", "/v1/credentials", right)); w.Code != 200 || !strings.Contains(w.Body.String(), keyOf("stays")) {
			t.Errorf("what stays: %d %s", w.Code, w.Body)
		}
	})
	until(func() {
		for _, name := range []string{"comes", "moves"} {
			w := ask(h, request("GET", "/v1/credentials/"+name, header("Authorization", writerToken)))
			switch body := w.Body.String(); {
			case w.Code == 200 && strings.Contains(body, keyOf(name)):
				served.Add(1)
			case w.Code == 400 || w.Code == 403:
				refused.Add(1)
			default:
				t.Errorf("%s: %d %s", name, w.Code, body)
			}
			if w := ask(h, request("GET", "/v1/credentials/"+name, right)); w.Code == 200 {
				t.Errorf("%s with the token of another: %s", name, w.Body)
			}
		}
	})
	until(func() {
		for _, path := range []string{"/", "/v1/identity", "/v1/identity/stays"} {
			if w := ask(h, request("GET", path, right)); w.Code != 200 {
				t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
			}
		}
		if w := ask(admin, request("GET", "/")); w.Code != 200 || ask(ops, request("GET", "/readyz")).Code != 200 {
			t.Errorf("%d", w.Code)
		}
	})
	comes, moves := member(t, "comes", writerToken), member(t, "moves", writerToken)
	for i := range 1000 {
		all := []Profile{stays}
		if i%2 == 0 {
			all = append(all, comes)
		}
		if i%3 == 0 {
			moves = member(t, "moves", writerToken) // another Cache
		}
		o.Profiles.Set(append(all, moves))
		o.Profiles.SetFault(fmt.Sprint("a mistake ", i))
		if w := ask(h, request("GET", "/v1/credentials/comes", header("Authorization", writerToken))); (w.Code == 200) != (i%2 == 0) {
			t.Fatalf("after change %d: %d %s", i, w.Code, w.Body)
		}
	}
	close(done)
	clients.Wait()
	t.Logf("%d served and %d refused meanwhile", served.Load(), refused.Load())
}

func TestServingOneOfFiftyProfilesAllocatesNothing(t *testing.T) {
	var all []Profile
	for i := range 50 {
		all = append(all, member(t, fmt.Sprint("tenant-", i), fmt.Sprint(testToken, i)))
	}
	h := Credentials(Options{Profiles: serving(all...), Default: "tenant-7", Address: testAddress, Metrics: NewMetrics(prometheus.NewRegistry())})
	for path, token := range map[string]string{"/v1/credentials": testToken + "7", "/v1/credentials/tenant-49": testToken + "49"} {
		r, w := request("GET", path, header("Authorization", token)), &sink{header: make(map[string][]string)}
		if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }); n != 0 || w.bytes < 1000*len(wantBody) {
			t.Errorf("GET %s: %v allocations, %d bytes served", path, n, w.bytes)
		}
	}
}
