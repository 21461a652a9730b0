package eval_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/forecast"
	"flyball/forecast/eval"
)

// example is a forecast of two steps after a day and a half.
func example() eval.Forecast {
	s := eval.Series{Name: "chat", Start: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), Step: time.Hour}
	for i := range 36 {
		s.Values = append(s.Values, math.Round(100+60*math.Sin(2*math.Pi*float64(i)/24)))
	}
	s.Values[30] = nan
	f := eval.Forecast{
		Series: s, Levels: []float64{0.1, 0.9}, Model: "auto", Weights: map[string]float64{"naive": 0.25, "ses": 0.75},
		Seasons: []time.Duration{24 * time.Hour, 90 * time.Minute, 30 * time.Second}, Reason: "a reason",
		Events:     []forecast.EventLift{{Name: "launch", Lift: 2.5, Prior: 1.5, Occurrences: 3}},
		Regressors: []forecast.RegressorEffect{{Name: "queued", Coefficient: 0.5, Used: true, Error: 2, ErrorWithout: 3}},
		Anomalies: []eval.Detected{
			{Time: s.Time(3), Value: 7, Expected: 100, Finding: forecast.Finding{Score: 9.5, Kind: forecast.Dip, Alert: true}},
			{Time: s.Time(4), Value: 8, Expected: 100, Finding: forecast.Finding{Score: 9.25, Kind: forecast.Dip}},
			{Time: s.Time(5), Value: 99, Expected: 100, Finding: forecast.Finding{Score: 0.125}},
			{Time: s.Time(30), Value: nan, Expected: 160, Finding: forecast.Finding{Kind: forecast.Missing, Alert: true}},
		},
	}
	for i := range 2 {
		f.Points = append(f.Points, eval.Point{Time: s.Time(36 + i), Mean: 100 - 15*float64(i), Quantiles: []float64{80 - 30*float64(i), 120}})
	}
	return f
}

func TestWriteForecastText(t *testing.T) {
	var b bytes.Buffer
	if err := eval.WriteForecastText(&b, example()); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimPrefix(`
chat   36 values, one every 1h
a reason

       160 │     •••                     • •
           │   ••   ••                 ••   ••
           │  •       •               •       •
           │ •         •             •         •░░
           │•           •           •           ─░
           │             •         •            ░─
     72.73 │              •       •             ░░
           │               •     •               ░
           │                •••••                ░
           │
           │
         0 │
           └──────────────────────────────────────────────────────────────────
            03-01 00:00                   03-02 11:00

                 time  mean  p10  p90
  2026-03-02 12:00:00   100   80  120
  2026-03-02 13:00:00    85   50  120
`, "\n")
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestWriteForecastTextOfOdd has a plot of everything: flat, missing, huge, far ahead, without quantiles.
func TestWriteForecastTextOfOdd(t *testing.T) {
	for name, change := range map[string]func(*eval.Forecast){
		"flat": func(f *eval.Forecast) {
			for i := range f.Series.Values {
				f.Series.Values[i] = 5
			}
		},
		"all missing": func(f *eval.Forecast) {
			for i := range f.Series.Values {
				f.Series.Values[i] = nan
			}
		},
		"huge":                 func(f *eval.Forecast) { f.Series.Values[3] = 1e99 },
		"below 0":              func(f *eval.Forecast) { f.Series.Values[3] = -1e99 },
		"no quantiles":         func(f *eval.Forecast) { f.Levels = nil },
		"two values":           func(f *eval.Forecast) { f.Series.Values = f.Series.Values[:2] },
		"thousands of steps":   func(f *eval.Forecast) { f.Points = repeat(f.Points, 1000) },
		"one point, one value": func(f *eval.Forecast) { f.Points, f.Series.Values = f.Points[:1], f.Series.Values[:1] },
	} {
		f := example()
		change(&f)
		var b bytes.Buffer
		if err := eval.WriteForecastText(&b, f); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if n := len([]rune(line)); n > 120 {
				t.Errorf("%s: a line of %d characters: %s", name, n, line)
			}
		}
		if got := strings.Count(b.String(), "│"); got != 12 {
			t.Errorf("%s: %d lines in the plot\n%s", name, got, b.String())
		}
		if strings.Contains(b.String(), "NaN") {
			t.Errorf("%s: NaN is said\n%s", name, b.String())
		}
	}
}

func repeat(points []eval.Point, n int) (all []eval.Point) {
	for range n {
		all = append(all, points...)
	}
	return all
}

