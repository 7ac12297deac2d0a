//go:build tools

package integration

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// These have helm, kustomize and promtool on PATH: `make integration` builds them.

func TestAlertRules(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", "../deploy/monitoring/alerts.yaml"},
		{"test", "rules", "../deploy/monitoring/alerts_test.yaml"},
	} {
		must(t, exec.Command("promtool", args...))
	}
}

func TestChart(t *testing.T) {
	const chart = "../deploy/helm/irsa-sidecar"
	must(t, exec.Command("helm", "lint", "--strict", chart))
	must(t, exec.Command("helm", "lint", "--strict", chart, "--set", "policy.enabled=true,podMonitor.enabled=true,alerts.enabled=true,dashboard.enabled=true"))
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
		for _, object := range documents(t, output(t, exec.Command("helm", "template", chart, "--set", test.set))) {
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
	must(t, exec.Command("helm", "template", chart, "--set", "enabled=true,resources.limits.cpu=1"))
	// The policy is v1 from Kubernetes 1.36 on, whatever a vendor adds to the version. The rest of the chart needs no more than a native sidecar.
	for version, says := range map[string]string{
		"1.29.0": "needs Kubernetes 1.36", "1.35.9": "needs Kubernetes 1.36", "v1.35.2-eks-0123456": "needs Kubernetes 1.36",
		"1.36.0": "", "v1.36.0-eks-0123456": "", "1.37.2": "",
	} {
		said, err := exec.Command("helm", "template", chart, "--set", "policy.enabled=true", "--kube-version", version).CombinedOutput()
		if (err == nil) != (says == "") || !strings.Contains(string(said), says) {
			t.Errorf("policy.enabled on Kubernetes %s: %v, %s", version, err, said)
		}
		must(t, exec.Command("helm", "template", chart, "--set", "podMonitor.enabled=true", "--kube-version", version))
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
		"policy.enabled=true,roleARN=arn:aws:iam::111122223333:role/app": "the role is the service account's",
	} {
		said, err := exec.Command("helm", "template", chart, "--set", set).CombinedOutput()
		if err == nil || !strings.Contains(string(said), says) {
			t.Errorf("--set %s: %v, %s", set, err, said)
		}
	}
}

// Whatever way a team takes, the Pod is the same.
func TestAllWaysMakeTheSamePod(t *testing.T) {
	const role, region = "arn:aws:iam::111122223333:role/app", "eu-west-1"
	account := "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, annotations: {eks.amazonaws.com/role-arn: \"" + role + "\", irsa-sidecar/region: " + region + "}}\n"
	app := string(read(t, "testdata/app.yaml"))

	injector := filepath.Join(t.TempDir(), "irsa-sidecar-inject")
	must(t, exec.Command("go", "build", "-o", injector, "../cmd/irsa-sidecar-inject"))
	inject := func(input string, args ...string) map[string]any {
		cmd := exec.Command(injector, args...)
		cmd.Stdin = strings.NewReader(input)
		return podSpec(t, documents(t, output(t, cmd)))
	}
	component := func(components, account string) map[string]any {
		dir := t.TempDir()
		if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS("../deploy")); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"app.yaml": app, "account.yaml": account,
			"kustomization.yaml": "resources: [app.yaml, account.yaml]\ncomponents: [" + components + "]\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return podSpec(t, documents(t, output(t, exec.Command("kustomize", "build", dir))))
	}
	chart := func(set string) map[string]any {
		dir := t.TempDir()
		for _, part := range []string{"deploy", "integration/testdata/chart"} {
			if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join("..", part))); err != nil {
				t.Fatal(err)
			}
		}
		app := filepath.Join(dir, "integration/testdata/chart")
		must(t, exec.Command("helm", "dependency", "build", "--skip-refresh", app))
		return podSpec(t, documents(t, output(t, exec.Command("helm", "template", "app", app, "--set", set))))
	}

	self := inject(account + "---\n" + app)
	webhook := inject(app)
	if reflect.DeepEqual(self, webhook) {
		t.Fatal("with and without a role it is the same Pod: nothing is compared here")
	}
	for _, test := range []struct {
		name       string
		have, want map[string]any
	}{
		{"flags, for the injector", inject(app, "--role-arn", role, "--region", region), self},
		{"kustomize, with the EKS webhook", component("deploy/kustomize", account), webhook},
		{"kustomize, without", component("deploy/kustomize, deploy/kustomize/token", account), self},
		{"the chart, without", chart("irsa-sidecar.env=null"), self},
		{"the chart, with the EKS webhook", chart("irsa-sidecar.env=null,irsa-sidecar.roleARN=,irsa-sidecar.region="), webhook},
	} {
		if !reflect.DeepEqual(test.have, test.want) {
			t.Errorf("%s makes\n%s\nand not\n%s", test.name, pretty(test.have), pretty(test.want))
		}
	}
	// The manifest to copy differs from the app in what its author has added to it.
	native := podSpec(t, documents(t, read(t, "../deploy/native-sidecar.yaml")))
	if !reflect.DeepEqual(native["initContainers"], self["initContainers"]) || !reflect.DeepEqual(native["volumes"], self["volumes"]) {
		t.Errorf("deploy/native-sidecar.yaml has\n%s\nand not\n%s", pretty(native), pretty(self))
	}
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

// podSpec is that of the Deployment, with what has no order put in one.
func podSpec(t *testing.T, objects []map[string]any) map[string]any {
	t.Helper()
	for _, object := range objects {
		if object["kind"] != "Deployment" {
			continue
		}
		spec := object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
		for _, list := range []string{"initContainers", "containers"} {
			for _, c := range spec[list].([]any) {
				env, _ := c.(map[string]any)["env"].([]any)
				slices.SortFunc(env, func(a, b any) int {
					return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
				})
			}
		}
		maps.DeleteFunc(spec, func(_ string, value any) bool { return value == nil }) // a list that is left empty
		return spec
	}
	t.Fatalf("no Deployment in %v", objects)
	return nil
}

func pretty(v any) []byte {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		panic(err)
	}
	return text
}
