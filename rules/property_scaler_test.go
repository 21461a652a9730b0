package rules

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

// cell is what a metric is for one target.
type cell struct {
	value  float64
	age    time.Duration
	absent bool // there is no series
	ended  bool // its last scrape failed
	twice  bool // there are two series
}

// plane is a Querier of random metrics. Those of the target "" have no label: they are everybody's.
type plane struct {
	draft
	cells  map[string]map[string]cell // by metric and target
	broken map[string]bool            // "a": the metric cannot be asked, "age a": its age cannot
	only   string                     // the one target whose series there are; "": all
}

func newPlane(r draft) *plane {
	return &plane{draft: r, cells: map[string]map[string]cell{"a": {}, "b": {}, "c": {}, "n": {}}, broken: map[string]bool{}}
}

// turn makes new series of those of the last evaluation.
func (p *plane) turn(targets ...string) {
	clear(p.broken)
	for _, metric := range []string{"a", "b", "c"} {
		for _, target := range targets {
			c := p.cells[metric][target]
			c = cell{value: c.value, age: time.Duration(p.IntN(15)) * time.Second}
			if p.IntN(3) == 0 || math.IsNaN(c.value) {
				c.value = p.Float64() * pick(p.draft, 5, 30, 60, 200.0)
			}
			switch p.IntN(100) {
			case 0, 1:
				c.absent = true
			case 2:
				c.value = math.NaN()
			case 3:
				c.age = 10 * time.Minute
			case 4:
				c.age = time.Duration(p.IntN(60)) * time.Second
			case 5:
				c.ended = true
			case 6:
				c.twice = true
			}
			p.cells[metric][target] = c
		}
		p.broken[metric], p.broken["age "+metric] = p.IntN(60) == 0, p.IntN(60) == 0
	}
}

func (p *plane) Query(_ context.Context, expr string, at time.Time, _ time.Duration) (all []Sample, err error) {
	metric, key := expr, expr
	_, of, aged := strings.Cut(expr, "timestamp(")
	if aged {
		metric = of[:1]
		key = "age " + metric
	}
	if p.broken[key] {
		return nil, fmt.Errorf("%s: timeout", key)
	}
	targets := sortedKeys(p.cells[metric])
	if len(targets) > 0 && targets[0] == "" { // after a target's own
		targets = append(targets[1:], "")
	}
	for _, target := range targets {
		c := p.cells[metric][target]
		if c.absent || p.only != "" && target != p.only && target != "" {
			continue
		}
		add := func(v float64, more ...string) {
			if target != "" {
				more = append(more, "model", target)
			}
			all = append(all, Sample{Labels: labels.FromStrings(more...), Value: v, Time: at})
		}
		switch {
		case aged && c.ended:
			add(0)
		case aged:
			add(float64(at.Add(-c.age).UnixMilli()) / 1000)
		default:
			add(c.value)
			if c.twice {
				add(c.value, "instance", "2")
			}
		}
	}
	return all, nil
}

// killed is what ends the process.
type killed struct{}

// account is a journal that cannot always be written, and in which the process may end.
type account struct {
	changes map[string][]*Decision // by target, what journal.Journal replays
	last    *Decision
	appends int
	full    func(d *Decision, n int) bool // whether the n-th of this evaluation cannot be written
	dies    func(n int) (before, after bool)
}

func newAccount() *account {
	return &account{changes: map[string][]*Decision{}, full: func(*Decision, int) bool { return false }, dies: func(int) (bool, bool) { return false, false }}
}

func (l *account) Append(d *Decision) error {
	l.appends++
	before, after := l.dies(l.appends)
	if before {
		panic(killed{})
	}
	if l.full(d, l.appends) {
		return errors.New("no space left on device")
	}
	stored := *d
	stored.Variants = slices.Clone(d.Variants)
	l.last = &stored
	l.changes[d.Target] = Changes(l.changes[d.Target], &stored)
	if after {
		panic(killed{})
	}
	return nil
}

// memory is what a process knows that reads it.
func (l *account) memory() *Memory {
	m := &Memory{}
	for _, target := range sortedKeys(l.changes) {
		for _, d := range l.changes[target] {
			m.Replay(d)
		}
	}
	return m
}

// Fates of a change.
const (
	refused = 1 + iota
	meddled // somebody else comes first
	lost    // it is done, and the answer does not arrive
	diesBefore
	diesAfter
)

// moody is a platform that does not always do as it is told.
type moody struct {
	*actuatortest.Fake
	blind   map[string]bool // by target: it cannot be observed
	fate    map[string]int
	meddled map[string]bool                          // by somebody else, in this evaluation
	lost    bool                                     // an answer was, in this evaluation
	asks    func(actuators.Target, actuators.Change) // sees each change that is asked for
}

