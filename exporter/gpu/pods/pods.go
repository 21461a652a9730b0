package pods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"flyball/exporter"
	"flyball/exporter/gpu"
)

// DefaultSocket is where the kubelet has its pod-resources API, unless its root directory is another.
const DefaultSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"

// Options are the settings of a Collector. The zero value of each but Snapshot is a default.
type Options struct {
	// Snapshot returns the last reading of the GPUs, nil where there is none: that of a gpu.Collector. Without it, or
	// without GPUs, which pod has which GPU is told, and not what it makes of it.
	Snapshot func() *gpu.Snapshot

	Socket   string       // of the kubelet; empty for DefaultSocket
	ProcPath string       // where procfs is mounted; empty for /proc
	LogPath  string       // the kubelet's directory of logs, which has the UIDs of pods; empty for /var/log/pods
	Logger   *slog.Logger // nil to log nothing

	// IdleWatts is the power of an idle GPU, which is no pod's; nil for the least that was seen of each GPU while nothing
	// ran on it.
	IdleWatts *float64

	// Interval is how often the kubelet is asked: 10 s by default. There is no way to be told of changes in v1 of its API.
	Interval time.Duration
	// Timeout is how long it may take: 5 s by default. It takes a millisecond for 250 pods.
	Timeout time.Duration
	// Sample is how often the GPUs' figures are divided among the pods: 5 s by default, as often as they are read.
	Sample time.Duration
}

// Collector keeps which pod has which GPU and what it makes of it. It is an exporter.Collector; without Run it has nothing
// to publish.
type Collector struct {
	opts Options
	gpus bool // there is somebody who reads them

	mu     sync.Mutex
	state  state     // of the kubelet
	err    error     // why the kubelet was not heard the last time
	heard  time.Time // when grants was told; zero before that
	grants []grant   // the last that it told
	view   view      // what is published of them

	accounting sync.Mutex // guards what follows, which account alone uses
	ledger     *ledger
	processes  processes
	known      inventory       // as the last snapshot had it
	byMinor    map[int]string  // as the driver's procfs had it last
	minorsAt   time.Time       // when it was read
	minorErr   error           // what could not be read of it
	reading    chan minorsRead // of a read that goes on; nil without one
	named      map[string]bool // identifiers that the log has as not resolved
	told       told
	early      bool // the GPUs are still waited for: which pod has which is not told yet
}

// state says how it stands with the kubelet.
type state int

const (
	unknown   state = iota
	absent          // there never was a socket
	answering       // it answered the last time
	failing         // it did not, and there is or was a socket
)

// view is what a scrape publishes. Nobody changes it.
type view struct {
	there      bool // it was made
	places     []place
	uses       map[key]use
	unresolved int
}

// told is what was logged once and is not to be said again.
type told struct{ pids, names, unread bool }

type minorsRead struct {
	byMinor map[int]string
	err     error
}

// New returns a collector that asks nothing before Run.
func New(opts Options) *Collector {
	opts.Socket = cmp.Or(opts.Socket, DefaultSocket)
	opts.ProcPath = cmp.Or(opts.ProcPath, "/proc")
	opts.LogPath = cmp.Or(opts.LogPath, "/var/log/pods")
	opts.Interval = cmp.Or(opts.Interval, 10*time.Second)
	opts.Timeout = cmp.Or(opts.Timeout, 5*time.Second)
	opts.Sample = cmp.Or(opts.Sample, 5*time.Second)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	gpus := opts.Snapshot != nil
	if !gpus {
		opts.Snapshot = func() *gpu.Snapshot { return nil }
	}
	return &Collector{
		opts:      opts,
		gpus:      gpus,
		ledger:    newLedger(opts.IdleWatts),
		processes: processes{proc: opts.ProcPath, logs: opts.LogPath},
		known:     newInventory(nil, nil),
		named:     map[string]bool{},
	}
}

// Name returns pods.
func (c *Collector) Name() string { return "pods" }

// Run asks the kubelet and reads the processes until ctx is done, and then returns nil. Before the GPUs were read the first time
// it does not know which device is which GPU, and has no series of pods.
func (c *Collector) Run(ctx context.Context) error {
	c.setEarly(c.opts.Snapshot() == nil)
	var wg sync.WaitGroup
	wg.Go(func() { every(ctx, c.opts.Interval, c.poll) })
	wg.Go(func() {
		c.awaitGPUs(ctx)
		every(ctx, c.opts.Sample, c.account)
	})
	wg.Wait()
	return nil
}

// firstReading is how long the GPUs are waited for at the start: a driver that was not in use takes a second for each. Where there
// are none, what the kubelet says is told without them from then on.
const firstReading = 15 * time.Second

func (c *Collector) awaitGPUs(ctx context.Context) {
	timeout := time.NewTimer(firstReading)
	defer timeout.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for c.gpus && c.opts.Snapshot() == nil {
		select {
		case <-look.C:
			continue
		case <-timeout.C:
		case <-ctx.Done():
			return
		}
		break
	}
	c.setEarly(false)
}

func (c *Collector) setEarly(early bool) {
	c.accounting.Lock()
	defer c.accounting.Unlock()
	c.early = early && c.gpus
}

// every calls do at once and then with the interval between two calls, until ctx is done.
func every(ctx context.Context, interval time.Duration, do func(context.Context)) {
	for {
		do(ctx)
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return
		}
	}
}

// poll asks the kubelet. What it told before stays where it does not answer: a kubelet that is down starts and ends no pods.
func (c *Collector) poll(ctx context.Context) {
	reply, err := list(ctx, c.opts.Socket, c.opts.Timeout)
	if ctx.Err() != nil {
		return
	}
	c.take(reply, err, time.Now())
	if err == nil {
		c.account(ctx) // for the series of a new pod to be there, and those of one that is gone not, without delay
	}
}

