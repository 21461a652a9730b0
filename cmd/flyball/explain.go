package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"flyball/cmd/flyball/web"
	"flyball/rules"
	"flyball/rules/journal"
)

type explainOptions struct {
	rule    string
	server  server
	journal string
	at      string
	output  string
	last    int
	every   bool
}

func explainCommand(app *kingpin.Application, stdout io.Writer) command {
	c := app.Command("explain", "Say why a scale rule decided what it did, every input, every stage, every reason; or of a forecast rule what comes next and why it thinks so.")
	var o explainOptions
	c.Arg("rule", "Name of the scale rule, or of the forecast rule.").Required().StringVar(&o.rule)
	o.server.flags(c)
	c.Flag("journal", "Read this journal (decisions.jsonl) instead of asking a running flyball.").StringVar(&o.journal)
	c.Flag("at", "The decision that held at this time (RFC 3339, or 15:04:05 today); default: the last one.").StringVar(&o.at)
	c.Flag("last", "How many decisions, newest first.").Default("1").IntVar(&o.last)
	c.Flag("every", "Every evaluation, not only changes and new reasons: the last 5,000 of all targets are in flyball's memory.").BoolVar(&o.every)
	c.Flag("output", "Format: text or json.").Short('o').Default("text").EnumVar(&o.output, "text", "json")
	return command{c.FullCommand(), func(ctx context.Context) error { return explain(ctx, stdout, o) }}
}

func explain(ctx context.Context, stdout io.Writer, o explainOptions) error {
	if o.last < 1 || o.last > web.MaxDecisions {
		return exitError{exitUsage, fmt.Errorf("--last is %d: expected 1 to %d", o.last, web.MaxDecisions)}
	}
	if o.every && o.journal != "" {
		return exitError{exitUsage, errors.New("--every: those that changed nothing are in the memory of a running flyball, not in a journal")}
	}
	until, err := parseTime(o.at, time.Now())
	if err != nil {
		return exitError{exitUsage, err}
	}
	var found []*rules.Decision
	if o.journal != "" {
		found, err = journalDecisions(o.journal, journal.Filter{Rule: o.rule, Until: until}, o.last)
	} else {
		found, err = askDecisions(ctx, o, until)
	}
	if err != nil {
		return fmt.Errorf("explain %s: %w", o.rule, err)
	}
	if len(found) == 0 && o.journal == "" {
		if told, err := explainForecast(ctx, stdout, o); told || err != nil {
			return err
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("explain %s: no decision of that rule: names are in the rule files, and `flyball check config` counts them", o.rule)
	}
	if o.output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(found)
	}
	for i, d := range found {
		if i > 0 {
			fmt.Fprintln(stdout)
		}
		if err := writeDecision(stdout, d); err != nil {
			return err
		}
	}
	return nil
}

func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		if t.Nanosecond() == 0 && !strings.Contains(text, ".") {
			t = t.Add(time.Second - 1) // a second holds the decision that was made within it
		}
		return t, nil
	}
	t, err := time.ParseInLocation(time.TimeOnly, text, now.Location())
	if err != nil {
		return time.Time{}, fmt.Errorf("--at is %q: expected a time such as %s or 15:04:05", text, time.RFC3339)
	}
	y, m, d := now.Date()
	return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 1e9-1, now.Location()), nil
}

// journalDecisions reads a journal without taking part in it: flyball may be running on it.
func journalDecisions(path string, f journal.Filter, n int) ([]*rules.Decision, error) {
	j, err := journal.Open(path, journal.Options{ReadOnly: true, Memory: 1 << 20})
	if err != nil {
		return nil, err
	}
	defer j.Close()
	found := j.Recent(f, n)
	if len(found) == 0 && j.Skipped() > 0 {
		return nil, fmt.Errorf("%s: %s that are not decisions: is this a journal?", path, plural(j.Skipped(), "line"))
	}
	return found, nil
}

func askDecisions(ctx context.Context, o explainOptions, until time.Time) (found []*rules.Decision, err error) {
	query := url.Values{"rule": {o.rule}, "limit": {fmt.Sprint(o.last)}}
	if o.every {
		query.Set("every", "true")
	}
	if !until.IsZero() {
		query.Set("until", until.Format(time.RFC3339Nano))
	}
	err = o.ask(ctx, "decisions?"+query.Encode(), &found)
	return found, err
}

