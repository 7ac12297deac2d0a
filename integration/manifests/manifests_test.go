//go:build tools

package manifests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/integration/pages"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// These tests need helm, kustomize and promtool on PATH: `make integration` builds them.

func TestAlertRules(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", world.Path(t, "deploy/monitoring/alerts.yaml")},
		{"test", "rules", world.Path(t, "deploy/monitoring/alerts_test.yaml")},
	} {
		world.MustRun(t, exec.Command("promtool", args...))
	}
}

func TestChart(t *testing.T) {
	chart := world.Path(t, "deploy/helm/irsa-sidecar")
	world.MustRun(t, exec.Command("helm", "lint", "--strict", chart))
	world.MustRun(t, exec.Command("helm", "lint", "--strict", chart, "--set", "policy.enabled=true,podMonitor.enabled=true,alerts.enabled=true,dashboard.enabled=true"))
	for _, test := range []struct {
		set   string
		kinds []string
	}{
		{"", nil},
		{"policy.enabled=true", []string{
			"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingAdmissionPolicyBinding",
			"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicyBinding",
		}},
		{"podMonitor.enabled=true,podMonitor.labels.release=p", []string{"PodMonitor"}},
		{"alerts.enabled=true,dashboard.enabled=true", []string{"ConfigMap", "PrometheusRule"}},
	} {
		var kinds []string
		for _, object := range documents(t, world.MustOutput(t, exec.Command("helm", "template", chart, "--set", test.set))) {
			kinds = append(kinds, object["kind"].(string))
			if object["kind"] == "PrometheusRule" && len(object["spec"].(map[string]any)["groups"].([]any)) == 0 {
				t.Error("no rules in the PrometheusRule")
			}
			if object["kind"] == "ConfigMap" && !json.Valid([]byte(object["data"].(map[string]any)["irsa-sidecar.json"].(string))) {
				t.Error("no dashboard in the ConfigMap")
			}
		}
		slices.Sort(kinds)
		if !slices.Equal(kinds, test.kinds) {
			t.Errorf("with %q: %q, want %q", test.set, kinds, test.kinds)
		}
	}
	world.MustRun(t, exec.Command("helm", "template", chart, "--set", "enabled=true,resources.limits.cpu=1"))
	// The policy is v1 from Kubernetes 1.36 on, whatever a vendor adds to the version. The rest of the chart only needs native sidecars.
	for version, says := range map[string]string{
		"1.29.0": "needs Kubernetes 1.36", "1.35.9": "needs Kubernetes 1.36", "v1.35.2-eks-0123456": "needs Kubernetes 1.36",
		"1.36.0": "", "v1.36.0-eks-0123456": "", "1.37.2": "",
	} {
		printed, err := exec.Command("helm", "template", chart, "--set", "policy.enabled=true", "--kube-version", version).CombinedOutput()
		if (err == nil) != (says == "") || !strings.Contains(string(printed), says) {
			t.Errorf("policy.enabled on Kubernetes %s: %v, %s", version, err, printed)
		}
		world.MustRun(t, exec.Command("helm", "template", chart, "--set", "podMonitor.enabled=true", "--kube-version", version))
	}
	// The schema finds mistakes before Kubernetes does.
	for set, says := range map[string]string{
		"rolARN=x":             "rolARN",
		"roleARN=app":          "roleARN",
		"region=eu-west-1a":    "region",
		"image=":               "image",
		"policy=true":          "policy",
		"policy.enabled=maybe": "enabled",
		"env[0].value=x":       "name",
		"policy.enabled=true,roleARN=arn:aws:iam::111122223333:role/app": "set the role in the service account's annotation",
	} {
		printed, err := exec.Command("helm", "template", chart, "--set", set).CombinedOutput()
		if err == nil || !strings.Contains(string(printed), says) {
			t.Errorf("--set %s: %v, %s", set, err, printed)
		}
	}
}

