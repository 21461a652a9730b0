//go:build linux && cgo

package gpu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// compile builds the stand-in for NVML. Without a C compiler the test is skipped, but not in CI, which has one.
func compile(t *testing.T, name string, flags ...string) string {
	t.Helper()
	cc, err := exec.LookPath("gcc")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no gcc: CI has to have one, or NVML goes untested")
		}
		t.Skip("no gcc to compile a stand-in for NVML with")
	}
	library := filepath.Join(t.TempDir(), name)
	args := append([]string{"-shared", "-fPIC", "-o", library}, flags...)
	if out, err := exec.Command(cc, append(args, "testdata/nvml_stub.c")...).CombinedOutput(); err != nil {
		t.Fatalf("compile the stand-in for NVML: %v\n%s", err, out)
	}
	return library
}

// self is the command of a worker: this test binary.
func self(t *testing.T) []string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{path, "nvml-worker"}
}

// stubMode sets how the stand-in behaves from now on.
type stubMode struct{ path string }

func newStubMode(t *testing.T, mode string) stubMode {
	t.Helper()
	m := stubMode{path: filepath.Join(t.TempDir(), "mode")}
	t.Setenv("NVML_STUB_MODE", m.path)
	m.set(t, mode)
	return m
}

// set replaces the file in one step, for the stand-in may be reading it.
func (m stubMode) set(t *testing.T, mode string) {
	t.Helper()
	if err := os.WriteFile(m.path+".new", []byte(mode+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.path+".new", m.path); err != nil {
		t.Fatal(err)
	}
}

// TestStub goes the whole way: exporter, collector, worker process, go-nvml, a library that is opened at run time.
func TestStub(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1")
	old := compile(t, "libnvidia-ml-old.so.1", "-DOLD")
	broken := compile(t, "libnvidia-ml-broken.so.1", "-DBROKEN")

	for _, tt := range []struct {
		name, mode, library string
		log                 string
		page                string
	}{
		{name: "normal", mode: "normal", library: library, log: "reading GPUs", page: "normal.prom"},
		{name: "not supported", mode: "unsupported", library: library, log: "reading GPUs", page: "unsupported.prom"},
		{name: "missing symbols", mode: "normal", library: old, log: "reading GPUs", page: "old.prom"},
		{name: "a GPU is lost", mode: "lost", library: library, log: "GPU cannot be read", page: "lost.prom"},
		{name: "no GPU", mode: "empty", library: library, log: "level=WARN", page: "failed.prom"},
		{name: "versions differ", mode: "mismatch", library: library, log: "version mismatch", page: "failed.prom"},
		{name: "symbol missing that no driver lacks", mode: "normal", library: broken, log: "symbol lookup error", page: "failed.prom"},
		{name: "crash", mode: "crash", library: library, log: "SIGABRT", page: "failed.prom"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			newStubMode(t, tt.mode)
			lines, logger := newLog()
			c := New(Options{Worker: self(t), Library: tt.library, Logger: logger, Interval: time.Hour})
			run(t, c)
			lines.await(t, tt.log)
			golden(t, tt.page, scrape(t, c))
		})
	}

	t.Run("no driver", func(t *testing.T) {
		newStubMode(t, "nodriver")
		lines, logger := newLog()
		c := New(Options{Worker: self(t), Library: library, Logger: logger})
		run(t, c)
		lines.await(t, "Driver Not Loaded")
		golden(t, "absent.prom", scrape(t, c))
	})

	t.Run("hang", func(t *testing.T) {
		mode := newStubMode(t, "normal")
		lines, logger := newLog()
		c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: 50 * time.Millisecond, Timeout: time.Second})
		run(t, c)
		lines.await(t, "reading GPUs")
		mode.set(t, "hang")
		lines.await(t, "no answer within 500ms")
		lines.await(t, "no answer within 500ms")
		golden(t, "stale.prom", scrape(t, c))
	})

	t.Run("killed", func(t *testing.T) {
		newStubMode(t, "normal")
		lines, logger := newLog()
		c := New(Options{Worker: self(t), Library: library, Logger: logger, Interval: 20 * time.Millisecond})
		started := make(chan *child, 10)
		c.start = func() (worker, error) {
			w, err := startChild(self(t))
			if err == nil {
				started <- w
			}
			return w, err
		}
		run(t, c)
		lines.await(t, "reading GPUs")
		first := <-started
		if err := first.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		lines.await(t, "GPUs cannot be read")
		lines.await(t, "reading GPUs")
		if second := <-started; second.cmd.Process.Pid == first.cmd.Process.Pid {
			t.Errorf("process %d was killed and still answers", first.cmd.Process.Pid)
		}
	})

	t.Run("worker ends with its parent, hanging or not", func(t *testing.T) {
		for _, mode := range []string{"normal", "hang"} {
			newStubMode(t, mode)
			w, err := startChild(self(t))
			if err != nil {
				t.Fatal(err)
			}
			timeout := time.Minute
			if mode == "hang" {
				timeout = 300 * time.Millisecond
			}
			_, err = w.poll(context.Background(), request{Seq: 1, Library: library}, timeout)
			if got, want := errors.Is(err, errTimeout), mode == "hang"; got != want {
				t.Errorf("%s: poll: %v", mode, err)
			}
			// What the kernel does to the pipe when the parent is gone.
			if err := w.stdin.Close(); err != nil {
				t.Error(err)
			}
			select {
			case <-w.gone:
			case <-time.After(time.Minute):
				t.Errorf("%s: the worker outlives its parent", mode)
			}
			<-w.kill()
		}
	})
}

// TestNoLibrary is what a machine without NVIDIA's driver sees: one line in the log, no series, no failure.
func TestNoLibrary(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	lines, logger := newLog()
	c := New(Options{Worker: self(t), Library: missing, Logger: logger})
	run(t, c)
	line := lines.await(t, "no GPUs to read")
	golden(t, "absent.log", strings.ReplaceAll(line, filepath.Dir(missing), "DIR"))
	golden(t, "absent.prom", scrape(t, c))
	lines.quiet(t)

	t.Run("required", func(t *testing.T) {
		c := New(Options{Worker: self(t), Library: missing, Require: true})
		err := c.Run(t.Context())
		if !errors.Is(err, ErrNoGPU) || !strings.Contains(err.Error(), missing) {
			t.Errorf("Run: %v, want ErrNoGPU that names %s", err, missing)
		}
	})
}

// BenchmarkPoll is one round to the worker and back: two GPUs, nine calls each.
func BenchmarkPoll(b *testing.B) {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		b.Skip("no gcc to compile a stand-in for NVML with")
	}
	library := filepath.Join(b.TempDir(), "libnvidia-ml.so.1")
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-o", library, "testdata/nvml_stub.c").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	path, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	w, err := startChild([]string{path, "nvml-worker"})
	if err != nil {
		b.Fatal(err)
	}
	defer w.kill()
	b.ReportAllocs()
	var seq uint64
	for b.Loop() {
		seq++
		if _, err := w.poll(b.Context(), request{Seq: seq, Library: library}, time.Minute); err != nil {
			b.Fatal(err)
		}
	}
}
