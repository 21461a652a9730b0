package rules

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

// answers is a Querier that gives the same samples to every query, each of an age.
type answers struct {
	mu     sync.Mutex
	values []float64
	age    time.Duration
	err    error
}

func (a *answers) set(age time.Duration, err error, values ...float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.values, a.age, a.err = values, age, err
}

func (a *answers) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]Sample, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return nil, a.err
	}
	if strings.Contains(expr, "timestamp(") {
		if len(a.values) == 0 {
			return nil, nil
		}
		return []Sample{{Value: float64(at.Add(-a.age).UnixMilli()) / 1000, Time: at}}, nil
	}
	var out []Sample
	for i, v := range a.values {
		out = append(out, Sample{Labels: labels.FromStrings("instance", fmt.Sprint(i)), Value: v, Time: at})
	}
	return out, nil
}

// pages is a Journal in memory.
type pages struct {
	err   error
	kept  []Decision
	after func() // after each entry
}

func (p *pages) Append(d *Decision) error {
	if p.err != nil {
		return p.err
	}
	p.kept = append(p.kept, *d)
	if p.after != nil && d.Result == Applying {
		p.after()
	}
	return nil
}

func (p *pages) told() []string {
	var out []string
	for _, d := range p.kept {
		out = append(out, fmt.Sprintf("%s %s %d -> %d %s", d.Time.UTC().Format(time.TimeOnly), d.Result, d.From, d.To, d.ReasonText()))
	}
	return out
}

type bench struct {
	data    *answers
	fake    *actuatortest.Fake
	journal *pages
	reg     *prometheus.Registry
	brake   *Brake
	scaler  *Scaler
}

func newBench(t *testing.T, text string, acting bool, st State) *bench {
	t.Helper()
	b := &bench{data: &answers{}, fake: &actuatortest.Fake{}, journal: &pages{}, reg: prometheus.NewPedanticRegistry(), brake: OpenBrake(filepath.Join(t.TempDir(), "freeze.json"))}
	b.fake.Resize(digits, 1)
	metrics, memory := NewMetrics(b.reg), &Memory{}
	memory.of(digits.String()).state = st
	b.scaler = NewScaler(parseScale(t, text), ScalerOptions{
		Querier: b.data, Actuators: map[string]actuators.Actuator{"process": b.fake}, Journal: b.journal, Metrics: metrics, Acting: acting, Memory: memory, Brake: b.brake,
	})
	metrics.Show([]*Scaler{b.scaler})
	return b
}

var digits = actuators.Target{Kind: "process", Name: "digits"}

