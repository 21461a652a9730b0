package batchproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"flyball/batchproxy/protocol"
)

// infer serves a request that may be batched, and returns the status of its answer, clientGone where the client went first. It
// reads and checks the request before it queues it, so that a slow client or a wrong body holds up nobody.
func (m *model) infer(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand) int {
	if encoding := strings.Join(r.Header["Content-Encoding"], ","); encoding != "" && !strings.EqualFold(encoding, "identity") {
		w.Header().Set("Accept-Encoding", "identity")
		return writeError(w, http.StatusUnsupportedMediaType, fmt.Sprintf("body: encoded as %.40q: send it as plain JSON", encoding))
	}
	limits := m.proxy.config.Limits
	body := m.proxy.buffers.get()
	err := body.readFrom(http.MaxBytesReader(w, r.Body, int64(limits.MaxBody)), r.ContentLength, int64(limits.MaxBody), int64(limits.MaxInflightBytes))
	if err != nil {
		body.release()
		return m.unread(w, r, err)
	}
	parsed, err := p.Parse(body.b)
	if errors.Is(err, protocol.ErrAlone) {
		defer body.release()
		r.Body = io.NopCloser(bytes.NewReader(bytes.Clone(body.b))) // a transport may read it after the answer
		r.ContentLength = int64(len(body.b))
		return m.pass(w, r, d, true)
	}
	if err != nil {
		body.release()
		return writeError(w, http.StatusBadRequest, err.Error())
	}
	req := &request{
		protocol: p, parsed: parsed, body: body, incoming: r, demand: d,
		key: m.laneKey(r, p, parsed), done: make(chan struct{}),
	}
	if refusal := m.enqueue(req); refusal != nil {
		body.release()
		return refusal.write(w)
	}
	select {
	case <-req.done:
	case <-r.Context().Done():
		if req.state.CompareAndSwap(waiting, gone) {
			m.quit(req)
			return writeGone(w)
		}
		<-req.done // the answer came at the same time
	}
	defer req.answer.release()
	if m.proxy.isDraining() {
		w.Header().Set("Connection", "close") // the client's next request shall go elsewhere
	}
	return req.answer.write(w)
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

// unread answers a request whose body could not be read, and returns the status, clientGone where the client went.
func (m *model) unread(w http.ResponseWriter, r *http.Request, err error) int {
	_, cut := errors.AsType[*http.MaxBytesError](err)
	switch {
	case cut || errors.Is(err, errTooLarge):
		return writeError(w, http.StatusRequestEntityTooLarge, tooLarge("body", int64(m.proxy.config.Limits.MaxBody)))
	case errors.Is(err, errNoRoom):
		m.proxy.metrics.shed.WithLabelValues(m.config.Name, "bytes").Inc()
		return writeRetry(w, http.StatusTooManyRequests, time.Second, err.Error())
	case errors.Is(err, os.ErrDeadlineExceeded): // before the context, which the server ends with the connection
		return writeError(w, http.StatusRequestTimeout, "body: did not come in time")
	case r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF):
		m.proxy.metrics.cancelled.WithLabelValues(m.config.Name, "queued").Inc()
		return writeGone(w)
	default:
		return writeError(w, http.StatusBadRequest, "body: cannot be read: "+err.Error())
	}
}
