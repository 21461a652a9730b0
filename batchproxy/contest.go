package batchproxy

import "time"

// contest finds out whether batching pays where a trial (tune.go) leaves that open. A trial compares a row by itself with its share of a
// batch, one at a time. A server with several instances, or whose work on a request is not all the device's, does several requests at once
// in less time than one after the other, and is then faster without batches though a row by itself takes longer than its share. So
// the two ways take turns for some requests each, and the one stays whose requests were answered sooner after they came. Where a fixed number of clients
// wait for their answers that is the one with more requests a second as well (Little, "A proof for the queuing formula: L = λW",
// Operations Research 9, 1961).
type contest struct {
	running bool
	other   bool      // the way that is not the one in force has its turn
	turn    int       // of contestTurns
	began   time.Time // the turn
	came    int       // rows that came in the turn and were answered in it
	rows    [2]int    // of these, without the first ones; of the way in force and of the other
	lasted  [2]time.Duration
}

const (
	contestTurns = 4
	// contestWarm rows of a turn do not count: they found what the turn before has left.
	contestWarm = 8
	// contestRows rows of a turn do.
	contestRows = 24
	// contestTime is how long a turn may take. Where too few come, nothing is to be gained either.
	contestTime = 5 * time.Minute
)

// unbatched reports whether each request leaves by itself now, and replicas have as many at once as come.
func (b *Batcher[R]) unbatched() bool { return b.rule.Mode == ModeOff || b.off != b.contest.other }

// compare begins a contest.
func (b *Batcher[R]) compare(now time.Time) {
	b.contest = contest{running: true, began: now}
}

// Lasted tells of a request of so many rows, come at a time, that a replica has answered. It is to be told before [Batcher.Answered] is.
func (b *Batcher[R]) Lasted(now, came time.Time, rows int) {
	c := &b.contest
	if !c.running || came.Before(c.began) {
		return
	}
	if c.came += rows; c.came <= contestWarm {
		return
	}
	way := c.turn % 2
	c.rows[way] += rows
	c.lasted[way] += time.Duration(rows) * now.Sub(came)
}

// contested ends a turn where it has enough, and decides after the last one.
func (b *Batcher[R]) contested(now time.Time) {
	c := &b.contest
	switch {
	case !c.running:
		return
	case now.Sub(c.began) > contestTime:
		b.settled(false)
	case c.came < contestWarm+contestRows:
		return
	case c.turn+1 < contestTurns:
		c.turn, c.other, c.came, c.began = c.turn+1, !c.other, 0, now
	default:
		own, other := c.lasted[0].Seconds()/float64(c.rows[0]), c.lasted[1].Seconds()/float64(c.rows[1])
		b.settled(other < own*(1-atLeast))
	}
	b.remark()
}

// settled ends a contest, by which the other way may be better.
func (b *Batcher[R]) settled(other bool) {
	b.contest = contest{}
	b.since, b.every = 0, min(2*b.every, probeLeast)
	if !other {
		return
	}
	before := 1.0
	if b.off {
		before = 0
		b.service.reset() // what it has of long ago is not to be compared with what comes
	}
	b.off, b.every = !b.off, probeEvery
	b.set(batching, true, before, 1-before)
}

// remark looks at all lanes again, for which another number of rows is a full batch.
func (b *Batcher[R]) remark() {
	for _, l := range b.active.members {
		l.held = false
		b.mark(l)
	}
}
