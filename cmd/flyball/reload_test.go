//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/source"
)

// within is an app in the test's own process, with replicas that are real.
type within struct {
	*app
	t   *testing.T
	dir string
	log output
}

func startWithin(t *testing.T, files map[string]string, flags ...func(*runOptions)) *within {
	t.Helper()
	w := &within{t: t, dir: t.TempDir()}
	w.write(files)
	o := &runOptions{
		configFile: filepath.Join(w.dir, "flyball.yml"), storagePath: filepath.Join(w.dir, "state"), roles: []string{roleAll}, act: true,
		webListen: []string{"127.0.0.1:0"}, proxyListen: "127.0.0.1:0", stdout: io.Discard,
		log: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, set := range flags {
		set(o)
	}
	l, err := o.load(nil)
	if err != nil {
		t.Fatal(err)
	}
	if w.app, err = newApp(l, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stopped with %v", err)
		}
		w.close()
		if t.Failed() {
			t.Logf("log:\n%s", tail(w.log.String(), 8000))
		}
	})
	w.eventually("ready", func() bool { return w.phase.Load() == ready })
	return w
}

func (w *within) write(files map[string]string) {
	w.t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// eventually polls a condition: what replicas and scrapes do cannot be waited for otherwise.
func (w *within) eventually(what string, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within 30s: %s", what)
		}
	}
}

// picture is all that a configuration decides, as it is in the parts that run.
func (w *within) picture() string {
	var b strings.Builder
	now := w.live.Load()
	for _, g := range w.store.Groups() {
		fmt.Fprintf(&b, "group %s every %s\n", g.Name, g.Interval)
		for _, r := range g.Rules {
			fmt.Fprintf(&b, "  %s %s = %s\n", r.Kind, r.Name, r.Expr)
		}
	}
	for _, s := range now.scalers {
		fmt.Fprintf(&b, "scale %s %s %d..%d acts %t\n", s.Name(), s.Rule().Target, s.Rule().Min, s.Rule().Max, s.Acts())
	}
	var jobs []string
	for _, t := range w.store.Targets() {
		if !slices.Contains(jobs, t.Job) {
			jobs = append(jobs, t.Job)
		}
	}
	fmt.Fprintf(&b, "jobs %v, alertmanagers %v\n", jobs, w.store.Alertmanagers().Active)
	for _, m := range now.proxy.Models() {
		fmt.Fprintf(&b, "model %s\n", m.Name)
	}
	for _, name := range []string{"digits", "letters"} {
		for _, r := range w.processes.Replicas(name) {
			fmt.Fprintf(&b, "replica %s %d pid %d %s outdated %t\n", name, r.Index, r.PID, r.State, r.Outdated)
		}
	}
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "flyball_collector_success" {
			for _, m := range f.GetMetric() {
				fmt.Fprintf(&b, "collector %s\n", m.GetLabel()[0].GetValue())
			}
		}
	}
	return b.String()
}

func (w *within) post(model string) (int, string) {
	resp, err := http.Post("http://"+w.proxyListener.Addr().String()+"/v1/models/"+model+":predict", "application/json", strings.NewReader(`{"instances": [1]}`))
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// before and after are two configurations that differ in every part.
func before(model string) map[string]string {
	return map[string]string{
		"flyball.yml": `global: {scrape_interval: 100ms, evaluation_interval: 100ms, external_labels: {site: one}}
rule_files: [a.rules.yml]
exporter: {collectors: {host: false, gpu: false}}
scrape_configs: [{job_name: first, static_configs: [{targets: ["127.0.0.1:1"]}]}]
batchproxy: {models: [{name: m, upstreams: [{url: "` + model + `"}]}]}
actuators: {process: {digits: {command: [` + built.path("modelserver") + `, "--web.listen-address={{.Address}}", --log.level=error]}}}
`,
		"a.rules.yml": `groups:
- name: a
  rules:
  - {record: one, expr: vector(1)}
  - {alert: Up, expr: one > 0, for: 1h}
  - {scale: digits, target: {kind: process, name: digits}, mode: act, max: 3, queries: {demand: one}, signals: [{name: load, value: demand, target_per_replica: 1}]}
`,
	}
}

func after(model string) map[string]string {
	return map[string]string{
		"flyball.yml": `global: {scrape_interval: 150ms, evaluation_interval: 150ms, external_labels: {site: two}}
rule_files: [a.rules.yml, b.rules.yml]
exporter: {collectors: {host: true, gpu: false}}
alerting: {alertmanagers: [{scheme: https, static_configs: [{targets: ["127.0.0.1:2"]}]}]}
scrape_configs: [{job_name: second, static_configs: [{targets: ["127.0.0.1:1"]}]}]
batchproxy: {models: [{name: m, batch: {max_size: 3}, upstreams: [{url: "` + model + `"}]}, {name: n, upstreams: [{url: "` + model + `"}]}]}
actuators:
  process:
    digits: {drain: 1s, command: [` + built.path("modelserver") + `, "--web.listen-address={{.Address}}", --log.level=error]}
    letters: {command: [` + built.path("modelserver") + `, "--web.listen-address={{.Address}}", --log.level=error]}
`,
		"a.rules.yml": `groups:
- name: a
  rules:
  - {record: one, expr: vector(2)}
  - {alert: Up, expr: one > 0, for: 1h}
  - {scale: digits, target: {kind: process, name: digits}, mode: act, max: 4, queries: {demand: one}, signals: [{name: load, value: demand, target_per_replica: 1}]}
`,
		"b.rules.yml": `groups:
- name: b
  rules:
  - {scale: letters, target: {kind: process, name: letters}, mode: act, max: 2, queries: {demand: one}, signals: [{name: load, value: demand, target_per_replica: 2}]}
`,
	}
}

func answering(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n := bytes.Count(body, []byte("1"))
		_, _ = fmt.Fprintf(w, `{"predictions": [%s]}`, strings.TrimSuffix(strings.Repeat("7,", n), ","))
	}))
	t.Cleanup(s.Close)
	return s
}

