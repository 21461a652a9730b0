//go:build linux && cgo

package gpu

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// callsOf are words that the reason has in it where a family is absent: a call, a field, or what the GPU does not have.
var callsOf = map[string][]string{
	"utilization_ratio":                  {"nvmlDeviceGetUtilizationRates"},
	"memory_bandwidth_utilization_ratio": {"nvmlDeviceGetUtilizationRates"},
	"encoder_utilization_ratio":          {"nvmlDeviceGetEncoderUtilization"},
	"decoder_utilization_ratio":          {"nvmlDeviceGetDecoderUtilization"},
	"memory_total_bytes":                 {"nvmlDeviceGetMemoryInfo"},
	"memory_used_bytes":                  {"nvmlDeviceGetMemoryInfo"},
	"memory_free_bytes":                  {"nvmlDeviceGetMemoryInfo"},
	"memory_reserved_bytes":              {"nvmlDeviceGetMemoryInfo"},
	"power_watts":                        {"nvmlDeviceGetPowerUsage"},
	"power_limit_watts":                  {"nvmlDeviceGetEnforcedPowerLimit"},
	"energy_joules_total":                {"nvmlDeviceGetTotalEnergyConsumption"},
	"temperature_celsius":                {"nvmlDeviceGetTemperature:"},
	"temperature_threshold_celsius":      {"nvmlDeviceGetTemperatureThreshold"},
	"clock_hertz":                        {"nvmlDeviceGetClockInfo"},
	"clock_max_hertz":                    {"nvmlDeviceGetMaxClockInfo"},
	"pstate":                             {"nvmlDeviceGetPerformanceState"},
	"fan_speed_ratio":                    {"fans:", "nvmlDeviceGetNumFans", "nvmlDeviceGetFanSpeed"},
	"clock_event_active":                 {"nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons: Unknown"},
	"clock_event_seconds_total":          {"nvmlDeviceGetFieldValues"},
	"ecc_errors_total":                   {"nvmlDeviceGetTotalEccErrors"},
	"remapped_rows_total":                {"nvmlDeviceGetRemappedRows"},
	"row_remap_pending":                  {"nvmlDeviceGetRemappedRows"},
	"row_remap_failure":                  {"nvmlDeviceGetRemappedRows"},
	"retired_pages":                      {"nvmlDeviceGetRetiredPages"},
	"recovery_action":                    {"nvmlDeviceGetFieldValues: field 230", "nvmlDeviceGetFieldValues: not"},
	"pcie_tx_bytes_total":                {"nvmlDeviceGetFieldValues: field 197", "nvmlDeviceGetFieldValues: not"},
	"pcie_rx_bytes_total":                {"nvmlDeviceGetFieldValues: field 198", "nvmlDeviceGetFieldValues: not"},
	"pcie_replay_total":                  {"nvmlDeviceGetPcieReplayCounter"},
	"pcie_link_generation":               {"PcieLinkGeneration"},
	"pcie_link_width":                    {"PcieLinkWidth"},
	"nvlink_tx_bytes_total":              {"NVLink:", "nvmlDeviceGetFieldValues: field 202", "nvmlDeviceGetFieldValues: not"},
	"nvlink_rx_bytes_total":              {"NVLink:", "nvmlDeviceGetFieldValues: field 204", "nvmlDeviceGetFieldValues: not"},
	"nvlink_errors_total":                {"NVLink:", "nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkErrorCounter"},
	"nvlink_up":                          {"NVLink:", "nvmlDeviceGetNvLinkState"},
	"graphics_active_ratio":              {"nvmlGpm", "activity: graphics"},
	"sm_active_ratio":                    {"nvmlGpm", "activity: sm"},
	"tensor_active_ratio":                {"nvmlGpm", "activity: tensor"},
	"dram_active_ratio":                  {"nvmlGpm", "activity: dram"},
	"fp16_active_ratio":                  {"nvmlGpm", "activity: fp16"},
	"fp32_active_ratio":                  {"nvmlGpm", "activity: fp32"},
	"fp64_active_ratio":                  {"nvmlGpm", "activity: fp64"},
	"sm_occupancy_ratio":                 {"nvmlGpm", "activity: occupancy"},
	"mig_info":                           {"MIG:", "nvmlDeviceGetMigMode"},
	"mig_memory_total_bytes":             {"MIG:", "nvmlDeviceGetMigMode"},
	"mig_memory_used_bytes":              {"MIG:", "nvmlDeviceGetMigMode"},
	"mig_memory_free_bytes":              {"MIG:", "nvmlDeviceGetMigMode"},
	"mig_memory_reserved_bytes":          {"MIG:", "nvmlDeviceGetMigMode"},
	"mig_sm_active_ratio":                {"MIG:", "nvmlDeviceGetMigMode"},
	"mig_tensor_active_ratio":            {"MIG:", "nvmlDeviceGetMigMode"},
	"mig_dram_active_ratio":              {"MIG:", "nvmlDeviceGetMigMode"},
	"process_memory_bytes":               {"processes:", "nvmlDeviceGetComputeRunningProcesses"},
	"process_sm_utilization_ratio":       {"processes:", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetProcessUtilization"},
	"process_dropped":                    {"processes:", "nvmlDeviceGetComputeRunningProcesses"},
}

// complete fails for every family that a GPU has no series of without a reason. It returns the families that it has.
func complete(t *testing.T, got tried, d Device) map[string]bool {
	t.Helper()
	one := got
	one.Devices = []Device{d}
	emitted := map[string]bool{}
	for line := range strings.Lines(pageOf(t, one)) {
		if name, ok := strings.CutPrefix(line, "# TYPE flyball_gpu_"); ok {
			emitted[strings.Fields(name)[0]] = true
		}
	}
	reasons := strings.Join(append(d.Unsupported, d.Faults...), "\n")
	if strings.Contains(strings.ToLower(reasons), "not supported: not supported") {
		t.Errorf("GPU %d: reasons say it twice:\n%s", d.Index, reasons)
	}
	for _, f := range readFamilies() {
		name := strings.TrimPrefix(f.Name, "flyball_gpu_")
		if name == "up" || emitted[name] {
			continue
		}
		if !slices.ContainsFunc(callsOf[name], func(word string) bool { return strings.Contains(reasons, word) }) {
			t.Errorf("GPU %d: no %s, and no reason that has one of %q in it; there are\n%s", d.Index, f.Name, callsOf[name], reasons)
		}
	}
	return emitted
}

// TestReadStub reads all there is from a stand-in for NVML in each of its moods: every family has a series or a reason
// why not, and each has a series in one of them.
func TestReadStub(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	old := compile(t, "libnvidia-ml-old.so.1", "-DOLD")
	emitted := map[string]bool{"up": true}
	for _, tt := range []struct {
		mode, library, page string
		events              int
	}{
		{mode: "normal", library: library, page: "full.prom"},
		{mode: "mig 0", library: library, page: "mig.prom"},
		{mode: "odd", library: library},
		{mode: "unsupported", library: library},
		{mode: "pcie", library: library},
		{mode: "vm", library: library},
		{mode: "nvlink5", library: library},
		{mode: "normal", library: old},
	} {
		name := tt.mode
		if tt.library == old {
			name = "old"
		}
		t.Run(name, func(t *testing.T) {
			newStubMode(t, tt.mode)
			got := tryLibrary(t, tt.library, 0)
			if got.Error != "" || len(got.Devices) != 2 {
				t.Fatalf("%d GPUs, error %q", len(got.Devices), got.Error)
			}
			for _, d := range got.Devices {
				maps.Copy(emitted, complete(t, got, d))
				if tt.mode != "odd" && d.Faults != nil {
					t.Errorf("GPU %d: faults %q", d.Index, d.Faults)
				}
			}
			if tt.page != "" {
				golden(t, tt.page, pageOf(t, got))
			}
		})
	}
	for _, f := range readFamilies() {
		if !emitted[strings.TrimPrefix(f.Name, "flyball_gpu_")] {
			t.Errorf("nothing emits %s", f.Name)
		}
	}
}

// TestReal is TestReadStub against the driver of this machine.
func TestReal(t *testing.T) {
	got := tryLibrary(t, "", 0)
	if got.Absent != nil {
		t.Skipf("no driver: %s", strings.Join(got.Absent, "; "))
	}
	if got.Error != "" || len(got.Devices) == 0 {
		t.Fatalf("%d GPUs, error %q", len(got.Devices), got.Error)
	}
	for _, d := range got.Devices {
		if d.Error != "" {
			t.Errorf("GPU %d: %s", d.Index, d.Error)
			continue
		}
		emitted := slices.Sorted(maps.Keys(complete(t, got, d)))
		t.Logf("GPU %d %s (%s), driver %s: %d families: %s", d.Index, d.Name, d.Arch, got.Driver, len(emitted), strings.Join(emitted, " "))
		t.Logf("not supported: %s", strings.Join(d.Unsupported, "; "))
		for _, fault := range d.Faults {
			t.Errorf("GPU %d: %s", d.Index, fault)
		}
	}
}

// TestStubValues looks at what a page does not tell apart.
func TestStubValues(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	old := compile(t, "libnvidia-ml-old.so.1", "-DOLD")

	t.Run("NVLink of one link after another", func(t *testing.T) {
		newStubMode(t, "nvlink5")
		n := tryLibrary(t, library, 0).Devices[0].NVLink
		if n == nil || n.Transmitted == nil || *n.Transmitted != 18*1000 || *n.Received != 18*2000 {
			t.Fatalf("bytes %+v, want those of 18 links", n)
		}
		want := map[string]uint64{"crc_flit": 18 * 2, "crc_data": 18 * 3, "replay": 0, "recovery": 18 * 3}
		if diff := cmp.Diff(want, n.Errors); diff != "" {
			t.Errorf("errors (-want +got):\n%s", diff)
		}
	})
	t.Run("no NVLink", func(t *testing.T) {
		newStubMode(t, "pcie")
		if n := tryLibrary(t, library, 0).Devices[0].NVLink; n != nil {
			t.Errorf("NVLink %+v on a GPU that has none", n)
		}
	})
	t.Run("odd answers cost only their values", func(t *testing.T) {
		newStubMode(t, "odd 1")
		got := tryLibrary(t, library, 0)
		d := got.Devices[1]
		if d.Error != "" || d.Power == nil || d.Utilization == nil {
			t.Errorf("error %q, power %v: the rest is to be read", d.Error, d.Power)
		}
		if d.ECC != nil || !slices.Contains(d.Faults, "nvmlDeviceGetTotalEccErrors: Unknown Error") {
			t.Errorf("ECC %v, faults %q", d.ECC, d.Faults)
		}
		if other := got.Devices[0]; other.Faults != nil {
			t.Errorf("faults of the other GPU: %q", other.Faults)
		}
	})
	t.Run("lost", func(t *testing.T) {
		newStubMode(t, "lost 0")
		got := tryLibrary(t, library, 0)
		if d := got.Devices[0]; !strings.Contains(d.Error, "the GPU is lost") || d.UUID == "" || d.Faults != nil {
			t.Errorf("%q, UUID %q, faults %q", d.Error, d.UUID, d.Faults)
		}
		if d := got.Devices[1]; d.Error != "" {
			t.Errorf("the other GPU: %s", d.Error)
		}
	})
	t.Run("counters that wrap are as they are", func(t *testing.T) {
		newStubMode(t, "normal")
		raw := filepath.Join(t.TempDir(), "pcie")
		for _, want := range []uint64{4294967295, 1 << 40} {
			if err := os.WriteFile(raw, []byte(strconv.FormatUint(want, 10)+" 7\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			p := tryLibrary(t, library, 0, "NVML_STUB_PCIE="+raw).Devices[0].PCIe
			if p == nil || *p.Transmitted != want || *p.Received != 7 {
				t.Errorf("PCIe %+v, want %d and 7", p, want)
			}
		}
	})
	t.Run("processes", func(t *testing.T) {
		newStubMode(t, "normal")
		pid := os.Getpid()
		got := tryLibrary(t, library, 0, "NVML_STUB_PID="+strconv.Itoa(pid)).Devices[0].Processes
		comm, err := os.ReadFile("/proc/self/comm")
		if err != nil {
			t.Fatal(err)
		}
		six, busy, idle := uint64(6<<30), 0.64, 0.0
		want := []Process{
			{PID: pid, Memory: &six, SMUtilization: &busy, Comm: strings.TrimSpace(string(comm))},
			{PID: 5000001, SMUtilization: &idle},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("processes (-want +got):\n%s", diff)
		}
	})
	t.Run("missing symbols", func(t *testing.T) {
		newStubMode(t, "normal")
		if got := tryLibrary(t, library, 0).Missing; got != nil {
			t.Errorf("missing of a library that has all: %q", got)
		}
		got := tryLibrary(t, old, 0).Missing
		for _, symbol := range []string{"nvmlDeviceGetFieldValues", "nvmlGpmSampleGet", "nvmlDeviceGetMemoryInfo_v2"} {
			if !slices.Contains(got, symbol) {
				t.Errorf("%s is not among the missing %q", symbol, got)
			}
		}
	})
	t.Run("events", func(t *testing.T) {
		newStubMode(t, "normal")
		file := filepath.Join(t.TempDir(), "xids")
		if err := os.WriteFile(file, []byte("1 79\n0 94 2 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		gi, ci := 2, 1
		want := []event{
			{UUID: "GPU-00000000-0000-0000-0000-000000000001", XID: 79},
			{UUID: "GPU-00000000-0000-0000-0000-000000000000", XID: 94, GI: &gi, CI: &ci},
		}
		got := tryLibrary(t, library, 2, "NVML_STUB_XIDS="+file)
		if diff := cmp.Diff(want, got.Events); diff != "" || got.Error != "" {
			t.Errorf("error %q, events (-want +got):\n%s", got.Error, diff)
		}
		newStubMode(t, "lost 0")
		got = tryLibrary(t, library, 1, "NVML_STUB_GPUS=1")
		if !strings.Contains(got.Error, "the GPU is lost") || strings.Contains(got.Error, errUnsupported.Error()) {
			t.Errorf("error %q of a GPU that may report errors again", got.Error)
		}
		if got := tryLibrary(t, old, 1); !strings.Contains(got.Error, "not supported") {
			t.Errorf("error %q of a library without events", got.Error)
		}
	})
}

// TestSymbols holds that no symbol is looked up, so none called, that Symbols does not list.
func TestSymbols(t *testing.T) {
	files, err := filepath.Glob("nvml_*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{"nvmlDeviceGetCount_v2": true, "nvmlDeviceGetHandleByIndex_v2": true} // chosen by go-nvml
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if name, err := strconv.Unquote(lit.Value); err == nil && strings.HasPrefix(name, "nvml") && !strings.ContainsAny(name, " :") {
					found[name] = true
				}
			}
			return true
		})
	}
	if diff := cmp.Diff(Symbols(), slices.Sorted(maps.Keys(found))); diff != "" {
		t.Errorf("Symbols (-listed +looked up):\n%s", diff)
	}
}

func TestMIGProfile(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		gi, ci        uint32
		slice, memory uint64
		want          string
	}{
		{1, 1, 9984 << 20, 80 * gib, "1g.10gb"},
		{3, 3, 40448 << 20, 80 * gib, "3g.40gb"},
		{3, 1, 40448 << 20, 80 * gib, "1c.3g.40gb"},
		{7, 7, 81251 << 20, 81559 << 20, "7g.80gb"},
		{1, 1, 4864 << 20, 40 * gib, "1g.5gb"},
		{2, 2, 9856 << 20, 40 * gib, "2g.10gb"},
		{1, 1, 100, 0, ""},
	} {
		if got := migProfile(tt.gi, tt.ci, tt.slice, tt.memory); got != tt.want {
			t.Errorf("%d GPU slices, %d compute slices, %d of %d bytes: %q, want %q", tt.gi, tt.ci, tt.slice, tt.memory, got, tt.want)
		}
	}
}

// BenchmarkRead reads 8 GPUs of the stand-in: every few seconds the fast values, every half minute all.
func BenchmarkRead(b *testing.B) {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		b.Skip("no gcc to compile a stand-in for NVML with")
	}
	path := filepath.Join(b.TempDir(), "libnvidia-ml.so.1")
	if out, err := exec.Command(cc, "-O2", "-shared", "-fPIC", "-o", path, "testdata/nvml_stub.c").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	b.Setenv("NVML_STUB_GPUS", "8")
	lib, _, err := open(opening{library: path})
	if err != nil {
		b.Fatal(err)
	}
	defer lib.Close()
	for _, bb := range []struct {
		name string
		want tiers
	}{
		{"fast", tierFast},
		{"all", tierFast | tierSlow | tierStatic},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for i := range 8 {
					d := Device{Index: i}
					if err := readDevice(lib, &d, bb.want); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
