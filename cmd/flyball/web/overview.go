package web

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"flyball/rules"
)

// decisionsShown is the number of decisions on the page; the API has more.
const decisionsShown = 30

// overview is what the template page.html shows.
type overview struct {
	frame
	state
	Status
	Faults    []string // what is wrong with the query string
	Warnings  []string // what keeps this process from its work
	HasRules  bool
	Decisions []*rules.Decision
	Charts    chartView
	Forecasts []forecastRow
	Tiles     []tile
	CanFreeze bool // there is a brake
	Lifecycle bool
	Token     string
}

// frame is what every page has around what it shows.
type frame struct {
	Version, ConfigFile string
	Acting              bool
	Frozen              *rules.Freeze // nil: acting is not stopped
	HasQueries          bool
	Now                 time.Time
	Build               string
}

func (s *site) frame() frame {
	f := frame{
		Version: s.Version, ConfigFile: s.ConfigFile, Acting: s.Acting, HasQueries: s.Queries != nil, Now: s.now(), Build: s.assets.build,
	}
	if s.Brake != nil {
		if freeze, frozen := s.Brake.Frozen(); frozen {
			f.Frozen = &freeze
		}
	}
	return f
}

// tile is a figure at the top of the page, with a link to what it is about.
type tile struct{ ID, Name, Text, Class string }

func (s *site) overview(w http.ResponseWriter, r *http.Request) {
	st, faults := readState(r)
	code := http.StatusOK
	if len(faults) > 0 {
		code = http.StatusBadRequest
	}
	v := &overview{
		frame: s.frame(), state: st, Status: s.Status(r.Context()), Faults: faults, HasRules: s.Decisions != nil,
		Warnings: s.warnings(), CanFreeze: s.Brake != nil, Lifecycle: s.Lifecycle, Token: s.tokens.issue(),
	}
	if s.Forecasts != nil {
		v.Forecasts = forecastRows(s.Forecasts(), v.Rules)
	}
	v.Tiles = v.tiles()
	v.filter()
	v.sort()
	if s.Decisions != nil {
		v.Decisions = s.decisions(v)
	}
	if s.Queries != nil {
		v.Charts = s.charts.view(r.Context(), s.Queries, v.Rules, st, v.Now)
	}
	s.send(w, r, code, "page.html", v)
}

// decisions are the newest of the rules that are shown, and the one that the query string names, however old it is.
func (s *site) decisions(v *overview) []*rules.Decision {
	var found []*rules.Decision
	switch {
	case v.Rule != "":
		found = s.Decisions.Recent(Filter{Rule: v.Rule}, decisionsShown)
	case v.Model != "":
		for _, rule := range v.Rules {
			found = append(found, s.Decisions.Recent(Filter{Rule: rule.Name}, decisionsShown)...)
		}
		slices.SortStableFunc(found, func(a, b *rules.Decision) int { return b.Time.Compare(a.Time) })
		found = found[:min(len(found), decisionsShown)]
	default:
		found = s.Decisions.Recent(Filter{}, decisionsShown)
	}
	if v.Decision == "" || slices.ContainsFunc(found, func(d *rules.Decision) bool { return d.ID == v.Decision }) {
		return found
	}
	named := s.Decisions.Recent(Filter{ID: v.Decision}, 1)
	if len(named) == 0 {
		v.Faults = append(v.Faults, fmt.Sprintf("decision: no decision with the id %q is remembered: flyball explain RULE --journal=FILE reads older ones", line(v.Decision, 40)))
	}
	return append(found, named...)
}

