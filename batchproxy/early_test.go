package batchproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"flyball/batchproxy/protocol"
)

// watched is a replica that says when a request begins, and how it came: all of its body, or "cut" where the rest never came.
type watched struct {
	*modelServer
	begun       chan http.Header
	ended       chan string
	connections atomic.Int32
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{modelServer: new(modelServer), begun: make(chan http.Header, 1000), ended: make(chan string, 1000)}
	w.Server = httptest.NewUnstartedServer(w)
	w.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			w.connections.Add(1)
		}
	}
	w.Start()
	t.Cleanup(w.Close)
	return w
}

func (w *watched) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.begun <- r.Header
	text, err := io.ReadAll(r.Body)
	if err != nil {
		w.ended <- "cut"
		panic(http.ErrAbortHandler)
	}
	w.ended <- string(text)
	r.Body = io.NopCloser(bytes.NewReader(text))
	w.modelServer.ServeHTTP(rw, r)
}

// upload is a request whose client stops before the end.
type upload struct {
	t      *testing.T
	pipe   *io.PipeWriter
	rest   string // of its body
	answer chan reply
	cancel context.CancelFunc
}

// upload sends all of a request but the rest, which is large enough that what comes before is sent early.
func (f *front) upload(t *testing.T, text string, header ...string) *upload {
	t.Helper()
	from, to := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	first := len(text) - uploadRest
	u := &upload{t: t, pipe: to, rest: text[first:], answer: make(chan reply, 1), cancel: cancel}
	go func() { u.answer <- f.sendFrom(ctx, http.MethodPost, earlyPath, from, len(text), header...) }()
	t.Cleanup(func() { _ = to.Close(); cancel() })
	u.write(text[:first])
	return u
}

const uploadRest = 100 << 10

// end sends the rest.
func (u *upload) end() {
	u.t.Helper()
	u.write(u.rest)
}

// leave is a client that goes instead.
func (u *upload) leave() {
	u.cancel()
	_ = u.pipe.CloseWithError(context.Canceled)
}

func (u *upload) write(text string) {
	u.t.Helper()
	if _, err := io.WriteString(u.pipe, text); err != nil {
		u.t.Error(err)
	}
}

// unbatched is a proxy before replicas that do not gain from batches, which wait so long for the end of a request.
func unbatched(t *testing.T, patience time.Duration, upstreams ...Upstream) *front {
	t.Helper()
	f := start(t, learning(upstreams...), Options{})
	f.patience = patience
	f.switchOff()
	return f
}

// large is a v1 request of these rows, three times as large as what is worth to be sent early.
func large(rows string) string {
	return `{"instances":[` + rows + `],"signature_name":"` + strings.Repeat("x", 3*earlyFrom) + `"}`
}

const earlyPath = "/v1/models/m:predict"

// TestEarly: a large request reaches its replica while its client still sends, and arrives there as one, byte by byte.
func TestEarly(t *testing.T) {
	s := newWatched(t)
	f := unbatched(t, time.Hour, Upstream{URL: s.URL})
	for i := range 3 {
		text := large(fmt.Sprint(i))
		u := f.upload(t, text, "X-Mine", "yes", "X-Forwarded-For", "10.0.0.1")
		header := <-s.begun
		if header.Get("X-Mine") != "yes" || header.Get("X-Forwarded-For") != "" || header.Get("User-Agent") == "" {
			t.Errorf("headers %v", header)
		}
		u.end()
		want(t, <-u.answer, 200, fmt.Sprintf(`{"predictions":[%d]}`, i))
		if got := <-s.ended; got != text {
			t.Errorf("%d bytes came, of %d: ...%.20s", len(got), len(text), got[max(len(got)-20, 0):])
		}
	}
	if n := s.connections.Load(); n != 1 {
		t.Errorf("%d connections for one request after the other", n)
	}
	if len(s.begun) > 0 {
		t.Errorf("%d requests more", len(s.begun))
	}
}

// TestEarlyOfOneClient: so does one whose client has had the model to itself for a while, though batching is on.
func TestEarlyOfOneClient(t *testing.T) {
	s := newWatched(t)
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	f.patience = time.Hour
	text := large("1")
	for range solitary {
		want(t, f.post(earlyPath, `{"instances":[1]}`), 200, `{"predictions":[1]}`)
		<-s.begun
		<-s.ended
	}
	u := f.upload(t, text)
	<-s.begun
	u.end()
	want(t, <-u.answer, 200, `{"predictions":[1]}`)
}

