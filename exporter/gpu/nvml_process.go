//go:build linux && cgo

package gpu

import (
	"cmp"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// noInstance is what NVML has for the instance of MIG where there is none.
const noInstance = math.MaxUint32

// notAvailable is what NVML has for a number that is not available.
const notAvailable = math.MaxUint64

// Processes returns those that compute, sorted by PID and GPU instance. A process of which the driver has no sample since
// the call before did nothing.
func (d nvmlDevice) Processes() ([]Process, error) {
	const v3, v2, v1 = "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses"
	if err := d.library.hasOne(v3, v2, v1); err != nil {
		return nil, err
	}
	running, ret := timedValue(d.library, v1, d.device.GetComputeRunningProcesses)
	if err := d.library.check(v1, ret); err != nil {
		return nil, err
	}
	use, err := d.processUse()
	if unexpected(err) {
		return nil, err
	}
	processes := make([]Process, 0, len(running))
	for _, r := range running {
		p := Process{PID: int(r.Pid), GI: instanceID(r.GpuInstanceId), Comm: comm(d.library.procfs, int(r.Pid))}
		if r.UsedGpuMemory != notAvailable {
			p.Memory = &r.UsedGpuMemory
		}
		if err == nil {
			share := use[r.Pid]
			p.SMUtilization = &share
		}
		processes = append(processes, p)
	}
	slices.SortFunc(processes, func(a, b Process) int { return cmp.Or(a.PID-b.PID, instanceOf(a)-instanceOf(b)) })
	return processes, nil
}

// processUse returns the share of the SMs' time by PID since the call before.
func (d nvmlDevice) processUse() (map[uint32]float64, error) {
	const call = "nvmlDeviceGetProcessUtilization"
	if err := d.library.has(call); err != nil {
		return nil, err
	}
	uuid, err := d.UUID()
	if err != nil {
		return nil, err
	}
	samples, ret := timedValue(d.library, call, func() ([]nvml.ProcessUtilizationSample, nvml.Return) {
		return d.device.GetProcessUtilization(d.library.seen[uuid])
	})
	if ret == nvml.ERROR_NOT_FOUND {
		return nil, nil // no sample since
	}
	if err := d.library.check(call, ret); err != nil {
		return nil, err
	}
	sum, count := map[uint32]float64{}, map[uint32]float64{}
	for _, s := range samples {
		d.library.seen[uuid] = max(d.library.seen[uuid], s.TimeStamp)
		if s.SmUtil <= 100 { // else it is not available
			sum[s.Pid] += float64(s.SmUtil) / 100
			count[s.Pid]++
		}
	}
	for pid := range sum {
		sum[pid] /= count[pid]
	}
	return sum, nil
}

// comm returns the name of a process; empty where it cannot be seen, as from a container without the host's PIDs.
func comm(procfs string, pid int) string {
	name, err := os.ReadFile(filepath.Join(cmp.Or(procfs, "/proc"), strconv.Itoa(pid), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

func instanceID(raw uint32) *int {
	if raw == noInstance {
		return nil
	}
	n := int(raw)
	return &n
}
