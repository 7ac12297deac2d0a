package server

import (
	"net/netip"
	"strings"
	"testing"
)

// relative is the handler of a listener for relative URIs, which tests ask from loopback.
func relative(o Options) Handler { return Relative(o, netip.MustParseAddrPort("169.254.170.2:9911")) }

func TestARelativeURIGetsTheSameCredentials(t *testing.T) {
	o := warm(t)
	for _, path := range []string{"/v1/credentials", "/v1/credentials/", "/v1/credentials?x=1", "/v1/credentials/default"} {
		w, same := ask(relative(o), request("GET", path)), ask(Credentials(o), request("GET", path))
		if w.Code != 200 || w.Body.String() != same.Body.String() || w.Header().Get("Content-Type") != same.Header().Get("Content-Type") {
			t.Errorf("GET %s: %d %s, want %s", path, w.Code, w.Body, same.Body)
		}
	}
	for _, path := range []string{"/", "/v1/identity", "/v1/identity/default", "/v1", "/latest/meta-data/"} {
		w := ask(relative(o), request("GET", path))
		mustDocument(t, w, 404, string(UnknownPath), UnknownPath.Message(),
			"credentials are at /v1/credentials, and nothing else is here; set AWS_CONTAINER_CREDENTIALS_RELATIVE_URI to that path")
	}
	if w := ask(relative(o), request("POST", "/v1/credentials")); w.Code != 405 {
		t.Errorf("POST: %d %s", w.Code, w.Body)
	}
}

// The sidecar's own token cannot be sent with a relative URI; a profile's own is asked for there, too.
func TestARelativeURINeedsNoTokenThatIsOptional(t *testing.T) {
	o := edited(several(t), func(p *Profile) { p.TokenOptional = p.Cache.Profile() == testProfile })
	h := relative(o)
	for _, row := range []struct {
		path  string
		token []string
		code  int
		says  string
	}{
		{"/v1/credentials", nil, 200, keyOf("default")},
		{"/v1/credentials", []string{"wrong"}, 200, keyOf("default")},
		{"/v1/credentials", []string{testToken}, 200, keyOf("default")},
		{"/v1/credentials", []string{"a", "b"}, 403, "AuthorizationRepeated"},
		{"/v1/credentials/writer", nil, 403, "AuthorizationRequired"},
		{"/v1/credentials/writer", []string{testToken}, 403, "AuthorizationRejected"},
		{"/v1/credentials/writer", []string{writerToken}, 200, keyOf("writer")},
		{"/v1/credentials/nobody", nil, 400, "UnknownProfile"},
		{"/v1/identity/writer", nil, 404, "UnknownPath"},
	} {
		w := ask(h, request("GET", row.path, header("Authorization", row.token...)))
		if w.Code != row.code || !strings.Contains(w.Body.String(), row.says) {
			t.Errorf("GET %s with %q: %d %s, want %d with %s", row.path, row.token, w.Code, w.Body, row.code, row.says)
		}
	}
	// Where a token can be sent, it is asked for.
	mustRefuse(t, ask(Credentials(o), request("GET", "/v1/credentials", header("Authorization"))), AuthorizationRequired)
}

// A hint names the address of the listener that was asked.
func TestARefusalNamesTheListenersOwnAddress(t *testing.T) {
	h := Relative(warm(t), netip.MustParseAddrPort("169.254.170.2:80"), netip.MustParseAddrPort("[fd00:ec2::23]:80"))
	for want, edit := range map[string]struct {
		refusal Refusal
		edit    string
	}{
		"connect to 169.254.170.2 from inside the Pod":      {PeerNotAllowed, "10.0.0.7:1"},
		"use the address as it is: http://169.254.170.2:80": {HostNotAllowed, ""},
	} {
		r := request("GET", "/v1/credentials", host("evil.example"))
		if edit.edit != "" {
			r.RemoteAddr = edit.edit
		}
		mustDocument(t, ask(h, r), 403, string(edit.refusal), edit.refusal.Message(), want)
	}
}
