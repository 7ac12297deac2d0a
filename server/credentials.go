package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// Options configure the handlers. Address is required.
type Options struct {
	// Profiles to serve, which the handlers of one sidecar share. Nil are none.
	Profiles *Profiles

	// Default is the name of the profile for requests that name none. If no profile has that name, they are refused
	// like requests for an unknown profile.
	Default string

	// Address of the credentials listener, for the pages. Requests to that listener may name only this port in Host.
	Address netip.AddrPort

	// Outputs are where the same credentials are served besides Address, for the pages.
	Outputs []Output

	// AccountID adds AccountId to what is served.
	AccountID bool

	// Logger gets a debug line for each request, and a warning for each kind of refusal of each listener, at most once a
	// minute. Nil discards them.
	Logger *slog.Logger

	// Callers counts which programs are refused, for the pages of all handlers that share it. If nil, the handler has its own.
	Callers *Callers

	// Metrics count requests. Nil counts nothing.
	Metrics *Metrics

	// Version of the program, for the pages.
	Version string
}

// Output is a listener besides the credentials listener, by its name in metrics and its address or path.
type Output struct{ Listener, Address string }

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Callers == nil {
		o.Callers = new(Callers)
	}
	if o.Profiles == nil {
		o.Profiles = NewProfiles()
	}
	o.Address = netip.AddrPortFrom(o.Address.Addr().Unmap(), o.Address.Port())
	return o
}

// hint says what to do about a refusal by the credentials listener, with the actual address.
func (o *Options) hint(r Refusal) string { return hintAt(o.Address, r) }

func hintAt(address netip.AddrPort, r Refusal) string {
	return strings.NewReplacer("127.0.0.1:9911", address.String(), "127.0.0.1", address.Addr().String()).Replace(r.Hint())
}

// statuses of the error document. A failure that may clear by itself is 503, because the SDKs then retry; one that needs a
// fix has the status of STS's own answer. It is never 404: Java v1 then drops valid credentials.
var statuses = map[cache.Reason]int{
	cache.TokenFileMissing:         503,
	cache.TokenFileUnreadable:      503,
	cache.TokenFileMalformed:       503,
	cache.RegionUnknown:            400,
	cache.EndpointNotFound:         503,
	cache.EndpointUnreachable:      503,
	cache.EndpointTimeout:          503,
	cache.EndpointNotTrusted:       503,
	cache.ProxyNotFound:            503,
	cache.ProxyRefused:             503,
	cache.NotAnSTSEndpoint:         503,
	cache.UnusableCredentials:      503,
	cache.AccessDenied:             403,
	cache.InvalidIdentityToken:     400,
	cache.ExpiredTokenException:    503,
	cache.IDPCommunicationError:    503,
	cache.IDPRejectedClaim:         403,
	cache.RegionDisabledException:  403,
	cache.PackedPolicyTooLarge:     400,
	cache.MalformedPolicyDocument:  400,
	cache.ValidationError:          400,
	cache.InvalidParameterValue:    400,
	cache.InvalidClientTokenId:     403,
	cache.ExpiredToken:             503,
	cache.RequestExpired:           503,
	cache.SignatureDoesNotMatch:    403,
	cache.Throttling:               503,
	cache.ServiceUnavailable:       503,
	cache.UnknownError:             400,
	cache.CredentialsUninitialized: 503,
}

// The names of the listeners that serve credentials, in metrics and logs.
const (
	credentialsName = "credentials"
	relativeName    = "ecs"
	socketName      = "socket"
)

// credentialsPath is where credentials are served, before the name of a profile; credentialsRoute is the same without one.
const (
	credentialsRoute = "/v1/credentials"
	credentialsPath  = credentialsRoute + "/"
)

// credentials is the handler of a listener that serves credentials to SDKs.
type credentials struct {
	Options
	listener
	defaultPath string // of the profile for requests that name none
	router      *chi.Mux
	place       int  // of the listener in record.warm
	tokenless   bool // clients cannot send a token, and there are no pages
}

type rendered struct {
	creds  *cache.Credentials
	body   []byte
	length []string
}

// Shared by all answers, so that setting a header costs nothing.
var (
	typeJSON = []string{"application/json"}
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
)

// Credentials returns the handler of the credentials listener.
func Credentials(o Options) Handler {
	o = o.withDefaults()
	return newCredentials(o, credentialsName, false, o.hint, fromHere(o.Address))
}

