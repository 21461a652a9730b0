package forecast

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestRunningMedian compares with sorting each window.
func TestRunningMedian(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 2, 5, 40} {
		for _, window := range []int{1, 2, 7, 40, 50} {
			y := make([]float64, n)
			for i := range y {
				if y[i] = float64(rnd.IntN(20)); y[i] == 3 && i > 0 {
					y[i] = math.NaN()
				}
			}
			got := runningMedian(y, window)
			w := min(window, n)
			for i := range y {
				first := min(max(i-w/2, 0), n-w)
				known := sortedKnown(y[first : first+w])
				if len(known) == 0 {
					continue // it is that of the window before
				}
				if want := quantileOf(known, 0.5); got[i] != want {
					t.Errorf("of %d values the median of %d around %d is %v, want %v", n, window, i, got[i], want)
				}
			}
		}
	}
}
