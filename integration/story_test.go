//go:build unix

package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// Each test is a story: what somebody does with the program, in order, and what they see.

func TestAPodsWholeLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
	if r := run(t, s.beside(), "wait", "--timeout", soon.String()); r != (result{}) {
		t.Errorf("wait: exit code %d and not in silence: %s%s", r.code, r.stdout, r.stderr)
	}

	status, body := get(t, s.base+"/v1/credentials")
	issued := w.sts.Issued()
	if len(issued) != 1 {
		t.Fatalf("STS issued %d sessions to serve one", len(issued))
	}
	wanted := fmt.Sprintf(`{"RoleArn":"%s","AccessKeyId":"%s","SecretAccessKey":"%s","Token":"%s","Expiration":"%s"}`, roleARN,
		issued[0].AccessKeyID, issued[0].SecretAccessKey, issued[0].SessionToken, issued[0].Expiration.Format("2006-01-02T15:04:05Z"))
	if status != http.StatusOK || string(body) != wanted {
		t.Error("credentials are not served byte by byte as STS issued them and SDKs read them")
	}
	if issued[0].SessionName != "default.app-0" {
		t.Errorf("the session is called %q, want <namespace>.<pod>", issued[0].SessionName)
	}

	for _, check := range [][]string{{"healthcheck"}, {"healthcheck", "readyz"}, {"healthcheck", "livez"}, {"healthcheck", "startupz"}} {
		if r := run(t, s.beside(), check...); r != (result{}) {
			t.Errorf("%s: exit code %d and not in silence: %s%s", check, r.code, r.stdout, r.stderr)
		}
	}
	for _, url := range []string{s.base + "/", s.base + "/v1/identity", "http://" + s.admin + "/"} {
		status, page := s.open(t, url)
		if status != http.StatusOK {
			t.Errorf("%s answered %d", url, status)
		}
		want(t, url, page, "assumed-role/app/default.app-0", "Go-http-client/1.1") // who asked for credentials, too
	}
	status, metrics := s.health(t, "/metrics")
	if status != http.StatusOK {
		t.Errorf("/metrics answered %d", status)
	}
	for _, series := range []string{
		`irsa_sidecar_credentials_expiry_timestamp_seconds{profile="default"} 1`,
		`irsa_sidecar_token_expiry_timestamp_seconds{profile="default"} 1`,
		`irsa_sidecar_last_refresh_success_timestamp_seconds{profile="default"} 1`,
		`irsa_sidecar_refreshes_total{profile="default",reason="ok"} 1`,
		`irsa_sidecar_refresh_duration_seconds_count{profile="default"} 1`,
		`irsa_sidecar_http_requests_total{code="200",listener="credentials",profile="default",route="/v1/credentials"} 1`,
		`irsa_sidecar_http_request_duration_seconds_count{listener="credentials",route="/v1/credentials"} 1`,
		`irsa_sidecar_build_info{`,
	} {
		want(t, "/metrics", metrics, "\n"+series)
	}
	if strings.Contains(metrics, roleARN) {
		t.Error("/metrics names the role")
	}

	s.terminate(t)
	s.wantEnd(t)
	if cause := find(s.output(t), "shutting down")["cause"]; cause != "terminated signal received" {
		t.Errorf("the log gives %q as the cause of the end", cause)
	}
}

func TestStartsWithoutSTSAndRecovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	w.sts.Break(ststest.Drop)
	s := w.serve(t)
	eventually(t, soon, "a failed exchange", func() bool { return find(s.output(t), "exchange failed") != nil })
	if a := s.ask(t); a.status != http.StatusServiceUnavailable || a.Code != "EndpointUnreachable" {
		t.Errorf("without STS: %d %s, want 503 EndpointUnreachable", a.status, a.Code)
	}
	for path, status := range map[string]int{"/livez": 200, "/readyz": 503, "/startupz": 503} {
		if got, body := s.health(t, path); got != status {
			t.Errorf("without STS, %s answered %d, want %d: %s", path, got, status, body)
		}
	}
	r := run(t, s.beside(), "healthcheck", "startupz")
	wantCode(t, r, 1)
	want(t, "healthcheck", lastLine(r.stderr), "irsa-sidecar: default: not started", "EndpointUnreachable; ", "hint: allow egress to STS")

	waiting := start(t, program(t), s.beside(), "wait", "--timeout", soon.String())
	waiting.wantRunning(t)
	w.sts.Repair()
	select {
	case <-waiting.ended:
		if waiting.err != nil {
			t.Errorf("wait, with STS back: %v\n%s", waiting.err, waiting.output(t))
		}
	case <-time.After(soon):
		t.Fatalf("wait still waits %s after STS came back", soon)
	}
	if a := s.ask(t); !a.valid() {
		t.Errorf("after wait: %d %s", a.status, a.Code)
	}
}

func TestWaitGivesTheReasonAndTheHint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	w.sts.Break(ststest.AccessDenied)
	s := w.serve(t)
	r := run(t, s.beside(), "wait", "--timeout", "1s")
	wantCode(t, r, 1)
	want(t, "wait", lastLine(r.stderr), "irsa-sidecar: no credentials after 1s: default: not ready: there are no valid credentials; ",
		"; AccessDenied; ",
		"hint: check that the role exists and that its trust policy allows the token")
	if a := s.ask(t); a.status != http.StatusForbidden || a.Code != "AccessDenied" {
		t.Errorf("refused by STS: %d %s, want 403 AccessDenied", a.status, a.Code)
	}
}

