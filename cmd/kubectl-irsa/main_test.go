package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

const theirs = "shop/cart-7c9f4d5b6-x2x4z"

// Each row is a fault, and its report is in testdata.
var faults = []struct {
	name   string
	break_ func(*world)
	args   []string // after the Pod's name
	key    string   // of the cause; empty where nothing fails
}{
	{"healthy", func(w *world) {}, nil, ""},
	{"chain", func(w *world) { w.inside, w.insideErr = insideChain, "irsa-sidecar: doctor: cause" }, []string{"--profile", "audit"}, "AccessDenied"},
	{"access-denied", func(w *world) { w.inside, w.insideErr = insideDenied, "irsa-sidecar: doctor: sts: AccessDenied" }, []string{"--context", "prod"}, "AccessDenied"},
	{"not-annotated", func(w *world) {
		w.account.Metadata.Annotations = nil
		w.sidecar().Env = nil
		w.inside, w.insideErr = insideUnset, "irsa-sidecar: doctor: environment: NotAnnotated"
	}, nil, "NotAnnotated"},
	{"annotated-pod", func(w *world) {
		w.account.Metadata.Annotations = nil
		w.pod.Metadata.Annotations = map[string]string{roleAnnotation: roleARN, "iam.amazonaws.com/role": "app"}
		w.sidecar().Env = nil
	}, nil, "NotAnnotated"},
	{"annotation-misspelt", func(w *world) {
		w.account.Metadata.Annotations = map[string]string{"eks.amazonaws.com/rolearn": roleARN}
		w.sidecar().Env = nil
	}, nil, "NotAnnotated"},
	{"default-service-account", func(w *world) {
		w.accounts = []object{w.account}
		w.account.Metadata.Name, w.account.Metadata.Annotations = "default", nil
		w.pod.Spec.ServiceAccountName = ""
		w.sidecar().Env = nil
	}, nil, "NotAnnotated"},
	{"annotated-later", func(w *world) { w.sidecar().Env = nil }, nil, "AnnotatedLater"},
	{"no-webhook", func(w *world) {
		w.webhooks = nil
		w.sidecar().Env = nil
	}, nil, "WebhookMissing"},
	{"webhooks-forbidden", func(w *world) {
		w.forbidden = []string{"mutatingwebhookconfigurations"}
		w.sidecar().Env = nil
	}, nil, "AnnotatedLater"},
	{"role-differs", func(w *world) { w.account.Metadata.Annotations[roleAnnotation] = roleARN + "-2" }, nil, ""},
	{"role-in-manifest", func(w *world) {
		w.account.Metadata.Annotations[roleAnnotation] = roleARN + "-2"
		w.rs.Spec.Template.Spec.InitContainers[0].Env = w.sidecar().Env
	}, nil, ""},
	{"annotation-malformed", func(w *world) { w.account.Metadata.Annotations[roleAnnotation] = "team/app" }, nil, ""},
	{"annotation-with-blanks", func(w *world) {
		w.account.Metadata.Annotations[roleAnnotation] = " " + roleARN + "\n"
		w.sidecar().Env[0].Value = " " + roleARN + "\n"
		w.inside, w.insideErr = insideDenied, "irsa-sidecar: doctor: cause"
	}, nil, "RoleARNMalformed"},
	{"skip-containers", func(w *world) {
		w.pod.Metadata.Annotations = map[string]string{skipAnnotation: "proxy, irsa-sidecar"}
		w.sidecar().Env = nil
	}, nil, "ContainerSkipped"},
	{"half-annotated", func(w *world) { w.sidecar().Env = w.sidecar().Env[1:] }, nil, "HalfAnnotated"},
	{"no-token-volume", func(w *world) { w.pod.Spec.Volumes = nil }, nil, "TokenNotMounted"},
	{"no-service-account", func(w *world) { w.account.Metadata.Name = "other" }, nil, ""},
	{"no-sidecar", func(w *world) {
		w.pod.Spec.InitContainers, w.pod.Status.InitContainerStatuses = nil, nil
		w.space.Metadata.Labels = map[string]string{"irsa-sidecar/inject": "enabled"}
	}, nil, "SidecarMissing"},
	{"no-sidecar-no-webhook", func(w *world) {
		w.pod.Spec.InitContainers, w.pod.Status.InitContainerStatuses, w.pod.Spec.Containers[0].Env = nil, nil, nil
		w.webhooks = nil
	}, nil, "SidecarMissing"},
	{"web-identity-without-sidecar", func(w *world) {
		w.pod.Spec.Containers[0].Env, w.pod.Spec.Containers[0].VolumeMounts = w.sidecar().Env, w.sidecar().VolumeMounts
		w.pod.Spec.InitContainers, w.pod.Status.InitContainerStatuses = nil, nil
	}, nil, "SidecarMissing"},
	{"crashing", func(w *world) {
		w.inside, w.insideErr = "", `error: unable to upgrade connection: container not found ("irsa-sidecar")`
		decode(w.t, `{"name": "irsa-sidecar", "restartCount": 7, "state": {"running": null, "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}},
			"lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": "irsa-sidecar: invalid configuration (1 error):\n  AWS_REGION \"eu-wst-1\" is not a region\n"}}}`, w.status())
		w.status().Ready = false
	}, nil, "SidecarFailing"},
	{"image-missing", func(w *world) {
		w.pod.Status.Phase = "Pending"
		w.inside, w.insideErr = "", `error: unable to upgrade connection: container not found ("irsa-sidecar")`
		decode(w.t, `{"name": "irsa-sidecar", "state": {"running": null, "waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"registry.example/irsa-sidecar:0.1.0\""}}}`, w.status())
		w.status().Ready = false
	}, nil, "SidecarFailing"},
	{"mount-failed", func(w *world) {
		w.pod.Status.Phase = "Pending"
		w.pod.Status.InitContainerStatuses = nil
		w.inside, w.insideErr = "", `Error from server (BadRequest): container irsa-sidecar in pod is waiting to start: PodInitializing`
		w.events = []event{{Reason: "FailedMount", Message: `MountVolume.SetUp failed for volume "aws-iam-token" : failed to fetch token: serviceaccounts "cart" not found`}}
	}, nil, "MountFailed"},
	{"unscheduled", func(w *world) {
		w.pod.Status = podStatus{Phase: "Pending"}
		decode(w.t, `[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu."}]`, &w.pod.Status.Conditions)
		w.forbidden = []string{"events"}
	}, nil, "PodNotRunning"},
	{"host-network", func(w *world) {
		w.pod.Spec.HostNetwork = true
		decode(w.t, `{"name": "irsa-sidecar", "restartCount": 3, "state": {"running": null, "waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
			"lastState": {"terminated": {"exitCode": 2, "message": "irsa-sidecar: this Pod uses the node's network"}}}`, w.status())
	}, nil, "SidecarFailing"},
	{"no-exec", func(w *world) { w.forbidden = []string{"pods/exec"} }, nil, ""},
	{"container-unknown", func(w *world) {}, []string{"--container", "ap"}, "ContainerUnknown"},
	{"app-shadowed", func(w *world) {
		w.insideApp = `{"schema": 2, "findings": [{"check": "keys", "status": "ok", "finding": "no access keys"},
			{"check": "environment", "status": "ok", "finding": "a check that the exchange has, too"},
			{"check": "profile", "status": "fail", "key": "SharedFile", "finding": "/root/.aws/credentials has access keys",
			 "fixes": [{"what": "have clients read an empty file", "kind": "shell", "text": "kubectl set env -n NAMESPACE deployment/DEPLOYMENT -c CONTAINER AWS_SHARED_CREDENTIALS_FILE=/dev/null"}]},
			{"check": "app", "status": "fail", "key": "SharedFile", "finding": "does not get the sidecar's credentials"}]}`
		decode(w.t, `[{"secretRef": {"name": "db"}}]`, &w.pod.Spec.Containers[0].EnvFrom)
	}, []string{"--container", "app"}, "SharedFile"},
	{"app-without-sidecar", func(w *world) {
		w.pod.Spec.InitContainers, w.pod.Status.InitContainerStatuses = nil, nil
	}, []string{"--container", "app"}, "SidecarMissing"},
	{"waits-for-the-sidecar", func(w *world) {
		w.pod.Status.Phase, w.status().Ready = "Pending", false
		w.inside, w.insideErr = insideDenied, "irsa-sidecar: doctor: sts: AccessDenied"
	}, nil, "AccessDenied"},
	{"waits-for-the-app", func(w *world) {
		w.pod.Status.Phase = "Pending"
		decode(w.t, `[{"name": "app", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"registry.example/cart:7\""}}}]`, &w.pod.Status.ContainerStatuses)
	}, nil, ""},
	{"waits-for-another", func(w *world) {
		w.pod.Status.Phase = "Pending"
		w.pod.Status.InitContainerStatuses = append(w.pod.Status.InitContainerStatuses, containerStatus{Name: "migrate"})
		decode(w.t, `{"waiting": {"reason": "CrashLoopBackOff"}}`, &w.pod.Status.InitContainerStatuses[1].State)
		decode(w.t, `[{"name": "app", "state": {"waiting": {"reason": "PodInitializing"}}}]`, &w.pod.Status.ContainerStatuses)
	}, nil, ""},
	{"app-from-elsewhere", func(w *world) {
		w.insideApp = `{"schema": 2, "findings": [{"check": "app", "status": "ok", "finding": "gets the sidecar's credentials"}]}`
		decode(w.t, `[{"configMapRef": {"name": "settings"}}]`, &w.pod.Spec.Containers[0].EnvFrom)
	}, []string{"--container", "app"}, ""},
	{"app-not-asked", func(w *world) { w.insideApp = "hello" }, []string{"--container", "app"}, ""},
	{"windows", func(w *world) {
		w.pod.Spec.OS.Name = ""
		w.node.Metadata.Labels["kubernetes.io/os"] = "windows"
	}, nil, "WindowsNode"},
	{"old-sidecar", func(w *world) {
		w.inside = `{"schema": 1, "version": "v0.1.0", "result": "ok", "findings": [{"check": "sts", "status": "ok", "finding": "exchanged"}]}`
	}, nil, ""},
	{"no-json", func(w *world) { w.inside = "hello" }, nil, ""},
	{"statefulset", func(w *world) {
		w.pod.Metadata.OwnerReferences[0].Kind, w.pod.Metadata.OwnerReferences[0].Name = "StatefulSet", "cart"
		w.inside, w.insideErr = insideRegion, "irsa-sidecar: doctor: environment"
	}, nil, "ConfigurationMistake"},
	{"pod-of-its-own", func(w *world) {
		w.pod.Metadata.OwnerReferences = nil
		w.inside, w.insideErr = insideRegion, "irsa-sidecar: doctor: environment"
	}, nil, "ConfigurationMistake"},
	{"injected-by-policy", func(w *world) {
		w.rs.Spec.Template.Spec.InitContainers = nil
		w.inside, w.insideErr = insideRegion, "irsa-sidecar: doctor: environment"
	}, []string{"--as", "bob"}, "ConfigurationMistake"},
	{"role-changed", func(w *world) {
		w.account.Metadata.Annotations[roleAnnotation] = roleARN + "-2"
		w.inside, w.insideErr = insideDenied, "irsa-sidecar: doctor: sts: AccessDenied"
	}, nil, "RoleDiffers"},
	{"nothing-but-the-pod", func(w *world) {
		w.forbidden = []string{"pods/exec", "replicaset", "serviceaccount", "events", "mutatingwebhookconfigurations", "namespace", "node"}
	}, nil, ""},
	{"completed", func(w *world) {
		w.pod.Status.Phase = "Succeeded"
		w.inside, w.insideErr = "", "error: cannot exec into a container in a completed pod; current phase is Succeeded"
		decode(w.t, `{"name": "irsa-sidecar", "state": {"running": null, "terminated": {"exitCode": 0}}}`, w.status())
	}, nil, ""},
}

