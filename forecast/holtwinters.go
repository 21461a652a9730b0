package forecast

import (
	"errors"
	"fmt"
	"math"
)

// Seasonal says how a season and the level make a value.
type Seasonal int

// The two ways of Holt and Winters, and none.
const (
	None           Seasonal = iota // level + slope
	Additive                       // level + slope + season
	Multiplicative                 // (level + slope) · season
)

// String is "none", "additive" or "multiplicative".
func (s Seasonal) String() string {
	switch s {
	case Additive:
		return "additive"
	case Multiplicative:
		return "multiplicative"
	default:
		return "none"
	}
}

// Smoothing are the parameters of Holt and Winters as R has them, each from 0 to 1: how much of what is seen now goes into
// the level, how much of the level's change into the slope, how much of what is left into the season. The slope is not
// smoothed by the error, as in the innovations form ([Params]); there, slope = Alpha·Beta and season = (1-Alpha)·Gamma.
type Smoothing struct {
	Alpha, Beta, Gamma float64
}

// HW is a series smoothed the way R's HoltWinters does it.
type HW struct {
	Smoothing
	Seasonal Seasonal
	// SSE is the sum of squared errors of the forecasts one step ahead, over what follows the start values.
	SSE float64
	// Level, Trend and Season are the state after the last value. Trend is 0 without one; Season[0] is that of the next step.
	Level, Trend float64
	Season       []float64
	// Fitted are the forecasts one step ahead; the last of them is that of the last value.
	Fitted []float64

	residuals []float64
}

// HoltWinters smooths y, whose season has m values, with a level, a slope and a season, as R's stats::HoltWinters does:
// its start values are the line through the moving average of the first two seasons and the mean differences (or ratios)
// from it, so errors count from value m+1 on. With fixed nil the parameters are those of the least SSE, over which R's are
// often not the best: its search stops in poor optima. With seasonal None, m is ignored and the result is Holt's linear
// method, started with the second value and the first difference.
//
// It fails where R does: fewer than two seasons, values that are missing or infinite, and, multiplicative, a season that
// is 0 or a level that gets 0.
func HoltWinters(y []float64, m int, seasonal Seasonal, fixed *Smoothing) (*HW, error) {
	for i, v := range y {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("value %d is %v: R's recursion has no missing values; use New", i, v)
		}
	}
	r := &rHoltWinters{y: y, m: m, seasonal: seasonal, trend: true}
	if err := r.startValues(); err != nil {
		return nil, err
	}
	return r.result(fixed)
}

// SES is simple exponential smoothing as R's HoltWinters(y, beta=FALSE, gamma=FALSE) does it: it starts with the first
// value. With alpha NaN it is that of the least SSE. It fails for fewer than two values, or values that are not finite.
func SES(y []float64, alpha float64) (*HW, error) {
	for i, v := range y {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("value %d is %v: R's recursion has no missing values; use New", i, v)
		}
	}
	if len(y) < 2 {
		return nil, fmt.Errorf("%d values: simple exponential smoothing needs 2", len(y))
	}
	r := &rHoltWinters{y: y, from: 1, level: y[0]}
	if math.IsNaN(alpha) {
		return r.result(nil)
	}
	return r.result(&Smoothing{Alpha: alpha})
}

// rHoltWinters is a series with R's start values.
type rHoltWinters struct {
	y        []float64
	m        int
	seasonal Seasonal
	trend    bool
	from     int // the first value that is forecast
	level    float64
	slope    float64
	season   []float64 // of y[from], y[from+1], ...

	scratch []float64
}

