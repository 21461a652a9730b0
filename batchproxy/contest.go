package batchproxy

import (
	"math"
	"time"
)

// contest finds out whether batching pays where a trial (tune.go) leaves that open. A trial compares a row by itself with its share of a
// batch, one at a time. A server with several instances, or whose work on a request is not all the device's, does several requests at once
// in less time than one after the other, and is then faster without batches though a row by itself takes longer than its share. So
// the two ways take turns for some requests each, and the one stays whose requests were answered sooner after they came. Where a fixed number of clients
// wait for their answers that is the one with more requests a second as well (Little, "A proof for the queuing formula: L = λW",
// Operations Research 9, 1961).
type contest struct {
	running bool
	singly  bool          // requests leave by themselves, whatever the way in force: what they show may be enough
	alone   float64       // seconds that a row takes by itself
	share   float64       // the same in batches one after the other
	full    float64       // rows a second in full batches one after the other, by these two
	rate    float64       // rows a second of a replica that came by themselves; 0 where that was not seen
	depth   int           // batches at once in the other way, where that is the one with batches
	queued  int           // rows, as it began
	other   bool          // the way that is not the one in force has its turn
	turn    int           // of contestTurns
	began   time.Time     // the turn
	left    int           // rows that came before the turn and were answered in it, or as it began
	seen    int           // rows that were answered in it
	came    int           // of these, those that came in it
	waited  time.Duration // from arrival to answer, of all that were answered together
	told    int           // with singly: requests that the answer which comes next is to; several where it is to a batch
	rows    [2]int        // of those that came in the turns, without the first ones; of the way in force and of the other
	lasted  [2]time.Duration
}

const (
	contestTurns = 4
	// contestClear is how many times as long as in the other way requests must take in one for a turn of each to be enough. So is what requests
	// show by themselves where batches do so many times as many in a second, though more wait; or where they do offBelow times as many as full
	// batches would by what the trial before found.
	contestClear = 1.5
	// contestWarm rows of a turn do not count, nor do as many as the turn before has left: they waited for those.
	contestWarm = 8
	// contestRows rows of a turn do, or as many as were left: each client's once.
	contestRows = 24
	// contestMost is how many rows may be left for each replica while batching is on: one with more to do is not to have less for it.
	contestMost = 256
	// contestWorse is how many times as long as in the way in force requests may take in the other: its turn ends then, and with it the
	// contest. Where it cannot do what comes they take longer and longer.
	contestWorse = 3
	// contestTime is how long a turn may take. Where too few come, nothing is to be gained either.
	contestTime = 5 * time.Minute
)

// unbatched reports whether each request leaves by itself now; where the rule Widens, replicas have as many at once as come then.
func (b *Batcher[R]) unbatched() bool {
	return b.rule.Mode == ModeOff || b.contest.singly || b.off != b.contest.other
}

// compare begins a contest, with the answer to so many rows, after a trial.
func (b *Batcher[R]) compare(now time.Time, rows int, t trial) {
	singly := b.off || b.items <= contestMost*max(b.slots, 1)
	b.contest = contest{running: true, singly: singly, alone: t.alone, share: t.share, full: t.rate(b.allowed()), queued: b.items, began: now, left: rows}
	b.remark()
}

// Lasted tells of a request of so many rows, come at a time, that a replica has answered. It is to be told before [Batcher.Answered] is.
func (b *Batcher[R]) Lasted(now, came time.Time, rows int) {
	c := &b.contest
	if !c.running {
		return
	}
	took := time.Duration(rows) * now.Sub(came)
	c.told++
	c.seen += rows
	c.waited += took
	if came.Before(c.began) {
		c.left += rows
		return
	}
	if c.came += rows; c.came <= max(contestWarm, c.left) {
		return
	}
	way := c.turn % 2
	c.rows[way] += rows
	c.lasted[way] += took
}

