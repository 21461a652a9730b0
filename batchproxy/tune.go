package batchproxy

import (
	"math"
	"slices"
	"time"
)

// tuning is what a batcher sets by itself.
type tuning struct {
	effective int       // rows in a batch, at most
	off       bool      // batching does not pay
	fresh     bool      // whether it does was never tried
	ceiling   int       // rows above which replicas have refused batches; 0 where they have not
	raised    time.Time // when the ceiling was last moved
	trying    bool      // whether it does
	trial     trial     // with trying
	contest   contest   // after a trial that does not say enough
	since     int       // requests or batches since the last trial
	every     int       // of these are between trials
	against   int       // trials one after the other by which batching does not pay, while it is on
	changes   []Change
}

// Change is a parameter that a [Batcher] has set anew.
type Change struct {
	Parameter     string // one of Parameters
	Before, After float64
}

const (
	effectiveMaxBatch = "effective_max_batch"
	batching          = "batching"          // 1 on, 0 off
	concurrencyLimit  = "concurrency_limit" // of a replica, which its limiter sets
)

// Parameters are what is set by what was learned.
func Parameters() []string { return []string{effectiveMaxBatch, batching, inflight, concurrencyLimit} }

const (
	// offBelow is the gain of the largest batch below which requests are sent one by one: the work of merging and
	// splitting is not worth less than 10 %.
	offBelow = 1.1
	// atLeast is what a change of a parameter must be predicted to make of a difference.
	atLeast = 0.05
	// enough is the part of the rows a second at the largest size that a smaller one must reach to be taken, where short
	// batches are asked for, by an SLO or the objective: what it loses is lost to clients that fill every batch.
	enough = 0.95
	// Whether batching pays is tried: one by one and together in turns, until there are probeRun batches of each, so that both are of the same
	// minute. While it is off, that is after probeEvery requests. While it is on, it is after probeFirst batches, whatever the fit says, as that
	// can be wrong by as much as the machine is busy; from probeEvery batches on only where the fit says that it gains too little. A trial
	// that changes nothing makes the next twice as rare, or probeClear times where it leaves no doubt that batching pays, down to one in
	// probeLeast: with a deep queue it costs the time of one batch or three (probeSure). Batching ends when probeAgree trials say so.
	probeFirst = 32
	probeAgree = 2
	probeClear = 4
	probeEvery = 2000
	probeLeast = 16000
	probeRun   = 3
	// probeSure is from what gain on a trial that is not the first has enough with one batch of each: of a model that gains nothing a single request would have to take so
	// many times as long as ever, just then.
	probeSure = 8
	// freshSure is from what gain on the first trial of all has enough with one batch of each as well, or three quarters of what so many rows can
	// gain: another follows soon, of batches of all rows.
	freshSure = 3
	// probeDoubt is after how many batches the first trial is where the fit says that batching makes less than doubtful times as many rows
	// a second, or does not say; probeDoubtTime is after how many seconds of them: until it is off, a model that gains nothing is slower
	// than without a proxy.
	probeDoubt     = 8
	probeDoubtTime = 1
	doubtful       = 2
	// trialGentle is for how many batches a trial counts only on requests that are alone by themselves, where the fit leaves no doubt, as to hold
	// back those that wait together costs them time. Where none came, or they leave a doubt, it starts over. Where a replica has several
	// batches at once it does not begin so: they are full, so that hardly any request is alone, and a trial holds the replica to one at a time.
	trialGentle = 4 * probeRun
	// trialMost is how many batches of each replica a trial may have while batching is on: answers may say nothing, as errors do, and a trial
	// costs. Of lanes that ride alone it may have as many one after the other, on or off.
	trialMost = 8 * probeRun
	// probePatient is how many batches of one row, or of several, a trial waits for others while batching is off.
	probePatient = 4 * probeRun
	// maxProbe is the rows of a batch while batching is off and is tried, and of the first batches of all, until it was tried: enough to see
	// a gain (what gains less than 10 % with 4 rows gains less than 14 % with any number, by S(n) = b + a·n), and soon answered, as one
	// that gains nothing takes as many times as long.
	maxProbe = 4
	// raiseEvery is how long the ceiling stands before one more row is tried.
	raiseEvery = time.Minute
	// maxChanges bounds those that nobody has asked for.
	maxChanges = 64
)

