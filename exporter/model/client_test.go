package model

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"flyball/exporter"
)

// TestAsked sees what a server is asked with: passwords, tokens that change, headers, and no query for compression.
func TestAsked(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, header, want string
		config             func(*exporter.ModelServer)
	}{
		{"basic_auth", "Authorization", "Basic dTpw", func(c *exporter.ModelServer) {
			c.BasicAuth = &exporter.ModelBasicAuth{Username: "u", Password: "p"}
		}},
		{"authorization", "Authorization", "Key k", func(c *exporter.ModelServer) {
			c.Authorization = &exporter.ModelAuthorization{Type: "Key", Credentials: "k"}
		}},
		{"bearer_token_file", "Authorization", "Bearer one", func(c *exporter.ModelServer) { c.BearerTokenFile = token }},
		{"headers", "X-Tenant", "a", func(c *exporter.ModelServer) { c.Headers = map[string]string{"X-Tenant": "a"} }},
		{"nothing", "Accept-Encoding", "", func(*exporter.ModelServer) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r.Header.Get(tt.header)
				text2page("vllm:num_requests_running 1\n")(w, r)
			})
			c := newCollector(t, Options{ProcFS: t.TempDir()}, configOf(t, server.URL, tt.config))
			r, err := c.Probe(context.Background(), "s")
			if err != nil || !r.Up {
				t.Fatal(err, r.Error)
			}
			if got != tt.want {
				t.Errorf("%s: %q, want %q", tt.header, got, tt.want)
			}
		})
	}
}

// TestNewClient sees that what else a server has is asked for as its page is: over its socket or TLS, with its credentials and headers,
// and that neither goes elsewhere with a redirect.
func TestNewClient(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	secure := func(c *exporter.ModelServer) {
		c.BearerTokenFile, c.Headers = token, map[string]string{"X-Tenant": "a"}
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, "/v2", http.StatusFound)
		case r.URL.Path != "/v2" || r.Header.Get("Authorization") != "Bearer one" || r.Header.Get("X-Tenant") != "a":
			http.Error(w, "", http.StatusUnauthorized)
		}
	})
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	overSocket := &httptest.Server{Listener: listener, Config: &http.Server{Handler: answer}}
	overSocket.Start()
	defer overSocket.Close()
	overTLS := httptest.NewTLSServer(answer)
	defer overTLS.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: overTLS.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, url string
		config    func(*exporter.ModelServer)
	}{
		{"tcp", serve(t, answer).URL + "/metrics", secure},
		{"unix", "unix:" + socket + ":/metrics", secure},
		{"tls", overTLS.URL, func(c *exporter.ModelServer) { secure(c); c.TLS = &exporter.ModelTLS{CAFile: ca} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, root, err := NewClient(configOf(t, tt.url, tt.config))
			if err != nil {
				t.Fatal(err)
			}
			defer client.CloseIdleConnections()
			for path, want := range map[string]int{"/v2": http.StatusOK, "/away": http.StatusFound} {
				r, err := client.Get(root + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = r.Body.Close()
				if r.StatusCode != want {
					t.Errorf("%s: status %d, want %d", path, r.StatusCode, want)
				}
			}
			reused := func() (is bool) {
				t.Helper()
				traced := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { is = c.Reused }})
				request, err := http.NewRequestWithContext(traced, http.MethodGet, root+"/v2", nil)
				if err != nil {
					t.Fatal(err)
				}
				r, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				_ = r.Body.Close()
				return is
			}
			if kept := []bool{reused(), reused()}; !kept[1] { // an answer without a body leaves its connection idle before it is there
				t.Errorf("no connection is kept: %v", kept)
			}
			if client.CloseIdleConnections(); reused() {
				t.Error("a connection is kept that was to be let go")
			}
		})
	}
	client, root, err := NewClient(configOf(t, "http://127.0.0.1:1", func(c *exporter.ModelServer) { c.BearerTokenFile = token + "none" }))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := client.Post(root, "application/json", strings.NewReader("{}")); err == nil || !strings.Contains(err.Error(), "bearer_token_file") {
		t.Errorf("without its token: %v, %v", r, err)
	}
}

