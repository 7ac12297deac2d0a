package deploy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

var update = flag.Bool("update", false, "write the manifests")

const (
	exampleRole   = `"arn:aws:iam::111122223333:role/app"`
	exampleRegion = "eu-west-1"
)

// flavours are the Parts that the manifests are made of.
var flavours = map[string]Parts{
	"native":  {Image: Image, RoleARN: exampleRole, Region: exampleRegion, Native: true},
	"classic": {Image: Image, RoleARN: exampleRole, Region: exampleRegion},
	"job":     {Image: Image, RoleARN: exampleRole, Region: exampleRegion, Job: true},
	"eks":     {Image: Image, Native: true},
	"chart":   {Image: "{{ $v.image | quote }}", RoleARN: "{{ $v.roleARN | quote }}", Region: "{{ $v.region | quote }}", Native: true, Chart: true},
	"policy":  {Image: Image, RoleARN: celRole, Region: celRegion, Native: true},
}

// workloads are the kinds that contain a Pod, as a patch's target selects them, and the path to its spec. Other groups have
// kinds with these names too. No group at all would mean any.
var workloads = []struct{ Group, Kind, Path string }{
	{"apps|batch", "Deployment|StatefulSet|DaemonSet|ReplicaSet|Job", "spec.template.spec"},
	{"batch", "CronJob", "spec.jobTemplate.spec.template.spec"},
	{"^$", "Pod", "spec"},
}

// finish is what the kustomize components share.
const finish = "templates/kustomize/finish.yaml"

