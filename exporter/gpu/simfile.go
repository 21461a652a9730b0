package gpu

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"flyball/rules/source"
)

// Sim describes GPUs that are simulated. What they show follows from the description, the seed and the time of day alone:
// two flyballs with the same file show the same at the same moment, whenever they were started. ParseSim makes one.
type Sim struct {
	Seed   int64     `yaml:"seed"`   // of the noise, and part of the UUIDs
	Start  time.Time `yaml:"start"`  // since when energy, bytes and errors are counted; zero: the midnight (UTC) before flyball starts
	Driver string    `yaml:"driver"` // the version that is shown
	CUDA   string    `yaml:"cuda"`   // likewise
	GPUs   []simGPU  `yaml:"gpus"`

	file string
}

// simGPU is one kind of GPU, and how many of them there are.
type simGPU struct {
	Count       int                `yaml:"count"`
	Name        string             `yaml:"name"`
	Arch        string             `yaml:"arch"`
	Memory      units.Base2Bytes   `yaml:"memory"`
	MemoryUsed  float64            `yaml:"memory_used"` // share of the memory: servers of models take theirs when they start
	Power       simPower           `yaml:"power"`
	Temperature simTemperature     `yaml:"temperature"`
	Clock       simClock           `yaml:"clock"`
	Load        simLoad            `yaml:"load"`
	Active      map[string]float64 `yaml:"active"`    // share of the load by unit, as Device.Active has them
	Occupancy   float64            `yaml:"occupancy"` // of the SMs at full load; 0: not shown
	PCIe        *simPCIe           `yaml:"pcie"`      // nil: not shown
	NVLink      *simNVLink         `yaml:"nvlink"`    // nil: no links
	MIG         []simInstance      `yaml:"mig"`       // none: MIG is off
	Processes   []simProcess       `yaml:"processes"`
	XIDs        []simXID           `yaml:"xids"`
	Faults      []simFault         `yaml:"faults"`
}

// simPower is drawn by the load, in watts: from idle to max in a straight line.
type simPower struct {
	Idle float64 `yaml:"idle"`
	Max  float64 `yaml:"max"`
}

// simTemperature follows the power, in degrees Celsius: from ambient without any to max at full load.
type simTemperature struct {
	Ambient float64        `yaml:"ambient"`
	Max     float64        `yaml:"max"`
	Lag     model.Duration `yaml:"lag"` // over which the load is averaged
}

// simClock is in hertz.
type simClock struct {
	Idle   float64 `yaml:"idle"`
	Max    float64 `yaml:"max"`
	Memory float64 `yaml:"memory"`
}

// simLoad is how busy a GPU is over time, from 0 to 1: one of the four shapes, again and again. A number alone is constant.
type simLoad struct {
	Constant *float64       `yaml:"constant"`
	Sine     *simSine       `yaml:"sine"`
	Steps    []simPoint     `yaml:"steps"`   // each holds until the next
	Points   []simPoint     `yaml:"points"`  // with straight lines between them
	Period   model.Duration `yaml:"period"`  // after which it begins again; counted from a Monday, midnight (UTC)
	Noise    float64        `yaml:"noise"`   // how far readings are off the curve at most; energy is that of the curve
	Stagger  model.Duration `yaml:"stagger"` // by how much each GPU of the entry is later than the one before

	curve curve
}

func (l *simLoad) Shorthand() any { return &l.Constant }

type simSine struct {
	Min  float64        `yaml:"min"`
	Max  float64        `yaml:"max"`
	Peak model.Duration `yaml:"peak"` // when in the period it is at its max; half of the period if not given
}

type simPoint struct {
	At   model.Duration `yaml:"at"` // since the beginning of the period
	Load float64        `yaml:"load"`
}

// simPCIe is traffic in bytes a second at full load, and the link.
type simPCIe struct {
	Receive    units.Base2Bytes `yaml:"receive"`
	Transmit   units.Base2Bytes `yaml:"transmit"`
	Generation int              `yaml:"generation"`
	Width      int              `yaml:"width"`
}

// simNVLink is the traffic of all links in bytes a second at full load.
type simNVLink struct {
	Links    int              `yaml:"links"`
	Receive  units.Base2Bytes `yaml:"receive"`
	Transmit units.Base2Bytes `yaml:"transmit"`
}

