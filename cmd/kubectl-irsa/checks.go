package main

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/deploy"
)

const (
	roleAnnotation = deploy.RoleAnnotation
	skipAnnotation = "eks.amazonaws.com/skip-containers" // the EKS webhook's

	roleVariable  = "AWS_ROLE_ARN"
	tokenVariable = "AWS_WEB_IDENTITY_TOKEN_FILE"
)

// The checks, as they are called in the report.
const (
	checkCluster   = "cluster"
	checkNode      = "node"
	checkPod       = "pod"
	checkAccount   = "service-account"
	checkWebhook   = "webhook"
	checkVolume    = "volume"
	checkContainer = "container"
	checkApp       = "app"

	checkAppEnvironment = "app-environment"
)

// outside is what is found from outside of the Pod.
type outside struct {
	*observed
	facts
	now      time.Time
	question question
	findings []doctor.Finding
	from     source // of the policy that is compared
}

func (o *outside) ok(check, format string, args ...any) {
	o.findings = append(o.findings, doctor.Finding{Check: check, Finding: shown(fmt.Sprintf(format, args...))})
}

func (o *outside) add(status doctor.Status, check string, key doctor.Key, text string, fixes ...doctor.Fix) {
	o.findings = append(o.findings, doctor.Finding{Check: check, Status: status, Key: string(key), Finding: shown(text), Fixes: fixes})
}

func (o *outside) fail(check string, key doctor.Key, text string, fixes ...doctor.Fix) {
	o.add(doctor.Fail, check, key, text, fixes...)
}

func (o *outside) warn(check string, key doctor.Key, text string, fixes ...doctor.Fix) {
	o.add(doctor.Warn, check, key, text, fixes...)
}

// unseen records what could not be read, and why.
func (o *outside) unseen(check, what string, err error) {
	o.warn(check, notVisible, fmt.Sprintf("%s cannot be seen: %v", what, err))
}

func shell(what, text string) doctor.Fix { return doctor.Fix{What: what, Kind: "shell", Text: text} }

// check makes all checks that need nothing from inside of the Pod.
func (o *outside) check() {
	o.checkCluster()
	o.checkPod()
	o.checkOthers()
	o.checkSystem()
	o.checkContainerName()
	o.checkAccount()
	o.checkMount()
	o.checkSidecar()
}

// runs reports whether a command can be run in the sidecar.
func (o *outside) runs() bool {
	s := o.pod.Status.container(o.Sidecar)
	return s != nil && s.State.Running != nil && o.system() != "windows"
}

func (o *outside) checkCluster() {
	if !o.config.ok() {
		return // in a Pod there is no kubeconfig
	}
	cluster := ""
	switch c := o.config.value; {
	case o.Cluster != "":
		cluster = ", EKS cluster " + o.Cluster
		if o.Region != "" {
			cluster += " in " + o.Region
		}
	case len(c.Clusters) > 0:
		cluster = ", " + c.Clusters[0].Cluster.Server
	}
	o.ok(checkCluster, "context %s%s", o.Context, cluster)
}

func (o *outside) checkPod() {
	s := o.pod.Status
	name := o.Namespace + "/" + o.Pod
	if o.Owner != "" {
		name += " of " + o.Owner
	}
	switch {
	case o.pod.Metadata.DeletionTimestamp != nil:
		o.warn(checkPod, podNotRunning, name+" is being deleted")
	case s.Phase == "Running":
		o.ok(checkPod, "%s, running on node %s, %s old, with the service account %s", name, o.pod.Spec.NodeName, age(o.now.Sub(o.pod.Metadata.CreationTimestamp)), o.ServiceAccount)
	case s.Phase == "Succeeded":
		o.warn(checkPod, podNotRunning, name+" has completed")
	case s.Phase == "Failed":
		o.fail(checkPod, podNotRunning, strings.TrimSuffix(fmt.Sprintf("%s has failed: %s %s", name, s.Reason, s.Message), " "))
	case o.runs() && !s.container(o.Sidecar).Ready && slices.ContainsFunc(o.pod.Spec.InitContainers, func(c container) bool { return c.Name == o.Sidecar }):
		o.warn(checkPod, podNotRunning, fmt.Sprintf("%s has not started: it waits for container %s, which runs", name, o.Sidecar))
	case o.runs():
		o.warn(checkPod, podNotRunning, fmt.Sprintf("%s has not started: %s; container %s runs", name, o.holdup(), o.Sidecar),
			shell("see what holds it up", fmt.Sprintf("kubectl describe pod -n %s %s", o.Namespace, o.Pod)))
	default:
		o.fail(checkPod, podNotRunning, fmt.Sprintf("%s is %s: %s", name, strings.ToLower(cmp.Or(s.Phase, "pending")), o.holdup()),
			shell("see what holds it up", fmt.Sprintf("kubectl describe pod -n %s %s", o.Namespace, o.Pod)))
	}
}

