package doctor

import "github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"

// Key identifies a finding that is not a failure of the exchange itself: those have a [cache.Reason].
type Key string

// The keys, in the order of the checks. [Entries] explains them.
const (
	NotAPod              Key = "NotAPod"
	NotAnnotated         Key = "NotAnnotated"
	HalfAnnotated        Key = "HalfAnnotated"
	ConfigurationMistake Key = "ConfigurationMistake"
	ConfigurationDiffers Key = "ConfigurationDiffers"
	PodIdentity          Key = "PodIdentity"
	KeyPairBroken        Key = "KeyPairBroken"
	StaticKeys           Key = "StaticKeys"
	ProfileSet           Key = "ProfileSet"
	Shadowed             Key = "Shadowed"
	OtherEndpoint        Key = "OtherEndpoint"
	SharedFile           Key = "SharedFile"
	SessionEnded         Key = "SessionEnded"
	EndpointNotSet       Key = "EndpointNotSet"
	OutputOff            Key = "OutputOff"
	NodeRole             Key = "NodeRole"
	AddressSpelling      Key = "AddressSpelling"
	AppTokenUnusable     Key = "AppTokenUnusable"
	AppProxy             Key = "AppProxy"
	NoSidecar            Key = "NoSidecar"

	RoleARNMalformed Key = "RoleARNMalformed"

	TokenFileStatic     Key = "TokenFileStatic"
	TokenNotRotated     Key = "TokenNotRotated"
	TokenFromTheFuture  Key = "TokenFromTheFuture"
	TokenLegacy         Key = "TokenLegacy"
	TokenClaimMissing   Key = "TokenClaimMissing"
	TokenClaimMalformed Key = "TokenClaimMalformed"
	AudienceUnusual     Key = "AudienceUnusual"
	SubjectUnusual      Key = "SubjectUnusual"
	NamespaceMismatch   Key = "NamespaceMismatch"
	IssuerNotPublic     Key = "IssuerNotPublic"
	IssuerMalformed     Key = "IssuerMalformed"
	IssuerNotHTTPS      Key = "IssuerNotHTTPS"

	ClockSkew Key = "ClockSkew"

	IssuerUnreachable Key = "IssuerUnreachable"
	IssuerMismatch    Key = "IssuerMismatch"
	IssuerIncomplete  Key = "IssuerIncomplete"
	KeyUnknown        Key = "KeyUnknown"
	SignatureInvalid  Key = "SignatureInvalid"

	ProviderMissing       Key = "ProviderMissing"
	AudienceNotRegistered Key = "AudienceNotRegistered"
	ThumbprintMismatch    Key = "ThumbprintMismatch"

	DeniedByOrganization   Key = "DeniedByOrganization"
	DeniedByEndpointPolicy Key = "DeniedByEndpointPolicy"
	DeniedByPolicy         Key = "DeniedByPolicy"
	TagSessionDenied       Key = "TagSessionDenied"

	SourceNotAllowed Key = "SourceNotAllowed"
	OtherPartition   Key = "OtherPartition"

	DurationTooLong Key = "DurationTooLong"

	PortTaken   Key = "PortTaken"
	HostNetwork Key = "HostNetwork"

	NotChecked Key = "NotChecked"
)

// Entry explains a key. Both texts are rows of the documentation; Meaning is Markdown.
type Entry struct {
	Key     string
	Meaning string
}

// Entries returns all keys that are not a [cache.Reason], in the order of the checks.
func Entries() []Entry { return entries }

