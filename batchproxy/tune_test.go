package batchproxy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// teach has a batcher see batches of these sizes of a replica that takes b + a·n ms.
func teach(q *Batcher[int], now time.Time, b, a float64, times int, sizes ...int) {
	for range times {
		for _, n := range sizes {
			q.Answered(now, []byte("a"), n, ms(b+a*float64(n)))
		}
	}
}

func TestLearnedMaximum(t *testing.T) {
	for _, tt := range []struct {
		name string
		rule Rule
		b, a float64 // ms
		want int
	}{
		{"a gain up to the last row", Rule{}, 8, 0.25, 32},
		{"most of it is there before", Rule{SLO: time.Second}, 0.5, 1, 8},
		{"most of it is there before, and nobody asked for short batches", Rule{}, 0.5, 1, 32},
		{"for latency more is given", Rule{Objective: ObjectiveLatency}, 2, 1, 17},
		{"for throughput nothing is", Rule{Objective: ObjectiveThroughput, SLO: time.Second}, 0.5, 1, 32},
		{"half of the slo", Rule{SLO: ms(20)}, 8, 0.25, 8},
		{"not even one row is in time", Rule{SLO: ms(10)}, 8, 0.25, 1},
		{"the slo is long", Rule{SLO: ms(100)}, 8, 0.25, 32},
		{"no gain", Rule{}, 0.1, 2, 1},
		{"no gain, and told to", Rule{Mode: ModeGreedy}, 0.1, 2, 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rule := tt.rule
			if rule.Mode == "" {
				rule.Mode = ModeAdaptive
			}
			rule.MaxSize, rule.MaxQueue, rule.Timeout, rule.MaxWait = 32, 10, time.Minute, ms(10)
			q := NewBatcher[int](rule)
			teach(q, time.Unix(0, 0), tt.b, tt.a, 20, 1, 4, 16, 32)
			if q.effective != tt.want {
				t.Errorf("batches of up to %d, want %d", q.effective, tt.want)
			}
		})
	}
}

// TestParametersStay: noise of a few percent around a point where another size would be the best changes nothing.
func TestParametersStay(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 10, Timeout: time.Minute, SLO: ms(32)}) // S(32) is half of it
	now := time.Unix(0, 0)
	for i := range 500 {
		factor := 1 + 0.03*float64(i%3-1)
		teach(q, now, 8*factor, 0.25*factor, 1, 1, 8, 16, 32)
	}
	if changes := q.Changes(); len(changes) != 0 {
		t.Errorf("changed: %+v", changes)
	}
}

// trialBatches is how many batches a trial has where there is enough to do: after each of several rows two of one, until there are enough of both.
const trialBatches = 2*probeRun + 1

// TestOffAndOnAgain: a model that does not gain is not batched, a probe now and then notices one that does.
func TestOffAndOnAgain(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 100, Timeout: time.Minute, MaxWait: ms(10)})
	now := time.Unix(0, 0)
	teach(q, now, 0.1, 2, 20, 1, 4, 16)
	if diff := cmp.Diff([]Change{{"batching", 1, 0}, {"effective_max_batch", 32, 1}}, q.Changes()); diff != "" {
		t.Fatal(diff)
	}
	sizes := map[int]int{}
	send := func(b, a float64, batches int) {
		for i := range batches {
			for q.Len() < 12 {
				q.Arrive(now, []byte("a"), 1, i)
			}
			out, ok := q.Next(now, false)
			if !ok {
				t.Fatal("nothing leaves")
			}
			sizes[out.Items]++
			now = now.Add(ms(b + a*float64(out.Items)))
			q.Answered(now, []byte("a"), out.Items, ms(b+a*float64(out.Items)))
		}
	}
	send(0.1, 2, probeEvery+trialBatches+2*probeEvery+trialBatches)
	if diff := cmp.Diff(map[int]int{1: 3*probeEvery + 2*(trialBatches-probeRun), maxProbe: 2 * probeRun}, sizes); diff != "" {
		t.Error(diff)
	}
	if changes := q.Changes(); len(changes) != 0 {
		t.Errorf("changed by trials that gain nothing: %+v", changes)
	}
	send(2, 0.1, 4*probeEvery+trialBatches+probeEvery) // another version of the model
	if q.off || q.effective < 16 {
		t.Errorf("off: %v, batches of up to %d: a gain of %.1f was not noticed", q.off, q.effective, q.service.gain(32))
	}
}

