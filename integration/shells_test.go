package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// failingLine is what a shell evaluates where there are no credentials.
const failingLine = "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_CREDENTIAL_EXPIRATION; false\n"

// shell finds a shell. One that this machine should have must not be missing.
func shell(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if required("debian") {
		t.Fatalf("%v: apt-get install %s", err, name)
	}
	t.Skip(err)
	return ""
}

// A shell that evaluates what credentials prints knows whether it has got any.
func TestAShellNoticesThatThereAreNoCredentials(t *testing.T) {
	t.Parallel()
	const evaluate = `eval "$(irsa-sidecar credentials --format env 2>/dev/null)"`
	const show = `; echo "status $?, key ${AWS_ACCESS_KEY_ID-unset}, secret ${AWS_SECRET_ACCESS_KEY-unset}, session ${AWS_SESSION_TOKEN-unset}, until ${AWS_CREDENTIAL_EXPIRATION-unset}"`
	const none = "status 1, key unset, secret unset, session unset, until unset\n"
	for _, name := range []string{"dash", "bash", "zsh"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := shell(t, name)
			w := newWorld(t, ststest.Options{})
			w.sts.Break(ststest.AccessDenied)
			old := []string{"AWS_ACCESS_KEY_ID=old", "AWS_SECRET_ACCESS_KEY=old", "AWS_SESSION_TOKEN=old", "AWS_CREDENTIAL_EXPIRATION=2020-01-01T00:00:00Z"}
			for _, test := range []struct {
				what   string
				args   []string
				stdin  string
				stdout string
				code   int
			}{
				{"a script goes on, without old credentials", []string{"-c", evaluate + show}, "", none, 0},
				{"set -e ends a script", []string{"-c", "set -e; " + evaluate + show}, "", "", 1},
				{"-e ends a script", []string{"-e", "-c", evaluate + show}, "", "", 1},
				{"the end of a script", []string{"-c", evaluate}, "", "", 1},
				{"a script that asks", []string{"-e", "-c", evaluate + " || echo none" + show}, "", "none\n" + strings.Replace(none, "1", "0", 1), 0},
				{"set -u", []string{"-u", "-c", evaluate + show}, "", none, 0},
				{"a shell that people use stays open", []string{"-i"}, evaluate + show + "\nexit 7\n", none, 7},
				{"a wrong flag", []string{"-e", "-c", strings.Replace(evaluate, "--format", "--frob --format", 1) + show}, "", "", 1},
				{"a wrong command", []string{"-e", "-c", strings.Replace(evaluate, "credentials", "credential", 1) + show}, "", "", 1},
			} {
				for _, before := range [][]string{nil, old} {
					cmd := exec.CommandContext(t.Context(), path, test.args...)
					cmd.Stdin = strings.NewReader(test.stdin)
					env := append(w.env, "PATH="+filepath.Dir(program(t))+":/usr/bin:/bin", "HOME="+t.TempDir(), "PS1=", "PS2=")
					r := finish(t, cmd, append(env, before...))
					if r.stdout != test.stdout || r.code != test.code {
						t.Errorf("%s: printed %q and ended with %d, want %q and %d\n%s", test.what, r.stdout, r.code, test.stdout, test.code, r.stderr)
					}
				}
			}
		})
	}
}
