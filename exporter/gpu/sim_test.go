package gpu

import (
	"errors"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

const exampleSim = "../../examples/gpu-sim/gpus.yml"

func parseSim(t *testing.T, text string) *Sim {
	t.Helper()
	s, err := ParseSim("gpus.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSim is the example, on a Wednesday morning.
func TestSim(t *testing.T) {
	s, err := ReadSim(exampleSim)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 2, 4, 10, 30, 0, 0, time.UTC)))
		lines, logger := newLog()
		c := New(Options{Backend: BackendSim, Sim: s, Processes: true, Logger: logger})
		run(t, c)
		synctest.Wait()
		lines.await(t, `level=WARN msg="GPUs are simulated`)
		lines.await(t, "reading GPUs")
		lines.quiet(t)
		golden(t, "sim.json", devicesJSON(t, newSimulation(s, time.Now(), extras{processes: true}).devices(time.Now())))
		golden(t, "sim.prom", scrape(t, c))
	})
}

// TestSimNVLinkPerLink: the bytes of each link are there in the place of their sum, and come to it.
func TestSimNVLinkPerLink(t *testing.T) {
	s, err := ReadSim(exampleSim)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 2, 4, 10, 30, 0, 0, time.UTC)
	sums, links := newSimulation(s, at, extras{}).devices(at), newSimulation(s, at, extras{links: true}).devices(at)
	some := false
	for i, d := range links {
		if d.NVLink == nil {
			continue
		}
		some = true
		var tx, rx uint64
		for _, l := range d.NVLink.Links {
			tx, rx = tx+*l.Transmitted, rx+*l.Received
		}
		n := uint64(len(d.NVLink.Links)) // of bytes that are cut off
		if sum := sums[i].NVLink; *sum.Transmitted-tx > n || *sum.Received-rx > n || tx == 0 || d.NVLink.Transmitted != nil || sum.Links != nil || int(n) != len(d.NVLink.Up) {
			t.Errorf("GPU %d: %d links sent %d and received %d bytes, want %d and %d", i, n, tx, rx, *sum.Transmitted, *sum.Received)
		}
	}
	if !some {
		t.Error("no GPU has links")
	}
}

// TestSimExample: each key that a file may have is in the example.
func TestSimExample(t *testing.T) {
	text, err := os.ReadFile(exampleSim)
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		for i, c := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 0 {
				used[c.Value] = true
				continue
			}
			walk(c)
		}
	}
	walk(&document)
	used["constant"] = strings.Contains(string(text), "constant:")
	seen := map[reflect.Type]bool{}
	var keys func(typ reflect.Type)
	keys = func(typ reflect.Type) {
		for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice}, typ.Kind()) {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if tag != "" && !used[tag] {
				t.Errorf("%s of %s is not in the example", tag, typ)
			}
			if f.Tag.Get("yaml") != "" {
				keys(f.Type)
			}
		}
	}
	keys(reflect.TypeFor[Sim]())
}

// TestSimClockwork: what is shown is a function of the file and the time.
func TestSimClockwork(t *testing.T) {
	text, err := os.ReadFile(exampleSim)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	one := newSimulation(parseSim(t, string(text)), at.Add(-time.Hour), extras{})
	two := newSimulation(parseSim(t, string(text)), at.Add(-30*24*time.Hour), extras{})
	_ = two.devices(at.Add(-time.Minute)) // one that runs for longer
	if diff := cmp.Diff(one.devices(at), two.devices(at)); diff != "" {
		t.Errorf("two that were started at other times differ:\n%s", diff)
	}
	other := newSimulation(parseSim(t, strings.Replace(string(text), "seed: 7", "seed: 8", 1)), at, extras{})
	a, b := one.devices(at), other.devices(at)
	if *a[0].Power == *b[0].Power || a[0].UUID == b[0].UUID {
		t.Error("another seed makes no difference")
	}
	if *a[0].Power == *a[1].Power {
		t.Error("two GPUs of an entry draw the same power")
	}
}

