package batchproxy

import (
	"crypto/sha256"
	"math"
	"time"
)

// Rule is what a [Batcher] decides by.
type Rule struct {
	Mode         Mode               // empty is ModeTimeout
	MaxSize      int                // rows in a batch, 1 or more
	MinSize      int                // rows that are waited for, up to MaxWait; 1 or less is none
	AllowedSizes []int              // ascending; where there are some, batches are cut down to one of them if the rest can wait
	MaxWait      time.Duration      // how long the oldest request is held for others while a replica is free
	Timeout      time.Duration      // how long a request may wait for a replica
	SLO          time.Duration      // within which a request should be answered; 0 without
	Objective    Objective          // empty is ObjectiveBalanced
	MaxQueue     int                // requests waiting
	Classes      []Class            // what Terms.Class is of; without any all requests are of one
	Normal       int                // the class of Classes whose requests, and those of less urgent ones, are held for MinSize, a timer or the cost
	Tenants      bool               // are told apart, and have fair shares
	Weights      map[string]float64 // of tenants; 1 where none is given
	LearnDepth   bool               // how many batches a replica should have at once: see Depth
	Widens       bool               // where batching is off, replicas have as many requests at once as come
	TenantLimit  float64            // the part of MaxQueue that one tenant may have; 0 is all of it
}

// Batcher decides which requests leave together and when. It is a state machine: it has no clock, no goroutine and no
// lock, and is told the time with each event, so that the proxy and a simulation run the same decisions.
//
// Requests of one lane may share a batch and leave in the order of their virtual deadlines (order.go), which without
// classes and deadlines is that in which they came. A lane is ready when it has MaxSize rows, when its oldest request has
// waited for MaxWait, or when the mode says so; of the ready lanes the one with the first virtual deadline is next. While no replica is free the caller does not ask for a batch, and lanes fill
// up: an overloaded model gets full batches. R is what the caller queues.
//
// What it learns of replicas and clients it learns from Answered and TooLarge. The files: service.go fits how long a
// batch takes, profile.go when answered clients come back, phase.go decides by the two, tune.go sets the largest batch, contest.go compares having batches with having none,
// depth.go finds how many batches a replica should have at once, explain.go keeps the last decisions for people; order.go has the order, and admission.go says who is not taken.
type Batcher[R any] struct {
	rule   Rule
	lanes  map[string]*lane[R] // empty ones are kept for what they have learned, up to maxLanes
	active ranking[*lane[R]]   // those with requests, by the first virtual deadline
	full   []*lane[R]          // those that need not wait for rows or time, in no order
	// alone has the lanes whose requests turned out not to share a batch well, and until when that is remembered.
	alone  map[string]time.Time
	all    chain[R]
	queued int
	came   uint64
	out    []*Entry[R] // of the last batch
	lost   []Lost[R]   // of the last call of Next

	began   time.Time          // what virtual deadlines count from
	ends    ranking[*Entry[R]] // those with deadlines of their clients
	classes []waitingOf        // by class
	items   int                // rows queued
	tenants tenants
	nobody  tenant // whose all requests are where tenants are not told apart

	slots, busy, batches int       // of the replicas
	sent                 time.Time // when the last batch left
	flying               int       // its rows

	service serviceTime
	tuning
	depth   depth
	journal journal
}

// Entry is one request in the queue.
type Entry[R any] struct {
	Request R
	Items   int // rows
	Arrived time.Time
	// Deadline is when the answer is of no more use; zero where the rule's SLO and Timeout alone bound the wait.
	Deadline time.Time

	seq     uint64 // order of arrival
	class   int    // of the rule's
	tenant  *tenant
	virtual int64    // deadline, in ns since the batcher began
	places  [2]int32 // in the heaps that it is in
	sure    bool     // was taken whatever was predicted
	lane    *lane[R]
	links   [3]links[R] // in the chain of all, in the lane's and in the flow's
}

type lane[R any] struct {
	chain[R]
	flows  flows[R]
	next   *Entry[R] // the one with the first virtual deadline
	name   string
	items  int
	urgent int       // requests that are not held
	alone  time.Time // each request leaves by itself until then; zero if not
	full   int       // index in Batcher.full, -1 if not there
	active int32     // place in Batcher.active, -1 if not there
	used   time.Time // when something last happened

	profile profile
	held    bool      // a decision to wait stands until one of the lane's requests comes or goes, or hold
	hold    time.Time // with held
	why     reason    // with held: what is waited for
	pending Decision  // the one that began the wait, where asked
	asked   bool
}

