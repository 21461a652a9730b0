package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Worker answers polls: for every line of in it writes those of an answer to out, and one for every error that the driver
// reports meanwhile. It opens NVML at the first poll and returns nil when in ends, at once even while a call into NVML hangs, so that a worker never outlives its parent; the caller must end the
// process then. The terminal's interrupt and SIGTERM are left to the parent, who closes in.
func Worker(ctx context.Context, in io.Reader, out io.Writer) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	defer signal.Reset(os.Interrupt, syscall.SIGTERM)
	return serve(ctx, in, out, open)
}

func serve(ctx context.Context, in io.Reader, out io.Writer, open func(opening) (library, string, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests := make(chan request)
	ended := make(chan error, 1) // of in
	go func() {
		ended <- readRequests(ctx, in, requests)
	}()
	answered := make(chan error, 1)
	go func() {
		answered <- answer(ctx, out, requests, open)
	}()
	select {
	case err := <-ended:
		return err
	case err := <-answered:
		return err
	case <-ctx.Done():
		return nil
	}
}

func readRequests(ctx context.Context, in io.Reader, requests chan<- request) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return fmt.Errorf("nvml worker: request: %w", err)
		}
		select {
		case requests <- req:
		case <-ctx.Done():
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("nvml worker: read requests: %w", err)
	}
	return nil
}

