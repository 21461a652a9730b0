package exporter

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// newHandler returns a handler of these collectors beside a process with a gauge and a native histogram.
func newHandler(t *testing.T, o HandlerOptions, collectors ...Collector) http.Handler {
	t.Helper()
	o.Process = prometheus.NewRegistry()
	up := prometheus.NewGauge(prometheus.GaugeOpts{Name: "test_process", Help: "Help."})
	up.Set(1)
	sizes := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "test_sizes", Help: "Help.", Buckets: []float64{1, 10}, NativeHistogramBucketFactor: 1.1,
	})
	sizes.Observe(4)
	o.Process.MustRegister(up, sizes)
	e, err := New(Options{}, collectors...)
	if err != nil {
		t.Fatal(err)
	}
	o.Exporter = func() *Exporter { return e }
	return NewHandler(o)
}

func get(h http.Handler, url string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// found lists the names of the test's own families on a page, with which collectors ran.
func found(page string) string {
	var names []string
	for line := range strings.Lines(page) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, "test_") && !strings.HasPrefix(name, "test_sizes") || strings.HasPrefix(name, success.Name) {
			names = append(names, strings.TrimPrefix(name, "flyball_collector_"))
		}
	}
	return strings.Join(names, " ")
}

func TestHandlerChoice(t *testing.T) {
	h := newHandler(t, HandlerOptions{},
		yields("host", nil, gauge("test_host", 1, nil)), yields("gpu", nil, gauge("test_gpu", 1, nil)))
	for _, tt := range []struct {
		query string
		code  int
		want  string
	}{
		{"", 200, `success{collector="gpu"} success{collector="host"} test_gpu test_host test_process`},
		{"?collect[]=gpu", 200, `success{collector="gpu"} test_gpu test_process`},
		{"?collect[]=gpu&collect[]=host", 200, `success{collector="gpu"} success{collector="host"} test_gpu test_host test_process`},
		{"?exclude[]=gpu", 200, `success{collector="host"} test_host test_process`},
		{"?exclude[]=gpu&exclude[]=host", 200, `test_process`},
		{"?exclude[]=textfile", 200, `success{collector="gpu"} success{collector="host"} test_gpu test_host test_process`}, // switched off: nothing to leave out
		{"?name[]=test_gpu", 200, `test_gpu`},
		{"?collect[]=disk", 400, `no collector is named "disk": there are ` + strings.Join(CollectorNames(), ", ")},
		{"?exclude[]=disk", 400, `no collector is named "disk": there are ` + strings.Join(CollectorNames(), ", ")},
		{"?collect[]=textfile", 400, `the collector textfile is switched off here: host, gpu can be asked for`},
		{"?collect[]=gpu&exclude[]=host", 400, `collect[] and exclude[] cannot both be given: name what to run, or what not to`},
	} {
		t.Run(tt.query, func(t *testing.T) {
			w := get(h, "/metrics"+tt.query)
			got := found(w.Body.String())
			if tt.code != 200 {
				got = strings.TrimSpace(w.Body.String())
			}
			if w.Code != tt.code || got != tt.want {
				t.Errorf("%d %s\nwant %d %s", w.Code, got, tt.code, tt.want)
			}
		})
	}
}

// TestHandlerTimeout: the page is there before the scraper gives up, whole but for the collector that is late, and what
// that finds in the end is for the next scrape.
func TestHandlerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := collector{"gpu", func(context.Context) ([]prometheus.Metric, error) {
			time.Sleep(1800 * time.Millisecond)
			return []prometheus.Metric{gauge("test_gpu", 1, nil)}, nil
		}}
		h := newHandler(t, HandlerOptions{TimeoutOffset: 500 * time.Millisecond}, slow, yields("host", nil, gauge("test_host", 1, nil)))
		begin := time.Now()
		w := get(h, "/metrics", timeoutHeader, "2")
		if took := time.Since(begin); took != 1500*time.Millisecond {
			t.Errorf("the scrape took %s, want 1.5s", took)
		}
		page := w.Body.String()
		if want := `success{collector="gpu"} success{collector="host"} test_host test_process`; w.Code != 200 || found(page) != want ||
			!strings.Contains(page, `flyball_collector_success{collector="gpu"} 0`) {
			t.Errorf("%d %s", w.Code, page)
		}
		w = get(h, "/metrics", timeoutHeader, "2") // joins the run that goes on
		if took := time.Since(begin); took != 1800*time.Millisecond || !strings.Contains(w.Body.String(), "test_gpu 1") {
			t.Errorf("the second scrape ended after %s:\n%s", took, w.Body)
		}
	})
}

