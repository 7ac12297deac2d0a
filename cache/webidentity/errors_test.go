package webidentity

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// refusals are known responses of AWS's STS and of others, with the messages of all years.
var refusals = []struct {
	code, message string
	status        int
	reason        cache.Reason
	class         cache.Class
}{
	{"AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity", 403, cache.AccessDenied, cache.Human},
	{"AccessDeniedException", "explicit deny in a service control policy", 403, cache.AccessDenied, cache.Human},
	{"AccessDenied", "", 403, cache.AccessDenied, cache.Human},

	{"InvalidIdentityToken", "No OpenIDConnect provider found in your account for https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "The web identity token provided could not be validated. See the AssumeRoleWithWebIdentity documentation for requirements.", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "The web identity token provided could not be validated.", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "Incorrect token audience", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "Missing a required claim: aud", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "OpenIDConnect provider's HTTPS certificate doesn't match configured thumbprint", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "The ID Token provided is not a valid JWT.", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityToken", "a wording of tomorrow", 400, cache.InvalidIdentityToken, cache.Human},
	{"InvalidIdentityTokenException", "as another STS spells it", 400, cache.InvalidIdentityToken, cache.Human},

	{"InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements", 400, cache.IDPCommunicationError, cache.Transient},
	{"IDPCommunicationError", "The request could not be fulfilled because the identity provider (IDP) that was asked to verify the incoming identity token could not be reached.", 400, cache.IDPCommunicationError, cache.Transient},
	{"IDPRejectedClaim", "graph.facebook.com: HTTP/1.1 400 Bad Request", 403, cache.IDPRejectedClaim, cache.Human},

	{"ExpiredTokenException", "Token expired: current date/time 1731098245 must be before the expiration date/time 1731095240", 400, cache.ExpiredTokenException, cache.StaleToken},
	{"ExpiredTokenException", "Token expired: current date/time 1731098245 must be before the expiration date/time1731095240", 400, cache.ExpiredTokenException, cache.StaleToken},
	{"ExpiredTokenException", "Token too old: 441398", 400, cache.ExpiredTokenException, cache.StaleToken},
	{"ExpiredToken", "as another STS spells it", 400, cache.ExpiredTokenException, cache.StaleToken},
	{"InvalidParameterValue", "The Web Identity Token is expired: Token is expired", 400, cache.ExpiredTokenException, cache.StaleToken}, // MinIO
	{"InvalidParameterValue", "invalid token", 400, cache.InvalidParameterValue, cache.Human},                                            // MinIO

	{"RegionDisabledException", "STS is not activated in this region for account:123456789012. Your account administrator can activate STS in this region using the IAM Console.", 403, cache.RegionDisabledException, cache.Human},
	{"InvalidClientTokenId", "The security token included in the request is invalid", 403, cache.InvalidClientTokenId, cache.Human},

	{"ValidationError", "Request ARN is invalid", 400, cache.ValidationError, cache.Human},
	{"ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.", 400, cache.ValidationError, cache.Human},
	{"ValidationError", `1 validation error detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`, 400, cache.ValidationError, cache.Human},
	{"ValidationError", "1 validation error detected: Value null at 'webIdentityToken' failed to satisfy constraint: Member must not be null", 400, cache.ValidationError, cache.Human},
	{"MissingParameter", "The request must contain the parameter RoleArn", 400, cache.ValidationError, cache.Human},
	{"PackedPolicyTooLarge", "Packed size of session tags consumes 112% of allotted space.", 400, cache.PackedPolicyTooLarge, cache.Human},
	{"MalformedPolicyDocument", "Syntax errors in policy.", 400, cache.MalformedPolicyDocument, cache.Human},

	{"Throttling", "Rate exceeded", 400, cache.Throttling, cache.Throttled},
	{"ThrottlingException", "Rate exceeded", 400, cache.Throttling, cache.Throttled},
	{"RequestLimitExceeded", "Request limit exceeded.", 503, cache.Throttling, cache.Throttled},
	{"TooManyRequestsException", "Too Many Requests", 429, cache.Throttling, cache.Throttled},
	{"SlowDown", "a code that is not on the list, but a status that is", 429, cache.Throttling, cache.Throttled},

	{"InvalidAction", "Could not find operation AssumeRoleWithWebIdentity for version 2011-06-15", 400, cache.NotAnSTSEndpoint, cache.Human},

	{"InternalFailure", "The request processing has failed because of an unknown error, exception or failure.", 500, cache.ServiceUnavailable, cache.Transient},
	{"InternalError", "We encountered an internal error, please try again.", 500, cache.ServiceUnavailable, cache.Transient},
	{"ServiceUnavailable", "The request has failed due to a temporary failure of the server.", 503, cache.ServiceUnavailable, cache.Transient},
	{"ServiceUnavailableException", "", 503, cache.ServiceUnavailable, cache.Transient},
	{"SomethingNew", "a code that is not on the list", 500, cache.ServiceUnavailable, cache.Transient},

	{"SomethingNew", "a code that is not on the list", 400, cache.UnknownError, cache.Human},
	{"OptInRequired", "The AWS Access Key Id needs a subscription for the service", 403, cache.UnknownError, cache.Human},
}

