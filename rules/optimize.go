package rules

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/rules/source"
)

// Optimize is a rule that recommends to optimize a model while a condition holds. It says so once, with what the condition
// was made of; it changes nothing.
type Optimize struct {
	Name    string            `yaml:"optimize"`
	Model   string            `yaml:"model"` // the value of the label model; empty: none
	Queries map[string]*Query `yaml:"queries"`
	If      string            `yaml:"if"`
	For     model.Duration    `yaml:"for"`

	// Goal is what the optimization is for: latency, throughput, memory, cost, accuracy or balanced.
	Goal string `yaml:"goal"`

	// Constraints are what it may not cost, such as max_accuracy_loss: 0.01. They go along with the recommendation.
	Constraints map[string]float64 `yaml:"constraints"`

	Recommend   string            `yaml:"recommend"` // what to do, in words
	Mode        string            `yaml:"mode"`      // recommend
	Annotations map[string]string `yaml:"annotations"`

	scale *Scale // its queries and its condition, as a scale rule has them
}

// goals of an optimization.
var goals = []string{"latency", "throughput", "memory", "cost", "accuracy", "balanced"}

// recommendMode is the only one: what carries a recommendation out is not in this version.
const recommendMode = "recommend"

// DefaultOptimize returns an optimize rule with what its file need not name.
func DefaultOptimize() *Optimize { return &Optimize{Goal: "balanced", Mode: recommendMode} }

func (o *Optimize) validate(d *source.Decoder, path string, interval, scrape time.Duration) {
	if o.Name == "" {
		d.FaultAt(path+".optimize", 0, "an optimize rule needs a name")
	}
	oneOf(d, path+".goal", o.Goal, goals...)
	oneOf(d, path+".mode", o.Mode, recommendMode)
	if o.For < 0 {
		d.FaultAt(path+".for", 0, "for is %s: expected 0 or more", o.For)
	}
	for name, v := range o.Constraints {
		if v < 0 {
			d.FaultAt(path+".constraints."+name, 0, "%s is %g: expected 0 or more", name, v)
		}
	}
	o.scale = &Scale{
		Name: o.Name, Mode: Observe, Queries: o.Queries, interval: interval, scrape: scrape, Annotations: o.Annotations,
		When: []Step{{If: o.If, Do: "hold", For: o.For}},
	}
	if len(o.Queries) == 0 {
		d.FaultAt(path+".optimize", 0, "optimize rule %q has no queries", o.Name)
	}
	o.scale.validateQueries(d, path, interval, scrape)
	o.scale.When[0].condition = compile(d, path+".if", o.If, o.scale.environment(), boolResult)
	o.scale.When[0].do = stepDo{hold: true}
	o.scale.note()
}

// Equal says whether two rules that Reader has read recommend alike.
func (o *Optimize) Equal(p *Optimize) bool {
	x, y := *o, *p
	if !x.scale.Equal(y.scale) {
		return false
	}
	x.scale, y.scale, x.Queries, y.Queries = nil, nil, nil, nil // compared above
	return reflect.DeepEqual(x, y)
}

// Recommended is the result of a decision that recommends something.
const Recommended Result = "recommended"

// Optimizer evaluates one optimize rule. It implements Evaluator.
type Optimizer struct {
	rule   *Optimize
	scaler *Scaler // that asks its queries
	state  State
	began  bool // it has looked up whether it was said before
	holds  bool // it has been said already

	mu     sync.Mutex // guards output
	output []Sample
}

// NewOptimizer returns the evaluator of a rule that Reader has validated. Of the options it takes the Querier, the Journal,
// the Metrics and Expand.
func NewOptimizer(rule *Optimize, o ScalerOptions) *Optimizer {
	o.Acting, o.Memory = false, &Memory{}
	return &Optimizer{rule: rule, scaler: NewScaler(rule.scale, o)}
}

// Rule returns the rule.
func (o *Optimizer) Rule() *Optimize { return o.rule }

