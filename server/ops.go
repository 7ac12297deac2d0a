package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// Ops is the handler of the ops listener: what the kubelet and Prometheus reach, and with them the
// whole cluster. It serves no secret to anybody, and who we are only to loopback.
type Ops struct {
	Options
	router   *chi.Mux
	draining atomic.Bool
}

// NewOps returns the handler. quit is called by a POST to /quitquitquit from loopback; nil leaves
// that path out.
func NewOps(o Options, metrics prometheus.Gatherer, quit func()) *Ops {
	h := &Ops{Options: o.withDefaults(), router: chi.NewMux()}
	alive := func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") }
	h.router.Get("/livez", alive)
	h.router.Get("/healthz", alive)
	h.router.Get("/readyz", h.ready)
	h.router.Get("/startupz", h.started)
	h.router.Get("/", h.page)
	h.router.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	if quit != nil {
		h.router.Post("/quitquitquit", func(w http.ResponseWriter, r *http.Request) {
			// A page in a browser can send a POST to loopback too.
			if !isLocal(r) || led(r) != "" {
				writeText(w, http.StatusForbidden, "the sidecar is ended from inside its Pod only\n")
				return
			}
			writeText(w, http.StatusOK, "ending\n")
			quit()
		})
	}
	h.router.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusNotFound, "there is nothing at this path; there is / and /livez, /readyz, /startupz, /metrics\n")
	})
	h.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		allow := http.MethodGet
		if r.URL.Path == "/quitquitquit" {
			allow = http.MethodPost
		}
		w.Header().Set("Allow", allow)
		writeText(w, http.StatusMethodNotAllowed, "this path does not answer this method\n")
	})
	return h
}

// Drain makes the sidecar not ready, for good.
func (h *Ops) Drain() { h.draining.Store(true) }

func (h *Ops) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	routing := chi.NewRouteContext()
	status := &statusWriter{ResponseWriter: w, code: http.StatusOK}
	h.router.ServeHTTP(status, r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, routing)))
	route := routing.RoutePattern()
	switch route {
	case "":
		route = "other"
	case "/":
		route = "/ (ops)" // the credentials listener has a page of its own
	}
	h.Metrics.count(route, status.code, started)
}

// ready says of every profile whether its credentials are worth starting with, and why not.
func (h *Ops) ready(w http.ResponseWriter, r *http.Request) {
	h.report(w, r, h.draining.Load(), func(s cache.Status) (bool, string) {
		if s.Ready() {
			return true, fmt.Sprintf("ready, for another %s", spell(s.Remaining))
		}
		if s.Credentials != nil {
			return false, fmt.Sprintf("not ready: the credentials expire in %s", spell(s.Remaining))
		}
		return false, "not ready: there are no valid credentials"
	})
}

// started says whether the first exchange has succeeded, and never takes it back.
func (h *Ops) started(w http.ResponseWriter, r *http.Request) {
	h.report(w, r, false, func(s cache.Status) (bool, string) {
		if s.Started() {
			return true, "started"
		}
		return false, "not started: no exchange has succeeded yet"
	})
}

func (h *Ops) report(w http.ResponseWriter, r *http.Request, draining bool, judge func(cache.Status) (bool, string)) {
	var b strings.Builder
	status := http.StatusOK
	if draining {
		status = http.StatusServiceUnavailable
		b.WriteString("not ready: the sidecar is ending\n")
	}
	for _, p := range h.Profiles {
		s := p.Cache.Status()
		ok, why := judge(s)
		fmt.Fprintf(&b, "%s: %s\n", p.Name, why)
		if ok {
			continue
		}
		status = http.StatusServiceUnavailable
		if f := s.Failure; f != nil {
			if isLocal(r) {
				fmt.Fprintf(&b, "%s: %s\n", f.Reason, f.Message)
			} else {
				fmt.Fprintf(&b, "%s\n", f.Reason)
			}
			fmt.Fprintf(&b, "hint: %s\n", f.Reason.Advice())
		}
	}
	writeText(w, status, b.String())
}
