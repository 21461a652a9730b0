package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"flyball/rules/peertest"
)

// TestAgainst asks a real Prometheus, which scrapes itself, the queries of a dashboard that has one of each mistake.
func TestAgainst(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "a_metric 1") }))
	defer target.Close()
	server := peertest.Prometheus(t, `
global: {scrape_interval: 1s}
scrape_configs:
- job_name: away
  static_configs: [{targets: ["127.0.0.1:1"], labels: {zone: a.b}}]
- job_name: prometheus
  static_configs: [{targets: ["`+target.Listener.Addr().String()+`"], labels: {zone: c}}]
`)
	client, err := api.NewClient(api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	queries := v1.NewAPI(client)
	remote := Prometheus(queries)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if n, err := remote.Query(t.Context(), "count(count_over_time(scrape_samples_scraped[1m]) >= 3) == 2", time.Now()); err == nil && n > 0 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("nothing was scraped: %v\n%s", err, server.Log())
		}
	}
	text := `{"title": "T",
"templating": {"list": [
  {"name": "zone", "type": "query", "query": "label_values(up, zone)", "multi": true, "includeAll": true, "current": {"value": ["$__all"]}},
  {"name": "job", "type": "query", "query": "label_values(up{zone=~\"$zone\"}, job)", "current": {"value": "gone"}},
  {"name": "first", "type": "query", "query": "query_result(count by (zone) (up))", "regex": "/zone=\"(.+?)\"/"},
  {"name": "names", "type": "query", "query": "metrics(scrape_.*_seconds)"},
  {"name": "all", "type": "query", "query": "label_names()"},
  {"name": "typo", "type": "query", "query": "label_values(up, zoen)"},
  {"name": "none", "type": "query", "query": "label_values(upp, zone)"},
  {"name": "empty", "type": "query", "query": "label_values(up, zone)", "regex": "/^z/"}
]},
"annotations": {"list": [{"name": "Down", "expr": "up == 0"}]},
"panels": [{"type": "timeseries", "title": "P", "targets": [
  {"refId": "A", "expr": "sum by (job) (rate(scrape_samples_scraped{zone=~\"$zone\"}[$__rate_interval]))"},
  {"refId": "B", "expr": "up{job=\"$job\", zone=\"$first\"}", "instant": true},
  {"refId": "C", "expr": "max({__name__=\"$names\"})"},
  {"refId": "D", "expr": "scrape_duration_second"},
  {"refId": "E", "expr": "up{zoen=\"c\"}"},
  {"refId": "F", "expr": "up + on (job) up{zone=\"C\"}"},
  {"refId": "G", "expr": "up > 2"},
  {"refId": "H", "expr": "up * on (nothing) up"},
  {"refId": "I", "expr": "gone", "hide": true},
  {"refId": "J", "expr": "up{zone=\"a.b\", job=\"prometheus\"}"}
]}]}`
	d, err := Read("d.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if f := d.Check(); len(f) > 0 {
		t.Fatalf("%q", texts(f))
	}
	now := time.Now()
	a := Against{API: remote, Window: Window{Start: now.Add(-time.Minute), End: now, Step: time.Second, ScrapeInterval: time.Second}}
	calls := 0
	findings, err := a.Check(t.Context(), d, func(done, of int) { calls++ })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`d.json:8:60: variable "typo": no values: its series have no label "zoen" (did you mean "zone"?) [no-data]`,
		`d.json:9:60: variable "none": no values: no metric "upp" (did you mean "up"?) [no-data]`,
		`d.json:10:61: variable "empty": no values: none of 2 values matches its regular expression /^z/ [no-data]`,
		`d.json:17:27: panel "P", query D: no series: no metric "scrape_duration_second" (did you mean "scrape_duration_seconds"?) [no-data]`,
		`d.json:18:27: panel "P", query E: no series: metric up has no label "zoen" (did you mean "zone"?) [no-data]`,
		`d.json:19:41: panel "P", query F: no series: no series of up has zone="C" [no-data]`,
		`d.json:20:27: panel "P", query G: no series: every selector has series, what is made of them has none (asked: up > 2) [no-data]`,
		`d.json:23:27: panel "P", query J: no series: no series of up matches all of {zone="a.b", job="prometheus", __name__="up"} [no-data]`,
	}
	var got []string
	for _, line := range texts(findings) {
		if len(line) > 16 && line[:13] == "d.json:21:27:" { // the words are Prometheus's
			if want := `d.json:21:27: panel "P", query H: refused: `; line[:len(want)] != want {
				t.Errorf("%s", line)
			}
			continue
		}
		got = append(got, line)
	}
	if len(got) != len(findings)-1 {
		t.Errorf("a join of many to many was not refused: %q", got)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if calls != len(d.Queries)+1 {
		t.Errorf("progress was told %d times of %d queries", calls, len(d.Queries))
	}

	t.Run("values of one's own", func(t *testing.T) {
		a := Against{API: remote, Window: a.Window, Variables: map[string]string{"zone": "nowhere"}}
		findings, err := a.Check(t.Context(), d, nil)
		if err != nil || len(findings) != len(got)+1+3 { // the refused one; query A, the variable job and what uses it
			t.Errorf("%v: %q", err, texts(findings))
		}
	})
	t.Run("away", func(t *testing.T) {
		server.Stop()
		if f, err := a.Check(t.Context(), d, nil); err == nil {
			t.Errorf("no error, and %q", texts(f))
		}
	})
}
