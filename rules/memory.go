package rules

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is what scale rules remember of their targets: windows, cooldowns, changes and the last decision. It belongs to
// the targets, not to the rules: a rule that a reload changed, renamed or moved to another group goes on where the one
// before it was. The zero value is empty.
type Memory struct {
	mu      sync.Mutex // guards what follows
	targets map[string]*remembered
	until   time.Time // the time that a clock which was set back had reached
}

// maxEvery is how many decisions are in memory in full, of all targets together: some 10 MB. Each target has an equal share
// of it, and one at least.
const maxEvery = 5000

// remembered is what is known of one target. Groups evaluate one at a time, and a rule that replaces another begins when
// that has ended; pages read meanwhile.
type remembered struct {
	mu        sync.Mutex // guards what follows
	state     State
	shadow    *shadowState // while its rule does not act
	unsettled *Decision    // the last change, whose answer was an error: the target may have taken it
	last      *Decision
	recorded  *Decision // the last one that the journal has
	output    []Sample
	owner     string      // the rule that scales it
	observed  bool        // the target was, since the process began
	sizedAt   time.Time   // when the journal last said how large it is
	every     []*Decision // the newest, oldest first
}

// claim makes a rule the one that scales the target, and says which one does already.
func (r *remembered) claim(rule string) (other string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owner != "" && r.owner != rule {
		return r.owner
	}
	r.owner = rule
	return ""
}

// release lets another rule have the target.
func (r *remembered) release(rule string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owner == rule {
		r.owner = ""
	}
}

// Replay takes in a decision that a journal holds. Those for one target come in the order of the journal; what a decision
// says of the variants of its rule may come before or after what others say of the same targets.
func (m *Memory) Replay(d *Decision) {
	m.of(d.Target).replay(d)
	if d.Result != Applied && d.Result != Applying {
		return
	}
	for _, v := range d.Variants {
		m.of(v.Target).sized(v.To, d.Time)
	}
}

func (r *remembered) replay(d *Decision) {
	if d.Start && d.Result == Applied {
		r.sized(d.To, d.Time)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = r.state.Replay(d)
	if r.unsettled = nil; d.Unanswered != nil {
		r.unsettled = d
	}
}

// sized notes how large the target was at a time, unless it is known for a later one.
func (r *remembered) sized(n int, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.Before(r.sizedAt) {
		return
	}
	r.sizedAt, r.state.Replicas, r.state.Known = at, n, true
}

// Size returns the size of a target that the journal remembers, if it does.
func (m *Memory) Size(target string) (replicas int, known bool) {
	r := m.of(target)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.Replicas, r.state.Known
}

// keep has a decision among the newest of its target; its lock is held.
func (m *Memory) keep(r *remembered, d *Decision) {
	m.mu.Lock()
	share := max(1, maxEvery/max(1, len(m.targets)))
	m.mu.Unlock()
	r.every = append(r.every, d)
	if n := len(r.every) - share; n > 0 {
		clear(r.every[:n])
		r.every = r.every[n:]
	}
}

// Decisions returns the newest evaluations of a rule in full, whether or not they changed anything, at most n, newest first.
// Of two at the same time the one of the target that comes first by name is first. Zero times select all.
func (m *Memory) Decisions(rule string, since, until time.Time, n int) []*Decision {
	all := m.all()
	var found []*Decision
	for _, target := range sortedKeys(all) {
		r := all[target]
		r.mu.Lock()
		for _, d := range r.every {
			if (rule == "" || d.Rule == rule) && (since.IsZero() || !d.Time.Before(since)) && (until.IsZero() || !d.Time.After(until)) {
				found = append(found, d)
			}
		}
		r.mu.Unlock()
	}
	slices.SortStableFunc(found, func(a, b *Decision) int { return b.Time.Compare(a.Time) })
	return found[:min(n, len(found))]
}

// setBack notes that the clock was set back from a time.
func (m *Memory) setBack(from time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.until = latest(m.until, from)
}

// behind is how far a time is before the one that the clock had reached before it was set back.
func (m *Memory) behind(at time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, m.until.Sub(at))
}

// all are the targets.
func (m *Memory) all() map[string]*remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.targets)
}

func (m *Memory) of(target string) *remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.targets == nil {
		m.targets = map[string]*remembered{}
	}
	r := m.targets[target]
	if r == nil {
		r = &remembered{}
		m.targets[target] = r
	}
	return r
}
