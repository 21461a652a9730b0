package store

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

// forecastGroup reads a file of a forecast rule, and makes its group.
func forecastGroup(t testing.TB, s *Scratch, text string) (Group, *rules.Predictor) {
	t.Helper()
	r := &rules.Reader{Defaults: rules.Defaults{EvaluationInterval: time.Minute, ScrapeInterval: time.Minute}}
	f, err := r.Parse("rules.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var p *rules.Predictor
	g := GroupOf(f, &f.Groups[0], func(rule *rules.Rule) rules.Evaluator {
		if rule.Forecast == nil {
			return nil
		}
		p = rules.NewPredictor(rule.Forecast, rules.PredictorOptions{
			Querier: s.Router(), Metrics: rules.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		})
		return p
	})
	return g, p
}

func openScratch(t testing.TB) *Scratch {
	t.Helper()
	s, err := OpenScratch(Options{EvaluationInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestPredictorInEngine: what a forecast rule writes is asked for by PromQL, is there at each evaluation though the query is asked
// once a step, and has the labels of the query's series and of the group.
func TestPredictorInEngine(t *testing.T) {
	s := openScratch(t)
	g, _ := forecastGroup(t, s, `groups:
- name: demand
  interval: 1m
  labels: {team: serving}
  rules:
  - {record: "model:demand:sum", expr: "sum by (model) (running)"}
  - {forecast: ahead, query: "model:demand:sum", step: 5m, history: 1d, horizon: 30m, lead: 12m, seasons: [2h], levels: [0.1, 0.5, 0.9]}
  - {record: "seen", expr: 'count(ahead{horizon="lead"})'}
`)
	if err := s.SetGroups([]Group{g}); err != nil {
		t.Fatal(err)
	}
	wave := func(model string, at time.Time) float64 {
		up := map[string]float64{"a": 60, "b": 6}[model]
		return up * (2 + math.Sin(2*math.Pi*float64(at.Unix()%7200)/7200))
	}
	start := t0.Truncate(2 * time.Hour)
	for i := range 24 * 60 {
		at := start.Add(time.Duration(i) * time.Minute)
		var all []ScratchSample
		for _, model := range []string{"a", "b"} {
			all = append(all, ScratchSample{Labels: labels.FromStrings("__name__", "running", "model", model), Time: at, Value: wave(model, at)})
		}
		if err := s.Append(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		if _, err := s.EvalGroups(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if failed := s.Failures(); len(failed) > 0 {
			t.Fatalf("at %s: %v", at, failed)
		}
		if got, err := s.Query(t.Context(), "seen", at, time.Second); err != nil || len(got) != 1 || got[0].Value != 6 {
			t.Fatalf("at %s: %v %v, want 3 levels of 2 models", at, got, err)
		}
	}
	end := start.Add(24*time.Hour - time.Minute)
	for _, model := range []string{"a", "b"} {
		for horizon, ahead := range map[string]time.Duration{"lead": 12 * time.Minute, "30m": 30 * time.Minute} {
			expr := fmt.Sprintf(`ahead{team="serving",model=%q,horizon=%q,quantile="0.5"}`, model, horizon)
			got, err := s.Query(t.Context(), expr, end, 0)
			if err != nil || len(got) != 1 {
				t.Fatalf("%s: %v %v", expr, got, err)
			}
			lo := min(wave(model, end.Add(ahead).Truncate(5*time.Minute)), wave(model, end.Add(ahead).Truncate(5*time.Minute).Add(5*time.Minute)))
			hi := max(wave(model, end.Add(ahead).Truncate(5*time.Minute)), wave(model, end.Add(ahead).Truncate(5*time.Minute).Add(5*time.Minute)))
			if v := got[0].Value; v < lo-0.05*hi || v > 1.05*hi {
				t.Errorf("%s is %g, and will be from %g to %g", expr, v, lo, hi)
			}
		}
	}
	if got, err := s.Query(t.Context(), `flyball_forecast_armed{forecast="ahead"}`, end, 0); err != nil || len(got) != 2 || got[0].Value+got[1].Value != 2 {
		t.Errorf("armed: %v %v", got, err)
	}
}

// TestPredictorNoiseInEngine: pure noise disarms a forecast that a season had armed, when the season is out of the history that
// the simple forecasts beside it are fitted to.
func TestPredictorNoiseInEngine(t *testing.T) {
	s := openScratch(t)
	g, _ := forecastGroup(t, s, `groups:
- name: demand
  rules:
  - {forecast: ahead, query: demand, step: 1m, history: 1d, horizon: 5m, lead: 3m, seasons: [30m]}
`)
	if err := s.SetGroups([]Group{g}); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	start := t0.Truncate(30 * time.Minute)
	armedAt := func(at time.Time) float64 {
		got, err := s.Query(t.Context(), `flyball_forecast_armed{forecast="ahead"}`, at, 0)
		if err != nil || len(got) != 1 {
			t.Fatalf("%v %v", got, err)
		}
		return got[0].Value
	}
	const seasonal, noise, all = 6 * 60, 45 * 60, 51 * 60
	armed := 0.0
	for i := range all {
		at := start.Add(time.Duration(i) * time.Minute)
		v := 100 + 10*random.NormFloat64()
		if i < seasonal {
			v = 100 + 60*math.Sin(2*math.Pi*float64(i%30)/30)
		}
		if err := s.Append(t.Context(), []ScratchSample{{Labels: labels.FromStrings("__name__", "demand"), Time: at, Value: v}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.EvalGroups(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if i == seasonal-1 && armedAt(at) != 1 {
			t.Error("the season did not arm it")
		}
		if i >= noise {
			armed += armedAt(at)
		}
	}
	if armed > 0 {
		t.Errorf("armed at %g of %d evaluations on noise", armed, all-noise)
	}
}