// Relative returns the handler of a listener at these addresses, of which there must be one, for clients of
// AWS_CONTAINER_CREDENTIALS_RELATIVE_URI. It serves the same credentials at the same paths as [Credentials], and nothing else.
// Most of these clients cannot send a token, so [Profile.TokenOptional] counts.
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
func Relative(o Options, addresses ...netip.AddrPort) Handler {
	o = o.withDefaults()
	return newCredentials(o, relativeName, true, func(r Refusal) string {
		switch r {
		case UnknownPath:
			return "credentials are at " + credentialsRoute + ", and nothing else is here; set AWS_CONTAINER_CREDENTIALS_RELATIVE_URI to that path"
		case UnknownProfile:
			return "ask for one that http://" + o.Address.String() + "/ lists; " + credentialsRoute + " is the profile " + o.Default
		}
		return hintAt(unmapped(addresses[0]), r)
	}, fromHere(addresses...))
}

// Socket returns the handler of a Unix socket. It serves what [Credentials] serves. Where a client comes from, and the Host that it
// names, are not checked: no other machine and no web page reaches a file.
func Socket(o Options) Handler {
	o = o.withDefaults()
	return newCredentials(o, socketName, false, func(r Refusal) string {
		if r == ForwardedRequest {
			return "connect to the socket without a proxy, and point no reverse proxy here"
		}
		return o.hint(r)
	})
}

func newCredentials(o Options, name string, tokenless bool, hint func(Refusal) string, guards ...guard) Handler {
	h := &credentials{Options: o, defaultPath: credentialsPath + o.Default, router: chi.NewMux(), tokenless: tokenless}
	h.listener = newListener(name, &o, h.refusal, append(guards, direct, withoutBody),
		UserNotAllowed, UserUnknown, AuthorizationRepeated, AuthorizationRequired, AuthorizationRejected,
		UnknownProfile, UnknownPath, MethodNotAllowed, MalformedRequest)
	h.listener.hint = hint
	h.place = o.Profiles.report(name, credentialsRoute, o.Metrics, o.Logger)
	if !tokenless {
		h.router.Get("/", h.page)
		h.router.Get("/v1/identity", h.identity)
		h.router.Get("/v1/identity/{profile}", h.identity)
	}
	h.router.Get(credentialsRoute, h.unknownProfile)
	h.router.Get(credentialsPath+"{profile}", h.unknownProfile)
	h.router.NotFound(h.refusing(UnknownPath))
	h.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", http.MethodGet)
		h.refuse(w, r, MethodNotAllowed, nil)
	})
	return h
}

func (h *credentials) refusing(refusal Refusal) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { h.refuse(w, r, refusal, nil) }
}

// unknownProfile says which profiles there are for the caller, unless that is only the default, which the hint names.
func (h *credentials) unknownProfile(w http.ResponseWriter, r *http.Request) {
	const most = 10
	var names []string
	for _, s := range accessOf(r).opened {
		names = append(names, s.name())
	}
	var why error
	if len(names) > 1 || len(names) == 1 && names[0] != h.Default {
		text := strings.Join(names[:min(len(names), most)], ", ")
		if more := len(names) - most; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		why = errors.New("this caller may have " + text)
	}
	h.refuse(w, r, UnknownProfile, why)
}

func (h *credentials) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	if h.permit(w, r, started) {
		h.answer(w, r, started)
	}
}

// answer answers requests for credentials without the router and without an allocation: nearly all requests are for
// credentials. The path selects a profile, and the caller must then be one that this profile is for.
func (h *credentials) answer(w http.ResponseWriter, r *http.Request, started time.Time) {
	profiles := h.Profiles.now()
	s := profiles.paths[h.credentialsOf(r)]
	token := offer{values: r.Header["Authorization"], tokenless: h.tokenless}
	if s != nil && s.opens(r, &token) && r.Method == http.MethodGet {
		h.serve(w, r, s, started)
		return
	}
	a := profiles.access(r, &token)
	about := s
	if about == nil && !h.tokenless {
		about = profiles.paths[identityOf(r)]
	}
	switch {
	case a.refusal != "":
		h.reject(w, r, a.refusal, a.why, started)
	case about != nil && !slices.Contains(a.opened, about):
		refusal, why := about.refusal(r)
		h.reject(w, r, refusal, why, started)
	case s != nil && r.Method == http.MethodGet: // it is open only now
		h.serve(w, r, s, started)
	default:
		profile, route, code := dispatch(h.router, trimSlash(r.URL.EscapedPath()), w, withAccess(r, a))
		h.account(r, profile, route, code, started, "", nil)
	}
}

// credentialsOf returns the path of the credentials that are asked for. An encoded path is none of them, so that each has
// one spelling.
func (h *credentials) credentialsOf(r *http.Request) string {
	path := trimSlash(r.URL.Path)
	switch {
	case r.URL.RawPath != "":
		return ""
	case path == credentialsRoute:
		return h.defaultPath
	}
	return path
}

