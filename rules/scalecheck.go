package rules

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/actuators"
	"flyball/rules/source"
)

// maxElements bounds how many series of a query an expression may go through.
const maxElements = 1000

func (s *Scale) validate(d *source.Decoder, path string, interval, scrape time.Duration) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	s.interval, s.scrape = interval, scrape
	if s.Name == "" {
		fault("scale", "a scale rule needs a name")
	}
	if s.Mode != Observe && s.Mode != Act {
		fault("mode", "mode is %q: expected observe or act", s.Mode)
	}
	s.validateTargets(d, path)
	if s.Startup.Given <= 0 {
		fault("startup", "startup is %s: expected auto, or more than 0", s.Startup)
	}
	s.validateProgress(d, path+".progress")
	oneOf(d, path+".combine", s.Combine, combineMax, combineWeighted, combinePriority)
	s.validateQueries(d, path, interval, scrape)
	s.validateForEach(d, path)
	if len(s.Signals) == 0 && len(s.When) == 0 {
		fault("scale", "scale %q has neither signals nor when: nothing would move it", s.Name)
	}
	s.validateSignals(d, path)
	s.validateSteps(d, path)
	s.validateConstraints(d, path)
	s.validateVariants(d, path)
	if s.Price != "" {
		s.price = compile(d, path+".price", s.Price, s.environment(), numberResult)
	}
	for i := range s.Schedule {
		s.Schedule[i].validate(d, fmt.Sprintf("%s.schedule[%d]", path, i), s)
	}
	for key, v := range map[string]float64{"up": s.MinConfidence.Up, "down": s.MinConfidence.Down} {
		if v < 0 || v > 1 {
			fault("min_confidence."+key, "%s is %g: expected a ratio from 0 to 1", key, v)
		}
	}
	s.Behavior.Up.validate(d, path+".behavior.up", 0)
	s.Behavior.Down.validate(d, path+".behavior.down", defaultDownWindow)
	s.FlapBudget.validate(d, path+".flap_budget")
	s.OnMissing.validate(d, path+".on_missing")
	for name := range s.Annotations {
		if !model.UTF8Validation.IsValidLabelName(name) {
			fault("annotations."+name, "%q is not an annotation name", name)
		}
	}
	s.note()
}

// oneOf notes a fault unless the value is one of those that are expected.
func oneOf(d *source.Decoder, path, value string, expected ...string) {
	if !slices.Contains(expected, value) {
		d.FaultAt(path, 0, "%s is %q: expected %s%s", last(path), value, alternatives(expected), source.DidYouMean(value, expected))
	}
}

// alternatives are words with commas and an or.
func alternatives(words []string) string {
	n := len(words) - 1
	if n < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:n], ", ") + " or " + words[n]
}

func (s *Scale) validateTargets(d *source.Decoder, path string) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if len(s.Variants) > 0 {
		for key, given := range map[string]bool{
			"target": s.Target != (actuators.Target{}), "min": d.Has(path + ".min"), "max": d.Has(path + ".max"),
			"price": s.Price != "", "for_each": s.ForEach != nil,
		} {
			if given {
				fault(key, "%s: a rule with variants has it in each of them, not here", key)
			}
		}
		s.Min, s.Max = 0, 0
		for _, v := range s.Variants { // in units of capacity
			s.Min += v.Min * v.Capacity
			s.Max += v.Max * v.Capacity
		}
		return
	}
	switch {
	case s.Target == (actuators.Target{}):
		fault("target", "target: missing: give kind and name of what is scaled, or variants")
	case s.Target.Kind == "":
		fault("target.kind", "target.kind: missing")
	case s.Target.Name == "":
		fault("target.name", "target.name: missing")
	}
	if s.Min < 0 {
		fault("min", "min is %d: expected 0 or more", s.Min)
	}
	switch {
	case !d.Has(path + ".max"):
		fault("max", "max: missing: a scale rule needs an upper bound")
	case s.Max < 1:
		fault("max", "max is %d: expected 1 or more", s.Max)
	case s.Max > maxProposal:
		fault("max", "max is %d: expected %d or less", s.Max, maxProposal)
	case s.Min > s.Max:
		fault("min", "min is %d, above max, which is %d", s.Min, s.Max)
	}
	if d.Has(path + ".cost") {
		fault("cost", "cost: it chooses among variants, and this rule has none")
	}
}

