package store

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	promrules "github.com/prometheus/prometheus/rules"

	"flyball/rules"
)

// history fills the store with an hour of n series at 15 s, and returns the time of the last sample.
func history(b *testing.B, s *Store, n int) time.Time {
	b.Helper()
	at := t0
	for range 240 {
		at = at.Add(15 * time.Second)
		app := s.db.Appender(b.Context())
		for i := range n {
			if _, err := app.Append(0, labels.FromStrings("__name__", "queue", "model", fmt.Sprint(i)), at.UnixMilli(), float64(i)); err != nil {
				b.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	return at
}

// BenchmarkGroupIteration is one evaluation of a group over a store with an hour of 1,000 series.
func BenchmarkGroupIteration(b *testing.B) {
	evaluators := func(s *Store, n int) []Rule {
		var rs []Rule
		for i := range n {
			expr := fmt.Sprintf(`queue{model="%d"}`, i)
			out := labels.FromStrings("__name__", "decided", "rule", fmt.Sprint(i))
			rs = append(rs, Rule{Evaluator: &evaluator{name: fmt.Sprint("e", i), eval: func(ctx context.Context, at time.Time) ([]rules.Sample, error) {
				got, err := s.Query(ctx, expr, at, 0)
				if err != nil {
					return nil, err
				}
				return []rules.Sample{{Labels: out, Value: got[0].Value}}, nil
			}}})
		}
		return rs
	}
	records := func(_ *Store, n int) []Rule {
		var rs []Rule
		for i := range n {
			rs = append(rs, record("decided", fmt.Sprintf(`queue{model="%d"}`, i)))
		}
		return rs
	}
	for _, bb := range []struct {
		name  string
		n     int
		rules func(*Store, int) []Rule
	}{
		{"evaluators=1", 1, evaluators},
		{"evaluators=100", 100, evaluators},
		{"evaluators=1000", 1000, evaluators},
		{"records=1000", 1000, records},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := open(b, b.TempDir())
			at := history(b, s, 1000)
			setGroups(b, s, Group{Name: "g", Interval: time.Millisecond, Rules: bb.rules(s, bb.n)})
			b.ReportAllocs()
			for b.Loop() {
				at = at.Add(time.Millisecond)
				if n, err := s.EvalGroups(b.Context(), at); err != nil || n != 1 {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/op")
			for _, r := range s.Groups()[0].Rules {
				if r.Health != "ok" {
					b.Fatalf("%s: %s", r.Name, r.LastError)
				}
			}
		})
	}
}

// BenchmarkOpen is what opening a store costs, and what an open one without series holds in memory.
func BenchmarkOpen(b *testing.B) {
	b.ReportAllocs()
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		opts := DefaultOptions()
		opts.Dir = b.TempDir()
		s, err := Open(opts)
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(after.HeapAlloc)-float64(before.HeapAlloc), "heap-B")
}

// BenchmarkRecordRules is one evaluation of 5,000 record rules, in turn by a group of ours and by Prometheus's own group over a
// store with the same data. The ratio is how many times as fast ours is.
func BenchmarkRecordRules(b *testing.B) {
	const n = 5000
	ours, theirs := open(b, b.TempDir()), open(b, b.TempDir())
	at := history(b, ours, 1000)
	history(b, theirs, 1000)
	group := Group{Name: "g", Interval: time.Second}
	var plain []promrules.Rule
	for i := range n {
		expr := fmt.Sprintf(`avg_over_time(queue{model="%d"}[5m]) * 2`, i%1000)
		group.Rules = append(group.Rules, Rule{Record: &Record{Name: fmt.Sprint("decided", i/1000), Expr: expr}})
		parsed, err := theirs.parser.ParseExpr(expr)
		if err != nil {
			b.Fatal(err)
		}
		plain = append(plain, promrules.NewRecordingRule(fmt.Sprint("decided", i/1000), parsed, labels.EmptyLabels()))
	}
	setGroups(b, ours, group)
	prometheusGroup := promrules.NewGroup(promrules.GroupOptions{
		Name: "g", Interval: time.Second, Rules: plain, Opts: &promrules.ManagerOptions{
			Context: b.Context(), Appendable: theirs.db, Queryable: theirs.db, QueryFunc: promrules.EngineQueryFunc(theirs.engine, theirs.db),
			Logger: slog.New(slog.DiscardHandler), Metrics: promrules.NewGroupMetrics(prometheus.NewRegistry()), Parser: theirs.parser,
		},
	})
	var took [2]time.Duration
	evaluate := func() {
		at = at.Add(time.Second)
		began := time.Now()
		if n, err := ours.EvalGroups(b.Context(), at); err != nil || n != 1 {
			b.Fatal(n, err)
		}
		between := time.Now()
		promrules.DefaultEvalIterationFunc(b.Context(), prometheusGroup, at)
		took[0] += between.Sub(began)
		took[1] += time.Since(between)
	}
	evaluate() // the first one makes the series
	took = [2]time.Duration{}
	b.ReportAllocs()
	for b.Loop() {
		evaluate()
	}
	b.ReportMetric(took[0].Seconds()*1000/float64(b.N), "ms/ours")
	b.ReportMetric(took[1].Seconds()*1000/float64(b.N), "ms/prometheus")
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "ratio")
	for _, s := range []*Store{ours, theirs} {
		if got := ask(b, s, "count({__name__=~\"decided.*\"})", at); got != "{} 5000" {
			b.Fatal(got)
		}
	}
}
