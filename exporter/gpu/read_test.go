package gpu

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// spy is a GPU that counts what is asked of it.
type spy struct {
	bareDevice
	asked map[string]int
	fail  map[string]error // by what is asked
}

func (s spy) ask(what string) error {
	s.asked[what]++
	return s.fail[what]
}

func (s spy) UUID() (string, error)             { return "GPU-a", s.ask("uuid") }
func (s spy) Name() (string, error)             { return "H100", s.ask("name") }
func (s spy) Power() (float64, error)           { return 90, s.ask("power") }
func (s spy) Clock(string) (float64, error)     { return 1e9, s.ask("clock") }
func (s spy) Fans() (int, error)                { return 2, s.ask("fans") }
func (s spy) FanSpeed(fan int) (float64, error) { return 0.3, s.ask(fmt.Sprintf("fan %d", fan)) }
func (s spy) PCIeReplays() (uint64, error)      { return 4, s.ask("replays") }
func (s spy) Processes() ([]Process, error)     { return []Process{{PID: 7}}, s.ask("processes") }

func (s spy) Fields(fields []field) ([]fieldValue, error) {
	values := make([]fieldValue, len(fields))
	for i, f := range fields {
		values[i].value = uint64(f.id)
		if f.id != fieldPCIeTX {
			values[i].err = errUnsupported
		}
	}
	return values, s.ask("fields")
}

type spyLibrary struct {
	fakeLibrary
	device spy
}

func (l spyLibrary) Device(int) (device, error) { return l.device, nil }

func TestReadDevice(t *testing.T) {
	odd := errors.New("nvmlX: Unknown Error")
	lost := fmt.Errorf("nvmlX: %w", errLost)
	tx := uint64(fieldPCIeTX)
	four, ninety := uint64(4), 90.0
	clocks := map[string]float64{"graphics": 1e9, "sm": 1e9, "mem": 1e9, "video": 1e9}
	for _, tt := range []struct {
		name  string
		want  tiers
		fail  map[string]error
		had   Device
		got   Device
		err   error
		asked []string
	}{
		{
			name:  "fast, and the slow part of a struct is kept",
			want:  tierFast,
			had:   Device{Name: "H100", PCIe: &PCIe{Replays: &four}, Faults: []string{"old"}},
			got:   Device{UUID: "GPU-a", Name: "H100", Power: &ninety, Clock: clocks, PCIe: &PCIe{Replays: &four, Transmitted: &tx}},
			asked: []string{"clock", "fields", "power", "uuid"},
		},
		{
			name:  "slow, and the fast part of a struct is kept",
			want:  tierSlow,
			had:   Device{PCIe: &PCIe{Transmitted: &tx}, FanSpeed: []float64{1, 1, 1}},
			got:   Device{UUID: "GPU-a", PCIe: &PCIe{Replays: &four, Transmitted: &tx}, FanSpeed: []float64{0.3, 0.3}},
			asked: []string{"fan 0", "fan 1", "fans", "fields", "replays", "uuid"},
		},
		{
			name:  "static",
			want:  tierStatic,
			got:   Device{UUID: "GPU-a", Name: "H100"},
			asked: []string{"name", "uuid"},
		},
		{
			name:  "processes",
			want:  tierProcesses,
			got:   Device{UUID: "GPU-a", Processes: []Process{{PID: 7}}},
			asked: []string{"processes", "uuid"},
		},
		{
			name:  "a fan that answers oddly, and none is taken for it",
			want:  tierSlow,
			fail:  map[string]error{"fan 0": odd},
			got:   Device{UUID: "GPU-a", PCIe: &PCIe{Replays: &four}, Faults: []string{"nvmlX: Unknown Error"}},
			asked: []string{"fan 0", "fans", "fields", "replays", "uuid"},
		},
		{
			name:  "a vital value that answers oddly ends it",
			want:  tierFast,
			fail:  map[string]error{"power": odd},
			got:   Device{UUID: "GPU-a"},
			err:   odd,
			asked: []string{"power", "uuid"},
		},
		{
			name:  "a GPU that is lost meanwhile is asked no more",
			want:  tierSlow,
			fail:  map[string]error{"fan 1": lost},
			got:   Device{UUID: "GPU-a", FanSpeed: []float64{0.3}},
			err:   errLost,
			asked: []string{"fan 0", "fan 1", "fans", "uuid"},
		},
		{
			name:  "no UUID",
			want:  tierFast | tierSlow,
			fail:  map[string]error{"uuid": lost},
			got:   Device{UUID: "GPU-a"},
			err:   errLost,
			asked: []string{"uuid"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := spy{asked: map[string]int{}, fail: tt.fail}
			got := tt.had
			var shared PCIe
			if tt.had.PCIe != nil {
				shared = *tt.had.PCIe
			}
			if err := readDevice(spyLibrary{device: s}, &got, tt.want); !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.got, got); diff != "" {
				t.Errorf("device (-want +got):\n%s", diff)
			}
			var asked []string
			for what := range s.asked {
				asked = append(asked, what)
			}
			slices.Sort(asked)
			if diff := cmp.Diff(tt.asked, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			if tt.had.PCIe != nil {
				if diff := cmp.Diff(shared, *tt.had.PCIe); diff != "" {
					t.Errorf("a snapshot was changed (-was +is):\n%s", diff)
				}
			}
		})
	}
}

