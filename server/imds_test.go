package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

const (
	testRolePath = "/latest/meta-data/iam/security-credentials/reader"
	testZone     = "eu-west-1a"
)

// wantIMDSDocument is what EC2 would serve of testCredentials.
const wantIMDSDocument = `{
  "Code" : "Success",
  "LastUpdated" : "2026-08-22T12:00:00Z",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "` + testKey + `",
  "SecretAccessKey" : "` + testSecretKey + `",
  "Token" : "` + testSessionToken + `",
  "Expiration" : "2099-12-31T23:59:59Z"
}`

// testIMDS is an IMDS that serves the default profile, in a known place.
var testIMDS = IMDS{Addresses: []netip.AddrPort{testAddress}, Profile: testProfile, Region: func() string { return "eu-west-1" }, AvailabilityZone: testZone}

// warmIMDS are Options with credentials that STS issued at a known time.
func warmIMDS(t testing.TB) Options {
	t.Helper()
	c := testCredentials()
	c.ServerTime = time.Date(2026, 8, 22, 12, 0, 0, 0, time.UTC)
	o := warm(t)
	p := profileOf(issues(c))
	if _, err := p.Cache.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Profiles = serving(p)
	return o
}

// metadataTokenOf returns a token that lives for a minute.
func metadataTokenOf(t testing.TB, h http.Handler) string {
	t.Helper()
	w := ask(h, request("PUT", "/latest/api/token", header(metadataTokenTTL, "60")))
	if w.Code != 200 {
		t.Fatalf("no token: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// askIMDS sends a GET with a token.
func askIMDS(t testing.TB, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	return ask(h, request("GET", path, header(metadataToken, metadataTokenOf(t, h))))
}

func mustPage(t *testing.T, w *httptest.ResponseRecorder, status int, detail string) {
	t.Helper()
	title := fmt.Sprintf("<h1>%d - %s</h1>", status, http.StatusText(status))
	if w.Code != status || w.Header().Get("Content-Type") != "text/html" || w.Header().Get("Server") != "EC2ws" || w.Header().Get(Mark) != "imds" || !strings.Contains(w.Body.String(), title) {
		t.Errorf("%d %v %s, want a page of EC2 with the status %d", w.Code, w.Header(), w.Body, status)
	}
	if !strings.Contains(w.Body.String(), detail) || (detail == "") == strings.Contains(w.Body.String(), "<p>") {
		t.Errorf("%s, want %q in it", w.Body, detail)
	}
	mustBeSecretFree(t, "the page", w.Body.String())
}

func TestIMDSServesWhatIsKnown(t *testing.T) {
	h := NewIMDS(warmIMDS(t), testIMDS)
	document := "{\n  \"accountId\" : \"" + testAccount + "\",\n  \"availabilityZone\" : \"eu-west-1a\",\n  \"region\" : \"eu-west-1\"\n}"
	for path, want := range map[string]string{
		"/":                                 strings.Join(imdsVersions, "\n"),
		"/latest":                           "dynamic\nmeta-data",
		"/latest/dynamic":                   "instance-identity/",
		"/latest/dynamic/instance-identity": "document",
		"/latest/dynamic/instance-identity/document":        document,
		"/latest/meta-data":                                 "iam/\nplacement/",
		"/latest/meta-data/iam":                             "info\nsecurity-credentials/",
		"/latest/meta-data/iam/security-credentials":        "reader",
		"/latest/meta-data/iam/security-credentials/reader": wantIMDSDocument,
		"/latest/meta-data/placement":                       "availability-zone\nregion",
		"/latest/meta-data/placement/availability-zone":     "eu-west-1a",
		"/latest/meta-data/placement/region":                "eu-west-1",
	} {
		for _, version := range []string{"latest", "1.0", "2021-03-23", "2009-04-04"} {
			for _, slash := range []string{"", "/"} {
				path := strings.Replace(path, "/latest", "/"+version, 1) + slash
				w := askIMDS(t, h, path)
				if w.Code != 200 || w.Body.String() != want {
					t.Errorf("%s: %d %q, want %q", path, w.Code, w.Body, want)
				}
				for name, value := range map[string]string{"Content-Type": "text/plain", "Server": "EC2ws", "Cache-Control": "no-store",
					"Content-Length": fmt.Sprint(len(want)), "X-Content-Type-Options": "nosniff", "Location": ""} {
					if got := w.Header().Get(name); got != value {
						t.Errorf("%s: %s: %q, want %q", path, name, got, value)
					}
				}
			}
		}
	}
	w := askIMDS(t, h, "/latest/meta-data/iam/info")
	var info map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &info); err != nil || info["Code"] != "Success" || info["InstanceProfileArn"] != testRole || info["LastUpdated"] == "" {
		t.Errorf("%s, %v, want the role", w.Body, err)
	}
	mustBeSecretFree(t, "iam/info", w.Body.String())
}

func TestIMDSHasNothingElse(t *testing.T) {
	h := NewIMDS(warmIMDS(t), testIMDS)
	for _, path := range []string{
		"/latest/user-data", "/latest/meta-data/instance-id", "/latest/meta-data/iam/security-credentials/other",
		"/latest/meta-data/iam/security-credentials/reader/x", "/latest/meta-data/iam/security-credentials/Reader",
		"/latest/meta-data/iam/security-credentials//reader", "/latest/meta-data/iam/security-credentials//", "/latest/meta-data/ia",
		"/latest/meta-data/iam/info/x", "/latest/dynamic/instance-identity/pkcs7", "/latest/api", "/2021-03-23/api/token",
		"/Latest/meta-data", "/2021-03-24/meta-data", "/meta-data", "/v1/credentials", "//latest/meta-data", "/latest/../latest/meta-data",
		"/latest/meta-data/iam/security-credentials%2Freader%2F..", "/latest/meta-data/placement/availability-zone-id",
	} {
		mustPage(t, askIMDS(t, h, path), 404, "")
	}
}

// Programs encode what they need not: boto 2 writes %40 for the @ in the name of a role.
func TestIMDSTakesAnEncodedNameOfARole(t *testing.T) {
	c := testCredentials()
	c.RoleARN = "arn:aws-cn:iam::123456789012:role/team/a+b=c,d.e@f-g"
	h := NewIMDS(withCredentials(t, c), testIMDS)
	if w := askIMDS(t, h, "/latest/meta-data/iam/security-credentials/"); w.Body.String() != "a+b=c,d.e@f-g" {
		t.Errorf("%q is listed", w.Body)
	}
	for _, name := range []string{"a+b=c,d.e@f-g", "a%2Bb%3Dc%2Cd.e%40f-g"} {
		if w := askIMDS(t, h, "/latest/meta-data/iam/security-credentials/"+name); w.Code != 200 || !strings.Contains(w.Body.String(), testKey) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// withCredentials are warm Options with other credentials, for the role that they are of.
func withCredentials(t testing.TB, c cache.Credentials) Options {
	t.Helper()
	o := warm(t)
	p := profileOf(issues(c))
	p.RoleARN = c.RoleARN
	if _, err := p.Cache.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Profiles = serving(p)
	return o
}

func TestIMDSLeavesOutWhatIsNotKnown(t *testing.T) {
	zoneless, regionless, nowhere := testIMDS, testIMDS, testIMDS
	zoneless.AvailabilityZone, nowhere.AvailabilityZone = "", ""
	regionless.Region, nowhere.Region = func() string { return "" }, nil
	minio := testCredentials()
	minio.RoleARN = "arn:minio:iam:::role/reader"
	for _, c := range []struct {
		name    string
		options Options
		imds    IMDS
		want    map[string]string // by path; empty: 404
	}{
		{"no zone", warm(t), zoneless, map[string]string{
			"/latest/meta-data/placement/": "region", "/latest/meta-data/placement/availability-zone": "",
			"/latest/dynamic/instance-identity/document": "{\n  \"accountId\" : \"123456789012\",\n  \"region\" : \"eu-west-1\"\n}"}},
		{"no region yet", warm(t), regionless, map[string]string{
			"/latest/meta-data/placement/": "availability-zone", "/latest/meta-data/placement/region": "",
			"/latest/dynamic/instance-identity/document": "{\n  \"accountId\" : \"123456789012\",\n  \"availabilityZone\" : \"eu-west-1a\"\n}"}},
		{"no place", warm(t), nowhere, map[string]string{
			"/latest/meta-data/": "iam/", "/latest/meta-data/placement/": "", "/latest/meta-data/placement/region": ""}},
		{"a role of MinIO", withCredentials(t, minio), nowhere, map[string]string{
			"/latest/": "meta-data", "/latest/dynamic/": "", "/latest/dynamic/instance-identity/document": "",
			"/latest/meta-data/iam/security-credentials/": "reader"}},
	} {
		h := NewIMDS(c.options, c.imds)
		for path, want := range c.want {
			w := askIMDS(t, h, path)
			if want == "" {
				mustPage(t, w, 404, "")
			} else if w.Code != 200 || w.Body.String() != want {
				t.Errorf("%s: %s: %d %q, want %q", c.name, path, w.Code, w.Body, want)
			}
		}
	}
}

func TestMetadataTokensLiveAsLongAsRequested(t *testing.T) {
	h := NewIMDS(warmIMDS(t), testIMDS)
	for _, c := range []struct {
		values []string
		ok     bool
	}{
		{nil, false}, {[]string{""}, false}, {[]string{"0"}, false}, {[]string{"1"}, true}, {[]string{"60"}, true}, {[]string{"21600"}, true},
		{[]string{"21601"}, false}, {[]string{"216000"}, false}, {[]string{"4294967297"}, false}, {[]string{"18446744073709551617"}, false},
		{[]string{strings.Repeat("9", 5000)}, false}, {[]string{"-1"}, false}, {[]string{"+1"}, false}, {[]string{"1.5"}, false}, {[]string{" 1"}, false},
		{[]string{"1h"}, false}, {[]string{"0x10"}, false}, {[]string{"60", "60"}, false},
	} {
		w := ask(h, request("PUT", "/latest/api/token", header(metadataTokenTTL, c.values...)))
		if !c.ok {
			mustPage(t, w, 400, "MetadataTTLInvalid")
			continue
		}
		if w.Code != 200 || w.Header().Get(metadataTokenTTL) != c.values[0] || w.Body.Len() != 56 || w.Header().Get("Content-Type") != "text/plain" {
			t.Errorf("%q: %d %v %s, want a token", c.values, w.Code, w.Header(), w.Body)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		h := NewIMDS(warmIMDS(t), testIMDS)
		token := metadataTokenOf(t, h)
		for _, step := range []struct {
			sleep time.Duration
			want  int
		}{{0, 200}, {time.Minute - 1, 200}, {1, 401}, {time.Hour, 401}} {
			time.Sleep(step.sleep)
			if w := ask(h, request("GET", testRolePath, header(metadataToken, token))); w.Code != step.want {
				t.Errorf("after another %s: %d, want %d", step.sleep, w.Code, step.want)
			}
		}
	})
}

// With IMDSv1 a request needs no token, but a wrong one is refused.
func TestIMDSRefusesRequestsWithoutAValidToken(t *testing.T) {
	o := warmIMDS(t)
	v1 := testIMDS
	v1.V1 = true
	h, lenient := NewIMDS(o, testIMDS), NewIMDS(o, v1)
	token := metadataTokenOf(t, h)
	wrong := map[string][]string{
		"of another process": {metadataTokenOf(t, NewIMDS(o, testIMDS))},
		"twice":              {token, token},
		"longer":             {token + "="},
		"shorter":            {token[:55]},
		"without padding":    {strings.TrimRight(token, "=")},
		"a word":             {"token"},
		"a line feed":        {token[:20] + "\n" + token[21:]},
		"padding inside":     {token[:20] + "==" + token[22:]},
		"zeros":              {strings.Repeat("A", 54) + "=="},
		"long":               {strings.Repeat("A", 5000)},
	}
	for i := range token {
		for _, b := range []byte("ABQRghwxz-_=") {
			if token[i] != b {
				wrong[fmt.Sprintf("%c at %d", b, i)] = []string{token[:i] + string(b) + token[i+1:]}
			}
		}
	}
	for _, path := range []string{testRolePath, "/latest/meta-data/iam/security-credentials/", "/", "/latest/nothing", "/latest/dynamic/instance-identity/document"} {
		for name, values := range wrong {
			for _, one := range []http.Handler{h, lenient} {
				if one == lenient && name == "of another process" {
					continue // h's token is also one of another
				}
				w := ask(one, request("GET", path, header(metadataToken, values...)))
				if mustPage(t, w, 401, "MetadataTokenRejected"); t.Failed() {
					t.Fatalf("a token that is wrong: %s", name)
				}
			}
		}
		mustPage(t, ask(lenient, request("GET", path, header(metadataToken, token))), 401, "MetadataTokenRejected")
		for _, values := range [][]string{nil, {""}} {
			mustPage(t, ask(h, request("GET", path, header(metadataToken, values...))), 401, "MetadataTokenRequired")
			if w := ask(lenient, request("GET", path, header(metadataToken, values...))); w.Code == 401 {
				t.Errorf("%s with IMDSv1: %d %s", path, w.Code, w.Body)
			}
		}
	}
	if w := ask(lenient, request("GET", testRolePath)); w.Body.String() != wantIMDSDocument {
		t.Errorf("with IMDSv1: %d %s", w.Code, w.Body)
	}
	if w := askIMDS(t, lenient, testRolePath); w.Body.String() != wantIMDSDocument {
		t.Errorf("with a token where none is required: %d %s", w.Code, w.Body)
	}
}

func TestIMDSAnswersOnlyItsMethods(t *testing.T) {
	h := NewIMDS(warmIMDS(t), testIMDS)
	token := metadataTokenOf(t, h)
	for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "get", "TRACE"} {
		for path, allowed := range map[string]string{"/latest/api/token": "PUT", "/latest/api/token/": "PUT", testRolePath: "GET, HEAD", "/": "GET, HEAD", "/latest/nothing": "GET, HEAD"} {
			w := ask(h, request(method, path, header(metadataToken, token), header(metadataTokenTTL, "60")))
			if slices.Contains(strings.Split(allowed, ", "), method) {
				if w.Code == 405 {
					t.Errorf("%s %s: 405", method, path)
				}
				continue
			}
			mustPage(t, w, 405, "MethodNotAllowed")
			if w.Header().Get("Allow") != allowed {
				t.Errorf("%s %s: Allow: %s", method, path, w.Header().Get("Allow"))
			}
		}
	}
	// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
	mustPage(t, ask(h, request("PUT", "/2021-03-23/api/token", header(metadataTokenTTL, "60"))), 403, "/latest/api/token")
}

// HEAD has the answer of GET, without the body: https://github.com/GoogleCloudPlatform/fluent-plugin-google-cloud/issues/182 shows
// EC2's.
func TestIMDSAnswersHEAD(t *testing.T) {
	var h Handler
	address := serveTCP(t, func(at netip.AddrPort) Handler {
		i := testIMDS
		i.Addresses = append(i.Addresses, at)
		h = NewIMDS(warmIMDS(t), i)
		return h
	})
	token := metadataTokenOf(t, h)
	for path, status := range map[string]int{"/": 200, "/latest/meta-data/": 200, testRolePath: 200, "/latest/meta-data/spot/instance-action": 404} {
		for _, sent := range []string{"wrong", token} {
			heads := make(map[string]string)
			for _, method := range []string{"GET", "HEAD"} {
				answer := raw(t, address, method+" "+path+" HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close|"+metadataToken+": "+sent)
				head, body, _ := strings.Cut(answer, "\r\n\r\n")
				if (body == "") != (method == "HEAD") {
					t.Errorf("%s %s has the body %q", method, path, body)
				}
				heads[method] = withoutDate(head)
			}
			want := fmt.Sprintf("HTTP/1.1 %d ", status)
			if sent != token {
				want = "HTTP/1.1 401 "
			}
			if heads["HEAD"] != heads["GET"] || !strings.HasPrefix(heads["HEAD"], want) || !strings.Contains(heads["HEAD"], "\r\nServer: EC2ws") {
				t.Errorf("HEAD %s is answered %s\nand GET %s", path, heads["HEAD"], heads["GET"])
			}
		}
	}
}

func withoutDate(head string) string {
	lines := strings.Split(head, "\r\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "Date: ") }), "\r\n")
}

func TestIMDSHasTheGuardsOfCredentials(t *testing.T) {
	linkLocal := netip.MustParseAddrPort("169.254.169.254:80")
	v6 := netip.MustParseAddrPort("[fd00:ec2::254]:80")
	i := testIMDS
	i.Addresses = []netip.AddrPort{linkLocal, v6}
	h := NewIMDS(warmIMDS(t), i)
	at := func(address netip.AddrPort) func(*http.Request) {
		return func(r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.TCPAddrFromAddrPort(address)))
			r.RemoteAddr, r.Host = netip.AddrPortFrom(address.Addr(), 40000).String(), strings.TrimSuffix(address.String(), ":80")
		}
	}
	for _, c := range []struct {
		name  string
		edits []func(*http.Request)
		want  Refusal
	}{
		{"plain", []func(*http.Request){at(linkLocal)}, ""},
		{"IPv6", []func(*http.Request){at(v6)}, ""},
		{"another machine", []func(*http.Request){at(linkLocal), from("169.254.10.20:40000")}, PeerNotAllowed},
		{"the node", []func(*http.Request){at(linkLocal), from("10.0.0.1:40000")}, PeerNotAllowed},
		{"another name", []func(*http.Request){at(linkLocal), host("evil.example")}, HostNotAllowed},
		{"another address", []func(*http.Request){at(linkLocal), host("169.254.170.2")}, HostNotAllowed},
		{"X-Forwarded-For", []func(*http.Request){at(linkLocal), header("X-Forwarded-For", "203.0.113.9")}, ForwardedRequest},
		{"Via", []func(*http.Request){at(linkLocal), header("Via", "1.1 proxy")}, ForwardedRequest},
		{"Origin", []func(*http.Request){at(linkLocal), header("Origin", "http://evil.example")}, BrowserRequest},
		{"a body", []func(*http.Request){at(linkLocal), func(r *http.Request) { r.ContentLength = 5 }}, BodyNotAllowed},
		{"an empty body", []func(*http.Request){at(linkLocal), header("Content-Length", "0")}, ""},
	} {
		put := ask(h, request("PUT", "/latest/api/token", append(c.edits, header(metadataTokenTTL, "60"))...))
		get := ask(h, request("GET", testRolePath, append(c.edits, header(metadataToken, h.(*imds).proofs.issue(time.Minute)))...))
		for _, w := range []*httptest.ResponseRecorder{put, get} {
			if c.want == "" && w.Code != 200 {
				t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
			} else if c.want != "" {
				mustPage(t, w, 403, string(c.want))
			}
		}
	}
}

func TestIMDSServesOneProfileAndOnlyWithoutATokenOfItsOwn(t *testing.T) {
	other := testCredentials()
	other.AccessKeyID, other.RoleARN = "ASIAOTHEROTHEROTHER1", "arn:aws:iam::123456789012:role/other"
	p := named("other", issues(other))
	p.RoleARN = other.RoleARN
	o := and(warmIMDS(t), p)
	i := testIMDS
	i.Profile = "other"
	h := NewIMDS(o, i)
	if w := askIMDS(t, h, "/latest/meta-data/iam/security-credentials/"); w.Body.String() != "other" {
		t.Errorf("%q is listed", w.Body)
	}
	if w := askIMDS(t, h, "/latest/meta-data/iam/security-credentials/other"); !strings.Contains(w.Body.String(), other.AccessKeyID) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	mustPage(t, askIMDS(t, h, testRolePath), 404, "")

	guarded := withToken(t, warmIMDS(t))
	mustPage(t, ask(NewIMDS(guarded, testIMDS), request("PUT", "/latest/api/token", header(metadataTokenTTL, "60"), header("Authorization", testToken))), 400, "UnknownProfile")
	if w := askIMDS(t, NewIMDS(edited(guarded, func(p *Profile) { p.TokenOptional = true }), testIMDS), testRolePath); w.Code != 200 {
		t.Errorf("a token that callers need not send: %d %s", w.Code, w.Body)
	}
	i.Profile = "gone"
	mustPage(t, ask(NewIMDS(o, i), request("PUT", "/latest/api/token", header(metadataTokenTTL, "60"))), 400, "UnknownProfile")
}

// Without a connection, the kernel cannot say whose program asks.
func TestIMDSIsForItsUsers(t *testing.T) {
	h := NewIMDS(edited(warmIMDS(t), func(p *Profile) { p.Users = &Users{ids: []uint32{1000}} }), testIMDS)
	mustPage(t, ask(h, request("PUT", "/latest/api/token", header(metadataTokenTTL, "60"))), 503, "UserUnknown")
	for _, path := range []string{testRolePath, "/latest/meta-data/iam/security-credentials/", "/"} {
		mustPage(t, ask(h, request("GET", path, header(metadataToken, h.(*imds).proofs.issue(time.Minute)))), 503, "UserUnknown")
	}
}

// While the next role's credentials are on their way, those of the last one are served, under its name.
func TestIMDSListsTheRoleWhoseCredentialsItServes(t *testing.T) {
	o := warmIMDS(t)
	next := "arn:aws:iam::123456789012:role/team/writer"
	changed := edited(o, func(p *Profile) { p.RoleARN = next })
	h := NewIMDS(changed, testIMDS)
	for path, want := range map[string]string{"/latest/meta-data/iam/security-credentials/": "reader", testRolePath: wantIMDSDocument} {
		if w := askIMDS(t, h, path); w.Body.String() != want {
			t.Errorf("%s: %d %q, want %q", path, w.Code, w.Body, want)
		}
	}
	if w := askIMDS(t, h, "/latest/meta-data/iam/info"); !strings.Contains(w.Body.String(), testRole) {
		t.Errorf("iam/info: %s, want the same role", w.Body)
	}
	mustPage(t, askIMDS(t, h, "/latest/meta-data/iam/security-credentials/writer"), 404, "")
}

func TestIMDSSaysWhyThereAreNoCredentials(t *testing.T) {
	for _, reason := range cache.Reasons() {
		o := Options{Profiles: serving(profileOf(fails(reason))), Default: testProfile, Address: testAddress}
		h := NewIMDS(o, testIMDS)
		if w := askIMDS(t, h, "/latest/meta-data/iam/security-credentials/"); w.Code != 200 || w.Body.String() != "reader" {
			t.Errorf("%s: the list is %d %q, want the role all the same", reason, w.Code, w.Body)
		}
		w := askIMDS(t, h, testRolePath)
		if statuses[reason] == 503 {
			mustPage(t, w, 503, string(reason)+": "+testMessage)
			continue
		}
		var d map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != 200 {
			t.Errorf("%s: %d %s: %v", reason, w.Code, w.Body, err)
		}
		code, message := string(reason), testMessage
		if reason == cache.AccessDenied {
			code, message = "AssumeRoleUnauthorizedAccess", "AccessDenied: "+testMessage
		}
		if d["Code"] != code || !strings.HasPrefix(d["Message"], message+"; ") || d["LastUpdated"] == "" || len(d) != 3 {
			t.Errorf("%s: %v", reason, d)
		}
		mustPage(t, askIMDS(t, h, "/latest/meta-data/iam/security-credentials/other"), 404, "")
	}
}

func TestIMDSWaitsForTheFirstCredentialsAsOthersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(ctx context.Context) (cache.Credentials, error) {
			select {
			case <-time.After(time.Second):
				return testCredentials(), nil
			case <-ctx.Done():
				return cache.Credentials{}, ctx.Err()
			}
		}
		h := NewIMDS(Options{Profiles: serving(profileOf(slow)), Default: testProfile, Address: testAddress}, testIMDS)
		began := time.Now()
		if w := askIMDS(t, h, "/latest/meta-data/iam/security-credentials/"); w.Body.String() != "reader" || time.Since(began) != 0 {
			t.Errorf("the list is %q after %s, want the role at once", w.Body, time.Since(began))
		}
		mustPage(t, askIMDS(t, h, testRolePath), 503, "CredentialsUninitialized")
		if took := time.Since(began); took != 700*time.Millisecond {
			t.Errorf("answered after %s, want 700ms", took)
		}
		time.Sleep(time.Second)
		if w := askIMDS(t, h, testRolePath); w.Code != 200 || !strings.Contains(w.Body.String(), testKey) {
			t.Errorf("%d %s, want the credentials", w.Code, w.Body)
		}
	})
}

func TestIMDSNeverServesExpiredCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testCredentials()
		c.Expiration = time.Now().Add(time.Minute)
		first := true
		h := NewIMDS(Options{Profiles: serving(profileOf(func(context.Context) (cache.Credentials, error) {
			if first {
				first = false
				return c, nil
			}
			return cache.Credentials{}, &cache.FetchError{Reason: cache.EndpointTimeout, Message: testMessage}
		})), Default: testProfile, Address: testAddress}, testIMDS)
		for _, step := range []struct {
			sleep time.Duration
			want  int
		}{{0, 200}, {time.Minute - 1, 200}, {1, 503}} {
			time.Sleep(step.sleep)
			w := askIMDS(t, h, testRolePath)
			if w.Code != step.want {
				t.Errorf("after another %s: %d, want %d", step.sleep, w.Code, step.want)
			}
			if w.Code != 200 {
				mustBeSecretFree(t, "the answer", w.Body.String())
			}
		}
	})
}

func TestIMDSIsCountedAsImds(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := warmIMDS(t)
	o.Metrics = NewMetrics(registry)
	h := NewIMDS(o, testIMDS)
	askIMDS(t, h, testRolePath)
	askIMDS(t, h, "/latest/meta-data/iam/security-credentials")
	askIMDS(t, h, "/2021-03-23/meta-data/placement/region")
	askIMDS(t, h, "/latest/nothing")
	ask(h, request("GET", testRolePath))
	ask(h, request("PUT", "/latest/api/token", header("X-Forwarded-For", "203.0.113.9")))
	for labels, want := range map[[4]string]float64{
		{"imds", "", "/latest/api/token", "200"}:                                        4,
		{"imds", "default", "/latest/meta-data/iam/security-credentials/{role}", "200"}: 1,
		{"imds", "", "/latest/meta-data/iam/security-credentials/", "200"}:              1,
		{"imds", "", "/latest/meta-data/placement/region", "200"}:                       1,
		{"imds", "", "other", "404"}:                                                    1,
		{"imds", "", "refused", "401"}:                                                  1,
		{"imds", "", "refused", "403"}:                                                  1,
	} {
		if got := testutil.ToFloat64(o.Metrics.requests.WithLabelValues(labels[:]...)); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
	for refusal, want := range map[Refusal]float64{MetadataTokenRequired: 1, ForwardedRequest: 1, MetadataTokenRejected: 0} {
		if got := testutil.ToFloat64(o.Metrics.refusals.WithLabelValues("imds", string(refusal))); got != want {
			t.Errorf("%s: %v, want %v", refusal, got, want)
		}
	}
}

// serveIMDS serves on a real socket.
func serveIMDS(t *testing.T) (address string) {
	t.Helper()
	o := warmIMDS(t)
	return serveTCP(t, func(at netip.AddrPort) Handler {
		i := testIMDS
		i.Addresses = []netip.AddrPort{at}
		return NewIMDS(o, i)
	})
}

// s3fs-fuse 1.90 sends the token's request as an upload of unknown length.
func TestIMDSTakesAPutWithAnEmptyBody(t *testing.T) {
	address := serveIMDS(t)
	const put = "PUT /latest/api/token HTTP/1.1|Host: 127.0.0.1:PORT|X-aws-ec2-metadata-token-ttl-seconds: 60|"
	for _, c := range []struct {
		name, head, body string
		want             int
	}{
		{"no body", put + "Accept: */*", "", 200},
		{"a length of zero", put + "Content-Length: 0", "", 200},
		{"an empty upload", put + "Transfer-Encoding: chunked", "0\r\n\r\n", 200},
		{"an empty upload of s3fs-fuse", put + "Transfer-Encoding: chunked|Expect: 100-continue", "0\r\n\r\n", 200},
		{"an upload", put + "Transfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n", 403},
		{"an upload that does not come", put + "Transfer-Encoding: chunked", "", 403},
		{"a body", put + "Content-Length: 1", "x", 403},
		{"a body that does not come", put + "Content-Length: 1", "", 403},
		{"a GET with an empty upload", "GET / HTTP/1.1|Host: 127.0.0.1:PORT|Transfer-Encoding: chunked", "0\r\n\r\n", 403},
	} {
		conn := dial(t, address)
		send(t, conn, address, c.head)
		answers := bufio.NewReader(conn)
		if strings.Contains(c.head, "Expect") {
			if response, err := http.ReadResponse(answers, nil); err != nil || response.StatusCode != 100 {
				t.Fatalf("%s: %v %v, want 100", c.name, response, err)
			}
		}
		if _, err := conn.Write([]byte(c.body)); err != nil {
			t.Fatal(err)
		}
		response, body := receive(t, answers)
		if response.StatusCode != c.want || (c.want == 200) != (len(body) == 56) {
			t.Errorf("%s: %d %s, want %d", c.name, response.StatusCode, body, c.want)
		}
		if c.want != 200 {
			continue
		}
		send(t, conn, address, "GET /latest/meta-data/iam/security-credentials/reader HTTP/1.1|Host: 127.0.0.1:PORT|X-aws-ec2-metadata-token: "+body)
		if response, body := receive(t, answers); response.StatusCode != 200 || body != wantIMDSDocument {
			t.Errorf("%s: the next request on the connection: %d %s", c.name, response.StatusCode, body)
		}
	}
}

// What net/http cannot read is answered as EC2 would, too.
func TestIMDSAnswersWhatIsNotHTTP(t *testing.T) {
	address := serveIMDS(t)
	got := raw(t, address, "PUT /latest/api/token HTTP/1.1|Host: 127.0.0.1|Host: 127.0.0.1|Connection: close")
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
	if err != nil || response.StatusCode != 400 || response.Header.Get("Content-Type") != "text/html" || !strings.Contains(got, "MalformedRequest") {
		t.Errorf("%v: %s", err, got)
	}
}

func TestServingWarmIMDSCredentialsAllocatesNothing(t *testing.T) {
	o := warmIMDS(t)
	o.Metrics = NewMetrics(prometheus.NewRegistry())
	h := NewIMDS(o, testIMDS)
	r := request("GET", testRolePath, header(metadataToken, metadataTokenOf(t, h)))
	w := &sink{header: http.Header{}}
	// A collection empties the pool of MACs, and the race detector makes it lose some of what it is given.
	n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) })
	build, _ := debug.ReadBuildInfo()
	if n > 0.5 && !slices.Contains(build.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Errorf("%v allocations, want 0", n)
	}
	if w.bytes != 1001*len(wantIMDSDocument) {
		t.Errorf("%d bytes were served, want %d", w.bytes, 1001*len(wantIMDSDocument))
	}
}

