package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules/promapi"
)

// asked is a store that remembers what it was asked.
type asked struct {
	question any
	deadline time.Duration // of the context, 0: none
	result   *promapi.Result
	err      error
	closed   bool
}

func (a *asked) answer(ctx context.Context, question any) (*promapi.Result, error) {
	a.question = question
	if at, ok := ctx.Deadline(); ok {
		a.deadline = time.Until(at).Round(time.Second)
	}
	if a.err != nil {
		return nil, a.err
	}
	r := promapi.Result{Data: promapi.JSON("data")}
	if a.result != nil {
		r = *a.result
	}
	r.Release = func() { a.closed = true }
	return &r, nil
}

func (a *asked) only(question any) *promapi.Result {
	r, _ := a.answer(context.Background(), question)
	return r
}

func (a *asked) QueryInstant(ctx context.Context, q promapi.Query) (*promapi.Result, error) {
	return a.answer(ctx, q)
}

func (a *asked) QuerySteps(ctx context.Context, q promapi.Range) (*promapi.Result, error) {
	return a.answer(ctx, q)
}

func (a *asked) LabelNames(ctx context.Context, s promapi.Selection) (*promapi.Result, error) {
	return a.answer(ctx, s)
}

func (a *asked) LabelValues(ctx context.Context, name string, s promapi.Selection) (*promapi.Result, error) {
	return a.answer(ctx, []any{name, s})
}

func (a *asked) ListSeries(ctx context.Context, s promapi.Selection) (*promapi.Result, error) {
	return a.answer(ctx, s)
}

func (a *asked) Exemplars(ctx context.Context, q promapi.Exemplars) (*promapi.Result, error) {
	return a.answer(ctx, q)
}

func (a *asked) FormatExpr(expr string) (*promapi.Result, error) {
	return a.answer(context.Background(), expr)
}

func (a *asked) ListRules(f promapi.RuleFilter) (*promapi.Result, error) {
	return a.answer(context.Background(), f)
}

func (a *asked) ListMetadata(ctx context.Context, f promapi.MetadataFilter) (*promapi.Result, error) {
	return a.answer(ctx, f)
}

func (a *asked) ListAlerts() *promapi.Result                        { return a.only("alerts") }
func (a *asked) ListTargets(f promapi.TargetFilter) *promapi.Result { return a.only(f) }
func (a *asked) handler() http.Handler {
	return apiHandler(func(*http.Request) PrometheusStore { return a })
}

func (a *asked) do(method, url, form string) *httptest.ResponseRecorder {
	return do(a.handler(), method, url, form)
}

func apiHandler(s func(*http.Request) PrometheusStore) http.Handler {
	mux := http.NewServeMux()
	Page{}.Register(mux)
	Prometheus{Store: s, Build: BuildInfo{Version: "3.15.0", Flyball: "0.1.0"}}.Register(mux)
	return mux
}

