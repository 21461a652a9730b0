package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// named is a query's valid answer.
func named(name string, v float64) Answer {
	return Answer{Name: name, Value: &v, Series: 1, Confidence: 1}
}

func missing(name string) Answer {
	return Answer{Name: name, Fault: MetricMissing, Detail: "none"}
}

// two is a rule of two queries, a and b, without windows and rates; more is added to it.
func two(signals, more string) string {
	return `groups:
- name: serving
  rules:
  - scale: digits
    target: {kind: process, name: digits}
    max: 100
    queries: {a: a, b: b}
    behavior: {up: {policies: []}, down: {window: 0s, policies: []}}
    signals: ` + signals + "\n" + more
}

const both = "[{name: x, value: a, target_per_replica: 10, weight: 3}, {name: y, value: b, target_per_replica: 10}]"

// TestStages plays single evaluations through the stages that TestDecide does not reach.
func TestStages(t *testing.T) {
	unsure := named("a", 100)
	unsure.Confidence = 0.2
	part := named("a", 100)
	part.Fault, part.Detail, part.Partial, part.Confidence = MetricMissing, "1 series of 2 expected", true, 0.5
	blocking := missing("a")
	blocking.Block = true
	optional := missing("b")
	optional.Optional = true
	one := "[{name: x, value: a, target_per_replica: 10}]"

	for _, tt := range []struct {
		name    string
		rule    string
		current int
		a, b    Answer
		st      State
		want    string
	}{
		// combine
		{"max", two(both, ""), 5, named("a", 100), named("b", 20), State{}, "5 -> 10 AboveTarget: x 100 at 10 a replica needs 10"},
		{"by weight", two(both, "    combine: weighted"), 5, named("a", 100), named("b", 20), State{}, "5 -> 8 AboveTarget: by weight 8"},
		{"by weight, of those that are valid", two(both, "    combine: weighted"), 5, named("a", 100), missing("b"), State{}, "5 -> 10 AboveTarget, MetricMissing: by weight 10, b: none"},
		{"by weight and confidence", two(both, "    combine: weighted"), 5, unsure, named("b", 70), State{}, "5 -> 9 AboveTarget: by weight 9"},
		{"a step beside weights", two(both, "    combine: weighted\n    when: [{if: b > 10, do: '+9'}]"), 5, named("a", 100), named("b", 20), State{}, "5 -> 14 StepRule: b > 10: +9"},
		{"priority: a higher class alone", two(one, "    combine: priority\n    when: [{if: b > 10, do: '-1', priority: 2}]"), 5, named("a", 20), named("b", 20), State{}, "5 -> 4 StepRule: b > 10: -1"},
		{"priority: the highest class", two(one, "    combine: priority\n    when: [{if: b > 10, do: '-1', priority: 2}, {if: b > 11, do: '+1', priority: 1}, {if: b > 12, do: '-2', priority: 2}]"), 5, named("a", 20), named("b", 20), State{}, "5 -> 4 StepRule: b > 10: -1"},
		{"priority: the same class is joined with the signals", two(one, "    combine: priority\n    when: [{if: b > 10, do: '+1'}]"), 5, named("a", 100), named("b", 20), State{}, "5 -> 10 AboveTarget: x 100 at 10 a replica needs 10"},
		{"priority: a lower class gives way", two(one, "    combine: priority\n    when: [{if: b > 10, do: '+9', priority: -1}]"), 5, named("a", 50), named("b", 20), State{}, "5 -> 5 WithinTolerance: x 50 at 10 a replica needs 5"},
		{"priority: nothing of it on data that is missing", two(one, "    combine: priority\n    when: [{if: b > 10, do: '-1', priority: 2}]"), 5, missing("a"), named("b", 20), State{}, "5 -> 5 StepRule, MetricMissing: b > 10: -1, a: none"},
		{"a floor raises", two("[{name: x, value: a, target_per_replica: 10}, {name: y, value: b, target_per_replica: 10, role: floor}]", ""), 5, named("a", 20), named("b", 40), State{}, "5 -> 4 BelowTarget: y 40 at 10 a replica needs 4"},
		{"a floor never lowers", two("[{name: x, value: a, target_per_replica: 10}, {name: y, value: b, target_per_replica: 10, role: floor}]", ""), 5, named("a", 90), named("b", 40), State{}, "5 -> 9 AboveTarget: x 90 at 10 a replica needs 9"},
		{"a forecast raises", two(one[:len(one)-1]+", {name: y, forecast: demand, quantile: 0.9, target_per_replica: 10}]", ""), 3, named("a", 20), named("demand@0.9", 40), State{}, "3 -> 4 Forecast: y 40 at 10 a replica needs 4"},
		{"a forecast is not why the size falls", two(one[:len(one)-1]+", {name: y, forecast: demand, quantile: 0.9, target_per_replica: 10}]", ""), 6, named("a", 20), named("demand@0.9", 40), State{}, "6 -> 4 BelowTarget: y 40 at 10 a replica needs 4"},
		{"a forecast never lowers", two(one[:len(one)-1]+", {name: y, forecast: demand, quantile: 0.9, target_per_replica: 10}]", ""), 5, named("a", 90), named("demand@0.9", 40), State{}, "5 -> 9 AboveTarget: x 90 at 10 a replica needs 9"},
		{"a floor alone", two("[{name: y, value: b, target_per_replica: 10, role: floor}]", ""), 5, named("a", 1), named("b", 20), State{}, "5 -> 5 WithinTolerance"},

		// sizing
		{"utilization", two("[{name: busy, value: a, utilization: 0.5}]", ""), 4, named("a", 0.9), named("b", 0), State{}, "4 -> 8 AboveTarget: busy 0.9 at 0.5 needs 8"},
		{"utilization within its tolerance", two("[{name: busy, value: a, utilization: 0.5}]", ""), 4, named("a", 0.54), named("b", 0), State{}, "4 -> 4 WithinTolerance: busy 0.54 at 0.5 needs 4"},
		{"queueing", two("[{name: rps, value: a, service_rate: 10, wait: 200ms, goal: 0.95, tolerance: 0}]", ""), 10, named("a", 100), named("b", 0), State{}, "10 -> 12 AboveTarget: rps 100 at 10/s a replica and 0.2s wait needs 12"},
		{"queueing at a rate that a query knows", two("[{name: rps, value: a, service_rate: b * 2, wait: 200ms, goal: 0.95}]", ""), 5, named("a", 100), named("b", 5), State{}, "5 -> 12 AboveTarget: rps 100 at 10/s a replica and 0.2s wait needs 12"},
		{"queueing at no rate", two("[{name: rps, value: a, service_rate: b, wait: 200ms}]", ""), 5, named("a", 100), named("b", 0), State{}, "5 -> 5 MetricNaN: rps is not a number"},

		// gate
		{"part of a demand asks for more", two(one, ""), 5, part, named("b", 0), State{}, "5 -> 10 AboveTarget, MetricMissing: x 100 at 10 a replica needs 10, a: 1 series of 2 expected"},
		{"and not for less", two(one, ""), 20, part, named("b", 0), State{}, "20 -> 20 WithinTolerance, MetricMissing: x 100 at 10 a replica needs 20, a: 1 series of 2 expected"},
		{"not sure enough to go down", two(one, ""), 20, func() Answer { a := unsure; a.Confidence = 0.79; return a }(), named("b", 0), State{}, "20 -> 20 BelowTarget, LowConfidence: x 100 at 10 a replica needs 10, confidence 0.79 is below 0.8"},
		{"sure enough to go down", two(one, ""), 20, func() Answer { a := unsure; a.Confidence = 0.8; return a }(), named("b", 0), State{}, "20 -> 10 BelowTarget: x 100 at 10 a replica needs 10"},
		{"not sure enough to go up", two(one, ""), 5, unsure, named("b", 0), State{}, "5 -> 5 AboveTarget, LowConfidence: x 100 at 10 a replica needs 10, confidence 0.2 is below 0.3"},
		{"a step is sure enough by itself", two(one, "    when: [{if: b > 10, do: '+9'}]"), 5, unsure, named("b", 20), State{}, "5 -> 14 StepRule: b > 10: +9"},
		{"and no further than the step asks for", two(one, "    when: [{if: b > 10, do: '+2'}]"), 5, unsure, named("b", 20), State{}, "5 -> 7 AboveTarget, LowConfidence: x 100 at 10 a replica needs 10, confidence 0.2 is below 0.3"},
		{"a signal that is not a number keeps from going down", two("[{name: x, value: a / (replicas - 20), target_per_replica: 10}, {name: y, value: b, target_per_replica: 10}]", "    min_confidence: {down: 0}"), 20, named("a", 0), named("b", 20), State{}, "20 -> 20 BelowTarget, MetricNaN: y 20 at 10 a replica needs 2, x is not a number"},
		{"what may be missing takes no confidence", two(both, "    min_confidence: {down: 1}"), 20, named("a", 100), optional, State{}, "20 -> 10 BelowTarget, MetricMissing: x 100 at 10 a replica needs 10, b: none"},
		{"a query that blocks", two(both, "    min_confidence: {up: 0.2}"), 5, blocking, named("b", 100), State{}, "5 -> 5 AboveTarget, MetricMissing: y 100 at 10 a replica needs 10, a: none"},
		{"one that only holds", two(both, "    min_confidence: {up: 0.2}"), 5, missing("a"), named("b", 100), State{}, "5 -> 10 AboveTarget, MetricMissing: y 100 at 10 a replica needs 10, a: none"},
		{"on_missing.up", two(both, "    min_confidence: {up: 0.2}\n    on_missing: {up: hold}"), 5, missing("a"), named("b", 100), State{}, "5 -> 5 AboveTarget, MetricMissing: y 100 at 10 a replica needs 10, a: none"},

		// fallback
		{"not yet", two(one, "    on_missing: {after: 10m, fallback: 'max(replicas, 8)'}"), 5, missing("a"), named("b", 0), State{missingSince: noon.Add(-9 * time.Minute)}, "5 -> 5 MetricMissing: a: none"},
		{"now", two(one, "    on_missing: {after: 10m, fallback: 'max(replicas, 8)'}"), 5, missing("a"), named("b", 0), State{missingSince: noon.Add(-10 * time.Minute)}, "5 -> 8 MetricMissing: a: none, the fallback after 10m without data: 8"},
		{"it raises only", two(one, "    on_missing: {after: 10m, fallback: '3'}"), 5, missing("a"), named("b", 0), State{missingSince: noon.Add(-10 * time.Minute)}, "5 -> 5 MetricMissing: a: none"},
		{"unless its author says that it may lower", two(one, "    on_missing: {after: 10m, fallback: '3', down: fallback}"), 5, missing("a"), named("b", 0), State{missingSince: noon.Add(-10 * time.Minute)}, "5 -> 3 MetricMissing: a: none, the fallback after 10m without data: 3"},
		{"it stays for a while", two(one, "    on_missing: {after: 10m, fallback: '8'}"), 8, named("a", 20), named("b", 0), State{fallback: new(8), good: 1}, "8 -> 8 BelowTarget: x 20 at 10 a replica needs 2, the fallback, until the data has been good for 3 evaluations: 8"},
		{"it does not lower once the data is back", two(one, "    on_missing: {after: 10m, fallback: '3', down: fallback}"), 8, named("a", 60), named("b", 0), State{fallback: new(3), good: 1}, "8 -> 6 BelowTarget: x 60 at 10 a replica needs 6"},
		{"and then ends", two(one, "    on_missing: {after: 10m, fallback: '8'}"), 8, named("a", 20), named("b", 0), State{fallback: new(8), good: 2}, "8 -> 2 BelowTarget: x 20 at 10 a replica needs 2"},

		// panic
		{"panic", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""), 2, named("a", 20), named("b", 40), State{}, "2 -> 4 Panic: x 40 at 10 a replica needs 4 in a panic"},
		{"not enough of one", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""), 2, named("a", 20), named("b", 30), State{}, "2 -> 2 WithinTolerance: x 20 at 10 a replica needs 2"},
		{"one that goes on keeps the size", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""), 6, named("a", 20), named("b", 20), State{panics: map[string]panicked{"x": {noon.Add(-59 * time.Second), 5}}}, "6 -> 6 WithinTolerance: x asked for 5 in a panic"},
		{"one that goes on asks for the most that it has", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""), 4, named("a", 20), named("b", 20), State{panics: map[string]panicked{"x": {noon.Add(-59 * time.Second), 9}}}, "4 -> 9 Panic: x asked for 9 in a panic"},
		{"a panic does not wait for surer data", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""), 2, unsure, named("b", 90), State{}, "2 -> 10 AboveTarget: x 90 at 10 a replica needs 9 in a panic"},
		{"and one that is over does not", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""), 6, named("a", 20), named("b", 20), State{panics: map[string]panicked{"x": {noon.Add(-time.Minute), 5}}}, "6 -> 2 BelowTarget: x 20 at 10 a replica needs 2"},

		// flap
		{"a step down to where a signal would go up again", two(one, "    combine: priority\n    when: [{if: b > 10, do: '-5', priority: 2}]"), 10, named("a", 100), named("b", 20), State{}, "10 -> 10 StepRule, ProjectionWouldFlap: b > 10: -5, 5 would have to go up again"},
		{"as far down as it would not", two(one, "    combine: priority\n    when: [{if: b > 10, do: '-5', priority: 2}]"), 10, named("a", 80), named("b", 20), State{}, "10 -> 8 StepRule, ProjectionWouldFlap: b > 10: -5, 5 would have to go up again"},
		{"no turn left for the way back", two(one, ""), 10, named("a", 20), named("b", 0), State{changes: []change{{at: noon.Add(-time.Hour), from: 1, to: 10}, {at: noon.Add(-20 * time.Minute), from: 10, to: 5}, {at: noon.Add(-10 * time.Minute), from: 5, to: 10}}}, "10 -> 10 BelowTarget, FlapBudget: x 20 at 10 a replica needs 2, 2 turns in the last 30m, and one more must be left for the way back up"},
		{"a turn that is just outside of the window", two(one, ""), 10, named("a", 20), named("b", 0), State{changes: []change{{at: noon.Add(-time.Hour), from: 5, to: 1}, {at: noon.Add(-30 * time.Minute), from: 1, to: 10}}}, "10 -> 2 BelowTarget: x 20 at 10 a replica needs 2"},
		{"further down is no turn", two(one, ""), 10, named("a", 20), named("b", 0), State{changes: []change{{at: noon.Add(-3 * time.Minute), from: 1, to: 12}, {at: noon.Add(-2 * time.Minute), from: 12, to: 10}}}, "10 -> 2 BelowTarget: x 20 at 10 a replica needs 2"},
		{"up is never kept back", two(one, ""), 2, named("a", 90), named("b", 0), State{changes: []change{{at: noon.Add(-5 * time.Minute), from: 1, to: 5}, {at: noon.Add(-4 * time.Minute), from: 5, to: 1}, {at: noon.Add(-3 * time.Minute), from: 1, to: 5}, {at: noon.Add(-2 * time.Minute), from: 5, to: 2}}}, "2 -> 9 AboveTarget: x 90 at 10 a replica needs 9"},

		// bounds
		{"a schedule", two(one, "    schedule: [{cron: '0 7 * * *', until: '0 20 * * *', min: 6}]"), 5, named("a", 20), named("b", 0), State{}, "5 -> 6 BelowTarget, Schedule: x 20 at 10 a replica needs 2, at least 6 from 0 7 * * * UTC"},
		{"a schedule that does not hold", two(one, "    schedule: [{cron: '0 13 * * *', until: '0 20 * * *', min: 6}]"), 5, named("a", 20), named("b", 0), State{}, "5 -> 2 BelowTarget: x 20 at 10 a replica needs 2"},
		{"a schedule's max", two(one, "    schedule: [{cron: '0 12 * * *', for: 1h, max: 7}]"), 5, named("a", 90), named("b", 0), State{}, "5 -> 7 AboveTarget, Schedule: x 90 at 10 a replica needs 9, at most 7 from 0 12 * * * UTC"},
		{"not on data that is missing", two(one, "    schedule: [{cron: '0 12 * * *', for: 1h, max: 7}]"), 9, missing("a"), named("b", 0), State{}, "9 -> 9 MetricMissing: a: none"},
		{"a constraint", two(one, "    constraints: [{if: b > 10, max: 7, reason: the pool is full}]"), 5, named("a", 90), named("b", 20), State{}, "5 -> 7 AboveTarget, MaxReplicas: x 90 at 10 a replica needs 9, at most 7 while the pool is full"},
		{"one that held last, of which nothing is known now", two(one, "    constraints: [{if: b > 10, max: 7}]"), 5, named("a", 90), optional, State{constraints: map[string]bool{"b > 10": true}}, "5 -> 7 AboveTarget, MetricMissing, MaxReplicas: x 90 at 10 a replica needs 9, b: none, at most 7 while b > 10"},
		{"a constraint's min", two(one, "    constraints: [{if: b > 10, min: 7}]"), 5, named("a", 50), named("b", 20), State{}, "5 -> 7 WithinTolerance, MinReplicas: x 50 at 10 a replica needs 5, at least 7 while b > 10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := Decide(parseScale(t, tt.rule), observed(noon, tt.current, tt.a, tt.b), tt.st)
			if diff := cmp.Diff(tt.want, storyOf(d)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func storyOf(d Decision) string {
	text := story(d)
	if d.Text == "" {
		text = text[:len(text)-2]
	}
	return text
}

// TestTurnsOfBefore: turns that a policy's longer period keeps in memory do not count for the flap budget.
func TestTurnsOfBefore(t *testing.T) {
	text := strings.Replace(two("[{name: x, value: a, target_per_replica: 10}]", "    flap_budget: {reversals: 2, window: 10m}"), "window: 0s, policies: []", "window: 0s, policies: [{replicas: 50, period: 2h}]", 1)
	st := State{}.Applied(noon.Add(-50*time.Minute), 20, 10).Applied(noon.Add(-40*time.Minute), 10, 20)
	if d, _ := Decide(parseScale(t, text), observed(noon, 20, named("a", 100), named("b", 0)), st); d.To != 10 {
		t.Errorf("%s", story(d))
	}
}

// TestStepStartsAgain: the time that a condition has held does not run while nobody knows whether it does.
func TestStepStartsAgain(t *testing.T) {
	r := parseScale(t, two("[{name: x, value: a, target_per_replica: 10}]", "    when: [{if: b > 10, do: '+5', for: 1m}]"))
	st := State{}
	for i, b := range []Answer{named("b", 20), named("b", 20), missing("b"), named("b", 20), named("b", 20), named("b", 20), named("b", 20)} {
		var d Decision
		d, st = Decide(r, observed(noon.Add(time.Duration(i)*20*time.Second), 5, named("a", 50), b), st)
		if want := i == 6; d.Steps[0].Fired != want {
			t.Errorf("evaluation %d: fired %v, want %v", i, d.Steps[0].Fired, want)
		}
	}
}

// TestCaps: a hard cap keeps the size to what is left, though not below the floors; a soft one says so.
func TestCaps(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cap     Cap
		current int
		a       Answer
		want    string
	}{
		{"up", Cap{Budget: "gpu", Hard: true, USDPerHour: 12}, 5, named("a", 90), "5 -> 6 AboveTarget, BudgetCap: x 90 at 10 a replica needs 9, budget gpu leaves 12 USD an hour"},
		{"down", Cap{Budget: "gpu", Hard: true, USDPerHour: 7}, 5, named("a", 90), "5 -> 3 AboveTarget, BudgetCap: x 90 at 10 a replica needs 9, budget gpu leaves 7 USD an hour"},
		{"no lower than its floor", Cap{Budget: "gpu", Hard: true, USDPerHour: 0, Floor: 4}, 5, named("a", 90), "5 -> 4 AboveTarget, BudgetCap: x 90 at 10 a replica needs 9, budget gpu leaves 0 USD an hour"},
		{"no lower than min", Cap{Budget: "gpu", Hard: true, USDPerHour: 0}, 5, named("a", 90), "5 -> 1 AboveTarget, BudgetCap: x 90 at 10 a replica needs 9, budget gpu leaves 0 USD an hour"},
		{"not down on data that is missing", Cap{Budget: "gpu", Hard: true, USDPerHour: 7}, 5, missing("a"), "5 -> 5 MetricMissing: a: none"},
		{"soft", Cap{Budget: "gpu"}, 5, named("a", 90), "5 -> 9 AboveTarget, BudgetCap: x 90 at 10 a replica needs 9, budget gpu is used up"},
		{"not known", Cap{Budget: "gpu", Hard: true, Fault: MetricMissing}, 5, named("a", 90), "5 -> 9 AboveTarget, BudgetCap: x 90 at 10 a replica needs 9, what budget gpu leaves is not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parseScale(t, two("[{name: x, value: a, target_per_replica: 10}]", "    price: b"))
			obs := observed(noon, tt.current, tt.a, named("b", 2))
			obs.Caps = []Cap{tt.cap}
			d, _ := Decide(r, obs, State{})
			if diff := cmp.Diff(tt.want, storyOf(d)); diff != "" {
				t.Error(diff)
			}
			if want := (CostRecord{2 * float64(d.From), 2 * float64(d.To)}); d.Cost == nil || *d.Cost != want {
				t.Errorf("cost %+v, want %+v", d.Cost, want)
			}
		})
	}
}

