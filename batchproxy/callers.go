package batchproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

// caller is a request that is not batched and waits for a replica with room for it.
type caller struct {
	due   time.Time // the soonest goes first; of equal ones, the first that came
	given chan seat // has room for one: nothing waits for a caller that has gone
}

// seat is one that a request has at a replica, the zero value none.
type seat struct {
	to      *replica
	limited bool // of is what the replica's limit knows of it
	of      begun
}

// callers are those that wait, in the order in which they are served. Its model's mutex guards it. A request is bound to a replica
// no sooner than the replica has room: until then the best one is still to be chosen, and one that matters more can go before it.
type callers []*caller

// add puts one in its place.
func (c *callers) add(due time.Time) *caller {
	one := &caller{due: due, given: make(chan seat, 1)}
	at, _ := slices.BinarySearchFunc(*c, due, func(other *caller, due time.Time) int {
		if other.due.After(due) {
			return 1
		}
		return -1
	})
	*c = slices.Insert(*c, at, one)
	return one
}

// remove takes one out, and reports whether it was still there: otherwise it has been given a replica.
func (c *callers) remove(one *caller) bool {
	at := slices.Index(*c, one)
	if at < 0 {
		return false
	}
	*c = slices.Delete(*c, at, at+1)
	return true
}

// roomForCall is a ready replica that may have one more request that is not batched, nil if there is none.
func (m *model) roomForCall(now time.Time) *replica {
	return m.picker.forCall(now, m.config.Limit.Concurrent)
}

// seat takes room at a replica for a request that is not batched. The replica's limit is to be told how it ended: see limitedCall.
func (m *model) seat(to *replica) seat {
	to.calls++
	m.running++
	at := seat{to: to}
	if to.limiter != nil {
		to.seats++
		at.limited, at.of = true, to.limiter.begin(to.seats)
	}
	return at
}

// serveCallers gives replicas that have room to those that wait for one.
func (m *model) serveCallers(now time.Time) {
	for len(m.callers) > 0 {
		to := m.roomForCall(now)
		if to == nil {
			return
		}
		m.callers[0].given <- m.seat(to)
		m.callers = slices.Delete(m.callers, 0, 1)
	}
}

// callTime is how long calls that were not batched took, in seconds: a mean in which each weighs a tenth less with every one that
// follows. The zero value knows nothing.
type callTime struct {
	mean  float64
	calls int
}

func (c *callTime) add(took time.Duration) {
	c.calls++
	c.mean += (took.Seconds() - c.mean) * max(0.1, 1/float64(c.calls))
}

// tooLate reports whether a request that is due so soon would wait for longer than it may: for those ahead of it, of which the
// replicas finish one after the other.
func (m *model) tooLate(now, due time.Time, within time.Duration) bool {
	slots := 0
	for _, r := range m.picker.replicas {
		switch {
		case !r.ready(now):
		case r.limiter != nil:
			slots += r.limiter.now()
		default:
			slots += int(m.config.Limit.Concurrent)
		}
	}
	if within <= 0 || m.callTime.calls == 0 || slots == 0 {
		return false
	}
	ahead := 1
	for _, other := range m.callers {
		if !other.due.After(due) {
			ahead++
		}
	}
	return float64(ahead)*m.callTime.mean/float64(slots) > within.Seconds()
}

