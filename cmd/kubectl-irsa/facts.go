package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// facts are the names that fixes need. Each is empty where it is not known.
type facts struct {
	Context        string // of the kubeconfig
	Cluster        string // the name of the EKS cluster
	Region         string // of the cluster
	Namespace      string
	Pod            string
	Owner          string // kind/name of what makes such Pods, such as deployment/cart
	ServiceAccount string
	Sidecar        string // name of the sidecar's container
	Container      string // name of the app's container
	Role           string // which role of a template is meant: its name there, an address or a logical ID
	RoleARN        string // as the container has it, or else as the service account has it
	Issuer         string // of the tokens, an https:// URL
	Audience       string // of the Pod's token
}

// kubectl is the user's, with the flags that the command line passes on.
type kubectl struct {
	run       runner
	flags     []string
	namespace string // empty: the context's
	progress  io.Writer
}

// callLimit bounds one call of kubectl: a credential plugin that asks the user's provider takes some seconds.
const callLimit = 20 * time.Second

func (k *kubectl) say(format string, args ...any) {
	if k.progress != nil {
		fmt.Fprintln(k.progress, shown(fmt.Sprintf(format, args...))+" …")
	}
}

// call runs kubectl. The namespace comes first, so that args may end with a command for a container.
func (k *kubectl) call(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var all []string
	if k.namespace != "" {
		all = append(all, "--namespace="+k.namespace)
	}
	return k.run(ctx, stdin, "kubectl", slices.Concat(all, k.flags, args)...)
}

// get reads objects as JSON.
func (k *kubectl) get(ctx context.Context, into any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	raw, err := k.call(ctx, nil, append([]string{"get", "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("kubectl get %s: not the JSON of Kubernetes: %w", strings.Join(args, " "), err)
	}
	return nil
}

// answer says what Kubernetes said to a failed call.
type answer int

const (
	other answer = iota // nothing is known: the way to the API server, or the command
	notFound
	forbidden
)

// answerOf reads kubectl's error: "Error from server (Forbidden): …", or, of exec, "unable to upgrade connection: … is
// forbidden: User …".
func answerOf(err error) answer {
	switch text := err.Error(); {
	case strings.Contains(text, "(NotFound)"):
		return notFound
	case strings.Contains(text, "(Forbidden)"), strings.Contains(text, " is forbidden: User "):
		return forbidden
	}
	return other
}

// findPod returns the Pod that the question is about. For what makes Pods it is the newest in which something runs, and
// otherwise the newest; unready are its others that are not ready.
func (k *kubectl) findPod(ctx context.Context, q question) (p *pod, unready []string, err error) {
	if q.kind == "pod" {
		k.say("reading the Pod %s", q.name)
		p := new(pod)
		err := k.get(ctx, p, "pod", q.name)
		if err == nil && (p.Metadata.Name == "" || p.Metadata.Namespace == "") {
			err = fmt.Errorf("kubectl get pod %s: it printed JSON that is no Pod", q.name)
		}
		return p, nil, err
	}
	k.say("looking for a Pod of %s/%s", q.kind, q.name)
	var w workload
	if err := k.get(ctx, &w, q.kind, q.name); err != nil {
		return nil, nil, err
	}
	if q.kind == "cronjob" {
		var err error
		if w, err = k.newestJob(ctx, w); err != nil {
			return nil, nil, err
		}
	}
	if w.Spec.Selector == nil {
		return nil, nil, fmt.Errorf("%s/%s has no selector: name one of its Pods", q.kind, q.name)
	}
	var pods list[pod]
	if err := k.get(ctx, &pods, "pods", "--selector="+w.Spec.Selector.String()); err != nil {
		return nil, nil, err
	}
	if len(pods.Items) == 0 {
		return nil, nil, &noPods{kind: q.kind, workload: w}
	}
	p = pick(pods.Items)
	for _, other := range pods.Items {
		if other.Metadata.Name != p.Metadata.Name && other.Metadata.DeletionTimestamp == nil && !other.ready() {
			unready = append(unready, other.Metadata.Name)
		}
	}
	return p, unready, nil
}

// noPods is the error for a workload without a Pod.
type noPods struct {
	kind     string
	workload workload
}

func (e *noPods) Error() string {
	return fmt.Sprintf("%s/%s in namespace %s has no Pod", e.kind, e.workload.Metadata.Name, e.workload.Metadata.Namespace)
}

func (k *kubectl) newestJob(ctx context.Context, cron workload) (workload, error) {
	var jobs list[workload]
	if err := k.get(ctx, &jobs, "jobs"); err != nil {
		return workload{}, err
	}
	var own []workload
	for _, job := range jobs.Items {
		for _, owner := range job.Metadata.OwnerReferences {
			if owner.UID == cron.Metadata.UID {
				own = append(own, job)
			}
		}
	}
	if len(own) == 0 {
		return workload{}, &noPods{kind: "cronjob", workload: cron}
	}
	return slices.MaxFunc(own, func(a, b workload) int {
		return a.Metadata.CreationTimestamp.Compare(b.Metadata.CreationTimestamp)
	}), nil
}

// pick returns the newest Pod in which something runs, or else the newest. A Pod is pending as long as its sidecar, an init
// container, is not ready: that is the one to look at.
func pick(pods []pod) *pod {
	rank := func(p pod) int {
		switch {
		case p.Metadata.DeletionTimestamp != nil:
			return 0
		case p.Status.Phase == "Running" || slices.ContainsFunc(p.Status.all(), func(c containerStatus) bool { return c.State.Running != nil }):
			return 2
		}
		return 1
	}
	best := slices.MaxFunc(pods, func(a, b pod) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Metadata.CreationTimestamp.Compare(b.Metadata.CreationTimestamp))
	})
	return &best
}

