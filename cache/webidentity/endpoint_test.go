package webidentity

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

func TestEndpointOfTheRegion(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		issuer  string // EKS's in eu-west-1 if empty
		want    string
	}{
		{name: "of the issuer", want: "https://sts.eu-west-1.amazonaws.com/"},
		{name: "of the issuer in China", issuer: "https://oidc.eks.cn-north-1.amazonaws.com.cn/id/EXAMPLE", want: "https://sts.cn-north-1.amazonaws.com.cn/"},
		{name: "given, other than the issuer's", options: Options{Region: "us-east-1"}, want: "https://sts.us-east-1.amazonaws.com/"},
		{name: "given, and the issuer is not EKS", options: Options{Region: "us-east-1"}, issuer: "https://kubernetes.default.svc", want: "https://sts.us-east-1.amazonaws.com/"},

		{name: "aws, opt-in", options: Options{Region: "mx-central-1"}, want: "https://sts.mx-central-1.amazonaws.com/"},
		{name: "aws, of tomorrow", options: Options{Region: "aq-south-9"}, want: "https://sts.aq-south-9.amazonaws.com/"},
		{name: "aws, global", options: Options{Region: "aws-global"}, want: "https://sts.amazonaws.com/"},
		{name: "cn", options: Options{Region: "cn-northwest-1"}, want: "https://sts.cn-northwest-1.amazonaws.com.cn/"},
		{name: "gov", options: Options{Region: "us-gov-west-1"}, want: "https://sts.us-gov-west-1.amazonaws.com/"},
		{name: "iso", options: Options{Region: "us-iso-east-1"}, want: "https://sts.us-iso-east-1.c2s.ic.gov/"},
		{name: "iso-b", options: Options{Region: "us-isob-east-1"}, want: "https://sts.us-isob-east-1.sc2s.sgov.gov/"},
		{name: "iso-e", options: Options{Region: "eu-isoe-west-1"}, want: "https://sts.eu-isoe-west-1.cloud.adc-e.uk/"},
		{name: "iso-f", options: Options{Region: "us-isof-south-1"}, want: "https://sts.us-isof-south-1.csp.hci.ic.gov/"},
		{name: "eusc", options: Options{Region: "eusc-de-east-1"}, want: "https://sts.eusc-de-east-1.amazonaws.eu/"},

		{name: "FIPS", options: Options{Region: "us-east-2", FIPS: true}, want: "https://sts-fips.us-east-2.amazonaws.com/"},
		{name: "FIPS in gov", options: Options{Region: "us-gov-east-1", FIPS: true}, want: "https://sts.us-gov-east-1.amazonaws.com/"},
		{name: "dual-stack", options: Options{Region: "eu-west-1", DualStack: true}, want: "https://sts.eu-west-1.api.aws/"},
		{name: "dual-stack in China", options: Options{Region: "cn-north-1", DualStack: true}, want: "https://sts.cn-north-1.api.amazonwebservices.com.cn/"},
		{name: "FIPS and dual-stack", options: Options{Region: "us-west-2", FIPS: true, DualStack: true}, want: "https://sts-fips.us-west-2.api.aws/"},

		{name: "own", options: Options{Region: "eu-west-1", Endpoint: "https://vpce-0.sts.eu-west-1.vpce.amazonaws.com"}, want: "https://vpce-0.sts.eu-west-1.vpce.amazonaws.com/"},
		{name: "own, with a path", options: Options{Region: "eu-west-1", Endpoint: "https://gateway.example:8443/aws/sts"}, want: "https://gateway.example:8443/aws/sts"},
		{name: "own, with a slash", options: Options{Region: "eu-west-1", Endpoint: "https://gateway.example/"}, want: "https://gateway.example/"},
		{name: "own, without a region", options: Options{Endpoint: "http://127.0.0.1:9000"}, issuer: "https://kubernetes.default.svc", want: "http://127.0.0.1:9000/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			// These set the endpoint for the SDK's other clients; here only the Options do.
			t.Setenv("AWS_REGION", "ap-south-1")
			t.Setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
			t.Setenv("AWS_ENDPOINT_URL_STS", "https://elsewhere.example")
			t.Setenv("AWS_USE_FIPS_ENDPOINT", "true")
			s := stage(t, tweak{claims: ststest.Claims{Issuer: test.issuer}, options: test.options, endpoint: test.options.Endpoint})
			s.provider.options.Endpoint = test.options.Endpoint
			var got []string
			s.tap(func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
				got = append(got, r.URL.String())
				return nil, http.ErrHandlerTimeout
			})
			s.fetch(t.Context())
			if len(got) != 1 || got[0] != test.want {
				t.Errorf("asked %v, want %s", got, test.want)
			}
		})
	}
}

