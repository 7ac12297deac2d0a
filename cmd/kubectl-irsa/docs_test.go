package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/integration/pages"
)

// The keys in docs are those of the program. `make readme` writes them.
func TestKeysInREADMEAndDocs(t *testing.T) {
	const root, name = "../..", "keys from a laptop"
	var want strings.Builder
	want.WriteString("| key | what is behind it |\n|---|---|\n")
	for _, e := range entries {
		fmt.Fprintf(&want, "| `%s` | %s |\n", e.Key, e.Meaning)
		for _, known := range doctor.Entries() {
			if known.Key == e.Key {
				t.Errorf("the doctor has the key %s, too", e.Key)
			}
		}
	}
	all, err := pages.Read(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range all {
		old, ok := page.Generated(name)
		if !ok {
			continue
		}
		if old == want.String() {
			return
		}
		if !*update {
			t.Fatalf("%s: <!-- %s --> is out of date: run `make readme`", page.Path, name)
		}
		if err := os.WriteFile(filepath.Join(root, page.Path), []byte(page.WithGenerated(name, want.String()).Text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("no page has <!-- %s -->", name)
}

// What README and docs have people type is there.
func TestCommandsInREADMEAndDocs(t *testing.T) {
	all, err := pages.Read("../..")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range regexp.MustCompile("kubectl irsa ([^`\n|<]+)").FindAllStringSubmatch(pages.Join(all), -1) {
		if words := strings.Fields(m[1]); words[0] == "doctor" && len(words) > 1 || words[0] == "help" || words[0] == "version" {
			n++
			if _, err := parse(strings.Fields(regexp.MustCompile(`[A-Z]{3,}`).ReplaceAllStringFunc(m[1], strings.ToLower))); err != nil {
				t.Errorf("%s: %v", m[0], err)
			}
		}
	}
	if n < 3 {
		t.Errorf("only %d commands", n)
	}
}

// Every key of a finding is explained.
func TestEveryKeyIsExplained(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	known := make(map[string]bool)
	for _, e := range append(doctor.Entries(), entries...) {
		known[e.Key] = true
	}
	for _, reason := range cache.Reasons() { // docs/troubleshooting.md has them
		known[string(reason)] = true
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^(?:fail|warn) \S+ (\w+)`).FindAllStringSubmatch(string(raw), -1) {
			if !known[m[1]] {
				t.Errorf("%s: %s is not explained", file, m[1])
			}
		}
	}
}
