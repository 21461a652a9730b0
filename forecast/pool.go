package forecast

import (
	"math"
)

// anchors is the most horizons at which errors are tracked: one step, half way, and the horizon.
const anchors = 3

// member is a model of the pool with its record.
type member struct {
	name    string // as Models has it
	seasons []int  // in steps
	model   Model
	phis    [anchors]float64 // of model.mean at the anchors
	rhos    [anchors]float64
	pending [anchors][]float64 // forecasts whose time has not come, a ring as long as the anchor
	err     [anchors]float64   // recent mean absolute errors
	weight  float64
	fitted  bool
	role    role
	// reference is for a member that is only there to be compared with: its weight is 0.
	reference bool
}

// role says whose record is kept apart.
type role int

const (
	isNaive role = iota + 1
	isSmooth
)

// pool forecasts by several models at once, each weighted by how well it did lately.
type pool struct {
	heads   []int // the anchors, in steps
	at      [anchors]int
	decay   float64 // of the errors, a step
	count   [anchors]float64
	members []member
	// combined are the pool's own forecasts whose time has not come; err its recent errors.
	combined  [anchors][]float64
	err       [anchors]float64
	intervals intervals
	started   bool // a value was seen
	out       int  // values in a row that were far out, negative if below
	// live is the record of forecasts that were made before their values were known to any fit.
	live live
}

// live are recent mean absolute errors: the pool's, those of the last value, and those of an exponential mean.
type live struct {
	n                  [anchors]float64
	own, naive, smooth [anchors]float64
}

func newPool(o *Options, halfLife float64) pool {
	p := pool{decay: 1 - math.Exp2(-1/halfLife), heads: headsOf(o.Horizon)}
	for a, h := range p.heads {
		p.combined[a] = missing(h)
	}
	p.intervals = newIntervals(p.heads, o.Levels, halfLife)
	return p
}

func missing(n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = math.NaN()
	}
	return v
}

func (p *pool) add(e member) {
	for a, h := range p.heads {
		e.pending[a] = missing(h)
	}
	e.prepare(p.heads)
	p.members = append(p.members, e)
}

// prepare works out the powers that forecasts at the anchors need, and the role.
func (m *member) prepare(heads []int) {
	switch m.name {
	case "naive":
		m.role = isNaive
	case "ses":
		m.role = isSmooth
	}
	for a, h := range heads {
		m.phis[a], m.rhos[a] = powers(m.model.Phi, float64(h)), math.Pow(m.model.Rho, float64(h))
	}
}

// mean is that over the anchors.
func (p *pool) mean(v *[anchors]float64) float64 {
	sum := 0.0
	for a := range p.heads {
		sum += v[a]
	}
	return sum / float64(len(p.heads))
}

// keep takes over from the pool before a refit what only forecasts of the unknown can tell.
func (p *pool) keep(old *pool) {
	p.live = old.live
	p.intervals.keep(&old.intervals)
}

// position says which season the next step has.
func (p *pool) position(k int64) {
	for i := range p.members {
		p.members[i].model.SetPosition(k)
	}
}

// skip passes over missing steps. Forecasts that were for them are lost.
func (p *pool) skip(n int64) {
	for i := range p.members {
		p.members[i].model.Skip(n)
	}
	for a, h := range p.heads {
		for range min(n, int64(h)) {
			j := p.at[a]
			p.combined[a][j] = math.NaN()
			for i := range p.members {
				p.members[i].pending[a][j] = math.NaN()
			}
			p.at[a] = (j + 1) % h
		}
	}
}

// interrupt forgets the forecasts whose time has not come: time itself was wrong.
func (p *pool) interrupt() { p.skip(int64(p.heads[len(p.heads)-1])) }

// observe takes the value of the next step: first the record, then the models, then what they say next. It returns the
// value as it was taken.
func (p *pool) observe(y float64) float64 { return p.take([anchors]float64{y, y, y}, y) }

