package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"flyball/forecast"
	"flyball/forecast/eval"
	"flyball/rules/source"
)

// forecastOptions are the flags that the forecast commands share: where the series are from, and which of them.
type forecastOptions struct {
	file, query string
	columns     []string
	server      server
	span, step  string // of the query
	model       modelFlags
	output      string
}

// horizonOf is a number of steps, or a duration.
type horizonOf struct{ text string }

func forecastCommands(app *kingpin.Application, stdout, stderr io.Writer) []command {
	parent := app.Command("forecast", "Forecast series of a CSV file, or of a query, measure how well that works, and find what is out of the ordinary in them.")
	return []command{
		forecastShowCommand(parent, stdout, stderr),
		forecastEvalCommand(parent, stdout, stderr),
		forecastAnomaliesCommand(parent, stdout, stderr),
	}
}

func (o *forecastOptions) flags(c *kingpin.CmdClause, outputs ...string) {
	c.Flag("file", "CSV of series, - for standard input. The first line names the columns; the first column is the time (seconds, RFC 3339 or 2006-01-02 15:04:05), each other one a series; empty or NaN is missing.").StringVar(&o.file)
	c.Flag("column", "Name of the series; repeatable. Default: all.").StringsVar(&o.columns)
	c.Flag("query", "PromQL instead of a file: each series of the answer.").StringVar(&o.query)
	o.server.flags(c)
	c.Flag("range", "How far back the query goes.").Default("14d").StringVar(&o.span)
	c.Flag("step", "Between two values of the query.").Default("5m").StringVar(&o.step)
	o.model.flags(c)
	c.Flag("output", "Format: "+strings.Join(outputs[:len(outputs)-1], ", ")+" or "+outputs[len(outputs)-1]+".").Short('o').Default("text").EnumVar(&o.output, outputs...)
}

func forecastShowCommand(parent *kingpin.CmdClause, stdout, stderr io.Writer) command {
	c := parent.Command("show", "Forecast what comes next, with quantiles: a plot and a table (the default of flyball forecast).").Default()
	var o forecastOptions
	o.flags(c, "text", "json")
	o.model.factorFlags(c)
	var h horizonOf
	c.Flag("horizon", "How far ahead: a number of steps, or a duration.").Default("6").StringVar(&h.text)
	levelsText := c.Flag("levels", "The quantiles, between 0 and 1, with commas.").Default("0.1,0.5,0.9").String()
	return command{c.FullCommand(), func(ctx context.Context) error {
		levels, err := parseLevels(*levelsText)
		if err != nil {
			return exitError{exitUsage, err}
		}
		if err := errors.Join(h.check(), o.check()); err != nil {
			return exitError{exitUsage, err}
		}
		series, err := o.series(ctx, stderr)
		if err != nil {
			return err
		}
		var all []eval.Forecast
		for _, s := range series {
			f, err := show(s, h.steps(s), levels, o.model)
			if err != nil {
				return fmt.Errorf("forecast %s: %w", s.Name, err)
			}
			all = append(all, f)
		}
		if o.output == "json" {
			return eval.WriteForecastsJSON(stdout, all, time.Now())
		}
		for i, f := range all {
			if i > 0 {
				fmt.Fprintln(stdout)
			}
			if err := eval.WriteForecastText(stdout, f); err != nil {
				return err
			}
		}
		return nil
	}}
}

// show forecasts one series.
func show(s eval.Series, horizon int, levels []float64, flags modelFlags) (eval.Forecast, error) {
	f, err := flags.forecaster(s, horizon, levels)
	if err != nil {
		return eval.Forecast{}, err
	}
	eval.FitWith(f, s, len(s.Values))
	flags.regressors = nil // the detector sees the values alone
	found, err := anomaliesOf(s, flags, forecast.DetectorOptions{})
	if err != nil {
		return eval.Forecast{}, err
	}
	e := f.Explain()
	weights := map[string]float64{}
	for _, m := range e.Members {
		if m.Weight > 0 {
			weights[m.Name] = m.Weight
		}
	}
	return eval.Forecast{
		Series: s, Levels: levels, Points: f.Forecast(horizon, levels), Model: e.Model, Weights: weights, Seasons: usedSeasons(e),
		Events: e.Events, Regressors: e.Regressors, Reason: e.Reason, Anomalies: found,
	}, nil
}