// filter leaves what belongs to the rule or the model that the query string names.
func (v *overview) filter() {
	if v.Rule != "" {
		if !slices.ContainsFunc(v.Rules, func(r Rule) bool { return r.Name == v.Rule }) {
			v.Faults = append(v.Faults, fmt.Sprintf("rule: no scale rule is called %q%s", line(v.Rule, 80), among(v.Rules, func(r Rule) string { return r.Name })))
		}
		v.Rules = keep(v.Rules, func(r Rule) bool { return r.Name == v.Rule })
		v.Models = keep(v.Models, func(m Model) bool {
			return slices.ContainsFunc(v.Rules, func(r Rule) bool { return slices.Contains(m.Targets, r.Target) })
		})
		v.Alerts = keep(v.Alerts, func(a Alert) bool { return a.Labels.Get("rule") == v.Rule })
	}
	if v.Model != "" {
		at := slices.IndexFunc(v.Models, func(m Model) bool { return m.Name == v.Model })
		if at < 0 {
			v.Faults = append(v.Faults, fmt.Sprintf("model: no model is called %q%s", line(v.Model, 80), among(v.Models, func(m Model) string { return m.Name })))
			v.Models, v.Rules = nil, nil
		} else {
			v.Models = v.Models[at : at+1]
			v.Rules = keep(v.Rules, func(r Rule) bool { return slices.Contains(v.Models[0].Targets, r.Target) })
		}
		v.Alerts = keep(v.Alerts, func(a Alert) bool {
			return a.Labels.Get("model") == v.Model || slices.ContainsFunc(v.Rules, func(r Rule) bool { return r.Name == a.Labels.Get("rule") })
		})
	}
	if v.Filtered() {
		v.Forecasts = keep(v.Forecasts, func(f forecastRow) bool { return len(usedBy(f.Rule.Name, v.Rules)) > 0 })
		v.Replicas = keep(v.Replicas, func(r Replica) bool {
			return slices.ContainsFunc(v.Rules, func(rule Rule) bool { return rule.Target == "process/"+r.Target })
		})
	}
}

// Filtered says whether the page shows a part only.
func (v *overview) Filtered() bool { return v.Rule != "" || v.Model != "" }

// Wanted is how many replicas the rules of a model's targets want; -1 when no rule says.
func (v *overview) Wanted(m Model) int {
	wanted := -1
	for _, r := range v.Rules {
		if r.Last != nil && slices.Contains(m.Targets, r.Target) {
			wanted = max(wanted, 0) + r.Last.To
		}
	}
	return wanted
}

// ForecastsShown are the first of the forecasts.
func (v *overview) ForecastsShown() []forecastRow {
	return v.Forecasts[:min(len(v.Forecasts), forecastsShown)]
}

// IsOpen says whether a decision is shown with its trace from the start.
func (v *overview) IsOpen(d *rules.Decision) bool { return d.ID == v.Decision }

// sort puts what is wrong first.
func (v *overview) sort() {
	slices.SortStableFunc(v.Rules, func(a, b Rule) int { return cmp.Compare(badness(b.Last), badness(a.Last)) })
	slices.SortStableFunc(v.Models, func(a, b Model) int {
		return cmp.Or(
			first(a.Ready == 0, b.Ready == 0), first(a.Errors > 0, b.Errors > 0), cmp.Compare(b.Queued, a.Queued), cmp.Compare(b.Rate, a.Rate))
	})
	slices.SortStableFunc(v.Alerts, func(a, b Alert) int {
		return cmp.Or(
			first(a.State == "firing", b.State == "firing"), cmp.Compare(severity(a), severity(b)), a.Since.Compare(b.Since))
	})
	slices.SortStableFunc(v.Budgets, func(a, b Budget) int {
		return cmp.Or(first(a.UsedUp, b.UsedUp), cmp.Compare(b.ForecastUSD/b.LimitUSD, a.ForecastUSD/a.LimitUSD))
	})
	slices.SortStableFunc(v.Replicas, func(a, b Replica) int { return first(a.State != "ready", b.State != "ready") })
	slices.SortStableFunc(v.Groups, func(a, b Group) int {
		return cmp.Or(first(len(a.Errors) > 0, len(b.Errors) > 0), first(late(a, v.Now), late(b, v.Now)))
	})
	slices.SortStableFunc(v.Targets, func(a, b Target) int { return first(a.Health == "down", b.Health == "down") })
}

