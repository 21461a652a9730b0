//go:build linux && cgo

package gpu

import (
	"errors"
	"slices"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/google/go-cmp/cmp"
)

// TestInventory reads go-nvml's own DGX A100, which knows what it is and nothing of what it does.
func TestInventory(t *testing.T) {
	server := dgxa100.New()
	known := []string{
		"nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion", "nvmlDeviceGetUUID", "nvmlDeviceGetName",
		"nvmlDeviceGetPciInfo", "nvmlDeviceGetArchitecture", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMigMode",
	}
	server.LookupSymbolFunc = func(symbol string) error { // or what it does not know would panic
		if slices.Contains(known, symbol) {
			return nil
		}
		return errors.New("undefined symbol")
	}
	mig, ok := server.Devices[3].(*dgxa100.Device)
	if !ok {
		t.Fatalf("device 3 is a %T", server.Devices[3])
	}
	if _, ret := mig.SetMigMode(nvml.DEVICE_MIG_ENABLE); ret != nvml.SUCCESS {
		t.Fatal(ret)
	}

	lib := newLibrary(server)
	n, err := lib.DeviceCount()
	if err != nil || n != 8 {
		t.Fatalf("%d GPUs, %v", n, err)
	}
	if cuda, err := lib.CUDAVersion(); err != nil || cuda != "12.4" {
		t.Errorf("CUDA %q, %v", cuda, err)
	}
	for i := range n {
		got := Device{Index: i}
		if err := readDevice(lib, &got, tierStatic|tierFast|tierSlow|tierProcesses); err != nil {
			t.Fatal(err)
		}
		want := Device{
			Index: i, UUID: got.UUID, Name: "Mock NVIDIA A100-SXM4-40GB", Arch: "ampere", MIGMode: "disabled",
			Memory: &Memory{Total: 42949672960},
		}
		if i == 3 {
			want.MIGMode = "enabled"
		}
		if diff := cmp.Diff(want, got); diff != "" || got.UUID == "" {
			t.Errorf("GPU %d, UUID %q (-want +got):\n%s", i, got.UUID, diff)
		}
	}
}