func (s *Scale) validateQueries(d *source.Decoder, path string, interval, scrape time.Duration) {
	if len(s.Queries) == 0 && !slices.ContainsFunc(s.Signals, func(g Signal) bool { return g.Forecast != "" }) {
		d.FaultAt(path+".scale", 0, "scale %q has no queries", s.Name)
	}
	for name, q := range s.Queries {
		at := path + ".queries." + name
		exprAt := exprPath(d, path, name)
		if q == nil {
			q = &Query{}
			s.Queries[name] = q
		}
		switch {
		case !queryName.MatchString(name):
			d.FaultAt(at, 0, "%q cannot name a query: expected letters, digits and _, a letter first", name)
		case slices.Contains(reserved, name):
			d.FaultAt(at, 0, "%q cannot name a query: it has a meaning in expressions", name)
		}
		if parsed := checkPromQL(d, exprAt, q.Expr); parsed != nil {
			q.parsed = parsed
			if t := parsed.Type(); t != "vector" && t != "scalar" {
				d.FaultAt(exprAt, 0, "PromQL: a query must give an instant vector or a scalar, this gives a %s", t)
			}
		}
		if q.Reduce == "" {
			q.Reduce = "single"
		}
		if !slices.Contains(reductions, q.Reduce) {
			d.FaultAt(at+".reduce", 0, "reduce is %q: expected one of %s%s", q.Reduce, strings.Join(reductions, ", "),
				source.DidYouMean(q.Reduce, reductions))
		}
		if q.StaleAfter < 0 {
			d.FaultAt(at+".stale_after", 0, "stale_after is %s: expected more than 0", q.StaleAfter)
		}
		if q.StaleAfter == 0 {
			// Two evaluations may come between two scrapes, and a scrape may be late by one interval.
			q.StaleAfter = model.Duration(2*interval + scrape)
		}
		if q.Expect != "" {
			q.expect = compile(d, at+".expect", q.Expect, expectEnvironment(), numberResult)
		}
		if q.OnMissing == "" {
			q.OnMissing = missingHold
			if q.Optional {
				q.OnMissing = missingIgnore
			}
		} else {
			oneOf(d, at+".on_missing", q.OnMissing, missingHold, missingBlock, missingIgnore)
			if q.Optional && q.OnMissing != missingIgnore {
				d.FaultAt(at+".optional", 0, "optional is the same as on_missing: ignore, and on_missing is %s", q.OnMissing)
			}
		}
		q.Optional = q.OnMissing == missingIgnore
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
}

func (s *Scale) validateForEach(d *source.Decoder, path string) {
	f := s.ForEach
	if f == nil {
		if strings.Contains(s.Target.Name, "{{") {
			d.FaultAt(path+".target.name", 0, "target.name is a template, which goes with for_each")
		}
		return
	}
	at := path + ".for_each"
	if len(f.By) == 0 {
		d.FaultAt(at, 0, "for_each.by: missing: the labels whose values name a target")
	}
	for i, name := range f.By {
		switch {
		case !model.UTF8Validation.IsValidLabelName(name) || name == model.MetricNameLabel:
			d.FaultAt(fmt.Sprintf("%s.by[%d]", at, i), 0, "%q is not a label name", name)
		case slices.Contains(f.By[:i], name):
			d.FaultAt(fmt.Sprintf("%s.by[%d]", at, i), 0, "label %q is there already", name)
		}
	}
	if _, err := f.name(s.Target.Name, make([]string, len(f.By))); err != nil {
		d.FaultAt(path+".target.name", 0, "target.name: %s", err)
	}
	if !strings.Contains(s.Target.Name, "{{") {
		d.FaultAt(path+".target.name", 0, "target.name is the same for each: name the label in it, such as llm-{{ $labels.%s }}", strings.Join(f.By[:min(1, len(f.By))], ""))
	}
	if f.Limit == 0 {
		f.Limit = defaultTargets
	}
	if f.Limit < 0 || f.Limit > maxTargets {
		d.FaultAt(at+".limit", 0, "limit is %d: expected 1 to %d", f.Limit, maxTargets)
	}
	if f.Forget == 0 {
		f.Forget = defaultForget
	}
	if f.Forget < 0 {
		d.FaultAt(at+".forget", 0, "forget is %s: expected more than 0", f.Forget)
	}
	if f.Query != "" {
		checkPromQL(d, at+".query", f.Query)
	} else if len(s.Signals) == 0 {
		d.FaultAt(at, 0, "for_each.query: missing: without signals there is no other query whose series name the targets")
	}
}

func (s *Scale) validateSignals(d *source.Decoder, path string) {
	names := map[string]bool{}
	for i := range s.Signals {
		signal := &s.Signals[i]
		at := fmt.Sprintf("%s.signals[%d]", path, i)
		switch {
		case signal.Name == "":
			d.FaultAt(at, 0, "a signal needs a name")
		case names[signal.Name]:
			d.FaultAt(at+".name", 0, "signal %q is already in this rule", signal.Name)
		}
		names[signal.Name] = true
		if signal.Forecast != "" {
			s.validateForecastSignal(d, at, signal)
		} else {
			signal.value = compile(d, at+".value", signal.Value, s.environment(), numberResult)
			if signal.Quantile != 0 {
				d.FaultAt(at+".quantile", 0, "quantile: it goes with forecast")
			}
		}
		s.validateSizing(d, at, signal)
		if signal.Weight == 0 && !d.Has(at+".weight") {
			signal.Weight = 1
		}
		if signal.Weight < 0 {
			d.FaultAt(at+".weight", 0, "weight is %g: expected 0 or more", signal.Weight)
		}
		if signal.Tolerance == nil {
			tolerance := defaultTolerance
			signal.Tolerance = &tolerance
		}
		if *signal.Tolerance < 0 || *signal.Tolerance >= 1 {
			d.FaultAt(at+".tolerance", 0, "tolerance is %g: expected a ratio from 0 to less than 1", *signal.Tolerance)
		}
		if signal.Role != "" && signal.Role != floorRole {
			d.FaultAt(at+".role", 0, "role is %q: expected floor, or none", signal.Role)
		}
		s.validatePanic(d, at+".panic", signal)
	}
}

// validateSizing sees that a signal has one of the ways to make a size of its value.
func (s *Scale) validateSizing(d *source.Decoder, at string, signal *Signal) {
	var ways []string
	for _, key := range []string{"target_per_replica", "service_rate", "utilization"} {
		if d.Has(at + "." + key) {
			ways = append(ways, key)
		}
	}
	switch {
	case len(ways) > 1:
		d.FaultAt(at+"."+ways[1], 0, "%s and %s are two ways to size by %s: give one of them", ways[0], ways[1], signal.Name)
	case len(ways) == 0 && len(s.Variants) > 0:
		signal.TargetPerReplica = 1 // of a unit of capacity
	case len(ways) == 0:
		d.FaultAt(at, 0, "target_per_replica: missing: how much of %s one replica serves; or service_rate and wait, or utilization", signal.Name)
	case signal.TargetPerReplica <= 0 && ways[0] == "target_per_replica":
		d.FaultAt(at+".target_per_replica", 0, "target_per_replica is %g: expected more than 0", signal.TargetPerReplica)
	case ways[0] == "utilization" && !(signal.Utilization > 0 && signal.Utilization <= 1):
		d.FaultAt(at+".utilization", 0, "utilization is %g: expected a ratio above 0 and up to 1", signal.Utilization)
	}
	queueing := signal.ServiceRate != ""
	if len(s.Variants) > 0 && (queueing || signal.Utilization != 0) {
		d.FaultAt(at, 0, "a rule with variants sizes by target_per_replica, in units of their capacity")
	}
	if queueing {
		signal.service = compile(d, at+".service_rate", signal.ServiceRate, s.environment(), numberResult)
		if signal.Wait <= 0 {
			d.FaultAt(at+".service_rate", 0, "wait: missing: how long a request may wait for a replica, such as 500ms")
		}
		if signal.Goal == 0 {
			signal.Goal = defaultGoal
		}
		if signal.Goal <= 0 || signal.Goal >= 1 {
			d.FaultAt(at+".goal", 0, "goal is %g: expected a ratio between 0 and 1", signal.Goal)
		}
		if signal.Concurrency == 0 {
			signal.Concurrency = 1
		}
		if signal.Concurrency < 0 || signal.Concurrency > maxConcurrency {
			d.FaultAt(at+".concurrency", 0, "concurrency is %d: expected 1 to %d", signal.Concurrency, maxConcurrency)
		}
		return
	}
	for key, given := range map[string]bool{"wait": signal.Wait != 0, "goal": signal.Goal != 0, "concurrency": signal.Concurrency != 0} {
		if given {
			d.FaultAt(at+"."+key, 0, "%s: it goes with service_rate", key)
		}
	}
}

// maxConcurrency bounds how many requests one replica is said to work on at once; the largest batches are below it.
const maxConcurrency = 10_000

// validateForecastSignal gives the rule the query for the forecast's value at the time that a replica asked for now would
// be ready.
func (s *Scale) validateForecastSignal(d *source.Decoder, at string, signal *Signal) {
	if signal.Value != "" {
		d.FaultAt(at+".value", 0, "value: a signal has a value or a forecast, not both")
	}
	if !model.LegacyValidation.IsValidMetricName(signal.Forecast) {
		d.FaultAt(at+".forecast", 0, "forecast is %q: expected the metric that a forecast rule writes", signal.Forecast)
		return
	}
	if signal.Quantile == 0 {
		signal.Quantile = 0.9
	}
	if signal.Quantile <= 0 || signal.Quantile >= 1 {
		d.FaultAt(at+".quantile", 0, "quantile is %g: expected a ratio between 0 and 1", signal.Quantile)
	}
	// A forecast that is missing must not keep a target large: what it is for is to be early. Of several series all have to be
	// armed: which of them is the largest is not known.
	add := func(name, expr, reduce string) string {
		s.addQuery(name, &Query{
			Expr: expr, Reduce: reduce, StaleAfter: s.forecastStale(s.interval), OnMissing: missingIgnore, Optional: true, forecast: signal.Forecast,
		})
		return name
	}
	signal.query = add(fmt.Sprintf("%s@%g", signal.Forecast, signal.Quantile),
		fmt.Sprintf(`%s{quantile="%s",horizon="%s"}`, signal.Forecast, levelText(signal.Quantile), leadLabel), "max")
	signal.armed = add(signal.Forecast+armedSuffix, fmt.Sprintf("%s{forecast=%q}", armedMetric, signal.Forecast), "min")
	signal.skill = add(signal.Forecast+skillSuffix, fmt.Sprintf("%s{forecast=%q}", skillMetric, signal.Forecast), "min")
}

// forecastStale is the age from which what a forecast wrote does not count, whose group is evaluated so often.
func (s *Scale) forecastStale(every time.Duration) model.Duration {
	return model.Duration(s.interval + max(s.interval, every) + s.scrape)
}

// addQuery adds a query that the rule needs and its author did not write.
func (s *Scale) addQuery(name string, q *Query) {
	parsed, err := promQL.ParseExpr(q.Expr)
	if err != nil {
		panic(fmt.Sprintf("rules: %s: %v", q.Expr, err)) // it was made here
	}
	q.parsed = parsed
	if s.Queries == nil {
		s.Queries = map[string]*Query{}
	}
	if _, there := s.Queries[name]; !there {
		s.names = append(s.names, name)
		slices.Sort(s.names)
	}
	s.Queries[name] = q
}

func (s *Scale) validatePanic(d *source.Decoder, at string, signal *Signal) {
	p := signal.Panic
	if p == nil {
		return
	}
	if p.Threshold == 0 {
		p.Threshold = defaultPanicThreshold
	}
	if p.Threshold <= 1 || math.IsInf(p.Threshold, 0) {
		d.FaultAt(at+".threshold", 0, "threshold is %g: expected more than 1: so many times the load that the ready replicas are for", p.Threshold)
	}
	switch {
	case signal.Forecast != "":
		d.FaultAt(at, 0, "panic: a forecast has none")
	case (p.Window == 0) == (p.Value == ""):
		d.FaultAt(at, 0, "panic needs window, over which the signal's queries are asked as well, or value, an expression of queries")
	case p.Value != "":
		p.value = compile(d, at+".value", p.Value, s.environment(), numberResult)
	case p.Window < 0:
		d.FaultAt(at+".window", 0, "window is %s: expected more than 0", p.Window)
	case signal.value != nil:
		p.value, p.short = signal.value, map[string]string{}
		for _, name := range signal.value.uses {
			q := s.Queries[name]
			if q == nil || q.parsed == nil {
				continue
			}
			text, cut := shorten(q.parsed, time.Duration(p.Window))
			if !cut {
				d.FaultAt(at+".window", 0, "window is %s, and %s has no longer range to cut to it: give the value over a short time in panic.value", p.Window, name)
				continue
			}
			short := *q
			short.Expr, short.OnMissing, short.Optional = text, missingIgnore, true
			p.short[name] = name + "@" + p.Window.String()
			s.addQuery(p.short[name], &short)
		}
	}
}

// shorten cuts each range of a PromQL expression to a window, and says whether there was a longer one.
func shorten(expr parser.Expr, window time.Duration) (text string, cut bool) {
	copied, err := promQL.ParseExpr(expr.String())
	if err != nil {
		return "", false
	}
	parser.Inspect(copied, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.MatrixSelector:
			if n.Range > window {
				n.Range, n.RangeExpr, cut = window, nil, true
			}
		case *parser.SubqueryExpr:
			if n.Range > window {
				n.Range, n.RangeExpr, cut = window, nil, true
			}
		}
		return nil
	})
	return copied.String(), cut
}

