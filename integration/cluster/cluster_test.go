//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
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

const (
	stsHost     = "sts.eu-west-1.amazonaws.com"
	clusterRole = "arn:aws:iam::111122223333:role/app"

	// sessionLife is how long sessions last: short, so that there are refreshes to see.
	sessionLife = 2 * time.Minute

	// rotation is what a kubelet needs at most to replace a token of 600 s: four fifths of its life, and
	// its own period.
	rotation = 600 * time.Second
)

// TestCluster is the Pod's life on a real Kubernetes: kube-apiserver, controllers, scheduler, kubelet,
// containerd and runc. The API server is the OIDC issuer, the tokens are the kubelet's, and the manifests
// are those in deploy/, as they stand. Not real is AWS: its names lead to an STS of the tests, which
// verifies the tokens with the API server's own keys. `make cluster` builds Kubernetes and runs it.
func TestCluster(t *testing.T) {
	if isolated(t) {
		return
	}
	c := newCluster(t)
	if os.Getenv("IRSA_TEST_KEEP") != "" {
		c.keep(t)
		return
	}
	c.rotatingPod(t) // takes the longest, and needs nobody
	for _, act := range []struct {
		name string
		play func(*cluster, *testing.T)
	}{
		{"every manifest is taken, in a namespace that is restricted", (*cluster).takesManifests},
		{"every block of YAML in README and docs is taken", (*cluster).takesREADME},
		{"the app starts when there are credentials, and not before", (*cluster).startsInOrder},
		{"kubectl logs, exec and port-forward show what docs say", (*cluster).isObserved},
		{"kill -9 of the sidecar is over in seconds, and the app stays", (*cluster).survivesKill},
		{"kubectl delete lets the app end first", (*cluster).drainsInOrder},
		{"the policy injects, and the AWS CLI works in the Pod", (*cluster).injectsByPolicy},
		{"the policy says why not", (*cluster).refusesByPolicy},
		{"irsa-sidecar-inject and kustomize do the same without the policy", (*cluster).injectsByText},
		{"Jobs complete, with both kinds of sidecar", (*cluster).completesJobs},
		{"a classic sidecar is there before the app", (*cluster).startsClassic},
		{"a token file in memory is shared by both users", (*cluster).sharesTokenFile},
		{"a sidecar that is killed while STS is away serves what it has kept", (*cluster).keepsState},
		{"starved of CPU and memory it answers within a second", (*cluster).answersStarved},
		{"on the host's network it asks for a token", (*cluster).guardsHostNetwork},
		{"the kubelet rotates the token, and refreshes follow", (*cluster).rotates},
	} {
		t.Run(act.name, func(t *testing.T) { act.play(c, t) })
	}
}

// cluster is a node, with AWS beside it.
type cluster struct {
	*node
	program    string // path of the sidecar
	repository string // path of this repository

	sts      *ststest.Server
	outages  [][2]time.Time // of STS, each from when to when
	rotating time.Time      // when the Pod was made whose token is to be rotated
}

// breakSTS has STS fail for all Pods there are, until it is mended.
func (c *cluster) breakSTS(f ststest.Fault) (mend func()) {
	from := time.Now()
	c.sts.Break(f)
	return func() {
		c.sts.Repair()
		c.outages = append(c.outages, [2]time.Time{from, time.Now()})
	}
}

