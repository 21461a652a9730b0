package rulestest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"flyball/rules"
	"flyball/rules/source"
)

// Options are what tests are run with. NewEngine is required.
type Options struct {
	// NewEngine makes an empty engine for one test.
	NewEngine func(EngineOptions) (Engine, error)

	// CheckGroup is rules.Reader's, for the rule files.
	CheckGroup func(*rules.File, *rules.Group) error

	// Match selects tests by their name; nil: all.
	Match *regexp.Regexp

	// Progress, if not nil, is told how far a test is, at most some times a second.
	Progress func(Progress)
}

// Progress is how far a test is in its time.
type Progress struct {
	File, Test string
	At, Of     time.Duration
}

// Run runs the tests of the files. The error says that they could not be run at all: that the context ended, or that there
// is no engine. What is wrong with a file or fails in a test is in the report.
func Run(ctx context.Context, files []string, o Options) (*Report, error) {
	report := &Report{Passed: true}
	for _, name := range files {
		f, err := runFile(ctx, name, &o)
		report.add(f)
		if err != nil {
			return report, err
		}
	}
	return report, nil
}

func runFile(ctx context.Context, name string, o *Options) (*FileReport, error) {
	report := &FileReport{File: name, Passed: true}
	text, err := source.Read(name)
	if err != nil {
		report.fail(fmt.Errorf("read test file: %w", err))
		return report, nil
	}
	f, parsed, err := parse(name, text)
	if err != nil {
		report.fail(err)
		return report, nil
	}
	files, unmatched, err := f.ruleFiles(filepath.Dir(name))
	if err != nil {
		d := parsed.Decoder()
		d.Faults("", err)
		report.fail(d.Err())
		return report, nil
	}
	for _, pattern := range unmatched {
		report.Warnings = append(report.Warnings, "no file matches "+pattern)
	}
	for i := range f.Tests {
		title := f.Tests[i].title(i)
		if o.Match != nil && !o.Match.MatchString(f.Tests[i].Name) {
			continue
		}
		r := &run{
			options: o, file: f, source: parsed, ruleFiles: files, test: &f.Tests[i], path: fmt.Sprintf("tests[%d]", i),
			report: &TestReport{Name: title, Passed: true}, start: f.Tests[i].start(), every: time.Duration(f.EvaluationInterval),
		}
		began := time.Now()
		err := r.do(ctx)
		r.report.Seconds = time.Since(began).Seconds()
		report.add(r.report)
		if err != nil {
			return report, err
		}
	}
	return report, nil
}

// run is one test while it runs.
type run struct {
	options   *Options
	file      *File
	source    *source.File
	ruleFiles []string
	test      *Test
	path      string // of the test in the file
	report    *TestReport
	start     time.Time
	every     time.Duration

	engine     Engine
	input      *input
	groups     []Group
	targets    *targets
	scalers    map[string]*rules.Scaler
	invariants []*invariant
	violations map[string]*violation // by invariant and target
	failures   map[string]*failing   // by group and rule, of the rules that decide
	refused    map[string]error      // why a scale rule has not decided, at the present evaluation
	alerts     agenda
	scales     agenda
	stopped    bool // by a failure after which the rest says nothing
}

// do runs the test. What fails goes into the report; the error is for what ends all tests.
func (r *run) do(ctx context.Context) (err error) {
	if !r.prepare() {
		return nil
	}
	r.engine, err = r.options.NewEngine(EngineOptions{
		EvaluationInterval: r.every, ExternalLabels: labelsOf(r.test.ExternalLabels), ExternalURL: r.test.ExternalURL,
	})
	if err != nil {
		return fmt.Errorf("%s: %s: %w", r.source.Name, r.report.Name, err)
	}
	defer func() { err = errors.Join(err, r.engine.Close()) }()
	r.makeEvaluators()
	if err := r.engine.SetGroups(r.groups); err != nil {
		r.failAt(r.path, nil, nil, "%s", err)
		return nil
	}
	if err := r.evaluate(ctx); err != nil || r.stopped {
		return err
	}
	r.checkInvariants()
	r.targets.unused(r)
	if err := r.checkExpressions(ctx); err != nil {
		return err
	}
	r.explainFailing()
	return nil
}

// prepare reads what the test needs, and says whether it can be run.
func (r *run) prepare() bool {
	d := r.source.Decoder()
	r.input = r.test.parseInput(d, r.path)
	files, err := r.readRules()
	if err != nil {
		r.report.fail(source.Join(d.Err(), err))
		return false
	}
	r.groups = r.file.groups(files)
	var scales []*rules.Scale
	for _, f := range files {
		for i := range f.Groups {
			for _, rule := range f.Groups[i].Rules {
				if rule.Scale != nil {
					scales = append(scales, rule.Scale)
				}
			}
		}
	}
	r.check(d, scales)
	r.targets = newTargets(d, r.path+".target_model", r.test.TargetModel, scales, r.start)
	for i, text := range r.test.Invariant {
		if inv := compileInvariant(d, fmt.Sprintf("%s.invariant[%d]", r.path, i), text, scales); inv != nil {
			r.invariants = append(r.invariants, inv)
		}
	}
	if err := d.Err(); err != nil {
		r.report.fail(err)
		return false
	}
	return true
}

