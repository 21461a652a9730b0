package gpu

import (
	"cmp"
	"errors"
	"math"
	"slices"
)

// tiers say how much of a GPU is read. Every call takes a lock in the driver that workloads need too, so what changes
// slowly is read seldom.
type tiers uint8

const (
	tierFast        tiers = 1 << iota // use, memory, power, energy, temperatures, clocks and why they are low, activity, bytes
	tierSlow                          // errors, limits, fans, links, instances of MIG
	tierStatic                        // what the GPU is
	tierProcesses                     // the processes on it: the dearest call of all
	tierLinks                         // the bytes of each link of NVLink, in the place of those of all
	tierUnsupported                   // of the others, what is absent and why: for a human to read, not for every poll
	tierNoLinks                       // nothing of NVLink in tierFast, as the last reading of tierSlow found none
)

func (t tiers) has(all tiers) bool { return t&all == all }

// readDevice fills in d, of which the index has to be set: the UUID always, the rest as wanted; what is not wanted stays
// as it is. It stops at the first error that says that the GPU is lost, and at one of the main values; such a GPU cannot
// be read, mostly until the machine is started again, and another worker could not either. An odd answer about another
// value is noted in d.Faults, and the rest is read. What GPU or driver do not support is left out.
func readDevice(lib library, d *Device, want tiers) error {
	dev, err := lib.Device(d.Index)
	if err != nil {
		return err
	}
	if d.UUID, err = dev.UUID(); err != nil {
		return err
	}
	d.Faults, d.Unsupported = nil, nil
	r := readout{device: dev, into: d, want: want}
	if want.has(tierStatic) {
		r.static()
	}
	if want.has(tierFast) {
		r.fast()
	}
	if want.has(tierSlow) {
		r.slow()
	}
	if want.has(tierProcesses) {
		var ok bool
		d.Processes, ok = optional(&r, dev.Processes)
		d.ProcessesDropped = 0
		limitProcesses(d, mostProcesses)
		if ok && len(d.Processes) == 0 {
			r.absent("processes: none computes on the GPU")
		} else if ok && d.Processes[0].SMUtilization == nil {
			r.absent("processes: nvmlDeviceGetProcessUtilization: not supported")
		}
	}
	return r.err
}

// mostProcesses bounds what a worker tells of one GPU. What is published is bounded much lower.
const mostProcesses = 1024

// limitProcesses leaves the n processes that have the most memory, in the order that they had.
func limitProcesses(d *Device, n int) {
	if len(d.Processes) <= n {
		return
	}
	memory := func(p Process) uint64 {
		if p.Memory == nil {
			return 0
		}
		return *p.Memory
	}
	byMemory := slices.Clone(d.Processes)
	slices.SortStableFunc(byMemory, func(a, b Process) int { return cmp.Compare(memory(b), memory(a)) })
	d.ProcessesDropped += len(byMemory) - n
	kept := byMemory[:n]
	slices.SortFunc(kept, func(a, b Process) int { return cmp.Or(a.PID-b.PID, instanceOf(a)-instanceOf(b)) })
	d.Processes = kept
}

// oncePerProcess adds up the memory of what is listed more than once of a process on the same GPU instance, as where it
// computes on several of MIG that are not told apart: series are told by these alone.
func oncePerProcess(list []Process) []Process {
	type key struct{ pid, gi int }
	at := make(map[key]int, len(list))
	var once []Process // nil while there is nothing to add up
	for i, p := range list {
		k := key{p.PID, instanceOf(p)}
		first, again := at[k]
		switch {
		case again && once == nil:
			once = slices.Clone(list[:i])
			fallthrough
		case again:
			o := &once[first]
			if p.Memory != nil {
				sum := *p.Memory
				if o.Memory != nil {
					sum += *o.Memory
				}
				o.Memory = &sum
			}
			if o.SMUtilization == nil || p.SMUtilization != nil && *p.SMUtilization > *o.SMUtilization {
				o.SMUtilization = p.SMUtilization
			}
		case once != nil:
			at[k] = len(once)
			once = append(once, p)
		default:
			at[k] = i
		}
	}
	if once == nil {
		return list
	}
	return once
}

func instanceOf(p Process) int {
	if p.GI == nil {
		return -1
	}
	return *p.GI
}

func unexpected(err error) bool { return err != nil && !errors.Is(err, errUnsupported) }

// readout is one GPU that is being read.
type readout struct {
	device device
	into   *Device
	want   tiers
	err    error // why no more is read
}

