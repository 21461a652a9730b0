package batchproxy

import (
	"math"
	"net/http"
	"time"

	"flyball/batchproxy/protocol"
)

// Where batching does not pay, or nobody is there to share a batch with, a proxy is to cost nothing. Two things cost: the reading of a
// large body, for which a model may need less time than JSON does; and the limit of batches at once per replica, which is there to
// have batches form. So large requests that will ride alone are sent on unread, and a model that does not gain from batches is
// given as many at once as come, as without a proxy.

const (
	// unreadFrom is from how many bytes on a body that need not be read is not: strict JSON takes some 5 ms for a megabyte. What is
	// smaller is always read, which finds faults here rather than at the replica, and shows how many rows there are.
	unreadFrom = 64 << 10
	// solitary is how many requests, one after the other, must have found no other before the next ones are expected to.
	solitary = 32
)

// mayWiden reports whether how many requests a replica has at once is for it to decide where batching does not pay: nothing is
// asked of the order in which they leave, and no limit was set.
func (c ModelConfig) mayWiden() bool {
	return c.Batch.Mode == ModeAdaptive && c.Batch.MinSize <= 1 && c.Batch.SLO == 0 && len(c.Priorities) == 0 && c.Queue.TenantHeader == "" &&
		c.Inflight == Auto
}

// inflight is how many batches a replica may have at once; the model's mutex is held.
func (m *model) inflight() int {
	switch {
	case m.config.Inflight != Auto:
		return int(m.config.Inflight)
	case m.batcher.trying: // what is measured is one batch at a time
		return 1
	case m.batcher.off && m.widens:
		return math.MaxInt
	}
	return m.batcher.Depth()
}

// inferUnread serves a large request that rides alone without reading it, if this is one. It returns false where it has to be
// read after all; the body is then still the caller's.
func (m *model) inferUnread(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body *buffer) (code int, served bool) {
	if len(body.b) < unreadFrom || !m.ridesAlone() {
		return 0, false
	}
	terms, err := m.termsOf(time.Now(), r, &protocol.Request{})
	if err != nil {
		return 0, false // where it is put into words
	}
	req := &request{
		protocol: p, parsed: &protocol.Request{Items: 1}, unread: true, body: body, incoming: r, demand: d, terms: terms,
		key: append(append([]byte(nil), "unread\x00"...), r.URL.EscapedPath()...), done: make(chan struct{}), ride: m.proxy.spansOf(r).ride(),
	}
	body.refs.Add(1)
	a := m.result(req)
	if a != nil && a.body != nil && (&response{code: a.code, body: a.body}).tooLarge() { // it has more rows than the replica takes: they are to be sent in parts
		a.release()
		return 0, false
	}
	body.release()
	if a == nil {
		return d.form.writeGone(w), true
	}
	defer a.release()
	return m.write(w, d.form, a), true
}

// ridesAlone reports whether a request that comes now will not share a batch, whatever is in it.
func (m *model) ridesAlone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.batcher.pass(time.Now()) || m.batcher.service.known && m.lonely >= solitary && m.nobody()
}

// nobody reports whether no request of the model waits for its answer.
func (m *model) nobody() bool {
	for _, r := range m.picker.replicas {
		if r.working()+r.calls > 0 {
			return false
		}
	}
	return m.batcher.Len() == 0
}

// meet notes whether a request that comes finds another.
func (m *model) meet() {
	if m.nobody() {
		m.lonely++
	} else {
		m.lonely = 0
	}
}
