package loadgen

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"time"
)

// Demand is how many requests a second are asked for over the time of a run. The rate is constant from step to step.
type Demand struct {
	steps []step
}

// step is a piece of a Demand with one rate, in requests per second. Times count from the start of the run.
type step struct {
	from, to time.Duration
	rate     float64
}

// expected is the mean number of requests of the step.
func (s step) expected() float64 { return s.rate * (s.to - s.from).Seconds() }

// Arrivals says how the requests lie around the demanded rate.
type Arrivals string

const (
	// Poisson arrivals are independent of each other, as those of many separate clients are: at 100 a second the gaps
	// are exponential with a mean of 10 ms, so bursts happen and batches differ.
	Poisson Arrivals = "poisson"
	// Uniform arrivals are evenly spaced: at 100 a second, one every 10 ms. Nothing is left to chance, which makes runs
	// comparable but kinder than the world.
	Uniform Arrivals = "uniform"
)

// maxRate bounds the demanded rate, in requests per second: one process sends some tens of thousands a second, so what
// is above a million is a mistake in the scale, and would be planned for ever before the run could end.
const maxRate = 1e6

// Constant is a demand of rate requests per second for the duration d.
func Constant(rate float64, d time.Duration) Demand {
	return Demand{steps: []step{{to: d, rate: rate}}}
}

// Duration is how long the demand lasts.
func (d Demand) Duration() time.Duration {
	if len(d.steps) == 0 {
		return 0
	}
	return d.steps[len(d.steps)-1].to
}

// Expected is the mean number of requests: the rate, integrated.
func (d Demand) Expected() float64 {
	var n float64
	for _, s := range d.steps {
		n += s.expected()
	}
	return n
}

// Peak is the highest rate, in requests per second.
func (d Demand) Peak() float64 {
	var peak float64
	for _, s := range d.steps {
		peak = max(peak, s.rate)
	}
	return peak
}

// Limit is the demand cut off at the duration limit. It is the same demand where it is not longer.
func (d Demand) Limit(limit time.Duration) Demand {
	var cut Demand
	for _, s := range d.steps {
		if s.from >= limit {
			break
		}
		s.to = min(s.to, limit)
		cut.steps = append(cut.steps, s)
	}
	return cut
}

// Times yields the intended start of each request, counted from the start of the run, in ascending order. The same
// demand, kind and state of r give the same times; r is used only by Poisson.
//
// Time is rescaled by the integral of the rate: requests arrive at rate 1 on the axis of expected requests, and a
// request at the point where n are expected starts when n are expected on the axis of time. For Poisson that is exactly
// the inhomogeneous process.
func (d Demand) Times(kind Arrivals, r *rand.Rand) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		gap := func() float64 { return 1 }
		next := 0.0
		if kind == Poisson {
			gap = r.ExpFloat64
			next = gap()
		}
		var before float64 // requests expected before the step
		for _, s := range d.steps {
			after := before + s.expected()
			for next < after {
				at := s.from + time.Duration((next-before)/s.rate*float64(time.Second))
				// Rounding must not push the request out of its step, behind the first of the next one.
				if !yield(min(at, s.to-1)) {
					return
				}
				next += gap()
			}
			before = after
		}
	}
}

// validate joins the faults of the demand.
func (d Demand) validate() error {
	if d.Duration() <= 0 {
		return fmt.Errorf("demand: it lasts %v: give a duration above 0", d.Duration())
	}
	var errs []error
	for _, s := range d.steps {
		if math.IsNaN(s.rate) || s.rate < 0 || s.rate > maxRate {
			errs = append(errs, fmt.Errorf("demand: %v requests/s from %v is not a rate that can be sent: give 0 to %g", s.rate, s.from, maxRate))
			break
		}
	}
	if len(errs) == 0 && d.Peak() == 0 {
		errs = append(errs, errors.New("demand: the rate is 0 from start to end: give a rate above 0"))
	}
	return errors.Join(errs...)
}