func TestWaitWithoutASidecar(t *testing.T) {
	t.Parallel()
	address := refusingAddress(t)
	began := time.Now()
	r := run(t, []string{"IRSA_SIDECAR_OPS_LISTEN=" + address}, "wait", "--timeout", "300ms")
	wantCode(t, r, 1)
	if waited := time.Since(began); waited < 300*time.Millisecond {
		t.Errorf("waited %s, not 300ms", waited)
	}
	if wanted := "irsa-sidecar: no credentials after 300ms: no sidecar answers at " + address + " (IRSA_SIDECAR_OPS_LISTEN): connection refused\n"; r.stderr != wanted {
		t.Errorf("said %q, want %q", r.stderr, wanted)
	}
}

func TestWaitIsToldToEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	w.sts.Break(ststest.Hang)
	s := w.serve(t)
	p := start(t, program(t), s.beside(), "wait", "--timeout", "1h")
	// Once it asks again, it has read an answer.
	again := regexp.MustCompile(`requests_total\{code="503",listener="ops",profile="",route="/readyz"\} ([2-9]|\d\d)`)
	eventually(t, soon, "wait asks twice", func() bool {
		_, metrics := s.health(t, "/metrics")
		return again.MatchString(metrics)
	})
	p.terminate(t)
	<-p.ended
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	want(t, "wait", lastLine(p.output(t)), "interrupted before there were credentials: default: not ready")
}

func TestAskingSomethingElseThanASidecar(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t)
	// The likeliest mistake: the port of the credentials.
	r := run(t, []string{"IRSA_SIDECAR_OPS_LISTEN=" + strings.TrimPrefix(s.base, "http://")}, "healthcheck")
	wantCode(t, r, 1)
	want(t, "healthcheck", r.stderr, "(IRSA_SIDECAR_OPS_LISTEN) is not this sidecar: 404 Not Found to /readyz")
}

func TestShutdownIsOffUnlessAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t)
	r := run(t, s.beside(), "shutdown")
	wantCode(t, r, 1)
	if wanted := "irsa-sidecar: shutdown is disabled; start the sidecar with IRSA_SIDECAR_QUITQUITQUIT=true\n"; r.stderr != wanted {
		t.Errorf("said %q, want %q", r.stderr, wanted)
	}
	s.untilValid(t)
	s.wantRunning(t)
}

func TestShutdownEndsTheSidecar(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	// The delay is for SIGTERM, which comes to all containers at once.
	s := w.serve(t, "IRSA_SIDECAR_QUITQUITQUIT=true", "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	if r := run(t, s.beside(), "shutdown"); r != (result{}) {
		t.Errorf("shutdown: exit code %d and not in silence: %s%s", r.code, r.stdout, r.stderr)
	}
	s.wantEnd(t)
	if cause := find(s.output(t), "shutting down")["cause"]; cause != "requested by /quitquitquit" {
		t.Errorf("the log gives %q as the cause of the end", cause)
	}
}

// A Pod is deleted, and while its sidecar holds on for the others, the app says that it needs it no longer.
func TestShutdownEndsTheDelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_QUITQUITQUIT=true", "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	s.terminate(t)
	s.waitForLine(t, "shutting down")
	if r := run(t, s.beside(), "shutdown"); r != (result{}) {
		t.Errorf("shutdown: exit code %d: %s", r.code, r.stderr)
	}
	s.wantEnd(t)
}

// The app of a Job ends its classic sidecar with a program that its own image does not have.
func TestInstalledProgramEndsTheSidecar(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_QUITQUITQUIT=true")
	dir := t.TempDir()
	for range 2 { // a container that is restarted finds it there already
		if r := run(t, nil, "install", dir); r != (result{}) {
			t.Fatalf("install: exit code %d and not in silence: %s%s", r.code, r.stdout, r.stderr)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("it left %v (%v)", files, err)
	}
	r := finish(t, exec.Command(filepath.Join(dir, "irsa-sidecar"), "shutdown"), s.beside())
	if r != (result{}) {
		t.Errorf("shutdown: exit code %d and not in silence: %s%s", r.code, r.stdout, r.stderr)
	}
	s.wantEnd(t)
}

// In the image its user may not read the program, and install says what would help.
func TestInstallNeedsTheGroupThatMayReadTheProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the owner of a program may read it, or let himself: this needs root")
	}
	image := ourImage(t)
	path := copyOfProgram(t, os.FileMode(image.mode), image.group)
	dir := filepath.Join(filepath.Dir(path), "bin")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		mode os.FileMode
		gid  int
		says string
	}{
		{"with the user's own group", os.FileMode(image.mode), image.user,
			fmt.Sprintf("irsa-sidecar: install: only the group %d may read this program: set runAsGroup: %[1]d in this container's securityContext\n", image.group)},
		{"with root's group", os.FileMode(image.mode), 0, "may read this program: set runAsGroup: "},
		{"where no group may", 0o111, image.group, "irsa-sidecar: install: read this program: open " + path + ": permission denied\n"},
		{"with its group", os.FileMode(image.mode), image.group, ""},
		{"where all may", 0o755, image.user, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := os.Chmod(path, row.mode); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, "install", dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(image.user), Gid: uint32(row.gid)}}
			r := finish(t, cmd, nil)
			if row.says == "" {
				if r != (result{}) || !bytes.Equal(read(t, filepath.Join(dir, "irsa-sidecar")), read(t, path)) {
					t.Errorf("exit code %d, or not the program: %s", r.code, r.stderr)
				}
				return
			}
			wantCode(t, r, 1)
			want(t, "install", r.stderr, row.says)
			if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
				t.Errorf("it left %v (%v)", files, err)
			}
		})
	}
}

func TestCredentialsForACredentialProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	for _, args := range [][]string{{"credentials"}, {"credentials", "--format", "process"}} {
		r := run(t, w.env, args...)
		wantCode(t, r, 0)
		if r.stderr != "" {
			t.Errorf("%s: stderr is not empty: %s", args, r.stderr)
		}
		var document map[string]any
		if err := json.Unmarshal([]byte(r.stdout), &document); err != nil {
			t.Fatalf("%s: not JSON: %v", args, err)
		}
		issued := w.sts.Issued()
		last := issued[len(issued)-1]
		for field, value := range map[string]any{
			"Version": 1.0, "AccessKeyId": last.AccessKeyID, "SecretAccessKey": last.SecretAccessKey,
			"SessionToken": last.SessionToken, "Expiration": last.Expiration.Format(time.RFC3339),
		} {
			if document[field] != value {
				t.Errorf("%s: %s is not what STS issued", args, field)
			}
		}
		if len(document) != 5 {
			t.Errorf("%s: %d fields, want 5", args, len(document))
		}
	}
}

func TestCredentialsForAShell(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	const script = `eval "$("$0" credentials --format env)" && printf '%s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" "$AWS_SESSION_TOKEN" "$AWS_CREDENTIAL_EXPIRATION"`
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("this machine has no sh")
	}
	cmd := exec.CommandContext(t.Context(), shell, "-c", script, program(t))
	cmd.Args = append(cmd.Args, "credentials") // for finish: its output holds secrets
	r := finish(t, cmd, w.env)
	wantCode(t, r, 0)
	issued := w.sts.Issued()[0]
	if r.stdout != strings.Join([]string{issued.AccessKeyID, issued.SecretAccessKey, issued.SessionToken, issued.Expiration.Format(time.RFC3339)}, "\n")+"\n" {
		t.Error("a shell that evaluates the lines has other values than STS issued")
	}
}

func TestCredentialsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	for _, refusal := range []struct {
		fault ststest.Fault
		words []string
	}{
		{ststest.AccessDenied, []string{"irsa-sidecar: AccessDenied: STS refused (AccessDenied, HTTP 403): Not authorized", "; hint: allow system:serviceaccount:default:app in the role's trust policy"}},
		{ststest.NoCredentials, []string{"irsa-sidecar: NotAnSTSEndpoint: ", "; hint: check AWS_ENDPOINT_URL_STS"}},
		{halfCredentials, []string{"irsa-sidecar: UnusableCredentials: STS answered without SessionToken; hint: "}},
	} {
		w.sts.Break(refusal.fault)
		for format, printed := range map[string]string{"process": "", "env": failingLine} {
			r := run(t, w.env, "credentials", "--format", format)
			wantCode(t, r, 1)
			if r.stdout != printed {
				t.Errorf("--format %s printed %d bytes, want %q", format, len(r.stdout), printed)
			}
			want(t, "the last line", lastLine(r.stderr), refusal.words...)
		}
	}
}

// halfCredentials are credentials without the session token, which no AWS service would take.
var halfCredentials = ststest.Fault{Body: `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult><Credentials>
    <AccessKeyId>ASIAEXAMPLEEXAMPLE00</AccessKeyId><SecretAccessKey>EXAMPLE</SecretAccessKey><Expiration>2100-01-01T00:00:00Z</Expiration>
  </Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>
`}

func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"version"}, {"--version"}} {
		r := run(t, nil, args...)
		wantCode(t, r, 0)
		if !regexp.MustCompile(`^irsa-sidecar \S+ go1\.\d\S* \w+/\w+\n$`).MatchString(r.stdout) || r.stderr != "" {
			t.Errorf("%s printed %q and %q", args, r.stdout, r.stderr)
		}
	}
	for _, test := range []struct{ args, words []string }{
		{[]string{"help"}, []string{"Usage: irsa-sidecar [COMMAND]", "  wait ", "Exit codes: "}},
		{[]string{"--help"}, []string{"Usage: irsa-sidecar [COMMAND]"}},
		{[]string{"-h"}, []string{"Usage: irsa-sidecar [COMMAND]"}},
		{[]string{"wait", "--help"}, []string{"Usage: irsa-sidecar wait [--timeout 30s]", "IRSA_SIDECAR_OPS_LISTEN (:9912)"}},
		{[]string{"serve", "-h"}, []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "IRSA_SIDECAR_LISTEN (127.0.0.1:9911)"}},
	} {
		r := run(t, nil, test.args...)
		wantCode(t, r, 0)
		if r.stderr != "" {
			t.Errorf("%s printed on stderr: %q", test.args, r.stderr)
		}
		want(t, strings.Join(test.args, " "), r.stdout, test.words...)
	}
}

func TestKeepsServingDuringTheShutdownDelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	before := s.untilValid(t)
	if status, body := s.health(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz answered %d before the signal: %s", status, body)
	}

	s.terminate(t)
	s.waitForLine(t, "shutting down")
	eventually(t, soon, "/readyz says that the sidecar is shutting down", func() bool {
		status, body := s.health(t, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "the sidecar is shutting down")
	})
	if a := s.ask(t); a.AccessKeyID != before.AccessKeyID {
		t.Errorf("during the delay: %d %s, and not the credentials", a.status, a.Code)
	}
	if status, _ := s.health(t, "/livez"); status != http.StatusOK {
		t.Errorf("/livez answered %d during the delay: the kubelet would kill the sidecar", status)
	}
	s.wantRunning(t)

	s.terminate(t) // the second ends the delay, which has most of an hour to go
	s.wantEnd(t)
}

func TestTheShutdownDelayEndsByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=500ms")
	began := time.Now()
	s.terminate(t)
	s.wantEnd(t)
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("ended after %s, within the delay", took)
	}
}

func TestInterruptEndsLikeSIGTERM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t)
	s.cmd.Process.Signal(os.Interrupt)
	s.wantEnd(t)
}

func TestSIGTERMWithARequestToSTSUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	w.sts.Break(ststest.Hang)
	s := w.serve(t)
	eventually(t, soon, "the request to STS", func() bool { return w.sts.Calls() > 0 })
	began := time.Now()
	s.terminate(t)
	s.wantEnd(t)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %s to end: it waited for STS", took)
	}
}

func TestRefreshesGoOnDuringTheShutdownDelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{Lifetime: 4 * time.Second})
	s := w.serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	before := s.untilValid(t)
	s.terminate(t)
	s.waitForLine(t, "shutting down")
	eventually(t, soon, "new credentials during the delay", func() bool {
		a := s.ask(t)
		if !a.valid() {
			t.Fatalf("during the delay: %d %s", a.status, a.Code)
		}
		return a.AccessKeyID != before.AccessKeyID
	})

	// The second signal finds the next refresh under way.
	w.sts.Break(ststest.Hang)
	calls := w.sts.Calls()
	eventually(t, soon, "the next refresh", func() bool { return w.sts.Calls() > calls })
	began := time.Now()
	s.terminate(t)
	s.wantEnd(t)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %s to end: it waited for STS", took)
	}
}

// A container beside us may be waiting for its first credentials when the end comes.
func TestWhoIsAskingIsAnsweredInTheGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	release := make(chan struct{})
	sts := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		<-release
		w.sts.ServeHTTP(rw, r)
	}))
	t.Cleanup(sts.Close)
	answerNow := sync.OnceFunc(func() { close(release) })
	t.Cleanup(answerNow)
	s := w.serve(t, "AWS_ENDPOINT_URL_STS="+sts.URL)
	address := strings.TrimPrefix(s.base, "http://")
	asking, asked := dial(t, address), time.Now()
	fmt.Fprintf(asking, "GET /v1/credentials HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	for range 10 { // connections are taken in turn: with these answered, the one before is being answered
		converse(t, address, []byte("GET / HTTP/1.1\r\nHost: "+address+"\r\nConnection: close\r\n\r\n"))
	}

	s.terminate(t)
	eventually(t, soon, "nobody new is taken", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	s.cmd.Process.Signal(syscall.SIGTERM) // somebody is impatient: the grace is short, and goes on
	answerNow()
	response, err := http.ReadResponse(bufio.NewReader(asking), nil)
	if err != nil {
		t.Fatalf("a question that was under way is not answered: %v", err)
	}
	waited := time.Since(asked)
	var a answer
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	// Nobody is kept waiting for longer than SDKs do, and on a busy machine so much may have passed by now.
	late := a.Code == "CredentialsUninitialized" && waited > 700*time.Millisecond
	if issued := w.sts.Issued(); !late && (len(issued) != 1 || a.AccessKeyID != issued[0].AccessKeyID) {
		t.Errorf("a question that was under way is answered after %s with %s %s", waited, response.Status, a.Code)
	}
	s.wantEnd(t)
}

func TestARotatedTokenBringsNewCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{Lifetime: 5 * time.Second})
	s := w.serve(t)
	first := s.untilValid(t)

	// Which token was used is seen by its end, in the metrics.
	expires := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	w.rotate(t, ststest.Claims{Lifetime: 2 * time.Hour, IssuedAt: expires.Add(-2 * time.Hour)})
	var next answer
	eventually(t, soon, "new credentials", func() bool {
		next = s.ask(t)
		if !next.valid() {
			t.Fatalf("%d %s, although nothing is wrong", next.status, next.Code)
		}
		return next.AccessKeyID != first.AccessKeyID
	})
	if next.Expiration.Before(first.Expiration) {
		t.Errorf("newer credentials expire earlier: %s, then %s", first.Expiration, next.Expiration)
	}
	if got := s.metric(t, `irsa_sidecar_token_expiry_timestamp_seconds{profile="default"}`); got != float64(expires.Unix()) {
		t.Errorf("the token that was last used expires at %.0f, want %d: the new one was not read", got, expires.Unix())
	}
}

func TestAnExpiredTokenIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	w.rotate(t, ststest.Claims{Lifetime: -time.Minute})
	s := w.serve(t)
	var a answer
	eventually(t, soon, "STS's no", func() bool { a = s.ask(t); return a.Code != "CredentialsUninitialized" })
	if a.status != http.StatusServiceUnavailable || a.Code != "ExpiredTokenException" {
		t.Errorf("with an expired token: %d %s, want 503 ExpiredTokenException", a.status, a.Code)
	}
	w.rotate(t, ststest.Claims{})
	s.untilValid(t)
}