var entries = []Entry{
	{string(NotAPod), "This is no Pod, and the variables are not set: the doctor must run in the Pod's sidecar, or as `kubectl irsa doctor`."},
	{string(NotAnnotated), "The EKS webhook did not change this Pod: the service account lacks the annotation `eks.amazonaws.com/role-arn` (or it is misspelled), it was annotated after the Pod started, the container is listed in `skip-containers`, or the webhook was down."},
	{string(HalfAnnotated), "Only one of the two variables is set: somebody set it by hand, and the webhook then adds neither."},
	{string(ConfigurationMistake), "A variable, or the file that it names, has a value that cannot be used; `serve` would refuse to start."},
	{string(ConfigurationDiffers), "The running sidecar has not taken the configuration file as it is now: it keeps what it had while the file has a mistake, and reads a correct one within a minute."},
	{string(PodIdentity), "EKS Pod Identity has set its variables too. SDKs prefer it to IRSA, and get credentials from it directly."},
	{string(KeyPairBroken), "The access key in the environment cannot be valid: `AWS_ACCESS_KEY_ID` is not a key ID, or its other parts are missing. A shell script that assigns the secret to the ID causes this."},
	{string(StaticKeys), "Static keys are set. Every SDK uses them first and looks no further, even when they have expired."},
	{string(ProfileSet), "A profile is selected, which most SDKs prefer to web identity and to the sidecar."},
	{string(Shadowed), "The environment has both the sidecar's address and a web identity token. SDKs use the token themselves and never ask the sidecar."},
	{string(OtherEndpoint), "`AWS_CONTAINER_CREDENTIALS_FULL_URI` does not point to this sidecar."},
	{string(SharedFile), "A file of profiles in the app's container has credentials in the selected profile. Clients use them, even when they have expired, and never ask the sidecar."},
	{string(SessionEnded), "The credentials file that the sidecar has written for the app has no session, or one that has ended or should have been replaced: the sidecar does not run, has no credentials, or cannot write the file."},
	{string(EndpointNotSet), "`AWS_CONTAINER_CREDENTIALS_FULL_URI` is not set, so no client asks the sidecar. If this is the sidecar's own environment, examine it without `--app`."},
	{string(OutputOff), "The app's environment leads to an [output](programs.md#which-output-does-my-program-need) of the sidecar that is off: nothing listens or is written there, or `AWS_EC2_METADATA_DISABLED` keeps the app away from it."},
	{string(NodeRole), "The app asks for instance metadata, and the node answers, with its own role."},
	{string(AddressSpelling), "Some clients accept the sidecar's address only as `127.0.0.1`."},
	{string(AppTokenUnusable), "What the app would send as authorization token cannot be sent: its file is missing, empty or unreadable, or ends with a newline."},
	{string(AppProxy), "The app has a proxy in its environment. Most clients never use it for loopback; a few do, and so give the proxy the authorization token."},
	{string(NoSidecar), "Nothing listens where the app asks for credentials."},
	{string(RoleARNMalformed), "`AWS_ROLE_ARN` is not the ARN of a role: most often it is a role name, the ARN of a policy, or a placeholder that was never replaced."},
	{string(TokenFileStatic), "The token is a copy, or mounted with `subPath`. The kubelet does not replace those, so the token expires in place."},
	{string(TokenNotRotated), "The token is older than the kubelet allows. The kubelet cannot get a new one: check the node and the API server."},
	{string(TokenFromTheFuture), "By this node's clock the token is not valid yet: the clock is behind, or the API server's is ahead."},
	{string(TokenLegacy), "The token comes from a Secret and has no audience or no expiry. STS accepts only projected tokens."},
	{string(TokenClaimMissing), "The token lacks a claim that STS requires: `iss`, `sub`, `exp` or `iat`. Kubernetes' projected tokens have all of them."},
	{string(TokenClaimMalformed), "A time in the token is not a number of whole seconds: it has a fraction, is in milliseconds, or is a string."},
	{string(AudienceUnusual), "The token's audience is not `sts.amazonaws.com`. That is right only if the OIDC provider in IAM has exactly this client ID."},
	{string(SubjectUnusual), "The token's subject is not a service account, so trust policies for IRSA do not match it."},
	{string(NamespaceMismatch), "The token belongs to another namespace than this Pod: it was copied from elsewhere."},
	{string(IssuerNotHTTPS), "The token's issuer is not an `https://` URL, and IAM accepts OIDC providers only for those: see the API server's `--service-account-issuer`."},
	{string(IssuerNotPublic), "The token's issuer, or where its keys are, is not on the internet: `kubernetes.default.svc`, a private address, a name without a domain. IAM and STS cannot reach it: see the API server's `--service-account-issuer` and `--service-account-jwks-uri`."},
	{string(IssuerMalformed), "The token's issuer has a port, a query, a fragment or a user in its URL, which IAM does not accept."},
	{string(ClockSkew), "This node's clock differs from AWS's. AWS refuses requests signed more than five minutes off."},
	{string(IssuerUnreachable), "The issuer's public documents cannot be read from here. STS reads them over the internet, and fails if it cannot."},
	{string(IssuerMismatch), "The discovery document names another issuer. STS compares byte for byte."},
	{string(IssuerIncomplete), "The discovery document lacks something that STS requires, such as `response_types_supported`."},
	{string(KeyUnknown), "The token is signed with a key that the issuer does not publish: the token of a cluster that has been rebuilt, or outdated issuer documents."},
	{string(SignatureInvalid), "The token's signature does not match the issuer's key. The token was changed or truncated."},
	{string(ProviderMissing), "IAM in the role's account has no OIDC provider for the token's issuer, or one with other client IDs. A rebuilt cluster has a new issuer."},
	{string(AudienceNotRegistered), "IAM has the OIDC provider, but the token's audience is not one of its client IDs."},
	{string(ThumbprintMismatch), "The OIDC provider in IAM has a thumbprint that does not match the issuer's certificate."},
	{string(DeniedByOrganization), "STS names a service control policy (SCP) or a resource control policy (RCP) of the AWS organization as what refuses. The trust policy is not the reason."},
	{string(DeniedByEndpointPolicy), "STS names the policy of the VPC endpoint through which it was asked as what refuses. The trust policy is not the reason."},
	{string(DeniedByPolicy), "STS names another kind of policy as what refuses, such as a permissions boundary. The trust policy is not the reason."},
	{string(TagSessionDenied), "The token or the request carries session tags or a source identity, and the policies allow the role to be assumed only without: they must allow `sts:TagSession` or `sts:SetSourceIdentity` too."},
	{string(SourceNotAllowed), "In a chain: STS says that no policy of the source role allows it to assume the target. The target's trust policy is not the reason."},
	{string(OtherPartition), "In a chain: the target is in another partition than its source, and a role can be assumed only within one partition."},
	{string(DurationTooLong), "`IRSA_SIDECAR_DURATION` is more than the role allows. Sessions of one hour are used instead."},
	{string(PortTaken), "Something other than this sidecar listens on its address."},
	{string(HostNetwork), "The Pod uses the node's network, so every program on the node can reach the sidecar, and no authorization token is required."},
	{string(trustpolicy.NotAPolicy), "The file is not a trust policy; the finding names the line."},
	{string(trustpolicy.NothingFederated), "No statement is about web identity."},
	{string(trustpolicy.WrongProvider), "`Principal.Federated` is not the ARN of the issuer's provider: `oidc.<region>.eks` instead of `oidc.eks.<region>`, another cluster's, or a URL instead of an ARN."},
	{string(trustpolicy.WrongAccount), "`Principal.Federated` is in another account or partition than the role. The provider must be in the role's account."},
	{string(trustpolicy.WrongAction), "`Action` is not `sts:AssumeRoleWithWebIdentity`; most often it is `sts:AssumeRole`."},
	{string(trustpolicy.WrongOperator), "IAM has no such operator, or it compares something else than text: `StringEquals` and `StringLike` are for `aud` and `sub`."},
	{string(trustpolicy.WrongKey), "A condition uses a key that the token does not provide: the key is the whole issuer, without `https://`, followed by `:aud` or `:sub`."},
	{string(trustpolicy.LiteralWildcard), "`StringEquals` treats `*` and `?` literally; `StringLike` does not."},
	{string(trustpolicy.WrongCase), "A value differs only in upper and lower case."},
	{string(trustpolicy.Invisible), "A value has a character that is not shown, such as a no-break space, or a blank at its end."},
	{string(trustpolicy.Placeholder), "A placeholder was never replaced by a value, such as `${ACCOUNT_ID}` or `<NAMESPACE>`."},
	{string(trustpolicy.WrongSubject), "The condition on `sub` is for another service account: it must be `system:serviceaccount:<namespace>:<name>`."},
	{string(trustpolicy.WrongAudience), "The condition on `aud` is for another audience than the token's."},
	{string(trustpolicy.OtherCondition), "A condition is not met, or only AWS can tell whether it is; STS refuses, and everything else holds."},
	{string(trustpolicy.Denied), "A `Deny` statement applies, whatever other statements allow, or only AWS can tell whether it does."},
	{string(trustpolicy.OtherRole), "The policy is that of another role than `AWS_ROLE_ARN`. Roles of one name with different paths are different roles."},
	{string(trustpolicy.MissingAudience), "No condition on `aud`: tokens for every client ID of the provider are accepted."},
	{string(trustpolicy.MissingSubject), "No condition on `sub`: every service account of the cluster is accepted."},
	{string(trustpolicy.AnyPrincipal), "`Principal` is `*`: every identity provider is trusted."},
	{string(NotChecked), "Checks that were skipped because earlier ones failed, or that cannot be made from here."},
}