func newCluster(t *testing.T) *cluster {
	program := world.Program(t)
	world.MustRun(t, exec.Command("go", "build", "-o", filepath.Join(filepath.Dir(program), "irsa-sidecar-inject"), world.Path(t, "cmd/irsa-sidecar-inject")))
	started := time.Now()
	c := &cluster{node: newNode(t), program: program, repository: world.Path(t)}
	fmt.Printf("\n# Kubernetes is ready after %s\n", time.Since(started).Round(100*time.Millisecond))
	c.say(t, "kubectl version")
	c.say(t, "kubectl get node -o wide")

	world.ServeDNS(t, nodeIP, net.ParseIP(nodeIP))
	c.serveSTS(t)

	binary := world.ReadFile(t, program)
	busybox := world.ReadFile(t, "/bin/busybox")
	c.image(t, "localhost/pause:1", `{"Entrypoint": ["/busybox", "sleep", "2000000000"]}`, file{name: "busybox", mode: 0o755, data: busybox})
	// As the Dockerfile makes it, but for the certificates: the cluster's authority, which has issued STS's.
	image := world.ShippedImage(t)
	c.image(t, "docker.io/library/irsa-sidecar:0.1.0", fmt.Sprintf(`{"User": "%d:%[1]d", "Entrypoint": ["/irsa-sidecar"]}`, image.User),
		file{name: "irsa-sidecar", mode: image.Mode, gid: image.Group, data: binary}, file{name: "etc/ssl/cert.pem", mode: 0o644, gid: image.Group, data: c.ca.PEM})
	app := []file{{name: "bin/busybox", mode: 0o755, data: busybox}, {name: "tmp/", mode: 0o1777}, {name: "ca.crt", mode: 0o644, data: c.ca.PEM}}
	for _, applet := range []string{"sh", "wget", "sleep", "timeout", "date", "grep", "cut", "env", "cat", "id"} {
		app = append(app, file{name: "bin/" + applet, to: "busybox", mode: 0o777})
	}
	c.image(t, "docker.io/your/app:latest", `{"User": "1000:1000", "Entrypoint": ["sh"], "Env": ["PATH=/bin"]}`, app...)
	// The AWS CLI is the node's own: the Pod mounts its /usr.
	cli := []file{{name: "tmp/", mode: 0o1777}, {name: "usr/", mode: 0o755}, {name: "ca.crt", mode: 0o644, data: c.ca.PEM}}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		cli = append(cli, file{name: dir, to: "usr/" + dir, mode: 0o777})
	}
	c.image(t, "docker.io/library/aws-cli:1", `{"Env": ["PATH=/usr/bin", "AWS_CA_BUNDLE=/ca.crt", "HOME=/tmp"], "Entrypoint": ["/usr/bin/sleep", "100000"]}`, cli...)
	return c
}

// serveSTS serves AWS's STS where the Pods' DNS says that it is.
func (c *cluster) serveSTS(t *testing.T) {
	t.Helper()
	issuer, err := ststest.ReadIssuer(clusterIssuer, []byte(c.kubectl(t, "get", "--raw", "/openid/v1/jwks")))
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(clusterIssuer, "https://")
	policy, err := json.Marshal(map[string]any{
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity",
			"Principal": map[string]any{"Federated": "arn:aws:iam::111122223333:oidc-provider/" + host},
			"Condition": map[string]any{
				"StringEquals": map[string]any{host + ":aud": "sts.amazonaws.com"},
				"StringLike":   map[string]any{host + ":sub": "system:serviceaccount:*:app"},
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.sts = ststest.New(ststest.Options{
		Issuer: issuer, RoleARN: clusterRole, TrustPolicy: string(policy), Lifetime: sessionLife, Region: "eu-west-1",
	})
	listener, err := tls.Listen("tcp4", nodeIP+":443", &tls.Config{Certificates: []tls.Certificate{c.ca.Issue(t, pkix.Name{CommonName: "sts"}, stsHost)}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(c.answerSTS),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // the doctor looks at the certificate and hangs up
	}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
}

var signedBy = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/`)

// answerSTS is STS with GetCallerIdentity, which tells by the key and the session token who asks.
func (c *cluster) answerSTS(w http.ResponseWriter, r *http.Request) {
	signature := signedBy.FindStringSubmatch(r.Header.Get("Authorization"))
	if signature == nil {
		c.sts.ServeHTTP(w, r)
		return
	}
	for _, session := range c.sts.Issued() {
		if session.AccessKeyID == signature[1] && session.SessionToken == r.Header.Get("X-Amz-Security-Token") && session.Expiration.After(time.Now()) {
			fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>`+
				`<Arn>arn:aws:sts::111122223333:assumed-role/app/%s</Arn><UserId>AROAEXAMPLE:%[1]s</UserId><Account>111122223333</Account>`+
				`</GetCallerIdentityResult></GetCallerIdentityResponse>`, session.SessionName)
			return
		}
	}
	http.Error(w, "nobody's session", http.StatusForbidden)
}

