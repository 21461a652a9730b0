package batchproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	prom "github.com/prometheus/common/model"
)

// testReplicaKilledUnderLoad: a replica goes with all its connections; whoever was with it gets the answer of another.
func testReplicaKilledUnderLoad(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	f := start(t, oneModel(Upstream{URL: a.URL}, Upstream{URL: b.URL}), Options{})
	underLoad(t, f, func(answered *atomic.Int64) {
		until(t, "both send", func() bool { return len(a.seen()) > 3 && len(b.seen()) > 3 })
		_ = a.Listener.Close()
		a.CloseClientConnections()
		n := answered.Load()
		until(t, "the other sends on", func() bool { return answered.Load() > n+50 })
	})
}

// testReplicaResetsInMidAnswer: one whose answers break off is given up after five, and nobody gets half an answer.
func testReplicaResetsInMidAnswer(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	var broken atomic.Int64
	a.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"predictions":[`)
		_ = http.NewResponseController(w).Flush()
		broken.Add(1)
		panic(http.ErrAbortHandler)
	}
	f := start(t, oneModel(Upstream{URL: a.URL}, Upstream{URL: b.URL}), Options{})
	underLoad(t, f, func(answered *atomic.Int64) {
		ejections := f.metrics.ejections.WithLabelValues("m", ejected5xx)
		until(t, "it is ejected", func() bool { return testutil.ToFloat64(ejections) == 1 })
		n := answered.Load()
		until(t, "the other sends on", func() bool { return answered.Load() > n+50 })
	})
	if n := broken.Load(); n != 5 {
		t.Errorf("%d answers broke off, want 5", n)
	}
}

// testReplicaStops: one that hangs with its connections open, as a process that was sent SIGSTOP, costs one batch its answer,
// and none after that.
func testReplicaStops(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	var stopped atomic.Bool
	g := newGate()
	a.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		return stopped.Load() && g.hold(w, r, c)
	}
	cfg := oneModel(Upstream{URL: a.URL}, Upstream{URL: b.URL})
	cfg.Models[0].Timeout = prom.Duration(2 * time.Second)
	cfg.Models[0].Outlier.LatencyFactor = 0 // a busy machine makes the other look slow, which would then be the one that is out
	cfg.Models[0].Batch.MaxSize = 4         // of 8 clients, so that the other has some
	f := start(t, cfg, Options{})
	t.Cleanup(func() { close(g.open) })
	ctx, stop := context.WithCancel(context.Background())
	var answered, late atomic.Int64
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				got := f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, c))
				switch {
				case got.code == 504:
					late.Add(1)
				case got.code != 200 || got.body != fmt.Sprintf(`{"predictions":[%d]}`, c):
					t.Errorf("client %d was answered %d %s %v", c, got.code, got.body, got.err)
					return
				}
				answered.Add(1)
			}
		})
	}
	until(t, "both send", func() bool { return len(a.seen()) > 3 && len(b.seen()) > 3 })
	stopped.Store(true)
	ejections := f.metrics.ejections.WithLabelValues("m", ejectedTimeout)
	until(t, "it is ejected", func() bool { return testutil.ToFloat64(ejections) == 1 })
	n := answered.Load()
	until(t, "the other sends on", func() bool { return answered.Load() > n+50 })
	stop()
	clients.Wait()
	held := 0
	for len(g.entered) > 0 {
		held += (<-g.entered).rows
	}
	if n := late.Load(); n != int64(held) || held > 4 {
		t.Errorf("%d requests were too late, and %d were with the replica that hangs", n, held)
	}
}

// pool is a model's replicas in a bubble of fake time: by their host, how they answer and what they were sent.
type pool struct {
	mu    sync.Mutex
	reply map[string]func(rows int) (took time.Duration, code int, retryAfter string)
	sent  map[string][]int // rows
}

func (p *pool) RoundTrip(r *http.Request) (*http.Response, error) {
	var in struct {
		Instances []json.RawMessage `json:"instances"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, err
	}
	r.Body.Close()
	p.mu.Lock()
	p.sent[r.URL.Hostname()] = append(p.sent[r.URL.Hostname()], len(in.Instances))
	took, code, retryAfter := p.reply[r.URL.Hostname()](len(in.Instances))
	p.mu.Unlock()
	time.Sleep(took)
	out, err := json.Marshal(map[string]any{"predictions": in.Instances})
	resp := &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(out))), ContentLength: int64(len(out))}
	if retryAfter != "" {
		resp.Header.Set("Retry-After", retryAfter)
	}
	return resp, err
}

func (p *pool) count(host string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sent[host])
}

