package tracing

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	prom "github.com/prometheus/common/model"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"

	"flyball/batchproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// modelServer answers with its instances, refuses the batch that has "poison", and remembers the traces that it was called in.
type modelServer struct {
	*httptest.Server
	mu     sync.Mutex
	calls  []string // traceparent
	states []string // tracestate
	hold   chan struct{}
}

func newModelServer(t *testing.T) *modelServer {
	s := &modelServer{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// ServeHTTP implements http.Handler.
func (s *modelServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls = append(s.calls, r.Header.Get("Traceparent"))
	s.states = append(s.states, r.Header.Get("Tracestate"))
	hold := s.hold
	s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/chat/completions"):
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range []string{
			`{"choices":[{"delta":{"content":"Hal"}}]}`, `{"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}`,
			`{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}`, `[DONE]`,
		} {
			fmt.Fprintf(w, "data: %s\n\n", event)
		}
	case strings.HasSuffix(r.URL.Path, "/embeddings"):
		_, _ = io.WriteString(w, `{"data":[{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":1,"total_tokens":1}}`)
	case bytes.Contains(body, []byte("poison")):
		http.Error(w, `{"error":"poison"}`, http.StatusBadRequest)
	case bytes.Contains(body, []byte("broken")):
		http.Error(w, `{"error":"broken"}`, http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(bytes.Replace(body, []byte("instances"), []byte("predictions"), 1))
	}
}

// release lets what is held, and all that comes, have its answer.
func (s *modelServer) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.hold)
	s.hold = nil
}

func (s *modelServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// rig is a proxy whose spans go to a collector.
type rig struct {
	t        *testing.T
	tracing  *Tracing
	registry *prometheus.Registry
	log      *lines
	access   *lines // the access log
	proxy    *batchproxy.Proxy
	url      string
	end      func() // ends the proxy and then tracing, as the process does
}

func newRig(t *testing.T, c *Config, models ...batchproxy.ModelConfig) *rig {
	r := &rig{t: t, registry: prometheus.NewRegistry(), log: &lines{}, access: &lines{}}
	r.tracing = New(Options{Logger: r.log.logger(), Registerer: r.registry, Version: "1.2.3", Scope: "flyball/batchproxy"})
	r.configure(c)
	cfg := batchproxy.DefaultConfig()
	cfg.Models, cfg.AccessLog = models, batchproxy.AccessLog{Path: "stdout"}
	var err error
	if r.proxy, err = batchproxy.New(cfg, batchproxy.Options{Registerer: r.registry, Tracer: r.tracing.Tracer, Stdout: r.access}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r.proxy)
	r.url = server.URL
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.proxy.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	r.end = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		server.Close()
		r.tracing.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(r.end)
	return r
}

func (r *rig) configure(c *Config) {
	r.t.Helper()
	if c != nil {
		if err := c.Validate(); err != nil {
			r.t.Fatal(err)
		}
	}
	u, err := r.tracing.Prepare(c)
	if err != nil {
		r.t.Fatal(err)
	}
	u.Commit()
}

// send sends a request, and returns the status of its answer; 0 for none.
func (r *rig) send(ctx context.Context, path, body string, header ...string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return 0
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func (r *rig) queued(n int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d in the queue", n), func() bool { return r.proxy.Models()[0].Queued == n })
}

// counter is the sum of a counter's series that have this label's value.
func (r *rig) counter(name, value string) float64 {
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (value == "" || slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetValue() == value })) {
				sum += m.Counter.GetValue()
			}
		}
	}
	return sum
}

// batches is a model whose batches leave when they have so many rows.
func batches(size int, urls ...string) batchproxy.ModelConfig {
	m := batchproxy.DefaultModelConfig()
	m.Name = "m"
	m.Batch.Mode, m.Batch.MaxSize, m.Batch.MaxWait = batchproxy.ModeTimeout, size, prom.Duration(20*time.Second)
	for _, u := range urls {
		m.Upstreams = append(m.Upstreams, batchproxy.Upstream{URL: u})
	}
	return m
}

