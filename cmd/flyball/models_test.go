package main

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/cmd/flyball/web"
	"flyball/mixin"
	"flyball/rules"
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

// TestErrorCodes: the page and the mixin's dashboard and alerts count the same answers as errors.
func TestErrorCodes(t *testing.T) {
	config, err := mixin.Source.ReadFile("config.libsonnet")
	if err != nil {
		t.Fatal(err)
	}
	if want := "errorCodes: '" + errorCodes + "'"; !strings.Contains(string(config), want) {
		t.Errorf("no %q in the mixin's settings", want)
	}
	if expr := modelQueries(time.Minute)["errors"]; !strings.Contains(expr, `{code=~"429|5.."}`) {
		t.Errorf("errors are %s", expr)
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
