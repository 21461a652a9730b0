//go:build unix

package batchproxy

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkBatcher is a request's way through the queue: with so many always waiting, a batch of 32 leaves and as many come.
// ns/op is per request.
func BenchmarkBatcher(b *testing.B) {
	for _, waiting := range []int{32, 1024} {
		b.Run(fmt.Sprintf("%d waiting", waiting), func(b *testing.B) {
			q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxWait: 10 * time.Millisecond, Timeout: time.Minute, MaxQueue: 1 << 20})
			now, lane := time.Unix(1, 0), []byte("lane")
			for range waiting - 1 {
				q.Arrive(now, lane, 1, 0)
			}
			b.ReportAllocs()
			before := cpu(b)
			for n := 1; b.Loop(); n++ {
				now = now.Add(time.Microsecond)
				q.Arrive(now, lane, 1, 0)
				if n%32 == 0 {
					if out, ok := q.Next(now, false); !ok || out.Items != 32 {
						b.Fatalf("a batch of %d", out.Items)
					}
				}
			}
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}