func TestRefusalsOfSTS(t *testing.T) {
	for _, row := range refusals {
		t.Run(row.code+" "+row.message, func(t *testing.T) {
			s := stage(t, tweak{})
			s.sts.Break(ststest.Fault{Status: row.status, Code: row.code, Message: row.message})
			who, message := "STS refused", row.message
			if row.reason == cache.ServiceUnavailable && row.code == "SomethingNew" {
				who = "STS failed"
			}
			if message == "" && !modelled(row.code) { // so says the SDK
				message = "UnknownError"
			}
			failure := s.mustFail(t, row.reason, fmt.Sprintf("%s (%s, HTTP %d): %s", who, row.code, row.status, message))
			if failure.Reason.Class() != row.class {
				t.Errorf("of class %s, want %s", failure.Reason.Class(), row.class)
			}
			if failure.TokenExpiration.IsZero() {
				t.Error("does not say when the token expires")
			}
		})
	}
}

// modelled reports whether the SDK has an error type for the code.
func modelled(code string) bool { return code == "InvalidIdentityToken" }

// A row that no test uses has never been checked.
func TestEveryRowOfCodesIsExercised(t *testing.T) {
	hit := make([]bool, len(codes))
	for _, refusal := range refusals {
		for i, row := range codes {
			if row.code == refusal.code && strings.Contains(strings.ToLower(refusal.message), row.words) {
				hit[i] = true
				break
			}
		}
	}
	for i, row := range codes {
		if !hit[i] {
			t.Errorf("no refusal hits row %d: %s %q", i, row.code, row.words)
		}
		if row.words != strings.ToLower(row.words) {
			t.Errorf("row %d: %q can never fit a message in lower case", i, row.words)
		}
		if row.reason.Advice() == "" {
			t.Errorf("row %d: %s is not on the list of reasons", i, row.reason)
		}
	}
}

