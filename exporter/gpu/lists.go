package gpu

import (
	"slices"

	"flyball/exporter"
)

// Symbols returns the symbols of NVML that are called, sorted. A library that lacks one is read without it, but for those
// that every library has had from the beginning. A symbol in two versions is called in the newer one that is there.
func Symbols() []string { return slices.Clone(symbols[:]) }

var symbols = [...]string{
	"nvmlDeviceGetClockInfo",
	"nvmlDeviceGetCount",
	"nvmlDeviceGetCount_v2",
	"nvmlDeviceGetHandleByIndex",
	"nvmlDeviceGetHandleByIndex_v2",
	"nvmlDeviceGetMemoryInfo",
	"nvmlDeviceGetMemoryInfo_v2",
	"nvmlDeviceGetName",
	"nvmlDeviceGetPciInfo",
	"nvmlDeviceGetPciInfo_v2",
	"nvmlDeviceGetPciInfo_v3",
	"nvmlDeviceGetPowerUsage",
	"nvmlDeviceGetTemperature",
	"nvmlDeviceGetTotalEnergyConsumption",
	"nvmlDeviceGetUUID",
	"nvmlDeviceGetUtilizationRates",
	"nvmlErrorString",
	"nvmlInit",
	"nvmlInit_v2",
	"nvmlShutdown",
	"nvmlSystemGetDriverVersion",
}

// Families lists what this package publishes, for the reference page.
func Families() []exporter.Family {
	gauge := func(name, help string, labels ...string) exporter.Family {
		return exporter.Family{Name: "flyball_gpu_" + name, Help: help, Type: "gauge", Labels: append([]string{"uuid", "gpu"}, labels...), Collector: "gpu"}
	}
	energy := gauge("energy_joules_total", "Energy that the GPU used since the driver was loaded.")
	energy.Type = "counter"
	return []exporter.Family{
		gauge("info", "What the GPU is; always 1.", "vendor", "name", "driver_version", "pci_bus_id"),
		gauge("up", "Whether the GPU can be read (1) or could be once and cannot now (0)."),
		gauge("utilization_ratio", "Share of time in which any kernel ran on the GPU, over the driver's last sampling period."),
		gauge("memory_bandwidth_utilization_ratio", "Share of time in which the GPU's memory was read or written, over the driver's last sampling period."),
		gauge("memory_total_bytes", "Memory of the GPU."),
		gauge("memory_used_bytes", "Memory given out; without what the driver reserves, where the driver tells them apart."),
		gauge("memory_free_bytes", "Memory that is free."),
		gauge("power_watts", "Power that the GPU draws with its memory."),
		energy,
		gauge("temperature_celsius", "Temperature at the sensor.", "sensor"),
		gauge("clock_hertz", "Clock of the domain.", "domain"),
	}
}