// chain is entries in the order in which they came.
type chain[R any] struct {
	which       int // of an entry's links are this chain's
	first, last *Entry[R]
}

type links[R any] struct{ older, newer *Entry[R] }

const (
	ofAll = iota
	ofLane
	ofFlow
)

// Batch is what leaves together.
type Batch[R any] struct {
	Entries []*Entry[R] // until the next call of Next
	Items   int         // rows
	Reason  string      // one of Reasons
}

// reason is why a batch leaves.
type reason = string

const (
	full     reason = "full"     // as many rows as a batch may have
	phase    reason = "phase"    // what was waited for has come, or no longer pays
	greedy   reason = "greedy"   // there was nothing to wait for
	maxWait  reason = "max_wait" // the oldest request has waited for as long as it may
	deadline reason = "deadline" // waiting longer would make the oldest request late
	minSize  reason = "min_size" // the fewest rows that are wanted are there
	priority reason = "priority" // one of the requests is of a class that is not held for more rows
	shape    reason = "shape"    // cut down to one of the allowed sizes
	solo     reason = "solo"     // not batched: it does not pay, or cannot be
	oversize reason = "oversize" // a request with more rows than a batch may have
	drain    reason = "drain"    // nothing is held any more
)

// Reasons are all that Batch.Reason can be.
func Reasons() []string {
	return []string{full, phase, greedy, maxWait, deadline, minSize, priority, shape, solo, oversize, drain}
}

const (
	// maxAlone bounds the memory for lanes that are not batched.
	maxAlone = 1024
	// maxLanes is how many lanes are remembered when they are empty, and idleLane for how long in favour of others.
	maxLanes = 256
	idleLane = time.Minute
	// maxName is the longest name of a lane that is remembered: names hold headers, which may be large.
	maxName = 4 << 10
)

// NewBatcher returns an empty queue.
func NewBatcher[R any](rule Rule) *Batcher[R] {
	b := &Batcher[R]{rule: rule, lanes: make(map[string]*lane[R]), alone: make(map[string]time.Time), service: newServiceTime(rule.MaxSize)}
	b.tuning = newTuning(rule)
	b.depth = newDepth(rule.LearnDepth)
	b.ends.which = byDeadline
	b.classes = make([]waitingOf, max(len(rule.Classes), 1))
	b.tenants.weights = rule.Weights
	b.nobody.weight = 1
	return b
}

// Len is the number of requests in the queue.
func (b *Batcher[R]) Len() int { return b.queued }

// Arrive is Admit for a request of the first class, of no tenant and without a deadline. It returns nil where it is refused.
func (b *Batcher[R]) Arrive(now time.Time, name []byte, items int, request R) *Entry[R] {
	e, _ := b.Admit(now, name, items, request, Terms{})
	return e
}

// Admit queues a request of so many rows, or says why not.
func (b *Batcher[R]) Admit(now time.Time, name []byte, items int, request R, terms Terms) (*Entry[R], Refusal) {
	if b.began.IsZero() {
		b.began = now
	}
	e := &Entry[R]{Request: request, Items: items, Arrived: now, Deadline: terms.Deadline, tenant: &b.nobody, places: [2]int32{-1, -1}}
	if terms.Class > 0 && terms.Class < len(b.classes) {
		e.class = terms.Class
	}
	if b.rule.Tenants {
		e.tenant = b.tenants.of(now, terms.Tenant)
	}
	l := b.lane(now, name)
	if why := b.admit(now, l, e); why != "" {
		return nil, why
	}
	b.came++
	e.seq = b.came
	e.virtual = b.virtualDeadline(e)
	l.profile.arrive(now, items)
	b.insert(l, e)
	return e, ""
}

// Gone takes a request out of the queue, and reports whether it was there.
func (b *Batcher[R]) Gone(e *Entry[R]) bool {
	if e.lane == nil {
		return false
	}
	b.remove(e)
	return true
}

// Back puts requests of one lane that left and were not taken by a replica where they were. It does not look at
// MaxQueue: they were admitted.
func (b *Batcher[R]) Back(now time.Time, name []byte, entries []*Entry[R]) {
	for _, e := range entries {
		b.tenants.refund(e.tenant, e.Items)
		b.insert(b.lane(now, name), e)
	}
}

