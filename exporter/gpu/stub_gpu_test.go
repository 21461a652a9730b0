//go:build linux && cgo

package gpu

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// eightGPUs makes the stand-in have as many GPUs.
func eightGPUs(t *testing.T) string {
	t.Helper()
	library := compile(t, "libnvidia-ml.so.1")
	t.Setenv("NVML_STUB_GPUS", "8")
	return library
}

// await waits for a line with the text, whatever else is logged before.
func (l logLines) awaitAny(t *testing.T, text string) {
	t.Helper()
	for line := l.await(t, ""); !strings.Contains(line, text); line = l.await(t, "") {
	}
}

// upOf returns flyball_gpu_up of each GPU by index, and ones in place of those that have a value.
func upOf(page string) (up, values string) {
	for i := range 8 {
		gpu := `gpu="` + strconv.Itoa(i) + `"`
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "flyball_gpu_up{") && strings.Contains(line, gpu) {
				up += line[len(line)-2 : len(line)-1]
			}
			if strings.HasPrefix(line, "flyball_gpu_power_watts{") && strings.Contains(line, gpu) {
				values += strconv.Itoa(i)
			}
		}
	}
	return up, values
}

// TestStubOneGPU goes the whole way, like TestStub: whatever one GPU of eight does to the library, the others are read on,
// and it comes back when it is well again.
func TestStubOneGPU(t *testing.T) {
	library := eightGPUs(t)
	for _, tt := range []struct{ mode, log, reason string }{
		{"hang 3", "no answer within 500ms", reasonTimeout},
		{"freeze 3", "no answer within 500ms", reasonTimeout}, // before it tells its UUID
		{"segv 3", "signal", reasonCrash},
		{"crash 3", "signal: aborted", reasonCrash},
		{"lost 3", "the GPU is lost", reasonLost},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			mode := newStubMode(t, "normal")
			lines, logger := newLog()
			c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: 200 * time.Millisecond, Timeout: time.Second})
			c.hungRetry = 100 * time.Millisecond
			run(t, c)
			lines.await(t, "reading GPUs")
			mode.set(t, tt.mode)
			lines.awaitAny(t, "gpu=3 err=")
			first := lastTaken(c, "GPU-00000000-0000-0000-0000-000000000007")
			for deadline := time.Now().Add(time.Minute); lastTaken(c, "GPU-00000000-0000-0000-0000-000000000007").Equal(first); {
				if time.Now().After(deadline) {
					t.Fatal("GPU 7 is not read any more")
				}
				time.Sleep(10 * time.Millisecond) // until the other process has done its work
			}
			page, own := scrapeBoth(t, c)
			if up, values := upOf(page); up != "11101111" || values != "0124567" {
				t.Errorf("up %s, with values %s", up, values)
			}
			errors := value(own, `flyball_gpu_collect_errors_total{gpu="3",reason="`+tt.reason+`",uuid="GPU-00000000-0000-0000-0000-000000000003"}`)
			if errors == "" || errors == "0" || value(own, `flyball_gpus{state="seen"}`) != "8" {
				t.Errorf("page:\n%s", own)
			}
			mode.set(t, "normal")
			lines.awaitAny(t, "GPU is read again")
			if up, values := upOf(scrape(t, c)); up != "11111111" || values != "01234567" {
				t.Errorf("after it is well again: up %s, with values %s", up, values)
			}
		})
	}
}

// lastTaken returns when the GPU was read last.
func lastTaken(c *Collector, uuid string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.gpus[uuid]; g != nil {
		return g.taken
	}
	return time.Time{}
}

