package rules

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

const routed = `groups:
- name: a
  rules:
  - {record: "job:x:rate", expr: "sum by (job) (rate(x[1m]))"}
  - {record: "total", expr: "sum(job:x:rate)"}
  - {alert: Low, expr: "total < 1"}
  - scale: digits
    target: {kind: process, name: digits}
    max: 3
    queries: {demand: total}
    signals: [{name: s, value: demand, target_per_replica: 1}]
`

// TestRoute: by the metrics that are named, and nothing else.
func TestRoute(t *testing.T) {
	r := Reader{Defaults: testDefaults, Remote: true}
	f, err := r.Parse("rules.yml", []byte(routed))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Finish(); err != nil {
		t.Fatal(err)
	}
	o := own([]*File{f})
	for expr, want := range map[string]string{
		"up":                            "elsewhere",
		"total":                         "here",
		"sum(job:x:rate) / total":       "here",
		"1 + time()":                    "here",
		"vector(1)":                     "here",
		"absent(total) or vector(0)":    "here",
		`{job="x"}`:                     "elsewhere",
		`{__name__=~"total|up"}`:        "elsewhere",
		`{__name__="total"}`:            "here",
		"max_over_time(total[1h:1m])":   "here",
		`ALERTS{alertname="Low"}`:       "here",
		"flyball_scale_ready_replicas":  "here",
		"flyball_scale_decisions_total": "elsewhere", // a counter of /metrics
		"total + up":                    "mix",
		"total unless on() {job='a'}":   "mix",
	} {
		parsed, err := promQL.ParseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		got := "here"
		remote, err := o.Remote(parsed)
		switch {
		case err != nil:
			got = "mix"
		case remote:
			got = "elsewhere"
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", expr, got, want)
		}
	}
}

// TestOwnSelectors: what labels and series are listed of.
func TestOwnSelectors(t *testing.T) {
	o := Own{"a": true, "a.b": true}
	for text, want := range map[string]struct{ named, own bool }{
		`a`: {true, true}, `{__name__="a"}`: {true, true}, `{"a.b"}`: {true, true}, `up`: {true, false},
		`{__name__=~"a"}`: {false, false}, `{job="a"}`: {false, false}, `{__name__!="up"}`: {false, false},
	} {
		ms, err := promQL.ParseMetricSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		if named, own := o.Selects(ms); named != want.named || own != want.own {
			t.Errorf("%s: named %v, own %v", text, named, own)
		}
	}
	for name, want := range map[string]bool{"a": true, "a.b": true, "axb": false, "up": false, "aa": false, "": false} {
		if o.Matcher().Matches(name) != want {
			t.Errorf("%s is selected by what the rules write: %v", name, !want)
		}
	}
}

