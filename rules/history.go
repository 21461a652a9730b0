package rules

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/forecast"
)

// history is how far the past of a forecast rule's query is known. Another takes its place when it is to be loaded anew.
type history struct {
	loading, loaded bool
	steps, of       int64 // that had a value, and that were asked for
	retry           time.Time
	pause           time.Duration
	failed          string // why it could not be loaded, "" when it was
}

const (
	// historyChunk is how many steps one query of a history asks for: 2,000 raw series with a sample every 15 seconds are
	// within the 5 million samples of the engine's limit. Where that is too much it is a quarter, and a quarter of that.
	historyChunk = 500

	// fitDeadline is how long a fit of one series may take: twenty times what it usually does on one core.
	fitDeadline = 2 * time.Second

	firstWait, longestWait = time.Minute, time.Hour // before what failed is tried again
)

func nextWait(p time.Duration) time.Duration { return min(max(2*p, firstWait), longestWait) }

// loadHistory has the past loaded, where it is not yet.
func (p *Predictor) loadHistory(ctx context.Context, at time.Time) {
	p.mu.Lock()
	h := p.history
	busy := false
	for _, t := range p.tracks {
		busy = busy || t.fitting
	}
	if h.loaded || h.loading || busy || at.Before(h.retry) {
		p.mu.Unlock()
		return
	}
	h.loading = true
	last := p.stepOf(at) - 1
	if p.started {
		last = p.next - 1
	}
	for _, t := range p.tracks {
		t.since = nil
	}
	p.mu.Unlock()
	p.opts.Workers.do(ctx, func(ctx context.Context) { p.load(ctx, h, last, at) })
}

// load loads the past up to a step, and has its forecasters take the place of those that began without.
func (p *Predictor) load(ctx context.Context, h *history, last int64, at time.Time) {
	began := time.Now()
	past, steps, err := p.past(ctx, last)
	var driven drive
	if first := max(0, last-p.keeps+1); err == nil && first <= last {
		driven, err = p.askDrive(ctx, first, last-first+1, func(key string) bool { return past[key] != nil })
	}
	var tracks map[string]*track
	if err == nil {
		tracks, err = p.fitPast(ctx, past, driven, last, at)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.history != h || p.closed {
		return
	}
	h.loading = false
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		h.pause = nextWait(h.pause)
		h.retry = at.Add(h.pause)
		if h.failed == "" {
			p.log.Warn("a forecast's history cannot be loaded; it goes by what comes, and tries again", "err", err)
		}
		h.failed = err.Error()
		return
	}
	for key, t := range tracks {
		old := p.tracks[key]
		if old == nil && len(p.tracks) >= p.rule.Limit {
			continue
		}
		if old != nil {
			t.missing, t.anomalies, t.anomaly = old.missing-missingOf(old.since), old.anomalies, old.anomaly
			for _, o := range old.since {
				t.take(p, o.step, o.y, o.x)
			}
		}
		t.refresh(p)
		p.tracks[key] = t
	}
	for _, t := range p.tracks {
		t.since = nil
	}
	h.loaded, h.failed, h.steps, h.of = true, "", steps, min(p.keeps, last+1)
	p.log.Info(fmt.Sprintf("history loaded: %s of %s steps", thousands(h.steps), thousands(h.of)), "series", len(tracks), "took", time.Since(began).Round(time.Millisecond))
}

func missingOf(all []late) (n int64) {
	for _, o := range all {
		if math.IsNaN(o.y) {
			n++
		}
	}
	return n
}

// pastSeries is one series of the past, and the last step at which it had a value.
type pastSeries struct {
	labels labels.Labels
	values []float64
	heard  int64
}

// past asks for the steps up to one, and says how many of them had a value.
func (p *Predictor) past(ctx context.Context, last int64) (map[string]*pastSeries, int64, error) {
	first := max(0, last-p.keeps+1)
	all := map[string]*pastSeries{}
	heard := make([]bool, max(0, last-first+1))
	chunk := int64(historyChunk)
	for from := first; from <= last; {
		if p.isClosed() {
			return nil, 0, context.Canceled
		}
		n := min(chunk, last-from+1)
		a, err := p.askRange(ctx, p.rule.Query, from, n)
		if err != nil {
			if ctx.Err() != nil || chunk <= historyChunk/16 {
				return nil, 0, err
			}
			chunk /= 4
			continue
		}
		for _, s := range a.series {
			one := all[s.key]
			if one == nil {
				one = &pastSeries{labels: s.labels, values: missingValues(int64(len(heard)))}
				all[s.key] = one
			}
			copy(one.values[from-first:], s.values)
			for i, v := range s.values {
				if !math.IsNaN(v) {
					heard[from-first+int64(i)] = true
					one.heard = from + int64(i)
				}
			}
		}
		if len(all) > 2*p.rule.Limit {
			newest(all, p.rule.Limit)
		}
		from += n
	}
	newest(all, p.rule.Limit)
	steps := int64(0)
	for _, h := range heard {
		if h {
			steps++
		}
	}
	return all, steps, nil
}