func (m *moody) Observe(ctx context.Context, target actuators.Target) (actuators.State, error) {
	if m.blind[target.Name] {
		return actuators.State{}, errors.New("no route")
	}
	return m.Fake.Observe(ctx, target)
}

func (m *moody) Apply(ctx context.Context, target actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	if m.asks != nil {
		m.asks(target, c)
	}
	switch m.fate[target.Name] {
	case refused:
		return actuators.Receipt{}, errors.New("no capacity")
	case lost:
		if _, err := m.Fake.Apply(ctx, target, c); err != nil {
			return actuators.Receipt{}, err
		}
		m.lost = true
		return actuators.Receipt{}, errors.New("connection reset by peer")
	case meddled:
		m.Resize(target, m.size(target.Name)+1)
		m.meddled[target.Name] = true
	case diesBefore:
		panic(killed{})
	case diesAfter:
		if _, err := m.Fake.Apply(ctx, target, c); err != nil {
			return actuators.Receipt{}, err
		}
		panic(killed{})
	}
	return m.Fake.Apply(ctx, target, c)
}

func (m *moody) size(name string) int {
	state, err := m.Fake.Observe(context.Background(), actuators.Target{Kind: "process", Name: name})
	if err != nil {
		panic(err)
	}
	return state.Spec
}

func newRandomScaler(rule *Scale, data Querier, hands *moody, l *account) *Scaler {
	return NewScaler(rule, ScalerOptions{
		Querier: data, Actuators: map[string]actuators.Actuator{"process": hands}, Journal: l,
		Metrics: NewMetrics(prometheus.NewRegistry()), Memory: l.memory(), Acting: true,
	})
}

// machine is a random rule in a Scaler, and all that it works with.
type machine struct {
	*world
	data    *plane
	hands   *moody
	account *account
	scaler  *Scaler
	foreign bool // somebody else changed a size after the journal last told one
	asked   []change
	failed  bool
	seen    map[string]int // how often what is to be played was
}

func newMachine(t *testing.T, seed uint64) *machine {
	m := &machine{seen: map[string]int{}, world: newWorld(t, seed, false), account: newAccount()}
	for more := seed; seed%2 == 0 && len(m.variants) == 0; { // every other one has variants
		more += 1 << 20
		m.world = newWorld(t, more, false)
	}
	m.rule.Mode = Act
	m.data = newPlane(m.draft)
	m.hands = &moody{Fake: &actuatortest.Fake{Clock: func() time.Time { return m.now }, ReadyAfter: time.Duration(m.IntN(2)*m.IntN(90)) * time.Second}, blind: map[string]bool{}, fate: map[string]int{}, asks: m.asks}
	for i, target := range m.targets() {
		n := m.size
		if len(m.variants) > 0 {
			n = m.variants[i]
		}
		m.hands.Resize(target, n)
	}
	m.scaler = newRandomScaler(m.rule, m.data, m.hands, m.account)
	return m
}

func (m *machine) targets() []actuators.Target {
	if len(m.rule.Variants) == 0 {
		return []actuators.Target{m.rule.Target}
	}
	var all []actuators.Target
	for _, v := range m.rule.Variants {
		all = append(all, v.Target)
	}
	return all
}

// limits are those of one target, and what a replica of it counts.
func (m *machine) limits(i int) (least, most, unit int) {
	if len(m.rule.Variants) == 0 {
		return m.rule.Min, m.rule.Max, 1
	}
	v := m.rule.Variants[i]
	return v.Min, v.Max, v.Capacity
}

func (m *machine) sizes() (all []int, total int) {
	for i, target := range m.targets() {
		_, _, unit := m.limits(i)
		all = append(all, m.hands.size(target.Name))
		total += all[i] * unit
	}
	return all, total
}

// asks sees that nothing is asked for which is not in the journal, and nothing made smaller after something did not grow.
func (m *machine) asks(target actuators.Target, c actuators.Change) {
	last := m.account.last
	id, _, _ := strings.Cut(c.DecisionID, "/")
	if last == nil || last.ID != id || last.Result != Applying {
		m.fail("%s is asked for %d, and the journal ends with %+v", target, c.To, last)
	}
	if c.To > c.From && len(m.asked) > 0 && m.asked[len(m.asked)-1].to < m.asked[len(m.asked)-1].from {
		m.fail("%s is to grow after another was made smaller", target)
	}
	if c.To < c.From && m.failed {
		m.fail("%s is to be smaller, and another did not grow", target)
	}
	m.asked = append(m.asked, change{from: c.From, to: c.To})
	fate := m.hands.fate[target.Name]
	m.failed = m.failed || c.To > c.From && (fate == refused || fate == meddled || fate == lost)
}

