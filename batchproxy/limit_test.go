package batchproxy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestLimit: a replica has no more requests at once than it may, others wait in turn, and more than may wait are answered 503.
func TestLimit(t *testing.T) {
	g := newGate()
	s := newModelServer(t)
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Limit = LimitConfig{Max: 2, Queue: 1}
	f := start(t, cfg, Options{})
	var clients sync.WaitGroup
	ask := func(ctx context.Context, code int) {
		clients.Go(func() {
			if got := f.send(ctx, "POST", "/v1/models/m:explain", `{}`); got.code != code {
				t.Errorf("got %d %s %v, want %d", got.code, got.body, got.err, code)
			}
		})
	}
	waiting := func(n int) {
		t.Helper()
		m := f.models["m"]
		until(t, fmt.Sprintf("%d wait", n), func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.callers) == n })
	}
	ask(t.Context(), 200)
	ask(t.Context(), 200)
	<-g.entered
	<-g.entered
	going, leave := context.WithCancel(t.Context())
	ask(going, 0)
	waiting(1)
	got := f.post("/v1/models/m:explain", `{}`)
	if got.code != 503 || got.header.Get("Retry-After") != "1" || !strings.Contains(got.body, "2 requests at once that it may have, and 1 are waiting") {
		t.Errorf("got %d %v %s", got.code, got.header, got.body)
	}
	if n := testutil.ToFloat64(f.metrics.shed.WithLabelValues("m", "queue_full")); n != 1 {
		t.Errorf("%g are shed, want 1", n)
	}
	leave() // and makes room
	waiting(0)
	ask(t.Context(), 200)
	waiting(1)
	if n := len(g.entered); n != 0 {
		t.Errorf("%d more than the limit are with the replica", n)
	}
	close(g.open)
	clients.Wait()
	if n := len(s.seen()); n != 3 {
		t.Errorf("the replica was sent %d requests, want 3", n)
	}
	f.running(0)
}

// TestLimitInTime: whoever waits for longer than the timeout is told so, and a replica that comes is for those who wait.
func TestLimitInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := aModel(t, func(c *ModelConfig) { c.Limit.Max = 1 }, 1)
		first, refusal := m.takeForCall(t.Context())
		if refusal != nil {
			t.Fatal(refusal.message)
		}
		began := time.Now()
		_, refusal = m.takeForCall(t.Context())
		if refusal == nil || refusal.code != 503 || refusal.shed != "timeout" || time.Since(began) != 30*time.Second {
			t.Errorf("after %s: %+v", time.Since(began), refusal)
		}
		got := make(chan *replica, 1)
		go func() { r, _ := m.takeForCall(t.Context()); got <- r }()
		synctest.Wait()
		m.giveCall(first)
		if r := <-got; r != first {
			t.Errorf("got %v, want the replica that was given back", r)
		}
		refused := make(chan *answer, 1)
		go func() { _, a := m.takeForCall(t.Context()); refused <- a }()
		synctest.Wait()
		m.close()
		if a := <-refused; a == nil || a.code != 503 || !strings.Contains(a.message, "shutting down") {
			t.Errorf("at the end: %+v", a)
		}
	})
}
