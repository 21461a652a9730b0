package batchproxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	prom "github.com/prometheus/common/model"
)

// asks has the proxy learn what the replicas of its model know, with a request, which goes as JSON.
func (f *front) asks(inBinary bool) {
	f.t.Helper()
	if got := f.post(inferPath, vector("FP32", "0", 1, "")); got.code != 200 {
		f.t.Errorf("%d %.100s", got.code, got.body)
	}
	m := f.models["m"]
	until(f.t, "all replicas have answered what they know", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return !slices.ContainsFunc(m.picker.replicas, func(r *replica) bool { return r.extension.asking || r.extension.again.IsZero() })
	})
	if got := f.explain("m").Binary; got != inBinary {
		f.t.Errorf("in binary: %t", got)
	}
}

func (f *front) explain(model string) Explanation { return f.models[model].explain() }

// TestBinaryTensors: once the replica has said that it knows the extension it is sent in binary what clients send as JSON, alone and in batches, with
// those of clients that send binary themselves; and clients are answered what the replica answers to JSON.
func TestBinaryTensors(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	registry := prometheus.NewRegistry()
	f := start(t, learning(Upstream{URL: s.URL}), Options{Registerer: registry})
	f.asks(true)
	direct := *f
	direct.url = s.URL
	for _, body := range []string{
		vector("FP32", "-0.1", 1, ""), vector("FP32", "1e-3", 3, `"id":"7",`), vector("INT64", "9007199254740993", 1, `"parameters":{"a":1},`),
	} {
		want(t, f.post(inferPath, body), 200, direct.post(inferPath, body).body)
	}
	if got, want := s.forms(), "j1 b1 j1 b3 j3 b1 j1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	text, _, _ := strings.Cut(vector("FP32", "1", 1, ""), `"data"`)
	text += fmt.Sprintf(`"parameters":{"binary_data_size":%d}}]}`, 4*binaryFrom)
	raw := make([]byte, 4*binaryFrom)
	binary.LittleEndian.PutUint32(raw, math.Float32bits(7))

	together := oneModel(Upstream{URL: s.URL})
	together.Models[0].BinaryTensors, together.Models[0].Batch.MaxSize, together.Models[0].Batch.MaxWait = binaryAlways, 3, prom.Duration(time.Minute)
	b := start(t, together, Options{})
	var all sync.WaitGroup
	for i, first := range []string{"5", "6"} {
		all.Go(func() {
			got := b.post(inferPath, vector("FP32", first, 1, ""))
			if got.code != 200 || !strings.Contains(got.body, `"data":[`+first+`,0,`) {
				t.Errorf("%d: %d %.200s", i, got.code, got.body)
			}
		})
	}
	all.Go(func() {
		got := b.post(inferPath, text+string(raw), "Inference-Header-Content-Length", strconv.Itoa(len(text)))
		if got.code != 200 || !strings.Contains(got.body, `"data":[7,0,`) {
			t.Errorf("in binary: %d %.200s", got.code, got.body)
		}
	})
	all.Wait()
	if got, want := s.forms(), "j1 b1 j1 b3 j3 b1 j1 b3"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if n := testutil.ToFloat64(f.metrics.binary); n != 3 {
		t.Errorf("%v requests in binary", n)
	}
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
}

