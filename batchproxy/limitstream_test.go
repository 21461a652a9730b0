//go:build !race

package batchproxy

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLearnedLimitOfStreams: what counts of a stream is its first piece. It is not run under the race detector, with which Go 1.26
// crashes now and then where a timer that is due at once, which ReverseProxy has for each stream, is made in a bubble of synctest.
func TestLearnedLimitOfStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: Auto, Queue: 1000}
		p, err := New(cfg, Options{Transport: &workers{slots: make(chan struct{}, 4)}})
		if err != nil {
			t.Fatal(err)
		}
		// A worker has a stream for 100 ms, so that 200 of 5 s are with the replica at once; what the others do is seen by the first piece.
		loadOf(t, p)(200, 300*time.Second, "/v2/models/m/stream")
		m := p.models["m"]
		of := func(what func(*limiter) float64) float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			return what(m.picker.replicas[0].limiter)
		}
		pending := func(l *limiter) float64 { return float64(l.pending) }
		if l := of(func(l *limiter) float64 { return l.limit }); l < 60 {
			t.Errorf("a limit of %v for streams", l)
		}
		if n := of(pending); n != 0 {
			t.Errorf("%v calls have not been told of", n)
		}
		for _, path := range []string{"/v2/models/m/stream", "/v2/models/m/generate_stream"} { // the text of one is measured
			var one sync.WaitGroup
			one.Go(func() { serveOnce(p, http.MethodPost, path, "{}") })
			time.Sleep(50 * time.Millisecond)
			before := of(pending)
			time.Sleep(time.Second)
			if running, after := p.Models()[0].Running, of(pending); running != 1 || before != 1 || after != 0 {
				t.Errorf("%s: %d run; %v are pending before the first piece and %v after it, want 1 and 0", path, running, before, after)
			}
			one.Wait()
		}
	})
}
