package batchproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// pass sends a request on as it is to one replica, and returns the status of its answer. Streams are flushed as they
// come.
func (m *model) pass(w http.ResponseWriter, r *http.Request, d *demand, counted bool) (code int) {
	limit := int64(m.proxy.config.Limits.MaxBody)
	if r.ContentLength > limit {
		return writeError(w, http.StatusRequestEntityTooLarge, tooLarge("body", limit))
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	to := m.takeForCall()
	if to == nil {
		return writeRetry(w, http.StatusServiceUnavailable, time.Second, fmt.Sprintf("model %q has no ready replica", m.config.Name))
	}
	defer m.giveCall(to)
	if counted {
		d.running.Inc()
		defer d.running.Dec()
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(m.proxy.base, cancel)()
	recorder := &recorder{ResponseWriter: w, code: http.StatusOK}
	to.forward.ServeHTTP(recorder, r.WithContext(ctx))
	if r.Context().Err() != nil {
		if counted {
			m.proxy.metrics.cancelled.WithLabelValues(m.config.Name, "in_batch").Inc()
		}
		return 0
	}
	return recorder.code
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController find Flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// forwarder is the reverse proxy to a replica.
func (m *model) forwarder(to *replica) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to.url)
			pr.SetXForwarded()
		},
		Transport:  m.proxy.transport,
		BufferPool: &m.proxy.copies,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			switch _, tooLargeBody := errors.AsType[*http.MaxBytesError](err); {
			case tooLargeBody:
				writeError(w, http.StatusRequestEntityTooLarge, tooLarge("body", int64(m.proxy.config.Limits.MaxBody)))
			case unsent(err):
				m.refused(to)
				writeRetry(w, http.StatusServiceUnavailable, time.Second, fmt.Sprintf("model %q: replica %s cannot be reached", m.config.Name, to.address))
			case r.Context().Err() != nil:
				writeError(w, http.StatusServiceUnavailable, "the request was given up")
			default:
				writeError(w, http.StatusBadGateway, fmt.Sprintf("model %q: replica %s: %s", m.config.Name, to.address, plainError(err)))
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
