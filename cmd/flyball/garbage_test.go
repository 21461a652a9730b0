package main

import (
	"runtime"
	"testing"
)

// nextCollection is how much is in use, in bytes, when garbage will be collected next.
func nextCollection() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NextGC
}

func TestRoomy(t *testing.T) {
	for _, c := range []struct {
		name, gogc, limit string
		later             bool
	}{
		{"by itself", "", "", true},
		{"GOGC says when", "50", "", false},
		{"GOMEMLIMIT says when", "", "100MiB", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOGC", c.gogc)
			t.Setenv("GOMEMLIMIT", c.limit)
			before := nextCollection()
			release := roomy()
			with := nextCollection()
			release()
			if later := with >= before+headroom; later != c.later {
				t.Errorf("collects at %d bytes, and %d before", with, before)
			}
			if after := nextCollection(); after >= before+headroom {
				t.Errorf("collects at %d bytes after it was released, and %d before", after, before)
			}
		})
	}
}
