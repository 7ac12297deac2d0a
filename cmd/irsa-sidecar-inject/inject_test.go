package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/deploy"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, have string) {
	t.Helper()
	name = "testdata/" + name
	if *update {
		if err := os.WriteFile(name, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("%s differs from the result:\n%s", name, have)
	}
}

// pipe runs the program.
func pipe(t *testing.T, input string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errors bytes.Buffer
	err = run(args, strings.NewReader(input), &out, &errors)
	return out.String(), errors.String(), err
}

func TestEveryLayoutIsKept(t *testing.T) {
	input, err := os.ReadFile("testdata/layouts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	output, notes, err := pipe(t, string(input), "--region", "eu-west-1", "--image", "registry.example/irsa-sidecar:9")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "layouts.injected.yaml", output)
	golden(t, "layouts.notes.txt", notes)

	// Every line is kept, in order, except those that contain the list.
	rest := strings.Split(output, "\n")
	for line := range strings.SplitSeq(string(input), "\n") {
		if strings.ContainsAny(line, "[{") || strings.Contains(line, " null") || strings.Contains(line, " env:") {
			continue
		}
		i := slices.Index(rest, line)
		if i < 0 {
			t.Fatalf("this line is missing or has moved: %s", line)
		}
		rest = rest[i+1:]
	}

	again, _, err := pipe(t, output)
	if err != nil || again != output {
		t.Errorf("a second time changes it (%v):\n%s", err, again)
	}
	windows := strings.ReplaceAll(string(input), "\n", "\r\n")
	if have, _, err := pipe(t, windows, "--region", "eu-west-1", "--image", "registry.example/irsa-sidecar:9"); err != nil || have != strings.ReplaceAll(output, "\n", "\r\n") {
		t.Errorf("Windows line ends change the result (%v)", err)
	}
}

// Unusable input is refused as a whole: nothing is written, so no document is half changed or lost.
func TestBadInputIsRefusedWhole(t *testing.T) {
	const good = "apiVersion: v1\nkind: Pod\nmetadata: {name: good}\nspec:\n  containers: [{name: app, image: one}]\n---\n"
	const role = "arn:aws:iam::111122223333:role/app"
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: " + spec + "\n"
	}
	account := func(annotations string) string {
		return "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, annotations: {" + annotations + "}}\n---\n"
	}
	for name, test := range map[string]struct{ input, want string }{
		"nothing":                 {"", "no Kubernetes object on standard input"},
		"only a comment":          {"# nothing else\n", "no Kubernetes object on standard input"},
		"not YAML":                {good + "kind: [", "document 2 is not YAML: line 7: did not find expected node content"},
		"a tab":                   {good + "kind: Pod\n\tmetadata: x", "document 2 is not YAML: line 7: found a tab character"},
		"a template":              {good + "kind: {{ .Values.kind }}", "render templates first: helm template"},
		"a key twice":             {good + "apiVersion: v1\nkind: Pod\nkind: Pod", `document 2 is not YAML: line 9: mapping key "kind" already defined at line 8`},
		"a list":                  {good + "- a", "line 7: document 2 is not a Kubernetes object: apiVersion or kind is missing"},
		"a sentence":              {good + "hello", "line 7: document 2 is not a Kubernetes object"},
		"no kind":                 {good + "services: {web: {image: x}}", "line 7: document 2 is not a Kubernetes object: apiVersion or kind is missing"},
		"labels are a list":       {good + "apiVersion: v1\nkind: Pod\nmetadata: {labels: [a]}", "line 7: document 2 is not a Kubernetes object"},
		"no spec":                 {good + "apiVersion: v1\nkind: Pod", "no containers at spec.containers"},
		"no containers":           {good + "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: n}\nspec: {template: {spec: {}}}", "line 7: Deployment n/d: no containers at spec.template.spec.containers"},
		"empty containers":        {good + pod("{containers: []}"), "line 7: Pod bad: no containers at spec.containers"},
		"containers, a word":      {good + pod("{containers: app}"), "no containers at spec.containers"},
		"container, a word":       {good + pod("{containers: [app]}"), "line 10: a container needs a name and an image"},
		"initContainers, odd":     {good + pod("{initContainers: x, containers: [{name: app}]}"), "line 10: initContainers is not a list"},
		"env, a word":             {good + pod("{containers: [{name: app, env: x}]}"), "line 10: env is not a list"},
		"named like ours":         {good + pod("{containers: [{name: irsa-sidecar, image: x}]}"), "line 10: a container is named irsa-sidecar but is not a native sidecar: rename it"},
		"named like ours, always": {good + pod("{containers: [{name: irsa-sidecar, restartPolicy: Always}]}"), "line 10: a container is named irsa-sidecar but is not a native sidecar: rename it"},
		"a merge in the spec":     {good + "x: &x {volumes: [{name: v}]}\napiVersion: v1\nkind: Pod\nspec:\n  <<: *x\n  containers: [{name: a}]", "line 11: << merges keys in here: write them out"},
		"a merge in a container":  {good + "x: &x {env: [{name: A}]}\napiVersion: v1\nkind: Pod\nspec:\n  containers: [{name: a, <<: *x}]", "line 11: << merges keys in here: write them out"},
		"a carriage return alone": {good + "apiVersion: v1\rkind: Pod", "line 7 ends with something other than a line feed"},
		"a line separator":        {good + pod("{containers: [{name: a, args: [\"a\u2028b\"]}]}"), "line 10 ends with something other than a line feed"},
		"a region that is none":   {good + account("eks.amazonaws.com/role-arn: \""+role+"\", irsa-sidecar/region: eu west") + pod("{serviceAccount: app, containers: [{name: app}]}"), `annotation irsa-sidecar/region of service account app: "eu west" is not the name of a region`},
		"named like ours, too":    {good + pod("{initContainers: [{name: irsa-sidecar}], containers: [{name: app}]}"), "is not a native sidecar: rename it"},
		"an anchor": {good + pod("\n  containers:\n  - &a {name: app, image: x}\n  - *a\n"),
			"line 7: Pod bad: line 13: *a is an alias for a container: write the container out"},
		"an account without a role": {good + "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app}\n---\n" + pod("{serviceAccountName: app, containers: [{name: app}]}"),
			"line 11: Pod bad: its service account app has no role: annotate it with eks.amazonaws.com/role-arn, or use --role-arn"},
		"an account with a role that is none": {good + account("eks.amazonaws.com/role-arn: app") + pod("{serviceAccountName: app, containers: [{name: app}]}"),
			`annotation eks.amazonaws.com/role-arn of service account app: "app" is the name of a role`},
		"a role and a region of two partitions": {good + account("eks.amazonaws.com/role-arn: \""+role+"\", irsa-sidecar/region: cn-north-1") + pod("{serviceAccountName: app, containers: [{name: app}]}"),
			"region cn-north-1 is in the partition aws-cn, but role " + role + " is in aws"},
	} {
		t.Run(name, func(t *testing.T) {
			output, _, err := pipe(t, test.input)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want … %s …", err, test.want)
			}
			if output != "" {
				t.Errorf("it wrote %q", output)
			}
		})
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a file":                 {[]string{"app.yaml"}, `unexpected argument "app.yaml"; usage: irsa-sidecar-inject < app.yaml`},
		"kubectl's flag":         {[]string{"-f", "app.yaml"}, "unknown flag -f; manifests are read from standard input: irsa-sidecar-inject … < app.yaml"},
		"kubectl's long flag":    {[]string{"--filename=app.yaml"}, "unknown flag --filename; manifests are read from standard input"},
		"an unknown flag":        {[]string{"--role", "x"}, "unknown flag --role; the flags are --role-arn, --region and --image"},
		"a role's name":          {[]string{"--role-arn", "app"}, `--role-arn "app" is the name of a role`},
		"a zone":                 {[]string{"--region", "eu-west-1a"}, `--region "eu-west-1a" is an availability zone: its region is eu-west-1`},
		"a flag without a value": {[]string{"--region"}, "--region needs a value; see irsa-sidecar-inject --help"},
		"an instance profile":    {[]string{"--role-arn", "arn:aws:iam::111122223333:instance-profile/app"}, "is an instance profile; use the ARN of the role in it"},
		"a role with a blank":    {[]string{"--role-arn", role + " "}, "ends with a blank; use arn:"},
		"eleven digits":          {[]string{"--role-arn", "arn:aws:iam::11112222333:role/app"}, "has an account of 11 digits; expected 12"},
		"a placeholder":          {[]string{"--role-arn", "arn:aws:iam::<account>:role/app"}, "contains a placeholder that was never filled in"},
		"three dashes":           {[]string{"---region=x"}, "bad flag syntax: ---region; see irsa-sidecar-inject --help"},
		"no image":               {[]string{"--image", ""}, "--image needs a value; see irsa-sidecar-inject --help"},
		"an empty role":          {[]string{"--role-arn="}, "--role-arn needs a value; see irsa-sidecar-inject --help"},
		"an empty region":        {[]string{"--region", ""}, "--region needs a value; see irsa-sidecar-inject --help"},
		"a flag as the image":    {[]string{"--image", "-x"}, `--image "-x" is not an image, such as registry.example/irsa-sidecar:`},
	} {
		t.Run(name, func(t *testing.T) {
			output, _, err := pipe(t, good, test.args...)
			if _, usage := err.(usageError); !usage || !strings.Contains(err.Error(), test.want) || output != "" {
				t.Errorf("wrote %q, and %v, want … %s …", output, err, test.want)
			}
		})
	}
	if output, notes, err := pipe(t, good, "--role-arn", role); err != nil || !strings.Contains(output, role) || !strings.Contains(notes, "Pod good: sidecar added; role "+role) {
		t.Errorf("the good one alone is refused: %v, %s", err, notes)
	}
}

