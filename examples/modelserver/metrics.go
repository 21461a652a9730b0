package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
)

// metrics are the server's own figures, in a registry of its own.
type metrics struct {
	registry *prometheus.Registry

	requests   *prometheus.CounterVec
	duration   prometheus.Histogram
	batchSize  prometheus.Histogram
	images     prometheus.Counter
	deviceBusy prometheus.Counter
	running    prometheus.Gauge
	waiting    prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "modelserver_requests_total",
			Help: "Inference requests that ended, by protocol (v1, v2) and HTTP status; 499 where the client had gone before its answer.",
		}, []string{"protocol", "code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "modelserver_request_duration_seconds",
			Help: "Time from the head of an inference request to its answer, waiting for the emulated accelerator included.",
			// From a bare classification (some 50 us with HTTP) to a long queue before the emulated accelerator.
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "modelserver_batch_size",
			Help:    "Images in each batch that was classified.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 7), // 1 to 64, the default of --max-batch
		}),
		images: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelserver_images_total",
			Help: "Images classified.",
		}),
		deviceBusy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelserver_device_busy_seconds_total",
			Help: "Time for which the emulated accelerator was held by a batch; 0 without an emulated accelerator.",
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "modelserver_requests_running",
			Help: "Inference requests being computed; with an emulated accelerator, the one that holds it.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "modelserver_requests_waiting",
			Help: "Inference requests waiting for the emulated accelerator.",
		}),
	}
	m.registry.MustRegister(
		m.requests, m.duration, m.batchSize, m.images, m.deviceBusy, m.running, m.waiting,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("modelserver"),
	)
	// Both protocols are there from the start, so that a rate over them has a first sample.
	for _, protocol := range []string{protocolV1, protocolV2} {
		m.requests.WithLabelValues(protocol, "200")
	}
	return m
}
