package batchproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"

	"flyball/batchproxy/protocol"
)

// numbered is n rows that are all different, and their number in the answer's form.
func numbered(n int) string {
	var rows []string
	for i := range n {
		rows = append(rows, fmt.Sprint(i))
	}
	return strings.Join(rows, ",")
}

func small(upstreams ...Upstream) Config {
	cfg := oneModel(upstreams...)
	cfg.Models[0].Batch = BatchConfig{MaxSize: 4, MaxWait: prom.Duration(time.Millisecond)}
	return cfg
}

// TestLargeRequestRidesInChunks: never more rows than the maximum at a time, over two replicas, one answer in the right order,
// counted once.
func TestLargeRequestRidesInChunks(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	a.before, b.before = embed, embed
	registry := prometheus.NewRegistry()
	f := start(t, small(Upstream{URL: a.URL}, Upstream{URL: b.URL}), Options{Registerer: registry})
	const rows = 103
	text := func(n int) string { return `"` + strings.ReplaceAll(numbered(n), ",", `","`) + `"` }
	got := f.post("/v1/models/m:predict", `{"instances":[`+numbered(rows)+`],"signature_name":"s"}`)
	want(t, got, 200, `{"predictions":[`+numbered(rows)+`]}`)
	if got.header.Get("X-Flyball-Chunks") != "26" || got.header.Get("X-Flyball-Batch-Size") != "4" || got.header.Get("X-Model") != "" {
		t.Errorf("headers: %v", got.header)
	}
	want(t, f.post("/v2/models/m/infer", fmt.Sprintf(`{"id":"i","inputs":[{"name":"x","shape":[%d,1],"datatype":"INT64","data":[%s]}]}`, rows, numbered(rows))),
		200, fmt.Sprintf(`{"id":"i","model_name":"m","outputs":[{"name":"x","shape":[%d,1],"datatype":"INT64","data":[%s]}]}`, rows, numbered(rows)))
	got = f.post("/v1/embeddings", `{"model":"m","input":[`+text(9)+`]}`)
	want(t, got, 200, embedding("m", 9, strings.Split(numbered(9), ",")...))
	if got.header.Get("X-Flyball-Usage") != "" {
		t.Error("the usage of whole batches is said to be estimated")
	}
	for _, s := range []*modelServer{a, b} {
		if len(s.seen()) == 0 {
			t.Error("a replica was sent nothing")
		}
		for _, c := range s.seen() {
			if c.rows > 4 || strings.Contains(c.body, "instances") && !strings.Contains(c.body, `"signature_name":"s"`) {
				t.Errorf("a batch of %d rows: %s", c.rows, c.body)
			}
		}
	}
	f.stop()
	for name, want := range map[string]float64{
		`flyball_batchproxy_arrivals_total{class="normal",model="m",protocol="v1"}`:            1,
		`flyball_batchproxy_requests_total{class="normal",code="200",model="m",protocol="v1"}`: 1,
		`flyball_batchproxy_request_duration_seconds{class="normal",model="m",protocol="v1"}`:  1,
		`flyball_batchproxy_queue_duration_seconds{class="normal",model="m",protocol="v1"}`:    1,
		`flyball_batchproxy_requests_waiting{class="normal",model="m",protocol="v1"}`:          0,
		`flyball_batchproxy_requests_running{class="normal",model="m",protocol="v1"}`:          0,
		`flyball_batchproxy_batch_size{model="m",protocol="v1"}`:                               26,
	} {
		if got, ok := value(t, registry, name); !ok || got != want {
			t.Errorf("%s is %g, want %g", name, got, want)
		}
	}
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
}

// TestLargeRequestLeavesRoomForOthers: no more than a part of it is in the queue, and its last rows ride with others.
func TestLargeRequestLeavesRoomForOthers(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	registry := prometheus.NewRegistry()
	f := start(t, small(Upstream{URL: s.URL}), Options{Registerer: registry})
	var wg sync.WaitGroup
	wg.Go(func() {
		want(t, f.post("/v1/models/m:predict", `{"instances":[`+numbered(402)+`]}`), 200, `{"predictions":[`+numbered(402)+`]}`)
	})
	<-g.entered
	f.queued(maxChunks - 1)
	for _, gauge := range []string{"requests_running", "requests_waiting"} {
		want := 0.0
		if gauge == "requests_running" {
			want = 1
		}
		if got, _ := value(t, registry, `flyball_batchproxy_`+gauge+`{class="normal",model="m",protocol="v1"}`); got != want {
			t.Errorf("%s is %g, want %g", gauge, got, want)
		}
	}
	wg.Go(func() { want(t, f.post("/v1/models/m:predict", `{"instances":[7]}`), 200, `{"predictions":[7]}`) })
	f.queued(maxChunks)
	close(g.open)
	wg.Wait()
	calls := s.seen()
	for i, c := range calls {
		if strings.Contains(c.body, `[7]`) && i > maxChunks+1 {
			t.Errorf("the small request was sent as number %d", i)
		}
	}
}

