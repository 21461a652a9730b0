package web

import (
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// get asks a page whose clock stands at noon.
func get(t *testing.T, p Page, url string) *httptest.ResponseRecorder {
	t.Helper()
	return answerOf(p, httptest.NewRequest(http.MethodGet, url, nil))
}

func answerOf(p Page, r *http.Request) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	p.register(mux, func() time.Time { return noon })
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// changing is what differs from one page, or one build, to the next.
var changing = regexp.MustCompile(`/static/[0-9a-f]+/|data-build="[0-9a-f]+"|name="token" value="[0-9a-f]+"| in [0-9.]+ [µm]?s<`)

// golden compares a page, one tag a line, without what changes, with the one that is kept.
func golden(t *testing.T, name, page string) {
	t.Helper()
	page = changing.ReplaceAllString(page, "-")
	page = regexp.MustCompile(`>\s*<`).ReplaceAllString(page, ">\n<") + "\n"
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), page); diff != "" {
		t.Errorf("%s (-update rewrites it):\n%s", path, diff)
	}
}

func TestGolden(t *testing.T) {
	empty := Page{Status: func(context.Context) Status { return Status{} }, Decisions: &kept{}, Queries: &waves{}, Brake: &brake{}}
	frozen := fullPage()
	frozen.Brake = &brake{freeze: &rules.Freeze{At: noon.Add(-time.Hour), By: "10.0.0.7", Why: "a bad rollout"}}
	for _, tt := range []struct {
		golden, url string
		page        Page
	}{
		{"full.golden.html", "/?refresh=off&decision=abc", fullPage()},
		{"empty.golden.html", "/", empty},
		{"frozen.golden.html", "/?rule=digits&range=6h", frozen},
		{"forecast.golden.html", "/forecasts/digits_demand?refresh=off", fullPage()},
		{"graph.golden.html", "/graph?g0.expr=up%7Bjob%3D%22digits%22%7D&g0.tab=1&g0.range_input=2h", fullPage()},
	} {
		t.Run(tt.golden, func(t *testing.T) {
			w := get(t, tt.page, tt.url)
			if w.Code != http.StatusOK {
				t.Errorf("status %d", w.Code)
			}
			golden(t, tt.golden, w.Body.String())
		})
	}
}

func TestPage(t *testing.T) {
	w := get(t, fullPage(), "/")
	page := html.UnescapeString(w.Body.String())
	for _, want := range []string{
		"1.2.3", `data-testid="mode">acting`, "load 912 at 130 a replica needs 8", `href="/api/v1/flyball/decisions/abc"`, "not evaluated yet",
		"connection refused", "many-to-many", `<noscript><meta http-equiv="refresh" content="5"></noscript>`, "stop refreshing",
		"the newest sample is 3m old", "holds, not for long enough", "the target refused it, or could not be reached", "fork: resource temporarily unavailable",
		"as fast as behavior.up.policies allow", `href="/graph?g0.expr=sum(rate`, "digits needs all the replicas", "Nov 21 10:00:00",
	} {
		if !strings.Contains(strings.ReplaceAll(page, "%28", "("), want) {
			t.Errorf("no %q on the page", want)
		}
	}
	table := func(id string) string {
		_, rest, _ := strings.Cut(page, `data-testid="`+id+`"`)
		rest, _, _ = strings.Cut(rest, "</table>")
		return rest
	}
	for _, first := range []struct{ table, bad, good string }{
		{"rules", ">digits<", ">new<"},
		{"rules", ">new<", ">llama<"},
		{"models", ">llama<", ">digits<"},
		{"alerts", "Overloaded", "Idle"},
		{"alerts", "Idle", "Slow"},
		{"replicas", "backoff", "ready"},
		{"groups", "broken", "slow"},
		{"groups", "slow", "fine"},
		{"targets", "down", "up"},
	} {
		rows := table(first.table)
		_, rows, _ = strings.Cut(rows, "<tbody>")
		bad, good := strings.Index(rows, first.bad), strings.Index(rows, first.good)
		if bad < 0 || good < 0 || bad > good {
			t.Errorf("%s: %q is not before %q: what is wrong comes first", first.table, first.bad, first.good)
		}
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if inline := regexp.MustCompile(`<script(>| [^s])|<style| style="| on[a-z]+="|javascript:`).FindString(page); inline != "" {
		t.Errorf("%q on the page, which its security policy forbids", inline)
	}
	if got := get(t, fullPage(), "/?refresh=off").Body.String(); strings.Contains(got, "http-equiv") {
		t.Error("refresh=off refreshes")
	}
	if w := get(t, fullPage(), "/nothing"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown path: %d", w.Code)
	}
}

// TestScrapedElsewhere: nobody is told to add what a configuration with prometheus.url must not have.
func TestScrapedElsewhere(t *testing.T) {
	page := Page{Status: func(context.Context) Status { return Status{Scraper: "https://prometheus.example/p"} }, Decisions: &kept{}, Queries: &waves{}}
	body := get(t, page, "/").Body.String()
	if !strings.Contains(body, "The Prometheus at https://prometheus.example/p scrapes") || strings.Contains(body, "scrape_configs") {
		t.Error(body)
	}
}

// TestEmptyPage: where there is nothing, the page says what to do next, and shows no part that this process has not.
func TestEmptyPage(t *testing.T) {
	p := Page{Status: func(context.Context) Status { return Status{} }, Decisions: &kept{}, ConfigFile: "my.yml"}
	page := get(t, p, "/").Body.String()
	for _, want := range []string{"observing", "flyball check rules FILE", "flyball explain RULE", "batchproxy.models", "rule_files", "flyball check config my.yml"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q on the page", want)
		}
	}
	for _, not := range []string{"Freeze acting", `href="/graph"`} {
		if strings.Contains(page, not) {
			t.Errorf("%q on the page of a process that has nothing for it", not)
		}
	}
	p.Status = func(context.Context) Status { return Status{Rules: []Rule{{Name: "digits"}}} }
	if page := get(t, p, "/").Body.String(); !strings.Contains(page, "flyball explain digits") {
		t.Error("no command with the name of the rule")
	}
	p.Decisions = nil // an exporter or a proxy alone
	if page := get(t, p, "/").Body.String(); strings.Contains(page, "Decisions") {
		t.Error("decisions on the page of a process that makes none")
	}
}

