//go:build unix

package commands

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// mistake is a fault that does not prevent the sidecar from starting: every answer must name it. Those that do are in
// testdata/mistakes. In env and message, {dir} is the directory of mistaken files,
// {refused} an address that refuses connections, and {sts} the STS's.
type mistake struct {
	name string
	env  []string      // changes, as [world.World.EnvWith] takes them
	sts  ststest.Fault // what STS does

	// The answer to a request for credentials. On the command line they fail for the same reason.
	status  int
	code    string
	message string
}

var mistakes = []mistake{
	// Who we are.
	{name: "a session name that STS would not take", env: []string{"AWS_ROLE_SESSION_NAME=what a name/!"}, status: 200},

	// Where STS is.
	{name: "no region anywhere", env: []string{"AWS_ENDPOINT_URL_STS", "AWS_REGION"}, status: 400, code: "RegionUnknown",
		message: `AWS_REGION and AWS_DEFAULT_REGION are not set, and the token's issuer "https://issuer.example" is not an EKS cluster's`},
	{name: "a proxy that refuses connections", env: []string{"AWS_ENDPOINT_URL_STS=https://sts.example", "HTTPS_PROXY=http://{refused}"}, status: 503, code: "EndpointUnreachable",
		message: "the proxy on the way to sts.example"},
	{name: "a proxy without a scheme", env: []string{"AWS_ENDPOINT_URL_STS=https://sts.example", "HTTPS_PROXY={refused}"}, status: 503, code: "EndpointUnreachable"},
	{name: "endpoints to be ignored", env: []string{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true", "HTTPS_PROXY={refused}"}, status: 503, code: "EndpointUnreachable"},
	{name: "a network of its own, by its address", env: []string{"KUBERNETES_SERVICE_HOST=10.0.0.1", "IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=10.0.0.2"}, status: 200},
	{name: "a proxy for others", env: []string{"HTTPS_PROXY=http://{refused}", "NO_PROXY=*"}, status: 200},
	{name: "an STS without TLS", env: []string{"AWS_ENDPOINT_URL_STS=https://{sts}"}, status: 503, code: "NotAnSTSEndpoint", message: "{sts} does not speak TLS"},

	// How we behave.
	{name: "words in capital letters, and booleans in short", env: []string{"IRSA_SIDECAR_LOG_LEVEL=DEBUG", "IRSA_SIDECAR_LOG_FORMAT=Json", "AWS_STS_REGIONAL_ENDPOINTS=Regional", "IRSA_SIDECAR_QUITQUITQUIT=1", "IRSA_SIDECAR_ACCOUNT_ID=T"}, status: 200},

	// Names.
	{name: "what Kubernetes sets beside a Service", env: []string{
		"IRSA_SIDECAR_SERVICE_HOST=10.0.0.1", "IRSA_SIDECAR_SERVICE_PORT=9912", "IRSA_SIDECAR_SERVICE_PORT_METRICS=9912", "IRSA_SIDECAR_PORT=tcp://10.0.0.1:9912",
		"IRSA_SIDECAR_PORT_9912_TCP=tcp://10.0.0.1:9912", "IRSA_SIDECAR_PORT_9912_TCP_PROTO=tcp", "IRSA_SIDECAR_PORT_9912_TCP_PORT=9912", "IRSA_SIDECAR_PORT_9912_TCP_ADDR=10.0.0.1",
	}, status: 200},
	{name: "what Kubernetes sets beside a Service with a longer name", env: []string{
		"IRSA_SIDECAR_METRICS_SERVICE_HOST=10.0.0.1", "IRSA_SIDECAR_METRICS_SERVICE_PORT=9912", "IRSA_SIDECAR_METRICS_SERVICE_PORT_HTTP=9912", "IRSA_SIDECAR_METRICS_PORT=tcp://10.0.0.1:9912",
		"IRSA_SIDECAR_METRICS_PORT_9912_TCP=tcp://10.0.0.1:9912", "IRSA_SIDECAR_METRICS_PORT_9912_TCP_PROTO=tcp",
	}, status: 200},

	// The token.
	{name: "no token there", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/nothing"}, status: 503, code: "TokenFileMissing", message: "token file {dir}/nothing does not exist"},
	{name: "an empty token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/empty"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/empty is empty"},
	{name: "a directory for a token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}"}, status: 503, code: "TokenFileUnreadable", message: "token file {dir} is a directory, not a file"},
	{name: "a pipe for a token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/pipe"}, status: 503, code: "TokenFileUnreadable", message: "token file {dir}/pipe is a named pipe (FIFO), not a regular file"},
	{name: "a token of a mebibyte", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/mebibyte"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/mebibyte is longer than the 20000 characters that STS accepts"},
	{name: "a token that is no JWT", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/brace"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/brace is JSON; the file must contain the token alone"},
	{name: "words for a token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/words"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/words contains more than the token: there is white space in it"},
	{name: "a token that has expired", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/expired"}, status: 503, code: "ExpiredTokenException", message: "Token expired: current date/time "},
	{name: "a token of another cluster", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/foreign"}, status: 400, code: "InvalidIdentityToken", message: "could not be validated"},
	{name: "a token for somebody else", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/vault"}, status: 400, code: "InvalidIdentityToken", message: "Incorrect token audience"},

	// STS.
	{name: "an STS that refuses connections", env: []string{"AWS_ENDPOINT_URL_STS=http://{refused}"}, status: 503, code: "EndpointUnreachable", message: "{refused}: connect: connection refused"},
	{name: "an STS that hangs up", sts: ststest.Drop, status: 503, code: "EndpointUnreachable", message: "{sts}: EOF"},
	{name: "an STS that says nothing", sts: ststest.Hang, status: 503, code: "EndpointTimeout", message: "{sts} did not answer in time"},
	{name: "a role that does not let us in", sts: ststest.AccessDenied, status: 403, code: "AccessDenied", message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
	{name: "another role", env: []string{"AWS_ROLE_ARN=" + world.RoleARN + "2"}, status: 403, code: "AccessDenied", message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
	{name: "an issuer that STS cannot reach", sts: ststest.KeysUnreachable, status: 503, code: "IDPCommunicationError", message: "Couldn't retrieve verification key"},
	{name: "a region that is switched off", sts: ststest.RegionDisabled("123456789012"), status: 403, code: "RegionDisabledException", message: "STS is not activated in this region"},
	{name: "too much", sts: ststest.Throttling, status: 503, code: "Throttling", message: "Rate exceeded"},
	{name: "a bad day", sts: ststest.InternalFailure, status: 503, code: "ServiceUnavailable", message: "HTTP 500"},
	{name: "a code that nobody knows", sts: ststest.Fault{Code: "NewException", Message: "Something new."}, status: 400, code: "UnknownError", message: "STS refused (NewException, HTTP 400): Something new."},
	{name: "a page for people", sts: ststest.HTMLPage(200), status: 503, code: "NotAnSTSEndpoint", message: "HTTP 200, text/html"},
	{name: "a block page", sts: ststest.HTMLPage(403), status: 503, code: "NotAnSTSEndpoint", message: "HTTP 403, text/html"},
	{name: "nothing at all", sts: ststest.EmptyOK, status: 503, code: "NotAnSTSEndpoint", message: "without credentials"},
	{name: "the right shape without credentials", sts: ststest.NoCredentials, status: 503, code: "NotAnSTSEndpoint", message: "without credentials"},
	{name: "half of the credentials", sts: halfCredentials, status: 503, code: "UnusableCredentials", message: "STS answered without SessionToken"},
}

// halfCredentials are credentials without the session token, which no AWS service accepts.
var halfCredentials = ststest.Fault{Body: `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult><Credentials>
    <AccessKeyId>ASIAEXAMPLEEXAMPLE00</AccessKeyId><SecretAccessKey>EXAMPLE</SecretAccessKey><Expiration>2100-01-01T00:00:00Z</Expiration>
  </Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>
`}

func TestAMistakeIsReportedWhereverOneAsks(t *testing.T) {
	t.Parallel()
	dir := mistakenFiles(t)
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := world.New(t, ststest.Options{})
			w.STS.Break(m.sts)
			places := []string{"{dir}", dir, "{sts}", strings.TrimPrefix(w.STSURL, "http://")}
			if slices.ContainsFunc(m.env, func(change string) bool { return strings.Contains(change, "{refused}") }) {
				places = append(places, "{refused}", world.RefusingAddress(t))
			}
			fill := strings.NewReplacer(places...).Replace
			var env []string
			for _, change := range m.env {
				env = append(env, fill(change))
			}
			m.wantAnswer(t, w, env, fill)
		})
	}
}

func (m mistake) wantAnswer(t *testing.T, w *world.World, env []string, fill func(string) string) {
	s := w.Serve(t, env...)
	var a world.Answer
	world.Eventually(t, world.Soon, "the outcome of the first exchange", func() bool {
		a = s.Ask(t)
		return a.Code != "CredentialsUninitialized"
	})
	if a.Status != m.status || a.Code != m.code {
		t.Errorf("answered %d %q, want %d %q: %s", a.Status, a.Code, m.status, m.code, a.Message)
	}
	world.WantContains(t, "the answer", a.Message, strings.TrimSuffix(fill(m.message), "."))
	s.WantRunning(t)
	if status, _ := s.OpsPage(t, "/livez"); status != http.StatusOK {
		t.Errorf("/livez answered %d: a restart fixes nothing of this", status)
	}
	for _, page := range []string{s.BaseURL + "/", "http://" + s.AdminAddress + "/", "http://" + s.OpsAddress + "/readyz", "http://" + s.OpsAddress + "/metrics"} {
		_, body := s.OpenPage(t, page)
		world.WantContains(t, page, body, m.code)
	}

	r := world.RunCommand(t, w.EnvWith(env...), "credentials")
	if m.status == http.StatusOK {
		world.WantExitCode(t, r, 0)
		return
	}
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "the last line on stderr", world.LastLine(r.Stderr), "irsa-sidecar: "+m.code+": ", fill(m.message), "; hint: "+a.Message[strings.LastIndex(a.Message, "; ")+2:])
	var line map[string]any // the first: later ones have the short advice
	for text := range strings.Lines(s.Output(t)) {
		if line = world.FindLog(text, "exchange failed"); line != nil {
			break
		}
	}
	if line["reason"] != m.code || line["hint"] != a.Hint {
		t.Errorf("the log gives %v and advises %v; the answer says %s and %s", line["reason"], line["hint"], a.Code, a.Hint)
	}
}

// mistakenFiles makes files that are used as a token by mistake.
func mistakenFiles(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	i, err := ststest.NewIssuer("https://issuer.example")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := i.Token(ststest.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	world.Leaks.Token(foreign)
	for name, content := range map[string]string{
		"empty":    "",
		"words":    "this is no token\n",
		"brace":    "{",
		"mebibyte": strings.Repeat("0123456789abcdef", 1<<16),
		"expired":  world.NewToken(t, ststest.Claims{Lifetime: -1}),
		"vault":    world.NewToken(t, ststest.Claims{Audience: []string{"vault"}}),
		"foreign":  foreign,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A token that this user may not read. Root runs the program as another user.
func TestATokenThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	file := filepath.Join(t.TempDir(), "locked")
	if err := os.WriteFile(file, []byte(world.NewToken(t, ststest.Claims{})), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), world.Program(t), "credentials", "--from", "exchange")
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 49911, Gid: 49911}}
	}
	r := world.RunToEnd(t, cmd, w.EnvWith("AWS_WEB_IDENTITY_TOKEN_FILE="+file))
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "stderr", r.Stderr, "irsa-sidecar: TokenFileUnreadable: token file "+file+" may not be read by uid ")
	if r.Stdout != "" {
		t.Errorf("%d bytes on stdout", len(r.Stdout))
	}
	if strings.Count(r.Stderr, "irsa-sidecar: ") != 1 {
		t.Errorf("the name of the program should begin the message, once:\n%s", r.Stderr)
	}
}

// Each variable of the program has a mistake, here or in a script.
func TestEveryVariableHasItsMistakes(t *testing.T) {
	t.Parallel()
	variables := configurationVariables(t)
	if len(variables) < 20 {
		t.Fatalf("help lists %d variables: %q", len(variables), variables)
	}
	var all []string
	for _, m := range mistakes {
		all = append(all, m.env...)
	}
	files, err := filepath.Glob("testdata/mistakes/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for line := range strings.Lines(string(world.ReadFile(t, file))) {
			if strings.HasPrefix(line, "! with ") || strings.HasPrefix(line, "! sh ") { // not a message that names another variable
				all = append(all, strings.Fields(line)...)
			}
		}
	}
	for _, name := range variables {
		if !slices.ContainsFunc(all, func(word string) bool { return strings.HasPrefix(strings.TrimPrefix(word, "'"), name+"=") }) {
			t.Errorf("there is no mistake with %s", name)
		}
	}
}

