package forecast

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Options say what a Forecaster forecasts.
type Options struct {
	// Step is the time from one value to the next, a multiple of a millisecond. Required.
	Step time.Duration
	// Horizon is how many steps ahead matters most: models are fitted to it and weighed by their errors up to it.
	// Forecasts may go further. 0 is an hour, or one step if that is longer.
	Horizon int
	// Seasons are the lengths of seasons that there may be, multiples of Step, 3,024 steps at most. Nil means an hour, a day
	// and a week, as far as they are that; empty means none. A season is used from two full ones on, and only if it shows
	// in the values and forecasts are not clearly worse for it. 5-minute steps have all three, 1-minute steps no week.
	Seasons []time.Duration
	// Levels are the quantiles that are tracked beside the usual 0.025, 0.1, 0.25, 0.5, 0.75, 0.9 and 0.975; forecasts may
	// ask for others, which are put between the tracked ones.
	Levels []float64
	// Model is "auto", or empty, for a pool of models weighted by recent error, or the name of one; see Models.
	Model string
	// Location is where a day starts, so that seasons follow the clock on the wall over changes to and from summer time.
	// Nil is UTC.
	Location *time.Location
	// AllowNegative is for series that are not demand: forecasts and quantiles below 0 are not cut off.
	AllowNegative bool
	// Events are what comes at known times and changes demand while it is on, 16 at most, each with a name of its own.
	Events []Event
	// Regressors are the names of series that move this one, 8 at most; see ObserveWith.
	Regressors []string
}

// Point is the forecast for one time.
type Point struct {
	Time time.Time
	// Mean is the expected value.
	Mean float64
	// Quantiles has one value for each level that was asked for, never falling with the level.
	Quantiles []float64
}

// Forecaster forecasts one series. It takes the values in order, one a step, and knows at any time what comes next: from
// the first value on, and better the more it has seen. Observe takes constant time and does not allocate; what costs time
// (to find parameters and seasons in the history that it keeps) is in Refit, which the caller calls when Due says so. It
// is not safe for concurrent use.
type Forecaster struct {
	o        Options
	step     int64 // ms
	seasons  []int // candidates, in steps, ascending
	explicit bool  // seasons were named: they need not be found first
	halfLife float64
	capacity int // of the history

	// Time: step k is at phase + k·step ms since 1970.
	phase  int64
	last   int64 // the step of the last value
	begun  bool
	stale  int   // values in a row whose time had passed already
	offset int64 // of the clock on the wall at last, in steps

	history ring
	seen    int64 // values that were there
	missing int64
	ignored int64 // values whose time had passed, or a second one for a step
	gap     int   // missing steps since the last value

	pool  pool
	extra *factors // events and regressors; nil if there are none

	fitted  int64 // steps since the last Refit
	nextFit int64 // the number of steps at which a first or larger fit is due
	found   []Season
}

// New is a forecaster that has seen nothing. It fails with everything that is wrong with the options.
func New(o Options) (*Forecaster, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Step <= 0 || o.Step%time.Millisecond != 0 {
		return nil, fmt.Errorf("step %v: it is a multiple of a millisecond, above 0", o.Step)
	}
	if o.Horizon < 0 || o.Horizon > maxHorizon {
		bad("horizon %d: it is from 1 to %d steps, or 0 for an hour", o.Horizon, maxHorizon)
	}
	if o.Horizon == 0 {
		o.Horizon = min(max(int(time.Hour/o.Step), 1), maxHorizon)
	}
	for _, l := range o.Levels {
		if !(l > 0 && l < 1) {
			bad("level %v: it is above 0 and below 1", l)
		}
	}
	if len(o.Levels) > maxLevels {
		bad("%d levels: %d at most", len(o.Levels), maxLevels)
	}
	if o.Model == "" {
		o.Model = "auto"
	}
	if o.Model != "auto" && !slices.Contains(Models(), o.Model) {
		bad("model %q: there are auto, %s", o.Model, strings.Join(Models(), ", "))
	}
	if err := errors.Join(checkEvents(o.Events), checkRegressors(o.Regressors)); err != nil {
		errs = append(errs, err)
	}
	if o.Location == nil {
		o.Location = time.UTC
	}
	f := &Forecaster{o: o, step: o.Step.Milliseconds(), explicit: o.Seasons != nil}
	candidates := o.Seasons
	if candidates == nil {
		candidates = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}
	}
	for _, s := range candidates {
		n := s / o.Step
		switch {
		case s%o.Step != 0 && f.explicit:
			bad("season %v: it is a multiple of the step %v", s, o.Step)
		case (n < 2 || n > maxSeason) && f.explicit:
			bad("season %v: it is from 2 to %d steps of %v", s, maxSeason, o.Step)
		case s%o.Step != 0 || n < minSeason || n > maxSeason:
			// An hour of 5-minute steps is a season; of 30-minute steps it is not.
		default:
			f.seasons = append(f.seasons, int(n))
		}
	}
	if len(candidates) > maxCandidates {
		bad("%d seasons: %d at most", len(candidates), maxCandidates)
	}
	slices.Sort(f.seasons)
	f.seasons = slices.Compact(f.seasons)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}

	// Recent means a day, or where seasons are named, the shortest of them; a quickstart's day may be two minutes.
	day := float64(24 * time.Hour / o.Step)
	if f.explicit && len(f.seasons) > 0 {
		day = float64(f.seasons[0])
	}
	f.halfLife = min(max(day, 24), 2880)
	longest := 0
	if len(f.seasons) > 0 {
		longest = f.seasons[len(f.seasons)-1]
	}
	f.capacity = min(max(3*longest, 2304), maxHistory)
	f.history.values = make([]float32, 0, f.capacity)
	f.reset()
	return f, nil
}

