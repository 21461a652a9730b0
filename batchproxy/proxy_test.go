package batchproxy

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

func TestMessages(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Limits.MaxBody = 200
	f := start(t, cfg, Options{})
	long := `{"instances":["` + strings.Repeat("a", 200) + `"]}`
	for _, tt := range []struct {
		name, path, body string
		header           []string
		code             int
		want             string
	}{
		{"not JSON", "/v1/models/m:predict", `instances=1`, nil, 400, `{"error":"body: not JSON: invalid character 'i' at start of value at byte 0"}`},
		{"wrong shape", "/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[1]}]}`, nil, 400, `{"error":"inputs[0].data: 1 elements, the shape [2,3] wants 6"}`},
		{"wrong member", "/v1/models/m:predict", `{"instances":{"a":1}}`, nil, 400, `{"error":"instances: an array with one element per instance is wanted, this is an object"}`},
		{"too large", "/v1/models/m:predict", long, nil, 413, `{"error":"body is larger than the limit of 200 bytes"}`},
		{"too large, not batched", "/v1/models/m:explain", long, nil, 413, `{"error":"body is larger than the limit of 200 bytes"}`},
		{"compressed", "/v1/models/m:predict", `x`, []string{"Content-Encoding", "gzip"}, 415, `{"error":"body: encoded as \"gzip\": send it as plain JSON"}`},
		{"unknown model", "/v1/models/mm:predict", `{}`, nil, 404, `{"error":"model \"mm\" is unknown"}`},
		{"elsewhere", "/v3/models/m:predict", `{}`, nil, 404, `{"error":"no such path: \"/v3/models/m:predict\"; models are at /v1/models/NAME and /v2/models/NAME"}`},
		{"out of the model", "/v2/models/m/../other/infer", `{}`, nil, 404, `{"error":"no such path: \"/v2/models/m/../other/infer\"; models are at /v1/models/NAME and /v2/models/NAME"}`},
		{"out of the model, encoded", "/v2/models/m%2f..%2Fother/infer", `{}`, nil, 404, `{"error":"no such path: \"/v2/models/m/../other/infer\"; models are at /v1/models/NAME and /v2/models/NAME"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want(t, f.post(tt.path, tt.body, tt.header...), tt.code, tt.want)
		})
	}
	t.Run("too large without a length", func(t *testing.T) {
		resp, err := f.client.Post(f.url+"/v1/models/m:predict", "", io.MultiReader(strings.NewReader(long)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("got %d, want 413", resp.StatusCode)
		}
	})
	if n := len(s.seen()); n != 0 {
		t.Errorf("the replica was sent %d of the wrong requests", n)
	}
}

func TestDidYouMean(t *testing.T) {
	cfg := oneModel(Upstream{URL: "http://127.0.0.1:1"})
	cfg.Models[0].Name = "digits"
	f := start(t, cfg, Options{})
	want(t, f.post("/v2/models/digitz/infer", `{}`), 404, `{"error":"model \"digitz\" is unknown; did you mean \"digits\"?"}`)
}

func TestPassthrough(t *testing.T) {
	s := newModelServer(t)
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	for _, tt := range []struct{ name, method, path, body string }{
		{"metadata", "GET", "/v2/models/m", ""},
		{"ready", "GET", "/v2/models/m/versions/1/ready", ""},
		{"status", "GET", "/v1/models/m", ""},
		{"columnar", "POST", "/v1/models/m:predict", `{"inputs":{"x":[1]}}`},
		{"torchserve", "POST", "/predictions/m/1.0", "\xff not JSON"},
		{"anything", "POST", "/v2/models/m/generate", `not JSON`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := f.send(context.Background(), tt.method, tt.path, tt.body)
			if tt.name == "columnar" {
				// The test's replica reads inputs only as an array, and so shows the body.
				want(t, got, 200, fmt.Sprintf(`{"path":%q,"method":%q,"body":%q}`, tt.path, tt.method, tt.body))
				return
			}
			want(t, got, 200, fmt.Sprintf(`{"path":%q,"method":%q,"body":%q}`, tt.path, tt.method, tt.body))
		})
	}
	t.Run("binary without JSON", func(t *testing.T) {
		f.post("/v2/models/m/infer", `abc`, "Inference-Header-Content-Length", "0")
		calls := s.seen()
		if last := calls[len(calls)-1]; last.body != `abc` || last.header.Get("Inference-Header-Content-Length") != "0" {
			t.Errorf("the replica was sent %+v", last)
		}
	})
	t.Run("health", func(t *testing.T) {
		want(t, f.send(context.Background(), "GET", "/v2/health/live", ""), 200, `{"live":true}`)
		want(t, f.send(context.Background(), "GET", "/v2/health/ready", ""), 200, `{"ready":true}`)
	})
}

func TestStreaming(t *testing.T) {
	s := newModelServer(t)
	more := make(chan struct{})
	s.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		<-more
		fmt.Fprint(w, "data: two\n\n")
		return true
	}
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	resp, err := f.client.Post(f.url+"/v2/models/m/generate_stream", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "data: one\n" {
		t.Fatalf("%q %v", line, err) // comes before the stream goes on
	}
	close(more)
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "\ndata: two\n\n" {
		t.Errorf("%q %v", rest, err)
	}
}

func testAnswerThatCannotBeSplit(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(w http.ResponseWriter, r *http.Request, c call) bool
		alone  string // what each gets
	}{
		{"a count that is wrong", func(w http.ResponseWriter, _ *http.Request, c call) bool {
			if c.rows > 1 {
				fmt.Fprint(w, `{"predictions":[1]}`)
			}
			return c.rows > 1
		}, ""},
		{"never JSON", func(w http.ResponseWriter, _ *http.Request, c call) bool {
			fmt.Fprintf(w, "rows: %d", c.rows)
			return true
		}, "rows: 1"},
		{"compressed", func(w http.ResponseWriter, _ *http.Request, c call) bool {
			if c.rows > 1 {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				fmt.Fprint(z, `{"predictions":["b","a"]}`)
				z.Close()
			}
			return c.rows > 1
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newModelServer(t)
			s.before = tt.before
			cfg := oneModel(Upstream{URL: s.URL})
			cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
			f := start(t, cfg, Options{})
			bodies := []string{`{"instances":["a"]}`, `{"instances":["b"]}`}
			for range 2 { // the second time they go alone from the start
				for i, got := range f.postAll("/v1/models/m:predict", bodies...) {
					body := tt.alone
					if body == "" {
						body = strings.Replace(bodies[i], "instances", "predictions", 1)
					}
					want(t, got, 200, body)
				}
			}
			if diff := cmp.Diff([]int{2, 1, 1, 1, 1}, s.rows()); diff != "" {
				t.Errorf("batches: %s", diff)
			}
		})
	}
}

func TestQueueFull(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Limits.MaxQueue = 3
	registry := prometheus.NewRegistry()
	f := start(t, cfg, Options{Registerer: registry})
	var wg sync.WaitGroup
	send := func() {
		wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) })
	}
	send()
	<-g.entered
	for range 3 {
		send()
	}
	f.queued(3)
	got := f.post("/v1/models/m:predict", `{"instances":[1]}`)
	want(t, got, 429, `{"error":"model \"m\": 3 requests are waiting, which is the limit"}`)
	if after, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || after < 1 {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	close(g.open)
	wg.Wait()
	f.stop()
	for name, want := range map[string]float64{
		`flyball_batchproxy_arrivals_total{class="normal",model="m",protocol="v1"}`:            5,
		`flyball_batchproxy_arrivals_total{class="normal",model="m",protocol="oip"}`:           0,
		`flyball_batchproxy_requests_total{class="normal",code="200",model="m",protocol="v1"}`: 4,
		`flyball_batchproxy_requests_total{class="normal",code="429",model="m",protocol="v1"}`: 1,
		`flyball_batchproxy_shed_total{model="m",reason="queue_full"}`:                         1,
		`flyball_batchproxy_requests_waiting{class="normal",model="m",protocol="v1"}`:          0,
		`flyball_batchproxy_requests_running{class="normal",model="m",protocol="v1"}`:          0,
		`flyball_batchproxy_replicas_ready{model="m"}`:                                         1,
		`flyball_batchproxy_batch_size{model="m",protocol="v1"}`:                               2,
		`flyball_batchproxy_request_duration_seconds{class="normal",model="m",protocol="v1"}`:  5,
		`flyball_batchproxy_queue_duration_seconds{class="normal",model="m",protocol="v1"}`:    4,
		`flyball_batchproxy_upstream_duration_seconds{model="m"}`:                              2,
		`flyball_batchproxy_batches_total{model="m",reason="max_wait"}`:                        2,
	} {
		until(t, fmt.Sprintf("%s is %g", name, want), func() bool { got, ok := value(t, registry, name); return ok && got == want })
	}
}

// value is a series as its text would name it: a counter's or gauge's value, or a histogram's count.
func value(t *testing.T, registry *prometheus.Registry, name string) (float64, bool) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if family.GetName()+"{"+strings.Join(labels, ",")+"}" != name {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount()), true
		}
	}
	return 0, false
}

func TestBytesHeld(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Limits.MaxBody, cfg.Limits.MaxInflightBytes = 100, 100
	f := start(t, cfg, Options{})
	body := `{"instances":["` + strings.Repeat("a", 50) + `"]}`
	var wg sync.WaitGroup
	wg.Go(func() {
		want(t, f.post("/v1/models/m:predict", body), 200, strings.Replace(body, "instances", "predictions", 1))
	})
	<-g.entered
	want(t, f.post("/v1/models/m:predict", body), 429, `{"error":"the requests held have no room for more"}`)
	close(g.open)
	wg.Wait()
	until(t, "the bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
	if got := f.post("/v1/models/m:predict", body); got.code != 200 {
		t.Errorf("got %d after the bytes were given back", got.code)
	}
}

func TestDrainAtShutdown(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxWait = prom.Duration(time.Hour) // only the drain lets it go
	f := start(t, cfg, Options{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) })
	}
	f.queued(3)
	ended := make(chan error)
	go func() { ended <- f.stop() }()
	if c := <-g.entered; c.rows != 3 {
		t.Errorf("a batch of %d", c.rows)
	}
	got := f.post("/v1/models/m:predict", `{"instances":[1]}`)
	want(t, got, 503, `{"error":"the proxy is shutting down"}`)
	if got.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	if got := f.send(context.Background(), "GET", "/v2/health/ready", ""); got.code != 503 {
		t.Errorf("ready while draining: %d", got.code)
	}
	select {
	case err := <-ended:
		t.Errorf("run ended with requests in flight: %v", err)
	default:
	}
	close(g.open)
	wg.Wait()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestDrainGivesUp(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Drain.Timeout = prom.Duration(10 * time.Millisecond)
	f := start(t, cfg, Options{})
	var wg sync.WaitGroup
	for i := range 2 { // one in flight and one in the queue
		wg.Go(func() {
			want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 503, `{"error":"the proxy is shutting down"}`)
		})
		if i == 0 {
			<-g.entered
		}
	}
	f.queued(1)
	wg.Go(func() { // a stream is given up too
		if got := f.post("/v2/models/m/generate", `{}`); got.code != 503 {
			t.Errorf("the stream got %d %s", got.code, got.body)
		}
	})
	until(t, "the stream runs", func() bool { return len(s.seen()) == 2 })
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestDrainReplica(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	ga := newGate()
	a.before = ga.hold
	pool := &list{current: []string{a.address()}}
	f := start(t, oneModel(Upstream{Target: "pool"}), Options{Endpoints: pool})
	ready := func(n int) {
		t.Helper()
		until(t, fmt.Sprintf("%d ready", n), func() bool { return f.Models()[0].Ready == n })
	}
	ready(1)
	var wg sync.WaitGroup
	send := func() {
		wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) })
	}
	send()
	<-ga.entered
	pool.set(a.address(), b.address())
	ready(2)

	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Drain(gone, "pool", a.address()); !errors.Is(err, context.Canceled) {
		t.Errorf("drain with a context that has ended: %v", err)
	}
	drained := make(chan error)
	go func() { drained <- f.Drain(context.Background(), "pool", a.address()) }()
	ready(1)
	send() // goes to b although a is in the list
	until(t, "b has it", func() bool { return len(b.seen()) == 1 })
	select {
	case err := <-drained:
		t.Errorf("drained with a request in flight: %v", err)
	default:
	}
	close(ga.open)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	wg.Wait()
	pool.set(a.address(), b.address()) // has not left
	pool.set(b.address())
	ready(1)
	pool.set(b.address(), a.address()) // left and came back
	ready(2)
	if err := f.Drain(context.Background(), "pool", "127.0.0.1:1"); err != nil {
		t.Errorf("an unknown address: %v", err)
	}
	if err := f.Drain(context.Background(), "other", a.address()); err != nil {
		t.Errorf("an unknown target: %v", err)
	}
	want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`)
}

func TestDrainReplicaThatLeft(t *testing.T) {
	a := newModelServer(t)
	g := newGate()
	a.before = g.hold
	pool := &list{current: []string{a.address()}}
	f := start(t, oneModel(Upstream{Target: "pool"}), Options{Endpoints: pool})
	var wg sync.WaitGroup
	wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) })
	<-g.entered
	pool.set()
	until(t, "none ready", func() bool { return f.Models()[0].Ready == 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if err := f.Drain(ctx, "pool", a.address()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained with a request in flight: %v", err)
	}
	close(g.open)
	if err := f.Drain(context.Background(), "pool", a.address()); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestUnknownTarget(t *testing.T) {
	p, err := New(oneModel(Upstream{Target: "nowhere"}), Options{Endpoints: new(list)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(context.Background()); err == nil || err.Error() != `target nowhere: find replicas: no target "nowhere"` {
		t.Errorf("run: %v", err)
	}
	if _, err := New(oneModel(Upstream{Target: "nowhere"}), Options{}); err == nil {
		t.Error("a target was taken with nothing that finds its replicas")
	}
}

// TestService sends to the endpoints of a Service beside a target of the same addresses: each has a list of its own, and a request
// that is with an endpoint when it leaves is answered.
func TestService(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	g := newGate()
	a.before = g.hold
	pool, service := &list{current: []string{b.address()}}, &list{current: []string{a.address()}}
	f := start(t, oneModel(Upstream{Service: "ml/pool", Port: "http"}, Upstream{Target: "pool"}), Options{Endpoints: pool, Services: service})
	ready := func(n int) {
		t.Helper()
		until(t, fmt.Sprintf("%d ready", n), func() bool { return f.Models()[0].Ready == n })
	}
	ready(2)
	pool.set()
	ready(1)
	var wg sync.WaitGroup
	wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) })
	<-g.entered
	pool.set(a.address())
	ready(2)
	pool.set()
	if err := f.Drain(context.Background(), "ml/pool:http", a.address()); err != nil {
		t.Errorf("what is drained is a target's: %v", err)
	}
	service.set(b.address())
	ready(1)
	want(t, f.post("/v1/models/m:predict", `{"instances":[2]}`), 200, `{"predictions":[2]}`)
	close(g.open)
	wg.Wait()
	if n := len(b.seen()); n != 1 {
		t.Errorf("%d requests at the endpoint that stayed, want 1", n)
	}
	if _, err := New(oneModel(Upstream{Service: "ml/pool"}), Options{Endpoints: pool}); err == nil {
		t.Error("a service was taken with nothing that finds its endpoints")
	}
	p, err := New(oneModel(Upstream{Service: "ml/nowhere"}), Options{Services: service})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(context.Background()); err == nil || err.Error() != `service ml/nowhere: find replicas: no target "ml/nowhere"` {
		t.Errorf("run: %v", err)
	}
}

func TestRestart(t *testing.T) {
	address := refusing(t)
	f := start(t, oneModel(Upstream{URL: "http://" + address}), Options{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) })
	}
	until(t, "the replica is found to refuse", func() bool { return f.Models()[0].Ready == 0 })
	if got := f.send(context.Background(), "GET", "/v2/models/m", ""); got.code != 503 {
		t.Errorf("metadata of a replica that is not there: %d %s", got.code, got.body)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	s := &modelServer{}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: s}}
	server.Start()
	defer server.Close()
	wg.Wait()
}

