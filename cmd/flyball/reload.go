package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators/process"
	"flyball/batchproxy"
	"flyball/cmd/flyball/tracing"
	"flyball/exporter"
	"flyball/rules/remote"
	"flyball/rules/source"
	"flyball/rules/store"
)

// live is what a configuration made: all that a reload replaces.
type live struct {
	*loaded
	deciders
	sensors
	proxy  *batchproxy.Proxy // nil where this process has none
	dcgm   http.Handler      // the GPUs under dcgm-exporter's names; nil where that is not asked for
	remote *remote.Client    // nil where the store answers all
}

// next is a configuration that every part has checked, and that none has taken over yet.
type next struct {
	live
	processes *process.Update
	cluster   *kubernetesUpdate  // nil where this process has no Kubernetes
	services  *servicesUpdate    // nil where the proxy sends to no Service
	store     *store.Prepared    // nil where this process has no store
	exporter  *exporter.Exporter // nil: it stays as it is
	tracing   *tracing.Update    // nil where this process has no proxy
	proxied   bool               // the proxy is to be another one
}

// errNotReady is why there is no reload before and after all parts run.
var errNotReady = errors.New("flyball is starting or stopping")

// reload reads the configuration again, and tells the service manager while it does. All of it holds from then on or, with an
// error, nothing has changed. It is not broken off half-way when ctx ends, such as that of a request whose client has gone.
func (a *app) reload(ctx context.Context) error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	if a.phase.Load() != ready {
		return errNotReady
	}
	a.notify(daemon.SdNotifyMonotonicUsec() + daemon.SdNotifyReloading)
	defer a.notify(daemon.SdNotifyReady)
	for _, p := range a.proxies() { // whatever becomes of the configuration: this is how logrotate asks for it
		p.ReopenAccessLog()
	}
	began := time.Now()
	tried := fingerprint(a.opts.configFile)
	a.tried.Store(&tried)
	err := a.loadAgain(context.WithoutCancel(ctx))
	a.reloads.done(err)
	if err != nil {
		a.opts.log.Error("not reloaded, everything stays as it was", "config", a.opts.configFile, "err", oneLine(err))
		return err
	}
	a.opts.log.Info("reloaded", "config", a.opts.configFile, "took", time.Since(began))
	return nil
}

