package gpu

import (
	"cmp"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// smiField is a column of nvidia-smi's table.
type smiField struct {
	names []string                    // of the field, the first that is known
	set   func(d *Device, v smiValue) // called where it has a value
}

// smiValue is a cell that has a value.
type smiValue string

// smiReasons are the bits of NVML's mask of why clocks are low.
var smiReasons = [...]struct {
	bit  uint64
	name string
}{
	{0x1, "idle"},
	{0x2, "app_clocks"},
	{0x4, "sw_power_cap"},
	{0x8, "hw_slowdown"},
	{0x10, "sync_boost"},
	{0x20, "sw_thermal"},
	{0x40, "hw_thermal"},
	{0x80, "hw_power_brake"},
	{0x100, "display"},
}

// smiFields are the fields that are asked for. The first ones every command has.
var smiFields = append([]smiField{
	{[]string{"index"}, func(d *Device, v smiValue) {
		if n, ok := v.count(); ok && n < smiMaxGPUs {
			d.Index = int(n)
		}
	}},
	{[]string{"uuid", "gpu_uuid"}, func(d *Device, v smiValue) { d.UUID = string(v) }},
	{[]string{"pci.bus_id", "gpu_bus_id"}, func(d *Device, v smiValue) { d.PCIBusID = string(v) }},
	{[]string{"name", "gpu_name"}, func(d *Device, v smiValue) { d.Name = string(v) }},
	{[]string{smiDriver}, func(*Device, smiValue) {}}, // of all GPUs
	{[]string{"serial", "gpu_serial"}, func(d *Device, v smiValue) { d.Serial = string(v) }},
	{[]string{"vbios_version"}, func(d *Device, v smiValue) { d.VBIOS = string(v) }},
	{[]string{"compute_cap"}, func(d *Device, v smiValue) { d.Arch = smiArch(string(v)) }},
	{[]string{"mig.mode.current"}, func(d *Device, v smiValue) { d.MIGMode = strings.ToLower(string(v)) }},

	{[]string{"utilization.gpu"}, func(d *Device, v smiValue) { d.Utilization = v.scaled(0.01) }},
	{[]string{"utilization.memory"}, func(d *Device, v smiValue) { d.MemoryUtilization = v.scaled(0.01) }},
	{[]string{"utilization.encoder"}, func(d *Device, v smiValue) { d.EncoderUtilization = v.scaled(0.01) }},
	{[]string{"utilization.decoder"}, func(d *Device, v smiValue) { d.DecoderUtilization = v.scaled(0.01) }},
	{[]string{"memory.total"}, func(d *Device, v smiValue) { v.memory(d, func(m *Memory, n uint64) { m.Total = n }) }},
	{[]string{"memory.used"}, func(d *Device, v smiValue) { v.memory(d, func(m *Memory, n uint64) { m.Used = n }) }},
	{[]string{"memory.free"}, func(d *Device, v smiValue) { v.memory(d, func(m *Memory, n uint64) { m.Free = n }) }},
	{[]string{"memory.reserved"}, func(d *Device, v smiValue) { v.memory(d, func(m *Memory, n uint64) { m.Reserved = &n }) }},

	// What NVML tells by nvmlDeviceGetPowerUsage too: the mean over a second, where the GPU has one.
	{[]string{"power.draw"}, func(d *Device, v smiValue) { d.Power = v.scaled(1) }},
	{[]string{"power.draw.instant"}, func(d *Device, v smiValue) { d.Power = cmp.Or(d.Power, v.scaled(1)) }},
	{[]string{"enforced.power.limit", "power.limit"}, func(d *Device, v smiValue) { v.put(&d.PowerLimit, "enforced", 1) }},
	{[]string{"power.default_limit"}, func(d *Device, v smiValue) { v.put(&d.PowerLimit, "default", 1) }},
	{[]string{"power.min_limit"}, func(d *Device, v smiValue) { v.put(&d.PowerLimit, "min", 1) }},
	{[]string{"power.max_limit"}, func(d *Device, v smiValue) { v.put(&d.PowerLimit, "max", 1) }},
	{[]string{"temperature.gpu"}, func(d *Device, v smiValue) { v.put(&d.Temperature, "gpu", 1) }},
	{[]string{"temperature.memory"}, func(d *Device, v smiValue) { v.put(&d.Temperature, "memory", 1) }},
	{[]string{"clocks.current.graphics", "clocks.gr"}, func(d *Device, v smiValue) { v.put(&d.Clock, "graphics", 1e6) }},
	{[]string{"clocks.current.sm", "clocks.sm"}, func(d *Device, v smiValue) { v.put(&d.Clock, "sm", 1e6) }},
	{[]string{"clocks.current.memory", "clocks.mem"}, func(d *Device, v smiValue) { v.put(&d.Clock, "mem", 1e6) }},
	{[]string{"clocks.current.video", "clocks.video"}, func(d *Device, v smiValue) { v.put(&d.Clock, "video", 1e6) }},
	{[]string{"clocks.max.graphics", "clocks.max.gr"}, func(d *Device, v smiValue) { v.put(&d.ClockMax, "graphics", 1e6) }},
	{[]string{"clocks.max.sm"}, func(d *Device, v smiValue) { v.put(&d.ClockMax, "sm", 1e6) }},
	{[]string{"clocks.max.memory", "clocks.max.mem"}, func(d *Device, v smiValue) { v.put(&d.ClockMax, "mem", 1e6) }},
	{[]string{"fan.speed"}, func(d *Device, v smiValue) { // of the fastest, as far as anybody knows
		if speed := v.scaled(0.01); speed != nil {
			d.FanSpeed = []float64{*speed}
		}
	}},
	{[]string{"pstate"}, func(d *Device, v smiValue) {
		if n, ok := smiValue(strings.TrimPrefix(string(v), "P")).count(); ok && n < 100 {
			d.PState = new(int(n))
		}
	}},
	{[]string{"clocks_event_reasons.active", "clocks_throttle_reasons.active"}, func(d *Device, v smiValue) {
		mask, err := strconv.ParseUint(string(v), 0, 64)
		if err != nil {
			return
		}
		d.ClockEvents = map[string]bool{}
		for _, r := range smiReasons {
			d.ClockEvents[r.name] = mask&r.bit != 0
		}
	}},
	{[]string{"retired_pages.single_bit_ecc.count", "retired_pages.sbe"}, func(d *Device, v smiValue) { v.add(&d.RetiredPages, "single_bit") }},
	{[]string{"retired_pages.double_bit.count", "retired_pages.dbe"}, func(d *Device, v smiValue) { v.add(&d.RetiredPages, "double_bit") }},
	{[]string{"retired_pages.pending"}, func(d *Device, v smiValue) {
		switch yes := v.yes(); {
		case yes == nil:
		case *yes:
			smiValue("1").add(&d.RetiredPages, "pending")
		default:
			smiValue("0").add(&d.RetiredPages, "pending")
		}
	}},
	{[]string{"remapped_rows.correctable", "remapped_rows.sbe"}, func(d *Device, v smiValue) { v.add(&d.RemappedRows, "correctable") }},
	{[]string{"remapped_rows.uncorrectable", "remapped_rows.dbe"}, func(d *Device, v smiValue) { v.add(&d.RemappedRows, "uncorrectable") }},
	{[]string{"remapped_rows.pending"}, func(d *Device, v smiValue) { d.RowRemapPending = v.yes() }},
	{[]string{"remapped_rows.failure"}, func(d *Device, v smiValue) { d.RowRemapFailure = v.yes() }},
	{[]string{"gpu_recovery_action"}, func(d *Device, v smiValue) {
		actions := []string{"none", "reset", "reboot", "drain p2p", "drain and reset"}
		if i := slices.Index(actions, strings.ToLower(string(v))); i >= 0 {
			d.RecoveryAction = &i
		}
	}},
	{[]string{"pcie.link.gen.gpucurrent", "pcie.link.gen.current"}, func(d *Device, v smiValue) { v.link(d, "current", true) }},
	{[]string{"pcie.link.gen.max"}, func(d *Device, v smiValue) { v.link(d, "max", true) }},
	{[]string{"pcie.link.width.current"}, func(d *Device, v smiValue) { v.link(d, "current", false) }},
	{[]string{"pcie.link.width.max"}, func(d *Device, v smiValue) { v.link(d, "max", false) }},
}, slices.Concat(smiECC(), smiReasonSeconds())...)

// smiDriver is the field of the driver's version.
const smiDriver = "driver_version"

// smiMaxGPUs bounds a table.
const smiMaxGPUs = 256

func smiECC() (all []smiField) {
	for _, kind := range []string{"corrected", "uncorrected"} {
		for _, scope := range []string{"volatile", "aggregate"} {
			all = append(all, smiField{[]string{"ecc.errors." + kind + "." + scope + ".total"}, func(d *Device, v smiValue) {
				if n, ok := v.count(); ok {
					d.ECC = append(d.ECC, ECCErrors{Type: kind, Scope: scope, Count: n})
				}
			}})
		}
	}
	return all
}

func smiReasonSeconds() (all []smiField) {
	for _, f := range clockEventFields {
		name := f.reason
		if name != "sw_power_cap" && name != "sync_boost" {
			name += "_slowdown"
		}
		all = append(all, smiField{[]string{"clocks_event_reasons_counters." + name}, func(d *Device, v smiValue) {
			v.put(&d.ClockEventSeconds, f.reason, 1e-6)
		}})
	}
	return all
}

// smiArch is NVML's name for the architecture that has the CUDA compute capability; empty for one that is newer than this binary.
func smiArch(capability string) string {
	switch capability {
	case "7.5":
		return "turing"
	case "8.9":
		return "ada"
	case "9.0":
		return "hopper"
	}
	major, _, _ := strings.Cut(capability, ".")
	return map[string]string{"3": "kepler", "5": "maxwell", "6": "pascal", "7": "volta", "8": "ampere", "10": "blackwell", "11": "blackwell", "12": "blackwell"}[major]
}

// number returns a cell's number; false for what is none, such as N/A.
func (v smiValue) number() (float64, bool) {
	f, err := strconv.ParseFloat(string(v), 64)
	return f, err == nil && !math.IsNaN(f) && math.Abs(f) < 1e15
}

func (v smiValue) count() (uint64, bool) {
	n, err := strconv.ParseUint(string(v), 10, 53)
	return n, err == nil
}

func (v smiValue) scaled(by float64) *float64 {
	f, ok := v.number()
	if !ok {
		return nil
	}
	if by < 1 {
		f /= math.Round(1 / by) // which is exact where a product is not
	} else {
		f *= by
	}
	return &f
}

func (v smiValue) put(values *map[string]float64, key string, by float64) {
	f := v.scaled(by)
	if f == nil {
		return
	}
	if *values == nil {
		*values = map[string]float64{}
	}
	(*values)[key] = *f
}

func (v smiValue) add(counts *map[string]uint64, key string) {
	n, ok := v.count()
	if !ok {
		return
	}
	if *counts == nil {
		*counts = map[string]uint64{}
	}
	(*counts)[key] = n
}

// yes reads Yes and No; nil for anything else.
func (v smiValue) yes() *bool {
	switch v {
	case "Yes":
		return new(true)
	case "No":
		return new(false)
	}
	return nil
}

// memory reads MiB.
func (v smiValue) memory(d *Device, set func(*Memory, uint64)) {
	mebibytes, ok := v.number()
	if !ok || mebibytes < 0 || mebibytes > 1e9 {
		return
	}
	if d.Memory == nil {
		d.Memory = &Memory{}
	}
	set(d.Memory, uint64(mebibytes*(1<<20)))
}

func (v smiValue) link(d *Device, state string, generation bool) {
	n, ok := v.count()
	if !ok || n > 1000 {
		return
	}
	if d.PCIe == nil {
		d.PCIe = &PCIe{}
	}
	of := &d.PCIe.Width
	if generation {
		of = &d.PCIe.Generation
	}
	if *of == nil {
		*of = map[string]int{}
	}
	(*of)[state] = int(n)
}

// smiTable is what a table of the command says.
type smiTable struct {
	driver  string
	devices []Device          // by row
	lost    map[string]string // why GPUs have no row, by their PCI bus id
}

// smiNoHandle matches the line that there is instead of a GPU's row.
var smiNoHandle = regexp.MustCompile(`(?i)Unable to determine the device handle for (?:gpu|device) ?\d*:? ?([0-9a-f]+:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]): *(.*)`)

// smiBus is a PCI bus id as it is compared: nvidia-smi writes the domain with four digits here and eight there.
func smiBus(id string) string {
	id = strings.ToLower(id)
	if _, rest, ok := strings.Cut(id, ":"); ok && strings.Contains(rest, ":") {
		domain, _ := strconv.ParseUint(id[:len(id)-len(rest)-1], 16, 32)
		return strconv.FormatUint(domain, 16) + ":" + rest
	}
	return id
}

// parseSMI reads a table with the given columns. What is no row of it is passed over; seen are GPUs by PCI bus id
// that may not tell their UUID any more.
func parseSMI(text string, fields []smiField, seen map[string]smiSeen) smiTable {
	t := smiTable{lost: map[string]string{}}
	for line := range strings.Lines(text) {
		if m := smiNoHandle.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			if len(t.lost) < smiMaxGPUs {
				t.lost[smiBus(m[1])] = cmp.Or(smiWords(m[2]), "no device handle")
			}
			continue
		}
		cells := strings.Split(strings.TrimRight(line, "\r\n"), ", ")
		if len(cells) != len(fields) || len(t.devices) == smiMaxGPUs || len(cells) < 2 {
			continue
		}
		t.row(fields, cells, seen)
	}
	return t
}

