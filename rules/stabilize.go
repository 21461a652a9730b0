package rules

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"
)

// stabilize is the HPA's: within the window of its direction, up goes to the lowest recommendation and down to the
// highest. The memory of a fresh start holds the size found there, so that a start does not shorten a window; so does that of
// a rule which was not evaluated for a while, or of whose last evaluations nothing is known, and an outage of half the window
// or more, while a query that fails now and then leaves the window as it is.
func (p *pipeline) stabilize(n int) int {
	up, down := time.Duration(*p.rule.Behavior.Up.Window), time.Duration(*p.rule.Behavior.Down.Window)
	now := p.obs.At
	longest := max(time.Duration(p.rule.FlapBudget.Window), p.deadline())
	for _, dir := range []Direction{p.rule.Behavior.Up, p.rule.Behavior.Down} {
		for _, policy := range dir.Policies {
			longest = max(longest, time.Duration(policy.Period))
		}
	}
	first := len(p.st.recommendations) == 0 || p.st.unsure
	if gap := now.Sub(p.st.evaluated); p.rule.interval > 0 && !p.st.evaluated.IsZero() && gap > 3*p.rule.interval && gap >= down/2 {
		first, p.st.recommendations = true, nil
	}
	p.st.evaluated, p.st.unsure = now, false
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

// limit applies the policies, counted from the size at the start of their period as the HPA does.
func (p *pipeline) limit(n int) int {
	_, replica := p.unit()
	dir, up, reason, words := p.rule.Behavior.Up, true, ScaleUpRate, "up"
	if n < p.current {
		dir, up, reason, words = p.rule.Behavior.Down, false, ScaleDownRate, "down"
	}
	switch {
	case n == p.current:
		return n
	case dir.SelectPolicy == selectDisabled:
		return p.keep(reason, n, p.current, words+" is disabled")
	case len(dir.Policies) == 0:
		return n
	}
	change, by := 0, Policy{}
	for i, policy := range dir.Policies {
		added, removed := p.st.moved(p.obs.At.Add(-time.Duration(policy.Period)), up)
		start := p.current - added + removed
		var most int // that the policy leaves of a change
		switch {
		case up && policy.Percent > 0:
			most = int(math.Ceil(float64(start)*(1+policy.Percent/100))) - p.current
		case up:
			most = start + policy.Replicas*replica - p.current
		case policy.Percent > 0:
			most = p.current - int(math.Floor(float64(start)*(1-policy.Percent/100)))
		default:
			most = p.current - start + policy.Replicas*replica
		}
		if most = max(most, 0); i == 0 || (most > change) != (dir.SelectPolicy == selectMin) && most != change {
			change, by = most, policy
		}
	}
	switch {
	case up && n > p.current+change:
		return p.keep(reason, n, p.current+change, "up at most "+by.words())
	case !up && n < p.current-change:
		return p.keep(reason, n, p.current-change, "down at most "+by.words())
	}
	return n
}

func (p Policy) words() string {
	if p.Percent > 0 {
		return fmt.Sprintf("%s%% in %s", figure(p.Percent), p.Period)
	}
	return fmt.Sprintf("%d in %s", p.Replicas, p.Period)
}

// flap keeps a decision from going down that would have to be taken back: to where a signal would ask for more at once
// (Azure's projection), or when that has happened too often. A change up is never kept back.
func (p *pipeline) flap(n int) int {
	if n >= p.current {
		return n
	}
	enough := n
	for _, s := range p.d.Signals {
		if s.Value == nil || s.Role == floorRole {
			continue
		}
		enough = max(enough, s.sizing.projected(*s.Value, p.obs.Replicas.Ready))
	}
	// What a budget takes may well be asked for again, and is taken all the same: whether or not the cap was reached, so that
	// more demand does not end below what less would have come to.
	if enough = min(enough, p.current, p.most); enough > n {
		n = p.keep(ProjectionWouldFlap, n, enough, fmt.Sprintf("%d would have to go up again", n))
	}
	budget := p.rule.FlapBudget
	if turns := p.st.reversals(p.obs.At.Add(-time.Duration(budget.Window))); n < p.current && p.st.lastWentUp() && turns+2 > budget.Reversals {
		return p.keep(FlapBudgetSpent, n, p.current, fmt.Sprintf("%d turns in the last %s, and one more must be left for the way back up", turns, budget.Window))
	}
	return n
}