// take is observe where forecasts of other times are to be held to other values: seen has, for each anchor, what y was as
// that was forecast; NaN is not known.
func (p *pool) take(seen [anchors]float64, y float64) float64 {
	if y == y {
		drawn := p.clip(y)
		if p.started {
			if drawn != y {
				for a := range seen {
					seen[a] += drawn - y
				}
			}
			p.score(seen)
		}
		y = drawn
		p.started = true
	}
	if !p.started {
		for i := range p.members {
			p.members[i].model.Update(y)
		}
		return y
	}
	p.weigh()
	var sums [anchors]float64
	for i := range p.members {
		m := &p.members[i]
		m.model.Update(y)
		for a, h := range p.heads {
			v := m.model.mean(h, m.phis[a], m.rhos[a])
			m.pending[a][p.at[a]] = v
			sums[a] += m.weight * v
		}
	}
	for a, h := range p.heads {
		j := p.at[a]
		p.combined[a][j] = sums[a]
		if j++; j == h {
			j = 0
		}
		p.at[a] = j
	}
	return y
}

// far is how many times the recent error one step ahead a value has to be off, and also twice the forecast or more, to be
// drawn in; shift is how many of them in a row are a shift of the level and taken as they are.
const (
	far   = 20
	shift = 3
)

// clip draws in what is far out (after Gelper, Fried and Croux, Journal of Forecasting 29, 2010): one value a thousand
// times too large would else move levels, weights and quantiles for days.
func (p *pool) clip(y float64) float64 {
	d := y - p.combined[0][p.at[0]]
	if d != d || p.count[0] < few {
		return y
	}
	bound := max(far*p.err[0], math.Abs(y-d))
	if math.Abs(d) <= bound {
		p.out = 0
		return y
	}
	if (d > 0) != (p.out > 0) {
		p.out = 0
	}
	if d > 0 {
		p.out = min(p.out+1, shift+1)
	} else {
		p.out = max(p.out-1, -shift-1)
	}
	if p.out > shift || p.out < -shift {
		return y
	}
	return y - d + math.Copysign(bound, d)
}

func (p *pool) score(seen [anchors]float64) {
	var rate, fresh [anchors]float64 // 0 where nothing was forecast
	for a := range p.heads {
		e := seen[a] - p.combined[a][p.at[a]]
		if e != e {
			continue
		}
		p.count[a]++
		p.live.n[a]++
		rate[a], fresh[a] = max(p.decay, 1/p.count[a]), max(p.decay, 1/p.live.n[a])
		d := math.Abs(e)
		p.live.own[a] += fresh[a] * (d - p.live.own[a])
		p.err[a] += rate[a] * (d - p.err[a])
		p.intervals.observe(a, e)
	}
	for i := range p.members {
		m := &p.members[i]
		for a := range p.heads {
			e := math.Abs(seen[a] - m.pending[a][p.at[a]])
			if rate[a] == 0 || e != e {
				continue
			}
			m.err[a] += rate[a] * (e - m.err[a])
			switch m.role {
			case isNaive:
				p.live.naive[a] += fresh[a] * (e - p.live.naive[a])
			case isSmooth:
				p.live.smooth[a] += fresh[a] * (e - p.live.smooth[a])
			}
		}
	}
}

// weigh sets the members' weights by their mean error over the anchors, to the power of -5: twice the error is a
// thirtieth of the weight, which drops what is bad and averages what is close. Of -4 to -8 it is where LLM demand, CPU
// load with one model that is far better, and M4's hourly series agree within 1 %.
func (p *pool) weigh() {
	least := math.Inf(1)
	for i := range p.members {
		m := &p.members[i]
		e := m.err[0] + m.err[1] + m.err[2] // 0 beyond the anchors that there are
		m.weight = e
		if e < least && !m.reference {
			least = e
		}
	}
	sum := 0.0
	for i := range p.members {
		m := &p.members[i]
		if m.reference {
			m.weight = 0
			continue
		}
		w := 1.0
		if m.weight > 0 {
			r := least / m.weight
			w = r * r * r * r * r
		}
		m.weight = w
		sum += w
	}
	if sum == 0 {
		return
	}
	sum = 1 / sum
	for i := range p.members {
		p.members[i].weight *= sum
	}
}

// means fills out with the weighted forecasts of the steps ahead.
func (p *pool) means(out []float64) {
	clear(out)
	for i := range p.members {
		if m := &p.members[i]; m.weight > 0 {
			m.model.add(out, m.weight)
		}
	}
}
