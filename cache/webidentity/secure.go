package webidentity

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// NotTrusted turns the error of a TLS handshake with a host into what is wrong with the host's certificate, or returns nil if
// it is about something else. The names in the certificate are anybody's; what is shown of them is one short line.
func NotTrusted(err error, host string) *cache.FetchError {
	fail := func(hint, format string, args ...any) *cache.FetchError {
		text := "the certificate of " + host + " " + fmt.Sprintf(format, args...)
		return &cache.FetchError{Reason: cache.EndpointNotTrusted, Message: redact.Scrub(presentable(text, maxMessage)), Hint: hint}
	}
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		return fail("another server answers for this name: check AWS_ENDPOINT_URL_STS, the DNS, and any proxy or load balancer on the way", "is for %s", namesIn(name.Certificate))
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired && invalid.Cert != nil {
		const hint = "check the node's clock; if it is right, the certificate must be renewed where it is served"
		now := time.Now().UTC()
		if from := invalid.Cert.NotBefore.UTC(); now.Before(from) {
			return fail(hint, "is not valid before %s, and it is %s here", from.Format(time.DateTime), now.Format(time.DateTime))
		}
		return fail(hint, "expired on %s, and it is %s here", invalid.Cert.NotAfter.UTC().Format(time.DateTime), now.Format(time.DateTime))
	}
	verification, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		return nil
	}
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown && len(verification.UnverifiedCertificates) > 0 {
		leaf := verification.UnverifiedCertificates[0]
		if bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
			return fail("", "is self-signed (%s), and not trusted here", nameOf(leaf.Subject))
		}
		return fail("", "is signed by %s, which is not trusted here", nameOf(leaf.Issuer))
	}
	return fail("", "is not accepted: %v", verification.Err)
}

// namesIn lists for whom a certificate is.
func namesIn(c *x509.Certificate) string {
	all := slices.Clone(c.DNSNames)
	for _, address := range c.IPAddresses {
		all = append(all, address.String())
	}
	if len(all) == 0 {
		return cmp.Or(c.Subject.CommonName, "nobody") + ", and lists no names"
	}
	if len(all) > 4 {
		return fmt.Sprintf("%s and %d other names", strings.Join(all[:3], ", "), len(all)-3)
	}
	return strings.Join(all, ", ")
}

func nameOf(name pkix.Name) string {
	organization := ""
	if len(name.Organization) > 0 {
		organization = name.Organization[0]
	}
	if organization != "" && name.CommonName != "" {
		return organization + ", " + name.CommonName
	}
	return cmp.Or(organization, name.CommonName, "nobody")
}

// WithoutTLS says what a server speaks whose first bytes are not TLS, as a predicate. The bytes may be few.
func WithoutTLS(head []byte) string {
	const not = "does not speak TLS"
	switch text := string(head); {
	case strings.HasPrefix(text, "HTTP/"):
		return not + ": it speaks plain HTTP; should its URL begin with http://?"
	case strings.HasPrefix(text, "SSH-"):
		return not + ": it is an SSH server"
	case strings.HasPrefix(text, "220"):
		return not + ": it is a mail or FTP server"
	case strings.HasPrefix(text, "<"):
		return not + ": it sends HTML or XML"
	}
	return not + ": should its URL begin with http://?"
}
