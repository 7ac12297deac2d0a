// Package redact makes text of others fit to be shown: without secrets, on one line, and short. It does not know where the
// text comes from, and imports none of the other packages, so that every program may use it.
package redact

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// The forms in which a secret can appear in error texts of others: STS, proxies and gateways quote requests, headers and
// URLs, in pages, JSON and forms, and broken over several lines.
var (
	// A JWT, or an AWS session token, which is base64 with a known beginning; and the next line of either.
	tokenShape = shape{expression: `(?:eyJ[A-Za-z0-9_-]{8}|(?:IQoJ|FwoG|FQo[DG]|AQoD|AgoJ)(?:` + base64Character + `){8})` + tokenRest + `*`}
	lineShape  = shape{expression: `^(?:\s|\\[nrt]|%0[AaDd]|<br ?/?>)+(` + tokenRest + `+)`}

	// The user and the password in a URL. A slash in a password should be escaped, but often is not; digits before a
	// slash are a port.
	userShape = shape{expression: `(://)([^\s:/@?#"'<>\[\]]*)(:(?:[^\s/"'<>]*|[^\s"'<>0-9/][^\s"'<>]*))?@`}

	schemeShape        = shape{expression: `(?i)(\b(?:basic|bearer|negotiate|ntlm)(?:\s|%20)+)([A-Za-z0-9+/=_.~-]+)`}
	authorizationShape = shape{expression: `(?i)(authorization(?:_token)?` + fieldIs + `\[?(?:(?:basic|bearer)\s+)?)([^\s<>"'&,;\\\[\]]{16,})`}
	fieldShape         = shape{expression: `(?i)((?:secret_?access_?key|(?:session|web_?identity|x-amz-security)[_-]?token)` + fieldIs + `)[^\s<>"'&\\]+`}
	accessKeyShape     = shape{expression: `\b(A[KS]IA)[A-Z0-9]{8,}([A-Z0-9]{4})\b`}

	// An AWS secret key has exactly 40 base64 characters; requiring both boundaries leaves file names and issuer URLs
	// readable. A key may be the value of any name: NAME=KEY.
	secretKeyShape = shape{expression: `(^|[^A-Za-z0-9+/_.-])([A-Za-z0-9+/]{40})($|[^A-Za-z0-9+/=_.-])`}
)

// Mask is what is shown in place of a secret.
const Mask = "[redacted]"

const (
	secretKeyLength = 40

	base64Character = `[A-Za-z0-9+/=_-]|%2[BFbf]|%3[Dd]|&#43;`
	tokenRest       = `(?:\.|%2[Ee]|` + base64Character + `)`
	fieldIs         = `(?:\\?["']|&quot;|&#34;)?\s*(?:[>:=]|%3[Dd])\s*(?:\\?["']|&quot;|&#34;)?`
)

// shape is an expression that is compiled at its first use: all of them together take a good part of the program's start,
// and most texts need one.
type shape struct {
	expression string
	once       sync.Once
	compiled   *regexp.Regexp
}

func (s *shape) get() *regexp.Regexp {
	s.once.Do(func() { s.compiled = regexp.MustCompile(s.expression) })
	return s.compiled
}

// Scrub masks everything in text that has the form of a secret: tokens, also broken over lines, keys, Authorization
// headers, and passwords in URLs. It is a second line of defence: text that may contain a secret should not be kept at
// all. It takes time in proportion to the length of the text.
func Scrub(text string) string {
	// Most texts contain no secret, and searching for a word is cheap.
	low := strings.ToLower(text)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(low, word) })
	}
	if has("eyj", "iqoj", "fwog", "fqo", "aqod", "agoj") {
		text = scrubTokens(text)
	}
	if has("://") {
		text = replace(userShape.get(), text, func(groups []string) string {
			if groups[3] == "" && !random(groups[2]) {
				return groups[0]
			}
			return groups[1] + Mask + "@"
		})
	}
	if has("basic", "bearer", "negotiate", "ntlm") {
		text = replace(schemeShape.get(), text, func(groups []string) string {
			if value := strings.TrimRight(groups[2], "="); strings.Contains(value, "=") || !random(value) && !userAndPassword(value) {
				return groups[0]
			}
			return groups[1] + Mask
		})
	}
	if has("authorization") {
		text = authorizationShape.get().ReplaceAllString(text, "${1}"+Mask)
	}
	if has("secret", "token") {
		text = fieldShape.get().ReplaceAllString(text, "${1}"+Mask)
	}
	if has("akia", "asia") {
		text = accessKeyShape.get().ReplaceAllString(text, "${1}****${2}")
	}
	if !hasRun(text, secretKeyLength) {
		return text
	}
	return replace(secretKeyShape.get(), text, func(groups []string) string {
		if word, _, found := strings.Cut(strings.TrimPrefix(groups[2], "/"), "/"); (found && pathWord(word)) || !mixed(groups[2]) {
			return groups[0]
		}
		return groups[1] + Mask + groups[3]
	})
}

