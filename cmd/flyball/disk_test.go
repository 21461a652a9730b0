//go:build linux

package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDiskFull: a flyball whose disk fills up goes on deciding and serving, says what is wrong, changes nothing that it
// cannot write down, and goes on by itself when there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel() // most of its time it waits
	if os.Getuid() != 0 {
		t.Skip("a small disk cannot be mounted without root")
	}
	i := newInstance(t, "path: data/quickstart", "min_free: 4MiB\n  path: data/quickstart")
	if err := os.MkdirAll(i.state(), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", i.state()).CombinedOutput(); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", i.state()).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	i.start()
	i.eventually(30*time.Second, "the first replica serves", func() bool { return status("http://"+i.proxy+"/v2/health/ready") == http.StatusOK })
	decided := func() float64 { return metric(i.web, "flyball_scale_decisions_total") }
	calm := func() float64 {
		return metric(i.web, "flyball_scale_decisions_total", `reason="WithinTolerance"`) + metric(i.web, "flyball_scale_decisions_total", `reason="BelowTarget"`)
	}
	i.eventually(30*time.Second, "the rule has data", func() bool { return calm() > 0 })

	filler := filepath.Join(i.state(), "filler")
	fill := func() { // what is freed in between by the database is filled, too
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for block := make([]byte, 64<<10); err == nil; {
			_, err = f.Write(block)
		}
	}
	fill()
	i.eventually(30*time.Second, "it says that the disk is full", func() bool { return metric(i.web, "flyball_store_full") == 1 })
	before := decided()
	i.eventually(60*time.Second, "it goes on deciding, without data", func() bool {
		return decided() >= before+10 && metric(i.web, "flyball_scale_decisions_total", `reason="MetricStale"`)+metric(i.web, "flyball_scale_decisions_total", `reason="MetricMissing"`) > 3
	})
	if code := status("http://" + i.proxy + "/v2/health/ready"); code != http.StatusOK {
		t.Errorf("the proxy answers %d", code)
	}
	if !strings.Contains(i.out.String(), "nothing is written until there is room") {
		t.Error("the log says nothing of it")
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	i.eventually(30*time.Second, "it says that there is room", func() bool { return metric(i.web, "flyball_store_full") == 0 })
	was := calm()
	i.eventually(60*time.Second, "the rule decides on data again", func() bool { return calm() >= was+5 })
	if n := strings.Count(i.out.String(), "the store writes nothing"); n > 10 {
		t.Errorf("the log says %d times that the disk is full", n)
	}
	i.stop(os.Interrupt)
}