// holdup is why the Pod has not started.
func (o *outside) holdup() string {
	for _, c := range o.pod.Status.Conditions {
		if c.Type == "PodScheduled" && c.Status == "False" {
			return "it is not scheduled: " + c.Message
		}
	}
	for _, c := range slices.Concat(o.pod.Status.InitContainerStatuses, o.pod.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil && c.Name == o.Sidecar && w.Reason != "PodInitializing" {
			return "it waits for container " + c.Name
		} else if w != nil && w.Reason != "PodInitializing" && w.Reason != "ContainerCreating" {
			return strings.TrimSpace(fmt.Sprintf("container %s waits: %s %s", c.Name, w.Reason, w.Message))
		}
	}
	return "its containers have not started"
}

// checkOthers names the other Pods of the same workload that are not ready: the one that is looked at may be healthy.
func (o *outside) checkOthers() {
	if len(o.unready) == 0 {
		return
	}
	const most = 3
	text := strings.Join(o.unready[:min(most, len(o.unready))], ", ")
	if more := len(o.unready) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	o.warn(checkPod, podNotRunning, fmt.Sprintf("of the other Pods of %s/%s are not ready: %s", o.question.kind, o.question.name, text),
		shell("look at one of them", fmt.Sprintf("kubectl irsa doctor %s/%s", o.Namespace, o.unready[0])))
}

func (o *outside) checkSystem() {
	if system := o.system(); system == "windows" {
		o.fail(checkNode, windowsNode, "the Pod runs on a Windows node, and the sidecar's image is for Linux",
			doctor.Fix{What: "run it on a Linux node (nodeSelector kubernetes.io/os: linux), or let its SDK use web identity without the sidecar"})
	}
}

func (o *outside) system() string {
	return cmp.Or(o.pod.Spec.OS.Name, o.node.value.Metadata.Labels["kubernetes.io/os"], o.pod.Spec.NodeSelector["kubernetes.io/os"])
}

func (o *outside) checkContainerName() {
	name := o.question.container
	if name == "" || o.pod.Spec.container(name) != nil {
		return
	}
	var all []string
	for _, c := range o.pod.Spec.containers() {
		all = append(all, c.Name)
	}
	o.fail(checkContainer, containerUnknown, fmt.Sprintf("the Pod has no container %q%s; its containers are %s", name, nearest.DidYouMean(name, all), strings.Join(all, ", ")))
}

// subject is the container whose identity is asked for: the sidecar, or the app where there is none.
func (o *outside) subject() *container {
	if c := o.pod.Spec.container(cmp.Or(o.Sidecar, o.Container)); c != nil {
		return c
	}
	for _, c := range o.pod.Spec.Containers {
		if c.variable(roleVariable) != nil {
			return &c
		}
	}
	if len(o.pod.Spec.Containers) > 0 {
		return &o.pod.Spec.Containers[0]
	}
	return new(container)
}

// sidecarOf returns the name of the sidecar's container, or "".
func sidecarOf(spec *podSpec) string {
	if spec.container(deploy.Name) != nil {
		return deploy.Name
	}
	for _, c := range spec.containers() {
		image, _, _ := strings.Cut(path.Base(c.Image), "@")
		if image, _, _ = strings.Cut(image, ":"); image == deploy.Name {
			return c.Name
		}
	}
	return ""
}

