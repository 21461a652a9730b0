package loadgen

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Run sends the load that the options plan and reports what became of it.
//
// It ends when each request of the plan has its outcome. When ctx is cancelled it sends no more, waits for the answers
// that are under way, up to Options.Grace, and reports what was done: Report.Interrupted is then set and the error nil.
// The only errors are faults in the options, before anything is sent.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.Validate(); err != nil {
		return Report{}, fmt.Errorf("load: %w", err)
	}
	if o.Transport == nil {
		own := NewTransport(o.MaxInflight)
		defer own.CloseIdleConnections()
		o.Transport = own
	}
	r, err := newRun(o)
	if err != nil {
		return Report{}, fmt.Errorf("load: %w", err)
	}
	return r.do(ctx), nil
}

// run is one load under way.
type run struct {
	options  Options
	requests []prepared
	sender   *sender
	recorder *recorder
	idPrefix string
	start    time.Time
	answers  sync.WaitGroup // the requests in flight
}

func newRun(o Options) (*run, error) {
	if o.RunID == "" {
		o.RunID = strings.ToLower(rand.Text()[:8])
	}
	plan := windowPlan{total: o.Demand.Duration()}
	if o.OnReport != nil {
		plan.every = o.ReportEvery
	}
	r := &run{
		options:  o,
		requests: make([]prepared, len(o.Requests)),
		sender:   newSender(o.Transport, o.Timeout),
		recorder: newRecorder(plan, o.MaxInflight),
		idPrefix: "bench-" + o.RunID + "-",
	}
	for i, request := range o.Requests {
		var err error
		if r.requests[i], err = o.prepareRequest(request); err != nil {
			return nil, fmt.Errorf("requests[%d].%w", i, err)
		}
	}
	return r, nil
}

// do runs the load to its end. What it starts has ended when it returns.
func (r *run) do(ctx context.Context) Report {
	r.start = time.Now()
	over := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { r.watch(over) })

	// Requests outlive ctx by the grace, so that Ctrl-C does not turn answers on their way into errors.
	sending, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	complete := r.sendAll(ctx, sending)
	if !complete {
		r.recorder.stop(time.Since(r.start))
	}
	complete = r.drain(ctx, abandon) && complete

	close(over)
	watcher.Wait()
	report := r.report(r.recorder.whole)
	report.Interrupted = !complete
	return report
}

// sendAll sends each request at its time and says whether it came to the end of the plan. Requests live as long as
// sending does.
func (r *run) sendAll(ctx, sending context.Context) bool {
	wake := time.NewTimer(0)
	defer wake.Stop()
	random := mathrand.New(mathrand.NewPCG(r.options.Seed, 0))
	sequence := 0
	for at := range r.options.Demand.Times(r.options.Arrivals, random) {
		if !r.advance(ctx, wake, at) {
			return false
		}
		r.offer(sending, at, sequence)
		sequence++
	}
	return r.advance(ctx, wake, r.options.Demand.Duration())
}

// advance waits until the moment at of the run, noting the state at each mark on the way. It is false where ctx ended
// first.
func (r *run) advance(ctx context.Context, wake *time.Timer, at time.Duration) bool {
	for mark := r.recorder.nextMark(); mark <= at; mark = r.recorder.nextMark() {
		if !r.waitUntil(ctx, wake, mark) {
			return false
		}
		r.recorder.mark(mark)
	}
	return r.waitUntil(ctx, wake, at)
}

// waitUntil waits until the moment at of the run, and is false where ctx ended first.
func (r *run) waitUntil(ctx context.Context, wake *time.Timer, at time.Duration) bool {
	wait := at - time.Since(r.start)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	wake.Reset(wait)
	select {
	case <-wake.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// offer sends the request that is due now, if there is a slot.
func (r *run) offer(ctx context.Context, at time.Duration, sequence int) {
	lag := time.Since(r.start) - at
	interval, send := r.recorder.arrive(at, lag)
	if !send {
		return
	}
	r.answers.Go(func() {
		payload := sequence % len(r.requests)
		id := r.idPrefix + strconv.Itoa(sequence)
		out := r.sender.send(ctx, &r.requests[payload], id, r.start.Add(at))
		example := Example{ID: id, Payload: payload, AtSeconds: at.Seconds()}
		if out.kind == KindWrong && r.recorder.wantsWrong(interval) {
			out.reason += r.mixUp(payload, out)
		}
		r.recorder.leave(interval, out, example)
	})
}

// drain waits for the answers in flight; where ctx ends first, for the grace and no longer. It says whether all came.
func (r *run) drain(ctx context.Context, abandon func()) bool {
	drained := make(chan struct{})
	go func() {
		r.answers.Wait()
		close(drained)
	}()
	select {
	case <-drained:
		return true
	case <-ctx.Done():
	}
	grace := time.NewTimer(r.options.Grace)
	defer grace.Stop()
	select {
	case <-drained:
	case <-grace.C:
		abandon()
		<-drained
	}
	return false
}

// snapshotEvery is how often Progress is called: often enough to watch, rarely enough to read.
const snapshotEvery = time.Second

// watch calls Progress and OnReport until the load is over, and then for what is left.
func (r *run) watch(over <-chan struct{}) {
	ticker := time.NewTicker(snapshotEvery)
	defer ticker.Stop()
	var last Snapshot
	for {
		running := true
		select {
		case <-ticker.C:
		case <-over:
			running = false
		}
		if r.options.Progress != nil {
			now := r.recorder.snapshot(time.Since(r.start))
			now.ratesSince(last)
			r.options.Progress(now)
			last = now
		}
		for _, w := range r.recorder.settled() {
			r.options.OnReport(r.report(w))
		}
		if !running {
			return
		}
	}
}
