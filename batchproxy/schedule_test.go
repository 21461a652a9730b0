package batchproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests in this file run in a bubble of fake time, with a transport in the place of the network.

// bubble is a proxy of a model m with one replica that answers after a time that the test says.
type bubble struct {
	*Proxy
	began time.Time
	reply func(n int) (after time.Duration, err error) // to the n-th call, from 0
	wg    sync.WaitGroup

	mu  sync.Mutex
	log []string
}

func (b *bubble) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf("%v ", time.Since(b.began))+fmt.Sprintf(format, args...))
}

func (b *bubble) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	n := len(b.log)
	calls := 0
	for _, line := range b.log[:n] {
		if strings.Contains(line, "call") {
			calls++
		}
	}
	b.mu.Unlock()
	b.note("call %s", body)
	after, err := b.reply(calls)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(after):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	text := strings.Replace(string(body), "instances", "predictions", 1)
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text))}, nil
}

// send has a client send a row and notes what it is answered.
func (b *bubble) send(row string) {
	b.wg.Go(func() {
		w := httptest.NewRecorder()
		b.ServeHTTP(w, httptest.NewRequest("POST", "/v1/models/m:predict", strings.NewReader(`{"instances":[`+row+`]}`)))
		text := w.Body.String()
		if after := w.Header().Get("Retry-After"); after != "" {
			text += " after " + after
		}
		b.note("%s: %d %s", row, w.Code, text)
	})
	synctest.Wait()
}

func inBubble(t *testing.T, reply func(n int) (time.Duration, error), script func(b *bubble), want ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{reply: reply, began: time.Now()}
		p, err := New(oneModel(Upstream{URL: "http://replica"}), Options{Transport: b}) // waits 20 ms, times out after 30 s
		if err != nil {
			t.Fatal(err)
		}
		b.Proxy = p
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		script(b)
		b.wg.Wait()
		cancel()
		running.Wait()
		slices.Sort(want) // what happens at the same instant happens in any order
		slices.Sort(b.log)
		if diff := cmp.Diff(want, b.log); diff != "" {
			t.Error(diff)
		}
	})
}

func TestMaxWait(t *testing.T) {
	inBubble(t, func(int) (time.Duration, error) { return 100 * time.Millisecond, nil }, func(b *bubble) {
		b.send("1")
		time.Sleep(19 * time.Millisecond)
		b.send("2")
		time.Sleep(51 * time.Millisecond) // the replica is busy until 120 ms
		b.send("3")
		time.Sleep(40 * time.Millisecond)
		b.send("4")
	},
		`20ms call {"instances":[1,2]}`,
		`120ms 1: 200 {"predictions":[1]}`,
		`120ms 2: 200 {"predictions":[2]}`,
		`120ms call {"instances":[3,4]}`,
		`220ms 3: 200 {"predictions":[3]}`,
		`220ms 4: 200 {"predictions":[4]}`,
	)
}

var errDial = &net.OpError{Op: "dial", Err: errors.New("connection refused")}

func TestRefusalsAreSpacedOut(t *testing.T) {
	inBubble(t, func(n int) (time.Duration, error) {
		if n < 4 {
			return 0, errDial
		}
		return 0, nil
	}, func(b *bubble) { b.send("1") },
		`20ms call {"instances":[1]}`,
		`70ms call {"instances":[1]}`,
		`170ms call {"instances":[1]}`,
		`370ms call {"instances":[1]}`,
		`770ms call {"instances":[1]}`,
		`770ms 1: 200 {"predictions":[1]}`,
	)
}

func TestNoReplica(t *testing.T) {
	inBubble(t, func(int) (time.Duration, error) { return time.Minute, nil }, func(b *bubble) {
		b.models["m"].picker.replicas[0].draining = true
		b.send("1")
		time.Sleep(time.Second)
		b.send("2")
	},
		`30s 1: 503 {"error":"model \"m\": waited 30s to be sent: no replica is ready"} after 1`,
		`31s 2: 503 {"error":"model \"m\": waited 30s to be sent: no replica is ready"} after 1`,
	)
}

func TestTimeouts(t *testing.T) {
	inBubble(t, func(int) (time.Duration, error) { return time.Minute, nil }, func(b *bubble) {
		b.send("1")
		time.Sleep(10 * time.Second)
		b.send("2")
	},
		`20ms call {"instances":[1]}`,
		`30.02s 1: 504 {"error":"model \"m\": replica replica did not answer within 30s"}`,
		`30.02s call {"instances":[2]}`,
		`1m0.02s 2: 504 {"error":"model \"m\": replica replica did not answer within 30s"}`,
	)
}

func TestOnlyReplicaIsTriedTwice(t *testing.T) {
	inBubble(t, func(int) (time.Duration, error) { return 0, errors.New("broken pipe") }, func(b *bubble) { b.send("1") },
		`20ms call {"instances":[1]}`,
		`20ms call {"instances":[1]}`,
		`20ms 1: 502 {"error":"model \"m\": replica replica: broken pipe"}`,
	)
}

func TestResetThenRestart(t *testing.T) {
	inBubble(t, func(n int) (time.Duration, error) {
		return 0, []error{errors.New("reset"), errDial, errDial, nil}[n]
	}, func(b *bubble) { b.send("1") },
		`20ms call {"instances":[1]}`,
		`20ms call {"instances":[1]}`,
		`70ms call {"instances":[1]}`,
		`170ms call {"instances":[1]}`,
		`170ms 1: 200 {"predictions":[1]}`,
	)
}

func TestRate(t *testing.T) {
	var r rate
	now := time.Unix(0, 0)
	if got := r.wait(now, 100); got != time.Second {
		t.Errorf("with nothing known: %v", got)
	}
	for range 1000 { // 50/s for 20 s
		now = now.Add(20 * time.Millisecond)
		r.add(now, 1)
	}
	for _, tt := range []struct {
		queued   int
		min, max time.Duration
	}{
		{1, time.Second, time.Second},
		{500, 10 * time.Second, 13 * time.Second},
		{1e6, time.Minute, time.Minute},
	} {
		if got := r.wait(now, tt.queued); got < tt.min || got > tt.max {
			t.Errorf("%d queued: %v, want %v to %v", tt.queued, got, tt.min, tt.max)
		}
	}
}