func forecastEvalCommand(parent *kingpin.CmdClause, stdout, stderr io.Writer) command {
	c := parent.Command("eval", "Measure how well series are forecast, from many origins, beside the last value and the one of a day and of a week before.")
	var o forecastOptions
	o.flags(c, "text", "json")
	o.model.factorFlags(c)
	train := c.Flag("train", "The first part, to learn from.").Default("8d").String()
	every := c.Flag("every", "Between two forecasts.").Default("6h").String()
	horizon := c.Flag("horizon", "How far ahead each goes.").Default("1h").String()
	levelsText := c.Flag("levels", "The quantiles, between 0 and 1, with commas.").Default("0.025,0.1,0.5,0.9,0.975").String()
	return command{c.FullCommand(), func(ctx context.Context) error {
		r := eval.Rolling{}
		var err error
		if r.Levels, err = parseLevels(*levelsText); err != nil {
			return exitError{exitUsage, err}
		}
		err = errors.Join(parseDuration("train", *train, &r.Train), parseDuration("every", *every, &r.Every), parseDuration("horizon", *horizon, &r.Horizon), o.check())
		if err != nil {
			return exitError{exitUsage, err}
		}
		series, err := o.series(ctx, stderr)
		if err != nil {
			return err
		}
		results, err := r.Run(ctx, series, func(s eval.Series, horizon int, levels []float64) (eval.Forecaster, error) {
			return o.model.forecaster(s, horizon, levels)
		})
		if err != nil {
			return fmt.Errorf("forecast eval: %w", err)
		}
		if o.output == "json" {
			return eval.WriteResultsJSON(stdout, results)
		}
		return eval.WriteResultsText(stdout, o.model.name, results)
	}}
}

func forecastAnomaliesCommand(parent *kingpin.CmdClause, stdout, stderr io.Writer) command {
	c := parent.Command("anomalies", "Find spikes, dips, level shifts, flatlines and missing values, each by what was forecast a step before. One incident is one anomaly; csv has every value, with its score.")
	var o forecastOptions
	o.flags(c, "text", "json", "csv")
	var d forecast.DetectorOptions
	c.Flag("sensitivity", "Standard deviations off its forecast that make a value a spike or a dip.").Default("5").Float64Var(&d.Sensitivity)
	realert := c.Flag("realert", "How long after an anomaly there is no other. Default: 2h, or 1d if there is a daily pattern.").String()
	return command{c.FullCommand(), func(ctx context.Context) error {
		if *realert != "" {
			if err := parseDuration("realert", *realert, &d.Realert); err != nil {
				return exitError{exitUsage, err}
			}
		}
		if !(d.Sensitivity > 0) {
			return exitError{exitUsage, fmt.Errorf("--sensitivity is %g: expected more than 0", d.Sensitivity)}
		}
		if err := o.check(); err != nil {
			return exitError{exitUsage, err}
		}
		series, err := o.series(ctx, stderr)
		if err != nil {
			return err
		}
		if o.output == "csv" && len(series) != 1 {
			return exitError{exitUsage, fmt.Errorf("-o csv takes one series, and there are %d: --column names it", len(series))}
		}
		var all []eval.Anomalies
		for _, s := range series {
			found, err := anomaliesOf(s, o.model, d)
			if err != nil {
				return fmt.Errorf("forecast anomalies %s: %w", s.Name, err)
			}
			all = append(all, eval.Anomalies{Series: s, Model: o.model.name, Found: found})
		}
		switch o.output {
		case "json":
			return eval.WriteAnomaliesJSON(stdout, all)
		case "csv":
			return eval.WriteDetectedCSV(stdout, all[0].Found)
		}
		return eval.WriteAnomaliesText(stdout, all)
	}}
}

