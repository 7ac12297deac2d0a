//go:build cluster

package cluster

import (
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
	"regexp"
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

	// sessionLife is the lifetime of sessions: short, so that there are refreshes to see.
	sessionLife = 2 * time.Minute

	// rotation is the longest that a kubelet takes to replace a token of 600 s: four fifths of its lifetime, and the kubelet's
	// own period.
	rotation = 600 * time.Second
)

// TestCluster is the Pod's life on a real Kubernetes: kube-apiserver, controllers, scheduler, kubelet,
// containerd and runc. The tokens are the kubelet's, and the manifests are those in
// deploy/, unchanged. Only AWS is a fake: its names resolve to a test STS that verifies the tokens with the API server's own
// keys. `make cluster` builds Kubernetes and runs it.
func TestCluster(t *testing.T) {
	if isolated(t) {
		return
	}
	c := newCluster(t)
	if os.Getenv("IRSA_TEST_KEEP") != "" {
		c.keep(t)
		return
	}
	c.rotatingPod(t) // takes the longest, and needs no attention
	for _, act := range []struct {
		name string
		play func(*cluster, *testing.T)
	}{
		{"every manifest is taken, in a namespace that is restricted", (*cluster).takesManifests},
		{"every block of YAML in README and docs is taken", (*cluster).takesREADME},
		{"the app starts when there are credentials, and not before", (*cluster).startsInOrder},
		{"kubectl logs, exec and port-forward show what docs say", (*cluster).isObserved},
		{"kubectl irsa doctor says what is wrong", (*cluster).isDiagnosedFromALaptop},
		{"kill -9 of the sidecar is over in seconds, and the app stays", (*cluster).survivesKill},
		{"kubectl delete lets the app end first", (*cluster).drainsInOrder},
		{"the policy injects, and the AWS CLI works in the Pod", (*cluster).injectsByPolicy},
		{"the policy says why not", (*cluster).refusesByPolicy},
		{"irsa-sidecar-inject and kustomize do the same without the policy", (*cluster).injectsByText},
		{"Jobs complete, with both kinds of sidecar", (*cluster).completesJobs},
		{"a classic sidecar is there before the app", (*cluster).startsClassic},
		{"a token file in memory is shared by both users", (*cluster).sharesTokenFile},
		{"the Pod's role assumes another account's", (*cluster).reachesAnotherAccount},
		{"two containers have two roles, and each is refused the other's", (*cluster).servesTwoRoles},
		{"with shared processes, users keep two containers apart", (*cluster).sharesProcesses},
		{"a role changes without a restart", (*cluster).changesRoles},
		{"a Pod claims the metadata addresses, and never asks the node", (*cluster).claimsAddresses},
		{"a sidecar that is killed while STS is away serves what it has kept", (*cluster).keepsState},
		{"starved of CPU and memory it answers within a second", (*cluster).answersStarved},
		{"on the host's network it asks for a token", (*cluster).guardsHostNetwork},
		{"the kubelet rotates the token, and refreshes follow", (*cluster).rotates},
	} {
		t.Run(act.name, func(t *testing.T) { act.play(c, t) })
	}
}

// cluster is a node and a fake AWS.
type cluster struct {
	*node
	program    string // path of the sidecar
	repository string // path of this repository

	sts      *ststest.Server
	outages  [][2]time.Time // of STS: begin and end
	rotating time.Time      // when the Pod whose token is rotated was created
}

// breakSTS makes STS fail for all current Pods, until repair is called.
func (c *cluster) breakSTS(f ststest.Fault) (repair func()) {
	from := time.Now()
	c.sts.Break(f)
	return func() {
		c.sts.Repair()
		c.outages = append(c.outages, [2]time.Time{from, time.Now()})
	}
}

func newCluster(t *testing.T) *cluster {
	program := world.Program(t)
	for _, name := range []string{"irsa-sidecar-inject", "kubectl-irsa"} {
		world.MustRun(t, exec.Command("go", "build", "-o", filepath.Join(filepath.Dir(program), name), world.Path(t, "cmd/"+name)))
	}
	started := time.Now()
	c := &cluster{node: newNode(t), program: program, repository: world.Path(t)}
	fmt.Printf("\n# Kubernetes is ready after %s\n", time.Since(started).Round(100*time.Millisecond))
	c.say(t, "kubectl version")
	c.say(t, "kubectl get node -o wide")

	world.ServeDNS(t, nodeIP, net.ParseIP(nodeIP))
	c.serveAWS(t)

	binary := world.ReadFile(t, program)
	busybox := world.ReadFile(t, "/bin/busybox")
	c.image(t, "localhost/pause:1", `{"Entrypoint": ["/busybox", "sleep", "2000000000"]}`, file{name: "busybox", mode: 0o755, data: busybox})
	// Like the Dockerfile's, except for the certificates: the cluster's authority, which has issued STS's.
	image := world.ShippedImage(t)
	c.image(t, "docker.io/library/irsa-sidecar:0.1.0", fmt.Sprintf(`{"User": "%d:%[1]d", "Entrypoint": ["/irsa-sidecar"]}`, image.User),
		file{name: "irsa-sidecar", mode: image.Mode, gid: image.Group, data: binary}, file{name: "etc/ssl/cert.pem", mode: 0o644, gid: image.Group, data: c.ca.PEM})
	app := []file{{name: "bin/busybox", mode: 0o755, data: busybox}, {name: "tmp/", mode: 0o1777}, {name: "ca.crt", mode: 0o644, data: c.ca.PEM}}
	for _, applet := range []string{"sh", "wget", "sleep", "timeout", "date", "grep", "cut", "env", "cat", "id"} {
		app = append(app, file{name: "bin/" + applet, to: "busybox", mode: 0o777})
	}
	c.image(t, "docker.io/your/app:latest", `{"User": "1000:1000", "Entrypoint": ["sh"], "Env": ["PATH=/bin"]}`, app...)
	// The AWS CLI is the node's: the Pod mounts its /usr.
	cli := []file{{name: "tmp/", mode: 0o1777}, {name: "usr/", mode: 0o755}, {name: "ca.crt", mode: 0o644, data: c.ca.PEM}}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		cli = append(cli, file{name: dir, to: "usr/" + dir, mode: 0o777})
	}
	c.image(t, "docker.io/library/aws-cli:1", `{"Env": ["PATH=/usr/bin", "AWS_CA_BUNDLE=/ca.crt", "HOME=/tmp"], "Entrypoint": ["/usr/bin/sleep", "100000"]}`, cli...)
	return c
}

