package redact

import (
	"encoding/base64"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	secretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	token     = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2V4YW1wbGUifQ.c2lnbmF0dXJl"
)

// session is like an AWS session token, except for its length.
const session = "IQoJb3JpZ2luX2VjEPT//////////wEaCXVzLWVhc3QtMSJHMEUCIQDnyL6+fZ0AbCdEfGhIjKlMnOpQrStUvWxYz0123456789+/=="

func TestScrub(t *testing.T) {
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass"))
	for _, row := range []struct{ in, want string }{
		{"", ""},
		{"token " + token + " refused", "token [token] refused"},
		{"token " + token[:40], "token [token]"},
		{"key ASIAIOSFODNN7EXAMPLE refused", "key ASIA****MPLE refused"},
		{"secret " + secretKey + ".", "secret " + secretKey + "."}, // followed by a dot it may be a file's name
		{"secret " + secretKey, "secret [redacted]"},
		{`"` + secretKey + `"`, `"[redacted]"`},
		{"<SecretAccessKey>abc/def</SecretAccessKey>", "<SecretAccessKey>[redacted]</SecretAccessKey>"},
		{`"SessionToken": "FwoGZXIvYXdzE"`, `"SessionToken": "[redacted]"`},
		{"WebIdentityToken=abc&Version=2011-06-15", "WebIdentityToken=[redacted]&Version=2011-06-15"},
		{"AWS_PROFILE=" + secretKey + ": such a profile", "AWS_PROFILE=[redacted]: such a profile"},
		{"AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_SECRET_ACCESS_KEY=[redacted]"},
		{`{\"secretAccessKey\": \"minio123\", \"region\": \"\"}`, `{\"secretAccessKey\": \"[redacted]\", \"region\": \"\"}`},
		{"&quot;SessionToken&quot;:&quot;abc&quot;", "&quot;SessionToken&quot;:&quot;[redacted]&quot;"},
		{"X-Amz-Security-Token%3Dabc&X-Amz-Date=1", "X-Amz-Security-Token%3D[redacted]&X-Amz-Date=1"},

		// AWS session tokens, with every known beginning.
		{"the token " + session + " has expired", "the token [token] has expired"},
		{"FwoGZXIvYXdzEBYaDHqa0AP", "[token]"}, {"FQoGZXIvYXdzEBYaDHqa0AP", "[token]"}, {"FQoDYXdzEBYaDHqa0AP", "[token]"},
		{"AQoDYXdzEPT4VXFdRz", "[token]"}, {"AgoJb3JpZ2luX2VjEEYaCW", "[token]"},
		// In several lines, of which the first is shorter.
		{"WebIdentityToken: " + token[:30] + "\r\n " + token[30:] + "\r\nrefused", "WebIdentityToken: [redacted]\r\nrefused"},
		{"eyJhbGciOiJSUzI1NiJ9\n.eyJpc3MiOiJodHRwczovL2V4YW1wbGUifQ\n.c2lnbmF0dXJl\nrefused", "[token]\nrefused"},
		{"x=" + url.QueryEscape(session) + "&y=1", "x=[token]&y=1"},
		{"<i>" + strings.ReplaceAll(session, "+", "&#43;") + "</i>", "<i>[token]</i>"},

		// The Authorization header, and what looks like one.
		{basic, "Basic [redacted]"},
		{"proxy-authorization: " + strings.ToLower(basic[:5]) + basic[5:] + "\r\nVia: 1.1 squid", "proxy-authorization: basic [redacted]\r\nVia: 1.1 squid"},
		{strings.Replace(basic, " ", "%20", 1), "Basic%20[redacted]"},
		{"sent Basic dTpw", "sent Basic [redacted]"}, // u:p
		{"Basic dXNlcjpwYXN", "Basic [redacted]"},    // cut off
		{"Bearer q7Jx3l0vV9m1Zr8cT5bN2sKf", "Bearer [redacted]"},
		{"bearer 1f0c6a3e-8d5b-4c1e-9a57-2b1f4f0e6d11", "bearer [redacted]"},
		{"Bearer " + token, "Bearer [token]"},
		{"Negotiate YIIZ2pQYGKwYBBQUCoIIZmTCC refused", "Negotiate [redacted] refused"},
		{"map[Authorization:[1f0c6a3e-8d5b-4c1e-9a57-2b1f4f0e6d11] Host:[x]]", "map[Authorization:[[redacted]] Host:[x]]"},
		{"AWS_CONTAINER_AUTHORIZATION_TOKEN=1f0c6a3e-8d5b-4c1e-9a57-2b1f4f0e6d11 HOME=/", "AWS_CONTAINER_AUTHORIZATION_TOKEN=[redacted] HOME=/"},

		// Users and passwords in URLs.
		{"http://me:hunter2@proxy.example:3128/x", "http://[redacted]@proxy.example:3128/x"},
		{`parse "http://me:hunter/2@proxy:3128": invalid port ":hunter" after host`, `parse "http://[redacted]@proxy:3128": invalid port ":hunter" after host`},
		{"socks5://me:p@ss:w@proxy, http://a:b@c", "socks5://[redacted]@proxy, http://[redacted]@c"},
		{"http://a:1,http://me:hunter2@b:2", "http://a:1,http://[redacted]@b:2"},
		{"https://ghp_16C7e42F292c6912E7710c838347Ae178B4a@github.com/x", "https://[redacted]@github.com/x"},
		{"https://16C7e42F292c6912E771:@git.example", "https://[redacted]@git.example"},
	} {
		if got := Scrub(row.in); got != row.want {
			t.Errorf("Scrub(%q) = %q, want %q", row.in, got, row.want)
		}
	}
}

