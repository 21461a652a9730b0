package gpu

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// scriptCollector is a collector whose workers are processes that follow the script.
func scriptCollector(t *testing.T, s script, opts Options) (*Collector, logLines) {
	t.Helper()
	lines, logger := newLog()
	opts.Worker, opts.Logger = s.argv(t), logger
	c := New(opts)
	c.unbound, c.backends.ways[0].unbound = "", "" // what follows a script needs no binding
	return c, lines
}

// upAndPower returns what a page says of each GPU: up, and the power where it has one.
func upAndPower(page string) string {
	var got []string
	for line := range strings.Lines(page) {
		name, labels, _ := strings.Cut(line, "{")
		if name == "flyball_gpu_up" || name == "flyball_gpu_power_watts" {
			uuid, value, _ := strings.Cut(labels[strings.Index(labels, "uuid=")+6:], `"} `)
			got = append(got, uuid+" "+strings.TrimPrefix(name, "flyball_gpu_")+" "+strings.TrimSpace(value))
		}
	}
	slices.Sort(got)
	return strings.Join(got, ", ")
}

// value returns the value of a series on the page; empty where it is not there.
func value(page, series string) string {
	for line := range strings.Lines(page) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// TestOneGPU: whatever happens to one GPU, the others are read on, by a worker that leaves it out.
func TestOneGPU(t *testing.T) {
	all := []string{"GPU-a", "GPU-b", "GPU-c"}
	for _, tt := range []struct {
		name   string
		mode   scripted
		log    []string // the last says that GPU-b is given up
		reason string
		starts int // of workers, for want of a good one
	}{
		{"hangs", scripted{Hang: []string{"GPU-b"}}, []string{"uuid=GPU-b gpu=1 err=\"no answer within 1s"}, "timeout", 1},
		{"cannot be got hold of", scripted{Attach: []string{"GPU-b"}}, []string{"uuid=GPU-b gpu=1 err=\"no answer within 1s"}, "timeout", 1},
		{"crashes the library", scripted{Crash: []string{"GPU-b"}}, []string{"signal: killed", "uuid=GPU-b gpu=1 err=\"the worker ended: signal: killed"}, "crash", 2},
		{"needs a symbol that is missing", scripted{Symbol: []string{"GPU-b"}}, []string{"symbol lookup error", "undefined symbol: nvmlDeviceGetPowerUsage"}, "missing_symbol", 2},
		{"is lost", scripted{Lost: []string{"GPU-b"}}, []string{"the GPU is lost"}, "lost", 0},
		{"hangs, the last of three", scripted{GPUs: []string{"GPU-a", "GPU-c", "GPU-b"}, Hang: []string{"GPU-b"}}, []string{"uuid=GPU-b gpu=2 err=\"no answer"}, "timeout", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, scripted{GPUs: all})
			c, lines := scriptCollector(t, s, Options{Interval: 100 * time.Millisecond, Timeout: 2 * time.Second})
			run(t, c)
			lines.await(t, "reading GPUs")
			before := scrape(t, c)
			if want := "GPU-a power_watts 100, GPU-a up 1, GPU-b power_watts 100, GPU-b up 1, GPU-c power_watts 100, GPU-c up 1"; upAndPower(before) != want {
				t.Fatalf("before: %s", upAndPower(before))
			}
			if tt.mode.GPUs == nil {
				tt.mode.GPUs = all
			}
			s.set(t, tt.mode)
			for _, text := range tt.log {
				for line := lines.await(t, ""); !strings.Contains(line, text); line = lines.await(t, "") {
				}
			}
			calls := s.calls(t)
			awaitCalls(t, s, calls+60) // some polls more
			page, own := scrapeBoth(t, c)
			if want := "GPU-a power_watts 100, GPU-a up 1, GPU-b up 0, GPU-c power_watts 100, GPU-c up 1"; upAndPower(page) != want {
				t.Errorf("page has %s, want %s", upAndPower(page), want)
			}
			index := slices.Index(tt.mode.GPUs, "GPU-b")
			if v := value(own, fmt.Sprintf(`flyball_gpu_collect_errors_total{gpu="%d",reason="%s",uuid="GPU-b"}`, index, tt.reason)); v == "" || v == "0" {
				t.Errorf("no collect error with the reason %s:\n%s", tt.reason, own)
			}
			if v := value(own, `flyball_nvml_worker_restarts_total{reason="`+tt.reason+`"}`); tt.starts != 0 && v != fmt.Sprint(tt.starts) {
				t.Errorf("%s restarts, want %d", v, tt.starts)
			}
			for _, want := range []string{
				`flyball_gpus{state="seen"} 3`, `flyball_gpus{state="expected"} 3`, "flyball_nvml_worker_up 1",
				`flyball_gpu_health{gpu="0",uuid="GPU-a"} 1`, fmt.Sprintf(`flyball_gpu_health{gpu="%d",uuid="GPU-b"} 0`, index),
			} {
				if !strings.Contains(own, want+"\n") {
					t.Errorf("page lacks %s:\n%s", want, own)
				}
			}
			if tt.reason == "missing_symbol" && value(own, `flyball_nvml_symbol_missing{symbol="nvmlDeviceGetPowerUsage"}`) != "1" {
				t.Errorf("the missing symbol is not named:\n%s", own)
			}
		})
	}
}

