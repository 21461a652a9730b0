//go:build unix

package batchproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script is a replica that answers the requests of each of its connections, one after the other, with these texts, and then closes
// it. It keeps what it was sent.
type script struct {
	url *url.URL

	mu    sync.Mutex
	conns int
	seen  []string // requests: method, path and body
}

// serveScript serves each connection by the answers for its number; the last are for all that follow.
func serveScript(t *testing.T, answers ...[]string) *script {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{url: &url.URL{Scheme: "http", Host: l.Addr().String()}}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			own := answers[min(s.conns, len(answers)-1)]
			s.conns++
			s.mu.Unlock()
			serving.Go(func() { s.serve(conn, own) })
		}
	})
	return s
}

func (s *script) serve(conn net.Conn, answers []string) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // so that a test that fails ends
	from := bufio.NewReader(conn)
	for _, answer := range answers {
		r, err := http.ReadRequest(from)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.seen = append(s.seen, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+string(body)))
		s.mu.Unlock()
		if answer == "wait" {
			_, _ = from.ReadByte() // until the other side closes
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

func (s *script) counted() (conns, requests int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns, len(s.seen)
}

// request is one whose body is in memory, as pass makes it.
func (s *script) request(ctx context.Context, method, body string) *http.Request {
	to := *s.url
	to.Path = "/p"
	r := (&http.Request{Method: method, URL: &to, Host: to.Host, Header: http.Header{"User-Agent": {"u"}}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	if body != "" {
		r.ContentLength = int64(len(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
		r.Body, _ = r.GetBody()
	}
	return r
}

func testWire(t *testing.T) *wire {
	w := newWire(newTransport(&net.Resolver{}))
	t.Cleanup(w.CloseIdleConnections)
	return w
}

// heard is what a client finds of an answer.
type heard struct {
	Code    int
	Header  string
	Interim []string
	Body    string
	Trailer string
	Broken  bool // no answer, or no whole one
}

func fetch(t *testing.T, by http.RoundTripper, s *script, method, body string) (o heard) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		o.Interim = append(o.Interim, fmt.Sprint(code, header.Get("Link")))
		return nil
	}})
	r := s.request(ctx, method, body)
	resp, err := by.RoundTrip(r)
	if err != nil {
		o.Broken = true
		return o
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	o.Code, o.Header, o.Body, o.Trailer, o.Broken = resp.StatusCode, resp.Header.Get("X"), string(text), resp.Trailer.Get("T"), err != nil
	return o
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: 1\r\n\r\nok"

// To its caller the wire is as http.Transport is, whatever a replica answers.
func TestWireIsAsHTTPTransport(t *testing.T) {
	for _, tt := range []struct {
		name    string
		method  string
		answers []string // of each connection
		conns   int      // for three requests
	}{
		{"kept", "POST", []string{fine, fine, fine}, 1},
		{"without a body", "POST", []string{"HTTP/1.1 204 No Content\r\nX: 2\r\n\r\n", fine, fine}, 1},
		{"HEAD", "HEAD", []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 404 No\r\n\r\n"}, 1},
		{"chunks and a trailer", "GET", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: end\r\n\r\n", fine, fine}, 1},
		{"interim answers", "POST", []string{"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + fine, fine, fine}, 1},
		{"says that it closes", "POST", []string{"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"}, 3},
		{"up to the end of the connection", "POST", []string{"HTTP/1.1 200 OK\r\n\r\nall of it"}, 3},
		{"HTTP/1.0", "POST", []string{"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"}, 3},
		{"too short", "POST", []string{"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok"}, 3},
		{"breaks off in a chunk", "POST", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"}, 3},
		{"breaks off in the headers", "POST", []string{"HTTP/1.1 200 OK\r\nContent-Le"}, 3},
		{"no HTTP", "POST", []string{"hello\r\n\r\n"}, 3},
		{"closes without an answer", "POST", []string{""}, 3},
		{"two lengths", "POST", []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk"}, 3},
		{"too many headers", "POST", []string{"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1<<10)+"\r\n", 11<<10) + "Content-Length: 0\r\n\r\n"}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := "12345"
			if tt.method != "POST" {
				body = ""
			}
			var all [2][]heard
			for i, by := range []http.RoundTripper{newTransport(&net.Resolver{}), testWire(t)} {
				s := serveScript(t, tt.answers)
				for range 3 {
					all[i] = append(all[i], fetch(t, by, s, tt.method, body))
					if w, is := by.(*wire); is && tt.conns == 3 {
						if c := w.kept(s.url.Host); c != nil {
							t.Error("the connection is kept")
						}
					}
				}
				if conns, requests := s.counted(); i == 1 && (conns != tt.conns || requests != 3) {
					t.Errorf("%d connections and %d requests, want %d and 3", conns, requests, tt.conns)
				}
				by.(interface{ CloseIdleConnections() }).CloseIdleConnections()
			}
			if diff := cmp.Diff(all[0], all[1]); diff != "" {
				t.Errorf("-http.Transport, +wire\n%s", diff)
			}
		})
	}
}

// What a replica sends after its answer is nobody's answer.
func TestWireTakesNoAnswerThatNobodyAskedFor(t *testing.T) {
	forged := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
	s := serveScript(t, []string{fine + forged, "wait"}, []string{fine})
	w := testWire(t)
	for range 2 {
		if o := fetch(t, w, s, "POST", "1"); o.Body != "ok" {
			t.Errorf("answered %+v", o)
		}
	}
	// The same where it comes later, and the connection is idle.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	later, sent := make(chan struct{}), make(chan struct{})
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		for i := range 2 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				return
			}
			_, _ = io.WriteString(conn, fine)
			if i == 0 {
				<-later
				_, _ = io.WriteString(conn, forged)
				close(sent)
			}
		}
	})
	s = &script{url: &url.URL{Scheme: "http", Host: l.Addr().String()}}
	if o := fetch(t, w, s, "GET", ""); o.Body != "ok" {
		t.Errorf("answered %+v", o)
	}
	close(later)
	<-sent
	if o := fetch(t, w, s, "GET", ""); o.Body != "ok" {
		t.Errorf("answered %+v", o)
	}
}

// A connection that the replica has closed is not used again; a request that it may have seen is sent again only where that makes
// no difference.
func TestWireSendsAgainWhatIsSafe(t *testing.T) {
	t.Run("closed when idle", func(t *testing.T) {
		s := serveScript(t, []string{fine})
		w := testWire(t)
		for range 3 {
			if o := fetch(t, w, s, "POST", "1"); o.Body != "ok" {
				t.Errorf("answered %+v", o)
			}
			waitQuietEnds(t, w, s)
		}
		if conns, requests := s.counted(); conns != 3 || requests != 3 {
			t.Errorf("%d connections and %d requests", conns, requests)
		}
	})
	for method, again := range map[string]bool{"POST": false, "GET": true} {
		t.Run("closed by "+method, func(t *testing.T) {
			s := serveScript(t, []string{fine, ""}, []string{fine})
			w := testWire(t)
			if o := fetch(t, w, s, method, ""); o.Body != "ok" {
				t.Errorf("answered %+v", o)
			}
			o := fetch(t, w, s, method, "")
			if _, requests := s.counted(); o.Broken == again || again && requests != 3 || !again && requests != 2 {
				t.Errorf("answered %+v, after %d requests", o, requests)
			}
		})
	}
}

// waitQuietEnds waits until the connection that is kept is seen to be closed by the replica.
func waitQuietEnds(t *testing.T, w *wire, s *script) {
	t.Helper()
	c := w.kept(s.url.Host)
	if c == nil {
		t.Fatal("no connection was kept")
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Time{})
	w.keep(c)
}

// A request that is given up ends at once, before its answer and in it, and its connection with it.
func TestWireGivesUp(t *testing.T) {
	for name, answers := range map[string][]string{
		"before the answer": {"wait"},
		"in the body":       {"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok", "wait"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveScript(t, answers)
			w := testWire(t)
			ctx, cancel := context.WithCancel(t.Context())
			r := s.request(ctx, "POST", "1")
			var read error
			over := make(chan struct{})
			go func() {
				defer close(over)
				var resp *http.Response
				if resp, read = w.RoundTrip(r); read == nil {
					_, read = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
			}()
			for _, requests := s.counted(); requests == 0; _, requests = s.counted() {
				select {
				case <-over:
					t.Fatal(read)
				case <-time.After(time.Millisecond):
				}
			}
			cancel()
			<-over
			if !errors.Is(read, context.Canceled) {
				t.Errorf("the error is %v", read)
			}
			if c := w.kept(s.url.Host); c != nil {
				t.Error("the connection is kept")
			}
			if _, err := w.RoundTrip(r); !errors.Is(err, context.Canceled) {
				t.Errorf("a request whose context is over: %v", err)
			}
		})
	}
}

// An answer that is not read to its end takes its connection with it.
func TestWireBodyClosed(t *testing.T) {
	s := serveScript(t, []string{"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000), fine}, []string{fine})
	w := testWire(t)
	resp, err := w.RoundTrip(s.request(t.Context(), "POST", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if c := w.kept(s.url.Host); c != nil {
		t.Error("the connection is kept")
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes after Close: %v", n, err)
	}
	if o := fetch(t, w, s, "POST", "1"); o.Body != "ok" {
		t.Errorf("answered %+v", o)
	}
	if conns, _ := s.counted(); conns != 2 {
		t.Errorf("%d connections", conns)
	}
}

// Connections are kept for a time, and no more than so many.
func TestWireKeeps(t *testing.T) {
	s := serveScript(t, []string{fine, fine, fine})
	w := testWire(t)
	w.MaxIdleConnsPerHost = 2
	var conns []*wireConn
	for range 3 {
		c, err := w.take(t.Context(), s.url.Host, nil)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		w.keep(c)
	}
	if n := len(w.idle[s.url.Host]); n != 2 || w.sweep == nil {
		t.Errorf("%d are kept, to be closed later: %t", n, w.sweep != nil)
	}
	conns[0].used = conns[0].used.Add(-w.IdleConnTimeout)
	w.closeUnused()
	if all := w.idle[s.url.Host]; len(all) != 1 || all[0] != conns[1] || w.sweep == nil {
		t.Errorf("%d are left, to be closed later: %t", len(all), w.sweep != nil)
	}
	conns[1].used = conns[1].used.Add(-w.IdleConnTimeout)
	w.closeUnused()
	if len(w.idle) != 0 || w.sweep != nil {
		t.Errorf("%d hosts are left, to be closed later: %t", len(w.idle), w.sweep != nil)
	}
	for i, c := range conns {
		if _, err := c.Conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("connection %d is open: %v", i, err)
		}
	}
}

// A connection that its replica has closed is not held for as long as others are kept.
func TestWireLetsGo(t *testing.T) {
	closing, staying := serveScript(t, []string{fine}), serveScript(t, []string{fine, "wait"})
	w := testWire(t)
	var conns []*wireConn
	for _, s := range []*script{closing, staying} {
		if o := fetch(t, w, s, "POST", "1"); o.Body != "ok" {
			t.Errorf("answered %+v", o)
		}
		c := w.kept(s.url.Host)
		w.keep(c)
		conns = append(conns, c)
	}
	waitQuietEnds(t, w, closing)
	w.closeUnused()
	if _, err := conns[0].Conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("that which the replica closed is open: %v", err)
	}
	if c := w.kept(staying.url.Host); c != conns[1] || len(w.idle) != 1 || w.sweep == nil {
		t.Errorf("of %d hosts %v is kept, to be looked at later: %t", len(w.idle), c, w.sweep != nil)
	}
	w.keep(conns[1])
}

// A request for which a connection is being made takes one that becomes idle meanwhile; the new one is for the next.
func TestWireTakesWhatBecomesIdle(t *testing.T) {
	s := serveScript(t, []string{fine, fine})
	w := testWire(t)
	dialed, dial := make(chan struct{}), w.open
	var hold atomic.Pointer[chan struct{}]
	w.open = func(ctx context.Context, network, address string) (net.Conn, error) {
		if made := hold.Load(); made != nil {
			dialed <- struct{}{}
			select {
			case <-*made:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return dial(ctx, network, address)
	}
	first, err := w.take(t.Context(), s.url.Host, nil)
	if err != nil {
		t.Fatal(err)
	}
	holding := func() chan struct{} {
		made := make(chan struct{})
		hold.Store(&made)
		return made
	}
	made := holding()
	take := func(ctx context.Context) (*wireConn, error) {
		var c *wireConn
		var err error
		over := make(chan struct{})
		go func() {
			defer close(over)
			c, err = w.take(ctx, s.url.Host, nil)
		}()
		<-dialed
		w.keep(first)
		<-over
		return c, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, err := take(ctx)
	if err != nil || c != first || !c.reused {
		t.Fatalf("took %p, %v; want that which became idle, %p", c, err, first)
	}
	cancel() // the request is over: what was made for it is kept nevertheless
	close(made)
	w.untilIdle(t, s.url.Host, 1)
	if second := w.kept(s.url.Host); second == first || second.reused {
		t.Error("it is not the new one that is kept")
	} else if len(w.waiting) != 0 || len(w.spare) != 0 {
		t.Errorf("%d wait, %d connections are being made", len(w.waiting), len(w.spare))
	} else {
		_ = second.Close()
	}

	// One that its replica has closed is nothing to take: the new one is waited for.
	made = holding()
	_ = first.Conn.Close()
	over := make(chan struct{})
	go func() {
		defer close(over)
		c, err = w.take(t.Context(), s.url.Host, nil)
	}()
	<-dialed
	w.keep(first)
	close(made)
	<-over
	if err != nil || c == first || c.reused {
		t.Errorf("took %p, %v; want a new one", c, err)
	}

	// Those that are made for nobody end with the transport.
	holding()
	first = c
	if c, err = take(t.Context()); err != nil || c != first {
		t.Fatalf("took %p, %v", c, err)
	}
	w.CloseIdleConnections()
	w.untilMade(t)
	if n := len(w.idle[s.url.Host]); n != 0 || len(w.waiting) != 0 {
		t.Errorf("%d are kept, %d wait", n, len(w.waiting))
	}
	_ = c.Close()

	// And with their own request, where it has had none.
	ctx, cancel = context.WithCancel(t.Context())
	over = make(chan struct{})
	go func() {
		defer close(over)
		c, err = w.take(ctx, s.url.Host, nil)
	}()
	<-dialed
	cancel()
	<-over
	if !errors.Is(err, context.Canceled) || len(w.waiting) != 0 {
		t.Errorf("%v; %d wait", err, len(w.waiting))
	}
}

// Of two that become idle one after the other while a request looks at a third, the request has the one and the next the other.
func TestWireGivesOneAtATime(t *testing.T) {
	s := serveScript(t, []string{fine}, []string{fine})
	w := testWire(t)
	var conns []*wireConn
	for range 2 {
		c, err := w.take(t.Context(), s.url.Host, nil)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	w.open = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	d := w.dial(t.Context(), s.url.Host, nil)
	w.keep(conns[0])
	w.wait(d) // the third was of no use
	if len(w.waiting) != 0 {
		t.Fatal("it waits for another, which there is no room for")
	}
	w.keep(conns[1])
	if c := w.kept(s.url.Host); c != conns[1] {
		t.Errorf("%p is kept, want %p", c, conns[1])
	}
	if c := <-d.given; c != conns[0] {
		t.Errorf("given %p, want %p", c, conns[0])
	}
	w.wait(d)
	if len(w.waiting[s.url.Host]) != 1 {
		t.Error("it does not wait any more")
	}
	w.unwait(d)
	d.cancel()
	<-d.made
	for _, c := range conns {
		_ = c.Close()
	}
}

// untilIdle waits until so many connections are kept.
func (w *wire) untilIdle(t *testing.T, address string, n int) {
	until(t, fmt.Sprintf("%d are kept", n), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.idle[address]) == n
	})
}

// untilMade waits until none is being made that nobody waits for.
func (w *wire) untilMade(t *testing.T) {
	until(t, "none is being made for nobody", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.spare) == 0
	})
}

func TestWireTakes(t *testing.T) {
	request := func(change func(r *http.Request)) *http.Request {
		r, err := http.NewRequest("POST", "http://127.0.0.1:80/p", bytes.NewReader([]byte("1")))
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		return r
	}
	for name, tt := range map[string]struct {
		change func(r *http.Request)
		want   bool
	}{
		"a body in memory":     {func(*http.Request) {}, true},
		"no body":              {func(r *http.Request) { r.Body, r.GetBody, r.ContentLength = nil, nil, 0 }, true},
		"IPv6":                 {func(r *http.Request) { r.URL.Host = "[::1]:80" }, true},
		"a client's body":      {func(r *http.Request) { r.GetBody = nil }, false},
		"of unknown length":    {func(r *http.Request) { r.ContentLength = -1 }, false},
		"large":                {func(r *http.Request) { r.ContentLength = inOneWrite + 1 }, false},
		"TLS":                  {func(r *http.Request) { r.URL.Scheme = "https" }, false},
		"no port":              {func(r *http.Request) { r.URL.Host = "[::1]" }, false},
		"a name not in ASCII":  {func(r *http.Request) { r.URL.Host = "é:80" }, false},
		"upgrade":              {func(r *http.Request) { r.Header.Set("Upgrade", "websocket") }, false},
		"expect":               {func(r *http.Request) { r.Header.Set("Expect", "100-continue") }, false},
		"a method of its own":  {func(r *http.Request) { r.Method = "PURGE" }, false},
		"chunks":               {func(r *http.Request) { r.TransferEncoding = []string{"chunked"} }, false},
		"a trailer":            {func(r *http.Request) { r.Trailer = http.Header{"T": nil} }, false},
		"closing":              {func(r *http.Request) { r.Close = true }, false},
		"a header that closes": {func(r *http.Request) { r.Header.Set("Connection", "close") }, false},
	} {
		if got := (&wire{}).takes(request(tt.change)); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
