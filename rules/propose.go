package rules

import (
	"fmt"
	"maps"
	"math"
	"time"
)

// propose has each signal, panic and step ask for a size, and combines what they ask for.
func (p *pipeline) propose() (combined int) {
	signals, weight, weighted := proposal{n: -1}, 0.0, 0.0
	floor := proposal{n: -1}
	for i := range p.rule.Signals {
		s := &p.rule.Signals[i]
		record := p.signal(s)
		p.d.Signals = append(p.d.Signals, record)
		if record.Proposal == nil {
			continue
		}
		n := *record.Proposal
		if s.Role == floorRole || s.Forecast != "" {
			floor.raise(n, record.words, "")
			continue
		}
		signals.raise(n, record.words, "")
		weight += s.Weight * record.Confidence
		weighted += s.Weight * record.Confidence * float64(n)
	}
	if p.rule.Combine == combineWeighted && weight > 0 {
		signals.n = int(math.Ceil(weighted/weight - 1e-9))
		signals.words = fmt.Sprintf("by weight %d", signals.n)
	}
	steps, class, hold := p.steps()
	switch {
	case p.rule.Combine == combinePriority && steps.n >= 0 && (class > 0 || signals.n < 0):
		signals = proposal{n: -1} // the higher class alone
	case p.rule.Combine == combinePriority && class < 0:
		steps = proposal{n: -1}
	}
	chosen := signals
	if steps.n >= chosen.n && steps.n >= 0 {
		chosen = steps
	}
	if floor.n > max(chosen.n, -1) && (chosen.n >= 0 || floor.n > p.current) {
		chosen = floor
		chosen.reason = p.forecastOr(floor.n)
	}
	for i := range p.d.Signals {
		if record := &p.d.Signals[i]; record.Panic != nil {
			p.panic = true
			if *record.Panic > chosen.n {
				chosen = proposal{*record.Panic, record.words, Panicked}
			}
		}
	}
	combined = chosen.n
	if combined < 0 { // nothing to go by
		combined = p.current
	}
	if chosen.words != "" {
		p.wants = append(p.wants, chosen.words)
	}
	if hold && combined < p.current {
		combined = p.keep(StepRule, combined, p.current, "hold")
	}
	switch {
	case chosen.reason == ForecastFloor && combined < p.current: // it bounds how far down what falls may go
		p.d.because(p.direction(combined))
	case chosen.reason != "" && combined != p.current:
		p.d.because(chosen.reason)
	case combined != p.current || p.anyValid():
		p.d.because(p.direction(combined))
	}
	return combined
}

// forecastOr is the reason of a floor: a forecast's own, or that of any signal.
func (p *pipeline) forecastOr(n int) Reason {
	for i, record := range p.d.Signals {
		if record.Proposal != nil && *record.Proposal == n && p.rule.Signals[i].Forecast != "" {
			return ForecastFloor
		}
	}
	return ""
}

// proposal is a size that something asks for.
type proposal struct {
	n      int // -1: none
	words  string
	reason Reason // "": the one of its direction
}

func (p *proposal) raise(n int, words string, r Reason) {
	if n > p.n {
		*p = proposal{n, words, r}
	}
}

func (p *pipeline) anyValid() bool {
	for _, s := range p.d.Signals {
		if s.Proposal != nil {
			return true
		}
	}
	return false
}

// signal evaluates one signal.
func (p *pipeline) signal(s *Signal) (record SignalRecord) {
	record = SignalRecord{
		Name: s.Name, TargetPerReplica: s.TargetPerReplica, Utilization: s.Utilization, WaitSeconds: time.Duration(s.Wait).Seconds(),
		Weight: s.Weight, Role: s.Role,
	}
	defer p.panics(s, &record)
	partial, how := false, sizing{perReplica: s.TargetPerReplica, utilization: s.Utilization, wait: record.WaitSeconds, miss: 1 - s.Goal, concurrency: s.Concurrency, tolerance: *s.Tolerance}
	var v float64
	if s.Forecast != "" {
		record.Role = floorRole
		a := p.obs.answer(s.query)
		if a.Fault != "" {
			record.Reason = a.Fault
			return record
		}
		v, record.Confidence = *a.Value, a.Confidence
		if record.Detail = p.unarmed(s); record.Detail != "" {
			record.Value, record.Reason = &v, LowConfidence
			return record
		}
	} else {
		var fault Reason
		if fault, partial, record.Confidence = p.obs.quality(s.value, s.service); fault != "" {
			record.Reason = fault
			return record
		}
		var err error
		if v, err = s.value.number(p.env); err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			record.Reason, record.Confidence = MetricNaN, 0
			return record
		}
	}
	if s.service != nil {
		rate, err := s.service.number(p.env)
		if err != nil || !(rate > 0) || math.IsInf(rate, 0) {
			record.Reason, record.Confidence = MetricNaN, 0
			return record
		}
		how.rate, record.ServiceRate = rate, rate
	}
	of := p.current
	if how.utilization > 0 {
		of = p.measured
	}
	n := how.size(v, of, p.obs.Replicas.Ready)
	if partial {
		n = max(n, p.current) // part of a demand can ask for more, and not for less
	}
	record.Value, record.Proposal, record.Reason = &v, &n, p.direction(n)
	record.words = how.words(s.Name, v, n)
	record.sizing = how
	return record
}

