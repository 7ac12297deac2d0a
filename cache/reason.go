package cache

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// Reason is why an exchange failed, in one word from a closed list: AWS's own error code if STS has one, and a word in
// the same style if the request never got that far. The same word is the metric label, the log attribute, the code in the
// error document and the row in the documentation.
type Reason string

// What can be wrong with the token file.
const (
	TokenFileMissing    Reason = "TokenFileMissing"
	TokenFileUnreadable Reason = "TokenFileUnreadable"
	TokenFileMalformed  Reason = "TokenFileMalformed"
)

// What can go wrong between the sidecar and STS.
const (
	RegionUnknown       Reason = "RegionUnknown"
	EndpointNotFound    Reason = "EndpointNotFound"
	EndpointUnreachable Reason = "EndpointUnreachable"
	EndpointTimeout     Reason = "EndpointTimeout"
	EndpointNotTrusted  Reason = "EndpointNotTrusted"
	ProxyNotFound       Reason = "ProxyNotFound"
	ProxyRefused        Reason = "ProxyRefused"
	NotAnSTSEndpoint    Reason = "NotAnSTSEndpoint"
	UnusableCredentials Reason = "UnusableCredentials"
)

// What STS responds, in its own codes.
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors
// https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
const (
	AccessDenied            Reason = "AccessDenied"
	InvalidIdentityToken    Reason = "InvalidIdentityToken"
	ExpiredTokenException   Reason = "ExpiredTokenException"
	IDPCommunicationError   Reason = "IDPCommunicationError"
	IDPRejectedClaim        Reason = "IDPRejectedClaim"
	RegionDisabledException Reason = "RegionDisabledException"
	PackedPolicyTooLarge    Reason = "PackedPolicyTooLarge"
	MalformedPolicyDocument Reason = "MalformedPolicyDocument"
	ValidationError         Reason = "ValidationError"
	InvalidParameterValue   Reason = "InvalidParameterValue"
	InvalidClientTokenId    Reason = "InvalidClientTokenId" // AWS's spelling
	ExpiredToken            Reason = "ExpiredToken"
	RequestExpired          Reason = "RequestExpired"
	SignatureDoesNotMatch   Reason = "SignatureDoesNotMatch"
	Throttling              Reason = "Throttling"
	ServiceUnavailable      Reason = "ServiceUnavailable"
	UnknownError            Reason = "UnknownError"
)

// CredentialsUninitialized means that the first exchange has not ended; the word is the ECS agent's.
const CredentialsUninitialized Reason = "CredentialsUninitialized"

// Class is what a failure needs before another exchange can succeed.
type Class int

const (
	// Transient failures may clear with time alone.
	Transient Class = iota
	// Throttled failures clear with time and fewer requests.
	Throttled
	// StaleToken failures clear when the token file changes.
	StaleToken
	// Human failures last until somebody changes something.
	Human
)

func (c Class) String() string {
	return [...]string{"transient", "throttled", "stale-token", "human"}[c]
}

