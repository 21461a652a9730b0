package rules

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// maxProposal bounds what a signal may ask for before max does, so that a huge value cannot overflow.
const maxProposal = 1_000_000

// Decide is the whole of deciding: a pure function of the rule, what was observed and what is remembered. It reads no
// clock and does no I/O; the stages run in a fixed order and each adds its reason:
//
//	propose    each signal and each step that fired asks for a size
//	combine    the largest of them; `hold` keeps it from going down
//	gate       down needs every query that is not optional; nothing goes down while replicas are not ready
//	stabilize  down to the highest recommendation of its window, up to the lowest of its own
//	cooldown   no change for a time after the last one in the same direction
//	limit      the policies, then min and max
//
// The returned state has this evaluation in its memory; State.Applied adds the change when it was carried out.
func Decide(rule *Scale, obs Observation, st State) (Decision, State) {
	d := Decision{
		Time: obs.At, Rule: rule.Name, Target: rule.Target.String(), Mode: rule.Mode,
		Replicas: Replicas{
			Spec: obs.Replicas.Spec, Ready: obs.Replicas.Ready, Pending: obs.Replicas.Pending, Min: rule.Min, Max: rule.Max,
		},
		Queries: obs.Answers,
	}
	p := &pipeline{rule: rule, obs: &obs, st: &st, d: &d, current: obs.Replicas.Spec}
	if obs.TargetError != "" {
		p.current = st.Replicas
		p.keep(ActuatorError, "the target cannot be observed: "+obs.TargetError)
		return p.finish(p.current), st
	}
	p.pending()
	combined := p.propose()
	d.Combined = combined
	d.Gated = p.gate(combined)
	d.Stabilized = p.stabilize(d.Gated)
	d.Limited = p.limit(p.cooldown(d.Stabilized))
	return p.finish(d.Limited), st
}

// pipeline is one run of Decide.
type pipeline struct {
	rule    *Scale
	obs     *Observation
	st      *State
	d       *Decision
	current int

	wants []string // what moves the size, in words
	held  []string // what holds it
}

func (p *pipeline) keep(r Reason, words string) {
	p.d.because(r)
	p.held = append(p.held, words)
}

// pending notes since when replicas that were asked for have not been ready.
func (p *pipeline) pending() {
	switch {
	case p.obs.Replicas.Ready >= p.obs.Replicas.Spec:
		p.st.pendingSince = time.Time{}
	case p.st.pendingSince.IsZero():
		p.st.pendingSince = p.obs.At
	}
}

func (p *pipeline) propose() (combined int) {
	env := p.obs.environment(p.rule, *p.st)
	combined = -1
	var main string // the words of the signal that asks for most
	for i := range p.rule.Signals {
		s := &p.rule.Signals[i]
		record := SignalRecord{Name: s.Name, TargetPerReplica: s.TargetPerReplica}
		record.Reason = p.obs.fault(s.value)
		if record.Reason == "" {
			v, err := s.value.number(env)
			if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
				record.Reason = MetricNaN
			} else {
				n := p.size(s, v)
				record.Value, record.Proposal, record.Reason = &v, &n, p.direction(n)
				if n > combined {
					combined = n
					main = fmt.Sprintf("%s %s at %s a replica needs %d", s.Name, figure(v), figure(s.TargetPerReplica), n)
				}
			}
		}
		p.d.Signals = append(p.d.Signals, record)
	}
	step := -1
	hold := false
	for i := range p.rule.When {
		record, n := p.step(i, env)
		p.d.Steps = append(p.d.Steps, record)
		if !record.Fired {
			continue
		}
		if p.rule.When[i].do.hold {
			hold = true
			continue
		}
		// A step counts from the replicas that there are, so while the last ones are on their way it would count them
		// again at every evaluation.
		if n > p.current && p.obs.Replicas.Pending > 0 {
			p.keep(InFlight, fmt.Sprintf("%s waits: %d of %d ready", record.Do, p.obs.Replicas.Ready, p.obs.Replicas.Spec))
			n = p.current
		}
		if n > step {
			step = n
		}
		if n >= combined {
			main = fmt.Sprintf("%s: %s", p.rule.When[i].words(), record.Do)
		}
	}
	fired := step >= combined && step >= 0
	combined = max(combined, step)
	if combined < 0 { // nothing to go by
		combined = p.current
	}
	if hold && combined < p.current {
		p.keep(StepRule, "hold")
		combined = p.current
	}
	if main != "" {
		p.wants = append(p.wants, main)
	}
	switch {
	case fired && combined != p.current:
		p.d.because(StepRule)
	case combined != p.current || len(p.d.Signals) > 0 && p.anyValid():
		p.d.because(p.direction(combined))
	}
	return combined
}