// answer reads the GPUs for every request. All calls into NVML are made here, one after another, but for those that wait
// for errors of the GPUs.
func answer(ctx context.Context, out io.Writer, requests <-chan request, open func(opening) (library, string, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{out: &frameWriter{w: out}, ended: ctx.Done()}
	defer func() {
		cancel()
		s.watchers.Wait()
		if s.lib != nil {
			_ = s.lib.Close() // the process ends
		}
	}()
	for {
		var req request
		select {
		case req = <-requests:
		case <-ctx.Done():
			return nil
		}
		var err error
		if s.lib == nil {
			if req.Calls && s.calls == nil {
				s.calls = &stopwatch{}
			}
			s.lib, s.path, err = open(opening{library: req.Library, procfs: req.ProcFS, calls: s.calls})
		}
		if err == nil {
			err = s.poll(req)
		}
		if fault, ok := errors.AsType[*writeError](err); ok {
			return fault
		}
		if err != nil {
			f := frame{Kind: kindError, Seq: req.Seq, Library: s.path, State: stateFailed, Error: err.Error(), Gone: errors.Is(err, errDriverGone), Mismatch: errors.Is(err, errMismatch), Calls: s.calls.lap()}
			if absent, ok := errors.AsType[*absentError](err); ok {
				f.State, f.Error, f.Tried = stateAbsent, absent.Error(), absent.tried
			}
			if err := s.out.write(f); err != nil {
				return err
			}
			continue
		}
	}
}

// server is the state of a worker.
type server struct {
	out   *frameWriter
	lib   library // nil until it is open
	path  string
	calls *stopwatch          // nil where their times are not asked for
	known map[string]attached // the GPUs of the last poll by UUID
	skip  []string            // as the last poll said

	ended    <-chan struct{} // closed when the worker is to end
	watchers sync.WaitGroup
	watcher  *watcher // nil until the first poll was through
}

// attached is what is remembered of a GPU that was read.
type attached struct {
	pciBusID string
	mig      string
	linkless bool // the last reading of tierSlow found no NVLink
}

// poll goes through the GPUs, which are enumerated every time, because they come and go. An error is one of the library
// as a whole; that of one GPU is in its Device.
func (s *server) poll(req request) error {
	driver, err := s.lib.DriverVersion()
	if unexpected(err) {
		return fmt.Errorf("driver version: %w", err)
	}
	n, err := s.lib.DeviceCount()
	if err != nil {
		return fmt.Errorf("count GPUs: %w", err)
	}
	begin := frame{Kind: kindBegin, Seq: req.Seq, Library: s.path, Driver: driver, Count: n}
	if begin.CUDA, err = s.lib.CUDAVersion(); unexpected(err) {
		return fmt.Errorf("CUDA version: %w", err)
	}
	if err := s.out.write(begin); err != nil {
		return err
	}
	known := make(map[string]attached, n)
	for i := range n {
		if err := s.gpu(req, place{index: i, count: n}, known); err != nil {
			return err
		}
	}
	changed := s.known != nil && !sameGPUs(s.known, known) || !slices.Equal(s.skip, req.Skip)
	s.known, s.skip = known, req.Skip
	end := frame{Kind: kindEnd, Seq: req.Seq}
	if req.Only == "" {
		end.Watching = s.watch(changed, req.Skip)
	}
	end.Missing, end.Calls = s.lib.Missing(), s.calls.lap()
	return s.out.write(end)
}

// gpu reads a GPU, unless it is to be left out, and notes it in known.
func (s *server) gpu(req request, at place, known map[string]attached) error {
	index := at.index
	leave := func() error {
		return s.out.write(frame{Kind: kindSkipped, Seq: req.Seq, Index: index, UUID: at.uuid, PCIBusID: at.pciBusID})
	}
	if at.in(req.Skip...) {
		return leave()
	}
	announce := func() error {
		return s.out.write(frame{Kind: kindNext, Seq: req.Seq, Index: index, UUID: at.uuid, PCIBusID: at.pciBusID})
	}
	if err := announce(); err != nil {
		return err
	}
	d := Device{Index: index}
	dev, err := s.lib.Device(index) // attaches the GPU at the first call, which may take seconds
	if err == nil {
		d.UUID, err = dev.UUID()
	}
	if err != nil {
		return s.give(req, &d, 0, err)
	}
	at.uuid = d.UUID
	before, read := s.known[d.UUID]
	at.pciBusID = before.pciBusID
	if at.in(req.Skip...) || req.Only != "" && !at.in(req.Only) {
		if read {
			known[d.UUID] = before
		}
		return leave()
	}
	if !read {
		if at.pciBusID, err = dev.PCIBusID(); unexpected(err) {
			return s.give(req, &d, 0, err)
		}
	}
	if err := announce(); err != nil {
		return err
	}
	want := req.Want&^tierNoLinks | tierFast
	if !read {
		want |= tierSlow | tierStatic
	}
	if before.linkless && !want.has(tierSlow) {
		want |= tierNoLinks
	}
	err = readDevice(s.lib, &d, want)
	if err == nil && (!read || want&tierSlow == 0 || d.MIGMode == before.mig) {
		// Only then: a GPU that could not be read, or whose instances changed, is read wholly at the next poll.
		now := attached{pciBusID: at.pciBusID, mig: before.mig, linkless: before.linkless}
		if want.has(tierSlow) {
			now.mig, now.linkless = d.MIGMode, d.NVLink == nil && d.Faults == nil
		}
		known[d.UUID] = now
	}
	return s.give(req, &d, want&^tierNoLinks, err)
}

// sameGPUs reports whether two polls found the same GPUs.
func sameGPUs(a, b map[string]attached) bool {
	if len(a) != len(b) {
		return false
	}
	for uuid := range a {
		if _, ok := b[uuid]; !ok {
			return false
		}
	}
	return true
}

// give sends what was read of a GPU before err.
func (s *server) give(req request, d *Device, read tiers, err error) error {
	if errors.Is(err, errDriverGone) {
		return fmt.Errorf("GPU %d: %w", d.Index, err)
	}
	if err != nil {
		d.Error = err.Error()
		d.Lost = errors.Is(err, errLost)
	}
	return s.out.write(frame{Kind: kindDevice, Seq: req.Seq, Device: d, Read: read})
}

const (
	eventWait     = time.Second            // the longest that a wait for an event keeps the worker from ending in good order
	eventRetry    = time.Second            // after an error, such as that a GPU was lost, which is left out then
	eventRegister = 200 * time.Millisecond // for the driver to take in what is waited for; it takes microseconds
)

// watcher waits for errors of the GPUs, in a goroutine of its own.
type watcher struct {
	lib     library
	out     *frameWriter
	ended   <-chan struct{}
	changed chan []string            // of capacity 1: other GPUs than before are there, or are to be left out, which are these
	settled chan struct{}            // closed once it is known whether errors are reported
	watched atomic.Pointer[[]string] // the GPUs of which they are, by UUID; nil for none
}

// watch starts the watcher at the first poll, after the GPUs were read: one that hangs is found by the poll, which says
// which one it is. It tells the watcher of other GPUs and returns the UUIDs of those of which errors are reported.
func (s *server) watch(changed bool, skip []string) []string {
	switch {
	case s.watcher == nil:
		s.watcher = &watcher{lib: s.lib, out: s.out, ended: s.ended, changed: make(chan []string, 1), settled: make(chan struct{})}
		s.watchers.Go(func() { s.watcher.run(skip) })
		select {
		case <-s.watcher.settled:
		case <-time.After(eventRegister):
		}
	case changed:
		select {
		case <-s.watcher.changed: // which it has not taken in yet
		default:
		}
		s.watcher.changed <- skip
	}
	if watched := s.watcher.watched.Load(); watched != nil {
		return *watched
	}
	return nil
}

// run writes what the driver reports until the worker is to end. It begins anew when the GPUs change, and some time after
// an error.
func (w *watcher) run(skip []string) {
	for first := true; ; first = false {
		set, err := w.lib.Events(skip...)
		if w.watched.Store(nil); err == nil {
			watched := set.UUIDs()
			w.watched.Store(&watched)
		}
		if first {
			close(w.settled)
		}
		if err == nil {
			var again bool
			skip, again, err = w.write(set, skip)
			_ = set.Close()
			if again {
				continue
			}
		}
		var retry <-chan time.Time // never, where the driver reports none: only other GPUs may do so
		if !errors.Is(err, errUnsupported) {
			retry = time.After(eventRetry)
		}
		select {
		case <-w.ended:
			return
		case skip = <-w.changed:
		case <-retry:
		}
	}
}

// write writes what the driver reports of the GPUs of the set. It returns when the GPUs change, which is to begin again
// with those that it returns left out, when the worker is to end, and after an error.
func (w *watcher) write(set events, skip []string) (_ []string, again bool, _ error) {
	for {
		select {
		case <-w.ended:
			return skip, false, nil
		case skip = <-w.changed:
			return skip, true, nil
		default:
		}
		e, ok, err := set.Wait(eventWait)
		if err != nil {
			return skip, false, err
		}
		if !ok {
			continue
		}
		if err := w.out.write(frame{Kind: kindEvent, Event: &e, At: time.Now().UTC()}); err != nil {
			return skip, false, err
		}
	}
}

// frameWriter writes frames for two goroutines. Those after which another follows at once go with that in one call, for
// every call wakes the parent.
type frameWriter struct {
	mu   sync.Mutex
	w    io.Writer
	held []byte // frames that are not written yet
}

// writeError says that the parent does not listen any more.
type writeError struct{ err error }

func (e *writeError) Error() string { return "nvml worker: answer: " + e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

func (l *frameWriter) write(f frame) error {
	line, err := json.Marshal(f)
	if err != nil && f.Device != nil { // a value that is not a number
		f.Device = &Device{Index: f.Device.Index, UUID: f.Device.UUID, Error: err.Error()}
		line, err = json.Marshal(f)
	}
	if err != nil {
		return &writeError{err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(append(l.held, line...), '\n')
	switch f.Kind {
	case kindBegin, kindDevice, kindSkipped:
		return nil
	}
	_, err = l.w.Write(l.held)
	l.held = l.held[:0]
	if err != nil {
		return &writeError{err}
	}
	return nil
}
