package main

import (
	"context"
	"errors"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/cmd/flyball/web"
	"flyball/mixin"
	"flyball/rules"
	"flyball/rules/report"
)

// modelSeries answers what is asked of models by a part of the expression, and counts how often it is asked.
type modelSeries struct {
	values map[string]map[string]float64

	mu    sync.Mutex // guards asked
	asked int
	err   error
}

func (q *modelSeries) Query(_ context.Context, expr string, at time.Time) (out []rules.Sample, _ error) {
	q.mu.Lock()
	q.asked++
	q.mu.Unlock()
	for part, values := range q.values {
		if strings.HasPrefix(expr, part) {
			for model, v := range values {
				out = append(out, rules.Sample{Labels: labels.FromStrings("model", model), Value: v, Time: at})
			}
		}
	}
	return out, q.err
}

func (q *modelSeries) Here(string) bool { return true }

func (q *modelSeries) QueryRange(_ context.Context, _ string, start, end time.Time, step time.Duration) ([]web.Series, error) {
	return []web.Series{{Labels: labels.FromStrings("model", "m"), Points: []web.Point{{Time: start, Value: float64(end.Sub(start) / step)}}}}, q.err
}

// asked is a source of reports that keeps what it is asked and has an answer to nothing but the model's name.
type asked struct {
	mu    sync.Mutex // guards exprs
	exprs []string
}

func (a *asked) QueryRange(_ context.Context, expr string, _, _ time.Time, _ time.Duration) (report.Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.exprs = append(a.exprs, expr)
	return report.Answer{}, nil
}

func (a *asked) LabelValues(context.Context, string, []string, time.Time, time.Time) ([]string, error) {
	return []string{"digits"}, nil
}

// TestErrorCodes: slo rules, the mixin's alerts and dashboard, the page and a report mean the same answers by errors: what
// failed, was too late, was refused because of load or broke off, and nothing that clients do themselves.
func TestErrorCodes(t *testing.T) {
	exprs := map[string][]string{"page": {modelQueries(time.Minute)["errors"]}}
	f, err := (&rules.Reader{}).Parse("slo.yml", []byte("groups: [{name: a, rules: [{slo: digits, objectives: [{name: errors, target: 0.99}]}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Groups[0].Rules[0].Derived() {
		if r.Record != nil {
			exprs["slo"] = append(exprs["slo"], r.Record.Expr)
		}
	}
	recorded, err := mixin.Source.ReadFile("out/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if f, err = (&rules.Reader{}).Parse("rules.yaml", recorded); err != nil {
		t.Fatal(err)
	}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			exprs["mixin"] = append(exprs["mixin"], r.Record.Expr)
		}
	}
	overview, err := mixin.Source.ReadFile("out/dashboards/flyball-overview.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`code=~\\"[^"]*\\"`).FindAllString(string(overview), -1) {
		exprs["dashboard"] = append(exprs["dashboard"], "flyball_batchproxy_requests_total{"+strings.ReplaceAll(m, `\"`, `"`)+"}")
	}
	source, now := &asked{}, time.Now()
	if _, err := report.Make(t.Context(), source, report.Options{Model: "digits", Start: now.Add(-time.Hour), End: now, Step: time.Minute}); err == nil {
		t.Fatal("a report of nothing")
	}
	exprs["report"] = source.exprs

	want := []string{"429", "500", "502", "503", "504", "error"}
	codes := append([]string{"200", "204", "302", "400", "401", "404", "408", "413", "415", "422", "499"}, want...)
	for _, user := range []string{"slo", "mixin", "dashboard", "page", "report"} {
		found := 0
		for _, expr := range exprs[user] {
			parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
			if err != nil {
				t.Fatalf("%s: %s: %v", user, expr, err)
			}
			for _, selector := range parser.ExtractSelectors(parsed) {
				for _, m := range selector {
					if m.Name != "code" {
						continue
					}
					found++
					var got []string
					for _, code := range codes {
						if m.Matches(code) {
							got = append(got, code)
						}
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: %s:\n%s", user, expr, diff)
					}
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: no codes in %q", user, exprs[user])
		}
	}
}

func TestModelFigures(t *testing.T) {
	q := &modelSeries{values: map[string]map[string]float64{
		"sum by (model) (rate(flyball_batchproxy_requests_total[": {"m": 100, "idle": 0},
		"histogram_quantile(0.5,":                                 {"m": 0.08, "idle": math.NaN()},
		"histogram_quantile(0.99,":                                {"m": 0.24},
		"sum by (model) (rate(flyball_batchproxy_batch_size_sum":  {"m": 4.5},
		"sum by (model) (flyball_batchproxy_requests_waiting)":    {"m": 3},
		"sum by (model) (flyball_batchproxy_requests_running)":    {"m": 7},
		"sum by (model) (flyball_batchproxy_replicas_ready)":      {"m": 2, "idle": 1},
	}}
	f := &figures{queries: q}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	got, err := f.at(t.Context(), now, 15*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got.window != time.Minute {
		t.Errorf("window %s", got.window)
	}
	want := []web.Model{
		{Name: "idle", Ready: 1, Rate: 0, Errors: math.NaN(), P50: math.NaN(), P99: math.NaN(), BatchSize: math.NaN()},
		{
			Name: "m", Ready: 2, Queued: 3, Running: 7, Rate: 100, Errors: 0, P50: 0.08, P99: 0.24, BatchSize: 4.5,
			Demand: []web.Point{{Time: now.Add(-10 * time.Minute), Value: 60}},
		},
	}
	if diff := cmp.Diff(want, []web.Model{got.model("idle"), got.model("m")}, cmpopts.EquateNaNs()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"idle", "m"}, got.names); diff != "" {
		t.Error(diff)
	}
	once := q.asked
	for _, age := range []time.Duration{0, 500 * time.Millisecond, 999 * time.Millisecond} {
		if _, err := f.at(t.Context(), now.Add(age), 15*time.Second); err != nil || q.asked != once {
			t.Errorf("asked %d times within a second, expected %d", q.asked, once)
		}
	}
	q.err = errors.New("the store is down")
	if got, err := f.at(t.Context(), now.Add(time.Second), time.Second); got.window != 15*time.Second || err == nil || !strings.Contains(err.Error(), "the store is down") || q.asked == once {
		t.Errorf("a second later: %v", err)
	}
	once = q.asked
	q.err = nil
	if _, err := f.at(t.Context(), now.Add(10*time.Second), time.Second); err == nil || q.asked != once {
		t.Error("a store that does not answer is asked by every page")
	}
	if _, err := f.at(t.Context(), now.Add(11*time.Second), time.Second); err != nil {
		t.Errorf("10 s after a failure: %v", err)
	}
	if got, err := (&figures{}).at(t.Context(), now, time.Second); err != nil || got.names != nil || !math.IsNaN(got.model("m").Rate) {
		t.Errorf("without a store: %v, %v", got, err)
	}
}
