package doctor

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// checkIssuerURL checks that IAM accepts the issuer and can reach it.
func (e *examination) checkIssuerURL() {
	issuer := e.claims.Issuer
	region := names.RegionOfIssuer(issuer)
	if issuer == "" { // the check of the token reports it
		e.skip("issuer")
		return
	}
	if key, why := issuerFault(issuer); key != "" && (key == IssuerNotHTTPS && !isLoopback(issuer) || e.asksAWS()) {
		e.issuerFault = key
		e.add(failure("issuer", key, fmt.Sprintf("%q %s", issuer, why), fixIssuerFlags()...))
		return
	}
	if region != "" && e.Exchange.Region != "" && region != e.Exchange.Region {
		e.ok("issuer", "%s, in another region than STS (%s), which is fine", issuer, e.Exchange.Region)
		return
	}
	e.ok("issuer", "%s", issuer)
}

// asksAWS reports whether the exchange goes to AWS's own STS, which reads the issuer's documents over the internet. Another
// may be in the same network.
func (e *examination) asksAWS() bool {
	if e.Exchange.Endpoint == "" {
		return true
	}
	u, err := url.Parse(e.Exchange.Endpoint)
	if err != nil {
		return false
	}
	for _, domain := range []string{".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws"} {
		if strings.HasSuffix(u.Hostname(), domain) {
			return true
		}
	}
	return false
}

// issuerFault returns why IAM cannot use an issuer's URL, as a predicate, or "".
// https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html
func issuerFault(issuer string) (key Key, why string) {
	u, err := url.Parse(issuer)
	switch {
	case !strings.HasPrefix(issuer, "https://"):
		return IssuerNotHTTPS, "is not an https:// URL, and IAM accepts OIDC providers only for those"
	case err != nil || u.Hostname() == "":
		return IssuerMalformed, "is not a URL with a host"
	}
	if private := privateHost(u.Hostname()); private != "" {
		return IssuerNotPublic, "cannot be reached by IAM and STS: " + private
	}
	switch {
	case u.User != nil:
		return IssuerMalformed, "contains a user, which IAM does not accept"
	case u.Port() != "":
		return IssuerMalformed, "contains a port, which IAM does not accept"
	case strings.Contains(issuer, "?"):
		return IssuerMalformed, "contains a query (?), which IAM does not accept"
	case strings.Contains(issuer, "#"):
		return IssuerMalformed, "contains a fragment (#), which IAM does not accept"
	}
	return "", ""
}

// privateDomains end the names of hosts that are not on the internet.
// https://www.iana.org/assignments/special-use-domain-names, and what clusters and companies use
var privateDomains = []string{".svc", ".local", ".localhost", ".internal", ".localdomain", ".lan", ".intranet", ".corp", ".private", ".home.arpa", ".test", ".invalid"}

// privateHost says why a host is not on the internet, or returns "".
func privateHost(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if address, err := netip.ParseAddr(host); err == nil {
		address = address.Unmap()
		shared := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: behind a carrier's or a cluster's NAT
		if address.IsPrivate() || address.IsLoopback() || address.IsLinkLocalUnicast() || address.IsUnspecified() || shared.Contains(address) {
			return host + " is an address in a private network"
		}
		return host + " is an IP address, and IAM needs a host name"
	}
	if host == "kubernetes" || strings.HasPrefix(host, "kubernetes.default") {
		return host + " is the API server's name inside the cluster"
	}
	if !strings.Contains(host, ".") {
		return host + " is a name without a domain"
	}
	for _, domain := range privateDomains {
		if strings.HasSuffix(host, domain) {
			return host + " is a name in a private network (" + domain + ")"
		}
	}
	return ""
}

// fixIssuerFlags is for a cluster whose issuer IAM cannot use.
func fixIssuerFlags() []Fix {
	return []Fix{
		{What: "give the API server an issuer on the internet: --service-account-issuer=https://ISSUER, without a port, and --service-account-jwks-uri=https://ISSUER/openid/v1/jwks; " +
			"publish both documents there (kubectl get --raw prints them: /.well-known/openid-configuration and /openid/v1/jwks), then create the provider in IAM"},
		{What: "keep the old issuer as a second --service-account-issuer after the new one, until every Pod has a new token"},
		{What: "an EKS cluster has a public issuer; a token with another one is another cluster's, or comes from a Secret"},
	}
}
