package batchproxy

import (
	"testing"
	"time"
)

// TestServerThatIsFasterWithoutBatches: where a row by itself takes longer than its share of a batch, and several are done at once in less
// time still, batching ends. It goes on, or begins again, where the server does one after the other.
func TestServerThatIsFasterWithoutBatches(t *testing.T) {
	for _, tt := range []struct {
		name    string
		clients int
		b, a    float64
		before  int // instances, for the first half of the time
		after   int
		half    time.Duration
		off     [2]bool // after the first half and at the end
	}{
		{"two at once", 8, 8, 24, 2, 2, 20 * time.Second, [2]bool{true, true}},
		{"one at once", 8, 8, 24, 1, 1, 60 * time.Second, [2]bool{false, false}},
		{"two, then one", 8, 8, 24, 2, 1, 200 * time.Second, [2]bool{true, false}},
		{"one, then two", 8, 8, 24, 1, 2, 2000 * time.Second, [2]bool{false, true}},
		{"four, with much to gain", 64, 8, 0.25, 4, 4, 10 * time.Second, [2]bool{false, false}},
		{"four, with something to gain", 64, 8, 8, 4, 4, 10 * time.Second, [2]bool{true, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wrong := 0
			const seeds = 4
			for seed := range uint64(seeds) {
				d := &accelerator{instances: tt.before}
				s := newSimulation(adaptive, tt.b, tt.a, seed)
				s.service = func(n int) time.Duration { return ms((tt.b + tt.a*float64(n)) * (0.95 + 0.1*s.random.Float64())) }
				s.closedLoop(tt.clients, near).behind(d)
				for half, instances := range []int{tt.before, tt.after} {
					d.instances = instances
					rate, _ := s.run(tt.half)
					t.Logf("seed %d, %d instances: off %v, %.1f/s, S(n) = %.4f + %.4f n", seed, instances, s.batcher.off, rate, s.batcher.service.b, s.batcher.service.a)
					if s.batcher.off != tt.off[half] {
						wrong++
					}
				}
			}
			if wrong > 0 {
				t.Errorf("batching is not as it should be after %d of %d halves", wrong, 2*seeds)
			}
		})
	}
}