// TestOneChunkFails: the request fails once, with what the replica said, and what is left of it is not sent.
func TestOneChunkFails(t *testing.T) {
	s := newModelServer(t)
	var failed atomic.Bool
	s.before = func(_ http.ResponseWriter, r *http.Request, c call) bool {
		if failed.Load() {
			<-r.Context().Done() // only its being cancelled ends it
		}
		failed.Store(failed.Load() || strings.Contains(c.body, "poison"))
		return false
	}
	registry := prometheus.NewRegistry()
	f := start(t, small(Upstream{URL: s.URL}), Options{Registerer: registry})
	rows := strings.Replace(numbered(400), "10,", `"poison",`, 1)
	got := f.post("/v1/models/m:predict", `{"instances":[`+rows+`]}`)
	want(t, got, 400, `{"error":"poison"}`)
	until(t, "nothing is queued or running", func() bool { m := f.Models()[0]; return m.Queued == 0 && m.Running == 0 })
	f.stop()
	if n := len(s.seen()); n < 3 || n > 4 {
		t.Errorf("%d calls, want the three up to the one that failed, and one more that was on its way at most", n)
	}
	for name, want := range map[string]float64{
		`flyball_batchproxy_requests_total{class="normal",code="400",model="m",protocol="v1"}`: 1,
		`flyball_batchproxy_cancelled_total{model="m",stage="queued"}`:                         0,
		`flyball_batchproxy_requests_waiting{class="normal",model="m",protocol="v1"}`:          0,
		`flyball_batchproxy_requests_running{class="normal",model="m",protocol="v1"}`:          0,
	} {
		if got, _ := value(t, registry, name); got != want {
			t.Errorf("%s is %g, want %g", name, got, want)
		}
	}
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
}

// TestClientOfChunksGone: all of them are cancelled, and the client is counted once.
func TestClientOfChunksGone(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	registry := prometheus.NewRegistry()
	f := start(t, small(Upstream{URL: s.URL}), Options{Registerer: registry})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan reply, 1)
	go func() {
		ended <- f.send(ctx, "POST", "/v1/models/m:predict", `{"instances":[`+numbered(100)+`]}`)
	}()
	<-g.entered
	f.queued(maxChunks - 1)
	cancel()
	if got := <-ended; got.err == nil {
		t.Errorf("got %d", got.code)
	}
	until(t, "nothing is queued or running", func() bool { m := f.Models()[0]; return m.Queued == 0 && m.Running == 0 })
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
	until(t, "it is counted", func() bool {
		n, _ := value(t, registry, `flyball_batchproxy_requests_total{class="normal",code="499",model="m",protocol="v1"}`)
		return n == 1
	})
	if n, _ := value(t, registry, `flyball_batchproxy_cancelled_total{model="m",stage="in_batch"}`); n != 1 {
		t.Errorf("%g cancelled in a batch, want 1", n)
	}
	if n := len(s.seen()); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// TestAnswersThatCannotBeJoined: the request goes whole, and later ones do from the start.
func TestAnswersThatCannotBeJoined(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
		if c.rows > 4 {
			return false
		}
		fmt.Fprint(w, `{"predictions":[]}`)
		return true
	}
	cfg := small(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxWait = 0
	f := start(t, cfg, Options{})
	for range 2 {
		got := f.post("/v1/models/m:predict", `{"instances":[`+numbered(6)+`]}`)
		want(t, got, 200, `{"predictions":[`+strings.ReplaceAll(numbered(6), " ", "")+`]}`)
	}
	// The second chunk may be with the replica, or on its way, when the answer to the first cannot be joined.
	rows := slices.DeleteFunc(s.rows(), func(n int) bool { return n == 2 })
	if !slices.Equal(rows, []int{4, 6, 6}) {
		t.Errorf("batches of %v", rows)
	}
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
}

