package forecast

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

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

// values says so in numbers that are some.
func TestOfLittle(t *testing.T) {
	f := newForecaster(t, Options{Step: time.Minute, Horizon: 2})
	f.Fit([]float64{1, 2, 3}, monday)
	for _, p := range f.Forecast(2, []float64{0.1, 0.5, 0.9}) {
		if !(p.Quantiles[0] < p.Mean && p.Mean < p.Quantiles[2]) {
			t.Errorf("the mean is %v, the quantiles are %v", p.Mean, p.Quantiles)
		}
	}
	f = newForecaster(t, Options{Step: time.Minute, Horizon: 2, Seasons: []time.Duration{12 * time.Minute}})
	wave := seasonal(24, 12, 0, 7)
	wave[3] = math.NaN()
	f.Fit(wave, monday)
	if e := f.Explain(); len(e.Seasons) != 1 || e.Seasons[0].Used || strings.Contains(e.Reason, "Inf") || !strings.Contains(e.Reason, ", and too few values for a model with it") {
		t.Errorf("%+v", e)
	}
}
