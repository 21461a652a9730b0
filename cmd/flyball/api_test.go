package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	promclient "github.com/prometheus/client_golang/api"
	apiv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"flyball/cmd/flyball/web"
	"flyball/rules"
	"flyball/rules/peertest"
	"flyball/rules/store"
)

// apiExternalURL is where users are said to reach the servers.
const apiExternalURL = "http://monitoring.example:9090/"

// apiRules are in the store of apiServer, and in the Prometheus beside it as a file.
const apiRules = `groups:
- name: first
  interval: 100ms
  rules:
  - record: queue:sum
    expr: sum by (job) (queue_depth)
    labels: {team: serving}
  - alert: QueueDeep
    expr: queue_depth > 10
    labels: {severity: warning}
    annotations: {summary: 'queue of {{ $labels.model }} <deep>'}
- name: second
  interval: 100ms
  rules:
  - alert: Never
    expr: vector(0) > 1
    for: 5m
    labels: {severity: critical}
  - alert: Later
    expr: vector(1)
    for: 1h
  - record: broken
    expr: queue_depth + on () requests_total
`

// apiGroups are apiRules as the store takes them, and a rule of ours among them.
func apiGroups(file string) []store.Group {
	record := func(name, expr string, ls map[string]string) store.Rule {
		return store.Rule{Record: &store.Record{Name: name, Expr: expr, Labels: ls}}
	}
	return []store.Group{
		{Name: "first", File: file, Interval: 100 * time.Millisecond, Rules: []store.Rule{
			record("queue:sum", "sum by (job) (queue_depth)", map[string]string{"team": "serving"}),
			{Evaluator: scale{}},
			{Alert: &store.Alert{
				Name: "QueueDeep", Expr: "queue_depth > 10", Labels: map[string]string{"severity": "warning"},
				Annotations: map[string]string{"summary": "queue of {{ $labels.model }} <deep>"},
			}},
		}},
		{Name: "ours alone", File: file, Interval: 100 * time.Millisecond, Rules: []store.Rule{{Evaluator: scale{}}}},
		{Name: "second", File: file, Interval: 100 * time.Millisecond, Rules: []store.Rule{
			{Alert: &store.Alert{Name: "Never", Expr: "vector(0) > 1", For: 5 * time.Minute, Labels: map[string]string{"severity": "critical"}}},
			{Alert: &store.Alert{Name: "Later", Expr: "vector(1)", For: time.Hour}},
			record("broken", "queue_depth + on () requests_total", nil),
		}},
	}
}

// scale stands for a rule that decides, of which Prometheus's API knows nothing. It writes nothing.
type scale struct{}

func (scale) Name() string { return "scale" }

func (scale) Eval(context.Context, time.Time) ([]rules.Sample, error) { return nil, nil }

// apiPage is a page of metrics with samples of their own times, each 15 s from start on, so that whoever scrapes it, and
// when, has the same.
func apiPage(start time.Time) string {
	var b strings.Builder
	family := func(name, kind, help string, value func(i int) map[string]string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for i := range 20 {
			at := start.Add(time.Duration(i) * 15 * time.Second).UnixMilli()
			for _, series := range slices.Sorted(maps.Keys(value(i))) {
				fmt.Fprintf(&b, "%s %s %d\n", series, value(i)[series], at)
			}
		}
	}
	family("requests_total", "counter", "Requests by code and path.", func(i int) map[string]string {
		return map[string]string{
			`requests_total{code="200",path="/a"}`: fmt.Sprint(100 * i), `requests_total{code="200",path="/b"}`: fmt.Sprint(37 * i),
			`requests_total{code="500",path="/a"}`: fmt.Sprint(i / 4), `requests_total{code="500",path="/b"}`: "0",
		}
	})
	family("queue_depth", "gauge", "Requests that wait.", func(i int) map[string]string {
		return map[string]string{`queue_depth{model="llama"}`: fmt.Sprint(20 + i), `queue_depth{model="qwen"}`: fmt.Sprint(i % 3)}
	})
	family("odd_values", "gauge", `Numbers that JSON has not: NaN, Inf; and a \\ and a line\nbreak.`, func(int) map[string]string {
		return map[string]string{
			`odd_values{is="nan"}`: "NaN", `odd_values{is="inf"}`: "+Inf", `odd_values{is="minus inf"}`: "-Inf", `odd_values{is="tiny"}`: "1.5e-9",
			`odd_values{is="huge"}`: "1e+30", `odd_values{is="zero"}`: "-0", `odd_values{is="third"}`: "0.3333333333333333",
			`odd_values{is="big"}`: "9007199254740993", `odd_values{is="e20"}`: "1e+20",
		}
	})
	family("latency_seconds", "histogram", "How long answers took.", func(i int) map[string]string {
		return map[string]string{
			`latency_seconds_bucket{le="0.1"}`: fmt.Sprint(5 * i), `latency_seconds_bucket{le="0.5"}`: fmt.Sprint(8 * i),
			`latency_seconds_bucket{le="+Inf"}`: fmt.Sprint(10 * i), `latency_seconds_count`: fmt.Sprint(10 * i), `latency_seconds_sum`: fmt.Sprint(float64(i) * 2.5),
		}
	})
	family("odd_labels", "untyped", "Label values that need care.", func(int) map[string]string {
		return map[string]string{`odd_labels{text="quote \" backslash \\ line\nbreak ü 日本 <&>"}`: "1", `odd_labels{text="other"}`: "2"}
	})
	return b.String()
}