func (r *rHoltWinters) startValues() error {
	if r.seasonal == None {
		if len(r.y) < 3 {
			return fmt.Errorf("%d values: Holt's linear method needs 3", len(r.y))
		}
		r.from, r.level, r.slope = 2, r.y[1], r.y[1]-r.y[0]
		return nil
	}
	if r.m < 2 {
		return fmt.Errorf("a season of %d values: it needs 2 at least", r.m)
	}
	if len(r.y) < 2*r.m {
		return fmt.Errorf("%d values: two seasons of %d are needed for start values", len(r.y), r.m)
	}
	r.from = r.m
	trend := movingAverage(r.y[:2*r.m], r.m)

	// The line through the moving average, numbered from 1 where it starts.
	var n, sx, sy, sxx, sxy float64
	for _, v := range trend {
		if !math.IsNaN(v) {
			n++
			sx, sy, sxx, sxy = sx+n, sy+v, sxx+n*n, sxy+n*v
		}
	}
	r.slope = (n*sxy - sx*sy) / (n*sxx - sx*sx)
	r.level = (sy - r.slope*sx) / n

	r.season = make([]float64, r.m)
	mean := 0.0
	for i := range r.season {
		var sum, count float64
		for j := i; j < 2*r.m; j += r.m {
			if math.IsNaN(trend[j]) {
				continue
			}
			if r.seasonal == Multiplicative {
				sum += r.y[j] / trend[j]
			} else {
				sum += r.y[j] - trend[j]
			}
			count++
		}
		r.season[i] = sum / count
		mean += r.season[i] / float64(r.m)
	}
	for i := range r.season {
		if r.seasonal == Multiplicative {
			r.season[i] /= mean
		} else {
			r.season[i] -= mean
		}
		if s := r.season[i]; math.IsNaN(s) || r.seasonal == Multiplicative && s == 0 {
			return fmt.Errorf("season %d starts with %v: a multiplicative one needs values other than 0", i, s)
		}
	}
	return nil
}

// movingAverage is centred and as long as a season; an even one gives half the weight to the values at either end. What
// has no full season around it is NaN.
func movingAverage(y []float64, m int) []float64 {
	out := make([]float64, len(y))
	half := m / 2
	for i := range out {
		if i < half || i+half >= len(y) {
			out[i] = math.NaN()
			continue
		}
		sum := 0.0
		for j := i - half; j <= i+half; j++ {
			w := 1.0
			if m%2 == 0 && (j == i-half || j == i+half) {
				w = 0.5
			}
			sum += w * y[j]
		}
		out[i] = sum / float64(m)
	}
	return out
}

// smooth runs the recursion. each, if not nil, is told of every forecast and its error.
func (r *rHoltWinters) smooth(p Smoothing, each func(fitted, residual float64)) (sse, level, slope float64) {
	r.scratch = append(r.scratch[:0], r.season...)
	season := r.scratch
	level, slope = r.level, r.slope
	at := 0
	for _, y := range r.y[r.from:] {
		base, last := level+slope, level
		fitted := base
		switch r.seasonal {
		case Additive:
			s := season[at]
			fitted += s
			level = p.Alpha*(y-s) + (1-p.Alpha)*base
			season[at] = p.Gamma*(y-level) + (1-p.Gamma)*s
		case Multiplicative:
			s := season[at]
			fitted *= s
			level = p.Alpha*(y/s) + (1-p.Alpha)*base
			season[at] = p.Gamma*(y/level) + (1-p.Gamma)*s
		default:
			level = p.Alpha*y + (1-p.Alpha)*base
		}
		if r.trend {
			slope = p.Beta*(level-last) + (1-p.Beta)*slope
		}
		if at++; at == r.m {
			at = 0
		}
		residual := y - fitted
		sse += residual * residual
		if each != nil {
			each(fitted, residual)
		}
	}
	return sse, level, slope
}

func (r *rHoltWinters) result(fixed *Smoothing) (*HW, error) {
	p := r.fit(fixed)
	hw := &HW{Smoothing: p, Seasonal: r.seasonal}
	hw.SSE, hw.Level, hw.Trend = r.smooth(p, func(fitted, residual float64) {
		hw.Fitted = append(hw.Fitted, fitted)
		hw.residuals = append(hw.residuals, residual)
	})
	if math.IsNaN(hw.SSE) || math.IsInf(hw.SSE, 0) {
		return nil, errors.New("the recursion leaves the finite numbers: a multiplicative season needs values well above 0")
	}
	for i := range r.season {
		hw.Season = append(hw.Season, r.scratch[(len(r.y)-r.from+i)%r.m])
	}
	return hw, nil
}

