package batchproxy

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// station is a replica of a simulation: so many workers, which take requests in the order in which they came.
type station struct {
	*replica
	workers int
	service func(s *fleet) float64 // seconds
	first   func(s *fleet) float64 // seconds from then to the first piece, where it is a stream
	busy    int
	queue   []arrived
	done    int
}

type arrived struct {
	of    begun
	began time.Time
	id    int
}

// fleet runs stations behind the limits that a model has, with clients that send again when they are answered.
type fleet struct {
	stations []*station
	picker   picker
	random   *rand.Rand
	now      time.Time
	events   events
	order    int
	waiting  []int
	think    func(s *fleet) float64
	done     int
	took     float64
	seen     func(s *fleet, at *station) // after each answer
}

func newFleet(seed uint64, stations ...*station) *fleet {
	s := &fleet{stations: stations, random: rand.New(rand.NewPCG(seed, 3)), now: time.Unix(1, 0)}
	s.picker.random = s.random.IntN
	for _, at := range stations {
		at.replica = &replica{limiter: newLimiter(1, 1000)}
		s.picker.replicas = append(s.picker.replicas, at.replica)
	}
	return s
}

func (s *fleet) at(after float64, do func()) {
	s.order++
	heap.Push(&s.events, event{s.now.Add(time.Duration(after * float64(time.Second))), s.order, do})
}

func (s *fleet) clients(n int) *fleet {
	for id := range n {
		s.at(s.random.Float64(), func() { s.send(id) })
	}
	return s
}

func (s *fleet) send(id int) {
	s.waiting = append(s.waiting, id)
	s.pump()
}

func (s *fleet) pump() {
	for len(s.waiting) > 0 {
		r := s.picker.forCall(s.now, Auto)
		if r == nil {
			return
		}
		id := s.waiting[0]
		s.waiting = s.waiting[1:]
		for _, at := range s.stations {
			if at.replica == r {
				r.calls++
				r.seats++
				at.queue = append(at.queue, arrived{r.limiter.begin(r.seats), s.now, id})
				s.serve(at)
			}
		}
	}
}

func (s *fleet) serve(at *station) {
	for at.busy < at.workers && len(at.queue) > 0 {
		c := at.queue[0]
		at.queue = at.queue[1:]
		at.busy++
		measure := func() {
			took := s.now.Sub(c.began).Seconds()
			at.limiter.answered(c.of, took)
			s.took += took
		}
		if at.first != nil {
			s.at(at.first(s), measure)
		}
		s.at(at.service(s), func() {
			at.busy--
			at.calls--
			at.seats--
			if at.first == nil {
				measure()
			}
			at.done++
			s.done++
			if s.seen != nil {
				s.seen(s, at)
			}
			after := 0.0
			if s.think != nil {
				after = s.think(s)
			}
			s.at(after, func() { s.send(c.id) })
			s.serve(at)
			s.pump()
		})
	}
}

// run is calls answered a second and the mean time at the replicas.
func (s *fleet) run(seconds float64) (perSecond, mean float64) {
	s.done, s.took = 0, 0
	end := s.now.Add(time.Duration(seconds * float64(time.Second)))
	for len(s.events) > 0 && s.events[0].at.Before(end) {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		e.do()
	}
	s.now = end
	return float64(s.done) / seconds, s.took / float64(max(s.done, 1))
}

func always(seconds float64) func(*fleet) float64 { return func(*fleet) float64 { return seconds } }

func exponentially(mean float64) func(*fleet) float64 {
	return func(s *fleet) float64 { return mean * s.random.ExpFloat64() }
}

// watch notes the limits of a station from now on.
type watch struct {
	lo, hi, n int
	sum       float64
}

func (w *watch) of(at *station) func(*fleet, *station) {
	*w = watch{lo: 1 << 30}
	return func(_ *fleet, answered *station) {
		if answered != at || at.limiter.probing {
			return
		}
		now := at.limiter.now()
		w.lo, w.hi, w.n, w.sum = min(w.lo, now), max(w.hi, now), w.n+1, w.sum+float64(now)
	}
}

func (w *watch) mean() float64 { return w.sum / float64(w.n) }

