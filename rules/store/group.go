package store

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"

	"flyball/rules"
)

// Group is a list of rules that are evaluated one after the other at one timestamp. File and Name together identify it;
// a group that SetGroups finds again under them keeps the state of its rules.
type Group struct {
	Name        string
	File        string            // where it was read from; may be empty
	Interval    time.Duration     // 0: Options.EvaluationInterval
	QueryOffset *time.Duration    // evaluates at this much before now, for samples that arrive late; nil: 0
	Limit       int               // how many series, or alerts, a rule may give; 0 or less: no limit
	Labels      map[string]string // put on each series that the group writes, unless the rule sets the label itself
	Rules       []Rule

	external string // the external labels that its alerts were made with
}

// Rule is exactly one of its fields.
type Rule struct {
	Record    *Record
	Alert     *Alert
	Evaluator rules.Evaluator

	place int // that of the rule that it stands for, in the group of its file, from 1; 0: its own
}

// Record writes what Expr gives as the metric Name.
type Record struct {
	Name   string
	Expr   string
	Labels map[string]string
}

// Alert is pending as soon as Expr gives a series, and fires when it has for as long as For.
type Alert struct {
	Name          string
	Expr          string
	For           time.Duration
	KeepFiringFor time.Duration
	Labels        map[string]string // values may be Prometheus's templates
	Annotations   map[string]string // values may be Prometheus's templates
}

// Kinds of rules, as RuleStatus gives them.
const (
	KindRecord    = "record"
	KindAlert     = "alert"
	KindEvaluator = "evaluator"
)

// Key is the group's file and name in one, Prometheus's form "file;name"; the name alone where there is no file.
func (g Group) Key() string {
	if g.File == "" {
		return g.Name
	}
	return promrules.GroupKey(g.File, g.Name)
}

// Validate returns everything that Prometheus would refuse about the group, joined. Each fault begins with the path of
// what is at fault within the group, such as rules[4].
func (g Group) Validate() error {
	p := parser.NewParser(parser.Options{})
	var errs []error
	if g.Name == "" {
		errs = append(errs, errors.New("the group has no name"))
	}
	if g.Interval < time.Millisecond {
		errs = append(errs, fmt.Errorf("interval: %s is too short: give 1ms or more", g.Interval))
	}
	if g.QueryOffset != nil && *g.QueryOffset < 0 {
		errs = append(errs, fmt.Errorf("query_offset: %s is before now: give 0s or more", *g.QueryOffset))
	}
	for name, value := range sorted(g.Labels) {
		if name == model.MetricNameLabel || !model.UTF8Validation.IsValidLabelName(name) {
			errs = append(errs, fmt.Errorf("labels: %q is not a label name", name))
		}
		if !model.LabelValue(value).IsValid() {
			errs = append(errs, fmt.Errorf("labels.%s: %q is not valid UTF-8", name, value))
		}
	}
	for i, r := range g.Rules {
		for _, err := range r.validate(p) {
			place := i
			if r.place > 0 {
				place = r.place - 1
			}
			errs = append(errs, fmt.Errorf("rules[%d]: %w", place, err))
		}
	}
	return errors.Join(errs...)
}

func (r Rule) validate(p parser.Parser) []error {
	n := 0
	for _, set := range []bool{r.Record != nil, r.Alert != nil, r.Evaluator != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return []error{fmt.Errorf("it has %d of record, alert and evaluator: give exactly one", n)}
	}
	if r.Evaluator != nil {
		if r.Evaluator.Name() == "" {
			return []error{errors.New("the evaluator has no name")}
		}
		return nil
	}
	if r.Alert != nil && (r.Alert.For < 0 || r.Alert.KeepFiringFor < 0) {
		return []error{fmt.Errorf("%s: for and keep_firing_for must be 0s or more", r.Alert.Name)}
	}
	f := r.format()
	if f.Record == "" && f.Alert == "" {
		return []error{errors.New("the rule has no name")}
	}
	var errs []error
	for _, err := range f.Validate(rulefmt.RuleNode{}, model.UTF8Validation, p) {
		errs = append(errs, fmt.Errorf("%s: %w", r.name(), ruleError(&err)))
	}
	return errs
}

