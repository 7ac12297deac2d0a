//go:build cluster

package cluster

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// The roles of docs/pods.md, and one that does not exist.
const (
	reportsRole = "arn:aws:iam::111122223333:role/reports"
	otherRole   = "arn:aws:iam::111122223333:role/other"
	refusedRole = "arn:aws:iam::111122223333:role/refused"
	uploadsRole = "arn:aws:iam::444455556666:role/uploads"
	uploadsID   = "shop-uploads-8f3a" // its external ID
)

// example returns the YAML of docs/pods.md with a text in it, with this test's app.
func example(t *testing.T, part string) string {
	t.Helper()
	for _, block := range world.Blocks(t, "yaml") {
		if strings.Contains(block, part) {
			return withApp(t, block)
		}
	}
	t.Fatalf("no block of YAML in docs has %s", part)
	return ""
}

// caller is a container of a Pod.
type caller struct{ namespace, pod, container string }

// ownToken stands for the token that the container has itself, in a file or a variable.
const ownToken = "its own"

var (
	servedRole  = regexp.MustCompile(`"RoleArn":"([^"]*)"`)
	wgetRefused = regexp.MustCompile(`server returned error: HTTP/1\.1 (\d{3})`)
)

// asks sends a request from the container, and returns the role whose credentials it got, or the status of a refusal. The token
// comes through stdin, so that no transcript has it.
func (c *cluster) asks(t *testing.T, from caller, path, token string) string {
	t.Helper()
	script := `read -r T; [ "$T" = "` + ownToken + `" ] && T=$(cat "${AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE:-/dev/null}") && T=${T:-$AWS_CONTAINER_AUTHORIZATION_TOKEN}
set --; [ -n "$T" ] && set -- --header "Authorization: $T"; wget -qO- "$@" http://127.0.0.1:9911` + path
	cmd := c.kubectlCommand("exec", "-i", "-n", from.namespace, from.pod, "-c", from.container, "--", "sh", "-c", script)
	cmd.Stdin = strings.NewReader(token + "\n")
	output, err := cmd.CombinedOutput()
	if m := servedRole.FindSubmatch(output); m != nil && err == nil {
		return string(m[1])
	}
	if m := wgetRefused.FindSubmatch(output); m != nil {
		return string(m[1])
	}
	t.Fatalf("%s of %s asked for %s, and got neither credentials nor a status: %v", from.container, from.pod, path, err)
	return ""
}

// reachesAnotherAccount plays "Another account" of docs/pods.md.
func (c *cluster) reachesAnotherAccount(t *testing.T) {
	c.namespace(t, "account", restricted)
	c.apply(t, "account", example(t, "IRSA_SIDECAR_TARGET_ROLE_ARN"))
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "account", "deployment/app", "--timeout=1s")
	c.wantFirstAnswer(t, "account")
	app := caller{"account", c.pod(t, "account", "app=app").Metadata.Name, "app"}
	if got := c.asks(t, app, "/v1/credentials", ownToken); got != uploadsRole {
		t.Errorf("the app has the role %s, want %s", got, uploadsRole)
	}
	c.say(t, "kubectl exec -n account "+app.pod+" -c irsa-sidecar -- /irsa-sidecar status")
	c.kubectl(t, "delete", "namespace", "account", "--wait=false")
}

