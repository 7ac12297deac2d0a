package webidentity

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

const (
	testRole   = "arn:aws:iam::111122223333:role/team/app"
	testIssuer = "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"
)

// cluster is shared, because generating its key takes long.
var cluster = sync.OnceValue(func() *ststest.Issuer {
	issuer, err := ststest.NewIssuer(testIssuer)
	if err != nil {
		panic(err)
	}
	return issuer
})

func signedToken(t testing.TB, claims ststest.Claims) string {
	t.Helper()
	token, err := cluster().Token(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// scene is a Pod with a token, an STS, and a Provider between them. When the test ends, it looks for secrets in everything
// that the Provider returned and logged.
type scene struct {
	sts      *ststest.Server
	file     *ststest.TokenFile
	options  Options
	provider *Provider
	logs     *bytes.Buffer

	secrets []string // besides those that the STS has issued
	output  []string
}

type tweak struct {
	sts      ststest.Options
	claims   ststest.Claims
	options  Options // Endpoint, TokenFile, RoleARN and Logger are filled in
	endpoint string  // in the place of the STS
}

func stage(t *testing.T, with tweak) *scene {
	t.Helper()
	s := &scene{logs: new(bytes.Buffer)}
	var err error
	if s.file, err = ststest.NewTokenFile(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	s.write(t, signedToken(t, with.claims))

	s.options = with.options
	s.options.TokenFile = s.file.Path()
	s.options.Logger = slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	if s.options.RoleARN == "" {
		s.options.RoleARN = testRole
	}
	if s.options.Endpoint = with.endpoint; with.endpoint == "" {
		if with.sts.Issuer == nil {
			with.sts.Issuer = cluster()
		}
		s.sts = ststest.New(with.sts)
		if s.options.Endpoint, err = s.sts.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.sts.Close() })
	}
	s.provider = New(s.options)
	t.Cleanup(func() { s.checkNothingLeaked(t) })
	return s
}

// write replaces the token in the file.
func (s *scene) write(t testing.TB, token string) {
	t.Helper()
	if err := s.file.Write(token); err != nil {
		t.Fatal(err)
	}
	s.secrets = append(s.secrets, strings.TrimSpace(token))
}

func (s *scene) fetch(ctx context.Context) (cache.Credentials, *cache.FetchError) {
	creds, err := s.provider.Fetch(ctx)
	s.output = append(s.output, fmt.Sprintf("%v %+v %#v %v %+v %#v", creds, creds, creds, err, err, err))
	if err == nil {
		return creds, nil
	}
	failure, ok := err.(*cache.FetchError)
	if !ok {
		failure = &cache.FetchError{Reason: "NotAFetchError", Message: fmt.Sprintf("%T: %v", err, err)}
	}
	return creds, failure
}

func (s *scene) mustFetch(t *testing.T) cache.Credentials {
	t.Helper()
	creds, failure := s.fetch(t.Context())
	if failure != nil {
		t.Fatal(failure)
	}
	return creds
}

// mustFail requires a failure with this reason and, unless it is empty, this message, in which HOST stands for the
// endpoint's host and port.
func (s *scene) mustFail(t *testing.T, reason cache.Reason, message string) *cache.FetchError {
	t.Helper()
	return s.mustFailWithin(t, t.Context(), reason, message)
}

func (s *scene) mustFailWithin(t *testing.T, ctx context.Context, reason cache.Reason, message string) *cache.FetchError {
	t.Helper()
	creds, failure := s.fetch(ctx)
	if failure == nil {
		t.Fatalf("no failure, want %s", reason)
	}
	if creds.AccessKeyID != "" || !creds.SecretAccessKey.IsZero() || !creds.SessionToken.IsZero() {
		t.Error("credentials came along with the failure")
	}
	if failure.Reason != reason {
		t.Errorf("failed with %v, want %s", failure, reason)
	}
	if u, err := url.Parse(s.options.Endpoint); err == nil && u.Host != "" {
		message = strings.ReplaceAll(message, "HOST", u.Host)
	}
	if message != "" && failure.Message != message {
		t.Errorf("the message is\n%s\nwant\n%s", failure.Message, message)
	}
	if strings.ContainsAny(failure.Error(), "\r\n") {
		t.Errorf("not one line: %q", failure.Error())
	}
	return failure
}

func (s *scene) checkNothingLeaked(t *testing.T) {
	secrets := s.secrets
	if s.sts != nil {
		for _, session := range s.sts.Issued() {
			secrets = append(secrets, session.SecretAccessKey, session.SessionToken)
		}
	}
	output := strings.Join(s.output, "\n") + s.logs.String()
	for _, secret := range secrets {
		if i := strings.LastIndexByte(secret, '.'); i >= 0 { // of a token, the signature is the secret
			secret = secret[i+1:]
		}
		if secret != "" && strings.Contains(output, secret) {
			t.Errorf("%q is in\n%s", secret, output)
		}
	}
}

// roundTrip is an [http.RoundTripper].
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// tap puts f between the Provider and its transport.
func (s *scene) tap(f func(r *http.Request, next http.RoundTripper) (*http.Response, error)) {
	s.provider.client.Transport = recorder{roundTrip(func(r *http.Request) (*http.Response, error) {
		return f(r, s.provider.transport)
	})}
}

// handMade returns a token with these claims, which are JSON, and an invalid signature.
func handMade(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("the signature of nobody"))
}

