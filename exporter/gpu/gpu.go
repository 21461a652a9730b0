package gpu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// Options are the settings of a Collector. The zero value of each but Worker is a default.
type Options struct {
	// Worker is the command that runs Worker: normally this binary with its hidden command.
	Worker []string

	Backend   string // one of Backends; empty for BackendAuto
	Sim       *Sim   // the GPUs of BackendSim
	NvidiaSMI string // the command of BackendNvidiaSMI; empty to look for it in $PATH and where drivers put it
	SysPath   string // where sysfs is mounted, for BackendAMDGPU; empty for /sys

	ProcPath string // where procfs is mounted, for the names of processes; empty for /proc

	Library string       // the file or name of libnvidia-ml.so.1; empty to look where drivers put it
	Require bool         // Run returns ErrNoGPU on a machine without driver or GPU
	Logger  *slog.Logger // nil to log nothing

	// Interval is how often the GPUs are read: 5 s by default. The driver computes utilisation over 1/6 s to 1 s, and
	// every call takes a lock that workloads need too, so more often costs them and tells little.
	Interval time.Duration
	// SlowInterval is how often what hardly changes is read: 30 s by default. That is error counts, limits, links, fans
	// and instances of MIG, some of which take a hundred times longer to read than utilisation.
	SlowInterval time.Duration
	// Timeout is how long a worker may take to read all GPUs: 2 s by default, of which one GPU may take half. It takes
	// milliseconds for each; one that is not there after 1 s hangs.
	Timeout time.Duration
	// StartTimeout is how long a worker may say nothing while it starts: 30 s by default. It has as long to open the library,
	// or 5 s for each device file /dev/nvidiaN where that is longer, and then for each GPU that it gets hold of. Without the
	// persistence daemon NVML initialises a GPU then, which takes seconds; 16 of them may take more than a minute together.
	StartTimeout time.Duration
	// Retry is how often driver and GPUs are looked for where there are none: every 30 s by default.
	Retry time.Duration
	// NVLinkPerLink says to read the bytes over NVLink by link, where GPU and driver count them so, and not their sum.
	NVLinkPerLink bool
	// CallDurations says to measure every call into NVML.
	CallDurations bool
	// Processes says to read which processes run on the GPUs, every 15 s at most. That takes longest of all, some
	// milliseconds a GPU.
	Processes bool
	// MaxProcesses is how many processes of one GPU have series: 64 by default, those with the most memory; none where it is
	// negative. Snapshot has them all.
	MaxProcesses int
}

// Limits of what is done about a worker that fails.
const (
	minBackoff   = time.Second // between the end of one worker and the start of the next, doubled at every failure
	maxBackoff   = time.Minute // up to this: a driver that is being replaced takes minutes
	reapTime     = time.Second // for a killed worker to end; longer, and it is stuck in the driver and abandoned
	maxAbandoned = 3           // such workers at most: each holds memory and a place in the driver's queue
	staleAfter   = 3           // intervals, at least, until a reading is not published any more: one may be lost to a restart

	processInterval = 15 * time.Second // at least, between two readings of the processes

	maxFaults = 32 // odd answers about one GPU that are logged

	maxKnown = 4 * maxGPUs // GPUs that are remembered: some may have been replaced while flyball runs

	attachTime = 5 * time.Second  // for another worker to get hold of a GPU that was read before
	hungRetry  = time.Minute      // until a GPU that hung or crashed a worker is tried again
	strikeTime = 10 * time.Minute // two crashes over a GPU within this, and it is left out: one may be a coincidence
)

// ErrNoGPU is what Run returns where GPUs are required and there are none.
var ErrNoGPU = errors.New("no GPU")

// noGPUError is ErrNoGPU with where GPUs were looked for.
type noGPUError struct {
	why   string
	tried []string
}

func (e *noGPUError) Error() string {
	return fmt.Sprintf("%s: %s: %s", ErrNoGPU, e.why, strings.Join(e.tried, "; "))
}

func (e *noGPUError) Unwrap() error { return ErrNoGPU }

// Tried returns where GPUs were looked for, by every way that there is, with what was wrong there: of an error of Run that wraps
// ErrNoGPU. It is nil for any other, and where a library works that finds no GPU.
func Tried(err error) []string {
	if none, ok := errors.AsType[*noGPUError](err); ok {
		return none.tried
	}
	return nil
}

