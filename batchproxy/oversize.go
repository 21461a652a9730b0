package batchproxy

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"flyball/batchproxy/protocol"
)

// maxChunks of a request are in the queue or with replicas at once: enough to keep as many replicas busy, and few enough that a
// request of thousands of rows neither fills the queue nor stands before everybody else.
const maxChunks = 16

// inferChunks serves a request that has more rows than a batch: in chunks, which ride in batches like any other request, and
// of whose answers one is made. The first chunk that fails is the answer to the whole. The request's body is released.
func (m *model) inferChunks(w http.ResponseWriter, whole *request) int {
	j := &joining{
		model: m, whole: whole, cut: whole.parsed.Chunks(m.config.Batch.MaxSize), join: protocol.NewJoin(whole.protocol, whole.parsed),
		over: make(chan *request, maxChunks), later: whole.demand.ofChunk(),
	}
	code, failed := j.run(w)
	whole.spans().chunked(j.sent)
	if code != 0 {
		whole.body.release()
		return code
	}
	if failed != nil { // the answers cannot be joined: then it goes as it is, and such ones too for a while
		m.proxy.logger.Warn("the answers to parts of a request cannot be joined; such requests go whole for a while", "model", m.config.Name, "err", failed)
		m.goWhole(whole.key)
		return m.inferOne(w, whole)
	}
	defer whole.body.release()
	own := m.proxy.buffers.get()
	defer own.release()
	joined := j.join.Append(own.b)
	own.b = joined.Body
	a := &answer{code: http.StatusOK, body: own, header: joined.Header, items: j.largest, chunks: j.sent, estimated: j.join.Estimated(), timing: j.timing}
	return m.write(w, whole.demand.form, a)
}

// joining is a request on its way in chunks.
type joining struct {
	model *model
	whole *request
	cut   *protocol.Chunks
	join  *protocol.Join
	later *demand       // of the chunks after the first
	over  chan *request // chunks that have their answer
	away  []*request    // in order; those at the front that have their answer have been joined
	ready map[*request]bool

	next    *protocol.Request
	sent    int
	largest int // batch
	timing      // the wait of the first, and the slowest batch
}

// run sends all chunks and joins their answers. It returns why they cannot be joined, or the status of the answer that it
// wrote instead; neither where all went well.
func (j *joining) run(w http.ResponseWriter) (code int, failed error) {
	m, d := j.model, j.whole.demand
	j.ready = make(map[*request]bool, maxChunks)
	defer j.abandon()
	stage := "queued" // of the request, if its client goes
	running := false
	defer func() {
		if running {
			d.running.Dec()
		}
	}()
	j.next = j.cut.Next()
	deadline, stop := m.untilDeadline(j.whole.terms)
	defer stop()
	for {
		if refusal := j.send(); refusal != nil {
			return m.write(w, d.form, refusal), nil
		}
		if len(j.away) == 0 {
			return 0, nil
		}
		select {
		case r := <-j.over:
			if r.answer.code != http.StatusOK {
				defer r.answer.release()
				j.drop(r)
				r.answer.chunks = j.sent
				return m.write(w, d.form, r.answer), nil
			}
			j.ready[r] = true
		case <-deadline:
			return m.write(w, d.form, m.pastDeadline()), nil // abandon takes the chunks back
		case <-j.whole.incoming.Context().Done():
			for _, r := range j.away {
				if r.state.CompareAndSwap(waiting, gone) && m.quit(r) == "in_batch" {
					stage = "in_batch"
				}
			}
			if running {
				stage = "in_batch"
			}
			m.proxy.metrics.cancelled.WithLabelValues(m.config.Name, stage).Inc()
			return d.form.writeGone(w), nil
		}
		for len(j.away) > 0 && j.ready[j.away[0]] {
			r := j.away[0]
			j.drop(r)
			err := j.add(r)
			if !running { // the request as a whole goes on running when its first chunk is back
				running = true
				d.running.Inc()
			}
			if err != nil {
				return 0, err
			}
			if limit := int64(m.proxy.config.Limits.MaxResponse); int64(j.join.Size()) > limit {
				return d.form.writeError(w, http.StatusBadGateway, fmt.Sprintf("model %q: %s", m.config.Name, tooLarge("the answer", limit))), nil
			}
		}
	}
}

// send queues chunks for as long as there may be more. It returns a refusal where none is on its way and none is taken.
func (j *joining) send() *answer {
	for j.next != nil && len(j.away) < maxChunks {
		whole := j.whole
		r := &request{
			protocol: whole.protocol, parsed: j.next, body: whole.body, incoming: whole.incoming, key: whole.key, demand: j.later, terms: whole.terms,
			chunk: true, over: j.over, done: make(chan struct{}), ride: whole.spans().ride(),
		}
		if j.sent == 0 {
			r.demand = whole.demand // the request waits as long as its first chunk does
		}
		r.body.refs.Add(1)
		if refusal := j.model.enqueue(r); refusal != nil {
			r.body.release()
			if len(j.away) == 0 {
				return refusal
			}
			return nil // another one's place is free when it is back
		}
		j.away = append(j.away, r)
		j.sent++
		j.next = j.cut.Next()
	}
	return nil
}

// add joins the answer to a chunk, which is released.
func (j *joining) add(r *request) error {
	a := r.answer
	defer a.release()
	text := protocol.Message{Body: a.body.b, Header: a.header}
	if len(a.tensors) > 0 {
		text.Body = slices.Concat(append([][]byte{a.body.b}, a.tensors...)...)
	}
	if a.headers != nil { // the chunk was alone in its batch, and has the replica's answer
		var err error
		if text, err = (&response{header: a.headers, body: a.body}).message(); err != nil {
			return err
		}
	}
	j.largest = max(j.largest, a.items)
	if j.call == 0 {
		j.timing = a.timing
	}
	j.upstream, j.together = max(j.upstream, a.upstream), max(j.together, a.together)
	return j.join.Add(text, r.parsed, a.estimated)
}

func (j *joining) drop(r *request) {
	j.away = slices.DeleteFunc(j.away, func(x *request) bool { return x == r })
	delete(j.ready, r)
}

// abandon takes back the chunks that are still away.
func (j *joining) abandon() {
	for _, r := range j.away {
		switch {
		case r.state.CompareAndSwap(waiting, gone):
			j.model.quit(r)
		case r.state.Load() == answered:
			<-r.done
			r.answer.release()
		}
	}
}

// goWhole remembers that requests of a lane are not to be cut, as long as one whose batches cannot be split.
func (m *model) goWhole(key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wholes == nil || len(m.wholes) >= maxAlone {
		m.wholes = make(map[string]time.Time)
	}
	m.wholes[remembered(string(key))] = time.Now().Add(aloneTime)
}

// isWhole reports whether requests of a lane are not to be cut.
func (m *model) isWhole(key []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.wholes) == 0 {
		return false
	}
	name := remembered(string(key))
	until, ok := m.wholes[name]
	if ok && !time.Now().Before(until) {
		delete(m.wholes, name)
		return false
	}
	return ok
}
