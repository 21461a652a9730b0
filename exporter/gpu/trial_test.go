package gpu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// machine is GPUs as workers see them; those of hang hang, and so do the workers that touch them.
type machine struct {
	mu       sync.Mutex
	gpus     []string
	hang     map[string]bool
	stuck    bool // a worker that hangs cannot be killed
	reason   string
	requests []string // what was asked for, with the second of it
	begin    time.Time
	workers  []*fakeWorker
}

func newMachine(hang ...string) *machine {
	m := &machine{gpus: []string{"GPU-0", "GPU-1", "GPU-2", "GPU-3"}, hang: map[string]bool{}, reason: reasonTimeout, begin: time.Now()}
	for _, uuid := range hang {
		m.hang[uuid] = true
	}
	return m
}

func (m *machine) collector(opts Options) *Collector {
	c := New(opts)
	c.unbound = ""
	c.start = func() (worker, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		w := &fakeWorker{gone: make(chan struct{})}
		w.to = func(req request) (reply, error) { return m.poll(w, req) }
		m.workers = append(m.workers, w)
		return w, nil
	}
	return c
}

func (m *machine) poll(w *fakeWorker, req request) (reply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests = append(m.requests, fmt.Sprintf("%.0fs skip=%v only=%s", time.Since(m.begin).Seconds(), req.Skip, req.Only))
	rep := reply{Seq: req.Seq, State: stateOK, Driver: "570.1", Library: "lib.so"}
	for i, uuid := range m.gpus {
		at := place{index: i, count: len(m.gpus), uuid: uuid}
		switch {
		case at.in(req.Skip...) || req.Only != "" && !at.in(req.Only):
			rep.Skipped = append(rep.Skipped, Device{Index: i, UUID: uuid})
		case m.hang[uuid]:
			w.stuck = m.stuck
			rep.State = ""
			return rep, &failure{reason: m.reason, gpu: &at, err: errTimeout}
		default:
			rep.Devices = append(rep.Devices, Device{Index: i, UUID: uuid})
		}
	}
	return rep, nil
}

func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// asked returns the requests so far that are not those of the ordinary poll before it.
func (m *machine) asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	last := ""
	for _, r := range m.requests {
		_, what, _ := strings.Cut(r, " ")
		if what != last || !strings.HasSuffix(r, "only=") {
			list = append(list, r)
		}
		if strings.HasSuffix(r, "only=") {
			last = what
		}
	}
	return list
}

// up returns the GPUs that are published as up, and the number of those that are not.
func up(t *testing.T, c *Collector) (list []string, down int) {
	t.Helper()
	for line := range strings.Lines(scrape(t, c)) {
		if labels, ok := strings.CutPrefix(line, "flyball_gpu_up{"); ok {
			if strings.HasSuffix(line, " 1\n") {
				list = append(list, labels[strings.Index(labels, "GPU"):strings.Index(labels, `"}`)])
			} else {
				down++
			}
		}
	}
	return list, down
}

// TestOutcast: a GPU that hangs is left out at once, and tried every minute by a worker of its own until it answers.
func TestOutcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-1")
		lines, logger := newLog()
		c := m.collector(Options{Logger: logger})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = c.Run(ctx) }()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if list, down := up(t, c); !slices.Equal(list, []string{"GPU-0", "GPU-2", "GPU-3"}) || down != 1 {
			t.Errorf("up %v, %d down", list, down)
		}
		m.set(func() { m.hang = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if list, down := up(t, c); len(list) != 4 || down != 0 {
			t.Errorf("up %v, %d down after it answers again", list, down)
		}
		want := []string{
			"0s skip=[] only=",
			"0s skip=[#1/4 GPU-1] only=",
			"60s skip=[] only=GPU-1",
			"125s skip=[] only=GPU-1", // a minute after the outcome was seen, at 65 s
			"190s skip=[] only=GPU-1",
			"195s skip=[] only=",
		}
		if diff := cmp.Diff(want, m.asked()); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
		lines.await(t, "uuid=GPU-1")
		lines.await(t, "reading GPUs")
		lines.await(t, "GPU is read again")
		lines.quiet(t)
		m.set(func() {
			for i, w := range m.workers {
				if alive := !ended(w.gone); alive != (i == 1) {
					t.Errorf("worker %d of %d alive: %v", i, len(m.workers), alive)
				}
			}
		})
	})
}

