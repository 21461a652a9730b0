package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// maxAnswer is how much of an Alertmanager's answer is read: it is empty, or one sentence of what is wrong.
const maxAnswer = 4 << 10

var errStopping = errors.New("the process ends")

// posts are the notifier's requests. The notifier neither waits for those under way when it stops, nor gives them up at
// some time, nor closes their connections; and of an Alertmanager that is down it logs each request.
type posts struct {
	logger *slog.Logger
	ctx    context.Context // of all requests
	cut    context.CancelFunc
	under  sync.WaitGroup // those that are under way

	mu      sync.Mutex // guards what follows
	ended   bool       // there will be no more
	clients map[*http.Client]bool
	failing map[string]bool // by URL
}

func newPosts(logger *slog.Logger) *posts {
	p := &posts{logger: logger, clients: map[*http.Client]bool{}, failing: map[string]bool{}}
	p.ctx, p.cut = context.WithCancel(context.Background())
	return p
}

// do makes a request and reads the whole answer.
func (p *posts) do(ctx context.Context, client *http.Client, r *http.Request) (*http.Response, error) {
	if !p.begin(client) {
		return nil, errStopping
	}
	defer p.under.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(errStopping) })()

	response, err := client.Do(r.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		p.report(r, err)
		return nil, err
	}
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // the status counts
	_ = response.Body.Close()
	response.Body = http.NoBody
	if response.StatusCode/100 != 2 { // the notifier makes it an error
		err = fmt.Errorf("it answered %s: %s", response.Status, bytes.TrimSpace(answer))
	}
	p.report(r, err)
	return response, nil
}

func (p *posts) begin(client *http.Client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.clients[client] = true
	p.under.Add(1)
	return true
}

// report logs when an Alertmanager stops to take alerts, and when it takes them again.
func (p *posts) report(r *http.Request, err error) {
	url := r.URL.Redacted()
	p.mu.Lock()
	before := p.failing[url]
	p.failing[url] = err != nil
	p.mu.Unlock()
	switch {
	case err != nil && !before:
		p.logger.Warn("alerts cannot be sent", "alertmanager", url, "err", err)
	case err == nil && before:
		p.logger.Info("alerts are sent again", "alertmanager", url)
	}
}

// closeIdle closes the connections that no request uses, of clients that may not be used again.
func (p *posts) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		client.CloseIdleConnections()
	}
	clear(p.clients)
}

// end waits for the requests that begin within settle and for those under way, unless cut gives them up, and allows no
// more.
func (p *posts) end(settle time.Duration) {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.under.Wait()
	p.cut()
	p.closeIdle()
}
