package forecast

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// Loss is what a fit makes small.
type Loss int

// The losses.
const (
	// SSE is the sum of squared errors one step ahead, the classic.
	SSE Loss = iota
	// MAE is the sum of absolute errors one step ahead and two horizons up to H ahead, from every second step. It is what
	// counts when the forecast is used so far ahead, and a burst moves it less.
	MAE
)

// FitOptions say how Spec.Fit finds the parameters.
type FitOptions struct {
	Loss    Loss
	Horizon int // H of MAE, in steps; 1 if it is less
	// Budget bounds the evaluations of the loss; 400 if it is 0.
	Budget int
	// Position is where in the seasons the first value is, in steps from the origin that Model.SetPosition counts from.
	Position int64
	// Start is where to look first besides the usual, such as the last optimum.
	Start *Params
}

// Fit finds start values and parameters for y, in which a missing value is NaN, and returns the model after the last of
// y. Start values are not fitted but robust: the level is the median of the first season, each season the median over
// the first half of its cycles, three at most. Errors count after those, or a season would seem to need no learning. It fails if y has fewer than two full seasons, or fewer than three values that are there.
func (s Spec) Fit(y []float64, o FitOptions) (*Model, error) {
	f, err := newFitter(s, y, []seek{{0, o.Position}}, o)
	if err != nil {
		return nil, err
	}
	p, err := f.fit(context.Background(), o.Start)
	if err != nil {
		return nil, err
	}
	m := f.model(p)
	for _, v := range y {
		m.Update(v)
	}
	return m, nil
}

// seek says that the values from index on are at position and the following ones: one at the start, and one more at
// each change of the clock.
type seek struct {
	index    int
	position int64
}

// fitter has what evaluations of the loss share.
type fitter struct {
	spec    Spec
	y       []float64
	seeks   []seek
	loss    Loss
	budget  int
	heads   []int // the horizons of MAE
	level   float64
	slope   float64
	start   [2][]float64
	scratch [2][]float64
	from    int // the first value that counts: those before are in the start values
	evals   int
}

func newFitter(s Spec, y []float64, seeks []seek, o FitOptions) (*fitter, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	f := &fitter{spec: s, y: y, seeks: seeks, loss: o.Loss, budget: o.Budget}
	if f.budget <= 0 {
		f.budget = 400
	}
	f.heads = headsOf(max(o.Horizon, 1))
	there := 0
	for _, v := range y {
		if math.IsInf(v, 0) || math.Abs(v) > limit {
			return nil, fmt.Errorf("value %v is out of range: it is NaN if it is missing", v)
		}
		if !math.IsNaN(v) {
			there++
		}
	}
	if there < 3 {
		return nil, fmt.Errorf("%d values: 3 are needed", there)
	}
	for _, m := range s.Seasons {
		if len(y) < 2*m {
			return nil, fmt.Errorf("%d values: two seasons of %d are needed", len(y), m)
		}
	}
	f.startValues()
	for i := range f.start {
		f.scratch[i] = make([]float64, len(f.start[i]))
	}
	return f, nil
}

// headsOf are the horizons at which errors count: one step, and two that stand for the rest up to h. They are no round
// parts of it: a season is often one, and a season ahead the last value is a good forecast for the wrong reason.
func headsOf(h int) []int {
	heads := []int{1}
	for _, part := range []float64{0.4, 0.85} {
		if n := int(math.Round(part * float64(h))); n > heads[len(heads)-1] {
			heads = append(heads, n)
		}
	}
	return heads
}

// positions calls each with the season of every value.
func (f *fitter) positions(m int, each func(i, season int)) {
	for k, s := range f.seeks {
		end := len(f.y)
		if k+1 < len(f.seeks) {
			end = f.seeks[k+1].index
		}
		at := int(((s.position % int64(m)) + int64(m)) % int64(m))
		for i := s.index; i < end; i++ {
			each(i, at)
			if at++; at == m {
				at = 0
			}
		}
	}
}