// unanswered says that nobody knows yet what became of the last change. Were the size then set by somebody else, nobody ever
// would.
func (m *machine) unanswered() bool {
	changes := m.account.changes[m.rule.Key()]
	return len(changes) > 0 && changes[len(changes)-1].Unanswered != nil
}

func (m *machine) step() {
	m.now = m.now.Add(pick(m.draft, 15*time.Second, 15*time.Second, time.Minute, 2*time.Minute))
	m.data.turn("")
	clear(m.hands.blind)
	clear(m.hands.fate)
	for i, target := range m.targets() {
		if _, most, _ := m.limits(i); m.IntN(30) == 0 && !m.unanswered() {
			m.hands.Resize(target, m.IntN(most+5))
			m.foreign = true
		}
	}
	for _, target := range m.targets() {
		m.hands.blind[target.Name] = m.IntN(60) == 0
		switch m.IntN(20) {
		case 0, 1, 2:
			m.hands.fate[target.Name] = refused
		case 3:
			m.hands.fate[target.Name] = meddled
		case 4:
			m.hands.fate[target.Name] = pick(m.draft, diesBefore, diesAfter)
		case 5:
			m.hands.fate[target.Name] = lost
		}
	}
	m.account.full = func(*Decision, int) bool { return false }
	m.account.dies = func(int) (bool, bool) { return false, false }
	if err := m.scaler.settle(m.t.Context(), m.scaler.order[0], look(m.t, m.scaler, m.now)); err != nil {
		m.fail("%s", err)
	}
	full, dies, after := m.IntN(12), m.IntN(120), m.IntN(2) == 0 // the first two of which are appends
	m.account.appends = 0
	m.account.full = func(_ *Decision, n int) bool { return n == full }
	m.account.dies = func(n int) (bool, bool) { return n == dies && !after, n == dies && after }

	before, was := m.sizes()
	obs := look(m.t, m.scaler, m.now)
	d, next := Decide(m.rule, obs, m.scaler.noticed(m.scaler.order[0], obs, m.scaler.order[0].state))
	m.check(obs, d, next)
	m.asked, m.failed, m.hands.meddled, m.hands.lost = nil, false, map[string]bool{}, false
	alive := m.eval()
	now, is := m.sizes()
	if full == 1 && is != was {
		m.fail("changed from %v to %v what could not be recorded", before, now)
	}
	own := is // but for what somebody else did meanwhile
	for i := range now {
		least, most, unit := m.limits(i)
		if m.hands.meddled[m.targets()[i].Name] {
			own -= (now[i] - before[i]) * unit
		}
		wanted := d.To
		if len(d.Variants) > 0 {
			wanted = d.Variants[i].To
		}
		if now[i] != before[i] && !m.hands.meddled[m.targets()[i].Name] && (now[i] != wanted || now[i] < least || now[i] > most) {
			m.fail("%s went from %d to %d, wanted %d within %d to %d", m.targets()[i], before[i], now[i], wanted, least, most)
		}
	}
	if own != was {
		m.truth = append(m.truth, change{at: m.now, from: was, to: own})
		m.foreign = m.foreign && m.account.last.Result == Failed
	}
	meddling := len(m.hands.meddled) > 0
	m.foreign = m.foreign || meddling || m.hands.lost
	if alive {
		m.told(d, now, is, meddling)
	}
	if !alive {
		m.seen["killed"]++
	}
	if !alive || m.IntN(40) == 0 {
		m.again(now)
	}
}

// eval is one evaluation, and says whether the process outlived it.
func (m *machine) eval() (alive bool) {
	defer func() {
		if v := recover(); v != nil {
			if _, ok := v.(killed); !ok {
				panic(v)
			}
			alive = false
		}
	}()
	_, err := m.scaler.Eval(m.t.Context(), m.now)
	if err != nil && !strings.Contains(err.Error(), "no space left") {
		m.fail("%s", err)
	}
	return true
}

