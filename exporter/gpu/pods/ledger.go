package pods

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"flyball/exporter/gpu"
)

// key is what the figures of a pod are kept by: one GPU.
type key struct {
	uuid string
	holder
	container string // empty where several containers of the pod have the GPU
}

// use is what a pod makes of a GPU. What is not known is nil.
type use struct {
	index       int
	utilization *float64 // ratio of what the pod has: a GPU, or parts of one
	memory      *uint64  // bytes
	energy      *float64 // joules since the pod had the GPU
}

// part is a pod's part in what a GPU does at one moment.
type part struct {
	utilization *float64
	memory      *uint64
	share       *float64 // of the energy that the GPU uses above idle, from 0 to 1; nil where it is not known
}

// ledger is what is kept of the pods from one snapshot to the next. It is used by one goroutine at a time.
type ledger struct {
	idleWatts *float64           // of each GPU; nil to learn it
	idle      map[string]float64 // the least power seen while nothing ran, by UUID
	last      map[string]reading // by UUID
	uses      map[key]*use
}

// reading is a GPU's energy at one moment.
type reading struct {
	energy float64 // joules
	taken  time.Time
}

func newLedger(idleWatts *float64) *ledger {
	return &ledger{idleWatts: idleWatts, idle: map[string]float64{}, last: map[string]reading{}, uses: map[key]*use{}}
}

// account brings the ledger to a snapshot; nil where there is none, and then what was used meanwhile is nobody's. whose
// tells the pod of a process.
func (l *ledger) account(s *gpu.Snapshot, places []place, whose finder) {
	byGPU := map[string][]place{}
	kept := map[key]*use{}
	for k, index := range keys(places) {
		u := &use{index: index}
		if old := l.uses[k]; old != nil {
			u.energy = old.energy
		}
		kept[k] = u
	}
	for _, p := range places {
		byGPU[p.uuid] = append(byGPU[p.uuid], p)
	}
	l.uses = kept

	last := l.last
	l.last = map[string]reading{}
	if s == nil {
		return
	}
	for _, d := range s.Devices {
		if d.Error != "" || d.UUID == "" {
			continue
		}
		active, known := l.active(d, taken(d, s), last)
		for k, p := range parts(d, byGPU[d.UUID], whose) {
			u := l.uses[k]
			u.utilization, u.memory = p.utilization, p.memory
			if p.share == nil || d.Energy == nil {
				continue
			}
			energy := 0.0
			if u.energy != nil {
				energy = *u.energy
			}
			if known {
				energy += active * *p.share
			}
			u.energy = &energy
		}
	}
}

// taken is when the GPU was read, which may be before the newest of the snapshot.
func taken(d gpu.Device, s *gpu.Snapshot) time.Time {
	if d.Taken.IsZero() {
		return s.Taken
	}
	return d.Taken
}

// active returns the energy that a GPU used since the snapshot before, less what it would have used idle, and nothing where
// its counter began again. known is false where there is no snapshot before.
func (l *ledger) active(d gpu.Device, taken time.Time, last map[string]reading) (joules float64, known bool) {
	if idle(d) && d.Power != nil && *d.Power >= 0 {
		if least, seen := l.idle[d.UUID]; !seen || *d.Power < least {
			l.idle[d.UUID] = *d.Power
		}
	}
	if d.Energy == nil || math.IsNaN(*d.Energy) || math.IsInf(*d.Energy, 0) {
		return 0, false
	}
	now := reading{energy: *d.Energy, taken: taken}
	l.last[d.UUID] = now
	before, seen := last[d.UUID]
	if !seen || now.taken.Before(before.taken) {
		return 0, false
	}
	watts := l.idle[d.UUID] // 0 before it was ever seen idle: a GPU that never is runs for its pods alone
	if l.idleWatts != nil {
		watts = *l.idleWatts
	}
	return max(0, now.energy-before.energy-watts*now.taken.Sub(before.taken).Seconds()), true
}

// idle reports whether nothing runs on the GPU. A GPU that is parted by MIG has no utilisation as a whole.
func idle(d gpu.Device) bool {
	if d.Utilization != nil {
		return *d.Utilization == 0
	}
	for _, i := range d.Instances {
		if sm, ok := i.Active["sm"]; !ok || sm != 0 {
			return false
		}
	}
	return len(d.Instances) > 0
}

// keys returns what figures may be kept by, with the index of the GPU.
func keys(places []place) map[key]int {
	type of struct {
		uuid string
		holder
	}
	containers := map[of]string{}
	index := map[of]int{}
	for _, p := range places {
		o := of{p.uuid, p.holder}
		if c, seen := containers[o]; seen && c != p.container {
			containers[o] = ""
		} else {
			containers[o] = p.container
		}
		index[o] = p.index
	}
	all := make(map[key]int, len(containers))
	for o, c := range containers {
		all[key{o.uuid, o.holder, c}] = index[o]
	}
	return all
}

