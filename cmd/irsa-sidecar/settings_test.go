package main

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/server"
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
		"IRSA_SIDECAR_LISTEN=127.9.9.9:9912", "IRSA_SIDECAR_ECS_LISTEN=169.254.170.2:80,[fd00:ec2::23]:80", "IRSA_SIDECAR_ECS_LISTEN=,169.254.170.2,[fe80::1%eth0]:80",
		"IRSA_SIDECAR_SOCKET={dir}/socket", "IRSA_SIDECAR_SOCKET=socket",
		"IRSA_SIDECAR_LISTEN=[::ffff:127.0.0.1]:65535",
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
	f.Fuzz(func(t *testing.T, environ string) {
		asSecret := true
		var entries []string
		for entry := range strings.SplitSeq(environ, "\x00") {
			name, value, _ := strings.Cut(entry, "=")
			value = strings.ReplaceAll(value, "{dir}", dir)
			read := name == "AWS_CA_BUNDLE" || name == "IRSA_SIDECAR_POLICY_FILE"
			if read && !filepath.IsLocal(value) && !strings.HasPrefix(filepath.Clean(value), dir) {
				continue // it could be a device, which never ends
			}
			// The value of any other variable may be quoted.
			if strings.Contains(name, password) ||
				strings.Contains(value, password) && known[name] && !slices.Contains(secrets, name) {
				asSecret = false
			}
			entries = append(entries, name+"="+value)
		}
		e := environmentOf(entries...)
		s, p := parse(e, files{})
		p = append(p, s.load()...)
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
			if redact.OneLine(line) != line || len([]rune(line)) > maxProblem+len("invalid configuration: ") {
				t.Errorf("%q: not to be shown: %q", environ, line)
			}
			if asSecret && strings.Contains(line, password) {
				t.Errorf("%q: the secret is quoted: %q", environ, line)
			}
		}
		if len(p) == 0 {
			mustBeUsable(t, e, s)
		}
	})
}

// secrets are the variables with a value that no problem says: it is a secret, or may be one in the wrong place.
var secrets = []string{
	"AWS_WEB_IDENTITY_TOKEN_FILE", "HTTPS_PROXY", "https_proxy",
	"IRSA_SIDECAR_AUTHORIZATION_TOKEN", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE",
}

// Whatever a variable, or the file that it names, contains: the error about it has one or two lines.
func TestLongValuesAreCut(t *testing.T) {
	const size = 5_000 // more than any variable may have
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
				s, p := parse(environmentOf(variable+"="+strings.ReplaceAll(value, "\x00", ""),
					"AWS_ROLE_ARN=arn:aws:iam::111122223333:role/app", "AWS_WEB_IDENTITY_TOKEN_FILE=/token"), files{})
				p = slices.Concat(p, s.load(), s.open(nil))
				if len(p) > maxAlike+2 {
					t.Errorf("%d problems", len(p))
				}
				for _, one := range p {
					line := one.line()
					mustBeShown(t, variable, line, maxProblem)
					if !strings.HasPrefix(line, one.variable+" ") || strings.HasSuffix(line, strings.Repeat("a", 20)) {
						t.Errorf("it does not say what is wrong: %s", line)
					}
				}
			})
		}
	}
	_, p := parse(environmentOf("IRSA_SIDECAR_"+strings.Repeat("A", size)+"=x"), files{})
	mustBeShown(t, "a name", errorText(usageError{p.concerning("none")}), maxProblem+len("invalid configuration: "))
}

// environmentOf is the environment with these entries; of two for one variable, the first counts.
func environmentOf(entries ...string) *environment {
	e := &environment{all: entries}
	v := reflect.ValueOf(e).Elem()
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("envconfig"); name != "" {
			v.Field(i).SetString(e.value(name))
		}
	}
	e.setDefaults()
	return e
}

