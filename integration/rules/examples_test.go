package rules

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// Readers first want to see how a package is used. An example without an output is compiled but not run, so it must have one.
func TestEveryPackageHasAnExample(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, p := range ours(t) {
		if strings.HasPrefix(p.ImportPath, module+"/integration") { // shared by tests
			continue
		}
		exported := false
		for _, file := range parsed(t, p.Dir, p.GoFiles) {
			exported = exported || file.Name.Name != "main" && ast.FileExports(file)
		}
		if !exported {
			continue
		}
		checked++
		run := false
		for _, example := range doc.Examples(parsed(t, p.Dir, p.XTestGoFiles)...) {
			if example.Output != "" || example.EmptyOutput {
				run = true
			} else {
				t.Errorf("Example%s of %s has no // Output: comment, so it is not run", example.Name, short(p.ImportPath))
			}
		}
		if !run {
			t.Errorf("%s has no Example: show in example_test.go, in package %s_test, how it is used", short(p.ImportPath), filepath.Base(p.ImportPath))
		}
	}
	if checked < 9 {
		t.Errorf("only %d packages have exported names: this test does not see them", checked)
	}
}

func parsed(t *testing.T, dir string, names []string) (files []*ast.File) {
	t.Helper()
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}
