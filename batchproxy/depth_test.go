package batchproxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// accelerator is a replica with several instances of the model, each of which has one batch at a time, in the order in which they came.
type accelerator struct {
	instances int
	gap       time.Duration // on the way there and back, in which the instance is free
	busy      int
	with      int // batches that it has
	line      []func()
}

func (d *accelerator) tell(b *Batcher[int]) { b.Replicas(1, min(d.with, 1), d.with) }

// behind has the batcher of a simulation send to a device, with as many batches at once as it has learned.
func (s *simulation) behind(d *accelerator) *simulation {
	s.batcher = NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxWait: ms(10), Timeout: time.Minute, MaxQueue: 1 << 20, LearnDepth: true, Widens: true})
	s.instead = func() { s.sendTo(d) }
	return s
}

func (s *simulation) sendTo(d *accelerator) {
	for s.batcher.unbatched() && !s.batcher.trying || d.with < s.batcher.Depth() {
		d.tell(s.batcher)
		out, ok := s.batcher.Next(s.now, false)
		if !ok {
			s.wake(s.batcher.Wake(true))
			return
		}
		batch := make([]int, len(out.Entries))
		for i, e := range out.Entries {
			batch[i] = e.Request
		}
		sent, others, shared := s.now, d.with, d.with > 0 || s.batcher.unbatched() && !s.batcher.trying
		d.with++
		done := func() {
			d.with--
			took := s.now.Sub(sent)
			if shared {
				s.batcher.Crowded(others, len(batch), took)
				took = 0
			}
			s.lasted(batch)
			s.batcher.Answered(s.now, simulated, len(batch), took)
			if s.now.After(s.from) {
				s.batches++
			}
			for _, id := range batch {
				if s.answeredAfter != nil {
					s.answeredAfter(s.now.Sub(s.arrivals[id]))
				}
				if s.now.After(s.from) {
					s.answered++
					s.waited += s.now.Sub(s.arrivals[id])
				}
				delete(s.arrivals, id)
			}
			if s.come != nil {
				s.come(s, s.now, batch)
			}
			s.pump()
		}
		var run func()
		run = func() {
			d.busy++
			s.at(s.now.Add(s.service(len(batch))), func() {
				d.busy--
				s.at(s.now.Add(d.gap/2), done)
				if d.busy < d.instances && len(d.line) > 0 {
					next := d.line[0]
					d.line = d.line[1:]
					next()
				}
			})
		}
		s.at(s.now.Add(d.gap/2), func() {
			if d.busy < d.instances && len(d.line) == 0 {
				run()
				return
			}
			d.line = append(d.line, run)
		})
	}
}

// TestDepthOfOneDevice: with a device that has one batch at a time, learning how many it should have costs nothing.
func TestDepthOfOneDevice(t *testing.T) {
	compare := func(name string, b, a float64, start func(s *simulation) *simulation, d time.Duration) {
		t.Helper()
		x, xms := start(newSimulation(adaptive, b, a, 1)).run(d)
		s := start(newSimulation(adaptive, b, a, 1)).behind(&accelerator{instances: 1})
		y, yms := s.run(d)
		t.Logf("%s: one at once %.0f/s %.2f ms, learned %.0f/s (%.3f) %.2f ms (%.3f), %d at once, %d trials", name, x, xms, y, y/x, yms, yms/xms, s.batcher.depth.kept, s.batcher.depth.failed)
		if y < 0.99*x || yms > 1.01*xms && yms < 1e3 {
			t.Errorf("%s: one at once %.0f/s %.2f ms, learned %.0f/s %.2f ms", name, x, xms, y, yms)
		}
		if s.batcher.depth.kept != 1 {
			t.Errorf("%s: %d at once", name, s.batcher.depth.kept)
		}
	}
	for _, clients := range []int{1, 2, 4, 8, 16, 24, 32, 36, 48, 63, 64, 65, 72, 96, 128} {
		compare(fmt.Sprintf("%d clients", clients), 8, 0.25, func(s *simulation) *simulation { return s.closedLoop(clients, near) }, 30*time.Second)
		compare(fmt.Sprintf("%d clients over HTTP", clients), 9, 0.25, func(s *simulation) *simulation { return s.closedLoop(clients, overHTTP) }, 30*time.Second)
		compare(fmt.Sprintf("%d clients, no gain", clients), 0.1, 2, func(s *simulation) *simulation { return s.closedLoop(clients, near) }, 30*time.Second)
	}
	for _, rate := range []float64{50, 300, 1000, 1700, 1900} {
		compare(fmt.Sprintf("%v/s", rate), 8, 0.25, func(s *simulation) *simulation { return s.poisson(rate) }, 60*time.Second)
	}
	compare("bursts of 100", 8, 0.25, func(s *simulation) *simulation { return s.bursts(100, ms(100)) }, 60*time.Second)
}