func TestAnswersOfSomethingElse(t *testing.T) {
	const page = "<!DOCTYPE html>\n<html>\n <head><title>Sign in to the guest network</title></head><body>Please, and then some more text</body></html>"
	html := func(status int) ststest.Fault {
		return ststest.Fault{Status: status, Body: page, ContentType: "text/html; charset=utf-8"}
	}
	const cut = `text/html: "<!DOCTYPE html> <html> <head><title>Sign in to the guest network</title></head><…"`
	const ns = `xmlns="https://sts.amazonaws.com/doc/2011-06-15/"`
	for _, test := range []struct {
		name    string
		fault   ststest.Fault
		reason  cache.Reason
		message string
	}{
		{"a page", html(200), cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 200, text/html"},
		{"a redirect", html(302), cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 302, " + cut},
		{"a refusal", html(403), cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 403, " + cut},
		{"not found", html(404), cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 404, " + cut},
		{"a proxy's password", html(407), cache.ProxyRefused, "HOST answered HTTP 407, " + cut},
		{"too many", html(429), cache.Throttling, "HOST answered HTTP 429, " + cut},
		{"a bad gateway", html(502), cache.ServiceUnavailable, "HOST answered HTTP 502, " + cut},
		{"no backend", html(503), cache.ServiceUnavailable, "HOST answered HTTP 503, " + cut},
		{"an empty success", ststest.EmptyOK, cache.NotAnSTSEndpoint, "HOST answered HTTP 200, text/xml, without credentials in it"},
		{"an empty refusal", ststest.Fault{Status: 400}, cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 400, text/xml, empty"},
		{"no content", ststest.Fault{Status: 204}, cache.NotAnSTSEndpoint, "HOST answered HTTP 204, text/xml, without credentials in it"},
		{"JSON", ststest.Fault{Status: 200, Body: `{"ok":true}`, ContentType: "application/json"}, cache.NotAnSTSEndpoint, "HOST answered HTTP 200, application/json, without credentials in it"},
		{"a refusal in JSON", ststest.Fault{Status: 400, Body: "{\"error\":\r\n\t\"no\"}\x00\xff", ContentType: "application/json"}, cache.NotAnSTSEndpoint, `HOST did not answer as STS does: HTTP 400, application/json: "{\"error\": \"no\"}"`},
		{"XML without credentials", ststest.NoCredentials, cache.NotAnSTSEndpoint, "HOST answered HTTP 200, text/xml, without credentials in it"},
		{"XML of another kind", ststest.Fault{Body: "<ListBucketResult " + ns + "/>"}, cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 200, text/xml"},
		{"XML that ends too soon", ststest.Fault{Body: "<AssumeRoleWithWebIdentityResponse " + ns + "><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA"}, cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 200, text/xml"},
		{"XML with a time that is none", ststest.Fault{Body: "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><Expiration>soon</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"}, cache.NotAnSTSEndpoint, "HOST did not answer as STS does: HTTP 200, text/xml"},
		{"an error that ends too soon", ststest.Fault{Status: 400, Body: "<ErrorResponse " + ns + "><Error><Code>AccessDenied"}, cache.NotAnSTSEndpoint, `HOST did not answer as STS does: HTTP 400, text/xml: "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Code>Ac…"`},
		{"an error of S3's", ststest.Fault{Status: 405, Body: "<Error><Code>MethodNotAllowed</Code><Message>no</Message></Error>"}, cache.NotAnSTSEndpoint, `HOST did not answer as STS does: HTTP 405, text/xml: "<Error><Code>MethodNotAllowed</Code><Message>no</Message></Error>"`},
		{"an error without a code", ststest.Fault{Status: 500, Body: "<ErrorResponse><Error></Error></ErrorResponse>"}, cache.ServiceUnavailable, "STS failed (UnknownError, HTTP 500): UnknownError"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := stage(t, tweak{})
			s.sts.Break(test.fault)
			s.mustFail(t, test.reason, test.message)
		})
	}
}

func TestAnswerOfNoType(t *testing.T) {
	for status, want := range map[int]string{
		200: "HOST answered HTTP 200, of no type, without credentials in it",
		403: "HOST did not answer as STS does: HTTP 403, of no type, empty",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			w.WriteHeader(status)
		}))
		stage(t, tweak{endpoint: server.URL}).mustFail(t, cache.NotAnSTSEndpoint, want)
		server.Close()
	}
}

func TestTokenDoesNotFollowARedirect(t *testing.T) {
	var followed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", elsewhere.URL)
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(status)
		}))
		stage(t, tweak{endpoint: server.URL}).mustFail(t, cache.NotAnSTSEndpoint,
			fmt.Sprintf("HOST did not answer as STS does: HTTP %d, text/plain, empty", status))
		server.Close()
	}
	if n := followed.Load(); n > 0 {
		t.Errorf("%d requests went where the redirect pointed", n)
	}
}

// endless is a body that counts how many bytes of it were read.
type endless struct{ taken, limit int }

func (e *endless) Read(p []byte) (int, error) {
	if e.taken >= e.limit {
		return 0, io.EOF
	}
	for i := range p {
		p[i] = 'a'
	}
	e.taken += len(p)
	return len(p), nil
}

func (e *endless) Close() error { return nil }

