package rules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
)

// forecastRule is a rule of a file with one, of which it gives the keys after the name.
func forecastRule(t testing.TB, keys string) *ForecastRule {
	t.Helper()
	r := &Reader{Defaults: testDefaults}
	f, err := r.Parse("rules.yml", []byte("groups:\n- name: a\n  rules:\n  - {forecast: ahead, "+keys+"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return f.Groups[0].Rules[0].Forecast
}

// curves is a store whose series are functions of time.
type curves struct {
	mu     sync.Mutex
	values map[string]func(at time.Time) float64 // by the label model; NaN: none at that time
	from   time.Time                             // nothing is older
	fails  error
	ranges [][2]time.Time // that were asked for
	points int            // at one range query, at most; 0: no bound
}

func (c *curves) labels(name string) labels.Labels {
	return labels.FromStrings(labels.MetricName, "demand", "model", name)
}

func (c *curves) Query(_ context.Context, _ string, at time.Time, _ time.Duration) (all []Sample, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range sortedKeys(c.values) {
		if v := c.values[name](at); !math.IsNaN(v) && !at.Before(c.from) {
			all = append(all, Sample{Labels: c.labels(name), Value: v, Time: at})
		}
	}
	return all, c.fails
}

func (c *curves) QueryRange(_ context.Context, _ string, start, end time.Time, step time.Duration) (all []Series, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ranges = append(c.ranges, [2]time.Time{start, end})
	if n := int(end.Sub(start)/step) + 1; c.points > 0 && n > c.points {
		return nil, errors.New("too many points")
	}
	for _, name := range sortedKeys(c.values) {
		s := Series{Labels: c.labels(name)}
		for at := start; !at.After(end); at = at.Add(step) {
			if v := c.values[name](at); !math.IsNaN(v) && !at.Before(c.from) {
				s.Points = append(s.Points, Point{at, v})
			}
		}
		if s.Points != nil {
			all = append(all, s)
		}
	}
	return all, c.fails
}

// wave rises and falls within an hour.
func wave(at time.Time) float64 {
	return 100 + 60*math.Sin(2*math.Pi*float64(at.UnixMilli()%3_600_000)/3_600_000)
}

func one(f func(time.Time) float64) map[string]func(time.Time) float64 {
	return map[string]func(time.Time) float64{"a": f}
}

// newPredictor is the evaluator of a rule over curves, at virtual time.
func newPredictor(t testing.TB, rule *ForecastRule, c *curves, change func(*PredictorOptions)) *Predictor {
	o := PredictorOptions{Querier: c, Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&o)
	}
	return NewPredictor(rule, o)
}

// play evaluates the rule at each interval of a time, and returns the last answer.
func play(t testing.TB, p *Predictor, from time.Time, interval, length time.Duration) []Sample {
	t.Helper()
	var out []Sample
	for at := from; !at.After(from.Add(length)); at = at.Add(interval) {
		var err error
		if out, err = p.Eval(t.Context(), at); err != nil {
			t.Fatalf("at %s: %s", at, err)
		}
	}
	return out
}

// value is that of one series of an answer, with the labels that it has beside model, as PromQL writes them.
func value(samples []Sample, series string) float64 {
	for _, s := range samples {
		if strings.Contains(s.Labels.String(), "__name__=") {
			b := labels.NewBuilder(s.Labels)
			if b.Del("model").Labels().String() == series || s.Labels.String() == series {
				return s.Value
			}
		} else if labels.NewBuilder(s.Labels).Del("model").Labels().String() == series {
			return s.Value
		}
	}
	return math.NaN()
}

var midnight = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// TestPredictor: after two days of demand that repeats each hour, what is written is what comes, at the lead and the horizon.
func TestPredictor(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 1m, history: 2d, horizon: 20m, lead: 10m, seasons: [1h], levels: [0.1, 0.5, 0.9]")
	c := &curves{values: one(wave), from: midnight.Add(-48 * time.Hour)}
	p := newPredictor(t, rule, c, nil)
	at := midnight.Add(5 * time.Minute)
	out := play(t, p, midnight, 15*time.Second, 5*time.Minute)
	if got := value(out, `{__name__="flyball_forecast_observed_value", forecast="ahead"}`); got != wave(at) {
		t.Errorf("observed %g, want %g", got, wave(at))
	}
	for horizon, ahead := range map[string]time.Duration{"lead": 10 * time.Minute, "20m": 20 * time.Minute} {
		want := wave(at.Add(ahead))
		got := value(out, fmt.Sprintf(`{__name__="ahead", horizon=%q, quantile="0.5"}`, horizon))
		if !(math.Abs(got-want) < 2) {
			t.Errorf("at %s: %g, want %g", horizon, got, want)
		}
	}
	for series, want := range map[string]float64{
		`{__name__="flyball_forecast_armed", forecast="ahead"}`:                       1,
		`{__name__="flyball_forecast_lead_seconds", forecast="ahead"}`:                600,
		`{__name__="flyball_forecast_season_seconds", forecast="ahead", season="1h"}`: 3600,
		`{__name__="flyball_forecast_missing_samples_total", forecast="ahead"}`:       0,
		`{__name__="flyball_forecast_history_samples", forecast="ahead"}`:             2304 + 6,
		`{__name__="flyball_forecast_last_fit_timestamp_seconds", forecast="ahead"}`:  float64(midnight.Unix()),
		`{__name__="flyball_forecast_anomaly_score", forecast="ahead"}`:               math.NaN(), // nobody asked for it
	} {
		if got := value(out, series); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("%s is %g, want %g", series, got, want)
		}
	}
	if out[0].Labels.Get("model") != "a" {
		t.Errorf("%s has not the label of the query's series", out[0].Labels)
	}
	s := p.Status()
	if !s.HistoryLoaded || s.HistorySteps != 2304 || s.HistoryOf != 2304 || s.LeadSeconds != 600 || len(s.Series) != 1 {
		t.Errorf("status %+v", s)
	}
	if got := s.Series[0]; !got.Armed || got.Skill == nil || *got.Skill < 0.5 || len(got.Points) < 20 || len(got.Recent) == 0 ||
		!got.Recent[len(got.Recent)-1].Time.Equal(at) || math.Abs(*got.Recent[len(got.Recent)-1].Value-wave(at)) > 1e-9 {
		t.Errorf("series %+v", got)
	}
}

