package rules

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/actuators"
)

func TestBrake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "freeze.json")
	b := OpenBrake(path)
	if f, frozen := b.Frozen(); frozen {
		t.Fatalf("frozen at first: %+v", f)
	}
	if err := b.Freeze("ops", "load test"); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string]*Brake{"itself": b, "after a restart": OpenBrake(path)} {
		if f, frozen := b.Frozen(); !frozen || f.By != "ops" || f.Why != "load test" || f.At.IsZero() {
			t.Errorf("%s: %+v, %t", what, f, frozen)
		}
	}
	if err := b.Release(); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string]*Brake{"itself": b, "after a restart": OpenBrake(path)} {
		if f, frozen := b.Frozen(); frozen {
			t.Errorf("%s: still frozen: %+v", what, f)
		}
	}
	if err := b.Release(); err != nil {
		t.Errorf("a second release: %v", err)
	}
}

// TestBrakeFaults: a freeze that cannot be read holds, and one that cannot be written does too.
func TestBrakeFaults(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "freeze.json")
	if err := os.WriteFile(path, []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, frozen := OpenBrake(path).Frozen(); !frozen || !strings.Contains(f.Why, "cannot be understood") {
		t.Errorf("a torn file: %+v, %t", f, frozen)
	}
	b := OpenBrake(filepath.Join(dir, "no", "such", "folder"))
	if err := b.Freeze("ops", ""); err == nil || !strings.Contains(err.Error(), "a restart will not know of it") {
		t.Errorf("a freeze that cannot be kept: %v", err)
	}
	if _, frozen := b.Frozen(); !frozen {
		t.Error("it does not hold")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestFrozen: a rule that may act decides on, records why nothing happens, and acts as soon as it is released.
func TestFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, rule("max: 8", "max: 20\n    mode: act"), true, State{})
		b.data.set(0, nil, 400)
		if err := b.brake.Freeze("ops", ""); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			d := b.eval(t)
			if got, want := fmt.Sprintf("%s %s", d.Result, story(d)), "observed 1 -> 4 AboveTarget, Paused: load 400 at 130 a replica needs 4, frozen by ops"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			time.Sleep(15 * time.Second)
		}
		if n := len(b.journal.kept); n != 1 {
			t.Errorf("%d decisions in the journal, want the first", n)
		}
		if err := b.brake.Release(); err != nil {
			t.Fatal(err)
		}
		if d := b.eval(t); d.Result != Applied || d.To != 4 {
			t.Errorf("after the release: %s %s", d.Result, story(d))
		}
	})
}

