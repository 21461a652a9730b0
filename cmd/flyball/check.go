package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"flyball/rules"
	"flyball/rules/source"
	"flyball/rules/store"
)

func checkConfigCommand(app *kingpin.Application, stdout io.Writer) command {
	c := checkParent(app).Command("config", "Check a configuration file and the rule files that it names; every fault at once, as file:line:column.")
	path := c.Arg("file", "The configuration file.").Default("flyball.yml").String()
	return command{c.FullCommand(), func(context.Context) error {
		l, err := load(*path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(stdout, "%s: ok: %s\n", *path, l.summary())
		return err
	}}
}

func checkRulesCommand(app *kingpin.Application, stdout io.Writer) command {
	c := checkParent(app).Command("rules", "Check rule files on their own; whether their targets exist is for check config.")
	paths := c.Arg("file", "Rule files.").Required().Strings()
	evaluation := c.Flag("evaluation-interval", "Of groups that name none.").Default("15s").Duration()
	scrape := c.Flag("scrape-interval", "Of what the rules read.").Default("15s").Duration()
	return command{c.FullCommand(), func(context.Context) error {
		return checkRules(stdout, *paths, *evaluation, *scrape)
	}}
}

// checkParent is the command `check`, made once.
func checkParent(app *kingpin.Application) *kingpin.CmdClause {
	if c := app.GetCommand("check"); c != nil {
		return c
	}
	return app.Command("check", "Check files without running anything.")
}

func checkRules(stdout io.Writer, paths []string, evaluation, scrape time.Duration) error {
	reader := rules.Reader{
		Defaults: rules.Defaults{EvaluationInterval: evaluation, ScrapeInterval: scrape}, CheckScale: checkKinds,
		CheckGroup: checkGroup,
	}
	var faults []error
	for _, path := range paths {
		f, err := reader.ReadFile(path)
		faults = append(faults, err)
		if err == nil {
			n := countRules([]*rules.File{f})
			if _, err := fmt.Fprintf(stdout, "%s: ok: %s\n", path, n); err != nil {
				return err
			}
		}
	}
	return source.Join(faults...)
}

// checkGroup says what Prometheus's engine has against a group: templates.
func checkGroup(f *rules.File, g *rules.Group) error {
	return store.GroupOf(f, g, unevaluated).Validate()
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
		plural(len(l.Batchproxy.Models), "model"), plural(len(l.targets()), "target"))
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
	text := fmt.Sprintf("%s, %d record, %d alert, %d scale", plural(n.groups, "group"), n.rules["record"], n.rules["alert"], n.rules["scale"])
	for _, kind := range []string{"budget", "slo", "optimize", "forecast"} {
		if n.rules[kind] > 0 {
			text += fmt.Sprintf(", %d %s", n.rules[kind], kind)
		}
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
