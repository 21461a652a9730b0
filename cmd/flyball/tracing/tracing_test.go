package tracing

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/common/config"
	prom "github.com/prometheus/common/model"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// one makes a span.
func one(t *Tracing) {
	if tracer := t.Tracer(); tracer != nil {
		_, span := tracer.Start(context.Background(), "one", trace.WithSpanKind(trace.SpanKindServer))
		span.End()
	}
}

// TestExport: spans reach a collector in each way that can be configured.
func TestExport(t *testing.T) {
	for _, tt := range []struct {
		name  string
		start func(t *testing.T, c *collector) *Config
		check func(t *testing.T, c *collector)
	}{
		{"http", func(t *testing.T, c *collector) *Config {
			s := httptest.NewServer(c)
			t.Cleanup(s.Close)
			return overHTTP(s, 1)
		}, func(t *testing.T, c *collector) {
			if h := c.headers[0]; h.Get("Content-Encoding") != "" || h.Get("Authorization") != "" {
				t.Errorf("headers: %v", h)
			}
		}},
		{"http, compressed, with headers", func(t *testing.T, c *collector) *Config {
			s := httptest.NewServer(c)
			t.Cleanup(s.Close)
			cfg := overHTTP(s, 1)
			cfg.Compression, cfg.Headers = gzipped, map[string]promconfig.Secret{"Authorization": "Basic c2VjcmV0", "X-Scope-OrgID": "ml"}
			return cfg
		}, func(t *testing.T, c *collector) {
			if h := c.headers[0]; h.Get("Content-Encoding") != "gzip" || h.Get("Authorization") != "Basic c2VjcmV0" || h.Get("X-Scope-Orgid") != "ml" {
				t.Errorf("headers: %v", h)
			}
		}},
		{"https", func(t *testing.T, c *collector) *Config {
			s := httptest.NewTLSServer(c)
			t.Cleanup(s.Close)
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			return &Config{ClientType: clientHTTP, Endpoint: strings.TrimPrefix(s.URL, "https://"), SamplingFraction: 1, TLSConfig: TLS{CAFile: ca, MinVersion: tls.VersionTLS12}}
		}, nil},
		{"grpc", func(_ *testing.T, c *collector) *Config {
			return &Config{ClientType: clientGRPC, Endpoint: c.serveGRPC(), Insecure: true, SamplingFraction: 1, Compression: gzipped}
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &collector{t: t, resource: map[string]string{}, scopes: map[string]bool{}}
			r := newRig(t, tt.start(t, c))
			one(r.tracing)
			r.tracing.Close()
			if got := c.got(); len(got) != 1 || got[0].Name != "one" {
				t.Fatalf("exported %v; log:\n%s", got, r.log)
			}
			if tt.check != nil {
				tt.check(t, c)
			}
			if strings.Contains(r.log.String(), "c2VjcmV0") {
				t.Errorf("a secret is in the log:\n%s", r.log)
			}
		})
	}
}

// TestConnectionsAreClosed: what was replaced or ended keeps no connection to its collector.
func TestConnectionsAreClosed(t *testing.T) {
	c := &collector{t: t, resource: map[string]string{}, scopes: map[string]bool{}}
	s := httptest.NewUnstartedServer(c)
	var open atomic.Int64
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	r := newRig(t, overHTTP(s, 1))
	one(r.tracing)
	r.tracing.Close()
	if n := len(c.got()); n != 1 {
		t.Errorf("%d spans exported", n)
	}
	eventually(t, "no connection is left", func() bool { return open.Load() == 0 })
}

// TestPartlyTaken: a collector may take a part, and says how many it did not.
func TestPartlyTaken(t *testing.T) {
	c, at := newCollector(t)
	c.answer = func(w http.ResponseWriter) bool {
		text, err := proto.Marshal(&coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 2, ErrorMessage: "too old"}})
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(text)
		return true
	}
	r := newRig(t, overHTTP(at, 1))
	for range 5 {
		one(r.tracing)
	}
	r.tracing.Close()
	if got, lost := r.counter("flyball_tracing_exported_spans_total", ""), r.counter("flyball_tracing_dropped_spans_total", refused); got != 3 || lost != 2 {
		t.Errorf("%v exported and %v dropped, want 3 and 2", got, lost)
	}
	if !strings.Contains(r.log.String(), "too old") {
		t.Errorf("the log does not say why:\n%s", r.log)
	}
}

