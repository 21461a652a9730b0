package batchproxy

import (
	"cmp"
	"errors"
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
	// unreadFrom is from how many bytes of JSON on a body that need not be read is not: strict JSON takes some 5 ms for a megabyte.
	// What is smaller is always read, which finds faults here rather than at the replica.
	unreadFrom = 64 << 10
	// solitary is how many requests, one after the other, must have found no other before the next ones are expected to.
	solitary = 32
)

// mayWiden reports whether how many requests a replica has at once is for it to decide where batching does not pay: nothing is
// asked of the order in which they leave, and no limit was set.
func (c ModelConfig) mayWiden() bool {
	return (c.Batch.Mode == ModeAdaptive || c.Batch.Mode == ModeOff) && c.Batch.MinSize <= 1 && c.Batch.SLO == 0 && len(c.Priorities) == 0 && c.Queue.TenantHeader == "" &&
		c.Inflight == Auto
}

// inflight is how many batches a replica may have at once; the model's mutex is held.
func (m *model) inflight() int {
	switch {
	case m.config.Inflight != Auto:
		return int(m.config.Inflight)
	case m.batcher.trying: // what is measured is one batch at a time
		return 1
	case m.batcher.unbatched() && m.widens:
		return math.MaxInt
	}
	return m.batcher.Depth()
}

// inferUnread serves a large request that rides alone without reading it, if this is one: a glance has to do. It returns false where
// it has to be read after all; the body is then still the caller's, and is released else.
func (m *model) inferUnread(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body *buffer, ahead *early, came time.Time) (code int, served bool) {
	if len(body.b) < unreadFrom {
		return 0, false
	}
	text, err := message(p, r, body.b)
	if size := cmp.Or(text.Header, len(text.Body)); err != nil || size < unreadFrom || !m.ridesAlone() { // binary costs nothing to read
		return 0, false
	}
	glanced, err := protocol.Glance(p, text, ahead.seen())
	if err != nil {
		glanced = &protocol.Request{Items: 1} // a fault is the replica's to find
	}
	most := m.config.Batch.MaxSize
	if errors.Is(err, protocol.ErrAlone) || glanced.Priority != 0 || glanced.Items > most && m.config.Batch.Oversize != oversizeSolo {
		return 0, false // what is sent once at most, by its class, in parts or not at all
	}
	terms, err := m.termsOf(came, r, glanced)
	if err != nil {
		return 0, false // where it is put into words
	}
	req := &request{
		protocol: p, parsed: &protocol.Request{Items: glanced.Items}, unread: true, early: ahead, body: body, incoming: r, demand: d, terms: terms,
		key: append(append([]byte(nil), "unread\x00"...), r.URL.EscapedPath()...), done: make(chan struct{}), ride: m.proxy.spansOf(r).ride(),
	}
	return m.inferOne(w, req), true
}

// ridesAlone reports whether a request that comes now will not share a batch, whatever is in it.
func (m *model) ridesAlone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.batcher.pass(time.Now()) || m.alone() && m.nobody()
}

// alone reports whether requests have not met another for a while.
func (m *model) alone() bool { return m.batcher.service.known && m.lonely >= solitary }

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
