package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/deploy"
)

// filler replaces the placeholders of fixes with what is known here, so that they can be pasted.
type filler struct {
	*outside
	words map[string]string
	flags string // for every kubectl, with a blank before each

	placeholder, setEnv, restart, pipe, call *regexp.Regexp
}

// fill makes all fixes of a report fit this Pod, this kubeconfig and this machine.
func fill(report *doctor.Report, o *outside, flags []string) {
	f := filler{outside: o, words: map[string]string{
		"NAMESPACE": o.Namespace, "POD": o.Pod, "SERVICE_ACCOUNT": o.ServiceAccount,
		"CLUSTER": quoted(o.Cluster, ""), "ACCOUNT": names.RoleAccount(o.RoleARN), "CONTAINER": o.Container,
	}}
	for _, flag := range flags {
		f.flags += " " + quotedFlag(flag)
	}
	f.placeholder = regexp.MustCompile(`\b(?:NAMESPACE|POD|SERVICE_ACCOUNT|CLUSTER|ACCOUNT|CONTAINER)\b`)
	f.setEnv = regexp.MustCompile(`^kubectl set env -n \S+ deployment/DEPLOYMENT -c (\S+) (.*)$`)
	f.restart = regexp.MustCompile(`(?m)^kubectl rollout restart -n \S+ deployment/DEPLOYMENT$`)
	f.pipe = regexp.MustCompile(`aws iam get-role .*\| *(?:kubectl exec .* -- /)?irsa-sidecar doctor --trust-policy -`)
	f.call = regexp.MustCompile(`(?m)(^|\| *)kubectl( irsa doctor)? `)
	for i := range report.Findings {
		var fixes []doctor.Fix
		for _, fix := range report.Findings[i].Fixes {
			f.fill(&fix)
			same := slices.ContainsFunc(fixes, func(other doctor.Fix) bool { return fix.Text != "" && fix.Text == other.Text })
			if asked := o.question.aws && strings.HasPrefix(fix.Text, "kubectl irsa doctor ") && strings.HasSuffix(fix.Text, " --aws"); !same && !asked {
				fixes = append(fixes, fix)
			}
		}
		report.Findings[i].Fixes = fixes
	}
}

func (f *filler) fill(fix *doctor.Fix) {
	if m := f.setEnv.FindStringSubmatch(fix.Text); m != nil {
		if f.fillSetEnv(fix, cmp.Or(f.words[m[1]], m[1]), m[2]); fix.Kind == "" {
			return
		}
	}
	if f.restart.MatchString(fix.Text) && !f.restarts() && f.Pod != "" {
		fix.Text = f.restart.ReplaceAllLiteralString(fix.Text, "kubectl delete pod -n NAMESPACE POD")
		if len(f.pod.Metadata.OwnerReferences) == 0 {
			fix.What += "; nothing makes this Pod again: do it after that"
		}
	}
	if fix.Kind != "shell" && fix.Kind != "yaml" {
		return // a policy, with a Sid or a tag that may look like a placeholder
	}
	command, policy := fix.Text, ""
	if i := strings.Index(command, "policy-document "); i >= 0 {
		command, policy = command[:i], command[i:]
	}
	fix.Text = f.fillCommand(command, fix.Kind) + policy
}

// fillCommand fills in a command, or YAML.
func (f *filler) fillCommand(text, kind string) string {
	if f.Owner != "" {
		text = strings.ReplaceAll(text, "deployment/DEPLOYMENT", f.Owner)
	}
	text = f.placeholder.ReplaceAllStringFunc(text, func(word string) string { return cmp.Or(f.words[word], word) })
	if f.Sidecar != "" && f.Sidecar != deploy.Name {
		text = strings.ReplaceAll(text, "-c "+deploy.Name+" ", "-c "+f.Sidecar+" ")
	}
	if f.Pod != "" {
		text = f.pipe.ReplaceAllStringFunc(text, func(pipe string) string {
			if !f.question.aws {
				return fmt.Sprintf("kubectl irsa doctor %s/%s --aws", f.Namespace, f.Pod)
			}
			ask, _, _ := strings.Cut(pipe, "|")
			return fmt.Sprintf("%s| kubectl irsa doctor %s/%s --trust-policy -", ask, f.Namespace, f.Pod)
		})
	}
	if kind == "shell" && f.flags != "" {
		text = f.call.ReplaceAllStringFunc(text, func(call string) string { return call[:len(call)-1] + f.flags + " " })
	}
	return text
}

// kind is what makes such Pods, or "" for a Pod of its own.
func (f *filler) kind() string {
	kind, _, _ := strings.Cut(f.Owner, "/")
	return kind
}

// restarts reports whether `kubectl rollout restart` takes what makes such Pods.
func (f *filler) restarts() bool {
	return slices.Contains([]string{"deployment", "statefulset", "daemonset"}, f.kind())
}

// fillSetEnv tells in words what `kubectl set env` cannot do: change a Pod or a Job, something that it does not know, or a
// container that is added to the Pod later.
func (f *filler) fillSetEnv(fix *doctor.Fix, container, assignments string) {
	template := f.owner.value.Spec.Template.Spec
	switch {
	case f.Pod == "" || f.Owner == "" && len(f.pod.Metadata.OwnerReferences) > 0:
		return
	case f.restarts() || f.kind() == "cronjob" || f.kind() == "replicaset":
		if !f.owner.ok() || len(template.Containers) == 0 || container == "CONTAINER" || template.container(container) != nil {
			return
		}
		fix.What += fmt.Sprintf(": the template of %s has no container %s, so change it in what adds it: %s", f.Owner, container, assignments)
	default:
		fix.What += fmt.Sprintf(": in the manifest of %s, in the env of container %s: %s", cmp.Or(f.Owner, "pod/"+f.Pod), container, assignments)
	}
	fix.Kind, fix.Text = "", ""
}