// startValues are the median of the first season and, of each season, the median of what differs from the mean of
// the season's cycle, over the first cycles. A second season explains what the first leaves; it needs three cycles
// before it is trusted at all.
func (f *fitter) startValues() {
	rest := slices.Clone(f.y)
	first := min(len(f.y), 12)
	for k, m := range f.spec.Seasons {
		if k == 0 {
			first = m
		}
		f.start[k] = make([]float64, m)
		cycles := cyclesOf(len(f.y), m)
		f.from = max(f.from, cycles*m)
		if k > 0 && len(f.y)/m < 3 {
			continue
		}
		if f.spec.Multiplicative {
			for i := range f.start[k] {
				f.start[k][i] = 1
			}
		}
		centre := make([]float64, cycles)
		for c := range centre {
			centre[c] = centreOf(rest[c*m : (c+1)*m])
		}
		seen := make([][]float64, m)
		backing := make([]float64, 0, m*cycles)
		for i := range seen {
			seen[i], backing = backing[len(backing):len(backing):len(backing)+cycles], backing[:len(backing)+cycles]
		}
		f.positions(m, func(i, season int) {
			if i >= m*cycles || math.IsNaN(rest[i]) {
				return
			}
			v, c := rest[i], centre[i/m]
			if f.spec.Multiplicative {
				if c <= smallest {
					return
				}
				v /= c
			} else {
				v -= c
			}
			if len(seen[season]) < cap(seen[season]) {
				seen[season] = append(seen[season], v)
			}
		})
		for i, v := range seen {
			if len(v) > 0 {
				f.start[k][i] = median(v)
			}
		}
		if !f.spec.Multiplicative {
			f.positions(m, func(i, season int) { rest[i] -= f.start[k][season] })
		}
	}
	level := make([]float64, 0, first)
	for _, v := range f.y {
		if !math.IsNaN(v) {
			if level = append(level, v); len(level) == first {
				break
			}
		}
	}
	if len(f.spec.Seasons) == 0 {
		level = level[:min(3, len(level))]
	}
	f.level = median(level)
}

// cyclesOf is how many cycles of m steps make the start values: half of what there is, three at most.
func cyclesOf(n, m int) int { return min(max(n/(2*m), 1), 3) }

// centreOf is the mean, what is missing left out and what is far out, by ten times the distance of the quartiles, drawn in.
// It is 0 if all is missing.
func centreOf(y []float64) float64 {
	there := make([]float64, 0, len(y))
	for _, v := range y {
		if v == v {
			there = append(there, v)
		}
	}
	if len(there) == 0 {
		return 0
	}
	slices.Sort(there)
	lo, hi := there[len(there)/4], there[len(there)*3/4]
	lo, hi = lo-10*(hi-lo), hi+10*(hi-lo)
	sum := 0.0
	for _, v := range there {
		if lo < hi {
			v = min(max(v, lo), hi)
		}
		sum += v
	}
	return sum / float64(len(there))
}

// median sorts y, which has no NaN; it is 0 for none.
func median(y []float64) float64 {
	if len(y) == 0 {
		return 0
	}
	slices.Sort(y)
	if n := len(y); n%2 == 0 {
		return y[n/2-1] + (y[n/2]-y[n/2-1])/2
	}
	return y[len(y)/2]
}

// fit looks for the parameters from the usual starts and from the one given. It fails if ctx ends meanwhile.
func (f *fitter) fit(ctx context.Context, last *Params) (Params, error) {
	// Small steps first: of the minima that there are, the smoother one forecasts better. Without a season the losses of
	// some series have one more, at a level that follows every value.
	starts := []Params{{Alpha: 0.05, Beta: 0.005, Phi: 0.95, Gamma: [2]float64{0.1, 0.1}, Rho: 0.7}}
	if len(f.spec.Seasons) == 0 {
		starts = append(starts, Params{Alpha: 0.5, Beta: 0.25, Phi: 0.9, Rho: 0.3})
	}
	if last != nil {
		starts = append(starts, *last)
	}
	var best []float64
	least := math.Inf(1)
	stopped := false
	eval := func(x []float64) float64 {
		if f.evals++; f.evals%16 == 0 && ctx.Err() != nil {
			stopped = true
		}
		if stopped {
			return math.Inf(1)
		}
		return f.at(f.unpack(x))
	}
	for _, s := range starts {
		x := f.pack(s)
		if v, _ := minimize(eval, x, 0.7, 1e-3, f.budget/len(starts)); v < least || best == nil {
			least, best = v, x
		}
		if stopped {
			return Params{}, fmt.Errorf("fit: %w", ctx.Err())
		}
	}
	return f.unpack(best), nil
}

// The bounds of the parameters, kept by logistic maps: β ≤ α, γ ≤ 1-α, φ from 0.8 to 0.999, ρ to 0.995.
const (
	phiLow, phiHigh = 0.8, 0.999
	rhoHigh         = 0.995
)

func (f *fitter) pack(p Params) []float64 {
	x := make([]float64, 0, maxDim)
	x = append(x, logit(p.Alpha))
	if f.spec.Trend {
		x = append(x, logit(p.Beta/max(p.Alpha, smallest)))
		if f.spec.Damped {
			x = append(x, logit((p.Phi-phiLow)/(phiHigh-phiLow)))
		}
	}
	for i := range f.spec.Seasons {
		x = append(x, logit(p.Gamma[i]/max(1-p.Alpha, smallest)))
	}
	if f.spec.AR {
		x = append(x, logit(p.Rho/rhoHigh))
	}
	return x
}