// All ways to add the sidecar make the same Pod.
func TestAllWaysMakeTheSamePod(t *testing.T) {
	const role, region = "arn:aws:iam::111122223333:role/app", "eu-west-1"
	app := string(world.RepoFile(t, "integration/testdata/app.yaml"))

	injector := newInjector(t)
	inject := func(input string, args ...string) map[string]any {
		return podSpec(t, injector.inject(t, []byte(input), args...))
	}
	chart := func(set string) map[string]any {
		dir := t.TempDir()
		for _, part := range []string{"deploy", "integration/testdata/chart"} {
			if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(world.Path(t, part))); err != nil {
				t.Fatal(err)
			}
		}
		app := filepath.Join(dir, "integration/testdata/chart")
		world.MustRun(t, exec.Command("helm", "dependency", "build", "--skip-refresh", app))
		return podSpec(t, documents(t, world.MustOutput(t, exec.Command("helm", "template", "app", app, "--set", set))))
	}

	self := inject(account + "---\n" + app)
	webhook := inject(app)
	if reflect.DeepEqual(self, webhook) {
		t.Fatal("with and without a role it is the same Pod: nothing is compared here")
	}
	type way struct {
		name       string
		have, want map[string]any
	}
	ways := []way{
		{"flags, for the injector", inject(app, "--role-arn", role, "--region", region), self},
		{"the chart, without", chart("irsa-sidecar.env=null"), self},
		{"the chart, with the EKS webhook", chart("irsa-sidecar.env=null,irsa-sidecar.roleARN=,irsa-sidecar.region="), webhook},
	}
	for _, program := range kustomizes(t) {
		component := func(components string) map[string]any {
			return podSpec(t, program.build(t, map[string]string{
				"app.yaml": app, "account.yaml": account,
				"kustomization.yaml": "resources: [app.yaml, account.yaml]\ncomponents: [" + components + "]\n",
			}))
		}
		ways = append(ways,
			way{program.name + ", with the EKS webhook", component("deploy/kustomize"), webhook},
			way{program.name + ", without", component("deploy/kustomize, deploy/kustomize/token"), self})
	}
	for _, test := range ways {
		if !reflect.DeepEqual(test.have, test.want) {
			t.Errorf("%s makes\n%s\nand not\n%s", test.name, pretty(test.have), pretty(test.want))
		}
	}
	// The manifest to copy has the same sidecar, but an app with more settings.
	native := podSpec(t, documents(t, world.RepoFile(t, "deploy/native-sidecar.yaml")))
	if !reflect.DeepEqual(native["initContainers"], self["initContainers"]) || !reflect.DeepEqual(native["volumes"], self["volumes"]) {
		t.Errorf("deploy/native-sidecar.yaml has\n%s\nand not\n%s", pretty(native), pretty(self))
	}
}