func BenchmarkWarmIMDS(b *testing.B) {
	o := warmIMDS(b)
	o.Metrics = NewMetrics(prometheus.NewRegistry())
	h := NewIMDS(o, testIMDS)
	r := request("GET", testRolePath, header(metadataToken, metadataTokenOf(b, h)))
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

// FuzzIMDS sends any request that net/http accepts, from this machine. Credentials are in no answer but the one to a GET of the
// role with a token of this process; nothing is redirected, nothing breaks.
func FuzzIMDS(f *testing.F) {
	for _, head := range []string{
		"PUT /latest/api/token HTTP/1.1\nHost: 127.0.0.1\nX-aws-ec2-metadata-token-ttl-seconds: 21600\nContent-Length: 0",
		"GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\nHost: 127.0.0.1\nX-aws-ec2-metadata-token: TOKEN",
		"GET /latest/meta-data/iam/security-credentials/reader HTTP/1.1\nHost: 127.0.0.1\nX-aws-ec2-metadata-token: TOKEN",
		"GET /2021-03-23/meta-data/iam/security-credentials/%72eader/ HTTP/1.1\nHost: localhost\nX-aws-ec2-metadata-token: TOKEN",
		"GET /latest/meta-data/iam/security-credentials/reader HTTP/1.1\nHost: 127.0.0.1",
		"GET /latest/dynamic/instance-identity/document HTTP/1.0\nHost: 127.0.0.1\nX-aws-ec2-metadata-token: TOKEN",
		"GET /latest/meta-data/placement/availability-zone HTTP/1.1\nHost: 127.0.0.1\nX-aws-ec2-metadata-token: AQAEAGPm_49V6IGWwyABYuQXrWfdP6yrb3-iy6UsOKg5zeol4pFOp_g==",
		"OPTIONS * HTTP/1.1\nHost: 127.0.0.1",
		"GET //latest/../%2e%2e/%00 HTTP/1.1\nHost: 127.0.0.1\nX-aws-ec2-metadata-token: TOKEN",
	} {
		f.Add([]byte(head + "\n\n"))
	}
	h := NewIMDS(warmIMDS(f), testIMDS)
	token := h.(*imds).proofs.issue(time.Hour)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.ReplaceAll(raw, []byte("TOKEN"), []byte(token)))))
		if err != nil {
			return
		}
		r.RemoteAddr = "127.0.0.1:40000"
		w := ask(h, r)
		if w.Body.String() == wantIMDSDocument {
			name := strings.HasSuffix(trimSlash(r.URL.Path), "/meta-data/iam/security-credentials/reader")
			if !name || r.Method != "GET" || !slices.Equal(r.Header[metadataToken], []string{token}) {
				t.Errorf("%s %s was answered with credentials", r.Method, r.URL)
			}
		} else {
			mustBeSecretFree(t, "the answer", w.Body.String())
		}
		if !slices.Contains([]int{200, 400, 401, 403, 404, 405}, w.Code) || w.Header().Get("Server") != "EC2ws" || w.Header().Get("Location") != "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	})
}

// FuzzMetadataTokens: whatever is sent as a token, it is accepted only if this process has issued it.
func FuzzMetadataTokens(f *testing.F) {
	tokens := newMetadataTokens()
	issued := tokens.issue(time.Hour)
	f.Add("", uint8(0), uint8(0))
	f.Add("AQAEAGPm_49V6IGWwyABYuQXrWfdP6yrb3-iy6UsOKg5zeol4pFOp_g==", uint8(3), uint8('x'))
	f.Fuzz(func(t *testing.T, other string, at, with uint8) {
		changed := []byte(issued)
		changed[int(at)%len(changed)] = with
		for _, token := range []string{other, string(changed), issued + other, other + issued, issued[:int(at)%len(issued)] + other} {
			if tokens.accept(token) != (token == issued) {
				t.Errorf("%q: accepted is not %v", token, token == issued)
			}
		}
	})
}
