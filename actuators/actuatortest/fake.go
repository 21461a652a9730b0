package actuatortest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"flyball/actuators"
)

// Fake is an actuator in memory. The zero value is ready to use: it has every target, each at size 0, and new replicas
// are ready at once. Set the exported fields before the first call; the methods may be called at any time.
type Fake struct {
	Targets    []actuators.Target // the targets that exist; empty for every target
	Max        int                // the largest size of a target; 0 for no limit
	ReadyAfter time.Duration      // from a change to its new replicas being ready
	Clock      func() time.Time   // nil for time.Now

	mu      sync.Mutex
	sizes   map[actuators.Target]*size
	changes []Applied
	err     error
}

// Applied is a change that a Fake took: neither refused nor a dry run. Receipt.Changed tells whether it had an effect.
type Applied struct {
	Target  actuators.Target
	Change  actuators.Change
	Receipt actuators.Receipt
	Time    time.Time
}

// size is the size of one target.
type size struct {
	spec      int
	version   int
	given     bool        // a change was applied
	starts    []time.Time // when each of the replicas becomes ready, oldest first
	decisions []decision
}

// decision is a change that was carried out.
type decision struct {
	id string
	to int
}

var _ actuators.Actuator = (*Fake)(nil)

// Observe returns the size of the target. It fails with the error given to FailWith.
func (f *Fake) Observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.find(ctx, target)
	if err != nil {
		return actuators.State{}, fmt.Errorf("observe %s: %w", target, err)
	}
	ready := s.ready(f.now())
	return actuators.State{
		Spec:    s.spec,
		Ready:   ready,
		Pending: s.spec - ready,
		Version: strconv.Itoa(s.version),
		Fresh:   !s.given,
	}, nil
}

// Apply changes the size of the target and records the change. It fails with the error given to FailWith.
func (f *Fake) Apply(ctx context.Context, target actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	receipt, err := f.apply(ctx, target, change)
	if err != nil {
		return actuators.Receipt{}, fmt.Errorf("apply %d replicas to %s: %w", change.To, target, err)
	}
	if !change.DryRun {
		f.changes = append(f.changes, Applied{Target: target, Change: change, Receipt: receipt, Time: f.now()})
	}
	return receipt, nil
}

func (f *Fake) apply(ctx context.Context, target actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	s, err := f.find(ctx, target)
	if err != nil {
		return actuators.Receipt{}, err
	}
	if change.To < 0 || (f.Max > 0 && change.To > f.Max) {
		return actuators.Receipt{}, actuators.ErrOutOfRange
	}
	this := decision{id: change.DecisionID, to: change.To}
	if this.id != "" && slices.Contains(s.decisions, this) {
		return s.receipt(false), nil
	}
	if version := strconv.Itoa(s.version); change.IfVersion != "" && change.IfVersion != version {
		return actuators.Receipt{}, fmt.Errorf("%w: version %s, now %s", actuators.ErrConflict, change.IfVersion, version)
	}
	if change.DryRun {
		return s.receipt(false), nil
	}
	s.given = true
	if this.id != "" {
		s.decisions = append(s.decisions, this)
	}
	return s.receipt(s.resize(change.To, f.now().Add(f.ReadyAfter))), nil
}

// Resize gives the target another size the way a third party would: unasked and unrecorded. Its version changes if the
// size does.
func (f *Fake) Resize(target actuators.Target, replicas int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size(target).resize(replicas, f.now().Add(f.ReadyAfter))
}

// FailWith makes every later call fail with err and change nothing; nil makes calls succeed again.
func (f *Fake) FailWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// Changes returns the changes that were applied so far, oldest first.
func (f *Fake) Changes() []Applied {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.changes)
}

func (f *Fake) now() time.Time {
	if f.Clock != nil {
		return f.Clock()
	}
	return time.Now()
}

// find returns the size of a target that a caller asked for; f.mu is held.
func (f *Fake) find(ctx context.Context, target actuators.Target) (*size, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.err != nil {
		return nil, f.err
	}
	if len(f.Targets) > 0 && !slices.Contains(f.Targets, target) {
		return nil, actuators.ErrUnknownTarget
	}
	return f.size(target), nil
}

// size returns the size of a target that exists; f.mu is held.
func (f *Fake) size(target actuators.Target) *size {
	if f.sizes == nil {
		f.sizes = make(map[actuators.Target]*size)
	}
	s, ok := f.sizes[target]
	if !ok {
		s = &size{version: 1}
		f.sizes[target] = s
	}
	return s
}

// resize reports whether the size changed. Replicas added become ready at the given time; those that are not ready yet
// are the first to go.
func (s *size) resize(to int, ready time.Time) bool {
	if s.spec == to {
		return false
	}
	for len(s.starts) < to {
		s.starts = append(s.starts, ready)
	}
	s.starts = s.starts[:to]
	s.spec = to
	s.version++
	return true
}

func (s *size) ready(now time.Time) int {
	n := 0
	for _, at := range s.starts {
		if !at.After(now) {
			n++
		}
	}
	return n
}

func (s *size) receipt(changed bool) actuators.Receipt {
	return actuators.Receipt{Spec: s.spec, Version: strconv.Itoa(s.version), Changed: changed}
}

// Slow is an actuator whose calls take By longer, or until their context ends.
type Slow struct {
	actuators.Actuator
	By time.Duration
}

// Observe waits, then asks the actuator.
func (s Slow) Observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	if err := s.wait(ctx); err != nil {
		return actuators.State{}, err
	}
	return s.Actuator.Observe(ctx, target)
}

// Apply waits, then asks the actuator.
func (s Slow) Apply(ctx context.Context, target actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	if err := s.wait(ctx); err != nil {
		return actuators.Receipt{}, err
	}
	return s.Actuator.Apply(ctx, target, change)
}

func (s Slow) wait(ctx context.Context) error {
	timer := time.NewTimer(s.By)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
