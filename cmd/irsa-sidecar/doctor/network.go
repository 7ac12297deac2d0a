package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// The limits of each step on the way to the endpoint.
const (
	lookupTimeout  = 3 * time.Second
	connectTimeout = 2 * time.Second
	tlsTimeout     = 3 * time.Second
	answerTimeout  = 4 * time.Second
)

// aboutExchange reports whether a mistake affects the exchange. Then it is unknown where the token would go, and it is
// not sent.
func (e *examination) aboutExchange(m Mistake) bool {
	if isConfigFile(m.Variable) {
		return e.concerns(m, e.chain()[0])
	}
	if e.hasTarget() && slices.Contains(ofTarget, m.Variable) {
		return false
	}
	name := strings.ToUpper(m.Variable)
	return strings.HasPrefix(name, "AWS_") || name == "HTTPS_PROXY" ||
		name == "IRSA_SIDECAR_DURATION" || name == "IRSA_SIDECAR_POLICY_FILE" || name == "IRSA_SIDECAR_POLICY_ARNS"
}

// aboutEndpoint reports whether a mistake affects where the token would go, rather than whose it is.
func (e *examination) aboutEndpoint(m Mistake) bool {
	return e.aboutExchange(m) && m.Variable != "AWS_ROLE_ARN" && m.Variable != "AWS_WEB_IDENTITY_TOKEN_FILE"
}

// checkEndpoint connects to STS step by step, without sending the token.
func (e *examination) checkEndpoint(ctx context.Context) {
	steps := []string{"dns", "connect", "tls", "clock"}
	skipFrom := func(step string) { e.skip(steps[slices.Index(steps, step):]...) }
	if slices.ContainsFunc(e.Mistakes, e.aboutEndpoint) {
		skipFrom("dns")
		return
	}
	endpoint, err := e.Exchange.EndpointURL(ctx, e.claims.Issuer)
	if err != nil {
		failed := cache.AsFetchError(err)
		if e.token == "" && failed.Reason == cache.RegionUnknown { // the token may name it
			skipFrom("dns")
			return
		}
		e.unreachable("dns", failed)
		skipFrom("connect")
		return
	}
	if proxy := proxyFor(endpoint); proxy != nil {
		if !e.throughProxy(ctx, proxy, endpoint) {
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

// unreachable records which step on the way to the endpoint failed.
func (e *examination) unreachable(check string, err *cache.FetchError) {
	trap, fixes := e.proxyTrap(err)
	f := failure(check, err.Reason, err.Message+trap, append(fixes, e.fixReason(err)...)...)
	f.Advice = err.Advice()
	e.add(f)
}

func (e *examination) lookUp(ctx context.Context, host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		e.ok("dns", "%s is an IP address: nothing to look up", address)
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addresses, err := e.Lookup(ctx, host)
	if err != nil {
		e.notLookedUp(ctx, host, err)
		return false
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	kind := "public"
	if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Unmap().IsPrivate() }) {
		kind = "private, as of a VPC endpoint"
	}
	if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Unmap().IsLoopback() }) {
		kind = "this machine"
	}
	shown := make([]string, 0, 3)
	for _, a := range addresses[:min(len(addresses), 3)] {
		shown = append(shown, a.Unmap().String())
	}
	e.ok("dns", "%s resolves to %s (%s)", host, strings.Join(shown, ", "), kind)
	return true
}

// notLookedUp records why the DNS has no address for the host of STS.
func (e *examination) notLookedUp(ctx context.Context, host string, err error) {
	dns, ok := errors.AsType[*net.DNSError](err)
	if ok && dns.IsNotFound {
		text, hint := "no such host: "+host, ""
		switch meant := e.regionMeant(); {
		case e.Exchange.Endpoint != "":
		case meant != "":
			text += "; did you mean the region " + meant + "?"
			hint = "correct the region"
		case e.regionExists() && (!e.Exchange.FIPS || hasFIPS(e.Exchange.Region)) && !e.Exchange.DualStack:
			text += "; the region exists, so the fault is in the DNS that this Pod uses"
			hint = "look for the fault in the DNS, not in the region"
		}
		e.unreachable("dns", &cache.FetchError{Reason: cache.EndpointNotFound, Message: text, Hint: hint})
		return
	}
	text := fmt.Sprintf("cannot look up %s: %v", host, err)
	if ok {
		text = fmt.Sprintf("cannot look up %s: %s", host, dns.Err)
	}
	if ctx.Err() != nil {
		text = fmt.Sprintf("cannot look up %s: the DNS did not answer within %s", host, lookupTimeout)
	}
	f := failure("dns", cache.EndpointUnreachable, text, fixDNS()...)
	f.Advice = "allow egress to the DNS, and check that the cluster's DNS works"
	e.add(f)
}