func newTuning(rule Rule) tuning {
	t := tuning{effective: max(rule.MaxSize, 1), every: probeFirst, fresh: rule.Mode == ModeAdaptive}
	if rule.Mode == ModeOff {
		t.effective = 1
	}
	return t
}

// probe is the rows of a batch that tries whether batching pays: no fewer than are wanted in any, and as many as one of the allowed sizes has.
func (r *Rule) probe() int {
	n := max(maxProbe, r.MinSize)
	if i, _ := slices.BinarySearch(r.AllowedSizes, n); i < len(r.AllowedSizes) {
		n = r.AllowedSizes[i]
	}
	return n
}

// forget keeps what was told, not what was learned, but for how to begin: as with replicas of which nothing is known where those before
// gained nothing.
func (t *tuning) forget(rule Rule) {
	t.ceiling, t.trying, t.since, t.every, t.against, t.contest = 0, false, 0, probeFirst, 0, contest{}
	if rule.Mode != ModeOff {
		t.set(batching, t.off, 0, 1)
		t.fresh, t.off = t.fresh || t.off, false
	}
}

// set notes a change, if it is one.
func (t *tuning) set(parameter string, changed bool, before, after float64) {
	if changed && len(t.changes) < maxChanges {
		t.changes = append(t.changes, Change{Parameter: parameter, Before: before, After: after})
	}
}

// Changes are those since the last call.
func (b *Batcher[R]) Changes() []Change {
	out := b.changes
	b.changes = nil
	return out
}

// refused halves the ceiling.
func (t *tuning) refused(now time.Time, rows int) {
	if rows < 2 {
		return
	}
	half := max(rows/2, 1)
	if t.ceiling == 0 || half < t.ceiling {
		t.ceiling = half
	}
	t.raised = now
}

// tune sets the parameters by what is known now.
func (b *Batcher[R]) tune(now time.Time) {
	if b.rule.Mode == ModeOff {
		return
	}
	if b.ceiling > 0 && now.Sub(b.raised) >= raiseEvery {
		b.ceiling++
		b.raised = now
		if b.ceiling >= b.rule.MaxSize {
			b.ceiling = 0
		}
	}
	allowed := b.allowed()
	if !b.trying && !b.dubious() {
		b.wasTried()
	}
	if b.rule.Mode == ModeAdaptive && !b.off && b.rule.MaxSize > 1 && b.doubted() {
		b.try(now)
	}
	want := allowed
	switch {
	case b.off:
		want = 1
	case b.rule.Mode == ModeAdaptive && b.service.sloped:
		want = b.wanted(allowed)
		// A size that takes nearly as long as the present one is no better.
		present, better := b.service.at(min(b.effective, allowed)), b.service.at(want)
		if b.effective > 1 && math.Abs(present-better) < atLeast*present {
			want = min(b.effective, allowed)
		}
	}
	if want != b.effective {
		b.set(effectiveMaxBatch, true, float64(b.effective), float64(want))
		b.effective = want
		b.remark()
	}
}

// allowed is how many rows a batch may have at most.
func (b *Batcher[R]) allowed() int {
	if b.ceiling > 0 {
		return min(b.rule.MaxSize, b.ceiling)
	}
	return b.rule.MaxSize
}

// wasTried ends that batches are short.
func (b *Batcher[R]) wasTried() {
	if b.fresh {
		b.fresh = false
		b.remark()
	}
}

// largest is how many rows a batch has at most now, where requests are batched.
func (b *Batcher[R]) largest() int {
	if b.fresh {
		return min(b.rule.probe(), b.effective)
	}
	return b.effective
}

