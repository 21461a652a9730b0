package batchproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// pass sends a request on as it is to one replica, and returns the status of its answer. Streams are flushed as they
// come.
func (m *model) pass(w http.ResponseWriter, r *http.Request, d *demand, counted bool) (code int) {
	came := time.Now()
	limit := int64(m.proxy.config.Limits.MaxBody)
	if r.ContentLength > limit {
		return d.form.writeError(w, http.StatusRequestEntityTooLarge, tooLarge("body", limit))
	}
	var body *clientBody // of a body that is sent on as it comes
	if r.ContentLength > 0 && r.ContentLength <= inOneWrite && len(r.Header["Expect"]) == 0 {
		if err := whole(r); err != nil {
			return m.proxy.unread(w, r, err, m.config.Name, d.form)
		}
	} else {
		body = &clientBody{ReadCloser: http.MaxBytesReader(w, r.Body, limit)}
		r.Body = body
	}
	var at seat
	spans := m.proxy.spansOf(r)
	if counted && m.config.Limit.Concurrent != 0 {
		var refusal *answer
		asked := time.Now()
		at, refusal = m.turn(r.Context(), d, m.classOf(r), beginWithin(r.Header))
		spans.waited(asked, time.Now(), refusal)
		switch {
		case refusal == nil:
		case refusal.code == clientGone:
			m.proxy.metrics.cancelled.WithLabelValues(m.config.Name, "queued").Inc()
			return d.form.writeGone(w)
		default:
			return m.write(w, d.form, refusal)
		}
	} else if at.to = m.takeForCall(); at.to == nil {
		return m.write(w, d.form, m.noReplica())
	}
	to := at.to
	defer m.giveCall(at)
	if counted {
		d.running.Inc()
		defer d.running.Dec()
	}
	ctx := r.Context()
	if m.config.Cancel == cancelDrain {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rec := &recorder{ResponseWriter: w, proxy: m.proxy, code: http.StatusOK, began: time.Now(), drains: m.config.Cancel == cancelDrain, closes: closesAfter(r)}
	defer rec.account()
	defer rec.forget()
	ctx, span := spans.passes(ctx, m, to, r, rec.began)
	if span != nil {
		defer func() { passed(span, rec, r.Context().Err() != nil) }()
	}
	if counted && generates(r) {
		rec.begin = func(code int, header http.Header) *meter { return newMeter(d.generation(), came, code, header) }
		defer func() {
			if rec.meter != nil {
				rec.meter.end(!rec.whole, r.Context().Err() != nil)
			}
		}()
	}
	m.proxy.passing.add(rec, cancel)
	defer m.proxy.passing.remove(rec)
	began := time.Now()
	if at.limited {
		rec.call = &limitedCall{m: m, at: at, began: began}
		rec.body = body
		defer rec.call.forgotten()
	}
	if counted {
		defer func() {
			gone := r.Context().Err() != nil || ctx.Err() != nil || body.faultOf() != nil
			m.sawCall(to, rec, began, gone)
			if rec.call != nil {
				rec.call.ended(rec, gone)
			}
		}()
	}
	to.forward.ServeHTTP(rec, r.WithContext(ctx))
	rec.whole = rec.err == nil // an answer that breaks off ends in a panic
	switch fault := body.faultOf(); {
	case rec.err == nil && r.Context().Err() == nil:
		return rec.code
	case rec.err != nil && fault != nil:
		return m.proxy.unread(w, r, *fault, m.config.Name, d.form)
	case r.Context().Err() != nil:
		if counted {
			m.proxy.metrics.cancelled.WithLabelValues(m.config.Name, "in_batch").Inc()
		}
		if rec.err == nil {
			return clientGone
		}
		return d.form.writeGone(w)
	case m.proxy.base.Err() != nil:
		return d.form.writeRetry(w, http.StatusServiceUnavailable, time.Second, "the proxy is shutting down")
	case unsent(rec.err):
		m.refused(to, rec.err)
		return d.form.writeRetry(w, http.StatusServiceUnavailable, time.Second, fmt.Sprintf("model %q: replica %s cannot be reached", m.config.Name, to.address))
	default:
		return d.form.writeError(w, http.StatusBadGateway, fmt.Sprintf("model %q: replica %s: %s", m.config.Name, to.address, plainError(rec.err)))
	}
}

// whole reads the body of a request whose length is known and small, and makes it one that can be sent again where a kept connection
// turns out to be closed. Its client may then be slow without holding a replica. What is sent is GetBody's: see forwarder.
func whole(r *http.Request) error {
	text := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, text); err != nil {
		return err // which unread puts into words
	}
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	return nil
}

