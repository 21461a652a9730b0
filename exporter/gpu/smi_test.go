package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The stand-in for nvidia-smi is this test binary under that name. It reads from a directory how to behave (mode) and what
// to say (gpus.csv, apps.csv: what a real one said), and notes there that it runs.
const fakeSMIVariable = "FAKE_NVIDIA_SMI"

func fakeSMI(args []string) int {
	dir := os.Getenv(fakeSMIVariable)
	text, err := os.ReadFile(filepath.Join(dir, "mode"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	mode := strings.TrimSpace(string(text))
	running := filepath.Join(dir, "running")
	f, err := os.OpenFile(running, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		_ = os.WriteFile(filepath.Join(dir, "overlap"), nil, 0o644)
	} else {
		fmt.Fprint(f, os.Getpid())
		f.Close()
		defer os.Remove(running)
	}
	calls, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		fmt.Fprintln(calls, strings.Join(args, " "))
		calls.Close()
	}

	switch mode {
	case "hang":
		time.Sleep(time.Hour) // it is killed before that
	case "exit9":
		fmt.Println("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.")
		return 9
	case "exit12":
		fmt.Println("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed and present in your system.")
		return 12
	case "mismatch":
		fmt.Println("Failed to initialize NVML: Driver/library version mismatch")
		return 18
	}
	table := readFakeTable(filepath.Join(dir, "gpus.csv"))
	if slices.Contains(args, "--help-query-gpu") {
		if help, err := os.ReadFile(filepath.Join(dir, "help.txt")); err == nil {
			fmt.Printf("%s", help)
			return 0
		}
		fmt.Print("List of valid properties to query for the switch \"--query-gpu\":\n\n")
		for i, name := range table.header {
			other := ""
			if alias := map[string]string{"uuid": "gpu_uuid", "clocks.current.sm": "clocks.sm"}[name]; alias != "" {
				other = ` or "` + alias + `"`
			}
			fmt.Printf("%q%s\nWhat it is, in words.\n\n", name, other)
			if i == 3 {
				fmt.Print("\"0: Default\" means multiple contexts are allowed per device.\n\n")
			}
		}
		return 0
	}
	switch mode {
	case "garbage":
		fmt.Println("\x00\xff<html>, not, a, table</html>")
		return 0
	case "flood":
		w := bufio.NewWriter(os.Stdout)
		for range 20_000 {
			fmt.Fprintln(w, strings.Repeat("x", 100))
		}
		_ = w.Flush()
		return 0
	case "exit6":
		fmt.Println("No devices were found")
		return 6
	}
	var fields []string
	var id string
	apps := false
	for _, a := range args {
		if list, ok := strings.CutPrefix(a, "--query-gpu="); ok {
			fields = strings.Split(list, ",")
		}
		if list, ok := strings.CutPrefix(a, "--query-compute-apps="); ok {
			fields, apps = strings.Split(list, ","), true
		}
		if v, ok := strings.CutPrefix(a, "--id="); ok {
			id = v
		}
	}
	if apps && mode == "noapps" {
		fmt.Println("Option --query-compute-apps is not recognized.")
		return 2
	}
	if apps {
		table = readFakeTable(filepath.Join(dir, "apps.csv"))
	}
	if mode == "nohandle" && id == "" && !apps {
		fmt.Println("Unable to determine the device handle for GPU0000:1A:00.0: GPU is lost.  Reboot the system to recover this GPU")
		return 15
	}
	for _, row := range table.rows {
		if id != "" && !strings.Contains(id, row[slices.Index(table.header, "uuid")]) {
			continue
		}
		var cells []string
		for _, f := range fields {
			i := slices.Index(table.header, f)
			if i < 0 {
				fmt.Printf("Field %q is not a valid field to query.\n\n", f)
				return 2
			}
			cell := row[i]
			if unit := strings.LastIndexByte(cell, ' '); unit > 0 && slices.Contains([]string{"%", "MiB", "W", "MHz", "us"}, cell[unit+1:]) {
				cell = cell[:unit] // nounits
			}
			cells = append(cells, cell)
		}
		fmt.Println(strings.Join(cells, ", "))
	}
	if mode == "inforom" {
		fmt.Println("WARNING: infoROM is corrupted at gpu 0000:00:09.0")
		return 14
	}
	return 0
}

type fakeTable struct {
	header []string
	rows   [][]string
}

func readFakeTable(path string) (t fakeTable) {
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimRight(line, "\n"), ", ")
		if t.header == nil {
			for _, c := range cells {
				name, _, _ := strings.Cut(c, " [")
				t.header = append(t.header, name)
			}
			continue
		}
		t.rows = append(t.rows, cells)
	}
	return t
}

