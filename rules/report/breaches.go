package report

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Breaches are what was promised and not kept, and the alerts that fired.
type Breaches struct {
	Objectives []Objective `json:"objectives,omitempty"`
	Thresholds []Threshold `json:"thresholds,omitempty"`
	Alerts     []Alert     `json:"alerts,omitempty"`
}

// Objective is one of an slo rule, and how it was kept.
type Objective struct {
	SLO       string  `json:"slo"`
	Objective string  `json:"objective"`
	Target    float64 `json:"target"` // the share of good requests

	// Kept is the share that was good over the report's time, nil where that was not measured.
	Kept     *float64 `json:"kept"`
	Breached bool     `json:"breached"`

	// Over are the times in which more requests were bad than the objective allows, by 5 minutes.
	Over  []Span `json:"over,omitempty"`
	Query string `json:"query"`
}

// Threshold is one of an slo rule.
type Threshold struct {
	SLO       string  `json:"slo"`
	Threshold string  `json:"threshold"`
	Severity  string  `json:"severity"`
	Bound     string  `json:"bound"` // above or below: the side that is wrong
	Limit     float64 `json:"limit"`

	// Worst is the value farthest on the wrong side, or nearest to it; nil where there was none.
	Worst    *float64 `json:"worst"`
	Breached bool     `json:"breached"`

	// Over are the times on the wrong side, those included that were too short for the alert.
	Over  []Span `json:"over,omitempty"`
	Query string `json:"query"`
}

// Alert is an alert on the model or its scale rule that fired.
type Alert struct {
	Name     string            `json:"name"`
	Severity string            `json:"severity,omitempty"`
	Labels   map[string]string `json:"labels"` // the rest of them
	Fired    []Span            `json:"fired"`
	Firing   bool              `json:"firing"` // still, at the report's end
	Query    string            `json:"query"`
}

// breaches is what was answered about them.
type breaches struct {
	alerts                                [2][]Series
	targets, ratios, rates, values, limit []Series
	step                                  time.Duration // of ratios and rates
	alertQueries                          [2]string
}

func (m *maker) breachWork(b *breaches) []func(context.Context) error {
	fine := prometheusDuration(m.fine)
	// An alert that came and went between two points is caught by the range; one whose samples are farther apart than the
	// points by the lookback.
	firing := func(matcher string) string {
		selector := `ALERTS{alertstate="firing",` + matcher + "}"
		return selector + " or max_over_time(" + selector + "[" + fine + "])"
	}
	b.alertQueries[0] = firing(m.fill("$model"))
	if m.scale != "" {
		b.alertQueries[1] = firing(m.scale)
	}
	b.step = max(min(5*time.Minute, m.Step), m.fine)
	var work []func(context.Context) error
	for _, q := range []struct {
		expr string
		step time.Duration
		to   *[]Series
	}{
		{b.alertQueries[0], m.fine, &b.alerts[0]},
		{b.alertQueries[1], m.fine, &b.alerts[1]},
		{m.fill("slo:objective:ratio{$model}"), b.step, &b.targets},
		{m.fill("slo:bad_requests:ratio_rate5m{$model}"), b.step, &b.ratios},
		{m.fill("slo:requests:rate5m{$model}"), b.step, &b.rates},
		{m.fill("slo:threshold:value{$model}"), m.fine, &b.values},
		{m.fill("slo:threshold:limit{$model}"), m.fine, &b.limit},
	} {
		if q.expr == "" {
			continue
		}
		work = append(work, func(ctx context.Context) (err error) {
			*q.to, err = m.ask(ctx, q.expr, q.step)
			return err
		})
	}
	return work
}