// severity orders the values that are customary for the label.
func severity(a Alert) int {
	order := []string{"critical", "page", "error", "warning", "info"}
	if at := slices.Index(order, a.Labels.Get("severity")); at >= 0 {
		return at
	}
	return len(order)
}

// late says whether a group was not evaluated when it was due, or takes nearly all of its interval.
func late(g Group, now time.Time) bool {
	return !g.Last.IsZero() && now.Sub(g.Last) > 2*g.Interval+time.Second || g.Interval > 0 && g.Duration > g.Interval*8/10
}

// tiles are counted over all, whatever the filter.
func (v *overview) tiles() (all []tile) {
	add := func(id, name, class, format string, args ...any) {
		all = append(all, tile{id, name, fmt.Sprintf(format, args...), class})
	}
	worst := func(bad int, class string) string {
		if bad > 0 {
			return class
		}
		return ""
	}
	if len(v.Models) > 0 {
		ready, rate, known := 0, 0.0, false
		for _, m := range v.Models {
			if m.Ready > 0 {
				ready++
			}
			if m.Rate == m.Rate { // not NaN
				rate, known = rate+m.Rate, true
			}
		}
		add("models", "models ready", worst(len(v.Models)-ready, "bad"), "%d of %d", ready, len(v.Models))
		if known {
			add("models", "requests", "", "%s/s", figure(rate))
		}
	}
	if !v.HasRules {
		return all
	}
	ready, asked, errors, down := 0, 0, 0, 0
	for _, r := range v.Rules {
		if r.Last != nil {
			ready, asked = ready+r.Last.Replicas.Ready, asked+r.Last.Replicas.Spec
		}
	}
	for _, g := range v.Groups {
		errors += len(g.Errors)
	}
	for _, t := range v.Targets {
		if t.Health == "down" {
			down++
		}
	}
	firing, pending := 0, 0
	for _, a := range v.Alerts {
		switch a.State {
		case "firing":
			firing++
		case "pending":
			pending++
		}
	}
	if len(v.Rules) > 0 {
		add("rules", "replicas ready", worst(asked-ready, "warn"), "%d of %d", ready, asked)
	}
	switch {
	case firing > 0:
		add("alerts", "alerts", "bad", "%d firing", firing)
	case pending > 0:
		add("alerts", "alerts", "warn", "%d pending", pending)
	default:
		add("alerts", "alerts", "", "no")
	}
	if len(v.Forecasts) > 0 {
		armed, failing := 0, 0
		for _, f := range v.Forecasts {
			if f.Rule.Error != "" {
				failing++
			} else if f.Series != nil && f.Series.Armed {
				armed++
			}
		}
		add("forecasts", plural("forecast", len(v.Forecasts))+" armed", worst(failing, "bad"), "%d of %d", armed, len(v.Forecasts))
	}
	if errors > 0 {
		add("groups", plural("rule error", errors), "bad", "%d", errors)
	} else {
		add("groups", plural("rule group", len(v.Groups)), "", "%d", len(v.Groups))
	}
	if down > 0 {
		add("targets", "targets", "bad", "%d of %d down", down, len(v.Targets))
	} else {
		add("targets", plural("target", len(v.Targets)), "", "%d", len(v.Targets))
	}
	return all
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

func keep[T any](all []T, belongs func(T) bool) (kept []T) {
	for _, t := range all {
		if belongs(t) {
			kept = append(kept, t)
		}
	}
	return kept
}

// first puts those of which something holds before the others.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// among lists a few names for somebody who gave a wrong one.
func among[T any](all []T, name func(T) string) string {
	const shown = 5
	var names []string
	for _, t := range all[:min(len(all), shown)] {
		names = append(names, name(t))
	}
	switch {
	case len(all) == 0:
		return ": there is none"
	case len(all) > shown:
		names = append(names, "...")
	}
	return ": there is " + strings.Join(names, ", ")
}
