//go:build unix

package process

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestParentKilled kills the program that holds the supervisors, and it alone.
func TestParentKilled(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags []string
	}{
		{"replicas end upon SIGTERM", []string{"--fork"}},
		{"replicas are slow to end", []string{"--fork", "--slow-term=200ms"}},
		{"replicas are chatty and slow", []string{"--fork", "--slow-term=200ms", "--say=" + strings.Repeat("x", 1<<10)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd, all := startParent(t, tt.flags...)
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			goneWithoutUs(t, all)
		})
	}
}

// TestTerminalSignals sends what Ctrl-C on a terminal and a closed terminal send: neither may reach a replica, nor may a
// supervisor heed it.
func TestTerminalSignals(t *testing.T) {
	_, all := startParent(t)
	for _, f := range all {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			if err := syscall.Kill(f.Supervisor, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range all {
		if !alive(f.PID) || !alive(f.Supervisor) {
			t.Errorf("%+v: a signal that was not for it ended it", f)
		}
		if mine, _ := syscall.Getpgid(0); f.Group == mine || f.Group == f.Supervisor {
			t.Errorf("%+v: the replica shares a process group", f)
		}
	}
}

// startParent starts a parent of two replicas in a group of its own, and waits until both are ready.
func startParent(t *testing.T, flags ...string) (*exec.Cmd, []facts) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"parent"}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []facts
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		goneWithoutUs(t, all)
	})
	if err := json.NewDecoder(out).Decode(&all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 {
		t.Fatalf("%d replicas, want 2", len(all))
	}
	return cmd, all
}

func goneWithoutUs(t *testing.T, all []facts) {
	t.Helper()
	for _, f := range all {
		for what, pid := range map[string]int{"replica": f.PID, "supervisor": f.Supervisor, "grandchild": f.Grandchild} {
			if pid != 0 {
				eventually(t, what+" gone", func() bool { return !alive(pid) })
			}
		}
	}
}

// held is a supervisor that the test talks to itself.
type held struct {
	cmd     *exec.Cmd
	control io.WriteCloser
	out     *bufio.Reader
	stderr  bytes.Buffer
}

func supervise(t *testing.T, args ...string) *held {
	t.Helper()
	h := &held{cmd: exec.Command(os.Args[0], append([]string{"supervise"}, args...)...)}
	h.cmd.Stderr = &h.stderr
	var err error
	if h.control, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = bufio.NewReader(out)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.control.Close()
		h.cmd.Wait()
	})
	return h
}

func (h *held) line(t *testing.T) string {
	t.Helper()
	line, err := h.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (h *held) status() int {
	h.cmd.Wait()
	return h.cmd.ProcessState.ExitCode()
}

func TestSuperviseStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		stderr string
	}{
		{"fine", []string{"--", "sh", "-c", "exit 0"}, 0, ""},
		{"status", []string{"--", "sh", "-c", "echo oh >&2; exit 7"}, 7, "oh\n"},
		{"signal", []string{"--", "sh", "-c", "kill -9 $$"}, 137, ""},
		{"TERM is not ignored by the replica", []string{"--", "sh", "-c", "kill -TERM $$; sleep 5"}, 143, ""},
		{"not found", []string{"--", "no-such-program"}, 127, "supervise: exec: \"no-such-program\": executable file not found in $PATH\n"},
		{"not executable", []string{"--", "./doc.go"}, 126, "supervise: fork/exec ./doc.go: permission denied\n"},
		{"no command", []string{"--grace=1s", "--"}, 2, "supervise: no command given after --\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := supervise(t, tt.args...)
			if got := h.status(); got != tt.status {
				t.Errorf("status %d, want %d", got, tt.status)
			}
			if got := h.stderr.String(); got != tt.stderr {
				t.Errorf("stderr %q, want %q", got, tt.stderr)
			}
		})
	}
	t.Run("wrong flag", func(t *testing.T) {
		if got := supervise(t, "--grace=soon", "--", "sh").status(); got != 2 {
			t.Errorf("status %d, want 2", got)
		}
	})
}

func TestSuperviseStop(t *testing.T) {
	const heeds = `trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.05; done`
	const ignores = `trap 'echo term' TERM; echo up; while :; do sleep 0.05; done`
	for _, tt := range []struct {
		name, script string
		say          []string // to the supervisor; empty: its stdin ends
		status       int
	}{
		{"heeds SIGTERM", heeds, []string{"stop 1m"}, 5},
		{"other lines", heeds, []string{"", "start", "stop", "stop soon", "stop 1m"}, 5},
		{"ignores SIGTERM", ignores, []string{"stop 200ms"}, 137},
		{"less time later", ignores, []string{"stop 1m", "stop 200ms"}, 137},
		{"more time later", ignores, []string{"stop 200ms", "stop 1m"}, 137},
		{"stdin ends, heeds", heeds, nil, 5},
		{"stdin ends, ignores", ignores, nil, 137},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := supervise(t, "--grace=300ms", "--", "sh", "-c", tt.script)
			if got := h.line(t); got != "up" {
				t.Fatalf("said %q, want up", got)
			}
			if tt.say == nil {
				h.control.Close()
			}
			for _, line := range tt.say {
				io.WriteString(h.control, line+"\n")
			}
			if got := h.line(t); got != "term" {
				t.Errorf("said %q, want term", got)
			}
			if got := h.status(); got != tt.status {
				t.Errorf("status %d, want %d", got, tt.status)
			}
		})
	}
}

// TestSuperviseStoppedReplica: a process that was stopped heeds no SIGTERM, but SIGKILL.
func TestSuperviseStoppedReplica(t *testing.T) {
	h := supervise(t, "--", "sh", "-c", "echo up; kill -STOP $$")
	h.line(t)
	io.WriteString(h.control, "stop 50ms\n")
	began := time.Now()
	if got := h.status(); got != 137 {
		t.Errorf("status %d after %s, want 137", got, time.Since(began))
	}
}
