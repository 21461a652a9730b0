package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
	"flyball/rules/peertest"
)

// TestRemoteApp is the whole process beside a real Prometheus, which scrapes it: it asks there for its own metrics, sends
// there what its rules write, and a reload moves it to its own store and back.
func TestRemoteApp(t *testing.T) {
	dir := t.TempDir()
	web := freeAddress(t)
	prom := peertest.Prometheus(t, "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"+
		"scrape_configs: [{job_name: flyball, static_configs: [{targets: ['"+web+"']}]}]\n", "--web.enable-remote-write-receiver")
	file := filepath.Join(dir, "flyball.yml")
	configure := func(url string) {
		t.Helper()
		for name, text := range map[string]string{
			"flyball.yml": "global: {scrape_interval: 200ms, evaluation_interval: 200ms}\nstorage: {path: '" + filepath.Join(dir, "state") + "'}\n" +
				"prometheus: {url: '" + url + "'}\nrule_files: [rules.yml]\nexporter: {collectors: {gpu: false}}\n" +
				"remote_write: [{url: '" + prom.URL + "/api/v1/write', queue_config: {batch_send_deadline: 50ms}}]\n",
			"rules.yml": "groups:\n- name: a\n  rules:\n  - {record: 'own:builds', expr: 'count(flyball_build_info)'}\n  - {alert: Builds, expr: 'own:builds > 0'}\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	configure(prom.URL)
	o := &runOptions{configFile: file, roles: []string{roleRules, roleExporter}, webListen: []string{web}, log: slog.New(slog.DiscardHandler), stdout: io.Discard}
	l, err := o.load(nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(l, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		a.close()
	}()
	wait := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within 30 s: %s; groups: %+v", what, a.store.Groups())
			}
		}
	}
	wait("ready", func() bool { return a.phase.Load() == ready })
	healthy := func() bool {
		g := a.store.Groups()
		return len(g) == 1 && g[0].Rules[0].Health == "ok" && len(a.store.Alerts()) == 1 && a.store.Alerts()[0].State == "firing"
	}
	wait("the rule reads what Prometheus scraped of this very process", healthy)
	if targets := a.store.Targets(); len(targets) != 0 {
		t.Errorf("it scrapes %+v", targets)
	}
	wait("what the rules write is there", func() bool {
		response, err := http.Get(prom.URL + "/api/v1/query?query=own:builds")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return strings.Contains(string(text), `"__name__":"own:builds"`)
	})
	t.Run("metrics", func(t *testing.T) {
		families, err := a.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "flyball_remote_") {
				names = append(names, f.GetName()+" "+strings.ToLower(f.GetType().String()))
			}
		}
		golden(t, "metrics_remote.golden", names)
	})

	client := a.live.Load().remote
	if err := a.reload(ctx); err != nil || a.live.Load().remote != client {
		t.Errorf("a reload without a change: %v, the same client: %v", err, a.live.Load().remote == client)
	}
	configure("http://127.0.0.1:1/api/v1")
	if err := a.reload(ctx); err == nil || a.live.Load().remote != client {
		t.Errorf("a reload with a fault: %v", err)
	}
	configure("embedded")
	if err := a.reload(ctx); err != nil {
		t.Fatal(err)
	}
	wait("it scrapes itself", func() bool { return len(a.store.Targets()) == 1 })
	prom.Stop()
	evaluated := time.Now()
	wait("the rules read that", func() bool { return healthy() && a.store.Groups()[0].LastEvaluation.After(evaluated) })
	configure(prom.URL)
	if err := a.reload(ctx); err != nil {
		t.Fatal(err)
	}
	wait("it scrapes nothing", func() bool { return len(a.store.Targets()) == 0 })
	wait("the rule fails without the Prometheus", func() bool {
		r := a.store.Groups()[0].Rules[0]
		return r.Health == "err" && strings.Contains(r.LastError, "connection refused")
	})
	prom.Restart()
	wait("it reads there again", healthy)
}

// freeAddress is one that nobody listens on, for a server whose address another one must know before.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := listen("127.0.0.1:0", "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestPrometheusExample: the files of examples/prometheus are what they say, in the eyes of flyball and of Prometheus.
func TestPrometheusExample(t *testing.T) {
	const dir = "../../examples/prometheus/"
	out, err := exec.Command(built.path("flyball"), "check", "config", dir+"flyball.yml").CombinedOutput()
	want := dir + "flyball.yml: ok: 1 rule file, 1 group, 1 record, 1 alert, 1 scale, 1 model, 1 target, " +
		"queries to http://127.0.0.1:9090, samples to http://127.0.0.1:9090/api/v1/write\n"
	if diff := cmp.Diff(want, string(out)); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	text, err := os.ReadFile(dir + "prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	_, dropped, _ := strings.Cut(string(text), "regex: ")
	dropped, _, _ = strings.Cut(dropped, "\n")
	drops := regexp.MustCompile("^(?:" + dropped + ")$")
	for _, name := range append(rules.OutputMetrics(), "flyball_scale_decisions_total") {
		if sent := slices.Contains(rules.OutputMetrics(), name); drops.MatchString(name) != sent {
			t.Errorf("%s comes by remote_write: %v; prometheus.yml drops it: %v", name, sent, !sent)
		}
	}
	readme, err := os.ReadFile(dir + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range yamlBlocks(string(readme)) {
		if !strings.HasPrefix(block, "prometheus:") {
			continue
		}
		file := filepath.Join(t.TempDir(), "flyball.yml")
		block = strings.ReplaceAll(block, "ca_file: ca.pem", "server_name: mimir") // there is no such file here
		if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(file); err != nil {
			t.Errorf("README.md: %v", err)
		}
	}
	promtool := peertest.Binary(t, "promtool")
	if out, err := exec.Command(promtool, "check", "config", dir+"prometheus.yml").CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	if out, err := exec.Command(promtool, "check", "config", "--syntax-only", dir+"prometheus.yml").CombinedOutput(); err != nil || !strings.Contains(string(out), "SUCCESS") {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// yamlBlocks are the blocks of YAML in a page of Markdown.
func yamlBlocks(page string) (blocks []string) {
	parts := strings.Split(page, "```")
	for i, part := range parts {
		if i%2 == 1 && strings.HasPrefix(part, "yaml\n") {
			blocks = append(blocks, strings.TrimPrefix(part, "yaml\n"))
		}
	}
	return slices.Clip(blocks)
}