// TestEscaping: what comes from outside is text, wherever it is shown.
func TestEscaping(t *testing.T) {
	const evil = `"><script>alert('x')</script><img src=x onerror=alert(1)>`
	d := decision()
	d.ID, d.Rule, d.Target, d.Text, d.Error, d.Mode, d.Reasons = evil, evil, evil, evil, evil, evil, []rules.Reason{evil}
	d.Queries[0].Name, d.Queries[0].Expr, d.Queries[1].Detail = evil, evil, evil
	d.Signals[0].Name, d.Steps[0].If, d.Steps[0].Do, d.Result = evil, evil, evil, evil
	p := fullPage()
	p.Version, p.ConfigFile = evil, evil
	p.Decisions = &kept{all: []*rules.Decision{d}}
	p.Brake = &brake{freeze: &rules.Freeze{At: noon, By: evil, Why: evil}}
	p.Status = func(context.Context) Status {
		s := Status{
			Models: []Model{{Name: evil, Rate: 1}}, ModelError: evil, Rules: []Rule{{Name: evil, Target: evil, Last: d}},
			Replicas: []Replica{{Target: evil, Address: evil, State: evil, LastExit: evil}},
			Alerts:   []Alert{{Name: evil, State: evil, Labels: labels.FromStrings("model", evil, "rule", evil, "evil", evil), Summary: evil, Runbook: "javascript:alert(1)", Expr: evil}},
			Groups:   []Group{{Name: evil, File: evil, Errors: []string{evil}}},
			Targets:  []Target{{Job: evil, URL: evil, Health: evil, Error: evil}},
		}
		return s
	}
	p.Queries = &waves{err: errors.New(evil)}
	query := "?rule=%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E&model=%3Cscript%3E&decision=%3Cscript%3E&range=%3Cscript%3E"
	for _, url := range []string{"/", "/" + query, "/graph?g0.expr=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&g0.range_input=%3Cscript%3E", "/graph?g0.expr=up"} {
		page := get(t, p, url).Body.String()
		for _, bad := range []string{"<script>", "<img", `"javascript:`} {
			if strings.Contains(page, bad) {
				at := strings.Index(page, bad)
				t.Errorf("%s: %q on the page: ...%s", url, bad, page[max(0, at-100):at+50])
			}
		}
	}
}

