package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	roleARN   = "arn:aws:iam::111122223333:role/team/app"
	issuerURL = "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	tokenDir  = "/var/run/secrets/eks.amazonaws.com/serviceaccount"
)

// world is a cluster with one Pod that is healthy, and a user who may read all of it.
type world struct {
	t        *testing.T
	pod      *pod // nil: it is gone
	others   []*pod
	jobs     []workload
	rs       workload
	account  object
	accounts []object
	events   []event
	webhooks []webhookConfiguration
	space    object
	node     object
	config   kubeconfig
	issuer   string

	forbidden []string // kinds that the user may not read; pods/exec
	failure   string   // what kubectl says to everything
	inside    string   // what the doctor in the Pod prints
	insideErr string   // and on stderr, with exit code 1
	insideApp string   // what it prints with --app

	mu    sync.Mutex // kubectl runs several times at once
	calls []string
	stdin string // what the last exec got
}

func newWorld(t *testing.T) *world {
	made := time.Now().Add(-3*time.Hour - 5*time.Minute).Truncate(time.Second)
	w := &world{t: t, issuer: issuerURL}
	variables := []environment{{Name: roleVariable, Value: roleARN}, {Name: tokenVariable, Value: tokenDir + "/token"}}
	decode(t, `{
  "metadata": {"name": "cart-7c9f4d5b6-x2x4z", "namespace": "shop", "uid": "u1", "labels": {"app": "cart", "pod-template-hash": "7c9f4d5b6"},
    "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-7c9f4d5b6", "uid": "u2", "controller": true}]},
  "spec": {
    "serviceAccountName": "cart", "nodeName": "ip-10-0-1-2", "os": {"name": "linux"},
    "initContainers": [{"name": "irsa-sidecar", "image": "registry.example/irsa-sidecar:0.1.0", "restartPolicy": "Always",
      "volumeMounts": [{"name": "aws-iam-token", "mountPath": "/var/run/secrets/eks.amazonaws.com/serviceaccount"}]}],
    "containers": [{"name": "app", "image": "registry.example/cart:7", "env": [
      {"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": "http://127.0.0.1:9911/v1/credentials"},
      {"name": "AWS_CONTAINER_AUTHORIZATION_TOKEN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
      {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": ""}]}],
    "volumes": [{"name": "aws-iam-token", "projected": {"sources": [{"serviceAccountToken": {"audience": "sts.amazonaws.com", "path": "token"}}]}}]},
  "status": {"phase": "Running",
    "initContainerStatuses": [{"name": "irsa-sidecar", "ready": true, "state": {"running": {}}}],
    "containerStatuses": [{"name": "app", "ready": true, "state": {"running": {}}}]}}`, &w.pod)
	w.pod.Metadata.CreationTimestamp = made
	w.pod.Spec.InitContainers[0].Env = variables
	decode(t, `{"metadata": {"name": "cart-7c9f4d5b6", "namespace": "shop", "uid": "u2", "ownerReferences": [{"kind": "Deployment", "name": "cart", "controller": true}]},
  "spec": {"selector": {"matchLabels": {"app": "cart"}}}}`, &w.rs)
	decode(t, `{"metadata": {"name": "cart", "namespace": "shop", "annotations": {"eks.amazonaws.com/role-arn": "`+roleARN+`"}}}`, &w.account)
	w.rs.Spec.Template.Spec = w.pod.Spec
	w.rs.Spec.Template.Spec.InitContainers = slices.Clone(w.pod.Spec.InitContainers)
	w.rs.Spec.Template.Spec.InitContainers[0].Env = nil // the webhook adds them to the Pod
	decode(t, `[{"metadata": {"name": "pod-identity-webhook"}, "webhooks": [{"name": "iam-for-pods.amazonaws.com"}]}]`, &w.webhooks)
	decode(t, `{"metadata": {"name": "shop"}}`, &w.space)
	decode(t, `{"metadata": {"name": "ip-10-0-1-2", "labels": {"kubernetes.io/os": "linux"}}}`, &w.node)
	decode(t, `{"current-context": "prod", "clusters": [{"name": "arn:aws:eks:eu-west-1:111122223333:cluster/prod-1", "cluster": {"server": "https://EXAMPLE.gr7.eu-west-1.eks.amazonaws.com"}}]}`, &w.config)
	w.inside = insideOK
	return w
}

