package server

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// Options configure the handlers. Profiles and Address are required.
type Options struct {
	// Profiles to serve. Their names must differ.
	Profiles []Profile

	// Default is the name of the profile for requests that name none. If no profile has that name, they are refused
	// like requests for an unknown profile.
	Default string

	// Address of the credentials listener, for the pages. Requests to that listener may name only this port in Host.
	Address netip.AddrPort

	// Authorization that callers must send. Nil requires none.
	Authorization *Authorization

	// Users whose programs are answered. Nil answers all. This works only for connections that [Serve] has accepted.
	Users *Users

	// AccountID adds AccountId to what is served.
	AccountID bool

	// Logger gets a debug line for each request, and a warning for each kind of refusal of each listener, at most once a
	// minute. Nil discards them.
	Logger *slog.Logger

	// Callers counts which programs ask and which are refused, for the pages of all handlers that share it. If nil, the
	// handler has its own.
	Callers *Callers

	// Metrics count requests. Nil counts nothing.
	Metrics *Metrics

	// Version of the program, for the pages.
	Version string
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Callers == nil {
		o.Callers = new(Callers)
	}
	o.Address = netip.AddrPortFrom(o.Address.Addr().Unmap(), o.Address.Port())
	return o
}

// hint says what to do about a refusal, with the actual address.
func (o *Options) hint(r Refusal) string {
	return strings.NewReplacer("127.0.0.1:9911", o.Address.String(), "127.0.0.1", o.Address.Addr().String()).Replace(r.Hint())
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
	cache.Throttling:               503,
	cache.ServiceUnavailable:       503,
	cache.UnknownError:             400,
	cache.CredentialsUninitialized: 503,
}

// credentialsName is the name of the credentials listener in metrics and logs.
const credentialsName = "credentials"

// credentials is the handler of the credentials listener.
type credentials struct {
	Options
	listener
	direct map[string]*slot // by exact path
	router *chi.Mux
}

// slot holds a profile and its credentials as they are sent.
type slot struct {
	Profile
	askers   *tally
	warm     *routeMetrics
	rendered atomic.Pointer[rendered]
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
	h := &credentials{
		Options: o,
		direct:  make(map[string]*slot),
		router:  chi.NewMux(),
	}
	h.listener = newListener(credentialsName, &o, h.refusal,
		[]guard{onThisMachine(o.Address.Port()), direct, withoutBody, o.Users.guard(), o.Authorization.guard()},
		UnknownProfile, UnknownPath, MethodNotAllowed, MalformedRequest)
	h.listener.hint = o.hint
	o.Authorization.logTo(o.Logger)
	for _, p := range o.Profiles {
		s := &slot{Profile: p, askers: o.Callers.askersOf(p.Cache.Profile()), warm: o.Metrics.route(h.name, p.Cache.Profile(), "/v1/credentials")}
		h.direct["/v1/credentials/"+p.Cache.Profile()] = s
		if p.Cache.Profile() == o.Default {
			h.direct["/v1/credentials"] = s
		}
	}
	h.router.Get("/", h.page)
	h.router.Get("/v1/identity", h.identity)
	h.router.Get("/v1/identity/{profile}", h.identity)
	h.router.Get("/v1/credentials", h.refusing(UnknownProfile))
	h.router.Get("/v1/credentials/{profile}", h.refusing(UnknownProfile))
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

// ServeHTTP answers requests for credentials without the router and without an allocation: nearly all requests are for
// credentials.
func (h *credentials) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	if !h.permit(w, r, started) {
		return
	}
	s := h.direct[trimSlash(r.URL.Path)]
	if s == nil || r.Method != http.MethodGet || r.URL.RawPath != "" {
		profile, route, code := dispatch(h.router, trimSlash(r.URL.EscapedPath()), w, r)
		h.account(r, profile, route, code, started, "", nil)
		return
	}
	const route = "/v1/credentials"
	user := noUser
	if h.Users != nil {
		user = knownUser(r)
	}
	s.askers.note(r, h.tokens, user, started)
	code := h.serve(w, r, s)
	if code != http.StatusOK {
		h.account(r, s.Cache.Profile(), route, code, started, "", nil)
		return
	}
	s.warm.ok(started)
	h.log(r, route, code, started, "", nil)
}

// serve answers with the credentials of s, or says why there are none.
func (h *credentials) serve(w http.ResponseWriter, r *http.Request, s *slot) int {
	creds, err := s.Cache.Get(r.Context())
	if err != nil {
		return failure(w, err)
	}
	// Two requests may both render new credentials, with the same result.
	body := s.rendered.Load()
	if body == nil || body.creds != creds {
		b := ContainerCredentials(creds, h.AccountID)
		body = &rendered{creds, b, []string{strconv.Itoa(len(b))}}
		s.rendered.Store(body)
	}
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["Content-Length"] = body.length
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	w.Write(body.body)
	return http.StatusOK
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
	fe, ok := errors.AsType[*cache.FetchError](err)
	if !ok {
		fe = &cache.FetchError{Reason: cache.UnknownError, Message: "the reason is in the sidecar's log"}
	}
	status, ok := statuses[fe.Reason]
	if !ok {
		status = http.StatusServiceUnavailable
	}
	// SDKs show no fields that they do not know, so the message includes a short form of the hint.
	message := fe.Message
	if short := fe.ShortAdvice(); short != "" {
		message = strings.TrimSuffix(message, ".") + "; " + short
	}
	return document(w, status, string(fe.Reason), message, fe.Advice())
}

// refusal answers a refused request.
func (h *credentials) refusal(w http.ResponseWriter, r Refusal, why error) int {
	row := refusals[r]
	message := row.message
	if why != nil {
		message += ": " + why.Error()
	}
	return document(w, row.status, string(r), message, h.Options.hint(r))
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
