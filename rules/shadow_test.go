package rules

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/actuators"
)

// TestShadowIsWhatActingWouldBe: where a demand is what it is at any size, and replicas are ready at once, the shadow of a rule
// that observes goes through the very sizes that the rule comes to when it acts, restarts included.
func TestShadowIsWhatActingWouldBe(t *testing.T) {
	changes := 0
	for seed := range uint64(100) {
		r := draft{rand.New(rand.NewPCG(seed, 7))}
		variants := seed%4 == 0
		text := "groups:\n- name: g\n  rules:\n  - scale: digits\n"
		if variants {
			text += "    variants:\n    - {name: small, target: {kind: process, name: small}, capacity: 1, price: '1', min: 0, max: 9}\n" +
				"    - {name: large, target: {kind: process, name: large}, capacity: 4, price: '3', min: 1, max: 5, interruptible: true}\n    cost: {max_interruptible_share: 0.6}\n"
		} else {
			text += "    target: {kind: process, name: digits}\n    max: 30\n"
		}
		text += fmt.Sprintf("    queries: {a: a, b: {expr: b, optional: true}}\n    signals: [{name: x, value: a, target_per_replica: %d}, {name: y, value: b, target_per_replica: 3, weight: 2}]\n", 1+r.IntN(9))
		text += fmt.Sprintf("    combine: %s\n    flap_budget: {reversals: %d, window: 10m}\n    behavior: {up: %s, down: %s}\n", pick(r, "max", "weighted"), 2+r.IntN(4), r.direction(), r.direction())
		rule := parseScale(t, text)

		at, acting, there := noon, State{}, actuators.State{Spec: 4, Ready: 4}
		sizes := []int{0, 1} // of the variants, that come to 4
		var shadow *shadowState
		for range 120 {
			at = at.Add(15 * time.Second)
			obs := observed(at, there.Spec, named("a", float64(r.IntN(60))), named("b", float64(r.IntN(40))))
			if r.IntN(6) == 0 {
				obs.Answers[r.IntN(2)].Fault = MetricStale
			}
			obs.Answers[1].Optional = true
			place := func(sizes []int) Observation {
				placed := obs
				placed.Replicas = there
				if variants {
					placed.Replicas = actuators.State{}
					for i, n := range sizes {
						placed.Variants = append(placed.Variants, actuators.State{Spec: n, Ready: n})
						placed.Replicas.Spec += n * rule.Variants[i].Capacity
					}
					placed.Replicas.Ready = placed.Replicas.Spec
				}
				return placed
			}
			seen := place([]int{0, 1})
			seen.Replicas = actuators.State{Spec: 4, Ready: 4} // nobody changes what is observed
			s, next := rule.shadow(seen, shadow, State{})
			d, state := Decide(rule, place(sizes), acting)
			if s.From != d.From || s.To != d.To || s.Text != d.Text {
				t.Fatalf("seed %d at %s: the shadow %d -> %d %s, acting %s\n%s", seed, at.Format(time.TimeOnly), s.From, s.To, s.Text, storyOf(d), text)
			}
			if diff := cmp.Diff(d.Reasons, s.Reasons); diff != "" {
				t.Fatalf("seed %d: %s", seed, diff)
			}
			if d.Action != Hold {
				changes++
			}
			acting, there.Spec, there.Ready = state.Applied(at, d.From, d.To), d.To, d.To
			for i, v := range d.Variants {
				sizes[i] = v.To
			}
			if shadow = next; r.IntN(5) == 0 {
				shadow = restarted(t, shadow, at)
			}
		}
	}
	if changes < 500 {
		t.Errorf("%d changes: too few to say anything", changes)
	}
}

// restarted is a shadow after the way through the file and back.
func restarted(t *testing.T, s *shadowState, at time.Time) *shadowState {
	t.Helper()
	saved := State{evaluated: at}.saved()
	saved.Shadow = s.saved()
	text, err := json.Marshal(savedMemory{Version: snapshotVersion, At: at, Ended: true, Targets: map[string]savedState{"process/digits": saved}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseSnapshot(text)
	if err != nil {
		t.Fatal(err)
	}
	return m.Targets["process/digits"].Shadow.state(at, m.Ended)
}

// TestShadowOfWhatIsMeasured: a shadow does not run away on what stays as it is because nothing is changed.
func TestShadowOfWhatIsMeasured(t *testing.T) {
	for _, tt := range []struct {
		name, rule string
		a          []float64 // what is measured, of four replicas
		b          float64
		want       string // the sizes that the shadow comes to
	}{
		{"a utilization", two("[{name: x, value: a, utilization: 0.5}]", ""), []float64{0.8, 0.8, 0.8}, 0, "7 7 7"},
		{"one that is as it should be", two("[{name: x, value: a, utilization: 0.5}]", ""), []float64{0.8, 0.5, 0.5}, 0, "7 4 4"},
		{"a step", two("[{name: x, value: a, target_per_replica: 10}]", "    when: [{if: b > 1, do: '+2'}]"), []float64{40, 40, 40}, 2, "6 6 6"},
		{"a demand", two("[{name: x, value: a, target_per_replica: 10}]", "    behavior: {up: {policies: [{replicas: 2, period: 15s}]}, down: {window: 0s}}"), []float64{100, 100, 100}, 0, "6 8 10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rule := strings.Replace(tt.rule, "    behavior: {up: {policies: []}, down: {window: 0s, policies: []}}\n", "", strings.Count(tt.rule, "behavior:")-1)
			var got []string
			var st *shadowState
			for i, a := range tt.a {
				var s *Shadow
				s, st = parseScale(t, rule).shadow(observed(noon.Add(time.Duration(i)*15*time.Second), 4, named("a", a), named("b", tt.b)), st, State{})
				got = append(got, fmt.Sprint(s.To))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestShadowInTheJournal: while a rule observes, each change of its shadow is a decision in the journal, and a series; once it
// acts there is none.
func TestShadowInTheJournal(t *testing.T) {
	text := rule("max: 8", "max: 8\n    behavior: {up: {policies: [{replicas: 2, period: 30s}]}, down: {window: 0s}}")
	b := newBench(t, text, true, State{})
	b.data.set(0, nil, 650)
	sees := func(at time.Time) (shadow float64) {
		t.Helper()
		samples, err := b.scaler.Eval(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			if s.Labels.Get("__name__") == "flyball_scale_shadow_replicas" {
				return s.Value
			}
		}
		return -1
	}
	var got []float64
	for i := range 6 {
		got = append(got, sees(noon.Add(time.Duration(i)*15*time.Second)))
	}
	if want := []float64{3, 3, 5, 5, 5, 5}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var told []string
	for _, d := range b.journal.kept {
		told = append(told, fmt.Sprintf("%d -> %d, %s %d -> %d", d.From, d.To, d.Shadow.Action, d.Shadow.From, d.Shadow.To))
	}
	if want := []string{"1 -> 3, up 1 -> 3", "1 -> 3, up 3 -> 5"}; !cmp.Equal(told, want) {
		t.Errorf("the journal has %q", told)
	}
	b.scaler.rule = parseScale(t, strings.Replace(text, "max: 8\n", "max: 8\n    mode: act\n", 1))
	if s := sees(noon.Add(2 * time.Minute)); s != -1 || b.scaler.Last().Shadow != nil || b.scaler.order[0].shadow != nil {
		t.Errorf("a rule that acts has a shadow of %g", s)
	}
}