// reasons is the one table of failures. Its texts reach people who may never have heard of this program: the
// advice says all there is to do, the short form is one clause of at most maxShort characters that can follow
// the message of a failure. <issuer> and the like are filled in where the failure knows them; see
// [FetchError.Names]. Reasons for which a role that is chained to another needs other advice are in chained too.
var reasons = map[Reason]remedy{
	TokenFileMissing: {StaleToken, "mount the projected service account token, or correct AWS_WEB_IDENTITY_TOKEN_FILE",
		"mount the projected service account token, or correct AWS_WEB_IDENTITY_TOKEN_FILE; " +
			"on EKS, annotate the service account with eks.amazonaws.com/role-arn and recreate the Pod"},
	TokenFileUnreadable: {StaleToken, "set fsGroup in the Pod's securityContext, so that this user may read the token",
		"let this container's user read the token: set fsGroup in the Pod's securityContext, " +
			"or run the container as the user that owns the file"},
	TokenFileMalformed: {StaleToken, "point AWS_WEB_IDENTITY_TOKEN_FILE at the projected token itself",
		"the file must contain one projected service account token (a JWT of three parts) and nothing else; " +
			"check that AWS_WEB_IDENTITY_TOKEN_FILE names the token itself"},

	RegionUnknown: {Human, "set AWS_REGION", "set AWS_REGION: the token's issuer does not name a region"},
	EndpointNotFound: {Human, "check AWS_REGION and AWS_ENDPOINT_URL_STS for a typo, and the Pod's DNS",
		"check AWS_REGION and AWS_ENDPOINT_URL_STS for a typo, AWS_USE_FIPS_ENDPOINT for a region without FIPS, " +
			"and the Pod's DNS or the STS VPC endpoint's private DNS"},
	EndpointUnreachable: {Transient, "allow egress to STS on port 443, and to DNS",
		"allow egress to STS on port 443, and to DNS: check NetworkPolicy, security group, the STS VPC endpoint, HTTPS_PROXY and NO_PROXY"},
	EndpointTimeout: {Transient, "look for a firewall that drops packets, or a VPC endpoint without a route",
		"look for a firewall that drops packets, a VPC endpoint without a route, or an OIDC issuer that STS is slow to reach"},
	EndpointNotTrusted: {Human, "set AWS_CA_BUNDLE to the proxy's CA, or check AWS_ENDPOINT_URL_STS and the node's clock",
		"if a proxy inspects TLS, set AWS_CA_BUNDLE to a file with its CA; otherwise check AWS_ENDPOINT_URL_STS and the node's clock"},
	ProxyNotFound: {Human, "check HTTPS_PROXY for a typo, and the Pod's DNS",
		"check the proxy in HTTPS_PROXY for a typo, and the Pod's DNS, or add the STS host to NO_PROXY"},
	ProxyRefused: {Human, "check the user and the rules of the proxy in HTTPS_PROXY",
		"check the user in HTTPS_PROXY and the proxy's rules, or add the STS host to NO_PROXY"},
	NotAnSTSEndpoint: {Human, "check AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL, and any proxy on the way",
		"something other than STS answered: check AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL, and any proxy or captive portal on the way"},
	UnusableCredentials: {Transient, "if it lasts, check AWS_ENDPOINT_URL_STS and the clocks on both sides",
		"if it lasts, check what AWS_ENDPOINT_URL_STS points at, and the clocks on both sides"},

	AccessDenied: {Human, "allow <subject> in the role's trust policy",
		"check that the role exists and that its trust policy allows the token: Action sts:AssumeRoleWithWebIdentity, " +
			"Principal.Federated arn:<partition>:iam::<account>:oidc-provider/<issuer>, " +
			"and conditions that are true for <issuer>:sub = <subject> and <issuer>:aud = <audience>, in exactly that spelling"},
	InvalidIdentityToken: {Human, "register the cluster's OIDC provider for <audience> in the role's account",
		"check that account <account> has an IAM OIDC provider for <issuer> with the client ID <audience> " +
			"(`aws iam list-open-id-connect-providers`), and that STS can fetch the issuer's keys"},
	ExpiredTokenException: {StaleToken, "mount the kubelet's own projected volume, neither a copy nor a subPath",
		"the token in the file has expired and has not been replaced: check that the file is in the kubelet's own projected volume, " +
			"neither a copy nor a subPath mount, and that the node's kubelet is healthy"},
	IDPCommunicationError: {Transient, "make the cluster's OIDC issuer public and fast to answer",
		"STS could not reach the cluster's OIDC issuer: https://<issuer>/.well-known/openid-configuration and the keys it names must be public and answer within seconds"},
	IDPRejectedClaim: {Human, "recreate the Pod for a new token, and check the identity provider's own log",
		"the identity provider rejected the token: get a new one by recreating the Pod, and check the provider's own log"},
	RegionDisabledException: {Human, "activate STS for this region in the account, or set AWS_REGION to another",
		"STS is not active in this region for the account: activate it in IAM, Account settings, or set AWS_REGION to another region"},
	ExpiredToken: {Transient, "if it lasts, check the node's clock",
		"the session of the source profile ended before STS had the request: the sidecar retries with a new one; if it lasts, check the node's clock"},
	RequestExpired: {Transient, "check the node's clock",
		"the request was signed more than five minutes before or after STS had it: check the node's clock; the sidecar corrects its signatures by STS's"},
	SignatureDoesNotMatch: {Human, "look for a proxy that changes requests, and check the region of the endpoint",
		"STS does not accept the signature of the request: look for a proxy that changes requests or removes headers, " +
			"and check that AWS_ENDPOINT_URL_STS is an endpoint of the region"},
	PackedPolicyTooLarge: {Human, "shorten the session policy",
		"shorten the session policy: IRSA_SIDECAR_POLICY_FILE, IRSA_SIDECAR_POLICY_ARNS"},
	MalformedPolicyDocument: {Human, "correct the session policy in IRSA_SIDECAR_POLICY_FILE",
		"correct the session policy in IRSA_SIDECAR_POLICY_FILE"},
	ValidationError: {Human, "correct the value that STS names",
		"correct the value that STS names: AWS_ROLE_ARN, AWS_ROLE_SESSION_NAME, IRSA_SIDECAR_DURATION, or a policy"},
	InvalidParameterValue: {Human, "correct the value that STS names, or the token",
		"correct the value that STS names; an STS other than AWS's also refuses tokens with this code"},
	InvalidClientTokenId: {Human, "check the partition in AWS_ROLE_ARN, and AWS_REGION",
		"the account and the endpoint do not belong together: check the partition in AWS_ROLE_ARN, and AWS_REGION"},
	Throttling: {Throttled, "use longer sessions or fewer callers",
		"the account's STS quota is used up: use longer sessions (IRSA_SIDECAR_DURATION) or fewer callers"},
	ServiceUnavailable: {Transient, "wait: the sidecar retries",
		"STS, or a proxy in front of it, failed: the sidecar retries"},
	UnknownError: {Human, "see STS's own message",
		"STS refused with an unknown code: its message says why"},

	CredentialsUninitialized: {Transient, "ask again", "the first exchange is under way: ask again"},
}

