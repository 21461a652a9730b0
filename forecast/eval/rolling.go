package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flyball/forecast"
)

// Point is the forecast for one time.
type Point = forecast.Point

// Forecaster is what is measured.
type Forecaster interface {
	// Observe takes the value of the next step; NaN is missing.
	Observe(t time.Time, y float64)
	// Forecast says what the next horizon steps bring.
	Forecast(horizon int, levels []float64) []Point
}

// fitter is a Forecaster that takes a history at once.
type fitter interface {
	Fit(values []float64, start time.Time)
}

// Rolling is how a forecaster is measured: it is fitted on Train from the start of a series, forecasts Horizon ahead, and
// again after every Every, as long as all that it forecasts is there.
type Rolling struct {
	Train   time.Duration // 8 days if it is 0
	Every   time.Duration // 6 hours if it is 0
	Horizon time.Duration // an hour if it is 0, or one step if that is longer
	// Levels of the quantiles that are asked for, ascending; 0.025, 0.1, 0.5, 0.9 and 0.975 if it is nil.
	Levels []float64
	// Workers is how many series are measured at once; GOMAXPROCS if it is 0.
	Workers int
}

// DefaultLevels are a median and the central intervals of 80 % and 95 %.
func DefaultLevels() []float64 { return []float64{0.025, 0.1, 0.5, 0.9, 0.975} }

func (r Rolling) withDefaults() Rolling {
	if r.Train == 0 {
		r.Train = 8 * 24 * time.Hour
	}
	if r.Every == 0 {
		r.Every = 6 * time.Hour
	}
	if r.Horizon == 0 {
		r.Horizon = time.Hour
	}
	if r.Levels == nil {
		r.Levels = DefaultLevels()
	}
	return r
}

// Result is how well one series was forecast.
type Result struct {
	Series string
	// Origins is how often it was forecast.
	Origins int
	Score
	// Baselines are the same, by name, of what any forecast has to beat.
	Baselines map[string]Score
	// Observe is the mean time that Observe took, and Fit the time that the fit took. They are not part of what is the
	// same at every run.
	Fit, Observe time.Duration
}

// New makes the forecaster for a series, of which it has the values to train on and no others. It is called from several
// goroutines.
type New func(s Series, horizon int, levels []float64) (Forecaster, error)

// NewBaselines makes the named baseline for each series.
func NewBaselines(name string) New {
	return func(s Series, horizon int, levels []float64) (Forecaster, error) {
		return NewBaseline(name, s.Step, horizon, levels)
	}
}

// Run measures what newForecaster makes on each of the series, several at once; the results are in their order and do not depend on
// how many. It fails, with all faults, for series that are too short, and when ctx ends.
func (r Rolling) Run(ctx context.Context, series []Series, newForecaster New) ([]Result, error) {
	r = r.withDefaults()
	workers := r.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	results := make([]Result, len(series))
	errs := make([]error, len(series))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, len(series)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(series) {
					return
				}
				results[i], errs[i] = r.one(ctx, series[i], newForecaster)
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return results, errors.Join(errs...)
}

// one measures one series.
func (r Rolling) one(ctx context.Context, s Series, newForecaster New) (Result, error) {
	horizon, every, train := s.Steps(r.Horizon), s.Steps(r.Every), s.Steps(r.Train)
	if train+horizon > len(s.Values) {
		return Result{}, fmt.Errorf("series %s: %d values are %s: at least the %s to train on and the %s to forecast are needed",
			s.Name, len(s.Values), s.Step*time.Duration(len(s.Values)), r.Train, r.Horizon)
	}
	known := s
	known.Values, known.Regressors = slices.Clone(s.Values[:train]), nil
	f, err := newForecaster(known, horizon, r.Levels)
	if err != nil {
		return Result{}, fmt.Errorf("series %s: %w", s.Name, err)
	}
	forecasters := []Forecaster{f}
	for _, name := range Baselines() {
		b, err := NewBaseline(name, s.Step, horizon, r.Levels)
		if err != nil {
			return Result{}, err
		}
		forecasters = append(forecasters, b)
	}
	tallies := make([]*tally, len(forecasters))
	for i := range tallies {
		tallies[i] = newTally(r.Levels)
	}
	result := Result{Series: s.Name, Baselines: map[string]Score{}}
	begin := time.Now()
	for _, f := range forecasters {
		history(f, s, train)
		if result.Fit == 0 {
			result.Fit = time.Since(begin)
		}
	}
	for at := train; at+horizon <= len(s.Values); at++ {
		if (at-train)%every == 0 {
			if ctx.Err() != nil {
				return Result{}, ctx.Err()
			}
			result.Origins++
			for i, f := range forecasters {
				points := f.Forecast(horizon, r.Levels)
				if len(points) != horizon {
					return Result{}, fmt.Errorf("series %s: %d points where %d were asked for", s.Name, len(points), horizon)
				}
				for h, p := range points {
					if err := check(p, r.Levels); err != nil {
						return Result{}, fmt.Errorf("series %s: %s, %d steps ahead: %w", s.Name, s.Time(at), h+1, err)
					}
					tallies[i].add(p, s.Values[at+h])
				}
			}
		}
		for i, f := range forecasters {
			begin := time.Now()
			if e, ok := f.(explained); ok && len(s.Regressors) > 0 {
				e.ObserveWith(s.Time(at), s.Values[at], s.at(at))
				e.Ahead(s.ahead(at + 1))
			} else {
				f.Observe(s.Time(at), s.Values[at])
			}
			if i == 0 {
				result.Observe += time.Since(begin)
			}
		}
	}
	result.Observe /= time.Duration(max(len(s.Values)-train-horizon, 1))
	if tallies[0].n == 0 {
		return Result{}, fmt.Errorf("series %s: no value is there to compare with after the first %s", s.Name, s.Step*time.Duration(train))
	}
	r.finish(&result, s, tallies, train)
	return result, nil
}