// TestEarlySlow: a replica does not wait long for a slow client's request, which it gets once that is here. The next ones are not sent
// early then.
func TestEarlySlow(t *testing.T) {
	s := newWatched(t)
	f := unbatched(t, time.Millisecond, Upstream{URL: s.URL})
	text := large("1")
	u := f.upload(t, text)
	if got := <-s.ended; got != "cut" {
		t.Fatalf("%d bytes came", len(got))
	}
	u.end()
	want(t, <-u.answer, 200, `{"predictions":[1]}`)
	if got := <-s.ended; got != text {
		t.Errorf("%d bytes came, of %d", len(got), len(text))
	}
	f.late(t, s, text)
}

// late has a request come that is not sent early.
func (f *front) late(t *testing.T, s *watched, text string) {
	t.Helper()
	for len(s.begun) > 0 {
		<-s.begun
	}
	u := f.upload(t, text)
	until(t, "all but the rest read", func() bool { return f.buffers.held.Load() >= int64(len(text)) })
	if len(s.begun) > 0 {
		t.Error("the replica has a part of it")
	}
	u.end()
	if got := <-u.answer; got.code != 200 {
		t.Errorf("%d %.80s %v", got.code, got.body, got.err)
	}
	if got := <-s.ended; got != text {
		t.Errorf("%d bytes came, of %d", len(got), len(text))
	}
}

// TestEarlyNot: where batches may form, or somebody has said how many a replica has at once, a request is taken as a whole first.
func TestEarlyNot(t *testing.T) {
	for name, set := range map[string]func(*front, *ModelConfig){
		"batching is on": func(*front, *ModelConfig) {},
		"inflight is 2":  func(_ *front, c *ModelConfig) { c.Inflight = 2 },
		"a deadline in the order of the queue": func(_ *front, c *ModelConfig) {
			c.Priorities = []Priority{{Name: "normal", Budget: 1e9}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWatched(t)
			cfg := learning(Upstream{URL: s.URL})
			set(nil, &cfg.Models[0])
			f := start(t, cfg, Options{})
			if name != "batching is on" {
				f.switchOff()
			}
			f.late(t, s, large("1"))
		})
	}
}

// TestEarlyCut: what turns out not to be one to send as it is has not reached the replica as a whole.
func TestEarlyCut(t *testing.T) {
	s := newWatched(t)
	cfg := learning(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxSize = 4
	f := start(t, cfg, Options{})
	f.patience = time.Hour
	f.switchOff()
	text := large(numbered(6))
	u := f.upload(t, text)
	<-s.begun
	u.end()
	want(t, <-u.answer, 200, `{"predictions":[`+numbered(6)+`]}`)
	got := []string{<-s.ended, <-s.ended, <-s.ended}
	cuts := 0
	for _, body := range got {
		if body == "cut" {
			cuts++
		}
		if len(body) >= len(text) {
			t.Error("the replica has had all of it at once")
		}
	}
	if rows := s.rows(); cuts != 1 || len(rows) != 2 || rows[0]+rows[1] != 6 {
		t.Errorf("%d cuts, calls of %v rows", cuts, rows)
	}
}

// TestEarlyKeepsTheEnd: however a body comes, the replica has not all of it until it is to, nor all of the JSON in it, nor a part without
// headers.
func TestEarlyKeepsTheEnd(t *testing.T) {
	json, blank := large("1"), strings.Repeat(" \n\t\r", earlyPiece)
	for _, tt := range []struct {
		name  string
		comes []string
		most  int // bytes that are sent
	}{
		{"the last piece is one that would be sent", []string{strings.Repeat("x", 3*earlyPiece)}, 3*earlyPiece - 1},
		{"white space follows", []string{json, blank}, len(json) - 1},
		{"white space alone before the last piece", []string{blank, "x"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newWatched(t)
			f := unbatched(t, time.Hour, Upstream{URL: s.URL})
			m, body, text := f.models["m"], f.buffers.get(), strings.Join(tt.comes, "")
			defer body.release()
			var pieces []io.Reader
			for _, piece := range tt.comes {
				pieces = append(pieces, strings.NewReader(piece))
			}
			r := httptest.NewRequest(http.MethodPost, earlyPath, nil)
			r.ContentLength = int64(len(text))
			e := m.earlyOf(r, protocol.V1{}, body, io.MultiReader(pieces...))
			if err := body.readFrom(e, r.ContentLength, r.ContentLength, 0); err != nil || string(body.b) != text {
				t.Fatalf("%v, %d bytes", err, len(body.b))
			}
			e.read()
			if e.conn == nil || e.sent > tt.most || e.sent == 0 && tt.most > 0 {
				t.Errorf("%d bytes were sent, %d at most are to be", e.sent, tt.most)
			}
			if tt.most > 0 {
				<-s.begun
				e.drop()
				if got := <-s.ended; got != "cut" {
					t.Errorf("%d bytes came", len(got))
				}
				return
			}
			if _, all, err := e.finish(t.Context(), e.to); all {
				t.Errorf("what has no headers was sent: %v", err)
			}
		})
	}
}

// TestEarlyElsewhere: where the replica that has a part of a request cannot be sent to any more, another gets all of it.
func TestEarlyElsewhere(t *testing.T) {
	one, two := newWatched(t), newWatched(t)
	f := unbatched(t, time.Hour, Upstream{URL: one.URL}, Upstream{URL: two.URL})
	text := large("1")
	u := f.upload(t, text)
	from, to := one, two
	select {
	case <-one.begun:
	case <-two.begun:
		from, to = two, one
	}
	m := f.models["m"]
	m.mu.Lock()
	for _, r := range m.picker.replicas {
		if "http://"+r.address == from.URL {
			m.refuse(r, time.Now().Add(time.Hour), errors.New("gone"))
		}
	}
	m.mu.Unlock()
	u.end()
	want(t, <-u.answer, 200, `{"predictions":[1]}`)
	if got := <-to.ended; got != text {
		t.Errorf("%d bytes came, of %d", len(got), len(text))
	}
	if got := <-from.ended; got != "cut" {
		t.Errorf("the first has all %d bytes", len(got))
	}
}

// TestEarlyClientGone: nothing of a client that goes before its request is whole stays.
func TestEarlyClientGone(t *testing.T) {
	s := newWatched(t)
	f := unbatched(t, time.Hour, Upstream{URL: s.URL})
	text := large("1")
	u := f.upload(t, text)
	<-s.begun
	u.leave()
	if got := <-s.ended; got != "cut" {
		t.Errorf("%d bytes came", len(got))
	}
	if got := <-u.answer; got.err == nil {
		t.Errorf("%d %s", got.code, got.body)
	}
	m := f.models["m"]
	until(t, "nothing left", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.picker.replicas[0].outstanding() == 0 && f.buffers.held.Load() == 0
	})
}

