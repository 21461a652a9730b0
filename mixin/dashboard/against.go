package dashboard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/rules/source"
)

// API is what is asked of a Prometheus: how many series a query has, and which names and values labels have. A
// *v1.Error of type bad_data or execution says that it refused a query; any other error, that it could not be asked.
type API interface {
	Query(ctx context.Context, expr string, at time.Time) (series int, err error)
	QueryRange(ctx context.Context, expr string, w Window) (series int, err error)
	LabelNames(ctx context.Context, matches []string, w Window) ([]string, error)
	LabelValues(ctx context.Context, label string, matches []string, w Window) ([]string, error)
	// Series are the label sets that a query has at one time, as text: what query_result(...) gives a variable.
	Series(ctx context.Context, expr string, at time.Time) ([]string, error)
}

// Against asks a Prometheus every query of dashboards, with the variables as Grafana would fill them in.
type Against struct {
	API       API
	Window    Window
	Variables map[string]string // values to use instead of those that the Prometheus gives

	names  []string            // of metrics
	labels map[string][]string // of a metric
}

// Check reports the queries that a Prometheus refuses and those that it has no series for, with the name of a metric, label
// or value that was probably meant. Hidden queries and what does not parse are left out. progress, if not nil, is called
// before each query. The error says that the Prometheus could not be asked.
func (a *Against) Check(ctx context.Context, d *Dashboard, progress func(done, of int)) ([]Finding, error) {
	filled, findings, err := a.fill(ctx, d)
	if err != nil {
		return nil, err
	}
	for i, q := range d.Queries {
		if progress != nil {
			progress(i, len(d.Queries))
		}
		if q.Hidden || q.Kind == VariableQuery {
			continue
		}
		if _, fault := d.parse(q); fault != nil {
			continue
		}
		e := filled.expand(q.Expr)
		var series int
		if q.Instant {
			series, err = a.API.Query(ctx, e.text, a.Window.End)
		} else {
			series, err = a.API.QueryRange(ctx, e.text, a.Window)
		}
		f, err := a.judge(ctx, d, q, e, series, err)
		if err != nil {
			return nil, err
		}
		findings = append(findings, f...)
	}
	if progress != nil {
		progress(len(d.Queries), len(d.Queries))
	}
	return findings, nil
}

// judge makes findings of the answer to a query.
func (a *Against) judge(ctx context.Context, d *Dashboard, q *Query, e expanded, series int, err error) ([]Finding, error) {
	if refused, ok := errors.AsType[*v1.Error](err); ok && (refused.Type == v1.ErrBadData || refused.Type == v1.ErrExec) {
		return []Finding{d.fault(q, 0, RuleQuery, "refused: %s (asked: %s)", refused.Msg, e.text)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: ask %s: %w", q.In(), e.text, err)
	}
	if series > 0 {
		return nil, nil
	}
	offset, why, err := a.why(ctx, e)
	if err != nil {
		return nil, err
	}
	return []Finding{d.fault(q, offset, RuleNoData, "no series: %s", why)}, nil
}

// why finds the first selector of an expression that matches nothing, and the part of it that is to blame. The offset is
// that in the expression as it is written.
func (a *Against) why(ctx context.Context, e expanded) (offset int, why string, err error) {
	expr, perr := syntax.ParseExpr(e.text)
	if perr != nil {
		return 0, fmt.Sprintf("with its variables filled in it does not parse: %s: %v", e.text, perr), nil
	}
	var selectors []*parser.VectorSelector
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			selectors = append(selectors, s)
		}
		return nil
	})
	for _, s := range selectors {
		why, err := a.blame(ctx, s)
		if err != nil || why != "" {
			return e.origin(int(s.PosRange.Start)), why, err
		}
	}
	return 0, fmt.Sprintf("every selector has series, what is made of them has none (asked: %s)", e.text), nil
}