func TestSimLoad(t *testing.T) {
	day := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC) // a Monday
	for _, tt := range []struct {
		name, load string
		want       map[string]float64 // by time since midnight
	}{
		{"a number", "0.25", map[string]float64{"0s": 0.25, "13h": 0.25}},
		{"none", "{}", map[string]float64{"0s": 0, "13h": 0}},
		{"sine", "{sine: {min: 0.1, max: 0.9, peak: 14h}}", map[string]float64{"14h": 0.9, "2h": 0.1, "8h": 0.5, "38h": 0.9}},
		{"sine without a peak", "{sine: {min: 0, max: 1}, period: 10m}", map[string]float64{"5m": 1, "10m": 0, "2m30s": 0.5}},
		{"sine that begins at its peak", "{sine: {min: 0, max: 1, peak: 0s}}", map[string]float64{"0s": 1, "12h": 0}},
		{"steps", "{steps: [{at: 6h, load: 0.5}, {at: 20h, load: 0.1}]}", map[string]float64{"0s": 0.1, "6h": 0.5, "19h59m59s": 0.5, "20h": 0.1, "30h": 0.5}},
		{"points", "{points: [{at: 6h, load: 0.2}, {at: 18h, load: 0.8}]}", map[string]float64{"6h": 0.2, "12h": 0.5, "18h": 0.8, "24h": 0.5, "0s": 0.5, "3h": 0.35}},
		{"points from the beginning", "{points: [{at: 0s, load: 0}, {at: 12h, load: 1}]}", map[string]float64{"0s": 0, "6h": 0.5, "12h": 1, "18h": 0.5}},
		{"one point", "{points: [{at: 5h, load: 0.4}]}", map[string]float64{"0s": 0.4, "5h": 0.4, "20h": 0.4}},
		{"a week", "{steps: [{at: 0s, load: 0.1}, {at: 5d, load: 0.9}], period: 7d}", map[string]float64{"0s": 0.1, "120h": 0.9, "168h": 0.1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &parseSim(t, "gpus: [{power: {idle: 100, max: 500}, load: "+tt.load+"}]").GPUs[0]
			for since, want := range tt.want {
				d, err := time.ParseDuration(since)
				if err != nil {
					t.Fatal(err)
				}
				if got := g.Load.at(0, day.Add(d)); math.Abs(got-want) > 1e-9 {
					t.Errorf("at %s: %g, want %g", since, got, want)
				}
			}
			// Energy is the power over time, whatever the shape: here summed up minute by minute over a day and a half.
			s := newSimulation(&Sim{GPUs: []simGPU{*g}, Start: day}, day, extras{})
			sum := 0.0
			for i := range time.Duration(36 * 60) {
				sum += 60 * *s.devices(day.Add(i*time.Minute + 30*time.Second))[0].Power
			}
			if got := *s.devices(day.Add(36 * time.Hour))[0].Energy; math.Abs(got-sum) > sum/1e5 {
				t.Errorf("energy after 36h: %g J, want %g J", got, sum)
			}
		})
	}
}

// TestSimLag: the temperature follows the load, not at once.
func TestSimLag(t *testing.T) {
	s := parseSim(t, "gpus: [{temperature: {ambient: 20, max: 80, lag: 2m}, load: {steps: [{at: 0s, load: 0}, {at: 1h, load: 1}]}}]")
	day := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	var got []float64
	for _, minute := range []int{59, 60, 61, 62, 63} {
		got = append(got, newSimulation(s, day, extras{}).devices(day.Add(time.Duration(minute) * time.Minute))[0].Temperature["gpu"])
	}
	if diff := cmp.Diff([]float64{20, 20, 50, 80, 80}, got); diff != "" {
		t.Errorf("temperatures (-want +got):\n%s", diff)
	}
}

// TestSimSchedule: faults come and go as the file says, through the collector.
func TestSimSchedule(t *testing.T) {
	s := parseSim(t, `
start: 2000-01-01T00:00:00Z
gpus:
- count: 4
  load: 0.5
  xids: [{gpu: 0, number: 79, at: 1m, every: 2m}]
  faults:
  - {gpu: 1, kind: hang, at: 1m, for: 1m, every: 10m}
  - {gpu: 2, kind: lost, at: 2m, for: 1m}
  - {gpu: 3, kind: gone, at: 3m, for: 1m}
`)
	synctest.Test(t, func(t *testing.T) {
		lines, logger := newLog()
		c := New(Options{Backend: BackendSim, Sim: s, Logger: logger})
		run(t, c)
		synctest.Wait()
		lines.await(t, "simulated")
		lines.await(t, "reading GPUs")
		began := time.Now()
		xids := map[time.Duration]uint64{}
		for minute := range time.Duration(5) {
			time.Sleep(minute*time.Minute + 30*time.Second - time.Since(began))
			synctest.Wait()
			for _, d := range c.Snapshot().Devices {
				if d.Index == 0 {
					xids[minute] = d.XIDs[0].Count
				}
			}
		}
		for _, want := range []string{
			`level=WARN msg="GPU cannot be read" uuid=GPU-51300000-0000-4000-0000-000000000001 gpu=1 err="no answer (simulated)"`,
			`level=INFO msg="GPU is read again" uuid=GPU-51300000-0000-4000-0000-000000000001`,
			`level=WARN msg="GPU cannot be read" uuid=GPU-51300000-0000-4000-0000-000000000002 gpu=2 err="GPU is lost (simulated)"`,
			`level=INFO msg="GPU is read again" uuid=GPU-51300000-0000-4000-0000-000000000002`,
			`level=WARN msg="GPU cannot be read" uuid=GPU-51300000-0000-4000-0000-000000000003 gpu=3 err="it is not there any more"`,
			`level=INFO msg="GPU is read again" uuid=GPU-51300000-0000-4000-0000-000000000003`,
		} {
			lines.await(t, want)
		}
		lines.quiet(t)
		if diff := cmp.Diff(map[time.Duration]uint64{0: 0, 1: 1, 2: 1, 3: 2, 4: 2}, xids); diff != "" {
			t.Errorf("XIDs by minute (-want +got):\n%s", diff)
		}
	})
}

