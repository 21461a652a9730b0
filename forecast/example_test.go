package forecast_test

import (
	"context"
	"fmt"
	"math"
	"time"

	"flyball/forecast"
)

// requests are n ten-minute values of demand that has a day, from start on.
func requests(start time.Time, n int) []float64 {
	y := make([]float64, n)
	for i := range y {
		at := start.Add(time.Duration(i) * 10 * time.Minute)
		hour := float64(at.Hour()) + float64(at.Minute())/60
		y[i] = 200 + 150*math.Sin((hour-9)*math.Pi/12) + float64(i*7919%21-10)
	}
	return y
}

var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func Example() {
	f, err := forecast.New(forecast.Options{Step: 10 * time.Minute, Horizon: 6})
	if err != nil {
		fmt.Println(err)
		return
	}
	f.Fit(requests(start, 8*144), start) // eight days
	for _, p := range f.Forecast(6, []float64{0.1, 0.9}) {
		fmt.Printf("%s %4.0f, from %.0f to %.0f\n", p.Time.Format("15:04"), p.Mean, p.Quantiles[0], p.Quantiles[1])
	}
	// Output:
	// 00:00   93, from 86 to 100
	// 00:10   91, from 76 to 101
	// 00:20   87, from 73 to 97
	// 00:30   80, from 68 to 91
	// 00:40   77, from 65 to 88
	// 00:50   73, from 60 to 86
}