// TestPredictorFromNothing: there is a forecast from the first value on, and never an armed one.
func TestPredictorFromNothing(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 1m, horizon: 20m, lead: 3m")
	p := newPredictor(t, rule, &curves{values: one(func(time.Time) float64 { return 7 }), from: midnight}, nil)
	out := play(t, p, midnight, time.Minute, 0)
	if got := value(out, `{__name__="ahead", horizon="lead", quantile="0.5"}`); got != 7 {
		t.Errorf("after one value the forecast is %g", got)
	}
	if got := value(out, `{__name__="flyball_forecast_armed", forecast="ahead"}`); got != 0 {
		t.Errorf("after one value it is armed: %g", got)
	}
	if got := value(out, `{__name__="flyball_forecast_skill_ratio", forecast="ahead"}`); !math.IsNaN(got) {
		t.Errorf("after one value its skill is said to be %g", got)
	}
}

// TestPredictorBetweenSteps: between two steps the larger of both is written.
func TestPredictorBetweenSteps(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 10m, history: 10d, horizon: 1h, lead: 25m, seasons: [24h], model: seasonal_naive")
	up := func(at time.Time) float64 { return float64(at.UnixMilli() % 86_400_000 / 600_000) } // its step within the day
	p := newPredictor(t, rule, &curves{values: one(up), from: midnight.Add(-240 * time.Hour)}, nil)
	const lead = `{__name__="ahead", horizon="lead", quantile="0.5"}`
	for minute, want := range map[int]float64{0: 3, 4: 3, 5: 3, 6: 4, 9: 4} {
		out := play(t, p, midnight.Add(time.Duration(minute)*time.Minute), time.Minute, 0)
		if got := value(out, lead); math.Abs(got-want) > 1e-6 {
			t.Errorf("25m after 00:%02d: %g, want %g", minute, got, want)
		}
	}
}

