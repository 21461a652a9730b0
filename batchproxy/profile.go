package batchproxy

import (
	"math"
	"time"
)

// edges are the ends of the intervals in which a profile counts, as parts of S(1): fine where answered clients come back,
// from a 64th to twice the time that a replica takes for one row.
var edges = [...]float64{1. / 64, 1. / 32, 1. / 16, 3. / 32, 1. / 8, 5. / 32, 3. / 16, 1. / 4, 5. / 16, 3. / 8, 1. / 2, 5. / 8, 3. / 4, 1, 1.5, 2}

// parts are the shares of the rows answered at which a profile notes when they had come back.
var parts = [...]float64{0, 1. / 8, 1. / 4, 3. / 8, 1. / 2, 5. / 8, 3. / 4, 7. / 8, 15. / 16, 1}

// profile is what a lane has learned of when requests come after a batch was answered: of closed-loop clients, which send
// the next request when they have the answer, they come in a burst. A cycle is from one answered batch to the next. The
// profile learns from every cycle, whatever was decided in it.
type profile struct {
	answered time.Time // when the last batch was: phase 0. Zero before the first
	rows     int       // answered then
	seen     int       // rows that came since
	before   float64   // rows of earlier cycles that have not come back, and may be of clients that have gone
	last     float64   // the phase at which the last one came
	unit     float64   // S(1) of the cycle, what edges are parts of; 0 where it was not known

	came  [len(edges)]float64 // in this cycle, by the first edge that is not before it
	cum   [len(edges)]float64 // mean of the rows that came by each edge
	known [len(edges)]int     // cycles in it

	back       [len(parts)]float64 // phase at which each part of the rows was back, of this cycle; -1 before
	mean       [len(parts)]float64 // mean of these, in seconds
	returns    int                 // cycles in it
	off, total float64             // means of |seen - rows| and of rows over the cycles
}

const (
	// smoothing is the weight of the newest cycle in a profile.
	smoothing = 0.1
	// fading is the part of the rows that did not come back in a cycle which are still expected in the next.
	fading = 0.9
	// cycles is how many make a profile that clients are judged by.
	cycles = 8
	// closedLoop is by what part the rows that come in a cycle may differ from those answered before it, where the clients
	// are taken to wait for their answers. Independent arrivals differ by the root of their number: 15 % at 90 a cycle.
	closedLoop = 0.15
)

// phase is the time since the last batch was answered, in seconds; infinite before the first.
func (p *profile) phase(now time.Time) float64 {
	if p.answered.IsZero() {
		return math.Inf(1)
	}
	return max(now.Sub(p.answered).Seconds(), 0)
}

// arrive counts rows that came.
func (p *profile) arrive(now time.Time, rows int) {
	if p.answered.IsZero() {
		return
	}
	phase := p.phase(now)
	if p.unit > 0 {
		for j, e := range edges {
			if phase <= e*p.unit {
				p.came[j] += float64(rows)
				break
			}
		}
	}
	p.seen += rows
	p.last = phase
	for j := len(parts) - 1; j >= 0 && p.back[j] < 0; j-- {
		if float64(p.seen) >= parts[j]*float64(p.rows) {
			p.back[j] = phase
		}
	}
}

// next ends the cycle and begins that of a batch of so many rows, of which one alone takes unit seconds.
func (p *profile) next(now time.Time, rows int, unit float64) {
	if !p.answered.IsZero() {
		p.learn(p.phase(now))
		p.before = fading * p.owed()
	}
	p.answered, p.rows, p.seen, p.last, p.unit = now, rows, 0, 0, unit
	p.came = [len(edges)]float64{}
	for j := range p.back {
		p.back[j] = -1
	}
}

// learn takes a cycle that lasted so many seconds into the means. What would have come after its end is not known.
func (p *profile) learn(gap float64) {
	sum := 0.0
	for j, e := range edges {
		sum += p.came[j]
		if p.unit <= 0 || e*p.unit > gap {
			break
		}
		p.known[j]++
		p.cum[j] += (sum - p.cum[j]) * max(smoothing, 1/float64(p.known[j]))
	}
	p.returns++
	weight := max(smoothing, 1/float64(p.returns))
	for j, at := range p.back {
		if at < 0 {
			at = gap
		}
		// A pause of one of the machines moves it by little.
		step := at - p.mean[j]
		if p.returns > cycles && p.unit > 0 {
			step = min(max(step, -p.unit/2), p.unit/2)
		}
		p.mean[j] += step * weight
	}
	p.off += (math.Abs(float64(p.seen-p.rows)) - p.off) * weight
	p.total += (float64(p.rows) - p.total) * weight
}

// owed is how many rows may still come of clients that were answered.
func (p *profile) owed() float64 { return max(float64(p.rows-p.seen)+p.before, 0) }

// closed reports whether the lane's clients look as if each waited for its answer: as many rows come in a cycle as were
// answered before it.
func (p *profile) closed() bool { return p.returns >= cycles && p.off < closedLoop*p.total }

// by is the mean number of rows that have come at a phase.
func (p *profile) by(phase float64) float64 {
	before, rows := 0.0, 0.0
	for j, e := range edges {
		e *= p.unit
		if phase <= e {
			return rows + (p.cum[j]-rows)*(phase-before)/(e-before)
		}
		before, rows = e, p.cum[j]
	}
	return rows
}

// backBy is the mean phase at which a part of the rows is back, in seconds.
func (p *profile) backBy(part float64) float64 {
	for j := 1; j < len(parts); j++ {
		if part <= parts[j] {
			return p.mean[j-1] + (p.mean[j]-p.mean[j-1])*(part-parts[j-1])/(parts[j]-parts[j-1])
		}
	}
	return p.mean[len(parts)-1]
}