// Name returns the rule's name.
func (o *Optimizer) Name() string { return o.rule.Name }

// Writes returns the metrics that Eval gives.
func (o *Optimizer) Writes() []string { return OutputMetrics() }

// Output implements Output.
func (o *Optimizer) Output() []Sample {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.output
}

const recommendedMetric = "flyball_optimize_recommended"

// Last returns the last recommendation, nil before the first.
func (o *Optimizer) Last() *Decision { return o.scaler.Last() }

// Eval implements Evaluator. The recommendation is recorded when its condition comes true, and is a series while it holds.
// Data that is missing neither makes nor ends one.
func (o *Optimizer) Eval(ctx context.Context, at time.Time) ([]Sample, error) {
	instance := o.scaler.order[0]
	obs := Observation{At: at, Answers: o.scaler.answers(o.scaler.ask(ctx, at), at, actuators.State{})}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("optimize %s: %w", o.rule.Name, err)
	}
	if !o.began {
		before, err := o.scaler.opts.Querier.Query(ctx, fmt.Sprintf("last_over_time(%s{rule=%q}[1d])", recommendedMetric, o.rule.Name), at, 0)
		if err != nil {
			return nil, fmt.Errorf("optimize %s: %w", o.rule.Name, err)
		}
		o.began, o.holds = true, len(before) > 0 && before[0].Value == 1
	}
	state := o.state.notAfter(at)
	d := Decision{
		Time: at, Rule: o.rule.Name, Target: "optimize/" + o.rule.Name, Mode: recommendMode, Action: Hold, Queries: obs.Answers,
		Reasons: []Reason{StepRule}, Result: Recommended,
	}
	p := &pipeline{rule: o.rule.scale, obs: &obs, st: &state, d: &d}
	p.env = obs.environment(o.rule.scale, state)
	step, _ := p.step(0)
	d.Steps = []StepRecord{step}
	o.state = state
	if step.Fault != "" {
		return o.samples(at), nil
	}
	if step.Fired && !o.holds {
		d.ID = decisionID(d.Rule, d.Target, at, 0, 0)
		d.Text = o.text(&d)
		if err := o.scaler.record(ctx, instance, &d); err != nil {
			return o.samples(at), err
		}
		instance.mu.Lock()
		instance.last = &d
		instance.mu.Unlock()
	}
	// What was recommended stays so while its condition holds: `for` begins anew after a restart and after missing data.
	o.holds = step.Fired || o.holds && step.Holds
	return o.samples(at), nil
}

// text is the recommendation in words.
func (o *Optimizer) text(d *Decision) string {
	words := o.rule.Recommend
	if words == "" {
		words = "optimize for " + o.rule.Goal
	}
	if o.rule.Model != "" {
		words = o.rule.Model + ": " + words
	}
	var limits []string
	for _, name := range sortedKeys(o.rule.Constraints) {
		limits = append(limits, fmt.Sprintf("%s %g", name, o.rule.Constraints[name]))
	}
	if len(limits) > 0 {
		words += ", within " + strings.Join(limits, ", ")
	}
	var values []string
	for _, q := range d.Queries {
		if q.Value != nil {
			values = append(values, q.Name+" "+number6(*q.Value))
		}
	}
	words += ", because " + o.rule.If
	if o.rule.For > 0 {
		words += " for " + o.rule.For.String()
	}
	return words + ": " + strings.Join(values, ", ")
}

func (o *Optimizer) samples(at time.Time) []Sample {
	v := 0.0
	if o.holds {
		v = 1
	}
	pairs := []string{labels.MetricName, recommendedMetric, "rule", o.rule.Name, "goal", o.rule.Goal}
	if o.rule.Model != "" {
		pairs = append(pairs, "model", o.rule.Model)
	}
	out := []Sample{{Labels: labels.FromStrings(pairs...), Value: v, Time: at}}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.output = out
	return out
}