func TestExchangeFillsInEveryField(t *testing.T) {
	issued := time.Now().Truncate(time.Second)
	s := stage(t, tweak{claims: ststest.Claims{IssuedAt: issued, Lifetime: 24 * time.Hour}})
	before := time.Now().Truncate(time.Second)
	creds := s.mustFetch(t)

	sessions := s.sts.Issued()
	if len(sessions) != 1 || s.sts.Calls() != 1 {
		t.Fatalf("%d calls and %d sessions, want one", s.sts.Calls(), len(sessions))
	}
	want := sessions[0]
	if creds.AccessKeyID != want.AccessKeyID || creds.SecretAccessKey.Reveal() != want.SecretAccessKey || creds.SessionToken.Reveal() != want.SessionToken {
		t.Error("the keys are not those that STS issued")
	}
	if creds.Expiration != want.Expiration || creds.Expiration.Location() != time.UTC {
		t.Errorf("expires %v, want %v", creds.Expiration, want.Expiration)
	}
	if creds.ServerTime.Before(before) || creds.ServerTime.After(time.Now()) {
		t.Errorf("STS's clock says %v, want now, %v", creds.ServerTime, before)
	}
	for _, field := range []struct{ name, got, want string }{
		{"RoleARN", creds.RoleARN, testRole},
		{"Identity", creds.Identity, "arn:aws:sts::111122223333:assumed-role/app/default.app-0"},
		{"AccountID", creds.AccountID, "111122223333"},
		{"TokenExpiration", creds.TokenExpiration.String(), issued.Add(24 * time.Hour).UTC().String()},
	} {
		if field.got != field.want {
			t.Errorf("%s is %q, want %q", field.name, field.got, field.want)
		}
	}
	if s.logs.Len() > 0 {
		t.Errorf("logged %s", s.logs)
	}
}

