package server

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// Options configure the handlers. Profiles and Address are required.
type Options struct {
	// Profiles to serve, each with a name of its own.
	Profiles []Profile

	// Default is the name of the profile that is served where a request names none. Empty means that there is none:
	// such a request is answered like one for an unknown profile.
	Default string

	// Address of the credentials listener, for the pages. Its port is the only one that a Host header may name there.
	Address netip.AddrPort

	// Authorization that callers must send. Nil asks for none.
	Authorization *Authorization

	// Users whose programs are answered. Nil answers all. They are told apart on connections that [Serve]
	// has accepted.
	Users *Users

	// AccountID adds AccountId to what is served.
	AccountID bool

	// Logger gets a line for each request, at debug. Nil discards them.
	Logger *slog.Logger

	// Metrics count requests. Nil counts nothing.
	Metrics *Metrics

	// Version of the program, for the pages.
	Version string
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Address = netip.AddrPortFrom(o.Address.Addr().Unmap(), o.Address.Port())
	return o
}

// statuses of the error document. A failure that will pass is 503, which makes the SDKs ask again;
// one that a human must mend is what STS itself answered with it. Never 404: Java v1 drops valid
// credentials over it.
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

// credentials is the handler of the credentials listener.
type credentials struct {
	Options
	guard  guard
	direct map[string]*slot // by exact path
	router *chi.Mux
	warm   *routeMetrics
}

// slot holds a profile with its credentials as they go over the wire.
type slot struct {
	Profile
	rendered atomic.Pointer[rendered]
}

type rendered struct {
	of     *cache.Credentials
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
func Credentials(o Options) http.Handler {
	h := &credentials{
		Options: o.withDefaults(),
		guard:   guard{port: o.Address.Port(), authorization: o.Authorization, users: o.Users},
		direct:  make(map[string]*slot),
		router:  chi.NewMux(),
		warm:    o.Metrics.route("/v1/credentials"),
	}
	o.Authorization.logTo(h.Logger)
	for _, p := range o.Profiles {
		s := &slot{Profile: p}
		h.direct["/v1/credentials/"+p.Cache.Profile()] = s
		if p.Cache.Profile() == o.Default {
			h.direct["/v1/credentials"] = s
		}
	}
	h.router.Get("/", h.page)
	h.router.Get("/v1/identity", h.identity)
	h.router.Get("/v1/identity/{profile}", h.identity)
	h.router.Get("/v1/credentials", h.unknownProfile)
	h.router.Get("/v1/credentials/{profile}", h.unknownProfile)
	h.router.NotFound(func(w http.ResponseWriter, r *http.Request) { refuse(w, UnknownPath, nil) })
	h.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, MethodNotAllowed, nil)
	})
	return h
}

// ServeHTTP answers requests for credentials itself, without the router: they are nearly all there
// are, and cost no allocation.
func (h *credentials) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	var route string
	var code int
	refusal, why := h.guard.check(r)
	if refusal != "" {
		route = "refused"
		// A caller that may not ask holds no place, whatever else it has sent; and whatever a body is, it is not the next
		// request.
		closing(w, r)
		code = refuse(w, refusal, why)
	} else if s := h.direct[trimSlash(r.URL.Path)]; s != nil && r.Method == http.MethodGet && r.URL.RawPath == "" {
		if code = h.serve(w, r, s); code == http.StatusOK {
			h.warm.ok(started)
			h.log(r, "/v1/credentials", code, started, "", nil)
			return
		}
		route = "/v1/credentials"
	} else {
		route, code = dispatch(h.router, trimSlash(r.URL.EscapedPath()), w, r)
	}
	h.Metrics.count(route, code, started)
	h.log(r, route, code, started, refusal, why)
}

// serve answers with the credentials of s, or says why there are none.
func (h *credentials) serve(w http.ResponseWriter, r *http.Request, s *slot) int {
	creds, err := s.Cache.Get(r.Context())
	if err != nil {
		return failure(w, err)
	}
	// Two requests may both render new credentials; they render the same.
	body := s.rendered.Load()
	if body == nil || body.of != creds {
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

func (h *credentials) unknownProfile(w http.ResponseWriter, _ *http.Request) {
	refuse(w, UnknownProfile, nil)
}

// maxUserAgent is longer than those of the SDKs, in characters.
const maxUserAgent = 500

// log writes one line, at debug only: a busy application asks every few seconds, and whoever is refused as often
// as he likes.
func (h *credentials) log(r *http.Request, route string, code int, started time.Time, refusal Refusal, why error) {
	if !h.Logger.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("route", route), slog.Int("code", code),
		slog.String("took", time.Since(started).String()), slog.String("user_agent", cache.Shorten(cache.Scrub(cache.OneLine(r.UserAgent())), maxUserAgent))}
	if refusal != "" {
		attrs = append(attrs, slog.String("refusal", string(refusal)))
	}
	if why != nil {
		attrs = append(attrs, slog.String("why", why.Error()))
	}
	h.Logger.LogAttrs(r.Context(), slog.LevelDebug, "request", attrs...)
}

// errorDocument names everything twice: Go and Java read the lower case, JavaScript the upper.
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
	// The hint is repeated in the message: no SDK shows a field that it does not know.
	message := fe.Message
	if advice := fe.Reason.Advice(); advice != "" {
		message += "; " + advice
	}
	return document(w, status, string(fe.Reason), message, fe.Reason.Advice())
}

// refuse answers a request that is not let through. The error, if there is one, says more than the refusal.
func refuse(w http.ResponseWriter, r Refusal, why error) int {
	row := refusals[r]
	message := row.message
	if why != nil {
		message += ": " + why.Error()
	}
	return document(w, row.status, string(r), message, row.hint)
}

// document writes an error document. Its type has no charset, or the Go SDK does not read it; there
// is no Retry-After, which JavaScript v2 and Go v1 wait out however long it is.
func document(w http.ResponseWriter, status int, code, message, hint string) int {
	return writeJSON(w, status, errorDocument{code, message, code, message, hint})
}

func writeJSON(w http.ResponseWriter, status int, v any) int {
	body := append(encode(v), '\n')
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
	return status
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}