// There is a forecast from the first value on.
func ExampleForecaster_Observe() {
	f, err := forecast.New(forecast.Options{Step: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	f.Observe(start, 12)
	f.Observe(start.Add(1*time.Minute), 14)
	f.Observe(start.Add(2*time.Minute), math.NaN()) // missing; a time left out is the same
	f.Observe(start.Add(4*time.Minute), 13)
	p := f.Forecast(2, nil)
	fmt.Printf("%s %.1f\n%s %.1f\n", p[0].Time.Format("15:04"), p[0].Mean, p[1].Time.Format("15:04"), p[1].Mean)
	// Output:
	// 00:05 12.9
	// 00:06 12.9
}

// A caller with many series gives each refit a deadline; one that is late changes nothing.
func ExampleForecaster_Due() {
	f, err := forecast.New(forecast.Options{Step: 10 * time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	refits := 0
	for i, y := range requests(start, 3*144) {
		f.Observe(start.Add(time.Duration(i)*10*time.Minute), y)
		if f.Due() {
			if err := f.Refit(context.Background()); err != nil {
				fmt.Println(err)
			}
			refits++
		}
	}
	fmt.Println(refits, "refits,", len(f.Explain().Members), "models")
	// Output:
	// 13 refits, 9 models
}

func ExampleForecaster_Explain() {
	f, err := forecast.New(forecast.Options{Step: 10 * time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	y := requests(start, 9*144)
	f.Fit(y[:8*144], start)
	for i, v := range y[8*144:] {
		f.Observe(start.Add(time.Duration(8*144+i)*10*time.Minute), v)
	}
	e := f.Explain()
	for _, s := range e.Seasons {
		fmt.Println(s.Period, s.Used)
	}
	fmt.Printf("an hour ahead the error is %.0f%% of the last value's\n", 100*e.Error/e.NaiveError)
	// Output:
	// 1h0m0s false
	// 24h0m0s true
	// 168h0m0s false
	// an hour ahead the error is 34% of the last value's
}

func ExampleForecaster_Coverage() {
	f, err := forecast.New(forecast.Options{Step: 10 * time.Minute, Horizon: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	y := requests(start, 16*144)
	f.Fit(y[:8*144], start)
	for i, v := range y[8*144:] {
		f.Observe(start.Add(time.Duration(8*144+i)*10*time.Minute), v)
	}
	for _, c := range f.Coverage() {
		if c.Level == 0.9 {
			fmt.Printf("%d of %d values stayed below the quantile %v\n", int(c.Realized*float64(c.Errors)+0.5), c.Errors, c.Level)
		}
	}
	// Output:
	// 1041 of 1152 values stayed below the quantile 0.9
}

func ExampleForecaster_MarshalBinary() {
	f, err := forecast.New(forecast.Options{Step: 10 * time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	f.Fit(requests(start, 8*144), start)
	state, err := f.MarshalBinary()
	if err != nil {
		fmt.Println(err)
		return
	}
	var g forecast.Forecaster
	if err := g.UnmarshalBinary(state); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(f.Forecast(6, nil)[5].Mean == g.Forecast(6, nil)[5].Mean)
	// Output:
	// true
}

// Gas demand of the United Kingdom by quarter, in million therms, 1960 to 1963 (Durbin and Koopman 2001), as R smooths it.
func ExampleHoltWinters() {
	gas := []float64{
		160.1, 129.7, 84.8, 120.1, 160.1, 124.9, 84.8, 116.9, 169.7, 140.9, 89.7, 123.3, 187.3, 144.1, 92.9, 120.1,
	}
	hw, err := forecast.HoltWinters(gas, 4, forecast.Additive, &forecast.Smoothing{Alpha: 0.3, Beta: 0.05, Gamma: 0.2})
	if err != nil {
		fmt.Println(err)
		return
	}
	sd := hw.Deviation(4)
	for i, v := range hw.Forecast(4) {
		fmt.Printf("quarter %d: %.1f ± %.1f\n", i+1, v, sd[i])
	}
	// Output:
	// quarter 1: 173.1 ± 8.9
	// quarter 2: 136.6 ± 9.3
	// quarter 3: 91.9 ± 9.8
	// quarter 4: 126.1 ± 10.2
}

// A model by itself, fitted to forecasts six steps ahead.
func ExampleSpec_Fit() {
	m, err := forecast.Spec{Seasons: []int{144}, AR: true}.Fit(requests(start, 8*144), forecast.FitOptions{
		Loss: forecast.MAE, Horizon: 6,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("at midnight %.0f", m.Mean(1))
	m.Skip(72)
	fmt.Printf(", at noon %.0f\n", m.Mean(1))
	// Output:
	// at midnight 93, at noon 307
}

// A launch comes each Tuesday at 09:00. Its prior is half more demand; what is learned is two and a half times.
func ExampleEvent() {
	start := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC) // a Monday
	launch := forecast.Event{Name: "launch", Lift: 1.5, Occurrences: func(from, to time.Time) (all []forecast.Occurrence) {
		week := from.Sub(start) / (7 * 24 * time.Hour)
		for at := start.AddDate(0, 0, 7*int(week-1)+1).Add(9 * time.Hour); at.Before(to); at = at.AddDate(0, 0, 7) {
			if end := at.Add(2 * time.Hour); end.After(from) {
				all = append(all, forecast.Occurrence{Start: at, End: end})
			}
		}
		return all
	}}
	history := make([]float64, 24*7*8)
	for i := range history {
		history[i] = 100 + 50*math.Sin(2*math.Pi*float64(i)/24)
		if at := start.Add(time.Duration(i) * time.Hour); at.Weekday() == time.Tuesday && (at.Hour() == 9 || at.Hour() == 10) {
			history[i] *= 2.5
		}
	}
	f, err := forecast.New(forecast.Options{Step: time.Hour, Events: []forecast.Event{launch}})
	if err != nil {
		fmt.Println(err)
		return
	}
	f.Fit(history, start)
	e := f.Explain().Events[0]
	fmt.Printf("%s: %.1f times demand without it, by %d of them\n", e.Name, e.Lift, e.Occurrences)
	for _, p := range f.Forecast(36, nil)[32:] {
		fmt.Printf("%s %.0f\n", p.Time.Format("Mon 15:04"), p.Mean)
	}
	// Output:
	// launch: 2.5 times demand without it, by 8 of them
	// Tue 08:00 143
	// Tue 09:00 338
	// Tue 10:00 312
	// Tue 11:00 113
}

// Each queued document is two requests, three hours later: so much is known ahead.
func ExampleForecaster_Ahead() {
	start := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	queued, requests := make([]float64, 503), make([]float64, 500)
	for i := range queued {
		queued[i] = float64(i * i % 37)
	}
	for i := range requests {
		requests[i] = 100 + 2*queued[i]
	}
	f, err := forecast.New(forecast.Options{Step: time.Hour, Horizon: 3, Regressors: []string{"queued three hours before"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	f.Ahead([][]float64{queued[500:]}) // so much is known ahead of any time
	f.FitWith(requests, start, [][]float64{queued[:500]})
	f.Ahead([][]float64{queued[500:]})
	r := f.Explain().Regressors[0]
	fmt.Printf("%s: %.2f each\n", r.Name, r.Coefficient)
	for i, p := range f.Forecast(3, nil) {
		fmt.Printf("%.0f, with %.0f queued\n", p.Mean, queued[500+i])
	}
	// Output:
	// queued three hours before: 1.93 each
	// 156, with 28 queued
	// 159, with 30 queued
	// 167, with 34 queued
}
