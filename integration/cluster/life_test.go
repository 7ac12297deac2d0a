//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// pod has the fields of a Pod that this test reads.
type podStatus struct {
	Metadata struct {
		Name              string
		CreationTimestamp time.Time
		DeletionTimestamp *time.Time
	}
	Status struct {
		Phase                                    string
		InitContainerStatuses, ContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	Name         string
	Ready        bool
	Started      bool
	RestartCount int
	State        struct {
		Running    *struct{ StartedAt time.Time }
		Waiting    *struct{ Reason string }
		Terminated *struct{ StartedAt, FinishedAt time.Time }
	}
}

func (c *cluster) pod(t *testing.T, namespace, selector string) podStatus {
	t.Helper()
	pods := c.pods(t, namespace, selector)
	if len(pods) != 1 {
		t.Fatalf("%d Pods with %s, want one", len(pods), selector)
	}
	return pods[0]
}

func (c *cluster) pods(t *testing.T, namespace, selector string) []podStatus {
	t.Helper()
	var list struct{ Items []podStatus }
	if err := json.Unmarshal([]byte(c.kubectl(t, "get", "pods", "-n", namespace, "-l", selector, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func (p podStatus) container(name string) (s containerStatus) {
	for _, s := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		if s.Name == name {
			return s
		}
	}
	return s
}

// wantFirstAnswer checks the first answer that the app of a namespace got.
func (c *cluster) wantFirstAnswer(t *testing.T, namespace string) {
	t.Helper()
	p := c.pod(t, namespace, "app=app")
	if first := c.kubectl(t, "logs", "-n", namespace, p.Metadata.Name, "-c", "app"); !strings.HasPrefix(first, `first: "Expiration":"`) {
		t.Errorf("the app's first request was answered with %s", first)
	}
}

// startsInOrder lets STS fail at first: the app must not start before STS answers.
func (c *cluster) startsInOrder(t *testing.T) {
	c.namespace(t, "shop", restricted)
	repair := c.breakSTS(ststest.Fault{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"})
	calls := c.sts.Calls()
	c.apply(t, "shop", withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml"))))
	world.Eventually(t, time.Minute, "a third attempt at STS", func() bool { return c.sts.Calls() >= calls+3 })
	c.say(t, "kubectl get pods -n shop")
	p := c.pod(t, "shop", "app=app")
	if s := p.container("irsa-sidecar"); s.State.Running == nil || s.Started {
		t.Errorf("without credentials the sidecar is %+v, want running and not started", s)
	}
	if s := p.container("app"); s.State.Running != nil || s.State.Terminated != nil {
		t.Errorf("without credentials the app is %+v, want waiting", s)
	}
	repair()
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "shop", "deployment/app", "--timeout=1s")
	c.say(t, "kubectl get pods -n shop")
	p = c.pod(t, "shop", "app=app")
	c.wantFirstAnswer(t, "shop")

	// Once more, with an STS that answers at once, to measure the time.
	c.kubectl(t, "delete", "pod", "-n", "shop", p.Metadata.Name, "--grace-period=0", "--force")
	c.until(t, time.Minute, "the next Pod", "rollout", "status", "-n", "shop", "deployment/app", "--timeout=1s")
	c.timings(t, "native sidecar", "shop", "app=app")
}

// timings prints the times of events, counted from the Pod's creation: in whole seconds, as Kubernetes records them, except
// for the log's.
func (c *cluster) timings(t *testing.T, what, namespace, selector string) {
	t.Helper()
	p := c.pod(t, namespace, selector)
	made := p.Metadata.CreationTimestamp
	line := world.FindLog(c.kubectl(t, "logs", "-n", namespace, p.Metadata.Name, "-c", "irsa-sidecar"), "credentials refreshed")
	if line == nil {
		t.Fatal("no line in the sidecar's log about credentials")
	}
	refreshed, err := time.Parse(time.RFC3339Nano, line["time"].(string))
	if err != nil {
		t.Fatal(err)
	}
	sidecar, app := p.container("irsa-sidecar").State.Running, p.container("app").State.Running
	if sidecar == nil || app == nil {
		t.Fatalf("not both run: %+v", p.Status)
	}
	fmt.Printf("\n# %s, from the Pod's creation (to the second): sidecar runs %s, first credentials %s (STS took %s), app runs %s\n", what,
		sidecar.StartedAt.Sub(made), refreshed.Sub(made).Round(10*time.Millisecond), line["took"], app.StartedAt.Sub(made))
	if app.StartedAt.Before(refreshed.Truncate(time.Second)) {
		t.Errorf("the app started at %s, before the credentials, at %s", app.StartedAt, refreshed)
	}
}

func (c *cluster) isObserved(t *testing.T) {
	pod := c.pod(t, "shop", "app=app").Metadata.Name
	c.say(t, "kubectl logs -n shop "+pod+" -c irsa-sidecar")
	c.say(t, "kubectl exec -n shop "+pod+" -c irsa-sidecar -- /irsa-sidecar wait")
	c.say(t, "kubectl get --raw /api/v1/nodes/"+nodeName+"/proxy/metrics/resource | grep 'container_memory_working_set_bytes{container=\"irsa-sidecar\"'")
	status := c.say(t, "kubectl exec -n shop "+pod+" -c irsa-sidecar -- /irsa-sidecar status")
	world.WantContains(t, "status", status, clusterRole, "last error  none")
	if strings.Contains(status, "No program has asked for credentials yet") {
		t.Error("status does not know that the app has asked")
	}
	report := c.say(t, "kubectl exec -n shop "+pod+" -c irsa-sidecar -- /irsa-sidecar doctor")
	world.WantContains(t, "the doctor's report", report, " 0 warn, 0 FAIL")
	forward := c.kubectlCommand("port-forward", "-n", "shop", "pod/"+pod, "9913:9913")
	var printed bytes.Buffer
	forward.Stdout, forward.Stderr = &printed, &printed
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer forward.Wait()
	defer forward.Process.Kill()
	var page string
	world.Eventually(t, world.Soon, "the page through port-forward", func() bool {
		response, err := http.Get("http://127.0.0.1:9913/")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		page = string(body)
		return err == nil && response.StatusCode == http.StatusOK
	})
	fmt.Printf("\n$ kubectl port-forward -n shop pod/%s 9913:9913 & curl -s http://127.0.0.1:9913/ | wc -c\n%d\n", pod, len(page))
	world.WantContains(t, "the page through port-forward, which is loopback", page, clusterRole)
	address := c.kubectl(t, "get", "pod", "-n", "shop", pod, "-o", "jsonpath={.status.podIP}")
	for _, path := range []string{"/", "/readyz", "/metrics"} {
		if _, body := world.HTTPGet(t, "http://"+address+":9912"+path); strings.Contains(string(body), clusterRole) {
			t.Errorf("GET %s from elsewhere in the cluster names the role", path)
		}
	}
	if conn, err := net.DialTimeout("tcp", address+":9913", world.Soon); err == nil {
		conn.Close()
		t.Error("the admin listener is reached from elsewhere in the cluster")
	}
}

// processes returns the sidecars of this namespace by their container.
func sidecars(t *testing.T) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(line) == "/irsa-sidecar\x00" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killSidecar kills the sidecar of one Pod, which it finds by the host name of the process.
func killSidecar(t *testing.T, pod string) {
	t.Helper()
	killed := 0
	for _, pid := range sidecars(t) {
		if environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); strings.Contains(string(environment), "HOSTNAME="+pod) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("killed %d processes, not one", killed)
	}
}

// keepsState tests the state file of docs/pods.md, in a volume in memory.
func (c *cluster) keepsState(t *testing.T) {
	c.namespace(t, "state", restricted)
	states := world.Blocks(t, "yaml")
	i := slices.IndexFunc(states, func(block string) bool { return strings.Contains(block, "IRSA_SIDECAR_STATE_FILE") })
	manifest := withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml")))
	for _, change := range [][2]string{
		{"            - {name: AWS_ROLE_ARN,", "            " + strings.TrimSpace(states[i]) + "\n            - {name: AWS_ROLE_ARN,"},
		{"          volumeMounts:\n", "          volumeMounts:\n            - {name: state, mountPath: /run/irsa-sidecar}\n"},
		{"      volumes:\n", "      volumes:\n        - {name: state, emptyDir: {medium: Memory, sizeLimit: 1Mi}}\n"},
	} {
		if strings.Count(manifest, change[0]) != 1 {
			t.Fatalf("the manifest has %q %d times", change[0], strings.Count(manifest, change[0]))
		}
		manifest = strings.Replace(manifest, change[0], change[1], 1)
	}
	c.apply(t, "state", manifest)
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "state", "deployment/app", "--timeout=1s")
	pod := c.pod(t, "state", "app=app").Metadata.Name
	defer c.breakSTS(ststest.Drop)()
	killSidecar(t, pod)
	world.Eventually(t, time.Minute, "the sidecar back, without STS", func() bool {
		s := c.pod(t, "state", "app=app").container("irsa-sidecar")
		return s.RestartCount == 1 && s.Started
	})
	world.WantContains(t, "the log", c.say(t, "kubectl logs -n state "+pod+" -c irsa-sidecar"), "credentials restored from the state file", "exchange failed")
	c.say(t, "kubectl exec -n state "+pod+` -c app -- sh -c 'wget -qO- --header "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" $AWS_CONTAINER_CREDENTIALS_FULL_URI | cut -c1-40'`)
	c.kubectl(t, "delete", "deployment", "-n", "state", "app", "--grace-period=1")
}

func (c *cluster) survivesKill(t *testing.T) {
	before := c.pod(t, "shop", "app=app")
	killSidecar(t, before.Metadata.Name)
	at := time.Now()
	fmt.Printf("\n$ kill -9 the sidecar of %s\n", before.Metadata.Name)
	var after podStatus
	world.Eventually(t, time.Minute, "the sidecar back", func() bool {
		after = c.pod(t, "shop", "app=app")
		s := after.container("irsa-sidecar")
		return s.RestartCount == 1 && s.Started
	})
	fmt.Printf("# serves again after %s\n", time.Since(at).Round(100*time.Millisecond))
	c.say(t, "kubectl get pods -n shop")
	if s := after.container("app"); s.RestartCount != 0 || s.State.Running == nil {
		t.Errorf("and the app is %+v", s)
	}
	c.say(t, "kubectl exec -n shop "+after.Metadata.Name+` -c app -- sh -c 'wget -qO- --header "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" $AWS_CONTAINER_CREDENTIALS_FULL_URI | cut -c1-40'`)
}

// drainsInOrder follows the logs of both while the Pod is deleted.
func (c *cluster) drainsInOrder(t *testing.T) {
	p := c.pod(t, "shop", "app=app")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	follow := exec.CommandContext(ctx, c.path("/kubectl"), "--kubeconfig="+c.path("admin.kubeconfig"), "logs", "-n", "shop", p.Metadata.Name,
		"--all-containers", "--follow", "--prefix", "--timestamps", "--since=1s")
	var logs bytes.Buffer
	follow.Stdout, follow.Stderr = &logs, &logs
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	c.say(t, "kubectl delete pod -n shop "+p.Metadata.Name)
	if err := follow.Wait(); err != nil {
		t.Fatalf("follow the logs: %v\n%s", err, &logs)
	}
	fmt.Printf("\n$ kubectl logs -n shop %s --all-containers --follow\n%s", p.Metadata.Name, &logs)
	for _, wanted := range []string{`ending: "Expiration":"`, "bye\n", `"msg":"shutting down"`, `"msg":"stopped"`} {
		world.WantContains(t, "the logs of the end", logs.String(), wanted)
	}
	if strings.Count(logs.String(), `ending: "Expiration":"`) != 3 {
		t.Error("while it ended, the app did not get credentials three times")
	}
	moment := func(line string) time.Time {
		m := regexp.MustCompile(`(?m)\] (\S+) .*` + regexp.QuoteMeta(line)).FindStringSubmatch(logs.String())
		if m == nil {
			t.Fatalf("no line %q", line)
		}
		at, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if app, sidecar := moment("bye"), moment(`"msg":"shutting down"`); !sidecar.After(app) {
		t.Errorf("the sidecar was told to end at %s, and the app had ended at %s", sidecar, app)
	}
}

func (c *cluster) completesJobs(t *testing.T) {
	c.namespace(t, "jobs", restricted)
	work := "echo \"work: $(wget -qO- --header \"Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN\" $AWS_CONTAINER_CREDENTIALS_FULL_URI | grep -o '\"Expiration\":\"[^\"]*\"')\""
	classic := strings.ReplaceAll(string(world.RepoFile(t, "deploy/classic-job.yaml")), "              your-work\n", "              "+work+"\n")
	classic = strings.ReplaceAll(classic, "image: your/app\n", "image: your/app\n          imagePullPolicy: IfNotPresent\n")
	c.apply(t, "jobs", classic)
	native := fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: native}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      serviceAccountName: app
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: app
          image: your/app
          imagePullPolicy: IfNotPresent
          args: [-c, %s]
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, strconv.Quote(work))
	file := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(file, []byte(native), 0o600); err != nil {
		t.Fatal(err)
	}
	c.say(t, "irsa-sidecar-inject --role-arn "+clusterRole+" --region eu-west-1 < "+file+" | kubectl apply -n jobs -f -")
	for _, job := range []string{"app", "native"} {
		c.until(t, time.Minute, "the Job "+job, "wait", "-n", "jobs", "--for=condition=Complete", "job/"+job, "--timeout=1s")
		world.WantContains(t, "the log of Job "+job, c.say(t, "kubectl logs -n jobs job/"+job+" -c app"), `work: "Expiration":"`)
	}
	c.say(t, "kubectl get jobs,pods -n jobs")

	// Work that fails stops the sidecar too, so that the Job fails instead of waiting.
	failing := strings.NewReplacer("  name: app\nspec:\n  backoffLimit: 3", "  name: fails\nspec:\n  backoffLimit: 0", work, "exit 3").Replace(classic)
	c.apply(t, "jobs", failing)
	c.until(t, time.Minute, "the failing Job's end", "wait", "-n", "jobs", "--for=condition=Failed", "job/fails", "--timeout=1s")
	ended := c.kubectl(t, "get", "pods", "-n", "jobs", "-l", "job-name=fails", "-o", `jsonpath={.items[0].status.containerStatuses[?(@.name=="app")].state.terminated.exitCode}`)
	if ended != "3" {
		t.Errorf("the exit code of the work was 3, and is now %s", ended)
	}
}

func (c *cluster) startsClassic(t *testing.T) {
	c.namespace(t, "classic", restricted)
	c.apply(t, "classic", withApp(t, string(world.RepoFile(t, "deploy/classic-sidecar.yaml"))))
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "classic", "deployment/app", "--timeout=1s")
	c.timings(t, "classic sidecar", "classic", "app=app")
	c.wantFirstAnswer(t, "classic")
}

// sharesTokenFile tests a sidecar and an app of different users that share the authorization token in a file. A third
// container that can read the file too is refused, because its user is yet another one.
func (c *cluster) sharesTokenFile(t *testing.T) {
	c.namespace(t, "file", restricted)
	manifest := withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml")))
	const mounts = "          volumeMounts: [{name: authorization, mountPath: /authorization, readOnly: true}]\n"
	const neighbour = "        - name: neighbour\n          image: your/app\n          imagePullPolicy: IfNotPresent\n          args: [-c, sleep 100000]\n" +
		"          securityContext: {runAsUser: 1001, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n"
	for _, change := range [][2]string{
		{"{name: IRSA_SIDECAR_AUTHORIZATION_TOKEN, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}",
			"{name: IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE, value: /authorization/token}\n            - {name: IRSA_SIDECAR_ALLOWED_UIDS, value: \"1000\"}"},
		{"{name: AWS_CONTAINER_AUTHORIZATION_TOKEN, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}", "{name: AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE, value: /authorization/token}"},
		{"          volumeMounts:\n", "          volumeMounts:\n            - {name: authorization, mountPath: /authorization}\n"},
		{"        - name: app\n          image: your/app\n", "        - name: app\n          image: your/app\n" + mounts},
		{"      volumes:\n", neighbour + mounts + "      volumes:\n        - {name: authorization, emptyDir: {medium: Memory, sizeLimit: 1Mi}}\n"},
		{"        runAsNonRoot: true\n        seccompProfile", "        runAsNonRoot: true\n        fsGroup: 2000\n        seccompProfile"},
		{"$AWS_CONTAINER_AUTHORIZATION_TOKEN", "$(cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)"},
	} {
		if strings.Count(manifest, change[0]) != 1 {
			t.Fatalf("the manifest has %q %d times", change[0], strings.Count(manifest, change[0]))
		}
		manifest = strings.Replace(manifest, change[0], change[1], 1)
	}
	c.apply(t, "file", manifest)
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "file", "deployment/app", "--timeout=1s")
	p := c.pod(t, "file", "app=app")
	c.wantFirstAnswer(t, "file")
	if printed, err := c.try("kubectl exec -n file " + p.Metadata.Name + " -c app -- wget -qO- http://127.0.0.1:9911/v1/credentials"); err == nil || !strings.Contains(printed, "403") {
		t.Error("and without the token it is not refused")
	}
	if printed, err := c.try("kubectl exec -n file " + p.Metadata.Name + ` -c neighbour -- sh -c 'id -u && T=$(cat /authorization/token) && wget -qO- --header "Authorization: $T" http://127.0.0.1:9911/v1/credentials'`); err == nil || !strings.Contains(printed, "1001") || !strings.Contains(printed, "403") {
		t.Errorf("and another user is not refused: %s", printed)
	}
}

// answersStarved gives the sidecar a hundredth of a core and 24 MiB. SDKs give up after a second.
func (c *cluster) answersStarved(t *testing.T) {
	c.namespace(t, "starved", restricted)
	manifest := withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml")))
	const limits = "            limits: {memory: 48Mi}\n"
	if !strings.Contains(manifest, limits) {
		t.Fatal("the manifest has other limits")
	}
	c.apply(t, "starved", strings.Replace(manifest, limits, "            limits: {cpu: 10m, memory: 24Mi}\n", 1))
	c.until(t, 2*time.Minute, "the Deployment", "rollout", "status", "-n", "starved", "deployment/app", "--timeout=1s")
	p := c.pod(t, "starved", "app=app")
	printed := c.say(t, "kubectl exec -n starved "+p.Metadata.Name+` -c app -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do `+
		`timeout 1 wget -qO /dev/null --header "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" $AWS_CONTAINER_CREDENTIALS_FULL_URI && echo answered; done'`)
	if n := strings.Count(printed, "answered"); n != 20 {
		t.Errorf("%d of 20 requests were answered within a second", n)
	}
	if s := c.pod(t, "starved", "app=app").container("irsa-sidecar"); s.RestartCount != 0 {
		t.Errorf("the sidecar was restarted %d times", s.RestartCount)
	}
	c.kubectl(t, "delete", "deployment", "-n", "starved", "app", "--grace-period=1")
}

// guardsHostNetwork tests a Pod with the authorization token of the manifest, and one without.
func (c *cluster) guardsHostNetwork(t *testing.T) {
	c.namespace(t, "host")
	manifest := strings.Replace(withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml"))), "      serviceAccountName: app\n",
		"      serviceAccountName: app\n      hostNetwork: true\n      dnsPolicy: Default\n", 1)
	c.apply(t, "host", manifest)
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "host", "deployment/app", "--timeout=1s")
	if status, _ := world.HTTPGet(t, "http://127.0.0.1:9911/v1/credentials"); status != http.StatusForbidden {
		t.Errorf("a neighbour on the node is answered with %d, want 403", status)
	}
	c.wantFirstAnswer(t, "host")
	c.kubectl(t, "delete", "deployment", "-n", "host", "app", "--cascade=foreground", "--grace-period=1")
	c.until(t, time.Minute, "the end of the Pod", "wait", "-n", "host", "--for=delete", "pod", "-l", "app=app", "--timeout=1s")

	const token = "            - {name: IRSA_SIDECAR_AUTHORIZATION_TOKEN, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}\n"
	if !strings.Contains(manifest, token) {
		t.Fatal("the manifest has no authorization token")
	}
	addresses := world.Blocks(t, "yaml")
	i := slices.IndexFunc(addresses, func(block string) bool { return strings.HasPrefix(block, "- {name: IRSA_SIDECAR_HOST_IP") })
	known := "            " + strings.ReplaceAll(strings.TrimSpace(addresses[i]), "\n", "\n            ") + "\n"
	for name, env := range map[string]string{"told by its addresses": known, "guessed by the network interfaces": ""} {
		c.apply(t, "host", strings.Replace(manifest, token, env, 1))
		world.Eventually(t, time.Minute, "a refusal to start, "+name, func() bool {
			printed, _ := c.kubectlCommand("logs", "-n", "host", "-l", "app=app", "-c", "irsa-sidecar").CombinedOutput()
			if !strings.Contains(string(printed), "this Pod uses the node's network") || strings.Contains(string(printed), "if it does not") == (env != "") {
				return false
			}
			fmt.Printf("\n$ kubectl logs -n host -l app=app -c irsa-sidecar   # hostNetwork, %s, and no authorization token\n%s", name, printed)
			return true
		})
		c.kubectl(t, "delete", "deployment", "-n", "host", "app", "--cascade=foreground", "--grace-period=1")
		c.until(t, time.Minute, "the end of the Pod", "wait", "-n", "host", "--for=delete", "pod", "-l", "app=app", "--timeout=1s")
	}
}

