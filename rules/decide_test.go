package rules

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/actuators"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func parseScale(t testing.TB, text string) *Scale {
	t.Helper()
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f.Groups[0].Rules[0].Scale
}

// observed is an observation with all replicas ready.
func observed(at time.Time, replicas int, answers ...Answer) Observation {
	return Observation{At: at, Replicas: actuators.State{Spec: replicas, Ready: replicas}, Answers: answers}
}

func demand(v float64) Answer { return Answer{Name: "demand", Value: &v, Series: 1, Confidence: 1} }

func faulty(r Reason, detail string) Answer {
	return Answer{Name: "demand", Fault: r, Detail: detail}
}

// story is the decision in one line: what a person reads.
func story(d Decision) string {
	return fmt.Sprintf("%d -> %d %s: %s", d.From, d.To, d.ReasonText(), d.Text)
}

func TestDecide(t *testing.T) {
	quick := rule("max: 8", "max: 8\n    behavior: {up: {policies: []}, down: {window: 0s, policies: []}}")
	with := func(edits ...string) string {
		text := quick
		for i := 0; i+1 < len(edits); i += 2 {
			text = strings.Replace(text, edits[i], edits[i+1], 1)
		}
		return text
	}
	steps := func(steps ...string) string {
		return with("    signals:", "    when:\n    - "+strings.Join(steps, "\n    - ")+"\n    signals:")
	}
	pending := observed(noon, 4, demand(100))
	pending.Replicas.Ready, pending.Replicas.Pending = 3, 1
	rising := observed(noon, 4, demand(1000))
	rising.Replicas.Ready, rising.Replicas.Pending = 3, 1
	lost := observed(noon, 0)
	lost.TargetError = "connection refused"
	optional := faulty(MetricMissing, "no answer")
	optional.Optional = true

	for _, tt := range []struct {
		name string
		rule string
		obs  Observation
		st   State
		want string
	}{
		{"up", quick, observed(noon, 1, demand(171)), State{}, "1 -> 2 AboveTarget: load 171 at 130 a replica needs 2"},
		{"up several", quick, observed(noon, 2, demand(402)), State{}, "2 -> 4 AboveTarget: load 402 at 130 a replica needs 4"},
		{"down", quick, observed(noon, 4, demand(200)), State{}, "4 -> 2 BelowTarget: load 200 at 130 a replica needs 2"},
		{"within the tolerance", quick, observed(noon, 2, demand(285)), State{}, "2 -> 2 WithinTolerance: load 285 at 130 a replica needs 2"},
		{"just outside of it", quick, observed(noon, 2, demand(287)), State{}, "2 -> 3 AboveTarget: load 287 at 130 a replica needs 3"},
		{"a sum that is off by rounding", with("tolerance", ""), observed(noon, 1, demand(3*130+1e-10)), State{}, "1 -> 3 AboveTarget: load 390 at 130 a replica needs 3"},
		{"no load", quick, observed(noon, 3, demand(0)), State{}, "3 -> 1 BelowTarget, MinReplicas: load 0 at 130 a replica needs 0, min is 1"},
		{"to zero where min allows it", with("max: 8", "max: 8\n    min: 0"), observed(noon, 3, demand(0)), State{}, "3 -> 0 BelowTarget: load 0 at 130 a replica needs 0"},
		{"from zero", with("max: 8", "max: 8\n    min: 0"), observed(noon, 0, demand(5)), State{}, "0 -> 1 AboveTarget: load 5 at 130 a replica needs 1"},
		{"a huge value", quick, observed(noon, 2, demand(1e300)), State{}, "2 -> 8 AboveTarget, MaxReplicas: load " + figure(1e300) + " at 130 a replica needs 1000000, max is 8"},
		{"a negative value", quick, observed(noon, 2, demand(-5)), State{}, "2 -> 1 BelowTarget, MinReplicas: load -5 at 130 a replica needs 0, min is 1"},

		{"missing", quick, observed(noon, 3, faulty(MetricMissing, "the query has no answer")), State{}, "3 -> 3 MetricMissing: demand: the query has no answer"},
		{"stale", quick, observed(noon, 3, faulty(MetricStale, "the newest sample is 50s old, stale after 45s")), State{}, "3 -> 3 MetricStale: demand: the newest sample is 50s old, stale after 45s"},
		{"NaN", quick, observed(noon, 3, faulty(MetricNaN, "the value is NaN")), State{}, "3 -> 3 MetricNaN: demand: the value is NaN"},
		{"missing and below min", quick, observed(noon, 0, faulty(MetricMissing, "none")), State{}, "0 -> 1 MetricMissing, MinReplicas: demand: none, min is 1"},
		{"the expression makes a NaN of it", with("value: demand", "value: demand / (replicas - 3)"), observed(noon, 3, demand(0)), State{}, "3 -> 3 MetricNaN: load is not a number"},
		{"the target cannot be observed", quick, lost, State{Replicas: 5}, "5 -> 5 ActuatorError: the target cannot be observed: connection refused"},

		{"a replica is not ready: not down", quick, pending, State{}, "4 -> 4 BelowTarget, InFlight: load 100 at 130 a replica needs 1, 3 of 4 ready"},
		{"a replica is not ready: up all the same", quick, rising, State{}, "4 -> 8 AboveTarget: load 1000 at 130 a replica needs 8"},
		{"a replica has not been ready for longer than a start takes twice", quick, pending, State{pendingSince: noon.Add(-5 * time.Minute)}, "4 -> 1 BelowTarget, ProgressDeadlineExceeded: load 100 at 130 a replica needs 1, 3 of 4 ready for 5m0s"},
		{"the same, but the last replica was asked for only now", quick, pending, State{pendingSince: noon.Add(-5 * time.Minute), changes: []change{{at: noon.Add(-time.Minute), from: 3, to: 4}}}, "4 -> 4 BelowTarget, InFlight: load 100 at 130 a replica needs 1, 3 of 4 ready"},

		{"a step up", steps("{if: demand > 250, do: +2}"), observed(noon, 2, demand(260)), State{}, "2 -> 4 StepRule: demand > 250: +2"},
		{"a step with its reason", steps("{if: demand > 250, do: +25%, reason: SLOBreach}"), observed(noon, 2, demand(260)), State{}, "2 -> 3 StepRule: SLOBreach: +25%"},
		{"a step that asks for less than a signal", steps("{if: demand > 250, do: '+1'}"), observed(noon, 2, demand(900)), State{}, "2 -> 7 AboveTarget: load 900 at 130 a replica needs 7"},
		{"a step down that a signal does not agree with", steps("{if: demand < 300, do: '-1'}"), observed(noon, 2, demand(260)), State{}, "2 -> 2 WithinTolerance: load 260 at 130 a replica needs 2"},
		{"a step down with a signal that agrees", steps("{if: demand < 300, do: '-1'}"), observed(noon, 4, demand(260)), State{}, "4 -> 3 StepRule: demand < 300: -1"},
		{"hold", steps("{if: ready > 3, do: hold}"), observed(noon, 4, demand(200)), State{}, "4 -> 4 StepRule, WithinTolerance: load 200 at 130 a replica needs 2, hold"},
		{"hold does not keep it from going up", steps("{if: ready > 3, do: hold}"), observed(noon, 4, demand(900)), State{}, "4 -> 7 AboveTarget: load 900 at 130 a replica needs 7"},
		{"a step that has not held for long enough", steps("{if: demand > 1, do: '+5', for: 1m}"), observed(noon, 2, demand(260)), State{}, "2 -> 2 WithinTolerance: load 260 at 130 a replica needs 2"},
		{"a step that has", steps("{if: demand > 1, do: '+5', for: 1m}"), observed(noon, 2, demand(260)), State{holdsSince: map[string]time.Time{"demand > 1": noon.Add(-time.Minute)}}, "2 -> 7 StepRule: demand > 1: +5"},
		{"a step that may ask whether data is there", steps("{if: '!q.demand.ok && replicas < 3', do: '=3'}"), observed(noon, 2, faulty(MetricMissing, "none")), State{}, "2 -> 3 StepRule, MetricMissing: !q.demand.ok && replicas < 3: =3, demand: none"},
		{"a step on data that is not there", steps("{if: demand < 5, do: '-1'}"), observed(noon, 2, faulty(MetricMissing, "none")), State{}, "2 -> 2 MetricMissing: demand: none"},
		{"a step up waits for the last one", steps("{if: demand > 250, do: +1}"), func() Observation {
			o := observed(noon, 2, demand(260))
			o.Replicas.Ready, o.Replicas.Pending = 1, 1
			return o
		}(), State{}, "2 -> 2 InFlight, WithinTolerance: demand > 250: +1, 1 of 2 ready"},

		{"a step up does not wait for one that will not come", steps("{if: demand > 250, do: +1}"), func() Observation {
			o := observed(noon, 2, demand(260))
			o.Replicas.Ready, o.Replicas.Pending = 1, 1
			return o
		}(), State{pendingSince: noon.Add(-time.Hour)}, "2 -> 3 StepRule, ProgressDeadlineExceeded: demand > 250: +1, 1 of 2 ready for 1h0m0s"},
		{"two steps: the larger one is named", steps("{if: demand > 250, do: +4}", "{if: demand > 200, do: +1}"), observed(noon, 2, demand(260)), State{}, "2 -> 6 StepRule: demand > 250: +4"},
		{"a hold that cannot be evaluated holds", steps("{if: 'replicas % (ready - 4) == 0', do: hold}"), observed(noon, 4, demand(100)), State{}, "4 -> 4 BelowTarget, MetricNaN: load 100 at 130 a replica needs 1, replicas % (ready - 4) == 0 cannot be evaluated"},
		{"a hold on optional data that is not there holds", with("    signals:", "    when:\n    - {if: gate > 0, do: hold}\n    signals:", "    queries:\n", "    queries:\n      gate: {expr: up, optional: true}\n"), observed(noon, 4, demand(100), Answer{Name: "gate", Fault: MetricMissing, Detail: "none", Optional: true}), State{}, "4 -> 4 BelowTarget, MetricMissing: load 100 at 130 a replica needs 1, gate: none"},

		{"cooldown up", with("policies: []}, down", "policies: [], cooldown: 1m}, down"), observed(noon, 1, demand(400)), State{LastUp: noon.Add(-20 * time.Second)}, "1 -> 1 AboveTarget, Cooldown: load 400 at 130 a replica needs 4, up again in 40s"},
		{"cooldown is over at its end", with("policies: []}, down", "policies: [], cooldown: 1m}, down"), observed(noon, 1, demand(400)), State{LastUp: noon.Add(-time.Minute)}, "1 -> 4 AboveTarget: load 400 at 130 a replica needs 4"},
		{"cooldown down", with("window: 0s", "window: 0s, cooldown: 1m"), observed(noon, 4, demand(100)), State{LastDown: noon.Add(-20 * time.Second)}, "4 -> 4 BelowTarget, Cooldown: load 100 at 130 a replica needs 1, down again in 40s"},
		{"rate up", rule(), observed(noon, 1, demand(1000)), State{}, "1 -> 5 AboveTarget, ScaleUpRate: load 1000 at 130 a replica needs 8, up at most 4 in 1m"},
		{"rate up counts what was added", rule(), observed(noon, 5, demand(1000)), State{changes: []change{{at: noon.Add(-30 * time.Second), from: 1, to: 5}}}, "5 -> 5 AboveTarget, ScaleUpRate: load 1000 at 130 a replica needs 8, up at most 100% in 1m"},
		{"rate down", with("window: 0s, policies: []", "window: 0s, policies: [{replicas: 1, period: 10s}]"), observed(noon, 4, demand(260)), State{}, "4 -> 3 BelowTarget, ScaleDownRate: load 260 at 130 a replica needs 2, down at most 1 in 10s"},
		{"the window after a start", rule(), observed(noon, 4, demand(100)), State{}, "4 -> 4 BelowTarget, Stabilized: load 100 at 130 a replica needs 1, the last 5m needed 4"},
		{"an up window", with("up: {policies", "up: {window: 1m, policies"), observed(noon, 1, demand(400)), State{recommendations: []recommendation{{noon.Add(-30 * time.Second), 2}}}, "1 -> 2 AboveTarget, Stabilized: load 400 at 130 a replica needs 4, not for all of 1m yet"},
		{"an optional query that is missing", with("demand: sum(rate(requests_total[1m]))", "demand: {expr: up, optional: true}"), observed(noon, 2, optional), State{}, "2 -> 2 MetricMissing: demand: no answer"},
		{"max below what there is", with("max: 8", "max: 2"), observed(noon, 4, demand(500)), State{}, "4 -> 2 WithinTolerance, MaxReplicas: load 500 at 130 a replica needs 4, max is 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := Decide(parseScale(t, tt.rule), tt.obs, tt.st)
			if got := story(d); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if diff := cmp.Diff(d.ID, decisionID(d.Rule, d.Target, tt.obs.At, d.From, d.To)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestProductionDefaults plays an hour at the defaults that names.md gives, 15 s a tick, and tells each change.
func TestProductionDefaults(t *testing.T) {
	r := parseScale(t, rule("max: 8", "max: 20"))
	loads := func(at time.Duration) float64 {
		switch {
		case at < 5*time.Minute:
			return 130
		case at < 10*time.Minute:
			return 1500 // a step to twelve
		case at < 12*time.Minute:
			return 130 // a dip of two minutes, shorter than the window
		case at < 20*time.Minute:
			return 1500
		}
		return 130
	}
	var told []string
	st, size := State{}, 1
	for at := time.Duration(0); at < 40*time.Minute; at += 15 * time.Second {
		now := noon.Add(at)
		d, next := Decide(r, observed(now, size, demand(loads(at))), st)
		st = next
		if d.To != size {
			told = append(told, fmt.Sprintf("%s %d -> %d %s", at, size, d.To, d.ReasonText()))
			st, size = st.Applied(now, size, d.To), d.To
		}
	}
	want := []string{
		"5m0s 1 -> 5 AboveTarget, ScaleUpRate",  // 4 a minute
		"6m0s 5 -> 10 AboveTarget, ScaleUpRate", // 100 % a minute
		"7m0s 10 -> 12 AboveTarget",
		"24m45s 12 -> 9 BelowTarget, ScaleDownRate", // five minutes after the last high demand; 25 % a minute
		"25m45s 9 -> 6 BelowTarget, ScaleDownRate",
		"26m45s 6 -> 4 BelowTarget, ScaleDownRate",
		"27m45s 4 -> 3 BelowTarget, ScaleDownRate",
		"28m45s 3 -> 2 BelowTarget, ScaleDownRate",
		"29m45s 2 -> 1 BelowTarget",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}

// TestDecideProperties holds what must be true whatever comes: sizes within bounds, never down on data that is not
// whole, the same answer for the same input, the old state left alone, and no answer that depends on the date.
func TestDecideProperties(t *testing.T) {
	r := parseScale(t, rule("max: 8", "max: 9\n    min: 2\n    behavior: {down: {window: 30s, cooldown: 20s}}",
		"    signals:", "    when:\n    - {if: demand > 700, do: '+2', for: 20s}\n    - {if: ready < 3, do: hold}\n    signals:"))
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		st, shifted, size := State{}, State{}, 2+rng.IntN(8)
		for i := range 100 {
			now := noon.Add(time.Duration(i) * 5 * time.Second)
			a := demand(rng.Float64() * 1200)
			if rng.IntN(5) == 0 {
				a = faulty([]Reason{MetricMissing, MetricStale, MetricNaN}[rng.IntN(3)], "fault")
			}
			obs := observed(now, size, a)
			obs.Replicas.Ready = size - rng.IntN(2)
			obs.Replicas.Pending = size - obs.Replicas.Ready
			before := fmt.Sprintf("%+v", st)
			d, next := Decide(r, obs, st)
			again, _ := Decide(r, obs, st)
			if diff := cmp.Diff(written(t, d), written(t, again)); diff != "" {
				t.Fatalf("seed %d: not the same twice: %s", seed, diff)
			}
			if after := fmt.Sprintf("%+v", st); after != before {
				t.Fatalf("seed %d: the old state was changed:\n%s\n%s", seed, before, after)
			}
			if d.To < r.Min || d.To > r.Max {
				t.Fatalf("seed %d: %d outside of %d to %d", seed, d.To, r.Min, r.Max)
			}
			if d.To < size && (a.Fault != "" || obs.Replicas.Pending > 0) {
				t.Fatalf("seed %d: went down: %s", seed, story(d))
			}
			if len(d.Reasons) == 0 {
				t.Fatalf("seed %d: no reason", seed)
			}
			later := obs
			later.At = now.Add(1000 * time.Hour)
			s, shiftedNext := Decide(r, later, shifted)
			if s.To != d.To || s.Text != d.Text {
				t.Fatalf("seed %d: depends on the date: %s, %s", seed, story(d), story(s))
			}
			st, shifted = next, shiftedNext
			if d.To != size {
				st, shifted = st.Applied(now, size, d.To), shifted.Applied(later.At, size, d.To)
				size = d.To
			}
		}
	}
}

// written is a decision as the journal has it.
func written(t testing.TB, d Decision) string {
	t.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestClockSetBack: what was remembered under a clock that ran ahead makes nothing wait longer than it is.
func TestClockSetBack(t *testing.T) {
	r := parseScale(t, rule("max: 8", "max: 8\n    behavior: {up: {policies: [], cooldown: 1m}, down: {window: 5m}}"))
	ahead := noon.Add(30 * 24 * time.Hour)
	_, st := Decide(r, observed(ahead, 1, demand(130)), State{})
	st = st.Applied(ahead, 1, 2)
	size := 2
	var waited time.Duration
	for ; waited < 10*time.Minute; waited += 15 * time.Second {
		d, next := Decide(r, observed(noon.Add(waited), size, demand(1000)), st)
		st = next
		if d.To > size {
			break
		}
	}
	if waited != time.Minute {
		t.Errorf("went up after %s: the cooldown is 1m", waited)
	}
}

// TestClockSetBackKeepsCounting: what policies and flap budgets count is not forgotten because the clock was set back.
func TestClockSetBackKeepsCounting(t *testing.T) {
	r := parseScale(t, rule("max: 8", "max: 80\n    behavior: {up: {policies: [{replicas: 4, period: 1m}]}}"))
	st := State{}.Applied(noon.Add(time.Hour), 10, 14)
	d, st := Decide(r, observed(noon, 14, demand(5000)), st)
	if d.To != 14 {
		t.Errorf("four were added already: %s", story(d))
	}
	if d, _ = Decide(r, observed(noon.Add(time.Minute), 14, demand(5000)), st); d.To != 18 {
		t.Errorf("a minute later: %s", story(d))
	}
}

// TestUnsureChanges: a change of which nobody knows whether it was carried out keeps its direction back, and is no leave to
// go further the other way.
func TestUnsureChanges(t *testing.T) {
	r := parseScale(t, rule("max: 8", "max: 80\n    behavior: {up: {policies: [{replicas: 4, period: 1m}]}, down: {window: 0s, policies: [{replicas: 3, period: 1m}]}}"))
	for _, tt := range []struct {
		name     string
		from, to int
		result   Result
		demand   float64
		want     int
	}{
		{"up counts as up", 20, 24, Applying, 9000, 20},
		{"up is no leave to go down", 20, 24, Applying, 130, 17},
		{"one that was carried out is, as for the HPA", 16, 20, Applied, 130, 13},
		{"down counts as down", 20, 17, Applying, 130, 20},
		{"down is no leave to go up", 20, 17, Applying, 9000, 24},
	} {
		st := State{}.Replay(&Decision{Time: noon.Add(-30 * time.Second), From: tt.from, To: tt.to, Result: tt.result})
		st.recommendations = []recommendation{{noon.Add(-time.Minute), 20}}
		if d, _ := Decide(r, observed(noon, 20, demand(tt.demand)), st); d.To != tt.want {
			t.Errorf("%s: %s, want %d", tt.name, story(d), tt.want)
		}
	}
}

// TestFlakyQuery: a query that fails now and then must not keep a rule from ever going down, and an outage must not be
// followed by a change down at once.
func TestFlakyQuery(t *testing.T) {
	r := parseScale(t, rule())
	down := func(fails func(at time.Duration) bool) time.Duration {
		st := State{}
		for at := time.Duration(0); at < 2*time.Hour; at += 15 * time.Second {
			a := demand(100)
			if fails(at) {
				a = outage
			}
			d, next := Decide(r, observed(noon.Add(at), 4, a), st)
			st = next
			if d.To < 4 {
				return at
			}
		}
		return -1
	}
	if got := down(func(at time.Duration) bool { return at%(4*time.Minute) == 2*time.Minute }); got != 5*time.Minute {
		t.Errorf("one failure in sixteen: down after %s, want the window of 5m", got)
	}
	got := down(func(at time.Duration) bool { return at > time.Minute && at < 30*time.Minute })
	if got < 32*time.Minute || got > 35*time.Minute {
		t.Errorf("an outage until 30m: down after %s, want half a window to a window after its end", got)
	}
}

// TestPause: a process that was stopped for longer than the window, or a machine that slept, does not go down on the first
// value that it sees.
func TestPause(t *testing.T) {
	r := parseScale(t, rule())
	st, size := State{}, 4
	for at := time.Duration(0); at < 10*time.Minute; at += 15 * time.Second {
		_, st = Decide(r, observed(noon.Add(at), size, demand(500)), st)
	}
	woken := noon.Add(2 * time.Hour)
	for at := time.Duration(0); ; at += 15 * time.Second {
		d, next := Decide(r, observed(woken.Add(at), size, demand(100)), st)
		st = next
		if d.To < size {
			if at != 5*time.Minute {
				t.Errorf("down after %s, want the window of 5m", at)
			}
			return
		}
		if at > time.Hour {
			t.Fatal("never down")
		}
	}
}

var outage = faulty(MetricMissing, "none")

func TestLimitedBy(t *testing.T) {
	r := parseScale(t, rule())
	optional := faulty(MetricMissing, "none")
	for _, tt := range []struct {
		obs  Observation
		want []Reason
	}{
		{observed(noon, 2, demand(260)), nil},
		{observed(noon, 4, demand(100)), []Reason{Stabilized}},
		{observed(noon, 1, demand(900)), []Reason{ScaleUpRate}},
		{observed(noon, 4, optional), nil}, // nothing was wanted, so nothing was kept from it
	} {
		d, _ := Decide(r, tt.obs, State{})
		if diff := cmp.Diff(tt.want, d.LimitedBy); diff != "" {
			t.Errorf("%s: %s", story(d), diff)
		}
	}
}

func TestReasonsAreClosed(t *testing.T) {
	known := map[Reason]bool{}
	for _, r := range Reasons() {
		if known[r] {
			t.Errorf("%s twice", r)
		}
		known[r] = true
	}
	if len(known) != 29 {
		t.Errorf("%d reasons", len(known))
	}
}
