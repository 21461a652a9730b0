package loadgen

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// recorder counts what happens in a run: in a window over the whole of it and, where intervals are asked for, in one
// window each. A request belongs to the windows of its intended start, even if its answer comes later.
type recorder struct {
	plan  windowPlan
	slots int // at most so many requests in flight

	mu          sync.Mutex // guards what follows
	whole       *window
	interval    *window   // nil without intervals, and after the last
	ended       []*window // intervals that are over, oldest first, until they are taken by settled
	inflight    int
	maxInflight int
	answered    int64 // served answers so far, whatever their windows
}

// windowPlan is how a run is cut.
type windowPlan struct {
	total time.Duration
	every time.Duration // 0: no intervals
}

// window is a part of the run and what was counted in it.
type window struct {
	from, to time.Duration // to is the planned end until the window ended
	over     bool

	counts   Counts
	codes    map[int]int64
	latency  *hdrhistogram.Histogram // microseconds from the intended start; of answers and timeouts
	lag      *hdrhistogram.Histogram // microseconds by which the generator itself was late
	examples []Example
	inflight int // of this window's requests

	answeredBefore int64 // recorder.answered at its start
	answered       int64 // served answers that came during the window
	halfway        *backlogMark
	backlog        *backlogMark // at its end
}

// backlogMark is how far a window and its queue had come at one moment.
type backlogMark struct {
	arrivals int64
	inflight int
}

func newRecorder(plan windowPlan, slots int) *recorder {
	r := &recorder{plan: plan, slots: slots, whole: newWindow(0, plan.total)}
	r.interval = r.nextInterval(0)
	return r
}

func newWindow(from, to time.Duration) *window {
	const significantFigures = 3 // a quantile is within 0.1 %
	longest := int64(maxLatency / time.Microsecond)
	return &window{
		from:    from,
		to:      to,
		codes:   make(map[int]int64),
		latency: hdrhistogram.New(1, longest, significantFigures),
		lag:     hdrhistogram.New(1, longest, significantFigures),
	}
}

// nextInterval is the interval that starts at from, or nil if there is none.
func (r *recorder) nextInterval(from time.Duration) *window {
	if r.plan.every == 0 || from >= r.plan.total {
		return nil
	}
	to := from + r.plan.every
	if r.plan.total-to < r.plan.every/100 {
		to = r.plan.total // rounding must not leave a splinter at the end
	}
	w := newWindow(from, to)
	w.answeredBefore = r.answered
	return w
}

// half is the middle of the window.
func (w *window) half() time.Duration { return w.from + (w.to-w.from)/2 }

// nextMark is the next moment at which a window wants the state of the run: its middle or its end.
func (r *recorder) nextMark() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.whole.nextMark()
	if r.interval != nil {
		next = min(next, r.interval.nextMark())
	}
	return next
}

func (w *window) nextMark() time.Duration {
	switch {
	case w.over:
		return math.MaxInt64
	case w.halfway == nil:
		return w.half()
	}
	return w.to
}

// mark notes the state of the run for the windows that want it at the moment at, which nextMark named.
func (r *recorder) mark(at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range []*window{r.whole, r.interval} {
		switch {
		case w == nil || w.nextMark() > at:
		case w.halfway == nil:
			w.halfway = r.backlogOf(w)
		default:
			r.end(w)
		}
	}
}

// stop ends the windows before their time.
func (r *recorder) stop(at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range []*window{r.whole, r.interval} {
		if w != nil && !w.over {
			w.to = min(w.to, at)
			r.end(w)
		}
	}
	r.interval = nil
}

// end ends a window and, after an interval, begins the next. The caller holds mu.
func (r *recorder) end(w *window) {
	w.over = true
	w.backlog = r.backlogOf(w)
	w.answered = r.answered - w.answeredBefore
	if w == r.interval {
		r.ended = append(r.ended, w)
		r.interval = r.nextInterval(w.to)
	}
}

func (r *recorder) backlogOf(w *window) *backlogMark {
	return &backlogMark{arrivals: w.counts.Total() + int64(w.inflight), inflight: r.inflight}
}

// arrive counts an arrival at which the generator was late by lag. It returns the interval that the request belongs to
// (nil without intervals), for leave, and whether there is a slot to send it.
func (r *recorder) arrive(at, lag time.Duration) (interval *window, send bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	send = r.inflight < r.slots
	if send {
		r.inflight++
		r.maxInflight = max(r.maxInflight, r.inflight)
	}
	for _, w := range []*window{r.whole, r.interval} {
		if w == nil {
			continue
		}
		_ = w.lag.RecordValue(microseconds(lag)) // within its range by construction
		if send {
			w.inflight++
		} else {
			w.count(outcome{kind: KindSaturated}, Example{AtSeconds: at.Seconds()})
		}
	}
	return r.interval, send
}

// leave counts the outcome of a request that arrive let through.
func (r *recorder) leave(interval *window, out outcome, example Example) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inflight--
	if out.served() {
		r.answered++
	}
	for _, w := range []*window{r.whole, interval} {
		if w != nil {
			w.inflight--
			w.count(out, example)
		}
	}
}

// count adds an outcome to the window. The caller holds the recorder's mu.
func (w *window) count(out outcome, example Example) {
	*w.counts.at(out.kind)++
	if out.status != 0 {
		w.codes[out.status]++
	}
	if out.kind.timed() {
		_ = w.latency.RecordValue(microseconds(out.latency)) // within its range by construction
	}
	if out.reason != "" && w.wants(out.kind) {
		example.Kind, example.Reason = out.kind, out.reason
		example.Expected, example.Got = out.expected, out.got
		w.examples = append(w.examples, example)
	}
}

// wants says whether another example of the kind is kept: five wrong answers, since they differ, and one of each other
// kind, since these are mostly alike.
func (w *window) wants(kind Kind) bool {
	limit := 1
	if kind == KindWrong {
		limit = 5
	}
	for _, e := range w.examples {
		if e.Kind == kind {
			limit--
		}
	}
	return limit > 0
}

// wantsWrong says whether another wrong answer would be kept as an example.
func (r *recorder) wantsWrong(interval *window) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.whole.wants(KindWrong) || interval != nil && interval.wants(KindWrong)
}

// settled takes the intervals that are over and whose requests all have their outcome, oldest first.
func (r *recorder) settled() []*window {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := slices.IndexFunc(r.ended, func(w *window) bool { return w.inflight > 0 })
	if n < 0 {
		n = len(r.ended)
	}
	taken := slices.Clone(r.ended[:n])
	r.ended = slices.Delete(r.ended, 0, n)
	return taken
}

// snapshot is the state of the run at the moment elapsed.
func (r *recorder) snapshot(elapsed time.Duration) Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.whole
	return Snapshot{
		Elapsed:  elapsed,
		Total:    r.plan.total,
		InFlight: r.inflight,
		Counts:   w.counts,
		Offered:  w.counts.Total() + int64(w.inflight),
		Answered: r.answered,
		P50:      atQuantile(w.latency, 50),
		P99:      atQuantile(w.latency, 99),
	}
}

// atQuantile is a percentile (0 to 100) of a histogram of microseconds.
func atQuantile(h *hdrhistogram.Histogram, percentile float64) time.Duration {
	return time.Duration(h.ValueAtPercentile(percentile)) * time.Microsecond
}
