package batchproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// wire is the transport to replicas. A small request whose body is in memory it sends, and takes the answer of, in its caller's own
// goroutine: http.Transport hands each to a goroutine that writes and one that reads, which costs as much as the sending. It
// reads and writes by net/http's own code, and to its caller it is as http.Transport is, which gets all other requests: those whose
// body comes from a client or is so large that a replica may answer before it has read it, those to replicas by TLS, and those that
// ask for another protocol.
type wire struct {
	*http.Transport
	open   func(ctx context.Context, protocol, address string) (net.Conn, error) // a connection
	frames sync.Pool

	mu      sync.Mutex
	idle    map[string][]*wireConn // by host:port, in the order of their last use
	waiting map[string][]*dialing  // by host:port: those that would rather have a connection that becomes idle, in the order in which they came
	spare   map[*dialing]bool      // those whose request has had another connection
	sweep   *time.Timer            // closes those that are of no more use; nil where none is kept
}

func newWire(t *http.Transport) *wire {
	w := &wire{
		Transport: t, open: t.DialContext, idle: make(map[string][]*wireConn), waiting: make(map[string][]*dialing), spare: make(map[*dialing]bool),
	}
	t.DialContext = w.dialContext
	return w
}

// wireConn is a connection to a replica. One goroutine at a time has it.
type wireConn struct {
	net.Conn
	wire    *wire
	address string
	raw     syscall.RawConn
	reader  *bufio.Reader
	left    int64     // bytes that may be read until it is too much for headers
	read    int64     // bytes that were, of this answer
	reused  bool      // it was kept: its replica may have closed it since
	used    time.Time // last
	stop    func() bool
}

// Read implements io.Reader, within the limit.
func (c *wireConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("the headers of the answer are too large")
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.read += int64(n)
	return n, err
}

const (
	// mostHeader is how many bytes an answer's headers may have, as http.Transport has it.
	mostHeader = 10 << 20
	wireBuffer = 16 << 10
	// sweepEvery is how often connections without a request are looked at. Nobody reads from them, so that one which its replica has
	// closed would be held, with its file descriptor, until it is taken for a request.
	sweepEvery = 5 * time.Second
)

// takes reports whether a request is one to send here. Its body is no larger than what a connection's buffers take, so that writing
// it does not wait for the replica to read it.
func (w *wire) takes(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		return false
	}
	inMemory := r.ContentLength > 0 && r.ContentLength <= inOneWrite && r.GetBody != nil
	if !inMemory && (r.ContentLength != 0 || r.Body != nil && r.Body != http.NoBody) {
		return false
	}
	if r.URL.Scheme != "http" || r.Close || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 || !withPort(r.URL.Host) {
		return false
	}
	for _, name := range []string{"Upgrade", "Expect", "Connection"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	return canTellQuiet
}

// withPort reports whether a host has a port and is plain ASCII.
func withPort(host string) bool {
	colon := strings.LastIndexByte(host, ':')
	if colon < 0 || colon == len(host)-1 || host[len(host)-1] == ']' {
		return false
	}
	for i := range len(host) {
		if host[i] >= 0x80 {
			return false
		}
	}
	return true
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) { return w.roundTrip(r, nil) }

// roundTrip sends a request whose time in the network is taken by n.
func (w *wire) roundTrip(r *http.Request, n *network) (*http.Response, error) {
	if !w.takes(r) {
		if n != nil {
			r = r.WithContext(context.WithValue(r.Context(), forNetwork{}, n))
		}
		return w.Transport.RoundTrip(r)
	}
	for ctx := r.Context(); ; {
		c, err := w.take(ctx, r.URL.Host, n)
		if err != nil {
			closeBody(r)
			return nil, err
		}
		resp, sent, err := c.roundTrip(ctx, r, n)
		// A replica may close a connection at any time that it has nothing to do. What it cannot have seen is sent again, and what
		// it may have seen only if that makes no difference.
		if err == nil || !c.reused || ctx.Err() != nil || c.read > 0 || sent && !repeatable(r) {
			return resp, err
		}
		if r.GetBody != nil {
			again := *r
			if again.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
			r = &again
		}
	}
}

// repeatable reports whether a request may be sent twice, as http.Transport has it.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	_, keyed := r.Header["Idempotency-Key"]
	return keyed
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// take is a connection that was kept and has nothing to be read, or a new one. While it is being made, one that becomes idle is taken
// instead, and the new one is kept for another request.
func (w *wire) take(ctx context.Context, address string, n *network) (*wireConn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var d *dialing
	for {
		c := w.kept(address)
		switch {
		case c != nil:
		case d == nil:
			d = w.dial(ctx, address, n)
			continue // for what became idle before it was waited for
		default:
			select {
			case c = <-d.given:
			case <-d.made:
				w.unwait(d)
				return d.conn, d.err
			}
		}
		if c.quiet() {
			c.reused = true
			if d != nil {
				w.spareIt(d)
			}
			return c, nil
		}
		_ = c.Close()
		if d != nil {
			w.wait(d)
		}
	}
}

