package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/rules/source"
)

// Lint says what is probably not meant in the files that were read, though it is valid: it is of type source.Errors, or
// nil.
func (r *Reader) Lint() error {
	decoders := make([]*source.Decoder, len(r.sources))
	for i, s := range r.sources {
		decoders[i] = s.Decoder()
	}
	recorded := own(r.files)
	for i, f := range r.files {
		for j := range f.Groups {
			lintGroup(decoders[i], fmt.Sprintf("groups[%d]", j), &f.Groups[j])
		}
	}
	for at, rule := range r.all() {
		d := decoders[at.file]
		l := linter{d: d, scrape: r.Defaults.ScrapeInterval, recorded: recorded}
		switch {
		case rule.Record != nil:
			l.query(at.path+".expr", rule.Record.Expr, false)
		case rule.Alert != nil:
			l.query(at.path+".expr", rule.Alert.Expr, false)
		case rule.Budget != nil:
			l.query(at.path+".spend", rule.Budget.spend(time.Hour), false)
		case rule.Forecast != nil:
			l.forecast(at.path, rule.Forecast)
		case rule.Optimize != nil:
			for _, name := range rule.Optimize.scale.names {
				l.query(exprPath(d, at.path, name), rule.Optimize.scale.Queries[name].Expr, false)
			}
		case rule.Scale != nil:
			l.forecasts(at.path, rule.Scale, forecastRules(r.files))
			for _, name := range rule.Scale.names {
				if !strings.Contains(name, "@") {
					l.query(exprPath(d, at.path, name), rule.Scale.Queries[name].Expr, rule.Scale.sizedBy(name))
				}
			}
		}
	}
	var errs []error
	for i, d := range decoders {
		errs = append(errs, d.Err(), r.sources[i].More())
	}
	return source.Join(errs...)
}

// lintGroup looks at what a group's rules are together.
func lintGroup(d *source.Decoder, path string, g *Group) {
	scales := slices.ContainsFunc(g.Rules, func(r Rule) bool { return r.Scale != nil })
	if g.QueryOffset != nil && *g.QueryOffset > 0 && scales {
		d.FaultAt(path+".query_offset", 0, "query_offset is %s: each decision of this group comes so much later, on data that is so much older: put scale rules into a group without it", *g.QueryOffset)
	}
	written := map[[2]string][]int{} // rules by kind and name
	for i := range g.Rules {
		rule := &g.Rules[i]
		var key [2]string
		switch {
		case rule.Record != nil:
			key = [2]string{"record", rule.Record.Name}
		case rule.Alert != nil:
			key = [2]string{"alert", rule.Alert.Name}
		default:
			continue
		}
		for _, first := range written[key] {
			if maps.Equal(rule.labels(), g.Rules[first].labels()) {
				d.FaultAt(fmt.Sprintf("%s.rules[%d]", path, i), 0, "it writes the same series as rule %d of the group: one of them will be refused as a duplicate", first+1)
				break
			}
		}
		written[key] = append(written[key], i)
	}
}

// labels are those of a record or an alert rule.
func (r *Rule) labels() map[string]string {
	if r.Record != nil {
		return r.Record.Labels
	}
	return r.Alert.Labels
}

type linter struct {
	d        *source.Decoder
	scrape   time.Duration
	recorded Own
}

// ofCounters are the functions that make something of a counter that a counter itself is not.
var ofCounters = []string{
	"rate", "irate", "increase", "resets", "changes", "timestamp", "absent", "absent_over_time", "present_over_time",
	"count_over_time", "last_over_time", "histogram_quantile",
}

// needsSamples are the functions that need two samples or more within their range.
var needsSamples = []string{"rate", "irate", "increase", "delta", "idelta", "deriv", "predict_linear"}

// sizedBy says that a signal needs a query: its value is a demand, of which less means a smaller target.
func (s *Scale) sizedBy(query string) bool {
	return slices.ContainsFunc(s.Signals, func(g Signal) bool {
		return g.value.needs(query) || g.Panic != nil && g.Panic.value.needs(query)
	})
}

// query looks at one expression; deciding says that the size of a target follows its value.
func (l *linter) query(path, expr string, deciding bool) {
	parsed, err := promQL.ParseExpr(expr)
	if err != nil {
		return // told before
	}
	parser.Inspect(parsed, func(node parser.Node, ancestors []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			l.counter(path, n, ancestors)
		case *parser.MatrixSelector:
			l.window(path, n, ancestors)
		case *parser.BinaryExpr:
			if deciding && n.Op == parser.LOR && isZero(n.RHS) {
				l.d.FaultAt(path, int(n.RHS.PositionRange().Start), "`or vector(0)` makes missing data look like no demand, and a target as small as it may be: without it the rule holds its size")
			}
		}
		return nil
	})
}

