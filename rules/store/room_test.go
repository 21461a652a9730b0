package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

// TestRoom: what is asked, how often, and what is said of it.
func TestRoom(t *testing.T) {
	var log bytes.Buffer
	asked, free, readOnly, failed := 0, int64(100), false, error(nil)
	r := &room{dir: "data", least: 50, logger: slog.New(slog.NewTextHandler(&log, nil)), free: func(string) (int64, bool, error) {
		asked++
		return free, readOnly, failed
	}}
	now := t0
	step := func(d time.Duration) string {
		now = now.Add(d)
		if err := r.check(now); err != nil {
			if !errors.Is(err, ErrNoRoom) || !r.full() {
				t.Errorf("%v, full %v", err, r.full())
			}
			return err.Error()
		}
		return ""
	}
	for _, tt := range []struct {
		after time.Duration
		set   func()
		want  string
	}{
		{0, nil, ""},
		{time.Millisecond, func() { free = 49 }, ""}, // it was asked just now
		{time.Second, nil, "the store writes nothing: the disk of data has 49B free, and 50B must be"},
		{time.Second, func() { free = 50 }, ""},
		{time.Second, func() { readOnly = true }, "the store writes nothing: the disk of data is read-only"},
		{-time.Hour, func() { readOnly = false }, ""}, // a clock that is set back does not keep it from being asked
		{time.Second, func() { failed = errors.New("no such call") }, ""},
		{time.Second, func() { failed = fmt.Errorf("stat: %w", os.ErrNotExist) }, "the store writes nothing: data is not there any more"},
	} {
		if tt.set != nil {
			tt.set()
		}
		if got := step(tt.after); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if asked != 7+2 { // when there is room again, it is seen whether it is enough to keep some
		t.Errorf("asked %d times", asked)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 3 || strings.Count(log.String(), "level=INFO") != 2 {
		t.Errorf("said:\n%s", log.String())
	}
	if err := (&room{least: -1}).check(now); err != nil {
		t.Errorf("switched off: %v", err)
	}
}

// tmpfs mounts a small disk, for a test that may.
func tmpfs(t *testing.T, bytes int) string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("a small disk cannot be mounted without root on Linux")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", bytes), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// TestFullDisk: on a disk that fills up, and one that becomes read-only, groups go on being evaluated and say why nothing is
// written; queries are answered; and when there is room again, writing goes on in the same store, which is whole at the next
// start.
func TestFullDisk(t *testing.T) {
	disk := tmpfs(t, 24<<20)
	dir, other := filepath.Join(disk, "data"), filepath.Join(disk, "other")
	metrics := prometheus.NewRegistry()
	s := open(t, dir, func(o *Options) { o.MinFree, o.Metrics = 4<<20, metrics })
	evaluated := 0
	deciding := &evaluator{name: "deciding", eval: func(_ context.Context, at time.Time) ([]rules.Sample, error) {
		evaluated++
		return []rules.Sample{{Labels: labels.FromStrings("__name__", "decided", "rule", "a"), Value: float64(evaluated), Time: at}}, nil
	}}
	silent := Rule{Alert: &Alert{Name: "Silent", Expr: "absent(last_over_time(one[1m]))", For: time.Minute}}
	setGroups(t, s, Group{Name: "g", Interval: time.Second, Rules: []Rule{record("one", "vector(1)"), {Evaluator: deciding}, silent}})
	at := t0
	tick := func(n int) {
		t.Helper()
		for range n {
			at = at.Add(time.Second)
			if _, err := s.EvalGroups(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait := func() { // until the disk is asked again
		s.written.room.mu.Lock()
		s.written.room.next = time.Time{}
		s.written.room.mu.Unlock()
	}
	faults := func() (all string) {
		for _, g := range s.Groups() {
			for _, r := range g.Rules {
				all += r.LastError
			}
		}
		return all
	}
	tick(300) // chunks of the head are full and mapped

	fill, err := os.Create(other)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for err = nil; err == nil; {
		_, err = fill.Write(block)
	}
	fill.Close()
	wait()
	before := evaluated
	tick(300)
	if evaluated != before+300 {
		t.Errorf("evaluated %d times on a full disk", evaluated-before)
	}
	if got := faults(); !strings.Contains(got, "the store writes nothing: the disk of") {
		t.Errorf("a full disk is said to be %q", got)
	}
	if n, err := testutil.GatherAndCount(metrics, "flyball_store_full"); err != nil || n != 1 || !s.written.room.full() {
		t.Errorf("metric: %d, %v", n, err)
	}
	if alerts := s.Alerts(); len(alerts) != 1 || alerts[0].State != "firing" {
		t.Errorf("alerts on a full disk: %+v", alerts)
	}
	if got := ask(t, s, "count_over_time(one[10m])", at); got != "{} 300" {
		t.Errorf("what was there before: %s", got)
	}

	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	wait()
	tick(10)
	if got := faults(); got != "" || s.written.room.full() {
		t.Errorf("there is room again: %q", got)
	}
	if got := ask(t, s, "count_over_time(one[20m])", at); got != "{} 310" {
		t.Errorf("after: %s", got)
	}

	s.written.room.free = func(string) (int64, bool, error) { return 1 << 40, true, nil } // no disk with open files can be made read-only
	wait()
	tick(10)
	if got := faults(); !strings.Contains(got, "is read-only") {
		t.Errorf("a read-only disk is said to be %q", got)
	}
	s.written.room.free = freeBytes
	wait()
	tick(10)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, func(o *Options) { o.MinFree = 4 << 20 })
	if got := ask(t, again, "count_over_time(one[20m])", at); got != "{} 320" {
		t.Errorf("at the next start: %s", got)
	}
}

// TestStartFull: a store whose process was killed, and whose disk has not a byte left, can be opened: it answers what there
// is, writes nothing and says so, and goes on when there is room.
func TestStartFull(t *testing.T) {
	disk := tmpfs(t, 24<<20)
	dir, other := filepath.Join(disk, "data"), filepath.Join(disk, "other")
	was := open(t, t.TempDir(), func(o *Options) { o.MinFree = 4 << 20 })
	group := Group{Name: "g", Interval: time.Second, Rules: []Rule{record("one", "vector(1)")}}
	setGroups(t, was, group)
	at := t0
	tick := func(s *Store, n int) {
		t.Helper()
		for range n {
			at = at.Add(time.Second)
			if _, err := s.EvalGroups(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
	}
	tick(was, 300) // chunks of the head are full, and only in the log
	if err := os.CopyFS(dir, os.DirFS(was.opts.Dir)); err != nil {
		t.Fatal(err)
	}
	fill, err := os.Create(other)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4<<10)
	for err = nil; err == nil; {
		_, err = fill.Write(block)
	}
	fill.Close()

	s := open(t, dir, func(o *Options) { o.MinFree = 4 << 20 })
	setGroups(t, s, group)
	tick(s, 10)
	if err := s.Full(); err == nil || !strings.Contains(err.Error(), " free, and 4MiB must be") {
		t.Errorf("a full disk is said to be %v", err)
	}
	if got := ask(t, s, "count_over_time(one[10m])", at); got != "{} 300" {
		t.Errorf("what was there before: %s", got)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	s.written.room.next = time.Time{}
	tick(s, 10)
	if got := ask(t, s, "count_over_time(one[10m])", at); got != "{} 310" {
		t.Errorf("after: %s", got)
	}
}
