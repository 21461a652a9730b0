package rules

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
