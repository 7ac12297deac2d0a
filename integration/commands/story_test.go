//go:build unix

package commands

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestWaitGivesTheReasonAndTheHint(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.AccessDenied)
	s := w.Serve(t)
	r := world.RunCommand(t, s.CommandEnv(), "wait", "--timeout", "1s")
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "wait", world.LastLine(r.Stderr), "irsa-sidecar: no credentials after 1s: default: not ready: there are no valid credentials; ",
		"; AccessDenied; ",
		"hint: check that the role exists and that its trust policy allows the token")
	if a := s.Ask(t); a.Status != http.StatusForbidden || a.Code != "AccessDenied" {
		t.Errorf("refused by STS: %d %s, want 403 AccessDenied", a.Status, a.Code)
	}
}

func TestWaitWithoutASidecar(t *testing.T) {
	t.Parallel()
	address := world.RefusingAddress(t)
	began := time.Now()
	r := world.RunCommand(t, []string{"IRSA_SIDECAR_OPS_LISTEN=" + address}, "wait", "--timeout", "300ms")
	world.WantExitCode(t, r, 1)
	if waited := time.Since(began); waited < 300*time.Millisecond {
		t.Errorf("waited %s, not 300ms", waited)
	}
	if wanted := "irsa-sidecar: no credentials after 300ms: no sidecar answers at " + address + " (IRSA_SIDECAR_OPS_LISTEN): connection refused\n"; r.Stderr != wanted {
		t.Errorf("said %q, want %q", r.Stderr, wanted)
	}
}

func TestWaitIsToldToEnd(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.Hang)
	s := w.Serve(t)
	p := world.StartProgram(t, world.Program(t), s.CommandEnv(), "wait", "--timeout", "1h")
	// Once it asks again, it has read an answer.
	again := regexp.MustCompile(`requests_total\{code="503",listener="ops",profile="",route="/readyz"\} ([2-9]|\d\d)`)
	world.Eventually(t, world.Soon, "wait asks twice", func() bool {
		_, metrics := s.OpsPage(t, "/metrics")
		return again.MatchString(metrics)
	})
	p.Terminate(t)
	<-p.Ended
	if code := p.Cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	world.WantContains(t, "wait", world.LastLine(p.Output(t)), "interrupted before there were credentials: default: not ready")
}

func TestAskingSomethingElseThanASidecar(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t)
	// The likeliest mistake: the port of the credentials.
	r := world.RunCommand(t, []string{"IRSA_SIDECAR_OPS_LISTEN=" + strings.TrimPrefix(s.BaseURL, "http://")}, "healthcheck")
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "healthcheck", r.Stderr, "(IRSA_SIDECAR_OPS_LISTEN) is not this sidecar: 404 Not Found to /readyz")
}

func TestShutdownIsOffUnlessAskedFor(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t)
	r := world.RunCommand(t, s.CommandEnv(), "shutdown")
	world.WantExitCode(t, r, 1)
	if wanted := "irsa-sidecar: shutdown is disabled; start the sidecar with IRSA_SIDECAR_QUITQUITQUIT=true\n"; r.Stderr != wanted {
		t.Errorf("said %q, want %q", r.Stderr, wanted)
	}
	s.AskUntilValid(t)
	s.WantRunning(t)
}

func TestShutdownEndsTheSidecar(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	// The delay is for SIGTERM, which comes to all containers at once.
	s := w.Serve(t, "IRSA_SIDECAR_QUITQUITQUIT=true", "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	if r := world.RunCommand(t, s.CommandEnv(), "shutdown"); r != (world.Result{}) {
		t.Errorf("shutdown: exit code %d and not in silence: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	s.WantStopped(t)
	if cause := world.FindLog(s.Output(t), "shutting down")["cause"]; cause != "requested by /quitquitquit" {
		t.Errorf("the log gives %q as the cause of the end", cause)
	}
}

// A Pod is deleted, and while its sidecar holds on for the others, the app says that it needs it no longer.
func TestShutdownEndsTheDelay(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_QUITQUITQUIT=true", "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	s.Terminate(t)
	s.WaitForLog(t, "shutting down")
	if r := world.RunCommand(t, s.CommandEnv(), "shutdown"); r != (world.Result{}) {
		t.Errorf("shutdown: exit code %d: %s", r.Code, r.Stderr)
	}
	s.WantStopped(t)
}

// The app of a Job ends its classic sidecar with a program that its own image does not have.
func TestInstalledProgramEndsTheSidecar(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_QUITQUITQUIT=true")
	dir := t.TempDir()
	for range 2 { // a container that is restarted finds it there already
		if r := world.RunCommand(t, nil, "install", dir); r != (world.Result{}) {
			t.Fatalf("install: exit code %d and not in silence: %s%s", r.Code, r.Stdout, r.Stderr)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("it left %v (%v)", files, err)
	}
	r := world.RunToEnd(t, exec.Command(filepath.Join(dir, "irsa-sidecar"), "shutdown"), s.CommandEnv())
	if r != (world.Result{}) {
		t.Errorf("shutdown: exit code %d and not in silence: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	s.WantStopped(t)
}

// In the image its user may not read the program, and install says what would help.
func TestInstallNeedsTheGroupThatMayReadTheProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the owner of a program may read it, or let himself: this needs root")
	}
	image := world.ShippedImage(t)
	path := world.CopyOfProgram(t, os.FileMode(image.Mode), image.Group)
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
		{"with the user's own group", os.FileMode(image.Mode), image.User,
			fmt.Sprintf("irsa-sidecar: install: only the group %d may read this program: set runAsGroup: %[1]d in this container's securityContext\n", image.Group)},
		{"with root's group", os.FileMode(image.Mode), 0, "may read this program: set runAsGroup: "},
		{"where no group may", 0o111, image.Group, "irsa-sidecar: install: read this program: open " + path + ": permission denied\n"},
		{"with its group", os.FileMode(image.Mode), image.Group, ""},
		{"where all may", 0o755, image.User, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := os.Chmod(path, row.mode); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, "install", dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(image.User), Gid: uint32(row.gid)}}
			r := world.RunToEnd(t, cmd, nil)
			if row.says == "" {
				if r != (world.Result{}) || !bytes.Equal(world.ReadFile(t, filepath.Join(dir, "irsa-sidecar")), world.ReadFile(t, path)) {
					t.Errorf("exit code %d, or not the program: %s", r.Code, r.Stderr)
				}
				return
			}
			world.WantExitCode(t, r, 1)
			world.WantContains(t, "install", r.Stderr, row.says)
			if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
				t.Errorf("it left %v (%v)", files, err)
			}
		})
	}
}

