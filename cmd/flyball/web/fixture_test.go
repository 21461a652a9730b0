package web

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// kept is a list of decisions, newest first, that remembers what it was asked.
type kept struct {
	mu     sync.Mutex
	all    []*rules.Decision
	filter Filter
	n      int
}

func (k *kept) Recent(f Filter, n int) []*rules.Decision {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.filter, k.n = f, n
	var found []*rules.Decision
	for _, d := range k.all {
		if (f.ID == "" || d.ID == f.ID) && (f.Rule == "" || d.Rule == f.Rule) && len(found) < n {
			found = append(found, d)
		}
	}
	return found
}

func (k *kept) add(d *rules.Decision) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append([]*rules.Decision{d}, k.all...)
}

// brake is a Brake in memory.
type brake struct {
	mu     sync.Mutex
	freeze *rules.Freeze
	paused map[string]rules.Freeze
	err    error
}

func (b *brake) Pause(target string, until time.Time, by, why string) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if target != "digits" {
		return nil, fmt.Errorf("target %q: %w", target, ErrUnknownTarget)
	}
	b.paused = map[string]rules.Freeze{"process/digits": {At: noon, Until: until, By: by, Why: why}}
	return []string{"process/digits"}, b.err
}

func (b *brake) Resume(target string) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if target != "digits" {
		return nil, fmt.Errorf("target %q: %w", target, ErrUnknownTarget)
	}
	b.paused = map[string]rules.Freeze{}
	return []string{"process/digits"}, b.err
}

func (b *brake) Frozen() (rules.Freeze, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freeze == nil {
		return rules.Freeze{}, false
	}
	return *b.freeze, true
}

func (b *brake) Freeze(by, why string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freeze = &rules.Freeze{At: noon, By: by, Why: why}
	return b.err
}

func (b *brake) Release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freeze = nil
	return b.err
}

// waves answers each query with the series of two rules, from a time on; it counts range queries.
type waves struct {
	since time.Time
	err   error

	mu     sync.Mutex
	ranges []string
}

func (q *waves) Query(_ context.Context, expr string, at time.Time) ([]rules.Sample, error) {
	if q.err != nil {
		return nil, q.err
	}
	var out []rules.Sample
	for _, s := range q.series(expr) {
		out = append(out, rules.Sample{Labels: s, Value: q.value(expr, at), Time: at})
	}
	return out, nil
}

func (q *waves) QueryRange(_ context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ranges = append(q.ranges, fmt.Sprintf("%s %s/%s", expr, end.Sub(start), step))
	if q.err != nil {
		return nil, q.err
	}
	var out []Series
	for _, ls := range q.series(expr) {
		s := Series{Labels: ls}
		for at := start; !at.After(end); at = at.Add(step) {
			if !at.Before(q.since) {
				value := q.value(expr+ls.Get("quantile"), at)
				if ls.Get("model") == "llama" { // of two series of one query, which are told apart by it
					value += 1000
				}
				s.Points = append(s.Points, Point{at, value})
			}
		}
		if len(s.Points) > 0 {
			out = append(out, s)
		}
	}
	return out, nil
}

func (q *waves) series(expr string) (all []labels.Labels) {
	switch { // of the forecasts: what they are of, and what they say of the models that the expression names
	case strings.HasPrefix(expr, "sum by (model)"):
		return []labels.Labels{labels.FromStrings("model", "digits"), labels.FromStrings("model", "llama")}
	case strings.Contains(expr, `horizon="lead"`):
		name, matchers, _ := strings.Cut(expr, "{")
		for _, quantile := range []string{"0.1", "0.5", "0.9"} {
			of, _, _ := strings.Cut(matchers[strings.Index(matchers, `model="`)+7:], `"`)
			all = append(all, labels.FromStrings(labels.MetricName, name, "model", of, "horizon", "lead", "quantile", quantile))
		}
		return all
	}
	name, matcher, _ := strings.Cut(expr, "{")
	for _, rule := range []string{"digits", "llama"} {
		if matcher != "" && !strings.Contains(matcher, rule) {
			continue
		}
		pairs := []string{labels.MetricName, name, "rule", rule, "target", "process/" + rule}
		if strings.Contains(name, "signal") {
			pairs = append(pairs, "signal", "load")
		}
		all = append(all, labels.FromStrings(pairs...))
	}
	return all
}

