package doctor

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// FuzzFindings examines any token, role, environment (as /proc/self/environ has it) and trust policy, as far as
// that goes without a network. Each finding is a line that shows no secret, and each command that is to be pasted
// does what it is for, whatever it is made of.
func FuzzFindings(f *testing.F) {
	const (
		claims = `{"iss":"` + issuerURL + `","aud":["sts.amazonaws.com"],"sub":"system:serviceaccount:shop:cart",` +
			`"exp":4102444800,"iat":1700000000,` +
			`"kubernetes.io":{"namespace":"shop","pod":{"name":"cart-7c9f"},"serviceaccount":{"name":"cart"}}}`
		file     = "AWS_WEB_IDENTITY_TOKEN_FILE=/token\x00"
		uri      = "AWS_CONTAINER_CREDENTIALS_FULL_URI="
		listen   = "\x00IRSA_SIDECAR_LISTEN="
		keyID    = "AWS_ACCESS_KEY_ID="
		secret   = "\x00AWS_SECRET_ACCESS_KEY="
		password = "correct-horse-battery"
	)
	policy := string(identity().Policy())
	for _, seed := range []struct{ claims, role, environ, policy string }{
		{claims, roleARN, file, ""},
		{claims, roleARN, file + "AWS_REGION=eu-west-1\x00" + uri + "http://127.0.0.1:9911/v1/credentials" + listen + "127.0.0.1:9911", policy},
		{claims, roleARN, uri + "http://169.254.170.23/v1/credentials\x00NO_PROXY=a b", strings.ReplaceAll(policy, "sub", "aud")},
		{claims, "", uri + "http://localhost:9911/\nv1" + listen + "[::1%`id`]:9911", "{}"},
		{claims, "app", "AWS_PROFILE=d\x1b[2Jev\x00AWS_ENDPOINT_URL=https://sts.example", "not JSON"},
		{claims, "arn:aws:iam::111122223333:role/$(reboot)/app", keyID + "AKIAIOSFODNN7EXAMPLE" + secret + password, policy},
		{claims, "arn:minio:iam:::role/app", keyID + password + "\x00AWS_SESSION_TOKEN=" + password, policy},
		{`{}`, roleARN, secret + password, `[]`},
		{`{"iss":"http://localhost/","aud":"it's","sub":"me","exp":1,"kubernetes.io":{"namespace":"a;b","serviceaccount":{"name":"c\nd"}}}`,
			roleARN, "AWS_USE_FIPS_ENDPOINT=true", policy},
		{`{"iss":"x","aud":["a","b"],"exp":9223372036854775807,"iat":-9223372036854775808,"nbf":4102444800}`,
			roleARN, keyID + "ASIAIOSFODNN7EXAMPLE" + secret + "x", ""},
	} {
		f.Add([]byte(seed.claims), seed.role, seed.environ, []byte(seed.policy))
	}
	keys := make(map[string]bool)
	for _, entry := range Entries() {
		keys[entry.Key] = true
	}
	for _, reason := range cache.Reasons() {
		keys[string(reason)] = true
	}
	encode := base64.RawURLEncoding.EncodeToString
	f.Fuzz(func(t *testing.T, claims []byte, role, environ string, policy []byte) {
		env := make(map[string]string)
		asSecret := !strings.Contains(string(claims)+role+string(policy), password)
		for entry := range strings.SplitSeq(environ, "\x00") {
			name, value, _ := strings.Cut(entry, "=")
			env[name] = value
			switch name {
			case "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN":
			default:
				asSecret = asSecret && !strings.Contains(value, password)
			}
		}
		e := &examination{
			Options: Options{
				Exchange: webidentity.Options{
					RoleARN: role, TokenFile: env["AWS_WEB_IDENTITY_TOKEN_FILE"],
					Region: env["AWS_REGION"], Endpoint: env["AWS_ENDPOINT_URL"], Duration: time.Hour,
				},
				Listen: env["IRSA_SIDECAR_LISTEN"],
				Policy: policy, PolicyName: "the policy",
				Root:   "/nowhere",
				Getenv: func(name string) string { return env[name] },
			},
			now:   time.Unix(1700003600, 0),
			token: encode([]byte(`{"alg":"RS256"}`)) + "." + encode(claims) + ".c2lnbmF0dXJl",
		}
		var err error
		if e.claims, err = webidentity.ParseToken(e.token); err != nil {
			return
		}
		e.checkEnvironment()
		e.checkRole()
		e.checkClaims()
		for _, reason := range cache.Reasons() {
			key, fixes := e.decide(&cache.FetchError{Reason: reason, Message: string(policy)})
			e.add(Finding{Check: "sts", Status: Fail, Key: key, Finding: string(policy), Fixes: fixes})
		}
		e.checkPolicy()
		for _, finding := range e.findings {
			finding.scrub(e.token)
			text := finding.Finding
			if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("not to be shown: %q", text)
			}
			if strings.Contains(text, e.token) || asSecret && strings.Contains(text+fmt.Sprint(finding.Fixes), password) {
				t.Errorf("a secret is in %q, %q", text, finding.Fixes)
			}
			if finding.Status == OK && finding.Key != "" || finding.Status != OK && !keys[finding.Key] {
				t.Errorf("%q is none of the keys, or that of a success: %q", finding.Key, text)
			}
			for _, fix := range finding.Fixes {
				if fix.Kind == shell && !isTame(fix.Text) {
					t.Errorf("a shell takes this for more than it is: %q", fix.Text)
				}
			}
		}
	})
}

// isTame reports whether all of a command that a shell would act on is our own.
func isTame(command string) bool {
	for _, ours := range []string{
		` | irsa-sidecar doctor --trust-policy -`, ` "$(irsa-sidecar credentials --format env)"`,
		` "$IRSA_SIDECAR_POLICY_FILE"`, `; python3 -m json.tool`,
	} {
		command = strings.ReplaceAll(command, ours, "")
	}
	command = quoted.ReplaceAllString(command, "")
	return !slices.ContainsFunc(strings.Split(command, "\n"), func(line string) bool { return !plainCommand.MatchString(line) })
}

var (
	quoted       = regexp.MustCompile(`'[^']*'|\\'`)
	plainCommand = regexp.MustCompile(`^(aws|chmod|chronyc|curl|cut|eksctl|eval|export|kubectl|unset|wc)( [\w./:@%+=,-]*)*$`)
)
