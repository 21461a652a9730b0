package batchproxy

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestServiceTime(t *testing.T) {
	type sample struct {
		rows    int
		seconds float64
	}
	line := func(b, a float64, sizes ...int) (all []sample) {
		for range 40 {
			for _, n := range sizes {
				all = append(all, sample{n, b + a*float64(n)})
			}
		}
		return all
	}
	hostile := []sample{{0, 1}, {-1, 1}, {1, 0}, {1, -1}, {1, math.NaN()}, {1, math.Inf(1)}, {1, math.Inf(-1)}, {1, 1e9}, {math.MinInt, 1}}
	for _, tt := range []struct {
		name    string
		samples []sample
		known   bool
		b, a    float64
		gain32  float64
	}{
		{"nothing", nil, false, 0, 0, 1},
		{"what cannot be", hostile, false, 0, 0, 1},
		{"the first two of a size are left out", []sample{{1, 5}, {1, 5}}, false, 0, 0, 1},
		{"one size: all of it is fixed", line(0.008, 0.00025, 1), true, 0.00825, 0, 32},
		{"one larger size", line(0.008, 0.00025, 16), true, 0.012, 0, 32},
		{"two sizes", line(0.008, 0.00025, 1, 16), true, 0.008, 0.00025, 0.00825 * 32 / 0.016},
		{"warm-up of each size", append(append([]sample{{1, 3}, {1, 3}}, []sample{{16, 3}, {16, 3}}...), line(0.008, 0.00025, 1, 16)...), true, 0.008, 0.00025, 16.5},
		{"no gain", line(0.0001, 0.002, 1, 4, 9), true, 0.0001, 0.002, 0.0021 * 32 / 0.0641},
		{"slower together: all of it is for rows", line(-0.001, 0.002, 1, 2, 4), true, 0, 0.0011, 1},
		{"faster together: none of it is", line(0.02, -0.001, 1, 8), true, 0.0155, 0, 32},
		{"hostile ones among good ones", append(append(line(0.008, 0.00025, 1, 16), hostile...), line(0.008, 0.00025, 1, 16)...), true, 0.008, 0.00025, 16.5},
		{"a pause now and then", append(line(0.008, 0.00025, 1, 16), sample{16, 3}, sample{1, 1}), true, 0.008, 0.00025, 16.5},
		{"a server that has changed", append(line(0.008, 0.00025, 1, 16), line(0.08, 0.0025, 1, 16)...), true, 0.08, 0.0025, 16.5},
		{"sizes far above the largest", line(0.008, 0.00025, 1, 1<<40), true, 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServiceTime(32)
			for _, x := range tt.samples {
				s.add(x.rows, x.seconds)
			}
			if s.b < 0 || s.a < 0 || math.IsNaN(s.b+s.a) || math.IsInf(s.b+s.a, 0) {
				t.Fatalf("S(n) = %v + %v n", s.b, s.a)
			}
			if tt.gain32 == 0 {
				return // only that it is a number
			}
			near := func(got, want float64) bool { return math.Abs(got-want) <= 0.02*want+1e-9 }
			if s.known != tt.known || !near(s.gain(32), tt.gain32) {
				t.Errorf("known %v, gain %.3f, want %v, %.3f", s.known, s.gain(32), tt.known, tt.gain32)
			}
			if tt.name != "slower together: all of it is for rows" && (!near(s.b, tt.b) || !near(s.a, tt.a)) {
				t.Errorf("S(n) = %v + %v n, want %v + %v n", s.b, s.a, tt.b, tt.a)
			}
			s.reset()
			if s.known || s.gain(32) != 1 {
				t.Errorf("after a reset: %+v", s)
			}
		})
	}
}

// TestServiceTimeKeepsItsSlope: batches that are nearly all of one size say how long that size takes, and nothing of the
// slope, however noisy they are.
func TestServiceTimeKeepsItsSlope(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	s := newServiceTime(32)
	for range 20 {
		for _, n := range []int{1, 8, 16, 32} {
			s.add(n, 0.008+0.00025*float64(n))
		}
	}
	for range 1000 {
		n := 31 + random.IntN(2)
		s.add(n, (0.008+0.00025*float64(n))*(0.9+0.2*random.Float64()))
	}
	if s.a < 0.0002 || s.a > 0.0003 || math.Abs(s.at(32)-0.016) > 0.0005 {
		t.Errorf("S(n) = %v + %v n; the slope was 0.00025, and S(32) is 0.016", s.b, s.a)
	}
}
