package rules

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// File is a rule file: Prometheus's format, with deciding rules among the record and alert rules.
type File struct {
	Name   string  `yaml:"-"`
	Groups []Group `yaml:"groups"`
}

// Group is a list of rules that are evaluated one after the other, at the same timestamp.
type Group struct {
	Name        string            `yaml:"name"`
	Interval    model.Duration    `yaml:"interval"` // 0: the global evaluation interval
	QueryOffset *model.Duration   `yaml:"query_offset"`
	Limit       Limit             `yaml:"limit"` // series a rule may produce; 0 or less: no limit
	Labels      map[string]string `yaml:"labels"`
	Rules       []Rule            `yaml:"rules"`
}

// Limit is a number of series or alerts. It is written as Prometheus reads one: the fraction of a number is dropped.
type Limit int

// DecodeNode takes any number.
func (l *Limit) DecodeNode(d *source.Decoder, n *yaml.Node, _ string) {
	if err := n.Decode((*int)(l)); err != nil {
		d.Fault(n, "limit: %q is not a whole number", n.Value)
	}
}

// Rule holds exactly one kind of rule.
type Rule struct {
	Record *Record
	Alert  *Alert
	Scale  *Scale
	Budget *Budget
	SLO    *SLO

	Optimize *Optimize
	Forecast *ForecastRule
}

// kinds are the keys that say what kind of rule one is.
var kinds = []string{"record", "alert", "scale", "budget", "slo", "optimize", "forecast"}

// Kind is the key that says what kind of rule it is.
func (r *Rule) Kind() string {
	for i, set := range []bool{r.Record != nil, r.Alert != nil, r.Scale != nil, r.Budget != nil, r.SLO != nil, r.Optimize != nil, r.Forecast != nil} {
		if set {
			return kinds[i]
		}
	}
	return ""
}

// written ranges over the group's rules, each with those that it stands for.
func (g *Group) written() iter.Seq[*Rule] {
	return func(yield func(*Rule) bool) {
		for i := range g.Rules {
			if !yield(&g.Rules[i]) {
				return
			}
			for _, derived := range g.Rules[i].Derived() {
				if !yield(&derived) {
					return
				}
			}
		}
	}
}

// Derived are the record and alert rules that a rule stands for, which follow it in its group.
func (r *Rule) Derived() (all []Rule) {
	switch {
	case r.SLO != nil:
		return r.SLO.Rules()
	case r.Budget != nil:
		for _, a := range r.Budget.Alerts() {
			all = append(all, Rule{Alert: a})
		}
	}
	return all
}

// Record is Prometheus's recording rule.
type Record struct {
	Name   string            `yaml:"record"`
	Expr   string            `yaml:"expr"`
	Labels map[string]string `yaml:"labels"`
}

// Alert is Prometheus's alerting rule.
type Alert struct {
	Name          string            `yaml:"alert"`
	Expr          string            `yaml:"expr"`
	For           model.Duration    `yaml:"for"`
	KeepFiringFor model.Duration    `yaml:"keep_firing_for"`
	Labels        map[string]string `yaml:"labels"`
	Annotations   map[string]string `yaml:"annotations"`
}

// Defaults are what a rule file leaves to the configuration.
type Defaults struct {
	EvaluationInterval time.Duration // of groups that name none
	ScrapeInterval     time.Duration // tells how old a sample is when all is well
}

// Reader reads rule files that are used together: names and targets of scale rules are unique among all of them.
type Reader struct {
	Defaults Defaults

	// CheckScale, if not nil, says what else is wrong with a scale rule: of each fault the path within the rule, such as
	// target.name, and what is wrong.
	CheckScale func(*Scale) error

	// CheckGroup does the same for a group that is right in itself, for what only Prometheus's engine knows.
	CheckGroup func(*File, *Group) error

	// Remote says that a Prometheus elsewhere answers queries of what the rules do not write themselves. After the last
	// file, Finish says which queries that rules out.
	Remote bool

	files   []*File
	sources []*source.File    // of files
	rules   map[string]string // where a scale rule was first, by name
	targets map[string]string // and which rule has a target, by target
	named   map[string]string // where another rule was first, by kind and name
}