// passing are the requests that are passed on, to be given up when the drain is over. One list for all of them costs each less than
// a context.AfterFunc of its own.
type passing struct {
	mu    sync.Mutex
	over  bool
	calls map[*recorder]context.CancelFunc
}

func (p *passing) add(r *recorder, cancel context.CancelFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		cancel()
		return
	}
	if p.calls == nil {
		p.calls = make(map[*recorder]context.CancelFunc)
	}
	p.calls[r] = cancel
}

func (p *passing) remove(r *recorder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, r)
}

// giveUp cancels those that there are and all that still come.
func (p *passing) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for _, cancel := range p.calls {
		cancel()
	}
}

// clientBody remembers why a client's body could not be read, for which a replica is not to blame.
type clientBody struct {
	io.ReadCloser
	fault atomic.Pointer[error]     // a transport reads in a goroutine of its own
	ended atomic.Pointer[time.Time] // when all of it was read
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		now := time.Now()
		b.ended.CompareAndSwap(nil, &now)
	default:
		b.fault.Store(&err)
	}
	return n, err
}

// endedAt is when all of it was read, zero where it was not. A body that was read as a whole has none.
func (b *clientBody) endedAt() time.Time {
	if b == nil {
		return time.Time{}
	}
	if at := b.ended.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// faultOf is why it could not be read, nil where it could. A body that was read as a whole has none.
func (b *clientBody) faultOf() *error {
	if b == nil {
		return nil
	}
	return b.fault.Load()
}

// recorder remembers the status of an answer, or why there is none, and gives up clients that do not take theirs.
type recorder struct {
	http.ResponseWriter
	proxy   *Proxy
	begin   func(code int, header http.Header) *meter // nil where the answer is not measured
	meter   *meter                                    // nil where it is not, or says nothing
	drains  bool                                      // the answer is taken from the replica to its end, whether the client takes it or not
	gone    bool                                      // the client does not
	whole   bool                                      // the answer was passed on to its end
	flushed bool                                      // all that was written is with the connection
	code    int
	err     error
	written int  // bytes that the server may not have written to the connection yet
	limited bool // a write deadline is set
	began   time.Time
	call    *limitedCall // of a replica whose limit is learned; nil otherwise
	body    *clientBody  // with call
	stream  bool         // with call: the answer is a stream of events
	piece   time.Time    // with stream: when the first of them came
	closes  bool         // the connection ends with the answer
}

func (r *recorder) WriteHeader(code int) {
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols {
		r.code = code
		addTiming(r.Header(), string(appendDuration(append(make([]byte, 0, 32), "upstream"...), time.Since(r.began))))
		if r.proxy.sendElsewhere(r.ResponseWriter); r.closes {
			r.Header()["Connection"] = []string{"close"}
		}
		if r.begin != nil {
			r.meter = r.begin(code, r.Header())
		}
		if r.call != nil {
			r.stream = strings.HasPrefix(strings.ToLower(r.Header().Get("Content-Type")), "text/event-stream")
			if at := r.body.endedAt(); at.After(r.call.began) {
				r.call.began = at // the replica had all of the question no sooner
			}
			if code < http.StatusBadRequest && !r.stream && r.Header().Get("Content-Length") != "" { // it has all of the answer
				r.call.answered(time.Now())
			}
		}
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	n, err := len(p), error(nil)
	if !r.gone {
		n, err = r.send(p)
	}
	if r.drains && err != nil {
		n, err, r.gone = len(p), nil, true
	}
	return n, err
}

// send writes to the client.
func (r *recorder) send(p []byte) (int, error) {
	if r.written += len(p); r.written > atOnce { // less does not reach the connection before it is flushed, or is all there is
		r.limit()
	}
	if r.stream && r.piece.IsZero() {
		r.piece = time.Now()
	}
	if r.meter == nil {
		if r.stream {
			r.call.answered(r.piece)
		}
		return r.ResponseWriter.Write(p)
	}
	n, err := r.ResponseWriter.Write(p)
	if r.meter.stream && err == nil { // the client has it before it is looked at
		err = r.FlushError()
		r.flushed = err == nil
	}
	now := time.Now()
	r.meter.pass(now, p[:n])
	if r.stream && !r.meter.last.IsZero() {
		r.call.answered(now)
	}
	return n, err
}

// account notes how long the replica took for all of its answer.
func (r *recorder) account() {
	if a := accountOf(r.ResponseWriter); a != nil {
		a.upstream = time.Since(r.began)
	}
}

// FlushError lets http.ResponseController flush, as ReverseProxy does for each piece of a stream.
func (r *recorder) FlushError() error {
	if r.flushed || r.gone {
		r.flushed = false
		return nil
	}
	r.limit()
	r.written = 0
	err := http.NewResponseController(r.ResponseWriter).Flush()
	if r.drains && err != nil {
		r.gone, err = true, nil
	}
	return err
}

// Hijack implements http.Hijacker: the answer, which is written to the connection itself, is that the protocol changes.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, both, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.code = http.StatusSwitchingProtocols
	}
	return conn, both, err
}