// blame says why a selector matches nothing, "" if it does not.
func (a *Against) blame(ctx context.Context, s *parser.VectorSelector) (string, error) {
	found, err := a.API.LabelValues(ctx, model.MetricNameLabel, []string{selector(s.LabelMatchers)}, a.Window)
	if err != nil || len(found) > 0 {
		return "", err
	}
	name := metricName(s)
	if name == "" {
		return "nothing matches " + selector(s.LabelMatchers), nil
	}
	if a.names == nil {
		if a.names, err = a.API.LabelValues(ctx, model.MetricNameLabel, nil, a.Window); err != nil {
			return "", err
		}
	}
	if !slices.Contains(a.names, name) {
		return fmt.Sprintf("no metric %q%s", name, source.DidYouMean(name, a.names)), nil
	}
	of := []string{fmt.Sprintf("{__name__=%q}", name)}
	known, err := a.labelsOf(ctx, name)
	if err != nil {
		return "", err
	}
	for _, m := range s.LabelMatchers {
		if m.Name == model.MetricNameLabel || m.Matches("") {
			continue
		}
		if !slices.Contains(known, m.Name) {
			return fmt.Sprintf("metric %s has no label %q%s", name, m.Name, source.DidYouMean(m.Name, known)), nil
		}
		values, err := a.API.LabelValues(ctx, m.Name, of, a.Window)
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(values, m.Matches) {
			hint := ""
			if m.Type == labels.MatchEqual {
				hint = source.DidYouMean(m.Value, values)
			}
			return fmt.Sprintf("no series of %s has %s%s", name, m, hint), nil
		}
	}
	return fmt.Sprintf("no series of %s matches all of %s", name, selector(s.LabelMatchers)), nil
}

// labelsOf are the labels of a metric.
func (a *Against) labelsOf(ctx context.Context, metric string) ([]string, error) {
	if known, cached := a.labels[metric]; cached {
		return known, nil
	}
	known, err := a.API.LabelNames(ctx, []string{fmt.Sprintf("{__name__=%q}", metric)}, a.Window)
	if err != nil {
		return nil, err
	}
	if a.labels == nil {
		a.labels = map[string][]string{}
	}
	a.labels[metric] = known
	return known, nil
}

