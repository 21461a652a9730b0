package batchproxy

import (
	"context"
	"fmt"
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
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// weighed is a replica that takes 8 ms for a batch and 0.25 ms for each row, and no more than most rows, if that is not 0.
type weighed struct {
	most int
	mu   sync.Mutex
	rows []int
}

func (d *weighed) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	rows := strings.Count(string(body), ",") + 1
	answer := func(code int, text string) (*http.Response, error) {
		return &http.Response{StatusCode: code, Header: http.Header{}, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text))}, nil
	}
	if d.most > 0 && rows > d.most {
		return answer(413, "{}")
	}
	d.mu.Lock()
	d.rows = append(d.rows, rows)
	d.mu.Unlock()
	time.Sleep(8*time.Millisecond + time.Duration(rows)*250*time.Microsecond) // of the bubble's time
	return answer(200, strings.Replace(string(body), "instances", "predictions", 1))
}

// TestReplaceKeepsWhatWasLearned: of a model that has a replica in common with the one before, whatever else of the configuration has
// changed, and of no other.
func TestReplaceKeepsWhatWasLearned(t *testing.T) {
	replicas := func(addresses ...string) []string { return addresses }
	for _, tt := range []struct {
		name          string
		before, after []string // replicas of the target; none: that of a URL
		change        func(c *Config)
		most          int // rows that replicas take; 0 is any number
		keeps         bool
		effective     int
	}{
		{name: "another model", change: func(c *Config) {
			other := DefaultModelConfig()
			other.Name, other.Upstreams = "other", []Upstream{{URL: "http://other"}}
			c.Models = append([]ModelConfig{other}, c.Models...)
		}, keeps: true, effective: 32},
		{name: "what batches are made by", change: func(c *Config) {
			c.Models[0].Batch.MaxWait, c.Models[0].Batch.MaxSize, c.Models[0].Timeout = prom.Duration(5*time.Millisecond), 16, prom.Duration(time.Second)
		}, keeps: true, effective: 16},
		{name: "the largest batch that replicas take", change: func(c *Config) { c.Models[0].Batch.MaxSize = 64 }, most: 7, keeps: true, effective: 4},
		{name: "batching no more", change: func(c *Config) { c.Models[0].Batch.Mode = ModeOff }, keeps: true, effective: 1},
		{name: "another URL", change: func(c *Config) { c.Models[0].Upstreams[0].URL = "http://b" }, effective: maxProbe},
		{name: "another path of the URL", change: func(c *Config) { c.Models[0].Upstreams[0].URL = "http://a/v2" }, effective: maxProbe},
		{name: "the same replicas of a target", before: replicas("a:1", "b:1"), after: replicas("a:1", "b:1"), keeps: true, effective: 32},
		{name: "one replica left", before: replicas("a:1", "b:1"), after: replicas("c:1", "b:1"), keeps: true, effective: 32},
		{name: "no replica left", before: replicas("a:1", "b:1"), after: replicas("c:1", "d:1"), effective: maxProbe},
		{name: "scaled to zero", before: replicas("a:1", "b:1"), after: replicas(), keeps: true, effective: 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				registry, device := prometheus.NewRegistry(), &weighed{most: tt.most}
				config := func() Config {
					cfg := oneModel(Upstream{URL: "http://a"})
					if tt.before != nil {
						cfg = oneModel(Upstream{Target: "pool"})
					}
					cfg.Models[0].Batch = DefaultModelConfig().Batch
					return cfg
				}
				var running sync.WaitGroup
				run := func(cfg Config, addresses []string) (*Proxy, context.CancelFunc, *list) {
					l := &list{current: addresses}
					p, err := New(cfg, Options{Transport: device, Endpoints: l, Registerer: registry})
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					running.Go(func() {
						if err := p.Run(ctx); err != nil {
							t.Error(err)
						}
					})
					<-p.Following()
					return p, cancel, l
				}
				p, stop, _ := run(config(), tt.before)
				var ended atomic.Bool
				var clients sync.WaitGroup
				for i := range 8 {
					clients.Go(func() {
						for !ended.Load() {
							w := httptest.NewRecorder()
							p.ServeHTTP(w, httptest.NewRequest("POST", "/v1/models/m:predict", strings.NewReader(fmt.Sprintf(`{"instances":[%d]}`, i))))
							if want := fmt.Sprintf(`{"predictions":[%d]}`, i); w.Code != 200 && w.Code != 503 || w.Code == 200 && w.Body.String() != want {
								t.Errorf("%d %s", w.Code, w.Body)
							}
							time.Sleep(time.Millisecond)
						}
					})
				}
				time.Sleep(3 * time.Second) // after two trials of whether batching pays, and long before the third
				cfg := config()
				if tt.change != nil {
					tt.change(&cfg)
				}
				next, stopNext, l := run(cfg, tt.after)
				before := explanation(t, p)
				p.Replace(next)
				after := explanation(t, next)
				device.mu.Lock()
				sent := len(device.rows)
				device.mu.Unlock()
				stop()
				if !before.Known || len(before.Lanes) != 1 || before.Lanes[0].Cycles < 20 {
					t.Fatalf("nothing was learned before: %+v", before)
				}
				if after.Effective != tt.effective {
					t.Errorf("batches of up to %d rows, want %d", after.Effective, tt.effective)
				}
				if !tt.keeps {
					if after.Known || len(after.Lanes) != 0 {
						t.Errorf("something of other replicas: %+v", after)
					}
				} else if diff := cmp.Diff(before, after, cmpopts.IgnoreFields(Explanation{}, "Mode", "MaxSize", "Effective", "Gain", "Queued", "Classes"),
					cmpopts.IgnoreFields(LaneExplanation{}, "Queued")); diff != "" {
					t.Error(diff)
				}
				if shown, _ := value(t, registry, `flyball_batchproxy_service_time_intercept_seconds{model="m"}`); (shown > 0) != tt.keeps {
					t.Errorf("the time that is shown is %v", shown)
				}
				if tt.name == "another model" { // the next batches are as those before: all eight clients
					time.Sleep(200 * time.Millisecond)
					device.mu.Lock()
					batches := device.rows[sent:]
					device.mu.Unlock()
					small := 0
					for _, rows := range batches {
						if rows < 7 {
							small++
						}
					}
					if len(batches) < 10 || small > 2 { // the change itself parts one
						t.Errorf("the next batches have %v rows, want 8", batches)
					}
				}
				if len(tt.after) == 0 && tt.before != nil { // what comes next are other replicas
					l.set("a:1")
					synctest.Wait()
					if x := explanation(t, next); x.Known {
						t.Errorf("something of other replicas: %+v", x)
					}
				}
				ended.Store(true)
				clients.Wait()
				stopNext()
				running.Wait()
			})
		})
	}
}