func TestOversize(t *testing.T) {
	for _, tt := range []struct {
		oversize string
		code     int
		body     string
		rows     []int
	}{
		{"split", 200, `{"predictions":[0,1,2,3,4,5]}`, []int{4, 2}},
		{"solo", 200, `{"predictions":[0,1,2,3,4,5]}`, []int{6}},
		{"reject", 413, `{"error":"model \"m\": 6 rows, 4 is the limit of one request"}`, nil},
	} {
		t.Run(tt.oversize, func(t *testing.T) {
			s := newModelServer(t)
			cfg := small(Upstream{URL: s.URL})
			cfg.Models[0].Batch.Oversize = tt.oversize
			f := start(t, cfg, Options{})
			want(t, f.post("/v1/models/m:predict", `{"instances":[0,1,2,3,4,5]}`), tt.code, tt.body)
			if diff := cmp.Diff(tt.rows, s.rows()); diff != "" {
				t.Errorf("batches: %s", diff)
			}
		})
	}
}

// TestQueueFullForALargeRequest: it is refused like any other where none of it finds room, and goes on where some does.
func TestQueueFullForALargeRequest(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	registry := prometheus.NewRegistry()
	cfg := small(Upstream{URL: s.URL})
	cfg.Limits.MaxQueue = 3
	f := start(t, cfg, Options{Registerer: registry})
	var wg sync.WaitGroup
	wg.Go(func() {
		want(t, f.post("/v1/models/m:predict", `{"instances":[`+numbered(40)+`]}`), 200, `{"predictions":[`+numbered(40)+`]}`)
	})
	<-g.entered
	f.queued(3)
	if got := f.post("/v1/models/m:predict", `{"instances":[`+numbered(40)+`]}`); got.code != 429 || got.header.Get("Retry-After") == "" {
		t.Errorf("got %d %v", got.code, got.header)
	}
	close(g.open)
	wg.Wait()
	if n, _ := value(t, registry, `flyball_batchproxy_shed_total{model="m",reason="queue_full"}`); n != 1 {
		t.Errorf("%g were shed, want 1", n)
	}
}

// TestJoinedAnswerIsBounded: a request cannot make the proxy hold more than an answer may have.
func TestJoinedAnswerIsBounded(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
		fmt.Fprint(w, `{"predictions":["`+strings.Repeat("x", 200)+`"`+strings.Repeat(",1", c.rows-1)+`]}`)
		return true
	}
	cfg := small(Upstream{URL: s.URL})
	cfg.Limits.MaxResponse = 1000
	f := start(t, cfg, Options{})
	want(t, f.post("/v1/models/m:predict", `{"instances":[`+numbered(400)+`]}`), 502, `{"error":"model \"m\": the answer is larger than the limit of 1000 bytes"}`)
}

// echoBinary answers an Open Inference request in binary by its own inputs.
func echoBinary(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	n := r.Header.Get("Inference-Header-Content-Length")
	text := bytes.Replace(body, []byte(`"inputs":`), []byte(`"outputs":`), 1)
	w.Header().Set("Content-Type", "application/octet-stream")
	if n != "" {
		var length int
		_, _ = fmt.Sscan(n, &length)
		w.Header().Set("Inference-Header-Content-Length", fmt.Sprint(length+1))
	}
	_, _ = w.Write(text)
}