// smiStand is a stand-in for nvidia-smi.
type smiStand struct {
	dir, path string
}

// newSMI makes one that says what the files of testdata/smi say, processes those that were captured with the table, if they were. Its table gets a second row, which change makes of the first.
func newSMI(t *testing.T, gpus string, change func(cell, field string) string) smiStand {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := smiStand{dir: t.TempDir()}
	s.path = filepath.Join(s.dir, "nvidia-smi")
	if err := os.Symlink(self, s.path); err != nil {
		t.Fatal(err)
	}
	t.Setenv(fakeSMIVariable, s.dir)
	text, err := os.ReadFile(filepath.Join("testdata", "smi", gpus))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		table := readFakeTable(filepath.Join("testdata", "smi", gpus))
		var second []string
		for i, cell := range table.rows[0] {
			second = append(second, change(cell, table.header[i]))
		}
		text = append(text, strings.Join(second, ", ")+"\n"...)
	}
	_, version, _ := strings.Cut(gpus, "-")
	apps, err := os.ReadFile(filepath.Join("testdata", "smi", "apps-"+version))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"gpus.csv": text, "apps.csv": apps, "mode": []byte("normal")} {
		if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(s.dir, "overlap")); err == nil {
			t.Error("two of them ran at once")
		}
	})
	return s
}

