package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the collectors of all listeners. Labels are route patterns and status codes: nothing
// that a caller chooses.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics returns Metrics that are registered with r, and panics if some already are.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "irsa_sidecar_http_requests_total",
			Help: "Requests answered, by route and status code.",
		}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "irsa_sidecar_http_request_duration_seconds",
			Help:    "How long requests took.",
			Buckets: []float64{0.0001, 0.001, 0.01, 0.1, 0.5, 1},
		}, []string{"route"}),
	}
	r.MustRegister(m.requests, m.duration)
	return m
}

func (m *Metrics) count(route string, code int, started time.Time) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(route, strconv.Itoa(code)).Inc()
	m.duration.WithLabelValues(route).Observe(time.Since(started).Seconds())
}

// routeMetrics have their labels looked up once, for the route that matters.
type routeMetrics struct {
	served   prometheus.Counter
	duration prometheus.Observer
}

func (m *Metrics) route(route string) *routeMetrics {
	if m == nil {
		return nil
	}
	return &routeMetrics{
		m.requests.WithLabelValues(route, strconv.Itoa(http.StatusOK)),
		m.duration.WithLabelValues(route),
	}
}

func (m *routeMetrics) ok(started time.Time) {
	if m == nil {
		return
	}
	m.served.Inc()
	m.duration.Observe(time.Since(started).Seconds())
}
