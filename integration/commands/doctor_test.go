//go:build unix

package commands

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// newClinic is a world whose issuer answers, so that a signature can be verified, and whose role has a trust policy.
func newClinic(t *testing.T) (*world.World, trustpolicy.Identity) {
	t.Helper()
	w := world.New(t, ststest.Options{})
	issuer := world.StartIssuer(t)
	w.Issuer = issuer
	w.Rotate(t, ststest.Claims{})
	id := trustpolicy.Identity{Partition: "aws", Account: "123456789012", Issuer: issuer.URL(), Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:default:app"}
	w.STS.Change(func(o *ststest.Options) { o.Issuer, o.TrustPolicy = issuer, string(id.Policy()) })
	return w, id
}

func TestTheDoctorsExitCodeAndOutput(t *testing.T) {
	t.Parallel()
	w, id := newClinic(t)
	healthy := world.RunCommand(t, w.Env, "doctor")
	world.WantExitCode(t, healthy, 0)
	if healthy.Stderr != "" || strings.Contains(healthy.Stdout, "\x1b") {
		t.Errorf("not in silence, or in color where there is no terminal: %s%s", healthy.Stdout, healthy.Stderr)
	}
	for _, line := range []string{"ok    signature", "ok    sts", "ok    identity", "0 warn, 0 FAIL"} {
		world.WantContains(t, "the report", healthy.Stdout, line)
	}

	wrong := strings.Replace(string(id.Policy()), ":app", ":web", 1)
	w.STS.Change(func(o *ststest.Options) { o.TrustPolicy = wrong })
	file := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	r := world.RunCommand(t, w.Env, "doctor", "--trust-policy", file, "--json")
	world.WantExitCode(t, r, 1)
	if !strings.HasPrefix(r.Stderr, "irsa-sidecar: doctor: cause: "+file+" line 13") || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("the last line is %q", r.Stderr)
	}
	type fix struct{ What, Kind, Text string }
	var report struct {
		Schema      int
		Cause       struct{ Check, Key, Text string }
		Result      string
		TrustPolicy json.RawMessage
		Findings    []struct {
			Check, Status, Key, Finding string
			Consequence                 bool
			Fixes                       []fix
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	if report.Schema != 2 || report.Result != "fail" || len(report.TrustPolicy) == 0 {
		t.Errorf("schema %d, result %q, policy %s", report.Schema, report.Result, report.TrustPolicy)
	}
	found := false
	for _, f := range report.Findings {
		found = found || f.Check == "trust-policy" && f.Status == "fail" && f.Key == "PolicySubject" && strings.Contains(f.Finding, "line 13") &&
			slices.ContainsFunc(f.Fixes, func(f fix) bool {
				return strings.HasPrefix(f.Text, "aws iam update-assume-role-policy --role-name app ")
			})
		if f.Consequence != (f.Check == "sts") {
			t.Errorf("%s follows from the cause: %v", f.Check, f.Consequence)
		}
	}
	if report.Cause.Check != "trust-policy" || r.Stderr != "irsa-sidecar: doctor: cause: "+report.Cause.Text+"\n" {
		t.Errorf("the cause is %+v, and the last line is %q", report.Cause, r.Stderr)
	}
	if !found {
		t.Errorf("the wrong line is not named:\n%s", r.Stdout)
	}
}

// words returns a report as one line, as it was before it was wrapped.
func words(report string) string { return strings.Join(strings.Fields(report), " ") }

// A token that may not be read. If the test runs as root, the program runs as another user.
func TestTheDoctorNamesModeOwnerAndUser(t *testing.T) {
	t.Parallel()
	w, _ := newClinic(t)
	raw, err := os.ReadFile(w.Token.Path())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "irsa-sidecar-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "token")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	doctor := func() world.Result {
		cmd := exec.Command(world.Program(t), "doctor")
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		return world.RunToEnd(t, cmd, w.EnvWith("AWS_WEB_IDENTITY_TOKEN_FILE="+path))
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		r := doctor()
		world.WantContains(t, "the doctor", words(r.Stdout), "TokenFileUnreadable: token file "+path+" may not be read by uid")
		world.WantContains(t, "the doctor", words(r.Stdout), " chmod u+r "+path+" ")
		if err := os.Chmod(path, 0o400); err != nil {
			t.Fatal(err)
		}
	} else {
		r := doctor()
		world.WantContains(t, "the doctor", words(r.Stdout), "TokenFileUnreadable: token file "+path+" may not be read by uid 65534; its mode is 0600 and its owner 0:0, and this process is user 65534 with groups 65534")
		world.WantContains(t, "the doctor", words(r.Stdout), `{"spec":{"template":{"spec":{"securityContext":{"fsGroup":65534}}}}}`)
		// What the kubelet does for an fsGroup.
		if err := os.Chown(path, 0, 65534); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	r := doctor()
	world.WantExitCode(t, r, 0)
	world.WantContains(t, "the doctor", words(r.Stdout), "ok sts the exchange works")
}

// The fixes are for what is wrong, and not for its usual cause.
func TestHintsForTyposAndProxies(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	env := w.EnvWith("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARM="+world.RoleARN, "AWS_WEB_IDENTITY_TOKENFILE="+w.Token.Path())
	r := world.RunCommand(t, env, "doctor")
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "the doctor", words(r.Stdout),
		"neither AWS_ROLE_ARN nor AWS_WEB_IDENTITY_TOKEN_FILE is set; AWS_ROLE_ARM is (did you mean AWS_ROLE_ARN?); AWS_WEB_IDENTITY_TOKENFILE is (did you mean AWS_WEB_IDENTITY_TOKEN_FILE?)",
		"export AWS_ROLE_ARN="+world.RoleARN+" unset AWS_ROLE_ARM ")
	if strings.Contains(r.Stdout, "kubectl annotate") {
		t.Errorf("a typo is fixed at the service account:\n%s", r.Stdout)
	}

	token := world.NewToken(t, ststest.Claims{Issuer: "https://kubernetes.default.svc"})
	if err := w.Token.Write(token); err != nil {
		t.Fatal(err)
	}
	const region = "AWS_REGION is not set, but AWS_REGON is; did you mean AWS_REGION?"
	env = w.EnvWith("AWS_REGION", "AWS_ENDPOINT_URL_STS", "AWS_REGON=eu-west-1")
	r = world.RunCommand(t, env, "credentials")
	world.WantContains(t, "credentials", world.LastLine(r.Stderr), "RegionUnknown: ", "; hint: "+region)
	r = world.RunCommand(t, env, "doctor")
	world.WantContains(t, "the doctor", words(r.Stdout), "RegionUnknown: ", region)

	proxied := w.EnvWith("AWS_ENDPOINT_URL_STS", "HTTPS_PROXY=http://127.0.0.1:1")
	const proxy = "check the proxy in HTTPS_PROXY and the egress to it, or add the STS host to NO_PROXY"
	r = world.RunCommand(t, proxied, "credentials")
	world.WantContains(t, "credentials", world.LastLine(r.Stderr), "EndpointUnreachable: the proxy on the way to STS in "+world.Region+": ", "; hint: "+proxy)
	r = world.RunCommand(t, proxied, "doctor")
	world.WantContains(t, "the doctor", words(r.Stdout), "EndpointUnreachable: the proxy 127.0.0.1:1 for ", proxy, "export HTTPS_PROXY=", "export NO_PROXY=")
}