// Alone makes the lane send each request by itself until the time given.
func (b *Batcher[R]) Alone(name []byte, until time.Time) {
	if len(b.alone) >= maxAlone {
		clear(b.alone)
	}
	b.alone[remembered(string(name))] = until
	if l := b.lanes[string(name)]; l != nil {
		l.alone = until
		b.mark(l)
	}
}

// Answered tells of a batch of a lane that a replica answered: how many rows it had and how long it took, 0 or less where
// that says nothing. It is to be told before the clients are, so that those who come back at once count as such.
func (b *Batcher[R]) Answered(now time.Time, name []byte, rows int, took time.Duration) {
	if b.service.add(rows, took.Seconds()) && b.trying {
		b.tried(now, rows, took.Seconds())
	}
	if !b.off {
		b.since++
	}
	b.contested(now, rows)
	b.tune(now)
	if b.trying || b.off || b.contest.running || b.rule.Widens && b.unbatched() { // replicas have another number of batches at once
		b.depth.pause()
	} else {
		b.deepen(now, rows)
	}
	if l := b.lanes[string(name)]; l != nil {
		l.profile.next(now, rows, b.unit())
		l.held, l.used = false, now
	}
}

// Crowded tells of a batch of so many rows that was sent to a replica which had so many others: how long it took.
func (b *Batcher[R]) Crowded(others, rows int, took time.Duration) {
	if b.service.known && !b.off && !b.contest.running && !b.trying {
		b.depth.crowd(others, took.Seconds()/max(b.service.at(rows), 1e-6))
	}
}

// TooLarge tells of a batch that a replica refused for its size. Batches have half as many rows from now on, and slowly
// more again.
func (b *Batcher[R]) TooLarge(now time.Time, rows int) {
	b.refused(now, rows)
	b.tune(now)
	b.remark() // in a contest the largest batch is what was not refused, though batching is off
}

// Forget drops what was learned of the replicas, when others take their place.
func (b *Batcher[R]) Forget(now time.Time) {
	b.service.reset()
	b.forget(b.rule)
	if b.depth.kept > 1 {
		b.set(inflight, true, float64(b.depth.kept), 1)
	}
	b.depth = newDepth(b.rule.LearnDepth)
	b.tune(now)
	b.remark()
}

// Next is the batch to send now, for a caller that has a free replica. With flush nothing is held for others. It takes out
// requests that would be late, which are not in the batch but in Lost.
func (b *Batcher[R]) Next(now time.Time, flush bool) (Batch[R], bool) {
	clear(b.lost)
	b.lost = b.lost[:0]
	if b.contest.running && now.Sub(b.contest.began) > contestTime { // answers that would end it do not come
		b.settled(now, false)
		b.remark()
	}
	for b.all.first != nil {
		l, why := b.choose(now, flush)
		if l == nil {
			break
		}
		if batch := b.take(now, l, why); len(batch.Entries) > 0 {
			b.sent, b.flying = now, batch.Items
			return batch, true
		}
	}
	return Batch[R]{}, false
}

// choose is the lane that is to leave, nil where none is.
func (b *Batcher[R]) choose(now time.Time, flush bool) (*lane[R], reason) {
	turns := b.rule.Tenants && b.items > b.largest() && b.tenants.others(b.all.first.tenant) > 0
	if l := b.active.first(); !turns {
		if why, leaves := b.judge(now, l, flush); leaves {
			return l, why
		}
	}
	among := b.active.members
	if !turns && b.rule.Mode.timed() && now.Before(b.all.first.Arrived.Add(b.rule.MaxWait)) { // nothing is due
		among = b.full
	}
	var best *lane[R]
	var why reason
	for _, l := range among {
		if best != nil {
			if turns {
				if x, y := best.flows.fairest(), l.flows.fairest(); x.tenant.start < y.tenant.start || x.tenant == y.tenant && best.before(l, 0) {
					continue
				}
			} else if best.before(l, 0) {
				continue
			}
		}
		if w, leaves := b.judge(now, l, flush); leaves {
			best, why = l, w
		}
	}
	return best, why
}

