package batchproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// slowly answers each call to a replica a second after it came.
type slowly struct {
	mu   sync.Mutex
	busy map[string]int
	most int // at one replica at once
	log  []string
}

func (s *slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.busy[r.URL.Host]++
	s.most = max(s.most, s.busy[r.URL.Host])
	s.log = append(s.log, r.URL.Query().Get("n"))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy[r.URL.Host]--
	}()
	select {
	case <-time.After(time.Second):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return answers("{}").RoundTrip(r)
}

// TestLimit: replicas have no more requests than they may, the others wait for the first that has room, and what is too much is
// refused with when to come again.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowly{busy: map[string]int{}}
		cfg := oneModel(Upstream{URL: "http://a"}, Upstream{URL: "http://b"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: 2, Queue: 3}
		cfg.Models[0].Timeout = prom.Duration(1500 * time.Millisecond)
		registry := prometheus.NewRegistry()
		p, err := New(cfg, Options{Transport: s, Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var mu sync.Mutex
		var got []string
		var clients sync.WaitGroup
		send := func(ctx context.Context, n int) {
			clients.Go(func() {
				w := httptest.NewRecorder()
				p.ServeHTTP(w, httptest.NewRequest("POST", fmt.Sprintf("/v2/models/m/generate?n=%d", n), strings.NewReader("{}")).WithContext(ctx))
				mu.Lock()
				defer mu.Unlock()
				got = append(got, strings.TrimSpace(fmt.Sprintf("%d: %s %d %s", n, time.Since(began), w.Code, w.Header().Get("Retry-After"))))
			})
			synctest.Wait()
		}
		gone, leave := context.WithCancel(t.Context())
		for n := range 6 {
			send(t.Context(), n)
		}
		send(gone, 6)
		if waiting := p.Models()[0]; waiting.Queued != 3 || waiting.Running != 4 {
			t.Errorf("%+v, want 3 that wait and 4 that run", waiting)
		}
		send(t.Context(), 7) // one too many
		leave()
		synctest.Wait()
		if w := serveOnce(p, http.MethodGet, "/v2/models/m", ""); w.Code != 200 {
			t.Errorf("a question about the model waits in line: %d", w.Code)
		}
		clients.Wait()
		slices.Sort(got)
		if diff := cmp.Diff([]string{"0: 1s 200", "1: 1s 200", "2: 1s 200", "3: 1s 200", "4: 2s 200", "5: 2s 200", "6: 0s 400", "7: 0s 429 1"}, got); diff != "" {
			t.Error(diff)
		}
		if s.most > 3 { // two, and the question
			t.Errorf("a replica had %d requests at once", s.most)
		}
		for name, want := range map[string]float64{
			`flyball_batchproxy_shed_total{model="m",reason="queue_full"}`:                          1,
			`flyball_batchproxy_cancelled_total{model="m",stage="queued"}`:                          1,
			`flyball_batchproxy_requests_waiting{class="normal",model="m",protocol="oip"}`:          0,
			`flyball_batchproxy_queue_duration_seconds{class="normal",model="m",protocol="oip"}`:    6,
			`flyball_batchproxy_requests_total{class="normal",code="429",model="m",protocol="oip"}`: 1,
			`flyball_batchproxy_requests_total{class="normal",code="499",model="m",protocol="oip"}`: 1,
		} {
			if got, ok := value(t, registry, name); !ok || got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
	})
}

// TestLimitTimeout: a request waits no longer than the model's timeout.
func TestLimitTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: 1, Queue: 1}
		cfg.Models[0].Timeout = prom.Duration(300 * time.Millisecond)
		p, err := New(cfg, Options{Transport: &slowly{busy: map[string]int{}}})
		if err != nil {
			t.Fatal(err)
		}
		var first sync.WaitGroup
		first.Go(func() { serveOnce(p, http.MethodPost, "/v2/models/m/generate", "{}") })
		synctest.Wait()
		began := time.Now()
		w := serveOnce(p, http.MethodPost, "/v2/models/m/generate", "{}")
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || time.Since(began) != 300*time.Millisecond || !strings.Contains(w.Body.String(), "all replicas are busy") {
			t.Errorf("after %s: %d %s", time.Since(began), w.Code, w.Body)
		}
		first.Wait()
	})
}

