package rulestest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/common/model"

	"flyball/actuators"
)

// TargetModel is what a simulated target does.
type TargetModel struct {
	Replicas *int             `yaml:"replicas"` // at first; nil: the rule's min
	Startup  *model.Duration  `yaml:"startup"`  // from a change to its new replicas being ready; nil: the rule's startup
	Max      *int             `yaml:"max"`      // the most that its platform gives, more are refused; nil: any number
	Changes  []ExternalChange `yaml:"changes"`  // in the order of their times
	Outages  []Outage         `yaml:"outages"`
}

// ExternalChange is a change of size by somebody else.
type ExternalChange struct {
	At       model.Duration `yaml:"at"`
	Replicas int            `yaml:"replicas"`
}

// Outage is a time in which the target can be neither observed nor changed: from From, and before To.
type Outage struct {
	From model.Duration `yaml:"from"`
	To   model.Duration `yaml:"to"` // 0: to the end of the test
}

// behavior is a TargetModel with everything filled in.
type behavior struct {
	replicas int
	max      *int
	startup  time.Duration
	changes  []ExternalChange
	outages  []Outage
}

// errOutage is what an outage looks like to a rule.
var errOutage = errors.New("the target cannot be reached")

// simulator has all the targets of a test, at virtual time. They come up when they are first asked for.
type simulator struct {
	start time.Time

	mu      sync.Mutex // guards what follows
	now     time.Time
	targets map[actuators.Target]*simulated
}

// simulated is one target.
type simulated struct {
	behavior
	spec, ready int
	starts      []time.Time // when each replica that is not ready will be, in order
	version     int
	applied     string // the last decision that was carried out, and its size
}

func newSimulator(start time.Time) *simulator {
	return &simulator{start: start, now: start, targets: map[actuators.Target]*simulated{}}
}

// platform is the simulator as an actuator for one rule, whatever the kind of its targets.
type platform struct {
	*simulator
	model func(actuators.Target) (behavior, error) // of the rule's targets
}

// advance sets the time.
func (s *simulator) advance(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// Observe implements actuators.Actuator.
func (s platform) Observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.at(ctx, target)
	if err != nil {
		return actuators.State{}, fmt.Errorf("observe %s: %w", target, err)
	}
	return actuators.State{Spec: t.spec, Ready: t.ready, Pending: t.spec - t.ready, Version: strconv.Itoa(t.version)}, nil
}

// Apply implements actuators.Actuator.
func (s platform) Apply(ctx context.Context, target actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.at(ctx, target)
	if err != nil {
		return actuators.Receipt{}, fmt.Errorf("apply %s: %w", target, err)
	}
	if c.To < 0 || t.max != nil && c.To > *t.max {
		return actuators.Receipt{}, fmt.Errorf("apply %s: %d replicas: %w", target, c.To, actuators.ErrOutOfRange)
	}
	if c.DecisionID != "" && t.applied == c.DecisionID+"/"+strconv.Itoa(c.To) {
		return actuators.Receipt{Spec: t.spec, Version: strconv.Itoa(t.version)}, nil
	}
	if c.IfVersion != "" && c.IfVersion != strconv.Itoa(t.version) {
		return actuators.Receipt{}, fmt.Errorf("apply %s: %w", target, actuators.ErrConflict)
	}
	if c.DryRun {
		return actuators.Receipt{Spec: t.spec, Version: strconv.Itoa(t.version)}, nil
	}
	changed := t.spec != c.To
	t.resize(c.To, s.now)
	t.applied = c.DecisionID + "/" + strconv.Itoa(c.To)
	return actuators.Receipt{Spec: t.spec, Version: strconv.Itoa(t.version), Changed: changed}, nil
}

// at brings a target to the present.
func (s platform) at(ctx context.Context, target actuators.Target) (*simulated, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := s.targets[target]
	if t == nil {
		b, err := s.model(target)
		if err != nil {
			return nil, err
		}
		t = &simulated{behavior: b, spec: b.replicas, ready: b.replicas}
		s.targets[target] = t
	}
	for len(t.changes) > 0 && !s.start.Add(time.Duration(t.changes[0].At)).After(s.now) {
		at := s.start.Add(time.Duration(t.changes[0].At))
		t.finish(at)
		t.resize(t.changes[0].Replicas, at)
		t.changes = t.changes[1:]
	}
	t.finish(s.now)
	elapsed := s.now.Sub(s.start)
	for _, o := range t.outages {
		if elapsed >= time.Duration(o.From) && (o.To == 0 || elapsed < time.Duration(o.To)) {
			return nil, errOutage
		}
	}
	return t, nil
}

// resize asks for another size. The replicas that go first are those that were asked for last.
func (t *simulated) resize(to int, now time.Time) {
	if to != t.spec {
		t.version++
	}
	for ; t.spec < to; t.spec++ {
		t.starts = append(t.starts, now.Add(t.startup))
	}
	for ; t.spec > to; t.spec-- {
		if n := len(t.starts); n > 0 {
			t.starts = t.starts[:n-1]
		} else {
			t.ready--
		}
	}
	t.finish(now)
}

// finish makes those ready whose start is over.
func (t *simulated) finish(now time.Time) {
	for len(t.starts) > 0 && !t.starts[0].After(now) {
		t.starts = t.starts[1:]
		t.ready++
	}
}