// simInstance is a MIG instance.
type simInstance struct {
	Profile string           `yaml:"profile"`
	Memory  units.Base2Bytes `yaml:"memory"`
	Load    *float64         `yaml:"load"` // over that of the GPU; 1 if not given
}

type simProcess struct {
	Comm   string  `yaml:"comm"`
	PID    int     `yaml:"pid"`
	Memory float64 `yaml:"memory"` // share of what is used of the GPU's memory, or of its instance's
	Load   float64 `yaml:"load"`   // share of the GPU's load
	GI     *int    `yaml:"gi"`     // of MIG
}

// simSchedule is when something happens: at a time after Sim.Start, and every so often from then on.
type simSchedule struct {
	GPU   *int           `yaml:"gpu"` // which one of the entry, from 0; nil: each
	At    model.Duration `yaml:"at"`
	Every model.Duration `yaml:"every"` // 0: once
}

type simXID struct {
	simSchedule `yaml:",inline"`

	Number int `yaml:"number"`
}

// simFault makes a GPU unreadable for a while.
type simFault struct {
	simSchedule `yaml:",inline"`

	Kind string         `yaml:"kind"`
	For  model.Duration `yaml:"for"`
}

// Kinds of simFault.
const (
	faultHang = "hang" // it does not answer
	faultLost = "lost" // it has fallen off the bus and is still listed
	faultGone = "gone" // it is not there
)

// Bounds of a simulation.
const (
	maxSimGPUs   = 256
	maxSimPoints = 1000
	maxSimList   = 64 // of instances, processes, XIDs and faults of one entry
	maxSimText   = 100
	maxSimPeriod = 366 * 24 * time.Hour
)

// SetDefaults gives what the file leaves out: something like an H100.
func (g *simGPU) SetDefaults() {
	*g = simGPU{
		Count: 1, Name: "Simulated GPU", Memory: 80 * units.GiB, MemoryUsed: 0.9,
		Power:       simPower{Idle: 70, Max: 700},
		Temperature: simTemperature{Ambient: 30, Max: 80, Lag: model.Duration(2 * time.Minute)},
		Clock:       simClock{Idle: 345e6, Max: 1980e6, Memory: 2619e6},
		Load:        simLoad{Period: model.Duration(24 * time.Hour)},
		Occupancy:   0.6,
	}
}

// ReadSim reads the description in a file. The error is a source.Errors with every fault at its place, or says why the file
// cannot be read.
func ReadSim(path string) (*Sim, error) {
	text, err := source.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read simulated GPUs: %w", err)
	}
	return ParseSim(path, text)
}

// ParseSim reads a description; name is what errors call it. The error is a source.Errors with every fault at its place.
func ParseSim(name string, text []byte) (*Sim, error) {
	parsed, err := source.Parse(name, text)
	if err != nil {
		return nil, err
	}
	d := parsed.Decoder()
	s := &Sim{Driver: "sim", file: name}
	d.Decode(s)
	s.validate(d)
	if err := d.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Sim) validate(d *source.Decoder) {
	if len(s.GPUs) == 0 && d.Len() == 0 {
		d.FaultAt("gpus", 0, "gpus: missing: expected a list of GPUs, such as [{count: 8, load: 0.5}]")
	}
	for key, text := range map[string]string{"driver": s.Driver, "cuda": s.CUDA} {
		if len(text) > maxSimText {
			d.FaultAt(key, 0, "%s: %d bytes: expected %d at most", key, len(text), maxSimText)
		}
	}
	if s.Start.Year() > 2200 || !s.Start.IsZero() && s.Start.Year() < 1970 {
		d.FaultAt("start", 0, "start is in %d: expected a year from 1970 to 2200", s.Start.Year())
	}
	total := 0
	for i := range s.GPUs {
		g := &s.GPUs[i]
		v := simFaults{d: d, path: fmt.Sprintf("gpus[%d]", i)}
		if g.Count < 1 || g.Count > maxSimGPUs {
			v.add("count", "count is %d: expected from 1 to %d", g.Count, maxSimGPUs)
			continue
		}
		if total += g.Count; total > maxSimGPUs {
			v.add("count", "%d GPUs with those before: expected %d at most", total, maxSimGPUs)
			return
		}
		g.validate(v)
	}
}

