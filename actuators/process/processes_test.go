//go:build unix

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

var digits = actuators.Target{Kind: Kind, Name: "digits"}

// testTiming has short pauses, and the patience that a busy machine needs.
var testTiming = timing{
	fast:     5 * time.Millisecond,
	slow:     20 * time.Millisecond,
	fastFor:  time.Hour,
	timeout:  time.Second,
	failures: 3,
}

// testTarget is a target of test model servers with these flags.
func testTarget(flags ...string) Target {
	target := DefaultTarget()
	target.Command = append([]string{os.Args[0], "modelserver", "--listen={{.Address}}"}, flags...)
	target.Ready = "/ready"
	target.RestartBackoff = Backoff{Min: model.Duration(10 * time.Millisecond), Max: model.Duration(50 * time.Millisecond)}
	target.MaxReplicas = 6
	return target
}

// machine is a Processes that runs for a test.
type machine struct {
	*Processes
	t    *testing.T
	log  *logged
	reg  *prometheus.Registry
	stop func() // ends Run and waits for it
}

func run(t *testing.T, target Target, drain func(context.Context, string, string) error) *machine {
	t.Helper()
	m := &machine{t: t, log: &logged{}, reg: prometheus.NewPedanticRegistry()}
	p, err := New(Config{"digits": target}, Options{
		Logger:     slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer: m.reg,
		Supervisor: []string{os.Args[0], "supervise"},
		Drain:      drain,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.timing = testTiming
	m.Processes = p
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	m.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(m.stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", m.log)
		}
	})
	return m
}

func (m *machine) apply(to int) {
	m.t.Helper()
	if _, err := m.Apply(m.t.Context(), digits, actuators.Change{To: to}); err != nil {
		m.t.Fatal(err)
	}
}

// ready waits until exactly n replicas are ready and none is on its way out, and returns their facts by address.
func (m *machine) ready(n int) map[string]facts {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%d ready", n), func() bool {
		replicas := m.Replicas("digits")
		return len(replicas) == n && !slices.ContainsFunc(replicas, func(r ReplicaStatus) bool { return r.State != Ready || r.PID == 0 })
	})
	all := make(map[string]facts)
	for _, r := range m.Replicas("digits") {
		f, err := askFacts(r.Address)
		if err != nil {
			m.t.Fatal(err)
		}
		if f.PID != r.PID {
			m.t.Errorf("replica %d: status has process %d, it says %d", r.Index, r.PID, f.PID)
		}
		all[r.Address] = f
	}
	return all
}

// first is the replica with the lowest index; a zero status before there is any.
func (m *machine) first() ReplicaStatus {
	for _, r := range m.Replicas("digits") {
		return r
	}
	return ReplicaStatus{}
}

func (m *machine) list() []string {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	current, _, err := m.Endpoints(ctx, "digits")
	if err != nil {
		m.t.Fatal(err)
	}
	return current
}

func (m *machine) only() (string, facts) {
	m.t.Helper()
	for address, f := range m.ready(1) {
		return address, f
	}
	panic("unreachable")
}

// logged is a log that can be read while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logged) has(parts ...string) bool {
	for line := range strings.Lines(l.String()) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			return true
		}
	}
	return false
}

func gone(t *testing.T, f facts) {
	t.Helper()
	// The supervisor is waited for by us and the replica by the supervisor: neither may be left as a zombie.
	for what, pid := range map[string]int{"replica": f.PID, "supervisor": f.Supervisor} {
		eventually(t, fmt.Sprintf("%s %d gone", what, pid), func() bool { return !exists(pid) })
	}
	if f.Grandchild != 0 {
		eventually(t, fmt.Sprintf("grandchild %d gone", f.Grandchild), func() bool { return !alive(f.Grandchild) })
	}
}

func portFree(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Errorf("port still taken: %v", err)
		return
	}
	l.Close()
}

func TestConformance(t *testing.T) {
	actuatortest.Run(t, actuatortest.Harness{
		New:         func(t *testing.T) actuators.Actuator { return run(t, testTarget(), nil) },
		Target:      digits,
		Max:         6,
		ReadyWithin: 20 * time.Second,
	})
}

