package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func decision(n int, result rules.Result) *rules.Decision {
	return &rules.Decision{
		ID: fmt.Sprint("id", n), Time: noon.Add(time.Duration(n) * time.Second), Rule: "digits", Target: "process/digits",
		From: n, To: n + 1, Result: result, Reasons: []rules.Reason{rules.AboveTarget},
	}
}

func open(t *testing.T, path string, opts Options) *Journal {
	t.Helper()
	j, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func write(t *testing.T, j *Journal, ds ...*rules.Decision) {
	t.Helper()
	for _, d := range ds {
		if err := j.Append(d); err != nil {
			t.Fatal(err)
		}
	}
}

func ids(ds []*rules.Decision) string {
	var out []string
	for _, d := range ds {
		out = append(out, d.ID+" "+string(d.Result))
	}
	return strings.Join(out, ", ")
}

func replayed(j *Journal) (st rules.State) {
	j.Replay(func(d *rules.Decision) { st = st.Replay(d) })
	return st
}

func TestAppendAndReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	var watched []*rules.Decision
	j := open(t, path, Options{Watch: func(d *rules.Decision) { watched = append(watched, d) }})
	write(t, j, decision(1, rules.Applying), decision(1, rules.Applied), decision(2, rules.Unchanged),
		decision(3, rules.Applying), decision(3, rules.Failed), decision(4, rules.Applying))
	want := "id4 applying, id3 error, id2 unchanged, id1 applied"
	if got := ids(j.Recent(Filter{}, 10)); got != want {
		t.Errorf("got %s", got)
	}
	if got := ids(watched); got != "id1 applying, id1 applied, id2 unchanged, id3 applying, id3 error, id4 applying" {
		t.Errorf("watched %s", got)
	}
	before := replayed(j)
	// Not closed: kill -9 does not close either. The last change was under way and counts.
	again := open(t, path, Options{})
	if got := ids(again.Recent(Filter{}, 10)); got != want {
		t.Errorf("reopened: got %s", got)
	}
	st := replayed(again)
	if diff := cmp.Diff(fmt.Sprintf("%+v", before), fmt.Sprintf("%+v", st)); diff != "" {
		t.Error(diff)
	}
	if st.Replicas != 5 || !st.LastUp.Equal(noon.Add(4*time.Second)) {
		t.Errorf("state %+v", st)
	}
}

func TestFilter(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"), Options{})
	write(t, j, decision(1, rules.Applied), decision(2, rules.Applied), decision(3, rules.Applied))
	for _, tt := range []struct {
		f    Filter
		n    int
		want string
	}{
		{Filter{}, 2, "id3 applied, id2 applied"},
		{Filter{ID: "id2"}, 9, "id2 applied"},
		{Filter{Rule: "other"}, 9, ""},
		{Filter{Since: noon.Add(2 * time.Second)}, 9, "id3 applied, id2 applied"},
		{Filter{Until: noon.Add(2 * time.Second)}, 1, "id2 applied"},
	} {
		if got := ids(j.Recent(tt.f, tt.n)); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.f, got, tt.want)
		}
	}
}

func TestTornAndForeignLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{})
	write(t, j, decision(1, rules.Applied))
	j.Close()
	whole, _ := os.ReadFile(path)
	if err := os.WriteFile(path, append(append([]byte("not JSON\n"), whole...), whole[:len(whole)/2]...), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	j = open(t, path, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, want := range []string{"cut off a line that was not finished", "skipped a line that is not a decision"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, &log)
		}
	}
	write(t, j, decision(2, rules.Applied))
	j.Close()
	j = open(t, path, Options{})
	if got := ids(j.Recent(Filter{}, 9)); got != "id2 applied, id1 applied" {
		t.Errorf("got %s", got)
	}
}

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{MaxBytes: 100_000, Memory: 50})
	now := time.Now().Truncate(time.Second)
	at := func(n int, target string) *rules.Decision {
		d := decision(n, rules.Applied)
		d.Time, d.Target, d.Rule = now.Add(time.Duration(n)*time.Second), target, target
		return d
	}
	rotations, size := 0, int64(0)
	for n := 1; n <= 5000; n++ {
		write(t, j, at(n, fmt.Sprint("process/", n%5)))
		if j.size < size {
			rotations++
		}
		size = j.size
	}
	if got := len(j.Recent(Filter{}, 1_000_000)); got > 100 || got < 50 {
		t.Errorf("%d decisions in memory", got)
	}
	if rotations < 5 || rotations > 60 {
		t.Errorf("%d rotations", rotations)
	}
	for _, p := range []string{path, path + ".1"} {
		if info, err := os.Stat(p); err != nil || info.Size() > 150_000 {
			t.Errorf("%s: %v %v", p, info, err)
		}
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 2 {
		t.Errorf("left behind: %v", files)
	}
	j.Close()
	j = open(t, path, Options{})
	states := map[string]rules.State{}
	j.Replay(func(d *rules.Decision) { states[d.Target] = states[d.Target].Replay(d) })
	for n := range 5 {
		st := states[fmt.Sprint("process/", n)]
		if last := 4995 + n; n > 0 && (st.Replicas != last+1 || !st.LastUp.Equal(now.Add(time.Duration(last)*time.Second))) {
			t.Errorf("process/%d: %+v", n, st)
		}
	}
	recent := j.Recent(Filter{}, 1000)
	for i := 1; i < len(recent); i++ {
		if recent[i].Time.After(recent[i-1].Time) {
			t.Fatal("not newest first after a rotation")
		}
	}
}

// TestRotateManyTargets: what goes along may be more than the limit; then the file grows rather than being begun anew at
// every decision.
func TestRotateManyTargets(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"), Options{MaxBytes: 10_000})
	rotations, size := 0, int64(0)
	for n := range 4000 {
		d := decision(n, rules.Applied)
		d.Target = fmt.Sprint("process/", n%200)
		write(t, j, d)
		if j.size < size {
			rotations++
		}
		size = j.size
	}
	if rotations > 100 {
		t.Errorf("%d rotations for 4000 decisions", rotations)
	}
}

// TestRotateFails: a rotation that cannot be done leaves the journal as it was.
func TestRotateFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{MaxBytes: 5_000})
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	written := 0
	for n := range 60 {
		if j.Append(decision(n, rules.Applied)) == nil {
			written++
		}
	}
	if written == 60 || written == 0 {
		t.Fatalf("%d of 60 written", written)
	}
	j.Close()
	j = open(t, path, Options{})
	if got := len(j.Recent(Filter{}, 1000)); got != written {
		t.Errorf("%d on the disk of %d written", got, written)
	}
	if files, _ := filepath.Glob(path + ".new-*"); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

// TestRotateKeepsAnOldSize: the last change of a target goes along however old it is: it is the size to restore.
func TestRotateKeepsAnOldSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{MaxBytes: 5_000})
	old := decision(7, rules.Applied)
	old.Target, old.Rule, old.Time = "process/quiet", "quiet", time.Now().Add(-30*24*time.Hour)
	write(t, j, old)
	for n := range 100 {
		d := decision(n, rules.Applied)
		d.Time = time.Now()
		write(t, j, d)
	}
	if _, err := os.Stat(path + ".1"); err != nil {
		t.Fatal("it was not rotated")
	}
	j.Close()
	var st rules.State
	open(t, path, Options{}).Replay(func(d *rules.Decision) {
		if d.Target == "process/quiet" {
			st = st.Replay(d)
		}
	})
	if st.Replicas != 8 {
		t.Errorf("the size after a rotation: %+v", st)
	}
}

// TestTornTailIsCutOff: what is written next must not follow half a line.
func TestTornTailIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{})
	write(t, j, decision(1, rules.Applied))
	j.Close()
	whole, _ := os.ReadFile(path)
	torn := append(bytes.Clone(whole), `{"id": "`+strings.Repeat("x", 5000)...)
	if err := os.WriteFile(path, torn, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, path, Options{})
	if got, _ := os.ReadFile(path); !bytes.Equal(got, whole) {
		t.Errorf("%d bytes after opening, %d are whole", len(got), len(whole))
	}
}

// TestTornAtEveryByte: wherever the last entry is cut off, all before it is there, and what comes next too.
func TestTornAtEveryByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{})
	write(t, j, decision(1, rules.Applied), decision(2, rules.Applying), decision(2, rules.Applied))
	before, state := j.size, replayed(j)
	write(t, j, decision(3, rules.Applying))
	j.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := before; n < int64(len(whole)); n++ {
		if err := os.WriteFile(path, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(j.Recent(Filter{}, 9)); got != "id2 applied, id1 applied" || j.Skipped() != 0 {
			t.Fatalf("cut at %d of %d: %s, %d skipped", n, len(whole), got, j.Skipped())
		}
		if got := replayed(j); fmt.Sprint(got) != fmt.Sprint(state) {
			t.Fatalf("cut at %d: state %+v, want %+v", n, got, state)
		}
		write(t, j, decision(4, rules.Unchanged))
		j.Close()
		if j, err = Open(path, Options{}); err != nil {
			t.Fatal(err)
		}
		if got := ids(j.Recent(Filter{}, 9)); got != "id4 unchanged, id2 applied, id1 applied" || j.Skipped() != 0 {
			t.Fatalf("cut at %d, then written: %s, %d skipped", n, got, j.Skipped())
		}
		j.Close()
	}
}

// TestUnwrittenIsNotThere: what its writer is told could not be written is not there after a restart either: a change that
// was never made must not count, and half a line must not spoil the next.
func TestUnwrittenIsNotThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{})
	write(t, j, decision(1, rules.Applied))
	flush := j.sync
	j.sync = func() error { return errors.New("input/output error") }
	if err := j.Append(decision(2, rules.Applying)); err == nil {
		t.Fatal("no error")
	}
	j.sync = flush
	// Half a line, of a disk that was full and that could not even cut it off.
	if _, err := j.file.WriteString(`{"id": "half`); err != nil {
		t.Fatal(err)
	}
	j.torn = true
	write(t, j, decision(3, rules.Applied))
	want := "id3 applied, id1 applied"
	if got := ids(j.Recent(Filter{}, 9)); got != want {
		t.Errorf("got %s", got)
	}
	j = open(t, path, Options{})
	if got := ids(j.Recent(Filter{}, 9)); got != want || j.Skipped() != 0 {
		t.Errorf("after a restart: %s, %d skipped", got, j.Skipped())
	}
}

