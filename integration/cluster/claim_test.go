//go:build cluster

package cluster

import (
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// claimsAddresses plays "Addresses that programs have built in" of docs/pods.md, on a node with metadata of its own: only a Pod that
// has not claimed the addresses reaches it.
func (c *cluster) claimsAddresses(t *testing.T) {
	var asked atomic.Int64
	for _, address := range []string{"169.254.169.254", "169.254.170.2"} {
		world.MustRun(t, exec.Command("ip", "addr", "add", address+"/32", "dev", "lo"))
		t.Cleanup(func() { world.MustRun(t, exec.Command("ip", "addr", "del", address+"/32", "dev", "lo")) })
		listener, err := net.Listen("tcp", address+":80")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			io.WriteString(w, "the node's role\n")
		})}
		go server.Serve(listener)
		t.Cleanup(func() { server.Close() })
	}
	manifest := strings.ReplaceAll(example(t, "args: [claim-addresses]"), "$AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")

	// Without the init container.
	c.namespace(t, "unclaimed")
	c.apply(t, "unclaimed", `{apiVersion: v1, kind: Pod, metadata: {name: app}, spec: {containers: [
  {name: app, image: your/app, imagePullPolicy: IfNotPresent, args: [-c, "while :; do sleep 1; done"]}]}}`)
	c.until(t, time.Minute, "the Pod", "wait", "-n", "unclaimed", "--for=condition=Ready", "pod/app", "--timeout=1s")
	const metadata = " -c app -- timeout 5 wget -qO- http://169.254.169.254/latest/meta-data/iam/security-credentials/"
	if got := c.say(t, "kubectl exec -n unclaimed app"+metadata); got != "the node's role\n" {
		t.Errorf("before, the node answers %q: this test proves nothing", got)
	}
	c.kubectl(t, "delete", "namespace", "unclaimed", "--wait=false")
	if n := asked.Swap(0); n != 1 {
		t.Errorf("before, the node was asked %d times", n)
	}

	c.namespace(t, "claimed")
	c.apply(t, "claimed", manifest)
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "claimed", "deployment/app", "--timeout=1s")
	c.wantFirstAnswer(t, "claimed")
	pod := c.pod(t, "claimed", "app=app").Metadata.Name
	world.WantContains(t, "the init container", c.say(t, "kubectl logs -n claimed "+pod+" -c claim-addresses"), "169.254.169.254 claimed\n169.254.170.2 claimed\nfd00:ec2::254 ")
	if got, err := c.try("kubectl exec -n claimed " + pod + metadata); err == nil || !strings.Contains(got, "refused") {
		t.Errorf("the metadata's address answers %q, %v", got, err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}
	c.kubectl(t, "delete", "namespace", "claimed", "--wait=false")

	// The node itself keeps its addresses.
	c.namespace(t, "host-claimed")
	sysctl := `, sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]`
	host := strings.Replace(strings.Replace(manifest, sysctl, "", 1), "      serviceAccountName: app\n", "      serviceAccountName: app\n      hostNetwork: true\n", 1)
	c.apply(t, "host-claimed", host)
	world.Eventually(t, time.Minute, "a refusal to claim the node's addresses", func() bool {
		printed, _ := c.kubectlCommand("logs", "-n", "host-claimed", "-l", "app=app", "-c", "claim-addresses").CombinedOutput()
		return strings.Contains(string(printed), "this Pod uses the node's network (the node's address "+nodeIP+" is its own)")
	})
	c.kubectl(t, "delete", "namespace", "host-claimed", "--wait=false")
	if _, body := world.HTTPGet(t, "http://169.254.169.254/"); string(body) != "the node's role\n" {
		t.Errorf("the node's own metadata answers %q", body)
	}
}
