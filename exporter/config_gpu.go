package exporter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// GPU is how the GPUs are read.
type GPU struct {
	Backend       string         `yaml:"backend"`         // auto, nvml, nvidia-smi, amdgpu, sim or none
	Library       string         `yaml:"library"`         // the file of libnvidia-ml.so.1; empty to look where drivers put it
	Require       bool           `yaml:"require"`         // a machine without a working GPU is an error, not an ordinary machine
	Interval      model.Duration `yaml:"interval"`        // between two readings
	SlowInterval  model.Duration `yaml:"slow_interval"`   // between two readings of what hardly changes, such as error counts and limits; at least interval
	Timeout       model.Duration `yaml:"timeout"`         // the longest that a reading may take, of which one GPU may take half
	NVLinkPerLink bool           `yaml:"nvlink_per_link"` // the bytes over NVLink by link, not their sum
	Processes     bool           `yaml:"processes"`       // read the processes on each GPU too
	CallDurations bool           `yaml:"call_durations"`  // measure every call into NVML, and publish how long they take
	MaxProcesses  int            `yaml:"max_processes"`   // how many of one GPU have series: those with the most memory
	IdleWatts     IdleWatts      `yaml:"idle_watts"`      // the power of an idle GPU, which is no pod's
	Sim           string         `yaml:"sim"`             // the file that describes the GPUs of the backend sim
}

// gpuBackends are the values of gpu.backend.
var gpuBackends = []string{"auto", "nvml", "nvidia-smi", "amdgpu", "sim", "none"}

// Bounds of gpu.interval: below, the driver has nothing new; above, what is published is not of now.
const (
	minGPUInterval = 200 * time.Millisecond
	maxGPUInterval = 5 * time.Minute

	maxGPUSlowInterval = time.Hour
	maxGPUProcesses    = 1024 // no more are read of one GPU
)

func defaultGPU() GPU {
	return GPU{
		Backend: "auto",
		// The driver computes utilisation over 1/6 s to 1 s, and every call takes a lock that workloads need too.
		Interval: model.Duration(5 * time.Second),
		// Some of it takes a hundred times longer to read, and alerts on it wait for minutes anyway.
		SlowInterval: model.Duration(30 * time.Second),
		Timeout:      model.Duration(2 * time.Second), // it takes milliseconds for each GPU: one that is not there after 1 s hangs
		MaxProcesses: 64,                              // PIDs come and go: each leaves its series behind in Prometheus
	}
}

// validate returns all that is wrong; on says whether GPUs are read at all.
func (g GPU) validate(on bool) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !slices.Contains(gpuBackends, g.Backend) {
		fault("gpu.backend: %q is none of %s", g.Backend, strings.Join(gpuBackends, ", "))
	}
	if g.Library != "" && g.Backend != "auto" && g.Backend != "nvml" {
		fault("gpu.library: the backend %s does not use it", g.Backend)
	}
	switch {
	case g.Backend == "sim" && g.Sim == "":
		fault("gpu.sim: missing: the backend sim needs a file that describes the GPUs")
	case g.Backend != "sim" && g.Sim != "":
		fault("gpu.sim: the backend %s reads real GPUs: give gpu.backend: sim with it", g.Backend)
	}
	if g.Require && !on {
		fault("gpu.require: true while collectors.gpu is false: switch the collector on, or require nothing")
	}
	if g.Require && g.Backend == "none" {
		fault("gpu.require: true while gpu.backend is none: no GPU is read")
	}
	if t := time.Duration(g.Interval); t < minGPUInterval || t > maxGPUInterval {
		fault("gpu.interval: %s: give from 200ms to 5m, such as 5s", g.Interval)
	}
	if t := time.Duration(g.SlowInterval); t <= 0 || t > maxGPUSlowInterval {
		fault("gpu.slow_interval: %s: give more than 0s and at most 1h, such as 30s", g.SlowInterval)
	}
	if t := time.Duration(g.Timeout); t <= 0 || t > maxTimeout {
		fault("gpu.timeout: %s: give more than 0s and at most 1m, such as 2s", g.Timeout)
	}
	if g.MaxProcesses < 1 || g.MaxProcesses > maxGPUProcesses {
		fault("gpu.max_processes: %d: give from 1 to %d, such as 64", g.MaxProcesses, maxGPUProcesses)
	}
	return errors.Join(faults...)
}
