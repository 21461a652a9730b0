package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

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
			for _, r := range g.Rules {
				switch {
				case r.Record != nil:
					o[r.Record.Name] = true
				case r.Alert != nil:
					o.Alerts()
				case r.Scale != nil:
					for _, name := range OutputMetrics() {
						o[name] = true
					}
				}
			}
		}
	}
	return o
}

// Finish says what is wrong with the files together, when all have been read: with Remote, queries that no side can
// answer. The error is of type source.Errors.
func (r *Reader) Finish() error {
	if !r.Remote {
		return nil
	}
	o := own(r.files)
	var errs []error
	for i, f := range r.files {
		d := r.decoders[i]
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
		for j, g := range f.Groups {
			for k, rule := range g.Rules {
				path := fmt.Sprintf("groups[%d].rules[%d]", j, k)
				switch {
				case rule.Record != nil:
					check(path+".expr", rule.Record.Expr)
				case rule.Alert != nil:
					check(path+".expr", rule.Alert.Expr)
				case rule.Scale != nil:
					for _, name := range rule.Scale.names {
						check(exprPath(d, path, name), rule.Scale.Queries[name].Expr)
					}
				}
			}
		}
		errs = append(errs, d.Err())
	}
	return source.Join(errs...)
}

// exprPath is where the PromQL of a scale rule's query is: the query may be that alone.
func exprPath(d *source.Decoder, rule, query string) string {
	path := rule + ".queries." + query
	if d.Has(path + ".expr") {
		path += ".expr"
	}
	return path
}
