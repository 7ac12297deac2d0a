//go:build unix

package story

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

var update = flag.Bool("update", false, "write testdata")

const (
	relayRole  = "arn:aws:iam::123456789012:role/relay"
	vendorRole = "arn:aws:iam::999988887777:role/vendor/reader"
)

const chainConfig = `[profile relay]
role_arn = ` + relayRole + `
source_profile = default
irsa_sidecar_tags = team=shop, stage=live
irsa_sidecar_transitive_tags = team
irsa_sidecar_source_identity = shop-app

[profile vendor]
role_arn = ` + vendorRole + `
role_session_name = shop
source_profile = relay
external_id = example-7
duration_seconds = 900
`

// A chain of three roles into another account, as STS sees it; and what a program is told when one hop is refused.
func TestTheTranscriptOfAChain(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Region: world.Region, Roles: map[string]ststest.Role{
		relayRole:  {Trusted: []string{world.RoleARN}},
		vendorRole: {Trusted: []string{relayRole}, ExternalID: "example-7"},
	}})
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte(chainConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Env = append(w.Env, "AWS_CONFIG_FILE="+config)
	var b strings.Builder
	b.WriteString(chainConfig)

	s := w.Serve(t)
	waitForAll(t, s)
	b.WriteString("\n== what STS saw\n")
	tellExchanges(t, &b, w.STS)
	b.WriteString("\n== what programs get\n")
	tellAnswers(t, &b, s)
	s.Stop(t)

	w.STS.Change(func(o *ststest.Options) {
		o.Roles = maps.Clone(o.Roles)
		o.Roles[relayRole] = ststest.Role{Trusted: []string{}}
	})
	b.WriteString("\n== what programs get if " + relayRole + " trusts nobody\n")
	s = w.Serve(t)
	world.Eventually(t, world.Soon, "a refusal", func() bool {
		_, body := world.HTTPGet(t, s.BaseURL+"/v1/credentials/vendor")
		return strings.Contains(string(body), "AccessDenied")
	})
	tellAnswers(t, &b, s)
	for _, session := range w.STS.Issued()[3:] {
		if session.SourceRoleARN != "" {
			t.Errorf("STS issued a session of %s", session.RoleARN)
		}
	}

	golden := filepath.Join("testdata", "chain.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(world.ReadFile(t, golden)); b.String() != want {
		t.Errorf("the chain is now\n%s\nwant\n%s", &b, want)
	}
}

// waitForAll waits until every profile has credentials.
func waitForAll(t *testing.T, s *world.Sidecar) {
	t.Helper()
	world.WantExitCode(t, world.RunCommand(t, s.CommandEnv(), "wait", "--timeout", world.Soon.String()), 0)
}

// tellExchanges writes what each request to STS had in it, and the session that it was answered with.
func tellExchanges(t *testing.T, b *strings.Builder, sts *ststest.Server) {
	t.Helper()
	requests, sessions := sts.Requests(), sts.Issued()
	if len(requests) != len(sessions) {
		t.Fatalf("%d requests for %d sessions", len(requests), len(sessions))
	}
	for i, form := range requests {
		fmt.Fprintf(b, "%s\n", form.Get("Action"))
		if source := sessions[i].SourceRoleARN; source != "" {
			fmt.Fprintf(b, "  signed by a session of     %s\n", source)
		}
		for _, name := range slices.Sorted(maps.Keys(form)) {
			if name != "Action" && name != "Version" {
				fmt.Fprintf(b, "  %-26s %s\n", name, form.Get(name))
			}
		}
		fmt.Fprintf(b, "  => %s\n", sessions[i].ARN)
		for _, key := range slices.Sorted(maps.Keys(sessions[i].Tags)) {
			transitive := ""
			if slices.Contains(sessions[i].TransitiveTags, key) {
				transitive = ", transitive"
			}
			fmt.Fprintf(b, "     tag %s=%s%s\n", key, sessions[i].Tags[key], transitive)
		}
		if identity := sessions[i].SourceIdentity; identity != "" {
			fmt.Fprintf(b, "     source identity %s\n", identity)
		}
	}
}

// tellAnswers writes what programs get for each profile, without secrets.
func tellAnswers(t *testing.T, b *strings.Builder, s *world.Sidecar) {
	t.Helper()
	for _, path := range []string{"/v1/credentials", "/v1/credentials/relay", "/v1/credentials/vendor"} {
		status, body := world.HTTPGet(t, s.BaseURL+path)
		var a world.Answer
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(b, "GET %s: %d\n", path, status)
		if status != http.StatusOK {
			fmt.Fprintf(b, "  code     %s\n  message  %s\n  hint     %s\n", a.Code, a.Message, a.Hint)
			continue
		}
		fmt.Fprintf(b, "  role     %s\n  lasts    %s\n", a.RoleARN, time.Until(a.Expiration).Round(time.Minute))
	}
}
