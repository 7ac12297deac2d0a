package ststest

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Fault is a response other than success, or none at all. [Server.Break] takes one, and the Server refuses with one.
type Fault struct {
	// Status is the HTTP status. Zero means 400 with a Code, and 200 with a Body.
	Status int

	// Code and Message are sent as an error in AWS's XML.
	Code    string
	Message string

	// Body is sent unchanged instead, with ContentType, which is text/xml if empty.
	Body        string
	ContentType string

	// Latency delays the response, at most until the client has disconnected. If nothing else is set, the normal
	// response follows.
	Latency time.Duration

	// Hang sends nothing until the client has disconnected.
	Hang bool

	// Drop closes the connection without a response.
	Drop bool
}

// The refusals of AWS's STS, with its own codes, statuses and messages as far as they are known.
var (
	// AccessDenied is for everything that the trust policy does not allow: STS does not distinguish a role that does not
	// exist from one that does not allow this subject.
	AccessDenied = Fault{Status: 403, Code: "AccessDenied", Message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"}

	// NotValidated is for most bad tokens since 2026: an issuer without a provider in IAM, an unknown key, a wrong
	// signature. NoProvider is an earlier message for the first of these.
	NotValidated = invalidToken("The web identity token provided could not be validated. See the AssumeRoleWithWebIdentity documentation for requirements.")

	// WrongAudience is for a token whose aud is not among the provider's client IDs.
	WrongAudience = invalidToken("Incorrect token audience")

	// NoAudience is for a token without aud.
	NoAudience = MissingClaim("aud")

	// NotAJWT is for everything that cannot be parsed as a token.
	NotAJWT = invalidToken("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")

	// KeysUnreachable is for an issuer whose documents STS cannot fetch. The two blanks in a row are AWS's.
	KeysUnreachable = invalidToken("Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements")

	// WrongThumbprint is for an issuer whose certificate IAM does not trust.
	WrongThumbprint = invalidToken("OpenIDConnect provider's HTTPS certificate doesn't match configured thumbprint")

	// IDPCommunicationError has the message from AWS's service model; no real one is known.
	IDPCommunicationError = Fault{Status: 400, Code: "IDPCommunicationError", Message: "The request could not be fulfilled because the identity provider (IDP) that was asked to verify the incoming identity token could not be reached."}

	// IDPRejectedClaim has the message from AWS's service model; the only known real one is Facebook's.
	IDPRejectedClaim = Fault{Status: 403, Code: "IDPRejectedClaim", Message: "The identity provider (IdP) reported that authentication failed."}

	// Throttling has the status 400, so a client must check the code to know that it may retry.
	Throttling = Fault{Status: 400, Code: "Throttling", Message: "Rate exceeded"}

	// InvalidARN is for a role ARN that is not one: a name alone, the ARN of a policy.
	InvalidARN = validationError("Request ARN is invalid")

	// DurationTooLong is for a DurationSeconds above what the role allows; AWS refuses it rather than shortening it.
	DurationTooLong = validationError("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")

	// MalformedPolicyDocument is for a session policy that cannot be parsed.
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

	// InternalFailure and ServiceUnavailable are STS's own failures.
	InternalFailure    = Fault{Status: 500, Code: "InternalFailure", Message: "The request processing has failed because of an unknown error, exception or failure."}
	ServiceUnavailable = Fault{Status: 503, Code: "ServiceUnavailable", Message: "The request has failed due to a temporary failure of the server."}
)

// Responses of something other than STS, or none.
var (
	// EmptyOK is an empty 200, which the SDK takes for a success without credentials.
	EmptyOK = Fault{Status: 200}

	// NoCredentials is a well-formed 200 without credentials.
	NoCredentials = Fault{Status: 200, Body: `<AssumeRoleWithWebIdentityResponse xmlns="` + xmlNamespace + `">
  <AssumeRoleWithWebIdentityResult/>
</AssumeRoleWithWebIdentityResponse>
`}

	// Hang and Drop are what firewalls do.
	Hang = Fault{Hang: true}
	Drop = Fault{Drop: true}
)

// HTMLPage is a page for people: a captive portal with 200, a block page with 403, a proxy that requires a password with
// 407, a load balancer without a backend with 503.
func HTMLPage(status int) Fault {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	return Fault{
		Status:      status,
		Body:        "<!DOCTYPE html>\n<html><head><title>" + text + "</title></head><body><h1>" + text + "</h1></body></html>\n",
		ContentType: "text/html; charset=utf-8",
	}
}

// NoProvider is for an issuer without an OIDC provider in the role's account, until 2026. NotValidated has replaced it.
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

// ExpiredToken is for a token that expired at expires, from an STS whose clock shows now.
func ExpiredToken(now, expires time.Time) Fault {
	return Fault{Status: 400, Code: "ExpiredTokenException", Message: fmt.Sprintf(
		"Token expired: current date/time %d must be before the expiration date/time %d", now.Unix(), expires.Unix())}
}

// TokenTooOld is for a token that STS finds too old although it has not expired.
func TokenTooOld(age time.Duration) Fault {
	return Fault{Status: 400, Code: "ExpiredTokenException", Message: fmt.Sprintf("Token too old: %d", int64(age.Seconds()))}
}

// DeniedBecause is an AccessDenied that says which kind of policy refuses, in words such as "with an explicit deny in a
// service control policy" or "because no VPC endpoint policy allows the sts:AssumeRoleWithWebIdentity action".
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
func DeniedBecause(words string) Fault {
	f := AccessDenied
	f.Message += " on resource: arn:aws:iam::111122223333:role/team/app " + words
	return f
}

// ActionDenied is for an action that the token needs beyond the exchange itself, such as sts:TagSession.
func ActionDenied(action string) Fault {
	f := AccessDenied
	f.Message = "Not authorized to perform " + action
	return f
}

// MissingClaim is for a token without one of the claims that STS requires: iss, sub, aud, exp and iat.
func MissingClaim(name string) Fault { return invalidToken("Missing a required claim: " + name) }

// NoSuchOperation is for an action or a version that STS does not have, and the response of other AWS services.
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

// responds reports whether the fault has a response, rather than only delaying the normal one.
func (f Fault) responds() bool { return f.Status != 0 || f.Code != "" || f.Body != "" }

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

// side returns whose fault it is, in the terms of AWS's query protocol.
func (f Fault) side() string {
	if f.status() >= 500 {
		return "Receiver"
	}
	return "Sender"
}

// hold delays the response, and ends the request if the fault has none: the panic is how net/http closes a connection
// without a response.
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