// dialing is a connection that is being made for a request.
type dialing struct {
	address string
	given   chan *wireConn     // has room for one: another that has become idle
	made    chan struct{}      // is closed when conn and err are set
	cancel  context.CancelFunc // gives it up
	conn    *wireConn
	err     error
}

// dial begins to make a connection. It is given up with ctx or, where its request has had another by then, at ctx's deadline.
func (w *wire) dial(ctx context.Context, address string, n *network) *dialing {
	d := &dialing{address: address, given: make(chan *wireConn, 1), made: make(chan struct{})}
	own := context.WithoutCancel(ctx)
	if deadline, ok := ctx.Deadline(); ok { // its error says that it was the time
		own, d.cancel = context.WithDeadline(own, deadline)
	} else {
		own, d.cancel = context.WithCancel(own)
	}
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) && !w.isSpare(d) {
			d.cancel()
		}
	})
	w.wait(d)
	go func() { // for as long as the dialer's timeout at most
		defer d.cancel()
		defer stop()
		d.conn, d.err = w.connect(own, address, n)
		w.mu.Lock()
		defer w.mu.Unlock()
		spare := w.spare[d]
		delete(w.spare, d)
		close(d.made)
		switch {
		case !spare || d.err != nil:
		case own.Err() != nil: // all that nobody uses are closed
			_ = d.conn.Close()
		default:
			w.keepLocked(d.conn)
		}
	}()
	return d
}

func (w *wire) connect(ctx context.Context, address string, n *network) (*wireConn, error) {
	conn, err := w.count(ctx, "tcp", address, n)
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: conn, wire: w, address: address}
	if s, ok := conn.(syscall.Conn); ok {
		if c.raw, err = s.SyscallConn(); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("connection: %w", err)
		}
	}
	c.reader = bufio.NewReaderSize(c, wireBuffer)
	return c, nil
}

// wait has a connection that becomes idle given to a request for which one is being made, unless one was that it has not looked at yet.
func (w *wire) wait(d *dialing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if all := w.waiting[d.address]; len(d.given) == 0 && !slices.Contains(all, d) {
		w.waiting[d.address] = append(all, d)
	}
}

// unwait takes a request out of those that wait. What it was given meanwhile is for the next.
func (w *wire) unwait(d *dialing) {
	w.mu.Lock()
	w.dropWaiting(d)
	w.mu.Unlock()
	select {
	case c := <-d.given:
		w.keep(c)
	default:
	}
}

// dropWaiting is for a holder of mu.
func (w *wire) dropWaiting(d *dialing) {
	if all := slices.DeleteFunc(w.waiting[d.address], func(other *dialing) bool { return other == d }); len(all) > 0 {
		w.waiting[d.address] = all
	} else {
		delete(w.waiting, d.address)
	}
}

// spareIt has the connection that is being made kept when it is there.
func (w *wire) spareIt(d *dialing) {
	w.unwait(d)
	w.mu.Lock()
	select {
	case <-d.made:
		w.mu.Unlock()
		if d.err == nil {
			w.keep(d.conn)
		}
	default:
		w.spare[d] = true
		w.mu.Unlock()
	}
}

func (w *wire) isSpare(d *dialing) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spare[d]
}

// kept takes the connection out that was used last, nil where there is none.
func (w *wire) kept(address string) *wireConn {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.idle[address]
	if len(all) == 0 {
		return nil
	}
	c := all[len(all)-1]
	all[len(all)-1] = nil
	w.idle[address] = all[:len(all)-1]
	return c
}

// keep keeps a connection for the next request, or gives it to one that waits.
func (w *wire) keep(c *wireConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keepLocked(c)
}

// keepLocked is keep for a holder of mu.
func (w *wire) keepLocked(c *wireConn) {
	c.used = time.Now()
	if all := w.waiting[c.address]; len(all) > 0 {
		first := all[0]
		w.dropWaiting(first)
		first.given <- c
		return
	}
	all := w.idle[c.address]
	if len(all) >= w.MaxIdleConnsPerHost {
		_ = c.Close()
		return
	}
	w.idle[c.address] = append(all, c)
	if w.sweep == nil {
		w.sweep = time.AfterFunc(min(sweepEvery, w.IdleConnTimeout), w.closeUnused)
	}
}

// closeUnused closes the connections that their replicas have closed, and those that were not used for as long as they are kept.
func (w *wire) closeUnused() {
	w.mu.Lock()
	addresses := slices.Collect(maps.Keys(w.idle))
	w.mu.Unlock()
	for _, address := range addresses { // a request waits for one at most
		w.closeUnusedOf(address)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.sweep == nil: // all of them are closed
	case len(w.idle) == 0:
		w.sweep = nil
	default:
		w.sweep.Reset(min(sweepEvery, w.IdleConnTimeout))
	}
}

