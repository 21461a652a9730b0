package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// child is a worker process as its parent sees it. It is used by one goroutine.
type child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr said
	lines  chan []byte   // of its standard output; closed at its end
	killed chan struct{} // closed by kill
	gone   chan struct{} // closed once the process has ended and was reaped
	exit   error         // how it ended; to be read once gone is closed
}

// errTimeout says that a worker did not answer in time.
var errTimeout = errors.New("no answer")

// startChild starts a worker. The goroutine that reads from it ends with the process.
func startChild(argv []string) (*child, error) {
	c := &child{
		cmd:    exec.Command(argv[0], argv[1:]...),
		lines:  make(chan []byte),
		killed: make(chan struct{}),
		gone:   make(chan struct{}),
	}
	c.cmd.Stderr = &c.stderr
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

// read hands on lines until the process ends its output. After kill they are thrown away.
func (c *child) read(stdout io.Reader) {
	defer close(c.lines)
	scanner := bufio.NewScanner(stdout)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		select {
		case c.lines <- []byte(scanner.Text()):
		case <-c.killed:
		}
	}
	_, _ = io.Copy(io.Discard, stdout) // after a line that was too long
}

// poll asks once and waits for the answer, at most for timeout. After an error the child is of no more use.
func (c *child) poll(ctx context.Context, req request, timeout time.Duration) (reply, error) {
	line, err := json.Marshal(req)
	if err != nil {
		return reply{}, err
	}
	c.stderr.reset()
	if _, err := c.stdin.Write(append(line, '\n')); err != nil {
		return reply{}, c.ended(err)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case line, ok := <-c.lines:
		if !ok {
			return reply{}, c.ended(io.ErrUnexpectedEOF)
		}
		return decode(line, req.Seq)
	case <-timer.C:
		return reply{}, fmt.Errorf("NVML worker: %w within %s", errTimeout, timeout)
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}

// decode reads the answer to the request with the number seq.
func decode(line []byte, seq uint64) (reply, error) {
	var rep reply
	if err := json.Unmarshal(line, &rep); err != nil {
		return reply{}, fmt.Errorf("NVML worker: answer: %w", err)
	}
	if rep.Seq != seq {
		return reply{}, fmt.Errorf("NVML worker: answer %d to request %d", rep.Seq, seq)
	}
	switch rep.State {
	case stateOK, stateAbsent, stateFailed:
		return rep, nil
	}
	return reply{}, fmt.Errorf("NVML worker: answer of unknown state %q", rep.State)
}

// ended says how the process ended; err is how that was noticed.
func (c *child) ended(err error) error {
	select {
	case <-c.gone:
		if c.exit != nil {
			err = c.exit
		}
	case <-time.After(reapTime):
	}
	if text := c.stderr.String(); text != "" {
		return fmt.Errorf("NVML worker ended: %w: %s", err, text)
	}
	return fmt.Errorf("NVML worker ended: %w", err)
}

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
