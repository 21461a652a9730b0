//go:build linux && cgo

package gpu

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

func (d nvmlDevice) MIGMode() (bool, error) {
	mode, err := invoke(d.library, "nvmlDeviceGetMigMode", func() (int, nvml.Return) {
		current, _, ret := d.device.GetMigMode()
		return current, ret
	})
	return mode == nvml.DEVICE_MIG_ENABLE, err
}

// Instances returns the instances that could be read beside an error about another.
func (d nvmlDevice) Instances() ([]Instance, error) {
	enabled, err := d.MIGMode()
	if err != nil || !enabled {
		return nil, err
	}
	const call = "nvmlDeviceGetMigDeviceHandleByIndex"
	if err := d.library.has(call); err != nil {
		return nil, err
	}
	most, err := invoke(d.library, "nvmlDeviceGetMaxMigDeviceCount", d.device.GetMaxMigDeviceCount)
	if err != nil {
		return nil, err
	}
	uuid, err := d.UUID()
	if err != nil {
		return nil, err
	}
	memory, err := d.Memory()
	if unexpected(err) {
		return nil, err
	}
	var instances []Instance
	var faults []error
	for i := range most {
		handle, ret := timedValue(d.library, call, func() (nvml.Device, nvml.Return) { return d.device.GetMigDeviceHandleByIndex(i) })
		if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
			continue // a gap
		}
		err := d.library.check(call, ret)
		var instance Instance
		if err == nil {
			instance, err = nvmlDevice{library: d.library, device: handle}.instance(memory.Total)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("MIG device %d: %w", i, err))
			continue
		}
		if instance.Active, err = d.instanceActivity(uuid, instance.GI); unexpected(err) {
			faults = append(faults, fmt.Errorf("MIG device %d: %w", i, err))
		}
		instances = append(instances, instance)
	}
	return instances, errors.Join(faults...)
}

// instance reads the device as an instance of MIG on a GPU with the memory.
func (d nvmlDevice) instance(memory uint64) (Instance, error) {
	var in Instance
	var err error
	if in.UUID, err = d.UUID(); err != nil {
		return in, err
	}
	if in.GI, err = invoke(d.library, "nvmlDeviceGetGpuInstanceId", d.device.GetGpuInstanceId); err != nil {
		return in, err
	}
	if in.CI, err = invoke(d.library, "nvmlDeviceGetComputeInstanceId", d.device.GetComputeInstanceId); err != nil {
		return in, err
	}
	if in.Profile, err = d.profile(memory); unexpected(err) {
		return in, err
	}
	m, err := d.Memory()
	if err == nil {
		in.Memory = &m
	} else if unexpected(err) {
		return in, err
	}
	return in, nil
}

// profile returns the profile of an instance of MIG on a GPU with the memory, such as 1g.10gb: as the driver has it in the
// name, else from the attributes.
func (d nvmlDevice) profile(memory uint64) (string, error) {
	name, err := d.Name()
	if unexpected(err) {
		return "", err
	}
	if _, profile, ok := strings.Cut(name, " MIG "); ok {
		return profile, nil
	}
	const v2, v1 = "nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes"
	if err := d.library.hasOne(v2, v1); err != nil {
		return "", err
	}
	a, ret := timedValue(d.library, v1, d.device.GetAttributes)
	if err := d.library.check(v1, ret); err != nil {
		return "", err
	}
	return migProfile(a.GpuInstanceSliceCount, a.ComputeInstanceSliceCount, a.MemorySizeMB<<20, memory), nil
}

// migProfile names a profile as NVIDIA does: the memory of a slice is a number of eighths of all that the GPU has, which is
// rounded up to whole GiB. A compute instance that is less than its GPU instance is named before it.
func migProfile(gpuSlices, computeSlices uint32, slice, memory uint64) string {
	if memory == 0 {
		return ""
	}
	const gib = 1 << 30
	eighths := math.Ceil(8 * float64(slice) / float64(memory))
	profile := fmt.Sprintf("%dg.%.0fgb", gpuSlices, math.Round(eighths/8*math.Ceil(float64(memory)/gib)))
	if computeSlices != 0 && computeSlices != gpuSlices {
		return fmt.Sprintf("%dc.%s", computeSlices, profile)
	}
	return profile
}

// instanceActivity returns what a GPU instance did; all its compute instances together, as NVML tells no more.
func (d nvmlDevice) instanceActivity(uuid string, gi int) (map[string]float64, error) {
	const call = "nvmlGpmMigSampleGet"
	if err := d.library.has(call); err != nil {
		return nil, err
	}
	all, _, err := d.activity(fmt.Sprintf("%s/%d", uuid, gi), call, func(s nvml.GpmSample) nvml.Return {
		return d.device.GpmMigSampleGet(gi, s)
	})
	if err != nil || all == nil {
		return nil, err
	}
	active := map[string]float64{}
	for _, unit := range []string{"sm", "tensor", "dram"} {
		if v, ok := all[unit]; ok {
			active[unit] = v
		}
	}
	return active, nil
}