// vital makes a call without which the GPU counts as not readable.
func vital[T any](r *readout, call func() (T, error)) (v T, ok bool) {
	if r.err != nil {
		return v, false
	}
	v, err := call()
	if unexpected(err) {
		r.err = err
	} else {
		r.note(err)
	}
	return v, err == nil
}

// optional makes a call without which the rest is worth reading.
func optional[T any](r *readout, call func() (T, error)) (v T, ok bool) {
	if r.err != nil {
		return v, false
	}
	v, err := call()
	r.note(err)
	return v, err == nil
}

// note takes down an error of an optional call.
func (r *readout) note(err error) {
	switch {
	case err == nil:
	case !unexpected(err):
		r.absent(err.Error())
	case errors.Is(err, errLost) || errors.Is(err, errDriverGone):
		r.err = err
	default:
		r.into.Faults = append(r.into.Faults, err.Error())
	}
}

// absent takes down why a value is absent, where that is wanted.
func (r *readout) absent(why string) {
	if r.want.has(tierUnsupported) && !slices.Contains(r.into.Unsupported, why) {
		r.into.Unsupported = append(r.into.Unsupported, why)
	}
}

// pointer returns a pointer to v; nil where it is not ok.
func pointer[T any](v T, ok bool) *T {
	if !ok {
		return nil
	}
	return &v
}

// byLabel makes a call for every value of a label. It returns nil where none is supported.
func byLabel[T any](r *readout, labels []string, get func(*readout, func() (T, error)) (T, bool), call func(string) (T, error)) map[string]T {
	var values map[string]T
	for _, label := range labels {
		if v, ok := get(r, func() (T, error) { return call(label) }); ok {
			if values == nil {
				values = make(map[string]T, len(labels))
			}
			values[label] = v
		}
	}
	return values
}

func (r *readout) static() {
	d, dev := r.into, r.device
	d.Name, _ = vital(r, dev.Name)
	d.PCIBusID, _ = vital(r, dev.PCIBusID)
	d.Serial, _ = optional(r, dev.Serial)
	d.VBIOS, _ = optional(r, dev.VBIOS)
	d.Arch, _ = optional(r, dev.Architecture)
	d.ClockMax = byLabel(r, domains[:], optional, dev.ClockMax)
}

func (r *readout) fast() {
	d, dev := r.into, r.device
	d.Utilization, d.MemoryUtilization = nil, nil
	if u, ok := vital(r, func() (u [2]float64, err error) {
		u[0], u[1], err = dev.Utilization()
		return u, err
	}); ok {
		d.Utilization, d.MemoryUtilization = &u[0], &u[1]
	}
	d.Memory = pointer(vital(r, dev.Memory))
	if d.Memory != nil && d.Memory.Reserved == nil {
		r.absent("nvmlDeviceGetMemoryInfo_v2: not supported: what the driver reserves counts as used")
	}
	d.Power = pointer(vital(r, dev.Power))
	d.Energy = pointer(vital(r, dev.Energy))
	d.Temperature = nil
	if celsius, ok := vital(r, dev.Temperature); ok {
		d.Temperature = map[string]float64{"gpu": celsius}
	}
	d.Clock = byLabel(r, domains[:], vital, dev.Clock)

	d.EncoderUtilization = pointer(optional(r, dev.EncoderUtilization))
	d.DecoderUtilization = pointer(optional(r, dev.DecoderUtilization))
	d.PState = pointer(optional(r, dev.PState))
	d.ClockEvents, _ = optional(r, dev.ClockEvents)
	r.fastFields()
	r.activity()
}

func (r *readout) activity() {
	d := r.into
	d.Active, d.Occupancy = nil, nil
	_, ok := optional(r, func() (_ struct{}, err error) {
		d.Active, d.Occupancy, err = r.device.Activity()
		return
	})
	if !ok {
		return
	}
	if d.Active == nil {
		r.absent("activity: not before the second reading")
		return
	}
	for _, unit := range activeUnits {
		if !has(d.Active, unit) {
			r.absent("activity: " + unit + ": not supported")
		}
	}
	if d.Occupancy == nil {
		r.absent("activity: occupancy: not supported")
	}
}

