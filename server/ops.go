package server

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// Ops is the handler of the ops listener, for the kubelet and Prometheus. The whole cluster can reach it, so it serves no
// secrets and does not name the role.
type Ops struct {
	Options
	listener
	router   *chi.Mux
	draining atomic.Bool
}

// Mark is a header of every answer of [Ops], of every document of [Credentials] but the credentials themselves and the answer to
// what is not HTTP, and of every error of [NewIMDS]. By it, commands tell the sidecar from another program. It is not Server, which
// service meshes replace.
const Mark = "Irsa-Sidecar"

// NoCredentials is what /readyz says of a profile without valid credentials, before the reason.
const NoCredentials = "not ready: there are no valid credentials"

// NotCounted ends what /readyz and /startupz say of a profile that is not required.
const NotCounted = " (not counted)"

// The values of [Mark] in answers of [Ops] and of [Credentials].
const (
	OpsMark         = "ops"
	CredentialsMark = credentialsName
)

var (
	opsMark         = []string{OpsMark}
	credentialsMark = []string{CredentialsMark}
)

// NewOps returns the handler.
func NewOps(o Options, metrics prometheus.Gatherer) *Ops {
	o = o.withDefaults()
	h := &Ops{Options: o, router: chi.NewMux()}
	h.listener = newListener("ops", &o, nil, nil) // no guards: the kubelet and Prometheus are outside the Pod
	h.router.Get("/livez", h.alive)
	h.router.Get("/healthz", h.alive)
	h.router.Get("/readyz", h.ready)
	h.router.Get("/startupz", h.started)
	h.router.Method(http.MethodGet, "/metrics", &scrape{handler: promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})})
	h.router.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		answerAndClose(w, http.StatusNotFound, "there is nothing at this path; there is /livez, /readyz, /startupz and /metrics, and the status page is on IRSA_SIDECAR_ADMIN_LISTEN\n")
	})
	h.router.MethodNotAllowed(methodNotAllowed(http.MethodGet))
	return h
}

// answerAndClose writes an answer and closes the connection.
func answerAndClose(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Connection", "close")
	writeText(w, status, text)
}

func methodNotAllowed(allow string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", allow)
		answerAndClose(w, http.StatusMethodNotAllowed, "this path answers only "+allow+"\n")
	}
}

// Drain makes the sidecar permanently not ready.
func (h *Ops) Drain() { h.draining.Store(true) }

func (h *Ops) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	w.Header()[Mark] = opsMark
	profile, route, code := dispatch(h.router, "", w, r)
	h.account(r, profile, route, code, started, "", nil)
}

func (h *Ops) malformed() (contentType string, body []byte) { return malformedText() }

// malformedText is how listeners of plain text answer what net/http cannot read.
func malformedText() (contentType string, body []byte) {
	return typeText, []byte(MalformedRequest.Message() + "\n")
}

// dispatch answers through a router, as if the path were path; if path is empty, the request's own counts.
func dispatch(router *chi.Mux, path string, w http.ResponseWriter, r *http.Request) (profile, route string, code int) {
	routing := chi.NewRouteContext()
	routing.RoutePath = path
	status := &statusWriter{ResponseWriter: w, code: http.StatusOK}
	if hasBody(r) {
		closing(w, r) // no handler reads it
	}
	router.ServeHTTP(status, r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, routing)))
	if route = routing.RoutePattern(); route == "" || status.code == http.StatusNotFound {
		route = "other"
	}
	return status.profile, route, status.code
}

// alive reports whether the process makes progress. It does not ask AWS. While there are valid credentials it succeeds,
// because a restart would lose them.
func (h *Ops) alive(w http.ResponseWriter, _ *http.Request) {
	for _, p := range listed(h.Profiles.now().slots, h.Default) {
		if p.Cache.Status().Stuck {
			writeText(w, http.StatusServiceUnavailable, p.name()+": the refresh is stuck and there are no valid credentials; a restart may help\n")
			return
		}
	}
	writeText(w, http.StatusOK, "ok\n")
}

