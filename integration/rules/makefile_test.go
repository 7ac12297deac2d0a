package rules

import (
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// A test behind a tag runs only where the Makefile names its tag and its directory.
func TestMakeRunsEveryTaggedTest(t *testing.T) {
	t.Parallel()
	makefile := world.RepoFile(t, "Makefile")
	tagged := regexp.MustCompile(`^//go:build (browser|clients|cluster|faults|minio|tools)\n`)
	checked := make(map[string]bool)
	for _, p := range ours(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			tag := tagged.FindSubmatch(world.ReadFile(t, filepath.Join(p.Dir, name)))
			if tag == nil {
				continue
			}
			line := `(?m)go test -tags ` + string(tag[1]) + ` .* \./` + regexp.QuoteMeta(short(p.ImportPath)) + `$`
			if !checked[line] && !regexp.MustCompile(line).Match(makefile) {
				t.Errorf("the Makefile has no line %s for %s", line, name)
			}
			checked[line] = true
		}
	}
	if len(checked) < 7 {
		t.Errorf("only %d packages have tagged tests: this test does not see them", len(checked))
	}
}