// worker is what a Collector needs of a child.
type worker interface {
	poll(ctx context.Context, req request, timeout time.Duration) (reply, error)
	kill() <-chan struct{}
}

// Collector keeps the last reading of the GPUs and publishes it. It is an exporter.Collector; without Run it has nothing
// to publish.
type Collector struct {
	opts      Options
	unbound   string        // why this binary cannot call NVML, where that is the only way; empty otherwise
	hungRetry time.Duration // until a GPU that hung or crashed a worker is tried again
	start     func() (worker, error)
	backends  *backends

	mu      sync.Mutex
	gpus    map[string]*gpu // every GPU that was ever seen, by UUID
	stray   []Device        // what the last poll found without a UUID; each has an Error
	read    bool            // there was a good poll
	backend string          // as the last poll said, like the next three
	driver  string
	cuda    string
	path    string // of the library
	err     error  // why there is no poll since; nil while all is well, and where there is no driver
	stats   stats
	calls   *callDurations // nil where they are not asked for
}

// gpu is a GPU that was seen.
type gpu struct {
	last   Device    // as read last, with the counters of totals; index and UUID are always there
	taken  time.Time // when last was read; zero where it never was
	err    string    // why it cannot be read now; empty while it can
	totals totals
	xids   xidCounts         // nil where nothing tells of them
	errors map[string]uint64 // by collectReasons
	faults []string          // of last and before, as logged
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
	opts.SlowInterval = cmp.Or(opts.SlowInterval, 30*time.Second)
	opts.MaxProcesses = cmp.Or(opts.MaxProcesses, 64)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	b := newBackends(opts, func() (worker, error) {
		if len(opts.Worker) == 0 {
			return nil, errors.New("start the NVML worker: no command given")
		}
		w, err := startChild(opts.Worker)
		if err != nil {
			return nil, err
		}
		w.limits = limits{open: openTime(nvidiaDevices), start: opts.StartTimeout, attach: max(attachTime, opts.Timeout), gpu: opts.Timeout / 2}
		return w, nil
	})
	return &Collector{
		opts: opts, unbound: b.unbound(), hungRetry: hungRetry, start: b.start, backends: b,
		gpus: map[string]*gpu{}, stats: stats{restarts: map[string]uint64{}},
		calls: newCallDurations(opts.CallDurations),
	}
}

// nvidiaDevices are the device files of NVIDIA's GPUs.
const nvidiaDevices = "/dev/nvidia[0-9]*"

// openTime is how long NVML may take to open on a machine with these device files: it may initialise every GPU.
func openTime(devices string) time.Duration {
	files, _ := filepath.Glob(devices) // the pattern is right
	return time.Duration(len(files)) * attachTime
}

// Name returns gpu.
func (c *Collector) Name() string { return "gpu" }

// Update publishes the last reading of each GPU, and what is known of them beside that. The error wraps
// exporter.ErrNoData where there is no driver, and before the first reading; otherwise it says which GPU cannot be read,
// or why none can.
func (c *Collector) Update(context.Context) ([]prometheus.Metric, error) {
	metrics, err := c.update()
	return append(c.backends.metrics(), metrics...), err
}

func (c *Collector) update() ([]prometheus.Metric, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	rep, seen, stale := c.view(now)
	self := c.self(rep.Devices, now)
	if !c.read {
		if c.err != nil {
			return self, fmt.Errorf("gpu: %w", c.err)
		}
		if len(rep.Devices) == 0 {
			return self, fmt.Errorf("gpu: %w", exporter.ErrNoData)
		}
	}
	for i := range rep.Devices {
		if c.opts.MaxProcesses < 0 {
			rep.Devices[i].Processes = nil
			continue
		}
		limitProcesses(&rep.Devices[i], c.opts.MaxProcesses)
	}
	metrics, err := publish(rep, seen)
	if stale && c.err != nil {
		err = errors.Join(fmt.Errorf("gpu: %w", c.err), err)
	}
	return append(metrics, self...), err
}

