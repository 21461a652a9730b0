package eval_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flyball/forecast"
	"flyball/forecast/eval"
)

// oracle knows the series and forecasts off above it; it fails if it is shown what is not due yet.
type oracle struct {
	t      *testing.T
	s      eval.Series
	seen   int
	fitted bool
	off    float64
	asked  []int // values seen at each forecast
}

func (o *oracle) Observe(at time.Time, y float64) {
	if !at.Equal(o.s.Time(o.seen)) || y != o.s.Values[o.seen] && !math.IsNaN(y) {
		o.t.Errorf("value %d: observed %v at %s", o.seen, y, at)
	}
	o.seen++
}

func (o *oracle) Forecast(horizon int, levels []float64) []eval.Point {
	o.asked = append(o.asked, o.seen)
	points := make([]eval.Point, horizon)
	for h := range points {
		y := o.s.Values[o.seen+h]
		if math.IsNaN(y) {
			y = -1e9 // nobody may look at it
		}
		points[h] = eval.Point{Time: o.s.Time(o.seen + h), Mean: y + o.off, Quantiles: make([]float64, len(levels))}
		for i, l := range levels {
			points[h].Quantiles[i] = y + o.off + 10*(l-0.5)
		}
	}
	return points
}

type fittedOracle struct{ *oracle }

func (o fittedOracle) Fit(values []float64, start time.Time) {
	if !start.Equal(o.s.Start) {
		o.t.Errorf("fitted from %s, want %s", start, o.s.Start)
	}
	o.seen += len(values)
	o.fitted = true
}

// hourly is a series of hours: of day d and hour h it is 100 d + h, so that every error can be told by hand.
func hourly(days int) eval.Series {
	s := eval.Series{Name: "hourly", Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Step: time.Hour}
	for i := range days * 24 {
		s.Values = append(s.Values, float64(i/24*100+i%24))
	}
	return s
}

