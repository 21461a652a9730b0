package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/store"
)

// BenchmarkGroupIteration is one iteration of a group of scale rules as it runs in production: real rules, the real
// engine and journal, an actuator in memory. Each rule asks one query and for its age.
func BenchmarkGroupIteration(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			o := store.DefaultOptions()
			o.Dir = filepath.Join(b.TempDir(), "tsdb")
			s, err := store.Open(o)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			j, err := journal.Open(filepath.Join(b.TempDir(), "decisions.jsonl"), journal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()

			data := store.Group{Name: "data", Interval: 15 * time.Second}
			scale := store.Group{Name: "scale", Interval: 15 * time.Second}
			var text strings.Builder
			text.WriteString("groups:\n- name: scale\n  rules:\n")
			for i := range n {
				data.Rules = append(data.Rules, store.Rule{Record: &store.Record{
					Name: "demand", Expr: fmt.Sprintf("vector(%d + time() %% 7)", 100+i%300), Labels: map[string]string{"model": fmt.Sprint("m", i)},
				}})
				fmt.Fprintf(&text, "  - scale: m%d\n    target: {kind: process, name: m%d}\n    mode: act\n    max: 8\n    queries: {demand: 'demand{model=\"m%d\"}'}\n    signals: [{name: load, value: demand, target_per_replica: 130}]\n", i, i, i)
			}
			file, err := (&rules.Reader{Defaults: rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 15 * time.Second}}).Parse("rules.yml", []byte(text.String()))
			if err != nil {
				b.Fatal(err)
			}
			fake := &actuatortest.Fake{}
			metrics, memory := rules.NewMetrics(prometheus.NewRegistry()), &rules.Memory{}
			for _, r := range file.Groups[0].Rules {
				fake.Resize(actuators.Target{Kind: "process", Name: r.Scale.Name}, 1)
				scale.Rules = append(scale.Rules, store.Rule{Evaluator: rules.NewScaler(r.Scale, rules.ScalerOptions{
					Querier: s, Actuators: map[string]actuators.Actuator{"process": fake}, Journal: j, Metrics: metrics, Memory: memory, Acting: true,
				})})
			}
			if err := s.SetGroups([]store.Group{data, scale}); err != nil {
				b.Fatal(err)
			}
			at := time.Now().Truncate(15 * time.Second)
			iterate := func() {
				at = at.Add(15 * time.Second)
				if n, err := s.EvalGroups(b.Context(), at); err != nil || n != 2 {
					b.Fatal(n, err)
				}
			}
			iterate() // the first one writes every rule's first decision, and scales
			iterate()
			b.ReportAllocs()
			var took time.Duration
			for b.Loop() {
				iterate()
				for _, g := range s.Groups() {
					if g.Name == "scale" {
						took += g.Duration
					}
				}
			}
			b.ReportMetric(took.Seconds()*1000/float64(b.N), "ms/scale-group")
			for _, g := range s.Groups() {
				for _, r := range g.Rules {
					if r.LastError != "" {
						b.Fatal(r.LastError)
					}
				}
			}
		})
	}
}

// BenchmarkForEach is one iteration of one rule that decides for 5,000 targets, which it finds in the answer of one vector
// query: the real store, engine and journal, an actuator in memory.
func BenchmarkForEach(b *testing.B) {
	const n = 5000
	o := store.DefaultOptions()
	o.Dir = filepath.Join(b.TempDir(), "tsdb")
	s, err := store.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	j, err := journal.Open(filepath.Join(b.TempDir(), "decisions.jsonl"), journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	data := store.Group{Name: "data", Interval: 15 * time.Second, Rules: []store.Rule{{Evaluator: demands(n)}}}
	text := `groups:
- name: scale
  rules:
  - scale: models
    for_each: {by: [model], limit: 5000}
    target: {kind: process, name: '{{ $labels.model }}'}
    mode: act
    max: 8
    queries: {demand: demand}
    signals: [{name: load, value: demand, target_per_replica: 130}]
`
	file, err := (&rules.Reader{Defaults: rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 15 * time.Second}}).Parse("rules.yml", []byte(text))
	if err != nil {
		b.Fatal(err)
	}
	fake := &actuatortest.Fake{}
	for i := range n {
		fake.Resize(actuators.Target{Kind: "process", Name: fmt.Sprint("m", i)}, 1)
	}
	scaler := rules.NewScaler(file.Groups[0].Rules[0].Scale, rules.ScalerOptions{
		Querier: s, Actuators: map[string]actuators.Actuator{"process": fake}, Journal: j,
		Metrics: rules.NewMetrics(prometheus.NewRegistry()), Memory: &rules.Memory{}, Acting: true,
	})
	scale := store.Group{Name: "scale", Interval: 15 * time.Second, Rules: []store.Rule{{Evaluator: scaler}}}
	if err := s.SetGroups([]store.Group{data, scale}); err != nil {
		b.Fatal(err)
	}
	at := time.Now().Truncate(15 * time.Second)
	var took time.Duration
	iterate := func() {
		at = at.Add(15 * time.Second)
		if n, err := s.EvalGroups(b.Context(), at); err != nil || n != 2 {
			b.Fatal(n, err)
		}
		for _, g := range s.Groups() {
			for _, r := range g.Rules {
				if r.LastError != "" {
					b.Fatal(r.LastError)
				}
			}
			if g.Name == "scale" {
				took += g.Duration
			}
		}
	}
	iterate()
	iterate()
	if found := len(scaler.Decisions()); found != n {
		b.Fatalf("%d targets", found)
	}
	took = 0
	began := cpuTime(b)
	b.ReportAllocs()
	for b.Loop() {
		iterate()
	}
	b.ReportMetric(took.Seconds()*1000/float64(b.N), "ms/scale-group")
	b.ReportMetric((cpuTime(b)-began).Seconds()*1000/float64(b.N), "cpu-ms/op") // what a machine that others use, too, takes from it
}

// cpuTime is what the process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// demands writes the demand of so many models.
type demands int

func (demands) Name() string { return "demands" }

func (n demands) Eval(_ context.Context, at time.Time) ([]rules.Sample, error) {
	samples := make([]rules.Sample, n)
	for i := range samples {
		samples[i] = rules.Sample{Labels: labels.FromStrings("__name__", "demand", "model", fmt.Sprint("m", i)), Value: float64(100 + i%300 + int(at.Unix()%7)), Time: at}
	}
	return samples, nil
}