// limit gives the client its time to take what is written next.
func (r *recorder) limit() {
	r.limited = true
	_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(takeTime)) // a writer that has none does not wait either
}

// forget takes the deadline away: the connection may serve another request.
func (r *recorder) forget() {
	if r.limited {
		_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Time{})
	}
}

// Unwrap lets http.ResponseController find what else the writer can do.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// forwarder is the reverse proxy to a replica, which writes to a recorder.
func (m *model) forwarder(to *replica) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to.url)
			pr.SetXForwarded()
			if to := pr.Out.Header.Get("Upgrade"); to != "" && !strings.EqualFold(to, "websocket") {
				// Above all h2c: requests in such a connection would be seen by the replica alone.
				delete(pr.Out.Header, "Upgrade")
				delete(pr.Out.Header, "Connection")
			}
			if m.proxy.tracer != nil && trace.SpanFromContext(pr.In.Context()).IsRecording() {
				inject(pr.In.Context(), pr.Out.Header)
			}
			if whole := pr.In.GetBody; whole != nil {
				// In place of ReverseProxy's wrapper, behind which net/http would not see that it is in memory. It cannot fail.
				pr.Out.Body, _ = whole()
			}
		},
		Transport:  toReplicas{m},
		BufferPool: &m.proxy.copies,
		// What it logs is an answer that broke off, which the client sees.
		ErrorLog: slog.NewLogLogger(m.proxy.logger.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if rec, ok := w.(*recorder); ok {
				rec.err = err
			}
		},
	}
}

// unsent reports whether an error means that the request surely did not reach the replica.
func unsent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// plainError is an error's text without the addresses of connections, which mean nothing to a client.
func plainError(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Op + ": " + op.Err.Error()
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}

func tooLarge(what string, limit int64) string {
	return fmt.Sprintf("%s is larger than the limit of %d bytes", what, limit)
}

// copies is a pool of the buffers that bodies are copied with.
type copies struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (c *copies) Get() []byte {
	if b, ok := c.pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

// Put implements httputil.BufferPool.
func (c *copies) Put(b []byte) { c.pool.Put((*[32 << 10]byte)(b)) }
