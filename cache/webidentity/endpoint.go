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

// CheckEndpoint returns what is wrong with the URL of an STS endpoint, or nil. The token is sent there unencrypted with
// plain http, which is accepted for loopback only. Errors continue a sentence that begins with where the URL came from.
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

var sessionUnsafe = regexp.MustCompile(`[^\w+=,.@-]`)

// SessionName returns s as a role session name, which STS limits to 2 to 64 characters of [\w+=,.@-]: other characters
// become a hyphen, and a longer name is cut at the beginning, because the end is what makes a Pod's name unique.
func SessionName(s string) string {
	s = sessionUnsafe.ReplaceAllString(s, "-")
	if len(s) > 64 {
		s = s[len(s)-64:]
	}
	for len(s) < 2 {
		s += "-"
	}
	return s
}

// maxCABundle is about ten times the size of the bundles of operating systems, and twice that of a ConfigMap, in bytes.
const maxCABundle = 2 << 20

// LoadCABundle returns the system's roots and the PEM certificates in the file, or nil, which stands for the system's
// roots, if path is empty. Unlike the SDKs it adds to the roots: a bundle with a company's own CA should not cut off AWS.
// The error names the path.
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
		return nil, fmt.Errorf("%s contains no PEM certificate", path)
	}
	return pool, nil
}

// newHTTPClient returns a client for a small POST every half hour, which must fail fast. It does not follow redirects,
// because the token would follow too.
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
		OnProxyConnectResponse: proxyResponse,
	}
	return &http.Client{
		Transport:     recorder{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, transport
}
