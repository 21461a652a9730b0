package gpu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeLibrary is NVML with GPUs that support nothing but what is set.
type fakeLibrary struct {
	devices []fakeDevice
	err     error // of every call
}

func (l fakeLibrary) DriverVersion() (string, error) { return "570.1", l.err }
func (l fakeLibrary) CUDAVersion() (string, error)   { return "", errUnsupported }
func (l fakeLibrary) Events() (events, error)        { return nil, errUnsupported }
func (l fakeLibrary) Missing() []string              { return nil }
func (l fakeLibrary) DeviceCount() (int, error)      { return len(l.devices), l.err }
func (l fakeLibrary) Close() error                   { return l.err }

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

// ask sends n requests to a worker with the library and returns its answers.
func ask(t *testing.T, lib library, openErr error, n int) []string {
	t.Helper()
	in, requests := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve(t.Context(), in, out, func(string) (library, string, error) { return lib, "lib.so", openErr })
	}()
	decoder := json.NewDecoder(answers)
	var got []string
	for i := range n {
		if _, err := fmt.Fprintf(requests, "{\"seq\":%d}\n", i+1); err != nil {
			t.Fatal(err)
		}
		var line json.RawMessage
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		got = append(got, string(line))
	}
	if err := requests.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("worker: %v", err)
	}
	return got
}

func TestWorker(t *testing.T) {
	unsupported := fmt.Errorf("nvmlDeviceGetX: %w", errUnsupported)
	lost := errors.New("nvmlDeviceGetX: GPU is lost")
	for _, tt := range []struct {
		name    string
		lib     fakeLibrary
		openErr error
		want    string
	}{
		{
			name: "what is unsupported is left out",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", power: 90, err: unsupported}}},
			want: `{"seq":1,"state":"ok","library":"lib.so","driver":"570.1","devices":[{"index":0,"uuid":"GPU-a","power":90}]}`,
		},
		{
			name: "one GPU is lost",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", err: lost}, {uuid: "GPU-b", err: unsupported}}},
			want: `{"seq":1,"state":"ok","library":"lib.so","driver":"570.1","devices":[{"index":0,"uuid":"GPU-a","error":"nvmlDeviceGetX: GPU is lost"},{"index":1,"uuid":"GPU-b","power":0}]}`,
		},
		{
			name: "everything is supported",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", power: 1}}},
			want: `{"seq":1,"state":"ok","library":"lib.so","driver":"570.1","devices":[{"index":0,"uuid":"GPU-a","utilization":0.5,"memory_utilization":0.25,"memory":{"total":8,"used":3,"free":5},"power":1,"energy":7,"temperature":{"gpu":40},"clock":{"graphics":1000000000,"mem":1000000000,"sm":1000000000,"video":1000000000}}]}`,
		},
		{
			name: "the driver is gone",
			lib:  fakeLibrary{devices: []fakeDevice{{uuid: "GPU-a", err: fmt.Errorf("nvmlX: %w", errDriverGone)}}},
			want: `{"seq":1,"state":"failed","error":"GPU 0: nvmlX: the driver is gone or was replaced","library":"lib.so"}`,
		},
		{
			name:    "no library",
			openErr: &absentError{tried: []string{"here: not found"}},
			want:    `{"seq":1,"state":"absent","error":"no NVIDIA driver","library":"lib.so","tried":["here: not found"]}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff([]string{tt.want}, ask(t, tt.lib, tt.openErr, 1)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}

	t.Run("it answers again and again", func(t *testing.T) {
		got := ask(t, fakeLibrary{}, nil, 3)
		if !strings.HasPrefix(got[2], `{"seq":3,`) {
			t.Errorf("third answer %s", got[2])
		}
	})

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

// FuzzDecode: whatever a worker writes, the parent gets a reply of a known state or an error, and a page that a scrape
// survives.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"seq":1,"state":"ok","driver":"1","devices":[{"index":0,"uuid":"GPU-a","power":90,"clock":{"sm":1}}]}`))
	f.Add([]byte(`{"seq":1,"state":"absent","tried":["x"]}`))
	f.Add([]byte(`{"seq":2,"state":"ok"}`))
	f.Add([]byte("{\"seq\":1,\"state\":\"ok\",\"devices\":[{\"uuid\":\"\xff\",\"name\":\"\xfe\"}]}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		rep, err := decode(line, 1)
		if err != nil {
			return
		}
		if rep.Seq != 1 || (rep.State != stateOK && rep.State != stateAbsent && rep.State != stateFailed) {
			t.Fatalf("accepted %+v", rep)
		}
		var seen []known
		for _, d := range rep.Devices {
			seen = append(seen, known{uuid: d.UUID, index: d.Index, err: d.Error})
		}
		_, _ = publish(&rep, seen) // must not panic
	})
}
