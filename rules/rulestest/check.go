package rulestest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

// agenda is what is to be looked at when.
type agenda []item

type item struct {
	at   time.Duration // since the start
	path string
	i    int // in its list
}

func (a *agenda) add(at time.Duration, path string, i int) { *a = append(*a, item{at, path, i}) }

func (a agenda) last() (last time.Duration) {
	for _, i := range a {
		last = max(last, i.at)
	}
	return last
}

// each calls f for what is due from one time on, and before another.
func (a agenda) each(from, to time.Duration, f func(item)) {
	for _, i := range a {
		if i.at >= from && i.at < to {
			f(i)
		}
	}
}

// checkAlert compares the alerts of a name that fire.
func (r *run) checkAlert(due item) {
	t := &r.test.AlertRuleTest[due.i]
	var want, got []Alert
	for _, a := range t.ExpAlerts {
		ls := maps.Clone(a.Labels)
		if ls == nil {
			ls = map[string]string{}
		}
		ls[model.AlertNameLabel] = t.Alertname // the rule's own; a test need not say it
		want = append(want, Alert{labelsOf(ls), labelsOf(a.Annotations)})
	}
	for _, a := range r.engine.Firing() {
		if a.Labels.Get(model.AlertNameLabel) == t.Alertname {
			got = append(got, a)
		}
	}
	byLabels := func(a, b Alert) int {
		return cmp.Or(labels.Compare(a.Labels, b.Labels), labels.Compare(a.Annotations, b.Annotations))
	}
	slices.SortFunc(want, byLabels)
	slices.SortFunc(got, byLabels)
	if !slices.EqualFunc(want, got, func(a, b Alert) bool {
		return labels.Equal(a.Labels, b.Labels) && labels.Equal(a.Annotations, b.Annotations)
	}) {
		r.failAt(due.path, alertLines(want), alertLines(got), "alert %s at %s: expected %s to fire, got %s", t.Alertname, t.EvalTime, alertCount(len(want)), strconv.Itoa(len(got)))
	}
}

func alertCount(n int) string {
	if n == 1 {
		return "1 alert"
	}
	return fmt.Sprintf("%d alerts", n)
}

func alertLines(all []Alert) []string {
	lines := []string{}
	for _, a := range all {
		lines = append(lines, a.Labels.String())
		a.Annotations.Range(func(l labels.Label) { lines = append(lines, "  "+l.Name+": "+oneLine(l.Value)) })
	}
	return lines
}

// oneLine quotes what would not stay on one line.
func oneLine(s string) string {
	if strings.ContainsAny(s, "\n\r\t") {
		return strconv.Quote(s)
	}
	return s
}

// checkScale compares a decision.
func (r *run) checkScale(due item) {
	t := &r.test.ScaleRuleTest[due.i]
	d, why := t.decision(r.decisions(t.Rule))
	what := fmt.Sprintf("scale %s at %s", t.Rule, t.EvalTime)
	if err := r.refused[t.Rule]; err != nil {
		why = "no decision: " + err.Error()
	}
	if d == nil {
		r.failAt(due.path, nil, nil, "%s: %s", what, why)
		return
	}
	want, got := t.Expect.lines(d)
	if slices.Equal(want, got) {
		return
	}
	r.failAt(due.path, want, got, "%s: %d -> %d, because %s", what, d.From, d.To, because(d))
}

// failing is how a rule that decides has fared.
type failing struct {
	rule, group string
	times       int
	err         error // the first
}

// failing notes which rules that decide have failed.
func (r *run) failing(failed []RuleFailure) {
	if r.failures == nil {
		r.failures = map[string]*failing{}
	}
	r.refused = map[string]error{}
	for _, f := range failed {
		if !f.Evaluator {
			continue
		}
		if _, scale := r.scalers[f.Rule]; scale {
			r.refused[f.Rule] = f.Err
		}
		key := f.Group + "\x00" + f.Rule
		if r.failures[key] == nil {
			r.failures[key] = &failing{rule: f.Rule, group: f.Group, err: f.Err}
		}
		r.failures[key].times++
	}
}

// explainFailing tells the rules that failed at every evaluation, if the test failed: that may be why. A budget fails for as
// long as nothing is known of what was spent, which is no matter to a test of something else.
func (r *run) explainFailing() {
	if r.report.Passed {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(r.failures)) {
		if f := r.failures[key]; f.times == r.report.Evaluations {
			r.failAt(r.path, nil, nil, "rule %s in group %s fails at every evaluation: %s", f.rule, f.group, f.err)
		}
	}
}

// decisions are those of a scale rule at the present evaluation: none where it failed, whatever it decided before.
func (r *run) decisions(rule string) []*rules.Decision {
	if r.refused[rule] != nil {
		return nil
	}
	return r.scalers[rule].Decisions()
}

// because is why a decision came out as it did.
func because(d *rules.Decision) string {
	text := d.ReasonText()
	if d.Text != "" {
		text += ": " + d.Text
	}
	if d.Error != "" {
		text += ", error: " + d.Error
	}
	return text
}