func TestHugeAnswerIsNotHeld(t *testing.T) {
	for _, status := range []int{200, 403} {
		body := &endless{limit: 10 << 20}
		s := stage(t, tweak{})
		s.tap(func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"text/xml"}}, Body: body, Request: r}, nil
		})
		s.mustFail(t, cache.NotAnSTSEndpoint, "")
		if body.taken > maxResponse {
			t.Errorf("took %d bytes of an answer, want at most %d", body.taken, maxResponse)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	garbage, stop := rawServer(t, "SSH-2.0-OpenSSH_9.6\r\n")
	defer stop()
	cutOff, stop := rawServer(t, "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 1000\r\n\r\n<Assume")
	defer stop()
	for _, test := range []struct {
		name, endpoint string
		reason         cache.Reason
		message        string
	}{
		{"a port that nobody listens on", closed.URL, cache.EndpointUnreachable, "HOST: connect: connection refused"},
		{"another protocol", garbage, cache.EndpointUnreachable, `HOST: malformed HTTP response "SSH-2.0-OpenSSH_9.6"`},
		{"half an answer", cutOff, cache.EndpointUnreachable, "the answer of HOST was cut short"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stage(t, tweak{endpoint: test.endpoint}).mustFail(t, test.reason, test.message)
		})
	}
	t.Run("a connection that is dropped", func(t *testing.T) {
		s := stage(t, tweak{})
		s.sts.Break(ststest.Drop)
		s.mustFail(t, cache.EndpointUnreachable, "HOST: EOF")
	})
}

// rawServer sends these bytes on every connection and closes it.
func rawServer(t *testing.T, answer string) (endpoint string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// Closing before the request is read would reset the connection and lose the response.
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.Copy(io.Discard, r.Body)
			}
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	return "http://" + l.Addr().String(), func() { l.Close() }
}

func TestNamesThatAreNotFound(t *testing.T) {
	for _, test := range []struct {
		name    string
		err     net.DNSError
		reason  cache.Reason
		message string
	}{
		{"no such host", net.DNSError{Err: "no such host", Name: "sts.nowhere.invalid", IsNotFound: true}, cache.EndpointNotFound, "no such host: sts.nowhere.invalid"},
		{"a resolver that fails", net.DNSError{Err: "server misbehaving", Name: "sts.nowhere.invalid", Server: "10.0.0.10:53", IsTemporary: true}, cache.EndpointUnreachable, "sts.nowhere.invalid cannot be looked up: server misbehaving"},
		{"a resolver that is silent", net.DNSError{Err: "i/o timeout", Name: "sts.nowhere.invalid", IsTimeout: true}, cache.EndpointUnreachable, "sts.nowhere.invalid cannot be looked up: i/o timeout"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := stage(t, tweak{endpoint: "https://sts.nowhere.invalid"})
			s.provider.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &test.err}
			}
			s.mustFail(t, test.reason, test.message)
		})
	}
}

func TestSilenceEndsWithTheContext(t *testing.T) {
	soon := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), 50*time.Millisecond)
	}
	t.Run("after the request", func(t *testing.T) {
		s := stage(t, tweak{})
		s.sts.Break(ststest.Hang)
		ctx, cancel := soon()
		defer cancel()
		s.mustFailWithin(t, ctx, cache.EndpointTimeout, "HOST did not answer in time")
	})
	t.Run("amid the answer", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "<Assume")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		defer server.Close()
		ctx, cancel := soon()
		defer cancel()
		stage(t, tweak{endpoint: server.URL}).mustFailWithin(t, ctx, cache.EndpointTimeout, "HOST did not answer in time")
	})
	t.Run("before the handshake", func(t *testing.T) {
		l, err := net.Listen("tcp4", "127.0.0.1:0") // the kernel accepts, and nobody speaks
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := soon()
		defer cancel()
		stage(t, tweak{endpoint: "https://" + l.Addr().String()}).mustFailWithin(t, ctx, cache.EndpointTimeout, "HOST did not answer in time")
	})
	t.Run("while connecting", func(t *testing.T) {
		s := stage(t, tweak{endpoint: "https://192.0.2.1"})
		s.provider.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded} // the dialer's own timeout
		}
		s.mustFail(t, cache.EndpointTimeout, "HOST did not answer in time")
	})
}