// TestTrialsAreOfOneMinute: a server that is faster or slower than it was when batching was found not to pay is no gain.
func TestTrialsAreOfOneMinute(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 100, Timeout: time.Minute, MaxWait: ms(10)})
	now := time.Unix(0, 0)
	teach(q, now, 0, 2, 20, 1, 4, 16)
	q.Changes()
	for batch := range 20 * probeEvery {
		for q.Len() < 12 {
			q.Arrive(now, []byte("a"), 1, 0)
		}
		out, _ := q.Next(now, false)
		took := ms((2 + float64(batch/3000%2)) * float64(out.Items)) // half as slow again, and back
		now = now.Add(took)
		q.Answered(now, []byte("a"), out.Items, took)
	}
	if changes := q.Changes(); len(changes) != 0 || !q.off {
		t.Errorf("changed: %+v", changes)
	}
}

// TestTooLarge: a batch that was refused is half as large from then on, and slowly more.
func TestTooLarge(t *testing.T) {
	for _, mode := range []Mode{ModeAdaptive, ModeTimeout, ModeGreedy} {
		q := NewBatcher[int](Rule{Mode: mode, MaxSize: 32, MaxQueue: 100, Timeout: time.Hour, MaxWait: time.Hour})
		q.fresh = false
		now := time.Unix(0, 0)
		q.TooLarge(now, 1) // says nothing of batches
		q.TooLarge(now, 32)
		q.TooLarge(now, 16) // its halves
		q.TooLarge(now, 30) // an older one
		for i := range 20 {
			q.Arrive(now, []byte("a"), 1, i)
		}
		if out, ok := q.Next(now, false); !ok || out.Items != 8 || out.Reason != full {
			t.Errorf("%s: %d rows for %s, want 8, full", mode, out.Items, out.Reason)
		}
		if diff := cmp.Diff([]Change{{"effective_max_batch", 32, 16}, {"effective_max_batch", 16, 8}}, q.Changes()); diff != "" {
			t.Errorf("%s: %s", mode, diff)
		}
		now = now.Add(raiseEvery)
		teach(q, now, 8, 0.25, 1, 8)
		teach(q, now, 8, 0.25, 1, 8)
		if q.effective != 9 {
			t.Errorf("%s: %d rows a minute later, want 9", mode, q.effective)
		}
		for range 40 {
			now = now.Add(raiseEvery)
			teach(q, now, 8, 0.25, 1, 8)
		}
		if q.effective != 32 {
			t.Errorf("%s: %d rows when no batch was refused for 40 minutes, want 32", mode, q.effective)
		}
	}
}

// TestForget: other replicas are measured anew, with all that a batch may have; with less at first where batches gained nothing.
func TestForget(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 100, Timeout: time.Minute})
	teach(q, time.Unix(0, 0), 0.1, 2, 20, 1, 4, 16)
	q.TooLarge(time.Unix(0, 0), 16)
	q.Changes()
	q.Forget(time.Unix(1, 0))
	if q.service.known || q.off || q.effective != 32 || q.largest() != maxProbe {
		t.Errorf("still known: %+v, off %v, up to %d, now %d", q.service, q.off, q.effective, q.largest())
	}
	if diff := cmp.Diff([]Change{{"batching", 0, 1}, {"effective_max_batch", 1, 32}}, q.Changes()); diff != "" {
		t.Error(diff)
	}
	teach(q, time.Unix(1, 0), 8, 0.25, 20, 1, 4, 16)
	q.Forget(time.Unix(2, 0))
	if q.service.known || q.largest() != 32 {
		t.Errorf("still known: %+v, up to %d", q.service, q.largest())
	}
}

// TestFirstBatches: until it was tried whether batching pays, which the first batch begins, none has more rows than that takes. Where each of
// the first that count says loudly that it does, that is enough; where it does not, batching is off after as few.
func TestFirstBatches(t *testing.T) {
	for _, tt := range []struct {
		name string
		rule Rule
		b, a float64 // ms
		want []int   // rows of the first batches, of which the first warmUps of each size do not count
	}{
		{"much to gain", Rule{}, 8, 0.25, []int{4, 4, 4, 1, 1, 1, 32, 32}},
		{"something to gain", Rule{}, 8, 8, []int{4, 4, 4, 1, 1, 1, 1, 4, 1, 1, 4, 32, 32}},
		{"nothing to gain", Rule{}, 0.1, 9, []int{4, 4, 4, 1, 1, 1, 1, 4, 1, 1, 4, 4, 1, 1, 4, 1, 1, 4, 1, 1, 1}},
		{"more are wanted in any", Rule{MinSize: 6}, 8, 0.25, []int{6, 6, 6, 1, 1, 1, 32}},
		{"some sizes are allowed", Rule{AllowedSizes: []int{1, 2, 8, 32}}, 8, 0.25, []int{8, 8, 8, 1, 1, 1, 32}},
		{"small ones are allowed", Rule{AllowedSizes: []int{1, 2, 3}}, 8, 0.25, []int{3, 3, 3, 1, 1, 1}},
		{"a few are allowed", Rule{MaxSize: 2}, 8, 0.25, []int{2, 2, 2, 1, 1, 1, 2, 2}},
		{"no more than 8 were taken", Rule{MinSize: 10}, 8, 0.25, []int{8, 8, 8, 1, 1, 1, 8}},
		{"told to", Rule{Mode: ModeGreedy}, 0.1, 9, []int{32, 32, 32}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rule := Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 200, Timeout: time.Minute, AllowedSizes: tt.rule.AllowedSizes, MinSize: tt.rule.MinSize}
			if tt.rule.MaxSize > 0 {
				rule.MaxSize = tt.rule.MaxSize
			}
			if tt.rule.Mode != "" {
				rule.Mode = tt.rule.Mode
			}
			q := NewBatcher[int](rule)
			now := time.Unix(0, 0)
			if tt.rule.MinSize > 8 {
				q.TooLarge(now, 16)
			}
			var got []int
			for range tt.want {
				for q.Len() < 64 {
					q.Arrive(now, []byte("a"), 1, 0)
				}
				out, ok := q.Next(now, false)
				if !ok {
					t.Fatal("nothing leaves")
				}
				got = append(got, out.Items)
				took := ms(tt.b + tt.a*float64(out.Items))
				now = now.Add(took)
				q.Answered(now, []byte("a"), out.Items, took)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if off := tt.name == "nothing to gain"; q.off != off {
				t.Errorf("off %v, want %v", q.off, off)
			}
		})
	}
}

