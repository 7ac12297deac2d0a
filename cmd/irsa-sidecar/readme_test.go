package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

var update = flag.Bool("update", false, "write README's generated tables anew")

// README's tables and its manifest are made from what is shipped, so that neither can drift.
func TestREADMETablesAreTheProgramsOwn(t *testing.T) {
	const path = "../../README.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	readme := string(raw)
	tested, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile("../../deploy/native-sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, table := range map[string]string{
		"native sidecar":  "```yaml\n" + string(manifest) + "```\n",
		"configuration":   configurationTable(),
		"reasons":         reasonsTable(),
		"refusals":        refusalsTable(),
		"checks":          checksTable(),
		"clients":         tested.Markdown(),
		"clients not run": tested.KnownMarkdown(),
	} {
		begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
		head, rest, ok := strings.Cut(readme, begin)
		old, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("README has no %s … %s", strings.TrimSpace(begin), end)
		}
		if old != table && !*update {
			t.Errorf("README's table of %s is not the program's; go test ./cmd/irsa-sidecar -update writes it anew", name)
		}
		readme = head + begin + table + end + tail
	}
	if *update {
		if err := os.WriteFile(path, []byte(readme), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func configurationTable() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	for _, tag := range variables() {
		value := "–"
		if d := tag.Get("default"); d != "" {
			value = "`" + d + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", tag.Get("envconfig"), value, markdown(tag.Get("desc")))
	}
	return b.String()
}

func reasonsTable() string {
	reasons := cache.Reasons()
	slices.Sort(reasons)
	var b strings.Builder
	b.WriteString("| reason | what to do |\n|---|---|\n")
	for _, r := range reasons {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r, markdown(r.Advice()))
	}
	return b.String()
}

func checksTable() string {
	var b strings.Builder
	b.WriteString("| key | what is behind it |\n|---|---|\n")
	for _, e := range doctor.Entries() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", e.Key, e.Story) // Markdown already
	}
	return b.String()
}

func refusalsTable() string {
	refusals := server.Refusals()
	slices.Sort(refusals)
	var b strings.Builder
	b.WriteString("| refusal | why | what to do |\n|---|---|---|\n")
	for _, r := range refusals {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r, markdown(r.Message()), markdown(r.Hint()))
	}
	return b.String()
}

// markdown keeps <placeholders> and | readable in a table.
func markdown(s string) string {
	return strings.NewReplacer("<", "&lt;", ">", "&gt;", "|", "\\|").Replace(s)
}
