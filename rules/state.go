package rules

import (
	"maps"
	"slices"
	"time"
)

// State is what deciding remembers of a target from one evaluation to the next. It is a value: Decide returns a new one
// and leaves the old one as it was.
type State struct {
	Replicas int       // the size last known
	Known    bool      // whether it is
	LastUp   time.Time // of the last applied change up, zero when there was none
	LastDown time.Time

	changes         []change
	recommendations []recommendation
	foreign         bool                 // somebody else changed the size since
	unsure          bool                 // there were recommendations since which are not known
	asked           time.Time            // a change up was, whose replicas have not all been seen ready; zero when there is none
	evaluated       time.Time            // when it last was
	holdsSince      map[string]time.Time // by the condition of a `when` step that holds
	pendingSince    time.Time            // replicas have been missing since; zero when none are
	starts          []time.Duration      // how long the last ones took from the change to all being ready
	panics          map[string]panicked  // by signal
	constraints     map[string]bool      // by the condition of a constraint, whether it held last
	missingSince    time.Time            // a query that is needed has had no valid answer since; zero when all have
	good            int                  // evaluations in a row at which all had, up to goodAgain
	fallback        *int                 // the size that stands for data which is missing
	whole           whole                // when all replicas were last ready
	rolledBack      rollback
}

// panicked is when a signal last reached its threshold, and the most that it has asked for.
type panicked struct {
	at   time.Time
	peak int
}

type change struct {
	at       time.Time
	from, to int
	unsure   bool // the process ended before it knew whether it was carried out
}

type recommendation struct {
	at       time.Time
	replicas int
}

// Applied returns the state after a change was carried out.
func (s State) Applied(at time.Time, from, to int) State {
	s.Replicas, s.Known = to, true
	switch {
	case to > from:
		s.LastUp, s.asked = at, at
	case to < from:
		s.LastDown = at
	default:
		return s
	}
	s.changes = append(slices.Clip(s.changes), change{at: at, from: from, to: to})
	return s
}

// instead returns the state after a change that was carried out, in the place of what was known of it before.
func (s State) instead(at time.Time, from, to int) State {
	for n := len(s.changes); n > 0 && s.changes[n-1].at.Equal(at); n-- {
		s.changes = s.changes[:n-1]
	}
	return s.Applied(at, from, to)
}

// Replay returns the state after a decision that a journal holds. One that was being applied when the process ended, or whose
// answer was lost, counts as applied: a cooldown too many is safer than one too few. The first size after a start is no
// change, so no cooldown begins with it.
func (s State) Replay(d *Decision) State {
	switch {
	case !d.Counts():
	case d.Start:
		s.Replicas, s.Known = d.To, true
	default:
		to := d.To
		if d.Unanswered != nil {
			to = *d.Unanswered
		}
		sure := d.Result == Applied && d.Unanswered == nil
		known := len(s.changes)
		if grown := d.From + growth(d.Variants); !sure && grown > d.From && grown != to { // of variants those that grow come first
			s = s.Applied(d.Time, d.From, grown).Applied(d.Time, grown, to)
		} else {
			s = s.Applied(d.Time, d.From, to)
		}
		s.asked = time.Time{} // nobody has looked meanwhile
		for i := range s.changes[known:] {
			s.changes[known+i].unsure = !sure
		}
	}
	return s
}

// growth is how much is added to the variants that grow, in units of capacity.
func growth(all []Placement) (n int) {
	for _, v := range all {
		n += max(0, v.To-v.From) * v.Capacity
	}
	return n
}

// Changes are the decisions that a target's state is made of, by [State.Replay], after one more: those that changed its size, or
// may have. An entry takes the place of an earlier one for the same decision, which it tells the end of, and of one whose answer
// was lost if it finds the target as that one did.
func Changes(before []*Decision, d *Decision) []*Decision {
	if n := len(before); n > 0 {
		last := before[n-1]
		seen := !slices.Contains(d.Reasons, ActuatorError)
		if last.ID == d.ID || last.Result == Failed && last.From == d.From && seen {
			before = before[:n-1]
		}
	}
	if d.Counts() {
		return append(before, d)
	}
	return before
}

