package forecast

import (
	"math"
	"slices"
	"sort"
)

// Decomposition is a series as the sum, or the product, of what moves slowly, what comes again and the rest. Where the
// series has no value, Residual is NaN; Trend and Seasonal are there for every step.
type Decomposition struct {
	Trend, Seasonal, Residual []float64
	// Multiplicative tells that the three are of the logarithm: the series is the product of their exponentials.
	Multiplicative bool

	floor float64 // below which the logarithm is not taken
}

// Decompose takes y apart so that single wrong values, and a quarter of all in any season's place, do not matter: the
// trend is the mean of a running median over the longest season, each season the mean of the middle half of what is in its
// place. Seasons that y does not have twice are left out. It multiplies rather than adds where that leaves less, relative to the level: demand whose
// peaks grow with it.
func Decompose(y []float64, seasons ...int) Decomposition {
	var used []int
	for _, m := range seasons {
		if m > 1 && 2*m <= len(y) {
			used = append(used, m)
		}
	}
	slices.Sort(used)
	used = slices.Compact(used)
	additive := decompose(y, used)

	known := sortedKnown(y)
	if len(known) == 0 {
		return additive
	}
	typical := quantileOf(known, 0.5)
	if quantileOf(known, 0.05) <= 0.05*typical { // near 0 a factor says nothing
		return additive
	}
	floor := 0.01 * typical
	logs := make([]float64, len(y))
	for i, v := range y {
		logs[i] = math.Log(max(v, floor)) // NaN stays NaN
	}
	multiplicative := decompose(logs, used)
	multiplicative.Multiplicative, multiplicative.floor = true, floor
	if spreadOf(multiplicative.Residual) < spreadOf(additive.Residual)/typical {
		return multiplicative
	}
	return additive
}

// spreadOf is the range of the middle half.
func spreadOf(y []float64) float64 {
	known := sortedKnown(y)
	return quantileOf(known, 0.75) - quantileOf(known, 0.25)
}

// narrowTrend is the window of the trend of a series without seasons: a burst is shorter than half of it.
const narrowTrend = 25

func decompose(y []float64, seasons []int) Decomposition {
	d := Decomposition{Seasonal: make([]float64, len(y))}
	window := narrowTrend
	if len(seasons) > 0 {
		window = seasons[len(seasons)-1]
	}
	adjusted := slices.Clone(y)
	for range 2 { // the second time the trend is of what the seasons leave
		d.Trend = runningMean(runningMedian(adjusted, window), window)
		clear(d.Seasonal)
		for _, m := range seasons {
			for place, s := range d.places(y, m) {
				for i := place; i < len(y); i += m {
					d.Seasonal[i] += s
				}
			}
		}
		for i, v := range y {
			adjusted[i] = v - d.Seasonal[i]
		}
		if len(seasons) == 0 {
			break
		}
	}
	d.Residual = make([]float64, len(y))
	for i, v := range y {
		d.Residual[i] = v - d.Trend[i] - d.Seasonal[i]
	}
	return d
}

// fewCycles is how many cycles are too few to tell what is wrong in one place: its neighbours are asked as well.
const fewCycles = 4

// places is the season of m steps in what the trend and the seasons so far leave: in each place the mean of the middle
// half.
func (d Decomposition) places(y []float64, m int) []float64 {
	season := make([]float64, m)
	beside := 0
	if len(y)/m < fewCycles {
		beside = 1
	}
	var seen []float64
	for place := range season {
		seen = seen[:0]
		for from := place - beside; from <= place+beside; from++ {
			for i := (from + m) % m; i < len(y); i += m {
				if r := y[i] - d.Trend[i] - d.Seasonal[i]; !math.IsNaN(r) {
					seen = append(seen, r)
				}
			}
		}
		slices.Sort(seen)
		middle := seen[len(seen)/4 : len(seen)-len(seen)/4]
		for _, r := range middle {
			season[place] += r / float64(len(middle))
		}
	}
	return season
}

// Cleaned is a series that a model can be fitted to.
type Cleaned struct {
	Values []float64
	// Filled are where a value was missing and one was put in.
	Filled []int
	// Outliers are where a value was replaced.
	Outliers []int
}

const (
	// longestFill is how many steps in a row are filled. What came in a longer gap is not known: it stays missing.
	longestFill = 3
	// outlierRanges is how many ranges of the middle half a residual is off its quarter to be an outlier, as in tsclean of
	// R's package forecast: of a normal distribution one in 425,000.
	outlierRanges = 3
	// shiftSteps is how many in a row on one side are no outliers but a new level.
	shiftSteps = 6
	// mostOutliers is the share of values beyond which the rule has found what the series is like, and not its outliers.
	mostOutliers = 0.05
)

