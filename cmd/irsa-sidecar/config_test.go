package main

import (
	"encoding/json"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// password stands for whatever a user does not want to see in a log.
const password = "correct-horse-battery"

// FuzzEnvironment reads an environment as /proc/self/environ has it, where {dir} is a directory. Each problem is
// a line that names a variable and shows no secret, and without any the sidecar can do what it is told.
func FuzzEnvironment(f *testing.F) {
	const good = "AWS_ROLE_ARN=arn:aws:iam::111122223333:role/team/app\x00AWS_WEB_IDENTITY_TOKEN_FILE={dir}/token\x00"
	for _, rest := range []string{
		"", "AWS_REGION=eu-west-1", "AWS_REGION=eu-west-1a", "AWS_REGION=cn-north-1", "AWS_REGION=aws-global",
		"AWS_DEFAULT_REGION=Ireland", "AWS_ENDPOINT_URL_STS=https://sts.example\x00AWS_USE_FIPS_ENDPOINT=true",
		"AWS_ENDPOINT_URL_STS=http://[::1]:9000\x00AWS_REGION=cn-north-1", "AWS_ENDPOINT_URL=http://sts.example",
		"AWS_ENDPOINT_URL=http://u:p@127.0.0.1\x00AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true",
		"AWS_USE_DUALSTACK_ENDPOINT=yes\x00AWS_STS_REGIONAL_ENDPOINTS=legacy", "AWS_STS_REGIONAL_ENDPOINTS=global",
		"AWS_CA_BUNDLE={dir}/words", "HTTPS_PROXY=http://me:" + password + "@proxy:3128\x00NO_PROXY=*",
		"HTTPS_PROXY=ftp://me:" + password + "@proxy", "https_proxy=proxy:" + password,
		"IRSA_SIDECAR_LISTEN=[::1]:9911\x00IRSA_SIDECAR_OPS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_LISTEN=0.0.0.0:9911",
		"IRSA_SIDECAR_LISTEN=127.9.9.9:9912", "IRSA_SIDECAR_LISTEN=[::ffff:127.0.0.1]:65535",
		"IRSA_SIDECAR_OPS_LISTEN=localhost:9912", "IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + password,
		"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + password,
		"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + password + "\x00IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/" + password,
		"IRSA_SIDECAR_DURATION=900", "IRSA_SIDECAR_DURATION=12h", "IRSA_SIDECAR_DURATION=900.5s",
		"IRSA_SIDECAR_DURATION=12h1s",
		"IRSA_SIDECAR_DURATION=36028797018964868", // 2^55 + 900: in 64 bits, 2^55 seconds are 0 ns
		"IRSA_SIDECAR_POLICY_FILE={dir}/policy", "IRSA_SIDECAR_POLICY_FILE={dir}",
		"IRSA_SIDECAR_POLICY_FILE={dir}/words", "IRSA_SIDECAR_POLICY_FILE={dir}/no\nthing",
		"IRSA_SIDECAR_POLICY_ARNS=arn:aws:iam::aws:policy/ReadOnlyAccess, arn:aws-cn:iam::111122223333:policy/a/b,",
		"IRSA_SIDECAR_POLICY_ARNS=ReadOnlyAccess",
		"IRSA_SIDECAR_STATE_FILE={dir}/state\x00IRSA_SIDECAR_STATE_FILE_ON_DISK=true",
		"IRSA_SIDECAR_STATE_FILE={dir}/no/state", "IRSA_SIDECAR_STATE_FILE=state",
		"IRSA_SIDECAR_HOST_IP=10.0.0.1\x00IRSA_SIDECAR_POD_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=10.0.0.1",
		"IRSA_SIDECAR_ACCOUNT_ID=TRUE\x00IRSA_SIDECAR_QUITQUITQUIT=1",
		"IRSA_SIDECAR_LOG_LEVEL=warn\x00IRSA_SIDECAR_LOG_FORMAT=text",
		"IRSA_SIDECAR_LOG_LEVEL=loud\x00IRSA_SIDECAR_LOG_FORMAT=xml",
		"IRSA_SIDECAR_SHUTDOWN_DELAY=1h\x00IRSA_SIDECAR_SHUTDOWN_GRACE=1ms",
		"IRSA_SIDECAR_SHUTDOWN_DELAY=-1s\x00IRSA_SIDECAR_SHUTDOWN_GRACE=5",
		"IRSA_SIDECAR_AUTHORISATION_TOKEN=" + password,
		"IRSA_SIDECAR_PORT=tcp://10.0.0.1:9912\x00IRSA_SIDECAR_PORT_9912_TCP_PROTO=tcp", "IRSA_SIDECAR_PORT=9911",
	} {
		f.Add(good + rest)
	}
	f.Add("AWS_ROLE_ARN=app")
	f.Add("AWS_ROLE_ARN=arn:aws:sts::123456789012:assumed-role/app/me\x00AWS_WEB_IDENTITY_TOKEN_FILE=eyJ" + password)

	dir := f.TempDir()
	for name, text := range map[string]string{"policy": `{"Version": "2012-10-17"}`, "words": "no policy and no certificate"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	known := knownVariables()
	known["https_proxy"] = true
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); known[name] || strings.HasPrefix(name, prefix) {
			os.Unsetenv(name)
			f.Cleanup(func() { os.Setenv(name, value) })
		}
	}
	f.Fuzz(func(t *testing.T, environ string) {
		asSecret := true
		for entry := range strings.SplitSeq(environ, "\x00") {
			name, value, _ := strings.Cut(entry, "=")
			if name == "" || !known[name] && !strings.HasPrefix(name, prefix) {
				continue // the Go runtime listens to some of the others
			}
			value = strings.ReplaceAll(value, "{dir}", dir)
			read := name == "AWS_CA_BUNDLE" || name == "IRSA_SIDECAR_POLICY_FILE"
			if read && !filepath.IsLocal(value) && !strings.HasPrefix(filepath.Clean(value), dir) {
				continue // it could be a device, which never ends
			}
			// Of any other variable the value may be said.
			if strings.Contains(name, password) ||
				strings.Contains(value, password) && known[name] && !slices.Contains(secrets, name) {
				asSecret = false
			}
			t.Setenv(name, value)
		}
		c, p := loadConfig()
		for _, one := range p {
			if !known[one.variable] && !strings.HasPrefix(one.variable, prefix) || one.text == "" {
				t.Errorf("%q: a problem of no variable: %+q", environ, one)
			}
		}
		lines := strings.Split(p.Error(), "\n")
		want := len(p) + 1 // the first says how many
		if len(p) < 2 {
			want = 1
		}
		if len(lines) != want {
			t.Errorf("%q: %d problems in %d lines: %q", environ, len(p), len(lines), lines)
		}
		for _, line := range lines {
			if cache.OneLine(line) != line || len([]rune(line)) > maxProblem+len("invalid configuration: ") {
				t.Errorf("%q: not to be shown: %q", environ, line)
			}
			if asSecret && strings.Contains(line, password) {
				t.Errorf("%q: the secret is said: %q", environ, line)
			}
		}
		if len(p) == 0 {
			mustBeUsable(t, c)
		}
	})
}

