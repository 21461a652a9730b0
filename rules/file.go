package rules

import (
	"fmt"
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
	Limit       int               `yaml:"limit"` // series a rule may produce; 0: no limit
	Labels      map[string]string `yaml:"labels"`
	Rules       []Rule            `yaml:"rules"`
}

// Rule holds exactly one kind of rule.
type Rule struct {
	Record *Record
	Alert  *Alert
	Scale  *Scale
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

	files    []*File
	decoders []*source.Decoder // of files
	rules    map[string]string // where a scale rule was first, by name
	targets  map[string]string // and which rule has a target, by target
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
	parsed, err := source.Parse(name, text)
	if err != nil {
		return nil, err
	}
	if r.rules == nil {
		r.rules, r.targets = map[string]string{}, map[string]string{}
	}
	d := parsed.Decoder()
	f := &File{Name: name}
	d.Decode(f)
	f.validate(d, r)
	if err := d.Err(); err != nil {
		return nil, err
	}
	r.files, r.decoders = append(r.files, f), append(r.decoders, d)
	r.trace()
	return f, nil
}

// trace finds how the age of each query is asked, by all the recording rules read so far, in whatever order.
func (r *Reader) trace() {
	by := newAges(r.files)
	if r.Remote {
		by.own = own(r.files)
	}
	for _, f := range r.files {
		for _, g := range f.Groups {
			for _, rule := range g.Rules {
				if rule.Scale == nil {
					continue
				}
				for _, q := range rule.Scale.Queries {
					q.ages = by.queries(q.parsed)
				}
			}
		}
	}
}

// DecodeNode decodes one entry of rules by the kind that it names.
func (r *Rule) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	if n.Kind != yaml.MappingNode {
		d.Fault(n, "%s: expected a rule: keys and values", path)
		return
	}
	var kinds, keys []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		keys = append(keys, key)
		switch key {
		case "record", "alert", "scale":
			kinds = append(kinds, key)
		case "forecast", "budget", "optimize", "slo":
			d.Fault(n.Content[i], "%s rules are not in this version", key)
			return
		}
	}
	if len(kinds) != 1 {
		if len(kinds) > 1 {
			d.Fault(n, "a rule has one kind: found %s", strings.Join(kinds, " and "))
			return
		}
		hint := ""
		for _, key := range keys {
			if hint == "" {
				hint = source.DidYouMean(key, []string{"record", "alert", "scale"})
			}
		}
		d.Fault(n, "a rule needs one of record, alert or scale%s", hint)
		return
	}
	switch kinds[0] {
	case "record":
		r.Record = &Record{}
		d.DecodeNode(n, path, r.Record)
	case "alert":
		r.Alert = &Alert{}
		d.DecodeNode(n, path, r.Alert)
	case "scale":
		r.Scale = DefaultScale()
		d.DecodeNode(n, path, r.Scale)
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
		if g.Limit < 0 {
			d.FaultAt(path+".limit", 0, "limit is %d: expected 0 (none) or more", g.Limit)
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
	if s.Target.Kind == "" || s.Target.Name == "" {
		return
	}
	if r.CheckScale != nil {
		d.Faults(path, r.CheckScale(s))
	}
	target := s.Target.String()
	if other, taken := r.targets[target]; taken {
		d.FaultAt(path+".target", 0, "target %s is already scaled by rule %s: two rules would fight over it", target, other)
	} else {
		r.targets[target] = fmt.Sprintf("%q in %s", s.Name, file)
	}
}

func (r *Record) validate(d *source.Decoder, path string) {
	if !model.UTF8Validation.IsValidMetricName(r.Name) {
		d.FaultAt(path+".record", 0, "record: %q is not a metric name", r.Name)
	}
	checkPromQL(d, path+".expr", r.Expr)
	checkLabels(d, path+".labels", r.Labels)
	if _, set := r.Labels[model.MetricNameLabel]; set {
		d.FaultAt(path+".labels."+model.MetricNameLabel, 0, "the name of what is recorded is given by record")
	}
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
		if !model.UTF8Validation.IsValidLabelName(name) {
			d.FaultAt(path+"."+name, 0, "%q is not a label name", name)
		}
		if !model.LabelValue(value).IsValid() {
			d.FaultAt(path+"."+name, 0, "%q is not a label value", value)
		}
	}
}

// last is the name at the end of a path.
func last(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
