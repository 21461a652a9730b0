package batchproxy

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestPicker(t *testing.T) {
	now := time.Unix(100, 0)
	a, b, c := &replica{address: "a"}, &replica{address: "b"}, &replica{address: "c"}
	p := picker{replicas: []*replica{a, b, c}, inflight: 2, random: func(int) int { return 0 }} // the first two of those that may be
	for _, tt := range []struct {
		name  string
		set   func()
		avoid *replica
		want  *replica
	}{
		{"turn", func() {}, nil, a},
		{"turn again", func() {}, nil, b},
		{"longest ago", func() {}, nil, a},
		{"nothing in flight", func() { a.batches, a.rows, b.calls = 1, 1, 1 }, nil, c},
		{"fewer rows", func() { c.batches, c.rows, a.rows, b.calls = 1, 1, 9, 2 }, nil, b},
		{"a free slot", func() { c.batches, a.batches = 2, 2 }, nil, b},
		{"drained", func() { b.draining = true }, nil, nil},
		{"benched", func() { b.draining, a.batches, c.batches, a.bench = false, 0, 0, now.Add(1) }, b, c},
		{"another is busy", func() { c.batches = 2 }, b, nil},
		{"only the one to avoid", func() { c.left = true }, b, b},
		{"slower", func() { a.bench, a.rows, b.calls = time.Time{}, 0, 0; a.slow.add(now, 2) }, nil, b},
		{"slower than two rows are long", func() { a.batches, b.batches, b.rows, a.rows = 1, 1, 1, 1; a.slow.add(now, 9) }, nil, b},
		{"not that slow", func() { b.rows = 50 }, nil, a},
		{"failing its checks", func() { a.checks.failed = true }, nil, b},
		{"ejected", func() {
			a.checks.failed = false
			b.rows, a.rows = 50, 0
			a.outlier.until, a.outlier.halfOpen = now.Add(1), true
		}, nil, b},
		{"half open is tried at once", func() { a.outlier.until, b.rows, b.batches, a.batches, a.rows = now, 0, 0, 0, 0 }, nil, a},
		{"with one batch", func() { a.batches, a.rows = 1, 1 }, nil, b},
	} {
		tt.set()
		if got := batchTo(&p, now, tt.avoid); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	a.bench = now.Add(1)
	if got := p.wake(now); !got.Equal(now.Add(1)) {
		t.Errorf("wake is %v", got)
	}
	if got := p.ready(now); got != 1 {
		t.Errorf("%d ready, want 1", got)
	}
}

// TestTwoChoices: of ten replicas one is three times as slow, and gets much less than its share, while the others share alike.
func TestTwoChoices(t *testing.T) {
	p := picker{inflight: 100, random: rand.New(rand.NewPCG(1, 2)).IntN}
	for range 10 {
		p.replicas = append(p.replicas, new(replica))
	}
	now := time.Unix(100, 0)
	ends := make(map[time.Time][]*replica)
	got := make(map[*replica]int)
	const calls = 20_000
	for range calls {
		now = now.Add(time.Millisecond)
		for _, r := range ends[now] {
			r.calls--
			r.slow.add(now, map[bool]float64{true: 3, false: 1}[r == p.replicas[0]])
		}
		delete(ends, now)
		r := p.forCall(now, 0)
		r.calls++
		got[r]++
		took := 20 * time.Millisecond
		if r == p.replicas[0] {
			took *= 3
		}
		ends[now.Add(took)] = append(ends[now.Add(took)], r)
	}
	for i, r := range p.replicas {
		share := float64(got[r]) / calls
		if i == 0 && share > 0.03 || i > 0 && (share < 0.09 || share > 0.125) {
			t.Errorf("replica %d has %.3f of the calls", i, share)
		}
	}
}

// TestPeak: one slow answer counts at once, and is forgotten without others.
func TestPeak(t *testing.T) {
	now := time.Unix(100, 0)
	var p peak
	if v := p.value(now); v != 1 {
		t.Errorf("%g without answers, want 1", v)
	}
	p.add(now, 5)
	if v := p.value(now); v != 5 {
		t.Errorf("%g after an answer that took 5 times as long, want 5", v)
	}
	p.add(now.Add(time.Second), 1)
	if v := p.value(now.Add(time.Second)); v < 3 || v > 4.6 {
		t.Errorf("%g after one that did not, want less than 5, and not 1", v)
	}
	if v := p.value(now.Add(time.Minute)); v > 1.02 {
		t.Errorf("%g after a minute, want 1", v)
	}
}

// TestSlowStart: the share of a replica that is new rises from a tenth of what others have to all of it, and nothing waits
// for it where it is alone.
func TestSlowStart(t *testing.T) {
	begin := time.Unix(100, 0)
	a, b, c := new(replica), new(replica), &replica{since: begin}
	p := picker{replicas: []*replica{a, b, c}, inflight: 1, slowStart: 10 * time.Second, random: rand.New(rand.NewPCG(1, 2)).IntN}
	share := func(from time.Duration) float64 {
		n := 0
		for i := range 1000 {
			if batchTo(&p, begin.Add(from+time.Duration(i)*time.Millisecond), nil) == c {
				n++
			}
		}
		return float64(n) / 1000
	}
	for _, tt := range []struct {
		from      time.Duration
		low, high float64
	}{{0, .03, .06}, {4500 * time.Millisecond, .17, .25}, {20 * time.Second, .30, .37}} {
		if got := share(tt.from); got < tt.low || got > tt.high {
			t.Errorf("after %s it has %.3f, want %g to %g", tt.from, got, tt.low, tt.high)
		}
	}
	c.since, c.credit, a.draining, b.draining = begin, 0, true, true
	for range 10 {
		if batchTo(&p, begin, nil) != c {
			t.Fatal("the only one that is ready is not sent to")
		}
	}
	a.draining = false
	if got := batchTo(&p, begin, a); got != c && got != nil {
		t.Errorf("avoiding the other: got %v", got)
	} else if got == nil {
		t.Error("where the other is to be avoided, nothing is sent to the one that starts")
	}
	if got := p.wake(begin); !got.Equal(begin.Add(10 * time.Second)) {
		t.Errorf("wake is %v, want when it has started", got)
	}
}

// TestChosenNotSent: that there was nothing to send to a replica is no turn of it, nor does it use up what one that starts slowly may have.
func TestChosenNotSent(t *testing.T) {
	now := time.Unix(100, 0)
	a, b := new(replica), &replica{since: now, credit: 1, picked: 1}
	p := picker{replicas: []*replica{a, b}, turn: 1, inflight: 1, slowStart: 10 * time.Second, random: func(int) int { return 0 }}
	for range 3 {
		if p.forBatch(now, nil) != a || b.credit != 1 {
			t.Fatalf("a credit of %v, or the other's turn", b.credit)
		}
	}
	if batchTo(&p, now, nil) != a || b.credit == 1 || p.forBatch(now, nil) != b {
		t.Errorf("a credit of %v, or the same one again", b.credit)
	}
}

// batchTo is the replica that a batch is sent to.
func batchTo(p *picker, now time.Time, avoid *replica) *replica {
	r := p.forBatch(now, avoid)
	if r != nil {
		p.sent(now, r)
	}
	return r
}
