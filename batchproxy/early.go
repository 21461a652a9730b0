package batchproxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flyball/batchproxy/protocol"
)

// A large request that will ride alone is sent on while it comes: to take all of it and to send it then has the replica wait for
// it twice. Its last piece is kept back. Without that it is no request yet, and a replica does nothing for it. Only when all is here, and
// a glance has shown that it may go as it is, the rest follows; if it may not, or its client turns out to be slow, the connection is
// closed, and the request goes as any other: all of it is in memory.

const (
	// earlyFrom is how large a body must be for this to be worth a replica's connection: some ten pieces.
	earlyFrom = 256 << 10
	// earlyStart is how much of it must have come: its client does send.
	earlyStart = 64 << 10
	// earlyPiece is how much is taken and sent at a time: less costs more system calls, more has the replica wait longer for the last.
	earlyPiece = 128 << 10
	// earlyTime is how long a replica may have a part of a request, whatever holds up the rest: servers that do one thing at a time
	// do nothing else then.
	earlyTime = 200 * time.Millisecond
	// earlyDial is how long a connection may take to open.
	earlyDial = 100 * time.Millisecond
	// earlyRest is how many requests are not sent early where again and again one could not be: one at first, then twice as many each time.
	earlyRest = 1024
)

// early is a request that is being sent while it comes. Its handler has it until it is queued.
type early struct {
	m     *model
	w     *wire
	r     *http.Request // the client's
	body  *buffer       // what has come
	size  int           // of all of it
	tried bool          // whether it can be sent early was looked at

	to       *replica  // counts it as a call until it is given back
	given    sync.Once // back
	conn     *wireConn // nil where it is not sent early
	out      *http.Request
	sent     int               // bytes of the body
	unbroken protocol.Unbroken // what was seen of it as it came
	late     *time.Timer       // closes the connection
	taken    atomic.Bool       // by its batch, or by its handler for good
	from     io.Reader         // the client's body
}

// earlyOf is a request that may be sent early, by its headers; nil where it is none.
func (m *model) earlyOf(r *http.Request, p protocol.Protocol, body *buffer, from io.Reader) *early {
	w, ok := m.proxy.transport.(*wire)
	if !ok || !canTellQuiet || r.ContentLength < earlyFrom || !m.config.batches(p) || len(r.Header[protocol.HeaderLength]) > 0 || m.proxy.spansOf(r).recording() {
		return nil // spans begin with a batch, and its headers say so
	}
	return &early{m: m, w: w, r: r, body: body, size: int(r.ContentLength), from: from}
}

// Read implements io.Reader: it reads the client's body, after it has sent on what has come before.
func (e *early) Read(p []byte) (int, error) {
	have := len(e.body.b)
	switch {
	case have < earlyStart || have >= e.size:
	case !e.tried:
		e.tried = true
		e.begin()
	case e.conn != nil && have-e.sent >= earlyStart:
		e.send(have)
	}
	if e.conn != nil {
		p = p[:min(len(p), earlyPiece)]
	}
	n, err := e.from.Read(p)
	if e.conn != nil {
		e.unbroken.Add(p[:n], have)
	}
	return n, err
}

// seen is what is known of the body.
func (e *early) seen() protocol.Unbroken {
	if e == nil {
		return protocol.Unbroken{}
	}
	return e.unbroken
}

// begin sends the first part, if the request will ride alone and there is a replica to have it.
func (e *early) begin() {
	if e.to = e.m.takeEarly(); e.to == nil {
		return
	}
	ctx, cancel := context.WithTimeout(e.r.Context(), earlyDial)
	defer cancel()
	e.out = e.m.single(e.to, e.r, int64(e.size))
	conn, err := e.w.take(ctx, e.out.URL.Host, e.m.network)
	if err != nil {
		e.giveBack()
		e.m.missEarly()
		return
	}
	e.conn = conn
	e.late = time.AfterFunc(e.m.proxy.patience, func() {
		_ = conn.Close()
		e.giveBack() // its client may take minutes yet
	})
	e.send(len(e.body.b))
}

// later is the body of a request whose headers are written by themselves: when it is asked for, they were.
type later struct{ asked bool }

