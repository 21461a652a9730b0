package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
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

	t.Run("API", func(t *testing.T) { remoteAPI(t, "http://"+web, prom.URL) })
	t.Run("page", func(t *testing.T) {
		if got := a.page().Status(t.Context()).Scraper; got != prom.URL {
			t.Errorf("%s scrapes, want %s", got, prom.URL)
		}
		samples, err := a.page().Queries.Query(t.Context(), "count(flyball_build_info)", time.Now())
		if err != nil || len(samples) != 1 || samples[0].Value != 1 {
			t.Errorf("%v, %v", samples, err)
		}
		series, err := a.page().Queries.QueryRange(t.Context(), "flyball_build_info", time.Now().Add(-time.Second), time.Now(), time.Second)
		if err != nil || len(series) != 1 || len(series[0].Points) == 0 {
			t.Errorf("%v, %v", series, err)
		}
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

// remoteAPI asks a flyball beside a Prometheus as Grafana and promtool do: for what is there, what is here, and both.
func remoteAPI(t *testing.T, flyball, prometheus string) {
	values := func(params ...string) url.Values {
		v := url.Values{}
		for i := 0; i+1 < len(params); i += 2 {
			v.Add(params[i], params[i+1])
		}
		return v
	}
	at := fmt.Sprint(time.Now().Unix() + 1)
	for _, tt := range []struct {
		method, path string
		params       url.Values
		code         int
		want         []string
	}{
		{"GET", "query", values("query", "count(flyball_build_info)"), 200, []string{"resultType:vector", "value:["}},
		{"POST", "query", values("query", "own:builds"), 200, []string{"__name__:own:builds"}},
		{"GET", "query_range", values("query", "flyball_build_info", "start", at, "end", at, "step", "1"), 200, []string{"resultType:matrix", "instance:"}},
		{"GET", "query", values("query", "own:builds + up"), 422, []string{"errorType:execution", "the query mixes series of the Prometheus elsewhere (up) with those that the rules write (own:builds)"}},
		{"GET", "query", values("query", "rate(up)"), 400, []string{"errorType:bad_data", "expected type range vector in call to function"}},
		{"GET", "query", values("query", "own:builds * on () group_left () (up or flyball_build_info)", "time", "x"), 400, []string{"invalid time value"}},
		{"GET", "label/__name__/values", nil, 200, []string{"ALERTS", "flyball_build_info", "own:builds", " up"}},
		{"GET", "label/__name__/values", values("match[]", "up"), 200, []string{"[up]"}},
		{"GET", "label/alertname/values", values("match[]", "ALERTS"), 200, []string{"[Builds]"}},
		{"POST", "series", values("match[]", "own:builds", "match[]", "up"), 200, []string{"__name__:own:builds", "__name__:up"}},
		{"GET", "metadata", values("metric", "flyball_build_info"), 200, []string{"type:gauge"}},
		{"GET", "rules", nil, 200, []string{"own:builds", "Builds"}},
		{"GET", "alerts", nil, 200, []string{"Builds"}},
		{"GET", "targets", nil, 200, []string{"activeTargets:[]"}},
	} {
		code, answer := ask(t, tt.method, flyball, tt.path, tt.params)
		for _, want := range tt.want {
			if text := fmt.Sprint(answer); code != tt.code || !strings.Contains(text, want) {
				t.Errorf("%s %s?%s: %d, want %d and %q in %s", tt.method, tt.path, tt.params.Encode(), code, tt.code, want, text)
			}
		}
	}
	_, here := ask(t, "GET", flyball, "labels", nil)
	_, there := ask(t, "GET", prometheus, "labels", nil)
	for _, name := range there["data"].([]any) {
		if !slices.Contains(here["data"].([]any), name) {
			t.Errorf("labels has not %s, which the Prometheus has", name)
		}
	}
	promtool := peertest.Binary(t, "promtool")
	for expr, want := range map[string]string{"up": "up{", "own:builds": "own:builds", "own:builds > on () up": "the query mixes series"} {
		out, err := exec.CommandContext(t.Context(), promtool, "query", "instant", flyball, expr).CombinedOutput()
		if !strings.Contains(string(out), want) || (err != nil) != strings.Contains(want, "mixes") {
			t.Errorf("promtool query instant %s: %v\n%s", expr, err, out)
		}
	}
}

// TestRemoteCircle: a flyball whose prometheus.url is itself says so, and does not ask itself for ever.
func TestRemoteCircle(t *testing.T) {
	dir, web := t.TempDir(), freeAddress(t)
	file := filepath.Join(dir, "flyball.yml")
	text := "storage: {path: '" + filepath.Join(dir, "state") + "'}\nprometheus: {url: 'http://" + web + "'}\nexporter: {collectors: {gpu: false}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := &runOptions{configFile: file, roles: []string{roleRules}, webListen: []string{web}, log: slog.New(slog.DiscardHandler), stdout: io.Discard}
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
	for end := time.Now().Add(30 * time.Second); a.phase.Load() != ready; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not ready")
		}
	}
	code, answer := ask(t, http.MethodGet, a.pageURL()[:len(a.pageURL())-1], "query", url.Values{"query": {"up"}})
	if code != http.StatusUnprocessableEntity || !strings.Contains(fmt.Sprint(answer), "which might go in a circle: give that flyball the URL of the Prometheus itself") {
		t.Errorf("%d %v", code, answer)
	}
	if asked := total(t, a.metrics, "flyball_remote_requests_total"); asked != 1 {
		t.Errorf("it asked %g times", asked)
	}
	if _, err := a.live.Load().remote.Query(ctx, "up", time.Now(), 0); err == nil || !strings.Contains(err.Error(), "which might go in a circle") {
		t.Errorf("a rule gets %v", err)
	}
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