// TestPredictorMisses: steps that nobody evaluated are asked for by one range query, and a query that fails takes nothing away
// until the last value is a horizon old.
func TestPredictorMisses(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 1m, history: 1h, horizon: 20m, lead: 3m")
	c := &curves{values: one(wave)}
	p := newPredictor(t, rule, c, nil)
	play(t, p, midnight, time.Minute, 5*time.Minute)
	c.ranges, c.fails = nil, errors.New("no such host")
	at := midnight.Add(9 * time.Minute)
	if got := value(play(t, p, at, time.Minute, 0), `{__name__="ahead", horizon="lead", quantile="0.5"}`); math.IsNaN(got) {
		t.Error("a query that failed took the forecast away")
	}
	if _, err := p.Eval(t.Context(), at.Add(20*time.Minute)); err == nil || err.Error() != "forecast ahead: no such host" {
		t.Errorf("after a horizon without an answer: %v", err)
	}
	if s := p.Status(); s.Error != "forecast ahead: no such host" {
		t.Errorf("status says %q", s.Error)
	}
	c.ranges, c.fails = nil, nil
	play(t, p, at, time.Minute, 0)
	if diff := cmp.Diff([][2]time.Time{{midnight.Add(6 * time.Minute), at}}, c.ranges); diff != "" {
		t.Error(diff)
	}
	if got := p.Status().Series[0]; got.Values != 60+10 || got.Missing != 0 {
		t.Errorf("%d values, %d missing: all were caught up with", got.Values, got.Missing)
	}
}

// TestPredictorGaps: a step without a value counts as missing, or as 0 where the rule says so.
func TestPredictorGaps(t *testing.T) {
	for missing, least := range map[string]float64{"interpolate": 99, "zero": 0} {
		t.Run(missing, func(t *testing.T) {
			rule := forecastRule(t, "query: demand, step: 1m, horizon: 10m, lead: 1m, seasons: none, model: naive, missing: "+missing)
			gone := midnight.Add(30 * time.Minute)
			c := &curves{from: midnight, values: one(func(at time.Time) float64 {
				if at.After(gone) {
					return math.NaN()
				}
				return 100
			})}
			out := play(t, newPredictor(t, rule, c, nil), midnight, time.Minute, 40*time.Minute)
			if got := value(out, `{__name__="flyball_forecast_missing_samples_total", forecast="ahead"}`); got != 10 {
				t.Errorf("%g missing, want 10", got)
			}
			if got := value(out, `{__name__="flyball_forecast_observed_value", forecast="ahead"}`); missing == missingInterpolate && !math.IsNaN(got) || missing == missingZero && got != 0 {
				t.Errorf("observed %g", got)
			}
			if got := value(out, `{__name__="ahead", horizon="lead", quantile="0.5"}`); got < least || got > least+1 {
				t.Errorf("forecast %g, want %g", got, least)
			}
		})
	}
}

// TestPredictorGone: what a series that is gone was forecast to be keeps no target large, unless it counts as 0, and is not
// armed meanwhile; it goes on when the series is there again.
func TestPredictorGone(t *testing.T) {
	const lead, armed = `{__name__="ahead", horizon="lead", quantile="0.9"}`, `{__name__="flyball_forecast_armed", forecast="ahead"}`
	gone, back := midnight, midnight.Add(2*time.Hour)
	for missing, written := range map[string]bool{"interpolate": false, "zero": true} {
		rule := forecastRule(t, "query: demand, step: 1m, history: 2d, horizon: 20m, lead: 10m, seasons: [1h], missing: "+missing)
		c := &curves{from: midnight.Add(-48 * time.Hour), values: one(func(at time.Time) float64 {
			if at.After(gone) && at.Before(back) {
				return math.NaN()
			}
			return wave(at)
		})}
		p := newPredictor(t, rule, c, nil)
		for _, step := range []struct {
			to      time.Time
			written bool
		}{{gone, true}, {gone.Add(20 * time.Minute), true}, {gone.Add(21 * time.Minute), written}, {back.Add(-time.Minute), written}, {back, true}} {
			out := play(t, p, step.to, time.Minute, 0)
			if got := value(out, lead); math.IsNaN(got) == step.written {
				t.Errorf("%s: %s after it is gone the forecast is %g", missing, step.to.Sub(gone), got)
			}
			s := p.Status().Series[0]
			if is := value(out, armed) == 1; s.Armed != is || !step.written && !strings.Contains(s.ArmedText, "more than the horizon ago") {
				t.Errorf("%s: %s after it is gone it is armed: %t, and said to be: %t, %s", missing, step.to.Sub(gone), is, s.Armed, s.ArmedText)
			}
		}
	}
}

