package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// The kinds of a [Fix]. In all of them, words in capitals are placeholders for what the doctor cannot know.
const (
	shell     = "shell"
	terraform = "terraform"
	yaml      = "yaml"
	statement = "json" // a statement of a trust policy
	changes   = "diff" // lines of a file that change
)

// The names of this Pod for use in a command. The token's claims have not been verified: what is not a valid name, and
// could be an option of the command, is left to the reader.
func (e *examination) namespace() string {
	return cmp.Or(validName(e.claims.Namespace), validName(e.podNamespace()), "NAMESPACE")
}
func (e *examination) serviceAccount() string {
	return cmp.Or(validName(e.claims.ServiceAccount), "SERVICE_ACCOUNT")
}
func (e *examination) pod() string { return cmp.Or(validName(e.claims.Pod), "POD") }

// The containers whose environment a fix changes.
const (
	ourContainer = "irsa-sidecar" // as the injector and deploy/ name it
	appContainer = "CONTAINER"    // the app's, whose name is not known here
)

// inPod reports whether this process runs in a Pod, where a container's environment comes from the Pod's spec and
// cannot be changed with a shell. The kubelet sets the variable in every container.
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
func (e *examination) inPod() bool {
	return e.Getenv("KUBERNETES_SERVICE_HOST") != "" || e.podNamespace() != ""
}

// setEnv changes variables of a container in the Pod's spec, or of the shell outside of a Pod. An assignment is
// NAME=VALUE, with the value quoted for a shell, or NAME- to remove the variable.
func (e *examination) setEnv(what, container string, assignments ...string) Fix {
	if e.inPod() {
		return Fix{what, shell, fmt.Sprintf("kubectl set env -n %s deployment/DEPLOYMENT -c %s %s", e.namespace(), container, strings.Join(assignments, " "))}
	}
	var export, unset []string
	for _, assignment := range assignments {
		if name, removed := strings.CutSuffix(assignment, "-"); removed && !strings.Contains(assignment, "=") {
			unset = append(unset, name)
		} else {
			export = append(export, assignment)
		}
	}
	var lines []string
	if len(export) > 0 {
		lines = append(lines, "export "+strings.Join(export, " "))
	}
	if len(unset) > 0 {
		lines = append(lines, "unset "+strings.Join(unset, " "))
	}
	return Fix{what, shell, strings.Join(lines, "\n")}
}

// fromPod makes a command of a tool that the image lacks one that runs in the Pod's network.
func (e *examination) fromPod(what, image, command string) Fix {
	if !e.inPod() {
		return Fix{what, shell, command}
	}
	return Fix{what + ", from the Pod's network", shell, fmt.Sprintf("kubectl debug -n %s %s -it --image=%s -- %s", e.namespace(), e.pod(), image, command)}
}

// The environment and the configuration.

func (e *examination) fixAnnotation() []Fix {
	return []Fix{
		e.annotate(roleToPropose(e.Exchange.RoleARN)),
		{What: "also look for eks.amazonaws.com/skip-containers on the Pod, which excludes containers, and for AWS_ROLE_ARN in the Pod's own spec, which keeps the webhook from adding anything"},
	}
}

func (e *examination) annotate(role string) Fix {
	return Fix{"annotate the service account with the role, then restart the Pods (only new Pods get the variables)", shell, fmt.Sprintf(
		"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/role-arn=%s --overwrite\nkubectl rollout restart -n %s deployment/DEPLOYMENT",
		e.namespace(), e.serviceAccount(), shellQuote(role), e.namespace())}
}

// fixRoleARN is for a role's ARN with a mistake in it.
func (e *examination) fixRoleARN() []Fix {
	meant := names.RoleARNMeant(e.Exchange.RoleARN)
	if meant == "" || !presentable(meant) {
		return e.fixAnnotation()
	}
	return []Fix{
		e.annotate(meant),
		e.setEnv("or, where AWS_ROLE_ARN is set in the Pod's own spec", ourContainer, "AWS_ROLE_ARN="+shellQuote(meant)),
	}
}

// roleToPropose is a role's ARN, with placeholders for what arn does not say.
func roleToPropose(arn string) string {
	if names.CheckRoleARN(arn) == nil {
		return arn
	}
	session := regexp.MustCompile(`^arn:([a-z-]+):sts::(\d{12}):assumed-role/([\w+=,.@-]+)(?:/|$)`).FindStringSubmatch(arn)
	switch name := regexp.MustCompile(`^(?:role/|/)?([\w+=,.@/-]+)$`).FindStringSubmatch(arn); {
	case !presentable(arn):
	case session != nil:
		return "arn:" + session[1] + ":iam::" + session[2] + ":role/" + session[3]
	case name != nil:
		return "arn:aws:iam::ACCOUNT:role/" + name[1]
	}
	return "arn:aws:iam::ACCOUNT:role/ROLE"
}

