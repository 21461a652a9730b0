package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// The ways to read GPUs, for Options.Backend.
const (
	BackendAuto      = "auto"       // the first of nvml, nvidia-smi and amdgpu that this machine has
	BackendNVML      = "nvml"       // NVIDIA's library, in a worker
	BackendNvidiaSMI = "nvidia-smi" // NVIDIA's command, started at every poll: for where NVML cannot be opened
	BackendAMDGPU    = "amdgpu"     // the files of AMD's driver in sysfs
	BackendSim       = "sim"        // Options.Sim: GPUs that do not exist
	BackendNone      = "none"       // GPUs are not read
)

// Backends returns the values of Options.Backend.
func Backends() []string {
	return []string{BackendAuto, BackendNVML, BackendNvidiaSMI, BackendAMDGPU, BackendSim, BackendNone}
}

var (
	backendFamily = exporter.Family{
		Name: "flyball_gpu_backend_info", Type: "gauge", Collector: "gpu", Labels: []string{"backend"},
		Help: "How GPUs are read: nvml, nvidia-smi, amdgpu, sim (they are simulated), or none where no way was found or none is wanted; always 1.",
	}
	backendDesc = desc(backendFamily)
)

// backend is a way to read GPUs without a worker.
type backend interface {
	// read returns the GPUs that are there now, each with all that is known of it. Processes are listed anew where want has
	// tierProcesses; else those that were listed before hold. The error is an *absentError where this machine has none that
	// are read this way. It should return once ctx is done, and is called by one goroutine at a time.
	read(ctx context.Context, want tiers) (readings, error)
}

// extras are what to read beside the GPUs themselves.
type extras struct {
	processes bool
	links     bool // the bytes of each link of NVLink, not those of all
}

// readings is what a backend read at one moment.
type readings struct {
	Driver  string
	CUDA    string
	From    string // the command, directory or file that was read
	Devices []Device
}

// backends are the ways to read GPUs that are to be tried, and which one it is.
type backends struct {
	ways   []way
	logger *slog.Logger

	mu     sync.Mutex
	chosen string // empty before one has found GPUs, or all have found none
}

// way is one of them.
type way struct {
	name    string
	unbound string // why this binary cannot go it; empty where it can
	start   func() (worker, error)
}

// words is how the log calls it.
func (w way) words() string {
	switch w.name {
	case BackendNVML:
		return "NVML"
	case BackendAMDGPU:
		return "AMD's driver"
	}
	return w.name
}

// newBackends returns the ways of opts. What they keep from poll to poll is theirs for good.
func newBackends(opts Options, nvml func() (worker, error)) *backends {
	b := &backends{logger: opts.Logger}
	asked := extras{processes: opts.Processes, links: opts.NVLinkPerLink}
	from := func(name string, s backend) way {
		r := &reader{name: name, backend: s}
		return way{name: name, start: func() (worker, error) { return readerWorker{r}, nil }}
	}
	viaNVML := way{name: BackendNVML, unbound: unbound(), start: nvml}
	viaSMI := func() way { return from(BackendNvidiaSMI, &smi{asked: opts.NvidiaSMI, processes: asked.processes}) }
	viaAMD := func() way { return from(BackendAMDGPU, amd{sys: opts.SysPath}) }
	switch opts.Backend {
	case "", BackendAuto:
		b.ways = []way{viaNVML}
		if opts.Library == "" && os.Getenv(libraryVariable) == "" { // else to fall back would hide that it does not work
			b.ways = append(b.ways, viaSMI(), viaAMD())
		}
	case BackendNVML:
		b.ways = []way{viaNVML}
	case BackendNvidiaSMI:
		b.ways = []way{viaSMI()}
	case BackendAMDGPU:
		b.ways = []way{viaAMD()}
	case BackendSim:
		if opts.Sim != nil {
			b.ways = []way{from(BackendSim, newSimulation(opts.Sim, time.Now(), asked))}
		}
	}
	return b
}

// unbound says why none of the ways can be gone; empty where one can.
func (b *backends) unbound() string {
	if len(b.ways) == 1 {
		return b.ways[0].unbound
	}
	return ""
}

func (b *backends) start() (worker, error) { return &search{backends: b}, nil }

// choose notes which way it is, and logs it where it is another than before; instead says why those before it are not.
func (b *backends) choose(name, from string, instead []string) {
	b.mu.Lock()
	changed := b.chosen != name
	b.chosen = name
	b.mu.Unlock()
	switch {
	case !changed:
	case name == BackendSim:
		b.logger.Warn("GPUs are simulated: nothing that is published of them was measured", "backend", name, "file", from)
	case name == BackendNvidiaSMI || name == BackendAMDGPU:
		b.logger.Info("GPUs are read without NVML", "backend", name, "from", from, "instead_of", strings.Join(instead, "; "))
	}
}

// mayBe reports whether it is the way, or is not known to be another.
func (b *backends) mayBe(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.chosen == name || b.chosen == "" && slices.ContainsFunc(b.ways, func(w way) bool { return w.name == name })
}

// metrics says which way it is, once that is known.
func (b *backends) metrics() []prometheus.Metric {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.chosen == "" {
		return nil
	}
	return []prometheus.Metric{prometheus.MustNewConstMetric(backendDesc, prometheus.GaugeValue, 1, b.chosen)}
}

// search is a worker by the first way that finds something; it keeps to that until it is killed.
type search struct {
	*backends

	worker worker            // the one that was found, or failed
	name   string            // of its way
	left   []<-chan struct{} // of workers by ways that found nothing and did not end; closed when they do
}