// TestState: the query string says what is shown, a link keeps the rest of it, and what is wrong with it is told.
func TestState(t *testing.T) {
	for _, tt := range []struct {
		url  string
		code int
		want []string
		not  []string
	}{
		{"/?rule=digits&range=6h&refresh=off", 200, []string{`Only rule <b>digits</b>`, `href="/?range=6h&amp;refresh=off"`, `rule=~&#34;digits&#34;`, `data-range="21600"`, "127.0.0.1:9001", "Overloaded"}, []string{"r-llama", "d-def", "127.0.0.1:9003", "m-llama", "Slow"}},
		{"/?model=llama", 200, []string{`Only model <b>llama</b>`, "r-llama", "d-def", "127.0.0.1:9003", "No alert is pending or firing for this"}, []string{"r-digits", "d-abc", "m-digits", "Idle"}},
		{"/?decision=def", 200, []string{`id="t-def" data-decision="def" open>`, `id="t-abc" data-decision="abc">`}, nil},
		{"/?refresh=30s", 200, []string{`content="30"`, `data-refresh="30"`}, nil},
		{"/?rule=digit", 200, []string{"rule: no scale rule is called &#34;digit&#34;: there is llama, new, digits"}, []string{"d-abc"}},
		{"/?model=x", 200, []string{"model: no model is called &#34;x&#34;: there is digits, llama"}, nil},
		{"/?decision=nope", 200, []string{"no decision with the id &#34;nope&#34; is remembered"}, nil},
		{"/?range=5x", 400, []string{"range: &#34;5x&#34;: expected a duration from 1m to 31d, such as 15m, 1h or 7d"}, nil},
		{"/?range=1s", 400, []string{"expected a duration from 1m to 31d"}, nil},
		{"/?range=1y", 400, []string{"expected a duration from 1m to 31d"}, nil},
		{"/?refresh=1ms", 400, []string{"refresh: &#34;1ms&#34;: expected off, or a duration from 1s to 1h"}, nil},
		{"/?rule=" + strings.Repeat("x", 300), 400, []string{"rule: 300 bytes long: expected a name of at most 256"}, []string{strings.Repeat("x", 300)}},
	} {
		w := get(t, fullPage(), tt.url)
		page := w.Body.String()
		if w.Code != tt.code {
			t.Errorf("%s: %d, want %d", tt.url, w.Code, tt.code)
		}
		for _, want := range tt.want {
			if !strings.Contains(page, want) {
				t.Errorf("%s: no %q", tt.url, want)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(page, not) {
				t.Errorf("%s: %q is there", tt.url, not)
			}
		}
	}
	// An old decision is found by its link beside those that are shown.
	k := &kept{}
	for i := range 100 {
		d := hold()
		d.ID = fmt.Sprint("h", i)
		k.all = append(k.all, d)
	}
	p := fullPage()
	p.Decisions = k
	if page := get(t, p, "/?decision=h99").Body.String(); !strings.Contains(page, `id="t-h99" data-decision="h99" open`) || strings.Count(page, "data-decision=") != decisionsShown+1 {
		t.Errorf("%d decisions, expected the newest %d and the one of the link", strings.Count(page, "data-decision="), decisionsShown)
	}
	st := state{Rule: "a b&c", Range: 6 * time.Hour}
	if got, want := st.ForDecision("x"), "/?decision=x&range=6h&refresh=off&rule=a+b%26c"; got != want {
		t.Errorf("link %s, want %s", got, want)
	}
}

// TestSize: with all that it loads, the page is less than 100 kB on its way.
func TestSize(t *testing.T) {
	p := fullPage()
	many := fullStatus()
	k := &kept{}
	for i := range 100 {
		d := decision()
		d.ID, d.Time = fmt.Sprintf("%012x", i*7919), noon.Add(-time.Duration(i)*time.Second)
		k.all = append(k.all, d)
		many.Targets = append(many.Targets, Target{Job: "gpu", URL: fmt.Sprintf("http://10.0.0.%d:9400/metrics", i), Health: "up", Last: noon, Duration: time.Duration(i) * time.Millisecond})
	}
	p.Decisions, p.Status = k, func(context.Context) Status { return many }
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept-Encoding", "br;q=1.0, gzip;q=0.8")
	w := answerOf(p, r)
	if w.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("the page is not compressed: %v", w.Header())
	}
	total := w.Body.Len()
	t.Logf("page: %d bytes", total)
	plain, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(plain)
	if err != nil || !strings.Contains(string(page), "</html>") {
		t.Fatalf("%d bytes of page: %v", len(page), err)
	}
	loads := regexp.MustCompile(`(?:src|href)="(/static/[^"]+)"`).FindAllStringSubmatch(string(page), -1)
	if len(loads) != 5 {
		t.Errorf("the page loads %v", loads)
	}
	for _, l := range loads {
		r := httptest.NewRequest(http.MethodGet, l[1], nil)
		r.Header.Set("Accept-Encoding", "gzip")
		w := answerOf(p, r)
		if w.Code != http.StatusOK || w.Header().Get("Content-Encoding") != "gzip" || w.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("%s: %d %v", l[1], w.Code, w.Header())
		}
		t.Logf("%s: %d bytes", l[1], w.Body.Len())
		total += w.Body.Len()
		plain := get(t, p, l[1])
		if plain.Header().Get("Content-Encoding") != "" || plain.Body.Len() < w.Body.Len()/2 {
			t.Errorf("%s without compression: %v", l[1], plain.Header())
		}
	}
	t.Logf("all: %d bytes", total)
	if total >= 100_000 {
		t.Errorf("the page and what it loads are %d bytes, expected less than 100 kB", total)
	}
	if w := get(t, p, "/static/000000000000/page.js"); w.Code != http.StatusNotFound {
		t.Errorf("a file of another version: %d", w.Code)
	}
	for header, want := range map[string]bool{"gzip": true, "deflate, gzip;q=0.5": true, "gzip;q=0": false, "br": false, "": false} {
		r.Header.Set("Accept-Encoding", header)
		if takesGzip(r) != want {
			t.Errorf("Accept-Encoding %q: %v", header, !want)
		}
	}
}