// awaitCalls waits until the library has been called so often.
func awaitCalls(t *testing.T, s script, n int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); s.calls(t) < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls in a minute, want %d", s.calls(t), n)
		}
		time.Sleep(5 * time.Millisecond) // until the other process has done its work
	}
}

// TestAllHang: the page answers from what is known, with all GPUs down and their values gone.
func TestAllHang(t *testing.T) {
	all := []string{"GPU-a", "GPU-b", "GPU-c", "GPU-d"}
	s := newScript(t, scripted{GPUs: all})
	c, lines := scriptCollector(t, s, Options{Interval: 50 * time.Millisecond, Timeout: 600 * time.Millisecond})
	run(t, c)
	lines.await(t, "reading GPUs")
	s.xid(t, "GPU-c", 79)
	lines.await(t, "xid=79 class=hardware")
	s.set(t, scripted{GPUs: all, Hang: all})
	for _, uuid := range all {
		lines.await(t, "uuid="+uuid)
	}
	awaitCalls(t, s, s.calls(t)+6) // a worker runs that leaves all of them out
	page, own := scrapeBoth(t, c)
	if got, want := upAndPower(page), "GPU-a up 0, GPU-b up 0, GPU-c up 0, GPU-d up 0"; got != want {
		t.Errorf("page has %s, want %s", got, want)
	}
	golden(t, "hung.prom", own)
	if c.Snapshot() != nil {
		t.Errorf("there is a snapshot of GPUs that hang")
	}
}

// TestScrapeCallsNothing: a scrape makes no call into NVML.
func TestScrapeCallsNothing(t *testing.T) {
	s := newScript(t, scripted{GPUs: []string{"GPU-a", "GPU-b"}})
	c, lines := scriptCollector(t, s, Options{Interval: time.Hour})
	run(t, c)
	lines.await(t, "reading GPUs")
	before := s.calls(t)
	for range 20 {
		if page := scrape(t, c); !strings.Contains(page, "flyball_gpu_power_watts") {
			t.Fatalf("page:\n%s", page)
		}
		c.Snapshot()
	}
	if after := s.calls(t); before == 0 || after != before {
		t.Errorf("%d calls before 20 scrapes, %d after", before, after)
	}
}

