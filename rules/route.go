package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/rules/source"
)

// Own are the metrics that the loaded rule files write. Where queries go to a Prometheus elsewhere, what the rules write
// lives in the store here; a query of nothing but that is answered here, so that a rule sees at once what the one above
// it wrote, and any other elsewhere.
type Own map[string]bool

// Alerts adds what alert rules write.
func (o Own) Alerts() {
	o["ALERTS"], o["ALERTS_FOR_STATE"] = true, true
}

func (o Own) add(names []string) {
	for _, name := range names {
		o[name] = true
	}
}

// Remote says whether an expression is for the Prometheus elsewhere, by the metrics that its selectors name; a selector
// without a fixed name is, an expression without selectors is not. The error is a *MixError.
func (o Own) Remote(expr parser.Expr) (bool, error) {
	var own, remote *parser.VectorSelector
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		switch {
		case !ok:
		case o[metricName(selector.LabelMatchers)]:
			if own == nil {
				own = selector
			}
		case remote == nil:
			remote = selector
		}
		return nil
	})
	if own != nil && remote != nil {
		return false, &MixError{Own: own.String(), Remote: remote.String(), Offset: int(remote.PosRange.Start)}
	}
	return remote != nil, nil
}

// Selects says whether a selector names a metric, and whether it is one that the rules write.
func (o Own) Selects(selector []*labels.Matcher) (named, own bool) {
	name := metricName(selector)
	return name != "", o[name]
}

// Matcher selects all that the rules write, whatever else a selector asks for.
func (o Own) Matcher() *labels.Matcher {
	var names []string
	for name := range o {
		names = append(names, regexp.QuoteMeta(name))
	}
	slices.Sort(names)
	return labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, strings.Join(names, "|"))
}

// MixError says that no side can answer a query: it needs series of both.
type MixError struct {
	Own, Remote string // a selector of each side
	Offset      int    // of Remote in the expression, in bytes
}

func (e *MixError) Error() string {
	return fmt.Sprintf("the query mixes series of the Prometheus elsewhere (%s) with those that the rules write (%s), and no side has both: "+
		"record what is needed of %s by a rule above, such as {record: my:name, expr: ...}, and query that", e.Remote, e.Own, e.Remote)
}

// own are the metrics that the files write.
func own(files []*File) Own {
	o := Own{}
	for _, f := range files {
		for _, g := range f.Groups {
			for r := range g.written() {
				switch {
				case r.Record != nil:
					o[r.Record.Name] = true
				case r.Alert != nil:
					o.Alerts()
				case r.Scale != nil, r.Budget != nil, r.Optimize != nil:
					o.add(OutputMetrics())
				case r.Forecast != nil:
					o.add(OutputMetrics())
					o[r.Forecast.Name] = true
				}
			}
		}
	}
	return o
}

// CheckExpr notes the faults of PromQL that is at a path of another file than one of rules: of its text and, with Remote, that
// no side can answer it. It is called when all rule files have been read.
func (r *Reader) CheckExpr(d *source.Decoder, path, expr string) {
	parsed := checkPromQL(d, path, expr)
	if parsed == nil || !r.Remote {
		return
	}
	_, err := own(r.files).Remote(parsed)
	if mix, ok := errors.AsType[*MixError](err); ok {
		d.FaultAt(path, mix.Offset, "PromQL: %s", mix)
	}
}

// Finish says what is wrong with the files together, when all have been read: budgets that apply to rules which there are
// not and, with Remote, queries that no side can answer. The error is of type source.Errors.
func (r *Reader) Finish() error {
	scales := sortedKeys(r.rules)
	o := own(r.files)
	forecasts := forecastRules(r.files)
	decoders := make([]*source.Decoder, len(r.sources))
	for i, s := range r.sources {
		decoders[i] = s.Decoder()
	}
	for at, rule := range r.all() {
		d := decoders[at.file]
		if b := rule.Budget; b != nil {
			for i, name := range b.AppliesTo {
				if !slices.Contains(scales, name) {
					d.FaultAt(fmt.Sprintf("%s.applies_to[%d]", at.path, i), 0, "no scale rule %q%s", name, source.DidYouMean(name, scales))
				}
			}
		}
		if rule.Scale != nil {
			checkForecasts(d, at.path, rule.Scale, forecasts)
		}
		if !r.Remote {
			continue
		}
		check := func(path, expr string) {
			parsed, err := promQL.ParseExpr(expr)
			if err != nil {
				return // told before
			}
			_, err = o.Remote(parsed)
			if mix, ok := errors.AsType[*MixError](err); ok {
				d.FaultAt(path, mix.Offset, "PromQL: %s", mix)
			}
		}
		switch {
		case rule.Record != nil:
			check(at.path+".expr", rule.Record.Expr)
		case rule.Alert != nil:
			check(at.path+".expr", rule.Alert.Expr)
		case rule.Budget != nil:
			check(at.path+".spend", rule.Budget.spend(time.Hour))
		case rule.Forecast != nil:
			check(at.path+".query", rule.Forecast.Query)
			for _, name := range sortedKeys(rule.Forecast.Regressors) {
				check(at.path+".regressors."+name, rule.Forecast.Regressors[name])
			}
		case rule.Scale != nil:
			for _, name := range rule.Scale.names {
				if !strings.Contains(name, "@") {
					check(exprPath(d, at.path, name), rule.Scale.Queries[name].Expr)
				}
			}
			if f := rule.Scale.ForEach; f != nil && f.Query != "" {
				check(at.path+".for_each.query", f.Query)
			}
		}
	}
	var errs []error
	for _, d := range decoders {
		errs = append(errs, d.Err())
	}
	return source.Join(errs...)
}

// forecastRules are the forecast rules of files, by name.
func forecastRules(files []*File) map[string]*ForecastRule {
	found := map[string]*ForecastRule{}
	for _, file := range files {
		for i := range file.Groups {
			for _, rule := range file.Groups[i].Rules {
				if f := rule.Forecast; f != nil {
					found[f.Name] = f
				}
			}
		}
	}
	return found
}

// checkQuantiles checks those that a file asks of the forecasts that are known by then; Finish does, of all.
func (r *Reader) checkQuantiles(d *source.Decoder, f *File) {
	all := forecastRules(append(slices.Clone(r.files), f))
	for i := range f.Groups {
		for j, rule := range f.Groups[i].Rules {
			if rule.Scale != nil {
				checkForecasts(d, fmt.Sprintf("groups[%d].rules[%d]", i, j), rule.Scale, all)
			}
		}
	}
}

// checkForecasts says which quantiles signals ask for that the forecast does not give.
func checkForecasts(d *source.Decoder, path string, s *Scale, all map[string]*ForecastRule) {
	for i, signal := range s.Signals {
		f := all[signal.Forecast]
		if f == nil || signal.Quantile <= 0 || slices.Contains(f.Levels, signal.Quantile) {
			continue
		}
		at := fmt.Sprintf("%s.signals[%d].quantile", path, i)
		if !d.Has(at) {
			at = fmt.Sprintf("%s.signals[%d].forecast", path, i)
		}
		levels := make([]string, len(f.Levels))
		for n, level := range f.Levels {
			levels[n] = levelText(level)
		}
		d.FaultAt(at, 0, "quantile is %s: forecast %s gives the levels %s", levelText(signal.Quantile), f.Name, strings.Join(levels, ", "))
	}
}

// exprPath is where the PromQL of a scale rule's query is: the query may be that alone.
func exprPath(d *source.Decoder, rule, query string) string {
	path := rule + ".queries." + query
	if d.Has(path + ".expr") {
		path += ".expr"
	}
	return path
}