// apiServer is the API over a store that scrapes one page and evaluates apiGroups.
type apiServer struct {
	url    string    // of the API's server
	start  time.Time // of the samples of the page; the last is 285 s later
	target string    // host:port of the page
	rules  string    // the file that the rules are said to be from
	store  *store.Store
}

func (s *apiServer) end() time.Time { return s.start.Add(285 * time.Second) }

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{start: time.Now().Add(-5 * time.Minute).Truncate(time.Minute)}
	text := apiPage(s.start)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(page.Close)
	s.target = strings.TrimPrefix(page.URL, "http://")
	dir := t.TempDir()
	s.rules = filepath.Join(dir, "rules.yml")
	if err := os.WriteFile(s.rules, []byte(apiRules), 0o600); err != nil {
		t.Fatal(err)
	}
	o := store.DefaultOptions()
	o.Dir, o.ScrapeInterval, o.ExternalURL = filepath.Join(dir, "data"), time.Second, apiExternalURL
	var err error
	if s.store, err = store.Open(o); err != nil {
		t.Fatal(err)
	}
	configs, err := store.ParseScrapeConfigs([]byte(s.scrapeConfigs()), store.ScrapeGlobal{Interval: time.Second})
	if err == nil {
		err = s.store.ApplyScrape(store.Scrape{Configs: configs})
	}
	if err == nil {
		err = s.store.SetGroups(apiGroups(s.rules))
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.store.Run(ctx) }()
	mux := http.NewServeMux()
	web.Page{}.Register(mux)
	web.Prometheus{Store: func(*http.Request) web.PrometheusStore { return s.store.Router() }, Build: buildInfo()}.Register(mux)
	server := httptest.NewServer(mux)
	s.url = server.URL
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	evaluated(t, s.url)
	return s
}

func (s *apiServer) scrapeConfigs() string {
	return fmt.Sprintf(`- job_name: page
  static_configs: [{targets: [%q], labels: {zone: a}}]
- job_name: none
  static_configs: [{targets: [%q]}]
  relabel_configs: [{source_labels: [__address__], regex: .*, action: drop}]
`, s.target, s.target)
}

// evaluated waits until a server has scraped the page and each rule has its state.
func evaluated(t *testing.T, base string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, found := ask(t, http.MethodGet, base, "query", url.Values{"query": {`count(ALERTS) == 2 and on () count(queue:sum) == 1 and on () up == 1`}})
		_, rules := ask(t, http.MethodGet, base, "rules", nil)
		if strings.Contains(fmt.Sprint(found["data"]), "value:") && strings.Contains(fmt.Sprint(rules), "many-to-many matching not allowed") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s has not come so far: %v, %v", base, found, rules)
		}
	}
}

// ask sends one request and decodes the answer, which must be JSON; an answer without content is nil.
func ask(t *testing.T, method, base, path string, params url.Values) (int, map[string]any) {
	t.Helper()
	target, body := base+"/api/v1/"+path, io.Reader(nil)
	if method == http.MethodPost {
		body = strings.NewReader(params.Encode())
	} else if len(params) > 0 {
		target += "?" + params.Encode()
	}
	r, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) == 0 {
		return response.StatusCode, nil
	}
	var decoded map[string]any
	if err := json.Unmarshal(text, &decoded); err != nil {
		return response.StatusCode, map[string]any{"not JSON": string(text)}
	}
	return response.StatusCode, decoded
}

