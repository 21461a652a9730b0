//go:build unix

package process

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// What a shell returns for a command that it could not start, and adds a signal's number to for one that was killed.
const (
	exitNotStarted = 126
	exitNotFound   = 127
	exitSignal     = 128
)

// Supervise is the body of the hidden command that holds one replica. It starts the command that args give after "--", in
// a process group of its own, passes its output on, and returns its exit status: 128 plus the signal's number for one
// that was killed, 126 or 127 for one that could not be started, 2 for arguments that are wrong.
//
// A line "stop GRACE" on stdin ends the replica: SIGTERM to its group, and SIGKILL once the grace (such as 10s) has
// passed. The end of stdin does the same with the grace of the --grace flag: it comes when the parent is gone, for
// whatever reason. What is left of the group when the command itself has ended is killed. With --report-fd, the process
// id of the command is written to that file descriptor, as a line.
//
// The caller exits with the status at once: a reader of stdin is left behind. SIGINT, SIGTERM, SIGHUP and SIGPIPE are
// ignored from the call on, as only the parent may say when a replica has been drained.
func Supervise(args []string, stdin io.Reader) int {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	grace := flags.Duration("grace", 10*time.Second, "from SIGTERM to SIGKILL when stdin ends")
	reportFD := flags.Int("report-fd", -1, "file descriptor for the process id of the command")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "supervise: no command given after --")
		return 2
	}

	// Caught and left unread rather than ignored: what a process ignores, its children ignore too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)

	// The kernel sends the death signal when the thread that started the replica ends, so this one has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command(flags.Arg(0), flags.Args()[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = replicaAttr()
	if *reportFD >= 0 {
		syscall.CloseOnExec(*reportFD)
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "supervise: %v\n", err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exitNotFound
		}
		return exitNotStarted
	}
	group := cmd.Process.Pid
	if *reportFD >= 0 {
		report := os.NewFile(uintptr(*reportFD), "report")
		fmt.Fprintln(report, group)
		report.Close()
	}

	stops := make(chan time.Duration)
	go readStops(stdin, *grace, stops)
	exited := make(chan func() error)
	go func() { exited <- awaitExit(cmd) }()

	var deadline time.Time
	var kill <-chan time.Time
	for {
		select {
		case after := <-stops:
			// A later request may shorten the time left, not extend it.
			if at := time.Now().Add(after); deadline.IsZero() || at.Before(deadline) {
				deadline, kill = at, time.After(after)
			}
			_ = syscall.Kill(-group, syscall.SIGTERM)
		case <-kill:
			_ = syscall.Kill(-group, syscall.SIGKILL)
		case wait := <-exited:
			_ = syscall.Kill(-group, syscall.SIGKILL)
			return status(wait())
		}
	}
}

// readStops sends the grace of each request to stop, the last one when the control pipe ends.
func readStops(control io.Reader, atEnd time.Duration, stops chan<- time.Duration) {
	scanner := bufio.NewScanner(control)
	for scanner.Scan() {
		if after, ok := strings.CutPrefix(scanner.Text(), "stop "); ok {
			if grace, err := time.ParseDuration(after); err == nil {
				stops <- grace
			}
		}
	}
	stops <- atEnd
}

// status is what a shell would return for a command whose Wait returned err.
func status(err error) int {
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return 1
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitSignal + int(ws.Signal())
	}
	return exit.ExitCode()
}
