package doctor

import (
	"bytes"
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
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
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

// members are those of a discovery document that STS requires, and what they usually are.
var members = []struct {
	name  string
	list  bool // of strings
	usual string
}{
	{"issuer", false, `"https://ISSUER"`},
	{"jwks_uri", false, `"https://ISSUER/openid/v1/jwks"`},
	{"response_types_supported", true, `["id_token"]`},
	{"id_token_signing_alg_values_supported", true, `["RS256"]`},
}

// checkIssuer verifies the token as STS does: with the discovery document and the keys that the issuer publishes. Only a
// valid signature proves that the token is not at fault.
// https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig
func (e *examination) checkIssuer(ctx context.Context) {
	iss := e.claims.Issuer
	if !strings.HasPrefix(iss, "https://") && !isLoopback(iss) || e.issuerFault == IssuerNotPublic {
		e.skip("signature")
		return
	}
	url := discoveryURL(iss)
	document := make(map[string]json.RawMessage) // whose names are in exactly this case
	if !e.fetchDocument(ctx, url, &document) {
		return
	}
	issuer, keysURI := stringOf(document["issuer"]), stringOf(document["jwks_uri"])
	if issuer != "" && issuer != iss {
		e.reject(IssuerMismatch, fmt.Sprintf("%s names the issuer %q, but the token's is %q%s", url, issuer, iss, slash(issuer, iss)),
			Fix{What: "serve a discovery document with the token's issuer, byte for byte; EKS does"})
		return
	}
	if faults, fix := incompleteness(document); len(faults) > 0 {
		e.incomplete(url+" "+strings.Join(faults, ", and "), "correct the discovery document: "+fix)
		return
	}
	if !strings.HasPrefix(keysURI, "https://") && !isLoopback(keysURI) {
		e.incomplete(fmt.Sprintf("%s has the jwks_uri %q, which is not an https:// URL", url, keysURI), "publish the keys over https")
		return
	}
	if key, why := issuerFault(keysURI); key == IssuerNotPublic && e.asksAWS() {
		e.issuer, e.rejection = issuerUnavailable, IssuerNotPublic
		e.add(failure("signature", IssuerNotPublic, fmt.Sprintf("%s has the jwks_uri %q, which %s", url, keysURI, why),
			Fix{What: "set the API server's --service-account-jwks-uri to a URL on the internet, publish its keys there (kubectl get --raw /openid/v1/jwks), and correct the discovery document"}))
		return
	}
	e.thumbprint = "" // of the discovery document's server, which may be another
	var keys jose.JSONWebKeySet
	if !e.fetchDocument(ctx, keysURI, &keys) {
		return
	}
	if len(keys.Keys) == 0 {
		e.incomplete(keysURI+" contains no keys", "publish the API server's keys there: kubectl get --raw /openid/v1/jwks prints them")
		return
	}
	e.checkSignature(keys)
}

// incompleteness says what STS lacks in a discovery document, and what to write there.
func incompleteness(document map[string]json.RawMessage) (faults []string, fix string) {
	var missing, right []string
	for _, m := range members {
		raw, there := document[m.name]
		var list []string
		switch {
		case !there:
			missing = append(missing, m.name)
		case m.list && json.Unmarshal(raw, &list) != nil:
			faults = append(faults, "has "+m.name+", which is not a list of strings")
		case m.list && len(list) == 0:
			faults = append(faults, "has an empty list "+m.name)
		case !m.list && stringOf(raw) == "":
			faults = append(faults, "has "+m.name+", which is not a string with something in it")
		default:
			continue
		}
		right = append(right, fmt.Sprintf("%q: %s", m.name, m.usual))
	}
	if len(missing) > 0 {
		faults = append(faults, "lacks "+strings.Join(missing, " and ")+", which STS requires")
	}
	return faults, strings.Join(right, ", ")
}

func stringOf(raw json.RawMessage) (s string) {
	json.Unmarshal(raw, &s)
	return s
}

// slash names the difference between two issuers that is easy to overlook.
func slash(a, b string) string {
	if a != b && strings.TrimRight(a, "/") == strings.TrimRight(b, "/") {
		return ": they differ in the slash at the end"
	}
	if strings.EqualFold(a, b) {
		return ": they differ in upper and lower case"
	}
	return ""
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
	e.issuer, e.rejection = issuerUnavailable, IssuerIncomplete
	e.add(failure("signature", IssuerIncomplete, text, Fix{What: fix}))
}

// fetchDocument gets a public JSON document. A failure is only a warning: STS reads it over the internet, and the cluster
// may have no route there.
func (e *examination) fetchDocument(ctx context.Context, url string, into any) bool {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	response, body, err := e.get(ctx, url) //nolint:bodyclose // get has closed it
	fixes := []Fix{fixIssuer(url)}
	why := ""
	switch {
	case err != nil:
		why = cache.Innermost(err).Error()
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			why = fmt.Sprintf("no answer within %s", issuerTimeout)
		} else if failed := webidentity.NotTrusted(err, "its server"); failed != nil {
			why = failed.Message
		}
	case response.StatusCode != http.StatusOK:
		e.issuer = issuerUnavailable
		why = fmt.Sprintf("the answer has HTTP status %d", response.StatusCode)
		if to := response.Header.Get("Location"); to != "" {
			why += ", a redirect to " + to
		}
		if bytes.Contains(body, []byte(`"kind": "Status"`)) || bytes.Contains(body, []byte(`"kind":"Status"`)) {
			why += ": an API server refuses callers without an account"
			fixes = []Fix{{"let everybody read the issuer's documents, which contain nothing secret", shell, "kubectl create clusterrolebinding public-issuer --clusterrole=system:service-account-issuer-discovery --group=system:unauthenticated"}}
		}
	default:
		if why = unexpected(body, into); why == "" {
			return true
		}
		e.issuer = issuerUnavailable
	}
	e.add(warning("signature", IssuerUnreachable, fmt.Sprintf("the signature cannot be verified: %s: %s", url, why), fixes...))
	return false
}

// unexpected reads a JSON document, or says what it is instead.
func unexpected(body []byte, into any) string {
	err := json.Unmarshal(body, into)
	text := bytes.TrimSpace(body)
	_, otherType := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case err == nil:
		return ""
	case len(text) == 0:
		return "the answer is empty"
	case text[0] == '<':
		return "the answer is a page of HTML or XML and not JSON"
	case otherType:
		return "the answer is JSON, but not the expected document"
	case text[0] == '{' && bytes.LastIndexByte(text, '}') < len(text)-1:
		return "the answer ends in the middle of the JSON"
	}
	return "the answer is not the expected JSON"
}

func (e *examination) get(ctx context.Context, url string) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	response, err := e.httpClient().Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	e.thumbprint = thumbprintOf(response.TLS)
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDocument))
	return response, body, err
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