// say runs a command line as docs have it, and prints both it and its output: the transcript.
func (c *cluster) say(t *testing.T, line string) string {
	t.Helper()
	output, err := c.try(line)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, output)
	}
	return output
}

// try is say for what may fail.
func (c *cluster) try(line string) (output string, err error) {
	raw, err := c.shell(line).CombinedOutput()
	fmt.Printf("\n$ %s\n%s", line, raw)
	return string(raw), err
}

// shell is a command line with kubectl, our own programs and the tools on its PATH.
func (c *cluster) shell(line string) *exec.Cmd {
	cmd := exec.Command("/bin/bash", "-o", "pipefail", "-c", line)
	cmd.Dir = c.repository
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.path("admin.kubeconfig"), "PATH="+c.bin+":"+filepath.Dir(c.program)+":"+os.Getenv("PATH"))
	return cmd
}

// keep leaves the cluster to whoever has started it, until Ctrl-C.
func (c *cluster) keep(t *testing.T) {
	fmt.Printf("\nThe cluster is yours until Ctrl-C. In another terminal, as root:\n\n  nsenter --net=/proc/%s/ns/net --mount=/proc/%[1]s/ns/mnt\n  export KUBECONFIG=%s PATH=%s:$PATH\n\n",
		world.ReadFile(t, os.Getenv("IRSA_TEST_PID")), c.path("admin.kubeconfig"), c.bin)
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
}

// app is what the app of a manifest does: it asks for credentials as soon as it runs, and goes on until it
// is told to end, which takes it three more requests.
const app = `ask() { wget -qO- --header "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI" | grep -o '"Expiration":"[^"]*"'; }
trap 'for i in 1 2 3; do echo "ending: $(ask)"; sleep 1; done; echo bye; exit 0' TERM
echo "first: $(ask)"
while :; do sleep 1 & wait $!; done`

// withApp is a manifest whose app does that, and is an image of this node.
func withApp(t *testing.T, manifest string) string {
	t.Helper()
	const image = "image: your/app\n"
	if !strings.Contains(manifest, image) {
		t.Fatalf("no %s in\n%s", image, manifest)
	}
	return strings.ReplaceAll(manifest, image, "image: your/app\n          imagePullPolicy: IfNotPresent\n          args: [-c, "+strconv.Quote(app)+"]\n")
}

// apply applies what is not a file.
func (c *cluster) apply(t *testing.T, namespace, manifest string) {
	t.Helper()
	cmd := c.kubectlCommand("apply", "-n", namespace, "--validate=strict", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl apply: %v\n%s\n%s", err, output, manifest)
	}
	fmt.Printf("\n$ kubectl apply -n %s -f -\n%s", namespace, output)
}

