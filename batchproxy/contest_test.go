package batchproxy

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestServerThatIsFasterWithoutBatches: where a row by itself takes longer than its share of a batch, and several are done at once in less
// time still, batching ends. It goes on, or begins again, where the server does one after the other.
func TestServerThatIsFasterWithoutBatches(t *testing.T) {
	for _, tt := range []struct {
		name    string
		clients int
		b, a    float64
		before  int // instances, for the first half of the time
		after   int
		half    time.Duration
		off     [2]bool // after the first half and at the end
	}{
		{"two at once", 8, 8, 24, 2, 2, 20 * time.Second, [2]bool{true, true}},
		{"one at once", 8, 8, 24, 1, 1, 60 * time.Second, [2]bool{false, false}},
		{"one at once, of many clients", 64, 8, 8, 1, 1, 60 * time.Second, [2]bool{false, false}},
		{"one at once, with less to gain", 32, 8, 24, 1, 1, 60 * time.Second, [2]bool{false, false}},
		{"two, then one", 8, 8, 24, 2, 1, 200 * time.Second, [2]bool{true, false}},
		{"one, then two", 8, 8, 24, 1, 2, 2000 * time.Second, [2]bool{false, true}},
		{"four, with much to gain", 64, 8, 0.25, 4, 4, 10 * time.Second, [2]bool{false, false}},
		{"four, with something to gain", 64, 8, 8, 4, 4, 10 * time.Second, [2]bool{true, true}},
		{"four, with something to gain and many clients", 256, 8, 8, 4, 4, 60 * time.Second, [2]bool{false, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wrong := 0
			const seeds = 4
			for seed := range uint64(seeds) {
				d := &accelerator{instances: tt.before}
				s := newSimulation(adaptive, tt.b, tt.a, seed)
				s.service = func(n int) time.Duration { return ms((tt.b + tt.a*float64(n)) * (0.95 + 0.1*s.random.Float64())) }
				s.closedLoop(tt.clients, near).behind(d)
				for half, instances := range []int{tt.before, tt.after} {
					d.instances = instances
					rate, _ := s.run(tt.half)
					t.Logf("seed %d, %d instances: off %v, %.1f/s, S(n) = %.4f + %.4f n", seed, instances, s.batcher.off, rate, s.batcher.service.b, s.batcher.service.a)
					if s.batcher.off != tt.off[half] {
						wrong++
					}
				}
			}
			if wrong > 0 {
				t.Errorf("batching is not as it should be after %d of %d halves", wrong, 2*seeds)
			}
		})
	}
}

// TestContestEndsWithItsReplicas: what took turns before other replicas came is over, and a lane with a row is not full any more.
func TestContestEndsWithItsReplicas(t *testing.T) {
	now := time.Unix(1, 0)
	b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
	b.compare(now, 1, trial{})
	b.contest.other = true
	b.Arrive(now, simulated, 1, 1)
	if !b.unbatched() || len(b.full) != 1 {
		t.Fatalf("in a contest: unbatched %v, %d are full", b.unbatched(), len(b.full))
	}
	b.Forget(now)
	if b.contest.running || b.unbatched() || len(b.full) != 0 {
		t.Errorf("with other replicas: contest %v, unbatched %v, %d are full", b.contest.running, b.unbatched(), len(b.full))
	}
}

// TestContestTakesEffectAtOnce: the batch after the last answer of a contest is as it was decided.
func TestContestTakesEffectAtOnce(t *testing.T) {
	for _, off := range []bool{false, true} {
		now := time.Unix(1, 0)
		b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
		b.off, b.every = off, probeEvery
		b.tune(now)
		b.compare(now, 1, trial{})
		for b.contest.running {
			took := ms(10)
			if b.contest.other {
				took = ms(5)
			}
			came := now
			now = now.Add(took)
			b.Lasted(now, came, 1)
			b.Answered(now, simulated, 1, 0)
		}
		want := 4
		if !off {
			want = 1
		}
		if b.off == off || b.effective != want {
			t.Errorf("off was %v and is %v, %d rows at most; want %d", off, b.off, b.effective, want)
		}
	}
}

