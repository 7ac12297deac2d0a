package webidentity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

// CheckEndpoint returns what is wrong with an STS endpoint of one's own, or nil. The token goes there
// in the clear, so plain http is taken for loopback only.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return fmt.Errorf("is not a URL such as https://sts.eu-west-1.amazonaws.com")
	}
	if u.User != nil || strings.ContainsAny(endpoint, "?#") {
		return fmt.Errorf("must be a bare URL, without user, query or fragment")
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return fmt.Errorf("would send the token unencrypted to %s: plain http is for loopback only, use https", u.Hostname())
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}

var sessionUnfit = regexp.MustCompile(`[^\w+=,.@-]`)

// SessionName makes a role session name of s: [\w+=,.@-], 2 to 64 characters. Of a longer name the
// end is kept, where a Pod's name is unique.
func SessionName(s string) string {
	s = sessionUnfit.ReplaceAllString(s, "-")
	if len(s) > 64 {
		s = s[len(s)-64:]
	}
	for len(s) < 2 {
		s += "-"
	}
	return s
}

// maxCABundle is some ten times what operating systems trust; a ConfigMap has half of it.
const maxCABundle = 2 << 20

// LoadCABundle returns the system's roots and the PEM certificates in the file, or nil, which stands
// for the system's roots, when path is empty. Other than the SDKs it adds to the roots: a bundle of a
// company's own CA should not cut off AWS.
func LoadCABundle(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, _, err := regular.Read(path, maxCABundle)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

// newHTTPClient returns a client for one purpose: a small POST every half hour, which must fail fast.
// It follows no redirect, because the token would follow too.
func newHTTPClient(o Options) (*http.Client, *http.Transport) {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            o.Dial,
		TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    3 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		OnProxyConnectResponse: refusal,
	}
	return &http.Client{
		Transport:     recorder{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, transport
}