func (b *breaches) result(m *maker) (all Breaches) {
	all.Alerts = b.fired(m)
	for _, target := range b.targets {
		o := Objective{
			SLO: target.Labels["slo"], Objective: target.Labels["objective"], Target: last(target.Points),
			Query: m.fill(`slo:bad_requests:ratio_rate5m{$model,slo="` + escape(target.Labels["slo"]) + `",objective="` + escape(target.Labels["objective"]) + `"}`),
		}
		ratio, rate := same(b.ratios, target, "slo", "objective"), at(same(b.rates, target, "slo", "objective"))
		sum, badSum := 0.0, 0.0
		var over []time.Time
		for _, p := range ratio {
			if n := rate[p.Time.UnixMilli()]; n > 0 && !math.IsNaN(p.Value) {
				sum, badSum = sum+n, badSum+n*p.Value
			}
			if p.Value > 1-o.Target {
				over = append(over, p.Time)
			}
		}
		o.Over = m.spans(over, b.step)
		if sum > 0 {
			kept := 1 - badSum/sum
			o.Kept, o.Breached = &kept, kept < o.Target
		}
		all.Objectives = append(all.Objectives, o)
	}
	for _, limit := range b.limit {
		t := Threshold{
			SLO: limit.Labels["slo"], Threshold: limit.Labels["threshold"], Severity: limit.Labels["severity"], Bound: limit.Labels["bound"], Limit: last(limit.Points),
		}
		t.Query = m.fill(`slo:threshold:value{$model,slo="` + escape(t.SLO) + `",threshold="` + escape(t.Threshold) + `",severity="` + escape(t.Severity) + `"}`)
		sign := 1.0
		if t.Bound == "below" {
			sign = -1
		}
		var over []time.Time
		for _, p := range same(b.values, limit, "slo", "threshold", "severity") {
			if math.IsNaN(p.Value) {
				continue
			}
			if t.Worst == nil || sign*p.Value > sign**t.Worst {
				v := p.Value
				t.Worst = &v
			}
			if sign*p.Value > sign*t.Limit {
				over = append(over, p.Time)
			}
		}
		t.Over = m.spans(over, m.fine)
		t.Breached = slices.ContainsFunc(all.Alerts, func(a Alert) bool {
			return a.Name == "FlyballSLOThreshold" && a.Severity == t.Severity && a.Labels["slo"] == t.SLO && a.Labels["threshold"] == t.Threshold
		})
		all.Thresholds = append(all.Thresholds, t)
	}
	slices.SortStableFunc(all.Objectives, func(a, b Objective) int {
		return cmp.Or(strings.Compare(a.SLO, b.SLO), strings.Compare(a.Objective, b.Objective))
	})
	slices.SortStableFunc(all.Thresholds, func(a, b Threshold) int {
		return cmp.Or(strings.Compare(a.SLO, b.SLO), strings.Compare(a.Threshold, b.Threshold), strings.Compare(a.Severity, b.Severity))
	})
	return all
}

// fired are the alerts, each once, in the order in which they first fired.
func (b *breaches) fired(m *maker) (all []Alert) {
	times, found := map[string][]time.Time{}, map[string]Alert{}
	for i, answer := range b.alerts {
		for _, s := range answer {
			labels := maps.Clone(s.Labels)
			a := Alert{Name: labels["alertname"], Severity: labels["severity"], Labels: labels, Query: b.alertQueries[i]}
			for _, name := range []string{"__name__", "alertname", "alertstate", "severity"} {
				delete(labels, name)
			}
			parts := []string{a.Name, a.Severity}
			for _, name := range slices.Sorted(maps.Keys(labels)) {
				parts = append(parts, name, labels[name])
			}
			key := strings.Join(parts, "\xff")
			if _, there := found[key]; !there {
				found[key] = a
			}
			for _, p := range s.Points {
				times[key] = append(times[key], p.Time)
			}
		}
	}
	for key, a := range found {
		slices.SortFunc(times[key], time.Time.Compare)
		a.Fired = m.spans(slices.CompactFunc(times[key], time.Time.Equal), m.fine)
		a.Firing = len(a.Fired) > 0 && m.End.Sub(a.Fired[len(a.Fired)-1].End) < m.fine
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Alert) int {
		return cmp.Or(a.Fired[0].Start.Compare(b.Fired[0].Start), strings.Compare(a.Name, b.Name), strings.Compare(a.Labels["long"], b.Labels["long"]), strings.Compare(a.Severity, b.Severity))
	})
	return all
}

// same are the points of the series whose labels of these names are those of another.
func same(all []Series, as Series, names ...string) []Point {
	for _, s := range all {
		if !slices.ContainsFunc(names, func(n string) bool { return s.Labels[n] != as.Labels[n] }) {
			return s.Points
		}
	}
	return nil
}

// at are values by their time in milliseconds.
func at(points []Point) map[int64]float64 {
	all := make(map[int64]float64, len(points))
	for _, p := range points {
		all[p.Time.UnixMilli()] = p.Value
	}
	return all
}

func last(points []Point) float64 {
	if len(points) == 0 {
		return math.NaN()
	}
	return points[len(points)-1].Value
}

// spans joins times that are a step apart. Each stands for the step before it.
func (m *maker) spans(times []time.Time, step time.Duration) (all []Span) {
	for _, t := range times {
		t = t.In(m.End.Location())
		if n := len(all); n > 0 && t.Sub(all[n-1].End) <= step {
			all[n-1].End = t
			continue
		}
		all = append(all, Span{t.Add(-step), t})
	}
	return all
}

// Length is how long it is.
func (s Span) Length() time.Duration { return s.End.Sub(s.Start) }

// total is how long they are together.
func total(spans []Span) (d time.Duration) {
	for _, s := range spans {
		d += s.Length()
	}
	return d
}