// TestLimitFirstToken: a request waits for no longer than its client wants the answer to begin within, is ahead of others by that, and
// is refused at once where it would wait for longer. One that finds room is always taken.
func TestLimitFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowly{busy: map[string]int{}}
		cfg := oneModel(Upstream{URL: "http://a"})
		cfg.Models[0].Limit = LimitConfig{Concurrent: 1, Queue: 10}
		cfg.Models[0].Priorities = []Priority{{"normal", prom.Duration(10 * time.Second)}}
		registry := prometheus.NewRegistry()
		p, err := New(cfg, Options{Transport: s, Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var mu sync.Mutex
		var got []string
		var clients sync.WaitGroup
		send := func(n, ms int, within string) {
			time.Sleep(time.Until(began.Add(time.Duration(ms) * time.Millisecond))) // of the bubble's time
			clients.Go(func() {
				w := httptest.NewRecorder()
				r := httptest.NewRequest("POST", fmt.Sprintf("/v2/models/m/generate?n=%d", n), strings.NewReader("{}"))
				if within != "" {
					r.Header.Set("X-SLO-TTFT-MS", within)
				}
				p.ServeHTTP(w, r)
				mu.Lock()
				defer mu.Unlock()
				got = append(got, strings.TrimSpace(fmt.Sprintf("%d: %s %d %s", n, time.Since(began), w.Code, w.Header().Get("Retry-After"))))
			})
			synctest.Wait()
		}
		send(0, 0, "1")       // room: taken
		send(1, 0, "300.5")   // how long calls take is not known yet
		send(2, 500, "60000") // more than the timeout: none
		send(3, 600, "")
		send(4, 700, "soon")   // none
		send(5, 1100, "900")   // one that takes a second is on its way
		send(6, 1100, "1050")  // taken, and ahead of those that may wait for longer
		send(7, 1150, "1500")  // 6 is ahead of it, and takes a second too
		send(8, 1150, "10000") // behind all
		clients.Wait()
		slices.Sort(got)
		if diff := cmp.Diff([]string{
			"0: 1s 200", "1: 300.5ms 504", "2: 2s 200", "3: 4s 200", "4: 5s 200", "5: 1.1s 503 21", "6: 3s 200", "7: 1.15s 503 31", "8: 6s 200",
		}, got); diff != "" {
			t.Error(diff)
		}
		for name, want := range map[string]float64{
			`flyball_batchproxy_shed_total{model="m",reason="deadline"}`:       1,
			`flyball_batchproxy_shed_total{model="m",reason="predicted_late"}`: 2,
		} {
			if got, ok := value(t, registry, name); !ok || got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
	})
}

// TestCallers: the one that is due first, and of equal ones the first that came.
func TestCallers(t *testing.T) {
	var all callers
	a, b, c, d := all.add(time.Unix(1, 0)), all.add(time.Unix(0, 0)), all.add(time.Unix(1, 0)), all.add(time.Unix(0, 0))
	if !slices.Equal(all, callers{b, d, a, c}) {
		t.Error("they are not in order")
	}
	if !all.remove(d) || all.remove(d) || !slices.Equal(all, callers{b, a, c}) {
		t.Error("one was not taken out, once")
	}
}

// TestCancel: where a client goes in the middle of a stream, the replica is stopped, or left to finish, as the model has it.
func TestCancel(t *testing.T) {
	for _, cancel := range []string{"", cancelAbort, cancelDrain} {
		t.Run(cancel, func(t *testing.T) {
			gone := make(chan struct{})
			ended := make(chan error, 1)
			s := newModelServer(t)
			s.before = func(w http.ResponseWriter, r *http.Request, _ call) bool {
				w.Header().Set("Content-Type", "text/event-stream")
				control := http.NewResponseController(w)
				_, _ = io.WriteString(w, "data: "+hello+"\n\n")
				_ = control.Flush()
				<-gone
				if cancel != cancelDrain {
					<-r.Context().Done()
					ended <- r.Context().Err()
					return true
				}
				var err error
				more := ": " + strings.Repeat("x", 64<<10) + "\n\n" // in all, more than connections hold
				for range 200 {
					_, writing := io.WriteString(w, more)
					err = errors.Join(err, writing, control.Flush(), r.Context().Err())
				}
				ended <- err
				return true
			}
			cfg := oneModel(Upstream{URL: s.URL})
			cfg.Models[0].Cancel = cancel
			registry := prometheus.NewRegistry()
			f := start(t, cfg, Options{Registerer: registry})
			ctx, leave := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1/chat/completions", strings.NewReader(`{"model":"m"}`))
			if err != nil {
				t.Fatal(err)
			}
			response, err := f.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if _, err := response.Body.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			leave()
			close(gone)
			if err := <-ended; (err == nil) != (cancel == cancelDrain) {
				t.Errorf("the replica ended with %v", err)
			}
			f.running(0)
			const generations = `flyball_batchproxy_generations_total{class="normal",finish="cancelled",model="m",protocol="openai"}`
			if got, _ := value(t, registry, generations); got != 1 {
				t.Errorf("%s is %v", generations, got)
			}
			const tokens = `flyball_batchproxy_tokens_total{class="normal",kind="completion",model="m",protocol="openai",source="chunks"}`
			if got, _ := value(t, registry, tokens); got < 1 {
				t.Errorf("%s is %v", tokens, got)
			}
		})
	}
}