// secrets are the variables with a value that no problem says: it is a secret, or may be one in the wrong place.
var secrets = []string{
	"AWS_WEB_IDENTITY_TOKEN_FILE", "HTTPS_PROXY", "https_proxy",
	"IRSA_SIDECAR_AUTHORIZATION_TOKEN", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE",
}

// Whatever is put into a variable, be it a file, and whatever is in it: what is wrong with it is said in a line or two.
func TestLongValuesAreCut(t *testing.T) {
	const size = 20_000
	known := knownVariables()
	known["https_proxy"] = true
	for name, value := range map[string]string{
		"letters":   strings.Repeat("a", size),
		"a path":    "/nowhere" + strings.Repeat("/a", size/2),
		"a list":    strings.Repeat("a,", size/2),
		"a role":    "arn:aws:iam::111122223333:instance-profile/" + strings.Repeat("a", 1900),
		"a URL":     "http://" + strings.Repeat("a", size) + ".example",
		"a token":   "eyJhbGciOiJSUzI1NiJ9." + strings.Repeat("eyJpc3MiOiJ4In0", 100) + ".c2lnbmF0dXJl",
		"controls":  strings.Repeat("\x1b[2J\r\n\u202e", size/8),
		"a program": strings.Repeat("\x7fELF\xff", size/5),
	} {
		for variable := range known {
			t.Run(variable+", "+name, func(t *testing.T) {
				for other := range known {
					t.Setenv(other, "")
				}
				t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app")
				t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
				t.Setenv(variable, strings.ReplaceAll(value, "\x00", ""))
				c, p := loadConfig()
				p = append(p, c.authorize()...)
				if len(p) > maxAlike+2 {
					t.Errorf("%d problems", len(p))
				}
				for _, one := range p {
					mustBeShown(t, variable, one.line(), maxProblem)
					if !strings.HasPrefix(one.line(), one.variable+" ") || strings.HasSuffix(one.line(), strings.Repeat("a", 20)) {
						t.Errorf("it is not said what is wrong: %s", one.line())
					}
				}
			})
		}
	}
	t.Setenv("IRSA_SIDECAR_"+strings.Repeat("A", size), "x")
	_, p := loadConfig()
	mustBeShown(t, "a name", errorText(usageError{p.concerning("none")}), maxProblem+len("invalid configuration: "))
}

