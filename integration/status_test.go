//go:build unix

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// The first line of troubleshooting works with what an app has in its environment, and with what the sidecar has.
func TestStatusPrintsThePage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	file := filepath.Join(t.TempDir(), "token")
	s := w.serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+file)
	token := string(read(t, file))
	printed.secret("an authorization token", token)
	eventually(t, soon, "credentials", func() bool { a := s.ask(t, "Authorization", token); return a.valid() })
	uri := "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + s.base + "/v1/credentials"
	listen := "IRSA_SIDECAR_LISTEN=" + strings.TrimPrefix(s.base, "http://")
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
		r := run(t, env, "status")
		wantCode(t, r, 0)
		if r.stderr != "" {
			t.Errorf("stderr is not empty: %s", r.stderr)
		}
		want(t, "status", r.stdout, "irsa-sidecar ", "profile default\n", "  role ", roleARN, "  last error ", "none", "AWS_CONTAINER_CREDENTIALS_FULL_URI="+s.base)
	}
	r := run(t, []string{uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token}, "status", "--json")
	wantCode(t, r, 0)
	var identity struct {
		RoleARN string
		Valid   bool
	}
	if err := json.Unmarshal([]byte(r.stdout), &identity); err != nil || !identity.Valid || identity.RoleARN != roleARN {
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
		r := run(t, append([]string{uri}, refused.env...), "status")
		wantCode(t, r, 1)
		if r.stdout != "" {
			t.Errorf("printed %s", r.stdout)
		}
		want(t, "status", r.stderr, refused.words...)
	}
}

func TestStatusFailsWithoutCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ststest.Options{})
	w.sts.Break(ststest.AccessDenied)
	s := w.serve(t)
	s.waitForLine(t, "exchange failed")
	uri := "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + s.base + "/v1/credentials"
	for _, args := range [][]string{{"status"}, {"status", "--json"}} {
		r := run(t, []string{uri}, args...)
		wantCode(t, r, 1)
		want(t, "status", r.stdout, "AccessDenied")
		want(t, "status", lastLine(r.stderr), "irsa-sidecar: the sidecar has no valid credentials: AccessDenied: ", "; hint: ")
		if strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("said %s", r.stderr)
		}
	}

	s.terminate(t)
	<-s.ended
	r := run(t, []string{uri}, "status")
	wantCode(t, r, 1)
	if wanted := "irsa-sidecar: no sidecar answers at " + strings.TrimPrefix(s.base, "http://") + " (AWS_CONTAINER_CREDENTIALS_FULL_URI): connection refused\n"; r.stderr != wanted {
		t.Errorf("said %q, want %q", r.stderr, wanted)
	}
	r = run(t, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials"}, "status")
	wantCode(t, r, 2)
	want(t, "status", r.stderr, `invalid configuration: AWS_CONTAINER_CREDENTIALS_FULL_URI "169.254.170.23" is not on loopback`)
}
