package rules

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/deploy"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// Every block of YAML can be copied: it is a complete file, or environment for a container. `make cluster` checks that an API
// server accepts them.
func TestREADMEsYAMLIsWhole(t *testing.T) {
	for _, block := range world.Blocks(t, "yaml") {
		for decoder := yaml.NewDecoder(strings.NewReader(block)); ; {
			var document any
			err := decoder.Decode(&document)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, block)
			}
			switch d := document.(type) {
			case map[string]any:
				if d["apiVersion"] == nil {
					t.Errorf("no apiVersion in\n%s", block)
				}
			case []any:
				for _, entry := range d {
					if m, _ := entry.(map[string]any); m["name"] == nil || (m["value"] == nil && m["valueFrom"] == nil) {
						t.Errorf("a list, and not of variables:\n%s", block)
					}
				}
			default:
				t.Errorf("neither an object nor environment:\n%s", block)
			}
		}
	}
	// The trust policy allows what the text says, and the doctor finds nothing wrong with it.
	policy, err := trustpolicy.Parse([]byte(world.Blocks(t, "json")[0]))
	if err != nil {
		t.Fatal(err)
	}
	app := trustpolicy.Identity{
		Partition: "aws", Account: "111122223333", Issuer: "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE",
		Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:shop:app",
	}
	if decision, problems := policy.Decide(app), policy.Review(app); decision != trustpolicy.Allowed || problems != nil {
		t.Errorf("the trust policy: %v, %+v", decision, problems)
	}
	// The chart that the tests render has these lines.
	chart := string(world.RepoFile(t, "integration/testdata/chart/templates/deployment.yaml"))
	for _, block := range world.Blocks(t, "gotemplate") {
		for line := range strings.Lines(block) {
			if !strings.Contains(chart, line) {
				t.Errorf("%q is in no chart of the tests", line)
			}
		}
	}
	for _, page := range world.Pages(t) {
		for _, image := range regexp.MustCompile(`irsa-sidecar:\d[\w.]*`).FindAllString(page.Text, -1) {
			if image != deploy.Image {
				t.Errorf("%s says %s, and deploy %s", page.Path, image, deploy.Image)
			}
		}
	}
}

// The dashboard and the alerts use only metrics that exist, and the dashboard shows all of them.
func TestDashboardAndAlertsKnowTheMetrics(t *testing.T) {
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.Fault{Status: 503})
	s := w.Serve(t)
	world.Eventually(t, world.Soon, "a failure", func() bool { return w.STS.Calls() > 0 })
	w.STS.Repair()
	s.AskUntilValid(t)
	_, text := s.OpsPage(t, "/metrics")
	var families, series, byProfile []string
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); fields[0] == "#" {
			if fields[1] == "TYPE" && strings.HasPrefix(fields[2], "irsa_sidecar_") {
				families = append(families, fields[2])
			}
			continue
		}
		name, labels, _ := strings.Cut(strings.Fields(line)[0], "{")
		series = append(series, name)
		if strings.Contains(labels, `profile="`) {
			byProfile = append(byProfile, name)
		}
	}
	if len(families) < 8 {
		t.Fatalf("only %q in\n%s", families, text)
	}

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(world.RepoFile(t, "deploy/monitoring/dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	var asked bytes.Buffer
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			asked.WriteString(target.Expr + "\n")
			for _, name := range byProfile {
				if strings.Contains(target.Expr, name+"{") && !strings.Contains(target.Expr, name+`{namespace=~"$namespace",pod=~"$pod",profile=~"$profile"`) {
					t.Errorf("panel %q shows %s of other profiles than the one that is chosen", panel.Title, name)
				}
			}
		}
	}
	names := regexp.MustCompile(`\b(irsa_sidecar|process)_\w+`)
	for _, family := range families {
		if !slices.ContainsFunc(names.FindAllString(asked.String(), -1), func(name string) bool { return strings.HasPrefix(name, family) }) {
			t.Errorf("%s is on no panel", family)
		}
	}
	asked.Write(world.RepoFile(t, "deploy/monitoring/alerts.yaml"))
	for _, name := range names.FindAllString(asked.String(), -1) {
		if !slices.Contains(series, name) {
			t.Errorf("%s is asked for, and the sidecar does not have it", name)
		}
	}
}

// Every threat in SECURITY.md names tests of what stops it, and they exist.
func TestEveryThreatHasItsTests(t *testing.T) {
	var tests []string
	err := filepath.WalkDir(world.Path(t), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(world.ReadFile(t, path), -1) {
				tests = append(tests, string(m[1]))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	threats := 0
	for line := range strings.Lines(string(world.RepoFile(t, "SECURITY.md"))) {
		columns := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || columns[0] == "| threat" {
			continue
		}
		threats++
		named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(columns[len(columns)-1], -1)
		if len(columns) != 3 || named == nil {
			t.Errorf("no tests: %s", line)
		}
		for _, name := range named {
			if !slices.Contains(tests, name[1]) {
				t.Errorf("there is no %s: %s", name[1], line)
			}
		}
	}
	if threats < 15 {
		t.Errorf("%d threats", threats)
	}
}

// CONTRIBUTING.md says of each package of the shipped programs what it knows.
func TestContributingKnowsEveryPackage(t *testing.T) {
	text := string(world.RepoFile(t, "CONTRIBUTING.md"))
	for _, p := range ours(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if !strings.HasPrefix(name, "integration/") && !strings.Contains(text, "\n| `"+name+"` |") {
			t.Errorf("CONTRIBUTING.md has no row for %s", name)
		}
	}
}

// The paths in docs/reference.md exist.
func TestEndpointsInReferenceAreThere(t *testing.T) {
	imds := world.FreeAddress(t)
	s := world.New(t, ststest.Options{}).Serve(t, "IRSA_SIDECAR_QUITQUITQUIT=true",
		"IRSA_SIDECAR_IMDS_LISTEN="+imds, "IRSA_SIDECAR_IMDS_V1=true", "IRSA_SIDECAR_AVAILABILITY_ZONE="+world.Region+"a")
	role := world.RoleARN[strings.LastIndex(world.RoleARN, "/")+1:]
	s.AskUntilValid(t)
	_, page, _ := strings.Cut(string(world.RepoFile(t, "docs/reference.md")), "## Endpoints\n")
	page, _, _ = strings.Cut(page, "\n## ")
	n := 0
	for _, section := range strings.Split(page, "\n### ")[1:] {
		base := map[string]string{"Credentials": s.BaseURL, "Health": "http://" + s.OpsAddress, "Status": "http://" + s.AdminAddress, "Instance": "http://" + imds}[strings.Trim(strings.Fields(section)[0], ",")]
		for _, m := range regexp.MustCompile("`(GET|POST|PUT) (/[^`]*)`").FindAllStringSubmatch(section, -1) {
			n++
			request, err := http.NewRequestWithContext(t.Context(), m[1], base+strings.ReplaceAll(m[2], "ROLE", role), nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "60") // of a PUT
			if status, _ := world.HTTPDo(t, request); status != http.StatusOK {
				t.Errorf("%s %s: %d", m[1], base+m[2], status)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d endpoints", n)
	}
	s.WantStopped(t) // by /quitquitquit, the last
}