func (b *bench) eval(t *testing.T) Decision {
	t.Helper()
	if _, err := b.scaler.Eval(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	return *b.scaler.Last()
}

func (b *bench) evalAt(t *testing.T, at time.Time) {
	t.Helper()
	if _, err := b.scaler.Eval(t.Context(), at); err != nil {
		t.Fatal(err)
	}
}

// TestScalerAtTheDefaults runs the defaults on a fake clock: 15 s a tick, replicas that take 40 s to be ready.
func TestScalerAtTheDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, rule("max: 8", "max: 20\n    mode: act"), true, State{})
		b.fake.ReadyAfter = 40 * time.Second
		start := time.Now()
		ticker := time.NewTicker(15 * time.Second)
		defer ticker.Stop()
		for range 100 {
			now := <-ticker.C
			switch at := now.Sub(start); {
			case at < 2*time.Minute:
				b.data.set(0, nil, 130)
			case at < 8*time.Minute:
				b.data.set(0, nil, 800)
			case at < 10*time.Minute:
				b.data.set(0, nil, math.NaN())
			case at < 12*time.Minute:
				b.data.set(46*time.Second, nil, 10)
			case at < 14*time.Minute:
				b.data.set(0, errors.New("store is closed"))
			case at < 16*time.Minute:
				b.data.set(0, nil)
			default:
				b.data.set(0, nil, 10)
			}
			b.eval(t)
		}
		want := []string{
			"00:00:15 unchanged 1 -> 1 WithinTolerance",
			"00:02:00 applying 1 -> 5 AboveTarget, ScaleUpRate",
			"00:02:00 applied 1 -> 5 AboveTarget, ScaleUpRate",
			"00:02:15 unchanged 5 -> 5 AboveTarget, ScaleUpRate",
			"00:03:00 applying 5 -> 7 AboveTarget",
			"00:03:00 applied 5 -> 7 AboveTarget",
			"00:03:15 unchanged 7 -> 7 WithinTolerance, InFlight",
			"00:03:45 unchanged 7 -> 7 WithinTolerance",
			"00:08:00 unchanged 7 -> 7 MetricNaN",
			"00:10:00 unchanged 7 -> 7 MetricStale",
			"00:12:00 unchanged 7 -> 7 MetricMissing",
			"00:16:00 unchanged 7 -> 7 BelowTarget, Stabilized",
			"00:20:15 applying 7 -> 5 BelowTarget, ScaleDownRate",
			"00:20:15 applied 7 -> 5 BelowTarget, ScaleDownRate",
			"00:20:30 unchanged 5 -> 5 BelowTarget, ScaleDownRate",
			"00:21:15 applying 5 -> 3 BelowTarget, ScaleDownRate",
			"00:21:15 applied 5 -> 3 BelowTarget, ScaleDownRate",
			"00:21:30 unchanged 3 -> 3 BelowTarget, ScaleDownRate",
			"00:22:15 applying 3 -> 2 BelowTarget, ScaleDownRate",
			"00:22:15 applied 3 -> 2 BelowTarget, ScaleDownRate",
			"00:22:30 unchanged 2 -> 2 BelowTarget, ScaleDownRate",
			"00:23:15 applying 2 -> 1 BelowTarget",
			"00:23:15 applied 2 -> 1 BelowTarget",
			"00:23:30 unchanged 1 -> 1 WithinTolerance",
		}
		if diff := cmp.Diff(want, b.journal.told()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestScalerObservesUntilToldToAct(t *testing.T) {
	for _, tt := range []struct {
		mode   string
		acting bool
	}{{"observe", true}, {"act", false}} {
		b := newBench(t, rule("max: 8", "max: 8\n    mode: "+tt.mode), tt.acting, State{})
		b.data.set(0, nil, 400)
		d := b.eval(t)
		if got, want := fmt.Sprintf("%s %s", d.Result, story(d)), "observed 1 -> 4 AboveTarget, DryRun: load 400 at 130 a replica needs 4"; got != want {
			t.Errorf("%s %v: got %s, want %s", tt.mode, tt.acting, got, want)
		}
		b.eval(t)
		if n := len(b.fake.Changes()); n != 0 {
			t.Errorf("%s %v: %d changes", tt.mode, tt.acting, n)
		}
		if n := len(b.journal.kept); n != 1 {
			t.Errorf("%s %v: %d entries for the same decision twice", tt.mode, tt.acting, n)
		}
	}
}

// TestScalerRehearses: a target checks what a rule that observes would do, once for each change, and changes nothing.
func TestScalerRehearses(t *testing.T) {
	b := newBench(t, rule("max: 8", "max: 8\n    mode: observe"), true, State{})
	b.fake.Max = 2
	b.data.set(0, nil, 400)
	for range 3 {
		d := b.eval(t)
		if d.Result != Observed || !strings.HasPrefix(d.Error, "dry run: ") || !strings.Contains(d.Error, "out of range") {
			t.Errorf("%s with the error %q, want observed, and that the target would refuse it", d.Result, d.Error)
		}
	}
	if n := len(b.journal.kept); n != 1 {
		t.Errorf("%d entries for the same decision, want 1", n)
	}
	b.fake.Max = 8
	b.data.set(0, nil, 300)
	if d := b.eval(t); d.To != 3 || d.Error != "" {
		t.Errorf("to %d with the error %q, want another change, which the target takes", d.To, d.Error)
	}
	if n := len(b.fake.Changes()); n != 0 {
		t.Errorf("%d changes", n)
	}
}

func TestScalerFailures(t *testing.T) {
	act := rule("max: 8", "max: 8\n    mode: act\n    behavior: {up: {policies: []}}")
	t.Run("the target refuses", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.fake.Max = 2
		b.data.set(0, nil, 400)
		d := b.eval(t)
		if d.Result != Failed || d.ReasonText() != "AboveTarget, ActuatorError" || !strings.Contains(d.Error, "out of range") {
			t.Errorf("%s %s %s", d.Result, d.ReasonText(), d.Error)
		}
		if st := b.scaler.order[0].state; !st.LastUp.IsZero() {
			t.Error("a refused change began a cooldown")
		}
	})
	t.Run("the target cannot be observed", func(t *testing.T) {
		b := newBench(t, act, true, State{Replicas: 3})
		b.fake.FailWith(errors.New("no route"))
		b.data.set(0, nil, 400)
		if d := b.eval(t); d.Result != Unchanged || d.To != 3 || d.ReasonText() != "ActuatorError" {
			t.Errorf("%s %s", d.Result, story(d))
		}
	})
	t.Run("the answer is lost", func(t *testing.T) {
		b := newBench(t, strings.Replace(act, "up: {policies: []}", "up: {policies: [], cooldown: 1m}", 1), true, State{})
		deaf := &deaf{Fake: b.fake}
		b.scaler.opts.Actuators["process"] = deaf
		b.data.set(0, nil, 400)
		deaf.takes = false
		b.evalAt(t, noon)
		deaf.takes = true
		b.evalAt(t, noon.Add(15*time.Second))
		b.data.set(0, nil, 800)
		b.fake.FailWith(errors.New("no route"))
		b.evalAt(t, noon.Add(30*time.Second)) // nobody knows yet
		var kept []*Decision
		for i := range b.journal.kept {
			kept = Changes(kept, &b.journal.kept[i])
		}
		if len(kept) != 1 || !(State{}).Replay(kept[0]).LastUp.Equal(noon.Add(15*time.Second)) {
			t.Errorf("after a restart there are %+v", kept)
		}
		b.fake.FailWith(nil)
		b.evalAt(t, noon.Add(45*time.Second))
		want := []string{
			"12:00:00 applying 1 -> 4 AboveTarget", "12:00:00 error 1 -> 4 AboveTarget, ActuatorError",
			"12:00:15 applying 1 -> 4 AboveTarget", "12:00:15 error 1 -> 4 AboveTarget, ActuatorError",
			"12:00:30 unchanged 1 -> 1 ActuatorError",
			"12:00:15 applied 1 -> 4 AboveTarget, ActuatorError",
			"12:00:45 unchanged 4 -> 4 AboveTarget, Cooldown",
		}
		if diff := cmp.Diff(want, b.journal.told()); diff != "" {
			t.Error(diff)
		}
		kept = nil
		for i := range b.journal.kept {
			kept = Changes(kept, &b.journal.kept[i])
		}
		if len(kept) != 1 || kept[0].To != 4 || kept[0].Unanswered != nil {
			t.Errorf("the journal's changes are %+v", kept)
		}
	})
	t.Run("somebody else was first", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.data.set(0, nil, 400)
		b.scaler.opts.Actuators["process"] = &meddler{Fake: b.fake}
		if d := b.eval(t); d.Result != Failed || d.ReasonText() != "AboveTarget, ExternalChange" {
			t.Errorf("%s %s", d.Result, story(d))
		}
	})
	t.Run("an autoscaler has the target", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.data.set(0, nil, 400)
		b.scaler.opts.Actuators["process"] = &owned{b.fake}
		if d := b.eval(t); d.Result != Failed || d.ReasonText() != "AboveTarget, OwnedByHPA" || d.Unanswered != nil || !strings.Contains(d.Error, "HPA ml/digits") {
			t.Errorf("%s %s %s %v", d.Result, story(d), d.Error, d.Unanswered)
		}
	})
	t.Run("the journal cannot be written", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.journal.err = errors.New("no space left on device")
		b.data.set(0, nil, 400)
		_, err := b.scaler.Eval(t.Context(), time.Now())
		if want := "scale digits: record decision: no space left on device"; err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
		if n := len(b.fake.Changes()); n != 0 {
			t.Error("changed what it could not record")
		}
		if d := b.scaler.Last(); d.Result != Unrecorded || d.Error != err.Error() {
			t.Errorf("the decision is %s: %s", d.Result, d.Error)
		}
	})
	t.Run("the journal is full for a while", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.data.set(0, nil)
		b.journal.err = errors.New("no space left on device")
		for range 3 {
			if _, err := b.scaler.Eval(t.Context(), time.Now()); err == nil {
				t.Error("no error while the decision is not written")
			}
			if d := b.scaler.Last(); d.Action != Hold || d.Result != Unrecorded || d.Error == "" {
				t.Errorf("a hold that is not written is %s %s: %s", d.Action, d.Result, d.Error)
			}
		}
		b.journal.err = nil
		b.eval(t)
		if told := b.journal.told(); len(told) != 1 || !strings.HasSuffix(told[0], "unchanged 1 -> 1 MetricMissing") {
			t.Errorf("written: %v", told)
		}
	})
	t.Run("series of a target that cannot be observed", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.fake.Resize(digits, 5)
		b.data.set(0, nil, 650)
		b.eval(t)
		b.fake.FailWith(errors.New("no route"))
		samples, err := b.scaler.Eval(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			switch name := s.Labels.Get(labels.MetricName); {
			case name == "flyball_scale_desired_replicas" && s.Value != 5,
				name == "flyball_scale_current_replicas", name == "flyball_scale_ready_replicas":
				t.Errorf("%s %g", s.Labels, s.Value)
			}
		}
	})
	t.Run("stopping", func(t *testing.T) {
		b := newBench(t, act, true, State{})
		b.data.set(0, nil, 400)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.scaler.Eval(ctx, time.Now()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if len(b.fake.Changes())+len(b.journal.kept) != 0 {
			t.Error("decided on half an observation")
		}
	})
}

