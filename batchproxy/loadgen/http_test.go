package loadgen

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// modelServer is the sum model behind a real HTTP server.
func modelServer(tb testing.TB) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		answer, err := sum(body)
		if err != nil || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Class") != "high" {
			http.Error(w, "not a question", http.StatusBadRequest)
			return
		}
		_, _ = w.Write(answer)
	}))
	tb.Cleanup(server.Close)
	return server
}

// TestOverHTTP sends a load over real connections, with answers that no test compares with the clock.
func TestOverHTTP(t *testing.T) {
	server := modelServer(t)
	o := testOptions(t, nil, 400, 500*time.Millisecond)
	o.URL = server.URL
	o.Header = http.Header{"x-class": {"high"}}
	requests, err := Reference(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Requests = requests
	report := mustRun(t, t.Context(), o)
	if report.Counts.OK != 200 || report.Latency.Count != 200 || report.Lost != 0 {
		t.Errorf("counts %+v of 200, examples %+v", report.Counts, report.Examples)
	}
}

// TestBrokenConnections meets servers that do not speak to the end.
func TestBrokenConnections(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	truncating := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"id":`)
	}))
	defer truncating.Close()
	hanging := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer hanging.Close()
	for _, tt := range []struct {
		name, url string
		want      Counts
	}{
		{name: "nobody listens", url: "http://" + closed.Addr().String(), want: Counts{Connection: 5}},
		{name: "cut", url: truncating.URL, want: Counts{Connection: 5}},
		{name: "hangs within the answer", url: hanging.URL, want: Counts{Timeout: 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := testOptions(t, nil, 100, 50*time.Millisecond)
			o.URL = tt.url
			o.Timeout = 200 * time.Millisecond
			if tt.want.Connection > 0 {
				o.Timeout = time.Minute // a slow machine must not turn one into the other
			}
			if report := mustRun(t, t.Context(), o); report.Counts != tt.want || report.Lost != 5 {
				t.Errorf("counts %+v, lost %d, expected %+v; examples %+v", report.Counts, report.Lost, tt.want, report.Examples)
			}
		})
	}
}

// BenchmarkRequest is what one request costs the generator: over HTTP with the server's part in it, and against a
// server that costs nothing.
func BenchmarkRequest(b *testing.B) {
	rows := [][]float32{make([]float32, 64)}
	requests, err := TensorRequests("sum", "x", V2, rows)
	if err != nil {
		b.Fatal(err)
	}
	answer := sumAnswer("bench-x-1", 0)
	requests[0].Want = answer

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(answer)
	}))
	defer server.Close()
	pool := NewTransport(64)
	defer pool.CloseIdleConnections()
	for _, bm := range []struct {
		name      string
		transport http.RoundTripper
	}{
		{"http", pool},
		{"own", constant{answer}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			o := DefaultOptions()
			o.URL = server.URL
			o.Requests = requests
			o.Transport = bm.transport
			o.Demand = Constant(1, time.Hour)
			r, err := newRun(o)
			if err != nil {
				b.Fatal(err)
			}
			var wrong atomic.Int64
			b.ReportAllocs()
			for b.Loop() {
				interval, _ := r.recorder.arrive(0, 0)
				out := r.sender.send(b.Context(), &r.requests[0], "bench-x-1", time.Now())
				if out.kind != KindOK {
					wrong.Add(1)
				}
				r.recorder.leave(interval, out, Example{})
			}
			if wrong.Load() > 0 {
				b.Errorf("%d were not ok: %+v", wrong.Load(), r.recorder.whole.examples)
			}
		})
	}
}

// constant is a server that costs nothing.
type constant struct{ answer []byte }

// RoundTrip implements http.RoundTripper.
func (c constant) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: (splicedBody{head: c.answer}).reader(""), Request: r}, nil
}
