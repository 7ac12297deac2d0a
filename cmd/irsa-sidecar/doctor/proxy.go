package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// throughProxy connects to the endpoint through a proxy, as the exchange will.
func (e *examination) throughProxy(ctx context.Context, proxy, endpoint *url.URL) bool {
	if !e.connect(ctx, proxy, "the proxy "+proxy.Host+" for "+endpoint.Host, cache.ProxyNotFound) {
		return false
	}
	if endpoint.Scheme != "https" || proxy.Scheme != "http" && proxy.Scheme != "https" { // without CONNECT: the exchange says more
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	conn, failed := e.tunnel(ctx, proxy, endpoint)
	if failed != nil {
		e.unreachable("connect", failed)
		return false
	}
	return e.secure(ctx, conn, endpoint)
}

// maxHead is longer than any proxy's answer to CONNECT, in bytes. Without it, one that never ends would fill the memory.
const maxHead = 64 << 10

// tunnel asks an HTTP proxy for a connection to the endpoint.
func (e *examination) tunnel(ctx context.Context, proxy, endpoint *url.URL) (net.Conn, *cache.FetchError) {
	name := "the proxy " + proxy.Host
	fail := func(reason cache.Reason, format string, args ...any) (net.Conn, *cache.FetchError) {
		failed := &cache.FetchError{Reason: reason, Message: name + " " + fmt.Sprintf(format, args...)}
		if reason != cache.ProxyRefused {
			failed.Hint = webidentity.ProxyHint
		}
		return nil, failed
	}
	conn, err := e.Exchange.Dial(ctx, "tcp", hostPort(proxy))
	if err != nil {
		return fail(cache.EndpointUnreachable, "accepted one connection but not a second one: %v", cache.Innermost(err))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if proxy.Scheme == "https" {
		secure := tls.Client(conn, e.tlsConfig(proxy.Hostname()))
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			if failed := webidentity.NotTrusted(err, name); failed != nil {
				return nil, failed
			}
			return fail(cache.EndpointUnreachable, "does not speak TLS, and HTTPS_PROXY begins with https://: %v", cache.Innermost(err))
		}
		conn = secure
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: hostPort(endpoint)}, Host: hostPort(endpoint), Header: make(http.Header)}
	if proxy.User != nil { // the exchange sends a user without a password too
		password, _ := proxy.User.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)))
	}
	seen := &beginning{Conn: conn}
	err = request.Write(conn)
	var response *http.Response
	if err == nil {
		response, err = http.ReadResponse(bufio.NewReader(io.LimitReader(seen, maxHead)), request) //nolint:bodyclose // the connection is its body
	}
	timeout, slow := errors.AsType[net.Error](err)
	switch {
	case ctx.Err() != nil, slow && timeout.Timeout():
		conn.Close()
		return fail(cache.EndpointTimeout, "accepted a connection, but did not answer CONNECT %s within %s", hostPort(endpoint), tlsTimeout)
	case err != nil && len(seen.head) == 0:
		conn.Close()
		return fail(cache.EndpointUnreachable, "ended the connection instead of answering CONNECT %s", hostPort(endpoint))
	case err != nil:
		conn.Close()
		return fail(cache.EndpointUnreachable, "does not speak HTTP; if it is a SOCKS proxy, its URL must begin with socks5://%s", banner(seen.head))
	case response.StatusCode == http.StatusOK:
		return conn, nil
	}
	conn.Close()
	switch {
	case response.StatusCode == http.StatusProxyAuthRequired && proxy.User != nil:
		return fail(cache.ProxyRefused, "does not accept the user and the password in HTTPS_PROXY")
	case response.StatusCode == http.StatusProxyAuthRequired:
		return fail(cache.ProxyRefused, "requires a user and a password")
	case response.StatusCode < 500:
		return fail(cache.ProxyRefused, "answered CONNECT %s with HTTP %d", hostPort(endpoint), response.StatusCode)
	}
	return fail(cache.EndpointUnreachable, "answered CONNECT %s with HTTP %d: it cannot reach that host", hostPort(endpoint), response.StatusCode)
}

// proxyTrap says which variable of a proxy may be why STS cannot be reached, to continue a sentence, and how to change it. Go
// takes HTTPS_PROXY before https_proxy, and neither HTTP_PROXY nor ALL_PROXY for https.
// https://pkg.go.dev/golang.org/x/net/http/httpproxy#FromEnvironment
func (e *examination) proxyTrap(err *cache.FetchError) (text string, fixes []Fix) {
	switch err.Reason {
	case cache.EndpointNotFound, cache.EndpointUnreachable, cache.EndpointTimeout, cache.ProxyNotFound, cache.ProxyRefused:
	default:
		return "", nil
	}
	endpoint, failed := e.Exchange.EndpointURL(context.Background(), e.claims.Issuer)
	if failed != nil || endpoint.Scheme != "https" || isLoopback(endpoint.String()) {
		return "", nil
	}
	upper, lower := e.Getenv("HTTPS_PROXY"), e.Getenv("https_proxy")
	if upper == "" && lower == "" {
		for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
			if value := e.Getenv(name); value != "" {
				return "; " + name + " is set, but for https only HTTPS_PROXY counts", []Fix{e.setProxy("use the proxy for https too", "HTTPS_PROXY", value)}
			}
		}
		return "", nil
	}
	if upper != "" && lower != "" && upper != lower && strings.Contains(err.Message, "proxy") {
		text, fixes = "; https_proxy names another proxy, but HTTPS_PROXY counts", []Fix{e.setProxy("if https_proxy is right", "HTTPS_PROXY", lower)}
	}
	noText, noFixes := e.noProxyTrap(e.stsHost(), strings.Contains(err.Message, "proxy"))
	return text + noText, append(fixes, noFixes...)
}

// noProxyTrap is [examination.proxyTrap] for NO_PROXY.
func (e *examination) noProxyTrap(host string, proxied bool) (text string, fixes []Fix) {
	name, list := "NO_PROXY", e.Getenv("NO_PROXY")
	if list == "" {
		name, list = "no_proxy", e.Getenv("no_proxy")
	}
	switch {
	case list == "":
		return "", nil
	case !proxied:
		return "; " + name + " keeps it from the proxy in HTTPS_PROXY", []Fix{{What: "if STS is reached only through the proxy, remove the entry that covers " + host + " from " + name}}
	case strings.Contains(list, host) && len(strings.Fields(list)) > 1 && !strings.Contains(list, ","):
		return "; " + name + " lists it, but its entries must be separated by commas", []Fix{e.setProxy("separate them by commas", name, strings.Join(strings.Fields(list), ","))}
	case strings.Contains(list, "://"):
		return "; " + name + " contains a URL, and must list host names", nil
	}
	return "", nil
}

// setProxy sets a variable of a proxy. A value with a password in it is left to the reader.
func (e *examination) setProxy(what, name, value string) Fix {
	placeholder := "http://PROXY:PORT"
	if strings.EqualFold(name, "NO_PROXY") {
		placeholder = "HOSTS"
	}
	return e.setEnv(what, ourContainer, name+"="+shellWord(value, placeholder))
}