// judge says whether a lane with requests is to leave, and why. Where it is not, l.hold is when to ask again.
func (b *Batcher[R]) judge(now time.Time, l *lane[R], flush bool) (reason, bool) {
	if !l.alone.IsZero() && !now.Before(l.alone) {
		l.alone = time.Time{}
		b.mark(l)
	}
	switch {
	case l.full >= 0 && b.most(l) == 1:
		return solo, true
	case l.full >= 0 && l.items >= b.most(l):
		return full, true
	case l.urgent > 0 && (b.rule.Mode.timed() || l.items < b.rule.MinSize || b.rule.Mode == ModeAdaptive && b.rule.Objective == ObjectiveCost):
		return priority, true
	}
	// A timer runs from the arrival, whatever replicas do. Otherwise what counts is how long a free replica was kept.
	from := l.first.Arrived
	if !b.rule.Mode.timed() {
		if !l.asked {
			l.pending, l.asked = Decision{Time: now, Queued: l.items, Phase: l.profile.phase(now)}, true
		}
		from = l.pending.Time
	}
	due := from.Add(b.rule.MaxWait)
	switch {
	case !now.Before(due) && (b.rule.Mode.timed() || b.rule.MaxWait > 0):
		return maxWait, true
	case flush:
		return drain, true
	case l.items < b.rule.MinSize:
		l.held, l.hold, l.why = true, due, minSize
		return "", false
	case b.rule.Mode == ModeAdaptive:
		return b.adapt(now, l, due)
	case b.rule.Mode == ModeGreedy && l.why == minSize:
		return minSize, true
	case b.rule.Mode == ModeGreedy:
		return greedy, true
	}
	l.held, l.hold, l.why = true, due, maxWait
	return "", false
}

// take takes a batch out of a lane.
func (b *Batcher[R]) take(now time.Time, l *lane[R], why reason) Batch[R] {
	most := b.most(l)
	if b.fresh && most > 1 && l.items > 1 { // the first of several rows
		b.try(now)
	}
	if b.trying && !l.alone.IsZero() {
		b.aside()
	}
	if b.trying && l.alone.IsZero() || b.off && why == solo && l.alone.IsZero() && !b.pass(now) {
		if most = b.tries(l.items, most); most == 1 {
			why = solo
		}
	}
	d := b.record(now, l)
	clear(b.out)
	batch := Batch[R]{Entries: b.out[:0], Reason: why}
	turns := len(l.flows.list) > 1 && l.items > most
	rows := min(l.items, most)
	first := true
	for l.first != nil {
		e := l.next
		if turns {
			e = l.flows.fairest()
		}
		if why != drain && !e.sure {
			if lost := b.late(now, e, 0, rows); lost != "" {
				b.takeOut(e)
				b.lost = append(b.lost, Lost[R]{Entry: e, Reason: lost})
				continue
			}
		}
		if len(batch.Entries) > 0 && batch.Items+e.Items > most {
			break
		}
		if first {
			first = false
			d.Class, d.Left = e.class, math.Inf(1)
		}
		if at := e.Deadline; !at.IsZero() {
			d.Left = min(d.Left, at.Sub(now).Seconds())
		}
		b.takeOut(e)
		b.tenants.charge(e.tenant, e.Items)
		batch.Entries = append(batch.Entries, e)
		batch.Items += e.Items
	}
	b.out = batch.Entries
	if len(batch.Entries) == 0 {
		b.settle(l)
		d.Reason, l.why = string(b.lost[len(b.lost)-1].Reason), ""
		return batch
	}
	if upTo := b.cut(now, l, batch, why); upTo > 0 {
		batch.Reason = shape
		for batch.Items > upTo { // whole requests make it up
			e := batch.Entries[len(batch.Entries)-1]
			batch.Entries = batch.Entries[:len(batch.Entries)-1]
			batch.Items -= e.Items
			b.tenants.refund(e.tenant, e.Items)
			b.insert(l, e)
		}
	}
	b.settle(l)
	if b.all.first == nil {
		b.tenants.rest()
	}
	if batch.Items > b.rule.MaxSize {
		batch.Reason = oversize
	}
	b.out = batch.Entries
	d.Sent, d.Reason = batch.Items, batch.Reason
	l.why = ""
	return batch
}