// TestDepthOfSeveralInstances: a server that does several batches at once is given as many.
func TestDepthOfSeveralInstances(t *testing.T) {
	for _, tt := range []struct {
		instances, clients, want int
		times                    float64 // as many rows a second as with one at once
	}{{2, 64, 2, 1.8}, {2, 128, 2, 1.9}, {4, 96, 3, 2.5}, {4, 128, 4, 3.4}, {4, 256, 4, 3.6}, {8, 400, 8, 7}} {
		x, _ := newSimulation(adaptive, 8, 0.25, 1).closedLoop(tt.clients, near).run(5 * time.Second)
		s := newSimulation(adaptive, 8, 0.25, 1).closedLoop(tt.clients, near).behind(&accelerator{instances: tt.instances})
		s.run(15 * time.Second)
		s.answered, s.waited = 0, 0
		y, _ := s.run(15 * time.Second)
		t.Logf("%d instances, %d clients: %.0f/s, %.2f times one at once, %d at once, S(n) = %.2f + %.2f n ms", tt.instances, tt.clients, y, y/x, s.batcher.depth.kept,
			s.batcher.service.b*1e3, s.batcher.service.a*1e3)
		if s.batcher.depth.kept != tt.want || y < tt.times*x {
			t.Errorf("%d instances, %d clients: %d at once, want %d; %.2f times as many rows a second, want %v", tt.instances, tt.clients, s.batcher.depth.kept, tt.want, y/x, tt.times)
		}
	}
}

// TestDepthFollows: instances that come or go are noticed, and what is changed is told; S(n) stays that of a batch which has the
// device for itself.
func TestDepthFollows(t *testing.T) {
	d := &accelerator{instances: 1}
	s := newSimulation(adaptive, 8, 0.25, 1).closedLoop(128, near).behind(d)
	var told []string
	for _, instances := range []int{1, 3, 1, 2} {
		d.instances = instances
		s.run(400 * time.Second)
		if s.batcher.depth.kept != instances {
			t.Errorf("%d instances: %d batches at once", instances, s.batcher.depth.kept)
		}
		if at := s.batcher.service.at(32); at < 15.9e-3 || at > 16.1e-3 {
			t.Errorf("%d instances: S(32) = %v s", instances, at)
		}
		for _, c := range s.batcher.Changes() {
			if c.Parameter == inflight {
				told = append(told, fmt.Sprintf("%v to %v", c.Before, c.After))
			}
		}
	}
	if diff := cmp.Diff([]string{"1 to 2", "2 to 3", "3 to 2", "2 to 1", "1 to 2"}, told); diff != "" {
		t.Error(diff)
	}
	s.batcher.Forget(s.now)
	if s.batcher.depth.kept != 1 || len(s.batcher.Changes()) == 0 {
		t.Error("other replicas are not asked anew")
	}
}

// TestDepthFillsTheGap: a second batch is on its way while the device has the first, where the way is long.
func TestDepthFillsTheGap(t *testing.T) {
	x, _ := newSimulation(adaptive, 8, 0.25, 1).closedLoop(128, near).behind(&accelerator{instances: 1, gap: ms(4)}).run(30 * time.Second)
	if x < 1.9*1000 {
		t.Errorf("%.0f/s, of 2000 that the device can do and 1600 with one batch at once", x)
	}
}

// TestDepthOnlyForFullBatches: what was learned while much waited is for when much waits.
func TestDepthOnlyForFullBatches(t *testing.T) {
	s := newSimulation(adaptive, 8, 0.25, 1).closedLoop(128, near).behind(&accelerator{instances: 2})
	s.run(30 * time.Second)
	b := s.batcher
	for b.depth.trying > 0 {
		s.run(100 * time.Millisecond)
	}
	if b.depth.kept != 2 {
		t.Fatalf("%d at once", b.depth.kept)
	}
	for b.Len() > 0 {
		if _, ok := b.Next(s.now, true); !ok {
			break
		}
	}
	for i := range 32 {
		if got := b.Depth(); got != 1 {
			t.Errorf("%d at once while %d rows wait", got, i)
		}
		b.Arrive(s.now, simulated, 1, i)
	}
	if got := b.Depth(); got != 2 {
		t.Errorf("%d at once while a full batch waits", got)
	}
}

