package report_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules/report"
)

// options are those of a report over all that the server did.
func options() report.Options {
	return report.Options{Model: "digits", Start: morning, End: morning.Add(lasts), Step: 5 * time.Minute}
}

func mustMake(t testing.TB, src report.Source, o report.Options) *report.Report {
	t.Helper()
	r, err := report.Make(t.Context(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// between changes a healthy server for half an hour.
func between(change func(m *moment, minute float64)) func(float64) moment {
	return func(minute float64) moment {
		m := healthy(minute)
		if minute >= 60 && minute < 90 {
			change(&m, minute)
		}
		return m
	}
}

// TestFindings injects the cause of each finding into a healthy server, and gets that finding and no other, with evidence that
// its own PromQL shows.
func TestFindings(t *testing.T) {
	for _, tt := range []struct {
		name     string
		at       func(float64) moment
		want     []string // severity and name
		evidence string   // what the evidence says, by regular expression
		keys     string
	}{
		{name: "healthy", at: healthy},
		{
			name:     "requests wait",
			at:       between(func(m *moment, _ float64) { m.takes, m.waits, m.queued, m.rows = 0.7, 0.6, 40, 14 }),
			want:     []string{"warning queueing"},
			evidence: `8\d\.\d % of a request's time was waiting: [56]\d\d ms of [67]\d\d ms on average, and up to 9\d\d ms for one in twenty; up to 40 requests waited`,
			keys:     "signals[].target_per_replica",
		},
		{
			name: "requests wait at the most replicas, and are refused",
			at: between(func(m *moment, _ float64) {
				m.takes, m.waits, m.queued, m.rows, m.most, m.refused = 0.7, 0.6, 40, 14, 3, 2
			}),
			want:     []string{"critical queueing"},
			evidence: `3\d{3} requests were refused: queue_full`,
			keys:     "max",
		},
		{
			name:     "the device is saturated",
			at:       between(func(m *moment, _ float64) { m.busy = 0.99 }),
			want:     []string{"warning saturated-device"},
			evidence: `busy for 9[89](\.\d)? % of the time on average \(any kernel`,
			keys:     "signals[].target_per_replica",
		},
		{
			name:     "the KV cache is full",
			at:       between(func(m *moment, _ float64) { m.kv = 0.99 }),
			want:     []string{"warning kv-cache-full"},
			evidence: `the fullest replica used 99 % of it`,
			keys:     "signals[].utilization",
		},
		{
			name:     "a GPU is too hot",
			at:       between(func(m *moment, _ float64) { m.thermal = 0.5 }),
			want:     []string{"warning throttling"},
			evidence: `hw_thermal_slowdown held the clocks down for \d\d(\.\d)? % of the time, up to 50 %`,
			keys:     "--power-limit",
		},
		{
			name:     "a GPU is at its power limit",
			at:       between(func(m *moment, _ float64) { m.power = 0.5 }),
			want:     []string{"info throttling"},
			evidence: `sw_power_cap`,
			keys:     "--power-limit",
		},
		{
			name:     "batches do not fill",
			at:       between(func(m *moment, _ float64) { m.rows, m.running = 3, 60 }),
			want:     []string{"warning batches-not-filling"},
			evidence: `3(\.\d+)? rows in a batch on average, of 16.*2\d(\.\d)? requests in flight for each replica.*100 % of the batches were sent because of max_wait`,
			keys:     "batchproxy.models[].batch.max_wait",
		},
		{
			name:     "nobody asks",
			at:       between(func(m *moment, _ float64) { m.rate, m.tokens, m.running, m.queued = 0, 0, 0, 0 }),
			want:     []string{"warning idle-cost"},
			evidence: `1\.\d\d of 5\.\d\d USD \(2\d(\.\d)? %\) went in 25m with next to no requests.*keeps at least 1`,
			keys:     "min",
		},
		{
			name: "the size flaps",
			at: between(func(m *moment, minute float64) {
				m.current = 2 + float64(int(minute/4)%2)
				m.ready = m.current
			}),
			want:     []string{"warning flapping"},
			evidence: `process/digits turned round \d times \(to 2, 3, 2, 3.*, where 2 in 30m are usual`,
			keys:     "flap_budget",
		},
		{
			name: "cold starts",
			at: between(func(m *moment, minute float64) {
				m.current, m.ready = 5, 3
				if minute >= 72 {
					m.ready = 5
				} else {
					m.takes = 0.2
				}
			}),
			want:     []string{"info cold-starts"},
			evidence: `not ready once, the longest for 12m.*latency \(p95\) was up to 2\d\d ms then, usually \d\d(\.\d)? ms`,
			keys:     "signals[].forecast",
		},
		{
			name: "a start from nothing",
			at: between(func(m *moment, minute float64) {
				if minute < 64 {
					m.ready = 0
				}
			}),
			want:     []string{"warning cold-starts"},
			evidence: `requests came, \d\d(\.\d)? a second, while no replica was ready`,
			keys:     "min",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := storeSource{run(t, &server{at: tt.at})}
			r := mustMake(t, src, options())
			var got []string
			for _, c := range r.Checks {
				if c.NotMeasured != "" {
					t.Errorf("%s is not measured: %s", c.Name, c.NotMeasured)
				}
				if c.Finding == nil {
					continue
				}
				got = append(got, c.Finding.Severity+" "+c.Name)
				examine(t, src, c.Finding, tt.evidence, tt.keys)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				var b bytes.Buffer
				if err := r.WriteText(&b); err != nil {
					t.Error(err)
				}
				t.Errorf("findings: %s\n%s", diff, b.String())
			}
		})
	}
}

// examine sees that a finding says when, with what evidence and what to do, and that its queries show it.
func examine(t *testing.T, src storeSource, f *report.Finding, evidence, key string) {
	t.Helper()
	var texts []string
	for _, e := range f.Evidence {
		texts = append(texts, e.Text)
		if len(e.Queries) == 0 {
			t.Errorf("%s: no query", e.Text)
		}
		for _, q := range e.Queries {
			found, err := src.Store.Query(t.Context(), q, f.When[0].End, 0)
			if err != nil || len(found) == 0 {
				t.Errorf("%s: %s at %s: %v, %v", e.Text, q, f.When[0].End, found, err)
			}
		}
	}
	if text := strings.Join(texts, "; "); !regexp.MustCompile(evidence).MatchString(text) {
		t.Errorf("evidence %q does not match %s", text, evidence)
	}
	if first, last := morning.Add(55*time.Minute), morning.Add(96*time.Minute); f.When[0].Start.Before(first) || f.When[len(f.When)-1].End.After(last) {
		t.Errorf("when: %v", f.When)
	}
	if !strings.Contains(f.Recommendation, strings.TrimPrefix(strings.TrimPrefix(key, "signals[]."), "batchproxy.models[].")) || !strings.Contains(strings.Join(f.Keys, " "), key) {
		t.Errorf("%q, keys %v: expected to name %s", f.Recommendation, f.Keys, key)
	}
}

// TestNotMeasured: what is not there is said, for the finding that needs it and no other.
func TestNotMeasured(t *testing.T) {
	for _, tt := range []struct {
		without []string
		options func(*report.Options)
		check   string
		want    string
	}{
		{without: []string{"flyball_model_gpu_info"}, check: "saturated-device throttling", want: "--gpus names them"},
		{without: []string{"flyball_model_gpu_info"}, options: func(o *report.Options) { o.GPUs = `uuid=~"GPU-[ab]"` }},
		{without: []string{"flyball_gpu_clock_event_seconds_total"}, check: "throttling", want: "no series of flyball_gpu_clock_event_seconds_total"},
		{without: []string{"flyball_model_batch_capacity"}, check: "batches-not-filling", want: "--batch.max-size does"},
		{without: []string{"flyball_model_batch_capacity"}, options: func(o *report.Options) { o.BatchSize = 16 }},
		{without: []string{"flyball_model_kv_cache_utilization_ratio"}, check: "kv-cache-full", want: "no series of flyball_model_kv_cache_utilization_ratio"},
		{without: []string{"flyball_scale_cost_usd_per_hour"}, check: "idle-cost", want: "`price` of the scale rule"},
		{without: []string{"flyball_batchproxy_queue_duration_seconds_sum"}, check: "queueing", want: "no series of flyball_batchproxy_queue_duration_seconds"},
		{without: []string{"flyball_scale_current_replicas"}, check: "cold-starts flapping", want: "has told its replicas"},
	} {
		t.Run(strings.Join(tt.without, " "), func(t *testing.T) {
			if tt.without[0] == "flyball_batchproxy_queue_duration_seconds_sum" {
				tt.without = append(tt.without, "flyball_batchproxy_queue_duration_seconds_bucket")
			}
			o := options()
			if tt.options != nil {
				tt.options(&o)
			}
			r := mustMake(t, storeSource{run(t, &server{at: healthy, without: tt.without})}, o)
			var got []string
			for _, c := range r.Checks {
				if c.NotMeasured != "" {
					got = append(got, c.Name)
					if !strings.Contains(c.NotMeasured, tt.want) {
						t.Errorf("%s: %q, want %q", c.Name, c.NotMeasured, tt.want)
					}
				}
				if c.Finding != nil {
					t.Errorf("found %s: %+v", c.Name, c.Finding)
				}
			}
			if diff := cmp.Diff(tt.check, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const slo = `groups:
- name: promises
  rules:
  - slo: digits
    objectives:
    - {name: errors, target: 0.99}
    thresholds:
    - {name: throughput, below: 15, for: 5m}
    - {name: queue, above: 5, for: 5m, severity: info}
`

// TestBreaches: which promises were broken and when, and what fired.
func TestBreaches(t *testing.T) {
	st := run(t, &server{at: between(func(m *moment, _ float64) { m.rate, m.errors, m.running, m.tokens = 12, 0.99, 4, 100 })}, promised(t, slo)...)
	r := mustMake(t, storeSource{st}, options())
	b := r.Breaches
	if len(b.Objectives) != 1 || !b.Objectives[0].Breached || b.Objectives[0].Kept == nil || math.Abs(*b.Objectives[0].Kept-0.93) > 0.02 || len(b.Objectives[0].Over) != 1 {
		t.Errorf("objectives: %+v", b.Objectives)
	}
	// 30 minutes, seen over windows of 5.
	if over := b.Objectives[0].Over[0]; over.Start.Sub(morning.Add(60*time.Minute)).Abs() > 5*time.Minute || over.End.Sub(morning.Add(95*time.Minute)).Abs() > 5*time.Minute {
		t.Errorf("over: %v", over)
	}
	if len(b.Thresholds) != 2 || b.Thresholds[0].Breached || b.Thresholds[0].Threshold != "queue" || *b.Thresholds[0].Worst != 1 || len(b.Thresholds[0].Over) != 0 {
		t.Errorf("thresholds: %+v", b.Thresholds)
	}
	if through := b.Thresholds[1]; !through.Breached || through.Threshold != "throughput" || through.Severity != "warning" || through.Limit != 15 || math.Abs(*through.Worst-0.12) > 0.1 || len(through.Over) == 0 {
		t.Errorf("thresholds: %+v", b.Thresholds)
	}
	var alerts []string
	for _, a := range b.Alerts {
		alerts = append(alerts, strings.TrimSpace(fmt.Sprintf("%s %s %s%s firing %t", a.Name, a.Severity, a.Labels["long"], a.Labels["threshold"], a.Firing)))
		if len(a.Fired) != 1 || a.Fired[0].Start.Before(morning.Add(60*time.Minute)) {
			t.Errorf("%s fired %v", a.Name, a.Fired)
		}
	}
	if diff := cmp.Diff([]string{"FlyballSLOThreshold warning throughput firing false", "FlyballSLOBudgetBurn critical 1h firing false"}, short(alerts)); diff != "" {
		t.Error(diff)
	}

	quiet := mustMake(t, storeSource{run(t, &server{at: healthy}, promised(t, slo)...)}, options()).Breaches
	if len(quiet.Alerts) != 0 || len(quiet.Objectives) != 1 || quiet.Objectives[0].Breached || quiet.Thresholds[0].Breached || quiet.Thresholds[1].Breached {
		t.Errorf("nothing went wrong: %+v", quiet)
	}
}

// short leaves out the slower alerts on the same burn.
func short(all []string) (out []string) {
	for _, a := range all {
		if !strings.Contains(a, " 6h ") && !strings.Contains(a, " 1d ") && !strings.Contains(a, " 3d ") {
			out = append(out, a)
		}
	}
	return out
}

// TestForms: the same report as text, JSON and a page.
func TestForms(t *testing.T) {
	st := run(t, &server{at: between(func(m *moment, _ float64) { m.takes, m.waits, m.rows, m.errors = 0.7, 0.6, 14, 0.5 })}, promised(t, slo)...)
	r := mustMake(t, storeSource{st}, options())
	var text, data, page bytes.Buffer
	for _, err := range []error{r.WriteText(&text), r.WriteJSON(&data), r.WriteHTML(&page)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"Requests", "▁", "█", "BREACHED", "alert FlyballSLOBudgetBurn (critical)", "warning  queueing:", "Looked for and not found: saturated-device,", "not measured: time to first token"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text has no %q:\n%s", want, text.String())
		}
	}
	var parsed struct {
		Times   []time.Time
		Metrics []struct {
			Name  string
			Lines []struct {
				Query  string
				Values []*float64
			}
		}
	}
	if err := json.Unmarshal(data.Bytes(), &parsed); err != nil {
		t.Fatal(err)
	}
	if len(parsed.Times) != 24 || len(parsed.Metrics[0].Lines[0].Values) != 24 {
		t.Errorf("%d times, %d values", len(parsed.Times), len(parsed.Metrics[0].Lines[0].Values))
	}
	safe(t, page.String())
	if n := strings.Count(page.String(), "<svg"); n < 10 {
		t.Errorf("%d charts", n)
	}
}

// safe sees that a page is let in by its own policy: its one style by its hash, and nothing else.
func safe(t *testing.T, page string) {
	t.Helper()
	for _, hostile := range []string{"<script", "javascript:", " style=", "src=", "href=", "url(", "@import", "<link", "<img", "<iframe"} {
		if strings.Contains(strings.ToLower(page), hostile) {
			t.Errorf("the page has %s", hostile)
		}
	}
	if handler := regexp.MustCompile(`\son[a-z]+=`).FindString(page); handler != "" {
		t.Errorf("the page has %s", handler)
	}
	styles := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(page, -1)
	policy := regexp.MustCompile(`http-equiv="Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(page)
	if len(styles) != 1 || policy == nil {
		t.Fatalf("%d styles, policy %v", len(styles), policy)
	}
	sum := sha256.Sum256([]byte(styles[0][1]))
	want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
	if diff := cmp.Diff(want, html.UnescapeString(policy[1])); diff != "" {
		t.Error(diff)
	}
}

// TestNames: what comes from labels is shown as text, wherever it stands.
func TestNames(t *testing.T) {
	const hostile = `<script>alert(1)</script>" onload="x`
	r := &report.Report{
		Model: hostile, Start: morning, End: morning.Add(time.Hour), Step: 1800, Times: []time.Time{morning.Add(30 * time.Minute), morning.Add(time.Hour)},
		Metrics:  []report.Metric{{Name: "x", Title: hostile, Unit: hostile, Lines: []report.Line{{Name: hostile, Query: hostile, Values: report.Values{1, math.NaN()}}}}},
		Breaches: report.Breaches{Alerts: []report.Alert{{Name: hostile, Labels: map[string]string{"a": hostile}, Fired: []report.Span{{Start: morning, End: morning.Add(time.Minute)}}}}},
		Warnings: []string{hostile},
	}
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page.String(), "<script") || strings.Contains(page.String(), `" onload`) {
		t.Error(page.String())
	}
}

func TestErrors(t *testing.T) {
	src := storeSource{run(t, &server{at: healthy})}
	for _, tt := range []struct {
		name   string
		change func(*report.Options)
		want   string
		absent bool // a NotFoundError
	}{
		{"unknown model", func(o *report.Options) { o.Model = "digit" }, `no model "digit" (did you mean "digits"?): there are digits`, true},
		{"another time", func(o *report.Options) { o.Start, o.End = morning.Add(-72*time.Hour), morning.Add(-48*time.Hour) }, `nothing was measured of model "digits" from 2026-02-27T08:00:00Z to 2026-02-28T08:00:00Z`, true},
		{"unknown scale rule", func(o *report.Options) { o.Scale = "digts" }, `no scale rule "digts" (did you mean "digits"?): there are digits, other`, true},
		{"too many points", func(o *report.Options) { o.Start = o.End.Add(-30 * 24 * time.Hour); o.Step = time.Minute }, "43200 points are more than 11000", false},
		{"too short", func(o *report.Options) { o.Step = 90 * time.Minute }, "expected two steps of a second or more", false},
		{"matchers that are none", func(o *report.Options) { o.GPUs = `gpu=0` }, "parse error", false},
	} {
		o := options()
		tt.change(&o)
		_, err := report.Make(t.Context(), src, o)
		_, absent := errors.AsType[*report.NotFoundError](err)
		if err == nil || !strings.Contains(err.Error(), tt.want) || absent != tt.absent {
			t.Errorf("%s: got %v (%t), want %s", tt.name, err, absent, tt.want)
		}
	}
	empty := storeSource{run(t, &server{at: healthy, without: []string{"flyball_batchproxy_arrivals_total", "flyball_batchproxy_requests_total"}})}
	if _, err := report.Make(t.Context(), empty, options()); err == nil || !strings.Contains(err.Error(), "no model is measured there") {
		t.Error(err)
	}
}

// TestDays: times have their day where there is more than one, be it by the stroke of midnight.
func TestDays(t *testing.T) {
	for hours, want := range map[time.Duration]string{15: "08:00 to 08:01", 16: "Mar 2 08:00 to Mar 2 08:01"} {
		r := &report.Report{Start: morning, End: morning.Add(hours * time.Hour), Step: 60}
		r.Breaches.Alerts = []report.Alert{{Name: "A", Fired: []report.Span{{Start: morning, End: morning.Add(time.Minute)}}}}
		var b bytes.Buffer
		if err := r.WriteText(&b); err != nil || !strings.Contains(b.String(), "alert A  "+want+"\n") {
			t.Errorf("%d hours: %v, want %s in\n%s", hours, err, want, &b)
		}
	}
}

// TestProgress counts every query once.
func TestProgress(t *testing.T) {
	o := options()
	var seen []int
	all := 0
	o.Progress = func(done, of int) { seen, all = append(seen, done), of }
	mustMake(t, storeSource{run(t, &server{at: healthy})}, o)
	if len(seen) != all || seen[0] != 1 || seen[len(seen)-1] != all {
		t.Errorf("%v of %d", seen, all)
	}
}