// TestContestBySingleRequests: where requests by themselves show a tenth more in a second than full batches do, or batches half as many again
// though more requests wait, nothing else is to be compared. All that wait are among them. Where none is batched, they show how many batches at
// once are to be compared with them.
func TestContestBySingleRequests(t *testing.T) {
	const alone, share = 20, 10 // ms that a row takes by itself and in a batch
	for _, tt := range []struct {
		name   string
		off    bool
		slots  int
		queued int
		each   float64 // ms between answers
		turns  bool
		after  int  // answers
		ends   bool // off
	}{
		{"clear", false, 1, 0, 9.0, false, contestWarm + contestRows, true},
		{"not clear", false, 1, 0, 9.2, true, contestWarm + contestRows, false},
		{"nobody waits", false, 1, 0, 100, true, 3, false},
		{"clear, of two replicas", false, 2, 0, 4.5, false, contestWarm + contestRows, true},
		{"not clear, of two replicas", false, 2, 0, 4.6, true, contestWarm + contestRows, false},
		{"clear, of many that wait", false, 1, 50, 9.0, false, 50, true},
		{"not clear, of many that wait", false, 1, 100, 14.9, true, 62, false},
		{"clear against it, of many that wait", false, 1, 100, 15.1, false, 61, false},
		{"of too few to say so", false, 1, 36, 15.1, true, 22, false},
		{"more wait than may have less", false, 1, contestMost + 1, 6.6, true, 0, false},
		{"three at once, without batches before", true, 1, 0, 6.6, true, contestWarm + contestRows, true},
		{"one at a time, without batches before", true, 1, 100, 20, true, 46, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1, 0)
			b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 1000, Timeout: time.Hour, LearnDepth: true, Widens: true})
			b.off = tt.off
			b.Replicas(tt.slots, 0, 0)
			for range tt.queued {
				b.Arrive(now, simulated, 1, 0)
			}
			if !tt.off && tt.queued == 0 { // of another lane
				b.Arrive(now, []byte("b"), 1, 0)
				b.remark()
			}
			b.compare(now, 1, trial{alone: alone / 1000., share: share / 1000., of: 4})
			if b.contest.singly && len(b.full) != len(b.active.members) {
				t.Fatal("a request waits for others")
			}
			answers := 0
			for b.contest.singly {
				if !b.unbatched() {
					t.Fatal("requests are batched")
				}
				came := now
				now = now.Add(ms(tt.each))
				b.Lasted(now, came, 1)
				b.Answered(now, simulated, 1, 0)
				answers++
			}
			if b.contest.running != tt.turns || answers != tt.after || b.off != tt.ends || b.unbatched() != b.off {
				t.Errorf("after %d answers: contest %v, off %v, unbatched %v; want %v after %d, off %v", answers, b.contest.running, b.off, b.unbatched(), tt.turns, tt.after, tt.ends)
			}
			if want := int(math.Round(alone / tt.each)); tt.off && b.contest.depth != want {
				t.Errorf("%d batches at once, want %d", b.contest.depth, want)
			}
		})
	}
}

// TestContestOfNoUse: where requests by themselves are answered as fast as full batches could be, as many at once, batches have no turn.
func TestContestOfNoUse(t *testing.T) {
	for _, tt := range []struct {
		each  float64 // ms between answers
		turns bool
	}{{11.2, false}, {14, true}} {
		now := time.Unix(1, 0)
		b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
		b.off, b.fresh, b.every = true, false, probeEvery
		b.compare(now, 1, trial{alone: 0.014, share: 0.0125, of: 4}) // S(n) = 2 ms + 12 ms * n, 82.9 rows a second in batches of 32
		for b.contest.singly {
			came := now
			now = now.Add(ms(tt.each))
			b.Lasted(now, came, 1)
			b.Answered(now, simulated, 1, 0)
		}
		if b.contest.running != tt.turns || !b.off || !tt.turns && b.every != 2*probeEvery {
			t.Errorf("%g ms: contest %v, off %v, the next trial after %d", tt.each, b.contest.running, b.off, b.every)
		}
	}
}

// TestContestWithoutAnswers: where replicas answer nothing any more a contest ends all the same, and requests leave as before it.
func TestContestWithoutAnswers(t *testing.T) {
	for _, off := range []bool{false, true} {
		now := time.Unix(1, 0)
		b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
		b.off, b.fresh = off, false
		b.compare(now, 1, trial{alone: 0.02, share: 0.01})
		for _, after := range []time.Duration{contestTime, time.Millisecond} {
			now = now.Add(after)
			for range 4 {
				b.Arrive(now, simulated, 1, 0)
			}
			want, running := 1, after == contestTime
			if !running && !off {
				want = 4
			}
			if out, _ := b.Next(now, true); out.Items != want || b.contest.running != running || b.off != off {
				t.Errorf("off %v, %v after: %d rows leave, contest %v, off %v; want %d, %v", off, after, out.Items, b.contest.running, b.off, want, running)
			}
		}
	}
}

