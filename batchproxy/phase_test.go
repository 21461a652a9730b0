package batchproxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// taught is a batcher that knows S(n) = 8 ms + 0.25 ms n, and the time to go on from.
func taught(rule Rule) (*Batcher[int], time.Time) {
	rule.Timeout, rule.MaxQueue = time.Minute, 1000
	if rule.MaxSize == 0 {
		rule.MaxSize = 32
	}
	b := NewBatcher[int](rule)
	now := time.Unix(1000, 0)
	for range 30 {
		for _, n := range []int{1, 8, 16, 32} {
			b.Answered(now, []byte("other"), n, ms(8+0.25*float64(n)))
		}
	}
	return b, now
}

// cyclesOf has a lane's clients come back, all of them, 1 ms after each answer, one every 0.1 ms. It returns the time of the
// last answer.
func cyclesOf(b *Batcher[int], now time.Time, clients, cycles int) time.Time {
	name := []byte("a")
	b.Arrive(now, name, 1, 0)
	for b.Len() > 0 {
		if _, ok := b.Next(now, true); !ok {
			break
		}
	}
	for range cycles {
		b.Answered(now, name, clients, ms(8+0.25*float64(clients)))
		for i := range clients {
			b.Arrive(now.Add(ms(1+0.1*float64(i))), name, 1, i)
		}
		now = now.Add(ms(1 + 0.1*float64(clients)))
		for b.Len() > 0 {
			b.Next(now, true)
		}
		now = now.Add(ms(8 + 0.25*float64(clients)))
	}
	b.Answered(now, name, clients, ms(8+0.25*float64(clients)))
	return now
}

