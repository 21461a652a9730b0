package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"flyball/rules/promapi"
)

// answered writes a result and closes it: the data, and the warnings after it.
func answered(tb testing.TB, r *promapi.Result, err error) string {
	tb.Helper()
	if err != nil {
		return string(promapi.TypeOf(err)) + ": " + err.Error()
	}
	defer r.Close()
	if r.Data == nil {
		return "nothing"
	}
	text := encode(r.Data)
	for _, w := range append(r.Warnings, r.Infos...) {
		text += " " + w
	}
	return text
}

func encode(d promapi.Data) string {
	var b bytes.Buffer
	w := bufio.NewWriterSize(&b, 16)
	d.WriteJSON(w)
	_ = w.Flush()
	return b.String()
}

func TestAPIQueries(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 3 {
		put(t, s, `queue{model="a"}`, t0.Add(time.Duration(i)*15*time.Second), float64(i))
	}
	put(t, s, `queue{model="b"}`, t0, math.NaN())
	at := t0.Add(30 * time.Second)
	instant := func(q promapi.Query) string {
		q.Time = at
		r, err := s.QueryInstant(t.Context(), q)
		return answered(t, r, err)
	}
	steps := func(q promapi.Range) string {
		q.Start, q.End = t0, at
		r, err := s.QuerySteps(t.Context(), q)
		return answered(t, r, err)
	}
	for _, tt := range []struct{ got, want string }{
		{instant(promapi.Query{Expr: `queue{model="a"}`}), `{"resultType":"vector","result":[{"metric":{"__name__":"queue","model":"a"},"value":[1767600030,"2"]}]}`},
		{instant(promapi.Query{Expr: `queue{model="b"}`}), `{"resultType":"vector","result":[{"metric":{"__name__":"queue","model":"b"},"value":[1767600030,"NaN"]}]}`},
		{instant(promapi.Query{Expr: `queue{model="b"}`, Lookback: 10 * time.Second}), `{"resultType":"vector","result":[]}`},
		{instant(promapi.Query{Expr: `queue`, Limit: 2}), `both`},
		{instant(promapi.Query{Expr: `vector(1) or label_replace(vector(2), "a", "b", "", "")`, Limit: 1}), `{"resultType":"vector","result":[{"metric":{},"value":[1767600030,"1"]}]} results truncated due to limit`},
		{instant(promapi.Query{Expr: `queue{model="a"}[20s]`}), `{"resultType":"matrix","result":[{"metric":{"__name__":"queue","model":"a"},"values":[[1767600015,"1"],[1767600030,"2"]]}]}`},
		{instant(promapi.Query{Expr: `1.5`}), `{"resultType":"scalar","result":[1767600030,"1.5"]}`},
		{instant(promapi.Query{Expr: `"a\n"`}), `{"resultType":"string","result":[1767600030,"a\n"]}`},
		{instant(promapi.Query{Expr: `rate(queue{model="a"}[1m])`}), `{"resultType":"vector","result":[{"metric":{"model":"a"},"value":[1767600030,"0.03333333333333333"]}]} PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "queue" (1:6)`},
		{instant(promapi.Query{Expr: `queue{`}), `bad_data: invalid parameter "query": 1:7: parse error: unexpected end of input inside braces`},
		{instant(promapi.Query{Expr: `queue + on () queue`}), `execution: found duplicate series for the match group {} on the right hand-side of the operation: [...];many-to-many matching not allowed: matching labels must be unique on one side`},
		{steps(promapi.Range{Expr: `queue{model="a"}`, Step: 15 * time.Second}), `{"resultType":"matrix","result":[{"metric":{"__name__":"queue","model":"a"},"values":[[1767600000,"0"],[1767600015,"1"],[1767600030,"2"]]}]}`},
		{steps(promapi.Range{Expr: `queue`, Step: 30 * time.Second, Limit: 1}), `{"resultType":"matrix","result":[{"metric":{"__name__":"queue","model":"a"},"values":[[1767600000,"0"],[1767600030,"2"]]}]} results truncated due to limit`},
		{steps(promapi.Range{Expr: `"a"`, Step: time.Second}), `bad_data: invalid parameter "query": invalid expression type "string" for range query, must be Scalar or instant Vector`},
		{steps(promapi.Range{Expr: `queue`, Step: time.Millisecond}), `bad_data: exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)`},
	} {
		got := regexp.MustCompile(`\[\{__name__.*\}\]`).ReplaceAllString(tt.got, "[...]")
		if tt.want == "both" {
			if strings.Count(got, "metric") != 2 || strings.Contains(got, "truncated") {
				t.Errorf("with a limit that is not reached: %s", got)
			}
			continue
		}
		if got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	if got := instant(promapi.Query{Expr: `queue{model="a"}`, Stats: true}); !strings.Contains(got, `"2"]}],"stats":{"timings":{`) || !json.Valid([]byte(got)) {
		t.Errorf("with stats: %s", got)
	}
}

func TestAPISeries(t *testing.T) {
	s := open(t, t.TempDir())
	for _, series := range []string{`up{job="a"}`, `up{job="b"}`, `queue{model="llama"}`} {
		put(t, s, series, t0, 1)
	}
	put(t, s, `later{job="c"}`, t0.Add(time.Hour), 1)
	names := func(sel promapi.Selection) string {
		r, err := s.LabelNames(t.Context(), sel)
		return answered(t, r, err)
	}
	values := func(name string, sel promapi.Selection) string {
		r, err := s.LabelValues(t.Context(), name, sel)
		return answered(t, r, err)
	}
	series := func(sel promapi.Selection) string {
		r, err := s.ListSeries(t.Context(), sel)
		return answered(t, r, err)
	}
	all := func(limit int, match ...string) promapi.Selection {
		return promapi.Selection{Match: match, Start: promapi.MinTime, End: promapi.MaxTime, Limit: limit}
	}
	for _, tt := range []struct{ got, want string }{
		{names(all(0)), `["__name__","job","model"]`},
		{names(all(3)), `["__name__","job","model"]`},
		{names(all(2)), `["__name__","job"] results truncated due to limit`},
		{names(all(0, `queue`, `up`)), `["__name__","job","model"]`},
		{names(all(1, `queue`, `up`)), `["__name__"] results truncated due to limit`},
		{names(all(0, `nothing`)), `[]`},
		{names(all(0, `{}`)), `bad_data: match[] must contain at least one non-empty matcher`},
		{names(all(0, `up`, `{job=~".*"}`)), `bad_data: match[] must contain at least one non-empty matcher`},
		{values("job", all(0)), `["a","b","c"]`},
		{values("job", all(2)), `["a","b"] results truncated due to limit`},
		{values("job", all(0, `up`)), `["a","b"]`},
		{values("job", all(0, `up{job="b"}`, `up`)), `["a","b"]`},
		{values("none", all(0)), `[]`},
		{series(all(0, `up{job="a"}`)), `[{"__name__":"up","job":"a"}]`},
		{series(all(0, `up`, `queue`, `up{job="b"}`)), `[{"__name__":"queue","model":"llama"},{"__name__":"up","job":"a"},{"__name__":"up","job":"b"}]`},
		{series(all(1, `up`, `queue`)), `[{"__name__":"queue","model":"llama"}] results truncated due to limit`},
		{series(all(3, `up`, `queue`)), `[{"__name__":"queue","model":"llama"},{"__name__":"up","job":"a"},{"__name__":"up","job":"b"}]`},
		{series(all(0, `nothing`)), `[]`},
		{series(all(0)), `bad_data: no match[] parameter provided`},
		{series(all(0, `sum(up)`)), `bad_data: invalid parameter "match[]": 1:4: parse error: unexpected "("`},
		{series(promapi.Selection{Match: []string{"later"}, Start: t0, End: t0.Add(time.Minute)}), `[]`},
		{series(promapi.Selection{Match: []string{"later"}, Start: t0, End: t0.Add(2 * time.Hour)}), `[{"__name__":"later","job":"c"}]`},
	} {
		if tt.got != tt.want {
			t.Errorf("got  %s\nwant %s", tt.got, tt.want)
		}
	}
	format := func(r *promapi.Result, err error) string { return answered(t, r, err) }
	for got, want := range map[string]string{
		format(s.FormatExpr("sum(up)by(job)")): `"sum by (job) (up)"`,
		format(s.FormatExpr("sum(")):           `bad_data: invalid parameter "query": 1:5: parse error: unclosed left parenthesis`,
		format(s.Exemplars("up")):              `[]`,
		format(s.Exemplars("1")):               `nothing`,
		format(s.Exemplars("up{")):             `bad_data: 1:4: parse error: unexpected end of input inside braces`,
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestAPIPlaces: an answer holds its place until it is closed; those that wait for one do so no longer than they may, and
// the rules do not wait.
func TestAPIPlaces(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.APIConcurrency = 1 })
	put(t, s, "m", t0, 1)
	first, err := s.QueryInstant(t.Context(), promapi.Query{Expr: "m", Time: t0})
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	r, err := s.QueryInstant(short, promapi.Query{Expr: "m", Time: t0})
	if got := answered(t, r, err); got != "timeout: query timed out in query queue" {
		t.Errorf("with every place taken: %s", got)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	r, err = s.LabelNames(gone, promapi.Selection{Start: promapi.MinTime, End: promapi.MaxTime})
	if got := answered(t, r, err); got != "canceled: query was canceled in query queue" {
		t.Errorf("after the client has left: %s", got)
	}
	if got := ask(t, s, "m", t0); got != `{__name__="m"} 1` {
		t.Errorf("a rule's query: %s", got)
	}
	waiting := make(chan string)
	go func() {
		r, err := s.ListSeries(t.Context(), promapi.Selection{Match: []string{"m"}, Start: promapi.MinTime, End: promapi.MaxTime})
		waiting <- answered(t, r, err)
	}()
	first.Close()
	if got := <-waiting; got != `[{"__name__":"m"}]` {
		t.Errorf("after the first was closed: %s", got)
	}
	first.Close() // a second time does nothing
	// Faults give their places back.
	for range 3 {
		for _, expr := range []string{"m{", "m + on () (m or vector(1)) + on () group_left () (m or vector(1))"} {
			if r, err := s.QueryInstant(t.Context(), promapi.Query{Expr: expr, Time: t0}); err == nil {
				r.Close()
			}
		}
		if r, err := s.ListSeries(t.Context(), promapi.Selection{Match: []string{"{"}}); err == nil {
			r.Close()
		}
	}
	r, err = s.QueryInstant(t.Context(), promapi.Query{Expr: "1", Time: t0})
	if got := answered(t, r, err); got != `{"resultType":"scalar","result":[1767600000,"1"]}` {
		t.Error(got)
	}
}

// TestAPIEnds: limits, in the words and with the types of Prometheus's API.
func TestAPIEnds(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.MaxSamples = 100 })
	r, err := s.QueryInstant(t.Context(), promapi.Query{Expr: "vector(1)[1h:1s]", Time: t0})
	if got := answered(t, r, err); got != "execution: query processing would load too many samples into memory in query execution" {
		t.Errorf("too many samples: %s", got)
	}
	const slow = `sum_over_time((m)[2h:10ms])` // 720,000 steps, some 10 MB
	s = open(t, t.TempDir(), func(o *Options) { o.QueryTimeout = time.Millisecond })
	put(t, s, "m", t0, 1)
	r, err = s.QueryInstant(t.Context(), promapi.Query{Expr: slow, Time: t0})
	if got := answered(t, r, err); !strings.HasPrefix(got, "timeout: query timed out in ") {
		t.Errorf("longer than a query may take: %s", got)
	}
	s = open(t, t.TempDir())
	put(t, s, "m", t0, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	r, err = s.QuerySteps(ctx, promapi.Range{Expr: slow, Start: t0, End: t0, Step: time.Second})
	if got := answered(t, r, err); !strings.HasPrefix(got, "timeout: query timed out in ") {
		t.Errorf("longer than the client wants: %s", got)
	}
	// The client leaves while the query is evaluated; on a busy machine the query may be faster once or twice.
	got := ""
	for range 50 {
		ctx, leave := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Millisecond, leave)
		r, err = s.QueryInstant(ctx, promapi.Query{Expr: slow, Time: t0})
		got = answered(t, r, err)
		timer.Stop()
		leave()
		if got == "canceled: query was canceled in expression evaluation" {
			break
		}
	}
	if got != "canceled: query was canceled in expression evaluation" {
		t.Errorf("the client leaves: %s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err = s.QueryInstant(t.Context(), promapi.Query{Expr: "1", Time: t0})
	if got := answered(t, r, err); got != "unavailable: the store is closed" || !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %s", got)
	}
}

func TestAPIErrorTypes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want promapi.ErrorType
	}{
		{promql.ErrStorage{Err: io.EOF}, promapi.Internal},
		{fmt.Errorf("x: %w", promql.ErrQueryTimeout("x")), promapi.Timeout},
		{context.DeadlineExceeded, promapi.Timeout},
		{context.Canceled, promapi.Canceled},
		{promql.ErrTooManySamples("x"), promapi.Execution},
	} {
		if got := promapi.TypeOf(apiError(tt.err)); got != tt.want {
			t.Errorf("%v is %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestAPIRules(t *testing.T) {
	s := open(t, t.TempDir())
	alert := func(name, severity string) Rule {
		return Rule{Alert: &Alert{Name: name, Expr: "m", Labels: map[string]string{"severity": severity}}}
	}
	put(t, s, "m", t0, 2)
	setGroups(t, s,
		Group{Name: "z", File: "1.yml", Rules: []Rule{alert("Z", "info"), record("r", "m")}},
		Group{Name: "ours", File: "2.yml", Rules: []Rule{copyOf(s, "c", "m")}},
		Group{Name: "b", File: "2.yml", Limit: 9, Interval: time.Minute, Rules: []Rule{alert("B", "critical"), copyOf(s, "d", "m")}},
		Group{Name: "a", File: "2.yml", Rules: []Rule{record("x", "m")}},
	)
	eval(t, s, t0)
	list := func(f promapi.RuleFilter) string {
		r, err := s.ListRules(f)
		if err != nil {
			return answered(t, r, err)
		}
		var answer struct {
			Groups []struct {
				Name  string
				Rules []struct {
					Name, Type string
					Alerts     []struct{ State string }
				}
			}
			GroupNextToken string
		}
		if err := json.Unmarshal([]byte(encode(r.Data)), &answer); err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, g := range answer.Groups {
			for _, rule := range g.Rules {
				text = append(text, fmt.Sprint(g.Name, "/", rule.Name, "/", rule.Type, "/", len(rule.Alerts)))
			}
		}
		if answer.GroupNextToken != "" {
			text = append(text, "more")
		}
		return strings.Join(text, " ")
	}
	filter := func(change func(*promapi.RuleFilter)) promapi.RuleFilter {
		f := promapi.RuleFilter{Alerts: true, Records: true}
		change(&f)
		return f
	}
	token := promapi.RuleFilter{Alerts: true, Records: true, GroupLimit: 1}
	r, err := s.ListRules(token)
	if err != nil {
		t.Fatal(err)
	}
	var first struct{ GroupNextToken string }
	if err := json.Unmarshal([]byte(encode(r.Data)), &first); err != nil {
		t.Fatal(err)
	}
	token.NextToken = first.GroupNextToken
	for _, tt := range []struct{ got, want string }{
		{list(filter(func(*promapi.RuleFilter) {})), "z/Z/alerting/1 z/r/recording/0 a/x/recording/0 b/B/alerting/1"},
		{list(filter(func(f *promapi.RuleFilter) { f.Alerts = false })), "z/r/recording/0 a/x/recording/0"},
		{list(filter(func(f *promapi.RuleFilter) { f.Records = false })), "z/Z/alerting/1 b/B/alerting/1"},
		{list(filter(func(f *promapi.RuleFilter) { f.ExcludeAlerts = true })), "z/Z/alerting/0 z/r/recording/0 a/x/recording/0 b/B/alerting/0"},
		{list(filter(func(f *promapi.RuleFilter) { f.Names = []string{"x", "B"} })), "a/x/recording/0 b/B/alerting/1"},
		{list(filter(func(f *promapi.RuleFilter) { f.Groups = []string{"z"} })), "z/Z/alerting/1 z/r/recording/0"},
		{list(filter(func(f *promapi.RuleFilter) { f.Files = []string{"2.yml"} })), "a/x/recording/0 b/B/alerting/1"},
		{list(filter(func(f *promapi.RuleFilter) { f.Match = []string{`{severity="critical"}`} })), "b/B/alerting/1"},
		{list(filter(func(f *promapi.RuleFilter) { f.Match = []string{`{`} })), `bad_data: 1:2: parse error: unexpected end of input inside braces`},
		{list(filter(func(f *promapi.RuleFilter) { f.GroupLimit = 2 })), "z/Z/alerting/1 z/r/recording/0 a/x/recording/0 more"},
		{list(filter(func(f *promapi.RuleFilter) { f.GroupLimit = 3 })), "z/Z/alerting/1 z/r/recording/0 a/x/recording/0 b/B/alerting/1"},
		{list(token), "a/x/recording/0 more"},
		{list(filter(func(f *promapi.RuleFilter) { f.GroupLimit, f.NextToken = 1, "other" })), `bad_data: invalid parameter "group_next_token": invalid group_next_token 'other'. were rule groups changed?`},
	} {
		if tt.got != tt.want {
			t.Errorf("got  %s\nwant %s", tt.got, tt.want)
		}
	}
	if got, want := answered(t, s.ListAlerts(), nil), `{"alerts":[{"labels":{"alertname":"Z","severity":"info"},"annotations":{},"state":"firing","activeAt":"2026-01-05T08:00:00Z","value":"2e+00"},`+
		`{"labels":{"alertname":"B","severity":"critical"},"annotations":{},"state":"firing","activeAt":"2026-01-05T08:00:00Z","value":"2e+00"}]}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r, err = s.ListRules(filter(func(f *promapi.RuleFilter) { f.Groups = []string{"b"} }))
	got := regexp.MustCompile(`("evaluationTime":)[^,]*`).ReplaceAllString(answered(t, r, err), "${1}1")
	got = regexp.MustCompile(`("lastEvaluation":)"[^"]*"`).ReplaceAllString(got, `${1}"then"`)
	if want := `{"groups":[{"name":"b","file":"2.yml","rules":[{"state":"firing","name":"B","query":"m","duration":0,"keepFiringFor":0,"labels":{"severity":"critical"},` +
		`"annotations":{},"alerts":[{"labels":{"alertname":"B","severity":"critical"},"annotations":{},"state":"firing","activeAt":"2026-01-05T08:00:00Z","value":"2e+00"}],` +
		`"health":"ok","evaluationTime":1,"lastEvaluation":"then","type":"alerting"}],"interval":60,"limit":9,"evaluationTime":1,"lastEvaluation":"then"}]}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestGlobalURL(t *testing.T) {
	for _, tt := range []struct{ target, external, want string }{
		{"http://127.0.0.1:9838/metrics", "https://flyball.example/", "http://flyball.example:9838/metrics"},
		{"http://localhost:9838/metrics", "https://flyball.example:9838/", "https://flyball.example:9838/metrics"},
		{"http://[::1]:1/metrics", "https://flyball.example:9838/", "http://flyball.example:1/metrics"},
		{"http://localhost/metrics", "https://flyball.example:9838/", "http://flyball.example/metrics"},
		{"http://10.0.0.1:1/metrics", "https://flyball.example:9838/", "http://10.0.0.1:1/metrics"},
		{"http://localhost:1/metrics", "", "http://localhost:1/metrics"},
	} {
		target, _ := url.Parse(tt.target)
		external, _ := url.Parse(tt.external)
		if got := globalURL(target, external).String(); got != tt.want || target.String() != tt.target {
			t.Errorf("%s seen from outside %s is %s, want %s", tt.target, tt.external, got, tt.want)
		}
	}
}

func TestPrometheusVersion(t *testing.T) {
	for module, want := range map[string]string{
		"v0.315.0": "3.15.0", "v0.300.1": "3.0.1", "v0.1234.5": "12.34.5", "v0.54.1": "0.54.1", "v3.1.0": "3.1.0", "": "unknown",
		"v0.316.1-0.20261001000000-abcdef": "3.16.1-0.20261001000000-abcdef",
	} {
		if got := productVersion(module); got != want {
			t.Errorf("%s is %s, want %s", module, got, want)
		}
	}
	gomod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(gomod), "github.com/prometheus/prometheus "+embeddedVersion+"\n") {
		t.Errorf("go.mod has another version of Prometheus than %s", embeddedVersion)
	}
	if got, want := PrometheusVersion(), productVersion(embeddedVersion); got != want {
		t.Errorf("version %s, want %s", got, want)
	}
}

// TestWriteLikePrometheus compares what is written with what promql's own types write.
func TestWriteLikePrometheus(t *testing.T) {
	histogram := tsdbutil.GenerateTestFloatHistogram(3)
	odd := labels.FromStrings("__name__", "odd", "text", "quote \" backslash \\ line\n <&> ü 日本")
	floats := []promql.FPoint{{T: 1767600000000, F: 1}, {T: 1767600000001, F: math.NaN()}, {T: -1500, F: math.Inf(-1)}, {T: 10, F: 0.1}}
	for name, v := range map[string]parser.Value{
		"vector": promql.Vector{{Metric: odd, T: 1500, F: 2.5}, {T: 5, F: math.Inf(1)}, {Metric: odd, T: 1000, H: histogram}},
		"matrix": promql.Matrix{
			{Metric: odd, Floats: floats},
			{Floats: floats[:1]},
			{Metric: odd, Histograms: []promql.HPoint{{T: 1000, H: histogram}, {T: 2500, H: histogram}}},
			{Metric: odd, Floats: floats[:1], Histograms: []promql.HPoint{{T: 2500, H: histogram}}},
			{Metric: odd},
		},
		"empty vector": promql.Vector{}, "empty matrix": promql.Matrix{},
		"scalar": promql.Scalar{T: 1001, V: 1e300}, "string": promql.String{T: 1001, V: "a\"b"},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := json.Marshal(map[string]any{"resultType": v.Type(), "result": v})
			if err != nil {
				t.Fatal(err)
			}
			var wantValue, gotValue any
			got := encode(queryData{value: v})
			if err := errors.Join(json.Unmarshal([]byte(got), &gotValue), json.Unmarshal(want, &wantValue)); err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			if name == "scalar" { // promql writes its digits, the API's is e
				wantValue.(map[string]any)["result"].([]any)[1] = "1e+300"
			}
			if diff := cmp.Diff(wantValue, gotValue); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// BenchmarkWriteMatrix writes the answer to a range query, 1,000 series of 100 points.
func BenchmarkWriteMatrix(b *testing.B) {
	var m promql.Matrix
	for i := range 1000 {
		s := promql.Series{Metric: labels.FromStrings("__name__", "queue_depth", "instance", "10.0.0.1:9838", "job", "flyball", "model", fmt.Sprint("model-", i))}
		for j := range 100 {
			s.Floats = append(s.Floats, promql.FPoint{T: t0.Add(time.Duration(j) * 15 * time.Second).UnixMilli(), F: float64(i*j) / 3})
		}
		m = append(m, s)
	}
	b.Run("flyball", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w := bufio.NewWriterSize(io.Discard, 32<<10)
			queryData{value: m}.WriteJSON(w)
			_ = w.Flush()
		}
		b.SetBytes(int64(len(encode(queryData{value: m}))))
	})
	b.Run("encoding_json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.NewEncoder(io.Discard).Encode(m); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(len(encode(queryData{value: m}))))
	})
}

// BenchmarkQuerySteps answers such a query from the store.
func BenchmarkQuerySteps(b *testing.B) {
	s := open(b, b.TempDir())
	end := history(b, s, 1000)
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.QuerySteps(b.Context(), promapi.Range{Expr: "queue", Start: end.Add(-99 * 15 * time.Second), End: end, Step: 15 * time.Second})
		if err != nil {
			b.Fatal(err)
		}
		w := bufio.NewWriterSize(io.Discard, 32<<10)
		r.Data.WriteJSON(w)
		_ = w.Flush()
		r.Close()
	}
}
