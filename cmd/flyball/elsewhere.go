package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"flyball/actuators"
	"flyball/actuators/keda"
	"flyball/actuators/none"
	"flyball/rules"
	"flyball/rules/source"
)

// elsewhere are the targets that something else scales, by kind.
func (c *Config) elsewhere() map[string]none.Config {
	return map[string]none.Config{none.Kind: c.Actuators.None, keda.Kind: c.Actuators.Keda}
}

// checkElsewhere says what is wrong with a rule's target that something else scales.
func checkElsewhere(t actuators.Target, c none.Config) error {
	if _, known := c.Of(t.Name); known {
		return nil
	}
	return fmt.Errorf("target.name: no target %q in actuators.%s%s: give it there, with PromQL for its replicas or how many to begin with, or all by %q",
		t.Name, t.Kind, source.DidYouMean(t.Name, slices.Sorted(maps.Keys(c))), none.Any)
}

// checkElsewhereQueries notes what is wrong with the PromQL of targets that something else scales.
func (l *loaded) checkElsewhereQueries(d *source.Decoder, r *rules.Reader) {
	for kind, c := range l.elsewhere() {
		for name, t := range c {
			for key, expr := range t.Queries() {
				r.CheckExpr(d, fmt.Sprintf("actuators.%s.%s.%s", kind, name, key), none.Expand(expr, name))
			}
		}
	}
}

// buildElsewhere makes the actuators of what something else scales, without any target yet.
func (a *app) buildElsewhere() error {
	if !a.opts.has(roleRules) {
		return nil
	}
	a.elsewhere = map[string]*none.Targets{}
	for kind := range a.live.Load().elsewhere() {
		a.elsewhere[kind] = none.New(kind, none.Options{
			Query:      a.number,
			Remembered: func(t actuators.Target) (int, bool) { return a.memory.Size(t.String()) },
			Acts:       a.acts,
		})
	}
	return nil
}

// setElsewhere gives the actuators the targets of a configuration.
func (a *app) setElsewhere(l *loaded) {
	for kind, c := range l.elsewhere() {
		a.elsewhere[kind].Set(c)
	}
}

// acts says whether decisions for a target are carried out. Where no rule has it, which is so between the moments at which
// rules and configuration are replaced, nothing is taken back.
func (a *app) acts(t actuators.Target) bool {
	for _, s := range a.live.Load().scalers {
		if s.Scales(t) {
			return s.Acts()
		}
	}
	return a.opts.act
}

// number is the one number that PromQL comes to now.
func (a *app) number(ctx context.Context, expr string) (float64, error) {
	samples, err := a.store.Router().Query(ctx, expr, time.Now(), 0)
	switch {
	case err != nil:
		return 0, err
	case len(samples) == 0:
		return 0, fmt.Errorf("the query %s has no answer", expr)
	case len(samples) > 1:
		return 0, fmt.Errorf("the query %s has %d series where one was expected, %s and %s: aggregate", expr, len(samples), samples[0].Labels, samples[1].Labels)
	}
	return samples[0].Value, nil
}