// Snapshot returns the last reading; nil before the first, and where there is no reading that is recent enough to be
// published.
func (c *Collector) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	rep, _, _ := c.view(time.Now())
	var taken time.Time
	for _, d := range rep.Devices {
		if g := c.gpus[d.UUID]; g != nil && d.Error == "" && g.taken.After(taken) {
			taken = g.taken
		}
	}
	if taken.IsZero() {
		return nil
	}
	return &Snapshot{Taken: taken, Backend: c.backend, Driver: rep.Driver, CUDA: rep.CUDA, Library: rep.Library, Devices: rep.Devices}
}

// puzzle logs the odd answers about a GPU that were not logged before. They come again with every reading.
func (c *Collector) puzzle(g *gpu) {
	for _, fault := range g.last.Faults {
		if len(g.faults) < maxFaults && !slices.Contains(g.faults, fault) {
			g.faults = append(g.faults, fault)
			c.opts.Logger.Warn("a value of the GPU cannot be read", "uuid", g.last.UUID, "gpu", g.last.Index, "err", fault)
		}
	}
}

// staleAge is how old a reading may be that is published. It is long enough for a worker to hang on one GPU and for another to
// read the others.
func (c *Collector) staleAge() time.Duration {
	return max(staleAfter*c.opts.Interval, c.opts.Interval+c.opts.Timeout+reapTime+minBackoff)
}

// view puts together what is known now, by index. A GPU that cannot be read, or was not read for staleAge, has an
// Error and nothing but what it is and its XIDs; stale says that there are some of the latter kind.
func (c *Collector) view(now time.Time) (rep *reply, seen []known, stale bool) {
	rep = &reply{State: stateOK, Driver: c.driver, CUDA: c.cuda, Library: c.path}
	for uuid, g := range c.gpus {
		d := g.last
		d.Taken = g.taken
		if age := now.Sub(g.taken); g.err != "" {
			d = g.identity(g.err)
		} else if age > c.staleAge() {
			stale = true
			d = g.identity(fmt.Sprintf("no reading for %s", age.Round(time.Second)))
		}
		if g.xids != nil {
			d.XIDs = slices.Clone(g.xids)
		}
		rep.Devices = append(rep.Devices, d)
		seen = append(seen, known{uuid: uuid, index: d.Index, err: d.Error})
	}
	rep.Devices = append(rep.Devices, c.stray...)
	slices.SortFunc(rep.Devices, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.UUID, b.UUID))
	})
	slices.SortFunc(seen, func(a, b known) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.uuid, b.uuid))
	})
	return rep, seen, stale
}

// identity returns what the GPU is, with an error in place of its values.
func (g *gpu) identity(err string) Device {
	return Device{
		Index: g.last.Index, UUID: g.last.UUID, Error: err, Lost: g.last.Lost,
		Vendor: g.last.Vendor, Name: g.last.Name, PCIBusID: g.last.PCIBusID,
		Serial: g.last.Serial, VBIOS: g.last.VBIOS, Arch: g.last.Arch, MIGMode: g.last.MIGMode, XIDs: g.last.XIDs,
	}
}

// accept takes in what a poll read and logs which GPUs were lost and which came back. Of a poll that ended early, which has
// no State, it takes the GPUs that it came to, and leaves the others as they were.
func (c *Collector) accept(rep reply, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	there := map[string]bool{}
	var stray []Device
	for _, d := range rep.Devices {
		if d.UUID == "" {
			stray = append(stray, d)
			continue
		}
		there[d.UUID] = true
		g := c.know(d.UUID, d.Index)
		if g == nil {
			continue
		}
		if d.Error != "" {
			reason := reasonError
			if d.Lost {
				reason = reasonLost
			}
			g.last.Lost = d.Lost
			c.lose(g, d.Error, reason)
			continue
		}
		g.totals.apply(&d, now)
		if g.xids == nil && slices.Contains(rep.Watching, d.UUID) {
			g.xids = newXIDCounts()
		}
		d.Processes = oncePerProcess(d.Processes)
		g.last, g.taken = d, now
		c.puzzle(g)
		if g.err != "" {
			c.opts.Logger.Info("GPU is read again", "uuid", d.UUID, "gpu", d.Index)
			g.err = ""
		}
	}
	c.observe(rep)
	if rep.Driver != "" {
		c.driver, c.cuda, c.path = rep.Driver, rep.CUDA, rep.Library
	}
	if rep.Backend != "" {
		c.backend = rep.Backend
	}
	if rep.State != stateOK {
		return
	}
	unnamed := map[int]bool{} // by index: left out before it told its UUID
	for _, d := range rep.Skipped {
		there[d.UUID] = true
		unnamed[d.Index] = d.UUID == ""
	}
	for uuid, g := range c.gpus {
		if unnamed[g.last.Index] && !there[uuid] {
			delete(unnamed, g.last.Index)
		} else if !there[uuid] {
			c.lose(g, "it is not there any more", reasonGone)
		}
	}
	for _, d := range c.stray {
		if unnamed[d.Index] {
			stray = append(stray, d)
		}
	}
	c.read, c.err, c.stray = true, nil, stray
	c.stats.seen = len(rep.Devices) + len(rep.Skipped)
	c.stats.expected = max(c.stats.expected, c.stats.seen)
	c.stats.present = true
}

