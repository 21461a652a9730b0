package rules

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/actuators"
)

// draft writes random rule files. Every stage has a chance to be in one.
type draft struct{ *rand.Rand }

func (r draft) maybe(share float64, text string, args ...any) string {
	if r.Float64() >= share {
		return ""
	}
	return fmt.Sprintf(text, args...)
}

func pick[T any](r draft, of ...T) T { return of[r.IntN(len(of))] }

func (r draft) period() string { return pick(r, "30s", "1m", "3m", "10m") }

// sizing is one of the ways to size by. variants know one alone.
func (r draft) sizing(variants bool) string {
	if variants {
		return fmt.Sprintf("target_per_replica: %d", 1+r.IntN(5))
	}
	return pick(r,
		fmt.Sprintf("target_per_replica: %d", 1+r.IntN(20)),
		fmt.Sprintf("utilization: %.2f", 0.2+0.8*r.Float64()),
		fmt.Sprintf("service_rate: '%d', wait: %dms, concurrency: %d", 1+r.IntN(20), 1+r.IntN(900), 1+r.IntN(3)))
}

// window is a condition on the time of the week.
func (r draft) window() string {
	return fmt.Sprintf("window('%s %s', '%s')", pick(r, "Mon-Fri", "Sat,Sun", "Sun-Mon,Wed", "Fri-Sun"), pick(r, "08:00-18:00", "00:30-03:00", "22:15-02:30", "02:00-24:00"), pick(r, zones...))
}

func (r draft) direction() string {
	var policies []string
	for range r.IntN(3) {
		policies = append(policies, pick(r,
			fmt.Sprintf("{replicas: %d, period: %s}", 1+r.IntN(5), r.period()),
			fmt.Sprintf("{percent: %d, period: %s}", 5+r.IntN(100), r.period())))
	}
	return fmt.Sprintf("{window: %s, policies: [%s]%s}", pick(r, "0s", "30s", "2m", "5m"), strings.Join(policies, ", "), r.maybe(0.5, ", cooldown: %s", r.period()))
}

