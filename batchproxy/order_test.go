package batchproxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fourClasses are the default ones.
func fourClasses() []Class { return ModelConfig{}.classes() }

const (
	critical = iota
	high
	normal
	low
)

// TestOrder: what leaves first when a replica gets free.
func TestOrder(t *testing.T) {
	start := time.Unix(0, 0)
	at := func(n float64) time.Time { return start.Add(ms(n)) }
	type arrival struct {
		at       float64 // ms
		class    int
		deadline float64 // ms, 0 without
	}
	for _, tt := range []struct {
		name     string
		arrivals []arrival
		want     []int
	}{
		{"one class: as they came", []arrival{{0, normal, 0}, {1, normal, 0}, {1, normal, 0}}, []int{0, 1, 2}},
		{"by class", []arrival{{0, low, 0}, {1, normal, 0}, {2, high, 0}, {3, critical, 0}}, []int{3, 2, 1, 0}},
		{"a class is ahead by the difference of the budgets", []arrival{{0, normal, 0}, {74, critical, 0}, {76, critical, 0}}, []int{1, 0, 2}},
		{"low waits for its budget and no longer", []arrival{{0, low, 0}, {299, normal, 0}, {301, normal, 0}}, []int{1, 0, 2}},
		{"the sooner deadline", []arrival{{0, normal, 0}, {1, normal, 90}, {2, normal, 50}}, []int{2, 1, 0}},
		{"a deadline that is far off moves nobody", []arrival{{0, normal, 0}, {1, normal, 5000}, {2, normal, 0}}, []int{0, 1, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 1, Timeout: time.Minute, MaxQueue: 100, Classes: fourClasses()})
			for i, a := range tt.arrivals {
				terms := Terms{Class: a.class}
				if a.deadline > 0 {
					terms.Deadline = at(a.deadline)
				}
				// Lanes keep nobody behind: the order is over all of them.
				if _, why := b.Admit(at(a.at), fmt.Appendf(nil, "lane %d", i%2), 1, i, terms); why != "" {
					t.Fatal(why)
				}
			}
			now := at(tt.arrivals[len(tt.arrivals)-1].at)
			var got []int
			for {
				out, ok := b.Next(now, false)
				if !ok {
					break
				}
				for _, e := range out.Entries {
					got = append(got, e.Request)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// known makes a batcher know how long batches take.
func known(b *Batcher[int], now time.Time, intercept, slope float64) {
	for range 4 {
		for _, n := range []int{1, 8, 16, 32} {
			b.service.add(n, (intercept+slope*float64(n))/1e3)
		}
	}
	b.tune(now)
}

// TestAdmission: who is refused at arrival, and why. The replica takes 8 + 0.25 n ms and is busy for another 16 ms.
func TestAdmission(t *testing.T) {
	start := time.Unix(0, 0)
	for _, tt := range []struct {
		name    string
		slo     float64 // ms
		ahead   int     // rows of class normal
		slots   int
		busy    int
		class   int
		within  float64 // ms: the deadline; 0 without
		want    Refusal
		forgets bool // nothing is known of the replicas
	}{
		{name: "neither SLO nor deadline", ahead: 90, slots: 1, busy: 1},
		// 1.1·(16 + 5·16 + 16) ms
		{name: "late", slo: 100, ahead: 160, slots: 1, busy: 1, want: PredictedLate},
		// 1.1·(16 + 4·16 + 16)
		{name: "hardly in time", slo: 100, ahead: 128, slots: 1, busy: 1, want: PredictedLate},
		// 1.1·(16 + 3·16 + 16)
		{name: "in time", slo: 100, ahead: 120, slots: 1, busy: 1},
		{name: "two replicas take half the time", slo: 100, ahead: 160, slots: 2, busy: 2},
		{name: "late for its client alone", ahead: 160, slots: 1, busy: 1, within: 100, want: PredictedLate},
		{name: "a more urgent one passes", slo: 100, ahead: 160, slots: 1, busy: 1, class: critical},
		{name: "nothing is known yet", slo: 100, ahead: 160, slots: 1, busy: 1, forgets: true},
		{name: "no replica can answer before", ahead: 1, slots: 1, busy: 1, within: 8, want: PastDeadline},
		{name: "past", ahead: 0, slots: 1, busy: 0, within: -1, want: PastDeadline},
		// What was learned may be wrong: an idle replica tries.
		{name: "an idle replica tries", ahead: 0, slots: 1, busy: 0, within: 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 32, Timeout: time.Minute, MaxQueue: 1000, SLO: ms(tt.slo), Classes: fourClasses()})
			if !tt.forgets {
				known(b, start, 8, 0.25)
			}
			lane := []byte("lane")
			for i := range 32 {
				b.Arrive(start, lane, 1, i)
			}
			b.Next(start, false) // is with the replica
			for i := range tt.ahead {
				if _, why := b.Admit(start, lane, 1, i, Terms{Class: normal}); why != "" {
					t.Fatalf("the %d. of those ahead: %s", i, why)
				}
			}
			b.Replicas(tt.slots, tt.busy, tt.busy)
			terms := Terms{Class: normal}
			if tt.class != 0 || tt.name == "a more urgent one passes" {
				terms.Class = tt.class
			}
			if tt.within != 0 {
				terms.Deadline = start.Add(ms(tt.within))
			}
			if _, got := b.Admit(start, lane, 1, 0, terms); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestLostAtDequeue: one that was expected to be in time and would not be is not sent.
func TestLostAtDequeue(t *testing.T) {
	start := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 4, Timeout: time.Minute, MaxQueue: 1000, SLO: ms(100)})
	known(b, start, 8, 0.25)
	b.Replicas(1, 1, 1)
	lane := []byte("lane")
	for i, within := range []float64{1000, 40, 60, 1000} {
		if _, why := b.Admit(start, lane, 1, i, Terms{Deadline: start.Add(ms(within))}); why != "" {
			t.Fatal(why)
		}
	}
	later := start.Add(ms(50.5)) // than the second's deadline; the third is late in a batch of all, by a tenth of it
	out, ok := b.Next(later, false)
	if !ok || out.Items != 2 {
		t.Fatalf("a batch of %d rows, want 2", out.Items)
	}
	got := map[int]Refusal{}
	for _, lost := range b.Lost() {
		got[lost.Entry.Request] = lost.Reason
	}
	if diff := cmp.Diff(map[int]Refusal{1: PastDeadline, 2: PredictedLate}, got); diff != "" {
		t.Error(diff)
	}
	if b.Len() != 0 {
		t.Errorf("%d are still there", b.Len())
	}
}

// TestExpiredDeadline: what no replica can answer in time is not kept until one is free.
func TestExpiredDeadline(t *testing.T) {
	start := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 4, Timeout: time.Second, MaxQueue: 1000})
	known(b, start, 8, 0.25)
	b.Replicas(1, 1, 1)
	lane := []byte("lane")
	b.Admit(start, lane, 1, 0, Terms{})
	b.Admit(start, lane, 1, 1, Terms{Deadline: start.Add(ms(40))})
	due := start.Add(ms(40 - 8.25))
	if got := b.Wake(false); !got.Equal(due) {
		t.Errorf("wakes at %v, want %v", got.Sub(start), due.Sub(start))
	}
	if got := b.Expired(due.Add(-1)); len(got) != 0 {
		t.Errorf("%v expired too soon", got)
	}
	if got := b.Expired(due); len(got) != 1 || got[0].Entry.Request != 1 || got[0].Reason != PastDeadline {
		t.Errorf("%v expired, want the second for its deadline", got)
	}
	if got := b.Expired(start.Add(time.Second)); len(got) != 1 || got[0].Reason != TimedOut {
		t.Errorf("%v expired, want the first for the timeout", got)
	}
}

// TestOverload: of 1.25 times what the replica can do, within an SLO of 100 ms at least 95 % of what it can do is answered, and the
// queue is bounded by that. Without an SLO nothing is refused.
func TestOverload(t *testing.T) {
	for _, mode := range []Mode{ModeAdaptive, ModeGreedy, ModeTimeout} {
		for _, slo := range []float64{100, 0} {
			s := newSimulation(policy{name: string(mode), mode: mode, wait: ms(10)}, 8, 0.25, 1)
			s.batcher.rule.SLO, s.batcher.rule.Objective = ms(slo), ObjectiveBalanced
			came, good, refused, longest := 0, 0, 0, 0
			var next func()
			next = func() {
				s.at(s.now.Add(time.Duration(s.random.ExpFloat64()/2500*float64(time.Second))), next)
				came++
				busy := 0
				if s.busy {
					busy = 1
				}
				s.batcher.Replicas(1, busy, busy)
				if _, why := s.batcher.Admit(s.now, simulated, 1, came, Terms{}); why != "" {
					refused++
				} else {
					s.arrivals[came] = s.now
				}
				longest = max(longest, s.batcher.Len())
				s.pump()
			}
			s.at(s.now, next)
			s.come = func(s *simulation, ended time.Time, batch []int) {}
			s.answeredAfter = func(took time.Duration) {
				if took <= ms(100) {
					good++
				}
			}
			const seconds = 20
			s.run(seconds * time.Second)
			perSecond := float64(good) / seconds
			t.Logf("%s, SLO %v ms: %.0f/s in time of 2000/s, %d of %d refused, at most %d queued", mode, slo, perSecond, refused, came, longest)
			if slo == 0 {
				if refused > 0 {
					t.Errorf("%s: %d are refused without an SLO", mode, refused)
				}
				continue
			}
			if perSecond < 0.95*2000 {
				t.Errorf("%s: %.0f requests/s in time, want 95 %% of 2000", mode, perSecond)
			}
			if longest > 400 {
				t.Errorf("%s: %d requests in the queue, which is more than are answered in 200 ms", mode, longest)
			}
		}
	}
}

// TestTenantsShare: of tenants that send more than there is room for, in one lane or in one each, each gets its weight's part of the rows,
// and one that sends little gets all that it sends.
func TestTenantsShare(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 3))
		weights := map[string]float64{"a": 1, "b": 2, "c": 1, "little": 1}
		names := []string{"a", "b", "c", "little"}
		ownLanes := seed%2 == 1
		b := NewBatcher[string](Rule{Mode: ModeGreedy, MaxSize: 16, Timeout: time.Hour, MaxQueue: 1 << 20, Tenants: true, Weights: weights, Classes: fourClasses()})
		now := time.Unix(0, 0)
		rows, sent, littleSent := map[string]float64{}, 0.0, 0.0
		for range 2000 {
			now = now.Add(ms(10))
			for range 12 + random.IntN(40) { // 32 on average, of 16 that leave
				name := names[random.IntN(3)]
				if random.IntN(3) == 0 {
					name = "a" // sends most of all
				}
				arrive(b, now, ownLanes, name, 1+random.IntN(2), random.IntN(4))
			}
			if random.IntN(10) == 0 {
				littleSent++
				arrive(b, now, ownLanes, "little", 1, normal)
			}
			out, ok := b.Next(now, false)
			if !ok {
				t.Fatal("nothing leaves")
			}
			for _, e := range out.Entries {
				rows[e.Request] += float64(e.Items)
				if e.Request != "little" {
					sent += float64(e.Items)
				}
			}
		}
		for _, name := range names[:3] {
			want := sent * weights[name] / 4
			if math.Abs(rows[name]-want) > 0.1*want {
				t.Errorf("seed %d: tenant %s has %v rows, its part is %.0f", seed, name, rows[name], want)
			}
		}
		if rows["little"] < 0.95*littleSent {
			t.Errorf("seed %d: the tenant that sends little has %v rows of %v", seed, rows["little"], littleSent)
		}
	}
}