// configurationVariables are those in the help.
func configurationVariables(t *testing.T) (names []string) {
	t.Helper()
	help := world.RunCommand(t, nil, "help", "serve").Stdout
	for _, v := range regexp.MustCompile(`(?m)^  ([A-Z_]+)(?: |$)`).FindAllStringSubmatch(help, -1) {
		names = append(names, v[1])
	}
	return names
}

// An empty variable counts as unset, because templates cannot always leave one out.
func TestEmptyVariablesHaveTheirDefaults(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	var empty []string
	for _, name := range configurationVariables(t) {
		if !slices.Contains([]string{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL_STS"}, name) {
			empty = append(empty, name+"=")
		}
	}
	// It does not listen, so the default ports may be in use.
	r := world.RunCommand(t, w.EnvWith(empty...), "credentials", "--from", "exchange")
	world.WantExitCode(t, r, 0)
	if r.Stderr != "" {
		t.Errorf("printed %s", r.Stderr)
	}

	empty = slices.DeleteFunc(empty, func(change string) bool { return strings.HasSuffix(change, "LISTEN=") })
	s := w.Serve(t, empty...)
	s.Terminate(t)
	s.WantStopped(t)
	if line := world.FindLog(s.Output(t), "shutting down"); line["delay"] != "0s" || line["grace"] != "5s" {
		t.Errorf("delay %v and grace %v, want 0s and 5s", line["delay"], line["grace"])
	}
}
