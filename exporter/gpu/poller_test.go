package gpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/exporter"
)

// fakeWorker answers every poll with the same thing.
type fakeWorker struct {
	answer func() (reply, error)
	to     func(request) (reply, error) // instead of answer, where it is set
	stuck  bool                         // it cannot be killed
	gone   chan struct{}
}

func (w *fakeWorker) poll(_ context.Context, req request, _ time.Duration) (reply, error) {
	if w.to != nil {
		return w.to(req)
	}
	rep, err := w.answer()
	rep.Seq = req.Seq
	return rep, err
}

func (w *fakeWorker) kill() <-chan struct{} {
	if !w.stuck {
		close(w.gone)
	}
	return w.gone
}

// staff is every worker that was started, and when.
type staff struct {
	mu      sync.Mutex
	begin   time.Time
	at      []time.Duration
	workers []*fakeWorker
}

func (s *staff) add(w *fakeWorker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Since(s.begin))
	s.workers = append(s.workers, w)
}

func (s *staff) starts() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

// fake returns a collector whose workers all give the same answers.
func fake(opts Options, stuck bool, answer func() (reply, error)) (*Collector, *staff) {
	s := &staff{begin: time.Now()}
	c := New(opts)
	c.unbound = ""
	c.start = func() (worker, error) {
		w := &fakeWorker{answer: answer, stuck: stuck, gone: make(chan struct{})}
		s.add(w)
		return w, nil
	}
	return c, s
}

func gpus(indexes ...int) reply {
	rep := reply{State: stateOK, Driver: "570.1", Library: "lib.so"}
	for _, i := range indexes {
		rep.Devices = append(rep.Devices, Device{Index: i, UUID: fmt.Sprintf("GPU-%d", i), Name: "H100"})
	}
	return rep
}

func answers(rep reply, err error) func() (reply, error) {
	return func() (reply, error) { return rep, err }
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, logger := newLog()
		c, workers := fake(Options{Logger: logger}, false, answers(reply{}, errors.New("broken")))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Second)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		var want []time.Duration
		for _, s := range []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183} { // doubling from 1 s to 1 m
			want = append(want, s*time.Second)
		}
		if diff := cmp.Diff(want, workers.starts()); diff != "" {
			t.Errorf("starts of workers (-want +got):\n%s", diff)
		}
		lines.await(t, "broken")
		lines.quiet(t) // the failure is logged once
	})
}

func TestStuckWorkersAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, workers := fake(Options{}, true, answers(reply{}, errTimeout))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if got := len(workers.starts()); got != maxAbandoned {
			t.Errorf("%d workers were started, none of which could be killed; want %d", got, maxAbandoned)
		}
		if _, err := c.Update(t.Context()); err == nil || !strings.Contains(err.Error(), "3 workers are stuck") {
			t.Errorf("Update: %v, want it to say that 3 workers are stuck", err)
		}
	})
}

func TestStuckWorkerThatEndsMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, workers := fake(Options{}, true, answers(reply{}, errTimeout))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = c.Run(ctx) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := len(workers.starts()); got != maxAbandoned {
			t.Fatalf("%d workers, want %d", got, maxAbandoned)
		}
		close(workers.workers[0].gone)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := len(workers.starts()); got != maxAbandoned+1 {
			t.Errorf("%d workers after one of %d ended, want one more", got, maxAbandoned)
		}
	})
}

// TestStale: the last snapshot is published for three intervals after it was taken, with short ones for as long as it takes to
// replace a worker that hangs, and then only that the GPUs are down.
func TestStale(t *testing.T) {
	for _, tt := range []struct {
		opts Options
		age  time.Duration // that is published
	}{
		{Options{}, 15 * time.Second},
		{Options{Interval: time.Second}, 5 * time.Second},
		{Options{Timeout: 20 * time.Second}, 27 * time.Second},
	} {
		t.Run(fmt.Sprint(tt.age), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { stale(t, tt.opts, tt.age) })
		})
	}
}

