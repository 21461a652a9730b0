package forecast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// monday is a Monday in winter.
var monday = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

func newForecaster(t testing.TB, o Options) *Forecaster {
	t.Helper()
	if o.Step == 0 {
		o.Step = 10 * time.Minute
	}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// feed lets f observe y from start on.
func feed(f *Forecaster, start time.Time, y []float64) {
	for i, v := range y {
		f.Observe(start.Add(time.Duration(i)*f.o.Step), v)
	}
}

func TestNewFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"no step", Options{}, "step 0s: it is a multiple of a millisecond, above 0"},
		{"a step of 1.5 ms", Options{Step: 1500 * time.Microsecond}, "step 1.5ms: it is a multiple of a millisecond, above 0"},
		{
			"everything",
			Options{
				Step: time.Minute, Horizon: -1, Levels: []float64{0, 0.5, math.NaN()}, Model: "prophet",
				Seasons: []time.Duration{90 * time.Second, time.Minute, 7 * 24 * time.Hour},
			},
			`horizon -1: it is from 1 to 2016 steps, or 0 for an hour
level 0: it is above 0 and below 1
level NaN: it is above 0 and below 1
model "prophet": there are auto, naive, seasonal_naive, ses, holt, holt_damped, holt_winters, holt_winters_damped, ` +
				`holt_winters_multiplicative, ets_ar, ets_ar_mae, ets_ar_damped
season 1m30s: it is a multiple of the step 1m0s
season 1m0s: it is from 2 to 3024 steps of 1m0s
season 168h0m0s: it is from 2 to 3024 steps of 1m0s`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.o)
			if err == nil {
				t.Fatal("no error")
			}
			if d := cmp.Diff(tt.want, err.Error()); d != "" {
				t.Error(d)
			}
		})
	}
}

// There is a forecast from the first value on, and more in it the more was seen.
func TestLadder(t *testing.T) {
	f := newForecaster(t, Options{Levels: []float64{0.1, 0.5, 0.9}})
	if p := f.Forecast(3, nil); p != nil {
		t.Errorf("before the first value the forecast is %v", p)
	}
	y := seasonal(144*15, 144, 4, 5)
	models := map[int][]string{}
	for i, v := range y {
		f.Observe(monday.Add(time.Duration(i)*f.o.Step), v)
		if f.Due() {
			if err := f.Refit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		p := f.Forecast(6, []float64{0.1, 0.5, 0.9})
		if len(p) != 6 || math.IsNaN(p[5].Mean) || p[5].Mean < 0 || !slices.IsSorted(p[5].Quantiles) {
			t.Fatalf("after %d values the forecast is %+v", i+1, p)
		}
		if i == 0 && p[0].Mean != v {
			t.Errorf("after the first value, %v, the forecast is %v", v, p[0].Mean)
		}
		if want := monday.Add(time.Duration(i+6) * f.o.Step); !p[5].Time.Equal(want) {
			t.Fatalf("six steps after %d values are at %v, want %v", i+1, p[5].Time, want)
		}
		switch i + 1 {
		case 1, 29, 30, 287, 288, 2015, 2016:
			for _, m := range f.Explain().Members {
				models[i+1] = append(models[i+1], m.Name)
			}
			slices.Sort(models[i+1])
		}
	}
	plain := []string{"ets_ar_mae", "holt_damped", "naive", "ses"}
	day := append([]string{
		"ets_ar 24h", "ets_ar_damped 24h", "ets_ar_mae 24h", "holt_winters_damped 24h", "seasonal_naive 24h",
	}, plain...)
	slices.Sort(day)
	want := map[int][]string{
		1: {"naive", "ses"}, 29: {"naive", "ses"}, 30: plain, 287: plain, 288: day, 2015: day, 2016: models[2016],
	}
	if d := cmp.Diff(want, models); d != "" {
		t.Error(d)
	}
	if !slices.Contains(models[2016], "ets_ar_mae 24h+168h") && !slices.Contains(models[2016], "seasonal_naive 168h") {
		t.Errorf("with two weeks of the same days no model has a week: %v", models[2016])
	}
}

func TestSeasonsHaveToEarnTheirPlace(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	noise := make([]float64, 144*14)
	walk := make([]float64, 144*14)
	v := 1000.0
	for i := range noise {
		noise[i] = 100 + 10*r.NormFloat64()
		v += r.NormFloat64()
		walk[i] = v
	}
	for _, tt := range []struct {
		name string
		y    []float64
		used []string
		lead string
	}{
		{"a day", seasonal(144*9, 144, 3, 7), []string{"24h"}, "24h"},
		{"noise", noise, nil, ""},
		{"a random walk", walk, nil, ""},
		{"nothing", make([]float64, 144*14), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newForecaster(t, Options{})
			f.Fit(tt.y, monday)
			e := f.Explain()
			var used []string
			for _, s := range e.Seasons {
				if s.Used {
					used = append(used, short(s.Period))
				}
				if s.Reason == "" {
					t.Errorf("no reason for %+v", s)
				}
			}
			if d := cmp.Diff(tt.used, used); d != "" {
				t.Errorf("seasons used: %s\n%s", d, e.Reason)
			}
			if !strings.Contains(e.Members[0].Name, tt.lead) {
				t.Errorf("%s leads, want one with %q", e.Members[0].Name, tt.lead)
			}
			sum := 0.0
			for _, m := range e.Members {
				sum += m.Weight
			}
			near(t, "sum of weights", sum, 1, 0, 1e-9)
		})
	}
}