// ReadFile reads and validates one rule file. The error is a source.Errors with every fault, or says why the file could
// not be read.
func (r *Reader) ReadFile(name string) (*File, error) {
	text, err := source.Read(name)
	if err != nil {
		return nil, fmt.Errorf("read rule file: %w", err)
	}
	return r.Parse(name, text)
}

// Parse parses and validates the text of one rule file. The error is of type source.Errors.
func (r *Reader) Parse(name string, text []byte) (*File, error) {
	parsed, err := source.ParseFirst(name, text)
	if err != nil {
		return nil, err
	}
	if r.rules == nil {
		r.rules, r.targets, r.named = map[string]string{}, map[string]string{}, map[string]string{}
	}
	parsed.DropNull("groups", "rules")
	d := parsed.Decoder()
	f := &File{Name: name}
	d.Decode(f)
	f.validate(d, r)
	r.checkQuantiles(d, f)
	if err := d.Err(); err != nil {
		return nil, err
	}
	r.files, r.sources = append(r.files, f), append(r.sources, parsed)
	r.trace()
	r.link()
	return f, nil
}

// link tells scale rules which budgets apply to them, and how often the forecasts that they use are written, of all the files
// read so far.
func (r *Reader) link() {
	scales := map[string]*Scale{}
	every := map[string]time.Duration{} // by the forecast that is evaluated so often
	var budgets []*Budget
	for _, rule := range r.all() {
		switch {
		case rule.Scale != nil:
			rule.Scale.caps = nil
			scales[rule.Scale.Name] = rule.Scale
		case rule.Budget != nil && rule.Budget.caps():
			budgets = append(budgets, rule.Budget)
		}
	}
	for _, f := range r.files {
		for i := range f.Groups {
			for _, rule := range f.Groups[i].Rules {
				if rule.Forecast != nil {
					every[rule.Forecast.Name] = time.Duration(f.Groups[i].Interval)
				}
			}
		}
	}
	for _, s := range scales {
		for _, q := range s.Queries {
			if q.forecast != "" {
				q.StaleAfter = s.forecastStale(every[q.forecast])
			}
		}
	}
	slices.SortFunc(budgets, func(a, b *Budget) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range budgets {
		for _, name := range b.AppliesTo {
			if s := scales[name]; s != nil {
				s.caps = append(s.caps, capRule{b.Name, b.Policy == hardPolicy, b.SLOFloor})
			}
		}
	}
}

// all ranges over the rules of the files read so far.
func (r *Reader) all() iter.Seq2[spot, *Rule] {
	return func(yield func(spot, *Rule) bool) {
		for i, f := range r.files {
			for j := range f.Groups {
				for k := range f.Groups[j].Rules {
					if !yield(spot{i, fmt.Sprintf("groups[%d].rules[%d]", j, k)}, &f.Groups[j].Rules[k]) {
						return
					}
				}
			}
		}
	}
}

// spot is where a rule is: the number of its file, and its path in it.
type spot struct {
	file int
	path string
}

// trace finds how the age of each query is asked, by all the recording rules read so far, in whatever order.
func (r *Reader) trace() {
	by := newAges(r.files)
	if r.Remote {
		by.own = own(r.files)
	}
	for _, rule := range r.all() {
		if rule.Scale == nil {
			continue
		}
		by.labels = nil
		if rule.Scale.ForEach != nil {
			by.labels = rule.Scale.ForEach.By
		}
		for _, q := range rule.Scale.Queries {
			q.ages = by.queries(q.parsed)
		}
	}
}

// DecodeNode decodes one entry of rules by the kind that it names.
func (r *Rule) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	if n.Kind != yaml.MappingNode {
		d.Fault(n, "%s: expected a rule: keys and values", path)
		return
	}
	if d.Full() {
		return
	}
	var found, empty, keys []string
	d.Entries(n, func(key string, value *yaml.Node) {
		keys = append(keys, key)
		switch {
		case !slices.Contains(kinds, key):
		case (key == "record" || key == "alert") && void(value):
			empty = append(empty, key)
		default:
			found = append(found, key)
		}
	})
	if len(found) == 0 && len(empty) > 0 {
		found = empty[:1]
	}
	if len(found) != 1 {
		if len(found) > 1 {
			d.Fault(n, "a rule has one kind: found %s", strings.Join(found, " and "))
			return
		}
		hint := ""
		for _, key := range keys {
			if hint == "" {
				hint = source.DidYouMean(key, kinds)
			}
		}
		d.Fault(n, "a rule needs one of %s%s", alternatives(kinds), hint)
		return
	}
	switch found[0] {
	case "record", "alert":
		r.decodePrometheus(d, n, path, found[0])
	case "scale":
		r.Scale = DefaultScale()
		d.DecodeNode(n, path, r.Scale)
	case "budget":
		r.Budget = DefaultBudget()
		d.DecodeNode(n, path, r.Budget)
	case "slo":
		r.SLO = DefaultSLO()
		d.DecodeNode(n, path, r.SLO)
	case "optimize":
		r.Optimize = DefaultOptimize()
		d.DecodeNode(n, path, r.Optimize)
	case "forecast":
		r.Forecast = DefaultForecast()
		d.DecodeNode(n, path, r.Forecast)
	}
}