type remedy struct {
	class         Class
	short, advice string
}

// chained has the advice for requests that are signed with the credentials of a source profile. The classes are those in
// reasons.
var chained = map[Reason]remedy{
	AccessDenied: {Human, "check the target's trust policy, the source role's sts:AssumeRole, and the external ID",
		"check that <role> exists and that its trust policy allows sts:AssumeRole to Principal.AWS <source>; that the policies of <source> " +
			"allow sts:AssumeRole on <role>; and that the external ID is the one that the trust policy requires. " +
			"With session tags both must also allow sts:TagSession, with a source identity sts:SetSourceIdentity"},
	InvalidClientTokenId: {Human, "check the partitions of both roles, and the region",
		"STS does not accept the session of the source profile: both roles must be in one partition, the region must be in it and " +
			"enabled for the account of <source>, and <source> must still exist"},
	PackedPolicyTooLarge: {Human, "shorten the session policy or the session tags",
		"shorten the session policy, its ARNs or the session tags; transitive tags of the source profiles count too"},
	ValidationError: {Human, "correct the value that STS names",
		"correct the value that STS names: the role's ARN, the session name, the duration, the external ID, a tag, the source identity, or a policy"},
	InvalidParameterValue: {Human, "correct the value that STS names",
		"correct the value that STS names; a transitive tag of a source profile cannot be set again"},
}

// maxShort is the longest short advice, in characters: it follows a message on one line.
const maxShort = 100

// Class returns what the failure needs. A Reason that is not on the list is Transient: asking again
// is the safe mistake.
func (r Reason) Class() Class { return reasons[r].class }

// Advice returns what to do, for somebody who has never seen this program, with placeholders such as <issuer> for
// what differs from case to case, so it may be shown to anyone. It is empty for a Reason that is not on the list.
// [FetchError.Advice] fills the placeholders in.
func (r Reason) Advice() string { return reasons[r].advice }

// ChainedAdvice returns what to do if the request was signed with the credentials of a source profile, as Advice does. It is
// empty if that is the same.
func (r Reason) ChainedAdvice() string { return chained[r].advice }