func (s smiStand) mode(t *testing.T, mode string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "mode"), []byte(mode), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s smiStand) calls(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// another is a second GPU like the first.
func another(cell, field string) string {
	switch field {
	case "uuid":
		return "GPU-00000000-0000-0000-0000-000000000001"
	case "index":
		return "1"
	case "pci.bus_id":
		return "00000000:1A:00.0"
	}
	return cell
}

// says is a second GPU that says this in place of every value but those that name it.
func says(what string) func(cell, field string) string {
	return func(cell, field string) string {
		switch field {
		case "uuid", "index", "pci.bus_id", "name":
			return another(cell, field)
		}
		return what
	}
}

func devicesJSON(t *testing.T, devices []Device) string {
	t.Helper()
	text, err := json.MarshalIndent(devices, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// TestSMI goes the whole way: exporter, collector, a command that is started and says what a real one said.
func TestSMI(t *testing.T) {
	for _, tt := range []struct {
		name, gpus string
		change     func(cell, field string) string
		processes  bool
		golden     string
	}{
		{name: "two GPUs and their processes", gpus: "h100-590.48.01.csv", change: another, processes: true, golden: "smi"},
		{name: "an old driver", gpus: "rtx2080-471.11.csv", golden: "smi_old"},
		{name: "an H200", gpus: "h200-580.159.04.csv", processes: true, golden: "smi_h200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stand := newSMI(t, tt.gpus, tt.change)
			lines, logger := newLog()
			c := New(Options{Backend: BackendNvidiaSMI, NvidiaSMI: stand.path, Processes: tt.processes, Logger: logger, Interval: time.Hour})
			run(t, c)
			lines.await(t, "backend=nvidia-smi from="+stand.path)
			lines.await(t, "reading GPUs")
			golden(t, tt.golden+".prom", scrape(t, c))
			if got := c.Snapshot().Backend; got != BackendNvidiaSMI {
				t.Errorf("backend %q", got)
			}
			read, err := (&smi{asked: stand.path, processes: tt.processes}).read(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.golden+".json", devicesJSON(t, read.Devices))
		})
	}
}

// TestSMIReads is what becomes of what the command says.
func TestSMIReads(t *testing.T) {
	first, second := "GPU-00000000-0000-0000-0000-000000000000", "GPU-00000000-0000-0000-0000-000000000001"
	for _, tt := range []struct {
		name   string
		mode   string
		change func(cell, field string) string
		want   []string // GPUs: index, UUID, error
		err    string
		absent bool
	}{
		{name: "a corrupted infoROM is a warning", mode: "inforom", change: another, want: []string{"0 " + first, "1 " + second}},
		{name: "a GPU is lost", change: says("[GPU is lost]"), want: []string{"0 " + first, "1 " + second + " GPU is lost"}},
		{name: "a GPU wants a reset", change: says("[GPU requires reset]"), want: []string{"0 " + first, "1 " + second + " GPU requires reset"}},
		{name: "a GPU answers nothing", change: says("[Unknown Error]"), want: []string{"0 " + first, "1 " + second + " Unknown Error"}},
		{name: "ERR!", change: says("ERR!"), want: []string{"0 " + first, "1 " + second + " ERR!"}},
		{name: "a GPU with nothing that is supported", change: says("[Not Supported]"), want: []string{"0 " + first, "1 " + second}},
		{name: "no driver", mode: "exit9", absent: true, err: "nvidia-smi: exit code 9: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."},
		{name: "no library", mode: "exit12", absent: true, err: "nvidia-smi: exit code 12: NVIDIA-SMI couldn't find libnvidia-ml.so"},
		{name: "no GPU", mode: "exit6"},
		{name: "versions differ", mode: "mismatch", err: "nvidia-smi: exit code 18: Failed to initialize NVML: Driver/library version mismatch"},
		{name: "garbage", mode: "garbage", err: "nvidia-smi: not what was asked for: \x00?<html>, not, a, table</html>"},
		{name: "2 MB of output", mode: "flood", err: "nvidia-smi: more than 1024 KiB of output"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stand := newSMI(t, "h100-590.48.01.csv", tt.change)
			if tt.mode != "" {
				stand.mode(t, tt.mode)
			}
			got, err := (&smi{asked: stand.path}).read(t.Context(), 0)
			text := ""
			if absent, ok := errors.AsType[*absentError](err); ok != tt.absent {
				t.Errorf("absent: %v", err)
			} else if ok {
				text = strings.Join(absent.tried, "; ")
			} else if err != nil {
				text = err.Error()
			}
			if !strings.HasPrefix(text, tt.err) || tt.err == "" && text != "" {
				t.Errorf("error %q, want %q", text, tt.err)
			}
			var gpus []string
			for _, d := range got.Devices {
				gpus = append(gpus, strings.TrimSpace(fmt.Sprint(d.Index, " ", d.UUID, " ", d.Error)))
				if d.Lost != (d.Error == "GPU is lost") {
					t.Errorf("GPU %d: lost is %t beside %q", d.Index, d.Lost, d.Error)
				}
			}
			if diff := cmp.Diff(tt.want, gpus); diff != "" {
				t.Errorf("GPUs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSMIProcessesFail: GPUs of which the processes cannot be listed have the rest.
func TestSMIProcessesFail(t *testing.T) {
	stand := newSMI(t, "h100-590.48.01.csv", another)
	stand.mode(t, "noapps")
	got, err := (&smi{asked: stand.path, processes: true}).read(t.Context(), 0)
	if err != nil || len(got.Devices) != 2 {
		t.Fatalf("%d GPUs, %v; want 2", len(got.Devices), err)
	}
	for _, d := range got.Devices {
		if d.Error != "" || d.Power == nil || d.Processes != nil {
			t.Errorf("GPU %d: error %q, power %v, processes %v", d.Index, d.Error, d.Power, d.Processes)
		}
		if diff := cmp.Diff([]string{"nvidia-smi: exit code 2: Option --query-compute-apps is not recognized."}, d.Faults); diff != "" {
			t.Errorf("GPU %d: faults (-want +got):\n%s", d.Index, diff)
		}
	}
}

// TestSMIProcessesSeldom: processes are listed when that is wanted, and hold until then.
func TestSMIProcessesSeldom(t *testing.T) {
	stand := newSMI(t, "h100-590.48.01.csv", nil)
	s := &smi{asked: stand.path, processes: true}
	listed := func() (n int) {
		for _, call := range stand.calls(t) {
			if strings.Contains(call, "--query-compute-apps") {
				n++
			}
		}
		return n
	}
	var first []Process
	for i, tt := range []struct {
		want   tiers
		listed int
	}{{tierFast | tierProcesses, 1}, {tierFast, 1}, {tierFast | tierSlow, 1}, {tierFast | tierProcesses, 2}, {tierFast, 2}} {
		got, err := s.read(t.Context(), tt.want)
		if err != nil || len(got.Devices) != 1 || len(got.Devices[0].Processes) == 0 {
			t.Fatalf("reading %d: %+v, %v", i, got, err)
		}
		if i == 0 {
			first = got.Devices[0].Processes
		}
		if diff := cmp.Diff(first, got.Devices[0].Processes); diff != "" {
			t.Errorf("reading %d: processes (-first +now):\n%s", i, diff)
		}
		if n := listed(); n != tt.listed {
			t.Errorf("reading %d: listed %d times, want %d", i, n, tt.listed)
		}
	}

	none := &smi{asked: stand.path}
	before := listed()
	if got, err := none.read(t.Context(), tierFast|tierProcesses); err != nil || got.Devices[0].Processes != nil || listed() != before {
		t.Errorf("not needed, and listed: %+v, %v", got, err)
	}
}

// TestSMIInterval: a collector lists processes every 15 s, whatever the interval.
func TestSMIInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wants []tiers
		c := New(Options{Processes: true})
		c.start = func() (worker, error) {
			return readerWorker{&reader{name: "x", backend: wanted(func(want tiers) { wants = append(wants, want) })}}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 31*time.Second)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		var got []bool
		for _, w := range wants {
			got = append(got, w.has(tierProcesses))
		}
		if diff := cmp.Diff([]bool{true, false, false, true, false, false, true}, got); diff != "" {
			t.Errorf("processes wanted (-want +got):\n%s", diff)
		}
	})
}

// wanted is a backend that tells what it was asked for.
type wanted func(tiers)

func (w wanted) read(_ context.Context, want tiers) (readings, error) {
	w(want)
	return readings{Devices: gpus(0).Devices}, nil
}

// TestSMINoHandle: an old command that gives up over one GPU is asked for the others.
func TestSMINoHandle(t *testing.T) {
	stand := newSMI(t, "h100-590.48.01.csv", another)
	s := &smi{asked: stand.path}
	if _, err := s.read(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	stand.mode(t, "nohandle")
	got, err := s.read(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Devices) != 2 || got.Devices[0].Power == nil || got.Devices[0].Error != "" {
		t.Fatalf("GPUs %s", devicesJSON(t, got.Devices))
	}
	want := Device{
		Index: 1, UUID: "GPU-00000000-0000-0000-0000-000000000001", PCIBusID: "0:1a:00.0",
		Error: "GPU is lost. Reboot the system to recover this GPU", Lost: true,
	}
	if diff := cmp.Diff(want, got.Devices[1]); diff != "" {
		t.Errorf("the lost GPU (-want +got):\n%s", diff)
	}
	if calls := stand.calls(t); !strings.HasSuffix(calls[len(calls)-1], "--id=GPU-00000000-0000-0000-0000-000000000000") {
		t.Errorf("last call %q", calls[len(calls)-1])
	}

	fresh, err := (&smi{asked: stand.path}).read(t.Context(), 0) // one that never saw it
	if err != nil || len(fresh.Devices) != 1 || fresh.Devices[0].UUID != "" || fresh.Devices[0].Error == "" {
		t.Errorf("GPUs %s, %v", devicesJSON(t, fresh.Devices), err)
	}
}

// TestSMIHangs: a command that hangs is ended at the deadline, and the GPUs are read again once it does not any more.
func TestSMIHangs(t *testing.T) {
	stand := newSMI(t, "h100-590.48.01.csv", nil)
	stand.mode(t, "hang")
	w := readerWorker{&reader{name: BackendNvidiaSMI, backend: &smi{asked: stand.path}}}
	_, err := w.poll(t.Context(), request{Seq: 1}, 500*time.Millisecond)
	if !errors.Is(err, errTimeout) {
		t.Fatalf("poll: %v, want a timeout", err)
	}
	<-w.kill()
	text, err := os.ReadFile(filepath.Join(stand.dir, "running"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
	if err := os.Remove(filepath.Join(stand.dir, "running")); err != nil {
		t.Fatal(err)
	}
	stand.mode(t, "normal")
	rep, err := w.poll(t.Context(), request{Seq: 2}, time.Minute)
	if err != nil || len(rep.Devices) != 1 || rep.Seq != 2 {
		t.Errorf("poll: %+v, %v", rep, err)
	}
}

func TestSMIMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := (&smi{}).read(t.Context(), 0)
	absent, ok := errors.AsType[*absentError](err)
	if !ok || len(absent.tried) != 1+len(smiPlaces) {
		t.Errorf("read: %v, want an error that names $PATH and %v", err, smiPlaces)
	}
}

// TestSMIEnds: what is read ends with the context, at the end of flyball too.
func TestSMIEnds(t *testing.T) {
	stand := newSMI(t, "h100-590.48.01.csv", nil)
	stand.mode(t, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	w := readerWorker{&reader{name: BackendNvidiaSMI, backend: &smi{asked: stand.path}}}
	if _, err := w.poll(ctx, request{Seq: 1}, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("poll: %v, want the context's end", err)
	}
	<-w.kill()
}

// FuzzSMI: whatever the command says, what is made of it can be published.
func FuzzSMI(f *testing.F) {
	table := readFakeTable("testdata/smi/h100-590.48.01.csv")
	fields := smiFields
	var cells []string
	for _, field := range fields {
		cell := ""
		for _, name := range field.names {
			if i := slices.Index(table.header, name); i >= 0 {
				cell, _, _ = strings.Cut(table.rows[0][i], " ")
				break
			}
		}
		cells = append(cells, cell)
	}
	row := strings.Join(cells, ", ")
	f.Add(row + "\n" + row + "\n")
	f.Add("Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error\n" + row)
	f.Add(strings.ReplaceAll(row, "0", "[GPU is lost]"))
	f.Add(strings.ReplaceAll(row, "0", "1e308"))
	f.Add("GPU-00000000-0000-0000-0000-000000000000, 11327, 2566, /root/a, b c\n")
	f.Fuzz(func(t *testing.T, text string) {
		got := parseSMI(text, fields, map[string]smiSeen{"0:b:00.0": {"GPU-b", 3}})
		devices := got.all(nil)
		parseSMIProcesses(text, devices)
		checkDevices(t, devices)
		smiKnown(text)
	})
}

// checkDevices checks what all devices have in common, and that they can be published.
func checkDevices(t *testing.T, devices []Device) {
	t.Helper()
	rep := &reply{Devices: devices}
	var seen []known
	for _, d := range devices {
		if d.UUID == "" && d.Error == "" {
			t.Errorf("GPU %d has neither UUID nor error", d.Index)
		}
		if d.Memory != nil && d.Memory.Total == 0 {
			t.Errorf("GPU %d has no memory: %+v", d.Index, d.Memory)
		}
		for _, v := range []*float64{d.Utilization, d.MemoryUtilization, d.Power, d.Energy} {
			if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
				t.Errorf("GPU %d: %g", d.Index, *v)
			}
		}
		seen = append(seen, known{uuid: d.UUID, index: d.Index, err: d.Error})
	}
	if _, err := json.Marshal(devices); err != nil {
		t.Error(err)
	}
	_, _ = publish(rep, seen)
}

// TestSMIAsks holds what a driver of 2026 is asked for, which lists more than is asked for and lacks nothing of it.
func TestSMIAsks(t *testing.T) {
	stand := newSMI(t, "h100-590.48.01.csv", nil)
	help, err := os.ReadFile("testdata/smi/help-580.159.04.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stand.dir, "help.txt"), help, 0o644); err != nil {
		t.Fatal(err)
	}
	s := smi{asked: stand.path}
	if err := s.find(); err != nil {
		t.Fatal(err)
	}
	if err := s.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	golden(t, "smi_asked.txt", strings.Join(s.names, "\n")+"\n")
	for _, f := range smiFields {
		if !slices.ContainsFunc(s.fields, func(asked smiField) bool { return asked.names[0] == f.names[0] }) {
			t.Errorf("%s: not asked for", f.names[0])
		}
	}
}

// TestSMIArch holds the names that NVML has for the architectures of compute capabilities.
func TestSMIArch(t *testing.T) {
	for capability, want := range map[string]string{
		"3.5": "kepler", "5.2": "maxwell", "6.1": "pascal", "7.0": "volta", "7.2": "volta", "7.5": "turing", "8.0": "ampere", "8.6": "ampere",
		"8.9": "ada", "9.0": "hopper", "10.0": "blackwell", "10.3": "blackwell", "12.0": "blackwell", "99.0": "", "": "", "9": "",
	} {
		if got := smiArch(capability); got != want {
			t.Errorf("%s: %q, want %q", capability, got, want)
		}
	}
}

// TestSMIPower: the power is the mean over a second, as with NVML, and that of the moment where the GPU tells no other.
func TestSMIPower(t *testing.T) {
	for _, tt := range []struct {
		name, mean string
		want       float64
	}{
		{"both", "631.95 W", 631.95},
		{"no mean", "[N/A]", 625.68},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stand := newSMI(t, "h100-590.48.01.csv", func(cell, field string) string {
				if field == "power.draw" {
					return tt.mean
				}
				return another(cell, field)
			})
			s := smi{asked: stand.path}
			got, err := s.read(t.Context(), tierFast)
			if err != nil || len(got.Devices) != 2 {
				t.Fatalf("%d GPUs: %v", len(got.Devices), err)
			}
			if p := got.Devices[1].Power; p == nil || *p != tt.want {
				t.Errorf("power %v, want %g", p, tt.want)
			}
		})
	}
}
