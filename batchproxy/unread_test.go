package batchproxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// padded is a v1 request of these rows that is large enough not to be read; with broken it is no JSON, which shows who read it.
func padded(rows, broken string) string {
	return `{"instances":[` + rows + `],"signature_name":"` + strings.Repeat("x", unreadFrom) + `"` + broken + `}`
}

const broken = `,,`

// learning is a configuration of a model m with the defaults.
func learning(upstreams ...Upstream) Config {
	cfg := oneModel(upstreams...)
	cfg.Models[0].Batch = DefaultModelConfig().Batch
	return cfg
}

// switchOff has the batcher of the model find that batching does not pay.
func (f *front) switchOff() {
	m := f.models["m"]
	m.mu.Lock()
	defer m.mu.Unlock()
	for range probeFirst {
		for _, n := range []int{1, 4} {
			m.batcher.Answered(time.Now(), []byte("a"), n, ms(2*float64(n)))
		}
	}
	if !m.batcher.off {
		f.t.Fatalf("batching is not off: %+v", m.batcher.service)
	}
}

// TestUnreadWhereBatchingDoesNotPay: a model that does not gain gets large requests as they are, and as many at once as come. Small
// ones are checked as ever.
func TestUnreadWhereBatchingDoesNotPay(t *testing.T) {
	s, g := newModelServer(t), newGate()
	s.before = g.hold
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	f.switchOff()
	if got := f.post("/v1/models/m:predict", `{"instances":[1]`+broken+`}`); got.code != 400 {
		t.Errorf("a small one: %d %s", got.code, got.body)
	}
	bodies := []string{padded("1", broken), padded("2", broken), padded("3", broken), `{"instances":[4]}`}
	answers := make(chan []reply, 1)
	go func() { answers <- f.postAll("/v1/models/m:predict", bodies...) }()
	for range bodies {
		<-g.entered // all of them, with none answered
	}
	close(g.open)
	for i, got := range <-answers {
		if text := fmt.Sprintf("[%d]", i+1); got.code != 200 || !strings.Contains(got.body, text) || got.header.Get("X-Flyball-Batch-Size") != "1" {
			t.Errorf("%d: %d %.80s", i, got.code, got.body)
		}
	}
	for _, c := range s.seen() {
		if len(c.body) > unreadFrom && !strings.HasSuffix(c.body, broken+"}") {
			t.Errorf("not as it came: ...%s", c.body[len(c.body)-20:])
		}
	}
}

// TestLimitStaysWhereOneWasSet: who has set how many batches a replica has at once, or an order of requests, keeps that.
func TestLimitStaysWhereOneWasSet(t *testing.T) {
	for name, set := range map[string]func(*ModelConfig){
		"inflight":   func(c *ModelConfig) { c.Inflight = 2 },
		"slo":        func(c *ModelConfig) { c.Batch.SLO = 1e12 },
		"tenants":    func(c *ModelConfig) { c.Queue.TenantHeader = "X-Tenant" },
		"priorities": func(c *ModelConfig) { c.Priorities = []Priority{{Name: "normal", Budget: 1e9}} },
	} {
		t.Run(name, func(t *testing.T) {
			s, g := newModelServer(t), newGate()
			s.before = g.hold
			cfg := learning(Upstream{URL: s.URL})
			set(&cfg.Models[0])
			f := start(t, cfg, Options{})
			f.switchOff()
			answers := make(chan []reply, 1)
			go func() {
				answers <- f.postAll("/v1/models/m:predict", padded("1", ""), padded("2", ""), padded("3", ""), padded("4", ""))
			}()
			atOnce := max(int(cfg.Models[0].Inflight), 1)
			f.queued(4 - atOnce)
			f.running(atOnce)
			close(g.open)
			for i, got := range <-answers {
				want(t, got, 200, fmt.Sprintf(`{"predictions":[%d]}`, i+1))
			}
		})
	}
}

