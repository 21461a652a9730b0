package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"
	"golang.org/x/term"

	"flyball/rules"
	"flyball/rules/rulestest"
	"flyball/rules/store"
)

type testOptions struct {
	files  []string
	run    []string
	diff   bool
	output string

	stdout, stderr io.Writer
}

func testRulesCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	parent := app.GetCommand("test")
	if parent == nil {
		parent = app.Command("test", "Test rules at virtual time, without running anything.")
	}
	c := parent.Command("rules", "Run test files: promtool's, unchanged, and those for rules that decide, with simulated targets and faults.")
	o := testOptions{stdout: stdout, stderr: stderr}
	c.Arg("file", "Test files.").Required().StringsVar(&o.files)
	c.Flag("run", "Only the tests whose name matches this regular expression; repeatable.").PlaceHolder("REGEXP").StringsVar(&o.run)
	c.Flag("diff", "Show what was expected and got as one difference.").BoolVar(&o.diff)
	c.Flag("output", "text, junit or json.").Short('o').Default("text").EnumVar(&o.output, "text", "junit", "json")
	return command{c.FullCommand(), o.do}
}

func (o *testOptions) do(ctx context.Context) error {
	options := rulestest.Options{NewEngine: newScratchEngine, CheckGroup: checkGroup}
	if o.run != nil {
		match, err := regexp.Compile(strings.Join(o.run, "|"))
		if err != nil {
			return exitError{exitUsage, fmt.Errorf("--run is %q: %w", strings.Join(o.run, "|"), err)}
		}
		options.Match = match
	}
	erase := func() {}
	if f, ok := o.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		erase = func() { fmt.Fprint(o.stderr, "\r\x1b[K") }
		options.Progress = func(p rulestest.Progress) {
			fmt.Fprintf(o.stderr, "\r\x1b[K%s: %s: %s of %s", filepath.Base(p.File), p.Test, model.Duration(p.At), model.Duration(p.Of))
		}
	}
	report, err := rulestest.Run(ctx, o.files, options)
	erase()
	if ctx.Err() != nil {
		return exitError{exitFailed, fmt.Errorf("test rules: interrupted after %s", plural(report.Tests, "test"))}
	}
	if err != nil {
		return fmt.Errorf("test rules: %w", err)
	}
	switch o.output {
	case "junit":
		err = report.JUnit(o.stdout)
	case "json":
		err = report.JSON(o.stdout)
	default:
		err = report.Text(o.stdout, o.diff)
	}
	if err == nil && !report.Passed {
		return exitError{code: exitFailed}
	}
	return err
}

// scratchEngine is a store that is thrown away as the engine of a test.
type scratchEngine struct{ *store.Scratch }

func newScratchEngine(o rulestest.EngineOptions) (rulestest.Engine, error) {
	s, err := store.OpenScratch(store.Options{
		EvaluationInterval: o.EvaluationInterval, ExternalLabels: o.ExternalLabels, ExternalURL: o.ExternalURL,
	})
	if err != nil {
		return nil, err
	}
	return scratchEngine{s}, nil
}

func (e scratchEngine) SetGroups(groups []rulestest.Group) error {
	all := make([]store.Group, 0, len(groups))
	for _, g := range groups {
		all = append(all, store.GroupOf(g.File, g.Group, g.Evaluator))
	}
	return e.Scratch.SetGroups(all)
}

func (e scratchEngine) Append(ctx context.Context, samples []rulestest.Sample) error {
	all := make([]store.ScratchSample, 0, len(samples))
	for _, s := range samples {
		all = append(all, store.ScratchSample(s))
	}
	return e.Scratch.Append(ctx, all)
}

func (e scratchEngine) EvalGroups(ctx context.Context, at time.Time) (failed []rulestest.RuleFailure, err error) {
	if _, err := e.Scratch.EvalGroups(ctx, at); err != nil {
		return nil, err
	}
	for _, f := range e.Failures() {
		failed = append(failed, rulestest.RuleFailure(f))
	}
	return failed, nil
}

func (e scratchEngine) Firing() (alerts []rulestest.Alert) {
	for _, a := range e.Alerts() {
		if a.State == "firing" {
			alerts = append(alerts, rulestest.Alert{Labels: a.Labels, Annotations: a.Annotations})
		}
	}
	return alerts
}

func (e scratchEngine) Vector(ctx context.Context, expr string, at time.Time) ([]rulestest.Sample, error) {
	found, err := e.Scratch.Vector(ctx, expr, at)
	all := make([]rulestest.Sample, 0, len(found))
	for _, s := range found {
		all = append(all, rulestest.Sample(s))
	}
	return all, err
}

var _ rules.Querier = scratchEngine{}
