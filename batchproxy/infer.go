package batchproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"flyball/batchproxy/protocol"
)

// infer serves a request that may be batched, and returns the status of its answer, clientGone where the client went first, and
// the series of its class, which the body may say. It reads and checks the request before it queues it, so that a slow client or
// a wrong body holds up nobody.
func (m *model) infer(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand) (int, *demand) {
	if code := refuseEncoded(w, r, d.form); code != 0 {
		return code, d
	}
	limit := int64(m.proxy.config.Limits.MaxBody)
	body, from := m.proxy.buffers.get(), io.Reader(http.MaxBytesReader(w, r.Body, limit))
	binary := m.triesBinary(r, p)
	var ahead *early
	if !binary {
		ahead = m.earlyOf(r, p, body, from)
	}
	if ahead != nil {
		from = ahead
		defer ahead.drop()
	}
	err := body.readFrom(from, r.ContentLength, limit, int64(m.proxy.config.Limits.MaxInflightBytes))
	ahead.read()
	if err != nil {
		body.release()
		return m.proxy.unread(w, r, err, m.config.Name, d.form), d
	}
	came := time.Now() // all of it
	if !binary {
		return m.inferBody(w, r, p, d, body, ahead, came)
	}
	code, own, served, refused := m.inferBinary(w, r, p, d, body, came)
	if !served {
		code, own = m.inferBody(w, r, p, d, body, nil, came)
	}
	if refused != nil {
		m.refusedBinary(refused, code)
	}
	return code, own
}

// refuseEncoded answers a request whose body is compressed, and returns the status, 0 where it is not.
func refuseEncoded(w http.ResponseWriter, r *http.Request, f form) int {
	if !encoded(r) {
		return 0
	}
	w.Header().Set("Accept-Encoding", "identity")
	return f.writeError(w, http.StatusUnsupportedMediaType, fmt.Sprintf("body: encoded as %.40q: send it as plain JSON", strings.Join(r.Header["Content-Encoding"], ",")))
}

func encoded(r *http.Request) bool {
	encoding := strings.Join(r.Header["Content-Encoding"], ",")
	return encoding != "" && !strings.EqualFold(encoding, "identity")
}

// read reads a request's body, within the limits.
func (p *Proxy) read(w http.ResponseWriter, r *http.Request) (*buffer, error) {
	limits := p.config.Limits
	body := p.buffers.get()
	err := body.readFrom(http.MaxBytesReader(w, r.Body, int64(limits.MaxBody)), r.ContentLength, int64(limits.MaxBody), int64(limits.MaxInflightBytes))
	if err != nil {
		body.release()
		return nil, err
	}
	return body, nil
}

// freeKey is how long the key of a lane may be without being counted, twice, as part of the bodies held: it has all of a body that
// is not batched, and a lane that is open has a copy.
const freeKey = 64 << 10

// inferBody is infer for a request whose body was read, and may have been sent while it came. The body is released.
func (m *model) inferBody(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body *buffer, ahead *early, came time.Time) (int, *demand) {
	var parsed *protocol.Request
	err := protocol.ErrAlone
	if m.config.batches(p) {
		if code, served := m.inferUnread(w, r, p, d, body, ahead, came); served {
			return code, d
		}
		ahead.drop()
		parsed, err = parse(p, r, body.b)
	}
	var terms Terms
	if err == nil {
		terms, err = m.termsOf(came, r, parsed)
	}
	if errors.Is(err, protocol.ErrAlone) {
		defer body.release()
		return m.passBody(w, r, d, body.b), d
	}
	if err != nil {
		body.release()
		if fault, ok := errors.AsType[*protocol.Fault](err); ok {
			return d.form.writeFault(w, http.StatusBadRequest, fault.Error(), fault.Where, ""), d
		}
		return d.form.writeError(w, http.StatusBadRequest, err.Error()), d
	}
	req, err := m.newRequest(w, r, p, d, parsed, terms, body)
	d = req.demand
	if err != nil {
		body.release()
		return m.proxy.unread(w, r, err, m.config.Name, d.form), d
	}
	if most := m.config.Batch.MaxSize; parsed.Items > most {
		switch m.config.Batch.Oversize {
		case oversizeReject:
			body.release()
			return d.form.writeError(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("model %q: %d rows, %d is the limit of one request", m.config.Name, parsed.Items, most)), d
		case oversizeSplit, "":
			if most > 1 && !m.isWhole(req.key) {
				return m.inferChunks(w, req), d
			}
		}
	}
	return m.inferOne(w, req), d
}

// newRequest is a checked request as it is queued, of the class that its body may say. The error is that there is no room for the key of its lane.
func (m *model) newRequest(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, parsed *protocol.Request, terms Terms, body *buffer) (*request, error) {
	if parsed.Priority != 0 {
		d = m.demand(p.Name(), terms.Class)
		if a := accountOf(w); a != nil {
			a.class = m.classes[terms.Class].Name
		}
	}
	req := &request{
		protocol: p, parsed: parsed, body: body, incoming: r, demand: d, terms: terms,
		key: m.laneKey(r, p, parsed), done: make(chan struct{}), ride: m.proxy.spansOf(r).ride(),
	}
	m.rideAlone(req)
	if len(req.key) > freeKey {
		return req, body.reserve(2*int64(len(req.key)), int64(m.proxy.config.Limits.MaxInflightBytes))
	}
	return req, nil
}

// parse reads a request in a protocol.
func parse(p protocol.Protocol, r *http.Request, body []byte) (*protocol.Request, error) {
	text, err := message(p, r, body)
	if err != nil {
		return nil, err
	}
	return p.Parse(text)
}

