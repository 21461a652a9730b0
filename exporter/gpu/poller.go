package gpu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Run reads the GPUs until ctx is done, then ends the worker and returns nil. It returns before that only where
// Options.Require is set and there is no driver or no GPU: an error that wraps ErrNoGPU.
func (c *Collector) Run(ctx context.Context) error {
	p := poller{c: c, out: map[string]*outcast{}, strikes: map[string]time.Time{}, patient: true}
	defer p.close()
	for {
		wait, err := p.step(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("gpu: %w", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// poller is the state of Run.
type poller struct {
	c         *Collector
	worker    worker    // nil when none runs
	useful    bool      // it has read a GPU
	patient   bool      // GPUs may take long to attach: nothing was ever read, or the driver is new
	slow      time.Time // when the slow tier was last read
	processes time.Time // likewise
	seq       uint64
	backoff   time.Duration // before the next worker; 0 after a success
	abandoned []stuck       // workers that were killed and did not end
	condition condition     // as logged last
	outdated  bool          // the last answer was that library and driver are of different versions

	out     map[string]*outcast  // the GPUs that are left out, by place.id
	strikes map[string]time.Time // when a worker last crashed over a GPU, likewise
	trial   *trial               // of one of them; nil while there is none
	passed  worker               // the worker of a trial that went well, until the GPU is read by the other
}

// stuck is a worker that was killed and did not end.
type stuck struct {
	gone    <-chan struct{} // closed when it does
	against bool            // it speaks against the driver, not against one GPU
}

// outcast is a GPU that a worker hung on or crashed over. Workers are told to leave it out.
type outcast struct {
	place
	gone  <-chan struct{} // of the worker that hung on it: closed once it has ended
	retry time.Time       // not before
}

// trial is an attempt to read an outcast. It has a worker of its own, so that one that hangs again takes nothing from the
// GPUs that work: to strike the GPU off the list of the only worker would stop them for the length of a deadline, every
// minute, for as long as the GPU hangs.
type trial struct {
	gpu    *outcast
	worker worker
	cancel context.CancelFunc
	done   chan result // of capacity 1
}

// result is what the poll of a trial returned.
type result struct {
	rep  reply
	err  error
	gone <-chan struct{} // of the worker, which was killed unless the result is good
}

// good reports whether the GPU was read.
func (r result) good() bool { return r.err == nil && r.rep.State == stateOK }

// condition is what is logged when it changes.
type condition int

const (
	unknown  condition = iota
	reading            // GPUs are read
	absent             // no driver: an ordinary machine
	failing            // something is there and does not work
	outdated           // likewise: NVML is of another version than the driver that is loaded
)

// step polls once, starting a worker where none runs, and returns how long to wait before the next step. The error is
// one to return from Run.
func (p *poller) step(ctx context.Context) (time.Duration, error) {
	opts := p.c.opts
	timeout := opts.Timeout
	if p.c.unbound != "" {
		return p.absent(reply{Error: "no binding to NVML", Tried: []string{p.c.unbound}})
	}
	p.finishTrial()
	if p.worker == nil {
		if n := p.stuck(); n >= maxAbandoned {
			return p.failed(fmt.Errorf("%d workers are stuck in the driver: no more are started until one of them ends", n)), nil
		}
		w, err := p.c.start()
		if err != nil {
			return p.failed(err), nil
		}
		p.worker, p.useful, timeout = w, false, opts.StartTimeout
		p.c.working(true)
	}
	now := time.Now()
	want := p.c.always()
	processes := opts.Processes && now.Sub(p.processes) >= processInterval
	if processes {
		want |= tierProcesses
	}
	slow := now.Sub(p.slow) >= opts.SlowInterval
	if slow {
		want |= tierSlow
	}
	p.seq++
	rep, err := p.worker.poll(ctx, p.c.request(request{Seq: p.seq, Want: want, Skip: p.skip(nil), patient: p.patient}), timeout)
	if ctx.Err() != nil {
		return 0, nil
	}
	p.useful = p.useful || len(rep.Devices) > 0
	if err != nil {
		rep.State = "" // whatever came of it, it is not whole
		p.c.accept(rep, time.Now())
		if f := failed(err); f.gpu != nil {
			return p.accuse(f), nil
		}
		return p.failed(err), nil
	}
	if rep.State != stateOK || len(rep.Devices)+len(rep.Skipped) == 0 {
		part := rep
		part.State = ""
		p.c.accept(part, time.Now())
	}
	switch {
	case rep.State == stateFailed:
		err := &failure{reason: reasonError, err: errors.New(rep.Error)}
		if rep.Gone {
			err.reason = reasonReload
			p.reloaded()
			p.outdated = rep.Mismatch
		}
		return p.failed(err), nil
	case rep.State == stateAbsent:
		return p.absent(rep)
	case len(rep.Devices)+len(rep.Skipped) == 0:
		return p.empty(rep)
	}
	p.backoff, p.patient = 0, false
	if slow {
		p.slow = now
	}
	if processes {
		p.processes = now
	}
	p.c.accept(rep, time.Now())
	if p.becomes(reading) {
		opts.Logger.Info("reading GPUs", "gpus", len(rep.Devices), "backend", rep.Backend, "driver", rep.Driver, "library", rep.Library)
	}
	p.pass()
	p.startTrial(ctx)
	return opts.Interval, nil
}

// always is what every poll reads.
func (c *Collector) always() tiers {
	if c.opts.NVLinkPerLink {
		return tierFast | tierLinks
	}
	return tierFast
}

// request adds what is the same for all.
func (c *Collector) request(req request) request {
	req.Library, req.ProcFS, req.Calls = c.opts.Library, c.opts.ProcPath, c.opts.CallDurations
	return req
}

// failed gives up the worker and returns when to start another: later after every failure in a row.
func (p *poller) failed(err error) time.Duration {
	p.backoff = min(max(2*p.backoff, minBackoff), maxBackoff)
	return p.giveUp(err, p.backoff)
}

// giveUp notes the failure and ends the worker. It returns wait.
func (p *poller) giveUp(err error, wait time.Duration) time.Duration {
	p.c.fail(err)
	if p.worker != nil {
		f := failed(err)
		p.c.restart(f.reason, f.symbols()...)
	}
	p.stop(nil)
	switch outdatedNow := p.outdated; {
	case outdatedNow && p.becomes(outdated):
		p.c.opts.Logger.Warn("GPUs cannot be read", "err", err, "do", updateAdvice, "retry", wait)
	case !outdatedNow && p.becomes(failing):
		p.c.opts.Logger.Warn("GPUs cannot be read", "err", err, "retry", wait)
	}
	p.outdated = false
	return wait
}

// updateAdvice is what to do about a driver that was upgraded while its old kernel module is loaded.
const updateAdvice = "the driver was upgraded and its old kernel module is still loaded: stop what uses the GPUs and load the new one (modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia; modprobe nvidia), or restart the machine; in a container, restart the container"

// accuse ends a worker that hung on a GPU or crashed over it, and returns when to start another. A GPU that hangs is left
// out from then on; one over which a worker crashed, when that happens again.
//
// The next worker is started at once where it will do something else than this one, because a GPU was left out: the other
// GPUs are read again within their interval, and there are not more such starts than GPUs. Otherwise it has to wait, as
// after any failure.
func (p *poller) accuse(f *failure) time.Duration {
	now, id := time.Now(), f.gpu.id()
	if p.out[id] != nil { // it was to be left out, and was not: to start another at once would go on for ever
		return p.failed(f)
	}
	last, before := p.strikes[id]
	if f.reason != reasonTimeout && (!before || now.Sub(last) > strikeTime) {
		p.strikes[id] = now
		return p.failed(f)
	}
	delete(p.strikes, id)
	p.c.restart(f.reason, f.symbols()...)
	gone := p.stop(f.gpu)
	o := &outcast{place: *f.gpu, gone: gone, retry: now.Add(p.c.hungRetry)}
	p.out[id] = o
	p.c.exclude(*f.gpu, fmt.Sprintf("%s: left out, and tried again every %s", f.err, p.c.hungRetry), f.reason)
	return 0
}

// reloaded notes that the driver was unloaded or replaced: what was wrong with a GPU may be over.
func (p *poller) reloaded() {
	p.patient = true
	for id, o := range p.out {
		if ended(o.gone) {
			delete(p.out, id)
		}
	}
}

// skip returns what a request says to leave out: all outcasts but one. Each is named by its place too, because a GPU may
// hang before it tells its UUID.
func (p *poller) skip(but *outcast) []string {
	var list []string
	for _, o := range p.out {
		if o == but {
			continue
		}
		if o.uuid != "" {
			list = append(list, o.uuid)
		}
		list = append(list, o.position())
	}
	slices.Sort(list)
	return list
}

// startTrial tries an outcast whose time has come. There is one trial at a time, and none of a GPU that a worker is still
// stuck on.
func (p *poller) startTrial(ctx context.Context) {
	if p.trial != nil || p.passed != nil {
		return
	}
	var next *outcast
	for _, o := range p.out {
		if !o.retry.After(time.Now()) && ended(o.gone) && (next == nil || o.retry.Before(next.retry)) {
			next = o
		}
	}
	if next == nil {
		return
	}
	w, err := p.c.start()
	if err != nil {
		next.retry = time.Now().Add(p.c.hungRetry)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &trial{gpu: next, worker: w, cancel: cancel, done: make(chan result, 1)}
	p.trial = t
	req := p.c.request(request{Seq: 1, Want: p.c.always() | tierSlow | tierStatic, Skip: p.skip(next), Only: next.id(), patient: true})
	go func() {
		r := result{}
		r.rep, r.err = w.poll(ctx, req, p.c.opts.StartTimeout)
		if !r.good() { // here, for one that is stuck takes long to kill, and the other GPUs are to be read meanwhile
			r.gone = w.kill()
		}
		t.done <- r
	}()
}

// finishTrial takes in the outcome of a trial that is over. A GPU that was read is read by the other worker from then on.
func (p *poller) finishTrial() {
	t := p.trial
	if t == nil {
		return
	}
	var r result
	select {
	case r = <-t.done:
	default:
		return
	}
	p.trial = nil
	t.cancel()
	p.c.calls.observe(r.rep.Calls)
	if r.good() {
		delete(p.out, t.gpu.id())
		p.passed = t.worker // it holds the GPU attached, so that the other gets hold of it at once
		return
	}
	t.gpu.retry = time.Now().Add(p.c.hungRetry)
	t.gpu.gone = r.gone
	p.abandon(r.gone, false)
	if r.err != nil {
		if f := failed(r.err); f.gpu != nil {
			p.c.exclude(t.gpu.place, fmt.Sprintf("%s: left out, and tried again every %s", f.err, p.c.hungRetry), f.reason)
		}
	}
}

// pass ends the worker of a trial that went well.
func (p *poller) pass() {
	if p.passed != nil {
		p.kill(p.passed, false)
		p.passed = nil
	}
}

// nothing logs that there are no GPUs: in one short line what was looked for, and the places where only for who debugs.
func (p *poller) nothing(rep reply) {
	args := []any{"why", rep.Error}
	if len(rep.Looked) > 0 {
		args = append(args, "looked_for", strings.Join(rep.Looked, ", "))
	}
	if len(rep.Tried) == 1 {
		args = append(args, "tried", rep.Tried[0])
	}
	p.c.opts.Logger.Info("no GPUs to read", append(args, "retry", p.c.opts.Retry)...)
	for _, place := range rep.Tried {
		p.c.opts.Logger.Debug("no GPUs to read there", "tried", place)
	}
}

// absent notes that there is no driver. Where GPUs were read before, that is a failure: the driver is being replaced.
func (p *poller) absent(rep reply) (time.Duration, error) {
	tried := strings.Join(rep.Tried, "; ")
	if p.c.seen() {
		p.c.list(0)
		p.reloaded()
		return p.failed(&failure{reason: reasonReload, err: fmt.Errorf("%s: %s", rep.Error, tried)}), nil
	}
	if p.c.opts.Require {
		return 0, &noGPUError{rep.Error, rep.Tried}
	}
	p.c.fail(nil)
	p.stop(nil)
	p.backoff = 0
	if p.becomes(absent) {
		p.nothing(rep)
	}
	return p.c.opts.Retry, nil
}

// empty notes that the library works and finds no GPU.
func (p *poller) empty(rep reply) (time.Duration, error) {
	err := fmt.Errorf("%s, driver %s, works but finds no GPU: are the devices /dev/nvidia* there?", cmp.Or(rep.Library, rep.From), rep.Driver)
	if p.c.opts.Require && !p.c.seen() {
		return 0, fmt.Errorf("%w: %w", ErrNoGPU, err)
	}
	p.c.list(0)
	return p.giveUp(err, p.c.opts.Retry), nil
}

// becomes notes the condition and reports whether it is another than before.
func (p *poller) becomes(now condition) bool {
	changed := p.condition != now
	p.condition = now
	return changed
}

// stop ends the worker, if one runs, and returns a channel that is closed once it has ended. gpu is the one that it hung
// on or crashed over; nil where that is not known.
func (p *poller) stop(gpu *place) <-chan struct{} {
	if p.worker == nil {
		return nil
	}
	// One that got nowhere tells nothing of the GPU that it hung on: the next one may hang on the next GPU.
	gone := p.kill(p.worker, gpu == nil || !p.useful)
	p.worker = nil
	p.c.working(false)
	return gone
}

// kill ends a worker and returns a channel that is closed once it has ended.
func (p *poller) kill(w worker, against bool) <-chan struct{} {
	gone := w.kill()
	p.abandon(gone, against)
	return gone
}

// abandon leaves a worker behind that was killed and has not ended.
func (p *poller) abandon(gone <-chan struct{}, against bool) {
	if !ended(gone) {
		p.abandoned = append(p.abandoned, stuck{gone, against})
		p.c.opts.Logger.Error("NVML worker cannot be killed: it is stuck in the driver", "stuck", len(p.abandoned))
	}
}

// stuck returns how many abandoned workers have not ended that speak against the driver as a whole. Those that hang on one
// GPU each are not counted, because there cannot be more of them than GPUs: a GPU is not tried again while one is stuck on
// it.
func (p *poller) stuck() int {
	p.abandoned = slices.DeleteFunc(p.abandoned, func(s stuck) bool { return ended(s.gone) })
	n := 0
	for _, s := range p.abandoned {
		if s.against {
			n++
		}
	}
	return n
}

// close ends all workers.
func (p *poller) close() {
	p.stop(nil)
	p.pass()
	if t := p.trial; t != nil {
		t.cancel()
		if r := <-t.done; r.good() {
			p.kill(t.worker, false)
		} else {
			p.abandon(r.gone, false)
		}
	}
}

// ended reports whether the channel is closed, or nil.
func ended(gone <-chan struct{}) bool {
	if gone == nil {
		return true
	}
	select {
	case <-gone:
		return true
	default:
		return false
	}
}
