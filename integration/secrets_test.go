package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// lookForSecrets has CI's look for secrets look through a text.
func lookForSecrets(t *testing.T, text string) result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "output")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return finish(t, exec.CommandContext(t.Context(), secretsScript(t), file), os.Environ())
}

func secretsScript(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"sh", "grep"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	script := filepath.Join("..", ".ci", "secrets")
	read(t, script) // or go test would not see that it has changed
	return script
}

// What the tests have for secrets has the shape that CI looks for.
func TestCIFindsSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	wantCode(t, run(t, w.env, "credentials"), 0)
	session := w.sts.Issued()[0]
	for name, secret := range map[string]string{
		"a web identity token": newToken(t, ststest.Claims{}),
		"a secret access key":  session.SecretAccessKey,
		"a session token":      session.SessionToken,
	} {
		r := lookForSecrets(t, "=== RUN   TestOne\nnothing\n=== RUN   TestTwo\n"+
			"    two_test.go:1: it is \""+secret+"\", they say, \x00\n--- PASS: TestTwo (0.00s)\n")
		wantCode(t, r, 1)
		if wanted := "secrets were printed:\n  in line 4, after \"=== RUN   TestTwo\"\n"; r.stderr != wanted || r.stdout != "" {
			t.Errorf("%s: printed %d bytes on stdout, and\n%s\nwant\n%s", name, len(r.stdout), r.stderr, wanted)
		}
	}
}

// What looks like a secret to somebody in a hurry is none.
func TestCIFindsNoSecretsWhereNoneAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	s := w.serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
	s.untilValid(t)
	corpora, err := filepath.Glob("../*/*/testdata/fuzz/*/*")
	if err != nil || corpora == nil {
		t.Fatalf("no corpora of fuzz tests: %v", err)
	}
	token := newToken(t, ststest.Claims{})
	for name, text := range map[string]string{
		"nothing":                       "",
		"a log":                         s.output(t),
		"digests of modules":            string(read(t, "../go.sum")) + string(read(t, "lint/go.sum")),
		"names in corpora":              strings.Join(corpora, "\n"),
		"what is linked, with digests":  string(output(t, exec.Command("go", "version", "-m", program(t)))),
		"README":                        string(read(t, "../README.md")),
		"a token without its signature": token[:strings.LastIndex(token, ".")+1],
		"requests":                      w.sts.Requests()[0].Encode(),
		"the ID of a key":               w.sts.Issued()[0].AccessKeyID,
	} {
		if r := lookForSecrets(t, text); r != (result{}) {
			t.Errorf("%s: exit code %d, %s", name, r.code, r.stderr)
		}
	}
}

// Who cannot look has not found that there is nothing.
func TestCIFailsWhereItCannotLookForSecrets(t *testing.T) {
	t.Parallel()
	script := secretsScript(t)
	for _, args := range [][]string{nil, {filepath.Join(t.TempDir(), "missing")}, {t.TempDir()}} {
		wantCode(t, finish(t, exec.CommandContext(t.Context(), script, args...), os.Environ()), 2)
	}
	broken := filepath.Join(t.TempDir(), "secrets")
	text := strings.Replace(string(read(t, script)), "secret='", "secret='(", 1)
	if err := os.WriteFile(broken, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	wantCode(t, finish(t, exec.CommandContext(t.Context(), "sh", broken, broken), os.Environ()), 2)
}
