package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"

	"flyball/actuators"
	"flyball/actuators/keda"
	"flyball/actuators/none"
	"flyball/actuators/process"
	"flyball/batchproxy"
	"flyball/cmd/flyball/tracing"
	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/exporter/host"
	"flyball/exporter/textfile"
	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/remote"
	"flyball/rules/store"
)

// app is one running flyball. newApp takes its addresses; run serves the page, builds each part from those above it,
// starts them in that order and stops them in the other; close lets go of what was opened.
type app struct {
	opts *runOptions

	metrics  *prometheus.Registry // ours, at /metrics
	embedded *prometheus.Registry // the embedded Prometheus's own, at /metrics/embedded

	webListener   net.Listener // the first of webListeners
	webListeners  []net.Listener
	proxyListener net.Listener
	webSecured    *webConfig // nil: plain HTTP
	proxySecured  *webConfig
	store         *store.Store
	journal       *journal.Journal
	memory        rules.Memory
	snapshot      *rules.Snapshot // of the memory
	forecasts     *rules.ForecastStates
	brake         *rules.Brake
	limit         *rules.RateLimit // of changes; nil: none
	scales        *rules.Metrics
	began         time.Time
	remotes       *remote.Metrics // nil before there is a Prometheus elsewhere
	processes     *process.Processes
	kubernetes    *kubernetesActuator      // nil where there are no rules, or no Kubernetes in this binary
	services      *kubernetesServices      // nil where there is no proxy, or no Kubernetes in this binary
	elector       elector                  // nil: this process is the one that acts
	elsewhere     map[string]*none.Targets // by kind: what something else scales
	kedaListener  net.Listener             // nil: KEDA has nothing to ask for here
	kedaSecured   *webConfig
	keda          *keda.Server
	kedaSizes     *kedaSizes
	tracing       *tracing.Tracing
	exporter      atomic.Pointer[exporter.Exporter] // of the present configuration; nil without that role
	proxySlot     *slot
	gpuSlot       *slot

	live  atomic.Pointer[live] // what the configuration made; a reload replaces it
	phase atomic.Int32         // starting, ready, stopping
	begun chan struct{}        // closed when it is ready
	quit  func()               // ends run

	reloading sync.Mutex             // held by reload
	tried     atomic.Pointer[string] // the fingerprint of the files that were read last, or were to be
	reloads   *reloadMetrics

	mu      sync.Mutex          // guards what follows
	proxied []*batchproxy.Proxy // those that run: the present one, and those before it that still drain
	closers []func() error
}

// Phases of an app's life.
const (
	starting int32 = iota
	ready
	stopping
)