// insideOK and insideDenied are what the doctor in the sidecar prints.
const (
	insideOK = `{"schema": 2, "version": "v0.0.0", "result": "ok", "findings": [
  {"check": "environment", "status": "ok", "finding": "AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE are set"},
  {"check": "sts", "status": "ok", "finding": "exchanged"}]}`
	insideDenied = `{"schema": 2, "version": "v0.0.0", "result": "fail", "findings": [
  {"check": "environment", "status": "ok", "finding": "AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE are set"},
  {"check": "sts", "status": "fail", "key": "AccessDenied", "finding": "STS refused (AccessDenied, HTTP 403): Not authorized to perform sts:AssumeRoleWithWebIdentity",
   "fixes": [{"what": "let eksctl create the role again", "kind": "shell", "text": "eksctl create iamserviceaccount --cluster CLUSTER --namespace shop --name cart"},
             {"what": "restart the Pods", "kind": "shell", "text": "kubectl rollout restart -n NAMESPACE deployment/DEPLOYMENT"}]}]}`
)

// insideChain is what it prints with --profile, if the second of three roles is refused.
const insideChain = `{"schema": 2, "version": "v0.0.0", "profile": "audit", "result": "fail",
  "hops": [{"profile": "default", "role": "arn:aws:iam::111122223333:role/team/app"}, {"profile": "hub", "role": "arn:aws:iam::444455556666:role/hub"},
           {"profile": "audit", "role": "arn:aws:iam::777788889999:role/audit"}], "findings": [
  {"check": "environment", "status": "ok", "finding": "AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE are set"},
  {"check": "sts", "hop": "default", "status": "ok", "finding": "the exchange works"},
  {"check": "assume-role", "hop": "hub", "status": "fail", "key": "AccessDenied", "finding": "STS refused (AccessDenied, HTTP 403)", "summary": "arn:aws:iam::111122223333:role/team/app may not assume arn:aws:iam::444455556666:role/hub (AccessDenied)",
   "fixes": [{"what": "the trust policy of the target must have this; keep its other statements", "kind": "json", "text": "{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": []\n}"}]}]}`

// insideUnset and insideRegion are about the sidecar's environment.
const (
	insideUnset = `{"schema": 2, "version": "v0.0.0", "result": "fail", "findings": [
  {"check": "environment", "status": "fail", "key": "NotAnnotated", "finding": "neither AWS_ROLE_ARN nor AWS_WEB_IDENTITY_TOKEN_FILE is set",
   "fixes": [{"what": "annotate the service account", "kind": "shell", "text": "kubectl annotate"}]}]}`
	insideNoFile = `{"schema": 2, "version": "v0.0.0", "result": "fail", "findings": [
  {"check": "token-file", "status": "fail", "key": "TokenFileMissing", "finding": "the token file does not exist"}]}`
	insideRegion = `{"schema": 2, "version": "v0.0.0", "result": "fail", "findings": [
  {"check": "environment", "status": "fail", "key": "ConfigurationMistake", "finding": "AWS_REGION \"eu-wst-1\" is not a region",
   "fixes": [{"what": "use STS in the cluster's region", "kind": "shell", "text": "kubectl set env -n shop deployment/DEPLOYMENT -c irsa-sidecar AWS_REGION=eu-west-1"},
             {"what": "for the app, too", "kind": "shell", "text": "kubectl set env -n shop deployment/DEPLOYMENT -c CONTAINER AWS_REGION=eu-west-1"},
             {"what": "then", "kind": "shell", "text": "kubectl rollout restart -n shop deployment/DEPLOYMENT"},
             {"what": "look", "kind": "shell", "text": "aws iam get-role --role-name app | kubectl exec -i -n shop POD -c irsa-sidecar -- /irsa-sidecar doctor --trust-policy -"},
             {"what": "or let the plugin ask", "kind": "shell", "text": "kubectl irsa doctor NAMESPACE/POD --aws"}]}]}`
)

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