// servesTwoRoles plays "Two containers with two roles" of docs/pods.md: each container gets its own role and is refused the
// other's, by its path, by each token that it could know, and by its user.
func (c *cluster) servesTwoRoles(t *testing.T) {
	c.namespace(t, "roles", restricted)
	c.apply(t, "roles", twoRoles(t))
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "roles", "deployment/app", "--timeout=1s")
	c.wantFirstAnswer(t, "roles")
	pod := c.pod(t, "roles", "app=app").Metadata.Name
	app, reports := caller{"roles", pod, "app"}, caller{"roles", pod, "reports"}
	tokens := map[string]string{"none": "", "its own": ownToken, "the Pod's UID": c.kubectl(t, "get", "pod", "-n", "roles", pod, "-o", "jsonpath={.metadata.uid}")}
	for _, of := range []caller{app, reports} {
		token := c.kubectl(t, "exec", "-n", "roles", pod, "-c", of.container, "--", "cat", "/authorization/token")
		world.Leaks.Secret("an authorization token", token)
		tokens["that of "+of.container] = token
	}
	fmt.Printf("\n# %-9s %-6s %-24s %-16s %s\n", "container", "user", "GET", "token", "answer")
	for _, test := range []struct {
		from              caller
		path, token, want string
	}{
		{app, "/v1/credentials/app", "its own", clusterRole},
		{reports, "/v1/credentials/reports", "its own", reportsRole},
		{app, "/v1/credentials/reports", "its own", "403"},
		{reports, "/v1/credentials/app", "its own", "403"},
		{app, "/v1/credentials/reports", "none", "403"},
		{reports, "/v1/credentials/app", "none", "403"},
		{app, "/v1/credentials/app", "none", "403"},
		{app, "/v1/credentials/reports", "the Pod's UID", "403"},
		{app, "/v1/credentials/app", "the Pod's UID", "403"},
		{app, "/v1/credentials/reports", "that of reports", "403"}, // the right token, and the wrong user
		{reports, "/v1/credentials/app", "that of app", "403"},
		{app, "/v1/credentials/app", "that of reports", "403"}, // the right user, and the wrong token
		{reports, "/v1/credentials/reports", "that of app", "403"},
		{app, "/v1/credentials", "none", "403"}, // there is no default, and who may have nothing is not told so
		{app, "/v1/credentials/nobodys", "none", "403"},
		{app, "/v1/credentials/nobodys", "the Pod's UID", "403"},
		{app, "/v1/credentials", "its own", "400"}, // there is no default
		{app, "/v1/credentials/nobodys", "its own", "400"},
	} {
		got := c.asks(t, test.from, test.path, tokens[test.token])
		user := map[string]string{"app": "1000", "reports": "1001"}[test.from.container]
		fmt.Printf("# %-9s %-6s %-24s %-16s %s\n", test.from.container, user, test.path, test.token, got)
		if got != test.want {
			t.Errorf("%s asked for %s with the token %s: %s, want %s", test.from.container, test.path, test.token, got, test.want)
		}
	}
	// Neither finds the other's token or the web identity token, nor sees another role on the page.
	for _, file := range []string{"/authorization/reports/token", "/var/run/secrets/irsa-sidecar/token", "/run/secrets/irsa-sidecar/token"} {
		if printed, err := c.try("kubectl exec -n roles " + pod + " -c app -- cat " + file); err == nil {
			t.Errorf("the app can read %s: %d bytes", file, len(printed))
		}
	}
	page := c.say(t, "kubectl exec -n roles "+pod+` -c app -- sh -c 'wget -qO- --header "Authorization: $(cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)" http://127.0.0.1:9911/'`)
	if !strings.Contains(page, clusterRole) || strings.Contains(page, reportsRole) {
		t.Error("the page for the app's token names another role than the app's")
	}
	logs := c.say(t, "kubectl logs -n roles "+pod+" -c irsa-sidecar")
	world.WantContains(t, "the sidecar's log", logs, "UserNotAllowed", "AuthorizationRejected", "AuthorizationRequired")
	c.kubectl(t, "delete", "namespace", "roles", "--wait=false")
}

// twoRoles is the YAML of docs/pods.md, whose apps send the token in their file.
func twoRoles(t *testing.T) string {
	t.Helper()
	return strings.ReplaceAll(example(t, "AWS_CONFIG_FILE"), "$AWS_CONTAINER_AUTHORIZATION_TOKEN\\\"", "$(cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)\\\"")
}

// sharesProcesses tests what docs/pods.md says of shareProcessNamespace: a container then reads the other's token through
// /proc if both run as the same user, and otherwise not.
func (c *cluster) sharesProcesses(t *testing.T) {
	for user, want := range map[string]string{"1001": "1", "1000": "2"} {
		namespace := "processes-" + user
		c.namespace(t, namespace, restricted)
		manifest := twoRoles(t)
		for _, change := range [][2]string{
			{"      enableServiceLinks: false\n", "      enableServiceLinks: false\n      shareProcessNamespace: true\n"},
			{"runAsUser: 1001,", "runAsUser: " + user + ","},
		} {
			if strings.Count(manifest, change[0]) != 1 {
				t.Fatalf("the manifest has %q %d times", change[0], strings.Count(manifest, change[0]))
			}
			manifest = strings.Replace(manifest, change[0], change[1], 1)
		}
		c.apply(t, namespace, manifest)
		c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", namespace, "deployment/app", "--timeout=1s")
		pod := c.pod(t, namespace, "app=app").Metadata.Name
		count := c.kubectl(t, "exec", "-n", namespace, pod, "-c", "app", "--", "sh", "-c",
			`for f in /proc/[0-9]*/root/authorization/token; do cat $f && echo; done 2>/dev/null | busybox sort -u | busybox wc -l`)
		fmt.Printf("\n# with shareProcessNamespace, the app (user 1000) reads %s token(s) if reports runs as %s\n", strings.TrimSpace(count), user)
		if strings.TrimSpace(count) != want {
			t.Errorf("the app reads %s tokens if reports runs as %s, want %s", strings.TrimSpace(count), user, want)
		}
		c.kubectl(t, "delete", "namespace", namespace, "--wait=false")
	}
}

