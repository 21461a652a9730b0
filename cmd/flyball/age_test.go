package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/store"
)

// TestDeadSourceHolds: a range goes on answering for a while after its source has died, and a recording rule stamps that
// as new. Neither may make a target smaller. Real scraping, real engine.
func TestDeadSourceHolds(t *testing.T) {
	t.Parallel() // most of its time it waits
	const text = `groups:
- name: a
  rules:
  - {record: "job:requests:rate", expr: "sum(rate(requests_total[20s]))"}
  - scale: direct
    target: {kind: process, name: direct}
    max: 4
    mode: act
    behavior: {down: {window: 0s}}
    queries:
      demand: sum(rate(requests_total[20s]))
    signals: [{name: load, value: demand, target_per_replica: 10}]
  - scale: recorded
    target: {kind: process, name: recorded}
    max: 4
    mode: act
    behavior: {down: {window: 0s}}
    queries:
      demand: job:requests:rate
    signals: [{name: load, value: demand, target_per_replica: 10}]
`
	var requests atomic.Int64
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE requests_total counter\nrequests_total %d\n", requests.Add(20))
	}))
	defer source.Close()

	dir := t.TempDir()
	o := store.DefaultOptions()
	o.Dir, o.ScrapeInterval, o.EvaluationInterval = filepath.Join(dir, "tsdb"), 500*time.Millisecond, 500*time.Millisecond
	s, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	j, err := journal.Open(filepath.Join(dir, "decisions.jsonl"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	file, err := (&rules.Reader{Defaults: rules.Defaults{EvaluationInterval: o.EvaluationInterval, ScrapeInterval: o.ScrapeInterval}}).Parse("rules.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	fake := &actuatortest.Fake{}
	metrics, memory := rules.NewMetrics(prometheus.NewRegistry()), &rules.Memory{}
	scalers := map[string]*rules.Scaler{}
	group := store.GroupOf(file, &file.Groups[0], func(r *rules.Rule) rules.Evaluator {
		if r.Scale == nil {
			return nil
		}
		name := r.Scale.Name
		fake.Resize(actuators.Target{Kind: "process", Name: name}, 1)
		scalers[name] = rules.NewScaler(r.Scale, rules.ScalerOptions{
			Querier: s, Actuators: map[string]actuators.Actuator{"process": fake}, Journal: j, Metrics: metrics, Memory: memory, Acting: true,
		})
		return scalers[name]
	})
	if err := s.SetGroups([]store.Group{group}); err != nil {
		t.Fatal(err)
	}
	configs, err := store.ParseScrapeConfigs(fmt.Appendf(nil, "- job_name: source\n  static_configs: [{targets: ['%s']}]\n", strings.TrimPrefix(source.URL, "http://")),
		store.ScrapeGlobal{Interval: o.ScrapeInterval})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyScrape(store.Scrape{Configs: configs}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan error, 1)
	go func() { running <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-running; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, holds func(rules.Decision) bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			n := 0
			for _, sc := range scalers {
				if last := sc.Last(); last != nil && holds(*last) {
					n++
				}
			}
			if n == len(scalers) {
				return
			}
			if time.Now().After(end) {
				for name, sc := range scalers {
					t.Logf("%s: %+v", name, sc.Last())
				}
				t.Fatal(what)
			}
		}
	}
	until("four replicas are in demand", func(d rules.Decision) bool {
		return d.To == 4 && len(d.Signals) == 1 && d.Signals[0].Value != nil && *d.Signals[0].Value > 35
	})
	before := len(fake.Changes())
	source.Close()
	until("it is stale", func(d rules.Decision) bool {
		return d.To == 4 && d.Queries[0].Fault == rules.MetricStale && d.Queries[0].Series == 1
	})
	if changes := fake.Changes(); len(changes) != before {
		t.Errorf("changed: %+v", changes[before:])
	}
}