func TestRolling(t *testing.T) {
	s := hourly(10)
	s.Values[8*24+1] = math.NaN()
	r := eval.Rolling{Train: 8 * 24 * time.Hour, Every: 24 * time.Hour, Horizon: 2 * time.Hour, Levels: []float64{0.1, 0.5, 0.9}}
	for _, fit := range []bool{false, true} {
		o := &oracle{t: t, s: s, off: 3}
		results, err := r.Run(t.Context(), []eval.Series{s}, func(known eval.Series, _ int, _ []float64) (eval.Forecaster, error) {
			if len(known.Values) != 8*24 {
				t.Errorf("%d values are known before the first origin, want 8 days", len(known.Values))
			}
			if fit {
				return fittedOracle{o}, nil
			}
			return o, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if o.fitted != fit {
			t.Errorf("fitted: %t, want %t", o.fitted, fit)
		}
		if diff := cmp.Diff([]int{8 * 24, 9 * 24}, o.asked); diff != "" {
			t.Errorf("origins (-want +got)\n%s", diff)
		}
		// Three values are there at the two origins: 800; 900 and 901. The scale is a day's difference, 100. The last
		// value is 723 at the first origin and 823 at the second.
		smape := (200*3.0/1603 + 200*3.0/1803 + 200*3.0/1805) / 3
		last := (77.0 + 77 + 78) / 3
		got := results[0]
		near(t, "MAE", got.MAE, 3)
		near(t, "MASE", got.MASE, 0.03)
		near(t, "sMAPE", got.SMAPE, smape)
		near(t, "relative MAE", got.RelMAE, 3/last)
		near(t, "relative MAE of the last value", got.Baselines["naive"].RelMAE, 1)
		near(t, "MASE of the day before", got.Baselines["seasonal_day"].MASE, (1.0+1+2)/3) // before 901 a day is missing
		near(t, "MASE of the week before", got.Baselines["seasonal_week"].MASE, 7)
		// Quantiles at -1, +3 and +7 around what comes: what comes is within the 80 %.
		near(t, "WIS", got.WIS, (1.5+0.1*8)/1.5)
		want := []eval.Coverage{{Level: 0.1, Ratio: 0}, {Level: 0.5, Ratio: 1}, {Level: 0.9, Ratio: 1}}
		if diff := cmp.Diff(want, got.Coverage); diff != "" {
			t.Errorf("coverage (-want +got)\n%s", diff)
		}
		if diff := cmp.Diff([]eval.Band{{Low: 0.1, Nominal: 0.8, Ratio: 1}}, got.Bands, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
			t.Errorf("bands (-want +got)\n%s", diff)
		}
		if got.Origins != 2 || got.Points != 3 {
			t.Errorf("%d origins and %d points, want 2 and 3", got.Origins, got.Points)
		}
	}
}

// TestRollingOrigins has the origins count from the end of the training part, to the last that all is there for.
func TestRollingOrigins(t *testing.T) {
	s := hourly(3)
	for _, tt := range []struct {
		train, every, horizon time.Duration
		want                  []int
	}{
		{24 * time.Hour, 24 * time.Hour, 24 * time.Hour, []int{24, 48}},
		{23 * time.Hour, 24 * time.Hour, 24 * time.Hour, []int{23, 47}},
		{71 * time.Hour, 24 * time.Hour, time.Hour, []int{71}},
		{70 * time.Hour, time.Minute, time.Hour, []int{70, 71}},
	} {
		o := &oracle{t: t, s: s}
		r := eval.Rolling{Train: tt.train, Every: tt.every, Horizon: tt.horizon}
		results, err := r.Run(t.Context(), []eval.Series{s}, func(eval.Series, int, []float64) (eval.Forecaster, error) { return o, nil })
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, o.asked); diff != "" || results[0].Origins != len(tt.want) {
			t.Errorf("%+v: %d origins (-want +got)\n%s", tt, results[0].Origins, diff)
		}
	}
}

// TestRollingOfFlat has ratios be numbers where the last value makes no error.
func TestRollingOfFlat(t *testing.T) {
	s := hourly(3)
	for i := range s.Values {
		s.Values[i] = 5
	}
	r := eval.Rolling{Train: 48 * time.Hour, Every: time.Hour}
	for off, want := range map[float64]float64{0: 1, 1: 1e9 / 5} {
		results, err := r.Run(t.Context(), []eval.Series{s}, func(eval.Series, int, []float64) (eval.Forecaster, error) {
			return &oracle{t: t, s: s, off: off, seen: 0}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		near(t, "relative MAE", results[0].RelMAE, want)
		near(t, "that of the last value", results[0].Baselines["naive"].RelMAE, 1)
		near(t, "MASE", results[0].MASE, off/0.005)
	}
}

// noisy is a daily pattern with noise.
func noisy(seed uint64, days int) eval.Series {
	rnd := rand.New(rand.NewPCG(seed, 1))
	s := eval.Series{Name: fmt.Sprint("noisy", seed), Start: time.Unix(0, 0).UTC(), Step: 10 * time.Minute}
	for i := range days * 144 {
		s.Values = append(s.Values, 100+50*math.Sin(2*math.Pi*float64(i)/144)+10*rnd.NormFloat64())
	}
	return s
}

func TestRollingIsTheSameHoweverManyWorkers(t *testing.T) {
	var all []eval.Series
	for i := range uint64(7) {
		all = append(all, noisy(i, 10))
	}
	var want []eval.Result
	for _, workers := range []int{1, 3, 16} {
		got, err := eval.Rolling{Workers: workers}.Run(t.Context(), all, eval.NewBaselines("seasonal_day"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			got[i].Fit, got[i].Observe = 0, 0
		}
		if want == nil {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d workers (-want +got)\n%s", workers, diff)
		}
	}
	for i, r := range want {
		if r.Series != all[i].Name {
			t.Errorf("result %d is of %s", i, r.Series)
		}
		if diff := cmp.Diff(r.Score, r.Baselines["seasonal_day"]); diff != "" {
			t.Errorf("the baseline that is measured and the one beside it differ\n%s", diff)
		}
	}
}

// TestBaselineQuantiles has the tracked quantiles cover what they say, on noise and on a random walk.
func TestBaselineQuantiles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	walk := eval.Series{Name: "walk", Step: 10 * time.Minute}
	y := 1000.0
	for range 40 * 144 {
		y += rnd.NormFloat64()
		walk.Values = append(walk.Values, y)
	}
	for _, tt := range []struct {
		s        eval.Series
		baseline string
	}{{walk, "naive"}, {noisy(9, 40), "seasonal_day"}} {
		results, err := eval.Rolling{Every: 20 * time.Minute}.Run(t.Context(), []eval.Series{tt.s}, eval.NewBaselines(tt.baseline))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range results[0].Coverage {
			if math.Abs(c.Ratio-c.Level) > 0.03 {
				t.Errorf("%s: %.3f is covered at %g", tt.s.Name, c.Ratio, c.Level)
			}
		}
		for _, b := range results[0].Bands {
			if math.Abs(b.Ratio-b.Nominal) > 0.03 {
				t.Errorf("%s: the band of %.2f covers %.3f", tt.s.Name, b.Nominal, b.Ratio)
			}
		}
	}
}

// TestBaselineQuantilesAreInOrder has them rise with their levels and not go below 0, unless the values do.
func TestBaselineQuantilesAreInOrder(t *testing.T) {
	levels := []float64{0.9, 0.1, 0.5, 0.45, 0.55}
	for _, negative := range []bool{false, true} {
		rnd := rand.New(rand.NewPCG(5, 6))
		b, err := eval.NewBaseline("naive", time.Minute, 2, levels)
		if err != nil {
			t.Fatal(err)
		}
		below := false
		for i := range 3000 {
			y := math.Floor(10 * rnd.Float64() * rnd.Float64())
			if negative && i == 0 {
				y = -1
			}
			b.Observe(time.Unix(int64(i)*60, 0), y)
			for _, p := range b.Forecast(2, levels) {
				q := p.Quantiles
				if q[1] > q[3] || q[3] > q[2] || q[2] > q[4] || q[4] > q[0] {
					t.Fatalf("after %d values the quantiles %v are %v", i, levels, q)
				}
				below = below || q[1] < 0
			}
		}
		if below != negative {
			t.Errorf("quantiles below 0: %t, values: %t", below, negative)
		}
	}
}

// wrong is a forecaster that forecasts what must not be.
type wrong struct{ points []eval.Point }

func (w wrong) Observe(time.Time, float64)           {}
func (w wrong) Forecast(int, []float64) []eval.Point { return w.points }

func TestRollingFails(t *testing.T) {
	r := eval.Rolling{Train: 48 * time.Hour, Every: time.Hour, Horizon: time.Hour, Levels: []float64{0.5}}
	gap := hourly(4)
	for i := 48; i < len(gap.Values); i++ {
		gap.Values[i] = math.NaN()
	}
	for _, tt := range []struct {
		name string
		s    eval.Series
		f    eval.Forecaster
		want string
	}{
		{"short", hourly(1), wrong{}, "series hourly: 24 values are 24h0m0s: at least the 48h0m0s to train on and the 1h0m0s to forecast are needed"},
		{"nothing to compare with", gap, wrong{[]eval.Point{{Quantiles: []float64{0}}}}, "series hourly: no value is there to compare with after the first 48h0m0s"},
		{"no points", hourly(4), wrong{}, "series hourly: 0 points where 1 were asked for"},
		{"NaN", hourly(4), wrong{[]eval.Point{{Mean: nan, Quantiles: []float64{0}}}}, "series hourly: 2026-01-03 00:00:00 +0000 UTC, 1 steps ahead: the mean is NaN"},
		{"infinite", hourly(4), wrong{[]eval.Point{{Quantiles: []float64{math.Inf(1)}}}}, "series hourly: 2026-01-03 00:00:00 +0000 UTC, 1 steps ahead: the quantile 0.5 is +Inf"},
		{"quantiles", hourly(4), wrong{[]eval.Point{{}}}, "series hourly: 2026-01-03 00:00:00 +0000 UTC, 1 steps ahead: 0 quantiles where 1 were asked for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.Run(t.Context(), []eval.Series{tt.s}, func(eval.Series, int, []float64) (eval.Forecaster, error) { return tt.f, nil })
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Run(ctx, []eval.Series{hourly(4)}, eval.NewBaselines("naive")); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context ended: %v", err)
	}
	if _, err := r.Run(t.Context(), []eval.Series{hourly(4)}, eval.NewBaselines("best")); err == nil || !strings.Contains(err.Error(), `baseline "best"`) {
		t.Errorf("an unknown baseline: %v", err)
	}
}

// TestBaselineSkips has a jump of the clock be missing steps, in bounded time, and one backwards nothing at all.
func TestBaselineSkips(t *testing.T) {
	at := func(h int) time.Time { return time.Unix(int64(h)*3600, 0) }
	b, err := eval.NewBaseline("seasonal_day", time.Hour, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	for h := range 24 {
		b.Observe(at(h), float64(h))
	}
	b.Observe(at(5), 1000)          // the past
	b.Observe(at(24*10_000+6), 600) // 27 years later, at six
	want := []eval.Point{
		{Time: at(24*10_000 + 7), Mean: 7},
		{Time: at(24*10_000 + 8), Mean: 8},
	}
	if diff := cmp.Diff(want, b.Forecast(2, nil), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := b.Forecast(24, nil)[23].Mean; got != 600 {
		t.Errorf("a day after 600 the forecast is %v", got)
	}
}

// TestBaselineJumps has a jump over a century of milliseconds take no longer than any.
func TestBaselineJumps(t *testing.T) {
	b, err := eval.NewBaseline("naive", time.Millisecond, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Observe(time.Unix(0, 0), 1)
	later := time.Unix(100*365*24*3600, 0)
	b.Observe(later, 2)
	if p := b.Forecast(1, nil)[0]; p.Mean != 2 || !p.Time.Equal(later.Add(time.Millisecond)) {
		t.Errorf("the forecast is %+v", p)
	}
}

func TestSummarize(t *testing.T) {
	results := []eval.Result{
		{Series: "a", Score: eval.Score{Points: 10, MASE: 1, SMAPE: 10, RelMAE: 0.5, ScaledWIS: 0.2, Coverage: []eval.Coverage{{Level: 0.9, Ratio: 1}}}},
		{Series: "b", Score: eval.Score{Points: 30, MASE: 2, SMAPE: 30, RelMAE: 2, ScaledWIS: 0.4, Coverage: []eval.Coverage{{Level: 0.9, Ratio: 0.8}}}},
		{Series: "c", Score: eval.Score{Points: 0, MASE: 6, SMAPE: 20, RelMAE: 1, ScaledWIS: 0.6, Coverage: []eval.Coverage{{Level: 0.9, Ratio: 0}}}},
	}
	got := eval.Summarize(results, func(r eval.Result) eval.Score { return r.Score })
	want := eval.Summary{
		Series: 3, MASE: 3, MedianMASE: 2, SMAPE: 20, ScaledWIS: 0.4, GMeanRelMAE: 1, WorstRelMAE: 2, WorstSeries: "b", ShareOfWorse: 1.0 / 3,
		Coverage: []eval.Coverage{{Level: 0.9, Ratio: 0.85}}, Bands: []eval.Band{},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What moves the values and is known ahead makes forecasts better; where the regressor ends with the values, nothing is known
// ahead and nothing gets worse.
func TestRollingWithRegressors(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 24 * 40
	y, x := make([]float64, n), make([]float64, n+3)
	for i := range x {
		if i > 0 {
			x[i] = 0.8*x[i-1] + r.NormFloat64()
		}
		if i < n {
			y[i] = 100 + 20*math.Sin(2*math.Pi*float64(i)/24) + 10*x[i] + r.NormFloat64()
		}
	}
	s := eval.Series{Name: "a", Start: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC), Step: time.Hour, Values: y}
	mase := func(regressors ...[]float64) float64 {
		s := s
		s.Regressors = regressors
		results, err := eval.Rolling{Train: 20 * 24 * time.Hour, Every: time.Hour, Horizon: 3 * time.Hour}.Run(t.Context(), []eval.Series{s},
			func(s eval.Series, horizon int, levels []float64) (eval.Forecaster, error) {
				var names []string
				if len(regressors) > 0 {
					names = []string{"x"}
				}
				f, err := forecast.New(forecast.Options{Step: s.Step, Horizon: horizon, Levels: levels, Regressors: names})
				return &eval.Online{Forecaster: f}, err
			})
		if err != nil {
			t.Fatal(err)
		}
		return results[0].MASE
	}
	plain, now, ahead := mase(), mase(x[:n]), mase(x)
	t.Logf("MASE %.3f, %.3f with what is known now, %.3f with what is known three steps ahead", plain, now, ahead)
	if ahead > plain/2 || now > 1.03*plain {
		t.Errorf("MASE %.3f, %.3f with what is known now, %.3f with what is known three steps ahead", plain, now, ahead)
	}
}