// TestLimitFindsTheKnee: a replica of so many workers is kept busy, and no more waits there than the tolerance and the queue are: about
// half as much again as it has workers, and 4. That is so for times that are all the same and for such as differ much.
func TestLimitFindsTheKnee(t *testing.T) {
	for _, workers := range []int{1, 2, 4, 16, 64, 256} {
		for name, draw := range map[string]func(*fleet) float64{"always": always(0.1), "exponential": exponentially(0.1)} {
			for seed := range uint64(2) {
				at := &station{workers: workers, service: draw}
				s := newFleet(seed, at).clients(10*workers + 50)
				s.run(100)
				var w watch
				s.seen = w.of(at)
				got, mean := s.run(100)
				part, knee := got/(float64(workers)/0.1), float64(workers)
				t.Logf("%d workers, %s: %.3f of what they can do, %.2f times as long, limit %d to %d, %.0f on average", workers, name, part, mean/0.1, w.lo, w.hi, w.mean())
				if part < 0.95 {
					t.Errorf("%d workers, %s: %.3f of what they can do", workers, name, part)
				}
				if w.mean() < knee || w.mean() > 1.6*knee+6 {
					t.Errorf("%d workers, %s: a limit of %.0f on average", workers, name, w.mean())
				}
				if float64(w.hi) > 2.2*w.mean()+4 || float64(w.lo) < w.mean()/2.2-4 {
					t.Errorf("%d workers, %s: between %d and %d, %.0f on average", workers, name, w.lo, w.hi, w.mean())
				}
			}
		}
	}
}

// TestLimitFollows: a replica that takes longer from some time on is no reason for fewer, one that has more workers is for more, and
// one that has fewer for fewer; and it is all undone where that passes.
func TestLimitFollows(t *testing.T) {
	for _, tt := range []struct {
		name       string
		workers    int
		service    float64
		least, top float64
	}{
		{"half as fast", 16, 0.2, 16, 36},
		{"four times as slow", 16, 0.4, 16, 36},
		{"twice as fast", 16, 0.05, 16, 36},
		{"half of the workers", 8, 0.1, 8, 20},
		{"four times the workers", 64, 0.1, 64, 120},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := &station{workers: 16, service: exponentially(0.1)}
			s := newFleet(5, at).clients(400)
			s.run(100)
			for _, now := range []struct {
				workers            int
				service, least, to float64
			}{{tt.workers, tt.service, tt.least, tt.top}, {16, 0.1, 16, 36}} {
				at.workers, at.service = now.workers, exponentially(now.service)
				s.serve(at)
				s.seen = nil
				s.run(150)
				var w watch
				s.seen = w.of(at)
				got, _ := s.run(100)
				part := got / (float64(now.workers) / now.service)
				t.Logf("%d workers of %v s: %.3f of what they can do, limit %.0f", now.workers, now.service, part, w.mean())
				if part < 0.95 || w.mean() < now.least || w.mean() > now.to {
					t.Errorf("%d workers of %v s: %.3f of what they can do, limit %.0f, want %v to %v", now.workers, now.service, part, w.mean(), now.least, now.to)
				}
			}
		})
	}
}

// TestLimitsOfUnlikeReplicas: each has its own.
func TestLimitsOfUnlikeReplicas(t *testing.T) {
	few, many, slow := &station{workers: 4, service: exponentially(0.1)}, &station{workers: 32, service: exponentially(0.1)}, &station{workers: 16, service: exponentially(0.4)}
	s := newFleet(1, few, many, slow).clients(500)
	s.run(200)
	for _, at := range s.stations {
		at.done = 0
	}
	s.run(200)
	for _, at := range s.stations {
		capacity := float64(at.workers) / map[bool]float64{true: 0.4, false: 0.1}[at == slow]
		part, limit := float64(at.done)/200/capacity, at.limiter.limit
		t.Logf("%d workers: limit %.0f, %.3f of what they can do", at.workers, limit, part)
		if part < 0.95 || limit < float64(at.workers) || limit > 2*float64(at.workers)+6 {
			t.Errorf("%d workers: limit %.0f, %.3f of what they can do", at.workers, limit, part)
		}
	}
}

// TestLimitOfStreams: what counts is the time to the first piece of a stream, however long the rest takes: a server that has room for so
// many streams at once is given as many, and few wait for their first piece.
func TestLimitOfStreams(t *testing.T) {
	for _, room := range []int{8, 64, 256} {
		first, rest := 0.05, 2.0
		at := &station{workers: room}
		s := newFleet(1, at).clients(4*room + 40)
		at.service = func(s *fleet) float64 { return rest * (0.5 + s.random.Float64()) }
		at.first = func(s *fleet) float64 { return first * (0.7 + 0.6*s.random.Float64()) }
		s.run(300)
		var w watch
		s.seen = w.of(at)
		got, mean := s.run(300)
		part := got / (float64(room) / rest)
		t.Logf("room for %d: %.3f of it used, %.0f ms to the first, limit %.0f", room, part, mean*1e3, w.mean())
		if part < 0.93 || w.mean() > 1.3*float64(room)+6 {
			t.Errorf("room for %d: %.3f of it used, limit %.0f", room, part, w.mean())
		}
	}
}

