package batchproxy

import (
	"math"
	"time"
)

// Mode is when batches leave.
type Mode string

const (
	// ModeAdaptive waits for others where what was learned of the replicas and of the clients says that it pays.
	ModeAdaptive Mode = "adaptive"
	// ModeTimeout waits until the oldest request has waited for MaxWait, or the batch is full.
	ModeTimeout Mode = "timeout"
	// ModeGreedy never waits: what is there leaves when a replica is free.
	ModeGreedy Mode = "greedy"
	// ModeOff does not batch.
	ModeOff Mode = "off"
)

// timed reports whether only time and size make a lane ready.
func (m Mode) timed() bool { return m != ModeAdaptive && m != ModeGreedy }

// Objective is what waiting is judged by.
type Objective string

const (
	// ObjectiveBalanced makes the mean time to the answer short.
	ObjectiveBalanced Objective = "balanced"
	// ObjectiveLatency waits where that makes up for itself one and a half times.
	ObjectiveLatency Objective = "latency"
	// ObjectiveThroughput waits for less than it costs, as fewer batches leave more room.
	ObjectiveThroughput Objective = "throughput"
	// ObjectiveCost waits for as long as requests can, so that replicas have the fewest batches.
	ObjectiveCost Objective = "cost"
)

// weight is what the fixed cost that a merged batch saves counts for.
func (o Objective) weight() float64 {
	switch o {
	case ObjectiveLatency:
		return 0.7
	case ObjectiveThroughput:
		return 1.5
	}
	return 1
}

// Candidate is a wait that was weighed against leaving at once.
type Candidate struct {
	Wait float64 `json:"wait_seconds"` // from the decision
	Rows float64 `json:"rows"`         // that are expected to come by then
	Gain float64 `json:"gain_seconds"` // the time that all requests together gain
}

// threshold is the part of the fixed cost b that waiting must gain, so that small errors of the profile do not make
// requests wait for nothing.
const threshold = 0.25

// distinct is how many times as many rows a second gathering clients must make as serving them in turns: the profile of one
// way is not that of the other, and going back and forth between the two is worse than either.
const distinct = 1.05

// lateShare is the part of the time to its deadline within which a request is to be answered.
const lateShare = 0.9

// unit is S(1) in seconds, 0 where it is not known.
func (b *Batcher[R]) unit() float64 {
	if !b.service.known {
		return 0
	}
	return b.service.at(1)
}

// adapt decides for a lane that has neither a full batch nor one that is due: waits, with l.hold set, or leaves.
func (b *Batcher[R]) adapt(now time.Time, l *lane[R], due time.Time) (reason, bool) {
	if l.held && now.Before(l.hold) {
		return "", false
	}
	was, overdue := l.why, l.held // nobody came while it was held
	d := Decision{Time: now, Queued: l.items, Phase: l.profile.phase(now)}
	first := l.pending.Time.Equal(now) && l.pending.Queued == l.items
	// Left to wait before the oldest request must leave.
	room := due.Sub(now).Seconds()
	slack := b.slack(now, l)
	late := slack <= room
	room = min(room, slack)
	why := phase
	switch {
	case room <= 0:
	case b.rule.Objective == ObjectiveCost:
		d.Wait, why = room, maxWait
		if late {
			why = deadline
		}
	case b.service.known && l.profile.closed() && overdue && was == phase: // it was waited for what they are worth
	case b.service.known && l.profile.closed():
		b.comeBack(&d, l, room)
	case b.service.known:
		b.lookAhead(&d, l, room)
	}
	if first {
		l.pending = d
	}
	if d.Wait > 0 {
		l.held, l.hold, l.why = true, now.Add(max(seconds(d.Wait), 1)), why
		return "", false
	}
	switch {
	case room <= 0:
		return deadline, true
	case was == "":
		return greedy, true
	}
	return was, true
}

// slack is how long a lane can wait so that those of its requests which must be answered first are answered in time.
func (b *Batcher[R]) slack(now time.Time, l *lane[R]) float64 {
	of := func(e *Entry[R]) float64 {
		return lateShare*b.latest(e).Sub(e.Arrived).Seconds() - now.Sub(e.Arrived).Seconds() - b.service.at(l.items)
	}
	slack := of(l.first)
	if l.next != l.first {
		slack = min(slack, of(l.next))
	}
	if e := b.ends.first(); e != nil && e.lane == l {
		slack = min(slack, of(e))
	}
	return slack
}

