package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
	"flyball/rules/promapi"
)

// routed is a store beside a Prometheus elsewhere, whose rules have written own{a="b"} and ALERTS; it has up from an earlier
// life.
func routed(t *testing.T) (*Store, *elsewhere) {
	t.Helper()
	s, there := open(t, t.TempDir()), &elsewhere{value: 7}
	put(t, s, `up{job="before"}`, t0, 5)
	takeOver(t, s, Config{Remote: there, Groups: []Group{{Name: "a", Interval: time.Second, Rules: []Rule{
		{Record: &Record{Name: "own", Expr: "vector(1)", Labels: map[string]string{"a": "b"}}},
		{Alert: &Alert{Name: "Local", Expr: "own > 0"}},
	}}}})
	eval(t, s, t0)
	there.questions()
	return s, there
}

// TestAPIRouting: each question goes to the side that has its series, with all its parameters, and what comes back is the
// answer of that side, or of both.
func TestAPIRouting(t *testing.T) {
	s, there := routed(t)
	there.answers = map[string]string{
		"query": `{"resultType":"vector","result":[]}`, "query_range": `{"resultType":"matrix","result":[]}`, "query_exemplars": `[{}]`,
		"labels": `["job","instance"]`, "label/job/values": `["x"]`, "label/__name__/values": `["up","own"]`, "label/a%2Fb/values": `["y"]`,
		"label/U___2e__2e_/values": `["dots"]`, "series": `[{"__name__":"up"},{"__name__":"own","a":"b"}]`, "metadata": `{"up":[]}`,
	}
	r, ctx := s.Router(), t.Context()
	instant := func(q promapi.Query) string {
		q.Time = t0
		a, err := r.QueryInstant(ctx, q)
		return answered(t, a, err)
	}
	steps := func(q promapi.Range) string {
		q.Start = t0
		a, err := r.QuerySteps(ctx, q)
		return answered(t, a, err)
	}
	all := func(sel promapi.Selection) promapi.Selection {
		sel.Start, sel.End = promapi.MinTime, promapi.MaxTime
		return sel
	}
	names := func(sel promapi.Selection) string {
		a, err := r.LabelNames(ctx, all(sel))
		return answered(t, a, err)
	}
	values := func(name string, sel promapi.Selection) string {
		a, err := r.LabelValues(ctx, name, all(sel))
		return answered(t, a, err)
	}
	series := func(sel promapi.Selection) string {
		a, err := r.ListSeries(ctx, all(sel))
		return answered(t, a, err)
	}
	exemplars := func(expr string) string {
		a, err := r.Exemplars(ctx, promapi.Exemplars{Expr: expr, Start: t0, End: promapi.MaxTime})
		return answered(t, a, err)
	}
	metadata := func(f promapi.MetadataFilter) string {
		a, err := r.ListMetadata(ctx, f)
		return answered(t, a, err)
	}
	const mix = "execution: the query mixes series of the Prometheus elsewhere (up) with those that the rules write (own)"
	for _, tt := range []struct {
		name  string
		ask   func() string
		want  string // the beginning
		asked string // elsewhere
	}{
		{"there", func() string { return instant(promapi.Query{Expr: "up", Limit: 3, Lookback: time.Minute, Stats: true}) }, `{"resultType":"vector","result":[]}`, "query?limit=3&lookback_delta=60&query=up&stats=all&time=1767600000"},
		{"here", func() string { return instant(promapi.Query{Expr: "own"}) }, `{"resultType":"vector","result":[{"metric":{"__name__":"own","a":"b"},"value":[1767600000,"1"]}]}`, ""},
		{"nothing to ask for", func() string { return instant(promapi.Query{Expr: "1+1"}) }, `{"resultType":"scalar"`, ""},
		{"both", func() string { return instant(promapi.Query{Expr: "own + up"}) }, mix, ""},
		{"what only the other side may know", func() string { return instant(promapi.Query{Expr: "range_median(up[1m])"}) }, `{"resultType":"vector"`, "query?query=range_median%28up%5B1m%5D%29&time=1767600000"},
		{"steps there", func() string {
			return steps(promapi.Range{Expr: "up", End: t0.Add(time.Minute), Step: 1500 * time.Millisecond})
		}, `{"resultType":"matrix","result":[]}`, "query_range?end=1767600060&query=up&start=1767600000&step=1.5"},
		{"steps here", func() string { return steps(promapi.Range{Expr: "own", End: t0, Step: time.Second}) }, `{"resultType":"matrix","result":[{"metric":{"__name__":"own"`, ""},
		{"steps of both", func() string { return steps(promapi.Range{Expr: "own + up", End: t0, Step: time.Second}) }, mix, ""},
		{"too many steps", func() string { return steps(promapi.Range{Expr: "up", End: t0.Add(time.Hour), Step: time.Millisecond}) }, "bad_data: exceeded maximum resolution of 11,000 points", ""},
		{"exemplars there", func() string { return exemplars("up") }, `[{}]`, "query_exemplars?query=up&start=1767600000"},
		{"exemplars here", func() string { return exemplars("own") }, `[]`, ""},
		{"metadata", func() string { return metadata(promapi.MetadataFilter{Metric: "up", Limit: 2, LimitPerMetric: -1}) }, `{"up":[]}`, "metadata?limit=2&metric=up"},

		{"names of all", func() string { return names(promapi.Selection{}) }, `["__name__","a","alertname","alertstate","instance","job"]`, "labels?"},
		{"names there", func() string { return names(promapi.Selection{Match: []string{"up", `{__name__="down"}`}}) }, `["job","instance"]`, "labels?match%5B%5D=up&match%5B%5D=%7B__name__%3D%22down%22%7D"},
		{"names here", func() string { return names(promapi.Selection{Match: []string{"own"}}) }, `["__name__","a"]`, ""},
		{"names of both, each its own", func() string { return names(promapi.Selection{Match: []string{"own", "up"}}) }, `["__name__","a","instance","job"]`, "labels?match%5B%5D=up"},
		{"names of no metric in particular", func() string { return names(promapi.Selection{Match: []string{`{a="b"}`}}) }, `["__name__","a","alertname","alertstate","instance","job"]`, "labels?match%5B%5D=%7Ba%3D%22b%22%7D"},
		{"names that nothing selects", func() string { return names(promapi.Selection{Match: []string{"{}"}}) }, `["job","instance"]`, "labels?match%5B%5D=%7B%7D"},
		{"names up to a limit", func() string { return names(promapi.Selection{Limit: 2}) }, `["__name__","a"] results truncated due to limit`, "labels?limit=2"},
		{"values of all", func() string { return values("__name__", promapi.Selection{}) }, `["ALERTS","ALERTS_FOR_STATE","own","up"]`, "label/__name__/values?"},
		{"what the store has from before is not there", func() string { return values("job", promapi.Selection{}) }, `["x"]`, "label/job/values?"},
		{"a name with a slash", func() string { return values("a/b", promapi.Selection{Match: []string{"up"}}) }, `["y"]`, "label/a%2Fb/values?match%5B%5D=up"},
		{"a name of dots", func() string { return values("..", promapi.Selection{Match: []string{"up"}}) }, `["dots"]`, "label/U___2e__2e_/values?match%5B%5D=up"},
		{"series of both, once", func() string { return series(promapi.Selection{Match: []string{`{__name__=~"up|own"}`}}) }, `[{"__name__":"own","a":"b"},{"__name__":"up"}]`, "series?match%5B%5D=%7B__name__%3D~%22up%7Cown%22%7D"},
		{"series up to a limit", func() string { return series(promapi.Selection{Match: []string{"own", "up"}, Limit: 1}) }, `[{"__name__":"own","a":"b"}] results truncated due to limit`, "series?limit=1&match%5B%5D=up"},
		{"series there", func() string { return series(promapi.Selection{Match: []string{"up"}}) }, there.answers["series"], "series?match%5B%5D=up"},
		{"series here", func() string { return series(promapi.Selection{Match: []string{"own"}}) }, `[{"__name__":"own","a":"b"}]`, ""},
		{"series of nothing", func() string { return series(promapi.Selection{}) }, "bad_data: no match[] parameter provided", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.ask()
			if whole := strings.HasPrefix(tt.want, "["); !strings.HasPrefix(got, tt.want) || whole && got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if asked := strings.Join(there.questions(), " "); asked != tt.asked {
				t.Errorf("asked elsewhere %q, want %q", asked, tt.asked)
			}
		})
	}
}

