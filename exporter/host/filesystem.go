package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// What is left out, as node_exporter does by default: what has no room of its own, and the layers of containers.
var (
	excludedMountPoints = regexp.MustCompile(`^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)`)
	excludedFSTypes     = regexp.MustCompile(`^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs)$`)
)

// mountPatience is how long all file systems together are waited for, once: a disk answers in microseconds, an NFS
// server in milliseconds. One that has not answered by then is not asked again before it does, so that a server that is
// gone costs one scrape this long, and none the rest of the collector.
const mountPatience = 500 * time.Millisecond

// mounts asks the machine's file systems for their size.
type mounts struct {
	procPath, root string
	statfs         func(path string) (space, error)

	mu      sync.Mutex
	waiting map[string]bool // mount points that have been asked and have not answered
}

// space is what a file system says of its size, in bytes.
type space struct{ size, free, available float64 }

// mount is one file system that is mounted.
type mount struct {
	device, fstype, point string
	readOnly              bool
}

func newMounts(procPath, root string) *mounts {
	return &mounts{procPath: procPath, root: cmp.Or(root, "/"), statfs: statfs, waiting: map[string]bool{}}
}

func (m *mounts) read(ctx context.Context, r *reading) error {
	list, err := m.list()
	if err != nil {
		return err
	}
	type answer struct {
		mount
		space
		err error
	}
	answers := make(chan answer, len(list)) // so that who is late need not wait for a reader
	asked := map[string]mount{}
	for _, at := range list {
		if !m.begin(at.point) {
			m.failed(r, at)
			continue
		}
		asked[at.point] = at
		// Ends with the call, however long that hangs; begin sees to it that there is one for each mount point.
		go func() {
			s, err := m.statfs(filepath.Join(m.root, at.point))
			m.end(at.point)
			answers <- answer{at, s, err}
		}()
	}
	patience := time.NewTimer(mountPatience)
	defer patience.Stop()
	for len(asked) > 0 {
		select {
		case a := <-answers:
			delete(asked, a.point)
			if a.err != nil {
				m.failed(r, a.mount)
				continue
			}
			labels := []string{a.device, a.fstype, a.point}
			r.gauge(filesystemSize, a.size, labels...)
			r.gauge(filesystemFree, a.free, labels...)
			r.gauge(filesystemAvailable, a.available, labels...)
			r.gauge(filesystemReadOnly, number(a.readOnly), labels...)
			r.gauge(filesystemError, 0, labels...)
			continue
		case <-patience.C:
		case <-ctx.Done():
		}
		for _, at := range asked {
			m.failed(r, at)
		}
		return nil
	}
	return nil
}

func (m *mounts) failed(r *reading, at mount) {
	r.gauge(filesystemError, 1, at.device, at.fstype, at.point)
	r.gauge(filesystemReadOnly, number(at.readOnly), at.device, at.fstype, at.point)
}

// begin reports whether a mount point may be asked: it does not owe an answer.
func (m *mounts) begin(point string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting[point] {
		return false
	}
	m.waiting[point] = true
	return true
}

func (m *mounts) end(point string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, point)
}

// list returns what is mounted, as the machine's first process sees it: each mount point once, since one that is mounted
// over cannot be asked.
func (m *mounts) list() ([]mount, error) {
	proc, err := procfs.NewFS(m.procPath)
	if err != nil {
		return nil, err
	}
	infos, err := proc.GetProcMounts(1)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) { // hidepid
		infos, err = proc.GetMounts()
	}
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	byPoint := map[string]mount{}
	for _, info := range infos {
		point := unescape.Replace(info.MountPoint)
		if m.root != "/" {
			if rest, below := strings.CutPrefix(point, m.root); below && (rest == "" || rest[0] == '/') {
				point = cmp.Or(rest, "/")
			}
		}
		point = strings.ToValidUTF8(point, "\uFFFD")
		delete(byPoint, point)
		if excludedMountPoints.MatchString(point) || excludedFSTypes.MatchString(info.FSType) {
			continue
		}
		_, readOnly := info.Options["ro"]
		_, superReadOnly := info.SuperOptions["ro"]
		_, emergency := info.SuperOptions["emergency_ro"]
		byPoint[point] = mount{
			device: strings.ToValidUTF8(unescape.Replace(info.Source), "\uFFFD"), fstype: info.FSType, point: point,
			readOnly: readOnly || superReadOnly || emergency,
		}
	}
	return slices.Collect(maps.Values(byPoint)), nil
}

// unescape undoes what the kernel does to blanks in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