// Skill is what predictive scaling arms itself by: there is some where there is something to foresee.
func TestSkill(t *testing.T) {
	for _, tt := range []struct {
		name     string
		value    func(i int, last float64, r *rand.Rand) float64
		from, to float64
	}{
		{"a day", func(i int, _ float64, r *rand.Rand) float64 {
			return 100 + 60*math.Sin(2*math.Pi*float64(i)/144) + 2*r.NormFloat64()
		}, 0.4, 1},
		{"noise", func(_ int, _ float64, r *rand.Rand) float64 { return 100 + 10*r.NormFloat64() }, -0.05, 0.05},
		{"skewed noise", func(_ int, _ float64, r *rand.Rand) float64 { return 10 * r.ExpFloat64() }, -0.05, 0.05},
		{"a random walk", func(_ int, last float64, r *rand.Rand) float64 { return last + r.NormFloat64() }, -0.05, 0.05},
		{"a constant", func(int, float64, *rand.Rand) float64 { return 7 }, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(26, 26))
			y := make([]float64, 144*12)
			last := 1000.0
			for i := range y {
				last = tt.value(i, last, r)
				y[i] = last
			}
			f := newForecaster(t, Options{})
			f.Fit(y[:144*8], monday)
			if got := f.Skill(); got != 0 {
				t.Errorf("without a live error skill is %v", got)
			}
			feed(f, monday.AddDate(0, 0, 8), y[144*8:])
			if got := f.Skill(); got < tt.from || got > tt.to {
				t.Errorf("skill is %.3f, want from %v to %v", got, tt.from, tt.to)
			}
		})
	}
}

// An hour ahead, half-hourly electricity demand is forecast as well as by the best of the models, which nobody named.
func TestAutomaticIsAsGoodAsTheBest(t *testing.T) {
	for _, s := range readR(t) {
		if s.Series != "taylor48" {
			continue
		}
		mae := func(model string) (sum float64) {
			f := newForecaster(t, Options{Step: 30 * time.Minute, Horizon: 2, Model: model})
			train := len(s.Values) - 48*10
			f.Fit(s.Values[:train], monday)
			for i := train; i+2 <= len(s.Values); i++ {
				for h, p := range f.Forecast(2, nil) {
					sum += math.Abs(p.Mean - s.Values[i+h])
				}
				f.Observe(monday.Add(time.Duration(i)*f.o.Step), s.Values[i])
			}
			return sum
		}
		auto, best := mae("auto"), math.Inf(1)
		for _, name := range Models() {
			best = min(best, mae(name))
		}
		if naive := mae("naive"); auto > 1.1*best || auto > 0.4*naive {
			t.Errorf("the error is %.2f of the best model's and %.2f of the last value's", auto/best, auto/naive)
		}
		return
	}
	t.Error("taylor48 is not in testdata")
}

func TestNamedModels(t *testing.T) {
	y := seasonal(144*8, 144, 3, 8)
	train, test := y[:144*7], y[144*7:]
	for _, name := range Models() {
		for _, n := range []int{1, 29, 200, len(train)} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				f := newForecaster(t, Options{Model: name, Seasons: []time.Duration{24 * time.Hour}})
				f.Fit(train[len(train)-n:], monday)
				e := f.Explain()
				if e.Members[0].Weight != 1 {
					t.Errorf("the weights are %+v, want all on one", e.Members)
				}
				p := f.Forecast(144, nil)
				worst := 0.0
				for i := range p {
					worst = max(worst, math.Abs(p[i].Mean-test[i]))
				}
				k := kindOf(name)
				if n == len(train) {
					if want := k.most > 0; want != strings.HasSuffix(e.Members[0].Name, " 24h") || !strings.HasPrefix(e.Members[0].Name, name) {
						t.Errorf("%s was taken for %s", e.Members[0].Name, name)
					}
					if k.most > 0 && worst > 20 {
						t.Errorf("a day ahead the error gets up to %.1f", worst)
					}
				} else if math.IsNaN(worst) {
					t.Errorf("forecast %v", p)
				}
			})
		}
	}
}