// The component has the same result as irsa-sidecar-inject, for all shapes of workloads, and wherever it is listed.
func TestKustomizeDoesWhatThePipeDoes(t *testing.T) {
	shapes := string(world.RepoFile(t, "integration/testdata/shapes.yaml"))
	injector := newInjector(t)
	for _, program := range kustomizes(t) {
		for _, components := range []string{"deploy/kustomize", "deploy/kustomize, deploy/kustomize/token"} {
			resources := map[string]string{"shapes.yaml": shapes}
			if strings.Contains(components, "token") {
				resources["account.yaml"] = account
			}
			base := "resources: [" + strings.Join(slices.Sorted(maps.Keys(resources)), ", ") + "]\n"
			rows := map[string]map[string]string{
				"alone":               {".": base + "COMPONENTS"},
				"in the overlay":      {"base": base, ".": "resources: [base]\nnamespace: shop\nCOMPONENTS"},
				"in base and overlay": {"base": base + "COMPONENTS", ".": "resources: [base]\nnamespace: shop\nCOMPONENTS"},
				"in two bases": {"a": base + "namespace: a\nCOMPONENTS", "b": base + "namespace: b\nCOMPONENTS",
					".": "resources: [a, b]\nbuildMetadata: [originAnnotations]\n"},
				"in two bases and their overlay": {"a": base + "namespace: a\nCOMPONENTS", "b": base + "namespace: b\nCOMPONENTS",
					".": "resources: [a, b]\ncomponents: [deploy/kustomize]\n"}, // without token/: there are two service accounts
			}
			if resources["account.yaml"] == "" { // kustomize would rename it, but not in a ReplicaSet
				rows["with a prefix"] = map[string]string{"base": base + "namePrefix: a-\nCOMPONENTS", ".": "resources: [base]\nnamePrefix: b-\nCOMPONENTS"}
			}
			for name, kustomizations := range rows {
				t.Run(program.name+"/"+components+"/"+name, func(t *testing.T) {
					t.Parallel()
					with, without := map[string]string{}, map[string]string{}
					for dir, kustomization := range kustomizations {
						up := "../"
						if dir == "." {
							up = ""
						}
						with[dir+"/kustomization.yaml"] = strings.ReplaceAll(kustomization, "COMPONENTS",
							"components: ["+up+strings.ReplaceAll(components, ", ", ", "+up)+"]\n")
						without[dir+"/kustomization.yaml"] = regexp.MustCompile("COMPONENTS|components: .*").ReplaceAllString(kustomization, "")
						if strings.Contains(kustomization, base) {
							for file, text := range resources {
								with[dir+"/"+file], without[dir+"/"+file] = text, text
							}
						}
					}
					plain, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": program.build(t, without)})
					if err != nil {
						t.Fatal(err)
					}
					wanted := byName(t, injector.inject(t, plain)[0]["items"].([]any))
					have := byName(t, program.build(t, with))
					if len(have) != len(wanted) {
						t.Errorf("%d objects, and not %d", len(have), len(wanted))
					}
					for name, object := range wanted {
						if !reflect.DeepEqual(have[name], object) {
							t.Errorf("%s is\n%s\nand not\n%s", name, pretty(have[name]), pretty(object))
						}
					}
				})
			}
		}
	}
}

// Changes that a base makes to the sidecar are kept, also if its overlay lists the component again.
func TestKustomizeLeavesASidecarAsItIs(t *testing.T) {
	for _, program := range kustomizes(t) {
		base := func(dir string) map[string]string {
			up := strings.Repeat("../", strings.Count(dir, "/"))
			return map[string]string{
				dir + "app.yaml": string(world.RepoFile(t, "integration/testdata/app.yaml")), dir + "account.yaml": account,
				dir + "kustomization.yaml": "resources: [app.yaml, account.yaml]\n" +
					"components: [" + up + "deploy/kustomize, " + up + "deploy/kustomize/token]\n" + `
images: [{name: irsa-sidecar, newName: registry.example/irsa-sidecar, newTag: "7"}]
patches:
  - patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: app}
      spec:
        template:
          spec:
            initContainers:
              - name: irsa-sidecar
                env: [{name: IRSA_SIDECAR_LOG_LEVEL, value: debug}]
                resources: {limits: {memory: 64Mi}}
`}
		}
		overlay := base("base/")
		overlay["kustomization.yaml"] = "resources: [base]\ncomponents: [deploy/kustomize, deploy/kustomize/token]\n"
		once, twice := podSpec(t, program.build(t, base(""))), podSpec(t, program.build(t, overlay))
		world.WantContains(t, "the sidecar", string(pretty(once)), `"image": "registry.example/irsa-sidecar:7"`, "IRSA_SIDECAR_LOG_LEVEL", "64Mi")
		if !reflect.DeepEqual(once, twice) {
			t.Errorf("%s makes of\n%s\nthis:\n%s", program.name, pretty(once), pretty(twice))
		}
	}
}

