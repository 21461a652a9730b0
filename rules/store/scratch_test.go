package store

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// TestScratch: what is written is there at once, native histograms too, rules see it, and nothing is left behind.
func TestScratch(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, err := OpenScratch(Options{EvaluationInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) time.Time { return time.Unix(0, 0).UTC().Add(d) }
	up, sizes := labels.FromStrings("__name__", "up"), labels.FromStrings("__name__", "sizes")
	h := &histogram.FloatHistogram{Count: 2, Sum: 3, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []float64{2}}
	// The later series first: an empty store would take its time, less half a day, for the earliest that it accepts.
	err = s.Append(t.Context(), []ScratchSample{
		{Labels: sizes, Time: at(20 * time.Hour), Histogram: h}, {Labels: up, Time: at(0), Value: 1}, {Labels: up, Time: at(20 * time.Hour), Value: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.SetGroups([]Group{{Name: "g", Rules: []Rule{
		{Record: &Record{Name: "twice", Expr: "2 * up"}},
		{Record: &Record{Name: "broken", Expr: `up + on() group_left() {__name__=~"up|twice"}`}},
		{Evaluator: copyOf(s.Store, "evaluator", "up +").Evaluator},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.EvalGroups(t.Context(), at(20*time.Hour)); err != nil {
		t.Fatal(err)
	}
	var failed []string
	for _, f := range s.Failures() {
		failed = append(failed, fmt.Sprint(f.Group, " ", f.Rule, " ", f.Evaluator))
	}
	if diff := cmp.Diff([]string{"g broken false", "g evaluator true"}, failed); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		expr string
		at   time.Duration
		want []ScratchSample
	}{
		{"twice", 20 * time.Hour, []ScratchSample{{Labels: labels.FromStrings("__name__", "twice"), Time: at(20 * time.Hour), Value: 4}}},
		{"scalar(up)", 0, []ScratchSample{{Time: at(0), Value: 1}}},
		{"sizes", 20 * time.Hour, []ScratchSample{{Labels: sizes, Time: at(20 * time.Hour), Histogram: h}}},
		{"none", 0, []ScratchSample{}},
	} {
		got, err := s.Vector(t.Context(), tt.expr, at(tt.at))
		if err != nil {
			t.Errorf("%s: %s", tt.expr, err)
		}
		if diff := cmp.Diff(tt.want, got, cmp.Comparer(labels.Equal), cmp.Comparer(func(a, b *histogram.FloatHistogram) bool {
			return a == b || a != nil && b != nil && a.Equals(b)
		})); diff != "" {
			t.Errorf("%s: %s", tt.expr, diff)
		}
	}
	if _, err := s.Vector(t.Context(), "up[1m]", at(0)); err == nil {
		t.Error("a range of samples is taken for a vector")
	}
	if err := s.Append(t.Context(), []ScratchSample{{Labels: up, Time: at(0), Value: math.Pi}}); err == nil {
		t.Error("a sample of the past is taken")
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