func TestModes(t *testing.T) {
	for _, tt := range []struct {
		name     string
		rule     Rule
		arrive   []int         // rows
		deadline time.Duration // of the first, from its arrival; 0 without
		at       []float64     // ms after they came, when Next is asked
		want     []string      // what leaves: rows and reason
	}{
		{"greedy", Rule{Mode: ModeGreedy, MaxWait: ms(10)}, []int{1, 1}, 0, []float64{0}, []string{"2 greedy"}},
		{"off", Rule{Mode: ModeOff, MaxWait: ms(10)}, []int{1, 1}, 0, []float64{0, 0}, []string{"1 solo", "1 solo"}},
		{"timeout", Rule{Mode: ModeTimeout, MaxWait: ms(10)}, []int{1, 1}, 0, []float64{0, 9, 10}, []string{"-", "-", "2 max_wait"}},
		{"adaptive, nobody comes back", Rule{Mode: ModeAdaptive, MaxWait: ms(10)}, []int{1, 1}, 0, []float64{0}, []string{"2 greedy"}},
		{"full", Rule{Mode: ModeAdaptive, MaxSize: 4, MaxWait: ms(10)}, []int{1, 1, 1, 1, 1}, 0, []float64{0}, []string{"4 full"}},
		{"oversize", Rule{Mode: ModeAdaptive, MaxSize: 4, MaxWait: ms(10)}, []int{9}, 0, []float64{0}, []string{"9 oversize"}},
		{"min_size", Rule{Mode: ModeAdaptive, MinSize: 3, MaxWait: ms(10)}, []int{1, 1}, 0, []float64{0, 9, 10}, []string{"-", "-", "2 max_wait"}},
		{"min_size of a greedy one", Rule{Mode: ModeGreedy, MinSize: 3, MaxWait: ms(10)}, []int{1, 1}, 0, []float64{0, 9, 10}, []string{"-", "-", "2 max_wait"}},
		{"cost: for as long as it may", Rule{Mode: ModeAdaptive, Objective: ObjectiveCost, MaxWait: ms(10)}, []int{1, 1}, 0, []float64{0, 9, 10}, []string{"-", "-", "2 max_wait"}},
		// 0.9 of 20 ms are 18, of which S(2) = 8.5 are for the batch.
		{"cost: the slo is sooner", Rule{Mode: ModeAdaptive, Objective: ObjectiveCost, MaxWait: ms(50), SLO: ms(20)}, []int{1, 1}, 0, []float64{0, 9.4, 9.6}, []string{"-", "-", "2 deadline"}},
		{"cost: a deadline is sooner", Rule{Mode: ModeAdaptive, Objective: ObjectiveCost, MaxWait: ms(50)}, []int{1, 1}, ms(20), []float64{0, 9.4, 9.6}, []string{"-", "-", "2 deadline"}},
		{"allowed sizes", Rule{Mode: ModeGreedy, AllowedSizes: []int{1, 2, 4, 8}, MaxWait: ms(10)}, []int{1, 1, 1, 1, 1, 1}, 0, []float64{0, 0}, []string{"4 shape", "2 greedy"}},
		{"allowed sizes, rows that do not fit", Rule{Mode: ModeGreedy, AllowedSizes: []int{4, 8}, MaxWait: ms(10)}, []int{3, 3}, 0, []float64{0}, []string{"6 greedy"}},
		{"allowed sizes, the rest would be late", Rule{Mode: ModeGreedy, AllowedSizes: []int{4, 8}, MaxWait: ms(10), SLO: ms(15)}, []int{1, 1, 1, 1, 1, 1}, 0, []float64{0}, []string{"6 greedy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, now := taught(tt.rule)
			for i, rows := range tt.arrive {
				e := b.Arrive(now, []byte("a"), rows, i)
				if i == 0 && tt.deadline > 0 {
					e.Deadline = now.Add(tt.deadline)
				}
			}
			var got []string
			for _, at := range tt.at {
				out, ok := b.Next(now.Add(ms(at)), false)
				if !ok {
					got = append(got, "-")
					if wake := b.Wake(true); !wake.After(now.Add(ms(at))) {
						t.Errorf("holds at %v ms and wakes at %v", at, wake.Sub(now))
					}
					continue
				}
				got = append(got, fmt.Sprintf("%d %s", out.Items, out.Reason))
				if !slices.Contains(Reasons(), out.Reason) {
					t.Errorf("reason %q is none of Reasons", out.Reason)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestUrgentIsNotHeld: a request above the normal class takes those that wait with it along, whatever they were held for. Where its lane is
// not ready for it, another's is not held up; and those below the normal class are held.
func TestUrgentIsNotHeld(t *testing.T) {
	const high, normal, low = 0, 1, 2
	classes := []Class{{"high", ms(50)}, {"normal", ms(100)}, {"low", ms(400)}}
	for name, rule := range map[string]Rule{
		"timeout":  {Mode: ModeTimeout, MaxWait: ms(10)},
		"min_size": {Mode: ModeAdaptive, MinSize: 8, MaxWait: ms(10)},
		"greedy":   {Mode: ModeGreedy, MinSize: 8, MaxWait: ms(10)},
		"cost":     {Mode: ModeAdaptive, Objective: ObjectiveCost, MaxWait: ms(10)},
	} {
		t.Run(name, func(t *testing.T) {
			rule.Classes, rule.Normal = classes, normal
			b, now := taught(rule)
			for _, class := range []int{normal, low} {
				b.Admit(now, []byte("a"), 1, 0, Terms{Class: class})
				b.Admit(now, []byte("other"), 1, 0, Terms{Class: class})
			}
			if out, ok := b.Next(now.Add(ms(1)), false); ok {
				t.Fatalf("%d rows left for %s, want them held", out.Items, out.Reason)
			}
			e, _ := b.Admit(now.Add(ms(2)), []byte("a"), 1, 0, Terms{Class: high})
			out, ok := b.Next(now.Add(ms(2)), false)
			if !ok || out.Items != 3 || out.Reason != priority || !slices.Contains(out.Entries, e) {
				t.Errorf("%d rows left for %q, want all 3 of the lane for priority", out.Items, out.Reason)
			}
			if out, ok := b.Next(now.Add(ms(2)), false); ok {
				t.Errorf("%d rows of another lane left for %s", out.Items, out.Reason)
			}
			e, _ = b.Admit(now.Add(ms(3)), []byte("other"), 1, 0, Terms{Class: high})
			b.Gone(e)
			if out, ok := b.Next(now.Add(ms(3)), false); ok {
				t.Errorf("%d rows left for %s although the urgent one had gone", out.Items, out.Reason)
			}
		})
	}
}

// TestMinSizeReleases: the row that makes it enough sends the batch.
func TestMinSizeReleases(t *testing.T) {
	for _, mode := range []Mode{ModeAdaptive, ModeGreedy} {
		b, now := taught(Rule{Mode: mode, MinSize: 2, MaxWait: ms(10)})
		b.Arrive(now, []byte("a"), 1, 0)
		if out, ok := b.Next(now, false); ok {
			t.Fatalf("%s: %+v left alone", mode, out)
		}
		b.Arrive(now.Add(ms(3)), []byte("a"), 1, 1)
		if out, ok := b.Next(now.Add(ms(3)), false); !ok || out.Items != 2 || out.Reason != minSize {
			t.Errorf("%s: %+v %v, want both for min_size", mode, out, ok)
		}
	}
}

// TestWaitsForThoseWhoComeBack: of eight clients that wait for their answers, all are waited for, and not those who have
// left.
func TestWaitsForThoseWhoComeBack(t *testing.T) {
	b, now := taught(Rule{Mode: ModeAdaptive, MaxWait: ms(10)})
	now = cyclesOf(b, now, 8, 20)
	for i := range 8 {
		at := now.Add(ms(1 + 0.1*float64(i)))
		b.Arrive(at, []byte("a"), 1, i)
		out, ok := b.Next(at, false)
		if i < 7 && ok {
			t.Fatalf("%d of 8 left: %+v", i+1, out)
		}
		if i == 7 && (!ok || out.Items != 8 || out.Reason != phase) {
			t.Fatalf("with all eight: %+v %v, want them to leave for phase", out, ok)
		}
	}
	now = now.Add(ms(11.7))
	b.Answered(now, []byte("a"), 8, ms(10))
	for i := range 7 { // the eighth never comes back
		b.Arrive(now.Add(ms(1+0.1*float64(i))), []byte("a"), 1, i)
	}
	at := now.Add(ms(1.6))
	out, ok := b.Next(at, false)
	for ok == false && at.Before(now.Add(ms(12))) {
		at = b.Wake(true)
		out, ok = b.Next(at, false)
	}
	if waited := at.Sub(now); !ok || out.Items != 7 || waited > ms(3.5) {
		t.Errorf("%+v %v after %v: one of eight is worth an eighth of a cycle, 1.1 ms, and no more", out, ok, waited)
	}
}

// TestObjectives: what is barely worth waiting for is waited for where throughput counts, and not where latency does.
func TestObjectives(t *testing.T) {
	waits := func(o Objective, rows int) bool {
		b, now := taught(Rule{Mode: ModeAdaptive, MaxWait: ms(50), Objective: o})
		// Clients that come when they like: after an answer to ten, now few and now many come within 2 ms.
		name := []byte("a")
		b.Arrive(now, name, 1, 0)
		b.Next(now, true)
		for cycle := range 40 {
			b.Answered(now, name, 10, ms(10.5))
			for i := range rows + 3*(2*(cycle%2)-1) {
				b.Arrive(now.Add(ms(1.9)), name, 1, i)
			}
			for b.Len() > 0 {
				b.Next(now.Add(ms(2)), true)
			}
			now = now.Add(ms(40))
		}
		for i := range 12 {
			b.Arrive(now, name, 1, i)
		}
		b.Answered(now, name, 10, ms(10.5))
		_, ok := b.Next(now, false)
		return !ok
	}
	for _, tt := range []struct {
		rows int // that are expected within 2 ms, beside 12 that are there
		want map[Objective]bool
	}{
		{4, map[Objective]bool{ObjectiveLatency: false, ObjectiveBalanced: false, ObjectiveThroughput: true}},
		{6, map[Objective]bool{ObjectiveLatency: false, ObjectiveBalanced: true, ObjectiveThroughput: true}},
		{9, map[Objective]bool{ObjectiveLatency: true, ObjectiveBalanced: true, ObjectiveThroughput: true}},
	} {
		got := map[Objective]bool{}
		for o := range tt.want {
			got[o] = waits(o, tt.rows)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%d rows: waits: %s", tt.rows, diff)
		}
	}
}

// TestExplanation: the decisions are told in numbers, the last 64 of them, and names of lanes as the caller has them.
func TestExplanation(t *testing.T) {
	b, now := taught(Rule{Mode: ModeAdaptive, MaxWait: ms(10)})
	now = cyclesOf(b, now, 8, 100)
	b.Arrive(now.Add(ms(1)), []byte("a"), 1, 0)
	b.Next(now.Add(ms(1)), false)
	for i := range 7 {
		b.Arrive(now.Add(ms(1.1+0.1*float64(i))), []byte("a"), 1, i)
	}
	if out, ok := b.Next(now.Add(ms(1.7)), false); !ok || out.Items != 8 {
		t.Fatalf("%+v %v", out, ok)
	}
	x := b.Explain(func(name string) string { return "lane " + name })
	if len(x.Decisions) != 64 {
		t.Errorf("%d decisions, want the last 64", len(x.Decisions))
	}
	d := x.Decisions[0]
	if d.Lane != "lane a" || d.Queued != 1 || d.Came != 7 || d.Sent != 8 || d.Reason != phase || len(d.Candidates) == 0 || d.Wait <= 0 || d.Gain <= 0 || d.Rows != 7 {
		t.Errorf("the last decision is %+v", d)
	}
	if d.Waited < 0.0006 || d.Waited > 0.0008 || d.Phase == nil || *d.Phase < 0.0009 || *d.Phase > 0.0011 {
		t.Errorf("waited %v s at phase %v, want 0.7 ms at 1 ms", d.Waited, d.Phase)
	}
	var text strings.Builder
	if err := x.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"S(n) = 8.00 ms + 0.25 ms * n", "16.50 times", "batches of up to 32 rows, of 32 configured", "lane lane a: 0 rows queued; closed", "phase"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

// TestLanesAreBounded: what is remembered of lanes that are empty does not grow with their number.
func TestLanesAreBounded(t *testing.T) {
	b, now := taught(Rule{Mode: ModeAdaptive, MaxWait: ms(10)})
	for i := range 10 * maxLanes {
		name := fmt.Appendf(nil, "lane %d", i)
		b.Arrive(now, name, 1, i)
		if _, ok := b.Next(now, false); !ok {
			t.Fatal("it is alone and does not leave")
		}
		b.Answered(now, name, 1, ms(8.25))
		now = now.Add(time.Millisecond)
	}
	if len(b.lanes) > maxLanes+1 {
		t.Errorf("%d lanes", len(b.lanes))
	}
	long := make([]byte, maxName+1)
	b.Arrive(now, long, 1, 0)
	b.Next(now, true)
	if b.lanes[string(long)] != nil {
		t.Error("a lane with a long name is remembered")
	}
}

func TestDecidingAllocatesNothing(t *testing.T) {
	b, now := taught(Rule{Mode: ModeAdaptive, MaxWait: ms(10)})
	now = cyclesOf(b, now, 8, 20)
	b.Arrive(now.Add(ms(1)), []byte("a"), 1, 0)
	l := b.lanes["a"]
	if n := testing.AllocsPerRun(100, func() {
		l.held = false
		if _, ok := b.Next(now.Add(ms(1)), false); ok {
			t.Fatal("it does not wait")
		}
	}); n != 0 {
		t.Errorf("a decision allocates %v times", n)
	}
}

func BenchmarkNext(b *testing.B) {
	for _, lanes := range []int{1, 64} {
		for _, closed := range []bool{true, false} {
			kind := "open"
			if closed {
				kind = "closed"
			}
			b.Run(fmt.Sprintf("%d lanes, %s", lanes, kind), func(b *testing.B) {
				q, now := taught(Rule{Mode: ModeAdaptive, MaxWait: ms(10)})
				now = cyclesOf(q, now, 8, 20)
				a := q.lanes["a"]
				for i := range lanes {
					name := fmt.Appendf(nil, "lane %d", i)
					q.Arrive(now, name, 1, i)
					l := q.lanes[string(name)]
					l.profile = a.profile
					if !closed {
						l.profile.off = l.profile.total
					}
				}
				at := now.Add(ms(0.5))
				b.ReportAllocs()
				for b.Loop() {
					for _, l := range q.active.members {
						l.held = false // as after an arrival in each
					}
					if _, ok := q.Next(at, false); ok {
						b.Fatal("it does not wait")
					}
				}
			})
		}
	}
}

// BenchmarkArrive is a request's way through the batcher: its entry is the one allocation.
func BenchmarkArrive(b *testing.B) {
	for _, lanes := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d lanes", lanes), func(b *testing.B) {
			q, now := taught(Rule{Mode: ModeAdaptive, MaxWait: ms(10)})
			names := make([][]byte, lanes)
			for i := range names {
				names[i] = fmt.Appendf(nil, "lane %d", i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				q.Arrive(now, names[i%lanes], 1, i)
				if i++; i%(16*lanes) == 0 {
					for q.Len() > 0 {
						q.Next(now, true)
					}
				}
			}
		})
	}
}
