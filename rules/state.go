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
	holdsSince      map[string]time.Time // by the condition of a `when` step that holds
	pendingSince    time.Time            // replicas have been missing since; zero when none are
}

type change struct {
	at       time.Time
	from, to int
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
		s.LastUp = at
	case to < from:
		s.LastDown = at
	default:
		return s
	}
	s.changes = append(slices.Clip(s.changes), change{at, from, to})
	return s
}

// Replay returns the state after a decision that a journal holds. One that was being applied when the process ended
// counts as applied: a cooldown too many is safer than one too few. The first size after a start is no change, so no
// cooldown begins with it.
func (s State) Replay(d *Decision) State {
	switch {
	case d.Result != Applied && d.Result != Applying:
	case d.Start:
		s.Replicas, s.Known = d.To, true
	default:
		return s.Applied(d.Time, d.From, d.To)
	}
	return s
}

// notAfter returns the state without what lies in the future: a clock that was set back must not make a cooldown, or a
// window, longer than it is.
func (s State) notAfter(now time.Time) State {
	for _, t := range []*time.Time{&s.LastUp, &s.LastDown, &s.pendingSince} {
		if t.After(now) {
			*t = now
		}
	}
	future := func(t time.Time) bool { return t.After(now) }
	if slices.ContainsFunc(s.changes, func(c change) bool { return future(c.at) }) {
		s.changes = slices.DeleteFunc(slices.Clone(s.changes), func(c change) bool { return future(c.at) })
	}
	if slices.ContainsFunc(s.recommendations, func(r recommendation) bool { return future(r.at) }) {
		s.recommendations = slices.DeleteFunc(slices.Clone(s.recommendations), func(r recommendation) bool { return future(r.at) })
	}
	for condition, t := range s.holdsSince {
		if future(t) {
			s.holdsSince = maps.Clone(s.holdsSince)
			s.holdsSince[condition] = now
		}
	}
	return s
}

// moved is how many replicas were added and removed since a time.
func (s State) moved(since time.Time) (added, removed int) {
	for _, c := range s.changes {
		if !c.at.After(since) {
			continue
		}
		if c.to > c.from {
			added += c.to - c.from
		} else {
			removed += c.from - c.to
		}
	}
	return added, removed
}

// forget drops what no longer counts.
func (s *State) forget(changesBefore, recommendationsBefore time.Time) {
	kept := make([]change, 0, len(s.changes))
	for _, c := range s.changes {
		if c.at.After(changesBefore) {
			kept = append(kept, c)
		}
	}
	s.changes = kept
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
