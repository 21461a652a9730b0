package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flyball/actuators"
)

// asking is a server that says who asked, and when.
type asking struct {
	mu     sync.Mutex
	began  time.Time
	who    []string
	at     map[string][]time.Duration
	answer func(who string, n int) answer // to the nth request, from 1
}

func (a *asking) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	who := lineOf(req.Context())
	a.who, a.at[who] = append(a.who, who), append(a.at[who], time.Since(a.began))
	is := answer{status: http.StatusOK}
	if a.answer != nil {
		is = a.answer(who, len(a.at[who]))
	}
	resp := &http.Response{StatusCode: is.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}
	if is.retryAfter != "" {
		resp.Header.Set("Retry-After", is.retryAfter)
	}
	return resp, nil
}

// ask sends a request for a target and returns the status of the answer.
func ask(ctx context.Context, tr *transport, who string) (int, error) {
	req, err := http.NewRequestWithContext(inLine(ctx, who), http.MethodGet, "http://127.0.0.1/", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// idle says what is left of those who have waited.
func idle(t *testing.T, turns *turns) {
	t.Helper()
	turns.mu.Lock()
	defer turns.mu.Unlock()
	if len(turns.lines) > 0 || turns.circle.Len() > 0 || turns.armed {
		t.Errorf("nobody waits, and there are %d lines, %d of them in the circle, and the timer is armed: %v", len(turns.lines), turns.circle.Len(), turns.armed)
	}
}

// TestTurnsAreFair: a target that asks for a thousand turns has each other one wait for one of them.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &asking{began: time.Now(), at: map[string][]time.Duration{}}
		tr := newTransport(server, newTurns(10, 1))
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if _, err := ask(t.Context(), tr, "many"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		for n := range 20 {
			wg.Go(func() {
				if _, err := ask(t.Context(), tr, fmt.Sprint("one-", n)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		const round = 22 // the first was sent at once, and then each line has a turn
		for n := range 20 {
			who := fmt.Sprint("one-", n)
			if at := slices.Index(server.who, who); at < 0 || at >= round {
				t.Errorf("%s had turn %d, want one of the first %d", who, at+1, round)
			}
		}
		if took, want := time.Since(server.began), 1019*100*time.Millisecond; took != want || len(server.who) != 1020 {
			t.Errorf("%d requests within %s, want 1020 within %s: the circle costs no turn", len(server.who), took, want)
		}
		idle(t, tr.turns)
	})
}

// TestTurnsAreLeft: who does not wait any more takes no turn, and leaves nothing behind.
func TestTurnsAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &asking{began: time.Now(), at: map[string][]time.Duration{}}
		tr := newTransport(server, newTurns(1, 1))
		if _, err := ask(t.Context(), tr, "first"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for n := range 100 {
			wg.Go(func() {
				if _, err := ask(ctx, tr, fmt.Sprint("gone-", n%7)); !errors.Is(err, context.Canceled) {
					t.Errorf("error %v, want that it was canceled", err)
				}
			})
		}
		synctest.Wait()
		wg.Go(func() {
			if _, err := ask(t.Context(), tr, "stays"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		if got := server.at["stays"]; len(got) != 1 || got[0] != time.Second {
			t.Errorf("the one that stayed was sent at %v, want at 1s", got)
		}
		idle(t, tr.turns)

		// A turn that comes as the context ends is the next one's.
		ends, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		wg.Go(func() { _, _ = ask(ends, tr, "ends") })
		wg.Go(func() {
			if _, err := ask(t.Context(), tr, "next"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if got := server.at["next"]; len(got) != 1 || got[0] > 2*time.Second && len(server.at["ends"]) == 0 || got[0] > 3*time.Second {
			t.Errorf("the next was sent at %v, and the one whose time ended at %v", got, server.at["ends"])
		}
		idle(t, tr.turns)
	})
}

// TestTurnedAway: an answer of 429 with a time to come back keeps all away for as long, and no longer; then they come one after
// the other. The one that was turned away waits in its own line, and one that has no time is told so at once.
func TestTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &asking{began: time.Now(), at: map[string][]time.Duration{}, answer: func(who string, n int) answer {
			if who == "turned away" && n <= 2 {
				return answer{status: http.StatusTooManyRequests, retryAfter: "2"}
			}
			return answer{status: http.StatusOK}
		}}
		tr := newTransport(server, newTurns(100, 100))
		tr.jitter = func() float64 { return 1 }
		var wg sync.WaitGroup
		wg.Go(func() {
			if status, err := ask(t.Context(), tr, "turned away"); status != http.StatusOK || err != nil {
				t.Errorf("%d, %v", status, err)
			}
		})
		synctest.Wait()
		for n := range 10 {
			wg.Go(func() {
				if _, err := ask(t.Context(), tr, fmt.Sprint("other-", n)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ask(short, tr, "no time"); !errors.Is(err, actuators.ErrRefused) || !strings.Contains(err.Error(), "wants none for another 2s") || time.Since(server.began) > 0 {
			t.Errorf("error %v after %s, want at once that it is certain that nothing was sent", err, time.Since(server.began))
		}
		wg.Wait()
		var others []time.Duration
		for n := range 10 {
			others = append(others, server.at[fmt.Sprint("other-", n)]...)
		}
		slices.Sort(others)
		for n, at := range others {
			if want := 2*time.Second + time.Duration(n)*10*time.Millisecond; at.Round(time.Microsecond) != want {
				t.Errorf("the others came at %v, want each 10 ms from 2 s on", others)
				break
			}
		}
		// 2 s and a pause of 100 ms, then 2 s and one of 200 ms.
		if got, want := server.at["turned away"], []time.Duration{0, 2100 * time.Millisecond, 4300 * time.Millisecond}; !slices.Equal(got, want) {
			t.Errorf("the one that was turned away came at %v, want at %v", got, want)
		}
	})
}

// TestTurnedAwayByItself: 5xx, which may be of one object, and 429 without a time to come back delay nobody else.
func TestTurnedAwayByItself(t *testing.T) {
	for _, is := range []answer{{status: 429}, {status: 503, retryAfter: "5"}, {status: 500}} {
		synctest.Test(t, func(t *testing.T) {
			server := &asking{began: time.Now(), at: map[string][]time.Duration{}, answer: func(who string, _ int) answer {
				if who == "broken" {
					return is
				}
				return answer{status: http.StatusOK}
			}}
			tr := newTransport(server, newTurns(10, 1))
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					if status, err := ask(t.Context(), tr, "broken"); status != is.status || err != nil {
						t.Errorf("%d, %v", status, err)
					}
				})
			}
			synctest.Wait()
			for n := range 20 {
				began := time.Now()
				if _, err := ask(t.Context(), tr, "fine"); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > 200*time.Millisecond {
					t.Errorf("after %d: request %d of the other waited for %s, want two turns at most", is.status, n, took)
				}
			}
			wg.Wait()
			if got := len(server.at["broken"]); got != 5*attempts {
				t.Errorf("%d requests, want 5 times %d", got, attempts)
			}
		})
	}
}

// TestRetriesSpread: those that the server stumbled over together come back spread over the second half of their pause.
func TestRetriesSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &asking{began: time.Now(), at: map[string][]time.Duration{}, answer: func(_ string, n int) answer {
			return answer{status: map[bool]int{true: http.StatusServiceUnavailable, false: http.StatusOK}[n == 1]}
		}}
		tr := newTransport(server, newTurns(1e9, 1000))
		var wg sync.WaitGroup
		for n := range 200 {
			wg.Go(func() {
				if _, err := ask(t.Context(), tr, fmt.Sprint(n)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		tenths := map[int64]int{}
		for _, at := range server.at {
			if at[1] < firstPause/2 || at[1] >= firstPause {
				t.Fatalf("one came back after %s, want %s to %s", at[1], firstPause/2, firstPause)
			}
			tenths[int64((at[1]-firstPause/2)*10/(firstPause/2))]++
		}
		for n := range int64(10) {
			if got := tenths[n]; got == 0 || got > 60 {
				t.Errorf("%d of 200 came back in tenth %d of the time: %v", got, n, tenths)
			}
		}
	})
}

// BenchmarkTurns is what a turn costs: where there is one, and where 500 targets wait for it.
func BenchmarkTurns(b *testing.B) {
	b.Run("free", func(b *testing.B) {
		turns, ctx := newTurns(1e12, 1000), b.Context()
		b.ReportAllocs()
		for b.Loop() {
			if err := turns.take(ctx, "ml/deployments.apps/llama"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("waited for", func(b *testing.B) {
		const targets = 500
		keys := make([]string, targets)
		for n := range keys {
			keys[n] = fmt.Sprintf("ml/deployments.apps/d%d", n)
		}
		turns, ctx := newTurns(1e12, targets), b.Context()
		b.ReportAllocs()
		for b.Loop() { // one turn for each target
			turns.close(time.Hour)
			for _, key := range keys {
				if granted, _, err := turns.queue(ctx, key); granted == nil || err != nil {
					b.Fatalf("%v, %v", granted, err)
				}
			}
			turns.mu.Lock()
			turns.closed, turns.left = time.Time{}, targets
			turns.mu.Unlock()
			turns.serve()
			if turns.circle.Len() > 0 {
				b.Fatal("somebody waits")
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*targets), "ns/turn")
	})
}
