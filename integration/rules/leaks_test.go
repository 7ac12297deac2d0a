package rules

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// The check must be able to find a leak.
func TestALeakIsFound(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	world.WantExitCode(t, world.RunCommand(t, w.Env, "credentials"), 0)
	var r world.LeakRecord
	r.IssuedBy(w.STS)
	r.Secret("a password", "correct")
	r.Printed("nobody", "nothing")
	if leaks := r.Found(); len(leaks) > 0 {
		t.Errorf("found %q where nothing is", leaks)
	}
	r.Printed("somebody", "the key is "+w.STS.Issued()[0].SecretAccessKey+" and the word is correct")
	if leaks := r.Found(); !slices.Equal(leaks, []string{"a password, by somebody", "a secret access key, by somebody"}) {
		t.Errorf("found %q", leaks)
	}
	token := w.STS.Issued()[0].SessionToken
	r = world.LeakRecord{}
	r.IssuedBy(w.STS)
	r.Printed("a form", "SessionToken="+url.QueryEscape(token))
	r.Printed("a page", onAPage(t, token))
	if leaks := r.Found(); !slices.Equal(leaks, []string{"a session token, by a form", "a session token, by a page"}) {
		t.Errorf("found %q", leaks)
	}
}

func TestALeakFailsThePackage(t *testing.T) {
	t.Parallel()
	var r world.LeakRecord
	r.Secret("a password", "correct")
	var reason strings.Builder
	if code := r.ExitCode(0, &reason); code != 0 || reason.Len() > 0 {
		t.Errorf("without a leak: exit code %d, %q", code, &reason)
	}
	r.Printed("somebody", "correct")
	if code := r.ExitCode(0, &reason); code != 1 || !strings.Contains(reason.String(), "a password, by somebody") {
		t.Errorf("with a leak: exit code %d, %q", code, &reason)
	}
	if code := r.ExitCode(2, &reason); code != 2 {
		t.Errorf("with a leak after a panic: exit code %d", code)
	}
}

// What is not recorded is not searched for secrets.
func TestAllOutputIsRecorded(t *testing.T) {
	t.Parallel()
	const script = `printf out-%s "$0"; printf err-%s "$0" >&2`
	world.RunToEnd(t, exec.Command("/bin/sh", "-c", script, "command"), nil)
	world.RunToEnd(t, exec.Command("/bin/sh", "-c", script, "credentials"), nil)
	t.Run("background", func(t *testing.T) {
		<-world.StartProgram(t, "/bin/sh", nil, "-c", script, "background").Ended
	})
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/page" {
			io.WriteString(w, "all of a page")
			return
		}
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"code": "all", "message": "of an", "hint": "error document"}`)
	}))
	defer pages.Close()
	s := world.Sidecar{BaseURL: pages.URL}
	s.OpenPage(t, pages.URL+"/page")
	s.Ask(t)
	for _, text := range []string{"out-command", "err-command", "err-credentials", "out-background", "err-background", "all of a page", "error document"} {
		if !world.Leaks.Has(text) {
			t.Errorf("there is no record of %s", text)
		}
	}
	if world.Leaks.Has("out-credentials") {
		t.Error("what credentials prints is recorded: it is there to print secrets")
	}
}

// A package of tests that starts programs must have a TestMain that looks for leaks.
func TestEveryPackageLooksForLeaks(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, p := range ours(t) {
		var text strings.Builder
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			text.Write(world.ReadFile(t, filepath.Join(p.Dir, name)))
		}
		if !regexp.MustCompile(`\bworld\.(New|NewWithSTS|Program|RunCommand|RunToEnd|StartProgram)\(`).MatchString(text.String()) {
			continue
		}
		checked++
		if !strings.Contains(text.String(), "func TestMain(m *testing.M) { world.Main(m) }\n") {
			t.Errorf("%s has no TestMain that calls world.Main", short(p.ImportPath))
		}
	}
	if checked < 9 {
		t.Errorf("only %d packages start programs: this test does not see them", checked)
	}
}
