package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
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
	listen := "ADDRESS:PORT"
	if e.Listen.IsValid() {
		listen = e.Listen.String()
	}
	return e.setEnv("use the sidecar's address", appContainer, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+shellQuote("http://"+listen+"/v1/credentials"))
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

// The token and its file.

func (e *examination) fixVolume() []Fix {
	return []Fix{{"mount a projected token as a directory, without subPath; on EKS the webhook does this for an annotated service account", yaml, `spec:
  containers:
    - name: irsa-sidecar
      env:
        - {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /var/run/secrets/eks.amazonaws.com/serviceaccount/token}
      volumeMounts:
        - {name: aws-iam-token, mountPath: /var/run/secrets/eks.amazonaws.com/serviceaccount, readOnly: true}
  volumes:
    - name: aws-iam-token
      projected:
        sources:
          - serviceAccountToken: {audience: sts.amazonaws.com, expirationSeconds: 86400, path: token}`}}
}

// usualToken is where the EKS webhook mounts the token.
const usualToken = "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"

// fixTokenPath is for a path of something other than a file.
func (e *examination) fixTokenPath(path string) []Fix {
	if meant := webidentity.TokenPathMeant(path); meant != "" {
		return []Fix{e.setTokenPath("correct the path", meant)}
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return []Fix{e.setTokenPath("use the path of the file in it", filepath.Join(path, "token"))}
	}
	if path == usualToken {
		return e.fixVolume()
	}
	return []Fix{e.setTokenPath("use the kubelet's own file", usualToken)}
}

func (e *examination) setTokenPath(what, path string) Fix {
	return e.setEnv(what, ourContainer, "AWS_WEB_IDENTITY_TOKEN_FILE="+shellWord(path, "/PATH/TO/TOKEN"))
}

// fixMode lets this process read the file: with its permissions if this user owns it, and with the Pod's otherwise.
func (e *examination) fixMode(path string) []Fix {
	_, owner := ownership(path)
	if !e.inPod() && strings.HasPrefix(owner, fmt.Sprintf("%d:", os.Geteuid())) {
		return []Fix{{"let this user, who owns the file, read it", shell, "chmod u+r " + shellWord(path, "/PATH/TO/TOKEN")}}
	}
	return []Fix{
		{"give the Pod's volumes to a group that all its containers belong to", shell, fmt.Sprintf(
			`kubectl patch -n %s deployment/DEPLOYMENT --type merge -p '{"spec":{"template":{"spec":{"securityContext":{"fsGroup":%d}}}}}'`, e.namespace(), max(os.Getegid(), 1))},
		{What: "or run this container as the user that owns the file (runAsUser)"},
	}
}

// fixMalformed is for a file that contains something other than a token.
func (e *examination) fixMalformed() []Fix {
	if e.Exchange.TokenFile == usualToken {
		return e.fixVolume()
	}
	return append([]Fix{e.setTokenPath("use the kubelet's own file", usualToken)}, e.fixVolume()...)
}

// fixClaims is for a token that Kubernetes did not issue, or not as it issues projected tokens.
func (e *examination) fixClaims() []Fix {
	return append([]Fix{{What: "have whoever issues the token write all of iss, sub, aud, exp and iat, the times in whole seconds; Kubernetes does"}}, e.fixVolume()...)
}

func (e *examination) fixExpired() []Fix {
	if e.token != "" && !e.projected {
		return e.fixVolume()
	}
	return []Fix{{"recreate the Pod to get a new token; if that one expires too, check the node's kubelet", shell, e.deletePod()}}
}

func (e *examination) deletePod() string {
	return fmt.Sprintf("kubectl delete pod -n %s %s", e.namespace(), e.pod())
}

func (e *examination) fixTooOld() []Fix {
	return append(e.fixExpired(), Fix{"and ask for tokens with a shorter lifetime", shell, fmt.Sprintf(
		"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/token-expiration=3600 --overwrite", e.namespace(), e.serviceAccount())})
}

func (e *examination) fixClock() []Fix {
	if !e.inPod() {
		return []Fix{{"check time synchronization", shell, "chronyc tracking"}}
	}
	return []Fix{{"check time synchronization on the Pod's node", shell, "kubectl debug node/NODE -it --image=busybox -- chroot /host chronyc tracking"}}
}

