package gpu

import (
	"math"
	"time"
)

// The driver's counters begin again when it is loaded again, and some of them wrap. The counters below do neither: they
// count from the first reading on, and what they gain between two readings is what the GPU can have done in that time.

// The most that a GPU can do, with room for the next generations: more between two readings is not an increase but
// another counter.
const (
	maxPower  = 10e3 // watts
	maxPCIe   = 5e11 // bytes a second in one direction; PCIe 7.0 x16 has 242e9
	maxNVLink = 5e12 // bytes a second in one direction by all links; NVLink 6 has 1.8e12
)

// widths are the bits after which a counter may wrap. NVML says of its PCIe counters that they can, and not when: seen
// are counters of 32 bits, also where they are shown in bytes and count KiB, which makes 42.
var widths = [...]uint{32, 42}

// accumulator is a counter that never goes back.
type accumulator struct {
	rate  float64 // the most that it can gain in a second
	wraps bool

	seen     bool // raw and at are those of a reading
	raw      float64
	at       time.Time
	top      float64 // the highest raw value: the counter is wide enough for it
	reloaded bool    // the driver was loaded again since: a value that is lower has begun again
	total    float64
}

// add takes a reading and returns the counter. Of a counter that begins again, what it has reached since is added if that
// is plausible. A counter of 32 bits that wraps more than once between two readings is short by those rounds, which
// nothing tells.
func (a *accumulator) add(raw float64, at time.Time) float64 {
	if !a.seen {
		a.seen, a.raw, a.at, a.top = true, raw, at, raw
		return a.total
	}
	// A second more than has passed: the driver updates its counters in steps.
	most := a.rate * (max(at.Sub(a.at).Seconds(), 0) + 1)
	gain := raw - a.raw
	if gain < 0 {
		gain = a.after(raw, most)
	}
	if gain >= 0 && gain <= most {
		a.total += gain
	}
	a.raw, a.at, a.top, a.reloaded = raw, at, max(a.top, raw), false
	return a.total
}

// after returns the gain where the raw value went back: it wrapped, or begins again.
func (a *accumulator) after(raw, most float64) float64 {
	if a.wraps && !a.reloaded {
		for _, bits := range widths {
			size := math.Ldexp(1, int(bits))
			if gain := size - a.raw + raw; a.top < size && gain <= most {
				return gain
			}
		}
	}
	return raw
}

// totals are the counters of one GPU.
type totals struct {
	energy                            accumulator
	pcieTransmitted, pcieReceived     accumulator
	nvlinkTransmitted, nvlinkReceived accumulator
	links                             []linkTotals // of NVLink, where those of each are read
}

// linkTotals are the counters of one link.
type linkTotals struct{ transmitted, received accumulator }

func newTotals() totals {
	pcie := accumulator{rate: maxPCIe, wraps: true}
	nvlink := accumulator{rate: maxNVLink}
	return totals{
		energy:          accumulator{rate: maxPower},
		pcieTransmitted: pcie, pcieReceived: pcie,
		nvlinkTransmitted: nvlink, nvlinkReceived: nvlink,
	}
}

// reload notes that the driver may have been loaded again.
func (t *totals) reload() {
	for _, a := range []*accumulator{&t.energy, &t.pcieTransmitted, &t.pcieReceived, &t.nvlinkTransmitted, &t.nvlinkReceived} {
		a.reloaded = true
	}
	for i := range t.links {
		t.links[i].transmitted.reloaded, t.links[i].received.reloaded = true, true
	}
}

// apply replaces the driver's counters in d with these. What d points to is left as it is.
func (t *totals) apply(d *Device, at time.Time) {
	if d.Energy != nil {
		v := t.energy.add(*d.Energy, at)
		d.Energy = &v
	}
	if d.PCIe != nil {
		p := *d.PCIe
		p.Transmitted = t.pcieTransmitted.bytes(p.Transmitted, at)
		p.Received = t.pcieReceived.bytes(p.Received, at)
		d.PCIe = &p
	}
	if d.NVLink != nil {
		l := *d.NVLink
		l.Transmitted = t.nvlinkTransmitted.bytes(l.Transmitted, at)
		l.Received = t.nvlinkReceived.bytes(l.Received, at)
		l.Links = t.applyLinks(l.Links, at)
		d.NVLink = &l
	}
}

// applyLinks returns the counters of each link.
func (t *totals) applyLinks(raw []NVLinkBytes, at time.Time) []NVLinkBytes {
	if raw == nil {
		return nil
	}
	for len(t.links) < len(raw) {
		one := accumulator{rate: maxNVLink}
		t.links = append(t.links, linkTotals{one, one})
	}
	list := make([]NVLinkBytes, len(raw))
	for i, l := range raw {
		list[i] = NVLinkBytes{t.links[i].transmitted.bytes(l.Transmitted, at), t.links[i].received.bytes(l.Received, at)}
	}
	return list
}

// bytes is add for what may not be there.
func (a *accumulator) bytes(raw *uint64, at time.Time) *uint64 {
	if raw == nil {
		return nil
	}
	v := uint64(a.add(float64(*raw), at))
	return &v
}
