package ststest

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Fault is an answer other than the right one. It is what [Server.Break] is given, and what the server
// itself refuses with.
type Fault struct {
	// Status is the HTTP status. Zero means 400 where there is a Code and 200 where there is a Body.
	Status int

	// Code and Message make an error in AWS's XML.
	Code    string
	Message string

	// Body is sent as it stands instead, with ContentType, which is text/xml if empty.
	Body        string
	ContentType string

	// Latency is waited before anything else happens, at most until the client has gone. A Fault that
	// says nothing else ends in the normal answer.
	Latency time.Duration

	// Hang says nothing at all until the client has gone.
	Hang bool

	// Drop closes the connection without an answer.
	Drop bool
}

// What AWS's STS refuses with, in its own codes, statuses and words as far as they have been seen.
var (
	// AccessDenied is the trust policy's no, whatever the cause: STS does not tell a role that does not
	// exist from one that does not want this subject.
	AccessDenied = Fault{Status: 403, Code: "AccessDenied", Message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"}

	// NotValidated is what most bad tokens are told since 2026: an issuer without a provider in IAM, an
	// unknown key, a wrong signature. NoProvider is an earlier wording of one of these.
	NotValidated = invalidToken("The web identity token provided could not be validated. See the AssumeRoleWithWebIdentity documentation for requirements.")

	// WrongAudience is for a token whose aud is not among the provider's client IDs.
	WrongAudience = invalidToken("Incorrect token audience")

	// NoAudience is for a token without aud.
	NoAudience = invalidToken("Missing a required claim: aud")

	// NotAJWT is for anything that does not read as a token.
	NotAJWT = invalidToken("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")

	// KeysUnreachable is for an issuer whose documents STS cannot fetch. The two blanks are AWS's.
	KeysUnreachable = invalidToken("Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements")

	// WrongThumbprint is for an issuer whose certificate IAM does not trust.
	WrongThumbprint = invalidToken("OpenIDConnect provider's HTTPS certificate doesn't match configured thumbprint")

	// IDPCommunicationError has the text of AWS's service model; no real one is on record.
	IDPCommunicationError = Fault{Status: 400, Code: "IDPCommunicationError", Message: "The request could not be fulfilled because the identity provider (IDP) that was asked to verify the incoming identity token could not be reached."}

	// IDPRejectedClaim has the text of AWS's service model; the one on record is Facebook's.
	IDPRejectedClaim = Fault{Status: 403, Code: "IDPRejectedClaim", Message: "The identity provider (IdP) reported that authentication failed."}

	// Throttling is a 400: a client that looks at the status alone takes it for a mistake of its own.
	Throttling = Fault{Status: 400, Code: "Throttling", Message: "Rate exceeded"}

	// InvalidARN is for a role that is no role: a name alone, a policy's ARN.
	InvalidARN = validationError("Request ARN is invalid")

	// DurationTooLong is for a DurationSeconds above what the role allows. AWS does not clamp.
	DurationTooLong = validationError("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")

	// MalformedPolicyDocument is for a session policy that is not one.
	MalformedPolicyDocument = Fault{Status: 400, Code: "MalformedPolicyDocument", Message: "Syntax errors in policy."}

	// MissingAuthenticationToken is for a request that must be signed and is not, IncompleteSignature for one whose
	// signature cannot be read.
	MissingAuthenticationToken = Fault{Status: 403, Code: "MissingAuthenticationToken", Message: "Request is missing Authentication Token"}
	IncompleteSignature        = Fault{Status: 400, Code: "IncompleteSignature", Message: "The request signature does not conform to AWS standards."}

	// InvalidClientTokenID is for an access key that STS does not know, or that does not belong to the session token.
	InvalidClientTokenID = Fault{Status: 403, Code: "InvalidClientTokenId", Message: "The security token included in the request is invalid."}

	// ExpiredSession is for a request that is signed with credentials that have expired.
	ExpiredSession = Fault{Status: 403, Code: "ExpiredToken", Message: "The security token included in the request is expired"}

	// SignatureDoesNotMatch is for a request that was signed with another secret, or changed afterwards.
	SignatureDoesNotMatch = wrongSignature("The request signature we calculated does not match the signature you provided. " +
		"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")

	// InternalFailure and ServiceUnavailable are STS's own bad days.
	InternalFailure    = Fault{Status: 500, Code: "InternalFailure", Message: "The request processing has failed because of an unknown error, exception or failure."}
	ServiceUnavailable = Fault{Status: 503, Code: "ServiceUnavailable", Message: "The request has failed due to a temporary failure of the server."}
)

// What answers in the place of STS, or does not.
var (
	// EmptyOK is a 200 with nothing in it, which the SDK takes for a success without credentials.
	EmptyOK = Fault{Status: 200}

	// NoCredentials is a 200 in the right shape and without the one thing that matters.
	NoCredentials = Fault{Status: 200, Body: `<AssumeRoleWithWebIdentityResponse xmlns="` + xmlNamespace + `">
  <AssumeRoleWithWebIdentityResult/>
</AssumeRoleWithWebIdentityResponse>
`}

	// Hang and Drop are a firewall's two ways.
	Hang = Fault{Hang: true}
	Drop = Fault{Drop: true}
)

// HTMLPage is a page for people: a captive portal with 200, a block page with 403, a proxy that wants a
// password with 407, a load balancer without a backend with 503.
func HTMLPage(status int) Fault {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	return Fault{
		Status:      status,
		Body:        "<!DOCTYPE html>\n<html><head><title>" + text + "</title></head><body><h1>" + text + "</h1></body></html>\n",
		ContentType: "text/html; charset=utf-8",
	}
}

// NoProvider is what STS used to say of an issuer for which the role's account has no OIDC provider.
// NotValidated has come in its place.
func NoProvider(issuer string) Fault {
	return invalidToken("No OpenIDConnect provider found in your account for " + issuer)
}

// RegionDisabled is for a region in which the account has switched STS off.
func RegionDisabled(account string) Fault {
	return Fault{Status: 403, Code: "RegionDisabledException", Message: "STS is not activated in this region for account:" + account +
		". Your account administrator can activate STS in this region using the IAM Console."}
}

// PackedPolicyTooLarge is for session policies and tags that do not fit.
func PackedPolicyTooLarge(percent int) Fault {
	return Fault{Status: 400, Code: "PackedPolicyTooLarge", Message: fmt.Sprintf("Packed size of session tags consumes %d%% of allotted space.", percent)}
}

// ExpiredToken is for a token that ended at expires, by an STS whose clock says now.
func ExpiredToken(now, expires time.Time) Fault {
	return Fault{Status: 400, Code: "ExpiredTokenException", Message: fmt.Sprintf(
		"Token expired: current date/time %d must be before the expiration date/time %d", now.Unix(), expires.Unix())}
}

// TokenTooOld is for a token that STS finds too old although its exp is still to come.
func TokenTooOld(age time.Duration) Fault {
	return Fault{Status: 400, Code: "ExpiredTokenException", Message: fmt.Sprintf("Token too old: %d", int64(age.Seconds()))}
}

// NoSuchOperation is how an AWS service other than STS answers, and STS of another version.
func NoSuchOperation(action, version string) Fault {
	return Fault{Status: 400, Code: "InvalidAction", Message: fmt.Sprintf("Could not find operation %s for version %s", action, version)}
}

// SignatureExpired is for a request that was signed more than five minutes before, or after, STS's now.
func SignatureExpired(now, signed time.Time) Fault {
	format := func(t time.Time) string { return t.UTC().Format(amzDate) }
	if signed.After(now) {
		limit := now.Add(maxClockSkew)
		return wrongSignature(fmt.Sprintf("Signature not yet current: %s is still later than %s (%s + 5 min.)", format(signed), format(limit), format(now)))
	}
	limit := now.Add(-maxClockSkew)
	return wrongSignature(fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - 5 min.)", format(signed), format(limit), format(now)))
}

func wrongSignature(message string) Fault {
	return Fault{Status: 403, Code: "SignatureDoesNotMatch", Message: message}
}

func invalidToken(message string) Fault {
	return Fault{Status: 400, Code: "InvalidIdentityToken", Message: message}
}

func validationError(message string) Fault {
	return Fault{Status: 400, Code: "ValidationError", Message: message}
}

// answers reports whether the fault has an answer of its own, or only delays the normal one.
func (f Fault) answers() bool { return f.Status != 0 || f.Code != "" || f.Body != "" }

func (f Fault) status() int {
	switch {
	case f.Status != 0:
		return f.Status
	case f.Code != "":
		return http.StatusBadRequest
	default:
		return http.StatusOK
	}
}

// side says whose fault it is, in the words of AWS's query protocol.
func (f Fault) side() string {
	if f.status() >= 500 {
		return "Receiver"
	}
	return "Sender"
}

// hold does what the fault does instead of answering, and ends the request there if it must: the panic
// is net/http's own way to close a connection without a word.
func (f Fault) hold(ctx context.Context) {
	if f.Latency > 0 {
		select {
		case <-time.After(f.Latency):
		case <-ctx.Done():
			panic(http.ErrAbortHandler)
		}
	}
	if f.Hang {
		<-ctx.Done()
	}
	if f.Hang || f.Drop {
		panic(http.ErrAbortHandler)
	}
}