func TestWords(t *testing.T) {
	for _, r := range rules.Reasons() {
		if meaning(r) == "" {
			t.Errorf("%s has no words", r)
		}
	}
	for _, r := range []rules.Result{rules.Applying, rules.Applied, rules.Unchanged, rules.Observed, rules.Failed, rules.Unrecorded} {
		if outcome(&rules.Decision{Result: r}) == "" {
			t.Errorf("%s has no words", r)
		}
	}
	var got []string
	for _, v := range []float64{0, 1, 1.234, 12.34, 912.25, 1e6, 0.00512, 1e-6, -5.5, math.NaN(), math.Inf(1)} {
		got = append(got, figure(v))
	}
	if diff := cmp.Diff([]string{"0", "1", "1.23", "12.3", "912", "1000000", "0.00512", "1e-06", "-5.50", "–", "+∞"}, got); diff != "" {
		t.Error(diff)
	}
	got = nil
	for _, d := range []time.Duration{0, 1500, 1500 * time.Microsecond, 84 * time.Millisecond, 1500 * time.Millisecond, 42 * time.Second, 90 * time.Second, time.Hour} {
		got = append(got, short(d))
	}
	if diff := cmp.Diff([]string{"0 s", "2 µs", "1.5 ms", "84 ms", "1.5 s", "42 s", "1m30s", "1h"}, got); diff != "" {
		t.Error(diff)
	}
	got = nil
	for _, d := range []time.Duration{-time.Second, 0, 59 * time.Second, 119 * time.Second, 5 * time.Minute, 47 * time.Hour, 72 * time.Hour} {
		got = append(got, ago(noon, noon.Add(-d)))
	}
	if diff := cmp.Diff([]string{"now", "now", "59 s ago", "119 s ago", "5 min ago", "47 h ago", "3 days ago"}, got); diff != "" {
		t.Error(diff)
	}
	got = nil
	at := func(ago time.Duration, v float64) Point { return Point{noon.Add(-ago), v} }
	for _, points := range [][]Point{
		nil,
		{at(0, 1)},
		{at(time.Minute, 0), at(0, 0)},
		{at(5*time.Minute, 10), at(4*time.Minute, 20), at(2*time.Minute, math.NaN()), at(time.Minute, math.Inf(1)), at(0, 5)},
	} {
		got = append(got, spark(noon, points))
	}
	if diff := cmp.Diff([]string{"", "", "M90.0,19.0L100.0,19.0", "M50.0,10.0L60.0,1.0M100.0,14.5"}, got); diff != "" {
		t.Error(diff)
	}
	d := decision()
	d.LimitedBy = []rules.Reason{rules.MetricStale, rules.InFlight, rules.Stabilized, rules.Cooldown, rules.MaxReplicas, rules.StepRule, rules.Paused, rules.BudgetCap, rules.FlapBudgetSpent}
	d.Combined, d.Gated = 2, 3
	var held [][]rules.Reason
	for _, s := range stages(d) {
		held = append(held, s.Held)
	}
	want := [][]rules.Reason{{rules.StepRule}, {rules.MetricStale, rules.InFlight}, {rules.BudgetCap}, {rules.Stabilized}, {rules.Cooldown}, {rules.FlapBudgetSpent}, {rules.MaxReplicas}}
	if diff := cmp.Diff(want, held); diff != "" {
		t.Error(diff)
	}
}