// The fields that are read, NVML_FI_DEV_... in NVIDIA's nvml.h.
const (
	fieldNVLinkCRCFlit   = 38 // of all links
	fieldNVLinkCRCData   = 45
	fieldNVLinkReplay    = 52
	fieldNVLinkRecovery  = 59
	fieldSWPowerCap      = 74 // nanoseconds, as are the others of this kind
	fieldSyncBoost       = 76
	fieldMemoryTemp      = 82
	fieldNVLinkCount     = 91
	fieldNVLinkTX        = 138 // KiB of data, without the protocol's
	fieldNVLinkRX        = 139
	fieldLinkReplay      = 161 // of one link, before Blackwell
	fieldLinkRecovery    = 162
	fieldPCIeTX          = 197 // bytes, which wrap
	fieldPCIeRX          = 198
	fieldNVLink5TX       = 202 // bytes, from Blackwell on
	fieldNVLink5RX       = 204
	fieldLink5Recovery   = 215
	fieldRecoveryAction  = 230
	fieldSWThermal       = 269
	fieldHWThermal       = 270
	fieldHWPowerBrake    = 271
	kibibyte             = 1024
	nanosecondsPerSecond = 1e9
)

// clockEventFields are the counters of how long clocks were low, by reason.
var clockEventFields = []struct {
	id     uint32
	reason string
}{
	{fieldSWPowerCap, "sw_power_cap"},
	{fieldSyncBoost, "sync_boost"},
	{fieldSWThermal, "sw_thermal"},
	{fieldHWThermal, "hw_thermal"},
	{fieldHWPowerBrake, "hw_power_brake"},
}

// fields reads fields with one call and returns those that are supported.
func (r *readout) fields(want ...field) map[field]uint64 {
	values, ok := optional(r, func() ([]fieldValue, error) { return r.device.Fields(want) })
	if !ok {
		return nil
	}
	got := make(map[field]uint64, len(want))
	for i, v := range values {
		if v.err == nil {
			got[want[i]] = v.value
		}
		if r.err == nil {
			r.note(v.err)
		}
	}
	return got
}

func (r *readout) fastFields() {
	want := []field{
		{id: fieldMemoryTemp},
		{id: fieldPCIeTX},
		{id: fieldPCIeRX},
	}
	if !r.want.has(tierNoLinks) {
		want = append(want, field{id: fieldNVLinkCount})
		if !r.want.has(tierLinks) {
			want = append(want, sumFields[:]...)
		}
	}
	for _, f := range clockEventFields {
		want = append(want, field{id: f.id})
	}
	got := r.fields(want...)

	d := r.into
	if celsius, ok := got[field{id: fieldMemoryTemp}]; ok && celsius != 0 { // 0 is what a GPU without the sensor may say
		if d.Temperature == nil {
			d.Temperature = map[string]float64{}
		}
		d.Temperature["memory"] = float64(celsius)
	}
	d.ClockEventSeconds = nil
	for _, f := range clockEventFields {
		if ns, ok := got[field{id: f.id}]; ok {
			if d.ClockEventSeconds == nil {
				d.ClockEventSeconds = map[string]float64{}
			}
			d.ClockEventSeconds[f.reason] = float64(ns) / nanosecondsPerSecond
		}
	}
	tx, hasTX := got[field{id: fieldPCIeTX}]
	rx, hasRX := got[field{id: fieldPCIeRX}]
	if d.PCIe != nil || hasTX || hasRX {
		d.PCIe = with(d.PCIe, func(p *PCIe) { p.Transmitted, p.Received = pointer(tx, hasTX), pointer(rx, hasRX) })
	}
	if !r.want.has(tierNoLinks) {
		r.nvlinkBytes(got)
	}
}

// sumFields are the bytes of all links together.
var sumFields = [...]field{{fieldNVLinkTX, allLinks}, {fieldNVLinkRX, allLinks}, {fieldNVLink5TX, allLinks}, {fieldNVLink5RX, allLinks}}