// Reasons lists every Reason, in no order.
func Reasons() []Reason {
	all := make([]Reason, 0, len(reasons))
	for r := range reasons {
		all = append(all, r)
	}
	return all
}

// FetchError is how a [Fetch] fails. Anything else it returns is taken as [UnknownError].
type FetchError struct {
	Reason Reason

	// Message says what happened. It is shown to anyone who may ask for the credentials, so it must
	// not contain a secret.
	Message string

	// Names are what the placeholders in the Reason's advice stand for: Names["issuer"] replaces <issuer>. A
	// placeholder without a name stays, and nil fills in nothing. Names are shown to the same people as Message,
	// and must be as short and clean: one line, no secret.
	Names map[string]string

	// Hint replaces the advice of the Reason where the failure knows better. It is as public and as clean as Message,
	// and follows it on one line. Empty keeps the advice.
	Hint string

	// TokenIssued and TokenExpiration are when the web identity token that was used was issued and when it
	// expires. Each is zero when there was no token, or it does not say.
	TokenIssued     time.Time
	TokenExpiration time.Time

	// Signed says that the request was signed with the credentials of a source profile, which chooses the advice.
	Signed bool

	// Profile is the source profile whose exchange failed. Empty means the Cache's own.
	Profile string

	// Changed reports whether what was refused has been replaced, so that another exchange may end
	// differently. Run asks every two seconds, and then tries at once. Nil means that only time can help.
	Changed func() bool
}

// Via returns the failure of a source profile as that of a profile that is chained to it: the same, with the hop in front
// of the message. In a longer chain the message keeps naming the hop that failed, and only that.
func (e *FetchError) Via(profile string) *FetchError {
	own := *e
	if own.Profile == "" {
		own.Profile = profile
		own.Message = fmt.Sprintf("source profile %q: %s", profile, e.Message)
	}
	return &own
}

// Error returns the reason and the message, on one line.
func (e *FetchError) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// Advice returns what to do: the Hint, or the advice of the Reason, with the names filled in that the failure knows. It may
// contain the account, the subject and the audience, so it is for those who may see the credentials; others get
// [FetchError.PublicAdvice].
func (e *FetchError) Advice() string {
	if e.Hint != "" {
		return e.Hint
	}
	return fill(e.remedy().advice, e.Names)
}

// PublicAdvice returns what to do with placeholders for what the failure knows, so it may be shown to anyone, like
// [Reason.Advice].
func (e *FetchError) PublicAdvice() string { return e.remedy().advice }

// remedy returns what to do, with placeholders.
func (e *FetchError) remedy() remedy {
	if other, ok := chained[e.Reason]; ok && e.Signed {
		return other
	}
	return reasons[e.Reason]
}

// ShortAdvice returns the Hint, or the most likely thing to do in one clause of at most 100 characters, to follow the
// message on the same line. It is for the same people as [FetchError.Advice], and empty for a Reason that is not on the
// list.
func (e *FetchError) ShortAdvice() string {
	if e.Hint != "" {
		return e.Hint
	}
	short := e.remedy().short
	if filled := fill(short, e.Names); !strings.Contains(filled, "<") && utf8.RuneCountInString(filled) <= maxShort {
		return filled
	}
	return fill(short, map[string]string{"subject": "the Pod's service account", "audience": "the token's audience"})
}

// fill replaces the placeholders in text that names knows.
func fill(text string, names map[string]string) string {
	if len(names) == 0 || !strings.Contains(text, "<") {
		return text
	}
	pairs := make([]string, 0, 2*len(names))
	for name, value := range names {
		pairs = append(pairs, "<"+name+">", value)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// AsFetchError returns the FetchError in err's chain. For any other error it returns one with the reason [UnknownError]
// and with what looks like a secret masked. err must not be nil.
func AsFetchError(err error) *FetchError {
	if fe, ok := errors.AsType[*FetchError](err); ok {
		return fe
	}
	return &FetchError{Reason: UnknownError, Message: redact.Scrub(err.Error())}
}

// Innermost returns the error that err wraps last. It drops the operation, the address and the path, which the message
// around it names already. Of joined errors it chooses none.
func Innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}