func (s *Scale) validateSteps(d *source.Decoder, path string) {
	for i := range s.When {
		step := &s.When[i]
		at := fmt.Sprintf("%s.when[%d]", path, i)
		step.condition = compile(d, at+".if", step.If, s.environment(), boolResult)
		do, err := parseDo(step.Do)
		if err != nil {
			d.FaultAt(at+".do", 0, "do: %s", err)
		}
		step.do = do
		if do.set && do.replicas > 0 && len(s.Variants) > 0 {
			d.FaultAt(at+".do", 0, "do is %q: sizes of a rule with variants are in units of capacity: use + or -", step.Do)
		}
		if do.set && do.replicas < s.Min {
			d.FaultAt(at+".do", 0, "do is %q, below min, which is %d", step.Do, s.Min)
		}
		if do.set && s.Max > 0 && do.replicas > s.Max {
			d.FaultAt(at+".do", 0, "do is %q, above max, which is %d", step.Do, s.Max)
		}
		if step.For < 0 {
			d.FaultAt(at+".for", 0, "for is %s: expected 0 or more", step.For)
		}
	}
}

func (s *Scale) validateConstraints(d *source.Decoder, path string) {
	for i := range s.Constraints {
		c := &s.Constraints[i]
		at := fmt.Sprintf("%s.constraints[%d]", path, i)
		c.condition = compile(d, at+".if", c.If, s.environment(), boolResult)
		switch {
		case c.Min == nil && c.Max == nil:
			d.FaultAt(at, 0, "a constraint needs min or max: the bound while its condition holds")
		case c.Min != nil && (*c.Min < 0 || s.Max > 0 && *c.Min > s.Max):
			d.FaultAt(at+".min", 0, "min is %d: expected 0 to the rule's max, which is %d", *c.Min, s.Max)
		case c.Max != nil && *c.Max < s.Min:
			d.FaultAt(at+".max", 0, "max is %d: expected the rule's min, which is %d, or more", *c.Max, s.Min)
		case c.Min != nil && c.Max != nil && *c.Min > *c.Max:
			d.FaultAt(at+".min", 0, "min is %d, above max, which is %d", *c.Min, *c.Max)
		}
	}
}

