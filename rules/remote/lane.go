package remote

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// lane bounds how many questions of a kind are under way at once, and holds them all while the server wants to be left
// alone.
type lane struct {
	turns chan struct{} // holds one for each question under way

	mu       sync.Mutex // guards what follows
	resume   time.Time  // not to be asked before
	resumeOf string     // the status that said so
}

func newLane(turns int) lane { return lane{turns: make(chan struct{}, turns)} }

// enter waits for a turn, which ends when leave is called, the first time.
func (l *lane) enter(ctx context.Context) (leave func(), err error) {
	if err := l.wait(time.Now()); err != nil {
		return nil, err
	}
	select {
	case l.turns <- struct{}{}:
		return sync.OnceFunc(func() { <-l.turns }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// wait is an error while the server is to be left alone.
func (l *lane) wait(now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left := l.resume.Sub(now); left > 0 {
		return &failure{waiting, fmt.Errorf("not asked for another %s: it answered %s with Retry-After", left.Round(100*time.Millisecond), l.resumeOf)}
	}
	return nil
}

// rest leaves the server alone for as long as an answer asks for.
func (l *lane) rest(response *http.Response) {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable {
		return
	}
	now := time.Now()
	if after := retryAfter(response.Header.Get("Retry-After"), now); after > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.resume, l.resumeOf = now.Add(after), statusText(response)
	}
}

// retryAfter is how long a server wants to be left alone, by seconds or by a date, at most maxRetryAfter.
func retryAfter(header string, now time.Time) time.Duration {
	if header == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
