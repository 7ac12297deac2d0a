package webidentity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// codes says which Reason an error of STS is. The first row that fits counts: the code must be equal,
// and the message must contain the words, if any. STS has reworded its messages before, so words
// only ever refine what the code already says.
//
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors
// https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
var codes = []struct {
	code   string
	words  string
	reason cache.Reason
}{
	{code: "AccessDenied", reason: cache.AccessDenied},
	{code: "AccessDeniedException", reason: cache.AccessDenied},
	{code: "InvalidIdentityToken", words: "retrieve verification key", reason: cache.IDPCommunicationError},
	{code: "InvalidIdentityToken", reason: cache.InvalidIdentityToken},
	{code: "InvalidIdentityTokenException", reason: cache.InvalidIdentityToken},
	{code: "ExpiredTokenException", reason: cache.ExpiredTokenException},
	{code: "ExpiredToken", reason: cache.ExpiredTokenException},
	{code: "IDPCommunicationError", reason: cache.IDPCommunicationError},
	{code: "IDPRejectedClaim", reason: cache.IDPRejectedClaim},
	{code: "RegionDisabledException", reason: cache.RegionDisabledException},
	{code: "PackedPolicyTooLarge", reason: cache.PackedPolicyTooLarge},
	{code: "MalformedPolicyDocument", reason: cache.MalformedPolicyDocument},
	{code: "ValidationError", reason: cache.ValidationError},
	{code: "MissingParameter", reason: cache.ValidationError},
	{code: "InvalidParameterValue", words: "token is expired", reason: cache.ExpiredTokenException}, // MinIO
	{code: "InvalidParameterValue", reason: cache.InvalidParameterValue},
	{code: "InvalidClientTokenId", reason: cache.InvalidClientTokenId},
	{code: "Throttling", reason: cache.Throttling},
	{code: "ThrottlingException", reason: cache.Throttling},
	{code: "RequestLimitExceeded", reason: cache.Throttling},
	{code: "TooManyRequestsException", reason: cache.Throttling},
	{code: "InvalidAction", reason: cache.NotAnSTSEndpoint},
	{code: "InternalFailure", reason: cache.ServiceUnavailable},
	{code: "InternalError", reason: cache.ServiceUnavailable},
	{code: "ServiceUnavailable", reason: cache.ServiceUnavailable},
	{code: "ServiceUnavailableException", reason: cache.ServiceUnavailable},
}

// reasonOf looks a code up; ok is false for one that is not in the table.
func reasonOf(code, message string) (_ cache.Reason, ok bool) {
	message = strings.ToLower(message)
	for _, row := range codes {
		if row.code == code && strings.Contains(message, row.words) {
			return row.reason, true
		}
	}
	return cache.UnknownError, false
}

// answer is what came back from the endpoint, or from something before it.
type answer struct {
	status      int
	contentType string
	head        []byte
}

// recorder keeps the answer for whoever put an *answer into the context: the SDK's error says
// nothing of a body that is not STS's. It also bounds what an endpoint can make us hold.
type recorder struct{ next http.RoundTripper }

type answerKey struct{}

// maxAnswer is several times the largest answer: a session token has at most 4096 bytes.
const maxAnswer = 64 << 10

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if a, ok := req.Context().Value(answerKey{}).(*answer); ok {
		*a = answer{resp.StatusCode, resp.Header.Get("Content-Type"), body[:min(len(body), 400)]}
	}
	return resp, nil
}

// describe says what answered, for people: the status, the type, and the first words. The words of a
// success stay out: whatever it is, it may hold the credentials that we failed to find in it.
func (a *answer) describe() string {
	kind, _, _ := strings.Cut(a.contentType, ";")
	if kind == "" {
		kind = "of no type"
	}
	kind = fmt.Sprintf("HTTP %d, %s", a.status, kind)
	if a.status < 300 {
		return kind
	}
	// Scrub must see the text before a cut or a quote spoils the shapes that it knows.
	text := []rune(strings.Join(strings.Fields(cache.Scrub(cache.OneLine(string(a.head)))), " "))
	if len(text) == 0 {
		return kind + ", empty"
	}
	if len(text) > 80 { // of a page, what it begins with says the most
		text = append(text[:80], '…')
	}
	return fmt.Sprintf("%s: %q", kind, string(text))
}

// proxyRefusal is a proxy's no to CONNECT. The transport's own error has but the status text, which
// every proxy words as it likes.
type proxyRefusal struct{ status int }