func do(h http.Handler, method, url, form string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, strings.NewReader(form))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestParameters: what is asked of the store for what the client sends.
func TestParameters(t *testing.T) {
	all := promapi.Selection{Start: promapi.MinTime, End: promapi.MaxTime}
	second := func(s float64) time.Time { return time.UnixMilli(int64(s * 1000)).UTC() }
	for _, tt := range []struct {
		url, form string // with a form it is a POST
		want      any
		deadline  time.Duration
	}{
		{url: "query?query=up&time=1.5", want: promapi.Query{Expr: "up", Time: second(1.5)}},
		{url: "query", form: "query=up&time=2026-11-22T12:00:00Z&limit=3&lookback_delta=1m&stats=all&timeout=30", want: promapi.Query{Expr: "up", Time: noon, Limit: 3, Lookback: time.Minute, Stats: true}, deadline: 30 * time.Second},
		{url: "query?query=url&time=1", form: "query=form", want: promapi.Query{Expr: "form", Time: second(1)}},
		{url: "query?query=up&time=1;x", form: "time=1", want: promapi.Query{Expr: "up", Time: second(1)}}, // a part of the address cannot be read
		{url: "query_range?query=up&start=1&end=2.001&step=0.5&timeout=1h", want: promapi.Range{Expr: "up", Start: second(1), End: second(2.001), Step: 500 * time.Millisecond}, deadline: time.Hour},
		{url: "query_range", form: "query=up&start=1&end=2&step=1m&limit=0&lookback_delta=7", want: promapi.Range{Expr: "up", Start: second(1), End: second(2), Step: time.Minute, Lookback: 7 * time.Second}},
		{url: "labels", want: all},
		{url: "labels?start=1&end=2&limit=9&match[]=a&match[]=b", want: promapi.Selection{Match: []string{"a", "b"}, Start: second(1), End: second(2), Limit: 9}},
		{url: "labels", form: "match[]=a", want: promapi.Selection{Match: []string{"a"}, Start: promapi.MinTime, End: promapi.MaxTime}},
		{url: "label/job/values", want: []any{"job", all}},
		{url: "label/with%2Fslash/values", want: []any{"with/slash", all}},
		{url: "label/U__a_2e_b/values?limit=2", want: []any{"a.b", promapi.Selection{Start: promapi.MinTime, End: promapi.MaxTime, Limit: 2}}},
		{url: "series?match[]=a", want: promapi.Selection{Match: []string{"a"}, Start: promapi.MinTime, End: promapi.MaxTime}},
		{url: "query_exemplars?query=a", want: promapi.Exemplars{Expr: "a", Start: promapi.MinTime, End: promapi.MaxTime}},
		{url: "query_exemplars?query=a&start=1&end=2", want: promapi.Exemplars{Expr: "a", Start: second(1), End: second(2)}},
		{url: "format_query", form: "query=a", want: "a"},
		{url: "rules", want: promapi.RuleFilter{Alerts: true, Records: true}},
		{url: "rules?type=ALERT&exclude_alerts=true", want: promapi.RuleFilter{Alerts: true, ExcludeAlerts: true}},
		{url: "rules?type=record&rule_name[]=a&rule_group[]=b&file[]=c&match[]=d", want: promapi.RuleFilter{Records: true, Names: []string{"a"}, Groups: []string{"b"}, Files: []string{"c"}, Match: []string{"d"}}},
		{url: "rules?group_limit=2&group_next_token=x", want: promapi.RuleFilter{Alerts: true, Records: true, GroupLimit: 2, NextToken: "x"}},
		{url: "alerts", want: "alerts"},
		{url: "targets", want: promapi.TargetFilter{Active: true, Dropped: true}},
		{url: "targets?state=Active&scrapePool=a", want: promapi.TargetFilter{Active: true, Pool: "a"}},
		{url: "targets?state=dropped", want: promapi.TargetFilter{Dropped: true}},
		{url: "targets?state=any", want: promapi.TargetFilter{Active: true, Dropped: true}},
		{url: "targets?state=none", want: promapi.TargetFilter{}},
		{url: "metadata", want: promapi.MetadataFilter{Limit: -1, LimitPerMetric: -1}},
		{url: "metadata?metric=a&limit=0&limit_per_metric=2", want: promapi.MetadataFilter{Metric: "a", LimitPerMetric: 2}},
	} {
		method := http.MethodGet
		if tt.form != "" {
			method = http.MethodPost
		}
		a := &asked{}
		w := a.do(method, "/api/v1/"+tt.url, tt.form)
		if diff := cmp.Diff(tt.want, a.question); diff != "" || a.deadline != tt.deadline {
			t.Errorf("%s %s: deadline %s %s", tt.url, tt.form, a.deadline, diff)
		}
		if w.Code != http.StatusOK || w.Body.String() != `{"status":"success","data":"data"}` || !a.closed {
			t.Errorf("%s: %d %s, closed %t", tt.url, w.Code, w.Body, a.closed)
		}
	}
	a := &asked{}
	a.do(http.MethodGet, "/api/v1/query?query=up", "")
	if q := a.question.(promapi.Query); time.Since(q.Time).Abs() > time.Minute {
		t.Errorf("a query without a time is for %s", q.Time)
	}
}

