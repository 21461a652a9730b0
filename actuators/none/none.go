package none

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"

	"flyball/actuators"
)

// Kind is the kind of targets of which something else reads the metric.
const Kind = "none"

// maxReplicas is the largest size: Kubernetes keeps sizes in 32 bits.
const maxReplicas = math.MaxInt32

// Options are what Targets work with. All may be left out, for targets that have no queries.
type Options struct {
	// Query returns the one number that PromQL comes to now; anything else is an error.
	Query func(ctx context.Context, expr string) (float64, error)

	// Remembered returns the size that was decided last before this process, or this target, began, if that is known.
	Remembered func(actuators.Target) (replicas int, known bool)

	// Acts says whether decisions for the target are carried out. Where they are not, its size is what Replicas says. nil:
	// they are.
	Acts func(actuators.Target) bool
}

// Targets are the targets of one kind that something else scales. They implement [actuators.Actuator].
type Targets struct {
	kind string
	opts Options
	most int // replicas of a target

	mu     sync.Mutex // guards what follows
	config Config
	sizes  map[string]*size
}

// size is what is known of one target.
type size struct {
	replicas int
	known    bool
	decided  bool // it is what flyball says, not what was seen
	version  int
	last     decision
}

// decision is the change that was applied last.
type decision struct {
	id string
	to int
}

var _ actuators.Actuator = (*Targets)(nil)

// New returns the targets of a kind, of which there are none before [Targets.Set].
func New(kind string, o Options) *Targets {
	return &Targets{kind: kind, opts: o, most: maxReplicas, sizes: map[string]*size{}}
}

// Set replaces the configuration, which Validate has found nothing wrong with. The sizes that were decided stay.
func (a *Targets) Set(c Config) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.config = c
	for name := range a.sizes {
		if _, known := c.Of(name); !known {
			delete(a.sizes, name)
		}
	}
}

// find returns the entry of a target.
func (a *Targets) find(target actuators.Target) (Target, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	entry, known := a.config.Of(target.Name)
	if !known || target.Kind != a.kind {
		return Target{}, actuators.ErrUnknownTarget
	}
	return entry, nil
}

// Observe returns the size that was decided last, or of a target that only is observed the one that its query gives. Before
// anything was decided it is the larger of what is remembered and what the query gives: neither a restart nor a first start
// makes anything smaller by itself. Any query that has no answer is an error.
func (a *Targets) Observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	state, err := a.observe(ctx, target)
	if err != nil {
		return actuators.State{}, fmt.Errorf("observe %s: %w", target, err)
	}
	return state, nil
}

func (a *Targets) observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	entry, err := a.find(target)
	if err != nil {
		return actuators.State{}, err
	}
	if err := ctx.Err(); err != nil {
		return actuators.State{}, err
	}
	there, err := a.ask(ctx, "replicas", entry.Replicas, target.Name)
	if err != nil {
		return actuators.State{}, err
	}
	ready, err := a.ask(ctx, "ready", entry.Ready, target.Name)
	if err != nil {
		return actuators.State{}, err
	}
	acts := a.opts.Acts == nil || a.opts.Acts(target)

	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.size(target.Name)
	switch {
	case there != nil && !acts:
		s.set(*there)
		s.decided = false
	case !s.decided:
		s.set(a.first(target, s, entry, there))
		s.decided = true
	}
	state := actuators.State{Spec: s.replicas, Ready: s.replicas, Version: strconv.Itoa(s.version)}
	switch {
	case ready != nil:
		state.Ready = *ready
	case there != nil:
		state.Ready = *there
	}
	state.Pending = max(0, state.Spec-state.Ready)
	return state, nil
}

// first is the size to begin with; a.mu is held.
func (a *Targets) first(target actuators.Target, s *size, entry Target, there *int) int {
	n, known := s.replicas, s.known
	if !known && a.opts.Remembered != nil {
		n, known = a.opts.Remembered(target)
	}
	switch {
	case there != nil && known:
		return max(*there, n)
	case there != nil:
		return *there
	case known || entry.Initial == nil:
		return n
	}
	return *entry.Initial
}

// ask returns the number of replicas that a query comes to, nil without one.
func (a *Targets) ask(ctx context.Context, key, expr, name string) (*int, error) {
	if expr == "" {
		return nil, nil
	}
	v, err := a.opts.Query(ctx, Expand(expr, name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if !(v >= 0 && v <= maxReplicas) {
		return nil, fmt.Errorf("%s: the query gives %g, which is no number of replicas", key, v)
	}
	n := int(math.Round(v))
	return &n, nil
}

// Apply takes a decision: from then on the target's size is what it says.
func (a *Targets) Apply(ctx context.Context, target actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	receipt, err := a.apply(ctx, target, change)
	if err != nil {
		return actuators.Receipt{}, fmt.Errorf("apply %d replicas to %s: %w", change.To, target, err)
	}
	return receipt, nil
}

func (a *Targets) apply(ctx context.Context, target actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	if _, err := a.find(target); err != nil {
		return actuators.Receipt{}, err
	}
	if err := ctx.Err(); err != nil {
		return actuators.Receipt{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if change.To < 0 || change.To > a.most {
		return actuators.Receipt{}, actuators.ErrOutOfRange
	}
	s := a.size(target.Name)
	this := decision{change.DecisionID, change.To}
	if this.id != "" && this == s.last {
		return s.receipt(false), nil
	}
	if version := strconv.Itoa(s.version); change.IfVersion != "" && change.IfVersion != version {
		return actuators.Receipt{}, fmt.Errorf("%w: version %s, now %s", actuators.ErrConflict, change.IfVersion, version)
	}
	if change.DryRun {
		return s.receipt(false), nil
	}
	s.last, s.decided = this, true
	return s.receipt(s.set(change.To)), nil
}

// size returns that of a target; a.mu is held.
func (a *Targets) size(name string) *size {
	s := a.sizes[name]
	if s == nil {
		s = &size{}
		a.sizes[name] = s
	}
	return s
}

// set reports whether the size changed.
func (s *size) set(replicas int) bool {
	changed := !s.known || s.replicas != replicas
	if changed {
		s.version++
	}
	s.replicas, s.known = replicas, true
	return changed
}

func (s *size) receipt(changed bool) actuators.Receipt {
	return actuators.Receipt{Spec: s.replicas, Version: strconv.Itoa(s.version), Changed: changed}
}
