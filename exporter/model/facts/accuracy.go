package facts

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// Result is how well a model did in an evaluation.
type Result struct {
	Model   string // as the results name it; empty where they do not
	Dataset string // mmlu
	Metric  string // acc, or exact_match,strict-match where answers were filtered
	Ratio   float64
	Time    time.Time // when it was evaluated
}

// What is read of results.
const (
	maxResultFiles = 1_000
	maxResultFile  = 16 << 20 // of the harness; 400 tasks with their configurations have 2 MB
	maxPlainFile   = 1 << 20  // of a plain one: 10,000 results, a line each
	maxResults     = 10_000   // of one file, and of all together
)

// Accuracy returns the results at path: a file, a folder whose *.json, *.yml and *.yaml are read, or a pattern in the syntax of
// filepath.Match. Of several results of the same model, dataset and metric the one of the latest time counts. Files are of
// lm-evaluation-harness, of which all metrics of 0 to 1 that are better when higher are taken, or plain ones as the package's
// comment describes. An error names the file; results of other files are returned beside it.
func Accuracy(path string) ([]Result, error) {
	files, err := resultFiles(path)
	if err != nil {
		return nil, err
	}
	type key struct{ model, dataset, metric string }
	latest := map[key]Result{}
	var faults []error
	for _, file := range files {
		results, err := readResults(file)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for _, r := range results {
			k := key{r.Model, r.Dataset, r.Metric}
			if old, ok := latest[k]; !ok || r.Time.After(old.Time) {
				latest[k] = r
			}
		}
		if len(latest) > maxResults {
			return nil, errors.Join(append(faults, fmt.Errorf("%s: with the files before it more than %d results, and no more are read", file, maxResults))...)
		}
	}
	results := make([]Result, 0, len(latest))
	for _, r := range latest {
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b Result) int {
		return cmp.Or(strings.Compare(a.Model, b.Model), strings.Compare(a.Dataset, b.Dataset), strings.Compare(a.Metric, b.Metric))
	})
	return results, errors.Join(faults...)
}