// TestCollectorAway: requests are answered as ever, what is lost is counted, and the log does not fill.
func TestCollectorAway(t *testing.T) {
	s := newModelServer(t)
	r := newRig(t, &Config{ClientType: clientHTTP, Endpoint: "127.0.0.1:1", Insecure: true, SamplingFraction: 1}, batches(1, s.URL))
	const requests = 300 // 1200 spans: two exports at once, and one at the end
	for range requests {
		if code := r.send(t.Context(), predict, instance(1)); code != 200 {
			t.Fatalf("answered %d", code)
		}
	}
	eventually(t, "exports have failed", func() bool { return r.counter("flyball_tracing_dropped_spans_total", refused) == 1024 })
	r.end()
	if lost := r.counter("flyball_tracing_dropped_spans_total", ""); lost != 4*requests {
		t.Errorf("%v spans are counted as lost, of %d", lost, 4*requests)
	}
	if n := strings.Count(r.log.String(), "spans are lost"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, r.log)
	}
}

// TestReload: a new configuration holds from the next request on; those under way end where they would have, and none is refused.
func TestReload(t *testing.T) {
	first, at1 := newCollector(t)
	second, at2 := newCollector(t)
	s := newModelServer(t)
	s.hold = make(chan struct{})
	m := batches(1, s.URL)
	m.Inflight = 8
	r := newRig(t, overHTTP(at1, 1), m)
	var held sync.WaitGroup
	held.Go(func() {
		if code := r.send(t.Context(), predict, instance(1)); code != 200 {
			t.Errorf("the request that was under way: %d", code)
		}
	})
	eventually(t, "it is with the replica", func() bool { return len(s.seen()) == 1 })
	tracer := r.tracing.Tracer()
	r.configure(overHTTP(at1, 1))
	if r.tracing.Tracer() != tracer {
		t.Error("a configuration that is as it was is taken for another")
	}
	r.configure(overHTTP(at2, 1))
	s.release()
	held.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var sent atomic.Int64
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if code := r.send(t.Context(), predict, instance(1)); code != 200 {
					t.Errorf("during reloads: %d", code)
				}
				sent.Add(1)
			}
		})
	}
	for i := range 20 {
		before := sent.Load()
		eventually(t, "requests go on", func() bool { return sent.Load() > before+4 })
		r.configure([]*Config{nil, overHTTP(at2, 1)}[i%2])
	}
	cancel()
	load.Wait()
	r.configure(nil)
	r.send(t.Context(), predict, instance(1))
	r.end()
	if n := len(first.got()); n != 4 {
		t.Errorf("%d spans of the first configuration, want the 4 of the request that was under way", n)
	}
	whole := map[string]int{} // spans of each trace
	for _, span := range second.got() {
		whole[string(span.TraceId)]++
	}
	for id, n := range whole {
		if n != 4 {
			t.Errorf("%d spans of trace %x, want 4", n, id)
		}
	}
	if traces := int64(len(whole)); traces == 0 || traces >= sent.Load() {
		t.Errorf("%d traces of %d requests, of which a part was without tracing", traces, sent.Load())
	}
	if lost := r.counter("flyball_tracing_dropped_spans_total", ""); lost != 0 {
		t.Errorf("%v spans were lost", lost)
	}
}

// fake is an exporter that takes spans as it is told to.
type fake struct {
	export func(ctx context.Context, n int) error
	taken  atomic.Int64
}

func (f *fake) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if f.export != nil {
		if err := f.export(ctx, len(spans)); err != nil {
			return err
		}
	}
	f.taken.Add(int64(len(spans)))
	return nil
}

func (f *fake) Shutdown(context.Context) error { return nil }

// with has spans go to an exporter from now on.
func (t *Tracing) with(tb testing.TB, f *fake) {
	tb.Helper()
	p, err := t.newPipeline(&Config{SamplingFraction: 1, Endpoint: "fake:1"}, &exporter{SpanExporter: f})
	if err != nil {
		tb.Fatal(err)
	}
	(&Update{tracing: t, next: p}).Commit()
}

