package model

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"flyball/exporter"
)

// endless repeats a text.
type endless struct {
	text string
	left string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == "" {
		e.left = e.text
	}
	n := copy(p, e.left)
	e.left = e.left[n:]
	return n, nil
}

// hostile are servers that are broken, or worse.
func hostile(stop <-chan struct{}) []struct {
	name    string
	handler http.HandlerFunc
	why     string // in the reason
} {
	plain := func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/plain; version=0.0.4") }
	return []struct {
		name    string
		handler http.HandlerFunc
		why     string
	}{
		{"garbage", text2page("\x01\x02 what is this\n"), "while parsing"},
		{"bytes 0", text2page("vllm:num_requests_running 1\n\x00vllm:num_requests_waiting 1\n"), "byte 0"},
		{"half a line", text2page("vllm:num_requests_running 1\nvllm:num_requests_waiting"), "while parsing"},
		{"nothing", text2page(""), "no metric of an engine"},
		{"a page of the web", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, "<html>")
		}, "text/html"},
		{"JSON", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		}, "application/json"},
		{"an error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, "500"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
		}, "not followed"},
		{"a million lines for something", func(w http.ResponseWriter, _ *http.Request) {
			plain(w)
			for i := range 1_000_000 {
				if _, err := fmt.Fprintf(w, "vllm:num_requests_running{model_name=\"%d\"} 1\n", i); err != nil {
					return
				}
			}
		}, "max_series"},
		{"a million lines for nothing", func(w http.ResponseWriter, _ *http.Request) {
			plain(w)
			_, _ = io.WriteString(w, "vllm:num_requests_running 1\n")
			for i := range 1_000_000 {
				if _, err := fmt.Fprintf(w, "vllm:unknown_%d{model_name=\"a\"} 1\n", i); err != nil {
					return
				}
			}
		}, "max_body"},
		{"a page that never ends", func(w http.ResponseWriter, r *http.Request) {
			plain(w)
			_, _ = io.Copy(w, &endless{text: "vllm:num_requests_running{model_name=\"a\"} 1\n"})
		}, "max_body"},
		{"a line that never ends", func(w http.ResponseWriter, r *http.Request) {
			plain(w)
			_, _ = io.Copy(w, io.MultiReader(strings.NewReader("# HELP a "), &endless{text: "a"}))
		}, "a line longer"},
		{"a gzip bomb", func(w http.ResponseWriter, r *http.Request) {
			plain(w)
			w.Header().Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, gzip.BestCompression)
			_, _ = io.CopyN(z, &endless{text: "vllm:num_requests_running{model_name=\"a\"} 1\n"}, 64<<20)
			_ = z.Close()
		}, "max_body"},
		{"gzip that is none", func(w http.ResponseWriter, r *http.Request) {
			plain(w)
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "vllm:num_requests_running 1\n")
		}, "gzip"},
		{"an encoding that was not asked for", func(w http.ResponseWriter, r *http.Request) {
			plain(w)
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "vllm:num_requests_running 1\n")
		}, "Content-Encoding"},
		{"a hang before the head", func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}, "time"},
		{"a hang in the middle", func(w http.ResponseWriter, r *http.Request) {
			plain(w)
			_, _ = io.WriteString(w, "vllm:num_requests_running 1\n")
			w.(http.Flusher).Flush()
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}, "time"},
		{"a page that is cut off", func(w http.ResponseWriter, r *http.Request) {
			plain(w)
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "vllm:num_requests_running 1\n")
		}, "EOF"},
		{"OpenMetrics that is cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0")
			_, _ = io.WriteString(w, "# TYPE a gauge\na 1\n")
		}, "# EOF"},
		{"OpenMetrics that goes on", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0")
			_, _ = io.WriteString(w, "# EOF\n# TYPE a gauge\na 1\n# EOF\n")
		}, "EOF"},
		{"protobuf of any size", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")
			_, _ = w.Write([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
		}, "family of"},
		{"a head that never ends", func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			_, _ = io.Copy(conn, &endless{text: "X-A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n"})
		}, "header"},
		{"a bound that is none", text2page("vllm:e2e_request_latency_seconds_bucket{le=\"x\"} 1\n"), "bound"},
	}
}