// anomaliesOf finds what is out of the ordinary in s, by what was forecast of each value a step before. How long an alert is
// followed by no other goes by whether there is a daily pattern in all of it.
func anomaliesOf(s eval.Series, flags modelFlags, d forecast.DetectorOptions) ([]eval.Detected, error) {
	whole, err := flags.forecaster(s, 1, nil)
	if err != nil {
		return nil, err
	}
	whole.Fit(s.Values, s.Start)
	d.Seasonal = slices.Contains(usedSeasons(whole.Explain()), 24*time.Hour)
	f, err := flags.forecaster(s, 1, nil)
	if err != nil {
		return nil, err
	}
	return eval.Detect(s, f, d)
}

// check is what can be said of the flags without reading anything.
func (o *forecastOptions) check() error {
	if (o.file == "") == (o.query == "") {
		return errors.New("expected one of --file and --query")
	}
	if o.query != "" && len(o.model.regressors) > 0 {
		return errors.New("--regressor is a column of --file: --query has none")
	}
	var d time.Duration
	return errors.Join(parseDuration("range", o.span, &d), parseDuration("step", o.step, &d), o.model.check())
}

// series reads them. What was not as it should be in a file is said on stderr.
func (o *forecastOptions) series(ctx context.Context, stderr io.Writer) ([]eval.Series, error) {
	if err := o.model.load(); err != nil {
		return nil, err
	}
	var all []eval.Series
	if o.query != "" {
		var err error
		if all, err = o.queried(ctx); err != nil {
			return nil, fmt.Errorf("--query: %w", err)
		}
	} else {
		in := os.Stdin
		if o.file != "-" {
			f, err := os.Open(o.file)
			if err != nil {
				return nil, fmt.Errorf("--file: %w", err)
			}
			defer f.Close()
			in = f
		}
		table, err := eval.ReadCSV(in, o.file)
		if err != nil {
			return nil, exitError{exitFailed, err}
		}
		for _, n := range table.Notes {
			fmt.Fprintln(stderr, n)
		}
		all = table.Series
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	all, err := o.explained(all, names)
	if err != nil || len(o.columns) == 0 {
		return all, err
	}
	names = names[:0]
	for _, s := range all {
		names = append(names, s.Name)
	}
	var some []eval.Series
	for _, name := range o.columns {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, exitError{exitUsage, fmt.Errorf("--column=%s: there is no such series%s", name, source.DidYouMean(name, names))}
		}
		some = append(some, all[i])
	}
	return some, nil
}

// explained takes the regressors out of the columns, and gives them to the others, each to its last value.
func (o *forecastOptions) explained(all []eval.Series, names []string) ([]eval.Series, error) {
	if len(o.model.regressors) == 0 {
		return all, nil
	}
	var regressors [][]float64
	for _, name := range o.model.regressors {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, exitError{exitUsage, fmt.Errorf("--regressor=%s: there is no such column%s", name, source.DidYouMean(name, names))}
		}
		if slices.Contains(o.columns, name) {
			return nil, exitError{exitUsage, fmt.Errorf("--regressor=%s: --column forecasts it: expected one of both", name)}
		}
		regressors = append(regressors, all[i].Values)
	}
	var rest []eval.Series
	for _, s := range all {
		if slices.Contains(o.model.regressors, s.Name) {
			continue
		}
		n := len(s.Values)
		for n > 0 && math.IsNaN(s.Values[n-1]) {
			n--
		}
		s.Values, s.Regressors = s.Values[:n], regressors
		rest = append(rest, s)
	}
	if len(rest) == 0 {
		return nil, exitError{exitUsage, errors.New("--regressor: no column is left to forecast")}
	}
	return rest, nil
}

// mostAsked is how many points one request asks for: Prometheus answers 11,000 at most.
const mostAsked = 10_000