// What people need to fix something stays.
func TestScrubLeavesWhatIsNoSecret(t *testing.T) {
	for _, text := range []string{
		"/var/run/secrets/eks.amazonaws.com/serviceaccount/token",
		"/proc/1/root/Applications/MyApp2/Contents/Resources/token.json",
		"/tmp/TestGenerate3450760352/001/tebibyte",
		"No OpenIDConnect provider found in your account for https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE",
		"arn:aws:iam::111122223333:role/AnApplicationRoleOfThirtyFiveChars1",
		"arn:aws:iam::111122223333:role/a-role-with-a-rather-long-name-of-its-own",
		"arn:aws:sts::111122223333:assumed-role/App2Role/shop.api-7c9f8d6b5-x2x4z",
		"arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE",
		"sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709",
		"irsa-sidecar@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"StatusCode: 403, RequestID: c6104cbe-af31-11e0-8154-cbc7ccf896c7, x-amz-id-2: none",
		"system:serviceaccount:shop:cart", "shop.api-7c9f8d6b5-x2x4z", "STS in eu-west-1 did not answer in time",
		"no such host: sts.eu-west-1.amazonaws.com", "no such host: nl2g4q3x5fvwc6hrtjkze7ypda.gateway.example",
		"lookup vpce-0a1b2c3d4e5f6a7b8-9c0d1e2f.sts.eu-west-1.vpce.amazonaws.com on 10.100.0.10:53: no such host",
		"dial tcp [fd00:ec2::23]:443: connect: connection refused", "HTTP 407, text/html: <title>407 Proxy Authentication Required</title>",
		`Proxy-Authenticate: Basic realm="Squid proxy-caching web server 5"`, "WWW-Authenticate: Basic realm=Gateway2Login",
		`WWW-Authenticate: Bearer realm="https://auth.example/token",service="registry.example",error="invalid_token"`,
		"Basic authentication required", "Basic Options, and the Basic Overview", "basic auth is not supported", "a Bearer token is missing", "bearer authentication with OAuth2",
		"the request has no Authorization header", "Authorization: none", "AUTHORIZATION_TOKEN_FILE=/run/irsa-sidecar/authorization-token",
		"https://127.0.0.1:9911/v1/credentials", "http://proxy.example:3128", "http://[::1]:9911/x@y", "https://host:443/path?mail=me@example.com",
		"https://registry.example/@scope/package", "ssh://git@git.example/repo", "mail to ops@example.com or sip:ops@example.com",
		"the role's session name is shop.api-0@eu-west-1", "AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/secrets/irsa-sidecar/token",
		"the SessionToken is missing, and so is the SecretAccessKey", "1 validation error detected: Value null at 'webIdentityToken' failed to satisfy constraint",
		"-----BEGIN CERTIFICATE-----", "x509: certificate is valid for *.execute-api.eu-west-1.amazonaws.com, not sts.eu-west-1.amazonaws.com",
		"IQoJ", "the FwoG prefix", "AKIA", "eyJ", "MaxSessionDuration", "2026-01-02T15:04:05Z", "[token] [redacted]",
	} {
		if got := Scrub(text); got != text {
			t.Errorf("Scrub(%q) = %q", text, got)
		}
	}
	// The text beside a secret stays too.
	for _, beside := range []string{
		" refused", " sts.eu-west-1.amazonaws.com refused it", "\nAssumeRoleWithWebIdentity failed", "\r\nEXAMPLED539D4633E53DE1B71EXAMPLE is the issuer",
		" c6104cbe-af31-11e0-8154-cbc7ccf896c7", " 403 Forbidden", " MyRole2 refused", ": expired", "\nThe end.", " /var/run/secrets/eks.amazonaws.com/serviceaccount/token",
	} {
		for _, secret := range []string{token, session} {
			if got := Scrub("token " + secret + beside); got != "token [token]"+beside {
				t.Errorf("Scrub(%q) = %q", "token "+secret+beside, got)
			}
		}
	}
}