// TestPredictorClock: a clock that goes wrong for some minutes, and is set back, costs nothing of what was known.
func TestPredictorClock(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 1m, history: 2d, horizon: 20m, lead: 10m, seasons: [1h]")
	for _, wrong := range []time.Duration{4 * time.Minute, time.Hour, 365 * 24 * time.Hour} {
		now := midnight
		c := &curves{values: one(func(at time.Time) float64 {
			if at.After(now) && !at.Equal(now.Add(wrong)) && wrong > time.Hour { // of a year to come nothing is stored
				return math.NaN()
			}
			return wave(at)
		})}
		p := newPredictor(t, rule, c, nil)
		play(t, p, now, time.Minute, 0)
		now = midnight.Add(time.Minute)
		play(t, p, now.Add(wrong), time.Minute, 2*time.Minute)
		for i := range 3 {
			now = midnight.Add(time.Duration(4+i) * time.Minute)
			out := play(t, p, now, time.Minute, 0)
			if got, want := value(out, `{__name__="ahead", horizon="lead", quantile="0.5"}`), wave(now.Add(10*time.Minute)); i > 0 && !(math.Abs(got-want) < 3) {
				t.Errorf("%s: %s after midnight the forecast is %g, want about %g", wrong, now.Sub(midnight), got, want)
			}
		}
		if s := p.Status().Series[0]; s.Values < 2304 || !s.Armed {
			t.Errorf("%s: %d values, armed: %t", wrong, s.Values, s.Armed)
		}
	}
}

// TestPredictorLimit: more series than may be are an error of the rule, and one that is gone makes room for another.
func TestPredictorLimit(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 1m, history: 1h, horizon: 2m, limit: 2")
	always := func(time.Time) float64 { return 1 }
	c := &curves{from: midnight, values: map[string]func(time.Time) float64{"a": always, "b": always}}
	p := newPredictor(t, rule, c, nil)
	play(t, p, midnight, time.Minute, time.Minute)
	c.values["c"] = always
	want := "forecast ahead: the query gives 3 series, more than limit, which is 2: aggregate them, or raise the limit"
	for _, after := range []time.Duration{0, 15 * time.Second} { // it is as wrong between two steps
		if _, err := p.Eval(t.Context(), midnight.Add(2*time.Minute+after)); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	delete(c.values, "a")
	out := play(t, p, midnight.Add(3*time.Minute), time.Minute, 0)
	models := map[string]bool{}
	for _, s := range out {
		if s.Labels.Get(labels.MetricName) != "flyball_forecast_model_weight" {
			models[s.Labels.Get("model")] = true
		} else if s.Labels.Get("exported_model") == "" {
			t.Errorf("%s has lost the label of the query's series", s.Labels)
		}
	}
	if diff := cmp.Diff(map[string]bool{"b": true, "c": true}, models); diff != "" {
		t.Error(diff)
	}
	delete(c.values, "b")
	play(t, p, midnight.Add(4*time.Minute), time.Minute, 61*time.Minute)
	if s := p.Status(); len(s.Series) != 1 || s.Series[0].Labels["model"] != "c" {
		t.Errorf("a series that was gone for longer than the history is still there: %+v", s.Series)
	}
}

// TestPredictorHistory: it is asked for in parts that are within the engine's limits, and again later where it cannot be had.
func TestPredictorHistory(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 1m, history: 1d, horizon: 20m")
	c := &curves{values: one(wave), points: 200}
	p := newPredictor(t, rule, c, nil)
	play(t, p, midnight, time.Minute, 0)
	if s := p.Status(); !s.HistoryLoaded || s.HistorySteps != 1440 || s.Series[0].Values != 1441 {
		t.Errorf("history %+v", s)
	}
	if n := len(c.ranges); n != 1+12 {
		t.Errorf("%d range queries: one too large, and 12 of 125 steps", n)
	}

	c = &curves{values: one(wave), points: 1}
	p = newPredictor(t, rule, c, nil)
	play(t, p, midnight, 15*time.Second, 50*time.Second)
	if s := p.Status(); s.HistoryLoaded || s.HistoryError != "too many points" || len(s.Series) != 1 {
		t.Errorf("history %+v", s)
	}
	asked := len(c.ranges)
	c.points = 0
	play(t, p, midnight.Add(59*time.Second), time.Second, 0)
	if len(c.ranges) != asked {
		t.Error("it tried again before a minute was over")
	}
	play(t, p, midnight.Add(time.Minute), time.Second, 0)
	if s := p.Status(); !s.HistoryLoaded || s.HistoryError != "" || s.Series[0].Values != 1441 {
		t.Errorf("history %+v", s)
	}
}

// TestPredictorLead: it is the longest start of the rules that use the forecast, and half of the query's widest range.
func TestPredictorLead(t *testing.T) {
	for _, tt := range []struct {
		name, keys string
		longest    time.Duration
		want       time.Duration
		from       string
	}{
		{"given", "query: 'rate(x[5m])', lead: 7m", time.Minute, 7 * time.Minute, "as the rule gives it"},
		{"measured", "query: demand, lead: auto", 4 * time.Minute, 4 * time.Minute, "a start"},
		{"of a rate", "query: 'sum(rate(x[5m])) / sum(rate(y[1m]))'", 4 * time.Minute, 6*time.Minute + 30*time.Second, "a start, and 2m30s by which the query's range is late"},
		{"not known", "query: demand", 0, 2 * time.Minute, "2m, since no scale rule says how long a start takes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPredictor(t, forecastRule(t, tt.keys), &curves{values: one(wave), from: midnight}, func(o *PredictorOptions) {
				o.Startup = func(forecast string) (time.Duration, string) {
					if forecast != "ahead" {
						t.Errorf("asked for %s", forecast)
					}
					return tt.longest, "a start"
				}
			})
			play(t, p, midnight, time.Minute, 0)
			if s := p.Status(); s.LeadSeconds != tt.want.Seconds() || s.Lead != tt.from {
				t.Errorf("%gs, %q: want %s, %q", s.LeadSeconds, s.Lead, tt.want, tt.from)
			}
		})
	}
}

