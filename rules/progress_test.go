package rules

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

// progressRule asks for a replica per 10 of a at once, and lets the size go down at once.
func progressRule(t *testing.T, progress string) *Scale {
	t.Helper()
	return parseScale(t, two("[{name: x, value: a, target_per_replica: 10}]", "    startup: 1m\n    flap_budget: {reversals: 10}\n    progress: "+progress))
}

// cluster has room for so many replicas, which get ready at the next evaluation.
type cluster struct {
	now        time.Time
	spec, room int
	st         State
	decisions  []Decision
}

func (c *cluster) evaluate(r *Scale, demand float64, applied bool) Decision {
	ready := min(c.spec, c.room)
	obs := Observation{
		At: c.now, Replicas: actuators.State{Spec: c.spec, Ready: ready, Pending: c.spec - ready},
		Answers: []Answer{{Name: "a", Value: &demand, Series: 1, Confidence: 1}, {Name: "b", Value: &demand, Series: 1, Confidence: 1}},
	}
	d, next := Decide(r, obs, c.st)
	if c.st = next; applied && d.changes() {
		c.spec, c.st = d.To, next.Applied(c.now, d.From, d.To)
	}
	c.decisions = append(c.decisions, d)
	c.now = c.now.Add(15 * time.Second)
	return d
}

// TestRollback: of six replicas there is room for three. They are kept, the others are taken back when they are late, and asked
// for again after a while.
func TestRollback(t *testing.T) {
	for _, tt := range []struct{ name, progress, want string }{
		{"rolled back", "{rollback: true, retry: 3m}", "0s: 1 -> 6; 2m15s: 6 -> 3; 5m15s: 3 -> 6; 7m30s: 6 -> 3"},
		{"with a deadline of its own", "{deadline: 5m, rollback: true}", "0s: 1 -> 6; 5m15s: 6 -> 3"},
		{"by default they are waited for", "{}", "0s: 1 -> 6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := progressRule(t, tt.progress)
			c := &cluster{now: noon, spec: 1, room: 3}
			var changes []string
			for range 34 {
				if d := c.evaluate(r, 60, true); d.changes() {
					changes = append(changes, fmt.Sprintf("%s: %d -> %d", d.Time.Sub(noon), d.From, d.To))
				}
			}
			if got := strings.Join(changes, "; "); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			late := slices.IndexFunc(c.decisions, func(d Decision) bool { return slices.Contains(d.Reasons, Overdue) })
			if late < 0 || c.decisions[late].Replicas.Overdue != 3 || c.decisions[late-1].Replicas.Overdue != 0 {
				t.Errorf("overdue at evaluation %d of %v", late, c.decisions)
			}
		})
	}
}