// message is a request for a protocol to read. The error is protocol.ErrAlone where there is no JSON, or a *protocol.Fault.
func message(p protocol.Protocol, r *http.Request, body []byte) (protocol.Message, error) {
	text := protocol.Message{Body: body}
	if _, ok := p.(protocol.OIP); ok {
		var err error
		var raw bool
		if text.Header, raw, err = headerLength(r.Header, len(body)); err != nil {
			return text, err
		}
		if raw {
			return text, protocol.ErrAlone
		}
	}
	return text, nil
}

// headerLength is how much of a body, which has so many bytes, is JSON where tensors in binary follow; 0 where all of it
// is. raw says that there is no JSON at all.
func headerLength(header http.Header, length int) (text int, raw bool, err error) {
	values := header[protocol.HeaderLength]
	if len(values) == 0 {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 31)
	switch {
	case len(values) > 1:
		return 0, false, &protocol.Fault{Where: protocol.HeaderLength, Reason: "there twice"}
	case err != nil:
		return 0, false, &protocol.Fault{Where: protocol.HeaderLength, Reason: fmt.Sprintf("%.40q is not a number of bytes", values[0])}
	case int(n) > length:
		return 0, false, &protocol.Fault{Where: protocol.HeaderLength, Reason: fmt.Sprintf("%d bytes, and the body has %d", n, length)}
	case int(n) == length:
		return 0, false, nil
	}
	return int(n), n == 0, nil
}

// passBody passes on a request whose body was read.
func (m *model) passBody(w http.ResponseWriter, r *http.Request, d *demand, body []byte) int {
	r.Body = io.NopCloser(bytes.NewReader(bytes.Clone(body))) // a transport may read it after the answer
	r.ContentLength = int64(len(body))
	return m.pass(w, r, d, true)
}

// inferOne queues a request and writes its answer.
func (m *model) inferOne(w http.ResponseWriter, req *request) int {
	a := m.result(req)
	if a == nil {
		return req.demand.form.writeGone(w)
	}
	defer a.release()
	return m.write(w, req.demand.form, a)
}

// result queues a request and waits for its answer, which is the caller's to release; nil where the client went. The body is released.
func (m *model) result(req *request) *answer {
	// Nothing but the client's leave ends such a call before the model's timeout does, and that ends it at once.
	req.willing = req.terms.Deadline.IsZero() && m.config.Cancel != cancelDrain
	if refusal := m.enqueue(req); refusal != nil {
		req.spans().refused(refusal.shed)
		req.body.release()
		return refusal
	}
	if req.send != nil {
		stop := context.AfterFunc(req.incoming.Context(), func() { m.leave(req) })
		req.send()
		if !stop() {
			m.leave(req)
		}
		if req.gone() {
			return nil
		}
	}
	deadline, stop := m.untilDeadline(req.terms)
	defer stop()
	select {
	case <-req.done:
	case <-deadline:
		if req.state.CompareAndSwap(waiting, gone) { // for the batch it is as if the client had gone
			m.quit(req)
			return m.pastDeadline()
		}
		<-req.done
	case <-req.incoming.Context().Done():
		if m.leave(req) {
			return nil
		}
		<-req.done // the answer came at the same time
	}
	return req.answer
}

// leave takes note of a client that goes, unless its answer is there, and reports whether.
func (m *model) leave(req *request) bool {
	if !req.state.CompareAndSwap(waiting, gone) {
		return false
	}
	m.proxy.metrics.cancelled.WithLabelValues(m.config.Name, m.quit(req)).Inc()
	return true
}

// write sends an answer that came out of the queue, and returns its status.
func (m *model) write(w http.ResponseWriter, f form, a *answer) int {
	if a.shed != "" {
		m.proxy.metrics.shed.WithLabelValues(m.config.Name, a.shed).Inc()
	}
	m.proxy.sendElsewhere(w)
	return a.write(w, f)
}

// laneKey is everything that requests must have in common to share a batch.
func (m *model) laneKey(r *http.Request, p protocol.Protocol, parsed *protocol.Request) []byte {
	key := make([]byte, 0, 256)
	key = append(key, p.Name()...)
	key = append(key, 0)
	key = append(key, r.URL.EscapedPath()...)
	key = append(key, '?')
	key = append(key, r.URL.RawQuery...)
	key = append(key, 0)
	key = appendHeaders(key, r.Header, m.ignore)
	key = append(key, 0)
	return append(key, parsed.Key...)
}

// unread answers a request whose body could not be read, and returns the status, clientGone where the client went. The model
// is empty where it is not known yet.
func (p *Proxy) unread(w http.ResponseWriter, r *http.Request, err error, model string, f form) int {
	_, cut := errors.AsType[*http.MaxBytesError](err)
	switch {
	case cut || errors.Is(err, errTooLarge):
		return f.writeError(w, http.StatusRequestEntityTooLarge, tooLarge("body", int64(p.config.Limits.MaxBody)))
	case errors.Is(err, errNoRoom):
		if model != "" {
			p.metrics.shed.WithLabelValues(model, "bytes").Inc()
		}
		return f.writeRetry(w, http.StatusTooManyRequests, time.Second, err.Error())
	case errors.Is(err, os.ErrDeadlineExceeded): // before the context, which the server ends with the connection
		return f.writeError(w, http.StatusRequestTimeout, "body: did not come in time")
	case r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF):
		if model != "" {
			p.metrics.cancelled.WithLabelValues(model, "queued").Inc()
		}
		return f.writeGone(w)
	default:
		return f.writeError(w, http.StatusBadRequest, "body: cannot be read: "+err.Error())
	}
}