// cut is how many rows a batch is cut down to, for a server that has compiled for some sizes only: the largest of the
// allowed ones that whole requests make up. It is 0 where nothing is cut: no size fits, or the rest would be late.
func (b *Batcher[R]) cut(now time.Time, l *lane[R], whole Batch[R], why reason) int {
	if len(b.rule.AllowedSizes) == 0 || why == drain || why == solo {
		return 0
	}
	best, sum, next := 0, 0, 0
	var rest *Entry[R] // the first that is left behind
	for i, e := range whole.Entries {
		sum += e.Items
		for next < len(b.rule.AllowedSizes) && b.rule.AllowedSizes[next] < sum {
			next++
		}
		if next < len(b.rule.AllowedSizes) && b.rule.AllowedSizes[next] == sum {
			best, rest = sum, l.next
			if i+1 < len(whole.Entries) {
				rest = whole.Entries[i+1]
			}
		}
	}
	if best == 0 || best == sum || rest == nil {
		return 0
	}
	if ends := now.Add(seconds(b.service.at(best) + b.service.at(max(sum-best, 1)))); ends.After(b.latest(rest)) {
		return 0
	}
	return best
}

// Expired takes out the requests that have waited for longer than the timeout, and those that no replica can answer before
// their client's deadline any more.
func (b *Batcher[R]) Expired(now time.Time) []Lost[R] {
	var expired []Lost[R]
	for e := b.ends.first(); e != nil && !now.Before(b.hopeless(e)); e = b.ends.first() {
		b.remove(e)
		expired = append(expired, Lost[R]{e, PastDeadline})
	}
	for e := b.all.first; e != nil && now.Sub(e.Arrived) >= b.rule.Timeout; e = b.all.first {
		b.remove(e)
		expired = append(expired, Lost[R]{e, TimedOut})
	}
	return expired
}

// hopeless is when a request with a deadline can no longer be answered before it.
func (b *Batcher[R]) hopeless(e *Entry[R]) time.Time {
	if e.sure {
		return e.Deadline
	}
	return e.Deadline.Add(-seconds(b.unit()))
}

// Wake is when to ask again without another event: when a request is due, if a replica is free, or expires. It is zero
// where nothing is queued.
func (b *Batcher[R]) Wake(free bool) time.Time {
	if b.all.first == nil {
		return time.Time{}
	}
	wake := b.all.first.Arrived.Add(b.rule.Timeout)
	sooner := func(at time.Time) {
		if at.Before(wake) {
			wake = at
		}
	}
	if e := b.ends.first(); e != nil {
		sooner(b.hopeless(e))
	}
	if !free {
		return wake
	}
	if b.rule.Mode.timed() {
		sooner(b.all.first.Arrived.Add(b.rule.MaxWait))
		return wake
	}
	for _, l := range b.active.members {
		if l.held {
			sooner(l.hold)
		} else {
			sooner(l.first.Arrived)
		}
	}
	return wake
}

// lane is the lane of a name, a new one where it is not known.
func (b *Batcher[R]) lane(now time.Time, name []byte) *lane[R] {
	l := b.lanes[string(name)]
	if l == nil {
		l = b.open(now, string(name))
	}
	l.used = now
	if !l.alone.IsZero() && !now.Before(l.alone) {
		l.alone = time.Time{}
		b.mark(l)
	}
	return l
}

func (b *Batcher[R]) open(now time.Time, name string) *lane[R] {
	if len(b.lanes) >= maxLanes+len(b.active.members) {
		b.sweep(now)
	}
	l := &lane[R]{chain: chain[R]{which: ofLane}, name: name, full: -1, active: -1}
	if len(b.alone) > 0 {
		short := remembered(name)
		if until := b.alone[short]; now.Before(until) {
			l.alone = until
		} else {
			delete(b.alone, short)
		}
	}
	b.lanes[name] = l
	return l
}

// remembered is what a lane is remembered by when it is empty: its name, or the hash of a long one, as a client that makes up
// names would take as much memory as it likes.
func remembered(name string) string {
	if len(name) <= maxName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return string(sum[:])
}

// sweep forgets empty lanes: those that are idle for long, or else any one.
func (b *Batcher[R]) sweep(now time.Time) {
	var other *lane[R]
	swept := false
	for name, l := range b.lanes {
		if l.active >= 0 {
			continue
		}
		if now.Sub(l.used) >= idleLane {
			delete(b.lanes, name)
			swept = true
		} else if other == nil || l.used.Before(other.used) {
			other = l
		}
	}
	if !swept && other != nil {
		delete(b.lanes, other.name)
	}
}

// most is how many rows a batch of the lane may have.
func (b *Batcher[R]) most(l *lane[R]) int {
	switch {
	case !l.alone.IsZero() || b.unbatched():
		return 1
	case b.contest.other: // batching is off but for now
		return b.allowed()
	}
	return b.largest()
}