// changesRoles plays "A role that changes" of docs/pods.md.
func (c *cluster) changesRoles(t *testing.T) {
	c.namespace(t, "tenants", restricted)
	c.apply(t, "tenants", example(t, "metadata.annotations['irsa-sidecar/role-arn']"))
	c.apply(t, "tenants", example(t, "metadata: {name: app-role}"))
	c.until(t, time.Minute, "the Pod", "wait", "-n", "tenants", "--for=condition=Ready", "pod/tenant", "--timeout=1s")
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "tenants", "deployment/app", "--timeout=1s")
	tenant := caller{"tenants", "tenant", "app"}
	app := caller{"tenants", c.pod(t, "tenants", "app=app").Metadata.Name, "app"}
	lines := c.commandsOf(t, "tenants", "kubectl annotate pod ", "kubectl patch configmap ")

	c.becomes(t, tenant, clusterRole, "", "")
	c.becomes(t, tenant, otherRole, lines[0], "")
	c.becomes(t, app, otherRole, lines[1], "")

	// STS refuses the role: what is held stays, and the reason is shown.
	annotate := strings.ReplaceAll(lines[0], otherRole, "%s")
	c.becomes(t, tenant, otherRole, fmt.Sprintf(annotate, refusedRole), `"msg":"exchange failed"`)
	// It is no ARN: nothing changes, and a metric says so.
	c.becomes(t, tenant, otherRole, fmt.Sprintf(annotate, "role/other"), "IRSA_SIDECAR_ROLE_ARN_FILE")
	world.Eventually(t, world.Soon, "the metric of a mistake", func() bool { return c.metric(t, tenant, "irsa_sidecar_configuration_last_reload_failed") == "1" })
	c.becomes(t, tenant, clusterRole, fmt.Sprintf(annotate, clusterRole), "")
	if failed := c.metric(t, tenant, "irsa_sidecar_configuration_last_reload_failed"); failed != "0" {
		t.Errorf("after the correction, the metric of a mistake is %s", failed)
	}
	c.say(t, "kubectl logs -n tenants tenant -c irsa-sidecar")
	for _, p := range c.pods(t, "tenants", "") {
		for _, name := range []string{"irsa-sidecar", "app"} {
			if n := p.container(name).RestartCount; n != 0 {
				t.Errorf("%s of %s was restarted %d times", name, p.Metadata.Name, n)
			}
		}
	}
	c.kubectl(t, "delete", "namespace", "tenants", "--wait=false")
}

// commandsOf returns the lines of docs/pods.md that begin with these texts, for a namespace.
func (c *cluster) commandsOf(t *testing.T, namespace string, begins ...string) (lines []string) {
	t.Helper()
	all := strings.Split(strings.Join(world.Blocks(t, "console"), "\n"), "\n")
	for _, begin := range begins {
		i := slices.IndexFunc(all, func(line string) bool { return strings.HasPrefix(line, "$ "+begin) })
		if i < 0 {
			t.Fatalf("docs have no line with %s", begin)
		}
		lines = append(lines, strings.Replace(strings.TrimPrefix(all[i], "$ "), "-n shop", "-n "+namespace, 1))
	}
	return lines
}

// becomes runs a command line, and waits until the container gets this role's credentials or, if a text is given, until the
// sidecar's log has it; then the role must be this one.
func (c *cluster) becomes(t *testing.T, who caller, role, line, logged string) {
	t.Helper()
	if line != "" {
		c.say(t, line)
	}
	begun := time.Now()
	if logged != "" {
		world.Eventually(t, 2*time.Minute, logged+" in the log", func() bool {
			return strings.Contains(c.kubectl(t, "logs", "-n", who.namespace, who.pod, "-c", "irsa-sidecar"), logged)
		})
	}
	world.Eventually(t, 2*time.Minute, "credentials of "+role, func() bool {
		got := c.asks(t, who, "/v1/credentials", ownToken)
		if logged != "" && got != role {
			t.Fatalf("the role is %s, want the old one, %s", got, role)
		}
		return got == role
	})
	fmt.Printf("# %s of %s has %s, after %s\n", who.container, who.pod, role, time.Since(begun).Round(100*time.Millisecond))
}

// metric returns the value of a metric without labels.
func (c *cluster) metric(t *testing.T, of caller, name string) string {
	t.Helper()
	address := c.kubectl(t, "get", "pod", "-n", of.namespace, of.pod, "-o", "jsonpath={.status.podIP}")
	_, body := world.HTTPGet(t, "http://"+address+":9912/metrics")
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(string(body))
	if m == nil {
		t.Fatalf("there is no metric %s", name)
	}
	return m[1]
}
