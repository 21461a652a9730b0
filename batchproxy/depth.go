package batchproxy

import "time"

// depth learns how many batches a replica should have at once. One is right for a device that takes them one after the other: a
// second only waits there, and requests that come in the meantime cannot join it. A server with several instances of the model, or
// workers, does several at once; and where the way to it is long, a second one fills the gap. Neither can be asked for, so it is tried:
// while the queue holds full batches, one more at once for some batches, and kept where that makes at least 5 % more rows a second.
// Where more than one is kept, one less is tried as well, seldom, and is kept where it makes as many, to within 2 %.
//
// A replica has more than one only while the queue holds another full batch: where it does not, nothing is lost by waiting for those
// who would join. The zero value learns nothing: it is one batch at once.
type depth struct {
	on     bool
	kept   int     // batches at once
	trying int     // what is tried instead; 0 where nothing is
	gain   float64 // rows a second as part of those with one batch at once
	shared bool    // a batch was that was one of several
	other  float64 // with shared: by how much of its time alone each of the others makes a batch longer, a mean: 1 where they take turns

	warm    int       // answers that are still of what was before
	began   time.Time // the stretch that is measured
	rows    int       // answered in it
	batches int
	thin    bool    // the queue was short in it
	rate    float64 // rows a second of kept, in the stretch before the trial

	since, due int // batches since the last trial, and after how many the next is
	down       bool
	failed     int     // trials one after the other that changed nothing
	gained     float64 // sum of what trials of one more, one after the other, have gained, as part of the rows a second
	gains      int     // how many these are
}

const (
	inflight = "inflight" // the parameter
	// mostDepth is as many instances as servers have on one device.
	mostDepth = 8
	// stretch is how many batches one after the other are measured: some 2 % of error where the times of batches differ by 10 %, and 3 %
	// where several are answered together.
	stretch = 32
	// depthSeldom is how many batches come between trials, twice as many after each that changed nothing, up to depthSeldomMost. After a change,
	// and after the first that made none, it is depthSoon: a gain of 10 % is missed by one trial in ten or so.
	depthSeldom     = 1000
	depthSeldomMost = 16000
	// worthAnother is the gain of one more from which on another trial follows soon, where it is not enough: the next may show that it is. What
	// counts is their mean, of mostTrials at most.
	worthAnother = 0.02
	mostTrials   = 4
	// asMany is what one less at once may lose and be kept. It is less than what one more has to gain: a number that pays by a little more than that
	// would else be given up by every other measurement.
	asMany = 0.02
	// depthPatience is how many times as long as before a trial may take until it is given up: there was less to do. The next is after depthSoon.
	depthPatience = 3
	depthSoon     = 4 * stretch
)

func newDepth(on bool) depth { return depth{on: on, kept: 1, gain: 1} }

// now is how many batches a replica may have at once.
func (d *depth) now() int {
	if d.trying > 0 {
		return d.trying
	}
	return max(d.kept, 1)
}

// otherWeight is the weight of a measurement in depth.other.
const otherWeight = 0.1

// crowd takes how many times as long as by itself a batch took whose replica had so many others.
func (d *depth) crowd(others int, times float64) {
	each := (min(max(times, 1), 2*mostDepth) - 1) / float64(max(others, 1))
	switch {
	case !d.on:
	case !d.shared:
		d.shared, d.other = true, each
	default:
		d.other += otherWeight * (each - d.other)
	}
}

// crowded is how many times as long as by itself a batch takes whose replica has so many others: as measured, or before that as with a
// device that takes them one after the other.
func (d *depth) crowded(others int) float64 {
	if !d.shared {
		return float64(others + 1)
	}
	return 1 + d.other*float64(others)
}

