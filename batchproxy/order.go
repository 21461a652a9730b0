package batchproxy

import (
	"time"
)

// The order in which requests leave. A request's virtual deadline is its arrival plus the budget of its class, or its
// client's own deadline less S(1) where that is sooner; the one whose virtual deadline comes first is first. So a class is
// ahead of another by the difference of their budgets and no more, and whoever waits is first at last. Where all are of one
// class and give no deadline this is the order in which they came.
//
// Of tenants the order is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), while a lane holds more than a
// batch: the next row is of the tenant that had the least for its weight, and among its requests the virtual deadline counts.

// Class is a priority class.
type Class struct {
	Name string
	// Budget is how long a request of the class may wait before one of another class that came later is no longer ahead of it.
	Budget time.Duration
}

// Terms are what a request is queued with besides its rows.
type Terms struct {
	Class    int       // index in the rule's Classes; what is not in it is as 0
	Tenant   string    // who is to have a fair share; all requests with the same one share it
	Deadline time.Time // when the answer is of no more use to the client; zero without
}

// heaped is a member of a heap, in which it keeps its place.
type heaped[M any] interface {
	comparable
	before(other M, which int) bool
	place(which int) *int32 // -1 while it is not in the heap
}

// ranking is a binary heap. It does not allocate but to grow.
type ranking[M heaped[M]] struct {
	which   int // of a member's orders and places are this heap's
	members []M
}

// first is the member before all others; the zero value where there is none.
func (h *ranking[M]) first() (m M) {
	if len(h.members) > 0 {
		m = h.members[0]
	}
	return m
}

func (h *ranking[M]) push(m M) {
	h.members = append(h.members, m)
	h.up(m, len(h.members)-1)
}

// remove takes out a member, if it is there.
func (h *ranking[M]) remove(m M) {
	i := int(*m.place(h.which))
	if i < 0 {
		return
	}
	end := len(h.members) - 1
	last := h.members[end]
	var none M
	h.members[end] = none
	h.members = h.members[:end]
	*m.place(h.which) = -1
	if i < end {
		h.down(last, i)
		h.up(last, int(*last.place(h.which)))
	}
}

// fix puts a member where it belongs after its order has changed, in or out of the heap.
func (h *ranking[M]) fix(m M, in bool) {
	i := int(*m.place(h.which))
	switch {
	case !in:
		h.remove(m)
	case i < 0:
		h.push(m)
	default:
		h.down(m, i)
		h.up(m, int(*m.place(h.which)))
	}
}

// up puts a member at a place, or nearer to the first.
func (h *ranking[M]) up(m M, i int) {
	for i > 0 {
		parent := (i - 1) / 2
		above := h.members[parent]
		if !m.before(above, h.which) {
			break
		}
		h.members[i] = above
		*above.place(h.which) = int32(i)
		i = parent
	}
	h.members[i] = m
	*m.place(h.which) = int32(i)
}

// down puts a member at a place, or further from the first.
func (h *ranking[M]) down(m M, i int) {
	for {
		child := 2*i + 1
		if child >= len(h.members) {
			break
		}
		below := h.members[child]
		if child+1 < len(h.members) {
			if right := h.members[child+1]; right.before(below, h.which) {
				child, below = child+1, right
			}
		}
		if !below.before(m, h.which) {
			break
		}
		h.members[i] = below
		*below.place(h.which) = int32(i)
		i = child
	}
	h.members[i] = m
	*m.place(h.which) = int32(i)
}

// tenant is what one tenant, or a bucket of them, has had. Tags are in rows for a weight of 1.
type tenant struct {
	weight   float64
	start    float64 // tag of its next request
	requests int     // waiting
	rows     int     // waiting
}

const (
	// maxTenants are told apart; those that come while there are as many with something to wait for or to be charged for share
	// tenantBuckets.
	maxTenants    = 1000
	tenantBuckets = 16
	// maxTenantName is the longest name, in bytes, of a tenant with a share of its own.
	maxTenantName = 256
	// sweepTenants is how often at most it is looked for tenants to forget.
	sweepTenants = time.Second
)

// tenants are those of a batcher. The zero value is one tenant alone, who owns everything.
type tenants struct {
	weights map[string]float64
	known   map[string]*tenant
	buckets [tenantBuckets]tenant
	now     float64 // virtual time: the start tag of what left last
	last    float64 // the largest start tag given
	active  float64 // weights of those with requests waiting
	swept   time.Time
}

// of is the tenant of a name.
func (t *tenants) of(now time.Time, name string) *tenant {
	if one := t.known[name]; one != nil {
		return one
	}
	if len(t.known) >= maxTenants && now.Sub(t.swept) >= sweepTenants {
		t.swept = now
		for name, one := range t.known {
			if one.requests == 0 && one.start <= t.now {
				delete(t.known, name)
			}
		}
	}
	if len(t.known) >= maxTenants || len(name) > maxTenantName {
		hash := uint32(2166136261) // FNV-1a: all that it must do is spread
		for i := range len(name) {
			hash = (hash ^ uint32(name[i])) * 16777619
		}
		one := &t.buckets[hash%tenantBuckets]
		one.weight = 1
		return one
	}
	one := &tenant{weight: 1}
	if w := t.weights[name]; w > 0 {
		one.weight = w
	}
	if t.known == nil {
		t.known = make(map[string]*tenant)
	}
	t.known[name] = one
	return one
}

