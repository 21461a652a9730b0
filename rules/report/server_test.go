package report_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
	"flyball/rules/promapi"
	"flyball/rules/report"
	"flyball/rules/store"
)

// morning is when the tests' server starts.
var morning = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)

const (
	scraped = 15 * time.Second
	lasts   = 2 * time.Hour
)

// moment is how a server does at one time.
type moment struct {
	rate, errors    float64 // requests a second; the share of them that go wrong
	refused         float64 // a second, because the queue is full
	takes, waits    float64 // seconds: of a request, and of that in the queue
	running, queued float64
	rows, capacity  float64 // of a batch
	current, ready  float64
	least, most     float64 // of the scale rule
	busy, kv        float64
	thermal, power  float64 // share of the time in which the clock was held down
	cost            float64
	tokens          float64 // a second
}

// healthy is a server with nothing to be found: its load rises and falls, and so does its size, once.
func healthy(minute float64) moment {
	load := 0.5 + 0.5*math.Sin(minute/120*math.Pi)
	m := moment{
		rate: 20 + 40*load, errors: 0.0001, takes: 0.05 + 0.02*load, waits: 0.008, running: 4 + 8*load, queued: 1,
		rows: 2 + 7*load, capacity: 16, current: 2, ready: 2, least: 1, most: 6, busy: 0.3 + 0.4*load, kv: 0.4 + 0.3*load, cost: 2.4, tokens: 900 * load,
	}
	if minute >= 40 && minute < 90 {
		m.current, m.ready, m.cost = 3, 3, 3.6
		if minute < 42 {
			m.ready = 2 // a start that nobody noticed
		}
	}
	return m
}

// server publishes the series of moments, of one model and its scale rule, as the proxy, the exporter and the rules do. It
// is a rules.Evaluator, so that a store takes them at a time of the test's choosing.
type server struct {
	at       func(minute float64) moment
	without  []string // metrics that it does not publish
	counters map[string]float64
}

func (s *server) Name() string { return "server" }

func (s *server) Eval(_ context.Context, at time.Time) (all []rules.Sample, _ error) {
	now, tick := s.at(at.Sub(morning).Minutes()), scraped.Seconds()
	gauge := func(name string, v float64, pairs ...string) {
		if slices.Contains(s.without, name) {
			return
		}
		m := map[string]string{labels.MetricName: name}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		all = append(all, rules.Sample{Labels: labels.FromMap(m), Value: v, Time: at})
	}
	count := func(name string, perSecond float64, pairs ...string) {
		key := name + fmt.Sprint(pairs)
		s.counters[key] += perSecond * tick
		gauge(name, s.counters[key], pairs...)
	}
	histogram := func(name string, perSecond, value float64, bounds []float64, pairs ...string) {
		for _, le := range bounds {
			n := 0.0
			if value <= le {
				n = perSecond
			}
			count(name+"_bucket", n, append([]string{"le", fmt.Sprint(le)}, pairs...)...)
		}
		count(name+"_bucket", perSecond, append([]string{"le", "+Inf"}, pairs...)...)
		count(name+"_sum", perSecond*value, pairs...)
		count(name+"_count", perSecond, pairs...)
	}
	model := []string{"model", "digits"}
	with := func(pairs ...string) []string { return append(pairs, model...) }
	times := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	count("flyball_batchproxy_arrivals_total", now.rate+now.refused, model...)
	count("flyball_batchproxy_requests_total", now.rate*(1-now.errors), with("code", "200")...)
	count("flyball_batchproxy_requests_total", now.rate*now.errors, with("code", "503")...)
	count("flyball_batchproxy_shed_total", now.refused, with("reason", "queue_full")...)
	histogram("flyball_batchproxy_request_duration_seconds", now.rate, now.takes, times, model...)
	histogram("flyball_batchproxy_queue_duration_seconds", now.rate, now.waits, times, model...)
	gauge("flyball_batchproxy_requests_running", now.running, model...)
	gauge("flyball_batchproxy_requests_waiting", now.queued, model...)
	histogram("flyball_batchproxy_batch_size", now.rate/max(now.rows, 1), now.rows, []float64{1, 2, 4, 8, 16, 32}, model...)
	count("flyball_batchproxy_batches_total", now.rate/max(now.rows, 1), with("reason", "max_wait")...)
	gauge("flyball_model_batch_capacity", now.capacity, model...)
	count("flyball_model_tokens_total", now.tokens, with("kind", "generation")...)
	gauge("flyball_model_kv_cache_utilization_ratio", now.kv, model...)
	for _, gpu := range []string{"GPU-a", "GPU-b"} {
		gauge("flyball_model_gpu_info", 1, with("uuid", gpu)...)
		gauge("flyball_gpu_utilization_ratio", now.busy, "uuid", gpu, "gpu", gpu[4:])
		count("flyball_gpu_clock_event_seconds_total", 0.9, "uuid", gpu, "gpu", gpu[4:], "reason", "gpu_idle")
		count("flyball_gpu_clock_event_seconds_total", now.thermal, "uuid", gpu, "gpu", gpu[4:], "reason", "hw_thermal_slowdown")
		count("flyball_gpu_clock_event_seconds_total", now.power, "uuid", gpu, "gpu", gpu[4:], "reason", "sw_power_cap")
	}
	// Another model's GPU and scale rule, which are nobody's business here.
	gauge("flyball_gpu_utilization_ratio", 1, "uuid", "GPU-c", "gpu", "c")
	rule := []string{"rule", "digits", "target", "process/digits"}
	for _, of := range [][]string{rule, {"rule", "other", "target", "process/other"}} {
		gauge("flyball_scale_current_replicas", now.current, of...)
		gauge("flyball_scale_desired_replicas", now.current, of...)
		gauge("flyball_scale_ready_replicas", now.ready, of...)
		gauge("flyball_scale_min_replicas", now.least, of...)
		gauge("flyball_scale_max_replicas", now.most, of...)
		gauge("flyball_scale_cost_usd_per_hour", now.cost, of...)
	}
	return all, nil
}

