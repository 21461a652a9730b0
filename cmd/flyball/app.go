package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/actuators/process"
	"flyball/batchproxy"
	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/exporter/host"
	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/store"
)

// app is one running flyball. newApp builds each part from those above it; run starts them in that order and stops them
// in the other; close lets go of what newApp opened.
type app struct {
	opts   *runOptions
	loaded *loaded

	metrics  *prometheus.Registry // ours, at /metrics
	embedded *prometheus.Registry // the embedded Prometheus's own, at /metrics/embedded

	webListener   net.Listener
	proxyListener net.Listener
	store         *store.Store
	journal       *journal.Journal
	processes     *process.Processes
	gpus          *gpu.Collector
	proxy         *batchproxy.Proxy
	scalers       []*rules.Scaler

	ready   chan struct{} // closed when every part runs
	closers []func() error
}

// newApp opens and builds everything and starts nothing. What it opened is closed again when it fails.
func newApp(l *loaded, o *runOptions) (_ *app, err error) {
	a := &app{
		opts: o, loaded: l, metrics: prometheus.NewRegistry(), embedded: prometheus.NewRegistry(), ready: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	a.metrics.MustRegister(versioncollector.NewCollector("flyball"), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, build := range []func() error{a.listen, a.openStore, a.buildProcesses, a.buildExporter, a.buildProxy, a.buildRules, a.buildScrape} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// listen comes first: a second flyball stops here, before it touches anything.
func (a *app) listen() (err error) {
	if a.webListener, err = listen(a.opts.webAddress(), "web.listen-address"); err != nil {
		return err
	}
	a.closers = append(a.closers, a.webListener.Close)
	if a.opts.has(roleBatchproxy) && len(a.loaded.Batchproxy.Models) > 0 {
		if a.proxyListener, err = listen(a.opts.proxyListen, "batchproxy.listen-address"); err != nil {
			return err
		}
		a.closers = append(a.closers, a.proxyListener.Close)
	}
	return nil
}

func (a *app) openStore() (err error) {
	if !a.opts.has(roleRules) {
		return nil
	}
	c := a.loaded.Config
	o := store.DefaultOptions()
	o.Dir = filepath.Join(c.Storage.Path, "tsdb")
	o.Retention, o.MaxBytes = time.Duration(c.Storage.Retention), int64(c.Storage.MaxBytes)
	o.ScrapeInterval, o.EvaluationInterval = time.Duration(c.Global.ScrapeInterval), time.Duration(c.Global.EvaluationInterval)
	o.ExternalLabels, o.ExternalURL = labels.FromMap(c.Global.ExternalLabels), a.pageURL()
	o.Logger, o.Registerer, o.Metrics = a.opts.log.With("component", "store"), a.embedded, a.metrics
	if err := os.MkdirAll(c.Storage.Path, 0o750); err != nil {
		return fmt.Errorf("make the data directory (storage.path): %w", err)
	}
	if a.store, err = store.Open(o); err != nil {
		return err
	}
	a.closers = append(a.closers, a.store.Close)
	a.journal, err = journal.Open(filepath.Join(c.Storage.Path, "decisions.jsonl"), journal.Options{
		Log: a.opts.log.With("component", "journal"), Watch: a.opts.tell,
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, a.journal.Close)
	return nil
}

func (a *app) buildProcesses() error {
	if !a.opts.has(roleRules) || len(a.loaded.Actuators.Process) == 0 {
		return nil
	}
	self, err := executable()
	if err != nil {
		return err
	}
	a.processes, err = process.New(a.loaded.Actuators.Process, process.Options{
		Logger: a.opts.log.With("component", "process"), Registerer: a.metrics,
		Supervisor: []string{self, superviseCommand},
		Drain: func(ctx context.Context, target, address string) error {
			if a.proxy == nil {
				return nil
			}
			return a.proxy.Drain(ctx, target, address)
		},
	})
	return err
}

func (a *app) buildExporter() error {
	if !a.opts.has(roleExporter) {
		return nil
	}
	c := a.loaded.Exporter
	log := a.opts.log.With("component", "exporter")
	var list []exporter.Collector
	if c.Collectors.Host {
		collector, err := host.New(host.Options{})
		if err != nil {
			return err
		}
		list = append(list, collector)
	}
	if c.Collectors.GPU {
		self, err := executable()
		if err != nil {
			return err
		}
		a.gpus = gpu.New(gpu.Options{Worker: []string{self, nvmlCommand}, Library: c.GPU.Library, Require: c.GPU.Require, Logger: log})
		list = append(list, a.gpus)
	}
	e, err := exporter.New(exporter.Options{Timeout: time.Duration(c.Timeout), Logger: log}, list...)
	if err != nil {
		return err
	}
	return a.metrics.Register(e)
}

func (a *app) buildProxy() (err error) {
	if a.proxyListener == nil {
		return nil
	}
	o := batchproxy.Options{Logger: a.opts.log.With("component", "batchproxy"), Registerer: a.metrics}
	if a.processes != nil {
		o.Endpoints = a.processes
	} else {
		for i, m := range a.loaded.Batchproxy.Models {
			for j, u := range m.Upstreams {
				if u.Target != "" {
					return fmt.Errorf("batchproxy.models[%d].upstreams[%d]: target %s is run by the role rules, which this process has not: give the url", i, j, u.Target)
				}
			}
		}
	}
	a.proxy, err = batchproxy.New(a.loaded.Batchproxy, o)
	return err
}

// buildRules makes an evaluator of each scale rule, with the memory that the journal has of its target.
func (a *app) buildRules() error {
	if a.store == nil {
		return nil
	}
	states := map[string]rules.State{}
	a.journal.Replay(func(d *rules.Decision) { states[d.Target] = states[d.Target].Replay(d) })
	metrics := rules.NewMetrics(a.metrics)
	actuator := a.actuators()
	var groups []store.Group
	for _, f := range a.loaded.rules {
		for _, g := range f.Groups {
			group := store.Group{Name: g.Name, File: f.Name, Interval: time.Duration(g.Interval), Limit: g.Limit, Labels: g.Labels}
			if g.QueryOffset != nil {
				offset := time.Duration(*g.QueryOffset)
				group.QueryOffset = &offset
			}
			for _, r := range g.Rules {
				group.Rules = append(group.Rules, a.storeRule(r, actuator, metrics, states))
			}
			groups = append(groups, group)
		}
	}
	return a.store.SetGroups(groups)
}

func (a *app) storeRule(r rules.Rule, actuator map[string]actuators.Actuator, metrics *rules.Metrics, states map[string]rules.State) store.Rule {
	switch {
	case r.Record != nil:
		return store.Rule{Record: &store.Record{Name: r.Record.Name, Expr: r.Record.Expr, Labels: r.Record.Labels}}
	case r.Alert != nil:
		return store.Rule{Alert: &store.Alert{
			Name: r.Alert.Name, Expr: r.Alert.Expr, For: time.Duration(r.Alert.For), KeepFiringFor: time.Duration(r.Alert.KeepFiringFor),
			Labels: r.Alert.Labels, Annotations: r.Alert.Annotations,
		}}
	}
	s := rules.NewScaler(r.Scale, rules.ScalerOptions{
		Querier: a.store, Actuator: actuator[r.Scale.Target.Kind], Journal: a.journal, Metrics: metrics,
		Log: a.opts.log.With("component", "rules"), State: states[r.Scale.Target.String()], Acting: a.opts.act,
	})
	a.scalers = append(a.scalers, s)
	return store.Rule{Evaluator: s}
}

// actuators are the actuators of this process by their kind.
func (a *app) actuators() map[string]actuators.Actuator {
	byKind := map[string]actuators.Actuator{}
	if a.processes != nil {
		byKind[process.Kind] = actuators.Instrument(a.metrics, process.Kind, a.processes)
	}
	return byKind
}

// buildScrape has the store scrape this process, the replicas of its targets and what the configuration names.
func (a *app) buildScrape() error {
	if a.store == nil {
		return nil
	}
	sc := store.Scrape{
		Configs: a.loaded.scrape,
		Self:    []store.Self{{Name: "flyball", Address: a.webListener.Addr().String(), Drop: rules.OutputMetrics()}},
	}
	for _, name := range slices.Sorted(maps.Keys(a.loaded.Actuators.Process)) {
		if path := a.loaded.Actuators.Process[name].MetricsPath; path != "" {
			sc.Jobs = append(sc.Jobs, store.Job{Name: name, Target: name, Endpoints: a.processes, MetricsPath: path})
		}
	}
	return a.store.ApplyScrape(sc)
}

// part is something that runs until its context ends.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// run starts the parts in order, and stops them in the other when ctx ends or one of them fails: the proxy finishes what
// it has while replicas still answer, the rules stop before replicas do, and the page is there to the end.
func (a *app) run(ctx context.Context) error {
	web := a.webServer()
	parts := []part{{"web", func(ctx context.Context) error { return serve(ctx, web, a.webListener) }}}
	if a.gpus != nil {
		parts = append(parts, part{"gpu collector", a.gpus.Run})
	}
	if a.processes != nil {
		parts = append(parts, part{"process actuator", a.processes.Run})
	}
	if a.store != nil {
		parts = append(parts, part{"rules", a.runRules})
	}
	if a.proxy != nil {
		server := a.proxyServer()
		parts = append(parts,
			part{"proxy server", func(ctx context.Context) error { return serve(ctx, server, a.proxyListener) }},
			part{"proxy", a.proxy.Run})
	}
	return runParts(ctx, parts, func() { close(a.ready) })
}

// runParts returns the errors of the parts, joined, when all have ended.
func runParts(ctx context.Context, parts []part, started func()) error {
	type running struct {
		part
		cancel context.CancelFunc
		done   chan struct{}
		err    error
	}
	var all []*running
	ended := make(chan struct{}, len(parts))
	for _, p := range parts {
		// Each part has a context of its own, so that they end one after the other.
		partCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		r := &running{part: p, cancel: cancel, done: make(chan struct{})}
		all = append(all, r)
		go func() {
			defer close(r.done)
			r.err = r.run(partCtx)
			ended <- struct{}{}
		}()
	}
	started()
	select {
	case <-ctx.Done():
	case <-ended:
	}
	var errs []error
	for _, r := range slices.Backward(all) {
		r.cancel()
		<-r.done
		if r.err != nil && !errors.Is(r.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, r.err))
		}
	}
	return errors.Join(errs...)
}

// runRules gives targets that came up without a size their first one, then scrapes and evaluates.
func (a *app) runRules(ctx context.Context) error {
	if err := a.restore(ctx); err != nil {
		return err
	}
	return a.store.Run(ctx)
}

func (a *app) restore(ctx context.Context) error {
	ruled := map[string]bool{}
	for _, s := range a.scalers {
		target := s.Rule().Target
		if target.Kind != process.Kind {
			continue
		}
		ruled[target.Name] = true
		if _, err := s.Restore(ctx, time.Now(), a.loaded.Actuators.Process[target.Name].Replicas); err != nil {
			return err
		}
	}
	for name, t := range a.loaded.Actuators.Process {
		if ruled[name] || t.Replicas == 0 {
			continue
		}
		if _, err := a.processes.Apply(ctx, actuators.Target{Kind: process.Kind, Name: name},
			actuators.Change{To: t.Replicas, Reason: "replicas in the configuration"}); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	return nil
}

// serve runs a server until ctx ends, and gives the requests in progress a little time.
func serve(ctx context.Context, server *http.Server, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := make(chan struct{})
	defer close(stop)
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-stop:
			return
		}
		// The proxy has answered all that it took by now; what is left are pages and scrapes.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// close lets go of what newApp opened, the last first.
func (a *app) close() {
	for _, c := range slices.Backward(a.closers) {
		if err := c(); err != nil && !errors.Is(err, net.ErrClosed) {
			a.opts.log.Error("close", "err", err)
		}
	}
	a.closers = nil
}

func (a *app) pageURL() string { return "http://" + a.webListener.Addr().String() + "/" }