func (q *waves) value(expr string, at time.Time) float64 {
	phase := math.Sin(float64(at.Unix()) / 200)
	switch {
	case strings.Contains(expr, "horizon"): // it ends with the quantile
		level, _ := strconv.ParseFloat(expr[len(expr)-3:], 64)
		return math.Round(300 + 200*phase + 100*(level-0.5))
	case strings.Contains(expr, "signal"), strings.HasPrefix(expr, "sum by (model)"):
		return math.Round(300 + 200*phase)
	case strings.Contains(expr, "ready"):
		return math.Round(3 + 1.5*math.Sin(float64(at.Unix()-30)/200))
	}
	return math.Round(3 + 1.5*phase)
}

// queryRange answers as Prometheus's API does, from a Queries.
func queryRange(q Queries) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		at := func(name string) time.Time {
			s, _ := strconv.ParseFloat(r.FormValue(name), 64)
			return time.UnixMilli(int64(s * 1000)).UTC()
		}
		step, _ := strconv.ParseFloat(r.FormValue("step"), 64)
		found, err := q.QueryRange(r.Context(), r.FormValue("query"), at("start"), at("end"), time.Duration(step*float64(time.Second)))
		if err != nil {
			respond(w, http.StatusBadRequest, answer{Status: "error", ErrorType: "bad_data", Error: err.Error()})
			return
		}
		type series struct {
			Metric labels.Labels `json:"metric"`
			Values [][2]any      `json:"values"`
		}
		result := []series{}
		for _, s := range found {
			out := series{Metric: s.Labels}
			for _, p := range s.Points {
				out.Values = append(out.Values, [2]any{float64(p.Time.UnixMilli()) / 1000, strconv.FormatFloat(p.Value, 'f', -1, 64)})
			}
			result = append(result, out)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "matrix", "result": result}})
	}
}

func ptr[T any](v T) *T { return &v }

// decision is one with everything in it.
func decision() *rules.Decision {
	return &rules.Decision{
		ID: "abc", Time: noon.Add(-3 * time.Second), Rule: "digits", Target: "process/digits", Mode: "act", Action: rules.Up, From: 3, To: 4,
		Reasons: []rules.Reason{rules.AboveTarget, rules.ScaleUpRate, rules.MetricStale}, LimitedBy: []rules.Reason{rules.ScaleUpRate},
		Text: "load 912 at 130 a replica needs 8, up at most 4 in 1m", Result: rules.Failed, Error: "fork: resource temporarily unavailable",
		Replicas: rules.Replicas{Spec: 3, Ready: 2, Pending: 1, Min: 1, Max: 6},
		Queries: []rules.Answer{
			{Name: "demand", Expr: `sum(rate(requests_total{model="digits"}[5m]))`, Value: ptr(912.25), AgeSeconds: 1.5, Series: 1},
			{Name: "latency", Expr: "p99", Fault: rules.MetricStale, Detail: "the newest sample is 3m old, stale after 1m", Optional: true},
		},
		Signals: []rules.SignalRecord{
			{Name: "load", Value: ptr(912.25), TargetPerReplica: 130, Proposal: ptr(8), Confidence: 1, Weight: 1, Reason: rules.AboveTarget},
			{Name: "slow", TargetPerReplica: 0.2, Reason: rules.MetricStale},
		},
		Steps: []rules.StepRecord{
			{If: "demand > 500", Do: "+2", Holds: true, Fired: true, Proposal: ptr(5)},
			{If: "demand > 900", Do: "+4", Holds: true},
			{If: "latency > 1", Do: "hold", Fault: rules.MetricStale},
		},
		Combined: 8, Gated: 8, Costed: 8, Stabilized: 8, Limited: 4, Damped: 4, Confidence: 1,
	}
}

func hold() *rules.Decision {
	return &rules.Decision{
		ID: "def", Time: noon.Add(-26 * time.Hour), Rule: "llama", Target: "process/llama", Mode: "observe", Action: rules.Hold, From: 2, To: 2,
		Reasons: []rules.Reason{rules.WithinTolerance}, Text: "load 210 at 100 a replica needs 2", Result: rules.Unchanged,
		Replicas: rules.Replicas{Spec: 2, Ready: 2, Min: 1, Max: 4}, Combined: 2, Gated: 2, Costed: 2, Stabilized: 2, Limited: 2, Damped: 2, Confidence: 1,
	}
}

