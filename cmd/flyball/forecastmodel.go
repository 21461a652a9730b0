package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"

	"flyball/forecast/eval"
	"flyball/rules/source"
)

// modelFlags say by what a series is forecast.
type modelFlags struct {
	name    string
	seasons string
}

func (m *modelFlags) flags(c *kingpin.CmdClause) {
	c.Flag("model", "auto (the one of them with the least recent error), or "+strings.Join(modelNames(), ", ")+".").Default("auto").StringVar(&m.name)
	c.Flag("seasons", "Lengths of the seasons that there may be, with commas, or none.").Default("24h,168h").StringVar(&m.seasons)
}

// The models: the last value, and that of a season before.
const (
	naiveModel         = "naive"
	seasonalNaiveModel = "seasonal_naive"
)

func modelNames() []string { return []string{naiveModel, seasonalNaiveModel} }

func (m *modelFlags) check() error {
	if names := append([]string{"auto"}, modelNames()...); !slices.Contains(names, m.name) {
		return fmt.Errorf("--model is %q: there are %s%s", m.name, strings.Join(names, ", "), source.DidYouMean(m.name, names))
	}
	seasons, err := m.lengths()
	if err == nil && m.name == seasonalNaiveModel && len(seasons) == 0 {
		return fmt.Errorf("--model=%s with --seasons=%s: expected a season", m.name, m.seasons)
	}
	return err
}

func (m *modelFlags) lengths() ([]time.Duration, error) {
	if m.seasons == "none" {
		return nil, nil
	}
	var all []time.Duration
	for text := range strings.SplitSeq(m.seasons, ",") {
		d, err := model.ParseDuration(strings.TrimSpace(text))
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("--seasons is %q: expected durations such as 24h,168h, or none", m.seasons)
		}
		all = append(all, time.Duration(d))
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// picked is a forecaster, and why this one.
type picked struct {
	eval.Forecaster
	name    string
	weights map[string]float64
	seasons []time.Duration
	reason  string
}

// pick makes the forecaster for s, which has observed nothing yet: where the flags do not name it, the one with the least
// error over the last three days of s, or its last third if that is shorter.
func (m *modelFlags) pick(ctx context.Context, s eval.Series, horizon int, levels []float64) (picked, error) {
	seasons, err := m.lengths()
	if err != nil {
		return picked{}, err
	}
	candidates := []picked{{Forecaster: eval.NewSeasonalNaive(s.Step, s.Step, horizon, levels), name: naiveModel}}
	var short []string
	for _, season := range seasons {
		n := s.Steps(season)
		if n < 2 || (m.name == "auto" && 2*n > len(s.Values)) {
			short = append(short, model.Duration(season).String())
			continue
		}
		candidates = append(candidates, picked{
			Forecaster: eval.NewSeasonalNaive(season, s.Step, horizon, levels),
			name:       seasonalNaiveModel + " " + model.Duration(season).String(), seasons: []time.Duration{season},
		})
	}
	var best picked
	switch {
	case m.name == naiveModel:
		best = candidates[0]
		best.reason = "the last value, as --model says"
	case m.name == seasonalNaiveModel && len(candidates) < 2:
		return picked{}, fmt.Errorf("--seasons=%s: no season is two steps of %s or more", m.seasons, s.Step)
	case m.name == seasonalNaiveModel:
		best = candidates[1]
		best.reason = fmt.Sprintf("what was there %s before, as --model says", model.Duration(best.seasons[0]))
	default:
		if best, err = leastError(ctx, s, horizon, candidates); err != nil {
			return picked{}, err
		}
		if len(short) > 0 {
			best.reason += fmt.Sprintf("; no season of %s: there are not two of it", strings.Join(short, " or "))
		}
	}
	best.weights = map[string]float64{best.name: 1}
	return best, nil
}

// leastError picks by the mean absolute error over the end of s.
func leastError(ctx context.Context, s eval.Series, horizon int, candidates []picked) (picked, error) {
	test := min(s.Steps(3*24*time.Hour), len(s.Values)/3)
	train := len(s.Values) - test
	if len(candidates) == 1 || test < horizon || train < 2 {
		candidates[0].reason = "the last value: there is nothing to compare it with"
		return candidates[0], nil
	}
	r := eval.Rolling{
		Train: s.Step * time.Duration(train), Every: s.Step * time.Duration(max(horizon/2, 1)), Horizon: s.Step * time.Duration(horizon),
		Levels: []float64{0.5}, Workers: 1,
	}
	best, least := candidates[0], math.Inf(1)
	last := math.NaN()
	for _, c := range candidates {
		season := s.Step
		if len(c.seasons) > 0 {
			season = c.seasons[0]
		}
		results, err := r.Run(ctx, []eval.Series{s}, func(s eval.Series, horizon int, levels []float64) (eval.Forecaster, error) {
			return eval.NewSeasonalNaive(season, s.Step, horizon, levels), nil
		})
		if err != nil {
			if ctx.Err() != nil {
				return picked{}, err
			}
			best.reason = "the last value: nothing is there at the end to compare it with"
			return best, nil
		}
		mae := results[0].MAE
		if len(c.seasons) == 0 {
			last = mae
		}
		if mae < least {
			best, least = c, mae
		}
	}
	over := model.Duration(s.Step * time.Duration(test))
	switch {
	case len(best.seasons) == 0:
		best.reason = fmt.Sprintf("the last value: over the last %s no season has a smaller error", over)
	default:
		best.reason = fmt.Sprintf("what was there %s before: over the last %s its error is %.0f %% of that of the last value",
			model.Duration(best.seasons[0]), over, 100*least/last)
	}
	return best, nil
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
