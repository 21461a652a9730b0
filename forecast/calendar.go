package forecast

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Event is something that comes at times that are known before and changes demand while it is on, such as a launch, a
// holiday or a batch job.
type Event struct {
	// Name is for the explanation, and by it what was learned is found again after a restart.
	Name string
	// Lift is what demand is while it is on over what it is without it, before that was seen: 1.5 is half more, 0.5 half of
	// it. 0 or 1 is for an event of which nothing is known. At most 20.
	Lift float64
	// Occurrences are when it is on: those that overlap the time from from to to, without to, in order. The same question has
	// the same answer always, for times in the past and to come. Nil is an event that never is.
	Occurrences func(from, to time.Time) []Occurrence
}

// Occurrence is once that an event is on: from Start to End, without End. The value of a step counts as that of the time
// from it to the next step; one that an occurrence covers in part has that share of the event.
type Occurrence struct{ Start, End time.Time }

// EventLift says of an event what was learned of it.
type EventLift struct {
	Name string
	// Lift is what demand is while it is on over what it is without it, from 0 to 20; Prior is what it was said to be.
	Lift, Prior float64
	// Occurrences is how many of them were seen, with values before and in them.
	Occurrences int
}

const (
	maxEvents  = 16
	maxLift    = 20
	eventBlock = 256 // steps for which occurrences are asked at once
	// longestOccurrence is how many steps of an occurrence count for its lift: of a longer one nobody knows what demand
	// were without it.
	longestOccurrence = 512
	// mostOccurrences bounds what one block may have.
	mostOccurrences = 1024
	// fading is what an occurrence counts for beside the next one: half in three. The prior counts as one before all others.
	fading = 0.8
	// unknownPrior is what the prior counts for where nothing was said.
	unknownPrior = 0.25
	// confidence is how many steps of an occurrence weigh as much as what is known from those before it.
	confidence = 4
	// least is the factor below which a value says nothing of what demand is without the event.
	least = 0.05
)

func checkEvents(events []Event) error {
	var errs []error
	if len(events) > maxEvents {
		errs = append(errs, fmt.Errorf("%d events: %d at most", len(events), maxEvents))
	}
	names := map[string]bool{}
	for _, e := range events {
		if e.Name == "" || names[e.Name] {
			errs = append(errs, fmt.Errorf("event %q: each has a name of its own", e.Name))
		}
		names[e.Name] = true
		if !(e.Lift >= 0 && e.Lift <= maxLift) {
			errs = append(errs, fmt.Errorf("event %q: lift %v: it is from 0 to %d", e.Name, e.Lift, maxLift))
		}
	}
	return errors.Join(errs...)
}

// calendar knows which share of a step each event has. It asks for occurrences by blocks of steps and keeps the last ones.
type calendar struct {
	events      []Event
	step, phase int64
	blocks      [4]calendarBlock
}

type calendarBlock struct {
	known bool
	index int64
	any   bool
	// share and first have eventBlock entries an event: how much of a step it has, and the first step of the occurrence.
	share []float32
	first []int64
}

// at moves the calendar to steps at another phase.
func (c *calendar) at(step, phase int64) {
	c.step, c.phase = step, phase
	for i := range c.blocks {
		c.blocks[i].known = false
	}
}

func (c *calendar) block(k int64) *calendarBlock {
	index := floorDiv(k, eventBlock)
	b := &c.blocks[index&3]
	if !b.known || b.index != index {
		c.fill(b, index)
	}
	return b
}

func (c *calendar) fill(b *calendarBlock, index int64) {
	if b.share == nil {
		b.share, b.first = make([]float32, eventBlock*len(c.events)), make([]int64, eventBlock*len(c.events))
	}
	clear(b.share)
	b.known, b.index, b.any = true, index, false
	base := index * eventBlock
	from, to := time.UnixMilli(c.phase+base*c.step).UTC(), time.UnixMilli(c.phase+(base+eventBlock)*c.step).UTC()
	for i, e := range c.events {
		if e.Occurrences == nil {
			continue
		}
		found := e.Occurrences(from, to)
		for _, o := range found[:min(len(found), mostOccurrences)] {
			start, end := o.Start.UnixMilli()-c.phase, o.End.UnixMilli()-c.phase
			if end <= start {
				continue
			}
			first := floorDiv(start, c.step)
			for k := max(first, base); k < base+eventBlock && k*c.step < end; k++ {
				covered := min(end, (k+1)*c.step) - max(start, k*c.step)
				j := i*eventBlock + int(k-base)
				b.share[j] = min(b.share[j]+float32(float64(covered)/float64(c.step)), 1)
				b.first[j] = first
				b.any = true
			}
		}
	}
}

// share is how much of step k event i has, from 0 to 1, and the first step of that occurrence.
func (c *calendar) share(i int, k int64) (share float64, first int64) {
	b := c.block(k)
	if !b.any {
		return 0, 0
	}
	j := i*eventBlock + int(k-b.index*eventBlock)
	return float64(b.share[j]), b.first[j]
}

// lift is what is known of an event.
type lift struct {
	prior       float64
	known       bool // the prior
	sum, weight float64
	faded       float64 // of the prior
	seen        int64

	// The occurrence that is on, if open: its first step, what demand was forecast to be without the event, and what was
	// there over that, weighted by the share: Σ s(y-b) over Σ s²b is the lift less 1.
	open      bool
	first     int64
	base      []float64
	over, all float64
	n         int64
	whole     float64 // the shares of its steps, and of those with values
	there     float64
	done      int64 // the first step of an occurrence that is closed though it goes on
}

func newLift(e Event) lift {
	l := lift{prior: e.Lift, known: e.Lift != 0 && e.Lift != 1, faded: 1, done: math.MinInt64}
	if e.Lift == 0 {
		l.prior = 1
	}
	return l
}

// learned is the mean of the occurrences that are over.
func (l *lift) learned() float64 {
	w := l.faded
	if !l.known {
		w *= unknownPrior
	}
	return (w*l.prior + l.sum) / (w + l.weight)
}

// now is the lift of the occurrence that is on.
func (l *lift) now() float64 {
	v := l.learned()
	if !l.open || !(l.all > 0) || l.n == 0 {
		return v
	}
	w := confidence * l.all / float64(l.n)
	return bounded(1+(w*(v-1)+l.over)/(w+l.all), 0, maxLift)
}

// close ends the occurrence and learns from it, unless nothing of it was seen.
func (l *lift) close() {
	if l.open && l.all > 0 && l.there > 0 {
		seen := bounded(l.there/l.whole, 0, 1) // half of an occurrence counts for half
		fade := 1 - (1-fading)*seen
		l.sum = fade*l.sum + seen*bounded(1+l.over/l.all, 0, maxLift)
		l.weight = fade*l.weight + seen
		l.faded *= fade
		l.seen++
	}
	l.drop()
}

// drop ends the occurrence and learns nothing.
func (l *lift) drop() {
	l.open, l.base, l.over, l.all, l.n, l.whole, l.there = false, l.base[:0], 0, 0, 0, 0, 0
}

func bounded(v, lo, hi float64) float64 {
	if !(v >= lo) { // NaN too
		return lo
	}
	return min(v, hi)
}
