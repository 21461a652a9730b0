//go:build linux && cgo

package gpu

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/google/go-cmp/cmp"
)

// TestMockNVLink: the fields and scopes that go-nvml is asked for where the bytes of each link are wanted.
func TestMockNVLink(t *testing.T) {
	server := dgxa100.New()
	server.LookupSymbolFunc = func(symbol string) error { // or what it does not know would panic
		if symbol == "nvmlDeviceGetUUID" || symbol == "nvmlDeviceGetFieldValues" {
			return nil
		}
		return errors.New("undefined symbol")
	}
	gpu, ok := server.Devices[0].(*dgxa100.Device)
	if !ok {
		t.Fatalf("device 0 is a %T", server.Devices[0])
	}
	type asked struct{ id, scope uint32 }
	seen := map[asked]bool{}
	gpu.GetFieldValuesFunc = func(values []nvml.FieldValue) nvml.Return {
		for i := range values {
			v := &values[i]
			seen[asked{v.FieldId, v.ScopeId}] = true
			v.ValueType = uint32(nvml.VALUE_TYPE_UNSIGNED_LONG_LONG)
			switch {
			case v.FieldId == nvml.FI_DEV_NVLINK_LINK_COUNT:
				binary.NativeEndian.PutUint64(v.Value[:], 2)
			case v.FieldId == nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX && v.ScopeId < 2:
				binary.NativeEndian.PutUint64(v.Value[:], uint64(100+v.ScopeId))
			case v.FieldId == nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX && v.ScopeId == 0:
				binary.NativeEndian.PutUint64(v.Value[:], 200)
			default:
				v.NvmlReturn = uint32(nvml.ERROR_NOT_SUPPORTED)
			}
		}
		return nvml.SUCCESS
	}
	d := Device{Index: 0}
	if err := readDevice(newLibrary(server), &d, tierFast|tierLinks); err != nil {
		t.Fatal(err)
	}
	want := &NVLink{Links: []NVLinkBytes{
		{Transmitted: new(uint64(100 * 1024)), Received: new(uint64(200 * 1024))},
		{Transmitted: new(uint64(101 * 1024))},
	}}
	if diff := cmp.Diff(want, d.NVLink); diff != "" {
		t.Errorf("NVLink (-want +got):\n%s", diff)
	}
	if seen[asked{nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, allLinks}] {
		t.Error("the sum is asked for too")
	}
}

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