// TestDepthIsNotMeasuredWithTrials: the time in which a trial of batching holds the replica to one batch is none in which it did less.
func TestDepthIsNotMeasuredWithTrials(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 1000, Timeout: time.Hour, MaxWait: ms(10), LearnDepth: true})
	q.every = probeEvery // that batching pays is known
	now := time.Unix(0, 0)
	q.Replicas(1, 1, 1)
	for i := range 100 {
		q.Arrive(now, []byte("a"), 1, i)
	}
	send := func(batches int) {
		for range batches {
			now = now.Add(ms(10))
			q.Answered(now, []byte("a"), 4, ms(10))
		}
	}
	send(2 * stretch)
	q.depth.trying = 0
	before := q.depth.rate
	for range 20 {
		q.trying, q.trial = true, trial{began: now}
		send(6)
		q.trying = false
		send(stretch + stretch/2)
		q.depth.trying = 0
		if rate := q.depth.rate; rate < 0.99*before || before <= 0 {
			t.Fatalf("%v rows a second, of a replica that does %v", rate, before)
		}
	}
}

// TestDepthOfSingleRequests: where requests are never merged, how long one takes beside others is learned as well, and how many at once
// only where there is a limit.
func TestDepthOfSingleRequests(t *testing.T) {
	for _, widens := range []bool{false, true} {
		q := NewBatcher[int](Rule{Mode: ModeOff, MaxSize: 4, MaxQueue: 1000, Timeout: time.Hour, LearnDepth: true, Widens: widens})
		now := time.Unix(0, 0)
		q.Replicas(1, 1, 1)
		q.Arrive(now, []byte("a"), 1, 0)
		for range stretch {
			now = now.Add(ms(10))
			q.Answered(now, []byte("a"), 1, ms(10))
		}
		q.Crowded(1, 1, ms(30))
		if got := q.depth.crowded(1); got < 2.9 || got > 3.1 {
			t.Errorf("widens %v: one beside another takes %v times as long", widens, got)
		}
		if measured := q.depth.batches > 0; measured == widens {
			t.Errorf("widens %v: measured %v", widens, measured)
		}
	}
}

// TestDepthBesideOthers: how long a batch takes beside others is for each of them: with a device that takes them in turn three of them take
// three times as long as one, though only two at once were ever seen.
func TestDepthBesideOthers(t *testing.T) {
	d := newDepth(true)
	compare := func(what string, want ...float64) {
		t.Helper()
		for others, times := range want {
			if got := d.crowded(others); math.Abs(got-times) > 0.05 {
				t.Errorf("%s: beside %d others %.2f times as long, want %.2f", what, others, got, times)
			}
		}
	}
	compare("nothing seen", 1, 2, 3)
	d.crowd(1, 2)
	compare("a device that takes turns", 1, 2, 3)
	for range 100 {
		d.crowd(2, 1)
	}
	compare("three instances", 1, 1, 1)
	for range 100 {
		d.crowd(3, 2.5)
	}
	compare("half a batch for each", 1, 1.5, 2)
}

// TestDepthInOverload: where a replica has several batches at once, of 1.25 times what it can do 95 % of what it can do is answered within
// the SLO: a batch takes longer there, which is known before it is sent.
func TestDepthInOverload(t *testing.T) {
	for _, tt := range []struct {
		name     string
		d        accelerator
		slo      float64
		capacity float64 // rows a second
		depth    int
	}{
		{"one device", accelerator{instances: 1}, 100, 2000, 1},
		{"one device, a long way", accelerator{instances: 1, gap: ms(4)}, 100, 2000, 2},
		{"one device, a longer way", accelerator{instances: 1, gap: ms(12)}, 100, 2000, 2},
		{"two instances", accelerator{instances: 2}, 100, 4000, 2},
		{"four instances", accelerator{instances: 4}, 100, 8000, 4},
		{"four instances, little time", accelerator{instances: 4}, 40, 8000, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSimulation(adaptive, 8, 0.25, 1).behind(&tt.d)
			s.batcher.rule.SLO, s.batcher.rule.Objective = ms(tt.slo), ObjectiveBalanced
			came, good := 0, 0
			var next func()
			next = func() {
				s.at(s.now.Add(time.Duration(s.random.ExpFloat64()/(1.25*tt.capacity)*float64(time.Second))), next)
				came++
				tt.d.tell(s.batcher)
				if _, why := s.batcher.Admit(s.now, simulated, 1, came, Terms{}); why == "" {
					s.arrivals[came] = s.now
				}
				s.pump()
			}
			s.at(s.now, next)
			s.answeredAfter = func(took time.Duration) {
				if took <= ms(tt.slo) {
					good++
				}
			}
			s.run(30 * time.Second) // to learn
			good = 0
			const seconds = 20
			s.run(seconds * time.Second)
			perSecond := float64(good) / seconds
			t.Logf("%.0f/s in time of %.0f/s, %d at once, each %.2f times as long for each other", perSecond, tt.capacity, s.batcher.depth.kept, s.batcher.depth.other)
			if perSecond < 0.95*tt.capacity {
				t.Errorf("%.0f requests/s in time, want 95 %% of %.0f", perSecond, tt.capacity)
			}
			if s.batcher.depth.kept != tt.depth {
				t.Errorf("%d at once, want %d", s.batcher.depth.kept, tt.depth)
			}
		})
	}
}

