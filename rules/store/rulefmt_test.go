package store

import (
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/rules"
)

// readRules reads a rule file as flyball does, and gives its groups in Prometheus's words.
func readRules(text []byte) ([]rulefmt.RuleGroup, error) {
	const interval = 15 * time.Second
	reader := &rules.Reader{
		Defaults:   rules.Defaults{EvaluationInterval: interval, ScrapeInterval: interval},
		CheckGroup: func(f *rules.File, g *rules.Group) error { return GroupOf(f, g, noEvaluator).Validate() },
	}
	f, err := reader.Parse("rules.yml", text)
	if err != nil {
		return nil, err
	}
	_ = reader.Lint() // it must not panic
	var groups []rulefmt.RuleGroup
	for i := range f.Groups {
		g := GroupOf(f, &f.Groups[i], noEvaluator)
		group := rulefmt.RuleGroup{Name: g.Name, Interval: model.Duration(g.Interval), Limit: g.Limit, Labels: g.Labels, QueryOffset: f.Groups[i].QueryOffset}
		for _, r := range g.Rules {
			group.Rules = append(group.Rules, r.format())
		}
		groups = append(groups, group)
	}
	return groups, nil
}

func noEvaluator(*rules.Rule) rules.Evaluator { return nil }

// readByPrometheus does the same by Prometheus's own reader, with the interval that a group without one gets.
func readByPrometheus(text []byte) ([]rulefmt.RuleGroup, []error) {
	read, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		return nil, errs
	}
	for i := range read.Groups {
		if read.Groups[i].Interval == 0 {
			read.Groups[i].Interval = model.Duration(15 * time.Second)
		}
	}
	return read.Groups, nil
}

// sameRules: what Prometheus takes, flyball takes, and reads the same out of it.
func sameRules(t *testing.T, text []byte) (taken bool) {
	t.Helper()
	want, errs := readByPrometheus(text)
	got, err := readRules(text)
	if len(errs) > 0 {
		return err == nil
	}
	if err != nil {
		t.Errorf("Prometheus takes it, flyball says:\n%s", err)
		return false
	}
	offset := cmp.Comparer(func(a, b *model.Duration) bool { // null is no offset for one, 0 for the other
		return (a == nil || *a == 0) == (b == nil || *b == 0) && (a == nil || b == nil || *a == *b)
	})
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), offset); diff != "" {
		t.Errorf("it means something else (-Prometheus +flyball):\n%s", diff)
	}
	return true
}

