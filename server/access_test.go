package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// The tokens of the profiles in several.
const (
	writerToken = "Xf3kP9sLq2Wm7Rv5Jt8Bn4Hy6Gc1Dz0EoUaIxYpTrKe"
	sharedToken = "Mn5Vb8Cx2Zl4Kj7Hg9Fd1Sa3Po6Iu0Yt5Re8Wq2Lk4J"
)

// roleOf is the role of a profile in several.
func roleOf(profile string) string { return "arn:aws:iam::123456789012:role/of-" + profile }

// keyOf is the access key of a profile in several, which must be in no answer about another.
func keyOf(profile string) string {
	return fmt.Sprintf("ASIA%016X", []byte(profile + "........")[:8])
}

// member is a profile of several, with warm credentials of its own.
func member(t testing.TB, name, token string) Profile {
	t.Helper()
	c := testCredentials()
	c.RoleARN, c.AccessKeyID = roleOf(name), keyOf(name)
	p := Profile{RoleARN: c.RoleARN, Cache: cache.New(issues(c), cache.Options{Profile: name, Random: func() float64 { return 0.5 }}), Required: true}
	if _, err := p.Cache.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if token != "" {
		p.Authorization = fixed(t, token)
	}
	return p
}

func fixed(t testing.TB, token string) *Authorization {
	t.Helper()
	a, err := FixedAuthorization(token)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// several are Options with the default, which is chained to a hidden source, a profile with a token of its own, and two that
// share one.
func several(t testing.TB) Options {
	t.Helper()
	first := member(t, "default", testToken)
	first.Source = "default/source"
	hidden := member(t, "default/source", "")
	hidden.Hidden, hidden.Required = true, false
	shared := fixed(t, sharedToken)
	a, b := member(t, "a.b+c=d,e@f", ""), member(t, "team-a", "")
	a.Authorization, b.Authorization = shared, shared
	return Options{
		Profiles: serving(member(t, "writer", writerToken), first, a, hidden, b),
		Default:  testProfile, Address: testAddress, Version: "v1.2.3",
	}
}

func TestThePathSelectsAProfileAndItsOwnTokenOpensIt(t *testing.T) {
	h := Credentials(several(t))
	for _, row := range []struct {
		token string
		mine  []string
	}{
		{testToken, []string{"default"}},
		{writerToken, []string{"writer"}},
		{sharedToken, []string{"a.b+c=d,e@f", "team-a"}},
		{"", nil}, {"wrong", nil}, {"Bearer ", nil},
		{testToken + writerToken, nil},
	} {
		token, mine := row.token, row.mine
		for _, profile := range []string{"default", "writer", "a.b+c=d,e@f", "team-a", "nobody"} {
			for _, path := range []string{"/v1/credentials/", "/v1/identity/"} {
				for _, spelled := range []string{token, "Bearer " + token} {
					w := ask(h, request("GET", path+profile, header("Authorization", spelled)))
					want := 403
					switch {
					case slices.Contains(mine, profile):
						want = 200
					case mine != nil && profile == "nobody":
						want = 400
					}
					if w.Code != want {
						t.Errorf("GET %s with %.20q: %d %s, want %d", path+profile, spelled, w.Code, w.Body, want)
					}
					for _, one := range []string{"default", "writer", "a.b+c=d,e@f", "team-a", "default/source"} {
						if got := strings.Contains(w.Body.String(), keyOf(one)); got != (want == 200 && one == profile && path == "/v1/credentials/") {
							t.Errorf("GET %s with %.20q has the key of %s: %v", path+profile, spelled, one, got)
						}
					}
				}
			}
		}
	}
}

// A spelling of a path is that of a profile, or of none: what is before it must not decide differently from what serves it.
func TestEachProfileHasOneSpelling(t *testing.T) {
	h := Credentials(several(t))
	for target, want := range map[string]int{
		"/v1/credentials/writer":        200,
		"/v1/credentials/writer/":       200,
		"/v1/credentials/writer?x=y":    200,
		"/v1/credentials/writer/?x=/..": 200,
		"/v1/credentials/writer?":       200,

		"/v1/credentials/Writer":             400,
		"/v1/credentials/WRITER":             400,
		"/v1/credentials/writer%20":          400,
		"/v1/credentials/writer%00":          400,
		"/v1/credentials/w%72iter":           400, // the same name for RFC 3986, but no client spells it so
		"/v1/credentials/%77riter":           400,
		"/v1/credentials/writer%2F":          400,
		"/v1/credentials/writer%2f":          400,
		"/v1/credentials/writer%2f..":        400,
		"/v1/credentials/%2e%2e":             400,
		"/v1/credentials/%2E":                400,
		"/v1/credentials/default%2Fsource":   400,
		"/v1/credentials/default%2fsource":   400,
		"/v1/credentials/default%252Fsource": 400,
		"/v1/credentials/writer;default":     400,
		"/v1/credentials/writer%3Fx":         400,
		"/v1/credentials/..":                 400,
		"/v1/identity/default%2Fsource":      400,
		"/v1/identity/w%72iter":              400,
		"/v1/identity/Writer":                400,

		"/v1/credentials/default/source":        404,
		"/v1/credentials/default/source/":       404,
		"/v1/credentials/default//source":       404,
		"/v1/credentials/default/%73ource":      404,
		"/v1/identity/default/source":           404,
		"/v1/credentials//writer":               404,
		"//v1/credentials/writer":               404,
		"/v1//credentials/writer":               404,
		"/v1/credentials/writer//":              404,
		"/v1/credentials/writer/default":        404,
		"/v1/credentials/../credentials/writer": 404,
		"/v1/credentials/default/../writer":     404,
		"/v1/credentials/default/%2e%2e/writer": 404,
		"/V1/credentials/writer":                404,
		"/v1/Credentials/writer":                404,
		"/v1%2Fcredentials%2Fwriter":            404,
		"/v1/credentials%2Fwriter":              404,
		"/v1/%63redentials/writer":              404,
	} {
		w := ask(h, request("GET", target, header("Authorization", writerToken)))
		if w.Code != want {
			t.Errorf("GET %s: %d %s, want %d", target, w.Code, w.Body, want)
		}
		if strings.Contains(w.Body.String(), keyOf("writer")) != (want == 200) || strings.Contains(w.Body.String(), keyOf("default")) {
			t.Errorf("GET %s is answered with %s", target, w.Body)
		}
		for _, token := range []string{"wrong", testToken} { // the default's
			if w := ask(h, request("GET", target, header("Authorization", token))); w.Code == 200 {
				t.Errorf("GET %s with %.10q: 200 %s", target, token, w.Body)
			}
		}
	}
}

// What a caller that may have nothing is told must not depend on what the path names.
func TestACallerWithoutATokenIsNotToldWhichProfilesExist(t *testing.T) {
	o := several(t)
	o.Metrics = NewMetrics(prometheus.NewRegistry())
	h := Credentials(o)
	for _, method := range []string{"GET", "HEAD", "POST"} {
		for name, values := range map[string][]string{"none": nil, "a wrong one": {"wrong"}, "an empty one": {""}, "two": {testToken, writerToken}} {
			var first *httptest.ResponseRecorder
			for _, target := range []string{
				"/v1/credentials", "/v1/credentials/default", "/v1/credentials/writer", "/v1/credentials/nobody", "/v1/credentials/default/source",
				"/v1/credentials/default%2Fsource", "/v1/identity", "/v1/identity/writer", "/v1/identity/nobody", "/", "/nothing",
			} {
				w := ask(h, request(method, target, header("Authorization", values...)))
				if first == nil {
					first = w
				}
				if w.Code != 403 || w.Body.String() != first.Body.String() || fmt.Sprint(w.Header()) != fmt.Sprint(first.Header()) {
					t.Errorf("%s %s with %s: %d %v %s\nwant what others get: %d %v %s", method, target, name, w.Code, w.Header(), w.Body, first.Code, first.Header(), first.Body)
				}
			}
		}
	}
	if n := testutil.CollectAndCount(o.Metrics.requests); n != 4+1 { // served of four profiles: 0; and refused
		t.Errorf("%d series", n)
	}
}

// The same token files are looked at for every path, so that timing does not tell either.
func TestACallerWithoutATokenCausesTheSameWorkForEveryPath(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var all []Profile
		for i := range 5 {
			a, err := AuthorizationFile(filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			p := named(fmt.Sprint("p", i), issues(testCredentials()))
			p.Authorization = a
			all = append(all, p)
		}
		h := Credentials(Options{Profiles: serving(all...), Default: "p0", Address: testAddress})
		for _, target := range []string{"/v1/credentials", "/v1/credentials/p3", "/v1/credentials/nobody", "/v1/identity/p4", "/"} {
			time.Sleep(2 * fileCheck)
			mustRefuse(t, ask(h, request("GET", target, header("Authorization", "wrong"))), AuthorizationRejected)
			for i, p := range all {
				if p.Authorization.checked != time.Now() {
					t.Errorf("GET %s: the token of p%d was not compared", target, i)
				}
			}
		}
	})
}

