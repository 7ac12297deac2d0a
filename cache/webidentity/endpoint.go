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

// The shapes of names that AWS gives.
var (
	regionShape   = regexp.MustCompile(`^[a-z]{2,6}(-[a-z]+)+-\d{1,2}$`)
	zoneShape     = regexp.MustCompile(`^([a-z]{2,6}(-[a-z]+)+-\d{1,2})[a-z]$`)
	roleShape     = regexp.MustCompile(`^arn:([a-z][a-z0-9-]*):iam::(\d{12})?:role/(?:[!-~]+/)?[\w+=,.@-]+$`)
	minioShape    = regexp.MustCompile(`^arn:minio:iam:[\w-]*::role/[\w+=,.@/-]+$`)
	issuerRegion  = regexp.MustCompile(`^https://oidc(?:-fips)?[.-]eks\.([a-z0-9-]+)\.`)
	sessionUnfit  = regexp.MustCompile(`[^\w+=,.@-]`)
	partitionName = []struct{ prefix, partition string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"us-isob-", "aws-iso-b"}, {"us-isof-", "aws-iso-f"},
		{"us-iso-", "aws-iso"}, {"eu-isoe-", "aws-iso-e"}, {"eusc-", "aws-eusc"},
	}
)

// CheckRegion returns what is wrong with the name of a region, or nil. A region that AWS opens
// tomorrow is fine; "aws-global" is the SDK's name for the global STS endpoint.
func CheckRegion(region string) error {
	if region == "aws-global" || regionShape.MatchString(region) {
		return nil
	}
	if zone := zoneShape.FindStringSubmatch(region); zone != nil {
		return fmt.Errorf("%q is an availability zone: its region is %s", region, zone[1])
	}
	return fmt.Errorf("%q is not the name of a region, such as eu-west-1", region)
}

// Partition returns the partition of a region: aws, aws-cn, aws-us-gov and so on.
func Partition(region string) string {
	for _, p := range partitionName {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}

// CheckRoleARN returns what is wrong with a role's ARN, or nil. Every partition is taken, and so are
// the role ARNs of MinIO and of Ceph, whose have no account.
func CheckRoleARN(arn string) error {
	switch {
	case len(arn) > 2048:
		return fmt.Errorf("is longer than the 2048 characters that STS takes")
	case roleShape.MatchString(arn), minioShape.MatchString(arn):
		return nil
	case strings.HasPrefix(arn, "arn:") && strings.Contains(arn, ":instance-profile/"):
		return fmt.Errorf("%q is an instance profile: name the role in it", arn)
	case strings.HasPrefix(arn, "arn:") && strings.Contains(arn, ":assumed-role/"):
		return fmt.Errorf("%q is a session of a role: name the role itself, arn:aws:iam::<account>:role/<name>", arn)
	}
	return fmt.Errorf("%q is not a role's ARN, such as arn:aws:iam::111122223333:role/app", arn)
}

// RolePartition returns the partition in a role's ARN.
func RolePartition(arn string) string {
	_, rest, _ := strings.Cut(arn, ":")
	partition, _, _ := strings.Cut(rest, ":")
	return partition
}

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

// RegionOfIssuer returns the region in the issuer URL of an EKS cluster, or "".
func RegionOfIssuer(issuer string) string {
	if m := issuerRegion.FindStringSubmatch(issuer); m != nil && CheckRegion(m[1]) == nil {
		return m[1]
	}
	return ""
}

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
