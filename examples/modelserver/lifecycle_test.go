package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// pipes is a listener whose connections are net.Pipe, so that a server and its clients can run on synctest's clock.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func newPipes() *pipes { return &pipes{dialled: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.dialled:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.dialled <- there:
		return here, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// life is a server on synctest's clock.
type life struct {
	*server
	client
	pipes *pipes
	stop  context.CancelFunc
	ended chan error
}

// live starts a server in the bubble of a test, which must receive from ended.
func live(t *testing.T, opts options) life {
	t.Helper()
	s, err := newServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.device.hold = timerUntil // on the bubble's clock
	p := newPipes()
	ctx, stop := context.WithCancel(t.Context())
	l := life{
		server: s, pipes: p, stop: stop, ended: make(chan error, 1),
		client: client{url: "http://modelserver", http: &http.Client{Transport: &http.Transport{DialContext: p.dial}}},
	}
	t.Cleanup(l.http.CloseIdleConnections)
	go func() { l.ended <- s.Run(ctx, p) }()
	synctest.Wait()
	return l
}

type answer struct {
	code int
	body string
	err  error
}

// infer sends one image and gives the answer when it comes.
func (l life) infer(t *testing.T) <-chan answer {
	t.Helper()
	body := bodyV2(heldOut(t)[:1])
	out := make(chan answer, 1)
	go func() {
		var a answer
		a.code, a.body, a.err = l.try(http.MethodPost, "/v2/models/digits/infer", body)
		out <- a
	}()
	synctest.Wait()
	return out
}

func (l life) end(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	l.stop()
	if err := <-l.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	return time.Since(began)
}

func TestStartDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := defaultOptions()
		opts.StartDelay = 30 * time.Second
		l := live(t, opts)
		type state struct {
			path string
			code int
			want string
		}
		check := func(states ...state) {
			t.Helper()
			for _, s := range states {
				if code, body := l.call(t, http.MethodGet, s.path, ""); code != s.code || body != s.want {
					t.Errorf("%s: %d %s, want %d %s", s.path, code, body, s.code, s.want)
				}
			}
		}
		time.Sleep(30*time.Second - 1)
		check(
			state{"/v2/health/live", 200, `{"live":true}`},
			state{"/v2/health/ready", 503, `{"ready":false}`},
			state{"/v2/models/digits/ready", 503, `{"name":"digits","ready":false}`},
			state{"/v1/models/digits", 503, `{"name":"digits","ready":false}`},
		)
		if a := <-l.infer(t); a.code != 503 || a.body != `{"error":"model \"digits\" is loading: try again soon"}` {
			t.Errorf("infer while it loads: %+v", a)
		}
		time.Sleep(1)
		synctest.Wait()
		check(
			state{"/v2/health/ready", 200, `{"ready":true}`},
			state{"/v2/models/digits/ready", 200, `{"name":"digits","ready":true}`},
			state{"/v1/models/digits", 200, `{"name":"digits","ready":true}`},
		)
		if a := <-l.infer(t); a.code != 200 {
			t.Errorf("infer when ready: %+v", a)
		}
		l.end(t)
	})
}

// TestStopWhileLoading: a server that is stopped before it was ready ends at once.
func TestStopWhileLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := defaultOptions()
		opts.StartDelay = time.Hour
		l := live(t, opts)
		if took := l.end(t); took > time.Second {
			t.Errorf("stopping took %v", took)
		}
		if l.ready() {
			t.Error("ready after it stopped")
		}
	})
}

// TestShutdownFinishes: what runs and what waits when the server is told to stop is answered; what comes then is not.
func TestShutdownFinishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := defaultOptions()
		opts.Accelerator = acceleratorCost{Fixed: 3 * time.Second}
		l := live(t, opts)
		running, waiting := l.infer(t), l.infer(t)
		ahead, err := l.pipes.dial(t.Context(), "", "") // on which no request ever comes
		if err != nil {
			t.Fatal(err)
		}
		defer ahead.Close()
		synctest.Wait()

		began := time.Now()
		l.stop()
		synctest.Wait()
		if l.ready() {
			t.Error("ready while it stops")
		}
		if late := <-l.infer(t); late.err == nil || !strings.Contains(late.err.Error(), "connection refused") {
			t.Errorf("a request that came after the stop: %+v", late)
		}
		for _, in := range []<-chan answer{running, waiting} {
			if a := <-in; a.code != 200 || a.err != nil {
				t.Errorf("in flight: %+v", a)
			}
		}
		if err := <-l.ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		// Two batches of 3 s, and at most 0.5 s until http.Server looks again.
		if took := time.Since(began); took < 6*time.Second || took > 6600*time.Millisecond {
			t.Errorf("stopping took %v", took)
		}
	})
}