// TestUnreadOfOneClient: a client that has the model to itself has its large requests sent on unread, until there is another.
func TestUnreadOfOneClient(t *testing.T) {
	s, g := newModelServer(t), newGate()
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	for i := range solitary {
		if got := f.post("/v1/models/m:predict", padded("1", broken)); got.code != 400 {
			t.Errorf("after %d: %d %.80s", i, got.code, got.body)
		}
		want(t, f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, i)), 200, fmt.Sprintf(`{"predictions":[%d]}`, i))
	}
	if got := f.post("/v1/models/m:predict", padded("1", broken)); got.code != 200 || len(s.seen()) != solitary+1 {
		t.Errorf("%d %.80s", got.code, got.body)
	}
	s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		return strings.Contains(c.body, "held") && g.hold(w, r, c)
	}
	other := make(chan reply, 1)
	go func() { other <- f.post("/v1/models/m:predict", `{"instances":["held"]}`) }()
	<-g.entered
	if got := f.post("/v1/models/m:predict", padded("1", broken)); got.code != 400 {
		t.Errorf("beside another: %d %.80s", got.code, got.body)
	}
	close(g.open)
	want(t, <-other, 200, `{"predictions":["held"]}`)
}

// TestUnreadWithinTheLimits: what is not to be sent as it is, or not twice, or not by the class of its header, is read.
func TestUnreadWithinTheLimits(t *testing.T) {
	infer := func(members, shape, more string) string {
		return `{` + members + `"inputs":[{"name":"` + strings.Repeat("x", unreadFrom) + `","datatype":"FP32",` + shape + `}]` + more + `}`
	}
	const v1, oip = "/v1/models/m:predict", "/v2/models/m/infer"
	for _, tt := range []struct {
		name, oversize, path, body string
		code                       int
		rows                       []int // of the replica's calls, the smallest first
	}{
		{"more rows than a batch", oversizeSplit, v1, padded(numbered(10), ""), 200, []int{2, 4, 4}},
		{"more rows than are taken", oversizeReject, v1, padded(numbered(10), ""), 413, nil},
		{"more rows, as they are", oversizeSolo, v1, padded(numbered(10), ""), 200, []int{10}},
		{"no more", oversizeReject, v1, padded(numbered(4), ""), 200, []int{4}},
		{"tensors", oversizeSplit, oip, infer("", `"shape":[6,1],"data":[1,2,3,4,5,6]`, ""), 200, []int{2, 4}},
		{"part of a sequence", oversizeSplit, oip, infer(`"parameters":{"sequence_id":7},`, `"shape":[1,1],"data":[1]`, ""), 500, []int{1}},
		{"none", oversizeSplit, oip, infer("", `"shape":[1,1],"data":[1]`, ""), 502, []int{1, 1}},
		{"a deadline", oversizeSplit, oip, infer(`"parameters":{"timeout":1},`, `"shape":[1,1],"data":[1]`, ""), 504, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newModelServer(t)
			s.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
				if tt.code != 200 {
					w.WriteHeader(max(tt.code, 500))
				}
				return tt.code != 200
			}
			cfg := learning(Upstream{URL: s.URL})
			cfg.Models[0].Batch.MaxSize, cfg.Models[0].Batch.Oversize = 4, tt.oversize
			f := start(t, cfg, Options{})
			f.switchOff()
			got, rows := f.post(tt.path, tt.body), s.rows()
			slices.Sort(rows)
			if diff := cmp.Diff(tt.rows, rows); got.code != tt.code || diff != "" {
				t.Errorf("%d %.80s %s", got.code, got.body, diff)
			}
		})
	}
}

// TestUnreadNeverMerge: nothing is known of the rows of requests that are sent on unread, so they do not share a batch, whatever
// becomes of batching while they wait, and however long that is.
func TestUnreadNeverMerge(t *testing.T) {
	s, g := newModelServer(t), newGate()
	s.before = g.hold
	cfg := learning(Upstream{URL: s.URL})
	cfg.Models[0].Inflight = 1
	f := start(t, cfg, Options{})
	f.switchOff()
	answers := make(chan []reply, 1)
	go func() {
		answers <- f.postAll("/v1/models/m:predict", padded("1", ""), padded("2", ""), padded("3", ""), padded("4", ""))
	}()
	f.queued(3)
	f.running(1)
	m := f.models["m"]
	m.mu.Lock()
	now := time.Now()
	m.batcher.Forget(now) // the replica is another one, and batching is on again
	clear(m.batcher.alone)
	for _, l := range m.batcher.lanes {
		l.alone = now.Add(-time.Second)
	}
	m.mu.Unlock()
	close(g.open)
	for i, got := range <-answers {
		want(t, got, 200, fmt.Sprintf(`{"predictions":[%d]}`, i+1))
	}
}
