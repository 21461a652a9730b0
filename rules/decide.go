package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Decide is the whole of deciding: a pure function of the rule, what was observed and what is remembered. It reads no
// clock and does no I/O; the stages run in a fixed order and each adds its reason:
//
//	quality    what is missing, stale or not a number, and how sure the rest is
//	propose    each signal, each panic and each step that fired asks for a size
//	combine    by the largest, by weight or by priority; floors raise it, `hold` keeps it from going down
//	gate       down needs every query that is not optional, and enough confidence; nothing goes down while replicas are not
//	           ready; a fallback takes the place of data that has been missing for long
//	cost       a budget's hard cap
//	stabilize  down to the highest recommendation of its window, up to the lowest of its own
//	limit      cooldown, then the policies
//	flap       not down to where a signal would ask for more at once, nor without a turn left for the way back
//	progress   a change up whose replicas are past their deadline is taken back, if the rule wants that
//	bound      schedules and constraints, within min and max, which are absolute
//
// The returned state has this evaluation in its memory; State.Applied adds the change when it was carried out.
func Decide(rule *Scale, obs Observation, st State) (Decision, State) {
	d := Decision{
		Time: obs.At, Rule: rule.Name, Target: obs.target(rule), Labels: obs.Labels, Mode: rule.Mode,
		Replicas: Replicas{
			Spec: obs.Replicas.Spec, Ready: obs.Replicas.Ready, Pending: obs.Replicas.Pending, Min: rule.Min, Max: rule.Max,
		},
		Queries: obs.Answers,
	}
	st = st.notAfter(obs.At)
	p := &pipeline{rule: rule, obs: &obs, st: &st, d: &d, current: obs.Replicas.Spec, measured: obs.Replicas.Spec, most: math.MaxInt}
	if obs.from != nil {
		p.current = *obs.from
	}
	if obs.TargetError != "" {
		p.current = st.Replicas
		d.Replicas.Spec = st.Replicas // the last that is known; its ready replicas are not
		p.note(ActuatorError, "the target cannot be observed: "+obs.TargetError)
		d.Combined, d.Gated, d.Costed, d.Stabilized, d.Limited, d.Damped = p.current, p.current, p.current, p.current, p.current, p.current
		return p.finish(p.current), st
	}
	p.pending()
	d.StartupSeconds = st.measured(rule.Startup).Seconds()
	p.env = obs.environment(rule, st)
	p.placements()
	p.quality()
	d.Combined = p.propose()
	if st.foreign {
		p.note(ExternalChange, fmt.Sprintf("somebody else made it %d, from %d", p.current, st.Replicas))
		st.foreign = false
	}
	d.Gated = p.gate(d.Combined)
	d.Costed = p.cost(d.Gated)
	d.Stabilized = p.stabilize(d.Costed)
	d.Limited = p.limit(p.cooldown(d.Stabilized))
	d.Damped = p.progress(p.flap(d.Limited))
	return p.finish(p.bound(d.Damped)), st
}