func TestFaultsAreNamed(t *testing.T) {
	for _, row := range faults {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			row.break_(w)
			w.wantReport(row.name, row.key, append([]string{theirs}, row.args...)...)
		})
	}
}

func TestOtherPodsAreNamed(t *testing.T) {
	w := newWorld(t)
	newer := *w.pod
	newer.Metadata.Name, newer.Metadata.CreationTimestamp = "cart-555555555-newer", w.pod.Metadata.CreationTimestamp.Add(time.Hour)
	newer.Status = podStatus{Phase: "Pending"}
	gone := newer
	gone.Metadata.Name, gone.Metadata.DeletionTimestamp = "cart-555555555-gone1", &time.Time{}
	w.others = []*pod{&newer, &gone}
	output, err := w.diagnose("shop/deployment/cart", "--json")
	if err != nil || !strings.Contains(output, "shop/cart-7c9f4d5b6-x2x4z of deployment/cart, running") || !strings.Contains(output, "not ready: cart-555555555-newer\"") {
		t.Errorf("%v\n%s", err, output)
	}
	decode(t, `[{"name": "irsa-sidecar", "state": {"running": {}}}]`, &newer.Status.InitContainerStatuses)
	if output, err = w.diagnose("shop/deployment/cart", "--json"); err != nil || !strings.Contains(output, "cart-555555555-newer of deployment/cart has not started: it waits for container irsa-sidecar") {
		t.Errorf("%v\n%s", err, output)
	}
}

