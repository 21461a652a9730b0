package mixin

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-jsonnet/formatter"
	"gopkg.in/yaml.v3"

	"flyball/rules/peertest"
)

var update = flag.Bool("update", false, "format the sources and render out again")

// TestFormat keeps the Jsonnet files as jsonnetfmt -n 2 --max-blank-lines 2 --string-style s --comment-style s has them.
func TestFormat(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, _ fs.DirEntry, err error) error {
		if ext := filepath.Ext(name); err != nil || ext != ".libsonnet" && ext != ".jsonnet" {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		formatted, err := formatter.Format(name, string(text), formatter.DefaultOptions()) // these are its defaults
		if err != nil {
			return err
		}
		if *update {
			return os.WriteFile(name, []byte(formatted), 0o644)
		}
		if diff := cmp.Diff(formatted, string(text)); diff != "" {
			t.Errorf("%s is not formatted: make mixin\n%s", name, diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOut: what is committed is what the sources give, no more and no less.
func TestOut(t *testing.T) {
	rendered, err := Render(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.RemoveAll("out"); err != nil {
			t.Fatal(err)
		}
		for name, text := range rendered {
			path := filepath.Join("out", filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return // the embedded files are those of before
	}
	var committed []string
	err = fs.WalkDir(Source, "out", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			committed = append(committed, strings.TrimPrefix(name, "out/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(rendered)), committed); diff != "" {
		t.Errorf("files in out: make mixin\n%s", diff)
	}
	for name, text := range rendered {
		was, err := os.ReadFile(filepath.Join("out", filepath.FromSlash(name)))
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(string(was), string(text)); diff != "" {
			t.Errorf("out/%s is not what the sources give: make mixin\n%s", name, diff)
		}
	}
}

// ruleFile is a rule file of Prometheus as its tools see it.
type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Record, Alert, Expr string
			For                 string
			Labels              map[string]string
			Annotations         map[string]string
		}
	}
}

func renderedRules(t *testing.T, name string, o Options) (f ruleFile) {
	t.Helper()
	files, err := Render(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(files[name], &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// alertNames are the alerts of alerts.yaml, each once.
func alertNames(t *testing.T) (names []string) {
	t.Helper()
	for _, g := range renderedRules(t, "alerts.yaml", Options{}).Groups {
		for _, r := range g.Rules {
			names = append(names, r.Alert)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestAlerts: every alert says what a person who is woken by it needs, and no label holds a value, which would make a new
// alert of it at each evaluation.
func TestAlerts(t *testing.T) {
	severities := []string{"critical", "warning", "info"}
	for _, g := range renderedRules(t, "alerts.yaml", Options{}).Groups {
		for _, r := range g.Rules {
			if !strings.HasPrefix(r.Alert, "Flyball") {
				t.Errorf("%s: alerts begin with Flyball", r.Alert)
			}
			if !slices.Contains(severities, r.Labels["severity"]) {
				t.Errorf("%s: severity %q is none of %v", r.Alert, r.Labels["severity"], severities)
			}
			for name, value := range r.Labels {
				if strings.Contains(value, "{{") {
					t.Errorf("%s: label %s is a template", r.Alert, name)
				}
			}
			for _, name := range []string{"summary", "description", "runbook_url", "dashboard_url"} {
				if r.Annotations[name] == "" {
					t.Errorf("%s: no annotation %s", r.Alert, name)
				}
			}
			if strings.Contains(r.Annotations["summary"], "{{") {
				t.Errorf("%s: the summary has a variable: notifications of several alerts share it", r.Alert)
			}
			if want := "http://localhost:9838/runbooks/" + r.Alert; r.Annotations["runbook_url"] != want {
				t.Errorf("%s: runbook_url is %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
			}
			if !regexp.MustCompile(`[<>=]|absent\(`).MatchString(regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(r.Expr, "")) {
				t.Errorf("%s: compares nothing, so it always fires", r.Alert)
			}
		}
	}
}

// TestRunbooks: every alert has a runbook of its name with the four parts, every runbook has its alert, and links of
// annotations arrive there.
func TestRunbooks(t *testing.T) {
	if diff := cmp.Diff(alertNames(t), Runbooks()); diff != "" {
		t.Errorf("alerts and runbooks:\n%s", diff)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /runbooks/{alert}", RunbookHandler())
	for _, name := range Runbooks() {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/runbooks/"+name, nil))
		text := answer.Body.String()
		if answer.Code != http.StatusOK || !strings.HasPrefix(text, "# "+name+"\n") {
			t.Errorf("%s: %d, begins %.40q", name, answer.Code, text)
		}
		for _, part := range []string{"\n## Meaning\n", "\n## Impact\n", "\n## Diagnosis\n", "\n## Mitigation\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: no part %q", name, strings.TrimSpace(part))
			}
		}
		_, diagnosis, _ := strings.Cut(text, "\n## Diagnosis\n")
		diagnosis, _, _ = strings.Cut(diagnosis, "\n## ")
		if !strings.Contains(diagnosis, "```promql\n") {
			t.Errorf("%s: the diagnosis has no query", name)
		}
	}
	for _, name := range []string{"FlyballScaleHold", "..", "../mixin.go"} {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/runbooks/"+strings.ReplaceAll(name, "/", "%2F"), nil))
		if answer.Code == http.StatusOK {
			t.Errorf("%s: found: %s", name, answer.Body)
		}
	}
}

// TestScaleToZero: a model that may have no replica raises an alert only while requests come; another one always.
func TestScaleToZero(t *testing.T) {
	promtool := peertest.Binary(t, "promtool")
	files, err := Render(Options{Config: map[string]any{"scaleToZeroModels": "nightly|demo-.*"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const series = `  - {series: 'flyball_batchproxy_replicas_ready{job="flyball",instance="a:9838",model="%[1]s"}', values: '0x20'}
  - {series: 'flyball_batchproxy_arrivals_total{job="flyball",instance="a:9838",model="%[1]s"}', values: '%[2]s'}
`
	for name, text := range map[string]string{
		"alerts.yaml": string(files["alerts.yaml"]),
		"test.yaml": "rule_files: [alerts.yaml]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n" +
			fmt.Sprintf(series, "nightly", "7x20") + fmt.Sprintf(series, "demo-1", "0+60x20") + fmt.Sprintf(series, "digits", "7x20") +
			"  promql_expr_test:\n  - expr: 'count by (model) (ALERTS{alertname=\"FlyballNoReadyReplicas\", alertstate=\"firing\"})'\n" +
			"    eval_time: 10m\n    exp_samples: [{labels: '{model=\"demo-1\"}', value: 1}, {labels: '{model=\"digits\"}', value: 1}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(promtool, "test", "rules", filepath.Join(dir, "test.yaml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestOverrides: a setting reaches everything that is made of it.
func TestOverrides(t *testing.T) {
	f := renderedRules(t, "alerts.yaml", Options{Config: map[string]any{
		"flyballURL": "https://flyball.example.com", "clusterLabel": "k8s_cluster", "flyballSelector": `job=~"prod/.*"`,
		"SLOs": map[string]any{"availability": map[string]any{"target": 0.9}},
	}})
	burn := f.Groups[0].Rules[0]
	if want := "https://flyball.example.com/runbooks/FlyballModelErrorBudgetBurn"; burn.Annotations["runbook_url"] != want {
		t.Errorf("runbook_url %s, want %s", burn.Annotations["runbook_url"], want)
	}
	if !strings.Contains(burn.Expr, "> 14.4 * 0.1\n") {
		t.Errorf("the budget of 0.1 is not in %s", burn.Expr)
	}
	text := fmt.Sprint(f)
	for want, none := range map[string]string{`job=~"prod/.*"`: `job="flyball"`, "by (k8s_cluster": "by (cluster", "the target is 90 %": "99.5"} {
		if !strings.Contains(text, want) || strings.Contains(text, none) {
			t.Errorf("want %q instead of %q in %s", want, none, text)
		}
	}

	for name, tt := range map[string]struct {
		config map[string]any
		want   string
	}{
		"unknown":    {map[string]any{"clusterLable": "x"}, `clusterLable: no such setting (did you mean "clusterLabel"?)`},
		"deep":       {map[string]any{"SLOs": map[string]any{"availability": map[string]any{"tagret": 1.0}}}, `SLOs.availability.tagret: no such setting (did you mean "target"?)`},
		"wrong type": {map[string]any{"minRequestsPerWindow": "many"}, `minRequestsPerWindow: is a text: expected a number, such as 100`},
		"two": {map[string]any{"tags": "x", "refresh": true}, "refresh: is true or false: expected a text, such as \"30s\"\n" +
			`tags: is a text: expected a list, such as ["flyball-mixin"]`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Render(Options{Config: tt.config})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	t.Run("free keys", func(t *testing.T) {
		files, err := Render(Options{Config: map[string]any{"prometheusRuleLabels": map[string]any{"release": "kube-prometheus"}}})
		if err != nil || !strings.Contains(string(files["kubernetes/prometheusrule.yaml"]), `release: "kube-prometheus"`) {
			t.Errorf("%v: no label release", err)
		}
	})
}

// TestPromtool runs Prometheus's own checks and the rule tests, and sees that every alert has a case in which it fires and
// one in which it is quiet.
func TestPromtool(t *testing.T) {
	tests, err := filepath.Glob("tests/*_test.yaml")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	firing, quiet := map[string]int{}, map[string]int{}
	for _, name := range tests {
		var file struct {
			Tests []struct {
				AlertRuleTest []struct {
					Alertname string           `yaml:"alertname"`
					ExpAlerts []map[string]any `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, test := range file.Tests {
			for _, a := range test.AlertRuleTest {
				if len(a.ExpAlerts) > 0 {
					firing[a.Alertname]++
				} else {
					quiet[a.Alertname]++
				}
			}
		}
	}
	names := alertNames(t)
	for _, name := range names {
		if firing[name] == 0 || quiet[name] == 0 {
			t.Errorf("%s: %d firing and %d quiet cases in tests: at least one of each is needed", name, firing[name], quiet[name])
		}
	}
	for name := range quiet {
		if !slices.Contains(names, name) {
			t.Errorf("tests name %s, which is no alert", name)
		}
	}

	promtool := peertest.Binary(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "out/rules.yaml", "out/alerts.yaml"},
		append([]string{"test", "rules"}, tests...),
	} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args[:2], " "), err, out)
		}
	}
}