// forecast looks at a forecast rule.
func (l *linter) forecast(path string, f *ForecastRule) {
	l.query(path+".query", f.Query, false)
	for _, key := range []string{"events", "regressors"} {
		if l.d.Has(path + "." + key) {
			l.d.FaultAt(path+"."+key, 0, "%s: they are checked, and forecasts do not use them in this version", key)
		}
	}
	parsed, err := promQL.ParseExpr(f.Query)
	if err != nil {
		return
	}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		n, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		switch name := metricName(n.LabelMatchers); {
		case strings.Contains(name, "_replicas"):
			l.d.FaultAt(path+".query", int(n.PosRange.Start), "%s is a number of replicas: a forecast of it repeats what was decided before; forecast the demand instead", name)
		case strings.HasPrefix(name, "flyball_batchproxy_requests_total") && slices.ContainsFunc(n.LabelMatchers, func(m *labels.Matcher) bool {
			return m.Name == "code" && m.Type != labels.MatchNotEqual && m.Type != labels.MatchNotRegexp
		}):
			l.d.FaultAt(path+".query", int(n.PosRange.Start), "these are requests that were served: no more than the replicas could take; forecast those that came, without the label code")
		}
		return nil
	})
}

// forecasts looks at the forecasts that a scale rule uses.
func (l *linter) forecasts(path string, s *Scale, all map[string]*ForecastRule) {
	for i, signal := range s.Signals {
		at := fmt.Sprintf("%s.signals[%d].forecast", path, i)
		switch f := all[signal.Forecast]; {
		case signal.Forecast == "" || f == nil && l.recorded[signal.Forecast]:
		case f == nil:
			l.d.FaultAt(at, 0, "no rule that is loaded writes %s: unless something else does, the signal asks for nothing%s", signal.Forecast, source.DidYouMean(signal.Forecast, sortedKeys(all)))
		case !s.Startup.Auto && s.Startup.Given > time.Duration(f.Horizon):
			l.d.FaultAt(at, 0, "a start takes %s and the horizon of %s is %s: its models are fitted to less than is needed: set horizon to %s or more", s.Startup, f.Name, f.Horizon, s.Startup)
		}
	}
}

// counter looks for one whose value is used as it is.
func (l *linter) counter(path string, n *parser.VectorSelector, ancestors []parser.Node) {
	name := metricName(n.LabelMatchers)
	if l.recorded[name] || !strings.HasSuffix(name, "_total") {
		return
	}
	for _, a := range ancestors {
		switch a := a.(type) {
		case *parser.Call:
			if slices.Contains(ofCounters, a.Func.Name) {
				return
			}
		case *parser.AggregateExpr:
			if a.Op == parser.COUNT || a.Op == parser.GROUP {
				return
			}
		}
	}
	l.d.FaultAt(path, int(n.PosRange.Start), "%s is a counter: its value is what was counted since its process started; take rate() or increase() of it", name)
}

// window looks for a range in which there are seldom enough samples.
func (l *linter) window(path string, n *parser.MatrixSelector, ancestors []parser.Node) {
	call, ok := parent(ancestors).(*parser.Call)
	if !ok || l.scrape <= 0 || n.Range >= 4*l.scrape || !slices.Contains(needsSamples, call.Func.Name) {
		return
	}
	selector, ok := n.VectorSelector.(*parser.VectorSelector)
	if !ok {
		return
	}
	l.d.FaultAt(path, int(selector.PosRange.Start), "%s over %s, where a sample comes each %s: after one that is missing there may be no answer: use %s or more",
		call.Func.Name, model.Duration(n.Range), model.Duration(l.scrape), model.Duration(4*l.scrape))
}

// isZero says that an expression is vector(0), in whatever parentheses.
func isZero(e parser.Expr) bool {
	for {
		p, ok := e.(*parser.ParenExpr)
		if !ok {
			break
		}
		e = p.Expr
	}
	call, ok := e.(*parser.Call)
	if !ok || call.Func.Name != "vector" || len(call.Args) != 1 {
		return false
	}
	number, ok := call.Args[0].(*parser.NumberLiteral)
	return ok && number.Val == 0
}
