//go:build cluster

package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const restricted = "pod-security.kubernetes.io/enforce=restricted"

func (c *cluster) takesManifests(t *testing.T) {
	c.namespace(t, "strict", restricted, "pod-security.kubernetes.io/warn=restricted")
	for _, kind := range []string{"podmonitors", "prometheusrules"} {
		c.kubectl(t, "apply", "--server-side", "-f", filepath.Join(os.Getenv("IRSA_TEST_OPERATOR"), "example/prometheus-operator-crd/monitoring.coreos.com_"+kind+".yaml"))
		c.until(t, world.Soon, "the kind", "wait", "--for=condition=Established", "crd/"+kind+".monitoring.coreos.com", "--timeout=1s")
	}
	for _, line := range []string{
		"kubectl apply -n strict --dry-run=server --validate=strict -f deploy/native-sidecar.yaml",
		"kubectl apply -n strict --dry-run=server --validate=strict -f deploy/classic-sidecar.yaml",
		"kubectl apply -n strict --dry-run=server --validate=strict -f deploy/classic-job.yaml",
		"kubectl apply --dry-run=server --validate=strict -f deploy/policy.yaml",
		"kubectl apply --dry-run=server --validate=strict -f deploy/monitoring/podmonitor.yaml",
		"helm template irsa-sidecar deploy/helm/irsa-sidecar --set policy.enabled=true,podMonitor.enabled=true,alerts.enabled=true,dashboard.enabled=true | " +
			"kubectl apply --dry-run=server --validate=strict -f -",
		"helm dependency build --skip-refresh integration/testdata/chart >/dev/null && " +
			"helm template app integration/testdata/chart | kubectl apply -n strict --dry-run=server --validate=strict -f -",
		"kubectl kustomize integration/testdata/kustomize | kubectl apply -n strict --dry-run=server --validate=strict -f -",
		"irsa-sidecar-inject < integration/testdata/app.yaml | kubectl apply -n strict --dry-run=server --validate=strict -f -",
	} {
		if output := c.say(t, line); strings.Contains(output, "Warning") {
			t.Error("and with a warning")
		}
	}
}

// takesREADME lets the API server check every block of YAML in README and docs.
func (c *cluster) takesREADME(t *testing.T) {
	c.namespace(t, "readme")
	for i, block := range world.Blocks(t, "yaml") {
		dir := t.TempDir()
		write := func(name, text string) string {
			t.Helper()
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		}
		const dryRun = "kubectl apply -n readme --dry-run=server --validate=strict -f "
		app := string(world.RepoFile(t, "integration/testdata/app.yaml"))
		var line string
		switch {
		case strings.Contains(block, "\nkind: Kustomization"):
			if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(world.Path(t, "deploy"))); err != nil {
				t.Fatal(err)
			}
			write("app.yaml", app)
			write("kustomization.yaml", regexp.MustCompile(`https://github\.com/irsa-sidecar/irsa-sidecar//(\S+)\?ref=\S+`).ReplaceAllString(block, "$1"))
			line = "kubectl kustomize " + dir + " | " + dryRun + "-"
		case strings.Contains(block, "\ndependencies:"):
			write("Chart.yaml", strings.Replace(block, "file://../irsa-sidecar", "file://"+c.repository, 1))
			write("values.yaml", string(world.RepoFile(t, "integration/testdata/chart/values.yaml")))
			write("templates/deployment.yaml", string(world.RepoFile(t, "integration/testdata/chart/templates/deployment.yaml")))
			line = "helm dependency build --skip-refresh " + dir + " >/dev/null && helm template app " + dir + " | " + dryRun + "-"
		case regexp.MustCompile(`^(#.*\n)*- `).MatchString(block):
			// One more variable, below those that the app does not have yet.
			line = dryRun + write("app.yaml", strings.Replace(app, "          image: your/app\n", "          image: your/app\n          env:\n            "+
				strings.ReplaceAll(strings.TrimSpace(block), "\n", "\n            ")+"\n", 1))
		default:
			line = dryRun + write("block.yaml", block)
		}
		if output := c.say(t, line); strings.Contains(output, "Warning") || !strings.Contains(output, "(server dry run)") {
			t.Errorf("block %d:\n%s", i+1, block)
		}
	}
}