func (p *pipeline) anyValid() bool {
	for _, s := range p.d.Signals {
		if s.Proposal != nil {
			return true
		}
	}
	return false
}

// size is how many replicas a value needs: value/target rounded up, unless the replicas that there are come within the
// tolerance (the HPA's arithmetic for an average value).
func (p *pipeline) size(s *Signal, v float64) int {
	ratio := v / (s.TargetPerReplica * float64(max(p.current, 1)))
	if p.current > 0 && math.Abs(ratio-1) <= *s.Tolerance {
		return p.current
	}
	// What a sum of floating-point rates is off by must not buy a replica.
	n := math.Ceil(v/s.TargetPerReplica - 1e-9)
	return int(math.Max(0, math.Min(n, maxProposal)))
}

func (p *pipeline) direction(n int) Reason {
	switch {
	case n > p.current:
		return AboveTarget
	case n < p.current:
		return BelowTarget
	}
	return WithinTolerance
}

// step evaluates one step and returns the size that it asks for when it fired.
func (p *pipeline) step(i int, env environment) (StepRecord, int) {
	step := &p.rule.When[i]
	record := StepRecord{If: step.If, Do: step.Do, Fault: p.obs.fault(step.condition)}
	if record.Fault != "" {
		// Neither true nor false: `for` starts again when the data is back.
		p.st.hold(i, false, p.obs.At)
		return record, 0
	}
	holds, err := step.condition.bool(env)
	if err != nil {
		record.Fault = MetricNaN
		return record, 0
	}
	record.Holds = holds
	since := p.st.hold(i, holds, p.obs.At)
	record.Fired = holds && p.obs.At.Sub(since) >= time.Duration(step.For)
	if !record.Fired {
		return record, 0
	}
	n := step.do.from(p.current)
	record.Proposal = &n
	return record, n
}

func (s *Step) words() string {
	if s.Reason != "" {
		return s.Reason
	}
	return s.If
}

// gate keeps a decision that would go down from doing so on data that is not whole, or while replicas that were asked
// for are not ready. What is wrong is said whatever the size does.
func (p *pipeline) gate(n int) int {
	safe := true
	for _, a := range p.obs.Answers {
		if a.Fault == "" {
			continue
		}
		if !a.Optional {
			safe = false
		}
		p.keep(a.Fault, fmt.Sprintf("%s: %s", a.Name, a.Detail))
	}
	for _, s := range p.d.Signals {
		if s.Reason == MetricNaN && p.obs.fault(p.signal(s.Name).value) == "" {
			p.keep(MetricNaN, s.Name+" is not a number")
			safe = false
		}
	}
	if missing := p.obs.Replicas.Spec - p.obs.Replicas.Ready; missing > 0 && n <= p.current {
		// Past twice the time that a start takes, waiting for it helps nobody, and may be what keeps a broken
		// replica from being removed.
		late := p.obs.At.Sub(p.st.pendingSince) > 2*time.Duration(p.rule.Startup)
		p.keep(InFlight, fmt.Sprintf("%d of %d ready", p.obs.Replicas.Ready, p.obs.Replicas.Spec))
		if !late {
			safe = false
		}
	}
	if n < p.current && !safe {
		return p.current
	}
	return n
}

func (p *pipeline) signal(name string) *Signal {
	for i := range p.rule.Signals {
		if p.rule.Signals[i].Name == name {
			return &p.rule.Signals[i]
		}
	}
	return nil
}

