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
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// connect opens a connection to a server and sends raw text.
func connect(t *testing.T, url, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		conn.Close()
		t.Fatal(err)
	}
	return conn
}

// exchange sends raw text to a server, closes the client's side if told to, and returns all that comes.
func exchange(t *testing.T, url, text string, half bool) string {
	t.Helper()
	conn := connect(t, url, text)
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok && half {
		if err := tcp.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("after %q: %v", all, err)
	}
	return string(all)
}

// exchangeHalf sends a request, reads until the first answer is there, and closes.
func exchangeHalf(t *testing.T, url, text string) string {
	t.Helper()
	conn := connect(t, url, text)
	defer conn.Close()
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := io.Reader(resp.Body)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		body = io.LimitReader(r, 6)
	}
	all, err := io.ReadAll(body)
	if err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("HTTP/1.1 %s\r\n%s", resp.Status, all)
}

func testBrokenBodies(t *testing.T) {
	s := newModelServer(t)
	p, err := New(oneModel(Upstream{URL: s.URL}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(p)
	server.Config.ReadTimeout = 200 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(newFront(t, p))
	const went, late = "the client closed the connection before the answer", "body: did not come in time"
	for _, tt := range []struct {
		name, head, body string
		half             bool
		code             int
		want             string
	}{
		{"cut short", "Content-Length: 100", `{"instances":[1]}`, true, 400, went},
		{"cut in a chunk", "Transfer-Encoding: chunked", "5\r\n{\"i", true, 400, went},
		{"no chunk", "Transfer-Encoding: chunked", "x\r\n", false, 400, "body: cannot be read: invalid byte in chunk length"},
		{"never ends", "Content-Length: 100", `{"instances":[1]}`, false, 408, late},
	} {
		for _, path := range []string{"/v1/models/m:predict", "/v2/models/m/generate"} {
			t.Run(tt.name+" "+path, func(t *testing.T) {
				got := exchange(t, server.URL, "POST "+path+" HTTP/1.1\r\nHost: m\r\n"+tt.head+"\r\n\r\n"+tt.body, tt.half)
				if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", tt.code)) || !strings.HasSuffix(got, `{"error":"`+tt.want+`"}`) {
					t.Errorf("%s\nwant %d %s", got, tt.code, tt.want)
				}
			})
		}
	}
	until(t, "all bytes are given back", func() bool { return p.buffers.held.Load() == 0 })
}

// A client that closes its side of the connection has gone, as far as the server can know. It must not read 200.
func TestHalfClosed(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	body := `{"instances":[1]}`
	got := exchange(t, f.url, fmt.Sprintf("POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%s", len(body), body), true)
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Error(got)
	}
}

// A client that is refused at shutdown must not send its next request on a connection that is about to be closed.
func TestRefusalAtShutdownClosesConnection(t *testing.T) {
	f := start(t, oneModel(Upstream{URL: "http://127.0.0.1:1"}), Options{})
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	got := exchange(t, f.url, "POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: 2\r\n\r\n{}", false)
	if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "\r\nConnection: close\r\n") {
		t.Error(got)
	}
}

func TestAnswerInDrainClosesConnection(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	go func() {
		<-g.entered
		go func() { _ = f.stop() }()
		for !f.isDraining() {
			runtime.Gosched()
		}
		close(g.open)
	}()
	body := `{"instances":[1]}`
	got := exchange(t, f.url, fmt.Sprintf("POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%s", len(body), body), false)
	if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "\r\nConnection: close\r\n") {
		t.Error(got)
	}
}

// The answer of a replica that dies in its midst is cut off, and that is a matter for the debug log.
func testAnswerBreaksOff(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
		fmt.Fprint(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: registry})
	if got := f.post("/v2/models/m/generate", `{}`); got.err == nil || got.body != "half" {
		t.Errorf("got %+v", got)
	}
	f.running(0)
	if err := f.stop(); err != nil { // before the log is read
		t.Error(err)
	}
	if !strings.Contains(log.String(), "level=DEBUG msg=\"httputil: ReverseProxy read error during body copy") {
		t.Errorf("the log is %q", log.String())
	}
	if n, _ := value(t, registry, `flyball_batchproxy_requests_total{class="normal",code="error",model="m",protocol="oip"}`); n != 1 {
		t.Errorf("%g answers are counted as broken off", n)
	}
}

