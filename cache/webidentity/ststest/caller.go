package ststest

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	identify     = "GetCallerIdentity"
	amzDate      = "20060102T150405Z"
	maxClockSkew = 5 * time.Minute // of a signature, in either direction
)

// authorizationShape is what AWS's Signature Version 4 puts into the Authorization header.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-authentication-methods.html
var authorizationShape = regexp.MustCompile(
	`^AWS4-HMAC-SHA256 Credential=([^/,\s]+)/\d{8}/([^/,\s]+)/([^/,\s]+)/aws4_request, ?SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})$`)

// callerIdentity responds to a request that is signed with the credentials of a session.
func (s *Server) callerIdentity(w http.ResponseWriter, r *http.Request, body []byte, o Options, now time.Time, requestID string) {
	session, refusal := s.signer(r, body, o.Region, now)
	if s.throttled(now, o.CallsPerSecond) {
		refusal = &Throttling
	}
	if refusal != nil {
		writeFault(w, *refusal, requestID)
		return
	}
	writeXML(w, http.StatusOK, callerXML, map[string]any{
		"Arn": session.ARN, "UserID": session.UserID, "Account": session.Account, "RequestID": requestID,
	})
}

// signer returns the session whose credentials signed the request, or why STS refuses the request.
func (s *Server) signer(r *http.Request, body []byte, region string, now time.Time) (Session, *Fault) {
	if r.Header.Get("Authorization") == "" {
		return Session{}, &MissingAuthenticationToken
	}
	return checkSignature(r, body, s.Issued(), "sts", region, now)
}

// checkSignature returns which of the sessions signed the request for a service, or why it is refused. An empty region
// allows every one.
func checkSignature(r *http.Request, body []byte, sessions []Session, service, region string, now time.Time) (Session, *Fault) {
	parts := authorizationShape.FindStringSubmatch(r.Header.Get("Authorization"))
	signed, err := time.Parse(amzDate, r.Header.Get("X-Amz-Date"))
	if parts == nil || err != nil {
		return Session{}, &IncompleteSignature
	}
	keyID, scopeRegion, scopeService, headers, signature := parts[1], parts[2], parts[3], strings.Split(parts[4], ";"), parts[5]
	known := slices.IndexFunc(sessions, func(s Session) bool { return s.AccessKeyID == keyID })
	if known < 0 || sessions[known].SessionToken != r.Header.Get("X-Amz-Security-Token") {
		return Session{}, &InvalidClientTokenID
	}
	session := sessions[known]
	switch {
	case !now.Before(session.Expiration):
		return Session{}, &ExpiredSession
	case scopeService != service:
		return Session{}, new(wrongSignature("Credential should be scoped to correct service: '" + service + "'."))
	case region != "" && scopeRegion != region:
		return Session{}, new(wrongSignature("Credential should be scoped to a valid region."))
	case now.Sub(signed).Abs() > maxClockSkew:
		return Session{}, new(SignatureExpired(now, signed))
	case signature != sign(r, body, session, headers, service, scopeRegion, signed):
		return Session{}, &SignatureDoesNotMatch
	}
	return session, nil
}

// sign returns the signature of these headers and the body with the session's credentials.
func sign(r *http.Request, body []byte, session Session, headers []string, service, region string, at time.Time) string {
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		return ""
	}
	for _, name := range headers {
		if name == "content-length" { // the SDK takes it from the body
			again.Body, again.ContentLength = http.NoBody, int64(len(body))
		} else if values := r.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	sum := sha256.Sum256(body)
	credentials := aws.Credentials{AccessKeyID: session.AccessKeyID, SecretAccessKey: session.SecretAccessKey, SessionToken: session.SessionToken}
	if v4.NewSigner().SignHTTP(r.Context(), credentials, again, hex.EncodeToString(sum[:]), service, region, at) != nil {
		return ""
	}
	_, signature, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
	return signature
}
