package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"flyball/cmd/flyball/web"
	"flyball/rules/peertest"
	"flyball/rules/remote"
	"flyball/rules/store"
)

// parity is one request to flyball and to Prometheus, whose answers are to be the same: status, error type, message,
// warnings and data.
type parity struct {
	method string // "": GET
	path   string
	params string // S, E, M and N stand for the page's first time, its last, one between them, and now

	// What differs, and why. The comparison is of the rest.
	message string // the text of the error
	digits  string // the last digits of numbers
	all     string // everything: want is then what flyball answers
	want    string
}

// Reasons.
const (
	newInThree  = "2.42 does not know the parameter and ignores it"
	utf8Names   = "since 3.0 names may be any UTF-8"
	ownMessage  = "3.x says it in other words"
	openRange   = "since 3.0 a range does not include the sample at its beginning"
	names       = "3.x names the parameter"
	capital     = "2.42 begins with a capital letter"
	byChance    = "which of two it names first is by chance"
	otherSum    = "2.42 multiplies in another order"
	refusedHere = "a time that is none: Prometheus takes it for some time"
)

var parities = []parity{
	// Instant queries: types, values, times.
	{path: "query", params: "query=queue_depth&time=E"},
	{path: "query", params: "query=queue_depth&time=M"},
	{method: "POST", path: "query", params: "query=queue_depth&time=E"},
	{path: "query", params: "query=odd_values&time=E"},
	{path: "query", params: "query=odd_labels&time=E"},
	{path: "query", params: "query=latency_seconds_bucket&time=E"},
	{path: "query", params: "query=sum by (code) (requests_total)&time=E"},
	{path: "query", params: "query=rate(requests_total{code=\"200\"}[2m])&time=E", digits: otherSum},
	{path: "query", params: "query=increase(requests_total{code=\"200\"}[90s])&time=M"},
	{path: "query", params: "query=histogram_quantile(0.9, rate(latency_seconds_bucket[2m]))&time=E"},
	{path: "query", params: "query=sort_desc(queue_depth)&time=E"},
	{path: "query", params: "query=topk(1, queue_depth)&time=E"},
	{path: "query", params: "query=label_replace(queue_depth, \"m\", \"$1\", \"model\", \"(..).*\")&time=E"},
	{path: "query", params: "query=avg_over_time(queue_depth[170s:30s])&time=E"},
	{path: "query", params: "query=queue_depth offset 1m&time=E"},
	{path: "query", params: "query=queue_depth @ end()&time=E"},
	{path: "query", params: "query=requests_total / on (code) group_left () sum by (code) (requests_total)&time=E"},
	{path: "query", params: "query=requests_total and queue_depth&time=E"},
	{path: "query", params: "query=absent(nothing)&time=E"},
	{path: "query", params: "query=nothing&time=E"},
	{path: "query", params: "query=1%2B1&time=E"},
	{path: "query", params: "query=1/0&time=1.5"},
	{path: "query", params: "query=-1/0&time=1.0625"},
	{path: "query", params: "query=time()&time=-1.25"},
	{path: "query", params: "query=time()&time=2026-01-02T03:04:05.678Z"},
	{path: "query", params: "query=\"text with \\\"quotes\\\"\"&time=E"},
	{path: "query", params: "query=count(up)&time=N"},
	{path: "query", params: "query=scalar(queue_depth{model=\"qwen\"})&time=E"},
	{path: "query", params: "query=count_values(\"v\", odd_values)&time=E"},
	{path: "query", params: "query=ALERTS{alertname=\"QueueDeep\"}&time=N"},
	{path: "query", params: "query=queue:sum&time=N"},
	{path: "query", params: "query=queue_depth&time=E&lookback_delta=1s"},
	{path: "query", params: "query=queue_depth&time=E&timeout=10s"},
	{path: "query", params: "query=queue_depth&time=E;x=1", message: capital},
	{path: "query", params: "query=queue_depth[44s]&time=E"},
	{path: "query", params: "query=queue_depth[45s]&time=E", all: openRange, want: "200"},
	// Instant queries that fail.
	{path: "query", params: "time=E", message: "the place of an empty expression: 2.42 says unknown position, 3.x counts from 1:1"},
	{path: "query", params: "query=sum(&time=E"},
	{path: "query", params: "query=queue_depth{&time=E"},
	{path: "query", params: "query=nosuch(queue_depth)&time=E"},
	{path: "query", params: "query=rate(queue_depth)&time=E"},
	{path: "query", params: "query=sum(1)&time=E"},
	{path: "query", params: "query=queue_depth{model=~\"(\"}&time=E", message: "3.x's regular expressions have other texts"},
	{path: "query", params: "query=queue_depth * on () requests_total&time=E", message: byChance},
	{path: "query", params: "query=queue_depth&time=yesterday", message: capital},
	{path: "query", params: "query=queue_depth&time=2026-01-02", message: capital},
	{path: "query", params: "query=queue_depth&time=E&timeout=soon"},
	{path: "query", params: "query=queue_depth&time=E&timeout=1e30"},
	{path: "query", params: "query=queue_depth&time=E&lookback_delta=x", all: newInThree, want: `400 bad_data error parsing lookback delta duration: cannot parse "x" to a valid duration`},
	{path: "query", params: "query=sum(queue_depth)&time=E&timeout=0s", message: byChance},
	{method: "PUT", path: "query", params: "query=1", message: "Prometheus answers 405 as text", all: "Prometheus answers 405 as text", want: `405 bad_data`},
	{path: "query", params: "query=queue_depth&time=NaN", all: refusedHere, want: `400 bad_data invalid parameter "time": invalid time value for 'time': cannot parse "NaN" to a valid timestamp`},
	{path: "query", params: "query=queue_depth&time=E&limit=x", all: newInThree, want: `400 bad_data invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax`},
	{path: "query", params: "query=queue_depth&time=E&limit=-1", all: newInThree, want: `400 bad_data invalid parameter "limit": limit must be non-negative`},
	{path: "query", params: "query={\"queue depth\"}&time=E", all: utf8Names, want: `200`},
	{path: "query", params: "query=requests_total&time=M&stats=all"},
	{path: "query", params: "query=queue_depth&time=E&stats=true"},
	{path: "query", params: "query=sort(queue_depth)&time=E&limit=1", all: newInThree, want: `200`},
	{path: "query", params: "query=queue_depth&time=E&lookback_delta=0"},
	{path: "query", params: "query=queue_depth&time=E&lookback_delta=-1"},
	{path: "query", params: "query=queue_depth&time=E&timeout=-1s"},
	{method: "POST", path: "query", params: "query=sum(&time=E"},
	{method: "POST", path: "query", params: "query=queue_depth&time=yesterday", message: capital},
	// Range queries.
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=15"},
	{method: "POST", path: "query_range", params: "query=queue_depth&start=S&end=E&step=15"},
	{path: "query_range", params: "query=odd_values&start=M&end=E&step=15s"},
	{path: "query_range", params: "query=rate(requests_total{code=\"200\"}[1m])&start=S&end=E&step=7.5", digits: otherSum},
	{path: "query_range", params: "query=sum(queue_depth) by (job)&start=S&end=E&step=1m"},
	{path: "query_range", params: "query=1&start=S&end=E&step=100"},
	{path: "query_range", params: "query=queue_depth&start=E&end=E&step=1"},
	{path: "query_range", params: "query=nothing&start=S&end=E&step=15"},
	{path: "query_range", params: "query=queue_depth > 25&start=S&end=E&step=15"},
	{path: "query_range", params: "query=histogram_quantile(0.5, sum by (le) (rate(latency_seconds_bucket[1m])))&start=S&end=E&step=30"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=15&lookback_delta=5s"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=15&timeout=1m"},
	{path: "query_range", params: "query=queue_depth&end=E&step=15"},
	{path: "query_range", params: "query=queue_depth&start=S&step=15"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=0"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=-15"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=fast"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=9e18"},
	{path: "query_range", params: "query=queue_depth&start=E&end=S&step=15"},
	{path: "query_range", params: "query=queue_depth&start=0&end=E&step=15"},
	{path: "query_range", params: "query=queue_depth[1m]&start=S&end=E&step=15", message: names},
	{path: "query_range", params: "query=\"text\"&start=S&end=E&step=15", message: names},
	{path: "query_range", params: "query=sum(&start=S&end=E&step=15", message: names},
	{path: "query_range", params: "query=queue_depth * on () requests_total&start=S&end=E&step=15", message: byChance},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=15&limit=x", all: newInThree, want: `400 bad_data invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax`},
	{
		path: "query_range", params: "query=queue_depth&start=S&end=S&step=0.0001", all: "2.42's engine has no step below a millisecond either, and says so only where it divides by it",
		want: `400 bad_data invalid parameter "step": query resolution step widths below a millisecond are not accepted`,
	},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=60&stats=all"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=60&limit=1", all: newInThree, want: `200`},
	{method: "POST", path: "query_range", params: "query=queue_depth&start=E&end=S&step=15"},
	{path: "query_range", params: "query=queue_depth&start=S&end=E&step=15&timeout=0s", message: byChance},
	// Labels, values, series.
	{path: "labels"},
	{method: "POST", path: "labels", params: "match[]=queue_depth"},
	{path: "labels", params: "match[]=queue_depth&match[]=requests_total"},
	{path: "labels", params: "match[]=nothing"},
	{path: "labels", params: "match[]=queue_depth&start=S&end=E"},
	{path: "labels", params: "match[]=queue_depth&start=1&end=2"},
	{path: "labels", params: "match[]={}"},
	{path: "labels", params: "match[]={model=~\".*\"}"},
	{path: "labels", params: "match[]=sum("},
	{path: "labels", params: "start=x", message: capital},
	{path: "labels", params: "end=x", message: capital},
	{path: "labels", params: "limit=x", all: newInThree, want: `400 bad_data invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax`},
	{path: "labels", params: "limit=1", all: newInThree, want: `200`},
	{path: "label/code/values", params: "limit=1", all: newInThree, want: `200`},
	{path: "series", params: "match[]=queue_depth&limit=1", all: newInThree, want: `200`},
	{method: "POST", path: "series"},
	{method: "POST", path: "labels", params: "match[]={}"},
	{path: "label/__name__/values"},
	{path: "label/model/values"},
	{path: "label/text/values"},
	{path: "label/model/values", params: "match[]=queue_depth{model!=\"qwen\"}"},
	{path: "label/path/values", params: "match[]=requests_total{code=\"200\"}&match[]=requests_total{code=\"500\"}"},
	{path: "label/nothing/values"},
	{path: "label/model/values", params: "start=S&end=E"},
	{path: "label/model/values", params: "start=x", message: capital},
	{path: "label/model/values", params: "match[]={}"},
	{path: "label/no-name/values", all: utf8Names, want: `200`},
	{path: "label/%FF/values"},
	{path: "series", params: "match[]=queue_depth"},
	{method: "POST", path: "series", params: "match[]=queue_depth&match[]={code=\"500\"}"},
	{path: "series", params: "match[]={__name__=~\"odd.*\"}"},
	{path: "series", params: "match[]=queue_depth&start=S&end=E"},
	{path: "series", params: "match[]=queue_depth&start=1&end=2"},
	{path: "series", params: "match[]=nothing"},
	{path: "series"},
	{path: "series", params: "match[]={}"},
	{path: "series", params: "match[]=rate(x[1m])"},
	{path: "series", params: "match[]=queue_depth&start=x", message: capital},
	{path: "series", params: "match[]=queue_depth&limit=-1", all: newInThree, want: `400 bad_data invalid parameter "limit": limit must be non-negative`},
	// The rest.
	{path: "metadata", params: "metric=requests_total"},
	{path: "metadata", params: "metric=odd_values"},
	{path: "metadata", params: "metric=nothing"},
	{path: "metadata"},
	{path: "metadata", params: "limit=0"},
	{path: "metadata", params: "limit=x"},
	{path: "metadata", params: "limit_per_metric=x", all: newInThree, want: `400 bad_data limit_per_metric must be a number`},
	{path: "rules"},
	{path: "rules", params: "type=alert"},
	{path: "rules", params: "type=record"},
	{path: "rules", params: "type=scale"},
	{path: "rules", params: "rule_name[]=Later", all: newInThree, want: `200`},
	{path: "alerts"},
	{path: "targets"},
	{path: "targets", params: "state=active"},
	{path: "targets", params: "state=dropped"},
	{path: "targets", params: "state=any"},
	{path: "targets", params: "state=other"},
	{path: "format_query", params: "query=sum(queue_depth)by(job)/3"},
	{method: "POST", path: "format_query", params: "query=foo{b=\"c\"}[5m]"},
	{path: "format_query", params: "query=sum("},
	{path: "query_exemplars", params: "query=latency_seconds_bucket&start=S&end=E"},
	{path: "query_exemplars", params: "query=1&start=S&end=E"},
	{path: "query_exemplars", params: "query=sum(&start=S&end=E"},
	{path: "query_exemplars", params: "query=up&start=E&end=S"},
	{path: "query_exemplars", params: "query=up&start=x", message: capital},
	{path: "status/buildinfo"},
}

