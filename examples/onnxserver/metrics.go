package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
)

// metrics are the server's own figures, in a registry of its own.
type metrics struct {
	registry *prometheus.Registry

	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	batchSize *prometheus.HistogramVec
	rows      *prometheus.CounterVec
	busy      *prometheus.CounterVec
	running   *prometheus.GaugeVec
	waiting   *prometheus.GaugeVec
}

// modelMetrics are those of one model's runs.
type modelMetrics struct {
	batchSize        prometheus.Observer
	rows, busy       prometheus.Counter
	running, waiting prometheus.Gauge
}

func newMetrics() *metrics {
	byModel := []string{"model"}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "onnxserver_requests_total",
			Help: "Inference requests that ended, by model (empty where there is none of the name), protocol (v1, v2) and HTTP status; 499 where the client had gone before its answer.",
		}, []string{"model", "protocol", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "onnxserver_request_duration_seconds",
			Help: "Time from the head of an inference request to its answer, waiting for its turn included.",
			// From a tiny model with HTTP around it to a long queue before a large one.
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, byModel),
		batchSize: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "onnxserver_batch_size",
			Help:    "Rows in each run of the model.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9), // 1 to 256, the default of --max-batch
		}, byModel),
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "onnxserver_rows_total",
			Help: "Rows that were answered.",
		}, byModel),
		busy: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "onnxserver_device_busy_seconds_total",
			Help: "Time for which the model ran; with --concurrency, that of all runs added up.",
		}, byModel),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "onnxserver_requests_running",
			Help: "Inference requests being computed.",
		}, byModel),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "onnxserver_requests_waiting",
			Help: "Inference requests waiting for their turn.",
		}, byModel),
	}
	m.registry.MustRegister(
		m.requests, m.duration, m.batchSize, m.rows, m.busy, m.running, m.waiting,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("onnxserver"),
	)
	return m
}

// of are the metrics of one model; its series are there from the start, so that a rate over them has a first sample.
func (m *metrics) of(model string) modelMetrics {
	for _, protocol := range []string{protocolV1, protocolV2} {
		m.requests.WithLabelValues(model, protocol, "200")
	}
	return modelMetrics{
		batchSize: m.batchSize.WithLabelValues(model),
		rows:      m.rows.WithLabelValues(model),
		busy:      m.busy.WithLabelValues(model),
		running:   m.running.WithLabelValues(model),
		waiting:   m.waiting.WithLabelValues(model),
	}
}