func (dir *Direction) validate(d *source.Decoder, path string, window model.Duration) {
	if dir.Window == nil {
		dir.Window = &window
	}
	if dir.SelectPolicy == "" {
		dir.SelectPolicy = selectMax
	}
	oneOf(d, path+".select_policy", dir.SelectPolicy, selectMax, selectMin, selectDisabled)
	if *dir.Window < 0 {
		d.FaultAt(path+".window", 0, "window is %s: expected 0 or more", *dir.Window)
	}
	if dir.Cooldown < 0 {
		d.FaultAt(path+".cooldown", 0, "cooldown is %s: expected 0 or more", dir.Cooldown)
	}
	if time.Duration(dir.Cooldown) > MaxPeriod {
		d.FaultAt(path+".cooldown", 0, "cooldown is %s: expected 1d or less", dir.Cooldown)
	}
	for i, p := range dir.Policies {
		at := fmt.Sprintf("%s.policies[%d]", path, i)
		if (p.Replicas == 0) == (p.Percent == 0) {
			d.FaultAt(at, 0, "a policy needs replicas or percent, one of them, above 0")
		}
		if p.Replicas < 0 || p.Percent < 0 {
			d.FaultAt(at, 0, "a policy allows a change of more than 0")
		}
		if p.Period <= 0 {
			d.FaultAt(at, 0, "a policy needs a period above 0")
		}
		if time.Duration(p.Period) > MaxPeriod {
			d.FaultAt(at+".period", 0, "period is %s: expected 1d or less", p.Period)
		}
	}
}