func TestScrapeTimeout(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   time.Duration
	}{
		{"10", 9500 * time.Millisecond},
		{"0.75", 375 * time.Millisecond},
		{"1e1", 9500 * time.Millisecond},
		{"86400", 24*time.Hour - 500*time.Millisecond},
		{"86400.1", 0},
		{"+Inf", 0},
		{"NaN", 0},
		{"0", 0},
		{"-1", 0},
		{"10s", 0},
		{"", 0},
	} {
		if got := scrapeTimeout(tt.header, DefaultTimeoutOffset); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.header, got, tt.want)
		}
	}
}

// TestHandlerLastSuccess: it stays where it was while the collector fails, and is absent before it first worked.
func TestHandlerLastSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing error
		h := newHandler(t, HandlerOptions{},
			collector{"gpu", func(context.Context) ([]prometheus.Metric, error) { return nil, failing }}, yields("host", errors.New("never")))
		var got []string
		for _, err := range []error{nil, errors.New("now and then"), nil} {
			failing = err
			for line := range strings.Lines(get(h, "/metrics?name[]="+lastSuccess.Name).Body.String()) {
				if !strings.HasPrefix(line, "#") {
					got = append(got, strings.TrimSpace(line))
				}
			}
			time.Sleep(time.Minute)
		}
		at := func(v string) string { return lastSuccess.Name + `{collector="gpu"} ` + v }
		if diff := cmp.Diff([]string{at("9.466848e+08"), at("9.466848e+08"), at("9.4668492e+08")}, got); diff != "" { // synctest begins in 2000
			t.Error(diff)
		}
	})
}

// TestHandlerFormats asks in every way that a scraper may and reads the page with Prometheus's own parser.
func TestHandlerFormats(t *testing.T) {
	h := newHandler(t, HandlerOptions{}, yields("gpu", nil, gauge("test_gpu", 7, prometheus.Labels{"uuid": "GPU-1"})))
	const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	var table strings.Builder
	for _, tt := range []struct{ accept, encoding string }{
		{"", ""},
		{"*/*", ""},
		{"text/plain;version=0.0.4", "gzip"},
		{"text/plain;version=1.0.0;escaping=allow-utf-8", "zstd"},
		{"application/openmetrics-text", ""},
		{"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2", "gzip"},
		{protobuf, ""},
		{protobuf + ";q=0.7,application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3", "zstd, gzip"},
		{"image/png", "br"},
	} {
		w := get(h, "/metrics", "Accept", tt.accept, "Accept-Encoding", tt.encoding)
		kind, encoding := w.Header().Get("Content-Type"), w.Header().Get("Content-Encoding")
		fmt.Fprintf(&table, "Accept: %s\nAccept-Encoding: %s\n  Content-Type: %s\n  Content-Encoding: %s\n", tt.accept, tt.encoding, kind, encoding)
		page := decompress(t, encoding, w.Body)
		value, native := parsePage(t, page, kind)
		if value != 7 {
			t.Errorf("Accept %q: test_gpu is %v, want 7, on the page:\n%s", tt.accept, value, page)
		}
		if want := strings.Contains(kind, "protobuf"); native != want {
			t.Errorf("Accept %q: a native histogram: %v, want %v", tt.accept, native, want)
		}
	}
	const path = "testdata/formats.golden"
	if *update {
		if err := os.WriteFile(path, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), table.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestWantsGzip(t *testing.T) {
	for header, want := range map[string]bool{
		"": false, "gzip": true, "deflate, GZIP": true, "gzip;q=0": false, "gzip; q=0.0, *": false, "*": true, "*;q=0": false, "identity": false,
		"zstd, gzip": true, "zstd;q=1, gzip;q=0.5": false, "zstd;q=0.5,gzip": true, "gzip;q=x": false, "zstd": false, "br, *;q=0.1": true,
	} {
		if got := wantsGzip([]string{header}); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

// TestHandlerGzip: pages one after the other, and at the same time, are whole; an error is not compressed.
func TestHandlerGzip(t *testing.T) {
	h := newHandler(t, HandlerOptions{}, yields("gpu", nil, gauge("test_gpu", 1, nil)))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				w := get(h, "/metrics", "Accept-Encoding", "gzip")
				if page := string(decompress(t, w.Header().Get("Content-Encoding"), w.Body)); !strings.Contains(page, "test_gpu 1\n") || !strings.Contains(page, "# HELP test_sizes") {
					t.Errorf("page:\n%s", page)
				}
				if vary := strings.Join(w.Header().Values("Vary"), ","); !strings.Contains(vary, "Accept-Encoding") {
					t.Errorf("Vary: %s", vary)
				}
			}
		})
	}
	wg.Wait()
	if w := get(h, "/metrics?collect[]=none", "Accept-Encoding", "gzip"); w.Code != 400 || w.Header().Get("Content-Encoding") != "" || !strings.Contains(w.Body.String(), "no collector") {
		t.Errorf("%d %v %q", w.Code, w.Header(), w.Body)
	}
}