// file is a rule file. One that is plain has only what asks for more when there is more: signals whose values are queries, of
// which the queries of each give all, and steps that fire from a demand on and go up.
func (r draft) file(plain bool) string {
	variants := !plain && r.IntN(4) == 0
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	add("groups:\n- name: g\n  rules:\n  - scale: digits")
	least, most := r.IntN(4), 5+r.IntN(60)
	if variants {
		add("    variants:")
		for i := range 1 + r.IntN(3) {
			v := r.IntN(3)
			add("    - {name: v%d, target: {kind: process, name: v%d}, capacity: %d, price: '%.2f', min: %d, max: %d, interruptible: %t}", i, i, 1+r.IntN(9), r.Float64()*3, v, v+1+r.IntN(20), r.IntN(2) == 0)
		}
		add("    cost: {max_interruptible_share: %.2f}", r.Float64())
	} else {
		add("    target: {kind: process, name: digits}\n    min: %d\n    max: %d", least, most)
		add("%s", r.maybe(0.5, "    price: '%.2f'", r.Float64()*3))
	}
	if !plain && r.IntN(2) == 0 {
		add("    startup: %s\n    progress: {deadline: %s%s%s}", pick(r, "auto", "15s", "30s"), pick(r, "30s", "1m", "3m"), r.maybe(0.7, ", rollback: %t", !variants), r.maybe(0.5, ", retry: %s", r.period()))
	}
	add("    queries:\n      a: a\n      b: {expr: b%s}\n      c: {expr: c%s}", r.maybe(0.3, ", on_missing: %s", pick(r, "hold", "block", "ignore")), r.maybe(0.5, ", optional: true"))
	add("    signals:")
	for i := range 1 + r.IntN(3) {
		name := pick(r, "a", "b", "c")
		value := name
		if !plain {
			value = pick(r, name, name, "a + b", "a / (replicas - 3)", "max(a, c)", "a % (ready - 2)", "q.c.n * 1.0")
		}
		add("    - {name: s%d, value: '%s', %s%s%s%s%s}", i, value, r.sizing(variants), r.maybe(0.5, ", weight: %.1f", r.Float64()*4),
			r.maybe(0.5, ", tolerance: %.2f", r.Float64()/2), r.maybe(0.2, ", role: floor"), r.maybe(0.2, ", panic: {value: %s, threshold: %.1f}", pick(r, "a", "b"), 1.1+2*r.Float64()))
	}
	if r.IntN(2) == 0 {
		add("    when:")
		for range 1 + r.IntN(3) {
			condition, do := fmt.Sprintf("%s > %d%s", pick(r, "a", "b"), r.IntN(150), r.maybe(0.2, " && %s", r.window())), fmt.Sprintf("'+%d%s'", 1+r.IntN(20), pick(r, "", "%"))
			if !plain {
				condition = pick(r, condition, fmt.Sprintf("a < %d", r.IntN(150)), "!q.a.ok", "since_down > 120", "ready % 3 == 0", "weekday == 'Sunday'", "hour > 12", r.window())
				do = pick(r, do, fmt.Sprintf("'-%d%s'", 1+r.IntN(20), pick(r, "", "%")), "hold")
				if !variants && r.IntN(3) == 0 {
					do = fmt.Sprintf("'=%d'", least+r.IntN(most-least))
				}
			}
			add("    - {if: \"%s\", do: %s%s%s}", condition, do, r.maybe(0.4, ", for: %s", r.period()), r.maybe(0.4, ", priority: %d", r.IntN(5)-2))
		}
	}
	if plain {
		add("    combine: %s", pick(r, "max", "weighted"))
	} else {
		add("    combine: %s", pick(r, "max", "weighted", "priority"))
		if r.IntN(2) == 0 && !variants {
			add("    constraints:")
			for range 1 + r.IntN(3) {
				add("    - {if: \"%s\", %s}", pick(r, "b > 50", "pending > 0", "c < 3", r.window(), r.window()), pick(r, fmt.Sprintf("max: %d", least+r.IntN(most)), fmt.Sprintf("min: %d", r.IntN(most))))
			}
		}
	}
	if r.IntN(2) == 0 && !variants {
		add("    schedule:")
		for range 1 + r.IntN(2) {
			bound := pick(r, fmt.Sprintf("max: %d", least+r.IntN(most-least)), fmt.Sprintf("min: %d", r.IntN(most)))
			add("    - {cron: '%s', %s, tz: %s, %s}", pick(r, "*/7 * * * *", r.cron()), pick(r, "for: 3m", fmt.Sprintf("for: %dm", 1+r.IntN(500)), fmt.Sprintf("until: '%s'", r.cron())), pick(r, zones...), bound)
		}
	}
	if r.IntN(3) == 0 {
		add("    on_missing: {up: %s, down: %s, after: %s, fallback: '%s'}", pick(r, "allow", "hold"), pick(r, "hold", "fallback"), r.period(), pick(r, "max(replicas, 4)", "3", "replicas / (ready - 2)", "max - 1"))
	}
	add("    min_confidence: {up: %.1f, down: %.1f}", r.Float64(), r.Float64())
	add("    flap_budget: {reversals: %d, window: %s}", 2+r.IntN(4), pick(r, "5m", "10m", "30m"))
	add("    behavior: {up: %s, down: %s}", r.direction(), r.direction())
	return b.String()
}

// world is what a random rule scales: its true size, and all that was really done to it.
type world struct {
	draft
	t    *testing.T
	text string
	rule *Scale
	seed uint64

	now      time.Time
	size     int // without variants
	variants []int
	truth    []change
	journal  []Decision
	st       State
	values   map[string]float64
	room     int // replicas that get ready, while full is above 0
	full     int // evaluations for which there is no more room
}

