//go:build linux && cgo

package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// replaceFile writes a file that the stand-in may be reading.
func replaceFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// linksOf returns the values of a family by link, of the first GPU.
func linksOf(page, family string) map[string]string {
	got := map[string]string{}
	for line := range strings.Lines(page) {
		rest, found := strings.CutPrefix(line, family+`{gpu="0",link="`)
		if link, value, ok := strings.Cut(rest, `",uuid="GPU-00000000-0000-0000-0000-000000000000"} `); found && ok {
			got[link] = strings.TrimSpace(value)
		}
	}
	return got
}

// TestStubNVLinkPerLink goes the whole way: the bytes of each link, each counted from where it was, in the place of their sum.
func TestStubNVLinkPerLink(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	for _, tt := range []struct {
		mode  string
		unit  int // bytes
		links int // that count; 0 for their sum alone
	}{
		{"normal", 1024, 17}, // link 17 is down
		{"nvlink5", 1, 18},
		{"nvlinksum", 0, 0},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			mode := newStubMode(t, tt.mode)
			sent := filepath.Join(t.TempDir(), "nvlink")
			t.Setenv("NVML_STUB_NVLINK", sent)
			replaceFile(t, sent, "1000000\n")
			lines, logger := newLog()
			c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: 20 * time.Millisecond, NVLinkPerLink: true})
			run(t, c)
			lines.await(t, "reading GPUs")
			await := func(n int) {
				t.Helper()
				tx, rx := map[string]string{}, map[string]string{}
				for link := range tt.links {
					sum := float64((link + 1) * n * tt.unit)
					tx[strconv.Itoa(link)], rx[strconv.Itoa(link)] = strconv.FormatFloat(sum, 'g', -1, 64), strconv.FormatFloat(10*sum, 'g', -1, 64)
				}
				if tt.links == 0 {
					tx["all"], rx["all"] = "0", "0"
				}
				for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until the other process has done its work
					page := scrape(t, c)
					diff := cmp.Diff([]map[string]string{tx, rx}, []map[string]string{linksOf(page, "flyball_gpu_nvlink_tx_bytes_total"), linksOf(page, "flyball_gpu_nvlink_rx_bytes_total")})
					if diff == "" {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("bytes by link (-want +got):\n%s", diff)
					}
				}
			}
			await(0)
			replaceFile(t, sent, "1000007\n")
			await(7)
			mode.set(t, "reload")
			lines.awaitAny(t, "GPUs cannot be read")
			replaceFile(t, sent, "5\n") // the driver begins again
			mode.set(t, tt.mode)
			lines.awaitAny(t, "reading GPUs")
			await(12)
		})
	}
	t.Run("odd", func(t *testing.T) {
		newStubMode(t, "nvlinkodd")
		lines, logger := newLog()
		c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: time.Hour, NVLinkPerLink: true})
		run(t, c)
		lines.awaitAny(t, "reading GPUs")
		if page := scrape(t, c); strings.Contains(page, "flyball_gpu_nvlink_tx_bytes_total") {
			t.Errorf("an odd answer about each link is no reason for their sum:\n%s", page)
		}
	})
	t.Run("no NVLink", func(t *testing.T) {
		newStubMode(t, "pcie")
		lines, logger := newLog()
		c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: time.Hour, NVLinkPerLink: true})
		run(t, c)
		lines.await(t, "reading GPUs")
		if page := scrape(t, c); strings.Contains(page, "nvlink") {
			t.Errorf("page:\n%s", page)
		}
	})
}