// simFaults notes faults below a path.
type simFaults struct {
	d    *source.Decoder
	path string
}

func (v simFaults) add(key, format string, args ...any) {
	v.d.FaultAt(v.path+"."+key, 0, format, args...)
}

func (v simFaults) below(key string) simFaults { return simFaults{v.d, v.path + "." + key} }

func (v simFaults) share(key string, value float64) {
	if !(value >= 0 && value <= 1) {
		v.add(key, "%s is %g: expected from 0 to 1", lastKey(key), value)
	}
}

func (v simFaults) within(key string, value, low, high float64, unit string) {
	if !(value >= low && value <= high) {
		v.add(key, "%s is %s: expected from %s to %s%s", lastKey(key), plainNumber(value), plainNumber(low), plainNumber(high), unit)
	}
}

// plainNumber has an exponent only where the number is very large.
func plainNumber(f float64) string {
	if math.Abs(f) < 1e7 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func (v simFaults) bytes(key string, value, low units.Base2Bytes) {
	if value < low || value > units.PiB {
		v.add(key, "%s is %s: expected from %s to 1PiB", lastKey(key), value, low)
	}
}

func (v simFaults) text(key, value string) {
	if value == "" || len(value) > maxSimText {
		v.add(key, "%s has %d bytes: expected from 1 to %d", lastKey(key), len(value), maxSimText)
	}
}

func (v simFaults) length(key string, n int) {
	if n > maxSimList {
		v.add(key, "%s: %d of them: expected %d at most", lastKey(key), n, maxSimList)
	}
}

func lastKey(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '.' {
			return path[i+1:]
		}
	}
	return path
}

func (g *simGPU) validate(v simFaults) {
	v.text("name", g.Name)
	if len(g.Arch) > maxSimText {
		v.text("arch", g.Arch)
	}
	v.bytes("memory", g.Memory, units.MiB)
	v.share("memory_used", g.MemoryUsed)
	v.within("power.max", g.Power.Max, 0, 1e5, " watts")
	v.within("power.idle", g.Power.Idle, 0, max(0, g.Power.Max), " watts, which is power.max")
	v.within("temperature.ambient", g.Temperature.Ambient, -50, 150, " degrees Celsius")
	v.within("temperature.max", g.Temperature.Max, g.Temperature.Ambient, 150, " degrees Celsius, from temperature.ambient on")
	if time.Duration(g.Temperature.Lag) > time.Hour {
		v.add("temperature.lag", "lag is %s: expected 1h at most", g.Temperature.Lag)
	}
	v.within("clock.max", g.Clock.Max, 0, 1e11, " hertz")
	v.within("clock.idle", g.Clock.Idle, 0, max(0, g.Clock.Max), " hertz, which is clock.max")
	v.within("clock.memory", g.Clock.Memory, 0, 1e11, " hertz")
	v.share("occupancy", g.Occupancy)
	g.Load.validate(v.below("load"))

	if g.Active == nil && !v.d.Has(v.path+".active") {
		g.Active = map[string]float64{"graphics": 1, "sm": 0.85, "tensor": 0.5, "dram": 0.6}
	}
	known := []string{"dram", "fp16", "fp32", "fp64", "graphics", "sm", "tensor"}
	for _, unit := range slices.Sorted(maps.Keys(g.Active)) {
		if !slices.Contains(known, unit) {
			v.add("active."+unit, "no unit %q of a GPU%s", unit, source.DidYouMean(unit, known))
			continue
		}
		v.share("active."+unit, g.Active[unit])
	}
	if g.PCIe != nil {
		v.bytes("pcie.receive", g.PCIe.Receive, 0)
		v.bytes("pcie.transmit", g.PCIe.Transmit, 0)
		v.within("pcie.generation", float64(g.PCIe.Generation), 0, 10, " (0: not shown)")
		v.within("pcie.width", float64(g.PCIe.Width), 0, 64, " lanes (0: not shown)")
	}
	if g.NVLink != nil {
		v.within("nvlink.links", float64(g.NVLink.Links), 1, 64, " links")
		v.bytes("nvlink.receive", g.NVLink.Receive, 0)
		v.bytes("nvlink.transmit", g.NVLink.Transmit, 0)
	}
	g.validateLists(v)
}

