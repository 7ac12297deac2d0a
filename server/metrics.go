package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the collectors of all listeners. Labels are listeners, profiles, route patterns, status codes and
// refusals: nothing that a caller chooses.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refusals *prometheus.CounterVec
}

// NewMetrics returns Metrics that are registered with r, and panics if some already are.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "irsa_sidecar_http_requests_total",
			Help: "Requests answered, by listener, profile (empty where a request is about none), route and status code.",
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

func (m *Metrics) count(listener, profile, route string, code int, started time.Time) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(listener, profile, route, strconv.Itoa(code)).Inc()
	m.duration.WithLabelValues(listener, route).Observe(time.Since(started).Seconds())
}

// refusing has the refusals that a listener may answer with count from zero: rate() needs the zero before the first.
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

// routeMetrics have their labels looked up once, for the route that matters.
type routeMetrics struct {
	served   prometheus.Counter
	duration prometheus.Observer
}

func (m *Metrics) route(listener, profile, route string) *routeMetrics {
	if m == nil {
		return nil
	}
	return &routeMetrics{
		m.requests.WithLabelValues(listener, profile, route, strconv.Itoa(http.StatusOK)),
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
