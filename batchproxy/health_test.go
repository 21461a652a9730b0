package batchproxy

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	prom "github.com/prometheus/common/model"
)

func TestChecks(t *testing.T) {
	rule := HealthConfig{Unhealthy: 3, Healthy: 2}
	for _, tt := range []struct{ name, checks, want string }{
		{"passing", "++++", "++++"},
		{"two failures are none", "--+--+", "++++++"},
		{"three are", "---", "++-"},
		{"one is not enough to come back", "---+-++", "++----+"},
	} {
		var c checks
		got := ""
		for _, one := range tt.checks {
			before := c.failed
			if changed := c.add(rule, one == '+'); changed != (before != c.failed) {
				t.Errorf("%s: changed is %t, from %t to %t", tt.name, changed, before, c.failed)
			}
			got += map[bool]string{true: "-", false: "+"}[c.failed]
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// aModel is the model of a proxy that does not run, with replicas at addresses that nobody is asked at.
func aModel(t *testing.T, change func(*ModelConfig), replicas int) *model {
	t.Helper()
	cfg := oneModel()
	for i := range replicas {
		cfg.Models[0].Upstreams = append(cfg.Models[0].Upstreams, Upstream{URL: fmt.Sprintf("http://10.0.0.%d:8000", i+1)})
	}
	change(&cfg.Models[0])
	p, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p.models["m"]
}

// TestEjection drives the model of some replicas through answers: a digit is the replica that worked, with a letter after
// it that it failed (x), was ten times too slow (s) or gave no answer in time (t); a dot is ten seconds.
func TestEjection(t *testing.T) {
	for _, tt := range []struct {
		name     string
		replicas int
		calls    string
		want     string // + is sent to, - is not, ? is to be tried
	}{
		{"four errors are not enough", 2, "0x0x0x0x", "++"},
		{"five are", 2, "0x0x0x0x0x", "-+"},
		{"one after the other", 2, "0x0x0x0x00x0x", "++"},
		{"never the last", 1, "0x0x0x0x0x0x0x", "+"},
		{"at most half", 3, "0x0x0x0x0x1x1x1x1x1x", "-++"},
		{"half", 4, "0x0x0x0x0x1x1x1x1x1x2x2x2x2x2x", "--++"},
		{"half a minute", 2, "0x0x0x0x0x..", "-+"},
		{"then it is tried", 2, "0x0x0x0x0x...", "?+"},
		{"and is back", 2, "0x0x0x0x0x...0", "++"},
		{"or is out for twice as long", 2, "0x0x0x0x0x...0x.....", "-+"},
		{"and is tried again", 2, "0x0x0x0x0x...0x......", "?+"},
		{"later it begins anew", 2, "0x0x0x0x0x...0" + "..............................." + "0x0x0x0x0x...", "?+"},
		{"but not soon after", 2, "0x0x0x0x0x...0" + ".." + "0x0x0x0x0x...", "-+"},
		{"slow", 3, "012012012012012" + "0s0s0s0s0s", "-++"},
		{"slow as all others are", 2, "0s1s0s1s0s1s0s1s0s1s0s1s", "++"},
		{"slow alone", 1, "00000" + "0s0s0s0s0s0s", "+"},
		{"slow once", 3, "012012012012012" + "0s0s0s0s00s", "+++"},
		{"no answer while others give one", 2, "10t", "-+"},
		{"no answer as of all others", 2, "0t", "++"},
		{"no answer while the other is out as slow", 2, "0101010101" + "1s1s1s1s1s" + "10t", "-+"},
		{"errors while the other is out as slow", 2, "0101010101" + "1s1s1s1s1s" + "0x0x0x0x0x", "-+"},
		{"errors while the other is out for errors", 2, "1x1x1x1x1x" + "0x0x0x0x0x", "+-"},
		{"slow while the other is out as slow", 3, "012012012012012" + "1s1s1s1s1s" + "2s2s2s2s2s", "+-+"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := aModel(t, func(*ModelConfig) {}, tt.replicas)
			now := time.Unix(1000, 0)
			for i := 0; i < len(tt.calls); i++ {
				if tt.calls[i] == '.' {
					now = now.Add(10 * time.Second)
					continue
				}
				r := m.picker.replicas[tt.calls[i]-'0']
				how, ratio, began := worked, 1.0, now
				now = now.Add(time.Millisecond)
				if i+1 < len(tt.calls) {
					switch tt.calls[i+1] {
					case 'x':
						how, ratio, i = erred, 0, i+1
					case 's':
						ratio, i = 10, i+1
					case 't':
						how, ratio, began, i = timedOut, 0, now.Add(-time.Minute), i+1
					}
				}
				m.judge(now, r, how, ratio, began)
			}
			got := ""
			for _, r := range m.picker.replicas {
				switch {
				case !r.ready(now):
					got += "-"
				case r.outlier.halfOpen:
					got += "?"
				default:
					got += "+"
				}
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestHealthChecks: a replica that says that it is not well is sent nothing until it says that it is, and the others are asked
// at the path below their URL's.
func TestHealthChecks(t *testing.T) {
	var ill atomic.Bool
	var asked atomic.Int64
	a, b := newModelServer(t), newModelServer(t)
	a.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		if c.path != "/base/health" {
			return false
		}
		asked.Add(1)
		if ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return true
	}
	cfg := oneModel(Upstream{URL: a.URL + "/base"}, Upstream{URL: b.URL})
	cfg.Models[0].Health = HealthConfig{Path: "/health", Interval: prom.Duration(time.Millisecond), Timeout: prom.Duration(5 * time.Second), Unhealthy: 3, Healthy: 1}
	registry := prometheus.NewRegistry()
	f := start(t, cfg, Options{Registerer: registry})
	ready := func(n int) {
		t.Helper()
		until(t, fmt.Sprintf("%d ready", n), func() bool { return f.Models()[0].Ready == n })
	}
	underLoad(t, f, func(*atomic.Int64) {
		until(t, "it is asked", func() bool { return asked.Load() > 3 })
		ready(2)
		ill.Store(true)
		ready(1)
		healthy := f.metrics.healthy.WithLabelValues("m", a.URL+"/base")
		until(t, "its series is 0", func() bool { return testutil.ToFloat64(healthy) == 0 })
		ill.Store(false)
		ready(2)
		until(t, "its series is 1", func() bool { return testutil.ToFloat64(healthy) == 1 })
	})
}

// TestHealthCheckOfOneThatHangs: no answer is a failure, after the timeout.
func TestHealthCheckOfOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := aModel(t, func(c *ModelConfig) { c.Health.Path = "/health" }, 2)
		m.proxy.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "10.0.0.1:8000" {
				<-r.Context().Done() // stopped, with its connections open
				return nil, r.Context().Err()
			}
			return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
		})
		ctx, began := t.Context(), time.Now()
		done := make(chan struct{})
		go func() { defer close(done); m.check(ctx) }()
		time.Sleep(10500 * time.Millisecond) // two checks; the third ends at 11 s
		if n := m.status().Ready; n != 2 {
			t.Errorf("%d ready after %s, want 2", n, time.Since(began))
		}
		time.Sleep(time.Second)
		if n := m.status().Ready; n != 1 {
			t.Errorf("%d ready after %s, want 1", n, time.Since(began))
		}
		if diff := cmp.Diff([]bool{true, false}, []bool{m.picker.replicas[0].checks.failed, m.picker.replicas[1].checks.failed}); diff != "" {
			t.Error(diff)
		}
		m.timer.Stop()
		t.Cleanup(func() { <-done })
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
