//go:build cluster

package cluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	// nodeIP is an address of the node. The kubelet would refuse loopback.
	nodeIP   = "10.88.0.1"
	nodeName = "node"

	// clusterIssuer is the issuer of tokens. As with EKS, others serve its documents than the API server: serveAWS does.
	issuerHost    = "oidc.eks.eu-west-1.amazonaws.com"
	issuerPath    = "/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	clusterIssuer = "https://" + issuerHost + issuerPath

	prometheusOperator = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

// isolated runs the test again, in its own network, mount and process namespaces, so that what it starts meets no other
// program and ends with it. It reports whether it has done so.
func isolated(t *testing.T) bool {
	if os.Getenv("IRSA_TEST_ISOLATED") != "" {
		return false
	}
	if os.Geteuid() != 0 {
		t.Fatal("a kubelet needs root: run this as root, on a machine or in a container of your own")
	}
	// The kubelet sets these for the whole machine.
	for _, name := range []string{"kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		file := filepath.Join("/proc/sys", name)
		old, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.WriteFile(file, old, 0); err != nil {
				t.Errorf("put %s back: %v", name, err)
			}
		})
	}
	there := kubepods()
	t.Cleanup(func() { removeCgroups(there) })
	// The last step that needs the network: the Prometheus Operator's definitions, for deploy/monitoring.
	var operator struct{ Dir string }
	if err := json.Unmarshal(world.MustOutput(t, exec.Command("go", "mod", "download", "-json", prometheusOperator)), &operator); err != nil {
		t.Fatal(err)
	}
	// A shell as the first process of the namespace, because it collects the orphans.
	cmd := exec.Command("/bin/bash", append([]string{"-c", `"$0" "$@"; exit $?`}, append([]string{os.Args[0]}, os.Args[1:]...)...)...)
	cmd.Env = append(os.Environ(), "IRSA_TEST_ISOLATED=1", "IRSA_TEST_OPERATOR="+operator.Dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	// The other process handles Ctrl-C; this one cleans up after it.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM)
	number := filepath.Join(t.TempDir(), "pid")
	cmd.Env = append(cmd.Env, "IRSA_TEST_PID="+number)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(number, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("in its own namespaces: %v", err)
	}
	return true
}