func (t *smiTable) row(fields []smiField, cells []string, seen map[string]smiSeen) {
	d := Device{Index: len(t.devices)}
	var broken string // what it says instead of a value, of a GPU that does not answer
	var gone bool
	for i, f := range fields {
		v := strings.ToValidUTF8(strings.TrimSpace(cells[i]), "?")
		switch {
		case v == "" || v == "N/A" || strings.EqualFold(v, "Not Supported"):
		case v == "ERR!" || strings.HasPrefix(v, "["):
			switch text := smiWords(strings.Trim(v, "[]")); strings.ToLower(text) {
			case "n/a", "not supported", "requested functionality has been deprecated", "insufficient permissions", "not found":
			case "gpu is lost", "gpu requires reset":
				broken, gone = text, true
			default:
				broken = cmp.Or(broken, text)
			}
		case f.names[0] == smiDriver:
			t.driver = v
		default:
			f.set(&d, smiValue(v))
		}
	}
	if d.Memory != nil && d.Memory.Total == 0 {
		d.Memory = nil // a part of it without the rest is no use
	}
	if !strings.HasPrefix(d.UUID, "GPU-") {
		d.UUID = seen[smiBus(d.PCIBusID)].uuid
	}
	answers := d.Memory != nil || d.Utilization != nil || d.Power != nil || d.Temperature != nil
	switch {
	case gone || broken != "" && !answers:
		d.Error, d.Lost = broken, smiLost(broken)
	case d.UUID == "":
		d.Error = "it has no UUID"
	}
	t.devices = append(t.devices, d)
}

