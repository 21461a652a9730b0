package batchproxy

import (
	"time"
)

// Rule is what a [Batcher] decides by.
type Rule struct {
	MaxSize  int           // rows in a batch, 1 or more
	MaxWait  time.Duration // how long the oldest request is held for others while a replica is free
	Timeout  time.Duration // how long a request may wait for a replica
	MaxQueue int           // requests waiting
}

// Batcher decides which requests leave together and when. It is a state machine: it has no clock, no goroutine and no
// lock, and is told the time with each event, so that the proxy and a simulation run the same decisions.
//
// Requests of one lane may share a batch and leave in the order in which they came. A lane is ready when it has
// MaxSize rows, or when its oldest request has waited for MaxWait; of the ready lanes the one whose oldest request
// came first is next. While no replica is free the caller does not ask for a batch, and lanes fill up: an overloaded
// model gets full batches. R is what the caller queues.
type Batcher[R any] struct {
	rule  Rule
	lanes map[string]*lane[R]
	full  []*lane[R] // those with MaxSize rows or more, in no order
	// alone has the lanes whose requests turned out not to share a batch well, and until when that is remembered.
	alone  map[string]time.Time
	all    chain[R]
	queued int
	came   uint64
}

// Entry is one request in the queue.
type Entry[R any] struct {
	Request R
	Items   int // rows
	Arrived time.Time

	seq   uint64 // order of arrival
	lane  *lane[R]
	links [2]links[R] // in the chain of all and in the lane's
}

type lane[R any] struct {
	chain[R]
	name    string
	maxSize int
	items   int
	full    int // index in Batcher.full, -1 if not there
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
)

// Batch is what leaves together.
type Batch[R any] struct {
	Entries []*Entry[R]
	Items   int    // rows
	Reason  string // full, max_wait, drain or oversize
}

// maxAlone bounds the memory for lanes that are not batched.
const maxAlone = 1024

// NewBatcher returns an empty queue.
func NewBatcher[R any](rule Rule) *Batcher[R] {
	return &Batcher[R]{rule: rule, lanes: make(map[string]*lane[R]), alone: make(map[string]time.Time)}
}

// Len is the number of requests in the queue.
func (b *Batcher[R]) Len() int { return b.queued }

// Arrive queues a request of so many rows. It returns nil where the queue is full.
func (b *Batcher[R]) Arrive(now time.Time, name []byte, items int, request R) *Entry[R] {
	if b.queued >= b.rule.MaxQueue {
		return nil
	}
	b.came++
	e := &Entry[R]{Request: request, Items: items, Arrived: now, seq: b.came}
	l := b.lanes[string(name)]
	if l == nil {
		l = b.open(now, string(name))
	}
	b.insert(l, e)
	return e
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
		l := b.lanes[string(name)]
		if l == nil {
			l = b.open(now, string(name))
		}
		b.insert(l, e)
	}
}

// Alone makes the lane send each request by itself until the time given.
func (b *Batcher[R]) Alone(name []byte, until time.Time) {
	if len(b.alone) >= maxAlone {
		clear(b.alone)
	}
	b.alone[string(name)] = until
	if l := b.lanes[string(name)]; l != nil {
		l.maxSize = 1
		b.mark(l)
	}
}

// Next is the batch to send now, for a caller that has a free replica. With flush nothing is held for others.
func (b *Batcher[R]) Next(now time.Time, flush bool) (Batch[R], bool) {
	if b.all.first == nil {
		return Batch[R]{}, false
	}
	// The oldest request of all is due before any other, and its lane's is older than that of any full lane.
	l, reason := b.all.first.lane, "max_wait"
	if now.Sub(b.all.first.Arrived) < b.rule.MaxWait {
		reason = "drain"
		if !flush {
			if l = b.oldestFull(); l == nil {
				return Batch[R]{}, false
			}
		}
	}
	if l.full >= 0 {
		reason = "full"
	}
	var batch Batch[R]
	for e := l.first; e != nil && (len(batch.Entries) == 0 || batch.Items+e.Items <= l.maxSize); e = l.first {
		b.remove(e)
		batch.Entries = append(batch.Entries, e)
		batch.Items += e.Items
	}
	if batch.Items > b.rule.MaxSize {
		reason = "oversize"
	}
	batch.Reason = reason
	return batch, true
}

// Expired takes out the requests that have waited for longer than the timeout.
func (b *Batcher[R]) Expired(now time.Time) []*Entry[R] {
	var expired []*Entry[R]
	for e := b.all.first; e != nil && now.Sub(e.Arrived) >= b.rule.Timeout; e = b.all.first {
		b.remove(e)
		expired = append(expired, e)
	}
	return expired
}

// Wake is when to ask again without another event: when a request is due, if a replica is free, or expires. It is zero
// where nothing is queued.
func (b *Batcher[R]) Wake(free bool) time.Time {
	switch {
	case b.all.first == nil:
		return time.Time{}
	case free && b.rule.MaxWait < b.rule.Timeout:
		return b.all.first.Arrived.Add(b.rule.MaxWait)
	default:
		return b.all.first.Arrived.Add(b.rule.Timeout)
	}
}

func (b *Batcher[R]) open(now time.Time, name string) *lane[R] {
	l := &lane[R]{chain: chain[R]{which: ofLane}, name: name, maxSize: b.rule.MaxSize, full: -1}
	if until, ok := b.alone[name]; ok {
		if now.Before(until) {
			l.maxSize = 1
		} else {
			delete(b.alone, name)
		}
	}
	b.lanes[name] = l
	return l
}

func (b *Batcher[R]) oldestFull() *lane[R] {
	var oldest *lane[R]
	for _, l := range b.full {
		if oldest == nil || l.first.seq < oldest.first.seq {
			oldest = l
		}
	}
	return oldest
}

func (b *Batcher[R]) insert(l *lane[R], e *Entry[R]) {
	e.lane = l
	b.queued++
	l.items += e.Items
	b.all.insert(e)
	l.insert(e)
	b.mark(l)
}

func (b *Batcher[R]) remove(e *Entry[R]) {
	l := e.lane
	e.lane = nil
	b.queued--
	l.items -= e.Items
	b.all.remove(e)
	l.remove(e)
	b.mark(l)
	if l.first == nil {
		delete(b.lanes, l.name)
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

// mark keeps the list of full lanes true.
func (b *Batcher[R]) mark(l *lane[R]) {
	switch full := l.first != nil && l.items >= l.maxSize; {
	case full && l.full < 0:
		l.full = len(b.full)
		b.full = append(b.full, l)
	case !full && l.full >= 0:
		last := b.full[len(b.full)-1]
		b.full[l.full], last.full = last, l.full
		b.full[len(b.full)-1] = nil
		b.full = b.full[:len(b.full)-1]
		l.full = -1
	}
}