// Of a CronJob, it is the newest Job that counts.
func TestCronJobs(t *testing.T) {
	w := newWorld(t)
	if output, err := w.diagnose("shop/cronjob/report"); err == nil || !strings.Contains(err.Error(), "cause: cronjob/report in namespace shop has no Pod") {
		t.Errorf("%v\n%s", err, output)
	}
	decode(t, `[
		{"metadata": {"name": "report-1", "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [{"uid": "c1"}]}, "spec": {"selector": {"matchLabels": {"job": "1"}}}},
		{"metadata": {"name": "report-3", "creationTimestamp": "2026-01-03T00:00:00Z", "ownerReferences": [{"uid": "c1"}]}, "spec": {"selector": {"matchLabels": {"job": "3"},
			"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "Exists"}, {"key": "c", "operator": "DoesNotExist"}, {"key": "d", "operator": "NotIn", "values": ["z"]}]}}},
		{"metadata": {"name": "report-2", "creationTimestamp": "2026-01-02T00:00:00Z", "ownerReferences": [{"uid": "c1"}]}, "spec": {"selector": {"matchLabels": {"job": "2"}}}},
		{"metadata": {"name": "other-9", "creationTimestamp": "2026-01-09T00:00:00Z", "ownerReferences": [{"uid": "c2"}]}, "spec": {"selector": {"matchLabels": {"job": "9"}}}}]`, &w.jobs)
	if output, err := w.diagnose("shop/cj/report"); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	if want := "kubectl --namespace=shop get -o json pods --selector=job=3,a in (x,y),b,!c,d notin (z)"; !slices.Contains(w.calls, want) {
		t.Errorf("want %s in %q", want, w.calls)
	}
}

