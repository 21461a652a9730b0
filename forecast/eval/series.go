package eval

import "time"

// Series is one series of values, each a step after the one before. A value that is missing is NaN.
type Series struct {
	Name   string
	Start  time.Time // of the first value
	Step   time.Duration
	Values []float64
	// Regressors are what moves the values, at the same steps. Where they go on after the last value, so much of them is known
	// ahead of any time.
	Regressors [][]float64
}

// known is how many steps ahead the regressors are known.
func (s Series) known() int {
	if len(s.Regressors) == 0 {
		return 0
	}
	return max(len(s.Regressors[0])-len(s.Values), 0)
}

// at is the regressors' values at step i.
func (s Series) at(i int) (x []float64) {
	for _, r := range s.Regressors {
		x = append(x, r[i])
	}
	return x
}

// ahead is what is known of the regressors after the first n steps.
func (s Series) ahead(n int) (x [][]float64) {
	for _, r := range s.Regressors {
		x = append(x, r[n:min(n+s.known(), len(r))])
	}
	return x
}

// explained is a forecaster that takes regressors.
type explained interface {
	FitWith(values []float64, start time.Time, regressors [][]float64)
	ObserveWith(t time.Time, y float64, x []float64)
	Ahead(x [][]float64)
}

// FitWith fits f to the first n values of s and their regressors, as far ahead as they are known.
func FitWith(f explained, s Series, n int) {
	var past [][]float64
	for _, r := range s.Regressors {
		past = append(past, r[:n])
	}
	f.Ahead(s.ahead(n)) // tells how far ahead they are known, of any time
	f.FitWith(s.Values[:n], s.Start, past)
	f.Ahead(s.ahead(n))
}

// Time is when the value at i is from.
func (s Series) Time(i int) time.Time { return s.Start.Add(time.Duration(i) * s.Step) }

// Steps is how many steps d is, rounded, at least 1.
func (s Series) Steps(d time.Duration) int {
	return int(max((d+s.Step/2)/s.Step, 1))
}