// TestBinaryTensorsAreNotSent: to replicas of which one does not know them, in rows of few numbers, or where the operator does not want that.
func TestBinaryTensorsAreNotSent(t *testing.T) {
	for _, tt := range []struct {
		name     string
		metadata []string // of the replicas
		set      string
		want     bool
		asked    int // at least
	}{
		{"known", []string{knowsBinary}, "", true, 1},
		{"known to all", []string{knowsBinary, knowsBinary}, binaryAuto, true, 2},
		{"to one of two", []string{knowsBinary, `{"extensions":[]}`}, binaryAuto, false, 2},
		{"no metadata", []string{""}, binaryAuto, false, 1},
		{"no JSON", []string{"<html>binary_tensor_data"}, binaryAuto, false, 1},
		{"another form", []string{`{"extensions":"binary_tensor_data"}`}, binaryAuto, false, 1},
		{"never", []string{knowsBinary}, binaryNever, false, 0},
		{"always", []string{""}, binaryAlways, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var servers []*tensorServer
			var upstreams []Upstream
			for _, metadata := range tt.metadata {
				s := newTensorServer(t, metadata)
				servers, upstreams = append(servers, s), append(upstreams, Upstream{URL: s.URL})
			}
			cfg := learning(upstreams...)
			cfg.Models[0].BinaryTensors = tt.set
			f := start(t, cfg, Options{})
			if tt.asked > 0 {
				f.asks(tt.want)
			}
			for range 4 {
				if got := f.post(inferPath, vector("FP32", "3", 1, "")); got.code != 200 || !strings.Contains(got.body, `"data":[3,0,`) {
					t.Errorf("%d %.100s", got.code, got.body)
				}
				few := `{"inputs":[{"name":"x","shape":[64,8],"datatype":"FP32","data":[1` + strings.Repeat(",0", 511) + `]}]}`
				if got := f.post(inferPath, few); got.code != 200 {
					t.Errorf("rows of few numbers: %d %.100s", got.code, got.body)
				}
			}
			asked, inBinary := 0, 0
			for _, s := range servers {
				s.mu.Lock()
				asked += s.asked
				for i, b := range s.binary {
					if b {
						inBinary++
						if strings.Contains(s.texts[i], fmt.Sprintf(`,%d]`, 8)) {
							t.Errorf("in binary: %s", s.texts[i])
						}
					}
				}
				s.mu.Unlock()
			}
			if asked != tt.asked || tt.want != (inBinary > 0) {
				t.Errorf("%d in binary, asked %d times", inBinary, asked)
			}
		})
	}
}

// TestBinaryTensorsRefused: what a replica does not take in binary it is sent as the client wrote it, and after three in a row none goes in binary
// for a while.
func TestBinaryTensorsRefused(t *testing.T) {
	for _, code := range []int{400, 415, 422, 500, 501} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			s := newTensorServer(t, knowsBinary)
			s.refuse = func(inBinary bool, _ string) int {
				if inBinary {
					return code
				}
				return 0
			}
			var lines bytes.Buffer
			f := start(t, learning(Upstream{URL: s.URL}), Options{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
			f.asks(true)
			for range 5 {
				if got := f.post(inferPath, vector("FP32", "3", 1, "")); got.code != 200 || !strings.Contains(got.body, `"data":[3,0,`) {
					t.Errorf("%d %.100s", got.code, got.body)
				}
			}
			want := "j1 b1 j1 b1 j1 b1 j1 j1 j1"
			if code >= 500 { // which is sent once more first
				want = "j1 b1 b1 j1 b1 b1 j1 b1 b1 j1 j1 j1"
			}
			if got := s.forms(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			m := f.models["m"]
			m.mu.Lock()
			if n := strings.Count(lines.String(), "refused in binary"); n != 1 {
				t.Errorf("%d lines: %s", n, &lines)
			}
			m.mu.Unlock()
			x := &m.picker.replicas[0].extension
			for range 2 * binaryRefusals { // of those that were under way
				m.refusedBinary(&request{batch: &batch{replica: m.picker.replicas[0]}}, 200)
			}
			m.mu.Lock()
			if x.refused > 0 || x.rests != 1 {
				t.Errorf("refusals count after the decision: %+v", x)
			}
			first := time.Until(x.again)
			x.again = time.Now() // that while is over
			m.mu.Unlock()
			f.asks(true)
			for range 3 {
				f.post(inferPath, vector("FP32", "3", 1, ""))
			}
			m.mu.Lock()
			if second := time.Until(x.again); first < shortestBinaryRest/2 || second < first*3/2 {
				t.Errorf("%v, then %v without", first, second)
			}
			m.mu.Unlock()
			if n := testutil.ToFloat64(f.metrics.binaryRefused); n != 12 {
				t.Errorf("%v counted", n)
			}
			until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
		})
	}
}

