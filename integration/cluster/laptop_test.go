//go:build cluster

package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// isDiagnosedFromALaptop runs `kubectl irsa doctor` with the real kubectl, which finds it on the PATH.
func (c *cluster) isDiagnosedFromALaptop(t *testing.T) {
	c.namespace(t, "laptop", restricted)
	c.apply(t, "laptop", withApp(t, string(world.RepoFile(t, "deploy/native-sidecar.yaml"))))
	c.until(t, time.Minute, "the Deployment", "rollout", "status", "-n", "laptop", "deployment/app", "--timeout=1s")

	c.diagnose(t, "laptop/deployment/app", "", "ok sts ", "running on node node", "of deployment/app", " 0 FAIL")
	c.diagnose(t, "laptop/deployment/app --container app", "", "ok app ", "assumed-role/app/laptop.app-")
	pod := c.pod(t, "laptop", "app=app").Metadata.Name
	c.trustsOthers(t, "laptop/"+pod)
	c.mayNotExec(t, pod)
	c.diagnose(t, "laptop/"+pod[:len(pod)-5]+"gone1", "cause: there is no pod", "PodMissing", "there is "+pod, "kubectl irsa doctor laptop/"+pod)
	c.diagnose(t, "-n laptp deployment/app", "cause: there is no namespace", "PodMissing", `no namespace laptp; did you mean "laptop"?`)
	c.fixesByPasting(t)
	c.hasNoSidecar(t)
	c.hasACrashingSidecar(t)
	c.kubectl(t, "delete", "namespace", "laptop", "--wait=false")
}

// diagnose runs the plugin. The last line on stderr has the text; without one, nothing may fail.
func (c *cluster) diagnose(t *testing.T, args, last string, parts ...string) string {
	t.Helper()
	begun := time.Now()
	output, err := c.try("kubectl irsa doctor " + args)
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("kubectl irsa doctor %s took %s", args, took)
	}
	if (err != nil) != (last != "") {
		t.Errorf("kubectl irsa doctor %s: %v", args, err)
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	world.WantContains(t, "the last line of kubectl irsa doctor "+args, lines[len(lines)-1], last)
	world.WantContains(t, "kubectl irsa doctor "+args, strings.Join(strings.Fields(output), " "), parts...) // lines are broken anywhere
	return output
}

// trustsOthers gives the role the trust policy of another service account.
func (c *cluster) trustsOthers(t *testing.T, pod string) {
	var right string
	c.sts.Change(func(o *ststest.Options) {
		right = o.TrustPolicy
		o.Providers = []ststest.Provider{{Issuer: clusterIssuer, ClientIDs: []string{"sts.amazonaws.com"}}}
		o.TrustPolicy = strings.ReplaceAll(right, "system:serviceaccount:*:app", "system:serviceaccount:*:crat")
	})
	from := time.Now()
	defer func() {
		c.sts.Change(func(o *ststest.Options) { o.TrustPolicy, o.Providers = right, nil })
		c.outages = append(c.outages, [2]time.Time{from, time.Now()})
	}()
	file := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(right, "system:serviceaccount:*:app", "system:serviceaccount:*:crat")), 0o600); err != nil {
		t.Fatal(err)
	}
	c.diagnose(t, pod, "cause: ", "FAIL sts AccessDenied", "kubectl irsa doctor "+pod)
	c.diagnose(t, pod+" --trust-policy - < "+file, "cause: ", "FAIL trust-policy", "system:serviceaccount:*:crat", "system:serviceaccount:laptop:app", "aws iam update-assume-role-policy --role-name app")
	c.asksAWS(t, pod)
}

// asksAWS lets the real AWS CLI read the role in an IAM and an EKS for tests, and change its trust policy as it is printed.
func (c *cluster) asksAWS(t *testing.T, pod string) {
	account := ststest.NewAccount(c.sts, ststest.AccountOptions{Clusters: map[string]string{"prod": clusterIssuer}})
	url, err := account.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer account.Close()
	dir := t.TempDir()
	// Older versions know no AWS_ENDPOINT_URL, and others on the PATH may not work here.
	if err := os.WriteFile(filepath.Join(dir, "aws"), []byte("#!/bin/sh\nexec /usr/bin/aws --endpoint-url "+url+` "$@"`+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	keys := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", account.Operator().AccessKeyID, account.Operator().SecretAccessKey)
	if err := os.WriteFile(filepath.Join(dir, "credentials"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"PATH": dir + ":" + os.Getenv("PATH"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials"), "AWS_CONFIG_FILE": filepath.Join(dir, "config"),
		"AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	c.diagnose(t, pod+" --aws --eks-cluster prod", "cause: ", "ok aws ", "ok iam-role ", "ok iam-provider ", "ok eks-cluster ", "FAIL trust-policy ", "system:serviceaccount:*:crat")
	asJSON, _ := c.shell("kubectl irsa doctor " + pod + " --aws --json").Output()
	var report doctor.Report
	if err := json.Unmarshal(asJSON, &report); err != nil {
		t.Fatalf("%v in\n%s", err, asJSON)
	}
	for _, f := range report.Findings {
		for _, fix := range f.Fixes {
			if strings.HasPrefix(fix.Text, "aws iam update-assume-role-policy --role-name app ") {
				c.say(t, fix.Text)
				c.diagnose(t, pod+" --aws --eks-cluster prod", "", "ok sts ", "ok trust-policy ", " 0 FAIL")
				return
			}
		}
	}
	t.Errorf("no fix of the trust policy in\n%s", asJSON)
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
	report := c.diagnose(t, "laptop/"+pod.Metadata.Name, "cause: container irsa-sidecar has "+clusterRole+"s,", "RoleDiffers", "it waits for container irsa-sidecar")
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
	c.diagnose(t, "laptop/bare", "cause: no container of the Pod is the sidecar", "SidecarMissing", "system:serviceaccount:laptop:app", clusterIssuer)
	c.say(t, "kubectl annotate -n laptop serviceaccount app eks.amazonaws.com/role-arn- eks.amazonaws.com/rolearn="+clusterRole)
	c.diagnose(t, "laptop/bare", "cause: the service account app has no annotation", "NotAnnotated", `it has "eks.amazonaws.com/rolearn"`)
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
	c.diagnose(t, "laptop/deployment/app", "cause: irsa-sidecar does not run", "SidecarFailing", "CrashLoopBackOff", "exit code 2", "IRSA_SIDECAR_LOG_LEVEL")
}
