package dashboard

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// good breaks no rule.
const good = `{
  "title": "Good",
  "editable": false,
  "templating": {"list": [
    {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
    {"name": "job", "label": "Job", "type": "query", "query": "label_values(up, job)", "datasource": {"uid": "$datasource"}, "multi": true, "includeAll": true, "allValue": ".+", "refresh": 2},
    {"name": "instance", "label": "Instance", "type": "query", "query": "label_values(up, instance)", "datasource": {"uid": "$datasource"}, "multi": true, "includeAll": true, "allValue": ".+", "refresh": 2}
  ]},
  "panels": [
    {"type": "timeseries", "title": "Rate", "description": "of x_total", "datasource": {"type": "prometheus", "uid": "$datasource"},
     "fieldConfig": {"defaults": {"unit": "reqps"}},
     "targets": [{"refId": "A", "expr": "rate(x_total{job=~\"$job\", instance=~\"$instance\"}[$__rate_interval])"}]},
    {"type": "logs", "title": "Lines", "datasource": {"type": "loki", "uid": "l"}, "targets": [{"expr": "count_over_time({a=\"b\"}[$__auto])"}]},
    {"type": "text", "title": "", "options": {"content": "no rule is about text"}}
  ]
}`

func TestLint(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"good", "", "", ""},
		{
			"editable", `"editable": false`, `"editable": true`,
			"d.json:3:15: editable is not false: what is changed in the browser is lost with the next version [uneditable-dashboard]",
		},
		{
			"no data source to choose", `"name": "datasource"`, `"name": "source"`,
			"d.json:2:12: no variable for the data source: add one of type datasource with the name datasource (prometheus_datasource, loki_datasource) [template-datasource-rule]\n" +
				"d.json:6:14: variable \"job\" does not use the data source that is chosen: expected $datasource [template-job-rule]\n" +
				"d.json:7:14: variable \"instance\" does not use the data source that is chosen: expected $datasource [template-instance-rule]\n" +
				"d.json:10:37: panel \"Rate\": the data source is \"$datasource\": expected one that is chosen, $datasource [panel-datasource-rule]",
		},
		{"its label", `"label": "Data source"`, `"label": "Source"`, "d.json:5:14: variable \"datasource\" has the label \"Source\": expected Data source [template-datasource-rule]"},
		{"no job", `"name": "job"`, `"name": "jobs"`, "d.json:2:12: no variable \"job\" to choose by [template-job-rule]"},
		{"one job", `"multi": true, "includeAll": true, "allValue": ".+", "refresh": 2},
    {"name": "instance"`, `"allValue": ".+", "refresh": 2},
    {"name": "instance"`, "d.json:6:14: variable \"job\" allows one value only: set multi [template-job-rule]"},
		{"instance is not asked again", `"refresh": 2}
  ]`, `"refresh": 1}
  ]`, "d.json:7:14: variable \"instance\" is not asked again when the time range changes: set refresh to 2 (schema v2: onTimeRangeChanged) [template-on-time-change-reload-rule]"},
		{
			"the panel's data source", `"datasource": {"type": "prometheus", "uid": "$datasource"}`, `"datasource": {"type": "prometheus", "uid": "abc"}`,
			"d.json:10:37: panel \"Rate\": the data source is \"abc\": expected one that is chosen, $datasource [panel-datasource-rule]",
		},
		{"no description", `"of x_total"`, `""`, "d.json:10:37: panel \"Rate\": no description [panel-title-description-rule]"},
		{"no title", `"title": "Rate"`, `"title": ""`, "d.json:10:37: panel \"\": no title [panel-title-description-rule]"},
		{"no unit", `"unit": "reqps"`, `"min": 0`, "d.json:10:37: panel \"Rate\": no unit [panel-units-rule]"},
		{"not a unit", `"reqps"`, `"req/s"`, "d.json:10:37: panel \"Rate\": \"req/s\" is not a unit of Grafana's [panel-units-rule]"},
		{"a unit of its own", `"reqps"`, `"suffix:req/s"`, ""},
		{"no query", `{"refId": "A", "expr": "rate(x_total{job=~\"$job\", instance=~\"$instance\"}[$__rate_interval])"}`, ``, "d.json:10:37: panel \"Rate\": no query [panel-no-targets-rule]"},
		{"a range of its own", `[$__rate_interval]`, `[5m]`, "d.json:12:47: panel \"Rate\", query A: a range of its own: expected [$__rate_interval], which fits any time range [target-rate-interval-rule]"},
		{
			"a counter as it is", `rate(x_total{job=~\"$job\", instance=~\"$instance\"}[$__rate_interval])`, `sum(x_total{job=~\"$job\", instance=~\"$instance\"})`,
			"d.json:12:46: panel \"Rate\", query A: counter x_total without rate, irate or increase [target-counter-agg-rule]",
		},
		{"a rate further up", `rate(x_total{job=~\"$job\", instance=~\"$instance\"}[$__rate_interval])`, `sum(rate((sum(x_total{job=~\"$job\", instance=~\"$instance\"}))[5m:]))`, ""},
		{"no job in the query", `job=~\"$job\", `, ``, "d.json:12:47: panel \"Rate\", query A: x_total has no matcher job=~\"$job\" [target-job-rule]"},
		{"no instance in the query", `, instance=~\"$instance\"`, `, instance=\"$instance\"`, "d.json:12:47: panel \"Rate\", query A: x_total has no matcher instance=~\"$instance\" [target-instance-rule]"},
		{"a range of Loki's", `[$__auto]`, `[5m]`, "d.json:13:131: panel \"Lines\": range [5m]: expected [$__auto] [target-logql-auto-rule]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.old, tt.new, 1)
			if text == good && tt.old != "" {
				t.Fatalf("no %q to replace", tt.old)
			}
			d, err := Read("d.json", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, strings.Join(texts(d.Lint(nil)), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestExclusions: a .lint file takes rules away as a whole, for a panel or for one query of it.
func TestExclusions(t *testing.T) {
	d, err := Read("d.json", []byte(strings.NewReplacer("$__rate_interval", "5m", `"reqps"`, `"x"`).Replace(good)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, lint string
		want       []string // rule and severity
	}{
		{"none", "", []string{"panel-units-rule lint", "target-rate-interval-rule lint"}},
		{"a rule", "exclusions: {panel-units-rule: {reason: x}, target-rate-interval-rule: }", nil},
		{"a warning", "warnings: {panel-units-rule: }", []string{"panel-units-rule warning", "target-rate-interval-rule lint"}},
		{"a panel", "exclusions: {panel-units-rule: {entries: [{dashboard: Good, panel: Rate}]}, target-rate-interval-rule: {entries: [{panel: Rate, targetIdx: 0, reason: y}]}}", nil},
		{
			"others", "exclusions: {panel-units-rule: {entries: [{panel: Rates}, {dashboard: Bad}]}, target-rate-interval-rule: {entries: [{targetIdx: 1}]}}",
			[]string{"panel-units-rule lint", "target-rate-interval-rule lint"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x, err := ParseExclusions(".lint", []byte(tt.lint))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range d.Lint(x) {
				got = append(got, f.Rule+" "+f.Severity)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for text, want := range map[string]string{
		"exclusions:\n  panel-unit-rule:\n":                      ".lint:2:19: no rule \"panel-unit-rule\" (did you mean \"panel-units-rule\"?)",
		"exclusion: {}":                                          ".lint:1:1: unknown key \"exclusion\" (did you mean \"exclusions\"?)",
		"exclusions: {panel-units-rule: {entries: [{pane: x}]}}": ".lint:1:44: unknown key \"pane\" (did you mean \"panel\"?)",
	} {
		_, err := ParseExclusions(".lint", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestOwnDashboards: the mixin's dashboards break no rule but those about job and instance that .lint gives reasons for.
func TestOwnDashboards(t *testing.T) {
	text, err := os.ReadFile("../out/dashboards/flyball-overview.json")
	if err != nil {
		t.Fatal(err)
	}
	lint, err := os.ReadFile("../out/dashboards/.lint")
	if err != nil {
		t.Fatal(err)
	}
	x, err := ParseExclusions(".lint", lint)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Read("flyball-overview.json", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(d.Check(), d.Lint(x)...) {
		t.Error(f.Show())
	}
	for rule, e := range x.exclusions {
		if !strings.HasSuffix(rule, "-job-rule") && !strings.HasSuffix(rule, "-instance-rule") || e.Reason == "" {
			t.Errorf("%s is excluded, reason %q: only rules about job and instance may be, with a reason", rule, e.Reason)
		}
	}
}