// kubepods are the cgroups that contain a kubelet's Pods.
func kubepods() (found []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/*/kubepods"} {
		matches, _ := filepath.Glob(pattern)
		found = append(found, matches...)
	}
	return found
}

// removeCgroups removes what this test's kubelet has left, not what belongs to another one.
func removeCgroups(others []string) {
	for _, root := range kubepods() {
		if slices.Contains(others, root) {
			continue
		}
		var dirs []string
		filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			os.Remove(dir)
		}
	}
}

// node is a Kubernetes with one node.
type node struct {
	dir string // its state
	bin string
	ca  *world.Authority // of the cluster, and of everything in it that speaks TLS
}

// newNode starts etcd, the control plane, containerd and the kubelet, and waits until the node is ready.
func newNode(t *testing.T) *node {
	bin := os.Getenv("IRSA_TEST_KUBERNETES")
	for _, program := range []string{"etcd", "containerd", "containerd-shim-runc-v2", "runc", "ctr", "ip", filepath.Join(bin, "kubelet"), "/usr/lib/cni/bridge"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; make cluster installs and builds what is needed", err)
		}
	}
	dir, err := os.MkdirTemp("", "irsa-node-") // short, because the paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeState(t, dir) })
	n := &node{dir: dir, bin: bin, ca: world.NewAuthority(t)}

	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"link set lo up",
		"link add node0 type veth peer name node1",
		"addr add " + nodeIP + "/24 dev node0",
		"link set node0 up",
		"link set node1 up",
		"route add default dev node0",
	} {
		world.MustRun(t, exec.Command("ip", strings.Fields(command)...))
	}

	n.write(t, "ca.crt", n.ca.PEM)
	n.certify(t, "apiserver", pkix.Name{CommonName: "kube-apiserver"}, "127.0.0.1", nodeIP, "10.96.0.1", "localhost", "kubernetes.default.svc")
	n.kubeconfig(t, "admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	n.kubeconfig(t, "kubelet", pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}})
	n.kubeconfig(t, "controllers", pkix.Name{CommonName: "system:kube-controller-manager"})
	n.kubeconfig(t, "scheduler", pkix.Name{CommonName: "system:kube-scheduler"})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	n.write(t, "sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	n.write(t, "sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))

	n.start(t, "etcd", "etcd", "--data-dir", n.path("etcd"), "--unsafe-no-fsync", "--log-level=warn")
	n.start(t, "apiserver", n.path("/kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--advertise-address="+nodeIP, "--secure-port=6443",
		"--tls-cert-file="+n.path("apiserver.crt"), "--tls-private-key-file="+n.path("apiserver.key"), "--client-ca-file="+n.path("ca.crt"),
		"--service-account-issuer="+clusterIssuer, "--service-account-jwks-uri="+clusterIssuer+"/keys",
		"--service-account-key-file="+n.path("sa.pub"), "--service-account-signing-key-file="+n.path("sa.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--service-cluster-ip-range=10.96.0.0/16",
		"--endpoint-reconciler-type=none", "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate="+n.path("admin.crt"), "--kubelet-client-key="+n.path("admin.key"))
	n.until(t, time.Minute, "the API server", "get", "--raw", "/readyz")

	n.start(t, "controllers", n.path("/kube-controller-manager"), "--kubeconfig="+n.path("controllers.kubeconfig"),
		"--service-account-private-key-file="+n.path("sa.key"), "--root-ca-file="+n.path("ca.crt"), "--use-service-account-credentials=true",
		"--leader-elect=false", "--bind-address=127.0.0.1", "--authentication-kubeconfig="+n.path("controllers.kubeconfig"),
		"--authorization-kubeconfig="+n.path("controllers.kubeconfig"))
	n.start(t, "scheduler", n.path("/kube-scheduler"), "--kubeconfig="+n.path("scheduler.kubeconfig"), "--leader-elect=false",
		"--bind-address=127.0.0.1", "--authentication-kubeconfig="+n.path("scheduler.kubeconfig"),
		"--authorization-kubeconfig="+n.path("scheduler.kubeconfig"))

	// Without CAP_SYS_RESOURCE, no oom_score_adj can be lowered.
	n.write(t, "containerd.toml", fmt.Appendf(nil, `version = 2
root = "%[1]s/containerd"
state = "%[1]s/containerd-run"
[grpc]
  address = "%[1]s/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`, n.dir))
	n.write(t, "cni/10-bridge.conflist", fmt.Appendf(nil, `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
  "ipam": {"type": "host-local", "dataDir": "%s/ipam", "ranges": [[{"subnet": "10.89.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, n.dir))
	n.write(t, "resolv.conf", []byte("nameserver "+nodeIP+"\n"))
	n.start(t, "containerd", "containerd", "--config", n.path("containerd.toml"))
	world.Eventually(t, time.Minute, "containerd", func() bool { return n.ctr("version").Run() == nil })

	n.write(t, "kubelet.yaml", fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
containerRuntimeEndpoint: unix://%[1]s/containerd.sock
address: %[2]s
oomScoreAdj: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: %[1]s/ca.crt}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
resolvConf: %[1]s/resolv.conf
syncFrequency: 5s
rotateCertificates: false
podLogsDir: %[1]s/podlogs
`, n.dir, nodeIP))
	n.start(t, "kubelet", n.path("/kubelet"), "--config="+n.path("kubelet.yaml"), "--kubeconfig="+n.path("kubelet.kubeconfig"),
		"--hostname-override="+nodeName, "--node-ip="+nodeIP, "--root-dir="+n.path("kubelet"), "--cert-dir="+n.path("kubelet-pki"))
	n.until(t, 90*time.Second, "the node", "wait", "--for=condition=Ready", "node/"+nodeName, "--timeout=1s")
	// The controllers create it for every namespace after a while.
	n.until(t, time.Minute, "the default service account", "get", "serviceaccount", "default")
	return n
}

// path returns the path of a file of the node or, with a slash before it, of a built program.
func (n *node) path(name string) string {
	if strings.HasPrefix(name, "/") {
		return n.bin + name
	}
	return filepath.Join(n.dir, name)
}

func (n *node) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(n.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.path(name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts a part of the node, which ends with the namespace at the latest.
func (n *node) start(t *testing.T, name, program string, args ...string) {
	t.Helper()
	log, err := os.Create(n.path(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			t.Logf("the end of %s's log:\n%s", name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
		}
	})
}

// until repeats a kubectl command until it succeeds.
func (n *node) until(t *testing.T, patience time.Duration, what string, args ...string) {
	t.Helper()
	world.Eventually(t, patience, what, func() bool { return n.kubectlCommand(args...).Run() == nil })
}

func (n *node) kubectlCommand(args ...string) *exec.Cmd {
	return exec.Command(n.path("/kubectl"), append([]string{"--kubeconfig=" + n.path("admin.kubeconfig")}, args...)...)
}

// kubectl runs kubectl, and returns what it prints.
func (n *node) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	output, err := n.kubectlCommand(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

func (n *node) ctr(args ...string) *exec.Cmd {
	return exec.Command("ctr", append([]string{"--address", n.path("containerd.sock"), "--namespace", "k8s.io"}, args...)...)
}

// kubeconfig writes a client's, with a certificate for it.
func (n *node) kubeconfig(t *testing.T, name string, subject pkix.Name) {
	t.Helper()
	n.certify(t, name, subject)
	n.write(t, name+".kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: %[1]s/ca.crt}}]
users: [{name: u, user: {client-certificate: %[1]s/%[2]s.crt, client-key: %[1]s/%[2]s.key}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, n.dir, name))
}

// removeState removes a directory that still contains mounts.
func removeState(t *testing.T, dir string) {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Error(err)
	}
	for _, line := range slices.Backward(strings.Split(strings.TrimSpace(string(mounts)), "\n")) {
		if point := strings.Fields(line)[1]; strings.HasPrefix(point, dir+"/") {
			syscall.Unmount(point, syscall.MNT_DETACH)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// certify writes a certificate and its key.
func (n *node) certify(t *testing.T, name string, subject pkix.Name, hosts ...string) {
	t.Helper()
	pair := n.ca.Issue(t, subject, hosts...)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	n.write(t, name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	n.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}

// file is a file in an image.
type file struct {
	name string // of a link if there is a target
	to   string
	mode int64
	gid  int
	data []byte
}

// image stores an image of one layer where the kubelet finds it.
func (n *node) image(t *testing.T, name string, config string, files ...file) {
	t.Helper()
	archive := n.path(strings.NewReplacer("/", "-", ":", "-").Replace(name) + ".tar")
	if err := os.WriteFile(archive, dockerArchive(t, name, config, files), 0o600); err != nil {
		t.Fatal(err)
	}
	world.MustRun(t, n.ctr("images", "import", archive))
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
}
