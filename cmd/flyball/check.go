package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"flyball/rules"
	"flyball/rules/source"
	"flyball/rules/store"
)

// findingsOptions are how a check says what it found.
type findingsOptions struct{ output, lint string }

func (o *findingsOptions) flags(c *kingpin.CmdClause) {
	c.Flag("output", "Format: text, json, or github for annotations of a pull request.").Short('o').Default("text").EnumVar(&o.output, "text", "json", "github")
	c.Flag("lint", "Which lint findings to tell: all or none. With nothing worse, they exit with 3.").Default("all").EnumVar(&o.lint, "all", "none")
}

func checkConfigCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := checkParent(app).Command("config", "Check a configuration file and the rule files that it names; every fault at once, as file:line:column.")
	path := c.Arg("file", "The configuration file.").Default("flyball.yml").String()
	var o findingsOptions
	o.flags(c)
	return command{c.FullCommand(), func(context.Context) error {
		l, err := load(*path)
		if err != nil {
			return o.tell(stdout, stderr, err, nil)
		}
		if o.output == "text" {
			if _, err := fmt.Fprintf(stdout, "%s: ok: %s\n", *path, l.summary()); err != nil {
				return err
			}
		}
		return o.tell(stdout, stderr, nil, l.lint)
	}}
}

func checkRulesCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := checkParent(app).Command("rules", "Check rule files on their own; whether their targets exist is for check config.")
	paths := c.Arg("file", "Rule files.").Required().Strings()
	evaluation := c.Flag("evaluation-interval", "Of groups that name none.").Default("15s").Duration()
	scrape := c.Flag("scrape-interval", "Of what the rules read.").Default("15s").Duration()
	var o findingsOptions
	o.flags(c)
	return command{c.FullCommand(), func(context.Context) error {
		return o.checkRules(stdout, stderr, *paths, *evaluation, *scrape)
	}}
}

// checkParent is the command `check`, made once.
func checkParent(app *kingpin.Application) *kingpin.CmdClause {
	if c := app.GetCommand("check"); c != nil {
		return c
	}
	return app.Command("check", "Check files without running anything.")
}

func (o *findingsOptions) checkRules(stdout, stderr io.Writer, paths []string, evaluation, scrape time.Duration) error {
	reader := newRuleReader(rules.Defaults{EvaluationInterval: evaluation, ScrapeInterval: scrape})
	var faults []error
	for _, path := range paths {
		f, err := reader.ReadFile(path)
		faults = append(faults, err)
		if err == nil && o.output == "text" {
			n := countRules([]*rules.File{f})
			if _, err := fmt.Fprintf(stdout, "%s: ok: %s\n", path, n); err != nil {
				return err
			}
		}
	}
	return o.tell(stdout, stderr, source.Join(faults...), reader.Lint())
}

// newRuleReader reads rule files on their own, without a configuration.
func newRuleReader(d rules.Defaults) *rules.Reader {
	return &rules.Reader{Defaults: d, CheckScale: checkKinds, CheckGroup: checkGroup}
}

// tell says what is wrong with files, and what is probably not meant in them, and gives the exit code.
func (o *findingsOptions) tell(stdout, stderr io.Writer, faults, warnings error) error {
	if o.lint == "none" {
		warnings = nil
	}
	errs, warned := asErrors(faults), asErrors(warnings)
	result := error(nil)
	switch {
	case faults != nil:
		result = exitError{code: exitFailed}
	case len(warned) > 0:
		result = exitError{code: exitMissed}
	}
	switch o.output {
	case "json":
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(struct {
			Errors   source.Errors `json:"errors"`
			Warnings source.Errors `json:"warnings"`
		}{errs, warned}); err != nil {
			return err
		}
		return result
	case "github":
		for _, e := range errs {
			fmt.Fprintln(stdout, annotation("error", e))
		}
		for _, w := range warned {
			fmt.Fprintln(stdout, annotation("warning", w))
		}
		return result
	}
	files := map[string]bool{}
	for _, w := range warned {
		fmt.Fprintf(stderr, "warning: %s\n", w.Show())
		files[w.File] = true
	}
	if len(warned) > 0 {
		fmt.Fprintf(stderr, "%s in %s\n", plural(len(warned), "warning"), plural(len(files), "file"))
	}
	if faults != nil {
		return faults
	}
	return result
}

// asErrors are the faults of an error at their places, never nil; one that has no place is one of them.
func asErrors(err error) source.Errors {
	if all, ok := errors.AsType[source.Errors](source.Join(err)); ok {
		return all
	}
	return source.Errors{}
}

// annotation is a fault as a workflow command of GitHub's, which shows it beside the line.
func annotation(kind string, e *source.Error) string {
	text := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	place := ""
	if e.File != "" {
		place = " file=" + property.Replace(e.File)
	}
	if e.Line > 0 {
		place += fmt.Sprintf(",line=%d,col=%d", e.Line, e.Column)
	}
	return fmt.Sprintf("::%s%s::%s", kind, place, text.Replace(e.Message))
}

// checkGroup says what Prometheus's engine has against a group: templates.
func checkGroup(f *rules.File, g *rules.Group) error {
	errs := []error{store.GroupOf(f, g, unevaluated).Validate()}
	for i := range g.Rules {
		var annotations map[string]string
		switch r := &g.Rules[i]; {
		case r.Scale != nil:
			annotations = r.Scale.Annotations
		case r.Optimize != nil:
			annotations = r.Optimize.Annotations
		}
		for _, name := range slices.Sorted(maps.Keys(annotations)) {
			if err := store.CheckAnnotation(annotations[name]); err != nil {
				errs = append(errs, fmt.Errorf("rules[%d].annotations.%s: %w", i, name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// unevaluated stands for the evaluator of a rule that decides where only its name matters.
func unevaluated(r *rules.Rule) rules.Evaluator {
	switch {
	case r.Scale != nil:
		return named(r.Scale.Name)
	case r.Budget != nil:
		return named(r.Budget.Name)
	case r.Optimize != nil:
		return named(r.Optimize.Name)
	}
	return nil
}

type named string

func (n named) Name() string { return string(n) }

func (named) Eval(context.Context, time.Time) ([]rules.Sample, error) {
	return nil, errors.New("a rule that is only checked is not evaluated")
}

func (l *loaded) summary() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s, %s, %s", plural(len(l.rules), "rule file"), countRules(l.rules),
		plural(len(l.Batchproxy.Models), "model"), plural(len(l.targets())+len(l.Actuators.None)+len(l.Actuators.Keda), "target"))
	if l.Prometheus.Remote() {
		text.WriteString(", queries to " + l.Prometheus.URL)
	}
	for _, u := range l.writes.URLs() {
		text.WriteString(", samples to " + u)
	}
	return text.String()
}

// ruleCount counts rules by kind.
type ruleCount struct {
	groups int
	rules  map[string]int // by kind
}

func countRules(files []*rules.File) (n ruleCount) {
	for _, f := range files {
		n.groups += len(f.Groups)
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				if n.rules == nil {
					n.rules = map[string]int{}
				}
				n.rules[r.Kind()]++
			}
		}
	}
	return n
}

func (n ruleCount) String() string {
	parts := []string{plural(n.groups, "group")}
	for i, kind := range []string{"record", "alert", "scale", "budget", "slo", "optimize", "forecast"} {
		if i < 3 || n.rules[kind] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.rules[kind], kind))
		}
	}
	return strings.Join(parts, ", ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
