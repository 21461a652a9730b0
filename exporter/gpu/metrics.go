package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	infoDesc = describe("info", "What the GPU is; always 1.", "vendor", "name", "driver_version", "pci_bus_id")
	upDesc   = describe("up", "Whether the GPU can be read (1) or could be once and cannot now (0).")

	utilizationDesc       = describe("utilization_ratio", "Share of time in which any kernel ran on the GPU, over the driver's last sampling period.")
	memoryUtilizationDesc = describe("memory_bandwidth_utilization_ratio", "Share of time in which the GPU's memory was read or written, over the driver's last sampling period.")

	memoryTotalDesc = describe("memory_total_bytes", "Memory of the GPU.")
	memoryUsedDesc  = describe("memory_used_bytes", "Memory given out; without what the driver reserves, where the driver tells them apart.")
	memoryFreeDesc  = describe("memory_free_bytes", "Memory that is free.")

	powerDesc       = describe("power_watts", "Power that the GPU draws with its memory.")
	energyDesc      = describe("energy_joules_total", "Energy that the GPU used since the driver was loaded.")
	temperatureDesc = describe("temperature_celsius", "Temperature at the sensor.", "sensor")
	clockDesc       = describe("clock_hertz", "Clock of the domain.", "domain")
)

// describe describes flyball_gpu_<name>, which has the labels uuid and gpu before its own.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("flyball_gpu_"+name, help, append([]string{"uuid", "gpu"}, labels...), nil)
}

// publish turns a snapshot into metrics. GPUs that are known and cannot be read have flyball_gpu_up 0 and are named in
// the error; what was read of them before the error is left out, as it may belong to another moment than it seems.
func publish(rep *reply, seen []known) ([]prometheus.Metric, error) {
	var page page
	var faults []error
	for _, d := range rep.Devices {
		if d.Error != "" {
			faults = append(faults, fmt.Errorf("gpu: GPU %d: %s", d.Index, d.Error))
			continue
		}
		page.device(d, rep.Driver)
	}
	for _, k := range seen {
		page.up(k.uuid, k.index, k.err == "")
		if k.err != "" && !reported(rep, k.uuid) {
			faults = append(faults, fmt.Errorf("gpu: GPU %d (%s): %s", k.index, k.uuid, k.err))
		}
	}
	return page.metrics, errors.Join(faults...)
}

// reported reports whether the snapshot has the GPU, readable or not.
func reported(rep *reply, uuid string) bool {
	for _, d := range rep.Devices {
		if d.UUID == uuid {
			return true
		}
	}
	return false
}

// page collects metrics.
type page struct{ metrics []prometheus.Metric }

func (p *page) up(uuid string, index int, up bool) {
	v := 0.0
	if up {
		v = 1
	}
	p.gauge(upDesc, v, uuid, strconv.Itoa(index))
}

func (p *page) device(d Device, driver string) {
	gpu := strconv.Itoa(d.Index)
	p.gauge(infoDesc, 1, d.UUID, gpu, cmp.Or(d.Vendor, "nvidia"), d.Name, driver, d.PCIBusID)
	for _, v := range []struct {
		desc  *prometheus.Desc
		value *float64
	}{
		{utilizationDesc, d.Utilization},
		{memoryUtilizationDesc, d.MemoryUtilization},
		{powerDesc, d.Power},
	} {
		if v.value != nil {
			p.gauge(v.desc, *v.value, d.UUID, gpu)
		}
	}
	if d.Memory != nil {
		p.gauge(memoryTotalDesc, float64(d.Memory.Total), d.UUID, gpu)
		p.gauge(memoryUsedDesc, float64(d.Memory.Used), d.UUID, gpu)
		p.gauge(memoryFreeDesc, float64(d.Memory.Free), d.UUID, gpu)
	}
	if d.Energy != nil {
		p.metrics = append(p.metrics, prometheus.MustNewConstMetric(energyDesc, prometheus.CounterValue, *d.Energy, d.UUID, gpu))
	}
	for sensor, celsius := range d.Temperature {
		p.gauge(temperatureDesc, celsius, d.UUID, gpu, sensor)
	}
	for domain, hertz := range d.Clock {
		p.gauge(clockDesc, hertz, d.UUID, gpu, domain)
	}
}

func (p *page) gauge(desc *prometheus.Desc, v float64, labels ...string) {
	p.metrics = append(p.metrics, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...))
}
