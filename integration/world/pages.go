package world

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/pages"
)

// Pages returns README and docs.
func Pages(t *testing.T) []pages.Page {
	t.Helper()
	all, err := pages.Read(Path(t))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Blocks returns the code blocks of one language in README and docs.
func Blocks(t *testing.T, language string) (found []string) {
	t.Helper()
	for _, page := range Pages(t) {
		found = append(found, page.Blocks(language)...)
	}
	if found == nil {
		t.Fatalf("README and docs have no block of %s", language)
	}
	return found
}