// TestFirstBatchesAreFew: where hardly two requests ever wait together, what is tried holds nobody back, and it is not over before it could
// be tried.
func TestFirstBatchesAreFew(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 200, Timeout: time.Minute})
	now := time.Unix(0, 0)
	send := func(requests int) int {
		for range requests {
			q.Arrive(now, []byte("a"), 1, 0)
		}
		out, _ := q.Next(now, true)
		took := ms(8 + 0.25*float64(out.Items))
		now = now.Add(took)
		q.Answered(now, []byte("a"), out.Items, took)
		return out.Items
	}
	text := func() string {
		var b strings.Builder
		if err := q.Explain(strings.Clone).WriteText(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if want := "batches of up to 4 rows, of 32 configured; more once it was tried whether batching pays"; !strings.Contains(text(), want) {
		t.Errorf("no %q in\n%s", want, text())
	}
	for i := range 1000 {
		if i == 20 || i == 500 {
			send(2)
		} else if send(1); q.Len() > 0 {
			t.Fatalf("%d are held back", q.Len())
		}
	}
	if !q.fresh {
		t.Error("it is over, with two batches that only warmed up")
	}
	if send(2); q.fresh || q.off {
		t.Errorf("fresh %v, off %v, after a batch that says it", q.fresh, q.off)
	}
	if want := "batches of up to 32 rows, of 32 configured\n"; !strings.Contains(text(), want) {
		t.Errorf("no %q in\n%s", want, text())
	}
}

// TestFirstTrialOfManyReplicas: it is not over before any of them could answer.
func TestFirstTrialOfManyReplicas(t *testing.T) {
	const replicas = 40
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 1000, Timeout: time.Minute})
	now := time.Unix(0, 0)
	for range 12 { // rounds of a batch of each
		q.Replicas(replicas, 0, 0)
		var sent []int
		for range replicas {
			for q.Len() < 64 {
				q.Arrive(now, []byte("a"), 1, 0)
			}
			out, _ := q.Next(now, false)
			sent = append(sent, out.Items)
		}
		now = now.Add(ms(100))
		for _, rows := range sent {
			q.Answered(now, []byte("a"), rows, ms(9*float64(rows)))
		}
	}
	if !q.off {
		t.Errorf("trying %v, fresh %v, batches of up to %d", q.trying, q.fresh, q.largest())
	}
}

// TestTrialsAgree: a second trial which finds the single requests slow, by accident, does not put in doubt what the first one found.
func TestTrialsAgree(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 200, Timeout: time.Minute, Widens: true})
	now := time.Unix(0, 0)
	for range 40 {
		for q.Len() < 64 {
			q.Arrive(now, []byte("a"), 1, 0)
		}
		out, _ := q.Next(now, false)
		took := ms(9 * float64(out.Items))
		if q.against == 1 && out.Items == 1 {
			took = 2 * took
		}
		now = now.Add(took)
		q.Answered(now, []byte("a"), out.Items, took)
	}
	if !q.off || q.contest.running {
		t.Errorf("off %v, contest %v", q.off, q.contest.running)
	}
}

