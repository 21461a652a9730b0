package batchproxy

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// workers answer so many calls at once, 100 ms each, and have the others wait; the calls of path /stream are answered with a piece after
// 100 ms in which they have a worker, and another 5 s later.
type workers struct {
	slots chan struct{}
	busy  atomic.Bool // refuses everything
}

func (s *workers) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.busy.Load() {
		return &http.Response{StatusCode: 503, Header: http.Header{}, Body: http.NoBody}, nil
	}
	select {
	case s.slots <- struct{}{}:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	time.Sleep(100 * time.Millisecond)
	<-s.slots
	if strings.HasSuffix(r.URL.Path, ":predict") {
		return echo{}.RoundTrip(r)
	}
	if !strings.HasSuffix(r.URL.Path, "stream") {
		return answers("{}").RoundTrip(r)
	}
	out, in := io.Pipe()
	go func() {
		_, _ = io.WriteString(in, "data: {\"text_output\":\"a\"}\n\n")
		time.Sleep(5 * time.Second)
		_, _ = io.WriteString(in, "data: {\"text_output\":\"b\"}\n\n")
		in.Close()
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, ContentLength: -1, Body: out}, nil
}

// loadOf is so many clients that ask again and again for a time, and how many answers they got in it.
func loadOf(t *testing.T, p *Proxy) func(clients int, d time.Duration, path string) (answered int64) {
	return func(clients int, d time.Duration, path string) (answered int64) {
		ctx, stop := context.WithTimeout(t.Context(), d)
		defer stop()
		var n atomic.Int64
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for ctx.Err() == nil {
					w := httptest.NewRecorder()
					p.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader("{}")))
					if w.Code == 200 {
						n.Add(1)
					} else {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		<-ctx.Done()
		answered = n.Load()
		all.Wait()
		return answered
	}
}

// TestLearnedLimit: a replica with four workers is given few more calls than they can do, in the gauge, in the log and in what is
// explained; refusals make it fewer.
func TestLearnedLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &workers{slots: make(chan struct{}, 4)}
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: Auto, Queue: 1000}
		registry := prometheus.NewRegistry()
		var log bytes.Buffer
		p, err := New(cfg, Options{Transport: s, Registerer: registry, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		load, limit := loadOf(t, p), func() float64 {
			x, _ := value(t, registry, `flyball_batchproxy_concurrency_limit{model="m",upstream="http://a"}`)
			return x
		}
		if limit() != limitStart {
			t.Errorf("a limit of %v at first", limit())
		}
		if n := load(60, 100*time.Second, "/v2/models/m/generate"); n < 3800 {
			t.Errorf("%d answers, of some 4000", n)
		}
		if l := limit(); l < 4 || l > 12 {
			t.Errorf("a limit of %v for 4 workers", l)
		}
		x := p.Explain()[0]
		if len(x.Limits) != 1 || float64(x.Limits[0].Limit) != limit() || x.Limits[0].Replica != "a" || x.Limits[0].Base < 0.09 || x.Limits[0].Base > 0.11 || x.Limits[0].Requests != 0 {
			t.Errorf("%+v", x.Limits)
		}
		var text strings.Builder
		if err := x.WriteText(&text); err != nil || !strings.Contains(text.String(), "replica a: up to ") {
			t.Errorf("%v: %s", err, text.String())
		}
		if !strings.Contains(log.String(), "a replica's limit of concurrent requests changed") {
			t.Errorf("not logged: %s", log.String())
		}
		if n, _ := value(t, registry, `flyball_batchproxy_parameter_changes_total{model="m",parameter="concurrency_limit"}`); n < 1 {
			t.Error("changes are not counted")
		}
		s.busy.Store(true)
		load(60, 10*time.Second, "/v2/models/m/generate")
		if l := limit(); l > 2 {
			t.Errorf("a limit of %v for one that refuses everything", l)
		}
		s.busy.Store(false)
	})
}

// TestLearnedDepth: a replica that does two batches at once is given two, and one that does one after the other is not; where the number
// is set it stays.
func TestLearnedDepth(t *testing.T) {
	for _, tt := range []struct {
		instances int
		inflight  Count
		want      float64
	}{{1, Auto, 1}, {2, Auto, 2}, {2, 1, 1}, {1, 3, 3}} {
		synctest.Test(t, func(t *testing.T) {
			s := &workers{slots: make(chan struct{}, tt.instances)}
			cfg := oneModel(Upstream{URL: "http://a"})
			cfg.Models[0].Inflight = tt.inflight
			cfg.Models[0].Batch.MaxSize = 4
			registry := prometheus.NewRegistry()
			p, err := New(cfg, Options{Transport: s, Registerer: registry})
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
			defer stop()
			for range 16 {
				all.Go(func() {
					for ctx.Err() == nil {
						serveOnce(p, http.MethodPost, "/v1/models/m:predict", `{"instances":[1]}`)
					}
				})
			}
			all.Wait()
			if got, _ := value(t, registry, `flyball_batchproxy_batches_at_once{model="m"}`); got != tt.want {
				t.Errorf("%d instances, inflight %s: %v batches at once, want %v", tt.instances, tt.inflight, got, tt.want)
			}
			changes, _ := value(t, registry, `flyball_batchproxy_parameter_changes_total{model="m",parameter="inflight"}`)
			if learned := tt.inflight == Auto && tt.want > 1; learned != (changes > 0) {
				t.Errorf("%d instances, inflight %s: %v changes", tt.instances, tt.inflight, changes)
			}
			x := p.Explain()[0]
			if tt.inflight == Auto && float64(x.Depth) != tt.want || tt.inflight != Auto && x.Depth != 0 {
				t.Errorf("%d instances, inflight %s: %d batches at once are explained", tt.instances, tt.inflight, x.Depth)
			}
			if at := x.Intercept + 4*x.Slope; x.Known && tt.inflight == Auto && (at < 0.099 || at > 0.101) {
				t.Errorf("%d instances, inflight %s: S(4) = %v s", tt.instances, tt.inflight, at)
			}
		})
	}
}

