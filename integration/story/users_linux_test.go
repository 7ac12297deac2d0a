package story

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// outputs are all ways to ask a sidecar for the credentials of a profile.
var outputs = map[string]func(s *world.Sidecar, profile, role string) (network, address, path string){
	"the container endpoint": func(s *world.Sidecar, profile, _ string) (string, string, string) {
		return "tcp", strings.TrimPrefix(s.BaseURL, "http://"), "/v1/credentials/" + profile
	},
	"the ECS listener": func(s *world.Sidecar, profile, _ string) (string, string, string) {
		return "tcp", s.ECSAddress, "/v1/credentials/" + profile
	},
	"the IMDS listener": func(s *world.Sidecar, _, role string) (string, string, string) {
		return "tcp", s.IMDSAddress, "/latest/meta-data/iam/security-credentials/" + role
	},
	"the socket": func(s *world.Sidecar, profile, _ string) (string, string, string) {
		return "unix", s.Socket, "/v1/credentials/" + profile
	},
}

// askedBy asks as a user, on a new connection.
func askedBy(t *testing.T, uid int, network, address, method, path string, header ...string) (status int, body string) {
	t.Helper()
	client := http.Client{Timeout: world.Soon, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return world.DialAs(uid, network, address) },
	}}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// The users that are set count on each output, also if one of them got the IMDSv2 token that another user sends. A refusal has no
// credentials in it.
func TestUsersCountOnEveryOutput(t *testing.T) {
	t.Parallel()
	const stranger = 1234
	const tokenPath, tokenHeader, ttlHeader = "/latest/api/token", "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"
	us := os.Geteuid()
	callers := []int{us}
	if us == 0 {
		callers = append(callers, stranger)
	}
	all, own, others := map[int]bool{us: true, stranger: true}, map[int]bool{us: true}, map[int]bool{stranger: true}
	for name, test := range map[string]struct {
		ids     string // of the environment
		profile string // the users of the profile other, which is asked for; empty if it is the profile default
		allowed map[int]bool
	}{
		"all":                         {"", "", all},
		"this user":                   {fmt.Sprint(us), "", own},
		"another user":                {"1234", "", others},
		"both":                        {fmt.Sprintf("1234,%d", us), "", all},
		"a profile has its own users": {fmt.Sprint(us), "irsa_sidecar_allowed_uids = 1234", others},
		"a profile has the only ones": {"", fmt.Sprintf("irsa_sidecar_allowed_uids = %d", us), own},
		"a profile has all of them":   {fmt.Sprint(us), fmt.Sprintf("irsa_sidecar_allowed_uids = 1234, %d", us), all},
		"a profile names no users":    {fmt.Sprint(us), "duration_seconds = 3600", own},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world.New(t, ststest.Options{Roles: rolesOf(otherRole)})
			changes := []string{"IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_SOCKET=" + filepath.Join(world.SharedDir(t), "s")}
			if test.ids != "" {
				changes = append(changes, "IRSA_SIDECAR_ALLOWED_UIDS="+test.ids)
			}
			profile, role := "default", "app"
			if test.profile != "" {
				profile, role = "other", "other"
				v := newVolume(t, map[string]string{"config": "[profile other]\nrole_arn = " + otherRole + "\n" + test.profile + "\n"})
				changes = append(changes, "AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_IMDS_PROFILE=other")
			}
			s := w.Serve(t, changes...)
			world.Eventually(t, world.Soon, "credentials", func() bool {
				status, _ := s.OpsPage(t, "/readyz")
				return status == http.StatusOK
			})
			token := "" // of a user who may have one
			for _, uid := range callers {
				status, body := askedBy(t, uid, "tcp", s.IMDSAddress, http.MethodPut, tokenPath, ttlHeader, "60")
				switch {
				case test.allowed[uid] && status == http.StatusOK:
					token = body
				case test.allowed[uid] || status != http.StatusForbidden || !strings.Contains(body, "UserNotAllowed"):
					t.Errorf("user %d asks for a token and gets %d %s", uid, status, body)
				}
			}
			for output, at := range outputs {
				network, address, path := at(s, profile, role)
				for _, uid := range callers {
					status, body := askedBy(t, uid, network, address, http.MethodGet, path, tokenHeader, token)
					if test.allowed[uid] {
						if status != http.StatusOK || !slices.ContainsFunc(w.STS.Issued(), func(i ststest.Session) bool {
							return strings.HasSuffix(i.RoleARN, "/"+role) && strings.Contains(body, i.AccessKeyID)
						}) {
							t.Errorf("user %d at %s: %d without credentials", uid, output, status)
						}
						continue
					}
					if status != http.StatusForbidden || !strings.Contains(body, "UserNotAllowed") || !strings.Contains(body, fmt.Sprintf("user %d is not allowed", uid)) {
						t.Errorf("user %d at %s: %d %s, want 403 UserNotAllowed", uid, output, status, body)
					}
					for _, i := range w.STS.Issued() {
						if strings.Contains(body, i.AccessKeyID) || strings.Contains(body, i.SecretAccessKey) || strings.Contains(body, i.SessionToken) {
							t.Errorf("user %d at %s is told a secret", uid, output)
						}
					}
				}
			}
		})
	}
}