func arrive(b *Batcher[string], now time.Time, ownLane bool, name string, items, class int) {
	lane := "lane"
	if ownLane {
		lane = name
	}
	b.Admit(now, []byte(lane), items, name, Terms{Tenant: name, Class: class})
}

// TestTenantLimit: a tenant has its part of the queue and no more, and others are taken beside it.
func TestTenantLimit(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[int](Rule{MaxSize: 4, MaxWait: time.Second, Timeout: time.Minute, MaxQueue: 10, Tenants: true, TenantLimit: 0.5})
	lane := []byte("lane")
	for i := range 5 {
		if _, why := b.Admit(now, lane, 1, i, Terms{Tenant: "a"}); why != "" {
			t.Fatal(why)
		}
	}
	if _, why := b.Admit(now, lane, 1, 5, Terms{Tenant: "a"}); why != TenantLimit {
		t.Errorf("the sixth of one tenant: %q, want %q", why, TenantLimit)
	}
	if _, why := b.Admit(now, lane, 1, 6, Terms{Tenant: "b"}); why != "" {
		t.Errorf("another tenant's: %q", why)
	}
}

// TestTenantsBounded: names without end take no memory without end.
func TestTenantsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 8, Timeout: time.Minute, MaxQueue: 1 << 20, Tenants: true})
	for i := range 5000 {
		b.Admit(now, []byte("lane"), 1, i, Terms{Tenant: fmt.Sprint(i)})
	}
	if n := len(b.tenants.known); n != maxTenants {
		t.Errorf("%d tenants are known, want %d", n, maxTenants)
	}
	left := 0
	for {
		out, ok := b.Next(now, false)
		if !ok {
			break
		}
		left += len(out.Entries)
	}
	if left != 5000 || len(b.lanes["lane"].flows.list) != 0 || len(b.lanes["lane"].flows.free) > maxFree {
		t.Errorf("%d of 5000 left, %d flows", left, len(b.lanes["lane"].flows.list))
	}
	now = now.Add(sweepTenants)
	b.Admit(now, []byte("lane"), 1, 0, Terms{Tenant: "new"})
	if n := len(b.tenants.known); n != 1 {
		t.Errorf("%d tenants are known after all are served, want the new one", n)
	}
}

