package webidentity

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/smithy-go"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// A code is an error of STS, and its Reason.
type code struct {
	code   string
	words  string // part of its message, in lower case
	reason cache.Reason
}

// codes maps the errors of STS to Reasons. The first row that matches counts: the code must be equal, and the message
// must contain the words, if there are any, in any case. STS has reworded its messages before, so the words only
// distinguish causes that share a code.
//
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors
// https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
var codes = []code{
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

// reasonOf returns the Reason for a code; ok is false if the code is not in the table.
func reasonOf(table []code, code, message string) (_ cache.Reason, ok bool) {
	message = strings.ToLower(message)
	for _, row := range table {
		if row.code == code && strings.Contains(message, row.words) {
			return row.reason, true
		}
	}
	return cache.UnknownError, false
}

// response is what the endpoint, or something in front of it, sent back.
type response struct {
	status      int
	contentType string
	head        []byte
	clock       time.Time // its Date; zero if it has none

	proxy string // through which the request went that has no response, as host and port; empty if none
}

// recorder copies the response into the *response in the request's context, because the SDK's error does not contain a
// body that is not STS's. It also bounds how much of a body is held in memory.
type recorder struct{ next http.RoundTripper }

type responseKey struct{}

// maxResponse is several times the largest response: a session token has at most 4096 bytes.
const maxResponse = 64 << 10

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		if got, ok := req.Context().Value(responseKey{}).(*response); ok {
			got.proxy = proxyOf(r.next, req)
		}
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if got, ok := req.Context().Value(responseKey{}).(*response); ok {
		clock, _ := http.ParseTime(resp.Header.Get("Date"))
		*got = response{status: resp.StatusCode, contentType: resp.Header.Get("Content-Type"), head: body[:min(len(body), 400)], clock: clock}
	}
	return resp, nil
}

// proxyOf returns the proxy that a transport uses for a request, as host and port, or "".
func proxyOf(transport http.RoundTripper, req *http.Request) string {
	if t, ok := transport.(*http.Transport); ok && t.Proxy != nil {
		if proxy, err := t.Proxy(req); err == nil && proxy != nil {
			return proxy.Host
		}
	}
	return ""
}

// describe describes the response to people: status, type and first words. The words of a success are left out, because
// they may contain the credentials that could not be found in it.
func (r *response) describe() string {
	kind, _, _ := strings.Cut(r.contentType, ";")
	if kind == "" {
		kind = "of no type"
	}
	kind = fmt.Sprintf("HTTP %d, %s", r.status, kind)
	if r.status < 300 {
		return kind
	}
	// Scrub must come before a cut or a quote, which would hide the forms that it looks for.
	text := []rune(strings.Join(strings.Fields(redact.Scrub(redact.OneLine(string(r.head)))), " "))
	if len(text) == 0 {
		return kind + ", empty"
	}
	if len(text) > 80 { // the beginning of a page says the most
		text = append(text[:80], '…')
	}
	return fmt.Sprintf("%s: %q", kind, string(text))
}

// proxyRefusal is a proxy's refusal of CONNECT. The transport's own error has only the status text, which differs from
// proxy to proxy.
type proxyRefusal struct{ status int }

func (e *proxyRefusal) Error() string { return fmt.Sprintf("HTTP %d", e.status) }

// proxyResponse is a Transport's OnProxyConnectResponse.
func proxyResponse(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &proxyRefusal{resp.StatusCode}
	}
	return nil
}

