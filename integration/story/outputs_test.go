//go:build unix

package story

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// metadata asks the instance metadata service, and returns "" if there is no such path.
func metadata(t *testing.T, s *world.Sidecar, token, path string) string {
	t.Helper()
	return ask(t, "http://"+s.IMDSAddress+"/latest/meta-data/"+path, "X-aws-ec2-metadata-token", token)
}

// ask returns an answer with 200, or "".
func ask(t *testing.T, url, header, value string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if value != "" {
		request.Header.Set(header, value)
	}
	status, body := world.HTTPDo(t, request)
	if status != http.StatusOK {
		return ""
	}
	return string(body)
}

// A change of the configuration reaches every output, without a restart: who may have a profile without a token, the role and the
// region of the instance metadata, and where a profile's file is.
func TestEveryOutputFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(world.RoleARN, otherRole, thirdRole)})
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	const token, own = "0123456789abcdef-shared", "0123456789abcdef-of-its-own"
	world.Leaks.Secret("an authorization token", token)
	world.Leaks.Secret("a profile's authorization token", own)
	section := func(name, arn, more string) string {
		return "[profile " + name + "]\nrole_arn = " + arn + "\n" + more + "\n"
	}
	v := newVolume(t, map[string]string{"config": section("guarded", otherRole, "") + section("metadata", otherRole, "region = eu-west-1\nirsa_sidecar_credentials_file = "+one), "own": own})
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+token, "IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0",
		"IRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_IMDS_PROFILE=metadata", "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true", "AWS_REGION", "AWS_DEFAULT_REGION")
	session := s.MetadataToken(t)
	role := func() string {
		name := metadata(t, s, session, "iam/security-credentials/")
		var document struct{ AccessKeyId string }
		if json.Unmarshal([]byte(metadata(t, s, session, "iam/security-credentials/"+name)), &document) != nil {
			return ""
		}
		for _, issued := range w.STS.Issued() {
			if issued.AccessKeyID == document.AccessKeyId {
				return issued.RoleARN
			}
		}
		return ""
	}
	guarded := func(sent string) bool {
		return ask(t, "http://"+s.ECSAddress+"/v1/credentials/guarded", "Authorization", sent) != ""
	}
	there := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	until := func(what string, holds func() bool) {
		t.Helper()
		world.Eventually(t, world.Soon, what, holds)
	}

	until("a profile without a token", func() bool { return guarded("") })
	until("the role", func() bool { return role() == otherRole })
	if region := metadata(t, s, session, "placement/region"); region != "eu-west-1" {
		t.Errorf("the region is %q", region)
	}
	untilSections(t, one, "default", "metadata")

	// By the file alone.
	v.publish(t, map[string]string{"own": own, "config": section("guarded", otherRole, "irsa_sidecar_authorization_token_file = "+v.path("own")) +
		section("metadata", thirdRole, "region = eu-west-2\nirsa_sidecar_credentials_file = "+two)})
	until("a profile with a token of its own", func() bool { return !guarded("") && !guarded(token) && guarded(own) })
	until("the new role", func() bool { return role() == thirdRole })
	until("the new region", func() bool { return metadata(t, s, session, "placement/region") == "eu-west-2" })
	untilSections(t, two, "default", "metadata")
	until("the end of the old file", func() bool { return !there(one) })
	if old := metadata(t, s, session, "iam/security-credentials/"+filepath.Base(otherRole)); old != "" {
		t.Error("the instance metadata still has the old role")
	}

	// By SIGHUP.
	v.publish(t, map[string]string{"own": own, "config": section("guarded", otherRole, "") + section("metadata", otherRole, "")})
	if err := s.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until("a profile without a token again", func() bool { return guarded("") })
	until("the first role again", func() bool { return role() == otherRole })
	until("the end of the file", func() bool { return !there(two) })

	// A mistake changes nothing.
	v.publish(t, map[string]string{"own": own, "config": section("guarded", thirdRole, "") + section("metadata", otherRole, "irsa_sidecar_authorization_token_file = "+v.path("own"))})
	s.WaitForLog(t, "cannot reload the configuration files; keeping the previous values")
	if role() != otherRole || !guarded("") {
		t.Error("a mistake has changed something")
	}
}