// TestQueueConserves: whatever happens, each request leaves once, in one way, and none waits for longer than all that had to go
// before it.
func TestQueueConserves(t *testing.T) {
	for seed := range uint64(200) {
		conserves(t, seed)
	}
}

func conserves(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 4))
	rule := Rule{
		Mode: []Mode{ModeTimeout, ModeGreedy, ModeAdaptive}[random.IntN(3)], MaxSize: 1 + random.IntN(16), MaxWait: ms(float64(random.IntN(5))),
		Timeout: time.Hour, MaxQueue: 400, Classes: fourClasses(), Tenants: random.IntN(2) == 0, TenantLimit: float64(random.IntN(2)) * 0.5,
		SLO: ms(float64(random.IntN(2) * 300)),
	}
	if random.IntN(3) == 0 {
		rule.AllowedSizes = []int{1, (rule.MaxSize + 1) / 2, rule.MaxSize}[random.IntN(2):]
		if rule.MaxSize < 3 {
			rule.AllowedSizes = nil
		}
	}
	b := NewBatcher[int](rule)
	now := time.Unix(0, 0)
	ended, entries := map[int]string{}, map[int]*Entry[int]{}
	end := func(id int, how string) {
		if before, ok := ended[id]; ok {
			t.Fatalf("seed %d, %+v: request %d: %s after %s", seed, rule, id, how, before)
		}
		ended[id] = how
		delete(entries, id)
	}
	came := 0
	step := func(arriving bool) {
		now = now.Add(ms(random.Float64() * 4))
		if arriving {
			for range random.IntN(8) {
				terms := Terms{Class: random.IntN(4), Tenant: fmt.Sprint(random.IntN(5))}
				if random.IntN(4) == 0 {
					terms.Deadline = now.Add(ms(random.Float64() * 400))
				}
				busy := random.IntN(2)
				b.Replicas(1, busy, busy)
				e, why := b.Admit(now, fmt.Appendf(nil, "lane %d", random.IntN(3)), 1+random.IntN(3), came, terms)
				if (e == nil) == (why == "") {
					t.Fatalf("seed %d: %v and %q", seed, e, why)
				}
				if e != nil {
					entries[came] = e
				} else {
					end(came, string(why))
				}
				came++
			}
		}
		for _, lost := range b.Expired(now) {
			end(lost.Entry.Request, string(lost.Reason))
		}
		if random.IntN(3) == 0 {
			out, ok := b.Next(now, random.IntN(20) == 0)
			for _, lost := range b.Lost() {
				end(lost.Entry.Request, string(lost.Reason))
			}
			if ok {
				sum := 0
				for _, e := range out.Entries {
					sum += e.Items
				}
				if sum != out.Items || sum > rule.MaxSize && len(out.Entries) > 1 {
					t.Fatalf("seed %d: a batch of %d rows that says %d", seed, sum, out.Items)
				}
				for _, e := range out.Entries {
					end(e.Request, "sent")
				}
				if random.IntN(2) == 0 {
					b.Answered(now, []byte("lane 0"), out.Items, ms(8+0.25*float64(out.Items)))
				}
			}
		}
		if random.IntN(10) == 0 {
			for id, e := range entries {
				if !b.Gone(e) {
					t.Fatalf("seed %d: request %d was not there", seed, id)
				}
				end(id, "gone")
				break
			}
		}
		rows, items := 0, 0
		for _, c := range b.classes {
			rows += c.rows
		}
		for _, e := range entries {
			items += e.Items
		}
		if b.Len() != len(entries) || rows != items || b.items != items {
			t.Fatalf("seed %d: %d queued of %d rows and %d by class, want %d of %d", seed, b.Len(), b.items, rows, len(entries), items)
		}
	}
	for range 300 {
		step(true)
	}
	for i := 0; b.Len() > 0; i++ {
		if step(false); i > 100*came {
			t.Fatalf("seed %d, %+v: %d are never sent", seed, rule, b.Len())
		}
	}
	if len(ended) != came || len(b.active.members)+len(b.full)+len(b.ends.members) > 0 {
		t.Fatalf("seed %d: %d of %d ended; lists: %d %d %d", seed, len(ended), came, len(b.active.members), len(b.full), len(b.ends.members))
	}
}

