package rulestest

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"gopkg.in/yaml.v3"

	"flyball/rules"
	"flyball/rules/source"
)

// File is a test file.
type File struct {
	RuleFiles          []string       `yaml:"rule_files"` // patterns, relative to the test file
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	GroupEvalOrder     []string       `yaml:"group_eval_order"`
	FuzzyCompare       bool           `yaml:"fuzzy_compare"` // numbers of expressions may be off by their last digit
	Tests              []Test         `yaml:"tests"`
}

// Test is one case of a file.
type Test struct {
	Name           string            `yaml:"name"`
	Interval       model.Duration    `yaml:"interval"` // between the values of a series; 0: the evaluation interval
	StartTimestamp Timestamp         `yaml:"start_timestamp"`
	InputSeries    []Series          `yaml:"input_series"`
	PromQLExprTest []ExprTest        `yaml:"promql_expr_test"`
	AlertRuleTest  []AlertTest       `yaml:"alert_rule_test"`
	ExternalLabels map[string]string `yaml:"external_labels"`
	ExternalURL    string            `yaml:"external_url"`

	TargetModel   map[string]TargetModel `yaml:"target_model"` // by the name of a scale rule or of a target
	Faults        []Fault                `yaml:"faults"`
	ScaleRuleTest []ScaleTest            `yaml:"scale_rule_test"`
	Invariant     []string               `yaml:"invariant"`
}

// Series is the values of one series, in promtool's notation.
type Series struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

// ExprTest expects the answer to a PromQL query.
type ExprTest struct {
	Expr       string           `yaml:"expr"`
	EvalTime   model.Duration   `yaml:"eval_time"`
	ExpSamples []ExpectedSample `yaml:"exp_samples"`
}

// ExpectedSample is one sample of an answer.
type ExpectedSample struct {
	Labels    string `yaml:"labels"` // a series in PromQL
	Value     Number `yaml:"value"`
	Histogram string `yaml:"histogram"` // in promtool's notation; Value does not count then
}

// AlertTest expects the alerts of a name that fire.
type AlertTest struct {
	EvalTime  model.Duration  `yaml:"eval_time"`
	Alertname string          `yaml:"alertname"`
	ExpAlerts []ExpectedAlert `yaml:"exp_alerts"`
}

// ExpectedAlert is one alert, without the label alertname.
type ExpectedAlert struct {
	Labels      map[string]string `yaml:"exp_labels"`
	Annotations map[string]string `yaml:"exp_annotations"`
}

// Number is any number of YAML, infinite ones and .nan too.
type Number float64

// DecodeNode decodes one number.
func (v *Number) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	var f float64
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" || n.Decode(&f) != nil {
		d.Fault(n, "%s: %q is not a number", path, n.Value)
		return
	}
	*v = Number(f)
}

// Timestamp is a time as RFC 3339 or in Unix seconds; zero for the beginning of 1970.
type Timestamp struct{ time.Time }

// DecodeNode decodes one time.
func (t *Timestamp) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if seconds, err := strconv.ParseFloat(n.Value, 64); err == nil {
		whole, part := math.Modf(seconds)
		t.Time = time.Unix(int64(whole), int64(part*1e9)).UTC()
		return
	}
	at, err := time.Parse(time.RFC3339Nano, n.Value)
	if err != nil {
		d.Fault(n, "%s: %q is not a time: expected one such as 2026-01-02T15:04:05Z, or Unix seconds", path, n.Value)
		return
	}
	t.Time = at
}

// start is the time at which the test begins.
func (t *Test) start() time.Time {
	if t.StartTimestamp.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return t.StartTimestamp.Time
}

// title is the test's name, or promtool's for one without.
func (t *Test) title(i int) string {
	if t.Name == "" {
		return fmt.Sprintf("unnamed#%d", i)
	}
	return t.Name
}

// defaultInterval is promtool's.
const defaultInterval = model.Duration(time.Minute)

// parse reads a test file. The error is of type source.Errors.
func parse(name string, text []byte) (*File, *source.File, error) {
	parsed, err := source.Parse(name, text)
	if err != nil {
		return nil, nil, err
	}
	d := parsed.Decoder()
	f := &File{}
	d.Decode(f)
	seen := map[string]bool{}
	for i, group := range f.GroupEvalOrder {
		if seen[group] {
			d.FaultAt(fmt.Sprintf("group_eval_order[%d]", i), 0, "group %q is already in the order", group)
		}
		seen[group] = true
	}
	if f.EvaluationInterval == 0 {
		f.EvaluationInterval = defaultInterval
	}
	for i := range f.Tests {
		if f.Tests[i].Interval == 0 {
			f.Tests[i].Interval = f.EvaluationInterval
		}
	}
	return f, parsed, d.Err()
}

// ruleFiles are the files that the patterns match, each once, and the patterns that match none.
func (f *File) ruleFiles(dir string) (files, unmatched []string, err error) {
	for i, pattern := range f.RuleFiles {
		if pattern != "" && !filepath.IsAbs(pattern) {
			pattern = filepath.Join(dir, pattern)
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, nil, fmt.Errorf("rule_files[%d]: %q is not a pattern: %w", i, f.RuleFiles[i], err)
		}
		if len(found) == 0 {
			unmatched = append(unmatched, pattern)
		}
		for _, name := range found {
			if !slices.Contains(files, name) {
				files = append(files, name)
			}
		}
	}
	return files, unmatched, nil
}

// groups are those of the rule files in the order in which they are evaluated: groups that the order does not name come with
// its first, as in promtool.
func (f *File) groups(files []*rules.File) (all []Group) {
	for _, file := range files {
		for i := range file.Groups {
			g := file.Groups[i] // a copy
			g.Interval = f.EvaluationInterval
			all = append(all, Group{File: file, Group: &g})
		}
	}
	slices.SortStableFunc(all, func(a, b Group) int { return f.turn(a) - f.turn(b) })
	return all
}

func (f *File) turn(g Group) int { return max(0, slices.Index(f.GroupEvalOrder, g.Group.Name)) }

// labelsOf are labels as promtool takes them: an empty value is one.
func labelsOf(m map[string]string) labels.Labels { return labels.FromMap(m) }