// full is a status in which everything that can be is there, what is well before what is not.
func fullStatus() Status {
	var demand []Point
	for i := range 60 {
		demand = append(demand, Point{noon.Add(time.Duration(i-60) * 10 * time.Second), 300 + 200*math.Sin(float64(i)/6)})
	}
	return Status{
		Window: time.Minute,
		Models: []Model{
			{
				Name: "digits", Targets: []string{"process/digits"}, Ready: 2, Queued: 31, Running: 16, MaxBatch: 16,
				Rate: 912.25, Errors: 0.004, P50: 0.081, P99: 0.844, BatchSize: 11.6, Demand: demand,
			},
			{Name: "llama", Targets: []string{"process/llama"}, Rate: math.NaN(), Errors: math.NaN(), P50: math.NaN(), P99: math.NaN(), BatchSize: math.NaN()},
		},
		Rules: []Rule{
			{Name: "llama", Target: "process/llama", Last: hold()},
			{Name: "new", Target: "process/new"},
			{Name: "digits", Target: "process/digits", Acts: true, Last: decision(), Forecasts: []string{"digits_demand", "broken_demand"}},
		},
		Replicas: []Replica{
			{Target: "digits", Address: "127.0.0.1:9001", State: "ready", PID: 4711, Since: noon.Add(-time.Hour)},
			{Target: "digits", Index: 1, State: "backoff", Restarts: 7, LastExit: "exit status 1", Since: noon.Add(-5 * time.Second)},
			{Target: "llama", Address: "127.0.0.1:9003", State: "ready", PID: 4713, Since: noon.Add(-49 * time.Hour)},
		},
		Alerts: []Alert{
			{Name: "Slow", State: "pending", Labels: labels.FromStrings("model", "digits", "severity", "warning"), Since: noon.Add(-30 * time.Minute), Value: 0.844},
			{Name: "Idle", State: "firing", Labels: labels.FromStrings("gpu", "0", "severity", "info"), Since: noon.Add(-3 * time.Hour), Value: 0.02},
			{
				Name: "Overloaded", State: "firing", Labels: labels.FromStrings("rule", "digits", "severity", "critical"), Since: noon.Add(-10 * time.Minute), Value: 1,
				Summary: "digits needs all the replicas that it may have", Runbook: "https://runbooks.example/Overloaded", Expr: "a >= b",
			},
		},
		Budgets: []Budget{
			{Name: "unknown", Policy: "soft", Period: "30d", BudgetStatus: rules.BudgetStatus{LimitUSD: 500, SpendUSD: math.NaN(), ForecastUSD: math.NaN()}},
			{
				Name: "gpu", Policy: "hard", Period: "month", AppliesTo: []string{"digits", "llama"},
				BudgetStatus: rules.BudgetStatus{LimitUSD: 42000, SpendUSD: 41000, ForecastUSD: 55000, UsedUp: true, PeriodEnd: noon.Add(190 * time.Hour)},
			},
		},
		Groups: []Group{
			{Name: "fine", File: "rules/a.yml", Interval: 15 * time.Second, Rules: 4, Last: noon.Add(-4 * time.Second), Duration: 2500 * time.Microsecond},
			{Name: "broken", File: "rules/b.yml", Interval: time.Minute, Rules: 2, Last: noon.Add(-30 * time.Second), Duration: 800 * time.Microsecond, Errors: []string{"x: many-to-many matching not allowed"}},
			{Name: "slow", File: "rules/c.yml", Interval: 15 * time.Second, Rules: 80, Last: noon.Add(-14 * time.Second), Duration: 14 * time.Second},
		},
		Targets: []Target{
			{Job: "flyball", URL: "http://127.0.0.1:9838/metrics", Health: "up", Last: noon.Add(-8 * time.Second), Duration: 4 * time.Millisecond},
			{Job: "digits", URL: "http://127.0.0.1:9002/metrics", Health: "down", Error: "connection refused", Last: noon.Add(-3 * time.Second), Duration: time.Millisecond},
		},
	}
}

