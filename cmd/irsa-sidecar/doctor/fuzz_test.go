package doctor

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// FuzzFindings examines any token, role, environment (in the form of /proc/self/environ) and trust policy without a
// network. Every finding is one line without secrets, and every fix is harmless to a terminal and means to its reader (a
// shell, IAM or Terraform) only what it should, whatever the input.
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
		{`{"iss":"https://a.example/${x}%{y}$${z}","aud":["\"}\\"],"sub":"system:serviceaccount:a\u001b[2J\u009b\ud83d\ude00:\ude00","exp":4102444800}`,
			roleARN, file + "NO_PROXY=a\nb\x00IRSA_SIDECAR_LISTEN=\x1b]0;x\a", strings.ReplaceAll(policy, "cart", "c\u009b\xffrt")},
		{`{"iss":"--url","aud":["--endpoint-url=http://evil.example"],"sub":"-","exp":4102444800}`, "-rf", "AWS_WEB_IDENTITY_TOKEN_FILE=--help\x00" + uri + "x", ""},
		{claims, roleARN, "AWS_ENDPOINT_URL=https://sts%c2%9b2J.example", ""},
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
		address, _ := netip.ParseAddrPort(env["IRSA_SIDECAR_LISTEN"])
		e := &examination{
			Options: Options{
				Exchange: webidentity.Options{
					RoleARN: role, TokenFile: env["AWS_WEB_IDENTITY_TOKEN_FILE"],
					Region: env["AWS_REGION"], Endpoint: env["AWS_ENDPOINT_URL"], Duration: time.Hour,
				},
				Listen:     address,
				PolicyName: "the policy",
				Root:       "/nowhere",
				Getenv:     func(name string) string { return env[name] },
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
			key, fixes := e.cause(&cache.FetchError{Reason: reason, Message: string(policy)})
			e.add(failure("sts", key, string(policy), fixes...))
		}
		for _, words := range []string{"", "explicit deny in a service control policy: arn:aws:organizations::1:policy/", "because no VPC endpoint policy", "to perform sts:TagSession "} {
			e.add(e.causeOfDenial(&cache.FetchError{Reason: cache.AccessDenied, Message: words + string(policy)}))
		}
		e.add(failure("sts", ProviderMissing, "", e.fixProvider()...))
		e.add(failure("token-file", cache.TokenFileUnreadable, "", e.fixMode(e.Exchange.TokenFile)...))
		e.add(failure("sidecar", PortTaken, "", e.fixPort()))
		e.add(warning("signature", IssuerUnreachable, "", fixIssuer(string(policy))))
		e.Policy = policy // not sooner: with a policy, no other one is proposed
		e.checkPolicy()
		for _, finding := range e.findings {
			finding.scrub(e.token, e.Authorization)
			text := finding.Finding
			if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("not printable: %q", text)
			}
			all := text + fmt.Sprint(finding.Fixes)
			if strings.Contains(all, e.token) || asSecret && strings.Contains(all, password) {
				t.Errorf("a secret is in %q, %q", text, finding.Fixes)
			}
			if finding.Status == OK && finding.Key != "" || finding.Status != OK && !keys[finding.Key] {
				t.Errorf("%q is not a key, or belongs to a success: %q", finding.Key, text)
			}
			if redact.OneLine(finding.Summary) != finding.Summary || strings.Contains(finding.Summary, e.token) {
				t.Errorf("not printable, or with the token: %q", finding.Summary)
			}
			for _, fix := range finding.Fixes {
				if redact.OneLine(fix.What) != fix.What {
					t.Errorf("not printable: %q", fix.What)
				}
				for line := range strings.SplitSeq(fix.Text, "\n") {
					if redact.OneLine(line) != line {
						t.Errorf("not printable: %q", fix.Text)
					}
				}
				switch fix.Kind {
				case shell:
					checkCommand(t, fix.Text)
				case terraform:
					e.checkTerraform(t, fix.Text)
				}
			}
		}
	})
}

// checkCommand reads a fix as a shell does. It may contain only our own options and shell syntax, and only a policy may
// have several lines.
func checkCommand(t *testing.T, text string) {
	for _, ours := range []string{
		` | irsa-sidecar doctor --trust-policy -`, ` "$(irsa-sidecar credentials --format env)"`,
	} {
		text = strings.ReplaceAll(text, ours, "")
	}
	text = intoPod.ReplaceAllString(text, "")
	for rest := text; rest != ""; {
		var words []string
		var ok bool
		if words, rest, ok = readCommand(rest); !ok {
			t.Errorf("a shell would do more than this says: %q", text)
			return
		}
		if len(words) == 0 || !commands[words[0]] {
			t.Errorf("this is not one of our commands: %q", text)
			return
		}
		for i, word := range words {
			if strings.HasPrefix(word, "-") && !options[word] {
				t.Errorf("%q is not one of our options: %q", word, text)
			}
			if words[i-min(i, 1)] == "--policy-document" && word != "file://POLICY.json" && !json.Valid([]byte(word)) {
				t.Errorf("%q is no policy: %q", word, text)
			} else if words[i-min(i, 1)] != "--policy-document" && strings.Contains(word, "\n") {
				t.Errorf("%q has several lines: %q", word, text)
			}
		}
	}
}

