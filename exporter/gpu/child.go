package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// child is a worker process as its parent sees it. It is used by one goroutine.
type child struct {
	limits  limits
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stderr  said
	frames  chan received // of its standard output; closed at its end
	killed  chan struct{} // closed by kill
	gone    chan struct{} // closed once the process has ended and was reaped
	exit    error         // how it ended; to be read once gone is closed
	opened  bool          // it has answered once, so the library is open
	devices map[string]Device
	reached map[int]bool // by index: it has got hold of the GPU before
	count   int          // of GPUs, as it said last

	mu     sync.Mutex
	events []xidEvent // since the last poll
}

// limits are how long a worker may take for one step of a poll; the zero value sets none, and only the whole poll has one.
type limits struct {
	open   time.Duration // to open the library, where that is longer than start
	start  time.Duration // to open the library; to get hold of a GPU too, where the request is patient
	attach time.Duration // to get hold of a GPU for the first time: without the persistence daemon, that initialises it
	gpu    time.Duration // to read a GPU
}

// lateFrame is how long to wait for what a worker has written in time, where nobody came to read it.
const lateFrame = 20 * time.Millisecond

// received is a frame, or why there is none.
type received struct {
	frame frame
	err   error
}

var (
	// errTimeout says that a worker did not answer in time.
	errTimeout = errors.New("no answer")
	// errEnded says that a worker ended.
	errEnded = errors.New("the worker ended")
)

// startChild starts a worker. The goroutine that reads from it ends with the process.
func startChild(argv []string) (*child, error) {
	c := &child{
		cmd:     exec.Command(argv[0], argv[1:]...),
		frames:  make(chan received),
		killed:  make(chan struct{}),
		gone:    make(chan struct{}),
		devices: map[string]Device{},
		reached: map[int]bool{},
	}
	c.cmd.Path = image(c.cmd.Path)
	c.cmd.Stderr = &c.stderr
	// A worker makes one call after another; on more threads it would spend most of its time on waking them.
	c.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the NVML worker: %w", err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the NVML worker: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the NVML worker: %w", err)
	}
	go func() {
		defer close(c.gone)
		c.read(stdout)
		c.exit = c.cmd.Wait() // only now: Wait closes stdout
	}()
	return c, nil
}

// image returns what to start for the program with the path. Where that is this program, it is the file that this process
// was started from, even if an upgrade has put another in its place meanwhile or removed it: the two need not speak the
// same protocol.
func image(path string) string {
	const running = "/proc/self/exe"
	if self, err := os.Executable(); err != nil || self != path || runtime.GOOS != "linux" {
		return path
	}
	if _, err := os.Stat(running); err != nil {
		return path
	}
	return running
}

// read hands on frames until the process ends its output. After kill they are thrown away.
func (c *child) read(stdout io.Reader) {
	defer close(c.frames)
	scanner := bufio.NewScanner(stdout)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		f, err := decodeFrame(scanner.Bytes())
		if err == nil && f.Kind == kindEvent {
			c.note(xidEvent{event: *f.Event, At: f.At})
			continue
		}
		select {
		case c.frames <- received{f, err}:
		case <-c.killed:
		}
		if err != nil {
			break
		}
	}
	_, _ = io.Copy(io.Discard, stdout) // after a line that was too long or made no sense
}

// note keeps an event for the next poll.
func (c *child) note(e xidEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.events) < maxEvents {
		c.events = append(c.events, e)
	}
}

// noted returns the events since the last call.
func (c *child) noted() []xidEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := c.events
	c.events = nil
	return events
}

// poll asks once and waits for the answer, at most for timeout and for each of its steps at most as the limits say. Beside
// an error, which is a *failure or that of ctx, the reply has what came before it. After an error the child is of no more
// use.
func (c *child) poll(ctx context.Context, req request, timeout time.Duration) (reply, error) {
	rep := reply{Seq: req.Seq}
	err := c.exchange(ctx, req, timeout, &rep)
	rep.Events = c.noted()
	return rep, err
}

func (c *child) exchange(ctx context.Context, req request, timeout time.Duration, rep *reply) error {
	line, err := json.Marshal(req)
	if err != nil {
		return err
	}
	c.stderr.reset()
	if _, err := c.stdin.Write(append(line, '\n')); err != nil {
		return c.ended(nil, err)
	}
	limit := c.limits.gpu // of the step
	starting := !c.opened
	if starting {
		limit = max(c.limits.start, c.limits.open)
		timeout = max(timeout, limit)
	}
	whole := time.NewTimer(timeout)
	if starting && limit != 0 {
		whole.Reset(timeout + 2*lateFrame) // or the two may end at once, and a frame that is late would count as none
	}
	defer whole.Stop()
	step := time.NewTimer(limit)
	defer step.Stop()
	var at *place // the GPU that is being read
	for {
		expired := step.C
		if limit == 0 {
			expired = nil
		}
		select {
		case r, ok := <-c.frames:
			if done, err := c.receive(r, ok, rep, &at); done || err != nil {
				return err
			}
		case <-expired:
			// It may be this process that did not run, for want of CPU or because it was stopped.
			select {
			case r, ok := <-c.frames:
				if done, err := c.receive(r, ok, rep, &at); done || err != nil {
					return err
				}
			case <-time.After(lateFrame):
				return &failure{reason: reasonTimeout, gpu: at, err: fmt.Errorf("%w within %s", errTimeout, limit)}
			}
		case <-whole.C:
			if limit != 0 {
				at = nil // it is slow, but it had not used up its own time: nothing says that it hangs
			}
			return &failure{reason: reasonTimeout, gpu: at, err: fmt.Errorf("%w within %s", errTimeout, timeout)}
		case <-ctx.Done():
			return ctx.Err()
		}
		if starting && c.count > 0 && c.limits.gpu != 0 {
			// Each GPU may take what it may, one after another: a start that goes on is none that hangs.
			starting = false
			timeout += time.Duration(c.count) * (c.attachLimit(req) + c.limits.gpu)
			whole.Reset(timeout)
		}
		limit = c.limits.gpu
		if at != nil && !c.reached[at.index] {
			limit = c.attachLimit(req)
		}
		step.Reset(limit)
	}
}