// queried asks a Prometheus, or flyball.
func (o *forecastOptions) queried(ctx context.Context) ([]eval.Series, error) {
	var span, step time.Duration
	if err := errors.Join(parseDuration("range", o.span, &span), parseDuration("step", o.step, &step)); err != nil {
		return nil, err
	}
	end := time.Now().Truncate(step)
	start := end.Add(-span).Truncate(step)
	n := int(end.Sub(start)/step) + 1
	if n > eval.MaxSteps {
		return nil, fmt.Errorf("--range=%s at --step=%s: %d values are more than %d", o.span, o.step, n, eval.MaxSteps)
	}
	client, err := o.server.client()
	if err != nil {
		return nil, err
	}
	asked, err := api.NewClient(api.Config{Address: o.server.base(), Client: client})
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	from := prometheusSource{v1.NewAPI(asked)}
	found := map[string]*eval.Series{}
	var names []string
	for first := 0; first < n; first += mostAsked {
		last := min(first+mostAsked, n) - 1
		answer, err := from.QueryRange(ctx, o.query, start.Add(time.Duration(first)*step), start.Add(time.Duration(last)*step), step)
		if err != nil {
			if _, unreachable := errors.AsType[*url.Error](err); unreachable {
				return nil, fmt.Errorf("%w: is flyball, or a Prometheus, running there?", err)
			}
			return nil, err
		}
		for _, one := range answer.Series {
			name := labelsText(one.Labels)
			s := found[name]
			if s == nil {
				if (len(names)+1)*n > eval.MaxValues {
					return nil, fmt.Errorf("more than %d series of %d values: aggregate them", len(names), n)
				}
				s = &eval.Series{Name: name, Start: start.UTC(), Step: step, Values: missingValues(n)}
				found[name] = s
				names = append(names, name)
			}
			for _, p := range one.Points {
				if i := int(p.Time.Sub(start) / step); i >= 0 && i < n {
					s.Values[i] = finite(p.Value)
				}
			}
		}
	}
	if len(names) == 0 {
		return nil, errors.New("the answer has no series")
	}
	slices.Sort(names)
	all := make([]eval.Series, len(names))
	for i, name := range names {
		all[i] = *found[name]
	}
	return all, nil
}

// labelsText is a series' name as Prometheus writes it.
func labelsText(labels map[string]string) string {
	m := make(model.Metric, len(labels))
	for name, value := range labels {
		m[model.LabelName(name)] = model.LabelValue(value)
	}
	return m.String()
}

func parseDuration(flag, text string, to *time.Duration) error {
	d, err := model.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("--%s is %q: expected a duration, such as 5m, 24h or 7d", flag, text)
	}
	*to = time.Duration(d)
	return nil
}

// parseLevels reads quantiles, and sorts them.
func parseLevels(text string) ([]float64, error) {
	var levels []float64
	for field := range strings.SplitSeq(text, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(field), 64)
		if err != nil || !(v > 0 && v < 1) {
			return nil, fmt.Errorf("--levels is %q: expected numbers above 0 and below 1, such as 0.1,0.5,0.9", text)
		}
		levels = append(levels, v)
	}
	slices.Sort(levels)
	return slices.Compact(levels), nil
}

// mostAhead is how many steps a forecast may go ahead.
const mostAhead = 10_000

func (h horizonOf) check() error {
	if n, err := strconv.Atoi(h.text); err == nil && n > 0 && n <= mostAhead {
		return nil
	}
	if d, err := model.ParseDuration(h.text); err == nil && d > 0 {
		return nil
	}
	return fmt.Errorf("--horizon is %q: expected a number of steps from 1 to %d, or a duration such as 1h", h.text, mostAhead)
}

// steps is the horizon in steps of s.
func (h horizonOf) steps(s eval.Series) int {
	if n, err := strconv.Atoi(h.text); err == nil {
		return n
	}
	d, _ := model.ParseDuration(h.text) // check has read it
	return min(s.Steps(time.Duration(d)), mostAhead)
}
