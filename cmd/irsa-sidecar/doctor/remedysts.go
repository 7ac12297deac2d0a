package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

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

// fixEndpoint is for a failure between this process and STS, or of the region; nil for any other.
func (e *examination) fixEndpoint(reason cache.Reason) []Fix {
	unset := e.unsetEndpoints()
	switch reason {
	case cache.RegionDisabledException:
		return []Fix{{What: "enable STS in the region: IAM console, Account settings, Security Token Service"}, e.fixOtherRegion()}
	case cache.RegionUnknown:
		return []Fix{e.fixRegion("AWS_REGION")}
	case cache.InvalidClientTokenId:
		if unset != nil {
			return unset
		}
		if e.regionExists() && names.Partition(e.Exchange.Region) == names.RolePartition(e.Exchange.RoleARN) {
			return []Fix{{What: "check that the account in AWS_ROLE_ARN is right, and that the region " + e.Exchange.Region + " is enabled in it"}}
		}
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