// checkAccount compares the Pod's variables with its service account.
func (o *outside) checkAccount() {
	c := o.subject()
	role, file := c.variable(roleVariable), c.variable(tokenVariable)
	switch {
	case !o.account.ok() && answerOf(o.account.err) == notFound:
		o.fail(checkAccount, serviceAccountMissing, fmt.Sprintf("the service account %s does not exist in namespace %s: the kubelet gets no new tokens for it", o.ServiceAccount, o.Namespace),
			shell("create it again", fmt.Sprintf("kubectl create serviceaccount -n %s %s", o.Namespace, o.ServiceAccount)))
		return
	case !o.account.ok():
		o.unseen(checkAccount, "service account "+o.ServiceAccount, o.account.err)
		return
	}
	annotated := o.account.value.Metadata.Annotations[roleAnnotation]
	malformed := names.CheckRoleARN(annotated)
	switch {
	case annotated != "" && malformed != nil:
		o.fail(checkAccount, doctor.RoleARNMalformed, fmt.Sprintf("the annotation %s of %s %v", roleAnnotation, o.ServiceAccount, malformed), o.fixAnnotation("correct it"))
	case role == nil && file == nil && len(c.EnvFrom) > 0:
		o.warn(checkAccount, notVisible, fmt.Sprintf("container %s has no %s in its env; it may come from %s, which is not read", c.Name, roleVariable, envFrom(c)))
	case role == nil && o.Sidecar == "" && c.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") != nil && annotated != "":
		o.ok(checkAccount, "%s is annotated with %s", o.ServiceAccount, annotated) // the app is set up for the sidecar that is missing
	case role == nil && annotated == "":
		o.notAnnotated()
	case role == nil:
		o.notInPod(c, annotated)
	case annotated != "" && role.ValueFrom == nil && role.Value != "" && strings.TrimSpace(annotated) != role.Value:
		o.roleDiffers(c, role.Value, annotated)
	case annotated != "":
		o.ok(checkAccount, "%s is annotated with %s", o.ServiceAccount, annotated)
	default:
		o.ok(checkAccount, "%s is not annotated: the role is in the Pod's manifest", o.ServiceAccount)
	}
}

// fixAnnotation names the role at the service account: the one that is certainly meant by what is there, or its name.
func (o *outside) fixAnnotation(what string) doctor.Fix {
	annotated := o.account.value.Metadata.Annotations[roleAnnotation]
	arn := "arn:aws:iam::ACCOUNT:role/ROLE"
	if meant := names.RoleARNMeant(annotated); meant != "" {
		arn = quoted(meant, arn)
	} else if named := strings.Replace(arn, "ROLE", annotated, 1); names.CheckRoleARN(strings.Replace(named, "ACCOUNT", "111122223333", 1)) == nil {
		arn = quoted(named, arn)
	}
	return shell(what+", then restart the Pods (only new Pods get the variables)", fmt.Sprintf(
		"kubectl annotate serviceaccount -n %s %s %s=%s --overwrite\n%s", o.Namespace, o.ServiceAccount, roleAnnotation, arn, restart))
}

// restart makes new Pods. [fill] writes it for what the Pod belongs to.
const restart = "kubectl rollout restart -n NAMESPACE deployment/DEPLOYMENT"

