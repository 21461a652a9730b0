package forecast

import (
	"fmt"
	"math"
	"slices"
)

// Params are the parameters of the innovations state space, the one recursion of all models here:
//
//	forecast   f = l + φb + s1 + s2 + ρe      of y, one step ahead
//	error      u = y - f
//	level      l = l + φb + αu
//	slope      b = φb + βu
//	season     s = s + γu                     of this step, in each season
//	residual   e = y - (l + φb + s1 + s2)     with the l, b and s of before
//
// All but Phi are 0 where the model has no such part; Phi is 1 for a slope that is not damped.
type Params struct {
	Alpha float64    // how much of an error stays in the level
	Beta  float64    // how much of it goes into the slope
	Phi   float64    // what is left of the slope a step later
	Gamma [2]float64 // how much of it goes into each season
	Rho   float64    // what is left of a residual a step later
}

// Spec is the shape of a model: which parts it has.
type Spec struct {
	Trend  bool
	Damped bool // the slope fades; needs Trend
	// Seasons are the lengths of none, one or two seasons, in steps.
	Seasons []int
	// Multiplicative seasons scale the level instead of adding to it. One season, no AR; its recursion is that of
	// [HoltWinters].
	Multiplicative bool
	// AR corrects by the last residual: what is off now is a little off a step later.
	AR bool
}

func (s Spec) validate() error {
	if len(s.Seasons) > 2 {
		return fmt.Errorf("%d seasons: a model has two at most", len(s.Seasons))
	}
	for _, m := range s.Seasons {
		if m < 2 {
			return fmt.Errorf("a season of %d steps: it needs 2 at least", m)
		}
	}
	if s.Multiplicative && (len(s.Seasons) != 1 || s.AR) {
		return fmt.Errorf("a multiplicative model has one season and no AR, not %d and AR %t", len(s.Seasons), s.AR)
	}
	return nil
}

// Model is a series' state in the recursion of [Params]. Update and Mean take constant time and do not allocate. It is
// not safe for concurrent use.
type Model struct {
	Params
	multiplicative bool

	started  bool // a value was seen, or start values are set
	level    float64
	slope    float64
	residual float64
	season   [2][]float64
	at       [2]int // the season of the next step
}

// NewModel is a model without start values: the first value that it sees is its level, its seasons are 0 (or 1,
// multiplicative). Spec.Fit makes one from history. It fails if the spec or a parameter is out of range.
func NewModel(s Spec, p Params) (*Model, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	for _, v := range []float64{p.Alpha, p.Beta, p.Phi, p.Gamma[0], p.Gamma[1], p.Rho} {
		if !(v >= 0 && v <= 1) {
			return nil, fmt.Errorf("parameters %+v: each is from 0 to 1", p)
		}
	}
	m := &Model{Params: p, multiplicative: s.Multiplicative}
	for i, n := range s.Seasons {
		m.season[i] = make([]float64, n)
		if s.Multiplicative {
			for j := range m.season[i] {
				m.season[i][j] = 1
			}
		}
	}
	return m, nil
}

// SetPosition says where in the seasons the next step is: position is the number of steps from some origin, the same always.
func (m *Model) SetPosition(position int64) {
	for i := range m.season {
		if n := int64(len(m.season[i])); n > 0 {
			m.at[i] = int(((position % n) + n) % n)
		}
	}
}

// Update takes the value of the next step, NaN if it is missing, and returns its error: what it is above the forecast.
// The error of a missing value is NaN; the level goes on along the slope, slope and residual fade, and the seasons stay.
func (m *Model) Update(y float64) float64 {
	if m.multiplicative {
		return m.updateMultiplicative(y)
	}
	if y != y {
		m.skip()
		return y
	}
	s0, s1 := m.season[0], m.season[1]
	s := 0.0
	if len(s0) > 0 {
		s = s0[m.at[0]]
		if len(s1) > 0 {
			s += s1[m.at[1]]
		}
	}
	if !m.started {
		m.started, m.level = true, y-s
	}
	b := m.Phi * m.slope
	base := m.level + b
	r := y - base - s
	u := r - m.Rho*m.residual
	m.level = base + m.Alpha*u
	m.slope = b + m.Beta*u
	m.residual = r
	if len(s0) > 0 {
		s0[m.at[0]] += m.Gamma[0] * u
		if m.at[0]++; m.at[0] == len(s0) {
			m.at[0] = 0
		}
		if len(s1) > 0 {
			s1[m.at[1]] += m.Gamma[1] * u
			if m.at[1]++; m.at[1] == len(s1) {
				m.at[1] = 0
			}
		}
	}
	return u
}

// limit is the largest value that is taken for one; what is further from 0 counts as missing. It is a float32, as histories have
// them: a value within it is within it still once it was rounded to one.
const limit = float64(float32(1e30))

