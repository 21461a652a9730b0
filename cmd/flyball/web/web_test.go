package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// kept is a list of decisions that remembers what it was asked.
type kept struct {
	all    []*rules.Decision
	filter Filter
	n      int
}

func (k *kept) Recent(f Filter, n int) []*rules.Decision {
	k.filter, k.n = f, n
	var found []*rules.Decision
	for _, d := range k.all {
		if (f.ID == "" || d.ID == f.ID) && (f.Rule == "" || d.Rule == f.Rule) {
			found = append(found, d)
		}
	}
	return found
}

func get(t *testing.T, p Page, url string) *httptest.ResponseRecorder {
	t.Helper()
	mux := http.NewServeMux()
	p.Register(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
	return w
}

func decision() *rules.Decision {
	return &rules.Decision{
		ID: "abc", Time: noon, Rule: "digits", Target: "process/digits", Action: rules.Up, From: 1, To: 2,
		Reasons: []rules.Reason{rules.AboveTarget}, Text: "load <script>alert(1)</script>", Result: rules.Applied,
	}
}

func TestPage(t *testing.T) {
	status := Status{
		Models:   []Model{{Name: "digits", Ready: 2, Queued: 3, Running: 4}},
		Rules:    []Rule{{Name: "digits", Target: "process/digits", Acts: true, Last: decision()}, {Name: "new"}},
		Replicas: []Replica{{Target: "digits", Address: "127.0.0.1:1", State: "ready"}, {Target: "digits", Index: 7, State: "backoff"}},
		Alerts:   []Alert{{Labels: `{alertname="A"}`, State: "firing", Since: noon, Value: 3}},
		Groups:   []Group{{Name: "fine"}, {Name: "broken", Errors: []string{"x: bad"}}},
		Targets:  []Target{{Job: "a", Health: "up"}, {Job: "b", Health: "down", Error: "refused"}},
	}
	p := Page{Version: "1.2.3", Acting: true, Status: func(context.Context) Status { return status }, Decisions: &kept{all: []*rules.Decision{decision()}}}
	w := get(t, p, "/")
	page := w.Body.String()
	for _, want := range []string{
		"1.2.3", `data-testid="mode">acting`, "load &lt;script&gt;alert(1)&lt;/script&gt;", "AboveTarget", `href="/api/v1/flyball/decisions/abc"`,
		"not evaluated yet", "refused", "x: bad", `http-equiv="refresh" content="5"`, "stop refreshing",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q on the page", want)
		}
	}
	if strings.Contains(page, "<script") {
		t.Error("the page has a script")
	}
	for _, first := range [][2]string{{"broken", "fine"}, {"refused", "<td>a<"}, {"backoff", "127.0.0.1:1"}} {
		if strings.Index(page, first[0]) > strings.Index(page, first[1]) {
			t.Errorf("%q is not before %q: what is wrong comes first", first[0], first[1])
		}
	}
	if got, want := w.Header().Get("Content-Security-Policy"), "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"; got != want {
		t.Errorf("CSP %s", got)
	}
	if got := get(t, p, "/?refresh=off").Body.String(); strings.Contains(got, "http-equiv") {
		t.Error("refresh=off refreshes")
	}
	if w := get(t, p, "/style.css"); w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/css") {
		t.Errorf("style: %d %v", w.Code, w.Header())
	}
	if w := get(t, p, "/nothing"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown path: %d", w.Code)
	}
}

func TestEmptyPage(t *testing.T) {
	p := Page{Status: func(context.Context) Status { return Status{} }, Decisions: &kept{}}
	page := get(t, p, "/").Body.String()
	for _, want := range []string{"observing", "flyball check rules FILE", "flyball explain RULE", "batchproxy.models", "rule_files"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q on the page", want)
		}
	}
	p.Decisions = nil // an exporter or a proxy alone
	if page := get(t, p, "/").Body.String(); strings.Contains(page, "Decisions") {
		t.Error("decisions on the page of a process that makes none")
	}
}

func TestAPI(t *testing.T) {
	k := &kept{all: []*rules.Decision{decision()}}
	p := Page{Status: func(context.Context) Status { return Status{} }, Decisions: k}
	one := `{"id":"abc","time":"2026-11-22T12:00:00Z","rule":"digits","target":"process/digits","mode":"","action":"up","from":1,"to":2,` +
		`"reasons":["AboveTarget"],"text":"load \u003cscript\u003ealert(1)\u003c/script\u003e","result":"applied",` +
		`"replicas":{"spec":0,"ready":0,"pending":0,"min":0,"max":0},"queries":null,"combined":0,"gated":0,"stabilized":0,"limited":0}`
	for _, tt := range []struct {
		url  string
		code int
		want string
	}{
		{"/api/v1/flyball/decisions", 200, `{"status":"success","data":[` + one + `]}`},
		{"/api/v1/flyball/decisions?rule=other", 200, `{"status":"success","data":[]}`},
		{"/api/v1/flyball/decisions/abc", 200, `{"status":"success","data":` + one + `}`},
		{"/api/v1/flyball/decisions/xyz", 404, `{"status":"error","errorType":"not_found","error":"no decision with the id \"xyz\" is remembered"}`},
		{"/api/v1/flyball/decisions?limit=0", 200, `{"status":"success","data":[` + one + `]}`},
		{"/api/v1/flyball/decisions?limit=1001", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"limit\": \"1001\": expected a number from 1 to 1000, or 0 for that many"}`},
		{"/api/v1/nothing", 404, `{"status":"error","errorType":"not_found","error":"no /api/v1/nothing in the API of this version"}`},
		{"/api/v1/flyball/decisions?since=noon", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"since\": \"noon\": expected RFC 3339 or Unix seconds"}`},
		{"/api/v1/flyball/decisions?until=NaN", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"until\": \"NaN\": expected RFC 3339 or Unix seconds"}`},
	} {
		w := get(t, p, tt.url)
		if diff := cmp.Diff(tt.want+"\n", w.Body.String()); diff != "" || w.Code != tt.code {
			t.Errorf("%s: %d %s", tt.url, w.Code, diff)
		}
	}
	get(t, p, "/api/v1/flyball/decisions?rule=digits&since=1763812800.5&until=2026-11-22T13:00:00%2B01:00&limit=7")
	want := Filter{Rule: "digits", Since: time.Unix(1763812800, 5e8), Until: noon}
	if k.n != 7 || k.filter.Rule != want.Rule || !k.filter.Since.Equal(want.Since) || !k.filter.Until.Equal(want.Until) {
		t.Errorf("asked for %d of %+v", k.n, k.filter)
	}
	p.Decisions = nil
	if w := get(t, p, "/api/v1/flyball/decisions"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "role rules") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
