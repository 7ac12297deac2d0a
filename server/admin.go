package server

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
)

// Obeyed is what the admin listener answers to each command that it obeys, by path.
var Obeyed = map[string]string{"/reload": "reloading\n", "/quitquitquit": "shutting down\n"}

// NothingHere is what the admin listener answers at any path that it does not have.
const NothingHere = "there is nothing at this path; the status page is at /\n"

// Admin is the handler of the admin listener, on loopback: the status page with role and identity, and what changes the
// running sidecar. kubectl port-forward reaches it, and commands inside the Pod; a service mesh does not.
type Admin struct {
	Options
	router *chi.Mux
}

// NewAdmin returns the handler. A POST to /reload calls reload, and one to /quitquitquit calls quit; nil leaves that
// path out.
func NewAdmin(o Options, reload, quit func()) *Admin {
	h := &Admin{Options: o.withDefaults(), router: chi.NewMux()}
	h.router.Get("/", h.page)
	for path, do := range map[string]func(){"/reload": reload, "/quitquitquit": quit} {
		if do != nil {
			h.router.Post(path, command(Obeyed[path], do))
		}
	}
	h.router.NotFound(func(w http.ResponseWriter, _ *http.Request) { rebuff(w, http.StatusNotFound, NothingHere) })
	h.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		allow := http.MethodPost
		if r.URL.Path == "/" {
			allow = http.MethodGet
		}
		methodNotAllowed(allow)(w, r)
	})
	return h
}

// command answers a POST before it does what is asked for: a sidecar that ends answers no more.
func command(answer string, do func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if led(r) != "" { // a page in a browser can send a POST to loopback
			rebuff(w, http.StatusForbidden, "this is for programs inside the Pod, not for web pages\n")
			return
		}
		writeText(w, http.StatusOK, answer)
		do()
	}
}

func (h *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	route, code := "refused", http.StatusForbidden
	if isLocal(r) {
		route, code = dispatch(h.router, "", w, r)
	} else {
		rebuff(w, code, "this listener answers callers inside the Pod and kubectl port-forward, by 127.0.0.1 or localhost, and not other web pages: type the address into the browser\n")
	}
	if route == "/" {
		route = "/ (admin)" // the credentials listener has a page of its own
	}
	h.Metrics.count(route, code, started)
}