func TestUpAndDown(t *testing.T) {
	dir := t.TempDir()
	target := testTarget("--fork")
	target.Env = map[string]string{"DEVICE": "cuda:{{.Index}}"}
	target.Dir = dir
	m := run(t, target, nil)
	m.apply(3)
	first := m.ready(3)

	list := m.list()
	if len(list) != 3 {
		t.Errorf("endpoints %v, want 3", list)
	}
	us, _ := unix.Getsid(0)
	for i, address := range list {
		f := first[address]
		if want := fmt.Sprintf("cuda:%d", i); f.Device != want {
			t.Errorf("replica %d has DEVICE=%s, want %s", i, f.Device, want)
		}
		if resolved, _ := filepath.EvalSymlinks(dir); f.Dir != resolved && f.Dir != dir {
			t.Errorf("replica %d runs in %s, want %s", i, f.Dir, dir)
		}
		if f.Group != f.PID || f.Session != f.Supervisor || f.Session == us {
			t.Errorf("replica %d: %+v, want a group of its own in its supervisor's session", i, f)
		}
	}

	m.apply(1)
	second := m.ready(1)
	if _, ok := second[list[0]]; !ok {
		t.Errorf("left %v, want the oldest, %s", second, list[0])
	}
	for _, address := range list[1:] {
		gone(t, first[address])
		portFree(t, address)
	}

	m.apply(2)
	third := m.ready(2)
	if replicas := m.Replicas("digits"); replicas[0].Index != 0 || replicas[1].Index != 1 {
		t.Errorf("%+v, want the lowest index to be used again", replicas)
	}
	m.stop()
	for address, f := range third {
		gone(t, f)
		portFree(t, address)
	}
	if replicas := m.Replicas("digits"); len(replicas) != 0 {
		t.Errorf("%+v after the end, want none", replicas)
	}
	if _, err := m.Apply(t.Context(), digits, actuators.Change{To: 1}); err == nil {
		t.Error("apply after the end succeeded")
	}
	if !m.log.has("replica stopped", "exit status 0") {
		t.Error("replicas did not end by themselves upon SIGTERM")
	}
}

func TestReplicaKilledIsReplaced(t *testing.T) {
	m := run(t, testTarget("--fork"), nil)
	m.apply(1)
	address, before := m.only()
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restart", func() bool { return m.first().Restarts == 1 })
	_, after := m.only()
	if after.PID == before.PID {
		t.Error("the same process")
	}
	gone(t, before)
	if got := m.first().LastExit; got != "signal: killed" {
		t.Errorf("last exit %q, want signal: killed", got)
	}
	portFree(t, address)
	m.check("flyball_process_restarts_total", `
# HELP flyball_process_restarts_total Replicas that ended without being told to and were to be started again, by reason.
# TYPE flyball_process_restarts_total counter
flyball_process_restarts_total{reason="exit",target="process/digits"} 1
flyball_process_restarts_total{reason="start_error",target="process/digits"} 0
flyball_process_restarts_total{reason="start_timeout",target="process/digits"} 0
flyball_process_restarts_total{reason="unready",target="process/digits"} 0
`)
	m.check("flyball_process_replicas", `
# HELP flyball_process_replicas Replicas of a target that run on this machine, by state.
# TYPE flyball_process_replicas gauge
flyball_process_replicas{state="backoff",target="process/digits"} 0
flyball_process_replicas{state="draining",target="process/digits"} 0
flyball_process_replicas{state="ready",target="process/digits"} 1
flyball_process_replicas{state="starting",target="process/digits"} 0
flyball_process_replicas{state="unready",target="process/digits"} 0
`)
	if n := testutil.CollectAndCount(m.metrics.starts); n != 1 {
		t.Errorf("%d start durations, want 1", n)
	}
}

func (m *machine) check(name, want string) {
	m.t.Helper()
	if err := testutil.GatherAndCompare(m.reg, strings.NewReader(want), name); err != nil {
		m.t.Error(err)
	}
}

