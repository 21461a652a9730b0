package rules

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// ledger answers what was spent up to a time, by an amount an hour since the start of November, and what rules cost.
type ledger struct {
	perHour func(at time.Time) float64
	costs   map[string]float64
	reached map[string]float64
	asked   []string
}

func (l *ledger) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]Sample, error) {
	l.asked = append(l.asked, expr)
	if strings.HasPrefix(expr, "last_over_time(flyball_budget_threshold_reached{") {
		var all []Sample
		for key, v := range l.reached {
			share, kind, _ := strings.Cut(key, "/")
			all = append(all, Sample{Labels: labels.FromStrings("at", share, "type", kind), Value: v})
		}
		return all, nil
	}
	if strings.HasPrefix(expr, "sum(flyball_scale_cost") {
		for rule, v := range l.costs {
			if strings.Contains(expr, fmt.Sprintf("%q", rule)) {
				return []Sample{{Value: v}}, nil
			}
		}
		return nil, nil
	}
	text := strings.TrimSuffix(strings.TrimPrefix(expr, "sum(increase(usd_total["), "]))")
	d, err := model.ParseDuration(text)
	if err != nil {
		return nil, err
	}
	sum := 0.0
	for t := at.Add(-time.Duration(d)); t.Before(at); t = t.Add(5 * time.Minute) {
		sum += l.perHour(t) / 12
	}
	return []Sample{{Value: sum}}, nil
}

