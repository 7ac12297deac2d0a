//go:build unix

package commands

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// The first line of troubleshooting works with what an app has in its environment, and with what the sidecar has.
func TestStatusPrintsThePage(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	file := filepath.Join(t.TempDir(), "token")
	s := w.Serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+file)
	token := string(world.ReadFile(t, file))
	world.Leaks.Secret("an authorization token", token)
	world.Eventually(t, world.Soon, "credentials", func() bool { a := s.Ask(t, "Authorization", token); return a.Valid() })
	uri := "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + s.BaseURL + "/v1/credentials"
	listen := "IRSA_SIDECAR_LISTEN=" + strings.TrimPrefix(s.BaseURL, "http://")
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, env := range [][]string{
		{uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + file},
		{uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token},
		{listen, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + file},
		{listen, "IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + token},
		{uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token, "IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + password},
	} {
		r := world.RunCommand(t, env, "status")
		world.WantExitCode(t, r, 0)
		if r.Stderr != "" {
			t.Errorf("stderr is not empty: %s", r.Stderr)
		}
		world.WantContains(t, "status", r.Stdout, "irsa-sidecar ", "profile default\n", "  role ", world.RoleARN, "  last error ", "none", "AWS_CONTAINER_CREDENTIALS_FULL_URI="+s.BaseURL)
	}
	r := world.RunCommand(t, []string{uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token}, "status", "--json")
	world.WantExitCode(t, r, 0)
	var identity struct {
		RoleARN string
		Valid   bool
	}
	if err := json.Unmarshal([]byte(r.Stdout), &identity); err != nil || !identity.Valid || identity.RoleARN != world.RoleARN {
		t.Errorf("--json: %v, %+v", err, identity)
	}

	for _, refused := range []struct {
		env   []string
		words []string
	}{
		{nil, []string{"irsa-sidecar: AuthorizationRequired: ",
			"(sent without a token, for none is set in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE, AWS_CONTAINER_AUTHORIZATION_TOKEN, IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE or IRSA_SIDECAR_AUTHORIZATION_TOKEN); hint: "}},
		{[]string{"AWS_CONTAINER_AUTHORIZATION_TOKEN=" + password}, []string{"irsa-sidecar: AuthorizationRejected: ", "(sent with the token in AWS_CONTAINER_AUTHORIZATION_TOKEN); hint: "}},
		{[]string{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + wrong}, []string{"irsa-sidecar: AuthorizationRejected: ", "(sent with the token in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE); hint: "}},
	} {
		r := world.RunCommand(t, append([]string{uri}, refused.env...), "status")
		world.WantExitCode(t, r, 1)
		if r.Stdout != "" {
			t.Errorf("printed %s", r.Stdout)
		}
		world.WantContains(t, "status", r.Stderr, refused.words...)
	}
}

func TestStatusFailsWithoutCredentials(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.AccessDenied)
	s := w.Serve(t)
	s.WaitForLog(t, "exchange failed")
	uri := "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + s.BaseURL + "/v1/credentials"
	for _, args := range [][]string{{"status"}, {"status", "--json"}} {
		r := world.RunCommand(t, []string{uri}, args...)
		world.WantExitCode(t, r, 1)
		world.WantContains(t, "status", r.Stdout, "AccessDenied")
		world.WantContains(t, "status", world.LastLine(r.Stderr), "irsa-sidecar: the sidecar has no valid credentials: AccessDenied: ", "; hint: ")
		if strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("said %s", r.Stderr)
		}
	}

	s.Terminate(t)
	<-s.Ended
	r := world.RunCommand(t, []string{uri}, "status")
	world.WantExitCode(t, r, 1)
	if wanted := "irsa-sidecar: no sidecar answers at " + strings.TrimPrefix(s.BaseURL, "http://") + " (AWS_CONTAINER_CREDENTIALS_FULL_URI): connection refused\n"; r.Stderr != wanted {
		t.Errorf("said %q, want %q", r.Stderr, wanted)
	}
	r = world.RunCommand(t, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials"}, "status")
	world.WantExitCode(t, r, 2)
	world.WantContains(t, "status", r.Stderr, `invalid configuration: AWS_CONTAINER_CREDENTIALS_FULL_URI "169.254.170.23" is not on loopback`)
}
