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
	listener
	router *chi.Mux
}

// NewAdmin returns the handler. A POST to /reload calls reload, and one to /quitquitquit calls quit; nil leaves that
// path out.
func NewAdmin(o Options, reload, quit func()) *Admin {
	o = o.withDefaults()
	h := &Admin{Options: o, router: chi.NewMux()}
	h.listener = newListener("admin", &o, h.refusal, []guard{onThisMachine(0), directOrOwnPage}, MalformedRequest)
	h.router.Get("/", h.page)
	for path, do := range map[string]func(){"/reload": reload, "/quitquitquit": quit} {
		if do != nil {
			h.router.Post(path, command(Obeyed[path], do))
		}
	}
	h.router.NotFound(func(w http.ResponseWriter, _ *http.Request) { answerAndClose(w, http.StatusNotFound, NothingHere) })
	h.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		allow := http.MethodPost
		if r.URL.Path == "/" {
			allow = http.MethodGet
		}
		methodNotAllowed(allow)(w, r)
	})
	return h
}

// command answers a POST before it does what is asked for: a sidecar that has shut down answers nothing.
func command(answer string, do func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		writeText(w, http.StatusOK, answer)
		do()
	}
}

func (h *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	if h.permit(w, r, started) {
		profile, route, code := dispatch(h.router, "", w, r)
		h.account(r, profile, route, code, started, "", nil)
	}
}

func (h *Admin) refusal(w http.ResponseWriter, r Refusal, _ error) int {
	row := refusals[r]
	writeText(w, row.status, string(r)+": "+row.message+"; this listener answers programs inside the Pod, kubectl port-forward, and a browser "+
		"into which http://127.0.0.1 or http://localhost is typed with the port\n")
	return row.status
}

func (h *Admin) malformed() (contentType string, body []byte) {
	h.trace(&http.Request{}, MalformedRequest, nil)
	return malformedText()
}