// TestAPIParity asks flyball and a real Prometheus, which hold the same samples, the same questions.
func TestAPIParity(t *testing.T) {
	t.Parallel() // most of its time it waits
	s := newAPIServer(t)
	p := peertest.Prometheus(t, fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 100ms}\nrule_files: [%q]\nscrape_configs:\n%s", s.rules, s.scrapeConfigs()),
		"--web.external-url="+apiExternalURL, "--web.route-prefix=/")
	evaluated(t, p.URL)
	elsewhere := beside(t, p.URL)
	now := time.Now()
	at := strings.NewReplacer("=S", fmt.Sprint("=", s.start.Unix()), "=E", fmt.Sprint("=", s.end().Unix()),
		"=M", "="+s.start.Add(100*time.Second+250*time.Millisecond).UTC().Format(time.RFC3339Nano), "=NaN", "=NaN", "=N", fmt.Sprintf("=%.3f", float64(now.UnixMilli())/1000))
	for _, tt := range parities {
		method := cmp.Or(tt.method, http.MethodGet)
		t.Run(fmt.Sprint(method, " ", tt.path, "?", tt.params), func(t *testing.T) {
			// Not url.ParseQuery: it would take the semicolon of one row for a fault.
			params := url.Values{}
			for pair := range strings.SplitSeq(at.Replace(tt.params), "&") {
				if name, value, ok := strings.Cut(pair, "="); ok {
					params.Add(name, strings.ReplaceAll(value, "%2B", "+"))
				}
			}
			if askedElsewhere(tt) {
				t.Run("elsewhere", func(t *testing.T) { compareElsewhere(t, method, elsewhere, p.URL, tt, params) })
			}
			gotCode, got := ask(t, method, s.url, tt.path, params)
			wantCode, want := ask(t, method, p.URL, tt.path, params)
			if tt.all != "" {
				answer := strings.TrimSpace(fmt.Sprint(gotCode, " ", cmp.Or(text(got, "errorType"), ""), " ", text(got, "error")))
				if !strings.HasPrefix(answer, tt.want) || gotCode == http.StatusOK && answer != tt.want {
					t.Errorf("answer %s, want %s", answer, tt.want)
				}
				if fmt.Sprint(gotCode, got) == fmt.Sprint(wantCode, want) {
					t.Errorf("there is no difference any more: %s", tt.all)
				}
				return
			}
			if gotCode != wantCode {
				t.Errorf("status %d, want %d", gotCode, wantCode)
			}
			if tt.message != "" {
				if text(got, "error") == "" || tt.message != byChance && text(got, "error") == text(want, "error") {
					t.Errorf("the message does not differ: %s", tt.message)
				}
				delete(got, "error")
				delete(want, "error")
			}
			if _, ok := got["infos"]; ok && want["infos"] == nil { // 2.42 has none
				delete(got, "infos")
			}
			if tt.digits != "" {
				if gocmp.Equal(alike(tt.path, want), alike(tt.path, got)) {
					t.Errorf("no digit differs: %s", tt.digits)
				}
				rounded(want)
				rounded(got)
			}
			if diff := gocmp.Diff(alike(tt.path, want), alike(tt.path, got)); diff != "" {
				t.Errorf("flyball differs (+) from Prometheus (-):\n%s", diff)
			}
		})
	}
	if len(parities) < 60 {
		t.Errorf("%d requests: too few to say much", len(parities))
	}
}