// The whole request on the wire.
func TestRequestIsUnsignedAndSaysNoMoreThanItMust(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		want    url.Values
	}{
		{name: "the least", want: url.Values{"RoleSessionName": {"default.app-0"}}},
		{
			name: "the most",
			options: Options{
				SessionName: "my session", Duration: time.Hour, Policy: `{"Version":"2012-10-17"}`,
				PolicyARNs: []string{"arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::111122223333:policy/p"},
				AppID:      "irsa-sidecar-test",
			},
			want: url.Values{
				"RoleSessionName": {"my-session"}, "DurationSeconds": {"3600"}, "Policy": {`{"Version":"2012-10-17"}`},
				"PolicyArns.member.1.arn": {"arn:aws:iam::aws:policy/ReadOnlyAccess"},
				"PolicyArns.member.2.arn": {"arn:aws:iam::111122223333:policy/p"},
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			// A Pod may have these in its environment, and they must not be sent with a token.
			t.Setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
			s := stage(t, tweak{options: test.options})
			var header http.Header
			var body []byte
			s.tap(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				header = r.Header.Clone()
				if r.Method != http.MethodPost || r.URL.Path != "/" || r.URL.RawQuery != "" {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				body, _ = io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				return next.RoundTrip(r)
			})
			s.mustFetch(t)

			form, err := url.ParseQuery(string(body))
			if err != nil {
				t.Fatal(err)
			}
			want := url.Values{
				"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"},
				"RoleArn": {testRole}, "WebIdentityToken": {s.secrets[0]},
			}
			for name, value := range test.want {
				want[name] = value
			}
			if form.Encode() != want.Encode() {
				t.Errorf("sent\n%v\nwant\n%v", form, want)
			}
			for _, name := range []string{"Authorization", "X-Amz-Security-Token", "X-Amz-Date", "Cookie"} {
				if header.Get(name) != "" {
					t.Errorf("sent %s: %s", name, header.Get(name))
				}
			}
			agent := header.Get("User-Agent")
			if got := strings.Contains(agent, "app/"+"irsa-sidecar-test"); got != (test.options.AppID != "") {
				t.Errorf("the User-Agent is %q, and the AppID %q", agent, test.options.AppID)
			}
		})
	}
}

// The cache owns the retries: one Fetch is one request, whatever the SDK's environment contains.
func TestOneFetchIsOneRequest(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "5")
	t.Setenv("AWS_RETRY_MODE", "adaptive")
	t.Setenv("AWS_NEW_RETRIES_2026", "true")
	for name, fault := range map[string]ststest.Fault{
		"success":                 {},
		"500":                     ststest.InternalFailure,
		"503":                     ststest.ServiceUnavailable,
		"503 page":                ststest.HTMLPage(503),
		"429 page":                ststest.HTMLPage(429),
		"throttling":              ststest.Throttling,
		"access denied":           ststest.AccessDenied,
		"invalid token":           ststest.NotValidated,
		"issuer not reached":      ststest.IDPCommunicationError,
		"dropped":                 ststest.Drop,
		"success without content": ststest.EmptyOK,
	} {
		t.Run(name, func(t *testing.T) {
			s := stage(t, tweak{})
			s.sts.Break(fault)
			s.fetch(t.Context())
			if s.sts.Calls() != 1 {
				t.Errorf("%d requests, want 1", s.sts.Calls())
			}
		})
	}
}

func TestSessionNameIsChosenOnce(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	claims := func(kubernetes string) string {
		return handMade(fmt.Sprintf(`{"iss":%q,"aud":"sts.amazonaws.com","exp":%d,"kubernetes.io":{%s}}`, testIssuer, time.Now().Add(time.Hour).Unix(), kubernetes))
	}
	for _, test := range []struct {
		name, given, token, want string
	}{
		{"given", "given", claims(`"namespace":"shop","pod":{"name":"cart-0"}`), "given"},
		{"given, unfit", "arn:aws/é x", claims(""), "arn-aws---x"},
		{"of the token", "", claims(`"namespace":"shop","pod":{"name":"cart-0"}`), "shop.cart-0"},
		{"of a token without a Pod", "", claims(`"namespace":"shop"`), SessionName(hostname)},
		{"of a token without a namespace", "", claims(`"pod":{"name":"cart-0"}`), SessionName(hostname)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := stage(t, tweak{options: Options{SessionName: test.given}, endpoint: "unused"})
			s.sts = ststest.New(ststest.Options{}) // without an issuer: it takes any signature
			s.provider.options.Endpoint = startSTS(t, s.sts)
			for _, token := range []string{test.token, claims(`"namespace":"other","pod":{"name":"other-1"}`)} {
				s.write(t, token)
				s.mustFetch(t)
			}
			for i, form := range s.sts.Requests() {
				if got := form.Get("RoleSessionName"); got != test.want {
					t.Errorf("exchange %d: the session is %q, want %q", i, got, test.want)
				}
			}
		})
	}
}