// forecastsAt is one of each kind of forecast, as of a time: one that is used, one of two series that is not, and one that fails.
func forecastsAt(now time.Time) []rules.ForecastStatus {
	series := func(of string, armed bool) rules.ForecastSeries {
		s := rules.ForecastSeries{
			Labels: map[string]string{"model": of}, Model: "auto", Armed: armed, ArmedText: "its error is 0.74 times that of the last value", Skill: ptr(0.26), Scored: 900,
			Reason:   "ets_ar 2h leads 9 models with 61% of the weight; error 26% below the last value's",
			Weights:  []rules.ModelWeight{{Model: "naive", Weight: 0.04, Error: 41}, {Model: "ets_ar 2h", Weight: 0.61, Error: 22.4}, {Model: "holt", Weight: 0.35, Error: 25}},
			Seasons:  []rules.SeasonStatus{{Seconds: 7200, Used: true, Reason: "autocorrelation 0.81"}, {Seconds: 86400, Reason: "no two of it yet"}},
			Coverage: map[string]*float64{"0.1": ptr(0.08), "0.5": ptr(0.52), "0.9": nil}, Values: 1200, Missing: 3, Fitted: now.Add(-40 * time.Minute),
			Anomalies: map[string]int64{}, Recent: []rules.ForecastValue{}, Points: []rules.ForecastPoint{},
		}
		for i := range 20 {
			s.Recent = append(s.Recent, rules.ForecastValue{Time: now.Add(time.Duration(i-19) * time.Minute), Value: ptr(float64(280 + i))})
		}
		for i := range 30 {
			mean := 300 + 5*float64(i)
			s.Points = append(s.Points, rules.ForecastPoint{
				Time: now.Add(time.Duration(i+1) * time.Minute), Mean: mean, Quantiles: map[string]float64{"0.1": mean - 40, "0.5": mean, "0.9": mean + 40},
			})
		}
		return s
	}
	status := func(name string, all ...rules.ForecastSeries) rules.ForecastStatus {
		return rules.ForecastStatus{
			Name: name, Query: "sum by (model) (rate(requests_total[5m]))", StepSeconds: 60, HorizonSeconds: 1800, LeadSeconds: 270,
			Lead: "2m, which a start of digits takes as measured, and 2m30s by which the query's range is late", Levels: []float64{0.1, 0.5, 0.9},
			Evaluated: now, HistorySteps: 1180, HistoryOf: 1440, HistoryLoaded: true, Series: all,
		}
	}
	used := series("digits", true)
	used.Coverage["0.9"] = ptr(0.88)
	used.Anomalies = map[string]int64{"spike": 2, "level_shift": 0}
	used.LastAnomaly, used.AnomalyScore = &rules.Anomaly{Time: now.Add(-3 * time.Hour), Kind: "spike", Score: 7.25, Value: ptr(901.0)}, 0.4
	used.Events = []rules.EventStatus{{Name: "launch", Lift: 2.46, Prior: 1.5, Occurrences: 6}}
	used.Regressors = []rules.RegressorStatus{{Name: "signups", Coefficient: 0.5, Used: true, Error: 22.4, ErrorWithout: 41}}
	late := series("llama", false)
	late.ArmedText, late.Skill = "its error is 1.2 times that of the last value: it is of no use", ptr(-0.2)
	young := series("digits", false)
	young.ArmedText, young.Skill, young.Seasons, young.Weights = "12 of its forecasts have been compared with what came: 300 are needed", nil, nil, nil
	broken := status("broken_demand")
	broken.Error = "forecast broken_demand: the query gives 240 series, more than limit, which is 100: aggregate them, or raise the limit"
	return []rules.ForecastStatus{status("all_demand", young, late), status("digits_demand", used), broken}
}

// fullPage is a page of everything.
func fullPage() Page {
	return Page{
		Version: "1.2.3", ConfigFile: "flyball.yml", Acting: true, Lifecycle: true,
		Status:    func(context.Context) Status { return fullStatus() },
		Decisions: &kept{all: []*rules.Decision{decision(), hold()}},
		Queries:   &waves{},
		Brake:     &brake{},
		Forecasts: func() []rules.ForecastStatus { return forecastsAt(noon) },
	}
}
