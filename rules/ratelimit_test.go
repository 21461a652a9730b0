package rules

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestRateLimitTogether: however many changes down are asked for at the same moment, half of the limit is left for changes up.
func TestRateLimitTogether(t *testing.T) {
	for range 2000 {
		const perMinute = 10
		l := NewRateLimit(perMinute)
		var taken atomic.Int64
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				<-begin
				for range 4 {
					if l.take(noon, false) {
						taken.Add(1)
					}
				}
			})
		}
		close(begin)
		wg.Wait()
		if got := taken.Load(); got != perMinute/2 {
			t.Fatalf("%d changes down, want %d: the others are for changes up", got, perMinute/2)
		}
	}
}
