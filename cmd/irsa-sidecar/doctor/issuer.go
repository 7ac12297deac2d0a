package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuerVerdict is what the issuer's own documents say of the token.
type issuerVerdict int

const (
	notAsked    issuerVerdict = iota // or it could not be reached from here
	vouches                          // the signature is good
	disowns                          // it is not, or its key is unknown
	unreachable                      // for a reason that STS would meet too
)

const (
	issuerTimeout = 3 * time.Second // for each of the two documents; STS itself waits five seconds
	maxDocument   = 1 << 20
)

// algorithms are those that STS takes.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512}

// checkIssuer verifies the token as STS does: by the discovery document and the keys that the issuer
// publishes. Only a good signature rules out that the token is at fault.
// https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig
func (e *examination) checkIssuer(ctx context.Context) {
	iss := e.claims.Issuer
	if !strings.HasPrefix(iss, "https://") && !isLoopback(iss) {
		e.skip("signature")
		return
	}
	var discovery struct {
		Issuer        string   `json:"issuer"`
		JWKSURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}
	url := strings.TrimSuffix(iss, "/") + "/.well-known/openid-configuration"
	if !e.fetch(ctx, url, &discovery) {
		return
	}
	switch {
	case discovery.Issuer != iss:
		e.disown(IssuerMismatch, fmt.Sprintf("%s says that its issuer is %q, and the token's is %q", url, discovery.Issuer, iss),
			Fix{What: "serve a discovery document whose issuer is the token's, byte by byte; EKS does so by itself"})
		return
	case len(discovery.ResponseTypes) == 0 || len(discovery.Algorithms) == 0 || discovery.JWKSURI == "":
		e.add(Finding{Check: "signature", Status: Fail, Key: string(IssuerIncomplete),
			Finding: url + " lacks one of jwks_uri, response_types_supported and id_token_signing_alg_values_supported, which STS insists on",
			Fixes:   []Fix{{What: `complete the discovery document, with "response_types_supported": ["id_token"] and "id_token_signing_alg_values_supported": ["RS256"]`}}})
		e.issuer = unreachable
		return
	case !strings.HasPrefix(discovery.JWKSURI, "https://") && !isLoopback(discovery.JWKSURI):
		e.add(Finding{Check: "signature", Status: Fail, Key: string(IssuerIncomplete),
			Finding: fmt.Sprintf("%s names keys at %q, which is no https:// URL", url, discovery.JWKSURI), Fixes: []Fix{{What: "publish the keys over https"}}})
		e.issuer = unreachable
		return
	}
	var keys jose.JSONWebKeySet
	if !e.fetch(ctx, discovery.JWKSURI, &keys) {
		return
	}
	known := keys.Key(e.claims.KeyID)
	if len(known) == 0 {
		e.disown(KeyUnknown, fmt.Sprintf("the token is signed with the key %q, which is not among those that %s publishes", e.claims.KeyID, iss), e.fixForeignToken()...)
		return
	}
	signed, err := jose.ParseSignedCompact(e.token, algorithms)
	if err == nil {
		_, err = signed.Verify(known[0])
	}
	if err != nil {
		e.disown(SignatureInvalid, fmt.Sprintf("the token's signature is not by the key %q of %s", e.claims.KeyID, iss), e.fixForeignToken()...)
		return
	}
	e.issuer = vouches
	e.ok("signature", "good, by the key %q that the issuer publishes", e.claims.KeyID)
}

func (e *examination) disown(key Key, finding string, fixes ...Fix) {
	e.issuer, e.disowning = disowns, key
	e.add(Finding{Check: "signature", Status: Fail, Key: string(key), Finding: finding, Fixes: fixes})
}

// fetch gets a public document. That it cannot be had from here says little: the cluster may have no
// way out to the internet, from where STS reads it.
func (e *examination) fetch(ctx context.Context, url string, into any) bool {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	why := ""
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err == nil {
		var response *http.Response
		if response, err = e.httpClient().Do(request); err == nil {
			defer response.Body.Close()
			var body []byte
			if body, err = io.ReadAll(io.LimitReader(response.Body, maxDocument)); err == nil {
				switch {
				case response.StatusCode != http.StatusOK:
					why = "it answered " + response.Status
					e.issuer = unreachable
				case json.Unmarshal(body, into) != nil:
					why = "it is not the JSON that it should be"
					e.issuer = unreachable
				default:
					return true
				}
			}
		}
	}
	if why == "" {
		why = innermost(err).Error()
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			why = fmt.Sprintf("no answer within %s", issuerTimeout)
		}
	}
	e.add(Finding{Check: "signature", Status: Warn, Key: string(IssuerUnreachable),
		Finding: fmt.Sprintf("not verified: %s: %s", url, why), Fixes: []Fix{fixIssuer(url)}})
	return false
}