// TestNobodyStarves: under a load of urgent requests that never ends, a low one leaves when those that came in the difference of
// the budgets have.
func TestNobodyStarves(t *testing.T) {
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 4, Timeout: time.Hour, MaxQueue: 1 << 20, Classes: fourClasses()})
	now := time.Unix(0, 0)
	lane := []byte("lane")
	for range 100 {
		b.Admit(now, lane, 1, critical, Terms{Class: critical})
	}
	b.Admit(now, lane, 1, low, Terms{Class: low})
	start := now
	for now.Sub(start) < time.Minute {
		now = now.Add(ms(1))
		for range 4 { // as many as leave: the queue never gets shorter
			b.Admit(now, lane, 1, critical, Terms{Class: critical})
		}
		out, _ := b.Next(now, false)
		for _, e := range out.Entries {
			if e.Request == low {
				// 375 ms after its arrival others no longer pass it, and 25 ms of them are before it.
				if waited := now.Sub(start); waited < ms(375) || waited > ms(405) {
					t.Errorf("it waited for %v", waited)
				}
				return
			}
		}
	}
	t.Error("it never leaves")
}

// TestTenantComesLate: what a tenant did not ask for is not saved up for it.
func TestTenantComesLate(t *testing.T) {
	b := NewBatcher[string](Rule{Mode: ModeGreedy, MaxSize: 4, Timeout: time.Hour, MaxQueue: 1 << 20, Tenants: true})
	now := time.Unix(0, 0)
	rows := map[string]int{}
	for i := range 200 {
		for range 4 {
			arrive(b, now, false, "a", 1, 0)
			if i == 0 {
				arrive(b, now, false, "a", 1, 0) // so that there is always more than a batch
			}
			if i >= 100 {
				arrive(b, now, false, "late", 1, 0)
			}
		}
		out, _ := b.Next(now, false)
		for _, e := range out.Entries {
			if i >= 100 {
				rows[e.Request]++
			}
		}
	}
	if rows["a"] < 180 || rows["late"] < 180 {
		t.Errorf("of 400 rows since the other came, %v; want half each", rows)
	}
}

