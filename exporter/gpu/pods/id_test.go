package pods

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const uuid0 = "GPU-4a5b6c7d-0000-4000-8000-0123456789ab"

func TestParseID(t *testing.T) {
	for _, tt := range []struct {
		text string
		want id
		err  string
	}{
		{text: uuid0, want: id{uuid: uuid0, minor: -1, gi: -1, ci: -1}},
		{text: uuid0 + "::3", want: id{uuid: uuid0, minor: -1, gi: -1, ci: -1}},
		{text: uuid0 + "-7", want: id{uuid: uuid0, minor: -1, gi: -1, ci: -1}},
		{text: "GPU-sim-0", want: id{uuid: "GPU-sim-0", minor: -1, gi: -1, ci: -1}},
		{text: "MIG-2c5c2e8f-1111-5222-9333-444455556666", want: id{mig: "MIG-2c5c2e8f-1111-5222-9333-444455556666", minor: -1, gi: -1, ci: -1, inside: true}},
		{text: "MIG-2c5c2e8f-1111-5222-9333-444455556666::1", want: id{mig: "MIG-2c5c2e8f-1111-5222-9333-444455556666", minor: -1, gi: -1, ci: -1, inside: true}},
		{text: "MIG-" + uuid0 + "/7/0", want: id{uuid: uuid0, minor: -1, gi: 7, ci: 0, inside: true}},
		{text: "nvidia0", want: id{minor: 0, gi: -1, ci: -1}},
		{text: "nvidia12/vgpu3", want: id{minor: 12, gi: -1, ci: -1}},
		{text: "nvidia1/gi2", want: id{minor: 1, gi: 2, ci: -1, inside: true}},
		{text: "nvidia1/gi2/vgpu0", want: id{minor: 1, gi: 2, ci: -1, inside: true}},
		{text: "0000:C5:00.0", want: id{bus: "0000:c5:00.0", minor: -1, gi: -1, ci: -1}},
		{text: "00000000:05:00.0", want: id{bus: "0000:05:00.0", minor: -1, gi: -1, ci: -1}},

		{text: "", want: nothing, err: "no identifier of this form is known"},
		{text: "GPU-", want: nothing, err: "no identifier of this form is known"},
		{text: "GPU-a/b", want: nothing, err: "no identifier of this form is known"},
		{text: uuid0 + "0", want: nothing, err: "it is no UUID"},
		{text: uuid0 + "::x", want: nothing, err: `replica "x" is no number`},
		{text: uuid0 + "::", want: nothing, err: `replica "" is no number`},
		{text: "MIG-" + uuid0, want: nothing, err: "no identifier of this form is known"},
		{text: "MIG-" + uuid0 + "/7", want: nothing, err: "no identifier of this form is known"},
		{text: "nvidia", want: nothing, err: "no identifier of this form is known"},
		{text: "nvidia-1", want: nothing, err: "no identifier of this form is known"},
		{text: "nvidia99999", want: nothing, err: `"99999" is too large a number`},
		{text: "nvidia0/gi99999", want: nothing, err: `"99999" is too large a number`},
		{text: "amdgpu_xcp_30", want: nothing, err: "no identifier of this form is known"},
		{text: "GPU-" + strings.Repeat("a", 300), want: nothing, err: "it has 304 characters"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			got, err := parseID(tt.text)
			check(t, tt.want, got, tt.err, err)
		})
	}
}