func startSTS(t *testing.T, sts *ststest.Server) string {
	t.Helper()
	address, err := sts.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sts.Close() })
	return address
}

func TestServerTimeIsTheServersClock(t *testing.T) {
	for _, off := range []time.Duration{-7 * time.Minute, 7 * time.Minute, 0} {
		t.Run(off.String(), func(t *testing.T) {
			s := stage(t, tweak{sts: ststest.Options{Now: func() time.Time { return time.Now().Add(off) }}})
			before := time.Now()
			creds := s.mustFetch(t)
			earliest, latest := before.Add(off).Truncate(time.Second), time.Now().Add(off)
			if creds.ServerTime.Before(earliest) || creds.ServerTime.After(latest) {
				t.Errorf("STS's clock says %v, want between %v and %v", creds.ServerTime, earliest, latest)
			}
		})
	}
}

func TestServerTimeIsZeroWithoutADate(t *testing.T) {
	for name, date := range map[string][]string{"none": nil, "nonsense": {"yesterday"}} {
		t.Run(name, func(t *testing.T) {
			s := stage(t, tweak{})
			s.tap(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				resp, err := next.RoundTrip(r)
				if err == nil {
					resp.Header["Date"] = date
				}
				return resp, err
			})
			if creds := s.mustFetch(t); !creds.ServerTime.IsZero() {
				t.Errorf("STS's clock says %v", creds.ServerTime)
			}
		})
	}
}

// An STS other than AWS's may omit the identity.
func TestIdentityMayBeMissing(t *testing.T) {
	for name, user := range map[string]string{
		"none":        "",
		"empty":       "<AssumedRoleUser><Arn></Arn><AssumeRoleId></AssumeRoleId></AssumedRoleUser>",
		"no real ARN": "<AssumedRoleUser><Arn>somebody</Arn></AssumedRoleUser>",
	} {
		t.Run(name, func(t *testing.T) {
			s := stage(t, tweak{})
			s.sts.Break(ststest.Fault{Body: `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>` + user +
				`<Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>B</SecretAccessKey><SessionToken>C</SessionToken><Expiration>2040-01-01T00:00:00Z</Expiration></Credentials>` +
				`</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`})
			creds := s.mustFetch(t)
			if creds.AccountID != "" || creds.AccessKeyID != "A" || creds.SecretAccessKey.Reveal() != "B" || creds.SessionToken.Reveal() != "C" {
				t.Errorf("got %+v", creds)
			}
		})
	}
}

func TestDurationAboveTheRolesMaximumIsGivenUpWithAWarning(t *testing.T) {
	s := stage(t, tweak{options: Options{Duration: 2 * time.Hour}})
	creds := s.mustFetch(t)
	if left := time.Until(creds.Expiration); left > time.Hour || left < 59*time.Minute {
		t.Errorf("the session lasts another %v, want an hour", left)
	}
	requests := s.sts.Requests()
	if len(requests) != 2 || requests[0].Get("DurationSeconds") != "7200" || requests[1].Has("DurationSeconds") {
		t.Errorf("sent %v", requests)
	}
	const want = `level=WARN msg="the role does not allow sessions this long; requesting STS's default of one hour from now on" duration=2h0m0s ` +
		`hint="raise the role's MaxSessionDuration and restart the sidecar, or lower IRSA_SIDECAR_DURATION"` + "\n"
	if s.logs.String() != want {
		t.Errorf("logged\n%swant\n%s", s.logs, want)
	}
}