// newApp takes the addresses and starts nothing: a second flyball stops here, before it touches anything.
func newApp(l *loaded, o *runOptions) (*app, error) {
	a := &app{opts: o, began: time.Now(), metrics: prometheus.NewRegistry(), embedded: prometheus.NewRegistry(), begun: make(chan struct{})}
	a.live.Store(&live{loaded: l})
	a.tried.Store(&l.print)
	a.proxySlot, a.gpuSlot = newSlot("proxy", o.log), newSlot("gpu collector", o.log)
	a.metrics.MustRegister(versioncollector.NewCollector("flyball"))
	if !o.exporter.disableOwn {
		a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	a.reloads = newReloadMetrics(a.metrics)
	a.buildTracing()
	if err := a.listen(); err != nil {
		a.close()
		return nil, err
	}
	a.buildKeda()
	return a, nil
}

// build opens what stays for the life of the process, then takes the configuration over as a reload does.
func (a *app) build(ctx context.Context) error {
	for _, step := range []func() error{a.openStore, a.buildProcesses, a.buildKubernetes, a.buildServices, a.buildElection, a.buildElsewhere} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	n, err := a.prepare(a.live.Load().loaded)
	if err != nil {
		return err
	}
	if err := a.commit(ctx, n); err != nil {
		return err
	}
	a.reloads.done(nil)
	return nil
}

// storageError says what can be done about a data directory that cannot be used.
func storageError(err error) error {
	var hint string
	switch {
	case errors.Is(err, syscall.EROFS):
		hint = "mount its file system for writing"
	case errors.Is(err, fs.ErrPermission):
		hint = fmt.Sprintf("let user %d write there", os.Getuid())
	case errors.Is(err, syscall.ENOTDIR):
		hint = "remove the file that is there"
	case errors.Is(err, syscall.ENOSPC):
		hint = "free some room on its disk"
	default:
		return err
	}
	return fmt.Errorf("%w: %s, or give another directory by storage.path or --storage.path", err, hint)
}

func (a *app) openStore() error {
	if !a.opts.has(roleRules) {
		return nil
	}
	if err := a.openStorage(); err != nil {
		return storageError(err)
	}
	a.scales = rules.NewMetrics(a.metrics)
	if a.opts.actLimit > 0 {
		a.limit = rules.NewRateLimit(a.opts.actLimit)
	}
	a.snapshot = &rules.Snapshot{
		Path:   filepath.Join(a.live.Load().Storage.Path, "state.json"),
		Memory: &a.memory, Metrics: a.scales, Log: a.opts.log.With("component", "rules"),
	}
	a.snapshot.Load(time.Now())
	a.forecasts = &rules.ForecastStates{
		Directory: filepath.Join(a.live.Load().Storage.Path, "forecasts"), Workers: rules.NewWorkers(0), Metrics: a.scales,
		Log: a.opts.log.With("component", "rules"),
	}
	a.onClose(func() error { a.forecasts.Workers.Close(); return nil })
	a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flyball_scale_paused", Help: "1 while acting is frozen: rules decide and record, and change nothing.",
	}, func() float64 {
		if _, frozen := a.brake.Frozen(); frozen {
			return 1
		}
		return 0
	}))
	return nil
}

// openStorage opens what is in the data directory.
func (a *app) openStorage() (err error) {
	c := a.live.Load().Config
	o := store.DefaultOptions()
	o.Dir = filepath.Join(c.Storage.Path, "tsdb")
	o.Retention, o.MaxBytes, o.MinFree = time.Duration(c.Storage.Retention), int64(c.Storage.MaxBytes), int64(c.Storage.MinFree)
	if o.MinFree == 0 {
		o.MinFree = -1
	}
	o.ExternalURL = a.pageURL()
	o.Logger, o.Registerer, o.Metrics = a.opts.log.With("component", "store"), a.embedded, a.metrics
	if a.store, err = store.Open(o); err != nil {
		return err
	}
	a.onClose(func() error {
		if c := a.live.Load().remote; c != nil {
			c.Close()
		}
		return nil
	})
	a.onClose(a.store.Close)
	a.journal, err = journal.Open(filepath.Join(c.Storage.Path, "decisions.jsonl"), journal.Options{
		Log: a.opts.log.With("component", "journal"), Watch: a.opts.tell,
	})
	if err != nil {
		return err
	}
	a.onClose(a.journal.Close)
	a.journal.Replay(a.memory.Replay)
	a.brake = rules.OpenBrake(filepath.Join(c.Storage.Path, "freeze.json"))
	return nil
}

// buildProcesses makes the process actuator, without any target yet.
func (a *app) buildProcesses() error {
	if !a.opts.has(roleRules) {
		return nil
	}
	self, err := executable()
	if err != nil {
		return err
	}
	a.processes, err = process.New(process.DefaultConfig(), process.Options{
		Logger: a.opts.log.With("component", "process"), Registerer: a.metrics,
		Supervisor: []string{self, superviseCommand},
		Drain: func(ctx context.Context, target, address string) error {
			var errs []error
			for _, p := range a.proxies() {
				errs = append(errs, p.Drain(ctx, target, address))
			}
			return errors.Join(errs...)
		},
	})
	return err
}