// TestStubCallDurations goes the whole way: calls are measured in the worker, one after another, and are a histogram here.
func TestStubCallDurations(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			newStubMode(t, "normal")
			lines, logger := newLog()
			c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: time.Hour, Processes: true, CallDurations: on})
			run(t, c)
			lines.await(t, "reading GPUs")
			own := scrapeSelf(t, c)
			if !on {
				if strings.Contains(own, callFamily.Name) {
					t.Errorf("page:\n%s", own)
				}
				return
			}
			for call, want := range map[string]string{
				"nvmlInit_v2":                          "1",
				"nvmlDeviceGetPowerUsage":              "2", // GPUs
				"nvmlDeviceGetClockInfo":               "8",
				"nvmlDeviceGetFieldValues":             "", // as often as is found out by that
				"nvmlDeviceGetNvLinkState":             "36",
				"nvmlDeviceGetComputeRunningProcesses": "2",
				"nvmlDeviceGetPciInfo":                 "",
				"nvmlDeviceGetHandleByIndex":           "",
				"nvmlGpmSampleGet":                     "2",
			} {
				got := value(own, callFamily.Name+`_count{call="`+call+`"}`)
				if got == "" || want != "" && got != want {
					t.Errorf("%q calls of %s, want %q", got, call, want)
				}
			}
			for line := range strings.Lines(own) {
				rest, found := strings.CutPrefix(line, callFamily.Name+`_count{call="`)
				call, _, _ := strings.Cut(rest, `"`)
				if found && !slices.Contains(Symbols(), call) {
					t.Errorf("%s is none of the calls that are made", call)
				}
				if call == "nvmlEventSetWait" || call == "nvmlErrorString" {
					t.Errorf("%s is measured", call)
				}
			}
		})
	}
}

// TestStubSlowStart: GPUs that take their time one after another, more than a start may say nothing, are no start that hangs;
// one that takes longer by itself is.
func TestStubSlowStart(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	t.Setenv("NVML_STUB_GPUS", "16")
	newStubMode(t, "normal")
	t.Setenv("NVML_STUB_ATTACH_MS", "250")
	lines, logger := newLog()
	c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: time.Hour, StartTimeout: 3 * time.Second})
	run(t, c)
	lines.await(t, `msg="reading GPUs" gpus=16`)
	if got := value(scrapeSelf(t, c), `flyball_nvml_worker_restarts_total{reason="timeout"}`); got != "0" {
		t.Errorf("%s workers were given up", got)
	}
}

// TestStubMismatch: a driver that was upgraded while its old kernel module is loaded is a reload of the driver, not an error, and
// what to do is in the log once.
func TestStubMismatch(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	mode := newStubMode(t, "normal")
	lines, logger := newLog()
	c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: 20 * time.Millisecond})
	run(t, c)
	lines.await(t, "reading GPUs")
	mode.set(t, "mismatch")
	lines.await(t, "GPUs cannot be read") // a call says so
	line := lines.await(t, "modprobe")    // and then the next worker, at init
	if !strings.Contains(line, "nvmlInit: Driver/library version mismatch") || !strings.Contains(line, "or restart the machine") {
		t.Errorf("log line %q", line)
	}
	reloads := func() string {
		return value(scrapeSelf(t, c), `flyball_nvml_worker_restarts_total{reason="driver_reload"}`)
	}
	for deadline := time.Now().Add(time.Minute); reloads() != "3"; time.Sleep(10 * time.Millisecond) { // until another worker has failed
		if time.Now().After(deadline) {
			t.Fatalf("%s reloads of the driver", reloads())
		}
	}
	lines.quiet(t)
	if got := value(scrapeSelf(t, c), `flyball_nvml_worker_restarts_total{reason="error"}`); got != "0" {
		t.Errorf("%s errors", got)
	}
	mode.set(t, "normal")
	lines.await(t, "reading GPUs")
}

// TestStubProcFS: the names of processes are those of the procfs that is given.
func TestStubProcFS(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	newStubMode(t, "normal")
	procfs := t.TempDir()
	if err := os.Mkdir(filepath.Join(procfs, "5000000"), 0o755); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, filepath.Join(procfs, "5000000", "comm"), "of the host\n")
	lines, logger := newLog()
	c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: time.Hour, Processes: true, ProcPath: procfs})
	run(t, c)
	lines.await(t, "reading GPUs")
	if page := scrape(t, c); !strings.Contains(page, `comm="of the host",gi="",gpu="0",pid="5000000"`) {
		t.Errorf("page:\n%s", page)
	}
}