// turn is takeForCall within the model's limit: while every replica has as many requests as it may, the request waits, for no longer
// than its client's answer must begin within, where that is not 0. It returns the answer where there is no replica for it; one
// with the code clientGone says that the client went.
func (m *model) turn(ctx context.Context, d *demand, class int, within time.Duration) (seat, *answer) {
	m.mu.Lock()
	now := time.Now()
	if len(m.callers) == 0 {
		if to := m.roomForCall(now); to != nil {
			at := m.seat(to)
			m.mu.Unlock()
			d.queueDuration.Observe(0)
			return at, nil
		}
	}
	due, limit := now.Add(m.classes[class].Budget), time.Duration(m.config.Timeout)
	hurry := within > 0 && within < limit
	if hurry {
		limit = within
		if by := now.Add(within); by.Before(due) {
			due = by
		}
	}
	switch {
	case m.picker.ready(now) == 0:
		m.mu.Unlock()
		return seat{}, m.noReplica()
	case len(m.callers) >= m.config.Limit.Queue:
		defer m.mu.Unlock()
		has := fmt.Sprintf("%d requests", m.config.Limit.Concurrent)
		if m.config.Limit.Concurrent == Auto {
			has = "as many requests as it does well with"
		}
		return seat{}, &answer{
			shed: "queue_full", code: http.StatusTooManyRequests, retryAfter: m.callRate.wait(now, len(m.callers)),
			message: fmt.Sprintf("model %q: every replica has %s, and %d are waiting, which is the limit", m.config.Name, has, len(m.callers)),
		}
	}
	if hurry && m.tooLate(now, due, within) {
		defer m.mu.Unlock()
		return seat{}, &answer{
			shed: string(PredictedLate), code: http.StatusServiceUnavailable, retryAfter: m.callRate.wait(now, len(m.callers)),
			message: fmt.Sprintf("model %q: the answer would begin too late: %d requests are waiting", m.config.Name, len(m.callers)),
		}
	}
	one := m.callers.add(due) // as in a lane: none waits for ever
	m.mu.Unlock()
	d.waiting.Inc()
	defer d.waiting.Dec()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	var refusal *answer
	select {
	case at := <-one.given:
		d.queueDuration.Observe(time.Since(now).Seconds())
		return at, nil
	case <-ctx.Done():
		refusal = &answer{code: clientGone}
	case <-timeout.C:
		refusal = &answer{shed: "timeout", code: http.StatusServiceUnavailable}
		if hurry {
			refusal = &answer{
				shed: string(PastDeadline), code: http.StatusGatewayTimeout,
				message: fmt.Sprintf("model %q: no replica had room within the %s in which the client wants its answer to begin", m.config.Name, within),
			}
		}
	case <-m.proxy.base.Done():
		refusal = &answer{shed: "draining", code: http.StatusServiceUnavailable, message: "the proxy is shutting down", retryAfter: time.Second}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.callers.remove(one) { // it was given one at the same time
		at := <-one.given
		if refusal.code != clientGone {
			return at, nil
		}
		if at.limited {
			at.to.limiter.forgotten(at.of)
		}
		m.give(at)
	}
	if refusal.shed == "timeout" {
		now = time.Now()
		refusal.message, refusal.retryAfter = m.whyWaited(now), m.callRate.wait(now, len(m.callers))
	}
	return seat{}, refusal
}

func (m *model) noReplica() *answer {
	return &answer{code: http.StatusServiceUnavailable, message: fmt.Sprintf("model %q has no ready replica", m.config.Name), retryAfter: time.Second}
}

// limitedCall is a request that was passed on to a replica within its limit, until the limit has been told what the replica made of it.
type limitedCall struct {
	m     *model
	at    seat
	began time.Time // when the replica could begin
	told  bool
}

// answered tells that what counts of the answer came: the whole, or the first piece of a stream.
func (c *limitedCall) answered(now time.Time) {
	c.tell(func(l *limiter) { l.answered(c.at.of, now.Sub(c.began).Seconds()) })
}

// ended tells how the call ended, where that was not told before. Gone says that the client ended it.
func (c *limitedCall) ended(rec *recorder, gone bool) {
	timeout, _ := errors.AsType[net.Error](rec.err)
	switch {
	case gone:
		c.forgotten()
	case rec.err != nil && timeout != nil && timeout.Timeout() && !unsent(rec.err),
		rec.err == nil && (rec.code == http.StatusTooManyRequests || rec.code == http.StatusServiceUnavailable || rec.code == http.StatusGatewayTimeout):
		c.tell(func(l *limiter) { l.refused(c.at.of) })
	case rec.whole && rec.code < http.StatusBadRequest && !rec.stream:
		c.answered(time.Now())
	case rec.whole && rec.code < http.StatusBadRequest && !rec.piece.IsZero(): // of which no piece was seen to be text
		c.answered(rec.piece)
	default: // an error may be quick, as an answer that breaks off, and a stream without a piece says nothing
		c.forgotten()
	}
}

// forgotten tells that nothing is known of it, where nothing was told before.
func (c *limitedCall) forgotten() { c.tell(func(l *limiter) { l.forgotten(c.at.of) }) }

func (c *limitedCall) tell(how func(l *limiter)) {
	if c == nil || c.told {
		return
	}
	c.told = true
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	l := c.at.to.limiter
	before := l.now()
	how(l)
	if l.now() == before {
		return
	}
	if old, limit, changed := l.tell(); changed {
		c.m.proxy.metrics.changes.WithLabelValues(c.m.config.Name, concurrencyLimit).Inc()
		c.m.proxy.logger.Info("a replica's limit of concurrent requests changed", "model", c.m.config.Name, "replica", c.at.to.address, "before", old, "after", limit,
			"seconds_without_queue", l.base)
	}
	c.m.showLimits()
	if l.now() > before {
		c.m.serveCallers(time.Now())
	}
}

// showLimits sets the gauges of how many requests that are not batched an upstream's replicas may have at once.
func (m *model) showLimits() {
	most := m.config.Limit.Concurrent
	if most == 0 || m.proxy.successor.Load() != nil { // which has the same series
		return
	}
	for i, gauge := range m.limits {
		sum := 0
		for _, r := range m.picker.replicas {
			switch {
			case r.listed != i:
			case most == Auto:
				sum += r.limiter.now()
			default:
				sum += int(most)
			}
		}
		gauge.Set(float64(sum))
	}
}
