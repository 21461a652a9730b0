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
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"

	"flyball/exporter"
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
	var families []*dto.MetricFamily
	for _, registry := range []*prometheus.Registry{w.metrics, w.embedded} {
		found, err := registry.Gather()
		if err != nil {
			w.t.Fatal(err)
		}
		families = append(families, found...)
	}
	families = append(families, w.exporter.Load().Gather(context.Background(), exporter.Request{})...)
	var named []string // what there are series of
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "prometheus_remote_storage_shards_max" && l.GetName() == "url" ||
					strings.HasPrefix(f.GetName(), "flyball_") && slices.Contains([]string{"model", "target", "rule", "group", "collector"}, l.GetName()) {
					named = append(named, l.GetName()+" "+l.GetValue())
				}
			}
			if f.GetName() == "flyball_batchproxy_replicas_ready" {
				fmt.Fprintf(&b, "model %s has %g replicas\n", m.GetLabel()[0].GetValue(), m.GetGauge().GetValue())
			}
		}
	}
	slices.Sort(named)
	fmt.Fprintf(&b, "series of %s\n", strings.Join(slices.Compact(named), ", "))
	fmt.Fprintf(&b, "decisions of letters %d\n", len(w.journal.Recent(journal.Filter{Rule: "letters"}, 1)))
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

// securedBy is the web configuration file of what before and after configure.
func securedBy(o *runOptions) { o.webSecured = filepath.Join(filepath.Dir(o.configFile), "web.yml") }

// before and after are two configurations that differ in every part.
func before(model string) map[string]string {
	return map[string]string{
		"flyball.yml": `global: {scrape_interval: 100ms, evaluation_interval: 100ms, external_labels: {site: one}}
rule_files: [a.rules.yml]
exporter: {collectors: {host: false, gpu: false}}
scrape_configs: [{job_name: first, static_configs: [{targets: ["127.0.0.1:1"]}]}]
batchproxy: {models: [{name: m, upstreams: [{url: "` + model + `"}]}, {name: digits, upstreams: [{target: digits}]}]}
actuators: {process: {digits: {command: [` + built.path("modelserver") + `, "--web.listen-address={{.Address}}", --log.level=error]}}}
`,
		"web.yml": "http_server_config: {http2: true}\n",
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
batchproxy: {models: [{name: m, batch: {max_size: 3}, upstreams: [{url: "` + model + `"}]}, {name: n, upstreams: [{url: "` + model + `"}]}, {name: digits, upstreams: [{target: digits}]}]}
remote_write: [{url: "` + model + `/api/v1/write"}]
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
		"web.yml": "http_server_config: {http2: true}\nbasic_auth_users: {}\n",
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
	w := startWithin(t, before(model.URL), securedBy)
	w.eventually("a replica is ready, the targets are found and the rules evaluated", func() bool {
		all, picture := w.processes.Replicas("digits"), w.picture()
		return len(all) == 1 && all[0].State == "ready" && len(w.store.Targets()) == 3 &&
			strings.Contains(picture, "model digits has 1 replicas") && strings.Contains(picture, "rule Up, rule digits, rule one")
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
		{"a certificate of scraping", "flyball.yml", "second, static_configs", "second, tls_config: {ca_file: none.pem}, static_configs", "flyball.yml:5:18: scrape_configs[0]: unable to read CA cert"},
		{"a certificate of alerting", "flyball.yml", "scheme: https", "scheme: https, tls_config: {ca_file: none.pem}", "flyball.yml:4:28: alerting.alertmanagers[0]: unable to read CA cert"},
		{"remote write", "flyball.yml", "remote_write: [{url: \"http", "remote_write: [{url: \"ftp", "flyball.yml:7:23: remote_write[0].url"},
		{"a Prometheus elsewhere", "flyball.yml", "rule_files", "prometheus: {url: 'ftp://x'}\nrule_files", "flyball.yml:2:20: url: \"ftp://x\" is not an http(s) URL"},
		{"web configuration", "web.yml", "http2", "http3", `web.yml:1:22: unknown key "http3" (did you mean "http2"?)`},
		{"a password in clear", "web.yml", "{}", "{alice: secret}", "web.yml:2:27: basic_auth_users.alice: the value is not a bcrypt hash"},
		{"alerting", "flyball.yml", "scheme: https", "scheme: httpz", "flyball.yml:4:37: alerting.alertmanagers[0].scheme"},
		{"batchproxy", "flyball.yml", "max_size: 3", "max_size: 0", "flyball.yml:6:51: models[0].batch.max_size: 0 is not a batch size"},
		{"actuators", "flyball.yml", "drain: 1s", "drain: -1s", "flyball.yml:10:21: drain"},
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
			w.unchanged(t, want)
		})
	}
	t.Run("TLS is switched on", func(t *testing.T) {
		files := after(model.URL)
		newAuthority(t).issue(w.dir, "server", time.Time{})
		files["web.yml"] = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
		w.write(files)
		if err := w.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "it is now for https, where http is served: to change it takes a restart") {
			t.Errorf("the error is %v", err)
		}
		w.unchanged(t, want)
	})
	// What only shows when it is to be taken over.
	t.Run("the scraper refuses", func(t *testing.T) {
		files := after(model.URL)
		files["flyball.yml"] = strings.Replace(files["flyball.yml"], "job_name: second", "job_name: second, scrape_failure_log_file: none/failures.json", 1)
		w.write(files)
		if err := w.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "apply the scrape configuration: can't create json log file") {
			t.Errorf("the error is %v", err)
		}
		w.unchanged(t, want)
		if log := w.log.String(); strings.Contains(log, "process/letters") {
			t.Error("the target that was not taken over had a life")
		}
	})
	for _, part := range []string{"second, ", "scheme: https, ", "remote_write: [{"} {
		t.Run("a file is gone: "+part, func(t *testing.T) {
			files := after(model.URL)
			files["flyball.yml"] = strings.Replace(files["flyball.yml"], part, part+"tls_config: {ca_file: ca.crt}, ", 1)
			w.write(files)
			newAuthority(t).issue(w.dir, "server", time.Time{})
			l, err := w.opts.load(w.live.Load().loaded)
			if err != nil {
				t.Fatal(err)
			}
			n, err := w.prepare(l)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(w.dir, "ca.crt")); err != nil {
				t.Fatal(err)
			}
			if err := w.commit(t.Context(), n); err == nil || !strings.Contains(err.Error(), "unable to read CA cert") {
				t.Errorf("the error is %v", err)
			}
			w.unchanged(t, want)
		})
	}
	// The one who asked for it does not wait for the answer: all of it is taken over all the same.
	w.write(after(model.URL))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.reload(gone); err != nil {
		t.Fatalf("repaired: %v", err)
	}
	if got := w.picture(); got == want {
		t.Error("a good reload changed nothing either")
	}
	w.eventually("the new target has its replica", func() bool { return len(w.processes.Replicas("letters")) == 1 })
}

