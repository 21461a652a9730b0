package batchproxy

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// caller is a request that is passed on as it is and waits for a replica that has room for it.
type caller struct {
	given chan *replica // has room for one; nil is sent when the model is closed
}

// takeForCall is a replica for a request that is passed on, to be given back by giveCall, or the answer where there is
// none. Where every replica has as many as it may, it waits in turn, for no longer than the model's timeout.
func (m *model) takeForCall(ctx context.Context) (*replica, *answer) {
	m.mu.Lock()
	now := time.Now()
	most := m.config.Limit.Max
	if len(m.callers) == 0 {
		if r := m.picker.forCall(now, most); r != nil {
			m.give(r)
			m.mu.Unlock()
			return r, nil
		}
	}
	refusal := &answer{code: http.StatusServiceUnavailable, retryAfter: time.Second}
	switch {
	case m.closed:
		refusal.message = "the proxy is shutting down"
	case most == 0 || m.picker.ready(now) == 0:
		refusal.message = fmt.Sprintf("model %q has no ready replica", m.config.Name)
	case len(m.callers) >= m.config.Limit.Queue:
		refusal.shed = "queue_full"
		refusal.message = fmt.Sprintf("model %q: every replica has the %d requests at once that it may have, and %d are waiting, which is the limit",
			m.config.Name, most, len(m.callers))
	default:
		refusal = nil
	}
	if refusal != nil {
		m.mu.Unlock()
		return nil, refusal
	}
	c := &caller{given: make(chan *replica, 1)}
	m.callers = append(m.callers, c)
	m.mu.Unlock()
	timer := time.NewTimer(time.Duration(m.config.Timeout))
	defer timer.Stop()
	select {
	case r := <-c.given:
		if r == nil {
			return nil, &answer{code: http.StatusServiceUnavailable, retryAfter: time.Second, message: "the proxy is shutting down"}
		}
		return r, nil
	case <-timer.C:
		refusal = &answer{
			code: http.StatusServiceUnavailable, retryAfter: time.Second, shed: "timeout",
			message: fmt.Sprintf("model %q: waited %s to be sent: all replicas are busy", m.config.Name, m.config.Timeout),
		}
	case <-ctx.Done():
		refusal = &answer{code: clientGone}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.callers = slices.DeleteFunc(m.callers, func(other *caller) bool { return other == c })
	select {
	case r := <-c.given: // at the same time
		if r != nil && refusal.code != clientGone {
			return r, nil
		}
		if r != nil {
			m.takeBack(r)
		}
	default:
	}
	return nil, refusal
}

// give counts a call to a replica.
func (m *model) give(r *replica) {
	r.calls++
	m.running++
}

// takeBack is the end of a call.
func (m *model) takeBack(r *replica) {
	r.calls--
	m.running--
	m.settle(r)
	now := time.Now()
	if m.batcher.Len() > 0 || len(m.again) > 0 { // for which a replica may be ready that was tried with this call
		m.pump(now)
		return
	}
	m.handOut(now)
}

// handOut gives replicas that have room to those who wait, in turn.
func (m *model) handOut(now time.Time) {
	for len(m.callers) > 0 {
		r := m.picker.forCall(now, m.config.Limit.Max)
		if r == nil {
			return
		}
		m.give(r)
		m.callers[0].given <- r
		m.callers = slices.Delete(m.callers, 0, 1)
	}
}

// sendAway ends the wait of all who wait, when the model is closed.
func (m *model) sendAway() {
	for _, c := range m.callers {
		c.given <- nil
	}
	m.callers = nil
}
