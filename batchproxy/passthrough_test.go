package batchproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// writes counts what is written to the connections that a transport makes, and lets the second write of the first one fail.
type writes struct {
	mu    sync.Mutex
	conns int
	sizes []int
	fails bool
}

func (w *writes) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns++
	return &countedConn{Conn: conn, of: w, first: w.conns == 1}, err
}

type countedConn struct {
	net.Conn
	of    *writes
	first bool
	count int
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.sizes = append(c.of.sizes, len(p))
	if c.count++; c.of.fails && c.first && c.count == 2 {
		c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// TestPassWhole: a small body leaves in one piece with its headers, and again on another connection where a kept one turned out
// to be closed; a large one is not held in memory.
func TestPassWhole(t *testing.T) {
	var mu sync.Mutex
	var got []string
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(body))
	}))
	defer upstream.Close()
	for _, tt := range []struct {
		name  string
		body  string
		fails bool
		conns int
		one   bool // write a request
	}{
		{name: "small", body: strings.Repeat("x", 1024), conns: 1, one: true},
		{name: "the largest", body: strings.Repeat("y", inOneWrite), conns: 1, one: true},
		{name: "larger", body: strings.Repeat("z", inOneWrite+1), conns: 1},
		{name: "the connection was closed", body: "abc", fails: true, conns: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &writes{fails: tt.fails}
			transport := newTransport(nil)
			transport.DialContext = w.dial
			defer transport.CloseIdleConnections()
			p, err := New(oneModel(Upstream{URL: upstream.URL}), Options{Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			front := httptest.NewServer(p)
			defer front.Close()
			got = nil
			for range 2 {
				answer, err := http.Post(front.URL+"/v2/models/m/generate", "text/plain", strings.NewReader(tt.body))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
					t.Errorf("%s, %v", answer.Status, err)
				}
				answer.Body.Close()
			}
			if !slices.Equal(got, []string{tt.body, tt.body}) {
				t.Errorf("the replica got %.80q", got)
			}
			if w.conns != tt.conns {
				t.Errorf("%d connections, want %d", w.conns, tt.conns)
			}
			if one := len(w.sizes) == 2; !tt.fails && one != tt.one {
				t.Errorf("two requests were written in pieces of %d bytes", w.sizes)
			}
		})
	}
}

// TestPassSlowClient: a client that sends its small body slowly holds no replica, and one that does not end it never reaches one.
func TestPassSlowClient(t *testing.T) {
	reached := make(chan string, 3)
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		reached <- r.Header.Get("X-Name")
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer upstream.Close()
	p, err := New(oneModel(Upstream{URL: upstream.URL}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	defer front.Close()
	begin := func(name, part string) net.Conn {
		conn, err := net.Dial("tcp", front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v2/models/m/generate HTTP/1.1\r\nHost: h\r\nX-Name: %s\r\nContent-Length: 10\r\n\r\n%s", name, part)
		return conn
	}
	status := func(conn net.Conn) int {
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	slow := begin("slow", "01234")
	defer slow.Close()
	cut := begin("cut", "01234")
	defer cut.Close()
	if err := cut.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if code := status(cut); code != http.StatusBadRequest {
		t.Errorf("cut: status %d", code)
	}
	quick := begin("quick", "0123456789")
	defer quick.Close()
	if code := status(quick); code != http.StatusOK {
		t.Errorf("quick: status %d", code)
	}
	if first := <-reached; first != "quick" {
		t.Errorf("%s reached the replica before it had sent its body", first)
	}
	if running := p.Models()[0].Running; running != 0 {
		t.Errorf("%d requests are with a replica", running)
	}
	fmt.Fprint(slow, "56789")
	if code := status(slow); code != http.StatusOK {
		t.Errorf("slow: status %d", code)
	}
	if second := <-reached; second != "slow" {
		t.Errorf("%s reached the replica", second)
	}
}

// deadlines is a writer that says what is asked of it.
type deadlines struct {
	*httptest.ResponseRecorder
	said []string
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.said = append(d.said, map[bool]string{true: "none", false: "deadline"}[t.IsZero()])
	return nil
}

func (d *deadlines) Write(p []byte) (int, error) {
	d.said = append(d.said, fmt.Sprint(len(p)))
	return len(p), nil
}

func (d *deadlines) Flush() { d.said = append(d.said, "flush") }

// TestRecorderDeadlines: whatever reaches the connection has a deadline, and none is left for the next request.
func TestRecorderDeadlines(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sizes []int // 0 is a flush
		want  string
	}{
		{"nothing", nil, ""},
		{"one small piece", []int{1024}, "1024"},
		{"one large piece", []int{4096}, "deadline 4096 none"},
		{"small pieces that add up", []int{1024, 1024, 1}, "1024 1024 deadline 1 none"},
		{"a stream", []int{10, 0, 20, 0}, "10 deadline flush 20 deadline flush none"},
	} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r := &recorder{ResponseWriter: w}
		for _, size := range tt.sizes {
			if size > 0 {
				_, _ = r.Write(make([]byte, size))
			} else if err := http.NewResponseController(r).Flush(); err != nil {
				t.Error(err)
			}
		}
		r.forget()
		if got := strings.Join(w.said, " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestPassingGiveUp: those in flight are given up, and one that comes just then is too; those that were answered are not looked at.
func TestPassingGiveUp(t *testing.T) {
	var p passing
	var cancelled []string
	add := func(name string) *recorder {
		r := &recorder{}
		p.add(r, func() { cancelled = append(cancelled, name) })
		return r
	}
	p.remove(add("answered"))
	add("in flight")
	if len(cancelled) > 0 {
		t.Errorf("cancelled %q before the end", cancelled)
	}
	p.giveUp()
	add("late")
	if !slices.Equal(cancelled, []string{"in flight", "late"}) {
		t.Errorf("cancelled %q", cancelled)
	}
}