func TestNamesDoNotControlTheTerminal(t *testing.T) {
	_, notes, err := pipe(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\e[2J\\u202Eb\"}\nspec: {containers: [{name: app, image: one}]}\n")
	if err != nil || !strings.HasPrefix(notes, "irsa-sidecar-inject: Pod a [2J b: sidecar added; ") {
		t.Errorf("%q, %v", notes, err)
	}
}

// A mistaken argument, or a value in a manifest, may be a secret.
func TestErrorsMaskSecrets(t *testing.T) {
	const (
		key       = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEQ1"
		id        = "AKIAIOSFODNN7EXAMPLE"
		signature = "c2lnbmF0dXJlLW9mLXRoZS10b2tlbi1oZXJl"
		token     = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ." + signature
		pod       = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {serviceAccountName: app, containers: [{name: app}]}\n"
		account   = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, annotations: {eks.amazonaws.com/role-arn: %q, irsa-sidecar/region: %q}}\n---\n"
		role      = "arn:aws:iam::111122223333:role/app"
	)
	for _, secret := range []string{key, id, token, token + "\n", "\x1b[1m" + token} {
		for _, test := range []struct {
			input string
			args  []string
		}{
			{pod, []string{"--role-arn", secret}},
			{pod, []string{"--role-arn=" + secret}},
			{pod, []string{"--region", secret}},
			{pod, []string{"--region=" + secret}},
			{pod, []string{"---region=" + secret}},
			{pod, []string{"--image", secret}},
			{pod, []string{"--image", secret + " x"}},
			{pod, []string{secret}},
			{pod, []string{"-" + secret}},
			{pod, []string{"--" + secret}},
			{pod, []string{"---" + secret}},
			{fmt.Sprintf(account, secret, "eu-west-1") + pod, nil},
			{fmt.Sprintf(account, role, secret) + pod, nil},
		} {
			output, notes, err := pipe(t, test.input, test.args...)
			if err == nil {
				t.Errorf("%q are accepted:\n%s", test.args, output)
				continue
			}
			var shown strings.Builder
			say(&shown, err.Error())
			for _, part := range []string{key, id, signature, "\x1b"} {
				if strings.Contains(notes+shown.String(), part) {
					t.Errorf("%.40q: %s%s", test.args, notes, shown.String())
				}
			}
		}
	}
	var shown strings.Builder
	say(&shown, strings.Repeat("a long line, ", 10000))
	if len(shown.String()) > maxLine+len("irsa-sidecar-inject: … (1234567 more) …\n") {
		t.Errorf("a line of %d bytes", len(shown.String()))
	}
}

