package ststest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

const (
	testRole    = "arn:aws:iam::123456789012:role/team/app"
	testSubject = "system:serviceaccount:default:app"
)

// testNow is the STS's clock in every test that does not wait.
var testNow = time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.UTC)

func clock() time.Time { return testNow }

// testIssuer is shared, because generating its key takes long.
var testIssuer = sync.OnceValue(func() *Issuer {
	issuer, err := NewIssuer("https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE")
	if err != nil {
		panic(err)
	}
	return issuer
})

func testOptions() Options {
	trust := trustpolicy.Identity{
		Partition: "aws", Account: "123456789012", Issuer: testIssuer().URL(), Audience: defaultAudience, Subject: testSubject,
	}
	return Options{Issuer: testIssuer(), RoleARN: testRole, TrustPolicy: string(trust.Policy()), Now: clock}
}

func testServer() *Server {
	return New(testOptions())
}

func testToken(t *testing.T, claims Claims) string {
	t.Helper()
	if claims.IssuedAt.IsZero() {
		claims.IssuedAt = testNow
	}
	token, err := testIssuer().Token(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// testForm returns what the SDK sends, with changes; an empty value removes the parameter.
func testForm(token string, changes map[string]string) url.Values {
	form := url.Values{
		"Action":           {action},
		"Version":          {version},
		"RoleArn":          {testRole},
		"RoleSessionName":  {"default.app-0"},
		"WebIdentityToken": {token},
	}
	for name, value := range changes {
		if form.Set(name, value); value == "" {
			form.Del(name)
		}
	}
	return form
}

func newRequest(form url.Values) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func ask(s *Server, form url.Values) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, newRequest(form))
	return w
}