// fixNotAPod is for a laptop, where nothing is to be fixed.
func (e *examination) fixNotAPod() []Fix {
	return []Fix{
		{"examine the Pod from here", shell, "kubectl irsa doctor NAMESPACE/POD"},
		{"or in the Pod itself", shell, "kubectl exec -n NAMESPACE POD -c irsa-sidecar -- /irsa-sidecar doctor"},
	}
}

// fixName is for a variable that is set under a misspelt name.
func (e *examination) fixName(m Mistake) Fix {
	value := e.Getenv(m.Misspelt)
	if !variableName().MatchString(m.Misspelt) || !presentable(m.Misspelt) || !presentable(value) {
		return Fix{What: "correct the name in the container's env to " + m.Variable}
	}
	return e.setEnv("correct the variable's name", ourContainer, m.Variable+"="+shellQuote(value), m.Misspelt+"-")
}

// variableName is a name that a shell can read; others may be in an environment.
func variableName() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,99}$`) }

// fixMistake returns the fixes that can be known for a wrong variable.
func (e *examination) fixMistake(m Mistake) []Fix {
	switch m.Variable {
	case "AWS_REGION", "AWS_DEFAULT_REGION":
		return []Fix{e.fixRegion(m.Variable)}
	case "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS":
		return []Fix{e.unsetEndpoint(m.Variable)}
	}
	return nil
}

func (e *examination) unsetEndpoint(variable string) Fix {
	return e.setEnv("use AWS's own endpoint", ourContainer, variable+"-")
}

func (e *examination) fixStaticKeys() []Fix {
	fixes := []Fix{e.setEnv("remove the keys, so that SDKs ask the sidecar", ourContainer, "AWS_ACCESS_KEY_ID-", "AWS_SECRET_ACCESS_KEY-", "AWS_SESSION_TOKEN-")}
	if !e.inPod() {
		fixes = append(fixes, Fix{"or set all three variables, exported and quoted, for this shell and for an hour", shell, `eval "$(irsa-sidecar credentials --format env)"`})
	}
	return fixes
}

func (e *examination) fixPodIdentity() Fix {
	return Fix{"to use the role of IRSA instead, find the association and delete it", shell, fmt.Sprintf(
		"aws eks list-pod-identity-associations --cluster-name CLUSTER --namespace %s --service-account %s", e.namespace(), e.serviceAccount())}
}

func (e *examination) fixURI() Fix {
	if e.App != nil {
		return e.fixURIOf(e.App.Profile())
	}
	return e.fixURIOf(DefaultProfile)
}

// fixURIOf has the app ask for a profile.
func (e *examination) fixURIOf(profile string) Fix {
	listen := "ADDRESS:PORT"
	if e.Listen.IsValid() {
		listen = e.Listen.String()
	}
	return e.fixURIAt(listen, profile)
}

// fixURIAt has the app ask the sidecar at an address for a profile.
func (e *examination) fixURIAt(listen, profile string) Fix {
	path := "/v1/credentials"
	if profile != DefaultProfile && presentable(profile) {
		path += "/" + url.PathEscape(profile)
	}
	if e.App != nil && e.relative() {
		return e.setEnv("use the sidecar's path", appContainer, sources.RelativeURI+"="+shellQuote(path))
	}
	return e.setEnv("use the sidecar's address", appContainer, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+shellQuote("http://"+listen+path))
}

func (e *examination) fixPort() Fix {
	port := uint16(9921)
	if e.Listen.Port() == port {
		port = 9931
	}
	return e.setEnv("stop what listens there, or choose another port here and in the app's AWS_CONTAINER_CREDENTIALS_FULL_URI", ourContainer,
		"IRSA_SIDECAR_LISTEN="+shellQuote(netip.AddrPortFrom(e.Listen.Addr().WithZone(""), port).String()))
}

func (e *examination) fixHostNetwork() []Fix {
	return []Fix{
		e.setEnv("require a token from callers, in a volume that the app's container shares", ourContainer, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=/run/irsa-sidecar/authorization-token"),
		{What: "or remove hostNetwork: true from the Pod's spec"},
	}
}