// TestEarlyRefused: what a replica answers before it has read all reaches the client; and one that closes the connection on all of it is
// asked once more, as ever.
func TestEarlyRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, count int32) bool
		code   int
	}{
		{"at once", func(w http.ResponseWriter, _ *http.Request, _ int32) bool {
			http.Error(w, "no", http.StatusRequestEntityTooLarge)
			return true
		}, 413},
		{"hangs up at once", func(_ http.ResponseWriter, _ *http.Request, count int32) bool {
			if count == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		}, 200},
		{"hangs up at the end", func(_ http.ResponseWriter, r *http.Request, count int32) bool {
			if count == 1 {
				_, _ = io.Copy(io.Discard, r.Body)
				panic(http.ErrAbortHandler)
			}
			return false
		}, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := new(modelServer)
			var count atomic.Int32
			begun := make(chan struct{}, 10)
			s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := count.Add(1)
				begun <- struct{}{}
				if !tt.answer(w, r, n) {
					s.ServeHTTP(w, r)
				}
			}))
			t.Cleanup(s.Close)
			f := unbatched(t, time.Hour, Upstream{URL: s.URL})
			text := large("1")
			u := f.upload(t, text)
			<-begun
			u.end()
			if got := <-u.answer; got.code != tt.code {
				t.Errorf("%d %.80s %v", got.code, got.body, got.err)
			}
		})
	}
}

// TestEarlyUnreachable: a replica that is not there is found out about as ever.
func TestEarlyUnreachable(t *testing.T) {
	cfg := learning(Upstream{URL: "http://" + refusing(t)})
	cfg.Models[0].Timeout = 1e8
	f := start(t, cfg, Options{})
	f.switchOff()
	if got := f.post(earlyPath, large("1")); got.code != 503 && got.code != 502 {
		t.Errorf("%d %.80s %v", got.code, got.body, got.err)
	}
}

// TestEarlyStorm: answers go to whom they are for, among clients that go at any moment, two replicas of which one hangs up, and a patience
// that ends at any moment too.
func TestEarlyStorm(t *testing.T) {
	good, bad := newModelServer(t), newModelServer(t)
	bad.before = func(_ http.ResponseWriter, _ *http.Request, c call) bool {
		if strings.Contains(c.body, "7") && rand.IntN(4) == 0 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	f := unbatched(t, 2*time.Millisecond, Upstream{URL: good.URL}, Upstream{URL: bad.URL})
	var clients sync.WaitGroup
	var answered atomic.Int32
	for c := range 8 {
		clients.Go(func() {
			for i := range 12 {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(3) == 0 {
					stop := time.AfterFunc(time.Duration(rand.IntN(5000))*time.Microsecond, cancel)
					defer stop.Stop()
				}
				tag := fmt.Sprintf("%d%03d", c+1, i)
				got := f.send(ctx, http.MethodPost, earlyPath, large(tag))
				cancel()
				switch {
				case errors.Is(got.err, context.Canceled), got.code == 499, got.code >= 500:
				case got.code == 200 && got.body == `{"predictions":[`+tag+`]}`:
					answered.Add(1)
				default:
					t.Errorf("%s: %d %.80s %v", tag, got.code, got.body, got.err)
				}
			}
		})
	}
	clients.Wait()
	if answered.Load() == 0 {
		t.Error("nothing was answered")
	}
	m := f.models["m"]
	until(t, "nothing left", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.picker.replicas[0].outstanding()+m.picker.replicas[1].outstanding() == 0
	})
}

