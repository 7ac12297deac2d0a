package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/pages"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

var update = flag.Bool("update", false, "write what is generated in README and docs")

// What README and docs say of the program is generated from it, so that neither can drift. Each text is
// in the one page that has its markers.
func TestGeneratedTextsInREADMEAndDocs(t *testing.T) {
	const root = "../.."
	all, err := pages.Read(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range generatedTexts(t) {
		page := -1
		for i, p := range all {
			old, ok := p.Generated(name)
			if !ok {
				continue
			}
			if page >= 0 {
				t.Fatalf("both %s and %s have <!-- %s -->", all[page].Path, p.Path, name)
			}
			if page = i; old != text && !*update {
				t.Errorf("%s: <!-- %s --> is out of date: run `make readme`", p.Path, name)
			}
		}
		if page < 0 {
			t.Fatalf("no page has <!-- %s --> … <!-- /%[1]s -->", name)
		}
		all[page] = all[page].WithGenerated(name, text)
	}
	if *update {
		for _, p := range all {
			if err := os.WriteFile(filepath.Join(root, p.Path), []byte(p.Text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// withoutSuccesses leaves out of a report what comes before the first failure.
func withoutSuccesses(report string) string {
	begin, fail := strings.Index(report, "\nok "), strings.Index(report, "\nFAIL ")
	return report[:begin] + "\n…" + report[fail:]
}

// What README and docs have people type is there: commands with their arguments and flags, and variables.
func TestCommandsAndVariablesInREADMEAndDocs(t *testing.T) {
	all, err := pages.Read("../..")
	if err != nil {
		t.Fatal(err)
	}
	known := knownVariables()
	lines := regexp.MustCompile(`(?m)(?:/|\$\(|^ *\$ )irsa-sidecar ([a-z][^|)\n"` + "`" + `]*)|` + "`irsa-sidecar ([a-z][^`]*)`")
	n := 0
	for _, page := range all {
		for _, m := range lines.FindAllStringSubmatch(page.Text, -1) {
			n++
			words := strings.Fields(m[1] + m[2])
			c := find(words[0])
			if c == nil {
				t.Errorf("%s: %q: there is no such command", page.Path, m[0])
			} else if _, err := c.parse(words[1:]); err != nil && !strings.ContainsAny(m[2], "[|") { // a usage line
				t.Errorf("%s: %q: %v", page.Path, m[0], err)
			}
		}
		for _, name := range regexp.MustCompile(`\bIRSA_SIDECAR_\w+`).FindAllString(page.Text, -1) {
			if !known[name] {
				t.Errorf("%s: there is no %s", page.Path, name)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d commands", n)
	}
}

func generatedTexts(t *testing.T) map[string]string {
	t.Helper()
	tested, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile("../../deploy/native-sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The golden files of other tests: what they show is what is printed.
	chain, err := os.ReadFile("doctor/testdata/chain-another-external-id.txt")
	if err != nil {
		t.Fatal(err)
	}
	report, err := os.ReadFile("doctor/testdata/given-policy-several.txt")
	if err != nil {
		t.Fatal(err)
	}
	app, err := os.ReadFile("doctor/testdata/app-shared-file.txt")
	if err != nil {
		t.Fatal(err)
	}
	answers, err := os.ReadFile("../../server/testdata/fresh-with-authorization.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, status, _ := strings.Cut(string(answers), "# credentials: GET /\n200 text/plain; charset=utf-8\n")
	status, _, found := strings.Cut(status, "\nA program that uses")
	if !found {
		t.Fatalf("not the page:\n%s", answers)
	}
	status = strings.ReplaceAll(status, " <b>", "") // there to see that it is escaped elsewhere
	return map[string]string{
		"report":          "```text\n" + string(report) + "```\n",
		"chain report":    "```text\n" + withoutSuccesses(string(chain)) + "```\n",
		"app report":      "```text\n" + strings.ReplaceAll(string(app), "DIR/", "/root/") + "```\n",
		"status":          "```text\n" + status + "```\n",
		"native sidecar":  "```yaml\n" + string(manifest) + "```\n",
		"commands":        commandsTable(),
		"configuration":   configurationTable(),
		"metrics":         metricsTable(t),
		"reasons":         reasonsTable(),
		"refusals":        refusalsTable(),
		"checks":          checksTable(),
		"before":          beforeTable(),
		"order":           orderTable(),
		"clients":         tested.Markdown(),
		"clients not run": tested.KnownMarkdown(),
		"outputs":         tested.OutputsMarkdown(),
	}
}

func commandsTable() string {
	var b strings.Builder
	b.WriteString("| command | |\n|---|---|\n")
	for _, c := range commands() {
		text := c.text
		for _, o := range c.flags {
			text += " `--" + o.name + "`: " + o.text + "."
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", markdown(c.usage()), markdown(strings.Join(strings.Fields(text), " ")))
	}
	return b.String()
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

func metricsTable(t *testing.T) string {
	t.Helper()
	registry := newRegistry(&output{to: io.Discard})
	cache.NewMetrics(registry)
	server.NewMetrics(registry)
	newReloadMetrics(registry)
	newOutputFiles(nil, registry)
	all := make(chan *prometheus.Desc)
	go func() {
		registry.Describe(all)
		close(all)
	}()
	var rows []string
	for one := range all {
		m := regexp.MustCompile(`fqName: "(irsa_sidecar_\w+)", help: ("(?:[^"\\]|\\.)*"), .*constLabels: {(.*)}, variableLabels: {(.*)}}$`).FindStringSubmatch(one.String())
		if m == nil {
			continue // the process's own
		}
		help, err := strconv.Unquote(m[2])
		if err != nil {
			t.Fatal(err)
		}
		labels := strings.Trim(regexp.MustCompile(`="[^"]*"`).ReplaceAllString(m[3], "")+","+m[4], ",")
		if labels != "" {
			labels = "{" + labels + "}"
		}
		rows = append(rows, fmt.Sprintf("| `%s%s` | %s |\n", m[1], labels, markdown(help)))
	}
	if len(rows) < 8 {
		t.Fatalf("only %d metrics", len(rows))
	}
	slices.Sort(rows)
	return "| metric | |\n|---|---|\n" + strings.Join(rows, "")
}

func reasonsTable() string {
	reasons := cache.Reasons()
	slices.Sort(reasons)
	var b strings.Builder
	b.WriteString("| reason | what to do |\n|---|---|\n")
	for _, r := range reasons {
		advice := r.Advice()
		if chained := r.ChainedAdvice(); chained != "" {
			advice += ". For a profile with a source profile: " + chained
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", r, markdown(advice))
	}
	return b.String()
}

func checksTable() string {
	var b strings.Builder
	b.WriteString("| key | what is behind it |\n|---|---|\n")
	for _, e := range doctor.Entries() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", e.Key, e.Meaning) // Markdown already
	}
	return b.String()
}

// beforeTable lists what keeps an app from asking the sidecar.
func beforeTable() string {
	var b strings.Builder
	b.WriteString("| in the app's environment | | which clients |\n|---|---|---|\n")
	for _, v := range sources.Before {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, markdown(v.Why), cmp.Or(v.By, "most"))
	}
	return b.String()
}

// orderTable lists in which order the clients look for credentials.
func orderTable() string {
	var b strings.Builder
	b.WriteString("| client | order | |\n|---|---|---|\n")
	for _, c := range sources.Clients {
		order := "not known"
		if c.Order != nil {
			var kinds []string
			for _, k := range c.Order {
				kinds = append(kinds, string(k))
			}
			order = strings.Join(kinds, " → ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Name, order, strings.Join(c.Remarks(), "; "))
	}
	return b.String()
}

func refusalsTable() string {
	refusals := server.Refusals()
	slices.Sort(refusals)
	var b strings.Builder
	b.WriteString("| refusal | status | why | what to do |\n|---|---|---|---|\n")
	for _, r := range refusals {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r, status(r), markdown(r.Message()), markdown(r.Hint()))
	}
	return b.String()
}

// status is what a refusal is answered with; headers that are too long have a status of their own.
func status(r server.Refusal) string {
	if r == server.MalformedRequest {
		return fmt.Sprintf("%d or %d", r.Status(), http.StatusRequestHeaderFieldsTooLarge)
	}
	return strconv.Itoa(r.Status())
}

// markdown keeps <placeholders> and | readable in a table.
func markdown(s string) string {
	return strings.NewReplacer("<", "&lt;", ">", "&gt;", "|", "\\|").Replace(s)
}

// The doctor and irsa-sidecar-inject name the variables and the sections of the outputs.
func TestOutputsAreWhatTheyAreCalled(t *testing.T) {
	page, err := os.ReadFile("../../docs/programs.md")
	if err != nil {
		t.Fatal(err)
	}
	known := knownVariables()
	for _, o := range sources.Outputs {
		if o.On != "" && !known[o.On] {
			t.Errorf("the sidecar has no variable %s", o.On)
		}
		heading := regexp.MustCompile(`(?im)^### ` + strings.ReplaceAll(o.Section, "-", " ") + "$")
		if !heading.Match(page) {
			t.Errorf("docs/programs.md has no section #%s", o.Section)
		}
	}
}
