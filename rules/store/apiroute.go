package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
	"flyball/rules/promapi"
)

// The methods of Router in this file answer Prometheus's API as those of Store do, each question on its side. A query goes
// where a rule's would, except that one which cannot be parsed here is for the other side to judge: it may know more, as
// VictoriaMetrics does. Names, values and series are asked for on both sides where a selector names no metric. What rules
// and targets there are is told of this process alone.

var (
	errHere = errors.New("this needs the Prometheus of prometheus.url, and another flyball asks for it, which might go in a circle: " +
		"give that flyball the URL of the Prometheus itself")
	errShape = errors.New("its answer cannot be used: its data are not what the API gives")
)

// QueryInstant answers an instant query of any type.
func (r Router) QueryInstant(ctx context.Context, q promapi.Query) (*promapi.Result, error) {
	there, err := r.answerer(q.Expr)
	if err != nil {
		return nil, err
	}
	if there == nil {
		return r.s.QueryInstant(ctx, q)
	}
	return there.Forward(ctx, "query", q.Form())
}

// QuerySteps answers a query at each step from start to end.
func (r Router) QuerySteps(ctx context.Context, q promapi.Range) (*promapi.Result, error) {
	there, err := r.answerer(q.Expr)
	if err != nil {
		return nil, err
	}
	if there == nil {
		return r.s.QuerySteps(ctx, q)
	}
	if err := checkSteps(q); err != nil {
		return nil, err
	}
	return there.Forward(ctx, "query_range", q.Form())
}

// Exemplars lists the exemplars of what an expression selects. The store keeps none.
func (r Router) Exemplars(ctx context.Context, q promapi.Exemplars) (*promapi.Result, error) {
	there, err := r.answerer(q.Expr)
	if err != nil {
		return nil, err
	}
	if there == nil {
		return r.s.Exemplars(q.Expr)
	}
	return there.Forward(ctx, "query_exemplars", q.Form())
}

// LabelNames lists the names of labels.
func (r Router) LabelNames(ctx context.Context, sel promapi.Selection) (*promapi.Result, error) {
	return r.list(ctx, sel, "labels", labelNames)
}

// LabelValues lists the values of one label.
func (r Router) LabelValues(ctx context.Context, name string, sel promapi.Selection) (*promapi.Result, error) {
	escaped := url.PathEscape(name)
	if strings.Trim(name, ".") == "" { // which a path would lose
		escaped = model.EscapeName(name, model.ValueEncodingEscaping)
	}
	return r.list(ctx, sel, "label/"+escaped+"/values", labelValues(name))
}

func (r Router) list(ctx context.Context, sel promapi.Selection, path string, find listFunc) (*promapi.Result, error) {
	sides, err := r.sides(sel.Match)
	switch {
	case err != nil:
		return nil, err
	case sides.there == nil:
		return r.s.list(ctx, sel, find)
	}
	there, err := sides.ask(ctx, sel, path)
	if err != nil || len(sides.here) == 0 {
		return there, err
	}
	defer there.Close()
	var all []string
	if err := read(there, &all); err != nil {
		return nil, err
	}
	here, err := r.s.listOf(ctx, sel, sides.here, find)
	if err != nil {
		return nil, err
	}
	all, cut := union(append(all, here.Data.(promapi.Strings)...), sel.Limit)
	return joined(here, there, promapi.Strings(all), cut), nil
}

// ListSeries lists the label sets of series. At least one selector must be given.
func (r Router) ListSeries(ctx context.Context, sel promapi.Selection) (*promapi.Result, error) {
	sides, err := r.sides(sel.Match)
	switch {
	case err != nil:
		return nil, err
	case sides.there == nil || len(sel.Match) == 0: // which is an error
		return r.s.ListSeries(ctx, sel)
	}
	there, err := sides.ask(ctx, sel, "series")
	if err != nil || len(sides.here) == 0 {
		return there, err
	}
	defer there.Close()
	var found []labels.Labels
	if err := read(there, &found); err != nil {
		return nil, err
	}
	here, err := r.s.seriesOf(ctx, sel, sides.here)
	if err != nil {
		return nil, err
	}
	found = append(found, here.Data.(labelSets)...)
	slices.SortFunc(found, labels.Compare)
	found = slices.CompactFunc(found, labels.Equal)
	cut := sel.Limit > 0 && len(found) > sel.Limit
	if cut {
		found = found[:sel.Limit]
	}
	return joined(here, there, labelSets(found), cut), nil
}