// settled waits until the first replica counts nothing.
func (f *front) settled(t *testing.T) {
	t.Helper()
	m := f.models["m"]
	until(t, "the replica given back", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.picker.replicas[0].outstanding() == 0
	})
}

// TestEarlySlowHoldsNothing: a client that takes long keeps its replica from nothing once that has no part of the request any more: not from
// being drained, nor from being tried after an ejection.
func TestEarlySlowHoldsNothing(t *testing.T) {
	s := newWatched(t)
	f := unbatched(t, 200*time.Millisecond, Upstream{URL: s.URL}) // in which all that there is was sent
	text := large("1")
	u := f.upload(t, text)
	if got := <-s.ended; got != "cut" {
		t.Fatalf("%d bytes came", len(got))
	}
	f.settled(t)
	u.end()
	want(t, <-u.answer, 200, `{"predictions":[1]}`)
}

// TestEarlyGivesRoom: a request that waits for room at a replica has it when the client goes whose request was sent early.
func TestEarlyGivesRoom(t *testing.T) {
	s := newWatched(t)
	cfg := learning(Upstream{URL: s.URL})
	cfg.Models[0].Limit = LimitConfig{Concurrent: 1, Queue: 10}
	f := start(t, cfg, Options{})
	f.patience = time.Hour
	f.switchOff()
	text := large("1")
	u := f.upload(t, text)
	<-s.begun
	other := make(chan reply, 1)
	go func() { other <- f.post("/v2/models/m/generate", `{}`) }()
	m := f.models["m"]
	until(t, "one waiting", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.callers) == 1
	})
	u.leave()
	<-s.ended
	select {
	case <-other:
	case <-time.After(10 * time.Second):
		t.Error("it still waits")
	}
}

// TestEarlyTurns: the choice of a replica for a request that is sent early is its only one: it does not count twice against one that starts
// slowly, nor is it one for a batch that is sent once more and avoids it.
func TestEarlyTurns(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b := &replica{}, &replica{since: now.Add(-time.Second)}
	p := picker{replicas: []*replica{a, b}, inflight: 1, slowStart: 10 * time.Second, random: func(int) int { return 0 }}
	p.wanted = p.forCall(now, 0)
	credit := b.credit
	if batchTo(&p, now, p.wanted) == a {
		t.Error("a batch goes to the replica that it avoids")
	}
	if b.credit = credit; batchTo(&p, now, nil) != a || b.credit != credit {
		t.Errorf("a credit of %v, and %v at its first choice", b.credit, credit)
	}
}

// TestEarlyNotByTLS: replicas to which nothing can be sent early have their turns all the same.
func TestEarlyNotByTLS(t *testing.T) {
	f := start(t, learning(Upstream{URL: "https://a.example:1"}, Upstream{URL: "https://b.example:1"}), Options{})
	f.switchOff()
	m := f.models["m"]
	if to := m.takeEarly(); to != nil {
		t.Errorf("sent early to %s", to.address)
	}
	if m.picker.turn != 0 {
		t.Error("one has had its turn")
	}
}

// TestEarlyHungUp: a replica that has closed the connection before it could have all of the request has not failed it: the request is sent to
// it as any other, and counts as no retry.
func TestEarlyHungUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	text := large("1")
	closed := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, c, int64(len(text)-uploadRest-earlyStart))
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // what is sent yet
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		close(closed)
		if c, err = l.Accept(); err != nil {
			return
		}
		defer c.Close()
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n"+`{"predictions":[1]}`)
		}
	}()
	f := unbatched(t, time.Hour, Upstream{URL: "http://" + l.Addr().String()})
	u := f.upload(t, text)
	<-closed
	u.end()
	want(t, <-u.answer, 200, `{"predictions":[1]}`)
	if n := testutil.ToFloat64(f.metrics.retries.WithLabelValues("m")); n != 0 {
		t.Errorf("%v retries", n)
	}
}
