package forecast

import (
	"context"
	"math"
	"slices"
	"time"
)

// factors are the events and regressors of a forecaster: value = (base + effect of the regressors) × factor of the events. The
// pool of models sees the base. With regressors there are two pools, one that sees the values with their effect and one that
// sees them without; the forecasts are those of the one that did better.
type factors struct {
	calendar calendar
	lifts    []lift
	trained  bool  // lifts and coefficients have seen a history; from then on they learn online alone
	prev     int64 // the last step that was taken
	seen     int64 // values

	names   []string // of the regressors
	reg     regression
	columns []ring // their history
	last    [maxRegressors]float64
	lastAt  [maxRegressors]int64
	ahead   [][]float64
	from    int64 // the step of the first of ahead
	known   int   // how many steps ahead they were known
	assumed int   // how many the last fit took it that they are
	without *pool // which sees values with the effect in them; nil if there are no regressors
	use     bool  // the effect is part of the forecast
	judged  float64
	with    [anchors]float64 // recent errors
	bare    [anchors]float64

	// What was forecast for times that have not come: rings as long as each anchor.
	at                 [anchors]int
	factor, effect     [anchors][]float64
	own, naive, smooth [anchors][]float64
	mean               float64 // exponential mean of the values as they came
	begun              bool
	live               live
}

func (f *Forecaster) newFactors() *factors {
	if len(f.o.Events)+len(f.o.Regressors) == 0 {
		return nil
	}
	x := &factors{names: f.o.Regressors, reg: newRegression(len(f.o.Regressors)), prev: math.MinInt64}
	x.calendar.events = f.o.Events
	x.calendar.at(f.step, f.phase)
	for _, e := range f.o.Events {
		x.lifts = append(x.lifts, newLift(e))
	}
	x.columns = make([]ring, len(x.names))
	for i := range x.columns {
		x.columns[i].values = make([]float32, 0, f.capacity)
		x.last[i] = math.NaN()
	}
	if len(x.names) > 0 {
		p := f.newPool(plainMembers(false))
		x.without = &p
	}
	x.forgetPending(f.pool.heads)
	return x
}

func (x *factors) forgetPending(heads []int) {
	for a, h := range heads {
		x.at[a] = 0
		for _, r := range []*[anchors][]float64{&x.factor, &x.effect, &x.own, &x.naive, &x.smooth} {
			r[a] = missing(h)
		}
	}
}

// surprised says that more is known ahead than the fit knew of.
func (x *factors) surprised() bool {
	return x != nil && x.without != nil && x.known > x.assumed && x.judged < calibrated
}

// serving is the pool that the forecast is of.
func (f *Forecaster) serving() *pool {
	if f.extra != nil && f.extra.without != nil && !f.extra.use {
		return f.extra.without
	}
	return &f.pool
}

// record is that of the forecasts as they were given.
func (f *Forecaster) record() *live {
	if f.extra != nil {
		return &f.extra.live
	}
	return &f.pool.live
}

// factorAt is what the events make of the base at step k, by what is known now.
func (x *factors) factorAt(k int64) float64 {
	v := 1.0
	for i := range x.lifts {
		s, first := x.calendar.share(i, k)
		if s == 0 {
			continue
		}
		l := &x.lifts[i]
		if l.open && l.first == first {
			v += (l.now() - 1) * s
		} else {
			v += (l.learned() - 1) * s
		}
	}
	return bounded(v, 0, maxLift)
}

// row is what is known of the regressors at step k: as it was said to be, or as it was last.
func (x *factors) row(k int64, to []float64) []float64 {
	for i := range x.names {
		v := x.last[i]
		if i < len(x.ahead) && len(x.ahead[i]) > 0 {
			n := int64(len(x.ahead[i]))
			j := min(k-x.from, n-1)
			if j >= 0 && x.from+j > x.lastAt[i] && math.Abs(x.ahead[i][j]) <= limit {
				v = x.ahead[i][j]
			}
		}
		to = append(to, v)
	}
	return to
}