func TestWithoutSTSCredentialsAreServedUntilTheyExpire(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{Lifetime: 4 * time.Second})
	s := w.serve(t)
	kept := s.untilValid(t)
	if err := w.sts.Close(); err != nil {
		t.Fatal(err)
	}
	// A refresh may have slipped in before the end of STS.
	issued := w.sts.Issued()
	last := issued[len(issued)-1]
	served, late := 0, 0
	var a answer
	eventually(t, soon, "the end of the credentials", func() bool {
		if a = s.ask(t); !a.valid() { // ask has an eye on the expired
			if left := time.Until(last.Expiration); left > 0 {
				t.Errorf("%d %s with credentials valid for another %s", a.status, a.Code, left)
			}
			return true
		}
		if a.AccessKeyID != last.AccessKeyID && a.AccessKeyID != kept.AccessKeyID {
			t.Fatal("credentials that STS has not issued")
		}
		served++
		if find(s.output(t), "exchange failed") != nil {
			late++
		}
		return false
	})
	if late == 0 {
		t.Errorf("of %d answers none came after a failed exchange: the outage was not met", served)
	}
	if a.status != http.StatusServiceUnavailable || a.Code != "EndpointUnreachable" {
		t.Errorf("after the end: %d %s, want 503 EndpointUnreachable", a.status, a.Code)
	}
	for range 10 {
		if s.ask(t).valid() {
			t.Error("credentials again, with no STS to issue them")
		}
	}
	if status, body := s.health(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "EndpointUnreachable") {
		t.Errorf("/readyz answered %d %s", status, body)
	}
	if status, _ := s.health(t, "/startupz"); status != http.StatusOK {
		t.Errorf("/startupz answered %d: what has started stays so", status)
	}
	t.Logf("served %d times without STS, %d of them after a failed exchange", served, late)
}

func TestAuthorizationByVariable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	const token = "open-sesame-0123456789"
	printed.secret("an authorization token", token)
	s := w.serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+token)
	s.wantAuthorization(t, token)
	if status, _ := s.open(t, s.base+"/"); status != http.StatusForbidden {
		t.Errorf("the page answered %d without authorization", status)
	}
	if status, _ := s.health(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz answered %d: the kubelet has no token", status)
	}
}

func TestAuthorizationByFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	path := filepath.Join(t.TempDir(), "authorization")
	s := w.serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("the file has not been made: %v", err)
	}
	token := string(raw)
	printed.secret("an authorization token", token)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o440 {
		t.Errorf("the file has mode %v (%v), want 0440", info.Mode(), err)
	}
	if len(token) < 32 || strings.TrimSpace(token) != token {
		t.Errorf("the token has %d characters, or blanks around it", len(token))
	}
	s.wantAuthorization(t, token)

	// A second sidecar finds the file and leaves it alone.
	w.serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path).wantAuthorization(t, token)
}

func (s *sidecar) wantAuthorization(t *testing.T, token string) {
	t.Helper()
	eventually(t, soon, "credentials for the right token", func() bool { return s.ask(t, "Authorization", token).valid() })
	if a := s.ask(t, "Authorization", "Bearer "+token); !a.valid() {
		t.Errorf("Bearer and the right token: %d %s", a.status, a.Code)
	}
	if a := s.ask(t); a.status != http.StatusForbidden || a.Code != "AuthorizationRequired" {
		t.Errorf("no token: %d %s, want 403 AuthorizationRequired", a.status, a.Code)
	}
	for _, wrong := range []string{token + "x", token[1:], "Bearer", "Basic " + token} {
		if a := s.ask(t, "Authorization", wrong); a.status != http.StatusForbidden || a.Code != "AuthorizationRejected" {
			t.Errorf("a wrong token: %d %s, want 403 AuthorizationRejected", a.status, a.Code)
		}
	}
}

func TestIPv6Loopback(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6 loopback: %v", err)
	}
	probe.Close()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_LISTEN=[::1]:0", "IRSA_SIDECAR_OPS_LISTEN=[::1]:0", "IRSA_SIDECAR_ADMIN_LISTEN=[::1]:0")
	if !strings.HasPrefix(s.base, "http://[::1]:") {
		t.Errorf("serves at %s", s.base)
	}
	s.untilValid(t)
	if r := run(t, s.beside(), "healthcheck"); r != (result{}) {
		t.Errorf("healthcheck: exit code %d: %s", r.code, r.stderr)
	}
}

func TestOpsOnAllAddressesIsAskedThroughLoopback(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_OPS_LISTEN=:0")
	_, port, err := net.SplitHostPort(s.ops)
	if err != nil {
		t.Fatal(err)
	}
	s.untilValid(t)
	for _, address := range []string{":" + port, "0.0.0.0:" + port, "[::]:" + port} {
		if r := run(t, []string{"IRSA_SIDECAR_OPS_LISTEN=" + address}, "healthcheck"); r != (result{}) {
			t.Errorf("healthcheck of %s: exit code %d: %s", address, r.code, r.stderr)
		}
	}
}

func TestSTSWithTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	i, _ := issuer()
	sts := ststest.New(ststest.Options{Issuer: i})
	printed.issuedBy(sts)
	url, ca, err := sts.StartTLS()
	if err != nil {
		t.Fatal(err)
	}
	defer sts.Close()
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, ca, 0o644); err != nil {
		t.Fatal(err)
	}
	wantCode(t, run(t, w.with("AWS_ENDPOINT_URL_STS="+url, "AWS_CA_BUNDLE="+bundle), "credentials"), 0)
	r := run(t, w.with("AWS_ENDPOINT_URL_STS="+url), "credentials")
	wantCode(t, r, 1)
	want(t, "the last line", lastLine(r.stderr), "EndpointNotTrusted: ", "set AWS_CA_BUNDLE to the proxy's CA")
}

// A proxy sees where the program wants to go, without anybody going there.
func TestWhichSTSIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	eks := filepath.Join(t.TempDir(), "token")
	token := newToken(t, ststest.Claims{Issuer: "https://oidc.eks.ap-southeast-2.amazonaws.com/id/EXAMPLE"})
	if err := os.WriteFile(eks, []byte(token), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		host    string
		changes []string
	}{
		{"sts.eu-west-1.amazonaws.com:443", []string{"AWS_REGION=eu-west-1"}},
		{"sts.eu-west-1.amazonaws.com:443", []string{"AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=us-west-2", "AWS_STS_REGIONAL_ENDPOINTS=legacy"}},
		{"sts.us-west-2.amazonaws.com:443", []string{"AWS_REGION=", "AWS_DEFAULT_REGION=us-west-2"}},
		{"sts.ap-southeast-2.amazonaws.com:443", []string{"AWS_REGION", "AWS_WEB_IDENTITY_TOKEN_FILE=" + eks}},
		{"sts.cn-north-1.amazonaws.com.cn:443", []string{"AWS_REGION=cn-north-1", "AWS_ROLE_ARN=arn:aws-cn:iam::123456789012:role/app"}},
		{"sts-fips.us-east-1.amazonaws.com:443", []string{"AWS_USE_FIPS_ENDPOINT=true"}},
		{"sts.us-east-1.api.aws:443", []string{"AWS_USE_DUALSTACK_ENDPOINT=true"}},
		{"sts.example:8443", []string{"AWS_ENDPOINT_URL=https://sts.example:8443"}},
		{"sts.example:8443", []string{"AWS_ENDPOINT_URL_STS=https://sts.example:8443", "AWS_ENDPOINT_URL=https://all.example"}},
	} {
		asked := make(chan string, 10)
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Method + " " + r.Host
			w.WriteHeader(http.StatusProxyAuthRequired)
		}))
		env := w.with(append([]string{"AWS_ENDPOINT_URL_STS", "HTTPS_PROXY=" + proxy.URL}, row.changes...)...)
		r := run(t, env, "credentials")
		proxy.Close()
		wantCode(t, r, 1)
		want(t, "the last line", lastLine(r.stderr), "ProxyRefused: ", "hint: check the user and the rules of the proxy in HTTPS_PROXY")
		select {
		case host := <-asked:
			if host != "CONNECT "+row.host {
				t.Errorf("%s: asked the proxy for %s, want %s", row.changes, host, row.host)
			}
		default:
			t.Errorf("%s: the proxy was not asked: %s", row.changes, r.stderr)
		}
	}
}

// The role's MaxSessionDuration is an hour, and STS does not clamp.
func TestADurationThatTheRoleDoesNotAllow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	for given, seconds := range map[string]string{"30m": "1800", "2700": "2700"} {
		wantCode(t, run(t, w.with("IRSA_SIDECAR_DURATION="+given), "credentials"), 0)
		if requests := w.sts.Requests(); requests[len(requests)-1].Get("DurationSeconds") != seconds {
			t.Errorf("%s: asked for %q seconds", given, requests[len(requests)-1].Get("DurationSeconds"))
		}
	}
	s := w.serve(t, "IRSA_SIDECAR_DURATION=4h")
	if a := s.untilValid(t); time.Until(a.Expiration) > time.Hour {
		t.Errorf("a session until %s", a.Expiration)
	}
	want(t, "the log", s.output(t), "the role does not allow sessions this long")
}

func TestSessionPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	policy := filepath.Join(t.TempDir(), "policy.json")
	const document = `{"Version":"2012-10-17","Statement":[]}`
	if err := os.WriteFile(policy, []byte(document+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"
	wantCode(t, run(t, w.with("IRSA_SIDECAR_POLICY_FILE="+policy, "IRSA_SIDECAR_POLICY_ARNS="+arn+", "+arn, "AWS_ROLE_SESSION_NAME=my app"), "credentials"), 0)
	request := w.sts.Requests()[0]
	for parameter, value := range map[string]string{
		"Policy": document, "PolicyArns.member.1.arn": arn, "PolicyArns.member.2.arn": arn, "RoleSessionName": "my-app",
	} {
		if request.Get(parameter) != value {
			t.Errorf("%s is %q, want %q", parameter, request.Get(parameter), value)
		}
	}
}

func TestAccountIDOnRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_ACCOUNT_ID=true")
	s.untilValid(t)
	if _, body := get(t, s.base+"/v1/credentials"); !strings.HasSuffix(string(body), `,"AccountId":"123456789012"}`) {
		t.Error("the account is not served")
	}
}

