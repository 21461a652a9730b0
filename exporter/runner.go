package exporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// runner runs one collector: one run at a time, with a deadline. A hanging collector costs one goroutine, however many
// scrapes come by.
type runner struct {
	collector Collector
	name      string
	timeout   time.Duration

	mu      sync.Mutex
	current *attempt  // the run under way; nil when there is none
	since   time.Time // when the collector began to fail; zero while it does not
	worked  time.Time // when a scrape last had all there was to read; zero before the first
}

// attempt is one run of a collector. Its outcome may be read once done is closed.
type attempt struct {
	ctx     context.Context // done at the deadline
	started time.Time
	done    chan struct{}
	outcome outcome
}

// errLate is what becomes of a collector that is still running, within its own deadline, when the scrape has to be
// answered: ctx is done.
var errLate = errors.New("not done when the scrape had to be answered")

// run starts the collector and waits for it until its deadline, or that of the scrape, if that is sooner. Scrapes that
// overlap share one run, which goes on when one of them cannot wait any longer. Where an earlier run is past its deadline
// and still going, that is the outcome.
func (r *runner) run(ctx context.Context) outcome {
	r.mu.Lock()
	a := r.current
	if a == nil {
		a = r.start()
	} else if a.ctx.Err() != nil {
		r.mu.Unlock()
		return outcome{took: time.Since(a.started), err: fmt.Errorf("still running since %s", a.started.UTC().Format(time.RFC3339))}
	}
	r.mu.Unlock()

	why := r.late
	select {
	case <-a.done:
		return a.outcome
	case <-a.ctx.Done():
	case <-ctx.Done():
		why = func() error { return errLate }
	}
	select {
	case <-a.done: // a.ctx is done after every run, and both were by the time of the first select
		return a.outcome
	default:
		return outcome{took: time.Since(a.started), err: why()}
	}
}

// start begins a run. r.mu is held. Its goroutine ends when Update returns: whoever hangs there is waited for until the
// deadline only, and is not started again before that.
func (r *runner) start() *attempt {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	a := &attempt{
		ctx:     ctx,
		started: time.Now(),
		done:    make(chan struct{}),
		outcome: outcome{err: errors.New("ended its goroutine instead of returning")}, // stays only if it did
	}
	r.current = a
	go func() {
		defer func() {
			r.mu.Lock()
			r.current = nil
			r.mu.Unlock()
			close(a.done)
			cancel()
		}()
		o := r.attempt(ctx)
		o.took = time.Since(a.started)
		a.outcome = o
	}()
	return a
}

// attempt calls the collector and writes its metrics out, all under recover: a metric's own Write may panic too.
func (r *runner) attempt(ctx context.Context) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			o = outcome{err: &panicError{value: p, stack: debug.Stack()}}
		}
	}()
	metrics, err := r.collector.Update(ctx)
	if ctx.Err() != nil {
		return outcome{err: r.late()}
	}
	if errors.Is(err, ErrNoData) {
		err = nil
	}
	families, invalid := gather(metrics)
	return outcome{families: families, err: errors.Join(err, invalid)}
}

func (r *runner) late() error { return fmt.Errorf("missed its deadline of %s", r.timeout) }

// note logs the beginning and the end of a failure; err is what the run came to. It returns when the collector last
// worked; zero if it never did.
func (r *runner) note(logger *slog.Logger, err error) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.worked = time.Now()
	}
	switch {
	case err != nil && r.since.IsZero():
		r.since = time.Now()
		args := []any{"collector", r.name, "err", err}
		if p, ok := errors.AsType[*panicError](err); ok {
			args = append(args, "stack", string(p.stack))
		}
		logger.Warn("collector failed", args...)
	case err == nil && !r.since.IsZero():
		logger.Info("collector recovered", "collector", r.name, "after", time.Since(r.since).Round(time.Millisecond))
		r.since = time.Time{}
	}
	return r.worked
}

// panicError is a collector's panic.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }
