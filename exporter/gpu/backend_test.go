package gpu

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/exporter"
)

// stubborn is a backend that ends when it is let go, not when it is told to.
type stubborn struct {
	begun atomic.Int32
	let   chan struct{}
}

func (s *stubborn) read(context.Context, tiers) (readings, error) {
	s.begun.Add(1)
	<-s.let
	return readings{Devices: gpus(0).Devices}, nil
}

// TestReader: a reading that hangs is left behind, and there is no other before it ends.
func TestReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stubborn{let: make(chan struct{}, 1)}
		w := readerWorker{&reader{name: "x", backend: s}}
		begin := time.Now()
		_, err := w.poll(t.Context(), request{}, 2*time.Second)
		if want := "x: no answer within 2s"; err == nil || err.Error() != want {
			t.Errorf("poll: %v, want %s", err, want)
		}
		if got := time.Since(begin); got != 2*time.Second+reapTime {
			t.Errorf("it took %s", got)
		}
		for range 3 {
			_, err = w.poll(t.Context(), request{}, 2*time.Second)
			if want := "x: no answer: what was begun at 2000-01-01T00:00:00Z has not ended, and no other is begun before it does"; err == nil || err.Error() != want {
				t.Errorf("poll: %v, want %s", err, want)
			}
		}
		if n := s.begun.Load(); n != 1 {
			t.Errorf("%d readings were begun, want 1", n)
		}
		gone := w.kill()
		select {
		case <-gone:
			t.Error("the reading counts as ended")
		default:
		}
		s.let <- struct{}{}
		<-gone
		s.let <- struct{}{}
		if rep, err := w.poll(t.Context(), request{Seq: 9}, 2*time.Second); err != nil || len(rep.Devices) != 1 || rep.Seq != 9 {
			t.Errorf("poll after it ended: %+v, %v", rep, err)
		}
	})
}

// TestAuto: the first way that finds something is taken; one that fails is not passed over.
func TestAuto(t *testing.T) {
	nothing := reply{State: stateAbsent, Error: "no NVIDIA driver", Tried: []string{"libnvidia-ml.so.1: not found"}}
	for _, tt := range []struct {
		name     string
		opts     Options
		nvml     func() (reply, error)
		unbound  string
		smi, amd bool
		backend  string
		log      string
		err      string
		tried    int
		looked   string
	}{
		{name: "NVML", nvml: answers(gpus(0), nil), smi: true, amd: true, backend: BackendNVML},
		{
			name: "no NVML", nvml: answers(nothing, nil), smi: true, amd: true, backend: BackendNvidiaSMI,
			log: `instead_of="nvml: no NVIDIA driver"`,
		},
		{
			name: "no binding to NVML", unbound: "this binary was built without cgo", nvml: answers(gpus(0), nil), smi: true, backend: BackendNvidiaSMI,
			log: `instead_of="this binary was built without cgo"`,
		},
		{
			name: "AMD", nvml: answers(nothing, nil), amd: true, backend: BackendAMDGPU,
			log: `instead_of="nvml: no NVIDIA driver; nvidia-smi: no NVIDIA driver"`,
		},
		{name: "none", nvml: answers(nothing, nil), backend: BackendNone, tried: 3 + len(smiPlaces), looked: "NVML, nvidia-smi, AMD's driver"},
		{name: "NVML hangs", nvml: answers(reply{}, errTimeout), smi: true, err: "no answer"},
		{name: "NVML fails", nvml: answers(reply{State: stateFailed, Error: "broken"}, nil), smi: true, err: "broken"},
		{name: "NVML finds no GPU", nvml: answers(gpus(), nil), smi: true},
		{name: "a library is asked for", opts: Options{Library: "/lib.so"}, nvml: answers(nothing, nil), smi: true, backend: BackendNone, tried: 1, looked: "NVML"},
		{name: "not to be read", opts: Options{Backend: BackendNone}, nvml: answers(gpus(0), nil), smi: true, backend: BackendNone, tried: 1},
		{name: "AMD alone", opts: Options{Backend: BackendAMDGPU}, nvml: answers(gpus(0), nil), smi: true, amd: true, backend: BackendAMDGPU, log: "backend=amdgpu"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(libraryVariable, "")
			t.Setenv("PATH", t.TempDir())
			if tt.smi {
				tt.opts.NvidiaSMI = newSMI(t, "h100-590.48.01.csv", nil).path
			}
			tt.opts.SysPath = t.TempDir()
			if tt.amd {
				tt.opts.SysPath = unpack(t, "vega56.txtar")
			}
			lines, logger := newLog()
			tt.opts.Logger = logger
			started := 0
			b := newBackends(tt.opts, func() (worker, error) {
				started++
				return &fakeWorker{answer: tt.nvml, gone: make(chan struct{})}, nil
			})
			for i := range b.ways {
				if b.ways[i].name == BackendNVML {
					b.ways[i].unbound = tt.unbound
				}
			}
			w, err := b.start()
			if err != nil {
				t.Fatal(err)
			}
			rep, err := w.poll(t.Context(), request{Seq: 7}, time.Minute)
			if got := cmp.Diff(tt.err, errorText(err)+rep.Error); tt.err != "" && got != "" {
				t.Errorf("error (-want +got):\n%s", got)
			}
			if tt.err == "" && (err != nil || rep.Seq != 7) {
				t.Errorf("poll: %+v, %v", rep, err)
			}
			if diff := cmp.Diff(tt.backend, b.chosen); diff != "" {
				t.Errorf("backend (-want +got):\n%s", diff)
			}
			if tt.backend != "" && tt.backend != BackendNone && rep.Backend != tt.backend {
				t.Errorf("backend %q in the reply, want %q", rep.Backend, tt.backend)
			}
			if (rep.State == stateAbsent) != (tt.backend == BackendNone) || len(rep.Tried) != tt.tried {
				t.Errorf("reply: %+v", rep)
			}
			if tt.looked != strings.Join(rep.Looked, ", ") {
				t.Errorf("looked for %q, want %q", rep.Looked, tt.looked)
			}
			if tt.log != "" {
				lines.await(t, tt.log)
			}
			lines.quiet(t)
			if again, err := w.poll(t.Context(), request{Seq: 8}, time.Minute); rep.State == stateOK && (err != nil || again.Backend != rep.Backend) {
				t.Errorf("second poll: %+v, %v", again, err)
			}
			if started > 2 || started > 1 && rep.State != stateAbsent {
				t.Errorf("%d workers for NVML", started)
			}
			lines.quiet(t) // one line for what does not change
			select {
			case <-w.kill():
			case <-time.After(time.Minute):
				t.Error("something is left")
			}
		})
	}
}

