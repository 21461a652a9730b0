package kubernetes

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// transport sends the requests of all the clients of a cluster, each when it is its turn, and sends those again that the
// apiserver turned away or stumbled over.
type transport struct {
	next   http.RoundTripper
	turns  *turns
	jitter func() float64
}

func newTransport(next http.RoundTripper, turns *turns) *transport {
	return &transport{next: next, turns: turns, jitter: rand.Float64}
}

const (
	attempts   = 5                      // of one request: with the pauses below, 2 s of an apiserver that is starting
	firstPause = 100 * time.Millisecond // doubles with each attempt

	// longestClosed is the most that one answer keeps all from asking. The apiserver's own flow control says 1 s; a proxy before
	// it may say anything.
	longestClosed = 30 * time.Second
)

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	for attempt := 1; ; attempt++ {
		if err := t.turns.take(ctx, lineOf(ctx)); err != nil {
			return nil, err
		}
		resp, err := t.next.RoundTrip(req)
		if err != nil || !mayPass(resp.StatusCode) {
			return resp, err
		}
		if doubt, ok := ctx.Value(doubtKey{}).(*atomic.Bool); ok && resp.StatusCode != http.StatusTooManyRequests {
			doubt.Store(true)
		}
		asked := retryAfter(resp)
		// By its priority and fairness an apiserver turns away a user's requests, and not those for one object: so all wait. A 5xx
		// may be of one object, such as that of a webhook.
		if asked > 0 && resp.StatusCode == http.StatusTooManyRequests {
			t.turns.close(min(asked, longestClosed))
		}
		pause := t.pause(attempt, asked)
		// client-go sleeps, without jitter, for as long as this header says.
		resp.Header.Del("Retry-After")
		deadline, limited := ctx.Deadline()
		if attempt == attempts || limited && time.Until(deadline) < pause || req.GetBody == nil && req.Body != nil && req.Body != http.NoBody {
			return resp, nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
		_ = resp.Body.Close()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
		if req.GetBody != nil {
			req = req.Clone(ctx)
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

type doubtKey struct{}

// withDoubt returns a context whose requests note when one of them was answered in a way that leaves open whether it was
// carried out.
func withDoubt(ctx context.Context) (context.Context, *atomic.Bool) {
	doubt := &atomic.Bool{}
	return context.WithValue(ctx, doubtKey{}, doubt), doubt
}

// CloseIdleConnections is for http.Client.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// mayPass says whether an answer is one that may be another the next time. All writes have a precondition, so sending one
// again that was carried out after all changes nothing.
func mayPass(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter is how long an answer asks to stay away for, in whole seconds as an apiserver gives it; 0 where it does not.
func retryAfter(resp *http.Response) time.Duration {
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 1<<20)) * time.Second
}

// pause is how long to wait after an attempt: half of it at random, so that those who were turned away together do not
// come back together; and never less than the server asks for.
func (t *transport) pause(attempt int, asked time.Duration) time.Duration {
	pause := firstPause << (attempt - 1)
	return asked + pause/2 + time.Duration(t.jitter()*float64(pause/2))
}