// TestCrashTwice: one crash over a GPU is forgiven, the second is not.
func TestCrashTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-1")
		m.reason = reasonCrash
		c := m.collector(Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		want := []string{"0s skip=[] only=", "1s skip=[#1/4 GPU-1] only="}
		got := m.asked()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
		if n := c.stats.restarts[reasonCrash]; n != 2 {
			t.Errorf("%d restarts", n)
		}
	})
}

// TestStuckOnOneGPU: a GPU with a worker stuck on it is not tried again, and takes nothing from the others.
func TestStuckOnOneGPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.stuck = true
		c := m.collector(Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = c.Run(ctx) }()
		for i := range 3 { // one after another, each by a worker that has read others
			time.Sleep(time.Minute)
			m.set(func() { m.hang[m.gpus[3-i]] = true })
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if list, down := up(t, c); !slices.Equal(list, []string{"GPU-0"}) || down != 3 {
			t.Errorf("up %v, %d down", list, down)
		}
		m.set(func() {
			if len(m.workers) != 4 {
				t.Errorf("%d workers were started, want one after each hang", len(m.workers))
			}
			close(m.workers[0].gone) // that which hung on GPU-3
			m.stuck = false
			delete(m.hang, "GPU-3")
		})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if list, _ := up(t, c); !slices.Equal(list, []string{"GPU-0", "GPU-3"}) {
			t.Errorf("up %v after GPU-3 let go", list)
		}
	})
}

// TestAllStuck: where no GPU can be read and no worker killed, that is the driver's doing, and three are enough.
func TestAllStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0", "GPU-1", "GPU-2", "GPU-3")
		m.gpus = append(m.gpus, "GPU-4", "GPU-5")
		m.hang["GPU-4"], m.hang["GPU-5"] = true, true
		m.stuck = true
		c := m.collector(Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if len(m.workers) != maxAbandoned {
			t.Errorf("%d workers were started, want %d", len(m.workers), maxAbandoned)
		}
		if _, err := c.Update(t.Context()); err == nil || !strings.Contains(err.Error(), "3 workers are stuck") {
			t.Errorf("Update: %v", err)
		}
		m.set(func() { m.stuck = false })
	})
}

// TestTiers: the dear values are asked for every 30 s, processes where they are wanted.
func TestTiers(t *testing.T) {
	for _, tt := range []struct {
		opts Options
		want []tiers
	}{
		{Options{}, []tiers{3, 1, 1, 1, 1, 1, 3, 1, 1}},
		{Options{SlowInterval: 10 * time.Second, Processes: true}, []tiers{11, 1, 3, 9, 3, 1, 11, 1, 3}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []tiers
			c := New(tt.opts)
			c.unbound = ""
			c.start = func() (worker, error) {
				return &fakeWorker{gone: make(chan struct{}), to: func(req request) (reply, error) {
					got = append(got, req.Want)
					return gpus(0), nil
				}}, nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), 41*time.Second)
			defer cancel()
			if err := c.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSlowPoll: a poll that takes too long with no GPU to blame leaves none out, and what it read is kept.
func TestSlowPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{})
		c.unbound = ""
		c.start = func() (worker, error) {
			return &fakeWorker{gone: make(chan struct{}), to: func(req request) (reply, error) {
				if len(req.Skip) != 0 {
					t.Errorf("left out: %v", req.Skip)
				}
				rep := gpus(0)
				rep.State = ""
				return rep, &failure{reason: reasonTimeout, err: errTimeout}
			}}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if g := c.gpus["GPU-0"]; g == nil || g.err != "" {
			t.Errorf("the GPU that was read: %+v", g)
		}
		if _, err := c.Update(t.Context()); !errors.Is(err, errTimeout) {
			t.Errorf("Update: %v", err)
		}
	})
}