func TestACallerIsToldWhatItMayHave(t *testing.T) {
	h := Credentials(several(t))
	for _, row := range []struct {
		target, token, says string
		code                int
		refusal             Refusal
	}{
		{"/v1/credentials/nobody", sharedToken, "there is no such profile: this caller may have a.b+c=d,e@f, team-a", 400, UnknownProfile},
		{"/v1/identity/nobody", writerToken, "there is no such profile: this caller may have writer", 400, UnknownProfile},
		{"/v1/credentials/nobody", testToken, "there is no such profile", 400, UnknownProfile},
		{"/v1/credentials/default%2Fsource", testToken, "there is no such profile", 400, UnknownProfile},
		{"/v1/credentials/writer", testToken, AuthorizationRejected.Message(), 403, AuthorizationRejected},
		{"/v1/credentials", writerToken, AuthorizationRejected.Message(), 403, AuthorizationRejected},
		{"/v1/identity/default", writerToken, AuthorizationRejected.Message(), 403, AuthorizationRejected},
	} {
		w := ask(h, request("GET", row.target, header("Authorization", row.token)))
		mustDocument(t, w, row.code, string(row.refusal), row.says, row.refusal.Hint())
		if row.code == 403 && w.Header().Get("Connection") != "close" {
			t.Errorf("GET %s: the connection of a refused caller stays open", row.target)
		}
	}
	if !strings.Contains(AuthorizationRejected.Hint(), "irsa_sidecar_authorization_token_file") {
		t.Error("the hint does not say that a profile has its own token")
	}
	// Where no token is needed, all is open, and a profile with its own still asks for it.
	o := edited(several(t), func(p *Profile) {
		if p.Cache.Profile() == "default" {
			p.Authorization = nil
		}
	})
	h = Credentials(o)
	if w := ask(h, request("GET", "/v1/credentials")); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w := ask(h, request("GET", "/v1/credentials/writer"))
	mustRefuse(t, w, AuthorizationRequired)
	mustRefuse(t, ask(h, request("GET", "/v1/credentials/writer", header("Authorization", "wrong"))), AuthorizationRejected)
	mustRefuse(t, ask(h, request("GET", "/v1/credentials/nobody")), UnknownProfile)
}

