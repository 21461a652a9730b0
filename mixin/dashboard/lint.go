package dashboard

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// linter collects the findings of the rules of Grafana's dashboard-linter, under their names there.
type linter struct {
	d        *Dashboard
	findings []Finding
}

// Lint reports what does not follow the rules of Grafana's dashboard-linter, less what the exclusions say. That queries
// parse (target-promql-rule, template-label-promql-rule) is for Check, as no matter of style. Of Loki's queries only the
// ranges are looked at (target-logql-auto-rule): whether they parse (target-logql-rule) is not known here.
func (d *Dashboard) Lint(x *Exclusions) []Finding {
	l := &linter{d: d}
	l.dashboard()
	for _, v := range d.Variables {
		l.variable(v)
	}
	for _, p := range d.Panels {
		l.panel(p)
	}
	for _, t := range d.loki {
		l.loki(t.target, t.panel)
	}
	for _, q := range d.Queries {
		if q.Kind == PanelQuery {
			l.target(q)
		}
	}
	return x.apply(d, l.findings)
}

func (l *linter) report(at int, in, rule, format string, args ...any) {
	f := l.d.finding(at, nil, rule, format, args...)
	f.Severity, f.In = Style, in
	l.findings = append(l.findings, f)
}

func (l *linter) dashboard() {
	title := l.d.root.place()
	if v := l.d.root.get("title"); v != nil {
		title = v.at
	}
	if l.d.editable {
		at := title
		if v := l.d.root.get("editable"); v != nil {
			at = v.at
		}
		l.report(at, "", "uneditable-dashboard", "editable is not false: what is changed in the browser is lost with the next version")
	}
	if source := l.d.datasource(); source == nil {
		l.report(title, "", "template-datasource-rule", "no variable for the data source: add one of type datasource with the name datasource (prometheus_datasource, loki_datasource)")
	} else {
		if label := strings.ToLower(source.Label); label != "data source" && !strings.HasSuffix(label, " data source") {
			l.report(source.at, "", "template-datasource-rule", "variable %q has the label %q: expected Data source", source.Name, source.Label)
		}
	}
	if len(l.d.Queries) == 0 {
		return
	}
	for _, name := range []string{"job", "instance"} {
		l.selector(name, title)
	}
}

// datasource is the variable that chooses the data source.
func (d *Dashboard) datasource() *Variable {
	for _, v := range d.Variables {
		if v.Type == "datasource" && slices.Contains([]string{"datasource", "prometheus_datasource", "loki_datasource"}, v.Name) {
			return v
		}
	}
	return nil
}

// selector checks the variable job or instance.
func (l *linter) selector(name string, title int) {
	rule := "template-" + name + "-rule"
	v := l.d.variable(name)
	if v == nil {
		l.report(title, "", rule, "no variable %q to choose by", name)
		return
	}
	for _, want := range []struct {
		holds bool
		what  string
	}{
		{v.Type == "query", "is not of type query"},
		{strings.EqualFold(v.Label, name), fmt.Sprintf("has the label %q: expected %s", v.Label, strings.ToUpper(name[:1])+name[1:])},
		{v.Multi, "allows one value only: set multi"},
		{v.AllValue == ".+", fmt.Sprintf("has allValue %q: expected .+", v.AllValue)},
		{l.d.Schema == "v2" || l.templated(v.source), "does not use the data source that is chosen: expected $datasource"},
	} {
		if !want.holds {
			l.report(v.at, "", rule, "variable %q %s", name, want.what)
		}
	}
}

// templated reports whether a data source is chosen by a variable.
func (l *linter) templated(r reference) bool {
	if !strings.HasPrefix(r.name, "$") && !strings.HasPrefix(r.name, "[[") {
		return false
	}
	v := l.d.variable(strings.Trim(r.name, "${}[]"))
	return v != nil && v.Type == "datasource"
}

func (l *linter) variable(v *Variable) {
	if v.Type != "query" {
		return
	}
	if v.refresh != "2" {
		l.report(v.at, "", "template-on-time-change-reload-rule", "variable %q is not asked again when the time range changes: set refresh to 2 (schema v2: onTimeRangeChanged)", v.Name)
	}
}

// drawn are the panels that the rules on panels are about.
var drawn = []string{"stat", "singlestat", "graph", "table", "timeseries", "gauge"}