// pipeline is one run of Decide.
type pipeline struct {
	rule     *Scale
	obs      *Observation
	st       *State
	d        *Decision
	env      environment
	current  int         // the size that the decision starts from
	measured int         // the one that what is measured is of: the same but for a shadow
	placed   []Placement // of a rule with variants

	missing bool     // a query that going down needs has no valid answer
	faulty  bool     // something that going down needs is missing
	unsafe  []Reason // what that is
	blocked bool     // something is missing without which nothing may move
	panic   bool     // a signal panics
	sure    int      // the largest size that a step asks for: a step is as sure as its condition
	most    int      // what budgets leave
	wants   []string // what moves the size, in words
	notes   []string // what holds it, and what else is wrong
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

// pending notes since when replicas that were asked for have not been ready, and how long they took.
func (p *pipeline) pending() {
	switch {
	case p.obs.Replicas.Ready >= p.obs.Replicas.Spec:
		if !p.st.asked.IsZero() && p.st.pendingSince.After(p.st.asked) {
			p.st.started(p.obs.At.Sub(p.st.asked))
		}
		p.st.pendingSince, p.st.asked = time.Time{}, time.Time{}
		p.st.whole = whole{p.obs.At, p.obs.Replicas.Spec}
	case p.st.pendingSince.IsZero():
		p.st.pendingSince = p.obs.At
	}
}

// unit is how much one replica is in the sizes of this rule: 1, or with variants the capacity of the smallest and of the
// largest.
func (p *pipeline) unit() (smallest, largest int) {
	smallest, largest = 1, 1
	for i, v := range p.rule.Variants {
		if i == 0 {
			smallest, largest = v.Capacity, v.Capacity
		}
		smallest, largest = min(smallest, v.Capacity), max(largest, v.Capacity)
	}
	return smallest, largest
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

// placements are the variants as they are, with their prices.
func (p *pipeline) placements() {
	for i := range p.rule.Variants {
		v := &p.rule.Variants[i]
		state := p.obs.Variants[i]
		placed := Placement{Name: v.Name, Target: v.Target.String(), From: state.Spec, To: state.Spec, Ready: state.Ready, Capacity: v.Capacity, variant: v, state: state}
		placed.PriceUSDPerHour, placed.known = p.price(v.price)
		p.placed = append(p.placed, placed)
	}
}

// price is what an expression for one says, if it says a price.
func (p *pipeline) price(e *expression) (usdPerHour float64, known bool) {
	if e == nil || p.obs.fault(e) != "" {
		return 0, false
	}
	v, err := e.number(p.env)
	if err != nil || !(v >= 0) || math.IsInf(v, 0) {
		return 0, false
	}
	return v, true
}

// share is how much of the capacity may be interruptible.
func (p *pipeline) share() float64 {
	if s := p.rule.Cost.MaxInterruptibleShare; s != nil {
		return *s
	}
	return 1
}

// cost keeps the size within what a budget's hard cap leaves of it, though never below the floor of the budget or of the
// rule. A cap does not make a target smaller on data that is not whole, nor while replicas are on their way.
func (p *pipeline) cost(n int) int {
	price, known := p.price(p.rule.price)
	for _, left := range p.obs.Caps {
		switch {
		case left.Fault != "":
			p.note(BudgetCap, fmt.Sprintf("what budget %s leaves is not known", left.Budget))
			continue
		case !left.Hard:
			p.note(BudgetCap, fmt.Sprintf("budget %s is used up", left.Budget))
			continue
		}
		var most int
		switch {
		case len(p.placed) > 0:
			most = affordable(p.placed, left.USDPerHour, p.share(), max(n, p.current))
		case known && price > 0:
			most = int(math.Max(0, math.Min(math.Floor(left.USDPerHour/price+1e-9), maxProposal)))
		default:
			p.note(BudgetCap, fmt.Sprintf("budget %s is used up, but the price of a replica is not known", left.Budget))
			continue
		}
		if most = max(most, left.Floor, p.rule.Min); p.faulty || p.waits() {
			most = max(most, min(n, p.current))
		}
		p.most = min(p.most, most)
		if n > most {
			n = p.keep(BudgetCap, n, most, fmt.Sprintf("budget %s leaves %s USD an hour", left.Budget, figure(left.USDPerHour)))
		}
	}
	return n
}

// bound applies schedules and constraints, and then min and max, which are absolute.
func (p *pipeline) bound(n int) int {
	type bound struct {
		n      int
		reason Reason
		words  string
	}
	lowest := bound{p.rule.Min, MinReplicas, "min is " + strconv.Itoa(p.rule.Min)}
	highest := bound{p.rule.Max, MaxReplicas, "max is " + strconv.Itoa(p.rule.Max)}
	raise := func(to *int, reason Reason, words string) {
		if to != nil && min(*to, p.rule.Max) > lowest.n {
			lowest = bound{min(*to, p.rule.Max), reason, fmt.Sprintf("at least %d %s", *to, words)}
		}
	}
	lower := func(to *int, reason Reason, words string) {
		if to == nil {
			return
		}
		most := max(*to, p.rule.Min)
		if p.missing { // only what is absolute makes a target smaller on data that is not whole
			most = max(most, min(p.current, p.rule.Max))
		}
		if most < highest.n {
			highest = bound{most, reason, fmt.Sprintf("at most %d %s", *to, words)}
		}
	}
	for i := range p.rule.Schedule {
		if s := &p.rule.Schedule[i]; s.active(p.obs.At) {
			raise(s.Min, Scheduled, s.words())
			lower(s.Max, Scheduled, s.words())
		}
	}
	for i := range p.rule.Constraints {
		if c := &p.rule.Constraints[i]; p.constrained(c) {
			raise(c.Min, MinReplicas, "while "+c.words())
			lower(c.Max, MaxReplicas, "while "+c.words())
		}
	}
	p.d.Replicas.Min, p.d.Replicas.Max = min(lowest.n, highest.n), highest.n
	if n < lowest.n {
		n = p.keep(lowest.reason, n, lowest.n, lowest.words)
	}
	if n > highest.n {
		n = p.keep(highest.reason, n, highest.n, highest.words)
	}
	return n
}

// constrained says whether a constraint holds: as it last did, where that cannot be told now.
func (p *pipeline) constrained(c *Constraint) bool {
	held := p.st.constraints[c.If]
	if p.obs.fault(c.condition) != "" {
		return held
	}
	holds, err := c.condition.bool(p.env)
	if err != nil {
		return held
	}
	p.st.constrain(c.If, holds)
	return holds
}

func (c *Constraint) words() string {
	if c.Reason != "" {
		return c.Reason
	}
	return c.If
}

// finish makes the decision for a size. With variants it is placed on them, which may come to more than was asked for.
func (p *pipeline) finish(to int) Decision {
	d := p.d
	if len(p.placed) > 0 {
		place(p.placed, to, p.share())
		d.Variants = p.placed
		to = capacityOf(p.placed)
		before, after := hourly(p.placed)
		d.Cost = &CostRecord{BeforeUSDPerHour: before, AfterUSDPerHour: after}
	} else if price, known := p.price(p.rule.price); known && p.env != nil {
		d.Cost = &CostRecord{BeforeUSDPerHour: price * float64(p.current), AfterUSDPerHour: price * float64(to)}
	}
	d.From, d.To = p.current, to
	d.Action = direction(p.current, to)
	d.Result = Unchanged
	d.ID = decisionID(d.Rule, d.Target, d.Time, d.From, d.To)
	d.Text = strings.Join(append(p.wants, p.notes...), ", ")
	if len(d.Reasons) == 0 {
		d.because(WithinTolerance)
	}
	return *d
}
