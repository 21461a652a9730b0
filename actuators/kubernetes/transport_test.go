package kubernetes

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// answers is a server that gives one answer after the other, and the last one for ever.
type answers struct {
	list []answer
	at   []time.Duration // when each request came
	sent []string        // their bodies

	began time.Time
}

type answer struct {
	status     int
	retryAfter string
	err        error
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	body := ""
	if req.Body != nil {
		text, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		body = string(text)
	}
	this := a.list[min(len(a.at), len(a.list)-1)]
	a.at, a.sent = append(a.at, time.Since(a.began)), append(a.sent, body)
	if this.err != nil {
		return nil, this.err
	}
	resp := &http.Response{StatusCode: this.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("answer"))}
	if this.retryAfter != "" {
		resp.Header.Set("Retry-After", this.retryAfter)
	}
	return resp, nil
}

func TestTransport(t *testing.T) {
	broken := errors.New("connection refused")
	fine := answer{status: 200}
	for _, tt := range []struct {
		name    string
		answers []answer
		timeout time.Duration // 0: none
		status  int           // of the answer that is passed on
		err     error
		at      []time.Duration // of the requests, with a jitter of 1
		doubt   bool
	}{
		{name: "fine", answers: []answer{fine}, status: 200, at: []time.Duration{0}},
		{name: "refused for good", answers: []answer{{status: 403}}, status: 403, at: []time.Duration{0}},
		{name: "a conflict is for the caller", answers: []answer{{status: 409}}, status: 409, at: []time.Duration{0}},
		{name: "once unavailable", answers: []answer{{status: 503}, fine}, status: 200, at: []time.Duration{0, 100 * time.Millisecond}, doubt: true},
		{
			name: "too many requests, with a time to come back", answers: []answer{{status: 429, retryAfter: "2"}, fine},
			status: 200, at: []time.Duration{0, 2100 * time.Millisecond},
		},
		{
			name: "unavailable for long", answers: []answer{{status: 503}}, status: 503, doubt: true,
			at: []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond},
		},
		{
			name: "no time to come back", answers: []answer{{status: 429, retryAfter: "60"}}, timeout: 10 * time.Second,
			status: 429, at: []time.Duration{0},
		},
		{name: "no connection", answers: []answer{{err: broken}}, err: broken, at: []time.Duration{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &answers{list: tt.answers, began: time.Now()}
				tr := newTransport(server, newTurns(1e9, 1000))
				tr.jitter = func() float64 { return 1 }
				ctx, doubt := withDoubt(t.Context())
				if tt.timeout != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://127.0.0.1/scale", strings.NewReader("size"))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := tr.RoundTrip(req)
				if !errors.Is(err, tt.err) {
					t.Fatalf("error %v, want %v", err, tt.err)
				}
				if err == nil {
					defer resp.Body.Close()
					if resp.StatusCode != tt.status {
						t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
					}
					if resp.Header.Get("Retry-After") != "" {
						t.Error("Retry-After is passed on: client-go would wait once more")
					}
					if text, _ := io.ReadAll(resp.Body); string(text) != "answer" {
						t.Errorf("the answer reads %q", text)
					}
				}
				if len(server.at) != len(tt.at) {
					t.Fatalf("requests at %v, want at %v", server.at, tt.at)
				}
				for i := range tt.at {
					if server.at[i] != tt.at[i] || server.sent[i] != "size" {
						t.Errorf("request %d at %s with %q, want at %s with the whole body", i, server.at[i], server.sent[i], tt.at[i])
					}
				}
				if doubt.Load() != tt.doubt {
					t.Errorf("doubt %v, want %v", doubt.Load(), tt.doubt)
				}
			})
		})
	}
}

// TestTurns: requests go out within the limit, in the order in which they came, and one whose turn would come too late goes
// out never.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answers{list: []answer{{status: 200}}, began: time.Now()}
		tr := newTransport(server, newTurns(10, 2))
		for range 4 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
		want := []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond}
		for i := range want {
			if server.at[i] != want[i] {
				t.Errorf("requests at %v, want at %v", server.at, want)
				break
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) || len(server.at) != 4 {
			t.Errorf("error %v after %d requests, want that the time was too short for the fifth", err, len(server.at))
		}
	})
}

// TestJitter: those who were turned away together do not come back together.
func TestJitter(t *testing.T) {
	tr := newTransport(nil, nil)
	seen := map[time.Duration]bool{}
	for range 100 {
		p := tr.pause(3, 0)
		if p < 200*time.Millisecond || p > 400*time.Millisecond {
			t.Fatalf("pause %s, want 200 ms to 400 ms", p)
		}
		seen[p] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d pauses of 100 differ", len(seen))
	}
}
