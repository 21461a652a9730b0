package forecast

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

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

// Of a model that was named the reason says which seasons it has.
func TestReasonOfANamedModel(t *testing.T) {
	y := seasonal(144*8, 144, 3, 7)
	for _, tt := range []struct{ model, want string }{
		{"naive", "no season of 24h: autocorrelation 0.98, not used by naive"},
		{"ets_ar", "ets_ar 24h; no season of 1h: autocorrelation 0.00, not used by ets_ar; season of 24h: autocorrelation 0.98, used by ets_ar"},
	} {
		f := newForecaster(t, Options{Model: tt.model})
		f.Fit(y, monday)
		if got := f.Explain().Reason; !strings.Contains(got, tt.want) {
			t.Errorf("%s: the reason is %q, want %q in it", tt.model, got, tt.want)
		}
	}
	f := newForecaster(t, Options{Model: "holt_winters"})
	f.Fit(y[:20], monday)
	want := "holt for want of a season or of values for holt_winters; no season of 1h"
	if got := f.Explain().Reason; !strings.HasPrefix(got, want) {
		t.Errorf("after 20 values the reason is %q, want %q first", got, want)
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