// stabilize is the HPA's: within the window of its direction, up goes to the lowest recommendation and down to the
// highest. The memory of a fresh start holds the size found there, so that a restart does not shorten a window.
func (p *pipeline) stabilize(n int) int {
	up, down := time.Duration(*p.rule.Behavior.Up.Window), time.Duration(*p.rule.Behavior.Down.Window)
	now := p.obs.At
	longest := time.Duration(0)
	for _, dir := range []Direction{p.rule.Behavior.Up, p.rule.Behavior.Down} {
		for _, policy := range dir.Policies {
			longest = max(longest, time.Duration(policy.Period))
		}
	}
	first := len(p.st.recommendations) == 0
	p.st.forget(now.Add(-longest), now.Add(-max(up, down)))
	if first {
		p.st.recommendations = append(p.st.recommendations, recommendation{now, p.current})
	}
	lowest, highest := n, n
	for _, r := range p.st.recommendations {
		if r.at.After(now.Add(-up)) {
			lowest = min(lowest, r.replicas)
		}
		if r.at.After(now.Add(-down)) {
			highest = max(highest, r.replicas)
		}
	}
	p.st.recommendations = append(p.st.recommendations, recommendation{now, n})
	stable := p.current
	if stable < lowest {
		stable = lowest
	}
	if stable > highest {
		stable = highest
	}
	switch {
	case stable == n:
	case n < p.current:
		p.keep(Stabilized, fmt.Sprintf("the last %s needed %d", p.rule.Behavior.Down.Window, min(highest, p.current)))
	case n > p.current:
		p.keep(Stabilized, fmt.Sprintf("not for all of %s yet", p.rule.Behavior.Up.Window))
	}
	return stable
}

func (p *pipeline) cooldown(n int) int {
	wait := func(last time.Time, cooldown model.Duration, word string) int {
		left := time.Duration(cooldown) - p.obs.At.Sub(last)
		if last.IsZero() || left <= 0 {
			return n
		}
		p.keep(Cooldown, fmt.Sprintf("%s again in %s", word, round(left)))
		return p.current
	}
	switch {
	case n > p.current:
		return wait(p.st.LastUp, p.rule.Behavior.Up.Cooldown, "up")
	case n < p.current:
		return wait(p.st.LastDown, p.rule.Behavior.Down.Cooldown, "down")
	}
	return n
}

// limit applies the policies, counted from the size at the start of their period as the HPA does, and then min and max,
// which are absolute.
func (p *pipeline) limit(n int) int {
	if dir := p.rule.Behavior.Up; n > p.current && len(dir.Policies) > 0 {
		ceiling, by := p.current, dir.Policies[0]
		for _, policy := range dir.Policies {
			added, removed := p.st.moved(p.obs.At.Add(-time.Duration(policy.Period)))
			start := p.current - added + removed
			to := start + policy.Replicas
			if policy.Percent > 0 {
				to = int(math.Ceil(float64(start) * (1 + policy.Percent/100)))
			}
			if to > ceiling {
				ceiling, by = to, policy
			}
		}
		if n > ceiling {
			p.keep(ScaleUpRate, "up at most "+by.words())
			n = ceiling
		}
	}
	if dir := p.rule.Behavior.Down; n < p.current && len(dir.Policies) > 0 {
		floor, by := p.current, dir.Policies[0]
		for _, policy := range dir.Policies {
			added, removed := p.st.moved(p.obs.At.Add(-time.Duration(policy.Period)))
			start := p.current - added + removed
			to := start - policy.Replicas
			if policy.Percent > 0 {
				to = int(math.Floor(float64(start) * (1 - policy.Percent/100)))
			}
			if to < floor {
				floor, by = to, policy
			}
		}
		if n < floor {
			p.keep(ScaleDownRate, "down at most "+by.words())
			n = floor
		}
	}
	if n < p.rule.Min {
		p.keep(MinReplicas, fmt.Sprintf("min is %d", p.rule.Min))
		n = p.rule.Min
	}
	if n > p.rule.Max {
		p.keep(MaxReplicas, fmt.Sprintf("max is %d", p.rule.Max))
		n = p.rule.Max
	}
	return n
}

func (p Policy) words() string {
	if p.Percent > 0 {
		return fmt.Sprintf("%s%% in %s", figure(p.Percent), p.Period)
	}
	return fmt.Sprintf("%d in %s", p.Replicas, p.Period)
}

func (p *pipeline) finish(to int) Decision {
	d := p.d
	d.From, d.To = p.current, to
	switch {
	case to > p.current:
		d.Action = Up
	case to < p.current:
		d.Action = Down
	default:
		d.Action = Hold
	}
	d.Result = Unchanged
	d.ID = decisionID(d.Rule, d.Target, d.Time, d.From, d.To)
	d.Text = strings.Join(append(p.wants, p.held...), ", ")
	if len(d.Reasons) == 0 {
		d.because(WithinTolerance)
	}
	return *d
}