func TestCertificateMustBeTrusted(t *testing.T) {
	sts := ststest.New(ststest.Options{Issuer: cluster()})
	address, ca, err := sts.StartTLS()
	if err != nil {
		t.Fatal(err)
	}
	defer sts.Close()
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(bundle, ca, 0o600))
	roots, err := LoadCABundle(bundle)
	must(t, err)
	u, err := url.Parse(address)
	must(t, err)

	t.Run("of nobody", func(t *testing.T) {
		s := stage(t, tweak{endpoint: address})
		s.mustFail(t, cache.EndpointNotTrusted, "the certificate of HOST is self-signed (ststest), and not trusted here")
	})
	t.Run("of the bundle", func(t *testing.T) {
		s := stage(t, tweak{endpoint: address, options: Options{Roots: roots}})
		s.mustFetch(t)
	})
	t.Run("of another name", func(t *testing.T) {
		s := stage(t, tweak{endpoint: "https://sts.example", options: Options{Roots: roots}})
		s.provider.transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, u.Host)
		}
		failure := s.mustFail(t, cache.EndpointNotTrusted, "the certificate of sts.example is for 127.0.0.1")
		if !strings.HasPrefix(failure.Hint, "another server answers for this name") {
			t.Errorf("the hint is %s", failure.Hint)
		}
	})
	if sts.Calls() != 1 {
		t.Errorf("%d requests, want 1: the token went to who is not trusted", sts.Calls())
	}
	t.Run("https to http", func(t *testing.T) {
		plain := httptest.NewServer(http.NotFoundHandler())
		defer plain.Close()
		s := stage(t, tweak{endpoint: strings.Replace(plain.URL, "http:", "https:", 1)})
		s.mustFail(t, cache.NotAnSTSEndpoint, "HOST does not speak TLS: it speaks plain HTTP; should its URL begin with http://?")
	})
	t.Run("old TLS", func(t *testing.T) {
		old := httptest.NewUnstartedServer(http.NotFoundHandler())
		old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
		old.Config.ErrorLog = discardLog
		old.StartTLS()
		defer old.Close()
		s := stage(t, tweak{endpoint: old.URL})
		s.mustFail(t, cache.EndpointUnreachable, "HOST: tls: protocol version not supported")
	})
}

func TestHostnameErrorIsAMatterOfTrust(t *testing.T) {
	err := fmt.Errorf("wrapped: %w", x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"a.example"}}, Host: "b.example"})
	if failure := explain(err, &response{}, "b.example", codes); failure.Reason != cache.EndpointNotTrusted {
		t.Errorf("explained as %v", failure)
	}
}

// What is wrong with a certificate is said, and how to fix it.
func TestCertificatesAreNamed(t *testing.T) {
	now := time.Now().UTC()
	leaf := func(change func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{DNSNames: []string{"a.example"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), RawIssuer: []byte("ca"), RawSubject: []byte("leaf")}
		change(c)
		return c
	}
	day := func(by time.Duration) string { return now.Add(by).Format(time.DateOnly) }
	for _, test := range []struct {
		name        string
		err         error
		want, hints string // a prefix; the beginning of the hint
	}{
		{"another name", x509.HostnameError{Certificate: leaf(func(*x509.Certificate) {}), Host: "sts.example"}, "the certificate of sts.example is for a.example", "another server answers"},
		{"five names", x509.HostnameError{Certificate: leaf(func(c *x509.Certificate) { c.DNSNames = []string{"a", "b", "c", "d", "e"} })}, "the certificate of sts.example is for a, b, c and 2 other names", "another server answers"},
		{"an address", x509.HostnameError{Certificate: leaf(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, []net.IP{net.IPv4(10, 0, 0, 1)} })}, "the certificate of sts.example is for 10.0.0.1", "another server answers"},
		{"no name but an old one", x509.HostnameError{Certificate: leaf(func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "old\x1b[2J.example" })}, "the certificate of sts.example is for old [2J.example, and lists no names", "another server answers"},
		{"expired", x509.CertificateInvalidError{Cert: leaf(func(c *x509.Certificate) { c.NotAfter = now.Add(-48 * time.Hour) }), Reason: x509.Expired}, "the certificate of sts.example expired on " + day(-48*time.Hour), "check the node's clock"},
		{"not yet valid", x509.CertificateInvalidError{Cert: leaf(func(c *x509.Certificate) { c.NotBefore = now.Add(48 * time.Hour) }), Reason: x509.Expired}, "the certificate of sts.example is not valid before " + day(48*time.Hour), "check the node's clock"},
		{"of an unknown CA", x509.UnknownAuthorityError{}, "the certificate of sts.example is signed by Corp, Proxy CA, which is not trusted here", ""},
		{"for another purpose", x509.CertificateInvalidError{Cert: leaf(func(*x509.Certificate) {}), Reason: x509.IncompatibleUsage}, "the certificate of sts.example is not accepted: x509: certificate specifies an incompatible key usage", ""},
	} {
		err := &tls.CertificateVerificationError{Err: test.err, UnverifiedCertificates: []*x509.Certificate{leaf(func(c *x509.Certificate) { c.Issuer.CommonName, c.Issuer.Organization = "Proxy CA", []string{"Corp"} })}}
		failure := explain(fmt.Errorf("wrapped: %w", err), &response{}, "sts.example", codes)
		if failure.Reason != cache.EndpointNotTrusted || !strings.HasPrefix(failure.Message, test.want) || !strings.HasPrefix(failure.Hint, test.hints) || (test.hints == "") != (failure.Hint == "") {
			t.Errorf("%s: %+v, want %s; %s", test.name, failure, test.want, test.hints)
		}
	}
	if failure := NotTrusted(io.EOF, "sts.example"); failure != nil {
		t.Errorf("an error of another kind is %+v", failure)
	}
}