func TestMeasuredStartup(t *testing.T) {
	r := parseScale(t, two("[{name: x, value: a, target_per_replica: 10}]", "    startup: auto"))
	st := State{}
	if got := st.startup(r.Startup); got != 2*time.Minute {
		t.Errorf("before any: %s", got)
	}
	now := noon
	for i := range 10 {
		now = now.Add(time.Hour)
		st = st.Applied(now, 1, 2)
		for _, ready := range []int{1, 1, 2} {
			now = now.Add(time.Duration(10+i) * time.Second)
			obs := observed(now, 2, named("a", 20), named("b", 0))
			obs.Replicas.Ready, obs.Replicas.Pending = ready, 2-ready
			var d Decision
			d, st = Decide(r, obs, st)
			if i < 2 && d.StartupSeconds != 0 || i == 3 && ready == 1 && d.StartupSeconds != 36 {
				t.Errorf("after %d starts a decision has %g s", i, d.StartupSeconds)
			}
		}
	}
	if got, want := st.startup(r.Startup), 3*18*time.Second; got != want { // the ninth of 30s, 33s, ... 57s
		t.Errorf("got %s, want %s", got, want)
	}
	if got := fmt.Sprint(st.starts); got != "[30s 33s 36s 39s 42s 45s 48s 51s 54s 57s]" {
		t.Errorf("starts %s", got)
	}
}