// contested ends a turn where it has enough with the answer to so many rows, and decides after the last one.
func (b *Batcher[R]) contested(now time.Time, rows int) {
	c := &b.contest
	switch {
	case !c.running:
		return
	case c.singly && c.told > 1: // a batch that another replica had yet: what requests show by themselves begins after it
		c.began, c.seen, c.told = now, 0, 0
		return
	case c.singly:
		c.told = 0
		b.showed(now, rows)
		return
	case now.Sub(c.began) > contestTime || !b.off && !c.other && c.left > contestMost*max(b.slots, 1) || c.worse():
		b.settled(now, false)
	case c.came < max(contestWarm, c.left)+max(contestRows, c.left):
		return
	case c.turn == 1 && max(c.mean(0), c.mean(1)) > contestClear*min(c.mean(0), c.mean(1)):
		b.settled(now, c.mean(1) < c.mean(0))
	case c.turn+1 < contestTurns:
		c.turn, c.other, c.began = c.turn+1, !c.other, now
		c.left, c.seen, c.came, c.waited = rows, 0, 0, 0
	default:
		b.settled(now, c.mean(1) < c.mean(0)*(1-atLeast))
	}
	b.remark()
}

// showed ends the time in which requests leave by themselves, with the answer to so many rows: by what they show batching ends, or the ways
// begin to take turns. Enough rows count for those that waited to be among them. While batching is off, as many batches at once as
// requests were served at once are compared with them (Little again): what has instances for the one has them for the other.
func (b *Batcher[R]) showed(now time.Time, rows int) {
	c := &b.contest
	enough := max(contestWarm+contestRows, c.queued)
	took := now.Sub(c.began).Seconds() * float64(max(b.slots, 1))
	together, full := 1/c.share, c.full // rows a second of a replica in batches of the trial and in full ones
	if !b.off {
		together, full = together*b.depth.gain, full*b.depth.gain
	}
	clearly := took*offBelow*full <= float64(enough)
	switch {
	case clearly && c.seen < enough:
		return
	case clearly && !b.off:
		b.settled(now, true)
	case !b.off && c.seen >= contestRows && c.seen < c.queued && took*together > contestClear*float64(c.seen): // though more wait yet
		b.settled(now, false)
	default:
		rate := float64(c.seen) / took
		depth := int(min(max(math.Round(rate*c.alone), 1), mostDepth))
		if b.off && float64(depth)*c.full < rate*(1+atLeast) { // batches cannot be better
			b.settled(now, false)
			break
		}
		*c = contest{running: true, share: c.share, rate: rate, depth: depth, began: now, left: rows}
	}
	b.remark()
}

// mean is how many seconds a row took in one of the ways.
func (c *contest) mean(way int) float64 { return c.lasted[way].Seconds() / float64(c.rows[way]) }

// worse reports whether the other way has its turn and is so much worse that it need not be seen how much.
func (c *contest) worse() bool {
	return c.other && c.seen >= contestWarm && c.waited.Seconds() > contestWorse*c.mean(0)*float64(c.seen)
}

// settled ends a contest, by which the other way may be better.
func (b *Batcher[R]) settled(now time.Time, other bool) {
	c := b.contest
	b.contest = contest{}
	b.since, b.every = 0, min(2*b.every, probeLeast)
	if !other {
		return
	}
	before, every := 1.0, probeEvery
	if b.off {
		before, every = 0, probeFirst
		b.service.reset() // what it has of long ago is not to be compared with what comes
		kept := b.depth.kept
		b.set(inflight, b.depth.keep(now, c.depth, c.rate*c.share*c.mean(0)/c.mean(1)), float64(kept), float64(c.depth))
	}
	b.off, b.every = !b.off, every
	b.set(batching, true, before, 1-before)
}

// remark looks at all lanes again, for which another number of rows is a full batch.
func (b *Batcher[R]) remark() {
	for _, l := range b.active.members {
		l.held = false
		b.mark(l)
	}
}