// answered takes a batch of so many rows, of one of so many replicas. Full says that the queue holds a full batch meanwhile. It reports
// whether another number was kept.
func (d *depth) answered(now time.Time, rows, replicas int, full bool) (changed bool) {
	if !d.on {
		return false
	}
	d.since++
	enough := stretch * min(max(replicas, 1)*d.now(), 32)
	switch {
	case d.trying == 0 && d.kept == 1 && !full: // nothing to try
		d.restart(now, 0)
		return false
	case d.warm > 0:
		if d.warm--; d.warm == 0 {
			d.restart(now, 0)
		}
		return false
	case d.began.IsZero():
		d.restart(now, 0)
		return false
	}
	d.rows += rows
	d.batches++
	d.thin = d.thin || !full
	took := now.Sub(d.began).Seconds()
	if d.trying > 0 && d.rate > 0 && took > depthPatience*float64(d.rows+enough*d.rows/d.batches)/d.rate { // says nothing
		failed, since := d.failed, d.since
		d.over(now, false)
		d.failed, d.since, d.due = failed, since, since+depthSoon // that one less is due some time is not forgotten
		return false
	}
	if d.batches < enough || took <= 0 {
		return false
	}
	rate := float64(d.rows) / took
	if d.trying == 0 {
		d.rate = rate
		if d.since >= d.due {
			d.try(now, enough)
			return false
		}
		d.restart(now, 0)
		return false
	}
	gain := rate/d.rate - 1
	better, again := gain >= -asMany, false
	more := d.trying > d.kept
	if more { // it has to earn its place
		d.gained += gain
		d.gains++
		gain = d.gained / float64(d.gains)
		better = gain >= atLeast
		again = !better && gain >= worthAnother && d.gains < mostTrials
	}
	if better {
		d.gain = max(d.gain*(1+gain), 1)
		if d.kept = d.trying; d.kept == 1 {
			d.gain = 1
		}
	}
	if again {
		d.trying, d.since, d.due = 0, 0, depthSoon
		d.restart(now, d.kept+1)
		return false
	}
	d.over(now, better)
	if better && more {
		d.due = 0 // perhaps yet another
	}
	return better
}

// try begins a trial, of one more or of one less, where the queue was never short: else both make as many, and where it is short a replica
// has no more than one.
func (d *depth) try(now time.Time, enough int) {
	up := !d.thin && d.kept < mostDepth
	switch down := !d.thin && d.kept > 1 && d.since >= depthSeldom; {
	case up && (!down || !d.down):
		d.trying, d.down = d.kept+1, true
	case down:
		d.trying, d.down = d.kept-1, false
	default:
		d.restart(now, 0)
		return
	}
	d.restart(now, enough/4+d.trying)
}

// over ends a trial.
func (d *depth) over(now time.Time, changed bool) {
	d.trying, d.since, d.gained, d.gains = 0, 0, 0, 0
	switch {
	case changed:
		d.failed, d.due, d.down = 0, depthSoon, false
	case d.failed == 0:
		d.failed, d.due = 1, depthSoon
	default:
		d.due = min(depthSeldom<<min(d.failed-1, 10), depthSeldomMost)
		d.failed++
	}
	d.restart(now, d.kept+1)
}

// keep has so many at once from now on, with which so many times as many rows a second are done as with one, and reports whether that is
// another number.
func (d *depth) keep(now time.Time, n int, gain float64) (changed bool) {
	if !d.on {
		return false
	}
	changed = n != d.kept
	d.kept, d.gain = n, min(max(gain, 1), float64(n))
	d.over(now, true)
	return changed
}

// restart begins a stretch, after so many answers.
func (d *depth) restart(now time.Time, warm int) {
	d.began, d.rows, d.batches, d.warm, d.thin = now, 0, 0, warm, false
}

// pause drops the stretch that is under way: another begins, after a few answers, with the next one that is taken.
func (d *depth) pause() { d.restart(time.Time{}, d.now()+1) }

// Depth is how many batches a replica may have at once now, where the rule says LearnDepth: one, or more than that while a full batch
// waits, if it was learned that this pays.
func (b *Batcher[R]) Depth() int {
	switch {
	case len(b.full) == 0 || b.trying: // what is tried is one batch at a time
		return 1
	case b.off && b.contest.depth > 0: // what was learned before is of other batches
		return b.contest.depth
	}
	return b.depth.now()
}

// deepen takes note of a batch that was answered.
func (b *Batcher[R]) deepen(now time.Time, rows int) {
	before := b.depth.kept
	if b.depth.answered(now, rows, b.slots, len(b.full) > 0) {
		b.set(inflight, true, float64(before), float64(b.depth.kept))
	}
}
