package webidentity

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// jwt returns a token with this header and these claims, both JSON, and an invalid signature.
func jwt(header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(header)) + "." + encode([]byte(claims)) + ".c2lnbmF0dXJl"
}

func TestTokenFileIsReadOrItsFaultIsNamed(t *testing.T) {
	good := signedToken(t, ststest.Claims{Lifetime: time.Hour})
	expired := signedToken(t, ststest.Claims{Lifetime: -time.Hour})
	content := func(text string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	malformed, unreadable := cache.TokenFileMalformed, cache.TokenFileUnreadable
	for _, test := range []struct {
		name    string
		make    func(t *testing.T, path string)
		reason  cache.Reason // empty: it is read
		message string       // after "token file <path> "
		hint    string       // in which <path> is the path
		token   string
	}{
		{name: "a token", make: content(good), token: good},
		{name: "a token and a newline", make: content(good + "\n"), token: good},
		{name: "a token amid blanks", make: content(" \t" + good + "\r\n\r\n"), token: good},
		{name: "an expired token", make: content(expired), token: expired}, // by our clock; STS's decides
		{name: "the longest token", make: content(longToken(maxToken)), token: longToken(maxToken)},

		{name: "no file", make: func(*testing.T, string) {}, reason: cache.TokenFileMissing, message: "does not exist"},
		{name: "no directory", make: func(t *testing.T, path string) { os.Remove(filepath.Dir(path)) }, reason: cache.TokenFileMissing, message: "does not exist"},
		{name: "a link to nothing", make: func(t *testing.T, path string) { must(t, os.Symlink("gone", path)) }, reason: cache.TokenFileMissing, message: "is a link to gone, which does not exist"},
		{name: "a link to itself", make: func(t *testing.T, path string) { must(t, os.Symlink(path, path)) }, reason: unreadable, message: "cannot be read: its symbolic links lead back to themselves", hint: "mount the projected volume as a directory, and set AWS_WEB_IDENTITY_TOKEN_FILE to " + usualPath},
		{name: "a directory", make: func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, reason: unreadable, message: "is a directory, not a file", hint: "set AWS_WEB_IDENTITY_TOKEN_FILE to the token file in it, such as <path>/token"},
		{name: "a device", make: func(t *testing.T, path string) { must(t, os.Symlink("/dev/zero", path)) }, reason: unreadable, message: "is a device, not a regular file", hint: "set AWS_WEB_IDENTITY_TOKEN_FILE to the projected token, such as /var/run/secrets/eks.amazonaws.com/serviceaccount/token"},

		{name: "an empty file", make: content(""), reason: malformed, message: "is empty"},
		{name: "blanks", make: content(" \n\t\n"), reason: malformed, message: "is empty"},
		{name: "a mebibyte", make: content(strings.Repeat("a", 1<<20)), reason: malformed, message: "is longer than the 20000 characters that STS accepts"},
		{name: "a token too long by one", make: content(longToken(maxToken + 1)), reason: malformed, message: "is longer than the 20000 characters that STS accepts"},
		{name: "two tokens in lines", make: content(good + "\n" + good), reason: malformed, message: "contains 2 tokens; it must contain one"},
		{name: "two tokens in a row", make: content(good + good), reason: malformed, message: "contains 2 tokens in a row; it must contain one"},
		{name: "a token and a log line", make: content(good + "\nI0101 rotated"), reason: malformed, message: "contains more than the token: there is text after it"},
		{name: "a header of HTTP's", make: content("Bearer " + good), reason: malformed, message: "begins with the name of an HTTP header or Bearer; the file must contain the token alone"},
		{name: "a path", make: content("/var/run/secrets/token"), reason: malformed, message: "contains a path; AWS_WEB_IDENTITY_TOKEN_FILE must be that path itself"},
		{name: "half a token", make: content(good[:strings.LastIndexByte(good, '.')]), reason: malformed, message: "is not a JWT: expected 3 parts, found 2"},
		{name: "an encrypted token", make: content("a.b.c.d.e"), reason: malformed, message: "is not a JWT: expected 3 parts, found 5"},
		{name: "dots", make: content(".."), reason: malformed, message: "is not a JWT: its header is not the JSON of a token"},
		{name: "no base64url", make: content("a+b.c.d"), reason: malformed, message: "is not a JWT: its header is not base64url"},
		{name: "claims that are no base64url", make: content("eyJhbGciOiJSUzI1NiJ9.*.d"), reason: malformed, message: "is not a JWT: its claims part is not base64url"},
		{name: "a signature that is no base64url", make: content(good + "\""), reason: malformed, message: "ends with a quote; the file must contain the token alone"},
		{name: "no JSON", make: content("YWJj.YWJj.YWJj"), reason: malformed, message: "is not a JWT: its header is not the JSON of a token"},
		{name: "claims that are no object", make: content(jwt(`{"alg":"RS256"}`, `["a"]`)), reason: malformed, message: "is not a JWT: its claims part is not the JSON of a token"},
		{name: "claims of other types", make: content(jwt(`{"alg":"RS256"}`, `{"iss":1}`)), reason: malformed, message: "is not a JWT: its claims part is not the JSON of a token: iss is of the type number"},
		{name: "no algorithm", make: content(jwt(`{"alg":"none"}`, `{}`)), reason: malformed, message: "is not signed (its algorithm is none)"},
		{name: "a shared key", make: content(jwt(`{"alg":"HS256"}`, `{}`)), reason: malformed, message: "is signed with HS256, which STS does not accept; it accepts RS256, RS384, RS512, ES256, ES384 and ES512"},
		{name: "an algorithm that is none", make: content(jwt(`{"alg":"the-password"}`, `{}`)), reason: malformed, message: "is signed with an algorithm that STS does not accept; it accepts RS256, RS384, RS512, ES256, ES384 and ES512"},
		{name: "no algorithm at all", make: content(jwt(`{}`, `{}`)), reason: malformed, message: "does not say with which algorithm it is signed; STS requires one: it accepts RS256, RS384, RS512, ES256, ES384 and ES512"},
		{name: "a token in lines of 64", make: content(wrapped(good, 64, "\n")), reason: malformed, message: fmt.Sprintf("contains a token in %d pieces; a token is one line without blanks", (len(good)+63)/64)},
		{name: "a token in two lines", make: content(good[:len(good)-20] + "\r\n" + good[len(good)-20:]), reason: malformed, message: "contains a token in 2 pieces; a token is one line without blanks"},
		{name: "a token with a blank in it", make: content(good[:50] + " " + good[50:]), reason: malformed, message: "contains a token in 2 pieces; a token is one line without blanks"},
		{name: "a log line and a token", make: content("I0101 rotated\n" + good), reason: malformed, message: "contains more than the token: there is text before it"},
		{name: "words", make: content("not a token"), reason: malformed, message: "contains more than the token: there is white space in it"},
		{name: "an Authorization header", make: content("authorization: bearer " + good), reason: malformed, message: "begins with the name of an HTTP header or Bearer; the file must contain the token alone"},
		{name: "a token in quotes", make: content("\"" + good + "\"\n"), reason: malformed, message: "begins with a quote; the file must contain the token alone"},
		{name: "a byte order mark", make: content("\ufeff" + good), reason: malformed, message: "begins with a byte order mark (BOM); the file must contain the token alone"},
		{name: "UTF-16", make: content("\xff\xfee\x00y\x00J\x00"), reason: malformed, message: "is in UTF-16; a token is plain ASCII text"},
		{name: "UTF-16 without its mark", make: content("e\x00y\x00J\x00"), reason: malformed, message: "is in UTF-16; a token is plain ASCII text"},
		{name: "bytes", make: content("\x1f\x8b\x08\x00\xff"), reason: malformed, message: "is binary, not a token"},
		{name: "padding", make: content(padded(good, "=")), reason: malformed, message: "is padded with =, which a token is not"},
		{name: "encoded padding", make: content(padded(good, "%3D")), reason: malformed, message: "is padded with =, which a token is not"},
		{name: "base64 instead of base64url", make: content(jwt(`{"alg":"RS256"}`, `{}`) + "+/"), reason: malformed, message: "is in base64; a token is in base64url, which has - and _ instead of + and /"},
		{name: "a token of a Secret's manifest", make: content(base64.StdEncoding.EncodeToString([]byte(good))), reason: malformed, message: "is encoded in base64 once more, as in the manifest of a Secret"},
		{name: "a certificate", make: content("-----BEGIN CERTIFICATE-----\nMIIB\n"), reason: malformed, message: "is a certificate or a key (PEM), not a token"},
		{name: "a kubeconfig", make: content("apiVersion: v1\nkind: Config\nusers: []\n"), reason: malformed, message: "is a kubeconfig, not a token"},
		{name: "a Secret", make: content("apiVersion: v1\nkind: Secret\ndata: {}\n"), reason: malformed, message: "is a manifest (YAML), not a token"},
		{name: "a TokenRequest", make: content(`{"kind": "TokenRequest", "status": {"token": "` + good + `"}}`), reason: malformed, message: "is JSON; the file must contain the token alone"},
		{name: "a page", make: content("<!doctype html>"), reason: malformed, message: "is a page of HTML or XML, not a token"},
		{name: "an opaque token", make: content("sha256~Z29vZA"), reason: malformed, message: "is not a JWT: expected 3 parts, found 1"},
		{name: "a JWE", make: content(jwt(`{"alg":"RSA-OAEP","enc":"A256GCM"}`, `{}`) + ".x.y"), reason: malformed, message: "is an encrypted token (JWE); STS accepts only signed ones"},
		{name: "an audience of another type", make: content(jwt(`{"alg":"RS256"}`, `{"aud":{}}`)), reason: malformed, message: "is not a JWT: its claims part is not the JSON of a token: aud is of the type object"},
		{name: "a subject of another type", make: content(jwt(`{"alg":"RS256"}`, `{"sub":["a"]}`)), reason: malformed, message: "is not a JWT: its claims part is not the JSON of a token: sub is of the type array"},
		{name: "no signature", make: content(good[:strings.LastIndexByte(good, '.')+1]), reason: malformed, message: "is not signed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			test.make(t, path)
			token, claims, err := ReadToken(path)
			if test.reason == "" {
				if err != nil || token != test.token {
					t.Errorf("read %q, %v", token, err)
				}
				return
			}
			failure, ok := err.(*cache.FetchError)
			if !ok {
				t.Fatalf("read %q, %v, want %s", token, err, test.reason)
			}
			if want := "token file " + path + " " + test.message; failure.Reason != test.reason || failure.Message != want {
				t.Errorf("failed with\n%s: %s\nwant\n%s: %s", failure.Reason, failure.Message, test.reason, want)
			}
			if want := strings.ReplaceAll(test.hint, "<path>", path); failure.Hint != want {
				t.Errorf("the hint is %q, want %q", failure.Hint, want)
			}
			if failure.Reason.Class() != cache.StaleToken {
				t.Errorf("%s is of class %s: another file fixes it", failure.Reason, failure.Reason.Class())
			}
			if token != "" || claims.Issuer != "" {
				t.Error("a token came along with the failure")
			}
		})
	}
}