// TestPrometheusRuleFiles: every rule file in Prometheus's own source is taken where Prometheus takes it, means the same, and is
// refused where Prometheus refuses it.
func TestPrometheusRuleFiles(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/prometheus/prometheus").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dir := strings.TrimSpace(string(out))
	taken, refused := 0, 0
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".yml") && !strings.HasSuffix(path, ".yaml") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains("\n"+string(text), "\ngroups:") {
			return nil
		}
		name, _ := filepath.Rel(dir, path)
		t.Run(name, func(t *testing.T) {
			_, errs := readByPrometheus(text)
			switch got := sameRules(t, text); {
			case len(errs) == 0:
				taken++
			case got:
				t.Errorf("flyball takes it, Prometheus says %v", errs)
			default:
				refused++
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d taken, %d refused by both", taken, refused)
	if taken < 18 || refused < 10 {
		t.Errorf("%d taken and %d refused: Prometheus's source has more", taken, refused)
	}
}

// prometheusRules are files that Prometheus takes in spite of how they look.
var prometheusRules = map[string]string{
	"nothing":            "",
	"only a comment":     "# nothing yet\n",
	"null":               "~\n",
	"no groups":          "groups:\n",
	"an empty list":      "groups: []\n",
	"a group of nothing": "groups:\n- name: a\n",
	"null rules":         "groups:\n- name: a\n  rules:\n  labels:\n  interval:\n  query_offset: ~\n  limit: null\n",
	"null items":         "groups:\n-\n- &a {name: a, rules: [~, {record: x, expr: up}, null]}\n- {<<: *a, name: b}\n-\n",
	"a negative limit":   "groups:\n- {name: a, limit: -3, rules: [{record: x, expr: up}]}\n",
	"a limit and a half": "groups:\n- {name: a, limit: 1.5, rules: [{record: x, expr: up}]}\n",
	"a large limit":      "groups:\n- {name: a, limit: 1e3, rules: [{record: x, expr: up}]}\n",
	"an octal limit":     "groups:\n- {name: a, limit: 0o17, rules: [{record: x, expr: up}]}\n",
	"a rule twice":       "groups:\n- {name: a, rules: [{record: x, expr: up}, {record: x, expr: up}, {alert: A, expr: up}, {alert: A, expr: up}]}\n",
	"a second document":  "groups:\n- {name: a, rules: [{record: x, expr: up}]}\n---\ngroups: nonsense\n",
	"nonsense after it":  "groups:\n- {name: a, rules: [{record: x, expr: up}]}\n---\n{ [ }\n",
	"an empty first one": "---\n---\ngroups:\n- {name: a, rules: [{record: x, expr: up}]}\n",
	"an end":             "groups:\n- {name: a, rules: [{record: x, expr: up}]}\n...\n",
	"empty other kind":   "groups:\n- name: a\n  rules:\n  - {record: '', alert: A, expr: up, for: 1m}\n  - {record: x, alert: , expr: up, for: 0s, keep_firing_for: 0, annotations: {}}\n",
	"an empty kind last": "groups:\n- name: a\n  rules:\n  - {alert: '', expr: up, record: x, annotations: , for: }\n",
	"merged keys":        "groups:\n- &a\n  name: a\n  rules:\n  - &r {record: x, expr: up, labels: &l {a: b}}\n  - {<<: *r, record: y}\n- {<<: *a, name: b}\n",
	"merged twice":       "groups:\n- name: a\n  rules:\n  - &r {record: x, expr: up, labels: &l {a: b, c: d}}\n  - &s {<<: *r, record: y}\n  - {<<: [*s, *r], labels: {<<: *l, c: e}}\n",
	"merged kinds":       "groups:\n- name: a\n  rules:\n  - &r {alert: A, expr: up, for: 5m}\n  - &s {<<: *r, labels: {a: b}}\n  - {<<: *s, annotations: {c: d}}\n",
	"an alias as a key":  "groups:\n- name: &n a\n  rules:\n  - {record: x, expr: up, labels: {*n : 1}}\n",
	"numbers as texts":   "groups:\n- name: 1\n  labels: {2: 3.50, x: yes, y: 2020-01-01, z: }\n  rules:\n  - {alert: 7, expr: 1, annotations: {4: 0x1F, 5: true}}\n",
	"null keys":          "groups:\n- name: a\n  ~: 1\n  rules:\n  - {record: x, expr: up, ~: 2, labels: {~: a, b: c}}\n",
	"binary":             "groups:\n- name: !!binary YWJj\n  rules:\n  - {record: x, expr: !!binary dXA=, labels: {a: !!binary eA==}}\n",
	"UTF-8 names":        "groups:\n- name: a.b[0]\n  rules:\n  - {record: 'näme.with dots', expr: '{\"näme.x\"}', labels: {'a.b[0]': 'ü'}}\n  - {alert: 'Ü b', expr: up, annotations: {'a.b c': x}}\n",
	"durations":          "groups:\n- {name: a, interval: 1h30m, query_offset: 1m30s500ms, rules: [{alert: A, expr: up, for: 0, keep_firing_for: 1y2w3d4h5m6s7ms}]}\n",
	"an interval of 0":   "groups:\n- {name: a, interval: 0s, rules: []}\n",
	"templates":          "groups:\n- name: a\n  rules:\n  - alert: A\n    expr: up\n    labels: {a: '{{ $labels.x }} {{ $externalLabels.y }} {{ .Labels.z }}'}\n    annotations:\n      b: '{{ range query \"up\" }}{{ .Value | humanize }}{{ end }} {{ $value | humanizePercentage }} {{ with index $labels \"a\" }}{{ . | toUpper | reReplaceAll \"a\" \"b\" }}{{ end }} {{ $externalURL }}{{ parseDuration \"1h\" }}'\n",
	"folded":             "groups:\n- name: a\n  rules:\n  - record: x\n    expr: >-\n      sum(\n        up\n      )\n  - record: y\n    expr: |+2\n        up  # a comment\n\n",
	"a byte order mark":  "\ufeffgroups:\n- {name: a, rules: [{record: x, expr: up}]}\n",
	"UTF-16":             "\xff\xfeg\x00r\x00o\x00u\x00p\x00s\x00:\x00 \x00[\x00]\x00",
	"tabs and returns":   "groups:\r\n- name: a\t\r\n  rules:\r\n  - {record: x,\texpr: up}\r\n",
	"tags":               "groups: !!seq\n- !!map\n  name: !!str 5\n  rules: [{record: !foo x, expr: ! up, for: !!null ''}]\n",
	"comments in PromQL": "groups:\n- name: a\n  rules:\n  - record: x\n    expr: |\n      # what is up\n      up # now\n",
	"anchors in strings": "groups:\n- name: a\n  rules:\n  - {record: &x x, expr: &e 'sum(up)', labels: &l {a: *e}}\n  - {record: y, expr: *e, labels: *l}\n",
}

func TestRuleFilesAsPrometheus(t *testing.T) {
	for name, text := range prometheusRules {
		t.Run(name, func(t *testing.T) {
			if _, errs := readByPrometheus([]byte(text)); len(errs) > 0 {
				t.Fatal("Prometheus does not take it: ", errs)
			}
			sameRules(t, []byte(text))
		})
	}
}

// FuzzRuleFile: whatever Prometheus takes, flyball takes, and reads the same out of it.
func FuzzRuleFile(f *testing.F) {
	for _, text := range prometheusRules {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { sameRules(t, text) })
}

// TestExport: what is exported of any of Prometheus's rule files is the same to Prometheus, and so is what its own rules mean in
// a file that has rules of ours, too.
func TestExport(t *testing.T) {
	ours := `groups:
- name: a
  rules:
  - &r {record: x, expr: up, labels: {a: b}}
  - scale: s
    target: {kind: process, name: s}
    max: 3
    queries: {n: x}
    signals: [{name: n, value: n, target_per_replica: 1}]
  - {<<: *r, record: y}
  - {slo: m, objectives: [{name: errors, target: 0.999}, {name: latency, target: 0.99, threshold: 500ms}], thresholds: [{name: throughput, below: 1}]}
  - {budget: b, spend: 'increase(c[$elapsed])', limit: 10, thresholds: [{at: 0.5, alert: Half, severity: page}]}
- name: b
  rules: [{optimize: o, queries: {n: x}, if: n > 1}]
`
	texts := map[string]string{"ours": ours}
	for name, text := range prometheusRules {
		texts[name] = text
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			reader := &rules.Reader{Defaults: rules.Defaults{EvaluationInterval: 15 * time.Second}}
			f, err := reader.Parse("rules.yml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			exported, err := reader.Export(f)
			if err != nil {
				t.Fatal(err)
			}
			want, err := readRules([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			got, errs := readByPrometheus(exported)
			if len(errs) > 0 {
				t.Fatalf("Prometheus does not take it: %v\n%s", errs, exported)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(rulefmt.RuleGroup{}, "QueryOffset")); diff != "" {
				t.Errorf("it means something else:\n%s\n%s", diff, exported)
			}
		})
	}
}