// The sidecar would refuse the same values, and the Pod would crash in a loop. The flags and the annotations have one rule.
func TestRolesAndRegionsAreTheSidecars(t *testing.T) {
	const (
		account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, annotations: {eks.amazonaws.com/role-arn: %q, irsa-sidecar/region: %q}}\n---\n"
		pod     = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {serviceAccountName: app, containers: [{name: app}]}\n"
		role    = "arn:aws:iam::111122223333:role/"
		region  = "eu-west-1"
	)
	for _, row := range []struct {
		role, region string
		taken        bool
	}{
		{role + "app", region, true},
		{role + "a/b/app", "aws-global", true},
		{role + strings.Repeat("a", 2048-len(role)), region, true},
		{role + strings.Repeat("a", 2049-len(role)), region, false},
		{"arn:aws-cn:iam::111122223333:role/app", "cn-north-1", true},
		{"arn:aws-cn:iam::111122223333:role/app", region, false},
		{role + "app", "us-gov-west-1", false},
		{"arn:minio:iam:::role/app", region, true},
		{"arn:aws:iam:::role/ceph", "cn-north-1", true},
		{"arn:aws:iam::11112222333:role/app", region, false},
		{"arn:aws:iam::1111222233334:role/app", region, false},
		{"arn:aws:iam::111122223333:user/app", region, false},
		{role, region, false},
		{role + "a b", region, false},
		{role + "app\n", region, false},
		{role + "app", "eu-west-10", true},
		{role + "app", "eu-west-100", false},
		{role + "app", "eu-west-1a", false},
		{role + "app", "EU-WEST-1", false},
		{role + "app", " eu-west-1", false},
	} {
		_, _, byFlags := pipe(t, pod, "--role-arn", row.role, "--region", row.region)
		_, _, byAnnotations := pipe(t, fmt.Sprintf(account, row.role, row.region)+pod)
		if (byFlags == nil) != row.taken || (byAnnotations == nil) != row.taken {
			t.Errorf("%.60q in %q: by flags %v, by annotations %v", row.role, row.region, byFlags, byAnnotations)
		}
	}
}