var (
	intoPod   = regexp.MustCompile(` \| kubectl exec -i -n ([a-z0-9.-]+|NAMESPACE) ([a-z0-9.-]+|POD) -c irsa-sidecar -- /irsa-sidecar doctor --trust-policy -$`)
	plainRune = regexp.MustCompile(`^[\w./:@%+=,-]+`)
	commands  = set("aws chmod chronyc curl eksctl eval export kubectl unset")
	options   = set("-- --clusterrole=system:service-account-issuer-discovery --group=system:unauthenticated -n -c -it -o -p -w -sS -sSI --approve --aws --image=busybox --image=curlimages/curl --policy-type --policy-id --target-id --filter --filters --region --attach-policy-arn --client-id --client-id-list --cluster --cluster-name " +
		"--max-session-duration --max-time --name --namespace --open-id-connect-provider-arn --output --overwrite --policy-document --query " +
		"--role-name --selector --service-account --thumbprint-list --type --url")
)

func set(words string) map[string]bool {
	all := make(map[string]bool)
	for word := range strings.FieldsSeq(words) {
		all[word] = true
	}
	return all
}

// readCommand reads one shell command that consists only of plain and quoted words.
func readCommand(text string) (words []string, rest string, ok bool) {
	word, begun := "", false
	end := func() {
		if begun {
			words = append(words, word)
		}
		word, begun = "", false
	}
	for text != "" {
		plain := plainRune.FindString(text)
		switch {
		case plain != "":
			word, text, begun = word+plain, text[len(plain):], true
		case text[0] == '\'':
			quoted, after, closed := strings.Cut(text[1:], "'")
			if !closed {
				return nil, "", false
			}
			word, text, begun = word+quoted, after, true
		case strings.HasPrefix(text, `\'`):
			word, text, begun = word+"'", text[2:], true
		case text[0] == ' ':
			end()
			text = text[1:]
		case text[0] == '\n':
			end()
			return words, text[1:], true
		default:
			return nil, "", false
		}
	}
	end()
	return words, "", true
}

// checkTerraform reads a fix as Terraform does. Its strings must have the expected values, and everything else is our own.
func (e *examination) checkTerraform(t *testing.T, text string) {
	var texts []string
	var skeleton strings.Builder
	for rest := text; rest != ""; {
		if rest[0] != '"' {
			skeleton.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		var one string
		var ok bool
		if one, rest, ok = readHCL(rest); !ok {
			t.Errorf("Terraform would do more than this says: %q", text)
			return
		}
		texts = append(texts, one)
		skeleton.WriteByte('_')
	}
	id := e.identity
	want := []string{"sts:AssumeRoleWithWebIdentity", "Federated", id.ProviderARN(),
		"StringEquals", id.Provider() + ":aud", id.Audience, "StringEquals", id.Provider() + ":sub", id.Subject}
	if strings.HasPrefix(text, "resource ") {
		want = []string{"aws_iam_openid_connect_provider", "eks", cmp.Or(e.claims.Issuer, "ISSUER"), cmp.Or(e.audience(), "AUDIENCE")}
	}
	if !slices.Equal(texts, want) {
		t.Errorf("Terraform reads %q, want %q", texts, want)
	}
	if !ownTerraform.MatchString(skeleton.String()) {
		t.Errorf("Terraform evaluates more than texts: %q", text)
	}
}

var ownTerraform = regexp.MustCompile(`^(statement|resource _ _) \{[a-z_ =\[\]{}\n]*\}$`)

// readHCL reads the string at the beginning of a Terraform text, if there is nothing to evaluate in it.
// https://github.com/hashicorp/hcl/blob/main/hclsyntax/spec.md#template-expressions
func readHCL(text string) (value, rest string, ok bool) {
	var b strings.Builder
	for rest = strings.TrimPrefix(text, `"`); rest != ""; {
		if m := hclEscape.FindString(rest); m != "" {
			one, err := strconv.Unquote(`"` + m + `"`) // these are Go's as well
			if err != nil {
				return "", "", false
			}
			b.WriteString(one)
			rest = rest[len(m):]
			continue
		}
		switch {
		case rest[0] == '"':
			return b.String(), rest[1:], true
		case strings.HasPrefix(rest, "$${"), strings.HasPrefix(rest, "%%{"):
			b.WriteString(rest[1:3])
			rest = rest[3:]
		case rest[0] == '\\', rest[0] == '\n', strings.HasPrefix(rest, "${"), strings.HasPrefix(rest, "%{"):
			return "", "", false
		default:
			b.WriteByte(rest[0])
			rest = rest[1:]
		}
	}
	return "", "", false
}

var hclEscape = regexp.MustCompile(`^\\(?:[nrt"\\]|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})`)