// unarmed says why a forecast is not to be relied on, "" where it is: where it is armed, and where something else writes it,
// which says nothing of that.
func (p *pipeline) unarmed(s *Signal) string {
	armed := p.obs.answer(s.armed)
	if armed.Value == nil || armed.Fault != "" || *armed.Value > 0 {
		return ""
	}
	skill := p.obs.answer(s.skill)
	if skill.Value == nil || skill.Fault != "" {
		return fmt.Sprintf("forecast %s is not armed: too few of its forecasts have been compared with what came", s.Forecast)
	}
	return fmt.Sprintf("forecast %s is not armed: its error is %s", s.Forecast, timesOf(*skill.Value))
}

// panics sees whether a signal asks for so much over a short time that it is a panic, or one from before goes on.
func (p *pipeline) panics(s *Signal, record *SignalRecord) {
	if s.Panic == nil {
		return
	}
	before, going := p.st.panics[s.Name]
	going = going && p.obs.At.Sub(before.at) < panicLasts
	env := p.env
	if len(s.Panic.short) > 0 {
		env = maps.Clone(p.env)
		for name, short := range s.Panic.short {
			a := p.obs.answer(short)
			if a.Value == nil || a.Fault != "" {
				env = nil
				break
			}
			env[name] = *a.Value
		}
	} else if p.obs.fault(s.Panic.value) != "" {
		env = nil
	}
	peak, words := 0, ""
	if going {
		peak, words = before.peak, fmt.Sprintf("%s asked for %d in a panic", s.Name, before.peak)
	}
	if v, ok := p.shortValue(s, env); ok {
		how := record.sizing
		if how.perReplica == 0 && how.rate == 0 && how.utilization == 0 {
			how = sizing{perReplica: s.TargetPerReplica, utilization: s.Utilization}
		}
		how.tolerance = 0
		if n := how.size(v, 0, p.obs.Replicas.Ready); how.sized() && float64(n) >= s.Panic.Threshold*float64(max(p.obs.Replicas.Ready, 1)) {
			if n >= peak {
				peak, words = n, how.words(s.Name, v, n)+" in a panic"
			}
			going = true
			p.st.panicked(s.Name, panicked{p.obs.At, peak})
		}
	}
	if !going {
		p.st.calmed(s.Name)
		return
	}
	peak = max(peak, p.current)
	record.Panic, record.words = &peak, words
}

// shortValue is the value of a signal over its short time.
func (p *pipeline) shortValue(s *Signal, env environment) (v float64, ok bool) {
	if env == nil {
		return 0, false
	}
	v, err := s.Panic.value.number(env)
	return v, err == nil && !math.IsNaN(v) && !math.IsInf(v, 0)
}

// steps evaluates the steps. What those ask for that fired comes as one: the largest of the highest priority, of which it
// is the class, where the rule combines by priority; else the largest of all.
func (p *pipeline) steps() (best proposal, class int, hold bool) {
	best = proposal{n: -1}
	for i := range p.rule.When {
		record, n := p.step(i)
		p.d.Steps = append(p.d.Steps, record)
		if !record.Fired {
			continue
		}
		step := &p.rule.When[i]
		if step.do.hold {
			hold = true
			continue
		}
		// A step counts from the replicas that there are, so while the last ones are on their way it would count them
		// again at every evaluation.
		if n > p.measured && p.obs.Replicas.Pending > 0 && !p.late() {
			p.d.because(InFlight) // in words by the gate
			p.limited(InFlight, n, p.measured)
			n = p.measured
		}
		p.sure = max(p.sure, n)
		if p.rule.Combine == combinePriority && best.n >= 0 && step.Priority < class {
			continue
		}
		if p.rule.Combine == combinePriority && step.Priority > class || best.n < 0 {
			best, class = proposal{n: -1}, step.Priority
		}
		best.raise(n, fmt.Sprintf("%s: %s", step.words(), record.Do), StepRule)
	}
	return best, class, hold
}

// step evaluates one step and returns the size that it asks for when it fired.
func (p *pipeline) step(i int) (StepRecord, int) {
	step := &p.rule.When[i]
	record := StepRecord{If: step.If, Do: step.Do, Fault: p.obs.fault(step.condition)}
	if record.Fault != "" {
		// Neither true nor false: `for` starts again when the data is back.
		p.st.hold(step.If, false, p.obs.At)
		return record, 0
	}
	holds, err := step.condition.bool(p.env)
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
	smallest, _ := p.unit()
	n := step.do.from(p.measured, smallest)
	record.Proposal = &n
	return record, n
}

func (s *Step) words() string {
	if s.Reason != "" {
		return s.Reason
	}
	return s.If
}
