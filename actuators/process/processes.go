package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
)

// Kind is the kind of target that this package acts on.
const Kind = "process"

// Options is what Processes needs from its surroundings.
type Options struct {
	Logger     *slog.Logger          // nil for none
	Registerer prometheus.Registerer // nil for no metrics

	// Supervisor is the argument vector of a program that passes its further arguments and its stdin to Supervise:
	// normally the path of this executable and the name of its hidden command.
	Supervisor []string

	// Drain, if not nil, returns when nothing is in flight to a replica of the target (its name) any more, or ctx ends.
	// It is called once the address has left the list of endpoints. ctx ends when the target's drain time has passed
	// or the replica has ended.
	Drain func(ctx context.Context, target, address string) error
}

// Processes runs the replicas of all targets. It is the actuator of kind "process". Its methods may be called from
// several goroutines at once.
type Processes struct {
	opts    Options
	log     *slog.Logger
	run     string // tells the versions of this instance from those of another
	metrics *metrics
	timing  timing
	ports   ports

	start func(rendered, time.Duration, output) (*child, error)
	probe func(ctx context.Context, url string) error // nil when the replica is ready

	wg sync.WaitGroup // the replicas' goroutines

	mu     sync.Mutex // guards all below, and the pools
	pools  map[string]*pool
	launch func(*pool, *replica) // nil unless running
	ended  bool
}

var _ actuators.Actuator = (*Processes)(nil)

// timing is how often replicas are asked whether they are ready.
type timing struct {
	fast, slow time.Duration // pauses: until first ready within fastFor of the start, and from then on
	fastFor    time.Duration
	timeout    time.Duration // of one request
	failures   int           // in a row, until a replica that was ready is not
}

// New returns the targets of the configuration, each at size 0. Nothing is started before Run. It fails on what Validate
// finds, on metrics that are registered already, and on a system where replicas cannot be held.
func New(cfg Config, opts Options) (*Processes, error) {
	if len(cfg) > 0 && len(opts.Supervisor) == 0 {
		return nil, errors.New("process: no supervisor given")
	}
	p := &Processes{
		opts: opts,
		log:  opts.Logger,
		run:  fmt.Sprintf("%08x", rand.Uint32()),
		timing: timing{
			fast:     50 * time.Millisecond, // a small server is ready in tens of milliseconds
			slow:     time.Second,           // what a readiness probe of Kubernetes usually has
			fastFor:  5 * time.Second,
			timeout:  time.Second,
			failures: 3, // one late answer of a busy server is no reason to take it out
		},
		pools: make(map[string]*pool, len(cfg)),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	client := &http.Client{
		// No proxy from the environment, and each probe finds out anew whether a connection can be made.
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	p.probe = func(ctx context.Context, url string) error { return probe(ctx, client, url) }
	p.start = func(command rendered, grace time.Duration, out output) (*child, error) {
		return startChild(opts.Supervisor, command, grace, out)
	}
	all, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	for name, s := range all {
		p.pools[name] = newPool(name, s)
	}
	p.metrics = newMetrics()
	for _, pool := range p.pools {
		p.metrics.show(pool.target)
	}
	if opts.Registerer != nil {
		for _, c := range []prometheus.Collector{p.metrics.restarts, p.metrics.starts, &sizes{p}} {
			if err := opts.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("process: register metrics: %w", err)
			}
		}
	}
	return p, nil
}

// Run starts the replicas that were asked for and keeps them running until ctx ends. It then ends them all at once, each
// as in a scale-down, and returns when none is left. It can be called once; the error is that it was called before.
func (p *Processes) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.launch != nil || p.ended {
		p.mu.Unlock()
		return errors.New("process: run twice")
	}
	draining := context.WithoutCancel(ctx) // replicas are told to end one by one, and then take their time
	p.launch = func(pool *pool, r *replica) {
		p.wg.Go(func() { p.hold(draining, pool, r) })
	}
	for _, pool := range p.pools {
		p.resize(pool)
	}
	p.mu.Unlock()

	<-ctx.Done()

	p.mu.Lock()
	p.ended = true
	p.launch = nil
	for _, pool := range p.pools {
		for _, r := range pool.replicas {
			r.retire()
		}
		pool.publish()
	}
	p.mu.Unlock()
	p.wg.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pool := range p.pools {
		pool.endpoints.end()
	}
	return nil
}

