package gpu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Run reads the GPUs until ctx is done, then ends the worker and returns nil. It returns before that only where
// Options.Require is set and there is no driver or no GPU: an error that wraps ErrNoGPU.
func (c *Collector) Run(ctx context.Context) error {
	p := poller{c: c}
	defer p.stop()
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
	worker    worker // nil when none runs
	seq       uint64
	backoff   time.Duration     // before the next worker; 0 after a success
	abandoned []<-chan struct{} // workers that were killed and did not end; closed when they do
	condition condition         // as logged last
}

// condition is what is logged when it changes.
type condition int

const (
	unknown condition = iota
	reading           // GPUs are read
	absent            // no driver: an ordinary machine
	failing           // something is there and does not work
)

// step polls once, starting a worker where none runs, and returns how long to wait before the next step. The error is
// one to return from Run.
func (p *poller) step(ctx context.Context) (time.Duration, error) {
	opts := p.c.opts
	timeout := opts.Timeout
	if p.c.unbound != "" {
		return p.absent(reply{Error: "no binding to NVML", Tried: []string{p.c.unbound}})
	}
	if p.worker == nil {
		if stuck := p.stuck(); stuck >= maxAbandoned {
			return p.failed(fmt.Errorf("%d workers are stuck in the driver: no more are started until one of them ends", stuck)), nil
		}
		w, err := p.c.start()
		if err != nil {
			return p.failed(err), nil
		}
		p.worker, timeout = w, opts.StartTimeout
	}
	p.seq++
	rep, err := p.worker.poll(ctx, request{Seq: p.seq, Library: opts.Library}, timeout)
	switch {
	case ctx.Err() != nil:
		return 0, nil
	case err != nil:
		return p.failed(err), nil
	case rep.State == stateFailed:
		return p.failed(errors.New(rep.Error)), nil
	case rep.State == stateAbsent:
		return p.absent(rep)
	case len(rep.Devices) == 0:
		return p.empty(rep)
	}
	p.backoff = 0
	p.c.accept(rep, time.Now())
	if p.becomes(reading) {
		opts.Logger.Info("reading GPUs", "gpus", len(rep.Devices), "backend", rep.Backend, "driver", rep.Driver, "library", rep.Library)
	}
	return opts.Interval, nil
}

// failed gives up the worker and returns when to start another: later after every failure in a row.
func (p *poller) failed(err error) time.Duration {
	p.backoff = min(max(2*p.backoff, minBackoff), maxBackoff)
	return p.giveUp(err, p.backoff)
}

// giveUp notes the failure and ends the worker. It returns wait.
func (p *poller) giveUp(err error, wait time.Duration) time.Duration {
	p.c.fail(err)
	p.stop()
	if p.becomes(failing) {
		p.c.opts.Logger.Warn("GPUs cannot be read", "err", err, "retry", wait)
	}
	return wait
}

// absent notes that there is no driver. Where GPUs were read before, that is a failure: the driver is being replaced.
func (p *poller) absent(rep reply) (time.Duration, error) {
	tried := strings.Join(rep.Tried, "; ")
	if p.c.seen() {
		return p.failed(fmt.Errorf("%s: %s", rep.Error, tried)), nil
	}
	if p.c.opts.Require {
		return 0, fmt.Errorf("%w: %s: %s", ErrNoGPU, rep.Error, tried)
	}
	p.c.fail(nil)
	p.stop()
	p.backoff = 0
	if p.becomes(absent) {
		p.c.opts.Logger.Info("no GPUs to read", "why", rep.Error, "tried", tried, "retry", p.c.opts.Retry)
	}
	return p.c.opts.Retry, nil
}

// empty notes that the library works and finds no GPU.
func (p *poller) empty(rep reply) (time.Duration, error) {
	err := fmt.Errorf("%s, driver %s, works but finds no GPU: are the devices /dev/nvidia* there?", cmp.Or(rep.Library, rep.From), rep.Driver)
	if p.c.opts.Require && !p.c.seen() {
		return 0, fmt.Errorf("%w: %w", ErrNoGPU, err)
	}
	return p.giveUp(err, p.c.opts.Retry), nil
}

// becomes notes the condition and reports whether it is another than before.
func (p *poller) becomes(now condition) bool {
	changed := p.condition != now
	p.condition = now
	return changed
}

// stop ends the worker, if one runs.
func (p *poller) stop() {
	if p.worker == nil {
		return
	}
	gone := p.worker.kill()
	p.worker = nil
	select {
	case <-gone:
	default:
		p.abandoned = append(p.abandoned, gone)
		p.c.opts.Logger.Error("NVML worker cannot be killed: it is stuck in the driver", "stuck", p.stuck())
	}
}

// stuck returns how many abandoned workers still have not ended.
func (p *poller) stuck() int {
	var left []<-chan struct{}
	for _, gone := range p.abandoned {
		select {
		case <-gone:
		default:
			left = append(left, gone)
		}
	}
	p.abandoned = left
	return len(left)
}