// history gives f the first n values.
func history(f Forecaster, s Series, n int) {
	if e, ok := f.(explained); ok && len(s.Regressors) > 0 {
		s.Values = slices.Clone(s.Values)
		FitWith(e, s, n)
		return
	}
	if f, ok := f.(fitter); ok {
		f.Fit(slices.Clone(s.Values[:n]), s.Start)
		return
	}
	for i, y := range s.Values[:n] {
		f.Observe(s.Time(i), y)
	}
}

// check has a forecast that is not one found here, and not in a mean that is NaN.
func check(p Point, levels []float64) error {
	if math.IsNaN(p.Mean) || math.IsInf(p.Mean, 0) {
		return fmt.Errorf("the mean is %v", p.Mean)
	}
	if len(p.Quantiles) != len(levels) {
		return fmt.Errorf("%d quantiles where %d were asked for", len(p.Quantiles), len(levels))
	}
	for i, q := range p.Quantiles {
		if math.IsNaN(q) || math.IsInf(q, 0) {
			return fmt.Errorf("the quantile %g is %v", levels[i], q)
		}
	}
	return nil
}

func (r Rolling) finish(result *Result, s Series, tallies []*tally, train int) {
	scale := Scale(s.Values[:train], s.Steps(24*time.Hour))
	if math.IsNaN(scale) { // nothing was there in the training part: the error is its own scale
		scale = max(tallies[1].abs/float64(tallies[1].n), 1e-9)
	}
	level, known := 0.0, 0
	for _, y := range s.Values {
		if !math.IsNaN(y) {
			level += math.Abs(y)
			known++
		}
	}
	level /= float64(max(known, 1))
	last := tallies[1].abs / float64(tallies[1].n)
	finish := func(t *tally) Score {
		score := t.score(scale)
		score.RelMAE = ratio(score.MAE, last, level)
		return score
	}
	result.Score = finish(tallies[0])
	for i, name := range Baselines() {
		result.Baselines[name] = finish(tallies[i+1])
	}
}

// Summary is what many series came to.
type Summary struct {
	Series                                 int
	MASE, SMAPE, ScaledWIS                 float64 // means over the series
	MedianMASE                             float64
	GMeanRelMAE, WorstRelMAE, ShareOfWorse float64 // WorstRelMAE is the largest; ShareOfWorse the part above 1
	Coverage                               []Coverage
	Bands                                  []Band // both pooled: each forecast value counts the same
	WorstSeries                            string
	Fit, Observe                           time.Duration // means
}

// Summarize sums up the scores that score takes of results.
func Summarize(results []Result, score func(Result) Score) Summary {
	var s Summary
	var rel, mase []float64
	points := 0.0
	for _, r := range results {
		v := score(r)
		s.Series++
		s.MASE += v.MASE
		s.SMAPE += v.SMAPE
		s.ScaledWIS += v.ScaledWIS
		s.Fit += r.Fit
		s.Observe += r.Observe
		mase = append(mase, v.MASE)
		rel = append(rel, v.RelMAE)
		if v.RelMAE > s.WorstRelMAE {
			s.WorstRelMAE, s.WorstSeries = v.RelMAE, r.Series
		}
		if v.RelMAE > 1 {
			s.ShareOfWorse++
		}
		if s.Coverage == nil {
			s.Coverage, s.Bands = make([]Coverage, len(v.Coverage)), make([]Band, len(v.Bands))
		}
		n := float64(v.Points)
		points += n
		for i, c := range v.Coverage {
			s.Coverage[i].Level = c.Level
			s.Coverage[i].Ratio += n * c.Ratio
		}
		for i, b := range v.Bands {
			s.Bands[i].Low, s.Bands[i].Nominal = b.Low, b.Nominal
			s.Bands[i].Ratio += n * b.Ratio
		}
	}
	if s.Series == 0 {
		return s
	}
	n := float64(s.Series)
	s.MASE, s.SMAPE, s.ScaledWIS, s.ShareOfWorse = s.MASE/n, s.SMAPE/n, s.ScaledWIS/n, s.ShareOfWorse/n
	s.Fit, s.Observe = s.Fit/time.Duration(s.Series), s.Observe/time.Duration(s.Series)
	s.GMeanRelMAE = GMean(rel)
	slices.Sort(mase)
	s.MedianMASE = (mase[(len(mase)-1)/2] + mase[len(mase)/2]) / 2
	for i := range s.Coverage {
		s.Coverage[i].Ratio /= points
	}
	for i := range s.Bands {
		s.Bands[i].Ratio /= points
	}
	return s
}