func TestVerdicts(t *testing.T) {
	other, err := NewIssuer(testIssuer().URL())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Token(Claims{IssuedAt: testNow})
	if err != nil {
		t.Fatal(err)
	}
	good := testToken(t, Claims{})

	type change = map[string]string
	for _, test := range []struct {
		name   string
		claims Claims
		change change
		want   Fault // the zero Fault: credentials
	}{
		{name: "a good token"},
		{name: "several audiences, ours among them", claims: Claims{Audience: []string{"other", defaultAudience}}},
		{name: "a second before the token ends", claims: Claims{IssuedAt: testNow.Add(-time.Hour + time.Second)}},
		{name: "the shortest duration", change: change{"DurationSeconds": "900"}},
		{name: "the longest duration of the role", change: change{"DurationSeconds": "3600"}},

		{name: "another subject", claims: Claims{ServiceAccount: "other"}, want: AccessDenied},
		{name: "another namespace", claims: Claims{Namespace: "other"}, want: AccessDenied},
		{name: "another role", change: change{"RoleArn": "arn:aws:iam::123456789012:role/other"}, want: AccessDenied},
		{name: "a role in another account", change: change{"RoleArn": "arn:aws:iam::210987654321:role/team/app"}, want: AccessDenied},

		{name: "another audience", claims: Claims{Audience: []string{"sts.amazon.com"}}, want: WrongAudience},
		{name: "no audience", claims: Claims{Audience: []string{}}, want: NoAudience},
		{name: "another issuer", claims: Claims{Issuer: "https://oidc.example"}, want: NotValidated},
		{name: "the issuer with a slash too many", claims: Claims{Issuer: testIssuer().URL() + "/"}, want: NotValidated},
		{name: "another key", change: change{"WebIdentityToken": foreign}, want: NotValidated},
		{name: "other claims under the signature", change: change{"WebIdentityToken": swapClaims(good, testToken(t, Claims{Pod: "other"}))}, want: NotValidated},
		{
			name: "the second in which the token ends", claims: Claims{IssuedAt: testNow.Add(-time.Hour)},
			want: Fault{Status: 400, Code: "ExpiredTokenException", Message: "Token expired: current date/time 1767323045 must be before the expiration date/time 1767323045"},
		},
		{
			name: "a token that ended a minute ago", claims: Claims{Lifetime: -time.Minute},
			want: Fault{Status: 400, Code: "ExpiredTokenException", Message: "Token expired: current date/time 1767323045 must be before the expiration date/time 1767322985"},
		},

		{name: "a path for a token", change: change{"WebIdentityToken": "/var/run/secrets/token"}, want: NotAJWT},
		{name: "a token cut short", change: change{"WebIdentityToken": good[:len(good)/2]}, want: NotAJWT},
		{name: "a token that was not trimmed", change: change{"WebIdentityToken": good + "\n"}, want: NotAJWT},
		{name: "a token of the right form and no content", change: change{"WebIdentityToken": "a.b.c"}, want: NotAJWT},

		{name: "a policy's ARN", change: change{"RoleArn": "arn:aws:iam::123456789012:policy/app"}, want: InvalidARN},
		{name: "a role without an account", change: change{"RoleArn": "arn:aws:iam:::role/application"}, want: InvalidARN},
		{name: "a longer duration than the role's", change: change{"DurationSeconds": "3601"}, want: DurationTooLong},
		{
			name: "a duration below AWS's", change: change{"DurationSeconds": "899"},
			want: validationError("1 validation error detected: Value '899' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to 900"),
		},
		{
			name: "a duration above AWS's", change: change{"DurationSeconds": "43201"},
			want: validationError("1 validation error detected: Value '43201' at 'durationSeconds' failed to satisfy constraint: Member must have value less than or equal to 43200"),
		},
		{
			name: "a duration with a unit", change: change{"DurationSeconds": "1h"},
			want: validationError("1 validation error detected: Value '1h' at 'durationSeconds' failed to satisfy constraint: Member must be an integer"),
		},
		{
			name: "a session name with a slash", change: change{"RoleSessionName": "default/app-0"},
			want: validationError(`1 validation error detected: Value 'default/app-0' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`),
		},
		{
			name: "a session name of 65", change: change{"RoleSessionName": strings.Repeat("a", 65)},
			want: validationError("1 validation error detected: Value '" + strings.Repeat("a", 65) + "' at 'roleSessionName' failed to satisfy constraint: Member must have length less than or equal to 64"),
		},
		{
			name: "a token too long, which is not quoted", change: change{"WebIdentityToken": strings.Repeat("a", 20001)},
			want: validationError("1 validation error detected: Value at 'webIdentityToken' failed to satisfy constraint: Member must have length less than or equal to 20000"),
		},
		{
			name: "two mistakes", change: change{"RoleSessionName": "a", "WebIdentityToken": ""},
			want: validationError("2 validation errors detected: Value 'a' at 'roleSessionName' failed to satisfy constraint: Member must have length greater than or equal to 2; " +
				"Value null at 'webIdentityToken' failed to satisfy constraint: Member must not be null"),
		},
		{name: "another action", change: change{"Action": "GetSessionToken"}, want: NoSuchOperation("GetSessionToken", version)},
		{name: "no version", change: change{"Version": ""}, want: NoSuchOperation(action, "NO_VERSION_SPECIFIED")},
		{name: "a session policy", change: change{"Policy": `{"Version":"2012-10-17"}`, "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}},
		{name: "a session policy that is no JSON", change: change{"Policy": `{"Version"`}, want: MalformedPolicyDocument},
		{name: "session policies of 2048 characters", change: change{"Policy": `"` + strings.Repeat("a", 2026) + `"`, "PolicyArns.member.1.arn": "arn:aws:iam::1:policy"[:20]}},
		{name: "session policies of more", change: change{"Policy": `"` + strings.Repeat("a", 2027) + `"`, "PolicyArns.member.1.arn": "arn:aws:iam::1:policy"[:20]}, want: PackedPolicyTooLarge(100)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testServer()
			answer := ask(s, testForm(testToken(t, test.claims), test.change))
			if test.want == (Fault{}) {
				if answer.Code != http.StatusOK || len(s.Issued()) != 1 {
					t.Fatalf("%d, %d sessions issued, want credentials:\n%s", answer.Code, len(s.Issued()), answer.Body)
				}
				return
			}
			if len(s.Issued()) != 0 {
				t.Error("a session was issued")
			}
			if answer.Code != test.want.Status {
				t.Errorf("status %d, want %d", answer.Code, test.want.Status)
			}
			if want := errorDocument(test.want, answer); answer.Body.String() != want {
				t.Errorf("got\n%s\nwant\n%s", answer.Body, want)
			}
		})
	}
}

// swapClaims puts the claims of another token under a token's signature.
func swapClaims(token, other string) string {
	parts := strings.Split(token, ".")
	parts[1] = strings.Split(other, ".")[1]
	return strings.Join(parts, ".")
}

// errorDocument returns the response to expect for an error.
func errorDocument(f Fault, answer *httptest.ResponseRecorder) string {
	return `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error>
    <Type>Sender</Type>
    <Code>` + f.Code + `</Code>
    <Message>` + f.Message + `</Message>
  </Error>
  <RequestId>` + answer.Header().Get("x-amzn-RequestId") + `</RequestId>
</ErrorResponse>
`
}

func TestSuccessOnTheWire(t *testing.T) {
	s := testServer()
	answer := ask(s, testForm(testToken(t, Claims{}), nil))
	if len(s.Issued()) != 1 {
		t.Fatalf("%d sessions issued:\n%s", len(s.Issued()), answer.Body)
	}
	session := s.Issued()[0]
	requestID := answer.Header().Get("x-amzn-RequestId")
	want := `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <Audience>sts.amazonaws.com</Audience>
    <AssumedRoleUser>
      <AssumedRoleId>AROAEXAMPLEUO36WRQUPO:default.app-0</AssumedRoleId>
      <Arn>arn:aws:sts::123456789012:assumed-role/app/default.app-0</Arn>
    </AssumedRoleUser>
    <Provider>arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE</Provider>
    <Credentials>
      <AccessKeyId>` + session.AccessKeyID + `</AccessKeyId>
      <SecretAccessKey>` + session.SecretAccessKey + `</SecretAccessKey>
      <SessionToken>` + session.SessionToken + `</SessionToken>
      <Expiration>2026-01-02T04:04:05Z</Expiration>
    </Credentials>
    <SubjectFromWebIdentityToken>system:serviceaccount:default:app</SubjectFromWebIdentityToken>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata>
    <RequestId>` + requestID + `</RequestId>
  </ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>
`
	if got := answer.Body.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/xml",
		"Date":         "Fri, 02 Jan 2026 03:04:05 GMT",
	} {
		if got := answer.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(requestID) {
		t.Errorf("the request ID %q is no UUID", requestID)
	}
	if session.SessionName != "default.app-0" || !session.Expiration.Equal(testNow.Add(time.Hour).Truncate(time.Second)) {
		t.Errorf("issued %s until %s", session.SessionName, session.Expiration)
	}
}

func TestSessionARNKeepsPartitionAndDropsPath(t *testing.T) {
	const arn = "arn:aws-us-gov:iam::123456789012:role/a/b/app"
	s := New(Options{Now: clock})
	answer := ask(s, testForm(testToken(t, Claims{}), map[string]string{"RoleArn": arn}))
	for _, want := range []string{
		"<Arn>arn:aws-us-gov:sts::123456789012:assumed-role/app/default.app-0</Arn>",
		"<Provider>arn:aws-us-gov:iam::123456789012:oidc-provider/oidc.eks",
	} {
		if !strings.Contains(answer.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, answer.Body)
		}
	}
}