func TestTextLogForPeople(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	p := start(t, program(t), w.with("IRSA_SIDECAR_LOG_FORMAT=text", "IRSA_SIDECAR_LOG_LEVEL=debug"), "serve")
	eventually(t, soon, "the first credentials", func() bool { return strings.Contains(p.output(t), `msg="credentials refreshed"`) })
	want(t, "the log", p.output(t), "level=INFO msg=serving version=dev credentials=http://127.0.0.1:")
}

// metric returns the value of a series.
func (s *sidecar) metric(t *testing.T, series string) float64 {
	t.Helper()
	_, metrics := s.health(t, "/metrics")
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("there is no %s in\n%s", series, metrics)
	return 0
}

// killed ends a sidecar as the kernel does when memory runs out.
func (s *sidecar) killed(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.ended
}

func TestARestartSurvivesAnOutageOfSTS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{Lifetime: 20 * time.Second})
	dir, err := os.MkdirTemp("/dev/shm", "irsa-sidecar-test-") // in memory, as the program wants it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	state := "IRSA_SIDECAR_STATE_FILE=" + filepath.Join(dir, "state")

	first := w.serve(t, state)
	before := first.untilValid(t)
	first.killed(t)
	w.sts.Break(ststest.Fault{Status: http.StatusServiceUnavailable})

	second := w.serve(t, state)
	if after := second.ask(t); after.AccessKeyID != before.AccessKeyID || !after.Expiration.Equal(before.Expiration) {
		t.Errorf("after the restart the first answer is %d, with a key that is not the one from before", after.status)
	}
	if status, body := second.health(t, "/startupz"); status != http.StatusOK {
		t.Errorf("/startupz: %d %s", status, body)
	}
	if line := find(second.output(t), "credentials restored from the state file"); line == nil {
		t.Error("and the log says nothing about it")
	}
	second.killed(t)

	// Neither another role's sidecar takes them, nor one without the file.
	for _, change := range []string{"AWS_ROLE_ARN=" + roleARN + "-2", "IRSA_SIDECAR_STATE_FILE"} {
		third := w.serve(t, state, change)
		if answer := third.ask(t); answer.valid() {
			t.Errorf("with %s there are credentials", change)
		}
		third.killed(t)
	}
	// The other role has got none, and has left the file as it was.
	fourth := w.serve(t, state)
	if !fourth.ask(t).valid() {
		t.Fatal("they are gone")
	}
	eventually(t, soon+20*time.Second, "the end of what was restored", func() bool { return !fourth.ask(t).valid() })
	if now := time.Now(); now.Before(before.Expiration.Add(-2 * time.Second)) {
		t.Errorf("they ended at %s, and were good until %s", now, before.Expiration)
	}
	w.sts.Repair()
	fourth.untilValid(t)
}

// Another process of the same user, as in a Pod with shareProcessNamespace or in the same container, gets
// nothing by way of /proc.
func TestTheSameUserCannotLookInside(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: the test's own user looks")
	}
	const nobody = 65534
	cmd := exec.Command(program(t), "wait", "--timeout", "1m")
	spy := []string{"environ", "mem", "maps", "fd", "root", "cwd", "stack"}
	look := exec.Command("sh", "-c", `for f in `+strings.Join(spy, " ")+`; do case $f in fd) ls /proc/$0/fd;; root|cwd) readlink /proc/$0/$f;; *) head -c1 /proc/$0/$f;; esac >/dev/null 2>&1 && echo $f; done; exit 0`)
	control := exec.Command("sleep", "60")
	for _, c := range []*exec.Cmd{cmd, control, look} {
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "IRSA_SIDECAR_OPS_LISTEN=" + refusingAddress(t)}
		if os.Geteuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
	}
	for _, c := range []*exec.Cmd{cmd, control} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	}
	seen := func(pid int) string {
		again := exec.Command(look.Path, append(look.Args[1:], strconv.Itoa(pid))...)
		again.Env, again.SysProcAttr = look.Env, look.SysProcAttr
		return string(output(t, again))
	}
	if of := seen(control.Process.Pid); !strings.Contains(of, "environ\n") || !strings.Contains(of, "maps\n") {
		t.Fatalf("of a process that hides nothing is seen only %q: this test could not fail", of)
	}
	eventually(t, soon, "a process that hides", func() bool { return seen(cmd.Process.Pid) == "" })
	limits := string(read(t, fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid)))
	if !regexp.MustCompile(`Max core file size +0 +0 `).MatchString(limits) {
		t.Errorf("core dumps are not switched off:\n%s", limits)
	}
}