// TestBinaryTensorsOfWrongRequests: a request that is wrong either way is answered as the client wrote it, and nothing else is made of it; neither is of
// one that failed once.
func TestBinaryTensorsOfWrongRequests(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	s.refuse = func(inBinary bool, text string) int {
		switch {
		case strings.Contains(text, "wrong"):
			return 400
		case strings.Contains(text, "flaky") && inBinary:
			return 500
		}
		return 0
	}
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	f.asks(true)
	for range 2 * binaryRefusals {
		want(t, f.post(inferPath, vector("FP32", "3", 1, `"id":"wrong",`)), 400, `{"error":"refused, in binary: false"}`)
	}
	for range 2 * binaryRefusals {
		for _, id := range []string{"flaky", "right"} {
			if got := f.post(inferPath, vector("FP32", "3", 1, `"id":"`+id+`",`)); got.code != 200 {
				t.Errorf("%s: %d %.100s", id, got.code, got.body)
			}
		}
	}
	if !f.explain("m").Binary {
		t.Error("not in binary any more")
	}
	for _, code := range []int{401, 404, 429, 503} {
		before := len(s.forms())
		s.refuse = func(bool, string) int { return code }
		if got := f.post(inferPath, vector("FP32", "3", 1, "")); got.code != code {
			t.Errorf("%d, want %d", got.code, code)
		}
		if got := s.forms()[before:]; strings.Contains(got, "j") {
			t.Errorf("%d: %s", code, got)
		}
	}
}

// TestBinaryAnswers: a client that sends JSON is answered in JSON, unless it wants binary.
func TestBinaryAnswers(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	f.asks(true)
	got := f.post(inferPath, vector("FP32", "3", 1, `"parameters":{"binary_data_output":true},`))
	if got.code != 200 || got.header.Get("Inference-Header-Content-Length") == "" || len(got.body) < 4*binaryFrom {
		t.Errorf("%d %v %.200q", got.code, got.header, got.body)
	}
	if got, want := s.forms(), "j1 b1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s.always = true
	f.post(inferPath, vector("FP32", "3", 1, ""))
	if got, want := s.forms(), "j1 b1 b1 j1"; got != want { // so that it is no worse than without
		t.Errorf("%s, want %s", got, want)
	}
}