// fit finds the parameters of the least SSE from several starts: the sum has more than one minimum, often at a bound.
func (r *rHoltWinters) fit(fixed *Smoothing) Smoothing {
	if fixed != nil {
		return *fixed
	}
	dim := 1
	if r.trend {
		dim++
	}
	if r.seasonal != None {
		dim++
	}
	// The bounds themselves are allowed, so outside of them the nearest parameters inside count, at a price.
	unpack := func(x []float64) (p Smoothing, outside float64) {
		in := func(v float64) float64 {
			w := min(max(v, 0), 1)
			outside += math.Abs(v - w)
			return w
		}
		p.Alpha = in(x[0])
		if r.trend {
			p.Beta = in(x[1])
		}
		if r.seasonal != None {
			p.Gamma = in(x[2])
		}
		return p, outside
	}
	loss := func(x []float64) float64 {
		p, outside := unpack(x)
		sse, _, _ := r.smooth(p, nil)
		return sse * (1 + outside)
	}
	var best []float64
	least := math.Inf(1)
	for _, start := range [][3]float64{
		{0.3, 0.1, 0.1}, {0.05, 0.5, 0.3}, {0.7, 0.02, 0.9}, {0.02, 0.95, 0.9}, {0.95, 0.01, 0.05}, {0.01, 0.01, 0.2},
	} {
		x := start[:dim]
		v := math.Inf(1)
		for range 3 { // a fresh simplex leaves what a flat one got stuck in
			var w float64
			if w, _ = minimize(loss, x, -0.1*math.Copysign(1, x[0]-0.5), 1e-10, 400); w >= v*(1-1e-7) {
				v = min(v, w)
				break
			}
			v = w
		}
		if v < least || best == nil {
			least, best = v, x
		}
	}
	p, _ := unpack(best)
	return p
}

// Forecast is what follows the last value: h values, of which the first is one step ahead.
func (hw *HW) Forecast(h int) []float64 {
	out := make([]float64, 0, h)
	for i := range h {
		v := hw.Level + float64(i+1)*hw.Trend
		switch hw.Seasonal {
		case Additive:
			v += hw.Season[i%len(hw.Season)]
		case Multiplicative:
			v *= hw.Season[i%len(hw.Season)]
		}
		out = append(out, v)
	}
	return out
}

// Deviation is the standard deviation of each of the h forecasts, as Yar and Chatfield (International Journal of
// Forecasting 6, 1990) derive it from the errors one step ahead; R's intervals are the forecast and normal quantiles of
// it; only for multiplicative seasons R weighs the first error by Alpha+Gamma(1-Alpha) instead of 1, and in places takes
// the trend for a season, which is not repeated here. They are too narrow on demand that comes in bursts: a [Forecaster]
// measures its own.
func (hw *HW) Deviation(h int) []float64 {
	mean, n := 0.0, float64(len(hw.residuals))
	for _, r := range hw.residuals {
		mean += r / n
	}
	variance := 0.0
	for _, r := range hw.residuals {
		variance += (r - mean) * (r - mean) / (n - 1)
	}
	m := max(len(hw.Season), 1)
	psi := func(j int) float64 {
		if j == 0 {
			return 1
		}
		v := hw.Alpha * (1 + float64(j)*hw.Beta)
		if j%m == 0 && hw.Seasonal != None {
			v += hw.Gamma * (1 - hw.Alpha)
		}
		return v
	}
	out := make([]float64, h)
	for k := 1; k <= h; k++ {
		sum := 0.0
		for j := range k {
			v := psi(j)
			if hw.Seasonal == Multiplicative {
				at := (k - 1) % m
				v *= hw.Season[at] / hw.Season[((at-j)%m+m)%m]
			}
			sum += v * v
		}
		out[k-1] = math.Sqrt(variance * sum)
	}
	return out
}
