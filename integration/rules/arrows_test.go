package rules

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	module = world.Module
	binary = module + "/cmd/irsa-sidecar"
	plugin = module + "/cmd/kubectl-irsa"
	fake   = module + "/cache/webidentity/ststest"
)

// pkg is what go list says of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Standard     bool
	DepOnly      bool
	ForTest      string
	Imports      []string
	Deps         []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Module       *struct{ Main bool }
}

// files are the files that are built for this machine.
func (p *pkg) files() []string { return slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) }

// packages are the module's, and all that they depend on, by import path. What a package imports only for its tests is not
// included.
var packages = sync.OnceValues(func() (map[string]*pkg, error) {
	cmd := exec.Command("go", "list", "-deps", "-test", "-tags", "browser clients cluster faults minio tools", "-json=ImportPath,Dir,Standard,DepOnly,ForTest,Imports,Deps,GoFiles,TestGoFiles,XTestGoFiles,Module", module+"/...")
	output, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	all := make(map[string]*pkg)
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p pkg
		if err := decoder.Decode(&p); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		if p.ForTest == "" && !strings.HasSuffix(p.ImportPath, ".test") {
			all[p.ImportPath] = &p
		}
	}
})

func listed(t *testing.T) map[string]*pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return all
}

// ours returns the module's own packages, in order.
func ours(t *testing.T) (own []*pkg) {
	t.Helper()
	for _, p := range listed(t) {
		if p.Module != nil && p.Module.Main {
			own = append(own, p)
		}
	}
	slices.SortFunc(own, func(a, b *pkg) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return own
}

// Which package may know which. Each forbidden arrow has a reason, which the error gives.
var arrows = []struct {
	from     string
	notTo    string // nor to anything below it
	directly bool   // only direct imports are forbidden
	because  string
}{
	{module + "/cache", "github.com/aws", false,
		"the cache knows time; where credentials come from is a Fetch, so that a test can pass a closure and another cloud a provider"},
	{binary + "-inject", "github.com/aws", false,
		"the injector edits text"},
	{module + "/cmd/irsa-sidecar/doctor", module + "/server", false,
		"the doctor asks a sidecar over HTTP, as everybody does"},
	{plugin, module + "/server", false,
		"it asks through kubectl, and has the doctor's report in common with the sidecar"},
	{module + "/server", "github.com/aws", false,
		"the server knows caches; a failed exchange is a cache.Reason there, so that every failure has one name"},
	{module + "/cache", module + "/server", false,
		"arrows point downward: who reads credentials is no business of the cache"},
	{module + "/cache", module + "/cmd", false,
		"only main knows flags, environment, signals and exit codes"},
	{module + "/cache", module + "/cache/webidentity", false,
		"the cache gets a Fetch; which one, main decides"},
	{module + "/cache", "net/http", true,
		"the cache knows time and not HTTP; its metrics' library may"},
	{module + "/cache/webidentity", module + "/server", false,
		"the way in and the way out never meet: both know the cache alone"},
	{module + "/cache/webidentity", module + "/cmd", false,
		"only main knows flags, environment, signals and exit codes"},
	{module + "/server", module + "/cache/webidentity", false,
		"the way in and the way out never meet: both know the cache alone"},
	{module + "/server", module + "/cmd", false,
		"only main knows flags, environment, signals and exit codes"},
	{module + "/cache/regular", module + "/cache", false,
		"every package that reads files may use it, so it uses none of them"},
	{module + "/cache/redact", module + "/cache", false,
		"the injector shows text of others too, and does without the cache's metrics library"},
	{module + "/cache/nearest", module + "/cache", false,
		"every program corrects what is mistyped"},
	{module + "/cmd/irsa-sidecar-inject", "github.com/prometheus/client_golang/prometheus", false,
		"it edits text; cache/redact masks what it shows"},
	{binary, "github.com/aws/aws-sdk-go-v2/config", false,
		"it would bring credential chains, profiles and IMDS along: the program has one way to get credentials"},
	{binary, "github.com/aws/aws-sdk-go-v2/credentials", false,
		"the program has one way to get credentials"},
	{binary, "go.yaml.in/yaml", false,
		"manifests are the injector's business, which is a program of its own so that they cost nothing in a Pod"},
	{binary, "testing", false,
		"a test helper has got into the binary, and its flags with it"},
	{binary, fake, false,
		"an STS that gives credentials to everybody must not be shipped"},
	{binary, "net/http/pprof", false,
		"it would register itself with a handler that the whole cluster may reach"},
}

func TestArrowsPointDownward(t *testing.T) {
	t.Parallel()
	all := listed(t)
	for _, arrow := range arrows {
		from := all[arrow.from]
		if from == nil {
			t.Errorf("there is no package %s any more: give the rule its new name", arrow.from)
			continue
		}
		reached := from.Deps
		if arrow.directly {
			reached = from.Imports
		}
		for _, to := range reached {
			if to == arrow.notTo || strings.HasPrefix(to, arrow.notTo+"/") {
				t.Errorf("%s must not depend on %s: %s\n(found by go list -deps; `go mod why` shows the path)", short(arrow.from), short(to), arrow.because)
			}
		}
	}
}

// A rule about a package that has been renamed forbids nothing.
func TestArrowsForbidWhatExists(t *testing.T) {
	t.Parallel()
	all := listed(t)
	for _, arrow := range arrows {
		exists := false
		for path := range all {
			exists = exists || path == arrow.notTo || strings.HasPrefix(path, arrow.notTo+"/")
		}
		switch {
		case exists:
		case strings.HasPrefix(arrow.notTo, "github.com/aws/"): // not even in go.mod, which is the best way to keep the rule
		case !strings.Contains(arrow.notTo, ".") && exec.Command("go", "list", arrow.notTo).Run() == nil: // of the standard library
		default:
			t.Errorf("%s is forbidden to %s, and there is no such package any more: give the rule its new name", short(arrow.notTo), short(arrow.from))
		}
	}
	// The rules about AWS have the prefix of the SDK.
	if !slices.ContainsFunc(all[binary].Deps, func(path string) bool { return strings.HasPrefix(path, "github.com/aws/") }) {
		t.Error("the binary has nothing of github.com/aws: either the rules name it wrongly, or they can go")
	}
}

func TestTheFakeSTSIsForTestsAlone(t *testing.T) {
	t.Parallel()
	for _, p := range ours(t) {
		if strings.HasPrefix(p.ImportPath, module+"/integration/") { // the demo and the benchmark
			continue
		}
		if slices.Contains(p.Imports, fake) {
			t.Errorf("%s imports %s outside of a test: it is an STS that gives credentials to everybody", short(p.ImportPath), short(fake))
		}
	}
}

// No package at the top imports another: what two of them share belongs below.
func TestNobodyImportsACommand(t *testing.T) {
	t.Parallel()
	for _, p := range ours(t) {
		if strings.HasPrefix(p.ImportPath, module+"/integration/") { // programs in several parts
			continue
		}
		for _, path := range p.Imports {
			if strings.HasPrefix(path, p.ImportPath+"/") { // a part of the same program
				continue
			}
			if p.ImportPath == plugin && path == binary+"/doctor" { // it adds to the doctor's report and prints it
				continue
			}
			if strings.HasPrefix(path, module+"/cmd/") || strings.HasPrefix(path, module+"/integration") {
				t.Errorf("%s imports %s: arrows point downward", short(p.ImportPath), short(path))
			}
		}
	}
}

// Each dependency must be kept up to date, audited and explained.
func TestDirectRequirementsAreTheKnownOnes(t *testing.T) {
	t.Parallel()
	known := []string{
		"github.com/aws/aws-sdk-go-v2",
		"github.com/aws/aws-sdk-go-v2/service/sts",
		"github.com/aws/smithy-go",
		"github.com/go-chi/chi/v5",
		"github.com/go-jose/go-jose/v4", // the doctor verifies signatures, which needs proven code
		"github.com/kelseyhightower/envconfig",
		"github.com/prometheus/client_golang",
		"github.com/rogpeppe/go-internal", // runs the scripts of the command line; not in any program
		"go.yaml.in/yaml/v3",              // irsa-sidecar-inject and the tests of deploy/; not in the sidecar
		"golang.org/x/sync",
	}
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = world.Path(t)
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var file struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace []struct{ Old struct{ Path string } }
	}
	if err := json.Unmarshal(output, &file); err != nil {
		t.Fatal(err)
	}
	for _, r := range file.Replace {
		t.Errorf("go.mod replaces %s: `go install` of the program does not work with it", r.Old.Path)
	}
	linked := listed(t)[binary].Deps
	var direct []string
	for _, r := range file.Require {
		if r.Indirect {
			continue
		}
		direct = append(direct, r.Path)
		if !slices.Contains(known, r.Path) {
			user := "the binary"
			if !slices.ContainsFunc(linked, func(path string) bool { return path == r.Path || strings.HasPrefix(path, r.Path+"/") }) {
				user = "tests"
			}
			t.Errorf("go.mod requires %s for %s: do without it, or put it on the list with a reason", r.Path, user)
		}
	}
	for _, path := range known {
		if !slices.Contains(direct, path) {
			t.Errorf("go.mod does not require %s any more: take it off the list", path)
		}
	}
}