// TestPredictorState: after a restart it goes on as if there had been none, with what passed meanwhile; what cannot be read, or is
// of other options, is put aside or let go, and the history loaded.
func TestPredictorState(t *testing.T) {
	keys := "query: demand, step: 1m, history: 6h, horizon: 20m, lead: 10m, anomalies: true"
	c := &curves{values: one(wave), from: midnight.Add(-48 * time.Hour)}
	dir := t.TempDir()
	in := func(o *PredictorOptions) { o.Directory = dir }
	states := &ForecastStates{Directory: dir, Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)}
	whole := newPredictor(t, forecastRule(t, keys), c, nil)
	want := play(t, whole, midnight, time.Minute, 90*time.Minute)

	first := newPredictor(t, forecastRule(t, keys), c, in)
	play(t, first, midnight, time.Minute, 60*time.Minute)
	states.Show([]*Predictor{first})
	if err := states.Save(midnight); err != nil {
		t.Fatal(err)
	}
	c.ranges = nil
	second := newPredictor(t, forecastRule(t, keys), c, in)
	got := play(t, second, midnight.Add(90*time.Minute), time.Minute, 0)
	if diff := cmp.Diff([][2]time.Time{{midnight.Add(61 * time.Minute), midnight.Add(90 * time.Minute)}}, c.ranges); diff != "" {
		t.Error(diff)
	}
	for _, s := range want {
		if s.Labels.Get(labels.MetricName) == "ahead" && math.Abs(value(got, s.Labels.String())-s.Value) > 0.5 {
			t.Errorf("%s is %g, without the restart %g", s.Labels, value(got, s.Labels.String()), s.Value)
		}
	}

	path := filepath.Join(dir, "ahead.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		keys  string
		text  string
		aside bool
	}{
		"cut off":             {keys, string(text[:len(text)/2]), true},
		"of a later format":   {keys, strings.Replace(string(text), `"version":1`, `"version":2`, 1), true},
		"a broken forecaster": {keys, strings.Replace(string(text), `"forecaster":"Zm`, `"forecaster":"AA`, 1), true},
		"other options":       {"query: demand, step: 1m, history: 6h, horizon: 25m, lead: 10m, anomalies: true", string(text), false},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(path + ".invalid")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			c.ranges = nil
			p := newPredictor(t, forecastRule(t, tt.keys), c, in)
			play(t, p, midnight.Add(90*time.Minute), time.Minute, 0)
			if s := p.Status(); !s.HistoryLoaded || s.HistorySteps != 360 {
				t.Errorf("the history was not loaded: %+v", s)
			}
			if _, err := os.Stat(path + ".invalid"); (err == nil) != tt.aside {
				t.Errorf("kept aside: %v, want %v", err == nil, tt.aside)
			}
		})
	}

	// Another lead is the same forecast.
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPredictor(t, forecastRule(t, strings.Replace(keys, "lead: 10m", "lead: 5m", 1)), c, in)
	c.ranges = nil
	play(t, p, midnight.Add(61*time.Minute), time.Minute, 0)
	if len(c.ranges) != 0 {
		t.Errorf("with another lead it asked for %v", c.ranges)
	}

	states.Show(nil)
	if err := states.Save(midnight); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file of a rule that is gone is still there")
	}
}