func (l *later) Read([]byte) (int, error) {
	l.asked = true
	return 0, io.ErrUnexpectedEOF
}

func (l *later) Close() error { return nil }

// send sends on what has come so far, with the headers where they were not, but for white space at its end and the byte before it: were
// that all, the replica would have the whole of a JSON text. Where it fails, the request is one that is not sent early.
func (e *early) send(have int) {
	upTo := len(bytes.TrimRight(e.body.b[:have], " \n\t\r")) - 1
	if upTo <= e.sent {
		return
	}
	pieces := make(net.Buffers, 0, 2)
	if e.sent == 0 {
		f := e.w.frame()
		defer e.w.frames.Put(f)
		body := new(later)
		e.out.Body = body
		if _ = e.out.Write(f); !body.asked {
			e.fail()
			return
		}
		pieces = append(pieces, f.b)
	}
	pieces = append(pieces, e.body.b[e.sent:upTo])
	if _, err := pieces.WriteTo(e.conn.Conn); err != nil {
		e.fail()
		return
	}
	e.sent = upTo
}

// fail has the request go as any other.
func (e *early) fail() {
	e.late.Stop()
	_ = e.conn.Close()
	e.conn = nil
	e.giveBack()
	e.m.missEarly()
}

// giveBack has the replica not count the request any more.
func (e *early) giveBack() { e.given.Do(func() { e.m.giveEarly(e.to) }) }

// read is to be told when all has come, or will not.
func (e *early) read() {
	if e != nil && e.to != nil {
		e.giveBack()
	}
}

// drop is to be told when the handler ends: a request that has not been given to a batch as it is sent early will not be.
func (e *early) drop() {
	if e != nil && e.taken.CompareAndSwap(false, true) && e.conn != nil {
		e.fail()
	}
}

// finish sends the rest to the replica of its batch, and returns the answer. It reports false where the replica cannot have all of the
// request, which is then to be sent as any other.
func (e *early) finish(ctx context.Context, to *replica) (resp *http.Response, all bool, err error) {
	if e == nil || !e.taken.CompareAndSwap(false, true) || e.conn == nil {
		return nil, false, nil
	}
	if to != e.to || e.sent == 0 || !e.late.Stop() || !e.conn.quiet() { // the last: an answer that is here before its request is, or none
		e.fail()
		return nil, false, nil
	}
	c := e.conn
	c.hold(ctx)
	if _, err := c.Write(e.body.b[e.sent:]); err != nil {
		_ = c.failed(ctx, err)
		e.m.missEarly()
		return nil, false, nil
	}
	resp, err = c.await(ctx, e.out, e.m.network)
	e.m.hitEarly()
	return resp, true, err
}

// takeEarly is the replica for a request that may be sent early, to be given back by giveEarly; nil where there is none.
func (m *model) takeEarly() *replica {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	alone := m.widens && m.batcher.passing() || m.alone() && m.nobody()
	if m.closed || m.batcher.Len() > 0 || len(m.again) > 0 || !alone {
		return nil
	}
	if !m.earlier.over() {
		return nil
	}
	if slices.ContainsFunc(m.picker.replicas, func(r *replica) bool { return r.url.Scheme != "http" || !withPort(r.url.Host) }) {
		return nil // before one is chosen: it would have had its turn
	}
	to := m.picker.forCall(now, 0)
	if to == nil || to.outlier.halfOpen {
		return nil
	}
	to.calls++
	return to
}

// giveEarly gives back the replica of a request of which all has come, or which it has no part of any more.
func (m *model) giveEarly(to *replica) {
	m.mu.Lock()
	defer m.mu.Unlock()
	to.calls--
	m.settle(to)
	if m.batcher.Len() > 0 || len(m.again) > 0 { // for which the replica may be ready that was tried with this
		m.pump(time.Now()) // serves those that wait for room too
		return
	}
	m.serveCallers(time.Now())
}

// missEarly takes note of a request that could not be sent early after all: the next ones are not for a while, longer each time.
func (m *model) missEarly() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.earlier.miss(earlyRest)
}

// hitEarly takes note of one that was.
func (m *model) hitEarly() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.earlier.hit()
}