// TestReloadBroken breaks each part in turn, in a configuration that is otherwise right and changes every part, and finds
// every part as it was.
func TestReloadBroken(t *testing.T) {
	model := answering(t)
	w := startWithin(t, before(model.URL))
	w.eventually("a replica is ready and the targets are found", func() bool {
		all := w.processes.Replicas("digits")
		return len(all) == 1 && all[0].State == "ready" && len(w.store.Targets()) == 3
	})
	want := w.picture()
	for _, tt := range []struct {
		part, file, from, to string
		fault                string // file:line:column and what is wrong
	}{
		{"the file itself", "flyball.yml", "rule_files: [", "rule_files: {", "flyball.yml:1:1: YAML: did not find expected"},
		{"a key", "flyball.yml", "rule_files", "rule_filez", `flyball.yml:2:1: unknown key "rule_filez" (did you mean "rule_files"?)`},
		{"global", "flyball.yml", "scrape_interval: 150ms", "scrape_interval: 0s", "flyball.yml:1:27: scrape_interval: 0s is not an interval"},
		{"storage", "flyball.yml", "rule_files", "storage: {retention: 30d}\nrule_files", "flyball.yml:2:22: storage.retention is 15d in the process that runs: to change it takes a restart"},
		{"exporter", "flyball.yml", "gpu: false", "gpu: perhaps", "flyball.yml:3:42: exporter.collectors.gpu"},
		{"scrape", "flyball.yml", "second, static_configs", "second, static_config", `flyball.yml:5:37: scrape_configs[0].static_config: unknown key "static_config"`},
		{"alerting", "flyball.yml", "scheme: https", "scheme: httpz", "flyball.yml:4:37: alerting.alertmanagers[0].scheme"},
		{"batchproxy", "flyball.yml", "max_size: 3", "max_size: 0", "flyball.yml:6:51: models[0].batch.max_size: 0 is not a batch size"},
		{"actuators", "flyball.yml", "drain: 1s", "drain: -1s", "flyball.yml:9:21: drain"},
		{"a rule file that is not there", "flyball.yml", "b.rules.yml", "c.rules.yml", "flyball.yml:2:27: read rule file"},
		{"a record rule", "a.rules.yml", "vector(2)", "vector(2", "a.rules.yml:4:"},
		{"an alert rule", "a.rules.yml", "for: 1h", "annotations: {summary: '{{ nope }}'}", "a.rules.yml:5:"},
		{"a scale rule", "b.rules.yml", "target_per_replica: 2", "target_per_replica: -2", "b.rules.yml:4:"},
		{"a target of a rule", "b.rules.yml", "name: letters}, mode", "name: lettres}, mode", `b.rules.yml:4:52: target.name: no target "lettres" in actuators.process (did you mean "letters"?)`},
	} {
		t.Run(tt.part, func(t *testing.T) {
			files := after(model.URL)
			if !strings.Contains(files[tt.file], tt.from) {
				t.Fatalf("%s has no %s", tt.file, tt.from)
			}
			files[tt.file] = strings.Replace(files[tt.file], tt.from, tt.to, 1)
			w.write(files)
			err := w.reload(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Errorf("the error is\n%v\nwant it to have %s", err, tt.fault)
			}
			if _, placed := errors.AsType[source.Errors](err); err != nil && !placed {
				t.Errorf("%v has no place", err)
			}
			if diff := cmp.Diff(want, w.picture()); diff != "" {
				t.Errorf("something changed (-before +after):\n%s", diff)
			}
			if code, text := w.post("m"); code != 200 {
				t.Errorf("the model says %d %s", code, text)
			}
			if v := testutil.ToFloat64(w.reloads.successful); v != 0 {
				t.Errorf("flyball_config_last_reload_successful is %v", v)
			}
		})
	}
	// What only shows when it is to be taken over.
	t.Run("the commit", func(t *testing.T) {
		w.write(after(model.URL))
		l, err := w.opts.load(w.live.Load().loaded)
		if err != nil {
			t.Fatal(err)
		}
		n, err := w.prepare(l)
		if err != nil {
			t.Fatal(err)
		}
		n.store = brokenCommit{}
		if err := w.commit(t.Context(), n); err == nil || !strings.Contains(err.Error(), "the scraper says no") {
			t.Errorf("the error is %v", err)
		}
		w.eventually("the replica of the new target is gone", func() bool { return len(w.processes.Replicas("letters")) == 0 })
		if diff := cmp.Diff(want, w.picture()); diff != "" {
			t.Errorf("something changed (-before +after):\n%s", diff)
		}
	})
	w.write(after(model.URL))
	if err := w.reload(t.Context()); err != nil {
		t.Fatalf("repaired: %v", err)
	}
	if w.picture() == want {
		t.Error("a good reload changed nothing either")
	}
}