// told holds what the Scaler says, and remembers, to what became of the targets.
func (m *machine) told(d Decision, now []int, is int, meddling bool) {
	got, st := *m.scaler.Last(), m.scaler.order[0].state
	if got.From != d.From || got.Damped != d.Damped || got.Text != d.Text {
		m.fail("decided %s, and not %s", story(got), story(d))
	}
	if m.hands.lost {
		m.seen["lost"]++
	}
	if slices.Contains(d.Reasons, ActuatorError) || meddling || m.hands.lost {
		return // it was not seen, or is no more as it was
	}
	if st.Replicas != is || !st.Known {
		m.fail("there are %d of it, remembered are %d: %s %s", is, st.Replicas, got.Result, story(got))
	}
	m.seen[string(got.Result)]++
	if got.Result != Applied && got.Result != Failed {
		return
	}
	if got.Result == Applied && got.Error != "" {
		m.seen["in part"]++
	}
	if m.failed && got.To < d.To {
		m.seen["short"]++
	}
	for i, v := range got.Variants {
		if v.To != now[i] {
			m.fail("variant %s has %d, and the decision says %d: %s", v.Name, now[i], v.To, story(got))
		}
	}
	if got.Result == Applied && got.To != is {
		m.fail("there are %d, and the decision says %d", is, got.To)
	}
}

// again starts another process on the journal, at times on a machine that has lost its replicas as well.
func (m *machine) again(was []int) {
	m.account.full = func(*Decision, int) bool { return false }
	m.account.dies = func(int) (bool, bool) { return false, false }
	m.scaler = newRandomScaler(m.rule, m.data, m.hands, m.account)
	if m.IntN(3) > 0 || m.unanswered() {
		return
	}
	m.hands.Fake = &actuatortest.Fake{Clock: m.hands.Clock, ReadyAfter: m.hands.ReadyAfter}
	clear(m.hands.blind)
	clear(m.hands.fate)
	m.hands.asks = nil
	defer func() { m.hands.asks = m.asks }()
	all := make([]int, len(was))
	sure := len(m.account.changes[m.rule.Key()]) > 0 && !m.foreign
	for _, d := range m.account.changes[m.rule.Key()] {
		sure = sure && (d != m.account.changes[m.rule.Key()][len(m.account.changes[m.rule.Key()])-1] || d.Result == Applied)
	}
	for i, target := range m.targets() {
		if n, known := m.scaler.opts.Memory.Size(target.String()); known {
			if sure {
				m.seen["remembered"]++
			}
			if all[i] = n; sure && n != was[i] {
				m.fail("%s had %d, and %d are remembered", target, was[i], n)
			}
		} else {
			all[i] = 2
		}
		least, most, _ := m.limits(i)
		all[i] = min(max(all[i], least), most)
	}
	if _, err := m.scaler.Restore(m.t.Context(), m.now, "process", func(string) int { return 2 }); err != nil {
		m.fail("%s", err)
	}
	if now, _ := m.sizes(); !slices.Equal(now, all) {
		m.fail("after a restart there are %v, not %v", now, all)
	}
	m.foreign = true // what somebody else had made of it may be gone
}

// TestScalerProperties plays random rules in whole Scalers: queries that fail, targets that cannot be seen or refuse in part,
// journals that are full, processes that end at any moment and machines that come up without a replica.
func TestScalerProperties(t *testing.T) {
	rules := 300
	if testing.Short() || underRace {
		rules = 60
	}
	seen := map[string]int{}
	for seed := range uint64(rules) {
		m := newMachine(t, seed)
		for range 100 {
			m.step()
		}
		for what, n := range m.seen {
			seen[what] += n
		}
	}
	for _, what := range []string{"applied", "error", "unrecorded", "killed", "in part", "short", "lost", "remembered"} {
		if seen[what] < rules/30 {
			t.Errorf("%s was played %d times in %d rules: too seldom to judge by", what, seen[what], rules)
		}
	}
	t.Logf("%d rules: %v", rules, seen)
}

// FuzzScaler looks for a rule and a run of events that break a promise of a Scaler.
func FuzzScaler(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		m := newMachine(t, seed)
		for range 40 {
			m.step()
		}
	})
}