// TestQuestionsAsForms: the parameters that a question has are read back as that question.
func TestQuestionsAsForms(t *testing.T) {
	at := time.UnixMilli(1767600000250).UTC()
	for _, q := range []struct {
		path string
		form url.Values
		want any
	}{
		{"query", promapi.Query{Expr: "up == 1", Time: at, Lookback: 90 * time.Second, Limit: 3, Stats: true}.Form(), promapi.Query{Expr: "up == 1", Time: at, Lookback: 90 * time.Second, Limit: 3, Stats: true}},
		{"query", promapi.Query{Time: promapi.MaxTime}.Form(), promapi.Query{Time: promapi.MaxTime}},
		{"query_range", promapi.Range{Expr: "up", Start: at, End: at.Add(time.Hour), Step: 1500 * time.Millisecond}.Form(), promapi.Range{Expr: "up", Start: at, End: at.Add(time.Hour), Step: 1500 * time.Millisecond}},
		{"query_exemplars", promapi.Exemplars{Expr: "up", Start: at, End: promapi.MaxTime}.Form(), promapi.Exemplars{Expr: "up", Start: at, End: promapi.MaxTime}},
		{"labels", promapi.Selection{Start: promapi.MinTime, End: promapi.MaxTime}.Form(), promapi.Selection{Start: promapi.MinTime, End: promapi.MaxTime}},
		{"series", promapi.Selection{Match: []string{"a", `{b="c d"}`}, Start: at, End: at, Limit: 9}.Form(), promapi.Selection{Match: []string{"a", `{b="c d"}`}, Start: at, End: at, Limit: 9}},
		{"metadata", promapi.MetadataFilter{Limit: -1, LimitPerMetric: -1}.Form(), promapi.MetadataFilter{Limit: -1, LimitPerMetric: -1}},
		{"metadata", promapi.MetadataFilter{Metric: "a", Limit: 0, LimitPerMetric: 2}.Form(), promapi.MetadataFilter{Metric: "a", Limit: 0, LimitPerMetric: 2}},
	} {
		a := &asked{}
		w := a.do(http.MethodGet, "/api/v1/"+q.path+"?"+q.form.Encode(), "")
		if diff := cmp.Diff(q.want, a.question); diff != "" {
			t.Errorf("%s?%s: %s %s", q.path, q.form.Encode(), w.Body, diff)
		}
	}
}

