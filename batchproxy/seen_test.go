package batchproxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var timingForm = regexp.MustCompile(`^queue;dur=\d+\.\d{3}, upstream;dur=\d+\.\d{3}, batch;dur=\d+\.\d{3}$`)

func TestTimingHeaders(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxSize = 2
	f := start(t, cfg, Options{})
	both := f.postAll("/v1/models/m:predict", `{"instances":[1]}`, `{"instances":[2]}`)
	if a, b := both[0].header.Get(batchIDHeader), both[1].header.Get(batchIDHeader); a != "batch-1" || a != b {
		t.Errorf("two that shared a batch have the ids %q and %q", a, b)
	}
	for _, got := range both {
		if h := got.header.Get(timingHeader); !timingForm.MatchString(h) {
			t.Errorf("%s: %q", timingHeader, h)
		}
	}
	next := f.post("/v1/models/m:predict", `{"instances":[1,2]}`)
	if next.header.Get(batchIDHeader) != "batch-2" {
		t.Errorf("the next batch has the id %q", next.header.Get(batchIDHeader))
	}
	if next.header.Get(requestIDHeader) != "" {
		t.Errorf("a request id was made without an access log: %q", next.header.Get(requestIDHeader))
	}
	passed := f.post("/v1/models/m:explain", `{}`)
	if h := passed.header.Get(timingHeader); !regexp.MustCompile(`^upstream;dur=\d+\.\d{3}$`).MatchString(h) || passed.header.Get(batchIDHeader) != "" {
		t.Errorf("passed on: %q %q", h, passed.header.Get(batchIDHeader))
	}
	if wrong := f.post("/v1/models/m:predict", `x`); wrong.header.Get(timingHeader) != "" {
		t.Errorf("one that was never sent: %q", wrong.header.Get(timingHeader))
	}
}

// TestTimingOfOthers sees that what the replica says of its time is kept, and that no client gets what another's was.
func TestTimingOfOthers(t *testing.T) {
	theirs := http.Header{timingHeader: append(make([]string, 0, 8), "gpu;dur=7")}
	first, second := http.Header{timingHeader: theirs[timingHeader]}, http.Header{timingHeader: theirs[timingHeader]}
	addTiming(first, "a")
	addTiming(second, "b")
	if diff := cmp.Diff([]string{"gpu;dur=7", "a"}, first[timingHeader]); diff != "" {
		t.Error(diff)
	}
}

// lockedBuffer is what the access log and the test both have in hand.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) lines(t *testing.T) (out []map[string]any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for in := bufio.NewScanner(bytes.NewReader(b.b.Bytes())); in.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", in.Bytes(), err)
		}
		out = append(out, line)
	}
	return out
}