// TestShutdownTimeout: what takes longer than the timeout is cut off, and that is an error.
func TestShutdownTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := defaultOptions()
		opts.Accelerator = acceleratorCost{Fixed: time.Hour}
		opts.ShutdownTimeout = 2 * time.Second
		l := live(t, opts)
		running, waiting := l.infer(t), l.infer(t)
		began := time.Now()
		l.stop()
		err := <-l.ended
		if want := "requests in flight were cut off after 2s: context deadline exceeded"; err == nil || err.Error() != want {
			t.Errorf("Run: %v, want %s", err, want)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("stopping took %v, want 2s", took)
		}
		for _, in := range []<-chan answer{running, waiting} {
			if a := <-in; a.err == nil {
				t.Errorf("cut off: %+v", a)
			}
		}
	})
}

// TestStopWhenIdle: neither a kept connection nor one that was never used holds the server up.
func TestStopWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := live(t, defaultOptions())
		l.call(t, http.MethodGet, "/v2", "")
		ahead, err := l.pipes.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer ahead.Close()
		synctest.Wait()
		if took := l.end(t); took > 500*time.Millisecond {
			t.Errorf("stopping took %v", took)
		}
	})
}

// TestClientGone: a request whose client leaves while it waits never has the emulated accelerator, and is counted as 499.
func TestClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := defaultOptions()
		opts.Accelerator = acceleratorCost{Fixed: 5 * time.Second}
		l := live(t, opts)
		began := time.Now()
		first := l.infer(t)

		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/models/digits:predict", strings.NewReader(bodyV1(heldOut(t)[:8])))
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan error, 1)
		go func() {
			resp, err := l.http.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			gone <- err
		}()
		synctest.Wait()
		third := l.infer(t)
		if waiting := testutil.ToFloat64(l.metrics.waiting); waiting != 2 {
			t.Errorf("%v waiting, want 2", waiting)
		}
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the client that left: %v", err)
		}
		for _, in := range []<-chan answer{first, third} {
			if a := <-in; a.code != 200 {
				t.Errorf("the others: %+v", a)
			}
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("two batches took %v, want 10s", took)
		}
		l.end(t)
		if n := testutil.ToFloat64(l.metrics.requests.WithLabelValues("v1", "499")); n != 1 {
			t.Errorf("%v counted as 499, want 1", n)
		}
		if n := testutil.ToFloat64(l.metrics.images); n != 2 {
			t.Errorf("%v images classified, want 2", n)
		}
	})
}

// TestGoneInTheBody: a client that leaves in the middle of its body is counted, and gets no answer.
func TestGoneInTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := live(t, defaultOptions())
		conn, err := l.pipes.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST /v2/models/digits/infer HTTP/1.1\r\nHost: modelserver\r\nContent-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		conn.Close()
		synctest.Wait()
		if n := testutil.ToFloat64(l.metrics.requests.WithLabelValues("v2", "499")); n != 1 {
			t.Errorf("%v counted as 499, want 1", n)
		}
		l.end(t)
	})
}

// TestTooLargeUnsent: a body that announces itself as too large is refused before it is sent.
func TestTooLargeUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := live(t, defaultOptions())
		conn, err := l.pipes.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /v1/models/digits:predict HTTP/1.1\r\nHost: modelserver\r\nContent-Length: 4194305\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusRequestEntityTooLarge || time.Since(began) != 0 {
			t.Errorf("%d after %v, want 413 at once", resp.StatusCode, time.Since(began))
		}
		conn.Close()
		l.end(t)
	})
}

// TestSlowBody: a body that does not come in time is answered with 408, and one that did leaves no deadline behind: the
// request may then wait for the emulated accelerator for as long as it takes.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := defaultOptions()
		opts.Accelerator = acceleratorCost{Fixed: time.Hour}
		l := live(t, opts)
		body, unsent := io.Pipe()
		defer unsent.Close()
		began := time.Now()
		req, err := http.NewRequest(http.MethodPost, l.url+"/v2/models/digits/infer", body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := l.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"error":"body did not arrive within 30s"}`; resp.StatusCode != http.StatusRequestTimeout || string(got) != want {
			t.Errorf("%d %s, want 408 %s", resp.StatusCode, got, want)
		}
		if took := time.Since(began); took != opts.BodyTimeout {
			t.Errorf("answered after %v, want %v", took, opts.BodyTimeout)
		}
		running, waiting := l.infer(t), l.infer(t)
		for _, in := range []<-chan answer{running, waiting} {
			if a := <-in; a.code != 200 {
				t.Errorf("a request that takes hours: %+v", a)
			}
		}
		l.end(t)
	})
}