// Clean fills short gaps and replaces outliers, for a model to be fitted to; what is forecast and what alerts are about is
// the series as it was. Short is up to three steps, of a value that is NaN. What is put in is interpolated between its
// neighbours without their seasons, of the given numbers of steps. A run of six outliers or more on one side is a new
// level and stays.
func Clean(y []float64, seasons ...int) Cleaned {
	c := Cleaned{Values: slices.Clone(y)}
	d := Decompose(y, seasons...)
	c.Outliers = d.outliers()
	for _, i := range c.Outliers {
		c.Values[i] = math.NaN()
	}
	replaced := make(map[int]bool, len(c.Outliers))
	for _, i := range c.Outliers {
		replaced[i] = true
	}
	for i := 0; i < len(y); {
		if !math.IsNaN(c.Values[i]) {
			i++
			continue
		}
		end := i
		missing := 0
		for end < len(y) && math.IsNaN(c.Values[end]) {
			if !replaced[end] {
				missing++
			}
			end++
		}
		if missing <= longestFill && (i > 0 || end < len(y)) {
			d.interpolate(y, c.Values, i, end)
			for k := i; k < end; k++ {
				if !replaced[k] {
					c.Filled = append(c.Filled, k)
				}
			}
		}
		i = end
	}
	return c
}

// outliers are the steps whose residual is far out, and not one of many.
func (d Decomposition) outliers() []int {
	known := sortedKnown(d.Residual)
	if len(known) == 0 {
		return nil
	}
	low, high := quantileOf(known, 0.25), quantileOf(known, 0.75)
	reach := outlierRanges * (high - low)
	if reach == 0 { // half of the residuals are the same: all that differs is far out, if it differs by more than rounding
		reach = 1e-3 * math.Abs(quantileOf(sortedKnown(d.Trend), 0.5))
	}
	side := func(i int) int {
		switch r := d.Residual[i]; {
		case r < low-reach:
			return -1
		case r > high+reach:
			return 1
		}
		return 0
	}
	var found []int
	for i := 0; i < len(d.Residual); {
		s := side(i)
		end := i + 1
		for s != 0 && end < len(d.Residual) && side(end) == s {
			end++
		}
		if s != 0 && end-i < shiftSteps {
			for k := i; k < end; k++ {
				found = append(found, k)
			}
		}
		i = end
	}
	if float64(len(found)) > max(mostOutliers*float64(len(known)), 1) {
		return nil
	}
	return found
}

// interpolate puts values at i to end-1 of out, on the line between the neighbours without their seasons.
func (d Decomposition) interpolate(y, out []float64, i, end int) {
	level := func(k int) float64 {
		v := out[k]
		if d.Multiplicative {
			v = math.Log(max(v, d.floor))
		}
		return v - d.Seasonal[k]
	}
	for k := i; k < end; k++ {
		var v float64
		switch {
		case i == 0:
			v = level(end)
		case end == len(y):
			v = level(i - 1)
		default:
			a, b := level(i-1), level(end)
			v = a + (b-a)*float64(k-i+1)/float64(end-i+1)
		}
		v += d.Seasonal[k]
		if d.Multiplicative {
			v = math.Exp(v)
		}
		out[k] = v
	}
}

// runningMedian is the median of the window of values around each; at the ends it is that of the first and the last whole
// window, so that a season is always in it once. Where a window has no value it is that of the window before.
func runningMedian(y []float64, window int) []float64 {
	out := make([]float64, len(y))
	window = min(window, len(y))
	sorted := make([]float64, 0, window)
	add := func(v float64) {
		if !math.IsNaN(v) {
			sorted = slices.Insert(sorted, sort.SearchFloat64s(sorted, v), v)
		}
	}
	for _, v := range y[:window] {
		add(v)
	}
	last := math.NaN()
	first := 0 // of the window
	for i := range y {
		for ; first+window/2 < i && first+window < len(y); first++ {
			if old := y[first]; !math.IsNaN(old) {
				k := sort.SearchFloat64s(sorted, old)
				sorted = slices.Delete(sorted, k, k+1)
			}
			add(y[first+window])
		}
		if len(sorted) > 0 {
			last = quantileOf(sorted, 0.5)
		}
		out[i] = last
	}
	for i := len(out) - 2; i >= 0; i-- { // before the first value
		if math.IsNaN(out[i]) {
			out[i] = out[i+1]
		}
	}
	for i := range out {
		if math.IsNaN(out[i]) { // there is no value at all
			out[i] = 0
		}
	}
	return out
}

// runningMean is the mean of the window of values around each, of what of the window there is at the ends.
func runningMean(y []float64, window int) []float64 {
	out := make([]float64, len(y))
	half := window / 4 // the median has smoothed most already
	sums := make([]float64, len(y)+1)
	for i, v := range y {
		sums[i+1] = sums[i] + v
	}
	for i := range y {
		reach := min(half, i, len(y)-1-i) // the same on both sides, so that a slope stays one
		out[i] = (sums[i+reach+1] - sums[i-reach]) / float64(2*reach+1)
	}
	return out
}

// sortedKnown is what is not NaN, sorted.
func sortedKnown(y []float64) []float64 {
	known := make([]float64, 0, len(y))
	for _, v := range y {
		if !math.IsNaN(v) {
			known = append(known, v)
		}
	}
	slices.Sort(known)
	return known
}

// quantileOf is a quantile of what is sorted, interpolated; 0 of nothing.
func quantileOf(sorted []float64, level float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := level * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}
