package pods

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// holder is a pod, as one that may have GPUs.
type holder struct{ namespace, pod string }

// finder tells the pod of a process; false where it has none, or none that can be told.
type finder func(pid int) (holder, bool)

// uidPattern finds the UID of a pod in the path of a cgroup, wherever kubelet and runtime put it:
//
//	/kubepods/burstable/pod0a1b2c3d-.../<container>                                  cgroupfs
//	/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_....slice/cri-containerd-<container>.scope
//	/system.slice/containerd.service/kubepods-burstable-pod0a1b2c3d_....slice:cri-containerd:<container>
//
// A static pod's UID is a hash, 32 digits without anything between them.
var uidPattern = regexp.MustCompile(`(?:^|[/-])pod([a-f0-9][a-f0-9_-]{31,})(?:[./:]|$)`)

// podUID returns the UID of the pod whose process has these lines in /proc/PID/cgroup, one for each hierarchy (v1) or one
// alone (v2). It is empty for a process of no pod. In a cluster inside a pod of another, it is the outer pod, which is the
// one that the node's kubelet knows.
func podUID(lines string) string {
	for line := range strings.Lines(lines) {
		if _, path, found := strings.Cut(line, ":"); found { // the number of the hierarchy
			if _, path, found = strings.Cut(path, ":"); found { // its controllers
				if m := uidPattern.FindStringSubmatch(strings.TrimSuffix(path, "\n")); m != nil {
					return strings.ReplaceAll(m[1], "_", "-")
				}
			}
		}
	}
	return ""
}

// maxCgroup bounds what is read of a process: some 15 paths of at most 4 KiB.
const maxCgroup = 64 << 10

// processes says whose processes are. It is used by one goroutine at a time.
type processes struct {
	proc string // where procfs is mounted
	logs string // the kubelet's directory of logs, whose folders are called <namespace>_<pod>_<UID>

	byUID    map[string]holder
	listed   time.Time // when byUID was read
	listErr  error     // why it could not be
	tried    int       // processes that were looked up since begin
	missing  int       // of these, those that are not in procfs
	unreadOf error     // why the last one that is there could not be read
}

// begin starts a round, in which each process is looked up once.
func (p *processes) begin() { p.tried, p.missing, p.unreadOf = 0, 0, nil }

// relist is how long names are kept for UIDs that are not among them: a pod's folder is made before its containers start.
const relist = 10 * time.Second

// whose returns the pod of a process; ok is false where it has none, or none that can be told.
func (p *processes) whose(pid int, now time.Time) (o holder, ok bool) {
	p.tried++
	lines, err := readFile(filepath.Join(p.proc, strconv.Itoa(pid), "cgroup"), maxCgroup)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.missing++
		return holder{}, false
	case err != nil:
		p.unreadOf = err
		return holder{}, false
	}
	uid := podUID(lines)
	if uid == "" {
		return holder{}, false
	}
	if o, ok = p.byUID[uid]; !ok && (p.listed.IsZero() || now.Sub(p.listed) >= relist) {
		p.byUID, p.listErr = names(p.logs)
		p.listed = now
		o, ok = p.byUID[uid]
	}
	return o, ok
}

// names reads the names of pods by UID from the names of their folders. The pod-resources API has names and no UIDs, a
// cgroup has UIDs and no names.
func names(logs string) (map[string]holder, error) {
	dir, err := os.Open(logs)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.Readdirnames(-1)
	byUID := make(map[string]holder, len(entries))
	for _, name := range entries {
		if part := strings.Split(name, "_"); len(part) == 3 {
			byUID[part[2]] = holder{namespace: part[0], pod: part[1]}
		}
	}
	return byUID, err
}

// minors reads which GPU has which number in /dev/nvidiaN, from what the driver says of each.
func minors(proc string) (map[int]string, error) {
	files, err := filepath.Glob(filepath.Join(proc, "driver/nvidia/gpus/*/information"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s/driver/nvidia/gpus: %w", proc, fs.ErrNotExist)
	}
	byMinor := map[int]string{}
	var faults []error
	for _, file := range files {
		text, err := readFile(file, maxCgroup)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		minor, uuid := -1, ""
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(line, ":")
			switch value = strings.TrimSpace(value); strings.TrimSpace(name) {
			case "Device Minor":
				if minor, err = number(value); err != nil {
					faults = append(faults, fmt.Errorf("%s: Device Minor: %w", file, err))
				}
			case "GPU UUID":
				uuid = value
			}
		}
		if minor >= 0 && uuid != "" && !strings.Contains(uuid, "?") { // which it is full of before the GPU is first used
			byMinor[minor] = uuid
		}
	}
	return byMinor, errors.Join(faults...)
}

func readFile(name string, limit int64) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	return string(b), err
}