// TestTrialOfNobody: while batching is off, a trial has a replica serve one batch at a time. Where no two requests of a lane wait
// together then, it ends all the same: a server that does several at once must not be held to one for ever.
func TestTrialOfNobody(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 100, Timeout: time.Minute, MaxWait: ms(10)})
	now := time.Unix(0, 0)
	teach(q, now, 0.1, 2, 20, 1, 4, 16)
	q.Changes()
	trying := 0
	for i := range 4 * probeEvery { // of two clients, of which one waits while the other is served
		q.Arrive(now, []byte("a"), 1, i)
		if out, ok := q.Next(now, false); !ok || out.Items != 1 {
			t.Fatalf("%d rows leave", out.Items)
		}
		if q.trying {
			trying++
		}
		now = now.Add(ms(2.1))
		q.Answered(now, []byte("a"), 1, ms(2.1))
	}
	if !q.off || trying == 0 || trying > 100 {
		t.Errorf("off %v, tried with %d of %d requests", q.off, trying, 4*probeEvery)
	}
}

// TestTrialAfterABatch: that a server is slow just after a large batch, whose memory it clears up, does not make batches pay. Where each of
// them takes half a second, this is known before there were many.
func TestTrialAfterABatch(t *testing.T) {
	q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 200, Timeout: time.Minute, MaxWait: ms(10), Widens: true})
	now, before := time.Unix(0, 0), 1
	full := 0
	for range 100 {
		for q.Len() < 64 {
			q.Arrive(now, []byte("a"), 1, 0)
		}
		out, _ := q.Next(now, false)
		took := ms(0.1 + 16*float64(out.Items))
		switch {
		case out.Items > 1 && !q.off:
			full++
		case before > 1:
			took = 5 * took / 2
		}
		before, now = out.Items, now.Add(took)
		q.Answered(now, []byte("a"), out.Items, took)
	}
	if most := 1 + warmUps + probeAgree*probeRun; !q.off || full > most {
		t.Errorf("off %v, after %d large batches, want no more than %d", q.off, full, most)
	}
}

// TestTrialsThatLeaveNoDoubt: where batching gains much, the trials of whether it does are soon rare; and where little, less so. They hold
// a replica to one batch at a time for a few batches alone, where it has several as it has much to do.
func TestTrialsThatLeaveNoDoubt(t *testing.T) {
	for _, tt := range []struct {
		name  string
		b, a  float64 // ms
		depth int
		tried []int // the batches of each trial
	}{
		{"very much to gain, one batch at a time", 8, 0.25, 1, []int{19, 14, 14}},
		{"very much to gain, two at a time", 8, 0.25, 2, []int{7, 2, 2}},
		{"much to gain, one batch at a time", 8, 1, 1, []int{19, 19, 19}},
		{"much to gain, two at a time", 8, 1, 2, []int{7, 7, 7}},
		{"something to gain", 8, 8, 1, []int{7, 7, 7, 7, 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 200, Timeout: time.Minute, MaxWait: ms(10)})
			q.depth.kept, q.fresh = tt.depth, false
			now := time.Unix(0, 0)
			for range 50 {
				for _, n := range []int{1, 4, 16, 32} {
					q.service.add(n, (tt.b+tt.a*float64(n))/1000)
				}
			}
			var tried []int
			was := false
			for range 2000 {
				for q.Len() < 64 {
					q.Arrive(now, []byte("a"), 1, 0)
				}
				if q.trying && !was {
					tried = append(tried, 0)
				}
				if was = q.trying; was {
					tried[len(tried)-1]++
				}
				out, _ := q.Next(now, false)
				took := ms(tt.b + tt.a*float64(out.Items))
				now = now.Add(took)
				q.Answered(now, []byte("a"), out.Items, took)
			}
			if diff := cmp.Diff(tt.tried, tried); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTrialsEnd: a trial ends where no request has one row, and where all ride alone, and replicas are no longer held to one at a time.
func TestTrialsEnd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		off   bool
		rows  int // of a request
		alone bool
	}{
		{"several rows each", false, 2, false},
		{"several rows each, without batches", true, 2, false},
		{"alone", false, 1, true},
		{"alone, with several rows each and without batches", true, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1, 0)
			b := NewBatcher[int](Rule{Mode: ModeAdaptive, MaxSize: 32, MaxQueue: 10, Timeout: time.Hour, LearnDepth: true, Widens: true})
			if tt.off {
				b.off, b.every, b.fresh = true, probeEvery, false
				b.tune(now)
			}
			b.trying, b.trial = true, trial{began: now}
			if tt.alone {
				b.Alone(simulated, now.Add(time.Hour))
			}
			batches := 0
			for ; b.trying && batches < 1000; batches++ {
				for b.Len() < 4 {
					b.Arrive(now, simulated, tt.rows, 0)
				}
				out, _ := b.Next(now, false)
				now = now.Add(4 * time.Second)
				b.Answered(now, simulated, out.Items, 4*time.Second)
			}
			if b.trying || batches > trialMost+1 {
				t.Errorf("after %d batches: trying %v", batches, b.trying)
			}
			if b.off != tt.off || b.fresh {
				t.Errorf("off %v, fresh %v", b.off, b.fresh)
			}
		})
	}
}