// effectAt is what the regressors add to the base at step k.
func (x *factors) effectAt(k int64) float64 {
	if len(x.names) == 0 {
		return 0
	}
	var few [maxRegressors]float64
	return x.reg.effect(x.row(k, few[:0]))
}

// advance opens and closes occurrences as step k comes. fill tells what demand is without events for the n steps from k on.
func (x *factors) advance(k int64, fill func(to []float64)) {
	for i := range x.lifts {
		s, first := x.calendar.share(i, k)
		l := &x.lifts[i]
		if l.open && (s == 0 || first != l.first) {
			l.close()
		}
		if l.open && k-l.first >= longestOccurrence {
			l.close()
			l.done = first
		}
		// What began before the first value, or of which all before is unknown, tells nothing.
		if s == 0 || l.open || first == l.done || first <= x.prev || x.seen < handful || k-first >= longestOccurrence {
			continue
		}
		n := int64(1)
		for k+n-first < longestOccurrence {
			if s, o := x.calendar.share(i, k+n); s == 0 || o != first {
				break
			}
			n++
		}
		l.open, l.first = true, first
		if fill != nil {
			l.base = slices.Grow(l.base[:0], int(k-first+n))[:k-first+n]
			clear(l.base)
			fill(l.base[k-first:])
		}
	}
	x.prev = k
}

// attribute learns from the value of step k how much of it is the events', where demand without them were base; NaN takes
// that from what was forecast as each occurrence began.
func (x *factors) attribute(k int64, y, base, effect float64) {
	for i := range x.lifts {
		l := &x.lifts[i]
		if !l.open {
			continue
		}
		s, _ := x.calendar.share(i, k)
		l.whole += s
		b := base
		if b != b {
			j := k - l.first
			if j < 0 || j >= int64(len(l.base)) {
				continue
			}
			b = l.base[j] + effect
		}
		if y != y || !(b > 0) {
			continue
		}
		others := x.factorAt(k) - (l.now()-1)*s
		l.over += s * (y - b*others)
		l.all += s * s * b
		l.n++
		l.there += s
	}
}

// take is a step: the record of what was forecast of it, what it says of events and regressors, and then the models.
func (x *factors) take(f *Forecaster, k int64, y float64, columns []float64) {
	p := &f.pool
	x.calendar.block(k)
	x.advance(k, func(to []float64) { f.meansOf(f.serving(), k, to) })
	var seen, plain [anchors]float64
	for a := range p.heads {
		j := x.at[a]
		seen[a], plain[a] = math.NaN(), math.NaN()
		if fp := x.factor[a][j]; fp >= least {
			plain[a] = y / fp
			seen[a] = plain[a] - x.effect[a][j]
		}
		x.score(p, a, j, y, plain[a], seen[a])
	}
	effect := 0.0
	for i := range x.names {
		v := math.NaN()
		if i < len(columns) && math.Abs(columns[i]) <= limit {
			v = columns[i]
			x.last[i], x.lastAt[i] = v, k
		}
		x.columns[i].push(v)
	}
	if len(x.names) > 0 {
		effect = x.reg.effect(columns)
	}
	served := 0.0
	if x.use {
		served = effect
	}
	x.attribute(k, y, math.NaN(), served)
	v := math.NaN()
	if factor := x.factorAt(k); factor >= least {
		v = y / factor
	}
	if y == y {
		x.seen++
		if !x.begun {
			x.mean, x.begun = y, true
		}
		x.mean += ordinary * (y - x.mean)
	}
	if x.without != nil {
		x.without.take(plain, v)
		x.learn(p, v, effect, columns)
	}
	p.take(seen, v-effect)
	s := f.serving()
	for a, h := range p.heads {
		j := x.at[a]
		x.factor[a][j], x.effect[a][j] = x.factorAt(k+int64(h)), x.effectAt(k+int64(h))
		e := 0.0
		if x.use {
			e = x.effect[a][j]
		}
		x.own[a][j], x.naive[a][j], x.smooth[a][j] = math.NaN(), math.NaN(), math.NaN()
		if x.begun {
			x.own[a][j] = x.factor[a][j] * (s.combined[a][(s.at[a]+h-1)%h] + e)
			x.smooth[a][j] = x.mean
		}
		if y == y {
			x.naive[a][j] = y
		} else if x.begun {
			x.naive[a][j] = x.naive[a][(j+h-1)%h]
		}
		x.at[a] = (j + 1) % h
	}
}

