package rules

import (
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"flyball/rules/source"
)

// Progress is what becomes of replicas that were asked for and do not get ready, in the terms of a Deployment's
// progressDeadlineSeconds.
type Progress struct {
	// Deadline is for how long a replica that was asked for may not be ready. From then on the rule waits for it no longer, and
	// flyball_scale_overdue_replicas counts it. 0: twice startup, as it is given or was measured.
	Deadline model.Duration `yaml:"deadline"`

	// Rollback takes a change up whose replicas are past the deadline back, to the size at which all were last ready, or to
	// those that are: what the platform cannot place is not asked for, and does not keep others waiting. With `startup: auto` and
	// no deadline nothing is taken back before three starts were measured.
	Rollback bool `yaml:"rollback"`

	// Retry is for how long after a rollback nothing above the size that it led to is asked for.
	Retry model.Duration `yaml:"retry"`
}

// defaultRetry is a Deployment's progressDeadlineSeconds: as long as what could not be placed may take to be.
const defaultRetry = model.Duration(10 * time.Minute)

// whole is the size at which all replicas were ready when that was last so.
type whole struct {
	at       time.Time // zero: never seen
	replicas int
}

// rollback is a change up that was taken back.
type rollback struct {
	at time.Time // of the last decision for it; zero: none counts
	to int
}

// deadline is for how long a replica that was asked for may not be ready.
func (p *pipeline) deadline() time.Duration {
	if given := time.Duration(p.rule.Progress.Deadline); given > 0 {
		return given
	}
	return 2 * p.st.startup(p.rule.Startup)
}

// timed says that the deadline is one that somebody gave, or that starts which were seen did. Servers that take longer to start
// than is assumed before would else be taken back each time, and no start ever measured.
func (p *pipeline) timed() bool {
	return p.rule.Progress.Deadline > 0 || !p.rule.Startup.Auto || p.st.measured(p.rule.Startup) > 0
}

// overdueFor is for how long the first of the replicas that are missing has been, zero when none is: since it was asked for or,
// where it has been ready since, since it went.
func (p *pipeline) overdueFor() time.Duration {
	if p.st.pendingSince.IsZero() {
		return 0
	}
	since := p.st.pendingSince
	ready := p.obs.Replicas.Ready
	for _, c := range slices.Backward(p.st.changes) {
		if c.from <= ready && ready < c.to {
			if w := p.st.whole.at; w.IsZero() || c.at.Before(w) {
				c.at = latest(since, c.at)
			}
			return p.obs.At.Sub(c.at)
		}
	}
	return p.obs.At.Sub(since)
}

// late says that a replica that was asked for is past its deadline. Then waiting for it helps nobody, and may be what keeps a
// broken one from being removed.
func (p *pipeline) late() bool { return p.overdueFor() > p.deadline() }

// waits says that replicas are on their way: beside one that is late, those of a later change may be.
func (p *pipeline) waits() bool {
	return p.obs.Replicas.Ready < p.obs.Replicas.Spec && (!p.late() || p.obs.At.Sub(p.st.LastUp) <= p.deadline())
}

// progress tells of replicas that are past their deadline, and takes the change that asked for them back, if the rule wants
// that: at once, since what is not ready serves nobody, but as ever not on data that is missing. Then it keeps the size from
// growing for a while.
func (p *pipeline) progress(n int) int {
	ready, spec := p.obs.Replicas.Ready, p.obs.Replicas.Spec
	late := p.late()
	if late {
		p.d.Replicas.Overdue = spec - ready
		p.note(Overdue, fmt.Sprintf("%d of %d ready for %s", ready, spec, p.overdueFor().Round(time.Second)))
	}
	if !p.rule.Progress.Rollback {
		return n
	}
	if to, ours := p.before(); late && p.timed() && ours && to < p.current && !p.missing {
		p.st.rolledBack = rollback{p.obs.At, to}
		if n > to {
			return p.keep(Overdue, n, to, fmt.Sprintf("the change from %d is taken back", to))
		}
		return n
	}
	back := p.st.rolledBack
	left := time.Duration(p.rule.Progress.Retry) - p.obs.At.Sub(back.at)
	if back.at.IsZero() || left <= 0 {
		p.st.rolledBack = rollback{}
		return n
	}
	if most := max(back.to, p.current); n > most {
		return p.keep(Overdue, n, most, fmt.Sprintf("more was asked for and did not get ready, tried again in %s", left.Round(time.Second)))
	}
	return n
}

// before is the size that a change up which is not whole is taken back to, and whether the change was the rule's own and the
// last, and it, or the first of several up in a row, is past the deadline: a replica may have been missing before.
func (p *pipeline) before() (to int, ours bool) {
	was := p.st.whole
	if was.at.IsZero() || len(p.st.changes) == 0 {
		return 0, false
	}
	last := p.st.changes[len(p.st.changes)-1]
	if last.to <= last.from || last.to != p.current || last.at.Before(was.at) {
		return 0, false
	}
	first := last
	for _, c := range slices.Backward(p.st.changes) {
		if c.to <= c.from || c.at.Before(was.at) {
			break
		}
		first = c
	}
	return max(was.replicas, p.obs.Replicas.Ready), p.obs.At.Sub(first.at) > p.deadline()
}

func (s *Scale) validateProgress(d *source.Decoder, path string) {
	switch given := time.Duration(s.Progress.Deadline); {
	case given < 0:
		d.FaultAt(path+".deadline", 0, "deadline is %s: expected more than 0", s.Progress.Deadline)
	case given > 0 && !s.Startup.Auto && given < s.Startup.Given:
		d.FaultAt(path+".deadline", 0, "deadline is %s, less than startup, %s: replicas would be late that are not", s.Progress.Deadline, s.Startup)
	case given > MaxPeriod:
		d.FaultAt(path+".deadline", 0, "deadline is %s: expected at most %s", s.Progress.Deadline, model.Duration(MaxPeriod))
	}
	if retry := time.Duration(s.Progress.Retry); retry < 0 || retry > MaxPeriod {
		d.FaultAt(path+".retry", 0, "retry is %s: expected 0s to %s", s.Progress.Retry, model.Duration(MaxPeriod))
	}
	if s.Progress.Rollback && len(s.Variants) > 0 {
		d.FaultAt(path+".rollback", 0, "a rule with variants takes nothing back: which of them does not get ready is not what their prices say")
	}
}
