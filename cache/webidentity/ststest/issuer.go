package ststest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// The paths are those of a Kubernetes API server.
const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/openid/v1/jwks"
)

// Issuer signs projected service account tokens as a Kubernetes API server does. As an [http.Handler] it serves the two
// public documents with which an STS verifies them. An Issuer may be used by many goroutines at once.
type Issuer struct {
	signing  atomic.Pointer[signingKey]
	url      atomic.Pointer[string]
	listener atomic.Pointer[listener]
}

type signingKey struct {
	*rsa.PrivateKey
	jwk jwk
}

// NewIssuer returns an Issuer with a new key. url may be empty until SetURL or Start sets it.
func NewIssuer(url string) (*Issuer, error) {
	i := new(Issuer)
	i.SetURL(url)
	return i, i.Rotate()
}

// ReadIssuer returns an Issuer with the public key of another, such as a real API server: the first key in jwks, which must
// be an RSA key. It cannot sign.
func ReadIssuer(url string, jwks []byte) (*Issuer, error) {
	var set jwkSet
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("read the issuer's keys: %w", err)
	}
	if len(set.Keys) == 0 || set.Keys[0].Type != "RSA" {
		return nil, errors.New("the issuer's first key is not an RSA key")
	}
	k := set.Keys[0]
	n, err := base64.RawURLEncoding.DecodeString(k.Modulus)
	if err != nil {
		return nil, fmt.Errorf("read the issuer's key: %w", err)
	}
	e, err := base64.RawURLEncoding.DecodeString(k.Exponent)
	if err != nil {
		return nil, fmt.Errorf("read the issuer's key: %w", err)
	}
	i := new(Issuer)
	i.SetURL(url)
	public := rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	i.signing.Store(&signingKey{&rsa.PrivateKey{PublicKey: public}, k})
	return i, nil
}

// Rotate replaces the key. Tokens that the old key signed are no longer valid.
func (i *Issuer) Rotate() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make the issuer's key: %w", err)
	}
	i.signing.Store(&signingKey{key, publicJWK(&key.PublicKey)})
	return nil
}

// Start listens on a free port of 127.0.0.1, and sets the issuer's URL to it.
func (i *Issuer) Start() error {
	l, err := listen(i, nil)
	if err != nil {
		return err
	}
	i.listener.Store(l)
	i.SetURL("http://" + l.address)
	return nil
}

// Close stops listening. It may be called more than once, and before Start.
func (i *Issuer) Close() error { return i.listener.Swap(nil).close() }

// SetURL changes the issuer's URL, which is the iss of the tokens that follow. It is used unchanged: STS compares the issuer
// byte by byte, including a trailing slash.
func (i *Issuer) SetURL(url string) { i.url.Store(&url) }

// URL returns the issuer's URL.
func (i *Issuer) URL() string { return *i.url.Load() }

// ServeHTTP serves the discovery document and the keys.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case discoveryPath:
		writeJSON(w, "application/json", discovery{
			Issuer:        i.URL(),
			JWKSURI:       i.URL() + keysPath,
			ResponseTypes: []string{"id_token"},
			SubjectTypes:  []string{"public"},
			Algorithms:    []string{signingAlgorithm},
		})
	case keysPath:
		writeJSON(w, "application/jwk-set+json", jwkSet{Keys: []jwk{i.signing.Load().jwk}})
	default:
		http.NotFound(w, r)
	}
}

// discovery is the document that an API server publishes. STS refuses an issuer that omits the response types or the
// algorithms.
type discovery struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

type jwkSet struct {
	Keys []jwk `json:"keys"`
}

type jwk struct {
	Use       string `json:"use"`
	Type      string `json:"kty"`
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg"`
	Modulus   string `json:"n"`
	Exponent  string `json:"e"`
}

func publicJWK(key *rsa.PublicKey) jwk {
	k := jwk{
		Use:       "sig",
		Type:      "RSA",
		Algorithm: signingAlgorithm,
		Modulus:   base64url(key.N.Bytes()),
		Exponent:  base64url(big.NewInt(int64(key.E)).Bytes()),
	}
	// RFC 7638 hashes only these members, in this order and without white space.
	thumbprint := sha256.Sum256(fmt.Appendf(nil, `{"e":%q,"kty":%q,"n":%q}`, k.Exponent, k.Type, k.Modulus))
	k.KeyID = base64url(thumbprint[:])
	return k
}