func scrubTokens(text string) string {
	var b strings.Builder
	for {
		at := tokenShape.get().FindStringIndex(text)
		if at == nil {
			return b.String() + text
		}
		b.WriteString(text[:at[0]] + "[token]")
		text = text[at[1]:]
		text = text[continued(text, at[1]-at[0]):]
	}
}

// replace replaces all matches of shape with the result of with, which is called with their groups.
func replace(shape *regexp.Regexp, text string, with func(groups []string) string) string {
	var b strings.Builder
	end := 0
	for _, at := range shape.FindAllStringSubmatchIndex(text, -1) {
		groups := make([]string, len(at)/2)
		for i := range groups {
			if at[2*i] >= 0 {
				groups[i] = text[at[2*i]:at[2*i+1]]
			}
		}
		b.WriteString(text[end:at[0]] + with(groups))
		end = at[1]
	}
	return b.String() + text[end:]
}

// continued returns how many bytes of text belong to a token that was broken into lines, the first of width bytes. A full
// line looks random, or is as long as the one before it. The last line has what is left, and is not a word.
func continued(text string, width int) (length int) {
	for lines := 1; ; lines++ {
		at := lineShape.get().FindStringSubmatchIndex(text[length:])
		if at == nil {
			return length
		}
		line := text[length+at[2] : length+at[3]]
		word := wordShape.get().MatchString(line)
		whole := len(line) >= 16 && (mixed(line) || len(line) == width && !word)
		if whole || lines > 1 && !word {
			length += at[1]
		}
		if !whole {
			return length
		}
		width = len(line)
	}
}

var wordShape = shape{expression: `^([A-Za-z]?[a-z]*\.?|[^A-Za-z0-9]*)$`}

// OneLine replaces every character that does not print with a blank: text of others must not break a line or control a
// terminal.
func OneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\uFFFD' || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

// Shorten returns text if it has at most most characters. Otherwise it returns the beginning and the end, and how many
// characters are missing between them, in at most most characters; the end stays because errors quote a value first and
// then say what is wrong with it. Call [Scrub] first: half a secret has no form.
func Shorten(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	half := (most - len("… (1234567 more) …")) / 2
	return fmt.Sprintf("%s… (%d more) …%s", string(runes[:half]), len(runes)-2*half, string(runes[len(runes)-half:]))
}

// hasRun reports whether text has a run of exactly this length of the characters of base64.
func hasRun(text string, length int) bool {
	n := 0
	for i := range len(text) {
		if c := text[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
			n++
		} else if n == length {
			return true
		} else {
			n = 0
		}
	}
	return n == length
}

// pathWord reports whether s is a directory of a path, or "role" in an ARN, rather than part of a random key.
func pathWord(s string) bool {
	return len(s) > 2 && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsLower(r) }) < 0
}

// mixed reports whether s has both cases and a digit, as all but one in a thousand random keys do.
func mixed(s string) bool {
	return strings.ContainsFunc(s, unicode.IsUpper) && strings.ContainsFunc(s, unicode.IsLower) && strings.ContainsFunc(s, unicode.IsDigit)
}

// random reports whether s was generated, unlike words and host names.
func random(s string) bool {
	return len(s) >= 8 && mixed(s) || len(s) >= 16 && strings.ContainsFunc(s, unicode.IsDigit)
}

// userAndPassword reports whether s is base64, without padding, of what the scheme Basic carries.
func userAndPassword(s string) bool {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(s)
	if len(s)%4 == 1 { // cut off
		s = s[:len(s)-1]
	}
	raw, err := base64.RawStdEncoding.DecodeString(s)
	return err == nil && bytes.ContainsRune(raw, ':') && utf8.Valid(raw) && !bytes.ContainsFunc(raw, unicode.IsControl)
}