// fromPod makes a command of a tool that the image lacks one that runs in the Pod's network.
func (e *examination) fromPod(what, image, command string) Fix {
	if !e.inPod() {
		return Fix{what, shell, command}
	}
	return Fix{what + ", from the Pod's network", shell, fmt.Sprintf("kubectl debug -n %s %s -it --image=%s -- %s", e.namespace(), e.pod(), image, command)}
}

func (e *examination) fixForeignToken() []Fix {
	return append(e.fixExpired(), Fix{"check whether the cluster still has this issuer", shell, "aws eks describe-cluster --name CLUSTER --query cluster.identity.oidc.issuer --output text"})
}

func fixIssuer(document string) Fix {
	return Fix{"check on a laptop that the document is public; STS gives up after 5 seconds", shell, "curl -sS --max-time 5 " + shellWord(document, "URL")}
}

// audience is the audience that the provider should have.
func (e *examination) audience() string {
	if len(e.claims.Audience) == 0 {
		return stsAudience
	}
	return cmp.Or(e.identity.Audience, e.claims.Audience[0])
}

func (e *examination) fixAudience() []Fix {
	if len(e.claims.Audience) == 1 && e.claims.Audience[0] == stsAudience {
		return nil
	}
	return []Fix{{"if the audience is a mistake: ask for tokens for " + stsAudience + ", then restart the Pods", shell, fmt.Sprintf(
		"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/audience=%s --overwrite\nkubectl rollout restart -n %s deployment/DEPLOYMENT",
		e.namespace(), e.serviceAccount(), stsAudience, e.namespace())}}
}

// The role and the OIDC provider in IAM.

// fixTrust replaces the role's trust policy.
func (e *examination) fixTrust(what string, policy []byte) Fix {
	return Fix{what, shell, fmt.Sprintf("aws iam update-assume-role-policy --role-name %s --policy-document %s", e.roleName(), shellQuote(string(policy)))}
}

func (e *examination) fixAccessDenied() []Fix {
	if e.Policy != nil {
		return nil // the check of the policy has the fixes
	}
	look := []Fix{e.fixReadPolicy("find out which line of the role's trust policy is wrong")}
	if e.inPod() {
		look = append(look, Fix{"or let the kubectl plugin ask", shell, fmt.Sprintf("kubectl irsa doctor %s/%s --aws", e.namespace(), e.pod())})
	}
	if e.identity.Subject == "" {
		return look
	}
	id := e.identity
	return append(look, []Fix{
		{"if no statement is for this service account, add this one to the policy's list, and keep the others", statement, id.StatementText()},
		{"or, if there is no such role yet, let eksctl create it", shell, fmt.Sprintf(
			"eksctl create iamserviceaccount --cluster CLUSTER --namespace %s --name %s --role-name %s --attach-policy-arn POLICY_ARN --approve", e.namespace(), e.serviceAccount(), e.roleName())},
		{"or, in Terraform, add it to the role's aws_iam_policy_document", terraform, fmt.Sprintf(`statement {
  actions = ["sts:AssumeRoleWithWebIdentity"]
  principals {
    type        = "Federated"
    identifiers = [%s]
  }
  condition {
    test     = "StringEquals"
    variable = %s
    values   = [%s]
  }
  condition {
    test     = "StringEquals"
    variable = %s
    values   = [%s]
  }
}`, terraformString(id.ProviderARN()), terraformString(id.Provider()+":aud"), terraformString(id.Audience), terraformString(id.Provider()+":sub"), terraformString(id.Subject))},
	}...)
}

func (e *examination) providerARN() string {
	if e.identity.Subject == "" {
		return "PROVIDER_ARN"
	}
	return e.identity.ProviderARN()
}

// roleAccount is how the role's account is called in a text: that is where the provider belongs.
func (e *examination) roleAccount() string {
	if account := names.RoleAccount(e.Exchange.RoleARN); account != "" {
		return "the role's account, " + account
	}
	return "the role's account"
}

