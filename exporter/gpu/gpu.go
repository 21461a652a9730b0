package gpu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// Options are the settings of a Collector. The zero value of each but Worker is a default.
type Options struct {
	// Worker is the command that runs Worker: normally this binary with its hidden command.
	Worker []string

	Library string // the file or name of libnvidia-ml.so.1; empty to look where drivers put it
	Require bool   // Run returns ErrNoGPU on a machine without driver or GPU
	// Processes says to read which processes run on the GPUs. That takes longest of all, some milliseconds a GPU.
	Processes bool
	Logger    *slog.Logger // nil to log nothing

	// Interval is how often the GPUs are read: 5 s by default. The driver computes utilisation over 1/6 s to 1 s, and
	// every call takes a lock that workloads need too, so more often costs them and tells little.
	Interval time.Duration
	// Timeout is how long a worker may take to read all GPUs: 2 s by default. It takes microseconds for each; what is
	// not there after 2 s hangs.
	Timeout time.Duration
	// StartTimeout is how long a worker's first answer may take: 30 s by default. Without the persistence daemon NVML
	// initialises every GPU when it is opened, which takes seconds for each.
	StartTimeout time.Duration
	// Retry is how often driver and GPUs are looked for where there are none: every 30 s by default.
	Retry time.Duration
}

// Limits of what is done about a worker that fails.
const (
	minBackoff   = time.Second // between the end of one worker and the start of the next, doubled at every failure
	maxBackoff   = time.Minute // up to this: a driver that is being replaced takes minutes
	reapTime     = time.Second // for a killed worker to end; longer, and it is stuck in the driver and abandoned
	maxAbandoned = 3           // such workers at most: each holds memory and a place in the driver's queue
	staleAfter   = 3           // intervals until the last snapshot is not published any more: one may be lost to a restart
)

// ErrNoGPU is what Run returns where GPUs are required and there are none.
var ErrNoGPU = errors.New("no GPU")

// worker is what a Collector needs of a child.
type worker interface {
	poll(ctx context.Context, req request, timeout time.Duration) (reply, error)
	kill() <-chan struct{}
}

// Collector keeps the last snapshot of the GPUs and publishes it. It is an exporter.Collector; without Run it has nothing
// to publish.
type Collector struct {
	opts    Options
	unbound string // why this binary cannot call NVML; empty where it can
	start   func() (worker, error)

	mu       sync.Mutex
	snapshot *reply    // the last good one; nil before that
	taken    time.Time // when snapshot was taken
	known    []known   // every GPU that was ever seen, in that order
	err      error     // why there is none since; nil while all is well, and where there is no driver
}

// known is a GPU that was seen.
type known struct {
	uuid  string
	index int
	err   string // why it cannot be read now; empty while it can
}

// New returns a collector that starts no worker before Run.
func New(opts Options) *Collector {
	opts.Interval = cmp.Or(opts.Interval, 5*time.Second)
	opts.Timeout = cmp.Or(opts.Timeout, 2*time.Second)
	opts.StartTimeout = cmp.Or(opts.StartTimeout, 30*time.Second)
	opts.Retry = cmp.Or(opts.Retry, 30*time.Second)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Collector{
		opts:    opts,
		unbound: unbound(),
		start: func() (worker, error) {
			if len(opts.Worker) == 0 {
				return nil, errors.New("start the NVML worker: no command given")
			}
			return startChild(opts.Worker)
		},
	}
}

// Name returns gpu.
func (c *Collector) Name() string { return "gpu" }

// Update publishes the last snapshot. The error wraps exporter.ErrNoData where there is no driver, and before the first
// snapshot; otherwise it says which GPU cannot be read, or why none can.
func (c *Collector) Update(context.Context) ([]prometheus.Metric, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.snapshot == nil {
		if c.err != nil {
			return nil, fmt.Errorf("gpu: %w", c.err)
		}
		return nil, fmt.Errorf("gpu: %w", exporter.ErrNoData)
	}
	if age := time.Since(c.taken); age > staleAfter*c.opts.Interval {
		var page page
		for _, k := range c.known {
			page.up(k.uuid, k.index, false)
		}
		if c.err != nil {
			return page.metrics, fmt.Errorf("gpu: no reading for %s: %w", age.Round(time.Second), c.err)
		}
		return page.metrics, fmt.Errorf("gpu: no reading for %s", age.Round(time.Second))
	}
	return publish(c.snapshot, c.known)
}

// Snapshot returns the last reading; nil before the first, and where it is so old that it is not published any more.
func (c *Collector) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.snapshot == nil || time.Since(c.taken) > staleAfter*c.opts.Interval {
		return nil
	}
	return &Snapshot{Taken: c.taken, Driver: c.snapshot.Driver, CUDA: c.snapshot.CUDA, Library: c.snapshot.Library, Devices: c.snapshot.Devices}
}

// accept makes rep the snapshot and logs which GPUs were lost and which came back.
func (c *Collector) accept(rep reply, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := map[string]string{} // by uuid, for those that are there
	for _, d := range rep.Devices {
		if d.UUID == "" {
			continue
		}
		errs[d.UUID] = d.Error
		if !c.knows(d) {
			c.known = append(c.known, known{uuid: d.UUID, index: d.Index})
		}
	}
	for i := range c.known {
		k := &c.known[i]
		err, there := errs[k.uuid]
		if !there {
			err = "it is not there any more"
		}
		switch {
		case err != "" && k.err == "":
			c.opts.Logger.Warn("GPU cannot be read", "uuid", k.uuid, "gpu", k.index, "err", err)
		case err == "" && k.err != "":
			c.opts.Logger.Info("GPU is read again", "uuid", k.uuid, "gpu", k.index)
		}
		k.err = err
	}
	c.snapshot, c.taken, c.err = &rep, now, nil
}

// knows reports whether d was seen before, and notes its index, which may change.
func (c *Collector) knows(d Device) bool {
	for i := range c.known {
		if c.known[i].uuid == d.UUID {
			c.known[i].index = d.Index
			return true
		}
	}
	return false
}

// fail notes why there is no new snapshot; nil where none is to be expected.
func (c *Collector) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// seen reports whether there ever was a snapshot.
func (c *Collector) seen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshot != nil
}