func (f *FlapBudget) validate(d *source.Decoder, path string) {
	if f.Reversals < 2 {
		d.FaultAt(path+".reversals", 0, "reversals is %d: expected 2 or more: a change down and the way back up", f.Reversals)
	}
	if f.Window <= 0 || time.Duration(f.Window) > MaxPeriod {
		d.FaultAt(path+".window", 0, "window is %s: expected more than 0 and at most 1d", f.Window)
	}
}

func (o *OnMissing) validate(d *source.Decoder, path string) {
	oneOf(d, path+".up", o.Up, missingAllow, missingHold)
	oneOf(d, path+".down", o.Down, missingHold, missingFallback)
	switch {
	case o.After < 0:
		d.FaultAt(path+".after", 0, "after is %s: expected more than 0", o.After)
	case o.Fallback != "" && o.After == 0:
		d.FaultAt(path+".fallback", 0, "after: missing: for how long data must have been missing before the size is the fallback")
	case o.Fallback == "" && o.After != 0:
		d.FaultAt(path+".after", 0, "fallback: missing: the size after so long without data, such as max(replicas, 2)")
	case o.Fallback == "" && o.Down == missingFallback:
		d.FaultAt(path+".down", 0, "fallback: missing: the size to go down to")
	}
	if o.Fallback != "" {
		o.fallback = compile(d, path+".fallback", o.Fallback, expectEnvironment(), numberResult)
	}
}

// missingFallback is OnMissing.Down where the fallback may make a target smaller.
const missingFallback = "fallback"

// Targets are all that the rule scales, and their paths within it; of a rule with for_each none: their names come with the
// data.
func (s *Scale) Targets() (all []actuators.Target, paths []string) {
	switch {
	case s.ForEach != nil:
		return nil, nil
	case len(s.Variants) == 0:
		return []actuators.Target{s.Target}, []string{"target"}
	}
	for i, v := range s.Variants {
		all, paths = append(all, v.Target), append(paths, fmt.Sprintf("variants[%d].target", i))
	}
	return all, paths
}

// sortedKeys are the keys of a map in their order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