// run lets the server run for two hours, watched by rules, and returns the store that has its series.
func run(t testing.TB, s *server, watching ...store.Rule) *store.Store {
	t.Helper()
	s.counters = map[string]float64{}
	o := store.DefaultOptions()
	o.Dir = t.TempDir()
	st, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := st.SetGroups([]store.Group{
		{Name: "server", Interval: scraped, Rules: []store.Rule{{Evaluator: s}}}, {Name: "watching", Interval: time.Minute, Rules: watching},
	}); err != nil {
		t.Fatal(err)
	}
	for at := morning; !at.After(morning.Add(lasts)); at = at.Add(scraped) {
		if _, err := st.EvalGroups(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

// promised are the rules that an SLO stands for.
func promised(t testing.TB, text string) (all []store.Rule) {
	t.Helper()
	f, err := (&rules.Reader{Defaults: rules.Defaults{EvaluationInterval: scraped, ScrapeInterval: scraped}}).Parse("rules.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Groups[0].Rules[0].Derived() {
		if r.Record != nil {
			all = append(all, store.Rule{Record: &store.Record{Name: r.Record.Name, Expr: r.Record.Expr, Labels: r.Record.Labels}})
			continue
		}
		all = append(all, store.Rule{Alert: &store.Alert{Name: r.Alert.Name, Expr: r.Alert.Expr, For: time.Duration(r.Alert.For), Labels: r.Alert.Labels, Annotations: r.Alert.Annotations}})
	}
	return all
}

// storeSource asks a store.
type storeSource struct{ *store.Store }

func (s storeSource) QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) (report.Answer, error) {
	found, err := s.Store.QueryRange(ctx, expr, start, end, step)
	if err != nil {
		return report.Answer{}, err
	}
	var a report.Answer
	for _, f := range found {
		one := report.Series{Labels: maps.Clone(f.Labels.Map())}
		for _, p := range f.Points {
			one.Points = append(one.Points, report.Point(p))
		}
		a.Series = append(a.Series, one)
	}
	return a, nil
}

func (s storeSource) LabelValues(ctx context.Context, label string, selectors []string, start, end time.Time) ([]string, error) {
	if start.IsZero() {
		start, end = promapi.MinTime, promapi.MaxTime
	}
	r, err := s.Store.LabelValues(ctx, label, promapi.Selection{Match: selectors, Start: start, End: end})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Data.(promapi.Strings), nil
}