// TestSimXIDSchedules: an error of one number that happens by several schedules is one counter.
func TestSimXIDSchedules(t *testing.T) {
	s := parseSim(t, `
start: 2000-01-01T00:00:00Z
gpus:
- count: 2
  xids: [{gpu: 0, number: 79, at: 3m}, {number: 79, at: 1m, every: 10m}, {number: 13, at: 1h}, {gpu: 0, number: 79, at: 5m}]
`)
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	var got [][]XID
	for _, d := range newSimulation(s, start, extras{}).devices(start.Add(6 * time.Minute)) {
		got = append(got, d.XIDs)
	}
	want := [][]XID{
		{{Number: 79, Count: 3, Last: start.Add(5 * time.Minute)}, {Number: 13}},
		{{Number: 79, Count: 1, Last: start.Add(time.Minute)}, {Number: 13}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("XIDs by GPU (-want +got):\n%s", diff)
	}
}

// TestSimFaults: all that is wrong with a file is said at once, each at its place.
func TestSimFaults(t *testing.T) {
	text, err := os.ReadFile("testdata/sim.bad.yml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseSim("gpus.yml", text)
	if _, ok := errors.AsType[source.Errors](err); !ok {
		t.Fatalf("error %v, want one of places", err)
	}
	golden(t, "sim.bad.txt", err.Error()+"\n")

	for text, want := range map[string]string{
		"":                                  "gpus: missing",
		"gpus: []":                          "gpus.yml:1:1: gpus: missing",
		"gpus: [{}":                         "gpus.yml:1:",
		"a: 1\n---\nb: 2":                   "a second YAML document",
		"gpus: [{count: 200}, {count: 57}]": "gpus.yml:1:30: 257 GPUs with those before: expected 256 at most",
	} {
		if _, err := ParseSim("gpus.yml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := ReadSim("testdata/none.yml"); err == nil || !strings.HasPrefix(err.Error(), "read simulated GPUs: ") {
		t.Errorf("ReadSim of no file: %v", err)
	}
}

// FuzzSim: a file is refused, or what it describes can be shown at any time.
func FuzzSim(f *testing.F) {
	example, err := os.ReadFile(exampleSim)
	if err != nil {
		f.Fatal(err)
	}
	bad, err := os.ReadFile("testdata/sim.bad.yml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(example), int64(1_790_000_000))
	f.Add(string(bad), int64(0))
	f.Add("gpus: [{load: 1, count: 2, faults: [{kind: gone, at: 1s, for: 1s, every: 2s}]}]", int64(1))
	f.Add("gpus: [{load: {points: [{at: 1ms, load: 1}], period: 1s}, temperature: {lag: 0s}}]", int64(-1))
	f.Fuzz(func(t *testing.T, text string, unix int64) {
		s, err := ParseSim("gpus.yml", []byte(text))
		if err != nil {
			return
		}
		at := time.Unix(unix%(1<<32), unix%1e9)
		sim := newSimulation(s, at, extras{processes: true})
		before := map[string]float64{}
		for _, after := range []time.Duration{0, time.Second, 1000 * time.Hour} {
			devices := sim.devices(at.Add(after))
			checkDevices(t, devices)
			for _, d := range devices {
				if d.Error != "" {
					continue
				}
				for name, v := range map[string]*float64{"utilization": d.Utilization, "memory": d.MemoryUtilization, "occupancy": d.Occupancy} {
					if v != nil && !(*v >= 0 && *v <= 1) {
						t.Errorf("%s %g", name, *v)
					}
				}
				if *d.Energy < before[d.UUID]*(1-1e-12)-1e-3 {
					t.Errorf("energy falls from %g to %g", before[d.UUID], *d.Energy)
				}
				before[d.UUID] = *d.Energy
			}
		}
	})
}
