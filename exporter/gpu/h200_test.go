//go:build linux && cgo

package gpu

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestH200 is what was captured on an H200 that a virtual machine was given: NVML's answers as they were read, and nvidia-smi's about
// the same GPU, which agree.
func TestH200(t *testing.T) {
	text, err := os.ReadFile("testdata/nvml_h200.json")
	if err != nil {
		t.Fatal(err)
	}
	var got tried
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Error != "" || len(got.Devices) != 1 || got.Devices[0].Error != "" || got.Devices[0].Faults != nil {
		t.Fatalf("error %q, devices %+v", got.Error, got.Devices)
	}
	complete(t, got, got.Devices[0])
	golden(t, "nvml_h200.prom", pageOf(t, got))

	told := lasting(got.Devices[0])
	s := smi{asked: newSMI(t, "h200-580.159.04.csv", nil).path}
	read, err := s.read(t.Context(), tierFast)
	if err != nil || len(read.Devices) != 1 {
		t.Fatalf("%d GPUs: %v", len(read.Devices), err)
	}
	if diff := cmp.Diff(told, lasting(read.Devices[0])); diff != "" {
		t.Errorf("nvidia-smi's table with all columns (-NVML +nvidia-smi):\n%s", diff)
	}

	// What it said to exactly what it was asked.
	text, err = os.ReadFile("testdata/smi/asked-580.159.04.txt")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer, _ := strings.Cut(string(text), "\n")
	answer, _, _ = strings.Cut(answer, "--") // the next question
	names, ok := strings.CutPrefix(strings.TrimSuffix(asked, " --format=csv,noheader,nounits"), "--query-gpu=")
	if !ok {
		t.Fatalf("asked %q", asked)
	}
	var fields []smiField
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(smiFields, func(f smiField) bool { return slices.Contains(f.names, name) })
		if i < 0 {
			i = slices.IndexFunc(smiFields, func(f smiField) bool { return f.names[0] == smiDriver }) // one that is not asked for any more
		}
		fields = append(fields, smiFields[i])
	}
	table := parseSMI(answer, fields, nil)
	if len(table.devices) != 1 || len(table.lost) > 0 {
		t.Fatalf("%+v", table)
	}
	if diff := cmp.Diff(told, lasting(table.devices[0])); diff != "" {
		t.Errorf("nvidia-smi's answer (-NVML +nvidia-smi):\n%s", diff)
	}
}

// lasting is what both NVML and nvidia-smi tell of a GPU and what is the same from one moment to the next; of what is not, whether it is
// there.
func lasting(d Device) map[string]any {
	there := map[string]bool{
		"utilization": d.Utilization != nil, "memory utilization": d.MemoryUtilization != nil,
		"encoder": d.EncoderUtilization != nil, "decoder": d.DecoderUtilization != nil,
		"power": d.Power != nil, "pstate": d.PState != nil, "reserved": d.Memory != nil && d.Memory.Reserved != nil,
	}
	highest := maps.Clone(d.ClockMax)
	delete(highest, "video") // nvidia-smi has no column for it
	l := map[string]any{
		"there": there, "index": d.Index, "uuid": d.UUID, "name": d.Name, "bus": d.PCIBusID, "serial": d.Serial, "vbios": d.VBIOS, "arch": d.Arch, "mig": d.MIGMode,
		"power limit": d.PowerLimit, "clock max": highest, "fans": len(d.FanSpeed), "ecc": d.ECC, "remapped": d.RemappedRows,
		"pending": d.RowRemapPending, "failure": d.RowRemapFailure, "retired": d.RetiredPages, "action": d.RecoveryAction,
		"temperature": slices.Sorted(maps.Keys(d.Temperature)), "clock": slices.Sorted(maps.Keys(d.Clock)),
		"events": slices.Sorted(maps.Keys(d.ClockEvents)), "event seconds": slices.Sorted(maps.Keys(d.ClockEventSeconds)),
	}
	if d.Memory != nil {
		l["memory"] = d.Memory.Total >> 20
	}
	if d.PCIe != nil {
		l["generation"], l["width"] = d.PCIe.Generation, d.PCIe.Width
	}
	return l
}
