package host

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroups reads the cgroup that this process is in, of either version: what a container or a systemd unit lets it have.
type cgroups struct {
	process string // /proc/self
	mounted string // /sys/fs/cgroup
}

func (c cgroups) read(r *reading) error {
	text, err := os.ReadFile(filepath.Join(c.process, "cgroup"))
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	paths := map[string]string{} // by controller; that of version 2 is ""
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			return fmt.Errorf("%s/cgroup: %q", c.process, line)
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			paths[controller] = fields[2]
		}
	}
	if path, v2 := paths[""]; v2 && c.has("cgroup.controllers") {
		return c.readV2(r, newBranch(c.mounted, path))
	}
	var faults []error
	if path, has := paths["cpu"]; has {
		faults = append(faults, c.readCPUv1(r, newBranch(filepath.Join(c.mounted, "cpu"), path)))
	}
	if path, has := paths["cpuacct"]; has {
		faults = append(faults, newBranch(filepath.Join(c.mounted, "cpuacct"), path).value(r.counter, cgroupCPUSeconds, "cpuacct.usage", 1e-9))
	}
	if path, has := paths["memory"]; has {
		faults = append(faults, c.readMemoryV1(r, newBranch(filepath.Join(c.mounted, "memory"), path)))
	}
	return errors.Join(faults...)
}

func (c cgroups) has(file string) bool {
	_, err := os.Stat(filepath.Join(c.mounted, file))
	return err == nil
}

func (c cgroups) readV2(r *reading, b branch) error {
	return errors.Join(
		b.limit(r, cgroupCPULimit, func(dir string) (float64, error) {
			fields, err := words(dir, "cpu.max")
			if err != nil || len(fields) != 2 || fields[0] == "max" {
				return math.Inf(1), err
			}
			return quotient(dir, fields[0], fields[1])
		}),
		b.field(r.counter, cgroupCPUSeconds, "cpu.stat", "usage_usec", 1e-6),
		b.field(r.counter, cgroupThrottled, "cpu.stat", "throttled_usec", 1e-6),
		b.limit(r, cgroupMemoryLimit, func(dir string) (float64, error) {
			fields, err := words(dir, "memory.max")
			if err != nil || len(fields) != 1 || fields[0] == "max" {
				return math.Inf(1), err
			}
			return parse(dir, fields[0])
		}),
		b.value(r.gauge, cgroupMemory, "memory.current", 1),
		b.field(r.counter, cgroupOOMKills, "memory.events", "oom_kill", 1),
	)
}

func (c cgroups) readCPUv1(r *reading, b branch) error {
	return errors.Join(
		b.limit(r, cgroupCPULimit, func(dir string) (float64, error) {
			quota, err := words(dir, "cpu.cfs_quota_us")
			if err != nil || len(quota) != 1 || quota[0] == "-1" {
				return math.Inf(1), err
			}
			period, err := words(dir, "cpu.cfs_period_us")
			if err != nil || len(period) != 1 {
				return math.Inf(1), err
			}
			return quotient(dir, quota[0], period[0])
		}),
		b.field(r.counter, cgroupThrottled, "cpu.stat", "throttled_time", 1e-9),
	)
}

func (c cgroups) readMemoryV1(r *reading, b branch) error {
	return errors.Join(
		b.limit(r, cgroupMemoryLimit, func(dir string) (float64, error) {
			fields, err := words(dir, "memory.limit_in_bytes")
			if err != nil || len(fields) != 1 {
				return math.Inf(1), err
			}
			bytes, err := parse(dir, fields[0])
			if bytes >= unlimitedV1 {
				return math.Inf(1), err
			}
			return bytes, err
		}),
		b.value(r.gauge, cgroupMemory, "memory.usage_in_bytes", 1),
		b.field(r.counter, cgroupOOMKills, "memory.oom_control", "oom_kill", 1),
	)
}

// unlimitedV1 is below what version 1 shows where there is no limit: the largest number of whole pages.
const unlimitedV1 = 1 << 62

// branch are the folders of a cgroup and those above it, the cgroup's own first.
type branch []string

// newBranch finds a cgroup below where its hierarchy is mounted. In a container that is mounted from the container's own
// cgroup on while the path is the machine's: then the mount is the cgroup.
func newBranch(mounted, path string) branch {
	dir := filepath.Join(mounted, path)
	if _, err := os.Stat(dir); err != nil || !strings.HasPrefix(dir+"/", mounted+"/") { // /../cpuset is beside cpu, not below it
		return branch{mounted}
	}
	b := branch{dir}
	for dir != mounted {
		dir = filepath.Dir(dir)
		b = append(b, dir)
	}
	return b
}

// limit publishes the tightest of the limits along the branch; nothing where there is none.
func (b branch) limit(r *reading, f family, read func(dir string) (float64, error)) error {
	tightest := math.Inf(1)
	for _, dir := range b {
		v, err := read(dir)
		if missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		tightest = min(tightest, v)
	}
	if !math.IsInf(tightest, 1) {
		r.gauge(f, tightest)
	}
	return nil
}

// value publishes the only word of a file of the cgroup.
func (b branch) value(publish func(family, float64, ...string), f family, file string, unit float64) error {
	fields, err := words(b[0], file)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(fields) != 1 {
		return fmt.Errorf("%s/%s: %d words, want a number", b[0], file, len(fields))
	}
	v, err := parse(b[0]+"/"+file, fields[0])
	if err != nil {
		return err
	}
	publish(f, v*unit)
	return nil
}

// field publishes the number after a key in a file of the cgroup.
func (b branch) field(publish func(family, float64, ...string), f family, file, key string, unit float64) error {
	fields, err := words(b[0], file)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == key {
			v, err := parse(b[0]+"/"+file, fields[i+1])
			if err != nil {
				return err
			}
			publish(f, v*unit)
		}
	}
	return nil
}

func words(dir, file string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, file))
	return strings.Fields(string(bytes.TrimSpace(text))), err
}

func parse(place, word string) (float64, error) {
	v, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", place, err)
	}
	return float64(v), nil
}

func quotient(place, above, below string) (float64, error) {
	a, err := parse(place, above)
	if err != nil {
		return 0, err
	}
	b, err := parse(place, below)
	if err != nil {
		return 0, err
	}
	if b == 0 {
		return 0, fmt.Errorf("%s: a period of 0", place)
	}
	return a / b, nil
}
