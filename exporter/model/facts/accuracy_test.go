package facts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// harness is a results file as lm-evaluation-harness 0.4 writes it (lm_eval/loggers/evaluation_tracker.py, revision 034ab036): the
// keys, their order and which of them are texts are the file's own, the numbers are not.
const harness = `{
  "results": {
    "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.9052, "exact_match_stderr,strict-match": 0.0081,
              "exact_match,flexible-extract": 0.9128, "exact_match_stderr,flexible-extract": 0.0078, "sample_len": 1319},
    "mmlu": {"acc,none": 0.8231, "acc_stderr,none": 0.0031, "alias": "mmlu", "acc_norm,none": "N/A"},
    "wikitext": {"alias": "wikitext", "word_perplexity,none": 6.21, "word_perplexity_stderr,none": "N/A", "bits_per_byte,none": 0.49},
    "race": {"alias": "race", "acc,none": 1},
    "toxicity": {"alias": "toxicity", "rate,none": 0.02}
  },
  "group_subtasks": {"mmlu": ["mmlu_stem"]},
  "higher_is_better": {"gsm8k": {"exact_match": true}, "mmlu": {"acc": true}, "wikitext": {"word_perplexity": false, "bits_per_byte": false}, "toxicity": {"rate": false}, "race": {"acc": null}},
  "config": {"model": "vllm", "model_args": "pretrained=meta-llama/Llama-3.3-70B-Instruct,tensor_parallel_size=4", "batch_size": "auto", "limit": null},
  "date": 1763626442.5,
  "model_source": "vllm", "model_name": "meta-llama/Llama-3.3-70B-Instruct", "model_name_sanitized": "meta-llama__Llama-3.3-70B-Instruct",
  "start_time": 1234.5, "end_time": 5678.9, "total_evaluation_time_seconds": "4444.4"
}`

func TestAccuracy(t *testing.T) {
	written := time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC)
	ran := time.Date(2025, 11, 20, 8, 14, 2, 5e8, time.UTC)
	const llama = "meta-llama/Llama-3.3-70B-Instruct"
	for _, tt := range []struct {
		name  string
		files map[string]string
		path  string
		want  []Result
	}{
		{name: "the harness", files: map[string]string{"r.json": harness}, path: "r.json", want: []Result{
			{llama, "gsm8k", "exact_match,flexible-extract", 0.9128, ran},
			{llama, "gsm8k", "exact_match,strict-match", 0.9052, ran},
			{llama, "mmlu", "acc", 0.8231, ran},
			{llama, "race", "acc", 1, ran},
		}},
		{
			name: "an old harness", files: map[string]string{"results.json": `{"results": {"--hellaswag": {"acc": 0.5, "acc_stderr": 0.01, "acc_norm": 0.6}, "piqa": {"acc": "N/A", "em": 0.25}}, "config": {"model": "hf", "model_args": {"pretrained": "gpt2", "dtype": "auto"}}, "versions": {}}`},
			path: "*.json", want: []Result{{"gpt2", "hellaswag", "acc", 0.5, written}, {"gpt2", "hellaswag", "acc_norm", 0.6, written}, {"gpt2", "piqa", "em", 0.25, written}},
		},
		{
			name: "the time in the name", files: map[string]string{"results_2025-12-01T12-34-56.789012.json": `{"results": {"a": {"acc,none": 0.5}}, "date": "yesterday"}`},
			want: []Result{{"", "a", "acc", 0.5, time.Date(2025, 12, 1, 12, 34, 56, 0, time.UTC)}},
		},
		{
			name: "ours", files: map[string]string{"r.yml": "model: m\ntime: 2026-11-20T08:14:02+01:00\nresults:\n- {dataset: mmlu, metric: acc, value: 0.5}\n- {dataset: own, metric: f1, value: 1, time: 2026-11-19, model: n}\n- {dataset: own, metric: em, value: 0, time: 1763626442.5}\n"},
			path: "r.yml", want: []Result{
				{"m", "mmlu", "acc", 0.5, time.Date(2026, 11, 20, 7, 14, 2, 0, time.UTC)},
				{"m", "own", "em", 0, ran},
				{"n", "own", "f1", 1, time.Date(2026, 11, 19, 0, 0, 0, 0, time.UTC)},
			},
		},
		{name: "ours in JSON, without a time", files: map[string]string{"r.json": `{"results": [{"dataset": "a", "metric": "acc", "value": 0.25}]}`}, want: []Result{{"", "a", "acc", 0.25, written}}},
		{name: "the latest of several", files: map[string]string{
			"a.yml": "time: 2026-11-20\nresults: [{dataset: a, metric: acc, value: 0.9}]", "b.yaml": "time: 2026-11-21\nresults: [{dataset: a, metric: acc, value: 0.8}]",
			"c.json": `{"time": "2026-11-19", "results": [{"dataset": "a", "metric": "acc", "value": 0.7}]}`, "notes.txt": "not read",
		}, want: []Result{{"", "a", "acc", 0.8, time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := write(t, tt.files, written)
			got, err := Accuracy(filepath.Join(dir, tt.path))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(time.Time.Equal)); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
		})
	}
}

