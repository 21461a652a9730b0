package web

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCharts(t *testing.T) {
	all := []Rule{{Name: "digits"}, {Name: "llama"}}
	q := &waves{}
	var c charts
	v := c.view(t.Context(), q, all, state{Range: time.Hour}, noon)
	if len(v.Rules) != 2 || len(v.Rules[0].Rows) != 13 || v.Demand != "flyball_scale_signal_value" {
		t.Fatalf("%+v", v)
	}
	newest := v.Rules[0].Rows[0]
	if want := (row{noon, []float64{q.value("signal", noon)}, q.value("desired", noon), q.value("ready", noon)}); cmp.Diff(want, newest) != "" {
		t.Errorf("newest row: %s", cmp.Diff(want, newest))
	}
	c.view(t.Context(), q, all, state{Range: time.Hour}, noon.Add(900*time.Millisecond))
	if len(q.ranges) != 3 {
		t.Errorf("asked %d times within a second, expected 3: %v", len(q.ranges), q.ranges)
	}
	c.view(t.Context(), q, all, state{Range: time.Hour}, noon.Add(time.Second))
	if len(q.ranges) != 6 {
		t.Errorf("asked %d times, expected 3 more a second later", len(q.ranges))
	}
	// A young history is shown over the time that it has.
	young := &waves{since: noon.Add(-2 * time.Minute)}
	var fresh charts
	if v := fresh.view(t.Context(), young, all[:1], state{Range: time.Hour}, noon); len(v.Rules[0].Rows) != 5 || v.Rules[0].Rows[4].Time != noon.Add(-100*time.Second) {
		t.Errorf("rows %+v", v.Rules[0].Rows)
	}
	// Only the worst of many have a chart, and only they are asked for; names are no patterns.
	many := []Rule{{Name: "a.b"}, {Name: "c"}, {Name: "d"}, {Name: "e"}, {Name: "f"}}
	if v := fresh.view(t.Context(), q, many, state{Range: time.Hour}, noon); len(v.Rules) != chartsShown || v.Ready != `flyball_scale_ready_replicas{rule=~"a\\.b|c|d|e"}` {
		t.Errorf("%d charts, %s", len(v.Rules), v.Ready)
	}
	// A store that does not answer is not asked by every page.
	down := &waves{err: errors.New("no store")}
	for _, after := range []time.Duration{0, time.Second, 9 * time.Second} {
		if v := fresh.view(t.Context(), down, all, state{Range: time.Minute}, noon.Add(after)); v.Error != "no store" || len(down.ranges) != 1 {
			t.Errorf("after %s: error %q, asked %d times", after, v.Error, len(down.ranges))
		}
	}
	down.err = nil
	if v := fresh.view(t.Context(), down, all, state{Range: time.Minute}, noon.Add(10*time.Second)); v.Error != "" || len(v.Rules[0].Rows) == 0 {
		t.Errorf("10 s later: %+v", v)
	}
}

func TestGraph(t *testing.T) {
	for _, tt := range []struct {
		url  string
		code int
		want string
	}{
		{"/graph", 200, "Write an expression"},
		{"/graph?g0.expr=up&g0.tab=1", 200, "2 series in"},
		{"/graph?g0.expr=up&g0.end_input=2026-11-21+10:00:00", 200, "At 2026-11-21 10:00:00 UTC"},
		{"/graph?g0.expr=up&g0.moment_input=2026-11-21T10:00:00Z", 200, `data-end="1795255200"`},
		{"/graph?g0.expr=up&g0.range_input=1w", 200, `data-range="604800"`},
		{"/graph?g0.expr=up&g0.range_input=long", 400, "g0.range_input: &#34;long&#34;: expected a duration from 1s to 366d, such as 1h"},
		{"/graph?g0.expr=up&g0.end_input=soon", 400, "g0.end_input: &#34;soon&#34;: expected a time such as"},
		{"/graph?g0.expr=" + strings.Repeat("x", 10_001), 400, "g0.expr: 10001 bytes long: expected an expression of at most 10000"},
	} {
		w := get(t, fullPage(), tt.url)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: %d, expected %d with %q", tt.url[:min(len(tt.url), 80)], w.Code, tt.code, tt.want)
		}
	}
	p := fullPage()
	p.Queries = &waves{err: errors.New(`query up{: 1:4: parse error: unexpected end of input`)}
	if w := get(t, p, "/graph?g0.expr=up%7B"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "1:4: parse error") || strings.Contains(w.Body.String(), "series in") {
		t.Errorf("a wrong expression: %d", w.Code)
	}
	p.Queries = nil
	if w := get(t, p, "/graph?g0.expr=up"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "role rules") {
		t.Errorf("without a store: %d %s", w.Code, w.Body)
	}
}