// A client that goes in the midst of a stream has done so itself: nothing has broken off.
func TestClientLeavesStream(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, r *http.Request, _ call) bool {
		fmt.Fprint(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	registry := prometheus.NewRegistry()
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{Registerer: registry})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v2/models/m/generate", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	cancel()
	count := func(code string) float64 {
		n, _ := value(t, registry, `flyball_batchproxy_requests_total{class="normal",code="`+code+`",model="m",protocol="oip"}`)
		return n
	}
	until(t, "the client is counted", func() bool { return count("499")+count("error") > 0 })
	if n := count("499"); n != 1 {
		t.Errorf("%g clients are counted as gone", n)
	}
}

func testAnnouncedBytesTakeNoRoom(t *testing.T) {
	const room = 4 << 20
	body := bytes.Repeat([]byte("x"), 1<<20)
	for _, size := range []int64{int64(len(body)), -1} {
		var p buffers
		b := p.get()
		came := 0
		r := readerFunc(func(to []byte) (int, error) {
			if held := p.held.Load(); held > int64(max(2*came, firstGrant)) {
				t.Fatalf("%d bytes came, %d are taken", came, held)
			}
			n := copy(to[:min(len(to), 1000)], body[came:])
			if came += n; n == 0 {
				return 0, io.EOF
			}
			return n, nil
		})
		if err := b.readFrom(r, size, 2<<20, room); err != nil || !bytes.Equal(b.b, body) {
			t.Errorf("size %d: %d bytes, %v", size, len(b.b), err)
		}
		if held := p.held.Load(); held < int64(len(body)) {
			t.Errorf("size %d: %d bytes are taken", size, held)
		}
		b.release()
		if held := p.held.Load(); held != 0 {
			t.Errorf("size %d: %d bytes are still taken", size, held)
		}
	}
	for _, tt := range []struct {
		bytes int
		want  error
	}{{99, nil}, {100, nil}, {101, errTooLarge}, {200, errTooLarge}} {
		for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
			if err := new(buffers).get().readFrom(wrap(bytes.NewReader(body[:tt.bytes])), -1, 100, room); !errors.Is(err, tt.want) {
				t.Errorf("%d bytes with a limit of 100: %v", tt.bytes, err)
			}
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// stuck is a client that takes so many bytes of its answer and no more.
type stuck struct {
	*httptest.ResponseRecorder
	takes    int
	deadline time.Time
}

func (s *stuck) SetWriteDeadline(t time.Time) error { s.deadline = t; return nil }

func (s *stuck) Write(p []byte) (int, error) {
	n := min(len(p), s.takes)
	s.takes -= n
	_, _ = s.ResponseRecorder.Write(p[:n])
	if n == len(p) {
		return n, nil
	}
	if s.deadline.IsZero() {
		return n, errors.New("waits for ever")
	}
	time.Sleep(time.Until(s.deadline))
	return n, os.ErrDeadlineExceeded
}

func testClientThatDoesNotRead(t *testing.T) {
	for _, path := range []string{"/v1/models/m:predict", "/v2/models/m/generate"} {
		synctest.Test(t, func(t *testing.T) {
			p, err := New(oneModel(Upstream{URL: "http://replica"}), Options{Transport: &bubble{
				reply: func(int) (time.Duration, error) { return 0, nil },
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer newFront(t, p)()
			body := `{"instances":["` + strings.Repeat("a", 3*piece) + `"]}`
			for _, takes := range []int{0, piece + 1, len(body) * 2} {
				w := &stuck{ResponseRecorder: httptest.NewRecorder(), takes: takes}
				began := time.Now()
				func() {
					defer func() { _ = recover() }() // the reverse proxy's way to cut off an answer
					p.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(body)))
				}()
				wait := takeTime
				if takes > len(body) {
					wait = 0
				}
				if took := time.Since(began).Truncate(time.Second); took != wait {
					t.Errorf("%s: a client that takes %d bytes is served for %v, want %v", path, takes, took, wait)
				}
				if takes > len(body) && !w.deadline.IsZero() {
					t.Errorf("%s: the connection's next answer has a deadline", path)
				}
			}
			if s := p.Models()[0]; s.Running+s.Queued > 0 || p.buffers.held.Load() != 0 {
				t.Errorf("%+v, %d bytes held", s, p.buffers.held.Load())
			}
		})
	}
}

// A client that goes between its request's leaving the queue and the note of it must not take its mates along.
func testClientGoesAsItsBatchLeaves(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
	f := start(t, cfg, Options{})
	m := f.models["m"]
	replies := make(chan reply, 1)
	go func() { replies <- f.post("/v1/models/m:predict", `{"instances":[1]}`) }()
	f.queued(1)
	m.mu.Lock()
	mate := m.batcher.all.first.Request
	m.mu.Unlock()
	leaver := &request{
		protocol: mate.protocol, parsed: mate.parsed, body: f.buffers.get(), incoming: mate.incoming, key: mate.key,
		demand: mate.demand, done: make(chan struct{}),
	}
	leaver.state.Store(gone) // and quit is still to come
	if refusal := m.enqueue(leaver); refusal != nil {
		t.Fatal(refusal.message)
	}
	<-g.entered
	m.quit(leaver)
	close(g.open)
	want(t, <-replies, 200, `{"predictions":[1]}`)
}

// A server that answers 500 to a request that is wrong.
func testOnlyTheOffenderFails(t *testing.T) {
	s := newModelServer(t)
	var broken atomic.Bool
	s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
		bad := broken.Load() || strings.Contains(c.body, "bad")
		if bad {
			http.Error(w, "Internal Server Error", 500)
		}
		return bad
	}
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 8, MaxWait: prom.Duration(time.Hour)}
	f := start(t, cfg, Options{})
	var bodies []string
	for i := range 8 {
		bodies = append(bodies, fmt.Sprintf(`{"instances":["%d"]}`, i))
	}
	bodies[5] = `{"instances":["bad"]}`
	for i, got := range f.postAll("/v1/models/m:predict", bodies...) {
		if i == 5 {
			want(t, got, 502, `{"error":"model \"m\": replica `+s.address()+`: answered 500"}`)
		} else {
			want(t, got, 200, fmt.Sprintf(`{"predictions":["%d"]}`, i))
		}
	}
	if rows := s.rows(); len(rows) != 8 || rows[0] != 8 || rows[1] != 8 { // 8, again 8, and two of 4, 2 and 1
		t.Errorf("batches of %v rows", rows)
	}
	// A server that answers nothing else gets no storm: what was saved, then a fifth.
	broken.Store(true)
	before := len(s.seen())
	for range 100 {
		for _, got := range f.postAll("/v1/models/m:predict", bodies...) {
			if got.code != 502 {
				t.Errorf("got %d %s", got.code, got.body)
			}
		}
	}
	if calls := len(s.seen()) - before; calls > 100+budgetMax+20 {
		t.Errorf("100 batches made %d calls", calls)
	}
}

func testForwardedHeaders(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
	f := start(t, cfg, Options{})
	header := []string{
		"X-Forwarded-For", "1.2.3.4", "Forwarded", "for=1.2.3.4", "X-Forwarded-Proto", "https", "X-Tenant", "a",
		"X-Hop", "b", "Connection", "keep-alive, X-Hop",
	}
	f.post("/v1/models/m:predict", `{"instances":[1,1]}`, header...) // fills a batch
	other := slices.Clone(header)
	other[9] = "c" // of the header that is about the connection only
	var wg sync.WaitGroup
	for _, h := range [][]string{header, other} {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if got := f.send(ctx, "POST", "/v1/models/m:predict", `{"instances":[2]}`, h...); got.err != nil {
				t.Errorf("a header of the connection keeps requests apart: %v", got.err)
			}
		})
	}
	wg.Wait()
	for _, c := range s.seen() {
		for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "X-Hop"} {
			if c.header.Get(name) != "" {
				t.Errorf("a batch of %d rows has %s: %s", c.rows, name, c.header.Get(name))
			}
		}
		if c.header.Get("X-Tenant") != "a" {
			t.Errorf("a batch of %d rows has lost X-Tenant", c.rows)
		}
	}
}

// A header that is given twice must not be judged by the first alone.
func testRepeatedHeaders(t *testing.T) {
	s := newModelServer(t)
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	body := `{"instances":[1]}`
	for _, tt := range []struct{ head, want string }{
		{"Content-Encoding: identity\r\nContent-Encoding: gzip", "HTTP/1.1 415 "},
		{"Inference-Header-Content-Length: \r\nInference-Header-Content-Length: 3", "HTTP/1.1 200 "},
	} {
		got := exchange(t, f.url, fmt.Sprintf("POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nConnection: close\r\n%s\r\nContent-Length: %d\r\n\r\n%s", tt.head, len(body), body), false)
		if !strings.HasPrefix(got, tt.want) || strings.Contains(got, batchSizeHeader) { // which only answers to batches have
			t.Errorf("%s: %s", tt.head, got)
		}
	}
}

// newFront runs a proxy that the test serves by itself, and returns what ends it.
func newFront(t *testing.T, p *Proxy) func() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
