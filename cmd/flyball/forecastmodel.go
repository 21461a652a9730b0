package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"

	"flyball/forecast"
	"flyball/forecast/eval"
	"flyball/rules"
	"flyball/rules/source"
)

// modelFlags say by what a series is forecast.
type modelFlags struct {
	name    string
	seasons string

	calendar   string // a file of events
	events     []forecast.Event
	regressors []string // columns
}

// factorFlags are for what moves the values from outside.
func (m *modelFlags) factorFlags(c *kingpin.CmdClause) {
	c.Flag("events", "YAML of what comes at known times and changes demand while it is on, as events of a forecast rule: by how much is learned from what was.").StringVar(&m.calendar)
	c.Flag("regressor", "A column that moves the others and is not forecast itself; repeatable. Its rows after the last value of a column are what is known ahead.").StringsVar(&m.regressors)
}

// load reads the events.
func (m *modelFlags) load() error {
	if m.calendar == "" {
		return nil
	}
	c, err := rules.ReadCalendar(m.calendar)
	if err != nil {
		return exitError{exitFailed, fmt.Errorf("--events: %w", err)}
	}
	m.events = rules.ForecastEvents(c.Events)
	return nil
}

func (m *modelFlags) flags(c *kingpin.CmdClause) {
	c.Flag("model", "auto (a pool of them, by weights of their recent error), or "+strings.Join(forecast.Models(), ", ")+".").Default("auto").StringVar(&m.name)
	c.Flag("seasons", "Lengths of the seasons that there may be, with commas, such as 24h,168h, or none; auto: an hour, a day and a week, as far as the step allows. Each is used from two full ones on, if it makes the forecast better.").Default("auto").StringVar(&m.seasons)
}

func (m *modelFlags) check() error {
	if names := append([]string{"auto"}, forecast.Models()...); !slices.Contains(names, m.name) {
		return fmt.Errorf("--model is %q: there are %s%s", m.name, strings.Join(names, ", "), source.DidYouMean(m.name, names))
	}
	_, err := m.lengths()
	return err
}

func (m *modelFlags) lengths() ([]time.Duration, error) {
	switch m.seasons {
	case "auto":
		return nil, nil
	case "none":
		return []time.Duration{}, nil
	}
	var all []time.Duration
	for text := range strings.SplitSeq(m.seasons, ",") {
		d, err := model.ParseDuration(strings.TrimSpace(text))
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("--seasons is %q: expected durations such as 24h,168h, or auto or none", m.seasons)
		}
		all = append(all, time.Duration(d))
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// farthest is the most steps ahead that models are fitted to; forecasts go on from there.
const farthest = 2016

// forecaster makes the forecaster for a series, which has observed nothing yet.
func (m *modelFlags) forecaster(s eval.Series, horizon int, levels []float64) (*eval.Online, error) {
	seasons, err := m.lengths()
	if err != nil {
		return nil, err
	}
	f, err := forecast.New(forecast.Options{
		Events: m.events, Regressors: m.regressors,
		Step: s.Step, Horizon: min(horizon, farthest), Seasons: seasons, Levels: levels, Model: m.name,
		AllowNegative: slices.ContainsFunc(s.Values, func(v float64) bool { return v < 0 }), // it is no demand
	})
	return &eval.Online{Forecaster: f}, err
}

// usedSeasons are the seasons that a forecast is made with.
func usedSeasons(e forecast.Explanation) (used []time.Duration) {
	for _, s := range e.Seasons {
		if s.Used {
			used = append(used, s.Period)
		}
	}
	return used
}

func missingValues(n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = math.NaN()
	}
	return values
}

// finite is NaN, which is missing, for what is not finite.
func finite(v float64) float64 {
	if math.IsInf(v, 0) {
		return math.NaN()
	}
	return v
}