func TestProtocolsInsteadOfTLS(t *testing.T) {
	for head, want := range map[string]string{
		"HTTP/1.1 400 Bad Request": "does not speak TLS: it speaks plain HTTP; should its URL begin with http://?",
		"SSH-2.0-OpenSSH_9.6\r\n":  "does not speak TLS: it is an SSH server",
		"220 mail ESMTP":           "does not speak TLS: it is a mail or FTP server",
		"<html>":                   "does not speak TLS: it sends HTML or XML",
		"\x00\x01":                 "does not speak TLS: should its URL begin with http://?",
		"":                         "does not speak TLS: should its URL begin with http://?",
	} {
		if got := WithoutTLS([]byte(head)); got != want {
			t.Errorf("%q %s, want %s", head, got, want)
		}
	}
}

func TestProxyOnTheWay(t *testing.T) {
	for _, test := range []struct {
		status  int
		reason  cache.Reason
		message string
	}{
		{407, cache.ProxyRefused, "the proxy on the way to sts.example requires a user and a password"},
		{403, cache.ProxyRefused, "the proxy on the way to sts.example answered CONNECT with HTTP 403"},
		{502, cache.EndpointUnreachable, "the proxy on the way to sts.example answered CONNECT with HTTP 502"},
	} {
		t.Run(fmt.Sprint(test.status), func(t *testing.T) {
			var asked atomic.Value
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r.Method + " " + r.Host)
				w.WriteHeader(test.status)
			}))
			defer proxy.Close()
			s := stage(t, tweak{endpoint: "https://sts.example"})
			s.through(t, proxy.URL)
			failure := s.mustFail(t, test.reason, test.message)
			if !strings.Contains(failure.ShortAdvice(), "the proxy in HTTPS_PROXY") {
				t.Errorf("the advice is %s", failure.ShortAdvice())
			}
			if asked.Load() != "CONNECT sts.example:443" {
				t.Errorf("the proxy was asked %v", asked.Load())
			}
		})
	}
	t.Run("that hangs", func(t *testing.T) {
		silent, err := net.Listen("tcp4", "127.0.0.1:0") // the system accepts connections, and nobody reads
		must(t, err)
		defer silent.Close()
		s := stage(t, tweak{endpoint: "https://sts.example"})
		s.through(t, "http://"+silent.Addr().String())
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, failure := s.fetch(ctx)
		if failure == nil || failure.Reason != cache.EndpointTimeout || failure.Hint != ProxyHint ||
			failure.Message != "sts.example did not answer in time through the proxy "+silent.Addr().String() {
			t.Errorf("failed with %+v", failure)
		}
	})
	t.Run("that is not there", func(t *testing.T) {
		closed := httptest.NewServer(nil)
		closed.Close()
		s := stage(t, tweak{endpoint: "https://sts.example"})
		s.through(t, closed.URL)
		failure := s.mustFail(t, cache.EndpointUnreachable, "")
		if !strings.HasPrefix(failure.Message, "the proxy on the way to sts.example: ") || strings.Contains(failure.Message, "password") {
			t.Errorf("the message is %s", failure.Message)
		}
		if failure.ShortAdvice() != ProxyHint || failure.Advice() != ProxyHint {
			t.Errorf("the advice is %q and %q", failure.ShortAdvice(), failure.Advice())
		}
	})
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = discardLog
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	socks, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer socks.Close()
	go func() {
		for conn, err := socks.Accept(); err == nil; conn, err = socks.Accept() {
			conn.Read(make([]byte, 64)) // a greeting; with it unread, closing would reset the connection
			conn.Close()
		}
	}()
	const who = "the proxy on the way to sts.example"
	for _, test := range []struct {
		name, proxy string
		dial        error // nil dials
		reason      cache.Reason
		message     string
	}{
		{"that is not known", "http://proxy.invalid:3128", &net.DNSError{Err: "no such host", Name: "proxy.invalid", IsNotFound: true}, cache.ProxyNotFound, "no such host: proxy.invalid, " + who},
		{"of SOCKS that is not known", "socks5://proxy.invalid", &net.DNSError{Err: "no such host", Name: "proxy.invalid", IsNotFound: true}, cache.ProxyNotFound, "no such host: proxy.invalid, " + who},
		{"with a resolver that fails", "http://proxy.invalid:3128", &net.DNSError{Err: "server misbehaving", Name: "proxy.invalid", IsTemporary: true}, cache.EndpointUnreachable, "proxy.invalid, " + who + ", cannot be looked up: server misbehaving"},
		{"that drops packets", "http://192.0.2.1:3128", os.ErrDeadlineExceeded, cache.EndpointTimeout, who + " did not answer in time"},
		{"that is not trusted", secure.URL, nil, cache.EndpointNotTrusted, "the certificate of " + who + " is self-signed (Acme Co), and not trusted here"},
		{"without TLS", strings.Replace(plain.URL, "http:", "https:", 1), nil, cache.NotAnSTSEndpoint, who + " does not speak TLS: it speaks plain HTTP; should its URL begin with http://?"},
		{"of SOCKS that hangs up", "socks5://" + socks.Addr().String(), nil, cache.EndpointUnreachable, who + ": EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := stage(t, tweak{endpoint: "https://sts.example"})
			s.through(t, test.proxy)
			if test.dial != nil {
				s.provider.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: test.dial}
				}
			}
			failure := s.mustFail(t, test.reason, test.message)
			if unreachable := test.reason == cache.EndpointUnreachable || test.reason == cache.EndpointTimeout; unreachable != (failure.Hint == ProxyHint) {
				t.Errorf("the hint is %q", failure.Hint)
			}
			if advice := failure.Reason.Advice(); strings.Contains(test.name, "not known") && (!strings.Contains(advice, "HTTPS_PROXY") || strings.Contains(advice, "AWS_REGION")) {
				t.Errorf("the advice is %s", advice)
			}
		})
	}
	t.Run("that lets us through", func(t *testing.T) {
		sts := ststest.New(ststest.Options{Issuer: cluster()})
		address, ca, err := sts.StartTLS()
		must(t, err)
		defer sts.Close()
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			far, err := net.Dial("tcp", r.Host)
			if err != nil {
				t.Error(err)
				return
			}
			defer far.Close()
			near, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer near.Close()
			io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
			go io.Copy(far, buffered)
			io.Copy(near, far)
		}))
		defer proxy.Close()
		s := stage(t, tweak{endpoint: address, options: Options{Roots: roots}})
		s.through(t, proxy.URL)
		s.mustFetch(t)
	})
}

// through sends the requests through a proxy, with a password that must not be shown.
func (s *scene) through(t *testing.T, proxy string) {
	t.Helper()
	u, err := url.Parse(proxy)
	must(t, err)
	u.User = url.UserPassword("user", "the-proxys-password")
	s.secrets = append(s.secrets, "the-proxys-password")
	s.provider.transport.Proxy = http.ProxyURL(u)
}

func TestUnfamiliarErrorsAreExplainedOnOneLine(t *testing.T) {
	s := stage(t, tweak{})
	s.tap(func(*http.Request, http.RoundTripper) (*http.Response, error) {
		return nil, errors.Join(errors.New("one"), errors.New("two "+s.secrets[0]))
	})
	s.mustFail(t, cache.EndpointUnreachable, "HOST: one two [token]")
}

func TestBytesBehindAnAnswerAreCutAtARune(t *testing.T) {
	a := response{status: 403, contentType: "text/plain; charset=utf-8", head: bytes.Repeat([]byte("ä"), 200)[:399]}
	if got, want := a.describe(), `HTTP 403, text/plain: "`+strings.Repeat("ä", 80)+`…"`; got != want {
		t.Errorf("described as %s", got)
	}
}

var discardLog = log.New(io.Discard, "", 0)