// ruleError is what Prometheus found, without the position in a YAML file that it does not have here.
func ruleError(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// format is a record or alert rule as Prometheus's rule files have it.
func (r Rule) format() rulefmt.Rule {
	if a := r.Alert; a != nil {
		return rulefmt.Rule{
			Alert: a.Name, Expr: a.Expr, For: model.Duration(a.For), KeepFiringFor: model.Duration(a.KeepFiringFor),
			Labels: a.Labels, Annotations: a.Annotations,
		}
	}
	return rulefmt.Rule{Record: r.Record.Name, Expr: r.Record.Expr, Labels: r.Record.Labels}
}

func (r Rule) name() string {
	switch {
	case r.Record != nil:
		return r.Record.Name
	case r.Alert != nil:
		return r.Alert.Name
	default:
		return r.Evaluator.Name()
	}
}

// GroupOf is a group of a rule file with all that its rules stand for. evaluator gives that of a rule that decides, nil for
// one that has none.
func GroupOf(f *rules.File, g *rules.Group, evaluator func(*rules.Rule) rules.Evaluator) Group {
	group := Group{Name: g.Name, File: f.Name, Interval: time.Duration(g.Interval), Limit: int(g.Limit), Labels: g.Labels}
	if g.QueryOffset != nil {
		offset := time.Duration(*g.QueryOffset)
		group.QueryOffset = &offset
	}
	for i := range g.Rules {
		r := &g.Rules[i]
		first := len(group.Rules)
		group.add(r)
		if e := evaluator(r); e != nil {
			group.Rules = append(group.Rules, Rule{Evaluator: e})
		}
		for _, derived := range r.Derived() {
			group.add(&derived)
		}
		for j := range group.Rules[first:] {
			group.Rules[first+j].place = i + 1
		}
	}
	return group
}

// add adds a record or an alert rule; of any other kind there is nothing to add.
func (g *Group) add(r *rules.Rule) {
	switch {
	case r.Record != nil:
		g.Rules = append(g.Rules, Rule{Record: &Record{Name: r.Record.Name, Expr: r.Record.Expr, Labels: r.Record.Labels}})
	case r.Alert != nil:
		g.Rules = append(g.Rules, Rule{Alert: &Alert{
			Name: r.Alert.Name, Expr: r.Alert.Expr, For: time.Duration(r.Alert.For), KeepFiringFor: time.Duration(r.Alert.KeepFiringFor),
			Labels: r.Alert.Labels, Annotations: r.Alert.Annotations,
		}})
	}
}

// equal tells whether a group that is loaded again is still the same, so that it may go on undisturbed.
func (g Group) equal(o Group) bool {
	if len(g.Rules) != len(o.Rules) {
		return false
	}
	for i := range g.Rules {
		a, b := g.Rules[i], o.Rules[i]
		if !sameEvaluator(a.Evaluator, b.Evaluator) || !reflect.DeepEqual(a.Record, b.Record) || !reflect.DeepEqual(a.Alert, b.Alert) {
			return false
		}
	}
	g.Rules, o.Rules = nil, nil
	return reflect.DeepEqual(g, o)
}

// sameEvaluator takes an Evaluator's String, where it has one, as everything that its answers depend on. Without it, only
// the very same value is the same.
func sameEvaluator(a, b rules.Evaluator) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if reflect.TypeOf(a) != reflect.TypeOf(b) {
		return false
	}
	if described, ok := a.(fmt.Stringer); ok {
		return a.Name() == b.Name() && described.String() == b.(fmt.Stringer).String()
	}
	return reflect.ValueOf(a).Comparable() && a == b
}

// build makes Prometheus's rules of a group that has been validated. Where restored is false, alerts write nothing until
// their "for" state has been looked up in the store.
func (s *Store) build(g Group, global Global, restored bool) ([]promrules.Rule, error) {
	built := make([]promrules.Rule, 0, len(g.Rules))
	for _, r := range g.Rules {
		if r.Evaluator != nil {
			built = append(built, newEvaluatorRule(r.Evaluator, g.Labels, s.written))
			continue
		}
		f := r.format()
		expr, err := s.parser.ParseExpr(f.Expr)
		if err != nil {
			return nil, fmt.Errorf("group %s: %s: %w", g.Key(), r.name(), err)
		}
		ls := promrules.FromMaps(g.Labels, f.Labels)
		if r.Record != nil {
			built = append(built, promrules.NewRecordingRule(f.Record, expr, ls))
			continue
		}
		built = append(built, promrules.NewAlertingRule(f.Alert, expr, r.Alert.For, r.Alert.KeepFiringFor, ls,
			labels.FromMap(f.Annotations), global.ExternalLabels, s.opts.ExternalURL, restored, s.logger.With("alert", f.Alert)))
	}
	return built, nil
}

// sorted ranges over a map in the order of its keys.
func sorted(m map[string]string) func(yield func(k, v string) bool) {
	return func(yield func(k, v string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