// What is no POST is not within the limit, and takes nobody's room: a replica with as many WebSockets as the limit is while it is probed would
// never be given a request again.
func TestLearnedLimitIsOfPOSTs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &workers{slots: make(chan struct{}, 4)}
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: Auto, Max: 1, Queue: 10}
		p, err := New(cfg, Options{Transport: s})
		if err != nil {
			t.Fatal(err)
		}
		var open sync.WaitGroup
		open.Go(func() { serveOnce(p, http.MethodGet, "/v2/models/m/stream", "") })
		time.Sleep(time.Second)
		began := time.Now()
		if w := serveOnce(p, http.MethodPost, "/v2/models/m/generate", "{}"); w.Code != 200 || time.Since(began) > time.Second {
			t.Errorf("answered %d after %s", w.Code, time.Since(began))
		}
		open.Wait()
		m := p.models["m"]
		if r := m.picker.replicas[0]; r.calls != 0 || r.seats != 0 || r.limiter.pending != 0 {
			t.Errorf("%d calls, %d seats and %d pending at the end", r.calls, r.seats, r.limiter.pending)
		}
		m.timer.Stop()
	})
}

// An answer that breaks off is not one that the replica was quick with.
func TestLearnedLimitOfBrokenAnswer(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer upstream.Close()
	cfg := oneModel(Upstream{URL: upstream.URL})
	cfg.Models[0].Limit = LimitConfig{Concurrent: Auto, Queue: 10}
	cfg.Drain.Delay = 0
	f := start(t, cfg, Options{})
	if r := f.post("/v2/models/m/generate", "{}"); r.err == nil {
		t.Errorf("answered %d %s", r.code, r.body)
	}
	if err := f.stop(); err != nil { // which waits for the call to be over
		t.Error(err)
	}
	l := f.models["m"].picker.replicas[0].limiter
	if l.pending != 0 || l.well || l.seen.n != 0 {
		t.Errorf("%d calls are pending, and %d were measured", l.pending, l.seen.n)
	}
}

// The limits that a new configuration takes over are in the gauge at once.
func TestReplaceShowsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: Auto, Queue: 10}
		registry := prometheus.NewRegistry()
		run := func() *Proxy {
			p, err := New(cfg, Options{Transport: &weighed{}, Registerer: registry})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		p := run()
		p.models["m"].picker.replicas[0].limiter.set(7)
		next := run()
		p.Replace(next)
		if x, _ := value(t, registry, `flyball_batchproxy_concurrency_limit{model="m",upstream="http://a"}`); x != 7 {
			t.Errorf("a limit of %v, want 7", x)
		}
		p.models["m"].timer.Stop()
		next.models["m"].timer.Stop()
	})
}

// A stream whose pieces are not known to be text says by the first of them how long the replica took.
func TestLearnedLimitOfOtherStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: Auto, Queue: 10}
		p, err := New(cfg, Options{Transport: pieces{"data: {\"OUTPUT0\":[1]}\n\n", "data: {\"OUTPUT0\":[2]}\n\n"}})
		if err != nil {
			t.Fatal(err)
		}
		if w := serveOnce(p, http.MethodPost, "/v2/models/m/generate_stream", "{}"); w.Code != 200 {
			t.Errorf("answered %d", w.Code)
		}
		m := p.models["m"]
		if l := m.picker.replicas[0].limiter; l.pending != 0 || l.seen.n != 1 || l.seen.seconds != 0.1 {
			t.Errorf("%d calls are pending, and %d were measured: %v s", l.pending, l.seen.n, l.seen.seconds)
		}
		m.timer.Stop()
	})
}

// pieces is a replica that answers with a stream, of which a piece comes each 100 ms.
type pieces []string

func (s pieces) RoundTrip(*http.Request) (*http.Response, error) {
	out, in := io.Pipe()
	go func() {
		for _, piece := range s {
			time.Sleep(100 * time.Millisecond)
			_, _ = io.WriteString(in, piece)
		}
		in.Close()
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, ContentLength: -1, Body: out}, nil
}
