package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spanNames is a collector that keeps the names of the spans that it was sent.
type spanNames struct {
	t     *testing.T
	mu    sync.Mutex
	names []string
}

// ServeHTTP implements http.Handler.
func (c *spanNames) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	request := &coltracepb.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(text, request)
	}
	if err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range request.ResourceSpans {
		for _, s := range of.ScopeSpans {
			for _, span := range s.Spans {
				c.names = append(c.names, span.Name)
			}
		}
	}
}

// TestTracingExample: examples/tracing is a configuration.
func TestTracingExample(t *testing.T) {
	l, err := load("../../examples/tracing/flyball.yml")
	if err != nil {
		t.Fatal(err)
	}
	if l.Tracing == nil || l.Tracing.Compression != "gzip" || len(l.Batchproxy.Models) != 1 {
		t.Errorf("it has %+v", l.Tracing)
	}
}

// TestTracingApp is the whole process with tracing: reloads turn it off and on, one that is refused changes nothing, and the last spans
// are with the collector when it has ended.
func TestTracingApp(t *testing.T) {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"predictions": [7]}`)
	}))
	defer model.Close()
	c := &spanNames{t: t}
	collector := httptest.NewServer(c)
	defer collector.Close()
	file := filepath.Join(t.TempDir(), "flyball.yml")
	configure := func(tracing string) {
		t.Helper()
		text := "batchproxy: {models: [{name: m, upstreams: [{url: '" + model.URL + "'}]}]}\n" + tracing
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	on := "tracing: {client_type: http, endpoint: '" + strings.TrimPrefix(collector.URL, "http://") + "', insecure: true, sampling_fraction: 1}\n"
	configure(on)
	o := &runOptions{
		configFile: file, roles: []string{roleBatchproxy}, webListen: []string{"127.0.0.1:0"}, proxyListen: "127.0.0.1:0",
		log: slog.New(slog.DiscardHandler), stdout: io.Discard,
	}
	l, err := o.load(nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(l, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	for end := time.Now().Add(20 * time.Second); a.phase.Load() != ready; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not ready")
		}
	}
	send := func() {
		t.Helper()
		response, err := http.Post("http://"+a.proxyListener.Addr().String()+"/v1/models/m:predict", "application/json", strings.NewReader(`{"instances": [1]}`))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(text) != `{"predictions": [7]}` {
			t.Errorf("the model said %s", text)
		}
	}
	proxy := a.live.Load().proxy
	send()
	configure("")
	if err := a.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	send() // is not recorded
	configure(strings.Replace(on, "sampling_fraction: 1", "sampling_fraction: 2", 1))
	if err := a.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "sampling_fraction: 2 is not a fraction") {
		t.Errorf("a configuration that is wrong: %v", err)
	}
	send() // neither is this
	configure(on)
	if err := a.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	send()
	if a.live.Load().proxy != proxy {
		t.Error("the proxy, with what it has learned, is another")
	}
	families, err := a.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "flyball_tracing_") {
			names = append(names, f.GetName()+" "+strings.ToLower(f.GetType().String()))
		}
	}
	golden(t, "metrics_tracing.golden", names)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	a.close()
	slices.Sort(c.names)
	const request = "POST /v1/models/{model}:predict"
	if diff := cmp.Diff([]string{request, request, "batch", "batch", "queue", "queue", "upstream", "upstream"}, c.names); diff != "" {
		t.Error(diff)
	}
}