func TestDurationThatWasRefusedIsNotAskedForAgain(t *testing.T) {
	s := stage(t, tweak{options: Options{Duration: 2 * time.Hour}})
	s.mustFetch(t)
	first := s.logs.String()
	s.mustFetch(t)
	if s.sts.Calls() != 3 || s.logs.String() != first {
		t.Errorf("%d requests, want 2 for the first exchange and 1 for the second; logged %s", s.sts.Calls(), s.logs)
	}
}

func TestDurationIsGivenUpOnlyOnce(t *testing.T) {
	s := stage(t, tweak{options: Options{Duration: 2 * time.Hour}})
	s.sts.Break(ststest.DurationTooLong)
	s.mustFail(t, cache.ValidationError, "STS refused (ValidationError, HTTP 400): The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	if s.sts.Calls() != 2 {
		t.Errorf("%d requests, want 2", s.sts.Calls())
	}
}

func TestDurationThatTheRoleAllowsIsKept(t *testing.T) {
	for name, options := range map[string]Options{"given": {Duration: time.Hour}, "left to STS": {}} {
		t.Run(name, func(t *testing.T) {
			s := stage(t, tweak{options: options})
			s.sts.Break(ststest.AccessDenied) // another refusal is no reason to ask again
			s.mustFail(t, cache.AccessDenied, "")
			s.sts.Repair()
			s.mustFetch(t)
			if s.sts.Calls() != 2 || s.logs.Len() > 0 {
				t.Errorf("%d requests, want 2; logged %q", s.sts.Calls(), s.logs)
			}
		})
	}
}

func TestChangedOnceAnotherReadableTokenIsThere(t *testing.T) {
	refusals := map[string]ststest.Fault{
		"expired":                ststest.ExpiredToken(time.Now(), time.Now()),
		"invalid":                ststest.NotValidated,
		"rejected by the issuer": ststest.IDPRejectedClaim,
	}
	for name, fault := range refusals {
		t.Run(name, func(t *testing.T) {
			s := stage(t, tweak{})
			s.sts.Break(fault)
			_, failure := s.fetch(t.Context())
			if failure == nil || failure.Changed == nil {
				t.Fatalf("%v cannot tell whether the token has changed", failure)
			}
			first, second := s.secrets[0], signedToken(t, ststest.Claims{Pod: "app-1"})
			for _, step := range []struct {
				name, content string
				want          bool
			}{
				{"the same token", first, false},
				{"the same token with a newline", first + "\n", false},
				{"nothing", "", false},
				{"half of another token", second[:len(second)/2], false},
				{"another token", second, true},
				{"the first one again", first, false},
			} {
				s.write(t, step.content)
				if failure.Changed() != step.want {
					t.Errorf("with %s in the file, Changed is %v", step.name, !step.want)
				}
			}
			if err := os.Remove(s.file.Path()); err != nil {
				t.Fatal(err)
			}
			if failure.Changed() {
				t.Error("without the file, Changed is true")
			}
			if s.sts.Calls() != 1 {
				t.Errorf("%d requests: Changed is to ask nobody", s.sts.Calls())
			}
		})
	}
}

func TestChangedOnceTheFileCanBeRead(t *testing.T) {
	s := stage(t, tweak{})
	token := s.secrets[0]
	s.write(t, "")
	failure := s.mustFail(t, cache.TokenFileMalformed, "token file "+s.file.Path()+" is empty")
	if failure.Changed == nil || failure.Changed() {
		t.Fatal("a file that nobody has touched is not changed")
	}
	s.write(t, token)
	if !failure.Changed() {
		t.Error("the file has a token now")
	}
	s.mustFetch(t)
}

// These clear with time, or when somebody fixes them: a new token file does not help.
func TestOtherRefusalsDoNotWaitForAToken(t *testing.T) {
	for name, fault := range map[string]ststest.Fault{
		"access denied": ststest.AccessDenied, "throttling": ststest.Throttling, "keys": ststest.KeysUnreachable, "503": ststest.ServiceUnavailable,
	} {
		s := stage(t, tweak{})
		s.sts.Break(fault)
		if _, failure := s.fetch(t.Context()); failure == nil || failure.Changed != nil {
			t.Errorf("%s: %v waits for another token", name, failure)
		}
	}
}