// All manifests are made from the same parts, so that they cannot drift.
func TestManifestsAreMadeOfTheParts(t *testing.T) {
	made := make(map[string]bool)
	err := filepath.WalkDir("templates", func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || name == "templates/parts.yaml" || name == finish {
			return err
		}
		file := strings.TrimPrefix(name, "templates/")
		made[file] = true
		compare(t, file, fill(t, name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The chart's policy is the policy with the chart's values in it. Its dashboard and alerts are copies.
	policy := fill(t, "templates/policy.yaml")
	compare(t, "helm/irsa-sidecar/templates/policy.yaml", chartPolicy(t, policy))
	for _, file := range []string{"alerts.yaml", "dashboard.json"} {
		data, err := os.ReadFile("monitoring/" + file)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "helm/irsa-sidecar/files/"+file, string(data))
	}
}

func compare(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("%s differs from what the templates make; `make manifests` writes it", file)
	}
}

// fill makes a manifest from a template. The usual delimiters are left to Helm.
func fill(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, version, _ := strings.Cut(Image, ":")
	parsed, err := template.New(name).Delims("[[", "]]").Funcs(template.FuncMap{
		"image":     func() string { return Image },
		"version":   func() string { return version },
		"container": func(flavour string) string { return flavours[flavour].Container() },
		"env":       func(flavour string) string { return flavours[flavour].Env() },
		"volume":    func(flavour string) string { return flavours[flavour].Volume() },
		"names":     func() []string { return variables(t, flavours["eks"].Env()) },
		"regions": func() []string {
			return variables(t, flavours["native"].Env())[len(variables(t, flavours["eks"].Env())):]
		},
		"workloads":     func() any { return workloads },
		"pointer":       func(path string) string { return "/" + strings.ReplaceAll(path, ".", "/") },
		"open":          open,
		"indent":        indent,
		"rolePattern":   func() string { return names.RolePattern },
		"regionPattern": func() string { return names.RegionPattern },
		"escape":        func(pattern string) string { return strings.ReplaceAll(pattern, `\`, `\\`) }, // in JSON
		"podMonitorSpec": func() string {
			monitor, err := os.ReadFile("monitoring/podmonitor.yaml")
			if err != nil {
				t.Fatal(err)
			}
			_, spec, _ := strings.Cut(string(monitor), "\nspec:")
			return "spec:" + strings.TrimRight(spec, "\n")
		},
		"celEnv":     func(of string) string { return cel(parse(t, flavours["policy"].Env()), "Object.spec."+of+".env") },
		"celVolume":  func() string { return cel(parse(t, flavours["policy"].Volume()).Content[0], "Object.spec.volumes") },
		"celSidecar": func() string { return cel(parse(t, flavours["policy"].Container()), "Object.spec.initContainers") },
	}).Parse(string(text))
	if err == nil && strings.HasPrefix(name, filepath.Dir(finish)) {
		parsed, err = parsed.ParseFiles(finish)
	}
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := parsed.Execute(&b, nil); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String()) + "\n"
}

// indent indents all lines but the first, which stands where it is.
func indent(spaces int, text string) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", spaces))
}

// open writes the keys of a path, one below the other, and inner at its end.
func open(path string, spaces int, inner string) string {
	var b strings.Builder
	for key := range strings.SplitSeq(path, ".") {
		fmt.Fprintf(&b, "%s:\n%s", key, strings.Repeat(" ", spaces+2))
		spaces += 2
	}
	return b.String() + indent(spaces, inner)
}

func parse(t *testing.T, text string) *yaml.Node {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return document.Content[0]
}

// variables returns the names in an environment.
func variables(t *testing.T, env string) (names []string) {
	for _, entry := range parse(t, env).Content {
		names = append(names, entry.Content[1].Value)
	}
	return names
}

// What the parts contain where the policy has variables.
const (
	celRole   = "$role"
	celRegion = "$region"
)

// cel writes YAML as an expression in CEL, of the given type.
func cel(n *yaml.Node, kind string) string {
	switch n.Kind {
	case yaml.SequenceNode:
		var always, conditional []string
		for _, item := range n.Content {
			if text := cel(item, kind); strings.Contains(text, "variables.region") {
				conditional = append(conditional, text)
			} else {
				always = append(always, text)
			}
		}
		text := bracketed("[", always, "]")
		if conditional != nil {
			text += " +\n(variables.region == \"\" ? [] : " + bracketed("[", conditional, "]") + ")"
		}
		return text
	case yaml.MappingNode:
		// These are maps in the API, not objects.
		isMap := strings.HasSuffix(kind, ".requests") || strings.HasSuffix(kind, ".limits")
		var fields []string
		for i := 0; i < len(n.Content); i += 2 {
			name := n.Content[i].Value
			value := cel(n.Content[i+1], kind+"."+name)
			if isMap {
				name = fmt.Sprintf("%q", name)
			}
			fields = append(fields, name+": "+value)
		}
		if isMap {
			kind = ""
		}
		return bracketed(kind+"{", fields, "}")
	}
	switch {
	case n.Value == celRole:
		return "variables.role"
	case n.Value == celRegion:
		return "variables.region"
	case n.Tag == "!!str":
		return fmt.Sprintf("%q", n.Value)
	}
	return n.Value // a number, true or false
}

// bracketed writes the parts on one line if they are short, and on a line each otherwise.
func bracketed(left string, parts []string, right string) string {
	if line := left + strings.Join(parts, ", ") + right; len(line) < 100 && !strings.Contains(line, "\n") {
		return line
	}
	return left + "\n  " + indent(2, strings.Join(parts, ",\n")) + "\n" + right
}

// chartPolicy is the policy as a template of the chart.
func chartPolicy(t *testing.T, policy string) string {
	t.Helper()
	lines := strings.SplitAfter(policy, "\n")
	body := strings.Join(lines[slices.IndexFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "#") }):], "")
	var resources string
	for sidecar := parse(t, flavours["policy"].Container()).Content; len(sidecar) > 0; sidecar = sidecar[2:] {
		if sidecar[0].Value == "resources" {
			resources = "resources: " + indent(12, cel(sidecar[1], "Object.spec.initContainers.resources"))
		}
	}
	for old, value := range map[string]string{
		fmt.Sprintf("%q", Image):                          "{{ .Values.image | quote }}",
		`annotations["irsa-sidecar/region"].orValue(""))`: `annotations["irsa-sidecar/region"].orValue({{ .Values.region | quote }}))`,
		resources: "resources: Object.spec.initContainers.resources{requests: {{ .Values.resources.requests | toJson }}, " +
			"limits: {{ .Values.resources.limits | toJson }}}",
	} {
		if strings.Count(body, old) != 1 {
			t.Fatalf("the policy has %q %d times, not once", old, strings.Count(body, old))
		}
		body = strings.Replace(body, old, value, 1)
	}
	return `{{- if .Values.policy.enabled }}
{{- if or .Values.roleARN .Values.env }}
{{- fail "policy.enabled ignores roleARN and env: set the role in the service account's annotation eks.amazonaws.com/role-arn" }}
{{- end }}
{{- if semverCompare "<1.36-0" .Capabilities.KubeVersion.Version }}
{{- fail "policy.enabled needs Kubernetes 1.36 or later: before it, admissionregistration.k8s.io/v1 has no MutatingAdmissionPolicy" }}
{{- end }}
` + body + "{{- end }}\n"
}