func decompress(t *testing.T, encoding string, body io.Reader) []byte {
	t.Helper()
	var err error
	switch encoding {
	case "gzip":
		body, err = gzip.NewReader(body)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(body); err == nil {
			t.Cleanup(d.Close)
			body = d
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// parsePage returns the value of test_gpu, and whether test_sizes is a native histogram.
func parsePage(t *testing.T, page []byte, kind string) (value float64, native bool) {
	t.Helper()
	p, err := textparse.New(page, kind, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return value, native
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", kind, err, page)
		}
		var l labels.Labels
		switch entry {
		case textparse.EntrySeries:
			_, _, v := p.Series()
			p.Labels(&l)
			if l.Get("__name__") == "test_gpu" && l.Get("uuid") == "GPU-1" {
				value = v
			}
		case textparse.EntryHistogram:
			_, _, integer, _ := p.Histogram()
			p.Labels(&l)
			native = native || l.Get("__name__") == "test_sizes" && integer.Count == 1 && integer.Schema > 0
		}
	}
}

// TestHandlerLimit: one request more than may be answered at the same time has 503, and the next one is answered again.
func TestHandlerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, HandlerOptions{MaxRequests: 2}, collector{"gpu", func(context.Context) ([]prometheus.Metric, error) {
			time.Sleep(time.Second)
			return nil, nil
		}})
		codes := make(chan int, 2)
		for range 2 {
			go func() { codes <- get(h, "/metrics").Code }()
		}
		synctest.Wait()
		if w := get(h, "/metrics"); w.Code != 503 || !strings.Contains(w.Body.String(), "2 requests for /metrics are being answered already") {
			t.Errorf("the third: %d %s", w.Code, w.Body)
		}
		if first, second := <-codes, <-codes; first != 200 || second != 200 {
			t.Errorf("the two: %d %d", first, second)
		}
		if w := get(h, "/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), `flyball_web_requests_refused_total{path="/metrics"} 1`+"\n") {
			t.Errorf("after them: %d %s", w.Code, w.Body)
		}
	})
}

// TestLimitRequests: paths have a limit each, and count in one registry; 0 is none.
func TestLimitRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		slow := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
		probe, page := LimitRequests(registry, "/probe", 1, slow), LimitRequests(registry, "/metrics", 1, slow)
		free := LimitRequests(registry, "/free", 0, slow)
		var all sync.WaitGroup
		for _, h := range []http.Handler{probe, page, free, free} {
			all.Go(func() {
				if w := get(h, "/"); w.Code != 200 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		for range 2 {
			if w := get(probe, "/"); w.Code != 503 || !strings.HasPrefix(w.Body.String(), "1 requests for /probe are being answered already") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
		all.Wait()
		if w := get(probe, "/"); w.Code != 200 {
			t.Errorf("after them: %d", w.Code)
		}
		families, err := registry.Gather()
		if err != nil || len(families) != 1 || families[0].GetName() != "flyball_web_requests_refused_total" {
			t.Fatal(families, err)
		}
		got := map[string]float64{}
		for _, m := range families[0].GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
		if diff := cmp.Diff(map[string]float64{"/probe": 2, "/metrics": 0}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestHandlerClash: a collector may not have the names of this process's own metrics, and is said to have failed.
func TestHandlerClash(t *testing.T) {
	h := newHandler(t, HandlerOptions{}, yields("gpu", nil, gauge("test_process", 2, nil), gauge("test_sizes_sum", 3, nil), gauge("test_gpu", 1, nil)))
	page := get(h, "/metrics").Body.String()
	for _, want := range []string{"test_process 1\n", "test_sizes_sum 4\n", "test_gpu 1\n", `flyball_collector_success{collector="gpu"} 0` + "\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q on the page:\n%s", want, page)
		}
	}
	parsePage(t, []byte(page), "text/plain")
	for _, twice := range []string{"test_process ", "test_sizes_sum "} {
		if n := strings.Count(page, "\n"+twice); n != 1 {
			t.Errorf("%s%d times on the page", twice, n)
		}
	}
}

// TestHandlerBody: a body is not read, however long it is.
func TestHandlerBody(t *testing.T) {
	h := newHandler(t, HandlerOptions{}, yields("gpu", nil, gauge("test_gpu", 1, nil)))
	r := httptest.NewRequest(http.MethodGet, "/metrics", bytes.NewReader(nil))
	r.Body = io.NopCloser(readFails{t})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

type readFails struct{ t *testing.T }

func (r readFails) Read([]byte) (int, error) {
	r.t.Error("the body was read")
	return 0, io.EOF
}
