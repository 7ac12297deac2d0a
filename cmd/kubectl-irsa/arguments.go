package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

const help = `Usage: kubectl irsa doctor [NAMESPACE/]NAME [flags]

Finds out why a Pod has no AWS credentials, and what to change. It reads the
Pod, its service account and its events with your kubectl, and runs the doctor
in the Pod's sidecar with kubectl exec: the token never leaves the Pod. It
changes nothing, and ends within a minute.

NAME is a Pod, or KIND/NAME, such as deployment/app, for one of its Pods.

Flags:
  --container APP
      also find out which identity this container of the Pod has
  --profile NAME
      examine this profile of the sidecar, and all roles on the way to it
  --trust-policy FILE
      also check the role's trust policy: the policy, what aws iam get-role
      prints, CloudFormation, terraform show -json; - reads standard input
  --role NAME
      which role of FILE, by its name or by what the template calls it
  --aws
      ask AWS, with your aws and its profile, for the role and its trust policy,
      the OIDC provider and the EKS cluster, not for roles that are assumed
      after that; it only reads
  --eks-cluster NAME
      the cluster's name in EKS, where the kubeconfig does not say it
  --json
      print JSON

Flags for every kubectl that it runs, as kubectl has them:
  -n, --namespace NAMESPACE   --context CONTEXT   --kubeconfig FILE
  --cluster CLUSTER           --user USER         --as USER   --as-group GROUP

All flags come after the plugin's name: kubectl takes none before it.

Examples:
  kubectl irsa doctor shop/cart-7c9f4d5b6-x2x4z
  kubectl irsa doctor -n shop deployment/cart --container app --aws
  kubectl irsa doctor deployment/cart --context prod --trust-policy trust.json

Other commands: kubectl irsa version, kubectl irsa help

Exit codes: 0 nothing failed; 1 something did, and the reason is the last line
on stderr; 2 wrong usage.
`

const usage = "usage: kubectl irsa doctor [NAMESPACE/]NAME [--container APP] [--profile NAME] [--aws] [--trust-policy FILE] [--json]"

// question is what the command line asks.
type question struct {
	command    string
	namespace  string // empty: the context's
	kind, name string // kind is pod, or what Kubernetes calls it in the singular
	container  string
	profile    string // of the sidecar; empty: the default one
	policyFile string
	role       string // of several in policyFile
	cluster    string // the EKS cluster's name
	aws, json  bool
	kubectl    []string // flags of kubectl, but for the namespace
}

// option is a flag. What is not doctor's own is passed on to kubectl.
type option struct {
	name     string
	short    string
	isSwitch bool
}

var options = []option{
	{name: "container", short: "c"},
	{name: "profile"},
	{name: "trust-policy"},
	{name: "role"},
	{name: "aws", isSwitch: true},
	{name: "eks-cluster"},
	{name: "json", isSwitch: true},
	{name: "help", short: "h", isSwitch: true},
	{name: "namespace", short: "n"},
	{name: "context"},
	{name: "kubeconfig"},
	{name: "cluster"},
	{name: "user"},
	{name: "as"},
	{name: "as-group"},
}

// parse reads the command line. Flags may stand anywhere.
func parse(args []string) (question, error) {
	var q question
	var words []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "-" || !strings.HasPrefix(arg, "-") {
			words = append(words, arg)
			continue
		}
		if err := q.flag(arg, &args); err != nil {
			return q, err
		}
	}
	if q.command == "help" { // --help
		return q, nil
	}
	if len(words) == 0 {
		return q, usagef("missing command; %s", usage)
	}
	q.command = words[0]
	commands := []string{"doctor", "version", "help"}
	if !slices.Contains(commands, q.command) {
		return q, usagef("unknown command %q%s; %s", q.command, nearest.DidYouMean(q.command, commands), usage)
	}
	if q.command != "doctor" {
		return q, nil
	}
	return q, q.target(words[1:])
}

// flag reads one flag, and its value from what follows where it takes one. Values are not shown: one may be a secret.
func (q *question) flag(arg string, rest *[]string) error {
	typed, value, hasValue := strings.Cut(arg, "=")
	o := find(typed)
	if o == nil && !strings.HasPrefix(arg, "--") && len(arg) > 2 { // -nshop
		if o = find(arg[:2]); o != nil && !o.isSwitch {
			typed, value, hasValue = arg[:2], strings.TrimPrefix(arg[2:], "="), true
		} else {
			o = nil
		}
	}
	switch {
	case o == nil:
		return unknownFlag(typed)
	case o.isSwitch && hasValue && value != "true" && value != "false":
		return usagef("%s takes no value", typed)
	case o.isSwitch:
		return q.set(o, cmp.Or(value, "true"))
	case !hasValue && (len(*rest) == 0 || strings.HasPrefix((*rest)[0], "--") || find((*rest)[0]) != nil):
		return usagef("%s needs a value; %s", typed, usage)
	case !hasValue:
		value, *rest = (*rest)[0], (*rest)[1:]
	}
	if value == "" { // a script passes a variable that is not set
		return usagef("%s needs a value; %s", typed, usage)
	}
	return q.set(o, value)
}

