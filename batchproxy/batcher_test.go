package batchproxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBatcher(t *testing.T) {
	type arrival struct {
		at    int // ms
		lane  string
		items int
	}
	for _, tt := range []struct {
		name     string
		arrivals []arrival
		at       int // ms: when Next is asked until it has nothing
		flush    bool
		want     []string // lane-of-first:indices:reason
		wake     int      // ms, -1 for none
	}{
		{"nothing", nil, 0, false, nil, -1},
		{"one, not due", []arrival{{0, "a", 1}}, 9, false, nil, 10},
		{"one, due", []arrival{{0, "a", 1}}, 10, false, []string{"[0] max_wait"}, -1},
		{"full", []arrival{{0, "a", 2}, {1, "a", 1}, {2, "a", 1}}, 2, false, []string{"[0 1 2] full"}, -1},
		{"full, one stays", []arrival{{0, "a", 3}, {1, "a", 2}}, 2, false, []string{"[0] full"}, 11},
		{"oversize alone", []arrival{{0, "a", 1}, {1, "a", 9}, {2, "a", 1}}, 2, false, []string{"[0] full", "[1] oversize"}, 12},
		{"the oldest lane first", []arrival{{0, "a", 1}, {1, "b", 4}, {2, "c", 4}}, 5, false, []string{"[1] full", "[2] full"}, 10},
		{"due before full", []arrival{{0, "a", 1}, {1, "b", 4}}, 10, false, []string{"[0] max_wait", "[1] full"}, -1},
		{"flush", []arrival{{0, "a", 1}, {1, "b", 1}}, 2, true, []string{"[0] drain", "[1] drain"}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Unix(0, 0)
			ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
			b := NewBatcher[int](Rule{MaxSize: 4, MaxWait: 10 * time.Millisecond, Timeout: time.Second, MaxQueue: 10})
			for i, a := range tt.arrivals {
				b.Arrive(ms(a.at), []byte(a.lane), a.items, i)
			}
			var got []string
			for {
				out, ok := b.Next(ms(tt.at), tt.flush)
				if !ok {
					break
				}
				var members []int
				for _, e := range out.Entries {
					members = append(members, e.Request)
				}
				got = append(got, fmt.Sprintf("%v %s", members, out.Reason))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			wake := -1
			if at := b.Wake(true); !at.IsZero() {
				wake = int(at.Sub(start).Milliseconds())
			}
			if wake != tt.wake {
				t.Errorf("wake at %d ms, want %d", wake, tt.wake)
			}
		})
	}
}

func TestBatcherLimits(t *testing.T) {
	start := time.Unix(0, 0)
	b := NewBatcher[int](Rule{MaxSize: 4, MaxWait: time.Millisecond, Timeout: time.Second, MaxQueue: 2})
	b.Arrive(start, []byte("a"), 1, 0)
	second := b.Arrive(start.Add(time.Millisecond), []byte("b"), 1, 1)
	if b.Arrive(start, []byte("a"), 1, 2) != nil {
		t.Error("a third request was taken where two are the limit")
	}
	if got := b.Wake(false); !got.Equal(start.Add(time.Second)) {
		t.Errorf("wake is %v with no replica free, want the timeout of the oldest", got)
	}
	if got := b.Expired(start.Add(time.Second)); len(got) != 1 || got[0].Entry.Request != 0 {
		t.Errorf("expired: %v, want the first request", got)
	}
	if !b.Gone(second) || b.Gone(second) || b.Len() != 0 {
		t.Error("gone must take a request out once")
	}
}

func TestBatcherAlone(t *testing.T) {
	start := time.Unix(0, 0)
	b := NewBatcher[int](Rule{MaxSize: 4, MaxWait: time.Hour, Timeout: 2 * time.Hour, MaxQueue: 10})
	b.Arrive(start, []byte("a"), 1, 0)
	b.Arrive(start, []byte("a"), 1, 1)
	b.Alone([]byte("a"), start.Add(time.Minute))
	for want := range 2 {
		if out, ok := b.Next(start, false); !ok || len(out.Entries) != 1 || out.Entries[0].Request != want {
			t.Fatalf("got %v %v, want request %d alone", out, ok, want)
		}
	}
	b.Arrive(start.Add(time.Second), []byte("a"), 1, 2)
	if out, ok := b.Next(start.Add(time.Second), false); !ok || out.Items != 1 {
		t.Errorf("got %v %v: a lane opened within the minute must not be batched", out, ok)
	}
	b.Arrive(start.Add(time.Minute), []byte("a"), 1, 3)
	if out, ok := b.Next(start.Add(time.Minute), false); ok {
		t.Errorf("got %v: the lane is batched again after the minute", out)
	}
}

// TestBatcherMetamorphic drives the batcher with random events and compares each decision with one that is made from a
// plain list of what is queued.
func TestBatcherMetamorphic(t *testing.T) {
	for seed := range uint64(300) {
		metamorphic(t, seed)
	}
}

type queuedRequest struct {
	entry *Entry[int]
	lane  string
	id    int
}

