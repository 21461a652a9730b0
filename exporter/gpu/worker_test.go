package gpu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
)

// fakeLibrary is NVML with GPUs that support nothing but what is set.
type fakeLibrary struct {
	devices []fakeDevice
	err     error // of every call
}

func (l fakeLibrary) DriverVersion() (string, error)   { return "570.1", l.err }
func (l fakeLibrary) CUDAVersion() (string, error)     { return "", errUnsupported }
func (l fakeLibrary) Events(...string) (events, error) { return nil, errUnsupported }
func (l fakeLibrary) Missing() []string                { return nil }
func (l fakeLibrary) DeviceCount() (int, error)        { return len(l.devices), l.err }
func (l fakeLibrary) Close() error                     { return l.err }

func (l fakeLibrary) Device(i int) (device, error) { return l.devices[i], l.err }

type fakeDevice struct {
	bareDevice
	uuid    string
	uuidErr error
	power   float64
	err     error // of every call but UUID and Power
}

func (d fakeDevice) UUID() (string, error)                      { return d.uuid, d.uuidErr }
func (d fakeDevice) Power() (float64, error)                    { return d.power, nil }
func (d fakeDevice) Name() (string, error)                      { return "", d.err }
func (d fakeDevice) PCIBusID() (string, error)                  { return "", d.err }
func (d fakeDevice) Utilization() (gpu, mem float64, err error) { return 0.5, 0.25, d.err }
func (d fakeDevice) Memory() (Memory, error)                    { return Memory{Total: 8, Used: 3, Free: 5}, d.err }
func (d fakeDevice) Energy() (float64, error)                   { return 7, d.err }
func (d fakeDevice) Temperature() (float64, error)              { return 40, d.err }
func (d fakeDevice) Clock(string) (float64, error)              { return 1e9, d.err }

// linkDevice is a GPU that takes down what is asked of it about NVLink, and has links once they are there.
type linkDevice struct {
	fakeDevice
	links *atomic.Bool
	asked *atomic.Int64 // fields of NVLink
}

func (d linkDevice) NVLinkUp(link int) (bool, error) {
	if !d.links.Load() || link > 1 {
		return false, errUnsupported
	}
	return true, nil
}

func (d linkDevice) Fields(fields []field) ([]fieldValue, error) {
	values := make([]fieldValue, len(fields))
	for i, f := range fields {
		switch f.id {
		case fieldNVLinkTX, fieldNVLinkRX, fieldNVLink5TX, fieldNVLink5RX, fieldNVLinkCount:
			d.asked.Add(1)
		}
		values[i].err = errUnsupported
		if d.links.Load() && f.id == fieldNVLinkTX {
			values[i] = fieldValue{value: 7}
		}
	}
	return values, nil
}

type linkLibrary struct {
	fakeLibrary
	device linkDevice
}

func (l linkLibrary) Device(int) (device, error) { return l.device, nil }

// TestLinkless: of a GPU without NVLink nothing about it is asked in fast readings, and what comes later is found by a slow one.
func TestLinkless(t *testing.T) {
	for _, more := range []tiers{0, tierLinks} {
		d := linkDevice{fakeDevice: fakeDevice{uuid: "GPU-a", err: errUnsupported}, links: new(atomic.Bool), asked: new(atomic.Int64)}
		lib := linkLibrary{fakeLibrary{devices: []fakeDevice{d.fakeDevice}}, d}
		s := &server{lib: lib, out: &frameWriter{w: io.Discard}}
		for i, step := range []struct {
			want         tiers
			links, asked bool
			sent         bool
		}{
			{want: tierFast, asked: true}, // read wholly, as it is new
			{want: tierFast},
			{want: tierFast | tierNoLinks | tierSlow, asked: true},
			{want: tierFast},
			{want: tierFast, links: true},
			{want: tierFast | tierSlow, links: true, asked: true, sent: true},
			{want: tierFast, links: true, asked: true, sent: true},
		} {
			d.links.Store(step.links)
			d.asked.Store(0)
			s.out.held = nil
			known := map[string]attached{}
			if err := s.gpu(request{Want: step.want | more}, place{count: 1}, known); err != nil {
				t.Fatal(err)
			}
			s.known = known
			if got := d.asked.Load() > 0; got != step.asked {
				t.Errorf("tiers %b, step %d: %d fields of NVLink were asked for", more, i, d.asked.Load())
			}
			if got := strings.Contains(string(s.out.held), `"transmitted":`); got != step.sent {
				t.Errorf("tiers %b, step %d: %s", more, i, s.out.held)
			}
		}
	}
}

