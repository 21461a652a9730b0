package forecast

import (
	"testing"
	"time"
)

// BenchmarkUpdate is one model's step: level, damped slope, a day of 5-minute steps, autocorrelation.
func BenchmarkUpdate(b *testing.B) {
	y := seasonal(2016, 288, 3, 1)
	m, err := Spec{Trend: true, Damped: true, AR: true, Seasons: []int{288}}.Fit(y, FitOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		m.Update(y[i])
		if i++; i == len(y) {
			i = 0
		}
	}
}

// BenchmarkObserve is a step of the whole pool, its errors, weights and quantiles: of nine models, as for a series with a
// day, and of four, as for one without.
func BenchmarkObserve(b *testing.B) {
	day := seasonal(2016, 288, 3, 1)
	for _, bb := range []struct {
		name    string
		seasons []time.Duration
		members int
	}{{"nine", nil, 9}, {"four", []time.Duration{}, 4}} {
		b.Run(bb.name, func(b *testing.B) {
			f := newForecaster(b, Options{Step: 5 * time.Minute, Seasons: bb.seasons})
			f.Fit(day, monday)
			if n := len(f.pool.members); n != bb.members {
				b.Fatalf("%d models", n)
			}
			b.ReportAllocs()
			at, i := f.time(f.last), 0
			for b.Loop() {
				at = at.Add(f.o.Step)
				f.Observe(at, day[i])
				if i++; i == len(day) {
					i = 0
				}
			}
		})
	}
}

// BenchmarkForecast is an hour of 5-minute steps with three quantiles.
func BenchmarkForecast(b *testing.B) {
	f := newForecaster(b, Options{Step: 5 * time.Minute})
	f.Fit(seasonal(2016, 288, 3, 1), monday)
	levels := []float64{0.1, 0.5, 0.9}
	b.ReportAllocs()
	var points []Point
	for b.Loop() {
		points = f.AppendForecast(points[:0], 12, levels)
	}
}

// BenchmarkFit is a week of 5-minute steps, by model and loss.
func BenchmarkFit(b *testing.B) {
	y := seasonal(2016, 288, 3, 1)
	for _, bb := range []struct {
		name string
		spec Spec
		loss Loss
	}{
		{"holt_winters", Spec{Trend: true, Seasons: []int{288}}, SSE},
		{"holt_winters_damped", Spec{Trend: true, Damped: true, Seasons: []int{288}}, SSE},
		{"ets_ar", Spec{AR: true, Seasons: []int{288}}, SSE},
		{"ets_ar_mae", Spec{AR: true, Seasons: []int{288}}, MAE},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bb.spec.Fit(y, FitOptions{Loss: bb.loss, Horizon: 12}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRefit is the whole automatic fit, of one week and of three, which have a weekly season too.
func BenchmarkRefit(b *testing.B) {
	for name, n := range map[string]int{"week": 2016, "three_weeks": 6048} {
		b.Run(name, func(b *testing.B) {
			f := newForecaster(b, Options{Step: 5 * time.Minute})
			y := seasonal(n, 288, 3, 1)
			b.ReportAllocs()
			for b.Loop() {
				f.Fit(y, monday)
			}
		})
	}
}

// BenchmarkObserveFactors is a step with an event a day and with two regressors.
func BenchmarkObserveFactors(b *testing.B) {
	y := seasonal(2016, 288, 3, 1)
	for _, bb := range []struct {
		name       string
		events     []Event
		regressors []string
	}{
		{"event", []Event{every("launch", 1.5, monday.Add(9*time.Hour), 24*time.Hour, 2*time.Hour)}, nil},
		{"regressors", nil, names(2)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			f := newForecaster(b, Options{Step: 5 * time.Minute, Events: bb.events, Regressors: bb.regressors})
			f.FitWith(y, monday, [][]float64{y, y})
			x := []float64{1, 2}
			b.ReportAllocs()
			at, i := f.time(f.last), 0
			for b.Loop() {
				at = at.Add(f.o.Step)
				x[0], x[1] = float64(i%7), float64(i%11)
				f.ObserveWith(at, y[i], x)
				if i++; i == len(y) {
					i = 0
				}
			}
		})
	}
}
