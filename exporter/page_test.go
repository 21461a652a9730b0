package exporter

import (
	"context"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkGather is a scrape of n series through the checks, beside that of the same series in a registry alone.
func BenchmarkGather(b *testing.B) {
	for _, n := range []int{100, 1000} {
		desc := prometheus.NewDesc("test_gauge", "Help.", []string{"uuid", "gpu"}, nil)
		update := func(context.Context) ([]prometheus.Metric, error) {
			var metrics []prometheus.Metric
			for i := range n {
				metrics = append(metrics, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(i), fmt.Sprint("GPU-", i), "0"))
			}
			return metrics, nil
		}
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			registry, _ := newExporter(b, 0, collector{"a", update})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := registry.Gather(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("series=%d/unchecked", n), func(b *testing.B) {
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
				metrics, _ := update(context.Background())
				for _, m := range metrics {
					ch <- m
				}
			}))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := registry.Gather(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
