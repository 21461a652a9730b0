package facts

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"flyball/exporter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ exporter.Collector = (*Collector)(nil)

// page is what one Update publishes, as a page without the comments, and the error.
func page(t *testing.T, c *Collector) (string, error) {
	t.Helper()
	metrics, err := c.Update(t.Context())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(list(metrics))
	if problems, lintErr := testutil.GatherAndLint(registry); lintErr != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, lintErr)
	}
	text, gatherErr := testutil.CollectAndFormat(list(metrics), expfmt.TypeTextPlain, names...)
	if gatherErr != nil {
		t.Fatal(gatherErr)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, ""), err
}

var names = []string{
	"flyball_model_accuracy_ratio", "flyball_model_accuracy_timestamp_seconds", "flyball_model_info", "flyball_model_parameters", "flyball_model_ready", "flyball_model_size_bytes",
}

type list []prometheus.Metric

func (l list) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sizeDesc, parametersDesc, infoDesc, readyDesc, accuracyDesc, timestampDesc} {
		ch <- d
	}
}

func (l list) Collect(ch chan<- prometheus.Metric) {
	for _, m := range l {
		ch <- m
	}
}

func TestCollector(t *testing.T) {
	weights := writeSafetensors("pt", tensor{"a.weight", "BF16", []int64{100, 30}})
	models := folder(t, map[string][]byte{"model.safetensors": weights, "config.json": []byte(`{"architectures": ["LlamaForCausalLM"]}`)})
	results := write(t, map[string]string{"r.json": harness}, time.Now())
	ours := write(t, map[string]string{"r.yml": "time: 2025-11-20T08:14:02.5Z\nresults:\n- {dataset: a, metric: acc, value: 0.5}\n- {dataset: a, metric: acc, value: 0.6, model: org/m2}\n- {dataset: a, metric: acc, value: 0.7, model: m3}\n"}, time.Now())
	broken := folder(t, map[string][]byte{"model.safetensors": weights[:100]})
	triton, kserve := oipServer(t, tritonAnswers), oipServer(t, kserveAnswers)
	nolist := oipServer(t, map[string]string{
		"GET /v2": `{"name":"x","version":"1"}`, "GET /v2/models/b/ready": "", "GET /v2/models/b": `{"platform":"p"}`,
	})
	for _, tt := range []struct {
		name   string
		source Source
		want   string
		err    string
	}{
		{name: "files and what was evaluated, labelled as the server is", source: Source{Server: "s", Engine: "vllm", Model: "llama", Files: models, Accuracy: results}, want: `
flyball_model_accuracy_ratio{dataset="gsm8k",engine="vllm",metric="exact_match,flexible-extract",model="llama",server="s"} 0.9128
flyball_model_accuracy_ratio{dataset="gsm8k",engine="vllm",metric="exact_match,strict-match",model="llama",server="s"} 0.9052
flyball_model_accuracy_ratio{dataset="mmlu",engine="vllm",metric="acc",model="llama",server="s"} 0.8231
flyball_model_accuracy_ratio{dataset="race",engine="vllm",metric="acc",model="llama",server="s"} 1
flyball_model_accuracy_timestamp_seconds{dataset="gsm8k",engine="vllm",metric="exact_match,flexible-extract",model="llama",server="s"} 1.7636264425e+09
flyball_model_accuracy_timestamp_seconds{dataset="gsm8k",engine="vllm",metric="exact_match,strict-match",model="llama",server="s"} 1.7636264425e+09
flyball_model_accuracy_timestamp_seconds{dataset="mmlu",engine="vllm",metric="acc",model="llama",server="s"} 1.7636264425e+09
flyball_model_accuracy_timestamp_seconds{dataset="race",engine="vllm",metric="acc",model="llama",server="s"} 1.7636264425e+09
flyball_model_info{engine="vllm",framework="pytorch",model="llama",precision="bfloat16",server="s",version=""} 1
flyball_model_parameters{engine="vllm",model="llama",server="s"} 3000
flyball_model_size_bytes{engine="vllm",model="llama",server="s"} SIZE
`},
		{name: "labels that are known later", source: Source{Server: "s", Files: models, Labels: func() (string, string) { return "llama", "sglang" }}, want: `
flyball_model_parameters{engine="sglang",model="llama",server="s"} 3000
flyball_model_size_bytes{engine="sglang",model="llama",server="s"} SIZE
`},
		{name: "told by another", source: Source{Server: "s", Engine: "oip", Files: models, URL: kserve.URL, Labels: func() (string, string) { return "", "kserve" }}, want: `
flyball_model_parameters{engine="kserve",model="iris",server="s"} 3000
flyball_model_ready{engine="kserve",model="iris",server="s"} 1
flyball_model_size_bytes{engine="kserve",model="iris",server="s"} SIZE
`},
		{name: "told by another who knows nothing yet", source: Source{Server: "s", Files: models, Told: true}, want: `
flyball_model_parameters{engine="",model="s",server="s"} 3000
flyball_model_size_bytes{engine="",model="s",server="s"} SIZE
`},
		{name: "results of the model alone", source: Source{Server: "s", Model: "m2", Accuracy: ours}, want: `
flyball_model_accuracy_ratio{dataset="a",engine="",metric="acc",model="m2",server="s"} 0.5
flyball_model_accuracy_timestamp_seconds{dataset="a",engine="",metric="acc",model="m2",server="s"} 1.7636264425e+09
`},
		{name: "results of all models", source: Source{Server: "s", Accuracy: ours}, want: `
flyball_model_accuracy_ratio{dataset="a",engine="",metric="acc",model="m3",server="s"} 0.7
flyball_model_accuracy_ratio{dataset="a",engine="",metric="acc",model="org/m2",server="s"} 0.6
flyball_model_accuracy_ratio{dataset="a",engine="",metric="acc",model="s",server="s"} 0.5
flyball_model_accuracy_timestamp_seconds{dataset="a",engine="",metric="acc",model="m3",server="s"} 1.7636264425e+09
flyball_model_accuracy_timestamp_seconds{dataset="a",engine="",metric="acc",model="org/m2",server="s"} 1.7636264425e+09
flyball_model_accuracy_timestamp_seconds{dataset="a",engine="",metric="acc",model="s",server="s"} 1.7636264425e+09
`},
		{name: "a server of several models", source: Source{Server: "s", Engine: "oip", URL: triton.URL}, want: `
flyball_model_info{engine="oip",framework="",model="bert",precision="",server="s",version=""} 1
flyball_model_info{engine="oip",framework="onnxruntime_onnx",model="resnet",precision="",server="s",version="1"} 1
flyball_model_info{engine="oip",framework="onnxruntime_onnx",model="resnet",precision="",server="s",version="3"} 1
flyball_model_ready{engine="oip",model="bert",server="s"} 0
flyball_model_ready{engine="oip",model="resnet",server="s"} 1
`},
		{name: "a server of one, with its files", source: Source{Server: "s", Engine: "oip", URL: kserve.URL, Files: models}, want: `
flyball_model_info{engine="oip",framework="pytorch",model="iris",precision="bfloat16",server="s",version=""} 1
flyball_model_parameters{engine="oip",model="iris",server="s"} 3000
flyball_model_ready{engine="oip",model="iris",server="s"} 1
flyball_model_size_bytes{engine="oip",model="iris",server="s"} SIZE
`},
		{name: "under another name", source: Source{Server: "s", Engine: "oip", Model: "flowers", URL: kserve.URL}, want: `
flyball_model_info{engine="oip",framework="",model="flowers",precision="",server="s",version=""} 1
flyball_model_ready{engine="oip",model="flowers",server="s"} 1
`},
		{name: "a server that lists nothing", source: Source{Server: "s", Engine: "oip", Model: "b", URL: nolist.URL}, want: `
flyball_model_info{engine="oip",framework="p",model="b",precision="",server="s",version=""} 1
flyball_model_ready{engine="oip",model="b",server="s"} 1
`},
		{name: "half of it", source: Source{Server: "s", Files: broken, Accuracy: filepath.Join(models, "none"), URL: kserve.URL}, err: "facts: server s: " + broken, want: `
flyball_model_info{engine="",framework="",model="iris",precision="",server="s",version=""} 1
flyball_model_ready{engine="",model="iris",server="s"} 1
`},
		{name: "nothing", source: Source{Server: "s"}, want: "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := page(t, New(tt.source))
			if (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			want := strings.ReplaceAll(strings.TrimPrefix(tt.want, "\n"), "SIZE", strconv.Itoa(len(weights)))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("page (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCollectorLooksAgain(t *testing.T) {
	small, large := writeSafetensors("pt", tensor{"a", "F32", []int64{10}}), writeSafetensors("pt", tensor{"a", "F32", []int64{20}})
	dir := folder(t, map[string][]byte{"model.safetensors": small})
	file := filepath.Join(dir, "model.safetensors")
	now := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	c := New(Source{Server: "s", Files: dir})
	c.now = func() time.Time { return now }
	parameters := func() (string, error) {
		all, err := page(t, c)
		for line := range strings.Lines(all) {
			if strings.HasPrefix(line, "flyball_model_parameters") {
				return strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), err
			}
		}
		return "", err
	}
	step := func(after time.Duration, want string, fails bool) {
		t.Helper()
		now = now.Add(after)
		if got, err := parameters(); got != want || (err != nil) != fails {
			t.Errorf("%s parameters and error %v, want %s and an error: %t", got, err, want, fails)
		}
	}
	if _, ok := c.Facts("s"); ok {
		t.Error("facts before the first look")
	}
	step(0, "10", false)
	if err := os.WriteFile(file, large, 0o644); err != nil {
		t.Fatal(err)
	}
	step(filesEvery-time.Second, "10", false) // too early to look
	step(time.Second, "20", false)
	if err := os.WriteFile(file, small[:20], 0o644); err != nil {
		t.Fatal(err)
	}
	step(filesEvery, "20", true) // it stays, and the error says why
	step(time.Second, "20", true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	step(filesEvery, "20", true)
	if err := os.WriteFile(file, small, 0o644); err != nil {
		t.Fatal(err)
	}
	step(filesEvery, "10", false)
	if f, ok := c.Facts("s"); !ok || f.Parameters != 10 {
		t.Errorf("facts %+v, %t", f, ok)
	}
	if _, ok := c.Facts("another"); ok {
		t.Error("facts of a server that there is not")
	}
	if err := os.WriteFile(file, large, 0o644); err != nil {
		t.Fatal(err)
	}
	step(-time.Hour, "20", false) // a clock that is set back
}

// TestCollectorHangs has a disk that does not answer: what was read before stays, one scrape waits half its time for it and no other
// does, and there is one goroutine. What it says in the end counts, and a panic is an error.
func TestCollectorHangs(t *testing.T) {
	file := write(t, map[string]string{"a": "1"}, time.Now())
	synctest.Test(t, func(t *testing.T) {
		var k kept[int]
		answers := make(chan int)
		look := func(read func(string) (int, error)) (took time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			began := time.Now()
			k.refreshFiles(ctx, began, file, read, func(int) bool { return false })
			return time.Since(began)
		}
		expect := func(value int, fault string) {
			t.Helper()
			if !k.known || k.value != value || (k.err == nil) != (fault == "") || fault != "" && !strings.Contains(k.err.Error(), fault) {
				t.Errorf("value %d, known %t, error %v; want %d and %q", k.value, k.known, k.err, value, fault)
			}
		}
		look(func(string) (int, error) { return 1, nil })
		expect(1, "")
		hangs := func(string) (int, error) { return <-answers, nil }
		for _, want := range []time.Duration{time.Second, 0, 0} {
			time.Sleep(filesEvery)
			k.changed = "another" // as the file is
			if took := look(hangs); took != want {
				t.Errorf("it was waited for for %s, want %s", took, want)
			}
			expect(1, "still being read since")
		}
		answers <- 2 // which nobody else waits for
		synctest.Wait()
		look(hangs)
		expect(2, "")
		time.Sleep(filesEvery)
		k.changed = "another"
		look(func(string) (int, error) { panic("odd") })
		expect(2, "panic: odd")
	})
}

// TestMine has two names of one model in the results: the series is one, and of the later evaluation.
func TestMine(t *testing.T) {
	early, late := time.Unix(1763626442, 0), time.Unix(1763626443, 0)
	results := []Result{{"m", "a", "acc", 0.5, early}, {"org/m", "a", "acc", 0.6, late}, {"other/m", "a", "acc", 0.7, early}, {"n", "a", "acc", 0.8, late}}
	want := []Result{{"m", "a", "acc", 0.6, late}}
	if diff := cmp.Diff(want, mine(results, "m", "m")); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

// TestCollectorReadsOnce has the file unreadable in a way that its size and time do not show: nobody looks.
func TestCollectorReadsOnce(t *testing.T) {
	good := writeSafetensors("pt", tensor{"a", "F32", []int64{10}})
	at := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	dir := write(t, map[string]string{"model.safetensors": string(good)}, at)
	now := at
	c := New(Source{Server: "s", Files: dir})
	c.now = func() time.Time { return now }
	if _, err := page(t, c); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(file, make([]byte, len(good)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	if _, err := page(t, c); err != nil {
		t.Errorf("it was read again: %v", err)
	}
}

func TestCollectorAsksRarely(t *testing.T) {
	var asked atomic.Int64
	client := &countingClient{asked: &asked}
	now := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	c := New(Source{Server: "s", URL: "http://x", Client: client.client()})
	c.now = func() time.Time { return now }
	for range 10 {
		if got, err := page(t, c); err != nil || !strings.Contains(got, `flyball_model_ready{engine="",model="iris",server="s"} 1`) {
			t.Fatalf("%s, %v", got, err)
		}
		now = now.Add(time.Second)
	}
	if n := asked.Load(); n != 4 { // the server, its list, readiness and metadata of one model
		t.Errorf("%d requests in ten seconds, want 4", n)
	}
	client.down.Store(true)
	if got, err := page(t, c); err == nil || got != "" {
		t.Errorf("%q and error %v of a server that is down, want no series", got, err)
	}
}

func TestCollectorKeepsLabels(t *testing.T) {
	dir := folder(t, map[string][]byte{"model.safetensors": writeSafetensors("pt", tensor{"a", "F32", []int64{10}})})
	up := true
	c := New(Source{Server: "s", Files: dir, Labels: func() (string, string) {
		if up {
			return "llama", "vllm"
		}
		return "", ""
	}})
	const size = `flyball_model_size_bytes{engine="vllm",model="llama",server="s"}`
	if got, err := page(t, c); err != nil || !strings.Contains(got, size) || strings.Contains(got, "flyball_model_info") {
		t.Errorf("%s, %v", got, err)
	}
	up = false
	if got, err := page(t, c); err != nil || !strings.Contains(got, size) || !strings.Contains(got, `flyball_model_info{engine="vllm",framework="pytorch",model="llama"`) {
		t.Errorf("of a server that is down: %s, %v", got, err)
	}
}