// fixProvider is for an issuer that IAM does not know, or knows with other client IDs.
func (e *examination) fixProvider() []Fix {
	return []Fix{
		{"list the issuers that IAM knows in " + e.roleAccount() + "; a rebuilt cluster has a new one", shell, "aws iam list-open-id-connect-providers"},
		{"if the token's issuer is not among them, create its provider in " + e.roleAccount() + ", even if the cluster is in another account", shell, fmt.Sprintf(
			"aws iam create-open-id-connect-provider --url %s --client-id-list %s", shellWord(e.claims.Issuer, "ISSUER"), shellWord(e.audience(), "AUDIENCE"))},
		{"or, with eksctl", shell, "eksctl utils associate-iam-oidc-provider --cluster CLUSTER --approve"},
		{"or, in Terraform", terraform, fmt.Sprintf("resource \"aws_iam_openid_connect_provider\" \"eks\" {\n  url            = %s\n  client_id_list = [%s]\n}",
			terraformString(cmp.Or(e.claims.Issuer, "ISSUER")), terraformString(cmp.Or(e.audience(), "AUDIENCE")))},
		e.fixClientID()[0],
	}
}

func (e *examination) fixClientID() []Fix {
	return []Fix{{"if the provider exists, but the token's audience is not among its client IDs", shell, fmt.Sprintf(
		"aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn %s --client-id %s", shellWord(e.providerARN(), "PROVIDER_ARN"), shellWord(e.audience(), "AUDIENCE"))}}
}

func (e *examination) fixThumbprint() []Fix {
	what := "replace the provider's thumbprint with that of the certificate that the issuer uses now; the provider stays, and so do its Pods' identities"
	if e.thumbprint == "" {
		what += " (THUMBPRINT is the SHA-1 checksum of the last certificate that openssl s_client -showcerts prints for the host in jwks_uri)"
	}
	return []Fix{{what, shell, fmt.Sprintf(
		"aws iam update-open-id-connect-provider-thumbprint --open-id-connect-provider-arn %s --thumbprint-list %s",
		shellWord(e.providerARN(), "PROVIDER_ARN"), cmp.Or(e.thumbprint, "THUMBPRINT"))}}
}

func (e *examination) fixDuration() Fix {
	return Fix{"allow longer sessions", shell, fmt.Sprintf("aws iam update-role --role-name %s --max-session-duration %d", e.roleName(), int(e.Exchange.Duration.Seconds()))}
}

// fixReason is for a failure with a single cause, or with causes that cannot be told apart from here.
func (e *examination) fixReason(err *cache.FetchError) []Fix {
	if err.Hint == webidentity.ProxyHint {
		return []Fix{e.setEnv("correct the proxy's address", ourContainer, "HTTPS_PROXY=http://PROXY:PORT"), e.fixNoProxy("or bypass the proxy for STS")}
	}
	if strings.HasSuffix(err.Message, "was cut short") {
		return []Fix{{What: "look for a proxy, a firewall or a service mesh on the way that ends connections or changes answers, and exclude STS from it"}}
	}
	switch err.Reason {
	case cache.EndpointNotTrusted:
		return e.fixCertificate(err)
	case cache.AccessDenied:
		return e.fixAccessDenied()
	case cache.ExpiredTokenException:
		if strings.Contains(err.Message, "too old") {
			return e.fixTooOld()
		}
		return e.fixExpired()
	case cache.IDPRejectedClaim:
		return e.fixExpired()
	case cache.ValidationError:
		switch {
		case strings.Contains(err.Message, "DurationSeconds"):
			return []Fix{e.fixDuration()}
		case strings.Contains(err.Message, "roleSessionName"):
			return []Fix{e.setEnv("let the sidecar choose the session name", ourContainer, "AWS_ROLE_SESSION_NAME-")}
		case strings.Contains(err.Message, "ARN"), strings.Contains(err.Message, "roleArn"):
			return e.fixAnnotation()
		}
		return nil
	case cache.PackedPolicyTooLarge, cache.MalformedPolicyDocument:
		return []Fix{{"check the session policy in IRSA_SIDECAR_POLICY_FILE, on a laptop; with the ARNs of policies it may have 2048 characters", shell,
			"aws accessanalyzer validate-policy --policy-type IDENTITY_POLICY --policy-document file://POLICY.json"}}
	case cache.Throttling:
		return []Fix{
			{"allow longer sessions, which need fewer exchanges", shell, fmt.Sprintf("aws iam update-role --role-name %s --max-session-duration 43200", e.roleName())},
			e.setEnv("and ask for them", ourContainer, "IRSA_SIDECAR_DURATION=12h"),
		}
	}
	return e.fixEndpoint(err.Reason)
}

// The way to STS.