// Each row is a target that is not there, or has no Pod.
func TestWhatIsNotThereIsNamed(t *testing.T) {
	for _, row := range []struct {
		name   string
		break_ func(*world)
		args   string
	}{
		{"pod-replaced", func(w *world) {}, "shop/cart-7c9f4d5b6-gone1 --context prod"},
		{"pod-of-an-old-replicaset", func(w *world) {}, "shop/cart-555555555-gone1"},
		{"name-of-a-deployment", func(w *world) {}, "shop/cart"},
		{"pod-misspelt", func(w *world) {}, "shop/cart-7c9f4d5b6-x2x4y"},
		{"no-such-pod", func(w *world) {}, "shop/mail"},
		{"empty-namespace", func(w *world) { w.pod = nil }, "shop/mail"},
		{"namespace-misspelt", func(w *world) {}, "shopp/cart"},
		{"kind-misspelt", func(w *world) {}, "deploymnt/cart"},
		{"deployment-misspelt", func(w *world) {}, "shop/deployment/carts"},
		{"scaled-to-zero", func(w *world) { w.pod, w.rs.Spec.Replicas = nil, new(int) }, "shop/deployment/cart"},
		{"pods-refused", func(w *world) {
			w.pod = nil
			decode(w.t, `[{"reason": "FailedCreate", "involvedObject": {"name": "cart-7c9f4d5b6"}, "message": "Error creating: pods \"cart-7c9f4d5b6-\" is forbidden: error looking up service account shop/cart: serviceaccount \"cart\" not found"}]`, &w.events)
		}, "shop/deployment/cart"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			row.break_(w)
			w.wantReport(row.name, string(podMissing), strings.Fields(row.args)...)
		})
	}
}

// A fault that has no report: kubectl itself fails.
func TestKubectlFails(t *testing.T) {
	for _, row := range []struct{ says, want string }{
		{"error: You must be logged in to the server (Unauthorized)", "error: You must be logged in to the server (Unauthorized)"},
		{"E1129 10:38:18.655046   18317 memcache.go:381] \"Couldn't get\"\nThe connection to the server localhost:8080 was refused - did you specify the right host or port?",
			"The connection to the server localhost:8080 was refused - did you specify the right host or port?"},
		{"error: current-context must exist in order to minify", "error: current-context must exist in order to minify"},
		{"Error in configuration: context was not found for specified context: prdo", `Error in configuration: context was not found for specified context: prdo; did you mean "prod"?`},
		{"Error in configuration: context was not found for specified context: x", "Error in configuration: context was not found for specified context: x; the contexts are prod, stage"},
	} {
		w := newWorld(t)
		w.failure = row.says
		if output, err := w.diagnose(theirs); err == nil || err.Error() != row.want || output != "" || exitCode(err) != 1 {
			t.Errorf("%q: %v, and printed %q", row.says, err, output)
		}
	}
}