func TestFailures(t *testing.T) {
	abort := func(http.ResponseWriter, *http.Request, call) bool { panic(http.ErrAbortHandler) }
	status := func(code int) func(http.ResponseWriter, *http.Request, call) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ call) bool {
			w.Header().Set("Retry-After", "7")
			http.Error(w, "no", code)
			return true
		}
	}
	for _, tt := range []struct {
		name        string
		first, then func(http.ResponseWriter, *http.Request, call) bool // what the replicas do, whichever is asked first
		code        int
		body        string // with ADDRESS for the one that was asked last
		retryAfter  string
	}{
		{"one resets", abort, nil, 200, `{"predictions":[1]}`, ""},
		{"one answers 500", status(500), nil, 200, `{"predictions":[1]}`, ""},
		{"one is busy", status(503), nil, 200, `{"predictions":[1]}`, ""},
		{"both are broken", status(502), status(502), 502, `{"error":"model \"m\": replica ADDRESS: answered 502"}`, ""},
		{"both reset", abort, abort, 502, `{"error":"model \"m\": replica ADDRESS: EOF"}`, ""},
		{"both are busy", status(429), status(429), 429, `{"error":"model \"m\": replica ADDRESS: answered 429"}`, "7"},
		{"no right", status(401), nil, 401, "no\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newModelServer(t), newModelServer(t)
			var asked atomic.Int32
			last := make(chan string, 10)
			for _, s := range []*modelServer{a, b} {
				s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
					last <- s.address()
					does := tt.then
					if asked.Add(1) == 1 {
						does = tt.first
					}
					return does != nil && does(w, r, c)
				}
			}
			cfg := oneModel(Upstream{URL: a.URL}, Upstream{URL: b.URL})
			cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
			f := start(t, cfg, Options{})
			for _, got := range f.postAll("/v1/models/m:predict", `{"instances":[1]}`, `{"instances":[1]}`) {
				body := tt.body
				if strings.Contains(body, "ADDRESS") {
					if len(last) == 2 && <-last == "" || len(last) == 0 {
						t.Fatal("no call")
					}
					address := <-last
					last <- address
					body = strings.Replace(body, "ADDRESS", address, 1)
				}
				want(t, got, tt.code, body)
				if got.header.Get("Retry-After") != tt.retryAfter {
					t.Errorf("Retry-After is %q, want %q", got.header.Get("Retry-After"), tt.retryAfter)
				}
			}
			calls := 2
			if tt.code == 401 {
				calls = 1
			}
			if n := len(a.seen()) + len(b.seen()); n != calls {
				t.Errorf("%d calls, want %d", n, calls)
			}
			if calls == 2 && len(a.seen()) != 1 {
				t.Errorf("the retry went to the same replica")
			}
		})
	}
}

func TestSlowReplica(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Timeout = prom.Duration(30 * time.Millisecond)
	f := start(t, cfg, Options{})
	want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 504, `{"error":"model \"m\": replica `+s.address()+` did not answer within 30ms"}`)
}

func TestLargeAnswer(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Limits.MaxResponse = 10
	f := start(t, cfg, Options{})
	want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 502, `{"error":"model \"m\": replica `+s.address()+`: the answer is larger than the limit of 10 bytes"}`)
}

func TestReloadKeepsCounters(t *testing.T) {
	registry := prometheus.NewRegistry()
	for range 2 {
		if _, err := New(oneModel(Upstream{URL: "http://127.0.0.1:1"}), Options{Registerer: registry}); err != nil {
			t.Fatal(err)
		}
	}
}
