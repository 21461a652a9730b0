package forecast

import (
	"fmt"
	"math"
	"testing"
	"time"

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
