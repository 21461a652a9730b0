package gpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script is the directory that says how a stand-in for NVML behaves, in a worker process of its own: any that this test
// binary starts with script-worker and the directory. It is read at every call.
type script string

// scripted is what the file mode of a script has in it.
type scripted struct {
	GPUs   []string // UUIDs
	Hang   []string // UUIDs of those whose calls do not return; init for opening the library
	Attach []string // of those that cannot even be got hold of
	Crash  []string // of those over which the library crashes
	Symbol []string // of those for which a symbol is missing
	Lost   []string
	Silent []string // of those that do not report errors
	Gone   bool     // the driver was unloaded
}

func newScript(t testing.TB, mode scripted) script {
	t.Helper()
	s := script(t.TempDir())
	s.set(t, mode)
	return s
}

// argv is the command of a worker.
func (s script) argv(t testing.TB) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{self, "script-worker", string(s)}
}

// set changes the behaviour in one step.
func (s script) set(t testing.TB, mode scripted) {
	t.Helper()
	b, err := json.Marshal(mode)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(string(s), "mode")
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// xid makes the driver report an error.
func (s script) xid(t testing.TB, uuid string, number int) {
	t.Helper()
	s.add("xids", fmt.Sprintf("%s %d\n", uuid, number))
}

// calls returns how many calls were made.
func (s script) calls(t testing.TB) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(string(s), "calls"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func (s script) add(name, text string) {
	f, err := os.OpenFile(filepath.Join(string(s), name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	_, _ = f.WriteString(text)
	_ = f.Close()
}

// mode notes a call and returns the behaviour.
func (s script) mode() (m scripted) {
	s.add("calls", "x")
	b, err := os.ReadFile(filepath.Join(string(s), "mode"))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		panic(err)
	}
	return m
}

func (s script) open(opening) (library, string, error) {
	if slices.Contains(s.mode().Hang, "init") {
		select {} // with the goroutine that reads requests waiting, this is no deadlock to the runtime
	}
	return scriptLibrary{script: s}, "script.so", nil
}

// scriptLibrary is NVML as a script has it.
type scriptLibrary struct {
	fakeLibrary
	script script
}

func (l scriptLibrary) DriverVersion() (string, error) {
	if l.script.mode().Gone {
		return "", fmt.Errorf("nvmlX: Driver Not Loaded: %w", errDriverGone)
	}
	return "570.1", nil
}
func (l scriptLibrary) DeviceCount() (int, error) { return len(l.script.mode().GPUs), nil }
func (l scriptLibrary) Close() error              { return nil }

func (l scriptLibrary) Device(i int) (device, error) {
	m := l.script.mode()
	if slices.Contains(m.Attach, m.GPUs[i]) {
		select {}
	}
	return scriptDevice{fakeDevice{uuid: m.GPUs[i], power: 100, err: errUnsupported}, l.script}, nil
}

func (l scriptLibrary) Events(...string) (events, error) {
	m := l.script.mode()
	uuids := slices.DeleteFunc(m.GPUs, func(uuid string) bool { return slices.Contains(m.Silent, uuid) })
	info, err := os.Stat(filepath.Join(string(l.script), "xids"))
	if errors.Is(err, os.ErrNotExist) {
		return &scriptEvents{script: l.script, uuids: uuids}, nil
	}
	return &scriptEvents{script: l.script, uuids: uuids, offset: int(info.Size())}, nil
}

type scriptDevice struct {
	fakeDevice
	script script
}

func (d scriptDevice) Power() (float64, error) {
	m := d.script.mode()
	switch {
	case slices.Contains(m.Hang, d.uuid):
		select {}
	case slices.Contains(m.Crash, d.uuid):
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // as the kernel's, which tells no more than a crash of C code
		select {}
	case slices.Contains(m.Symbol, d.uuid):
		fmt.Fprintln(os.Stderr, "flyball: symbol lookup error: flyball: undefined symbol: nvmlDeviceGetPowerUsage")
		os.Exit(exitLoader)
	case slices.Contains(m.Lost, d.uuid):
		return 0, fmt.Errorf("nvmlDeviceGetPowerUsage: %w", errLost)
	}
	return 100, nil
}

// scriptEvents are the errors that the file xids has.
type scriptEvents struct {
	script script
	uuids  []string // that report errors
	offset int
}

func (e *scriptEvents) Wait(timeout time.Duration) (event, bool, error) {
	b, err := os.ReadFile(filepath.Join(string(e.script), "xids"))
	if err != nil || len(b) <= e.offset {
		time.Sleep(min(timeout, 5*time.Millisecond)) // it stands for the driver, which blocks here
		return event{}, false, nil
	}
	var got event
	if _, err := fmt.Sscanf(string(b[e.offset:]), "%s %d\n", &got.UUID, &got.XID); err != nil {
		return event{}, false, err
	}
	e.offset += strings.Index(string(b[e.offset:]), "\n") + 1
	return got, true, nil
}

func (e *scriptEvents) UUIDs() []string { return e.uuids }
func (e *scriptEvents) Close() error    { return nil }