func TestLifetimeUnlessADurationIsAskedFor(t *testing.T) {
	s := New(Options{Lifetime: 20 * time.Second, MaxSessionDuration: 2 * time.Hour, Now: clock})
	ask(s, testForm(testToken(t, Claims{}), nil))
	ask(s, testForm(testToken(t, Claims{}), map[string]string{"DurationSeconds": "7200"}))
	issued := s.Issued()
	if len(issued) != 2 {
		t.Fatalf("%d sessions issued", len(issued))
	}
	for i, want := range []time.Duration{20 * time.Second, 2 * time.Hour} {
		if want := testNow.Add(want).Truncate(time.Second); !issued[i].Expiration.Equal(want) {
			t.Errorf("session %d expires at %s, want %s", i, issued[i].Expiration, want)
		}
	}
}

func TestSessionsLookRealAndAreFake(t *testing.T) {
	shapes := map[string]*regexp.Regexp{
		"access key":    regexp.MustCompile(`^ASIAEXAMPLE[A-Z2-7]{9}$`),
		"secret":        regexp.MustCompile(`^[A-Za-z0-9+/]{16}/[A-Za-z0-9+/]{12}\+EXAMPLEKEY$`), // 40 in all
		"session token": regexp.MustCompile(`^IQoJEXAMPLE\+/[A-Za-z0-9+/]{600,}={0,2}$`),
	}
	seen := make(map[string]bool)
	for range 100 {
		s := newSession("app", testNow)
		for name, value := range map[string]string{"access key": s.AccessKeyID, "secret": s.SecretAccessKey, "session token": s.SessionToken} {
			if !shapes[name].MatchString(value) {
				t.Fatalf("the %s is %q", name, value)
			}
			if seen[value] {
				t.Fatalf("the %s %q came twice", name, value)
			}
			seen[value] = true
		}
	}
}

