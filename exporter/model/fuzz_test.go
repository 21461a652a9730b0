package model

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// FuzzPage reads any bytes as a page, in any format, twice: nothing panics, and what is published a registry takes.
func FuzzPage(f *testing.F) {
	pages, _ := filepath.Glob("testdata/pages/*.prom")
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text[:min(len(text), 4000)], "text/plain", "auto")
	}
	f.Add([]byte("# TYPE a gauge\nvllm:num_requests_running 1\n# EOF\n"), "application/openmetrics-text; version=1.0.0", "vllm")
	f.Add([]byte("\x05\x0a\x01a\x18\x01"), "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", "auto")
	f.Add([]byte("vllm:e2e_request_latency_seconds_bucket{le=\"-Inf\"} 1e308\nvllm:e2e_request_latency_seconds_count 1e308\n"), "", "vllm")
	f.Fuzz(func(t *testing.T, page []byte, contentType, engine string) {
		config := exporter.DefaultModelServer()
		config.Name, config.Engine, config.MaxBody, config.MaxSeries = "s", engine, 64*units.KiB, 100
		if engine != "auto" && engineNamed(engine) == nil {
			config.Engine = "vllm"
		}
		check(t, &config, page, contentType)
	})
}

// FuzzMapping reads pages with any mapping that is valid.
func FuzzMapping(f *testing.F) {
	f.Add("running", "busy", "", "", 0.5, "busy 1\n")
	f.Add("request_duration", "d_us", "counter", "n", 1e-6, "d_us 1\nn 2\n")
	f.Add("request_duration", "d", "summary", "", 1.0, "d{quantile=\"0.5\"} 1\nd_sum 1\nd_count 1\n")
	f.Add("itl", "d", "histogram", "", 1.0, "d_bucket{le=\"1\"} 1\nd_bucket{le=\"+Inf\"} 1\n")
	f.Fuzz(func(t *testing.T, field, metric, kind, count string, scale float64, page string) {
		c := exporter.DefaultConfig()
		s := exporter.DefaultModelServer()
		s.Name, s.URL, s.Engine = "s", "http://127.0.0.1:1", "custom"
		s.Mapping = map[string]exporter.MetricMapping{field: {Metric: metric, Type: kind, Count: count, Scale: scale}}
		c.ModelServers = []exporter.ModelServer{s}
		if c.Validate() != nil {
			return
		}
		check(t, &s, []byte(page), "")
	})
}

// check reads a page twice and registers what comes of it.
func check(t *testing.T, config *exporter.ModelServer, page []byte, contentType string) {
	t.Helper()
	r, d := newReading(config), newDescs()
	for range 2 {
		if err := r.read(context.Background(), bytes.NewReader(page), contentType, ""); err != nil {
			continue
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(list(r.finish(d).metrics))
		if _, err := registry.Gather(); err != nil {
			t.Errorf("%v\nof %q", err, page)
		}
	}
}

// largePage is one of vLLM with some 2,000 lines: the page of a version, with more models.
func largePage(b testing.TB) string {
	text, err := os.ReadFile("testdata/pages/vllm-2026.prom")
	if err != nil {
		b.Fatal(err)
	}
	var page strings.Builder
	page.Write(text)
	for _, model := range []string{"a", "b"} {
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") {
				page.WriteString(strings.ReplaceAll(line, `model_name="`, `model_name="`+model+"/"))
			}
		}
	}
	return page.String()
}

// BenchmarkPage reads a page of vLLM of 2,000 lines again and again, as a server is.
func BenchmarkPage(b *testing.B) {
	page := largePage(b)
	config := exporter.DefaultModelServer()
	config.Name = "s"
	r, d := newReading(&config), newDescs()
	b.ReportAllocs()
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		if err := r.read(context.Background(), strings.NewReader(page), "", ""); err != nil {
			b.Fatal(err)
		}
		r.finish(d)
	}
	b.ReportMetric(float64(strings.Count(page, "\n")), "lines")
}

// BenchmarkUpdate is what a scrape costs, whatever the page.
func BenchmarkUpdate(b *testing.B) {
	server := serve(b, text2page(largePage(b)))
	c := newCollector(b, Options{ProcFS: b.TempDir()}, configOf(b, server.URL))
	c.servers[0].poll(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Update(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
