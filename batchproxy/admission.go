package batchproxy

import (
	"time"
)

// Refusal is why a request is not taken, or not kept; empty where it is. It is a reason of flyball_batchproxy_shed_total.
type Refusal string

const (
	// QueueFull is where as many requests wait as may.
	QueueFull Refusal = "queue_full"
	// TenantLimit is where as many of the tenant's requests wait as may.
	TenantLimit Refusal = "tenant_limit"
	// PredictedLate is a request that would be answered after its deadline or the SLO, by what is known.
	PredictedLate Refusal = "predicted_late"
	// PastDeadline is one that no replica can answer any more before its client's deadline.
	PastDeadline Refusal = "deadline"
	// TimedOut is one that has waited for as long as the timeout.
	TimedOut Refusal = "timeout"
)

// lateFactor is what the time that a request waits and that its batch takes is multiplied with where it is asked whether it will be
// late: one that is admitted and late costs a place in a batch, one that is refused costs a client's next attempt. In overload the
// queue is as long as is just in time for the last, so that each has little to spare.
const lateFactor = 1.1

// Replicas tells how many batches the replicas that are ready take at once, and how many of these they have; where LearnDepth finds out how
// many that are, or they have as many as come, how many replicas are ready, and how many of them have no room for a batch now. Batches are
// all that they have. Where none is told or ready, no request is refused because it would be late: when one will be ready is not known.
func (b *Batcher[R]) Replicas(slots, busy, batches int) {
	b.slots, b.busy, b.batches = slots, busy, batches
}

// others is how many batches the replica that gets the next one has already, where that is one of several that a replica was found to do
// well with.
func (b *Batcher[R]) others() int {
	if !b.rule.LearnDepth || b.slots <= 0 {
		return 0
	}
	return b.batches / b.slots
}

// takes is how long a batch of so many rows is with its replica, in seconds: longer where that has others when it is sent, which are
// one less than it may have at once where it has those already.
func (b *Batcher[R]) takes(rows int) float64 {
	return b.service.at(rows) * b.depth.crowded(min(b.others(), b.Depth()-1))
}

// admit says whether a request is to be taken, or why not.
func (b *Batcher[R]) admit(now time.Time, l *lane[R], e *Entry[R]) Refusal {
	switch {
	case b.queued >= b.rule.MaxQueue:
		return QueueFull
	case b.rule.TenantLimit > 0 && float64(e.tenant.requests) >= max(b.rule.TenantLimit*float64(b.rule.MaxQueue), 1):
		return TenantLimit
	case !e.Deadline.IsZero() && !now.Before(e.Deadline):
		return PastDeadline
	}
	e.sure = b.queued == 0 && b.busy < b.slots // nobody loses by the attempt, and it shows how long a batch takes now
	if e.sure {
		return ""
	}
	return b.late(now, e, b.waitFor(now, l, e), min(b.ahead(e)+e.Items, b.most(l)))
}

// late says whether a request that leaves so long from now, in a batch of so many rows, will be answered too late.
func (b *Batcher[R]) late(now time.Time, e *Entry[R], wait float64, rows int) Refusal {
	if !b.service.known || b.rule.SLO <= 0 && e.Deadline.IsZero() {
		return ""
	}
	if !e.Deadline.IsZero() && now.Add(seconds(b.unit())).After(e.Deadline) {
		return PastDeadline
	}
	if now.Add(seconds(lateFactor * (wait + b.takes(max(rows, e.Items))))).After(b.latest(e)) {
		return PredictedLate
	}
	return ""
}

// waitFor is how long a request that comes now waits until its batch leaves, in seconds: for what is with the replicas, of
// which one is done every S/slots, and for the batches of those ahead of it.
func (b *Batcher[R]) waitFor(now time.Time, l *lane[R], e *Entry[R]) float64 {
	if b.slots <= 0 {
		return 0
	}
	wait := 0.0
	if b.busy >= b.slots {
		wait = max(b.takes(b.flying)/float64(max(b.others(), 1))-now.Sub(b.sent).Seconds(), 0)
	}
	ahead, most := b.ahead(e), max(b.effective, 1)
	full, rows := ahead/most, ahead-ahead%most
	if !l.alone.IsZero() { // its own requests have a batch each
		own := min(l.items, ahead)
		full, rows = own+(ahead-own)/most, ahead
	}
	if requests := b.requestsAhead(e); requests < full { // of more rows than a batch may have
		full, rows = requests, ahead
	}
	// Each lane has batches of its own, however few rows they have.
	batches := max(full, min(len(b.active.members)-1, ahead))
	return (wait + (float64(batches)*b.service.b+float64(rows)*b.service.a)/b.depth.gain) / float64(b.slots)
}

// requestsAhead is how many requests leave before one that comes now, by their classes.
func (b *Batcher[R]) requestsAhead(e *Entry[R]) int {
	requests := 0
	budget := b.class(e.class).Budget
	for i, waiting := range b.classes {
		if b.class(i).Budget <= budget {
			requests += waiting.requests
		}
	}
	return requests
}

// ahead is how many of the rows that wait leave before a request that comes now: those of its class and of the more
// urgent ones; where tenants take turns, no more than its own tenant's and as much of the others' in the meantime.
func (b *Batcher[R]) ahead(e *Entry[R]) int {
	rows := 0
	budget := b.class(e.class).Budget
	for i, waiting := range b.classes {
		if b.class(i).Budget <= budget {
			rows += waiting.rows
		}
	}
	if others := b.tenants.others(e.tenant); others > 0 {
		rows = min(rows, int(float64(e.tenant.rows+e.Items)*(others+e.tenant.weight)/e.tenant.weight))
	}
	return rows
}

// waitingOf is what waits of a class.
type waitingOf struct{ requests, rows int }

// Lost is a request that was queued and is not sent, with the reason.
type Lost[R any] struct {
	Entry  *Entry[R]
	Reason Refusal
}

// Lost are the requests that the last call of Next has taken out because they would be late.
func (b *Batcher[R]) Lost() []Lost[R] { return b.lost }