func TestWithoutIssuerAnySignatureIsTaken(t *testing.T) {
	s := New(Options{Now: clock})
	token := testToken(t, Claims{Issuer: "https://elsewhere.example"})
	unsigned := token[:strings.LastIndex(token, ".")+1]
	if answer := ask(s, testForm(unsigned, nil)); answer.Code != http.StatusOK {
		t.Errorf("%d\n%s", answer.Code, answer.Body)
	}
	if answer := ask(s, testForm(testToken(t, Claims{Lifetime: -time.Second}), nil)); answer.Code != http.StatusBadRequest {
		t.Errorf("an expired token was answered with %d", answer.Code)
	}
}

func TestTokenInAURLIsNotTaken(t *testing.T) {
	s := testServer()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?"+testForm(testToken(t, Claims{}), nil).Encode(), nil))
	if w.Code != http.StatusFound || len(s.Issued()) != 0 {
		t.Errorf("GET was answered with %d", w.Code)
	}
}

func TestRequestsKeepEverythingButTheToken(t *testing.T) {
	s := testServer()
	sent := testForm(testToken(t, Claims{}), nil)
	ask(s, sent)
	s.Break(Throttling)
	ask(s, sent)

	want := maps.Clone(sent)
	want.Set("WebIdentityToken", maskedToken)
	if s.Calls() != 2 || len(s.Requests()) != 2 {
		t.Fatalf("%d calls and %d requests, want 2: a refused call is a call", s.Calls(), len(s.Requests()))
	}
	for _, got := range s.Requests() {
		if got.Encode() != want.Encode() {
			t.Errorf("kept %v, want %v", got, want)
		}
	}
}

func TestStartsOnLoopbackAndClosesOnce(t *testing.T) {
	s := testServer()
	if err := s.Close(); err != nil {
		t.Errorf("Close before Start: %v", err)
	}
	for range 2 { // a server that was closed may be started again
		address, err := s.Start()
		if err != nil {
			t.Fatal(err)
		}
		if u, err := url.Parse(address); err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" {
			t.Errorf("listens on %s", address)
		}
		if _, err := s.Start(); err == nil {
			t.Error("started twice")
		}
		response, err := http.PostForm(address, testForm(testToken(t, Claims{}), nil))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("answered %d", response.StatusCode)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if _, err := net.Dial("tcp", strings.TrimPrefix(address, "http://")); err == nil {
			t.Error("still listens after Close")
		}
	}
}

func TestCloseEndsAHangingRequest(t *testing.T) {
	s := testServer()
	s.Break(Hang)
	address, err := s.Start()
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		response, err := http.PostForm(address, testForm(testToken(t, Claims{}), nil))
		if err == nil {
			response.Body.Close()
		}
		failed <- err
	}()
	for s.Calls() == 0 {
		runtime.Gosched()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the hanging request was answered")
	}
}