// deaf never gets the answer to a change, whether or not the target takes it.
type deaf struct {
	*actuatortest.Fake
	takes bool
}

func (d *deaf) Apply(ctx context.Context, target actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	if d.takes {
		if _, err := d.Fake.Apply(ctx, target, c); err != nil {
			return actuators.Receipt{}, err
		}
	}
	return actuators.Receipt{}, context.DeadlineExceeded
}

// meddler changes the size between the observation and the change.
type meddler struct{ *actuatortest.Fake }

func (m *meddler) Apply(ctx context.Context, target actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	m.Resize(target, 7)
	return m.Fake.Apply(ctx, target, c)
}

// owned has a target whose size an autoscaler sets.
type owned struct{ *actuatortest.Fake }

func (*owned) Apply(context.Context, actuators.Target, actuators.Change) (actuators.Receipt, error) {
	return actuators.Receipt{}, fmt.Errorf("%w: HPA ml/digits", actuators.ErrOwned)
}

func TestScalerRestore(t *testing.T) {
	act := rule("max: 8", "max: 8\n    mode: act")
	at := time.Now()
	t.Run("the target refuses", func(t *testing.T) {
		b := newBench(t, act, true, State{Replicas: 5, Known: true})
		b.fake = &actuatortest.Fake{Max: 4}
		b.scaler.opts.Actuators["process"] = b.fake
		d, err := b.restore(t, at)
		if err != nil || d.Result != Failed || d.ReasonText() != "Restored, ActuatorError" || len(b.journal.kept) != 1 {
			t.Errorf("%+v %v", d, err)
		}
		b.data.set(0, nil, 500) // then it goes on as from any other size
		if d := b.eval(t); d.Result != Applied || d.To != 4 {
			t.Errorf("%s %s", d.Result, story(d))
		}
	})
	t.Run("to zero", func(t *testing.T) {
		b := newBench(t, rule("max: 8", "max: 8\n    mode: act\n    min: 0"), true, State{Known: true})
		b.fake = &actuatortest.Fake{}
		b.scaler.opts.Actuators["process"] = b.fake
		if d, err := b.restore(t, at); d != nil || err != nil {
			t.Errorf("%+v %v", d, err)
		}
	})
	for _, tt := range []struct {
		name string
		st   State
		want string
	}{
		{"what the journal remembers", State{Replicas: 4, Known: true, LastUp: at}, "0 -> 4 Restored: the size of before the restart"},
		{"the size to start with", State{}, "0 -> 2 MinReplicas: the size to start with"},
		{"no more than max", State{Replicas: 40, Known: true}, "0 -> 8 Restored: the size of before the restart, 40, within min and max"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, act, true, tt.st)
			b.fake = &actuatortest.Fake{}
			b.scaler.opts.Actuators["process"] = b.fake
			d, err := b.restore(t, at)
			if err != nil {
				t.Fatal(err)
			}
			if got := story(*d); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if st := b.scaler.order[0].state; st.LastUp != tt.st.LastUp || st.Replicas != d.To {
				t.Errorf("state %+v", st)
			}
			if again, err := b.restore(t, at); again != nil || err != nil {
				t.Errorf("twice: %v %v", again, err)
			}
			// What the journal holds now must not count as a change after the next restart.
			if st := (State{}).Replay(d); !st.LastUp.IsZero() || st.Replicas != d.To {
				t.Errorf("replayed %+v", st)
			}
		})
	}
}

