//go:build unix

package batchproxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	prom "github.com/prometheus/common/model"
)

// loopbackUpstream is the environment variable that makes TestLoopbackProxy the proxy of BenchmarkLoopback.
const loopbackUpstream = "BATCHPROXY_LOOPBACK_UPSTREAM"

// TestLoopbackProxy is a process that proxies until its input ends: in batches, as they are, and below /bare/ with Go's
// own reverse proxy alone. It says at /cpu how much processor time it has used.
func TestLoopbackProxy(t *testing.T) {
	upstream := os.Getenv(loopbackUpstream)
	if upstream == "" {
		t.Skip("is started by BenchmarkLoopback")
	}
	to, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := oneModel(Upstream{URL: upstream})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 32, MaxWait: prom.Duration(5 * time.Millisecond)}
	p, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer newFront(t, p)()
	bare := &httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(to); pr.SetXForwarded() },
		Transport: p.transport, BufferPool: &copies{},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/cpu":
			fmt.Fprint(w, cpu(t).Nanoseconds())
		case strings.HasPrefix(r.URL.Path, "/bare/"):
			bare.ServeHTTP(w, r)
		default:
			p.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	fmt.Println(server.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// BenchmarkLoopback is what a request of 64 floats costs the proxy in processor time, over real connections from 32
// clients and to a replica, all of which run in another process: sent in batches, passed on as it is, and passed on by
// Go's reverse proxy alone. One op is 3000 requests, a third each way, in turns.
func BenchmarkLoopback(b *testing.B) {
	var calls atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(bytes.Replace(body, []byte("instances"), []byte("predictions"), 1))
	}))
	defer upstream.Close()
	proxy := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestLoopbackProxy$")
	proxy.Env = append(os.Environ(), loopbackUpstream+"="+upstream.URL)
	in, inErr := proxy.StdinPipe()
	out, outErr := proxy.StdoutPipe()
	if err := errors.Join(inErr, outErr, proxy.Start()); err != nil {
		b.Fatal(err)
	}
	at, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	f := &front{t: b, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}, url: strings.TrimSpace(at)}
	defer func() {
		f.client.CloseIdleConnections()
		in.Close()
		if err := proxy.Wait(); err != nil {
			b.Error(err)
		}
	}()
	ways := []string{"/v1/models/m:predict", "/v2/models/m/generate", "/bare/generate"}
	for _, path := range ways { // connections and buffers
		drive(f, path)
	}
	var used [3]time.Duration
	var batches int64
	b.ResetTimer()
	for range b.N {
		for i, path := range ways {
			before, called := usedCPU(f), calls.Load()
			drive(f, path)
			if used[i] += usedCPU(f) - before; i == 0 {
				batches += calls.Load() - called
			}
		}
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(b.N*loopbackRequests) }
	b.ReportMetric(each(used[0]), "batched-cpu-us/req")
	b.ReportMetric(each(used[1]), "passed-cpu-us/req")
	b.ReportMetric(each(used[2]), "bare-cpu-us/req")
	b.ReportMetric(float64(used[1])/float64(used[2]), "passed/bare")
	b.ReportMetric(float64(b.N*loopbackRequests)/float64(batches), "req/batch")
}

const loopbackRequests = 1000

// drive sends the requests to a path and waits for their answers.
func drive(f *front, path string) {
	body := `{"instances":[[0.123456` + strings.Repeat(",-1.234567", 63) + `]]}`
	var left atomic.Int64
	left.Store(loopbackRequests)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if got := f.post(path, body); len(got.body) != len(body)+len("predictions")-len("instances") {
					f.t.Errorf("got %+v", got)
				}
			}
		})
	}
	wg.Wait()
}

// usedCPU is the processor time that the proxy has used.
func usedCPU(f *front) time.Duration {
	n, err := strconv.ParseInt(f.post("/cpu", "").body, 10, 64)
	if err != nil {
		f.t.Error(err)
	}
	return time.Duration(n)
}