// oneLine is an error for a log: the faults of files without the lines that they are on.
func oneLine(err error) error {
	faults, ok := errors.AsType[source.Errors](err)
	if !ok {
		return err
	}
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = f.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

func (a *app) loadAgain(ctx context.Context) error {
	l, err := a.opts.load(a.live.Load().loaded)
	if err != nil {
		return err
	}
	if err := a.checkSecured(); err != nil {
		return err
	}
	n, err := a.prepare(l)
	if err != nil {
		return err
	}
	return a.commit(ctx, n)
}

// prepare has every part check its share of a configuration.
func (a *app) prepare(l *loaded) (n *next, err error) {
	now := a.live.Load()
	n = &next{live: live{loaded: l, proxy: now.proxy, sensors: now.sensors, dcgm: now.dcgm}}
	if a.processes != nil {
		if n.processes, err = a.processes.Prepare(l.Actuators.Process); err != nil {
			return nil, fmt.Errorf("actuators.process: %w", err)
		}
	}
	if a.kubernetes != nil {
		if n.cluster, err = a.kubernetes.Prepare(l.Actuators.Kubernetes); err != nil {
			return nil, fmt.Errorf("actuators.kubernetes: %w", err)
		}
	}
	if a.services != nil && l.hasServices() {
		if n.services, err = a.services.Prepare(l.Actuators.Kubernetes); err != nil {
			return nil, fmt.Errorf("batchproxy: services are found through actuators.kubernetes: %w", err)
		}
	}
	if a.opts.has(roleExporter) && (a.exporter.Load() == nil || !reflect.DeepEqual(l.Exporter, now.Exporter) || !reflect.DeepEqual(l.sim, now.sim)) {
		if n.exporter, n.sensors, err = a.newExporter(l.Exporter, l.sim); err != nil {
			return nil, fmt.Errorf("exporter: %w", err)
		}
		n.dcgm = newDCGMPage(l.Exporter, n.sensors)
	}
	switch {
	case a.proxyListener != nil:
		if n.proxied = now.proxy == nil || !reflect.DeepEqual(l.Batchproxy, now.Batchproxy); n.proxied {
			// A trial: one whose metrics are registered has the series of its models from the beginning.
			if _, err := a.newProxy(l.Batchproxy, nil); err != nil {
				return nil, fmt.Errorf("batchproxy: %w", err)
			}
		}
	case a.opts.has(roleBatchproxy) && len(l.Batchproxy.Models) > 0:
		return nil, errors.New("batchproxy.models: there were none when flyball started, so nothing listens for them: that takes a restart")
	}
	if a.opts.has(roleRules) && a.keda == nil && len(l.Actuators.Keda) > 0 {
		return nil, errors.New("actuators.keda: there were none when flyball started, so nothing listens for KEDA: that takes a restart")
	}
	if a.store != nil {
		c := store.Config{
			Global: store.Global{
				ScrapeInterval: time.Duration(l.Global.ScrapeInterval), EvaluationInterval: time.Duration(l.Global.EvaluationInterval),
				ExternalLabels: labels.FromMap(l.Global.ExternalLabels),
			},
			Scrape: a.newScrape(l), Alerting: l.alerting, RemoteWrites: l.writes,
		}
		if n.remote, err = a.newRemote(l, now); err != nil {
			return nil, err
		}
		if n.remote != nil {
			c.Remote = n.remote
		}
		c.Groups, n.deciders = a.newGroups(l)
		prepared, err := a.store.Prepare(c)
		if err != nil {
			return nil, err
		}
		n.store = prepared
	}
	if a.proxyListener != nil { // last: it has connections to give up
		if n.tracing, err = a.tracing.Prepare(l.Tracing); err != nil {
			return nil, fmt.Errorf("tracing: %w", err)
		}
	}
	return n, nil
}

// hasServices says whether the proxy sends to a Service of Kubernetes.
func (l *loaded) hasServices() bool {
	return slices.ContainsFunc(l.Batchproxy.Models, func(m batchproxy.ModelConfig) bool {
		return slices.ContainsFunc(m.Upstreams, func(u batchproxy.Upstream) bool { return u.Service != "" })
	})
}

// commit takes over what was prepared. The store, which alone can refuse by now, comes first, and with it the targets that
// are new, which it follows: their replicas start, and rules decide, when it has not. Targets go last, since the others
// follow them.
func (a *app) commit(ctx context.Context, n *next) (err error) {
	now := a.live.Load()
	if n.processes != nil {
		n.processes.Begin()
	}
	if n.store != nil {
		err := n.store.Commit(func() {
			n.processes.Commit()
			if n.cluster != nil {
				n.cluster.Commit()
			}
			a.setElsewhere(n.loaded)
			a.restore(ctx, n.loaded, n.scalers)
			now.release(n.deciders)
			a.scales.Show(n.scalers, n.outputs()...)
			a.forecasts.Show(n.predictors)
		})
		if err != nil {
			n.processes.Cancel()
			n.tracing.Cancel()
			return err
		}
	}
	if n.services != nil {
		n.services.Commit()
	}
	n.tracing.Commit()
	if n.proxied {
		if n.proxy, err = a.newProxy(n.Batchproxy, a.metrics); err != nil { // at the start, if ever: its metrics
			return fmt.Errorf("batchproxy: %w", err)
		}
		if now.proxy == nil {
			a.proxySlot.start(a.runProxy(n.proxy))
		} else {
			a.proxySlot.replace(a.runProxy(n.proxy), func() {
				<-n.proxy.Following()
				now.proxy.Replace(n.proxy) // which a request that was on its way to it does not notice
			})
		}
	}
	if n.exporter != nil {
		if before := a.exporter.Swap(n.exporter); before == nil {
			a.gpuSlot.start(n.run)
		} else {
			a.gpuSlot.replace(n.run, func() {})
		}
	}
	a.live.Store(&n.live)
	if a.keda != nil {
		a.keda.ChangedAll()
	}
	if now.remote != nil && now.remote != n.remote {
		now.remote.Close()
	}
	if n.processes != nil {
		n.processes.Retire()
	}
	return nil
}

// reloadMetrics say how the last reload went, under Prometheus's names with our prefix.
type reloadMetrics struct {
	successful, at prometheus.Gauge
}

func newReloadMetrics(reg prometheus.Registerer) *reloadMetrics {
	m := &reloadMetrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flyball_config_last_reload_successful", Help: "Whether the last attempt to read the configuration succeeded.",
		}),
		at: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flyball_config_last_reload_success_timestamp_seconds", Help: "When the configuration was last read with success, in Unix time.",
		}),
	}
	reg.MustRegister(m.successful, m.at)
	return m
}

func (m *reloadMetrics) done(err error) {
	if err != nil {
		m.successful.Set(0)
		return
	}
	m.successful.Set(1)
	m.at.SetToCurrentTime()
}
