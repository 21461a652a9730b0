package main

import (
	"fmt"
	"reflect"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/version"
	"gopkg.in/yaml.v3"

	"flyball/rules/remote"
	"flyball/rules/source"
	"flyball/rules/store"
)

// validatePrometheus checks the Prometheus elsewhere, where there is one, and where samples are sent on to.
func (l *loaded) validatePrometheus(d *source.Decoder, dir string) {
	p := &l.Prometheus
	p.SetDirectory(dir)
	err := p.Validate()
	if err == nil && p.Remote() {
		if p.Timeout == 0 { // a query that takes longer than an interval costs more than one evaluation
			p.Timeout = model.Duration(min(remote.DefaultTimeout, max(time.Duration(l.Global.EvaluationInterval), time.Millisecond)))
		}
		var client *remote.Client
		if client, err = remote.New(*p, remote.Options{}); err == nil {
			client.Close()
		}
	}
	d.Faults("prometheus", err)
	if jobs := l.scrape.Jobs(); p.Remote() && len(jobs) > 0 {
		d.FaultAt("scrape_configs", 0, "scrape_configs: with prometheus.url, the Prometheus there scrapes and this process does not: move %s to its configuration", plural(len(jobs), "job"))
	}
	if l.RemoteWrite == nil {
		return
	}
	text, err := yaml.Marshal(l.RemoteWrite)
	if err == nil {
		l.writes, err = store.ParseRemoteWrite(text, dir)
	}
	d.Faults("", err)
}

// newRemote returns the client of a configuration, nil where the store answers all; the present one where nothing of it
// changed, with what it knows.
func (a *app) newRemote(l *loaded, now *live) (*remote.Client, error) {
	if !l.Prometheus.Remote() {
		return nil, nil
	}
	if now.remote != nil && reflect.DeepEqual(now.Prometheus, l.Prometheus) {
		return now.remote, nil
	}
	if a.remotes == nil {
		a.remotes = remote.NewMetrics(a.metrics)
	}
	client, err := remote.New(l.Prometheus, remote.Options{
		Metrics: a.remotes, Log: a.opts.log.With("component", "remote"), UserAgent: "flyball/" + version.Version,
	})
	if err != nil {
		return nil, fmt.Errorf("prometheus: %w", err)
	}
	return client, nil
}