func (g *simGPU) validateLists(v simFaults) {
	v.length("mig", len(g.MIG))
	var taken units.Base2Bytes
	for i, m := range g.MIG {
		at := v.below(fmt.Sprintf("mig[%d]", i))
		at.text("profile", m.Profile)
		at.bytes("memory", m.Memory, units.MiB)
		if m.Load != nil {
			at.share("load", *m.Load)
		}
		if taken += min(max(0, m.Memory), units.PiB); taken > g.Memory {
			at.add("memory", "%s in all instances so far: the GPU has %s", taken, g.Memory)
			break
		}
	}
	v.length("processes", len(g.Processes))
	for i, p := range g.Processes {
		at := v.below(fmt.Sprintf("processes[%d]", i))
		at.text("comm", p.Comm)
		at.share("memory", p.Memory)
		at.share("load", p.Load)
		at.within("pid", float64(p.PID), 1, 1<<22, "")
		if p.GI != nil && (*p.GI < 0 || *p.GI >= len(g.MIG)) {
			at.add("gi", "gi is %d: there are %d instances in mig, from 0", *p.GI, len(g.MIG))
		}
	}
	v.length("xids", len(g.XIDs))
	seen := map[int]bool{}
	for i, x := range g.XIDs {
		at := v.below(fmt.Sprintf("xids[%d]", i))
		at.within("number", float64(x.Number), 1, 1000, "")
		x.validate(at, g.Count)
		if x.GPU == nil && seen[x.Number] {
			at.add("number", "number %d is there before for every GPU", x.Number)
		}
		seen[x.Number] = seen[x.Number] || x.GPU == nil
	}
	v.length("faults", len(g.Faults))
	kinds := []string{faultHang, faultLost, faultGone}
	for i, f := range g.Faults {
		at := v.below(fmt.Sprintf("faults[%d]", i))
		if !slices.Contains(kinds, f.Kind) {
			at.add("kind", "kind is %q%s", f.Kind, oneOf(f.Kind, kinds))
		}
		f.validate(at, g.Count)
		if f.For <= 0 || f.Every > 0 && f.For >= f.Every {
			at.add("for", "for is %s: expected more than 0s, and less than every where that is given", f.For)
		}
	}
}

func (s simSchedule) validate(v simFaults, count int) {
	if s.GPU != nil && (*s.GPU < 0 || *s.GPU >= count) {
		v.add("gpu", "gpu is %d: the entry has %d, from 0", *s.GPU, count)
	}
	if s.Every > 0 && time.Duration(s.Every) < time.Second {
		v.add("every", "every is %s: expected 1s at least", s.Every)
	}
}

// oneOf says which words there are, or which was meant.
func oneOf(word string, known []string) string {
	if s := source.DidYouMean(word, known); s != "" {
		return s
	}
	return fmt.Sprintf(": expected one of %v", known)
}

func (l *simLoad) validate(v simFaults) {
	v.share("noise", l.Noise)
	period := time.Duration(l.Period)
	if period < time.Second || period > maxSimPeriod {
		v.add("period", "period is %s: expected from 1s to 366d", l.Period)
		return
	}
	shapes := 0
	for _, has := range []bool{l.Constant != nil, l.Sine != nil, l.Steps != nil, l.Points != nil} {
		if has {
			shapes++
		}
	}
	switch {
	case shapes > 1:
		v.d.FaultAt(v.path, 0, "load has %d shapes: expected one of constant, sine, steps and points", shapes)
	case l.Constant != nil:
		v.share("constant", *l.Constant)
		l.curve = lines{{at: 0, from: *l.Constant, to: *l.Constant, end: period.Seconds()}}
	case l.Sine != nil:
		v.share("sine.min", l.Sine.Min)
		v.share("sine.max", l.Sine.Max)
		if l.Sine.Min > l.Sine.Max {
			v.add("sine.min", "min is %g: expected at most max, which is %g", l.Sine.Min, l.Sine.Max)
		}
		peak := time.Duration(l.Sine.Peak)
		if !v.d.Has(v.path + ".sine.peak") {
			peak = period / 2
		}
		if peak > period {
			v.add("sine.peak", "peak is %s: expected within the period, which is %s", l.Sine.Peak, l.Period)
		}
		l.curve = sine{l.Sine.Min, l.Sine.Max, peak.Seconds(), period.Seconds()}
	case l.Steps != nil:
		l.validatePoints(v, "steps", l.Steps, true)
	case l.Points != nil:
		l.validatePoints(v, "points", l.Points, false)
	default:
		l.curve = lines{{end: period.Seconds()}} // idle
	}
}