// TestTenantsAreChargedForWhatIsSent: a row that comes back, as its replica is gone, or that is cut off from a batch, costs its
// tenant nothing.
func TestTenantsAreChargedForWhatIsSent(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 4, AllowedSizes: []int{2}, Timeout: time.Minute, MaxQueue: 100, Tenants: true})
	other, _ := b.Admit(now, []byte("other"), 1, 0, Terms{Tenant: "b"}) // so that nothing is forgotten
	first, _ := b.Admit(now, []byte("lane"), 1, 1, Terms{Tenant: "a"})
	for i := range 2 {
		b.Admit(now, []byte("lane"), 1, 2+i, Terms{Tenant: "a"})
	}
	a := first.tenant
	b.Gone(other)
	b.Admit(now.Add(time.Second), []byte("other"), 1, 0, Terms{Tenant: "b"})
	out, ok := b.Next(now, false)
	if !ok || out.Items != 2 || out.Reason != shape || a.start != 2 {
		t.Fatalf("%+v, and its tenant is charged %v rows, want 2 for a batch cut down to 2", out, a.start)
	}
	b.Back(now, []byte("lane"), append([]*Entry[int](nil), out.Entries...))
	if a.start != 0 || a.requests != 3 || a.rows != 3 {
		t.Errorf("%v rows are charged after they came back, and %d are waiting in %d requests", a.start, a.rows, a.requests)
	}
}

// TestTenantsStartAnew: what a tenant had while nobody else wanted anything is not held against it later.
func TestTenantsStartAnew(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[string](Rule{Mode: ModeGreedy, MaxSize: 8, Timeout: time.Minute, MaxQueue: 100, Tenants: true})
	arrive(b, now, false, "a", 8, 0)
	b.Next(now, false)
	for range 8 {
		arrive(b, now, false, "a", 1, 0)
	}
	for range 8 {
		arrive(b, now, false, "b", 1, 0)
	}
	out, _ := b.Next(now, false)
	rows := map[string]int{}
	for _, e := range out.Entries {
		rows[e.Request]++
	}
	if diff := cmp.Diff(map[string]int{"a": 4, "b": 4}, rows); diff != "" {
		t.Error(diff)
	}
}