// TestHostile reads servers that are broken, together with one that is not: it must not notice.
func TestHostile(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	all := hostile(stop)
	var log lockedBuffer
	good := configOf(t, serve(t, text2page("vllm:num_requests_running{model_name=\"m\"} 3\n")).URL, func(c *exporter.ModelServer) { c.Name = "good" })
	configs := []exporter.ModelServer{good}
	for _, h := range all {
		configs = append(configs, configOf(t, serve(t, h.handler).URL, func(c *exporter.ModelServer) {
			c.Name = h.name
			c.MaxBody = 4 * units.MiB
			if strings.HasPrefix(h.name, "a hang") {
				c.Timeout = model.Duration(100 * time.Millisecond)
			} else {
				c.Timeout, c.Interval = model.Duration(time.Minute), model.Duration(time.Minute) // what is slow here is the race detector
			}
		}))
	}
	c := newCollector(t, Options{ProcFS: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))}, configs...)
	ctx := context.Background()
	for i, s := range c.servers {
		began := time.Now()
		for range 2 { // the second time it is known already, and not told again
			s.poll(ctx)
		}
		t.Logf("%s: %s", s.config.Name, time.Since(began))
		if i == 0 {
			continue
		}
		s.mu.Lock()
		err := s.err
		s.mu.Unlock()
		if err == nil || !strings.Contains(err.Error(), all[i-1].why) {
			t.Errorf("%s: %v, want something with %q", s.config.Name, err, all[i-1].why)
		}
		if n := strings.Count(log.String(), "server=\""+s.config.Name+"\"") + strings.Count(log.String(), "server="+s.config.Name+" "); n != 1 {
			t.Errorf("%s: told %d times", s.config.Name, n)
		}
	}
	metrics, err := c.Update(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := seriesOf(page2text(t, metrics))
	if !strings.Contains(got, `flyball_model_requests_running{engine="vllm",model="m",server="good"} 3`) {
		t.Errorf("the good one has no series:\n%s", got)
	}
	for _, h := range all {
		want := fmt.Sprintf("flyball_model_up{server=%q} 0\n", h.name)
		if strings.Count(got, fmt.Sprintf("server=%q", h.name)) != 1 || !strings.Contains(got, want) {
			t.Errorf("%s has other series than that it is down:\n%s", h.name, got)
		}
	}
}

