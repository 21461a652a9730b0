package batchproxy

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// The tests in this file are what a batching proxy must not get wrong; each names a fault that is found in the field.

func testTwoModelsInOneWindow(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	cfg := oneModel(Upstream{URL: a.URL})
	second := cfg.Models[0]
	second.Name, second.Upstreams = "n", []Upstream{{URL: b.URL}}
	cfg.Models = append(cfg.Models, second)
	f := start(t, cfg, Options{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			want(t, f.post("/v1/models/m:predict", `{"instances":["m"]}`), 200, `{"predictions":["m"]}`)
			want(t, f.post("/v1/models/n:predict", `{"instances":["n"]}`), 200, `{"predictions":["n"]}`)
			want(t, f.post("/v1/models/m/versions/2:predict", `{"instances":["m2"]}`), 200, `{"predictions":["m2"]}`)
		})
	}
	wg.Wait()
	for _, c := range a.seen() {
		if strings.Contains(c.body, `"n"`) || strings.Contains(c.body, `"m"`) != (c.path == "/v1/models/m:predict") {
			t.Errorf("%s was sent %s", c.path, c.body)
		}
	}
	for _, c := range b.seen() {
		if strings.Contains(c.body, "m") {
			t.Errorf("the second model was sent %s", c.body)
		}
	}
}

func testPoisonFailsAlone(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 8, MaxWait: prom.Duration(time.Hour)} // leaves when it is full
	f := start(t, cfg, Options{})
	var bodies []string
	for _, text := range []string{"a", "b", "c", "poison", "e", "f", "g", "h"} {
		bodies = append(bodies, `{"instances":["`+text+`"]}`)
	}
	for i, got := range f.postAll("/v1/models/m:predict", bodies...) {
		if i == 3 {
			want(t, got, 400, `{"error":"poison"}`)
			continue
		}
		want(t, got, 200, strings.Replace(bodies[i], "instances", "predictions", 1))
	}
	if n := len(s.seen()); n > 7 {
		t.Errorf("one culprit among 8 took %d calls, want 7 at most", n)
	}
}

func testNumbersStayAsTheyAre(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
	f := start(t, cfg, Options{})
	replies := f.postAll("/v1/models/m:predict", `{"instances":[9007199254740993]}`, `{"instances":[1.000000000000000000001e-5]}`)
	want(t, replies[0], 200, `{"predictions":[9007199254740993]}`)
	want(t, replies[1], 200, `{"predictions":[1.000000000000000000001e-5]}`)
	if diff := cmp.Diff([]int{2}, s.rows()); diff != "" {
		t.Error(diff)
	}
}

func testNeverMoreThanMaxSize(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch.Oversize = "solo"
	f := start(t, cfg, Options{})
	rows := func(n int) string { return `{"instances":[1` + strings.Repeat(",1", n-1) + `]}` }
	var wg sync.WaitGroup
	for i, n := range []int{32, 20, 20, 100, 12, 1} { // one after the other, the first being held
		wg.Go(func() {
			if got := f.post("/v1/models/m:predict", rows(n)); got.code != 200 || strings.Count(got.body, "1") != n {
				t.Errorf("%d rows got %d %.80s", n, got.code, got.body)
			}
		})
		if i == 0 {
			<-g.entered
			continue
		}
		f.queued(i)
	}
	close(g.open)
	wg.Wait()
	if diff := cmp.Diff([]int{32, 20, 20, 100, 13}, s.rows()); diff != "" {
		t.Errorf("batches: %s", diff)
	}
}

func testClientGone(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	cancelled := make(chan struct{})
	s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		g.hold(w, r, c)
		if r.Context().Err() != nil {
			close(cancelled)
		}
		return false
	}
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
	registry := prometheus.NewRegistry()
	f := start(t, cfg, Options{Registerer: registry})
	ctx, cancel := context.WithCancel(context.Background())
	other, cancelOther := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.send(ctx, "POST", "/v1/models/m:predict", `{"instances":["first"]}`) })
	wg.Go(func() { f.send(other, "POST", "/v1/models/m:predict", `{"instances":["second"]}`) })
	<-g.entered
	wg.Go(func() { f.send(ctx, "POST", "/v1/models/m:predict", `{"instances":["third"]}`) })
	f.queued(1)
	cancel() // the first, in the batch, and the third, in the queue
	f.queued(0)
	select {
	case <-cancelled:
		t.Error("the batch was cancelled while one of its clients was there")
	default:
	}
	cancelOther()
	<-cancelled
	wg.Wait()
	f.running(0)
	if diff := cmp.Diff([]int{2}, s.rows()); diff != "" {
		t.Errorf("the request that went from the queue was sent: %s", diff)
	}
	until(t, "three clients are counted as gone", func() bool {
		n, _ := value(t, registry, `flyball_batchproxy_requests_total{class="normal",code="499",model="m",protocol="v1"}`)
		return n == 3
	})
}

