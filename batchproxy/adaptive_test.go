package batchproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// syncBuffer is a log that a test reads while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestBatchRefusedForItsSize: a batch that the replica finds too large is cut in two, every request in it is answered, and
// the next batches are not larger than what was taken.
func TestBatchRefusedForItsSize(t *testing.T) {
	for _, tt := range []struct {
		name, message string
		code          int
	}{
		{"413", "", http.StatusRequestEntityTooLarge},
		{"Triton", `{"error":"[request id: <id_unknown>] inference request batch-size must be <= 4 for 'm'"}`, http.StatusBadRequest},
		{"TEI", `{"error":"batch size 8 > maximum allowed batch size 4","error_type":"Validation"}`, http.StatusUnprocessableEntity},
		{"CUDA", `{"error":"CUDA out of memory. Tried to allocate 2.00 GiB"}`, http.StatusInternalServerError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newModelServer(t)
			s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
				if c.rows > 4 {
					w.WriteHeader(tt.code)
					fmt.Fprint(w, tt.message)
				}
				return c.rows > 4
			}
			cfg := oneModel(Upstream{URL: s.URL})
			cfg.Models[0].Batch = BatchConfig{Mode: ModeTimeout, MaxSize: 8, MaxWait: prom.Duration(time.Hour)}
			registry, log := prometheus.NewRegistry(), new(syncBuffer)
			f := start(t, cfg, Options{Registerer: registry, Logger: slog.New(slog.NewTextHandler(log, nil))})
			var bodies []string
			for i := range 8 {
				bodies = append(bodies, fmt.Sprintf(`{"instances":[%d]}`, i))
			}
			for i, got := range f.postAll("/v1/models/m:predict", bodies...) {
				want(t, got, 200, fmt.Sprintf(`{"predictions":[%d]}`, i))
			}
			for i, got := range f.postAll("/v1/models/m:predict", bodies[:4]...) { // which are a full batch now
				want(t, got, 200, fmt.Sprintf(`{"predictions":[%d]}`, i))
			}
			if diff := cmp.Diff([]int{8, 4, 4, 4}, s.rows()); diff != "" {
				t.Error(diff)
			}
			for name, want := range map[string]float64{
				`flyball_batchproxy_effective_max_batch{model="m"}`:                                     4,
				`flyball_batchproxy_parameter_changes_total{model="m",parameter="effective_max_batch"}`: 1,
				`flyball_batchproxy_parameter_changes_total{model="m",parameter="batching"}`:            0,
				`flyball_batchproxy_batches_total{model="m",reason="full"}`:                             2,
			} {
				if got, ok := value(t, registry, name); !ok || got != want {
					t.Errorf("%s is %v %v, want %v", name, got, ok, want)
				}
			}
			if want := "parameter=effective_max_batch before=8 after=4"; !strings.Contains(log.String(), want) {
				t.Errorf("no %q in the log\n%s", want, log)
			}
			// One request that is too large by itself is refused as ever, and says nothing of batches.
			big := f.post("/v1/models/m:predict", `{"instances":[1,2,3,4,5,6]}`)
			if big.code != tt.code && tt.code != 500 {
				t.Errorf("one of 6 rows: %d, want the replica's %d", big.code, tt.code)
			}
			if got, _ := value(t, registry, `flyball_batchproxy_effective_max_batch{model="m"}`); got != 4 {
				t.Errorf("batches of up to %v after it", got)
			}
		})
	}
}

// TestBadRequestIsNotTooLarge: an error of one of the requests does not make batches small.
func TestBadRequestIsNotTooLarge(t *testing.T) {
	for text, want := range map[string]bool{
		`{"error":"poison"}`: false, `{"error":"batch of 4: input x has the wrong shape"}`: false, "": false,
		"RuntimeError: Batch size 9 exceeds the maximum": true, "batch too large": true,
	} {
		r := &response{code: 400, body: &buffer{b: []byte(text)}}
		if got := r.tooLarge(); got != want {
			t.Errorf("%q: too large %v, want %v", text, got, want)
		}
	}
}

