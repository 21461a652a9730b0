//go:build unix

package rules

import (
	"syscall"
	"testing"
	"time"
)

// reportCPU adds the CPU time of an operation, in microseconds, to a benchmark: what it takes on a machine that others use,
// too, says less about it. The time began is that of cpuTime before.
func reportCPU(b *testing.B, began time.Duration) {
	b.ReportMetric(float64((cpuTime()-began).Microseconds())/float64(b.N), "cpu-µs/op")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
