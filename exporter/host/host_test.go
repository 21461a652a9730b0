package host

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/procfs"
	"go.uber.org/goleak"

	"flyball/exporter"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRegistry(t testing.TB, c *Collector) *prometheus.Registry {
	t.Helper()
	e, err := exporter.New(exporter.Options{}, c)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e)
	return registry
}

// scrape returns the families on the page by name, and the page without how long it took and when it was.
func scrape(t *testing.T, c *Collector) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	registry := newRegistry(t, c)
	gathered, err := registry.Gather()
	if err != nil {
		t.Errorf("gather: %v", err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	families := map[string]*dto.MetricFamily{}
	var page bytes.Buffer
	for _, f := range gathered {
		families[f.GetName()] = f
		if f.GetName() == "flyball_collector_duration_seconds" || f.GetName() == "flyball_collector_last_success_timestamp_seconds" {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&page, f); err != nil {
			t.Fatal(err)
		}
	}
	return families, page.String()
}

func fixture(t *testing.T) *Collector {
	t.Helper()
	return read(t, "testdata/proc", "testdata/sys")
}

// read returns a collector of a machine that is in files, one of whose file systems refuses to answer.
func read(t *testing.T, proc, sys string) *Collector {
	t.Helper()
	c, err := New(Options{ProcPath: proc, SysPath: sys})
	if err != nil {
		t.Fatal(err)
	}
	c.own = cgroups{process: "testdata/proc/self", mounted: "testdata/cgroup2"}
	c.mounts.statfs = func(path string) (space, error) {
		if path == "/boot/efi" {
			return space{}, syscall.EACCES
		}
		return space{size: 1000, free: 300, available: 200}, nil
	}
	return c
}

func TestFixture(t *testing.T) {
	_, got := scrape(t, fixture(t))
	const path = "testdata/host.prom"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// copyFixture returns a copy of the fixture's procfs that a test may change.
func copyFixture(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/proc")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestOldKernel: what a kernel does not have is left out and is no failure.
func TestOldKernel(t *testing.T) {
	proc := copyFixture(t)
	if err := os.RemoveAll(filepath.Join(proc, "pressure")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(proc, "meminfo"), "MemTotal: 1024 kB\nMemFree: 512 kB\n")
	families, page := scrape(t, read(t, proc, t.TempDir()))
	for _, name := range []string{
		"flyball_node_memory_available_bytes", "flyball_node_memory_used_bytes",
		"flyball_node_disk_read_bytes_total", "flyball_node_pressure_waiting_seconds_total",
	} {
		if families[name] != nil {
			t.Errorf("%s is there and cannot be right", name)
		}
	}
	for _, want := range []string{"flyball_node_memory_total_bytes 1.048576e+06\n", "flyball_collector_success{collector=\"host\"} 1\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q on the page:\n%s", want, page)
		}
	}
}

// TestBrokenPart: one file that cannot be read costs its own series and says so.
func TestBrokenPart(t *testing.T) {
	proc := copyFixture(t)
	write(t, filepath.Join(proc, "loadavg"), "nonsense\n")
	c := read(t, proc, "testdata/sys")
	metrics, err := c.Update(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "host: load: ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Update: %v, want one error, about the load", err)
	}
	if all, _ := fixture(t).Update(t.Context()); len(metrics) != len(all)-3 {
		t.Errorf("%d metrics without the three loads, want %d", len(metrics), len(all)-3)
	}
}

// TestCPUTimeNeverStepsBack: the kernel's iowait may fall by a little, a counter may not.
func TestCPUTimeNeverStepsBack(t *testing.T) {
	proc := copyFixture(t)
	c := read(t, proc, "testdata/sys")
	for _, tt := range []struct {
		name, stat string
		want       float64
	}{
		{"first", "cpu 0 0 0 0 1000 0 0 0 0 0\ncpu0 0 0 0 0 1000 0 0 0 0 0\n", 10},
		{"a second less", "cpu 0 0 0 0 900 0 0 0 0 0\ncpu0 0 0 0 0 900 0 0 0 0 0\n", 10},
		{"more", "cpu 0 0 0 0 1100 0 0 0 0 0\ncpu0 0 0 0 0 1100 0 0 0 0 0\n", 11},
		{"it started anew", "cpu 0 0 0 0 100 0 0 0 0 0\ncpu0 0 0 0 0 100 0 0 0 0 0\n", 1},
	} {
		write(t, filepath.Join(proc, "stat"), tt.stat)
		families, _ := scrape(t, c)
		for _, m := range families["flyball_node_cpu_seconds_total"].GetMetric() {
			if m.GetLabel()[0].GetValue() == "iowait" && m.GetCounter().GetValue() != tt.want {
				t.Errorf("%s: iowait %v s, want %v", tt.name, m.GetCounter().GetValue(), tt.want)
			}
		}
	}
}