func TestReason(t *testing.T) {
	f := newForecaster(t, Options{})
	if got := f.Explain().Reason; got != "no values yet" {
		t.Errorf("reason: %s", got)
	}
	f.Observe(monday, 3)
	if got, want := f.Explain().Reason, "1 values: the last one and an exponential mean of them until there are 30"; got != want {
		t.Errorf("reason: %s, want %s", got, want)
	}
	y := seasonal(144*9, 144, 3, 7)
	f.Fit(y[:144*8], monday)
	feed(f, monday.AddDate(0, 0, 8), y[144*8:])
	e := f.Explain()
	for _, want := range []string{
		"24h leads ", "% of the weight", "% below the last value's", "; season of 24h: autocorrelation ",
		"no season of 1h: autocorrelation ", "no season of 168h: 1152 steps are less than two of it, 2016",
	} {
		if !strings.Contains(e.Reason, want) {
			t.Errorf("the reason has no %q: %s", want, e.Reason)
		}
	}
	if e.LiveErrors != 144 || !(e.Error < 0.7*e.NaiveError) || e.Values != int64(len(y)) {
		t.Errorf("after a day alone: %+v", e)
	}
}

// The 80 % band of half-hourly electricity demand covers what it promises, from the start and after a burst began.
func TestCoverage(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	for _, tt := range []struct {
		name  string
		noise func(i int) float64
	}{
		{"normal", func(int) float64 { return 5 * r.NormFloat64() }},
		{"skewed", func(int) float64 { return 5 * r.ExpFloat64() }},
		{"three times wider after a while", func(i int) float64 { return 5 * r.NormFloat64() * float64(1+2*min(i/(144*10), 1)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			y := seasonal(144*20, 144, 0, 1)
			for i := range y {
				y[i] += tt.noise(i)
			}
			levels := []float64{0.1, 0.5, 0.9, 0.95}
			f := newForecaster(t, Options{Levels: levels})
			f.Fit(y[:144*8], monday)
			below := make([]float64, len(levels))
			n := 0.0
			for i := 144 * 8; i+6 <= len(y); i++ {
				p := f.Forecast(6, levels)
				for k, q := range p[4].Quantiles {
					if y[i+4] <= q {
						below[k]++
					}
				}
				n++
				f.Observe(monday.Add(time.Duration(i)*f.o.Step), y[i])
			}
			for k, l := range levels {
				if got := below[k] / n; math.Abs(got-l) > 0.04 {
					t.Errorf("%.0f%% of the values stayed below the quantile %v", 100*got, l)
				}
			}
			for _, c := range f.Coverage() {
				if math.Abs(c.Realized-c.Level) > 0.05 || c.Errors < 1600 {
					t.Errorf("reported %+v", c)
				}
			}
		})
	}
}

func TestCoverageTellsOfBrokenPromises(t *testing.T) {
	f := newForecaster(t, Options{Seasons: []time.Duration{}})
	r := rand.New(rand.NewPCG(10, 10))
	y := make([]float64, 500)
	for i := range y {
		y[i] = 100 + r.NormFloat64()
	}
	f.Fit(y, monday)
	last := f.time(f.last)
	for i := range 30 { // demand that only rises is above each quantile
		f.Observe(last.Add(time.Duration(i+1)*f.o.Step), 200*float64(i+1))
	}
	for _, c := range f.Coverage() {
		if c.Realized > c.Level*0.6 {
			t.Errorf("thirty values above the quantile %v of %d steps ahead, realized is %.2f", c.Level, c.Horizon, c.Realized)
		}
	}
}

func TestQuantilesWiden(t *testing.T) {
	y := seasonal(144*8, 144, 5, 11)
	f := newForecaster(t, Options{})
	f.Fit(y, monday)
	width := func(h int) float64 {
		p := f.Forecast(h, []float64{0.1, 0.9})[h-1]
		return p.Quantiles[1] - p.Quantiles[0]
	}
	before, far := width(6), width(60)
	if far < 2*before {
		t.Errorf("the band is %.1f wide at 6 steps and %.1f at 60", before, far)
	}
	last := f.last
	for i := range 60 {
		f.Observe(f.time(last+int64(i)+1), math.NaN())
	}
	after := width(6)
	if after < 2*before {
		t.Errorf("the band is %.1f wide, and %.1f after sixty missing values", before, after)
	}
	f.Observe(f.time(last+1_000_000), math.NaN())
	if w := width(6); math.IsNaN(w) || w > 5*before {
		t.Errorf("the band is %.1f wide after a million missing values, %.1f before", w, before)
	}
	f.Observe(f.time(f.last+1), 100)
	if w := width(6); w > 1.2*before {
		t.Errorf("the band is still %.1f wide with a value again, %.1f before", w, before)
	}
}

// Levels may be asked for in any order, tracked or not.
func TestLevels(t *testing.T) {
	f := newForecaster(t, Options{Levels: []float64{0.6}})
	f.Fit(seasonal(144*8, 144, 5, 12), monday)
	levels := []float64{0.9, 0.001, 0.5, 0.999, 0.6, 0.1, 0.95}
	for h, p := range f.Forecast(40, levels) {
		for i := range levels {
			for j := range levels {
				if levels[i] < levels[j] && p.Quantiles[i] > p.Quantiles[j] {
					t.Fatalf("step %d: quantiles %v of %v", h+1, p.Quantiles, levels)
				}
			}
		}
	}
}

// Seasons follow the clock on the wall: when summer time begins, a peak at 09:00 comes an hour earlier in UTC.
func TestSummerTime(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	demand := func(at time.Time, zone *time.Location) float64 {
		at = at.In(zone)
		return 100 + 80*math.Exp(-math.Pow((float64(at.Hour())+float64(at.Minute())/60-9)/1.5, 2))
	}
	for _, tt := range []struct {
		name   string
		change time.Time
	}{
		{"begins", time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)},
		{"ends", time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC)},
	} {
		for _, days := range []int{-1, 0, 1} { // the forecast goes over the change, what is observed, the history
			live := days == 0
			t.Run(fmt.Sprintf("%s/%d", tt.name, days), func(t *testing.T) {
				end := tt.change.Truncate(24*time.Hour).AddDate(0, 0, days)
				worst := func(zone *time.Location) (worst float64) {
					f := newForecaster(t, Options{Location: zone, Horizon: 144})
					start := end.AddDate(0, 0, -9)
					var y []float64
					for at := start; at.Before(end); at = at.Add(f.o.Step) {
						y = append(y, demand(at, berlin))
					}
					f.Fit(y, start)
					if live {
						for at := end; at.Before(end.AddDate(0, 0, 2)); at = at.Add(f.o.Step) {
							f.Observe(at, demand(at, berlin))
							if at.After(tt.change) {
								worst = max(worst, math.Abs(f.Forecast(1, nil)[0].Mean-demand(at.Add(f.o.Step), berlin)))
							}
						}
						return worst
					}
					for _, p := range f.Forecast(144*2, nil) {
						worst = max(worst, math.Abs(p.Mean-demand(p.Time, berlin)))
					}
					return worst
				}
				if w := worst(berlin); w > 5 {
					t.Errorf("in Berlin's time the forecast is up to %.1f off", w)
				}
				if w := worst(time.UTC); days <= 0 && w < 7 {
					t.Errorf("in UTC it is %.1f off: the test shows nothing", w)
				}
			})
		}
	}
}

