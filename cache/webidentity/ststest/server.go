// Package ststest is an STS that behaves like AWS's, for tests and for the demo: it verifies what AWS's
// verifies, answers in its XML, refuses in its words, and fails on request in every way in which the
// real one has been seen to fail. The keys it hands out are fake and look it.
//
// [Issuer] is the cluster that signs tokens, [TokenFile] the kubelet that writes them, [Server] the STS.
package ststest

import (
	"crypto/rand"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Options configure a [Server]. The zero Options make an STS that takes every well-formed token for
// sts.amazonaws.com and every role.
type Options struct {
	// Issuer is the only one that the account has an OIDC provider for. Nil means that any will do and
	// that no signature is verified: for tokens that were signed elsewhere.
	Issuer *Issuer

	// Audience is what the provider asks for; sts.amazonaws.com if empty.
	Audience string

	// RoleARN is the only role that may be assumed. Empty means every role whose ARN is well formed.
	RoleARN string

	// Subject is whom the role's trust policy lets in, such as system:serviceaccount:default:app. Empty
	// means everybody.
	Subject string

	// Lifetime is how long a session lasts for which the request names no DurationSeconds; an hour if
	// zero. Unlike AWS's it may be seconds.
	Lifetime time.Duration

	// MaxSessionDuration is the most that a request may ask for; an hour if zero, as for a new role.
	MaxSessionDuration time.Duration

	// Now is the server's clock, in its Date header too; time.Now if nil.
	Now func() time.Time
}

// Server is the STS. It is an [http.Handler], and it can listen by itself, on loopback only. It may be
// used by many goroutines at once.
type Server struct {
	options Options

	mu       sync.Mutex
	fault    Fault
	requests []url.Values
	issued   []Session
	listener *listener
}

// Session is one set of credentials that the server has handed out.
type Session struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expiration      time.Time
	SessionName     string
}

// New returns a Server that does not listen yet.
func New(options Options) *Server {
	if options.Audience == "" {
		options.Audience = defaultAudience
	}
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

// Break makes every request from now on end in f, until Mend or another Break. A request that is
// already being held stays held.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Mend undoes Break.
func (s *Server) Mend() { s.Break(Fault{}) }

// Calls returns how many requests have been received, the broken ones included.
func (s *Server) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// maskedToken stands for a web identity token in a form that is kept.
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

// Issued returns the sessions handed out, oldest first.
func (s *Server) Issued() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// received notes a request and returns what Break has set for it.
func (s *Server) received(form url.Values) Fault {
	kept := maps.Clone(form)
	if kept.Has("WebIdentityToken") {
		kept.Set("WebIdentityToken", maskedToken)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, kept)
	return s.fault
}

// maxBody is well above the 20000 characters that a token may have.
const maxBody = 128 << 10

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Read even when the answer is settled: net/http notices that a client has gone only once the body
	// has been read.
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	formErr := r.ParseForm()
	broken := s.received(r.PostForm)
	broken.hold(r.Context())

	now := s.options.Now()
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	requestID := newUUID()
	w.Header().Set("x-amzn-RequestId", requestID)

	switch {
	case broken.answers():
		writeFault(w, broken, requestID)
	case r.Method != http.MethodPost:
		// AWS's would take the parameters from the URL as well. A token does not belong into a URL, so
		// this one always says what AWS's says to a browser.
		http.Redirect(w, r, "https://aws.amazon.com/iam", http.StatusFound)
	case formErr != nil:
		writeFault(w, validationError(formErr.Error()), requestID)
	default:
		s.assumeRole(w, r.PostForm, now, requestID)
	}
}

func (s *Server) assumeRole(w http.ResponseWriter, form url.Values, now time.Time, requestID string) {
	request, refusal := parseRequest(form)
	if refusal == nil {
		refusal = s.judge(request, now)
	}
	if refusal != nil {
		writeFault(w, *refusal, requestID)
		return
	}
	lifetime := s.options.Lifetime
	if request.duration != 0 {
		lifetime = request.duration
	}
	session := newSession(request.sessionName, now.Add(lifetime))
	s.mu.Lock()
	s.issued = append(s.issued, session)
	s.mu.Unlock()

	role, claims := request.role, request.token.claims
	writeXML(w, http.StatusOK, successXML, map[string]any{
		"Audience":       s.options.Audience,
		"AssumedRoleID":  role.id() + ":" + session.SessionName,
		"AssumedRoleARN": role.sessionARN(session.SessionName),
		"Provider":       role.providerARN(claims.Issuer),
		"Session":        session,
		"Expiration":     session.Expiration.Format(time.RFC3339),
		"Subject":        claims.Subject,
		"RequestID":      requestID,
	})
}

// judge says why a well-formed request is refused, or nil.
func (s *Server) judge(r request, now time.Time) *Fault {
	claims := r.token.claims
	expires := time.Unix(claims.Expires, 0)
	issuer := s.options.Issuer
	switch {
	case issuer != nil && (claims.Issuer != issuer.URL() || !issuer.signed(r.token)):
		return &NotValidated
	case len(claims.Audience) == 0:
		return &NoAudience
	case !slices.Contains(claims.Audience, s.options.Audience):
		return &WrongAudience
	case !now.Before(expires):
		return new(ExpiredToken(now, expires))
	case s.options.RoleARN != "" && s.options.RoleARN != r.role.arn,
		s.options.Subject != "" && s.options.Subject != claims.Subject:
		return &AccessDenied
	// Only who may assume the role learns what it allows.
	case r.duration > s.options.MaxSessionDuration:
		return &DurationTooLong
	}
	return nil
}

// newSession makes credentials in the shape of AWS's, so that whatever looks for secrets by their shape
// finds these, and with EXAMPLE in them, so that nobody takes them for real.
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