func newWorld(t *testing.T, seed uint64, plain bool) *world {
	w := &world{draft: draft{rand.New(rand.NewPCG(seed, 99))}, t: t, seed: seed, now: noon, values: map[string]float64{"a": 20, "b": 5, "c": 50}}
	for w.text = ""; w.rule == nil; { // some drafts contradict themselves, such as by a floor above max
		w.text = w.file(plain)
		f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(w.text))
		if err != nil {
			continue
		}
		w.rule = f.Groups[0].Rules[0].Scale
	}
	w.now = noon.Add(time.Duration(w.IntN(7*24*60)) * time.Minute)
	if w.IntN(2) == 0 { // a clock will be set, or has just been
		if _, set := noon.Add(time.Duration(w.IntN(400)) * 24 * time.Hour).In(zone(t, pick(w.draft, zones...))).ZoneBounds(); !set.IsZero() {
			w.now = set.Add(time.Duration(w.IntN(40)-30) * time.Minute).UTC()
		}
	}
	w.size = w.IntN(w.rule.Max + 1)
	for _, v := range w.rule.Variants {
		w.variants = append(w.variants, v.Min+w.IntN(v.Max-v.Min+1))
	}
	return w
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d at %s: %s\n%s", w.seed, w.now.Format(time.TimeOnly), fmt.Sprintf(format, args...), w.text)
}

// observe is what the rule sees, with all that may be wrong with it.
func (w *world) observe() Observation {
	obs := Observation{At: w.now, Replicas: actuators.State{Spec: w.size, Ready: w.size}}
	if len(w.variants) > 0 {
		obs.Replicas = actuators.State{}
		for i, v := range w.rule.Variants {
			obs.Variants = append(obs.Variants, actuators.State{Spec: w.variants[i], Ready: w.variants[i]})
			obs.Replicas.Spec += w.variants[i] * v.Capacity
		}
		obs.Replicas.Ready = obs.Replicas.Spec
	}
	if w.IntN(40) == 0 {
		w.room, w.full = w.IntN(w.rule.Max+1), w.IntN(60)
	}
	if w.full > 0 && len(w.variants) == 0 {
		w.full--
		obs.Replicas.Ready = min(w.size, w.room)
		obs.Replicas.Pending = w.size - obs.Replicas.Ready
	}
	if w.IntN(5) == 0 {
		obs.Replicas.Ready = w.IntN(obs.Replicas.Spec + 1)
		obs.Replicas.Pending = obs.Replicas.Spec - obs.Replicas.Ready
	}
	if w.IntN(50) == 0 {
		obs.TargetError = "no route"
	}
	for _, name := range w.rule.names {
		q := w.rule.Queries[name]
		switch w.IntN(10) {
		case 0, 1, 2:
			w.values[name] = w.Float64() * 200
		case 3:
			w.values[name] *= 0.5
		}
		v := w.values[name]
		a := Answer{Name: name, Value: &v, Series: 1, Confidence: 1, Optional: q.Optional, Block: q.OnMissing == missingBlock}
		switch w.IntN(12) {
		case 0:
			a.Value, a.Confidence, a.Fault, a.Detail = nil, 0, pick(w.draft, MetricMissing, MetricStale, MetricNaN), "fault"
		case 1:
			a.Partial, a.Confidence, a.Fault, a.Detail = true, 0.5, MetricMissing, "1 series of 2 expected"
		case 2:
			a.Confidence = w.Float64()
		}
		obs.Answers = append(obs.Answers, a)
	}
	if w.IntN(4) == 0 {
		obs.Caps = []Cap{{Budget: "gpu", Hard: w.IntN(3) > 0, USDPerHour: w.Float64() * 60, Floor: w.IntN(4)}}
		if w.IntN(5) == 0 {
			obs.Caps[0].Fault = MetricMissing
		}
	}
	return obs
}