// hostPort returns the host and port of a URL, with the default port of its scheme.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// connect opens a connection to the host of a URL, and reports missing if there is no such host.
func (e *examination) connect(ctx context.Context, u *url.URL, name string, missing cache.Reason) bool {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	begun := time.Now()
	conn, err := e.Exchange.Dial(ctx, "tcp", hostPort(u))
	if err != nil {
		failed := &cache.FetchError{Reason: cache.EndpointUnreachable, Message: fmt.Sprintf("%s: %v", name, cache.Innermost(err))}
		if timeout, ok := errors.AsType[net.Error](err); ctx.Err() != nil || (ok && timeout.Timeout()) {
			failed = &cache.FetchError{Reason: cache.EndpointTimeout, Message: fmt.Sprintf("%s did not accept a connection within %s", name, connectTimeout)}
		} else if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
			failed = &cache.FetchError{Reason: missing, Message: fmt.Sprintf("%s: no such host", name)}
		}
		if missing == cache.ProxyNotFound && failed.Reason != missing {
			failed.Hint = webidentity.ProxyHint
		}
		e.unreachable("connect", failed)
		return false
	}
	conn.Close()
	e.ok("connect", "%s, connected in %d ms", name, time.Since(begun).Milliseconds())
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
		e.add(failure("tls", cache.EndpointUnreachable, fmt.Sprintf("%s accepted one connection but not a second one: %v", hostPort(u), cache.Innermost(err))))
		return false
	}
	return e.secure(ctx, conn, u)
}

// secure makes a TLS handshake with a host over a connection, which it closes.
func (e *examination) secure(ctx context.Context, conn net.Conn, u *url.URL) bool {
	defer conn.Close()
	seen := &beginning{Conn: conn}
	secure := tls.Client(seen, e.tlsConfig(u.Hostname()))
	if err := secure.HandshakeContext(ctx); err != nil {
		failed := webidentity.NotTrusted(err, u.Host)
		_, otherProtocol := errors.AsType[tls.RecordHeaderError](err)
		switch {
		case failed != nil:
		case otherProtocol:
			failed = &cache.FetchError{Reason: cache.NotAnSTSEndpoint, Message: u.Host + " " + webidentity.WithoutTLS(seen.head) + banner(seen.head)}
		case ctx.Err() != nil:
			failed = &cache.FetchError{Reason: cache.EndpointTimeout, Message: fmt.Sprintf("%s did not finish the TLS handshake within %s", u.Host, tlsTimeout)}
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			failed = &cache.FetchError{Reason: cache.EndpointUnreachable, Message: u.Host + " ended the connection during the TLS handshake, as firewalls do that filter by name"}
		default:
			failed = &cache.FetchError{Reason: cache.EndpointNotTrusted, Message: fmt.Sprintf("%s: %v", u.Host, cache.Innermost(err))}
		}
		e.unreachable("tls", failed)
		return false
	}
	state := secure.ConnectionState()
	by := state.PeerCertificates[0].Issuer
	name := by.CommonName
	if len(by.Organization) > 0 {
		name = by.Organization[0] + ", " + name
	}
	e.ok("tls", "%s, certificate issued by %s", tls.VersionName(state.Version), name)
	return true
}

// beginning keeps the first bytes that are read from a connection.
type beginning struct {
	net.Conn
	head []byte
}

func (b *beginning) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	b.head = append(b.head, p[:min(n, 100-min(len(b.head), 100))]...)
	return n, err
}

// banner quotes the first line of what a server sends, if it is text.
func banner(head []byte) string {
	line, _, _ := strings.Cut(string(head), "\n")
	line = strings.TrimSpace(line)
	if line == "" || redact.OneLine(line) != line || redact.Scrub(line) != line {
		return ""
	}
	return fmt.Sprintf(" (it sends %q)", line)
}

// checkClock compares this clock with the Date header of the endpoint's root, which STS answers with a redirect.
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
	if err != nil { // the exchange reports it better
		e.skip("clock")
		return
	}
	response.Body.Close()
	date, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		e.skip("clock")
		return
	}
	// The Date has no fraction, and was written between the request and the response.
	skew := sent.Add(time.Since(sent) / 2).Sub(date.Add(500 * time.Millisecond))
	e.skew = &skew
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	switch {
	case skew.Abs() > maxSkew:
		e.add(failure("clock", ClockSkew, fmt.Sprintf("this node's clock is %s %s STS's", roughly(skew), way), e.fixClock()...))
	case skew.Abs() > minSkew:
		e.add(warning("clock", ClockSkew, fmt.Sprintf("this node's clock is %s %s STS's", roughly(skew), way), e.fixClock()...))
	default:
		e.ok("clock", "this node's clock is within a minute of STS's")
	}
}

func isLoopback(rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return false
	}
	address, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || (err == nil && address.IsLoopback())
}