func TestTLSNeedsTheAuthority(t *testing.T) {
	s := testServer()
	address, caPEM, err := s.StartTLS()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	form := testForm(testToken(t, Claims{}), nil)
	_, err = http.PostForm(address, form)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("a client that does not know the authority: %v", err)
	}

	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(caPEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authorities}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).PostForm(address, form)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		t.Errorf("answered %d\n%s", response.StatusCode, body)
	}
}

// For the race detector.
func TestManyAtOnce(t *testing.T) {
	s := testServer()
	form := testForm(testToken(t, Claims{}), nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				ask(s, form)
				s.Break(Throttling)
				s.Requests()
				s.Repair()
				s.Issued()
			}
		})
	}
	wg.Wait()
	if s.Calls() != 160 {
		t.Errorf("%d calls, want 160", s.Calls())
	}
}

func TestWhatIAMHoldsDecides(t *testing.T) {
	issuer := testIssuer().URL()
	old, err := NewIssuer(issuer)
	if err != nil {
		t.Fatal(err)
	}
	token := testToken(t, Claims{})
	for _, test := range []struct {
		name   string
		claims Claims
		change func(*Options)
		calls  int
		want   Fault
	}{
		{name: "no provider", change: func(o *Options) { o.Providers = []Provider{} }, want: NotValidated},
		{name: "no provider, in old words", change: func(o *Options) { o.Providers, o.OldWording = []Provider{}, true }, want: NoProvider(issuer)},
		{name: "another cluster's provider", change: func(o *Options) {
			o.Providers = []Provider{{Issuer: issuer + "2", ClientIDs: []string{defaultAudience}}}
		}, want: NotValidated},
		{name: "a provider", change: func(o *Options) {
			o.Providers = []Provider{{Issuer: issuer, ClientIDs: []string{"other", defaultAudience}}}
		}},
		{name: "a provider without the client ID", change: func(o *Options) { o.Providers = []Provider{{Issuer: issuer, ClientIDs: []string{"other"}}} }, want: WrongAudience},
		{
			name: "another audience with its client ID", claims: Claims{Audience: []string{"other"}},
			change: func(o *Options) {
				o.Providers, o.TrustPolicy = []Provider{{Issuer: issuer, ClientIDs: []string{"other"}}}, ""
			},
		},
		{
			name: "another audience that the role does not want", claims: Claims{Audience: []string{"other"}},
			change: func(o *Options) { o.Providers = []Provider{{Issuer: issuer, ClientIDs: []string{"other"}}} }, want: AccessDenied,
		},
		{name: "keys that have been replaced", change: func(o *Options) { o.Issuer = old }, want: NotValidated},
		{name: "another action", change: func(o *Options) { o.TrustPolicy = strings.Replace(o.TrustPolicy, "WithWebIdentity", "", 1) }, want: AccessDenied},
		{name: "a trust policy that is none", change: func(o *Options) { o.TrustPolicy = "{}" }, want: AccessDenied},
		{name: "a region switched off", change: func(o *Options) { o.Region, o.DisabledRegions = "ap-east-1", []string{"ap-east-1"} }, want: RegionDisabled("123456789012")},
		{name: "another region switched off", change: func(o *Options) { o.Region, o.DisabledRegions = "eu-west-1", []string{"ap-east-1"} }},
		{name: "the last call of the quota", change: func(o *Options) { o.CallsPerSecond = 3 }, calls: 2},
		{name: "a call beyond the quota", change: func(o *Options) { o.CallsPerSecond = 3 }, calls: 3, want: Throttling},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testServer()
			s.Change(test.change)
			for range test.calls {
				ask(s, testForm(token, nil))
			}
			answer := ask(s, testForm(testToken(t, test.claims), nil))
			if test.want == (Fault{}) {
				if answer.Code != http.StatusOK {
					t.Errorf("%d, want credentials:\n%s", answer.Code, answer.Body)
				}
			} else if want := errorDocument(test.want, answer); answer.Body.String() != want {
				t.Errorf("got\n%s\nwant\n%s", answer.Body, want)
			}
		})
	}
}
