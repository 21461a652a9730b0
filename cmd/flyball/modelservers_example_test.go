package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"flyball/exporter/model"
)

// rankerPage is what the server of one's own in examples/model-servers says.
const rankerPage = `# TYPE ranker_latency_ms histogram
ranker_latency_ms_bucket{le="50"} 3
ranker_latency_ms_bucket{le="+Inf"} 4
ranker_latency_ms_sum 400
ranker_latency_ms_count 4
# TYPE ranker_requests_total counter
ranker_requests_total{outcome="ok"} 4
ranker_requests_total{outcome="error"} 1
# TYPE ranker_busy_slots gauge
ranker_busy_slots 2
# TYPE ranker_queue_length gauge
ranker_queue_length 7
# TYPE npu_busy_percent gauge
npu_busy_percent{npu="0"} 62
# TYPE npu_memory_used_kib gauge
npu_memory_used_kib{npu="0"} 2048
# TYPE npu_memory_total_kib gauge
npu_memory_total_kib{npu="0"} 8192
`

// TestModelServersExample: examples/model-servers is a configuration, and its mapping makes of a page what it says.
func TestModelServersExample(t *testing.T) {
	const file = "../../examples/model-servers/flyball.yml"
	out, err := exec.Command(built.path("flyball"), "check", "config", file).CombinedOutput()
	want := file + ": ok: 0 rule files, 0 groups, 0 record, 0 alert, 0 scale, 0 models, 0 targets\n"
	if diff := cmp.Diff(want, string(out)); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}

	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, rankerPage) }))
	defer page.Close()
	l, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	servers := l.Exporter.ModelServers[2:]
	servers[0].URL, servers[0].TLS, servers[0].BearerTokenFile = page.URL, nil, ""
	models, err := model.New(servers, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := models.Probe(t.Context(), "ranker")
	if err != nil || !report.Up {
		t.Fatal(err, report.Error)
	}
	var mapped []string
	for _, f := range report.Fields {
		if f.Mapped {
			mapped = append(mapped, f.Field)
		}
	}
	if len(mapped) != len(servers[0].Mapping) || !slices.Equal(report.Models, []string{"ranker-v3"}) || len(report.Unmapped) > 0 {
		t.Errorf("mapped %v of models %v, for nothing %v", mapped, report.Models, report.Unmapped)
	}
	var values []float64 // of the gauges of accelerators, and the upper bound and sum of the latency in seconds
	for _, m := range report.Metrics {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		if h := d.GetHistogram(); h != nil {
			values = append(values, h.GetBucket()[0].GetUpperBound(), h.GetSampleSum())
		}
		if slices.ContainsFunc(d.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "accelerator" && l.GetValue() == "0" }) {
			values = append(values, d.GetGauge().GetValue())
		}
	}
	slices.Sort(values)
	if diff := cmp.Diff([]float64{0.05, 0.4, 0.62, 2 << 20, 8 << 20}, values); diff != "" {
		t.Errorf("values (-want +got)\n%s", diff)
	}
}
