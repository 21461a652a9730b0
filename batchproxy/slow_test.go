//go:build unix

package batchproxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// testStreamBreaksOff: where a replica dies in the middle of a stream, its client is not told an end that there was not.
func testStreamBreaksOff(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: "+hello+"\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	registry := prometheus.NewRegistry()
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{Registerer: registry})
	if got := f.post("/v1/chat/completions", `{"model":"m"}`); got.err == nil || got.body != "data: "+hello+"\n\n" {
		t.Errorf("got %q, %v", got.body, got.err)
	}
	f.running(0)
	for name, want := range map[string]float64{
		`flyball_batchproxy_generations_total{class="normal",finish="error",model="m",protocol="openai"}`: 1,
		`flyball_batchproxy_requests_total{class="normal",code="error",model="m",protocol="openai"}`:      1,
	} {
		until(t, name, func() bool { got, _ := value(t, registry, name); return got == want })
	}
}

// testSlowReader: a client that does not read its stream holds up its own connection alone, and no more of the answer than its
// connections and one buffer take.
func testSlowReader(t *testing.T) {
	var sent atomic.Int64
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		event := "data: " + strings.Repeat("x", 64<<10) + "\n\n"
		for strings.Contains(c.body, "endless") && r.Context().Err() == nil {
			n, err := io.WriteString(w, event)
			if sent.Add(int64(n)); err != nil {
				return true
			}
		}
		_, _ = io.WriteString(w, "data: "+hello+"\n\n")
		return true
	}
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	at, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"model":"m","prompt":"endless"}`
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q, %v", line, err)
	}
	var before int64 // until nothing more fits
	for still := 0; still < 50; still++ {
		if got := f.post("/v1/completions", `{"model":"m"}`); got.code != 200 || got.body != "data: "+hello+"\n\n" {
			t.Fatalf("another client got %d %q", got.code, got.body)
		}
		if now := sent.Load(); now != before {
			before, still = now, 0
		}
	}
	t.Logf("a client that does not read: %d KiB were sent", before>>10)
	if before > 64<<20 {
		t.Errorf("%d bytes were taken from the replica for a client that does not read", before)
	}
	conn.Close()
	f.running(0)
}