// poll asks by the way that was found; where there is none yet, by all in turn. A way that fails is not passed over: to
// read GPUs by another would hide that it is broken.
func (s *search) poll(ctx context.Context, req request, timeout time.Duration) (reply, error) {
	if s.worker != nil {
		rep, err := s.worker.poll(ctx, req, timeout)
		rep.Backend = s.name
		return rep, err
	}
	var absent reply
	var looked, tried, instead []string
	for _, w := range s.ways {
		if w.unbound != "" {
			tried, instead = append(tried, w.unbound), append(instead, w.unbound)
			looked = append(looked, w.words()+" (not in this build)")
			continue
		}
		worker, err := w.start()
		if err != nil {
			return reply{}, err
		}
		rep, err := worker.poll(ctx, req, timeout)
		if err != nil || rep.State != stateAbsent {
			s.worker, s.name = worker, w.name
			rep.Backend = w.name
			if err == nil && rep.State == stateOK && len(rep.Devices) > 0 {
				s.choose(w.name, rep.From, instead)
			}
			return rep, err
		}
		s.leave(worker)
		absent = rep
		looked, tried = append(looked, w.words()), append(tried, rep.Tried...)
		instead = append(instead, w.name+": "+rep.Error)
	}
	s.choose(BackendNone, "", nil)
	switch {
	case len(s.ways) == 0:
		return reply{Seq: req.Seq, State: stateAbsent, Error: "they are not to be read", Tried: []string{"backend none"}}, nil
	case len(s.ways) > 1:
		absent = reply{Seq: req.Seq, State: stateAbsent, Error: "no driver of NVIDIA's or AMD's"}
	}
	absent.Looked, absent.Tried = looked, tried
	return absent, nil
}

// leave ends a worker that is of no use.
func (s *search) leave(w worker) {
	if gone := w.kill(); !ended(gone) {
		s.left = append(s.left, gone)
	}
}

// kill ends the worker. The channel is closed once nothing is left of any, those by ways that found nothing too.
func (s *search) kill() <-chan struct{} {
	if s.worker != nil {
		s.leave(s.worker)
		s.worker = nil
	}
	left := slices.DeleteFunc(s.left, ended)
	if s.left = nil; len(left) == 1 {
		return left[0]
	}
	all := make(chan struct{})
	if len(left) == 0 {
		close(all)
		return all
	}
	go func() { // as long as the last of them is stuck
		defer close(all)
		for _, gone := range left {
			<-gone
		}
	}()
	return all
}

// reader reads a backend within a time, and never twice at once: a reading that hangs is left behind, and there is no other
// before it ends.
type reader struct {
	name    string
	backend backend

	mu    sync.Mutex
	busy  chan struct{} // closed when the last reading has ended; nil before the first
	since time.Time     // when it began
}

// poll reads once, at most for timeout. The error wraps errTimeout where that is not enough, or an earlier reading still
// has not ended.
func (r *reader) poll(ctx context.Context, want tiers, timeout time.Duration) (readings, error) {
	type result struct {
		readings readings
		err      error
	}
	r.mu.Lock()
	if r.busy != nil {
		select {
		case <-r.busy:
		default:
			since := r.since
			r.mu.Unlock()
			return readings{}, fmt.Errorf("%s: %w: what was begun at %s has not ended, and no other is begun before it does",
				r.name, errTimeout, since.UTC().Format(time.RFC3339))
		}
	}
	busy := make(chan struct{})
	r.busy, r.since = busy, time.Now()
	r.mu.Unlock()

	bounded, cancel := context.WithTimeout(ctx, timeout)
	results := make(chan result, 1)
	go func() { // ends when the backend lets go: a process that cannot be killed, or a file that is not answered, may not for long
		got, err := r.backend.read(bounded, want)
		cancel()
		close(busy) // before anybody learns of the result, who may ask again
		results <- result{got, err}
	}()
	got := result{err: context.DeadlineExceeded}
	select {
	case got = <-results:
	case <-bounded.Done():
		select { // a backend that heeds it ends now
		case got = <-results:
		case <-time.After(reapTime):
		}
	}
	switch {
	case ctx.Err() != nil:
		return readings{}, ctx.Err()
	case errors.Is(got.err, context.DeadlineExceeded):
		return readings{}, fmt.Errorf("%s: %w within %s", r.name, errTimeout, timeout)
	}
	return got.readings, got.err
}

// ended is closed once nothing is being read.
func (r *reader) ended() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy == nil {
		none := make(chan struct{})
		close(none)
		return none
	}
	return r.busy
}

// readerWorker makes a worker of a reader. It is as good after an error as before.
type readerWorker struct{ reader *reader }

func (w readerWorker) poll(ctx context.Context, req request, timeout time.Duration) (reply, error) {
	got, err := w.reader.poll(ctx, req.Want, timeout)
	rep := reply{Seq: req.Seq, State: stateOK, Driver: got.Driver, CUDA: got.CUDA, From: got.From, Devices: got.Devices}
	if absent, ok := errors.AsType[*absentError](err); ok {
		return reply{Seq: req.Seq, State: stateAbsent, Error: absent.Error(), Tried: absent.tried}, nil
	}
	return rep, err
}

// kill waits for nothing: what was read is over, or is left behind.
func (w readerWorker) kill() <-chan struct{} { return w.reader.ended() }