// newExporter makes the exporter of a configuration, and those of its collectors that are to be run; sim is what its GPUs are
// simulated by.
func (a *app) newExporter(c exporter.Config, sim *gpu.Sim) (*exporter.Exporter, sensors, error) {
	log := a.opts.log.With("component", "exporter")
	var list []exporter.Collector
	if c.Collectors.Host {
		collector, err := host.New(host.Options{ProcPath: c.Host.ProcFS, SysPath: c.Host.SysFS, RootPath: c.Host.RootFS})
		if err != nil {
			return nil, sensors{}, err
		}
		list = append(list, collector)
	}
	var s sensors
	if c.Collectors.GPU {
		self, err := executable()
		if err != nil {
			return nil, sensors{}, err
		}
		s.gpus = gpu.New(gpuOptions(c.GPU, c.Host, readsProcesses(c), sim, self, log))
		list = append(list, s.gpus)
	}
	if c.Collectors.Pods {
		s.pods = newPods(c, s.gpus, log)
		list = append(list, s.pods)
	}
	models, files, err := a.newModels(c, s.gpus)
	if err != nil {
		return nil, sensors{}, err
	}
	if models != nil {
		s.models = models
		list = append(list, models)
	}
	if files != nil {
		list = append(list, files)
	}
	if c.Collectors.Textfile { // last: where a file has a name of the others, they keep it
		list = append(list, textfile.New(textfile.Options{Directory: c.Textfile.Directory}))
	}
	e, err := exporter.New(exporter.Options{Timeout: time.Duration(c.Timeout), Logger: log}, list...)
	return e, s, err
}

// newProxy makes the proxy of a configuration, with its metrics in a registry or, without one, nowhere.
func (a *app) newProxy(c batchproxy.Config, metrics prometheus.Registerer) (*batchproxy.Proxy, error) {
	o := batchproxy.Options{Logger: a.opts.log.With("component", "batchproxy"), Registerer: metrics, Stdout: a.opts.stdout, Tracer: a.tracing.Tracer}
	if a.services != nil {
		o.Services = a.services
	}
	if a.processes != nil {
		o.Endpoints = a.processes
	} else {
		for i, m := range c.Models {
			for j, u := range m.Upstreams {
				if u.Target != "" {
					return nil, fmt.Errorf("models[%d].upstreams[%d]: target %s is run by the role rules, which this process has not: give the url", i, j, u.Target)
				}
			}
		}
	}
	return batchproxy.New(c, o)
}

// runProxy runs a proxy as one of those that may have requests with a replica.
func (a *app) runProxy(p *batchproxy.Proxy) func(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proxied = append(a.proxied, p)
	return func(ctx context.Context) error {
		defer func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.proxied = slices.DeleteFunc(a.proxied, func(other *batchproxy.Proxy) bool { return other == p })
		}()
		return p.Run(ctx)
	}
}

func (a *app) proxies() []*batchproxy.Proxy {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.proxied)
}

// newGroups makes the groups of the rule files. A deciding rule that is as it was keeps its evaluator, and so its group goes
// on undisturbed.
func (a *app) newGroups(l *loaded) (groups []store.Group, d deciders) {
	before := a.live.Load().deciders
	options := rules.ScalerOptions{
		Querier: a.store.Router(), Actuators: a.actuators(), Journal: a.journal, Metrics: a.scales,
		Log: a.opts.log.With("component", "rules"), Memory: &a.memory, Acting: a.opts.act, May: a.opts.mayAct, Brake: a.brake, Limit: a.limit,
		Parallel: parallelTargets,
		Leads:    a.leads, Claim: a.claim, Decided: a.decided, Clock: a.clock, Expand: a.store.ExpandAnnotation,
	}
	forecasts := rules.PredictorOptions{
		Querier: a.store.Router(), Metrics: a.scales, Log: options.Log, Workers: a.forecasts.Workers, Directory: a.forecasts.Directory,
		Timeout: time.Duration(l.Prometheus.Timeout),
		Startup: func(forecast string) (time.Duration, string) {
			return rules.LongestStartup(a.live.Load().scalers, forecast)
		},
	}
	for _, f := range l.rules {
		for i := range f.Groups {
			groups = append(groups, store.GroupOf(f, &f.Groups[i], func(r *rules.Rule) rules.Evaluator {
				return d.evaluator(r, before, options, forecasts)
			}))
		}
	}
	return groups, d
}