// ready reports for each profile whether its credentials last long enough to start with, and if not, why.
func (h *Ops) ready(w http.ResponseWriter, _ *http.Request) {
	h.report(w, h.draining.Load(), func(s cache.Status) (bool, string) {
		if s.Ready() {
			return true, fmt.Sprintf("ready, for another %s", rounded(s.Remaining))
		}
		if s.Credentials != nil {
			return false, fmt.Sprintf("not ready: the credentials expire in %s", rounded(s.Remaining))
		}
		return false, NoCredentials
	})
}

// started reports for each profile whether the first exchange has succeeded. Once it has, that does not change.
func (h *Ops) started(w http.ResponseWriter, _ *http.Request) {
	h.report(w, false, func(s cache.Status) (bool, string) {
		if s.Started() {
			return true, "started"
		}
		return false, "not started: no exchange has succeeded yet"
	})
}

// report says of each profile what judge says, and first of those because of which the answer is 503. Only required profiles
// count. Each hint is given once, so that the answer stays short if many profiles fail.
func (h *Ops) report(w http.ResponseWriter, draining bool, judge func(cache.Status) (bool, string)) {
	var b strings.Builder
	if draining {
		b.WriteString("not ready: the sidecar is shutting down\n")
	}
	hinted := make(map[string]bool)
	write := func(s cache.Status, ok bool, why string) {
		fmt.Fprintf(&b, "%s: %s\n", s.Profile, why)
		if f := s.Failure; !ok && f != nil {
			fmt.Fprintf(&b, "%s\n", f.Reason) // without STS's own words, which may name the role
			if hint := f.PublicAdvice(); !hinted[hint] {
				hinted[hint] = true
				fmt.Fprintf(&b, "hint: %s\n", hint)
			}
		}
	}
	var rest []func()
	for _, p := range listed(h.Profiles.now().slots, h.Default) {
		s := p.Cache.Status()
		switch ok, why := judge(s); {
		case !p.Required:
			rest = append(rest, func() { write(s, ok, why+NotCounted) })
		case ok:
			rest = append(rest, func() { write(s, ok, why) })
		default:
			write(s, ok, why)
		}
	}
	status := http.StatusOK
	if b.Len() > 0 {
		status = http.StatusServiceUnavailable
	}
	for _, write := range rest {
		write()
	}
	writeText(w, status, b.String())
}

// scrape answers all simultaneous requests for the metrics with one text. To make and compress one for each would be the
// most expensive answer, and the whole cluster can ask for it.
type scrape struct {
	handler http.Handler
	group   singleflight.Group
	size    int // of the last text, so that the next one is not copied while it grows
}

func (s *scrape) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	made, _, _ := s.group.Do("", func() (any, error) {
		page := &pageWriter{header: make(http.Header), code: http.StatusOK, body: make([]byte, 0, s.size)}
		s.handler.ServeHTTP(page, &http.Request{Method: http.MethodGet, Header: make(http.Header)}) // accepts any format, and no compression
		s.size = len(page.body) + len(page.body)/8
		return page, nil
	})
	page := made.(*pageWriter)
	for name, values := range page.header {
		w.Header()[name] = values
	}
	header := w.Header()
	header.Set("Content-Length", strconv.Itoa(len(page.body)))
	header["Cache-Control"] = noStore
	w.WriteHeader(page.code)
	w.Write(page.body)
}

// pageWriter stores an answer.
type pageWriter struct {
	header http.Header
	code   int
	body   []byte
}

func (p *pageWriter) Header() http.Header         { return p.header }
func (p *pageWriter) WriteHeader(code int)        { p.code = code }
func (p *pageWriter) Write(b []byte) (int, error) { p.body = append(p.body, b...); return len(b), nil }
