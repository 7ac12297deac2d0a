package rules

import (
	"net/url"
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
