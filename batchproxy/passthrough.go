package batchproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// pass sends a request on as it is to one replica, and returns the status of its answer. Streams are flushed as they
// come.
func (m *model) pass(w http.ResponseWriter, r *http.Request, d *demand, counted bool) (code int) {
	limit := int64(m.proxy.config.Limits.MaxBody)
	if r.ContentLength > limit {
		return d.form.writeError(w, http.StatusRequestEntityTooLarge, tooLarge("body", limit))
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	to := m.takeForCall()
	if to == nil {
		return d.form.writeRetry(w, http.StatusServiceUnavailable, time.Second, fmt.Sprintf("model %q has no ready replica", m.config.Name))
	}
	defer m.giveCall(to)
	if counted {
		d.running.Inc()
		defer d.running.Dec()
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(m.proxy.base, cancel)()
	body := &clientBody{ReadCloser: r.Body}
	r.Body = body
	rec := &recorder{ResponseWriter: w, code: http.StatusOK}
	defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }() // see recorder.Write
	to.forward.ServeHTTP(rec, r.WithContext(ctx))
	switch fault := body.fault.Load(); {
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
		m.refused(to)
		return d.form.writeRetry(w, http.StatusServiceUnavailable, time.Second, fmt.Sprintf("model %q: replica %s cannot be reached", m.config.Name, to.address))
	default:
		return d.form.writeError(w, http.StatusBadGateway, fmt.Sprintf("model %q: replica %s: %s", m.config.Name, to.address, plainError(rec.err)))
	}
}

// clientBody remembers why a client's body could not be read, for which a replica is not to blame.
type clientBody struct {
	io.ReadCloser
	fault atomic.Pointer[error] // a transport reads in a goroutine of its own
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.fault.Store(&err)
	}
	return n, err
}

// recorder remembers the status of an answer, or why there is none, and gives up clients that do not take theirs.
type recorder struct {
	http.ResponseWriter
	code int
	err  error
}

func (r *recorder) WriteHeader(code int) {
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	control := http.NewResponseController(r.ResponseWriter)
	_ = control.SetWriteDeadline(time.Now().Add(takeTime)) // for the flush that follows too
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find Flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// forwarder is the reverse proxy to a replica, which writes to a recorder.
func (m *model) forwarder(to *replica) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to.url)
			pr.SetXForwarded()
		},
		Transport:  m.proxy.transport,
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
