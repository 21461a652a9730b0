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

	"github.com/google/go-cmp/cmp"
)

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

// A season that is named is used from two full ones on, though there are too few values to fit a model to.
func TestShortSeason(t *testing.T) {
	for _, model := range []string{"auto", "seasonal_naive"} {
		f := newForecaster(t, Options{Model: model, Seasons: []time.Duration{80 * time.Minute}}) // 8 steps
		y := []float64{10, 20, 60, 90, 70, 40, 20, 15}
		for i := range 22 {
			f.Observe(monday.Add(time.Duration(i)*f.o.Step), y[i%8]+float64(i%3))
			if f.Due() != (i == 15) {
				t.Errorf("%s: after %d values a refit is due: %t", model, i+1, f.Due())
			}
			if !f.Due() {
				continue
			}
			if err := f.Refit(t.Context()); err != nil {
				t.Fatal(err)
			}
			e := f.Explain()
			if e.Members[0].Name != "seasonal_naive 1h20m" || !e.Seasons[0].Used || !strings.HasPrefix(e.Reason, "seasonal_naive 1h20m") {
				t.Errorf("%s: after %d values %+v: %s", model, i+1, e.Members, e.Reason)
			}
			for h, p := range f.Forecast(8, nil) {
				if math.Abs(p.Mean-y[h]) > 12 {
					t.Errorf("%s: after %d values the forecast %d steps ahead is %.1f, want about %.0f", model, i+1, h+1, p.Mean, y[h])
				}
			}
		}
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

// TestDueWithin: models are fitted anew within a day and a half, however long steps and seasons are.
func TestDueWithin(t *testing.T) {
	for _, o := range []Options{
		{Step: time.Minute},
		{Step: 12 * time.Hour},
		{Step: 48 * time.Hour},
		{Step: time.Hour, Seasons: []time.Duration{720 * time.Hour}},
		{Step: time.Hour, Seasons: []time.Duration{168 * time.Hour}},
	} {
		f, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
		y := make([]float64, 100)
		for i := range y {
			y[i] = float64(i % 7)
		}
		f.Fit(y, start)
		n := 0
		for at := start.Add(100 * o.Step); !f.Due(); at = at.Add(o.Step) {
			f.Observe(at, 3)
			n++
		}
		if after := time.Duration(n) * o.Step; after > max(36*time.Hour, o.Step) {
			t.Errorf("steps of %s, seasons %v: due after %s", o.Step, o.Seasons, after)
		}
	}
}
