package webidentity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

// maxToken is the length of the longest WebIdentityToken that STS accepts, in characters.
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
const maxToken = 20000

// maxTime is the last second of the year 9999, the last that RFC 3339, and so JSON, can express.
const maxTime = 253402300799

// Claims are what a projected token says about its subject and its validity. They are not verified: STS does that, and a
// forged claim can affect nothing but the sidecar's own messages. A claim that the token lacks is empty or zero.
type Claims struct {
	Algorithm string // alg, in the header
	KeyID     string // kid, in the header

	Issuer   string
	Subject  string
	Audience []string

	Expiration, IssuedAt, NotBefore time.Time // in UTC

	// OddTime says what is wrong with the first of exp, iat and nbf that is there and is not a time, such as "exp is
	// 1582306514.5, which has a fraction". It is empty if there is none.
	OddTime string

	Namespace      string
	ServiceAccount string
	Pod            string
}

// ReadToken returns the projected token at path, without the white space around it, and its claims. The error is always a
// [*cache.FetchError] with the reason TokenFileMissing, TokenFileUnreadable or TokenFileMalformed.
func ReadToken(path string) (string, Claims, error) {
	raw, err := readFile(path)
	if err != nil {
		return "", Claims{}, err
	}
	token := string(bytes.TrimSpace(raw))
	claims, err := ParseToken(token)
	if err != nil {
		return "", Claims{}, &cache.FetchError{Reason: cache.TokenFileMalformed, Message: fmt.Sprintf("token file %s %v", path, err)}
	}
	return token, claims, nil
}

// readFile reads up to twice the length of a token, because there may be white space around it. The error is always a
// [*cache.FetchError].
func readFile(path string) ([]byte, error) {
	raw, _, err := regular.Read(path, 2*maxToken)
	if err == nil {
		return raw, nil
	}
	return nil, fileFault(path, err)
}

var errTokenTooLong = fmt.Errorf("is longer than the %d characters that STS accepts", maxToken)

// ParseToken returns the claims of a token that STS would accept: a compact JWT of three parts, signed with one of the
// algorithms RS256, RS384, RS512, ES256, ES384 and ES512. It does not verify the signature. Errors continue a sentence
// that begins with the token's source, and never quote the token.
func ParseToken(token string) (Claims, error) {
	switch {
	case token == "":
		return Claims{}, errors.New("is empty")
	case len(token) > maxToken:
		return Claims{}, errTokenTooLong
	}
	claims, err := parseToken(token)
	if err != nil && strings.TrimSpace(token) != "" {
		if what := notAToken(token); what != "" {
			return Claims{}, errors.New(what)
		}
	}
	return claims, err
}

func parseToken(token string) (Claims, error) {
	if strings.ContainsAny(token, " \t\r\n") {
		return Claims{}, errors.New("contains more than the token: there is white space in it")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return Claims{}, fmt.Errorf("is not a JWT: expected 3 parts, found %d", len(parts))
	}
	var header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}
	if err := decode(parts[0], &header); err != nil {
		return Claims{}, fmt.Errorf("is not a JWT: its header %v", err)
	}
	switch header.Algorithm {
	case "RS256", "RS384", "RS512", "ES256", "ES384", "ES512":
	default:
		return Claims{}, errors.New(strange(header.Algorithm))
	}
	var body struct {
		Issuer     string      `json:"iss"`
		Subject    string      `json:"sub"`
		Audience   audience    `json:"aud"`
		Expiration numericDate `json:"exp"`
		IssuedAt   numericDate `json:"iat"`
		NotBefore  numericDate `json:"nbf"`
		Kubernetes struct {
			Namespace      string `json:"namespace"`
			Pod            object `json:"pod"`
			ServiceAccount object `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	if err := decode(parts[1], &body); err != nil {
		return Claims{}, fmt.Errorf("is not a JWT: its claims part %v", err)
	}
	if parts[2] == "" {
		return Claims{}, errors.New("is not signed")
	}
	if _, err := base64.RawURLEncoding.DecodeString(parts[2]); err != nil {
		return Claims{}, errors.New("is not a JWT: its signature is not base64url")
	}
	odd := ""
	for _, date := range []struct {
		claim string
		date  numericDate
	}{{"exp", body.Expiration}, {"iat", body.IssuedAt}, {"nbf", body.NotBefore}} {
		if what := date.date.odd(); what != "" && odd == "" {
			odd = date.claim + " " + what
		}
	}
	return Claims{
		OddTime:   odd,
		Algorithm: header.Algorithm, KeyID: header.KeyID,
		Issuer: body.Issuer, Subject: body.Subject, Audience: body.Audience,
		Expiration: timeOf(json.Number(body.Expiration)), IssuedAt: timeOf(json.Number(body.IssuedAt)), NotBefore: timeOf(json.Number(body.NotBefore)),
		Namespace: body.Kubernetes.Namespace, ServiceAccount: body.Kubernetes.ServiceAccount.Name, Pod: body.Kubernetes.Pod.Name,
	}, nil
}

// object is a reference to a Kubernetes object.
type object struct {
	Name string `json:"name"`
}

// timeOf returns the time of a NumericDate, or zero if it is missing or invalid. STS accepts whole seconds only.
func timeOf(n json.Number) time.Time {
	seconds, err := n.Int64()
	if err != nil || seconds <= 0 || seconds > maxTime {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// decode decodes one part of a JWT. Its errors continue a sentence that begins with the name of the part.
func decode(part string, v any) error {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return errors.New("is not base64url")
	}
	err = json.Unmarshal(raw, v)
	if odd, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && odd.Field != "" {
		kind, _, _ := strings.Cut(odd.Value, " ")
		return fmt.Errorf("is not the JSON of a token: %s is of the type %s", odd.Field, kind) // both are words of encoding/json and of ours
	}
	if err != nil {
		return errors.New("is not the JSON of a token")
	}
	return nil
}

// audience is a string or a list of strings: RFC 7519, section 4.1.3.
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}
