package batchproxy

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"flyball/batchproxy/protocol"
)

const (
	// priorityHeader is the class of a request, by one of the names of the model's priorities.
	priorityHeader = "X-Flyball-Priority"
	// deadlineHeader is in how many milliseconds an answer is of no more use to the client, from when its request has been read.
	deadlineHeader = "X-Flyball-Deadline-Ms"
)

// firstTokenHeader is in how many milliseconds a client wants the first token of its answer, as gateways for language models have it.
const firstTokenHeader = "X-Slo-Ttft-Ms"

// timeoutHeaders say in milliseconds when a client, or the Envoy before it, gives up.
var timeoutHeaders = [...]string{"X-Request-Timeout-Ms", "X-Envoy-Expected-Rq-Timeout-Ms"}

// classOf is the index of a request's class, by its header.
func (m *model) classOf(r *http.Request) int {
	if i := m.named(r.Header); i >= 0 && m.trust.believes(r) {
		return i
	}
	return m.normal
}

// named is the index of the class that a header names, -1 where it names none.
func (m *model) named(header http.Header) int {
	if name := header[priorityHeader]; len(name) > 0 {
		for i, c := range m.classes {
			if c.Name == name[0] {
				return i
			}
		}
	}
	return -1
}

// tenantOf is who a request is from, empty where it does not say so or is not believed.
func (m *model) tenantOf(r *http.Request) string {
	if m.tenantHeader != "" {
		if name := r.Header[m.tenantHeader]; len(name) > 0 && m.trust.believes(r) {
			return name[0]
		}
	}
	return ""
}

// classBy is the index of the class of a request whose body was read. A class that the header names goes before the priority in
// the parameters of the Open Inference Protocol: 1 is the class with the least budget, 2 the next, and so on to the last, and 0
// says nothing.
func (m *model) classBy(r *http.Request, parsed *protocol.Request) int {
	if parsed.Priority == 0 || m.named(r.Header) >= 0 || !m.trust.believes(r) {
		return m.classOf(r)
	}
	return m.urgent[min(parsed.Priority, uint64(len(m.urgent)))-1]
}

// byUrgency are the indexes of classes, that with the least budget first.
func byUrgency(classes []Class) []int {
	out := make([]int, len(classes))
	for i := range out {
		out[i] = i
	}
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(classes[a].Budget, classes[b].Budget) })
	return out
}

// termsOf is what a request that came at a time is queued with. The error is a *protocol.Fault.
func (m *model) termsOf(came time.Time, r *http.Request, parsed *protocol.Request) (Terms, error) {
	t := Terms{Class: m.classBy(r, parsed), Tenant: m.tenantOf(r)}
	header := r.Header
	least := int64(math.MaxInt64) // microseconds
	if parsed.Timeout > 0 {
		least = int64(min(parsed.Timeout, math.MaxInt64))
	}
	if given := header[deadlineHeader]; len(given) > 0 {
		n, err := strconv.ParseInt(given[0], 10, 64)
		if err != nil || n < 0 {
			return t, &protocol.Fault{Where: deadlineHeader, Reason: fmt.Sprintf("%.40q is not a number of milliseconds from now: give 0 or more", given[0])}
		}
		least = min(least, inMicroseconds(n))
	}
	for _, name := range timeoutHeaders {
		if given := header[name]; len(given) > 0 {
			if n, err := strconv.ParseInt(given[0], 10, 64); err == nil && n > 0 { // 0 is none to Envoy
				least = min(least, inMicroseconds(n))
			}
		}
	}
	if least < time.Duration(m.config.Timeout).Microseconds() {
		t.Deadline = came.Add(time.Duration(least) * time.Microsecond)
	}
	return t, nil
}

// beginWithin is within what time of its arrival a client wants the answer to a request that is not batched to begin, 0 where it
// does not say.
func beginWithin(header http.Header) time.Duration {
	given := header[firstTokenHeader]
	if len(given) == 0 {
		return 0
	}
	ms, err := strconv.ParseFloat(given[0], 64)
	if err != nil || !(ms > 0) || ms > math.MaxInt64/1e6 {
		return 0
	}
	return max(time.Duration(ms*float64(time.Millisecond)), 1)
}

// inMicroseconds is so many milliseconds, or as many as there can be.
func inMicroseconds(milliseconds int64) int64 {
	if milliseconds > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return milliseconds * 1000
}

// slots is how many batches the replicas that are ready take at once, and how many they have. Where the first is learned it is how many
// replicas are ready, and how many of them have a batch; where they have as many as come, each always has room for one more.
func (m *model) slots(now time.Time) (slots, busy, batches int) {
	inflight := m.inflight()
	for _, r := range m.picker.replicas {
		batches += r.working()
		busy += min(r.working(), 1)
	}
	switch ready := m.picker.ready(now); {
	case inflight == math.MaxInt:
		return ready, 0, batches
	case m.config.Inflight == Auto:
		return ready, busy, batches
	default:
		return ready * inflight, batches, batches
	}
}

// refusal is the answer to a request that is not taken.
func (m *model) refusal(now time.Time, why Refusal) *answer {
	a := &answer{shed: string(why), code: http.StatusTooManyRequests, retryAfter: m.rate.wait(now, m.batcher.Len())}
	switch why {
	case TenantLimit:
		a.message = fmt.Sprintf("model %q: as many requests of this tenant are waiting as may: %v of the queue", m.config.Name, m.config.Queue.TenantLimit)
	case QueueFull:
		a.message = fmt.Sprintf("model %q: %d requests are waiting, which is the limit", m.config.Name, m.batcher.Len())
	case PredictedLate:
		a.code = http.StatusServiceUnavailable
		a.message = fmt.Sprintf("model %q: the answer would come too late: %d requests are waiting", m.config.Name, m.batcher.Len())
	case PastDeadline:
		return m.pastDeadline()
	case TimedOut:
		a.code, a.message = http.StatusServiceUnavailable, m.whyWaited(now)
	}
	return a
}

// pastDeadline is the answer to a request whose client's deadline no replica has met, or can meet any more.
func (m *model) pastDeadline() *answer {
	return &answer{shed: string(PastDeadline), code: http.StatusGatewayTimeout, message: fmt.Sprintf("model %q: no replica can answer before the client's deadline", m.config.Name)}
}

// untilDeadline is a channel that is sent to at a request's deadline, nil where it has none, and what ends that.
func (m *model) untilDeadline(t Terms) (passed <-chan time.Time, stop func()) {
	if t.Deadline.IsZero() {
		return nil, func() {}
	}
	timer := time.NewTimer(time.Until(t.Deadline))
	return timer.C, func() { timer.Stop() }
}

// callUntil is when a call for these members is given up: at the last of their deadlines, if each has one and that comes before
// the model's timeout. patient says that it does not: the replica had all the time that it may take. Where cancel is drain a replica
// is left to finish what its clients no longer want.
func (m *model) callUntil(now time.Time, members []*request) (until time.Time, patient bool) {
	until = now.Add(time.Duration(m.config.Timeout))
	if m.config.Cancel == cancelDrain {
		return until, true
	}
	var last time.Time
	for _, r := range members {
		switch at := r.terms.Deadline; {
		case at.IsZero():
			return until, true
		case at.After(last):
			last = at
		}
	}
	if last.Before(until) {
		return last, false
	}
	return until, true
}

// lose answers a request that was taken out of the queue.
func (m *model) lose(now time.Time, lost Lost[*request]) {
	r := lost.Entry.Request
	r.demand.waiting.Dec()
	r.answerWith(m.refusal(now, lost.Reason))
}