// TestPredictorAnomalies: a spike is told once and counted, and what was in the history is not.
func TestPredictorAnomalies(t *testing.T) {
	for _, keys := range []string{"anomalies: true", "anomalies: {sensitivity: 5, realert: 2h}"} {
		rule := forecastRule(t, "query: demand, step: 1m, history: 1d, horizon: 20m, "+keys)
		old, spike := midnight.Add(-5*time.Hour), midnight.Add(10*time.Minute)
		c := &curves{values: one(func(at time.Time) float64 {
			v := wave(at) + math.Sin(float64(at.Unix())) // a little noise
			if at.Equal(old) || at.Equal(spike) || at.Equal(spike.Add(3*time.Minute)) {
				v += 500
			}
			return v
		})}
		var text strings.Builder
		p := newPredictor(t, rule, c, func(o *PredictorOptions) { o.Log = slog.New(slog.NewTextHandler(&text, nil)) })
		out := play(t, p, midnight, time.Minute, 20*time.Minute)
		if got := value(out, `{__name__="flyball_forecast_anomalies_total", forecast="ahead", kind="spike"}`); got != 1 {
			t.Errorf("%s: %g spikes, want 1", keys, got)
		}
		if n := strings.Count(text.String(), "an anomaly"); n != 1 {
			t.Errorf("%d log lines", n)
		}
		if a := p.Status().Series[0].LastAnomaly; a == nil || !a.Time.Equal(spike) || a.Kind != "spike" {
			t.Errorf("last anomaly %+v", a)
		}
	}
}

// TestPredictorNoise: what cannot be foreseen is never armed, whatever the values look like; what can be is.
func TestPredictorNoise(t *testing.T) {
	hash := func(at time.Time, n int64) float64 { // evenly between 0 and 1
		x := uint64(at.UnixMilli()/1000*7919 + n)
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return float64((x^x>>31)>>11) / (1 << 53)
	}
	normal := func(at time.Time) float64 {
		return math.Sqrt(-2*math.Log(1-hash(at, 1))) * math.Cos(2*math.Pi*hash(at, 2))
	}
	for _, tt := range []struct {
		name  string
		keys  string
		value func(time.Time) float64
		armed bool
	}{
		{"even", "seasons: auto", func(at time.Time) float64 { return 100 * hash(at, 0) }, false},
		{"normal", "seasons: auto", func(at time.Time) float64 { return 100 + 10*normal(at) }, false},
		{"skewed", "seasons: auto", func(at time.Time) float64 { return 100 * math.Exp(normal(at)) }, false},
		{"skewed, with a short season", "seasons: [1h]", func(at time.Time) float64 { return 100 * math.Exp(normal(at)) }, false},
		{"constant", "seasons: auto", func(time.Time) float64 { return 5 }, false},
		{"a season in noise", "seasons: [1h]", func(at time.Time) float64 { return wave(at) + 10*normal(at) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rule := forecastRule(t, "query: demand, step: 1m, history: 1d, horizon: 20m, lead: 10m, "+tt.keys)
			p := newPredictor(t, rule, &curves{values: one(tt.value)}, nil)
			armed, n := 0, 0
			for at := midnight; at.Before(midnight.Add(12 * time.Hour)); at = at.Add(time.Minute) {
				out, err := p.Eval(t.Context(), at)
				if err != nil {
					t.Fatal(err)
				}
				armed += int(value(out, `{__name__="flyball_forecast_armed", forecast="ahead"}`))
				n++
			}
			if want := n; tt.armed && armed < want || !tt.armed && armed > 0 {
				t.Errorf("armed at %d of %d evaluations", armed, n)
			}
		})
	}
}