// The log says which profile a refused caller asked for, if there is one of that name.
func TestTheLogNamesTheProfileThatWasAskedFor(t *testing.T) {
	for target, want := range map[string]string{
		"/v1/credentials/writer": "writer", "/v1/identity/writer/": "writer", "/v1/credentials/a.b+c=d,e@f": "a.b+c=d,e@f",
		"/v1/credentials": "", "/": "", "/v1/credentials/nobody": "", "/v1/credentials/default%2Fsource": "", "/v1/credentials/default/source": "",
	} {
		o, log := several(t), &bytes.Buffer{}
		o.Callers, o.Logger = new(Callers), slog.New(slog.NewJSONHandler(log, nil))
		ask(Credentials(o), request("GET", target, header("Authorization", "wrong")))
		var line struct{ Msg, Profile string }
		if err := json.Unmarshal(log.Bytes(), &line); err != nil || line.Msg != "request refused" || line.Profile != want {
			t.Errorf("%s: the profile %q, want %q\n%s", target, line.Profile, want, log)
		}
	}
}

// A program may send the token of any profile in another header, on any listener.
func TestTheTokensOfAllProfilesAreMasked(t *testing.T) {
	o := several(t)
	o.Callers = new(Callers)
	h, admin := Credentials(o), NewAdmin(o, nil, nil)
	for i, token := range []string{testToken, writerToken, sharedToken} {
		ask(h, request("GET", "/v1/credentials", agent(fmt.Sprint("a", i, " ", token)), header("Authorization", testToken)))
		ask(h, request("GET", "/v1/credentials", agent(fmt.Sprint("b", i, " ", token))))
		ask(admin, request("GET", "/", agent(fmt.Sprint("c", i, " ", token)), host("evil.example")))
	}
	for name, page := range map[string]string{
		"/": ask(h, request("GET", "/", header("Authorization", testToken))).Body.String(), "the page": ask(admin, request("GET", "/")).Body.String(),
	} {
		if strings.Count(page, hidden) < 9 {
			t.Errorf("%s: %s", name, page)
		}
		for _, token := range []string{testToken, writerToken, sharedToken} {
			if strings.Contains(page, token) {
				t.Errorf("%s shows %s", name, token)
			}
		}
	}
}