func TestTimes(t *testing.T) {
	step := 10 * time.Minute
	y := seasonal(400, 144, 2, 13)
	base := func() *Forecaster {
		f := newForecaster(t, Options{})
		feed(f, monday, y)
		return f
	}
	next := monday.Add(400 * step)
	for _, tt := range []struct {
		name                             string
		observe                          func(f *Forecaster)
		values, missing, ignored, atStep int64
	}{
		{"nothing", func(*Forecaster) {}, 400, 0, 0, 399},
		{"twice", func(f *Forecaster) { f.Observe(next, 1); f.Observe(next, 1e9) }, 401, 0, 1, 400},
		{"late", func(f *Forecaster) { f.Observe(next, 1); f.Observe(next.Add(-3*step), 1e9) }, 401, 0, 1, 400},
		{"jitter", func(f *Forecaster) {
			f.Observe(next.Add(-4*time.Minute), 1)
			f.Observe(next.Add(step+4*time.Minute), 1)
		}, 402, 0, 0, 401},
		{"a gap", func(f *Forecaster) { f.Observe(next.Add(5*step), 1) }, 401, 5, 0, 405},
		{"a year", func(f *Forecaster) { f.Observe(next.AddDate(1, 0, 0), 1) }, 401, 52560, 0, 400 + 52560},
		{"the clock set back", func(f *Forecaster) {
			for i := range 10 {
				f.Observe(next.Add(time.Duration(i-50)*step), 100)
			}
		}, 405, 0, 5, 359},
		{"infinite", func(f *Forecaster) { f.Observe(next, math.Inf(1)); f.Observe(next.Add(step), -1e300) }, 400, 2, 0, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := base()
			tt.observe(f)
			e := f.Explain()
			got := []int64{e.Values, e.Missing, e.Ignored, f.last - monday.UnixMilli()/step.Milliseconds()}
			if d := cmp.Diff([]int64{tt.values, tt.missing, tt.ignored, tt.atStep}, got); d != "" {
				t.Errorf("values, missing, ignored, step: %s", d)
			}
			if err := f.Refit(t.Context()); err != nil {
				t.Error(err)
			}
			check(t, f)
		})
	}
}