// know returns the GPU with the UUID and notes its index, which may change. It returns nil for more GPUs than a machine can
// have had.
func (c *Collector) know(uuid string, index int) *gpu {
	g := c.gpus[uuid]
	if g == nil && len(c.gpus) == maxKnown {
		return nil
	}
	if g == nil {
		g = &gpu{totals: newTotals(), errors: map[string]uint64{}}
		c.gpus[uuid] = g
	}
	g.last.UUID, g.last.Index = uuid, index
	return g
}

// lose notes why a GPU cannot be read.
func (c *Collector) lose(g *gpu, err, reason string) {
	if g.err == "" {
		c.opts.Logger.Warn("GPU cannot be read", "uuid", g.last.UUID, "gpu", g.last.Index, "err", err)
	}
	if g.err == "" || reason != reasonGone { // one that is gone was not tried again
		g.errors[reason]++
	}
	g.err = err
}

// exclude notes that a worker hung on a GPU or crashed over it.
func (c *Collector) exclude(at place, err, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.uuid == "" {
		at.uuid = c.lastAt(at.index)
	}
	if at.uuid == "" {
		d := Device{Index: at.index, Error: err}
		if i := slices.IndexFunc(c.stray, func(s Device) bool { return s.Index == at.index }); i >= 0 {
			c.stray = slices.Clone(c.stray) // tried again, in vain
			c.stray[i] = d
			return
		}
		c.stray = append(c.stray, d)
		c.opts.Logger.Warn("GPU cannot be read", "gpu", at.index, "err", err)
		return
	}
	g := c.know(at.uuid, at.index)
	if g == nil {
		return
	}
	if g.last.PCIBusID == "" {
		g.last.PCIBusID = at.pciBusID
	}
	c.lose(g, err, reason)
}

// lastAt returns the UUID of the GPU that was read last under the index; empty where none was.
func (c *Collector) lastAt(index int) string {
	var last string
	for uuid, g := range c.gpus {
		if g.last.Index == index && (last == "" || g.taken.After(c.gpus[last].taken)) {
			last = uuid
		}
	}
	return last
}

// observe takes in what a poll tells beside the values of the GPUs.
func (c *Collector) observe(rep reply) {
	for _, e := range rep.Events {
		if g := c.gpus[e.UUID]; g != nil {
			if g.xids == nil {
				g.xids = newXIDCounts()
			}
			g.xids.add(e.XID, e.At)
			c.opts.Logger.Warn("the driver reports an error of a GPU", "uuid", e.UUID, "gpu", g.last.Index, "xid", e.XID, "class", xidClass(e.XID))
		}
	}
	c.stats.miss(rep.Missing...)
	c.calls.observe(rep.Calls)
}

// fail notes why there is no new reading; nil where none is to be expected.
func (c *Collector) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	c.stats.present = c.stats.present || err != nil
}

// restart notes that a worker was given up.
func (c *Collector) restart(reason string, missing ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.restarts[reason]++
	c.stats.miss(missing...)
	if reason == reasonReload {
		for _, g := range c.gpus {
			g.totals.reload()
		}
	}
}

// list notes how many GPUs the driver lists where there was no good poll.
func (c *Collector) list(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.seen = n
}

// working notes whether a worker runs.
func (c *Collector) working(up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.workerUp = up
}

// seen reports whether there ever was a reading.
func (c *Collector) seen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read
}