// TestReloadTakesRestart: what a process was not started for, a reload cannot give it.
func TestReloadTakesRestart(t *testing.T) {
	const quiet = "exporter: {collectors: {gpu: false, host: false}}\n"
	for _, tt := range []struct {
		name, after, want string
		change            func(*runOptions)
	}{
		{
			"an address of the proxy", quiet + "batchproxy: {models: [{name: m, upstreams: [{url: 'http://127.0.0.1:1'}]}]}\n",
			"batchproxy.models: there were none when flyball started, so nothing listens for them: that takes a restart", nil,
		},
		{
			"a target", quiet + "batchproxy: {models: [{name: first, upstreams: [{target: digits}]}]}\nactuators: {process: {digits: {command: [x]}}}\n",
			"batchproxy: models[0].upstreams[0]: target digits is run by the role rules, which this process has not: give the url",
			func(o *runOptions) { o.roles = []string{roleBatchproxy} },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := quiet
			if tt.change != nil {
				before += "batchproxy: {models: [{name: first, upstreams: [{url: 'http://127.0.0.1:1'}]}]}\n"
			}
			w := startWithin(t, map[string]string{"flyball.yml": before}, func(o *runOptions) {
				if tt.change != nil {
					tt.change(o)
				}
			})
			now := w.live.Load()
			w.write(map[string]string{"flyball.yml": tt.after})
			if err := w.reload(t.Context()); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if w.live.Load() != now {
				t.Error("it was taken over")
			}
		})
	}
}

// unchanged says that all is as it was, that it goes on, and that a metric tells of a reload that failed.
func (w *within) unchanged(t *testing.T, want string) {
	t.Helper()
	if diff := cmp.Diff(want, w.picture()); diff != "" {
		t.Errorf("something changed (-before +after):\n%s", diff)
	}
	if code, text := w.post("m"); code != http.StatusOK {
		t.Errorf("the model says %d %s", code, text)
	}
	if code := status("http://" + w.proxyListener.Addr().String() + "/v1/models/digits"); code != http.StatusOK {
		t.Errorf("the model of the replicas says %d", code)
	}
	last := w.store.Groups()[0].LastEvaluation
	w.eventually("rules go on", func() bool { return w.store.Groups()[0].LastEvaluation.After(last) })
	if v := testutil.ToFloat64(w.reloads.successful); v != 0 {
		t.Errorf("flyball_config_last_reload_successful is %v", v)
	}
}