// ordinary is α of the exponential mean that forecasts are compared with.
const ordinary = 0.3

// score keeps the record: of what was forecast, and of which pool does better.
func (x *factors) score(p *pool, a, j int, y, plain, seen float64) {
	d := math.Abs(y - x.own[a][j])
	if d != d {
		return
	}
	l := &x.live
	l.n[a]++
	rate := max(p.decay, 1/l.n[a])
	l.own[a] += rate * (d - l.own[a])
	if e := math.Abs(y - x.naive[a][j]); e == e {
		l.naive[a] += rate * (e - l.naive[a])
	}
	l.smooth[a] += rate * (math.Abs(y-x.smooth[a][j]) - l.smooth[a])
	if x.without == nil {
		return
	}
	with, bare := math.Abs(seen-p.combined[a][p.at[a]]), math.Abs(plain-x.without.combined[a][x.without.at[a]])
	if with != with || bare != bare {
		return
	}
	if a == 0 {
		x.judged++
	}
	rate = max(p.decay, 1/(x.judged+1))
	x.with[a] += rate * (with - x.with[a])
	x.bare[a] += rate * (bare - x.bare[a])
	x.judge(p)
}

// judge says whether the regressors have earned their place.
func (x *factors) judge(p *pool) {
	with, bare := p.mean(&x.with), p.mean(&x.bare)
	switch {
	case x.judged < few:
		x.use = false
	case with < earned*bare:
		x.use = true
	case with >= lost*bare:
		x.use = false
	}
}

// learn lets the coefficients learn from a value that is v without the events.
func (x *factors) learn(p *pool, v, effect float64, columns []float64) {
	x.reg.note(v, columns)
	e := v - effect - p.combined[0][p.at[0]]
	if p.count[0] >= few {
		e = max(min(e, 6*p.err[0]), -6*p.err[0])
	}
	x.reg.learn(e, columns, p.reach())
}

// skip passes over n steps before step k that were missing.
func (x *factors) skip(heads []int, n int64) {
	for a, h := range heads {
		for range min(n, int64(h)) {
			j := x.at[a]
			for _, r := range []*[anchors][]float64{&x.factor, &x.effect, &x.own, &x.naive, &x.smooth} {
				r[a][j] = math.NaN()
			}
			x.at[a] = (j + 1) % h
		}
	}
}

// Ahead says what is known of the regressors in the coming steps: of each, in the order of Options.Regressors, the values of the
// steps after the last one that was observed. Beyond them the last value holds. A fit takes it that as much was known ahead of
// any time as Ahead said before it: if it says more for the first time, Refit is due.
func (f *Forecaster) Ahead(x [][]float64) {
	if f.extra == nil {
		return
	}
	e := f.extra
	e.ahead, e.from, e.known = make([][]float64, min(len(x), len(e.names))), f.last+1, 0
	for i := range e.ahead {
		e.ahead[i] = slices.Clone(x[i][:min(len(x[i]), mostAhead)])
		if n := len(e.ahead[i]); i == 0 || n < e.known {
			e.known = n
		}
	}
}

// outcome is what of a history is the effect of regressors, and what is the base.
type outcome struct {
	effect      []float64
	plain, base []float64 // value/factor, and that less the effect
}

// split takes a history of which the last step is f.last apart.
func (x *factors) split(f *Forecaster, y []float64, columns [][]float64) outcome {
	first := f.last - int64(len(y)) + 1
	o := outcome{plain: make([]float64, len(y)), base: make([]float64, len(y)), effect: make([]float64, len(y))}
	var few [maxRegressors]float64
	for i, v := range y {
		o.plain[i] = math.NaN()
		if factor := x.factorAt(first + int64(i)); factor >= least {
			o.plain[i] = within(v / factor)
		}
		row := few[:0]
		for _, c := range columns {
			row = append(row, c[i])
		}
		o.effect[i] = x.reg.effect(row)
		o.base[i] = within(o.plain[i] - o.effect[i])
	}
	return o
}