func TestLimitProcesses(t *testing.T) {
	memory := func(n uint64) *uint64 { return &n }
	d := Device{Processes: []Process{
		{PID: 1, Memory: memory(5)}, {PID: 2}, {PID: 3, Memory: memory(9)}, {PID: 4, Memory: memory(7)},
	}}
	limitProcesses(&d, 4)
	if len(d.Processes) != 4 || d.ProcessesDropped != 0 {
		t.Errorf("%d processes, %d dropped: there is room for all", len(d.Processes), d.ProcessesDropped)
	}
	limitProcesses(&d, 2)
	if diff := cmp.Diff([]Process{{PID: 3, Memory: memory(9)}, {PID: 4, Memory: memory(7)}}, d.Processes); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
	if d.ProcessesDropped != 2 {
		t.Errorf("%d dropped, want 2", d.ProcessesDropped)
	}
}

// TestProcessTwice: a process that the driver lists more than once has each series once.
func TestProcessTwice(t *testing.T) {
	list := func() []Process {
		return []Process{
			{PID: 7, Memory: new(uint64(1)), SMUtilization: new(0.25)},
			{PID: 8, Memory: new(uint64(2))},
			{PID: 7, Memory: new(uint64(4)), SMUtilization: new(0.5)},
			{PID: 7, GI: new(1), Memory: new(uint64(8))},
			{PID: 8},
			{PID: 9},
			{PID: 9, Memory: new(uint64(16)), SMUtilization: new(0.125)},
		}
	}
	given := list()
	c := New(Options{})
	rep := gpus(0)
	rep.Devices[0].Processes = given
	c.accept(rep, time.Now())
	want := []Process{
		{PID: 7, Memory: new(uint64(5)), SMUtilization: new(0.5)},
		{PID: 8, Memory: new(uint64(2))},
		{PID: 7, GI: new(1), Memory: new(uint64(8))},
		{PID: 9, Memory: new(uint64(16)), SMUtilization: new(0.125)},
	}
	if diff := cmp.Diff(want, c.Snapshot().Devices[0].Processes); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
	if page := scrape(t, c); !strings.Contains(page, `flyball_collector_success{collector="gpu"} 1`) || strings.Count(page, `pid="7"`) != 3 {
		t.Errorf("page:\n%s", page)
	}
	if diff := cmp.Diff(list(), given); diff != "" {
		t.Errorf("what was given has changed (-before +after):\n%s", diff)
	}
	once := given[:2]
	if got := oncePerProcess(once); &got[0] != &once[0] || len(got) != 2 {
		t.Errorf("a list without repetition was copied: %v", got)
	}
}
