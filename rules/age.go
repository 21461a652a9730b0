package rules

import (
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"
)

// ageQuery returns PromQL for the time, in Unix seconds, of the data that an expression is made of: the newest sample of
// each of its selectors, and of those the oldest, since an answer is no fresher than its stalest part. The lookback of
// PromQL hides age: a series that nobody has written to for four minutes still answers as if it were new.
//
// A selector with @ or offset looks into the past on purpose; its age counts from there. An expression without selectors
// (a literal, time()) has no age, and "" is returned.
func ageQuery(expr parser.Expr) string {
	var parts []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok || selector.Timestamp != nil || selector.StartOrEnd != 0 {
			return nil
		}
		offset := selector.OriginalOffset
		text := "max(timestamp(" + selector.String() + "))"
		if offset != 0 {
			text = "(" + text + " + " + strconv.FormatFloat(offset.Seconds(), 'f', -1, 64) + ")"
		}
		if !slices.Contains(parts, text) {
			parts = append(parts, text)
		}
		return nil
	})
	switch len(parts) {
	case 0:
		return ""
	case 1:
		return parts[0]
	}
	// Each part is one sample without labels; a label of its own keeps `or` from dropping all but the first.
	for i, part := range parts {
		parts[i] = `label_replace(` + part + `, "selector", "` + strings.Repeat("i", i+1) + `", "", "")`
	}
	return "min(" + strings.Join(parts, " or ") + ")"
}
