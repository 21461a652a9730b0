package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"flyball/exporter"
)

// Families lists what is published, sorted by name. What is published of a GPU has the labels uuid and gpu, the index,
// first.
func Families() []exporter.Family {
	list := append(readFamilies(), selfFamilies()...)
	slices.SortFunc(list, func(a, b exporter.Family) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// readFamilies are those that are read of a GPU, and whether it can be.
func readFamilies() []exporter.Family {
	list := []exporter.Family{upFamily.Family, infoFamily.Family}
	for _, f := range deviceFamilies {
		list = append(list, f.Family)
	}
	return list
}

// family is one family of metrics and how it is read off a device.
type family struct {
	exporter.Family
	desc  *prometheus.Desc
	order []int                   // of the labels, sorted by name
	each  func(d *Device, e emit) // calls e for every series
}

// emit publishes one series; values are those of the labels after uuid and gpu.
type emit func(v float64, values ...string)

func gauge(name, help string, each func(*Device, emit), labels ...string) *family {
	return newFamily(name, "gauge", help, each, labels)
}

func counter(name, help string, each func(*Device, emit), labels ...string) *family {
	return newFamily(name, "counter", help, each, labels)
}

func newFamily(name, kind, help string, each func(*Device, emit), labels []string) *family {
	name = "flyball_gpu_" + name
	labels = append([]string{"uuid", "gpu"}, labels...)
	f := &family{
		Family: exporter.Family{Name: name, Help: help, Type: kind, Labels: labels, Collector: "gpu"},
		desc:   prometheus.NewDesc(name, help, labels, nil),
		each:   each,
	}
	for i := range labels {
		f.order = append(f.order, i)
	}
	slices.SortFunc(f.order, func(a, b int) int { return strings.Compare(labels[a], labels[b]) })
	return f
}

// upFamily is the one that GPUs have that cannot be read.
var upFamily = gauge("up", "Whether the GPU can be read (1) or could be once and cannot now (0).", nil)

// infoFamily has labels that are read off the snapshot too.
var infoFamily = gauge("info",
	"What the GPU is; always 1. It is joined to the other series by uuid. What the GPU does not tell is empty.",
	nil, "vendor", "name", "driver_version", "cuda_version", "vbios", "serial", "pci_bus_id", "arch", "mig_mode")

// deviceFamilies are read off a device that can be read.
var deviceFamilies = []*family{
	gauge("utilization_ratio", "Share of time in which any kernel ran on the GPU, over the driver's last sampling period: busy, not full. Not supported with MIG enabled.",
		one(func(d *Device) *float64 { return d.Utilization })),
	gauge("memory_bandwidth_utilization_ratio", "Share of time in which the GPU's memory was read or written, over the driver's last sampling period.",
		one(func(d *Device) *float64 { return d.MemoryUtilization })),
	gauge("encoder_utilization_ratio", "Share of time in which the video encoder was busy, over the driver's last sampling period.",
		one(func(d *Device) *float64 { return d.EncoderUtilization })),
	gauge("decoder_utilization_ratio", "Share of time in which the video decoder was busy, over the driver's last sampling period.",
		one(func(d *Device) *float64 { return d.DecoderUtilization })),

	gauge("memory_total_bytes", "Memory of the GPU.", ofMemory(func(m *Memory) *uint64 { return &m.Total })),
	gauge("memory_used_bytes", "Memory given out; without what the driver reserves, where the driver tells them apart.",
		ofMemory(func(m *Memory) *uint64 { return &m.Used })),
	gauge("memory_free_bytes", "Memory that is free.", ofMemory(func(m *Memory) *uint64 { return &m.Free })),
	gauge("memory_reserved_bytes", "Memory that the driver and the firmware keep for themselves. Absent with a driver that counts it as used.",
		ofMemory(func(m *Memory) *uint64 { return m.Reserved })),

	gauge("power_watts", "Power that the GPU draws with its memory: on Ampere and later, but for GA100, the mean over one second, else that of the moment.",
		one(func(d *Device) *float64 { return d.Power })),
	gauge("power_limit_watts", "Limit of the power by type: enforced is the one that holds now, default the one after a start, min and max the bounds of what may be set.",
		labelled(powerLimits[:], func(d *Device) map[string]float64 { return d.PowerLimit }), "type"),
	counter("energy_joules_total", "Energy that the GPU used with its memory. Its rate is the exact mean of the power in watts.",
		one(func(d *Device) *float64 { return d.Energy })),

	gauge("temperature_celsius", "Temperature by sensor: gpu of the chip, memory of its memory; junction, of AMD, of the hottest spot of the chip, which is gpu too on those that have no other.",
		labelled([]string{"gpu", "junction", "memory"}, func(d *Device) map[string]float64 { return d.Temperature }), "sensor"),
	gauge("temperature_threshold_celsius", "Temperature of the GPU by type of threshold: max is where clocks are lowered below the base clock, slowdown where the hardware halves them, shutdown where it switches off.",
		labelled(thresholds[:], func(d *Device) map[string]float64 { return d.Threshold }), "type"),
	gauge("clock_hertz", "Clock by domain: graphics, sm (streaming multiprocessors), mem (memory), video (encoder and decoder).",
		labelled(domains[:], func(d *Device) map[string]float64 { return d.Clock }), "domain"),
	gauge("clock_max_hertz", "Highest clock that the domain can have.",
		labelled(domains[:], func(d *Device) map[string]float64 { return d.ClockMax }), "domain"),
	gauge("pstate", "Performance state: 0 is the fastest, 15 the slowest.", func(d *Device, e emit) {
		if d.PState != nil {
			e(float64(*d.PState))
		}
	}),
	gauge("fan_speed_ratio", "Speed that the fan is meant to have, as a share of its full speed; a fan that is blocked does not show. Absent where the chassis cools.",
		func(d *Device, e emit) {
			for fan, speed := range d.FanSpeed {
				e(speed, strconv.Itoa(fan))
			}
		}, "fan"),

	gauge("clock_event_active", "Whether (1) or not (0) the reason keeps clocks below the highest right now: idle, app_clocks (set by the user), sw_power_cap (power limit), hw_slowdown (hw_thermal, hw_power_brake or a fast power trigger), sync_boost (another GPU of its group), sw_thermal (too warm), hw_thermal (far too warm), hw_power_brake (signal of the power supply), display.",
		func(d *Device, e emit) {
			for _, reason := range clockEventReasons {
				if active, ok := d.ClockEvents[reason]; ok {
					e(ratio(active), reason)
				}
			}
		}, "reason"),
	counter("clock_event_seconds_total", "Time for which the reason kept clocks below the highest, since the driver was loaded: sw_power_cap, sync_boost, sw_thermal, hw_thermal, hw_power_brake. What happened between two scrapes shows here and not in flyball_gpu_clock_event_active.",
		labelled(clockEventReasons[:], func(d *Device) map[string]float64 { return d.ClockEventSeconds }), "reason"),

	counter("ecc_errors_total", "Errors of the GPU's memories by type (corrected, uncorrected) and scope: volatile since the driver was loaded, aggregate over the GPU's life. Absent where ECC is off.",
		func(d *Device, e emit) {
			for _, ecc := range d.ECC {
				e(float64(ecc.Count), ecc.Type, ecc.Scope)
			}
		}, "type", "scope"),
	counter("remapped_rows_total", "Rows of memory that were replaced by spare ones, over the GPU's life, by the type of error (correctable, uncorrectable). Ampere and later.",
		labelled([]string{"correctable", "uncorrectable"}, func(d *Device) map[string]uint64 { return d.RemappedRows }), "type"),
	gauge("row_remap_pending", "Whether (1) or not (0) a row of memory will be replaced at the next reset of the GPU.",
		truth(func(d *Device) *bool { return d.RowRemapPending })),
	gauge("row_remap_failure", "Whether (1) or not (0) a row of memory could not be replaced: the GPU has to be exchanged.",
		truth(func(d *Device) *bool { return d.RowRemapFailure })),
	gauge("retired_pages", "Pages of memory that are used no more, by cause (single_bit, double_bit); pending is 1 where some will be at the next start. Before Ampere, which replaces rows.",
		labelled([]string{"single_bit", "double_bit", "pending"}, func(d *Device) map[string]uint64 { return d.RetiredPages }), "cause"),
	gauge("recovery_action", "What the driver asks for: 0 nothing, 1 reset the GPU, 2 reboot the node, 3 drain peer-to-peer traffic, 4 drain and reset, 5 recover the IMEX domain, 6 reset the bus, 7 reboot the system.",
		func(d *Device, e emit) {
			if d.RecoveryAction != nil {
				e(float64(*d.RecoveryAction))
			}
		}),

	counter("pcie_tx_bytes_total", "Bytes that the GPU sent over PCIe.", ofPCIe(func(p *PCIe) *uint64 { return p.Transmitted })),
	counter("pcie_rx_bytes_total", "Bytes that the GPU received over PCIe.", ofPCIe(func(p *PCIe) *uint64 { return p.Received })),
	counter("pcie_replay_total", "Packets that were sent again over PCIe: many of them mean a bad riser, cable or slot.", ofPCIe(func(p *PCIe) *uint64 { return p.Replays })),
	gauge("pcie_link_generation", "Generation of PCIe by state: current, which is lower while the GPU is idle, and max, the best of GPU and slot together.",
		labelled(linkStates[:], func(d *Device) map[string]int {
			if d.PCIe == nil {
				return nil
			}
			return d.PCIe.Generation
		}), "state"),
	gauge("pcie_link_width", "Lanes of PCIe by state: current and max. Fewer than max mean a bad contact or slot.",
		labelled(linkStates[:], func(d *Device) map[string]int {
			if d.PCIe == nil {
				return nil
			}
			return d.PCIe.Width
		}), "state"),

	counter("nvlink_tx_bytes_total", "Bytes that the GPU sent over NVLink; link is all, as they are summed up, or where asked for the number of each link and never both, so that sum by (uuid) has all of them once.",
		ofNVLink(func(n *NVLink) *uint64 { return n.Transmitted }, func(l *NVLinkBytes) *uint64 { return l.Transmitted }), "link"),
	counter("nvlink_rx_bytes_total", "Bytes that the GPU received over NVLink; link is as that of flyball_gpu_nvlink_tx_bytes_total.",
		ofNVLink(func(n *NVLink) *uint64 { return n.Received }, func(l *NVLinkBytes) *uint64 { return l.Received }), "link"),
	counter("nvlink_errors_total", "Errors of all links of NVLink by type: crc_flit and crc_data are packets that came damaged, replay those that were sent again, recovery links that had to be set up anew.",
		labelled(nvlinkErrors[:], func(d *Device) map[string]uint64 {
			if d.NVLink == nil {
				return nil
			}
			return d.NVLink.Errors
		}), "type"),
	gauge("nvlink_up", "Whether (1) or not (0) the link is active.", func(d *Device, e emit) {
		if d.NVLink == nil {
			return
		}
		for link, up := range d.NVLink.Up {
			e(ratio(up), strconv.Itoa(link))
		}
	}, "link"),

	gauge("graphics_active_ratio", "Share of time in which the GPU's engine for graphics and compute was active, between two readings. Hopper and later, as all that end in _active_ratio.", active("graphics")),
	gauge("sm_active_ratio", "Share of the streaming multiprocessors' time in which they had work, between two readings: the measure of how full the GPU is. Hopper and later.", active("sm")),
	gauge("tensor_active_ratio", "Share of time in which the tensor cores computed, between two readings. Hopper and later.", active("tensor")),
	gauge("dram_active_ratio", "Share of the bandwidth of the GPU's memory that was used, between two readings. Hopper and later.", active("dram")),
	gauge("fp16_active_ratio", "Share of time in which the FP16 units computed, without the tensor cores, between two readings. Hopper and later.", active("fp16")),
	gauge("fp32_active_ratio", "Share of time in which the FP32 units computed, without the tensor cores, between two readings. Hopper and later.", active("fp32")),
	gauge("fp64_active_ratio", "Share of time in which the FP64 units computed, without the tensor cores, between two readings. Hopper and later.", active("fp64")),
	gauge("sm_occupancy_ratio", "Warps that were resident in the streaming multiprocessors as a share of those that fit, between two readings. Hopper and later.",
		one(func(d *Device) *float64 { return d.Occupancy })),

	gauge("mig_info", "What the instance of MIG is; always 1. gi and ci are its GPU instance and compute instance, by which it joins the other series.",
		ofInstances(func(in *Instance, e emit) { e(1, in.UUID, strconv.Itoa(in.GI), strconv.Itoa(in.CI), in.Profile) }), "mig_uuid", "gi", "ci", "profile"),
	gauge("mig_memory_total_bytes", "Memory of the instance of MIG.", ofInstanceMemory(func(m *Memory) *uint64 { return &m.Total }), "gi", "ci"),
	gauge("mig_memory_used_bytes", "Memory given out of the instance of MIG.", ofInstanceMemory(func(m *Memory) *uint64 { return &m.Used }), "gi", "ci"),
	gauge("mig_memory_free_bytes", "Memory that is free of the instance of MIG.", ofInstanceMemory(func(m *Memory) *uint64 { return &m.Free }), "gi", "ci"),
	gauge("mig_memory_reserved_bytes", "Memory of the instance of MIG that the driver keeps for itself.", ofInstanceMemory(func(m *Memory) *uint64 { return m.Reserved }), "gi", "ci"),
	gauge("mig_sm_active_ratio", "As flyball_gpu_sm_active_ratio, of the GPU instance of MIG. All its compute instances have the same.", ofInstanceActive("sm"), "gi", "ci"),
	gauge("mig_tensor_active_ratio", "As flyball_gpu_tensor_active_ratio, of the GPU instance of MIG. All its compute instances have the same.", ofInstanceActive("tensor"), "gi", "ci"),
	gauge("mig_dram_active_ratio", "As flyball_gpu_dram_active_ratio, of the GPU instance of MIG. All its compute instances have the same.", ofInstanceActive("dram"), "gi", "ci"),

	gauge("process_memory_bytes", "Memory that the process has of the GPU. Processes are read only where asked for; comm is the name alone, empty where the process cannot be seen, gi its GPU instance of MIG, empty where it is on none.",
		ofProcesses(func(p *Process, e emit, labels ...string) {
			if p.Memory != nil {
				e(float64(*p.Memory), labels...)
			}
		}), "gi", "pid", "comm"),
	gauge("process_sm_utilization_ratio", "Share of the streaming multiprocessors' time that the process had, since the processes were read before.",
		ofProcesses(func(p *Process, e emit, labels ...string) {
			if p.SMUtilization != nil {
				e(*p.SMUtilization, labels...)
			}
		}), "gi", "pid", "comm"),
	gauge("process_dropped", "Processes on the GPU that have no series, because there are more than may have: those with the least memory.",
		func(d *Device, e emit) {
			if d.Processes != nil {
				e(float64(d.ProcessesDropped))
			}
		}),
}

func one(value func(*Device) *float64) func(*Device, emit) {
	return func(d *Device, e emit) {
		if v := value(d); v != nil {
			e(*v)
		}
	}
}

func truth(value func(*Device) *bool) func(*Device, emit) {
	return func(d *Device, e emit) {
		if v := value(d); v != nil {
			e(ratio(*v))
		}
	}
}

// labelled publishes those of the labels that there is a value for, in their order.
func labelled[T int | uint64 | float64](labels []string, values func(*Device) map[string]T) func(*Device, emit) {
	return func(d *Device, e emit) {
		m := values(d)
		for _, label := range labels {
			if v, ok := m[label]; ok {
				e(float64(v), label)
			}
		}
	}
}

func ofMemory(value func(*Memory) *uint64) func(*Device, emit) {
	return func(d *Device, e emit) {
		if d.Memory != nil {
			if v := value(d.Memory); v != nil {
				e(float64(*v))
			}
		}
	}
}

func ofPCIe(value func(*PCIe) *uint64) func(*Device, emit) {
	return func(d *Device, e emit) {
		if d.PCIe != nil {
			if v := value(d.PCIe); v != nil {
				e(float64(*v))
			}
		}
	}
}

// ofNVLink publishes the bytes of each link where they are there, else those of all.
func ofNVLink(all func(*NVLink) *uint64, one func(*NVLinkBytes) *uint64) func(*Device, emit) {
	return func(d *Device, e emit) {
		if d.NVLink == nil {
			return
		}
		for i := range d.NVLink.Links {
			if v := one(&d.NVLink.Links[i]); v != nil {
				e(float64(*v), strconv.Itoa(i))
			}
		}
		if v := all(d.NVLink); v != nil && d.NVLink.Links == nil {
			e(float64(*v), "all")
		}
	}
}

func active(unit string) func(*Device, emit) {
	return func(d *Device, e emit) {
		if v, ok := d.Active[unit]; ok {
			e(v)
		}
	}
}

func ofInstances(each func(*Instance, emit)) func(*Device, emit) {
	return func(d *Device, e emit) {
		for i := range d.Instances {
			each(&d.Instances[i], e)
		}
	}
}

func ofInstanceMemory(value func(*Memory) *uint64) func(*Device, emit) {
	return ofInstances(func(in *Instance, e emit) {
		if in.Memory != nil {
			if v := value(in.Memory); v != nil {
				e(float64(*v), strconv.Itoa(in.GI), strconv.Itoa(in.CI))
			}
		}
	})
}

func ofInstanceActive(unit string) func(*Device, emit) {
	return ofInstances(func(in *Instance, e emit) {
		if v, ok := in.Active[unit]; ok {
			e(v, strconv.Itoa(in.GI), strconv.Itoa(in.CI))
		}
	})
}

func ofProcesses(each func(p *Process, e emit, labels ...string)) func(*Device, emit) {
	return func(d *Device, e emit) {
		for i := range d.Processes {
			p := &d.Processes[i]
			gi := ""
			if p.GI != nil {
				gi = strconv.Itoa(*p.GI)
			}
			each(p, e, gi, strconv.Itoa(p.PID), p.Comm)
		}
	}
}

func ratio(b bool) float64 {
	if b {
		return 1
	}
	return 0
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
		page.device(d, rep.Driver, rep.CUDA)
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

// page collects metrics, thousands of them, so what they are made of is allocated by the hundred.
type page struct {
	metrics  []prometheus.Metric
	samples  slab[sample]
	labels   slab[dto.LabelPair]
	lists    slab[*dto.LabelPair]
	gauges   slab[dto.Gauge]
	counters slab[dto.Counter]
}

// slab hands out zero values that were allocated together.
type slab[T any] struct{ free []T }

const slabSize = 128

func (s *slab[T]) take(n int) []T {
	if len(s.free) < n {
		s.free = make([]T, max(slabSize, n))
	}
	taken := s.free[:n:n]
	s.free = s.free[n:]
	return taken
}

func (p *page) up(uuid string, index int, up bool) {
	p.add(upFamily, owner(uuid, index), ratio(up))
}

func (p *page) device(d Device, driver, cuda string) {
	labels := owner(d.UUID, d.Index)
	p.add(infoFamily, labels, 1,
		cmp.Or(d.Vendor, "nvidia"), d.Name, driver, cuda, d.VBIOS, d.Serial, d.PCIBusID, d.Arch, d.MIGMode)
	for _, f := range deviceFamilies {
		f.each(&d, func(v float64, values ...string) { p.add(f, labels, v, values...) })
	}
}

// owner returns the labels that every series of the GPU shares: uuid and gpu.
func owner(uuid string, index int) [2]*dto.LabelPair {
	return [2]*dto.LabelPair{label("uuid", uuid), label("gpu", strconv.Itoa(index))}
}

func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

func (p *page) add(f *family, owner [2]*dto.LabelPair, v float64, values ...string) {
	s := &p.samples.take(1)[0]
	s.desc, s.value, s.labels = f.desc, v, p.lists.take(len(f.order))
	for at, i := range f.order {
		if i < len(owner) {
			s.labels[at] = owner[i]
			continue
		}
		pair := &p.labels.take(1)[0]
		pair.Name, pair.Value = &f.Labels[i], &values[i-len(owner)]
		s.labels[at] = pair
	}
	if f.Type == "counter" {
		s.counter = &p.counters.take(1)[0]
		s.counter.Value = &s.value
	} else {
		s.gauge = &p.gauges.take(1)[0]
		s.gauge.Value = &s.value
	}
	p.metrics = append(p.metrics, s)
}

// sample is a constant metric that is made once for a snapshot and written at every scrape without allocating, which
// prometheus.NewConstMetric does several times.
type sample struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair // sorted by name
	value   float64
	gauge   *dto.Gauge
	counter *dto.Counter
}

func (s *sample) Desc() *prometheus.Desc { return s.desc }

func (s *sample) Write(out *dto.Metric) error {
	out.Label, out.Gauge, out.Counter = s.labels, s.gauge, s.counter
	return nil
}