// To look for a leak, one reads the places where a secret becomes a string.
var revealing = map[string]string{
	"cache/credentials.go":            "it defines Reveal",
	"cmd/irsa-sidecar/formats.go":     "the command credentials prints them",
	"cmd/irsa-sidecar/stateformat.go": "a state file keeps them",
	"cmd/irsa-sidecar/outputtext.go":  "credentials files have them",
	"server/render.go":                "the credentials listener serves them",
	"cache/webidentity/assume.go":     "AssumeRole is signed with them",
}

func TestSecretsAreRevealedInAFewPlaces(t *testing.T) {
	t.Parallel()
	found := make(map[string]bool)
	for _, p := range ours(t) {
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			name = short(p.ImportPath) + "/" + name
			ast.Inspect(file, func(n ast.Node) bool {
				if selector, ok := n.(*ast.SelectorExpr); ok && selector.Sel.Name == "Reveal" { // called, or taken as a value
					found[name] = true
				}
				return true
			})
			if found[name] && revealing[name] == "" {
				t.Errorf("%s reveals secrets: let one of the places do it that are for that, or add it to them with the reason", name)
			}
		}
	}
	for name := range revealing {
		if !found[name] {
			t.Errorf("%s reveals no secret: take it off the list", name)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	for _, p := range ours(t) {
		documented := false
		for _, name := range p.files() {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			documented = documented || strings.TrimSpace(file.Doc.Text()) != ""
		}
		if !documented {
			t.Errorf("%s has no package comment: say in a sentence what it is, and what it does not know", short(p.ImportPath))
		}
	}
}

// short removes the module's name from an import path.
func short(path string) string { return strings.TrimPrefix(path, module+"/") }