// take notes what the kubelet told, and logs what has changed about it.
func (c *Collector) take(reply *podresources.ListPodResourcesResponse, err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, log := c.state, c.opts.Logger
	switch {
	case err == nil:
		c.state, c.err, c.heard, c.grants = answering, nil, now, grants(reply)
		if before != answering {
			log.Info("reading which pod has which GPU", "socket", c.opts.Socket, "pods", len(reply.GetPodResources()), "devices", len(c.grants))
		}
	case errors.Is(err, errNoSocket) && (before == unknown || before == absent):
		c.state = absent
		if before != absent {
			log.Info("no kubelet to ask for pods", "socket", c.opts.Socket, "retry", c.opts.Interval)
		}
	default:
		c.state, c.err = failing, err
		if before != failing {
			log.Warn("kubelet does not tell which pod has which GPU: what it told last stays", "err", err, "retry", c.opts.Interval)
		}
	}
}

// account divides what the GPUs do now among the pods.
func (c *Collector) account(ctx context.Context) {
	c.accounting.Lock()
	defer c.accounting.Unlock()
	c.mu.Lock()
	all := c.grants
	heard := c.heard
	c.mu.Unlock()
	if heard.IsZero() || c.early {
		return
	}
	c.readMinors(ctx, all)
	s := c.opts.Snapshot()
	if s != nil {
		c.known = newInventory(s, nil)
	}
	c.known.byMinor = c.byMinor
	places, unresolved := c.known.locate(all)

	now := time.Now()
	c.processes.begin()
	c.ledger.account(s, places, func(pid int) (holder, bool) { return c.processes.whose(pid, now) })
	c.report(unresolved)

	v := view{there: true, places: places, uses: make(map[key]use, len(c.ledger.uses)), unresolved: len(unresolved)}
	for k, u := range c.ledger.uses {
		v.uses[k] = *u
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view = v
}

// patience is how long the driver's procfs is waited for. A driver that hangs may never answer, and then one goroutine
// waits for it.
const patience = 2 * time.Second

// renumber is how long the numbers of GPUs are believed: a driver that is loaded again may give others.
const renumber = time.Minute

// readMinors reads which GPU has which number, where a device is named by one. What was read before stays when it fails.
func (c *Collector) readMinors(ctx context.Context, all []grant) {
	old := time.Since(c.minorsAt) >= renumber
	needed := false
	for _, g := range all {
		_, known := c.byMinor[g.device.minor]
		needed = needed || g.device.minor >= 0 && (old || !known)
	}
	if !needed {
		return
	}
	if c.reading == nil {
		c.reading = make(chan minorsRead, 1)
		go func(done chan<- minorsRead, proc string) {
			byMinor, err := minors(proc)
			done <- minorsRead{byMinor, err}
		}(c.reading, c.opts.ProcPath)
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case r := <-c.reading:
		c.reading, c.minorErr, c.minorsAt = nil, r.err, time.Now()
		if len(r.byMinor) > 0 {
			c.byMinor = r.byMinor
		}
	case <-wait.C:
		c.minorErr = fmt.Errorf("the driver's procfs does not answer in %s", patience)
	case <-ctx.Done():
	}
}

// report logs, once for each, which devices could not be found and why processes are of no pod.
func (c *Collector) report(unresolved []grant) {
	log := c.opts.Logger
	named := map[string]bool{}
	for _, g := range unresolved {
		if named[g.name] = true; c.named[g.name] {
			continue
		}
		args := []any{"device", g.name, "resource", g.resource, "namespace", g.namespace, "pod", g.pod, "container", g.container, "err", g.err}
		if g.device.minor >= 0 && c.minorErr != nil {
			args = append(args, "procfs", c.minorErr)
		}
		log.Warn("device of a pod is not known", args...)
	}
	c.named = named

	p := &c.processes
	if p.tried > 0 && p.missing == p.tried && !c.told.pids {
		c.told.pids = true
		log.Warn("what pods make of GPUs that they share cannot be told: the processes on them are not in procfs. In a container that takes hostPID: true", "procfs", p.proc, "processes", p.tried)
	}
	if p.unreadOf != nil && !c.told.unread {
		c.told.unread = true
		log.Warn("process on a GPU is of no known pod: its cgroup cannot be read", "err", p.unreadOf)
	}
	if p.listErr != nil && !c.told.names {
		c.told.names = true
		hint := "what pods make of GPUs that they share cannot be told: the names of pods by UID cannot be read"
		if errors.Is(p.listErr, fs.ErrNotExist) {
			hint += ". In a container that takes the node's directory, read-only"
		}
		log.Warn(hint, "err", p.listErr)
	}
}

// Update publishes what was found last. The error wraps exporter.ErrNoData where there is no kubelet, and before the first
// answer; otherwise it says why the kubelet does not answer.
func (c *Collector) Update(context.Context) ([]prometheus.Metric, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var p page
	switch c.state {
	case unknown, absent:
		return nil, fmt.Errorf("pods: %w", exporter.ErrNoData)
	case answering:
		p.gauge(upDesc, 1)
	case failing:
		p.gauge(upDesc, 0)
	}
	if !c.heard.IsZero() {
		p.gauge(staleDesc, math.Max(0, time.Since(c.heard).Seconds()))
	}
	if c.view.there {
		p.gauge(unresolvedDesc, float64(c.view.unresolved))
		p.view(c.view)
	}
	if c.err != nil {
		return p.metrics, fmt.Errorf("pods: %w", c.err)
	}
	return p.metrics, nil
}