// nvlinkBytes takes the bytes of all links from what was got of the fields, or else adds up those of each link. Where those of
// each link are wanted, it reads them, and those of all only where none of them is supported.
func (r *readout) nvlinkBytes(got map[field]uint64) {
	links, counted := got[field{id: fieldNVLinkCount}]
	if counted && links == 0 {
		r.absent("NVLink: the GPU has no links")
		return
	}
	if r.want.has(tierLinks) && r.err == nil {
		list, supported := r.linkBytes(links, counted)
		if supported {
			if r.into.NVLink != nil || list != nil {
				r.into.NVLink = with(r.into.NVLink, func(n *NVLink) { n.Transmitted, n.Received, n.Links = nil, nil, list })
			}
			return
		}
		got = r.fields(sumFields[:]...)
	}
	direction := func(old, now uint32) *uint64 {
		if kib, ok := got[field{old, allLinks}]; ok {
			return pointer(kib*kibibyte, true)
		}
		return pointer(got[field{now, allLinks}], has(got, field{now, allLinks}))
	}
	tx, rx := direction(fieldNVLinkTX, fieldNVLink5TX), direction(fieldNVLinkRX, fieldNVLink5RX)
	if tx == nil && rx == nil && links > 0 {
		tx, rx = r.sum(links, fieldNVLink5TX), r.sum(links, fieldNVLink5RX)
	}
	if r.into.NVLink != nil || tx != nil || rx != nil {
		r.into.NVLink = with(r.into.NVLink, func(n *NVLink) { n.Transmitted, n.Received, n.Links = tx, rx, nil })
	}
}

// linkBytes reads the bytes of each link: up to Hopper in KiB, later in bytes. It reports false where GPU and driver count for
// none of them; an odd answer is no reason to take the sum instead, which would be there twice for that long.
func (r *readout) linkBytes(links uint64, counted bool) (list []NVLinkBytes, supported bool) {
	if !counted {
		links = maxLinks
	}
	links = min(links, maxLinks)
	for _, by := range []struct {
		tx, rx uint32
		unit   uint64
	}{{fieldNVLinkTX, fieldNVLinkRX, kibibyte}, {fieldNVLink5TX, fieldNVLink5RX, 1}} {
		want := make([]field, 0, 2*links)
		for link := range uint32(links) {
			want = append(want, field{by.tx, link}, field{by.rx, link})
		}
		values, err := r.device.Fields(want)
		if r.note(err); err != nil {
			return nil, unexpected(err)
		}
		list = make([]NVLinkBytes, links)
		some := false
		for i, v := range values {
			if r.err == nil {
				r.note(v.err)
			}
			some = some || !errors.Is(v.err, errUnsupported)
			if v.err != nil {
				continue
			}
			if link := &list[want[i].scope]; want[i].id == by.tx {
				link.Transmitted = pointer(v.value*by.unit, true)
			} else {
				link.Received = pointer(v.value*by.unit, true)
			}
		}
		if some {
			return list, true
		}
	}
	return nil, false
}

// sum adds up a field over all links; nil where it is not supported for every one, or the sum would jump as they come
// and go.
func (r *readout) sum(links uint64, id uint32) *uint64 {
	want := make([]field, min(links, maxLinks))
	for i := range want {
		want[i] = field{id, uint32(i)}
	}
	got := r.fields(want...)
	if len(got) != len(want) {
		return nil
	}
	var sum uint64
	for _, v := range got {
		sum += v
	}
	return &sum
}

// maxLinks bounds how many links of NVLink are asked for: NVML_NVLINK_MAX_LINKS.
const maxLinks = 36

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// with returns a changed copy, for the old one may be in a snapshot. A nil one is empty.
func with[T any](old *T, change func(*T)) *T {
	var v T
	if old != nil {
		v = *old
	}
	change(&v)
	return &v
}

func (r *readout) slow() {
	d, dev := r.into, r.device
	d.PowerLimit = byLabel(r, powerLimits[:], optional, dev.PowerLimit)
	d.Threshold = byLabel(r, thresholds[:], optional, dev.Threshold)
	d.FanSpeed = nil
	if fans, ok := optional(r, dev.Fans); ok {
		if fans == 0 {
			r.absent("fans: the GPU has none of its own")
		}
		for fan := range fans {
			speed, ok := optional(r, func() (float64, error) { return dev.FanSpeed(fan) })
			if !ok {
				break // or the next would be published as this one
			}
			d.FanSpeed = append(d.FanSpeed, speed)
		}
	}
	r.memoryErrors()

	replays, hasReplays := optional(r, dev.PCIeReplays)
	generation := byLabel(r, linkStates[:], optional, dev.PCIeGeneration)
	width := byLabel(r, linkStates[:], optional, dev.PCIeWidth)
	if d.PCIe != nil || hasReplays || generation != nil || width != nil {
		d.PCIe = with(d.PCIe, func(p *PCIe) {
			p.Replays, p.Generation, p.Width = pointer(replays, hasReplays), generation, width
		})
	}
	r.slowFields()

	d.MIGMode, d.Instances = "", nil
	if enabled, ok := optional(r, dev.MIGMode); ok {
		d.MIGMode = map[bool]string{true: "enabled", false: "disabled"}[enabled]
		if enabled && r.err == nil {
			var err error
			d.Instances, err = dev.Instances() // some beside an error about others
			r.note(err)
		}
		if !enabled {
			r.absent("MIG: it is disabled")
		}
	}
}