// doubted reports whether it is to be tried that batching pays: it was not often enough, of batches there are, or the fit says that it gains
// too little, or not so much that a replica which is given as many requests as come could not do better.
func (b *Batcher[R]) doubted() bool {
	little := offBelow
	if b.rule.Widens {
		little = doubtful
	}
	return b.every < probeEvery && b.service.meanN > 1 || b.service.sloped && b.service.gain(b.rule.MaxSize) < little
}

// wanted is how many rows a batch should have: all that are allowed or, where short batches are asked for, the fewest with
// which a replica does nearly as many a second; and no more than what half of the SLO leaves time for: the other half is for
// waiting.
func (b *Batcher[R]) wanted(allowed int) int {
	n := float64(allowed)
	short := b.rule.Objective == ObjectiveLatency || b.rule.SLO > 0
	if short && b.rule.Objective != ObjectiveThroughput && b.rule.Objective != ObjectiveCost {
		// The smallest n with n/S(n) >= r.
		if r := enough * n / b.service.of(n); b.service.a*r < 1 {
			n = min(n, math.Ceil(r*b.service.b/(1-b.service.a*r)-1e-9))
		}
	}
	if half := b.rule.SLO.Seconds() / 2; half > 0 && b.service.of(n) > half && b.service.a > 0 {
		n = math.Floor((half - b.service.b) / b.service.a)
	}
	return int(min(max(n, 1), float64(allowed)))
}

// trial is what a row took, at best, by itself and together with others: the least of a few is without the accidents, and
// without what a server does once for a size that is new to it.
type trial struct {
	began        time.Time
	sent         int // batches, whatever became of them
	aside        int // of lanes that ride alone, since the last one of another
	gentle       bool
	ones, many   int // those that were answered in a time that says something
	alone, share float64
	of           int // the rows of the batch that share is of
}

func (t *trial) add(rows int, took float64) {
	each := took / float64(rows)
	if rows == 1 {
		if t.ones++; t.alone == 0 || each < t.alone {
			t.alone = each
		}
		return
	}
	if t.many++; t.share == 0 || each < t.share {
		t.share, t.of = each, rows
	}
}

// rate is how many rows a second batches of n rows make one after the other, by S(n) = b + a·n through what the trial found of two sizes.
func (t *trial) rate(n int) float64 {
	a := (t.share*float64(t.of) - t.alone) / float64(max(t.of-1, 1))
	return float64(n) / (t.alone + max(a, 0)*float64(n-1))
}

// open reports whether a gain leaves open which way is better: it is small, and of what a batch of so many rows could gain no half is there.
func (t *trial) open(gain float64) bool { return gain < min(doubtful, float64(1+t.of)/2) }

// whole reports whether there are enough of each.
func (t *trial) whole() bool { return t.ones >= probeRun && t.many >= probeRun }

// over reports whether enough was tried. Where the fit and a trial before leave no doubt, one of each is that says so as well, and on the
// first trial of all where it says so loudly.
func (b *Batcher[R]) over() bool {
	t := &b.trial
	if t.ones == 0 || t.many == 0 {
		return false
	}
	gain := t.alone / t.share
	return t.whole() || !b.off && b.every > probeFirst && gain >= probeSure && !b.dubious() || b.fresh && gain >= min(freshSure, 0.75*float64(t.of))
}

// trialTime is how long what a trial has is of use; longer where a few batches take longer.
const trialTime = time.Minute