// The bounds of what one forecaster keeps.
const (
	maxHorizon = 2016
	maxSeason  = maxHistory / 2 // two are needed
	minSeason  = 4              // of seasons that nobody named
	maxLevels  = 16
	// maxCandidates bounds the seasons that are looked for.
	maxCandidates = 4
	// maxHistory is three weeks of 5-minute steps; 4 bytes each.
	maxHistory = 6048
	// maxSeasonal bounds the seasons that all models of a pool have together; 8 bytes each. With the history it keeps a
	// series under 100 KB.
	maxSeasonal = 8000
)

// Capacity is how many steps of history it keeps: of a longer one only the newest count.
func (f *Forecaster) Capacity() int { return f.capacity }

func (f *Forecaster) reset() {
	f.begun, f.stale, f.gap = false, 0, 0
	f.seen, f.missing, f.ignored = 0, 0, 0
	f.fitted, f.nextFit = 0, few
	f.history.clear()
	f.pool = f.newPool(plainMembers(false))
	f.found = nil
	known := 0
	if f.extra != nil {
		known = f.extra.known
	}
	if f.extra = f.newFactors(); f.extra != nil {
		f.extra.known = known
	}
}

// Fit forgets what was seen and takes a history: values at start and the following steps, NaN where missing. It fits
// models to the end of it, the last three of the longest season and 1,024 steps at least, and takes time: see Refit.
func (f *Forecaster) Fit(values []float64, start time.Time) { f.FitWith(values, start, nil) }

// FitWith is Fit with the regressors at the same steps: of each, in the order of Options.Regressors, its values, NaN where
// missing; those beyond the values of the series are left out.
func (f *Forecaster) FitWith(values []float64, start time.Time, regressors [][]float64) {
	f.reset()
	if len(values) == 0 {
		return
	}
	f.place(start)
	for i, y := range values {
		if i > 0 {
			f.last++
		}
		f.note(y)
		if f.extra != nil {
			f.extra.noteColumns(f.last, regressors, i)
		}
	}
	f.offset = f.zone(f.last)
	f.begun = true
	if err := f.Refit(context.Background()); err != nil {
		panic("forecast: a refit without a deadline: " + err.Error()) // only a context ends one
	}
}

// place takes t for a step.
func (f *Forecaster) place(t time.Time) {
	ms := t.UnixMilli()
	f.phase = ((ms % f.step) + f.step) % f.step
	f.last = (ms - f.phase) / f.step
	if f.extra != nil {
		f.extra.calendar.at(f.step, f.phase)
		f.extra.prev = f.last - 1
	}
}

// note puts a value into the history, and returns it, or NaN for what is not one.
func (f *Forecaster) note(y float64) float64 {
	if !(math.Abs(y) <= limit) {
		y = math.NaN()
	}
	if y == y {
		f.seen++
		f.gap = 0
	} else {
		f.missing++
		f.gap++
	}
	f.history.push(y)
	return y
}

// zone is the offset of the wall clock at step k, in steps.
func (f *Forecaster) zone(k int64) int64 {
	if f.o.Location == time.UTC {
		return 0
	}
	_, seconds := f.time(k).In(f.o.Location).Zone()
	return floorDiv(f.phase+int64(seconds)*1000, f.step)
}

func (f *Forecaster) time(k int64) time.Time { return time.UnixMilli(f.phase + k*f.step).UTC() }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// jump is how many values in a row whose time has passed mean that the clock was set back.
const jump = 6

// Observe takes the value at t, NaN if it is missing. What is infinite or beyond ±1e30 counts as missing. Times are put
// on the nearest step from the first one; steps left out count as missing. A second value for a step and one from the
// past are ignored, unless six come in a row: then the clock was set back and the forecaster goes on from there.
func (f *Forecaster) Observe(t time.Time, y float64) { f.ObserveWith(t, y, nil) }

// ObserveWith is Observe with the values of the regressors at t, in the order of Options.Regressors. Of one that is NaN, or
// left out, nothing is learned, and it is taken to have no effect on this value.
func (f *Forecaster) ObserveWith(t time.Time, y float64, x []float64) {
	if !f.begun {
		f.place(t)
		f.begun = true
		f.offset = f.zone(f.last)
		f.position(f.last + f.offset)
		f.take(y, x)
		return
	}
	k := floorDiv(t.UnixMilli()-f.phase+f.step/2, f.step)
	if k <= f.last {
		f.ignored++
		if f.stale++; f.stale < jump {
			return
		}
		f.ignored--
		f.history.drop(f.last - k + 1)
		f.last = k - 1
		f.interrupt(k)
		f.move()
	}
	f.stale = 0
	if skipped := k - f.last - 1; skipped > 0 {
		f.pass(skipped)
	}
	f.last = k
	if f.o.Location != time.UTC {
		if z := f.zone(k); z != f.offset {
			f.offset = z
			f.position(k + z)
		}
	}
	f.take(y, x)
}