// beside is the API of a flyball that has the Prometheus at an address for what it does not know, which is all.
func beside(t *testing.T, address string) string {
	t.Helper()
	o := store.DefaultOptions()
	o.Dir = t.TempDir()
	s, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	c := remote.DefaultConfig()
	c.URL = address
	client, err := remote.New(c, remote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Prepare(store.Config{Remote: client})
	if err == nil {
		err = p.Commit(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	web.Prometheus{Store: func(*http.Request) web.PrometheusStore { return s.Router() }}.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.Close()
		client.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

// askedElsewhere says whether a request is one that flyball asks elsewhere: no fault of its parameters is for flyball to tell, and
// it is not about flyball itself.
func askedElsewhere(tt parity) bool {
	switch tt.path {
	case "rules", "alerts", "targets", "status/buildinfo", "format_query":
		return false
	}
	if strings.HasPrefix(tt.params, `query="text"`) { // nothing of it is elsewhere
		return false
	}
	return tt.all != newInThree && tt.all != refusedHere && tt.message != capital && tt.method != http.MethodPut
}

// compareElsewhere compares what Prometheus answers with what it answers through flyball: all of it is the same but the order
// of what has none, and errors of a parameter, which are flyball's own.
func compareElsewhere(t *testing.T, method, flyball, prometheus string, tt parity, params url.Values) {
	gotCode, got := ask(t, method, flyball, tt.path, params)
	wantCode, want := ask(t, method, prometheus, tt.path, params)
	if tt.all != "" && gotCode == http.StatusBadRequest { // a fault to this version, which asks nobody then
		return
	}
	if tt.message == byChance {
		delete(got, "error")
		delete(want, "error")
	}
	if diff := gocmp.Diff(alike(tt.path, want), alike(tt.path, got)); diff != "" || gotCode != wantCode {
		t.Errorf("status %d, want %d; through flyball it differs (+) from Prometheus (-):\n%s", gotCode, wantCode, diff)
	}
}

func text(answer map[string]any, key string) string {
	s, _ := answer[key].(string)
	return s
}

// alike takes from an answer what cannot be the same in two servers that run side by side, or in two versions:
//
//   - the order of what the API returns without one: vectors, series, alerts;
//   - when something was last evaluated or scraped, how long that or a query took, since when an alert is active;
//   - what 3.x has in addition: the samples that a query read, the number of dropped targets of each job, the job of a dropped target, the labels of a
//     recording rule that has none, three labels of discovered targets that begin with __ and speak of histograms;
//   - of a rule's error the series, of which the engine names two in no order;
//   - of buildinfo all but the names of the fields, and our own, flyball.
func alike(path string, answer map[string]any) any {
	series := regexp.MustCompile(`\[\{.*\}\]`)
	var walk func(key string, v any) any
	walk = func(key string, v any) any {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range []string{"lastEvaluation", "evaluationTime", "lastScrape", "lastScrapeDuration", "activeAt", "droppedTargetCounts", "timings", "samplesRead"} {
				delete(v, name)
			}
			if ls, ok := v["labels"].(map[string]any); ok && len(ls) == 0 && v["type"] == "recording" {
				delete(v, "labels")
			}
			if e, ok := v["lastError"].(string); ok {
				v["lastError"] = series.ReplaceAllString(e, "[...]")
			}
			if _, ok := v["discoveredLabels"]; ok && v["scrapeUrl"] == nil {
				delete(v, "scrapePool")
			}
			for name, value := range v {
				if strings.HasPrefix(name, "__") && strings.Contains(name, "_histograms_") {
					delete(v, name)
					continue
				}
				v[name] = walk(name, value)
			}
		case []any:
			for i := range v {
				v[i] = walk("", v[i])
			}
			if len(v) == 0 {
				break
			}
			// A scalar's result is a list too, of its time and its value.
			if _, ok := v[0].(map[string]any); key == "data" || ok && (key == "result" || key == "alerts") {
				slices.SortFunc(v, func(a, b any) int { return bytes.Compare(encoded(a), encoded(b)) })
			}
		}
		return v
	}
	if path == "status/buildinfo" {
		if data, ok := answer["data"].(map[string]any); ok {
			delete(data, "flyball")
			for name := range data {
				data[name] = ""
			}
		}
	}
	return walk("", answer)
}

// rounded rounds the values of samples to twelve digits.
func rounded(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, value := range v {
			rounded(value)
		}
	case []any:
		for i, value := range v {
			if number, err := strconv.ParseFloat(fmt.Sprint(value), 64); err == nil {
				v[i] = fmt.Sprintf("%.12g", number)
			} else {
				rounded(value)
			}
		}
	}
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was JSON a moment ago
	}
	return b
}
