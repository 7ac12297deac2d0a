package server

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// Handler is what [Serve] serves on a listener of the sidecar. [Credentials], [NewOps] and [NewAdmin] return one.
type Handler interface {
	http.Handler

	// malformed notes a request that net/http cannot read, so that no handler sees it, where refusals are noted. It returns
	// the answer's body and type.
	malformed() (contentType string, body []byte)
}

// listener is what all handlers have in common: the guards that a request must pass, and the counting and logging of
// requests. The name is the metric label.
type listener struct {
	name    string
	guards  []guard
	answer  func(w http.ResponseWriter, r Refusal, why error) (code int)
	metrics *Metrics
	logger  *slog.Logger
	refused map[Refusal]*refusalTally
	hint    func(Refusal) string // nil if this listener refuses nothing
	tokens  *Profiles            // whose tokens are masked in what is recorded of requests
}

// newListener returns a listener that writes refusals with answer. Its guards refuse requests, and what it serves may
// refuse them with one of the others.
func newListener(name string, o *Options, answer func(http.ResponseWriter, Refusal, error) int, guards []guard, others ...Refusal) listener {
	l := listener{name: name, guards: guards, answer: answer, metrics: o.Metrics, logger: o.Logger, refused: make(map[Refusal]*refusalTally), tokens: o.Profiles}
	for _, g := range guards {
		others = append(others, g.refusals...)
	}
	for _, r := range others {
		l.refused[r] = o.Callers.refusing(name, r)
	}
	o.Metrics.refusing(name, others)
	return l
}

// permit reports whether all guards accept a request. If not, the request has been answered.
func (l *listener) permit(w http.ResponseWriter, r *http.Request, started time.Time) bool {
	for i := range l.guards {
		if refusal, why := l.guards[i].check(r); refusal != "" {
			l.reject(w, r, refusal, why, started)
			return false
		}
	}
	return true
}

// reject refuses a caller, and counts the request. A refused caller must not occupy a connection, and its body must not be read
// as the next request.
func (l *listener) reject(w http.ResponseWriter, r *http.Request, refusal Refusal, why error, started time.Time) {
	closing(w, r)
	l.account(r, "", "refused", l.refuse(w, r, refusal, why), started, refusal, why)
}

// refuse answers and records a refusal. The error, if there is one, gives the details.
func (l *listener) refuse(w http.ResponseWriter, r *http.Request, refusal Refusal, why error) (code int) {
	l.trace(r, refusal, why)
	return l.answer(w, refusal, why)
}

// trace counts and lists a refusal, and logs it at most once a minute.
func (l *listener) trace(r *http.Request, refusal Refusal, why error) {
	l.metrics.refused(l.name, refusal)
	account := l.refused[refusal]
	account.note(r, l.tokens, knownUser(r), time.Now())
	hint := ""
	if l.hint != nil {
		hint = l.hint(refusal)
	}
	account.warn(l.logger, r, l.tokens, hint, why)
}

// account counts an answer, and logs it at debug level.
func (l *listener) account(r *http.Request, profile, route string, code int, started time.Time, refusal Refusal, why error) {
	l.metrics.count(l.name, profile, route, code, started)
	l.log(r, route, code, started, refusal, why)
}

// maxUserAgent is in characters, and longer than those of the SDKs.
const maxUserAgent = 500

// log writes one line, at debug level only: a busy application asks every few seconds, and a refused one may ask at any
// rate.
func (l *listener) log(r *http.Request, route string, code int, started time.Time, refusal Refusal, why error) {
	if !l.logger.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("listener", l.name), slog.String("route", route), slog.Int("code", code),
		slog.String("took", time.Since(started).String()), slog.String("user_agent", userAgent(r, l.tokens))}
	if refusal != "" {
		attrs = append(attrs, slog.String("refusal", string(refusal)))
	}
	if why != nil {
		attrs = append(attrs, slog.String("why", why.Error()))
	}
	l.logger.LogAttrs(r.Context(), slog.LevelDebug, "request", attrs...)
}

// userAgent returns the request's User-Agent in a form that may be shown, without the tokens of p.
func userAgent(r *http.Request, p *Profiles) string {
	return redact.Shorten(redact.Scrub(p.hide(redact.OneLine(r.UserAgent()))), maxUserAgent)
}