// TestPauseOfTarget: a pause of one target ends by itself, is not touched by a freeze of all, and outlives the process.
func TestPauseOfTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "freeze.json")
		b := OpenBrake(path)
		start := time.Now()
		for target, until := range map[string]time.Time{"process/a": start.Add(time.Hour), "process/b": {}} {
			if err := b.Pause(target, until, "ops", "maintenance"); err != nil {
				t.Fatal(err)
			}
		}
		stopped := func(want string) {
			t.Helper()
			for what, b := range map[string]*Brake{"itself": b, "after a restart": OpenBrake(path)} {
				var got []string
				for _, target := range []string{"process/a", "process/b", "process/c"} {
					got = append(got, b.stopped(time.Now(), target))
				}
				if diff := cmp.Diff(want, strings.Join(got, "; ")); diff != "" {
					t.Errorf("%s: %s", what, diff)
				}
			}
		}
		until := start.Add(time.Hour).UTC().Format(time.RFC3339)
		stopped("paused by ops until " + until + "; paused by ops; ")
		if got := b.stopped(time.Now(), "variants/x", "process/b"); got != "paused by ops" {
			t.Errorf("one of the targets of a rule: %q", got)
		}
		if err := b.Freeze("ada", ""); err != nil {
			t.Fatal(err)
		}
		stopped("frozen by ada; frozen by ada; frozen by ada")
		if err := b.Release(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		stopped("; paused by ops; ")
		if p := b.Paused(time.Now()); len(p) != 1 || p["process/b"].Why != "maintenance" || !p["process/b"].At.Equal(start) {
			t.Errorf("%+v", p)
		}
		if err := b.Resume("process/b"); err != nil {
			t.Fatal(err)
		}
		stopped("; ; ")
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("nothing is stopped, and the file is there: %v", err)
		}
	})
	b := OpenBrake(filepath.Join(t.TempDir(), "no", "folder", "freeze.json"))
	if err := b.Pause("process/a", time.Time{}, "ops", ""); err == nil || b.stopped(time.Now(), "process/a") == "" {
		t.Errorf("a pause that cannot be kept: %v", err)
	}
	b.held.Paused["process/a"] = Freeze{}
	b.path = t.TempDir() + "/folder/x"
	if err := os.WriteFile(filepath.Dir(b.path), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume("process/a"); err == nil || b.stopped(time.Now(), "process/a") == "" {
		t.Errorf("a pause whose end cannot be kept: %v", err)
	}
	path := filepath.Join(t.TempDir(), "freeze.json")
	if err := os.WriteFile(path, []byte(`{"pause": {"process/a": {}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, frozen := OpenBrake(path).Frozen(); !frozen {
		t.Error("a file that nobody understands stops nothing")
	}
}

// TestStopped: what keeps a decision from being carried out, besides a freeze, and that it is said.
func TestStopped(t *testing.T) {
	act := rule("max: 8", "max: 20\n    mode: act\n    behavior: {up: {policies: []}, down: {window: 0s, policies: []}}")
	told := func(b *bench, at time.Time) string {
		b.evalAt(t, at)
		d := b.scaler.Last()
		return fmt.Sprintf("%s %s", d.Result, story(*d))
	}
	t.Run("a pause", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.data.set(0, nil, 400)
		if err := b.brake.Pause(digits.String(), noon.Add(time.Minute), "ops", ""); err != nil {
			t.Fatal(err)
		}
		if got, want := told(b, noon), "observed 1 -> 4 AboveTarget, Paused: load 400 at 130 a replica needs 4, paused by ops until 2026-11-22T12:01:00Z"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := told(b, noon.Add(time.Minute)); !strings.HasPrefix(got, "applied 1 -> 4") {
			t.Errorf("after it: %s", got)
		}
	})
	t.Run("not one of those that may be changed", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.scaler.opts.May = func(target actuators.Target) bool { return target.String() != digits.String() }
		b.data.set(0, nil, 400)
		if got, want := told(b, noon), "observed 1 -> 4 AboveTarget, DryRun: load 400 at 130 a replica needs 4"; got != want || b.scaler.Acts() {
			t.Errorf("got %s, want %s, acts: %t", got, want, b.scaler.Acts())
		}
		if b.scaler.Last().Shadow == nil {
			t.Error("it has no shadow")
		}
	})
	t.Run("too many at once", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.scaler.opts.Limit = NewRateLimit(4)
		b.data.set(0, nil, 400)
		b.evalAt(t, noon) // one of four
		b.scaler.opts.Limit.take(noon, false)
		b.data.set(0, nil, 130)
		if got, want := told(b, noon.Add(time.Second)), "observed 4 -> 1 BelowTarget, ScaleDownRate: load 130 at 130 a replica needs 1, the limit of 4 changes a minute over all targets is reached"; got != want {
			t.Errorf("down:\n got %s\nwant %s", got, want)
		}
		b.data.set(0, nil, 650)
		if got := told(b, noon.Add(2*time.Second)); !strings.HasPrefix(got, "applied 4 -> 5") {
			t.Errorf("up has the other half: %s", got)
		}
		b.scaler.opts.Limit.take(noon.Add(2*time.Second), true)
		b.data.set(0, nil, 800)
		if got := told(b, noon.Add(3*time.Second)); !strings.HasPrefix(got, "observed 5 -> 7 AboveTarget, ScaleUpRate") {
			t.Errorf("all are used up: %s", got)
		}
		if got := told(b, noon.Add(18*time.Second)); !strings.HasPrefix(got, "applied 5 -> 7") {
			t.Errorf("a quarter of a minute later: %s", got)
		}
	})
}

// TestNoticed: a change by somebody else is said, and the windows hold what was found; one by the flyball that leads counts as
// the rule's own.
func TestNoticed(t *testing.T) {
	text := rule("max: 8", "max: 20\n    mode: act\n    behavior: {up: {policies: [], cooldown: 2m}, down: {window: 1m, policies: []}}")
	told := func(b *bench, after time.Duration) string {
		t.Helper()
		for at := noon; ; at = at.Add(15 * time.Second) {
			if last := b.scaler.Last(); last != nil && !at.After(last.Time) {
				continue
			}
			at = earliest(at, noon.Add(after))
			b.evalAt(t, at)
			if at.Equal(noon.Add(after)) {
				break
			}
		}
		d := b.scaler.Last()
		return fmt.Sprintf("%s %s", d.Result, story(*d))
	}
	look := func(b *bench, what string, after time.Duration, want string) {
		t.Helper()
		if diff := cmp.Diff(want, told(b, after)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	t.Run("somebody", func(t *testing.T) {
		b := newBench(t, text, true, State{})
		b.data.set(0, nil, 130)
		look(b, "at first", 0, "unchanged 1 -> 1 WithinTolerance: load 130 at 130 a replica needs 1")
		told(b, 90*time.Second)
		b.fake.Resize(digits, 6)
		look(b, "a change", 105*time.Second, "unchanged 6 -> 6 BelowTarget, ExternalChange, Stabilized: load 130 at 130 a replica needs 1, somebody else made it 6, from 1, the last 1m needed 6")
		look(b, "within the window", 164*time.Second, "unchanged 6 -> 6 BelowTarget, Stabilized: load 130 at 130 a replica needs 1, the last 1m needed 6")
		look(b, "after it", 165*time.Second, "applied 6 -> 1 BelowTarget: load 130 at 130 a replica needs 1")
		look(b, "its own", 180*time.Second, "unchanged 1 -> 1 WithinTolerance: load 130 at 130 a replica needs 1")
		b.fake.Resize(digits, 0)
		look(b, "down, and it is needed", 195*time.Second, "applied 0 -> 1 AboveTarget, ExternalChange: load 130 at 130 a replica needs 1, somebody else made it 0, from 1")
	})
	t.Run("one that only observes", func(t *testing.T) {
		b := newBench(t, text, false, State{})
		b.data.set(0, nil, 130)
		b.evalAt(t, noon)
		b.fake.Resize(digits, 6)
		if got := told(b, 15*time.Second); strings.Contains(got, "ExternalChange") {
			t.Error(got)
		}
	})
	t.Run("the one that leads", func(t *testing.T) {
		b := newBench(t, text, true, State{})
		leads := false
		b.scaler.opts.Leads = func() bool { return leads }
		b.data.set(0, nil, 400)
		look(b, "a follower", 0, "observed 1 -> 4 AboveTarget, NotLeader: load 400 at 130 a replica needs 4, another flyball leads")
		b.fake.Resize(digits, 4)
		look(b, "which sees the leader's change", 15*time.Second, "unchanged 4 -> 4 WithinTolerance: load 400 at 130 a replica needs 4")
		leads = true
		b.data.set(0, nil, 800)
		look(b, "and leads", 30*time.Second, "unchanged 4 -> 4 AboveTarget, Cooldown: load 800 at 130 a replica needs 7, up again in 1m45s")
		look(b, "after the cooldown", 135*time.Second, "applied 4 -> 7 AboveTarget: load 800 at 130 a replica needs 7")
		b.journal.after = func() { leads = false }
		b.data.set(0, nil, 130)
		told(b, 180*time.Second)
		look(b, "and no more, at the last moment", 195*time.Second, "error 7 -> 1 BelowTarget, ActuatorError: load 130 at 130 a replica needs 1")
		if n := len(b.fake.Changes()); n != 1 {
			t.Errorf("%d changes", n)
		}
	})
}

// TestMemory: a rule that takes the place of another of the same target goes on with its windows and cooldowns.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := rule("max: 8", "max: 20\n    mode: act\n    behavior: {up: {cooldown: 10m}}")
		b := newBench(t, text, true, State{})
		b.data.set(0, nil, 400)
		if d := b.eval(t); d.Result != Applied || d.To != 4 {
			t.Fatalf("%s %s", d.Result, story(d))
		}
		memory := &Memory{targets: map[string]*remembered{digits.String(): b.scaler.order[0].remembered}}
		next := func(text string) Decision {
			b.scaler = NewScaler(parseScale(t, text), ScalerOptions{
				Querier: b.data, Actuators: b.scaler.opts.Actuators, Journal: b.journal, Metrics: b.scaler.opts.Metrics, Acting: true, Memory: memory,
			})
			return b.eval(t)
		}
		b.data.set(0, nil, 1300)
		b.fake.ReadyAfter = 0
		time.Sleep(time.Minute)
		if d := next(strings.Replace(text, "max: 20", "max: 30", 1)); d.To != 4 || d.Reasons[len(d.Reasons)-1] != Cooldown {
			t.Errorf("the cooldown of the rule before: %s", story(d))
		}
		time.Sleep(10 * time.Minute)
		if d := next(text); d.To <= 4 {
			t.Errorf("after the cooldown: %s", story(d))
		}
	})
}

func TestScaleEqual(t *testing.T) {
	text := rule("max: 8", "max: 8\n    when: [{if: demand > 100, do: +1}]")
	a := parseScale(t, text)
	if !a.Equal(parseScale(t, text)) {
		t.Error("the same text gives rules that differ")
	}
	for _, change := range [][2]string{{"max: 8", "max: 9"}, {"demand > 100", "demand > 101"}, {"+1", "+2"}, {"130", "131"}} {
		if !strings.Contains(text, change[0]) {
			t.Fatalf("%q is not in the rule", change[0])
		}
		if a.Equal(parseScale(t, strings.Replace(text, change[0], change[1], 1))) {
			t.Errorf("%s and %s: no difference seen", change[0], change[1])
		}
	}
}