// parts divides what a GPU does among the pods that have it, by key. A pod of which nothing can be told has no part.
func parts(d gpu.Device, places []place, whose finder) map[key]part {
	all := map[key]part{}
	byHolder := map[holder]key{}
	for k := range keys(places) {
		byHolder[k.holder] = k
	}
	whole, byInstance, unknown := holders(places)
	switch {
	case len(places) == 0:
	case len(byInstance) == 0 && !unknown && len(whole) == 1:
		p := part{utilization: d.Utilization, share: new(1.0)}
		if d.Memory != nil {
			p.memory = &d.Memory.Used
		}
		all[byHolder[whole[0]]] = p
	case len(byInstance) == 0 && !unknown:
		shared(d.Processes, byHolder, whose, all)
	default:
		instances(d, byInstance, byHolder, whose, all)
	}
	return all
}

// holders returns who has the whole GPU, who has which MIG device by its UUID, and whether somebody has a part that is not
// known.
func holders(places []place) (whole []holder, byInstance map[string][]holder, unknown bool) {
	byInstance = map[string][]holder{}
	add := func(to []holder, o holder) []holder {
		if slices.Contains(to, o) {
			return to
		}
		return append(to, o)
	}
	for _, p := range places {
		switch {
		case !p.part:
			whole = add(whole, p.holder)
		case p.instance != "":
			byInstance[p.instance] = add(byInstance[p.instance], p.holder)
		default:
			unknown = true
		}
	}
	return whole, byInstance, unknown
}

// shared divides a GPU that several pods have, by their processes. The share of a process is its part in the sum of all,
// those of no pod too.
func shared(list []gpu.Process, byHolder map[holder]key, whose finder, all map[key]part) {
	total := 0.0
	for _, process := range list {
		if process.SMUtilization != nil {
			total += max(0, *process.SMUtilization)
		}
	}
	for _, process := range list {
		o, ok := whose(process.PID)
		if !ok {
			continue
		}
		k, ok := byHolder[o]
		if !ok {
			continue // of a pod that has not been given the GPU and uses it all the same
		}
		p := all[k]
		if process.Memory != nil {
			p.memory = sum(p.memory, *process.Memory)
		}
		if process.SMUtilization != nil {
			sm := max(0, *process.SMUtilization)
			p.utilization = new(min(1, value(p.utilization)+sm))
			share := value(p.share)
			if total > 0 {
				share += sm / total
			}
			p.share = new(min(1, share))
		}
		all[k] = p
	}
}

// instances divides a GPU that is parted by MIG. A pod that has a MIG device for itself has what that does; of one that is
// shared only the memory is told, by the processes, since NVML tells no utilisation of processes under MIG.
func instances(d gpu.Device, byInstance map[string][]holder, byHolder map[holder]key, whose finder, all map[key]part) {
	total, told := 0.0, true
	for _, i := range d.Instances {
		sm, ok := i.Active["sm"]
		total += sm * width(i.Profile)
		told = told && ok
	}
	weight := map[key]float64{} // of the MIG devices whose utilisation is in a pod's part
	blind := map[key]bool{}     // pods with a MIG device whose utilisation is not known
	for _, i := range d.Instances {
		who := byInstance[i.UUID]
		if len(who) != 1 {
			for _, o := range who {
				blind[byHolder[o]] = true
			}
			if len(who) > 1 {
				memoryOf(d, i, who, byHolder, whose, all)
			}
			continue
		}
		k := byHolder[who[0]]
		p := all[k]
		if i.Memory != nil {
			p.memory = sum(p.memory, i.Memory.Used)
		}
		if sm, ok := i.Active["sm"]; ok {
			p.utilization = new((value(p.utilization)*weight[k] + sm*width(i.Profile)) / (weight[k] + width(i.Profile)))
			weight[k] += width(i.Profile)
			share := value(p.share)
			if total > 0 {
				share += sm * width(i.Profile) / total
			}
			p.share = new(min(1, share))
		} else {
			blind[k] = true
		}
		all[k] = p
	}
	for k, p := range all {
		if blind[k] {
			p.utilization = nil
		}
		if blind[k] || !told {
			p.share = nil
		}
		all[k] = p
	}
}

// memoryOf adds the memory of the processes on a shared MIG device. Processes are told by GPU instance, so where that has
// several compute instances it is not known on which of them they are, and none is counted.
func memoryOf(d gpu.Device, i gpu.Instance, who []holder, byHolder map[holder]key, whose finder, all map[key]part) {
	for _, other := range d.Instances {
		if other.GI == i.GI && other.UUID != i.UUID {
			return
		}
	}
	for _, process := range d.Processes {
		if process.GI == nil || *process.GI != i.GI || process.Memory == nil {
			continue
		}
		o, ok := whose(process.PID)
		if !ok {
			continue
		}
		if slices.Contains(who, o) {
			p := all[byHolder[o]]
			p.memory = sum(p.memory, *process.Memory)
			all[byHolder[o]] = p
		}
	}
}

// width returns how many slices of a GPU's SMs a profile has: 2 for 2g.20gb, 1 for 1c.2g.20gb. It is 1 where the profile
// is not told, so that all such devices count alike.
func width(profile string) float64 {
	for _, unit := range [...]string{"c", "g"} {
		digits, _, found := strings.Cut(profile, unit)
		if n, err := strconv.Atoi(digits); found && err == nil && n > 0 && n <= 16 {
			return float64(n)
		}
	}
	return 1
}

func value(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
}

func sum(p *uint64, more uint64) *uint64 {
	if p != nil {
		more += *p
	}
	return &more
}