func (l *linter) panel(p *Panel) {
	if !slices.Contains(drawn, p.Type) || p.library {
		return
	}
	in := fmt.Sprintf("panel %q", p.Title)
	report := func(rule, format string, args ...any) {
		l.report(p.at, in, rule, "%s: %s", in, fmt.Sprintf(format, args...))
		l.findings[len(l.findings)-1].panel = p.Title
	}
	if p.Title == "" || p.Description == "" {
		missing := "title"
		if p.Title != "" {
			missing = "description"
		}
		report("panel-title-description-rule", "no %s", missing)
	}
	if l.d.Schema != "v2" && !p.source.mixed() && !l.templated(p.source) {
		report("panel-datasource-rule", "the data source is %q: expected one that is chosen, $datasource", p.source.name)
	}
	if p.Targets == 0 {
		report("panel-no-targets-rule", "no query")
	}
	switch {
	case len(p.units) == 0:
		report("panel-units-rule", "no unit")
	case !slices.ContainsFunc(p.units, knownUnit):
		report("panel-units-rule", "%q is not a unit of Grafana's", p.units[0])
	}
}

func (l *linter) target(q *Query) {
	said := map[string]bool{} // once for each query and rule: one selector without a job seldom comes alone
	report := func(offset int, rule, format string, args ...any) {
		if said[rule] {
			return
		}
		said[rule] = true
		f := l.d.fault(q, offset, rule, format, args...)
		f.Severity = Style
		l.findings = append(l.findings, f)
	}
	p, err := l.d.parse(q)
	if err != nil {
		return // Check says so
	}
	parser.Inspect(p.expr, func(node parser.Node, path []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			at := p.origin(int(n.PosRange.Start))
			l.selects(report, at, n)
			if name := metricName(n); strings.HasSuffix(name, "_total") && !rated(path) {
				report(at, "target-counter-agg-rule", "counter %s without rate, irate or increase", name)
			}
		case *parser.MatrixSelector:
			if len(path) > 0 && rate(path[len(path)-1]) && n.Range != offline.rateInterval().Truncate(time.Millisecond) {
				report(p.origin(int(n.PositionRange().Start)), "target-rate-interval-rule", "a range of its own: expected [$__rate_interval], which fits any time range")
			}
		}
		return nil
	})
}

// selects checks that a selector is narrowed by the variables job and instance.
func (l *linter) selects(report func(int, string, string, ...any), at int, n *parser.VectorSelector) {
	for _, name := range []string{"job", "instance"} {
		if !slices.ContainsFunc(n.LabelMatchers, func(m *labels.Matcher) bool {
			return m.Name == name && m.Type == labels.MatchRegexp && (m.Value == "$"+name || m.Value == "${"+name+"}" || m.Value == "[["+name+"]]")
		}) {
			report(at, "target-"+name+"-rule", "%s has no matcher %s=~\"$%s\"", selectorName(n), name, name)
		}
	}
}

func selectorName(n *parser.VectorSelector) string {
	if name := metricName(n); name != "" {
		return name
	}
	return "a selector"
}

func metricName(n *parser.VectorSelector) string {
	if n.Name != "" {
		return n.Name
	}
	for _, m := range n.LabelMatchers {
		if m.Name == labels.MetricName && m.Type == labels.MatchEqual {
			return m.Value
		}
	}
	return ""
}

// rate reports whether a node is a call that makes a rate of a counter.
func rate(node parser.Node) bool {
	call, ok := node.(*parser.Call)
	return ok && slices.Contains([]string{"rate", "irate", "increase"}, call.Func.Name)
}

// rated reports whether one of the nodes above is such a call.
func rated(path []parser.Node) bool { return slices.ContainsFunc(path, rate) }

// loki checks what can be seen of a query of Loki without its language: that ranges are $__auto.
func (l *linter) loki(t target, p *Panel) {
	for _, m := range lokiRange.FindAllStringSubmatchIndex(t.expr.string(), -1) {
		if text := t.expr.string()[m[2]:m[3]]; text != "$__auto" && text != "${__auto}" {
			in := fmt.Sprintf("panel %q", p.Title)
			l.report(t.expr.offset(l.d.text, m[0]), in, "target-logql-auto-rule", "%s: range [%s]: expected [$__auto]", in, text)
			l.findings[len(l.findings)-1].panel = p.Title
		}
	}
}

// lokiRange is a range of LogQL: a duration or a variable in brackets.
var lokiRange = regexp.MustCompile(`\[(\d+[a-z]+|\$\{?\w+\}?)\]`)