// TestBadParameters: the store is not asked, and the client is told which and why.
func TestBadParameters(t *testing.T) {
	for url, want := range map[string]string{
		"query?query=a&limit=x":                          `invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax`,
		"query?query=a&limit=-1":                         `invalid parameter "limit": limit must be non-negative`,
		"query?query=a&time=x":                           `invalid parameter "time": invalid time value for 'time': cannot parse "x" to a valid timestamp`,
		"query?query=a&time=Inf":                         `invalid parameter "time": invalid time value for 'time': cannot parse "Inf" to a valid timestamp`,
		"query?query=a&timeout=x":                        `invalid parameter "timeout": cannot parse "x" to a valid duration`,
		"query?query=a&timeout=1e300":                    `invalid parameter "timeout": cannot parse "1e300" to a valid duration. It overflows int64`,
		"query?query=a&lookback_delta=NaN":               `error parsing lookback delta duration: cannot parse "NaN" to a valid duration`,
		"query_range?start=&end=1&step=1":                `invalid parameter "start": cannot parse "" to a valid timestamp`,
		"query_range?start=1&end=x&step=1":               `invalid parameter "end": cannot parse "x" to a valid timestamp`,
		"query_range?start=2&end=1&step=1":               `invalid parameter "end": end timestamp must not be before start time`,
		"query_range?start=1&end=2&step=":                `invalid parameter "step": cannot parse "" to a valid duration`,
		"query_range?start=1&end=2&step=0":               `invalid parameter "step": zero or negative query resolution step widths are not accepted. Try a positive integer`,
		"query_range?start=1&end=2&step=1e-9":            `invalid parameter "step": query resolution step widths below a millisecond are not accepted`,
		"query_exemplars?query=a&start=2&end=1":          `end timestamp must not be before start timestamp`,
		"labels?limit=x":                                 `invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax`,
		"label/%FF/values":                               `invalid label name: "\xff"`,
		"label/U__a/values?start=x":                      `invalid parameter "start": invalid time value for 'start': cannot parse "x" to a valid timestamp`,
		"series":                                         `no match[] parameter provided`,
		"series?match[]=a&end=x":                         `invalid parameter "end": invalid time value for 'end': cannot parse "x" to a valid timestamp`,
		"rules?type=scale":                               `invalid parameter "type": not supported value "scale"`,
		"rules?exclude_alerts=x":                         `invalid parameter "exclude_alerts": error converting exclude_alerts: strconv.ParseBool: parsing "x": invalid syntax`,
		"rules?group_limit=0":                            `invalid parameter "group_limit": group_limit needs to be greater than 0`,
		"rules?group_limit=x":                            `invalid parameter "group_limit": group_limit needs to be a valid number: strconv.ParseInt: parsing "x": invalid syntax`,
		"rules?group_next_token=x":                       `invalid parameter "group_next_token": group_limit needs to be present in order to paginate over the groups`,
		"metadata?limit=x":                               `limit must be a number`,
		"metadata?limit_per_metric=x":                    `limit_per_metric must be a number`,
		"query?query=a&limit=x&time=x&timeout=x&stats=x": `invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax`,
	} {
		a := &asked{}
		w := a.do(http.MethodGet, "/api/v1/"+url, "")
		if a.question != nil {
			t.Errorf("%s: the store was asked %v", url, a.question)
		}
		if got := fmt.Sprintf("%d %s", w.Code, w.Body); !strings.HasPrefix(got, `400 {"status":"error","errorType":"bad_data","error":`+quoted(want)+"}") {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

func quoted(text string) string { return string(promapi.AppendString(nil, text)) }

// TestErrors: each type of error has its status.
func TestErrors(t *testing.T) {
	for kind, code := range map[promapi.ErrorType]int{
		promapi.BadData: 400, promapi.Execution: 422, promapi.Canceled: 499, promapi.Timeout: 503, promapi.Internal: 500,
		promapi.NotFound: 404, promapi.Unavailable: 503,
	} {
		a := &asked{err: fmt.Errorf("asked: %w", &promapi.Error{Type: kind, Err: errors.New("why")})}
		w := a.do(http.MethodGet, "/api/v1/query?query=a", "")
		if want := `{"status":"error","errorType":"` + string(kind) + `","error":"asked: why"}` + "\n"; w.Code != code || w.Body.String() != want {
			t.Errorf("%d %s, want %d %s", w.Code, w.Body, code, want)
		}
	}
	a := &asked{err: errors.New("none of ours")}
	if w := a.do(http.MethodGet, "/api/v1/query?query=a", ""); w.Code != 500 {
		t.Errorf("an error without a type: %d %s", w.Code, w.Body)
	}
}

func TestAnswers(t *testing.T) {
	a := &asked{result: &promapi.Result{Data: promapi.Strings(nil), Warnings: []string{"w"}, Infos: []string{"i \"quoted\""}}}
	w := a.do(http.MethodGet, "/api/v1/labels", "")
	if want := `{"status":"success","data":[],"warnings":["w"],"infos":["i \"quoted\""]}`; w.Body.String() != want {
		t.Errorf("%s, want %s", w.Body, want)
	}
	if h := w.Header(); h.Get("Content-Type") != "application/json" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("headers %v", h)
	}
	w = (&asked{}).do(http.MethodGet, "/api/v1/query?query=a&stats=yes", "")
	if !strings.Contains(w.Body.String(), `"warnings":["value \"yes\" for parameter \"stats\" is deprecated`) {
		t.Errorf("stats=yes: %s", w.Body)
	}
	a.result = &promapi.Result{}
	if w = a.do(http.MethodGet, "/api/v1/query_exemplars?query=1", ""); w.Code != http.StatusNoContent || w.Body.Len() > 0 {
		t.Errorf("without content: %d %s", w.Code, w.Body)
	}
	w = (&asked{}).do(http.MethodGet, "/api/v1/status/buildinfo", "")
	if want := `{"status":"success","data":{"version":"3.15.0","revision":"","branch":"","buildUser":"","buildDate":"","goVersion":"","flyball":"0.1.0"}}`; w.Body.String() != want {
		t.Errorf("buildinfo: %s", w.Body)
	}
}

func TestMethods(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		code         int
		allow        string
	}{
		{http.MethodOptions, "query", 204, "GET, HEAD, POST, OPTIONS"},
		{http.MethodOptions, "rules", 204, "GET, HEAD, OPTIONS"},
		{http.MethodHead, "query?query=a", 200, ""},
		{http.MethodPut, "query", 405, "GET, HEAD, POST, OPTIONS"},
		{http.MethodDelete, "series", 405, "GET, HEAD, POST, OPTIONS"},
		{http.MethodPost, "rules", 405, "GET, HEAD, OPTIONS"},
		{http.MethodPost, "label/a/values", 405, "GET, HEAD, OPTIONS"},
		{http.MethodPost, "status/buildinfo", 405, "GET, HEAD, OPTIONS"},
		{http.MethodGet, "nothing", 404, ""},
		{http.MethodGet, "label/a", 404, ""},
		{http.MethodGet, "admin/tsdb/snapshot", 404, ""},
	} {
		w := (&asked{}).do(tt.method, "/api/v1/"+tt.path, "")
		if w.Code != tt.code || w.Header().Get("Allow") != tt.allow {
			t.Errorf("%s %s: %d, Allow %q; want %d, %q", tt.method, tt.path, w.Code, w.Header().Get("Allow"), tt.code, tt.allow)
		}
		if w.Code >= 400 && !strings.HasPrefix(w.Body.String(), `{"status":"error","errorType":`) {
			t.Errorf("%s %s: %s", tt.method, tt.path, w.Body)
		}
	}
}

func TestNoStore(t *testing.T) {
	h := apiHandler(func(*http.Request) PrometheusStore { return nil })
	for _, path := range []string{"query?query=1", "query_range", "labels", "label/a/values", "series", "rules", "alerts", "targets", "metadata", "format_query", "query_exemplars"} {
		w := do(h, http.MethodGet, "/api/v1/"+path, "")
		if want := `{"status":"error","errorType":"not_found","error":"this process has no store: it runs without the role rules"}` + "\n"; w.Code != 404 || w.Body.String() != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestForms: other forms than those of an address, and one that is too long.
func TestForms(t *testing.T) {
	a := &asked{}
	w := a.do(http.MethodPost, "/api/v1/query", "query="+strings.Repeat("x", maxForm))
	if w.Code != http.StatusRequestEntityTooLarge || a.question != nil || !strings.Contains(w.Body.String(), "longer than 1048576 bytes") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = a.do(http.MethodPost, "/api/v1/query", "query="+strings.Repeat("x", maxForm-10))
	if w.Code != http.StatusOK || len(a.question.(promapi.Query).Expr) != maxForm-10 {
		t.Errorf("a form that just fits: %d", w.Code)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/query", strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nup\r\n--b--\r\n"))
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	a.handler().ServeHTTP(httptest.NewRecorder(), r)
	if q := a.question.(promapi.Query); q.Expr != "up" {
		t.Errorf("of a multipart form: %+v", q)
	}
}

func TestCompression(t *testing.T) {
	long := promapi.Strings{strings.Repeat("value ", 1000)}
	for _, tt := range []struct {
		accepts, encoding string
		data              promapi.Strings
	}{
		{"gzip", "gzip", long},
		{"gzip, deflate, br, zstd", "gzip", long},
		{"zstd", "", long},
		{"", "", long},
		{"gzip;q=0", "", long},
		{"gzip", "", promapi.Strings{"short"}},
	} {
		a := &asked{result: &promapi.Result{Data: tt.data}}
		r := httptest.NewRequest(http.MethodGet, "/api/v1/labels", nil)
		r.Header.Set("Accept-Encoding", tt.accepts)
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, r)
		body := w.Body.Bytes()
		if got := w.Header().Get("Content-Encoding"); got != tt.encoding {
			t.Errorf("accepts %q: encoding %q, want %q", tt.accepts, got, tt.encoding)
		} else if got == "gzip" {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if want := `{"status":"success","data":[` + quoted(tt.data[0]) + `]}`; string(body) != want {
			t.Errorf("accepts %q: %s", tt.accepts, body)
		}
	}
}

// TestClientGone: the store's context ends with the client's connection, whether the client gave a timeout or not.
func TestClientGone(t *testing.T) {
	for _, form := range []url.Values{{"query": {"up"}}, {"query": {"up"}, "timeout": {"1h"}}} {
		g := &gone{asked: &asked{}, begun: make(chan struct{}), ended: make(chan error, 1)}
		server := httptest.NewServer(apiHandler(func(*http.Request) PrometheusStore { return g }))
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/api/v1/query", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		go func() {
			<-g.begun
			cancel()
		}()
		if response, err := http.DefaultClient.Do(r); err == nil {
			response.Body.Close()
			t.Errorf("%v: there was an answer", form)
		}
		select {
		case err := <-g.ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v: the query ended with %v", form, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%v: the query goes on", form)
		}
		server.Close()
	}
}