// TestClockJumps: a clock that is set an hour forward or back ends no cooldown and makes none longer. What is stored of an hour
// that comes again is not taken for new.
func TestClockJumps(t *testing.T) {
	for _, tt := range []struct {
		jump time.Duration
		want string
	}{
		{time.Hour, "+0s up, +1m0s up, 40s cooldown, 1m0s up"},
		{-time.Hour, "+0s up, +1m0s up, 40s stale, 59m0s stale, 1h0m0s up"},
	} {
		b := newBench(t, rule("max: 8", "max: 80\n    mode: act\n    behavior: {up: {policies: [{replicas: 1, period: 1s}], cooldown: 1m}}"), true, State{})
		var even time.Duration
		b.scaler.opts.Clock = func() time.Duration { return even }
		b.data.set(0, nil, 10_000)
		at := func(passed, jumped time.Duration) string {
			t.Helper()
			even = passed
			if _, err := b.scaler.Eval(t.Context(), noon.Add(passed+jumped)); err != nil {
				t.Fatal(err)
			}
			d := b.scaler.Last()
			switch {
			case d.Action == Up && d.Result == Applied:
				return "up"
			case strings.Contains(d.ReasonText(), string(Cooldown)):
				return "cooldown"
			case strings.Contains(d.ReasonText(), string(MetricStale)):
				return "stale"
			}
			return story(*d)
		}
		told := []string{"+0s " + at(0, 0), "+1m0s " + at(time.Minute, 0)}
		after := []time.Duration{40 * time.Second, time.Minute}
		if tt.jump < 0 {
			after = []time.Duration{40 * time.Second, 59 * time.Minute, time.Hour}
		}
		for _, passed := range after {
			told = append(told, fmt.Sprintf("%s %s", passed, at(time.Minute+passed, tt.jump)))
		}
		if diff := cmp.Diff(tt.want, strings.Join(told, ", ")); diff != "" {
			t.Errorf("%s: %s", tt.jump, diff)
		}
	}
}

