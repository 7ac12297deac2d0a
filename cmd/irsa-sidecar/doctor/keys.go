package doctor

import "github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"

// Key names what a check has found, where it is no failure of an exchange: those have a [cache.Reason].
type Key string

// What the checks find, in their order.
const (
	NotAnnotated         Key = "NotAnnotated"
	HalfAnnotated        Key = "HalfAnnotated"
	ConfigurationMistake Key = "ConfigurationMistake"
	PodIdentity          Key = "PodIdentity"
	KeyPairBroken        Key = "KeyPairBroken"
	StaticKeys           Key = "StaticKeys"
	ProfileSet           Key = "ProfileSet"
	Shadowed             Key = "Shadowed"
	OtherEndpoint        Key = "OtherEndpoint"

	RoleARNMalformed Key = "RoleARNMalformed"

	TokenFileStatic    Key = "TokenFileStatic"
	TokenNotRotated    Key = "TokenNotRotated"
	TokenFromTheFuture Key = "TokenFromTheFuture"
	TokenLegacy        Key = "TokenLegacy"
	AudienceUnusual    Key = "AudienceUnusual"
	SubjectUnusual     Key = "SubjectUnusual"
	NamespaceMismatch  Key = "NamespaceMismatch"
	IssuerNotHTTPS     Key = "IssuerNotHTTPS"

	ClockSkew Key = "ClockSkew"

	IssuerUnreachable Key = "IssuerUnreachable"
	IssuerMismatch    Key = "IssuerMismatch"
	IssuerIncomplete  Key = "IssuerIncomplete"
	KeyUnknown        Key = "KeyUnknown"
	SignatureInvalid  Key = "SignatureInvalid"

	ProviderMissing       Key = "ProviderMissing"
	AudienceNotRegistered Key = "AudienceNotRegistered"
	ThumbprintMismatch    Key = "ThumbprintMismatch"
	DurationTooLong       Key = "DurationTooLong"

	PortTaken   Key = "PortTaken"
	HostNetwork Key = "HostNetwork"

	NotChecked Key = "NotChecked"
)

// Entry is a row of README's table: what is behind a key.
type Entry struct {
	Key   string
	Story string
}

// Entries are all keys that are not a [cache.Reason], in the order of the checks.
func Entries() []Entry { return entries }

