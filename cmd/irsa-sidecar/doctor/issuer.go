package doctor

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// issuerVerdict is what the issuer's own documents say about the token.
type issuerVerdict int

const (
	issuerUnknown     issuerVerdict = iota // not asked, or not reachable from here
	issuerVerified                         // the signature is valid
	issuerRejected                         // it is not, or its key is unknown
	issuerUnavailable                      // for a reason that STS would meet too
)

const (
	issuerTimeout = 3 * time.Second // for each of the two documents; STS itself waits five seconds
	maxDocument   = 1 << 20
)

// algorithms are those that STS accepts.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512}

// discoveryDocument has the parts of an issuer's discovery document that STS uses.
type discoveryDocument struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

// checkIssuer verifies the token as STS does: with the discovery document and the keys that the issuer publishes. Only a
// valid signature proves that the token is not at fault.
// https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig
func (e *examination) checkIssuer(ctx context.Context) {
	iss := e.claims.Issuer
	if !strings.HasPrefix(iss, "https://") && !isLoopback(iss) {
		e.skip("signature")
		return
	}
	url := discoveryURL(iss)
	var discovery discoveryDocument
	if !e.fetchDocument(ctx, url, &discovery) {
		return
	}
	switch {
	case discovery.Issuer != iss:
		e.reject(IssuerMismatch, fmt.Sprintf("%s names the issuer %q, but the token's is %q", url, discovery.Issuer, iss),
			Fix{What: "serve a discovery document with the token's issuer, byte for byte; EKS does"})
		return
	case len(discovery.ResponseTypes) == 0 || len(discovery.Algorithms) == 0 || discovery.JWKSURI == "":
		e.incomplete(url+" lacks jwks_uri, response_types_supported or id_token_signing_alg_values_supported, which STS requires",
			`complete the discovery document, with "response_types_supported": ["id_token"] and "id_token_signing_alg_values_supported": ["RS256"]`)
		return
	case !strings.HasPrefix(discovery.JWKSURI, "https://") && !isLoopback(discovery.JWKSURI):
		e.incomplete(fmt.Sprintf("%s has the jwks_uri %q, which is not an https:// URL", url, discovery.JWKSURI), "publish the keys over https")
		return
	}
	var keys jose.JSONWebKeySet
	e.thumbprint = "" // of the discovery document's server, which may be another
	if e.fetchDocument(ctx, discovery.JWKSURI, &keys) {
		e.checkSignature(keys)
	}
}

func discoveryURL(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

func (e *examination) checkSignature(keys jose.JSONWebKeySet) {
	iss, id := e.claims.Issuer, e.claims.KeyID
	known := keys.Key(id)
	if len(known) == 0 {
		e.reject(KeyUnknown, fmt.Sprintf("the token is signed with key %q, which %s does not publish", id, iss), e.fixForeignToken()...)
		return
	}
	signed, err := jose.ParseSignedCompact(e.token, algorithms)
	if err == nil {
		_, err = signed.Verify(known[0])
	}
	if err != nil {
		e.reject(SignatureInvalid, fmt.Sprintf("the token's signature was not made with key %q of %s", id, iss), e.fixForeignToken()...)
		return
	}
	e.issuer = issuerVerified
	e.ok("signature", "valid, made with key %q, which the issuer publishes", id)
}

// reject records that the issuer's documents rule the token out.
func (e *examination) reject(key Key, text string, fixes ...Fix) {
	e.issuer, e.rejection = issuerRejected, key
	e.add(failure("signature", key, text, fixes...))
}

// incomplete records that STS cannot use the discovery document.
func (e *examination) incomplete(text, fix string) {
	e.issuer = issuerUnavailable
	e.add(failure("signature", IssuerIncomplete, text, Fix{What: fix}))
}

// fetchDocument gets a public JSON document. A failure is only a warning: STS reads it over the internet, and the cluster
// may have no route there.
func (e *examination) fetchDocument(ctx context.Context, url string, into any) bool {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	status, body, err := e.get(ctx, url)
	why := ""
	switch {
	case err != nil:
		why = cache.Innermost(err).Error()
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			why = fmt.Sprintf("no answer within %s", issuerTimeout)
		}
	case status != http.StatusOK:
		why = fmt.Sprintf("the answer has HTTP status %d", status)
		e.issuer = issuerUnavailable
	case json.Unmarshal(body, into) != nil:
		why = "the answer is not the expected JSON"
		e.issuer = issuerUnavailable
	default:
		return true
	}
	e.add(warning("signature", IssuerUnreachable, fmt.Sprintf("not verified: %s: %s", url, why), fixIssuer(url)))
	return false
}

func (e *examination) get(ctx context.Context, url string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := e.httpClient().Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	e.thumbprint = thumbprintOf(response.TLS)
	body, err = io.ReadAll(io.LimitReader(response.Body, maxDocument))
	return response.StatusCode, body, err
}

// thumbprintOf returns the thumbprint that IAM keeps of a server: the SHA-1 checksum of the last certificate that it sends,
// in hexadecimal. Empty without TLS.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc_verify-thumbprint.html
func thumbprintOf(state *tls.ConnectionState) string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return ""
	}
	return fmt.Sprintf("%x", sha1.Sum(state.PeerCertificates[len(state.PeerCertificates)-1].Raw))
}
