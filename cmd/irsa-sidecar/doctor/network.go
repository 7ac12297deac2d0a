package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// What each step of the way to the endpoint may take.
const (
	lookupTimeout  = 3 * time.Second
	connectTimeout = 2 * time.Second
	tlsTimeout     = 3 * time.Second
	answerTimeout  = 4 * time.Second
)

// aboutExchange reports whether a mistake is about the exchange: then it is not known where the token
// would go, and it goes nowhere.
func aboutExchange(m Mistake) bool {
	name := strings.ToUpper(m.Variable)
	return strings.HasPrefix(name, "AWS_") || name == "HTTPS_PROXY" ||
		name == "IRSA_SIDECAR_DURATION" || name == "IRSA_SIDECAR_POLICY_FILE" || name == "IRSA_SIDECAR_POLICY_ARNS"
}

// aboutEndpoint leaves out the mistakes that are about who asks.
func aboutEndpoint(m Mistake) bool {
	return aboutExchange(m) && m.Variable != "AWS_ROLE_ARN" && m.Variable != "AWS_WEB_IDENTITY_TOKEN_FILE"
}

// checkEndpoint goes the way to STS step by step, without the token.
func (e *examination) checkEndpoint(ctx context.Context) {
	steps := []string{"dns", "connect", "tls", "clock"}
	skipFrom := func(step string) { e.skip(steps[slices.Index(steps, step):]...) }
	if slices.ContainsFunc(e.Mistakes, aboutEndpoint) {
		skipFrom("dns")
		return
	}
	endpoint, err := e.Exchange.EndpointURL(ctx, e.claims.Issuer)
	if err != nil {
		failure := fetchError(err)
		if e.token == "" && failure.Reason == cache.RegionUnknown { // the token may say which
			skipFrom("dns")
			return
		}
		e.fail("dns", failure.Reason, e.fixReason(failure), "%s", failure.Message)
		skipFrom("connect")
		return
	}
	if proxy := proxyFor(endpoint); proxy != nil {
		if !e.connect(ctx, proxy, "the proxy "+proxy.Host+" on the way to "+endpoint.Host, cache.ProxyNotFound) {
			e.skip("tls", "clock")
			return
		}
	} else {
		if !e.lookUp(ctx, endpoint.Hostname()) {
			skipFrom("connect")
			return
		}
		if !e.connect(ctx, endpoint, hostPort(endpoint), cache.EndpointNotFound) {
			skipFrom("tls")
			return
		}
		if endpoint.Scheme == "https" && !e.handshake(ctx, endpoint) {
			skipFrom("clock")
			return
		}
	}
	e.checkClock(ctx, endpoint)
}

func (e *examination) fail(check string, reason cache.Reason, fixes []Fix, format string, args ...any) {
	e.add(Finding{Check: check, Status: Fail, Key: string(reason), Finding: fmt.Sprintf(format, args...), Fixes: fixes})
}

func (e *examination) lookUp(ctx context.Context, host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		e.ok("dns", "%s is an address: there is nothing to look up", address)
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addresses, err := e.Lookup(ctx, host)
	if err != nil {
		failure := &cache.FetchError{Reason: cache.EndpointUnreachable, Message: host + " cannot be looked up: " + err.Error()}
		if dns, ok := errors.AsType[*net.DNSError](err); ok {
			failure.Message = host + " cannot be looked up: " + dns.Err
			if dns.IsNotFound {
				failure = &cache.FetchError{Reason: cache.EndpointNotFound, Message: "no such host: " + host}
			}
		}
		if ctx.Err() != nil {
			failure.Message = fmt.Sprintf("%s cannot be looked up: the DNS did not answer within %s", host, lookupTimeout)
		}
		e.fail("dns", failure.Reason, e.fixReason(failure), "%s", failure.Message)
		return false
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	kind := "public"
	if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Unmap().IsPrivate() }) {
		kind = "private: the VPC endpoint's"
	}
	if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Unmap().IsLoopback() }) {
		kind = "this machine's own"
	}
	shown := make([]string, 0, 3)
	for _, a := range addresses[:min(len(addresses), 3)] {
		shown = append(shown, a.Unmap().String())
	}
	e.ok("dns", "%s is %s, %s", host, strings.Join(shown, ", "), kind)
	return true
}