// TestFamilies: what is published is what the reference page has, and the other way round.
func TestFamilies(t *testing.T) {
	families, _ := scrape(t, fixture(t))
	listed := map[string]bool{}
	for _, f := range Families() {
		listed[f.Name] = true
		got := families[f.Name]
		if got == nil {
			t.Errorf("%s is not on the page", f.Name)
			continue
		}
		var labels []string
		for _, l := range got.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		if got.GetHelp() != f.Help || strings.ToLower(got.GetType().String()) != f.Type || !slices.Equal(labels, f.Labels) {
			t.Errorf("%s: %s %q %v on the page, %s %q %v in the list", f.Name, got.GetType(), got.GetHelp(), labels, f.Type, f.Help, f.Labels)
		}
	}
	for name := range families {
		if strings.HasPrefix(name, "flyball_node_") && !listed[name] {
			t.Errorf("%s is not in the list", name)
		}
	}
}

func TestNew(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, opts := range []Options{{ProcPath: missing}, {ProcPath: "testdata/proc", SysPath: missing}} {
		if _, err := New(opts); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
			t.Errorf("New(%+v): %v, want an error that names %s", opts, err, missing)
		}
	}
}

func TestOtherSystem(t *testing.T) {
	c := &Collector{absent: true}
	metrics, err := c.Update(t.Context())
	if len(metrics) != 0 || !errors.Is(err, exporter.ErrNoData) {
		t.Errorf("Update: %d metrics, %v; want none and ErrNoData", len(metrics), err)
	}
}

func TestDeadline(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if metrics, err := fixture(t).Update(ctx); len(metrics) != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %d metrics, %v; want none and the context's error", len(metrics), err)
	}
}

// TestLive compares with the real procfs, read before and after.
func TestLive(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skipf("%s has no procfs", runtime.GOOS)
	}
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	before, err := proc.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	families, page := scrape(t, c)
	after, err := proc.Stat()
	if err != nil {
		t.Fatal(err)
	}
	memory, err := proc.Meminfo()
	if err != nil {
		t.Fatal(err)
	}

	if !strings.Contains(page, "flyball_collector_success{collector=\"host\"} 1\n") {
		_, err := c.Update(t.Context())
		t.Errorf("the collector failed: %v", err)
	}
	user := -1.0
	for _, m := range families["flyball_node_cpu_seconds_total"].GetMetric() {
		if m.GetLabel()[0].GetValue() == "user" {
			user = m.GetCounter().GetValue()
		}
	}
	if user < before.CPUTotal.User || user > after.CPUTotal.User {
		t.Errorf("CPU time in user mode %v s, want %v to %v", user, before.CPUTotal.User, after.CPUTotal.User)
	}
	value := func(name string) float64 {
		f := families[name]
		if len(f.GetMetric()) != 1 {
			t.Errorf("%s: %d series, want 1", name, len(f.GetMetric()))
			return -1
		}
		return f.GetMetric()[0].GetGauge().GetValue()
	}
	if got, want := value("flyball_node_cpus"), float64(len(after.CPU)); got != want {
		t.Errorf("%v CPUs, want %v", got, want)
	}
	if got, want := value("flyball_node_memory_total_bytes"), float64(*memory.MemTotalBytes); got != want {
		t.Errorf("memory %v bytes, want %v", got, want)
	}
	if used := value("flyball_node_memory_used_bytes"); used <= 0 || used >= float64(*memory.MemTotalBytes) {
		t.Errorf("memory used %v bytes of %v", used, *memory.MemTotalBytes)
	}
	if strings.Contains(page, `device="lo"`) {
		t.Error("the loopback device is on the page")
	}
}

// BenchmarkGather is a scrape of this machine through the exporter.
func BenchmarkGather(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skipf("%s has no procfs", runtime.GOOS)
	}
	c, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	registry := newRegistry(b, c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