// rotatingPod makes a Pod whose token lasts ten minutes, the shortest lifetime that an API server allows.
func (c *cluster) rotatingPod(t *testing.T) {
	c.namespace(t, "rotating", restricted)
	manifest := strings.ReplaceAll(withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml"))), "expirationSeconds: 86400", "expirationSeconds: 600")
	c.apply(t, "rotating", manifest)
	c.rotating = time.Now()
}

func (c *cluster) rotates(t *testing.T) {
	p := c.pod(t, "rotating", "app=app")
	address := c.kubectl(t, "get", "pod", "-n", "rotating", p.Metadata.Name, "-o", "jsonpath={.status.podIP}")
	metric := func(name string) (values []string) {
		_, body := world.HTTPGet(t, "http://"+address+":9912/metrics")
		for _, m := range regexp.MustCompile(`(?m)^`+name+`\{[^}]*\} (\S+)$`).FindAllStringSubmatch(string(body), -1) {
			values = append(values, m[1])
		}
		return values
	}
	first := metric("irsa_sidecar_token_expiry_timestamp_seconds")
	if len(first) != 1 {
		t.Fatalf("the token's expiry is told %d times", len(first))
	}
	world.Eventually(t, time.Until(c.rotating.Add(rotation)), "a new token, exchanged", func() bool {
		return metric("irsa_sidecar_token_expiry_timestamp_seconds")[0] != first[0]
	})
	fmt.Printf("\n# the token was replaced, and the new one exchanged, %s after the Pod was made\n", time.Since(c.rotating).Round(time.Second))
	logs := c.say(t, "kubectl logs -n rotating "+p.Metadata.Name+" -c irsa-sidecar")
	if n := strings.Count(logs, `"msg":"credentials refreshed"`); n < 4 {
		t.Errorf("%d refreshes in %s with sessions of %s", n, time.Since(c.rotating), sessionLife)
	}
	for text := range strings.Lines(logs) {
		var line struct {
			Time time.Time
			Msg  string
		}
		if json.Unmarshal([]byte(text), &line) != nil || line.Msg != "exchange failed" {
			continue
		}
		// Outages of STS in other acts affect this Pod too.
		if !slices.ContainsFunc(c.outages, func(o [2]time.Time) bool { return line.Time.After(o[0]) && line.Time.Before(o[1].Add(time.Second)) }) {
			t.Errorf("an exchange has failed while STS was well: %s", text)
		}
	}
	if s := c.pod(t, "rotating", "app=app").container("irsa-sidecar"); s.RestartCount != 0 {
		t.Errorf("the sidecar was restarted %d times", s.RestartCount)
	}
}