// observe asks the invariants of the decisions of an evaluation.
func (r *run) observe(elapsed time.Duration) {
	if r.violations == nil {
		r.violations = map[string]*violation{}
	}
	for _, name := range slices.Sorted(maps.Keys(r.scalers)) {
		for _, d := range r.decisions(name) {
			for _, inv := range r.invariants {
				holds, asked, err := inv.holds(d, elapsed)
				if !asked {
					continue
				}
				inv.asked++
				key := inv.path + "\x00" + d.Rule + "\x00" + d.Target
				v := r.violations[key]
				if v == nil {
					v = &violation{invariant: inv}
					r.violations[key] = v
				}
				v.asked++
				if holds {
					continue
				}
				if v.times++; v.times == 1 {
					v.first, v.decision, v.err = elapsed, d, err
				}
			}
		}
	}
}

// checkInvariants tells which invariants did not hold, and which were never asked.
func (r *run) checkInvariants() {
	for _, key := range slices.Sorted(maps.Keys(r.violations)) {
		v := r.violations[key]
		if v.times == 0 {
			continue
		}
		d := v.decision
		if v.err != nil {
			r.failAt(v.invariant.path, nil, nil, "invariant of %s, target %s, at %s: %s", d.Rule, d.Target, brief(v.first), v.err)
			continue
		}
		r.failAt(v.invariant.path, nil, nil, "invariant of %s, target %s, does not hold at %s, the first of %d of %d evaluations: %d -> %d, ready %d, because %s",
			d.Rule, d.Target, brief(v.first), v.times, v.asked, d.From, d.To, d.Replicas.Ready, because(d))
	}
	for _, inv := range r.invariants {
		if inv.asked == 0 {
			r.failAt(inv.path, nil, nil, "the invariant was never asked: no decision had valid answers to the queries that it uses")
		}
	}
}

// checkExpressions compares the answers to PromQL queries, when all rules have been evaluated.
func (r *run) checkExpressions(ctx context.Context) error {
	for i := range r.test.PromQLExprTest {
		t := &r.test.PromQLExprTest[i]
		path := fmt.Sprintf("%s.promql_expr_test[%d]", r.path, i)
		what := fmt.Sprintf("expression at %s", t.EvalTime)
		got, err := r.engine.Vector(ctx, t.Expr, r.start.Add(time.Duration(t.EvalTime)))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.failAt(path+".expr", nil, nil, "%s: %s", what, err)
			continue
		}
		want, ok := r.expected(t, path)
		if !ok {
			continue
		}
		byLabels := func(a, b Sample) int { return labels.Compare(a.Labels, b.Labels) }
		slices.SortStableFunc(want, byLabels)
		slices.SortStableFunc(got, byLabels)
		if !slices.EqualFunc(want, got, r.same) {
			if slices.ContainsFunc(want, func(s Sample) bool { return math.IsNaN(s.Value) }) {
				what += ", where NaN is no sample's equal (expect the answer to EXPR != EXPR)"
			}
			r.failAt(path, sampleLines(want), sampleLines(got), "%s: %s", what, oneLine(t.Expr))
		}
	}
	return nil
}

// expected are the samples that a test expects; what is wrong with them is told.
func (r *run) expected(t *ExprTest, path string) (want []Sample, ok bool) {
	for i, s := range t.ExpSamples {
		at := fmt.Sprintf("%s.exp_samples[%d]", path, i)
		ls, err := promQL.ParseMetric(s.Labels)
		if err != nil {
			message, _ := parseError(err)
			r.failAt(at+".labels", nil, nil, "labels: %q is not a series: %s", s.Labels, message)
			return nil, false
		}
		sample := Sample{Labels: ls, Value: float64(s.Value)}
		if s.Histogram != "" {
			if sample.Histogram, err = parseHistogram(s.Histogram); err != nil {
				r.failAt(at+".histogram", nil, nil, "%s", err)
				return nil, false
			}
		}
		want = append(want, sample)
	}
	return want, true
}

// same compares two samples as promtool does: NaN is nothing's equal.
func (r *run) same(a, b Sample) bool {
	if !labels.Equal(a.Labels, b.Labels) || histogramText(a) != histogramText(b) {
		return false
	}
	x, y := a.Value, b.Value
	return x == y || r.file.FuzzyCompare && (math.Nextafter(x, math.Inf(-1)) == y || math.Nextafter(x, math.Inf(1)) == y)
}

func histogramText(s Sample) string {
	if s.Histogram == nil {
		return ""
	}
	return s.Histogram.TestExpression()
}

func sampleLines(all []Sample) []string {
	lines := []string{}
	for _, s := range all {
		value := histogramText(s)
		if value == "" {
			value = strconv.FormatFloat(s.Value, 'g', -1, 64)
		}
		lines = append(lines, s.Labels.String()+" "+value)
	}
	return lines
}

// brief is a duration as Prometheus writes it.
func brief(d time.Duration) string { return model.Duration(d).String() }