func stale(t *testing.T, opts Options, age time.Duration) {
	var hangs atomic.Bool
	c, _ := fake(opts, false, func() (reply, error) {
		if hangs.Load() {
			return reply{}, errTimeout
		}
		return gpus(0), nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = c.Run(ctx) }()
	synctest.Wait()
	taken := time.Now()
	hangs.Store(true)
	for _, tt := range []struct {
		age  time.Duration
		want string
	}{
		{0, "flyball_gpu_info flyball_gpu_up=1"},
		{age, "flyball_gpu_info flyball_gpu_up=1"},
		{age + time.Second, "flyball_gpu_up=0 error"},
	} {
		time.Sleep(tt.age - time.Since(taken))
		page := scrape(t, c)
		var got []string
		if strings.Contains(page, "flyball_gpu_info{") {
			got = append(got, "flyball_gpu_info")
		}
		if strings.Contains(page, `flyball_gpu_up{gpu="0",uuid="GPU-0"} 1`) {
			got = append(got, "flyball_gpu_up=1")
		}
		if strings.Contains(page, `flyball_gpu_up{gpu="0",uuid="GPU-0"} 0`) {
			got = append(got, "flyball_gpu_up=0")
		}
		if strings.Contains(page, `flyball_collector_success{collector="gpu"} 0`) {
			got = append(got, "error")
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("after %s (-want +got):\n%s\n%s", tt.age, diff, page)
		}
	}
}

// TestAbsent: no driver is looked for every 30 s, found when it comes, and a failure when it goes.
func TestAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Pointer[reply]
		now.Store(&reply{State: stateAbsent, Error: "no NVIDIA driver", Tried: []string{"here", "there"}})
		lines, logger := newLog()
		c, workers := fake(Options{Logger: logger}, false, func() (reply, error) { return *now.Load(), nil })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = c.Run(ctx) }()

		time.Sleep(61 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]time.Duration{0, 30 * time.Second, 60 * time.Second}, workers.starts()); diff != "" {
			t.Errorf("looked for (-want +got):\n%s", diff)
		}
		if metrics, err := c.Update(ctx); !errors.Is(err, exporter.ErrNoData) || len(metrics) != 0 {
			t.Errorf("Update: %d metrics, %v; want none and ErrNoData", len(metrics), err)
		}
		lines.await(t, `why="no NVIDIA driver" retry=30s`)
		lines.quiet(t)

		both := gpus(0, 1)
		now.Store(&both)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		lines.await(t, "gpus=2")

		now.Store(&reply{State: stateAbsent, Error: "no NVIDIA driver", Tried: []string{"here"}})
		time.Sleep(30 * time.Second)
		synctest.Wait()
		lines.await(t, "level=WARN")
		if _, err := c.Update(ctx); err == nil || errors.Is(err, exporter.ErrNoData) {
			t.Errorf("Update after the driver went: %v, want a failure", err)
		}
	})
}

// TestAbsentLog: one short line says what was looked for, and those for who debugs where.
func TestAbsentLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rep := reply{State: stateAbsent, Error: "no driver", Looked: []string{"NVML", "nvidia-smi"}, Tried: []string{"here: not found", "there: not found"}}
		for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
			var text bytes.Buffer
			c, _ := fake(Options{Logger: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: level}))}, false, answers(rep, nil))
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
			cancel()
			var got []string
			for line := range strings.Lines(text.String()) {
				_, line, _ = strings.Cut(line, " ")
				got = append(got, strings.TrimSpace(line))
			}
			want := []string{
				`level=INFO msg="no GPUs to read" why="no driver" looked_for="NVML, nvidia-smi" retry=30s`,
				`level=DEBUG msg="no GPUs to read there" tried="here: not found"`,
				`level=DEBUG msg="no GPUs to read there" tried="there: not found"`,
			}
			if level == slog.LevelInfo {
				want = want[:1]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("log at %s (-want +got):\n%s", level, diff)
			}
		}
	})
}

