package process

import (
	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
)

// metrics is what the replicas count as they go.
type metrics struct {
	restarts *prometheus.CounterVec
	starts   *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_process_restarts_total",
			Help: "Replicas that ended without being told to and were to be started again, by reason.",
		}, []string{"target", "reason"}),
		starts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "flyball_process_start_duration_seconds",
			Help: "Time from the start of a replica's process to its first being ready.",
			// From a server without weights (tens of milliseconds) to a model of hundreds of gigabytes.
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200},
		}, []string{"target"}),
	}
}

// show has the series of a target there from the start, at 0.
func (m *metrics) show(target actuators.Target) {
	m.starts.WithLabelValues(target.String())
	for _, reason := range reasons {
		m.restarts.WithLabelValues(target.String(), reason)
	}
}

// forget drops the series of a target that there no longer is.
func (m *metrics) forget(target actuators.Target) {
	series := prometheus.Labels{"target": target.String()}
	m.starts.DeletePartialMatch(series)
	m.restarts.DeletePartialMatch(series)
}

// sizes collects the number of replicas in each state.
type sizes struct{ p *Processes }

var replicasDesc = prometheus.NewDesc("flyball_process_replicas",
	"Replicas of a target that run on this machine, by state.", []string{"target", "state"}, nil)

func (s *sizes) Describe(descs chan<- *prometheus.Desc) { descs <- replicasDesc }

func (s *sizes) Collect(metrics chan<- prometheus.Metric) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for _, pool := range s.p.pools {
		for _, state := range states {
			metrics <- prometheus.MustNewConstMetric(replicasDesc, prometheus.GaugeValue,
				float64(pool.count(state)), pool.target.String(), string(state))
		}
	}
}
