package pods

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/exporter/gpu"
)

func TestResolve(t *testing.T) {
	inv := newInventory(&gpu.Snapshot{Devices: []gpu.Device{
		{Index: 0, UUID: uuid(0), PCIBusID: "00000000:05:00.0"},
		{Index: 1, UUID: uuid(1), PCIBusID: "00010000:E1:00.0", Instances: []gpu.Instance{
			{UUID: mig1, GI: 7, Profile: "1g.10gb"},
			{UUID: mig2, GI: 8, Profile: "1g.10gb"},
			{UUID: mig3, GI: 2, CI: 1, Profile: "3g.40gb+me"},
			{UUID: "MIG-other", GI: 2, CI: 0, Profile: "1c.3g.40gb"},
		}},
		{Index: 2, Error: "GPU is lost"},
	}}, map[int]string{3: uuid(1), 4: uuid(9)})
	for _, tt := range []struct {
		name string // in the form of a plugin or of a claim
		want place
		err  string
	}{
		{name: uuid(0), want: place{uuid: uuid(0), index: 0, gi: -1}},
		{name: "GPU-4A5B6C7D-0000-4000-8000-000000000000", want: place{uuid: uuid(0), index: 0, gi: -1}}, // DRA has it in lower case, others may not
		{name: uuid(5), want: place{uuid: uuid(5), index: -1, gi: -1}},                                   // not read: known all the same
		{name: "0000:05:00.0", want: place{uuid: uuid(0), index: 0, gi: -1}},
		{name: "10000:e1:00.0", want: place{uuid: uuid(1), index: 1, gi: -1}},
		{name: "0000:06:00.0", err: "no GPU that is read is at 0000:06:00.0"},
		{name: "nvidia3", want: place{uuid: uuid(1), index: 1, gi: -1}},
		{name: "nvidia4", want: place{uuid: uuid(9), index: -1, gi: -1}},
		{name: "nvidia0", err: "the driver's procfs (driver/nvidia/gpus) has no GPU with the number 0"},
		{name: "nvidia3/gi7", want: place{uuid: uuid(1), index: 1, gi: 7, instance: mig1, part: true}},
		{name: "nvidia3/gi2", want: place{uuid: uuid(1), index: 1, gi: 2, part: true}}, // has two compute instances
		{name: "nvidia3/gi5", want: place{uuid: uuid(1), index: 1, gi: 5, part: true}},
		{name: mig2, want: place{uuid: uuid(1), index: 1, gi: 8, instance: mig2, part: true}},
		{name: "MIG-none", err: "no GPU that is read has this MIG device"},
		{name: "MIG-" + uuid(1) + "/2/1", want: place{uuid: uuid(1), index: 1, gi: 2, instance: mig3, part: true}},
		{name: "gpu-3", want: place{uuid: uuid(1), index: 1, gi: -1}},
		{name: "gpu-3-mig-3g40gb-me-9-0", want: place{uuid: uuid(1), index: 1, gi: 2, instance: mig3, part: true}},
		{name: "gpu-3-mig-1g10gb-19-0", want: place{uuid: uuid(1), index: 1, gi: -1, part: true}, err: "it may be any of 2 MIG devices of " + uuid(1)},
		{name: "gpu-3-mig-7g80gb-0-0", want: place{uuid: uuid(1), index: 1, gi: -1, part: true}, err: uuid(1) + " has no MIG device like this"},
		{name: "gpu-3-mig-19-0-1", want: place{uuid: uuid(1), index: 1, gi: -1, part: true}, err: "it may be any of 4 MIG devices of " + uuid(1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := parseDRAName(tt.name)
			if err != nil {
				if d, err = parseID(tt.name); err != nil {
					t.Fatal(err)
				}
			}
			got, err := inv.resolve(d)
			if tt.want.uuid == "" {
				got = place{}
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(place{}, holder{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(tt.err, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// TestInfoOnce: two compute instances of one GPU instance have the same labels, and one series.
func TestInfoOnce(t *testing.T) {
	a, b := onMIG("a", mig1), onMIG("a", mig2)
	a.gi, b.gi = 2, 2
	var p page
	p.view(view{places: []place{a, b}})
	if len(p.metrics) != 1 {
		t.Errorf("%d series, want 1", len(p.metrics))
	}
}
