package batchproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// lagging are replicas that take so many milliseconds each, by their host; it notes of each call by when it was wanted and how it
// ended, in ms since it began.
type lagging struct {
	takes map[string]int
	began time.Time
	mu    sync.Mutex
	calls []string
}

func (s *lagging) ms() int { return int(time.Since(s.began).Milliseconds()) }

func (s *lagging) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	deadline, _ := r.Context().Deadline()
	wanted := int(deadline.Sub(s.began).Milliseconds())
	note := func(how string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls = append(s.calls, fmt.Sprintf("%s %s wanted by %d, %s at %d", r.URL.Host, body, wanted, how, s.ms()))
	}
	select {
	case <-time.After(time.Duration(s.takes[r.URL.Host]) * time.Millisecond):
	case <-r.Context().Done():
		note("given up")
		return nil, r.Context().Err()
	}
	note("answered")
	text := strings.Replace(string(body), "instances", "predictions", 1)
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text))}, nil
}

// TestDeadlineInBatch: a client whose deadline passes while a replica has its batch is told so at that time, and the others get their
// answers; the replica is wanted to answer by the last deadline, and is stopped when nobody waits, unless the model says drain.
func TestDeadlineInBatch(t *testing.T) {
	type sent struct {
		at       int // ms
		deadline int // ms from then, 0 for none
		rows     string
	}
	for _, tt := range []struct {
		name    string
		change  func(c *ModelConfig)
		takes   map[string]int
		sent    []sent
		clients []string // status, time of the answer in ms, body if it is 200
		calls   []string
		shed    float64
	}{
		{
			name: "one of two", takes: map[string]int{"a": 40}, sent: []sent{{0, 20, "1"}, {0, 60, "2"}},
			clients: []string{`504 20`, `200 40 {"predictions":[2]}`}, shed: 1,
			calls: []string{`a {"instances":[1,2]} wanted by 60, answered at 40`},
		},
		{
			name: "beside one without a deadline", takes: map[string]int{"a": 40}, sent: []sent{{0, 20, "1"}, {0, 0, "2"}},
			clients: []string{`504 20`, `200 40 {"predictions":[2]}`}, shed: 1,
			calls: []string{`a {"instances":[1,2]} wanted by 1000, answered at 40`},
		},
		{
			name: "all", takes: map[string]int{"a": 100}, sent: []sent{{0, 20, "1"}, {0, 30, "2"}},
			clients: []string{`504 20`, `504 30`}, shed: 2,
			calls: []string{`a {"instances":[1,2]} wanted by 30, given up at 30`},
		},
		{
			name: "all, where the replica is left to finish", change: func(c *ModelConfig) { c.Cancel = cancelDrain },
			takes: map[string]int{"a": 100}, sent: []sent{{0, 20, "1"}, {0, 30, "2"}},
			clients: []string{`504 20`, `504 30`}, shed: 2,
			calls: []string{`a {"instances":[1,2]} wanted by 1000, answered at 100`},
		},
		{
			name: "after the model's timeout", takes: map[string]int{"a": 2000}, sent: []sent{{0, 1500, "1"}, {0, 999, "2"}},
			clients: []string{`504 1000`, `504 999`}, shed: 1,
			calls: []string{`a {"instances":[1,2]} wanted by 1000, given up at 1000`},
		},
		{
			name: "a request in chunks", takes: map[string]int{"a": 15}, sent: []sent{{0, 20, "1,2,3,4"}},
			clients: []string{`504 20`}, shed: 1,
			calls: []string{`a {"instances":[1,2]} wanted by 20, answered at 15`, `a {"instances":[3,4]} wanted by 20, given up at 20`},
		},
		{
			name: "a request in chunks, where the replica is left to finish", change: func(c *ModelConfig) { c.Cancel = cancelDrain },
			takes: map[string]int{"a": 15}, sent: []sent{{0, 20, "1,2,3,4"}},
			clients: []string{`504 20`}, shed: 1,
			calls: []string{`a {"instances":[1,2]} wanted by 1000, answered at 15`, `a {"instances":[3,4]} wanted by 1015, answered at 30`},
		},
		{
			name: "no reason to eject a replica that is not as fast", takes: map[string]int{"a": 100, "b": 10},
			change:  func(c *ModelConfig) { c.Upstreams = append(c.Upstreams, Upstream{URL: "http://b"}) },
			sent:    []sent{{0, 30, "1,2"}, {0, 30, "3,4"}, {11, 30, "5,6"}, {60, 0, "7,8"}, {60, 0, "9,10"}},
			clients: []string{`504 30`, `200 10 {"predictions":[3,4]}`, `200 21 {"predictions":[5,6]}`, `200 160 {"predictions":[7,8]}`, `200 70 {"predictions":[9,10]}`},
			shed:    1,
			calls: []string{
				`b {"instances":[3,4]} wanted by 30, answered at 10`, `b {"instances":[5,6]} wanted by 41, answered at 21`, `a {"instances":[1,2]} wanted by 30, given up at 30`,
				`b {"instances":[9,10]} wanted by 1060, answered at 70`, `a {"instances":[7,8]} wanted by 1060, answered at 160`,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := oneModel(Upstream{URL: "http://a"})
				m := &cfg.Models[0]
				m.Batch.Mode, m.Batch.MaxSize, m.Timeout = ModeTimeout, 2, prom.Duration(time.Second)
				if tt.change != nil {
					tt.change(m)
				}
				s, registry := &lagging{takes: tt.takes, began: time.Now()}, prometheus.NewRegistry()
				p, err := New(cfg, Options{Transport: s, Registerer: registry})
				if err != nil {
					t.Fatal(err)
				}
				first := 0
				p.models["m"].picker.random = func(n int) int { first++; return first % n }
				ctx, cancel := context.WithCancel(t.Context())
				var running, clients sync.WaitGroup
				running.Go(func() {
					if err := p.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				got := make([]string, len(tt.sent))
				for i, one := range tt.sent {
					time.Sleep(time.Until(s.began.Add(time.Duration(one.at) * time.Millisecond))) // of the bubble's time
					clients.Go(func() {
						r := httptest.NewRequest("POST", "/v1/models/m:predict", strings.NewReader(`{"instances":[`+one.rows+`]}`))
						if one.deadline > 0 {
							r.Header.Set(deadlineHeader, fmt.Sprint(one.deadline))
						}
						w := httptest.NewRecorder()
						p.ServeHTTP(w, r)
						got[i] = fmt.Sprintf("%d %d", w.Code, s.ms())
						if w.Code == 200 {
							got[i] += " " + w.Body.String()
						}
					})
					synctest.Wait()
				}
				clients.Wait()
				time.Sleep(time.Until(s.began.Add(time.Second / 2))) // what nobody waits for is given up when the proxy ends
				cancel()
				running.Wait()
				if diff := cmp.Diff(tt.clients, got); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(tt.calls, s.calls); diff != "" {
					t.Error("calls:", diff)
				}
				for name, want := range map[string]float64{
					`flyball_batchproxy_shed_total{model="m",reason="deadline"}`:                  tt.shed,
					`flyball_batchproxy_ejections_total{model="m",reason="timeout"}`:              0,
					`flyball_batchproxy_requests_running{class="normal",model="m",protocol="v1"}`: 0,
					`flyball_batchproxy_requests_waiting{class="normal",model="m",protocol="v1"}`: 0,
				} {
					if n, _ := value(t, registry, name); n != want {
						t.Errorf("%s is %v, want %v", name, n, want)
					}
				}
				if held := p.buffers.held.Load(); held != 0 {
					t.Errorf("%d bytes are still held", held)
				}
			})
		})
	}
}

