// Package ststest is an STS that behaves like AWS's, for tests and for the demo: it verifies what AWS's verifies, responds
// in its XML, refuses in its words, and fails on request in every way in which the real one has been seen to fail. The keys
// that it issues are fake and look fake. GetCallerIdentity, which people try first, and AssumeRole verify signatures made
// with them.
//
// [Issuer] is the cluster that signs tokens, [TokenFile] the kubelet that writes them, [Server] the STS.
package ststest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// Options configure a [Server]: what IAM has in the account, and how the STS responds. The zero Options make an STS that
// accepts every well-formed token for sts.amazonaws.com, and every role.
type Options struct {
	// Issuer has the keys with which tokens are verified. Nil disables the check, for tokens that were signed
	// elsewhere.
	Issuer *Issuer

	// Providers are the account's OIDC providers. Nil means one with the client ID sts.amazonaws.com for the Issuer, or
	// for every issuer if Issuer is nil. Empty but not nil means none.
	Providers []Provider

	// Thumbprint is the one of the issuers' certificate. Empty: no provider's thumbprints are compared with it.
	Thumbprint string

	// RoleARN is the only role that may be assumed, beside Roles. Empty means every role whose ARN is well formed, or none
	// beside Roles.
	RoleARN string

	// Roles are further roles, by ARN, or what is special about the one in RoleARN. Nil means none.
	Roles map[string]Role

	// TrustPolicy is the trust policy of all roles, in JSON. Empty allows every token.
	TrustPolicy string

	// Lifetime is how long a session lasts if the request has no DurationSeconds; an hour if zero. Unlike AWS's it may
	// be seconds.
	Lifetime time.Duration

	// MaxSessionDuration is the longest DurationSeconds that the roles allow; an hour if zero, as for a new role.
	MaxSessionDuration time.Duration

	// Region is the endpoint's region; if empty, signatures may be for any. DisabledRegions are those in which the
	// account has switched STS off.
	Region          string
	DisabledRegions []string

	// CallsPerSecond is the account's quota, above which calls are throttled; zero means unlimited.
	CallsPerSecond int

	// OldWording makes refusals use the messages from before 2026 if they are known.
	OldWording bool

	// Now is the server's clock, in its Date header too; time.Now if nil.
	Now func() time.Time
}

// Provider is an OIDC provider in IAM.
type Provider struct {
	Issuer      string   // its URL, which is the iss of its tokens
	ClientIDs   []string // the audiences that it accepts
	Thumbprints []string // of the certificates that it accepts for the issuer, in hexadecimal; empty: all
}

// Server is the STS. It is an [http.Handler] and can also listen itself, on loopback only. It may be used by many goroutines
// at once.
type Server struct {
	mu       sync.Mutex
	options  Options
	fault    Fault
	second   int64 // for which calls are counted
	calls    int   // in that second
	requests []url.Values
	issued   []Session
	listener *listener
}

// Session is one set of credentials that the server has issued.
type Session struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expiration      time.Time
	RoleARN         string
	SessionName     string
	Policy          string // the session policy in the request; empty if there was none

	// For AssumeRole: the role and the access key of the session that signed the request, and what was in it. Empty for a
	// web identity token.
	SourceRoleARN, SourceAccessKeyID string
	ExternalID                       string

	// Tags and SourceIdentity include what the session has inherited from the one that signed the request. TransitiveTags
	// are the keys of the tags that it hands on.
	Tags           map[string]string
	TransitiveTags []string
	SourceIdentity string

	// What GetCallerIdentity returns for a request that is signed with these credentials.
	ARN, UserID, Account string
}

// New returns a Server that is not listening.
func New(options Options) *Server {
	if options.Lifetime == 0 {
		options.Lifetime = time.Hour
	}
	if options.MaxSessionDuration == 0 {
		options.MaxSessionDuration = time.Hour
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	return &Server{options: options}
}

// Change changes the options for all requests that follow. change must not call the Server.
func (s *Server) Change(change func(*Options)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.options)
}