// parallelTargets is how many targets of a rule for many are seen to at the same time. One after the other, 500 that an
// apiserver answers for within 7 ms take most of an interval; and with more of them, a change waits behind as many looks at
// others for its turn within the limit of requests.
const parallelTargets = 32

// claim says why a target that a rule with for_each finds is not for it.
func (a *app) claim(r *rules.Scale, t actuators.Target) error {
	return a.live.Load().checkTarget(t, r.Max)
}

// clock is the time since the start, which passes evenly whatever is done to the machine's clock.
func (a *app) clock() time.Duration { return time.Since(a.began) }

// newScrape is what the store scrapes: this process, the replicas of its targets and what the configuration names. Nothing
// where there is a Prometheus elsewhere, which does.
func (a *app) newScrape(l *loaded) store.Scrape {
	if l.Prometheus.Remote() {
		return store.Scrape{}
	}
	written := rules.OutputMetrics() // is in the store already
	for _, f := range l.rules {
		for i := range f.Groups {
			for _, r := range f.Groups[i].Rules {
				if r.Forecast != nil {
					written = append(written, r.Forecast.Name)
				}
			}
		}
	}
	sc := store.Scrape{
		Configs: l.scrape,
		Self: []store.Self{{
			Name: "flyball", Address: reachable(a.webListener.Addr()), Handler: a.metricsHandler(0), Drop: written,
		}},
	}
	for _, name := range slices.Sorted(maps.Keys(l.Actuators.Process)) {
		if path := l.Actuators.Process[name].MetricsPath; path != "" {
			sc.Jobs = append(sc.Jobs, store.Job{Name: name, Target: name, Endpoints: a.processes, MetricsPath: path})
		}
	}
	return sc
}

// actuators are the actuators of this process by their kind.
func (a *app) actuators() map[string]actuators.Actuator {
	byKind := map[string]actuators.Actuator{}
	if a.processes != nil {
		byKind[process.Kind] = actuators.Instrument(a.metrics, process.Kind, a.processes)
	}
	if a.kubernetes != nil {
		byKind[kubernetesKind] = actuators.Instrument(a.metrics, kubernetesKind, a.kubernetes)
	}
	for kind, targets := range a.elsewhere {
		byKind[kind] = actuators.Instrument(a.metrics, kind, targets)
	}
	return byKind
}

// part is something that runs until its context ends.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// run serves the page while the parts are built, which takes as long as the store has to read, then runs them. They are
// stopped in an order when ctx ends or one of them fails: what KEDA asks first, which would be told of decisions that nobody
// makes any more; the rules, so that nobody decides on a load that is being turned away; then the proxy, which finishes what it has while replicas still answer; then the replicas. The page is
// there to the end.
func (a *app) run(ctx context.Context) error {
	ctx, a.quit = context.WithCancel(ctx)
	defer a.quit()
	parts := []part{{"web", a.servePage}, {"", a.runBuilt}}
	if a.keda != nil {
		parts = append(parts, part{"keda", func(ctx context.Context) error { return a.keda.Serve(ctx, a.kedaListener) }})
	}
	return runParts(ctx, parts, a.isStopping)
}