// TestAPIRoutingFaults: an error from there is the answer, also where a part of it could be given here; and every answer is
// let go of.
func TestAPIRoutingFaults(t *testing.T) {
	s, there := routed(t)
	r, ctx := s.Router(), t.Context()
	asks := map[string]func(Router) (*promapi.Result, error){
		"query":           func(r Router) (*promapi.Result, error) { return r.QueryInstant(ctx, promapi.Query{Expr: "up"}) },
		"query_range":     func(r Router) (*promapi.Result, error) { return r.QuerySteps(ctx, promapi.Range{Expr: "up", Step: 1}) },
		"query_exemplars": func(r Router) (*promapi.Result, error) { return r.Exemplars(ctx, promapi.Exemplars{Expr: "up"}) },
		"labels": func(r Router) (*promapi.Result, error) {
			return r.LabelNames(ctx, promapi.Selection{Start: promapi.MinTime, End: promapi.MaxTime})
		},
		"label/__name__/values": func(r Router) (*promapi.Result, error) { return r.LabelValues(ctx, "__name__", promapi.Selection{}) },
		"series": func(r Router) (*promapi.Result, error) {
			return r.ListSeries(ctx, promapi.Selection{Match: []string{`{a="b"}`}})
		},
		"metadata": func(r Router) (*promapi.Result, error) { return r.ListMetadata(ctx, promapi.MetadataFilter{}) },
	}
	for path, ask := range asks {
		a, err := ask(r)
		if got := answered(t, a, err); got != "timeout: it is slow" {
			t.Errorf("%s: %s", path, got)
		}
		a, err = ask(r.Here())
		if got := answered(t, a, err); !strings.HasPrefix(got, "execution: this needs the Prometheus of prometheus.url, and another flyball asks") {
			t.Errorf("%s, asked by another: %s", path, got)
		}
	}
	if a, err := r.Here().QueryInstant(ctx, promapi.Query{Expr: "own", Time: t0}); !strings.Contains(answered(t, a, err), `"own"`) {
		t.Errorf("asked by another for what is here: %v", err)
	}
	there.answers, there.closed = map[string]string{"labels": `{}`, "series": `[1]`, "label/__name__/values": `["a",2]`}, 0
	for path := range there.answers {
		a, err := asks[path](r)
		if got := answered(t, a, err); got != "unavailable: its answer cannot be used: its data are not what the API gives" {
			t.Errorf("%s: %s", path, got)
		}
	}
	there.answers = map[string]string{"labels": `null`, "metadata": `{}`}
	there.warning = "store-1: unavailable"
	a, err := asks["labels"](r)
	if got := answered(t, a, err); got != `["__name__","a","alertname","alertstate"] store-1: unavailable` {
		t.Errorf("with a warning: %s", got)
	}
	a, err = asks["metadata"](r)
	if got := answered(t, a, err); got != "{} store-1: unavailable" {
		t.Errorf("with a warning: %s", got)
	}
	if there.closed != 5 {
		t.Errorf("%d answers were let go of, want 5", there.closed)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for path, ask := range asks {
		a, err := ask(r)
		if got := answered(t, a, err); got != "unavailable: the store is closed" {
			t.Errorf("%s after the end: %s", path, got)
		}
	}
}

// TestShow: the page's questions go where rules' do, and not in their turns.
func TestShow(t *testing.T) {
	s, there := routed(t)
	r, ctx := s.Router(), t.Context()
	there.answers = map[string]string{}
	show := func(expr, answer string) string {
		there.answers["query"], there.answers["query_range"] = answer, answer
		samples, err := r.Show(ctx, expr, t0)
		if err != nil {
			return err.Error()
		}
		return told(samples)
	}
	for _, tt := range []struct{ expr, answer, want string }{
		{"own", "", `{__name__="own", a="b"} 1`},
		{"up", `{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[1,"NaN"]},{"metric":{},"value":[1,"+Inf"]}]}`, "{__name__=\"up\", job=\"a\"} NaN\n{} +Inf"},
		{"up", `{"resultType":"scalar","result":[1,"2.5"]}`, "{} 2.5"},
		{"up", `{"resultType":"matrix","result":[]}`, "query up: it gives a matrix: a query must give numbers"},
		{"up", `{"resultType":"string","result":[1,"a"]}`, "query up: it gives a string: a query must give numbers"},
		{"up", `{"resultType":"vector","result":[{"metric":{"a":"b"},"histogram":[1,{"count":"1","sum":"1","buckets":[[0,"1","2","1"]]}]}]}`, `query up: {a="b"} is a native histogram: take a number`},
		{"up", `{"resultType":"vector","result":7}`, "query up: its answer cannot be used"},
		{"up", `[]`, "query up: its answer cannot be used"},
		{"own + up", "", "query own + up: the query mixes"},
	} {
		if got := show(tt.expr, tt.answer); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s of %s: got %s, want %s", tt.expr, tt.answer, got, tt.want)
		}
	}
	for _, q := range there.questions() {
		if !strings.HasPrefix(q, "query?query=up&time=1767600000") {
			t.Errorf("asked elsewhere: %s", q)
		}
	}
	there.answers["query_range"] = `{"resultType":"matrix","result":[{"metric":{"__name__":"up"},"values":[[1767600000,"1"],[1767600015.5,"2"]]}]}`
	series, err := r.ShowRange(ctx, "up", t0, t0.Add(time.Minute), 15*time.Second)
	want := []Point{{Time: t0, Value: 1}, {Time: t0.Add(15500 * time.Millisecond), Value: 2}}
	if err != nil || len(series) != 1 || series[0].Labels.String() != `{__name__="up"}` {
		t.Errorf("got %v, %v", series, err)
	} else if diff := cmp.Diff(want, series[0].Points); diff != "" {
		t.Error(diff)
	}
	if series, err := r.ShowRange(ctx, "own", t0, t0, time.Second); err != nil || len(series) != 1 || len(series[0].Points) != 1 {
		t.Errorf("got %v, %v", series, err)
	}
	there.warning = "PromQL info: not a counter"
	if _, err := r.ShowRange(ctx, "up", t0, t0, time.Second); err != nil {
		t.Error(err)
	}
	there.warning = "store-1: unavailable"
	if _, err := r.ShowRange(ctx, "up", t0, t0, time.Second); err == nil || !strings.HasSuffix(err.Error(), "for a part of the data only: store-1: unavailable") {
		t.Errorf("got %v for a part of the data", err)
	}
	if want := 10; there.closed != want {
		t.Errorf("%d answers were let go of, want %d", there.closed, want)
	}
}

func told(samples []rules.Sample) string {
	var lines []string
	for _, s := range samples {
		lines = append(lines, fmt.Sprintf("%s %g", s.Labels, s.Value))
	}
	return strings.Join(lines, "\n")
}