func testHeadersAndMembersArrive(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxWait = prom.Duration(50 * time.Millisecond)
	cfg.Models[0].Batch.IgnoreHeaders = []string{"x-mine"}
	f := start(t, cfg, Options{})
	var wg sync.WaitGroup
	for i, user := range []string{"a", "a", "b", "b"} {
		wg.Go(func() {
			got := f.post("/v1/models/m:predict?trace=1", `{"instances":["`+user+`"],"signature_name":"s","parameters":{"p":1}}`,
				"Authorization", "Bearer "+user, "X-Tenant", "t", "X-Request-Id", string(rune('0'+i)), "X-Mine", string(rune('0'+i)))
			want(t, got, 200, `{"predictions":["`+user+`"]}`)
			if got.header.Get("X-Flyball-Batch-Size") != "2" || got.header.Get("X-Model") != "" {
				t.Errorf("headers of a part of a batch: %v", got.header)
			}
		})
	}
	wg.Wait()
	calls := s.seen()
	if len(calls) != 2 {
		t.Fatalf("%d batches, want one per user", len(calls))
	}
	for _, c := range calls {
		user := strings.TrimPrefix(c.header.Get("Authorization"), "Bearer ")
		if c.body != `{"instances":["`+user+`","`+user+`"],"parameters":{"p":1},"signature_name":"s"}` {
			t.Errorf("user %s: %s", user, c.body)
		}
		if c.header.Get("X-Tenant") != "t" || c.header.Get("X-Request-Id") != "" || c.header.Get("X-Mine") != "" || c.header.Get("Content-Type") != "application/json" {
			t.Errorf("headers: %v", c.header)
		}
	}
	// A batch of one goes with all that its client sent, and its answer comes back as it is.
	got := f.post("/v1/models/m:predict", `{ "instances": ["a"] }`, "X-Request-Id", "7", "Traceparent", "t")
	want(t, got, 200, `{"predictions":["a"]}`)
	if got.header.Get("X-Model") != "mine" || got.header.Get("X-Flyball-Batch-Size") != "1" {
		t.Errorf("headers: %v", got.header)
	}
	last := s.seen()[2]
	if last.body != `{ "instances": ["a"] }` || last.header.Get("X-Request-Id") != "7" || last.header.Get("Traceparent") != "t" {
		t.Errorf("the replica was sent %+v", last)
	}
}

func TestNextBatchFormsWhileOneRuns(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	var wg sync.WaitGroup
	send := func(n int) {
		for range n {
			wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) })
		}
	}
	send(1)
	<-g.entered
	send(40)
	f.queued(40)
	close(g.open)
	wg.Wait()
	if diff := cmp.Diff([]int{1, 32, 8}, s.rows()); diff != "" {
		t.Errorf("batches: %s", diff)
	}
}

func testOIPBatch(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 3, MaxWait: prom.Duration(time.Hour)}
	f := start(t, cfg, Options{})
	replies := f.postAll("/v2/models/m/infer",
		`{"id":"one","inputs":[{"name":"x","shape":[1,2],"datatype":"INT64","data":[9007199254740993,2]}]}`,
		`{"inputs":[{"name":"x","shape":[2,2],"datatype":"INT64","data":[3,4,5,6]}]}`)
	want(t, replies[0], 200, `{"id":"one","model_name":"m","outputs":[{"name":"x","shape":[1,2],"datatype":"INT64","data":[9007199254740993,2]}]}`)
	want(t, replies[1], 200, `{"model_name":"m","outputs":[{"name":"x","shape":[2,2],"datatype":"INT64","data":[3,4,5,6]}]}`)
	if rows := s.rows(); !slices.Equal(rows, []int{3}) {
		t.Errorf("batches of %v", rows)
	}
}
