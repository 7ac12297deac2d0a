package webidentity

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// For any text, the error contains no part of it that could be a secret, and an accepted token can be sent to STS
// unchanged.
func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{
		"", "a", "..", "a.b.c", "a b.c.d", jwt(`{"alg":"RS256"}`, `{}`), jwt(`{"alg":"none"}`, `{}`), jwt(`{"alg":"ES512"}`, `null`),
		jwt(`{"alg":"RS256"}`, `{"iss":"https://i","aud":"a","exp":1582306514,"kubernetes.io":{"namespace":"n","pod":{"name":"p"}}}`),
		jwt(`{"alg":"RS256"}`, `{"aud":["a","b"],"exp":9223372036854775807}`), jwt(`{"alg":"RS256"}`, `{"exp":"1"}`), jwt(`{"alg":"RS256"}`, `{"aud":{}}`),
		jwt(`{"alg":"RS256"}`, `{}`) + "\n", "Bearer " + jwt(`{"alg":"RS256"}`, `{}`), strings.Repeat("a", maxToken+1),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := ParseToken(token)
		if err != nil {
			if !slices.ContainsFunc(parseErrors, func(known *regexp.Regexp) bool { return known.MatchString(err.Error()) }) {
				t.Errorf("an error of its own making: %q", err)
			}
			if !reflect.DeepEqual(claims, Claims{}) {
				t.Error("claims came along with the error")
			}
			return
		}
		again, err := ParseToken(token)
		if err != nil || !reflect.DeepEqual(again, claims) {
			t.Errorf("read again: %+v, %v; before: %+v", again, err, claims)
		}
		if !tokenShape.MatchString(token) || len(token) > maxToken {
			t.Errorf("accepted: %q", token)
		}
		if _, err := claims.Expiration.MarshalJSON(); err != nil {
			t.Errorf("the expiration cannot be written: %v", err)
		}
	})
}

var tokenShape = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// parseErrors are all errors of ParseToken: they contain nothing from the token.
var parseErrors = []*regexp.Regexp{
	regexp.MustCompile(`^is empty$`),
	regexp.MustCompile(`^is not signed$`),
	regexp.MustCompile(`^is longer than the 20000 characters that STS accepts$`),
	regexp.MustCompile(`^contains more than the token: there is white space in it$`),
	regexp.MustCompile(`^is not a JWT: expected 3 parts, found \d+$`),
	regexp.MustCompile(`^is not a JWT: its (header|claims part) is not (base64url|the JSON of a token(: (iss|sub|aud|alg|kid|kubernetes\.io[.a-z]*) is of the type (number|string|bool|object|array))?)$`),
	regexp.MustCompile(`^is not a JWT: its signature is not base64url$`),
	regexp.MustCompile(`^is not signed \(its algorithm is none\)$`),
	regexp.MustCompile(`^does not say with which algorithm it is signed; STS requires one: it accepts RS256, RS384, RS512, ES256, ES384 and ES512$`),
	regexp.MustCompile(`^is signed with (HS256|HS384|HS512|PS256|PS384|PS512|EdDSA|ES256K), which STS does not accept; it accepts RS256, RS384, RS512, ES256, ES384 and ES512$`),
	regexp.MustCompile(`^(begins|ends) with (a quote|a byte order mark \(BOM\)|the name of an HTTP header or Bearer); the file must contain the token alone$`),
	regexp.MustCompile(`^is (binary|a certificate or a key \(PEM\)|a page of HTML or XML|a kubeconfig|a manifest \(YAML\)), not a token$`),
	regexp.MustCompile(`^is (in UTF-16; a token is plain ASCII text|JSON; the file must contain the token alone|padded with =, which a token is not)$`),
	regexp.MustCompile(`^is (in base64; a token is in base64url, which has - and _ instead of \+ and /|encoded in base64 once more, as in the manifest of a Secret)$`),
	regexp.MustCompile(`^is an encrypted token \(JWE\); STS accepts only signed ones$`),
	regexp.MustCompile(`^contains (a path; AWS_WEB_IDENTITY_TOKEN_FILE must be that path itself|\d+ tokens( in a row)?; it must contain one)$`),
	regexp.MustCompile(`^contains (a token in \d+ pieces; a token is one line without blanks|more than the token: there is text (after|before) it)$`),
	regexp.MustCompile(`^is signed with an algorithm that STS does not accept; it accepts RS256, RS384, RS512, ES256, ES384 and ES512$`),
}