// TestRotationInterrupted: a process that ends at any point of a rotation leaves what the next one needs.
func TestRotationInterrupted(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   func(path, fresh string) error
	}{
		{"before the names change", func(string, string) error { return nil }},
		{"the new file is not whole", func(_, fresh string) error { return os.Truncate(fresh, 10) }},
		{"between the two names, without links", func(path, _ string) error { return os.Rename(path, path+".1") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "j[0]")
			j := open(t, path, Options{})
			write(t, j, decision(1, rules.Applied), decision(2, rules.Applied))
			fresh, _, err := j.writeState()
			if err != nil {
				t.Fatal(err)
			}
			fresh.Close()
			if err := tt.at(path, fresh.Name()); err != nil {
				t.Fatal(err)
			}
			j = open(t, path, Options{})
			if st := replayed(j); st.Replicas != 3 || !st.LastUp.Equal(noon.Add(2*time.Second)) {
				t.Errorf("state %+v", st)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*"+freshSuffix+"*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestManyChanges: a policy's period may hold more changes than a reader wants to see; a rotation and a restart keep them.
func TestManyChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, Options{MaxBytes: 300_000})
	for n := range 100 {
		write(t, j, decision(n, rules.Applied))
	}
	old := decision(0, rules.Applied)
	old.ID, old.Time = "yesterday", noon.Add(-25*time.Hour)
	j.state[old.Target] = append([]*rules.Decision{old}, j.state[old.Target]...)
	if err := j.rotate(); err != nil {
		t.Fatal(err)
	}
	var changes []string
	j = open(t, path, Options{})
	j.Replay(func(d *rules.Decision) { changes = append(changes, d.ID) })
	if len(changes) != 100 || changes[0] != "id0" || changes[99] != "id99" {
		t.Errorf("%d changes: %v", len(changes), changes)
	}
}

// TestChangesAreOnTheDisk: what changes a size is flushed before Append returns, a hold is not worth the wait.
func TestChangesAreOnTheDisk(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"), Options{})
	flushed := 0
	j.sync = func() error {
		flushed++
		return nil
	}
	for _, tt := range []struct {
		result rules.Result
		want   int
	}{{rules.Unchanged, 0}, {rules.Observed, 0}, {rules.Applying, 1}, {rules.Applied, 2}, {rules.Unchanged, 2}} {
		write(t, j, decision(1, tt.result))
		if flushed != tt.want {
			t.Errorf("%s: flushed %d times, want %d", tt.result, flushed, tt.want)
		}
	}
	j.sync = func() error { return errors.New("input/output error") }
	if err := j.Append(decision(2, rules.Applying)); err == nil {
		t.Error("a change that is not on the disk was taken for recorded")
	}
}

func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	writer := open(t, path, Options{})
	write(t, writer, decision(1, rules.Applied))
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"id": "half`)
	f.Close()
	before, _ := os.ReadFile(path)
	reader := open(t, path, Options{ReadOnly: true})
	if got := ids(reader.Recent(Filter{}, 9)); got != "id1 applied" {
		t.Errorf("got %s", got)
	}
	if err := reader.Append(decision(2, rules.Applied)); err == nil {
		t.Error("wrote")
	}
	reader.Close()
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("reading changed the file")
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), Options{ReadOnly: true}); !os.IsNotExist(errors.Unwrap(err)) {
		t.Errorf("got %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, Options{}); err == nil || !strings.HasPrefix(err.Error(), "open journal: open "+dir) {
		t.Errorf("got %v", err)
	}
	j := open(t, filepath.Join(dir, "j"), Options{})
	j.Close()
	if err := j.Append(decision(1, rules.Applied)); err == nil {
		t.Error("appended to a closed journal")
	}
}

// FuzzOpen: whatever is in the file, it opens, and what is appended is there the next time.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"id":"a","time":"2026-11-22T12:00:00Z","rule":"r","target":"t","result":"applied"}` + "\n{"))
	f.Add([]byte("\n\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "j")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		j := open(t, path, Options{})
		before := len(j.Recent(Filter{}, 1000))
		d := decision(1, rules.Applied)
		d.ID, d.Rule = "appended", "a rule of its own"
		write(t, j, d)
		j.Close()
		j = open(t, path, Options{})
		if got := j.Recent(Filter{}, 1000); len(got) != before+1 || got[0].ID != "appended" {
			t.Errorf("%d before, then %s", before, ids(got))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	j, err := Open(filepath.Join(b.TempDir(), "j"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	d := decision(1, rules.Unchanged)
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Append(d); err != nil {
			b.Fatal(err)
		}
	}
}
