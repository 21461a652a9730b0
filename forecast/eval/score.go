package eval

import (
	"math"
	"slices"
)

// Scale is what a mean absolute scaled error is divided by: the mean absolute error, within y, of saying what was there
// season steps before (Hyndman and Koehler, "Another look at measures of forecast accuracy", International Journal of
// Forecasting 22, 2006). A season that y is too short for is taken as one step. It is at least a thousandth of the mean
// absolute value, so that a flat series has a finite error, and is NaN if y has no two values to compare.
func Scale(y []float64, season int) float64 {
	if season >= len(y) {
		season = 1
	}
	sum, n, level, known := 0.0, 0, 0.0, 0
	for i, v := range y {
		if math.IsNaN(v) {
			continue
		}
		level += math.Abs(v)
		known++
		if i >= season && !math.IsNaN(y[i-season]) {
			sum += math.Abs(v - y[i-season])
			n++
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return max(sum/float64(n), 1e-3*level/float64(known), 1e-9)
}

// SMAPE is one term of the symmetric mean absolute percentage error as the M4 competition has it, 0 to 200: the absolute
// error over the mean of the two absolute values; 0 if both are 0.
func SMAPE(actual, forecast float64) float64 {
	sum := math.Abs(actual) + math.Abs(forecast)
	if sum == 0 {
		return 0
	}
	return 200 * math.Abs(actual-forecast) / sum
}

// Pinball is the quantile loss of the value q for the quantile at level: what it is above y times 1-level, or below y
// times level.
func Pinball(level, q, y float64) float64 {
	if y < q {
		return (1 - level) * (q - y)
	}
	return level * (y - q)
}

// WIS is the weighted interval score of quantiles at levels (Bracher, Ray, Gneiting and Reich, "Evaluating epidemic
// forecasts in an interval format", PLOS Computational Biology 17, 2021), in the unit of y: with the median and K central
// intervals of 1-α, (|y-m|/2 + Σ α/2·(width + 2/α·what y is outside)) / (K+1/2), which is twice the mean pinball loss. So
// it takes any levels.
func WIS(levels, quantiles []float64, y float64) float64 {
	sum := 0.0
	for i, l := range levels {
		sum += Pinball(l, quantiles[i], y)
	}
	return 2 * sum / float64(len(levels))
}

// leastRatio is the least that a ratio counts for in a geometric mean, which one forecast without any error would make 0.
const leastRatio = 1e-3

// GMean is the geometric mean of ratios, each at least a thousandth. Those that are NaN, infinite or below 0 are left out;
// it is NaN if none is left.
func GMean(ratios []float64) float64 {
	sum, n := 0.0, 0
	for _, r := range ratios {
		if r >= 0 && !math.IsInf(r, 0) {
			sum += math.Log(max(r, leastRatio))
			n++
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return math.Exp(sum / float64(n))
}

// Coverage is how often what came was at most the quantile at Level.
type Coverage struct {
	Level float64
	Ratio float64
}

// Score is how well a series was forecast.
type Score struct {
	// Points is how many forecast values were compared with what came.
	Points int
	// MAE is the mean absolute error, in the unit of the series.
	MAE float64
	// MASE is MAE over Scale of the training part, with a day as the season.
	MASE float64
	// SMAPE is the mean of SMAPE, 0 to 200. It misleads where demand is near 0: go by MASE.
	SMAPE float64
	// RelMAE is MAE over that of the last value: below 1 is better than it. Where both are 0 it is 1.
	RelMAE float64
	// WIS is the mean weighted interval score over all levels, in the unit of the series.
	WIS float64
	// ScaledWIS is WIS over what MASE is scaled by, for the mean over series.
	ScaledWIS float64
	// Coverage is in the order of the levels.
	Coverage []Coverage
	// Bands is how often what came was within each central interval, in the order of the widest first.
	Bands []Band
}

// Band is a central interval, from the quantile at Low to the one at 1-Low.
type Band struct {
	Low     float64
	Nominal float64 // 1-2·Low
	Ratio   float64 // of what came that was within, bounds included
}

// tally sums what makes a Score.
type tally struct {
	levels               []float64
	bands                [][2]int // indices into levels
	n                    int
	abs, smape, wis      float64
	covered, coveredBand []int
}

func newTally(levels []float64) *tally {
	t := &tally{levels: levels, covered: make([]int, len(levels))}
	for i, low := range levels {
		j := slices.IndexFunc(levels, func(l float64) bool { return math.Abs(l-(1-low)) < 1e-9 })
		if low < 0.5 && j >= 0 {
			t.bands = append(t.bands, [2]int{i, j})
		}
	}
	slices.SortFunc(t.bands, func(a, b [2]int) int {
		if levels[a[0]] < levels[b[0]] {
			return -1
		}
		return 1
	})
	t.coveredBand = make([]int, len(t.bands))
	return t
}

func (t *tally) add(p Point, y float64) {
	if math.IsNaN(y) {
		return
	}
	t.n++
	t.abs += math.Abs(y - p.Mean)
	t.smape += SMAPE(y, p.Mean)
	if len(t.levels) > 0 {
		t.wis += WIS(t.levels, p.Quantiles, y)
	}
	for i := range t.levels {
		if y <= p.Quantiles[i] {
			t.covered[i]++
		}
	}
	for i, b := range t.bands {
		if y >= p.Quantiles[b[0]] && y <= p.Quantiles[b[1]] {
			t.coveredBand[i]++
		}
	}
}

// score leaves RelMAE to who knows the error of the last value.
func (t *tally) score(scale float64) Score {
	n := float64(t.n)
	s := Score{Points: t.n, MAE: t.abs / n, SMAPE: t.smape / n, WIS: t.wis / n}
	s.MASE, s.ScaledWIS = s.MAE/scale, s.WIS/scale
	for i, l := range t.levels {
		s.Coverage = append(s.Coverage, Coverage{Level: l, Ratio: float64(t.covered[i]) / n})
	}
	for i, b := range t.bands {
		low := t.levels[b[0]]
		s.Bands = append(s.Bands, Band{Low: low, Nominal: 1 - 2*low, Ratio: float64(t.coveredBand[i]) / n})
	}
	return s
}

// ratio is a over b, 1 if both are 0, and finite if only b is: then it is taken as a billionth of level, or of 1.
func ratio(a, b, level float64) float64 {
	if a == 0 && b == 0 {
		return 1
	}
	return a / max(b, 1e-9*max(level, 1))
}
