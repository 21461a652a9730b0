//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"flyball/rules"
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
	// The journal may have some room left in its last page: one size after another is asked for until that is used up.
	least := 1 // replicas, by the rule
	i.eventually(60*time.Second, "a decision cannot be recorded", func() bool {
		fill()
		if metric(i.web, "flyball_scale_current_replicas") == float64(least) && least < 6 {
			i.edit("rules.yml", fmt.Sprintf("min: %d\n", least), fmt.Sprintf("min: %d\n", least+1))
			least++
			if err := i.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		return strings.Contains(answered(i.web, "/api/v1/flyball/rules"), `"action":"up","from":`+fmt.Sprint(least-1)) &&
			strings.Contains(answered(i.web, "/api/v1/flyball/rules"), `"result":"unrecorded"`)
	})
	for path, want := range map[string]string{
		"/":                         `<li>decisions cannot be recorded, and what is not recorded is not done, so no size changes: scale digits: record decision: journal ` + i.state() + `/decisions.jsonl`,
		"/api/v1/flyball/rules":     `"warnings":["decisions cannot be recorded, and what is not recorded is not done, so no size changes: `,
		"/api/v1/flyball/decisions": `"result":"unrecorded","error":"scale digits: record decision: journal ` + i.state() + `/decisions.jsonl`,
		"/api/v1/flyball/models":    `the store writes nothing: the disk of ` + i.state() + `/tsdb has `,
	} {
		i.eventually(60*time.Second, path+" says what cannot be written", func() bool {
			fill()
			return strings.Contains(answered(i.web, path), want)
		})
	}
	// What is not recorded is not done: the size is one that the journal has on its disk, which the database may just have made room
	// for, and was before that of the last decision.
	n := metric(i.web, "flyball_scale_current_replicas")
	journal, err := os.ReadFile(filepath.Join(i.state(), "decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	recorded := 1 // to start with
	for line := range bytes.Lines(journal) {
		var d rules.Decision
		if json.Unmarshal(line, &d) == nil && d.Counts() { // the last line may be torn
			recorded = max(recorded, d.To)
		}
	}
	if n > float64(recorded) || n < float64(least-1) {
		t.Errorf("%g replicas, %d were recorded, and at least %d before", n, recorded, least-1)
	}
	if !strings.Contains(i.out.String(), "nothing is written until there is room") {
		t.Error("the log says nothing of it")
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	i.eventually(30*time.Second, "it says that there is room", func() bool { return metric(i.web, "flyball_store_full") == 0 })
	i.eventually(30*time.Second, "the size that could not be recorded is there", func() bool {
		return metric(i.web, "flyball_scale_current_replicas") == float64(least)
	})
	was := calm()
	i.eventually(60*time.Second, "the rule decides on data again", func() bool { return calm() >= was+5 })
	for _, path := range []string{"/", "/api/v1/flyball/rules", "/api/v1/flyball/decisions"} {
		i.eventually(30*time.Second, path+" says nothing of it any more", func() bool {
			now := answered(i.web, path)
			return !strings.Contains(now, "cannot be recorded") && !strings.Contains(now, `"result":"unrecorded"`) && !strings.Contains(now, "the store writes nothing")
		})
	}
	if n := strings.Count(i.out.String(), "the store writes nothing"); n > 16 { // four rules, each a few times where room comes and goes, and not each second
		t.Errorf("the log says %d times that the disk is full", n)
	}

	// Killed, and started again without a byte left.
	fill()
	if err := i.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-i.ended
	fill()
	i.start()
	i.eventually(30*time.Second, "it decides, and says that the disk is full", func() bool {
		return decided() > 3 && metric(i.web, "flyball_store_full") == 1 && strings.Contains(answered(i.web, "/"), "<li>the store writes nothing: the disk of ")
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	i.eventually(60*time.Second, "the rule decides on data after the start", func() bool { return metric(i.web, "flyball_store_full") == 0 && calm() > 3 })
	i.stop(os.Interrupt)
}

// TestDataDirectory: a data directory that cannot be written ends the start with what is wrong, where, and what to do.
func TestDataDirectory(t *testing.T) {
	t.Parallel()
	i := newInstance(t)
	const other = ", or give another directory by storage.path or --storage.path\n"
	run := func(user uint32, path string) string {
		cmd := exec.Command(built.path("flyball"), "run", "--config.file="+filepath.Join(i.dir, "flyball.yml"), "--storage.path="+path, "--log.level=error",
			"--web.listen-address="+i.web, "--batchproxy.listen-address="+i.proxy)
		if user != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user, NoSetGroups: true}}
		}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%s: %v", path, err)
		}
		return string(out)
	}
	check := func(got, want string) {
		t.Helper()
		if !strings.HasSuffix(got, want) {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	file := filepath.Join(i.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check(run(0, file), "flyball: data directory "+file+"/tsdb cannot be made: not a directory: remove the file that is there"+other)
	t.Run("another user's", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("only root can run it as another user")
		}
		const nobody = 65534
		dir, below := t.TempDir(), filepath.Join(i.dir, "theirs")
		for _, open := range []string{filepath.Dir(i.dir), filepath.Dir(dir), filepath.Dir(built.path("flyball"))} {
			if err := os.Chmod(open, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Chmod(dir, 0o700), os.MkdirAll(filepath.Join(below, "tsdb"), 0o755)); err != nil {
			t.Fatal(err)
		}
		check(run(nobody, dir), "flyball: data directory "+dir+"/tsdb cannot be made: permission denied: let user 65534 write there"+other)
		check(run(nobody, below), "flyball: data directory "+below+"/tsdb cannot be written: permission denied: let user 65534 write there"+other)
	})
	t.Run("read-only", func(t *testing.T) {
		dir := t.TempDir()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", dir).CombinedOutput(); err != nil {
			t.Skipf("nothing can be mounted here: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
				t.Errorf("umount: %v: %s", err, out)
			}
		})
		check(run(0, dir), "flyball: data directory "+dir+"/tsdb cannot be made: read-only file system: mount its file system for writing"+other)
		check(run(0, dir+"/x"), "flyball: data directory "+dir+"/x/tsdb cannot be made: read-only file system: mount its file system for writing"+other)
	})
}

// answered is what a flyball answers at a path, empty where it does not.
func answered(address, path string) string {
	resp, err := http.Get("http://" + address + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(body)
}

// edit changes a file of the configuration.
func (i *instance) edit(name, from, to string) {
	i.t.Helper()
	file := filepath.Join(i.dir, name)
	text, err := os.ReadFile(file)
	if err != nil {
		i.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		i.t.Fatalf("%s has no %q", name, from)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), from, to, 1)), 0o644); err != nil {
		i.t.Fatal(err)
	}
}