// With any response, the Provider returns a failure that can be shown, or credentials; and a Cache serves only complete
// and valid ones.
func FuzzAnswerOfSTS(f *testing.F) {
	const head, tail = `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>`, `</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`
	for _, seed := range []struct {
		status     int
		kind, body string
	}{
		{200, "text/xml", head + `<Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>` + tail},
		{200, "text/xml", head + `<Credentials><AccessKeyId/><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>` + tail},
		{200, "text/xml", head + `<AssumedRoleUser><Arn>a:b:c:d:e:f</Arn></AssumedRoleUser>` + tail},
		{200, "text/xml", head}, {200, "", ""}, {200, "application/json", "{}"}, {204, "", ""}, {302, "text/html", "<html>"}, {407, "text/html", "<p>"}, {429, "", "x"}, {503, "", "\xff\x00"},
		{400, "text/xml", `<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>Incorrect token audience</Message></Error></ErrorResponse>`},
		{400, "text/xml", `<ErrorResponse><Error><Code>` + "a\nb" + `</Code><Message>MaxSessionDuration</Message></Error></ErrorResponse>`},
		{500, "text/xml", `<ErrorResponse><Error>`},
	} {
		f.Add(seed.status, seed.kind, []byte(seed.body))
	}
	token := signedToken(f, ststest.Claims{Lifetime: 24 * time.Hour})
	path := filepath.Join(f.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte) {
		if status < 100 || status > 999 {
			return // no transport returns these
		}
		p := New(Options{RoleARN: testRole, TokenFile: path, Endpoint: "https://sts.example", Duration: time.Hour})
		p.client.Transport = recorder{roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
		})}
		fetched, err := p.Fetch(t.Context())
		if err != nil {
			checkFailure(t, err, token)
			return
		}
		creds, err := cache.New(func(context.Context) (cache.Credentials, error) { return fetched, nil }, cache.Options{}).Get(t.Context())
		if err != nil {
			return // a part is missing, and the Cache has noticed
		}
		if creds.AccessKeyID == "" || creds.SecretAccessKey.IsZero() || creds.SessionToken.IsZero() || !creds.Expiration.After(time.Now()) {
			t.Errorf("served %+v", creds)
		}
		if creds.AccessKeyID != fetched.AccessKeyID || status >= 300 {
			t.Errorf("served %+v after HTTP %d", creds, status)
		}
	})
}

func checkFailure(t *testing.T, err error, token string) {
	t.Helper()
	failure, ok := err.(*cache.FetchError)
	if !ok {
		t.Fatalf("failed with %T: %v", err, err)
	}
	if !slices.Contains(cache.Reasons(), failure.Reason) {
		t.Errorf("%s is not on the list of reasons", failure.Reason)
	}
	message := failure.Message
	if message == "" || len([]rune(message)) > maxMessage || redact.OneLine(message) != message {
		t.Errorf("the message is not to be shown: %q", message)
	}
	if strings.Contains(message, token) {
		t.Error("the message holds the token")
	}
}

func FuzzSessionName(f *testing.F) {
	for _, seed := range []string{"", "a", "default.app-0", "a b", "é", "\xff", strings.Repeat("x", 65), strings.Repeat("é", 65), "a\n"} {
		f.Add(seed)
	}
	shape := regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	f.Fuzz(func(t *testing.T, name string) {
		got := SessionName(name)
		if !shape.MatchString(got) {
			t.Errorf("SessionName(%q) = %q", name, got)
		}
		if again := SessionName(got); again != got {
			t.Errorf("SessionName(%q) = %q: a name that fits is kept", got, again)
		}
		if shape.MatchString(name) && got != name {
			t.Errorf("SessionName(%q) = %q", name, got)
		}
	})
}

// The token can be sent to every endpoint that CheckEndpoint accepts: it is encrypted, or stays on this machine.
func FuzzCheckEndpoint(f *testing.F) {
	for _, seed := range []string{
		"", "https://sts.example", "http://127.0.0.1:1/a", "http://[::1%25lo]:1", "http://localhost", "http://sts.example", "https://u:p@h", "https://h?q", "https://h#f", "https://:1", "http://127.0.0.1@h", "http://127.0.0.1\\@h",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		err := CheckEndpoint(endpoint)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("not one line: %q", err)
			}
			return
		}
		u, err := url.Parse(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		address, _ := netip.ParseAddr(u.Hostname())
		if u.Scheme != "https" && !(u.Scheme == "http" && (u.Hostname() == "localhost" || address.IsLoopback())) {
			t.Errorf("accepted: %q", endpoint)
		}
		if u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("accepted: %q", endpoint)
		}
		// The client must be able to make a request to it.
		if _, err := http.NewRequest(http.MethodPost, endpoint, nil); err != nil {
			t.Errorf("taken: %q: %v", endpoint, err)
		}
	})
}
