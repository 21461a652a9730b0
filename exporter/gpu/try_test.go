package gpu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
)

// tried is what a process of its own read of NVML.
type tried struct {
	Absent  []string // where it was looked for, if there is no driver
	Error   string   // why the rest is missing
	Driver  string
	CUDA    string
	Devices []Device
	Missing []string
	Events  []event
}

// try is that process. Its arguments are the library and how many events to wait for. It reads everything twice, as far
// apart as activity needs.
func try() {
	var got tried
	err := func() error {
		lib, _, err := open(opening{library: os.Args[2]})
		if absent, ok := errors.AsType[*absentError](err); ok {
			got.Absent = absent.tried
			return nil
		}
		if err != nil {
			return err
		}
		if got.Driver, err = lib.DriverVersion(); err != nil {
			return err
		}
		if got.CUDA, err = lib.CUDAVersion(); unexpected(err) {
			return err
		}
		for range 2 {
			n, err := lib.DeviceCount()
			if err != nil {
				return err
			}
			got.Devices = make([]Device, n)
			for i := range got.Devices {
				d := &got.Devices[i]
				d.Index = i
				if err := readDevice(lib, d, tierFast|tierSlow|tierStatic|tierProcesses|tierUnsupported); err != nil {
					d.Error = err.Error()
				}
			}
			<-time.After(gpmInterval)
		}
		got.Missing = lib.Missing()
		want, err := strconv.Atoi(os.Args[3])
		if err != nil || want == 0 {
			return err
		}
		set, err := lib.Events()
		if err != nil {
			return err
		}
		for len(got.Events) < want {
			e, ok, err := set.Wait(time.Second)
			if err != nil {
				return err
			}
			if ok {
				got.Events = append(got.Events, e)
			}
		}
		return set.Close()
	}()
	if err != nil {
		got.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// tryLibrary reads the library, empty for the one of this machine, in a process with more environment.
func tryLibrary(t *testing.T, library string, events int, env ...string) tried {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "nvml-try", library, strconv.Itoa(events))
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("read %q: %v", library, err)
	}
	var got tried
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return got
}

// pageOf returns the page of the devices, which must be one that promlint likes.
func pageOf(t *testing.T, got tried) string {
	t.Helper()
	metrics, err := publish(&reply{Driver: got.Driver, CUDA: got.CUDA, Devices: got.Devices}, nil)
	if err != nil {
		t.Errorf("publish: %v", err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(unchecked(metrics))
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Errorf("lint: %v", err)
	}
	for _, p := range problems {
		t.Errorf("lint: %s: %s", p.Metric, p.Text)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Errorf("gather: %v", err)
	}
	var page bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&page, f); err != nil {
			t.Fatal(err)
		}
	}
	return page.String()
}

// unchecked is a collector of metrics that are there already.
type unchecked []prometheus.Metric

func (u unchecked) Describe(chan<- *prometheus.Desc) {}

func (u unchecked) Collect(ch chan<- prometheus.Metric) {
	for _, m := range u {
		ch <- m
	}
}