// tried takes a batch into the trial that is under way, and decides by it.
func (b *Batcher[R]) tried(now time.Time, rows int, took float64) {
	if old := now.Sub(b.trial.began); old > trialTime && old.Seconds() > 20*took {
		b.trial = trial{began: now, sent: b.trial.sent, aside: b.trial.aside, gentle: b.trial.gentle}
	}
	if b.trial.add(rows, took); !b.over() {
		if b.off && max(b.trial.ones, b.trial.many) >= probePatient { // nobody to try it with: replicas are no longer held to one at a time
			b.trying, b.since = false, 0
		}
		return
	}
	gain := b.trial.alone / b.trial.share
	switch {
	case b.fresh && !b.trial.whole():
	case b.trial.gentle && gain < doubtful: // of many there is a better best than of a few
		b.trial = trial{began: now}
		return
	case b.rule.Widens && b.trial.open(gain) && (gain >= offBelow && !b.off || gain >= offBelow*(1+atLeast)):
		b.compare(now, rows, b.trial)
	case b.off && gain >= offBelow*(1+atLeast):
		b.off, b.every = false, probeFirst
		b.set(batching, true, 0, 1)
		b.service.reset() // what it has of long ago is not to be compared with what comes
	case !b.off && gain < offBelow:
		if b.against++; b.against < probeAgree {
			b.trial.ones, b.trial.many, b.trial.sent = 0, 0, 0
			return
		}
		b.off, b.every = true, probeEvery
		b.set(batching, true, 1, 0)
	case !b.off && gain >= doubtful:
		b.every = min(probeClear*b.every, probeLeast)
	default:
		b.every = min(2*b.every, probeLeast)
	}
	b.trying, b.since, b.against = false, 0, 0
	b.wasTried()
}

// try begins a trial, where enough has passed since the last one.
func (b *Batcher[R]) try(now time.Time) {
	every := b.every
	switch {
	case b.fresh:
		every = 0
	case !b.off && every == probeFirst && b.dubious():
		every = probeDoubt
		if float64(b.since)*b.service.meanT >= probeDoubtTime {
			every = 0
		}
	}
	if b.depth.trying > 0 && !b.off && !b.dubious() { // one thing at a time: it would begin over
		return
	}
	if !b.trying && !b.contest.running && b.since >= every {
		b.trying, b.trial = true, trial{began: now, gentle: !b.off && !b.dubious() && b.depth.now() == 1}
	}
}

// dubious reports whether the fit leaves room for batching not to pay, or does not say yet.
func (b *Batcher[R]) dubious() bool {
	return !b.service.sloped || b.service.gain(b.rule.MaxSize) < doubtful
}

// untold ends a trial that does not come to an end by itself.
func (b *Batcher[R]) untold() {
	b.trying, b.since, b.every = false, 0, min(2*b.every, probeLeast)
	b.wasTried()
}

// aside takes a batch of a lane that rides alone, which says nothing, to be sent while a trial is under way: where nothing else comes
// replicas are no longer held to one at a time.
func (b *Batcher[R]) aside() {
	if b.trial.aside++; b.trial.aside > trialMost*max(b.slots, 1) {
		b.untold()
	}
}

// tries is the rows of the next batch of a trial, of so many queued and of at most so many as a batch may have else.
func (b *Batcher[R]) tries(queued, most int) int {
	b.trial.aside = 0
	if queued < 2 { // nobody is held back
		return 1
	}
	if b.trial.sent++; !b.off && b.trial.sent > trialMost*max(b.slots, 1) {
		b.untold()
		return most
	}
	if b.trial.gentle && b.trial.sent > trialGentle {
		b.trial = trial{began: b.trial.began}
	}
	// After each batch of several two by one: a server may yet clear up what many rows have left, and slow down the first.
	if 2*b.trial.many > b.trial.ones && !b.trial.gentle {
		return 1
	}
	if b.off {
		most = min(b.rule.probe(), b.allowed())
	}
	return most
}

// passing reports whether pass will be true of what comes next, unless it begins a trial.
func (b *Batcher[R]) passing() bool { return b.unbatched() && !b.contest.running && !b.trying }

// pass reports whether a request that comes, or the next batch, leaves by itself as batching is off, and counts it.
func (b *Batcher[R]) pass(now time.Time) bool {
	if b.contest.running || b.rule.Mode == ModeOff {
		return b.unbatched()
	}
	if !b.off {
		return false
	}
	b.try(now)
	b.since++
	return !b.trying
}