// TestStubCounters: what the driver counts and reports goes on over a reload of the driver and a wrap, and no scrape makes
// a call.
func TestStubCounters(t *testing.T) {
	library := eightGPUs(t)
	dir := t.TempDir()
	pcie, xids, calls := filepath.Join(dir, "pcie"), filepath.Join(dir, "xids"), filepath.Join(dir, "calls")
	write := func(path, text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("NVML_STUB_PCIE", pcie)
	t.Setenv("NVML_STUB_XIDS", xids)
	t.Setenv("NVML_STUB_CALLS", calls)
	write(pcie, "4294967000 1000\n")
	mode := newStubMode(t, "normal")
	lines, logger := newLog()
	c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: 50 * time.Millisecond})
	run(t, c)
	lines.await(t, "reading GPUs")
	await := func(series, want string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until the other process has done its work
			page, own := scrapeBoth(t, c)
			got := value(page+own, series)
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is %q after a minute, want %q", series, got, want)
			}
		}
	}
	const gpu3 = `gpu="3",uuid="GPU-00000000-0000-0000-0000-000000000003"`
	await(`flyball_gpu_pcie_tx_bytes_total{`+gpu3+`}`, "0")
	write(pcie, "504 1500\n") // sent: a wrap
	await(`flyball_gpu_pcie_tx_bytes_total{`+gpu3+`}`, "800")
	await(`flyball_gpu_pcie_rx_bytes_total{`+gpu3+`}`, "500")
	write(xids, "3 79\n")
	await(`flyball_gpu_xid_errors_total{class="hardware",`+gpu3+`,xid="79"}`, "1")

	mode.set(t, "reload")
	lines.awaitAny(t, "GPUs cannot be read")
	write(pcie, "7 20\n") // the driver begins again
	mode.set(t, "normal")
	lines.awaitAny(t, "reading GPUs")
	await(`flyball_gpu_pcie_tx_bytes_total{`+gpu3+`}`, "807")
	await(`flyball_gpu_pcie_rx_bytes_total{`+gpu3+`}`, "520")
	await(`flyball_gpu_xid_errors_total{class="hardware",`+gpu3+`,xid="79"}`, "1")
	await(`flyball_nvml_worker_restarts_total{reason="driver_reload"}`, "1")
	write(xids, "3 79\n5 13\n")
	await(`flyball_gpu_xid_errors_total{class="hardware",`+gpu3+`,xid="79"}`, "2")
	await(`flyball_gpu_xid_errors_total{class="app",gpu="5",uuid="GPU-00000000-0000-0000-0000-000000000005",xid="13"}`, "1")

	t.Run("no call by a scrape", func(t *testing.T) {
		c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: time.Hour})
		write(calls, "")
		quiet := filepath.Join(dir, "quiet")
		t.Setenv("NVML_STUB_CALLS", quiet)
		run(t, c)
		lines.awaitAny(t, "reading GPUs")
		before, err := os.Stat(quiet)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if page := scrape(t, c); !strings.Contains(page, "flyball_gpu_power_watts") {
				t.Fatalf("page:\n%s", page)
			}
		}
		if after, err := os.Stat(quiet); err != nil || before.Size() == 0 || after.Size() != before.Size() {
			t.Errorf("%d calls before 20 scrapes, %d after, %v", before.Size(), after.Size(), err)
		}
	})
}

// TestStubHangsLeakNothing: after 50 calls that hung in the library there is nothing left of the workers that made them.
func TestStubHangsLeakNothing(t *testing.T) {
	library := eightGPUs(t)
	newStubMode(t, "hang 0")
	_, _, goroutines := resources(t)
	var fds, threads int
	for i := range 50 {
		w, err := startChild(self(t))
		if err != nil {
			t.Fatal(err)
		}
		w.limits = limits{start: time.Minute, attach: time.Minute, gpu: 20 * time.Millisecond}
		if _, err := w.poll(t.Context(), request{Seq: 1, Library: library}, time.Minute); failed(err).reason != reasonTimeout {
			t.Fatalf("hang %d: %v", i, err)
		}
		<-w.kill()
		if i == 9 { // the runtime has the threads that it wants
			fds, threads, _ = atRest(t, goroutines)
		}
	}
	f, th, g := atRest(t, goroutines)
	if f > fds || th > threads+3 || g > goroutines {
		t.Errorf("after 10 hangs %d files, %d threads; after 50 %d, %d; %d goroutines, before the first %d", fds, threads, f, th, g, goroutines)
	}
}