// The advice must agree with IAM's own evaluation: a policy made from it allows the token.
func TestTheAdviceNamesWhatTheTrustPolicyNeeds(t *testing.T) {
	claims := ststest.Claims{Namespace: "shop", ServiceAccount: "api"}
	s := stage(t, tweak{claims: claims, sts: ststest.Options{TrustPolicy: `{"Statement":[]}`}})
	failure := s.mustFail(t, cache.AccessDenied, "")
	provider := strings.TrimPrefix(testIssuer, "https://")
	for _, want := range []string{
		" arn:aws:iam::111122223333:oidc-provider/" + provider + ",",
		" " + provider + ":sub = system:serviceaccount:shop:api ", " " + provider + ":aud = sts.amazonaws.com,",
	} {
		if !strings.Contains(failure.Advice(), want) {
			t.Errorf("%q is missing in %q", want, failure.Advice())
		}
	}
	if got, want := failure.ShortAdvice(), "allow system:serviceaccount:shop:api in the role's trust policy"; got != want {
		t.Errorf("in short: %q, want %q", got, want)
	}
	s.sts.Change(func(o *ststest.Options) {
		n := failure.Names
		o.TrustPolicy = fmt.Sprintf(`{"Statement":[{"Effect":"Allow","Principal":{"Federated":"arn:%[1]s:iam::%[2]s:oidc-provider/%[3]s"},
			"Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"%[3]s:sub":"%[4]s","%[3]s:aud":"%[5]s"}}}]}`,
			n["partition"], n["account"], n["issuer"], n["subject"], n["audience"])
	})
	s.mustFetch(t)
}

// IAM writes an issuer without its scheme, also that of a demo without TLS.
func TestTheAdviceWritesTheIssuerAsIAMDoes(t *testing.T) {
	for _, issuer := range []string{"http://127.0.0.1:40157", "https://127.0.0.1:40157"} {
		s := stage(t, tweak{claims: ststest.Claims{Issuer: issuer}})
		s.sts.Break(ststest.AccessDenied)
		advice := s.mustFail(t, cache.AccessDenied, "").Advice()
		for _, want := range []string{":oidc-provider/127.0.0.1:40157,", " 127.0.0.1:40157:sub = ", " 127.0.0.1:40157:aud = "} {
			if !strings.Contains(advice, want) {
				t.Errorf("%s: %q is missing in %q", issuer, want, advice)
			}
		}
	}
}

// The file may contain any claims.
func TestHostileClaimsDoNotSpoilTheAdvice(t *testing.T) {
	const secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	long := strings.Repeat("a", 10000)
	token := handMade(`{"iss":"https://a\nb` + "\x7f" + `","sub":"` + secret + `","aud":["` + long + `","<subject>"]}`)
	signature := token[strings.LastIndexByte(token, '.')+1:]
	for name, token := range map[string]string{
		"secrets and control characters": token,
		"its own signature":              handMade(`{"sub":"` + signature + `"}`),
		"none":                           handMade(`{}`),
	} {
		s := stage(t, tweak{})
		s.sts.Break(ststest.AccessDenied)
		s.write(t, token)
		failure := s.mustFail(t, cache.AccessDenied, "")
		for _, advice := range []string{failure.Advice(), failure.ShortAdvice()} {
			if len(advice) > 2000 || strings.ContainsAny(advice, "\n\x7f") || strings.Contains(advice, secret) || strings.Contains(advice, signature) {
				t.Errorf("%s: %q", name, advice)
			}
		}
	}
}

