package cache

import (
	"errors"
	"fmt"
	"time"
)

// Reason is why an exchange failed, in one word from a closed list: AWS's own error code where STS
// has one, and a word in the same style where the request never got that far. The same word is the
// metric label, the log attribute, the code in the error document and the row in README.
type Reason string

// What the token file can do wrong.
const (
	TokenFileMissing    Reason = "TokenFileMissing"
	TokenFileUnreadable Reason = "TokenFileUnreadable"
	TokenFileMalformed  Reason = "TokenFileMalformed"
)

// What can happen between us and STS.
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

// What STS answers, by its own codes.
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
	Throttling              Reason = "Throttling"
	ServiceUnavailable      Reason = "ServiceUnavailable"
	UnknownError            Reason = "UnknownError"
)

// CredentialsUninitialized says that there is no answer yet; the word is the ECS agent's.
const CredentialsUninitialized Reason = "CredentialsUninitialized"

// Class is what a failure needs before another try can end otherwise.
type Class int

const (
	// Transient: time alone may mend it.
	Transient Class = iota
	// Throttled: time, and less asking.
	Throttled
	// StaleToken: another token file.
	StaleToken
	// Human: somebody has to change something.
	Human
)

func (c Class) String() string {
	return [...]string{"transient", "throttled", "stale-token", "human"}[c]
}

// reasons is the one table of failures. The advice is said to people who may never have heard of
// this program: in the log, in the error document, on the pages and by the commands.
var reasons = map[Reason]struct {
	class  Class
	advice string
}{
	TokenFileMissing: {StaleToken, "mount the projected service account token, or correct AWS_WEB_IDENTITY_TOKEN_FILE; " +
		"on EKS, annotate the service account with eks.amazonaws.com/role-arn and recreate the Pod"},
	TokenFileUnreadable: {StaleToken, "let this container's user read the token: set fsGroup in the Pod's securityContext, " +
		"or run the container as the user that owns the file"},
	TokenFileMalformed: {StaleToken, "the file must hold one projected service account token (a JWT of three parts) and nothing else; " +
		"check that AWS_WEB_IDENTITY_TOKEN_FILE names the token itself"},

	RegionUnknown: {Human, "set AWS_REGION: the token's issuer names no region"},
	EndpointNotFound: {Human, "no such host: check AWS_REGION and AWS_ENDPOINT_URL_STS for a typo, AWS_USE_FIPS_ENDPOINT for a region without FIPS, " +
		"and the Pod's DNS or the STS VPC endpoint's private DNS"},
	EndpointUnreachable: {Transient, "allow egress to STS on port 443, and to DNS: NetworkPolicy, security group, the STS VPC endpoint, HTTPS_PROXY and NO_PROXY"},
	EndpointTimeout: {Transient, "STS did not answer in time: look for a firewall that drops packets, a VPC endpoint without a route, " +
		"or an OIDC issuer that STS is slow to reach"},
	EndpointNotTrusted: {Human, "the endpoint's certificate was not accepted: if a proxy inspects TLS, name its CA in AWS_CA_BUNDLE; " +
		"otherwise check AWS_ENDPOINT_URL_STS and the node's clock"},
	ProxyNotFound:    {Human, "no such host: check the proxy in HTTPS_PROXY for a typo, and the Pod's DNS, or add the STS host to NO_PROXY"},
	ProxyRefused:     {Human, "the proxy refused: check HTTPS_PROXY's user and rules, or add the STS host to NO_PROXY"},
	NotAnSTSEndpoint: {Human, "something other than STS answered: check AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL, and any proxy or captive portal on the way"},
	UnusableCredentials: {Transient, "STS answered with credentials that cannot be used; if it lasts, check what AWS_ENDPOINT_URL_STS points at " +
		"and the clocks on both sides"},

	AccessDenied: {Human, "the token is valid but the role's trust policy does not let it in: Principal.Federated must be the cluster's OIDC provider in the role's account, " +
		"Action sts:AssumeRoleWithWebIdentity, and the conditions <issuer>:sub = system:serviceaccount:<namespace>:<name> and <issuer>:aud = the token's audience, in that exact spelling"},
	InvalidIdentityToken: {Human, "IAM in the role's account has no OIDC provider for the token's issuer, or the provider lacks the token's audience, " +
		"or STS cannot fetch the issuer's keys: compare `aws iam list-open-id-connect-providers` with the token's iss and aud"},
	ExpiredTokenException: {StaleToken, "the token in the file has expired and nobody has replaced it: check that the file is the kubelet's own projected volume, " +
		"neither a copy nor a subPath mount, and that the node's kubelet is healthy"},
	IDPCommunicationError: {Transient, "STS could not reach the cluster's OIDC issuer: its /.well-known/openid-configuration and keys must be public and answer within seconds"},
	IDPRejectedClaim:      {Human, "the identity provider rejected the token: get a new one by recreating the Pod, and check the provider's own log"},
	RegionDisabledException: {Human, "STS is switched off in this region for the account: switch it on in IAM, Account settings, " +
		"or set AWS_REGION to another region"},
	PackedPolicyTooLarge:    {Human, "shorten the session policy: IRSA_SIDECAR_POLICY_FILE, IRSA_SIDECAR_POLICY_ARNS"},
	MalformedPolicyDocument: {Human, "correct the session policy in IRSA_SIDECAR_POLICY_FILE"},
	ValidationError:         {Human, "correct the value that STS names: AWS_ROLE_ARN, AWS_ROLE_SESSION_NAME, IRSA_SIDECAR_DURATION, or a policy"},
	InvalidParameterValue:   {Human, "correct the value that STS names; from an STS other than AWS's, this is also how it refuses a token"},
	InvalidClientTokenId:    {Human, "the account and the endpoint do not belong together: check the partition in AWS_ROLE_ARN, and AWS_REGION"},
	Throttling:              {Throttled, "the account's STS quota is used up: use longer sessions (IRSA_SIDECAR_DURATION) or fewer callers"},
	ServiceUnavailable:      {Transient, "STS, or a proxy before it, has a fault of its own: it is tried again"},
	UnknownError:            {Human, "STS refused with a code that this program does not know: its own message says why"},

	CredentialsUninitialized: {Transient, "the first exchange is under way: ask again"},
}

// Class returns what the failure needs. A Reason that is not on the list is Transient: asking again
// is the safe mistake.
func (r Reason) Class() Class { return reasons[r].class }

// Advice says what to do, in words for somebody who has never seen this program; empty for a Reason
// that is not on the list.
func (r Reason) Advice() string { return reasons[r].advice }

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

	// Message says what happened. It may be shown to whoever may ask for the credentials, so it holds
	// no secret.
	Message string

	// TokenIssued is when the web identity token that was used was issued; zero as TokenExpiration is.
	TokenIssued time.Time

	// TokenExpiration is when the web identity token that was used expires; zero when there was none,
	// or it does not say.
	TokenExpiration time.Time

	// Changed reports whether that which was refused has been replaced, so that another try can end
	// otherwise. Run asks every two seconds, and tries at once. Nil means that only time can help.
	Changed func() bool
}

// Error returns the reason and the message, on one line.
func (e *FetchError) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// asFetchError makes any error speak the one vocabulary.
func asFetchError(err error) *FetchError {
	if fe, ok := errors.AsType[*FetchError](err); ok {
		return fe
	}
	return &FetchError{Reason: UnknownError, Message: Scrub(err.Error())}
}