func (r *rig) want(t *testing.T, when string, taken, full, refusals, atEnd float64) {
	t.Helper()
	const dropped = "flyball_tracing_dropped_spans_total"
	got := []float64{r.counter("flyball_tracing_exported_spans_total", ""), r.counter(dropped, queueFull), r.counter(dropped, refused), r.counter(dropped, ended)}
	if diff := cmp.Diff([]float64{taken, full, refusals, atEnd}, got); diff != "" {
		t.Errorf("%s: exported, queue_full, export, shutdown: %s", when, diff)
	}
}

func withFake(t *testing.T, f *fake) *rig {
	r := &rig{t: t, registry: prometheus.NewRegistry(), log: &lines{}}
	r.tracing = New(Options{Logger: r.log.logger(), Registerer: r.registry})
	r.tracing.with(t, f)
	return r
}

// TestQueue: when spans are exported, how many wait, and what becomes of the others.
func TestQueue(t *testing.T) {
	t.Run("few are exported after a while, many at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := withFake(t, &fake{})
			defer r.tracing.Close()
			one(r.tracing)
			time.Sleep(exportEvery - time.Millisecond)
			synctest.Wait()
			r.want(t, "before", 0, 0, 0, 0)
			time.Sleep(time.Millisecond)
			synctest.Wait()
			r.want(t, "after", 1, 0, 0, 0)
			for range maxExport {
				one(r.tracing)
			}
			synctest.Wait()
			r.want(t, "many", 1+maxExport, 0, 0, 0)
		})
	})
	t.Run("a collector that hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := withFake(t, &fake{export: func(ctx context.Context, _ int) error {
				<-ctx.Done()
				return ctx.Err()
			}})
			for range maxExport {
				one(r.tracing)
			}
			synctest.Wait() // they are with the collector
			began := time.Now()
			for range maxQueued + 10 {
				one(r.tracing)
			}
			if waited := time.Since(began); waited != 0 {
				t.Errorf("spans took %s", waited)
			}
			synctest.Wait()
			r.want(t, "while it hangs", 0, 10, 0, 0)
			time.Sleep(exportTimeout)
			synctest.Wait()
			r.want(t, "after the timeout", 0, 10, maxExport, 0)
			began = time.Now()
			r.tracing.Close()
			if waited := time.Since(began); waited != flushTime {
				t.Errorf("the end took %s, want %s", waited, flushTime)
			}
			r.want(t, "at the end", 0, 10, maxExport, maxQueued)
			one(r.tracing)
			if lines := strings.Count(r.log.String(), "spans are lost"); lines > 2+maxQueued/maxExport {
				t.Errorf("%d lines:\n%s", lines, r.log)
			}
		})
	})
	t.Run("a collector that comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			away := errors.New("away")
			r := withFake(t, &fake{export: func(context.Context, int) error { return away }})
			defer r.tracing.Close()
			for range 10 * complainEvery / exportEvery {
				one(r.tracing)
				time.Sleep(exportEvery)
			}
			if lines := strings.Count(r.log.String(), "spans are lost"); lines != 10 || !strings.Contains(r.log.String(), "spans=12 err=away") {
				t.Errorf("%d lines in ten minutes:\n%s", lines, r.log)
			}
			synctest.Wait()
			away = nil
			one(r.tracing)
			time.Sleep(2 * exportEvery)
			synctest.Wait()
			if lines := strings.Count(r.log.String(), "exported again"); lines != 1 {
				t.Errorf("%d lines that it is back:\n%s", lines, r.log)
			}
		})
	})
	t.Run("a span that does not end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			before := &fake{}
			r := withFake(t, before)
			defer r.tracing.Close()
			tracer := r.tracing.Tracer()
			_, soon := tracer.Start(context.Background(), "soon", trace.WithSpanKind(trace.SpanKindServer))
			_, late := tracer.Start(context.Background(), "late", trace.WithSpanKind(trace.SpanKindServer))
			r.tracing.with(t, &fake{})
			time.Sleep(retireTime - exportEvery - time.Millisecond)
			soon.End()
			time.Sleep(exportEvery + time.Millisecond)
			synctest.Wait()
			if n := before.taken.Load(); n != 1 {
				t.Errorf("%d spans of before, want 1", n)
			}
			late.End()
			r.want(t, "after it was given up", 1, 0, 0, 1)
		})
	})
	t.Run("the end of the process does not wait for it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := withFake(t, &fake{})
			_, late := r.tracing.Tracer().Start(context.Background(), "late", trace.WithSpanKind(trace.SpanKindServer))
			one(r.tracing)
			began := time.Now()
			r.tracing.Close()
			if waited := time.Since(began); waited != 0 {
				t.Errorf("it took %s", waited)
			}
			late.End()
			r.want(t, "at the end", 1, 0, 0, 1)
			r.tracing.Close() // once more does nothing
		})
	})
}