// TestRollbackText: why a change is taken back, and why there is no other meanwhile, can be read.
func TestRollbackText(t *testing.T) {
	r := progressRule(t, "{rollback: true}")
	c := &cluster{now: noon, spec: 1, room: 3}
	for range 20 {
		c.evaluate(r, 60, true)
	}
	got := []string{story(c.decisions[9]), story(c.decisions[10])}
	want := []string{
		"6 -> 3 WithinTolerance, ProgressDeadlineExceeded: x 60 at 10 a replica needs 6, 3 of 6 ready for 2m15s, the change from 3 is taken back",
		"3 -> 3 AboveTarget, ProgressDeadlineExceeded: x 60 at 10 a replica needs 6, more was asked for and did not get ready, tried again in 9m45s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNoRollback: what the rule did not ask for, or cannot tell, is left as it is.
func TestNoRollback(t *testing.T) {
	r := progressRule(t, "{rollback: true}")
	for _, tt := range []struct {
		name string
		with func(c *cluster)
	}{
		{"somebody else asked for more", func(c *cluster) { c.spec = 6 }},
		{"somebody else asks again for what the rule did once", func(c *cluster) {
			c.evaluate(r, 30, true)
			c.spec = 2
			c.evaluate(r, 20, true)
			c.spec, c.room = 3, 2
		}},
		{"replicas went", func(c *cluster) { c.evaluate(r, 30, true); c.evaluate(r, 30, true); c.room = 1 }},
		{"it never saw all of them ready", func(c *cluster) { c.evaluate(r, 60, true); c.st.whole = whole{} }},
		{"it only observes", func(c *cluster) { c.evaluate(r, 60, false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &cluster{now: noon, spec: 1, room: 3}
			c.evaluate(r, 10, true)
			tt.with(c)
			before := c.spec
			for range 40 {
				if d := c.evaluate(r, float64(10*before), true); slices.Contains(d.LimitedBy, Overdue) || d.To < before {
					t.Fatal(story(d))
				}
			}
		})
	}
	t.Run("data is missing", func(t *testing.T) {
		c := &cluster{now: noon, spec: 1, room: 3}
		c.evaluate(r, 60, true)
		c.now = c.now.Add(time.Hour)
		obs := Observation{At: c.now, Replicas: actuators.State{Spec: 6, Ready: 3, Pending: 3}, Answers: []Answer{missing("a"), missing("b")}}
		c.st.pendingSince = noon
		if d, _ := Decide(r, obs, c.st); d.To != 6 || d.Replicas.Overdue != 3 {
			t.Error(story(d))
		}
	})
}

// TestNoRollbackUnmeasured: how long a start takes has to be known, from the rule or from three starts, before one that takes
// longer is taken back. Servers that load for ten minutes would else never come.
func TestNoRollbackUnmeasured(t *testing.T) {
	for _, tt := range []struct {
		startup, progress string
		starts            int
		to                int
	}{
		{"auto", "{rollback: true}", 0, 6},
		{"auto", "{rollback: true}", 2, 6},
		{"auto", "{rollback: true}", 3, 1},
		{"auto", "{deadline: 5m, rollback: true}", 0, 1},
		{"2m", "{rollback: true}", 0, 1},
	} {
		r := parseScale(t, two("[{name: x, value: a, target_per_replica: 10}]", "    startup: "+tt.startup+"\n    progress: "+tt.progress))
		c := &cluster{now: noon, spec: 1, room: 1}
		for range tt.starts {
			c.st.starts = append(c.st.starts, time.Minute)
		}
		for range 9 * 4 {
			c.evaluate(r, 60, true)
		}
		last := c.decisions[len(c.decisions)-1]
		if c.spec != tt.to || tt.to == 6 && last.Replicas.Overdue != 5 {
			t.Errorf("startup %s, progress %s, %d starts seen: %d replicas, %d overdue, want %d: %s", tt.startup, tt.progress, tt.starts, c.spec, last.Replicas.Overdue, tt.to, story(last))
		}
	}
}

// TestRollbackInTime: a change is taken back when it is late itself, and not for a replica that was broken before it.
func TestRollbackInTime(t *testing.T) {
	r := progressRule(t, "{rollback: true, deadline: 5m}")
	c := &cluster{now: noon, spec: 1, room: 3}
	for range 4 {
		c.evaluate(r, 30, true)
	}
	c.room = 2
	for range 40 {
		c.evaluate(r, 30, true)
	}
	asked := c.now
	for range 40 {
		d := c.evaluate(r, 60, true)
		if !slices.Contains(d.Reasons, Overdue) {
			t.Fatalf("the broken one is not said to be overdue: %s", story(d))
		}
		if d.Action == Down {
			if took := d.Time.Sub(asked); took != 5*time.Minute+15*time.Second || d.To != 3 {
				t.Errorf("taken back after %s: %s", took, story(d))
			}
			return
		}
	}
	t.Error("never taken back")
}

// TestWaitsBesideBroken: one replica that has been broken for long does not have those that were just asked for removed again
// before they are ready or late.
func TestWaitsBesideBroken(t *testing.T) {
	r := progressRule(t, "{deadline: 5m}")
	c := &cluster{now: noon, spec: 1, room: 3}
	for range 4 {
		c.evaluate(r, 30, true)
	}
	c.room = 2
	for range 40 {
		c.evaluate(r, 30, true)
	}
	asked := c.now
	if d := c.evaluate(r, 60, true); d.To != 6 {
		t.Fatal(story(d))
	}
	for range 40 {
		if d := c.evaluate(r, 10, true); d.Action == Down {
			if took := d.Time.Sub(asked); took != 5*time.Minute+15*time.Second {
				t.Errorf("smaller after %s, want once they are late: %s", took, story(d))
			}
			return
		}
	}
	t.Error("never smaller")
}

// TestOverdueOfTwo: replicas that were asked for one after the other each have their time.
func TestOverdueOfTwo(t *testing.T) {
	r := progressRule(t, "{}")
	st := State{Replicas: 6, Known: true, pendingSince: noon, changes: []change{{at: noon, from: 1, to: 3}, {at: noon.Add(90 * time.Second), from: 3, to: 6}}}
	demand := 60.0
	for _, tt := range []struct {
		ready   int
		after   time.Duration
		overdue int
	}{
		{1, 2 * time.Minute, 0},
		{1, 2*time.Minute + time.Second, 5},
		{2, 2*time.Minute + time.Second, 4},
		{3, 2*time.Minute + time.Second, 0},
		{3, 3*time.Minute + 31*time.Second, 3},
		{6, time.Hour, 0},
	} {
		obs := Observation{
			At: noon.Add(tt.after), Replicas: actuators.State{Spec: 6, Ready: tt.ready, Pending: 6 - tt.ready},
			Answers: []Answer{{Name: "a", Value: &demand, Series: 1, Confidence: 1}, {Name: "b", Value: &demand, Series: 1, Confidence: 1}},
		}
		if d, _ := Decide(r, obs, st); d.Replicas.Overdue != tt.overdue {
			t.Errorf("%d of 6 ready after %s: %d overdue, want %d", tt.ready, tt.after, d.Replicas.Overdue, tt.overdue)
		}
	}
}

// TestRollbackOverRestart: what a snapshot keeps is enough to take a change back, and to wait, as if there had been no restart.
func TestRollbackOverRestart(t *testing.T) {
	r := progressRule(t, "{rollback: true, retry: 3m}")
	straight, restarted := &cluster{now: noon, spec: 1, room: 3}, &cluster{now: noon, spec: 1, room: 3}
	for n := range 34 {
		d := straight.evaluate(r, 60, true)
		again := restarted.evaluate(r, 60, true)
		if story(d) != story(again) {
			t.Fatalf("evaluation %d:\n got %s\nwant %s", n, story(again), story(d))
		}
		restarted.st = through(t, restarted.st, d.Time, true)
	}
}

// teller is an actuator that tells what is held.
type teller struct {
	*actuatortest.Fake
	held []string
}

func (f *teller) TellHeld(_ context.Context, target actuators.Target, reason, note string) {
	f.held = append(f.held, fmt.Sprintf("%s %s: %s", target, reason, note))
}

// TestTellHeld: what holds a size until somebody looks into it is told at the target once, and what passes by itself is not.
func TestTellHeld(t *testing.T) {
	b := newBench(t, rule("max: 8", "max: 8\n    mode: act"), true, State{Replicas: 2, Known: true})
	f := &teller{Fake: b.fake}
	b.scaler.opts.Actuators["process"] = f
	b.fake.Resize(b.scaler.rule.Target, 2)
	b.data.set(0, nil, 100) // down, but not for long enough
	b.eval(t)
	b.eval(t)
	if len(f.held) != 0 {
		t.Errorf("told %q, want nothing of a window", f.held)
	}
	b.data.set(0, errors.New("connection refused"))
	for range 3 {
		b.eval(t)
	}
	if len(f.held) != 1 || !strings.HasPrefix(f.held[0], "process/digits MetricMissing: held at 2 replicas: demand: ") {
		t.Errorf("told %q", f.held)
	}
}

// alone is a target that people have left alone.
type alone struct{ *actuatortest.Fake }

func (f alone) Observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	state, err := f.Fake.Observe(ctx, target)
	state.Paused = "the annotation flyball/paused"
	return state, err
}

// TestPausedOnPlatform: what is paused where it runs is decided for and not changed.
func TestPausedOnPlatform(t *testing.T) {
	b := newBench(t, rule("max: 8", "max: 8\n    mode: act"), true, State{})
	b.scaler.opts.Actuators["process"] = alone{b.fake}
	b.data.set(0, nil, 500)
	d := b.eval(t)
	if want := "1 -> 4 AboveTarget, Paused: load 500 at 130 a replica needs 4, paused by the annotation flyball/paused"; story(d) != want || d.Result != Observed {
		t.Errorf("%s: %s\nwant observed: %s", d.Result, story(d), want)
	}
	if len(b.fake.Changes()) != 0 {
		t.Error("changed")
	}
}

// TestCapWaits: a budget's cap takes no replicas away while others are on their way, whatever is in demand.
func TestCapWaits(t *testing.T) {
	r := parseScale(t, two("[{name: x, value: a, target_per_replica: 10}]", "    price: 1"))
	for _, demand := range []float64{20, 60, 90} {
		obs := Observation{
			At: noon, Replicas: actuators.State{Spec: 6, Ready: 5, Pending: 1}, Caps: []Cap{{Budget: "gpu", Hard: true, USDPerHour: 2}},
			Answers: []Answer{{Name: "a", Value: &demand, Series: 1, Confidence: 1}, {Name: "b", Value: &demand, Series: 1, Confidence: 1}},
		}
		if d, _ := Decide(r, obs, State{}); d.To != 6 {
			t.Errorf("demand %g: %s", demand, story(d))
		}
	}
}

func TestProgressFaults(t *testing.T) {
	_, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(strings.Replace(two(both, "    startup: 4m\n    progress: {deadline: 3m, retry: 25h, rollback: true}"),
		"target: {kind: process, name: digits}", "variants: [{name: v, target: {kind: process, name: v}, capacity: 1, price: 1, max: 3}]", 1)))
	for _, want := range []string{
		"deadline is 3m, less than startup, 4m: replicas would be late that are not", "retry is 1d1h: expected 0s to 1d",
		"a rule with variants takes nothing back",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks: %s", err, want)
		}
	}
}
