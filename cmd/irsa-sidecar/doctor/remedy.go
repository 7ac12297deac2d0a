package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// What a [Fix] can be. In all, words in capitals are to be replaced: they are what the doctor cannot know.
const (
	shell     = "shell"
	terraform = "terraform"
	yaml      = "yaml"
)

// Who we are, as a command takes it. Nobody vouches for what a token says before it has been verified: what is no
// name in Kubernetes, and could be an option of the command, is left to the reader.
func (e *examination) namespace() string {
	return either(named(e.claims.Namespace), named(e.podNamespace()), "NAMESPACE")
}
func (e *examination) serviceAccount() string {
	return either(named(e.claims.ServiceAccount), "SERVICE_ACCOUNT")
}
func (e *examination) pod() string { return either(named(e.claims.Pod), "POD") }

// kubernetesName is a DNS subdomain, which all three are.
// https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
var kubernetesName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// named returns a name in Kubernetes, or "".
func named(s string) string {
	if len(s) <= 253 && kubernetesName.MatchString(s) {
		return s
	}
	return ""
}

func either(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

func (e *examination) fixAnnotation() []Fix {
	arn := e.Exchange.RoleARN
	if webidentity.CheckRoleARN(arn) != nil {
		name := "ROLE"
		if presentable(arn) {
			name = either(strings.Trim(filepath.Base(arn), "./"), name)
		}
		arn = "arn:aws:iam::ACCOUNT:role/" + name
	}
	return []Fix{
		{"name the role at the service account, and start the Pods anew: only new ones get the variables", shell, fmt.Sprintf(
			"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/role-arn=%s --overwrite\nkubectl rollout restart -n %s deployment DEPLOYMENT",
			e.namespace(), e.serviceAccount(), quote(arn), e.namespace())},
		{What: "look also for eks.amazonaws.com/skip-containers at the Pod, which leaves a container out, and for an AWS_ROLE_ARN in the Pod's own spec, which makes the webhook add nothing"},
	}
}

// fixMistake proposes what can be known of a variable that is wrong.
func (e *examination) fixMistake(m Mistake) []Fix {
	switch m.Variable {
	case "AWS_REGION", "AWS_DEFAULT_REGION":
		return []Fix{e.fixRegion(m.Variable)}
	case "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS":
		return []Fix{{"use AWS's own endpoint", shell, "unset " + m.Variable}}
	}
	return nil
}

// regions are a region in each partition in which STS is always on.
var regions = map[string]string{
	"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1", "aws-eusc": "eusc-de-east-1",
	"aws-iso": "us-iso-east-1", "aws-iso-b": "us-isob-east-1", "aws-iso-e": "eu-isoe-west-1", "aws-iso-f": "us-isof-south-1",
}

func (e *examination) fixRegion(variable string) Fix {
	partition := webidentity.RolePartition(e.Exchange.RoleARN)
	region := webidentity.RegionOfIssuer(e.claims.Issuer)
	why := "use STS in the cluster's region"
	if region == "" || region == e.Exchange.Region || webidentity.Partition(region) != partition {
		region, why = either(regions[partition], "REGION"), "use a region of the role's partition"
	}
	return Fix{why, shell, "export " + variable + "=" + region}
}

// fixOtherRegion leaves a region in which STS is off.
func (e *examination) fixOtherRegion() Fix {
	partition := webidentity.RolePartition(e.Exchange.RoleARN)
	return Fix{"or use STS in a region where it is always on", shell, "export AWS_REGION=" + either(regions[partition], "REGION")}
}

func fixStaticKeys() []Fix {
	return []Fix{
		{"take the keys away, so that the SDKs ask the sidecar", shell, "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN"},
		{"or, for this shell and one hour, set all three, exported and quoted", shell, `eval "$(irsa-sidecar credentials --format env)"`},
	}
}

func (e *examination) fixURI() Fix {
	listen := "127.0.0.1:PORT"
	if presentable(e.Listen) {
		listen = e.Listen
	}
	return Fix{"name the sidecar, by address", shell, "export AWS_CONTAINER_CREDENTIALS_FULL_URI=" + quote("http://"+listen+"/v1/credentials")}
}

func (e *examination) fixPort() Fix {
	return Fix{"end what listens there, or choose another port here and in the app's AWS_CONTAINER_CREDENTIALS_FULL_URI", shell, "export IRSA_SIDECAR_LISTEN=127.0.0.1:9921"}
}

func fixHostNetwork() []Fix {
	return []Fix{
		{"ask callers for a token, in a volume that the app's container shares", shell, "export IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=/run/irsa-sidecar/authorization-token"},
		{What: "or take hostNetwork: true out of the Pod's spec"},
	}
}

func (e *examination) fixVolume() []Fix {
	return []Fix{{"mount a projected token, as a directory and without subPath; on EKS the webhook does it for an annotated service account", yaml, `spec:
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

// fixMode lets this process read the file: by its own right where it owns it, and otherwise by
// Kubernetes'.
func (e *examination) fixMode(path string) []Fix {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return []Fix{{"name the file in it", shell, "export AWS_WEB_IDENTITY_TOKEN_FILE=" + word(filepath.Join(path, "token"), "/PATH/TO/TOKEN")}}
	}
	_, owner := ownership(path)
	if strings.HasPrefix(owner, fmt.Sprintf("%d:", os.Geteuid())) {
		return []Fix{{"let its owner, which is this user, read it", shell, "chmod u+r " + word(path, "/PATH/TO/TOKEN")}}
	}
	return []Fix{
		{"give the Pod's volumes to a group that all its containers are in", shell, fmt.Sprintf(
			`kubectl patch deployment -n %s DEPLOYMENT --type merge -p '{"spec":{"template":{"spec":{"securityContext":{"fsGroup":%d}}}}}'`, e.namespace(), max(os.Getegid(), 1))},
		{What: "or run this container as the user who owns the file (runAsUser)"},
	}
}

func (e *examination) fixMalformed() []Fix {
	return []Fix{{"look at what is in the file, without its signature: it should begin with eyJ and be one line", shell, "cut -d. -f1,2 " + word(e.Exchange.TokenFile, "/PATH/TO/TOKEN")},
		{What: "have AWS_WEB_IDENTITY_TOKEN_FILE name the kubelet's own file, /var/run/secrets/eks.amazonaws.com/serviceaccount/token"}}
}

func (e *examination) fixExpired() []Fix {
	if e.token != "" && !e.projected {
		return e.fixVolume()
	}
	return []Fix{{"start the Pod anew, for a new token; if it ends again, look at the node's kubelet", shell, fmt.Sprintf("kubectl delete pod -n %s %s", e.namespace(), e.pod())}}
}

func fixClock() []Fix {
	return []Fix{{"look at time synchronization on the node", shell, "chronyc tracking"}}
}

func (e *examination) fixForeignToken() []Fix {
	return append(e.fixExpired(), Fix{"see whether the cluster still has this issuer", shell, "aws eks describe-cluster --name CLUSTER --query cluster.identity.oidc.issuer --output text"})
}

func fixIssuer(document string) Fix {
	return Fix{"see whether the document is public, from outside the cluster; STS gives up after 5 seconds", shell, "curl -sS --max-time 5 " + word(document, "URL")}
}

// fixTrust replaces a role's trust policy.
func (e *examination) fixTrust(what string, policy []byte) Fix {
	return Fix{what, shell, fmt.Sprintf("aws iam update-assume-role-policy --role-name %s --policy-document %s", e.roleName(), quote(string(policy)))}
}

func (e *examination) fixAccessDenied() []Fix {
	if e.Policy != nil {
		return nil // the check of the policy says it
	}
	look := Fix{"see which line of the role's trust policy is wrong", shell,
		fmt.Sprintf("aws iam get-role --role-name %s | irsa-sidecar doctor --trust-policy -", e.roleName())}
	if e.identity.Subject == "" {
		return []Fix{look}
	}
	id := e.identity
	return []Fix{
		look,
		e.fixTrust("or put in its place the policy that lets this service account in, and nobody else; this REPLACES the whole document, so add what else must stay", id.Policy()),
		{"or, with eksctl, a role made anew", shell, fmt.Sprintf(
			"eksctl create iamserviceaccount --cluster CLUSTER --namespace %s --name %s --role-name %s --attach-policy-arn POLICY_ARN --approve", e.namespace(), e.serviceAccount(), e.roleName())},
		{"or, in Terraform", terraform, fmt.Sprintf(`data "aws_iam_policy_document" "trust" {
  statement {
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
  }
}`, hcl(id.ProviderARN()), hcl(id.Provider()+":aud"), hcl(id.Audience), hcl(id.Provider()+":sub"), hcl(id.Subject))},
	}
}

func (e *examination) providerARN() string {
	if e.identity.Subject == "" {
		return "PROVIDER_ARN"
	}
	return e.identity.ProviderARN()
}

func (e *examination) audience() string {
	if len(e.claims.Audience) == 0 {
		return stsAudience
	}
	return either(e.identity.Audience, e.claims.Audience[0])
}

// fixProvider is for an issuer that IAM does not know, or knows otherwise.
func (e *examination) fixProvider() []Fix {
	return []Fix{
		{"see which issuers IAM knows in the role's account; a cluster that was rebuilt has a new one", shell, "aws iam list-open-id-connect-providers"},
		{"if the token's is not among them", shell, fmt.Sprintf(
			"aws iam create-open-id-connect-provider --url %s --client-id-list %s", word(e.claims.Issuer, "ISSUER"), word(e.audience(), "AUDIENCE"))},
		{"or, with eksctl", shell, "eksctl utils associate-iam-oidc-provider --cluster CLUSTER --approve"},
		{"or, in Terraform", terraform, fmt.Sprintf("resource \"aws_iam_openid_connect_provider\" \"eks\" {\n  url            = %s\n  client_id_list = [%s]\n}", hcl(either(e.claims.Issuer, "ISSUER")), hcl(either(e.audience(), "AUDIENCE")))},
		e.fixClientID()[0],
	}
}

func (e *examination) fixClientID() []Fix {
	return []Fix{{"if the provider is there, and does not have the token's audience among its client IDs", shell, fmt.Sprintf(
		"aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn %s --client-id %s", word(e.providerARN(), "PROVIDER_ARN"), word(e.audience(), "AUDIENCE"))}}
}

func (e *examination) fixAudience() []Fix {
	if len(e.claims.Audience) == 1 && e.claims.Audience[0] == stsAudience {
		return nil
	}
	return []Fix{{"if that is a mistake: have tokens made for " + stsAudience + ", and start the Pods anew", shell, fmt.Sprintf(
		"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/audience=%s --overwrite\nkubectl rollout restart -n %s deployment DEPLOYMENT",
		e.namespace(), e.serviceAccount(), stsAudience, e.namespace())}}
}

func (e *examination) fixThumbprint() []Fix {
	return []Fix{{"have IAM read the certificate anew: make the provider again", shell, fmt.Sprintf(
		"aws iam delete-open-id-connect-provider --open-id-connect-provider-arn %s\naws iam create-open-id-connect-provider --url %s --client-id-list %s",
		word(e.providerARN(), "PROVIDER_ARN"), word(e.claims.Issuer, "ISSUER"), word(e.audience(), "AUDIENCE"))}}
}

func (e *examination) fixDuration() Fix {
	return Fix{"allow longer sessions", shell, fmt.Sprintf("aws iam update-role --role-name %s --max-session-duration %d", e.roleName(), int(e.Exchange.Duration.Seconds()))}
}

// fixReason is what to do about a failure that has one cause, or one that cannot be told from here.
func (e *examination) fixReason(f *cache.FetchError) []Fix {
	host := "STS"
	if endpoint, err := e.Exchange.EndpointURL(context.Background(), e.claims.Issuer); err == nil && presentable(endpoint.Hostname()) {
		host = endpoint.Hostname()
	}
	unsetEndpoint := func() []Fix {
		for _, name := range []string{"AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"} {
			if e.Getenv(name) != "" {
				return []Fix{{"use AWS's own endpoint", shell, "unset " + name}}
			}
		}
		return nil
	}
	switch f.Reason {
	case cache.AccessDenied:
		return e.fixAccessDenied()
	case cache.ExpiredTokenException:
		if strings.Contains(f.Message, "too old") {
			return append(e.fixExpired(), Fix{"and have tokens made that live shorter", shell, fmt.Sprintf(
				"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/token-expiration=3600 --overwrite", e.namespace(), e.serviceAccount())})
		}
		return e.fixExpired()
	case cache.IDPRejectedClaim:
		return e.fixExpired()
	case cache.RegionDisabledException:
		return []Fix{{What: "switch STS on for the region: IAM console, Account settings, Security Token Service"}, e.fixOtherRegion()}
	case cache.RegionUnknown, cache.InvalidClientTokenId:
		return []Fix{e.fixRegion("AWS_REGION")}
	case cache.ValidationError:
		switch {
		case strings.Contains(f.Message, "DurationSeconds"):
			return []Fix{e.fixDuration()}
		case strings.Contains(f.Message, "roleSessionName"):
			return []Fix{{"let the sidecar make the session's name", shell, "unset AWS_ROLE_SESSION_NAME"}}
		case strings.Contains(f.Message, "ARN"), strings.Contains(f.Message, "roleArn"):
			return e.fixAnnotation()
		}
		return nil
	case cache.PackedPolicyTooLarge, cache.MalformedPolicyDocument:
		return []Fix{{"see what is sent", shell, "wc -c \"$IRSA_SIDECAR_POLICY_FILE\"; python3 -m json.tool \"$IRSA_SIDECAR_POLICY_FILE\""}}
	case cache.Throttling:
		return []Fix{{"allow longer sessions, for fewer exchanges", shell, fmt.Sprintf(
			"aws iam update-role --role-name %s --max-session-duration 43200\nexport IRSA_SIDECAR_DURATION=12h", e.roleName())}}
	case cache.NotAnSTSEndpoint:
		if fixes := unsetEndpoint(); fixes != nil {
			return fixes
		}
		return []Fix{{"see what answers; a proxy or a captive portal is likely", shell, "curl -sSI " + quote("https://"+host)}}
	case cache.EndpointNotFound:
		if fixes := unsetEndpoint(); fixes != nil {
			return fixes
		}
		if strings.EqualFold(e.Getenv("AWS_USE_FIPS_ENDPOINT"), "true") {
			return []Fix{{"use the endpoint that is not FIPS's, which few regions have", shell, "unset AWS_USE_FIPS_ENDPOINT"}}
		}
		return []Fix{e.fixRegion("AWS_REGION")}
	case cache.EndpointUnreachable, cache.EndpointTimeout:
		return append(unsetEndpoint(), Fix{"see whether it is this Pod or the whole node", shell, "curl -sS --max-time 5 -o /dev/null -w '%{http_code}\\n' " + quote("https://"+host)},
			Fix{What: "allow egress to port 443, in NetworkPolicies, security groups and the VPC endpoint's security group"})
	case cache.EndpointNotTrusted:
		return []Fix{{"if a proxy inspects TLS, trust its CA too", shell, "export AWS_CA_BUNDLE=/PATH/TO/CA.pem"}}
	case cache.ProxyNotFound:
		return []Fix{{"correct the proxy's host", shell, "export HTTPS_PROXY=http://PROXY:PORT"}, e.fixNoProxy("or go to STS without it", host)}
	case cache.ProxyRefused:
		return []Fix{e.fixNoProxy("go to STS without the proxy", host)}
	}
	return nil
}

func (e *examination) fixNoProxy(what, host string) Fix {
	return Fix{what, shell, "export NO_PROXY=" + word(strings.TrimPrefix(e.Getenv("NO_PROXY")+","+host, ","), quote("HOSTS,"+host))}
}

// maxValue is longer than any value that AWS and Kubernetes take, and than most lists of hosts.
const maxValue = 4096

// presentable reports whether a value may be repeated: it has nothing that a terminal would obey instead of
// showing it, and nothing that looks like a secret in the wrong place. To be asked of the whole value, for with
// something before it a secret looks like none.
func presentable(s string) bool {
	return s != "" && len(s) <= maxValue && cache.OneLine(s) == s && cache.Scrub(s) == s
}

// word writes a value so that a shell reads it back, and as one word that is no option. Where that cannot be, the
// value is left to the reader.
func word(s, capitals string) string {
	if !presentable(s) || s[0] == '-' {
		return capitals
	}
	return quote(s)
}

// plain is what a shell takes as it stands.
var plain = regexp.MustCompile(`^[\w./:@%+=,-]+$`)

// quote writes a text so that a shell reads it back.
func quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// hcl writes a text as a string of Terraform's, in which ${ and %{ begin an expression, and which knows fewer
// escapes than Go's.
// https://github.com/hashicorp/hcl/blob/main/hclsyntax/spec.md#template-expressions
func hcl(s string) string {
	var b strings.Builder
	for _, r := range hclSpecial.Replace(s) {
		if one := string(r); cache.OneLine(one) == one {
			b.WriteString(one)
		} else if r <= 0xffff {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return `"` + b.String() + `"`
}

var hclSpecial = strings.NewReplacer("${", "$${", "%{", "%%{", `\`, `\\`, `"`, `\"`)
