// Package exporter is the sensing part: it runs collectors and publishes what they read as Prometheus metrics.
//
// A [Collector] reads one source (the host, the GPUs, ...); each lives in a folder of its own below this one. The
// [Exporter] runs all of them side by side at every scrape, gives each the same deadline, and sees to it that none of
// them can spoil the scrape for the others: a panic becomes an error, a late answer is thrown away, a collector that
// hangs is not started a second time, and a metric that Prometheus would reject is dropped and named in the log.
//
//	hosts, err := host.New(host.Options{})
//	e, err := exporter.New(exporter.Options{Logger: logger}, hosts, gpus)
//	mux.Handle("GET /metrics", exporter.NewHandler(exporter.HandlerOptions{Process: registry, Exporter: func() *exporter.Exporter { return e }}))
//
// How each collector fared is published too: flyball_collector_duration_seconds{collector},
// flyball_collector_last_success_timestamp_seconds{collector} and flyball_collector_success{collector}.
//
//	success 1  it read all there was to read, also when there was nothing to read ([ErrNoData])
//	success 0  it failed, panicked, missed its deadline, still hangs, or had a metric dropped
//	absent     it is switched off
//
// node_exporter, whose collectors these resemble, reports 0 for a collector without data. Here a machine without a GPU
// is an ordinary machine, and flyball_collector_success == 0 is an alert that never needs an exception.
//
// METRICS.md lists all families of the packages below this one, which describe theirs as a [Family]. The folder bench
// holds the exporter to what it may cost.
//
// A failure is logged when it begins and when it ends, not at every scrape.
package exporter