// write writes files that were all written at one time.
func write(t *testing.T, files map[string]string, at time.Time) string {
	t.Helper()
	all := map[string][]byte{}
	for name, text := range files {
		all[name] = []byte(text)
	}
	dir := folder(t, all)
	for name := range files {
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAccuracyErrors(t *testing.T) {
	for _, tt := range []struct{ name, file, text, want string }{
		{"nothing there", "", "", "DIR: no results in it: expected files that end in .json, .yml or .yaml: file does not exist"},
		{"empty", "r.yml", "", `DIR/r.yml: no results: expected a list such as results: [{dataset: mmlu, metric: acc, value: 0.82}], or a file of lm-evaluation-harness`},
		{"not YAML", "r.yml", "results: [", "DIR/r.yml:"},
		{"not JSON", "r.json", "{", "DIR/r.json:"},
		{"no dataset", "r.yml", "results:\n- {metric: acc, value: 0.5}\n", "DIR/r.yml:2:3: a result without a dataset: say what it was evaluated on, such as dataset: mmlu"},
		{"no metric", "r.yml", "results:\n- {dataset: a, value: 0.5}\n", "DIR/r.yml:2:3: a result without a metric: say what its value is, such as metric: acc"},
		{"no value", "r.yml", "results:\n- {dataset: a, metric: acc}\n", "DIR/r.yml:2:3: a result without a value: expected a ratio of 0 to 1, such as value: 0.82"},
		{"a percentage", "r.yml", "results:\n- {dataset: a, metric: acc, value: 82.3}\n", "DIR/r.yml:2:36: 82.3 is no ratio: expected 0 to 1 (of a percentage, a hundredth)"},
		{"not a number", "r.yml", "results:\n- {dataset: a, metric: acc, value: .nan}\n", `DIR/r.yml:2:36: results[0].value: ".nan" is not a number`},
		{"a time", "r.yml", "time: yesterday\nresults: [{dataset: a, metric: acc, value: 0.5}]\n", `"yesterday" is not a time: give RFC 3339, such as 2026-11-20T08:14:02Z, or seconds since 1970`},
		{"milliseconds", "r.yml", "time: 1763626442500\nresults: [{dataset: a, metric: acc, value: 0.5}]\n", `"1763626442500" is not a time`},
		{"a typo", "r.yml", "results: [{data_set: a, metric: acc, value: 0.5}]\n", "data_set"},
		{"a harness without ratios", "r.json", `{"results": {"wikitext": {"word_perplexity,none": 6.2}}}`, `DIR/r.json: results of lm-evaluation-harness: of 1 tasks none has a metric of 0 to 1 that is better when higher, such as "acc,none": 0.82`},
		{"a harness with a model that is none", "r.json", `{"results": {"a": {"acc,none": 0.5}}, "model_name": 7}`, "DIR/r.json: results of lm-evaluation-harness: json: "},
		{"too many results", "r.yml", "results:\n" + strings.Repeat("- {dataset: a, metric: acc, value: 0.5}\n", maxResults+1), "DIR/r.yml: 10001 results, and at most 10000 are read"},
		{"too large", "r.json", strings.Repeat(" ", maxResultFile+1), "DIR/r.json: 16777217 bytes, and at most 16777216 are read"},
		{"too large for a plain one", "r.yml", "results:\n" + strings.Repeat("#", maxPlainFile), "DIR/r.yml: 1048585 bytes, and of a file that is not of lm-evaluation-harness at most 1048576 are read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{}
			if tt.file != "" {
				files[tt.file] = tt.text
			}
			dir := write(t, files, time.Now())
			results, err := Accuracy(filepath.Join(dir, tt.file))
			if err == nil {
				t.Fatalf("no error, and %v", results)
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); !strings.Contains(got, tt.want) {
				t.Errorf("error\n  %s\nwant in it\n  %s", got, tt.want)
			}
		})
	}
	t.Run("beside a good one", func(t *testing.T) {
		dir := write(t, map[string]string{"a.json": "{", "b.json": harness}, time.Now())
		results, err := Accuracy(dir)
		if err == nil || !strings.Contains(err.Error(), "a.json") || len(results) != 4 {
			t.Errorf("%d results beside %v, want 4 and the name of the broken file", len(results), err)
		}
	})
	t.Run("too many files", func(t *testing.T) {
		files := map[string]string{}
		for i := range maxResultFiles + 1 {
			files[fmt.Sprintf("%d.json", i)] = "{}"
		}
		if _, err := Accuracy(write(t, files, time.Now())); err == nil || !strings.Contains(err.Error(), "1001 files of results, and at most 1000 are read") {
			t.Errorf("error %v", err)
		}
	})
}

func FuzzResults(f *testing.F) {
	f.Add([]byte(harness))
	f.Add([]byte("model: m\ntime: 2026-11-20T08:14:02Z\nresults:\n- {dataset: mmlu, metric: acc, value: 0.823}\n- {dataset: a, metric: b, value: 1, time: 1763626442}\n"))
	f.Add([]byte(`{"results": {"--a": {"acc": 0.5, "em": "N/A"}}, "config": {"model_args": {"model": "x"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		results, err := parseResults("r", b, time.Unix(1763626442, 0))
		if err != nil && len(results) > 0 && !strings.HasPrefix(err.Error(), "r:") {
			t.Errorf("the error does not name the file: %v", err)
		}
		for _, r := range results {
			if !(r.Ratio >= 0 && r.Ratio <= 1) || r.Dataset == "" && err == nil && !looksLikeHarness(b) {
				t.Errorf("%+v", r)
			}
		}
	})
}