func metamorphic(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	rule := Rule{
		// What is adaptive leaves at once while nothing is known.
		Mode:    []Mode{ModeTimeout, ModeGreedy, ModeAdaptive}[random.IntN(3)],
		MaxSize: 1 + random.IntN(8), MaxWait: time.Duration(random.IntN(20)) * time.Millisecond,
		Timeout: time.Duration(30+random.IntN(100)) * time.Millisecond, MaxQueue: 5 + random.IntN(60),
	}
	b := NewBatcher[int](rule)
	b.fresh = false // batches have as many rows as they may
	now := time.Unix(0, 0)
	var queue []queuedRequest    // the plain list, by arrival
	var flying [][]queuedRequest // batches that may come back
	ended := make(map[int]string)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d, %+v: %s", seed, rule, fmt.Sprintf(format, args...))
	}
	end := func(q queuedRequest, how string) {
		if before, ok := ended[q.id]; ok {
			fail("request %d: %s after %s", q.id, how, before)
		}
		ended[q.id] = how
	}
	// ready is the request whose lane is to leave, by the rule as it is written down.
	ready := func(flush bool) (string, bool) {
		items := make(map[string]int)
		for _, q := range queue {
			items[q.lane] += q.entry.Items
		}
		for _, q := range queue {
			first := slices.IndexFunc(queue, func(o queuedRequest) bool { return o.lane == q.lane })
			due := now.Sub(queue[first].entry.Arrived) >= rule.MaxWait || rule.Mode != ModeTimeout
			if due || flush || items[q.lane] >= rule.MaxSize {
				return q.lane, true
			}
		}
		return "", false
	}
	came := 0
	for range 400 {
		switch random.IntN(12) {
		case 0, 1, 2, 3, 4:
			lane := string(rune('a' + random.IntN(3)))
			items := 1 + random.IntN(3)
			if random.IntN(20) == 0 {
				items = 20
			}
			e := b.Arrive(now, []byte(lane), items, came)
			if (e == nil) != (len(queue) >= rule.MaxQueue) {
				fail("arrive gave %v with %d queued", e, len(queue))
			}
			if e != nil {
				queue = append(queue, queuedRequest{e, lane, came})
				came++
			}
		case 5, 6, 7, 8:
			flush := random.IntN(10) == 0
			wantLane, want := ready(flush)
			out, ok := b.Next(now, flush)
			if ok != want {
				fail("next is %v, want %v", ok, want)
			}
			if !ok {
				if wake := b.Wake(true); len(queue) > 0 && (!wake.After(now) || wake.After(queue[0].entry.Arrived.Add(max(rule.MaxWait, rule.Timeout)))) {
					fail("holding %d and waking at %v", len(queue), wake.Sub(now))
				}
				continue
			}
			var batch []queuedRequest
			sum := 0
			for _, e := range out.Entries {
				at := slices.IndexFunc(queue, func(q queuedRequest) bool { return q.lane == wantLane })
				if at < 0 || queue[at].id != e.Request {
					fail("request %d left out of turn", e.Request)
				}
				batch = append(batch, queue[at])
				sum += e.Items
				queue = slices.Delete(queue, at, at+1)
			}
			if sum != out.Items || sum > rule.MaxSize && len(batch) > 1 {
				fail("a batch of %d rows in %d requests that says %d", sum, len(batch), out.Items)
			}
			if at := slices.IndexFunc(queue, func(q queuedRequest) bool { return q.lane == wantLane }); at >= 0 && sum+queue[at].entry.Items <= rule.MaxSize {
				fail("request %d was left behind and fits", queue[at].id)
			}
			flying = append(flying, batch)
		case 9:
			if len(queue) > 0 {
				at := random.IntN(len(queue))
				if !b.Gone(queue[at].entry) {
					fail("request %d was not there", queue[at].id)
				}
				end(queue[at], "gone")
				queue = slices.Delete(queue, at, at+1)
			}
		case 10:
			if len(flying) == 0 {
				continue
			}
			at := random.IntN(len(flying))
			batch := flying[at]
			flying = slices.Delete(flying, at, at+1)
			if random.IntN(2) == 0 {
				for _, q := range batch {
					end(q, "answered")
				}
				continue
			}
			var entries []*Entry[int]
			for _, q := range batch {
				entries = append(entries, q.entry)
			}
			b.Back(now, []byte(batch[0].lane), entries)
			queue = append(queue, batch...)
			slices.SortFunc(queue, func(x, y queuedRequest) int { return x.id - y.id })
		case 11:
			now = now.Add(time.Duration(random.IntN(8)) * time.Millisecond)
			for _, lost := range b.Expired(now) {
				e := lost.Entry
				at := slices.IndexFunc(queue, func(q queuedRequest) bool { return q.id == e.Request })
				if at < 0 || now.Sub(e.Arrived) < rule.Timeout {
					fail("request %d expired", e.Request)
				}
				end(queue[at], "expired")
				queue = slices.Delete(queue, at, at+1)
			}
			if len(queue) > 0 && now.Sub(queue[0].entry.Arrived) >= rule.Timeout {
				fail("request %d is past its time", queue[0].id)
			}
		}
		if b.Len() != len(queue) {
			fail("%d queued, want %d", b.Len(), len(queue))
		}
	}
	for _, batch := range flying {
		for _, q := range batch {
			end(q, "answered")
		}
	}
	if len(ended)+len(queue) != came {
		fail("%d ended and %d queued of %d", len(ended), len(queue), came)
	}
}