func TestThePolicyGoesToTheSidecar(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.inside = `{"schema": 2, "findings": [{"check": "trust-policy", "status": "fail", "key": "PolicySubject", "finding": "the policy, line 7: wrong"}]}`
	output, err := w.diagnose(theirs, "--trust-policy", file)
	if err == nil || w.stdin != "{}" || !strings.Contains(output, file+", line 7: wrong") {
		t.Errorf("%v, the sidecar got %q, and it printed\n%s", err, w.stdin, output)
	}
	if _, err := w.diagnose(theirs, "--trust-policy", file+"x"); exitCode(err) != 2 {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestAKindIsTakenForANamespace(t *testing.T) {
	for name, want := range map[string]string{
		"svc/cart":     "cause: there is no namespace svc; if svc is meant as a kind: name a Pod, or what makes Pods, such as deployment/NAME",
		"nowhere/cart": "cause: there is no namespace nowhere",
	} {
		if output, err := newWorld(t).diagnose(name); err == nil || err.Error() != want {
			t.Errorf("%s: %v\n%s", name, err, output)
		}
	}
}

// kubectl before 1.21 lacks a flag, and shows what it is for.
func TestAnOldKubectl(t *testing.T) {
	w := newWorld(t)
	var stdout bytes.Buffer
	err := run(t.Context(), []string{"doctor", theirs}, surroundings{stdout: &stdout, run: func(ctx context.Context, stdin io.Reader, program string, args ...string) ([]byte, error) {
		if slices.Contains(args, "--show-managed-fields") {
			return nil, &runError{program: program, stderr: "Error: unknown flag: --show-managed-fields\nSee 'kubectl get --help' for usage.\n", err: errors.New("exit status 1")}
		}
		return w.run(ctx, stdin, program, args...)
	}})
	if err != nil || strings.Contains(stdout.String(), "NotVisible") || !strings.Contains(stdout.String(), "cart is annotated with "+roleARN) {
		t.Errorf("%v\n%s", err, stdout.String())
	}
}

// What is not the JSON of a Pod is no Pod with empty names.
func TestKubectlPrintsSomethingElse(t *testing.T) {
	for printed, want := range map[string]string{
		"":             "not the JSON of Kubernetes",
		"hello":        "not the JSON of Kubernetes",
		"[]":           "not the JSON of Kubernetes",
		"null":         "it printed JSON that is no Pod",
		"{}":           "it printed JSON that is no Pod",
		`{"items":[]}`: "it printed JSON that is no Pod",
	} {
		var stdout bytes.Buffer
		err := run(t.Context(), []string{"doctor", theirs}, surroundings{stdout: &stdout, run: func(context.Context, io.Reader, string, ...string) ([]byte, error) {
			return []byte(printed), nil
		}})
		if exitCode(err) != 1 || !strings.Contains(err.Error(), want) || stdout.Len() > 0 {
			t.Errorf("%q: %v\n%s", printed, err, stdout.String())
		}
	}
}

// Whose identity it is, is in the report, whether the token was read or not.
func TestTheIdentityIsInTheReport(t *testing.T) {
	const subject = "system:serviceaccount:shop:cart"
	for _, row := range []struct {
		forbidden []string
		want      doctor.Identity
	}{
		{nil, doctor.Identity{Role: "the role", Issuer: "the issuer", Audience: []string{"the audience"}, Subject: subject}},
		{[]string{"pods/exec"}, doctor.Identity{Role: roleARN, Issuer: issuerURL, Audience: []string{defaultAudience}, Subject: subject}},
	} {
		w := newWorld(t)
		w.forbidden = row.forbidden
		w.inside = `{"schema": 2, "identity": {"role": "the\u001brole", "issuer": "the\u001bissuer", "audience": ["the\u001baudience"], "subject": "` + subject + `"},
			"findings": [{"check": "sts", "status": "ok", "finding": "x"}]}`
		output, _ := w.diagnose(theirs, "--json")
		var report doctor.Report
		decode(t, output, &report)
		if report.Identity == nil || !reflect.DeepEqual(*report.Identity, row.want) {
			t.Errorf("%+v, want %+v", report.Identity, row.want)
		}
	}
}

// A person who is called at night sees all of it at once. The report of the doctor in the Pod is a real one.
func TestAPlainAccessDeniedFitsAScreen(t *testing.T) {
	w := newWorld(t)
	raw, err := os.ReadFile("testdata/access-denied.json")
	if err != nil {
		t.Fatal(err)
	}
	w.inside, w.insideErr = string(raw), "irsa-sidecar: doctor: cause"
	w.pod.Status.Phase, w.status().Ready = "Pending", false
	output, err := w.diagnose(theirs, "--context", "prod")
	if lines := strings.Count(output, "\n") + 1; err == nil || lines > 40 { // with the last line, on stderr
		t.Errorf("%d lines, %v\n%s", lines, err, output)
	}
	if n := strings.Count(output, "kubectl irsa doctor --context=prod "+theirs+" --aws\n"); n != 1 || strings.Count(output, "--aws") != 1 {
		t.Errorf("it proposes %d times to ask AWS:\n%s", n, output)
	}
	if !strings.HasPrefix(output, "kubectl irsa doctor dev\n\ncause: ") {
		t.Errorf("it begins with\n%s", output)
	}
}

func TestVersion(t *testing.T) {
	for _, row := range []struct{ linked, module, want string }{
		{"v1.2.3", "v1.2.4", "v1.2.3"}, {"dev", "v1.2.4", "v1.2.4"}, {"dev", "(devel)", "dev"}, {"dev", "", "dev"},
	} {
		if got := versionOf(row.linked, &debug.BuildInfo{Main: debug.Module{Version: row.module}}); got != row.want {
			t.Errorf("%q of %q: %s, want %s", row.linked, row.module, got, row.want)
		}
	}
	if got := versionOf("dev", nil); got != "dev" {
		t.Error(got)
	}
}

func TestTheReportIsPrinted(t *testing.T) {
	w := newWorld(t)
	w.inside, w.insideErr = insideDenied, "irsa-sidecar: doctor: sts: AccessDenied"
	output, err := w.diagnose(theirs)
	if exitCode(err) != 1 || !strings.Contains(output, "AccessDenied") || !strings.Contains(output, "\n        kubectl rollout restart -n shop deployment/cart\n") {
		t.Errorf("%v\n%s", err, output)
	}
}

// What is in a policy stays as it is, even if it looks like a placeholder.
func TestNothingIsFilledIntoAPolicy(t *testing.T) {
	raw, err := os.ReadFile("testdata/wrong-subject.json")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(raw), `"Effect"`, `"Sid": "POD", "Effect"`, 1)
	file := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.forbidden = []string{"pods/exec"}
	output, err := w.diagnose(theirs, "--trust-policy", file)
	if err == nil || !strings.Contains(output, "update-assume-role-policy") || !strings.Contains(output, `"Sid": "POD"`) {
		t.Errorf("%v\n%s", err, output)
	}
}

// One command is proposed once, even if the doctor in the Pod and the placeholders spelt it differently.
func TestTheSameFixIsPrintedOnce(t *testing.T) {
	w := newWorld(t)
	w.inside, w.insideErr = insideRegion, "irsa-sidecar: doctor: environment"
	output, _ := w.diagnose(theirs)
	if n := strings.Count(output, "kubectl irsa doctor "+theirs+" --aws\n"); n != 1 {
		t.Errorf("%d times in\n%s", n, output)
	}
	report := &doctor.Report{Findings: []doctor.Finding{{Fixes: []doctor.Fix{{What: "read"}, {What: "wait"}, {What: "a", Kind: "shell", Text: "x"}, {What: "b", Kind: "shell", Text: "x"}}}}}
	fill(report, &outside{observed: &observed{}}, nil)
	if got := report.Findings[0].Fixes; len(got) != 3 {
		t.Errorf("%+v", got)
	}
}

func TestThePolicyIsCheckedFromOutside(t *testing.T) {
	w := newWorld(t)
	w.forbidden = []string{"pods/exec"}
	output, err := w.diagnose(theirs, "--trust-policy", "testdata/wrong-subject.json")
	if err == nil || !strings.Contains(output, "PolicySubject") || !strings.Contains(output, "aws iam update-assume-role-policy --role-name app") {
		t.Errorf("%v\n%s", err, output)
	}
	raw, readErr := os.ReadFile("testdata/wrong-subject.json")
	if readErr != nil {
		t.Fatal(readErr)
	}
	right := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(right, bytes.ReplaceAll(raw, []byte("crat"), []byte("cart")), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err = w.diagnose(theirs, "--trust-policy", right); err == nil || strings.Contains(output, "FAIL  trust-policy") {
		t.Errorf("a right policy: %v\n%s", err, output)
	}
}

// The profile is for the doctor in the sidecar, and --aws is about the first role of its chain.
func TestAProfileIsExaminedInTheSidecar(t *testing.T) {
	w := newWorld(t)
	w.inside = insideChain
	if _, err := w.diagnose(theirs, "--profile", "audit"); err == nil {
		t.Error("nothing has failed")
	}
	if !slices.ContainsFunc(w.calls, func(call string) bool {
		return strings.HasSuffix(call, "-- /irsa-sidecar doctor --json --profile audit")
	}) {
		t.Errorf("kubectl was called with %q", w.calls)
	}
	hops := []doctor.Role{{Profile: "default", Role: roleARN}, {Profile: "hub", Role: "arn:aws:iam::444455556666:role/hub"}, {Profile: "audit", Role: "arn:aws:iam::777788889999:role/audit"}}
	for _, row := range []struct {
		aws  bool
		hops []doctor.Role
		want int
	}{{true, hops, 1}, {true, hops[:1], 0}, {true, nil, 0}, {false, hops, 0}} {
		o := &outside{question: question{aws: row.aws}}
		o.limitAWS(row.hops)
		if len(o.findings) != row.want || row.want == 1 && !strings.Contains(o.findings[0].Finding, "--aws is about "+roleARN+", not about the roles that are assumed after it, of profile hub, audit: ") {
			t.Errorf("--aws %v, %d hops: %+v", row.aws, len(row.hops), o.findings)
		}
	}
}

// The app's environment goes to the sidecar, but for what AWS clients do not read and for secrets.
func TestTheAppsEnvironmentGoesToTheSidecar(t *testing.T) {
	w := newWorld(t)
	w.insideApp = `{"schema": 2, "findings": [{"check": "app", "status": "ok", "finding": "gets them"}]}`
	w.pod.Status.HostIP = "10.0.1.2"
	c := &w.pod.Spec.Containers[0]
	c.Env = nil
	decode(t, `[
		{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
		{"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": "http://$(NODE):9911/v1/credentials?$$(NODE)=$(OTHER)"},
		{"name": "AWS_CONTAINER_AUTHORIZATION_TOKEN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
		{"name": "AWS_SECRET_ACCESS_KEY", "value": "example"},
		{"name": "AWS_PROFILE", "value": "one"},
		{"name": "AWS_PROFILE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
		{"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
		{"name": "AWS_REGION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['region']"}}},
		{"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": ""},
		{"name": "https_proxy", "value": "http://proxy:3128"},
		{"name": "DB_PASSWORD", "value": "correct horse"}]`, &c.Env)
	decode(t, `[{"name": "s", "mountPath": "/root/.aws"}, {"name": "c", "mountPath": "/root/.aws/config", "subPath": "config"}, {"name": "aws-iam-token", "mountPath": "/token/"}]`, &c.VolumeMounts)
	var secret volume
	decode(t, `{"name": "s", "secret": {"items": [{"path": "credentials"}]}}`, &secret)
	w.pod.Spec.Volumes = append(w.pod.Spec.Volumes, secret)
	if _, err := w.diagnose(theirs, "-c", "app"); err != nil {
		t.Fatal(err)
	}
	const want = `{"env":{"AWS_CONTAINER_AUTHORIZATION_TOKEN":"u1","AWS_CONTAINER_CREDENTIALS_FULL_URI":"http://10.0.1.2:9911/v1/credentials?$(NODE)=$(OTHER)",` +
		`"AWS_WEB_IDENTITY_TOKEN_FILE":"","https_proxy":"http://proxy:3128"},` +
		`"hidden":["AWS_SECRET_ACCESS_KEY","AWS_PROFILE","AWS_ACCESS_KEY_ID","AWS_REGION"],"files":["/root/.aws/credentials","/root/.aws/config","/token/token"]}`
	if w.stdin != want {
		t.Errorf("the sidecar got\n%s\nwant\n%s", w.stdin, want)
	}
}

func TestEveryKubectlGetsTheFlags(t *testing.T) {
	w := newWorld(t)
	if _, err := w.diagnose("deployment/cart", "-nshop", "--context=prod", "--kubeconfig", "/k", "--as", "bob"); err != nil {
		t.Fatal(err)
	}
	if len(w.calls) < 8 {
		t.Errorf("only %q", w.calls)
	}
	for _, call := range w.calls {
		if !strings.HasPrefix(call, "kubectl --namespace=shop --context=prod --kubeconfig=/k --as=bob ") {
			t.Errorf("ran %s", call)
		}
	}
}

// What others write is shown without what steers a terminal, and is not part of a command.
func TestNamesOfOthersAreHarmless(t *testing.T) {
	w := newWorld(t)
	w.pod.Metadata.OwnerReferences[0].Name = "x; echo $HOME"
	w.forbidden = []string{"replicaset"}
	w.account.Metadata.Annotations[roleAnnotation] = roleARN + "\x1b[2J"
	w.config.CurrentContext, w.config.Clusters[0].Name = "prod\x1b]0;", "arn:aws:eks:eu-west-1:111122223333:cluster/$(id)"
	w.inside = `{"schema": 2, "findings": [{"check": "a\u001b[1m", "status": "fail", "key": "K\u0007", "finding": "\u001b[2J eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", "advice": "\u202e", "summary": "\u001b",
		"fixes": [{"what": "\u001b]0;x", "kind": "shell", "text": "kubectl rollout restart -n NAMESPACE deployment/DEPLOYMENT\naws eks list --name CLUSTER \u001b[2J"}]}]}`
	output, err := w.diagnose(theirs, "--context", "a\x1bb")
	if err == nil || strings.ContainsAny(output+err.Error(), "\x1b\x07\u202e") || strings.Contains(output, "eyJ") || strings.Contains(output, "echo $HOME") {
		t.Errorf("%v\n%q", err, output)
	}
	if !strings.Contains(output, "delete pod -n shop cart-7c9f4d5b6-x2x4z\n        aws eks list --name '$(id)' ") {
		t.Errorf("the lines of a fix, and its words:\n%s", output)
	}
	w = newWorld(t)
	w.inside = strings.Repeat(" ", maxReport) + insideOK
	if output, err = w.diagnose(theirs); err == nil || !strings.Contains(err.Error(), "1024 KB") {
		t.Errorf("a report without an end: %v\n%s", err, output)
	}
}

// Whatever hangs, there is an answer within a minute, and what is known is printed.
func TestItEndsWithinAMinute(t *testing.T) {
	for _, row := range []struct{ hangs, want, printed string }{
		{"exec", "the doctor did not run in the Pod: kubectl did not end in time", "ok    service-account"},
		{"get -o json serviceaccount", "", "service account cart cannot be seen"},
		{"get -o json pod ", "is it reachable from here?", ""},
		{"get", "is it reachable from here?", ""},
		{"", "is it reachable from here?", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			begun := time.Now()
			var stdout bytes.Buffer
			err := run(t.Context(), []string{"doctor", theirs}, surroundings{stdout: &stdout, run: func(ctx context.Context, stdin io.Reader, program string, args ...string) ([]byte, error) {
				if strings.Contains(strings.Join(args, " "), row.hangs) {
					<-ctx.Done()
					return nil, &runError{program: program, err: ctx.Err()}
				}
				return w.run(ctx, stdin, program, args...)
			}})
			printed := strings.Join(strings.Fields(stdout.String()), " ")
			if took := time.Since(begun); took > limit || !strings.Contains(printed, strings.Join(strings.Fields(row.printed), " ")) {
				t.Errorf("%q hangs: %s\n%s", row.hangs, took, stdout.String())
			}
			if (err != nil) != (row.want != "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("%q hangs: %v", row.hangs, err)
			}
		})
	}
}

func TestAPolicyThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stdin, open := io.Pipe()
		defer open.Close()
		begun := time.Now()
		err := run(t.Context(), []string{"doctor", theirs, "--trust-policy", "-"}, surroundings{stdin: stdin, stdout: io.Discard, run: newWorld(t).run})
		if took := time.Since(begun); took != policyLimit || err == nil || err.Error() != "--trust-policy -: not read within 15s before it ended" {
			t.Errorf("%s, %v", took, err)
		}
	})
}