// Observe returns the size of the target. It never waits for a replica.
func (p *Processes) Observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pool, err := p.find(ctx, target)
	if err != nil {
		return actuators.State{}, fmt.Errorf("observe %s: %w", target, err)
	}
	ready := pool.count(Ready)
	return actuators.State{
		Spec:    pool.spec,
		Ready:   ready,
		Pending: max(pool.spec-ready, 0),
		Version: p.versionOf(pool),
		Fresh:   pool.fresh,
	}, nil
}

// Apply sets the size of the target and returns at once. Before Run only the size is kept; after Run ended it fails.
func (p *Processes) Apply(ctx context.Context, target actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	receipt, err := p.apply(ctx, target, change)
	if err != nil {
		return actuators.Receipt{}, fmt.Errorf("apply %d replicas to %s: %w", change.To, target, err)
	}
	return receipt, nil
}

func (p *Processes) apply(ctx context.Context, target actuators.Target, change actuators.Change) (actuators.Receipt, error) {
	pool, err := p.find(ctx, target)
	switch {
	case err != nil:
		return actuators.Receipt{}, err
	case p.ended:
		return actuators.Receipt{}, errors.New("all replicas were ended")
	case change.To < 0 || change.To > pool.settings.Load().MaxReplicas:
		return actuators.Receipt{}, fmt.Errorf("%w: 0 to max_replicas %d", actuators.ErrOutOfRange, pool.settings.Load().MaxReplicas)
	}
	unchanged := actuators.Receipt{Spec: pool.spec, Version: p.versionOf(pool)}
	if pool.decided(change) {
		return unchanged, nil
	}
	if change.IfVersion != "" && change.IfVersion != unchanged.Version {
		return actuators.Receipt{}, fmt.Errorf("%w: version %s, now %s", actuators.ErrConflict, change.IfVersion, unchanged.Version)
	}
	if change.DryRun {
		return unchanged, nil
	}
	pool.remember(change)
	pool.fresh = false
	if change.To == pool.spec {
		return unchanged, nil
	}
	p.log.Info("size changed", "target", target.String(), "from", pool.spec, "to", change.To,
		"decision", change.DecisionID, "reason", change.Reason)
	pool.spec = change.To
	pool.version++
	p.resize(pool)
	return actuators.Receipt{Spec: pool.spec, Version: p.versionOf(pool), Changed: true}, nil
}

// Endpoints returns the addresses (host:port) of the target's ready replicas, in the order of their index, and a channel
// of every later list. A receiver that is slow misses lists that were replaced in the meantime, never the last one. The
// channel is closed when ctx ends, and when Run does; the last list is then empty. The error wraps
// actuators.ErrUnknownTarget.
func (p *Processes) Endpoints(ctx context.Context, target string) (current []string, changes <-chan []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pool, ok := p.pools[target]
	if !ok {
		return nil, nil, fmt.Errorf("endpoints of %s: %w", target, actuators.ErrUnknownTarget)
	}
	f := pool.endpoints.follow()
	if p.ended && len(pool.replicas) == 0 {
		pool.endpoints.unfollow(f)
		return []string{}, f.lists, nil
	}
	f.forget = context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		pool.endpoints.unfollow(f)
	})
	return pool.endpoints.list(), f.lists, nil
}

// Replicas returns the state of the target's replicas in the order of their index, those that are draining included. It
// is empty for a target that there is not.
func (p *Processes) Replicas(target string) []ReplicaStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	pool, ok := p.pools[target]
	if !ok {
		return nil
	}
	statuses := make([]ReplicaStatus, len(pool.replicas))
	for i, r := range pool.replicas {
		statuses[i] = r.ReplicaStatus
		statuses[i].Outdated = r.settings != nil && !reflect.DeepEqual(r.settings.Target, pool.settings.Load().Target)
	}
	return statuses
}

// find returns the pool of a target; p.mu is held.
func (p *Processes) find(ctx context.Context, target actuators.Target) (*pool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pool, ok := p.pools[target.Name]
	if !ok || target.Kind != Kind {
		return nil, actuators.ErrUnknownTarget
	}
	return pool, nil
}

func (p *Processes) versionOf(pool *pool) string { return fmt.Sprintf("%s-%d", p.run, pool.version) }

// resize adds or retires replicas until as many as were asked for are left; p.mu is held.
func (p *Processes) resize(pool *pool) {
	if p.launch == nil {
		return
	}
	now := time.Now() // one time for all: of replicas that are started together, none is the youngest
	for pool.size() < pool.spec {
		p.launch(pool, pool.add(now))
	}
	for pool.size() > pool.spec {
		pool.victim().retire()
	}
	pool.publish()
}
