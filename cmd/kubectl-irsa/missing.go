package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// reportMissing is the report about a Pod that does not exist: what may be meant, or why there is none. It returns err
// where that says all that can be known, as when there is no cluster.
func (k *kubectl) reportMissing(ctx context.Context, q question, err error) (*doctor.Report, error) {
	o := &outside{observed: &observed{}, question: q}
	if none, ok := errors.AsType[*noPods](err); ok {
		k.namespace = none.workload.Metadata.Namespace
		o.fail(checkPod, podMissing, none.Error()+k.whyNoPods(ctx, none))
	} else if answerOf(err) == notFound {
		o.reportNotFound(ctx, k, q)
	} else {
		return nil, k.unreachable(ctx, err)
	}
	o.readConfig(ctx, k)
	o.facts = facts{Namespace: k.namespace, Context: o.config.value.CurrentContext}
	o.Cluster, o.Region = o.config.value.eks()
	o.checkCluster()
	slices.Reverse(o.findings) // the cluster first
	report := &doctor.Report{Schema: schema, Program: "kubectl irsa", Version: version, Findings: o.findings}
	fill(report, o, k.flags)
	report.Conclude()
	return report, nil
}

// unreachable adds to an error of kubectl what it leaves out: which contexts there are, and who did not answer.
func (k *kubectl) unreachable(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%w (the cluster's API server did not answer within %s: is it reachable from here?)", err, callLimit)
	}
	_, wanted, found := strings.Cut(err.Error(), "context was not found for specified context: ")
	if !found {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	raw, failure := k.call(ctx, nil, "config", "get-contexts", "-o", "name")
	if failure != nil {
		return err
	}
	names := strings.Fields(string(raw))
	if near := nearest.DidYouMean(strings.TrimSpace(wanted), names); near != "" {
		return fmt.Errorf("%w%s", err, near)
	}
	return fmt.Errorf("%w; the contexts are %s", err, strings.Join(names[:min(len(names), 10)], ", "))
}

// whyNoPods is why a workload has no Pod, as the controller that makes them has recorded it.
func (k *kubectl) whyNoPods(ctx context.Context, none *noPods) string {
	if replicas := none.workload.Spec.Replicas; replicas != nil && *replicas == 0 {
		return ": it is scaled to 0"
	}
	var events list[event]
	if err := k.get(ctx, &events, "events", "--field-selector=reason=FailedCreate"); err != nil {
		return ", and its events cannot be seen: " + err.Error()
	}
	name := none.workload.Metadata.Name
	o := &outside{observed: &observed{}}
	for _, e := range events.Items {
		if e.InvolvedObject.Name == name || strings.HasPrefix(e.InvolvedObject.Name, name+"-") {
			o.events.value.Items = append(o.events.value.Items, e)
		}
	}
	if last := o.newest("FailedCreate"); last != nil {
		return ": " + last.Message
	}
	return ""
}

// reportNotFound says what is there instead of something that is not.
func (o *outside) reportNotFound(ctx context.Context, k *kubectl, q question) {
	if k.namespace != "" {
		if other, gone := k.noNamespace(ctx); gone {
			text := "there is no namespace " + k.namespace
			if other == "" && q.kind == "pod" {
				other = noKind(k.namespace)
			}
			if kind := nearest.Word(k.namespace, kindNames); kind != "" && q.kind == "pod" {
				text += fmt.Sprintf("; did you mean the %s %s/%s?", kind, kind, q.name)
			}
			o.fail(checkPod, podMissing, text+other)
			return
		}
	}
	text := fmt.Sprintf("there is no %s %s in %s", q.kind, q.name, orContext(k.namespace))
	names, err := k.names(ctx, q.kind)
	if err != nil {
		o.fail(checkPod, podMissing, text)
		return
	}
	like := similar(q.name, names)
	if len(like) == 0 {
		o.fail(checkPod, podMissing, fmt.Sprintf("%s, which has %d", text, len(names)),
			shell("list them", fmt.Sprintf("kubectl get -n %s %ss", orPlaceholder(k.namespace), q.kind)))
		return
	}
	target := like[0]
	if q.kind != "pod" {
		target = q.kind + "/" + target
	}
	if k.namespace != "" {
		target = k.namespace + "/" + target
	}
	o.fail(checkPod, podMissing, text+"; there is "+strings.Join(like[:min(3, len(like))], ", "),
		shell("if that is the one", "kubectl irsa doctor "+target))
}

var kindNames = []string{"pod", "deployment", "statefulset", "daemonset", "replicaset", "job", "cronjob", "rollout"}

func orContext(namespace string) string {
	if namespace == "" {
		return "the context's namespace"
	}
	return "namespace " + namespace
}

func orPlaceholder(namespace string) string {
	if namespace == "" {
		return "NAMESPACE"
	}
	return namespace
}

// noNamespace reports whether the namespace does not exist, and which one may be meant.
func (k *kubectl) noNamespace(ctx context.Context) (other string, gone bool) {
	var one object
	if err := k.get(ctx, &one, "namespace", k.namespace); err == nil || answerOf(err) != notFound {
		return "", false
	}
	if names, err := k.names(ctx, "namespace"); err == nil {
		other = nearest.DidYouMean(k.namespace, names)
	}
	return other, true
}

// names are the names of all objects of a kind in the namespace.
func (k *kubectl) names(ctx context.Context, kind string) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	raw, err := k.call(ctx, nil, "get", "-o", "name", kind)
	for line := range strings.Lines(string(raw)) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), "/")
		if validName(name) {
			names = append(names, name)
		}
	}
	return names, err
}

// similar returns the names that may stand for one that is gone, the likeliest first: a Pod of the same ReplicaSet, then of
// the same Deployment, a Pod of what has this name, and a misspelling.
func similar(name string, names []string) (like []string) {
	parts := strings.Split(name, "-")
	for cut := range min(3, len(parts)) { // the Pod's own part, then the ReplicaSet's
		prefix := strings.Join(parts[:len(parts)-cut], "-") + "-"
		for _, other := range names {
			if strings.HasPrefix(other, prefix) && !slices.Contains(like, other) {
				like = append(like, other)
			}
		}
		if len(like) > 0 {
			return like
		}
	}
	if near := nearest.Word(name, names); near != "" {
		return []string{near}
	}
	return nil
}