// A container that sets a region, with either variable, keeps it, and gets no other.
func TestKustomizeKeepsAContainersRegion(t *testing.T) {
	const app = `apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  template:
    spec:
      initContainers:
        - {name: migrate, image: m, env: [{name: AWS_REGION, value: us-east-1}]}
      containers:
        - {name: value, image: a, env: [{name: AWS_REGION, value: us-east-1}]}
        - {name: from, image: a, env: [{name: AWS_REGION, valueFrom: {configMapKeyRef: {name: c, key: region}}}]}
        - {name: default, image: a, env: [{name: AWS_DEFAULT_REGION, value: us-east-1}]}
        - {name: none, image: a}
`
	for _, program := range kustomizes(t) {
		spec := podSpec(t, program.build(t, map[string]string{
			"app.yaml": app, "account.yaml": account,
			"kustomization.yaml": "resources: [app.yaml, account.yaml]\ncomponents: [deploy/kustomize, deploy/kustomize/token]\n",
		}))
		var have []string
		for _, c := range slices.Concat(spec["initContainers"].([]any), spec["containers"].([]any)) {
			for _, entry := range c.(map[string]any)["env"].([]any) {
				if strings.Contains(entry.(map[string]any)["name"].(string), "REGION") {
					entry := entry.(map[string]any)
					have = append(have, fmt.Sprint(c.(map[string]any)["name"], " ", entry["name"], " ", entry["value"], " ", entry["valueFrom"]))
				}
			}
		}
		wanted := []string{
			"irsa-sidecar AWS_REGION eu-west-1 <nil>",
			"migrate AWS_REGION us-east-1 <nil>",
			"value AWS_REGION us-east-1 <nil>",
			"from AWS_REGION <nil> map[configMapKeyRef:map[key:region name:c]]",
			"default AWS_DEFAULT_REGION us-east-1 <nil>",
			"none AWS_DEFAULT_REGION eu-west-1 <nil>",
			"none AWS_REGION eu-west-1 <nil>",
		}
		if !slices.Equal(have, wanted) {
			t.Errorf("%s: %q, and not %q", program.name, have, wanted)
		}
	}
}

// If kustomize cannot add the sidecar, the build fails. Otherwise the missing credentials would be noticed much later.
func TestKustomizeStops(t *testing.T) {
	app := string(world.RepoFile(t, "integration/testdata/app.yaml"))
	for _, program := range kustomizes(t) {
		for name, files := range map[string]map[string]string{
			"token/ alone": {"kustomization.yaml": "resources: [app.yaml, account.yaml]\ncomponents: [deploy/kustomize/token]\n"},
			"token/ first": {"kustomization.yaml": "resources: [app.yaml, account.yaml]\ncomponents: [deploy/kustomize/token, deploy/kustomize]\n"},
			"no account":   {"kustomization.yaml": "resources: [app.yaml]\ncomponents: [deploy/kustomize, deploy/kustomize/token]\n"},
			"an init container of that name": {
				"kustomization.yaml": "resources: [app.yaml]\ncomponents: [deploy/kustomize]\n",
				"app.yaml":           strings.Replace(app, "      containers:\n", "      initContainers: [{name: irsa-sidecar, image: your/own}]\n      containers:\n", 1),
			},
			"a schema without Deployments": {
				"kustomization.yaml": "resources: [app.yaml]\nopenapi: {path: schema.json}\ncomponents: [deploy/kustomize]\n",
				"schema.json": `{"definitions": {"x.Y": {"properties": {"spec": {"type": "object"}},
					"x-kubernetes-group-version-kind": [{"group": "x", "kind": "Y", "version": "v1"}]}}}`,
			},
		} {
			files["account.yaml"] = account
			if files["app.yaml"] == "" {
				files["app.yaml"] = app
			}
			if output, err := program.command(t, files).CombinedOutput(); err == nil {
				t.Errorf("%s, %s: %s", program.name, name, output)
			}
		}
	}
}