// run is the runner: a kubectl that knows this world.
func (w *world) run(ctx context.Context, stdin io.Reader, program string, args ...string) ([]byte, error) {
	fail := func(text string) ([]byte, error) {
		return nil, &runError{program: program, stderr: text + "\n", err: errors.New("exit status 1")}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, program+" "+strings.Join(args, " "))
	if program != "kubectl" {
		return nil, &runError{program: program, err: errors.New("no such program in this world")}
	}
	if slices.Contains(args, "get-contexts") {
		return []byte("prod\nstage\n"), nil
	}
	if w.failure != "" {
		return fail(w.failure)
	}
	var words []string
	for i, arg := range args {
		if arg == "--" {
			words = append(words, args[i:]...)
			break
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" || arg == "--raw" {
			words = append(words, arg)
		}
	}
	switch {
	case slices.Equal(words[:1], []string{"exec"}):
		return w.exec(stdin, slices.Contains(words, "--app"), fail)
	case slices.Equal(words, []string{"config", "view", "json"}):
		return encode(w.config)
	case slices.Equal(words[:2], []string{"get", "--raw"}):
		return encode(map[string]string{"issuer": w.issuer})
	}
	return w.get(words[2], strings.Join(words[3:], " "), slices.Contains(args, "name"), fail)
}

// get is `kubectl get`, of names alone or as JSON.
func (w *world) get(kind, name string, names bool, fail func(string) ([]byte, error)) ([]byte, error) {
	if slices.Contains(w.forbidden, kind) {
		return fail(`Error from server (Forbidden): ` + kind + ` "` + name + `" is forbidden: User "bob" cannot get resource "` + kind + `"`)
	}
	notFound := func() ([]byte, error) {
		return fail(`Error from server (NotFound): ` + kind + ` "` + name + `" not found`)
	}
	if names {
		return []byte(w.names(kind)), nil
	}
	switch kind {
	case "pod":
		if w.pod == nil || name != w.pod.Metadata.Name {
			return notFound()
		}
		return encode(w.pod)
	case "pods":
		var pods list[*pod]
		if w.pod != nil {
			pods.Items = append(w.others, w.pod)
		}
		return encode(pods)
	case "replicaset":
		return encode(w.rs)
	case "deployment", "statefulset":
		if name != "cart" {
			return notFound()
		}
		deployment := w.rs
		deployment.Metadata.Name, deployment.Metadata.OwnerReferences = "cart", nil
		return encode(deployment)
	case "cronjob":
		return encode(workload{Metadata: metadata{Name: name, Namespace: "shop", UID: "c1"}})
	case "jobs":
		return encode(list[workload]{w.jobs})
	case "serviceaccount":
		if name != w.account.Metadata.Name {
			return notFound()
		}
		return encode(w.account)
	case "serviceaccounts":
		return encode(list[object]{append(w.accounts, w.account)})
	case "events":
		return encode(list[event]{w.events})
	case "mutatingwebhookconfigurations":
		return encode(list[webhookConfiguration]{w.webhooks})
	case "namespace":
		if name != "shop" {
			return notFound()
		}
		return encode(w.space)
	case "node":
		return encode(w.node)
	}
	w.t.Errorf("kubectl get %s %s is not known in this world", kind, name)
	return fail("error: unknown")
}

