package rules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// journaled is what of a state is in the journal, or is observed.
func journaled(st State) State {
	return State{
		Replicas: st.Replicas, Known: st.Known, LastUp: st.LastUp, LastDown: st.LastDown, changes: st.changes,
		pendingSince: st.pendingSince, asked: st.asked,
	}
}

// through is a state after the way through the file and back.
func through(t *testing.T, st State, now time.Time, ended bool) State {
	t.Helper()
	text, err := json.Marshal(savedMemory{Version: snapshotVersion, At: now, Ended: ended, Targets: map[string]savedState{"process/digits": st.saved()}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseSnapshot(text)
	if err != nil {
		t.Fatal(err)
	}
	return journaled(st).resumed(m.Targets["process/digits"], now, m.Ended)
}

// TestSnapshotDecidesAlike: with a stop and a start between any two evaluations random rules decide, bit for bit, as they do
// without.
func TestSnapshotDecidesAlike(t *testing.T) {
	rules := 60
	if testing.Short() || underRace {
		rules = 20
	}
	for seed := range uint64(rules) {
		w := newWorld(t, seed, false)
		for range 60 {
			before := w.now
			w.now = w.now.Add(15 * time.Second)
			obs := w.observe()
			d, next := Decide(w.rule, obs, w.st)
			if w.st.evaluated.Equal(before) { // else the target was not seen last, and the time since is time away
				again, _ := Decide(w.rule, obs, through(t, w.st, before, true))
				if diff := cmp.Diff(written(t, d), written(t, again)); diff != "" {
					w.fail("after a restart: %s", diff)
				}
			}
			w.act(d, next)
		}
	}
}

// TestSnapshotStages stops and starts a rule once for each thing that it remembers besides the journal.
func TestSnapshotStages(t *testing.T) {
	one := "[{name: x, value: a, target_per_replica: 10}]"
	windowed := func(more string) string {
		return strings.Replace(two(one, more), "down: {window: 0s", "down: {window: 5m", 1)
	}
	sees := func(current int, a, b Answer) Observation { return observed(noon, current, a, b) }
	step := two(one, "    when: [{if: b > 10, do: '+3', for: 10m}]")
	fallback := two(one, "    on_missing: {after: 10m, fallback: '8'}")
	constraint := two(one, "    constraints: [{if: b > 10, max: 7}]")
	optional := missing("b")
	optional.Optional = true
	held := map[string]time.Time{"b > 10": noon.Add(-8 * time.Minute)}
	for _, tt := range []struct {
		name    string
		rule    string
		st      State
		first   Observation   // evaluated at noon; then the process is away
		killed  bool          // long after it last wrote the file
		changed time.Duration // when after noon the journal has a change, if it has
		away    time.Duration
		then    Observation // evaluated at the start
		want    string
	}{
		{
			"a window goes on", windowed(""),
			State{recommendations: []recommendation{{noon.Add(-3 * time.Minute), 8}}},
			sees(8, named("a", 20), named("b", 0)), false, 0, 119 * time.Second, sees(8, named("a", 20), named("b", 0)),
			"8 -> 8 BelowTarget, Stabilized: x 20 at 10 a replica needs 2, the last 5m needed 8",
		},
		{
			"and ends when it would have", windowed(""),
			State{recommendations: []recommendation{{noon.Add(-3 * time.Minute), 8}}},
			sees(8, named("a", 20), named("b", 0)), false, 0, 2 * time.Minute, sees(8, named("a", 20), named("b", 0)),
			"8 -> 2 BelowTarget: x 20 at 10 a replica needs 2",
		},
		{
			"it begins anew where nobody knows what came last", windowed(""),
			State{recommendations: []recommendation{{noon.Add(-3 * time.Minute), 8}}},
			sees(8, named("a", 20), named("b", 0)), true, 0, 2 * time.Minute, sees(8, named("a", 20), named("b", 0)),
			"8 -> 8 BelowTarget, Stabilized: x 20 at 10 a replica needs 2, the last 5m needed 8",
		},
		{
			"and where the file is older than a change", windowed(""),
			State{recommendations: []recommendation{{noon.Add(-3 * time.Minute), 8}}},
			sees(8, named("a", 20), named("b", 0)), false, time.Minute, 2 * time.Minute, sees(8, named("a", 20), named("b", 0)),
			"8 -> 8 BelowTarget, Stabilized: x 20 at 10 a replica needs 2, the last 5m needed 8",
		},
		{
			"the time away is not part of a step's `for`", step,
			State{holdsSince: held},
			sees(2, named("a", 20), named("b", 20)),
			false, 0, 30 * time.Minute, sees(2, named("a", 20), named("b", 20)), "2 -> 2 WithinTolerance: x 20 at 10 a replica needs 2",
		},
		{
			"which goes on where it was", step,
			State{holdsSince: map[string]time.Time{"b > 10": noon.Add(-10 * time.Minute)}},
			sees(2, named("a", 20), named("b", 20)),
			false, 0, 30 * time.Minute, sees(2, named("a", 20), named("b", 20)), "2 -> 5 StepRule: b > 10: +3",
		},
		{
			"but not after a long time away", step,
			State{holdsSince: map[string]time.Time{"b > 10": noon.Add(-10 * time.Minute)}},
			sees(2, named("a", 20), named("b", 20)),
			false, 0, 61 * time.Minute, sees(2, named("a", 20), named("b", 20)), "2 -> 2 WithinTolerance: x 20 at 10 a replica needs 2",
		},
		{
			"a panic lasts as long as it would have", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""),
			State{},
			sees(2, named("a", 20), named("b", 90)), false, 0, 59 * time.Second, sees(9, named("a", 20), named("b", 20)), "9 -> 9 WithinTolerance: x asked for 9 in a panic",
		},
		{
			"and no longer", two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", ""),
			State{},
			sees(2, named("a", 20), named("b", 90)), false, 0, time.Minute, sees(9, named("a", 20), named("b", 20)), "9 -> 2 BelowTarget: x 20 at 10 a replica needs 2",
		},
		{
			"data has been missing for as long as it was seen to be", fallback,
			State{missingSince: noon.Add(-9 * time.Minute)},
			sees(5, missing("a"), named("b", 0)),
			false, 0, 30 * time.Minute, sees(5, missing("a"), named("b", 0)), "5 -> 5 MetricMissing: a: none",
		},
		{
			"a fallback stays until the data has been good for a while", fallback,
			State{missingSince: noon.Add(-10 * time.Minute)},
			sees(5, missing("a"), named("b", 0)),
			false, 0, 30 * time.Minute, sees(8, named("a", 20), named("b", 0)),
			"8 -> 8 BelowTarget: x 20 at 10 a replica needs 2, the fallback, until the data has been good for 3 evaluations: 8",
		},
		{
			"which goes on being counted", fallback,
			State{fallback: new(8), good: 1},
			sees(8, named("a", 20), named("b", 0)),
			false, 0, time.Minute, sees(8, named("a", 20), named("b", 0)), "8 -> 2 BelowTarget: x 20 at 10 a replica needs 2",
		},
		{
			"a constraint of which nothing is known yet", constraint,
			State{},
			sees(5, named("a", 50), named("b", 20)),
			false, 0, time.Minute, sees(5, named("a", 90), optional), "5 -> 7 AboveTarget, MetricMissing, MaxReplicas: x 90 at 10 a replica needs 9, b: none, at most 7 while b > 10",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parseScale(t, tt.rule)
			_, st := Decide(r, tt.first, tt.st)
			if tt.changed > 0 {
				st.LastUp = noon.Add(tt.changed)
			}
			tt.then.At = noon.Add(tt.away)
			d, _ := Decide(r, tt.then, through(t, st, tt.then.At, !tt.killed))
			if diff := cmp.Diff(tt.want, storyOf(d)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestMeasuredStarts: a start is measured once, from the change to when its replicas are seen ready, and not when a replica
// fails long after, nor over a restart.
func TestMeasuredStarts(t *testing.T) {
	r := parseScale(t, two("[{name: x, value: a, target_per_replica: 10}]", "    startup: auto"))
	st := State{}
	at := noon
	look := func(spec, ready int) {
		t.Helper()
		obs := observed(at, spec, named("a", 10*float64(spec)), named("b", 0))
		obs.Replicas.Ready, obs.Replicas.Pending = ready, spec-ready
		_, st = Decide(r, obs, st)
		at = at.Add(15 * time.Second)
	}
	for i := range 4 {
		look(i+1, i+1)
		st = st.Applied(at, i+1, i+2)
		at = at.Add(15 * time.Second)
		look(i+2, i+1)
		look(i+2, i+2)
		at = at.Add(time.Hour)
		look(i+2, i+1) // one fails
		look(i+2, i+2)
	}
	if want := []time.Duration{30 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second}; !cmp.Equal(st.starts, want) {
		t.Errorf("measured %s", st.starts)
	}
	again := through(t, st, at, true)
	if got := again.startup(Startup{Auto: true, Given: time.Hour}); got != 30*time.Second {
		t.Errorf("after a restart it is %s", got)
	}
	st = st.Applied(at, 5, 6)
	st = State{}.Replay(&Decision{Time: at, From: 5, To: 6, Result: Applied})
	at = at.Add(time.Hour)
	look(6, 5)
	look(6, 6)
	if len(st.starts) > 0 {
		t.Errorf("measured over a restart: %s", st.starts)
	}
}

// TestReversals: a change of which nobody knows hides no turn.
func TestReversals(t *testing.T) {
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	down, up, unsure := change{at(-40), 14, 10, false}, change{at(-28), 10, 14, false}, change{at(-30), 10, 14, true}
	for _, tt := range []struct {
		changes []change
		want    int
	}{
		{[]change{down, up}, 1},
		{[]change{down, unsure, up}, 1},
		{[]change{{at(-29), 2, 3, true}, {at(-29), 3, 1, true}, {at(-20), 9, 4, false}, up}, 2},
		{[]change{up, {at(-20), 14, 10, true}, {at(-10), 14, 16, false}}, 2},
	} {
		if got := (&State{changes: tt.changes}).reversals(at(-30)); got != tt.want {
			t.Errorf("%+v: %d", tt.changes, got)
		}
	}
}

// TestInstead: a change of which more is known later is still one.
func TestInstead(t *testing.T) {
	st := State{}.Applied(noon, 2, 3).Applied(noon.Add(time.Minute), 38, 50).instead(noon.Add(time.Minute), 38, 42)
	if want := []change{{at: noon, from: 2, to: 3}, {at: noon.Add(time.Minute), from: 38, to: 42}}; !slices.Equal(st.changes, want) {
		t.Errorf("%+v", st.changes)
	}
}

// snapshotOf is a snapshot of a memory in a directory of the test, and what it logs.
func snapshotOf(t *testing.T, m *Memory) (*Snapshot, *prometheus.Registry, *bytes.Buffer) {
	reg, log := prometheus.NewPedanticRegistry(), &bytes.Buffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	return &Snapshot{Path: filepath.Join(t.TempDir(), "state.json"), Memory: m, Metrics: NewMetrics(reg), Log: logger}, reg, log
}

// TestSnapshotRun: it is written at the start, every minute and at the end; what cannot be written is counted, said once and
// tried again.
func TestSnapshotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Memory{}
		m.of("process/digits").state = State{evaluated: time.Now(), good: 1}
		s, reg, log := snapshotOf(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		start := time.Now()
		written := func(ended bool, after time.Duration) {
			t.Helper()
			synctest.Wait()
			file, err := readSnapshot(s.Path)
			if err != nil {
				t.Fatal(err)
			}
			if file.Ended != ended || file.At.Sub(start) != after || file.Targets["process/digits"].Good != 1 {
				t.Errorf("%+v", file)
			}
		}
		written(false, 0)
		time.Sleep(150 * time.Second)
		written(false, 2*time.Minute)
		if err := os.Mkdir(s.Path+".new", 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		written(false, 2*time.Minute)
		if err := os.RemoveAll(s.Path + ".new"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		written(false, 5*time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		written(true, 330*time.Second)
		if got := strings.Count(log.String(), "level=ERROR"); got != 1 || !strings.Contains(log.String(), "is saved again") {
			t.Errorf("%d times: %s", got, log)
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(`# HELP flyball_scale_state_errors_total Times that what scale rules remember besides the journal could not be saved.
# TYPE flyball_scale_state_errors_total counter
flyball_scale_state_errors_total 2
`), "flyball_scale_state_errors_total"); err != nil {
			t.Error(err)
		}
		left, err := filepath.Glob(filepath.Join(filepath.Dir(s.Path), "*"))
		if err != nil || len(left) != 1 {
			t.Errorf("left %v %v", left, err)
		}
	})
}

// TestSnapshotLoad: a file that is not one is put aside, and stops nothing.
func TestSnapshotLoad(t *testing.T) {
	good := fmt.Sprintf(`{"version":1,"at":%q,"ended":true,"targets":{"process/digits":{"evaluated":%[1]q,"good_evaluations":2}}}`, noon.Format(time.RFC3339))
	for _, tt := range []struct {
		name, text string
		now        time.Time
		loaded     int
		want       string
	}{
		{"none", "", noon, 0, ""},
		{"good", good, noon.Add(time.Minute), 1, `level=INFO msg="scale rules go on where they were" targets=1 away=1m0s ended_in_order=true`},
		{"of another day", good, noon.Add(25 * time.Hour), 0, `level=INFO msg="scale rules go on where they were" targets=0 away=25h0m0s ended_in_order=true`},
		{"of a clock that was ahead", good, noon.Add(-time.Hour), 1, `level=INFO msg="scale rules go on where they were" targets=1 away=-1h0m0s ended_in_order=true`},
		{"torn", good[:len(good)/2], noon, 0, "unexpected end of JSON input"},
		{"of a version to come", strings.Replace(good, `"version":1`, `"version":2`, 1), noon, 0, "its version is 2: expected 1"},
		{"of another kind", `{"at": "yesterday"}`, noon, 0, "parsing time"},
		{"sizes that are none", strings.Replace(good, `"good_evaluations":2`, `"recommended":[{"replicas":-1}]`, 1), noon, 0, "target process/digits: recommended is -1: expected 0 or more replicas"},
		{"a fallback that is none", strings.Replace(good, `"good_evaluations":2`, `"fallback":-3`, 1), noon, 0, "fallback is -3"},
		{"a panic that is none", strings.Replace(good, `"good_evaluations":2`, `"panics":{"x":{"replicas":-3}}`, 1), noon, 0, "panics.x is -3"},
		{"a start that took less than nothing", strings.Replace(good, `"good_evaluations":2`, `"startup_seconds":[-1]`, 1), noon, 0, "startup_seconds is -1"},
		{"never evaluated", `{"version":1,"targets":{"process/digits":{}}}`, noon, 0, "evaluated is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &Memory{}
			s, _, log := snapshotOf(t, m)
			if tt.text != "" {
				if err := os.WriteFile(s.Path, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s.Load(tt.now)
			if !strings.Contains(log.String(), tt.want) || tt.want == "" && log.Len() > 0 {
				t.Errorf("got %s, want %s", log, tt.want)
			}
			if len(m.targets) != tt.loaded {
				t.Errorf("%d targets", len(m.targets))
			}
			if tt.loaded == 1 {
				if st := m.of("process/digits").state; st.good != 2 || st.evaluated.After(tt.now) {
					t.Errorf("%+v", st)
				}
			}
			refused := strings.Contains(log.String(), "WARN")
			aside, err := os.ReadFile(s.Path + ".invalid")
			if refused != (err == nil && string(aside) == tt.text) {
				t.Errorf("kept %q, %v", aside, err)
			}
			if _, err := os.Stat(s.Path); tt.text != "" && refused != errors.Is(err, os.ErrNotExist) {
				t.Errorf("the file: %v", err)
			}
		})
	}
}

// FuzzSnapshot: whatever is in the file, it is refused or a rule can decide with it, within min and max.
func FuzzSnapshot(f *testing.F) {
	st := State{
		evaluated: noon, recommendations: []recommendation{{noon, 3}}, holdsSince: map[string]time.Time{"b > 10": noon}, starts: []time.Duration{time.Second},
		panics: map[string]panicked{"x": {noon, 4}}, constraints: map[string]bool{"b > 1": true}, missingSince: noon, good: 1, fallback: new(3),
	}
	text, err := json.Marshal(savedMemory{Version: snapshotVersion, At: noon, Targets: map[string]savedState{"process/digits": st.saved()}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(strings.ReplaceAll(string(text), "2026", "9999"))
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseSnapshot([]byte(text))
		if err != nil {
			return
		}
		r := parseScale(t, two("[{name: x, value: a, target_per_replica: 10, panic: {value: b}}]", "    startup: auto\n    when: [{if: b > 10, do: '+3', for: 10m}]\n    on_missing: {after: 10m, fallback: '8'}\n    constraints: [{if: b > 1, max: 7}]"))
		for _, saved := range m.Targets {
			st := State{}.resumed(saved, noon, m.Ended)
			for range 3 {
				var d Decision
				if d, st = Decide(r, observed(noon, 4, named("a", 50), missing("b")), st); d.To < r.Min || d.To > r.Max {
					t.Errorf("%d", d.To)
				}
			}
		}
	})
}
