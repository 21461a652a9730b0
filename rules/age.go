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
// Where queries go elsewhere, an expression may be made of parts of which some are there and some here, so there is one
// query for each side. A recording rule then fails as often as the network does, and what it wrote last is answered for
// the whole lookback: so the time of the recorded series counts beside that of what the rule reads.
//
// A selector with offset looks into the past on purpose; its age counts from there. One with @ has no age, and neither
// has an expression without selectors (a literal, time()): then the result is empty.
type ages struct {
	records map[string][]recorded // by the metric that they write
	own     Own                   // what is answered here; nil where all is
	labels  []string              // by which the times are asked apart, for the targets of a rule for many
}

// by is the grouping of the times.
func (a ages) by() string {
	if len(a.labels) == 0 {
		return ""
	}
	quoted := make([]string, len(a.labels))
	for i, name := range a.labels {
		quoted[i] = name
		if !model.LegacyValidation.IsValidLabelName(name) {
			quoted[i] = strconv.Quote(name)
		}
	}
	return " by (" + strings.Join(quoted, ", ") + ") "
}

// agePart is the time of one selector.
type agePart struct {
	text   string
	remote bool // to be asked elsewhere
}

type recorded struct {
	expr   parser.Expr
	labels map[string]string
}

func newAges(files []*File) ages {
	a := ages{records: map[string][]recorded{}}
	for _, f := range files {
		for _, g := range f.Groups {
			for r := range g.written() {
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

// queries returns the PromQL for the time of an expression's data, one for each side that has a part of it.
func (a ages) queries(expr parser.Expr) (queries []string) {
	var here, elsewhere []string
	for _, part := range a.parts(expr, nil, map[parser.Expr]bool{}) {
		if part.remote {
			elsewhere = append(elsewhere, part.text)
		} else {
			here = append(here, part.text)
		}
	}
	for _, parts := range [][]string{here, elsewhere} {
		if len(parts) > 0 {
			queries = append(queries, a.oldest(parts))
		}
	}
	return queries
}

// oldest is PromQL for the smallest of the times.
func (a ages) oldest(parts []string) string {
	if len(parts) == 1 {
		return parts[0]
	}
	// Each part is one sample without labels; a label of its own keeps `or` from dropping all but the first.
	for i, part := range parts {
		parts[i] = fmt.Sprintf(`label_replace(%s, "selector", "%d", "", "")`, part, i+1)
	}
	return "min" + a.by() + "(" + strings.Join(parts, " or ") + ")"
}

// parts are the times of the expression's selectors, each once. within are the recorded metrics that are being traced,
// which a rule that reads its own output would otherwise do forever; seen are the rules' expressions that have been traced,
// each of which has given its part: rules that read one another have more paths than anybody could follow.
func (a ages) parts(expr parser.Expr, within []string, seen map[parser.Expr]bool) (parts []agePart) {
	add := func(part agePart) {
		if !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok || selector.Timestamp != nil || selector.StartOrEnd != 0 {
			return nil
		}
		name := metricName(selector.LabelMatchers)
		if sources := a.sources(selector, name); len(sources) > 0 && !slices.Contains(within, name) {
			for _, source := range sources {
				if seen[source] {
					continue
				}
				seen[source] = true
				for _, part := range a.parts(source, append(slices.Clip(within), name), seen) {
					add(part)
				}
			}
			if a.own == nil {
				return nil
			}
		}
		text := "max" + a.by() + "(timestamp(" + selector.String() + "))"
		if matrix, ok := parent(path).(*parser.MatrixSelector); ok {
			text = "(" + text + " or 0 * count" + a.by() + "(last_over_time(" + matrix.String() + ")))"
		}
		if selector.OriginalOffset != 0 {
			text = "(" + text + " + " + strconv.FormatFloat(selector.OriginalOffset.Seconds(), 'f', -1, 64) + ")"
		}
		add(agePart{text, a.own != nil && !a.own[name]})
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
func metricName(selector []*labels.Matcher) string {
	for _, m := range selector {
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