type brokenCommit struct{}

func (brokenCommit) Commit() error { return errors.New("the scraper says no") }

// TestReload changes every part at once, back and forth, under load: no request is lost, counters and the time that an alert
// has been pending go on, as do the replicas, the cooldown and the journal.
func TestReload(t *testing.T) {
	model := answering(t)
	w := startWithin(t, before(model.URL))
	w.eventually("a replica is ready and the alert pending", func() bool {
		all := w.processes.Replicas("digits")
		return len(all) == 1 && all[0].State == "ready" && len(w.store.Alerts()) == 1
	})
	pendingSince, pid := w.store.Alerts()[0].ActiveAt, w.processes.Replicas("digits")[0].PID

	var clients sync.WaitGroup
	var sent atomic.Int64
	done := make(chan struct{})
	defer func() {
		close(done)
		clients.Wait()
	}()
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if code, text := w.post("m"); code != 200 || text != `{"predictions": [7]}` {
					t.Errorf("lost: %d %s", code, text)
				}
				sent.Add(1)
			}
		})
	}
	w.write(after(model.URL))
	if err := w.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually("the new rules decide and act", func() bool {
		d, l := w.processes.Replicas("digits"), w.processes.Replicas("letters")
		return len(d) == 2 && len(l) == 1 && d[1].State == "ready" && l[0].State == "ready"
	})
	w.eventually("the model that is new answers", func() bool { code, _ := w.post("n"); return code == 200 })
	w.eventually("the job that is new is scraped, the old one is not", func() bool {
		text := w.picture()
		return strings.Contains(text, "alertmanagers [https://127.0.0.1:2/api/v2/alerts]") && strings.Contains(text, "second") && !strings.Contains(text, "first") && strings.Contains(text, "collector host")
	})
	if all := w.processes.Replicas("digits"); all[0].PID != pid || !all[0].Outdated || all[1].Outdated {
		t.Errorf("the replica of before: %+v", all)
	}
	if at := w.store.Alerts()[0].ActiveAt; !at.Equal(pendingSince) {
		t.Errorf("the alert is pending since %s, it was since %s", at, pendingSince)
	}
	ups := func() (n int) {
		for _, d := range w.journal.Recent(journal.Filter{}, 1000) {
			if d.Rule == "digits" && d.Action == rules.Up && d.Result == rules.Applied && !d.Start {
				n++
			}
		}
		return n
	}
	if n := ups(); n != 1 {
		t.Errorf("%d changes up, want 1", n)
	}

	// Back: the targets that are gone end, the demand is 1 again, and the down window, which knows of 2, holds the size.
	w.write(before(model.URL))
	if err := w.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually("the target that is gone has ended", func() bool { return len(w.processes.Replicas("letters")) == 0 })
	held := func() *rules.Decision {
		for _, s := range w.live.Load().scalers {
			if d := s.Last(); s.Name() == "digits" && d != nil && d.Replicas.Max == 3 {
				return d
			}
		}
		return nil
	}
	w.eventually("the rule of before decides again", func() bool { return held() != nil })
	if d := held(); d.To != 2 || !slices.Contains(d.Reasons, rules.Stabilized) {
		t.Errorf("the window of before the reload: %d %s %s", d.To, d.ReasonText(), d.Text)
	}
	if code, _ := w.post("n"); code != http.StatusNotFound {
		t.Errorf("the model that is gone: %d", code)
	}
	for _, g := range w.store.Groups() {
		if g.Name == "b" {
			t.Error("the group that is gone is evaluated")
		}
	}
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == "letters" || l.GetValue() == "process/letters" || l.GetName() == "model" && l.GetValue() == "n" {
					t.Errorf("%s{%s=%q} is still there", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	n := sent.Load()
	w.eventually("requests go on", func() bool { return sent.Load() > n+10 })
}