// Until the program can make itself undumpable, only the image keeps other processes of its user out: a program
// that its user may not read is closed to them from the exec on. Where the user may read it, its environment is
// seen in nearly every start; otherwise this test could not fail.
func TestTheSameUserCannotLookInsideFromTheFirstInstant(t *testing.T) {
	const spiedOn, starts, nobody = "IRSA_TEST_SPIED_ON", 50, 65534
	if path := os.Getenv(spiedOn); path != "" {
		seen := 0
		for range starts {
			if seesTheStart(t, path) {
				seen++
			}
		}
		fmt.Printf("seen=%d\n", seen)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("the owner of a program may read it, or let himself: this needs root")
	}
	image := ourImage(t)
	for _, row := range []struct {
		name  string
		mode  os.FileMode
		group int // of the process
		seen  bool
	}{
		{"as in the image", os.FileMode(image.mode), nobody, false},
		{"as Kubernetes runs it without runAsGroup", os.FileMode(image.mode), 0, false},
		{"as install needs it", os.FileMode(image.mode), image.group, true},
		{"readable by all", 0o755, nobody, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := copyOfProgram(t, row.mode, image.group)
			spy := exec.Command("/proc/self/exe", "-test.run=^TestTheSameUserCannotLookInsideFromTheFirstInstant$", "-test.count=1", "-test.v")
			spy.Env, spy.Dir = []string{spiedOn + "=" + path, "PATH=" + os.Getenv("PATH")}, "/"
			spy.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: uint32(row.group)}}
			said := string(output(t, spy))
			match := regexp.MustCompile(`(?m)^seen=(\d+)$`).FindStringSubmatch(said)
			if match == nil {
				t.Fatalf("the spy says nothing:\n%s", said)
			}
			t.Logf("seen in %s of %d starts", match[1], starts)
			if (match[1] != "0") != row.seen {
				t.Errorf("the environment is seen in %s of %d starts", match[1], starts)
			}
		})
	}
}

// copyOfProgram is the program as root's, with this mode and group, where everybody finds it.
func copyOfProgram(t *testing.T, mode os.FileMode, group int) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(program(t)), "copy-")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "irsa-sidecar")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, read(t, program(t)), 0o700), os.Chown(path, 0, group), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// seesTheStart starts the program and looks at its environment all the time, until it has ended. The process is a
// shell before, so that its number is known; what tells the two apart is a variable that only the program has.
func seesTheStart(t *testing.T, path string) (seen bool) {
	t.Helper()
	const mark = "IRSA_TEST_MARK=secret"
	cmd := exec.Command("/bin/sh", "-c", `read go && `+mark+` exec "$0" version`, path)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.WriteString(stdin, "go\n")
		ended <- errors.Join(err, cmd.Wait())
	}()
	for environ := fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid); ; {
		if text, err := os.ReadFile(environ); err == nil && strings.Contains(string(text), mark) {
			seen = true
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			return seen
		default:
		}
	}
}

// SIGTERM may come at any moment: before there is a listener, while an exchange is under way, right after it.
func TestSIGTERMAtAnyMomentOfTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	w.sts.Break(ststest.Fault{Latency: 15 * time.Millisecond})
	stages := map[string]int{}
	for moment := time.Duration(0); moment < 80*time.Millisecond; moment += 2 * time.Millisecond {
		p := start(t, program(t), w.env)
		<-time.After(moment)
		p.terminate(t)
		select {
		case <-p.ended:
		case <-time.After(soon):
			t.Fatalf("told to end after %s, it is still there", moment)
		}
		log := p.output(t)
		stage := "before its first line"
		switch {
		case find(log, "credentials refreshed") != nil:
			stage = "with credentials"
		case find(log, "serving") != nil:
			stage = "serving"
		}
		stages[stage]++
		// Before main the runtime itself takes the signal, and there is nothing yet to end well.
		if p.err != nil && stage != "before its first line" {
			t.Errorf("told to end after %s, %s, it ended with %v:\n%s", moment, stage, p.err, log)
		}
		if p.err == nil && stage != "before its first line" && find(log, "stopped") == nil {
			t.Errorf("told to end after %s, %s, it did not say that it has ended:\n%s", moment, stage, log)
		}
		for _, word := range []string{"panic", "goroutine ", "fatal error"} {
			if strings.Contains(log, word) {
				t.Errorf("told to end after %s:\n%s", moment, log)
			}
		}
	}
	if stages["with credentials"] == 0 {
		t.Errorf("it was never told to end with credentials: %v", stages)
	}
}

// What asks a sidecar gives up on one that hangs, and says so.
func TestASidecarThatHangsIsGivenUpOn(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // connections wait in its queue, and nobody takes them
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for command, variable := range map[string]string{
		"healthcheck": "IRSA_SIDECAR_OPS_LISTEN", "wait --timeout 1s": "IRSA_SIDECAR_OPS_LISTEN",
		"shutdown": "IRSA_SIDECAR_ADMIN_LISTEN", "reload": "IRSA_SIDECAR_ADMIN_LISTEN",
	} {
		began := time.Now()
		args := strings.Fields(command)
		r := run(t, []string{variable + "=" + listener.Addr().String()}, args...)
		wantCode(t, r, 1)
		want(t, args[0], r.stderr, "no sidecar answers at "+listener.Addr().String()+" ("+variable+") in time")
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%s took %s", args[0], took)
		}
	}
}

// The runtime prints every goroutine on SIGQUIT, as it does when a program panics.
func TestATraceOfAllGoroutinesHoldsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	p := start(t, program(t), w.with("IRSA_SIDECAR_AUTHORIZATION_TOKEN="+password)) // not served: a trace is what is wanted here
	p.waitForLine(t, "credentials refreshed")
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	trace := p.output(t)
	want(t, "the trace", trace, "SIGQUIT: quit", "goroutine ", "net/http")
	secrets := []string{password}
	for _, session := range w.sts.Issued() {
		secrets = append(secrets, session.SecretAccessKey, session.SessionToken, session.AccessKeyID)
	}
	if len(secrets) < 4 {
		t.Fatal("nothing was issued")
	}
	for _, secret := range secrets {
		if strings.Contains(trace, secret) {
			t.Error("the trace has a secret in it")
		}
	}
}