// others is the weight of all that wait besides one.
func (t *tenants) others(one *tenant) float64 {
	if one.requests > 0 {
		return max(t.active-one.weight, 0)
	}
	return t.active
}

func (t *tenants) join(one *tenant, rows int) {
	if one.requests == 0 {
		one.start = max(one.start, t.now)
		t.active += one.weight
	}
	one.requests++
	one.rows += rows
}

func (t *tenants) leave(one *tenant, rows int) {
	one.requests--
	one.rows -= rows
	if one.requests == 0 {
		t.active -= one.weight
	}
}

// charge notes rows that leave, before they do.
func (t *tenants) charge(one *tenant, rows int) {
	t.now = max(t.now, one.start)
	one.start += float64(rows) / one.weight
	t.last = max(t.last, one.start)
}

// refund takes back a charge, of rows that come back.
func (t *tenants) refund(one *tenant, rows int) { one.start -= float64(rows) / one.weight }

// rest is called when nobody waits any more: what tenants had is forgotten.
func (t *tenants) rest() { t.now, t.active = max(t.now, t.last), 0 }

// flow is the requests of a tenant in a lane: those that came in their order in a line, which costs nothing to keep, and the
// others in a heap.
type flow[R any] struct {
	line   chain[R]
	others ranking[*Entry[R]]
	tenant *tenant
}

func (f *flow[R]) push(e *Entry[R]) {
	if f.line.last == nil || f.line.last.before(e, byOrder) {
		f.line.append(e)
	} else {
		f.others.push(e)
	}
}

func (f *flow[R]) remove(e *Entry[R]) {
	if e.places[byOrder] < 0 {
		f.line.remove(e)
	} else {
		f.others.remove(e)
	}
}

// first is the one with the first virtual deadline, nil where there is none.
func (f *flow[R]) first() *Entry[R] {
	e := f.line.first
	if o := f.others.first(); e == nil || o != nil && o.before(e, byOrder) {
		return o
	}
	return e
}

// flows are those of a lane, with requests each. One that empties is kept for the next tenant.
type flows[R any] struct {
	list []*flow[R]
	free []*flow[R]
}

// add puts an entry into its tenant's flow.
func (f *flows[R]) add(e *Entry[R]) {
	for _, one := range f.list {
		if one.tenant == e.tenant {
			one.push(e)
			return
		}
	}
	var one *flow[R]
	if n := len(f.free); n > 0 {
		one, f.free = f.free[n-1], f.free[:n-1]
	} else {
		one = &flow[R]{line: chain[R]{which: ofFlow}, others: ranking[*Entry[R]]{which: byOrder}}
	}
	one.tenant = e.tenant
	f.list = append(f.list, one)
	one.push(e)
}

// maxFree bounds the memory for flows that are empty.
const maxFree = 16

func (f *flows[R]) remove(e *Entry[R]) {
	for i, one := range f.list {
		if one.tenant != e.tenant {
			continue
		}
		one.remove(e)
		if one.first() == nil {
			end := len(f.list) - 1
			f.list[i], f.list[end] = f.list[end], nil
			f.list = f.list[:end]
			one.tenant = nil
			if len(f.free) < maxFree {
				f.free = append(f.free, one)
			}
		}
		return
	}
}

// soonest is the entry with the first virtual deadline.
func (f *flows[R]) soonest() *Entry[R] {
	var first *Entry[R]
	for _, one := range f.list {
		if e := one.first(); first == nil || e.before(first, byOrder) {
			first = e
		}
	}
	return first
}

// fairest is the first entry of the tenant that had the least.
func (f *flows[R]) fairest() *Entry[R] {
	var first *Entry[R]
	for _, one := range f.list {
		e := one.first()
		if first == nil || e.tenant.start < first.tenant.start || e.tenant.start == first.tenant.start && e.before(first, byOrder) {
			first = e
		}
	}
	return first
}

const (
	byOrder    = iota // of the virtual deadline, then of arrival
	byDeadline        // of the client
)

func (e *Entry[R]) before(other *Entry[R], which int) bool {
	if which == byDeadline {
		return e.Deadline.Before(other.Deadline)
	}
	if e.virtual != other.virtual {
		return e.virtual < other.virtual
	}
	return e.seq < other.seq
}

func (e *Entry[R]) place(which int) *int32 { return &e.places[which] }

func (l *lane[R]) before(other *lane[R], _ int) bool { return l.next.before(other.next, byOrder) }

func (l *lane[R]) place(int) *int32 { return &l.active }

// virtualDeadline is that of a request, in ns since the batcher's first.
func (b *Batcher[R]) virtualDeadline(e *Entry[R]) int64 {
	at := e.Arrived.Sub(b.began) + b.class(e.class).Budget
	if !e.Deadline.IsZero() {
		at = min(at, e.Deadline.Sub(b.began)-seconds(b.unit()))
	}
	return int64(at)
}

// class is one of the rule's; the zero value where it has none.
func (b *Batcher[R]) class(i int) Class {
	if i >= 0 && i < len(b.rule.Classes) {
		return b.rule.Classes[i]
	}
	return Class{}
}
