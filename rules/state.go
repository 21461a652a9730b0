package rules

import (
	"maps"
	"time"
)

// State is what deciding remembers of a target from one evaluation to the next. It is a value: Decide returns a new one
// and leaves the old one as it was.
type State struct {
	Replicas int       // the size last applied; 0 when none was
	LastUp   time.Time // of the last applied change up, zero when there was none
	LastDown time.Time

	changes         []change
	recommendations []recommendation
	holdsSince      map[int]time.Time // by index of the `when` step whose condition holds
	pendingSince    time.Time         // replicas have been missing since; zero when none are
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
	s.Replicas = to
	switch {
	case to > from:
		s.LastUp = at
	case to < from:
		s.LastDown = at
	default:
		return s
	}
	s.changes = append(s.changes[:len(s.changes):len(s.changes)], change{at, from, to})
	return s
}

// Replay returns the state after a decision that a journal holds. One that was being applied when the process ended
// counts as applied: a cooldown too many is safer than one too few. The first size after a start is no change, so no
// cooldown begins with it.
func (s State) Replay(d *Decision) State {
	switch {
	case d.Result != Applied && d.Result != Applying:
	case d.Start:
		s.Replicas = d.To
	default:
		return s.Applied(d.Time, d.From, d.To)
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

// hold notes since when a step's condition has held, and returns that.
func (s *State) hold(step int, holds bool, now time.Time) time.Time {
	since, held := s.holdsSince[step]
	switch {
	case holds == held:
		return since
	case holds:
		since = now
	}
	s.holdsSince = maps.Clone(s.holdsSince)
	if s.holdsSince == nil {
		s.holdsSince = map[int]time.Time{}
	}
	if holds {
		s.holdsSince[step] = now
	} else {
		delete(s.holdsSince, step)
	}
	return since
}