// TestPredictorArming: between the skill that arms and none at all a forecast stays as it is.
func TestPredictorArming(t *testing.T) {
	p := newPredictor(t, forecastRule(t, "query: demand, step: 1m, horizon: 10m"), &curves{}, nil)
	tr := &track{}
	tr.explained.LiveErrors = 1440
	var got []bool
	for _, skill := range []float64{0.05, 0.08, 0.05, 0.04, 0.03, 0.05, 0.08} {
		tr.skill = skill
		tr.arm(p)
		got = append(got, tr.armed)
	}
	if diff := cmp.Diff([]bool{false, true, true, true, false, false, true}, got); diff != "" {
		t.Error(diff)
	}
	tr.explained.LiveErrors = 99 // of 100
	if tr.arm(p); tr.armed {
		t.Error("armed before enough forecasts were compared")
	}
}

// TestPredictorBackground: history and fits beside the evaluations lose no value, and end with the workers.
func TestPredictorBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := forecastRule(t, "query: demand, step: 1m, history: 6h, horizon: 20m, lead: 10m")
		w := NewWorkers(1)
		c := &curves{values: map[string]func(time.Time) float64{"a": wave, "b": wave, "c": wave}}
		p := newPredictor(t, rule, c, func(o *PredictorOptions) { o.Workers = w })
		start := time.Now().Truncate(time.Minute)
		for i := range 13 * 60 {
			if _, err := p.Eval(t.Context(), start.Add(time.Duration(i)*time.Minute)); err != nil {
				t.Fatal(err)
			}
			p.Status()
			if i%7 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		s := p.Status()
		if !s.HistoryLoaded || len(s.Series) != 3 {
			t.Fatalf("%+v", s)
		}
		for _, one := range s.Series {
			if one.Values != 360+13*60 || one.Missing != 0 {
				t.Errorf("%d values, %d missing", one.Values, one.Missing)
			}
			if one.Fitted.Before(start.Add(11 * time.Hour)) {
				t.Errorf("last fitted at %s", one.Fitted)
			}
		}
		w.Close()
		w.do(t.Context(), func(context.Context) { t.Error("a job after the end") })
	})
}

// TestPredictorLeadChanges: while models are fitted beside the evaluations, the lead may change; the race detector sees whether
// both mind each other.
func TestPredictorLeadChanges(t *testing.T) {
	rule := forecastRule(t, "query: demand, step: 1m, history: 6h, horizon: 20m")
	w := NewWorkers(1)
	defer w.Close()
	longest := time.Duration(0)
	c := &curves{values: map[string]func(time.Time) float64{"a": wave, "b": wave, "c": wave}}
	p := newPredictor(t, rule, c, func(o *PredictorOptions) {
		o.Workers, o.Log = w, nil
		o.Startup = func(string) (time.Duration, string) { longest += time.Second; return longest, "as measured" }
	})
	play(t, p, midnight, time.Minute, 13*time.Hour)
	if got := p.Status(); got.LeadSeconds != 781 {
		t.Errorf("the lead is %g s, want 781", got.LeadSeconds)
	}
}

// TestPredictorFarOut: values at the end of what counts as one, which a history has as float32, are fitted to like others.
func TestPredictorFarOut(t *testing.T) {
	for _, far := range []float64{1e30, -1e30, 9.99999999e29, 1.1e30, math.MaxFloat64, math.SmallestNonzeroFloat64} {
		rule := forecastRule(t, "query: demand, step: 1m, history: 6h, horizon: 20m, anomalies: true, events: [{name: e, rrule: FREQ=DAILY, start: '00:00', duration: 3h, lift: 0.1}], regressors: {r: demand}")
		c := &curves{from: midnight.Add(-6 * time.Hour), values: one(func(at time.Time) float64 {
			if at.Minute()%7 == 0 {
				return far
			}
			return float64(at.Minute())
		})}
		p := newPredictor(t, rule, c, func(o *PredictorOptions) { o.Directory, o.Log = t.TempDir(), nil })
		out := play(t, p, midnight, time.Minute, 7*time.Hour)
		if v := value(out, `{__name__="ahead", horizon="lead", quantile="0.9"}`); math.IsNaN(v) || v < 0 {
			t.Errorf("with %g: %g", far, v)
		}
		if err := p.save(midnight); err != nil {
			t.Errorf("with %g: %s", far, err)
		}
		if _, err := json.Marshal(p.Status()); err != nil {
			t.Errorf("with %g: %s", far, err)
		}
	}
}