// TestDepthTrialThatSaysNothing: a trial in which there was little to do for a while is not one that failed, and soon followed by another.
func TestDepthTrialThatSaysNothing(t *testing.T) {
	d, now := newDepth(true), time.Unix(0, 0)
	until := func(what string, ok func() bool) (batches int) {
		t.Helper()
		for ; !ok(); batches++ {
			if batches == 4*depthSeldom {
				t.Fatalf("%d batches, and not %s", batches, what)
			}
			now = now.Add(ms(16))
			d.answered(now, 32, 1, true)
		}
		return batches
	}
	until("tried", func() bool { return d.trying == 2 })
	until("measured", func() bool { return d.batches > 0 })
	now = now.Add(time.Minute)
	until("given up", func() bool { return d.trying == 0 })
	if n := until("tried again", func() bool { return d.trying == 2 }); n < depthSoon || n > depthSoon+2*stretch {
		t.Errorf("the next is after %d batches", n)
	}
	for failed, want := range []int{depthSoon, depthSeldom, 2 * depthSeldom} {
		until("found to make no difference", func() bool { return d.trying == 0 })
		if n := until("tried again", func() bool { return d.trying == 2 }); n < want || n > want+2*stretch {
			t.Errorf("after %d that changed nothing it is after %d, want %d", failed+1, n, want)
		}
	}
}

// TestDepthMissed: that two at once make a tenth more is found soon where it was once measured to make less, with one and with two of them.
func TestDepthMissed(t *testing.T) {
	d, now := newDepth(true), time.Unix(0, 0)
	of := map[int]float64{1: 1, 2: 1.03, 3: 1.1} // rows a second, by batches at once
	until := func(kept int) (batches int) {
		t.Helper()
		for ; d.kept != kept; batches++ {
			if batches == 10*depthSeldom {
				t.Fatalf("%d batches, and not %d at once", batches, kept)
			}
			if of[1] == 1 && d.gains > 0 || of[1] > 1 && d.kept == 1 {
				of[1], of[2] = 1, 1.1 // no accident any more
			}
			now = now.Add(time.Duration(float64(ms(16)) / of[d.now()]))
			d.answered(now, 32, 1, true)
		}
		return batches
	}
	if n := until(2); n > depthSoon+10*stretch {
		t.Errorf("two after %d batches", n)
	}
	of[1] = 1.08
	until(1)
	if n := until(2); n > depthSoon+10*stretch {
		t.Errorf("two again after %d batches", n)
	}
}

// TestDepthOnTheEdge: what two at once gain is measured with an error of 3 %. Two that make 6 to 7 % more are kept nearly all of the time, and seldom
// two that make no difference.
func TestDepthOnTheEdge(t *testing.T) {
	const batches, runs = 20_000, 40 // six minutes of 16 ms
	for _, tt := range []struct{ gain, least, most float64 }{{0, 0, 0.3}, {0.02, 0, 0.75}, {0.065, 0.9, 1}, {0.1, 0.95, 1}} {
		random := rand.New(rand.NewPCG(1, 1))
		at := 0
		for range runs {
			d, now := newDepth(true), time.Unix(0, 0)
			for range batches {
				took := (1 + 0.03*math.Sqrt(stretch)*random.NormFloat64()) * 16
				if d.now() > 1 {
					took /= 1 + tt.gain
				}
				now = now.Add(ms(took))
				d.answered(now, 32, 1, true)
				if d.kept > 1 {
					at++
				}
			}
		}
		share := float64(at) / batches / runs
		t.Logf("two make %.1f %% more: kept for %.0f %% of the batches", 100*tt.gain, 100*share)
		if share < tt.least || share > tt.most {
			t.Errorf("two make %.1f %% more: kept for %.0f %% of the batches, want %.0f to %.0f %%", 100*tt.gain, 100*share, 100*tt.least, 100*tt.most)
		}
	}
}

