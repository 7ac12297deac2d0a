//go:build cluster

package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// isDiagnosedFromALaptop runs `kubectl irsa doctor` with the real kubectl, which finds it on the PATH.
func (c *cluster) isDiagnosedFromALaptop(t *testing.T) {
	c.namespace(t, "laptop", restricted)
	c.apply(t, "laptop", withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml"))))
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "laptop", "deployment/app", "--timeout=1s")

	c.diagnose(t, "laptop/deployment/app", "", "ok    sts ", "running on node node", "of deployment/app", " 0 FAIL")
	c.diagnose(t, "laptop/deployment/app --container app", "", "ok    app ", "assumed-role/app/laptop.app-")
	pod := c.pod(t, "laptop", "app=app").Metadata.Name
	c.trustsOthers(t, "laptop/"+pod)
	c.mayNotExec(t, pod)
	c.diagnose(t, "laptop/"+pod[:len(pod)-5]+"gone1", "PodMissing", "there is "+pod, "kubectl irsa doctor laptop/"+pod)
	c.diagnose(t, "-n laptp deployment/app", "PodMissing", `no namespace laptp; did you mean "laptop"?`)
	c.fixesByPasting(t)
	c.hasNoSidecar(t)
	c.hasACrashingSidecar(t)
	c.kubectl(t, "delete", "namespace", "laptop", "--wait=false")
}

// diagnose runs the plugin. The key is the cause's; without one, nothing may fail.
func (c *cluster) diagnose(t *testing.T, args, key string, parts ...string) string {
	t.Helper()
	begun := time.Now()
	output, err := c.try("kubectl irsa doctor " + args)
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("kubectl irsa doctor %s took %s", args, took)
	}
	if (err != nil) != (key != "") {
		t.Errorf("kubectl irsa doctor %s: %v", args, err)
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	world.WantContains(t, "the last line of kubectl irsa doctor "+args, lines[len(lines)-1], key)
	world.WantContains(t, "kubectl irsa doctor "+args, output, parts...)
	return output
}

// trustsOthers gives the role the trust policy of another service account.
func (c *cluster) trustsOthers(t *testing.T, pod string) {
	var right string
	c.sts.Change(func(o *ststest.Options) {
		right = o.TrustPolicy
		o.TrustPolicy = strings.ReplaceAll(right, "system:serviceaccount:*:app", "system:serviceaccount:*:crat")
	})
	from := time.Now()
	defer func() {
		c.sts.Change(func(o *ststest.Options) { o.TrustPolicy = right })
		c.outages = append(c.outages, [2]time.Time{from, time.Now()})
	}()
	file := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(right, "system:serviceaccount:*:app", "system:serviceaccount:*:crat")), 0o600); err != nil {
		t.Fatal(err)
	}
	c.diagnose(t, pod, "sts: AccessDenied", "kubectl irsa doctor "+pod)
	c.diagnose(t, pod+" --trust-policy - < "+file, "trust-policy: Policy", "system:serviceaccount:*:crat", "system:serviceaccount:laptop:app", "aws iam update-assume-role-policy --role-name app")
}

// mayNotExec asks as somebody who may read everything in the namespace, and no more.
func (c *cluster) mayNotExec(t *testing.T, pod string) {
	c.kubectl(t, "create", "rolebinding", "-n", "laptop", "bob", "--clusterrole=view", "--user=bob")
	c.diagnose(t, pod+" -n laptop --as bob", `cannot create resource "pods/exec"`, "NotVisible", "kubectl --as=bob auth can-i", "system:serviceaccount:laptop:app")
	c.diagnose(t, "laptop/"+pod+" --as alice", `User "alice" cannot get resource "pods"`)
}

// fixesByPasting misspells the role in the manifest, so that the sidecar never gets ready, and pastes what is printed.
func (c *cluster) fixesByPasting(t *testing.T) {
	c.say(t, "kubectl set env -n laptop deployment/app -c irsa-sidecar AWS_ROLE_ARN="+clusterRole+"s")
	var pod podStatus
	world.Eventually(t, time.Minute, "a Pod with the misspelt role", func() bool {
		pods := c.pods(t, "laptop", "app=app")
		i := slices.IndexFunc(pods, func(p podStatus) bool {
			s := p.container("irsa-sidecar")
			return p.Metadata.DeletionTimestamp == nil && s.State.Running != nil && !s.Started
		})
		if i >= 0 {
			pod = pods[i]
		}
		return i >= 0
	})
	report := c.diagnose(t, "laptop/"+pod.Metadata.Name, "service-account: RoleDiffers", "it waits for container irsa-sidecar")
	const fix = "kubectl set env -n laptop deployment/app -c irsa-sidecar AWS_ROLE_ARN=" + clusterRole
	world.WantContains(t, "the report", report, fix+"\n")
	c.say(t, fix)
	c.until(t, 2*time.Minute, "the Deployment", "rollout", "status", "-n", "laptop", "deployment/app", "--timeout=1s")
	c.diagnose(t, "laptop/deployment/app", "")
}

func (c *cluster) hasNoSidecar(t *testing.T) {
	const bare = `{apiVersion: v1, kind: Pod, metadata: {name: bare}, spec: {serviceAccountName: app, securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, ` +
		`containers: [{name: app, image: your/app, imagePullPolicy: IfNotPresent, args: [-c, sleep 100000], securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}`
	c.apply(t, "laptop", bare)
	c.until(t, time.Minute, "the Pod", "wait", "-n", "laptop", "--for=condition=Ready", "pod/bare", "--timeout=1s")
	c.diagnose(t, "laptop/bare", "container: SidecarMissing", "system:serviceaccount:laptop:app", clusterIssuer)
	c.say(t, "kubectl annotate -n laptop serviceaccount app eks.amazonaws.com/role-arn- eks.amazonaws.com/rolearn="+clusterRole)
	c.diagnose(t, "laptop/bare", "service-account: NotAnnotated", `it has "eks.amazonaws.com/rolearn"`)
	c.say(t, "kubectl annotate -n laptop serviceaccount app eks.amazonaws.com/rolearn- eks.amazonaws.com/role-arn="+clusterRole)
	c.kubectl(t, "delete", "pod", "-n", "laptop", "bare", "--grace-period=1")
}

func (c *cluster) hasACrashingSidecar(t *testing.T) {
	c.kubectl(t, "delete", "deployment", "-n", "laptop", "app", "--cascade=foreground")
	manifest := withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml")))
	c.apply(t, "laptop", strings.Replace(manifest, "- {name: AWS_REGION, value: eu-west-1}", "- {name: IRSA_SIDECAR_LOG_LEVEL, value: verbose}", 1))
	world.Eventually(t, time.Minute, "an end of the sidecar", func() bool {
		return c.pod(t, "laptop", "app=app").container("irsa-sidecar").RestartCount > 0
	})
	world.Eventually(t, time.Minute, "a wait before the next start", func() bool {
		return c.pod(t, "laptop", "app=app").container("irsa-sidecar").State.Waiting != nil
	})
	c.diagnose(t, "laptop/deployment/app", "container: SidecarFailing", "CrashLoopBackOff", "exit code 2", "IRSA_SIDECAR_LOG_LEVEL")
}