// within is a value, or NaN for what is too far from 0 to be one.
func within(v float64) float64 {
	if !(math.Abs(v) <= limit) {
		return math.NaN()
	}
	return v
}

// refit is Refit where there are events or regressors.
func (x *factors) refit(ctx context.Context, f *Forecaster) error {
	y := f.history.list()
	var columns [][]float64
	for i := range x.columns {
		columns = append(columns, x.columns[i].list())
	}
	there := 0
	for _, v := range y {
		if v == v {
			there++
		}
	}
	was := *x // in case ctx ends
	was.lifts = slices.Clone(x.lifts)
	undo := func() {
		*x = was
		x.calendar.at(f.step, f.phase) // its blocks have other steps by now
	}
	x.assumed = max(x.assumed, x.known)
	if !x.trained && there >= few {
		if err := x.train(ctx, f, y, columns); err != nil {
			undo()
			return err
		}
		x.trained = there >= 2*256
	}
	o := x.split(f, y, columns)
	with, found, err := f.fitPool(ctx, o.base, x.hindsight(o))
	if err != nil {
		undo()
		return err
	}
	if x.without != nil {
		p, bareFound, err := f.fitPool(ctx, o.plain, nil)
		if err != nil {
			undo()
			return err
		}
		p.keep(x.without)
		x.without = &p
		if x.judged < calibrated {
			x.with, x.bare, x.judged = with.err, p.err, max(x.judged, min(with.count[0], few))
			x.judge(&with)
		}
		if !x.use {
			found = bareFound
		}
	}
	with.keep(&f.pool)
	f.pool, f.found = with, found
	f.fitted = 0
	f.nextFit = f.whenLarger(len(y))
	return nil
}

// hindsight is what the pool with the regressors would have seen of the values: the effect as it was known at the time. It is
// nil where that makes no difference.
func (x *factors) hindsight(o outcome) observer {
	if x.without == nil {
		return nil
	}
	return func(p *pool, i int, v float64) float64 {
		var seen [anchors]float64
		for a, h := range p.heads {
			seen[a] = v
			if h > x.known {
				if i < h {
					seen[a] = math.NaN()
				} else {
					seen[a] += o.effect[i] - o.effect[i-h+x.known]
				}
			}
		}
		return p.take(seen, v)
	}
}

// train learns lifts and coefficients from a history: the base is fitted to what is there without events, passes over them,
// and says what they made of it.
func (x *factors) train(ctx context.Context, f *Forecaster, y []float64, columns [][]float64) error {
	first := f.last - int64(len(y)) + 1
	masked := slices.Clone(y)
	on, left := 0, 0
	for i, v := range y {
		for e := range x.lifts {
			if s, _ := x.calendar.share(e, first+int64(i)); s > 0 {
				masked[i] = math.NaN()
			}
		}
		if v == v {
			left++
			if masked[i] != masked[i] {
				on++
			}
		}
	}
	if on > left/2 || left-on < few {
		// There is more with events than without: what they are said to be has to do.
		for i := range x.lifts {
			x.lifts[i] = newLift(x.calendar.events[i])
		}
		masked = x.split(f, y, nil).plain
	} else {
		on = 0
	}
	start := newRegression(len(x.names))
	for i, c := range columns {
		for _, v := range c {
			if v == v {
				start.seen[i]++
				d := v - start.mean[i]
				start.mean[i] += d / start.seen[i]
				start.square[i] += d * (v - start.mean[i])
			}
		}
		start.square[i] /= max(start.seen[i], 1)
	}
	start.fixed = true
	var few [maxRegressors]float64
	p, _, err := f.fitPool(ctx, f.filled(masked), func(p *pool, i int, fitted float64) float64 {
		v := masked[i]
		if i == 0 {
			for e := range x.lifts {
				x.lifts[e] = newLift(x.calendar.events[e])
			}
			x.reg, x.seen, x.prev = start, 0, first-1
		}
		k := first + int64(i)
		row := few[:0]
		for _, c := range columns {
			row = append(row, c[i])
		}
		effect := x.reg.effect(row)
		x.advance(k, nil)
		if on == 0 {
			if base := p.combined[0][p.at[0]] + effect; base == base {
				x.attribute(k, y[i], base, 0)
			}
		}
		if y[i] == y[i] {
			x.seen++
		}
		if len(columns) > 0 {
			x.learn(p, v, effect, row)
		}
		if got := p.observe(v - effect); got == got {
			return got + effect
		}
		return fitted
	})
	if err != nil {
		return err
	}
	// What is on at the end goes on with what demand is without it.
	for e := range x.lifts {
		if l := &x.lifts[e]; l.open {
			n := int64(0)
			for f.last+1+n-l.first < longestOccurrence {
				if s, o := x.calendar.share(e, f.last+1+n); s == 0 || o != l.first {
					break
				}
				n++
			}
			past := f.last + 1 - l.first
			l.base = make([]float64, past+n)
			if on == 0 {
				f.meansOf(&p, f.last+1, l.base[past:])
			}
		}
	}
	return nil
}