func TestNoRegionAnywhere(t *testing.T) {
	s := stage(t, tweak{claims: ststest.Claims{Issuer: "https://kubernetes.default.svc"}})
	s.provider.options.Endpoint = ""
	s.tap(func(*http.Request, http.RoundTripper) (*http.Response, error) {
		t.Error("a server was asked")
		return nil, http.ErrHandlerTimeout
	})
	failure := s.mustFail(t, cache.RegionUnknown,
		`AWS_REGION and AWS_DEFAULT_REGION are not set, and the token's issuer "https://kubernetes.default.svc" is not an EKS cluster's`)
	if failure.TokenExpiration.IsZero() || failure.Reason.Class() != cache.Human {
		t.Errorf("failed with %+v", failure)
	}
	if failure.ShortAdvice() != "set AWS_REGION" {
		t.Errorf("the advice is %q", failure.ShortAdvice())
	}
	s.provider.options.RegionHint = "did you mean AWS_REGION?"
	if failure = s.mustFail(t, cache.RegionUnknown, ""); failure.ShortAdvice() != "did you mean AWS_REGION?" || failure.Advice() != failure.ShortAdvice() {
		t.Errorf("with a hint, the advice is %q and %q", failure.ShortAdvice(), failure.Advice())
	}
}

// Without an Endpoint, messages name the region.
func TestFailureNamesTheRegion(t *testing.T) {
	s := stage(t, tweak{})
	s.provider.options.Endpoint = ""
	s.tap(func(*http.Request, http.RoundTripper) (*http.Response, error) { return nil, http.ErrServerClosed })
	s.mustFail(t, cache.EndpointUnreachable, "STS in eu-west-1: http: Server closed")
}

// checkMessage wants err to say want, in which %q stands for the value; an empty want wants no error.
func checkMessage(t *testing.T, value string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if want = strings.ReplaceAll(want, "%q", strconv.Quote(value)); got != want {
		t.Errorf("%q: %q, want %q", value, got, want)
	}
}

func TestCheckEndpoint(t *testing.T) {
	const (
		no    = "is not a URL such as https://sts.eu-west-1.amazonaws.com"
		bare  = "must be a bare URL, without user, query or fragment"
		plain = "would send the token unencrypted to HOST: plain http is for loopback only, use https"
	)
	for endpoint, want := range map[string]string{
		"https://sts.eu-west-1.amazonaws.com": "", "https://sts.example:8443/path/": "", "https://10.0.0.1": "", "https://[2001:db8::1]:443": "", "HTTPS://sts.example": "",
		"http://127.0.0.1": "", "http://127.0.0.1:9000/minio": "", "http://127.255.255.254:1": "", "http://[::1]:9000": "", "http://[::ffff:127.0.0.1]": "", "http://localhost:4566": "",

		"http://sts.example":       strings.Replace(plain, "HOST", "sts.example", 1),
		"http://10.0.0.1:80":       strings.Replace(plain, "HOST", "10.0.0.1", 1),
		"http://0.0.0.0":           strings.Replace(plain, "HOST", "0.0.0.0", 1),
		"http://[::]":              strings.Replace(plain, "HOST", "::", 1),
		"http://128.0.0.1":         strings.Replace(plain, "HOST", "128.0.0.1", 1),
		"http://127.0.0.1.nip.io":  strings.Replace(plain, "HOST", "127.0.0.1.nip.io", 1),
		"http://localhost.example": strings.Replace(plain, "HOST", "localhost.example", 1),
		"http://127.1":             strings.Replace(plain, "HOST", "127.1", 1), // not an address to Go, so a name

		"https://user@sts.example": bare, "https://user:password@sts.example": bare, "http://localhost@sts.example": bare, "https://sts.example?": bare, "https://sts.example/?a=b": bare, "https://sts.example#": bare, "https://sts.example/#a": bare,

		"": no, "sts.example": no, "sts.example:443": no, "//sts.example": no, "https:": no, "https://": no, "https:///path": no, "https://:443": no, "http://:80": no, "https:sts.example": no,
		"ftp://sts.example": no, "unix:///run/sts": no, " https://sts.example": no, "https://sts.example\n": no, "https://sts example": no, "https://sts.example:port": no, "https://[::1": no, "https://%zz": no,
	} {
		checkMessage(t, endpoint, CheckEndpoint(endpoint), want)
		if err := CheckEndpoint(endpoint); err != nil && strings.Contains(err.Error(), "password") {
			t.Errorf("quotes the password: %v", err)
		}
	}
}