// TestForecastRuleFaults: what could never be evaluated is refused where it is.
func TestForecastRuleFaults(t *testing.T) {
	for keys, want := range map[string]string{
		"query: 'demand[5m]'":                     "4:31: PromQL: a query must give an instant vector or a scalar, this gives a matrix",
		`query: '"demand"'`:                       "4:31: PromQL: a query must give an instant vector or a scalar, this gives a string",
		"query: demand, regressors: {x: 'y[5m]'}": "4:55: PromQL: a query must give an instant vector or a scalar, this gives a matrix",
		"query: demand, levels: []":               "4:38: levels: none: expected a quantile at least, such as 0.9",
	} {
		r := &Reader{Defaults: testDefaults}
		_, err := r.Parse("r.yml", []byte("groups:\n- name: a\n  rules:\n  - {forecast: ahead, "+keys+"}\n"))
		if err == nil || !strings.Contains(err.Error(), "r.yml:"+want+"\n") {
			t.Errorf("%s: %v", keys, err)
		}
	}
}

// slow takes a second for each hundred steps that it is asked for at once.
type slow struct{ curves }

func (s *slow) QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(end.Sub(start) / step * 10 * time.Millisecond):
	}
	return s.curves.QueryRange(ctx, expr, start, end, step)
}

// TestPredictorTimeout: steps that were missed, and what drives the value, keep an evaluation no longer than it may take, and what is too
// much at once is asked for bit by bit.
func TestPredictorTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := forecastRule(t, "query: demand, step: 1s, history: 1h, horizon: 20s, lead: 10s, regressors: {now: time()}")
		s := &slow{curves{values: one(wave)}}
		p := NewPredictor(rule, PredictorOptions{Querier: s, Metrics: NewMetrics(prometheus.NewRegistry()), Timeout: 2 * time.Second})
		eval := func() error {
			at := time.Now()
			_, err := p.Eval(t.Context(), at)
			if took := time.Since(at); took > 4*time.Second {
				t.Errorf("an evaluation took %s", took)
			}
			return err
		}
		p.history.loaded = true // there is none
		if err := eval(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		if err := eval(); err == nil {
			t.Error("1,000 steps were had in 2s")
		}
		for range 40 {
			eval()
			time.Sleep(time.Second)
		}
		if err := eval(); err != nil {
			t.Error(err)
		}
		if got := p.Status().Series[0]; got.Missing != 0 || p.next < p.stepOf(time.Now())-5 {
			t.Errorf("%d values, %d missing, and %d steps are not asked for yet", got.Values, got.Missing, p.stepOf(time.Now())-p.next)
		}
	})
}

// TestPredictorOneSeriesTwice: series that differ by nothing that a forecast keeps are an error that says so.
func TestPredictorOneSeriesTwice(t *testing.T) {
	s := &twice{}
	p := NewPredictor(forecastRule(t, "query: demand"), PredictorOptions{Querier: s, Metrics: NewMetrics(prometheus.NewRegistry())})
	_, err := p.Eval(t.Context(), midnight)
	want := `forecast ahead: the query gives two series that are both {model="a"} but for their names, or for quantile, horizon or forecast: aggregate them`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

type twice struct{ curves }

func (*twice) Query(_ context.Context, _ string, at time.Time, _ time.Duration) ([]Sample, error) {
	return []Sample{
		{Labels: labels.FromStrings("__name__", "x", "model", "a"), Value: 1, Time: at},
		{Labels: labels.FromStrings("__name__", "y", "model", "a"), Value: 1, Time: at},
	}, nil
}

// BenchmarkPredictor is one evaluation of a forecast rule every 15 seconds, of which each fourth takes a value.
func BenchmarkPredictor(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			rule := forecastRule(b, "query: demand, step: 1m, history: 2d, horizon: 20m, lead: 10m, anomalies: true")
			c := &curves{values: map[string]func(time.Time) float64{}}
			for i := range n {
				c.values[fmt.Sprint("m", i)] = wave
			}
			p := NewPredictor(rule, PredictorOptions{Querier: c, Metrics: NewMetrics(prometheus.NewRegistry())})
			at := midnight
			if _, err := p.Eval(b.Context(), at); err != nil {
				b.Fatal(err)
			}
			p.opts.Workers = NewWorkers(1) // fits are beside it
			defer p.opts.Workers.Close()
			b.ReportAllocs()
			for b.Loop() {
				at = at.Add(15 * time.Second)
				if _, err := p.Eval(b.Context(), at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