// TestTLS asks a server whose certificate has to be known.
func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(text2page("vllm:num_requests_running 1\n"))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, err string
		tls       *exporter.ModelTLS
	}{
		{"unknown", "certificate", nil},
		{"ca_file", "", &exporter.ModelTLS{CAFile: ca}},
		{"insecure_skip_verify", "", &exporter.ModelTLS{InsecureSkipVerify: true}},
		{"server_name", "other", &exporter.ModelTLS{CAFile: ca, ServerName: "other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCollector(t, Options{ProcFS: t.TempDir()}, configOf(t, server.URL, func(c *exporter.ModelServer) { c.TLS = tt.tls }))
			r, err := c.Probe(context.Background(), "s")
			if err != nil {
				t.Fatal(err)
			}
			if r.Up != (tt.err == "") || !strings.Contains(r.Error, tt.err) {
				t.Errorf("up %v, %s", r.Up, r.Error)
			}
		})
	}
	if _, err := New([]exporter.ModelServer{configOf(t, server.URL, func(c *exporter.ModelServer) { c.TLS = &exporter.ModelTLS{CAFile: "none"} })}, Options{}); err == nil {
		t.Error("a CA that is not there is no error")
	}
}

// TestFormats has one page in each format, by the library that servers in Go have: the series are the same.
func TestFormats(t *testing.T) {
	registry := prometheus.NewRegistry()
	running := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "flyball_batchproxy_requests_running", Help: "h"}, []string{"model", "class"})
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "flyball_batchproxy_requests_total", Help: "h"}, []string{"model", "code", "class"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "flyball_batchproxy_request_duration_seconds", Help: "h", Buckets: []float64{0.1, 1}, NativeHistogramBucketFactor: 1.1}, []string{"model", "class"})
	registry.MustRegister(running, requests, duration)
	running.WithLabelValues("m", "a").Set(2)
	running.WithLabelValues("m", "b").Set(3)
	requests.WithLabelValues("m", "200", "a").Add(5)
	requests.WithLabelValues("m", "500", "a").Add(1)
	duration.WithLabelValues("m", "a").Observe(0.05)
	duration.WithLabelValues("m", "b").Observe(0.5)
	want := `flyball_model_request_duration_seconds_bucket{engine="flyball",model="m",server="s",le="0.1"} 1
flyball_model_request_duration_seconds_bucket{engine="flyball",model="m",server="s",le="1"} 2
flyball_model_request_duration_seconds_bucket{engine="flyball",model="m",server="s",le="+Inf"} 2
flyball_model_request_duration_seconds_sum{engine="flyball",model="m",server="s"} 0.55
flyball_model_request_duration_seconds_count{engine="flyball",model="m",server="s"} 2
flyball_model_requests_running{engine="flyball",model="m",server="s"} 5
flyball_model_requests_total{code="200",engine="flyball",model="m",server="s"} 5
flyball_model_requests_total{code="500",engine="flyball",model="m",server="s"} 1
`
	for _, accept := range []string{
		"text/plain;version=0.0.4",
		"application/openmetrics-text;version=1.0.0",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
	} {
		t.Run(accept, func(t *testing.T) {
			handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				r.Header.Set("Accept", accept)
				handler.ServeHTTP(w, r)
				kind, _, _ := strings.Cut(accept, ";")
				if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, kind) {
					t.Errorf("it was served as %s", got)
				}
			})
			c := newCollector(t, Options{ProcFS: t.TempDir()}, configOf(t, server.URL))
			r, err := c.Probe(context.Background(), "s")
			if err != nil || !r.Up {
				t.Fatal(err, r.Error)
			}
			if protobuf := strings.Contains(accept, "protobuf"); protobuf {
				for _, f := range gather(t, r.Metrics) {
					if f.GetName() != "flyball_model_request_duration_seconds" {
						continue
					}
					h := f.GetMetric()[0].GetHistogram()
					if n := h.GetPositiveDelta(); h.GetSchema() != 3 || len(n) != 2 || n[0] != 1 || n[1] != 0 { // one observation of each series
						t.Errorf("its native histogram is %v", h)
					}
				}
			}
			var got strings.Builder
			for line := range strings.Lines(seriesOf(page2text(t, r.Metrics))) {
				if strings.Contains(line, `model="m"`) && !strings.Contains(line, "_info") {
					got.WriteString(line)
				}
			}
			if got.String() != want {
				t.Errorf("got\n%s", got.String())
			}
		})
	}
}