func overHTTP(c *httptest.Server, fraction float64) *Config {
	return &Config{ClientType: clientHTTP, Endpoint: strings.TrimPrefix(c.URL, "http://"), Insecure: true, SamplingFraction: fraction}
}

const predict = "/v1/models/m:predict"

func instance(v any) string {
	text, _ := json.Marshal(v)
	return fmt.Sprintf(`{"instances":[%s]}`, text)
}

// TestSpans: what is exported of requests, and which trace the replica is told.
func TestSpans(t *testing.T) {
	const yes, no = true, false
	type request struct {
		path, body string
		traced     bool // has a traceparent
		sampled    bool
		code       int
	}
	for _, tt := range []struct {
		name     string
		fraction float64
		model    func(url string) batchproxy.ModelConfig
		requests []request // each is queued before the next is sent
		want     string
		parents  []string // what replicas were told: recorded, not recorded (of the client's trace or another), none
	}{
		{
			name:  "one client alone",
			model: func(url string) batchproxy.ModelConfig { return batches(1, url) },
			requests: []request{
				{predict, instance(1), yes, yes, 200},
			},
			want: `
trace 0
  POST /v1/models/{model}:predict server of client 0 batch.size=1 batch.reason=solo response.status_code=200
    queue internal
    batch internal batch.size=1 batch.reason=solo
      upstream client batch.size=1 response.status_code=200 (the replica's)
`,
			parents: []string{"recorded"},
		},
		{
			name:  "two clients whose traces are recorded",
			model: func(url string) batchproxy.ModelConfig { return batches(2, url) },
			requests: []request{
				{predict, instance(1), yes, yes, 200},
				{predict, instance(2), yes, yes, 200},
			},
			want: `
trace 0
  POST /v1/models/{model}:predict server of client 0 batch.size=2 batch.reason=full response.status_code=200
    queue internal
    batch internal batch.size=2 batch.reason=full -> batch of trace 2
      upstream internal batch.size=2 response.status_code=200 -> upstream of trace 2
trace 1
  POST /v1/models/{model}:predict server of client 1 batch.size=2 batch.reason=full response.status_code=200
    queue internal
    batch internal batch.size=2 batch.reason=full -> batch of trace 2
      upstream internal batch.size=2 response.status_code=200 -> upstream of trace 2
trace 2
  batch internal batch.size=2 batch.reason=full -> POST /v1/models/{model}:predict of trace 0 -> POST /v1/models/{model}:predict of trace 1
    upstream client batch.size=2 response.status_code=200 (the replica's)
`,
			parents: []string{"recorded"},
		},
		{
			name:  "one of three is recorded",
			model: func(url string) batchproxy.ModelConfig { return batches(3, url) },
			requests: []request{
				{predict, instance(1), yes, no, 200},
				{predict, instance(2), yes, yes, 200},
				{predict, instance(3), no, no, 200},
			},
			want: `
trace 0
  POST /v1/models/{model}:predict server of client 1 batch.size=3 batch.reason=full response.status_code=200
    queue internal
    batch internal batch.size=3 batch.reason=full
      upstream client batch.size=3 response.status_code=200 (the replica's)
`,
			parents: []string{"recorded"},
		},
		{
			name:     "two, none recorded",
			fraction: 1,
			model:    func(url string) batchproxy.ModelConfig { return batches(2, url) },
			requests: []request{
				{predict, instance(1), yes, no, 200},
				{predict, instance(2), yes, no, 200},
			},
			parents: []string{"not recorded"},
		},
		{
			name:     "one, not recorded by its client's wish",
			fraction: 1,
			model:    func(url string) batchproxy.ModelConfig { return batches(1, url) },
			requests: []request{
				{predict, instance(1), yes, no, 200},
			},
			parents: []string{"not recorded, client 0"},
		},
		{
			name:     "a client that says nothing",
			fraction: 1,
			model:    func(url string) batchproxy.ModelConfig { return batches(1, url) },
			requests: []request{
				{predict, instance(1), no, no, 200},
			},
			want: `
trace 0
  POST /v1/models/{model}:predict server batch.size=1 batch.reason=solo response.status_code=200
    queue internal
    batch internal batch.size=1 batch.reason=solo
      upstream client batch.size=1 response.status_code=200 (the replica's)
`,
			parents: []string{"recorded"},
		},
		{
			name:  "a request that a replica refuses",
			model: func(url string) batchproxy.ModelConfig { return batches(2, url) },
			requests: []request{
				{predict, instance("poison"), yes, yes, 400},
				{predict, instance(2), yes, yes, 200},
			},
			want: `
trace 0
  POST /v1/models/{model}:predict server of client 0 batch.size=2 batch.reason=full response.status_code=400
    queue internal
    batch internal batch.size=2 batch.reason=full -> batch of trace 2
      upstream internal batch.size=2 response.status_code=400 error.type=400 error "" -> upstream of trace 2
      upstream client batch.size=1 response.status_code=400 error.type=400 error "" (the replica's)
trace 1
  POST /v1/models/{model}:predict server of client 1 batch.size=2 batch.reason=full response.status_code=200
    queue internal
    batch internal batch.size=2 batch.reason=full -> batch of trace 2
      upstream internal batch.size=2 response.status_code=400 error.type=400 error "" -> upstream of trace 2
      upstream client batch.size=1 response.status_code=200 (the replica's)
trace 2
  batch internal batch.size=2 batch.reason=full -> POST /v1/models/{model}:predict of trace 0 -> POST /v1/models/{model}:predict of trace 1
    upstream client batch.size=2 response.status_code=400 error.type=400 error "" (the replica's)
`,
			parents: []string{"recorded", "recorded", "recorded"},
		},
		{
			name:  "a replica that answers 500 twice",
			model: func(url string) batchproxy.ModelConfig { return batches(1, url) },
			requests: []request{
				{predict, instance("broken"), yes, yes, 502},
			},
			want: `
trace 0
  POST /v1/models/{model}:predict server of client 0 batch.size=1 batch.reason=solo response.status_code=502 error.type=502 error ""
    queue internal
    batch internal batch.size=1 batch.reason=solo error.type=502 error "model \"m\": replica REPLICA: answered 500"
      upstream client batch.size=1 response.status_code=500 error.type=500 error "" (the replica's)
      upstream client batch.size=1 response.status_code=500 request.resend_count=1 error.type=500 error "" (the replica's)
`,
			parents: []string{"recorded", "recorded"},
		},
		{
			name:  "a request with more rows than a batch",
			model: func(url string) batchproxy.ModelConfig { return batches(2, url) },
			requests: []request{
				{predict, `{"instances":[1,2,3,4]}`, yes, yes, 200},
			},
			want: `
trace 0
  POST /v1/models/{model}:predict server of client 0 batch.size=2 batch.reason=full chunks=2 response.status_code=200
    queue internal
    queue internal
    batch internal batch.size=2 batch.reason=full
      upstream client batch.size=2 response.status_code=200 (the replica's)
    batch internal batch.size=2 batch.reason=full
      upstream client batch.size=2 response.status_code=200 (the replica's)
`,
			parents: []string{"recorded", "recorded"},
		},
		{
			name: "a chat",
			model: func(url string) batchproxy.ModelConfig {
				m := batches(2, url)
				m.ServedModelNames, m.Limit = []string{"org/chat"}, batchproxy.LimitConfig{Concurrent: 1, Queue: 1}
				return m
			},
			requests: []request{
				{"/v1/chat/completions", `{"model":"org/chat","stream":true}`, yes, yes, 200},
			},
			want: `
trace 0
  POST /v1/chat/completions server of client 0 response.status_code=200
    queue internal
    upstream client response.status_code=200 gen_ai.operation.name=chat gen_ai.request.model=org/chat gen_ai.usage.input_tokens=5 gen_ai.usage.output_tokens=2 gen_ai.response.finish_reasons=stop gen_ai.response.time_to_first_chunk=~ (the replica's)
`,
			parents: []string{"recorded"},
		},
		{
			name:  "what is passed on, not recorded",
			model: func(url string) batchproxy.ModelConfig { return batches(2, url) },
			requests: []request{
				{"/v2/models/m/generate", `{}`, yes, no, 200},
			},
			parents: []string{"not recorded, client 0"},
		},
		{
			name:  "embeddings",
			model: func(url string) batchproxy.ModelConfig { return batches(1, url) },
			requests: []request{
				{"/v1/embeddings", `{"model":"m","input":"a"}`, yes, yes, 200},
			},
			want: `
trace 0
  POST /v1/embeddings server of client 0 batch.size=1 batch.reason=solo response.status_code=200
    queue internal
    batch internal batch.size=1 batch.reason=solo
      upstream client batch.size=1 response.status_code=200 gen_ai.operation.name=embeddings gen_ai.request.model=m (the replica's)
`,
			parents: []string{"recorded"},
		},
		{
			name:  "no such model",
			model: func(url string) batchproxy.ModelConfig { return batches(1, url) },
			requests: []request{
				{"/v2/models/other/infer", `{}`, yes, yes, 404},
			},
			want: `
trace 0
  POST /v2/models/{model}/infer server of client 0 response.status_code=404
`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, at := newCollector(t)
			s := newModelServer(t)
			r := newRig(t, overHTTP(at, tt.fraction), tt.model(s.URL))
			var clients []remote
			var sent sync.WaitGroup
			for i, request := range tt.requests {
				clients = append(clients, client(i))
				var header []string
				if request.traced {
					header = []string{"Traceparent", clients[i].parent(request.sampled)}
				}
				sent.Go(func() {
					if code := r.send(t.Context(), request.path, request.body, header...); code != request.code {
						t.Errorf("request %d: %d, want %d", i, code, request.code)
					}
				})
				if i < len(tt.requests)-1 {
					r.queued(i + 1)
				}
			}
			sent.Wait()
			r.end()
			got := tree(t, c.got(), clients, s.seen())
			got = strings.ReplaceAll(got, strings.TrimPrefix(s.URL, "http://"), "REPLICA")
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), got); diff != "" {
				t.Errorf("%s\n%s", diff, got)
			}
			var parents []string
			for _, p := range s.seen() {
				kind := "none"
				switch {
				case strings.HasSuffix(p, "-01"):
					kind = "recorded"
				case strings.HasSuffix(p, "-00"):
					kind = "not recorded"
					for i, c := range clients {
						if strings.Contains(p, c.trace) {
							kind += fmt.Sprintf(", client %d", i)
						}
						if strings.Contains(p, c.span) {
							kind += ", as it came"
						}
					}
				}
				parents = append(parents, kind)
			}
			if diff := cmp.Diff(tt.parents, parents); diff != "" {
				t.Errorf("the replica was told %s", diff)
			}
			if n := r.counter("flyball_tracing_exported_spans_total", ""); n != float64(len(c.got())) {
				t.Errorf("%v spans counted, %d exported", n, len(c.got()))
			}
			if n := r.counter("flyball_tracing_dropped_spans_total", ""); n != 0 {
				t.Errorf("%v spans dropped", n)
			}
		})
	}
}