// act carries a decision out as a process may that is killed, refused or only observes.
func (w *world) act(d Decision, next State) {
	w.st = next
	do := func() {
		w.size = d.To
		for i, v := range d.Variants {
			w.variants[i] = v.To
		}
		if d.To != d.From {
			w.truth = append(w.truth, change{at: w.now, from: d.From, to: d.To})
		}
	}
	switch chance := w.IntN(20); {
	case !d.changes():
	case chance == 0: // it only observes, or the target refuses
		d.Result = Failed
		w.journal = append(w.journal, d)
	case chance < 4: // it is killed before or after, and does not know
		d.Result = Applying
		w.journal = append(w.journal, d)
		if chance < 3 {
			do()
		}
		w.restart()
		return
	default:
		d.Result = Applied
		w.journal = append(w.journal, d)
		do()
		w.st = w.st.Applied(w.now, d.From, d.To)
	}
	if w.IntN(40) == 0 {
		w.restart()
	}
	if w.IntN(60) == 0 && len(w.variants) == 0 {
		w.size = w.IntN(w.rule.Max + 5) // somebody else
	}
}

func (w *world) restart() {
	w.st = State{}
	for i := range w.journal {
		w.st = w.st.Replay(&w.journal[i])
	}
}

// play lets a rule decide for a while, and says where it breaks what it promises.
func (w *world) play(ticks int) {
	for range ticks {
		w.now = w.now.Add(pick(w.draft, 15*time.Second, 15*time.Second, 15*time.Second, time.Minute))
		if w.IntN(40) == 0 {
			w.now = w.now.Add(time.Duration(w.IntN(10*3600)) * time.Second)
		}
		obs := w.observe()
		before := text(w.st)
		d, next := Decide(w.rule, obs, w.st)
		if after := text(w.st); after != before {
			w.fail("the old state was changed:\n%s\n%s", before, after)
		}
		w.same(obs, d, next)
		w.check(obs, d, next)
		w.act(d, next)
	}
}

// text is all of a state.
func text(st State) string {
	fallback := "none"
	if st.fallback != nil {
		fallback = fmt.Sprint(*st.fallback)
	}
	st.fallback = nil
	return fmt.Sprintf("fallback %s, %+v", fallback, st)
}

// same: the same input gives the same decision bit for bit, and all times shifted by 28 years the same but for its times. After
// so long, until 2100, each date is on the same day of the week again, and so are those on which clocks are set.
func (w *world) same(obs Observation, d Decision, next State) {
	again, nextAgain := Decide(w.rule, obs, w.st)
	if diff := cmp.Diff(written(w.t, d), written(w.t, again)); diff != "" {
		w.fail("not the same twice: %s", diff)
	}
	if text(next) != text(nextAgain) {
		w.fail("not the same state twice:\n%s\n%s", text(next), text(nextAgain))
	}
	const weeks = 1461 * 7 * 24 * time.Hour
	later := obs
	later.At = obs.At.Add(weeks)
	shifted, shiftedNext := Decide(w.rule, later, w.st.shifted(weeks))
	shifted.Time, shifted.ID = d.Time, d.ID
	if diff := cmp.Diff(written(w.t, d), written(w.t, shifted)); diff != "" {
		w.fail("depends on the date: %s", diff)
	}
	if got, want := text(shiftedNext), text(next.shifted(weeks)); got != want {
		w.fail("the state depends on the date:\n%s\n%s", got, want)
	}
}

