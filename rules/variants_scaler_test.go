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

const twoVariants = `groups:
- name: serving
  rules:
  - scale: embedder
    mode: act
    queries: {rps: rps, price: price}
    signals: [{name: rps, value: rps}]
    behavior: {up: {policies: []}, down: {window: 0s, policies: []}}
    variants:
    - {name: spot, target: {kind: process, name: cheap}, capacity: 40, price: price, max: 3, interruptible: true}
    - {name: od, target: {kind: process, name: dear}, capacity: 75, price: '1.21', min: 1, max: 3}
    cost: {max_interruptible_share: 0.3}
    flap_budget: {reversals: 100, window: 1m}
`

// refusing is a platform that refuses to change one target.
type refusing struct {
	*actuatortest.Fake
	name string
}

func (r *refusing) Apply(ctx context.Context, t actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	if t.Name == r.name {
		return actuators.Receipt{}, errors.New("no capacity")
	}
	return r.Fake.Apply(ctx, t, c)
}

// TestVariants: one rule, two targets. What grows is changed before what shrinks, a variant that refuses does not keep
// the other from growing, and nothing shrinks on the promise of one that did not come.
func TestVariants(t *testing.T) {
	fake := &refusing{Fake: &actuatortest.Fake{}}
	cheap, dear := actuators.Target{Kind: "process", Name: "cheap"}, actuators.Target{Kind: "process", Name: "dear"}
	fake.Resize(cheap, 0)
	fake.Resize(dear, 1)
	journal, memory := &pages{}, &Memory{}
	data := table{"rps": {{Value: 100}}, "price": {{Value: 0.32}}}
	for _, name := range []string{"rps", "price"} {
		data["max(timestamp("+name+"))"] = []Sample{{Value: float64(noon.Unix())}}
	}
	s := NewScaler(parseScale(t, twoVariants), ScalerOptions{
		Querier: data, Actuators: map[string]actuators.Actuator{"process": fake}, Journal: journal, Metrics: NewMetrics(prometheus.NewPedanticRegistry()),
		Memory: memory, Acting: true,
	})
	at := noon
	step := func(rps float64) string {
		t.Helper()
		at = at.Add(time.Second)
		data["rps"] = []Sample{{Value: rps}}
		if _, err := s.Eval(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		d := s.Last()
		var parts []string
		for _, v := range d.Variants {
			parts = append(parts, fmt.Sprintf("%s %d -> %d", v.Name, v.From, v.To))
		}
		return fmt.Sprintf("%d -> %d %s: %s%s", d.From, d.To, d.Result, strings.Join(parts, ", "), strings.TrimRight(" "+d.Error, " "))
	}
	for _, tt := range []struct {
		rps     float64
		refuses string
		want    string
	}{
		{115, "", "75 -> 150 applied: spot 0 -> 0, od 1 -> 2"}, // 0.3 of it is less than a spot replica
		{140, "", "150 -> 150 unchanged: spot 0 -> 0, od 2 -> 2"},
		{170, "", "150 -> 190 applied: spot 0 -> 1, od 2 -> 2"},
		{300, "", "190 -> 305 applied: spot 1 -> 2, od 2 -> 3"},
		{100, "", "305 -> 150 applied: spot 2 -> 0, od 3 -> 2"},
		{300, "dear", "150 -> 230 applied: spot 0 -> 2, od 2 -> 2 od: no capacity"},
		{300, "", "230 -> 305 applied: spot 2 -> 2, od 2 -> 3"},
		{160, "dear", "305 -> 265 applied: spot 2 -> 1, od 3 -> 3 od: no capacity"},
		{160, "cheap", "265 -> 190 applied: spot 1 -> 1, od 3 -> 2"},
		{70, "cheap", "190 -> 115 applied: spot 1 -> 1, od 2 -> 1 spot: no capacity"},
		{70, "cheap", "115 -> 115 error: spot 1 -> 1, od 1 -> 1 spot: no capacity"},
		{70, "", "115 -> 75 applied: spot 1 -> 0, od 1 -> 1"},
	} {
		fake.name = tt.refuses
		if diff := cmp.Diff(tt.want, step(tt.rps)); diff != "" {
			t.Error(diff)
		}
	}

	samples, err := s.Eval(t.Context(), at.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, sample := range samples {
		if name := sample.Labels.Get(labels.MetricName); strings.HasSuffix(name, "_desired_replicas") || strings.HasSuffix(name, "_usd_per_hour") {
			lines = append(lines, fmt.Sprintf("%s %s %g", name, sample.Labels.Get("target"), sample.Value))
		}
	}
	if diff := cmp.Diff([]string{
		"flyball_scale_desired_replicas process/cheap 0", "flyball_scale_desired_replicas process/dear 1",
		"flyball_scale_cost_usd_per_hour variants/embedder 1.21",
	}, lines); diff != "" {
		t.Error(diff)
	}
}

// TestVariantsRecorded: what the journal was told before the change says what was to be, also after a variant refused.
func TestVariantsRecorded(t *testing.T) {
	fake := &refusing{Fake: &actuatortest.Fake{}, name: "dear"}
	fake.Resize(actuators.Target{Kind: "process", Name: "dear"}, 1)
	journal := &pages{}
	at := []Sample{{Value: float64(noon.Unix())}}
	s := NewScaler(parseScale(t, twoVariants), ScalerOptions{
		Querier:   table{"rps": {{Value: 115}}, "price": {{Value: 0.32}}, "max(timestamp(rps))": at, "max(timestamp(price))": at},
		Actuators: map[string]actuators.Actuator{"process": fake}, Journal: journal, Metrics: NewMetrics(prometheus.NewPedanticRegistry()),
		Memory: &Memory{}, Acting: true,
	})
	if _, err := s.Eval(t.Context(), noon); err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, d := range journal.kept {
		told = append(told, fmt.Sprintf("%s od %d -> %d", d.Result, d.Variants[1].From, d.Variants[1].To))
	}
	if diff := cmp.Diff([]string{"applying od 1 -> 2", "error od 1 -> 1"}, told); diff != "" {
		t.Error(diff)
	}
}

// TestVariantsAfterRestart: each variant comes back at the size that it had, whatever order the journal tells it in.
func TestVariantsAfterRestart(t *testing.T) {
	start := &Decision{Time: noon, Rule: "embedder", Target: "process/cheap", Start: true, To: 1, Result: Applied}
	grown := &Decision{
		Time: noon.Add(time.Minute), Rule: "embedder", Target: "variants/embedder", From: 115, To: 305, Result: Applied,
		Variants: []Placement{{Target: "process/cheap", From: 1, To: 2}, {Target: "process/dear", From: 1, To: 3}},
	}
	refused := &Decision{
		Time: noon.Add(2 * time.Minute), Rule: "embedder", Target: "variants/embedder", From: 305, To: 345, Result: Failed,
		Variants: []Placement{{Target: "process/cheap", From: 2, To: 3}},
	}
	for _, order := range [][]*Decision{{start, grown, refused}, {grown, refused, start}} {
		memory := &Memory{}
		for _, d := range order {
			memory.Replay(d)
		}
		fake := &actuatortest.Fake{}
		s := NewScaler(parseScale(t, twoVariants), ScalerOptions{
			Querier: table{}, Actuators: map[string]actuators.Actuator{"process": fake}, Journal: &pages{}, Metrics: NewMetrics(prometheus.NewPedanticRegistry()),
			Memory: memory, Acting: true,
		})
		if _, err := s.Restore(t.Context(), noon.Add(time.Hour), "process", func(string) int { return 1 }); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{"cheap": 2, "dear": 3} {
			if state, err := fake.Observe(t.Context(), actuators.Target{Kind: "process", Name: name}); err != nil || state.Spec != want {
				t.Errorf("%s came back with %d replicas, %v; it had %d", name, state.Spec, err, want)
			}
		}
	}
}
