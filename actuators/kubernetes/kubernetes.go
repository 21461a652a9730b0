package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flyball/actuators"
)

// Kind is the kind of this actuator's targets.
const Kind = "kubernetes"

// Options are what a Kubernetes works with. All are optional.
type Options struct {
	Logger    *slog.Logger // nil: no logs
	UserAgent string       // as the apiserver's audit log has it; empty for flyball
	Instance  string       // this process, as Events name what reports them; empty for flyball
}

// Kubernetes is the actuator of one cluster. It implements actuators.Actuator. Without a configuration, which Update.Commit
// gives, it has no targets.
type Kubernetes struct {
	opts   Options
	log    *slog.Logger
	client atomic.Pointer[client] // nil where there is no configuration

	mu      sync.Mutex // guards targets
	targets map[string]*target
}

// target is what is remembered of a target between calls.
type target struct {
	mu        sync.Mutex // held while it is written to
	seen      *object    // as it was read last
	decisions []decision
	told      told
	readiness string // where the ready replicas are counted, as the log has it
	owners    string // the autoscalers that have it, as the log has them
	synced    synced
}

// synced is what was said of the GitOps manager whose sources have a target's size.
type synced struct {
	by   string // empty for none yet
	told bool   // by an Event
}

// decision is a change that was carried out.
type decision struct {
	id string
	to int
}

// rememberedDecisions is how many decisions of a target are known again. Repeats come within a few evaluations.
const rememberedDecisions = 64

var (
	_ actuators.Actuator = (*Kubernetes)(nil)
	_ actuators.Teller   = (*Kubernetes)(nil)
)

// New returns an actuator without a cluster.
func New(o Options) *Kubernetes {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.UserAgent == "" {
		o.UserAgent = "flyball"
	}
	if o.Instance == "" {
		o.Instance = "flyball"
	}
	return &Kubernetes{opts: o, log: o.Logger, targets: map[string]*target{}}
}

// Update is a new configuration, checked and ready to be taken over.
type Update struct {
	k    *Kubernetes
	next *client
}

