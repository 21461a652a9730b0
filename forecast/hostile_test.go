package forecast

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

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
