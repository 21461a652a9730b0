package eval_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"flyball/forecast/eval"
)

// TestLastValueIsHardlyBetter has series of which the last value is the best forecast. There is nothing to win, and at most a
// quarter of its error to lose.
func TestLastValueIsHardlyBetter(t *testing.T) {
	const day = 144
	sine := func(i int) float64 { return 50 * math.Sin(2*math.Pi*float64(i)/day) }
	for _, kind := range []struct {
		name string
		next func(r *rand.Rand, i int, last float64) float64
	}{
		{"a random walk", func(r *rand.Rand, _ int, last float64) float64 { return max(0, last+r.NormFloat64()) }},
		{"one in ratios", func(r *rand.Rand, _ int, last float64) float64 { return last * math.Exp(0.02*r.NormFloat64()) }},
		{"steps", func(r *rand.Rand, _ int, last float64) float64 {
			if r.Float64() < 0.02 {
				return 60 + 120*r.Float64()
			}
			return last
		}},
		{"a step a week", func(r *rand.Rand, _ int, last float64) float64 {
			if r.Float64() < 0.001 {
				return 50 + 100*r.Float64()
			}
			return last
		}},
		{"on and off", func(r *rand.Rand, _ int, last float64) float64 {
			if r.Float64() < 0.05 {
				return 100 - last
			}
			return last
		}},
		{"spikes", func(r *rand.Rand, _ int, _ float64) float64 {
			if r.Float64() < 0.01 {
				return 1000
			}
			return 100
		}},
		{"days that ended two days ago", func(r *rand.Rand, i int, _ float64) float64 {
			if i > 9*day {
				return 100
			}
			return 100 + sine(i) + 5*r.NormFloat64()
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			var series []eval.Series
			for seed := range uint64(6) {
				r := rand.New(rand.NewPCG(seed, 1))
				s := eval.Series{Name: fmt.Sprint(seed), Start: time.Unix(0, 0).UTC(), Step: 10 * time.Minute}
				v := 100.0
				for i := range 14 * day {
					v = kind.next(r, i, v)
					s.Values = append(s.Values, v)
				}
				series = append(series, s)
			}
			results, err := eval.Rolling{Train: 11 * 24 * time.Hour, Every: 2 * time.Hour}.Run(t.Context(), series, auto(nil).new)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				if last := r.Baselines["naive"].MAE; r.MAE > 1.25*last+0.1 { // of about 100
					t.Errorf("%s: error %.4g, that of the last value is %.4g", r.Series, r.MAE, last)
				}
			}
		})
	}
}
