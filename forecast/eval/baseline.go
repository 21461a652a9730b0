package eval

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Baselines are the names of the baselines: the last value, that of a day before, and that of a week before.
func Baselines() []string { return []string{naive, seasonalDay, seasonalWeek} }

const (
	naive        = "naive"
	seasonalDay  = "seasonal_day"
	seasonalWeek = "seasonal_week"
)

// Baseline forecasts what was there one season before. Its quantiles are tracked online, for each horizon: a fair one,
// whose interval is not wrong merely because it was not looked after.
type Baseline struct {
	step    time.Duration
	levels  []float64
	horizon int

	seen int64 // steps
	at   time.Time
	last float64   // value that was there
	low  float64   // the least that was there
	past []float64 // of the last season, by step modulo its length; NaN where none was there yet

	// Errors at each horizon, that of k+1 steps at k.
	queue  [][]float64 // forecasts made for the coming steps, a ring: queue[step%horizon][k]
	spread []float64   // mean absolute error, exponentially weighted
	offset [][]float64 // of the quantiles from the forecast
	decay  float64
}

// gain is how far a quantile moves at an error, in mean absolute errors.
const gain = 0.05

// NewBaseline makes the named baseline, see Baselines, for forecasts of up to horizon steps. Forecasts may only ask for
// levels that are named here. It fails if there is no such baseline.
func NewBaseline(name string, step time.Duration, horizon int, levels []float64) (*Baseline, error) {
	switch name {
	case naive:
		return NewSeasonalNaive(step, step, horizon, levels), nil
	case seasonalDay:
		return NewSeasonalNaive(24*time.Hour, step, horizon, levels), nil
	case seasonalWeek:
		return NewSeasonalNaive(7*24*time.Hour, step, horizon, levels), nil
	}
	return nil, fmt.Errorf("baseline %q: there are %v", name, Baselines())
}

// NewSeasonalNaive makes a baseline of any season, rounded to steps: the last value if it is one step.
func NewSeasonalNaive(season, step time.Duration, horizon int, levels []float64) *Baseline {
	b := &Baseline{
		step: step, levels: slices.Clone(levels), horizon: max(horizon, 1), last: math.NaN(), low: math.Inf(1),
		past:   make([]float64, Series{Step: step}.Steps(season)),
		spread: make([]float64, max(horizon, 1)),
		decay:  1 - math.Exp2(-1/float64(Series{Step: step}.Steps(24*time.Hour))),
	}
	for i := range b.past {
		b.past[i] = math.NaN()
	}
	for range b.horizon {
		row := make([]float64, b.horizon)
		for i := range row {
			row[i] = math.NaN()
		}
		b.queue = append(b.queue, row)
		b.offset = append(b.offset, make([]float64, len(levels)))
	}
	return b
}

// Observe takes the value of the next step; NaN is missing. Steps that t skips are missing too; a t that is not after the
// one before is left out.
func (b *Baseline) Observe(t time.Time, y float64) {
	if b.seen > 0 {
		n := int64((t.Sub(b.at) + b.step/2) / b.step)
		if n < 1 {
			return
		}
		if skipped := n - 1; skipped > int64(b.horizon) { // no forecast is left for what comes
			b.seen += skipped - int64(b.horizon)
			n = int64(b.horizon) + 1
		}
		for range n - 1 {
			b.observe(math.NaN())
		}
	}
	b.observe(y)
	b.at = t
}

func (b *Baseline) observe(y float64) {
	row := b.queue[b.seen%int64(b.horizon)]
	if !math.IsNaN(y) {
		for k, forecast := range row {
			if !math.IsNaN(forecast) {
				b.learn(k, y-forecast)
			}
		}
		b.last, b.low = y, min(b.low, y)
		b.past[b.seen%int64(len(b.past))] = y
	}
	for k := range row {
		row[k] = math.NaN()
	}
	b.seen++
	if math.IsNaN(b.last) {
		return
	}
	for k := range b.horizon {
		b.queue[(b.seen+int64(k))%int64(b.horizon)][k] = b.mean(k + 1)
	}
}

// learn moves the quantiles at horizon k+1 by the error e: up by level, or down by the rest of it, so that they stay
// where the share of level is below (Angelopoulos, Candès and Tibshirani, "Conformal PID control for time series
// prediction", 2023).
func (b *Baseline) learn(k int, e float64) {
	if b.spread[k] == 0 {
		b.spread[k] = math.Abs(e)
	}
	b.spread[k] += b.decay * (math.Abs(e) - b.spread[k])
	for i, level := range b.levels {
		below := 0.0
		if e <= b.offset[k][i] {
			below = 1
		}
		b.offset[k][i] += gain * 2 * b.spread[k] * (level - below)
	}
}

// mean is the forecast h steps ahead.
func (b *Baseline) mean(h int) float64 {
	m := int64(len(b.past))
	if v := b.past[(b.seen+int64(h)-1)%m]; m > 1 && !math.IsNaN(v) {
		return v
	}
	return b.last
}

// Forecast says what the next horizon steps bring: 0 before the first value. Levels are some of those that the baseline
// was made for.
func (b *Baseline) Forecast(horizon int, levels []float64) []Point {
	points := make([]Point, horizon)
	for h := range points {
		p := Point{Time: b.at.Add(time.Duration(h+1) * b.step), Quantiles: make([]float64, len(levels))}
		if !math.IsNaN(b.last) {
			p.Mean = b.mean(h + 1)
		}
		k := min(h, b.horizon-1)
		for i, level := range levels {
			p.Quantiles[i] = p.Mean
			if j := slices.Index(b.levels, level); j >= 0 {
				p.Quantiles[i] += b.offset[k][j]
			}
			if b.low >= 0 { // demand: there is none below 0
				p.Quantiles[i] = max(p.Quantiles[i], 0)
			}
		}
		monotone(levels, p.Quantiles)
		points[h] = p
	}
	return points
}

// monotone makes the quantiles rise with their levels, which may be in any order.
func monotone(levels, quantiles []float64) {
	order := make([]int, len(levels))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if levels[a] < levels[b] {
			return -1
		}
		return 1
	})
	sorted := slices.Sorted(slices.Values(quantiles))
	for rank, i := range order {
		quantiles[i] = sorted[rank]
	}
}
