package gpu

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// simulation is a backend of GPUs that a Sim describes. It keeps nothing: what it shows is a function of the time.
type simulation struct {
	*Sim

	start  time.Time // since when is counted
	extras extras
}

func newSimulation(s *Sim, now time.Time, a extras) *simulation {
	return &simulation{Sim: s, start: cmp.Or(s.Start, now.UTC().Truncate(24*time.Hour)), extras: a}
}

func (s *simulation) read(context.Context, tiers) (readings, error) {
	return readings{Driver: s.Driver, CUDA: s.CUDA, From: s.file, Devices: s.devices(time.Now())}, nil
}

// devices are the GPUs at a moment.
func (s *simulation) devices(now time.Time) []Device {
	var all []Device
	index := 0
	for i := range s.GPUs {
		g := &s.GPUs[i]
		for n := range g.Count {
			if d, there := s.device(g, n, index, now); there {
				all = append(all, d)
			}
			index++
		}
	}
	return all
}

// device is one GPU: the nth of its entry, and the index of all. It is not there while it is gone.
func (s *simulation) device(g *simGPU, n, index int, now time.Time) (Device, bool) {
	d := Device{
		Index:    index,
		UUID:     fmt.Sprintf("GPU-51300000-0000-4000-%04x-%012x", uint16(s.Seed), index),
		Vendor:   "sim",
		Name:     g.Name,
		Arch:     g.Arch,
		PCIBusID: fmt.Sprintf("%08X:%02X:00.0", index>>8, index&0xff),
	}
	since := now.Sub(s.start)
	switch g.fault(n, since) {
	case faultGone:
		return Device{}, false
	case faultLost:
		d.Error, d.Lost = "GPU is lost (simulated)", true
		return d, true
	case faultHang:
		d.Error = "no answer (simulated)"
		return d, true
	}

	load := g.Load.at(n, now)
	if load > 0 { // an idle GPU is idle
		load = min(max(load+g.Load.Noise*s.noise(index, now), 0), 1)
	}
	work := g.Load.between(n, s.start, now) // seconds at full load
	d.Power = new(rounded(g.Power.Idle+(g.Power.Max-g.Power.Idle)*load, 1000))
	d.PowerLimit = map[string]float64{"enforced": g.Power.Max, "default": g.Power.Max, "max": g.Power.Max}
	d.Energy = new(rounded(g.Power.Idle*max(0, since.Seconds())+(g.Power.Max-g.Power.Idle)*work, 1000))
	lag := max(time.Duration(g.Temperature.Lag), time.Second)
	warmth := g.Load.between(n, now.Add(-lag), now) / lag.Seconds()
	d.Temperature = map[string]float64{"gpu": math.Round(g.Temperature.Ambient + (g.Temperature.Max-g.Temperature.Ambient)*warmth)}

	capped := load > capAt
	clock := g.Clock.Idle
	pstate := 8
	if load > 0 {
		clock, pstate = g.Clock.Max, 0
	}
	if capped {
		clock = max(g.Clock.Idle, math.Round(g.Clock.Max*(1-(load-capAt))/1e6)*1e6)
	}
	d.Clock = map[string]float64{"graphics": clock, "sm": clock, "mem": g.Clock.Memory}
	d.ClockMax = map[string]float64{"graphics": g.Clock.Max, "sm": g.Clock.Max, "mem": g.Clock.Memory}
	d.PState = &pstate
	d.ClockEvents = map[string]bool{}
	for _, reason := range smiReasons {
		d.ClockEvents[reason.name] = false
	}
	d.ClockEvents["idle"], d.ClockEvents["sw_power_cap"] = load == 0, capped

	used := uint64(g.MemoryUsed * float64(g.Memory))
	d.Memory = &Memory{Total: uint64(g.Memory), Used: used, Free: uint64(g.Memory) - used}
	if len(g.MIG) == 0 {
		d.Utilization = new(rounded(load, 100))
		if share, ok := g.Active["dram"]; ok {
			d.MemoryUtilization = new(rounded(load*share, 100))
		}
	}
	for unit, share := range g.Active {
		if d.Active == nil {
			d.Active = map[string]float64{}
		}
		d.Active[unit] = rounded(load*share, 10_000)
	}
	if g.Occupancy > 0 {
		d.Occupancy = new(rounded(load*g.Occupancy, 10_000))
	}
	g.links(&d, work, s.extras.links)
	g.instances(&d, s.Seed, load)
	if s.extras.processes {
		g.processes(&d, load)
	}
	d.XIDs = g.errors(n, s.start, since)
	return d, true
}

// capAt is the load above which the clock is lowered to keep to the limit of power.
const capAt = 0.9

// rounded keeps so many parts of a unit, as drivers do.
func rounded(v, parts float64) float64 { return math.Round(v*parts) / parts }

