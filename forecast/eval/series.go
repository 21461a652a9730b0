package eval

import "time"

// Series is one series of values, each a step after the one before. A value that is missing is NaN.
type Series struct {
	Name   string
	Start  time.Time // of the first value
	Step   time.Duration
	Values []float64
}

// Time is when the value at i is from.
func (s Series) Time(i int) time.Time { return s.Start.Add(time.Duration(i) * s.Step) }

// Steps is how many steps d is, rounded, at least 1.
func (s Series) Steps(d time.Duration) int {
	return int(max((d+s.Step/2)/s.Step, 1))
}