func (w *world) exec(stdin io.Reader, app bool, fail func(string) ([]byte, error)) ([]byte, error) {
	if slices.Contains(w.forbidden, "pods/exec") {
		return fail(`error: unable to upgrade connection: pods "` + w.pod.Metadata.Name + `" is forbidden: User "bob" cannot create resource "pods/exec" in API group "" in the namespace "shop"`)
	}
	if stdin != nil {
		raw, err := io.ReadAll(stdin)
		if err != nil {
			return nil, err
		}
		w.stdin = string(raw)
	}
	if app {
		_, err := fail("irsa-sidecar: doctor: app")
		return []byte(w.insideApp), err
	}
	switch c := w.pod.Spec.container("irsa-sidecar"); {
	case w.inside != insideOK:
	case c.variable(roleVariable) == nil:
		w.inside, w.insideErr = insideUnset, "irsa-sidecar: doctor: cause"
	case w.pod.Spec.Volumes == nil:
		w.inside, w.insideErr = insideNoFile, "irsa-sidecar: doctor: cause"
	}
	if w.insideErr != "" {
		_, err := fail(w.insideErr)
		return []byte(w.inside), err
	}
	return []byte(w.inside), nil
}

// names are what `get -o name` prints.
func (w *world) names(kind string) string {
	switch {
	case kind == "namespace":
		return "namespace/shop\nnamespace/kube-system\n"
	case kind == "deployment":
		return "deployment.apps/cart\n"
	case w.pod == nil:
		return ""
	}
	return "pod/" + w.pod.Metadata.Name + "\npod/web-5d9f8b-abcde\n"
}

func encode(v any) ([]byte, error) { return json.Marshal(v) }

// sidecar and app are the Pod's containers.
func (w *world) sidecar() *container { return &w.pod.Spec.InitContainers[0] }

func (w *world) status() *containerStatus { return &w.pod.Status.InitContainerStatuses[0] }

// diagnose runs the program, and returns what it prints, with its last line on stderr at the end.
func (w *world) diagnose(args ...string) (output string, err error) {
	w.t.Helper()
	var stdout bytes.Buffer
	err = run(w.t.Context(), append([]string{"doctor"}, args...), surroundings{stdin: strings.NewReader(""), stdout: &stdout, run: w.run})
	return stdout.String(), err
}

// wantReport compares the report with testdata/name.txt, and its cause with the key.
func (w *world) wantReport(name, key string, args ...string) {
	w.t.Helper()
	output, err := w.diagnose(append(args, "--json")...)
	last := ""
	if err != nil {
		last = err.Error()
	}
	var report doctor.Report
	decode(w.t, output, &report)
	got := ""
	if report.Cause != nil {
		got = report.Cause.Key
		if last != "cause: "+report.Cause.Text {
			w.t.Errorf("the last line is %q, and the cause %q", last, report.Cause.Text)
		}
	}
	if got != key {
		w.t.Errorf("the cause is %q, want %q", got, key)
	}
	wantGolden(w.t, name, plain(w.t, output)+"---\n"+last+"\n")
}

// plain is a report in a form of its own, so that it changes only with what it says. What the doctor proposes for a policy
// is its own business.
func plain(t *testing.T, text string) string {
	t.Helper()
	var report doctor.Report
	decode(t, text, &report)
	var b strings.Builder
	for _, f := range report.Findings {
		status, _ := f.Status.MarshalText()
		fmt.Fprintf(&b, "%s %s", status, f.Check)
		if f.Key != "" {
			fmt.Fprintf(&b, " %s", f.Key)
		}
		if f.Consequence {
			b.WriteString(" (consequence)")
		}
		fmt.Fprintf(&b, "\n  %s\n", f.Finding)
		for _, fix := range f.Fixes {
			if f.Check == "trust-policy" {
				break
			}
			fmt.Fprintf(&b, "  fix: %s\n", fix.What)
			for line := range strings.Lines(fix.Text) {
				fmt.Fprintf(&b, "    %s\n", strings.TrimSuffix(line, "\n"))
			}
		}
	}
	return b.String()
}

// wantGolden compares with testdata/name.txt.
func wantGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is out of date (go test -update, and read it):\n%s", file, got)
	}
}