func writeJSON(w http.ResponseWriter, contentType string, document any) {
	body, err := json.Marshal(document)
	if err != nil { // all documents are from this file
		panic(err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	w.Write(body)
}

// Claims are the claims of a token. With the zero Claims, STS accepts the token.
type Claims struct {
	// Audience is sts.amazonaws.com if nil. If it is empty but not nil, the token has no aud, like a legacy token from a
	// Secret.
	Audience []string

	// Namespace, ServiceAccount and Pod are "default", "app" and "app-0" if empty.
	Namespace      string
	ServiceAccount string
	Pod            string

	// IssuedAt is now if zero.
	IssuedAt time.Time

	// Lifetime is an hour if zero. With a negative Lifetime, the token is valid for an hour that ended that long before
	// IssuedAt.
	Lifetime time.Duration

	// Issuer is the URL of the Issuer if empty. With another URL the token looks to STS like one from another cluster.
	Issuer string
}

const (
	signingAlgorithm     = "RS256"
	defaultAudience      = "sts.amazonaws.com"
	defaultTokenLifetime = time.Hour
)

func (c Claims) withDefaults(issuerURL string) Claims {
	if c.Audience == nil {
		c.Audience = []string{defaultAudience}
	}
	for _, f := range []struct {
		field        *string
		defaultValue string
	}{
		{&c.Namespace, "default"},
		{&c.ServiceAccount, "app"},
		{&c.Pod, "app-0"},
		{&c.Issuer, issuerURL},
	} {
		if *f.field == "" {
			*f.field = f.defaultValue
		}
	}
	if c.IssuedAt.IsZero() {
		c.IssuedAt = time.Now()
	}
	switch {
	case c.Lifetime == 0:
		c.Lifetime = defaultTokenLifetime
	case c.Lifetime < 0:
		c.IssuedAt = c.IssuedAt.Add(c.Lifetime - defaultTokenLifetime)
		c.Lifetime = defaultTokenLifetime
	}
	return c
}

// Token signs a token with the given claims.
func (i *Issuer) Token(claims Claims) (string, error) {
	c := claims.withDefaults(i.URL())
	key := i.signing.Load()
	header, err := json.Marshal(tokenHeader{Algorithm: signingAlgorithm, KeyID: key.jwk.KeyID})
	if err != nil {
		return "", fmt.Errorf("encode the token's header: %w", err)
	}
	payload, err := json.Marshal(tokenClaims{
		Audience: c.Audience,
		Expires:  c.IssuedAt.Add(c.Lifetime).Unix(),
		IssuedAt: c.IssuedAt.Unix(),
		Issuer:   c.Issuer,
		ID:       newUUID(),
		Kubernetes: kubernetesClaims{
			Namespace:      c.Namespace,
			Node:           objectReference{Name: "node-0", UID: uidOf("node", "node-0")},
			Pod:            objectReference{Name: c.Pod, UID: uidOf("pod", c.Namespace, c.Pod)},
			ServiceAccount: objectReference{Name: c.ServiceAccount, UID: uidOf("serviceaccount", c.Namespace, c.ServiceAccount)},
		},
		NotBefore: c.IssuedAt.Unix(),
		Subject:   "system:serviceaccount:" + c.Namespace + ":" + c.ServiceAccount,
	})
	if err != nil {
		return "", fmt.Errorf("encode the token's claims: %w", err)
	}
	signed := base64url(header) + "." + base64url(payload)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, key.PrivateKey, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return signed + "." + base64url(signature), nil
}

// signed reports whether this issuer's key made the token's signature.
func (i *Issuer) signed(t token) bool {
	key := i.signing.Load()
	if t.header.Algorithm != signingAlgorithm || t.header.KeyID != key.jwk.KeyID {
		return false
	}
	sum := sha256.Sum256([]byte(t.signed))
	return rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], t.signature) == nil
}

// token is a JWT that has been parsed but not verified.
type token struct {
	header    tokenHeader
	claims    tokenClaims
	signed    string // the part that the signature covers
	signature []byte
}

type tokenHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

// tokenClaims are in the order in which an API server writes them. The times are integers, because STS refuses fractions.
type tokenClaims struct {
	Audience   audience         `json:"aud,omitempty"`
	Expires    int64            `json:"exp"`
	IssuedAt   int64            `json:"iat"`
	Issuer     string           `json:"iss"`
	ID         string           `json:"jti"`
	Kubernetes kubernetesClaims `json:"kubernetes.io"`
	NotBefore  int64            `json:"nbf"`
	Subject    string           `json:"sub"`
}

type kubernetesClaims struct {
	Namespace      string          `json:"namespace"`
	Node           objectReference `json:"node"`
	Pod            objectReference `json:"pod"`
	ServiceAccount objectReference `json:"serviceaccount"`
}

type objectReference struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// audience accepts both forms that RFC 7519 allows; an API server always writes a list.
type audience []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte(`"`)) {
		*a = make(audience, 1)
		return json.Unmarshal(data, &(*a)[0])
	}
	return json.Unmarshal(data, (*[]string)(a))
}

func parseToken(text string) (t token, ok bool) {
	// The base64 decoder would ignore line breaks, and so would accept a token file that was not trimmed.
	parts := strings.Split(text, ".")
	if len(parts) != 3 || strings.ContainsAny(text, "\r\n") {
		return token{}, false
	}
	t.signed = parts[0] + "." + parts[1]
	var err error
	if t.signature, err = base64.RawURLEncoding.DecodeString(parts[2]); err != nil {
		return token{}, false
	}
	return t, decodePart(parts[0], &t.header) && decodePart(parts[1], &t.claims)
}

func decodePart(part string, into any) bool {
	data, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(data, into) == nil
}

func base64url(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func newUUID() string {
	var random [16]byte
	rand.Read(random[:])
	return formatUUID(random)
}

// uidOf returns the UID of an object, which is the same in all its tokens, as it is with an API server.
func uidOf(name ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(name, "/")))
	return formatUUID([16]byte(sum[:16]))
}

func formatUUID(b [16]byte) string {
	b[6] = b[6]&0x0f | 0x40 // version 4
	b[8] = b[8]&0x3f | 0x80 // RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