// Prepare checks a configuration and reads what it refers to; nil is none. It changes nothing and asks the cluster nothing:
// one that cannot be reached yet is found when its targets are observed.
func (k *Kubernetes) Prepare(config *Config) (*Update, error) {
	if config == nil {
		return &Update{k: k}, nil
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	c, err := newClient(*config, k.log, k.opts.UserAgent)
	if err != nil {
		return nil, err
	}
	return &Update{k: k, next: c}, nil
}

// Commit takes the configuration over. Calls that are on their way end as they began.
func (u *Update) Commit() {
	if before := u.k.client.Swap(u.next); before != nil {
		before.close()
	}
}

// Close lets go of the connections to the cluster.
func (k *Kubernetes) Close() {
	if c := k.client.Swap(nil); c != nil {
		c.close()
	}
}

// begin finds the cluster and what a target's name stands for.
func (k *Kubernetes) begin(ctx context.Context, t actuators.Target) (*client, *target, ref, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, ref{}, err
	}
	c := k.client.Load()
	if c == nil {
		return nil, nil, ref{}, fmt.Errorf("%w: actuators.kubernetes is not configured", actuators.ErrUnknownTarget)
	}
	r, err := c.config.parse(t.Name)
	if err != nil {
		return nil, nil, ref{}, fmt.Errorf("%w: %w", actuators.ErrUnknownTarget, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.targets[t.Name]
	if known == nil {
		known = &target{}
		k.targets[t.Name] = known
	}
	return c, known, r, nil
}

// Observe implements actuators.Actuator.
func (k *Kubernetes) Observe(ctx context.Context, t actuators.Target) (actuators.State, error) {
	state, err := k.observe(ctx, t)
	if err != nil {
		return actuators.State{}, fmt.Errorf("observe %s: %w", t, err)
	}
	return state, nil
}

func (k *Kubernetes) observe(ctx context.Context, t actuators.Target) (actuators.State, error) {
	c, known, r, err := k.begin(ctx, t)
	if err != nil {
		return actuators.State{}, err
	}
	ctx, cancel := c.limited(inLine(ctx, t.String()))
	defer cancel()
	now, err := c.read(ctx, r)
	if err != nil {
		return actuators.State{}, err
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	known.seen = now
	if known.readiness != now.readiness {
		known.readiness = now.readiness
		level := slog.LevelInfo
		if now.assumed {
			level = slog.LevelWarn
		}
		k.log.Log(ctx, level, "ready replicas of a target", "target", t.String(), "are", now.readiness)
	}
	k.meet(ctx, c, known, t, r, now)
	state := actuators.State{Spec: now.spec, Ready: now.ready, Pending: max(0, now.spec-now.ready), Version: now.version()}
	if now.paused {
		state.Paused = "the annotation " + PausedBy
	}
	return state, nil
}

// meet has it in the log, once, who else sets the size of a target. known.mu is held.
func (k *Kubernetes) meet(ctx context.Context, c *client, known *target, t actuators.Target, r ref, now *object) {
	if now.syncedBy != "" && known.synced.by != now.syncedBy {
		known.synced = synced{by: now.syncedBy}
		k.log.Warn("the size of a target is in the sources of a GitOps manager, whose syncs put it back", "target", t.String(), "manager", now.syncedBy, "do", syncedHint)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	all, err := c.neighbours(ctx, r, now.resource, observedFor)
	if err != nil { // Apply does not go on without
		return
	}
	inCharge := slices.DeleteFunc(all, func(o owner) bool { return o.hands })
	if text := ownersText(inCharge); text != known.owners {
		if known.owners = text; text != "" {
			k.log.Warn("an autoscaler sets the size of a target", "target", t.String(), "autoscaler", text, "conflict", string(c.config.ConflictOf(t.Name)))
		} else {
			k.log.Info("no autoscaler sets the size of a target any more", "target", t.String())
		}
	}
}

// syncedHint is what to do about two that set one size.
const syncedHint = "leave spec.replicas out of the source, or have it ignored (Argo CD: ignoreDifferences and RespectIgnoreDifferences)"

// Apply implements actuators.Actuator.
func (k *Kubernetes) Apply(ctx context.Context, t actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	receipt, err := k.apply(ctx, t, change)
	if err != nil {
		return actuators.Receipt{}, fmt.Errorf("apply %d replicas to %s: %w", change.To, t, err)
	}
	return receipt, nil
}

func (k *Kubernetes) apply(ctx context.Context, t actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	c, known, r, err := k.begin(ctx, t)
	if err != nil {
		return actuators.Receipt{}, err
	}
	if change.To < 0 || change.To > c.config.MaxReplicas {
		return actuators.Receipt{}, fmt.Errorf("%w: it is not between 0 and actuators.kubernetes.max_replicas, which is %d", actuators.ErrOutOfRange, c.config.MaxReplicas)
	}
	ctx, cancel := c.limited(inLine(ctx, t.String()))
	defer cancel()
	known.mu.Lock()
	defer known.mu.Unlock()
	var receipt actuators.Receipt
	before := known.seen // for the Event of what is not allowed to begin
	floor, err := k.clear(ctx, c, t, r, change)
	switch {
	case err != nil:
	case floor != nil:
		receipt, before, err = k.floor(ctx, c, known, t, r, *floor, change)
	default:
		receipt, before, err = k.write(ctx, c, known, r, change)
	}
	if !change.DryRun {
		if now := k.tell(ctx, c, known, t, r, before, change, receipt, err); now != nil {
			known.seen, receipt.Version = now, now.version()
		}
	}
	return receipt, err
}

// conflicts is how often a write may come too late before it is given up. A workload's status is written several times for
// each of its replicas that starts: of hundreds, some fifty times a second, while a look and a write take some 10 ms.
const conflicts = 50

// write brings a target to a size, if it is still the one that the change was decided for; before is how it was found, nil
// where it was not. known.mu is held.
func (k *Kubernetes) write(ctx context.Context, c *client, known *target, r ref, change actuators.Change) (_ actuators.Receipt, before *object, _ error) {
	this := decision{change.DecisionID, change.To}
	repeated := change.DecisionID != "" && slices.Contains(known.decisions, this)
	now := known.seen
	ctx, doubt := withDoubt(ctx)
	for attempt := 0; ; attempt++ {
		// What was observed just now need not be read again: a write that is based on it is refused if it is out of date.
		// But to do nothing takes certainty.
		if attempt > 0 || repeated || now == nil || change.IfVersion == "" || now.version() != change.IfVersion || now.spec == change.To {
			look := c.read
			if attempt > 0 {
				look = c.glance
			}
			var err error
			last := now
			if now, err = look(ctx, r); err != nil {
				return actuators.Receipt{}, before, err
			}
			if attempt > 0 && now.place.path != "" && now.place.path == last.place.path && now.generation == last.generation {
				return actuators.Receipt{}, before, fmt.Errorf("patch %s: the apiserver does not carry out the patch: is there something at %s to put it in?",
					r.resource, path.Dir(now.place.path))
			}
			known.seen = now
		}
		if before == nil {
			before = now
		}
		receipt := actuators.Receipt{Spec: now.spec, Version: now.version()}
		switch {
		case attempt > 0 && doubt.Load() && now.spec == change.To: // it was carried out, though an answer said that something went wrong
			known.remember(this)
			receipt.Changed = true
			return receipt, before, nil
		case repeated:
			return receipt, before, nil
		case attempt > 0 && change.IfVersion != "" && now.spec == before.spec && now.uid == before.uid:
			// Written to since it was found as the decision was made for, a moment ago, and its size is still the same.
		case change.IfVersion != "" && now.version() != change.IfVersion:
			return actuators.Receipt{}, before, conflict(change, now)
		case now.spec == change.To:
			return receipt, before, nil
		}
		next, err := c.write(ctx, r, now, change.To, change.DryRun)
		switch {
		case err == nil && change.DryRun:
			return receipt, before, nil
		case err == nil:
			known.remember(this)
			if attempt > 0 { // its generation is not known
				if whole, err := c.read(ctx, r); err == nil {
					next.generation = whole.generation
				}
			}
			known.seen = next
			return actuators.Receipt{Spec: next.spec, Version: next.version(), Changed: true}, before, nil
		case !errors.Is(err, errStale) || attempt == conflicts:
			known.seen = nil
			if doubt.Load() && errors.Is(err, actuators.ErrRefused) { // the try before may have been carried out all the same
				err = errors.New(err.Error() + "; whether an earlier try was carried out is not known")
			}
			return actuators.Receipt{}, before, err
		}
		if err := pause(ctx, time.Duration(rand.Int64N(int64(time.Millisecond<<min(attempt, 6))))); err != nil {
			return actuators.Receipt{}, before, err
		}
	}
}

func (t *target) remember(d decision) {
	if d.id == "" {
		return
	}
	if len(t.decisions) == rememberedDecisions {
		t.decisions = slices.Delete(t.decisions, 0, 1)
	}
	t.decisions = append(t.decisions, d)
}

// conflict says what became of a target since a change was decided.
func conflict(change actuators.Change, now *object) error {
	what := fmt.Sprintf("it has %d replicas, and the decision was made for %d", now.spec, change.From)
	if now.spec == change.From {
		what = fmt.Sprintf("its spec is another since (generation %d), although it has %d replicas again or still", now.generation, now.spec)
	}
	return fmt.Errorf("%w: %s", actuators.ErrConflict, what)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// errStale is why a write was not carried out: the object is not as it was read, or may not be.
var errStale = errors.New("the object was changed at the same time")
