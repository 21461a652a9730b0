//go:build unix

package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// outputDelay is how long the output of a child is read after its end, for descendants that left its process group.
const outputDelay = time.Second

func supported() error { return nil }

// startChild starts the command under a supervisor (the argument vector of one, to which flags and the command are
// added) in a session of its own, out of reach of the terminal's signals. The grace is what the replica has between
// SIGTERM and SIGKILL should this program be gone.
func startChild(supervisor []string, command rendered, grace time.Duration, out output) (*child, error) {
	report, reportEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe from the supervisor: %w", err)
	}
	defer reportEnd.Close() // the supervisor has its own

	args := slices.Concat(supervisor[1:], []string{"--report-fd=3", "--grace=" + grace.String(), "--"}, command.args)
	cmd := exec.Command(supervisor[0], args...)
	cmd.Dir = command.dir
	cmd.Env = append(os.Environ(), command.env...)
	cmd.Stdout, cmd.Stderr = out.stdout, out.stderr
	cmd.ExtraFiles = []*os.File{reportEnd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = outputDelay
	control, err := cmd.StdinPipe()
	if err != nil {
		report.Close()
		return nil, fmt.Errorf("pipe to the supervisor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		report.Close()
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}

	var (
		group atomic.Int64 // process id of the replica, which is that of its group
		pid   = make(chan int, 1)
		done  = make(chan struct{})
		cause string
	)
	killGroup := func() {
		if g := int(group.Load()); g > 0 {
			_ = syscall.Kill(-g, syscall.SIGKILL)
		}
	}
	go func() {
		defer close(done)
		// The report ends at the latest with the supervisor, which is the only one that holds its other end.
		line, _ := bufio.NewReader(report).ReadString('\n')
		report.Close()
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			group.Store(int64(n))
			pid <- n
		}
		err := cmd.Wait() // closes control
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			// The supervisor never dies of a signal by itself, so it could not end its replica.
			killGroup()
			cause = fmt.Sprintf("supervisor killed: %s", ws.Signal())
			return
		}
		cause = describeExit(cmd.ProcessState.ExitCode(), err)
	}()
	return &child{
		pid:  pid,
		done: done,
		stop: func(grace time.Duration) { fmt.Fprintf(control, "stop %s\n", grace) },
		kill: func() {
			_ = cmd.Process.Kill()
			killGroup()
		},
		cause: func() string { return cause },
	}, nil
}

// describeExit says how a replica ended whose supervisor returned a code.
func describeExit(code int, err error) string {
	switch {
	case code == exitNotFound || code == exitNotStarted:
		return "could not be started"
	case code > exitSignal && code < exitSignal+65:
		return "signal: " + syscall.Signal(code-exitSignal).String()
	case code >= 0:
		return fmt.Sprintf("exit status %d", code)
	default:
		return err.Error()
	}
}