// TestXIDs: the driver's errors are counted, from zero for those that are known, and outlive the worker.
func TestXIDs(t *testing.T) {
	s := newScript(t, scripted{GPUs: []string{"GPU-a", "GPU-b"}})
	c, lines := scriptCollector(t, s, Options{Interval: 20 * time.Millisecond, Timeout: 10 * time.Second})
	run(t, c)
	lines.await(t, "reading GPUs")
	if own := scrapeSelf(t, c); value(own, `flyball_gpu_xid_errors_total{class="hardware",gpu="0",uuid="GPU-a",xid="79"}`) != "0" {
		t.Errorf("XID 79 is not counted from 0:\n%s", own)
	}
	s.xid(t, "GPU-a", 79)
	lines.await(t, "xid=79")
	s.xid(t, "GPU-a", 31)
	lines.await(t, "xid=31 class=app")
	s.set(t, scripted{GPUs: []string{"GPU-a", "GPU-b"}, Gone: true})
	lines.await(t, "the driver is gone")
	s.set(t, scripted{GPUs: []string{"GPU-a", "GPU-b"}})
	lines.await(t, "reading GPUs")
	s.xid(t, "GPU-a", 79)
	lines.await(t, "xid=79")
	own := scrapeSelf(t, c)
	for series, want := range map[string]string{
		`flyball_gpu_xid_errors_total{class="hardware",gpu="0",uuid="GPU-a",xid="79"}`: "2",
		`flyball_gpu_xid_errors_total{class="app",gpu="0",uuid="GPU-a",xid="31"}`:      "1",
		`flyball_gpu_xid_errors_total{class="app",gpu="1",uuid="GPU-b",xid="31"}`:      "",
		`flyball_gpu_xid_errors_total{class="hardware",gpu="1",uuid="GPU-b",xid="79"}`: "0",
		`flyball_gpu_unhealthy_reason{gpu="0",reason="xid",uuid="GPU-a"}`:              "1",
		`flyball_gpu_unhealthy_reason{gpu="1",reason="xid",uuid="GPU-b"}`:              "0",
		`flyball_nvml_worker_restarts_total{reason="driver_reload"}`:                   "1",
	} {
		if got := value(own, series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
}

// TestXIDsOfSome: a GPU of which the driver reports no errors has none that are 0, beside another of which it does.
func TestXIDsOfSome(t *testing.T) {
	s := newScript(t, scripted{GPUs: []string{"GPU-a", "GPU-b"}, Silent: []string{"GPU-b"}})
	c, lines := scriptCollector(t, s, Options{Interval: 20 * time.Millisecond, Timeout: 10 * time.Second})
	run(t, c)
	lines.await(t, "reading GPUs")
	own := scrapeSelf(t, c)
	for series, want := range map[string]string{
		`flyball_gpu_xid_errors_total{class="hardware",gpu="0",uuid="GPU-a",xid="79"}`: "0",
		`flyball_gpu_xid_errors_total{class="hardware",gpu="1",uuid="GPU-b",xid="79"}`: "",
		`flyball_gpu_unhealthy_reason{gpu="0",reason="xid",uuid="GPU-a"}`:              "0",
		`flyball_gpu_unhealthy_reason{gpu="1",reason="xid",uuid="GPU-b"}`:              "",
	} {
		if got := value(own, series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
}

// TestHotplug: GPUs that come and go are known by UUID, whatever their index.
func TestHotplug(t *testing.T) {
	s := newScript(t, scripted{GPUs: []string{"GPU-a", "GPU-b"}})
	c, lines := scriptCollector(t, s, Options{Interval: 20 * time.Millisecond, Timeout: 10 * time.Second})
	run(t, c)
	lines.await(t, "reading GPUs")
	s.set(t, scripted{GPUs: []string{"GPU-c", "GPU-b"}})
	lines.await(t, "uuid=GPU-a gpu=0 err=\"it is not there any more\"")
	if got, want := upAndPower(scrape(t, c)), "GPU-a up 0, GPU-b power_watts 100, GPU-b up 1, GPU-c power_watts 100, GPU-c up 1"; got != want {
		t.Errorf("page has %s, want %s", got, want)
	}
	s.set(t, scripted{GPUs: []string{"GPU-a", "GPU-b", "GPU-c"}})
	lines.await(t, "GPU is read again")
	page, own := scrapeBoth(t, c)
	if value(page, `flyball_gpu_up{gpu="2",uuid="GPU-c"}`) != "1" || value(own, `flyball_gpus{state="expected"}`) != "3" {
		t.Errorf("page:\n%s%s", page, own)
	}
}

// TestHangsLeakNothing: after 50 hangs there is nothing left of the workers that were killed.
func TestHangsLeakNothing(t *testing.T) {
	s := newScript(t, scripted{GPUs: []string{"GPU-a"}, Hang: []string{"GPU-a"}})
	_, _, goroutines := resources(t)
	var fds, threads int
	for i := range 50 {
		w, err := startChild(s.argv(t))
		if err != nil {
			t.Fatal(err)
		}
		w.limits = limits{start: time.Minute, attach: time.Minute, gpu: 20 * time.Millisecond}
		_, err = w.poll(t.Context(), request{Seq: 1}, time.Minute)
		if f := failed(err); f.reason != reasonTimeout {
			t.Fatalf("hang %d: %v", i, err)
		}
		<-w.kill()
		if err := w.cmd.Process.Signal(os.Interrupt); err == nil {
			t.Errorf("hang %d: the worker outlives it", i)
		}
		if i == 9 { // the runtime has the threads that it wants
			fds, threads, _ = atRest(t, goroutines)
		}
	}
	f, th, g := atRest(t, goroutines)
	if f > fds || th > threads+3 || g > goroutines {
		t.Errorf("after 10 hangs %d files, %d threads; after 50 %d, %d; %d goroutines, before the first %d", fds, threads, f, th, g, goroutines)
	}
}

// TestReplacedBinary: a worker is the program that its parent is, also where another lies in its place meanwhile.
func TestReplacedBinary(t *testing.T) {
	if _, err := os.Stat("/proc/self/exe"); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "flyball")
	copyFile(t, self, binary)
	cmd := exec.Command(binary, "replace-self", string(newScript(t, scripted{GPUs: []string{"GPU-a"}})))
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "read 1 GPUs") {
		t.Errorf("%v: %s", err, out)
	}
}

// replaceSelf is what a parent does that is upgraded: its file is another, then it starts a worker.
func replaceSelf(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.WriteFile(self+".new", []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(self+".new", self); err != nil {
		return err
	}
	w, err := startChild([]string{self, "script-worker", dir})
	if err != nil {
		return err
	}
	defer w.kill()
	rep, err := w.poll(context.Background(), request{Seq: 1}, time.Minute)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("read %d GPUs\n", len(rep.Devices))
	return err
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEventsBetweenPolls: an event that comes while nothing is asked is not lost.
func TestEventsBetweenPolls(t *testing.T) {
	c := overheard(nil)
	<-c.gone
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range maxEvents + 5 {
		c.note(xidEvent{event: event{UUID: "GPU-a", XID: 79}, At: at})
	}
	got := c.noted()
	if len(got) != maxEvents || len(c.noted()) != 0 {
		t.Errorf("%d events, want %d once", len(got), maxEvents)
	}
	if want := (xidEvent{event: event{UUID: "GPU-a", XID: 79}, At: at}); got[0] != want {
		t.Errorf("event %+v, want %+v", got[0], want)
	}
}

// BenchmarkRespawn is how long it takes from a worker that hangs to the first reading of the next, without the deadline.
func BenchmarkRespawn(b *testing.B) {
	s := newScript(b, scripted{GPUs: []string{"GPU-a", "GPU-b", "GPU-c", "GPU-d", "GPU-e", "GPU-f", "GPU-g", "GPU-h"}})
	argv := s.argv(b)
	w, err := startChild(argv)
	if err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		<-w.kill()
		if w, err = startChild(argv); err != nil {
			b.Fatal(err)
		}
		if _, err := w.poll(b.Context(), request{Seq: 1}, time.Minute); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	<-w.kill()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// discard takes requests that nobody reads.
type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// TestLateReader: a worker that answered in time hangs on nothing where it is the parent that did not run.
func TestLateReader(t *testing.T) {
	c := &child{
		limits: limits{start: time.Nanosecond, attach: time.Nanosecond, gpu: time.Nanosecond},
		stdin:  discard{io.Discard}, frames: make(chan received), devices: map[string]Device{}, reached: map[int]bool{},
	}
	const each = 20 // frames: without the wait the chance to take them all is one in a million
	go func() {
		give := func(f frame) { c.frames <- received{frame: f} }
		give(frame{Kind: kindBegin, Seq: 1, Count: each})
		for i := range each {
			give(frame{Kind: kindNext, Seq: 1, Index: i})
			give(frame{Kind: kindDevice, Seq: 1, Device: &Device{Index: i, UUID: fmt.Sprintf("GPU-%d", i)}})
		}
		give(frame{Kind: kindEnd, Seq: 1})
	}()
	rep, err := c.poll(t.Context(), request{Seq: 1}, time.Minute)
	if err != nil || len(rep.Devices) != each {
		t.Errorf("%d GPUs, %v; want %d", len(rep.Devices), err, each)
	}
	if _, err = c.poll(t.Context(), request{Seq: 2}, time.Minute); failed(err).reason != reasonTimeout {
		t.Errorf("nobody answers: %v, want a timeout", err)
	}
}

// TestSlowStart: a start hangs where nothing comes for as long as one step may take, however long all of them take together.
func TestSlowStart(t *testing.T) {
	const each = 3 * time.Second
	for _, tt := range []struct {
		name  string
		open  time.Duration // that it takes to open the library
		stuck int           // the GPU that never comes; -1 for none
		err   string
		took  time.Duration
	}{
		{"16 GPUs of 3 s", 0, -1, "", 16 * each},
		{"they are initialised when the library is opened", 70 * time.Second, -1, "", 70*time.Second + 16*each},
		{"the library is never open", time.Hour, -1, "NVML worker: no answer within 1m20s", 80*time.Second + lateFrame},
		{"one of them hangs", 0, 5, "NVML worker: GPU 5: no answer within 30s", 5*each + 30*time.Second + lateFrame},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &child{
					limits: limits{open: 80 * time.Second, start: 30 * time.Second, attach: attachTime, gpu: time.Second},
					stdin:  discard{io.Discard}, frames: make(chan received), devices: map[string]Device{}, reached: map[int]bool{},
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					give := func(f frame, after time.Duration) {
						f.Seq = 1
						select {
						case <-time.After(after):
						case <-ctx.Done():
							return
						}
						select {
						case c.frames <- received{frame: f}:
						case <-ctx.Done():
						}
					}
					give(frame{Kind: kindBegin, Count: 16}, tt.open)
					for i := range 16 {
						give(frame{Kind: kindNext, Index: i}, 0)
						if i == tt.stuck {
							return
						}
						uuid := fmt.Sprintf("GPU-%d", i)
						give(frame{Kind: kindNext, Index: i, UUID: uuid}, each)
						give(frame{Kind: kindDevice, Device: &Device{Index: i, UUID: uuid}}, 0)
					}
					give(frame{Kind: kindEnd}, 0)
				}()
				begin := time.Now()
				rep, err := c.poll(t.Context(), request{Seq: 1, patient: true}, 30*time.Second)
				if errorText(err) != tt.err || err == nil && len(rep.Devices) != 16 {
					t.Errorf("%d GPUs, %v; want the error %q", len(rep.Devices), err, tt.err)
				}
				if took := time.Since(begin); took != tt.took {
					t.Errorf("it took %s, want %s", took, tt.took)
				}
			})
		})
	}
}

// TestEndlessStart: a worker that never comes to an end is given up all the same.
func TestEndlessStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &child{
			limits: limits{start: 30 * time.Second, attach: attachTime, gpu: time.Second},
			stdin:  discard{io.Discard}, frames: make(chan received), devices: map[string]Device{}, reached: map[int]bool{},
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			f := frame{Kind: kindBegin, Seq: 1, Count: 2}
			for {
				select {
				case c.frames <- received{frame: f}:
				case <-ctx.Done():
					return
				}
				f = frame{Kind: kindNext, Seq: 1, Index: 1}
				time.Sleep(500 * time.Millisecond)
			}
		}()
		begin := time.Now()
		_, err := c.poll(t.Context(), request{Seq: 1}, 30*time.Second)
		if took, want := time.Since(begin), 30*time.Second+2*(attachTime+time.Second); err == nil || took != want {
			t.Errorf("%v after %s, want an error after %s", err, took, want)
		}
	})
}

// TestOpenTime: a library may take longer to open for each GPU that is there.
func TestOpenTime(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"nvidia0", "nvidia1", "nvidia15", "nvidiactl", "nvidia-uvm"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := openTime(filepath.Join(dir, filepath.Base(nvidiaDevices))), 3*attachTime; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestWorkerIsFrugal: a worker runs on one thread at a time, with the environment of its parent beside that.
func TestWorkerIsFrugal(t *testing.T) {
	t.Setenv("GOMAXPROCS", "7")
	t.Setenv("FLYBALL_TEST_PASSED_ON", "1")
	w, err := startChild(newScript(t, scripted{GPUs: []string{"GPU-a"}}).argv(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.kill()
	if _, err := w.poll(t.Context(), request{Seq: 1}, time.Minute); err != nil { // it runs
		t.Fatal(err)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", w.cmd.Process.Pid))
	if err != nil {
		t.Skip(err)
	}
	list := strings.Split(string(environ), "\x00")
	if !slices.Contains(list, "GOMAXPROCS=1") || slices.Contains(list, "GOMAXPROCS=7") || !slices.Contains(list, "FLYBALL_TEST_PASSED_ON=1") {
		t.Errorf("environment %q", list)
	}
}