func (e *proxyRefusal) Error() string { return fmt.Sprintf("HTTP %d", e.status) }

// refusal is a Transport's OnProxyConnectResponse.
func refusal(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &proxyRefusal{resp.StatusCode}
	}
	return nil
}

// explain turns what the SDK returned into a FetchError. a is zero when nothing answered; host is
// where the request went.
func explain(err error, a *answer, host string) *cache.FetchError {
	fail := func(reason cache.Reason, format string, args ...any) *cache.FetchError {
		return &cache.FetchError{Reason: reason, Message: cache.Scrub(fmt.Sprintf(format, args...))}
	}
	if a.status == 0 {
		return unreachable(err, host, fail)
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok && bytes.Contains(a.head, []byte("<Error")) {
		if reason, known := reasonOf(api.ErrorCode(), api.ErrorMessage()); known {
			return fail(reason, "STS refused (%s, HTTP %d): %s", api.ErrorCode(), a.status, api.ErrorMessage())
		}
		if a.status == http.StatusTooManyRequests {
			return fail(cache.Throttling, "STS refused (%s, HTTP %d): %s", api.ErrorCode(), a.status, api.ErrorMessage())
		}
		if a.status >= 500 {
			return fail(cache.ServiceUnavailable, "STS failed (%s, HTTP %d): %s", api.ErrorCode(), a.status, api.ErrorMessage())
		}
		if code := api.ErrorCode(); code != "" && code != "UnknownError" {
			return fail(cache.UnknownError, "STS refused (%s, HTTP %d): %s", code, a.status, api.ErrorMessage())
		}
	}
	switch {
	case a.status == http.StatusTooManyRequests:
		return fail(cache.Throttling, "%s answered %s", host, a.describe())
	case a.status >= 500:
		return fail(cache.ServiceUnavailable, "%s answered %s", host, a.describe())
	case a.status == http.StatusProxyAuthRequired:
		return fail(cache.ProxyRefused, "%s answered %s", host, a.describe())
	}
	return fail(cache.NotAnSTSEndpoint, "%s did not answer as STS does: %s", host, a.describe())
}

// unreachable explains an exchange that got no answer.
func unreachable(err error, host string, fail func(cache.Reason, string, ...any) *cache.FetchError) *cache.FetchError {
	op, _ := errors.AsType[*net.OpError](err)
	// So the transport and its SOCKS client mark whatever happens before the proxy lets us through.
	throughProxy := op != nil && (op.Op == "proxyconnect" || op.Op == "socks connect")
	if throughProxy {
		host = "the proxy on the way to " + host
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case dns.IsNotFound && throughProxy:
			return fail(cache.ProxyNotFound, "no such host: %s, %s", dns.Name, host)
		case dns.IsNotFound:
			return fail(cache.EndpointNotFound, "no such host: %s", dns.Name)
		case throughProxy:
			return fail(cache.EndpointUnreachable, "%s, %s, cannot be looked up: %s", dns.Name, host, dns.Err)
		}
		return fail(cache.EndpointUnreachable, "%s cannot be looked up: %s", dns.Name, dns.Err)
	}
	if proxy, ok := errors.AsType[*proxyRefusal](err); ok {
		switch {
		case proxy.status == http.StatusProxyAuthRequired:
			return fail(cache.ProxyRefused, "the proxy on the way to %s wants a user and a password", host)
		case proxy.status < 500:
			return fail(cache.ProxyRefused, "the proxy on the way to %s answered CONNECT with %v", host, proxy)
		}
		return fail(cache.EndpointUnreachable, "the proxy on the way to %s answered CONNECT with %v", host, proxy)
	}
	if verification, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fail(cache.EndpointNotTrusted, "%s: %v", host, verification.Err)
	}
	if hostname, ok := errors.AsType[x509.HostnameError](err); ok {
		return fail(cache.EndpointNotTrusted, "%s: %v", host, hostname)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return fail(cache.NotAnSTSEndpoint, "%s does not speak TLS: is its URL to begin with http://?", host)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fail(cache.EndpointTimeout, "%s did not answer in time", host)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fail(cache.EndpointTimeout, "%s did not answer in time", host)
	}
	if op != nil {
		return fail(cache.EndpointUnreachable, "%s: %v", host, op.Err)
	}
	return fail(cache.EndpointUnreachable, "%s: %v", host, innermost(err))
}

// innermost unwraps to the end: every layer of the SDK repeats the operation's name.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