// ask sends requests to a worker with the library and returns what it writes for each.
func ask(t *testing.T, lib library, openErr error, requests ...request) [][]string {
	t.Helper()
	in, to := io.Pipe()
	from, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve(t.Context(), in, out, func(opening) (library, string, error) { return lib, "lib.so", openErr })
	}()
	encoder, answers := json.NewEncoder(to), bufio.NewScanner(from)
	var got [][]string
	for i, req := range requests {
		req.Seq = uint64(i + 1)
		if err := encoder.Encode(req); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for answers.Scan() {
			f, err := decodeFrame(answers.Bytes())
			if err != nil {
				t.Fatalf("%s: %v", answers.Bytes(), err)
			}
			lines = append(lines, strings.ReplaceAll(answers.Text(), fmt.Sprintf(`"seq":%d,`, req.Seq), ""))
			if f.Kind == kindEnd || f.Kind == kindError {
				break
			}
		}
		got = append(got, lines)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("worker: %v", err)
	}
	return got
}

func TestWorker(t *testing.T) {
	unsupported := fmt.Errorf("nvmlDeviceGetX: %w", errUnsupported)
	lost := fmt.Errorf("nvmlDeviceGetX: %w", errLost)
	begin := func(n int) string {
		return fmt.Sprintf(`{"frame":"begin","library":"lib.so","driver":"570.1","count":%d,"index":0}`, n)
	}
	const (
		firstA, nextA = `{"frame":"next","index":0}`, `{"frame":"next","index":0,"uuid":"GPU-a"}`
		firstB, nextB = `{"frame":"next","index":1}`, `{"frame":"next","index":1,"uuid":"GPU-b"}`
		end           = `{"frame":"end","index":0}`
	)
	for _, tt := range []struct {
		name     string
		lib      fakeLibrary
		openErr  error
		requests []request
		want     [][]string
	}{
		{
			name: "what is unsupported is left out",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", power: 90, err: unsupported}}},
			want: [][]string{{begin(1), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","power":90},"read":7}`, end}},
		},
		{
			name: "one GPU is lost",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", err: lost}, {uuid: "GPU-b", err: unsupported}}},
			want: [][]string{{
				begin(2), firstA,
				`{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","error":"nvmlDeviceGetX: the GPU is lost","lost":true}}`,
				firstB, nextB, `{"frame":"device","index":0,"device":{"index":1,"uuid":"GPU-b","power":0},"read":7}`, end,
			}},
		},
		{
			name: "everything is supported",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", power: 1}}},
			want: [][]string{{
				begin(1), firstA, nextA,
				`{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","utilization":0.5,"memory_utilization":0.25,"memory":{"total":8,"used":3,"free":5},"power":1,"energy":7,"temperature":{"gpu":40},"clock":{"graphics":1000000000,"mem":1000000000,"sm":1000000000,"video":1000000000}},"read":7}`,
				end,
			}},
		},
		{
			name:     "the dear values are read once, and when they are asked for",
			lib:      fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", err: unsupported}}},
			requests: []request{{}, {Want: tierFast}, {Want: tierSlow | tierProcesses}},
			want: [][]string{
				{begin(1), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","power":0},"read":7}`, end},
				{begin(1), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","power":0},"read":1}`, end},
				{begin(1), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","power":0},"read":11}`, end},
			},
		},
		{
			name: "some are left out",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", err: unsupported}, {uuid: "GPU-b", err: unsupported}}},
			requests: []request{
				{Skip: []string{"GPU-b"}},
				{Skip: []string{"#1/2"}},
				{Skip: []string{"#1/3", "#0/2"}, Only: "GPU-b"}, // another count: that was another GPU
				{Only: "#0/2"},
			},
			want: [][]string{
				{begin(2), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","power":0},"read":7}`, firstB, `{"frame":"skipped","index":1,"uuid":"GPU-b"}`, end},
				{begin(2), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","power":0},"read":1}`, `{"frame":"skipped","index":1}`, end},
				{begin(2), `{"frame":"skipped","index":0}`, firstB, nextB, `{"frame":"device","index":0,"device":{"index":1,"uuid":"GPU-b","power":0},"read":7}`, end},
				{begin(2), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","power":0},"read":7}`, firstB, `{"frame":"skipped","index":1,"uuid":"GPU-b"}`, end},
			},
		},
		{
			name: "a value that is not a number",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", power: math.NaN()}}},
			want: [][]string{{begin(1), firstA, nextA, `{"frame":"device","index":0,"device":{"index":0,"uuid":"GPU-a","error":"json: unsupported value: NaN"},"read":7}`, end}},
		},
		{
			name: "the driver is gone",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", err: fmt.Errorf("nvmlX: %w", errDriverGone)}}},
			want: [][]string{{begin(1), firstA, `{"frame":"error","library":"lib.so","index":0,"state":"failed","error":"GPU 0: nvmlX: the driver is gone or was replaced","gone":true}`}},
		},
		{
			name:    "no library",
			openErr: &absentError{tried: []string{"here: not found"}},
			want:    [][]string{{`{"frame":"error","library":"lib.so","index":0,"state":"absent","error":"no NVIDIA driver","tried":["here: not found"]}`}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.requests == nil {
				tt.requests = make([]request, 1)
			}
			if diff := cmp.Diff(tt.want, ask(t, tt.lib, tt.openErr, tt.requests...)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}

	t.Run("a request that is none", func(t *testing.T) {
		err := serve(t.Context(), strings.NewReader("hello\n"), io.Discard, open)
		if err == nil || !strings.Contains(err.Error(), "request") {
			t.Errorf("worker: %v, want an error about the request", err)
		}
	})

	t.Run("its parent is gone", func(t *testing.T) {
		if err := Worker(context.Background(), bytes.NewReader(nil), io.Discard); err != nil {
			t.Errorf("worker: %v, want a silent end", err)
		}
	})
}

func TestCandidates(t *testing.T) {
	t.Setenv(libraryVariable, "")
	if got := candidates(""); len(got) != 3 || got[0] != "libnvidia-ml.so.1" {
		t.Errorf("candidates: %q, want the loader's choice first of three", got)
	}
	t.Setenv(libraryVariable, "/env.so")
	for asked, want := range map[string]string{"": "/env.so", "/asked.so": "/asked.so"} {
		if diff := cmp.Diff([]string{want}, candidates(asked)); diff != "" {
			t.Errorf("candidates(%q) (-want +got):\n%s", asked, diff)
		}
	}
}

// FuzzAnswers: whatever a worker writes, the parent gets a bounded reply or an error, and a page that a scrape survives.
func FuzzAnswers(f *testing.F) {
	const begin, end = `{"frame":"begin","seq":1,"driver":"1","count":2}` + "\n", `{"frame":"end","seq":1,"missing":["nvmlX"]}` + "\n"
	f.Add([]byte(begin + `{"frame":"next","seq":1,"index":0,"uuid":"GPU-a"}` + "\n" + `{"frame":"device","seq":1,"device":{"index":0,"uuid":"GPU-a","power":90,"clock":{"sm":1}},"read":1}` + "\n" + end))
	f.Add([]byte(begin + `{"frame":"skipped","seq":1,"index":0,"uuid":"GPU-a"}` + "\n" + `{"frame":"event","event":{"uuid":"GPU-a","xid":79},"at":"2026-01-01T00:00:00Z"}` + "\n" + end))
	f.Add([]byte(`{"frame":"error","seq":1,"state":"absent","tried":["x"]}`))
	f.Add([]byte(`{"frame":"error","seq":2,"state":"failed","gone":true}`))
	f.Add([]byte(begin + "{\"frame\":\"device\",\"seq\":1,\"device\":{\"uuid\":\"\xff\",\"name\":\"\xfe\",\"pcie\":{\"transmitted\":18446744073709551615},\"ecc\":[{\"type\":\"uncorrected\",\"scope\":\"volatile\"}]}}\n" + end))
	f.Add([]byte(`{"frame":"next","seq":1,"index":-1}`))
	f.Add([]byte(begin + `{"frame":"end","seq":1,"calls":{"nvmlDeviceGetPowerUsage":{"-80":{"n":2,"s":0.0019},"99":{"n":1e18}},"x":{"0":{"n":1,"s":1}}}}`))
	f.Add([]byte(begin + `{"frame":"device","seq":1,"device":{"uuid":"GPU-a","nvlink":{"transmitted":1,"links":[{"transmitted":5,"received":18446744073709551615},{}]}},"read":1}` + "\n" + end))
	f.Add([]byte(`{"frame":"error","seq":1,"state":"failed","gone":true,"mismatch":true,"calls":{"nvmlInit_v2":{"80":{"n":1,"s":1e300}}}}`))
	f.Fuzz(func(t *testing.T, said []byte) {
		c := New(Options{CallDurations: true})
		p := poller{c: c, out: map[string]*outcast{}, strikes: map[string]time.Time{}}
		for range 2 {
			w := overheard(said)
			rep, err := w.poll(t.Context(), request{Seq: 1}, time.Minute)
			if len(rep.Devices) > maxGPUs || len(rep.Skipped) > maxGPUs || len(rep.Events) > maxEvents || len(rep.Missing) > maxSymbols {
				t.Fatalf("accepted too much: %+v", rep)
			}
			if err != nil {
				rep.State = ""
				if failed(err).reason == "" {
					t.Fatalf("%v has no reason", err)
				}
			}
			calls := uint64(0)
			for call, buckets := range rep.Calls {
				for _, b := range buckets {
					calls += b.Count
				}
				if !slices.Contains(symbols[:], call) {
					t.Fatalf("accepted the call %q", call)
				}
			}
			if calls > maxCallCount {
				t.Fatalf("accepted %d calls", calls)
			}
			c.accept(rep, time.Now())
			if err != nil && failed(err).gpu != nil {
				p.accuse(failed(err))
			}
			<-w.kill()
		}
		if len(c.gpus) > maxKnown {
			t.Fatalf("%d GPUs", len(c.gpus))
		}
		metrics, _ := c.Update(t.Context()) // must not panic
		for _, m := range metrics {
			if err := m.Write(&dto.Metric{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// overheard is a child whose process has said all that it will.
func overheard(said []byte) *child {
	c := &child{
		cmd: &exec.Cmd{Process: &os.Process{Pid: -1}}, stdin: nowhere{}, frames: make(chan received), killed: make(chan struct{}),
		gone: make(chan struct{}), devices: map[string]Device{}, reached: map[int]bool{},
	}
	go func() {
		defer close(c.gone)
		c.read(bytes.NewReader(said))
	}()
	return c
}

// nowhere is a pipe that nobody reads from.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

// FuzzRequests: whatever a parent writes, the worker answers in whole frames or ends with an error.
func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"seq":1,"library":"x","want":15,"skip":["GPU-a","#1/2"]}` + "\n" + `{"seq":2,"only":"GPU-b"}`))
	f.Add([]byte(`{"seq":-1}`))
	f.Add([]byte(`{"seq":1,"want":17,"calls":true,"procfs":"/x"}` + "\n" + `{"seq":2,"want":63}`))
	f.Add([]byte("\n\n{}\n{\"want\":255}\n"))
	lib := fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", err: errUnsupported}, {uuid: "GPU-b", err: errLost}}}
	f.Fuzz(func(t *testing.T, said []byte) {
		var out bytes.Buffer
		requests := make(chan request)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- answer(ctx, &out, requests, func(opening) (library, string, error) { return lib, "lib.so", nil })
		}()
		_ = readRequests(ctx, bytes.NewReader(said), requests)
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("worker: %v", err)
		}
		for line := range bytes.Lines(out.Bytes()) {
			if _, err := decodeFrame(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	})
}