// TestStuckTrialDelaysNobody: the worker of a trial that takes long to kill takes nothing from the GPUs that work.
func TestStuckTrialDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := fake(Options{Interval: 200 * time.Millisecond}, false, nil)
		var polls []time.Time
		trials := 0
		c.start = func() (worker, error) {
			return &slowWorker{fakeWorker{gone: make(chan struct{}), to: func(req request) (reply, error) {
				rep := gpus(0, 1)
				switch {
				case req.Only != "":
					trials++
					return reply{}, &failure{reason: reasonTimeout, gpu: &place{index: 0, count: 2, uuid: "GPU-0"}, err: errTimeout}
				case len(req.Skip) == 0:
					return reply{}, &failure{reason: reasonTimeout, gpu: &place{index: 0, count: 2, uuid: "GPU-0"}, err: errTimeout}
				}
				polls = append(polls, time.Now())
				rep.Devices, rep.Skipped = rep.Devices[1:], []Device{{Index: 0, UUID: "GPU-0"}}
				return rep, nil
			}}}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		if trials < 8 {
			t.Errorf("%d trials", trials)
		}
		for i := 1; i < len(polls); i++ {
			if apart := polls[i].Sub(polls[i-1]); apart != 200*time.Millisecond {
				t.Fatalf("poll %d is %s after the one before", i, apart)
			}
		}
	})
}

// slowWorker takes long to kill.
type slowWorker struct{ fakeWorker }

func (w *slowWorker) kill() <-chan struct{} {
	time.Sleep(reapTime)
	return w.fakeWorker.kill()
}

// TestEmpty: a library that works and finds no GPU is a failure, looked into every 30 s.
func TestEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, logger := newLog()
		c, workers := fake(Options{Logger: logger}, false, answers(gpus(), nil))
		ctx, cancel := context.WithTimeout(t.Context(), 61*time.Second)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if diff := cmp.Diff([]time.Duration{0, 30 * time.Second, 60 * time.Second}, workers.starts()); diff != "" {
			t.Errorf("starts of workers (-want +got):\n%s", diff)
		}
		lines.await(t, "retry=30s")
		lines.quiet(t)
		if page := series(scrape(t, c)); page != "flyball_collector_success{collector=\"gpu\"} 0\n" {
			t.Errorf("page:\n%s", page)
		}
	})
}