// wrapped breaks a text into lines.
func wrapped(text string, width int, separator string) string {
	var lines []string
	for len(text) > width {
		lines, text = append(lines, text[:width]), text[width:]
	}
	return strings.Join(append(lines, text), separator)
}

// padded pads each part of a token, and its signature at least once.
func padded(token, with string) string {
	parts := strings.Split(token, ".")
	for i, part := range parts {
		parts[i] += strings.Repeat(with, (4-len(part)%4)%4)
	}
	return strings.Join(parts, ".") + with
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// longToken returns a well-formed token of exactly n characters.
func longToken(n int) string {
	token := jwt(`{"alg":"ES256"}`, `{}`)
	return token + strings.Repeat("A", n-len(token))
}

func TestFetchSaysWhatIsWrongWithTheFile(t *testing.T) {
	s := stage(t, tweak{})
	must(t, os.Remove(s.file.Path()))
	s.mustFail(t, cache.TokenFileMissing, "token file "+s.file.Path()+" does not exist")
	if s.sts.Calls() != 0 {
		t.Error("STS was asked without a token")
	}
}

// The kubelet replaces the directory while it is read. A reader never sees a failure or a part of a token.
func TestRotationIsNotNoticedByReaders(t *testing.T) {
	file, err := ststest.NewTokenFile(t.TempDir())
	must(t, err)
	tokens := []string{signedToken(t, ststest.Claims{Pod: "a"}), signedToken(t, ststest.Claims{Pod: strings.Repeat("b", 200)})}
	must(t, file.Write(tokens[0]))

	rotated := make(chan error, 1)
	go func() {
		for i := range 300 {
			if err := file.Write(tokens[i%2]); err != nil {
				rotated <- err
				return
			}
		}
		rotated <- nil
	}()
	for seen := make(map[string]int); ; {
		select {
		case err := <-rotated:
			must(t, err)
			if len(seen) != 2 {
				t.Errorf("the readers saw %d of the tokens: nothing has been tested", len(seen))
			}
			return
		default:
		}
		token, _, err := ReadToken(file.Path())
		if err != nil {
			t.Fatal(err)
		}
		if seen[token]++; token != tokens[0] && token != tokens[1] {
			t.Fatal("read what nobody has written")
		}
	}
}

func TestClaimsAreRead(t *testing.T) {
	const header = `{"alg":"RS256","kid":"k"}`
	for _, test := range []struct {
		name, claims string
		want         Claims
	}{
		{"none", `{}`, Claims{}},
		{"null", `null`, Claims{}},
		{
			"a kubelet's",
			`{"aud":["sts.amazonaws.com"],"exp":1582306514,"iat":1582220114,"iss":"https://oidc.eks.us-west-2.amazonaws.com/id/D43C","sub":"system:serviceaccount:shop:cart",
			  "kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"cart","uid":"u"},"pod":{"name":"cart-0","uid":"u"},"node":{"name":"n","uid":"u"},"warnafter":0}}`,
			Claims{Issuer: "https://oidc.eks.us-west-2.amazonaws.com/id/D43C", Subject: "system:serviceaccount:shop:cart", Audience: []string{"sts.amazonaws.com"},
				Expiration: time.Date(2020, 2, 21, 17, 35, 14, 0, time.UTC), IssuedAt: time.Date(2020, 2, 20, 17, 35, 14, 0, time.UTC),
				Namespace: "shop", ServiceAccount: "cart", Pod: "cart-0"},
		},
		{"one audience", `{"aud":"a"}`, Claims{Audience: []string{"a"}}},
		{"two audiences", `{"aud":["a","b"]}`, Claims{Audience: []string{"a", "b"}}},
		{"no audience", `{"aud":[]}`, Claims{}},
		{"no time", `{"exp":null}`, Claims{}},
		{"the other times", `{"iat":1582220114,"nbf":1582220115}`, Claims{
			IssuedAt: time.Date(2020, 2, 20, 17, 35, 14, 0, time.UTC), NotBefore: time.Date(2020, 2, 20, 17, 35, 15, 0, time.UTC)}},
		{"the last time that can be written", `{"exp":253402300799}`, Claims{Expiration: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}},
		{"a time with a fraction", `{"exp":1582306514.5}`, Claims{OddTime: "exp is 1582306514.5, which has a fraction or an exponent; STS accepts whole seconds"}},
		{"a time with a fraction of nothing", `{"iat":1582306514.0}`, Claims{OddTime: "iat is 1582306514.0, which has a fraction or an exponent; STS accepts whole seconds"}},
		{"a time with an exponent", `{"exp":1.5e9}`, Claims{OddTime: "exp is 1.5e9, which has a fraction or an exponent; STS accepts whole seconds"}},
		{"a time in milliseconds", `{"exp":1582306514000}`, Claims{OddTime: "exp is 1582306514000, which is in milliseconds; it must be in seconds"}},
		{"a time that cannot be written", `{"exp":253402300800}`, Claims{OddTime: "exp is 253402300800, which is in milliseconds; it must be in seconds"}},
		{"a time in microseconds", `{"nbf":1582306514000000}`, Claims{OddTime: "nbf is 1582306514000000, which is in microseconds; it must be in seconds"}},
		{"a time in nanoseconds", `{"iat":1582306514000000000}`, Claims{OddTime: "iat is 1582306514000000000, which is in nanoseconds; it must be in seconds"}},
		{"a time beyond all", `{"exp":9223372036854775807}`, Claims{OddTime: "exp is 9223372036854775807, which is in nanoseconds; it must be in seconds"}},
		{"a time beyond that", `{"exp":9223372036854775808}`, Claims{OddTime: "exp is 9223372036854775808, which is in nanoseconds; it must be in seconds"}},
		{"a time of many digits", `{"exp":` + strings.Repeat("9", 31) + `}`, Claims{OddTime: "exp is no time"}},
		{"a time before all", `{"exp":-1}`, Claims{OddTime: "exp is -1, which is before 1970"}},
		{"the first of all times", `{"exp":0}`, Claims{OddTime: "exp is 0, which is before 1970"}},
		{"a time that is a string", `{"exp":"1582306514"}`, Claims{OddTime: "exp is a string and not a number"}},
		{"a date", `{"exp":"2030-01-01T00:00:00Z"}`, Claims{OddTime: "exp is a string and not a number"}},
		{"a time that is a list", `{"iat":[1]}`, Claims{OddTime: "iat is not a number"}},
		{"a time that is true", `{"nbf":true}`, Claims{OddTime: "nbf is not a number"}},
		{"two such times", `{"exp":-1,"iat":"x"}`, Claims{OddTime: "exp is -1, which is before 1970"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseToken(jwt(header, test.claims))
			if err != nil {
				t.Fatal(err)
			}
			test.want.Algorithm, test.want.KeyID = "RS256", "k"
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", test.want) {
				t.Errorf("read %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestAlgorithmsAreThoseThatSTSTakes(t *testing.T) {
	for _, test := range []struct {
		algorithms string
		taken      bool
	}{
		{"RS256 RS384 RS512 ES256 ES384 ES512", true},
		{"none None HS256 HS512 PS256 PS512 EdDSA ES256K rs256 RS2560", false},
	} {
		for algorithm := range strings.FieldsSeq(test.algorithms) {
			if _, err := ParseToken(jwt(fmt.Sprintf(`{"alg":%q}`, algorithm), `{}`)); (err == nil) != test.taken {
				t.Errorf("%s: %v", algorithm, err)
			}
		}
	}
}

// What is wrong with the path itself. DIR is a directory with the file "token" in it.
func TestAWrongPathIsNamed(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "token"), []byte("x"), 0o600))
	working, err := os.Getwd()
	must(t, err)
	const set, whole = "set AWS_WEB_IDENTITY_TOKEN_FILE to ", "write the whole path in AWS_WEB_IDENTITY_TOKEN_FILE, such as " + usualPath
	for path, want := range map[string]string{
		"DIR/token ":        `TokenFileMissing: token file "DIR/token " does not exist: the path ends with a blank; ` + set + "DIR/token",
		" DIR/token":        `TokenFileMissing: token file " DIR/token" does not exist: the path begins with a blank; ` + set + "DIR/token",
		"DIR/token\n":       `TokenFileMissing: token file "DIR/token\n" does not exist: the path ends with a line break; ` + set + "DIR/token",
		"DIR/token\r\n":     `TokenFileMissing: token file "DIR/token\r\n" does not exist: the path ends with a line break; ` + set + "DIR/token",
		"\"DIR/token\"":     `TokenFileMissing: token file "\"DIR/token\"" does not exist: the path is in quotes; ` + set + "DIR/token",
		"'DIR/token'":       `TokenFileMissing: token file "'DIR/token'" does not exist: the path is in quotes; ` + set + "DIR/token",
		"DIR/to\u200bken":   `TokenFileMissing: token file "DIR/to\u200bken" does not exist: the path contains the invisible character U+200B; ` + set + "DIR/token",
		"DIR/token/token ":  `TokenFileMissing: token file "DIR/token/token " does not exist: the path ends with a blank; ` + set + "DIR/token/token",
		"~/token":           "TokenFileMissing: token file ~/token does not exist: no shell has replaced ~, $ or % in its path; " + whole,
		"$HOME/token":       "TokenFileMissing: token file $HOME/token does not exist: no shell has replaced ~, $ or % in its path; " + whole,
		"DIR/${NAME}/token": "TokenFileMissing: token file DIR/${NAME}/token does not exist: no shell has replaced ~, $ or % in its path; " + whole,
		"token":             "TokenFileMissing: token file token does not exist: the path is relative to " + working + "; " + whole,
		"./a/token":         "TokenFileMissing: token file ./a/token does not exist: the path is relative to " + working + "; " + whole,
		"file://DIR/token":  "TokenFileMissing: token file file://DIR/token does not exist: the path is a URL; " + set + "DIR/token",
		"DIR/tokens":        "TokenFileMissing: token file DIR/tokens does not exist; ",
		"DIR/token/token":   "TokenFileUnreadable: token file DIR/token/token cannot be read: DIR/token is a file and not a directory; " + set + "DIR/token",
		"DIR/token/a/b":     "TokenFileUnreadable: token file DIR/token/a/b cannot be read: DIR/token is a file and not a directory; " + set + "DIR/token",
		"DIR":               "TokenFileUnreadable: token file DIR is a directory, not a file; set AWS_WEB_IDENTITY_TOKEN_FILE to the token file in it, such as DIR/token",
		"DIR/" + strings.Repeat("a", 300): fmt.Sprintf("TokenFileUnreadable: token file DIR/%s cannot be read: a path of %d characters, or a name in it, is longer than the system allows; ",
			strings.Repeat("a", 300), len(dir)+301) + set + usualPath,
	} {
		_, _, err := ReadToken(strings.ReplaceAll(path, "DIR", dir))
		got := fmt.Sprintf("%v; %s", err, cache.AsFetchError(err).Hint)
		if got = strings.ReplaceAll(got, dir, "DIR"); got != want {
			t.Errorf("%q: %s\nwant %s", path, got, want)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "with a blank "), []byte(longToken(200)), 0o600))
	if _, _, err := ReadToken(filepath.Join(dir, "with a blank ")); err != nil {
		t.Errorf("a file of that name: %v", err)
	}
}
