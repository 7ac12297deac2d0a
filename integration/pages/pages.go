// Package pages reads the project's pages, README.md and docs/*.md, for the tests that check them and for `make readme`,
// which writes their generated parts.
package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Page is one file of Markdown.
type Page struct {
	Path string // relative to the repository, with slashes
	Text string
}

// Read returns README.md and the pages of docs/ of the repository in the directory root, README first.
func Read(root string) ([]Page, error) {
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	var all []Page
	for _, path := range slices.Insert(paths, 0, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		all = append(all, Page{filepath.ToSlash(relative), string(text)})
	}
	return all, nil
}

// Join returns the texts of all pages, one after the other.
func Join(all []Page) string {
	var b strings.Builder
	for _, p := range all {
		b.WriteString(p.Text)
	}
	return b.String()
}

// Blocks returns the code blocks of one language, without the indentation of their fences.
func (p Page) Blocks(language string) (found []string) {
	fence := regexp.MustCompile("(?ms)^( *)```" + regexp.QuoteMeta(language) + "\n(.*?)^ *```$")
	for _, m := range fence.FindAllStringSubmatch(p.Text, -1) {
		found = append(found, strings.ReplaceAll("\n"+m[2], "\n"+m[1], "\n")[1:])
	}
	return found
}

// Generated returns what is between the markers <!-- name --> and <!-- /name -->, and reports whether the
// page has both.
func (p Page) Generated(name string) (text string, ok bool) {
	_, text, _, ok = p.cut(name)
	return text, ok
}

// WithGenerated returns the page with another text between the markers, which it must have.
func (p Page) WithGenerated(name, text string) Page {
	head, _, tail, ok := p.cut(name)
	if !ok {
		panic("pages: " + p.Path + " has no markers of " + name)
	}
	return Page{p.Path, head + text + tail}
}

func (p Page) cut(name string) (head, text, tail string, ok bool) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	head, rest, opened := strings.Cut(p.Text, begin)
	text, tail, closed := strings.Cut(rest, end)
	return head + begin, text, end + tail, opened && closed
}
