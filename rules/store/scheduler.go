package store

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	promrules "github.com/prometheus/prometheus/rules"
)

// stopGrace is how long an evaluation in progress may go on after it was asked to stop: as long as one query may take by
// default, and well below the 30 s after which Kubernetes kills. A decision that is being applied is better finished than left half done.
const stopGrace = 10 * time.Second

// restoreAfter is the number of evaluations after which the "for" state of alerts is looked up, as in Prometheus: at the
// first, what the alerts ask for may not have been scraped or recorded yet.
const restoreAfter = 2

// runner evaluates one group, at its slots or when it is told to, and never twice at once.
type runner struct {
	spec    Group // as given, with the interval filled in
	key     string
	group   *promrules.Group
	metrics *metrics
	logger  *slog.Logger
	clock   *clock

	cancel context.CancelFunc // ends the loop; nil where there is none
	done   chan struct{}      // closed when the loop has ended

	mu      sync.Mutex // held during an evaluation
	pending int        // evaluations to go until alerts are restored; 0: nothing to restore
	failing []bool     // which rules failed at the last evaluation

	status sync.Mutex // guards last, which the page reads during an evaluation
	last   time.Time  // time of the last evaluation
}

// loop evaluates the group at its slots until ctx ends, and lets the evaluation in progress finish.
func (r *runner) loop(ctx context.Context) {
	defer close(r.done)
	graceful, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(stopGrace):
			cancel()
		case <-graceful.Done():
		}
	})
	defer stop()

	slot := r.group.EvalTimestamp(r.clock.read().UnixNano()).Add(r.spec.Interval)
	// Never more than an interval, whatever the time of day is said to be: it may be set back during an evaluation.
	wait := func() time.Duration { return min(slot.Sub(r.clock.read()), r.spec.Interval) }
	timer := time.NewTimer(wait())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return
		}
		now := r.clock.read()
		at, missed := skip(slot, now, r.spec.Interval)
		r.metrics.missed.WithLabelValues(r.key).Add(float64(missed))
		slot = at
		if !at.After(now) {
			r.iterate(graceful, at)
			slot = at.Add(r.spec.Interval)
		}
		timer.Reset(wait())
	}
}

// clock is the time of day, by which groups are evaluated. It says in the log when it was set.
type clock struct {
	now    func() time.Time // time.Now but in tests
	began  time.Time        // time since then passes evenly
	logger *slog.Logger

	mu   sync.Mutex // guards what follows
	wall time.Time  // of the last reading
	even time.Duration
}

// clockSteps is by how much the time of day must differ from the time that has passed since the last reading to be told.
// Corrections of less are what clocks are kept right by.
const clockSteps = 2 * time.Second

// read returns the time of day, without what makes Sub go by another clock.
func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, even := c.now().Round(0), time.Since(c.began)
	if jump := wall.Sub(c.wall) - (even - c.even); !c.wall.IsZero() && jump.Abs() > clockSteps {
		words := "the clock was set forward, or the machine slept: evaluations go on now, and those in between are left out"
		if jump < 0 {
			words = "the clock was set back: evaluations go on, and what they write is refused until the clock has caught up"
		}
		c.logger.Warn(words, "by", jump.Round(time.Millisecond))
	}
	c.wall, c.even = wall, even
	return wall
}

// skip returns the slot to evaluate at now, when slot was to be next, and how many were missed before it. It is slot
// itself unless a whole interval has passed since, or the clock was set back: then it is the next one to wait for.
func skip(slot, now time.Time, interval time.Duration) (at time.Time, missed int) {
	late := now.Sub(slot)
	if late < 0 {
		return slot.Add(-(-late / interval * interval)), 0
	}
	n := late / interval
	return slot.Add(n * interval), int(n)
}

// iterate evaluates the group once, at the time at.
func (r *runner) iterate(ctx context.Context, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = at.Truncate(time.Millisecond) // the store's resolution, so that an Evaluator asks for the time it writes to
	promrules.DefaultEvalIterationFunc(ctx, r.group, at)
	r.status.Lock()
	r.last = at
	r.status.Unlock()
	r.report(at)
	if r.pending > 0 {
		r.pending--
		if r.pending == 0 {
			r.group.RestoreForState(at)
		}
	}
}

// report counts and logs how the evaluation went. Failures are counted each time and logged when they begin and end.
func (r *runner) report(at time.Time) {
	r.metrics.duration.WithLabelValues(r.key).Set(r.group.GetEvaluationTime().Seconds())
	r.metrics.last.WithLabelValues(r.key).Set(float64(at.UnixMilli()) / 1000)
	for i, rule := range r.group.Rules() {
		failed := rule.Health() == promrules.HealthBad
		failures := r.metrics.failures.WithLabelValues(r.key, rule.Name()) // at 0 too, so that increase() sees the first
		if failed {
			failures.Inc()
		}
		switch {
		case failed && !r.failing[i]:
			r.logger.Warn("rule fails", "group", r.key, "rule", rule.Name(), "err", rule.LastError())
		case !failed && r.failing[i]:
			r.logger.Info("rule works again", "group", r.key, "rule", rule.Name())
		}
		r.failing[i] = failed
	}
}

// due tells whether an interval has passed since the last evaluation.
func (r *runner) due(at time.Time) bool {
	last := r.lastEvaluation()
	return last.IsZero() || at.Sub(last) >= r.spec.Interval
}

func (r *runner) lastEvaluation() time.Time {
	r.status.Lock()
	defer r.status.Unlock()
	return r.last
}

// start begins the loop; stop ends it and waits.
func (r *runner) start(ctx context.Context, wg *sync.WaitGroup) {
	ctx, r.cancel = context.WithCancel(ctx)
	r.done = make(chan struct{})
	wg.Go(func() { r.loop(ctx) })
}

func (r *runner) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	<-r.done
	r.cancel = nil
}

// adopt takes over the state of the group that this one replaces, which must have stopped.
func (r *runner) adopt(old *runner) {
	old.mu.Lock()
	defer old.mu.Unlock()
	r.group.CopyState(old.group)
	r.last = old.lastEvaluation()
	r.pending = old.pending

	written := map[string]*evaluatorRule{}
	for _, rule := range old.group.Rules() {
		if e, ok := rule.(*evaluatorRule); ok {
			written[e.Name()] = e
		}
	}
	for _, rule := range r.group.Rules() {
		if e, ok := rule.(*evaluatorRule); ok && written[e.Name()] != nil {
			e.written = written[e.Name()].written
		}
	}
}

// quietHandler drops five lines of Prometheus's: the one at each evaluation of a rule that fails, once a second at an
// interval of 1 s, which report says once; those at each scrape and rule while the disk has no room, which room says once; the one at each request to an Alertmanager that is down, of which posts says the
// first; the error of targets whose job a reload has just taken away, of which discovery has yet to hear; and the warning of
// a lock file after kill -9, which nobody has to act on (a lock that is held is an error). Everything else passes.
type quietHandler struct{ slog.Handler }

func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	switch r.Message {
	case "Evaluating rule failed", "Error sending alerts", "error reloading target set", "A lockfile from a previous execution already existed. It was replaced":
		return nil
	}
	noRoom := false
	r.Attrs(func(a slog.Attr) bool {
		err, is := a.Value.Any().(error)
		noRoom = is && errors.Is(err, ErrNoRoom)
		return !noRoom
	})
	if noRoom {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(attrs)}
}

func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}