// Every terminal shows 80 columns.
func TestHelp(t *testing.T) {
	for _, flag := range []string{"-h", "-help", "--help", "help"} {
		output, notes, err := pipe(t, "", flag)
		if err != nil || output != help || notes != "" {
			t.Errorf("%s printed %q, %q, %v", flag, output, notes, err)
		}
	}
	for line := range strings.Lines(help) {
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

// The library that reads YAML counts every line feed, whatever the other lines end in.
func TestLineEndsMayBeMixed(t *testing.T) {
	const input = "apiVersion: v1\r\nkind: ConfigMap\ndata: {a: b}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\r\n  - name: a\n"
	for _, input := range []string{input, byteOrderMark + input, byteOrderMark + `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}`} {
		output, notes, err := pipe(t, input)
		if err != nil || !strings.Contains(output, deploy.Name) || !strings.Contains(notes, "Pod p: sidecar added") {
			t.Errorf("%v, %s\n%s", err, notes, output)
		}
	}
}

func TestWhatIsNotAWorkloadPassesUnchanged(t *testing.T) {
	for _, input := range []string{
		"kind:   Service\napiVersion: v1\n\n# end\n",
		`{"apiVersion": "v1", "kind": "List", "items": []}`, // what kubectl get -o json prints for nothing
		"apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {name: j}\nspec: {tasks: []}\n",
	} {
		output, notes, err := pipe(t, input)
		if err != nil || output != input || !strings.Contains(notes, "nothing to inject") {
			t.Errorf("%q, %q, %v", output, notes, err)
		}
	}
}

func FuzzInject(f *testing.F) {
	layouts, err := os.ReadFile("testdata/layouts.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for document := range strings.SplitSeq(string(layouts), "---\n") {
		f.Add([]byte(document))
	}
	f.Add([]byte("apiVersion: v1\r\nkind: Pod\nspec:\n  containers:\r\n  - name: irsa-sidecar\n    restartPolicy: Always\n"))
	f.Add([]byte("{apiVersion: v1, kind: Pod, spec: {containers: [{name: a}], volumes: [] , initContainers: ~}}"))
	f.Fuzz(func(t *testing.T, input []byte) {
		parts := deploy.Parts{Image: "i", RoleARN: "arn:aws:iam::1:role/r", Native: true}
		output, _, err := inject(input, parts)
		if err != nil {
			if output != nil {
				t.Errorf("refused (%v), but with output", err)
			}
			return
		}
		again, _, err := inject(output, parts)
		if err != nil || !bytes.Equal(again, output) {
			t.Errorf("a second time: %v\n%s\nafter\n%s", err, again, output)
		}
	})
}

// Whatever goes before the sidecar is named, also where only a Secret knows its value.
func TestWhatGoesBeforeTheSidecarIsNoted(t *testing.T) {
	const pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: app, image: a, env: [{name: %s, %s}]}]}}\n"
	for _, v := range sources.Before {
		for value, want := range map[string]bool{
			"value: x": true, "valueFrom: {secretKeyRef: {name: s, key: k}}": true, `value: ""`: false,
		} {
			_, notes, err := inject(fmt.Appendf(nil, pod, v.Name, value), deploy.Parts{Image: deploy.Image, Native: true})
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(notes, "\n"); strings.Contains(all, v.Name) != want {
				t.Errorf("%s with %s: noted\n%s", v.Name, value, all)
			}
		}
	}
	input := "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: app, image: a, volumeMounts: [{name: v, mountPath: /root/.aws}, {name: w, mountPath: /data}]}]}}\n"
	_, notes, err := inject([]byte(input), deploy.Parts{Image: deploy.Image, Native: true})
	if all := strings.Join(notes, "\n"); err != nil || !strings.Contains(all, "mounts /root/.aws") || strings.Contains(all, "/data") {
		t.Errorf("%v, noted\n%s", err, all)
	}
}

