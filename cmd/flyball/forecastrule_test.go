//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flyball/rules"
)

// TestForecastRule: a forecast rule is evaluated by a process, seen in the API, by explain and at /metrics, goes on over a reload
// that leaves it as it is, begins anew with other options, and leaves its state behind.
func TestForecastRule(t *testing.T) {
	rule := func(more string) string {
		return `groups:
- name: g
  interval: 100ms
  rules:
  - {forecast: "demand:ahead", query: 'label_replace(vector(7), "model", "chat", "", "")', step: 1s, history: 1m, horizon: 5s, lead: 2s, seasons: none` + more + `}
  - {record: seen, expr: 'sum(demand:ahead{horizon="lead"})'}
`
	}
	w := startWithin(t, map[string]string{
		"flyball.yml": "global: {scrape_interval: 100ms, evaluation_interval: 100ms}\nrule_files: [a.rules.yml]\nexporter: {collectors: {host: false, gpu: false}}\n",
		"a.rules.yml": rule(""),
	})
	web := "http://" + w.webListener.Addr().String()
	get := func(path string) string {
		t.Helper()
		response, err := http.Get(web + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	forecasts := func() []rules.ForecastStatus {
		t.Helper()
		var answer struct {
			Status string
			Data   []rules.ForecastStatus
		}
		if err := json.Unmarshal([]byte(get("/api/v1/flyball/forecasts")), &answer); err != nil || answer.Status != "success" {
			t.Fatalf("%+v %v", answer, err)
		}
		return answer.Data
	}
	w.eventually("a forecast of the history", func() bool {
		f := forecasts()
		return len(f) == 1 && f[0].HistoryLoaded && len(f[0].Series) == 1 && f[0].Series[0].Values > 60
	})
	f := forecasts()[0]
	if s := f.Series[0]; f.Name != "demand:ahead" || s.Labels["model"] != "chat" || s.Armed || len(s.Points) < 5 || s.Points[0].Quantiles["0.9"] != 7 {
		t.Errorf("%+v", f)
	}
	if text := get("/api/v1/flyball/forecasts?name=other"); !strings.Contains(text, `"data":[]`) {
		t.Errorf("of another name: %s", text)
	}
	w.eventually("what a rule below makes of it", func() bool {
		got, err := w.store.Query(t.Context(), "seen", time.Now(), 0)
		return err == nil && len(got) == 1 && got[0].Value == 14
	})
	metrics := get("/metrics")
	for _, line := range []string{
		`demand:ahead{horizon="lead",model="chat",quantile="0.9"} 7`,
		`flyball_forecast_armed{forecast="demand:ahead",model="chat"} 0`,
		`# TYPE flyball_forecast_missing_samples_total counter`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("/metrics has not %s", line)
		}
	}
	// The store has them once, though it scrapes /metrics.
	if got, err := w.store.Query(t.Context(), `count({__name__=~"demand:ahead|flyball_forecast_armed"})`, time.Now(), 0); err != nil || len(got) != 1 || got[0].Value != 5 {
		t.Errorf("%v %v: want 2 levels at 2 horizons, and one of armed", got, err)
	}

	var told bytes.Buffer
	if code := execute(t.Context(), []string{"explain", "--url=" + web, "demand:ahead"}, &told, t.Output()); code != exitOK {
		t.Errorf("explain: exit %d", code)
	}
	for _, words := range []string{"lead     2s", "as the rule gives it", "history  60 of 60 steps", `{model="chat"}`, "not armed", "7 at the lead"} {
		if !strings.Contains(told.String(), words) {
			t.Errorf("explain does not say %q:\n%s", words, told.String())
		}
	}
	if code := execute(t.Context(), []string{"explain", "--url=" + web, "nobody"}, io.Discard, &told); code != exitFailed || !strings.Contains(told.String(), "no decision of that rule") {
		t.Errorf("explain nobody: exit %d, %s", code, told.String())
	}

	before := w.live.Load().predictors[0]
	w.write(map[string]string{"a.rules.yml": rule("") + "  - {record: other, expr: '1'}\n"})
	if err := w.reload(t.Context()); err != nil || w.live.Load().predictors[0] != before {
		t.Errorf("a reload that leaves the rule as it is: %v, it is another: %v", err, w.live.Load().predictors[0] != before)
	}
	w.write(map[string]string{"a.rules.yml": rule(", model: naive")})
	if err := w.reload(t.Context()); err != nil || w.live.Load().predictors[0] == before {
		t.Errorf("a reload with another model: %v, it is the same: %v", err, w.live.Load().predictors[0] == before)
	}
	w.eventually("the history of the rule that changed", func() bool {
		f := forecasts()
		return len(f) == 1 && f[0].HistoryLoaded && len(f[0].Series) == 1 && f[0].Series[0].Model == "naive"
	})
	if err := w.forecasts.Save(time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "state", "forecasts", "demand:ahead.json")); err != nil {
		t.Error(err)
	}
}