// selector is a selector without its offset and range.
func selector(matchers []*labels.Matcher) string {
	parts := make([]string, len(matchers))
	for i, m := range matchers {
		parts[i] = m.String()
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// filled are the values of a dashboard's variables.
type filled struct {
	d      *Dashboard
	window Window
	values map[string]choice
}

// choice is what is chosen of a variable. All may stand for a text of its own, which is used as it is.
type choice struct {
	values []string
	raw    string
}

func (f *filled) expand(expr string) expanded {
	return expand(expr, func(u use) (string, bool) {
		if c, ok := f.values[u.name]; ok {
			if c.raw != "" && u.format != "text" && u.format != "percentencode" {
				return c.raw, true
			}
			return f.d.variable(u.name).write(c.values, u.format), true
		}
		return f.window.macro(u.name, u.format)
	})
}

// fill chooses a value for each variable as Grafana would: All where there is that, else what was saved if it still
// exists, else the first. Variables whose query has no answer are findings.
func (a *Against) fill(ctx context.Context, d *Dashboard) (*filled, []Finding, error) {
	f := &filled{d: d, window: a.Window, values: map[string]choice{}}
	var findings []Finding
	var visit func(v *Variable, path []string) error
	visit = func(v *Variable, path []string) error {
		if _, done := f.values[v.Name]; done || slices.Contains(path, v.Name) {
			return nil
		}
		if v.asked != nil {
			for _, u := range uses(v.Query) { // what it depends on comes first
				if other := d.variable(u.name); other != nil {
					if err := visit(other, append(path, v.Name)); err != nil {
						return err
					}
				}
			}
		}
		values := v.saved()
		if v.asked != nil {
			found, more, err := a.ask(ctx, f, v)
			if err != nil {
				return err
			}
			findings = append(findings, more...)
			values = found
		}
		if given, ok := a.Variables[v.Name]; ok {
			f.values[v.Name] = choice{values: []string{given}}
		} else if v.Type != "datasource" && v.Type != "adhoc" {
			f.values[v.Name] = v.choose(values)
		}
		return nil
	}
	for _, v := range d.Variables {
		if err := visit(v, nil); err != nil {
			return nil, nil, err
		}
	}
	return f, findings, nil
}

// choose picks from the values that there are.
func (v *Variable) choose(values []string) choice {
	kept := slices.DeleteFunc(slices.Clone(v.Current), func(s string) bool { return !slices.Contains(values, s) })
	switch {
	case v.IncludeAll && v.AllValue != "":
		return choice{values: values, raw: v.AllValue}
	case v.IncludeAll && len(values) > 0, v.Multi && len(kept) == 0 && len(values) > 0:
		return choice{values: values}
	case v.Multi && len(kept) > 0:
		return choice{values: kept}
	case len(kept) > 0:
		return choice{values: kept[:1]}
	case len(values) > 0:
		return choice{values: values[:1]}
	}
	return choice{values: []string{""}}
}

// ask gets the values of a variable.
func (a *Against) ask(ctx context.Context, f *filled, v *Variable) (values []string, findings []Finding, err error) {
	q := v.asked
	if q.promQL() {
		if _, fault := f.d.parse(q); fault != nil {
			return nil, nil, nil // Check says so
		}
	}
	e := f.expand(q.Expr)
	switch q.call.name {
	case "label_values":
		var matches []string
		if e.text != "" {
			matches = []string{e.text}
		}
		label := f.expand(q.call.label)
		values, err = a.API.LabelValues(ctx, label.text, matches, a.Window)
	case "label_names":
		values, err = a.API.LabelNames(ctx, nil, a.Window)
	case "metrics":
		values, err = a.API.LabelValues(ctx, model.MetricNameLabel, []string{fmt.Sprintf("{__name__=~%q}", ".*"+e.text+".*")}, a.Window)
	default:
		values, err = a.API.Series(ctx, e.text, a.Window.End)
	}
	if refused, ok := errors.AsType[*v1.Error](err); ok && (refused.Type == v1.ErrBadData || refused.Type == v1.ErrExec) {
		return nil, []Finding{f.d.fault(q, 0, RuleQuery, "refused: %s (asked: %s)", refused.Msg, e.text)}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: ask %s: %w", q.In(), e.text, err)
	}
	all := values
	if values = v.filter(values); len(values) > 0 {
		return values, nil, nil
	}
	offset, why := 0, "nothing is called that"
	switch {
	case len(all) > 0:
		why = fmt.Sprintf("none of %d values matches its regular expression %s", len(all), v.Regex)
	case q.promQL():
		if offset, why, err = a.why(ctx, e); err != nil {
			return nil, nil, err
		}
		if q.call.name == "label_values" && strings.HasPrefix(why, "every selector") {
			why, err = a.noLabel(ctx, e.text, q.call.label)
			if err != nil {
				return nil, nil, err
			}
		}
	}
	return nil, []Finding{f.d.fault(q, offset, RuleNoData, "no values: %s", why)}, nil
}

// noLabel says that the series of a selector do not have a label, and which one was probably meant.
func (a *Against) noLabel(ctx context.Context, expr, label string) (string, error) {
	hint := ""
	parsed, err := syntax.ParseExpr(expr)
	if s, ok := parsed.(*parser.VectorSelector); err == nil && ok && metricName(s) != "" {
		known, err := a.labelsOf(ctx, metricName(s))
		if err != nil {
			return "", err
		}
		hint = source.DidYouMean(label, known)
	}
	return fmt.Sprintf("its series have no label %q%s", label, hint), nil
}