// TestMixes: a query that no side can answer is a fault where it is, in whatever order files and rules come.
func TestMixes(t *testing.T) {
	r := Reader{Defaults: testDefaults, Remote: true}
	for name, text := range map[string]string{
		"a.yml": `groups:
- name: a
  rules:
  - {record: "b", expr: "total / up"}
  - alert: Low
    expr: |
      total < 1
        and on () {job="x"}
  - scale: two
    target: {kind: process, name: two}
    max: 3
    queries:
      demand: sum(total) / count(up)
      other: {expr: sum(b) + sum(y), reduce: sum}
      fine: sum(y)
    signals: [{name: s, value: demand, target_per_replica: 1}]
  - {forecast: f, query: total, regressors: {one: up, two: total + up}}
`, "b.yml": routed,
	} {
		if _, err := r.Parse(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	err := r.Finish()
	if err == nil {
		t.Fatal("no fault")
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		if strings.Contains(line, ".yml:") {
			place, rest, _ := strings.Cut(strings.TrimSpace(line), ": PromQL: the query mixes series of the Prometheus elsewhere (")
			sides, _, _ := strings.Cut(rest, "), and no side has both: record what is needed of ")
			got = append(got, place+" "+sides)
		}
	}
	if diff := cmp.Diff([]string{
		"a.yml:4:34 up) with those that the rules write (total",
		`a.yml:8:19 {job="x"}) with those that the rules write (total`,
		"a.yml:13:34 up) with those that the rules write (total",
		"a.yml:14:34 y) with those that the rules write (b",
		"a.yml:17:68 up) with those that the rules write (total",
	}, got); diff != "" {
		t.Error(diff, err)
	}
	r.Remote = false
	if err := r.Finish(); err != nil {
		t.Errorf("the embedded store has both sides: %v", err)
	}
}

// TestAgesOfTwoSides: the age of what was recorded is asked on both sides.
func TestAgesOfTwoSides(t *testing.T) {
	r := Reader{Defaults: testDefaults, Remote: true}
	f, err := r.Parse("rules.yml", []byte(routed))
	if err != nil {
		t.Fatal(err)
	}
	got := f.Groups[0].Rules[3].Scale.Queries["demand"].ages
	want := []string{
		`min(label_replace(max(timestamp(job:x:rate)), "selector", "1", "", "") or label_replace(max(timestamp(total)), "selector", "2", "", ""))`,
		"(max(timestamp(x)) or 0 * count(last_over_time(x[1m])))",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	o := own([]*File{f})
	for i, expr := range got {
		parsed, err := promQL.ParseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		if remote, err := o.Remote(parsed); err != nil || remote != (i == 1) {
			t.Errorf("%s: remote %v, %v", expr, remote, err)
		}
	}
}

// byExpr answers each query as it is told.
type byExpr map[string]any

func (b byExpr) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]Sample, error) {
	switch v := b[expr].(type) {
	case error:
		return nil, v
	case float64:
		return []Sample{{Labels: labels.EmptyLabels(), Value: v, Time: at}}, nil
	}
	return nil, nil
}

// TestOldestOfTwoSides: the stalest part counts, wherever it is.
func TestOldestOfTwoSides(t *testing.T) {
	r := Reader{Defaults: testDefaults, Remote: true}
	f, err := r.Parse("rules.yml", []byte(routed))
	if err != nil {
		t.Fatal(err)
	}
	rule := f.Groups[0].Rules[3].Scale
	here, elsewhere := rule.Queries["demand"].ages[0], rule.Queries["demand"].ages[1]
	now := time.Unix(1e9, 0)
	for _, tt := range []struct {
		name            string
		here, elsewhere any
		fault           Reason
		age             float64
	}{
		{"fresh", 1e9 - 1.0, 1e9 - 2.0, "", 2},
		{"old here", 1e9 - 300.0, 1e9 - 2.0, MetricStale, 300},
		{"old elsewhere", 1e9 - 1.0, 1e9 - 300.0, MetricStale, 300},
		{"ended elsewhere", 1e9 - 1.0, 0.0, MetricStale, 0},
		{"not to be asked elsewhere", 1e9 - 1.0, errors.New("down"), MetricMissing, 0},
		{"not to be asked here", errors.New("closed"), 1e9 - 1.0, MetricMissing, 0},
		{"not a time elsewhere", 1e9 - 1.0, math.NaN(), MetricNaN, 0},
		{"not a time here", math.NaN(), 1e9 - 1.0, MetricNaN, 0},
		{"nothing elsewhere", 1e9 - 1.0, nil, "", 1},
		{"nothing anywhere", nil, nil, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewScaler(rule, ScalerOptions{
				Querier:   byExpr{"total": 5.0, here: tt.here, elsewhere: tt.elsewhere},
				Actuators: map[string]actuators.Actuator{"process": &actuatortest.Fake{}}, Journal: &pages{}, Metrics: NewMetrics(prometheus.NewRegistry()), Memory: &Memory{},
			})
			a := look(t, s, now).Answers[0]
			if a.Fault != tt.fault || a.AgeSeconds != tt.age {
				t.Errorf("got %q (%s), %g s old, want %q, %g", a.Fault, a.Detail, a.AgeSeconds, tt.fault, tt.age)
			}
		})
	}
}
