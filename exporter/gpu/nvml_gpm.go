//go:build linux && cgo

package gpu

import (
	"fmt"
	"math"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// sampler holds two samples of the activity of a GPU or of an instance of MIG, between which NVML computes.
type sampler struct {
	samples   [2]nvml.GpmSample
	next      int       // of samples, for the next sample
	taken     time.Time // of the last sample; zero before the first
	active    map[string]float64
	occupancy *float64
}

// gpmUnits are the metrics of NVML's GPM that are read, by unit of Device.Active; occupancy is none of them.
var gpmUnits = map[nvml.GpmMetricId]string{
	nvml.GPM_METRIC_GRAPHICS_UTIL: "graphics", nvml.GPM_METRIC_SM_UTIL: "sm", nvml.GPM_METRIC_ANY_TENSOR_UTIL: "tensor",
	nvml.GPM_METRIC_DRAM_BW_UTIL: "dram", nvml.GPM_METRIC_FP16_UTIL: "fp16", nvml.GPM_METRIC_FP32_UTIL: "fp32",
	nvml.GPM_METRIC_FP64_UTIL: "fp64",
}

func (d nvmlDevice) Activity() (map[string]float64, *float64, error) {
	const call = "nvmlGpmSampleGet"
	if err := d.library.has(call); err != nil {
		return nil, nil, err
	}
	uuid, err := d.UUID()
	if err != nil {
		return nil, nil, err
	}
	return d.activity(uuid, call, d.device.GpmSampleGet)
}

// activity takes a sample and computes what happened since the one before.
func (d nvmlDevice) activity(key, call string, sample func(nvml.GpmSample) nvml.Return) (map[string]float64, *float64, error) {
	s, err := d.sampler(key)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	if now.Sub(s.taken) < gpmInterval {
		return s.active, s.occupancy, nil
	}
	if err := d.library.check(call, timed(d.library, call, func() nvml.Return { return sample(s.samples[s.next]) })); err != nil {
		return nil, nil, err
	}
	first := s.taken.IsZero()
	s.taken, s.next = now, 1-s.next
	if first {
		return nil, nil, nil
	}
	s.active, s.occupancy, err = d.library.compute(s.samples[s.next], s.samples[1-s.next])
	return s.active, s.occupancy, err
}

// sampler returns the sampler of the key. Architectures before Hopper have none: an error that wraps errUnsupported.
func (d nvmlDevice) sampler(key string) (*sampler, error) {
	l := d.library
	if s := l.samplers[key]; s != nil {
		return s, nil
	}
	const call = "nvmlGpmQueryDeviceSupport"
	if err := l.hasAll(call, "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmMetricsGet"); err != nil {
		return nil, err
	}
	support, ret := timedValue(l, call, d.device.GpmQueryDeviceSupport)
	if err := l.check(call, ret); err != nil {
		return nil, err
	}
	if support.IsSupportedDevice == 0 {
		return nil, fmt.Errorf("%s: %w by this GPU", call, errUnsupported)
	}
	s := &sampler{}
	for i := range s.samples {
		if s.samples[i], ret = timedValue(l, "nvmlGpmSampleAlloc", l.nvml.GpmSampleAlloc); ret != nvml.SUCCESS {
			s.samples[i] = nil
			s.free()
			return nil, l.check("nvmlGpmSampleAlloc", ret)
		}
	}
	l.samplers[key] = s
	return s, nil
}

func (s *sampler) free() {
	for _, sample := range s.samples {
		if sample != nil {
			_ = sample.Free() // there is nothing to do about it
		}
	}
}

// compute returns what happened between two samples.
func (l *nvmlLibrary) compute(older, newer nvml.GpmSample) (active map[string]float64, occupancy *float64, err error) {
	get := nvml.GpmMetricsGetType{Sample1: older, Sample2: newer}
	add := func(id nvml.GpmMetricId) {
		get.Metrics[get.NumMetrics].MetricId = uint32(id)
		get.NumMetrics++
	}
	add(nvml.GPM_METRIC_SM_OCCUPANCY)
	for id := range gpmUnits {
		add(id)
	}
	const call = "nvmlGpmMetricsGet"
	if err := l.check(call, timed(l, call, func() nvml.Return { return l.nvml.GpmMetricsGet(&get) })); err != nil {
		return nil, nil, err
	}
	active = map[string]float64{}
	for _, m := range get.Metrics[:get.NumMetrics] {
		if nvml.Return(m.NvmlReturn) != nvml.SUCCESS || math.IsNaN(m.Value) || m.Value < 0 {
			continue
		}
		ratio := m.Value / 100
		if unit, ok := gpmUnits[nvml.GpmMetricId(m.MetricId)]; ok {
			active[unit] = ratio
		} else {
			occupancy = &ratio
		}
	}
	return active, occupancy, nil
}