// TestLimitWhileLittleIsDone: where few calls come, the limit stays as it is, whatever they take.
func TestLimitWhileLittleIsDone(t *testing.T) {
	at := &station{workers: 100, service: exponentially(0.1)}
	s := newFleet(1, at).clients(5)
	s.run(500)
	if at.limiter.limit != limitStart || at.limiter.probing {
		t.Errorf("%.0f, probing %v", at.limiter.limit, at.limiter.probing)
	}
}

// TestLimitRefusals: a replica that refuses what is too much gets less, once for all that it had; bounds hold.
func TestLimitRefusals(t *testing.T) {
	l := newLimiter(10, 100)
	var all []begun
	for i := range 20 {
		all = append(all, l.begin(i+1))
	}
	for _, of := range all {
		l.refused(of)
	}
	if l.now() != 18 {
		t.Errorf("%d after 20 refusals at once, want 18", l.now())
	}
	for range 50 {
		l.refused(l.begin(1))
	}
	if l.now() != 10 || l.pending != 0 {
		t.Errorf("%d, %d pending; want no less than 10, and none", l.now(), l.pending)
	}
	if before, after, ok := l.tell(); !ok || before != 20 || after != 10 {
		t.Errorf("told of %d to %d: %v", before, after, ok)
	}
	if _, _, ok := l.tell(); ok {
		t.Error("told twice")
	}
	l.forgotten(l.begin(1))
	if l.now() != 10 || l.pending != 0 {
		t.Errorf("%d after a client that went", l.now())
	}
	for range 9 {
		l.answered(l.begin(l.now()), 0.1)
	}
	if l.now() != 18 {
		t.Errorf("%d where it answers again, want what there was after the first refusal, 18", l.now())
	}
	for range 10000 { // in no time
		of := l.begin(l.now())
		l.answered(of, 0.1)
	}
	if l.now() < 50 || l.now() > 100 {
		t.Errorf("%d where nothing speaks against more, want up to 100", l.now())
	}
	if newLimiter(1, 5).now() != 5 || newLimiter(40, 50).now() != 40 {
		t.Error("it starts out of bounds")
	}
}

// TestLimitOfAReplicaThatHangs: calls that are never answered do not stop a probe.
func TestLimitOfAReplicaThatHangs(t *testing.T) {
	l := newLimiter(1, 1000)
	l.answered(l.begin(1), 0.1)
	l.begin(1) // never answered
	for range 100 {
		l.answered(l.begin(15), 0.1)
	}
	for range 2000 {
		l.answered(l.begin(l.now()), 0.1)
	}
	if l.probing || l.now() <= limitStart {
		t.Errorf("limit %d, probing %v", l.now(), l.probing)
	}
}

// TestLimitOfLongStreams: streams that last for minutes, of which nearly all have their first piece, are no sign of a queue, whatever the
// first pieces took: a limit that is as much as the clients need is not lowered to see what a replica without a queue would take, for
// which they would wait until half of the streams have ended. A server that has room for fewer has those wait here.
func TestLimitOfLongStreams(t *testing.T) {
	for _, tt := range []struct {
		name        string
		first       func(s *fleet) float64
		room        int
		clients     int
		least, most float64 // of the limit
	}{
		{"room for all", func(s *fleet) float64 { return 0.2 * (0.7 + 0.6*s.random.Float64()) }, 1000, 40, 40, 1000},
		{"longer with each", func(s *fleet) float64 { return 0.05 + 0.01*float64(s.stations[0].busy) }, 1000, 40, 40, 1000},
		{"questions of any length", func(s *fleet) float64 { return 0.3 * s.random.ExpFloat64() * s.random.ExpFloat64() }, 1000, 40, 40, 1000},
		{"room for fewer", always(0.2), 32, 60, 32, 38},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := &station{workers: tt.room, first: tt.first}
			at.service = func(s *fleet) float64 { return 120 * (0.5 + s.random.Float64()) }
			s := newFleet(3, at).clients(tt.clients)
			s.run(4 * 3600)
			lo, hi := 1000, 0
			s.seen = func(*fleet, *station) { lo, hi = min(lo, at.limiter.now()), max(hi, at.limiter.now()) }
			got, _ := s.run(24 * 3600)
			part := got * 120 / float64(min(tt.room, tt.clients))
			t.Logf("limit %d to %d, %.3f of the room used", lo, hi, part)
			if float64(lo) < tt.least || float64(hi) > tt.most || part < 0.99 {
				t.Errorf("a limit of %d to %d, want %v to %v; %.3f of the room is used", lo, hi, tt.least, tt.most, part)
			}
		})
	}
}