// TestEveryDecision: the last evaluations are in memory in full, whether or not they changed anything, and no more than so many.
func TestEveryDecision(t *testing.T) {
	b := newBench(t, rule(), false, State{})
	b.data.set(0, nil, 130)
	for i := range maxEvery + 10 {
		if _, err := b.scaler.Eval(t.Context(), noon.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	m := b.scaler.opts.Memory
	all := m.Decisions("digits", time.Time{}, time.Time{}, 1<<20)
	if len(all) != maxEvery || !all[0].Time.Equal(noon.Add((maxEvery+9)*time.Second)) || all[0].Signals[0].Value == nil {
		t.Errorf("%d decisions, the first %+v", len(all), all[0])
	}
	if len(b.journal.kept) != 1 {
		t.Errorf("%d in the journal", len(b.journal.kept))
	}
	until := noon.Add(100 * time.Second)
	if some := m.Decisions("", until.Add(-2*time.Second), until, 2); len(some) != 2 || !some[0].Time.Equal(until) {
		t.Errorf("%d until %s", len(some), until)
	}
	if none := m.Decisions("other", time.Time{}, time.Time{}, 9); len(none) != 0 {
		t.Errorf("of another rule: %d", len(none))
	}
	for i := range 99 { // each of a hundred targets has its share
		m.of(fmt.Sprint("process/", i))
	}
	b.eval(t)
	if all := m.Decisions("digits", time.Time{}, time.Time{}, 1<<20); len(all) != maxEvery/100 {
		t.Errorf("%d of a hundred targets", len(all))
	}
}

// restore brings the target back to 2 replicas, or to what is remembered.
func (b *bench) restore(t *testing.T, at time.Time) (*Decision, error) {
	t.Helper()
	all, err := b.scaler.Restore(t.Context(), at, "process", func(string) int { return 2 })
	if len(all) == 0 {
		return nil, err
	}
	return all[0], err
}

// look is what a rule for one target observes.
func look(t *testing.T, s *Scaler, at time.Time) Observation {
	t.Helper()
	return s.observe(t.Context(), at, asked{s.order[0], s.ask(t.Context(), at)}, nil)
}

func TestObserve(t *testing.T) {
	for _, tt := range []struct {
		name   string
		query  string
		data   *answers
		want   string // the fault, or the value
		detail string
	}{
		{"sum", "{expr: up, reduce: sum}", &answers{values: []float64{1, 2, 3}}, "6", ""},
		{"avg", "{expr: up, reduce: avg}", &answers{values: []float64{1, 2, 3}}, "2", ""},
		{"min", "{expr: up, reduce: min}", &answers{values: []float64{1, 2, 3}}, "1", ""},
		{"max", "{expr: up, reduce: max}", &answers{values: []float64{1, 5, 3}}, "5", ""},
		{"single of several", "up", &answers{values: []float64{1, 2}}, "MetricMissing", `2 series where one was expected, {instance="0"} and {instance="1"}: aggregate, or set reduce`},
		{"none", "up", &answers{}, "MetricMissing", "the query has no answer"},
		{"fewer than expected", "{expr: up, reduce: sum, expect: ready + 1}", &answers{values: []float64{1}}, "MetricMissing 1", "1 series of 2 expected"},
		{"as many as expected", "{expr: up, reduce: sum, expect: 2}", &answers{values: []float64{1, 1}}, "2", ""},
		{"stale", "up", &answers{values: []float64{1}, age: 46 * time.Second}, "MetricStale", "the newest sample is 46s old, stale after 45s"},
		{"old, but it may be", "{expr: up, stale_after: 1m}", &answers{values: []float64{1}, age: 46 * time.Second}, "1", ""},
		{"infinite", "up", &answers{values: []float64{math.Inf(1)}}, "MetricNaN", "the value is +Inf"},
		{"an error", "up", &answers{err: errors.New("no such host")}, "MetricMissing", "the query failed: no such host"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, rule("sum(rate(requests_total[1m]))", tt.query), false, State{})
			b.scaler.opts.Querier = tt.data
			a := look(t, b.scaler, time.Now()).Answers[0]
			got := string(a.Fault)
			if a.Value != nil {
				got = strings.TrimSpace(got + " " + fmt.Sprint(*a.Value))
			}
			if got != tt.want || a.Detail != tt.detail {
				t.Errorf("got %s %q, want %s %q", got, a.Detail, tt.want, tt.detail)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	b := newBench(t, rule("max: 8", "max: 8\n    mode: act"), true, State{})
	b.data.set(0, nil, 400)
	b.eval(t)
	want := `
# HELP flyball_scale_applied_total Changes of size that a scale rule asked its target for, by direction and result.
# TYPE flyball_scale_applied_total counter
flyball_scale_applied_total{direction="down",result="applied",rule="digits",target="process/digits"} 0
flyball_scale_applied_total{direction="down",result="error",rule="digits",target="process/digits"} 0
flyball_scale_applied_total{direction="up",result="applied",rule="digits",target="process/digits"} 1
flyball_scale_applied_total{direction="up",result="error",rule="digits",target="process/digits"} 0
# HELP flyball_scale_desired_replicas Replicas that the rule wants.
# TYPE flyball_scale_desired_replicas gauge
flyball_scale_desired_replicas{rule="digits",target="process/digits"} 4
# HELP flyball_scale_signal_value Value of a signal.
# TYPE flyball_scale_signal_value gauge
flyball_scale_signal_value{rule="digits",signal="load",target="process/digits"} 400
`
	if err := testutil.GatherAndCompare(b.reg, strings.NewReader(want), "flyball_scale_applied_total",
		"flyball_scale_desired_replicas", "flyball_scale_signal_value"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(b.reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// TestAsk: a Querier of one query's own is asked in place of the rule's, for its value and for its age.
func TestAsk(t *testing.T) {
	b := newBench(t, rule(), true, State{})
	b.data.set(0, nil, 100)
	b.scaler.opts.Ask = func(query string) Querier {
		if query != "demand" {
			t.Errorf("asked for %q", query)
		}
		return &answers{values: []float64{500}, age: time.Second}
	}
	d := b.eval(t)
	if a := d.Queries[0]; a.Value == nil || *a.Value != 500 || a.AgeSeconds < 1 {
		t.Errorf("got %+v", a)
	}
}

// TestScalerAnnotations: the annotations of a decision are filled in when it is recorded, and go with it as long as it stays as
// it is.
func TestScalerAnnotations(t *testing.T) {
	b := newBench(t, rule("max: 8", "max: 8\n    annotations: {summary: asks for}"), false, State{})
	expanded := 0
	b.scaler.opts.Expand = func(_ context.Context, name, text string, d *Decision) string {
		expanded++
		return fmt.Sprintf("%s: %s %d", name, text, d.To)
	}
	for i, want := range []string{"asks for 3", "asks for 3", "asks for 1"} {
		b.data.set(0, nil, []float64{390, 390, 130}[i])
		d := b.eval(t)
		if got := d.Annotations["summary"]; got != "summary: "+want {
			t.Errorf("%d: got %q, want %q", i, got, want)
		}
	}
	if expanded != 2 || b.journal.kept[1].Annotations["summary"] != "summary: asks for 1" {
		t.Errorf("%d times filled in, journal %v", expanded, b.journal.told())
	}
}

// TestDecided: who follows a rule's decisions is told of each when it can be asked for, and of targets that the rule has.
func TestDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, rule("max: 8", "max: 8\n    mode: act"), true, State{})
		var told []string
		b.scaler.opts.Decided = func(d *Decision) {
			told = append(told, fmt.Sprintf("%s %d %v", d.Result, d.To, b.scaler.Decision(digits.String()) == d))
		}
		if b.scaler.Decision(digits.String()) != nil || b.scaler.Decision("process/other") != nil {
			t.Error("there is a decision before the first")
		}
		b.data.set(0, nil, 100)
		b.eval(t)
		b.journal.err = errors.New("disk full")
		b.data.set(0, nil, 4000)
		time.Sleep(2 * time.Minute)
		_, _ = b.scaler.Eval(t.Context(), time.Now())
		want := []string{"unchanged 1 true", "unrecorded 5 true"}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Error(diff)
		}
		for target, want := range map[actuators.Target]bool{digits: true, {Kind: "keda", Name: "digits"}: false} {
			if got := b.scaler.Scales(target); got != want {
				t.Errorf("scales %s: %v, want %v", target, got, want)
			}
		}
		if got := b.scaler.Rule().Interval(); got != 15*time.Second {
			t.Errorf("interval %s, want the group's 15s", got)
		}
	})
}

// TestDesiredOfTheUnknown: before a target was first observed there is no size that is desired; later the last one stands.
func TestDesiredOfTheUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, rule("max: 8", "max: 8\n    mode: act"), true, State{Replicas: 3, Known: true})
		b.data.set(0, nil, 130)
		desired := func() (values []float64) {
			b.eval(t)
			for _, s := range b.scaler.Output() {
				if s.Labels.Get(labels.MetricName) == "flyball_scale_desired_replicas" {
					values = append(values, s.Value)
				}
			}
			return values
		}
		var got [][]float64
		for _, err := range []error{errors.New("unreachable"), nil, errors.New("unreachable")} {
			b.fake.FailWith(err)
			got = append(got, desired())
			time.Sleep(15 * time.Second)
		}
		if diff := cmp.Diff([][]float64{nil, {1}, {1}}, got); diff != "" {
			t.Error(diff)
		}
	})
}
