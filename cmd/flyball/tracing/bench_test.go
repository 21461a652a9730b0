package tracing

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/common/model"
	"go.opentelemetry.io/otel/trace"

	"flyball/batchproxy"
)

// echo is a transport that answers as a replica would, in no time: what is measured is the proxy.
type echo struct{}

func (echo) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	body = bytes.Replace(body, []byte(`"instances"`), []byte(`"predictions"`), 1)
	return &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(body)),
		Body: io.NopCloser(bytes.NewReader(body)),
	}, nil
}

func echoProxy(tb testing.TB, mode batchproxy.Mode, tracer func() trace.Tracer) http.Handler {
	tb.Helper()
	cfg, m := batchproxy.DefaultConfig(), batchproxy.DefaultModelConfig()
	m.Name, m.Upstreams = "m", []batchproxy.Upstream{{URL: "http://replica"}}
	m.Batch.Mode, m.Batch.MaxWait = mode, prom.Duration(time.Millisecond)
	cfg.Models = append(cfg.Models, m)
	p, err := batchproxy.New(cfg, batchproxy.Options{Transport: echo{}, Tracer: tracer})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// tracings are a proxy without tracing, one whose tracing is off, and one each whose requests are not recorded and are.
func tracings(tb testing.TB) map[string]func() trace.Tracer {
	tb.Helper()
	off := New(Options{Logger: slog.New(slog.DiscardHandler)})
	all := map[string]func() trace.Tracer{"none": nil, "off": off.Tracer}
	for name, fraction := range map[string]float64{"not recorded": 0, "recorded": 1} {
		on := New(Options{Logger: slog.New(slog.DiscardHandler)})
		tb.Cleanup(on.Close)
		p, err := on.newPipeline(&Config{SamplingFraction: fraction, Endpoint: "fake:1"}, &exporter{SpanExporter: &fake{}})
		if err != nil {
			tb.Fatal(err)
		}
		(&Update{tracing: on, next: p}).Commit()
		all[name] = on.Tracer
	}
	return all
}

// BenchmarkRequest is a request's whole way through the proxy, without the network: batched with 31 others, and passed on.
func BenchmarkRequest(b *testing.B) {
	of := tracings(b)
	body := `{"instances":[[0.123456` + strings.Repeat(",-1.234567", 63) + `]]}`
	for _, path := range []string{predict, "/v2/models/m/generate"} {
		for _, name := range []string{"none", "off", "not recorded", "recorded"} {
			b.Run(path[strings.LastIndexAny(path, ":/")+1:]+"/"+name, func(b *testing.B) {
				p := echoProxy(b, batchproxy.ModeTimeout, of[name])
				b.SetParallelism(16) // goroutines per core
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						w := httptest.NewRecorder()
						p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
						if w.Code != 200 || w.Body.Len() < len(body) {
							b.Fatalf("%d %.100s", w.Code, w.Body)
						}
					}
				})
			})
		}
	}
}