func (w *wire) closeUnusedOf(address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	all := slices.DeleteFunc(w.idle[address], func(c *wireConn) bool {
		if now.Sub(c.used) < w.IdleConnTimeout && c.quiet() {
			return false
		}
		_ = c.Close()
		return true
	})
	if len(all) == 0 {
		delete(w.idle, address)
		return
	}
	w.idle[address] = all
}

// CloseIdleConnections closes the connections that have no request, those that are being made for none included.
func (w *wire) CloseIdleConnections() {
	w.Transport.CloseIdleConnections()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, all := range w.idle {
		for _, c := range all {
			_ = c.Close()
		}
	}
	clear(w.idle)
	for d := range w.spare {
		d.cancel()
	}
	if w.sweep != nil {
		w.sweep.Stop()
		w.sweep = nil
	}
}

// frame is a request as it is sent.
type frame struct{ b []byte }

// frame is an empty one, to be put back.
func (w *wire) frame() *frame {
	f, ok := w.frames.Get().(*frame)
	if !ok {
		f = &frame{b: make([]byte, 0, inOneWrite/4)}
	}
	f.b = f.b[:0]
	return f
}

// Write implements io.Writer, and never fails.
func (f *frame) Write(p []byte) (int, error) {
	f.b = append(f.b, p...)
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (f *frame) WriteString(s string) (int, error) {
	f.b = append(f.b, s...)
	return len(s), nil
}

// WriteByte implements io.ByteWriter, without which net/http puts a buffer of its own before it.
func (f *frame) WriteByte(c byte) error {
	f.b = append(f.b, c)
	return nil
}

// roundTrip sends a request and returns the answer, whose body gives the connection back. The connection is closed where there
// is an error; sent says that the replica may have seen of the request.
func (c *wireConn) roundTrip(ctx context.Context, r *http.Request, n *network) (resp *http.Response, sent bool, err error) {
	c.hold(ctx)
	if sent, err = c.send(r); err != nil {
		return nil, sent, c.failed(ctx, err)
	}
	resp, err = c.await(ctx, r, n)
	return resp, true, err
}

// hold has the connection closed when the request that it is used for from now on is given up.
func (c *wireConn) hold(ctx context.Context) {
	c.read, c.left = 0, mostHeader
	c.stop = context.AfterFunc(ctx, func() { _ = c.Close() })
}

// failed closes the connection, and returns why it cannot be used.
func (c *wireConn) failed(ctx context.Context, err error) error {
	c.stop()
	_ = c.Close()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// await takes the answer to a request that was written just now.
func (c *wireConn) await(ctx context.Context, r *http.Request, n *network) (*http.Response, error) {
	written := time.Now()
	resp, err := c.receive(ctx, r)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	n.answered(written, resp.Header)
	body := &wireBody{ctx: ctx, conn: c, from: resp.Body, keep: !resp.Close && resp.StatusCode != http.StatusSwitchingProtocols}
	if resp.Body == http.NoBody {
		body.end(true)
	} else {
		resp.Body = body
	}
	return resp, nil
}

// send writes the request in one system call, and reports whether any of it was.
func (c *wireConn) send(r *http.Request) (bool, error) {
	f := c.wire.frame()
	defer c.wire.frames.Put(f)
	if err := r.Write(f); err != nil {
		return false, err
	}
	n, err := c.Write(f.b)
	return n > 0, err
}

// receive reads the answer up to its body. What comes before it (1xx) is passed on as http.Transport does.
func (c *wireConn) receive(ctx context.Context, r *http.Request) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(c.reader, r)
		switch {
		case err != nil && c.read == 0:
			return nil, noAnswer(err)
		case err != nil:
			return nil, err
		case resp.StatusCode >= http.StatusOK || resp.StatusCode == http.StatusSwitchingProtocols:
			c.left = math.MaxInt64
			return resp, nil
		}
		if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
			c.left = mostHeader
		}
	}
}

// noAnswer is the error where the replica closed the connection instead: not of an answer that broke off.
func noAnswer(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// wireBody is the body of an answer. One goroutine reads and closes it.
type wireBody struct {
	ctx  context.Context
	conn *wireConn // nil once it was given back
	from io.ReadCloser
	keep bool  // the replica does
	err  error // of reading on once the connection was given back
}

// Read implements io.Reader.
func (b *wireBody) Read(p []byte) (int, error) {
	if b.conn == nil {
		return 0, b.err
	}
	n, err := b.from.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.err = io.EOF
		b.end(true)
	case err != nil:
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close implements io.Closer. A connection whose answer was not read to its end is closed.
func (b *wireBody) Close() error {
	if b.conn != nil {
		b.err = http.ErrBodyReadAfterClose
		b.end(false)
	}
	return nil
}

// end gives the connection back. It is kept where the answer was read to its end, the request was not given up, and nothing came
// after the answer, which would be taken for a part of the next.
func (b *wireBody) end(whole bool) {
	c := b.conn
	b.conn = nil
	if alive := c.stop(); !alive || !whole || !b.keep || c.reader.Buffered() > 0 {
		_ = c.Close()
		return
	}
	c.wire.keep(c)
}