// move puts the seasons where the clock now is.
func (f *Forecaster) move() {
	f.offset = f.zone(f.last)
	f.position(f.last + 1 + f.offset)
}

// position says which season the next step has.
func (f *Forecaster) position(k int64) {
	f.pool.position(k)
	if f.extra != nil && f.extra.without != nil {
		f.extra.without.position(k)
	}
}

// pass notes missing steps. Beyond a history of them, all that counts is that time has passed.
func (f *Forecaster) pass(n int64) {
	for range min(n, int64(f.capacity)) {
		f.history.push(math.NaN())
	}
	f.missing += n
	f.gap = int(min(int64(f.gap)+n, math.MaxInt32))
	f.last += n
	f.fitted += n
	f.skip(n)
	f.move()
}

func (f *Forecaster) take(y float64, x []float64) {
	y = f.note(y)
	f.fitted++
	if f.extra != nil {
		f.extra.take(f, f.last, y, x)
		return
	}
	f.pool.observe(y)
}

// Forecast is what comes in the next steps after the last value, and how sure that is: of each level, what the value
// stays below with that probability. Before the first value it is nil.
func (f *Forecaster) Forecast(horizon int, levels []float64) []Point {
	return f.AppendForecast(nil, horizon, levels)
}

// AppendForecast is Forecast into a slice that may be reused. It is nil or shorter before the first value.
func (f *Forecaster) AppendForecast(to []Point, horizon int, levels []float64) []Point {
	if !f.begun || horizon <= 0 || f.seen == 0 {
		return to
	}
	n := len(to)
	to = slices.Grow(to, horizon)[:n+horizon]
	points := to[n:]
	quantiles := make([]float64, horizon*(len(levels)+1))
	means, quantiles := quantiles[:horizon], quantiles[horizon:]
	f.means(means)
	f.serving().intervals.spread(means, levels, f.gap, quantiles, !f.o.AllowNegative)
	if f.extra != nil {
		// An error is as large as what it is an error of: quantiles go with the factor too.
		for h := range means {
			factor := f.extra.factorAt(f.last + int64(h) + 1)
			means[h] *= factor
			for i := range levels {
				quantiles[h*len(levels)+i] *= factor
			}
		}
	}
	for h := range points {
		v := means[h]
		if v < 0 && !f.o.AllowNegative {
			v = 0
		}
		points[h] = Point{
			Time:      f.time(f.last + int64(h) + 1),
			Mean:      v,
			Quantiles: quantiles[h*len(levels) : (h+1)*len(levels) : (h+1)*len(levels)],
		}
	}
	return to
}

// means fills out with the means ahead, without the events.
func (f *Forecaster) means(out []float64) {
	f.meansOf(f.serving(), f.last+1, out)
	if f.extra != nil && f.extra.use {
		for h := range out {
			out[h] += f.extra.effectAt(f.last + int64(h) + 1)
		}
	}
}

// meansOf fills out with what the pool says of the steps from its next one, k, on; where the clock on the wall changes
// meanwhile, the seasons go with it.
func (f *Forecaster) meansOf(p *pool, k int64, out []float64) {
	p.means(out)
	if f.o.Location == time.UTC {
		return
	}
	for h := range out {
		z := f.zone(k + int64(h))
		if z == f.offset {
			continue
		}
		// From here on the seasons are those of another hour: forecast all of it from there, and keep the rest of it.
		moved := make([]float64, len(out))
		p.position(k + z)
		p.means(moved)
		p.position(k + f.offset)
		copy(out[h:], moved[h:])
		return
	}
}

// ring is the last values, oldest first from head on when it is full. Seven digits are enough to fit models to.
type ring struct {
	values []float32
	head   int
}

func (r *ring) clear() { r.values, r.head = r.values[:0], 0 }

// push grows the ring up to its capacity, then overwrites the oldest.
func (r *ring) push(v float64) {
	if len(r.values) < cap(r.values) {
		r.values = append(r.values, float32(v))
		return
	}
	r.values[r.head] = float32(v)
	if r.head++; r.head == len(r.values) {
		r.head = 0
	}
}

// drop forgets the newest n.
func (r *ring) drop(n int64) {
	kept := append(slices.Clone(r.values[r.head:]), r.values[:r.head]...)
	kept = kept[:max(int64(len(kept))-n, 0)]
	r.head = 0
	r.values = append(r.values[:0], kept...)
}

// list is a copy, oldest first.
func (r *ring) list() []float64 {
	out := make([]float64, 0, len(r.values))
	for _, part := range [][]float32{r.values[r.head:], r.values[:r.head]} {
		for _, v := range part {
			out = append(out, float64(v))
		}
	}
	return out
}