// lookAhead is the phase rule. With n rows queued, it weighs for each edge of the profile the m rows that are expected
// by then, a wait of δ. Leaving at once, the n are answered after S(n), and the m, which come meanwhile, after S(n) + T(m),
// where T is what the rule will make of them; waiting, all are answered after δ + S(n+m):
//
//	gain = n·S(n) + m·(S(n)+T(m)) - (n+m)·(δ+S(n+m))
func (b *Batcher[R]) lookAhead(d *Decision, l *lane[R], room float64) {
	p := &l.profile
	if p.unit <= 0 || d.Phase >= edges[len(edges)-1]*p.unit {
		return
	}
	n, most := float64(l.items), float64(b.most(l))
	came := p.by(d.Phase)
	alone := b.service.of(n)
	best := threshold * b.service.b
	turns := b.inTurns(n + max(float64(p.rows-p.seen), 0))
	for j, edge := range edges {
		wait := edge*p.unit - d.Phase
		if wait <= 0 || p.known[j] == 0 {
			continue
		}
		m := min(p.cum[j]-came, p.cum[j]-float64(p.seen), most-n)
		if m <= 0 {
			continue
		}
		together := b.service.of(n + m)
		if wait > room-(together-alone) {
			break
		}
		if (n+m)/(d.Phase+wait+together) < turns {
			continue
		}
		gain := n*alone + m*(alone+b.behind(p, m, most)) - (n+m)*(wait+together)
		gain += (b.rule.Objective.weight() - 1) * m * b.service.b
		d.consider(wait, m, gain)
		if gain > best {
			best, d.Wait, d.Rows, d.Gain = gain, wait, m, gain
		}
	}
}

// behind is T(m): the time that m rows which a batch has left behind take from when it is answered. They are held for
// the clients that it answers, if that pays.
func (b *Batcher[R]) behind(p *profile, m, most float64) float64 {
	best, takes := 0.0, b.service.of(m)
	for j, edge := range edges {
		if p.known[j] == 0 {
			break
		}
		wait := edge * p.unit
		r := min(p.cum[j], most-m)
		if r <= 0 {
			continue
		}
		if gain := r*b.service.b - (m+r)*wait - m*r*b.service.a; gain > best {
			best, takes = gain, wait+b.service.of(m+r)
		}
	}
	return takes
}

// comeBack decides for a lane whose clients wait for their answers. How many are still to come is known then, to the
// row: those that were answered and are not back. So the place in the cycle is told by how many are back, not by the
// clock, and what counts is the rows that the cycle gets done a second:
//
//	(n+k) / (φ + δ + S(n+k))
//
// where φ is the time since the last answer and δ what the next k rows need to come back, from the means over the cycles.
// It waits for the k with the most, and for no longer than they are worth: until the rate would be that of leaving now.
func (b *Batcher[R]) comeBack(d *Decision, l *lane[R], room float64) {
	p := &l.profile
	owed := p.rows - p.seen
	most := min(owed, b.most(l)-l.items)
	if most <= 0 {
		return
	}
	n := float64(l.items)
	spent := d.Phase + b.service.of(n)
	if math.IsInf(spent, 0) {
		return
	}
	best := max(n/spent, b.inTurns(n+p.owed()))
	here := 0.0 // where the cycle is by the rows that are back
	if p.seen > 0 {
		here = p.backBy(float64(p.seen) / float64(p.rows))
	}
	idle := d.Phase - p.last // since the last one came back
	for _, part := range parts[1:] {
		k := min(math.Ceil(part*float64(p.rows))-float64(p.seen), float64(most))
		if k < 1 || len(d.Candidates[:d.considered]) > 0 && d.Candidates[d.considered-1].Rows >= k {
			continue
		}
		wait := max(p.backBy((float64(p.seen)+k)/float64(p.rows))-here-idle, 0)
		total := d.Phase + wait + b.service.of(n+k)
		worth := (n+k)/n*spent - d.Phase - b.service.of(n+k) // the wait at which it comes out even
		d.consider(wait, k, (n+k)*(worth-wait))
		if rate := (n + k) / total; rate > best && worth > 0 {
			best, d.Wait, d.Rows, d.Gain = rate, min(worth, room), k, (n+k)*(worth-wait)
		}
		if int(k) == most {
			break
		}
	}
}

// inTurns is how many rows a second a replica gets done of so many clients if it never waits: they form two groups, however
// large each, that come back while the other is served, and a round has two batches. (Clients that take longer than that
// make it less.) Where gathering them makes less than this it is not worth it, however it looks for the batch at hand.
func (b *Batcher[R]) inTurns(clients float64) float64 {
	if round := b.service.b + b.service.of(clients); round > 0 {
		return distinct * clients / round
	}
	return math.Inf(1)
}

// seconds is a duration of so many seconds.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, longest) * float64(time.Second))
}
