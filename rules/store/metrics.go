package store

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the scheduler says of itself. The label group is the group's file and name joined by a semicolon, as
// in Prometheus, since names need not be unique across files.
type metrics struct {
	duration *prometheus.GaugeVec
	missed   *prometheus.CounterVec
	last     *prometheus.GaugeVec
	failures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flyball_rule_group_duration_seconds",
			Help: "How long the last evaluation of the group took.",
		}, []string{"group"}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_rule_group_iterations_missed_total",
			Help: "Evaluations of the group that were left out because the one before took too long, or the clock was set forward.",
		}, []string{"group"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flyball_rule_group_last_evaluation_timestamp_seconds",
			Help: "The time at which the group was last evaluated, in seconds since 1970.",
		}, []string{"group"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_rule_failures_total",
			Help: "Evaluations of the rule that failed.",
		}, []string{"group", "rule"}),
	}
	for _, c := range []prometheus.Collector{m.duration, m.missed, m.last, m.failures} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the rule metrics: %w", err)
		}
	}
	return m, nil
}

// watch shows whether the disk has room.
func (m *metrics) watch(reg prometheus.Registerer, r *room) error {
	c := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flyball_store_full",
		Help: "1 while nothing is written because the disk of the data directory is nearly full or read-only.",
	}, func() float64 {
		if r.full() {
			return 1
		}
		return 0
	})
	if err := reg.Register(c); err != nil {
		return fmt.Errorf("register the store's metrics: %w", err)
	}
	return nil
}

// forget drops the series of a group that is no longer there.
func (m *metrics) forget(group string) {
	match := prometheus.Labels{"group": group}
	m.duration.DeletePartialMatch(match)
	m.missed.DeletePartialMatch(match)
	m.last.DeletePartialMatch(match)
	m.failures.DeletePartialMatch(match)
}