// check fails if a forecast is not a number, negative, or out of order.
func check(t testing.TB, f *Forecaster) {
	t.Helper()
	levels := []float64{0.01, 0.5, 0.99}
	for h, p := range f.Forecast(2*f.o.Horizon, levels) {
		for _, v := range append([]float64{p.Mean}, p.Quantiles...) {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
				t.Fatalf("step %d: %+v", h+1, p)
			}
		}
		if !slices.IsSorted(p.Quantiles) {
			t.Fatalf("step %d: %+v", h+1, p)
		}
	}
	for _, m := range f.Explain().Members {
		if !(m.Weight >= 0 && m.Weight <= 1+1e-9) {
			t.Fatalf("weight of %+v", m)
		}
	}
}

func TestHardSeries(t *testing.T) {
	n := 144 * 9
	r := rand.New(rand.NewPCG(14, 14))
	each := func(v func(i int) float64) []float64 {
		y := make([]float64, n)
		for i := range y {
			y[i] = v(i)
		}
		return y
	}
	wave := seasonal(n, 144, 4, 15)
	for _, tt := range []struct {
		name string
		y    []float64
	}{
		{"constant", each(func(int) float64 { return 7 })},
		{"zero", make([]float64, n)},
		{"one value", []float64{5}},
		{"one of many", each(func(i int) float64 {
			if i == 100 {
				return 5
			}
			return math.NaN()
		})},
		{"none", each(func(int) float64 { return math.NaN() })},
		{"half missing", withGaps(wave, 0.5, 1)},
		{"an outage of days", slices.Concat(wave[:n/2], each(func(int) float64 { return math.NaN() })[:n/4], wave[n*3/4:])},
		{"infinite at times", each(func(i int) float64 {
			if i%50 == 3 {
				return math.Inf(1 - 2*(i%2))
			}
			return wave[i]
		})},
		{"spikes of a thousand times", each(func(i int) float64 {
			if r.IntN(100) == 0 {
				return wave[i] * 1000
			}
			return wave[i]
		})},
		{"1e12", each(func(i int) float64 { return 1e12 * wave[i] })},
		{"1e-12", each(func(i int) float64 { return 1e-12 * wave[i] })},
		{"1e29", each(func(i int) float64 { return 1e27 * wave[i] })},
		{"a step", each(func(i int) float64 { return 10 + 1000*float64(i/(n/2)) })},
		{"steep", each(func(i int) float64 { return math.Exp(float64(i) / 60) })},
		{"falling to nothing", each(func(i int) float64 { return max(0, 1000-2*float64(i)) })},
		{"negative", each(func(i int) float64 { return -wave[i] })},
		{"on and off", each(func(i int) float64 { return float64(i / 7 % 2) })},
	} {
		for _, model := range append([]string{"auto"}, Models()...) {
			t.Run(tt.name+"/"+model, func(t *testing.T) {
				f := newForecaster(t, Options{Model: model})
				f.Fit(tt.y[:len(tt.y)*2/3], monday)
				check(t, f)
				for i, v := range tt.y[len(tt.y)*2/3:] {
					f.Observe(monday.Add(time.Duration(len(tt.y)*2/3+i)*f.o.Step), v)
					if i%40 == 0 {
						check(t, f)
					}
				}
				if err := f.Refit(t.Context()); err != nil {
					t.Fatal(err)
				}
				check(t, f)
				roundTrip(t, f)
			})
		}
	}
	f := newForecaster(t, Options{AllowNegative: true})
	f.Fit(each(func(i int) float64 { return -wave[i] }), monday)
	if p := f.Forecast(1, []float64{0.1}); !(p[0].Mean < -40 && p[0].Quantiles[0] < p[0].Mean) {
		t.Errorf("with negative values allowed the forecast of some is %+v", p)
	}
}