// fixEndpoint is for a failure between this process and STS, or of the region; nil for any other.
func (e *examination) fixEndpoint(reason cache.Reason) []Fix {
	unset := e.unsetEndpoints()
	switch reason {
	case cache.RegionDisabledException:
		return []Fix{{What: "enable STS in the region: IAM console, Account settings, Security Token Service"}, e.fixOtherRegion()}
	case cache.RegionUnknown, cache.InvalidClientTokenId:
		return []Fix{e.fixRegion("AWS_REGION")}
	case cache.NotAnSTSEndpoint:
		if unset != nil {
			return unset
		}
		return []Fix{e.fromPod("see what answers (a proxy or a captive portal is likely)", "curlimages/curl", "curl -sSI "+e.stsURL())}
	case cache.EndpointNotFound:
		return e.fixNotFound()
	case cache.EndpointUnreachable, cache.EndpointTimeout:
		return append(unset, e.fromPod("find out whether another program can connect", "curlimages/curl", "curl -sS --max-time 5 -o /dev/null -w '%{http_code}\\n' "+e.stsURL()),
			e.fixEgress())
	case cache.ProxyNotFound:
		return []Fix{e.setEnv("correct the proxy's host name", ourContainer, "HTTPS_PROXY=http://PROXY:PORT"), e.fixNoProxy("or bypass the proxy for STS")}
	case cache.ProxyRefused:
		return []Fix{
			e.setEnv("if the proxy requires a user, name it", ourContainer, "HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT"),
			e.fixNoProxy("or bypass the proxy for STS"),
		}
	}
	return nil
}

// fixCertificate is for a certificate that is not accepted. The failure has a hint unless its issuer is at fault.
func (e *examination) fixCertificate(err *cache.FetchError) []Fix {
	switch unset := e.unsetEndpoints(); {
	case strings.Contains(err.Hint, "clock"):
		return e.fixClock()
	case err.Hint != "" && unset != nil:
		return unset
	case err.Hint != "":
		return []Fix{{What: "find out which server that is, and why it answers for this name"}}
	}
	return []Fix{e.setEnv("if a proxy inspects TLS, trust its CA too", ourContainer, "AWS_CA_BUNDLE=/PATH/TO/CA.pem")}
}

// fixEgress lets this process reach the endpoint of STS.
func (e *examination) fixEgress() Fix {
	endpoint, err := e.Exchange.EndpointURL(context.Background(), e.claims.Issuer)
	if err != nil {
		endpoint = &url.URL{Scheme: "https", Host: "STS"}
	}
	_, port, _ := net.SplitHostPort(hostPort(endpoint))
	if isLoopback(endpoint.String()) {
		return Fix{What: "start what should listen there, or correct the endpoint"}
	}
	return Fix{What: "allow egress to port " + port + " in NetworkPolicies, security groups and the VPC endpoint's security group"}
}

// fixNotFound is for a host of STS that the DNS does not know.
func (e *examination) fixNotFound() []Fix {
	if unset := e.unsetEndpoints(); unset != nil {
		return append(unset, fixDNS()...)
	}
	switch {
	case e.regionMeant() != "":
		return []Fix{e.fixRegion("AWS_REGION")}
	case e.Exchange.FIPS && !hasFIPS(e.Exchange.Region):
		return []Fix{e.setEnv("use the regular endpoint: few regions have a FIPS endpoint", ourContainer, "AWS_USE_FIPS_ENDPOINT-")}
	case e.Exchange.DualStack:
		return append([]Fix{e.setEnv("use the regular endpoint: few services have a dual-stack endpoint in every region", ourContainer, "AWS_USE_DUALSTACK_ENDPOINT-")}, fixDNS()...)
	case e.regionExists():
		return fixDNS()
	}
	return []Fix{e.fixRegion("AWS_REGION")}
}

// hasFIPS reports whether STS has a FIPS endpoint in a region.
// https://docs.aws.amazon.com/general/latest/gr/sts.html
func hasFIPS(region string) bool { return strings.HasPrefix(region, "us-") }

// regionExists reports whether the region of the exchange exists for certain, so that its name cannot be why STS is not found.
func (e *examination) regionExists() bool {
	return isRegion(cmp.Or(e.Exchange.Region, names.RegionOfIssuer(e.claims.Issuer)))
}

