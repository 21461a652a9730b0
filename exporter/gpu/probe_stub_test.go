//go:build linux && cgo

package gpu

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestProbe goes the whole way: a process of its own, go-nvml, a library that is opened at run time.
func TestProbe(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	old := compile(t, "libnvidia-ml-old.so.1", "-DOLD")
	broken := compile(t, "libnvidia-ml-broken.so.1", "-DBROKEN")
	missing := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")

	for _, tt := range []struct {
		name, mode, library string
		fault               string   // of the whole, a part of it
		gpus                []string // the fault of each, a part of it
		unsupported         []string // calls of GPU 0 that must be
		missing             string
	}{
		{name: "normal", mode: "normal", library: library, gpus: []string{"", ""}},
		{name: "not supported", mode: "unsupported", library: library, gpus: []string{"", ""}, unsupported: []string{"Energy", "Power", "Temperature", "Utilization"}},
		{name: "missing symbols", mode: "normal", library: old, gpus: []string{"", ""}, unsupported: []string{"Energy"}, missing: "nvmlDeviceGetTotalEnergyConsumption"},
		{name: "hang", mode: "hang", library: library, gpus: []string{" hangs: no answer within 1s", " hangs: no answer within 1s"}},
		{name: "one hangs", mode: "hang 0", library: library, gpus: []string{" hangs: no answer within 1s", ""}},
		{name: "the other hangs", mode: "hang 1", library: library, gpus: []string{"", " hangs: no answer within 1s"}},
		{name: "one does not even tell its UUID", mode: "freeze 1", library: library, gpus: []string{"", "nvmlDeviceGetHandleByIndex hangs: no answer within 5s"}},
		{name: "crash", mode: "crash", library: library, gpus: []string{" ended the process that made the call: exit status 2: SIGABRT", " ended the process that made the call"}},
		{name: "symbol missing that no driver lacks", mode: "normal", library: broken, gpus: []string{"nvmlDeviceGetHandleByIndex ended the process that made the call: exit status 127", "exit status 127"}, missing: "nvmlDeviceGetHandleByIndex"},
		{name: "no GPU", mode: "empty", library: library},
		{name: "versions differ", mode: "mismatch", library: library, fault: "Driver/library version mismatch"},
		{name: "no driver", mode: "nodriver", library: library, fault: "no NVIDIA driver"},
		{name: "no library", mode: "normal", library: missing, fault: "no NVIDIA driver"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			newStubMode(t, tt.mode)
			p := Probe(t.Context(), ProbeOptions{Command: probing(t), Library: tt.library, Runs: 3, Timeout: time.Second})
			if !strings.Contains(p.Error, tt.fault) || (p.Error == "") != (tt.fault == "") {
				t.Errorf("error %q, want one with %q", p.Error, tt.fault)
			}
			if tt.fault == "no NVIDIA driver" && (len(p.Tried) != 1 || !strings.Contains(p.Tried[0], tt.library)) {
				t.Errorf("tried %q, want %s", p.Tried, tt.library)
			}
			if len(p.GPUs) != len(tt.gpus) {
				t.Fatalf("%d GPUs, want %d: %+v", len(p.GPUs), len(tt.gpus), p)
			}
			for i, want := range tt.gpus {
				g := p.GPUs[i]
				if g.Index != i || !strings.Contains(g.Error, want) || (g.Error == "") != (want == "") {
					t.Errorf("GPU %d: index %d, error %q, want one with %q", i, g.Index, g.Error, want)
				}
				if want == "" && (g.Name != "Stub H100" || g.UUID != fmt.Sprintf("GPU-00000000-0000-0000-0000-00000000000%d", i) || len(g.Calls) < 9) {
					t.Errorf("GPU %d: %+v", i, g)
				}
			}
			for _, call := range tt.unsupported {
				i := slices.IndexFunc(p.GPUs[0].Calls, func(c Call) bool { return c.Name == call })
				if i < 0 || !strings.Contains(p.GPUs[0].Calls[i].Error, "not supported") {
					t.Errorf("%s: not said to be unsupported: %+v", call, p.GPUs[0].Calls)
				}
			}
			if tt.missing != "" && !slices.Contains(p.Missing(), tt.missing) {
				t.Errorf("missing %q, want %s among them", p.Missing(), tt.missing)
			}
			if tt.library == old {
				if why := p.Why("flyball_gpu_energy_joules_total"); !strings.HasPrefix(why, "nvmlDeviceGetTotalEnergyConsumption: not supported by this driver") {
					t.Errorf("why there is no energy: %q", why)
				}
				if why := p.Why("flyball_gpu_power_watts"); why != "" {
					t.Errorf("why there is no power, which there is: %q", why)
				}
			}
			for _, g := range p.GPUs {
				once := map[string]bool{}
				for _, c := range g.Calls {
					if once[c.Name] {
						t.Errorf("GPU %d: %s is there twice", g.Index, c.Name)
					}
					once[c.Name] = true
					if c.NotMade != "" {
						if c != (Call{Name: c.Name, NotMade: c.NotMade}) {
							t.Errorf("GPU %d: %+v: it was not made", g.Index, c)
						}
						continue
					}
					if c.P50 <= 0 || c.Max < c.P50 {
						t.Errorf("GPU %d, %s: p50 %g, max %g", g.Index, c.Name, c.P50, c.Max)
					}
				}
			}
		})
	}

	t.Run("what a GPU does not have is not asked for", func(t *testing.T) {
		newStubMode(t, "vm 0")
		p := Probe(t.Context(), ProbeOptions{Command: probing(t), Library: library, Runs: 1})
		for _, tt := range []struct{ call, why, family, whyFamily string }{
			{call: "FanSpeed", why: "fans: the GPU has none of its own", family: "flyball_gpu_fan_speed_ratio"},
			{call: "Instances", why: "MIG: it is disabled", family: "flyball_gpu_mig_memory_reserved_bytes"},
			{call: "NVLinkErrors", why: "nvmlDeviceGetNvLinkState: not supported", family: "flyball_gpu_nvlink_errors_total"},
			{call: "RetiredPagesPending", why: "nvmlDeviceGetRetiredPages: not supported", family: "flyball_gpu_retired_pages"},
		} {
			i := slices.IndexFunc(p.GPUs[0].Calls, func(c Call) bool { return c.Name == tt.call })
			if i < 0 {
				t.Errorf("%s is not there", tt.call)
				continue
			}
			if diff := cmp.Diff(Call{Name: tt.call, NotMade: tt.why}, p.GPUs[0].Calls[i]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if why := p.Why(tt.family); why != tt.why {
				t.Errorf("why there is no %s: %q, want %q", tt.family, why, tt.why)
			}
		}
		if !slices.IsSortedFunc(p.GPUs[0].Calls, func(a, b Call) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("not by name: %+v", p.GPUs[0].Calls)
		}
		for _, c := range p.GPUs[1].Calls {
			if c.absent() != "" && c.Name != "Instances" {
				t.Errorf("%+v of a GPU that has it", c)
			}
		}
	})

	t.Run("no links", func(t *testing.T) {
		newStubMode(t, "pcie")
		p := Probe(t.Context(), ProbeOptions{Command: probing(t), Library: library, Runs: 1})
		for _, family := range []string{"flyball_gpu_nvlink_up", "flyball_gpu_nvlink_errors_total"} {
			if why := p.Why(family); why != "NVLink: the GPU has no links" {
				t.Errorf("why there is no %s: %q", family, why)
			}
		}
	})

	t.Run("its time is over", func(t *testing.T) {
		newStubMode(t, "hang")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		p := Probe(ctx, ProbeOptions{Command: probing(t), Library: library, Timeout: time.Hour, StartTimeout: time.Hour})
		if !strings.HasSuffix(p.Error, " has no answer yet: context deadline exceeded") {
			t.Errorf("%+v", p)
		}
	})

	t.Run("it ends with its parent, hanging or not", func(t *testing.T) {
		newStubMode(t, "hang")
		argv := probing(t)
		cmd := exec.Command(argv[0], argv[1:]...)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := json.NewEncoder(stdin).Encode(probeRequest{Library: library, Runs: 1}); err != nil {
			t.Fatal(err)
		}
		for d := json.NewDecoder(stdout); ; {
			var step probeStep
			if err := d.Decode(&step); err != nil {
				t.Fatal(err)
			}
			if step.Kind == stepCall {
				break
			}
		}
		if err := stdin.Close(); err != nil { // what the kernel does when the parent is gone
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			t.Fatal("it outlives its parent")
		}
	})

	t.Run("what it says makes no sense", func(t *testing.T) {
		p := Probe(t.Context(), ProbeOptions{Command: []string{"sh", "-c", "echo nonsense; exec sleep 100"}})
		if !strings.Contains(p.Error, "invalid character") {
			t.Errorf("%+v", p)
		}
	})
}

// probing is the command of a probe: this test binary.
func probing(t *testing.T) []string {
	t.Helper()
	return []string{self(t)[0], "nvml-probe"}
}