func (c *cluster) injectsByPolicy(t *testing.T) {
	c.say(t, "kubectl apply -f deploy/policy.yaml")
	c.namespace(t, "tools")
	c.say(t, "kubectl annotate serviceaccount -n tools app irsa-sidecar/region=eu-west-1")
	const pod = `apiVersion: v1
kind: Pod
metadata:
  name: cli
  labels: {irsa-sidecar/inject: enabled}
  annotations: {irsa-sidecar/skip-containers: other}
spec:
  serviceAccountName: app
  containers:
    - name: cli
      image: aws-cli:1
      volumeMounts: [{name: usr, mountPath: /usr, readOnly: true}]
    - name: other
      image: aws-cli:1
      volumeMounts: [{name: usr, mountPath: /usr, readOnly: true}]
  volumes:
    - name: usr
      hostPath: {path: /usr}
`
	// A new policy takes a moment to take effect.
	world.Eventually(t, world.Soon, "the policy in force", func() bool {
		cmd := c.kubectlCommand("apply", "-n", "tools", "--dry-run=server", "-o", "jsonpath={.spec.initContainers[0].name}", "-f", "-")
		cmd.Stdin = strings.NewReader(pod)
		output, err := cmd.Output()
		return err == nil && string(output) == "irsa-sidecar"
	})
	c.apply(t, "tools", pod)
	c.until(t, time.Minute, "the Pod", "wait", "-n", "tools", "--for=condition=Ready", "pod/cli", "--timeout=1s")
	c.say(t, "kubectl get pod -n tools cli -o yaml")
	printed := c.say(t, "kubectl exec -n tools cli -c cli -- aws sts get-caller-identity")
	world.WantContains(t, "the AWS CLI", printed, "assumed-role/app/tools.cli")
	if _, err := c.try("kubectl exec -n tools cli -c other -- env | grep AWS_CONTAINER"); err == nil {
		t.Error("a container that is to be left alone has the environment")
	}
	c.kubectl(t, "delete", "pod", "-n", "tools", "cli", "--grace-period=1")

	// The policy and the injector make the same Pod.
	made := func(labels, through string) podParts {
		output, err := c.shell(fmt.Sprintf("echo '{apiVersion: v1, kind: Pod, metadata: {name: same, labels: {%s}, annotations: {irsa-sidecar/skip-containers: left}}, spec: {serviceAccountName: app, "+
			"initContainers: [{name: first, image: your/app, env: [{name: A, value: b}]}], containers: [{name: app, image: your/app}, "+
			"{name: own, image: your/app, env: [{name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /mine}, {name: AWS_REGION, value: us-east-1}]}, "+
			"{name: left, image: your/app}], volumes: [{name: v, emptyDir: {}}]}}' | "+
			"%s kubectl apply -n tools --dry-run=server -o json -f -", labels, through)).Output()
		if err != nil {
			t.Fatal(err)
		}
		return partsOf(t, string(output))
	}
	byPolicy := made("irsa-sidecar/inject: enabled", "")
	byText := made("app: x", "irsa-sidecar-inject --region eu-west-1 --role-arn "+clusterRole+" 2>/dev/null |")
	if len(byPolicy.Spec.InitContainers) != 2 || !reflect.DeepEqual(byPolicy, byText) {
		t.Errorf("the policy makes\n%+v\nand irsa-sidecar-inject\n%+v", byPolicy, byText)
	}

	// A Deployment in a restricted namespace with the label.
	c.namespace(t, "whole", restricted, "irsa-sidecar/inject=enabled")
	c.kubectl(t, "annotate", "namespace", "whole", "irsa-sidecar/region=eu-west-1")
	c.apply(t, "whole", withApp(t, string(world.RepoFile(t, "integration/testdata/app.yaml"))))
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "whole", "deployment/app", "--timeout=1s")
	c.timings(t, "policy", "whole", "app=app")
	c.wantFirstAnswer(t, "whole")
}

// podParts is the part of a Pod that the sidecar changes.
type podParts struct {
	Spec struct {
		InitContainers, Containers, Volumes []map[string]any
	}
}

// partsOf reads a Pod without what the API server adds, and with sorted environments.
func partsOf(t *testing.T, text string) (p podParts) {
	t.Helper()
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&p); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	itsOwn := func(m map[string]any) bool { return strings.HasPrefix(m["name"].(string), "kube-api-access-") }
	p.Spec.Volumes = slices.DeleteFunc(p.Spec.Volumes, itsOwn)
	slices.SortFunc(p.Spec.Volumes, func(a, b map[string]any) int { return strings.Compare(a["name"].(string), b["name"].(string)) })
	for _, container := range append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...) {
		mounts, _ := container["volumeMounts"].([]any)
		container["volumeMounts"] = slices.DeleteFunc(mounts, func(m any) bool { return itsOwn(m.(map[string]any)) })
		env, _ := container["env"].([]any)
		slices.SortFunc(env, func(a, b any) int {
			return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
		})
	}
	return p
}

