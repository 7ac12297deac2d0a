package ststest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The key and its thumbprint are the example of RFC 7638, section 3.1.
func TestKeyIDIsTheThumbprint(t *testing.T) {
	const modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	n, err := base64.RawURLEncoding.DecodeString(modulus)
	if err != nil {
		t.Fatal(err)
	}
	got := publicJWK(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
	want := jwk{
		Use: "sig", Type: "RSA", Algorithm: "RS256", Modulus: modulus, Exponent: "AQAB",
		KeyID: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A verifier that knows only the issuer's URL, like STS's.
func TestTokenVerifiesByThePublishedKeys(t *testing.T) {
	issuer, err := NewIssuer("")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(issuer)
	defer server.Close()
	issuer.SetURL(server.URL)

	var found discovery
	getJSON(t, server.URL+"/.well-known/openid-configuration", "application/json", &found)
	if found.Issuer != server.URL {
		t.Errorf("the document's issuer is %q, want %q", found.Issuer, server.URL)
	}
	var keys jwkSet
	getJSON(t, found.JWKSURI, "application/jwk-set+json", &keys)
	if len(keys.Keys) != 1 {
		t.Fatalf("%d keys", len(keys.Keys))
	}

	text, err := issuer.Token(Claims{})
	if err != nil {
		t.Fatal(err)
	}
	token, ok := parseToken(text)
	if !ok {
		t.Fatalf("not a token: %s", text)
	}
	if token.header.KeyID != keys.Keys[0].KeyID {
		t.Errorf("kid %q, published %q", token.header.KeyID, keys.Keys[0].KeyID)
	}
	modulus, err := base64.RawURLEncoding.DecodeString(keys.Keys[0].Modulus)
	if err != nil {
		t.Fatal(err)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}
	sum := sha256.Sum256([]byte(token.signed))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], token.signature); err != nil {
		t.Error(err)
	}
}

func getJSON(t *testing.T, url, contentType string, into any) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != contentType {
		t.Fatalf("GET %s: %d %s", url, response.StatusCode, got)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

func TestTokenHasTheClaimsOfAnAPIServer(t *testing.T) {
	text := testToken(t, Claims{Namespace: "shop", ServiceAccount: "cart", Pod: "cart-7", Lifetime: 24 * time.Hour})
	part := strings.Split(text, ".")[1]
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, data, "", "  "); err != nil {
		t.Fatal(err)
	}
	token, _ := parseToken(text)
	want := `{
  "aud": [
    "sts.amazonaws.com"
  ],
  "exp": 1767409445,
  "iat": 1767323045,
  "iss": "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE",
  "jti": "` + token.claims.ID + `",
  "kubernetes.io": {
    "namespace": "shop",
    "node": {
      "name": "node-0",
      "uid": "` + uidOf("node", "node-0") + `"
    },
    "pod": {
      "name": "cart-7",
      "uid": "` + uidOf("pod", "shop", "cart-7") + `"
    },
    "serviceaccount": {
      "name": "cart",
      "uid": "` + uidOf("serviceaccount", "shop", "cart") + `"
    }
  },
  "nbf": 1767323045,
  "sub": "system:serviceaccount:shop:cart"
}`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestAudienceMayBeAString(t *testing.T) {
	var claims tokenClaims
	if err := json.Unmarshal([]byte(`{"aud":"sts.amazonaws.com"}`), &claims); err != nil {
		t.Fatal(err)
	}
	if len(claims.Audience) != 1 || claims.Audience[0] != "sts.amazonaws.com" {
		t.Errorf("got %q", claims.Audience)
	}
}

func TestAnIssuerListensAndRotatesItsKey(t *testing.T) {
	issuer, err := NewIssuer("")
	if err != nil {
		t.Fatal(err)
	}
	if err := issuer.Start(); err != nil {
		t.Fatal(err)
	}
	defer issuer.Close()
	keys := func() string {
		response, err := http.Get(issuer.URL() + keysPath)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	token, err := issuer.Token(Claims{})
	if err != nil {
		t.Fatal(err)
	}
	parsed, ok := parseToken(token)
	if !ok || !issuer.signed(parsed) || !strings.Contains(keys(), parsed.header.KeyID) {
		t.Error("the key of a new token is not published")
	}
	if err := issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	if issuer.signed(parsed) || strings.Contains(keys(), parsed.header.KeyID) {
		t.Error("the old key is still there")
	}
	if err := errors.Join(issuer.Close(), issuer.Close()); err != nil {
		t.Error(err)
	}
}

func TestIssuerIsReadFromItsKeys(t *testing.T) {
	original, err := NewIssuer("https://issuer.example")
	if err != nil {
		t.Fatal(err)
	}
	keys := httptest.NewRecorder()
	original.ServeHTTP(keys, httptest.NewRequest(http.MethodGet, keysPath, nil))
	read, err := ReadIssuer(original.URL(), keys.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	text, err := original.Token(Claims{})
	if err != nil {
		t.Fatal(err)
	}
	if parsed, ok := parseToken(text); !ok || !read.signed(parsed) {
		t.Error("what the issuer signed is not taken for its own")
	}
	if err := original.Rotate(); err != nil {
		t.Fatal(err)
	}
	if text, err = original.Token(Claims{}); err != nil {
		t.Fatal(err)
	}
	if parsed, ok := parseToken(text); !ok || read.signed(parsed) {
		t.Error("what was signed with another key is taken for the issuer's")
	}
	for _, bad := range []string{"", "{}", `{"keys":[{"kty":"EC"}]}`, `{"keys":[{"kty":"RSA","n":"?"}]}`} {
		if _, err := ReadIssuer("https://issuer.example", []byte(bad)); err == nil {
			t.Errorf("%q is taken for keys", bad)
		}
	}
}