// lockedBuffer is a buffer for several.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestMemory measures what a page of a million lines makes this process hold, as the largest heap that is seen while it is read.
func TestMemory(t *testing.T) {
	for _, tt := range []struct {
		name, line string
	}{
		{"for nothing", "vllm:unknown_%d{model_name=\"a\"} 1\n"},
		{"of one name", "vllm:unknown{id=\"%d\"} 1\n"},
		{"for something", "vllm:num_requests_running{model_name=\"a\",id=\"%d\"} 1\n"},
		{"for many models", "vllm:num_requests_running{model_name=\"%d\"} 1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := exporter.DefaultModelServer()
			config.Name = "s"
			in, out := io.Pipe()
			go func() {
				defer out.Close()
				w := bufio.NewWriterSize(out, 32<<10)
				defer w.Flush()
				for i := range 1_000_000 {
					if _, err := fmt.Fprintf(w, tt.line, i); err != nil {
						return
					}
				}
			}()
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			var most, reads uint64
			r := newReading(&config)
			err := r.read(t.Context(), readerFunc(func(p []byte) (int, error) {
				if reads++; reads%20 == 0 {
					runtime.GC()
					runtime.ReadMemStats(&now)
					most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
				}
				return in.Read(p)
			}), "", "")
			_ = in.CloseWithError(io.EOF)
			t.Logf("%d bytes of heap at most after %d reads: %v", most, reads, err)
			if most > 32<<20 {
				t.Errorf("%d bytes of heap", most)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestDown sees a server come, go, and come as another engine.
func TestDown(t *testing.T) {
	var answer atomic.Pointer[string]
	show := func(text string) { answer.Store(&text) }
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if text := *answer.Load(); text != "" {
			text2page(text)(w, r)
			return
		}
		http.Error(w, "starting", http.StatusServiceUnavailable)
	})
	var log lockedBuffer
	c := newCollector(t, Options{ProcFS: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))}, configOf(t, server.URL))
	if metrics, _ := c.Update(t.Context()); len(metrics) != 0 {
		t.Errorf("%d series before the first reading", len(metrics))
	}
	step := func(text string, want ...string) {
		t.Helper()
		show(text)
		c.servers[0].poll(t.Context())
		metrics, err := c.Update(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := seriesOf(page2text(t, metrics))
		for _, line := range want {
			if !strings.Contains(got, line) {
				t.Errorf("no %q in\n%s", line, got)
			}
		}
		if len(want) == 1 && strings.Count(got, "\n") != 1 {
			t.Errorf("more than that it is down:\n%s", got)
		}
	}
	const down = "flyball_model_up{server=\"s\"} 0\n"
	vllm := "vllm:prompt_tokens_total{model_name=\"m\"} %d\nvllm:num_requests_running{model_name=\"m\"} 1\n"
	step("", down)
	step(fmt.Sprintf(vllm, 500), "up{server=\"s\"} 1\n", `flyball_model_tokens_total{engine="vllm",kind="prompt",model="m",server="s"} 500`)
	step("", down)
	step(fmt.Sprintf(vllm, 7), "up{server=\"s\"} 1\n", `flyball_model_tokens_total{engine="vllm",kind="prompt",model="m",server="s"} 7`) // started anew: raw
	step("vllm:num_requests_running{model_name=\"other\"} 1\n", "up{server=\"s\"} 1\n", `requests_running{engine="vllm",model="other",server="s"} 1`)
	if metrics, _ := c.Update(t.Context()); strings.Contains(page2text(t, metrics), `model="m"`) {
		t.Error("a model that is gone has series")
	}
	step("sglang:num_running_reqs{model_name=\"m\"} 2\n", down)
	step("sglang:num_running_reqs{model_name=\"m\"} 2\n", "up{server=\"s\"} 1\n", `requests_running{engine="sglang",model="m",server="s"} 2`)
	if n := strings.Count(log.String(), "cannot be read"); n != 3 {
		t.Errorf("%d times down in the log:\n%s", n, log.String())
	}
}

// TestGrowth has the mean batch of an engine that counts batches: of what was since the reading before.
func TestGrowth(t *testing.T) {
	config := configOf(t, "http://127.0.0.1:1")
	r, d := newReading(&config), newDescs()
	read := func(text, want string) {
		t.Helper()
		if err := r.read(t.Context(), strings.NewReader(text), "", ""); err != nil {
			if want != "error" {
				t.Error(err)
			}
			return
		}
		got := ""
		for line := range strings.Lines(seriesOf(page2text(t, r.finish(d).metrics))) {
			if rest, found := strings.CutPrefix(line, `flyball_model_batch_size_mean{engine="triton",model="m",server="s"} `); found {
				got = strings.TrimSpace(rest)
			}
		}
		if got != want {
			t.Errorf("mean of %q after %q", got, text)
		}
	}
	page := "nv_inference_count{model=\"m\"} %d\nnv_inference_exec_count{model=\"m\"} %d\n"
	read(fmt.Sprintf(page, 10, 5), "")
	read(fmt.Sprintf(page, 30, 10), "4")
	read(fmt.Sprintf(page, 30, 10), "") // nothing ran
	read(fmt.Sprintf(page, 36, 12), "3")
	read(fmt.Sprintf(page, 2, 1), "") // started anew
	read(fmt.Sprintf(page, 8, 2), "6")
	read("nv_inference_count{model=\"m\"} 9\ngarbage\x00\n", "error")
	read(fmt.Sprintf(page, 20, 4), "") // the one before was not whole
}

// TestInterval sees that a server is asked at its interval, and that nobody who scrapes has it asked.
func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := configOf(t, "http://127.0.0.1:1", func(c *exporter.ModelServer) { c.Interval = model.Duration(5 * time.Second) })
		c, err := New([]exporter.ModelServer{config}, Options{ProcFS: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int64
		c.servers[0].client.rt = roundTripper(func(r *http.Request) (*http.Response, error) {
			if asked.Add(1) == 3 {
				<-r.Context().Done() // hangs
				return nil, r.Context().Err()
			}
			w := httptest.NewRecorder()
			text2page("vllm:num_requests_running 1\n")(w, r)
			return w.Result(), nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(14 * time.Second)
		synctest.Wait()
		for range 100 {
			if _, err := c.Update(ctx); err != nil {
				t.Error(err)
			}
		}
		if n := asked.Load(); n != 3 {
			t.Errorf("asked %d times in 14 s", n)
		}
		if metrics, _ := c.Update(ctx); !strings.Contains(page2text(t, metrics), "flyball_model_up{server=\"s\"} 0") {
			t.Error("it hung for 2 s and is up")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if metrics, _ := c.Update(ctx); !strings.Contains(page2text(t, metrics), "flyball_model_up{server=\"s\"} 1") {
			t.Error("it answers again and is down")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNone(t *testing.T) {
	c := newCollector(t, Options{})
	if _, err := c.Update(t.Context()); !errors.Is(err, exporter.ErrNoData) {
		t.Errorf("%v", err)
	}
	if _, err := c.Probe(t.Context(), "http://169.254.169.254/"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
}