func TestParseDRA(t *testing.T) {
	const claim = "k8s.gpu.nvidia.com/claim=dab5ab50-d59a-42a6-af16-cfd4628c0f7a-"
	for _, tt := range []struct {
		name, driver, device string
		cdi                  []string
		want                 id
		err                  string
		other                bool // not a driver of GPUs
	}{
		{name: "a GPU", driver: "gpu.nvidia.com", device: "gpu-3", cdi: []string{claim + "gpu-3"}, want: id{minor: 3, gi: -1, ci: -1}},
		{name: "a MIG device", driver: "gpu.nvidia.com", device: "gpu-0-mig-1g18gb-19-0", want: id{minor: 0, gi: -1, ci: -1, profile: "1g18gb", inside: true}},
		{name: "a MIG device with media", driver: "gpu.nvidia.com", device: "gpu-0-mig-1g10gb-me-20-4", want: id{minor: 0, gi: -1, ci: -1, profile: "1g10gb-me", inside: true}},
		{name: "a MIG device of an old driver", driver: "gpu.nvidia.com", device: "gpu-1-mig-19-4-1", want: id{minor: 1, gi: -1, ci: -1, inside: true}},
		{name: "by UUID", driver: "gpu.nvidia.com", device: strings.ToLower(uuid0), want: id{uuid: uuid0, minor: -1, gi: -1, ci: -1}},
		{name: "by CDI alone", driver: "gpu.nvidia.com", cdi: []string{"k8s.gpu.nvidia.com/other=1", claim + "gpu-2"}, want: id{minor: 2, gi: -1, ci: -1}},
		{name: "by CDI of the class device", driver: "gpu.nvidia.com", cdi: []string{"k8s.gpu.nvidia.com/device=gpu-5"}, want: id{minor: 5, gi: -1, ci: -1}},
		{name: "by the UUID in CDI", driver: "gpu.nvidia.com", cdi: []string{"nvidia.com/gpu=" + uuid0}, want: id{uuid: uuid0, minor: -1, gi: -1, ci: -1}},
		{name: "an index in CDI, which is no number of /dev", driver: "gpu.nvidia.com", cdi: []string{"nvidia.com/gpu=0"}, want: nothing, err: "it has neither a name nor a CDI device with one"},
		{name: "passed through", driver: "gpu.nvidia.com", device: "gpu-vfio-0", want: nothing, err: "the GPU is passed through to a virtual machine"},
		{name: "no known name", driver: "gpu.nvidia.com", device: "gpu-0-mig", want: nothing, err: "no name of this form is known"},
		{name: "too large a number", driver: "gpu.nvidia.com", device: "gpu-99999", want: nothing, err: `"99999" is too large a number`},
		{name: "nothing", driver: "gpu.nvidia.com", want: nothing, err: "it has neither a name nor a CDI device with one"},
		{name: "AMD", driver: "gpu.amd.com", device: "gpu-1-129", want: nothing, err: "AMD's driver names devices by numbers of its own"},
		{name: "a network device", driver: "dra.net", device: "eth1", want: nothing, other: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := parseDRA(tt.driver, tt.device, tt.cdi)
			if ok == tt.other {
				t.Errorf("is of a GPU: %t, want %t", ok, !tt.other)
			}
			check(t, tt.want, got, tt.err, err)
		})
	}
}

func check(t *testing.T, want, got id, wantErr string, err error) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(id{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if diff := cmp.Diff(wantErr, text); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestIsGPU(t *testing.T) {
	for _, tt := range []struct {
		resource, id string
		want         bool
	}{
		{"nvidia.com/gpu", "nvidia0", true},
		{"nvidia.com/gpu.shared", uuid0 + "::0", true},
		{"nvidia.com/mig-1g.10gb", "anything", true},
		{"amd.com/gpu", "0000:05:00.0", true},
		{"example.com/vgpu", uuid0 + "-1", true}, // renamed
		{"nvidia.com/hostdev", "0000:05:00.0", false},
		{"intel.com/sriov", "0000:05:00.0", false},
		{"amd.com/nic", "0000:05:00.0", false},
	} {
		if got := isGPU(tt.resource, tt.id); got != tt.want {
			t.Errorf("%s %s: %t, want %t", tt.resource, tt.id, got, tt.want)
		}
	}
}

// FuzzID: whatever the kubelet has for identifiers, what is read from them is whole, or nothing with a reason.
func FuzzID(f *testing.F) {
	for _, seed := range []string{
		uuid0, uuid0 + "::1", "MIG-" + uuid0 + "/1/0", "MIG-2c5c2e8f-1111-5222-9333-444455556666", "nvidia0/gi2/vgpu1", "00000000:05:00.0",
		"gpu-0-mig-1g18gb-19-0", "gpu-0", "k8s.gpu.nvidia.com/claim=dab5ab50-d59a-42a6-af16-cfd4628c0f7a-gpu-0", "nvidia.com/gpu=" + uuid0, "gpu-vfio-1", "::", "nvidia/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name, parse := range map[string]func(string) (id, error){"plugin": parseID, "claim": parseDRAName, "cdi": parseCDI} {
			d, err := parse(text)
			if err != nil {
				if d != nothing {
					t.Errorf("%s: %q: %v, and yet %+v", name, text, err, d)
				}
				continue
			}
			ways := 0
			for _, told := range []bool{d.uuid != "", d.mig != "", d.bus != "", d.minor >= 0} {
				if told {
					ways++
				}
			}
			if ways != 1 || len(text) > 2*maxID {
				t.Errorf("%s: %q is said in %d ways: %+v", name, text, ways, d)
			}
			if d.gi < -1 || d.ci < -1 || d.minor > 9999 || d.gi > 9999 || (d.gi >= 0 || d.mig != "" || d.profile != "") && !d.inside {
				t.Errorf("%s: %q: %+v", name, text, d)
			}
			if d.uuid != "" {
				again, err := parseID(d.uuid)
				if err != nil || again.uuid != d.uuid {
					t.Errorf("%s: %q: the UUID %q is not one: %+v %v", name, text, d.uuid, again, err)
				}
			}
		}
	})
}