// TestContestOfSeveralBatches: batches have the replica's turns as many at once as single requests were served at once, while a full batch
// waits, and what they are kept with afterwards is as many, and as good as they were.
func TestContestOfSeveralBatches(t *testing.T) {
	now := time.Unix(1, 0)
	b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
	b.off, b.every = true, probeEvery
	b.tune(now)
	b.Changes()
	b.compare(now, 1, trial{alone: 0.020, share: 0.010})
	for b.contest.running {
		each := ms(5) // four at once
		if b.contest.other {
			each = ms(4)
			if got := b.Depth(); got != 1 {
				t.Fatalf("%d batches at once, and nobody waits", got)
			}
			for range 4 {
				b.Arrive(now, simulated, 1, 0)
			}
			if got := b.Depth(); got != 4 {
				t.Fatalf("%d batches at once, want 4", got)
			}
			for b.all.first != nil {
				b.Gone(b.all.first)
			}
		}
		came := now
		now = now.Add(each)
		b.Lasted(now, came, 1)
		b.Answered(now, simulated, 1, 0)
	}
	// 250 a second where one batch at a time does 100.
	if b.off || b.depth.kept != 4 || math.Abs(b.depth.gain-2.5) > 0.01 || b.every != probeFirst {
		t.Errorf("off %v, %d batches at once, %.3f times as good as one, the next trial after %d", b.off, b.depth.kept, b.depth.gain, b.every)
	}
	if diff := cmp.Diff([]Change{{inflight, 1, 4}, {batching, 0, 1}, {effectiveMaxBatch, 1, 4}}, b.Changes()); diff != "" {
		t.Error(diff)
	}
}

// TestClearContest: where requests take much longer in one way, a turn of each is enough.
func TestClearContest(t *testing.T) {
	for _, tt := range []struct {
		other float64 // ms, where it is 10 in the way in force
		turns int
		off   bool
	}{{5, 2, true}, {8, contestTurns, true}, {12, contestTurns, false}, {16, 2, false}} {
		now := time.Unix(1, 0)
		b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
		b.compare(now, 1, trial{})
		turns := 0
		for b.contest.running {
			turns = b.contest.turn + 1
			took := ms(10)
			if b.contest.other {
				took = ms(tt.other)
			}
			came := now
			now = now.Add(took)
			b.Lasted(now, came, 1)
			b.Answered(now, simulated, 1, 0)
		}
		if turns != tt.turns || b.off != tt.off {
			t.Errorf("%g ms: %d turns, off %v; want %d, %v", tt.other, turns, b.off, tt.turns, tt.off)
		}
	}
}

// TestInheritWhetherBatchingPays: that it does not, where replicas have as many requests at once as come, says nothing of a rule by which
// they have not.
func TestInheritWhetherBatchingPays(t *testing.T) {
	rule := Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true}
	for _, tt := range []struct{ before, after, off bool }{{true, true, true}, {false, false, true}, {false, true, true}, {true, false, false}} {
		now := time.Unix(1, 0)
		rule.Widens = tt.before
		before := NewBatcher[int](rule)
		before.off, before.every = true, probeEvery
		before.tune(now)
		rule.Widens = tt.after
		b := NewBatcher[int](rule)
		b.Inherit(now, before)
		want := 4
		if tt.off {
			want = 1
		}
		if b.off != tt.off || b.effective != want {
			t.Errorf("%+v: off %v, %d rows at most", tt, b.off, b.effective)
		}
	}
}

// TestContestInNeed: where single requests cannot do what comes and batches can, or nearly can, to compare them costs next to nothing.
func TestContestInNeed(t *testing.T) {
	const capacity = 32 / (0.008 + 32*0.008)
	for _, rate := range []float64{0.9 * capacity, 1.25 * capacity} {
		for seed := range uint64(3) {
			s := newSimulation(adaptive, 8, 8, seed)
			s.service = func(n int) time.Duration { return ms((8 + 8*float64(n)) * (0.95 + 0.1*s.random.Float64())) }
			s.poisson(rate).behind(&accelerator{instances: 1})
			s.run(200 * time.Second)
			s.answered, s.waited = 0, 0
			got, _ := s.run(200 * time.Second)
			t.Logf("%.1f/s come, seed %d: %.1f/s, off %v", rate, seed, got, s.batcher.off)
			if s.batcher.off || got < 0.95*min(rate, capacity) {
				t.Errorf("%.1f/s come, seed %d: %.1f/s are answered, off %v; it can do %.1f/s", rate, seed, got, s.batcher.off, capacity)
			}
		}
	}
}

