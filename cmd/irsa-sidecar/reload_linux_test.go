package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// reloaded starts a sidecar whose profiles a test reloads itself, and returns it with its environment's configuration file.
func reloaded(t *testing.T, config string) (c *sidecar, file string) {
	t.Helper()
	_, url, token := startSTS(t, map[string]ststest.Role{podRole: {}, otherRole: {}})
	dir := t.TempDir()
	file = filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	e := environmentOf("AWS_ROLE_ARN="+podRole, "AWS_WEB_IDENTITY_TOKEN_FILE="+token, "AWS_ENDPOINT_URL_STS="+url, "AWS_REGION=eu-west-1",
		"AWS_CONFIG_FILE="+file, "IRSA_SIDECAR_STATE_FILE="+filepath.Join(dir, "state"), "IRSA_SIDECAR_STATE_FILE_ON_DISK=true",
		"IRSA_SIDECAR_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_OPS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0")
	s, invalid := parse(e, readFiles(e))
	if invalid = append(append(invalid, s.load()...), s.open(nil)...); len(invalid) > 0 {
		t.Fatal(invalid)
	}
	limit := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(limit) }) // start lowers it
	c, err := start(s, slog.New(slog.DiscardHandler), &output{to: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	return c, file
}

// A sidecar lives for months, and an operator may change its profiles all the time.
func TestReloadingManyTimesLeavesNothingBehind(t *testing.T) {
	c, file := reloaded(t, "# none\n")
	dir := filepath.Dir(file)
	profile := func(name, role, more string) string {
		return fmt.Sprintf("[profile %s]\nrole_arn = %s\n%s\n", name, role, more)
	}
	reload := func(config string, all bool) {
		t.Helper()
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if !c.take(readFiles(c.environment), all) {
			t.Fatal(c.fault)
		}
	}
	cycle := func(i int) {
		name := fmt.Sprint("p", i)
		own := fmt.Sprintf("irsa_sidecar_authorization_token_file = %s/token%d\nirsa_sidecar_allowed_uids = %d", dir, i%10, i)
		reload(profile("stays", otherRole, "source_profile = default")+profile(name, otherRole, own)+profile("chained", podRole, "source_profile = "+name), false)
		reload(profile("stays", podRole, "source_profile = default")+profile(name, podRole, own), i%2 == 0)
		if err := os.WriteFile(file, []byte("[profile "), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.take(readFiles(c.environment), false) {
			t.Fatal("took half a file")
		}
		reload(profile("stays", otherRole, "source_profile = default"), false)
	}
	for i := range 5 { // what is there once is there for good
		cycle(i)
	}
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	for i := range 75 { // of four
		cycle(5 + i)
	}
	// A connection or an exchange that is ending may still be there; what stays behind of each cycle would be 75 or more.
	if n := runtime.NumGoroutine(); n > goroutines+50 {
		t.Errorf("%d goroutines, after %d", n, goroutines)
	}
	if n := openDescriptors(t); n > descriptors+50 {
		t.Errorf("%d descriptors, after %d", n, descriptors)
	}
	if names := slices.Sorted(maps.Keys(c.sources.byName)); !slices.Equal(names, []string{"default", "stays"}) {
		t.Errorf("in use: %q", names)
	}
	if lines := slices.Sorted(maps.Keys(c.sources.state.lines)); slices.ContainsFunc(lines, func(name string) bool { return name != "default" && name != "stays" }) {
		t.Errorf("in the state file: %q", lines)
	}
	w := httptest.NewRecorder()
	c.ops.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1/metrics", nil))
	if !strings.Contains(w.Body.String(), `irsa_sidecar_configuration_reloads_total{result="ok"} 240`) {
		t.Errorf("metrics: %d %s", w.Code, w.Body)
	}
	for line := range strings.Lines(w.Body.String()) {
		if _, label, ok := strings.Cut(line, `profile="`); ok && !slices.Contains([]string{"", "default", "stays"}, label[:strings.IndexByte(label, '"')]) {
			t.Errorf("still counted: %s", line)
		}
	}
}

// The credentials of another role are only for the callers that the new configuration lets through: nothing asks for them
// before it decides who these are.
func TestAnotherRoleIsAskedForOnlyOnceItsCallersAreKnown(t *testing.T) {
	config := "[profile a]\nrole_arn = %s\nirsa_sidecar_authorization_token_file = %s\n"
	c, file := reloaded(t, "# none\n")
	reload := func(role, token string) {
		t.Helper()
		if err := os.WriteFile(file, fmt.Appendf(nil, config, role, filepath.Join(filepath.Dir(file), token)), 0o600); err != nil {
			t.Fatal(err)
		}
		if !c.take(readFiles(c.environment), false) {
			t.Fatal(c.fault)
		}
	}
	reload(podRole, "a")
	a := c.sources.get("a")
	reload(otherRole, "b")
	if got := a.current.Load().exchange.RoleARN; got != otherRole || c.sources.get("a") != a {
		t.Fatalf("the profile asks for %s", got)
	}
	c.refreshing.stop() // from now on nobody is served by what files say
	reload(podRole, "c")
	if got := a.current.Load().exchange.RoleARN; got != otherRole || c.current.profile("a").exchange.RoleARN != otherRole {
		t.Errorf("a profile asks for %s, and is served by the rules for another role", got)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