// filled is y with what is missing taken from the same time in the seasons before and after, of a day if there is one, else
// of the shortest: a longer season may have nothing else at the time of an event.
func (f *Forecaster) filled(y []float64) []float64 {
	seasons := slices.Clone(f.seasons)
	if i := slices.Index(seasons, int(24*time.Hour/f.o.Step)); i >= 0 {
		seasons = seasons[i:]
	}
	out := slices.Clone(y)
	for i, v := range y {
		if v == v {
			continue
		}
		for _, m := range seasons {
			sum, n := 0.0, 0.0
			for j := 1; j <= 3 && n < 2; j++ {
				for _, k := range []int{i - j*m, i + j*m} {
					if k >= 0 && k < len(y) && y[k] == y[k] {
						sum += y[k]
						n++
					}
				}
			}
			if n > 0 {
				out[i] = sum / n
				break
			}
		}
	}
	return out
}

// eventLifts are for the explanation.
func (x *factors) eventLifts() (all []EventLift) {
	for i, e := range x.calendar.events {
		l := &x.lifts[i]
		all = append(all, EventLift{Name: e.Name, Lift: l.now(), Prior: l.prior, Occurrences: int(l.seen)})
	}
	return all
}

func (x *factors) effects(p *pool) (all []RegressorEffect) {
	for i, n := range x.names {
		all = append(all, RegressorEffect{
			Name: n, Coefficient: x.reg.coefficient(i), Used: x.use, Error: p.mean(&x.with), ErrorWithout: p.mean(&x.bare),
		})
	}
	return all
}

// noteColumns puts the regressors at i of a history, whose step is k, into theirs.
func (x *factors) noteColumns(k int64, columns [][]float64, i int) {
	for c := range x.names {
		v := math.NaN()
		if c < len(columns) && i < len(columns[c]) && math.Abs(columns[c][i]) <= limit {
			v = columns[c][i]
			x.last[c], x.lastAt[c] = v, k
		}
		x.columns[c].push(v)
	}
}

// skip passes over n missing steps.
func (f *Forecaster) skip(n int64) {
	f.pool.skip(n)
	x := f.extra
	if x == nil {
		return
	}
	if x.without != nil {
		x.without.skip(n)
	}
	x.skip(f.pool.heads, n)
	for i := range x.columns {
		for range min(n, int64(f.capacity)) {
			x.columns[i].push(math.NaN())
		}
	}
}

// interrupt forgets what was forecast, as the clock turns out to have been set back to step k.
func (f *Forecaster) interrupt(k int64) {
	f.pool.interrupt()
	x := f.extra
	if x == nil {
		return
	}
	if x.without != nil {
		x.without.interrupt()
	}
	x.skip(f.pool.heads, int64(f.pool.heads[len(f.pool.heads)-1]))
	for i := range x.columns {
		if n := len(x.columns[i].values) - len(f.history.values); n > 0 {
			x.columns[i].drop(int64(n))
		}
	}
	for i := range x.lifts {
		x.lifts[i].drop()
	}
	x.prev = k - 1
}