// String is the selector as kubectl takes it.
func (s *selector) String() string {
	var terms []string
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		terms = append(terms, key+"="+s.MatchLabels[key])
	}
	for _, e := range s.MatchExpressions {
		switch e.Operator {
		case "Exists":
			terms = append(terms, e.Key)
		case "DoesNotExist":
			terms = append(terms, "!"+e.Key)
		default: // In and NotIn
			terms = append(terms, fmt.Sprintf("%s %s (%s)", e.Key, strings.ToLower(e.Operator), strings.Join(e.Values, ",")))
		}
	}
	return strings.Join(terms, ",")
}

// seen is something that was read, or why it could not be.
type seen[T any] struct {
	value T
	err   error
}

func (s *seen[T]) ok() bool { return s.err == nil }

// observed is everything that was read through kubectl.
type observed struct {
	pod      *pod
	unready  []string       // other Pods of the same workload
	owner    seen[workload] // of the Pod: a ReplicaSet, a Job…; unknown without one
	above    string         // kind/name of the owner's owner
	account  seen[object]
	accounts seen[list[object]] // of the namespace; read only if account lacks the annotation
	events   seen[list[event]]  // of the Pod
	webhooks seen[list[webhookConfiguration]]
	space    seen[object] // the namespace
	node     seen[object] // read only where the Pod's spec does not name its system
	issuer   seen[struct {
		Issuer string `json:"issuer"`
	}]
	config seen[kubeconfig]
}

// observe reads everything about a Pod. What cannot be read is an error in its place.
func (k *kubectl) observe(ctx context.Context, p *pod) *observed {
	o := &observed{pod: p}
	k.say("reading what belongs to it: its service account, owner, events and webhooks")
	var all sync.WaitGroup
	all.Go(func() { o.readOwner(ctx, k) })
	all.Go(func() {
		name := cmp.Or(p.Spec.ServiceAccountName, "default")
		o.account.err = k.get(ctx, &o.account.value, "serviceaccount", name, "--show-managed-fields")
		if !o.account.ok() && strings.Contains(o.account.err.Error(), "unknown flag") { // before 1.21, which always shows them
			o.account.err = k.get(ctx, &o.account.value, "serviceaccount", name)
		}
		if o.account.ok() && o.account.value.Metadata.Annotations[roleAnnotation] == "" {
			o.accounts.err = k.get(ctx, &o.accounts.value, "serviceaccounts")
		}
	})
	all.Go(func() {
		o.events.err = k.get(ctx, &o.events.value, "events", "--field-selector=involvedObject.name="+p.Metadata.Name)
	})
	all.Go(func() { o.webhooks.err = k.get(ctx, &o.webhooks.value, "mutatingwebhookconfigurations") })
	all.Go(func() { o.space.err = k.get(ctx, &o.space.value, "namespace", p.Metadata.Namespace) })
	all.Go(func() {
		if p.Spec.OS.Name == "" && p.Spec.NodeName != "" {
			o.node.err = k.get(ctx, &o.node.value, "node", p.Spec.NodeName)
		}
	})
	all.Go(func() { o.readIssuer(ctx, k) })
	all.Go(func() { o.readConfig(ctx, k) })
	all.Wait()
	return o
}