// TestForEachAlone: what a rule for many targets decides for each is, bit for bit, what the same rule decides that is for this
// target alone and sees no series of another's: whatever comes, goes, is old or no number, cannot be written or refuses.
func TestForEachAlone(t *testing.T) {
	rules := 120
	if testing.Short() || underRace {
		rules = 12
	}
	decisions, over, forgotten := 0, 0, 0
	for seed := range uint64(rules) {
		r := draft{rand.New(rand.NewPCG(seed, 5))}
		const one = "target: {kind: process, name: digits}"
		query, common := pick(r, "", ", query: n"), r.IntN(3) == 0 // c has one series, for all of them
		var many *Scale
		var text string
		for many == nil {
			text = r.file(false)
			all := strings.Replace(text, one, "mode: act\n    for_each: {by: [model], limit: 4, forget: 3m"+query+"}\n    target: {kind: process, name: 'm-{{ $labels.model }}'}", 1)
			if f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(all)); err == nil && strings.Contains(text, one) {
				many = f.Groups[0].Rules[0].Scale
			}
		}
		names := []string{"a", "b", "c", "d", "e"}
		hands := func() *moody {
			m := &moody{Fake: &actuatortest.Fake{}, meddled: map[string]bool{}}
			for i, name := range names {
				m.Resize(actuators.Target{Kind: "process", Name: "m-" + name}, i*2)
			}
			return m
		}
		data := newPlane(r)
		now, blind, fate, full := noon, map[string]bool{}, map[string]int{}, map[string]bool{}
		limited := func() *account {
			l := newAccount()
			l.full = func(d *Decision, _ int) bool { return full[d.Target] }
			return l
		}
		together, own := hands(), hands()
		together.blind, own.blind, together.fate, own.fate = blind, blind, fate, fate
		book, books, alone := limited(), map[string]*account{}, map[string]*Scaler{}
		each := newRandomScaler(many, data, together, book)
		restart := func() {
			each = newRandomScaler(many, data, together, book)
			for _, name := range names {
				if books[name] == nil {
					books[name] = limited()
				}
				see := *data
				see.only = name
				alone[name] = newRandomScaler(parseScale(t, strings.Replace(text, one, "mode: act\n    target: {kind: process, name: m-"+name+"}", 1)), &see, own, books[name])
			}
		}
		restart()
		seen, there := map[string]time.Time{}, map[string]bool{}
		for range 60 {
			now = now.Add(pick(r, 15*time.Second, 15*time.Second, time.Minute))
			data.turn(append(names, "")...)
			for _, metric := range []string{"a", "b"} {
				data.cells[metric][""] = cell{absent: true}
			}
			data.cells["c"][""] = cell{value: data.cells["c"][""].value, absent: data.cells["c"][""].absent || !common}
			for _, name := range names {
				if r.IntN(15) == 0 {
					there[name] = !there[name]
				}
				for _, metric := range []string{"a", "b", "c", "n"} {
					c := data.cells[metric][name]
					c.absent = c.absent && metric != "n" || !there[name] || common && metric == "c" && r.IntN(9) > 0
					data.cells[metric][name] = c
				}
				blind["m-"+name], fate["m-"+name], full["process/m-"+name] = r.IntN(40) == 0, r.IntN(10)/9*refused, r.IntN(40) == 0
			}
			if r.IntN(40) == 0 {
				clear(seen)
				restart()
			}
			found := map[string]bool{}
			for name := range there {
				for _, metric := range []string{"a", "b", "c", "n"} {
					named := query != "" && metric == "n" || query == "" && slices.ContainsFunc(many.Signals, func(g Signal) bool { return g.value.needs(metric) })
					if named && !data.broken[metric] && !data.cells[metric][name].absent {
						found[name] = true
					}
				}
			}
			sizes := func(m *moody) (all []int) {
				for _, name := range names {
					all = append(all, m.size("m-"+name))
				}
				return all
			}
			before := sizes(together)
			_, err := each.Eval(t.Context(), now)
			if len(found) > 4 {
				if over++; err == nil || !slices.Equal(before, sizes(together)) {
					t.Fatalf("seed %d: %d targets, sizes %v to %v, %v", seed, len(found), before, sizes(together), err)
				}
				continue
			}
			for name := range found {
				seen[name] = now
			}
			got := map[string]string{}
			for _, d := range each.Decisions() {
				plain := *d
				plain.Labels = nil
				got[d.Target] = written(t, plain)
			}
			want, failed := map[string]string{}, false
			for _, name := range sortedKeys(seen) {
				if now.Sub(seen[name]) > 3*time.Minute {
					delete(seen, name)
					forgotten++
					continue
				}
				_, err := alone[name].Eval(t.Context(), now)
				failed = failed || err != nil
				want["process/m-"+name] = written(t, *alone[name].Last())
				decisions++
			}
			if diff := cmp.Diff(want, got); diff != "" || failed != (err != nil) {
				t.Fatalf("seed %d at %s: alone (-), for each (+), %v: %s\n%s", seed, now.Format(time.TimeOnly), err, diff, text)
			}
			if !slices.Equal(sizes(together), sizes(own)) {
				t.Fatalf("seed %d: sizes %v, alone %v", seed, sizes(together), sizes(own))
			}
		}
	}
	if t.Logf("%d decisions, %d times too many targets, %d forgotten", decisions, over, forgotten); decisions < 20*rules || over < rules/10 || forgotten < rules/10 {
		t.Error("too seldom to judge by")
	}
}