func (a *app) runBuilt(ctx context.Context) error {
	built := make(chan error, 1)
	go func() { built <- a.build(ctx) }()
	select {
	case err := <-built:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		// A store that is being opened cannot be interrupted, but it survives the end of the process at any point.
		a.opts.log.Warn("ended while starting")
		return nil
	}
	var parts []part
	if a.elector != nil {
		parts = append(parts, part{"election", a.elector.Run}) // ends last: nobody takes over from a process that still changes something
	}
	if a.opts.has(roleExporter) {
		parts = append(parts, part{"gpu collector", a.gpuSlot.run})
	}
	if a.processes != nil {
		parts = append(parts, part{"process actuator", a.processes.Run})
	}
	if a.proxyListener != nil {
		server := a.proxyServer()
		parts = append(parts,
			part{"tracing", a.tracing.Run},
			part{"proxy server", func(ctx context.Context) error {
				return serve(ctx, server, a.proxyListener, a.opts.proxySecured, a.opts.log.With("component", "batchproxy"))
			}},
			part{"proxy", func(ctx context.Context) error { return a.serveProxy(ctx, server) }})
	}
	if a.store != nil {
		parts = append(parts, part{"snapshot", a.snapshot.Run}, part{"forecasts", a.forecasts.Run}, part{"rules", a.store.Run})
	}
	if a.opts.autoReload > 0 {
		parts = append(parts, part{"automatic reload", a.autoReload})
	}
	a.isReady()
	return runParts(ctx, parts, a.isStopping)
}

// runParts runs all parts until ctx ends or one of them does, which none does by itself; then it calls stopping, ends them
// one after the other, the last first, and returns their errors, joined.
func runParts(ctx context.Context, parts []part, stopping func()) error {
	type running struct {
		part
		cancel context.CancelFunc
		done   chan struct{}
		err    error
	}
	var all []*running
	ended := make(chan *running, len(parts))
	for _, p := range parts {
		// Each part has a context of its own, so that they end one after the other.
		partCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		r := &running{part: p, cancel: cancel, done: make(chan struct{})}
		all = append(all, r)
		go func() {
			defer close(r.done)
			r.err = r.run(partCtx)
			ended <- r
		}()
	}
	var errs []error
	select {
	case <-ctx.Done():
	case r := <-ended:
		if r.err == nil && ctx.Err() == nil {
			errs = append(errs, fmt.Errorf("%s: ended by itself", r.name))
		}
	}
	stopping()
	for _, r := range slices.Backward(all) {
		r.cancel()
		<-r.done
		switch {
		case r.err == nil || errors.Is(r.err, context.Canceled):
		case r.name == "": // parts of its own, which have names
			errs = append(errs, r.err)
		default:
			errs = append(errs, fmt.Errorf("%s: %w", r.name, r.err))
		}
	}
	return errors.Join(errs...)
}

// restore gives targets that came up without a size their first one. A target that cannot have it is said in the log and,
// where it has a rule, in the journal; it must not keep the others, and the proxy, from starting.
func (a *app) restore(ctx context.Context, l *loaded, scalers []*rules.Scaler) {
	ruled := map[string]bool{}
	for _, s := range scalers {
		targets, _ := s.Rule().Targets()
		for _, t := range targets {
			ruled[t.Name] = ruled[t.Name] || t.Kind == process.Kind
		}
		initial := func(name string) int { return l.Actuators.Process[name].Replicas }
		if _, err := s.Restore(ctx, time.Now(), process.Kind, initial); err != nil {
			a.opts.log.Error("restore", "rule", s.Name(), "err", err)
		}
	}
	for name, t := range l.Actuators.Process {
		target := actuators.Target{Kind: process.Kind, Name: name}
		state, err := a.processes.Observe(ctx, target)
		size, reason := t.Replicas, "replicas in the configuration"
		if n, known := a.memory.Size(target.String()); known { // a rule for many targets, which are not known yet, had it
			size, reason = min(n, t.MaxReplicas), string(rules.Restored)
		}
		if err == nil && state.Fresh && !ruled[name] && size > 0 {
			_, err = a.processes.Apply(ctx, target, actuators.Change{To: size, Reason: reason})
		}
		if err != nil {
			a.opts.log.Error("start", "target", name, "err", err)
		}
	}
}

func (a *app) onClose(f func() error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closers = append(a.closers, f)
}

// close lets go of what was opened, the last first.
func (a *app) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range slices.Backward(a.closers) {
		if err := c(); err != nil && !errors.Is(err, net.ErrClosed) {
			a.opts.log.Error("close", "err", err)
		}
	}
	a.closers = nil
}
