package rules

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// ages makes, for an expression, the PromQL for the time in Unix seconds of the data that it is made of: the newest
// sample of each of its selectors, and of those the oldest, since an answer is no fresher than its stalest part.
//
//   - PromQL's lookback hides age: a series that nobody has written to for four minutes still answers as if it were new.
//   - A range hides an end: rate(x[5m]) goes on answering, ever smaller, for five minutes after the last scrape of x
//     failed. Of a range whose series have all ended the time is 0.
//   - A recording rule hides both: it stamps what it reads as new. A selector of a recorded series is therefore traced to
//     what the rule reads, as far as the rule is in the files that were read.
//
// A selector with offset looks into the past on purpose; its age counts from there. One with @ has no age, and neither
// has an expression without selectors (a literal, time()): then the result is empty.
type ages struct {
	records map[string][]recorded // by the metric that they write
}

type recorded struct {
	expr   parser.Expr
	labels map[string]string
}

func newAges(files []*File) ages {
	a := ages{records: map[string][]recorded{}}
	for _, f := range files {
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				if r.Record == nil {
					continue
				}
				if expr, err := promQL.ParseExpr(r.Record.Expr); err == nil {
					all := maps.Clone(g.Labels)
					if all == nil {
						all = map[string]string{}
					}
					maps.Copy(all, r.Record.Labels)
					a.records[r.Record.Name] = append(a.records[r.Record.Name], recorded{expr, all})
				}
			}
		}
	}
	return a
}

// query returns the PromQL for the time of an expression's data, or "".
func (a ages) query(expr parser.Expr) string {
	parts := a.parts(expr, nil)
	switch len(parts) {
	case 0:
		return ""
	case 1:
		return parts[0]
	}
	// Each part is one sample without labels; a label of its own keeps `or` from dropping all but the first.
	for i, part := range parts {
		parts[i] = fmt.Sprintf(`label_replace(%s, "selector", "%d", "", "")`, part, i+1)
	}
	return "min(" + strings.Join(parts, " or ") + ")"
}

// parts are the times of the expression's selectors, each once. within are the recorded metrics that are being traced,
// which a rule that reads its own output would otherwise do forever.
func (a ages) parts(expr parser.Expr, within []string) (parts []string) {
	add := func(part string) {
		if !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok || selector.Timestamp != nil || selector.StartOrEnd != 0 {
			return nil
		}
		name := metricName(selector)
		if sources := a.sources(selector, name); len(sources) > 0 && !slices.Contains(within, name) {
			for _, source := range sources {
				for _, part := range a.parts(source, append(slices.Clip(within), name)) {
					add(part)
				}
			}
			return nil
		}
		text := "max(timestamp(" + selector.String() + "))"
		if matrix, ok := parent(path).(*parser.MatrixSelector); ok {
			text = "(" + text + " or 0 * count(last_over_time(" + matrix.String() + ")))"
		}
		if selector.OriginalOffset != 0 {
			text = "(" + text + " + " + strconv.FormatFloat(selector.OriginalOffset.Seconds(), 'f', -1, 64) + ")"
		}
		add(text)
		return nil
	})
	return parts
}

// sources are the expressions of the recording rules that may have written what the selector selects.
func (a ages) sources(selector *parser.VectorSelector, name string) (exprs []parser.Expr) {
	for _, r := range a.records[name] {
		if !slices.ContainsFunc(selector.LabelMatchers, func(m *labels.Matcher) bool {
			fixed, set := r.labels[m.Name]
			return set && !m.Matches(fixed)
		}) {
			exprs = append(exprs, r.expr)
		}
	}
	return exprs
}

// metricName is the metric that a selector names, or "".
func metricName(selector *parser.VectorSelector) string {
	for _, m := range selector.LabelMatchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual {
			return m.Value
		}
	}
	return ""
}

func parent(path []parser.Node) parser.Node {
	if len(path) == 0 {
		return nil
	}
	return path[len(path)-1]
}