// hostPort is where a URL is reached.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// connect tries the port of a URL. What it is for fails with missing where its host is not known.
func (e *examination) connect(ctx context.Context, u *url.URL, name string, missing cache.Reason) bool {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	begun := time.Now()
	conn, err := e.Exchange.Dial(ctx, "tcp", hostPort(u))
	if err != nil {
		failure := &cache.FetchError{Reason: cache.EndpointUnreachable, Message: fmt.Sprintf("%s: %v", name, innermost(err))}
		if timeout, ok := errors.AsType[net.Error](err); ctx.Err() != nil || (ok && timeout.Timeout()) {
			failure = &cache.FetchError{Reason: cache.EndpointTimeout, Message: fmt.Sprintf("%s did not take a connection within %s", name, connectTimeout)}
		} else if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
			failure = &cache.FetchError{Reason: missing, Message: fmt.Sprintf("%s: no such host", name)}
		}
		e.fail("connect", failure.Reason, e.fixReason(failure), "%s", failure.Message)
		return false
	}
	conn.Close()
	e.ok("connect", "%s, in %d ms", name, time.Since(begun).Milliseconds())
	return true
}

func (e *examination) tlsConfig(host string) *tls.Config {
	return &tls.Config{RootCAs: e.Exchange.Roots, ServerName: host, MinVersion: tls.VersionTLS12}
}

func (e *examination) handshake(ctx context.Context, u *url.URL) bool {
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	conn, err := e.Exchange.Dial(ctx, "tcp", hostPort(u))
	if err != nil {
		e.fail("tls", cache.EndpointUnreachable, nil, "%s took one connection and no other: %v", hostPort(u), innermost(err))
		return false
	}
	defer conn.Close()
	secure := tls.Client(conn, e.tlsConfig(u.Hostname()))
	if err := secure.HandshakeContext(ctx); err != nil {
		failure := &cache.FetchError{Reason: cache.EndpointNotTrusted, Message: fmt.Sprintf("%s: %v", u.Host, innermost(err))}
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			failure = &cache.FetchError{Reason: cache.NotAnSTSEndpoint, Message: u.Host + " does not speak TLS"}
		} else if ctx.Err() != nil {
			failure = &cache.FetchError{Reason: cache.EndpointTimeout, Message: fmt.Sprintf("%s did not finish the TLS handshake within %s", u.Host, tlsTimeout)}
		}
		e.fail("tls", failure.Reason, e.fixReason(failure), "%s", failure.Message)
		return false
	}
	state := secure.ConnectionState()
	by := state.PeerCertificates[0].Issuer
	name := by.CommonName
	if len(by.Organization) > 0 {
		name = by.Organization[0] + ", " + name
	}
	e.ok("tls", "%s, certificate by %s", tls.VersionName(state.Version), name)
	return true
}

// checkClock asks for the endpoint's root, where STS sends browsers away, for the Date in the answer.
func (e *examination) checkClock(ctx context.Context, u *url.URL) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("/").String(), nil)
	if err != nil {
		e.skip("clock")
		return
	}
	sent := time.Now()
	response, err := e.httpClient().Do(request)
	if err != nil { // what it means, the exchange itself says better
		e.skip("clock")
		return
	}
	response.Body.Close()
	date, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		e.skip("clock")
		return
	}
	// The Date has no fraction, and was written between the question and the answer.
	skew := sent.Add(time.Since(sent) / 2).Sub(date.Add(500 * time.Millisecond))
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	switch {
	case skew.Abs() > maxSkew:
		e.add(Finding{Check: "clock", Status: Fail, Key: string(ClockSkew), Finding: fmt.Sprintf("this node's clock is %s %s STS's", spell(skew), way), Fixes: fixClock()})
	case skew.Abs() > minSkew:
		e.add(Finding{Check: "clock", Status: Warn, Key: string(ClockSkew), Finding: fmt.Sprintf("this node's clock is %s %s STS's", spell(skew), way), Fixes: fixClock()})
	default:
		e.ok("clock", "this node's and STS's are within a minute")
	}
}

// innermost drops what our own message already names.
func innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}

func isLoopback(rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return false
	}
	address, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || (err == nil && address.IsLoopback())
}