var entries = []Entry{
	{string(NotAnnotated), "The EKS webhook has not touched this Pod: the service account has no `eks.amazonaws.com/role-arn` (or a misspelt one), it was annotated after the Pod started, the container is in `skip-containers`, or the webhook was down."},
	{string(HalfAnnotated), "One of the two variables is there without the other: somebody set it by hand, and the webhook then adds neither."},
	{string(ConfigurationMistake), "A variable has a value that cannot be used; `serve` would refuse to start for it."},
	{string(PodIdentity), "EKS Pod Identity has set its variables too. It goes before IRSA, and gives credentials by itself."},
	{string(KeyPairBroken), "The access key in the environment cannot be one: what is in `AWS_ACCESS_KEY_ID` is no key ID, or its other parts are missing. It is what a shell recipe leaves behind that assigns the secret to the ID."},
	{string(StaticKeys), "Static keys are set. Every SDK takes them first and asks nobody else, also when they have expired."},
	{string(ProfileSet), "A profile is chosen, which in most SDKs goes before web identity and before the sidecar."},
	{string(Shadowed), "The program is told of the sidecar and of the web identity token. SDKs take the token themselves, and never ask the sidecar."},
	{string(OtherEndpoint), "`AWS_CONTAINER_CREDENTIALS_FULL_URI` is not where this sidecar serves."},
	{string(RoleARNMalformed), "`AWS_ROLE_ARN` is not a role's ARN: most often a role's name alone, a policy's ARN, or a placeholder that was never replaced."},
	{string(TokenFileStatic), "The token is a copy, or mounted with `subPath`. The kubelet does not replace those, and the token ends where it is."},
	{string(TokenNotRotated), "The token is older than the kubelet lets one become. The kubelet cannot get a new one: look at the node and at the API server."},
	{string(TokenFromTheFuture), "The token is not valid yet by this node's clock, which is behind, or the API server's is ahead."},
	{string(TokenLegacy), "A token out of a Secret, which has no audience or no end. STS takes projected tokens only."},
	{string(AudienceUnusual), "The token's audience is not `sts.amazonaws.com`. That is right only if the OIDC provider in IAM has this very client ID."},
	{string(SubjectUnusual), "The token's subject is no service account: the trust policies of IRSA do not fit it."},
	{string(NamespaceMismatch), "The token is of another namespace than this Pod's: a copy from elsewhere."},
	{string(IssuerNotHTTPS), "The token's issuer is no `https://` URL, which IAM takes no provider for: the API server's `--service-account-issuer`."},
	{string(ClockSkew), "This node's clock and AWS's differ. AWS refuses what is signed more than five minutes off."},
	{string(IssuerUnreachable), "The issuer's public documents cannot be read from here. STS reads them from the internet, and fails if it cannot."},
	{string(IssuerMismatch), "The discovery document is another issuer's. STS compares byte by byte."},
	{string(IssuerIncomplete), "The discovery document lacks what STS insists on, such as `response_types_supported`."},
	{string(KeyUnknown), "The token is signed with a key that the issuer does not publish: a token of a cluster that has been rebuilt, or an issuer whose documents are out of date."},
	{string(SignatureInvalid), "The token's signature is not the issuer's. It has been changed, or cut."},
	{string(ProviderMissing), "IAM in the role's account has no OIDC provider for the token's issuer, or one with other client IDs. It also happens when a cluster was rebuilt and has a new issuer."},
	{string(AudienceNotRegistered), "IAM has the OIDC provider, and the token's audience is not among its client IDs."},
	{string(ThumbprintMismatch), "The OIDC provider in IAM has a thumbprint that does not fit the issuer's certificate."},
	{string(DurationTooLong), "`IRSA_SIDECAR_DURATION` is more than the role allows. Sessions of one hour are used instead."},
	{string(PortTaken), "Something else than this sidecar listens where it should."},
	{string(HostNetwork), "The Pod uses the node's network, so that everybody on the node reaches the sidecar, and no authorization token is asked for."},
	{string(trustpolicy.NotAPolicy), "The file is not a trust policy; the finding says on which line."},
	{string(trustpolicy.NothingFederated), "No statement is about web identity."},
	{string(trustpolicy.WrongProvider), "`Principal.Federated` is not the ARN of the issuer's provider: `oidc.<region>.eks` for `oidc.eks.<region>`, another cluster's, a URL for the ARN."},
	{string(trustpolicy.WrongAccount), "`Principal.Federated` is in another account or partition than the role. The provider must be in the role's."},
	{string(trustpolicy.WrongAction), "`Action` is not `sts:AssumeRoleWithWebIdentity`; most often it is `sts:AssumeRole`."},
	{string(trustpolicy.WrongKey), "A condition is on a key that the token does not give: the key is the whole issuer, without `https://`, and then `:aud` or `:sub`."},
	{string(trustpolicy.LiteralWildcard), "`StringEquals` takes `*` and `?` literally; `StringLike` does not."},
	{string(trustpolicy.WrongCase), "A value fits but for upper and lower case."},
	{string(trustpolicy.WrongSubject), "The condition on `sub` is for another service account: it must be `system:serviceaccount:<namespace>:<name>`."},
	{string(trustpolicy.WrongAudience), "The condition on `aud` is for another audience than the token's."},
	{string(trustpolicy.OtherCondition), "A condition does not hold, or only AWS can say whether it does."},
	{string(trustpolicy.Denied), "A statement with `Deny` applies, whatever others allow."},
	{string(trustpolicy.MissingAudience), "No condition on `aud`: tokens for every client ID of the provider are let in."},
	{string(trustpolicy.MissingSubject), "No condition on `sub`: every service account of the cluster is let in."},
	{string(trustpolicy.AnyPrincipal), "`Principal` is `*`: every identity provider is trusted."},
	{string(NotChecked), "What could not be checked, because of what has failed before."},
}