func TestCredentialsForACredentialProcess(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	for _, args := range [][]string{{"credentials"}, {"credentials", "--format", "process"}} {
		r := world.RunCommand(t, w.Env, args...)
		world.WantExitCode(t, r, 0)
		if r.Stderr != "" {
			t.Errorf("%s: stderr is not empty: %s", args, r.Stderr)
		}
		var document map[string]any
		if err := json.Unmarshal([]byte(r.Stdout), &document); err != nil {
			t.Fatalf("%s: not JSON: %v", args, err)
		}
		issued := w.STS.Issued()
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
	w := world.New(t, ststest.Options{})
	const script = `eval "$("$0" credentials --format env)" && printf '%s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" "$AWS_SESSION_TOKEN" "$AWS_CREDENTIAL_EXPIRATION"`
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("this machine has no sh")
	}
	cmd := exec.CommandContext(t.Context(), shell, "-c", script, world.Program(t))
	cmd.Args = append(cmd.Args, "credentials") // for finish: its output holds secrets
	r := world.RunToEnd(t, cmd, w.Env)
	world.WantExitCode(t, r, 0)
	issued := w.STS.Issued()[0]
	if r.Stdout != strings.Join([]string{issued.AccessKeyID, issued.SecretAccessKey, issued.SessionToken, issued.Expiration.Format(time.RFC3339)}, "\n")+"\n" {
		t.Error("a shell that evaluates the lines has other values than STS issued")
	}
}

func TestCredentialsRefused(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	for _, refusal := range []struct {
		fault ststest.Fault
		words []string
	}{
		{ststest.AccessDenied, []string{"irsa-sidecar: AccessDenied: STS refused (AccessDenied, HTTP 403): Not authorized", "; hint: allow system:serviceaccount:default:app in the role's trust policy"}},
		{ststest.NoCredentials, []string{"irsa-sidecar: NotAnSTSEndpoint: ", "; hint: check AWS_ENDPOINT_URL_STS"}},
		{halfCredentials, []string{"irsa-sidecar: UnusableCredentials: STS answered without SessionToken; hint: "}},
	} {
		w.STS.Break(refusal.fault)
		for format, printed := range map[string]string{"process": "", "env": failingLine} {
			r := world.RunCommand(t, w.Env, "credentials", "--format", format)
			world.WantExitCode(t, r, 1)
			if r.Stdout != printed {
				t.Errorf("--format %s printed %d bytes, want %q", format, len(r.Stdout), printed)
			}
			world.WantContains(t, "the last line", world.LastLine(r.Stderr), refusal.words...)
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
		r := world.RunCommand(t, nil, args...)
		world.WantExitCode(t, r, 0)
		if !regexp.MustCompile(`^irsa-sidecar \S+ go1\.\d\S* \w+/\w+\n$`).MatchString(r.Stdout) || r.Stderr != "" {
			t.Errorf("%s printed %q and %q", args, r.Stdout, r.Stderr)
		}
	}
	for _, test := range []struct{ args, words []string }{
		{[]string{"help"}, []string{"Usage: irsa-sidecar [COMMAND]", "  wait ", "Exit codes: "}},
		{[]string{"--help"}, []string{"Usage: irsa-sidecar [COMMAND]"}},
		{[]string{"-h"}, []string{"Usage: irsa-sidecar [COMMAND]"}},
		{[]string{"wait", "--help"}, []string{"Usage: irsa-sidecar wait [--timeout 30s]", "IRSA_SIDECAR_OPS_LISTEN (:9912)"}},
		{[]string{"serve", "-h"}, []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "IRSA_SIDECAR_LISTEN (127.0.0.1:9911)"}},
	} {
		r := world.RunCommand(t, nil, test.args...)
		world.WantExitCode(t, r, 0)
		if r.Stderr != "" {
			t.Errorf("%s printed on stderr: %q", test.args, r.Stderr)
		}
		world.WantContains(t, strings.Join(test.args, " "), r.Stdout, test.words...)
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
		r := world.RunCommand(t, []string{variable + "=" + listener.Addr().String()}, args...)
		world.WantExitCode(t, r, 1)
		world.WantContains(t, args[0], r.Stderr, "no sidecar answers at "+listener.Addr().String()+" ("+variable+") in time")
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%s took %s", args[0], took)
		}
	}
}