// A profile's own users are asked for first, whatever token is sent.
func TestAProfileIsForItsOwnUsers(t *testing.T) {
	none := &Users{} // the connection is of no listener, so they refuse everything
	o := edited(several(t), func(p *Profile) {
		if p.Cache.Profile() == "writer" {
			p.Users = none
		}
	})
	h := Credentials(o)
	if w := ask(h, request("GET", "/v1/credentials", header("Authorization", testToken))); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for token, row := range map[string]struct {
		path string
		want Refusal
	}{
		writerToken:       {"/v1/credentials/writer", UserUnknown},
		writerToken + " ": {"/v1/credentials/writer", AuthorizationRejected}, // nothing is open, and other profiles' users are all
		testToken:         {"/v1/credentials/writer", UserUnknown},
		"wrong":           {"/v1/credentials/nobody", AuthorizationRejected},
	} {
		w := ask(h, request("GET", row.path, header("Authorization", token)))
		if w.Code != row.want.Status() || !strings.Contains(w.Body.String(), string(row.want)) {
			t.Errorf("GET %s with %.10q: %d %s, want %s", row.path, token, w.Code, w.Body, row.want)
		}
	}
	for _, target := range []string{"/", "/v1/credentials", "/v1/credentials/writer", "/v1/credentials/nobody"} { // the same for all
		if w := ask(h, request("GET", target, header("Authorization", writerToken))); w.Code != 503 {
			t.Errorf("GET %s with the token of another user's: %d %s", target, w.Code, w.Body)
		}
	}
	o = edited(o, func(p *Profile) { p.Users = none })
	for _, target := range []string{"/", "/v1/credentials", "/v1/credentials/writer", "/v1/credentials/nobody", "/v1/identity"} {
		for _, token := range []string{writerToken, testToken, "wrong", ""} {
			w := ask(Credentials(o), request("GET", target, header("Authorization", token)))
			if w.Code != 503 || !strings.Contains(w.Body.String(), string(UserUnknown)) {
				t.Errorf("GET %s: %d %s", target, w.Code, w.Body)
			}
		}
	}
}

func TestWithoutProfilesNothingIsServed(t *testing.T) {
	for name, o := range map[string]Options{
		"none": {Address: testAddress, Default: testProfile}, "an empty list": {Address: testAddress, Default: testProfile, Profiles: NewProfiles()},
	} {
		h := Credentials(o)
		for target, want := range map[string]int{"/": 200, "/v1/credentials": 400, "/v1/credentials/x": 400, "/v1/identity": 400, "/nothing": 404} {
			if w := ask(h, request("GET", target)); w.Code != want {
				t.Errorf("%s: GET %s: %d %s, want %d", name, target, w.Code, w.Body, want)
			}
		}
		if w := ask(NewAdmin(o, nil, nil), request("GET", "/")); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}