func (o *observed) readOwner(ctx context.Context, k *kubectl) {
	for _, owner := range o.pod.Metadata.OwnerReferences {
		if !owner.Controller || kindOf(owner.Kind) == "" {
			continue
		}
		o.owner.err = k.get(ctx, &o.owner.value, kindOf(owner.Kind), owner.Name)
		for _, above := range o.owner.value.Metadata.OwnerReferences {
			if above.Controller {
				o.above = strings.ToLower(above.Kind) + "/" + above.Name
			}
		}
		return
	}
}

// ownerName is the kind/name of what makes such Pods: a Deployment rather than its ReplicaSet. Where the ReplicaSet cannot
// be read, its name says it: the Deployment's, and the hash that is also a label. It becomes a word of a command, and the
// creator of a Pod may write anything there, so what is not a name is left out.
func (o *observed) ownerName() string {
	if o.above != "" {
		return validOwner(o.above)
	}
	for _, owner := range o.pod.Metadata.OwnerReferences {
		if !owner.Controller {
			continue
		}
		hash := o.pod.Metadata.Labels["pod-template-hash"]
		if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" && !o.owner.ok() {
			return validOwner("deployment/" + name)
		}
		return validOwner(strings.ToLower(owner.Kind) + "/" + owner.Name)
	}
	return ""
}

func validOwner(owner string) string {
	if kind, name, _ := strings.Cut(owner, "/"); validName(kind) && validName(name) {
		return owner
	}
	return ""
}

func (o *observed) readIssuer(ctx context.Context, k *kubectl) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	raw, err := k.call(ctx, nil, "get", "--raw", "/.well-known/openid-configuration")
	if err == nil {
		err = json.Unmarshal(raw, &o.issuer.value)
	}
	o.issuer.err = err
}

// kubeconfig is what is in use of it.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster string `json:"cluster"`
			User    string `json:"user"`
		} `json:"context"`
	} `json:"contexts"`
	Clusters []struct {
		Name    string `json:"name"`
		Cluster struct {
			Server string `json:"server"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Exec *struct {
				Args []string `json:"args"`
			} `json:"exec"`
		} `json:"user"`
	} `json:"users"`
}

// readConfig reads the context in use, without its secrets: kubectl leaves them out.
func (o *observed) readConfig(ctx context.Context, k *kubectl) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	raw, err := k.call(ctx, nil, "config", "view", "--minify", "-o", "json")
	if err == nil {
		err = json.Unmarshal(raw, &o.config.value)
	}
	o.config.err = err
}

// eks is the name and the region of the EKS cluster, from what `aws eks update-kubeconfig` and eksctl write: the ARN of the
// cluster, NAME.REGION.eksctl.io, or the arguments of `aws eks get-token`.
func (c *kubeconfig) eks() (name, region string) {
	for _, one := range c.Clusters {
		if fields := strings.SplitN(one.Name, ":", 6); len(fields) == 6 && fields[2] == "eks" {
			return strings.TrimPrefix(fields[5], "cluster/"), fields[3]
		}
		if fields := strings.Split(strings.TrimSuffix(one.Name, ".eksctl.io"), "."); len(fields) == 2 && strings.HasSuffix(one.Name, ".eksctl.io") {
			return fields[0], fields[1]
		}
	}
	for _, user := range c.Users {
		if user.User.Exec == nil {
			continue
		}
		for i, arg := range user.User.Exec.Args[:max(0, len(user.User.Exec.Args)-1)] {
			switch value := user.User.Exec.Args[i+1]; arg {
			case "--cluster-name", "--cluster-id", "-i":
				name = value
			case "--region":
				region = value
			}
		}
	}
	return name, region
}