func TestRequire(t *testing.T) {
	for _, tt := range []struct {
		name string
		rep  reply
		want string
	}{
		{"no driver", reply{State: stateAbsent, Error: "no NVIDIA driver", Tried: []string{"here: not found"}}, "gpu: no GPU: no NVIDIA driver: here: not found"},
		{"no GPU", gpus(), "gpu: no GPU: lib.so, driver 570.1, works but finds no GPU: are the devices /dev/nvidia* there?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := fake(Options{Require: true}, false, answers(tt.rep, nil))
			err := c.Run(t.Context())
			if !errors.Is(err, ErrNoGPU) || err.Error() != tt.want {
				t.Errorf("Run: %v, want %s", err, tt.want)
			}
			if diff := cmp.Diff(tt.rep.Tried, Tried(err)); diff != "" {
				t.Errorf("tried (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnbound: a build without the binding starts no worker and is no failure.
func TestUnbound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, logger := newLog()
		c, workers := fake(Options{Logger: logger}, false, answers(gpus(0), nil))
		c.unbound = "built without cgo"
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		lines.await(t, "built without cgo")
		lines.quiet(t)
		if len(workers.starts()) != 0 {
			t.Errorf("%d workers were started", len(workers.starts()))
		}
		if _, err := c.Update(ctx); !errors.Is(err, exporter.ErrNoData) {
			t.Errorf("Update: %v, want ErrNoData", err)
		}
	})
}

// TestTaken: each GPU of a snapshot has the time when it was read itself.
func TestTaken(t *testing.T) {
	c := New(Options{})
	begin := time.Now()
	c.accept(gpus(0, 1), begin)
	late := gpus(0)
	late.State = "" // the poll ended over GPU 1
	c.accept(late, begin.Add(time.Second))
	s := c.Snapshot()
	if !s.Taken.Equal(begin.Add(time.Second)) || !s.Devices[0].Taken.Equal(s.Taken) || !s.Devices[1].Taken.Equal(begin) {
		t.Errorf("snapshot of %v, GPUs of %v and %v", s.Taken, s.Devices[0].Taken, s.Devices[1].Taken)
	}
}

// TestGPULeaves: a GPU that was there once and is not now is down, not forgotten.
func TestGPULeaves(t *testing.T) {
	lines, logger := newLog()
	c := New(Options{Logger: logger})
	c.accept(gpus(0, 1), time.Now())
	c.accept(gpus(0), time.Now())
	lines.await(t, "GPU-1")
	want := `flyball_collector_success{collector="gpu"} 0
flyball_gpu_info{arch="",cuda_version="",driver_version="570.1",gpu="0",mig_mode="",name="H100",pci_bus_id="",serial="",uuid="GPU-0",vbios="",vendor="nvidia"} 1
flyball_gpu_up{gpu="0",uuid="GPU-0"} 1
flyball_gpu_up{gpu="1",uuid="GPU-1"} 0
`
	if diff := cmp.Diff(want, series(scrape(t, c))); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
	c.accept(gpus(0, 1), time.Now())
	lines.await(t, "read again")
	lines.quiet(t)
}

// TestOutcastThatIsRead: a worker that hangs on a GPU which it was to leave out is replaced later every time, and that of the
// GPU's first time at once.
func TestOutcastThatIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, workers := fake(Options{}, false, answers(reply{}, &failure{
			reason: reasonTimeout, gpu: &place{index: 0, count: 1, uuid: "GPU-0"}, err: errTimeout,
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Second)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		var want []time.Duration
		for _, s := range []time.Duration{0, 0, 1, 3, 7, 15, 31, 63, 123, 183} {
			want = append(want, s*time.Second)
		}
		if diff := cmp.Diff(want, workers.starts()); diff != "" {
			t.Errorf("starts of workers (-want +got):\n%s", diff)
		}
	})
}

// TestNamelessHang: a GPU that hangs before it tells its UUID, at every trial again, is told of once.
func TestNamelessHang(t *testing.T) {
	for _, tt := range []struct {
		name  string
		known bool // it was read before
	}{{"never read", false}, {"read before", true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines, logger := newLog()
				c, workers := fake(Options{Logger: logger}, false, nil)
				var hangs atomic.Bool
				hangs.Store(!tt.known)
				c.start = func() (worker, error) {
					w := &fakeWorker{gone: make(chan struct{}), to: func(req request) (reply, error) {
						rep := gpus(0, 1)
						switch hung := hangs.Load(); {
						case hung && slices.Contains(req.Skip, "#0/2"):
							rep.Devices = rep.Devices[1:]
							rep.Skipped = []Device{{Index: 0}}
						case hung:
							return reply{}, &failure{reason: reasonTimeout, gpu: &place{index: 0, count: 2}, err: errTimeout}
						}
						return rep, nil
					}}
					workers.add(w)
					return w, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { _ = c.Run(ctx) }()
				synctest.Wait()
				hangs.Store(true)
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if n := len(workers.starts()); n < 8 {
					t.Fatalf("%d workers: the GPU is not tried again", n)
				}
				_, err := c.Update(ctx)
				if got := strings.Count(fmt.Sprint(err), "GPU 0"); got != 1 {
					t.Errorf("the GPU is told of %d times:\n%v", got, err)
				}
				if got := len(c.Snapshot().Devices); got != 2 {
					t.Errorf("%d GPUs in the snapshot, want 2", got)
				}
				if tt.known {
					if page := scrape(t, c); !strings.Contains(page, `flyball_gpu_up{gpu="0",uuid="GPU-0"} 0`) {
						t.Errorf("page:\n%s", page)
					}
					if got := c.gpus["GPU-0"].errors[reasonTimeout]; got < 8 {
						t.Errorf("%d attempts came to nothing, want every one", got)
					}
				}
				warned := 0
				for len(lines) > 0 {
					if line := <-lines; strings.Contains(line, "GPU cannot be read") {
						warned++
					}
				}
				if warned != 1 {
					t.Errorf("warned %d times, want once", warned)
				}
			})
		})
	}
}