func fixDNS() []Fix {
	return []Fix{
		{"check that the cluster's DNS runs", shell, "kubectl get pods -n kube-system --selector k8s-app=kube-dns"},
		{What: "allow egress to port 53 (UDP and TCP) in NetworkPolicies, and check dnsPolicy and dnsConfig in the Pod's spec, and the private DNS of an STS VPC endpoint"},
	}
}

// unsetEndpoints returns to AWS's own endpoint; nil if no other is configured.
func (e *examination) unsetEndpoints() []Fix {
	for _, name := range []string{"AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"} {
		if e.Getenv(name) != "" {
			return []Fix{e.unsetEndpoint(name)}
		}
	}
	return nil
}

// stsURL is the STS endpoint for use in a command, with the scheme and the port as configured, quoted for a shell.
func (e *examination) stsURL() string {
	endpoint, err := e.Exchange.EndpointURL(context.Background(), e.claims.Issuer)
	if err != nil || !presentable(endpoint.Hostname()) || endpoint.Host == "" {
		return "https://STS"
	}
	return shellQuote(endpoint.Scheme + "://" + endpoint.Host)
}

// stsHost is the host of the STS endpoint for use in a command.
func (e *examination) stsHost() string {
	if endpoint, err := e.Exchange.EndpointURL(context.Background(), e.claims.Issuer); err == nil && presentable(endpoint.Hostname()) {
		return endpoint.Hostname()
	}
	return "STS"
}

func (e *examination) fixNoProxy(what string) Fix {
	host := e.stsHost()
	list := cmp.Or(e.Getenv("NO_PROXY"), e.Getenv("no_proxy")) // a NO_PROXY replaces all of no_proxy
	return e.setEnv(what, ourContainer, "NO_PROXY="+shellWord(strings.TrimPrefix(list+","+host, ","), shellQuote("HOSTS,"+host)))
}

// regions has a region for each partition in which STS is always enabled.
var regions = map[string]string{
	"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1", "aws-eusc": "eusc-de-east-1",
	"aws-iso": "us-iso-east-1", "aws-iso-b": "us-isob-east-1", "aws-iso-e": "eu-isoe-west-1", "aws-iso-f": "us-isof-south-1",
}

func (e *examination) fixRegion(variable string) Fix {
	partition := names.RolePartition(e.Exchange.RoleARN)
	region, what := e.regionMeant(), "correct the region"
	if region == "" {
		region, what = names.RegionOfIssuer(e.claims.Issuer), "use STS in the cluster's region"
	}
	if region == "" || region == e.Exchange.Region || names.Partition(region) != partition {
		region, what = cmp.Or(regions[partition], "REGION"), "use a region in the role's partition"
	}
	return e.setEnv(what, ourContainer, variable+"="+region)
}

// regionMeant is the region of which the configured one is probably a misspelling, or "".
func (e *examination) regionMeant() string {
	if meant := names.RegionMeant(e.Exchange.Region); meant != "" {
		return meant
	}
	if e.Exchange.Region == "" || isRegion(e.Exchange.Region) {
		return ""
	}
	partition := names.RolePartition(e.Exchange.RoleARN)
	likely := slices.DeleteFunc(append([]string{names.RegionOfIssuer(e.claims.Issuer)}, knownRegions()...), func(region string) bool {
		return region == "" || regions[partition] != "" && names.Partition(region) != partition
	})
	return nearest.Word(e.Exchange.Region, likely)
}

// knownRegions are the regions that exist. One that is opened later is taken for a misspelling only where the DNS does not
// know its STS either.
// https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html
func knownRegions() []string {
	return strings.Fields("af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 " +
		"ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 ap-southeast-7 " +
		"ca-central-1 ca-west-1 cn-north-1 cn-northwest-1 eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 " +
		"eu-west-1 eu-west-2 eu-west-3 eusc-de-east-1 il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 " +
		"us-east-1 us-east-2 us-gov-east-1 us-gov-west-1 us-iso-east-1 us-iso-west-1 us-isob-east-1 us-west-1 us-west-2 " +
		"eu-isoe-west-1 us-isof-east-1 us-isof-south-1")
}

func isRegion(region string) bool { return slices.Contains(knownRegions(), region) }

// fixOtherRegion leaves a region in which STS is disabled.
func (e *examination) fixOtherRegion() Fix {
	partition := names.RolePartition(e.Exchange.RoleARN)
	return e.setEnv("or use STS in a region where it is always enabled", ourContainer, "AWS_REGION="+cmp.Or(regions[partition], "REGION"))
}
