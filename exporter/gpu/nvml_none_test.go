//go:build !linux || !cgo

package gpu

import (
	"testing"
	"time"
)

// TestWithoutBinding: a binary that cannot call NVML reads GPUs by nvidia-smi and says why.
func TestWithoutBinding(t *testing.T) {
	t.Setenv(libraryVariable, "")
	stand := newSMI(t, "h100-590.48.01.csv", another)
	lines, logger := newLog()
	c := New(Options{NvidiaSMI: stand.path, Processes: true, Logger: logger, Interval: time.Hour})
	run(t, c)
	lines.await(t, "backend=nvidia-smi from="+stand.path+` instead_of="`+unbound()+`"`)
	lines.await(t, "gpus=2 backend=nvidia-smi")
	golden(t, "smi.prom", scrape(t, c))
}