func (r *readout) memoryErrors() {
	d, dev := r.into, r.device
	d.ECC = nil
	for _, kind := range eccTypes {
		for _, scope := range eccScopes {
			if n, ok := optional(r, func() (uint64, error) { return dev.ECC(kind, scope) }); ok {
				d.ECC = append(d.ECC, ECCErrors{Type: kind, Scope: scope, Count: n})
			}
		}
	}
	d.RemappedRows, d.RowRemapPending, d.RowRemapFailure = nil, nil, nil
	if rows, ok := optional(r, dev.RemappedRows); ok {
		d.RemappedRows = map[string]uint64{"correctable": rows.correctable, "uncorrectable": rows.uncorrectable}
		d.RowRemapPending, d.RowRemapFailure = &rows.pending, &rows.failure
	}
	d.RetiredPages = byLabel(r, retirementCauses[:], optional, dev.RetiredPages)
	if d.RetiredPages == nil {
		return
	}
	if pending, ok := optional(r, dev.RetiredPagesPending); ok {
		d.RetiredPages["pending"] = 0
		if pending {
			d.RetiredPages["pending"] = 1
		}
	}
}

// slowFields reads the action that the driver asks for, and of NVLink what goes wrong.
func (r *readout) slowFields() {
	d := r.into
	got := r.fields(
		field{id: fieldRecoveryAction}, field{id: fieldNVLinkCount}, field{id: fieldNVLinkCRCFlit}, field{id: fieldNVLinkCRCData},
		field{id: fieldNVLinkReplay}, field{id: fieldNVLinkRecovery},
	)
	d.RecoveryAction = nil
	if action, ok := got[field{id: fieldRecoveryAction}]; ok && action <= math.MaxInt32 {
		d.RecoveryAction = pointer(int(action), true)
	}
	links, counted := got[field{id: fieldNVLinkCount}]
	if !counted {
		links = maxLinks // the first that the GPU does not have ends the list
	}
	up := r.linksUp(min(links, maxLinks))
	links = uint64(len(up))
	var failures map[string]uint64
	if links > 0 {
		failures = r.linkErrors(got, links)
	}
	if d.NVLink != nil || up != nil || failures != nil {
		d.NVLink = with(d.NVLink, func(n *NVLink) { n.Up, n.Errors = up, failures })
	}
}

// linksUp returns which links are up, for as many as the GPU has, at most n.
func (r *readout) linksUp(n uint64) []bool {
	var up []bool
	for link := range int(n) {
		v, ok := optional(r, func() (bool, error) { return r.device.NVLinkUp(link) })
		if !ok {
			break
		}
		up = append(up, v)
	}
	return up
}

// linkErrors returns the errors of all links by type: the driver's sum where it has one, else that over the links, first
// by fields and then by the call that fields replaced.
func (r *readout) linkErrors(got map[field]uint64, links uint64) map[string]uint64 {
	sums := map[string]uint32{
		"crc_flit": fieldNVLinkCRCFlit, "crc_data": fieldNVLinkCRCData, "replay": fieldNVLinkReplay, "recovery": fieldNVLinkRecovery,
	}
	byLink := map[string][]uint32{"replay": {fieldLinkReplay}, "recovery": {fieldLinkRecovery, fieldLink5Recovery}}
	failures := map[string]uint64{}
	for _, kind := range nvlinkErrors {
		if n, ok := got[field{id: sums[kind]}]; ok {
			failures[kind] = n
			continue
		}
		var sum *uint64
		for _, id := range byLink[kind] {
			if sum = r.sum(links, id); sum != nil {
				break
			}
		}
		if sum == nil {
			sum = r.linkErrorCalls(kind, links)
		}
		if sum != nil {
			failures[kind] = *sum
		}
	}
	if len(failures) == 0 {
		return nil
	}
	return failures
}

// linkErrorCalls adds up errors over all links, a call for each; nil where it is not supported.
func (r *readout) linkErrorCalls(kind string, links uint64) *uint64 {
	var sum uint64
	for link := range int(links) {
		n, ok := optional(r, func() (uint64, error) { return r.device.NVLinkErrors(link, kind) })
		if !ok {
			return nil
		}
		sum += n
	}
	return &sum
}