// TestDepthByTheMean: trials of one more that gain something, and not enough, follow soon after each other, and what counts is their mean.
func TestDepthByTheMean(t *testing.T) {
	for _, tt := range []struct {
		gains []float64 // of each trial
		kept  int
		next  int // batches to the next trial at least
	}{
		{[]float64{0.03, 0.06}, 1, depthSoon},
		{[]float64{0.03, 0.06, 0.08}, 2, 0},
		{[]float64{0.04, 0.04, 0.04, 0.04}, 1, depthSoon},
		{[]float64{0.04, 0.04, 0.04, 0.04, 0.01}, 1, depthSeldom},
		{[]float64{0.04, 0.01, 0.06}, 1, depthSoon}, // 0.025, and then anew
	} {
		d, now := newDepth(true), time.Unix(0, 0)
		next, trials, trying := 0, 0, false
		for trials < len(tt.gains) || trying {
			took := 16.0
			if trying {
				took /= 1 + tt.gains[trials-1]
			}
			now = now.Add(ms(took))
			d.answered(now, 32, 1, true)
			if trying != (d.trying == 2) {
				if trying = !trying; trying {
					trials++
				}
			}
		}
		kept := d.kept
		for d.trying == 0 {
			now = now.Add(ms(16))
			d.answered(now, 32, 1, true)
			next++
		}
		if kept != tt.kept || next < tt.next || tt.next > 0 && next > tt.next+2*stretch {
			t.Errorf("trials that gain %v: %d at once, want %d; the next after %d, want %d", tt.gains, kept, tt.kept, next, tt.next)
		}
	}
}

// TestDepthWhereTheQueueIsShort: that one batch at once makes as many as two is not found out while there is none to be second.
func TestDepthWhereTheQueueIsShort(t *testing.T) {
	d, now := newDepth(true), time.Unix(0, 0)
	d.kept = 2
	after := func(batches int, full func(i int) bool) int {
		for i := range batches {
			now = now.Add(ms(16))
			d.answered(now, 32, 1, full(i))
		}
		return d.kept
	}
	if kept := after(10*depthSeldom, func(i int) bool { return i%stretch > 0 }); kept != 2 {
		t.Errorf("%d at once after a queue that was short now and then", kept)
	}
	if kept := after(2*depthSeldom, func(int) bool { return true }); kept != 1 {
		t.Errorf("%d at once after one that never was", kept)
	}
}

// TestOneTrialAtATime: whether batching pays is not tried while it is measured what two batches at once make, which would begin over.
func TestOneTrialAtATime(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 100, Timeout: time.Minute, MaxWait: ms(10), LearnDepth: true})
	now := time.Unix(0, 0)
	for range 10 {
		for _, n := range []int{1, 4, 16, 32} {
			q.service.add(n, 0.008+0.00025*float64(n))
		}
	}
	q.since, q.depth.trying = probeFirst, 2
	if q.try(now); q.trying {
		t.Error("both are tried")
	}
	q.depth.trying = 0
	if q.try(now); !q.trying {
		t.Error("it is not tried at all")
	}
}

// TestDepthTrialsThatSayNothing: where trials of one more are given up again and again, one less is tried all the same.
func TestDepthTrialsThatSayNothing(t *testing.T) {
	d, now := newDepth(true), time.Unix(0, 0)
	d.kept, d.due = 2, depthSeldom
	for range 4 * depthSeldom {
		now = now.Add(ms(16))
		if d.trying == 3 && d.batches > 0 {
			now = now.Add(time.Hour)
		}
		d.answered(now, 32, 1, true)
		if d.trying == 1 {
			return
		}
	}
	t.Errorf("one less was never tried: %+v", d)
}

// TestDepthWithoutBatches: what was learned goes on where requests leave by themselves, and a rule does not let replicas have as many as come.
func TestDepthWithoutBatches(t *testing.T) {
	b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 4, MaxQueue: 10, Timeout: time.Hour, SLO: time.Minute, LearnDepth: true})
	now := time.Unix(1, 0)
	b.depth.kept = 4
	b.off, b.every = true, probeEvery
	b.tune(now)
	b.Arrive(now, simulated, 1, 0)
	if got := b.Depth(); got != 4 {
		t.Errorf("%d at once, want 4", got)
	}
}