// TestSampling: the part that is recorded of requests that say nothing; the client's decision stands before it.
func TestSampling(t *testing.T) {
	r := newRig(t, &Config{ClientType: clientHTTP, Endpoint: "127.0.0.1:1", Insecure: true, SamplingFraction: 0.25})
	tracer := r.tracing.Tracer()
	const all = 10_000
	recorded := map[string]int{}
	for range all {
		for name, ctx := range map[string]context.Context{
			"none": context.Background(), "yes": remoteContext(trace.FlagsSampled), "no": remoteContext(0),
		} {
			_, span := tracer.Start(ctx, "one", trace.WithSpanKind(trace.SpanKindServer))
			if span.SpanContext().IsSampled() {
				recorded[name]++
			}
		}
	}
	if n := recorded["none"]; n < all/5 || n > all*3/10 { // 11 standard deviations
		t.Errorf("%d of %d without a parent", n, all)
	}
	if recorded["yes"] != all || recorded["no"] != 0 {
		t.Errorf("of parents that decided: %v", recorded)
	}
}

func remoteContext(flags trace.TraceFlags) context.Context {
	return trace.ContextWithRemoteSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true,
	}))
}

func TestValidate(t *testing.T) {
	good := Config{ClientType: clientHTTP, Endpoint: "otel-collector:4318"}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"as it is", func(*Config) {}, ""},
		{"all", func(c *Config) {
			c.SamplingFraction, c.Insecure, c.Compression, c.Timeout = 1, true, "gzip", prom.Duration(time.Second)
			c.Headers = map[string]promconfig.Secret{"Authorization": "Bearer x"}
		}, ""},
		{"client", func(c *Config) { c.ClientType = "udp" }, `client_type: "udp" is not one: give grpc or http`},
		{"no endpoint", func(c *Config) { c.Endpoint = "" }, "endpoint: empty: give the host:port of a collector, such as otel-collector:4317 for grpc and otel-collector:4318 for http"},
		{"URL", func(c *Config) { c.Endpoint = "http://otel:4318" }, `endpoint: "http://otel:4318" has a scheme or a path: give the host:port of a collector, such as otel-collector:4317 for grpc and otel-collector:4318 for http; insecure: true is without TLS`},
		{"no port", func(c *Config) { c.Endpoint = "otel" }, `endpoint: "otel" is not an address: give the host:port of a collector, such as otel-collector:4317 for grpc and otel-collector:4318 for http`},
		{"port", func(c *Config) { c.Endpoint = "otel:otlp" }, `endpoint: "otel:otlp" has no port: give the host:port of a collector, such as otel-collector:4317 for grpc and otel-collector:4318 for http`},
		{"fraction", func(c *Config) { c.SamplingFraction = 10 }, "sampling_fraction: 10 is not a fraction: give 0 to 1, such as 0.01"},
		{"TLS without TLS", func(c *Config) { c.Insecure, c.TLSConfig.ServerName = true, "otel" }, "tls_config: it has no meaning while insecure is true"},
		{"no CA", func(c *Config) { c.TLSConfig.CAFile = "/no/such/file" }, "tls_config: unable to read CA cert: unable to read file /no/such/file: open /no/such/file: no such file or directory"},
		{"header", func(c *Config) { c.Headers = map[string]promconfig.Secret{"a b": ""} }, `headers: "a b" is not the name of a header`},
		{"header of the request", func(c *Config) { c.Headers = map[string]promconfig.Secret{"content-type": ""} }, "headers.content-type: it is set by the request itself"},
		{"value of a header", func(c *Config) { c.Headers = map[string]promconfig.Secret{"X-A": "se\ncret"} }, "headers: the value of X-A has characters that no header may have"},
		{"compression", func(c *Config) { c.Compression = "zstd" }, `compression: "zstd" is not one: give gzip, or nothing`},
		{"timeout", func(c *Config) { c.Timeout = prom.Duration(-5 * time.Second) }, "timeout: -5s is not a time to wait: give more than 0s, such as 10s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			got := ""
			if err := c.Validate(); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