// notAnnotated is for a service account without the annotation and a Pod without a role.
func (o *outside) notAnnotated() {
	m := o.account.value.Metadata
	text := fmt.Sprintf("the service account %s has no annotation %s", o.ServiceAccount, roleAnnotation)
	keys := slices.Sorted(maps.Keys(m.Annotations))
	if near := nearest.Word(roleAnnotation, keys); near != "" {
		wrong := quoted(near, "ANNOTATION")
		o.fail(checkAccount, doctor.NotAnnotated, fmt.Sprintf("%s; it has %q: correct the name", text, near),
			shell("correct the annotation's name, then restart the Pods (only new Pods get the variables)", fmt.Sprintf(
				"kubectl annotate serviceaccount -n %s %s %s=%s %s-\n%s", o.Namespace, o.ServiceAccount, roleAnnotation,
				quoted(strings.TrimSpace(m.Annotations[near]), "arn:aws:iam::ACCOUNT:role/ROLE"), wrong, restart)))
		return
	}
	if o.pod.Metadata.Annotations[roleAnnotation] != "" {
		text += "; the Pod has it, where nothing reads it"
	}
	const kiam = "iam.amazonaws.com/role" // also kube2iam's
	if o.pod.Metadata.Annotations[kiam] != "" {
		text += "; the Pod has " + kiam + ", which is for kiam and kube2iam"
	}
	var others []string
	for _, other := range o.accounts.value.Items {
		if other.Metadata.Annotations[roleAnnotation] != "" {
			others = append(others, other.Metadata.Name)
		}
	}
	fixes := []doctor.Fix{o.fixAnnotation("annotate it with the role")}
	if len(others) > 0 && o.ServiceAccount == "default" {
		text += "; " + strings.Join(others, ", ") + " in the same namespace has"
		fixes = slices.Insert(fixes, 0, shell("if the Pod is meant to use that one", fmt.Sprintf(
			"kubectl set serviceaccount -n NAMESPACE deployment/DEPLOYMENT %s", others[0])))
	}
	o.fail(checkAccount, doctor.NotAnnotated, text, fixes...)
}