// namespace makes one that is restricted, with an annotated service account.
func (c *cluster) namespace(t *testing.T, name string, labels ...string) {
	t.Helper()
	c.kubectl(t, "create", "namespace", name)
	for _, label := range labels {
		c.kubectl(t, "label", "namespace", name, label)
	}
	c.apply(t, name, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app, annotations: {eks.amazonaws.com/role-arn: \""+clusterRole+"\"}}}")
}

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

// takesREADME has the API server look at every block of YAML in README and docs.
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
		case strings.HasPrefix(block, "- "):
			// One more variable, below those that the app has not got yet.
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

// pod is what this test reads of a Pod.
type podStatus struct {
	Metadata struct {
		Name              string
		CreationTimestamp time.Time
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

func (c *cluster) pod(t *testing.T, namespace, selector string) (p podStatus) {
	t.Helper()
	var list struct{ Items []podStatus }
	if err := json.Unmarshal([]byte(c.kubectl(t, "get", "pods", "-n", namespace, "-l", selector, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 {
		t.Fatalf("%d Pods with %s, want one", len(list.Items), selector)
	}
	return list.Items[0]
}

func (p podStatus) container(name string) (s containerStatus) {
	for _, s := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		if s.Name == name {
			return s
		}
	}
	return s
}

// wantFirstAnswer looks at what the app of a namespace was answered with when it had just started.
func (c *cluster) wantFirstAnswer(t *testing.T, namespace string) {
	t.Helper()
	p := c.pod(t, namespace, "app=app")
	if first := c.kubectl(t, "logs", "-n", namespace, p.Metadata.Name, "-c", "app"); !strings.HasPrefix(first, `first: "Expiration":"`) {
		t.Errorf("the app's first request was answered with %s", first)
	}
}

// startsInOrder has STS refuse at first: the app must not start until it does not.
func (c *cluster) startsInOrder(t *testing.T) {
	c.namespace(t, "shop", restricted)
	mend := c.breakSTS(ststest.Fault{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"})
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
	mend()
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "shop", "deployment/app", "--timeout=1s")
	c.say(t, "kubectl get pods -n shop")
	p = c.pod(t, "shop", "app=app")
	c.wantFirstAnswer(t, "shop")

	// Once more, with an STS that answers at once: how long it takes.
	c.kubectl(t, "delete", "pod", "-n", "shop", p.Metadata.Name, "--grace-period=0", "--force")
	c.until(t, time.Minute, "the next Pod", "rollout", "status", "-n", "shop", "deployment/app", "--timeout=1s")
	c.timings(t, "native sidecar", "shop", "app=app")
}

// timings prints when what happened, counted from the Pod's creation: to the second, as Kubernetes notes it,
// but for the log's.
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
	var said bytes.Buffer
	forward.Stdout, forward.Stderr = &said, &said
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

// processes are the sidecars of this namespace, by their cgroup's container.
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

// killSidecar kills that of one Pod: what is known of a process is its host name.
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

// keepsState has the state file of docs/pods.md, in a volume that is memory.
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
	// A policy is in force a moment after it has been made.
	world.Eventually(t, world.Soon, "the policy in force", func() bool {
		cmd := c.kubectlCommand("apply", "-n", "tools", "--dry-run=server", "-o", "jsonpath={.spec.initContainers[0].name}", "-f", "-")
		cmd.Stdin = strings.NewReader(pod)
		output, err := cmd.Output()
		return err == nil && string(output) == "irsa-sidecar"
	})
	c.apply(t, "tools", pod)
	c.until(t, time.Minute, "the Pod", "wait", "-n", "tools", "--for=condition=Ready", "pod/cli", "--timeout=1s")
	c.say(t, "kubectl get pod -n tools cli -o yaml")
	said := c.say(t, "kubectl exec -n tools cli -c cli -- aws sts get-caller-identity")
	world.WantContains(t, "the AWS CLI", said, "assumed-role/app/tools.cli")
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

	// A namespace as a whole, in a Deployment, restricted.
	c.namespace(t, "whole", restricted, "irsa-sidecar/inject=enabled")
	c.kubectl(t, "annotate", "namespace", "whole", "irsa-sidecar/region=eu-west-1")
	c.apply(t, "whole", withApp(t, string(world.RepoFile(t, "integration/testdata/app.yaml"))))
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "whole", "deployment/app", "--timeout=1s")
	c.timings(t, "policy", "whole", "app=app")
	c.wantFirstAnswer(t, "whole")
}

// podParts is what the sidecar's Pods have in common.
type podParts struct {
	Spec struct {
		InitContainers, Containers, Volumes []map[string]any
	}
}

// partsOf reads a Pod, without what the API server adds to each, and with every environment in order.
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
		// Whoever has it already needs nothing.
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
			// Below the repository, where kustomize finds the component.
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

	// A work that fails ends the sidecar too, and the Job fails instead of waiting.
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

// sharesTokenFile has sidecar and app, which are different users, share the authorization token in a file. A
// neighbour who reads it too is refused, for he is yet another user.
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
	if said, err := c.try("kubectl exec -n file " + p.Metadata.Name + " -c app -- wget -qO- http://127.0.0.1:9911/v1/credentials"); err == nil || !strings.Contains(said, "403") {
		t.Error("and without the token it is not refused")
	}
	if said, err := c.try("kubectl exec -n file " + p.Metadata.Name + ` -c neighbour -- sh -c 'id -u && T=$(cat /authorization/token) && wget -qO- --header "Authorization: $T" http://127.0.0.1:9911/v1/credentials'`); err == nil || !strings.Contains(said, "1001") || !strings.Contains(said, "403") {
		t.Errorf("and another user is not refused: %s", said)
	}
}

// answersStarved gives the sidecar a hundredth of a core and 24 MiB: SDKs give up after a second.
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
	said := c.say(t, "kubectl exec -n starved "+p.Metadata.Name+` -c app -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do `+
		`timeout 1 wget -qO /dev/null --header "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" $AWS_CONTAINER_CREDENTIALS_FULL_URI && echo answered; done'`)
	if n := strings.Count(said, "answered"); n != 20 {
		t.Errorf("%d of 20 requests were answered within a second", n)
	}
	if s := c.pod(t, "starved", "app=app").container("irsa-sidecar"); s.RestartCount != 0 {
		t.Errorf("the sidecar was restarted %d times", s.RestartCount)
	}
	c.kubectl(t, "delete", "deployment", "-n", "starved", "app", "--grace-period=1")
}

// guardsHostNetwork has one Pod with the authorization token of the manifest, and one without.
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
	i := slices.IndexFunc(addresses, func(block string) bool { return strings.Contains(block, "IRSA_SIDECAR_HOST_IP") })
	known := "            " + strings.ReplaceAll(strings.TrimSpace(addresses[i]), "\n", "\n            ") + "\n"
	for name, env := range map[string]string{"told by its addresses": known, "guessed by the network interfaces": ""} {
		c.apply(t, "host", strings.Replace(manifest, token, env, 1))
		world.Eventually(t, time.Minute, "a refusal to start, "+name, func() bool {
			said, _ := c.kubectlCommand("logs", "-n", "host", "-l", "app=app", "-c", "irsa-sidecar").CombinedOutput()
			if !strings.Contains(string(said), "this Pod uses the node's network") || strings.Contains(string(said), "if it does not") == (env != "") {
				return false
			}
			fmt.Printf("\n$ kubectl logs -n host -l app=app -c irsa-sidecar   # hostNetwork, %s, and no authorization token\n%s", name, said)
			return true
		})
		c.kubectl(t, "delete", "deployment", "-n", "host", "app", "--cascade=foreground", "--grace-period=1")
		c.until(t, time.Minute, "the end of the Pod", "wait", "-n", "host", "--for=delete", "pod", "-l", "app=app", "--timeout=1s")
	}
}

// rotatingPod makes a Pod whose token lives for ten minutes, which is as short as an API server makes them.
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
		// What other acts have done to STS is done to this Pod as well.
		if !slices.ContainsFunc(c.outages, func(o [2]time.Time) bool { return line.Time.After(o[0]) && line.Time.Before(o[1].Add(time.Second)) }) {
			t.Errorf("an exchange has failed while STS was well: %s", text)
		}
	}
	if s := c.pod(t, "rotating", "app=app").container("irsa-sidecar"); s.RestartCount != 0 {
		t.Errorf("the sidecar was restarted %d times", s.RestartCount)
	}
}
