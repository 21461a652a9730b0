//go:build unix

package batchproxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestStreamBreaksOff: where a replica dies in the middle of a stream, its client is not told an end that there was not.
func TestStreamBreaksOff(t *testing.T) {
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

// TestSlowReader: a client that does not read its stream holds up its own connection alone, and no more of the answer than its
// connections and one buffer take.
func TestSlowReader(t *testing.T) {
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

// TestIdleConnections prints what connections without a request cost.
func TestIdleConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections")
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	many := min(10_000, (int(min(files.Cur, 1<<20))-500)/2) // both ends are here
	if many < 100 {
		t.Skipf("%d open files are allowed", files.Cur)
	}
	f := start(t, oneModel(Upstream{URL: newModelServer(t).URL}), Options{})
	at, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := memory()
	conns := make([]net.Conn, many)
	for i := range conns {
		conn, err := net.Dial("tcp", at.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
		fmt.Fprint(conn, "GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
		var answer [512]byte
		if n, err := conn.Read(answer[:]); err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 200 ") {
			t.Fatalf("%q, %v", answer[:n], err)
		}
	}
	after := memory()
	t.Logf("%d idle connections: %.1f KiB each, with their client's end", many, float64(after-before)/1024/float64(many))
	if got := f.post("/v2/models/m/generate", "{}"); got.code != 200 {
		t.Errorf("beside %d idle connections: %d %s", many, got.code, got.body)
	}
}
