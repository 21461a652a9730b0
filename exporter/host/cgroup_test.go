package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
)

// values returns what was read by the names of the families, without what all have in common.
func values(t *testing.T, r reading, prefix string) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	for _, m := range r.metrics {
		var out dto.Metric
		if err := m.Write(&out); err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(m.Desc().String(), `Desc{fqName: "flyball_node_`+prefix), `"`)
		for _, l := range out.GetLabel() {
			name += " " + l.GetValue()
		}
		got[name] = out.GetGauge().GetValue() + out.GetCounter().GetValue()
	}
	return got
}

func TestCgroup(t *testing.T) {
	v2 := map[string]string{
		"cgroup.controllers": "cpu memory\n",
		"a/b/memory.current": "4096\n", "a/b/memory.max": "max\n", "a/b/cpu.max": "max 100000\n",
		"a/b/cpu.stat":      "usage_usec 2000000\nthrottled_usec 500000\n",
		"a/b/memory.events": "oom 3\noom_kill 1\n",
		"a/memory.max":      "8192\n", "a/cpu.max": "50000 100000\n",
	}
	v1 := map[string]string{
		"memory/a/memory.limit_in_bytes": "8192\n", "memory/memory.limit_in_bytes": "9223372036854771712\n",
		"memory/a/memory.usage_in_bytes": "4096\n", "memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
		"cpu/a/cpu.stat": "nr_periods 3\nnr_throttled 2\nthrottled_time 500000000\n", "cpuacct/a/cpuacct.usage": "2000000000\n",
	}
	all := map[string]float64{
		"cpu_limit_cores": 0.5, "cpu_seconds_total": 2, "cpu_throttled_seconds_total": 0.5,
		"memory_limit_bytes": 8192, "memory_used_bytes": 4096, "oom_kills_total": 1,
	}
	with := func(files map[string]string, more ...string) map[string]string {
		changed := map[string]string{}
		for name, text := range files {
			changed[name] = text
		}
		for i := 0; i < len(more); i += 2 {
			changed[more[i]] = more[i+1]
		}
		return changed
	}
	without := func(names ...string) map[string]float64 {
		left := map[string]float64{}
		for name, v := range all {
			left[name] = v
		}
		for _, name := range names {
			delete(left, name)
		}
		return left
	}
	// moved takes what is at a folder to the top, as a container has it.
	moved := func(files map[string]string, folder string) map[string]string {
		changed := map[string]string{}
		for name, text := range files {
			changed[strings.Replace(name, folder, "", 1)] = text
		}
		return changed
	}
	for _, tt := range []struct {
		name, self string
		files      map[string]string
		want       map[string]float64
		fault      string
	}{
		{name: "version 2, limits above", self: "0::/a/b\n", files: v2, want: all},
		{name: "version 2 in a container's namespace", self: "0::/\n", files: with(moved(v2, "a/b/"), "memory.max", "8192\n", "cpu.max", "50000 100000\n"), want: all},
		{name: "version 2 in a container without one", self: "0::/kubepods/x\n", files: with(moved(v2, "a/b/"), "memory.max", "8192\n", "cpu.max", "50000 100000\n"), want: all},
		{name: "version 2 beside a namespace", self: "0::/../x\n", files: with(moved(v2, "a/b/"), "memory.max", "8192\n", "cpu.max", "50000 100000\n"), want: all},
		{name: "version 2 without limits", self: "0::/a/b\n", files: with(v2, "a/memory.max", "max\n", "a/cpu.max", "max 100000\n"), want: without("cpu_limit_cores", "memory_limit_bytes")},
		{name: "the root of version 2", self: "0::/\n", files: map[string]string{"cgroup.controllers": "cpu\n", "cpu.stat": "usage_usec 2000000\n"}, want: map[string]float64{"cpu_seconds_total": 2}},
		{name: "version 1", self: "5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n", files: v1, want: all},
		{name: "version 1 without limits", self: "5:memory:/a\n4:cpu,cpuacct:/a\n", files: with(v1, "memory/a/memory.limit_in_bytes", "9223372036854771712\n", "cpu/a/cpu.cfs_quota_us", "-1\n"), want: without("cpu_limit_cores", "memory_limit_bytes")},
		{name: "version 1 beside a namespace", self: "4:cpu:/../cpuset\n", files: map[string]string{"cpu/cpu.stat": "throttled_time 500000000\n", "cpuset/tasks": ""}, want: map[string]float64{"cpu_throttled_seconds_total": 0.5}},
		{name: "nothing mounted", self: "0::/a\n", want: map[string]float64{}},
		{name: "one that is broken", self: "0::/a/b\n", files: with(v2, "a/b/memory.current", "much\n", "a/cpu.max", "1 0\n"), want: without("memory_used_bytes", "cpu_limit_cores"), fault: `DIR/a: a period of 0
DIR/a/b/memory.current: strconv.ParseUint: parsing "much": invalid syntax`},
		{name: "no cgroups that anybody knows", self: "nonsense\n", files: v2, want: map[string]float64{}, fault: `SELF/cgroup: "nonsense\n"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cgroups{process: t.TempDir(), mounted: t.TempDir()}
			write(t, filepath.Join(c.process, "cgroup"), tt.self)
			for name, text := range tt.files {
				path := filepath.Join(c.mounted, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, path, text)
			}
			var r reading
			err := c.read(&r)
			if diff := cmp.Diff(tt.want, values(t, r, "cgroup_")); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			fault := strings.NewReplacer(c.process, "SELF", c.mounted, "DIR").Replace(fmt.Sprint(err))
			if err == nil {
				fault = ""
			}
			if diff := cmp.Diff(tt.fault, fault); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}