// newest leaves the n series that were heard of last.
func newest(all map[string]*pastSeries, n int) {
	keys := sortedKeys(all)
	slices.SortStableFunc(keys, func(a, b string) int { return int(all[b].heard - all[a].heard) })
	for _, key := range keys[min(n, len(keys)):] {
		delete(all, key)
	}
}

// fitPast makes the forecasters of the past up to a step. The newest part of it is forecast from the rest, a value at a time:
// so it is known from the start how good the forecasts are.
func (p *Predictor) fitPast(ctx context.Context, past map[string]*pastSeries, driven drive, last int64, at time.Time) (map[string]*track, error) {
	tracks := map[string]*track{}
	for _, key := range sortedKeys(past) {
		s := past[key]
		begin := slices.IndexFunc(s.values, func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) })
		if begin < 0 {
			continue
		}
		if p.isClosed() {
			return nil, context.Canceled
		}
		t, err := p.newTrack(s.labels)
		if err != nil {
			return nil, err
		}
		values := s.values[begin:]
		if p.rule.Missing == missingZero {
			for i, v := range values {
				if math.IsNaN(v) {
					values[i] = 0
				}
			}
		}
		first := last - int64(len(values)) + 1
		var failed error
		if !p.opts.Workers.fit(ctx, func() {
			failed = p.fitTrack(ctx, t, values, first, &driven, key)
		}) {
			return nil, ctx.Err()
		}
		if failed != nil {
			return nil, failed
		}
		t.begun, t.heard, t.last, t.fitted = true, s.heard, last, at
		t.recent = slices.Clone(values[max(0, len(values)-p.kept()):])
		tracks[key] = t
	}
	return tracks, nil
}

// fitTrack fits a forecaster to values of the past, with what drove them.
func (p *Predictor) fitTrack(ctx context.Context, t *track, values []float64, first int64, driven *drive, key string) error {
	h := max(1, int(p.rule.Horizon/p.rule.Step))
	held := min(max(int(p.day), (scored+1)*h), len(values)/3)
	known := len(values) - held
	began := time.Now()
	t.f.Ahead(driven.ahead(key, first)) // a fit counts on as much being known ahead
	t.f.FitWith(values[:known], p.time(first), driven.from(key, first))
	for i, y := range values[known:] {
		step := first + int64(known+i)
		t.f.Ahead(driven.ahead(key, step))
		t.judge(p, step, y, true)
		t.f.ObserveWith(p.time(step), y, driven.at(nil, key, step))
	}
	t.f.Ahead(driven.ahead(key, first+int64(len(values))))
	err := t.f.Refit(ctx)
	p.opts.Metrics.fitted.Observe(time.Since(began).Seconds())
	return err
}

func (p *Predictor) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// refit has the forecasters whose time it is fitted anew.
func (p *Predictor) refit(ctx context.Context, at time.Time) {
	p.mu.Lock()
	var due []*track
	for _, key := range sortedKeys(p.tracks) {
		if t := p.tracks[key]; !p.history.loading && t.begun && !t.fitting && t.f.Due() && !at.Before(t.retry) {
			t.fitting, t.since = true, nil
			due = append(due, t)
		}
	}
	p.mu.Unlock()
	for _, t := range due {
		p.opts.Workers.do(ctx, func(ctx context.Context) {
			if !p.opts.Workers.fit(ctx, func() { p.refitTrack(ctx, t, at) }) {
				p.mu.Lock()
				defer p.mu.Unlock()
				t.fitting, t.since = false, nil
			}
		})
	}
}

// refitTrack fits a copy of a forecaster, which takes the place of the one that went on meanwhile, with what came since. One
// that takes too long is thrown away.
func (p *Predictor) refitTrack(ctx context.Context, t *track, at time.Time) {
	p.mu.Lock()
	state, err := t.f.MarshalBinary()
	t.since = nil
	p.mu.Unlock()
	var f *forecast.Forecaster
	if err == nil {
		f, err = p.revive(state)
	}
	began := time.Now()
	if err == nil {
		if p.opts.Workers != nil { // virtual time knows no deadline
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, fitDeadline)
			defer cancel()
		}
		err = f.Refit(ctx)
		p.opts.Metrics.fitted.Observe(time.Since(began).Seconds())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.fitting = false
	since := t.since
	t.since = nil
	if err != nil {
		t.pause = nextWait(t.pause)
		t.retry = at.Add(t.pause)
		p.opts.Metrics.overruns.Inc()
		p.log.Debug("a forecast keeps its models: they could not be fitted anew", "series", t.labels.String(), "err", err)
		return
	}
	for _, o := range since {
		y := o.y
		if math.IsNaN(y) && p.rule.Missing == missingZero {
			y = 0
		}
		f.ObserveWith(p.time(o.step), y, o.x)
	}
	t.f, t.fitted, t.pause, t.retry = f, at, 0, time.Time{}
	t.refresh(p)
}

// thousands is a number with commas.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