// smallest is what a level or a season counts as, at least, where something is divided by it.
const smallest = 1e-12

func (m *Model) updateMultiplicative(y float64) float64 {
	if y != y {
		m.skip()
		return y
	}
	at := &m.season[0][m.at[0]]
	s := *at
	if !m.started {
		m.started, m.level = true, y/max(s, smallest)
	}
	b := m.Phi * m.slope
	base := m.level + b
	u := y - base*s
	// In R's form the season is what is left after the new level, and the slope the level's own change.
	level := base
	if s > smallest {
		level = m.Alpha*(y/s) + (1-m.Alpha)*base
	}
	if level > smallest {
		*at = m.Gamma[0]*(y/level) + (1-m.Gamma[0])*s
	}
	if m.Alpha > 0 {
		m.slope = b + m.Beta/m.Alpha*(level-base)
	}
	m.level = level
	if m.at[0]++; m.at[0] == len(m.season[0]) {
		m.at[0] = 0
	}
	return u
}

func (m *Model) skip() {
	b := m.Phi * m.slope
	m.level += b
	m.slope = faded(b)
	m.residual = faded(m.residual * m.Rho)
	for i := range m.season {
		if n := len(m.season[i]); n > 0 {
			if m.at[i]++; m.at[i] == n {
				m.at[i] = 0
			}
		}
	}
}

// faded is v, or 0 before it gets so small that processors are slow with it.
func faded(v float64) float64 {
	if math.Abs(v) < 1e-250 {
		return 0
	}
	return v
}

// Skip passes over n missing steps at once.
func (m *Model) Skip(n int64) {
	if n <= 0 {
		return
	}
	m.level += m.slope * powers(m.Phi, float64(n))
	m.slope = faded(m.slope * math.Pow(m.Phi, float64(n)))
	m.residual = faded(m.residual * math.Pow(m.Rho, float64(n)))
	for i := range m.season {
		if k := int64(len(m.season[i])); k > 0 {
			m.at[i] = int((int64(m.at[i]) + n) % k)
		}
	}
}

// powers is φ + φ² + ... + φⁿ.
func powers(phi, n float64) float64 {
	if phi == 1 {
		return n
	}
	return phi * (1 - math.Pow(phi, n)) / (1 - phi)
}

// Mean is the forecast h steps ahead, h from 1. It is 0 before the first value.
func (m *Model) Mean(h int) float64 {
	return m.mean(h, powers(m.Phi, float64(h)), math.Pow(m.Rho, float64(h)))
}

// mean is Mean with the powers of φ and ρ worked out.
func (m *Model) mean(h int, phis, rho float64) float64 {
	v := m.level + phis*m.slope
	if s := m.season[0]; len(s) > 0 {
		k := m.ahead(0, h-1)
		if m.multiplicative {
			return v * s[k]
		}
		v += s[k]
		if s := m.season[1]; len(s) > 0 {
			v += s[m.ahead(1, h-1)]
		}
	}
	return v + rho*m.residual
}

func (m *Model) ahead(i, h int) int {
	k, n := m.at[i]+h, len(m.season[i])
	if k >= n {
		if k -= n; k >= n {
			k %= n
		}
	}
	return k
}

// Forecast is what comes in the next h steps.
func (m *Model) Forecast(h int) []float64 {
	out := make([]float64, h)
	m.add(out, 1)
	return out
}

// add adds weight times the forecast of the steps ahead to out.
func (m *Model) add(out []float64, weight float64) {
	level, slope, residual := m.level, m.slope, m.residual
	s0, s1 := m.season[0], m.season[1]
	i0, i1 := m.at[0], m.at[1]
	for h := range out {
		slope *= m.Phi
		level += slope
		residual *= m.Rho
		v := level + residual
		if len(s0) > 0 {
			if m.multiplicative {
				v *= s0[i0]
			} else {
				v += s0[i0]
			}
			if i0++; i0 == len(s0) {
				i0 = 0
			}
			if len(s1) > 0 {
				v += s1[i1]
				if i1++; i1 == len(s1) {
					i1 = 0
				}
			}
		}
		out[h] += weight * v
	}
}

// Level is the state's level, without slope and season.
func (m *Model) Level() float64 { return m.level }

// Slope is what the level gains in a step, now.
func (m *Model) Slope() float64 { return m.slope }

// Season is a copy of the i-th season, next step first; nil if there is none.
func (m *Model) Season(i int) []float64 {
	if i < 0 || i >= len(m.season) || m.season[i] == nil {
		return nil
	}
	return append(slices.Clone(m.season[i][m.at[i]:]), m.season[i][:m.at[i]]...)
}

func (m *Model) clone() Model {
	c := *m
	for i := range c.season {
		c.season[i] = slices.Clone(c.season[i])
	}
	return c
}