// Without an account there is no IAM, so there are no names for it.
func TestARoleWithoutAnAccountLeavesItsPlaceholder(t *testing.T) {
	s := stage(t, tweak{options: Options{RoleARN: "arn:minio:iam:::role/app"}})
	s.sts.Break(ststest.AccessDenied)
	if advice := s.mustFail(t, cache.AccessDenied, "").Advice(); !strings.Contains(advice, "arn:<partition>:iam::<account>:") {
		t.Errorf("the advice is %q", advice)
	}
}

func TestFailureSaysWhenItsTokenExpires(t *testing.T) {
	issued := time.Now().Truncate(time.Second)
	s := stage(t, tweak{claims: ststest.Claims{IssuedAt: issued, Lifetime: -10 * time.Minute}})
	failure := s.mustFail(t, cache.ExpiredTokenException, "")
	if want := issued.Add(-10 * time.Minute); !failure.TokenExpiration.Equal(want) {
		t.Errorf("the token expired at %v, want %v", failure.TokenExpiration, want)
	}
}

// An endpoint may repeat the request, out of malice or not. The token must not be shown.
func TestEndpointThatRepeatsTheTokenIsNotQuoted(t *testing.T) {
	xml := func(message string) string {
		return "<ErrorResponse><Error><Type>Sender</Type><Code>Other</Code><Message>" + message + "</Message></Error></ErrorResponse>"
	}
	answers := map[string]func(w http.ResponseWriter, token string){
		"in a page": func(w http.ResponseWriter, token string) { w.WriteHeader(403); io.WriteString(w, token) },
		"in a form": func(w http.ResponseWriter, token string) {
			w.WriteHeader(403)
			io.WriteString(w, "WebIdentityToken="+token)
		},
		"in JSON": func(w http.ResponseWriter, token string) {
			w.WriteHeader(500)
			fmt.Fprintf(w, `{"WebIdentityToken":%q}`, token)
		},
		"in a success": func(w http.ResponseWriter, token string) { io.WriteString(w, token) },
		"in a message": func(w http.ResponseWriter, token string) { w.WriteHeader(400); io.WriteString(w, xml(token)) },
		"in its halves": func(w http.ResponseWriter, token string) {
			w.WriteHeader(400)
			io.WriteString(w, xml(token[:300]+" "+token[300:]))
		},
		"in a code": func(w http.ResponseWriter, token string) {
			w.WriteHeader(400)
			io.WriteString(w, strings.Replace(xml("no"), "Other", token, 1))
		},
		"in the type":   func(w http.ResponseWriter, token string) { w.Header().Set("Content-Type", token); w.WriteHeader(403) },
		"in a location": func(w http.ResponseWriter, token string) { w.Header().Set("Location", "/"+token); w.WriteHeader(302) },
		"in broken XML": func(w http.ResponseWriter, token string) {
			w.WriteHeader(400)
			io.WriteString(w, "<ErrorResponse><Error>"+token)
		},
		"after a newline": func(w http.ResponseWriter, token string) {
			w.WriteHeader(400)
			io.WriteString(w, xml("a\n"+token+"\nb"))
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer(w, r.PostFormValue("WebIdentityToken"))
			}))
			defer server.Close()
			s := stage(t, tweak{endpoint: server.URL})
			_, failure := s.fetch(t.Context())
			if failure == nil {
				t.Fatal("no failure")
			}
			if strings.Contains(failure.Error(), s.secrets[0][:50]) {
				t.Errorf("repeats the token's beginning: %v", failure)
			}
			if strings.ContainsAny(failure.Error(), "\r\n") {
				t.Errorf("not one line: %q", failure.Error())
			}
		})
	}
}

