package batchproxy

import (
	"fmt"
	"math"
	"net/http"
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

// timeoutHeaders say in milliseconds when a client, or the Envoy before it, gives up.
var timeoutHeaders = [...]string{"X-Request-Timeout-Ms", "X-Envoy-Expected-Rq-Timeout-Ms"}

// classOf is the index of a request's class.
func (m *model) classOf(header http.Header) int {
	if m.config.Queue.TrustHeaders {
		if name := header[priorityHeader]; len(name) > 0 {
			for i, c := range m.classes {
				if c.Name == name[0] {
					return i
				}
			}
		}
	}
	return m.normal
}

// tenantOf is who a request is from, empty where it does not say so or is not believed.
func (m *model) tenantOf(header http.Header) string {
	if m.tenantHeader != "" && m.config.Queue.TrustHeaders {
		if name := header[m.tenantHeader]; len(name) > 0 {
			return name[0]
		}
	}
	return ""
}

// termsOf is what a request that came at a time is queued with. The error is a *protocol.Fault.
func (m *model) termsOf(came time.Time, header http.Header) (Terms, error) {
	t := Terms{Class: m.classOf(header), Tenant: m.tenantOf(header)}
	least := int64(math.MaxInt64)
	if given := header[deadlineHeader]; len(given) > 0 {
		n, err := strconv.ParseInt(given[0], 10, 64)
		if err != nil || n < 0 {
			return t, &protocol.Fault{Where: deadlineHeader, Reason: fmt.Sprintf("%.40q is not a number of milliseconds from now: give 0 or more", given[0])}
		}
		least = n
	}
	for _, name := range timeoutHeaders {
		if given := header[name]; len(given) > 0 {
			if n, err := strconv.ParseInt(given[0], 10, 64); err == nil && n > 0 { // 0 is none to Envoy
				least = min(least, n)
			}
		}
	}
	if least < time.Duration(m.config.Timeout).Milliseconds() {
		t.Deadline = came.Add(time.Duration(least) * time.Millisecond)
	}
	return t, nil
}

// slots is how many batches the replicas that are ready take at once, and how many they have. Where the first is learned it is how many
// replicas there are, and how many of them have a batch.
func (m *model) slots(now time.Time) (slots, busy int) {
	if m.config.Inflight == Auto {
		for _, r := range m.picker.replicas {
			busy += min(r.batches, 1)
		}
		return m.picker.ready(now), busy
	}
	for _, r := range m.picker.replicas {
		busy += r.batches
	}
	return m.picker.ready(now) * int(m.config.Inflight), busy
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
		a.code, a.retryAfter = http.StatusGatewayTimeout, 0
		a.message = fmt.Sprintf("model %q: no replica can answer before the client's deadline", m.config.Name)
	case TimedOut:
		a.code, a.message = http.StatusServiceUnavailable, m.whyWaited(now)
	}
	return a
}

// lose answers a request that was taken out of the queue.
func (m *model) lose(now time.Time, lost Lost[*request]) {
	r := lost.Entry.Request
	r.demand.waiting.Dec()
	r.answerWith(m.refusal(now, lost.Reason))
}