// spanOf is the one span of a name.
func spanOf(t *testing.T, spans []*tracepb.Span, name string) *tracepb.Span {
	t.Helper()
	var found []*tracepb.Span
	for _, s := range spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans named %s in %v", len(found), name, spans)
	}
	return found[0]
}

// TestAttributes: what a request's spans say besides, of what is exported with them, and what they do not say.
func TestAttributes(t *testing.T) {
	c, at := newCollector(t)
	s := newModelServer(t)
	r := newRig(t, overHTTP(at, 0), batches(1, s.URL))
	began := time.Now()
	r.send(t.Context(), "/v2/models/m/versions/3/infer?key=secret", `{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}`,
		"Traceparent", client(0).parent(true), "Tracestate", "vendor=1", "Authorization", "Bearer secret", "User-Agent", "test",
		"X-Flyball-Priority", "high")
	r.end()
	spans := c.got()
	request := spanOf(t, spans, "POST /v2/models/{model}/versions/{version}/infer")
	replica := strings.TrimPrefix(s.URL, "http://")
	_, port, _ := strings.Cut(replica, ":")
	id := attributes(request)["flyball.batch.id"]
	if !strings.HasPrefix(id, "batch-") {
		t.Errorf("the batch's id is %q", id)
	}
	for _, of := range []struct {
		span *tracepb.Span
		want map[string]string
	}{
		{request, map[string]string{
			"client.address": "127.0.0.1", "flyball.batch.id": id, "flyball.batch.reason": "solo", "flyball.batch.size": "1", "flyball.class": "high",
			"flyball.model": "m", "flyball.protocol": "oip", "http.request.method": "POST", "http.response.status_code": "200",
			"http.route": "/v2/models/{model}/versions/{version}/infer", "network.protocol.version": "1.1", "url.path": "/v2/models/m/versions/3/infer",
			"url.scheme": "http", "user_agent.original": "test",
		}},
		{spanOf(t, spans, "queue"), map[string]string{}},
		{spanOf(t, spans, "batch"), map[string]string{"flyball.batch.id": id, "flyball.batch.reason": "solo", "flyball.batch.size": "1"}},
		{spanOf(t, spans, "upstream"), map[string]string{
			"flyball.batch.id": id, "flyball.batch.size": "1", "flyball.model": "m", "http.request.method": "POST", "http.response.status_code": "200",
			"server.address": "127.0.0.1", "server.port": port, "url.full": s.URL + "/v2/models/m/versions/3/infer",
		}},
	} {
		if diff := cmp.Diff(of.want, attributes(of.span)); diff != "" {
			t.Errorf("%s: %s", of.span.Name, diff)
		}
		if of.span.TraceState != "vendor=1" {
			t.Errorf("%s has the trace state %q", of.span.Name, of.span.TraceState)
		}
		if from, to := time.Unix(0, int64(of.span.StartTimeUnixNano)), time.Unix(0, int64(of.span.EndTimeUnixNano)); from.Before(began) || to.After(time.Now()) {
			t.Errorf("%s from %s to %s", of.span.Name, from, to)
		}
	}
	if queue, batch := spanOf(t, spans, "queue"), spanOf(t, spans, "batch"); queue.EndTimeUnixNano != batch.StartTimeUnixNano {
		t.Errorf("the queue ends at %d, the batch begins at %d", queue.EndTimeUnixNano, batch.StartTimeUnixNano)
	}
	if c.resource["service.name"] != "flyball" || c.resource["service.version"] != "1.2.3" || !c.scopes["flyball/batchproxy 1.2.3"] {
		t.Errorf("of %v, scopes %v", c.resource, c.scopes)
	}
	if diff := cmp.Diff([]string{"vendor=1"}, s.states); diff != "" {
		t.Errorf("the replica got another trace state: %s", diff)
	}
	if strings.Contains(fmt.Sprint(spans), "secret") {
		t.Errorf("a secret of the client's is exported: %v", spans)
	}
}

