package eval

import (
	"context"
	"math"
	"time"

	"flyball/forecast"
)

// Detected is what is found of one value.
type Detected struct {
	Time  time.Time
	Value float64 // NaN if it is missing
	// Expected is what was forecast a step before, NaN before the first value.
	Expected float64
	forecast.Finding
}

// Detect finds the anomalies of s, value by value, by what f forecasts a step ahead: what comes later does not count. What
// f learns from is cut off as the detector says. It fails with everything that is wrong with the options, whose step it
// sets.
func Detect(s Series, f Forecaster, o forecast.DetectorOptions) ([]Detected, error) {
	o.Step = s.Step
	d, err := forecast.NewDetector(o)
	if err != nil {
		return nil, err
	}
	var spread forecast.Spread
	found := make([]Detected, len(s.Values))
	begun := false
	for i, y := range s.Values {
		at := Detected{Time: s.Time(i), Value: y, Expected: math.NaN()}
		residual, deviation := math.NaN(), 0.0
		if begun {
			at.Expected = f.Forecast(1, nil)[0].Mean
			residual, deviation = y-at.Expected, spread.Deviation(at.Expected)
		}
		at.Finding = d.Observe(at.Time, y, residual, deviation)
		learn := y
		if begun && !at.Adopt && !math.IsNaN(y) {
			learn = at.Expected + at.Residual
		}
		spread.Observe(residual)
		f.Observe(at.Time, learn)
		begun = begun || !math.IsNaN(y)
		found[i] = at
	}
	return found, nil
}

// Online is a forecast.Forecaster that is refitted as the values arrive, when that is due and a day after the last time at
// the earliest.
type Online struct {
	*forecast.Forecaster

	last time.Time // of the last Refit
}

// Observe takes the value of the next step.
func (o *Online) Observe(t time.Time, y float64) { o.ObserveWith(t, y, nil) }

// ObserveWith is Observe with the values of the regressors.
func (o *Online) ObserveWith(t time.Time, y float64, x []float64) {
	o.Forecaster.ObserveWith(t, y, x)
	if !o.Due() || !o.last.IsZero() && t.Sub(o.last) < 24*time.Hour {
		return
	}
	o.last = t
	_ = o.Refit(context.Background()) // what could not be fitted anew goes on as it was
}