// check holds a decision to what the rule promises, by what was really done.
func (w *world) check(obs Observation, d Decision, next State) {
	r := w.rule
	if len(d.Reasons) == 0 || slices.ContainsFunc(d.Reasons, func(x Reason) bool { return !slices.Contains(Reasons(), x) }) {
		w.fail("reasons %v", d.Reasons)
	}
	if obs.TargetError != "" {
		if d.changes() {
			w.fail("changed what it could not see: %s", story(d))
		}
		return
	}
	if d.To < r.Min || d.To > r.Max {
		w.fail("outside of %d to %d: %s", r.Min, r.Max, story(d))
	}
	w.bounds(obs, d)
	current := obs.Replicas.Spec
	kept := min(current, r.Max) // only what is absolute makes it smaller
	if len(r.Variants) > 0 {
		kept = 0
		for i, v := range r.Variants {
			kept += min(obs.Variants[i].Spec, v.Max) * v.Capacity
			if to := d.Variants[i].To; to < v.Min || to > v.Max {
				w.fail("variant %s has %d: %s", v.Name, to, story(d))
			}
		}
	}
	missing := slices.ContainsFunc(obs.Answers, func(a Answer) bool { return a.Fault != "" && !a.Optional })
	if missing && d.To < kept && !(r.OnMissing.Down == missingFallback && next.fallback != nil) {
		w.fail("went down from %d on missing data: %s", current, story(d))
	}
	up := d.Damped > current
	if d.Damped < current && slices.Contains(d.LimitedBy, Overdue) { // what is not ready does not wait for windows
		switch {
		case !r.Progress.Rollback, d.Damped < obs.Replicas.Ready, missing:
			w.fail("took back %d of %d, %d ready: %s", current-d.Damped, current, obs.Replicas.Ready, story(d))
		case !slices.ContainsFunc(w.truth, func(c change) bool { return c.to == current && c.from < current }):
			w.fail("took back what it had not asked for: %s", story(d))
		}
		return
	}
	if d.Damped == current {
		return
	}
	// What the stages before the bounds came to keeps to cooldowns, policies and the flap budget.
	dir := r.Behavior.Down
	if up {
		dir = r.Behavior.Up
	}
	turns, lastUp := 0, false
	for i, c := range w.truth {
		age := w.now.Sub(c.at)
		if (c.to > c.from) == up && age < time.Duration(dir.Cooldown) {
			w.fail("%s after the last change in its direction, cooldown %s: %s", age, dir.Cooldown, story(d))
		}
		lastUp = c.to > c.from
		if i > 0 && age < time.Duration(r.FlapBudget.Window) && lastUp != (w.truth[i-1].to > w.truth[i-1].from) {
			turns++
		}
	}
	if !up && lastUp && turns+2 > r.FlapBudget.Reversals {
		w.fail("%d turns, and none is left for the way back: %s", turns, story(d))
	}
	if len(dir.Policies) == 0 {
		return
	}
	_, unit := (&pipeline{rule: r}).unit()
	allowed := 0 // the most that any policy allows
	for _, policy := range dir.Policies {
		start := current
		for _, c := range w.truth {
			if w.now.Sub(c.at) < time.Duration(policy.Period) {
				start -= c.to - c.from
			}
		}
		by := policy.Replicas * unit
		if policy.Percent > 0 && up {
			by = int(math.Ceil(float64(start)*(1+policy.Percent/100))) - start
		} else if policy.Percent > 0 {
			by = start - int(math.Floor(float64(start)*(1-policy.Percent/100)))
		}
		if up {
			allowed = max(allowed, start+by-current)
		} else {
			allowed = max(allowed, current-(start-by))
		}
	}
	if moved := max(d.Damped-current, current-d.Damped); moved > allowed {
		w.fail("moves by %d, policies allow %d: %s\ntruth %+v", moved, allowed, story(d), w.truth)
	}
}