func resultFiles(path string) ([]string, error) {
	files, err := expand(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(files[0]); len(files) == 1 && err == nil && info.IsDir() {
		folder := files[0]
		entries, err := os.ReadDir(folder)
		if err != nil {
			return nil, err
		}
		files = nil
		for _, e := range entries {
			switch strings.ToLower(filepath.Ext(e.Name())) {
			case ".json", ".yml", ".yaml":
				files = append(files, filepath.Join(folder, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("%s: no results in it: expected files that end in .json, .yml or .yaml: %w", folder, fs.ErrNotExist)
		}
	}
	if len(files) > maxResultFiles {
		return nil, fmt.Errorf("%s: %d files of results, and at most %d are read: move old ones away", path, len(files), maxResultFiles)
	}
	return files, nil
}

func readResults(file string) ([]Result, error) {
	b, err := readSmall(file, maxResultFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	results, err := parseResults(file, b, info.ModTime())
	if err != nil {
		return nil, err
	}
	if len(results) > maxResults {
		return nil, fmt.Errorf("%s: %d results, and at most %d are read", file, len(results), maxResults)
	}
	return results, nil
}

// parseResults reads results of either form; those that do not say when are of the time given.
func parseResults(file string, b []byte, written time.Time) ([]Result, error) {
	if looksLikeHarness(b) {
		results, err := parseHarness(file, b, written)
		if err != nil {
			return nil, fmt.Errorf("%s: results of lm-evaluation-harness: %w", file, err)
		}
		return results, nil
	}
	if len(b) > maxPlainFile {
		return nil, fmt.Errorf("%s: %d bytes, and of a file that is not of lm-evaluation-harness at most %d are read", file, len(b), maxPlainFile)
	}
	return parsePlain(file, b, written)
}

// looksLikeHarness says whether a file is JSON with an object of objects as results.
func looksLikeHarness(b []byte) bool {
	var f struct {
		Results map[string]map[string]json.RawMessage `json:"results"`
	}
	return json.Unmarshal(b, &f) == nil && f.Results != nil
}

// unlike are metrics of the harness that are no share of right answers, also where their value is between 0 and 1. Newer files say
// themselves which are better when higher.
var unlike = []string{
	"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "bleu", "chrf", "ter", "bypass", "samples", "sample_len",
	"sample_count", "contamination",
}

// parseHarness reads the results_TIME.json of lm-evaluation-harness. Its metrics are METRIC,FILTER (METRIC alone before 0.4); its
// start_time and end_time are of a clock of their own, date is the time in seconds since 1970.
func parseHarness(file string, b []byte, written time.Time) ([]Result, error) {
	var f struct {
		Results map[string]map[string]json.RawMessage `json:"results"`
		Higher  map[string]map[string]*bool           `json:"higher_is_better"` // null where it is not known
		Model   string                                `json:"model_name"`
		Config  struct {
			Model string          `json:"model"`
			Args  json.RawMessage `json:"model_args"`
		} `json:"config"`
		Date json.RawMessage `json:"date"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	model := first(f.Model, modelOf(f.Config.Args))
	when := harnessTime(f.Date, file, written)
	var results []Result
	for task, metrics := range f.Results {
		dataset := strings.TrimLeft(task, "- ") // groups were once shown by dashes
		for name, value := range metrics {
			metric, filter, _ := strings.Cut(name, ",")
			if strings.HasSuffix(metric, "_stderr") || slices.Contains(unlike, metric) {
				continue
			}
			if higher := f.Higher[task][metric]; higher != nil && !*higher {
				continue
			}
			var v float64
			if json.Unmarshal(value, &v) != nil || !(v >= 0 && v <= 1) { // also "N/A" and the alias
				continue
			}
			if filter != "" && filter != "none" {
				metric = name
			}
			results = append(results, Result{Model: model, Dataset: dataset, Metric: metric, Ratio: v, Time: when})
		}
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("of %d tasks none has a metric of 0 to 1 that is better when higher, such as \"acc,none\": 0.82", len(f.Results))
	}
	return results, nil
}

// modelOf is the model of model_args, which are KEY=VALUE,... or an object.
func modelOf(args json.RawMessage) string {
	var text string
	if json.Unmarshal(args, &text) == nil {
		for pair := range strings.SplitSeq(text, ",") {
			if key, value, ok := strings.Cut(pair, "="); ok && (key == "pretrained" || key == "model") {
				return value
			}
		}
		return ""
	}
	var object struct{ Pretrained, Model string }
	_ = json.Unmarshal(args, &object) // whatever else it is names no model
	return first(object.Pretrained, object.Model)
}

// harnessTime is when the evaluation was: as the file says, else by its name (results_2025-12-01T12-34-56.789012.json, in the
// evaluator's own time zone, which is taken for UTC), else when the file was written.
func harnessTime(date json.RawMessage, file string, written time.Time) time.Time {
	var seconds float64
	if json.Unmarshal(date, &seconds) == nil && plausible(seconds) {
		return unix(seconds)
	}
	_, name, _ := strings.Cut(filepath.Base(file), "results_")
	if len(name) >= len("2006-01-02T15-04-05") {
		if t, err := time.Parse("2006-01-02T15-04-05", name[:len("2006-01-02T15-04-05")]); err == nil {
			return t
		}
	}
	return written
}

// plausible says whether seconds since 1970 are of this age: between 2000 and 2200.
func plausible(seconds float64) bool { return seconds > 946_684_800 && seconds < 7_258_118_400 }

func unix(seconds float64) time.Time {
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)).UTC()
}

// plain is a results file of our own form.
type plain struct {
	Model   string        `yaml:"model"`
	Time    when          `yaml:"time"`
	Results []plainResult `yaml:"results"`
}

type plainResult struct {
	Model   string   `yaml:"model"`
	Dataset string   `yaml:"dataset"`
	Metric  string   `yaml:"metric"`
	Value   *float64 `yaml:"value"`
	Time    when     `yaml:"time"`
}

// when is a time in RFC 3339, a day, or seconds since 1970.
type when struct{ time.Time }

// UnmarshalYAML takes any of the three.
func (w *when) UnmarshalYAML(n *yaml.Node) error {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, n.Value); err == nil && n.Kind == yaml.ScalarNode {
			w.Time = t
			return nil
		}
	}
	var seconds float64
	if n.Decode(&seconds) == nil && plausible(seconds) {
		w.Time = unix(seconds)
		return nil
	}
	return fmt.Errorf("%s is not a time: give RFC 3339, such as 2026-11-20T08:14:02Z, or seconds since 1970", quote(n.Value))
}

func parsePlain(file string, b []byte, written time.Time) ([]Result, error) {
	f, err := source.Parse(file, b)
	if err != nil {
		return nil, err
	}
	var p plain
	d := f.Decoder()
	d.Decode(&p)
	if d.Len() == 0 && len(p.Results) == 0 {
		d.FaultAt("results", 0, "no results: expected a list such as results: [{dataset: mmlu, metric: acc, value: 0.82}], or a file of lm-evaluation-harness")
	}
	var results []Result
	for i, r := range p.Results {
		at := fmt.Sprintf("results[%d]", i)
		switch {
		case d.Full():
		case r.Dataset == "":
			d.FaultAt(at, 0, "a result without a dataset: say what it was evaluated on, such as dataset: mmlu")
		case r.Metric == "":
			d.FaultAt(at, 0, "a result without a metric: say what its value is, such as metric: acc")
		case r.Value == nil:
			d.FaultAt(at, 0, "a result without a value: expected a ratio of 0 to 1, such as value: 0.82")
		case !(*r.Value >= 0 && *r.Value <= 1):
			d.FaultAt(at+".value", 0, "%g is no ratio: expected 0 to 1 (of a percentage, a hundredth)", *r.Value)
		}
		if d.Len() > 0 {
			continue
		}
		t := r.Time.Time
		if t.IsZero() {
			t = p.Time.Time
		}
		if t.IsZero() {
			t = written
		}
		results = append(results, Result{Model: first(r.Model, p.Model), Dataset: r.Dataset, Metric: r.Metric, Ratio: *r.Value, Time: t})
	}
	return results, d.Err()
}
