package rules

import (
	"context"
	"runtime"
	"sync"
)

// Workers do the long work of the forecast rules of a process beside the evaluations: loading histories and fitting models.
// No more than half of the processors fit at a time.
type Workers struct {
	slots chan struct{}
	jobs  sync.WaitGroup
	end   context.CancelFunc
	ctx   context.Context // of the jobs: it ends with Close
}

// NewWorkers returns workers of which n fit at a time; 0 is half of the processors that there are, and one at least.
func NewWorkers(n int) *Workers {
	if n <= 0 {
		n = max(1, runtime.GOMAXPROCS(0)/2)
	}
	w := &Workers{slots: make(chan struct{}, n)}
	w.ctx, w.end = context.WithCancel(context.Background())
	return w
}

// Close ends the jobs, and waits for them. No rule may be evaluated any more.
func (w *Workers) Close() {
	w.end()
	w.jobs.Wait()
}

// do runs a job beside the caller or, of no workers, within it.
func (w *Workers) do(ctx context.Context, job func(ctx context.Context)) {
	if w == nil {
		job(ctx)
		return
	}
	if w.ctx.Err() == nil {
		w.jobs.Go(func() { job(w.ctx) })
	}
}

// fit runs what takes a processor once one is free. It says whether ctx lasted until then.
func (w *Workers) fit(ctx context.Context, work func()) bool {
	if w == nil {
		work()
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case w.slots <- struct{}{}:
	}
	defer func() { <-w.slots }()
	work()
	return true
}