// TestNotAnswered: spans end, and say why, where there is no answer.
func TestNotAnswered(t *testing.T) {
	t.Run("the client goes while it waits", func(t *testing.T) {
		c, at := newCollector(t)
		r := newRig(t, overHTTP(at, 1), batches(2, newModelServer(t).URL))
		ctx, cancel := context.WithCancel(t.Context())
		var sent sync.WaitGroup
		sent.Go(func() { r.send(ctx, predict, instance(1)) })
		r.queued(1)
		cancel()
		sent.Wait()
		r.queued(0)
		r.end()
		want := `
trace 0
  POST /v1/models/{model}:predict server response.status_code=400 error.type=client_gone
    queue internal error.type=client_gone
`
		if diff := cmp.Diff(want[1:], tree(t, c.got(), nil, nil)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("the client goes while a replica has it", func(t *testing.T) {
		c, at := newCollector(t)
		s := newModelServer(t)
		s.hold = make(chan struct{})
		r := newRig(t, overHTTP(at, 1), batches(1, s.URL))
		ctx, cancel := context.WithCancel(t.Context())
		var sent sync.WaitGroup
		sent.Go(func() { r.send(ctx, predict, instance(1)) })
		eventually(t, "the replica has it", func() bool { return len(s.seen()) == 1 })
		cancel()
		sent.Wait()
		r.end()
		if got := attributes(spanOf(t, c.got(), "batch"))["error.type"]; got != "client_gone" {
			t.Errorf("the batch: %q", got)
		}
		if got := attributes(spanOf(t, c.got(), "upstream"))["error.type"]; got != "call_failed" {
			t.Errorf("the call: %q", got)
		}
	})
	t.Run("a replica that is away", func(t *testing.T) {
		c, at := newCollector(t)
		m := batches(1, "http://127.0.0.1:1")
		m.Timeout = prom.Duration(300 * time.Millisecond)
		r := newRig(t, overHTTP(at, 1), m)
		if code := r.send(t.Context(), predict, instance(1)); code != http.StatusServiceUnavailable {
			t.Errorf("answered %d", code)
		}
		r.end()
		var queues, failed int
		for _, s := range c.got() {
			a := attributes(s)
			switch s.Name {
			case "queue":
				queues++
			case "batch":
				if a["error.type"] != "call_failed" || s.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR {
					t.Errorf("a batch that did not reach its replica: %v", s)
				}
				failed++
			}
		}
		if failed == 0 || queues != failed+1 { // it waits again after each
			t.Errorf("%d batches, %d waits", failed, queues)
		}
		request := spanOf(t, c.got(), "POST /v1/models/{model}:predict")
		if a := attributes(request); a["flyball.shed.reason"] != "timeout" || a["error.type"] != "503" {
			t.Errorf("the request: %v", a)
		}
	})
	t.Run("an answer that breaks off", func(t *testing.T) {
		c, at := newCollector(t)
		broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "x")
		}))
		t.Cleanup(broken.Close)
		r := newRig(t, overHTTP(at, 1), batches(1, broken.URL))
		r.send(t.Context(), "/v2/models/m/generate", "{}")
		r.end()
		for _, name := range []string{"POST /v2/models/{model}/generate", "upstream"} {
			if s := spanOf(t, c.got(), name); attributes(s)["error.type"] != "answer_broke_off" || s.Status.GetMessage() != "the answer broke off" {
				t.Errorf("%v", s)
			}
		}
	})
}

