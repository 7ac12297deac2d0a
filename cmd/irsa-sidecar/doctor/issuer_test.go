package doctor

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestIssuersThatIAMCannotUse(t *testing.T) {
	const unreachable = "IssuerNotPublic: cannot be reached by IAM and STS: "
	for issuer, want := range map[string]string{
		issuerURL:                                 "",
		"https://oidc.example.com":                "",
		"https://oidc.example.com/":               "", // IAM keeps the slash
		"https://oidc.example.com/a/b":            "",
		"https://s3.eu-west-1.amazonaws.com/oidc": "",
		"https://container.googleapis.com/v1/projects/p/locations/l/clusters/c": "",
		"https://local.example.com": "",

		"https://kubernetes.default.svc.cluster.local":   unreachable + "kubernetes.default.svc.cluster.local is the API server's name inside the cluster",
		"https://kubernetes.default.svc":                 unreachable + "kubernetes.default.svc is the API server's name inside the cluster",
		"https://kubernetes.default.svc/":                unreachable + "kubernetes.default.svc is the API server's name inside the cluster",
		"https://kubernetes.default.svc.:443":            unreachable + "kubernetes.default.svc is the API server's name inside the cluster",
		"https://KUBERNETES.default":                     unreachable + "kubernetes.default is the API server's name inside the cluster",
		"https://kubernetes":                             unreachable + "kubernetes is the API server's name inside the cluster",
		"https://kubernetes.default.svc.corp.example":    unreachable + "kubernetes.default.svc.corp.example is the API server's name inside the cluster",
		"https://oidc.tools.svc":                         unreachable + "oidc.tools.svc is a name in a private network (.svc)",
		"https://oidc.tools.svc.cluster.local":           unreachable + "oidc.tools.svc.cluster.local is a name in a private network (.local)",
		"https://ip-10-0-0-1.eu-west-1.compute.internal": unreachable + "ip-10-0-0-1.eu-west-1.compute.internal is a name in a private network (.internal)",
		"https://api.home.arpa":                          unreachable + "api.home.arpa is a name in a private network (.home.arpa)",
		"https://master-1":                               unreachable + "master-1 is a name without a domain",
		"https://localhost/oidc":                         unreachable + "localhost is a name without a domain",
		"https://10.0.0.1":                               unreachable + "10.0.0.1 is an address in a private network",
		"https://192.168.49.2:8443":                      unreachable + "192.168.49.2 is an address in a private network",
		"https://172.16.0.1":                             unreachable + "172.16.0.1 is an address in a private network",
		"https://100.64.0.1":                             unreachable + "100.64.0.1 is an address in a private network",
		"https://169.254.1.1":                            unreachable + "169.254.1.1 is an address in a private network",
		"https://127.0.0.1":                              unreachable + "127.0.0.1 is an address in a private network",
		"https://0.0.0.0":                                unreachable + "0.0.0.0 is an address in a private network",
		"https://[fd00::1]":                              unreachable + "fd00::1 is an address in a private network",
		"https://[::ffff:10.0.0.1]":                      unreachable + "::ffff:10.0.0.1 is an address in a private network",
		"https://203.0.113.7":                            unreachable + "203.0.113.7 is an IP address, and IAM needs a host name",

		"https://oidc.example.com:6443":  "IssuerMalformed: contains a port, which IAM does not accept",
		"https://oidc.example.com?a=b":   "IssuerMalformed: contains a query (?), which IAM does not accept",
		"https://oidc.example.com/a#b":   "IssuerMalformed: contains a fragment (#), which IAM does not accept",
		"https://me@oidc.example.com":    "IssuerMalformed: contains a user, which IAM does not accept",
		"https://":                       "IssuerMalformed: is not a URL with a host",
		"https:///id/x":                  "IssuerMalformed: is not a URL with a host",
		"https://oidc.example.com:x":     "IssuerMalformed: is not a URL with a host",
		"http://oidc.example.com":        "IssuerNotHTTPS: is not an https:// URL, and IAM accepts OIDC providers only for those",
		"http://kubernetes.default.svc":  "IssuerNotHTTPS: is not an https:// URL, and IAM accepts OIDC providers only for those",
		"oidc.example.com":               "IssuerNotHTTPS: is not an https:// URL, and IAM accepts OIDC providers only for those",
		"kubernetes/serviceaccount":      "IssuerNotHTTPS: is not an https:// URL, and IAM accepts OIDC providers only for those",
		"HTTPS://oidc.example.com":       "IssuerNotHTTPS: is not an https:// URL, and IAM accepts OIDC providers only for those",
		" https://oidc.example.com":      "IssuerNotHTTPS: is not an https:// URL, and IAM accepts OIDC providers only for those",
		"https://oidc.example.com/ x/ y": "",
	} {
		key, why := issuerFault(issuer)
		got := string(key)
		if key != "" {
			got += ": " + why
		}
		if got != want {
			t.Errorf("%q: %s\nwant %s", issuer, got, want)
		}
	}
}