func sameJSON(t *testing.T, want string, got []byte) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(want), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &b); err != nil {
		t.Fatalf("%v in\n%s", err, got)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWriteForecastsJSON(t *testing.T) {
	var b bytes.Buffer
	if err := eval.WriteForecastsJSON(&b, []eval.Forecast{example()}, time.Date(2026, 3, 2, 11, 30, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	sameJSON(t, `{"series": [{
		"series": "chat", "step_seconds": 3600,
		"points": [
			{"time": "2026-03-02T12:00:00Z", "mean": 100, "quantiles": {"0.1": 80, "0.9": 120}},
			{"time": "2026-03-02T13:00:00Z", "mean": 85, "quantiles": {"0.1": 50, "0.9": 120}}
		],
		"model": "auto", "weights": {"naive": 0.25, "ses": 0.75}, "seasons": ["24h", "1h30m", "30s"],
		"events": [{"name": "launch", "lift": 2.5, "prior": 1.5, "occurrences": 3}],
		"regressors": [{"name": "queued", "coefficient": 0.5, "used": true, "error": 2, "error_without": 3}],
		"anomalies": [
			{"time": "2026-03-01T03:00:00Z", "value": 7, "score": 9.5, "kind": "dip"},
			{"time": "2026-03-02T06:00:00Z", "value": null, "score": 0, "kind": "missing"}
		],
		"generated_at": "2026-03-02T11:30:00Z", "reason": "a reason"
	}]}`, b.Bytes())
}

func TestWriteResults(t *testing.T) {
	score := eval.Score{MASE: 0.5, SMAPE: 12.5, RelMAE: 0.25, WIS: 3, Coverage: []eval.Coverage{{Level: 0.5, Ratio: 0.4}, {Level: 0.975, Ratio: 1}}}
	other := eval.Score{MASE: 2, SMAPE: 50, RelMAE: 1, WIS: math.Inf(1), Coverage: score.Coverage}
	results := []eval.Result{{Series: "chat", Score: score, Baselines: map[string]eval.Score{"naive": other, "seasonal_day": score, "seasonal_week": score}}}
	var b bytes.Buffer
	if err := eval.WriteResultsJSON(&b, results); err != nil {
		t.Fatal(err)
	}
	scored := `{"mase": 0.5, "smape": 12.5, "rel_mae": 0.25, "wis": 3, "coverage": {"0.5": 0.4, "0.975": 1}}`
	sameJSON(t, `{"series": [{"series": "chat", "mase": 0.5, "smape": 12.5, "rel_mae": 0.25, "wis": 3, "coverage": {"0.5": 0.4, "0.975": 1},
		"baselines": {"naive": {"mase": 2, "smape": 50, "rel_mae": 1, "wis": null, "coverage": {"0.5": 0.4, "0.975": 1}},
			"seasonal_day": `+scored+`, "seasonal_week": `+scored+`}}], "gmean_rel_mae": 0.25}`, b.Bytes())
	b.Reset()
	if err := eval.WriteResultsText(&b, "auto", results); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimPrefix(`
  series       forecast   MASE  sMAPE  rel MAE   WIS  ≤ p50  ≤ p97.5
    chat           auto  0.500  12.50    0.250     3  0.400    1.000
                  naive  2.000  50.00    1.000  +Inf  0.400    1.000
           seasonal_day  0.500  12.50    0.250     3  0.400    1.000
          seasonal_week  0.500  12.50    0.250     3  0.400    1.000

The error is 0.250 of that of the last value (geometric mean over the series): better than it.
`, "\n")
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWriteAnomalies(t *testing.T) {
	f := example()
	var b bytes.Buffer
	if err := eval.WriteDetectedCSV(&b, f.Anomalies); err != nil {
		t.Fatal(err)
	}
	want := "time,value,score,anomaly,kind\n" +
		"2026-03-01T03:00:00Z,7,9.5,true,dip\n2026-03-01T04:00:00Z,8,9.25,false,dip\n2026-03-01T05:00:00Z,99,0.125,false,\n2026-03-02T06:00:00Z,,0,true,missing\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("csv (-want +got)\n%s", diff)
	}
	all := []eval.Anomalies{{Series: f.Series, Model: "auto", Found: f.Anomalies}, {Series: eval.Series{Name: "calm", Step: time.Minute}, Model: "naive", Found: f.Anomalies[2:3]}}
	b.Reset()
	if err := eval.WriteAnomaliesText(&b, all); err != nil {
		t.Fatal(err)
	}
	want = "2026-03-01 03:00:00  chat  dip      value 7  forecast 100  9.5 deviations off  2 values\n" +
		"2026-03-02 06:00:00  chat  missing  value -  forecast 160                      1 value\n" +
		"calm                 nothing out of the ordinary in 1 value\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("text (-want +got)\n%s", diff)
	}
	b.Reset()
	if err := eval.WriteAnomaliesJSON(&b, all); err != nil {
		t.Fatal(err)
	}
	sameJSON(t, `{"series": [
		{"series": "chat", "step_seconds": 3600, "model": "auto", "anomalies": [
			{"time": "2026-03-01T03:00:00Z", "value": 7, "score": 9.5, "kind": "dip"},
			{"time": "2026-03-02T06:00:00Z", "value": null, "score": 0, "kind": "missing"}]},
		{"series": "calm", "step_seconds": 60, "model": "naive", "anomalies": []}
	]}`, b.Bytes())
}