// One value a thousand times too large moves neither the forecast nor its quantiles much, now or a day later.
func TestSpike(t *testing.T) {
	y := seasonal(144*10, 144, 4, 21)
	for _, at := range []int{100, 144*9 + 77} { // in the history, or live
		clean, spiked := newForecaster(t, Options{}), newForecaster(t, Options{})
		z := slices.Clone(y)
		z[at] *= 1000
		for f, v := range map[*Forecaster][]float64{clean: y, spiked: z} {
			f.Fit(v[:144*9], monday)
			feed(f, monday.AddDate(0, 0, 9), v[144*9:144*9+80])
		}
		for range 2 {
			want, got := clean.Forecast(12, []float64{0.9}), spiked.Forecast(12, []float64{0.9})
			for h := range got {
				near(t, fmt.Sprintf("with a spike at %d the mean %d steps ahead", at, h+1), got[h].Mean, want[h].Mean, 0, 0.25)
				near(t, fmt.Sprintf("with a spike at %d the quantile %d steps ahead", at, h+1), got[h].Quantiles[0], want[h].Quantiles[0], 0, 0.5)
			}
			feed(clean, monday.AddDate(0, 0, 9).Add(80*clean.o.Step), y[144*9+80:])
			feed(spiked, monday.AddDate(0, 0, 9).Add(80*clean.o.Step), y[144*9+80:])
		}
	}
}

// Demand that stays ten times higher, or nearly ends, is believed within a few steps.
func TestShift(t *testing.T) {
	y := seasonal(144*9, 144, 4, 22)
	for _, factor := range []float64{10, 0.05} {
		f := newForecaster(t, Options{})
		f.Fit(y[:144*8], monday)
		for i := range 8 {
			f.Observe(monday.AddDate(0, 0, 8).Add(time.Duration(i)*f.o.Step), factor*y[144*8+i])
		}
		want := factor * y[144*8+8]
		if got := f.Forecast(1, nil)[0].Mean; math.Abs(got-want) > 0.35*max(want, 100) {
			t.Errorf("eight steps after demand times %v the forecast of %.0f is %.0f", factor, want, got)
		}
	}
}

// What was far out in the history is not what parameters are fitted to.
func TestSpikesInHistory(t *testing.T) {
	y := seasonal(144*9, 144, 4, 23)
	z := slices.Clone(y)
	for i := 50; i < 144*8; i += 97 {
		z[i] *= 1000
	}
	mae := func(v []float64) (sum float64) {
		f := newForecaster(t, Options{Model: "holt_winters", Seasons: []time.Duration{24 * time.Hour}})
		f.Fit(v[:144*8], monday)
		for i := range 144 {
			sum += math.Abs(f.Forecast(1, nil)[0].Mean-y[144*8+i]) / 144
			f.Observe(f.time(f.last+1), y[144*8+i])
		}
		return sum
	}
	if clean, spiked := mae(y), mae(z); spiked > 1.15*clean {
		t.Errorf("the error is %.1f after a history with spikes, %.1f without", spiked, clean)
	}
}

