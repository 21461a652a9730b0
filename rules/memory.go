package rules

import "sync"

// Memory is what scale rules remember of their targets: windows, cooldowns, changes and the last decision. It belongs to
// the targets, not to the rules: a rule that a reload changed, renamed or moved to another group goes on where the one
// before it was. The zero value is empty.
type Memory struct {
	mu      sync.Mutex // guards what follows
	targets map[string]*remembered
}

// remembered is what is known of one target. Groups evaluate one at a time, and a rule that replaces another begins when
// that has ended; pages read meanwhile.
type remembered struct {
	mu       sync.Mutex // guards what follows
	state    State
	last     *Decision
	recorded *Decision // the last one that the journal has
	output   []Sample
	owner    string // the rule that scales it
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

// Replay takes in a decision that a journal holds, in the order of the journal.
func (m *Memory) Replay(d *Decision) {
	r := m.of(d.Target)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = r.state.Replay(d)
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