// smiLost reports whether a message says that the driver has given the GPU up.
func smiLost(message string) bool { return strings.Contains(strings.ToLower(message), "gpu is lost") }

// smiWords is a message on one line, within bounds.
func smiWords(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	return s[:min(len(s), saidSize)]
}

// all are the GPUs of the table and, behind them, those that are lost.
func (t smiTable) all(seen map[string]smiSeen) []Device {
	devices := t.devices
	next := 0
	for _, d := range devices {
		next = max(next, d.Index+1)
	}
	for _, bus := range slices.Sorted(maps.Keys(t.lost)) {
		d := Device{Index: next, PCIBusID: bus, Error: t.lost[bus], Lost: smiLost(t.lost[bus])}
		if known, ok := seen[bus]; ok {
			d.UUID, d.Index = known.uuid, known.index
		} else {
			next++
		}
		devices = append(devices, d)
	}
	return devices
}

// parseSMIProcesses adds the processes of --query-compute-apps to their GPUs.
func parseSMIProcesses(text string, devices []Device) {
	for line := range strings.Lines(text) {
		cells := strings.SplitN(strings.TrimSpace(line), ", ", 4) // the last may have commas in it
		if len(cells) < 4 {
			continue
		}
		pid, ok := smiValue(cells[1]).count()
		if !ok || pid == 0 || pid > math.MaxInt32 {
			continue
		}
		i := slices.IndexFunc(devices, func(d Device) bool { return d.UUID == cells[0] })
		if i < 0 || devices[i].Error != "" {
			continue
		}
		p := Process{PID: int(pid), Comm: smiComm(cells[3])}
		if mebibytes, ok := smiValue(cells[2]).number(); ok && mebibytes >= 0 && mebibytes < 1e9 {
			p.Memory = new(uint64(mebibytes * (1 << 20)))
		}
		devices[i].Processes = append(devices[i].Processes, p)
	}
}

// smiComm is the name of a process without its directory and arguments. nvidia-smi puts words in brackets in place of one.
func smiComm(name string) string {
	name = strings.ToValidUTF8(strings.TrimSpace(name), "?")
	if strings.HasPrefix(name, "[") {
		return ""
	}
	name, _, _ = strings.Cut(name, " ")
	return path.Base(strings.ReplaceAll(name, `\`, "/"))
}
