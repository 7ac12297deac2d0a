package server

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the collectors of all listeners. No label has a value that a caller can choose: labels are listeners,
// profiles, route patterns, status codes and refusals.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refusals *prometheus.CounterVec

	mu       sync.Mutex
	profiles map[string]bool // that exist
}

// NewMetrics returns Metrics that are registered with r. It panics if r already has metrics of the same names.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "irsa_sidecar_http_requests_total",
			Help: "Requests answered, by listener, profile (empty if a request is not about one), route and status code.",
		}, []string{"listener", "profile", "route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "irsa_sidecar_http_request_duration_seconds",
			Help:    "How long requests took, by listener and route.",
			Buckets: []float64{0.0001, 0.001, 0.01, 0.1, 0.5, 1},
		}, []string{"listener", "route"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "irsa_sidecar_http_refusals_total",
			Help: "Requests refused, by listener and refusal.",
		}, []string{"listener", "refusal"}),
	}
	r.MustRegister(m.requests, m.duration, m.refusals)
	return m
}

// keep forgets all profiles but these.
func (m *Metrics) keep(profiles map[string]bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.profiles {
		if !profiles[name] {
			m.requests.DeletePartialMatch(prometheus.Labels{"profile": name})
		}
	}
	m.profiles = profiles
}

func (m *Metrics) count(listener, profile, route string, code int, started time.Time) {
	if m == nil {
		return
	}
	m.served(listener, profile, route, code).Inc()
	m.duration.WithLabelValues(listener, route).Observe(time.Since(started).Seconds())
}

// served returns a counter of requests. A request that was under way when its profile went must not bring back its series.
func (m *Metrics) served(listener, profile, route string, code int) prometheus.Counter {
	if profile != "" {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !m.profiles[profile] {
			profile = ""
		}
	}
	return m.requests.WithLabelValues(listener, profile, route, strconv.Itoa(code))
}

// refusing makes the refusals of a listener count from zero: rate() needs the zero before the first one.
func (m *Metrics) refusing(listener string, refusals []Refusal) {
	if m == nil {
		return
	}
	for _, r := range refusals {
		m.refusals.WithLabelValues(listener, string(r))
	}
}

func (m *Metrics) refused(listener string, r Refusal) {
	if m != nil {
		m.refusals.WithLabelValues(listener, string(r)).Inc()
	}
}

// routeMetrics are the metrics of the busiest route, whose labels are looked up only once.
type routeMetrics struct {
	served   prometheus.Counter
	duration prometheus.Observer
}

func (m *Metrics) route(listener, profile, route string) *routeMetrics {
	if m == nil {
		return nil
	}
	return &routeMetrics{
		m.served(listener, profile, route, http.StatusOK),
		m.duration.WithLabelValues(listener, route),
	}
}

func (m *routeMetrics) ok(started time.Time) {
	if m == nil {
		return
	}
	m.served.Inc()
	m.duration.Observe(time.Since(started).Seconds())
}