// identityOf returns the path of the credentials whose identity is asked for by name.
func identityOf(r *http.Request) string {
	name, ok := strings.CutPrefix(trimSlash(r.URL.Path), "/v1/identity/")
	if !ok || r.URL.RawPath != "" {
		return ""
	}
	return credentialsPath + name
}

// serve answers with the credentials of s, or says why there are none.
func (h *credentials) serve(w http.ResponseWriter, r *http.Request, s *slot, started time.Time) {
	creds, err := s.Cache.Get(r.Context())
	if s.gone.Load() { // meanwhile; the profile may have another Cache now
		h.answer(w, r, started)
		return
	}
	s.noteAsker(r, h.tokens, started)
	if err != nil {
		h.account(r, s.name(), credentialsRoute, failure(w, err), started, "", nil)
		return
	}
	keep := containerDocumentPlace
	if h.AccountID {
		keep = accountDocumentPlace
	}
	s.write(w, keep, typeJSON, creds, func() []byte { return ContainerCredentials(creds, h.AccountID) })
	if h.metrics != nil {
		s.warm[h.place].Load().ok(started)
	}
	h.log(r, credentialsRoute, http.StatusOK, started, "", nil)
}

// noteAsker counts a request for the credentials of s.
func (s *slot) noteAsker(r *http.Request, tokens *Profiles, started time.Time) {
	user := noUser
	if s.Users != nil {
		user = knownUser(r)
	}
	s.askers.note(r, tokens, user, started)
}

// write writes credentials of s as they were rendered for the first request. The place in record.rendered is that of the kind of
// document that render makes.
func (s *slot) write(w http.ResponseWriter, place int, contentType []string, creds *cache.Credentials, render func() []byte) {
	// Two requests may both render new credentials, with the same result.
	body := s.rendered[place].Load()
	if body == nil || body.creds != creds {
		b := render()
		body = &rendered{creds, b, []string{strconv.Itoa(len(b))}}
		s.rendered[place].Store(body)
	}
	header := w.Header()
	header["Content-Type"] = contentType
	header["Content-Length"] = body.length
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	w.Write(body.body)
}

// errorDocument has each field twice: Go and Java read the lower-case name, JavaScript the other.
type errorDocument struct {
	LowerCode    string `json:"code"`
	LowerMessage string `json:"message"`
	Code         string
	Message      string
	Hint         string `json:"hint"`
}

// failure answers with why there are no credentials.
func failure(w http.ResponseWriter, err error) int {
	fe, status := failureOf(err)
	return document(w, status, string(fe.Reason), messageOf(fe), fe.Advice())
}

// failureOf returns why there are no credentials, and the status for it.
func failureOf(err error) (fe *cache.FetchError, status int) {
	fe, ok := errors.AsType[*cache.FetchError](err)
	if !ok {
		fe = &cache.FetchError{Reason: cache.UnknownError, Message: "the reason is in the sidecar's log"}
	}
	if status, ok = statuses[fe.Reason]; !ok {
		status = http.StatusServiceUnavailable
	}
	return fe, status
}

// messageOf returns the message of a failure with a short form of the hint: SDKs show no fields that they do not know.
func messageOf(fe *cache.FetchError) string {
	if short := fe.ShortAdvice(); short != "" {
		return strings.TrimSuffix(fe.Message, ".") + "; " + short
	}
	return fe.Message
}

// refusal answers a refused request.
func (h *credentials) refusal(w http.ResponseWriter, r Refusal, why error) int {
	row := refusals[r]
	message := row.message
	if why != nil {
		message += ": " + why.Error()
	}
	return document(w, row.status, string(r), message, h.listener.hint(r))
}

func (h *credentials) malformed() (contentType string, body []byte) {
	h.trace(&http.Request{}, MalformedRequest, nil)
	row := refusals[MalformedRequest]
	return typeJSON[0], append(encode(errorDocument{string(MalformedRequest), row.message, string(MalformedRequest), row.message, row.hint}), '\n')
}

// document writes an error document. Its type has no charset, because the Go SDK would not read it, and there is no
// Retry-After, because JavaScript v2 and Go v1 wait for any length of time.
func document(w http.ResponseWriter, status int, code, message, hint string) int {
	return writeJSON(w, status, errorDocument{code, message, code, message, hint})
}

func writeJSON(w http.ResponseWriter, status int, v any) int {
	body := append(encode(v), '\n')
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	header[Mark] = credentialsMark
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
	return status
}

// statusWriter records the status, and which profile the answer is about, if any.
type statusWriter struct {
	http.ResponseWriter
	code    int
	profile string
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}