// bounds holds a decision to the schedules, and to constraints that depend on the time of the week alone.
func (w *world) bounds(obs Observation, d Decision) {
	r := w.rule
	lowest, highest := r.Min, r.Max
	bound := func(least, most *int) {
		if least != nil {
			lowest = max(lowest, min(*least, r.Max))
		}
		if most != nil {
			highest = min(highest, max(*most, r.Min))
		}
	}
	for i := range r.Schedule {
		if s := &r.Schedule[i]; s.active(w.now) {
			bound(s.Min, s.Max)
		}
	}
	for _, c := range r.Constraints {
		if strings.HasPrefix(c.If, "window(") && inWindow(w.t, c.If, w.now) {
			bound(c.Min, c.Max)
		}
	}
	if slices.ContainsFunc(obs.Answers, func(a Answer) bool { return a.Fault != "" && !a.Optional }) {
		highest = max(highest, min(obs.Replicas.Spec, r.Max)) // what is missing makes nothing smaller
	}
	if len(r.Variants) == 0 && (d.To > highest || d.To < min(lowest, d.Replicas.Max)) {
		w.fail("outside of the %d to %d of this time, or of at most %d by a constraint: %s", lowest, highest, d.Replicas.Max, story(d))
	}
}

// inWindow says whether a condition that is a window holds, by the minutes of the week.
func inWindow(t *testing.T, condition string, at time.Time) bool {
	parts := strings.FieldsFunc(condition, func(r rune) bool { return strings.ContainsRune("()' ", r) }) // window DAYS HOURS , ZONE
	return inHours(parts[1], parts[2], at.In(zone(t, parts[4])))
}

func inHours(days, hours string, local time.Time) bool {
	var fromHour, fromMinute, toHour, toMinute int
	if n, err := fmt.Sscanf(hours, "%d:%d-%d:%d", &fromHour, &fromMinute, &toHour, &toMinute); n < 4 {
		panic(err)
	}
	const day, week = 24 * 60, 7 * 24 * 60
	from, lasts := fromHour*60+fromMinute, ((toHour-fromHour)*60+toMinute-fromMinute+day-1)%day+1
	now := int(local.Weekday())*day + local.Hour()*60 + local.Minute()
	on := map[string][]int{"Mon-Fri": {1, 2, 3, 4, 5}, "Sat,Sun": {6, 0}, "Sun-Mon,Wed": {0, 1, 3}, "Fri-Sun": {5, 6, 0}}[days]
	return slices.ContainsFunc(on, func(d int) bool { return (now-d*day-from+2*week)%week < lasts })
}

// TestProperties plays random rules over random metrics, faults, refusals, kills and other people's changes.
func TestProperties(t *testing.T) {
	rules := 200
	if testing.Short() || underRace {
		rules = 50
	}
	for seed := range uint64(rules) {
		newWorld(t, seed, false).play(80)
	}
}

// FuzzProperties looks for a rule and a run of events that break a promise.
func FuzzProperties(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { newWorld(t, seed, false).play(60) })
}

// more: at any moment of a run, more of every demand never gets fewer replicas. It holds for a single evaluation of a rule
// whose signals are queries, that combines by max or by weight, whose steps go up from a demand on, and whose bounds do
// not depend on the demand. A step or a constraint that its author ties to less demand may say otherwise, and so may the
// highest class of combine: priority, which decides alone; and of variants the one that happens to fit may be larger.
func (w *world) more() {
	obs := w.observe()
	less, _ := Decide(w.rule, obs, w.st)
	obs.Answers = slices.Clone(obs.Answers)
	for i := range obs.Answers {
		if v := obs.Answers[i].Value; v != nil {
			larger := *v + pick(w.draft, 0, w.Float64(), w.Float64()*50, *v)
			obs.Answers[i].Value = &larger
		}
	}
	more, _ := Decide(w.rule, obs, w.st)
	if more.To < less.To {
		w.fail("more demand, fewer replicas:\n%s\n%s", story(less), story(more))
	}
}

func TestMoreDemandNeverFewer(t *testing.T) {
	rules := 200
	if testing.Short() || underRace {
		rules = 50
	}
	for seed := range uint64(rules) {
		w := newWorld(t, seed, true)
		for range 60 {
			w.play(1)
			w.more()
		}
	}
}

// FuzzMoreDemand looks for a rule and a state in which more demand gets fewer replicas.
func FuzzMoreDemand(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, true)
		for range 40 {
			w.play(1)
			w.more()
		}
	})
}