// TestOtherReplicasAreMeasuredAnew: what was learned of replicas goes when the last of them does, and not before.
func TestOtherReplicasAreMeasuredAnew(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	pool := &list{current: []string{a.address()}}
	f := start(t, oneModel(Upstream{Target: "pool"}), Options{Endpoints: pool})
	<-f.Following()
	m := f.models["m"]
	known := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.batcher.service.known
	}
	ready := func(n int) func() bool { return func() bool { return f.Models()[0].Ready == n } }
	learn := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for range 10 {
			m.batcher.Answered(time.Now(), []byte("x"), 1, time.Millisecond)
		}
	}
	learn()
	pool.set(a.address(), b.address())
	until(t, "two replicas", ready(2))
	pool.set(b.address())
	until(t, "one replica", ready(1))
	if !known() {
		t.Error("what was learned is forgotten though one of the replicas stayed")
	}
	pool.set()
	until(t, "no replica", ready(0))
	pool.set(a.address())
	until(t, "another replica", ready(1))
	if known() {
		t.Error("what was learned of the replicas before is taken for true of the new ones")
	}
	learn()
	pool.set(a.address(), b.address())
	until(t, "two replicas", ready(2))
	if !known() {
		t.Error("what was learned is forgotten as another replica joins")
	}
}

// TestExplainTellsNoSecrets: lanes are told apart by what only hashes of are shown.
func TestExplainTellsNoSecrets(t *testing.T) {
	s := newModelServer(t)
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	f.post("/v1/models/m:predict?key=hush", `{"instances":["payload"],"signature_name":"sig"}`, "Authorization", "Bearer hush")
	f.post("/v1/models/m:predict", `{"instances":["payload"]}`, "Authorization", "Bearer hush")
	var text strings.Builder
	x := f.Explain()[0]
	if err := x.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hush", "payload", "sig\"", "Bearer"} {
		if strings.Contains(text.String(), secret) {
			t.Errorf("%q is told\n%s", secret, text.String())
		}
	}
	if len(x.Lanes) != 2 || x.Lanes[0].Lane == x.Lanes[1].Lane || !strings.HasPrefix(x.Lanes[0].Lane, "v1 /v1/models/m:predict #") {
		t.Errorf("lanes: %+v", x.Lanes)
	}
	if len(x.Decisions) != 2 || x.Model != "m" || x.Mode != ModeTimeout {
		t.Errorf("%+v", x)
	}
}

// device answers a batch of n rows after 8 ms + 0.25 ms n, one batch at a time.
type device struct {
	mu      sync.Mutex
	batches []int
}

func (d *device) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	n := bytes.Count(body, []byte(",")) + 1
	d.mu.Lock()
	d.batches = append(d.batches, n)
	time.Sleep(ms(8 + 0.25*float64(n)))
	d.mu.Unlock()
	text := strings.Replace(string(body), "instances", "predictions", 1)
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text))}, nil
}

// TestClosedLoopThroughTheProxy: eight clients, each of which thinks for a while, end up in one batch, by the proxy's own
// timer and clock, and are not held once all are there.
func TestClosedLoopThroughTheProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://replica"})
		cfg.Models[0].Batch = DefaultModelConfig().Batch
		d := new(device)
		p, err := New(cfg, Options{Transport: d})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running, clients sync.WaitGroup
		running.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		var answered atomic.Int64
		end := time.Now().Add(4 * time.Second)
		for i := range 8 {
			clients.Go(func() {
				time.Sleep(ms(float64(i)))
				for time.Now().Before(end) {
					w := httptest.NewRecorder()
					p.ServeHTTP(w, httptest.NewRequest("POST", "/v1/models/m:predict", strings.NewReader(fmt.Sprintf(`{"instances":[%d]}`, i))))
					if want := fmt.Sprintf(`{"predictions":[%d]}`, i); w.Code != 200 || w.Body.String() != want {
						t.Errorf("client %d: %d %s", i, w.Code, w.Body)
					}
					answered.Add(1)
					time.Sleep(ms(0.1 + 0.05*float64(i)))
				}
			})
		}
		clients.Wait()
		last := d.batches[len(d.batches)/2 : len(d.batches)-10]
		others := 0
		for _, rows := range last {
			if rows != 8 {
				others++
			}
		}
		if slices.Max(last) != 8 || others > 2*(probeRun-1) { // of one trial of whether batching pays
			t.Errorf("the later batches: %v, want all eight in each but for a trial of %d", last, 2*(probeRun-1))
		}
		// 8 in 10 ms and 0.45 ms until the last is back.
		if got := float64(answered.Load()) / 4; got < 0.97*8/0.01045 {
			t.Errorf("%.0f requests a second, want nearly %.0f", got, 8/0.01045)
		}
		cancel()
		running.Wait()
	})
}