// serveAWS serves STS, and the issuer's documents as the API server has them, at the address that the Pods' DNS returns for
// AWS's names.
func (c *cluster) serveAWS(t *testing.T) {
	t.Helper()
	keys := c.kubectl(t, "get", "--raw", "/openid/v1/jwks")
	issuer, err := ststest.ReadIssuer(clusterIssuer, []byte(keys))
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
		Roles: map[string]ststest.Role{
			reportsRole: {Trusted: []string{ststest.Tokens}},
			otherRole:   {Trusted: []string{ststest.Tokens}},
			uploadsRole: {Trusted: []string{clusterRole}, ExternalID: uploadsID},
		},
	})
	listener, err := tls.Listen("tcp4", nodeIP+":443", &tls.Config{Certificates: []tls.Certificate{c.ca.Issue(t, pkix.Name{CommonName: "sts"}, stsHost, issuerHost)}})
	if err != nil {
		t.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.Handle("/", c.sts)
	for path, document := range map[string]string{
		"/.well-known/openid-configuration": c.kubectl(t, "get", "--raw", "/.well-known/openid-configuration"),
		"/keys":                             keys,
	} {
		routes.HandleFunc("GET "+issuerHost+issuerPath+path, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, document) })
	}
	server := &http.Server{
		Handler:           routes,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // the doctor reads the certificate and disconnects
	}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
}

// say runs a command line from docs, and prints it and its output as a transcript.
func (c *cluster) say(t *testing.T, line string) string {
	t.Helper()
	output, err := c.try(line)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, output)
	}
	return output
}

// try is say for a command that may fail.
func (c *cluster) try(line string) (output string, err error) {
	raw, err := c.shell(line).CombinedOutput()
	fmt.Printf("\n$ %s\n%s", line, raw)
	return string(raw), err
}

// shell is a command line with kubectl, this module's programs and the tools on its PATH.
func (c *cluster) shell(line string) *exec.Cmd {
	cmd := exec.Command("/bin/bash", "-o", "pipefail", "-c", line)
	cmd.Dir = c.repository
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.path("admin.kubeconfig"), "PATH="+c.bin+":"+filepath.Dir(c.program)+":"+os.Getenv("PATH"))
	return cmd
}

// keep keeps the cluster running until Ctrl-C.
func (c *cluster) keep(t *testing.T) {
	fmt.Printf("\nThe cluster is yours until Ctrl-C. In another terminal, as root:\n\n  nsenter --net=/proc/%s/ns/net --mount=/proc/%[1]s/ns/mnt\n  export KUBECONFIG=%s PATH=%s:$PATH\n\n",
		world.ReadFile(t, os.Getenv("IRSA_TEST_PID")), c.path("admin.kubeconfig"), c.bin)
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
}

// app is the app of the manifests: it asks for credentials from its start on, and after SIGTERM makes three more requests.
const app = `ask() { wget -qO- --header "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI" | grep -o '"Expiration":"[^"]*"'; }
trap 'for i in 1 2 3; do echo "ending: $(ask)"; sleep 1; done; echo bye; exit 0' TERM
echo "first: $(ask)"
while :; do sleep 1 & wait $!; done`

var appImage = regexp.MustCompile(`(?m)^( +)image: your/\w+\n`)

// withApp returns a manifest with that app, in an image of this node, in place of every app.
func withApp(t *testing.T, manifest string) string {
	t.Helper()
	if !appImage.MatchString(manifest) {
		t.Fatalf("no image of an app in\n%s", manifest)
	}
	return appImage.ReplaceAllStringFunc(manifest, func(line string) string {
		indent := appImage.FindStringSubmatch(line)[1]
		return indent + "image: your/app\n" + indent + "imagePullPolicy: IfNotPresent\n" + indent + "args: [-c, " + strconv.Quote(app) + "]\n"
	})
}

// apply applies a text.
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

// namespace creates a restricted namespace with an annotated service account.
func (c *cluster) namespace(t *testing.T, name string, labels ...string) {
	t.Helper()
	c.kubectl(t, "create", "namespace", name)
	for _, label := range labels {
		c.kubectl(t, "label", "namespace", name, label)
	}
	c.apply(t, name, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app, annotations: {eks.amazonaws.com/role-arn: \""+clusterRole+"\"}}}")
}