// joined is an answer of both sides. It holds what the one from here does; of the one from there nothing is left but texts.
func joined(here, there *promapi.Result, data promapi.Data, cut bool) *promapi.Result {
	all := &promapi.Result{Data: data, Warnings: there.Warnings, Infos: there.Infos, Release: here.Release}
	if cut && !slices.Contains(all.Warnings, errTruncated.Error()) {
		all.Warnings = append(all.Warnings, errTruncated.Error())
	}
	for _, w := range here.Warnings {
		if !slices.Contains(all.Warnings, w) {
			all.Warnings = append(all.Warnings, w)
		}
	}
	return all
}

// ListMetadata lists what targets say of their metrics: those of the side that scrapes.
func (r Router) ListMetadata(ctx context.Context, f promapi.MetadataFilter) (*promapi.Result, error) {
	there, err := r.elsewhere(r.s.route.Load())
	if err != nil {
		return nil, err
	}
	if there == nil {
		return r.s.ListMetadata(f), nil
	}
	return there.Forward(ctx, "metadata", f.Form())
}

// FormatExpr returns an expression in the form that Prometheus gives long ones.
func (r Router) FormatExpr(expr string) (*promapi.Result, error) { return r.s.FormatExpr(expr) }

// ListRules lists the record and alert rules of this process.
func (r Router) ListRules(f promapi.RuleFilter) (*promapi.Result, error) { return r.s.ListRules(f) }

// ListAlerts lists the alerts of this process that are pending or firing.
func (r Router) ListAlerts() *promapi.Result { return r.s.ListAlerts() }

// ListTargets lists what this process scrapes, which is nothing beside a Prometheus elsewhere.
func (r Router) ListTargets(f promapi.TargetFilter) *promapi.Result { return r.s.ListTargets(f) }

// answerer returns the Prometheus elsewhere if it is the one to answer a query, nil if the store is.
func (r Router) answerer(expr string) (Elsewhere, error) {
	rt := r.s.route.Load()
	if rt.remote == nil {
		return nil, nil
	}
	if parsed, err := r.s.parser.ParseExpr(expr); err == nil {
		remote, err := rt.own.Remote(parsed)
		if err != nil {
			return nil, &promapi.Error{Type: promapi.Execution, Err: err}
		}
		if !remote {
			return nil, nil
		}
	}
	return r.elsewhere(rt)
}

// elsewhere returns the Prometheus elsewhere, nil if there is none, to be asked now.
func (r Router) elsewhere(rt *route) (Elsewhere, error) {
	switch {
	case rt.remote == nil:
		return nil, nil
	case r.here:
		return nil, &promapi.Error{Type: promapi.Execution, Err: errHere}
	case r.s.isClosed():
		return nil, &promapi.Error{Type: promapi.Unavailable, Err: ErrClosed}
	}
	return rt.remote, nil
}

// sides are the selectors of a question for labels or series by who is asked for them.
type sides struct {
	here  []selector
	there Elsewhere // nil: only the store is asked, for all selectors
	match []string  // what there is asked for; none: everything
}

// sides parts selectors, of which none means everything. The store is asked for what the rules write and for no more: what
// else it has is from a time without a Prometheus elsewhere.
func (r Router) sides(match []string) (sides, error) {
	rt := r.s.route.Load()
	if rt.remote == nil {
		return sides{}, nil
	}
	var (
		all    sides
		remote = len(match) == 0
	)
	if remote && len(rt.own) > 0 {
		all.here = []selector{{rt.own.Matcher()}}
	}
	for _, text := range match {
		ms, err := r.s.parser.ParseMetricSelector(text)
		named, own := rt.own.Selects(ms)
		if err == nil && own {
			all.here = append(all.here, ms)
			continue
		}
		remote = true
		all.match = append(all.match, text)
		if err == nil && !named && narrows(ms) && len(rt.own) > 0 {
			all.here = append(all.here, append(slices.Clone(ms), rt.own.Matcher()))
		}
	}
	if !remote {
		return sides{}, nil
	}
	var err error
	all.there, err = r.elsewhere(rt)
	return all, err
}

