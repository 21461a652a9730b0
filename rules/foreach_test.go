package rules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

// table answers each query by its text, the same at all times.
type table map[string][]Sample

func (q table) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]Sample, error) {
	samples, known := q[expr]
	if !known {
		return nil, fmt.Errorf("no answer to %s", expr)
	}
	return samples, nil
}

// of are samples of a label's values.
func of(label string, values map[string]float64) (all []Sample) {
	for _, value := range sortedKeys(values) {
		all = append(all, Sample{Labels: labels.FromStrings(label, value), Value: values[value]})
	}
	return all
}

const eachModel = `groups:
- name: serving
  rules:
  - scale: models
    for_each: {by: [model], forget: 10m, limit: 3}
    target: {kind: process, name: 'llm-{{ $labels.model }}'}
    mode: act
    max: 8
    queries:
      demand: sum by (model) (requests)
      share: scalar(fleet)
    behavior: {up: {policies: []}, down: {window: 0s, policies: []}}
    signals:
    - {name: load, value: demand * share, target_per_replica: 10}
    when:
    - {if: labels.model == 'b' && demand > 15, do: '+3'}
`

func newEach(t testing.TB, text string, data Querier, fake *actuatortest.Fake) *Scaler {
	t.Helper()
	return NewScaler(parseScale(t, text), ScalerOptions{
		Querier: data, Actuators: map[string]actuators.Actuator{"process": fake}, Journal: &pages{},
		Metrics: NewMetrics(prometheus.NewPedanticRegistry()), Memory: &Memory{}, Acting: true,
	})
}

func told(all []*Decision) (lines []string) {
	for _, d := range all {
		lines = append(lines, fmt.Sprintf("%s %v %s", d.Target, d.Labels, storyOf(*d)))
	}
	return lines
}

// TestForEach: one rule decides for each target that its series name, on the target's own share of the answers.
func TestForEach(t *testing.T) {
	fake := &actuatortest.Fake{}
	for _, name := range []string{"llm-a", "llm-b", "llm-c"} {
		fake.Resize(actuators.Target{Kind: "process", Name: name}, 1)
	}
	stamps := func(ages map[string]float64) []Sample {
		all := map[string]float64{}
		for name, age := range ages {
			all[name] = float64(noon.Unix()) - age
		}
		return of("model", all)
	}
	const demandAge, shareAge = `max by (model) (timestamp(requests))`, `max by (model) (timestamp(fleet))`
	data := table{
		"sum by (model) (requests)": of("model", map[string]float64{"a": 30, "b": 20}),
		"scalar(fleet)":             {{Value: 1}},
		demandAge:                   stamps(map[string]float64{"a": 5, "b": 5}),
		shareAge:                    {{Value: float64(noon.Unix()) - 5}},
	}
	s := newEach(t, eachModel, data, fake)
	eval := func(at time.Time) {
		t.Helper()
		if _, err := s.Eval(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	eval(noon)
	if diff := cmp.Diff([]string{
		"process/llm-a map[model:a] 1 -> 3 AboveTarget: load 30 at 10 a replica needs 3",
		"process/llm-b map[model:b] 1 -> 4 StepRule: labels.model == 'b' && demand > 15: +3",
	}, told(s.Decisions())); diff != "" {
		t.Error(diff)
	}

	// One whose series have gone is held, as one whose data is old; the others go on, and a new one comes in.
	data["sum by (model) (requests)"] = of("model", map[string]float64{"a": 10, "c": 20})
	data[demandAge] = stamps(map[string]float64{"a": 50, "c": 5})
	eval(noon.Add(time.Minute).Add(-time.Minute + time.Second))
	if diff := cmp.Diff([]string{
		"process/llm-a map[model:a] 3 -> 3 MetricStale: demand: the newest sample is 51s old, stale after 45s",
		"process/llm-b map[model:b] 4 -> 4 MetricMissing: demand: the query has no answer",
		"process/llm-c map[model:c] 1 -> 2 AboveTarget: load 20 at 10 a replica needs 2",
	}, told(s.Decisions())); diff != "" {
		t.Error(diff)
	}

	// What is shared counts for all.
	data["scalar(fleet)"] = nil
	eval(noon.Add(2 * time.Second))
	for _, line := range told(s.Decisions()) {
		if !strings.Contains(line, "share: the query has no answer") {
			t.Error(line)
		}
	}

	// More targets than the limit: nothing is decided for any of them.
	data["sum by (model) (requests)"] = of("model", map[string]float64{"a": 10, "b": 1, "c": 20, "d": 1})
	if _, err := s.Eval(t.Context(), noon.Add(3*time.Second)); err == nil || !strings.Contains(err.Error(), "finds 4 targets, and its limit is 3") {
		t.Errorf("got %v", err)
	}

	// What no series names for long is left alone.
	data["sum by (model) (requests)"] = of("model", map[string]float64{"a": 10})
	eval(noon.Add(time.Hour))
	if got := len(s.Decisions()); got != 1 {
		t.Errorf("%d targets", got)
	}
	state, err := fake.Observe(t.Context(), actuators.Target{Kind: "process", Name: "llm-c"})
	if err != nil || state.Spec != 2 {
		t.Errorf("the one that was forgotten has %d replicas, %v", state.Spec, err)
	}
}

func TestForEachNames(t *testing.T) {
	for _, tt := range []struct{ name, by, target, value, want string }{
		{"not a name", "[model]", "llm-{{ $labels.model }}", "../etc passwd", "is none: expected letters"},
		{"two of the same", "[model]", "{{ if $labels.model }}all{{ end }}", "a", "gives the name process/all to two targets"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.NewReplacer("[model]", tt.by, "llm-{{ $labels.model }}", tt.target).Replace(eachModel)
			data := table{"sum by (model) (requests)": of("model", map[string]float64{tt.value: 1, "z": 1}), "scalar(fleet)": {{Value: 1}}}
			_, err := newEach(t, text, data, &actuatortest.Fake{}).Eval(t.Context(), noon)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("claimed by another rule", func(t *testing.T) {
		data := table{"sum by (model) (requests)": of("model", map[string]float64{"a": 1}), "scalar(fleet)": {{Value: 1}}}
		s := newEach(t, eachModel, data, &actuatortest.Fake{})
		s.opts.Claim = func(*Scale, actuators.Target) error { return errors.New("it is another's") }
		if _, err := s.Eval(t.Context(), noon); err == nil || !strings.Contains(err.Error(), "it is another's") {
			t.Errorf("got %v", err)
		}
	})
}

// BenchmarkForEach decides for many targets over one answer.
func BenchmarkForEach(b *testing.B) {
	for _, n := range []int{1, 100, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			fake := &actuatortest.Fake{}
			values, ages := map[string]float64{}, map[string]float64{}
			for i := range n {
				name := fmt.Sprintf("m%04d", i)
				values[name], ages[name] = 10, float64(noon.Unix())
				fake.Resize(actuators.Target{Kind: "process", Name: "llm-" + name}, 1)
			}
			data := table{
				"sum by (model) (requests)": of("model", values), "scalar(fleet)": {{Value: 1}},
				`max by (model) (timestamp(requests))`: of("model", ages), `max by (model) (timestamp(fleet))`: {{Value: float64(noon.Unix())}},
			}
			s := newEach(b, strings.Replace(eachModel, "limit: 3", "limit: 5000", 1), data, fake)
			b.ReportAllocs()
			at := noon
			for b.Loop() {
				at = at.Add(time.Second)
				if _, err := s.Eval(b.Context(), at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