func (f *fitter) unpack(x []float64) Params {
	p := Params{Phi: 1, Alpha: logistic(x[0])}
	i := 1
	next := func() float64 { i++; return logistic(x[i-1]) }
	if f.spec.Trend {
		p.Beta = p.Alpha * next()
		if f.spec.Damped {
			p.Phi = phiLow + (phiHigh-phiLow)*next()
		}
	}
	for k := range f.spec.Seasons {
		p.Gamma[k] = (1 - p.Alpha) * next()
	}
	if f.spec.AR {
		p.Rho = rhoHigh * next()
	}
	return p
}

// model is the model before the first value.
func (f *fitter) model(p Params) *Model {
	m := &Model{Params: p, multiplicative: f.spec.Multiplicative, started: true, level: f.level, slope: f.slope}
	for i := range f.start {
		m.season[i] = slices.Clone(f.start[i])
	}
	m.SetPosition(f.seeks[0].position)
	return m
}

// at is the loss of p. It is Model.Update without its bookkeeping, which is most of what a fit costs.
func (f *fitter) at(p Params) float64 {
	if f.spec.Multiplicative {
		return f.atMultiplicative(p)
	}
	s0, s1 := f.scratch[0], f.scratch[1]
	copy(s0, f.start[0])
	copy(s1, f.start[1])
	n0, n1 := len(s0), len(s1)
	l, b, e := f.level, f.slope, 0.0
	multi := f.loss == MAE
	var phis, rhos [3]float64
	for k, h := range f.heads {
		phis[k], rhos[k] = powers(p.Phi, float64(h)), math.Pow(p.Rho, float64(h))
	}
	sum := 0.0
	for k, seek := range f.seeks {
		end := len(f.y)
		if k+1 < len(f.seeks) {
			end = f.seeks[k+1].index
		}
		i0, i1 := 0, 0
		if n0 > 0 {
			i0 = int(((seek.position % int64(n0)) + int64(n0)) % int64(n0))
		}
		if n1 > 0 {
			i1 = int(((seek.position % int64(n1)) + int64(n1)) % int64(n1))
		}
		for t, y := range f.y[seek.index:end] {
			s := 0.0
			if n0 > 0 {
				s = s0[i0]
				if n1 > 0 {
					s += s1[i1]
				}
			}
			b *= p.Phi
			l += b
			if y == y {
				r := y - l - s
				u := r - p.Rho*e
				l += p.Alpha * u
				b += p.Beta * u
				e = r
				if n0 > 0 {
					s0[i0] += p.Gamma[0] * u
					if n1 > 0 {
						s1[i1] += p.Gamma[1] * u
					}
				}
				if !multi && seek.index+t >= f.from {
					sum += u * u
				}
			} else {
				e = faded(e * p.Rho)
				b = faded(b)
			}
			if n0 > 0 {
				if i0++; i0 == n0 {
					i0 = 0
				}
				if n1 > 0 {
					if i1++; i1 == n1 {
						i1 = 0
					}
				}
			}
			if !multi || t&1 == 1 || seek.index+t < f.from {
				continue
			}
			for k, h := range f.heads {
				to := seek.index + t + h
				if to >= len(f.y) {
					break
				}
				v := l + phis[k]*b + rhos[k]*e
				if n0 > 0 {
					j := i0 + h - 1
					for j >= n0 {
						j -= n0
					}
					v += s0[j]
					if n1 > 0 {
						j := i1 + h - 1
						for j >= n1 {
							j -= n1
						}
						v += s1[j]
					}
				}
				if d := f.y[to] - v; d == d {
					sum += math.Abs(d)
				}
			}
		}
	}
	return sum
}

// atMultiplicative is the loss of p for a multiplicative model; it runs the model itself.
func (f *fitter) atMultiplicative(p Params) float64 {
	m := Model{Params: p, multiplicative: true, started: true, level: f.level}
	m.season[0] = f.scratch[0]
	copy(m.season[0], f.start[0])
	multi := f.loss == MAE
	sum, next := 0.0, 0
	for t, y := range f.y {
		if next < len(f.seeks) && f.seeks[next].index == t {
			m.SetPosition(f.seeks[next].position)
			next++
		}
		u := m.Update(y)
		if !multi && u == u && t >= f.from {
			sum += u * u
		}
		if !multi || t&1 == 1 || t < f.from {
			continue
		}
		for _, h := range f.heads {
			if t+h >= len(f.y) {
				break
			}
			if d := f.y[t+h] - m.Mean(h); d == d {
				sum += math.Abs(d)
			}
		}
	}
	return sum
}
