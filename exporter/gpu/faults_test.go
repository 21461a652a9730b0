package gpu

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestFaults says once what is odd about a GPU, however often it is.
func TestFaults(t *testing.T) {
	lines, logger := newLog()
	c := New(Options{Logger: logger})
	odd := func(faults ...string) {
		c.accept(reply{State: stateOK, Devices: []Device{{UUID: "GPU-a", Faults: faults}}}, time.Now())
	}
	odd()
	odd("nvmlX: Unknown Error", "nvmlX: Unknown Error")
	lines.await(t, `level=WARN msg="a value of the GPU cannot be read" uuid=GPU-a gpu=0 err="nvmlX: Unknown Error"`)
	odd()
	odd("nvmlX: Unknown Error", "nvmlY: Unknown Error")
	lines.await(t, "nvmlY")
	lines.quiet(t)
}

// TestMaxProcesses bounds the series, not what others take from the snapshot.
func TestMaxProcesses(t *testing.T) {
	c := New(Options{MaxProcesses: 3})
	var d Device
	d.UUID = "GPU-a"
	for pid := range 5 {
		memory := uint64(pid)
		d.Processes = append(d.Processes, Process{PID: pid, Memory: &memory, Comm: "python3"})
	}
	c.accept(reply{State: stateOK, Devices: []Device{d}}, time.Now())
	for range 2 { // the second page is made of the same reading
		if _, err := c.Update(context.Background()); err != nil {
			t.Fatal(err)
		}
		page := scrape(t, c)
		for pid := range 5 {
			line := fmt.Sprintf("flyball_gpu_process_memory_bytes{comm=\"python3\",gi=\"\",gpu=\"0\",pid=\"%d\",uuid=\"GPU-a\"} %d", pid, pid)
			if got, want := strings.Contains(page, line), pid >= 2; got != want {
				t.Errorf("process %d has a series: %t, want %t:\n%s", pid, got, want, page)
			}
		}
		if want := "flyball_gpu_process_dropped{gpu=\"0\",uuid=\"GPU-a\"} 2"; !strings.Contains(page, want) {
			t.Errorf("no %s:\n%s", want, page)
		}
	}
	if n := len(c.Snapshot().Devices[0].Processes); n != 5 {
		t.Errorf("the snapshot has %d processes, want all 5", n)
	}
}
