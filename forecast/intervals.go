package forecast

import (
	"math"
	"slices"
)

// intervals tracks, for each anchor and level, the quantile of the forecast's error: after each error e a quantile q goes
// up by η·2s·τ, or down by η·2s·(1-τ) if e was below it, where s is the recent mean |e|. So it settles where a share τ of
// errors is below it, however they are distributed and while that changes (conformal P control: Angelopoulos, Candès and
// Tibshirani, NeurIPS 2023; after Gibbs and Candès, NeurIPS 2021).
type intervals struct {
	heads  []int
	levels []float64 // ascending
	rows   [anchors]row
	decay  float64
}

type row struct {
	q     []float64 // of each level
	below []float64 // recent share of errors at or below q, as it was before each
	scale float64   // recent mean |e|
	n     float64   // errors
	live  float64   // errors of forecasts that were made before their values were known to any fit
}

// calibrated is how many live errors it takes for a tracked quantile to be better than that of the history.
const calibrated = 200

// keep takes over what the tracker before a refit has learned from live errors.
func (v *intervals) keep(old *intervals) {
	for a := range v.heads {
		r, o := &v.rows[a], &old.rows[a]
		r.live = o.live
		copy(r.below, o.below)
		if o.live >= calibrated {
			copy(r.q, o.q)
		}
	}
}

// gain is η: of 0.02, 0.05 and 0.1 the one with the least interval score on LLM demand.
const gain = 0.05

// usual are the levels that are always tracked.
func usual() []float64 { return []float64{0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975} }

func newIntervals(heads []int, levels []float64, halfLife float64) intervals {
	v := intervals{heads: heads, levels: append(usual(), levels...), decay: 1 - math.Exp2(-1/(7*halfLife))}
	slices.Sort(v.levels)
	v.levels = slices.Compact(v.levels)
	for a := range heads {
		v.rows[a] = row{q: make([]float64, len(v.levels)), below: slices.Clone(v.levels)}
	}
	return v
}

func (v *intervals) observe(a int, e float64) {
	r := &v.rows[a]
	r.n++
	r.live++
	size := math.Abs(e)
	r.scale += max(v.decay*7, 1/r.n) * (size - r.scale)
	share := max(v.decay, 1/(r.live+20)) // twenty as if they were as promised
	up := 2 * gain * r.scale
	q, below := r.q[:len(v.levels)], r.below[:len(v.levels)]
	for i, tau := range v.levels {
		one := 0 // an integer: no branch, which would be guessed wrong half of the time
		if e <= q[i] {
			one = 1
		}
		hit := float64(one)
		below[i] += share * (hit - below[i])
		q[i] += up * (tau - hit)
	}
}

// optimism is by how much errors are larger than those of the history that parameters and weights were fitted to. Without
// it an 80 % band covers 73 % at first, 48 hours ahead.
const optimism = 1.2

// handful is how many errors tell a quantile from its mirror image: with fewer, all of one sign is chance.
const handful = 10

// start sets the quantiles of an anchor to those of errors that were seen, which are sorted. A handful of them counts with
// both signs.
func (v *intervals) start(a int, sorted []float64) {
	n := float64(len(sorted))
	if n < handful {
		both := slices.Clone(sorted)
		for _, e := range sorted {
			both = append(both, -e)
		}
		slices.Sort(both)
		sorted = both
	}
	r := &v.rows[a]
	r.live = 0
	copy(r.below, v.levels)
	if len(sorted) == 0 {
		return
	}
	sum := 0.0
	for _, e := range sorted {
		sum += math.Abs(e)
	}
	r.scale = sum / float64(len(sorted))
	r.n = n
	for i, tau := range v.levels {
		x := tau * float64(len(sorted)-1)
		j := int(x)
		r.q[i] = sorted[j]
		if j+1 < len(sorted) {
			r.q[i] += (x - float64(j)) * (sorted[j+1] - sorted[j])
		}
		r.q[i] *= optimism
	}
}

// between is a place between two neighbours: w is how near it is to the second.
type between struct {
	i, j int
	w    float64
}

// horizon is where h steps, a number between the anchors or beyond, lie. Beyond the last, errors grow by factor, with the
// square root of the time.
func (v *intervals) horizon(h float64) (at between, factor float64) {
	n := len(v.heads)
	if last := float64(v.heads[n-1]); h >= last {
		return between{n - 1, n - 1, 0}, math.Sqrt(h / last)
	}
	a := 0
	for float64(v.heads[a+1]) < h {
		a++
	}
	x, y := float64(v.heads[a]), float64(v.heads[a+1])
	return between{a, a + 1, (h - x) / (y - x)}, 1
}

// level is where a level lies: at one that is tracked, between two, or beyond them, as far as a normal distribution's
// quantile is.
func (v *intervals) level(level float64) between {
	i, found := slices.BinarySearch(v.levels, level)
	if found {
		return between{i, i, 0}
	}
	i = min(max(i, 1), len(v.levels)-1)
	lo, hi := normal(v.levels[i-1]), normal(v.levels[i])
	return between{i - 1, i, (normal(level) - lo) / (hi - lo)}
}

// normal is the quantile of the normal distribution.
func normal(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }

// widest bounds how much a gap in the values widens the quantiles.
const widest = 4

// spread fills out with the quantiles of the levels at each of the means, which are those of the steps 1, 2, ... ahead
// and gap more from the last value.
func (v *intervals) spread(means, levels []float64, gap int, out []float64, floor bool) {
	last := float64(v.heads[len(v.heads)-1])
	var few [maxLevels]between
	places := few[:0]
	for _, l := range levels {
		places = append(places, v.level(l))
	}
	for h, mean := range means {
		ahead := min(float64(h+1+gap), max(last, float64(h+1))*widest*widest)
		at, factor := v.horizon(ahead)
		near, far := v.rows[at.i].q, v.rows[at.j].q
		q := out[h*len(levels) : (h+1)*len(levels)]
		for i, p := range places {
			a := near[p.i] + at.w*(far[p.i]-near[p.i])
			b := near[p.j] + at.w*(far[p.j]-near[p.j])
			q[i] = mean + factor*(a+p.w*(b-a))
			if floor && q[i] < 0 {
				q[i] = 0
			}
		}
		// What is tracked apart may cross; in order it is no worse at any level.
		monotone(q, levels)
	}
}

// monotone puts the quantiles in the order of their levels, which may be given in any.
func monotone(q, levels []float64) {
	for again := true; again; {
		again = false
		for i := range q {
			for j := i + 1; j < len(q); j++ {
				if levels[i] < levels[j] && q[i] > q[j] || levels[i] > levels[j] && q[i] < q[j] {
					q[i], q[j] = q[j], q[i]
					again = true
				}
			}
		}
	}
}
