package server

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
)

// CommandAnswers has the admin listener's answers to the commands that it accepts, by path.
var CommandAnswers = map[string]string{"/reload": "reloading\n", "/quitquitquit": "shutting down\n"}

// AdminNotFound is the admin listener's answer at unknown paths.
const AdminNotFound = "there is nothing at this path; the status page is at /\n"

// Admin is the handler of the admin listener, on loopback: the status page with role and identity, and the commands that
// change the running sidecar. kubectl port-forward and programs inside the Pod can reach it, a service mesh cannot.
type Admin struct {
	Options
	listener
	router *chi.Mux
}

// NewAdmin returns the handler. A POST to /reload calls reload, and one to /quitquitquit calls quit; there is no path for a
// nil function.
func NewAdmin(o Options, reload, quit func()) *Admin {
	o = o.withDefaults()
	h := &Admin{Options: o, router: chi.NewMux()}
	h.listener = newListener("admin", &o, h.refusal, []guard{fromHere(), directOrOwnPage}, MalformedRequest)
	h.listener.hint = adminHint
	h.router.Get("/", h.page)
	for path, do := range map[string]func(){"/reload": reload, "/quitquitquit": quit} {
		if do != nil {
			h.router.Post(path, command(CommandAnswers[path], do))
		}
	}
	h.router.NotFound(func(w http.ResponseWriter, _ *http.Request) { answerAndClose(w, http.StatusNotFound, AdminNotFound) })
	h.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		allow := http.MethodPost
		if r.URL.Path == "/" {
			allow = http.MethodGet
		}
		methodNotAllowed(allow)(w, r)
	})
	return h
}

// command answers a POST before it runs the command, because a sidecar that has shut down cannot answer.
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

// adminCallers says who may use this listener.
const adminCallers = "this listener answers programs inside the Pod, kubectl port-forward, and a browser " +
	"into which http://127.0.0.1 or http://localhost is typed with the port"

// adminHint says what to do about a refusal by this listener.
func adminHint(r Refusal) string {
	if r == MalformedRequest {
		return r.Hint()
	}
	return adminCallers
}

func (h *Admin) refusal(w http.ResponseWriter, r Refusal, _ error) int {
	row := refusals[r]
	writeText(w, row.status, string(r)+": "+row.message+"; "+adminCallers+"\n")
	return row.status
}

func (h *Admin) malformed() (contentType string, body []byte) {
	h.trace(&http.Request{}, MalformedRequest, nil)
	return malformedText()
}