// TestDeadlineAndAnswer: where a deadline passes when the answer comes, the client has one of the two, and counts once.
func TestDeadlineAndAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://a"})
		m := &cfg.Models[0]
		m.Batch.Mode, m.Batch.MaxSize, m.Batch.MaxWait, m.Inflight = ModeTimeout, 4, 0, 8
		s, registry := &lagging{takes: map[string]int{"a": 20}, began: time.Now()}, prometheus.NewRegistry()
		p, err := New(cfg, Options{Transport: s, Registerer: registry})
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
		var mu sync.Mutex
		codes := map[int]float64{}
		for i := range 400 {
			clients.Go(func() {
				rows := fmt.Sprint(i)
				if i%5 == 0 {
					rows = fmt.Sprintf("%d,1,2,3,4,5", i) // in chunks
				}
				r := httptest.NewRequest("POST", "/v1/models/m:predict", strings.NewReader(`{"instances":[`+rows+`]}`))
				r.Header.Set(deadlineHeader, fmt.Sprint(20*(1+i%3)))
				w := httptest.NewRecorder()
				p.ServeHTTP(w, r)
				if want := `{"predictions":[` + rows + `]}`; w.Code == 200 && w.Body.String() != want {
					t.Errorf("got %s, want %s", w.Body, want)
				}
				mu.Lock()
				defer mu.Unlock()
				codes[w.Code]++
			})
			if i%40 == 0 {
				time.Sleep(20 * time.Millisecond)
			}
		}
		clients.Wait()
		cancel()
		running.Wait()
		if codes[200] == 0 || codes[504] == 0 || codes[200]+codes[504]+codes[503] != 400 {
			t.Errorf("answers by status: %v", codes)
		}
		for name, want := range map[string]float64{
			`flyball_batchproxy_requests_total{class="normal",code="504",model="m",protocol="v1"}`: codes[504],
			`flyball_batchproxy_shed_total{model="m",reason="deadline"}`:                           codes[504],
			`flyball_batchproxy_requests_running{class="normal",model="m",protocol="v1"}`:          0,
			`flyball_batchproxy_requests_waiting{class="normal",model="m",protocol="v1"}`:          0,
		} {
			if n, _ := value(t, registry, name); n != want {
				t.Errorf("%s is %v, want %v", name, n, want)
			}
		}
		if held := p.buffers.held.Load(); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}
	})
}
