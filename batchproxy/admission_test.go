package batchproxy

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	prom "github.com/prometheus/common/model"

	"flyball/batchproxy/protocol"
)

// TestTermsOfHeaders: what a request is queued with, by its headers.
func TestTermsOfHeaders(t *testing.T) {
	came := time.Unix(100, 0)
	for _, tt := range []struct {
		name     string
		distrust bool
		header   []string
		tenant   string
		within   time.Duration // 0 without a deadline
		fault    bool
	}{
		{name: "nothing"},
		{name: "a tenant", header: []string{"X-Flyball-Tenant", "a"}, tenant: "a"},
		{name: "a tenant that is not believed", header: []string{"X-Flyball-Tenant", "a"}, distrust: true},
		{name: "a deadline", header: []string{deadlineHeader, "70"}, within: 70 * time.Millisecond},
		{name: "a deadline of now", header: []string{deadlineHeader, "0"}, within: -1},
		{name: "a deadline of the past", header: []string{deadlineHeader, "-1"}, fault: true},
		{name: "a timeout of 0, which is none", header: []string{timeoutHeaders[1], "0"}},
		{name: "the sooner, first", header: []string{deadlineHeader, "50", timeoutHeaders[0], "70"}, within: 50 * time.Millisecond},
		{name: "the sooner, second", header: []string{timeoutHeaders[0], "50", timeoutHeaders[1], "70"}, within: 50 * time.Millisecond},
		{name: "the sooner, last", header: []string{timeoutHeaders[0], "70", timeoutHeaders[1], "50"}, within: 50 * time.Millisecond},
		{name: "after the model's timeout", header: []string{deadlineHeader, "1000"}},
	} {
		m := aModel(t, func(c *ModelConfig) {
			c.Queue.TenantHeader, c.Queue.TrustHeaders, c.Timeout = "x-flyball-tenant", Trust{Everyone: !tt.distrust}, prom.Duration(time.Second)
		}, 1)
		header := http.Header{}
		for i := 0; i < len(tt.header); i += 2 {
			header.Set(tt.header[i], tt.header[i+1])
		}
		terms, err := m.termsOf(came, &http.Request{Header: header}, &protocol.Request{})
		if (err != nil) != tt.fault {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var want time.Time
		if tt.within > 0 {
			want = came.Add(tt.within)
		} else if tt.within < 0 {
			want = came
		}
		if !tt.fault && (terms.Tenant != tt.tenant || !terms.Deadline.Equal(want)) {
			t.Errorf("%s: %+v, want the tenant %q and the deadline %v", tt.name, terms, tt.tenant, want)
		}
	}
}

// TestTermsOfRefusal: who is refused is told by its status why, and whether to come again.
func TestTermsOfRefusal(t *testing.T) {
	m := aModel(t, func(*ModelConfig) {}, 1)
	got := map[Refusal][2]int{}
	for _, why := range []Refusal{QueueFull, TenantLimit, PredictedLate, PastDeadline, TimedOut} {
		a := m.refusal(time.Unix(0, 0), why)
		got[why] = [2]int{a.code, int(a.retryAfter / time.Second)}
		if a.shed != string(why) || a.message == "" {
			t.Errorf("%s: %+v", why, a)
		}
	}
	want := map[Refusal][2]int{QueueFull: {429, 1}, TenantLimit: {429, 1}, PredictedLate: {503, 1}, PastDeadline: {504, 0}, TimedOut: {503, 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestTermsOfReplicas: batches that replicas take at once, and that they have.
func TestTermsOfReplicas(t *testing.T) {
	m := aModel(t, func(c *ModelConfig) { c.Inflight = 3 }, 2)
	m.picker.replicas[0].batches, m.picker.replicas[1].batches = 1, 3
	if slots, busy, batches := m.slots(time.Now()); slots != 6 || busy != 4 || batches != 4 {
		t.Errorf("%d of %d, want 4 of 6", busy, slots)
	}
	// Where each has as many as come, what a contest makes of the rows of a second is of so many replicas.
	m = aModel(t, func(c *ModelConfig) { c.Inflight, c.Batch.Mode = Auto, ModeAdaptive }, 2)
	m.picker.replicas[0].batches, m.picker.replicas[1].batches = 1, 3
	m.batcher.compare(time.Now(), 1, trial{alone: 0.02, share: 0.01})
	m.picker.inflight = m.inflight()
	if slots, busy, batches := m.slots(time.Now()); slots != 2 || busy != 0 || batches != 4 {
		t.Errorf("%d of %d, with %d batches, want 0 of 2, with 4", busy, slots, batches)
	}
}

// TestAdmissionEdges: the cases between those of TestAdmission.
func TestAdmissionEdges(t *testing.T) {
	now := time.Unix(0, 0)
	lane := []byte("lane")
	fresh := func(rule Rule) *Batcher[int] {
		rule.Mode, rule.MaxSize, rule.Timeout = ModeGreedy, 32, time.Minute
		if rule.MaxQueue == 0 {
			rule.MaxQueue = 1000
		}
		b := NewBatcher[int](rule)
		known(b, now, 8, 0.25)
		return b
	}
	refused := func(what string, b *Batcher[int], items int, terms Terms, want Refusal) {
		t.Helper()
		if _, got := b.Admit(now, lane, items, 0, terms); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	refused("a tenant's one request, of a limit that is less", fresh(Rule{Tenants: true, TenantLimit: 0.01, MaxQueue: 10}), 1, Terms{Tenant: "a"}, "")
	b := fresh(Rule{})
	b.Replicas(1, 0, 0)
	refused("a deadline of now at an idle replica", b, 1, Terms{Deadline: now}, PastDeadline)

	b = fresh(Rule{SLO: ms(5)}) // which nothing meets
	b.Replicas(1, 0, 0)
	refused("the first at an idle replica", b, 1, Terms{}, "")
	refused("one beside it", b, 1, Terms{}, PredictedLate)

	b = fresh(Rule{SLO: ms(20)})
	b.Replicas(1, 1, 1)
	refused("a small one in time", b, 1, Terms{}, "")
	refused("a large one that takes longer", b, 64, Terms{}, PredictedLate) // 1.1·24 ms

	// The replica has a batch that takes 16 ms, and had it for 10.
	b = fresh(Rule{SLO: ms(20)})
	for i := range 32 {
		b.Arrive(now, lane, 1, i)
	}
	b.Next(now, false)
	b.Replicas(1, 1, 1)
	if got := b.waitFor(now.Add(ms(10)), b.lanes["lane"], &Entry[int]{Items: 1, tenant: &b.nobody}); got < 0.0059 || got > 0.0061 {
		t.Errorf("a wait of %v s, want the 6 ms that are left", got)
	}

	// A request is in one batch, however many rows it has where nothing is batched.
	b = fresh(Rule{})
	b.effective = 1
	for range 10 {
		b.Arrive(now, lane, 32, 0)
	}
	b.Replicas(1, 0, 0)
	if got := b.waitFor(now, b.lanes["lane"], &Entry[int]{Items: 32, tenant: &b.nobody}); got < 0.1599 || got > 0.1601 {
		t.Errorf("a wait of %v s, want that for 10 batches of 32 rows", got)
	}

	// One that rides alone waits for the batches of the others, not for each of their rows.
	b = fresh(Rule{})
	b.Alone([]byte("alone"), now.Add(time.Minute))
	b.Arrive(now, []byte("alone"), 1, 0)
	for i := range 64 {
		b.Arrive(now, lane, 1, i)
	}
	b.Replicas(1, 0, 0)
	if got := b.waitFor(now, b.lanes["alone"], &Entry[int]{Items: 1, tenant: &b.nobody}); got < 0.0402 || got > 0.0404 {
		t.Errorf("a wait of %v s, want that for 2 batches of 32 and one of 1", got)
	}

	// Four lanes with a row each are four batches.
	b = fresh(Rule{})
	for _, name := range []string{"a", "b", "c", "d"} {
		b.Arrive(now, []byte(name), 1, 0)
	}
	b.Replicas(1, 0, 0)
	if got := b.waitFor(now, b.lanes["a"], &Entry[int]{Items: 1, tenant: &b.nobody}); got < 3*0.008 {
		t.Errorf("a wait of %v s for three other lanes", got)
	}
}

// TestDeadlineOrdersWithItsWork: a deadline counts less the time that the work takes.
func TestDeadlineOrdersWithItsWork(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 1, Timeout: time.Minute, MaxQueue: 10, Classes: []Class{{"all", ms(100)}}})
	known(b, now, 8, 0.25)
	b.Arrive(now, []byte("lane"), 1, 0)
	b.Admit(now, []byte("lane"), 1, 1, Terms{Deadline: now.Add(ms(105))}) // less 8.25 ms is before 100
	if out, _ := b.Next(now, false); len(out.Entries) != 1 || out.Entries[0].Request != 1 {
		t.Errorf("%+v is first", out.Entries[0])
	}
}

// TestBatcherTakes: who is kept at the end, or was promised to be tried, is not refused when its batch leaves, and the end cuts
// nothing; and what is due goes before what is full.
func TestBatcherTakes(t *testing.T) {
	now := time.Unix(0, 0)
	lane := []byte("lane")
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 4, Timeout: time.Minute, MaxQueue: 10, SLO: ms(5)})
	known(b, now, 8, 0.25)
	b.Replicas(1, 0, 0)
	b.Admit(now, lane, 1, 0, Terms{})
	if out, ok := b.Next(now, false); !ok || out.Items != 1 || len(b.Lost()) != 0 {
		t.Errorf("who was to be tried: %+v, %d lost", out, len(b.Lost()))
	}

	b = NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 8, AllowedSizes: []int{2, 8}, Timeout: time.Minute, MaxQueue: 10, SLO: ms(50)})
	for i := range 3 {
		b.Arrive(now, lane, 1, i)
	}
	known(b, now, 8, 0.25)
	if out, ok := b.Next(now.Add(ms(49)), true); !ok || out.Items != 3 || len(b.Lost()) != 0 {
		t.Errorf("the end: %+v, %d lost, want all three", out, len(b.Lost()))
	}

	for _, end := range []bool{false, true} { // the rest could wait
		b = NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 8, AllowedSizes: []int{2, 8}, Timeout: time.Minute, MaxQueue: 10, SLO: time.Second})
		for i := range 3 {
			b.Arrive(now, lane, 1, i)
		}
		known(b, now, 8, 0.25)
		want := map[bool]int{false: 2, true: 3}[end]
		if out, ok := b.Next(now, end); !ok || out.Items != want {
			t.Errorf("the end %t: %+v, want %d rows", end, out, want)
		}
	}

	b = NewBatcher[int](Rule{MaxSize: 2, MaxWait: ms(10), Timeout: time.Minute, MaxQueue: 10, Classes: fourClasses()})
	b.Admit(now, []byte("old"), 1, 0, Terms{Class: low})
	b.Admit(now.Add(ms(5)), []byte("urgent"), 1, 1, Terms{Class: critical})
	if out, ok := b.Next(now.Add(ms(11)), false); !ok || out.Entries[0].Request != 0 || out.Reason != maxWait {
		t.Errorf("what is due: %+v", out)
	}
}