// latest is when the answer to a request should be there.
func (b *Batcher[R]) latest(e *Entry[R]) time.Time {
	within := b.rule.Timeout
	if b.rule.SLO > 0 {
		within = min(within, b.rule.SLO)
	}
	at := e.Arrived.Add(within)
	if !e.Deadline.IsZero() && e.Deadline.Before(at) {
		at = e.Deadline
	}
	return at
}

func (b *Batcher[R]) insert(l *lane[R], e *Entry[R]) {
	e.lane = l
	b.queued++
	l.items += e.Items
	b.items += e.Items
	if b.urgent(e) {
		l.urgent++
	}
	b.classes[e.class].requests++
	b.classes[e.class].rows += e.Items
	b.tenants.join(e.tenant, e.Items)
	b.all.insert(e)
	l.insert(e)
	l.flows.add(e)
	if l.next == nil || e.before(l.next, byOrder) {
		l.next = e
	}
	if !e.Deadline.IsZero() {
		b.ends.push(e)
	}
	l.held = false
	b.mark(l)
}

func (b *Batcher[R]) remove(e *Entry[R]) {
	l := e.lane
	b.takeOut(e)
	b.settle(l)
}

// takeOut is remove without what is to be done once for all that leave the lane together, settle.
func (b *Batcher[R]) takeOut(e *Entry[R]) {
	l := e.lane
	e.lane = nil
	b.queued--
	l.items -= e.Items
	b.items -= e.Items
	if b.urgent(e) {
		l.urgent--
	}
	b.classes[e.class].requests--
	b.classes[e.class].rows -= e.Items
	b.tenants.leave(e.tenant, e.Items)
	b.all.remove(e)
	l.remove(e)
	l.flows.remove(e)
	if l.next == e {
		l.next = l.flows.soonest()
	}
	b.ends.remove(e)
}

func (b *Batcher[R]) settle(l *lane[R]) {
	l.held = false
	b.mark(l)
	if l.first == nil {
		l.asked, l.why = false, ""
		if len(l.name) > maxName {
			delete(b.lanes, l.name)
		}
	}
}

// insert puts an entry in its place by age: last for a new one, near the front for one that comes back.
func (l *chain[R]) insert(e *Entry[R]) {
	at := links[R]{older: l.last}
	if l.last != nil && l.last.seq > e.seq {
		at.newer = l.first
		for at.newer.seq < e.seq {
			at.newer = at.newer.links[l.which].newer
		}
		at.older = at.newer.links[l.which].older
	}
	e.links[l.which] = at
	l.join(at, e, e)
}

// append puts an entry behind all others.
func (l *chain[R]) append(e *Entry[R]) {
	at := links[R]{older: l.last}
	e.links[l.which] = at
	l.join(at, e, e)
}

func (l *chain[R]) remove(e *Entry[R]) {
	at := e.links[l.which]
	e.links[l.which] = links[R]{}
	l.join(at, at.newer, at.older)
}

// join makes an entry the one after at.older, and an entry the one before at.newer.
func (l *chain[R]) join(at links[R], newer, older *Entry[R]) {
	if at.older == nil {
		l.first = newer
	} else {
		at.older.links[l.which].newer = newer
	}
	if at.newer == nil {
		l.last = older
	} else {
		at.newer.links[l.which].older = older
	}
}

// urgent reports whether a request is of a class above the normal one, for which more rows are not worth a wait.
func (b *Batcher[R]) urgent(e *Entry[R]) bool {
	return b.class(e.class).Budget < b.class(b.rule.Normal).Budget
}

// mark keeps the lists of active and of full lanes true. One with a request that no timer holds is as good as full.
func (b *Batcher[R]) mark(l *lane[R]) {
	b.active.fix(l, l.first != nil)
	place(&b.full, l, func(l *lane[R]) *int { return &l.full }, l.first != nil && (l.items >= b.most(l) || l.urgent > 0 && b.rule.Mode.timed()))
}

// place has a lane in a list or not. At says where a lane keeps its index in the list, -1 while it is not there.
func place[R any](list *[]*lane[R], l *lane[R], at func(*lane[R]) *int, in bool) {
	switch i := *at(l); {
	case in && i < 0:
		*at(l) = len(*list)
		*list = append(*list, l)
	case !in && i >= 0:
		end := len(*list) - 1
		last := (*list)[end]
		(*list)[i], *at(last) = last, i
		(*list)[end] = nil
		*list = (*list)[:end]
		*at(l) = -1
	}
}