// TestBinaryTensorsShareABatch: every client gets its own bytes, small ones and such as are not copied, in batches and in
// chunks.
func TestBinaryTensorsShareABatch(t *testing.T) {
	s := newModelServer(t)
	var calls atomic.Int64
	s.before = func(http.ResponseWriter, *http.Request, call) bool { calls.Add(1); return false }
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		echoBinary(w, r)
	})
	for _, size := range []int{16, 300 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cfg := oneModel(Upstream{URL: s.URL})
			cfg.Models[0].Batch = BatchConfig{MaxSize: 3, MaxWait: prom.Duration(100 * time.Millisecond)}
			f := start(t, cfg, Options{})
			before := calls.Load()
			send := func(id string, rows int) (string, string, reply) {
				tensor := strings.Repeat(id, rows*size)
				text := func(member string) string {
					return fmt.Sprintf(`{"id":"%s",%s:[{"name":"x","datatype":"UINT8","shape":[%d,%d],"parameters":{"binary_data_size":%d}}]}`, id, member, rows, size, rows*size)
				}
				in := text(`"inputs"`)
				return text(`"outputs"`), tensor, f.post("/v2/models/m/infer", in+tensor, "Inference-Header-Content-Length", fmt.Sprint(len(in)))
			}
			var wg sync.WaitGroup
			for id, rows := range map[string]int{"a": 1, "b": 2, "c": 7} {
				wg.Go(func() {
					text, tensor, got := send(id, rows)
					if got.code != 200 || got.body != text+tensor || got.header.Get("Inference-Header-Content-Length") != fmt.Sprint(len(text)) ||
						got.header.Get("Content-Type") != "application/octet-stream" || got.header.Get("Content-Length") != fmt.Sprint(len(text)+len(tensor)) {
						t.Errorf("%s got %d %.200s %v", id, got.code, got.body, got.header)
					}
				})
			}
			wg.Wait()
			if n := calls.Load() - before; n > 5 {
				t.Errorf("%d calls for 10 rows, 3 at a time", n)
			}
			until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
		})
	}
}

func TestHeaderLengthIsChecked(t *testing.T) {
	s := newModelServer(t)
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	body := `{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}}]}a`
	for value, message := range map[string]string{
		"1000": "Inference-Header-Content-Length: 1000 bytes, and the body has 93",
		"-1":   `Inference-Header-Content-Length: \"-1\" is not a number of bytes`,
		"9x":   `Inference-Header-Content-Length: \"9x\" is not a number of bytes`,
		"92":   "",
		"91":   "body: not JSON: unexpected EOF at byte 91",
	} {
		got := f.post("/v2/models/m/infer", body, "Inference-Header-Content-Length", value)
		if message == "" && got.code != 200 || message != "" && (got.code != 400 || !strings.Contains(got.body, message)) {
			t.Errorf("%s: got %d %s, want %s", value, got.code, got.body, message)
		}
	}
	if got := f.post("/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[1]}]}`, "Inference-Header-Content-Length", "67"); got.code != 200 {
		t.Errorf("all of it JSON, and said so: got %d %s", got.code, got.body)
	}
}

// TestSharedTensorsAreKept: an answer that tensors are written from is there until the last client has them, and one of which a
// client has only a small part is not kept by it.
func TestSharedTensorsAreKept(t *testing.T) {
	for _, tt := range []struct {
		name string
		size []int // of the clients' tensors
		want int32 // clients that keep the answer
	}{
		{"small", []int{100, 100}, 0},
		{"large", []int{worthSharing, worthSharing}, 2},
		{"one of them large", []int{worthSharing, 10}, 1},
		{"large, and a small part", []int{worthSharing, worthSharing * 10}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := New(oneModel(Upstream{URL: "http://replica"}), Options{})
			if err != nil {
				t.Fatal(err)
			}
			m := p.models["m"]
			var members []*request
			rows := 0
			for _, size := range tt.size {
				parsed, err := protocol.OIP{}.Parse(protocol.Message{Body: fmt.Appendf(nil, `{"inputs":[{"name":"x","datatype":"UINT8","shape":[%d],"data":[0%s]}]}`, size, strings.Repeat(",0", size-1))})
				if err != nil {
					t.Fatal(err)
				}
				members = append(members, &request{protocol: protocol.OIP{}, parsed: parsed, body: p.buffers.get(), demand: m.demand("oip", m.normal), done: make(chan struct{})})
				rows += size
			}
			text := fmt.Sprintf(`{"outputs":[{"name":"y","datatype":"UINT8","shape":[%d],"parameters":{"binary_data_size":%d}}]}`, rows, rows)
			body := p.buffers.get()
			body.b = append(append(body.b, text...), make([]byte, rows)...)
			resp := &response{code: 200, header: http.Header{protocol.HeaderLength: {fmt.Sprint(len(text))}}, body: body}
			if err := m.deliverParts(resp, members); err != nil {
				t.Fatal(err)
			}
			if kept := body.refs.Load() - 1; kept != tt.want {
				t.Errorf("%d clients keep the answer, want %d", kept, tt.want)
			}
			for _, r := range members {
				r.answer.release()
			}
			if left := body.refs.Load(); left != 1 {
				t.Errorf("%d references are left, want the test's own", left)
			}
		})
	}
}