// An STS other than AWS's may be in the same network as the issuer.
func TestOnlyAWSMustReachTheIssuerFromOutside(t *testing.T) {
	for endpoint, want := range map[string]string{
		"":                                    "IssuerNotPublic",
		"https://sts.eu-west-1.amazonaws.com": "IssuerNotPublic",
		"https://vpce-0a-1b.sts.eu-west-1.vpce.amazonaws.com": "IssuerNotPublic",
		"https://sts.cn-north-1.amazonaws.com.cn":             "IssuerNotPublic",
		"http://127.0.0.1:9000":                               "",
		"https://minio.tools.svc:9000":                        "",
		"https://amazonaws.com.example":                       "",
	} {
		e := &examination{Options: newWorld(t).options}
		e.Exchange.Endpoint, e.claims.Issuer = endpoint, "https://kubernetes.default.svc"
		e.checkIssuerURL()
		if got := e.findings[0].Key; got != want {
			t.Errorf("with %q: %q, want %q", endpoint, got, want)
		}
	}
}

// What the issuer may answer to the request for its discovery document. URL is the document's.
func TestDiscoveryDocumentsAreReadOrNamed(t *testing.T) {
	right := func(change func(map[string]any)) string {
		document := map[string]any{"issuer": issuerURL, "jwks_uri": issuerURL + "/openid/v1/jwks", "response_types_supported": []string{"id_token"}, "id_token_signing_alg_values_supported": []string{"RS256"}}
		change(document)
		raw, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	without := func(name string) string { return right(func(d map[string]any) { delete(d, name) }) }
	with := func(name string, value any) string { return right(func(d map[string]any) { d[name] = value }) }
	const unread = "IssuerUnreachable: the signature cannot be verified: URL: "
	for name, row := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"no issuer":                     {200, without("issuer"), "IssuerIncomplete: URL lacks issuer, which STS requires"},
		"no jwks_uri":                   {200, without("jwks_uri"), "IssuerIncomplete: URL lacks jwks_uri, which STS requires"},
		"no response types":             {200, without("response_types_supported"), "IssuerIncomplete: URL lacks response_types_supported, which STS requires"},
		"no algorithms":                 {200, without("id_token_signing_alg_values_supported"), "IssuerIncomplete: URL lacks id_token_signing_alg_values_supported, which STS requires"},
		"a member in another case":      {200, right(func(d map[string]any) { d["JWKS_URI"] = d["jwks_uri"]; delete(d, "jwks_uri") }), "IssuerIncomplete: URL lacks jwks_uri, which STS requires"},
		"response types that are none":  {200, with("response_types_supported", []string{}), "IssuerIncomplete: URL has an empty list response_types_supported"},
		"response types that are one":   {200, with("response_types_supported", "id_token"), "IssuerIncomplete: URL has response_types_supported, which is not a list of strings"},
		"algorithms that are numbers":   {200, with("id_token_signing_alg_values_supported", []int{256}), "IssuerIncomplete: URL has id_token_signing_alg_values_supported, which is not a list of strings"},
		"a jwks_uri that is a list":     {200, with("jwks_uri", []string{"https://x"}), "IssuerIncomplete: URL has jwks_uri, which is not a string with something in it"},
		"a jwks_uri that is empty":      {200, with("jwks_uri", ""), "IssuerIncomplete: URL has jwks_uri, which is not a string with something in it"},
		"nothing in it":                 {200, "{}", "IssuerIncomplete: URL lacks issuer and jwks_uri and response_types_supported and id_token_signing_alg_values_supported, which STS requires"},
		"a jwks_uri without https":      {200, with("jwks_uri", "http://keys.example.com"), `IssuerIncomplete: URL has the jwks_uri "http://keys.example.com", which is not an https:// URL`},
		"a jwks_uri of the API server":  {200, with("jwks_uri", "https://10.0.0.1:6443/openid/v1/jwks"), `IssuerNotPublic: URL has the jwks_uri "https://10.0.0.1:6443/openid/v1/jwks", which cannot be reached by IAM and STS: 10.0.0.1 is an address in a private network`},
		"a jwks_uri inside the cluster": {200, with("jwks_uri", "https://kubernetes.default.svc/openid/v1/jwks"), `IssuerNotPublic: URL has the jwks_uri "https://kubernetes.default.svc/openid/v1/jwks", which cannot be reached by IAM and STS: kubernetes.default.svc is the API server's name inside the cluster`},
		"another issuer":                {200, with("issuer", "https://oidc.example.com"), `IssuerMismatch: URL names the issuer "https://oidc.example.com", but the token's is "ISSUER"`},
		"a slash at the end":            {200, with("issuer", issuerURL+"/"), `IssuerMismatch: URL names the issuer "ISSUER/", but the token's is "ISSUER": they differ in the slash at the end`},
		"another case":                  {200, with("issuer", strings.ToLower(issuerURL)), `IssuerMismatch: URL names the issuer "` + strings.ToLower(issuerURL) + `", but the token's is "ISSUER": they differ in upper and lower case`},
		"a page":                        {200, "<!doctype html><title>Sign in</title>", unread + "the answer is a page of HTML or XML and not JSON"},
		"nothing":                       {200, "", unread + "the answer is empty"},
		"a list":                        {200, "[]", unread + "the answer is JSON, but not the expected document"},
		"half of it":                    {200, without("issuer")[:40], unread + "the answer ends in the middle of the JSON"},
		"text":                          {200, "ok", unread + "the answer is not the expected JSON"},
		"a redirect":                    {302, "", unread + "the answer has HTTP status 302, a redirect to https://login.example.com/"},
		"an API server's refusal":       {403, `{"kind": "Status", "apiVersion": "v1", "code": 403}`, unread + "the answer has HTTP status 403: an API server refuses callers without an account"},
		"an API server's other refusal": {401, `{"kind":"Status","apiVersion":"v1","code":401}`, unread + "the answer has HTTP status 401: an API server refuses callers without an account"},
		"nothing there":                 {404, "404 page not found", unread + "the answer has HTTP status 404"},
		"no keys where they should be":  {200, right(func(map[string]any) {}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			url := discoveryURL(issuerURL)
			w.issuerHandler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/jwks") {
					io.WriteString(rw, `{"keys": []}`)
					return
				}
				if row.status == 302 {
					rw.Header().Set("Location", "https://login.example.com/")
				}
				rw.WriteHeader(row.status)
				io.WriteString(rw, row.body)
			})
			e := &examination{Options: w.options}
			e.claims.Issuer = issuerURL
			e.checkIssuer(t.Context())
			if len(e.findings) != 1 {
				t.Fatalf("found %+v", e.findings)
			}
			f := e.findings[0]
			got := strings.NewReplacer(url, "URL", issuerURL, "ISSUER").Replace(f.Key + ": " + f.Finding)
			want := row.want
			if want == "" {
				want = "IssuerIncomplete: ISSUER/openid/v1/jwks contains no keys"
			}
			if got != want {
				t.Errorf("found %s\nwant  %s", got, want)
			}
			if len(f.Fixes) != 1 {
				t.Errorf("%d fixes", len(f.Fixes))
			}
		})
	}
}