// When the clock is set back the seasons go with it, what was noted for the time to come is dropped, and so are the
// forecasts for it.
func TestClockSetBack(t *testing.T) {
	y := seasonal(144*9, 144, 2, 24)
	f := newForecaster(t, Options{})
	f.Fit(y[:144*8], monday)
	feed(f, monday.AddDate(0, 0, 8), y[144*8:])
	before, known := f.Explain().Error, f.Coverage()
	back := 144*8 + 72
	for i := range jump - 1 {
		f.Observe(monday.Add(time.Duration(back+i)*f.o.Step), y[back+i])
	}
	f.Observe(monday.Add(time.Duration(back+jump-1)*f.o.Step), y[back+jump-1])
	if d := cmp.Diff(known, f.Coverage()); d != "" {
		t.Errorf("a forecast for another time was held against a value: %s", d)
	}
	feed(f, monday.Add(time.Duration(back+jump)*f.o.Step), y[back+jump:back+jump+20])
	if got := f.Explain().Error; got > 1.3*before {
		t.Errorf("the error was %.2f, and %.2f after the clock was set back by half a day", before, got)
	}
	if err := f.Refit(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := f.history.list()
	for i, v := range kept[len(kept)-100:] {
		if want := y[back+jump+20-100+i]; math.Abs(v-want) > 1e-3 && i < 100-21 {
			t.Fatalf("%d steps back the history has %v, at that time it was %v", 100-i, v, want)
		}
	}
	for h, p := range f.Forecast(36, nil) {
		if want := y[back+jump+20+h]; math.Abs(p.Mean-want) > 12 {
			t.Errorf("%d steps ahead the forecast is %.0f, want about %.0f", h+1, p.Mean, want)
		}
	}
}

// A refit knows the errors in the history only too well; what live ones taught the quantiles stays.
func TestRefitKeepsWhatQuantilesLearned(t *testing.T) {
	y := seasonal(144*12, 144, 4, 25)
	f := newForecaster(t, Options{})
	f.Fit(y[:144*8], monday)
	feed(f, monday.AddDate(0, 0, 8), y[144*8:])
	want, promised := slices.Clone(f.pool.intervals.rows[1].q), f.Coverage()
	if err := f.Refit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, f.pool.intervals.rows[1].q); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(promised, f.Coverage()); d != "" {
		t.Error(d)
	}
}

// A forecast is not worse for being multiplied.
func TestScale(t *testing.T) {
	y := seasonal(144*8, 144, 4, 16)
	forecast := func(factor float64) []Point {
		f := newForecaster(t, Options{})
		z := make([]float64, len(y))
		for i := range z {
			z[i] = y[i] * factor
		}
		f.Fit(z, monday)
		return f.Forecast(6, []float64{0.9})
	}
	one, many := forecast(1), forecast(1<<40)
	for i := range one {
		near(t, "mean", many[i].Mean/(1<<40), one[i].Mean, 0, 1e-6)
		near(t, "quantile", many[i].Quantiles[0]/(1<<40), one[i].Quantiles[0], 0, 1e-6)
	}
}

func TestRefit(t *testing.T) {
	y := seasonal(144*10, 144, 4, 17)
	f := newForecaster(t, Options{})
	feed(f, monday, y[:29])
	if f.Due() {
		t.Error("a refit is due at 29 values")
	}
	feed(f, monday.Add(29*f.o.Step), y[29:30])
	if !f.Due() {
		t.Error("no refit is due at 30 values")
	}
	f.Fit(y[:144*8], monday)
	if f.Due() {
		t.Error("a refit is due after a fit")
	}
	feed(f, monday.AddDate(0, 0, 8), y[144*8:144*8+36])
	if !f.Due() {
		t.Error("no refit is due after six hours")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Refit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a refit without time: %v", err)
	}
	if after, _ := f.MarshalBinary(); !bytes.Equal(before, after) {
		t.Error("a refit that ran out of time changed something")
	}
	live := f.Explain().LiveErrors
	if err := f.Refit(t.Context()); err != nil || f.Due() || f.Explain().LiveErrors != live || live != 36 {
		t.Errorf("refit: %v, due %t, %d errors known, %d before", err, f.Due(), f.Explain().LiveErrors, live)
	}
}

// roundTrip fails unless f survives a restart bit for bit.
func roundTrip(t testing.TB, f *Forecaster) *Forecaster {
	t.Helper()
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var g Forecaster
	if err := g.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if c, err := g.MarshalBinary(); err != nil || !bytes.Equal(b, c) {
		t.Fatalf("a state read and written again differs (%v)", err)
	}
	return &g
}

