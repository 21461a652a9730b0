package batchproxy

import "math"

// serviceTime is how long a replica takes for a batch of n rows, fitted to what was measured: S(n) = b + a·n. The
// intercept b is paid once a batch, whatever its size, and is what batching saves; the slope a is paid for each row. Both
// are in seconds and never negative. The zero value knows nothing; prepare it with newServiceTime.
//
// The fit is by least squares, recursive and with forgetting: a measurement weighs 0.98 times as much with each that
// comes after it, so that some 50 count.
type serviceTime struct {
	b, a  float64
	known bool

	weight       float64
	meanN, meanT float64
	cnn, cnt     float64 // weighted sums of (n-meanN)² and (n-meanN)·(t-meanT)
	sloped       bool    // a was fitted once

	odd  int     // two for each measurement that was left out, less one for each that was not
	warm []uint8 // by rows: measurements of that size that were left out, up to warmUps
}

const (
	// forgetting is the weight that a measurement keeps with each that follows.
	forgetting = 0.98
	// warmUps measurements of a size that is new are left out: servers compile, allocate or tune for each shape.
	warmUps = 2
	// farOff is how many times more than the fit a measurement is taken for an accident, a pause of one of the machines, and
	// left out. One of as many times less is taken for no less than that.
	farOff = 5
	// maxOdd is reached by 8 accidents one after the other, or by more than a third of all: they are none then, the server
	// has changed, and the fit starts over.
	maxOdd = 16
	// spread is the deviation of the sizes, as part of their mean, below which they say nothing of the slope: noise of 5 %
	// in the times would be 50 % of it.
	spread = 0.1
	// longest is more than any batch takes, in seconds: what says so is broken.
	longest = 3600
)

func newServiceTime(maxSize int) serviceTime {
	return serviceTime{warm: make([]uint8, min(maxSize, maxWarm)+1)}
}

// maxWarm bounds the sizes that are told apart as new.
const maxWarm = 4096

// reset forgets what was measured, for replicas of another generation.
func (s *serviceTime) reset() {
	clear(s.warm)
	*s = serviceTime{warm: s.warm}
}

// add takes a batch of n rows that took t seconds, and reports whether that says anything: what cannot be and what warms the server up
// is left out.
func (s *serviceTime) add(n int, t float64) bool {
	if n < 1 || !(t > 0 && t < longest) {
		return false
	}
	if size := min(n, len(s.warm)-1); s.warm[size] < warmUps {
		s.warm[size]++
		return false
	}
	if s.known {
		switch fitted := s.at(n); {
		case t > farOff*fitted:
			if s.odd += 2; s.odd < maxOdd {
				return true
			}
			*s = serviceTime{warm: s.warm}
		case s.odd > 0:
			s.odd--
		}
		t = max(t, s.at(n)/farOff) // nothing is that much faster by accident
	}
	x := float64(n)
	s.weight *= forgetting
	s.cnn *= forgetting
	s.cnt *= forgetting
	s.weight++
	dn, dt := x-s.meanN, t-s.meanT
	s.meanN += dn / s.weight
	s.meanT += dt / s.weight
	s.cnn += dn * (x - s.meanN)
	s.cnt += dn * (t - s.meanT)
	s.fit()
	return true
}

// fit makes b and a from the sums. Until sizes differ the whole time is taken for b, which is right where they were 1
// and lets batching be tried otherwise; where they no longer differ the slope stays as it was last seen.
func (s *serviceTime) fit() {
	if deviation := math.Sqrt(s.cnn / s.weight); deviation > spread*s.meanN {
		s.a, s.sloped = s.cnt/s.cnn, true
	}
	s.a = max(s.a, 0)
	if s.b = s.meanT - s.a*s.meanN; s.b < 0 {
		s.b, s.a = 0, s.meanT/s.meanN
	}
	s.known = true
}

// at is S(n) in seconds.
func (s *serviceTime) at(n int) float64 { return s.b + s.a*float64(n) }

// of is at for a mean number of rows.
func (s *serviceTime) of(rows float64) float64 { return s.b + s.a*rows }

// gain is how many times as many rows a second a replica does in batches of n as it does one by one: S(1)·n/S(n). It is
// 1 where nothing is known.
func (s *serviceTime) gain(n int) float64 {
	if together := s.at(n); s.known && together > 0 {
		return s.at(1) * float64(n) / together
	}
	return 1
}