// gone is a store whose query lasts until its client leaves.
type gone struct {
	*asked
	begun chan struct{}
	ended chan error
}

func (g *gone) QueryInstant(ctx context.Context, _ promapi.Query) (*promapi.Result, error) {
	close(g.begun)
	<-ctx.Done()
	g.ended <- ctx.Err()
	return nil, &promapi.Error{Type: promapi.Canceled, Err: ctx.Err()}
}

func FuzzParsePrometheusTime(f *testing.F) {
	for _, text := range []string{"", "0", "1.5", "-1", "1e400", "NaN", "2026-11-22T12:00:00.5Z", "-292273086-05-16T16:47:06Z", "292277025-08-18T07:12:54.999999999Z", "9223309901257974", "9.3e15"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parsePrometheusTime(text)
		switch {
		case err != nil && !strings.Contains(err.Error(), "to a valid timestamp"):
			t.Errorf("%q: %v", text, err)
		case err == nil && (at.Before(promapi.MinTime) || at.After(promapi.MaxTime)):
			t.Errorf("%q is %s, beyond the limits", text, at)
		case err == nil && at.After(promapi.MinTime) && at.Before(promapi.MaxTime) && !time.UnixMilli(at.UnixMilli()).Truncate(time.Millisecond).Equal(at.Truncate(time.Millisecond)):
			t.Errorf("%q: %s does not fit into milliseconds", text, at)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"", "0", "1.5", "-1", "1e400", "NaN", "Inf", "1h30m", "5", "9223372036.9", "9223372036.854775807", "1y"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDuration(text)
		if err != nil && !strings.Contains(err.Error(), "to a valid duration") {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil && !strings.HasPrefix(strings.TrimSpace(text), "-") && d < 0 {
			t.Errorf("%q is %s", text, d)
		}
	})
}

func FuzzParseLimit(f *testing.F) {
	for _, text := range []string{"", "0", "1", "-1", "99999999999999999999", "1.5", "+3"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseLimit(text); n < 0 || err != nil && n != 0 || text == "" && err != nil {
			t.Errorf("%q is %d, %v", text, n, err)
		}
	})
}