// TestSearchEndsWithAll: what is left of several workers has ended when the last of them has.
func TestSearchEndsWithAll(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			s := &search{backends: newBackends(Options{Backend: BackendNone}, nil)}
			var stuck []chan struct{}
			for range n {
				gone := make(chan struct{})
				stuck = append(stuck, gone)
				s.leave(&fakeWorker{stuck: true, gone: gone})
			}
			begin := time.Now()
			gone := s.kill()
			if took := time.Since(begin); took != 0 {
				t.Errorf("%d stuck: to kill it took %s", n, took)
			}
			for i, one := range stuck {
				synctest.Wait()
				if ended(gone) {
					t.Errorf("%d stuck: it counts as ended when %d have", n, i)
				}
				close(one)
			}
			synctest.Wait()
			if !ended(gone) {
				t.Errorf("%d stuck: it does not count as ended when all have", n)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestBackendNone: nothing is read, which is no failure, and the metric says so.
func TestBackendNone(t *testing.T) {
	lines, logger := newLog()
	c := New(Options{Backend: BackendNone, Logger: logger})
	run(t, c)
	lines.await(t, "they are not to be read")
	want := "flyball_collector_success{collector=\"gpu\"} 1\nflyball_gpu_backend_info{backend=\"none\"} 1\n"
	if diff := cmp.Diff(want, series(scrape(t, c))); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
	if metrics, err := c.Update(t.Context()); !errors.Is(err, exporter.ErrNoData) || len(metrics) != 1 {
		t.Errorf("Update: %d metrics, %v", len(metrics), err)
	}
}

// TestBackends: what the configuration takes is what there is.
func TestBackends(t *testing.T) {
	for _, name := range Backends() {
		c := exporter.DefaultConfig()
		c.GPU.Backend = name
		if name == BackendSim {
			c.GPU.Sim = "gpus.yml"
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := exporter.DefaultConfig()
	c.GPU.Backend = "x"
	if err := c.Validate(); err == nil || !strings.HasSuffix(err.Error(), "none of "+strings.Join(Backends(), ", ")) {
		t.Errorf("%v, want that it is none of %v", err, Backends())
	}
}