// readRules reads the rule files anew: a test changes what it gets.
func (r *run) readRules() ([]*rules.File, error) {
	reader := rules.Reader{
		Defaults:   rules.Defaults{EvaluationInterval: r.every, ScrapeInterval: time.Duration(r.test.Interval)},
		CheckGroup: r.options.CheckGroup,
	}
	var files []*rules.File
	var faults []error
	for _, name := range r.ruleFiles {
		f, err := reader.ReadFile(name)
		faults = append(faults, err)
		files = append(files, f)
	}
	if err := source.Join(faults...); err != nil {
		return nil, err
	}
	return files, reader.Finish()
}

// check notes what cannot be right about the test.
func (r *run) check(d *source.Decoder, scales []*rules.Scale) {
	for i := range r.test.AlertRuleTest {
		t := &r.test.AlertRuleTest[i]
		path := fmt.Sprintf("%s.alert_rule_test[%d]", r.path, i)
		if t.Alertname == "" {
			d.FaultAt(path, 0, "alertname: the name of an alert is needed")
		}
		r.alerts.add(time.Duration(t.EvalTime), path, i)
	}
	for i := range r.test.ScaleRuleTest {
		t := &r.test.ScaleRuleTest[i]
		path := fmt.Sprintf("%s.scale_rule_test[%d]", r.path, i)
		t.check(d, path, scales)
		r.scales.add(time.Duration(t.EvalTime), path, i)
	}
	for i := range r.test.Faults {
		r.test.Faults[i].check(d, fmt.Sprintf("%s.faults[%d]", r.path, i), scales)
	}
}

// end is when the test ends: at the last time for which something is expected and, where invariants are to hold, not before
// the series end.
func (r *run) end() time.Time {
	end := r.start
	later := func(at time.Time) {
		if at.After(end) {
			end = at
		}
	}
	for _, t := range r.test.PromQLExprTest {
		later(r.start.Add(time.Duration(t.EvalTime)))
	}
	later(r.start.Add(r.alerts.last()))
	later(r.start.Add(r.scales.last()))
	if len(r.invariants) > 0 {
		later(r.input.end(r.start))
	}
	return end
}

// makeEvaluators makes the evaluators of the rules that decide, which act on simulated targets.
func (r *run) makeEvaluators() {
	metrics := newMetrics()
	memory := &rules.Memory{}
	r.scalers = map[string]*rules.Scaler{}
	for i := range r.groups {
		r.groups[i].Evaluator = func(rule *rules.Rule) rules.Evaluator {
			o := rules.ScalerOptions{
				Querier: r.engine, Journal: discard{}, Metrics: metrics, Memory: memory, Acting: true,
			}
			switch {
			case rule.Scale != nil:
				o.Actuators = r.targets.actuators(rule.Scale)
				rule.Scale.Mode = rules.Act // its targets are simulated, so that it may
				o.Ask = func(query string) rules.Querier { return r.ask(rule.Scale, query) }
				s := rules.NewScaler(rule.Scale, o)
				r.scalers[rule.Scale.Name] = s
				return s
			case rule.Forecast != nil:
				return rules.NewPredictor(rule.Forecast, rules.PredictorOptions{Querier: r.engine, Metrics: metrics, Startup: r.startup})
			case rule.Budget != nil:
				return rules.NewAccountant(rule.Budget, r.engine)
			case rule.Optimize != nil:
				return rules.NewOptimizer(rule.Optimize, o)
			}
			return nil
		}
	}
}

// startup is how long a start takes of the targets whose rules use a forecast.
func (r *run) startup(forecast string) (time.Duration, string) {
	all := make([]*rules.Scaler, 0, len(r.scalers))
	for _, name := range slices.Sorted(maps.Keys(r.scalers)) {
		all = append(all, r.scalers[name])
	}
	return rules.LongestStartup(all, forecast)
}

// ask is the Querier of one query of a rule.
func (r *run) ask(rule *rules.Scale, query string) rules.Querier {
	var faults []Fault
	for _, f := range r.test.Faults {
		if f.hits(rule.Name, query) {
			faults = append(faults, f)
		}
	}
	if faults == nil {
		return r.engine
	}
	return &faulty{r.engine, rule.Queries[query].Expr, r.start, faults}
}

// evaluate goes through the times of the test.
func (r *run) evaluate(ctx context.Context) error {
	end := r.end()
	var told time.Time
	for at := r.start; !at.After(end); at = at.Add(r.every) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if now := time.Now(); r.options.Progress != nil && now.Sub(told) > time.Second/5 {
			told = now
			r.options.Progress(Progress{r.source.Name, r.report.Name, at.Sub(r.start), end.Sub(r.start)})
		}
		if err := r.engine.Append(ctx, r.input.till(at)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.failAt(r.path+".input_series", nil, nil, "at %s: %s", brief(at.Sub(r.start)), err)
			r.stopped = true
			return nil
		}
		r.targets.simulator.advance(at)
		failed, err := r.engine.EvalGroups(ctx, at)
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err // rules that were cut off have not failed
		}
		r.report.Evaluations++
		r.failing(failed)
		for _, f := range failed {
			if f.Evaluator {
				continue
			}
			r.failAt(r.path, nil, nil, "rule %s in group %s at %s: %s", f.Rule, f.Group, brief(at.Sub(r.start)), f.Err)
			r.stopped = true
		}
		if r.stopped {
			return nil
		}
		elapsed := at.Sub(r.start)
		r.alerts.each(elapsed, elapsed+r.every, r.checkAlert)
		r.scales.each(elapsed, elapsed+r.every, r.checkScale)
		r.observe(elapsed)
	}
	return nil
}