// Break makes every request from now on fail with f, until Repair or another Break. It does not affect a request that is
// already being held.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Repair undoes Break.
func (s *Server) Repair() { s.Break(Fault{}) }

// Calls returns how many requests have been received, including those that failed.
func (s *Server) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// maskedToken replaces a web identity token in a recorded form.
const maskedToken = "****"

// Requests returns the forms of all requests received, oldest first, with the tokens masked.
func (s *Server) Requests() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	copies := make([]url.Values, len(s.requests))
	for i, form := range s.requests {
		copies[i] = maps.Clone(form)
	}
	return copies
}

// Issued returns the sessions that were issued, oldest first.
func (s *Server) Issued() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// record records a request, and returns the fault and the options that apply to it.
func (s *Server) record(form url.Values) (Fault, Options) {
	kept := maps.Clone(form)
	if kept.Has("WebIdentityToken") {
		kept.Set("WebIdentityToken", maskedToken)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, kept)
	return s.fault, s.options
}

// throttled counts a call, and reports whether it exceeds the quota for its second.
func (s *Server) throttled(now time.Time, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if second := now.Unix(); second != s.second {
		s.second, s.calls = second, 0
	}
	s.calls++
	return most > 0 && s.calls > most
}

// maxBody is well above the 20000 characters that a token may have.
const maxBody = 128 << 10

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Even if the response does not depend on it: net/http notices that a client has disconnected only after the body
	// has been read.
	body, formErr := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if formErr == nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		formErr = r.ParseForm()
	}
	broken, options := s.record(r.PostForm)
	broken.hold(r.Context())

	now := options.Now()
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	requestID := newUUID()
	w.Header().Set("x-amzn-RequestId", requestID)

	switch {
	case broken.responds():
		writeFault(w, broken, requestID)
	case r.Method != http.MethodPost:
		// AWS's would accept the parameters in the URL as well. A token does not belong in a URL, so this one responds
		// to all GETs as AWS's does to a browser.
		http.Redirect(w, r, "https://aws.amazon.com/iam", http.StatusFound)
	case formErr != nil:
		writeFault(w, validationError(formErr.Error()), requestID)
	case r.PostForm.Get("Action") == identify && r.PostForm.Get("Version") == version:
		s.callerIdentity(w, r, body, options, now, requestID)
	case r.PostForm.Get("Action") == assumeRole && r.PostForm.Get("Version") == version:
		s.assumeRoleChained(w, r, body, options, now, requestID)
	default:
		s.assumeRole(w, r, options, now, requestID)
	}
}

func (s *Server) assumeRole(w http.ResponseWriter, r *http.Request, o Options, now time.Time, requestID string) {
	request, refusal := parseRequest(r.PostForm)
	audience := ""
	if s.throttled(now, o.CallsPerSecond) {
		refusal = &Throttling
	}
	if refusal == nil {
		refusal = o.faultFor(r.Context(), request.role.arn)
	}
	if refusal == nil {
		audience, refusal = o.judge(request, now)
	}
	if refusal != nil {
		writeFault(w, *refusal, requestID)
		return
	}
	lifetime := o.Lifetime
	if request.duration != 0 {
		lifetime = request.duration
	}
	session := newSession(request.sessionName, now.Add(lifetime))
	session.of(request.role)
	session.Policy = request.policy
	s.keep(session)

	writeXML(w, http.StatusOK, successXML, map[string]any{
		"Audience":       audience,
		"AssumedRoleID":  session.UserID,
		"AssumedRoleARN": session.ARN,
		"Provider":       request.identity(audience).ProviderARN(),
		"Session":        session,
		"Expiration":     session.Expiration.Format(time.RFC3339),
		"Subject":        request.token.claims.Subject,
		"RequestID":      requestID,
	})
}

