package batchproxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxSlot and maxSlots are the window of a maximum: the last 50 to 60 s. A scrape a minute misses no more than a sixth of it.
	maxSlot  = 10 * time.Second
	maxSlots = 6
	// tookBits are those of a slot that have a duration in microseconds, twelve days at most; above them is the number of the slot.
	tookBits = 40
)

// slidingMax is the largest duration of the last minute. A slot only ever grows, since a later slot has a larger number: taking a
// duration that is not the largest of its slot reads one word and writes none.
type slidingMax struct{ slots [maxSlots]atomic.Uint64 }

// take takes a duration that ended so long after the beginning of time.
func (m *slidingMax) take(at, took time.Duration) {
	number := uint64(max(at, 0)/maxSlot) + 1 // 0 is a slot that has none
	v := number<<tookBits | uint64(min(max(took.Microseconds(), 0), 1<<tookBits-1))
	slot := &m.slots[number%maxSlots]
	for old := slot.Load(); v > old && !slot.CompareAndSwap(old, v); {
		old = slot.Load()
	}
}

// of is the largest that there was until so long after the beginning of time; not ok where there was none in the window.
func (m *slidingMax) of(at time.Duration) (largest time.Duration, ok bool) {
	number := uint64(max(at, 0)/maxSlot) + 1
	for i := range m.slots {
		v := m.slots[i].Load()
		if n := v >> tookBits; n == 0 || n+maxSlots <= number {
			continue
		}
		largest, ok = max(largest, time.Duration(v&(1<<tookBits-1))*time.Microsecond), true
	}
	return largest, ok
}

// maxVec are the maxima of a family. It is a prometheus.Collector: one without a duration in its window has no series, as 0 would say
// that answers took no time.
type maxVec struct {
	desc  *prometheus.Desc
	began time.Time

	mu    sync.Mutex
	known map[[3]string]*slidingMax // by model, protocol and class
}

func newMaxVec(name, help string) *maxVec {
	return &maxVec{
		desc:  prometheus.NewDesc(name, help, []string{"model", "protocol", "class"}, nil),
		began: time.Now(), known: map[[3]string]*slidingMax{},
	}
}

// with is the maximum of these labels, as a function that takes a duration and when it ended.
func (v *maxVec) with(model, protocol, class string) func(at time.Time, took time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	of := [3]string{model, protocol, class}
	m := v.known[of]
	if m == nil {
		m = &slidingMax{}
		v.known[of] = m
	}
	return func(at time.Time, took time.Duration) { m.take(at.Sub(v.began), took) }
}

// DeletePartialMatch forgets those of a model.
func (v *maxVec) DeletePartialMatch(labels prometheus.Labels) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := len(v.known)
	maps.DeleteFunc(v.known, func(of [3]string, _ *slidingMax) bool { return of[0] == labels["model"] })
	return before - len(v.known)
}

// Describe implements prometheus.Collector.
func (v *maxVec) Describe(ch chan<- *prometheus.Desc) { ch <- v.desc }

// Collect implements prometheus.Collector.
func (v *maxVec) Collect(ch chan<- prometheus.Metric) {
	for _, m := range v.metrics(time.Now()) {
		ch <- m
	}
}

func (v *maxVec) metrics(now time.Time) []prometheus.Metric {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []prometheus.Metric
	for of, m := range v.known {
		if largest, ok := m.of(now.Sub(v.began)); ok {
			all = append(all, prometheus.MustNewConstMetric(v.desc, prometheus.GaugeValue, largest.Seconds(), slices.Clone(of[:])...))
		}
	}
	return all
}

const longestHelp = "The longest time from a request's arrival to its answer, of those answered in the last 50 to 60 seconds: exact, of no bucket. Absent where none was."