func TestSupervisorKilled(t *testing.T) {
	target := testTarget("--fork", "--ignore-term")
	target.Drain = model.Duration(100 * time.Millisecond)
	m := run(t, target, nil)
	m.apply(1)
	_, before := m.only()
	if err := syscall.Kill(before.Supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restart", func() bool { return m.first().Restarts == 1 })
	eventually(t, "replica gone", func() bool { return !alive(before.PID) && !alive(before.Grandchild) })
	m.ready(1)
	if got := m.first().LastExit; got != "supervisor killed: killed" {
		t.Errorf("last exit %q, want supervisor killed: killed", got)
	}
}

func TestStoppedReplica(t *testing.T) {
	m := run(t, testTarget(), nil)
	m.apply(2)
	before := m.ready(2)
	list := m.list()
	stopped := before[list[0]]

	if err := syscall.Kill(stopped.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "out of the list", func() bool { return slices.Equal(m.list(), list[1:]) })
	if got := m.first().State; got != Unready {
		t.Errorf("state %s, want unready", got)
	}
	state, err := m.Observe(t.Context(), digits)
	if err != nil || state.Spec != 2 || state.Ready != 1 || state.Pending != 1 {
		t.Errorf("%+v, %v; want 1 ready and 1 pending of 2", state, err)
	}

	if err := syscall.Kill(stopped.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "back in the list", func() bool { return slices.Equal(m.list(), list) })
	if r := m.first(); r.PID != stopped.PID || r.Restarts != 0 {
		t.Errorf("%+v, want the same process", r)
	}
}

func TestStoppedReplicaIsReplaced(t *testing.T) {
	target := testTarget()
	target.StartTimeout = model.Duration(time.Second)
	target.Drain = model.Duration(100 * time.Millisecond) // a stopped process needs SIGKILL
	m := run(t, target, nil)
	m.apply(1)
	_, stopped := m.only()
	if err := syscall.Kill(stopped.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restart", func() bool { return m.first().Restarts == 1 })
	gone(t, stopped)
	m.ready(1)
	last := m.first().LastExit
	if !strings.HasPrefix(last, "unready for 1s (") || !strings.HasSuffix(last, "ended: signal: killed") {
		t.Errorf("last exit %q, want that it was unready and killed", last)
	}
}

func TestNeverReady(t *testing.T) {
	target := testTarget("--never-ready", "--say=loading weights")
	target.StartTimeout = model.Duration(200 * time.Millisecond)
	m := run(t, target, nil)
	m.apply(1)
	eventually(t, "restarts", func() bool { return m.first().Restarts >= 2 })
	if len(m.list()) != 0 {
		t.Errorf("endpoints %v, want none", m.list())
	}
	if got := testutil.ToFloat64(m.metrics.restarts.WithLabelValues("process/digits", reasonStartTimeout)); got < 2 {
		t.Errorf("%v restarts for a start timeout, want 2 or more", got)
	}
	if last := m.first().LastExit; !strings.HasPrefix(last, "not ready within 200ms (") {
		t.Errorf("last exit %q", last)
	}
}

func TestCrashLoop(t *testing.T) {
	for _, tt := range []struct {
		name, exit string
		command    []string
		reason     string
	}{
		{"at the start", "exit status 3: out of memory", []string{os.Args[0], "modelserver", "--crash-after=0s", "--say=out of memory"}, reasonExit},
		{"after a while", "exit status 0", []string{os.Args[0], "modelserver", "--listen={{.Address}}", "--crash-after=50ms", "--exit-code=0"}, reasonExit},
		{"no such program", "could not be started: supervise: fork/exec ./nothing: no such file or directory", []string{"./nothing"}, reasonExit},
		{"not in PATH", `could not be started: supervise: exec: "no-such-program": executable file not found in $PATH`, []string{"no-such-program"}, reasonExit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := testTarget()
			target.Command = tt.command
			m := run(t, target, nil)
			m.apply(1)
			eventually(t, "restarts", func() bool { return m.first().Restarts >= 2 })
			if got := m.first().LastExit; got != tt.exit {
				t.Errorf("last exit %q, want %q", got, tt.exit)
			}
			if !m.log.has("level=WARN", `msg="replica ended"`, fmt.Sprintf("exit=%q", tt.exit)) && !m.log.has("level=WARN", "exit=\""+tt.exit) {
				t.Errorf("no warning with %q", tt.exit)
			}
			m.apply(0)
			eventually(t, "gone", func() bool { return len(m.Replicas("digits")) == 0 })
		})
	}
}

func TestSupervisorMissing(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nothing")
	m := run(t, testTarget(), nil)
	m.opts.Supervisor = nil
	m.start = func(command rendered, grace time.Duration, out output) (*child, error) {
		return startChild([]string{missing}, command, grace, out)
	}
	m.apply(1)
	eventually(t, "restart", func() bool { return m.first().Restarts >= 1 })
	if got := testutil.ToFloat64(m.metrics.restarts.WithLabelValues("process/digits", reasonStartError)); got < 1 {
		t.Errorf("%v start errors, want 1 or more", got)
	}
}

func TestPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	target := testTarget()
	m := run(t, target, nil)
	start, first := m.start, true
	m.start = func(command rendered, grace time.Duration, out output) (*child, error) {
		if first { // another program was faster
			command.args[2], first = "--listen="+taken.Addr().String(), false
		}
		return start(command, grace, out)
	}
	m.apply(1)
	m.only()
	if r := m.first(); r.Restarts != 1 || !strings.Contains(r.LastExit, "address already in use") {
		t.Errorf("%+v, want one restart because the address was in use", r)
	}
}

