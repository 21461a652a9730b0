//go:build !race

package batchproxy

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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

// talkers is a replica whose streams last for one to three minutes, and whose first piece takes longer with each that it has.
type talkers struct{ has, had atomic.Int64 }

func (s *talkers) RoundTrip(*http.Request) (*http.Response, error) {
	out, in := io.Pipe()
	go func() {
		defer s.has.Add(-1)
		time.Sleep(50*time.Millisecond + time.Duration(s.has.Add(1))*10*time.Millisecond)
		_, _ = io.WriteString(in, "data: {\"text_output\":\"a\"}\n\n")
		time.Sleep(time.Minute + time.Duration(s.had.Add(1)*37%120)*time.Second)
		in.Close()
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, ContentLength: -1, Body: out}, nil
}

// TestLearnedLimitOfLongStreams: where no more than a few wait for their first piece, streams keep their room, and who comes need not wait
// until others have ended.
func TestLearnedLimitOfLongStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: Auto, Queue: 1000}
		registry := prometheus.NewRegistry()
		p, err := New(cfg, Options{Transport: new(talkers), Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Hour)
		defer stop()
		var all sync.WaitGroup
		const learning = 2 * time.Hour // until the limit is what they need
		began := time.Now()
		for i := range 40 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 3 * time.Second)
				for ctx.Err() == nil {
					if w := serveOnce(p, http.MethodPost, "/v2/models/m/generate_stream", "{}"); w.Code != 200 && time.Since(began) > learning {
						t.Errorf("answered %d %s", w.Code, w.Body)
					} else if w.Code != 200 {
						time.Sleep(time.Second)
					}
				}
			})
		}
		time.Sleep(learning)
		for ctx.Err() == nil {
			if limit, _ := value(t, registry, `flyball_batchproxy_concurrency_limit{model="m",upstream="http://a"}`); limit < 40 || p.Models()[0].Running < 38 {
				t.Errorf("a limit of %v for 40 clients, of which %d are served", limit, p.Models()[0].Running)
				break
			}
			time.Sleep(10 * time.Second)
		}
		stop()
		all.Wait()
		p.models["m"].timer.Stop()
	})
}
