package cache

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The shapes in which a secret could stand in somebody else's error text: STS, proxies and gateways quote requests,
// headers and URLs, on pages, in JSON, in forms, and broken over several lines.
var (
	// A JWT, or a session token of AWS's, which is base64 of a few bytes that say so; and the next line of either.
	tokenShape = regexp.MustCompile(`(?:eyJ[A-Za-z0-9_-]{8}|(?:IQoJ|FwoG|FQo[DG]|AQoD|AgoJ)(?:` + base64Character + `){8})` + tokenRest + `*`)
	lineShape  = regexp.MustCompile(`^(?:\s|\\[nrt]|%0[AaDd]|<br ?/?>)+(` + tokenRest + `+)`)

	// The user and the password in a URL. A slash should be escaped in a password, and people forget it; but digits
	// before a slash are a port.
	userShape = regexp.MustCompile(`(://)([^\s:/@?#"'<>\[\]]*)(:(?:[^\s/"'<>]*|[^\s"'<>0-9/][^\s"'<>]*))?@`)

	schemeShape        = regexp.MustCompile(`(?i)(\b(?:basic|bearer|negotiate|ntlm)(?:\s|%20)+)([A-Za-z0-9+/=_.~-]+)`)
	authorizationShape = regexp.MustCompile(`(?i)(authorization(?:_token)?` + fieldIs + `\[?(?:(?:basic|bearer)\s+)?)([^\s<>"'&,;\\\[\]]{16,})`)
	fieldShape         = regexp.MustCompile(`(?i)((?:secret_?access_?key|(?:session|web_?identity|x-amz-security)[_-]?token)` + fieldIs + `)[^\s<>"'&\\]+`)
	accessKeyShape     = regexp.MustCompile(`\b(A[KS]IA)[A-Z0-9]{8,}([A-Z0-9]{4})\b`)

	// AWS makes a secret key of exactly 40 base64 characters; requiring both boundaries leaves file names and issuer
	// URLs readable.
	secretKeyShape = regexp.MustCompile(`(^|[^A-Za-z0-9+/=_.-])([A-Za-z0-9+/]{40})($|[^A-Za-z0-9+/=_.-])`)
)

const (
	base64Character = `[A-Za-z0-9+/=_-]|%2[BFbf]|%3[Dd]|&#43;`
	tokenRest       = `(?:\.|%2[Ee]|` + base64Character + `)`
	fieldIs         = `(?:\\?["']|&quot;|&#34;)?\s*(?:[>:=]|%3[Dd])\s*(?:\\?["']|&quot;|&#34;)?`
)

// Scrub masks whatever in text has the shape of a secret. It is the second lock: text that may hold
// a secret should not be kept in the first place. It takes time in proportion to the length of the text.
func Scrub(text string) string {
	// Most texts have nothing of the kind, and to look for a word costs little.
	low := strings.ToLower(text)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(low, word) })
	}
	if has("eyj", "iqoj", "fwog", "fqo", "aqod", "agoj") {
		text = scrubTokens(text)
	}
	if has("://") {
		text = replace(userShape, text, func(groups []string) string {
			if groups[3] == "" && !random(groups[2]) {
				return groups[0]
			}
			return groups[1] + redacted + "@"
		})
	}
	if has("basic", "bearer", "negotiate", "ntlm") {
		text = replace(schemeShape, text, func(groups []string) string {
			if value := strings.TrimRight(groups[2], "="); strings.Contains(value, "=") || !random(value) && !userAndPassword(value) {
				return groups[0]
			}
			return groups[1] + redacted
		})
	}
	if has("authorization") {
		text = authorizationShape.ReplaceAllString(text, "${1}"+redacted)
	}
	if has("secret", "token") {
		text = fieldShape.ReplaceAllString(text, "${1}"+redacted)
	}
	if has("akia", "asia") {
		text = accessKeyShape.ReplaceAllString(text, "${1}****${2}")
	}
	return replace(secretKeyShape, text, func(groups []string) string {
		if word, _, found := strings.Cut(groups[2], "/"); (found && pathWord(word)) || !mixed(groups[2]) {
			return groups[0]
		}
		return groups[1] + redacted + groups[3]
	})
}

func scrubTokens(text string) string {
	var b strings.Builder
	for {
		at := tokenShape.FindStringIndex(text)
		if at == nil {
			return b.String() + text
		}
		b.WriteString(text[:at[0]] + "[token]")
		text = text[at[1]:]
		text = text[continued(text, at[1]-at[0]):]
	}
}

// replace replaces what matches shape by what with makes of its groups.
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

// continued returns how much of text is the rest of a token that was broken into lines, the first of them of width
// bytes. A line of it looks random, or is as long as the one before. The last is what is left, and no word.
func continued(text string, width int) (length int) {
	for lines := 1; ; lines++ {
		at := lineShape.FindStringSubmatchIndex(text[length:])
		if at == nil {
			return length
		}
		line := text[length+at[2] : length+at[3]]
		word := wordShape.MatchString(line)
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

var wordShape = regexp.MustCompile(`^([A-Za-z]?[a-z]*\.?|[^A-Za-z0-9]*)$`)

// OneLine puts a blank for whatever does not print: text of others must not break a line, or steer a terminal.
func OneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\uFFFD' || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

// Shorten returns text, or its beginning and its end with how many characters are missing between, in at most so many
// characters in all. What is wrong with a long value is said behind it. Scrub text first: half a secret has no shape.
func Shorten(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	half := (most - len("… (1234567 more) …")) / 2
	return fmt.Sprintf("%s… (%d more) …%s", string(runes[:half]), len(runes)-2*half, string(runes[len(runes)-half:]))
}

// pathWord tells the beginning of a path, or of "role/" in an ARN, from that of a random key.
func pathWord(s string) bool {
	return len(s) > 2 && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsLower(r) }) < 0
}

// mixed reports whether s has both cases and a digit, as all but one in a thousand random keys do.
func mixed(s string) bool {
	return strings.ContainsFunc(s, unicode.IsUpper) && strings.ContainsFunc(s, unicode.IsLower) && strings.ContainsFunc(s, unicode.IsDigit)
}

// random tells what is generated from what is written: words, host names.
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