// find returns the flag that is typed so, or nil.
func find(typed string) *option {
	i := slices.IndexFunc(options, func(o option) bool { return typed == "--"+o.name || o.short != "" && typed == "-"+o.short })
	if i < 0 {
		return nil
	}
	return &options[i]
}

func (q *question) set(o *option, value string) error {
	switch o.name {
	case "container":
		if !validName(value) {
			return usagef("--container %q is not the name of a container", value)
		}
		q.container = value
	case "profile":
		if !regexp.MustCompile(`^[A-Za-z0-9_+=@][A-Za-z0-9_+=.@-]{0,63}$`).MatchString(value) {
			return usagef("--profile %q is not the name of a profile", value)
		}
		q.profile = value
	case "trust-policy":
		q.policyFile = value
	case "role":
		q.role = value
	case "aws":
		q.aws = value == "true"
	case "eks-cluster":
		q.cluster = value
	case "json":
		q.json = value == "true"
	case "help":
		q.command = "help"
	case "namespace":
		if !validName(value) {
			return usagef("--namespace %q is not the name of a namespace", value)
		}
		q.namespace = value
	default:
		q.kubectl = append(q.kubectl, "--"+o.name+"="+value)
	}
	return nil
}

func unknownFlag(typed string) error {
	bare := strings.TrimLeft(typed, "-")
	typed = typed[:len(typed)-len(bare)] + redact.Scrub(bare) // the dashes before a key would hide its form
	var names []string
	for _, o := range options {
		names = append(names, o.name)
	}
	if near := nearest.Word(bare, names); near != "" {
		return usagef("unknown flag %s; did you mean --%s?", typed, near)
	}
	return usagef("unknown flag %s; %s", typed, usage)
}

// kinds are what can have Pods, by each name that kubectl takes.
var kinds = map[string]string{
	"pod": "pod", "pods": "pod", "po": "pod",
	"deployment": "deployment", "deployments": "deployment", "deploy": "deployment",
	"statefulset": "statefulset", "statefulsets": "statefulset", "sts": "statefulset",
	"daemonset": "daemonset", "daemonsets": "daemonset", "ds": "daemonset",
	"replicaset": "replicaset", "replicasets": "replicaset", "rs": "replicaset",
	"job": "job", "jobs": "job",
	"cronjob": "cronjob", "cronjobs": "cronjob", "cj": "cronjob",
	"rollout": "rollout", "rollouts": "rollout", // of Argo Rollouts
}

// noKind explains a word that may be meant as a kind, and of which there are no Pods; "" for any other. It may be the name
// of a namespace, too.
func noKind(word string) string {
	word, _, _ = strings.Cut(strings.ToLower(word), ".")
	if !slices.Contains([]string{"svc", "service", "services", "ing", "ingress", "sa", "serviceaccount", "serviceaccounts", "hpa", "node", "nodes", "no"}, word) {
		return ""
	}
	return fmt.Sprintf("; if %s is meant as a kind: name a Pod, or what makes Pods, such as deployment/NAME", word)
}

// kindOf returns the kind that a word means, as kubectl takes it or as it prints it: deployment.apps.
func kindOf(word string) string {
	word, _, _ = strings.Cut(strings.ToLower(word), ".")
	return kinds[word]
}

// target reads what is to be examined: NAME, NAMESPACE/NAME, KIND/NAME, NAMESPACE/KIND/NAME, or KIND NAME.
func (q *question) target(words []string) error {
	switch {
	case len(words) == 0:
		return usagef("missing name of a Pod; %s", usage)
	case len(words) == 2 && kindOf(words[0]) != "" && !strings.Contains(words[1], "/"):
		words = []string{words[0] + "/" + words[1]}
	case len(words) > 1:
		return usagef("unexpected argument %q; %s", words[1], usage)
	}
	parts := strings.Split(words[0], "/")
	q.kind, q.name = "pod", parts[len(parts)-1]
	namespace := ""
	switch len(parts) {
	case 1:
	case 2:
		if kind := kindOf(parts[0]); kind != "" {
			q.kind = kind
		} else if namespace = parts[0]; namespace == "" { // a script passes a variable that is not set
			return usagef("%q has no namespace before the slash; %s", words[0], usage)
		}
	case 3:
		if namespace, q.kind = parts[0], kindOf(parts[1]); q.kind == "" {
			return usagef("%q is no kind that has Pods%s", parts[1], cmp.Or(nearest.DidYouMean(parts[1], kindNames), "; the kinds are "+strings.Join(kindNames, ", ")))
		}
	default:
		return usagef("%q has too many slashes; %s", words[0], usage)
	}
	switch {
	case !validName(q.name):
		return usagef("%q is not the name of a Pod; %s", q.name, usage)
	case namespace != "" && !validName(namespace):
		return usagef("%q is not the name of a namespace; %s", namespace, usage)
	case namespace != "" && q.namespace != "" && namespace != q.namespace:
		return usagef("%s and --namespace %s name two namespaces%s", words[0], q.namespace, noKind(namespace))
	case namespace != "":
		q.namespace = namespace
	}
	return nil
}
