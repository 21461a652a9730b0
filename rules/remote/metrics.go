package remote

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what is asked of Prometheus elsewhere. Clients that follow one another, as at a reload, have the same.
type Metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	bytes    prometheus.Counter
	shared   prometheus.Counter
	failed   *prometheus.CounterVec
	last     prometheus.Gauge
}

// NewMetrics registers the metrics of clients.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_remote_requests_total",
			Help: "Requests to the Prometheus elsewhere, by HTTP status, or error where there was none.",
		}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "flyball_remote_request_duration_seconds",
			Help:    "Time from a request to the end of its answer.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flyball_remote_response_bytes_total",
			Help: "Bytes of answers that were read, as they came over the network.",
		}),
		shared: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flyball_remote_queries_shared_total",
			Help: "Queries that were answered by the answer to an equal one.",
		}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_remote_queries_failed_total",
			Help: "Queries without an answer that can be used, by why.",
		}, []string{"reason"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flyball_remote_last_success_timestamp_seconds",
			Help: "When a query was last answered, in Unix time.",
		}),
	}
	for _, r := range []reason{unreachable, timeout, refused, unusable, partial, waiting} {
		m.failed.WithLabelValues(string(r))
	}
	reg.MustRegister(m.requests, m.duration, m.bytes, m.shared, m.failed, m.last)
	return m
}

// reason is why a query has no answer.
type reason string

const (
	unreachable reason = "unreachable" // no connection, or it broke before an answer
	timeout     reason = "timeout"
	refused     reason = "refused"  // an error of the API, or a status other than 2xx
	unusable    reason = "unusable" // too large, cut off, not an answer
	partial     reason = "partial"  // a part of the data is missing
	waiting     reason = "waiting"  // not asked, because of Retry-After
)

// failure is an error with its reason.
type failure struct {
	reason reason
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }
