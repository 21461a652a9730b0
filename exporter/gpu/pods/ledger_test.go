package pods

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flyball/exporter/gpu"
)

const (
	mig1 = "MIG-00000000-0000-4000-8000-000000000001"
	mig2 = "MIG-00000000-0000-4000-8000-000000000002"
	mig3 = "MIG-00000000-0000-4000-8000-000000000003"
)

// whole is a place on the whole of uuid0.
func whole(pod, container string) place {
	return place{holder: holder{"ml", pod}, container: container, resource: "nvidia.com/gpu", uuid: uuid0, gi: -1}
}

// onMIG is a place on a MIG device of uuid0; on one that is not known for "".
func onMIG(pod, instance string) place {
	p := place{holder: holder{"ml", pod}, container: "server", resource: "nvidia.com/gpu", uuid: uuid0, gi: -1, instance: instance, part: true}
	return p
}

// process is a process of the pod whose name is the letter of its PID: 1 is of a, 2 of b; 0 is of no pod.
func process(pid int, memory uint64, sm float64) gpu.Process {
	p := gpu.Process{PID: pid}
	if memory > 0 {
		p.Memory = &memory
	}
	if sm >= 0 {
		p.SMUtilization = &sm
	}
	return p
}

func whose(pid int) (holder, bool) {
	if pid%10 == 0 {
		return holder{}, false
	}
	return holder{"ml", string(rune('a' + pid%10 - 1))}, true
}

func instance(uuid string, gi int, profile string, used uint64, sm float64) gpu.Instance {
	i := gpu.Instance{UUID: uuid, GI: gi, Profile: profile, Memory: &gpu.Memory{Used: used}}
	if sm >= 0 {
		i.Active = map[string]float64{"sm": sm}
	}
	return i
}

func on(process gpu.Process, gi int) gpu.Process {
	process.GI = &gi
	return process
}

func TestParts(t *testing.T) {
	type told struct{ utilization, memory, share any } // nil for what is not told
	for _, tt := range []struct {
		name   string
		device gpu.Device
		places []place
		want   map[string]told // by pod/container
	}{
		{name: "nobody has it", device: gpu.Device{Utilization: new(0.5)}, want: map[string]told{}},
		{
			name:   "one pod",
			device: gpu.Device{Utilization: new(0.5), Memory: &gpu.Memory{Used: 100}, Processes: []gpu.Process{process(0, 40, 0.2)}},
			places: []place{whole("a", "server")},
			want:   map[string]told{"a/server": {0.5, 100.0, 1.0}},
		},
		{
			name:   "one pod of a GPU that tells nothing",
			places: []place{whole("a", "server")},
			want:   map[string]told{"a/server": {nil, nil, 1.0}},
		},
		{
			name:   "one pod with two replicas in two containers",
			device: gpu.Device{Utilization: new(0.5)},
			places: []place{whole("a", "server"), whole("a", "sidecar")},
			want:   map[string]told{"a/": {0.5, nil, 1.0}},
		},
		{
			name:   "two pods and a process of neither",
			device: gpu.Device{Utilization: new(0.9), Memory: &gpu.Memory{Used: 100}, Processes: []gpu.Process{process(1, 10, 0.25), process(11, 20, 0.25), process(2, 30, 0.25), process(0, 5, 0.25)}},
			places: []place{whole("a", "server"), whole("b", "server")},
			want:   map[string]told{"a/server": {0.5, 30.0, 0.5}, "b/server": {0.25, 30.0, 0.25}},
		},
		{
			name:   "two pods that do nothing",
			device: gpu.Device{Processes: []gpu.Process{process(1, 10, 0), process(2, 30, 0)}},
			places: []place{whole("a", "server"), whole("b", "server")},
			want:   map[string]told{"a/server": {0.0, 10.0, 0.0}, "b/server": {0.0, 30.0, 0.0}},
		},
		{
			name:   "two pods, one without a process: it has no figures",
			device: gpu.Device{Utilization: new(0.9), Processes: []gpu.Process{process(1, 10, 0.4)}},
			places: []place{whole("a", "server"), whole("b", "server")},
			want:   map[string]told{"a/server": {0.4, 10.0, 1.0}},
		},
		{
			name:   "two pods on a GPU without utilisation of processes",
			device: gpu.Device{Utilization: new(0.9), Processes: []gpu.Process{process(1, 10, -1), process(2, 20, -1)}},
			places: []place{whole("a", "server"), whole("b", "server")},
			want:   map[string]told{"a/server": {nil, 10.0, nil}, "b/server": {nil, 20.0, nil}},
		},
		{
			name:   "two pods, processes not read",
			device: gpu.Device{Utilization: new(0.9)},
			places: []place{whole("a", "server"), whole("b", "server")},
			want:   map[string]told{},
		},
		{
			name:   "a process of a pod that was not given the GPU",
			device: gpu.Device{Processes: []gpu.Process{process(1, 10, 0.4), process(3, 10, 0.4)}},
			places: []place{whole("a", "server"), whole("b", "server")},
			want:   map[string]told{"a/server": {0.4, 10.0, 0.5}},
		},
		{
			name:   "processes that overlap",
			device: gpu.Device{Processes: []gpu.Process{process(1, 0, 0.8), process(11, 0, 0.8), process(2, 0, 0.4)}},
			places: []place{whole("a", "server"), whole("b", "server")},
			want:   map[string]told{"a/server": {1.0, nil, 0.8}, "b/server": {0.4, nil, 0.2}},
		},
		{
			name: "MIG: one pod with two devices, one with one",
			device: gpu.Device{Instances: []gpu.Instance{
				instance(mig1, 1, "3g.40gb", 100, 0.5), instance(mig2, 2, "1g.10gb", 10, 0.1), instance(mig3, 3, "2g.20gb", 20, 0.2),
			}},
			places: []place{onMIG("a", mig1), onMIG("a", mig2), onMIG("b", mig3)},
			want:   map[string]told{"a/server": {0.4, 110.0, 0.8}, "b/server": {0.2, 20.0, 0.2}},
		},
		{
			name:   "MIG: what runs in an instance of no pod has its share",
			device: gpu.Device{Instances: []gpu.Instance{instance(mig1, 1, "1g.10gb", 100, 0.5), instance(mig2, 2, "1g.10gb", 10, 0.5)}},
			places: []place{onMIG("a", mig1)},
			want:   map[string]told{"a/server": {0.5, 100.0, 0.5}},
		},
		{
			name:   "MIG without activity (before Hopper): memory alone",
			device: gpu.Device{Instances: []gpu.Instance{instance(mig1, 1, "3g.40gb", 100, -1), instance(mig2, 2, "1g.10gb", 10, 0.5)}},
			places: []place{onMIG("a", mig1), onMIG("b", mig2)},
			want:   map[string]told{"a/server": {nil, 100.0, nil}, "b/server": {0.5, 10.0, nil}},
		},
		{
			name: "MIG: two pods share a device",
			device: gpu.Device{
				Instances: []gpu.Instance{instance(mig1, 1, "3g.40gb", 100, 0.5), instance(mig2, 2, "3g.40gb", 10, 0.5)},
				Processes: []gpu.Process{on(process(1, 30, -1), 1), on(process(2, 40, -1), 1), on(process(2, 5, -1), 2), process(1, 7, -1)},
			},
			places: []place{onMIG("a", mig1), onMIG("b", mig1), onMIG("c", mig2)},
			want:   map[string]told{"a/server": {nil, 30.0, nil}, "b/server": {nil, 40.0, nil}, "c/server": {0.5, 10.0, 0.5}},
		},
		{
			name:   "MIG: a device that is not known is nobody's",
			device: gpu.Device{Utilization: new(0.5), Memory: &gpu.Memory{Used: 1}, Instances: []gpu.Instance{instance(mig1, 1, "1g.10gb", 100, 0.5)}},
			places: []place{onMIG("a", "")},
			want:   map[string]told{},
		},
		{
			name:   "a pod has the whole and another a part that is not known",
			device: gpu.Device{Utilization: new(0.5), Instances: []gpu.Instance{instance(mig1, 1, "1g.10gb", 100, 0.5)}},
			places: []place{whole("a", "server"), onMIG("b", "")},
			want:   map[string]told{},
		},
		{
			name:   "a pod has the whole and another a part",
			device: gpu.Device{Utilization: new(0.5), Instances: []gpu.Instance{instance(mig1, 1, "1g.10gb", 100, 0.5)}},
			places: []place{whole("a", "server"), onMIG("b", mig1)},
			want:   map[string]told{"b/server": {0.5, 100.0, 1.0}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]told{}
			for k, p := range parts(tt.device, tt.places, whose) {
				var w told
				if p.utilization != nil {
					w.utilization = *p.utilization
				}
				if p.memory != nil {
					w.memory = float64(*p.memory)
				}
				if p.share != nil {
					w.share = *p.share
				}
				got[k.pod+"/"+k.container] = w
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(told{}), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWidth(t *testing.T) {
	for profile, want := range map[string]float64{"1g.10gb": 1, "7g.80gb": 7, "1c.3g.40gb": 1, "2c.4g.40gb": 2, "1g.10gb+me": 1, "": 1, "g": 1, "-3g.40gb": 1, "99g.1gb": 1} {
		if got := width(profile); got != want {
			t.Errorf("%q: %v, want %v", profile, got, want)
		}
	}
}

// TestEnergy: the GPU has 100 W idle; each row is 5 s after the one before.
func TestEnergy(t *testing.T) {
	shared := []place{whole("a", "server"), whole("b", "server")}
	type row struct {
		energy      float64 // the GPU's counter
		power       float64
		utilization float64
		processes   []gpu.Process
		places      []place
		gone        bool // no snapshot
		unread      bool // the GPU could not be read
		want        map[string]float64
	}
	for _, tt := range []struct {
		name  string
		watts *float64
		rows  []row
	}{
		{
			name: "one pod, idle power learned",
			rows: []row{
				{energy: 1000, power: 150, places: []place{whole("a", "server")}, want: map[string]float64{"a": 0}},
				{energy: 1500, power: 100, places: []place{whole("a", "server")}, want: map[string]float64{"a": 0}},                      // 500 J are those of 100 W
				{energy: 3000, power: 300, utilization: 1, places: []place{whole("a", "server")}, want: map[string]float64{"a": 1000}},   // 1500 - 500
				{energy: 3200, power: 90, utilization: 0.1, places: []place{whole("a", "server")}, want: map[string]float64{"a": 1000}},  // less than idle is no debt
				{energy: 4200, power: 200, utilization: 0.1, places: []place{whole("a", "server")}, want: map[string]float64{"a": 1500}}, // 90 W were not idle
			},
		},
		{
			name: "never idle: all of it",
			rows: []row{
				{energy: 0, power: 300, utilization: 1, places: []place{whole("a", "server")}, want: map[string]float64{"a": 0}},
				{energy: 1500, power: 300, utilization: 1, places: []place{whole("a", "server")}, want: map[string]float64{"a": 1500}},
			},
		},
		{
			name: "two pods", watts: new(100.0),
			rows: []row{
				{energy: 0, processes: []gpu.Process{process(1, 1, 0.6), process(2, 1, 0.2)}, places: shared, want: map[string]float64{"a": 0, "b": 0}},
				{energy: 1500, processes: []gpu.Process{process(1, 1, 0.6), process(2, 1, 0.2)}, places: shared, want: map[string]float64{"a": 750, "b": 250}},
				{energy: 3000, processes: []gpu.Process{process(0, 1, 0.6), process(2, 1, 0.2)}, places: shared, want: map[string]float64{"a": 750, "b": 500}},
				{energy: 4500, places: shared, want: map[string]float64{"a": 750, "b": 500}}, // no process: nobody's
			},
		},
		{
			name: "a pod goes, comes back, another has been there", watts: new(0.0),
			rows: []row{
				{energy: 0, places: []place{whole("a", "server")}, want: map[string]float64{"a": 0}},
				{energy: 10, places: []place{whole("a", "server")}, want: map[string]float64{"a": 10}},
				{energy: 20, places: []place{whole("b", "server")}, want: map[string]float64{"b": 10}},
				{energy: 30, want: map[string]float64{}},
				{energy: 40, places: []place{whole("a", "server")}, want: map[string]float64{"a": 10}},
			},
		},
		{
			name: "gaps", watts: new(0.0),
			rows: []row{
				{energy: 0, places: []place{whole("a", "server")}, want: map[string]float64{"a": 0}},
				{energy: 10, places: []place{whole("a", "server")}, want: map[string]float64{"a": 10}},
				{gone: true, places: []place{whole("a", "server")}, want: map[string]float64{"a": 10}},
				{energy: 100, places: []place{whole("a", "server")}, want: map[string]float64{"a": 10}}, // what was used meanwhile is not known to be a's
				{energy: 110, places: []place{whole("a", "server")}, want: map[string]float64{"a": 20}},
				{unread: true, energy: 110, places: []place{whole("a", "server")}, want: map[string]float64{"a": 20}},
				{energy: 200, places: []place{whole("a", "server")}, want: map[string]float64{"a": 20}},
				{energy: 5, places: []place{whole("a", "server")}, want: map[string]float64{"a": 20}}, // the driver was loaded again
				{energy: 6, places: []place{whole("a", "server")}, want: map[string]float64{"a": 21}},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger(tt.watts)
			for i, r := range tt.rows {
				s := &gpu.Snapshot{Taken: time.Unix(int64(5*i), 0), Devices: []gpu.Device{{
					UUID: uuid0, Energy: &r.energy, Power: &r.power, Utilization: &r.utilization, Processes: r.processes,
				}}}
				if r.unread {
					s.Devices[0].Error = "GPU is lost"
				}
				if r.gone {
					s = nil
				}
				l.account(s, r.places, whose)
				got := map[string]float64{}
				for k, u := range l.uses {
					if u.energy != nil {
						got[k.pod] = *u.energy
					}
					if (r.gone || r.unread) && (u.utilization != nil || u.memory != nil) {
						t.Errorf("row %d: figures without a reading: %+v", i, u)
					}
				}
				if diff := cmp.Diff(r.want, got, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
					t.Errorf("row %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// TestEnergyOfLateReadings: idle power is reckoned over the time between two readings of the GPU itself, not of another that was
// read meanwhile.
func TestEnergyOfLateReadings(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	l := newLedger(new(100.0))
	places := []place{whole("a", "server")}
	for i, tt := range []struct {
		newest, taken int // seconds
		energy, want  float64
	}{
		{0, 0, 0, 0},
		{5, 0, 0, 0},        // it was not read: nothing is known of this time
		{10, 8, 1000, 200},  // 8 s: 800 J are idle
		{15, 15, 1800, 300}, // 7 s
		{20, 15, 1800, 300}, // not read again
		{25, 25, 2800, 300}, // 10 s at idle
		{30, 29, 3300, 400}, // 4 s
	} {
		l.account(&gpu.Snapshot{Taken: at(tt.newest), Devices: []gpu.Device{
			{UUID: uuid0, Taken: at(tt.taken), Energy: &tt.energy},
			{Index: 1, UUID: "GPU-00000000-0000-4000-8000-0000000000ff", Taken: at(tt.newest), Energy: new(0.0)},
		}}, places, whose)
		got := 0.0
		for _, u := range l.uses {
			got += value(u.energy)
		}
		if got != tt.want {
			t.Errorf("row %d: %v J, want %v", i, got, tt.want)
		}
	}
}

// TestEnergyNeverExceeds: whatever pods and processes come and go, all pods that ever were have no more than the GPU used,
// and no counter falls.
func TestEnergyNeverExceeds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		l := newLedger(nil)
		energy, first := 0.0, 0.0
		before, ended := map[key]float64{}, 0.0
		for step := range 100 {
			energy += r.Float64() * 1000
			d := gpu.Device{UUID: uuid0, Energy: new(energy), Power: new(r.Float64() * 200)}
			if step == 0 {
				first = energy
			}
			var places []place
			if round%2 == 0 {
				d.Utilization = new(float64(r.IntN(3)) / 2)
				for range r.IntN(5) {
					places = append(places, whole(string(rune('a'+r.IntN(5))), "server"))
				}
				for range r.IntN(6) {
					d.Processes = append(d.Processes, process(r.IntN(30), 1, r.Float64()*1.2-0.1))
				}
			} else {
				for i, uuid := range []string{mig1, mig2, mig3} {
					d.Instances = append(d.Instances, instance(uuid, i, fmt.Sprintf("%dg.10gb", i+1), 1, r.Float64()*1.1-0.05))
					for range r.IntN(3) {
						places = append(places, onMIG(string(rune('a'+r.IntN(5))), uuid))
					}
				}
			}
			l.account(&gpu.Snapshot{Taken: time.Unix(int64(step), 0), Devices: []gpu.Device{d}}, places, whose)

			now, total := map[key]float64{}, ended
			for k, u := range l.uses {
				if u.energy != nil {
					now[k] = *u.energy
					total += *u.energy
				}
				if u.energy != nil && *u.energy < before[k] {
					t.Fatalf("round %d, step %d: %v fell from %v to %v", round, step, k, before[k], *u.energy)
				}
			}
			for k, joules := range before {
				if _, there := l.uses[k]; !there {
					ended += joules
					total += joules
				}
			}
			maps.DeleteFunc(before, func(k key, _ float64) bool { return l.uses[k] == nil })
			maps.Copy(before, now)
			if total > energy-first+1e-6 {
				t.Fatalf("round %d, step %d: pods used %v J of %v J", round, step, total, energy-first)
			}
		}
	}
}
