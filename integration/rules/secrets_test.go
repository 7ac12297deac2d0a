package rules

import (
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/pages"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// lookForSecrets searches a text with CI's script.
func lookForSecrets(t *testing.T, text string) world.Result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "output")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return world.RunToEnd(t, exec.CommandContext(t.Context(), secretsScript(t), file), os.Environ())
}

func secretsScript(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"sh", "grep"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	script := world.Path(t, ".ci/secrets")
	world.ReadFile(t, script) // so that go test notices a change of the script
	return script
}

// The tests' secrets have the shape that CI looks for.
func TestCIFindsSecrets(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	world.WantExitCode(t, world.RunCommand(t, w.Env, "credentials"), 0)
	session := w.STS.Issued()[0]
	secrets := map[string]string{
		"a web identity token": world.NewToken(t, ststest.Claims{}),
		"a secret access key":  session.SecretAccessKey,
		"a session token":      session.SessionToken,
	}
	for _, beginning := range []string{"FwoG", "FQoG", "FQoD", "AQoD", "AgoJ"} {
		secrets["a session token that begins with "+beginning] = beginning + session.SessionToken[len(beginning):]
	}
	for name, secret := range maps.Clone(secrets) {
		form := url.QueryEscape(secret)
		secrets[name+" in a form"] = form
		secrets[name+" in a form with small letters"] = strings.NewReplacer("%2B", "%2b", "%2F", "%2f").Replace(form)
		secrets[name+" in a path"] = url.PathEscape(secret)
		secrets[name+" on a page"] = onAPage(t, secret)
	}
	file := filepath.Join(t.TempDir(), "authorization")
	w.Serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+file)
	token := string(world.ReadFile(t, file))
	world.Leaks.Secret("an authorization token", token)
	header := http.Header{"Authorization": {token}}
	asJSON, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	secrets["an authorization token in a variable"] = "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token
	secrets["an authorization token in an environment"] = fmt.Sprintf("%q", []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + token})
	secrets["an authorization token in a header"] = "Authorization: Bearer " + token
	secrets["an authorization token in HTTP/2"] = "authorization: " + token
	secrets["an authorization token in Go"] = fmt.Sprint(header)
	secrets["an authorization token in JSON"] = string(asJSON)
	secrets["an authorization token in a line of a log"] = `{"authorization":"` + token + `"}`
	for name, secret := range secrets {
		r := lookForSecrets(t, "=== RUN   TestOne\nnothing\n=== RUN   TestTwo\n"+
			"    two_test.go:1: it is "+secret+"\n--- PASS: TestTwo (0.00s)\n\x00\n")
		world.WantExitCode(t, r, 1)
		if wanted := "secrets were printed:\n  in line 4, after \"=== RUN   TestTwo\"\n"; r.Stderr != wanted || r.Stdout != "" {
			t.Errorf("%s: printed %d bytes on stdout, and\n%s\nwant\n%s", name, len(r.Stdout), r.Stderr, wanted)
		}
	}
}

// onAPage is a text as it is written in HTML.
func onAPage(t *testing.T, text string) string {
	t.Helper()
	var page strings.Builder
	if err := template.Must(template.New("page").Parse("<p>{{.}}</p>")).Execute(&page, text); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

// These are not secrets, although they look similar.
func TestCIFindsNoSecretsWhereNoneAre(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
	s.AskUntilValid(t)
	corpora, err := filepath.Glob(world.Path(t, "*/*/testdata/fuzz/*/*"))
	if err != nil || corpora == nil {
		t.Fatalf("no corpora of fuzz tests: %v", err)
	}
	token := world.NewToken(t, ststest.Claims{})
	for name, text := range map[string]string{
		"nothing":                       "",
		"a log":                         s.Output(t),
		"digests of modules":            string(world.RepoFile(t, "go.sum")) + string(world.RepoFile(t, "integration/lint/go.sum")),
		"names in corpora":              strings.Join(corpora, "\n"),
		"what is linked, with digests":  string(world.MustOutput(t, exec.Command("go", "version", "-m", world.Program(t)))),
		"README and docs":               pages.Join(world.Pages(t)),
		"a token without its signature": token[:strings.LastIndex(token, ".")+1],
		"requests":                      w.STS.Requests()[0].Encode(),
		"the ID of a key":               w.STS.Issued()[0].AccessKeyID,
		"an Authorization that is none": "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN AUTHORIZATION_TOKEN_FILE=" + strings.Repeat("/path", 20),
	} {
		if r := lookForSecrets(t, text); r != (world.Result{}) {
			t.Errorf("%s: exit code %d, %s", name, r.Code, r.Stderr)
		}
	}
}

// A script that cannot read the file must not report success.
func TestCIFailsWhereItCannotLookForSecrets(t *testing.T) {
	t.Parallel()
	script := secretsScript(t)
	for _, args := range [][]string{nil, {filepath.Join(t.TempDir(), "missing")}, {t.TempDir()}} {
		world.WantExitCode(t, world.RunToEnd(t, exec.CommandContext(t.Context(), script, args...), os.Environ()), 2)
	}
	broken := filepath.Join(t.TempDir(), "secrets")
	text := strings.Replace(string(world.ReadFile(t, script)), `secret="`, `secret="(`, 1)
	if err := os.WriteFile(broken, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	world.WantExitCode(t, world.RunToEnd(t, exec.CommandContext(t.Context(), "sh", broken, broken), os.Environ()), 2)
}
