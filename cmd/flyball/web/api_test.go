package web

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
)

// small is a decision that fits in one line of JSON.
func small() *rules.Decision {
	return &rules.Decision{
		ID: "abc", Time: noon, Rule: "digits", Target: "process/digits", Action: rules.Up, From: 1, To: 2,
		Reasons: []rules.Reason{rules.AboveTarget}, Text: "load <script>alert(1)</script>", Result: rules.Applied,
	}
}

func TestAPI(t *testing.T) {
	k := &kept{all: []*rules.Decision{small()}}
	p := Page{Status: func(context.Context) Status { return Status{} }, Decisions: k}
	p.Status = func(context.Context) Status { return Status{Budgets: fullStatus().Budgets} }
	one := `{"id":"abc","time":"2026-11-22T12:00:00Z","rule":"digits","target":"process/digits","mode":"","action":"up","from":1,"to":2,` +
		`"reasons":["AboveTarget"],"text":"load \u003cscript\u003ealert(1)\u003c/script\u003e","result":"applied",` +
		`"replicas":{"spec":0,"ready":0,"pending":0,"min":0,"max":0},"queries":null,"combined":0,"gated":0,"costed":0,"stabilized":0,"limited":0,"damped":0,"confidence":0}`
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
		{
			"/api/v1/flyball/budgets", 200,
			`{"status":"success","data":[{"name":"unknown","policy":"soft","period":"30d","applies_to":[],"limit_usd":500,"spend_usd":null,"forecast_usd":null,"used_up":false},` +
				`{"name":"gpu","policy":"hard","period":"month","applies_to":["digits","llama"],"limit_usd":42000,"spend_usd":41000,"forecast_usd":55000,"used_up":true,"period_end":"2026-11-30T10:00:00Z"}]}`,
		},
		{"/api/v1/nothing", 404, `{"status":"error","errorType":"not_found","error":"no /api/v1/nothing in the API of this version"}`},
		{"/api/v1/flyball/decisions?since=noon", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"since\": \"noon\": expected RFC 3339 or Unix seconds"}`},
		{"/api/v1/flyball/decisions?every=all", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"every\": \"all\": expected true or false"}`},
		{"/api/v1/flyball/decisions?until=NaN", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"until\": \"NaN\": expected RFC 3339 or Unix seconds"}`},
	} {
		w := get(t, p, tt.url)
		if diff := cmp.Diff(tt.want+"\n", w.Body.String()); diff != "" || w.Code != tt.code {
			t.Errorf("%s: %d %s", tt.url, w.Code, diff)
		}
	}
	p.Warnings = func() []string { return []string{"decisions cannot be recorded: <no space>"} }
	for _, path := range []string{"decisions", "decisions/abc", "models", "rules", "targets", "budgets"} {
		if w := get(t, p, "/api/v1/flyball/"+path); w.Code != 200 || !strings.Contains(w.Body.String(), `,"warnings":["decisions cannot be recorded: \u003cno space\u003e"]}`) {
			t.Errorf("%s has no warning: %d %s", path, w.Code, w.Body)
		}
	}
	if page := get(t, p, "/").Body.String(); !strings.Contains(page, `<ul class="faults" role="alert"><li>decisions cannot be recorded: &lt;no space&gt;</li></ul>`) {
		t.Error("the page has no warning")
	}
	get(t, p, "/api/v1/flyball/decisions?rule=digits&since=1763812800.5&until=2026-11-22T13:00:00%2B01:00&limit=7")
	want := Filter{Rule: "digits", Since: time.Unix(1763812800, 5e8), Until: noon}
	if k.n != 7 || k.filter.Rule != want.Rule || !k.filter.Since.Equal(want.Since) || !k.filter.Until.Equal(want.Until) {
		t.Errorf("asked for %d of %+v", k.n, k.filter)
	}
	if get(t, p, "/api/v1/flyball/decisions?every=true"); !k.filter.Every {
		t.Errorf("asked for %+v", k.filter)
	}
	p.Decisions = nil
	if w := get(t, p, "/api/v1/flyball/decisions"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "role rules") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
