package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

func TestQuery(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, `queue{model="a"}`, t0, 3)
	put(t, s, `queue{model="b"}`, t0, 5)
	at := t0.Add(90 * time.Second)
	for _, tt := range []struct{ name, expr, want string }{
		{name: "vector", expr: `sort(queue)`, want: "{__name__=\"queue\", model=\"a\"} 3\n{__name__=\"queue\", model=\"b\"} 5"},
		{name: "empty", expr: `nothing`, want: ""},
		{name: "scalar", expr: `1 + 1`, want: "{} 2"},
		{name: "age", expr: `time() - max(timestamp(queue))`, want: "{} 90"},
		{name: "at modifier", expr: fmt.Sprintf(`sum(queue @ %d)`, t0.Unix()), want: "{} 8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ask(t, s, tt.expr, at); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
	got, err := s.Query(t.Context(), `queue{model="a"}`, at, 0)
	want := []rules.Sample{{Labels: labels.FromStrings("__name__", "queue", "model", "a"), Value: 3, Time: at}}
	if diff := cmp.Diff(want, got, cmp.Comparer(labels.Equal)); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	if got, err := s.Query(t.Context(), "nothing", at, 0); err != nil || got == nil || len(got) != 0 {
		t.Errorf("no series: %v, %v, want an empty slice", got, err)
	}
}

// TestQueryLookback: a series that has been silent for longer than the lookback, such as that of a replica which is gone, no
// longer counts; where all have, there is no answer.
func TestQueryLookback(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, `running{pod="gone"}`, t0, 90)
	put(t, s, `running{pod="alive"}`, t0.Add(time.Minute), 5)
	at := t0.Add(90 * time.Second)
	for lookback, want := range map[time.Duration]float64{0: 95, 5 * time.Minute: 95, 45 * time.Second: 5, 10 * time.Second: -1} {
		got, err := s.Query(t.Context(), "sum(running)", at, lookback)
		if err != nil {
			t.Fatal(err)
		}
		if want < 0 && len(got) != 0 || want >= 0 && (len(got) != 1 || got[0].Value != want) {
			t.Errorf("lookback %s: got %v, want %g", lookback, got, want)
		}
	}
}

func TestQueryErrors(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.MaxSamples = 50 })
	for i := range 100 {
		put(t, s, fmt.Sprintf(`many{i="%d"}`, i), t0, 1)
	}
	put(t, s, `left{a="1"}`, t0, 1)
	put(t, s, `right{a="1",b="1"}`, t0, 1)
	put(t, s, `right{a="1",b="2"}`, t0, 1)
	app := s.db.Appender(t.Context())
	if _, err := app.AppendHistogram(0, labels.FromStrings("__name__", "native"), t0.UnixMilli(), &histogram.Histogram{Count: 1, ZeroCount: 1}, nil); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, expr, want string }{
		{name: "syntax", expr: `sum(queue`, want: `query sum(queue: 1:10: parse error: unclosed left parenthesis`},
		{name: "type", expr: `rate(many)`, want: `query rate(many): 1:6: parse error: expected type range vector in call to function "rate", got instant vector`},
		{name: "range", expr: `left[5m]`, want: `query left[5m]: it gives a range of samples for each series: make one value of them, for example with rate or avg_over_time`},
		{name: "string", expr: `"x"`, want: `query "x": it gives a string: a query must give numbers`},
		{name: "too many samples", expr: `many`, want: `query many: it needs more than 50 samples at once: select fewer series or a shorter range`},
		{name: "duplicates", expr: `left * on (a) right`, want: `query left * on (a) right: found duplicate series for the match group {a="1"} on the right hand-side of the operation: [`},
		{name: "native histogram", expr: `native`, want: `query native: {__name__="native"} is a native histogram: take a number from it, for example with histogram_quantile`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.Query(t.Context(), tt.expr, t0, 0)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("%v, error %v, want %q", got, err, tt.want)
			}
		})
	}
	long := strings.Repeat("x", 1000) + "{"
	if _, err := s.Query(t.Context(), long, t0, 0); err == nil || len(err.Error()) > 300 {
		t.Errorf("a long expression is not shortened: %v", err)
	}
}

func TestQueryTimeout(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.QueryTimeout = time.Millisecond })
	put(t, s, "m", t0, 1)
	const slow = `sum_over_time((m)[1d:10ms])`
	_, err := s.Query(t.Context(), slow, t0, 0)
	if want := "query " + slow + ": it took longer than 1ms"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Query(ctx, "m", t0, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: error %v", err)
	}
}

func TestQueryRange(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 4 {
		put(t, s, "m", t0.Add(time.Duration(i)*time.Minute), float64(i))
	}
	got, err := s.QueryRange(t.Context(), "m * 2", t0, t0.Add(2*time.Minute), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	want := []Series{{Labels: labels.EmptyLabels(), Points: []Point{{Time: t0, Value: 0}, {Time: t0.Add(time.Minute), Value: 2}, {Time: t0.Add(2 * time.Minute), Value: 4}}}}
	if diff := cmp.Diff(want, got, cmp.Comparer(labels.Equal)); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		name string
		expr string
		end  time.Time
		step time.Duration
		want string
	}{
		{name: "step", expr: "m", end: t0, want: "query m: a step of 0s is too short: give 1ms or more"},
		{name: "backwards", expr: "m", end: t0.Add(-time.Second), step: time.Second, want: "query m: the range ends before it starts"},
		{name: "points", expr: "m", end: t0.Add(time.Hour), step: time.Millisecond, want: "query m: 3600001 points a series are more than 11000: give a longer step or a shorter range"},
		{name: "syntax", expr: "m{", end: t0, step: time.Second, want: "query m{: 1:3: parse error: unexpected end of input inside braces"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := s.QueryRange(t.Context(), tt.expr, t0, tt.end, tt.step); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestQueriesAndClose has queries under way while the store closes: each is answered or told that it is closed.
func TestQueriesAndClose(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, "m", t0, math.Pi)
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			for {
				got, err := s.Query(t.Context(), "sum(m)", t0, 0)
				if errors.Is(err, ErrClosed) {
					done <- nil
					return
				}
				if err != nil || len(got) != 1 {
					done <- fmt.Errorf("%v, %w", got, err)
					return
				}
			}
		}()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