func TestAccessLog(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.AccessLog.Path, cfg.Models[0].Queue.TrustHeaders, cfg.Models[0].Queue.TenantHeader = accessStdout, Trust{Everyone: true}, "x-flyball-tenant"
	var out lockedBuffer
	f := start(t, cfg, Options{Stdout: &out})
	const trace = "0af7651916cd43dd8448eb211c80319c"
	id := f.post("/v1/models/m:predict?key=secret", `{"instances":["secret",2]}`, "X-Request-Id", "mine", "Authorization", "secret", "X-Flyball-Tenant", "blue", "X-Flyball-Priority", "high",
		"User-Agent", "<t>", traceHeader, "00-"+trace+"-b7ad6b7169203331-01").header.Get(requestIDHeader)
	if id != "mine" {
		t.Errorf("the request id came back as %q", id)
	}
	made := f.post("/v1/models/m:explain", `{"a":1}`).header.Values(requestIDHeader)
	calls := s.seen()
	if len(made) != 1 || !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(made[0]) {
		t.Errorf("a request without an id got %q", made)
	} else if sent := calls[len(calls)-1].header.Get(requestIDHeader); sent != made[0] {
		t.Errorf("the replica was sent the id %q, the client %q", sent, made[0])
	}
	f.post("/v1/models/mm:predict", `{}`)
	f.send(t.Context(), http.MethodGet, "/v2/health/live", "")
	if err := f.stop(); err != nil { // the last lines are written by then
		t.Fatal(err)
	}
	lines := out.lines(t)
	for _, l := range lines {
		for _, key := range []string{"time", "duration_seconds", "queue_seconds", "upstream_seconds"} {
			if _, ok := l[key]; !ok {
				t.Errorf("no %s in %v", key, l)
			}
			delete(l, key)
		}
		if l["request_id"] != "mine" {
			delete(l, "request_id")
		}
		delete(l, "bytes_out")
	}
	want := []map[string]any{
		{
			"client": "127.0.0.1", "method": "POST", "path": "/v1/models/m:predict", "model": "m", "protocol": "v1", "status": 200.0, "bytes_in": 26.0,
			"batch_id": "batch-1", "batch_size": 2.0, "class": "high", "tenant": "blue", "trace_id": trace, "request_id": "mine", "user_agent": "<t>",
		},
		{"client": "127.0.0.1", "method": "POST", "path": "/v1/models/m:explain", "class": "normal", "model": "m", "protocol": "v1", "status": 200.0, "bytes_in": 7.0, "user_agent": "Go-http-client/1.1"},
		{"client": "127.0.0.1", "method": "POST", "path": "/v1/models/mm:predict", "status": 404.0, "bytes_in": 0.0, "user_agent": "Go-http-client/1.1"},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(out.b.String(), "secret") {
		t.Errorf("what is nobody's business is in the log:\n%s", out.b.String())
	}
}

func TestAccessLogOfBrokenAnswers(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer upstream.Close()
	cfg := oneModel(Upstream{URL: upstream.URL})
	cfg.AccessLog.Path = accessStdout
	var out lockedBuffer
	f := start(t, cfg, Options{Stdout: &out})
	if got := f.post("/v1/models/m:explain", `{}`); got.err == nil {
		t.Errorf("the client was told all is well: %+v", got)
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if lines := out.lines(t); len(lines) != 1 || lines[0]["error"] != "the answer broke off" || lines[0]["status"] != 200.0 || lines[0]["bytes_out"] != 4.0 {
		t.Errorf("%v", lines)
	}
}

// TestAccessLogIsRotated moves the file away as logrotate does.
func TestAccessLogIsRotated(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.AccessLog.Path = filepath.Join(t.TempDir(), "access.log")
	f := start(t, cfg, Options{})
	has := func(path, text string) func() bool {
		return func() bool {
			b, err := os.ReadFile(path)
			return err == nil && strings.Contains(string(b), text)
		}
	}
	f.post("/v1/models/m:predict", `{"instances":[1]}`, "X-Request-Id", "first")
	until(t, "the first line", has(cfg.AccessLog.Path, `"first"`))
	moved := cfg.AccessLog.Path + ".1"
	if err := os.Rename(cfg.AccessLog.Path, moved); err != nil {
		t.Fatal(err)
	}
	f.ReopenAccessLog()
	until(t, "the file to be made anew", func() bool {
		f.post("/v1/models/m:predict", `{"instances":[1]}`, "X-Request-Id", "second")
		return has(cfg.AccessLog.Path, `"second"`)()
	})
	if !has(moved, `"first"`)() {
		t.Error("the file that was moved away is not as it was")
	}
}

func TestAccessLogThatCannotBeWritten(t *testing.T) {
	cfg := oneModel(Upstream{URL: "http://127.0.0.1:1"})
	cfg.AccessLog.Path = filepath.Join(t.TempDir(), "none", "access.log")
	if _, err := New(cfg, Options{}); err == nil || !strings.HasPrefix(err.Error(), "access_log.path: open ") {
		t.Errorf("got %v", err)
	}
}

// hungDisk is a disk that takes nothing until it is let go.
type hungDisk struct{ in, letGo chan struct{} }

func (s hungDisk) Write(p []byte) (int, error) {
	select {
	case s.in <- struct{}{}:
	default:
	}
	<-s.letGo
	return len(p), nil
}

// TestSlowDisk sees that a disk that hangs holds up no request: what is too much is dropped and counted.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		m, err := newMetrics(registry)
		if err != nil {
			t.Fatal(err)
		}
		disk := hungDisk{make(chan struct{}, 1), make(chan struct{})}
		l, err := newAccessLog(AccessLog{Path: accessStdout}, disk, slog.New(slog.DiscardHandler), m.undone)
		if err != nil {
			t.Fatal(err)
		}
		end := (&Proxy{access: l, logger: l.logger}).runAccessLog()
		l.add(accessLine{})
		<-disk.in
		for range accessLines + 7 {
			l.add(accessLine{})
		}
		if dropped, _ := value(t, registry, "flyball_batchproxy_access_log_dropped_total{}"); dropped != 7 {
			t.Errorf("%v lines were dropped, 7 were too many", dropped)
		}
		end() // does not wait for the disk either
		close(disk.letGo)
		synctest.Wait()
	})
}

func TestExemplars(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	s := newModelServer(t)
	registry := prometheus.NewRegistry()
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{Registerer: registry})
	exemplars := func() int {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Accept", "application/openmetrics-text")
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
		return strings.Count(w.Body.String(), fmt.Sprintf("# {trace_id=%q}", trace))
	}
	f.post("/v1/models/m:predict", `{"instances":[1]}`, traceHeader, "00-"+trace+"-b7ad6b7169203331-00")
	if n := exemplars(); n != 0 {
		t.Errorf("%d exemplars of a trace that nobody records", n)
	}
	f.post("/v1/models/m:predict", `{"instances":[1]}`, traceHeader, "00-"+trace+"-b7ad6b7169203331-01")
	until(t, "an exemplar of the queue and one of the request", func() bool { return exemplars() == 2 })
	f.post("/v1/models/m:explain", `{}`, traceHeader, "00-"+trace+"-b7ad6b7169203331-01")
	for i, c := range s.seen()[1:] { // alone in its batch, and passed on
		if got := c.header.Get(traceHeader); got != "00-"+trace+"-b7ad6b7169203331-01" {
			t.Errorf("call %d was sent the trace %q", i, got)
		}
	}
}

func TestSampledTrace(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, tt := range []struct{ name, value, want string }{
		{"sampled", "00-" + trace + "-" + span + "-01", trace},
		{"sampled, other flags", "00-" + trace + "-" + span + "-03", trace},
		{"not sampled", "00-" + trace + "-" + span + "-02", ""},
		{"a later version", "01-" + trace + "-" + span + "-01-more", trace},
		{"more in this version", "00-" + trace + "-" + span + "-01-more", ""},
		{"not a version", "ff-" + trace + "-" + span + "-01", ""},
		{"zero trace", "00-" + strings.Repeat("0", 32) + "-" + span + "-01", ""},
		{"zero span", "00-" + trace + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"upper case", "00-" + strings.ToUpper(trace) + "-" + span + "-01", ""},
		{"short", "00-" + trace, ""},
		{"empty", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := sampledTrace(http.Header{traceHeader: {tt.value}}); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := sampledTrace(http.Header{traceHeader: {"00-" + trace + "-" + span + "-01", "00-" + trace + "-" + span + "-01"}}); got != "" {
		t.Errorf("two headers: %q", got)
	}
}