// Each variable leads to one output, and the notes say whether the sidecar, new or there already, has it on.
func TestTheOutputOfEachContainerIsNoted(t *testing.T) {
	const added = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: app, image: a, env: [%s]}, {name: other, image: b}]}}\n"
	const there = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {initContainers: [{name: irsa-sidecar, image: s, restartPolicy: Always, env: [%s]}], containers: [{name: app, image: a, env: [%s]}]}}\n"
	set := func(name, value string) string { return fmt.Sprintf("{name: %s, value: %q}", name, value) }
	notesOf := func(input string) string {
		t.Helper()
		_, notes, err := inject([]byte(input), deploy.Parts{Image: deploy.Image, Native: true})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(notes, "\n")
	}
	for _, o := range sources.Outputs[1:] {
		own := set(o.By, "/x")
		off := "app sets " + o.By + ", and the sidecar that is added gives no credentials there: its " + o.On + " is not set; "
		on := "app uses the sidecar's output " + o.Name + ", as it sets " + o.By
		for _, row := range []struct{ input, want, not string }{
			{fmt.Sprintf(added, own), off, on},
			{fmt.Sprintf(added, own), "by hand: docs/programs.md#" + o.Section, on},
			{fmt.Sprintf(added, "{name: "+o.By+", valueFrom: {secretKeyRef: {name: s, key: k}}}"), off, on},
			{fmt.Sprintf(added, set(o.By, "")), "container endpoint of app, other", o.On},
			{fmt.Sprintf(added, set(o.By, "/dev/null")), "container endpoint of app, other", o.On},
			{fmt.Sprintf(there, set(o.On, "/x"), own), on, "no credentials"},
			{fmt.Sprintf(there, "", own), "the sidecar gives no credentials there: its " + o.On + " is not set", on},
			{fmt.Sprintf(there, set(o.On, "/x"), ""), "unchanged", "app"},
		} {
			if notes := notesOf(row.input); !strings.Contains(notes, row.want) || strings.Contains(notes, row.not) {
				t.Errorf("%s\nnoted\n%s\nwant … %s …, not … %s …", row.input, notes, row.want, row.not)
			}
		}
	}
	for _, o := range []sources.Output{sources.File, sources.Process} {
		if notes := notesOf(fmt.Sprintf(there, set(o.On, "/y"), set(o.By, "/x"))); !strings.Contains(notes, "its "+o.On+" names another path") {
			t.Errorf("another file: %s", notes)
		}
	}
	if notes := notesOf(fmt.Sprintf(added, set("AWS_ACCESS_KEY_ID", "x"))); !strings.HasSuffix(notes, "; container endpoint of other") {
		t.Errorf("a key goes before the sidecar: %s", notes)
	}
}