// ask asks a running flyball for what its API has at a path.
func (o *explainOptions) ask(ctx context.Context, path string, to any) error {
	running := o.server
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	response, err := running.get(ctx, "/api/v1/flyball/"+path)
	if _, unreachable := errors.AsType[*url.Error](err); unreachable {
		return fmt.Errorf("%w: is flyball running there? --journal reads decisions from a file", err)
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusUnauthorized {
		return fmt.Errorf("%s asks for a password: --http.config.file gives it", running.url)
	}
	var answer struct {
		Status string
		Error  string
		Data   json.RawMessage
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 64<<20)).Decode(&answer); err != nil {
		return fmt.Errorf("%s answered %s, which is not flyball's API: %w", running.url, response.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", running.url, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, to); err != nil {
		return fmt.Errorf("%s answered what is not flyball's API: %w", running.url, err)
	}
	return nil
}

// writeDecision writes a decision for a reader.
func writeDecision(w io.Writer, d *rules.Decision) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	line("%s  %s  %d -> %d  %s  %s", d.Time.Local().Format(time.RFC3339), d.Rule, d.From, d.To, d.Result, d.ReasonText())
	line("\t%s", d.Text)
	if d.Error != "" {
		line("\terror: %s", d.Error)
	}
	line("")
	line("target\t%s\t%s\tid %s", d.Target, d.Mode, d.ID)
	if d.Result != rules.Recommended {
		line("replicas\t%d asked for\t%d ready\tmin %d\tmax %d", d.Replicas.Spec, d.Replicas.Ready, d.Replicas.Min, d.Replicas.Max)
	}
	if d.StartupSeconds > 0 {
		line("startup\t%s\tas measured", time.Duration(d.StartupSeconds*float64(time.Second)).Round(10*time.Millisecond))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Annotations)) {
		line("annotation\t%s\t%s", name, d.Annotations[name])
	}
	for _, q := range d.Queries {
		if q.Fault != "" && q.Absent() {
			continue
		}
		if q.Fault != "" {
			line("query\t%s\t%s\t%s\t%s", q.Name, q.Fault, q.Detail, q.Expr)
			continue
		}
		line("query\t%s\t%.6g\t%s old, %d series\t%s", q.Name, *q.Value, time.Duration(q.AgeSeconds*float64(time.Second)).Round(10*time.Millisecond), q.Series, q.Expr)
	}
	for _, s := range d.Signals {
		if s.Proposal == nil {
			line("signal\t%s\t%s\t%s", s.Name, s.Reason, s.Detail)
			continue
		}
		line("signal\t%s\t%.6g\t%s\tneeds %d\t%s", s.Name, *s.Value, s.Basis(), *s.Proposal, s.Reason)
		if s.Panic != nil {
			line("panic\t%s\t\t\tneeds %d", s.Name, *s.Panic)
		}
	}
	for _, s := range d.Steps {
		state := "does not hold"
		switch {
		case s.Fault != "":
			state = string(s.Fault)
		case s.Fired:
			state = "fired"
		case s.Holds:
			state = "holds, not for long enough"
		}
		line("when\t%s\t%s\t%s", s.If, s.Do, state)
	}
	if s := d.Shadow; s != nil {
		line("shadow\t%d -> %d\thad it acted\t%s", s.From, s.To, s.Text)
	}
	for _, v := range d.Variants {
		line("variant\t%s\t%s\t%d -> %d\t%d ready\tcapacity %d at %.6g USD/h", v.Name, v.Target, v.From, v.To, v.Ready, v.Capacity, v.PriceUSDPerHour)
	}
	if !d.Start && d.Result != rules.Recommended {
		line("confidence\t%.3g", d.Confidence)
		line("stages\tcombined %d\tgated %d\tcosted %d\tstabilized %d\tlimited %d\tdamped %d", d.Combined, d.Gated, d.Costed, d.Stabilized, d.Limited, d.Damped)
	}
	if d.Cost != nil {
		line("cost\t%.6g -> %.6g USD/h", d.Cost.BeforeUSDPerHour, d.Cost.AfterUSDPerHour)
	}
	return t.Flush()
}