// notAfter returns the state with what lies in the future at the present: a clock that was set back must neither make a
// cooldown, or a window, longer than it is, nor have a change forgotten that a policy or a flap budget counts.
func (s State) notAfter(now time.Time) State {
	for _, t := range []*time.Time{&s.LastUp, &s.LastDown, &s.pendingSince, &s.missingSince, &s.evaluated, &s.asked, &s.whole.at, &s.rolledBack.at} {
		if t.After(now) {
			*t = now
		}
	}
	future := func(t time.Time) bool { return t.After(now) }
	if slices.ContainsFunc(s.changes, func(c change) bool { return future(c.at) }) {
		s.changes = slices.Clone(s.changes)
		for i := range s.changes {
			s.changes[i].at = earliest(s.changes[i].at, now)
		}
	}
	if slices.ContainsFunc(s.recommendations, func(r recommendation) bool { return future(r.at) }) {
		s.recommendations = slices.Clone(s.recommendations)
		for i := range s.recommendations {
			s.recommendations[i].at = earliest(s.recommendations[i].at, now)
		}
	}
	for condition, t := range s.holdsSince {
		if future(t) {
			s.holdsSince = maps.Clone(s.holdsSince)
			s.holdsSince[condition] = now
		}
	}
	for signal, p := range s.panics {
		if future(p.at) {
			s.panicked(signal, panicked{now, p.peak})
		}
	}
	return s
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// panicked notes that a signal reached its threshold, calmed that its panic is over.
func (s *State) panicked(signal string, p panicked) {
	s.panics = cloned(s.panics)
	s.panics[signal] = p
}

func (s *State) calmed(signal string) {
	if _, there := s.panics[signal]; there {
		s.panics = maps.Clone(s.panics)
		delete(s.panics, signal)
	}
}

// constrain notes whether a constraint holds.
func (s *State) constrain(condition string, holds bool) {
	if held, known := s.constraints[condition]; !known || held != holds {
		s.constraints = cloned(s.constraints)
		s.constraints[condition] = holds
	}
}

// cloned is a copy of a map that can be written to.
func cloned[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

// measuredStarts is how many starts a measured startup is made of.
const measuredStarts = 20

// shifted is the state with all its times later by so much.
func (s State) shifted(by time.Duration) State {
	move := func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return t.Add(by)
	}
	s.LastUp, s.LastDown, s.evaluated = move(s.LastUp), move(s.LastDown), move(s.evaluated)
	s.pendingSince, s.missingSince, s.asked = move(s.pendingSince), move(s.missingSince), move(s.asked)
	s.whole.at, s.rolledBack.at = move(s.whole.at), move(s.rolledBack.at)
	s.changes, s.recommendations = slices.Clone(s.changes), slices.Clone(s.recommendations)
	for i := range s.changes {
		s.changes[i].at = move(s.changes[i].at)
	}
	for i := range s.recommendations {
		s.recommendations[i].at = move(s.recommendations[i].at)
	}
	s.holdsSince, s.panics = cloned(s.holdsSince), cloned(s.panics)
	for condition, t := range s.holdsSince {
		s.holdsSince[condition] = move(t)
	}
	for signal, p := range s.panics {
		s.panics[signal] = panicked{move(p.at), p.peak}
	}
	return s
}

// started notes how long it took from a change until all replicas were ready.
func (s *State) started(took time.Duration) {
	s.starts = append(slices.Clone(s.starts[max(0, len(s.starts)-measuredStarts+1):]), took)
}

// startup is how long a start takes, as the rule gives it or as it was measured.
func (s *State) startup(rule Startup) time.Duration {
	if took := s.measured(rule); took > 0 {
		return took
	}
	return rule.Given
}

// measured is how long a start takes by those that were seen; 0 where the rule gives it, and before there were three.
func (s *State) measured(rule Startup) time.Duration {
	if !rule.Auto || len(s.starts) < 3 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.starts))
	return sorted[(len(sorted)*9+9)/10-1] // the 90th percentile
}

// reversals is how often the size has turned round since a time: as often as it may have, by those of the changes of which
// nobody knows that make for most turns.
func (s *State) reversals(since time.Time) int {
	most := map[Action]int{Hold: 0} // by the way of the last change that was made
	for _, c := range s.changes {
		way, turns := direction(c.from, c.to), 0
		for last, n := range most {
			if last != Hold && last != way && c.at.After(since) {
				n++
			}
			turns = max(turns, n)
		}
		if !c.unsure {
			clear(most)
		}
		most[way] = max(most[way], turns)
	}
	n := 0
	for _, turns := range most {
		n = max(n, turns)
	}
	return n
}

// lastWentUp says that the last change was one up. One down of which nobody knows whether it was carried out is passed over.
func (s *State) lastWentUp() bool {
	for _, c := range slices.Backward(s.changes) {
		if !c.unsure || c.to > c.from {
			return c.to > c.from
		}
	}
	return false
}

// moved is how many replicas were added and removed since a time, as a policy for one direction counts them. A change of
// which nobody knows whether it was carried out counts in its own direction, and not as leave to go the other way.
func (s State) moved(since time.Time, up bool) (added, removed int) {
	for _, c := range s.changes {
		switch {
		case !c.at.After(since) || c.unsure && up != (c.to > c.from):
		case c.to > c.from:
			added += c.to - c.from
		default:
			removed += c.from - c.to
		}
	}
	return added, removed
}

// forget drops what no longer counts.
func (s *State) forget(changesBefore, recommendationsBefore time.Time) {
	first := slices.IndexFunc(s.changes, func(c change) bool { return c.at.After(changesBefore) })
	if first < 0 {
		first = len(s.changes)
	}
	// The last of those that no longer count tells whether the one after it was a turn, the last that was surely made.
	first--
	for first > 0 && s.changes[first].unsure {
		first--
	}
	s.changes = slices.Clone(s.changes[max(first, 0):])
	recommended := make([]recommendation, 0, len(s.recommendations)+1)
	for _, r := range s.recommendations {
		if r.at.After(recommendationsBefore) {
			recommended = append(recommended, r)
		}
	}
	s.recommendations = recommended
}

// hold notes since when a step's condition has held, and returns that. Steps with the same condition share it.
func (s *State) hold(condition string, holds bool, now time.Time) time.Time {
	since, held := s.holdsSince[condition]
	switch {
	case holds == held:
		return since
	case holds:
		since = now
	}
	s.holdsSince = maps.Clone(s.holdsSince)
	if s.holdsSince == nil {
		s.holdsSince = map[string]time.Time{}
	}
	if holds {
		s.holdsSince[condition] = now
	} else {
		delete(s.holdsSince, condition)
	}
	return since
}