// TestBinaryTensorsWhereTheyCannotBe: requests that have none, or more rows than a batch, go as they are; and where all are so, none is tried for a while.
func TestBinaryTensorsWhereTheyCannotBe(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	cfg := learning(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxSize = 4
	f := start(t, cfg, Options{})
	f.asks(true)
	if got := f.post(inferPath, vector("FP32", "3", 6, "")); got.code != 200 || strings.Count(got.body, "3,0,") != 6 {
		t.Errorf("%d %.200s", got.code, got.body)
	}
	if got := s.forms(); strings.Contains(got, "b") || !strings.HasPrefix(got, "j1 j") {
		t.Error(got)
	}
	m := f.models["m"]
	misses := func() pause {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.noBinary
	}
	if got := misses(); got != (pause{}) {
		t.Errorf("%+v", got)
	}
	large := strings.Repeat(" ", earlyFrom)
	for range 4 {
		f.post(inferPath, vector("FP32", "1e39", 1, ""))
	}
	if got := misses(); got != (pause{}) {
		t.Errorf("of small ones: %+v", got)
	}
	for range 4 {
		f.post(inferPath, vector("FP32", "1e39", 1, "")+large)
	}
	if got := misses(); got != (pause{missed: 2, rest: 1}) {
		t.Errorf("%+v", got)
	}
	for range 4 {
		f.post(inferPath, vector("FP32", "3", 1, "")+large)
	}
	if got := misses(); got.rest > 0 || got.missed > 0 {
		t.Errorf("%+v", got)
	}
	if got := f.post(inferPath, strings.Replace(vector("FP32", "3", 1, ""), "[3,", "[3,,", 1)); got.code != 400 || !strings.Contains(got.body, "not JSON") {
		t.Errorf("%d %.200s", got.code, got.body)
	}
}

// TestBinaryTensorsOfThoseThatGo: a client that goes is no refusal, and its bytes are given back; what is queued with a priority of its body counts
// by that.
func TestBinaryTensorsOfThoseThatGo(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	entered, open := make(chan bool, 10), make(chan struct{})
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	f.asks(true)
	s.refuse = func(bool, string) int {
		entered <- true
		<-open
		return 0
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan reply, 1)
	go func() {
		gone <- f.send(ctx, http.MethodPost, inferPath, vector("FP32", "3", 1, `"parameters":{"priority":1},`))
	}()
	<-entered
	if n := testutil.ToFloat64(f.metrics.running.WithLabelValues("m", "oip", "critical")); n != 1 {
		t.Errorf("%v running", n)
	}
	cancel()
	<-gone
	close(open)
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
	if got, want := s.forms(), "j1 b1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestBinaryTensorsWithReplicas: a replica that cannot be reached does not matter, one that is new is asked, and a new configuration goes on with what
// is known.
func TestBinaryTensorsWithReplicas(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	cfg := learning(Upstream{URL: s.URL}, Upstream{URL: "http://" + refusing(t)})
	f := start(t, cfg, Options{})
	m := f.models["m"]
	m.mu.Lock()
	dead := m.picker.replicas[1]
	dead.checks.failed = true
	m.mu.Unlock()
	f.post(inferPath, vector("FP32", "3", 1, ""))
	until(t, "known", func() bool { return f.explain("m").Binary })
	m.knows(dead, false, nil)
	if !f.explain("m").Binary {
		t.Error("not in binary, as one that cannot be reached says no")
	}
	m.mu.Lock()
	dead.checks.failed, dead.extension = false, extension{}
	m.mu.Unlock()
	f.post(inferPath, vector("FP32", "3", 1, ""))
	until(t, "asked, and to be asked again soon", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		again := time.Until(dead.extension.again)
		return !dead.extension.asking && again > 0 && again <= binaryAskSoon
	})
	for _, say := range []bool{false, true} { // one that has not said is as the others are
		if !f.explain("m").Binary {
			t.Error("not in binary")
		}
		m.mu.Lock()
		dead.bench = time.Time{}
		m.mu.Unlock()
		m.knows(dead, say, nil)
		if got := f.explain("m").Binary; got != say {
			t.Errorf("in binary: %t where one says %t", got, say)
		}
		m.mu.Lock()
		dead.extension = extension{again: time.Now().Add(time.Hour)}
		m.mu.Unlock()
	}
	next, err := New(oneModel(Upstream{URL: s.URL}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	next.models["m"].inherit(m)
	if !next.models["m"].explain().Binary {
		t.Error("not inherited")
	}
}

// TestBinaryTensorsWithoutRoom: where the bodies held have no room for a request twice, it goes as it is.
func TestBinaryTensorsWithoutRoom(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	f.asks(true)
	body := vector("FP32", "3", 1, "")
	f.config.Limits.MaxInflightBytes = 1200
	if got := f.post(inferPath, body); got.code != 200 {
		t.Errorf("%d %.100s", got.code, got.body)
	}
	if got, want := s.forms(), "j1 j1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
}

// TestBinaryTensorsCostNobodyElse: what is refused in binary costs other clients, tenants and replicas nothing, and its own client neither a header nor time.
func TestBinaryTensorsCostNobodyElse(t *testing.T) {
	s := newTensorServer(t, knowsBinary)
	f := start(t, learning(Upstream{URL: s.URL}), Options{})
	f.asks(true)
	m := f.models["m"]
	for _, header := range [][]string{ // the replica is to have them, or they are of the body as it is
		{"Connection", "Inference-Header-Content-Length"}, {"Connection", "Content-Type"}, {"Content-Digest", "sha-256=:x:"}, {"Digest", "x"}, {"Content-MD5", "x"},
	} {
		before := testutil.ToFloat64(f.metrics.binary)
		if got := f.post(inferPath, vector("FP32", "3", 1, ""), header...); got.code != 200 || testutil.ToFloat64(f.metrics.binary) != before {
			t.Errorf("%v: %d, %s", header, got.code, s.forms())
		}
	}
	t.Run("a limit", func(t *testing.T) { // of bytes, which numbers in JSON keep and in binary do not
		before := len(s.forms())
		s.refuse = func(inBinary bool, _ string) int { return map[bool]int{true: 413}[inBinary] }
		if got := f.post(inferPath, vector("INT64", "3", 1, "")); got.code != 200 || s.forms()[before:] != " b1 j1" {
			t.Errorf("%d %s", got.code, s.forms()[before:])
		}
	})
	t.Run("tenants", func(t *testing.T) {
		s.refuse = func(inBinary bool, _ string) int { return map[bool]int{true: 400}[inBinary] }
		together := oneModel(Upstream{URL: s.URL})
		together.Models[0].BinaryTensors, together.Models[0].Batch.MaxSize, together.Models[0].Batch.MaxWait = binaryAlways, 4, prom.Duration(time.Minute)
		b := start(t, together, Options{})
		body := vector("FP32", "3", 1, "")
		// Sent once more as JSON they fill a batch again.
		for i, got := range b.postAll(inferPath, body, body, body, body) {
			if got.code != 200 {
				t.Errorf("%d: %d %.100s", i, got.code, got.body)
			}
		}
		if n := testutil.ToFloat64(b.metrics.poisoned); n > 0 {
			t.Errorf("%v count as poisoned", n)
		}
	})
	t.Run("the budget", func(t *testing.T) {
		s.refuse = func(bool, string) int { return 500 }
		m.mu.Lock()
		m.budget.tokens = 0
		m.picker.replicas[0].extension = extension{known: true}
		m.mu.Unlock()
		before := len(s.forms())
		if got := f.post(inferPath, vector("FP32", "3", 1, "")); got.code != 502 || strings.Contains(s.forms()[before:], "j") {
			t.Errorf("%d %s", got.code, s.forms()[before:])
		}
	})
	t.Run("the deadline", func(t *testing.T) {
		s.refuse = func(inBinary bool, _ string) int {
			time.Sleep(150 * time.Millisecond) // a replica that is slow, not a wait for something
			return map[bool]int{true: 400}[inBinary]
		}
		m.mu.Lock()
		m.picker.replicas[0].extension = extension{known: true}
		m.mu.Unlock()
		got := f.post(inferPath, vector("FP32", "3", 1, ""), "X-Flyball-Deadline-Ms", "250")
		if got.code != 504 && got.code != 503 {
			t.Errorf("%d %.100s", got.code, got.body)
		}
	})
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
}

// TestBinaryTensorsRefusedByOne: a replica that refuses what others take is found out, however often they take it.
func TestBinaryTensorsRefusedByOne(t *testing.T) {
	liar := newTensorServer(t, knowsBinary)
	liar.refuse = func(inBinary bool, _ string) int { return map[bool]int{true: 400}[inBinary] }
	f := start(t, learning(Upstream{URL: newTensorServer(t, knowsBinary).URL}, Upstream{URL: liar.URL}), Options{})
	f.asks(true)
	for range 40 {
		if got := f.post(inferPath, vector("FP32", "3", 1, "")); got.code != 200 {
			t.Errorf("%d %.100s", got.code, got.body)
		}
	}
	if n := strings.Count(liar.forms(), "b"); n != binaryRefusals || f.explain("m").Binary {
		t.Errorf("%d in binary: %s", n, liar.forms())
	}
	m := f.models["m"]
	m.mu.Lock()
	m.picker.replicas[1].draining = true
	m.mu.Unlock()
	if !f.explain("m").Binary {
		t.Error("not in binary, for one that is draining")
	}
	m.mu.Lock()
	m.picker.replicas[1].draining = false
	m.mu.Unlock()
}