func TestCommandLine(t *testing.T) {
	for _, row := range []struct {
		args string
		want question
	}{
		{"doctor cart", question{kind: "pod", name: "cart"}},
		{"doctor shop/cart", question{namespace: "shop", kind: "pod", name: "cart"}},
		{"doctor -n shop cart", question{namespace: "shop", kind: "pod", name: "cart"}},
		{"doctor --namespace=shop pod/cart", question{namespace: "shop", kind: "pod", name: "cart"}},
		{"doctor deploy/cart -nshop", question{namespace: "shop", kind: "deployment", name: "cart"}},
		{"doctor deployment.apps/cart", question{kind: "deployment", name: "cart"}},
		{"doctor deployment cart", question{kind: "deployment", name: "cart"}},
		{"doctor rollouts/cart", question{kind: "rollout", name: "cart"}},
		{"doctor shop/statefulset/cart", question{namespace: "shop", kind: "statefulset", name: "cart"}},
		{"doctor cart -c app --json", question{kind: "pod", name: "cart", container: "app", json: true}},
		{"doctor cart --trust-policy -", question{kind: "pod", name: "cart", policyFile: "-"}},
		{"doctor --profile audit cart", question{kind: "pod", name: "cart", profile: "audit"}},
		{"doctor --context prod cart", question{kind: "pod", name: "cart", kubectl: []string{"--context=prod"}}},
	} {
		row.want.command = "doctor"
		got, err := parse(strings.Fields(row.args))
		if err != nil || !slices.Equal(got.kubectl, row.want.kubectl) {
			t.Errorf("%s: %v, %+v", row.args, err, got)
			continue
		}
		got.kubectl, row.want.kubectl = nil, nil
		if got.namespace != row.want.namespace || got.kind != row.want.kind || got.name != row.want.name || got.container != row.want.container ||
			got.policyFile != row.want.policyFile || got.json != row.want.json {
			t.Errorf("%s: %+v", row.args, got)
		}
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	for args, want := range map[string]string{
		"":                                   "missing command",
		"doctr":                              `unknown command "doctr"; did you mean "doctor"?`,
		"doctor":                             "missing name of a Pod",
		"doctor a b":                         `unexpected argument "b"`,
		"doctor a/b/c/d":                     "too many slashes",
		"doctor a/b/c":                       `"b" is no kind that has Pods; the kinds are pod, deployment,`,
		"doctor /cart":                       `"/cart" has no namespace before the slash`,
		"doctor svc/cart -n shop":            "svc/cart and --namespace shop name two namespaces; if svc is meant as a kind: name a Pod",
		"doctor a/deploymnt/c":               `did you mean "deployment"?`,
		"doctor UPPER":                       `"UPPER" is not the name of a Pod`,
		"doctor shop/cart -n stage":          "two namespaces",
		"doctor cart -n":                     "-n needs a value",
		"doctor cart --profile a/b":          `--profile "a/b" is not the name of a profile`,
		"doctor cart --profile=-x":           `--profile "-x" is not the name of a profile`,
		"doctor cart --context":              "--context needs a value",
		"doctor cart --context --json":       "--context needs a value",
		"doctor cart --context=":             "--context needs a value",
		"doctor cart --containr app":         "unknown flag --containr; did you mean --container?",
		"doctor cart --trustpolicy x":        "unknown flag --trustpolicy; did you mean --trust-policy?",
		"doctor cart --json=maybe":           "--json takes no value",
		"doctor cart --container a/b":        "is not the name of a container",
		"doctor cart --AKIA0123456789ABCDEF": "unknown flag --AKIA****CDEF",
	} {
		_, err := parse(strings.Fields(args))
		if err == nil || !strings.Contains(err.Error(), want) || exitCode(err) != 2 {
			t.Errorf("%q: %v, exit code %d, want %s", args, err, exitCode(err), want)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	for line := range strings.Lines(help) {
		if len(line) > 81 {
			t.Errorf("%d characters: %s", len(line)-1, line)
		}
	}
	for _, o := range options {
		if !strings.Contains(help, "--"+o.name) && o.name != "help" {
			t.Errorf("help lacks --%s", o.name)
		}
	}
}

// A real process ends with its context, and its words on stderr are in the error.
func TestPrograms(t *testing.T) {
	output, err := execute(t.Context(), strings.NewReader("in"), "/bin/sh", "-c", "cat; echo; echo a >&2; echo b >&2; exit 3")
	if failed, ok := errors.AsType[*runError](err); !ok || string(output) != "in\n" || failed.Error() != "a b" {
		t.Errorf("%q, %v", output, err)
	}
	if _, err := execute(t.Context(), nil, "no-such-program"); err == nil || err.Error() != "no-such-program is not on the PATH" {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := execute(ctx, nil, "/bin/sh", "-c", "exec sleep 100"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := execute(ctx, io.LimitReader(nil, 0), "/bin/sh", "-c", "exec sleep 100"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