// attachLimit is how long it may take to get hold of a GPU for the first time.
func (c *child) attachLimit(req request) time.Duration {
	if req.patient {
		return c.limits.start
	}
	return c.limits.attach
}

// receive takes in what came from the worker, nothing more where ok is false, and reports whether it was the last of a poll.
func (c *child) receive(r received, ok bool, rep *reply, at **place) (done bool, err error) {
	switch {
	case !ok:
		return false, c.ended(*at, io.ErrUnexpectedEOF)
	case r.err == nil && r.frame.Seq != rep.Seq:
		r.err = fmt.Errorf("answer %d to request %d", r.frame.Seq, rep.Seq)
	}
	if r.err != nil {
		return false, &failure{reason: reasonError, err: r.err}
	}
	c.opened = true
	return c.take(r.frame, rep, at)
}

// take adds a frame to the reply and reports whether it was the last. at becomes the GPU that comes next.
func (c *child) take(f frame, rep *reply, at **place) (done bool, err error) {
	switch f.Kind {
	case kindBegin:
		rep.Library, rep.Driver, rep.CUDA, c.count = f.Library, f.Driver, f.CUDA, f.Count
	case kindNext:
		*at = &place{f.Index, c.count, f.UUID, f.PCIBusID}
		if f.UUID != "" {
			c.reached[f.Index] = true
		}
	case kindDevice:
		*at = nil
		if len(rep.Devices) == maxGPUs {
			return false, &failure{reason: reasonError, err: fmt.Errorf("answer: more than %d GPUs", maxGPUs)}
		}
		d := *f.Device
		if d.Error == "" {
			d = merge(c.devices[d.UUID], d, f.Read)
			c.devices[d.UUID] = d
		}
		rep.Devices = append(rep.Devices, d)
	case kindSkipped:
		*at = nil
		if len(rep.Skipped) == maxGPUs {
			return false, &failure{reason: reasonError, err: fmt.Errorf("answer: more than %d GPUs", maxGPUs)}
		}
		rep.Skipped = append(rep.Skipped, Device{Index: f.Index, UUID: f.UUID, PCIBusID: f.PCIBusID})
	case kindEnd:
		rep.State, rep.Missing, rep.Watching, rep.Calls = stateOK, f.Missing, f.Watching, f.Calls
		for uuid := range c.devices { // those that left
			if !slices.ContainsFunc(rep.Devices, func(d Device) bool { return d.UUID == uuid && d.Error == "" }) {
				delete(c.devices, uuid)
			}
		}
		return true, nil
	case kindError:
		rep.State, rep.Error, rep.Tried, rep.Gone, rep.Mismatch, rep.Library, rep.Calls = f.State, f.Error, f.Tried, f.Gone, f.Mismatch, f.Library, f.Calls
		return true, nil
	}
	return false, nil
}

// ended says how the process ended over the GPU; err is how that was noticed.
func (c *child) ended(at *place, err error) error {
	select {
	case <-c.gone:
		if c.exit != nil {
			err = c.exit
		}
	case <-time.After(reapTime):
	}
	f := &failure{reason: reasonCrash, gpu: at}
	text := c.stderr.String()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == exitLoader && undefined.MatchString(text) {
		f.reason = reasonSymbol
	}
	f.err = fmt.Errorf("%w: %w", errEnded, err)
	if text != "" {
		f.err = fmt.Errorf("%w: %w: %s", errEnded, err, text)
	}
	return f
}

// exitLoader is the exit status of a process that the loader ended, because a symbol was missing when it was called.
const exitLoader = 127

// kill ends the process and waits for it, but not for long: one that hangs in the driver cannot be ended before the
// driver lets go. The channel that it returns is closed once the process is gone.
func (c *child) kill() <-chan struct{} {
	close(c.killed)
	_ = c.stdin.Close()
	_ = c.cmd.Process.Kill() // an error says that it has ended
	select {
	case <-c.gone:
	case <-time.After(reapTime):
	}
	return c.gone
}

// said keeps the beginning of what a worker says on its standard error since the last poll: the message of a loader or an
// assertion, or the first lines of a crash.
type said struct {
	mu   sync.Mutex
	text []byte
}

const saidSize = 300 // bytes: it becomes part of one log line

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p[:min(len(p), saidSize-len(s.text))]...)
	return len(p), nil
}

func (s *said) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = s.text[:0]
}

// String returns what was kept, on one line.
func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(strings.Fields(string(s.text)), " ")
}
