package gpu

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// A worker tells how long the calls into NVML took by call and bucket: how many there were and how long they took together.
// That is bounded by how many calls there were, and the parent loses nothing by it: its native histogram has the same buckets. The
// classic ones beside it are wider, and may have calls about as long as a bound on the other side of it.

// callTimes are calls that took about as long.
type callTimes struct {
	Count uint64  `json:"n"`
	Sum   float64 `json:"s"` // seconds
}

// callBuckets are by the exponent of a bucket's upper bound: 2^(exponent/8) seconds, which is schema 3 of native histograms.
type callBuckets map[int]callTimes

// Bounds of what a parent takes of that.
const (
	maxCallCount = 100_000 // calls between two frames: 64 GPUs take less than 20,000
	minCallBound = -240    // exponent: a nanosecond
	maxCallBound = 80      // likewise: a thousand seconds, and what is longer
	maxCallTime  = 24 * time.Hour
)

// callBound returns the exponent of the bucket.
func callBound(took time.Duration) int {
	if took <= 0 {
		return minCallBound
	}
	return min(max(int(math.Ceil(8*math.Log2(took.Seconds()))), minCallBound), maxCallBound)
}

// fits reports whether there are calls that took as long as the bucket says.
func (c callTimes) fits(bound int) bool {
	if c.Count == 0 || bound < minCallBound || bound > maxCallBound {
		return false
	}
	// As much below and above the bounds of the bucket as rounding makes it.
	lowest, highest := 0.99*math.Exp2(float64(bound-1)/8), 1.01*math.Exp2(float64(bound)/8)
	switch bound {
	case minCallBound:
		lowest = 0
	case maxCallBound:
		highest = maxCallTime.Seconds()
	}
	mean := c.Sum / float64(c.Count)
	return lowest <= mean && mean <= highest
}

// stopwatch takes how long calls take, of several goroutines. A nil one takes nothing.
type stopwatch struct {
	mu   sync.Mutex
	took map[string]callBuckets // by call
}

// start returns when a call begins.
func (s *stopwatch) start() time.Time {
	if s == nil {
		return time.Time{}
	}
	return time.Now()
}

// stop notes that a call has ended.
func (s *stopwatch) stop(call string, began time.Time) {
	if s == nil {
		return
	}
	s.note(call, time.Since(began))
}

func (s *stopwatch) note(call string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.took == nil {
		s.took = map[string]callBuckets{}
	}
	if s.took[call] == nil {
		s.took[call] = callBuckets{}
	}
	bound := callBound(took)
	c := s.took[call][bound]
	s.took[call][bound] = callTimes{c.Count + 1, c.Sum + took.Seconds()}
}

// lap returns what was taken since the last call.
func (s *stopwatch) lap() map[string]callBuckets {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	took := s.took
	s.took = nil
	return took
}

// saneCalls leaves of what a worker says of its calls what can be.
func saneCalls(said map[string]callBuckets) map[string]callBuckets {
	room := uint64(maxCallCount)
	for call, buckets := range said {
		if _, known := slices.BinarySearch(symbols[:], call); !known {
			delete(said, call)
			continue
		}
		for bound, c := range buckets {
			if c.Count > room || !c.fits(bound) {
				delete(buckets, bound)
				continue
			}
			room -= c.Count
		}
		if len(buckets) == 0 {
			delete(said, call)
		}
	}
	return said
}

var callFamily = exporter.Family{
	Name: "flyball_nvml_call_duration_seconds", Type: "histogram", Collector: "gpu", Labels: []string{"call"},
	Help: "How long calls into NVML took, by function; where asked for. A call that hangs has no end and is not among them. The waits for errors (XIDs) are not either.",
}

// callDurations is the histogram of what workers say of their calls; nil where that is not asked for.
type callDurations struct{ vec *prometheus.HistogramVec }

func newCallDurations(on bool) *callDurations {
	if !on {
		return nil
	}
	return &callDurations{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: callFamily.Name, Help: callFamily.Help,
		Buckets:                     []float64{1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10},
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
	}, callFamily.Labels)}
}

// observe takes in what a worker said.
func (d *callDurations) observe(said map[string]callBuckets) {
	if d == nil {
		return
	}
	for call, buckets := range said {
		h := d.vec.WithLabelValues(call)
		for _, c := range buckets {
			mean := c.Sum / float64(c.Count) // of a bucket that is the native histogram's too: it counts there as each of them would, and sums up to their sum
			for range c.Count {
				h.Observe(mean)
			}
		}
	}
}

// metrics returns one for each call that was made.
func (d *callDurations) metrics() (list []prometheus.Metric) {
	if d == nil {
		return nil
	}
	metrics := make(chan prometheus.Metric, len(symbols)) // there are no more, so nothing waits
	d.vec.Collect(metrics)
	close(metrics)
	for m := range metrics {
		list = append(list, m)
	}
	return list
}
