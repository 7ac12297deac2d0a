package webidentity

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// notAToken says what a text is that is not a token, as a predicate, or "" if it is nothing that people often have in its
// place. It quotes nothing of the text.
func notAToken(text string) string {
	words := strings.Fields(text)
	switch {
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"), strings.HasPrefix(text, "e\x00y\x00"):
		return "is in UTF-16; a token is plain ASCII text"
	case strings.HasPrefix(text, "\ufeff"):
		return "begins with a byte order mark (BOM); the file must contain the token alone"
	case !utf8.ValidString(text), strings.Contains(text, "\x00"):
		return "is binary, not a token"
	case strings.ContainsAny(text[:1], "\"'`"):
		return "begins with a quote; the file must contain the token alone"
	case strings.ContainsAny(text[len(text)-1:], "\"'`"):
		return "ends with a quote; the file must contain the token alone"
	case strings.EqualFold(strings.TrimSuffix(words[0], ":"), "Authorization"), strings.EqualFold(words[0], "Bearer"):
		return "begins with the name of an HTTP header or Bearer; the file must contain the token alone"
	case strings.HasPrefix(text, "-----BEGIN"):
		return "is a certificate or a key (PEM), not a token"
	case strings.HasPrefix(text, "{"), strings.HasPrefix(text, "["):
		return "is JSON; the file must contain the token alone"
	case strings.HasPrefix(text, "<"):
		return "is a page of HTML or XML, not a token"
	case strings.Contains(text, "kind: Config") && strings.Contains(text, "apiVersion:"):
		return "is a kubeconfig, not a token"
	case strings.Contains(text, "apiVersion:"):
		return "is a manifest (YAML), not a token"
	case text[0] == '/' && len(words) == 1:
		return "contains a path; AWS_WEB_IDENTITY_TOKEN_FILE must be that path itself"
	case len(words) > 1:
		return severalWords(words)
	}
	return otherEncoding(text)
}

func isToken(text string) bool {
	_, err := parseToken(text)
	return err == nil
}

// isWhole reports whether text is a token whose signature has the length of its algorithm's, or more: RSA's keys are longer
// than the least that is secure. The first line of a token in several lines may look like a token too.
func isWhole(text string) bool {
	claims, err := parseToken(text)
	least := map[string]int{"ES256": 64, "ES384": 96, "ES512": 132}[claims.Algorithm]
	if least == 0 {
		least = 256
	}
	return err == nil && base64.RawURLEncoding.DecodedLen(len(text)-strings.LastIndexByte(text, '.')-1) >= least
}

// severalWords is [notAToken] for a text with white space in it.
func severalWords(words []string) string {
	tokens := 0
	for _, word := range words {
		if isWhole(word) {
			tokens++
		}
	}
	switch {
	case tokens > 1:
		return fmt.Sprintf("contains %d tokens; it must contain one", tokens)
	case tokens == 1 && isWhole(words[0]):
		return "contains more than the token: there is text after it"
	case tokens == 1:
		return "contains more than the token: there is text before it"
	case isToken(strings.Join(words, "")):
		return fmt.Sprintf("contains a token in %d pieces; a token is one line without blanks", len(words))
	}
	return ""
}

// otherEncoding is [notAToken] for a single word.
func otherEncoding(text string) string {
	bare := strings.NewReplacer("=", "", "%3D", "", "%3d", "").Replace(text)
	switch {
	case bare != text && isToken(bare):
		return "is padded with =, which a token is not"
	case isToken(strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(text)):
		return "is in base64; a token is in base64url, which has - and _ instead of + and /"
	}
	if raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "=")); err == nil && isToken(strings.TrimSpace(string(raw))) {
		return "is encoded in base64 once more, as in the manifest of a Secret"
	}
	parts := strings.Split(text, ".")
	if len(parts) == 5 {
		if i := strings.LastIndex(parts[2], "eyJ"); i > 0 && isToken(parts[0]+"."+parts[1]+"."+parts[2][:i]) {
			return "contains 2 tokens in a row; it must contain one"
		}
		var header struct {
			Encryption string `json:"enc"`
		}
		if decode(parts[0], &header) == nil && header.Encryption != "" {
			return "is an encrypted token (JWE); STS accepts only signed ones"
		}
	}
	return ""
}

// strange says why STS does not accept an algorithm, as a predicate. It names only known algorithms: others may be anything.
func strange(algorithm string) string {
	const accepted = "it accepts RS256, RS384, RS512, ES256, ES384 and ES512"
	switch algorithm {
	case "":
		return "does not say with which algorithm it is signed; STS requires one: " + accepted
	case "none":
		return "is not signed (its algorithm is none)"
	case "HS256", "HS384", "HS512", "PS256", "PS384", "PS512", "EdDSA", "ES256K":
		return "is signed with " + algorithm + ", which STS does not accept; " + accepted
	}
	return "is signed with an algorithm that STS does not accept; " + accepted
}

// numericDate is a time as it is written in a token: RFC 7519, section 2. It may be anything.
type numericDate string

func (n *numericDate) UnmarshalJSON(b []byte) error {
	if *n = numericDate(b); *n == "null" {
		*n = ""
	}
	return nil
}

// odd says what is wrong with a time that is there and is not one, as a predicate, or "".
func (n numericDate) odd() string {
	if n == "" || !timeOf(json.Number(n)).IsZero() {
		return ""
	}
	var number json.Number
	if n[0] == '"' {
		return "is a string and not a number"
	}
	if json.Unmarshal([]byte(n), &number) != nil {
		return "is not a number"
	}
	if len(n) > 30 {
		return "is no time"
	}
	seconds, err := number.Int64()
	switch {
	case err != nil && strings.ContainsAny(string(n), ".eE"):
		return fmt.Sprintf("is %s, which has a fraction or an exponent; STS accepts whole seconds", n)
	case err == nil && seconds <= 0:
		return fmt.Sprintf("is %s, which is before 1970", n)
	case seconds >= 1e17:
		return fmt.Sprintf("is %s, which is in nanoseconds; it must be in seconds", n)
	case seconds >= 1e14:
		return fmt.Sprintf("is %s, which is in microseconds; it must be in seconds", n)
	case seconds > maxTime:
		return fmt.Sprintf("is %s, which is in milliseconds; it must be in seconds", n)
	}
	return fmt.Sprintf("is %s, which is no time", n)
}