func (l *simLoad) validatePoints(v simFaults, key string, points []simPoint, steps bool) {
	if len(points) == 0 || len(points) > maxSimPoints {
		v.add(key, "%s: %d of them: expected from 1 to %d", key, len(points), maxSimPoints)
		return
	}
	before := v.d.Len()
	for i, p := range points {
		at := v.below(fmt.Sprintf("%s[%d]", key, i))
		at.share("load", p.Load)
		if p.At < 0 || p.At >= l.Period {
			at.add("at", "at is %s: expected within the period, which is %s", p.At, l.Period)
		} else if i > 0 && p.At <= points[i-1].At {
			at.add("at", "at is %s: expected later than the one before, which is at %s", p.At, points[i-1].At)
		}
	}
	if v.d.Len() == before {
		l.curve = newLines(points, time.Duration(l.Period).Seconds(), steps)
	}
}

// curve is a load over one period, in seconds since its beginning.
type curve interface {
	at(phase float64) float64
	area(phase float64) float64 // under the curve from the beginning of the period to here
	period() float64
}

// sine swings between min and max.
type sine struct{ min, max, peak, length float64 }

func (s sine) at(phase float64) float64 {
	return s.min + (s.max-s.min)*(1+math.Cos(2*math.Pi*(phase-s.peak)/s.length))/2
}

func (s sine) area(phase float64) float64 {
	w := 2 * math.Pi / s.length
	return (s.min+s.max)/2*phase + (s.max-s.min)/2*(math.Sin(w*(phase-s.peak))+math.Sin(w*s.peak))/w
}

func (s sine) period() float64 { return s.length }

// lines is a load made of straight lines, each beginning where the one before ends; the first begins at 0, and the last
// ends with the period.
type lines []line

type line struct {
	at, end  float64
	from, to float64 // the load at its ends
	before   float64 // the area under the lines before it
}

// newLines joins points, and the last of them with the first of the next period.
func newLines(points []simPoint, period float64, steps bool) lines {
	seconds := func(p simPoint) float64 { return time.Duration(p.At).Seconds() }
	first, last := points[0], points[len(points)-1]
	lead := line{at: 0, end: seconds(first), from: last.Load, to: last.Load} // until the first point
	tail := line{at: seconds(last), end: period, from: last.Load, to: last.Load}
	if !steps {
		gap := period - seconds(last) + seconds(first)
		across := last.Load + (first.Load-last.Load)*(period-seconds(last))/gap // where the period ends
		lead.from, lead.to, tail.to = across, first.Load, across
	}
	var all lines
	add := func(l line) {
		if l.end <= l.at {
			return
		}
		if n := len(all); n > 0 {
			l.before = all[n-1].before + all[n-1].area(all[n-1].end)
		}
		all = append(all, l)
	}
	add(lead)
	for i := range len(points) - 1 {
		l := line{at: seconds(points[i]), end: seconds(points[i+1]), from: points[i].Load, to: points[i+1].Load}
		if steps {
			l.to = l.from
		}
		add(l)
	}
	add(tail)
	return all
}

func (l line) load(phase float64) float64 {
	return l.from + (l.to-l.from)*(phase-l.at)/(l.end-l.at)
}

func (l line) area(phase float64) float64 { return (l.from + l.load(phase)) / 2 * (phase - l.at) }

func (ls lines) find(phase float64) line {
	i, _ := slices.BinarySearchFunc(ls, phase, func(l line, phase float64) int {
		if l.end <= phase {
			return -1
		}
		return 1
	})
	return ls[min(i, len(ls)-1)]
}

func (ls lines) at(phase float64) float64 { return ls.find(phase).load(phase) }

func (ls lines) area(phase float64) float64 {
	l := ls.find(phase)
	return l.before + l.area(phase)
}

func (ls lines) period() float64 { return ls[len(ls)-1].end }