// With lines of every width, and with everything that breaks them.
func TestScrubFindsTokensInSeveralLines(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	for range 50 {
		jwt := "eyJhbGciOiJSUzI1NiIsImtpZCI6I" + base64.RawURLEncoding.EncodeToString(bytes(30)) + ".eyJ" +
			base64.RawURLEncoding.EncodeToString(bytes(500+random.IntN(60))) + "." + base64.RawURLEncoding.EncodeToString(bytes(256))
		session := session[:20] + base64.StdEncoding.EncodeToString(bytes(600+random.IntN(60)))
		for _, token := range []string{jwt, session} {
			for _, separator := range []string{"\n", "\r\n", "\r\n\t", " ", "\n      ", `\n`, `\r\n`, "%0A", "%0D%0A", "<br>", "<br />\n"} {
				width := 40 + random.IntN(60)
				text := wrap(token, width, separator)
				if OneLine(text) != text && random.IntN(2) == 0 {
					text = OneLine(text)
				}
				got := Scrub("it was: " + text + " - refused")
				rest, found := strings.CutPrefix(got, "it was: [token]")
				rest, ends := strings.CutSuffix(rest, " - refused")
				if !found || !ends || strings.Count(rest, "[token]") > 0 || len(rest) > len(separator)+8 {
					t.Fatalf("broken by %q into lines of %d, this is left: %q", separator, width, got)
				}
			}
		}
	}
}

// FuzzScrub puts a token into any text, whole and in lines. The secret part must be gone, whatever is beside it.
func FuzzScrub(f *testing.F) {
	for _, beside := range []string{"", " ", "the token ", "IQoJb3JpZ2lu", "eyJhbGciOiJ9.eyJ9.", "Authorization: Bearer ", "http://me:", "@", "FwoG", "\x1b[2J", ".", "=", "%", "/"} {
		f.Add(beside, beside, uint8(0), uint8(64))
		f.Add(beside, "\n"+beside, uint8(1), uint8(76))
	}
	separators := []string{"", "\n", "\r\n", " ", `\n`, "%0A", "<br>"}
	signature := "Q7Jx3l0vV9m1Zr8cT5bN2sKfYhWuEdPgAiLoMtRyQwXs4Hd8kLpO6nBvCzXaSdF1gHjKl3qWeRtYuIoP5mNbVcXzAsDfGh7JkL9"
	jwt := "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEyMzQ1Njc4OTAifQ.eyJpc3MiOiJodHRwczovL29pZGMuZXhhbXBsZSIsInN1YiI6InN5c3RlbTpzZXJ2aWNlYWNjb3VudDpzaG9wOmNhcnQifQ." + signature
	session := "IQoJb3JpZ2luX2VjEPT//////////wEaCXVzLWVhc3QtMSJHMEUCIQDnyL6+" + signature + signature + "=="
	f.Fuzz(func(t *testing.T, before, after string, separator, width uint8) {
		if len(before)+len(after) > 10000 || strings.Contains(before+after, signature[:16]) {
			return
		}
		for _, token := range []string{jwt, session} {
			text := wrap(token, 48+int(width)%50, separators[int(separator)%len(separators)])
			got := Scrub(before + text + after)
			for i := 0; i+32 <= len(signature); i++ {
				if strings.Contains(got, signature[i:i+32]) {
					t.Fatalf("Scrub(%q + %q + %q) = %q", before, text, after, got)
				}
			}
			if !strings.Contains(got, "[token]") && !strings.Contains(got, Mask) {
				t.Errorf("Scrub(%q + %q + %q) = %q", before, text, after, got)
			}
		}
	})
}