func (g *simGPU) links(d *Device, work float64, perLink bool) {
	if p := g.PCIe; p != nil {
		d.PCIe = &PCIe{Received: new(uint64(float64(p.Receive) * work)), Transmitted: new(uint64(float64(p.Transmit) * work)), Replays: new(uint64(0))}
		if p.Generation > 0 {
			d.PCIe.Generation = map[string]int{"current": p.Generation, "max": p.Generation}
		}
		if p.Width > 0 {
			d.PCIe.Width = map[string]int{"current": p.Width, "max": p.Width}
		}
	}
	if l := g.NVLink; l != nil {
		d.NVLink = &NVLink{Errors: map[string]uint64{"crc_flit": 0, "crc_data": 0, "replay": 0, "recovery": 0}}
		received, transmitted := float64(l.Receive)*work, float64(l.Transmit)*work
		if !perLink {
			d.NVLink.Received, d.NVLink.Transmitted = new(uint64(received)), new(uint64(transmitted))
		}
		for range l.Links {
			d.NVLink.Up = append(d.NVLink.Up, true)
			if each := 1 / float64(l.Links); perLink { // all alike
				d.NVLink.Links = append(d.NVLink.Links, NVLinkBytes{Received: new(uint64(received * each)), Transmitted: new(uint64(transmitted * each))})
			}
		}
	}
}

func (g *simGPU) instances(d *Device, seed int64, load float64) {
	if len(g.MIG) > 0 {
		d.MIGMode = "enabled"
	}
	for gi, m := range g.MIG {
		share := 1.0
		if m.Load != nil {
			share = *m.Load
		}
		used := uint64(g.MemoryUsed * float64(m.Memory))
		in := Instance{
			UUID: fmt.Sprintf("MIG-51300000-%04x-4000-%04x-%012x", gi, uint16(seed), d.Index),
			GI:   gi, Profile: m.Profile,
			Memory: &Memory{Total: uint64(m.Memory), Used: used, Free: uint64(m.Memory) - used},
		}
		for _, unit := range []string{"sm", "tensor", "dram"} {
			if of, ok := g.Active[unit]; ok {
				if in.Active == nil {
					in.Active = map[string]float64{}
				}
				in.Active[unit] = rounded(load*share*of, 10_000)
			}
		}
		d.Instances = append(d.Instances, in)
	}
}

func (g *simGPU) processes(d *Device, load float64) {
	for _, p := range g.Processes {
		used := d.Memory.Used
		if p.GI != nil {
			used = d.Instances[*p.GI].Memory.Used
		}
		pid := p.PID + d.Index // one of its own on each GPU
		d.Processes = append(d.Processes, Process{
			PID: pid, GI: p.GI, Comm: p.Comm,
			Memory: new(uint64(p.Memory * float64(used))), SMUtilization: new(rounded(load*p.Load, 100)),
		})
	}
}

// errors are those of the nth GPU of the entry by a time since the start, by number: one number may have several schedules.
func (g *simGPU) errors(n int, start time.Time, since time.Duration) (all []XID) {
	for _, x := range g.XIDs {
		if x.GPU != nil && *x.GPU != n {
			continue
		}
		i := slices.IndexFunc(all, func(e XID) bool { return e.Number == uint64(x.Number) })
		if i < 0 {
			i, all = len(all), append(all, XID{Number: uint64(x.Number)})
		}
		count, last := x.times(since)
		if at := start.Add(last); count > 0 && at.After(all[i].Last) {
			all[i].Last = at
		}
		all[i].Count += count
	}
	return all
}

// fault is what is wrong with the nth GPU of the entry at a time since the start; empty when nothing is.
func (g *simGPU) fault(n int, since time.Duration) string {
	for _, f := range g.Faults {
		if f.GPU != nil && *f.GPU != n {
			continue
		}
		if count, last := f.times(since); count > 0 && since < last+time.Duration(f.For) {
			return f.Kind
		}
	}
	return ""
}

// times says how often it has happened by a time since the start, and when last.
func (s simSchedule) times(since time.Duration) (uint64, time.Duration) {
	at, every := time.Duration(s.At), time.Duration(s.Every)
	switch {
	case since < at:
		return 0, 0
	case every <= 0:
		return 1, at
	}
	again := (since - at) / every
	return uint64(again) + 1, at + again*every
}

// monday is a midnight from which the periods of loads are counted, so that days and weeks begin where people's do.
var monday = time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC)

// phase splits the time of the nth GPU of an entry into whole periods and the seconds since the present one began.
func (l *simLoad) phase(n int, now time.Time) (periods, seconds float64) {
	period := l.curve.period()
	elapsed := float64(now.UnixNano()-monday.UnixNano())/1e9 - float64(n)*time.Duration(l.Stagger).Seconds()
	periods = math.Floor(elapsed / period)
	return periods, min(max(elapsed-periods*period, 0), period)
}

// at is the load of the nth GPU of an entry, without noise.
func (l *simLoad) at(n int, now time.Time) float64 {
	_, seconds := l.phase(n, now)
	return min(max(l.curve.at(seconds), 0), 1)
}

// between is the area under the load in seconds; 0 where the end is before the beginning.
func (l *simLoad) between(n int, from, to time.Time) float64 {
	p0, s0 := l.phase(n, from)
	p1, s1 := l.phase(n, to)
	return max(0, (p1-p0)*l.curve.area(l.curve.period())+l.curve.area(s1)-l.curve.area(s0))
}

// noise is from -1 to 1, another for each GPU and each second.
func (s *simulation) noise(index int, now time.Time) float64 {
	x := mix(uint64(s.Seed) ^ mix(uint64(index)<<40^uint64(now.Unix())))
	return float64(x>>11)/(1<<52) - 1
}

// mix scatters its bits (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