// inPool runs a test in a bubble, of a model with as many replicas as there are replies, 10.0.0.1 and so on. Ask sends so many
// rows at once, each in a request of its own, and returns the statuses.
func inPool(t *testing.T, change func(*ModelConfig), test func(p *pool, m *model, ask func(n int) map[int]int), replies ...func(int) (time.Duration, int, string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pool{reply: make(map[string]func(int) (time.Duration, int, string)), sent: make(map[string][]int)}
		for i, reply := range replies {
			p.reply[fmt.Sprintf("10.0.0.%d", i+1)] = reply
		}
		m := aModel(t, func(c *ModelConfig) { c.Batch.Mode = ModeGreedy; change(c) }, len(replies))
		m.proxy.transport = p
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = m.proxy.Run(ctx) })
		test(p, m, func(n int) map[int]int {
			var mu sync.Mutex
			codes := make(map[int]int)
			var clients sync.WaitGroup
			for i := range n {
				clients.Go(func() {
					w := httptest.NewRecorder()
					m.proxy.ServeHTTP(w, httptest.NewRequest("POST", "/v1/models/m:predict", strings.NewReader(fmt.Sprintf(`{"instances":[%d]}`, i))))
					mu.Lock()
					defer mu.Unlock()
					codes[w.Code]++
				})
			}
			clients.Wait()
			return codes
		})
		cancel()
		running.Wait()
	})
}

func ok(took time.Duration) func(int) (time.Duration, int, string) {
	return func(int) (time.Duration, int, string) { return took, 200, "" }
}

// TestSlowReplicaIsEjectedAndBack: one of three becomes ten times as slow, is left out, is tried with one request while it is
// still slow and again after it is not, and then has its share.
func TestSlowReplicaIsEjectedAndBack(t *testing.T) {
	slow := 7 * time.Millisecond // the ejection ends while requests wait
	first := func(int) (time.Duration, int, string) { return slow, 200, "" }
	inPool(t, func(c *ModelConfig) { c.Batch.MaxSize = 4 }, func(p *pool, m *model, ask func(int) map[int]int) {
		all := make(map[int]int)
		load := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				for code, n := range ask(12) {
					all[code] += n
				}
			}
		}
		load(5 * time.Second)
		fair := p.count("10.0.0.1")
		if fair < 100 {
			t.Errorf("it had %d batches while it was as fast as the others", fair)
		}
		p.mu.Lock()
		slow = 150 * time.Millisecond
		p.mu.Unlock()
		ejections := m.proxy.metrics.ejections.WithLabelValues("m", ejectedLatency)
		load(10 * time.Second)
		if n := testutil.ToFloat64(ejections); n != 1 {
			t.Errorf("%g ejections, want 1", n)
		}
		out := p.count("10.0.0.1")
		if out > fair+10 {
			t.Errorf("%d batches were sent to it after it became slow", out-fair)
		}
		p.mu.Lock()
		slow = 7 * time.Millisecond
		p.mu.Unlock()
		load(10 * time.Second)
		if n := p.count("10.0.0.1"); n != out {
			t.Errorf("%d batches were sent to it while it was ejected", n-out)
		}
		load(30 * time.Second)
		p.mu.Lock()
		tried := p.sent["10.0.0.1"][out:]
		p.mu.Unlock()
		if len(tried) < 300 || tried[0] != 1 {
			t.Errorf("after that it had %d batches, the first of %d rows, want many after one of 1", len(tried), tried[0])
		}
		if len(all) != 1 {
			t.Errorf("answers: %v, want 200 alone", all)
		}
	}, first, ok(7*time.Millisecond), ok(7*time.Millisecond))
}

// TestBusyReplica: 503 with Retry-After sends the batch on until one takes it, whole, and those who said so are left alone
// for as long as they said.
func TestBusyReplica(t *testing.T) {
	busy := func(int) (time.Duration, int, string) { return time.Millisecond, 503, "5" }
	inPool(t, func(*ModelConfig) {}, func(p *pool, m *model, ask func(int) map[int]int) {
		began := time.Now()
		for time.Since(began) < 4*time.Second {
			if diff := cmp.Diff(map[int]int{200: 3}, ask(3)); diff != "" {
				t.Fatal(diff)
			}
		}
		for _, host := range []string{"10.0.0.1", "10.0.0.2"} {
			if n := p.count(host); n != 1 {
				t.Errorf("%s was sent %d batches within what it said, want 1", host, n)
			}
		}
		if n := testutil.ToFloat64(m.proxy.metrics.bisects.WithLabelValues("m")); n != 0 {
			t.Errorf("%g bisects", n)
		}
		time.Sleep(6 * time.Second)
		for range 4 {
			ask(3)
		}
		if n := p.count("10.0.0.1") + p.count("10.0.0.2"); n != 4 {
			t.Errorf("after that they were asked %d times in all, want 4", n)
		}
	}, busy, busy, ok(10*time.Millisecond))
}
