package batchproxy

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// simulation runs a batcher against a replica that takes S(n) for a batch, in no time and with the same outcome for the
// same seed. The batcher is used through its exported methods only, as the proxy uses it.
type simulation struct {
	batcher  *Batcher[int]
	gate     func(s *simulation) time.Time // until when Next is not asked, for policies that are not the batcher's; nil without
	service  func(n int) time.Duration
	random   *rand.Rand
	come     func(s *simulation, ended time.Time, batch []int) // after an answer: schedules what the clients send next
	now      time.Time
	events   events
	order    int
	busy     bool
	wakes    time.Time // when the timer fires, zero if it does not
	freed    time.Time // when the replica last got free
	arrivals map[int]time.Time

	instead       func()                   // sends what can be sent, for a replica that has several batches at once; nil without
	answeredAfter func(took time.Duration) // is told of each answer, if set

	answered int
	batches  int
	waited   time.Duration // from arrival to answer, all requests together
	from     time.Time     // what is answered before does not count
}

type event struct {
	at    time.Time
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

func (s *simulation) at(t time.Time, do func()) {
	s.order++
	heap.Push(&s.events, event{t, s.order, do})
}

func (s *simulation) arrive(id int) {
	s.arrivals[id] = s.now
	if s.batcher.Arrive(s.now, simulated, 1, id) == nil {
		panic("the queue is full")
	}
	s.pump()
}

var simulated = []byte("lane")

func (s *simulation) pump() {
	if s.instead != nil {
		s.instead()
		return
	}
	if s.busy {
		return
	}
	if s.gate != nil {
		if until := s.gate(s); s.now.Before(until) {
			s.wake(until)
			return
		}
	}
	out, ok := s.batcher.Next(s.now, false)
	if !ok {
		s.wake(s.batcher.Wake(true))
		return
	}
	batch := make([]int, len(out.Entries))
	for i, e := range out.Entries {
		batch[i] = e.Request
	}
	s.busy = true
	took := s.service(len(batch))
	s.at(s.now.Add(took), func() {
		s.busy, s.freed = false, s.now
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
	})
}

// lasted tells the batcher how long requests took that are answered now.
func (s *simulation) lasted(batch []int) {
	for _, id := range batch {
		s.batcher.Lasted(s.now, s.arrivals[id], 1)
	}
}

// wake is the one timer that a batcher needs.
func (s *simulation) wake(at time.Time) {
	if at.IsZero() || !s.wakes.IsZero() && !at.Before(s.wakes) {
		return
	}
	s.wakes = at
	s.at(at, func() {
		if s.wakes.Equal(at) {
			s.wakes = time.Time{}
			s.pump()
		}
	})
}

// run is requests answered a second and the mean time from arrival to answer in ms.
func (s *simulation) run(d time.Duration) (perSecond, mean float64) {
	start := s.now
	s.from = start.Add(d / 10)
	end := start.Add(d)
	for len(s.events) > 0 && s.events[0].at.Before(end) {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		e.do()
	}
	return float64(s.answered) / end.Sub(s.from).Seconds(), s.waited.Seconds() * 1e3 / float64(max(s.answered, 1))
}

func ms(x float64) time.Duration { return time.Duration(x * float64(time.Millisecond)) }

// policy is a way to decide.
type policy struct {
	name string
	mode Mode
	wait time.Duration
	gate func(s *simulation) time.Time
}

var (
	greedyPolicy = policy{name: "greedy", mode: ModeGreedy, wait: ms(10)}
	timeout2     = policy{name: "timeout 2 ms", mode: ModeTimeout, wait: ms(2)}
	timeout5     = policy{name: "timeout 5 ms", mode: ModeTimeout, wait: ms(5)}
	timeout10    = policy{name: "timeout 10 ms", mode: ModeTimeout, wait: ms(10)}
	// kserve waits for 5 ms from the first request that it takes up, and takes up none while a batch is in flight.
	kserve = policy{name: "KServe-like, 5 ms", mode: ModeGreedy, wait: ms(10), gate: func(s *simulation) time.Time {
		if s.batcher.Len() == 0 || s.batcher.Len() >= 32 {
			return s.now
		}
		first := s.now
		for _, at := range s.arrivals {
			if at.Before(first) {
				first = at
			}
		}
		if first.Before(s.freed) {
			first = s.freed
		}
		return first.Add(ms(5))
	}}
	adaptive = policy{name: "adaptive", mode: ModeAdaptive, wait: ms(10)}
)

func newSimulation(p policy, b, a float64, seed uint64) *simulation {
	return &simulation{
		batcher: NewBatcher[int](Rule{Mode: p.mode, MaxSize: 32, MaxWait: p.wait, Timeout: time.Minute, MaxQueue: 1 << 20}),
		gate:    p.gate,
		service: func(n int) time.Duration { return ms(b + a*float64(n)) },
		random:  rand.New(rand.NewPCG(seed, 2)), now: time.Unix(1, 0), arrivals: map[int]time.Time{},
	}
}

// closedLoop has so many clients, each of which sends its next request some time after it got its answer.
func (s *simulation) closedLoop(clients int, think func(s *simulation, ended time.Time, batch []int) func(i int) time.Duration) *simulation {
	for id := range clients {
		s.at(s.now.Add(time.Duration(s.random.Int64N(int64(time.Millisecond)))), func() { s.arrive(id) })
	}
	s.come = func(s *simulation, ended time.Time, batch []int) {
		after := think(s, ended, batch)
		for i, id := range batch {
			s.at(ended.Add(after(i)), func() { s.arrive(id) })
		}
	}
	return s
}

// near clients think for 0.06 to 0.54 ms.
func near(s *simulation, _ time.Time, _ []int) func(int) time.Duration {
	return func(int) time.Duration { return ms(0.06 + 0.48*s.random.Float64()) }
}

// overHTTP has what was seen of clients over real connections: they come back one after the other, as the proxy and they
// share cores, between 1 and 2.5 ms for 32, all of a cycle sooner or later together, and now and then one much later.
func overHTTP(s *simulation, _ time.Time, batch []int) func(int) time.Duration {
	shift := 0.3*s.random.Float64() + 0.15*s.random.ExpFloat64()
	return func(i int) time.Duration {
		at := shift + 0.25 + 0.045*float64(i) + 0.4*s.random.Float64()
		if s.random.IntN(400) == 0 {
			at += 3 * s.random.ExpFloat64()
		}
		return ms(at)
	}
}

// uniform clients think for so many ms.
func uniform(lo, hi float64) func(s *simulation, ended time.Time, batch []int) func(int) time.Duration {
	return func(s *simulation, _ time.Time, _ []int) func(int) time.Duration {
		return func(int) time.Duration { return ms(lo + (hi-lo)*s.random.Float64()) }
	}
}

// exponential clients think for so many ms on average, now next to nothing and now much longer.
func exponential(mean float64) func(s *simulation, ended time.Time, batch []int) func(int) time.Duration {
	return func(s *simulation, _ time.Time, _ []int) func(int) time.Duration {
		return func(int) time.Duration { return ms(mean * s.random.ExpFloat64()) }
	}
}

// poisson has requests come independently of each other and of the answers.
func (s *simulation) poisson(perSecond float64) *simulation {
	id := 0
	var next func()
	next = func() {
		s.at(s.now.Add(time.Duration(s.random.ExpFloat64()/perSecond*float64(time.Second))), next)
		id++
		s.arrive(id)
	}
	s.at(s.now, next)
	return s
}

// bursts has so many requests come within a millisecond, again and again after the time between.
func (s *simulation) bursts(requests int, between time.Duration) *simulation {
	id := 0
	var next func()
	next = func() {
		s.at(s.now.Add(between), next)
		for range requests {
			id++
			own := id
			s.at(s.now.Add(ms(s.random.Float64())), func() { s.arrive(own) })
		}
	}
	s.at(s.now, next)
	return s
}

// mixed is closed-loop clients and independent requests in one lane.
func (s *simulation) mixed(clients int, perSecond float64) *simulation {
	s.closedLoop(clients, near)
	again := s.come
	s.come = func(s *simulation, ended time.Time, batch []int) {
		again(s, ended, slices.DeleteFunc(batch, func(id int) bool { return id >= clients }))
	}
	id := clients
	var next func()
	next = func() {
		s.at(s.now.Add(time.Duration(s.random.ExpFloat64()/perSecond*float64(time.Second))), next)
		id++
		s.arrive(id)
	}
	s.at(s.now, next)
	return s
}

// TestSimulationIsRight: requests a second in a closed loop, and the mean time under Poisson arrivals, for policies of
// which the numbers are known from other implementations of the same system.
func TestSimulationIsRight(t *testing.T) {
	for _, tt := range []struct {
		policy policy
		closed map[int]float64     // clients to requests a second
		open   map[float64]float64 // requests a second to ms
	}{
		{
			greedyPolicy,
			map[int]float64{1: 117, 8: 445, 16: 801, 24: 1091, 28: 1218, 32: 1334, 36: 1440, 48: 1715},
			map[float64]float64{50: 9.9, 300: 13.1, 1000: 16.3, 1700: 21.4},
		},
		{
			timeout2,
			map[int]float64{1: 95, 8: 661, 16: 1135, 24: 1493, 28: 1639, 32: 1938, 36: 1440, 48: 1715},
			map[float64]float64{50: 11.1, 300: 13.1, 1000: 16.3, 1700: 21.5},
		},
		{timeout10, map[int]float64{1: 54, 8: 398, 32: 1938}, map[float64]float64{50: 16.8, 300: 15.4, 1000: 16.7, 1700: 21.4}},
		{kserve, map[int]float64{1: 74, 8: 529, 32: 1938}, map[float64]float64{50: 14.3, 300: 16.3, 1000: 21.2, 1700: 25.2}},
	} {
		near2 := func(what string, got, want float64) {
			if got < 0.98*want || got > 1.02*want {
				t.Errorf("%s: %s: %.2f, want %v within 2 %%", tt.policy.name, what, got, want)
			}
		}
		for c, want := range tt.closed {
			got, _ := newSimulation(tt.policy, 8, 0.25, 1).closedLoop(c, near).run(10 * time.Second)
			near2(fmt.Sprintf("%d clients", c), got, want)
		}
		for rate, want := range tt.open {
			_, got := newSimulation(tt.policy, 8, 0.25, 1).poisson(rate).run(time.Duration(2e5/rate) * time.Second / 2)
			near2(fmt.Sprintf("%v/s", rate), got, want)
		}
	}
}

// TestAdaptiveAgainstTheOthers: closed-loop clients are served at least as well as by the best other policy, whichever that
// is, where there is something to win much better, and one client as if there were no proxy.
func TestAdaptiveAgainstTheOthers(t *testing.T) {
	others := []policy{greedyPolicy, timeout2, timeout5, kserve}
	for _, from := range []struct {
		name  string
		think func(s *simulation, ended time.Time, batch []int) func(int) time.Duration
		b     float64
	}{{"near", near, 8}, {"over HTTP", overHTTP, 9}} {
		for _, tt := range []struct {
			clients int
			atLeast float64
		}{{8, 1.15}, {16, 1.12}, {24, 1.1}, {28, 1.08}, {32, 0.99}, {36, 0.99}, {40, 0.99}, {48, 0.99}, {64, 0.99}, {128, 0.99}} {
			best, line := 0.0, ""
			for _, p := range others {
				x, _ := newSimulation(p, from.b, 0.25, 1).closedLoop(tt.clients, from.think).run(20 * time.Second)
				best = max(best, x)
				line += fmt.Sprintf("%s %.0f, ", p.name, x)
			}
			got, _ := newSimulation(adaptive, from.b, 0.25, 1).closedLoop(tt.clients, from.think).run(20 * time.Second)
			t.Logf("%s, %d clients: %sadaptive %.0f (%.2f)", from.name, tt.clients, line, got, got/best)
			if got < tt.atLeast*best {
				t.Errorf("%s, %d clients: %.0f requests/s, %.3f times the best other's, want %v", from.name, tt.clients, got, got/best, tt.atLeast)
			}
		}
		if _, got := newSimulation(adaptive, from.b, 0.25, 1).closedLoop(1, from.think).run(20 * time.Second); got > 1.01*(from.b+0.25) {
			t.Errorf("%s: one client waits %.2f ms, %.2f without a proxy", from.name, got, from.b+0.25)
		}
	}
}

// TestAdaptiveUnderIndependentArrivals: where nobody comes back, nothing is waited for in vain.
func TestAdaptiveUnderIndependentArrivals(t *testing.T) {
	for _, tt := range []struct {
		name  string
		start func(s *simulation) *simulation
	}{
		{"50/s", func(s *simulation) *simulation { return s.poisson(50) }},
		{"300/s", func(s *simulation) *simulation { return s.poisson(300) }},
		{"1000/s", func(s *simulation) *simulation { return s.poisson(1000) }},
		{"1700/s", func(s *simulation) *simulation { return s.poisson(1700) }},
		{"bursts of 12", func(s *simulation) *simulation { return s.bursts(12, ms(40)) }},
		{"8 clients and 200/s", func(s *simulation) *simulation { return s.mixed(8, 200) }},
	} {
		_, best := tt.start(newSimulation(greedyPolicy, 8, 0.25, 1)).run(200 * time.Second)
		_, got := tt.start(newSimulation(adaptive, 8, 0.25, 1)).run(200 * time.Second)
		t.Logf("%s: greedy %.2f ms, adaptive %.2f ms (%.3f)", tt.name, best, got, got/best)
		if got > 1.01*best {
			t.Errorf("%s: %.2f ms on average, %.2f greedily", tt.name, got, best)
		}
	}
}

// TestAdaptiveOfOtherModels: of models that gain much or little from batching, and with clients that come back soon, late or
// at any time, adaptive batching is nowhere much slower than none of it, nor than a timer.
func TestAdaptiveOfOtherModels(t *testing.T) {
	for _, model := range [][2]float64{{8, 0.25}, {2, 0.18}, {1, 2}, {1, 0.5}, {0.5, 0.5}, {20, 1}} {
		for _, clients := range []struct {
			name  string
			think func(s *simulation, ended time.Time, batch []int) func(int) time.Duration
		}{
			{"0.06 to 0.54 ms", near},
			{"0 to 2 ms", uniform(0, 2)},
			{"0 to 6 ms", uniform(0, 6)},
			{"3 to 5 ms", uniform(3, 5)},
			{"1 ms on average", exponential(1)},
			{"5 ms on average", exponential(5)},
			{"20 ms on average", exponential(20)},
		} {
			for _, c := range []int{2, 4, 8, 16, 32, 48} {
				best := 0.0
				for _, p := range []policy{greedyPolicy, timeout2, timeout5} {
					x, _ := newSimulation(p, model[0], model[1], 1).closedLoop(c, clients.think).run(3 * time.Second)
					best = max(best, x)
				}
				got, _ := newSimulation(adaptive, model[0], model[1], 1).closedLoop(c, clients.think).run(3 * time.Second)
				if got < 0.94*best {
					t.Errorf("S(n) = %v + %v n ms, %d clients that think for %s: %.0f requests/s, %.3f times the best other's", model[0], model[1], c, clients.name, got, got/best)
				}
			}
		}
	}
}

// TestNoiseHidesNoGain: a machine that is busy while the first batches are measured makes the fit believe in a gain that is not there. It is
// tried all the same, and batching ends.
func TestNoiseHidesNoGain(t *testing.T) {
	fooled, on := 0, 0
	for seed := range uint64(40) {
		s := newSimulation(adaptive, 0.1, 25, seed)
		s.service = func(n int) time.Duration {
			took := 0.1 + 25*float64(n)
			if s.random.IntN(3) == 0 {
				took += 400 * s.random.Float64()
			}
			return ms(took)
		}
		s.closedLoop(8, near).run(20 * time.Second)
		if s.batcher.service.gain(32) >= offBelow {
			fooled++
		}
		if !s.batcher.off {
			on++
		}
	}
	if fooled == 0 {
		t.Error("the fit was never wrong, so that this test shows nothing")
	}
	if on > 2 {
		t.Errorf("batching is on in %d of 40 runs, by a fit that was wrong in %d", on, fooled)
	}
}

// TestNoiseIsNoReasonToStop: where batches are small, the fit makes much of a machine that is busy at times. Batching is not given up for that, without which
// a model with more requests than it can do one by one would have an endless queue.
func TestNoiseIsNoReasonToStop(t *testing.T) {
	var suspected int
	for seed := range uint64(40) {
		run := func(p policy) (float64, *simulation) {
			s := newSimulation(p, 8, 0.25, seed)
			s.service = func(n int) time.Duration {
				took := (8 + 0.25*float64(n)) * (1 + 0.2*s.random.ExpFloat64())
				if s.random.IntN(20) == 0 {
					took += 30 * s.random.Float64()
				}
				return ms(took)
			}
			s.poisson(60).run(20 * time.Second)
			s.answered, s.waited, s.events = 0, 0, nil
			s.busy = false
			_, mean := s.poisson(300).run(20 * time.Second)
			return mean, s
		}
		best, _ := run(greedyPolicy)
		got, s := run(adaptive)
		for _, c := range s.batcher.Changes() {
			if c.Parameter == batching {
				t.Errorf("seed %d: batching went from %v to %v", seed, c.Before, c.After)
			}
		}
		if got > 1.1*best {
			t.Errorf("seed %d: %.1f ms, greedy %.1f", seed, got, best)
		}
		if s.batcher.every > probeEvery {
			suspected++
		}
	}
	if suspected == 0 {
		t.Error("the fit never made it doubtful, so that this test shows nothing")
	}
}