func mustBeUsable(t *testing.T, e *environment, s *settings) {
	t.Helper()
	if address := s.credentialsAddress(); !address.Addr().IsLoopback() {
		t.Errorf("credentials are served on %s", address)
	}
	for _, l := range s.listeners {
		if _, _, err := net.SplitHostPort(l.address); err != nil && !(l.name == socketListener && filepath.IsAbs(l.address)) {
			t.Errorf("%s is served on %q", l.name, l.address)
		}
	}
	p := s.profile(defaultProfile)
	o := p.exchange
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil {
			t.Fatalf("the endpoint %q: %v", o.Endpoint, err)
		}
		address, _ := netip.ParseAddr(u.Hostname())
		here := u.Hostname() == "localhost" || address.IsLoopback()
		if u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && here) {
			t.Errorf("the token goes to %q", o.Endpoint)
		}
	}
	if names.CheckRoleARN(o.RoleARN) != nil || o.TokenFile == "" || o.Region != "" && names.CheckRegion(o.Region) != nil {
		t.Errorf("taken: %q, %q, %q", o.RoleARN, o.TokenFile, o.Region)
	}
	if o.Duration != 0 && (o.Duration < 15*time.Minute || o.Duration > 12*time.Hour || o.Duration%time.Second != 0) {
		t.Errorf("a session of %s", o.Duration)
	}
	if seconds, err := strconv.Atoi(e.Duration); err == nil && int(o.Duration/time.Second) != seconds {
		t.Errorf("%q is taken for %s", e.Duration, o.Duration)
	}
	if s.delay < 0 || s.delay > time.Hour || s.grace < 0 || s.grace > time.Hour {
		t.Errorf("a delay of %s, and a grace of %s", s.delay, s.grace)
	}
	if o.Policy != "" && (len(o.Policy) > 2048 || !json.Valid([]byte(o.Policy))) || len(o.PolicyARNs) > 10 {
		t.Errorf("the policy %q, and %q", o.Policy, o.PolicyARNs)
	}
	if s.state.path != "" && !filepath.IsAbs(s.state.path) || p.access.file != "" && !filepath.IsAbs(p.access.file) {
		t.Errorf("a path that depends on where we are: %q, %q", s.state.path, p.access.file)
	}
	for _, proxy := range []string{e.value("HTTPS_PROXY"), e.value("https_proxy")} {
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

// good are the required variables.
var good = []string{"AWS_ROLE_ARN=arn:aws:iam::111122223333:role/app", "AWS_WEB_IDENTITY_TOKEN_FILE=/token"}

func TestParse(t *testing.T) {
	const d = time.Minute
	for name, row := range map[string]struct {
		env   []string
		check func(*settings) bool
	}{
		"the defaults": {nil, func(s *settings) bool {
			p := s.profiles[0]
			return len(s.profiles) == 1 && p.name == "default" && p.exchange.RoleARN == "arn:aws:iam::111122223333:role/app" && p.exchange.TokenFile == "/token" &&
				p.exchange.Duration == 0 && p.exchange.Endpoint == "" && !p.exchange.FIPS && s.state == place{} && p.access.token+p.access.file == "" && p.access.uids == nil && p.required &&
				s.delay == 0 && s.grace == 5*time.Second && !s.accountID && !s.shutdown && s.logging == logging{} && s.warnings == nil
		}},
		"the listeners": {nil, func(s *settings) bool {
			return reflect.DeepEqual(s.listeners, []listener{
				{name: "credentials", variable: "IRSA_SIDECAR_LISTEN", address: "127.0.0.1:9911", buffer: server.CredentialsBuffer},
				{name: "ops", variable: "IRSA_SIDECAR_OPS_LISTEN", address: ":9912", buffer: server.PagesBuffer},
				{name: "admin", variable: "IRSA_SIDECAR_ADMIN_LISTEN", address: "127.0.0.1:9913", buffer: server.PagesBuffer},
			})
		}},
		"another address": {[]string{"IRSA_SIDECAR_LISTEN=[::1]:1"}, func(s *settings) bool {
			return s.listener("credentials").set && s.listener("admin").address == "[::1]:9913"
		}},
		"all listeners on any port": {[]string{"IRSA_SIDECAR_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_OPS_LISTEN=:0", "IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0"}, func(s *settings) bool { return s.listener("admin").set }},
		"a listener at two addresses": {[]string{"IRSA_SIDECAR_ECS_LISTEN=169.254.170.2:80, [fd00:ec2::23]:80"}, func(s *settings) bool {
			return len(s.listeners) == 5 && s.listeners[3].address == "169.254.170.2:80" && s.listeners[4].address == "[fd00:ec2::23]:80" &&
				slices.Equal(s.outputs(), []string{"credentials", "ecs"}) && s.warnings == nil
		}},
		"one port at different addresses": {[]string{"IRSA_SIDECAR_ECS_LISTEN=169.254.170.2:9911,127.0.0.2:9911,[::1]:9911"}, func(s *settings) bool { return len(s.listeners) == 6 }},
		"an output without the token": {[]string{"IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0,127.0.0.1:0", "IRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef"}, func(s *settings) bool {
			return len(s.warnings) == 1 && strings.HasPrefix(s.warnings[0], "IRSA_SIDECAR_ECS_LISTEN serves the credentials of the profile default without the authorization token")
		}},
		"the first region":                 {[]string{"AWS_DEFAULT_REGION=eu-west-1", "AWS_REGION=eu-west-2"}, func(s *settings) bool { return s.profiles[0].exchange.Region == "eu-west-2" }},
		"the other region":                 {[]string{"AWS_DEFAULT_REGION=eu-west-1", "AWS_REGION="}, func(s *settings) bool { return s.profiles[0].exchange.Region == "eu-west-1" }},
		"STS's own endpoint":               {[]string{"AWS_ENDPOINT_URL=https://all.example", "AWS_ENDPOINT_URL_STS=https://sts.example"}, func(s *settings) bool { return s.profiles[0].exchange.Endpoint == "https://sts.example" }},
		"the endpoint of all":              {[]string{"AWS_ENDPOINT_URL=https://all.example"}, func(s *settings) bool { return s.profiles[0].exchange.Endpoint == "https://all.example" }},
		"no endpoint of one's own":         {[]string{"AWS_ENDPOINT_URL=not a URL", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=1"}, func(s *settings) bool { return s.profiles[0].exchange.Endpoint == "" }},
		"another partition at an endpoint": {[]string{"AWS_REGION=cn-north-1", "AWS_ENDPOINT_URL_STS=https://sts.example"}, func(s *settings) bool { return s.profiles[0].exchange.Region == "cn-north-1" }},
		"the shortest session":             {[]string{"IRSA_SIDECAR_DURATION=900"}, func(s *settings) bool { return s.profiles[0].exchange.Duration == 15*d && len(s.warnings) == 1 }},
		"a session of 44m59s":              {[]string{"IRSA_SIDECAR_DURATION=44m59s"}, func(s *settings) bool { return len(s.warnings) == 1 }},
		"a session of 45m":                 {[]string{"IRSA_SIDECAR_DURATION=45m"}, func(s *settings) bool { return s.warnings == nil }},
		"the longest session":              {[]string{"IRSA_SIDECAR_DURATION=12h"}, func(s *settings) bool { return s.profiles[0].exchange.Duration == 720*d }},
		"the longest delay":                {[]string{"IRSA_SIDECAR_SHUTDOWN_DELAY=1h", "IRSA_SIDECAR_SHUTDOWN_GRACE=0"}, func(s *settings) bool { return s.delay == 60*d && s.grace == 0 }},
		"ten policies":                     {[]string{"IRSA_SIDECAR_POLICY_ARNS=" + strings.Repeat("arn:aws:iam::aws:policy/A, ", 10)}, func(s *settings) bool { return len(s.profiles[0].exchange.PolicyARNs) == 10 }},
		"the last user":                    {[]string{"IRSA_SIDECAR_ALLOWED_UIDS= 0 ,4294967294"}, func(s *settings) bool { return slices.Equal(s.profiles[0].access.uids, []uint32{0, 1<<32 - 2}) }},
		"booleans in all spellings": {[]string{"AWS_USE_FIPS_ENDPOINT=tRUE", "AWS_USE_DUALSTACK_ENDPOINT=T", "IRSA_SIDECAR_ACCOUNT_ID=1", "IRSA_SIDECAR_QUITQUITQUIT=True", "IRSA_SIDECAR_STATE_FILE_ON_DISK=F"},
			func(s *settings) bool {
				return s.profiles[0].exchange.FIPS && s.profiles[0].exchange.DualStack && s.accountID && s.shutdown && !s.state.onDisk
			}},
		"words in any case": {[]string{"IRSA_SIDECAR_LOG_LEVEL=DEBUG", "IRSA_SIDECAR_LOG_FORMAT=Text", "AWS_STS_REGIONAL_ENDPOINTS=LEGACY"},
			func(s *settings) bool {
				return s.logging == logging{slog.LevelDebug, true} && len(s.warnings) == 1
			}},
		"a Pod's own network":                     {[]string{"KUBERNETES_SERVICE_HOST=10.0.0.1", "IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=10.0.0.2"}, func(s *settings) bool { return s.network.kubernetes && !s.network.isHosts() }},
		"the node's network, spelled in two ways": {[]string{"IRSA_SIDECAR_HOST_IP=fd00:1::9", "IRSA_SIDECAR_POD_IP=FD00:1:0::9"}, func(s *settings) bool { return s.network.isHosts() }},
		"the node's network, as IPv4 in IPv6":     {[]string{"IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=::ffff:10.0.0.1"}, func(s *settings) bool { return s.network.isHosts() }},
		"the node's network":                      {[]string{"IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=10.0.0.1"}, func(s *settings) bool { return s.network.isHosts() && s.network.mustAuthorize() == errHostNetwork }},
	} {
		s, p := parse(environmentOf(slices.Concat(row.env, good)...), files{})
		if len(p) > 0 || !row.check(s) {
			t.Errorf("%s: %+v; %v", name, s, p)
		}
	}
}

func TestParseRejects(t *testing.T) {
	for _, row := range []struct {
		env  string
		want problems
	}{
		{"IRSA_SIDECAR_DURATION=14m59s", problems{{"IRSA_SIDECAR_DURATION", `"14m59s" is not a duration from 15m to 12h in whole seconds`}}},
		{"IRSA_SIDECAR_DURATION=43201", problems{{"IRSA_SIDECAR_DURATION", `"43201" is not a duration from 15m to 12h in whole seconds`}}},
		{"IRSA_SIDECAR_SHUTDOWN_GRACE=1h1ns", problems{{"IRSA_SIDECAR_SHUTDOWN_GRACE", `"1h1ns" is not a duration from 0s to 1h, such as 5s`}}},
		{"IRSA_SIDECAR_QUITQUITQUIT= true", problems{{"IRSA_SIDECAR_QUITQUITQUIT", `" true" is not a boolean; use true or false; did you mean "true"?`}}},
		{"IRSA_SIDECAR_QUITQUITQUIT=ture", problems{{"IRSA_SIDECAR_QUITQUITQUIT", `"ture" is not a boolean; use true or false; did you mean "true"?`}}},
		{"IRSA_SIDECAR_LOG_LEVEL=wran", problems{{"IRSA_SIDECAR_LOG_LEVEL", `"wran" is not a log level; use debug, info, warn or error; did you mean "warn"?`}}},
		{"IRSA_SIDECAR_LOG_FORMAT=Jsno", problems{{"IRSA_SIDECAR_LOG_FORMAT", `"Jsno" is not a log format; use json or text; did you mean "json"?`}}},
		{"AWS_STS_REGIONAL_ENDPOINTS=regionl", problems{{"AWS_STS_REGIONAL_ENDPOINTS", `"regionl" is not supported; use regional, or unset it; did you mean "regional"?`}}},
		{"AWS_USE_FIPS_ENDPOINT=yes", problems{{"AWS_USE_FIPS_ENDPOINT", `"yes" is not a boolean; use true or false`}}},
		{"IRSA_SIDECAR_LOG_LEVEL=INFO+1", problems{{"IRSA_SIDECAR_LOG_LEVEL", `"INFO+1" is not a log level; use debug, info, warn or error; did you mean "info"?`}}},
		{"IRSA_SIDECAR_OPS_LISTEN=[::]:9911", problems{{"IRSA_SIDECAR_OPS_LISTEN", `"[::]:9911" uses the same port as IRSA_SIDECAR_LISTEN; each listener needs its own`}}},
		{"IRSA_SIDECAR_LISTEN=127.0.0.1:9913", problems{{"IRSA_SIDECAR_ADMIN_LISTEN", `"127.0.0.1:9913" uses the same port as IRSA_SIDECAR_LISTEN; each listener needs its own`}}},
		{"IRSA_SIDECAR_ALLOWED_UIDS=4294967295,-1", problems{
			{"IRSA_SIDECAR_ALLOWED_UIDS", `contains "4294967295", which is not a user ID; list numbers such as 1000, separated by commas (id -u prints yours)`},
			{"IRSA_SIDECAR_ALLOWED_UIDS", `contains "-1", which is not a user ID; list numbers such as 1000, separated by commas (id -u prints yours)`}}},
		{"AWS_ROLE_ARM=arn:aws:iam::111122223333:role/app", nil}, // nothing is missing
		{"AWS_ROLE_SESSION=app", nil},
		{"IRSA_SIDECAR_LISTN=x", problems{{"IRSA_SIDECAR_LISTN", "is not a known variable; did you mean IRSA_SIDECAR_LISTEN?"}}},
	} {
		if _, p := parse(environmentOf(append([]string{row.env}, good...)...), files{}); !slices.Equal(p, row.want) {
			t.Errorf("%s: %q, want %q", row.env, p, row.want)
		}
	}
}

// A required variable may be there under another name. Its value may be anything, so it is not quoted.
func TestAMissingVariableMayBeMisspelt(t *testing.T) {
	for name, want := range map[string]string{
		"AWS_ROLE_ARM":                           "AWS_ROLE_ARN",
		"AWS_ROLEARN":                            "AWS_ROLE_ARN",
		"aws_role_arn":                           "AWS_ROLE_ARN",
		"ROLE_ARN":                               "AWS_ROLE_ARN",
		"AWS_WEB_IDENTITY_TOKENFILE":             "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_WEB_IDENTITY_TOKEN":                 "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_ROLE_SESSION_NAME":                  "", // is another variable
		"AWS_CONTAINER_AUTHORIZATION_TOKEN":      "",
		"AWS_SECRET_ACCESS_KEY":                  "",
		"ROLE":                                   "",
		"PATH":                                   "",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI":     "",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "",
	} {
		_, p := parse(environmentOf(name+"="+password), files{})
		if len(p) != 2 {
			t.Fatalf("%s: %v", name, p)
		}
		for _, one := range p {
			hint := "is not set, but " + name + " is; did you mean " + one.variable + "?"
			if got := one.text == hint; got != (one.variable == want) || strings.Contains(one.text, password) {
				t.Errorf("%s: %s %s", name, one.variable, one.text)
			}
		}
		if _, p := parse(environmentOf(name+"="), files{}); strings.Contains(p.Error(), "did you mean") {
			t.Errorf("%s is empty, and yet: %v", name, p)
		}
	}
}

// What envconfig reads is what the tests above parse.
func TestReadEnvironment(t *testing.T) {
	unset(t)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app")
	t.Setenv("IRSA_SIDECAR_LISTEN", "[::1]:9911")
	t.Setenv("IRSA_SIDECAR_LOG_LEVEL", "")
	e := readEnvironment()
	if want := environmentOf(os.Environ()...); !reflect.DeepEqual(e, want) || e.LogLevel != "info" || e.value("IRSA_SIDECAR_LOG_LEVEL") != "" {
		t.Errorf("read %+v, want %+v", e, want)
	}
}

// The name that STS gets is in the log if it is not the one that was set, except where it may be a secret.
func TestAChangedSessionNameIsReported(t *testing.T) {
	const changed = "AWS_ROLE_SESSION_NAME is not a session name that STS accepts, which has 2 to 64 letters, digits and _+=,.@-"
	t.Setenv(secretVariable, "a password/with a slash")
	for name, want := range map[string]string{
		"": "", "a-b": "", strings.Repeat("z", 64): "",
		"a b":                     changed + "; using a-b",
		"a":                       changed + "; using a-",
		strings.Repeat("z", 100):  changed + "; using " + strings.Repeat("z", 64),
		"a password/with a slash": changed,
	} {
		s, invalid := parse(environmentOf(append([]string{"AWS_ROLE_SESSION_NAME=" + name}, good...)...), files{})
		if got := strings.Join(s.warnings, "; "); got != want || len(invalid) > 0 {
			t.Errorf("%s: %q, %v, want %q", name, got, invalid, want)
		}
	}
}
