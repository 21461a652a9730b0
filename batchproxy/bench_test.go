//go:build unix

package batchproxy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	prom "github.com/prometheus/common/model"
)

// BenchmarkServeHTTP is a request's whole way through the proxy, 32 clients at once, without the network: ns/op and
// cpu-ns/op are per request.
func BenchmarkServeHTTP(b *testing.B) {
	for _, floats := range []int{8, 64, 768} {
		b.Run(fmt.Sprintf("%d floats", floats), func(b *testing.B) {
			cfg := oneModel(Upstream{URL: "http://replica"})
			cfg.Models[0].Batch = BatchConfig{MaxSize: 32, MaxWait: prom.Duration(time.Millisecond)}
			p, err := New(cfg, Options{Transport: echo{}})
			if err != nil {
				b.Fatal(err)
			}
			body := `{"instances":[[0.123456` + strings.Repeat(",-1.234567", floats-1) + `]]}`
			b.SetParallelism(16) // goroutines per core
			b.ReportAllocs()
			before := cpu(b)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := httptest.NewRequest(http.MethodPost, "/v1/models/m:predict", strings.NewReader(body))
					w := httptest.NewRecorder()
					p.ServeHTTP(w, r)
					if w.Code != 200 || w.Body.Len() < len(body) {
						b.Fatalf("%d %.100s", w.Code, w.Body)
					}
				}
			})
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is the processor time that this process has used.
func cpu(b testing.TB) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkPass is what the proxy adds to a request of 1 kB that it passes on, and Go's bare reverse proxy, without the network.
func BenchmarkPass(b *testing.B) {
	p, err := New(oneModel(Upstream{URL: "http://replica"}), Options{Transport: echo{}})
	if err != nil {
		b.Fatal(err)
	}
	to := &url.URL{Scheme: "http", Host: "replica"}
	bare := &httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(to); pr.SetXForwarded() },
		Transport: echo{}, BufferPool: &copies{},
	}
	body := strings.Repeat("x", 1024)
	for _, way := range []struct {
		name    string
		handler http.Handler
	}{{"passed", p}, {"bare", bare}} {
		b.Run(way.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context()) // as that of a server's request is
			defer cancel()
			b.ReportAllocs()
			before := cpu(b)
			for b.Loop() {
				r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v2/models/m/generate", strings.NewReader(body))
				w := httptest.NewRecorder()
				way.handler.ServeHTTP(w, r)
				if w.Code != 200 || w.Body.Len() != len(body) {
					b.Fatalf("%d %.100s", w.Code, w.Body)
				}
			}
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}