// void says that a text is empty or not there, which Prometheus takes for the same.
func void(n *yaml.Node) bool {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n.Kind == yaml.ScalarNode && (n.Value == "" || n.Tag == "!!null")
}

// decodePrometheus decodes a record or an alert rule as Prometheus does: a key of the other kind may be there, as long as it
// says nothing.
func (r *Rule) decodePrometheus(d *source.Decoder, n *yaml.Node, path, kind string) {
	var all struct {
		Record        string            `yaml:"record"`
		Alert         string            `yaml:"alert"`
		Expr          string            `yaml:"expr"`
		For           model.Duration    `yaml:"for"`
		KeepFiringFor model.Duration    `yaml:"keep_firing_for"`
		Labels        map[string]string `yaml:"labels"`
		Annotations   map[string]string `yaml:"annotations"`
	}
	d.DecodeNode(n, path, &all)
	if kind == "alert" {
		r.Alert = &Alert{all.Alert, all.Expr, all.For, all.KeepFiringFor, all.Labels, all.Annotations}
		return
	}
	r.Record = &Record{all.Record, all.Expr, all.Labels}
	for _, key := range []struct {
		name  string
		given bool
	}{{"for", all.For != 0}, {"keep_firing_for", all.KeepFiringFor != 0}, {"annotations", len(all.Annotations) > 0}} {
		if key.given {
			d.FaultAt(path+"."+key.name, 0, "%s: a recording rule has none: it goes with alert", key.name)
		}
	}
}

// promQL is the parser for every expression in rule files. Its options are those of the embedded engine.
var promQL = parser.NewParser(parser.Options{})

func (f *File) validate(d *source.Decoder, reader *Reader) {
	groups := map[string]bool{}
	for i := range f.Groups {
		g := &f.Groups[i]
		before := d.Len()
		path := fmt.Sprintf("groups[%d]", i)
		switch {
		case g.Name == "":
			d.FaultAt(path, 0, "a group needs a name")
		case groups[g.Name]:
			d.FaultAt(path+".name", 0, "group %q is already in this file", g.Name)
		}
		groups[g.Name] = true
		if g.Interval < 0 {
			d.FaultAt(path+".interval", 0, "interval is %s: expected more than 0", g.Interval)
		}
		if g.Interval == 0 {
			g.Interval = model.Duration(reader.Defaults.EvaluationInterval)
		}
		checkLabels(d, path+".labels", g.Labels)
		for j := range g.Rules {
			at := fmt.Sprintf("%s.rules[%d]", path, j)
			switch r := &g.Rules[j]; {
			case r.Record != nil:
				r.Record.validate(d, at)
			case r.Alert != nil:
				r.Alert.validate(d, at)
			case r.Scale != nil:
				reader.register(d, at, f.Name, r.Scale)
				r.Scale.validate(d, at, time.Duration(g.Interval), reader.Defaults.ScrapeInterval)
			case r.Budget != nil:
				reader.once(d, at+".budget", f.Name, "budget", r.Budget.Name)
				r.Budget.validate(d, at)
			case r.SLO != nil:
				reader.once(d, at+".slo", f.Name, "SLO", r.SLO.Name)
				r.SLO.validate(d, at)
			case r.Optimize != nil:
				reader.once(d, at+".optimize", f.Name, "optimize rule", r.Optimize.Name)
				r.Optimize.validate(d, at, time.Duration(g.Interval), reader.Defaults.ScrapeInterval)
			case r.Forecast != nil:
				reader.once(d, at+".forecast", f.Name, "forecast", r.Forecast.Name)
				r.Forecast.validate(d, at)
			}
		}
		if d.Len() == before && reader.CheckGroup != nil {
			d.Faults(path, reader.CheckGroup(f, g))
		}
	}
}

