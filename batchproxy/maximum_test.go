package batchproxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestSlidingMax: what is in the window counts, slot by slot, and nothing else.
func TestSlidingMax(t *testing.T) {
	type taken struct{ at, took time.Duration }
	for _, tt := range []struct {
		name string
		took []taken
		at   time.Duration
		want time.Duration // -1: none
	}{
		{"none", nil, time.Minute, -1},
		{"the first", []taken{{0, time.Second}}, 0, time.Second},
		{"of no time", []taken{{0, 0}}, 0, 0},
		{"the largest of a slot", []taken{{1, 2 * time.Second}, {2, 3 * time.Second}, {3, time.Second}}, 4, 3 * time.Second},
		{"the largest of the slots", []taken{{0, 9 * time.Second}, {25 * time.Second, time.Second}}, 30 * time.Second, 9 * time.Second},
		{"one that ends its window", []taken{{9 * time.Second, 9 * time.Second}}, 59*time.Second + 999*time.Millisecond, 9 * time.Second},
		{"one that has ended it", []taken{{9 * time.Second, 9 * time.Second}}, time.Minute, -1},
		{"the rest of it", []taken{{9 * time.Second, 9 * time.Second}, {10 * time.Second, time.Second}}, time.Minute, time.Second},
		{"a slot that is used again", []taken{{0, 9 * time.Second}, {60 * time.Second, time.Second}}, time.Minute, time.Second},
		{"a late one of an earlier slot", []taken{{60 * time.Second, time.Second}, {0, 9 * time.Second}}, time.Minute, time.Second},
		{"of microseconds", []taken{{0, 1234567 * time.Nanosecond}}, 0, 1234 * time.Microsecond},
		{"of a month", []taken{{0, 31 * 24 * time.Hour}}, 0, (1<<tookBits - 1) * time.Microsecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m slidingMax
			for _, x := range tt.took {
				m.take(x.at, x.took)
			}
			got, ok := m.of(tt.at)
			if !ok {
				got = -1
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// TestSlidingMaxAtOnce: of goroutines that take at once none loses the largest.
func TestSlidingMaxAtOnce(t *testing.T) {
	var m slidingMax
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 10_000 {
				m.take(0, time.Duration(i*8+g)*time.Microsecond)
			}
		})
	}
	all.Wait()
	if got, ok := m.of(0); !ok || got != 79_999*time.Microsecond {
		t.Errorf("%s, %t", got, ok)
	}
}

// TestDurationMax: a request that took long stays the largest for a minute, and is no series after it; a proxy that takes another's
// place goes on with it.
func TestDurationMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		slow := roundTripper(func(r *http.Request) (*http.Response, error) {
			took, _ := time.ParseDuration(r.Header.Get("X-Take"))
			time.Sleep(took)
			return echo{}.RoundTrip(r)
		})
		cfg := oneModel(Upstream{URL: "http://replica"})
		cfg.Models[0].Batch = BatchConfig{MaxSize: 1}
		newProxy := func() *Proxy {
			p, err := New(cfg, Options{Transport: slow, Registerer: registry})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		p := newProxy()
		ask := func(took string) {
			r := httptest.NewRequest(http.MethodPost, "/v1/models/m:predict", strings.NewReader(`{"instances":[[1]]}`))
			r.Header.Set("X-Take", took)
			w := httptest.NewRecorder()
			if p.ServeHTTP(w, r); w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		const name = "flyball_batchproxy_request_duration_max_seconds"
		is := func(want string) {
			t.Helper()
			text := ""
			if want != "" {
				text = "# HELP " + name + " " + longestHelp + "\n# TYPE " + name + " gauge\n" + name + `{class="normal",model="m",protocol="v1"} ` + want + "\n"
			}
			if err := testutil.GatherAndCompare(registry, strings.NewReader(text), name); err != nil {
				t.Error(err)
			}
		}
		is("")
		ask("1500ms")
		is("1.5")
		ask("20ms")
		is("1.5")
		time.Sleep(40 * time.Second)
		p = newProxy()
		ask("250ms")
		is("1.5")
		time.Sleep(20 * time.Second)
		is("0.25")
		time.Sleep(time.Minute)
		is("")
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestServedIn: what an answer says of the time that it took its server.
func TestServedIn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		want   time.Duration // -1: it does not
	}{
		{"nothing", http.Header{}, -1},
		{"total", http.Header{"Server-Timing": {"db;dur=1, total;dur=12.5"}}, 12500 * time.Microsecond},
		{"in the second line, with a description", http.Header{"Server-Timing": {"db;dur=1", `total;desc="all of it";dur="3"`}}, 3 * time.Millisecond},
		{"parts alone", http.Header{"Server-Timing": {"queue;dur=1, upstream;dur=2"}}, -1},
		{"total without a duration", http.Header{"Server-Timing": {"total"}}, -1},
		{"Envoy", http.Header{"X-Envoy-Upstream-Service-Time": {"7"}}, 7 * time.Millisecond},
		{"the server before its Envoy", http.Header{"Server-Timing": {"total;dur=5"}, "X-Envoy-Upstream-Service-Time": {"7"}}, 5 * time.Millisecond},
		{"Envoy twice", http.Header{"X-Envoy-Upstream-Service-Time": {"7", "8"}}, -1},
		{"negative", http.Header{"Server-Timing": {"total;dur=-1"}}, -1},
		{"no number", http.Header{"Server-Timing": {"total;dur=NaN"}}, -1},
		{"endless", http.Header{"Server-Timing": {"total;dur=+Inf"}}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := servedIn(tt.header)
			if !ok {
				got = -1
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// TestNetworkDuration: a new connection counts once for the model that it was opened for, whether the request is batched, passed on or
// too large for one write; an answer counts where it says how long it took and is believed.
func TestNetworkDuration(t *testing.T) {
	var timing atomic.Value
	timing.Store("")
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if text, _ := timing.Load().(string); text != "" {
			w.Header().Set("Server-Timing", text)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, strings.Replace(string(body), "instances", "predictions", 1))
	}))
	defer replica.Close()
	registry := prometheus.NewRegistry()
	cfg := oneModel(Upstream{URL: replica.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 1}
	p, err := New(cfg, Options{Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	defer p.transport.(*wire).CloseIdleConnections()
	counts := func() map[string]uint64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]uint64{}
		for _, f := range families {
			if f.GetName() == "flyball_batchproxy_network_duration_seconds" {
				for _, m := range f.GetMetric() {
					got[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetHistogram().GetSampleCount()
				}
			}
		}
		return got
	}
	for _, tt := range []struct {
		name, timing, path, body string
		want                     map[string]uint64
	}{
		{"a connection", "", "/v1/models/m:predict", `{"instances":[[1]]}`, map[string]uint64{"m connect": 1}},
		{"one that is kept", "", "/v1/models/m:predict", `{"instances":[[1]]}`, map[string]uint64{"m connect": 1}},
		{"an answer that says its time", "total;dur=0", "/v1/models/m:predict", `{"instances":[[1]]}`, map[string]uint64{"m connect": 1, "m response": 1}},
		{"one that cannot be", "total;dur=100000000", "/v1/models/m:predict", `{"instances":[[1]]}`, map[string]uint64{"m connect": 1, "m response": 1}},
		{"passed on", "total;dur=0", "/v2/models/m/other", `{"instances":[[1]]}`, map[string]uint64{"m connect": 1, "m response": 2}},
		{"too large to be sent at once", "total;dur=0", "/v1/models/m:predict", `{"instances":[[1` + strings.Repeat(",1", inOneWrite) + `]]}`, map[string]uint64{"m connect": 2, "m response": 2}},
	} {
		timing.Store(tt.timing)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, tt.path, strings.NewReader(tt.body)))
		if w.Code != 200 {
			t.Fatalf("%s: %d %.200s", tt.name, w.Code, w.Body)
		}
		if diff := cmp.Diff(tt.want, counts()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func BenchmarkSlidingMax(b *testing.B) {
	v := newMaxVec("max", "The largest.")
	take := v.with("m", "v1", "normal")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			now := time.Now()
			take(now, time.Duration(now.Nanosecond()))
		}
	})
}
