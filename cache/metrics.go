package cache

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the collectors that all Caches of a process share. Their labels are the profile and the [Reason]: never an
// ARN, a path or anything that a caller chooses.
type Metrics struct {
	expiry      *prometheus.GaugeVec
	tokenIssued *prometheus.GaugeVec
	tokenExpiry *prometheus.GaugeVec
	lastSuccess *prometheus.GaugeVec
	refreshes   *prometheus.CounterVec
	duration    *prometheus.HistogramVec
}

// NewMetrics returns Metrics that are registered with r. It panics if r already has metrics of the same names.
func NewMetrics(r prometheus.Registerer) *Metrics {
	profile := []string{"profile"}
	m := &Metrics{
		expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "irsa_sidecar_credentials_expiry_timestamp_seconds",
			Help: "When the credentials being served expire, in Unix time.",
		}, profile),
		tokenIssued: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "irsa_sidecar_token_issued_timestamp_seconds",
			Help: "When the web identity token that was last read was issued, in Unix time.",
		}, profile),
		tokenExpiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "irsa_sidecar_token_expiry_timestamp_seconds",
			Help: "When the web identity token that was last read expires, in Unix time.",
		}, profile),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "irsa_sidecar_last_refresh_success_timestamp_seconds",
			Help: "When an exchange with STS last succeeded, in Unix time.",
		}, profile),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "irsa_sidecar_refreshes_total",
			Help: `Exchanges with STS by outcome: "ok", or the reason of the failure.`,
		}, []string{"profile", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "irsa_sidecar_refresh_duration_seconds",
			Help:    "How long exchanges with STS took, failed ones included.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2, 5},
		}, profile),
	}
	r.MustRegister(m.expiry, m.tokenIssued, m.tokenExpiry, m.lastSuccess, m.refreshes, m.duration)
	return m
}

// Forget removes a profile's series. Its Cache's Run must have returned, since each exchange adds them again. It does
// nothing on nil.
func (m *Metrics) Forget(profile string) {
	if m == nil {
		return
	}
	for _, vec := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.expiry, m.tokenIssued, m.tokenExpiry, m.lastSuccess, m.refreshes, m.duration,
	} {
		vec.DeletePartialMatch(prometheus.Labels{"profile": profile})
	}
}

// profileMetrics are the metrics of one Cache. Its methods do nothing on nil.
type profileMetrics struct {
	*Metrics
	profile string
}

func (m *Metrics) forProfile(profile string) *profileMetrics {
	if m == nil {
		return nil
	}
	m.refreshes.WithLabelValues(profile, "ok") // rate() needs the zero before the first
	return &profileMetrics{m, profile}
}

func (m *profileMetrics) succeeded(creds *Credentials, now time.Time, took time.Duration) {
	if m == nil {
		return
	}
	m.refreshes.WithLabelValues(m.profile, "ok").Inc()
	m.duration.WithLabelValues(m.profile).Observe(took.Seconds())
	m.expiry.WithLabelValues(m.profile).Set(float64(creds.Expiration.Unix()))
	m.lastSuccess.WithLabelValues(m.profile).Set(float64(now.Unix()))
	m.token(creds.TokenIssued, creds.TokenExpiration)
}

// restored records which credentials are served, without counting an exchange.
func (m *profileMetrics) restored(creds *Credentials) {
	if m == nil {
		return
	}
	m.expiry.WithLabelValues(m.profile).Set(float64(creds.Expiration.Unix()))
}

func (m *profileMetrics) failed(failure *FetchError, took time.Duration) {
	if m == nil {
		return
	}
	m.refreshes.WithLabelValues(m.profile, string(failure.Reason)).Inc()
	m.duration.WithLabelValues(m.profile).Observe(took.Seconds())
	m.token(failure.TokenIssued, failure.TokenExpiration)
}

func (m *profileMetrics) token(issued, expiration time.Time) {
	if !issued.IsZero() {
		m.tokenIssued.WithLabelValues(m.profile).Set(float64(issued.Unix()))
	}
	if !expiration.IsZero() {
		m.tokenExpiry.WithLabelValues(m.profile).Set(float64(expiration.Unix()))
	}
}