func mustBeUsable(t *testing.T, c *Config) {
	t.Helper()
	if address, err := netip.ParseAddrPort(c.listen); err != nil || !address.Addr().IsLoopback() {
		t.Errorf("credentials are served on %q", c.listen)
	}
	if _, _, err := net.SplitHostPort(c.ops); err != nil {
		t.Errorf("health is served on %q", c.ops)
	}
	if c.endpoint != "" {
		u, err := url.Parse(c.endpoint)
		if err != nil {
			t.Fatalf("the endpoint %q: %v", c.endpoint, err)
		}
		address, _ := netip.ParseAddr(u.Hostname())
		here := u.Hostname() == "localhost" || address.IsLoopback()
		if u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && here) {
			t.Errorf("the token goes to %q", c.endpoint)
		}
	}
	if names.CheckRoleARN(c.RoleARN) != nil || c.TokenFile == "" ||
		c.region != "" && names.CheckRegion(c.region) != nil {
		t.Errorf("taken: %q, %q, %q", c.RoleARN, c.TokenFile, c.region)
	}
	if c.duration != 0 && (c.duration < 15*time.Minute || c.duration > 12*time.Hour || c.duration%time.Second != 0) {
		t.Errorf("a session of %s", c.duration)
	}
	if seconds, err := strconv.Atoi(c.Duration); err == nil && int(c.duration/time.Second) != seconds {
		t.Errorf("%q is taken for %s", c.Duration, c.duration)
	}
	if c.delay < 0 || c.delay > time.Hour || c.grace < 0 || c.grace > time.Hour {
		t.Errorf("a delay of %s, and a grace of %s", c.delay, c.grace)
	}
	if c.policy != "" && (len(c.policy) > 2048 || !json.Valid([]byte(c.policy))) || len(c.policyARNs) > 10 {
		t.Errorf("the policy %q, and %q", c.policy, c.policyARNs)
	}
	if c.StateFile != "" && !filepath.IsAbs(c.StateFile) || c.AuthorizationFile != "" && !filepath.IsAbs(c.AuthorizationFile) {
		t.Errorf("a path that depends on where we are: %q, %q", c.StateFile, c.AuthorizationFile)
	}
	for _, proxy := range []string{os.Getenv("HTTPS_PROXY"), os.Getenv("https_proxy")} {
		if proxy == "" {
			continue
		}
		u, err := url.Parse(proxy) // as net/http does
		if err != nil || u.Scheme == "" || u.Host == "" {
			u, err = url.Parse("http://" + proxy)
		}
		if err != nil || u.Host == "" {
			t.Errorf("net/http would go without the proxy %q", proxy)
		}
		break
	}
}