func TestStateSurvives(t *testing.T) {
	y := withGaps(seasonal(144*10, 144, 4, 18), 0.05, 3)
	tokyo, err := time.LoadLocation("Asia/Tokyo")
	if err != nil {
		t.Skip(err)
	}
	for _, o := range []Options{
		{},
		{Model: "holt_winters_multiplicative"},
		{Seasons: []time.Duration{}, Levels: []float64{0.33}},
		{Seasons: []time.Duration{12 * time.Hour, 24 * time.Hour}, Horizon: 10, AllowNegative: true, Location: tokyo},
	} {
		f := newForecaster(t, o)
		roundTrip(t, f)
		f.Fit(y[:144*8], monday)
		g := roundTrip(t, f)
		for i, v := range y[144*8:] {
			for _, x := range []*Forecaster{f, g} {
				x.Observe(monday.Add(time.Duration(144*8+i)*x.o.Step), v)
				if x.Due() {
					if err := x.Refit(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		levels := []float64{0.1, 0.9}
		if d := cmp.Diff(f.Forecast(12, levels), g.Forecast(12, levels)); d != "" {
			t.Errorf("a forecaster that was restarted forecasts otherwise: %s", d)
		}
		if d := cmp.Diff(f.Explain(), g.Explain()); d != "" {
			t.Error(d)
		}
	}
}

func TestStateIsRefused(t *testing.T) {
	f := newForecaster(t, Options{})
	feed(f, monday, seasonal(100, 144, 4, 19))
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(b)
	flipped[len(b)/2] ^= 1
	newer := f.resealed(b, func(b []byte) { b[len(stateMagic)] = 9 })
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "not the state of a forecaster"},
		{"something else", []byte("synthetic data that is no state at all"), "not the state of a forecaster"},
		{"cut short", b[:len(b)-9], "state of a forecaster: damaged or cut short"},
		{"a bit flipped", flipped, "state of a forecaster: damaged or cut short"},
		{"another version", newer, "state of a forecaster: version 9, this is 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newForecaster(t, Options{Step: time.Hour})
			before, _ := g.MarshalBinary()
			if err := g.UnmarshalBinary(tt.b); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if after, _ := g.MarshalBinary(); !bytes.Equal(before, after) {
				t.Error("a state that was refused changed something")
			}
		})
	}
	if _, err := newForecaster(t, Options{Location: time.FixedZone("nowhere", 3600)}).MarshalBinary(); err == nil {
		t.Error("a location that cannot be loaded was saved")
	}
}

// A series with a day and a week of 5-minute steps stays under 100 KB.
func TestSize(t *testing.T) {
	y := seasonal(6048, 288, 3, 20)
	for i := range y {
		if i/288%7 >= 5 {
			y[i] /= 2
		}
	}
	f := newForecaster(t, Options{Step: 5 * time.Minute})
	f.Fit(y, monday)
	if e := f.Explain(); !strings.Contains(e.Members[0].Name, "168h") {
		t.Errorf("%s leads on days that differ by weekday", e.Members[0].Name)
	}
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	size := len(b) + len(f.pool.members)*int(unsafe.Sizeof(member{})) + int(unsafe.Sizeof(*f))
	if size > 100_000 {
		t.Errorf("a series takes %d bytes", size)
	}
}

func TestAllocations(t *testing.T) {
	y := seasonal(144*9, 144, 4, 27)
	for _, zone := range []string{"UTC", "Europe/Berlin"} {
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Skip(err)
		}
		f := newForecaster(t, Options{Location: location})
		f.Fit(y, monday)
		if n := testing.AllocsPerRun(500, func() { f.Observe(f.time(f.last+1), y[f.last%int64(len(y))]) }); n != 0 {
			t.Errorf("in %s Observe allocates %v times", zone, n)
		}
		var points []Point
		levels := []float64{0.1, 0.5, 0.9}
		if n := testing.AllocsPerRun(500, func() { points = f.AppendForecast(points[:0], 12, levels) }); n > 1 {
			t.Errorf("in %s AppendForecast allocates %v times, once for all means and quantiles is enough", zone, n)
		}
	}
}

// TestOfLittle: a handful of values that rise leaves the mean between its quantiles, and a season that is named but has too few
// values says so in numbers that are some.
func TestOfLittle(t *testing.T) {
	f := newForecaster(t, Options{Step: time.Minute, Horizon: 2})
	f.Fit([]float64{1, 2, 3}, monday)
	for _, p := range f.Forecast(2, []float64{0.1, 0.5, 0.9}) {
		if !(p.Quantiles[0] < p.Mean && p.Mean < p.Quantiles[2]) {
			t.Errorf("the mean is %v, the quantiles are %v", p.Mean, p.Quantiles)
		}
	}
	f = newForecaster(t, Options{Step: time.Minute, Horizon: 2, Seasons: []time.Duration{4 * time.Minute}})
	var wave []float64
	for i := range 24 {
		wave = append(wave, []float64{10, 20, 30, 20}[i%4])
	}
	f.Fit(wave, monday)
	if e := f.Explain(); len(e.Seasons) != 1 || e.Seasons[0].Used || strings.Contains(e.Reason, "Inf") || !strings.Contains(e.Reason, "no season of 4m: autocorrelation 1.00, and too few values") {
		t.Errorf("%+v", e)
	}
}
