package pods

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	uidA = "0a1b2c3d-1111-4222-8333-00000000000a"
	uidB = "0a1b2c3d-1111-4222-8333-00000000000b"
)

func TestPodUID(t *testing.T) {
	const container = "713a77a26fe2a38ebebd5709604a048c3d380db1eb16aa43aca0b2499e54733c"
	under := strings.ReplaceAll(uidA, "-", "_")
	for _, tt := range []struct{ name, lines, want string }{
		{"v2, systemd, containerd", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + container + ".scope\n", uidA},
		{"v2, systemd, cri-o", "0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + container + ".scope/container\n", uidA},
		{"v2, cgroupfs", "0::/kubepods/besteffort/pod" + uidA + "/" + container + "\n", uidA},
		{"v2, guaranteed, cgroupfs", "0::/kubepods/pod" + uidA + "/" + container, uidA},
		{"v1", "12:pids:/kubepods.slice/kubepods-pod" + under + ".slice/docker-" + container + ".scope\n1:name=systemd:/kubepods.slice/kubepods-pod" + under + ".slice/docker-" + container + ".scope\n0::/system.slice\n", uidA},
		{"v1, cgroupfs, the pod in one hierarchy alone", "2:devices:/\n1:memory:/kubepods/burstable/pod" + uidA + "/" + container + "\n", uidA},
		{"containerd with cgroupfs on systemd", "0::/system.slice/containerd.service/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + container + "\n", uidA},
		{"seen from another cgroup namespace", "0::/../../kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + container + ".scope\n", uidA},
		{"a static pod", "0::/kubepods/burstable/pod4b0edd8cd5ab21bb2e0ba7db9d1b3c5f/" + container, "4b0edd8cd5ab21bb2e0ba7db9d1b3c5f"},
		{"a cluster in a pod of another", "0::/kubepods/pod" + uidA + "/x/kubepods/pod" + uidB + "/" + container, uidA},
		{"no pod", "0::/system.slice/nvidia-persistenced.service\n", ""},
		{"a container without Kubernetes", "0::/system.slice/docker-" + container + ".scope\n", ""},
		{"podman's pods", "0::/machine.slice/machine-libpod_pod_" + container + ".slice/libpod-" + container + ".scope\n", ""},
		{"too short", "0::/kubepods/pod0a1b2c3d/x\n", ""},
		{"in the name of a controller", "1:name=/pod" + uidA + ":/\n", ""},
		{"nothing", "", ""},
		{"no colons", "pod" + uidA, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := podUID(tt.lines); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzPodUID(f *testing.F) {
	f.Add("0::/kubepods/besteffort/pod" + uidA + "/713a77a26fe2\n")
	f.Add("12:pids:/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uidA, "-", "_") + ".slice\n0::/\n")
	f.Add("::\n:::/pod")
	f.Fuzz(func(t *testing.T, lines string) {
		uid := podUID(lines)
		if uid == "" {
			return
		}
		if len(uid) < 32 || strings.Trim(uid, "0123456789abcdef-") != "" || !strings.Contains(strings.ReplaceAll(lines, "_", "-"), "pod"+uid) {
			t.Errorf("%q in %q", uid, lines)
		}
	})
}

// node is a node's procfs and directory of logs.
type node struct{ proc, logs string }

func newNode(t *testing.T) node {
	t.Helper()
	dir := t.TempDir()
	n := node{proc: filepath.Join(dir, "proc"), logs: filepath.Join(dir, "pods")}
	for _, d := range []string{n.proc, n.logs} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n node) write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// process makes a process of a pod with the UID; of none for "".
func (n node) process(t *testing.T, pid int, uid string) {
	t.Helper()
	path := "0::/system.slice/x.service\n"
	if uid != "" {
		path = "0::/kubepods/pod" + uid + "/713a77a26fe2\n"
	}
	n.write(t, filepath.Join(n.proc, strconv.Itoa(pid), "cgroup"), path)
}

func (n node) pod(t *testing.T, namespace, pod, uid string) {
	t.Helper()
	n.write(t, filepath.Join(n.logs, namespace+"_"+pod+"_"+uid, "server", "0.log"), "")
}

// minor makes what the driver says of a GPU.
func (n node) minor(t *testing.T, address, uuid string, minor int) {
	t.Helper()
	n.write(t, filepath.Join(n.proc, "driver/nvidia/gpus", address, "information"),
		"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 16\nGPU UUID: \t "+uuid+"\nVideo BIOS: \t 96.00\nBus Location: \t "+address+"\nDevice Minor: \t "+strconv.Itoa(minor)+"\nGPU Excluded:\t No\n")
}

func TestWhose(t *testing.T) {
	n := newNode(t)
	n.process(t, 10, uidA)
	n.process(t, 11, "")
	n.process(t, 12, uidB)
	n.write(t, filepath.Join(n.proc, "13", "cgroup", "x"), "") // reading a directory fails
	n.pod(t, "ml", "a-0", uidA)
	n.write(t, filepath.Join(n.logs, "lost+found", "x"), "")

	now := time.Unix(1000, 0)
	p := processes{proc: n.proc, logs: n.logs}
	p.begin()
	for pid, want := range map[int]holder{10: {"ml", "a-0"}, 11: {}, 12: {}, 13: {}, 14: {}} {
		if got, ok := p.whose(pid, now); got != want || ok != (want != holder{}) {
			t.Errorf("%d: %v %t, want %v", pid, got, ok, want)
		}
	}
	if p.tried != 5 || p.missing != 1 || p.unreadOf == nil || p.listErr != nil {
		t.Errorf("tried %d, missing %d, unread %v, names %v", p.tried, p.missing, p.unreadOf, p.listErr)
	}

	n.pod(t, "ml", "b-0", uidB) // starts now; names are read again, and not at every process
	if got, ok := p.whose(12, now.Add(relist-1)); ok {
		t.Errorf("names were read again at once: %v", got)
	}
	if got, ok := p.whose(12, now.Add(relist)); got != (holder{"ml", "b-0"}) || !ok {
		t.Errorf("the new pod is not found: %v", got)
	}

	p = processes{proc: n.proc, logs: filepath.Join(n.logs, "none")}
	if _, ok := p.whose(10, now); ok || p.listErr == nil {
		t.Errorf("without the directory: %t %v", ok, p.listErr)
	}
}

func TestMinors(t *testing.T) {
	n := newNode(t)
	if _, err := minors(n.proc); err == nil || !strings.Contains(err.Error(), fs.ErrNotExist.Error()) {
		t.Errorf("without the driver: %v", err)
	}
	n.minor(t, "0000:05:00.0", uuid0, 1)
	n.minor(t, "0000:06:00.0", "GPU-????????-????-????-????-????????????", 0)
	n.minor(t, "0000:07:00.0", "GPU-7", 12345)
	got, err := minors(n.proc)
	if diff := cmp.Diff(map[int]string{1: uuid0}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err == nil || !strings.Contains(err.Error(), `information: Device Minor: "12345" is too large a number`) {
		t.Errorf("error %v", err)
	}
}