func TestDrainOrder(t *testing.T) {
	termFile := filepath.Join(t.TempDir(), "term")
	var m *machine
	var calls []string
	drain := func(ctx context.Context, target, address string) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the wait for requests in flight has no deadline")
		}
		if slices.Contains(m.list(), address) {
			t.Errorf("%s is still in the list", address)
		}
		if _, err := os.Stat(termFile); !errors.Is(err, os.ErrNotExist) {
			t.Error("SIGTERM was sent before the replica was drained")
		}
		if _, err := askFacts(address); err != nil {
			t.Errorf("the replica does not serve while it is drained: %v", err)
		}
		calls = append(calls, target+" "+address)
		return nil
	}
	m = run(t, testTarget("--term-file="+termFile), drain)
	m.apply(1)
	address, f := m.only()
	m.apply(0)
	gone(t, f)
	if _, err := os.Stat(termFile); err != nil {
		t.Errorf("no SIGTERM: %v", err)
	}
	m.stop()
	if want := []string{"digits " + address}; !slices.Equal(calls, want) {
		t.Errorf("drained %v, want %v", calls, want)
	}
}

func TestIgnoresTerm(t *testing.T) {
	target := testTarget("--ignore-term", "--fork")
	target.Drain = model.Duration(200 * time.Millisecond)
	m := run(t, target, nil)
	m.apply(2)
	all := m.ready(2)
	m.stop()
	for _, f := range all {
		gone(t, f)
	}
	if !m.log.has("replica stopped", "signal: killed") {
		t.Error("not killed")
	}
}

func TestSlowExit(t *testing.T) {
	m := run(t, testTarget("--slow-term=300ms"), nil)
	m.apply(1)
	_, f := m.only()
	m.apply(0)
	eventually(t, "draining", func() bool {
		replicas := m.Replicas("digits")
		return len(replicas) == 1 && replicas[0].State == Draining
	})
	m.apply(1) // a new one, beside the one that is on its way out
	gone(t, f)
	m.ready(1)
	if !m.log.has("replica stopped", "exit status 0") {
		t.Error("not left to end by itself")
	}
}

func TestUnreadyByItself(t *testing.T) {
	m := run(t, testTarget(), nil)
	m.apply(1)
	address, _ := m.only()
	resp, err := http.Post("http://"+address+"/unready", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	eventually(t, "unready", func() bool { return m.first().State == Unready })
	if len(m.list()) != 0 {
		t.Errorf("endpoints %v, want none", m.list())
	}
}

func TestOutputIsLogged(t *testing.T) {
	m := run(t, testTarget("--say=hello from the model"), nil)
	m.apply(1)
	m.ready(1)
	eventually(t, "log line", func() bool {
		return m.log.has("level=DEBUG", "target=process/digits", "replica=0", "stream=stderr", `line="hello from the model"`)
	})
}

func TestNew(t *testing.T) {
	if _, err := New(Config{"digits": {}}, Options{Supervisor: []string{"x"}}); err == nil {
		t.Error("no error for a target without command")
	}
	if _, err := New(Config{"digits": testTarget()}, Options{}); err == nil {
		t.Error("no error without supervisor")
	}
	reg := prometheus.NewRegistry()
	for _, wantErr := range []bool{false, true} {
		_, err := New(DefaultConfig(), Options{Registerer: reg})
		if (err != nil) != wantErr {
			t.Errorf("error %v, want one: %v", err, wantErr)
		}
	}
}
