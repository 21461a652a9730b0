package rules

import (
	"fmt"
	"slices"
	"time"
)

// quality sees what is wrong with the data, and for how long it has been.
func (p *pipeline) quality() {
	for _, a := range p.obs.Answers {
		if a.Fault != "" && !a.Optional {
			p.lacks(a.Fault)
			p.missing = true
		}
		p.blocked = p.blocked || a.Fault != "" && a.Block
	}
	if !p.missing {
		p.st.missingSince, p.st.good = time.Time{}, min(p.st.good+1, goodAgain)
		return
	}
	p.st.good = 0
	if p.st.missingSince.IsZero() {
		p.st.missingSince = p.obs.At
	}
}

// lacks notes that something that going down needs is missing.
func (p *pipeline) lacks(r Reason) {
	p.faulty = true
	if !slices.Contains(p.unsafe, r) {
		p.unsafe = append(p.unsafe, r)
	}
}

// gate keeps a decision that would go down from doing so on data that is not whole or not sure, or while replicas that
// were asked for are not ready, and one that would go up from doing so on nothing.
func (p *pipeline) gate(n int) int {
	for _, a := range p.obs.Answers {
		if a.Fault != "" && !a.hidden() {
			p.note(a.Fault, fmt.Sprintf("%s: %s", a.Name, a.Detail))
		}
	}
	for i, s := range p.d.Signals {
		if s.Reason == MetricNaN && p.obs.fault(p.rule.Signals[i].value) == "" && p.rule.Signals[i].Forecast == "" {
			p.lacks(MetricNaN)
			p.note(MetricNaN, s.Name+" is not a number")
		}
	}
	for _, s := range p.d.Signals {
		if s.Detail != "" { // no reason of the decision: what the forecast would have added is all that is lacking
			p.notes = append(p.notes, s.Detail)
		}
	}
	for i, s := range p.d.Steps {
		switch {
		case s.Fault == "":
		case p.obs.fault(p.rule.When[i].condition) == "":
			p.lacks(MetricNaN)
			p.note(MetricNaN, s.If+" cannot be evaluated")
		case p.rule.When[i].do.hold: // it might hold, for all that is known
			p.lacks(s.Fault)
		}
	}
	if n <= p.current && p.waits() {
		p.lacks(InFlight)
		p.note(InFlight, fmt.Sprintf("%d of %d ready", p.obs.Replicas.Ready, p.obs.Replicas.Spec))
	}
	n = p.confident(n)
	switch {
	case n < p.current && p.faulty, n != p.current && p.blocked, n > p.current && p.missing && p.rule.OnMissing.Up == missingHold:
		for _, r := range p.unsafe {
			p.limited(r, n, p.current)
		}
		n = p.current
	}
	return p.fallback(n)
}

// confident keeps the size where the signals are not sure enough of another one. A step is as sure as its condition, and
// a panic must not wait.
func (p *pipeline) confident(n int) int {
	sum, weights := 0.0, 0.0
	for i, s := range p.d.Signals {
		signal := &p.rule.Signals[i]
		if s.Role == floorRole || s.Reason != "" && s.Proposal == nil && p.obs.optional(signal.value, signal.service) {
			continue // what may be missing
		}
		sum += signal.Weight * s.Confidence
		weights += signal.Weight
	}
	p.d.Confidence = 1
	if weights > 0 {
		p.d.Confidence = sum / weights
	}
	need, to := p.rule.MinConfidence.Down, p.current
	if n > p.current {
		// Up to what a step asks for, not as far as the signals do: a step that fires at a demand must not lead to more
		// replicas than the signals' size at a larger one, at which they are no surer.
		need, to = p.rule.MinConfidence.Up, max(p.current, p.sure)
	}
	if n == p.current || p.d.Confidence >= need || n > p.current && (to >= n || p.panic) {
		return n
	}
	if n < p.current && p.faulty {
		return n // told in full already
	}
	p.faulty = p.faulty || n < p.current
	return p.keep(LowConfidence, n, to, fmt.Sprintf("confidence %s is below %s", figure(p.d.Confidence), figure(need)))
}

// fallback is the size in the place of data that has been missing for long. It stays until the data has been good for a
// while, so that a source that comes and goes does not move the size each time.
func (p *pipeline) fallback(n int) int {
	o := &p.rule.OnMissing
	if o.fallback == nil {
		return n
	}
	if p.st.fallback != nil && !p.missing && p.st.good >= goodAgain {
		p.st.fallback = nil
	}
	if p.st.fallback == nil && p.missing && p.obs.At.Sub(p.st.missingSince) >= time.Duration(o.After) {
		to, err := o.fallback.number(p.obs.sizes(p.rule))
		if err != nil || !(to >= 0) {
			p.note(MetricNaN, "on_missing.fallback gives no size")
			return n
		}
		size := min(max(int(min(to+0.5, maxProposal)), p.rule.Min), p.rule.Max)
		p.st.fallback = &size
	}
	if p.st.fallback == nil {
		return n
	}
	to, words := *p.st.fallback, fmt.Sprintf("the fallback after %s without data", o.After)
	if !p.missing {
		words = fmt.Sprintf("the fallback, until the data has been good for %d evaluations", goodAgain)
	}
	switch {
	case to > n, p.missing && o.Down == missingFallback && to < n:
		p.notes = append(p.notes, fmt.Sprintf("%s: %d", words, to))
		p.limited(p.missingReason(), n, to)
		return to
	}
	return n
}

// missingReason is why there is a fallback.
func (p *pipeline) missingReason() Reason {
	for _, r := range p.unsafe {
		if r != InFlight {
			return r
		}
	}
	return MetricMissing
}