// TestContestIsGivenUp: a way that is three times as slow need not be seen to the end.
func TestContestIsGivenUp(t *testing.T) {
	for _, tt := range []struct {
		took    float64 // ms, of a request in the other way, where it is 10 in the one in force
		running bool
	}{{29, true}, {31, false}} {
		q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 100, Timeout: time.Minute, Widens: true})
		now := time.Unix(0, 0)
		answer := func(took float64, rows int) {
			for range rows {
				came := now
				now = now.Add(ms(took))
				q.Lasted(now, came, 1)
				q.Answered(now, []byte("a"), 1, 0)
			}
		}
		q.compare(now, 0, trial{})
		answer(10, 1) // what it shows by itself is not enough
		answer(10, contestWarm+contestRows)
		if !q.contest.other {
			t.Fatal("the other way has no turn")
		}
		answer(tt.took, contestWarm)
		if q.contest.running != tt.running || q.off {
			t.Errorf("%v ms: running %v, off %v", tt.took, q.contest.running, q.off)
		}
	}
}

// TestFullLanes: which lanes are full is true of the rows that a batch may have, where a contest begins and where the first trial ends
// without an answer.
func TestFullLanes(t *testing.T) {
	check := func(name string, b *Batcher[int]) {
		t.Helper()
		for _, l := range b.active.members {
			if want := l.items >= b.most(l); l.full >= 0 != want {
				t.Errorf("%s: a lane of %d rows, of at most %d in a batch: full %v", name, l.items, b.most(l), !want)
			}
		}
	}
	rule := Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 1000, Timeout: time.Hour, Widens: true}
	now := time.Unix(1, 0)

	b := NewBatcher[int](rule)
	b.fresh, b.trying, b.trial = false, true, trial{began: now}
	b.Arrive(now, []byte("another"), 1, 0)
	for i := range 20 {
		if rows := 1 + 3*(i%2); !b.contest.running {
			b.Answered(now, simulated, rows, ms(10+10*float64(rows)))
		}
	}
	if !b.contest.singly {
		t.Fatal("there is no contest")
	}
	check("a contest", b)

	b = NewBatcher[int](rule)
	for range 4*trialMost + 2 {
		b.Arrive(now, simulated, 1, 0)
	}
	for range 6 {
		b.Arrive(now, []byte("another"), 1, 0)
	}
	for range trialMost + 1 {
		b.Next(now, false)
	}
	if b.fresh || b.lanes["another"].items != 6 {
		t.Fatalf("fresh %v, %d rows", b.fresh, b.lanes["another"].items)
	}
	check("the first trial", b)
}

// TestContestBeginsAfterBatches: a batch that another replica had yet as the contest began is not what requests show by themselves.
func TestContestBeginsAfterBatches(t *testing.T) {
	now := time.Unix(1, 0)
	b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
	b.Replicas(2, 2, 2)
	before := now
	now = now.Add(ms(100))
	b.compare(now, 1, trial{alone: 0.016, share: 0.008, of: 32})
	now = now.Add(ms(50))
	for range 32 {
		b.Lasted(now, before, 1)
	}
	b.Answered(now, simulated, 32, ms(150))
	if c := b.contest; b.off || !c.singly || c.seen != 0 || !c.began.Equal(now) {
		t.Fatalf("after a batch: off %v, by themselves %v, %d rows since %v", b.off, c.singly, c.seen, c.began)
	}
	for b.contest.singly {
		came := now
		now = now.Add(ms(2.6)) // batches of both replicas have one row done each 4 ms
		b.Lasted(now, came, 1)
		b.Answered(now, simulated, 1, 0)
	}
	if !b.off || b.contest.running {
		t.Errorf("half as many again as in batches: off %v, contest %v", b.off, b.contest.running)
	}
}

// TestContestOfRefusedBatches: in the turn of batches, what is a full batch after a refusal leaves at once, and several do.
func TestContestOfRefusedBatches(t *testing.T) {
	now := time.Unix(1, 0)
	b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 100, Timeout: time.Hour, LearnDepth: true, Widens: true})
	b.off, b.every = true, probeEvery
	b.tune(now)
	b.contest = contest{running: true, other: true, depth: 4, began: now}
	for range 10 {
		b.Arrive(now, simulated, 1, 0)
	}
	b.TooLarge(now, 16)
	if len(b.full) != 1 || b.Depth() != 4 {
		t.Errorf("%d lanes are full, %d batches at once", len(b.full), b.Depth())
	}
}
