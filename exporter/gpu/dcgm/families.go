package dcgm

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter/gpu"
)

// family is one name of dcgm-exporter and where its value is in a snapshot.
type family struct {
	name string
	kind prometheus.ValueType // as default-counters.csv has it
	help string

	gpu      func(*gpu.Device) (float64, bool)   // false: not supported
	instance func(*gpu.Instance) (float64, bool) // of a MIG instance; nil: it has that of its GPU
}

// of is the value of a MIG instance.
func (f family) of(d *gpu.Device, in *gpu.Instance) (float64, bool) {
	if f.instance == nil {
		return f.gpu(d)
	}
	return f.instance(in)
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// families are in the order of default-counters.csv.
var families = []family{
	{name: "DCGM_FI_DEV_SM_CLOCK", kind: gauge, help: "Clock of the streaming multiprocessors in MHz.", gpu: clock("sm")},
	{name: "DCGM_FI_DEV_MEM_CLOCK", kind: gauge, help: "Clock of the memory in MHz.", gpu: clock("mem")},

	{name: "DCGM_FI_DEV_MEMORY_TEMP", kind: gauge, help: "Temperature of the memory in degrees Celsius.", gpu: temperature("memory")},
	{name: "DCGM_FI_DEV_GPU_TEMP", kind: gauge, help: "Temperature of the GPU in degrees Celsius.", gpu: temperature("gpu")},

	{name: "DCGM_FI_DEV_POWER_USAGE", kind: gauge, help: "Power that the GPU draws in W.", gpu: func(d *gpu.Device) (float64, bool) { return value(d.Power, 1) }},
	{name: "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", kind: counter, help: "Energy that the GPU used, in mJ.", gpu: func(d *gpu.Device) (float64, bool) { return whole(d.Energy, 1000) }},

	{name: "DCGM_FI_DEV_PCIE_REPLAY_COUNTER", kind: counter, help: "Transfers over PCIe that were repeated.", gpu: func(d *gpu.Device) (float64, bool) {
		if d.PCIe == nil {
			return 0, false
		}
		return count(d.PCIe.Replays)
	}},

	{name: "DCGM_FI_DEV_GPU_UTIL", kind: gauge, help: "Share of time in which a kernel ran, in %.", gpu: func(d *gpu.Device) (float64, bool) { return whole(d.Utilization, 100) }},
	{name: "DCGM_FI_DEV_MEM_COPY_UTIL", kind: gauge, help: "Share of time in which memory was read or written, in %.", gpu: func(d *gpu.Device) (float64, bool) { return whole(d.MemoryUtilization, 100) }},
	{name: "DCGM_FI_DEV_ENC_UTIL", kind: gauge, help: "Utilisation of the video encoders in %.", gpu: func(d *gpu.Device) (float64, bool) { return whole(d.EncoderUtilization, 100) }},
	{name: "DCGM_FI_DEV_DEC_UTIL", kind: gauge, help: "Utilisation of the video decoders in %.", gpu: func(d *gpu.Device) (float64, bool) { return whole(d.DecoderUtilization, 100) }},

	{name: "DCGM_FI_DEV_XID_ERRORS", kind: gauge, help: "Number of the last XID error; 0 while there was none.", gpu: lastXID},

	{
		name: "DCGM_FI_DEV_FB_FREE", kind: gauge, help: "Memory that is free, in MiB.",
		gpu: func(d *gpu.Device) (float64, bool) {
			return mebibytes(d.Memory, func(m *gpu.Memory) *uint64 { return &m.Free })
		},
		instance: func(i *gpu.Instance) (float64, bool) {
			return mebibytes(i.Memory, func(m *gpu.Memory) *uint64 { return &m.Free })
		},
	},
	{
		name: "DCGM_FI_DEV_FB_USED", kind: gauge, help: "Memory that is given out, in MiB.",
		gpu: func(d *gpu.Device) (float64, bool) {
			return mebibytes(d.Memory, func(m *gpu.Memory) *uint64 { return &m.Used })
		},
		instance: func(i *gpu.Instance) (float64, bool) {
			return mebibytes(i.Memory, func(m *gpu.Memory) *uint64 { return &m.Used })
		},
	},
	{
		name: "DCGM_FI_DEV_FB_RESERVED", kind: gauge, help: "Memory that the driver keeps for itself, in MiB.",
		gpu: func(d *gpu.Device) (float64, bool) {
			return mebibytes(d.Memory, func(m *gpu.Memory) *uint64 { return m.Reserved })
		},
		instance: func(i *gpu.Instance) (float64, bool) {
			return mebibytes(i.Memory, func(m *gpu.Memory) *uint64 { return m.Reserved })
		},
	},

	{name: "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", kind: counter, help: "Errors of one bit in memory since the driver was loaded.", gpu: ecc("corrected", "volatile")},
	{name: "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", kind: counter, help: "Errors of two bits in memory since the driver was loaded.", gpu: ecc("uncorrected", "volatile")},
	{name: "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", kind: counter, help: "Errors of one bit in memory in the life of the GPU.", gpu: ecc("corrected", "aggregate")},
	{name: "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", kind: counter, help: "Errors of two bits in memory in the life of the GPU.", gpu: ecc("uncorrected", "aggregate")},

	{name: "DCGM_FI_DEV_RETIRED_SBE", kind: counter, help: "Pages of memory that were retired for errors of one bit.", gpu: retired("single_bit")},
	{name: "DCGM_FI_DEV_RETIRED_DBE", kind: counter, help: "Pages of memory that were retired for errors of two bits.", gpu: retired("double_bit")},
	{name: "DCGM_FI_DEV_RETIRED_PENDING", kind: counter, help: "Pages of memory that will be retired at the next start.", gpu: retired("pending")},

	{name: "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", kind: counter, help: "CRC errors of flow control on NVLink.", gpu: nvlinkErrors("crc_flit")},
	{name: "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", kind: counter, help: "CRC errors of data on NVLink.", gpu: nvlinkErrors("crc_data")},
	{name: "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", kind: counter, help: "Transfers over NVLink that were repeated.", gpu: nvlinkErrors("replay")},
	{name: "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", kind: counter, help: "Recoveries of NVLink.", gpu: nvlinkErrors("recovery")},

	{name: "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", kind: counter, help: "Rows of memory that were replaced for uncorrectable errors.", gpu: remapped("uncorrectable")},
	{name: "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", kind: counter, help: "Rows of memory that were replaced for correctable errors.", gpu: remapped("correctable")},
	{name: "DCGM_FI_DEV_ROW_REMAP_FAILURE", kind: gauge, help: "Whether replacing rows of memory has failed (1).", gpu: func(d *gpu.Device) (float64, bool) {
		switch {
		case d.RowRemapFailure == nil:
			return 0, false
		case *d.RowRemapFailure:
			return 1, true
		}
		return 0, true
	}},

	active("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "graphics", "Share of time, 0 to 1, in which the graphics or compute engine was active."),
	active("DCGM_FI_PROF_SM_ACTIVE", "sm", "Share of cycles, 0 to 1, in which a streaming multiprocessor had a warp, averaged over all of them."),
	{
		name: "DCGM_FI_PROF_SM_OCCUPANCY", kind: gauge, help: "Share of warps, 0 to 1, that were resident, of all that a streaming multiprocessor can have.",
		gpu:      func(d *gpu.Device) (float64, bool) { return value(d.Occupancy, 1) },
		instance: func(*gpu.Instance) (float64, bool) { return 0, false },
	},
	active("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "tensor", "Share of cycles, 0 to 1, in which the tensor cores were active."),
	active("DCGM_FI_PROF_DRAM_ACTIVE", "dram", "Share of cycles, 0 to 1, in which the memory interface sent or received."),
	active("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "fp64", "Share of cycles, 0 to 1, in which the FP64 pipes were active."),
	active("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "fp32", "Share of cycles, 0 to 1, in which the FP32 pipes were active."),
	active("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "fp16", "Share of cycles, 0 to 1, in which the FP16 pipes were active."),
}

// active is a family of what the GPU measures itself.
func active(name, unit, help string) family {
	of := func(m map[string]float64) (float64, bool) {
		v, ok := m[unit]
		return v, ok
	}
	return family{
		name: name, kind: gauge, help: help,
		gpu:      func(d *gpu.Device) (float64, bool) { return of(d.Active) },
		instance: func(i *gpu.Instance) (float64, bool) { return of(i.Active) },
	}
}

func value(v *float64, factor float64) (float64, bool) {
	if v == nil {
		return 0, false
	}
	return *v * factor, true
}

// whole is a value as a whole number of another unit, which is how DCGM has it.
func whole(v *float64, factor float64) (float64, bool) {
	scaled, ok := value(v, factor)
	return math.Round(scaled), ok
}

func count(n *uint64) (float64, bool) {
	if n == nil {
		return 0, false
	}
	return float64(*n), true
}

func mebibytes(m *gpu.Memory, part func(*gpu.Memory) *uint64) (float64, bool) {
	if m == nil {
		return 0, false
	}
	bytes := part(m)
	if bytes == nil {
		return 0, false
	}
	return float64(*bytes >> 20), true
}

func clock(domain string) func(*gpu.Device) (float64, bool) {
	return func(d *gpu.Device) (float64, bool) {
		hertz, ok := d.Clock[domain]
		return math.Round(hertz / 1e6), ok
	}
}

func temperature(sensor string) func(*gpu.Device) (float64, bool) {
	return func(d *gpu.Device) (float64, bool) {
		celsius, ok := d.Temperature[sensor]
		return celsius, ok
	}
}

func ecc(kind, scope string) func(*gpu.Device) (float64, bool) {
	return func(d *gpu.Device) (float64, bool) {
		for _, e := range d.ECC {
			if e.Type == kind && e.Scope == scope {
				return float64(e.Count), true
			}
		}
		return 0, false
	}
}

func retired(cause string) func(*gpu.Device) (float64, bool) {
	return func(d *gpu.Device) (float64, bool) {
		n, ok := d.RetiredPages[cause]
		return float64(n), ok
	}
}

func remapped(kind string) func(*gpu.Device) (float64, bool) {
	return func(d *gpu.Device) (float64, bool) {
		n, ok := d.RemappedRows[kind]
		return float64(n), ok
	}
}

func nvlinkErrors(kind string) func(*gpu.Device) (float64, bool) {
	return func(d *gpu.Device) (float64, bool) {
		if d.NVLink == nil {
			return 0, false
		}
		n, ok := d.NVLink.Errors[kind]
		return float64(n), ok
	}
}

// lastXID is the number of the latest error. XIDs that were not watched for are not known to be none.
func lastXID(d *gpu.Device) (float64, bool) {
	if d.XIDs == nil {
		return 0, false
	}
	var last gpu.XID
	for _, x := range d.XIDs {
		if x.Count > 0 && !x.Last.Before(last.Last) {
			last = x
		}
	}
	return float64(last.Number), true
}