// TestTraceIsNamed: a trace that begins in the proxy is named in the access log and in exemplars, as one of a client's is, if it is
// recorded.
func TestTraceIsNamed(t *testing.T) {
	for _, fraction := range []float64{0, 1} {
		c, at := newCollector(t)
		r := newRig(t, overHTTP(at, fraction), batches(1, newModelServer(t).URL))
		r.send(t.Context(), predict, instance(1))
		r.end()
		want := ""
		if fraction == 1 {
			want = hex.EncodeToString(spanOf(t, c.got(), "queue").TraceId)
		}
		var line struct {
			TraceID string `json:"trace_id"`
		}
		if err := json.Unmarshal([]byte(r.access.String()), &line); err != nil || line.TraceID != want {
			t.Errorf("fraction %v: the access log has %v, want %q: %s", fraction, err, want, r.access)
		}
		families, err := r.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range families {
			if f.GetName() != "flyball_batchproxy_request_duration_seconds" {
				continue
			}
			for _, m := range f.Metric {
				for _, bucket := range m.Histogram.Bucket {
					for _, l := range bucket.Exemplar.GetLabel() {
						got = l.GetValue()
					}
				}
			}
		}
		if got != want {
			t.Errorf("fraction %v: the exemplar is %q, want %q", fraction, got, want)
		}
	}
}