// wrap breaks text into lines.
func wrap(text string, width int, separator string) string {
	var lines []string
	for len(text) > width {
		lines, text = append(lines, text[:width]), text[width:]
	}
	return strings.Join(append(lines, text), separator)
}

// Linear time is some 100 ms with the race detector. An expression that starts again at every character would take
// 32,768 times that of one pass, minutes, so the limit leaves room for a machine that is busy with something else.
func TestScrubTakesTimeInProportion(t *testing.T) {
	const size = 1 << 15
	for _, piece := range []string{
		"a", " ", "eyJ", "eyJaaaaaaaa ", "eyJaaaaaaaa.", "eyJaaaaaaaa Aa1", "IQoJ", "IQoJaaaaaaaa\n", "IQoJaaaaaaaa%0A", "://", "://a:b", "://a:b/", "://a:b@", "@",
		"Basic ", "basic a", "Bearer A1a", "authorization:", "Authorization: Bearer ", "SecretAccessKey", "SecretAccessKey= ", "AKIA", "A1a/", "\u202e", "&quot;", `\"`,
	} {
		text := strings.Repeat(piece, size/len(piece)+1)[:size]
		started := time.Now()
		Scrub(text)
		Scrub(text + "@")
		if took := time.Since(started); took > 20*time.Second {
			t.Errorf("32 KiB of %q takes %v", piece, took)
		}
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"plain, ä, 語 and 😀":                 "plain, ä, 語 and 😀",
		"two\nlines\r\nand\ta tab":          "two lines  and a tab",
		"\x1b[2J\x1b]0;title\x07\x7f\u009b": " [2J ]0;title   ",
		"a\u202eb\u2066c\u200bd\ufeffe\u2028f\u00adg\U000e0041h\u00a0i": "a b c d e f g h i",
		"\xff\xfe\ufffd": "   ",
	} {
		if got := OneLine(in); got != want {
			t.Errorf("OneLine(%q) = %q, want %q", in, got, want)
		}
	}
	for r := rune(0); r <= 0x10ffff; r++ {
		for _, shown := range OneLine(string(r)) {
			if shown != ' ' && string(shown) != string(r) {
				t.Fatalf("%U becomes %U", r, shown)
			}
		}
	}
}

func TestShorten(t *testing.T) {
	for _, row := range []struct {
		in   string
		most int
		want string
	}{
		{"", 50, ""},
		{strings.Repeat("ä", 50), 50, strings.Repeat("ä", 50)},
		{"begins" + strings.Repeat("ä", 100000) + "ends", 50, "beginsääääääää… (99982 more) …ääääääääääends"},
		{strings.Repeat("ä", 51), 50, strings.Repeat("ä", 14) + "… (23 more) …" + strings.Repeat("ä", 14)},
	} {
		if got := Shorten(row.in, row.most); got != row.want || len([]rune(got)) > row.most {
			t.Errorf("Shorten of %d characters to %d = %q, want %q", len([]rune(row.in)), row.most, got, row.want)
		}
	}
}