func TestAnswerThatHoldsCredentialsIsNotQuoted(t *testing.T) {
	const secret, session = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJEXAMPLE+/AAAA"
	for name, body := range map[string]string{
		"cut off":                 `<R><AssumeRoleWithWebIdentityResult><Credentials><SecretAccessKey>` + secret + `</SecretAccessKey><SessionToken>` + session,
		"in short XML":            `<a><SecretAccessKey>` + secret,
		"with a bad expiration":   `<R><AssumeRoleWithWebIdentityResult><Credentials><SessionToken>` + session + `</SessionToken><Expiration>` + secret + `</Expiration></Credentials></AssumeRoleWithWebIdentityResult></R>`,
		"in JSON":                 `{"SessionToken":"` + session + `","SecretAccessKey":"` + secret + `"}`,
		"in JSON under a byte":    "\x00" + `{"SessionToken":"` + session + `"}`,
		"in text":                 session + " " + secret,
		"in attributes":           `<Credentials SessionToken="` + session + `" SecretAccessKey="` + secret + `"/>`,
		"in the wrong place":      `<R><Credentials><SessionToken>` + session + `</SessionToken></Credentials></R>`,
		"in a tag that is broken": `<R><` + session + `>`,
	} {
		for _, status := range []int{200, 201, 403, 500} {
			if status >= 300 && !strings.HasPrefix(name, "in JSON") {
				continue
			}
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				s := stage(t, tweak{})
				s.secrets = append(s.secrets, secret, session)
				s.sts.Break(ststest.Fault{Status: status, Body: body, ContentType: "text/xml"})
				if _, failure := s.fetch(t.Context()); failure == nil {
					t.Error("no failure")
				}
			})
		}
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	s := stage(t, tweak{})
	s.sts.Break(ststest.Fault{Code: "ValidationError", Message: "1 validation error: '" + strings.Repeat("ä\n", 20000) + "' is too long"})
	failure := s.mustFail(t, cache.ValidationError, "")
	if n := len([]rune(failure.Message)); n > maxMessage || n < maxMessage-50 || !strings.HasPrefix(failure.Message, "STS refused (ValidationError, HTTP 400): 1 validation error: 'ä") ||
		!strings.Contains(failure.Message, " more) …") || !strings.HasSuffix(failure.Message, "ä ' is too long") {
		t.Errorf("the message has %d characters: %s", n, failure.Message)
	}
	for path, ends := range map[string]string{
		"/" + strings.Repeat("token", 20000):                   "is longer than the system allows",
		"/a\x1b[2J/" + strings.Repeat("b/", 20000):             "is longer than the system allows",
		"/a\x1b[2J\u202e/" + strings.Repeat("b/", 20000) + " ": "contains the invisible character U+202E and ends with a blank",
	} {
		_, err := New(Options{RoleARN: s.options.RoleARN, TokenFile: path}).Fetch(t.Context())
		failure, ok := err.(*cache.FetchError)
		if !ok || len([]rune(failure.Message)) > maxMessage || redact.OneLine(failure.Message) != failure.Message || !strings.HasSuffix(failure.Message, ends) {
			t.Errorf("%.3000v", err)
		}
	}
}

func TestProviderMayBeAskedByManyAtOnce(t *testing.T) {
	s := stage(t, tweak{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := s.provider.Fetch(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	names := make(map[string]bool)
	for _, form := range s.sts.Requests() {
		names[form.Get("RoleSessionName")] = true
	}
	if len(names) != 1 || s.sts.Calls() != 40 {
		t.Errorf("%d requests as %v", s.sts.Calls(), names)
	}
}

// In the program, a Cache calls Fetch.
func TestFetchFeedsTheCache(t *testing.T) {
	s := stage(t, tweak{})
	c := cache.New(s.provider.Fetch, cache.Options{Logger: s.options.Logger})
	creds, err := c.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if creds.AccessKeyID != s.sts.Issued()[0].AccessKeyID {
		t.Errorf("got %s", creds.AccessKeyID)
	}

	s = stage(t, tweak{})
	s.sts.Break(ststest.AccessDenied)
	_, err = cache.New(s.provider.Fetch, cache.Options{Logger: s.options.Logger}).Get(t.Context())
	if failure, ok := errors.AsType[*cache.FetchError](err); !ok || failure.Reason != cache.AccessDenied {
		t.Errorf("failed with %v", err)
	}
}