func (c *cluster) refusesByPolicy(t *testing.T) {
	c.kubectl(t, "create", "namespace", "quiet")
	c.kubectl(t, "label", "namespace", "quiet", "irsa-sidecar/inject=disabled")
	c.until(t, world.Soon, "the service account", "get", "serviceaccount", "default", "-n", "quiet")
	c.kubectl(t, "create", "namespace", "open")
	c.kubectl(t, "label", "namespace", "open", "irsa-sidecar/inject=enabled")
	c.until(t, world.Soon, "the service account", "get", "serviceaccount", "default", "-n", "open")
	c.kubectl(t, "create", "serviceaccount", "senseless", "-n", "tools")
	c.kubectl(t, "annotate", "serviceaccount", "senseless", "-n", "tools", "eks.amazonaws.com/role-arn=")
	c.kubectl(t, "create", "serviceaccount", "astray", "-n", "tools")
	c.kubectl(t, "annotate", "serviceaccount", "astray", "-n", "tools", "eks.amazonaws.com/role-arn="+clusterRole, "irsa-sidecar/region=eu-west-1a")
	for _, test := range []struct{ namespace, spec, labels, says string }{
		{"tools", "containers: [{name: app, image: your/app}]", "irsa-sidecar/inject: enabled",
			"service account default is missing or not a role's ARN: kubectl annotate --overwrite serviceaccount default -n tools eks.amazonaws.com/role-arn=arn:aws:iam::ACCOUNT:role/NAME"},
		{"quiet", "containers: [{name: app, image: your/app}]", "irsa-sidecar/inject: enabled",
			"namespace quiet forbids the sidecar (its label irsa-sidecar/inject is disabled)"},
		{"tools", "serviceAccountName: app, containers: [{name: irsa-sidecar, image: your/app}]", "irsa-sidecar/inject: enabled",
			"a container of this Pod is named irsa-sidecar but is not a native sidecar: rename it"},
		{"open", "containers: [{name: app, image: your/app}]", "app: x", "Warning: Validation failed for ValidatingAdmissionPolicy 'irsa-sidecar' with binding " +
			"'irsa-sidecar-namespaces': irsa-sidecar: the annotation eks.amazonaws.com/role-arn of service account default is missing or not a role's ARN"},
		{"tools", "serviceAccountName: senseless, containers: [{name: app, image: your/app}]", "irsa-sidecar/inject: enabled", "service account senseless is missing or not a role's ARN"},
		{"tools", "serviceAccountName: astray, containers: [{name: app, image: your/app}]", "irsa-sidecar/inject: enabled",
			"the annotation irsa-sidecar/region of service account astray or namespace tools is not the name of a region"},
		// A Pod that already has the sidecar is not changed.
		{"quiet", "initContainers: [{name: irsa-sidecar, image: your/app, restartPolicy: Always}], containers: [{name: app, image: your/app}]",
			"irsa-sidecar/inject: enabled", ""},
	} {
		cmd := c.kubectlCommand("apply", "-n", test.namespace, "--dry-run=server", "-f", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {%s}}, spec: {%s}}", test.labels, test.spec))
		output, err := cmd.CombinedOutput()
		fmt.Printf("\n$ kubectl apply -n %s -f -   # labels: {%s}, spec: {%s}\n%s", test.namespace, test.labels, test.spec, output)
		taken := test.says == "" || strings.HasPrefix(test.says, "Warning")
		if taken != (err == nil) || (test.says == "" && strings.Contains(string(output), "Warning")) {
			t.Errorf("taken: %t", err == nil)
		}
		world.WantContains(t, "what the policy says", string(output), test.says)
	}
	c.say(t, "kubectl delete -f deploy/policy.yaml")
}

func (c *cluster) injectsByText(t *testing.T) {
	c.namespace(t, "text", restricted)
	for name, line := range map[string]string{
		"irsa-sidecar-inject": "irsa-sidecar-inject --role-arn " + clusterRole + " --region eu-west-1 < %s",
		"kustomize":           "kubectl kustomize %s",
	} {
		dir := t.TempDir()
		input := filepath.Join(dir, "app.yaml")
		if err := os.WriteFile(input, []byte(withApp(t, string(world.RepoFile(t, "integration/testdata/app.yaml")))), 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "kustomize" {
			// In the repository, where kustomize finds the component.
			if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(world.Path(t, "deploy"))); err != nil {
				t.Fatal(err)
			}
			account := "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, annotations: {eks.amazonaws.com/role-arn: \"" + clusterRole + "\", irsa-sidecar/region: eu-west-1}}\n"
			kustomization := "resources: [app.yaml, account.yaml]\ncomponents: [deploy/kustomize, deploy/kustomize/token]\n"
			for file, text := range map[string]string{"account.yaml": account, "kustomization.yaml": kustomization} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			input = dir
		}
		c.say(t, fmt.Sprintf(line, input)+" | kubectl apply -n text -f -")
		c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "text", "deployment/app", "--timeout=1s")
		c.timings(t, name, "text", "app=app")
		c.kubectl(t, "delete", "deployment", "-n", "text", "app", "--cascade=foreground", "--grace-period=1")
		c.until(t, time.Minute, "the end of the Pod", "wait", "-n", "text", "--for=delete", "pod", "-l", "app=app", "--timeout=1s")
	}
}
