package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"golang.org/x/term"

	"flyball/rules/report"
)

// reportOptions are the flags of report.
type reportOptions struct {
	report.Options
	server      server
	since, step string // durations, as Prometheus writes them: 30d
	scrape      string
	window      string
	until       string
	output      string
}

func reportCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := app.Command("report", "Say how a model did: its metrics over time, what breached and when, and what is to be found in them: each finding with evidence, its PromQL and what to change. Asks a running flyball, or any Prometheus that scrapes one.")
	var o reportOptions
	c.Arg("model", "Name of the model: the value of the label model.").Required().StringVar(&o.Model)
	o.server.flags(c)
	c.Flag("since", "How far back.").Default("24h").StringVar(&o.since)
	c.Flag("until", "The end (RFC 3339, or 15:04:05 today); default: now.").StringVar(&o.until)
	c.Flag("step", "Between two points; rates are taken over it, and over four scrapes at least.").Default("5m").StringVar(&o.step)
	c.Flag("scale", "Name of the scale rule that sizes the model; default: the one with the model's name, or with its name as target.").StringVar(&o.Scale)
	c.Flag("gpus", `Matchers of the GPUs that serve it, such as gpu="0"; default: those that flyball_model_gpu_info names.`).StringVar(&o.GPUs)
	c.Flag("batch.max-size", "The most rows that a batch may have; default: what the metrics say.").Float64Var(&o.BatchSize)
	c.Flag("scrape-interval", "At which the metrics are scraped.").Default("15s").StringVar(&o.scrape)
	c.Flag("flap.reversals", "Changes of direction within --flap.window that are usual.").Default("2").IntVar(&o.Reversals)
	c.Flag("flap.window", "The time in which they are.").Default("30m").StringVar(&o.window)
	c.Flag("output", "Format: text, json or html (one page that needs nothing else).").Short('o').Default("text").EnumVar(&o.output, "text", "json", "html")
	return command{c.FullCommand(), func(ctx context.Context) error { return o.run(ctx, stdout, stderr) }}
}

func (o *reportOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	until, err := parseTime(o.until, time.Now())
	if err != nil {
		return exitError{exitUsage, errors.New(strings.Replace(err.Error(), "--at", "--until", 1))}
	}
	var since time.Duration
	for _, f := range []struct {
		flag, text string
		to         *time.Duration
	}{{"since", o.since, &since}, {"step", o.step, &o.Step}, {"scrape-interval", o.scrape, &o.Scrape}, {"flap.window", o.window, &o.Window}} {
		d, err := model.ParseDuration(f.text)
		if err != nil || d <= 0 {
			return exitError{exitUsage, fmt.Errorf("--%s is %q: expected a duration, such as 5m, 24h or 7d", f.flag, f.text)}
		}
		*f.to = time.Duration(d)
	}
	switch {
	case o.Step < time.Second:
		return exitError{exitUsage, fmt.Errorf("--step=%s: expected a second or more", o.step)}
	case since < 2*o.Step:
		return exitError{exitUsage, fmt.Errorf("--since=%s at --step=%s: expected two steps or more", o.since, o.step)}
	case since/o.Step > report.MaxPoints:
		return exitError{exitUsage, fmt.Errorf("--since=%s at --step=%s: %d points are more than %d", o.since, o.step, since/o.Step, report.MaxPoints)}
	case o.BatchSize < 0 || o.Reversals < 1:
		return exitError{exitUsage, fmt.Errorf("--batch.max-size=%g --flap.reversals=%d: expected 0 or more, and 1 or more", o.BatchSize, o.Reversals)}
	}
	o.End = time.Now()
	if !until.IsZero() {
		o.End = until.In(time.Local)
	}
	o.End = o.End.Truncate(time.Second) // parseTime gives the last moment of one
	o.Start = o.End.Add(-since)
	client, err := o.server.client()
	if err != nil {
		return err
	}
	asked, err := api.NewClient(api.Config{Address: o.server.base(), Client: client})
	if err != nil {
		return exitError{exitUsage, fmt.Errorf("--url: %w", err)}
	}
	erase := o.progress(stderr)
	r, err := report.Make(ctx, prometheusSource{v1.NewAPI(asked)}, o.Options)
	erase()
	if err != nil {
		return fmt.Errorf("report %s: %w", o.Model, o.explain(err))
	}
	switch o.output {
	case "json":
		return r.WriteJSON(stdout)
	case "html":
		return r.WriteHTML(stdout)
	}
	return r.WriteText(stdout)
}

// progress shows how many queries have been answered, on a terminal. What it returns takes that away.
func (o *reportOptions) progress(stderr io.Writer) (erase func()) {
	f, ok := stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	o.Progress = func(done, of int) { fmt.Fprintf(stderr, "\r\x1b[Kreport %s: %d of %d queries", o.Model, done, of) }
	return func() { fmt.Fprint(stderr, "\r\x1b[K") }
}

// explain says what a user can do about an error.
func (o *reportOptions) explain(err error) error {
	where := o.server.base()
	if u, err := url.Parse(where); err == nil {
		where = u.Redacted()
	}
	if absent, ok := errors.AsType[*report.NotFoundError](err); ok {
		return fmt.Errorf("%s: %w; --since and --until say when, --url where", where, absent)
	}
	if _, unreachable := errors.AsType[*url.Error](err); unreachable {
		return fmt.Errorf("%w: is flyball, or a Prometheus, running there?", err)
	}
	answer, ok := errors.AsType[*v1.Error](err)
	switch {
	case !ok:
		return err
	case answer.Type == v1.ErrClient && strings.Contains(answer.Msg, "401"):
		return fmt.Errorf("%s asks for a password: --http.config.file gives it", where)
	case answer.Type == v1.ErrBadResponse, answer.Type == v1.ErrClient:
		return fmt.Errorf("%s does not answer as Prometheus's API does: %w", where, err)
	}
	return err
}

// prometheusSource asks Prometheus's HTTP API, flyball's or that of any other.
type prometheusSource struct{ api v1.API }

// reportQueryTimeout is how long a server may take for one query: longer than flyball's own limit, which then says why.
const reportQueryTimeout = 2 * time.Minute

func (s prometheusSource) QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) (a report.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, reportQueryTimeout)
	defer cancel()
	v, warnings, _, err := s.api.QueryRange(ctx, expr, v1.Range{Start: start, End: end, Step: step})
	if err != nil {
		return a, err
	}
	matrix, ok := v.(model.Matrix)
	if !ok {
		return a, fmt.Errorf("the answer is a %s", v.Type())
	}
	for _, w := range warnings {
		if !strings.HasPrefix(w, "PromQL ") { // that are about the query, not about what is missing of the answer
			a.Warnings = append(a.Warnings, w)
		}
	}
	for _, stream := range matrix {
		one := report.Series{Labels: make(map[string]string, len(stream.Metric)), Points: make([]report.Point, 0, len(stream.Values))}
		for name, value := range stream.Metric {
			one.Labels[string(name)] = string(value)
		}
		for _, p := range stream.Values {
			one.Points = append(one.Points, report.Point{Time: p.Timestamp.Time(), Value: float64(p.Value)})
		}
		a.Series = append(a.Series, one)
	}
	return a, nil
}

func (s prometheusSource) LabelValues(ctx context.Context, label string, selectors []string, start, end time.Time) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, reportQueryTimeout)
	defer cancel()
	values, _, _, err := s.api.LabelValues(ctx, label, selectors, start, end)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	return texts, nil
}
