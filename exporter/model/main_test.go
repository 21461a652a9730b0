package model

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"flyball/exporter"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// list is a collector of metrics that are there already.
type list []prometheus.Metric

func (l list) Describe(chan<- *prometheus.Desc) {}

func (l list) Collect(ch chan<- prometheus.Metric) {
	for _, m := range l {
		ch <- m
	}
}

// gather makes families of metrics by a registry's rules, without those of time and of the process.
func gather(t testing.TB, metrics []prometheus.Metric) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(list(metrics))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []*dto.MetricFamily
	for _, f := range families {
		switch f.GetName() {
		case scrapedFamily, cpuFamily, memoryFamily:
		default:
			all = append(all, f)
		}
	}
	return all
}

func page2text(t testing.TB, metrics []prometheus.Metric) string {
	t.Helper()
	var b bytes.Buffer
	for _, f := range gather(t, metrics) {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// series are the lines of a page without its comments.
func seriesOf(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// serve has a real server answer for /metrics.
func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

func text2page(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, text)
	}
}

// configOf is a valid configuration for a server.
func configOf(t testing.TB, url string, more ...func(*exporter.ModelServer)) exporter.ModelServer {
	t.Helper()
	c := exporter.DefaultModelServer()
	c.Name, c.URL = "s", url
	for _, f := range more {
		f(&c)
	}
	whole := exporter.DefaultConfig()
	whole.ModelServers = []exporter.ModelServer{c}
	if err := whole.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func newCollector(t testing.TB, o Options, configs ...exporter.ModelServer) *Collector {
	t.Helper()
	c, err := New(configs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range c.servers {
			s.client.close()
		}
	})
	return c
}

// probe reads a page of this text.
func probe(t testing.TB, text string, more ...func(*exporter.ModelServer)) Report {
	t.Helper()
	server := serve(t, text2page(text))
	c := newCollector(t, Options{ProcFS: t.TempDir()}, configOf(t, server.URL, more...))
	r, err := c.Probe(context.Background(), "s")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tpu is a mapping of one's own: the duty cycle and the memory of another accelerator.
func tpu(c *exporter.ModelServer) {
	c.Engine, c.Model = "custom", "llama"
	c.Mapping = map[string]exporter.MetricMapping{
		"accelerator_duty_cycle":   {Metric: "duty_cycle", Scale: 0.01, ID: "accelerator_id"},
		"accelerator_memory_used":  {Metric: "memory_used", ID: "accelerator_id"},
		"accelerator_memory_total": {Metric: "memory_total", ID: "accelerator_id"},
	}
}

// TestGolden reads the page of each engine and version as it is served, and compares what comes of it.
func TestGolden(t *testing.T) {
	pages, err := filepath.Glob("testdata/pages/*.prom")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	for _, path := range pages {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var more []func(*exporter.ModelServer)
			switch {
			case strings.HasPrefix(name, "tpu-"):
				more = append(more, tpu)
			case strings.HasPrefix(name, "tgi-"):
				more = append(more, func(c *exporter.ModelServer) { c.Model = "mistral" })
			}
			r := probe(t, string(text), more...)
			if !r.Up {
				t.Fatal(r.Error)
			}
			if engine, _, _ := strings.Cut(strings.TrimSuffix(name, ".prom"), "-"); !strings.HasPrefix(name, "tpu-") && !strings.HasPrefix(name, "kserve") && engine != r.Engine {
				t.Errorf("taken for %s", r.Engine)
			}
			got := page2text(t, r.Metrics)
			problems, err := testutil.GatherAndLint(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return gather(t, r.Metrics), nil }))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range problems {
				if !strings.Contains(p.Text, `"quantile" label`) { // a gauge of quantiles has it, so that it is no summary
					t.Errorf("%s: %s", p.Metric, p.Text)
				}
			}
			golden := filepath.Join("testdata/golden", name)
			if *update {
				if err := os.MkdirAll("testdata/golden", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestFamilies compares what is listed with what the golden pages have.
func TestFamilies(t *testing.T) {
	listed := map[string]exporter.Family{}
	for _, f := range Families() {
		if f.Help == "" || f.Type == "" || f.Labels == nil || f.Collector != "models" {
			t.Errorf("%+v has something missing", f)
		}
		listed[f.Name] = f
	}
	pages, err := filepath.Glob("testdata/golden/*.prom")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	for _, path := range pages {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		for name, f := range families {
			l, there := listed[name]
			if !there || !strings.EqualFold(l.Type, f.GetType().String()) || l.Help != f.GetHelp() {
				t.Errorf("%s: %s is not listed so: %+v", path, name, l)
			}
			for _, m := range f.GetMetric() {
				for _, label := range m.GetLabel() {
					if !strings.Contains(fmt.Sprint(l.Labels), label.GetName()) {
						t.Errorf("%s: %s has a label %s that is not listed", path, name, label.GetName())
					}
				}
			}
		}
	}
	if len(exporter.ModelFields) != len(fields) {
		t.Fatal("fields of the configuration are others than those of the schema")
	}
	for i, f := range fields {
		if exporter.ModelFields[i] != f.name {
			t.Errorf("field %d is %s here and %s in the configuration", i, f.name, exporter.ModelFields[i])
		}
	}
	for _, name := range exporter.Engines {
		if name != "auto" && engineNamed(name) == nil {
			t.Errorf("engine %s is not known", name)
		}
	}
	for _, e := range engines {
		for _, s := range e.sources {
			if fieldIndex(s.field) < 0 {
				t.Errorf("%s: no field %s", e.name, s.field)
			}
		}
	}
}

// TestMeaning has what looks right and is wrong.
func TestMeaning(t *testing.T) {
	for _, tt := range []struct {
		name, page string
		more       func(*exporter.ModelServer)
		want       []string // lines that are there
		without    []string // what no line has
	}{
		{
			name: "counters alone are a histogram of +Inf",
			page: "nv_inference_request_success{model=\"m\",version=\"1\"} 4\nnv_inference_request_duration_us{model=\"m\",version=\"1\"} 5000\n",
			want: []string{
				`flyball_model_request_duration_seconds_bucket{engine="triton",model="m",server="s",version="1",le="+Inf"} 4`,
				`flyball_model_request_duration_seconds_sum{engine="triton",model="m",server="s",version="1"} 0.005`,
				`flyball_model_request_duration_seconds_count{engine="triton",model="m",server="s",version="1"} 4`,
			},
			without: []string{`le="0`},
		},
		{
			name: "a summary's quantiles are a gauge of their own",
			page: "# TYPE nv_inference_request_summary_us summary\nnv_inference_request_summary_us{model=\"m\",quantile=\"0.5\"} 200\n" +
				"nv_inference_request_summary_us_sum{model=\"m\"} 900\nnv_inference_request_summary_us_count{model=\"m\"} 3\n" +
				"nv_inference_request_summary_us{model=\"m\",quantile=\"0.9\"} NaN\n",
			want: []string{
				`flyball_model_request_duration_quantile_seconds{engine="triton",model="m",quantile="0.5",server="s"} 0.0002`,
				`flyball_model_request_duration_seconds_sum{engine="triton",model="m",server="s"} 0.0009`,
			},
			without: []string{`quantile="0.9"`},
		},
		{
			name:    "the first chunk of an answer is no token",
			page:    "nv_inference_request_success{model=\"m\"} 1\nnv_inference_first_response_histogram_ms_bucket{model=\"m\",le=\"100\"} 1\nnv_inference_first_response_histogram_ms_bucket{model=\"m\",le=\"+Inf\"} 1\nnv_inference_first_response_histogram_ms_sum{model=\"m\"} 50\nnv_inference_first_response_histogram_ms_count{model=\"m\"} 1\n",
			without: []string{"time_to_first_token"},
		},
		{
			name: "but it is where an LLM streams",
			page: "nv_trt_llm_request_metrics{model=\"m\",request_type=\"scheduled\"} 7\nnv_inference_first_response_histogram_ms_bucket{model=\"m\",le=\"100\"} 1\nnv_inference_first_response_histogram_ms_bucket{model=\"m\",le=\"+Inf\"} 1\nnv_inference_first_response_histogram_ms_sum{model=\"m\"} 50\nnv_inference_first_response_histogram_ms_count{model=\"m\"} 1\n",
			want: []string{
				`flyball_model_time_to_first_token_seconds_bucket{engine="triton",model="m",server="s",le="0.1"} 1`,
				`flyball_model_requests_running{engine="triton",model="m",server="s"} 7`,
			},
			without: []string{"requests_waiting"},
		},
		{
			name:    "a mean that has the prefill in it is no latency between tokens",
			page:    "tgi_queue_size 1\ntgi_request_mean_time_per_token_duration_sum 3\ntgi_request_mean_time_per_token_duration_count 5\n",
			without: []string{"inter_token"},
		},
		{
			name: "engines are added, ratios are not",
			page: "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3\nvllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4\nvllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.7\nvllm:kv_cache_usage_perc{engine=\"1\",model_name=\"m\"} 0.6\n",
			want: []string{
				`flyball_model_requests_running{engine="vllm",model="m",server="s"} 7`,
				`flyball_model_kv_cache_utilization_ratio{engine="vllm",model="m",server="s"} 0.7`,
			},
		},
		{
			name: "ranks are not added, what is parallel in data is",
			page: "sglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"0\",model_name=\"m\"} 3\nsglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"1\",model_name=\"m\"} 3\nsglang:num_running_reqs{dp_rank=\"1\",tp_rank=\"2\",model_name=\"m\"} 5\n",
			want: []string{`flyball_model_requests_running{engine="sglang",model="m",server="s"} 8`},
		},
		{
			name: "old names, and with new ones beside them only those",
			page: "vllm_gpu_cache_usage_perc{model_name=\"m\"} 0.2\nvllm_kv_cache_usage_perc{model_name=\"m\"} 0.3\n",
			want: []string{`flyball_model_kv_cache_utilization_ratio{engine="vllm",model="m",server="s"} 0.3`},
		},
		{
			name: "Ray has each counter twice",
			page: "ray_vllm_prompt_tokens{model_name=\"m\"} 5\nray_vllm_prompt_tokens_total{model_name=\"m\"} 5\n",
			want: []string{`flyball_model_tokens_total{engine="vllm",kind="prompt",model="m",server="s"} 5`},
		},
		{
			name: "of histograms with other bounds those of both count",
			page: "vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"1\"} 1\nvllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"2\"} 2\nvllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"+Inf\"} 3\nvllm:e2e_request_latency_seconds_sum{engine=\"0\"} 1\nvllm:e2e_request_latency_seconds_count{engine=\"0\"} 3\n" +
				"vllm:e2e_request_latency_seconds_bucket{engine=\"1\",le=\"2\"} 5\nvllm:e2e_request_latency_seconds_bucket{engine=\"1\",le=\"+Inf\"} 6\nvllm:e2e_request_latency_seconds_sum{engine=\"1\"} 1\nvllm:e2e_request_latency_seconds_count{engine=\"1\"} 6\n",
			want:    []string{`flyball_model_request_duration_seconds_bucket{engine="vllm",model="s",server="s",le="2"} 7`, `flyball_model_request_duration_seconds_bucket{engine="vllm",model="s",server="s",le="+Inf"} 9`},
			without: []string{`le="1"`},
		},
		{
			name: "a mapping goes before what is known",
			page: "vllm:num_requests_running{model_name=\"m\"} 3\nbusy{shard=\"a\"} 10\nbusy{shard=\"b\"} 20\n",
			more: func(c *exporter.ModelServer) {
				c.Mapping = map[string]exporter.MetricMapping{"running": {Metric: "busy", Labels: map[string]string{"shard": "b"}, Scale: 0.5}}
			},
			want:    []string{`flyball_model_requests_running{engine="vllm",model="s",server="s"} 10`},
			without: []string{`requests_running{engine="vllm",model="m"`},
		},
		{
			name: "a duration of two counters",
			page: "infer_ms_total 500\ninfers_total 4\n",
			more: func(c *exporter.ModelServer) {
				c.Engine, c.Mapping = "custom", map[string]exporter.MetricMapping{"request_duration": {Metric: "infer_ms_total", Type: "counter", Count: "infers_total", Scale: 1e-3}}
			},
			want: []string{`flyball_model_request_duration_seconds_sum{engine="custom",model="s",server="s"} 0.5`},
		},
		{
			name:    "what is no number is not there",
			page:    "vllm:num_requests_running{model_name=\"m\"} NaN\nvllm:prompt_tokens_total{model_name=\"m\"} -1\nvllm:num_requests_waiting{model_name=\"m\"} 0\n",
			want:    []string{`flyball_model_requests_waiting{engine="vllm",model="m",server="s"} 0`, `flyball_model_scrape_mapped{engine="vllm",field="running",server="s"} 0`},
			without: []string{"flyball_model_requests_running{", "flyball_model_tokens_total{"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var more []func(*exporter.ModelServer)
			if tt.more != nil {
				more = append(more, tt.more)
			}
			r := probe(t, tt.page, more...)
			if !r.Up {
				t.Fatal(r.Error)
			}
			got := seriesOf(page2text(t, r.Metrics))
			for _, line := range tt.want {
				if !strings.Contains(got, line+"\n") {
					t.Errorf("no line\n%s\nin\n%s", line, got)
				}
			}
			for _, text := range tt.without {
				if strings.Contains(strings.ReplaceAll(got, `field="`, ""), text) {
					t.Errorf("%s is in\n%s", text, got)
				}
			}
		})
	}
}