func parseBudget(t testing.TB, text string) *Budget {
	t.Helper()
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte("groups:\n- name: money\n  rules:\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return f.Groups[0].Rules[0].Budget
}

func gauges(samples []Sample, names ...string) (lines []string) {
	for _, s := range samples {
		for _, name := range names {
			if s.Labels.Get(labels.MetricName) == name {
				lines = append(lines, fmt.Sprintf("%s %.4g", strings.ReplaceAll(s.Labels.String(), `"`, ""), s.Value))
			}
		}
	}
	return lines
}

const monthly = `  - budget: gpu
    spend: sum(increase(usd_total[$elapsed]))
    limit: 7200
    period: month
    tz: Europe/Berlin
    thresholds:
    - {at: 0.5, alert: GPUBudgetHalf}
    - {at: 1, forecasted: true, alert: GPUBudgetForecast}
    - {at: 0.6, action: cap}
    applies_to: [a, b]
    policy: hard
    slo_floor: 2
`

// TestBudget plays a November of 720 hours whose limit is 10 USD an hour.
func TestBudget(t *testing.T) {
	begin := time.Date(2026, 10, 31, 23, 0, 0, 0, time.UTC) // midnight in Berlin
	l := &ledger{perHour: func(time.Time) float64 { return 8 }, costs: map[string]float64{"a": 4, "b": 2}}
	a := NewAccountant(parseBudget(t, monthly), l)
	eval := func(at time.Time) []Sample {
		t.Helper()
		samples, err := a.Eval(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		return samples
	}
	state := func(samples []Sample) []string {
		return gauges(samples, "flyball_budget_threshold_reached", "flyball_budget_cap_usd_per_hour")
	}

	samples := eval(begin.Add(240 * time.Hour))
	if diff := cmp.Diff([]string{
		"{__name__=flyball_budget_limit_usd, budget=gpu} 7200",
		"{__name__=flyball_budget_spend_usd, budget=gpu} 1920",
		"{__name__=flyball_budget_forecast_usd, budget=gpu} 5760",
		"{__name__=flyball_budget_burn_rate, budget=gpu, window=5m} 0.8",
		"{__name__=flyball_budget_burn_rate, budget=gpu, window=30m} 0.8",
		"{__name__=flyball_budget_burn_rate, budget=gpu, window=1h} 0.8",
		"{__name__=flyball_budget_burn_rate, budget=gpu, window=6h} 0.8",
		"{__name__=flyball_budget_used_up, budget=gpu} 0",
	}, gauges(samples, "flyball_budget_limit_usd", "flyball_budget_spend_usd", "flyball_budget_forecast_usd", "flyball_budget_burn_rate", "flyball_budget_used_up")); diff != "" {
		t.Error(diff)
	}
	if got, want := a.Status(), (BudgetStatus{LimitUSD: 7200, SpendUSD: 1920, ForecastUSD: 5760, PeriodEnd: time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC)}); got.LimitUSD != want.LimitUSD || math.Abs(got.SpendUSD-want.SpendUSD) > 1e-6 || math.Abs(got.ForecastUSD-want.ForecastUSD) > 1e-6 || !got.PeriodEnd.Equal(want.PeriodEnd) || got.UsedUp {
		t.Errorf("%+v", got)
	}
	quiet := []string{
		"{__name__=flyball_budget_threshold_reached, at=0.5, budget=gpu, type=actual} 0",
		"{__name__=flyball_budget_threshold_reached, at=1, budget=gpu, type=forecast} 0",
		"{__name__=flyball_budget_threshold_reached, at=0.6, budget=gpu, type=actual} 0",
	}
	if diff := cmp.Diff(quiet, state(samples)); diff != "" {
		t.Error(diff)
	}

	// The rate doubles: the forecast is over the limit within hours, long before the money is gone.
	l.perHour = func(at time.Time) float64 {
		if at.Before(begin.Add(240 * time.Hour)) {
			return 8
		}
		return 16
	}
	if got := state(eval(begin.Add(256 * time.Hour))); !strings.HasSuffix(got[1], "forecast} 1") || !strings.HasSuffix(got[0], "actual} 0") {
		t.Errorf("after sixteen hours at twice the rate: %v", got)
	}

	// 60 % are spent: what is left is divided by what the rules cost, after what is spent on anything else.
	at := begin.Add(400 * time.Hour) // 1920 + 160*16 = 4480
	left := (7200.0 - 4480) / 320    // an hour
	other := 16.0 - 6
	if left > other {
		t.Fatal("the test leaves something")
	}
	if diff := cmp.Diff([]string{
		"{__name__=flyball_budget_threshold_reached, at=0.5, budget=gpu, type=actual} 1",
		"{__name__=flyball_budget_threshold_reached, at=1, budget=gpu, type=forecast} 1",
		"{__name__=flyball_budget_threshold_reached, at=0.6, budget=gpu, type=actual} 1",
		"{__name__=flyball_budget_cap_usd_per_hour, budget=gpu, rule=a} 0",
		"{__name__=flyball_budget_cap_usd_per_hour, budget=gpu, rule=b} 0",
	}, state(eval(at))); diff != "" {
		t.Error(diff)
	}
	l.costs = map[string]float64{"a": 12, "b": 4}
	if diff := cmp.Diff([]string{
		"{__name__=flyball_budget_cap_usd_per_hour, budget=gpu, rule=a} 6.375",
		"{__name__=flyball_budget_cap_usd_per_hour, budget=gpu, rule=b} 2.125",
	}, gauges(eval(at), "flyball_budget_cap_usd_per_hour")); diff != "" {
		t.Error(diff)
	}

	// Once in a period: what falls a little below stays reached, what falls well below or into the next month does not.
	l.perHour = func(at time.Time) float64 { return 7200 * 0.46 / 400 }
	if got := state(eval(at.Add(time.Second)))[0]; !strings.HasSuffix(got, "type=actual} 1") {
		t.Errorf("4 points below: %s", got)
	}
	l.perHour = func(at time.Time) float64 { return 7200 * 0.44 / 400 }
	if got := state(eval(at.Add(time.Second)))[0]; !strings.HasSuffix(got, "type=actual} 0") {
		t.Errorf("6 points below: %s", got)
	}
	l.perHour = func(at time.Time) float64 { return 16 }
	eval(at.Add(2 * time.Second))
	if diff := cmp.Diff(quiet[0], state(eval(time.Date(2026, 11, 30, 23, 0, 1, 0, time.UTC)))[0]); diff != "" {
		t.Errorf("the next month: %s", diff)
	}

	// A restart remembers what was reached, so that no alert ends and fires again.
	l.perHour, l.reached = func(at time.Time) float64 { return 7200 * 0.46 / 400 }, map[string]float64{"0.5/actual": 1}
	a = NewAccountant(parseBudget(t, monthly), l)
	if got := state(eval(at))[0]; !strings.HasSuffix(got, "type=actual} 1") {
		t.Errorf("after a restart: %s", got)
	}
}

func TestBudgetSpans(t *testing.T) {
	for _, tt := range []struct{ period, at, start, end string }{
		{"month", "2026-02-03T04:05:06Z", "2026-02-01T00:00:00+01:00", "2026-03-01T00:00:00+01:00"},
		{"month", "2026-03-31T22:30:00Z", "2026-04-01T00:00:00+02:00", "2026-05-01T00:00:00+02:00"},
		{"week", "2026-11-22T12:00:00Z", "2026-11-16T00:00:00+01:00", "2026-11-23T00:00:00+01:00"},
		{"week", "2026-11-22T23:00:00Z", "2026-11-23T00:00:00+01:00", "2026-11-30T00:00:00+01:00"},
		{"day", "2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"}, // of 23 hours
		{"30d", "2026-03-29T12:00:00Z", "2026-02-27T12:00:00Z", "2026-03-29T12:00:00Z"},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		start, end := parseBudget(t, strings.Replace(monthly, "period: month", "period: "+tt.period, 1)).span(at)
		if got := start.Format(time.RFC3339) + " " + end.Format(time.RFC3339); got != tt.start+" "+tt.end {
			t.Errorf("%s at %s: %s", tt.period, tt.at, got)
		}
	}
}

// TestBudgetLinks: scale rules learn of the budgets that apply to them, whatever the order of the files.
func TestBudgetLinks(t *testing.T) {
	r := &Reader{Defaults: testDefaults}
	f, err := r.Parse("scale.yml", []byte(rule("digits\n", "a\n")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Parse("money.yml", []byte("groups:\n- name: money\n  rules:\n"+monthly)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]capRule{{"gpu", true, 2}}, f.Groups[0].Rules[0].Scale.caps); diff != "" {
		t.Error(diff)
	}
	want := `
money.yml:13:21: no scale rule "b"
   13 |     applies_to: [a, b]
      |                     ^
1 error in 1 file`
	if err := r.Finish(); err == nil || "\n"+err.Error() != want {
		t.Errorf("got\n%v", err)
	}
}
