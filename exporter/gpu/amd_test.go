package gpu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// unpack writes the files of an archive into a directory of their own.
func unpack(t *testing.T, name string) string {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", "amd", name))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestAMD reads what real cards have in sysfs.
func TestAMD(t *testing.T) {
	for _, name := range []string{"vega56", "mi250"} {
		t.Run(name, func(t *testing.T) {
			lines, logger := newLog()
			sys := unpack(t, name+".txtar")
			c := New(Options{Backend: BackendAMDGPU, SysPath: sys, Logger: logger, Interval: time.Hour})
			run(t, c)
			lines.await(t, "backend=amdgpu")
			lines.await(t, "reading GPUs")
			read, err := amd{sys: sys}.read(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "amd_"+name+".json", devicesJSON(t, read.Devices))
			golden(t, "amd_"+name+".prom", scrape(t, c))
		})
	}
}

func TestAMDAbsent(t *testing.T) {
	dir := t.TempDir()
	_, err := amd{sys: dir}.read(t.Context(), 0)
	if absent, ok := errors.AsType[*absentError](err); !ok || !strings.HasSuffix(absent.tried[0], "drm: there is none") {
		t.Errorf("read: %v, want that there is no directory", err)
	}
	sys := unpack(t, "vega56.txtar")
	if err := os.WriteFile(filepath.Join(sys, "class/drm/card0/device/uevent"), []byte("DRIVER=vfio-pci\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = amd{sys: sys}.read(t.Context(), 0)
	if absent, ok := errors.AsType[*absentError](err); !ok || !strings.Contains(absent.tried[0], "no GPU of the driver amdgpu") {
		t.Errorf("read: %v, want that there is no GPU", err)
	}
}

// TestAMDWithoutEdge: of a card that has no sensor "edge", as MI300, the chip's temperature and its thresholds are those of "junction".
func TestAMDWithoutEdge(t *testing.T) {
	sys := unpack(t, "vega56.txtar")
	labels, err := filepath.Glob(filepath.Join(sys, "class/drm/card0/device/hwmon/*/temp1_label"))
	if err != nil || len(labels) != 1 {
		t.Fatalf("%v, %v", labels, err)
	}
	dir := filepath.Dir(labels[0])
	for _, name := range []string{"temp1_label", "temp1_input"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"temp2_crit": "105000\n", "temp2_emergency": "110000\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := amd{sys: sys}.read(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	d := got.Devices[0]
	if diff := cmp.Diff(map[string]float64{"gpu": 45, "junction": 45, "memory": 44}, d.Temperature); diff != "" {
		t.Errorf("temperature (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"slowdown": 105, "shutdown": 110}, d.Threshold); diff != "" {
		t.Errorf("thresholds (-want +got):\n%s", diff)
	}
}

// TestAMDUnreadable: a file that cannot be read is the GPU's error; its fellows are read.
func TestAMDUnreadable(t *testing.T) {
	sys := unpack(t, "mi250.txtar")
	path := filepath.Join(sys, "class/drm/card10/device/gpu_busy_percent")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil { // reading it is an error of its own kind (EISDIR)
		t.Fatal(err)
	}
	got, err := amd{sys: sys}.read(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range got.Devices {
		if bad := i == 2; (d.Error != "") != bad || bad && !strings.Contains(d.Error, "gpu_busy_percent") || d.UUID == "" {
			t.Errorf("GPU %d (%s): %q", i, d.UUID, d.Error)
		}
	}
}

// TestAMDHangs: a file that is not answered costs one reading, however often it is tried.
func TestAMDHangs(t *testing.T) {
	sys := unpack(t, "vega56.txtar")
	path := filepath.Join(sys, "class/drm/card0/device/gpu_busy_percent")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	w := readerWorker{&reader{name: BackendAMDGPU, backend: amd{sys: sys}}}
	for _, want := range []string{"no answer within 50ms", "has not ended, and no other is begun"} {
		if _, err := w.poll(t.Context(), request{}, 50*time.Millisecond); !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), want) {
			t.Errorf("poll: %v, want %q", err, want)
		}
	}
	gone := w.kill()
	writer, err := os.OpenFile(path, os.O_WRONLY, 0) // it is answered after all
	if err != nil {
		t.Fatal(err)
	}
	writer.WriteString("17\n")
	writer.Close()
	<-gone
}