// of makes it a session of the role.
func (s *Session) of(r role) {
	s.RoleARN, s.ARN, s.UserID, s.Account = r.arn, r.sessionARN(s.SessionName), r.id()+":"+s.SessionName, r.account
}

// keep adds a session to those that were issued.
func (s *Server) keep(session Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, session)
}

// judge returns why a well-formed request is refused, or for which audience it is accepted.
func (o *Options) judge(r request, now time.Time) (audience string, refusal *Fault) {
	claims := r.token.claims
	expires := time.Unix(claims.Expires, 0)
	if slices.Contains(o.DisabledRegions, o.Region) {
		return "", new(RegionDisabled(r.role.account))
	}
	provider, found := o.provider(claims.Issuer)
	if !found && o.OldWording {
		return "", new(NoProvider(claims.Issuer))
	}
	if found && o.Thumbprint != "" && len(provider.Thumbprints) > 0 && !slices.Contains(provider.Thumbprints, o.Thumbprint) {
		return "", &WrongThumbprint
	}
	if !found || (o.Issuer != nil && !o.Issuer.signed(r.token)) {
		return "", &NotValidated
	}
	if len(claims.Audience) == 0 {
		return "", &NoAudience
	}
	known := slices.IndexFunc(claims.Audience, func(a string) bool { return slices.Contains(provider.ClientIDs, a) })
	if known < 0 {
		return "", &WrongAudience
	}
	audience = claims.Audience[known]
	if !now.Before(expires) {
		return "", new(ExpiredToken(now, expires))
	}
	id := r.identity(audience)
	id.Region, id.Now = o.Region, now
	role, exists := o.role(r.role.arn)
	if !exists || !role.trusts(Tokens) || slices.Contains(role.Denied, "sts:AssumeRoleWithWebIdentity") || !o.trusts(id) {
		return "", &AccessDenied
	}
	// Only callers that may assume the role learn what it allows.
	if r.duration > role.maxSession(o) {
		return "", &DurationTooLong
	}
	return audience, nil
}

// provider returns the provider that accepts an issuer's tokens.
func (o *Options) provider(issuer string) (provider Provider, found bool) {
	if o.Providers == nil && o.Issuer == nil {
		return Provider{Issuer: issuer, ClientIDs: []string{defaultAudience}}, true
	}
	for _, p := range o.providers() {
		if p.Issuer == issuer {
			return p, true
		}
	}
	return Provider{}, false
}

// providers returns the account's providers. The one for every issuer, which IAM does not have, is not among them.
func (o *Options) providers() []Provider {
	if o.Providers == nil && o.Issuer != nil {
		return []Provider{{Issuer: o.Issuer.URL(), ClientIDs: []string{defaultAudience}}}
	}
	return o.Providers
}

// trusts evaluates the trust policy. IAM does not accept a policy that cannot be parsed; here such a policy allows nothing,
// and neither does a statement with a condition on a key that this STS does not know.
func (o *Options) trusts(id trustpolicy.Identity) bool {
	if o.TrustPolicy == "" {
		return true
	}
	policy, err := trustpolicy.Parse([]byte(o.TrustPolicy))
	return err == nil && policy.Decide(id) == trustpolicy.Allowed
}

// newSession makes credentials in the form of AWS's, so that scanners for secrets find them, and with EXAMPLE in them, so
// that nobody takes them for real.
func newSession(name string, expires time.Time) Session {
	return Session{
		AccessKeyID:     "ASIAEXAMPLE" + rand.Text()[:9],
		SecretAccessKey: random64(12) + "/" + random64(9) + "+EXAMPLEKEY",
		SessionToken:    "IQoJEXAMPLE+/" + random64(457),
		Expiration:      expires.UTC().Truncate(time.Second),
		SessionName:     name,
	}
}

func random64(bytes int) string {
	random := make([]byte, bytes)
	rand.Read(random)
	return base64.StdEncoding.EncodeToString(random)
}
