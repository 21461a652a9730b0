package store

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// droppedNotifications has a series of its own, without an Alertmanager, for the alerts that were queued for none.
const droppedNotifications = "flyball_notifications_dropped_total"

// notifications publishes what the notifier says of itself a second time, under our own names: its own are Prometheus's,
// and so apart from our metrics, where nobody looks who does not also run a Prometheus; but that alerts do not arrive is
// what one wants to be alerted to from elsewhere. The values are read when they are asked for.
type notifications struct {
	registry *prometheus.Registry // the notifier's own
	overflow atomic.Uint64        // alerts that found no room in the outbox
	names    map[string]string    // theirs to ours
}

func registerNotifications(theirs, ours prometheus.Registerer) (*notifications, error) {
	n := &notifications{
		registry: prometheus.NewRegistry(),
		names: map[string]string{
			"prometheus_notifications_sent_total":                "flyball_notifications_sent_total",
			"prometheus_notifications_dropped_total":             droppedNotifications,
			"prometheus_notifications_errors_total":              "flyball_notifications_errors_total",
			"prometheus_notifications_queue_length":              "flyball_notifications_queue_length",
			"prometheus_notifications_queue_capacity":            "flyball_notifications_queue_capacity",
			"prometheus_notifications_latency_histogram_seconds": "flyball_notifications_latency_seconds",
			"prometheus_notifications_alertmanagers_discovered":  "flyball_notifications_alertmanagers_discovered",
		},
	}
	if err := theirs.Register(n.registry); err != nil {
		return nil, fmt.Errorf("register the notifier's metrics: %w", err)
	}
	if err := ours.Register(n); err != nil {
		return nil, fmt.Errorf("register the notification metrics: %w", err)
	}
	return n, nil
}

// Describe implements prometheus.Collector. It describes nothing, since the series depend on which Alertmanagers there are.
func (n *notifications) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (n *notifications) Collect(ch chan<- prometheus.Metric) {
	families, err := n.registry.Gather()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
	help := "Total number of alerts dropped due to errors when sending to Alertmanager."
	for _, f := range families {
		name, ok := n.names[f.GetName()]
		if !ok {
			continue
		}
		if name == droppedNotifications {
			help = f.GetHelp() // one name has one text
		}
		for _, m := range f.GetMetric() {
			ch <- renamed(name, f.GetHelp(), m)
		}
	}
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(droppedNotifications, help, nil, prometheus.Labels{"alertmanager": ""}),
		prometheus.CounterValue, float64(n.overflow.Load()))
}

// renamed is the metric under another name.
func renamed(name, help string, m *dto.Metric) prometheus.Metric {
	ls := prometheus.Labels{}
	for _, l := range m.GetLabel() {
		ls[l.GetName()] = l.GetValue()
	}
	desc := prometheus.NewDesc(name, help, nil, ls)
	switch {
	case m.Counter != nil:
		return prometheus.MustNewConstMetric(desc, prometheus.CounterValue, m.Counter.GetValue())
	case m.Gauge != nil:
		return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, m.Gauge.GetValue())
	default:
		buckets := map[float64]uint64{}
		for _, b := range m.GetHistogram().GetBucket() {
			buckets[b.GetUpperBound()] = b.GetCumulativeCount()
		}
		return prometheus.MustNewConstHistogram(desc, m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum(), buckets)
	}
}
