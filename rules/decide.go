package rules

import (
	"fmt"
	"math"
	"slices"
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
	st = st.notAfter(obs.At)
	p := &pipeline{rule: rule, obs: &obs, st: &st, d: &d, current: obs.Replicas.Spec}
	if obs.TargetError != "" {
		p.current = st.Replicas
		d.Replicas.Spec = st.Replicas // the last that is known; its ready replicas are not
		p.note(ActuatorError, "the target cannot be observed: "+obs.TargetError)
		d.Combined, d.Gated, d.Stabilized, d.Limited = p.current, p.current, p.current, p.current
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

	faulty bool     // something that going down needs is missing
	wants  []string // what moves the size, in words
	notes  []string // what holds it, and what else is wrong
}

// note adds a reason that a reader must know of, whether or not it changes the size.
func (p *pipeline) note(r Reason, words string) {
	p.d.because(r)
	p.notes = append(p.notes, words)
}

// keep adds a reason that changes the size, from one number to another, from what was wanted so far.
func (p *pipeline) keep(r Reason, from, to int, words string) int {
	p.note(r, words)
	p.limited(r, from, to)
	return to
}

// limited notes that a reason held the size.
func (p *pipeline) limited(r Reason, from, to int) {
	if from != to && !slices.Contains(p.d.LimitedBy, r) {
		p.d.LimitedBy = append(p.d.LimitedBy, r)
	}
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

// late says that replicas that were asked for have not come for longer than a start takes twice, counted from when the
// last were asked for. Past that, waiting helps nobody, and may be what keeps a broken replica from being removed.
func (p *pipeline) late() bool {
	if p.st.pendingSince.IsZero() {
		return false
	}
	return p.obs.At.Sub(latest(p.st.pendingSince, p.st.LastUp)) > 2*time.Duration(p.rule.Startup)
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
	step, stepWords := -1, ""
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
		if n > p.current && p.obs.Replicas.Pending > 0 && !p.late() {
			p.d.because(InFlight) // in words by the gate
			p.limited(InFlight, n, p.current)
			n = p.current
		}
		if n > step {
			step, stepWords = n, fmt.Sprintf("%s: %s", p.rule.When[i].words(), record.Do)
		}
	}
	if step >= combined && stepWords != "" {
		main = stepWords
	}
	fired := step >= combined && step >= 0
	combined = max(combined, step)
	if combined < 0 { // nothing to go by
		combined = p.current
	}
	if hold && combined < p.current {
		combined = p.keep(StepRule, combined, p.current, "hold")
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
		p.st.hold(step.If, false, p.obs.At)
		return record, 0
	}
	holds, err := step.condition.bool(env)
	if err != nil {
		record.Fault = MetricNaN
		p.st.hold(step.If, false, p.obs.At)
		return record, 0
	}
	record.Holds = holds
	since := p.st.hold(step.If, holds, p.obs.At)
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
	var unsafe []Reason
	for _, a := range p.obs.Answers {
		if a.Fault == "" {
			continue
		}
		if !a.Optional {
			unsafe = append(unsafe, a.Fault)
		}
		p.note(a.Fault, fmt.Sprintf("%s: %s", a.Name, a.Detail))
	}
	for i, s := range p.d.Signals {
		if s.Reason == MetricNaN && p.obs.fault(p.rule.Signals[i].value) == "" {
			unsafe = append(unsafe, MetricNaN)
			p.note(MetricNaN, s.Name+" is not a number")
		}
	}
	for i, s := range p.d.Steps {
		switch {
		case s.Fault == "":
		case p.obs.fault(p.rule.When[i].condition) == "":
			unsafe = append(unsafe, MetricNaN)
			p.note(MetricNaN, s.If+" cannot be evaluated")
		case p.rule.When[i].do.hold: // it might hold, for all that is known
			unsafe = append(unsafe, s.Fault)
		}
	}
	if p.obs.Replicas.Ready < p.obs.Replicas.Spec && n <= p.current && !p.late() {
		unsafe = append(unsafe, InFlight)
		p.note(InFlight, fmt.Sprintf("%d of %d ready", p.obs.Replicas.Ready, p.obs.Replicas.Spec))
	}
	p.faulty = len(unsafe) > 0
	if n < p.current && p.faulty {
		for _, r := range unsafe {
			p.limited(r, n, p.current)
		}
		return p.current
	}
	return n
}

// stabilize is the HPA's: within the window of its direction, up goes to the lowest recommendation and down to the
// highest. The memory of a fresh start holds the size found there, so that a restart does not shorten a window; so does
// an outage of half the window or more, while a query that fails now and then leaves the window as it is.
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
	known := len(p.st.recommendations)
	lowest, highest := n, n
	for _, r := range p.st.recommendations {
		if r.at.After(now.Add(-up)) {
			lowest = min(lowest, r.replicas)
		}
		if r.at.After(now.Add(-down)) {
			highest = max(highest, r.replicas)
		}
	}
	if !p.faulty || known == 0 || now.Sub(p.st.recommendations[known-1].at) >= down/2 {
		p.st.recommendations = append(p.st.recommendations, recommendation{now, n})
	}
	stable := min(max(p.current, lowest), highest)
	switch {
	case stable == n:
	case n < p.current:
		p.keep(Stabilized, n, stable, fmt.Sprintf("the last %s needed %d", p.rule.Behavior.Down.Window, min(highest, p.current)))
	case n > p.current:
		p.keep(Stabilized, n, stable, fmt.Sprintf("not for all of %s yet", p.rule.Behavior.Up.Window))
	}
	return stable
}

func (p *pipeline) cooldown(n int) int {
	wait := func(last time.Time, cooldown model.Duration, word string) int {
		left := time.Duration(cooldown) - p.obs.At.Sub(last)
		if last.IsZero() || left <= 0 {
			return n
		}
		return p.keep(Cooldown, n, p.current, fmt.Sprintf("%s again in %s", word, round(left)))
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
			n = p.keep(ScaleUpRate, n, ceiling, "up at most "+by.words())
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
			n = p.keep(ScaleDownRate, n, floor, "down at most "+by.words())
		}
	}
	if n < p.rule.Min {
		n = p.keep(MinReplicas, n, p.rule.Min, fmt.Sprintf("min is %d", p.rule.Min))
	}
	if n > p.rule.Max {
		n = p.keep(MaxReplicas, n, p.rule.Max, fmt.Sprintf("max is %d", p.rule.Max))
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
	d.Text = strings.Join(append(p.wants, p.notes...), ", ")
	if len(d.Reasons) == 0 {
		d.because(WithinTolerance)
	}
	return *d
}
