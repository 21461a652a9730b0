package batchproxy

import (
	"math"
	"time"
)

// tuning is what a batcher sets by itself.
type tuning struct {
	effective int       // rows in a batch, at most
	off       bool      // batching does not pay
	ceiling   int       // rows above which replicas have refused batches; 0 where they have not
	raised    time.Time // when the ceiling was last moved
	since     int       // batches since the last probes, up to probeEvery
	probes    int       // since then
	changes   []Change
}

// Change is a parameter that a [Batcher] has set anew.
type Change struct {
	Parameter     string // one of Parameters
	Before, After float64
}

const (
	effectiveMaxBatch = "effective_max_batch"
	batching          = "batching"          // 1 on, 0 off
	concurrencyLimit  = "concurrency_limit" // of a replica, which its limiter sets
)

// Parameters are what is set by what was learned.
func Parameters() []string { return []string{effectiveMaxBatch, batching, inflight, concurrencyLimit} }

const (
	// offBelow is the gain of the largest batch below which requests are sent one by one: the work of merging and
	// splitting is not worth less than 10 %.
	offBelow = 1.1
	// atLeast is what a change of a parameter must be predicted to make of a difference.
	atLeast = 0.05
	// enough is the part of the rows a second at the largest size that a smaller one must reach to be taken, where short
	// batches are asked for, by an SLO or the objective: what it loses is lost to clients that fill every batch.
	enough = 0.95
	// While batching is off, one batch in probeEvery carries what is queued together, probeRun times in a row: the first
	// batches of a size are left out of the fit.
	probeEvery = 500
	probeRun   = 3
	// maxProbe is the size of a probe: enough to see a gain, and not a surprise to those in it.
	maxProbe = 8
	// raiseEvery is how long the ceiling stands before one more row is tried.
	raiseEvery = time.Minute
	// maxChanges bounds those that nobody has asked for.
	maxChanges = 64
)

func newTuning(rule Rule) tuning {
	t := tuning{effective: max(rule.MaxSize, 1)}
	if rule.Mode == ModeOff {
		t.effective = 1
	}
	return t
}

// forget keeps what was told, not what was learned.
func (t *tuning) forget(rule Rule) {
	t.ceiling, t.since, t.probes = 0, 0, 0
	if rule.Mode != ModeOff {
		t.set(batching, t.off, 0, 1)
		t.off = false
	}
}

// set notes a change, if it is one.
func (t *tuning) set(parameter string, changed bool, before, after float64) {
	if changed && len(t.changes) < maxChanges {
		t.changes = append(t.changes, Change{Parameter: parameter, Before: before, After: after})
	}
}

// Changes are those since the last call.
func (b *Batcher[R]) Changes() []Change {
	out := b.changes
	b.changes = nil
	return out
}

// refused halves the ceiling.
func (t *tuning) refused(now time.Time, rows int) {
	if rows < 2 {
		return
	}
	half := max(rows/2, 1)
	if t.ceiling == 0 || half < t.ceiling {
		t.ceiling = half
	}
	t.raised = now
}

// tune sets the parameters by what is known now.
func (b *Batcher[R]) tune(now time.Time) {
	if b.rule.Mode == ModeOff {
		return
	}
	if b.ceiling > 0 && now.Sub(b.raised) >= raiseEvery {
		b.ceiling++
		b.raised = now
		if b.ceiling >= b.rule.MaxSize {
			b.ceiling = 0
		}
	}
	allowed := b.rule.MaxSize
	if b.ceiling > 0 {
		allowed = min(allowed, b.ceiling)
	}
	if b.rule.Mode == ModeAdaptive && b.service.known && b.rule.MaxSize > 1 {
		gain := b.service.gain(b.rule.MaxSize)
		switch {
		case !b.off && b.service.sloped && gain < offBelow:
			b.off, b.since = true, 0
			b.set(batching, true, 1, 0)
		case b.off && gain >= offBelow*(1+atLeast):
			b.off = false
			b.set(batching, true, 0, 1)
		}
	}
	want := allowed
	switch {
	case b.off:
		want = 1
	case b.rule.Mode == ModeAdaptive && b.service.sloped:
		want = b.wanted(allowed)
		// A size that takes nearly as long as the present one is no better.
		present, better := b.service.at(min(b.effective, allowed)), b.service.at(want)
		if b.effective > 1 && math.Abs(present-better) < atLeast*present {
			want = min(b.effective, allowed)
		}
	}
	if want != b.effective {
		b.set(effectiveMaxBatch, true, float64(b.effective), float64(want))
		b.effective = want
		for _, l := range b.active.members {
			l.held = false
			b.mark(l)
		}
	}
}

// wanted is how many rows a batch should have: all that are allowed or, where short batches are asked for, the fewest with
// which a replica does nearly as many a second; and no more than what half of the SLO leaves time for: the other half is for
// waiting.
func (b *Batcher[R]) wanted(allowed int) int {
	n := float64(allowed)
	short := b.rule.Objective == ObjectiveLatency || b.rule.SLO > 0
	if short && b.rule.Objective != ObjectiveThroughput && b.rule.Objective != ObjectiveCost {
		// The smallest n with n/S(n) >= r.
		if r := enough * n / b.service.of(n); b.service.a*r < 1 {
			n = min(n, math.Ceil(r*b.service.b/(1-b.service.a*r)-1e-9))
		}
	}
	if half := b.rule.SLO.Seconds() / 2; half > 0 && b.service.of(n) > half && b.service.a > 0 {
		n = math.Floor((half - b.service.b) / b.service.a)
	}
	return int(min(max(n, 1), float64(allowed)))
}

// probe reports whether the next batch, of so many rows queued, shall be a probe although batching is off.
func (t *tuning) probe(queued int) bool {
	if !t.off {
		return false
	}
	if t.since < probeEvery {
		t.since++
		return false
	}
	if queued < 2 {
		return false
	}
	if t.probes++; t.probes == probeRun {
		t.since, t.probes = 0, 0
	}
	return true
}

// probed is the size of a probe.
func (b *Batcher[R]) probed() int {
	if b.ceiling > 0 {
		return min(maxProbe, b.ceiling, b.rule.MaxSize)
	}
	return min(maxProbe, b.rule.MaxSize)
}
