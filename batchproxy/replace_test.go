package batchproxy

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	prom "github.com/prometheus/common/model"
)

// TestReplace changes the configuration again and again under load: every request is answered rightly, those that the server
// still hands to the first proxy included, and counted once; a model that is gone takes its series along.
func TestReplace(t *testing.T) {
	s := newModelServer(t)
	registry := prometheus.NewRegistry()
	cfg := oneModel(Upstream{URL: s.URL})
	other := cfg.Models[0]
	other.Name = "other"
	cfg.Models = append(cfg.Models, other)
	f := start(t, cfg, Options{Registerer: registry})

	var wg sync.WaitGroup
	var sent atomic.Int64
	done := make(chan struct{})
	for client := range 8 {
		wg.Go(func() {
			for i := client * 1_000_000; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				sent.Add(1)
				want(t, f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, i)), 200, fmt.Sprintf(`{"predictions":[%d]}`, i))
			}
		})
	}
	current, ends := f.Proxy, []func() error{f.stop}
	for size := 1; size <= 20; size++ {
		next := oneModel(Upstream{URL: s.URL})
		next.Models[0].Batch.MaxSize = size
		next.Models[0].Batch.MaxWait = prom.Duration(size)
		p, err := New(next, Options{Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		before := sent.Load()
		current.Replace(p)
		if err := ends[len(ends)-1](); err != nil {
			t.Fatal(err)
		}
		until(t, "requests after the change", func() bool { return sent.Load() > before+20 })
		current, ends = p, append(ends, func() error { cancel(); return <-ended })
	}
	close(done)
	wg.Wait()

	if got := f.post("/v1/models/other:predict", `{"instances":[1]}`); got.code != http.StatusNotFound {
		t.Errorf("a model that is gone: %d %s", got.code, got.body)
	}
	if err := ends[len(ends)-1](); err != nil {
		t.Fatal(err)
	}
	expected := fmt.Sprintf("# HELP flyball_batchproxy_arrivals_total Requests that clients sent, counted as they came, refused ones too: the demand.\n"+
		"# TYPE flyball_batchproxy_arrivals_total counter\n"+
		"flyball_batchproxy_arrivals_total{class=\"normal\",model=\"m\",protocol=\"oip\"} 0\n"+
		"flyball_batchproxy_arrivals_total{class=\"normal\",model=\"m\",protocol=\"v1\"} %d\n", sent.Load())
	if err := testutil.GatherAndCompare(registry, strings.NewReader(expected), "flyball_batchproxy_arrivals_total"); err != nil {
		t.Error(err)
	}
	if got := f.post("/v1/models/m:predict", `{"instances":[1]}`); got.code != http.StatusServiceUnavailable {
		t.Errorf("after the last one's end: %d %s", got.code, got.body)
	}
}

// TestReplaceLate: a proxy that has drained already, as when the process ends in the middle of a reload, may be replaced yet.
func TestReplaceLate(t *testing.T) {
	s := newModelServer(t)
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	next, err := New(oneModel(Upstream{URL: s.URL}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	f.Replace(next)
	want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`)
}

// TestReplaceWithoutLimit: the limit that a model had before a change of the configuration is not shown after it.
func TestReplaceWithoutLimit(t *testing.T) {
	s := newModelServer(t)
	registry := prometheus.NewRegistry()
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Limit = LimitConfig{Concurrent: 3, Queue: 10}
	f := start(t, cfg, Options{Registerer: registry})
	series := func() int {
		n, err := testutil.GatherAndCount(registry, "flyball_batchproxy_concurrency_limit")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := series(); n != 1 {
		t.Errorf("%d series with a limit", n)
	}
	next, err := New(oneModel(Upstream{URL: s.URL}), Options{Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	f.Replace(next)
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if n := series(); n != 0 {
		t.Errorf("%d series without a limit", n)
	}
}