// register notes the name and the target of a scale rule, each of which can be had once.
func (r *Reader) register(d *source.Decoder, path, file string, s *Scale) {
	if first, taken := r.rules[s.Name]; taken {
		d.FaultAt(path+".scale", 0, "scale rule %q is already in %s", s.Name, first)
	} else if s.Name != "" {
		r.rules[s.Name] = file
	}
	if r.CheckScale != nil && (len(s.Variants) > 0 || s.Target.Kind != "" && s.Target.Name != "") {
		d.Faults(path, r.CheckScale(s))
	}
	targets, paths := s.Targets()
	for i, t := range targets {
		if t.Kind == "" || t.Name == "" {
			continue // told elsewhere
		}
		target := t.String()
		if other, taken := r.targets[target]; taken {
			d.FaultAt(path+"."+paths[i], 0, "target %s is already scaled by rule %s: two rules would fight over it", target, other)
		} else {
			r.targets[target] = fmt.Sprintf("%q in %s", s.Name, file)
		}
	}
}

// once notes the name of a rule of a kind, which can be had once.
func (r *Reader) once(d *source.Decoder, path, file, kind, name string) {
	if first, taken := r.named[kind+" "+name]; taken {
		d.FaultAt(path, 0, "%s %q is already in %s", kind, name, first)
	} else if name != "" {
		r.named[kind+" "+name] = file
	}
}

func (r *Record) validate(d *source.Decoder, path string) {
	switch {
	case !model.UTF8Validation.IsValidMetricName(r.Name):
		d.FaultAt(path+".record", 0, "record: %q is not a metric name", r.Name)
	case strings.ContainsAny(r.Name, "{}"):
		d.FaultAt(path+".record", 0, "record: %q has braces: a selector goes into expr", r.Name)
	}
	checkPromQL(d, path+".expr", r.Expr)
	checkLabels(d, path+".labels", r.Labels)
}

func (a *Alert) validate(d *source.Decoder, path string) {
	if a.Name == "" {
		d.FaultAt(path+".alert", 0, "an alert needs a name")
	}
	checkPromQL(d, path+".expr", a.Expr)
	checkLabels(d, path+".labels", a.Labels)
	for name := range a.Annotations {
		if !model.UTF8Validation.IsValidLabelName(name) {
			d.FaultAt(path+".annotations."+name, 0, "%q is not an annotation name", name)
		}
	}
}

// checkPromQL parses an expression and notes its faults where they are.
func checkPromQL(d *source.Decoder, path, expr string) parser.Expr {
	if strings.TrimSpace(expr) == "" {
		d.FaultAt(path, 0, "%s: a PromQL expression is needed", last(path))
		return nil
	}
	if err := checkBounds(expr, maxPromQLBytes); err != nil {
		d.FaultAt(path, 0, "PromQL: %s", err)
		return nil
	}
	parsed, err := promQL.ParseExpr(expr)
	if err == nil {
		return parsed
	}
	//nolint:errorlint // the parser returns this very type, never wrapped
	if all, ok := err.(parser.ParseErrors); ok {
		for _, e := range all {
			d.FaultAt(path, int(e.PositionRange.Start), "PromQL: %s", e.Err)
		}
		return nil
	}
	d.FaultAt(path, 0, "PromQL: %s", err)
	return nil
}

func checkLabels(d *source.Decoder, path string, labels map[string]string) {
	for name, value := range labels {
		switch {
		case name == model.MetricNameLabel:
			d.FaultAt(path+"."+name, 0, "%s cannot be set: what a rule writes is named by record or alert", name)
		case !model.UTF8Validation.IsValidLabelName(name):
			d.FaultAt(path+"."+name, 0, "%q is not a label name", name)
		}
		if !model.LabelValue(value).IsValid() {
			d.FaultAt(path+"."+name, 0, "%q is not a label value", value)
		}
	}
}

// last is the name at the end of a path.
func last(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