func (s sides) ask(ctx context.Context, sel promapi.Selection, path string) (*promapi.Result, error) {
	sel.Match = s.match
	return s.there.Forward(ctx, path, sel.Form())
}

// read decodes an answer from elsewhere.
func read(there *promapi.Result, to any) error {
	raw, ok := there.Data.(promapi.Raw)
	if !ok || json.Unmarshal(raw, to) != nil {
		return &promapi.Error{Type: promapi.Unavailable, Err: errShape}
	}
	return nil
}

// Show answers an instant query for a person who looks at it: as Query does, but in the turns of the API, so that it keeps
// no rule waiting.
func (r Router) Show(ctx context.Context, expr string, at time.Time) ([]rules.Sample, error) {
	there, err := r.answerer(expr)
	if err == nil && there == nil {
		return r.s.Query(ctx, expr, at, 0)
	}
	var v shown
	if err == nil {
		v, err = show(there.Forward(ctx, "query", promapi.Query{Expr: expr, Time: at}.Form()))
	}
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), err)
	}
	switch v.Type {
	case model.ValScalar:
		return []rules.Sample{{Value: float64(v.scalar.Value), Time: at}}, nil
	case model.ValVector:
		samples := make([]rules.Sample, 0, len(v.vector))
		for _, s := range v.vector {
			if s.Histogram != nil {
				return nil, fmt.Errorf("query %s: %s is a native histogram: take a number from it, for example with histogram_quantile", brief(expr), s.Metric)
			}
			samples = append(samples, rules.Sample{Labels: labelsOf(s.Metric), Value: float64(s.Value), Time: at})
		}
		return samples, nil
	default:
		return nil, fmt.Errorf("query %s: it gives a %s: a query must give numbers", brief(expr), v.Type)
	}
}

// ShowRange answers a query at each step for a person who looks at it, as QueryRange does.
func (r Router) ShowRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error) {
	there, err := r.answerer(expr)
	if err == nil && there == nil {
		return r.s.QueryRange(ctx, expr, start, end, step)
	}
	var v shown
	if err == nil {
		v, err = show(there.Forward(ctx, "query_range", promapi.Range{Expr: expr, Start: start, End: end, Step: step}.Form()))
	}
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), err)
	}
	series := make([]Series, 0, len(v.matrix))
	for _, m := range v.matrix {
		if len(m.Histograms) > 0 {
			return nil, fmt.Errorf("query %s: %s is a native histogram: take a number from it, for example with histogram_quantile", brief(expr), m.Metric)
		}
		one := Series{Labels: labelsOf(m.Metric), Points: make([]Point, 0, len(m.Values))}
		for _, p := range m.Values {
			one.Points = append(one.Points, Point{Time: p.Timestamp.Time().UTC(), Value: float64(p.Value)})
		}
		series = append(series, one)
	}
	return series, nil
}

// shown is the answer to a query from elsewhere, one of its values by its type.
type shown struct {
	Type   model.ValueType `json:"resultType"`
	Result json.RawMessage `json:"result"`

	vector model.Vector
	matrix model.Matrix
	scalar model.Scalar
}

// show decodes an answer, which must be of all the data.
func show(there *promapi.Result, err error) (v shown, _ error) {
	if err != nil {
		return v, err
	}
	defer there.Close()
	if why := promapi.Partial(there.Warnings); why != "" {
		return v, fmt.Errorf("it is answered for a part of the data only: %s", why)
	}
	if err := read(there, &v); err != nil {
		return v, err
	}
	var to any
	switch v.Type {
	case model.ValVector:
		to = &v.vector
	case model.ValMatrix:
		to = &v.matrix
	case model.ValScalar:
		to = &v.scalar
	default:
		return v, nil
	}
	if json.Unmarshal(v.Result, to) != nil {
		return v, errShape
	}
	return v, nil
}

func labelsOf(m model.Metric) labels.Labels {
	b := labels.NewScratchBuilder(len(m))
	for name, value := range m {
		b.Add(string(name), string(value))
	}
	b.Sort()
	return b.Labels()
}