func explanation(t *testing.T, p *Proxy) Explanation {
	t.Helper()
	for _, x := range p.Explain() {
		if x.Model == "m" {
			return x
		}
	}
	t.Fatal("there is no such model")
	return Explanation{}
}

// TestReplaceKeepsReplicasOut: a replica that is ejected, and a tenant that rides alone, are so after a change of the configuration.
func TestReplaceKeepsReplicasOut(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *ModelConfig)
		ready  int
	}{
		{"batches", func(m *ModelConfig) { m.Batch.MaxSize = 3 }, 1},
		{"ejections", func(m *ModelConfig) { m.Outlier = OutlierConfig{} }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := oneModel(Upstream{URL: "http://a"}, Upstream{URL: "http://b"})
				p, err := New(cfg, Options{Transport: &weighed{}})
				if err != nil {
					t.Fatal(err)
				}
				m := p.models["m"]
				m.mu.Lock()
				m.eject(time.Now(), m.picker.replicas[0], ejected5xx)
				for range poisonings {
					m.solos.poisoned(time.Now(), poisonerID{1})
				}
				m.mu.Unlock()
				changed := oneModel(cfg.Models[0].Upstreams...)
				tt.change(&changed.Models[0])
				next, err := New(changed, Options{Transport: &weighed{}})
				if err != nil {
					t.Fatal(err)
				}
				p.Replace(next)
				if got := next.Models()[0].Ready; got != tt.ready {
					t.Errorf("%d replicas are ready, want %d", got, tt.ready)
				}
				own := next.models["m"]
				own.mu.Lock()
				defer own.mu.Unlock()
				if own.solos.alone(time.Now(), poisonerID{1}).IsZero() || !own.solos.some.Load() {
					t.Error("one that rode alone does no more")
				}
				own.timer.Stop()
				m.timer.Stop()
			})
		})
	}
}