// explain turns an error of the SDK into a FetchError. got is zero if there was no response; host is where the request
// went.
func explain(err error, got *response, host string, table []code) *cache.FetchError {
	fail := func(reason cache.Reason, format string, args ...any) *cache.FetchError {
		return &cache.FetchError{Reason: reason, Message: redact.Scrub(fmt.Sprintf(format, args...))}
	}
	if got.status == 0 {
		return unreachable(err, host, got.proxy, fail)
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok && bytes.Contains(got.head, []byte("<Error")) {
		if reason, known := reasonOf(table, api.ErrorCode(), api.ErrorMessage()); known {
			return fail(reason, "STS refused (%s, HTTP %d): %s", api.ErrorCode(), got.status, api.ErrorMessage())
		}
		if got.status == http.StatusTooManyRequests {
			return fail(cache.Throttling, "STS refused (%s, HTTP %d): %s", api.ErrorCode(), got.status, api.ErrorMessage())
		}
		if got.status >= 500 {
			return fail(cache.ServiceUnavailable, "STS failed (%s, HTTP %d): %s", api.ErrorCode(), got.status, api.ErrorMessage())
		}
		if code := api.ErrorCode(); code != "" && code != "UnknownError" {
			return fail(cache.UnknownError, "STS refused (%s, HTTP %d): %s", code, got.status, api.ErrorMessage())
		}
	}
	switch {
	case got.status == http.StatusTooManyRequests:
		return fail(cache.Throttling, "%s answered %s", host, got.describe())
	case got.status >= 500:
		return fail(cache.ServiceUnavailable, "%s answered %s", host, got.describe())
	case got.status == http.StatusProxyAuthRequired:
		return fail(cache.ProxyRefused, "%s answered %s", host, got.describe())
	}
	return fail(cache.NotAnSTSEndpoint, "%s did not answer as STS does: %s", host, got.describe())
}

// ProxyHint is the advice for a proxy that cannot be reached, or that cannot reach STS.
const ProxyHint = "check the proxy in HTTPS_PROXY and the egress to it, or add the STS host to NO_PROXY"

// aboutProxy gives failures on the way to STS the advice about a proxy, unless their reason has its own.
func aboutProxy(fail func(cache.Reason, string, ...any) *cache.FetchError) func(cache.Reason, string, ...any) *cache.FetchError {
	return func(reason cache.Reason, format string, args ...any) *cache.FetchError {
		failure := fail(reason, format, args...)
		if reason == cache.EndpointUnreachable || reason == cache.EndpointTimeout {
			failure.Hint = ProxyHint
		}
		return failure
	}
}

// unreachable explains an exchange without a response, which went through a proxy if that is not empty.
func unreachable(err error, host, proxy string, fail func(cache.Reason, string, ...any) *cache.FetchError) *cache.FetchError {
	op, _ := errors.AsType[*net.OpError](err)
	// This is how the transport and its SOCKS client mark errors from before the proxy has connected.
	throughProxy := op != nil && (op.Op == "proxyconnect" || op.Op == "socks connect")
	if throughProxy {
		host = "the proxy on the way to " + host
		fail = aboutProxy(fail)
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
	if refusal, ok := errors.AsType[*proxyRefusal](err); ok {
		fail = aboutProxy(fail)
		switch {
		case refusal.status == http.StatusProxyAuthRequired:
			return fail(cache.ProxyRefused, "the proxy on the way to %s requires a user and a password", host)
		case refusal.status < 500:
			return fail(cache.ProxyRefused, "the proxy on the way to %s answered CONNECT with %v", host, refusal)
		}
		return fail(cache.EndpointUnreachable, "the proxy on the way to %s answered CONNECT with %v", host, refusal)
	}
	if failure := NotTrusted(err, host); failure != nil {
		return failure
	}
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fail(cache.NotAnSTSEndpoint, "%s %s", host, WithoutTLS(header.RecordHeader[:]))
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fail(cache.NotAnSTSEndpoint, "%s %s", host, WithoutTLS([]byte("HTTP/")))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		failure := fail(cache.EndpointUnreachable, "the answer of %s was cut short", host)
		if failure.Hint == "" {
			failure.Hint = "something on the way ends connections: look for a proxy, a firewall or a service mesh"
		}
		return failure
	}
	if timeout, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && timeout.Timeout() {
		if proxy != "" && !throughProxy {
			return aboutProxy(fail)(cache.EndpointTimeout, "%s did not answer in time through the proxy %s", host, proxy)
		}
		return fail(cache.EndpointTimeout, "%s did not answer in time", host)
	}
	if op != nil {
		return fail(cache.EndpointUnreachable, "%s: %v", host, op.Err)
	}
	return fail(cache.EndpointUnreachable, "%s: %v", host, cache.Innermost(err))
}
