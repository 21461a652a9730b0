package rulestest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
	"flyball/rules"
	"flyball/rules/source"
)

// targets are the simulated targets of a test.
type targets struct {
	path   string
	models map[string]TargetModel
	used   map[string]bool // keys of models

	simulator *simulator
}

// newTargets notes models that are of no rule and no target. Targets that for_each finds are not known yet.
func newTargets(d *source.Decoder, path string, models map[string]TargetModel, scales []*rules.Scale, start time.Time) *targets {
	t := &targets{path: path, models: models, used: map[string]bool{}, simulator: newSimulator(start)}
	var known []string
	found := false // by for_each
	for _, s := range scales {
		known = append(known, s.Name)
		found = found || s.ForEach != nil
		all, _ := s.Targets()
		for _, target := range all {
			known = append(known, target.String(), target.Name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(models)) {
		at := path + "." + key
		if !found && !slices.Contains(known, key) {
			d.FaultAt(at, 0, "no scale rule and no target %q%s", key, source.DidYouMean(key, known))
			continue
		}
		m := models[key]
		i := slices.IndexFunc(scales, func(s *rules.Scale) bool { return s.Name == key })
		if i >= 0 && len(scales[i].Variants) > 0 && m.Replicas != nil {
			d.FaultAt(at+".replicas", 0, "replicas: rule %q has variants: give each of their targets its own", key)
		}
		if m.Replicas != nil && *m.Replicas < 0 {
			d.FaultAt(at+".replicas", 0, "replicas is %d: expected 0 or more", *m.Replicas)
		}
		if m.Max != nil && *m.Max < 0 {
			d.FaultAt(at+".max", 0, "max is %d: expected 0 or more", *m.Max)
		}
		for j, c := range m.Changes {
			if c.Replicas < 0 {
				d.FaultAt(fmt.Sprintf("%s.changes[%d].replicas", at, j), 0, "replicas is %d: expected 0 or more", c.Replicas)
			}
			if j > 0 && c.At < m.Changes[j-1].At {
				d.FaultAt(fmt.Sprintf("%s.changes[%d].at", at, j), 0, "at is %s, before the change above it: give them in order", c.At)
			}
		}
		for j, o := range m.Outages {
			checkSpan(d, fmt.Sprintf("%s.outages[%d]", at, j), time.Duration(o.From), time.Duration(o.To))
		}
	}
	return t
}

// checkSpan notes a time that ends before it begins.
func checkSpan(d *source.Decoder, path string, from, to time.Duration) {
	if to != 0 && to <= from {
		d.FaultAt(path+".to", 0, "to is %s, not after from, which is %s", brief(to), brief(from))
	}
}

// check notes what cannot be right about a fault.
func (f *Fault) check(d *source.Decoder, path string, scales []*rules.Scale) {
	if f.Kind == "" {
		d.FaultAt(path, 0, "kind: one of error, empty, nan, stale and slow is needed")
	}
	oneOf(d, path+".kind", f.Kind, faultKinds...)
	checkSpan(d, path, time.Duration(f.From), time.Duration(f.To))
	var names, queries []string
	for _, s := range scales {
		names = append(names, s.Name)
		if f.Rule == "" || f.Rule == s.Name {
			queries = append(queries, queryNames(s)...)
		}
	}
	switch {
	case f.Rule != "" && !slices.Contains(names, f.Rule):
		d.FaultAt(path+".rule", 0, "no scale rule %q%s", f.Rule, source.DidYouMean(f.Rule, names))
	case f.Query == "":
		d.FaultAt(path, 0, "query: the name of a query of a scale rule is needed")
	case !slices.Contains(queries, f.Query):
		d.FaultAt(path+".query", 0, "no scale rule has the query %q%s", f.Query, source.DidYouMean(f.Query, queries))
	}
}

// actuators has the simulator for every kind of target that the rule names.
func (t *targets) actuators(rule *rules.Scale) map[string]actuators.Actuator {
	p := platform{t.simulator, func(target actuators.Target) (behavior, error) { return t.behavior(rule, target), nil }}
	byKind := map[string]actuators.Actuator{rule.Target.Kind: p}
	for _, v := range rule.Variants {
		byKind[v.Target.Kind] = p
	}
	return byKind
}

// behavior is what a target of a rule does: by the rule, then what the test says of the rule, then of the target.
func (t *targets) behavior(rule *rules.Scale, target actuators.Target) behavior {
	b := behavior{replicas: rule.Min, startup: rule.Startup.Given}
	for _, v := range rule.Variants {
		if v.Target == target {
			b.replicas = v.Min
		}
	}
	for _, key := range []string{rule.Name, target.Name, target.String()} {
		m, given := t.models[key]
		if !given {
			continue
		}
		t.used[key] = true
		if m.Replicas != nil {
			b.replicas = *m.Replicas
		}
		if m.Max != nil {
			b.max = m.Max
		}
		if m.Startup != nil {
			b.startup = time.Duration(*m.Startup)
		}
		if m.Changes != nil {
			b.changes = m.Changes
		}
		if m.Outages != nil {
			b.outages = m.Outages
		}
	}
	return b
}

// unused fails models of targets that for_each did not find.
func (t *targets) unused(r *run) {
	for _, key := range slices.Sorted(maps.Keys(t.models)) {
		if !t.used[key] {
			r.failAt(t.path+"."+key, nil, nil, "target_model: no target %q came up in the test", key)
		}
	}
}

// discard is a journal that keeps nothing.
type discard struct{}

func (discard) Append(*rules.Decision) error { return nil }

// newMetrics are metrics that nobody reads.
func newMetrics() *rules.Metrics { return rules.NewMetrics(prometheus.NewRegistry()) }