// TestReload changes every part at once, back and forth, under load: no request is lost, counters and the time that an alert
// has been pending go on, as do the replicas, the cooldown and the journal.
func TestReload(t *testing.T) {
	model := answering(t)
	w := startWithin(t, before(model.URL), securedBy)
	w.eventually("a replica is ready and the alert pending", func() bool {
		all := w.processes.Replicas("digits")
		return len(all) == 1 && all[0].State == "ready" && len(w.store.Alerts()) == 1 && strings.Contains(w.picture(), "model digits has 1 replicas")
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
				// And one that only the replicas answer, which a new proxy has to find first.
				if code := status("http://" + w.proxyListener.Addr().String() + "/v1/models/digits"); code != http.StatusOK {
					t.Errorf("lost on the way to a replica: %d", code)
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

// TestReloadRemembers: what a rule and an alert have been waiting for goes on across reloads that change both: the cooldown
// and the window of the target, and since when an alert has been pending, which then fires by its old time.
func TestReloadRemembers(t *testing.T) {
	config := func(step int, demand, more, alert string) map[string]string {
		return map[string]string{
			"flyball.yml": fmt.Sprintf("global: {scrape_interval: 100ms, evaluation_interval: %dms}\n", 100+step) +
				"rule_files: [a.rules.yml]\nexporter: {collectors: {host: false, gpu: false}}\n" +
				"actuators: {process: {digits: {command: [" + built.path("modelserver") + `, "--web.listen-address={{.Address}}", --log.level=error]}}}` + "\n",
			"a.rules.yml": "groups:\n- name: a\n  rules:\n  - {record: demand, expr: vector(" + demand + ")}\n" +
				"  - {alert: Up, expr: demand > 0, labels: {step: s}, " + alert + "}\n" +
				fmt.Sprintf("  - {scale: digits, target: {kind: process, name: digits}, mode: act, max: %d, queries: {demand: demand}, signals: [{name: load, value: demand, target_per_replica: 1}], %s}\n", 10+step, more),
		}
	}
	const window = "behavior: {up: {cooldown: 1h}, down: {window: 1h}}"
	w := startWithin(t, config(0, "2", window, "for: 1h"))
	// decided is a decision of the rule as it is after that step.
	decided := func(step int) (d *rules.Decision) {
		w.eventually(fmt.Sprintf("the rule decides after step %d", step), func() bool {
			d = w.live.Load().scalers[0].Last()
			return d != nil && d.Replicas.Max == 10+step && d.Replicas.Spec >= 2 && d.Replicas.Ready == d.Replicas.Spec
		})
		return d
	}
	next := func(files map[string]string) {
		t.Helper()
		w.write(files)
		if err := w.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	decided(0)
	w.eventually("the alert is pending", func() bool { return len(w.store.Alerts()) == 1 })
	since := w.store.Alerts()[0].ActiveAt

	next(config(1, "3", window, "for: 59m"))
	if d := decided(1); d.To != 2 || !slices.Contains(d.Reasons, rules.Cooldown) {
		t.Errorf("the cooldown of before the reload: %d %s %s", d.To, d.ReasonText(), d.Text)
	}
	next(config(2, "3", "behavior: {down: {window: 1h}}", "for: 58m"))
	w.eventually("without a cooldown it grows", func() bool { return decided(2).Replicas.Spec == 3 })
	next(config(3, "1", "behavior: {down: {window: 1h}}", "for: 57m"))
	if d := decided(3); d.To != 3 || !slices.Contains(d.Reasons, rules.Stabilized) {
		t.Errorf("the window of before the reload: %d %s %s", d.To, d.ReasonText(), d.Text)
	}
	if all := w.store.Alerts(); len(all) != 1 || all[0].State != "pending" || !all[0].ActiveAt.Equal(since) {
		t.Errorf("the alert is not pending since %s: %+v", since, all)
	}
	// Now its time is over at once.
	next(config(4, "1", "behavior: {down: {window: 1h}}", "for: "+model.Duration(time.Since(since).Truncate(time.Millisecond)).String()))
	w.eventually("it fires", func() bool { all := w.store.Alerts(); return len(all) == 1 && all[0].State == "firing" })
	if a := w.store.Alerts()[0]; !a.ActiveAt.Equal(since) {
		t.Errorf("it fires since %s, it was to since %s", a.ActiveAt, since)
	}
}

// TestReloadReopensAccessLog moves the access log away as logrotate does, in front of a configuration that is refused.
func TestReloadReopensAccessLog(t *testing.T) {
	upstream := answering(t)
	path := filepath.Join(t.TempDir(), "access.log")
	config := fmt.Sprintf("batchproxy:\n  access_log: {path: %s}\n  models: [{name: m, upstreams: [{url: %q}]}]\n", path, upstream.URL)
	w := startWithin(t, map[string]string{"flyball.yml": config})
	lines := func(path string) int {
		text, _ := os.ReadFile(path) // not there: none
		return bytes.Count(text, []byte(`"model":"m"`))
	}
	if code, body := w.post("m"); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	w.eventually("a line for the request", func() bool { return lines(path) == 1 })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	w.write(map[string]string{"flyball.yml": config + "  drain: soon\n"})
	if err := w.reload(t.Context()); err == nil {
		t.Error("a configuration with a fault was taken")
	}
	w.eventually("a line in the new file", func() bool {
		w.post("m")
		return lines(path) > 0
	})
}