// TestAPIClient drives the API by Prometheus's own client library: each of its methods that flyball serves.
func TestAPIClient(t *testing.T) {
	s := newAPIServer(t)
	client, err := promclient.NewClient(promclient.Config{Address: s.url})
	if err != nil {
		t.Fatal(err)
	}
	api, ctx := apiv1.NewAPI(client), t.Context()

	value, warnings, infos, err := api.Query(ctx, `queue_depth`, s.end(), apiv1.WithTimeout(5*time.Second), apiv1.WithLookbackDelta(time.Minute))
	if err != nil || len(warnings) > 0 || len(infos) > 0 {
		t.Fatal(err, warnings, infos)
	}
	ms := model.TimeFromUnixNano(s.end().UnixNano())
	metric := func(pairs ...string) model.Metric {
		m := model.Metric{"job": "page", "instance": model.LabelValue(s.target), "zone": "a"}
		for i := 0; i < len(pairs); i += 2 {
			m[model.LabelName(pairs[i])] = model.LabelValue(pairs[i+1])
		}
		return m
	}
	want := model.Vector{
		{Metric: metric("__name__", "queue_depth", "model", "llama"), Value: 39, Timestamp: ms},
		{Metric: metric("__name__", "queue_depth", "model", "qwen"), Value: 1, Timestamp: ms},
	}
	if diff := cmp.Diff(model.Value(want), value); diff != "" {
		t.Error("query:", diff)
	}
	value, warnings, _, err = api.Query(ctx, `queue_depth`, s.end(), apiv1.WithLimit(1))
	if err != nil || len(value.(model.Vector)) != 1 || len(warnings) != 1 || warnings[0] != "results truncated due to limit" {
		t.Error("query with a limit:", value, warnings, err)
	}
	value, _, _, err = api.QueryRange(ctx, `queue_depth{model="llama"}`, apiv1.Range{Start: s.start, End: s.end(), Step: 15 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	matrix, ok := value.(model.Matrix)
	if !ok || len(matrix) != 1 || len(matrix[0].Values) != 20 || matrix[0].Values[3].Value != 23 || !matrix[0].Values[3].Timestamp.Time().Equal(s.start.Add(45*time.Second)) {
		t.Error("range:", value)
	}
	_, _, infos, err = api.Query(ctx, `rate(queue_depth[1m])`, s.end())
	if err != nil || len(infos) != 1 || !strings.Contains(infos[0], "might not be a counter") {
		t.Error("infos:", infos, err)
	}
	for _, bad := range []struct {
		expr string
		kind apiv1.ErrorType
	}{
		{"sum(", apiv1.ErrBadData},
		{"queue_depth + on () group_left () requests_total * on () requests_total", apiv1.ErrExec},
	} {
		_, _, _, err := api.Query(ctx, bad.expr, s.end())
		if e, ok := errors.AsType[*apiv1.Error](err); !ok || e.Type != bad.kind {
			t.Errorf("%s: %T %v, want %s", bad.expr, err, err, bad.kind)
		}
	}
	names, _, _, err := api.LabelNames(ctx, []string{"queue_depth"}, time.Time{}, time.Time{})
	if diff := cmp.Diff(model.LabelNames{"__name__", "instance", "job", "model", "zone"}, names); diff != "" || err != nil {
		t.Error("label names:", diff, err)
	}
	names, warnings, _, err = api.LabelNames(ctx, nil, s.start, time.Now(), apiv1.WithLimit(2))
	if err != nil || len(names) != 2 || len(warnings) != 1 {
		t.Error("label names with a limit:", names, warnings, err)
	}
	values, _, _, err := api.LabelValues(ctx, "text", nil, s.start, time.Now())
	if diff := cmp.Diff(model.LabelValues{"other", "quote \" backslash \\ line\nbreak ü 日本 <&>"}, values); diff != "" || err != nil {
		t.Error("label values:", diff, err)
	}
	found, _, _, err := api.Series(ctx, []string{"queue_depth", `{model="qwen"}`}, s.start, time.Now())
	wantSeries := []model.LabelSet{model.LabelSet(want[0].Metric), model.LabelSet(want[1].Metric)}
	if diff := cmp.Diff(wantSeries, found); diff != "" || err != nil {
		t.Error("series:", diff, err)
	}
	metadata, err := api.Metadata(ctx, "latency_seconds", "")
	if diff := cmp.Diff(map[string][]apiv1.Metadata{"latency_seconds": {{Type: "histogram", Help: "How long answers took."}}}, metadata); diff != "" || err != nil {
		t.Error("metadata:", diff, err)
	}
	all, err := api.Rules(ctx, nil) // refuses an answer with a type of rule that it does not know
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, g := range all.Groups {
		for _, r := range g.Rules {
			switch r := r.(type) {
			case apiv1.AlertingRule:
				listed = append(listed, fmt.Sprint(g.Name, " alert ", r.Name, " ", r.State, " ", len(r.Alerts), " ", r.Health))
			case apiv1.RecordingRule:
				listed = append(listed, fmt.Sprint(g.Name, " record ", r.Name, " ", r.Health))
			}
		}
	}
	if diff := cmp.Diff([]string{"first record queue:sum ok", "first alert QueueDeep firing 1 ok", "second alert Never inactive 0 ok", "second alert Later pending 1 ok", "second record broken err"}, listed); diff != "" {
		t.Error("rules:", diff)
	}
	alerts, err := api.Alerts(ctx)
	if err != nil || len(alerts.Alerts) != 2 || alerts.Alerts[0].Annotations["summary"] != "queue of llama <deep>" || alerts.Alerts[0].Value != "3.9e+01" {
		t.Error("alerts:", alerts, err)
	}
	targets, err := api.Targets(ctx)
	if err != nil || len(targets.Active) != 1 || len(targets.Dropped) != 1 || targets.Active[0].Health != apiv1.HealthGood ||
		targets.Active[0].ScrapeURL != "http://"+s.target+"/metrics" || targets.Active[0].ScrapePool != "page" {
		t.Error("targets:", targets, err)
	}
	build, err := api.Buildinfo(ctx)
	if err != nil || build.Version != store.PrometheusVersion() {
		t.Error("build info:", build, err)
	}
	exemplars, err := api.QueryExemplars(ctx, "latency_seconds_bucket", s.start, s.end())
	if err != nil || len(exemplars) != 0 {
		t.Error("exemplars:", exemplars, err)
	}
	// This method of the client returns the JSON as it came.
	formatted, err := api.FormatQuery(ctx, "sum(up)by(job)")
	if err != nil || formatted != `"sum by (job) (up)"` {
		t.Error("format:", formatted, err)
	}
}

// TestAPIPromtool drives the API by promtool: each of its commands that asks a server.
func TestAPIPromtool(t *testing.T) {
	promtool := peertest.Binary(t, "promtool")
	s := newAPIServer(t)
	at := func(t time.Time) string { return fmt.Sprint(t.Unix()) }
	for _, tt := range []struct {
		args []string
		want []string
		code int
	}{
		{[]string{"query", "instant", "--time=" + at(s.end()), s.url, `queue_depth{model="llama"}`}, []string{`queue_depth{instance="` + s.target + `", job="page", model="llama", zone="a"} => 39 @[` + at(s.end())}, 0},
		{[]string{"query", "-o", "json", "instant", s.url, "1+1"}, []string{`"2"`}, 0},
		{[]string{"query", "instant", s.url, "sum("}, []string{"bad_data", "unclosed left parenthesis"}, 1},
		{[]string{"query", "range", "--start=" + at(s.start), "--end=" + at(s.start.Add(30*time.Second)), "--step=15s", s.url, `queue_depth{model="llama"}`}, []string{"20 @", "21 @", "22 @"}, 0},
		{[]string{"query", "series", "--match=queue_depth", s.url}, []string{`model="llama"`, `model="qwen"`}, 0},
		{[]string{"query", "labels", s.url, "model"}, []string{"llama\nqwen"}, 0},
		{[]string{"query", "labels", "--match=requests_total", s.url, "code"}, []string{"200\n500"}, 0},
		{[]string{"query", "analyze", "--server=" + s.url, "--type=histogram", "--match=latency_seconds_bucket", "--duration=10m"}, []string{"latency_seconds"}, 0},
	} {
		out, err := exec.CommandContext(t.Context(), promtool, tt.args...).CombinedOutput()
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(string(out), want) || code != tt.code {
				t.Errorf("promtool %s: exit %d, want %d and %q in\n%s", strings.Join(tt.args, " "), code, tt.code, want, out)
			}
		}
	}
}

// TestAPIRoles: the program itself serves the API where it has a store, and says why where it has none.
func TestAPIRoles(t *testing.T) {
	for _, tt := range []struct {
		role, path string
		code       int
		want       string
	}{
		{roleRules, "query?query=1%2B1", 200, `"resultType":"scalar"`},
		{roleExporter, "query?query=1%2B1", 404, `{"status":"error","errorType":"not_found","error":"this process has no store: it runs without the role rules"}`},
		{roleExporter, "status/buildinfo", 200, `"version":"` + store.PrometheusVersion() + `"`},
		{roleExporter, "nothing", 404, `{"status":"error","errorType":"not_found","error":"no /api/v1/nothing in the API of this version"}`},
	} {
		l := &loaded{Config: DefaultConfig()}
		l.Storage.Path = t.TempDir()
		l.Exporter.Collectors.GPU = false
		a, err := newApp(l, &runOptions{roles: []string{tt.role}, webListen: []string{"127.0.0.1:0"}, log: slog.New(slog.DiscardHandler), stdout: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.run(ctx) }()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if status(a.pageURL()+"-/ready") == http.StatusOK {
				break
			}
			if time.Now().After(end) {
				t.Fatal("not ready")
			}
		}
		response, err := http.Get(a.pageURL() + "api/v1/" + tt.path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != tt.code || !strings.Contains(string(text), tt.want) {
			t.Errorf("%s: %s: %d %s, want %d %s", tt.role, tt.path, response.StatusCode, text, tt.code, tt.want)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		a.close()
	}
}
