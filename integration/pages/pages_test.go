package pages

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"go.yaml.in/yaml/v3"
)

const root = "../.."

func readme(t *testing.T) Page {
	t.Helper()
	all, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// What does not fit belongs in docs/.
func TestREADMEIsShort(t *testing.T) {
	const most = 150
	if n := strings.Count(readme(t).Text, "\n"); n > most {
		t.Errorf("README.md has %d lines, want at most %d", n, most)
	}
}

// anchors returns those that GitHub makes from the headings of a page.
func anchors(text string) (all []string) {
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		level := strings.TrimLeft(line, "#")
		if fenced || level == line || !strings.HasPrefix(level, " ") {
			continue
		}
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(level)))
	}
	return all
}

// check reports a broken link on the page from.
func check(t *testing.T, from, link string) {
	t.Helper()
	file, anchor, _ := strings.Cut(link, "#")
	if file = path.Join(path.Dir(from), file); strings.HasPrefix(link, "#") {
		file = from
	}
	info, err := os.Stat(filepath.Join(root, filepath.FromSlash(file)))
	if err != nil {
		t.Errorf("%s: %s is not there: %v", from, link, err)
		return
	}
	if anchor == "" {
		return
	}
	if info.IsDir() {
		t.Errorf("%s: %s: a directory has no headings", from, link)
		return
	}
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(anchors(string(text)), anchor) {
		t.Errorf("%s: %s: there is no such heading", from, link)
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	all, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Page{name, string(text)})
	}
	n := 0
	for _, page := range all {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(page.Text, -1) {
			if !strings.Contains(m[1], "://") {
				n++
				check(t, page.Path, m[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d links", n)
	}
}

// Programs, manifests and alerts name pages by their address.
func TestAddressesOfPagesLeadSomewhere(t *testing.T) {
	address := regexp.MustCompile(`https://github\.com/irsa-sidecar/irsa-sidecar/blob/main/([\w./-]+(?:#[\w-]+)?)`)
	n := 0
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && file != root && (name == "bin" || name == ".git" || name == "node_modules") {
			return filepath.SkipDir
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		for _, m := range address.FindAllSubmatch(text, -1) {
			n++
			check(t, "README.md", string(m[1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Error("the alerts name no page")
	}
}

// containersOf returns the init containers and the containers of the first Deployment or Pod.
func containersOf(t *testing.T, documents []byte) (initial, others []map[string]any) {
	t.Helper()
	type podSpec struct {
		InitContainers []map[string]any `yaml:"initContainers"`
		Containers     []map[string]any
	}
	for decoder := yaml.NewDecoder(bytes.NewReader(documents)); ; {
		var d struct {
			Kind string
			Spec struct {
				podSpec  `yaml:",inline"`
				Template struct{ Spec podSpec }
			}
		}
		if err := decoder.Decode(&d); err != nil {
			t.Fatalf("no Deployment and no Pod: %v", err)
		}
		switch d.Kind {
		case "Deployment":
			return d.Spec.Template.Spec.InitContainers, d.Spec.Template.Spec.Containers
		case "Pod":
			return d.Spec.InitContainers, d.Spec.Containers
		}
	}
}

// README's manifest is deploy/native-sidecar.yaml without what the EKS webhook adds.
func TestREADMEsManifestIsThatOfDeploy(t *testing.T) {
	native, err := os.ReadFile(filepath.Join(root, "deploy/native-sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	webhook := []string{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_REGION", "AWS_DEFAULT_REGION"}
	withoutWebhook := func(env any) (rest []any) {
		for _, variable := range env.([]any) {
			v := variable.(map[string]any)
			if v["value"] == "" || !slices.Contains(webhook, v["name"].(string)) { // "" keeps the webhook from adding it
				rest = append(rest, variable)
			}
		}
		return rest
	}
	wantInit, wantApp := containersOf(t, native)
	gotInit, gotApp := containersOf(t, []byte(readme(t).Blocks("yaml")[0]))
	sidecar := wantInit[0]
	delete(sidecar, "volumeMounts")
	sidecar["env"] = withoutWebhook(sidecar["env"])
	sidecar["image"] = "registry.example/" + sidecar["image"].(string)
	if len(gotInit) != 1 || !reflect.DeepEqual(gotInit[0], sidecar) {
		t.Errorf("the sidecar is\n%v\nwant\n%v", gotInit, sidecar)
	}
	if env := withoutWebhook(wantApp[0]["env"]); !reflect.DeepEqual(gotApp[0]["env"], env) {
		t.Errorf("the app's environment is\n%v\nwant\n%v", gotApp[0]["env"], env)
	}
}

// Every other sidecar in README and docs has the parts of deploy's, and its own environment and mounts. Its apps have at least the
// environment that keeps their SDKs with the sidecar, run under the restricted Pod Security level, and never see the web identity token.
func TestSidecarsInDocsAreThatOfDeploy(t *testing.T) {
	native, err := os.ReadFile(filepath.Join(root, "deploy/native-sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	deployed, _ := containersOf(t, native)
	all, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, page := range all[1:] {
		for _, block := range page.Blocks("yaml") {
			if !strings.Contains(block, "name: irsa-sidecar\n") || !strings.Contains(block, "kind: Deployment") && !strings.Contains(block, "kind: Pod\n") {
				continue
			}
			n++
			initial, apps := containersOf(t, []byte(block))
			if initial[0]["name"] == "claim-addresses" {
				checkClaim(t, page.Path, initial[0], deployed[0])
				initial = initial[1:]
			}
			for key, want := range deployed[0] {
				if key != "env" && key != "volumeMounts" && !reflect.DeepEqual(initial[0][key], want) {
					t.Errorf("%s: the sidecar's %s is\n%v\nwant\n%v in\n%s", page.Path, key, initial[0][key], want, block)
				}
			}
			for _, app := range apps {
				checkApp(t, page.Path, app)
			}
		}
	}
	if n < 4 {
		t.Errorf("only %d Pods with a sidecar", n)
	}
}

// checkClaim checks that claim-addresses has one capability and root's ID more than the sidecar, and is told what it needs.
func checkClaim(t *testing.T, page string, claim, sidecar map[string]any) {
	t.Helper()
	want := maps.Clone(sidecar["securityContext"].(map[string]any))
	want["runAsUser"], want["runAsNonRoot"], want["capabilities"] = 0, false, map[string]any{"drop": []any{"ALL"}, "add": []any{"NET_ADMIN"}}
	if !reflect.DeepEqual(claim["securityContext"], want) {
		t.Errorf("%s: the securityContext of claim-addresses is\n%v\nwant\n%v", page, claim["securityContext"], want)
	}
	for _, key := range []string{"image", "resources", "terminationMessagePolicy"} {
		if !reflect.DeepEqual(claim[key], sidecar[key]) {
			t.Errorf("%s: the %s of claim-addresses is %v, want %v", page, key, claim[key], sidecar[key])
		}
	}
	for _, pair := range []string{"IRSA_SIDECAR_HOST_IP status.hostIP", "IRSA_SIDECAR_POD_IP status.podIP"} {
		name, field, _ := strings.Cut(pair, " ")
		variable := map[string]any{"name": name, "valueFrom": map[string]any{"fieldRef": map[string]any{"fieldPath": field}}}
		if !slices.ContainsFunc(claim["env"].([]any), func(have any) bool { return reflect.DeepEqual(have, variable) }) {
			t.Errorf("%s: the environment of claim-addresses does not have %s: %v", page, name, claim["env"])
		}
	}
	if !reflect.DeepEqual(claim["args"], []any{"claim-addresses"}) {
		t.Errorf("%s: the args of claim-addresses are %v", page, claim["args"])
	}
}

func checkApp(t *testing.T, page string, app map[string]any) {
	t.Helper()
	env := make(map[any]any)
	for _, variable := range app["env"].([]any) {
		v := variable.(map[string]any)
		env[v["name"]] = v["value"]
	}
	_, emptied := env["AWS_WEB_IDENTITY_TOKEN_FILE"]
	uri, _ := env["AWS_CONTAINER_CREDENTIALS_FULL_URI"].(string)
	if env["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] == "/v1/credentials" && uri == "" {
		uri = "http://127.0.0.1:9911/v1/credentials" // at another listener
	}
	if !emptied || env["AWS_EC2_METADATA_DISABLED"] != "true" || !strings.HasPrefix(uri, "http://127.0.0.1:9911/v1/credentials") {
		t.Errorf("%s: the environment of %v is %v", page, app["name"], env)
	}
	security, _ := app["securityContext"].(map[string]any)
	if security["allowPrivilegeEscalation"] != false || !reflect.DeepEqual(security["capabilities"], map[string]any{"drop": []any{"ALL"}}) {
		t.Errorf("%s: the securityContext of %v is %v", page, app["name"], security)
	}
	if strings.Contains(fmt.Sprint(app["volumeMounts"]), "irsa-sidecar-token") {
		t.Errorf("%s: %v mounts the web identity token, and can go round the sidecar", page, app["name"])
	}
}

// The two policies for another account in docs/pods.md are for the roles, and the external ID, of the YAML above them.
func TestPoliciesForAnotherAccountFitTheYAML(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/pods.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := Page{"docs/pods.md", string(text)}
	policies := page.Blocks("json")
	if len(policies) != 2 {
		t.Fatalf("%d policies, want the target's trust policy and the Pod's permission", len(policies))
	}
	i := slices.IndexFunc(page.Blocks("yaml"), func(block string) bool { return strings.Contains(block, "IRSA_SIDECAR_TARGET_ROLE_ARN") })
	initial, _ := containersOf(t, []byte(page.Blocks("yaml")[i]))
	env := make(map[string]any)
	for _, variable := range initial[0]["env"].([]any) {
		v := variable.(map[string]any)
		env[v["name"].(string)] = v["value"]
	}
	source, target := env["AWS_ROLE_ARN"], env["IRSA_SIDECAR_TARGET_ROLE_ARN"]
	for j, want := range []map[string]any{
		{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": map[string]any{"AWS": source},
			"Condition": map[string]any{"StringEquals": map[string]any{"sts:ExternalId": env["IRSA_SIDECAR_EXTERNAL_ID"]}}},
		{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": target},
	} {
		var policy struct {
			Version   string
			Statement []map[string]any
		}
		if err := json.Unmarshal([]byte(policies[j]), &policy); err != nil {
			t.Fatal(err)
		}
		if policy.Version != "2012-10-17" || len(policy.Statement) != 1 || !reflect.DeepEqual(policy.Statement[0], want) {
			t.Errorf("policy %d is\n%v\nwant\n%v", j+1, policy, want)
		}
	}
}

// docs/operations.md explains every alert.
func TestEveryAlertIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "deploy/monitoring/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	find := func(expression string, in []byte) (all []string) {
		for _, m := range regexp.MustCompile(expression).FindAllSubmatch(in, -1) {
			all = append(all, string(m[1])+", "+string(m[2]))
		}
		slices.Sort(all)
		return all
	}
	rules := find(`(?s)- alert: (\w+).*?severity: (\w+)`, text)
	if explained := find("\\| `(IrsaSidecar\\w+)` \\| (\\w+)", page); len(rules) < 6 || !slices.Equal(rules, explained) {
		t.Errorf("explained are\n%q\nwant\n%q", explained, rules)
	}
}

// The files that pages name, and the targets of make.
func TestFilesAndTargetsAreThere(t *testing.T) {
	all, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range all {
		for _, m := range regexp.MustCompile(`(?m)(?:^|[^/\w.])((?:deploy|integration|cmd|cache|server)/[\w./-]*\w)`).FindAllStringSubmatch(page.Text, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil && m[1] != "deploy/app" { // kubectl's name for the Deployment app
				t.Errorf("%s: %v", page.Path, err)
			}
		}
		for _, m := range regexp.MustCompile("(?m)(?:`|^ *\\$ )make ([a-z-]+)").FindAllStringSubmatch(page.Text, -1) {
			if !bytes.Contains(makefile, []byte("\n"+m[1]+":")) {
				t.Errorf("%s: there is no make %s", page.Path, m[1])
			}
		}
	}
}

// The table in docs/products.md is written by hand: each row has all its cells and the sources that it was read in, at a tag or a commit,
// because a branch changes after it was read. "As above" means the release before.
func TestEveryProductHasASource(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/products.md"))
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`^\[[^\]]+\]\(https://[^)\s]+\)$`)
	branch := regexp.MustCompile(`^https://github\.com/[^/]+/[^/]+/(blob|tree)/(main|master|HEAD)/`)
	seen := make(map[string]bool)
	n, previous := 0, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "## ") {
			previous = ""
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| product |") {
			continue
		}
		n++
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != 6 || slices.Contains(cells, "") {
			t.Errorf("%d cells, and none may be empty: %s", len(cells), line)
			continue
		}
		product := cells[0]
		if key := strings.Join(cells[:2], " "); seen[key] {
			t.Errorf("%s is there twice", key)
		} else {
			seen[key] = true
		}
		if order := cmp.Compare(sortable(previous), sortable(product)); order > 0 {
			t.Errorf("%s stands after %s", product, previous)
		} else if order != 0 && strings.Contains(cells[4], "as above") {
			t.Errorf("%s: there is no release of it above", product)
		}
		previous = product
		for source := range strings.SplitSeq(cells[5], ", ") {
			if !link.MatchString(source) {
				t.Errorf("%s: the source %q is no link", product, source)
			} else if _, address, _ := strings.Cut(source, "]("); branch.MatchString(address) {
				t.Errorf("%s: the source %q is a branch", product, source)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d products", n)
	}
}

// sortable is a product's name without what does not count in the alphabet.
func sortable(product string) string { return strings.ToLower(strings.ReplaceAll(product, "`", "")) }