// TestTenantWaitsForItsTurns: of two tenants alike one that has 40 rows waiting waits for as many of the other's, and no more; one
// that has none, for one of each.
func TestTenantWaitsForItsTurns(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 8, Timeout: time.Minute, MaxQueue: 1000, Tenants: true, Weights: map[string]float64{"heavy": 4}})
	for i := range 40 {
		b.Admit(now, []byte("lane"), 1, i, Terms{Tenant: "a"})
	}
	for i := range 60 {
		b.Admit(now, []byte("lane"), 1, i, Terms{Tenant: "b"})
	}
	for name, want := range map[string]int{"a": 82, "b": 100, "c": 3, "heavy": 1} {
		if got := b.ahead(&Entry[int]{Items: 1, tenant: b.tenants.of(now, name)}); got != want {
			t.Errorf("%d rows are ahead of one more of tenant %s, want %d", got, name, want)
		}
	}
}

// TestTenantsThatMatterAreKept: when there are too many, those are forgotten that neither wait nor have had more than others.
func TestTenantsThatMatterAreKept(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 8, Timeout: time.Minute, MaxQueue: 1 << 20, Tenants: true})
	b.Admit(now, []byte("lane"), 8, 0, Terms{Tenant: "owes"})
	b.Admit(now, []byte("lane"), 8, 0, Terms{Tenant: "waits"})
	if out, _ := b.Next(now, false); len(out.Entries) != 1 || out.Entries[0].tenant.start != 8 {
		t.Fatalf("%+v", out)
	}
	for i := range maxTenants - 2 {
		b.tenants.of(now, fmt.Sprint(i))
	}
	b.tenants.of(now.Add(sweepTenants), "new")
	for _, name := range []string{"owes", "waits", "new"} {
		if b.tenants.known[name] == nil {
			t.Errorf("%s is forgotten", name)
		}
	}
	if n := len(b.tenants.known); n != 3 {
		t.Errorf("%d tenants are known, want 3", n)
	}
}

// TestTenantOfALongName: names of any length are of tenants, and no memory.
func TestTenantOfALongName(t *testing.T) {
	b := NewBatcher[int](Rule{MaxSize: 8, Timeout: time.Minute, MaxQueue: 10, Tenants: true})
	long := fmt.Sprintf("%0*d", maxTenantName+1, 0)
	e, _ := b.Admit(time.Unix(0, 0), []byte("lane"), 1, 0, Terms{Tenant: long})
	if len(b.tenants.known) != 0 || e.tenant == nil || e.tenant.weight != 1 {
		t.Errorf("%d names are kept, and the tenant is %+v", len(b.tenants.known), e.tenant)
	}
}

// TestOrderOfAHeap compares the heap with a plain list, whatever comes, goes and changes.
func TestOrderOfAHeap(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 5))
		heap := ranking[*Entry[int]]{which: byOrder}
		var all []*Entry[int]
		for i := range 300 {
			switch n := random.IntN(6); {
			case n < 3 || len(all) == 0:
				e := &Entry[int]{seq: uint64(i), virtual: random.Int64N(50), places: [2]int32{-1, -1}}
				heap.push(e)
				all = append(all, e)
			case n < 5:
				at := random.IntN(len(all))
				heap.remove(all[at])
				heap.remove(all[at]) // which is not there any more
				all = append(all[:at], all[at+1:]...)
			default:
				e := all[random.IntN(len(all))]
				e.virtual = random.Int64N(50)
				heap.fix(e, true)
			}
			var first *Entry[int]
			for _, e := range all {
				if first == nil || e.before(first, byOrder) {
					first = e
				}
				if at := e.places[byOrder]; at < 0 || heap.members[at] != e {
					t.Fatalf("seed %d: a member is not at its place %d", seed, at)
				}
			}
			for i, e := range heap.members {
				if e.before(heap.members[(i-1)/2], byOrder) {
					t.Fatalf("seed %d: a member is before the one above it", seed)
				}
			}
			if got := heap.first(); got != first || len(heap.members) != len(all) {
				t.Fatalf("seed %d: %+v is first of %d, want %+v of %d", seed, got, len(heap.members), first, len(all))
			}
		}
	}
}