func TestSessionName(t *testing.T) {
	long := strings.Repeat("a", 32) + strings.Repeat("b", 32)
	for name, want := range map[string]string{
		"app": "app", "ab": "ab", "a": "a-", "": "--", "default.app-0": "default.app-0", "A_z+=,.@-9": "A_z+=,.@-9",
		"a b/c:d": "a-b-c-d", "é": "--", "日本": "--", "\xff\xfe": "--", "a\n": "a-",
		long: long, "x" + long: long, strings.Repeat("é", 70): strings.Repeat("-", 64),
		strings.Repeat("n", 63) + ".pod-7c9f": strings.Repeat("n", 55) + ".pod-7c9f",
	} {
		if got := SessionName(name); got != want {
			t.Errorf("SessionName(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestCABundleIsAddedToTheSystemsRoots(t *testing.T) {
	dir := t.TempDir()
	sts := ststest.New(ststest.Options{})
	_, ca, err := sts.StartTLS()
	must(t, err)
	defer sts.Close()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	good, empty, other := file("good.pem", "a comment\n"+string(ca)), file("empty.pem", ""), file("other.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	huge := file("huge.pem", "")
	must(t, os.Truncate(huge, maxCABundle+1))
	for path, want := range map[string]string{
		"": "", good: "",
		empty:                      empty + " contains no PEM certificate",
		other:                      other + " contains no PEM certificate",
		filepath.Join(dir, "none"): filepath.Join(dir, "none") + " cannot be read: no such file or directory",
		dir:                        dir + " is a directory, not a file",
		"/dev/zero":                "/dev/zero is not a regular file",
		huge:                       huge + " is longer than 2097152 bytes",
	} {
		roots, err := LoadCABundle(path)
		checkMessage(t, path, err, want)
		if (roots != nil) != (path == good) {
			t.Errorf("%q gave roots %v", path, roots != nil)
		}
	}

	want, err := x509.SystemCertPool()
	must(t, err)
	want.AppendCertsFromPEM(ca)
	if roots, _ := LoadCABundle(good); !roots.Equal(want) {
		t.Error("the roots are not the system's and the bundle's")
	}
}

func TestKnownRegion(t *testing.T) {
	dir := t.TempDir()
	token := func(name, issuer string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(handMade(fmt.Sprintf(`{"iss":%q,"sub":"s","aud":"a","exp":4102444800}`, issuer))), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	eks, other := token("eks", "https://oidc.eks.ap-east-1.amazonaws.com/id/X"), token("other", "https://issuer.example")
	for _, test := range []struct {
		name    string
		options Options
		want    string
	}{
		{"its own", Options{Region: "eu-west-1", TokenFile: eks}, "eu-west-1"},
		{"its own, without a token", Options{Region: "eu-west-1", TokenFile: filepath.Join(dir, "missing")}, "eu-west-1"},
		{"the issuer's", Options{TokenFile: eks}, "ap-east-1"},
		{"the issuer's, with the global endpoint", Options{Region: "aws-global", TokenFile: eks}, "ap-east-1"},
		{"another issuer", Options{TokenFile: other}, ""},
		{"another issuer, and an endpoint", Options{TokenFile: other, Endpoint: "https://sts.example"}, ""},
		{"no token yet", Options{TokenFile: filepath.Join(dir, "missing")}, ""},
	} {
		if got := test.options.KnownRegion(); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestEndpointURL(t *testing.T) {
	const eks = "https://oidc.eks.ap-east-1.amazonaws.com/id/X"
	for _, test := range []struct {
		name    string
		options Options
		issuer  string
		want    string // a URL, or an error
	}{
		{"the region's", Options{Region: "eu-west-1"}, eks, "https://sts.eu-west-1.amazonaws.com"},
		{"the issuer's region", Options{}, eks, "https://sts.ap-east-1.amazonaws.com"},
		{"no region", Options{}, "https://issuer.example", `RegionUnknown: AWS_REGION and AWS_DEFAULT_REGION are not set, and the token's issuer "https://issuer.example" is not an EKS cluster's`},
		{"the global one", Options{Region: "aws-global"}, eks, "https://sts.amazonaws.com"},
		{"another partition's", Options{Region: "cn-north-1"}, eks, "https://sts.cn-north-1.amazonaws.com.cn"},
		{"FIPS", Options{Region: "us-east-1", FIPS: true}, eks, "https://sts-fips.us-east-1.amazonaws.com"},
		{"dual stack", Options{Region: "us-east-1", DualStack: true}, eks, "https://sts.us-east-1.api.aws"},
		{"one's own", Options{Endpoint: "http://127.0.0.1:9000/minio"}, "https://issuer.example", "http://127.0.0.1:9000/minio"},
	} {
		u, err := test.options.EndpointURL(t.Context(), test.issuer)
		got := fmt.Sprint(u)
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}