// account is a service account for the ways without the EKS webhook.
const account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, annotations: {eks.amazonaws.com/role-arn: \"arn:aws:iam::111122223333:role/app\", " +
	"irsa-sidecar/region: eu-west-1}}\n"

// kustomize is one version, by itself or in a kubectl.
type kustomize struct {
	name string
	args []string
}

// kustomizes returns those in the directory of the kustomize on PATH, and the one of `make cluster`.
func kustomizes(t *testing.T) (all []kustomize) {
	t.Helper()
	newest, err := exec.LookPath("kustomize")
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(newest), "k*"))
	if err != nil {
		t.Fatal(err)
	}
	if bin := os.Getenv("IRSA_TEST_KUBERNETES"); bin != "" {
		paths = append(paths, filepath.Join(bin, "kubectl"))
	}
	var names []string
	for _, path := range paths {
		name, command := filepath.Base(path), "build"
		if strings.HasPrefix(name, "kubectl") {
			command = "kustomize"
		}
		all = append(all, kustomize{name, []string{path, command}})
		names = append(names, name)
	}
	// docs names these versions as the oldest.
	oldest := regexp.MustCompile(`kustomize (\d+\.\d+\.\d+) or later,\s+which\s+is\s+in\s+kubectl (\d+\.\d+)`).FindStringSubmatch(pages.Join(world.Pages(t)))
	if oldest == nil {
		t.Fatal("docs do not name the oldest kustomize")
	}
	world.WantContains(t, "the versions that are run", strings.Join(names, " ")+" ", fmt.Sprintf("kustomize-v%s ", oldest[1]), fmt.Sprintf("kubectl-v%s.", oldest[2]))
	return all
}

// command builds the kustomization in a directory with these files and deploy/.
func (k kustomize) command(t *testing.T, files map[string]string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy/kustomize"), os.DirFS(world.Path(t, "deploy/kustomize"))); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A build takes a second. One that creates elements forever would use all memory.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, k.args[0], k.args[1], dir)
}

func (k kustomize) build(t *testing.T, files map[string]string) []map[string]any {
	t.Helper()
	return documents(t, world.MustOutput(t, k.command(t, files)))
}

// injector runs irsa-sidecar-inject.
type injector string

func newInjector(t *testing.T) injector {
	t.Helper()
	file := filepath.Join(t.TempDir(), "irsa-sidecar-inject")
	world.MustRun(t, exec.Command("go", "build", "-o", file, world.Path(t, "cmd/irsa-sidecar-inject")))
	return injector(file)
}

func (i injector) inject(t *testing.T, input []byte, args ...string) []map[string]any {
	t.Helper()
	cmd := exec.Command(string(i), args...)
	cmd.Stdin = bytes.NewReader(input)
	return documents(t, world.MustOutput(t, cmd))
}

// byName returns normalized objects by name.
func byName[O any](t *testing.T, objects []O) map[string]any {
	t.Helper()
	found := map[string]any{}
	for _, o := range objects {
		object := any(o).(map[string]any)
		metadata := object["metadata"].(map[string]any)
		name := fmt.Sprint(object["apiVersion"], " ", object["kind"], " ", metadata["namespace"], "/", metadata["name"])
		if found[name] != nil {
			t.Errorf("%s is there twice", name)
		}
		normal(object)
		found[name] = object
	}
	return found
}

func documents(t *testing.T, text []byte) (found []map[string]any) {
	t.Helper()
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var object map[string]any
		if err := decoder.Decode(&object); err != nil {
			if err.Error() != "EOF" {
				t.Fatalf("%v in\n%s", err, text)
			}
			return found
		}
		if object != nil {
			found = append(found, object)
		}
	}
}

// podSpec returns the normalized Pod spec of the Deployment.
func podSpec(t *testing.T, objects []map[string]any) map[string]any {
	t.Helper()
	for _, object := range objects {
		if object["kind"] == "Deployment" {
			normal(object)
			return object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
		}
	}
	t.Fatalf("no Deployment in %v", objects)
	return nil
}

// normal sorts lists whose order does not matter, and removes empty ones.
func normal(value any) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			normal(element)
		}
	case map[string]any:
		for _, list := range []string{"env", "volumes"} {
			elements, _ := v[list].([]any)
			slices.SortFunc(elements, func(a, b any) int {
				return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
			})
		}
		maps.DeleteFunc(v, func(_ string, value any) bool {
			list, isList := value.([]any)
			return value == nil || isList && len(list) == 0
		})
		for _, field := range v {
			normal(field)
		}
	}
}

func pretty(v any) []byte {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		panic(err)
	}
	return text
}