// notInPod is for an annotated service account and a container without the role.
func (o *outside) notInPod(c *container, annotated string) {
	for name := range strings.SplitSeq(o.pod.Metadata.Annotations[skipAnnotation], ",") {
		if strings.TrimSpace(name) == c.Name {
			o.fail(checkAccount, containerSkipped, fmt.Sprintf("the Pod's annotation %s names container %s, so the webhook leaves it unchanged", skipAnnotation, c.Name),
				doctor.Fix{What: "take " + c.Name + " out of that annotation in the Pod's template"})
			return
		}
	}
	if c.variable(tokenVariable) != nil {
		o.fail(checkAccount, doctor.HalfAnnotated, fmt.Sprintf("container %s sets %s itself, so the webhook adds no %s to it", c.Name, tokenVariable, roleVariable),
			shell("let the webhook set both", fmt.Sprintf("kubectl set env -n NAMESPACE deployment/DEPLOYMENT -c %s %s-", c.Name, tokenVariable)))
		return
	}
	switch webhook := o.checkWebhook(); {
	case webhook == absent && o.Sidecar == "": // what adds the sidecar reads the annotation
		o.ok(checkAccount, "%s is annotated with %s", o.ServiceAccount, annotated)
		return
	case webhook == absent:
		o.fail(checkWebhook, webhookMissing, "the cluster has no pod-identity-webhook: nothing reads the annotation "+roleAnnotation,
			doctor.Fix{What: "name the role in the manifest, as in https://github.com/irsa-sidecar/irsa-sidecar/blob/main/deploy/native-sidecar.yaml, or install https://github.com/aws/amazon-eks-pod-identity-webhook"})
		return
	}
	made, at := o.pod.Metadata.CreationTimestamp, o.account.value.Metadata.annotatedAt(roleAnnotation)
	why := "it was made before the service account was annotated, or while the webhook did not answer"
	switch {
	case at.After(made):
		why = fmt.Sprintf("it was made at %s, and the service account was annotated at %s", made.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	case !at.IsZero():
		why = fmt.Sprintf("it was made at %s, after the service account was annotated: the webhook did not answer then", made.UTC().Format(time.RFC3339))
	}
	o.fail(checkAccount, annotatedLater, fmt.Sprintf("%s is annotated with %s, and the Pod has no %s: %s", o.ServiceAccount, annotated, roleVariable, why),
		shell("restart the Pods", restart))
}

// presence is whether something is there.
type presence int

const (
	unknown presence = iota
	present
	absent
)

// checkWebhook looks for the EKS webhook, which is called so on EKS and in its own manifests.
// https://github.com/aws/amazon-eks-pod-identity-webhook
func (o *outside) checkWebhook() presence {
	if !o.webhooks.ok() {
		o.unseen(checkWebhook, "whether the cluster has the EKS webhook", o.webhooks.err)
		return unknown
	}
	for _, c := range o.webhooks.value.Items {
		ours := strings.Contains(c.Metadata.Name, "pod-identity-webhook")
		for _, w := range c.Webhooks {
			ours = ours || w.Name == "iam-for-pods.amazonaws.com" || strings.Contains(w.Name, "pod-identity-webhook")
		}
		if ours {
			o.ok(checkWebhook, "the cluster has %s", c.Metadata.Name)
			return present
		}
	}
	return absent
}

func (o *outside) roleDiffers(c *container, has, annotated string) {
	text := fmt.Sprintf("container %s has %s, and the service account is annotated with %s", c.Name, has, annotated)
	if t := o.owner.value.Spec.Template.Spec.container(c.Name); t != nil && t.variable(roleVariable) != nil {
		o.warn(checkAccount, roleDiffers, text+": the manifest sets "+roleVariable+", which counts",
			shell("if the annotation is right", fmt.Sprintf("kubectl set env -n NAMESPACE deployment/DEPLOYMENT -c %s %s=%s", c.Name, roleVariable, quoted(annotated, "ARN"))))
		return
	}
	o.warn(checkAccount, roleDiffers, text+": the Pod is older than the change", shell("restart the Pods", restart))
}

// checkMount looks for the token's volume.
func (o *outside) checkMount() {
	if !o.events.ok() && o.pod.Status.Phase == "Pending" {
		o.unseen(checkVolume, "the Pod's events", o.events.err)
	}
	if failed := o.newest("FailedMount"); failed != nil && o.pod.Status.Phase != "Running" {
		o.fail(checkVolume, mountFailed, "the kubelet cannot mount a volume: "+failed.Message,
			shell("see whether it still fails", fmt.Sprintf("kubectl get events -n %s --field-selector involvedObject.name=%s", o.Namespace, o.Pod)))
	}
	c := o.subject()
	file := c.variable(tokenVariable)
	if file == nil || file.ValueFrom != nil || file.Value == "" || c.variable(roleVariable) == nil {
		return
	}
	if audience, ok := o.tokenAt(c, file.Value); !ok {
		o.fail(checkVolume, tokenNotMounted, fmt.Sprintf("no volume of container %s has a service account token at %s", c.Name, file.Value),
			doctor.Fix{What: "mount a projected token there, as in https://github.com/irsa-sidecar/irsa-sidecar/blob/main/deploy/native-sidecar.yaml"})
	} else {
		o.ok(checkVolume, "%s has a token for %s at %s", c.Name, cmp.Or(audience, "the API server"), file.Value)
	}
}

// tokenAt returns the audience of the service account token that a container has at a path.
func (o *outside) tokenAt(c *container, file string) (audience string, ok bool) {
	for _, mount := range c.VolumeMounts {
		rest, inside := strings.CutPrefix(path.Clean(file), path.Clean(mount.MountPath)+"/")
		if !inside {
			continue
		}
		for _, v := range o.pod.Spec.Volumes {
			if v.Name != mount.Name || v.Projected == nil {
				continue
			}
			for _, source := range v.Projected.Sources {
				if t := source.ServiceAccountToken; t != nil && t.Path == path.Join(mount.SubPath, rest) {
					return t.Audience, true
				}
			}
		}
	}
	return "", false
}

// newest returns the last event of the Pod with this reason, or nil.
func (o *outside) newest(reason string) (last *event) {
	for i, e := range o.events.value.Items {
		if e.Reason == reason && (last == nil || !e.at().Before(last.at())) {
			last = &o.events.value.Items[i]
		}
	}
	return last
}

func (e *event) at() time.Time {
	if e.LastTimestamp.IsZero() {
		return e.EventTime
	}
	return e.LastTimestamp
}

// checkSidecar looks at the sidecar's container.
func (o *outside) checkSidecar() {
	if o.Sidecar == "" {
		o.fail(checkContainer, sidecarMissing, "no container of the Pod is the sidecar: what follows is known from outside"+o.whyNotInjected(),
			doctor.Fix{What: "add the sidecar: https://github.com/irsa-sidecar/irsa-sidecar/blob/main/docs/install.md"})
		return
	}
	s := o.pod.Status.container(o.Sidecar)
	switch {
	case s == nil:
		return // the Pod has not started
	case s.State.Running != nil && s.Ready:
		o.ok(checkContainer, "%s runs, %s", o.Sidecar, restarts(s))
	case s.State.Running != nil:
		o.warn(checkContainer, sidecarFailing, fmt.Sprintf("%s runs and is not ready: it has no credentials; %s%s", o.Sidecar, restarts(s), lastWords(s.LastState)))
	case s.State.Terminated != nil && s.State.Terminated.ExitCode == 0:
		o.ok(checkContainer, "%s has ended with the Pod", o.Sidecar)
	case s.State.Terminated != nil:
		o.fail(checkContainer, sidecarFailing, fmt.Sprintf("%s does not run, %s%s", o.Sidecar, restarts(s), lastWords(s.State)), o.fixLog())
	case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
		fix := o.fixLog()
		if s.LastState.Terminated == nil { // it has no log yet
			fix = shell("see what holds it up", fmt.Sprintf("kubectl describe pod -n %s %s", o.Namespace, o.Pod))
		}
		o.fail(checkContainer, sidecarFailing, fmt.Sprintf("%s does not run: %s, %s%s", o.Sidecar, s.State.Waiting.Reason, o.whyWaiting(s), lastWords(s.LastState)), fix)
	}
}

// whyWaiting is what Kubernetes says of a container that waits; of one that crashes, it says only for how long.
func (o *outside) whyWaiting(s *containerStatus) string {
	if s.State.Waiting.Message == "" || s.State.Waiting.Reason == "CrashLoopBackOff" {
		return restarts(s)
	}
	return s.State.Waiting.Message
}

func (o *outside) fixLog() doctor.Fix {
	return shell("read its log", fmt.Sprintf("kubectl logs -n %s %s -c %s --previous", o.Namespace, o.Pod, o.Sidecar))
}

func (o *outside) whyNotInjected() string {
	of, value := "Pod", o.pod.Metadata.Labels[deploy.InjectLabel]
	if value == "" {
		of, value = "namespace", o.space.value.Metadata.Labels[deploy.InjectLabel]
	}
	switch value {
	case deploy.Disabled:
		return fmt.Sprintf("; the %s's label %s: %s keeps it out", of, deploy.InjectLabel, value)
	case deploy.Enabled:
		return fmt.Sprintf("; the %s has the label %s: %s, so the Pod was made before the label or the policy", of, deploy.InjectLabel, value)
	}
	return ""
}

func restarts(s *containerStatus) string {
	switch s.RestartCount {
	case 0:
		return "never restarted"
	case 1:
		return "restarted once"
	}
	return fmt.Sprintf("restarted %d times", s.RestartCount)
}

// lastWords are how a container ended, and what it said.
func lastWords(s containerState) string {
	t := s.Terminated
	if t == nil {
		return ""
	}
	text := fmt.Sprintf("; it ended with exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		text += " (" + t.Reason + ")"
	}
	if words := strings.TrimSpace(t.Message); words != "" {
		const most = 3 // lines: an error takes several where a configuration has several mistakes
		lines := strings.Split(words, "\n")
		text += ": " + strings.Join(strings.Fields(strings.Join(lines[max(0, len(lines)-most):], " ")), " ")
	}
	return text
}

func envFrom(c *container) string {
	var all []string
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			all = append(all, "ConfigMap "+from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			all = append(all, "Secret "+from.SecretRef.Name)
		}
	}
	return strings.Join(all, ", ")
}

// age is a duration as people would say it.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// quotedFlag is a flag for a shell, as one word.
func quotedFlag(flag string) string {
	name, value, _ := strings.Cut(flag, "=")
	return name + "=" + quoted(value, "VALUE")
}

// quoted is a value for a shell, as one word that is not an option, or the placeholder if it must not be shown.
func quoted(s, placeholder string) string {
	if s == "" || len(s) > 4096 || s[0] == '-' || redact.OneLine(s) != s || redact.Scrub(s) != s {
		return placeholder
	}
	if !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+=,-", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
